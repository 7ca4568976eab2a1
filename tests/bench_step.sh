#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/bench_step.sh - `strata bench step`: real and simulated compute, what it says, what it leaves.
# shellcheck source-path=SCRIPTDIR source=cli_util.sh
. "$(dirname "${BASH_SOURCE[0]}")/cli_util.sh" "$@"
bench=("$strata" bench step --path drive --params 500000 --layers 3 --seq 64 --seconds 0.1)
mkdir drive

empty() {
	[ -z "$(ls -A drive)" ] || fail "drive is not empty: $(ls -A drive)"
}

run 0 "${bench[@]}"
has out.txt '^# .* parameters, 3 blocks of hidden size 128, 64 tokens a step'
has out.txt '^compute +[0-9.]+ +[0-9.]+ +[0-9.]+ +-$'
has out.txt '^nvme-write +[0-9.]+ +[0-9.]+ +[0-9.]+ +[0-9.]+$'
has out.txt '^# bound [0-9.]+ s by [a-z-]+: a share of [0-9.]+ %$'
empty

# Simulated: 0.6 M parameters, 64 tokens, 8 operations each with recompute but once in the last
# block; at 1 s for 1e9 operations a step computes for that many seconds or more, and compute limits.
for update in auto deferred immediate; do
	run 0 "${bench[@]}" --compute 1 --json --update "$update"
	cp out.txt step.json
	for key in step_s bound_s share nvme_read_bytes_per_step gflop_per_step device_bytes; do
		value - "$key" step.json | grep -qv '^[0-9.eE+-]*$' && fail "$key is no number"
	done
	[ "$(value - compute step.json)" = '"simulated"' ] || fail 'not simulated'
	[ "$(value - limiting_lane step.json)" = '"compute"' ] || fail 'a slow device is not what limits'
	awk -v step="$(value - step_s step.json)" -v gflop="$(value - gflop_per_step step.json)" \
		-v share="$(value - share step.json)" 'BEGIN {
			exit !(gflop > 0.15 && gflop < 0.4 && step >= gflop && share > 0.5 && share < 1.05)
		}' || fail "$(cat step.json)"
	empty
done

refused 2 'neither real nor seconds' "${bench[@]}" --compute fast
refused 2 'neither real nor seconds' "${bench[@]}" --compute -1
refused 2 'a layer has at least' "$strata" bench step --path drive --params 100000 --layers 90
refused 2 'needs a way back' "${bench[@]}" --update speculative --durability none
refused 3 'too small' "${bench[@]}" --device 64KiB
refused 2 'nowhere' "$strata" bench step --path nowhere --params 1000000 --layers 3
empty

# Asked to stop: soon, and nothing is left.
"${bench[@]}" --seconds 1000 >out.txt 2>err.txt &
pid=$!
sleep 1
kill -TERM "$pid"
wait "$pid"
[ $? -eq 143 ] || fail 'SIGTERM does not end it with 143'
empty

finish
