#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/cli_random.sh - one numeric plan, one result: random models and optimizers, each trained in
# memory once and then under random homes, budgets, update modes, orders, paths, kinds of I/O and
# commits, stopped and killed at random. Hash and exported bytes must be the same, also exported by
# strata checkpoint; the budgets that strata plan names as the smallest must do.
#
# Label: slow
# Timeout: 1800
#
#     cli_random.sh STRATA CLI_JSON TRAIN_API [SEED [PLANS [VARIATIONS]]]
#
# A failure prints the options of the run, over a c.json that only asks for stage 3.
# shellcheck source-path=SCRIPTDIR source=cli_util.sh
. "$(dirname "${BASH_SOURCE[0]}")/cli_util.sh" "$@"
seed=${4-1}
n_plans=${5-40}
n_variations=${6-4}
export OMP_WAIT_POLICY=passive
make_text 400 >text.txt
mkdir "path 1" path2 pfad-ö
ZO=zero_optimization
n_runs=0 n_stops=0 n_kills=0

# pick WORD...: one of them.
pick() {
	shift $((RANDOM % $#))
	picked=$1
}

# below N: 0 .. N - 1
below() {
	picked=$(((RANDOM * 32768 + RANDOM) % $1))
}

# numeric: what the result depends on, into numeric[].
numeric() {
	local head_dim n_head positions type clip lr

	numeric=(steps_per_print=1000 'strata.data={"train":"text.txt","format":"bytes","eval_windows":3}')
	pick 1 2 3 5; n_head=$picked
	pick 8 8 16 24 40; head_dim=$picked
	pick 5 8 17 32; positions=$picked
	pick 256 257 300 1111 5003; vocab=$picked
	below 4; layers=$((picked + 1))
	numeric+=("strata.model={\"n_layer\":$layers,\"n_embd\":$((n_head * head_dim)),\"n_head\":$n_head,\"n_positions\":$positions,\"vocab_size\":$vocab}")
	below "$positions"
	numeric+=(strata.data.seq_len=$((picked / 2 + positions / 2 + 1)))
	pick 1 2 3; numeric+=(train_micro_batch_size_per_gpu="$picked")
	pick 1 1 2 3 5; numeric+=(gradient_accumulation_steps="$picked")
	pick fp32 bf16 bf16 fp16
	case $picked in
	bf16) numeric+=(bf16.enabled=true) ;;
	fp16)
		pick 4 16 24 32
		numeric+=(fp16.enabled=true fp16.initial_scale_power="$picked")
		pick 1 2; numeric+=(fp16.hysteresis="$picked")
		pick 2 3 1000; numeric+=(fp16.loss_scale_window="$picked")
		;;
	esac
	pick AdamW AdamW Adam Adagrad Lion SGD; type=$picked
	numeric+=(optimizer.type="$type")
	pick 3e-3 1e-4; lr=$picked
	case $type in
	Adam) pick true false; numeric+=(optimizer.params.adam_w_mode="$picked") ;;
	Lion) lr=3e-4 ;;
	SGD)
		lr=0.05
		pick 0 0.9; numeric+=(optimizer.params.momentum="$picked")
		[ "$picked" = 0 ] || { pick true false; numeric+=(optimizer.params.nesterov="$picked"); }
		;;
	esac
	numeric+=(optimizer.params.lr="$lr")
	pick 0 0.1; numeric+=(optimizer.params.weight_decay="$picked")
	pick fp32 bf16 int8; numeric+=(strata.optimizer.moments="$picked")
	pick matrices all; numeric+=(strata.optimizer.decay="$picked")
	pick 0 0 0.2 1.0 2.5 8; clip=$picked
	numeric+=(gradient_clipping="$clip")
	below 12; steps=$((picked + 3))
	pick 0 2 5; numeric+=(strata.eval_every="$picked")
	pick 1 2; numeric+=(strata.threads="$picked")
	below 1000; numeric+=(strata.seed="$picked")
	clips=$clip
}

# placed: what must not matter, into placed[].
placed() {
	local update paths

	placed=()
	pick none cpu nvme nvme nvme; placed+=("$ZO.offload_param.device=$picked")
	pick none cpu nvme nvme nvme; placed+=("$ZO.offload_optimizer.device=$picked")
	pick 1 1 2 3
	case $picked in
	1) paths='["path 1"]' ;;
	2) paths='["path2","path 1"]'; pick '[1,3]' '[7,2]' '[1,1]'
	   placed+=("strata.nvme.weights=$picked") ;;
	3) paths='["path 1","path2","pfad-ö"]' ;;
	esac
	placed+=("$ZO.offload_param.nvme_path=$paths" "$ZO.offload_optimizer.nvme_path=$paths")
	pick auto auto deferred speculative immediate; update=$picked
	[ "$update" != immediate ] || { [ "$clips" = 0 ] && [[ ${numeric[*]} != *fp16* ]]; } || update=auto
	placed+=(strata.optimizer.update="$update")
	pick vertical horizontal; placed+=(strata.micro_batch_order="$picked")
	pick true false; placed+=(strata.recompute="$picked")
	pick 1 1 2 3; placed+=(strata.nvme.commit_every="$picked")
	pick step step none; durability=$picked
	placed+=(strata.nvme.durability="$picked")
	pick io_uring io_uring threads; placed+=(strata.nvme.backend="$picked")
	pick true true false; placed+=(strata.nvme.checksum="$picked")
	pick 4096 65536 1MiB; placed+=(aio.block_size="$picked")
	pick 1 2 8 33; placed+=(aio.queue_depth="$picked")
	pick true false; placed+=(aio.single_submit="$picked")
	pick true false; placed+=(aio.overlap_events="$picked")
	pick auto auto never; placed+=(strata.nvme.spill="$picked")
	pick read open; placed+=(strata.nvme.verify="$picked")
	if [ "$update" = speculative ]; then # what it needs
		durability=step
		placed+=("$ZO.offload_param.device=nvme" "$ZO.offload_optimizer.device=nvme"
			strata.nvme.commit_every=1 strata.nvme.durability=step)
	fi
	if [ "$durability" = step ]; then
		pick 0 0 0 3
		placed+=(strata.nvme.keep_every="$picked")
	fi
}

# sets WORD...: as options, into options[].
sets() {
	local s

	options=()
	for s; do
		options+=(--set "$s")
	done
}

smallest() {
	sed -n 's/.*"smallest_bytes": *\([0-9]*\).*/\1/p' plan.json
}

# budgets: the smallest that the plan names, and odd amounts more, into placed[].
budgets() {
	local device host

	sets "${numeric[@]}" "${placed[@]}"
	"$strata" plan c.json "${options[@]}" --no-measure --json 2>plan.err |
		tr ',' '\n' >plan.json
	if [ "${PIPESTATUS[0]}" -ne 0 ]; then
		return 1
	fi
	device=$(smallest | sed -n 1p)
	host=$(smallest | sed -n 2p)
	if [ -z "$device" ] || [ -z "$host" ]; then
		fail "plan --json names no smallest budgets: ${options[*]@Q}"
		return 1
	fi
	pick 0 0 1 12345 300001 3000001
	device=$((device + picked))
	[ $device -ge 1048576 ] || device=1048576
	pick 0 0 1 4097 54321 700001 3000001
	host=$((host + picked))
	[ $host -ge 4096 ] || host=4096
	pick both both both device host none
	case $picked in both | device) placed+=("strata.device.memory=$device") ;; esac
	case $picked in both | host) placed+=("strata.host.memory=$host") ;; esac
	return 0
}

complain() {
	fail "seed $seed plan $plan: $*"
	printf '    train c.json --steps %s%s\n' "$steps" "$(printf ' %q' "${options[@]}")" >&2
	sed 's/^/    /' train.err >&2
}

# once HOW [OPTION]...: one process of a run, whole or ended by the signal HOW; sets got.
once() {
	local how=$1 after i

	shift
	n_runs=$((n_runs + 1))
	if [ "$how" = whole ]; then
		timeout 100 "$strata" train c.json "${options[@]}" --steps "$steps" --progress json "$@" \
			>train.txt 2>train.err
		got=$?
		return
	fi
	below "$steps"; after=$((picked + 1))
	pick 0 0.001 0.004 0.02
	"$strata" train c.json "${options[@]}" --steps "$steps" --progress json "$@" \
		>train.txt 2>train.err &
	for ((i = 0; i < 1000; i++)); do
		[ "$(wc -l <train.txt)" -lt "$after" ] || break
		kill -0 $! 2>/dev/null || break
		sleep 0.01
	done
	sleep "$picked"
	kill "-$how" $! 2>/dev/null
	wait $! 2>/dev/null
	got=$?
	if [ "$how" = KILL ]; then n_kills=$((n_kills + 1)); else n_stops=$((n_stops + 1)); fi
}

outcome() {
	"$cli_json" 'done' state_hash <train.txt
	sha256sum <"$1/model.safetensors"
}

# vary: one run under a random placement must end where the reference ended.
vary() {
	local i resume=() how

	placed
	if ! budgets; then
		cp plan.err train.err
		complain 'the plan is refused'
		return
	fi
	sets "${numeric[@]}" "${placed[@]}" strata.output=out
	rm -rf out
	pick 0 0 1 2 3
	for ((i = picked; i > 0; i--)); do
		pick TERM TERM KILL; how=$picked
		once "$how" "${resume[@]+"${resume[@]}"}"
		case $got in
		0) ;;
		143) [ "$how" = TERM ] || complain "exit code $got" ;;
		137) [ "$how" = KILL ] || complain "exit code $got" ;;
		*)
			complain "exit code $got"
			return
			;;
		esac
		resume=()
		[ ! -e out/run.json ] || resume=(--resume)
		if [ "$how" = KILL ] && [ "$got" = 137 ] && [ "$durability" = none ]; then
			rm -rf out # nothing was promised
			resume=()
		fi
	done
	# already done: then there is nothing left that says the hash
	once whole "${resume[@]+"${resume[@]}"}"
	if [ "$got" -ne 0 ]; then
		complain "exit code $got"
	elif ! grep -q '"done"' train.txt || [ "$(outcome out)" != "$expected" ]; then
		grep -q '"done"' train.txt || echo '(no done line)' >>train.err
		complain "another result: $(outcome out 2>&1 | tr '\n' ' ') in place of $expected"
	fi
	if [ $((RANDOM % 4)) = 0 ] && [ "$got" -eq 0 ]; then
		"$strata" checkpoint verify out --all >verify.txt 2>train.err ||
			complain "verify: exit code $?"
		"$strata" checkpoint export out --output exported >verify.txt 2>train.err ||
			complain "export: exit code $?"
		cmp -s exported/model.safetensors out/model.safetensors || complain 'export: other bytes'
		rm -rf exported
	fi
	rm -rf out
	rm -rf "path 1"/* path2/* pfad-ö/*
}

echo '{ "zero_optimization": { "stage": 3 } }' >c.json
for ((plan = 0; plan < n_plans; plan++)); do
	RANDOM=$((seed * 1000 + plan))
	numeric
	sets "${numeric[@]}" strata.output=reference
	once whole
	if [ "$got" -ne 0 ]; then
		complain "reference: exit code $got"
		continue
	fi
	expected=$(outcome reference)
	rm -rf reference
	for ((v = 0; v < n_variations; v++)); do
		vary
	done
done
note "$n_runs runs: $n_stops stopped, $n_kills killed"
finish
