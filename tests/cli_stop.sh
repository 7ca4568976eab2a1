#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/cli_stop.sh - stopped by a signal, by a reader that leaves, and by a second run: the state
# is saved, and going on ends where an uninterrupted run ends.
# shellcheck source-path=SCRIPTDIR source=cli_util.sh
. "$(dirname "${BASH_SOURCE[0]}")/cli_util.sh" "$@"
set_up

# begin NAME: a long run in the background, once its third step is done. Sets pid.
begin() {
	# Shells let background jobs ignore SIGINT.
	env --default-signal=INT "$strata" train c.json --output "$1" --steps 1000000 \
		--progress json >"$1.txt" 2>"$1.err" &
	pid=$!
	wait_for "$1.txt" '"step":3,' $pid
}

# hash_of OUTPUT STEPS [OPTION]...: state after so many steps in all.
hash_of() {
	local output=$1 steps=$2

	shift 2
	run 0 "$strata" train c.json --output "$output" --steps "$steps" --progress json "$@"
	cp out.txt done.txt
	value 'done' state_hash done.txt
}

for signal in TERM INT; do
	code=143
	[ $signal = TERM ] || code=130
	begin "by-$signal"
	kill -$signal $pid
	wait $pid
	got=$?
	[ $got -eq $code ] || fail "SIG$signal: exit code $got in place of $code"
	has "by-$signal.err" "^SIG$signal: stopping after this step"
	has "by-$signal.err" '^stopped after step [0-9]+, which is saved$'
	has "by-$signal.err" "train c.json --output by-$signal --steps 1000000 --progress json --resume\$"
	stopped=$(value stopped step "by-$signal.txt")
	[ "$stopped" = "$(value step step "by-$signal.txt" | tail -n 1)" ] ||
		fail "stopped at step $stopped, which was not the last one reported"
	total=$((stopped + 2))
	touch "by-$signal/.strata-0123456789abcdef.tmp" # as a kill in the middle of a rename leaves it
	resumed=$(hash_of "by-$signal" $total --resume)
	[ "$resumed" = "$(hash_of "whole-$signal" $total)" ] ||
		fail "SIG$signal after step $stopped and resumed: another state"
	[ ! -e "by-$signal/.strata-0123456789abcdef.tmp" ] || fail 'a temporary name is left'
done

# Two signals at once, as timeout sends them, are one request to stop.
begin twice
kill -TERM $pid
kill -TERM $pid 2>/dev/null
wait $pid
got=$?
[ $got -eq 143 ] || fail "two signals: exit code $got"
has twice.err '^stopped after step [0-9]+, which is saved$'

# A second signal ends a run whose step is long.
"$strata" train c.json --output long --set train_batch_size=4000 >long.txt 2>long.err &
pid=$!
wait_for long.err '^  steps ' $pid
kill -TERM $pid
sleep 1.2
kill -TERM $pid || fail 'a step of 4000 sequences took a second'
wait $pid
[ $? -eq 143 ] || fail 'a second signal: not exit code 143'
has long.err '^stopped at once by a second signal'

# A signal before the first step.
"$strata" train c.json --output early --steps 1000000 --progress json >early.txt 2>early.err &
pid=$!
wait_for early.err . $pid
kill -TERM $pid 2>/dev/null
wait $pid
[ $? -eq 143 ] || fail 'a signal during the start: not exit code 143'

# However early: exit code 143, and of a run that made no step nothing is left.
n_before=0
for delay in 0.005 0.02 0.04 0.06 0.08 0.1 0.15 0.2; do
	before=$(find nvme -mindepth 1 | sort)
	"$strata" train c.json --output soon --steps 1000000 --set strata.model.vocab_size=20000 \
		>soon.txt 2>soon.err &
	pid=$!
	sleep $delay
	kill -TERM $pid
	wait $pid
	code=$?
	# The program may not have got as far as to choose which signals it waits for.
	[ $code -eq 143 ] || fail "a signal after $delay s: exit code $code"
	if [ ! -s soon.err ] || grep -q '^stopped before the first step: nothing is left$' soon.err; then
		n_before=$((n_before + 1))
		[ ! -e soon ] || fail "stopped before the first step: the output is left"
		[ "$before" = "$(find nvme -mindepth 1 | sort)" ] ||
			fail 'stopped before the first step: something is left on nvme_path'
	fi
	rm -rf soon
done
[ "$n_before" -gt 0 ] || note 'no signal came before the first step'

# Going on: nothing to do, or what there is cannot become what is asked for.
run 0 "$strata" train c.json --output over --steps 3
run 2 "$strata" train c.json --output over --steps 2 --resume
has err.txt '^strata: output over: 3 steps are done, more than the 2 asked for'
run 0 "$strata" train c.json --output gone --steps 3 --set 'strata.nvme.keep="never"'
cp -r gone gone.copy
run 0 "$strata" train c.json --output gone --steps 3 --resume
has err.txt '^all 3 steps are done: the result is in gone, nothing is left to do'
cmp -s gone/model.safetensors gone.copy/model.safetensors || fail 'resuming changed a finished run'
run 2 "$strata" train c.json --output gone --steps 4 --resume
has err.txt '^strata: output gone: the run ended after 3 steps, and its state was removed'

# A reader that goes away.
"$strata" train c.json --output pipe --steps 1000000 --progress json 2>pipe.err | head -n 2 >pipe.txt
code=${PIPESTATUS[0]}
[ "$code" -eq 141 ] || fail "a closed pipe: exit code $code"
has pipe.err '^stopped after step [0-9]+, which is saved$'
if grep -q '^strata: ' pipe.err; then fail 'a reader that goes away is called an error'; fi
total=$(($(sed -n 's/.*stopped after step \([0-9]*\).*/\1/p' pipe.err) + 1))
run 0 "$strata" train c.json --output pipe --steps $total --resume
for args in help 'config schema' 'plan c.json --no-measure' 'checkpoint ls pipe --json'; do
	# shellcheck disable=SC2086
	{ sleep 0.1; "$strata" $args 2>unread.err; echo $? >code; } | :
	[ "$(cat code)" -eq 141 ] || fail "$args | true: exit code $(cat code)"
	if grep "^strata: " unread.err; then fail "$args | true: an error"; fi
done

# A full disk is an error, with its reason, and the state is saved all the same.
if [ -e /dev/full ]; then
	"$strata" train c.json --output full --steps 1000000 --progress json >/dev/full 2>full.err
	code=$?
	[ $code -eq 4 ] || fail "a full disk: exit code $code"
	has full.err '^strata: cannot write to the standard output: No space left on device; stopped after step [0-9]+'
	run 0 "$strata" train c.json --output full --steps 3 --resume
	for args in 'config schema' 'config dump c.json' 'config help' version; do
		# shellcheck disable=SC2086
		"$strata" $args >/dev/full 2>full.err
		code=$?
		[ $code -eq 4 ] || fail "$args >/dev/full: exit code $code"
		has full.err '^strata: cannot write to the standard output: No space left on device$'
	done
fi

# A second run: on the same output refused, on the same nvme_path welcome.
begin first
mkdir empty
refused_beside() {
	"$strata" train c.json --output first "$@" >out.txt 2>err.txt
	[ $? -eq 2 ] || fail "a second run on the same output: not exit code 2: $*"
	has err.txt '^strata: output first is in use by another run'
}
refused_beside
refused_beside --resume
dirs=$(find nvme -mindepth 1 -maxdepth 1 | wc -l)
run 0 "$strata" train c.json --output second --steps 3
[ "$(find nvme -mindepth 1 -maxdepth 1 | wc -l)" -eq $((dirs + 1)) ] ||
	fail 'the second run has no directory of its own'
kill -TERM $pid
wait $pid
[ $? -eq 143 ] || fail 'the first run did not survive the second'

# After it ended, the output is still not overwritten.
"$strata" train c.json --output first >out.txt 2>err.txt
[ $? -eq 2 ] || fail 'an output with a run in it: not exit code 2'
has err.txt '^strata: output first holds a run already; go on with --resume'

finish
