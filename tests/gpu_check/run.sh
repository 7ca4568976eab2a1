#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/gpu_check/run.sh [OPTION]... - build gpu_check with nvcc and a C compiler, and run it.
#
# Needs a GPU, nvcc, a C compiler, CUDA's runtime and cuBLASLt; no network, no packages. What else
# is there is used: compute-sanitizer, and for the engine CMake with the program's libraries. OPTIONs
# go to gpu_check. Exits 77 where there is no GPU.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

out=build/gpu-check
cc=${CC:-cc}

say() {
	printf 'gpu-check: %s\n' "$*" >&2
}

# The driver's device files; under WSL there is another one.
has_gpu() {
	compgen -G '/dev/nvidia[0-9]*' >/dev/null || [ -e /dev/dxg ]
}

find_nvcc() {
	local candidate

	for candidate in "${CUDA_HOME:-}/bin/nvcc" "${CUDA_PATH:-}/bin/nvcc" \
		"$(command -v nvcc || true)" /usr/local/cuda/bin/nvcc; do
		if [ -x "$candidate" ]; then
			echo "$candidate"
			return
		fi
	done
	say "needs nvcc, of CUDA 12 or 13: install the CUDA toolkit, or set CUDA_HOME"
	exit 1
}

# compile_c FILE [FLAG]...
compile_c() {
	local file=$1 object
	shift

	object=$out/$(tr '/' '-' <<<"${file%.c}").o
	objects+=("$object")
	"$cc" -std=gnu11 -O2 -g -D_GNU_SOURCE -I. -Iinclude -fno-math-errno -ffp-contract=off \
		-DSTRATA_BUILD_ID='"gpu-check"' "$@" -c "$file" -o "$object"
}

# What else the build needs: everything that the program is made of but its other devices.
build() {
	local file simd2=() simd512=() jobs=()

	objects=()
	if [ "$(uname -m)" = x86_64 ]; then
		simd2=(-mavx2 -mfma -mf16c)
		simd512=(-mavx512f -mavx512bw -mavx512dq -mavx512vl "${simd2[@]}")
	fi
	for file in core/status.c core/log.c gpu/device.c tests/gpu_check/no_host.c cpu_optim/*.c; do
		case $file in
		*_avx2.c) compile_c "$file" "${simd2[@]+"${simd2[@]}"}" ;;
		*_avx512.c) compile_c "$file" "${simd512[@]+"${simd512[@]}"}" ;;
		*) compile_c "$file" ;;
		esac
	done
	for file in gpu/cuda/*.cu gpu/cuda/*.cc tests/cuda_cases.cc tests/cuda_header.cu \
		tests/gpu_check/*.cc; do
		[ "$file" != gpu/cuda/plugin.cc ] || continue
		local object=$out/${file##*/}.o
		objects+=("$object")
		"$nvcc" -std=c++17 -O3 -lineinfo "${arch[@]}" -D_GNU_SOURCE -I. -Iinclude \
			-c "$file" -o "$object" &
		jobs+=($!)
		# As many at once as there are processors.
		if [ ${#jobs[@]} -ge "$(nproc)" ]; then
			wait "${jobs[0]}"
			jobs=("${jobs[@]:1}")
		fi
	done
	for file in "${jobs[@]}"; do
		wait "$file"
	done
	"$nvcc" "${arch[@]}" -cudart static "${objects[@]}" -o "$out/gpu_check" -lpthread -ldl -lm
}

# The program itself, if what it is made of is here. Nothing is installed for it.
build_strata() {
	command -v cmake >/dev/null || return 0
	if ! cmake -S . -B build -DCMAKE_BUILD_TYPE=Release -DSTRATA_TESTS=OFF >"$out/cmake.log" 2>&1 ||
		! cmake --build build --target strata -j "$(nproc)" >>"$out/cmake.log" 2>&1; then
		say "the program cannot be built here, so the engine is left out: see $out/cmake.log"
	fi
}

# GPU_CHECK_BUILD_ONLY: that it compiles and links, which needs no GPU.
if ! has_gpu && [ -z "${GPU_CHECK_BUILD_ONLY:-}" ]; then
	say "no GPU here: no /dev/nvidia0 and no /dev/dxg"
	exit 77
fi
nvcc=$(find_nvcc)
mkdir -p "$out"
arch=(-arch=native)
[ -z "${GPU_CHECK_BUILD_ONLY:-}" ] || arch=(-arch=sm_80)
say "building with $nvcc, ${arch[*]}"
build
if [ -n "${GPU_CHECK_BUILD_ONLY:-}" ]; then
	exit 0
fi
options=(--json "$out/gpu-check.json" --work "$out")
if sanitizer=$(command -v compute-sanitizer) || { sanitizer=${nvcc%/*}/compute-sanitizer && [ -x "$sanitizer" ]; }; then
	options+=(--sanitizer "$sanitizer")
fi
case "$*" in
*--only*) ;;
*)
	build_strata
	[ ! -x build/strata ] || options+=(--strata build/strata)
	;;
esac
rc=0
"$out/gpu_check" "${options[@]}" "$@" || rc=$?
[ "$rc" -ne 77 ] || say "no GPU that can be used: see the line above"
[ "$rc" -eq 77 ] || say "the same as JSON: $out/gpu-check.json"
exit "$rc"
