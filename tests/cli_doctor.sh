#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/cli_doctor.sh - strata doctor: what it says of this machine, of paths that are no good, of
# limits that this test puts on it, and of a configuration's needs; and that it leaves nothing.
# shellcheck source-path=SCRIPTDIR source=cli_util.sh
. "$(dirname "${BASH_SOURCE[0]}")/cli_util.sh" "$@"
set_up
doctor=("$strata" doctor)
quick=("${doctor[@]}" --no-measure)

# fact NAME [FILE]: its mark and text, of the plain report.
fact() {
	sed -n "s#^  \(ok  \|warn\|FAIL\)  $1  *\(.*\)#\1 \2#p" "${2-out.txt}"
}

# says NAME PATTERN
says() {
	fact "$1" | grep -Eq -- "$2" || {
		fail "doctor does not say of $1: $2"
		sed 's/^/    /' out.txt >&2
	}
}

# ---- this machine, measured ----------------------------------------------------------------------

before=$(find . | sort)
run 0 "${doctor[@]}" --path nvme
[ "$before" = "$(find . -not -name out.txt -not -name err.txt | sort)" ] || fail 'doctor left a file'
[ ! -s err.txt ] || fail 'doctor writes to stderr'
grep -q '[^[:print:]]' out.txt && fail 'doctor prints control bytes into a file'
says kernel "^ok   Linux $(uname -r)"
says cpu '.'
says cores "^ok   $(nproc) usable of "
says ram 'GiB available|MiB available'
says 'cgroup limit' '.'
says memlock '.'
says io_uring '.'
says cuda '.'
says 'cuda device' '.'
says directory '^ok   writable'
says 'file system' " $(stat -f -c %T nvme | sed 's/ext2\/ext3/ext4/')|ext4| on "
says space 'free of'
says 'direct I/O' '.'
says write '^(ok  |warn) [0-9.]+ GB/s'
says read '^(ok  |warn) [0-9.]+ GB/s'
has out.txt '^training can run here'
# Each warning has one line of advice, and the last line counts them.
warnings=$(grep -c '^  warn  ' out.txt)
[ "$(grep -c '^        -> ' out.txt)" = "$warnings" ] || fail 'not one line of advice for each warning'
[ "$warnings" = 0 ] || has out.txt "^training can run here: $warnings warnings?\$"

run 0 "${quick[@]}" --json
value - can_train out.txt | grep -qx true || fail 'JSON: can_train is not true'
value - facts out.txt >facts.txt
has facts.txt '"name":"kernel","mark":"ok","text":"Linux [^"]*","advice":null'
has facts.txt '"name":"space"[^}]*"free_bytes":[0-9]+'
grep -q '"gbps"' facts.txt && fail 'rates in spite of --no-measure'
rm facts.txt

# On a terminal there is colour, unless it is not wanted.
if command -v script >/dev/null; then
	TERM=xterm script -qec "$strata doctor --no-measure" /dev/null >out.txt
	grep -q $'\033\\[32mok' out.txt || fail 'no colour on a terminal'
	NO_COLOR=1 TERM=xterm script -qec "$strata doctor --no-measure" /dev/null >out.txt
	grep -q $'\033' out.txt && fail 'colour in spite of NO_COLOR'
fi

# ---- paths that are no good ----------------------------------------------------------------------

run 2 "${quick[@]}" --path nowhere --path text.txt --path nvme
has out.txt '^  FAIL  directory +No such file or directory$'
has out.txt '^        -> create it, or name another$'
has out.txt '^  FAIL  directory +Not a directory$'
says directory '^ok   writable'
has out.txt '^training CANNOT run here: 2 failures'
run 2 "${quick[@]}" --json --path nowhere
value - can_train out.txt | grep -qx false || fail 'JSON: can_train is not false'
value - failures out.txt | grep -qx 1 || fail 'JSON: not one failure'
mkdir $'new\nline\033[31m'
run 0 "${quick[@]}" --path $'new\nline\033[31m'
grep -q $'\033' out.txt && fail 'a name with control bytes reaches the terminal'
has out.txt '^path new\?line\?\[31m$'

# ---- a configuration -----------------------------------------------------------------------------

run 0 "${quick[@]}" c.json
has out.txt '^path nvme$'
says valid '221 k parameters'
says disk '^ok   [0-9.]+ MiB needed on nvme'
says memory '^ok   [0-9.]+ MiB needed'
run 2 "${quick[@]}" c.json --set strata.host.memory=4096
says budgets '^FAIL .*host'
has out.txt '^training CANNOT run here'
run 2 "${quick[@]}" c.json --set strata.stpes=3
says valid '^FAIL .*strata.stpes'
run 2 "${quick[@]}" nowhere.json
says valid '^FAIL nowhere.json'
run 2 "${quick[@]}" c.json --set strata.data.train=nowhere.txt
says valid '^FAIL .*nowhere.txt'
refused 2 'unknown option --jsn' "${doctor[@]}" --jsn
refused 2 'one argument too many' "${doctor[@]}" c.json c.json

# ---- limits --------------------------------------------------------------------------------------

# io_uring denied by a filter: EPERM for its first call, as container runtimes do it.
if [ "$(uname -m)" = x86_64 ]; then
	cat >deny.pl <<-'END'
		# A filter of four instructions: load the call's number; io_uring_setup? EPERM; allow.
		my @f = ([0x20, 0, 0, 0], [0x15, 0, 1, 425], [0x06, 0, 0, 0x00050001], [0x06, 0, 0, 0x7fff0000]);
		my $code = join '', map { pack 'SCCL', @$_ } @f;
		my $prog = pack 'Sx![Q]Q', scalar @f, unpack 'Q', pack 'P', $code;
		syscall(157, 38, 1, 0, 0, 0) == 0 or exit 77; # PR_SET_NO_NEW_PRIVS
		syscall(157, 22, 2, $prog, 0, 0) == 0 or exit 77; # PR_SET_SECCOMP, a filter
		exec @ARGV or exit 77;
	END
	perl deny.pl "${quick[@]}" >out.txt 2>err.txt
	got=$?
	if [ $got -eq 77 ]; then
		note 'io_uring denied by seccomp: skipped, no filter can be set here'
	else
		[ $got -eq 0 ] || fail "io_uring denied: exit code $got"
		says io_uring '^warn io_uring .*Operation not permitted'
		has out.txt '^        -> (a seccomp filter stands in the way|switched off|kept for)'
	fi
fi

# A low limit of locked memory counts once CAP_IPC_LOCK is gone.
if setpriv --bounding-set -ipc_lock --inh-caps -ipc_lock true 2>/dev/null; then
	# shellcheck disable=SC2016 # the inner shell's
	run 0 setpriv --bounding-set -ipc_lock --inh-caps -ipc_lock \
		bash -c 'ulimit -l 64 && exec "$@"' bash "${quick[@]}" c.json
	says memlock '^warn limit 64.0 KiB'
	says memlock '^warn [0-9.]+ MiB needed, 64.0 KiB allowed'
fi

# A file system in memory, nearly full; then one that is mounted read-only.
mkdir small
if mount -t tmpfs -o size=8m tmpfs small 2>/dev/null; then
	mounts+=("$work/small")
	run 0 "${doctor[@]}" --path small
	says 'file system' '^warn tmpfs'
	says space '^warn 8.0 MiB free'
	says rates '^warn not measured'
	run 2 "${quick[@]}" c.json --set zero_optimization.offload_param.nvme_path=small \
		--set zero_optimization.offload_optimizer.nvme_path=small
	says disk '^FAIL [0-9.]+ MiB needed on small, 8.0 MiB free'
	mount -o remount,ro small
	run 2 "${quick[@]}" --path small
	says directory '^FAIL not writable: Read-only file system'
	mount -o remount,rw,size=80m small
	run 0 "${doctor[@]}" --path small # too small for the usual depth
	says read '^(ok  |warn) [0-9.]+ GB/s'
	# The kernel lets go of a ring's files a little after its process has ended.
	for ((i = 0; i < 50; i++)); do
		umount small 2>/dev/null && { mounts=(); break; }
		sleep 0.1
	done
else
	note 'file systems in memory: skipped, mounting is not allowed here'
fi

finish
