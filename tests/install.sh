#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/install.sh BUILD_DIR CC - what is installed can be used: a program that knows nothing but
# pkg-config compiles, links and runs, and the library shows the public API and nothing else.
set -euo pipefail
export LC_ALL=C

build=$1
cc=$2
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
prefix=$(mktemp -d "${TMPDIR:-/tmp}/strata-install.XXXXXX")
trap 'rm -rf "$prefix"' EXIT

cmake --install "$build" --prefix "$prefix" >/dev/null
pc=$(find "$prefix" -name strata.pc)
export PKG_CONFIG_PATH=${pc%/*}
libdir=$(pkg-config --variable=libdir strata)

# shellcheck disable=SC2046 # several words, on purpose
"$cc" -std=c11 -Wall -Wextra -Werror $(pkg-config --cflags strata) \
	"$root/examples/train_api.c" -o "$prefix/train_api" $(pkg-config --libs strata)
rc=0
LD_LIBRARY_PATH=$libdir "$prefix/train_api" "$prefix/none.json" "$prefix/out" 2>"$prefix/err" || rc=$?
if [ "$rc" -ne 2 ] || ! grep -q 'none\.json' "$prefix/err"; then
	echo "train_api on a missing configuration: exit code $rc, not 2, or no word about it:" >&2
	cat "$prefix/err" >&2
	exit 1
fi

# shellcheck disable=SC2046 # several words, on purpose
"$cc" -std=c11 -Wall -Wextra -Werror $(pkg-config --cflags strata) \
	"$root/examples/optim_api.c" -o "$prefix/optim_api" $(pkg-config --libs strata) -lm
LD_LIBRARY_PATH=$libdir "$prefix/optim_api" >"$prefix/optim.txt"
grep -q 'after 200 steps' "$prefix/optim.txt"

# The programs of docs/optimizers.md, as they stand there.
listing() {
	awk -v first="    $1" '$0 == first { on = 1 } on && /^[^ ]/ { exit } on { print substr($0, 5) }' \
		"$root/docs/optimizers.md"
}
listing '#include <stdio.h>' >"$prefix/step.c"
# shellcheck disable=SC2046 # several words, on purpose
"$cc" -std=c11 -Wall -Wextra -Werror $(pkg-config --cflags strata) "$prefix/step.c" -o "$prefix/step" \
	$(pkg-config --libs strata) -Wl,-rpath,"$libdir"
"$prefix/step" | grep -qx 'p = [23]\.[09][0-9]*'
if python3 -c 'import numpy' 2>/dev/null; then
	listing 'import ctypes as C, numpy as np' >"$prefix/step.py"
	echo 'print("%.6f" % p[0])' >>"$prefix/step.py"
	LD_LIBRARY_PATH=$libdir python3 "$prefix/step.py" | grep -qx -- '-0.001000'
fi

# Everything that the headers declare is there, and no other symbol.
grep -hv '^typedef' "$prefix"/include/strata/*.h | grep -ohE '\bstrata_[a-z_]+\(' | tr -d '(' |
	sort -u >"$prefix/declared"
nm -D --defined-only "$libdir/libstrata.so" | awk '{ print $3 }' | sort -u >"$prefix/defined"
if ! diff "$prefix/declared" "$prefix/defined" >&2; then
	echo "< declared in include/strata, > defined in libstrata.so" >&2
	exit 1
fi
