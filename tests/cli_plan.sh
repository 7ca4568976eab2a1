#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/cli_plan.sh - what `strata plan` says of units: where they live, when they are updated, why.
# shellcheck source-path=SCRIPTDIR source=cli_util.sh
. "$(dirname "${BASH_SOURCE[0]}")/cli_util.sh" "$@"
set_up

# plan ARGUMENTS...: as text to out.txt, and as JSON to plan.json.
plan() {
	run 0 "$strata" plan c.json --no-measure "$@" --json
	mv out.txt plan.json
	run 0 "$strata" plan c.json --no-measure "$@"
}

# number KEY: the first one of plan.json.
number() {
	grep -o "\"$1\":[0-9]*" plan.json | head -n 1 | cut -d: -f2
}

# Clipping, and little memory: the table first, the blocks on speculation.
plan --set strata.host.memory=600KiB
[ "$(grep -o '"params_on":"nvme"' plan.json | wc -l)" = 7 ] || fail 'not all of seven units on nvme'
grep -q '{"name":"wte","params_on":"nvme","is_pinned":false,.*"update":"deferred","why":"no room' plan.json ||
	fail 'the table is not deferred for lack of room'
[ "$(number pinned_bytes)" = 0 ] || fail 'something is kept without room'
has out.txt '^  wte.*: parameters on nvme, deferred; no room .*; update: forward needs it first'
has out.txt '^  .*h\.[0-9].*: parameters on nvme, speculative; .*; update: backward moves its share'

# Room for some: the first units stay, and there is no way back for what is updated in memory.
plan --set strata.host.memory=8MiB
[ "$(number pinned_bytes)" -gt 0 ] || fail 'nothing is kept in 8 MiB'
has out.txt ' of what lives on nvme stay in memory'
has out.txt '^  wte.*: parameters on host, deferred; .* stay: the budgets have room'
kept=$(number pinned_bytes)
plan --set strata.host.memory=12MiB
[ "$(number pinned_bytes)" -gt "$kept" ] || fail 'a larger budget keeps no more'

plan --set strata.host.memory=600KiB --set strata.optimizer.update=deferred
has out.txt '^  wte, wpe, h.0-h.3, ln_f: parameters on nvme, deferred; no room .*; update: as configured'

# A machine with a GPU: copies, and where each unit is updated. 8-bit moments it leaves to the host.
# gpu_plan ARGUMENTS...: as plan, for the machine in gpu.json.
gpu_plan() {
	run 0 "$strata" plan c.json --hardware gpu.json "$@" --json
	mv out.txt plan.json
	run 0 "$strata" plan c.json --hardware gpu.json "$@"
}

cat >gpu.json <<'END'
{ "name": "one GPU",
  "device": { "type": "gpu", "memory": "8GB", "bf16_tflops": 100, "fp32_tflops": 50, "memory_gbps": 800 },
  "host": { "memory": "32GB", "memory_gbps": 50 },
  "links": { "h2d_gbps": 20, "d2h_gbps": 20 },
  "drives": { "read_gbps": 5, "write_gbps": 4 } }
END
gpu_plan
has out.txt '^  wte.*: parameters on nvme, .*, updated on host \(its states live on nvme\); '
has out.txt '^updates run on the host, beside the device$'
for lane in h2d d2h optimizer compute nvme-read nvme-write; do
	has out.txt "^$lane +[0-9.]+ s +[0-9.]+ s"
	has plan.json "\"lanes\":.*\"name\":\"$lane\",\"busy_s\":[0-9]"
done
has plan.json '"is_coarse":false'
has plan.json '"name":"h.0",.*"updated_on":"host","updated_why":"its states live on nvme"'
config none >c.json
gpu_plan
has out.txt '^  wte.*: parameters on device, .*, updated on device \(its parameters, states and gradient live there\)'
has out.txt '^updates run on the device$'
gpu_plan --set strata.optimizer.moments=int8
has plan.json '"name":"wte",.*"updated_on":"host","updated_why":"the device has no kernel for this optimizer in these formats"'
has plan.json '"name":"h.0",.*"updated_on":"device and host"' # a block's vectors keep fp32 moments
has plan.json '"name":"ln_f",.*"updated_on":"device"'

# In memory there is nothing to say of budgets.
config cpu >c.json
plan --set strata.host.memory=16MiB
has out.txt '^  wte.*: parameters on host, [a-z]+; '
has plan.json '"is_pinned":false'

finish
