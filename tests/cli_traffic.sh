#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/cli_traffic.sh - what a run says that it moved to and from NVMe for each parameter and step,
# everything on NVMe: the rows of docs/design.md, within 3 %.
#
# Label: slow
# Timeout: 600
#
# A model of 7.5 M parameters: large enough that padding and gaps are below 2 %. 5 GB of I/O.
# shellcheck source-path=SCRIPTDIR source=cli_util.sh
. "$(dirname "${BASH_SOURCE[0]}")/cli_util.sh" "$@"
make_text 2000 >text.txt
mkdir nvme
config nvme >c.json
common=(--set strata.model.n_layer=1 --set strata.model.n_embd=768 --set strata.model.n_head=12
	--set strata.nvme.spill=never --set strata.optimizer.update=deferred --set train_batch_size=1
	--set train_micro_batch_size_per_gpu=1 --set strata.nvme.keep=never)

# smallest N: of the Nth budget, so that nothing stays in memory that could be on NVMe.
smallest() {
	sed -n 's/.*"smallest_bytes": *\([0-9]*\).*/\1/p' plan.txt | sed -n "$1p"
}

# row BYTES NAME [--set KEY=VALUE]...
row() {
	local want=$1 name=$2 got

	shift 2
	rm -rf out
	run 0 "$strata" plan c.json "${common[@]}" "$@" --set strata.host.memory=1GiB --no-measure --json
	tr ',' '\n' <out.txt >plan.txt
	run 0 "$strata" train c.json "${common[@]}" "$@" --steps 6 --progress json \
		--set strata.device.memory="$(smallest 1)" --set strata.host.memory="$(smallest 2)"
	mv out.txt row.txt
	got=$(value 'done' nvme_bytes_per_param_step row.txt)
	printf '%-24s %s bytes a parameter and step, %s expected\n' "$name" "$got" "$want"
	awk -v got="$got" -v want="$want" 'BEGIN { d = got / want - 1; exit !(d < 0.03 && d > -0.03) }' ||
		fail "$name: $got bytes, not $want"
}

row 26 'bf16, moments fp32'
row 18 'bf16, moments bf16' --set strata.optimizer.moments=bf16
row 14.13 'bf16, moments int8' --set strata.optimizer.moments=int8
row 28 fp16 --set bf16.enabled=false --set fp16.enabled=true --set fp16.initial_scale_power=8
row 28 fp32 --set bf16.enabled=false
finish
