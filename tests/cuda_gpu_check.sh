#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/cuda_gpu_check.sh GPU_CHECK - the program behind ./run gpu-check, on the emulation: its short
# stages pass, it says so as a table and as JSON, also when time is up, and it ends with 77 where
# there is no GPU.
set -euo pipefail
export LC_ALL=C STRATA_EMU_PROTECT=0 # which costs most of the time with an arena as for a GPU

gpu_check=$1
dir=$(mktemp -d "${TMPDIR:-/tmp}/strata-gpu-check.XXXXXX")
trap 'rm -rf "$dir"' EXIT
failures=0

fail() {
	printf 'cuda_gpu_check: %s\n' "$*" >&2
	sed 's/^/    /' "$dir/out" >&2
	failures=$((failures + 1))
}

# check EXIT_CODE ARGUMENT...
check() {
	local expected=$1 rc=0
	shift

	"$gpu_check" "$@" --json "$dir/json" --work "$dir" >"$dir/out" 2>&1 || rc=$?
	[ "$rc" -eq "$expected" ] || fail "$*: exit code $rc, not $expected"
}

# has FILE PATTERN
has() {
	grep -Eq -- "$2" "$dir/$1" || fail "$1 has no '$2'"
}

check 0 --only streams
has out '^Emulated GPU, sm_80'
has out '3 streams, 20 runs, one hash +0$'
has out '^1 checks, 0 wrong, 0 failed, 0 skipped$'
has json '"stage":"streams".*"state":"ok","wrong":0,'
has json '"wrong":0,"failed":0,"skipped":0,"is_complete":true\}$'

check 0 --only products
has out 'product bf16 128 x 256 x 64 nt +[0-9.]+ .* 0$'
has json '"tflops":[0-9.e-]+'

# What is not here is left out by name.
check 0 --only sanitizer
has json '"state":"skipped",.*"why":"it is not installed here"'
check 0 --only engine
has out '^0 checks|^1 checks, 0 wrong, 0 failed, 1 skipped$'

# Another program's failure is one, with its last line.
printf '#!/bin/sh\necho "no such device"\nexit 3\n' >"$dir/strata"
chmod +x "$dir/strata"
check 1 --only engine --strata "$dir/strata"
has out 'exit code 3: no such device'
has json '"state":"failed"'

# Time is up: what there is stands in the JSON, which says that it is not all.
check 1 --only products --seconds 0.05
has json '"is_complete":false\}$'
has out 'time was up$'

check 2 --only nothing
rc=0
STRATA_EMU_GPUS=0 "$gpu_check" >"$dir/out" 2>&1 || rc=$?
[ "$rc" -eq 77 ] || fail "without a GPU: exit code $rc, not 77"
has out '^gpu_check: no GPU'
[ "$failures" -eq 0 ]
