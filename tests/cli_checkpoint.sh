#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/cli_checkpoint.sh - strata checkpoint: listed, verified, exported and removed without the
# trainer, beside a living run, after it was killed, and from what is damaged.
# shellcheck source-path=SCRIPTDIR source=cli_util.sh
. "$(dirname "${BASH_SOURCE[0]}")/cli_util.sh" "$@"
set_up
train=("$strata" train c.json)
ls=("$strata" checkpoint ls)
verify=("$strata" checkpoint verify)
export=("$strata" checkpoint export)
gc=("$strata" checkpoint gc)

# flip FILE OFFSET: the lowest bit of one byte.
flip() {
	perl -e 'open my $f, "+<", $ARGV[0] or die; binmode $f; seek $f, $ARGV[1], 0; read $f, my $c, 1;
		seek $f, $ARGV[1], 0; print $f chr(ord($c) ^ 1); close $f or die' "$1" "$2"
}

# dirs: how many private directories there are in nvme.
dirs() {
	find nvme -mindepth 1 -maxdepth 1 -name 'strata-*' | wc -l
}

run 0 "${train[@]}" --steps 4 --set strata.nvme.keep_every=2

# ---- ls ------------------------------------------------------------------------------------------

run 0 "${ls[@]}" out
has out.txt '^ +4 +5  20[0-9-]+ [0-9:]+ +4.2 MiB +[0-9.]+ MiB  current, kept  /.*/nvme/strata-[0-9a-f]{32}, /.*/nvme/strata-[0-9a-f]{32}$'
has out.txt '^ +3 +4  - .*  superseded, overwritten in part$'
has out.txt '^ +2 +3  20.*  kept  /.*/nvme/strata-'
[ "$(sed 1d out.txt | wc -l)" -eq 3 ] || fail "not each step once: $(cat out.txt)"
run 0 "${ls[@]}" out --json
value - checkpoints out.txt >list.txt
has list.txt '"state":"current","step":4,"generation":5,"complete":true,"kept":true,.*"in_use":null,"error":null'
has list.txt '"state":"kept","step":2,"generation":3,"complete":true,"kept":true'

# ---- export: the bytes that training writes ------------------------------------------------------

run 0 "${export[@]}" out --output now
has out.txt '^step 4 of out: now '
cmp -s now/model.safetensors out/model.safetensors || fail 'the export differs from the trainer'
cmp -s now/config.json out/config.json || fail "the export's config.json differs"
refused 2 '--output now: model.safetensors is there already; --force' "${export[@]}" out --output now
run 0 "${export[@]}" out --output now --force --dtype bf16 --step 2
run 0 "${train[@]}" --steps 2 --output short --set strata.save_dtype=bf16
cmp -s now/model.safetensors short/model.safetensors || fail 'a kept step in bf16 differs'
cmp -s now/config.json short/config.json || fail 'config.json in bf16 differs'
refused 2 'out: no state of step 3 is there; those that are: 4, 2' \
	"${export[@]}" out --output no --step 3
refused 2 'checkpoint export: --output DIR is missing' "${export[@]}" out
refused 2 '--output no/where: cannot make the directory' "${export[@]}" out --output no/where
refused 2 '--output text.txt: is no directory' "${export[@]}" out --output text.txt
ln -s nowhere dangling
refused 2 '--output dangling: is no directory' "${export[@]}" out --output dangling
rm dangling
[ "$(id -u)" -ne 0 ] || refused 2 '--output /proc: cannot be written to' "${export[@]}" out --output /proc
# Saved twice after one step, by the stop and by the end: still one row.
run 0 "${train[@]}" --steps 3 --output once --set strata.nvme.commit_every=3
run 0 "${train[@]}" --steps 3 --output once --set strata.nvme.commit_every=3 --resume
run 0 "${ls[@]}" once
[ "$(grep -c '^ *3 ' out.txt)" -eq 1 ] || fail "step 3 is listed twice: $(cat out.txt)"
rm -r once

# Other formats and places: fp32 with states in host memory, two paths.
mkdir second
run 0 "${train[@]}" --steps 2 --output other --set bf16.enabled=false \
	--set zero_optimization.offload_param.device=none \
	--set zero_optimization.offload_optimizer.device=cpu --set strata.host.memory=8MiB
run 0 "${export[@]}" other --output from-other
cmp -s from-other/model.safetensors other/model.safetensors || fail 'fp32, in memory: differs'
run 0 "${train[@]}" --steps 2 --output two --set 'zero_optimization.offload_param.nvme_path=["nvme","second"]' \
	--set 'zero_optimization.offload_optimizer.nvme_path=["nvme","second"]'
run 0 "${export[@]}" two --output from-two
cmp -s from-two/model.safetensors two/model.safetensors || fail 'two paths: differs'
run 0 "${verify[@]}" two

# ---- verify --------------------------------------------------------------------------------------

run 0 "${verify[@]}" out --all
[ "$(grep -c ': all whole$' out.txt)" = 3 ] || fail 'verify --all does not see three states'
grep -q '[^[:print:]]' out.txt && fail 'verify prints control bytes into a file'
run 0 "${verify[@]}" out --json
value - ok out.txt | grep -qx true || fail 'verify --json: not ok'
data=$(sed 's/.*"paths": \["\([^"]*\)".*/\1/' out/run.json)/data
size=$(stat -c %s "$data")
# Where live data are is the store's business: some byte of it is found.
for ((at = 3 << 20; at < size; at += 300000)); do
	flip "$data" $at
	"${verify[@]}" out >out.txt 2>err.txt && { flip "$data" $at; continue; }
	break
done
[ $at -lt "$size" ] || fail 'no flipped bit was found'
run 4 "${verify[@]}" out
has out.txt "^BAD $data: [a-z0-9_.]+\[[0-9]+\.\.[0-9]+\) (parameter|state) \(extent [0-9]+, [0-9]+ bytes at offset [0-9]+\) is damaged"
has out.txt '^step 4, current: .* DAMAGED$'
has err.txt '^strata: out: 1 of [0-9]+ tiles are damaged'
run 4 "${verify[@]}" out --json
value - ok out.txt | grep -qx false || fail 'verify --json: ok in spite of damage'
value - checkpoints out.txt >list.txt
has list.txt '"bad":\[\{"tile":"[^"]*(parameter|state)","file":"[^"]*data","offset":[0-9]+,'
run 0 "${verify[@]}" out --step 2
refused 4 'is damaged' "${export[@]}" out --output damaged
flip "$data" $at
run 0 "${verify[@]}" out
# A superblock has a copy and is used around; it is damage all the same, and mended by a resume.
flip "$data" 100
run 4 "${verify[@]}" out
has out.txt '^BAD .*superblock 1 \(4096 bytes at offset 0\) is damaged'
run 0 "${train[@]}" --steps 4 --resume --set strata.nvme.keep_every=2
run 0 "${verify[@]}" out

# What another user may not read is not damaged.
other=(setpriv --reuid=12345 --regid=12345 --clear-groups)
if "${other[@]}" "$strata" version >/dev/null 2>&1; then
	chmod 711 .
	run 4 "${other[@]}" "$strata" checkpoint ls "$PWD/out"
	has out.txt ' current, not for this user'
	has err.txt '^strata: store directory .*[^d]: Permission denied$'
	chmod 700 .
fi

# ---- gc ------------------------------------------------------------------------------------------

refused 2 'say what to remove: --all, --step N or --stale' "${gc[@]}" out
refused 2 'one of --all, --step N or --stale' "${gc[@]}" out --all --stale
refused 2 'out: no state of step 9 is there' "${gc[@]}" out --step 2 --step 9
refused 2 '--step needs a whole number, not "2x"' "${gc[@]}" out --step 2x
refused 2 '--step: 0 is out of range' "${gc[@]}" out --step 0
before=$(dirs)
run 0 "${gc[@]}" out --step 2 --dry-run
has out.txt '^would remove step 2 \(kept\), '
[ "$(dirs)" = "$before" ] || fail 'a dry run removed something'
run 0 "${gc[@]}" out --step 2 --step 4
has out.txt '^removed step 4 \(kept\), '
[ "$(dirs)" = $((before - 2)) ] || fail 'not exactly the two kept states were removed'
refused 2 'step 4 is the run.s own state' "${gc[@]}" out --step 4
mkdir -m 700 nvme/strata-0123456789abcdef0123456789abcdef
run 0 "${gc[@]}" out --stale --dry-run
has out.txt 'would remove .*/strata-0123456789abcdef0123456789abcdef$'
run 0 "${gc[@]}" nvme --stale
has out.txt '^nvme: removed 1 directory without a committed state$'
[ "$(dirs)" = $((before - 2)) ] || fail 'gc --stale removed more or less than what is stale'
run 0 "${gc[@]}" out --all
[ "$(dirs)" = $((before - 3)) ] || fail 'gc --all left the store, or took that of another run'
[ ! -e out/run.json ] || fail 'gc --all leaves run.json'
[ -e out/model.safetensors ] || fail 'gc --all takes the result'
refused 2 'out holds no run \(no run.json\)' "${ls[@]}" out
# A removal that was cut off after its first step.
mv two/run.json two/run.json.removed
refused 2 'two: the run.s state is removed, or was to be' "${ls[@]}" two
run 0 "${gc[@]}" two --all
[ -z "$(find second -name 'strata-*')$(find two -name '*.removed')" ] ||
	fail 'a removal that was cut off is not finished'

# ---- beside a living run, and after it was killed ------------------------------------------------

"${train[@]}" --output live --steps 1000000 --progress json >live.txt 2>live.err &
pid=$!
wait_for live.txt '"step":3,' $pid
run 0 "${ls[@]}" live
has out.txt "  current, in use by process $pid "
run 0 "${ls[@]}" live --json
value - checkpoints out.txt | grep -q "\"in_use\":\"process $pid " || fail 'JSON: not in use'
run 2 "${verify[@]}" live
has err.txt "^strata: .* is in use by process $pid "
run 2 "${export[@]}" live --output no
has err.txt "^strata: .* by process $pid "
[ ! -e no ] || fail 'a refused export leaves its directory'
run 2 "${gc[@]}" live --all
has err.txt '^strata: output live is in use by another run'
run 0 "${gc[@]}" live --stale
kill -0 $pid 2>/dev/null || fail 'the run did not survive its inspection'
kill -KILL $pid
{ wait $pid; } 2>/dev/null
run 0 "${verify[@]}" live
step=$(sed -n 's/^step \([0-9]*\), current: .* all whole$/\1/p' out.txt)
[ "${step:-0}" -ge 2 ] || fail "no step is left after the kill: '$step'"
run 0 "${export[@]}" live --output from-live
run 0 "${train[@]}" --output again --steps "$step"
cmp -s from-live/model.safetensors again/model.safetensors ||
	fail "exported after a kill at step $step: not what a run of $step steps writes"

# ---- bad input -----------------------------------------------------------------------------------

for verb in ls verify gc; do
	words=("$strata" checkpoint "$verb")
	[ "$verb" != gc ] || words+=(--all)
	refused 2 'nowhere: no such directory' "${words[@]}" nowhere
	refused 2 'text.txt: no such directory' "${words[@]}" text.txt
	refused 2 'nvme holds no run \(no run.json\)' "${words[@]}" nvme
done
cp live/run.json whole.json
head -c 40 whole.json >live/run.json
for words in ls verify 'export --output no' 'gc --all' 'gc --stale'; do
	# shellcheck disable=SC2086 # words are words
	refused 2 'live/run.json is damaged' "$strata" checkpoint $words live
done
echo '{"id": "00", "paths": ["/nonexistent/strata-0"]}' >live/run.json
run 2 "${verify[@]}" live
cp whole.json live/run.json
head -n 3 live/strata.json >half.json
mv live/strata.json strata.json
cp half.json live/strata.json
refused 2 'live/strata.json:.*it says which model the run trains' "${export[@]}" live --output no
cp half.json again/strata.json
refused 2 'again/strata.json:.*it says what a token is' "$strata" sample again --tokens 3
run 0 "$strata" sample again --tokens 3 --as ids
rm live/strata.json
refused 2 'live/strata.json: .*it says which model the run trains' "${export[@]}" live --output no
sed 's/"n_embd": 64/"n_embd": 128/' strata.json >live/strata.json
refused 2 "it is not this run's" "${export[@]}" live --output no
refused 2 'unknown verb "checkpoint lst"; the nearest known one is "checkpoint ls"' \
	"$strata" checkpoint lst live
refused 2 '--step and --all exclude each other' "${verify[@]}" live --step 2 --all

finish
