#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/cli_faults.sh - training on disks and in surroundings that fail, made of loop devices, tmpfs
# and limits. After each fault: the documented exit code, one line that names the place, and the last
# committed step intact, so that a resumed run ends with the state of an undisturbed one.
#
# Label: slow
# Timeout: 300
#
# Prints a line per recipe: ok, FAILED, or skip with the reason. RECIPES="a b" chooses. Most need root. A recipe that changes
# the machine (a limit of the kernel for io_uring) changes it back at once.
# Faults that need no root are in test_faults.c.
# shellcheck source-path=SCRIPTDIR source=cli_util.sh disable=SC2317,SC2086 # recipes are called by name
. "$(dirname "${BASH_SOURCE[0]}")/cli_util.sh" "$@"
set_up
export OMP_WAIT_POLICY=passive

sysctl=/proc/sys/kernel/io_uring_disabled
sysctl_was=''
pid=''
restore() {
	[ -z "$sysctl_was" ] || echo "$sysctl_was" >$sysctl
	kill -KILL "$pid" 2>/dev/null && wait "$pid" 2>/dev/null # a device in use stays
	release
	clean_up
}
trap restore EXIT

# ---- what recipes are made of ---------------------------------------------------------------------

# unmount DIR: a ring lets go of its files some time after its process ended.
unmount() {
	local i

	for ((i = 0; i < 100; i++)); do
		umount "$1" 2>/dev/null && return
		sleep 0.1
	done
	fail "umount $1"
	umount --lazy "$1"
}

release() {
	local mount

	for mount in "${mounts[@]+"${mounts[@]}"}"; do
		unmount "$mount"
	done
	mounts=()
}

skip() {
	skipped=$*
}

# tmpfs DIR SIZE
tmpfs() {
	mkdir -p "$1"
	mount -t tmpfs -o size="$2" tmpfs "$1" || return
	mounts=("$1" "${mounts[@]+"${mounts[@]}"}")
}

# attach IMAGE DIR [LOSETUP-OPTION]...: a loop device that goes away when it is unmounted.
attach() {
	local image=$1 dir=$2 device rc

	shift 2
	mkdir -p "$dir"
	device=$(losetup --find --show "$@" "$image") || return
	if ! blkid "$device" >/dev/null; then
		${mkfs:-mkfs.ext4} "$device" >mkfs.txt 2>&1 || cat mkfs.txt >&2
	fi
	mount "$device" "$dir"
	rc=$?
	losetup --detach "$device"
	[ $rc -ne 0 ] || mounts=("$dir" "${mounts[@]+"${mounts[@]}"}")
	return $rc
}

# paths DIR: the --set options that put the state into DIR.
paths() {
	path_opts=(--set "zero_optimization.offload_param.nvme_path=$1"
		--set "zero_optimization.offload_optimizer.nvme_path=$1")
}

# train CODE OUTPUT [OPTION]...: with path_opts.
train() {
	local code=$1 output=$2

	shift 2
	run "$code" "$strata" train c.json --output "$output" --progress json "${path_opts[@]}" "$@"
}

# same_state: the run just made ended where undisturbed ones end.
same_state() {
	cp out.txt same.txt
	[ "$(value 'done' state_hash same.txt)" = "$want" ] || fail "another state: $*"
}

# one_line PATTERN: of the run just made, the only line of failure.
one_line() {
	[ "$(grep -c '^strata: ' err.txt)" = 1 ] || {
		fail 'not exactly one line of failure'
		sed 's/^/    /' err.txt >&2
	}
	has err.txt "^strata: .*$1"
}

# signalled STEP OUTPUT SIGNAL [OPTION]...: a run with path_opts, which gets the signal once it has reported
# the step; sets pid.
signalled() {
	local step=$1 output=$2 signal=$3

	shift 3
	rm -f k.txt # what an earlier run wrote there must not count
	"$strata" train c.json --output "$output" --progress json "${path_opts[@]}" "$@" >k.txt 2>k.err &
	pid=$!
	wait_for k.txt "\"step\":$step," $pid
	kill "-$signal" $pid
}

# done_at_last DIR OUTPUT: resumed, the run ends as if nothing had happened.
done_at_last() {
	train 0 "$2" --resume
	same_state "$1"
	[ "$(value step step "$2/log.jsonl" | tr '\n' ' ')" = "$(seq -s ' ' 20) " ] ||
		fail "$2: the log has not each step once"
}

# killed_and_resumed DIR OUTPUT: killed after some steps, soon after its resume, and after some more.
killed_and_resumed() {
	paths "$1"
	signalled 7 "$2" KILL
	wait $pid 2>/dev/null
	"$strata" train c.json --output "$2" --resume "${path_opts[@]}" >k.txt 2>k.err &
	pid=$!
	sleep 0.05
	kill -KILL $pid
	wait $pid 2>/dev/null
	signalled 14 "$2" KILL --resume
	wait $pid 2>/dev/null
	done_at_last "$1" "$2"
}

# cut_off IMAGE DIR OUTPUT: the power goes after some steps. What the device has then is copied, with
# nothing that only the file system's memory knows, and the run goes on there.
cut_off() {
	paths "$2"
	signalled 7 "$3" STOP
	cp --sparse=always "$1" "$1.cut"
	kill -KILL $pid
	wait $pid 2>/dev/null
	release
	attach "$1.cut" "$2" || { fail "$1.cut cannot be mounted"; return; }
	done_at_last "$2" "$3"
}

needs_root() {
	[ "$(id -u)" -eq 0 ] || skip 'needs root'
	[ -z "$skipped" ]
}

# recipe NAME: runs r_NAME.
recipe() {
	local before=$n_failed

	skipped=
	path_opts=()
	"r_$1"
	release
	if [ -n "$skipped" ]; then
		printf 'skip    %s: %s\n' "$1" "$skipped"
	elif [ "$n_failed" -gt "$before" ]; then
		printf 'FAILED  %s\n' "$1"
	else
		printf 'ok      %s\n' "$1"
	fi
}

# ---- recipes ----------------------------------------------------------------------------------------

# Space is taken before the first step: what does not fit is said then, and nothing is left.
r_no_space_at_the_start() {
	needs_root || return
	tmpfs full 4m || { skip 'no tmpfs'; return; }
	paths full
	refused 3 'full: .* are free' "$strata" train c.json --output never "${path_opts[@]}"
}

# A thin device promises space that it has not: writing fails in the middle of a step.
r_thin_device_fills_up() {
	local big=(--set strata.model.n_embd=128 --set strata.host.memory=16MiB) want

	needs_root || return
	tmpfs thin 18m || { skip 'no tmpfs'; return; }
	truncate -s 64M thin/disk
	mkfs='mkfs.ext4 -q -N 64 -O ^has_journal' attach thin/disk disk ||
		{ skip 'no loop device'; return; }
	run 0 "$strata" train c.json --output thin-ref --progress json "${big[@]}"
	cp out.txt ref.txt
	want=$(value 'done' state_hash ref.txt)
	paths disk
	train 4 thin-out "${big[@]}"
	one_line 'disk/strata-[0-9a-f]*/data'
	unmount disk
	mounts=(thin)
	mount -o remount,size=100m thin
	fsck.ext4 -fy thin/disk >fsck.txt 2>&1
	attach thin/disk disk || fail 'the device cannot be mounted again'
	train 0 thin-out "${big[@]}" --resume
	same_state 'after a full device'
}

# The file system of the output fills up.
r_no_space_for_the_log() {
	needs_root || return
	tmpfs small 2m || { skip 'no tmpfs'; return; }
	paths nvme
	rm -f k.txt
	"$strata" train c.json --output small/out --progress json "${path_opts[@]}" --steps 1000000 \
		>k.txt 2>err.txt &
	pid=$!
	wait_for k.txt '"step":3,' $pid
	head -c 4M /dev/zero >small/ballast 2>/dev/null
	wait $pid
	[ $? -eq 4 ] || fail 'a full output: not exit code 4'
	one_line 'small/out/log.jsonl'
	rm small/ballast
	steps=$(value step step k.txt | tail -n 1)
	[ "$steps" -le 20 ] || return # it was faster than the ballast: there is no state to compare
	train 0 small/out --resume
	same_state 'after a full output'
	[ "$(value step step small/out/log.jsonl | tr '\n' ' ')" = "$(seq -s ' ' 20) " ] ||
		fail 'the log has not each step once'
}

# A device that ends before its file system does.
r_reads_fail() {
	needs_root || return
	truncate -s 64M cut.img
	mkfs='mkfs.ext4 -q -O ^has_journal' attach cut.img cut || { skip 'no loop device'; return; }
	paths cut
	rm -f k.txt
	"$strata" train c.json --output cut-out --progress json "${path_opts[@]}" --steps 1000000 \
		>k.txt 2>err.txt &
	pid=$!
	wait_for k.txt '"step":3,' $pid
	truncate -s 1M cut.img
	wait $pid
	[ $? -eq 4 ] || fail 'a device that fails: not exit code 4'
	one_line 'cut(/strata-[0-9a-f]*/data)?: ' # of the state, or of a gradient at rest
	train 4 cut-out --resume
	one_line 'cut/strata-[0-9a-f]*'
}

r_blocks_of_4096() {
	needs_root || return
	truncate -s 64M big.img
	mkfs='mkfs.ext4 -q' attach big.img big --sector-size 4096 ||
		{ skip 'no loop device with such blocks'; return; }
	killed_and_resumed big big-out
}

r_ext4() {
	needs_root || return
	truncate -s 64M ext4.img
	mkfs='mkfs.ext4 -q' attach ext4.img ext4 || { skip 'no loop device'; return; }
	killed_and_resumed ext4 ext4-out
	cut_off ext4.img ext4 ext4-cut
}

r_xfs() {
	needs_root || return
	command -v mkfs.xfs >/dev/null || { skip 'mkfs.xfs is not here'; return; }
	truncate -s 320M xfs.img
	mkfs='mkfs.xfs -q' attach xfs.img xfs || { skip 'no loop device'; return; }
	killed_and_resumed xfs xfs-out
	cut_off xfs.img xfs xfs-cut
}

# Without O_DIRECT, or with a tmpfs's.
r_tmpfs() {
	needs_root || return
	tmpfs mem 64m || { skip 'no tmpfs'; return; }
	killed_and_resumed mem mem-out
}

r_io_uring_switched_off() {
	needs_root || return
	[ -e $sysctl ] || { skip 'the kernel has no kernel.io_uring_disabled'; return; }
	sysctl_was=$(cat $sysctl)
	paths nvme
	echo 2 2>/dev/null >$sysctl || {
		sysctl_was=''
		skip "cannot write $sysctl"
		return
	}
	train 0 off-out
	echo "$sysctl_was" >$sysctl
	sysctl_was=''
	same_state 'io_uring switched off'
	[ "$(grep -c 'io_uring' err.txt)" = 1 ] || fail 'not one line says that io_uring cannot be used'
	has err.txt 'by threads$'
}

# root may lock what it likes, so that the capability has to go.
r_little_locked_memory() {
	local drop=(setpriv --bounding-set -ipc_lock --inh-caps -ipc_lock --ambient-caps -all)

	needs_root || return
	"${drop[@]}" true 2>/dev/null || { skip 'setpriv cannot drop capabilities here'; return; }
	paths nvme
	run 0 "${drop[@]}" bash -c 'ulimit -l 64 && exec "$@"' - "$strata" train c.json \
		--output lock-out --progress json "${path_opts[@]}"
	same_state 'with 64 KiB of locked memory'
}

# The disk is not mounted: the advice is about the run, not about a new one.
r_path_is_gone() {
	mkdir mounted
	paths mounted
	train 0 gone-out --steps 10
	mv mounted unmounted
	train 2 gone-out --resume
	one_line 'mounted'
	grep '^strata: ' err.txt | grep -q 'mkdir' && fail 'the advice is that for a new run'
	mv unmounted mounted
	train 0 gone-out --resume
	same_state 'after its disk came back'
}

paths nvme
train 0 ref
cp out.txt ref.txt
want=$(value 'done' state_hash ref.txt)
for name in ${RECIPES:-no_space_at_the_start thin_device_fills_up no_space_for_the_log reads_fail \
	blocks_of_4096 ext4 xfs tmpfs io_uring_switched_off little_locked_memory path_is_gone}; do
	recipe $name
done
finish
