#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/checks/format.sh - every tracked C file is as clang-format 14 and .clang-format lay it out.
#
# Another version of clang-format lays some lines out differently, therefore the number.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

mapfile -d '' -t files < <(git ls-files -z -- '*.c' '*.h' '*.cc' '*.cu' '*.cuh')
if [ ${#files[@]} -eq 0 ]; then
	echo "format.sh: git knows no C files here" >&2
	exit 1
fi
clang-format-14 --style=file --dry-run -Werror "${files[@]}"
