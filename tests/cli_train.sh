#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/cli_train.sh - training end to end: it learns, says so in every mode, and can be sampled.
# shellcheck source-path=SCRIPTDIR source=cli_util.sh
. "$(dirname "${BASH_SOURCE[0]}")/cli_util.sh" "$@"
set_up

is_less() {
	awk -v a="$1" -v b="$2" 'BEGIN { exit !(a < b) }'
}

# control_bytes FILE: how many bytes in it are neither text nor the end of a line.
control_bytes() {
	tr -d '\n\t\40-\176' <"$1" | wc -c
}

# JSON: the loss falls, every line is an object, the keys are there, the last one is "done".
run 0 "$strata" train c.json --progress json --set strata.eval_every=8
cp out.txt log.txt
[ "$(value step step log.txt | wc -l)" -eq 20 ] || fail 'not 20 step lines'
for key in loss grad_norm lr tokens_per_s nvme_read_bytes nvme_write_bytes compute_wait_ns \
	durable_step; do
	value step "$key" log.txt | grep -qv '^[0-9.eE+-]*$' && fail "$key is no number"
done
first=$(value step loss log.txt | head -n 1)
last=$(value step loss log.txt | tail -n 1)
is_less "$first" 6.5 || fail "the first loss is $first"
is_less "$last" 4.2 || fail "the last loss is $last: it did not learn"
[ "$(value eval step log.txt | tr '\n' ' ')" = '8 16 ' ] || fail 'evaluations not after steps 8 and 16'
tail -n 1 log.txt >last.txt
for key in val_loss peak_rss_bytes device_peak_bytes host_peak_bytes nvme_bytes_per_param_step; do
	value 'done' "$key" last.txt | grep -qv '^[0-9.eE+-]*$' && fail "$key is no number"
done
is_less "$(value 'done' val_loss last.txt)" 4.2 || fail 'the validation loss did not fall'
has err.txt 'parameters: NVMe, states: NVMe'
for file in model.safetensors config.json log.jsonl run.json strata.json; do
	[ -s "out/$file" ] || fail "out/$file is missing"
done
value step loss out/log.jsonl >/dev/null
[ "$(control_bytes err.txt)" -eq 0 ] || fail 'control bytes on stderr'

# Lines: nothing on stdout, no control byte, one line for the first, each fifth and the last step.
run 0 "$strata" train c.json --output lines --progress line --steps 12
[ ! -s out.txt ] || fail 'line mode writes to stdout'
[ "$(control_bytes err.txt)" -eq 0 ] || fail 'control bytes in line mode'
[ "$(sed -n 's,^step \([0-9]*\)/12 .*,\1,p' err.txt | tr '\n' ' ')" = '1 5 10 12 ' ] ||
	fail 'line mode: not steps 1 5 10 12'
has err.txt '^step 12/12  loss [0-9.]+  lr 3\.0000e-03  norm [0-9.]+  [0-9.]+ tokens/s  read [0-9.]+ GB/s  write'
has err.txt 'sample .* sample lines$'
has err.txt 'go on .* train c.json --output lines --progress line --resume --steps N$'

# fp16: each step's loss scale and whether it was skipped, everywhere; and how many were.
fp16=(--set bf16.enabled=false --set fp16.enabled=true --set fp16.initial_scale_power=24
	--set fp16.hysteresis=1)
run 0 "$strata" train c.json --output fp16 --progress json --steps 12 "${fp16[@]}"
cp out.txt log.txt
[ "$(value step loss_scale log.txt | head -n 2 | tr '\n' ' ')" = '16777216 8388608 ' ] ||
	fail "the loss scale does not halve: $(value step loss_scale log.txt | tr '\n' ' ')"
[ "$(value step skipped log.txt | head -n 1)" = true ] || fail 'the first step is not skipped'
[ "$(value step skipped log.txt | tail -n 1)" = false ] || fail 'the last step is skipped'
skipped=$(value step skipped log.txt | grep -c true)
[ "$(value 'done' skipped_steps log.txt)" -eq "$skipped" ] || fail 'skipped steps are not counted'
[ "$(value step skipped fp16/log.jsonl | grep -c true)" -eq "$skipped" ] ||
	fail 'log.jsonl does not say which steps were skipped'
value step loss_scale fp16/log.jsonl >/dev/null
has err.txt "^  skipped  $skipped of 12 steps: a gradient overflowed in fp16$"
run 0 "$strata" train c.json --output fp16l --progress line --steps 12 "${fp16[@]}"
has err.txt '^step 1/12 .* loss scale 16777216  skipped 1$'
n=$(sed -n 's/^step .* skipped \([0-9]*\)$/\1/p' err.txt | awk '{ n += $1 } END { print n }')
[ "$n" -eq "$skipped" ] || fail "the lines say that $n steps were skipped"
run 0 "$strata" report fp16 --output fp16.html
has fp16.html 'steps skipped \(fp16 overflow\)'
if value step skipped out/log.jsonl | grep -q true; then fail 'bf16 skips'; fi

# auto without a terminal is line; a bar without a terminal as well.
run 0 "$strata" train c.json --output a1 --steps 2
has err.txt '^step 2/2  loss'
run 0 env TERM=xterm "$strata" train c.json --output a2 --steps 2 --progress bar
has err.txt '^step 2/2  loss'
[ "$(control_bytes err.txt)" -eq 0 ] || fail 'control bytes without a terminal'

# none: nothing at all.
run 0 "$strata" train c.json --output none --steps 2 --progress none
[ ! -s out.txt ] || fail 'progress none writes to stdout'
[ ! -s err.txt ] || fail 'progress none writes to stderr'

# --steps counts in total, and what was trained in two pieces is the same.
run 0 "$strata" train c.json --output pieces --progress json --steps 4
run 0 "$strata" train c.json --output pieces --progress json --steps 8 --resume
cp out.txt log.txt
hash=$(value 'done' state_hash log.txt)
[ "$(value step step log.txt | head -n 1)" = 5 ] || fail 'the resumed run does not begin at step 5'
[ "$(value step step pieces/log.jsonl | wc -l)" -eq 8 ] || fail 'the log has not 8 steps'
run 0 "$strata" train c.json --output pieces --progress json --steps 8 --resume
cp out.txt log.txt
[ "$(value 'done' state_hash log.txt)" = "$hash" ] || fail 'resuming a finished run changes it'

# Another nvme_path moves no state: that is said, and no line claims that it lies there.
mkdir elsewhere
sed 's/"nvme_path": "nvme"/"nvme_path": "elsewhere"/' c.json >moved.json
run 0 "$strata" train moved.json --output pieces --progress line --steps 9 --resume
has err.txt 'the state stays where it is: .*/nvme; to have it elsewhere, stop the run and move its directory there'
if grep -q 'NVMe .* in elsewhere' err.txt; then fail 'the state is said to be elsewhere'; fi

# The tiers do not change a bit, nor do the pieces.
for tier in none cpu; do
	config $tier >tier.json
	run 0 "$strata" train tier.json --output "tier-$tier" --progress json --steps 8 \
		--set strata.host.memory=16MiB
	cp out.txt log.txt
	[ "$(value 'done' state_hash log.txt)" = "$hash" ] || fail "offload to $tier gives another state"
done

# On a terminal: a bar; with blocks where the terminal has them; NO_COLOR and dumb are heard.
if command -v script >/dev/null; then
	on_terminal() {
		script -qec "stty cols 100; $*" /dev/null </dev/null >screen.txt 2>&1
	}
	on_terminal env TERM=xterm "$strata" train c.json --output t1 --steps 6
	tr '\r' '\n' <screen.txt >frames.txt
	has frames.txt '^100%\|#+\|6/6 loss [0-9]'
	grep -q $'\r\033\[K\|\033\[K' screen.txt || fail 'the bar erases nothing'
	tail -c 1 screen.txt | grep -q $'\n' || [ "$(tail -c 1 screen.txt | wc -l)" -eq 1 ] ||
		fail 'the screen does not end with a whole line'
	grep -q $'\033\[[0-9;]*m' screen.txt && fail 'colours'
	awk '/^ *[0-9]+%\|/ { sub(/\033\[K.*/, ""); if (length($0) > 99) exit 1 }' frames.txt ||
		fail 'a frame is wider than the terminal'
	if locale -a 2>/dev/null | grep -qi '^c\.utf'; then
		on_terminal env TERM=xterm LC_ALL=C.UTF-8 "$strata" train c.json --output t2 --steps 6
		grep -q '█' screen.txt || fail 'no blocks in a UTF-8 locale'
	fi
	on_terminal env TERM=dumb "$strata" train c.json --output t3 --steps 2
	grep -q $'\033' screen.txt && fail 'control bytes on a dumb terminal'
	has screen.txt '^step 2/2  loss'
else
	note 'script is not here: the bar was not tried'
fi

# Sampling: the same seed, the same text; the prompt comes first; as many tokens as asked for.
run 0 "$strata" sample out --prompt 'the quick ' --tokens 16
cp out.txt one.txt
[ "$(head -c 10 one.txt)" = 'the quick ' ] || fail 'a sample does not begin with its prompt'
n=$(wc -c <one.txt)
[ "$n" -eq 26 ] || [ "$n" -eq 27 ] || fail "10 + 16 bytes are $n"
run 0 "$strata" sample out --prompt 'the quick ' --tokens 16
cmp -s out.txt one.txt || fail 'the same seed gives another text'
run 0 "$strata" sample out --prompt 'the quick ' --tokens 16 --temperature 5 --seed 2
cmp -s out.txt one.txt && fail 'another seed and temperature give the same text'
run 0 "$strata" sample out --prompt 'the quick ' --tokens 16 --top-k 1
cp out.txt one.txt
run 0 "$strata" sample out --prompt 'the quick ' --tokens 16 --temperature 0
cmp -s out.txt one.txt || fail 'the likeliest is not the likeliest'
run 0 "$strata" sample out --as ids --prompt '116 104 101' --tokens 3
has out.txt '^116 104 101( [0-9]+){3}$'
refused 2 'beyond the vocabulary of 256' "$strata" sample out --as ids --prompt '3 256'
refused 2 'whole numbers' "$strata" sample out --as ids --prompt 'three'

# The public API: a model that learns to count from batches of the caller.
config nvme | grep -v '"data"' >api.json
run 0 "$train_api" api.json api
first=$(sed -n 's/^step 1 loss //p' out.txt)
last=$(sed -n 's/^step 20 loss //p' out.txt)
is_less "${last:-9}" "${first:-0}" || fail "the example's loss went from $first to $last"
has out.txt '^10 12 14 -> [0-9]+( [0-9]+){7}$'

finish
