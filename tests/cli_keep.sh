#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/cli_keep.sh - copies of the state every N steps, and the way back to one.
# shellcheck source-path=SCRIPTDIR source=cli_util.sh
. "$(dirname "${BASH_SOURCE[0]}")/cli_util.sh" "$@"
set_up

stores() {
	find nvme -mindepth 1 -maxdepth 1 | wc -l
}

# A copy after steps 5 and 10: two stores beside the run's own. They change no bit.
run 0 "$strata" train c.json --steps 12 --output plain
run 0 "$strata" train c.json --steps 12 --set strata.nvme.keep_every=5
[ "$(stores)" -eq 4 ] || fail "$(stores) stores in place of the runs' two and two copies"
cmp -s plain/model.safetensors out/model.safetensors || fail 'copies change the result'

# Back to step 5: steps 6 to 12 again, in the log once, to the same bits.
run 0 "$strata" train c.json --steps 12 --resume-step 5 --progress json
cp out.txt log.txt
[ "$(value step step log.txt | head -n 1)" -eq 6 ] || fail 'did not go on behind step 5'
cmp -s plain/model.safetensors out/model.safetensors || fail 'another result after going back'
[ "$(grep -o '"step":[0-9]*' out/log.jsonl | sort -u | wc -l)" -eq 12 ] || fail 'not 12 steps in the log'
[ "$(grep -c '"step":7,' out/log.jsonl)" -eq 1 ] || fail 'step 7 is twice in the log'

# What is not there is said with what is.
refused 2 'no copy of step 7 .* copies are of steps 5 10' "$strata" train c.json --resume-step 7

# The hint says how to go on, not how to go back once more.
run 0 "$strata" train c.json --steps 11 --resume-step=10 --progress line
has err.txt 'go on .* --resume --steps N$'
grep -q 'resume-step' err.txt && fail 'the hint goes back again'

# Verified as a whole when asked for: damage is found before the first step, and named.
run 0 "$strata" train c.json --steps 13 --resume --set strata.nvme.verify=open
dir=$(sed -n 's/.*"paths": *\["\([^"]*\)".*/\1/p' out/run.json)
size=$(stat -c %s "$dir/data")
head -c $((size - 3145728)) /dev/zero | tr '\0' '\377' |
	dd of="$dir/data" bs=1M seek=3 conv=notrunc status=none
refused 4 'data: .* offset [0-9]+.* is damaged.* more' "$strata" train c.json --steps 14 --resume \
	--set strata.nvme.verify=open

# Without commits there is nothing to copy, and without run.json nobody would find it.
refused 2 'keep_every.*durability' "$strata" train c.json --output no \
	--set strata.nvme.keep_every=2 --set strata.nvme.durability=none
refused 2 'keep_every.*never' "$strata" train c.json --output no \
	--set strata.nvme.keep_every=2 --set strata.nvme.keep=never
finish
