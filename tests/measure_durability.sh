#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/measure_durability.sh [OPTION]... - what it costs to commit every step. Not a test: it
# measures, for minutes, on a machine that should do nothing else.
#
#     --build DIR          with the program and its tests (build)
#     --path DIR           where the state lives (a directory of its own in the current one)
#     --pairs N            runs with and without commits, in turn (5)
#     --steps N            of each run; the first two do not count (14)
#     --delay S            the second part's flushes are told so late (0.5)
#     --set KEY=VALUE      for the training run, any number of times
#
# First the program, with strata.nvme.durability "step" and "none", nothing pinned, all on NVMe; then
# the engine over flushes that take S seconds. Prints each pair and the medians of the ratios.
set -euo pipefail
export LC_ALL=C OMP_WAIT_POLICY=passive

build=build
path=
pairs=5
steps=14
delay=0.5
sets=()

usage() {
	sed -n '/^#     --/s/^#     /  /p' "${BASH_SOURCE[0]}" >&2
	exit 2
}

while [ $# -gt 0 ]; do
	[ $# -ge 2 ] || usage
	case $1 in
	--build) build=$2 ;;
	--path) path=$2 ;;
	--pairs) pairs=$2 ;;
	--steps) steps=$2 ;;
	--delay) delay=$2 ;;
	--set) sets+=(--set "$2") ;;
	*) usage ;;
	esac
	shift 2
done
[[ $pairs =~ ^[1-9][0-9]*$ && $steps =~ ^[1-9][0-9]*$ && $steps -gt 2 ]] || usage
strata=$(realpath "$build/strata")
engine=$(realpath "$build/tests/test_durability")
for program in "$strata" "$engine"; do
	[ -x "$program" ] || {
		echo "$program is not there: build first, or give --build" >&2
		exit 2
	}
done

work=$(mktemp -d "${TMPDIR:-/tmp}/strata-durability.XXXXXX")
state=$(mktemp -d "${path:-.}/durability.XXXXXX")
state=$(realpath "$state")
trap 'rm -rf "$work" "$state"' EXIT

awk 'BEGIN { srand(7); for (i = 0; i < 20000; i++) printf "%c", i % 60 ? 97 + int(rand() * 26) : 10 }' \
	>"$work/text.txt"
cat >"$work/c.json" <<END
{
	"train_batch_size": 4, "train_micro_batch_size_per_gpu": 4, "gradient_clipping": 1.0,
	"bf16": { "enabled": true }, "optimizer": { "type": "AdamW", "params": { "lr": 1e-3 } },
	"zero_optimization": {
		"stage": 3,
		"offload_param": { "device": "nvme", "nvme_path": "$state" },
		"offload_optimizer": { "device": "nvme", "nvme_path": "$state" }
	},
	"strata": {
		"model": {
			"family": "gpt2", "n_layer": 6, "n_embd": 768, "n_head": 12,
			"n_positions": 128, "vocab_size": 256
		},
		"data": { "train": "$work/text.txt", "format": "bytes", "eval_windows": 4 },
		"nvme": { "keep": "never" }, "steps": $steps, "seed": 1, "output": "$work/out"
	}
}
END

# train HOW: prints nanoseconds a step (median) and bytes written a step (mean), without the first two.
train() {
	rm -rf "$work/out"
	"$strata" train "$work/c.json" --progress json --set "strata.nvme.durability=\"$1\"" \
		"${sets[@]+"${sets[@]}"}" 2>"$work/err.txt" >"$work/log.txt" || {
		cat "$work/err.txt" >&2
		exit 1
	}
	sed -n 's/.*"event":"step","step":\([0-9]*\),.*"nvme_write_bytes":\([0-9]*\),.*"step_ns":\([0-9]*\)[,}].*/\1 \3 \2/p' \
		"$work/log.txt" | awk -v all="$work/$1.txt" '$1 > 2 { t[n++] = $2; bytes += $3; print $2 >>all } END {
			for (i = 1; i < n; i++)
				for (j = i; j > 0 && t[j - 1] > t[j]; j--) {
					x = t[j]; t[j] = t[j - 1]; t[j - 1] = x
				}
			if (!n)
				exit 1
			printf "%.0f %.0f\n", t[int(n / 2)], bytes / n
		}'
}

# median: of numbers, one a line.
median() {
	sort -g | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

# quick HOW: seconds; a tenth of all steps took less.
quick() {
	sort -g "$work/$1.txt" | awk '{ v[NR] = $1 } END { print v[int((NR + 9) / 10)] / 1e9 }'
}

for ((i = 0; i < pairs; i++)); do
	if ((i % 2)); then # who goes first takes turns too
		step=$(train step)
		none=$(train none)
	else
		none=$(train none)
		step=$(train step)
	fi
	echo "$none $step" >>"$work/pairs.txt"
	echo "$none $step" | awk '{ printf "none %.3f s, step %.3f s a step, ratio %.3f; written %.4f\n",
		$1 / 1e9, $3 / 1e9, $3 / $1, $4 / $2 }'
done
printf 'the program: median of %d ratios, step to none: time %.3f, bytes written %.4f\n' "$pairs" \
	"$(awk '{ print $3 / $1 }' "$work/pairs.txt" | median)" \
	"$(awk '{ print $4 / $2 }' "$work/pairs.txt" | median)"
# What disturbs a step only makes it longer: the quick ones of all runs say what a commit costs.
printf 'a tenth of all steps took less: none %.3f s, step %.3f s, ratio %.3f\n' \
	"$(quick none)" "$(quick step)" "$(echo "$(quick step) $(quick none)" | awk '{ print $1 / $2 }')"

cd "$state" # short names: the engine of the tests has room for no others
CK_VERBOSITY=silent "$engine" --measure --delay "$delay" --pairs "$pairs" --path .
