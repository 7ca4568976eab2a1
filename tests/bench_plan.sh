#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/bench_plan.sh - `strata bench plan`: every shipped configuration plans, two small ones are
# trained beside their prediction, what fails is shown, and nothing is left behind.
# Label: slow
shipped=$(cd "$(dirname "${BASH_SOURCE[0]}")/../examples/plan" && pwd)
# shellcheck source-path=SCRIPTDIR source=cli_util.sh
. "$(dirname "${BASH_SOURCE[0]}")/cli_util.sh" "$@"
mkdir drive configs

empty() {
	[ -z "$(ls -A drive)" ] || fail "drive is not empty: $(ls -A drive)"
}

# figure KEY PART: of the first configuration in out.txt.
figure() {
	grep -o "\"$1\":{\"predicted\":[0-9.e+-]*,\"measured\":[0-9.e+-]*" out.txt | head -n 1 |
		sed -E "s/.*\"$2\":([0-9.e+-]*).*/\1/"
}

n=0
for file in "$shipped"/*.json; do
	run 0 "$strata" plan "$file" --no-measure --json
	n=$((n + 1))
done
[ "$n" -ge 10 ] || fail "only $n configurations are shipped"

config nvme | grep -v '"data"' >configs/small.json
config cpu | grep -v '"data"' | sed 's/"host": { "memory": "4MiB" },//' >configs/kept.json
bench=("$strata" bench plan --configs configs --path drive --seconds 0.01)
run 0 "${bench[@]}" --json
for key in step_s bound_s device_bytes host_bytes nvme_bytes process_bytes; do
	for part in predicted measured; do
		awk -v x="$(figure "$key" "$part")" 'BEGIN { exit !(x > 0) }' ||
			fail "$key: $part is no figure above 0"
	done
done
# What is allocated is what was planned, whatever the machine does beside it.
for key in device_bytes host_bytes nvme_bytes; do
	awk -v p="$(figure "$key" predicted)" -v m="$(figure "$key" measured)" \
		'BEGIN { exit !(m > 0.97 * p && m < 1.03 * p) }' || fail "$key: $(cat out.txt)"
done
grep -q '"off":{"step":{"median":[0-9.]*,"worst":[0-9.]*}' out.txt || fail "$(cat out.txt)"
empty

run 0 "${bench[@]}" --markdown
has out.txt '^\| small \| [a-z-]+ \| [0-9.]+ \| [0-9.]+ \| [+-][0-9.]+ % '
has out.txt '^- device memory: [0-9.]+ % off in the median, [0-9.]+ % at worst true$'
empty

# One that fails does not hide the others, and is not hidden by them.
sed 's/"host": { "memory": "4MiB" }/"host": { "memory": "4KiB" }/' configs/small.json >configs/a.json
run 3 "$strata" bench plan --configs configs/a.json --configs configs/small.json --path drive \
	--seconds 0.01
has out.txt '^# a: .*host memory of 0.0 MiB is too small'
has out.txt '^small +[a-z-]+ +[0-9.]+ +[0-9.]+ '
has out.txt '^# time of a step: off by [0-9.]+ % in the median'
empty

refused 2 'nowhere' "$strata" bench plan --configs nowhere
mkdir none
refused 2 'no .json is there' "$strata" bench plan --configs none
refused 2 'not both' "${bench[@]}" --json --markdown

# Asked to stop: soon, and nothing is left.
"${bench[@]}" --seconds 1000 >out.txt 2>err.txt &
pid=$!
sleep 3
kill -TERM "$pid"
wait "$pid"
[ $? -eq 143 ] || fail 'SIGTERM does not end it with 143'
empty

finish
