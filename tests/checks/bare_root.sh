#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/checks/bare_root.sh ROOT [BUILD [PART]] - the CUDA device and the program on a Debian 12 of their own, in
# the directory ROOT, which debootstrap makes there (1.5 GB; it stays, and is used again):
#
#     1  gpu-check where there are nvcc, its libraries, a C and a C++ compiler, and nothing else: no network,
#        none of the program's libraries. It ends with 77 and says that there is no GPU, builds what it
#        needs all the same, and what it built says the same.
#     2  BUILD (build, unless named), which was made on this machine with the CUDA device, passes its quick
#        tests where no library of CUDA's is.
#
# Needs root, debootstrap and nvcc (CUDA_HOME, or /usr/local/cuda); for 2 BUILD must be complete. Mounts
# are private to this script. PART 1 or 2 does that alone. By hand, not in .ci/run: minutes.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [ "${IN_OWN_MOUNTS-}" != 1 ]; then
	exec env IN_OWN_MOUNTS=1 unshare --mount --propagation private bash tests/checks/bare_root.sh "$@"
fi

die() {
	printf 'bare_root.sh: %s\n' "$*" >&2
	exit 1
}

say() {
	printf 'bare_root.sh: %s\n' "$*"
}

if [ $# -lt 1 ] || [ $# -gt 3 ]; then
	die 'usage: tests/checks/bare_root.sh ROOT [BUILD [PART]]'
fi
part=${3:-all}
root=$(realpath -m "$1")
source=$PWD
build=$(realpath "${2:-build}")
cuda=$(readlink -f "${CUDA_HOME:-/usr/local/cuda}")
[ -x "$cuda/bin/nvcc" ] || die "no nvcc in $cuda: set CUDA_HOME"
for file in strata strata-cuda.so tests/CTestTestfile.cmake; do
	[ -f "$build/$file" ] || die "$build/$file is not there: build it all, where nvcc is"
done
case $build/ in
"$source"/*) ;;
*) die "$build must lie in $source: its tests name files there" ;;
esac
[ "$(id -u)" -eq 0 ] || die 'needs root'

# inside COMMAND...: in the root, in the source directory, with a bare environment.
inside() {
	# shellcheck disable=SC2016 # for the inner shell
	chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/ TERM=dumb \
		sh -c 'cd "$1" && shift && exec "$@"' - "$source" "$@"
}

# expect CODE TEXT COMMAND...: it exits with CODE and says TEXT.
expect() {
	local code=$1 text=$2 rc=0
	shift 2

	inside "$@" >"$work/out" 2>&1 || rc=$?
	sed 's/^/    /' "$work/out" | tail -n 12
	[ "$rc" -eq "$code" ] || die "exit code $rc, not $code: $*"
	grep -q "$text" "$work/out" || die "says nothing of \"$text\": $*"
}

gpu_check() {
	local header

	say '1: gpu-check with nvcc, compilers and nothing else'
	mkdir -p "$root/usr/local/cuda"
	mount --bind -o ro "$cuda" "$root/usr/local/cuda"
	mount -t tmpfs none "$root$source/build" # gpu-check writes there, and a program's build is no help
	for header in liburing.h hwloc.h dnnl.h jansson.h; do
		[ ! -e "$root/usr/include/$header" ] || say "$header is there: of an earlier call, for 2"
	done
	expect 77 'no GPU here' unshare --net bash ./run gpu-check
	expect 0 'building with /usr/local/cuda/bin/nvcc' unshare --net env GPU_CHECK_BUILD_ONLY=1 bash ./run gpu-check
	expect 77 '' unshare --net build/gpu-check/gpu_check --json build/gpu-check.json --work build
	umount "$root$source/build" "$root/usr/local/cuda"
	rmdir "$root/usr/local/cuda"
}

suite() {
	local packages

	say "2: the quick tests of $build, without CUDA"
	cp -a /etc/apt/apt.conf.d/. "$root/etc/apt/apt.conf.d/"
	cp -L /etc/resolv.conf "$root/etc/"
	read -ra packages <<<"$(sed -n '/^packages=(/,/)/p' run | tr '\n\t' '  ' | sed 's/.*(//; s/).*//')"
	inside env DEBIAN_FRONTEND=noninteractive sh -c 'apt-get -q update && apt-get -q install -y --no-install-recommends "$@"' \
		- "${packages[@]}" >"$work/apt" 2>&1 || { tail -n 20 "$work/apt" && die 'apt-get failed'; }
	if find "$root/usr" "$root/opt" "$root/lib"* -xdev \( -name 'libcuda*' -o -name 'libcublas*' -o -name nvcc \) 2>/dev/null | grep .; then
		die 'CUDA is in this root'
	fi
	expect 0 'no CUDA driver' sh -c "'$build/strata' doctor --no-measure | grep '  cuda device'"
	inside ctest --test-dir "$build" -L quick -j 2 --no-tests=error --output-on-failure |
		tee "$work/tests" | tail -n 40
	grep -q '^100% tests passed' "$work/tests" || die 'not all tests passed'
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ ! -e "$root/etc/debian_version" ]; then
	mirror=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/*.sources 2>/dev/null | head -n 1)
	say "debootstrap bookworm in $root"
	debootstrap --variant=minbase --include=gcc,g++,libc6-dev bookworm "$root" ${mirror:+"$mirror"} \
		>"$work/debootstrap" 2>&1 || { tail -n 20 "$work/debootstrap" && die 'debootstrap failed'; }
fi
mkdir -p "$root$source" build
mount --bind "$source" "$root$source"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
case $part in
1) gpu_check ;;
2) suite ;;
*)
	gpu_check
	suite
	;;
esac
say 'it holds'
