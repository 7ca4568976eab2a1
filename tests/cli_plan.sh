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

# In memory there is nothing to say of budgets.
config cpu >c.json
plan --set strata.host.memory=16MiB
has out.txt '^  wte.*: parameters on host, [a-z]+; '
has plan.json '"is_pinned":false'

finish
