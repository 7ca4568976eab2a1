#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/cuda_train.sh EMULATED CLI_JSON - the program trains on the emulated GPU beside it, through the
# same code as on a card. If the emulation has anything to report, the program ends with 86.
# Label: slow
# Timeout: 300
# shellcheck source-path=SCRIPTDIR source=cli_util.sh
. "$(dirname "${BASH_SOURCE[0]}")/cli_util.sh" "$1/strata" "$2" none
make_text 2000 >text.txt
mkdir nvme

# Device memory stays in the program's reach: to take it away for each operation costs more than that.
export STRATA_EMU_PROTECT=0

# main_job: a GPT-2 of 10.8 million parameters, 10 steps, everything on NVMe, budgets of which neither
# holds the parameters.
main_job() {
	cat <<-END
		{
			"train_batch_size": 2, "gradient_clipping": 1.0, "bf16": { "enabled": true },
			"optimizer": { "type": "AdamW", "params": { "lr": 1e-3, "weight_decay": 0.1 } },
			"zero_optimization": {
				"stage": 3,
				"offload_param": { "device": "nvme", "nvme_path": "nvme" },
				"offload_optimizer": { "device": "nvme", "nvme_path": "nvme" }
			},
			"strata": {
				"model": {
					"family": "gpt2", "n_layer": 6, "n_embd": 384, "n_head": 6,
					"n_positions": 64, "vocab_size": 256
				},
				"data": { "train": "text.txt", "format": "bytes", "eval_windows": 2 },
				"device": { "memory": "20MiB" }, "host": { "memory": "20MiB" },
				"threads": 2, "steps": 10, "seed": 1, "output": "out"
			}
		}
	END
}

# near FILE FILE: the losses of two runs, as many, each within 1e-2 of the second; and they fell.
near() {
	paste <(value step loss "$1") <(value step loss "$2") | awk '
		{ d = ($1 - $2) / $2; if (!(d <= 1e-2 && d >= -1e-2) || NF != 2) bad = bad " " NR ": " $1 ", " $2 ";" }
		NR == 1 { first = $1 }
		END { if (bad != "" || NR != 10 || !($1 < first)) { print NR " steps;" bad; exit 1 } }'
}

main_job >main.json
run 0 "$strata" train main.json --progress json --output cuda --set strata.device.type=cuda
has err.txt 'device +cuda \(Emulated GPU, sm_80, cuBLASLt 130000\)'
cp out.txt cuda.txt
run 0 "$strata" train main.json --progress json --output host --set strata.device.type=host
has err.txt 'device +host'
near cuda.txt out.txt || fail 'the losses on the emulated GPU are not those of the processor'
rm -rf cuda host nvme/*

# A small model: "auto" is the GPU where there is one that can do it, and says so in a line; whatever
# the schedule, and stopped half-way, the state is the same.
config nvme >c.json
small=(--progress json --set strata.model.n_layer=2 --set train_batch_size=2
	--set train_micro_batch_size_per_gpu=2 --set strata.data.eval_windows=2)
run 0 env STRATA_EMU_SEED=1 STRATA_EMU_PROTECT=1 "$strata" train c.json "${small[@]}" --steps 4
has err.txt '^device "auto": cuda \(Emulated GPU, .*; with "host" the processor would compute$'
[ "$(grep -c '"auto"' err.txt)" = 1 ] || fail 'what "auto" chose is not said in one line'
hash=$(value 'done' state_hash out.txt)
run 0 env STRATA_EMU_SEED=2 "$strata" train c.json "${small[@]}" --steps 2 --output pieces
run 0 env STRATA_EMU_SEED=3 "$strata" train c.json "${small[@]}" --steps 4 --output pieces --resume
[ "$(value 'done' state_hash out.txt)" = "$hash" ] || fail 'a run that was resumed has another state'
head -n 1 pieces/device.txt >first.txt
has first.txt '^cuBLASLt 130000 sm_80$'
cp pieces/device.txt first.txt
sed -i '1s/130000/130001/' pieces/device.txt
refused 2 'made with "cuBLASLt 130001 sm_80", here is "cuBLASLt 130000 sm_80"; resume it there' \
	"$strata" train c.json "${small[@]}" --steps 6 --output pieces --resume
mv first.txt pieces/device.txt
refused 2 'strata.device.type' "$strata" train c.json "${small[@]}" --steps 6 --output pieces \
	--resume --set strata.device.type=host

# The processor, where the GPU has not the memory, or cannot be opened, or is not there.
run 0 env STRATA_EMU_MIB=1 "$strata" train c.json "${small[@]}" --steps 1 --output small \
	--set strata.model.n_embd=256 --set strata.host.memory=64MiB
has err.txt '^warning: device "auto": the processor, for the GPU.s memory is too small: .*device'
has err.txt 'device +host'
run 0 env STRATA_EMU_GPUS=0 "$strata" train c.json "${small[@]}" --steps 1 --output none
has err.txt 'device +host'
if grep -q '"auto"' err.txt; then fail 'without a GPU there is nothing to say'; fi
run 0 "$strata" train c.json "${small[@]}" --steps 1 --output asked --set strata.device.type=host
if grep -q '"auto"' err.txt; then fail 'the processor was asked for'; fi

finish
