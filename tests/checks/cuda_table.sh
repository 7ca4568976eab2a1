#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/checks/cuda_table.sh [--self-test] [BUILD] - what nvcc made of the kernels in gpu/cuda: registers,
# shared memory, spills, occupancy, width of loads, mma and asynchronous copies. Prints the table, and fails
# if
#
#     a kernel spills registers or uses local memory
#     a kernel's registers do not fit the threads it is launched with
#     a kernel that streams does not load and store 16 bytes at a time
#     a kernel of attention on tensor cores has no mma, ldmatrix or asynchronous copy
#     a kernel adds floating-point numbers atomically
#     nvcc or ptxas warns
#     the plugin lacks the code of an architecture that BUILD is configured for
#
# BUILD is a directory that strata-cuda.so was built in: gpu/cuda/build.cmake keeps there what ptxas said,
# and the PTX; nothing is compiled. Without BUILD the plugin is built for every architecture first, which
# takes minutes. --self-test breaks copies of these files, one rule after another, and fails if a broken
# one passes. Shared memory is dynamic: tests/checks/cuda_table.pl knows what each launch takes.
# Exits with 77 where there is no nvcc.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

mode=table
if [ "${1-}" = --self-test ]; then
	mode=self-test
	shift
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

build() {
	if ! command -v nvcc >/dev/null && [ ! -x /usr/local/cuda/bin/nvcc ] && [ -z "${CUDA_HOME-}" ]; then
		echo 'cuda_table.sh: no nvcc here: skipped'
		exit 77
	fi
	unset STRATA_CUDA_ARCHS
	{ cmake -S . -B "$work/build" -DSTRATA_CUDA=ON -DSTRATA_TESTS=OFF &&
		cmake --build "$work/build" --target strata_cuda; } >"$work/log" 2>&1 || {
		tail -n 40 "$work/log"
		echo 'cuda_table.sh: the plugin does not build: see above'
		exit 1
	}
	dir=$work/build
}

# table DIRECTORY: of the logs and the PTX there.
table() {
	perl tests/checks/cuda_table.pl "$1"/*.log "$1"/*.ptx
}

# must_fail WHAT FILE EDIT: with FILE changed by the program EDIT of perl, the table is wrong in the way
# that WHAT, a pattern, says.
must_fail() {
	local what=$1 file=$2 edit=$3

	rm -rf "$work/broken"
	cp -r "$work/good" "$work/broken"
	perl -0777 -pi -e "$edit" "$work/broken/$file"
	if cmp -s "$work/good/$file" "$work/broken/$file"; then
		echo "cuda_table.sh: self-test: nothing in $file to break: $edit"
		exit 1
	fi
	if table "$work/broken" >"$work/out" 2>&1; then
		echo "cuda_table.sh: self-test: passed although $file was broken: $edit"
		exit 1
	fi
	if ! grep -Eq "^cuda_table: .*$what" "$work/out"; then
		tail -n 5 "$work/out"
		echo "cuda_table.sh: self-test: $file was broken ($edit), and not: $what"
		exit 1
	fi
}

# shellcheck disable=SC2016 # the dollars are perl's
self_test() {
	mkdir "$work/good"
	cp "$dir"/cuda/*.log "$dir"/cuda/*.ptx "$work/good"
	perl -ni -e 'print if !/^\s*\.(?:b\d|loc\b)/' "$work"/good/*.ptx # line numbers: half of it
	table "$work/good" >/dev/null || {
		echo 'cuda_table.sh: self-test: the table is wrong before anything is broken'
		exit 1
	}
	must_fail '8 bytes spilled' attention.cu.log 's/0 bytes spill stores/8 bytes spill stores/'
	must_fail '16 loaded back' rows.cu.log 's/0 bytes spill loads/16 bytes spill loads/'
	must_fail 'a stack frame of 32 bytes' loss.cu.log 's/0 bytes stack frame/32 bytes stack frame/'
	must_fail '600 registers in [0-9]+ threads do not fit' optim.cu.log 's/Used \d+ registers/Used 600 registers/'
	must_fail 'not compiled for every architecture' embedding.cu.log 's/Compiling entry function .*\n//'
	must_fail 'figures are missing' embedding.cu.log 's/ptxas info +: Used \d+ registers.*\n//'
	must_fail 'warning' elementwise.cu.log 's/^/elementwise.cu(1): warning #177-D: never referenced\n/'
	must_fail 'accesses to local memory' rows.ptx 's/(\n\s*)(ret;)/$1ld.local.u32 %r1, [%rd1];$1$2/'
	must_fail 'floating-point atomics' loss.ptx 's/(\n\s*)(ret;)/$1atom.global.add.f32 %f1, [%rd1], %f2;$1$2/'
	must_fail 'loads no 16 bytes' elementwise.ptx 's/(\bld\.[\w.]*)v4/$1v2/g; s/(\bld\.[\w.]*)v2\.(u|b|f)64/$1$2.64/g'
	must_fail 'stores no 16 bytes' embedding.ptx 's/(\bst\.[\w.]*)v4/$1v2/g; s/(\bst\.[\w.]*)v2\.(u|b|f)64/$1$2.64/g'
	must_fail 'attention on tensor cores without mma' attention.ptx 's/mma\.sync/fma.sync/g'
	must_fail 'attention on tensor cores without ldmatrix' attention.ptx 's/ldmatrix\.sync/ldmat.sync/g'
	must_fail 'attention on tensor cores without copies' attention.ptx 's/cp\.async\.c/cp.sync.c/g'
	if perl tests/checks/cuda_archs.pl "$plugin" sm_10 >"$work/out" 2>&1 ||
		! grep -q 'no code for sm_10$' "$work/out"; then
		cat "$work/out"
		echo 'cuda_table.sh: self-test: the plugin has code for sm_10?'
		exit 1
	fi
	echo 'cuda_table.sh: self-test: each of 15 faults is found'
}

dir=${1-}
[ -n "$dir" ] || build
plugin=$dir/strata-cuda.so
if [ ! -f "$plugin" ]; then
	echo "cuda_table.sh: $plugin is not there: build it first, or name no directory"
	exit 1
fi
if [ "$mode" = self-test ]; then
	self_test
	exit
fi
table "$dir/cuda"
read -ra codes <"$dir/cuda/codes"
perl tests/checks/cuda_archs.pl "$plugin" "${codes[@]}"
