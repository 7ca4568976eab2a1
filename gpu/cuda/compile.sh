#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# gpu/cuda/compile.sh LOG COMMAND... - run nvcc, and keep what it says in LOG (NAME.cu.log or NAME.cc.log).
# That is shown, but for what ptxas tells of every kernel: tests/checks/cuda_table.sh reads it, and NAME.ptx
# beside it.
log=$1
shift
"$@" >"$log" 2>&1
rc=$?
grep -Ev '^ptxas info|^ +[0-9]+ bytes stack frame, ' "$log" >&2
# Of what --keep leaves the PTX is wanted.
name=${log%.cu.log}
rm -f "$name".*.ii "$name".cudafe1.* "$name".*cubin "$name".fatbin* "$name".module_id "$name".reg.c
exit $rc
