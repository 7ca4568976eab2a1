#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/bench_nvme.sh - `strata bench nvme`: fields, nothing wrong, nothing left behind, bad input
# refused; how fast the drive is does not matter here.
# shellcheck source-path=SCRIPTDIR source=cli_util.sh
. "$(dirname "${BASH_SOURCE[0]}")/cli_util.sh" "$@"
bench=("$strata" bench nvme)
mkdir drive drive2
small=(--path drive --size 16MiB --depth 8 --seconds 0.1)

# empty DIR...: nothing is left there.
empty() {
	local dir

	for dir; do
		[ -z "$(ls -A "$dir")" ] || fail "$dir is not empty: $(ls -A "$dir")"
	done
}

# rows N: out.txt is an array of N objects, one a line, each with the fields that scripts read.
rows() {
	head -n 1 out.txt | grep -qx '\[' || fail 'no array'
	tail -n 1 out.txt | grep -qx '\]' || fail 'the array does not end'
	sed -n 's/^\({.*}\),*$/\1/p' out.txt >rows.txt
	[ "$(wc -l <rows.txt)" = "$1" ] || fail "not $1 rows: $(cat out.txt)"
	while read -r row; do
		echo "$row" >row.txt
		for key in gbps iops p50_us p99_us cpu_s_per_gb; do
			value - $key row.txt | grep -Eq '^[0-9.]+(e-?[0-9]+)?$' || fail "$key in $row"
		done
		[ "$(value - wrong row.txt)" = 0 ] || fail "wrong in $row"
	done <rows.txt
}

# ---- what it prints --------------------------------------------------------------------------

run 0 "${bench[@]}" "${small[@]}"
has out.txt '^op +block +depth .* rate .* #wrong$'
has out.txt '^ .* GB/s .* us .* s/GB +s/GB +blocks$'
for op in read write mixed; do
	has out.txt "^$op +1 MiB +8 +seq +(io_uring|threads) +store +1 +[0-9.]+ .* 0\$"
done
has out.txt '^# wrong blocks: 0'
[ ! -s err.txt ] || [ "$(grep -vc '^# ' err.txt)" = 0 ] || fail "stderr: $(cat err.txt)"

run 0 "${bench[@]}" "${small[@]}" --json --block 256KiB,1MiB --no-checksum
rows 6
for op in read write mixed; do
	[ "$(grep -c "\"op\":\"$op\"" rows.txt)" = 2 ] || fail "not two rows of $op"
done
[ "$(grep -c '"checksum_s_per_gb":null' rows.txt)" = 6 ] || fail 'checksums with --no-checksum'

run 0 "${bench[@]}" "${small[@]}" --path drive2 --json --block 4096 --pattern random --op read \
	--backend threads
rows 1
has rows.txt '"block":4096,.*"backend":"threads","via":"aio","paths":\["drive","drive2"\]'

run 0 "${bench[@]}" "${small[@]}" --csv --op mixed --svg plot.svg
[ "$(head -n 1 out.txt | tr ',' '\n' | grep -c .)" = \
	"$(tail -n 1 out.txt | tr ',' '\n' | grep -c .)" ] || fail 'CSV: fields and titles differ'
has out.txt '^"mixed",1048576,8,"seq",'
has plot.svg '^<svg .*viewBox'
has plot.svg '^</svg>$'
rm plot.svg
empty drive drive2

# ---- beside fio ------------------------------------------------------------------------------

if command -v fio >/dev/null; then
	run 0 "${bench[@]}" "${small[@]}" --path drive2 --seconds 0.5 --json --with-fio --op mixed
	rows 1
	for key in fio_gbps ratio_to_fio fio_cpu_s_per_gb; do
		value - $key rows.txt | grep -Eq '^[0-9.]+(e-?[0-9]+)?$' || fail "$key: $(cat rows.txt)"
	done
	empty drive drive2
else
	note 'fio is not installed: nothing was compared with it'
fi
refused 2 'fio cannot be started .*install it' env PATH=/nowhere "${bench[@]}" "${small[@]}" \
	--with-fio

# ---- signals ---------------------------------------------------------------------------------

# stopped SIGNAL CODE COMMAND...: by a signal that comes once it has begun.
stopped() {
	local got=0 want=$2 sig=$1 pid

	shift 2
	# a shell starts what runs in the background with SIGINT ignored
	perl -e '$SIG{INT} = "DEFAULT"; exec @ARGV' "$@" >out.txt 2>err.txt &
	pid=$!
	for ((i = 0; i < 200; i++)); do
		[ -n "$(find drive -type f -size +0)" ] && break
		sleep 0.05
	done
	kill "-$sig" $pid
	wait $pid || got=$?
	[ $got = "$want" ] || fail "exit code $got in place of $want after SIG$sig: $(cat err.txt)"
	has err.txt "^strata: stopped by SIG$sig; nothing is left behind"
	empty drive
}
stopped INT 130 "${bench[@]}" --path drive --size 64MiB --depth 8 --seconds 60 --json
has out.txt '\]$'
if command -v fio >/dev/null; then
	stopped TERM 143 "${bench[@]}" --path drive --size 64MiB --depth 8 --seconds 60 --with-fio
fi

# ---- what is refused -------------------------------------------------------------------------

refused 2 '--path is missing' "${bench[@]}"
refused 2 'nowhere' "${bench[@]}" --path nowhere --size 16MiB --depth 8
refused 2 'nowhere' "${bench[@]}" --path nowhere --size 16MiB --depth 8 --block 4KiB
touch text.txt
refused 2 'text.txt' "${bench[@]}" --path text.txt --size 16MiB --depth 8
refused 2 '--size: 0 is out of range' "${bench[@]}" --path drive --size 0
refused 2 '--size: "1 potato" is no size' "${bench[@]}" --path drive --size '1 potato'
refused 2 '--size 1048576 is too small' "${bench[@]}" --path drive --size 1MiB
refused 2 '--block: "5000": must be a multiple of 4096' "${bench[@]}" --path drive --block 5000
refused 2 '--block: "": must be' "${bench[@]}" --path drive --block 1MiB,
refused 2 '--block: "128MiB": must be' "${bench[@]}" --path drive --block 128MiB
refused 2 '--depth: 0 is out of range' "${bench[@]}" --path drive --depth 0
refused 2 '--backend: "libaio" is none of auto, io_uring, threads' "${bench[@]}" --path drive \
	--backend libaio
refused 2 '--json and --csv: choose one' "${bench[@]}" "${small[@]}" --json --csv
mkfifo pipe.svg
refused 2 'pipe.svg cannot be written' "${bench[@]}" "${small[@]}" --svg pipe.svg
rm pipe.svg
ln -s loop.svg loop.svg
refused 2 'loop.svg cannot be written .Too many levels of symbolic links' "${bench[@]}" "${small[@]}" --svg loop.svg
ln -sf nowhere/plot.svg loop.svg
refused 2 'loop.svg cannot be written: it is a link that leads nowhere' "${bench[@]}" "${small[@]}" --svg loop.svg
rm loop.svg
refused 2 'drive cannot be written: it is a directory' "${bench[@]}" "${small[@]}" --svg drive
[ ! -d /proc/self ] || refused 2 '/proc/plot.svg cannot be written' "${bench[@]}" "${small[@]}" --svg /proc/plot.svg
refused 2 'nowhere/plot.svg' "${bench[@]}" "${small[@]}" --svg nowhere/plot.svg
run 3 "${bench[@]}" --path drive --size 1000TiB --block 64MiB --depth 1
grep -q '^strata: .*drive.* free' err.txt || fail "no room: $(cat err.txt)"
if [ "$(id -u)" -eq 0 ]; then
	run 2 "${bench[@]}" --path /proc --size 16MiB --depth 8
	run 2 "${bench[@]}" --path /proc --size 16MiB --depth 8 --block 4KiB
fi
empty drive drive2

finish
