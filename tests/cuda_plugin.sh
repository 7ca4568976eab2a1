#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/cuda_plugin.sh EMULATED_DIR BUILD_DIR - the program finds strata-cuda.so beside it, says which
# GPU there is or why there is none, and refuses a plugin of another build. In EMULATED_DIR the plugin
# is the emulation; the one in BUILD_DIR, if nvcc made one, meets this machine.
set -euo pipefail
export LC_ALL=C

emulated=$1
build=$2
dir=$(mktemp -d "${TMPDIR:-/tmp}/strata-plugin.XXXXXX")
trap 'rm -rf "$dir"' EXIT
failures=0

fail() {
	printf 'cuda_plugin: %s\n' "$*" >&2
	failures=$((failures + 1))
}

# says PROGRAM PATTERN [VAR=VALUE]...: doctor's line about the device.
says() {
	local program=$1 pattern=$2 line
	shift 2

	line=$(env "$@" "$program" doctor --no-measure 2>&1 | grep '  cuda device' || true)
	grep -Eq -- "$pattern" <<<"$line" || fail "$* expected '$pattern', got: $line"
}

says "$emulated/strata" 'Emulated GPU, sm_80, 4\.0 GiB, driver for CUDA 13\.0, cuBLASLt 130000'
says "$emulated/strata" 'Emulated GPU, sm_120,' STRATA_EMU_SM=120
says "$emulated/strata" 'no CUDA driver' STRATA_EMU_DRIVER=0
says "$emulated/strata" 'driver older than CUDA 13: it is for 12\.8' STRATA_EMU_DRIVER=12080
says "$emulated/strata" 'no GPU: no CUDA-capable device is detected' STRATA_EMU_GPUS=0
says "$emulated/strata" 'GPU too old: Emulated GPU is sm_75, sm_80 is needed' STRATA_EMU_SM=75
says "$emulated/strata" 'libcublasLt not found' STRATA_EMU_LT=0

# Without a plugin, with one that is none, and with one of another build.
cp "$emulated/strata" "$dir/strata"
says "$dir/strata" "this build has no CUDA device: no strata-cuda\\.so in $dir"
printf 'no shared object' >"$dir/strata-cuda.so"
says "$dir/strata" 'strata-cuda\.so: .*(invalid ELF|file too short)'
id=$(strings -n 16 "$emulated/strata-cuda.so" | grep -E '^[0-9a-f]{16}$' | head -n 1)
[ -n "$id" ] || fail 'the plugin carries no build id'
sed "s/$id/0123456789abcdef/g" "$emulated/strata-cuda.so" >"$dir/strata-cuda.so"
says "$dir/strata" "is of build 0123456789abcdef, this program of $id; rebuild both together"

# The real one: it loads where no CUDA is installed, exports one function, and has a line to say.
if [ -e "$build/strata-cuda.so" ]; then
	says "$build/strata" 'no CUDA driver|no GPU|driver older|too old|libcublasLt not found|, sm_'
	[ "$(nm -D --defined-only "$build/strata-cuda.so" | awk '{ print $3 }')" = strata_cuda_plugin ] ||
		fail 'strata-cuda.so exports more than its entry'
	# Only what every Debian has.
	needed=$(readelf -d "$build/strata-cuda.so" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p')
	if grep -Evq '^(libc|libm|libdl|librt|libpthread|ld-linux-x86-64)\.so' <<<"$needed"; then
		fail "strata-cuda.so needs: $needed"
	fi
fi
[ "$failures" -eq 0 ]
