#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/bench_tune.sh - `strata tune nvme`: what it prints, what it writes into a configuration, and
# what of that is left alone. Label: slow
# shellcheck source-path=SCRIPTDIR source=cli_util.sh
. "$(dirname "${BASH_SOURCE[0]}")/cli_util.sh" "$@"
tune=("$strata" tune nvme)
mkdir drive drive2
set_up

# empty DIR...: nothing is left there.
empty() {
	local dir

	for dir; do
		[ -z "$(ls -A "$dir")" ] || fail "$dir is not empty: $(ls -A "$dir")"
	done
}

run 0 "${tune[@]}" --path drive --size 96MiB --seconds 1 --json --svg tune.svg
grep -q '^"aio":{"block_size":[0-9]*,"queue_depth":[0-9]*,"intra_op_parallelism":[0-9]*,' out.txt ||
	fail "tune --json: $(cat out.txt)"
has out.txt '^"why":".*(faster|stays as it is).*"}$'
tr '\n' ' ' <out.txt >one.txt
value - aio one.txt | grep -q single_submit || fail 'tune --json: no object'
has tune.svg '^</svg>$'

# ---- a configuration of one's own ---------------------------------------------------------------

{
	echo '// mine'
	config nvme | sed 's/"nvme_path": "nvme"/"nvme_path": ["drive", "drive2"]/'
} >c.json
cp c.json before.json
chmod 640 c.json
run 0 "${tune[@]}" --size 256MiB --seconds 1 --write c.json
has out.txt '^# c.json: written$'
has out.txt '^alone +drive2 '
run 0 "$strata" config check c.json
[ "$(stat -c %a c.json)" = 640 ] || fail 'the mode of c.json has changed'
has c.json '^// mine$'
has c.json '"aio": \{ "block_size": [0-9]+'
has c.json '"nvme": \{ "backend": "(auto|threads)", "sqpoll": (true|false), "weights": \[[0-9]+, [0-9]+\]'
# every line is still there, save for a comma behind two of them
sed 's/,$//' c.json >after.txt
sed 's/,$//' before.json | grep -vxFf after.txt >lost.txt
[ ! -s lost.txt ] || fail "lines are gone: $(cat lost.txt)"
run 0 "$strata" train c.json --steps 2 --progress none
rm -rf out
rm -rf drive/* drive2/* # the run's store

# what is there already is replaced in its place
sed 's|"steps_per_print": 5,|"steps_per_print": 5, "aio": { "thread_count": 3 /* three */ },|' \
	before.json >old.json
run 0 "${tune[@]}" --size 192MiB --seconds 1 --write old.json
run 0 "$strata" config check old.json
has old.json '"thread_count": [0-9]+, /\* three \*/ "block_size": [0-9]+, '
run 0 "${tune[@]}" --path drive --size 96MiB --seconds 1 --write new.json
has new.json '"queue_depth": [0-9]+,$'
[ "$(find . -name '*.json.*' | wc -l)" = 0 ] || fail 'temporary files are left'
empty drive drive2

# ---- what is refused -----------------------------------------------------------------------------

refused 2 '--path is missing' "${tune[@]}"
refused 2 'nowhere/c.json' "${tune[@]}" --path drive --write nowhere/c.json
refused 2 'nowhere' "${tune[@]}" --path nowhere --size 96MiB
refused 2 '3 times --path, and 2 directories' "${tune[@]}" --path drive --path drive2 --path drive \
	--write before.json
refused 2 '--size: 32.0 MiB are too little for 1 path .* at least 80.1 MiB' "${tune[@]}" --path drive \
	--size 32MiB
sed 's/"steps": 20/"stpes": 20/' before.json >bad.json
refused 2 'bad.json:[0-9]+:[0-9]+: ' "${tune[@]}" --path drive --write bad.json

# ---- a signal ------------------------------------------------------------------------------------

cp before.json c.json
perl -e '$SIG{INT} = "DEFAULT"; exec @ARGV' "${tune[@]}" --path drive --size 96MiB --seconds 60 \
	--write c.json >out.txt 2>err.txt &
pid=$!
wait_for out.txt '^part' $pid
kill -INT $pid
wait $pid
got=$?
[ $got = 130 ] || fail "exit code $got in place of 130"
has err.txt '^strata: stopped by SIGINT'
cmp -s before.json c.json || fail 'c.json was changed'
empty drive drive2

finish
