#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/checks/cuda_table.sh [OUT] - what nvcc makes of the kernels in gpu/cuda, for every
# architecture of the plugin: registers, shared memory, spills, occupancy, width of loads, mma and
# asynchronous copies. Prints the table (and writes it to OUT), and fails if
#
#     a kernel spills registers or uses local memory
#     a kernel's registers do not fit the threads it is launched with
#     a kernel that streams does not load and store 16 bytes at a time
#     a kernel of attention on tensor cores has no mma, ldmatrix or asynchronous copy
#     nvcc or ptxas warns
#
# Shared memory is dynamic: tests/checks/cuda_table.pl knows what each launch takes. Takes some minutes.
# Exits with 77 where there is no nvcc.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if ! command -v nvcc >/dev/null; then
	echo 'cuda_table.sh: no nvcc here: skipped'
	exit 77
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
out=${1:-$work/table}

sass=(80 86 89 90 100 120)
codes=(-gencode 'arch=compute_80,code=compute_80')
known=$(nvcc --list-gpu-code)
for sm in "${sass[@]}"; do
	if [[ $'\n'$known$'\n' == *$'\n'sm_$sm$'\n'* ]]; then
		codes+=(-gencode "arch=compute_$sm,code=sm_$sm")
	else
		echo "cuda_table.sh: this nvcc knows no sm_$sm: left out"
	fi
done

for source in gpu/cuda/*.cu; do
	name=$(basename "$source" .cu)
	# Every architecture at once, as the plugin has them; what ptxas says goes to stderr.
	if ! nvcc -std=c++17 -O3 -I. -Iinclude -Werror all-warnings -Xcompiler -Wall,-Wextra,-Wno-unused-parameter,-Werror \
		-Xptxas -v,-warn-spills --threads 2 "${codes[@]}" -c "$source" -o "$work/$name.o" \
		>"$work/$name.log" 2>&1; then
		cat "$work/$name.log"
		echo "cuda_table.sh: $source does not compile"
		exit 1
	fi
	nvcc -std=c++17 -O3 -I. -Iinclude -arch=compute_80 -ptx "$source" -o "$work/$name.ptx"
done

perl tests/checks/cuda_table.pl "$work"/*.log "$work"/*.ptx | tee "$out"
