#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/checks/leaks.sh STRATA - two steps, and two more after a resume, of a small model whose state
# is on NVMe, under valgrind: no invalid access, no use of what was never set, no leak.
#
# The I/O backend is the pool of threads: valgrind 3.19 holds the other threads up while one waits in
# io_uring_enter(), so that a run never ends.
set -euo pipefail
export LC_ALL=C OMP_WAIT_POLICY=passive

strata=$1
work=$(mktemp -d "${TMPDIR:-/tmp}/strata-leaks.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/nvme"
for n in $(seq 600); do
	echo "line $n of a text that nobody will miss"
done >"$work/text"
cat >"$work/config.json" <<END
{
	"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 2,
	"bf16": {"enabled": true}, "gradient_clipping": 1.0,
	"optimizer": {"type": "AdamW", "params": {"lr": 1e-3}},
	"zero_optimization": {
		"stage": 3,
		"offload_param": {"device": "nvme", "nvme_path": "$work/nvme"},
		"offload_optimizer": {"device": "nvme", "nvme_path": "$work/nvme"}
	},
	"strata": {
		"model": {"family": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 16,
			"vocab_size": 256},
		"data": {"train": "$work/text", "format": "bytes"},
		"nvme": {"backend": "threads"},
		"output": "$work/out"
	}
}
END

check() {
	valgrind --quiet --error-exitcode=99 --leak-check=full --num-callers=25 \
		--show-leak-kinds=definite,indirect --errors-for-leak-kinds=definite,indirect \
		"$strata" "$@"
}

check train "$work/config.json" --progress line --steps 2
check train "$work/config.json" --progress line --steps 4 --resume
check sample "$work/out" --prompt line --tokens 4
