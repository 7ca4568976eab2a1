#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/bench_optim.sh - `strata bench optim`: fields, the same bits as the scalar reference, bad
# input refused; how fast the machine is does not matter here.
# shellcheck source-path=SCRIPTDIR source=cli_util.sh
. "$(dirname "${BASH_SOURCE[0]}")/cli_util.sh" "$@"
bench=("$strata" bench optim)
small=(--params 150001 --seconds 0.2)

# number KEY: it stands in row.txt, and is above 0.
number() {
	value - "$1" row.txt | awk '{ exit !($1 ~ /^[0-9.]+(e[-+]?[0-9]+)?$/ && $1 > 0) }' ||
		fail "$1 in $(cat row.txt)"
}

# rows FILE N: so many objects, one a line, each with the fields that scripts read.
rows() {
	[ "$(wc -l <"$1")" = "$2" ] || fail "not $2 rows: $(cat "$1")"
	while read -r row; do
		echo "$row" >row.txt
		for key in gparams_per_s ratio_to_four_pass cached_gparams_per_s rounds; do
			number $key
		done
		for key in params moments grads; do
			[ -n "$(value - $key row.txt)" ] || fail "$key in $row"
		done
		[ "$(value - wrong row.txt)" = 0 ] || fail "wrong in $row"
	done <"$1"
}

# ---- what it prints --------------------------------------------------------------------------

run 0 "${bench[@]}" "${small[@]}" --threads 2 --json --svg plot.svg
tr -d '\n' <out.txt >all.txt
echo >>all.txt
value - rmw_gbps all.txt | awk '{ exit !($1 > 0) }' || fail "rmw_gbps: $(cat all.txt)"
sed -n '/"formats":/,/"others":/s/^\({"params".*}\),*$/\1/p' out.txt >formats.txt
sed -n '/"others":/,$s/^\({"params".*}\),*$/\1/p' out.txt >others.txt
rows formats.txt 8
rows others.txt 24
while read -r row; do
	echo "$row" >row.txt
	for key in gbps rmw_gbps rmw_share ratio_to_update_alone; do
		number $key
	done
	[ "$(value - threads row.txt)" = 2 ] || fail "not all threads: $row"
	[ "$(value - elems row.txt)" = 150001 ] || fail "not all parameters: $row"
done <formats.txt
for moments in fp32 bf16 int8; do
	has formats.txt "\"params\":\"split\",\"moments\":\"$moments\",\"grads\":\"bf16\""
	has formats.txt "\"params\":\"fp32\",\"moments\":\"$moments\",\"grads\":\"fp32\""
done
has formats.txt '"params":"split","moments":"fp32","grads":"bf16","bytes_per_param":26(\.0)?,'
has formats.txt '"params":"split","moments":"bf16","grads":"bf16","bytes_per_param":18(\.0)?,'
has formats.txt '"params":"split","moments":"int8","grads":"bf16","bytes_per_param":14\.125,'
has plot.svg '^<svg .*viewBox'
has plot.svg '^</svg>$'
rm plot.svg

for optimizer in Adam Adagrad Lion SGD; do
	run 0 "${bench[@]}" --params 20000 --seconds 0 --threads 1 --csv --optimizer $optimizer
	[ "$(wc -l <out.txt)" = 17 ] || fail "$optimizer: not 17 lines: $(cat out.txt)"
	[ "$(grep -c ",\"$optimizer\"," out.txt)" = 16 ] || fail "$optimizer is not named"
	[ "$(head -n 1 out.txt | tr ',' '\n' | grep -c .)" = "$(tail -n 1 out.txt | tr ',' '\n' | wc -l)" ] ||
		fail 'CSV: fields and titles differ'
done

# one more size where the arrays are larger than 64 MiB: those with fp32 moments
run 0 "${bench[@]}" --params 5000000 --seconds 0 --threads 1
has out.txt '^params +moments +grads .* #wrong '
[ "$(grep -c ' 64 MiB ' out.txt)" = 4 ] || fail "not 4 rows of 64 MiB: $(cat out.txt)"
has out.txt '^# wrong elements: 0; memory [0-9.]+ GB/s'

run 0 env STRATA_ISA=scalar "${bench[@]}" --params 5000 --seconds 0 --threads 1 --json
has out.txt '^{"optimizer":"AdamW","isa":"scalar"'

# ---- what is refused -------------------------------------------------------------------------

refused 2 '--optimizer: "Adamw2" is none of AdamW, Adam, Adagrad, Lion, SGD' "${bench[@]}" \
	--optimizer Adamw2
refused 2 '--params: 0 is out of range' "${bench[@]}" --params 0
refused 2 '--params needs a whole number, not "64M"' "${bench[@]}" --params 64M
refused 2 '--threads: 0 is out of range' "${bench[@]}" --threads 0
refused 2 '--json and --csv: choose one' "${bench[@]}" "${small[@]}" --json --csv
refused 2 'nowhere/plot.svg' "${bench[@]}" "${small[@]}" --svg nowhere/plot.svg
refused 2 'STRATA_ISA=sse9: no such instruction set' env STRATA_ISA=sse9 "${bench[@]}" "${small[@]}"
refused 2 '--threads 8: OMP_THREAD_LIMIT allows 2' env OMP_THREAD_LIMIT=2 "${bench[@]}" "${small[@]}" \
	--threads 8
refused 3 '1000000000000 parameters need .* MiB are free: give --params [0-9]+ or less' "${bench[@]}" \
	--params 1000000000000

finish
