#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/cli_resume.sh - going on where something has changed meanwhile: keys, the place of the state,
# the end of the run.
# shellcheck source-path=SCRIPTDIR source=cli_util.sh
. "$(dirname "${BASH_SOURCE[0]}")/cli_util.sh" "$@"
set_up
train=("$strata" train c.json --progress json)

# hash_of: state_hash of what the last run printed.
hash_of() {
	cp out.txt done.txt
	value 'done' state_hash done.txt
}

# ---- keys ----------------------------------------------------------------------------------------

run 0 "${train[@]}" --output whole --steps 6
whole=$(hash_of)
run 0 "${train[@]}" --output run --steps 3
cp run/strata.json before.json

# differs KEY OLD NEW [OPTION]...: the resume is refused, and the line says which key and both values.
differs() {
	local key=$1 old=$2 new=$3

	shift 3
	refused 2 "output run cannot go on with other values: .*$key: $old -> ${new}[;]" \
		"${train[@]}" --output run --steps 6 --resume "$@"
}
differs strata.seed 1 2 --set strata.seed=2
differs strata.threads 2 1 --set strata.threads=1
differs strata.model.n_layer 4 5 --set strata.model.n_layer=5 # the store's own refusal
differs train_micro_batch_size_per_gpu 4 8 --set train_micro_batch_size_per_gpu=8
make_text 2001 >other.txt
differs strata.data.train '"text.txt"' '"other.txt"' --set strata.data.train=other.txt
differs strata.seed 1 3 --set strata.seed=3 --set optimizer.params.lr=0.1 \
	--set strata.host.memory=8MiB
if grep -Eq 'lr|memory' err.txt; then fail 'a key that may change is named'; fi
cmp -s run/strata.json before.json || fail 'a refused resume changed strata.json'

# The text itself is another one: no key says that.
cp text.txt kept.txt
cp other.txt text.txt
refused 2 'other data.*No key differs from run/strata.json: the text itself' \
	"${train[@]}" --output run --steps 6 --resume
cp kept.txt text.txt

# ---- the state's place ---------------------------------------------------------------------------

at() {
	at=(--set "zero_optimization.offload_param.nvme_path=$1"
		--set "zero_optimization.offload_optimizer.nvme_path=$1")
}

# The drive is mounted elsewhere: named, it is found; not named, the line has both places.
mv nvme moved
refused 2 "the run's state is not where it was, $work/nvme/strata-[0-9a-f]*, nor in nvme: mount its drive" \
	"${train[@]}" --output run --steps 6 --resume
mkdir nvme
refused 2 "not where it was, $work/nvme/strata-[0-9a-f]*, nor in nvme" \
	"${train[@]}" --output run --steps 6 --resume
run 0 "$strata" checkpoint ls run --path moved
has out.txt " 3 .* current .*$work/moved/strata-"
refused 2 'not where it was' "$strata" checkpoint verify run --path nvme
at moved
run 0 "${train[@]}" --output run --steps 4 --resume "${at[@]}"
has err.txt "the run's state has moved: it is found, and goes on, in moved"
grep -q "\"$work/moved/strata-" run/run.json || fail 'run.json does not say where the state is now'
run 0 "$strata" checkpoint verify run
[ -z "$(ls nvme)" ] || fail 'a moved state was started anew in nvme'

# And back, without a word in the command: the configuration names the old place again.
rmdir nvme
mv moved nvme
run 0 "${train[@]}" --output run --steps 6 --resume
[ "$(hash_of)" = "$whole" ] || fail 'a run whose drive moved twice ends in another state'

# Another store is not taken for it, not even under its name.
run 0 "${train[@]}" --output second --steps 2
first=$(sed 's/.*"\([^"]*strata-[^"]*\)".*/\1/' run/run.json)
second=$(sed 's/.*"\([^"]*strata-[^"]*\)".*/\1/' second/run.json)
mkdir false
mv "$first" away
cp -r --preserve=mode "$second" "false/$(basename "$first")"
at false
run 4 "${train[@]}" --output run --steps 7 --resume "${at[@]}"
has err.txt '^strata: .*the file belongs to another store'
grep -q "\"$work/nvme/strata-" run/run.json || fail 'run.json names another store'
rm -r false
mv away "$first"

# Two drives that were exchanged.
mkdir a b
at '["a","b"]'
run 0 "${train[@]}" --output two --steps 3 "${at[@]}"
mv a c
mv b a
mv c b
run 0 "${train[@]}" --output two --steps 6 --resume "${at[@]}"
[ "$(hash_of)" = "$whole" ] || fail 'two drives were exchanged: another state'

# The output has another name, and the state is in it.
config cpu | sed "s,4MiB,16MiB," >host.json
run 0 "$strata" train host.json --output here --steps 3
mv here there
run 0 "$strata" checkpoint verify there
run 0 "$strata" train host.json --output there --steps 6 --resume --progress json
[ "$(hash_of)" = "$whole" ] || fail 'an output was renamed: another state'

# ---- the end of the run --------------------------------------------------------------------------

# A signal during the last evaluation: the state is there, the result is not, and going on makes it.
make_text 40000 >text.txt
long=("${train[@]}" --steps 3 --set strata.data.held_out=0.5 --set strata.data.eval_windows=0)
"${long[@]}" --output long >long.txt 2>long.err &
pid=$!
wait_for long.txt '"event":"progress"' $pid
kill -TERM $pid
wait $pid
got=$?
[ $got -eq 143 ] || fail "a signal during the last evaluation: exit code $got"
has long.err '^SIGTERM: all steps are done: stopping before the result is there'
has long.err '^stopped after step 3, which is saved; the result is not written yet$'
[ "$(value stopped step long.txt)" = 3 ] || fail 'no stopped event after the last step'
[ ! -e long/model.safetensors ] || fail 'a result was written'
[ "$(value progress what long.txt | sort -u)" = '"evaluating"' ] || fail 'no progress of evaluating'
value progress total long.txt >/dev/null
kill -0 $pid 2>/dev/null && fail 'still there'
run 0 "${train[@]}" --output long --steps 3 --resume --set strata.data.held_out=0.5
[ -s long/model.safetensors ] || fail 'going on wrote no result'
resumed=$(hash_of)
value progress what done.txt | grep -q '^"writing the model"$' || fail 'no progress of writing'
run 0 "${train[@]}" --output short --steps 3 --set strata.data.held_out=0.5
[ "$(hash_of)" = "$resumed" ] || fail 'stopped in the last evaluation: another state'

# During an evaluation between steps: the step is the last one.
"${long[@]}" --output between --steps 1000 --set strata.eval_every=2 >between.txt 2>between.err &
pid=$!
wait_for between.txt '"event":"progress"' $pid
kill -INT $pid 2>/dev/null
kill -TERM $pid
wait $pid
got=$?
[ $got -eq 143 ] || [ $got -eq 130 ] || fail "a signal during an evaluation: exit code $got"
has between.err '^stopped after step 2, which is saved$'
if grep -q '"event":"eval"' between.txt; then fail 'an evaluation that was cut off is reported'; fi

finish
