#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/measure_step.sh WHAT... [OPTION]... - how near training comes to what the hardware allows. Not a
# test: it measures, for many minutes, on a machine that should do nothing else.
#
#     bound      step over bound: GPT-2 of several sizes, tokens a step, with clipping off and speculation
#     lane       the same of the engine alone, beside a computing lane that sleeps: as if the machine computed
#                at 1.2 TFLOP/s, so that the drive limits, or both, or computing
#     flat       one small budget for models from 355 M to 2.7 G parameters: memory, step over bound
#     budgets    one model with host budgets from 1 to 8 GiB: step, reads, what is pinned
#
#     --build DIR     with the program (build)
#     --path DIR      where the state lives (a directory of its own in the current one)
#     --steps N       of each run; the first two do not count (6)
#     --size WORD     small: no model above 400 M parameters; all (all)
#
# A row is the median of a run's steps. Bound, limiting lane and bytes are those of docs/usage.md, "The bound of a
# step": rates of the very run. Room: 24 bytes a parameter of the largest model.
set -euo pipefail
export LC_ALL=C OMP_WAIT_POLICY=passive

build=build
path=
steps=6
size=all
what=()

usage() {
	sed -n '/^#     /s/^#     /  /p' "${BASH_SOURCE[0]}" >&2
	exit 2
}

while [ $# -gt 0 ]; do
	case $1 in
	bound | lane | flat | budgets) what+=("$1") ;;
	--build | --path | --steps | --size)
		[ $# -ge 2 ] || usage
		declare "${1#--}=$2"
		shift
		;;
	*) usage ;;
	esac
	shift
done
[[ ${#what[@]} -gt 0 && $steps =~ ^[1-9][0-9]*$ && $steps -gt 2 && $size =~ ^(small|all)$ ]] || usage
strata=$(realpath "$build/strata")
[ -x "$strata" ] || {
	echo "$strata is not there: build first, or give --build" >&2
	exit 2
}

work=$(mktemp -d "${TMPDIR:-/tmp}/strata-step.XXXXXX")
state=$(mktemp -d "${path:-.}/step.XXXXXX")
state=$(realpath "$state")
trap 'rm -rf "$work" "$state"' EXIT

awk 'BEGIN { srand(7); for (i = 0; i < 200000; i++) printf "%c", i % 60 ? 97 + int(rand() * 26) : 10 }' \
	>"$work/text.txt"

# config MODEL SEQ ACCUMULATION CLIPPING DEVICE HOST MOMENTS
config() {
	cat >"$work/c.json" <<END
{
	"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": $3, "gradient_clipping": $4,
	"bf16": { "enabled": true }, "optimizer": { "type": "AdamW", "params": { "lr": 1e-4 } },
	"zero_optimization": {
		"stage": 3,
		"offload_param": { "device": "nvme", "nvme_path": "$state" },
		"offload_optimizer": { "device": "nvme", "nvme_path": "$state" }
	},
	"strata": {
		"model": $1, "data": { "train": "$work/text.txt", "format": "bytes", "seq_len": $2, "eval_windows": 1 },
		"device": { "type": "host", "memory": "$5" }, "host": { "memory": "$6" },
		"optimizer": { "moments": "$7" },
		"nvme": { "keep": "never" }, "steps": $steps, "seed": 1, "output": "$work/out"
	}
}
END
}

# train NAME: one row, of a run of "$work/c.json"; what it leaves lies in $work.
train() {
	local name=$1

	rm -rf "$work/out"
	"$strata" train "$work/c.json" --progress json >"$work/log.txt" 2>"$work/err.txt" || {
		echo "$name: $(tail -1 "$work/err.txt")"
		return 0
	}
	awk -v name="$name" '
		function number(key,    m) {
			return match($0, "\"" key "\":-?[0-9.e+-]+") ? \
				substr($0, RSTART + length(key) + 3, RLENGTH - length(key) - 3) + 0 : 0
		}
		function word(key) {
			return match($0, "\"" key "\":\"[^\"]*\"") ? \
				substr($0, RSTART + length(key) + 4, RLENGTH - length(key) - 5) : ""
		}
		function median(v, n,    i, j, x) {
			for (i = 2; i <= n; i++)
				for (j = i; j > 1 && v[j - 1] > v[j]; j--) { x = v[j]; v[j] = v[j - 1]; v[j - 1] = x }
			return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
		}
		/"event":"step"/ && number("step") > 2 {
			t[++n] = number("step_s"); b[n] = number("bound_s"); r[n] = t[n] / b[n]
			lane[word("limiting_lane")]++
			reads += number("nvme_read_bytes")
			clips += /"clipped":true/
		}
		/"event":"done"/ { rss = number("peak_rss_bytes"); per = number("nvme_bytes_per_param_step") }
		END {
			for (l in lane) if (lane[l] > most) { most = lane[l]; limit = l }
			printf "| %s | %.2f | %.2f | %.3f | %s | %.2f | %.2f | %d | %d of %d |\n", name, median(t, n),
				median(b, n), median(r, n), limit, reads / n / 1e9, per, rss / 1048576, clips, n
		}' "$work/log.txt"
}

title() {
	printf '\n%s\n\n' "$1"
	echo '| run | step, s | bound, s | ratio | limit | read, GB | B/param | RSS, MiB | clipped |'
	echo '|---|---|---|---|---|---|---|---|---|'
}

# is_tried MODEL: --size small leaves large models out
is_tried() {
	[ "$size" = all ] || [[ $1 == gpt2 || $1 == gpt2-medium ]]
}

measure_bound() {
	local model accum clip device host

	title 'Step over bound'
	while read -r model accum clip device host; do
		is_tried "$model" || continue
		config "\"$model\"" 1024 "$accum" "$clip" "$device" "$host" fp32
		train "$model, $accum x 1024, clipping $clip"
	done <<-END
		gpt2 1 0 640MiB 512MiB
		gpt2 1 1e9 640MiB 512MiB
		gpt2 4 1e9 768MiB 512MiB
		gpt2 8 0 896MiB 512MiB
		gpt2-medium 1 0 896MiB 768MiB
		gpt2-medium 1 1e9 896MiB 768MiB
		gpt2-large 1 1e9 1152MiB 1024MiB
	END
}

measure_lane() {
	local params layers accum update

	printf '\nThe engine, computing at 1.2 TFLOP/s\n\n'
	echo '| run | step, s | bound, s | ratio | limit | NVMe, GB/s |'
	echo '|---|---|---|---|---|---|'
	while read -r params layers accum update; do
		[ "$size" = all ] || [ "$params" -lt 400000000 ] || continue
		"$strata" bench step --path "$state" --params "$params" --layers "$layers" --seq 1024 --accum "$accum" \
			--compute 0.00083 --update "$update" --seconds 40 --json >"$work/step.json" 2>"$work/err.txt" || {
			echo "$params, $accum x 1024, $update: $(tail -1 "$work/err.txt")"
			continue
		}
		tr -d '\n' <"$work/step.json" | awk -v name="$params parameters, $accum x 1024, $update" '
			function number(key) {
				match($0, "\"" key "\": *-?[0-9.e+-]+")
				s = substr($0, RSTART, RLENGTH)
				sub(/.*: */, "", s)
				return s + 0
			}
			{
				match($0, /"limiting_lane": *"[^"]*"/)
				limit = substr($0, RSTART, RLENGTH - 1)
				sub(/.*"/, "", limit)
				printf "| %s | %.2f | %.2f | %.3f | %s | %.2f |\n", name, number("step_mean_s"),
					number("bound_s"), 1 / number("share"), limit, number("nvme_gbps")
			}'
	done <<-END
		124000000 12 1 immediate
		124000000 12 1 speculative
		354000000 24 1 immediate
		354000000 24 1 speculative
		354000000 24 4 speculative
		354000000 24 8 immediate
		1475000000 48 1 speculative
	END
}

measure_flat() {
	local name model

	title 'One budget: device 1216 MiB, host 320 MiB; 1 x 256 tokens, 8-bit moments, clipping off'
	while read -r name model; do
		is_tried "$name" || continue
		config "$model" 256 1 0 1216MiB 320MiB int8
		train "$name"
	done <<-END
		gpt2-medium "gpt2-medium"
		gpt2-large "gpt2-large"
		gpt2-xl "gpt2-xl"
		2.7B { "n_layer": 32, "n_embd": 2560, "n_head": 32, "n_positions": 1024, "vocab_size": 50257 }
	END
}

measure_budgets() {
	local host

	title 'gpt2-medium, 1 x 128 tokens, device 768 MiB, by host budget'
	for host in 1GiB 2GiB 4GiB 8GiB; do
		config '"gpt2-medium"' 128 1 0 768MiB "$host" fp32
		train "$host"
	done
}

for w in "${what[@]}"; do
	"measure_$w"
done
