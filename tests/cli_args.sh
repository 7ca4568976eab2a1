#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/cli_args.sh - verbs, options, help, and what is written where.
# shellcheck source-path=SCRIPTDIR source=cli_util.sh
. "$(dirname "${BASH_SOURCE[0]}")/cli_util.sh" "$@"
set_up

# Every verb explains itself, on stdout.
run 0 "$strata" help
has out.txt '^  train '
for verb in train plan sample version help 'config check' 'config explain' 'config dump' \
	'config schema' 'config help'; do
	# shellcheck disable=SC2086 # two words are meant
	run 0 "$strata" $verb --help
	has out.txt "^usage: strata $verb"
	cp out.txt verb.txt
	# shellcheck disable=SC2086
	run 0 "$strata" help $verb
	cmp -s out.txt verb.txt || fail "help $verb and $verb --help differ"
	[ ! -s err.txt ] || fail "help $verb writes to stderr"
done
rm -f verb.txt
run 0 "$strata" --help
run 0 "$strata" --version
has out.txt '^strata [0-9]+\.[0-9]+\.[0-9]+$'
run 0 "$strata" help config
has out.txt 'config explain'
for option in set steps output resume progress; do
	run 0 "$strata" train --help
	has out.txt "^  --$option"
done

# Bad usage: one line, exit code 2, the nearest name.
refused 2 'which verb' "$strata"
refused 2 'unknown verb "a.x0a.x1b.31mb"' "$strata" $'a\n\e[31mb' # one line, whatever it quotes
refused 2 'unknown verb "trian"; the nearest known one is "train"' "$strata" trian c.json
refused 2 'unknown verb "config chekc"; the nearest known one is "config check"' \
	"$strata" config chekc c.json
refused 2 'config what\? check, explain, dump, schema, help \(see "strata help config"\)' \
	"$strata" config
refused 2 'train: unknown option --stpes; the nearest known one is --steps' \
	"$strata" train c.json --stpes 3
refused 2 'train: unknown option -s; ' "$strata" train c.json -s 3
refused 2 'train: unknown option --step=3; ' "$strata" train c.json --step=3
refused 2 'train: CONFIG is missing' "$strata" train
refused 2 'one argument too many: "d.json"' "$strata" train c.json d.json
refused 2 '--steps needs N' "$strata" train c.json --steps
refused 2 '--output needs DIR' "$strata" train c.json --output --resume
refused 2 '--output is empty' "$strata" train c.json --output=
refused 2 '--resume takes no value' "$strata" train c.json --resume=yes
for bad in -3 +3 3x 0x3 3.5 1e3 '' ' 3'; do
	refused 2 '--steps needs a whole number' "$strata" train c.json "--steps=$bad"
done
refused 2 '--steps: 0 is out of range' "$strata" train c.json --steps 0
refused 2 '--steps: 99999999999999999999 is out of range' \
	"$strata" train c.json --steps 99999999999999999999
refused 2 '--progress: "bra" is none of auto, bar, line, json, none' \
	"$strata" train c.json --progress bra
for bad in nan inf -1 x ''; do
	refused 2 '--temperature' "$strata" sample out "--temperature=$bad"
done
refused 2 'nowhere.json' "$strata" train nowhere.json
refused 2 'cannot|No such|not' "$strata" sample nowhere

# config: one table, five verbs.
run 0 "$strata" config check c.json
has out.txt '^c.json: valid$'
run 0 "$strata" config explain c.json --set strata.steps=7
has out.txt 'strata.steps.*7'
run 0 "$strata" config explain c.json --json
run 0 "$strata" config dump c.json
cp out.txt d.json
run 0 "$strata" config dump d.json
cmp -s out.txt d.json || fail 'a dumped configuration does not dump to itself'
rm -f d.json
run 0 "$strata" config schema
has out.txt '"strata"'
run 0 "$strata" config help strata.nvme
has out.txt 'commit_every'
refused 2 'config check: unknown option --json' "$strata" config check c.json --json
refused 2 'unknown key' "$strata" config help strata.nvem

# plan: a table, an object, the program; nothing is created.
rm -f out.txt err.txt
before=$(find . | sort)
run 0 "$strata" plan c.json
for tier in device host nvme; do
	has out.txt "^$tier +.*B +.*B"
done
has out.txt '^rates: this machine, measured \(20[0-9-]* [0-9:]* UTC, load [0-9.e+]* a processor\)$'
kept=$XDG_CACHE_HOME/strata/hardware.json
quiet() { # the measurement that is kept was made now, beside nothing
	sed -i "s/\"measured\": \"[^\"]*\"/\"measured\": \"${1-$(date -u +%FT%TZ)}\"/
		s/ *\"load_a_processor\": [0-9.e+]*,//
		s/\"nodes\"/\"load_a_processor\": ${2-0.1}, &/" "$kept"
}
quiet
run 0 "$strata" plan c.json --print-program
[ "$(wc -l <out.txt)" -gt 50 ] || fail 'the program has fewer than 50 operations'
has out.txt 'write-state|write-param'
run 0 "$strata" plan c.json --json
cp out.txt plan.json
[ "$(value - fits plan.json)" = true ] || fail 'plan --json: fits is not true'
for key in params tiers nvme_bytes_per_step nvme_bytes_per_param_step nvme_disk_bytes summary; do
	value - "$key" plan.json >/dev/null
done
run 0 "$strata" plan c.json --json --print-program
cp out.txt plan.json
value - program plan.json >/dev/null
for key in step_s bound_s limiting_lane lanes; do
	value - "$key" plan.json >/dev/null
done
# The second time nothing is measured; what was is kept, not here.
! grep -q measuring err.txt || fail 'plan measures twice'
[ -s "$kept" ] || fail 'what was measured is not kept'
quiet 2020-01-01T00:00:00Z
run 0 "$strata" plan c.json
has err.txt '^what was measured before is not used: it is older than 30 days$'
has err.txt '^measuring this machine'
quiet "$(date -u +%FT%TZ)" 1.6
run 0 "$strata" plan c.json
has err.txt '^what was measured before is not used: the machine was busy then$'
quiet
run 0 "$strata" plan c.json
if grep -q measur err.txt; then fail 'a good measurement is made again'; fi
if [ "$(id -u)" -eq 0 ]; then # what does not take files: nominal, and why
	run 0 "$strata" plan c.json --set zero_optimization.offload_param.nvme_path=/proc \
		--set zero_optimization.offload_optimizer.nvme_path=/proc
	has out.txt '^rates: this machine, measured; drives nominal \('
	has out.txt "^the drives' rates are nominal: /proc: no file can be made there: "
fi
refused 2 'examples/hardware: is a directory; name the file that describes the machine' \
	"$strata" plan c.json --hardware "$(dirname "${BASH_SOURCE[0]}")/../examples/hardware"
run 0 "$strata" plan c.json --no-measure
has out.txt '^rates: nominal$'
has out.txt '^nvme-read .* s '
machines=$(dirname "${BASH_SOURCE[0]}")/../examples/hardware
for machine in dgx2-v100 dgx-a100 h100-8xgen5 4090-256gb reference-vm; do
	run 0 "$strata" plan c.json --hardware "$machines/$machine.json"
	has out.txt '^A step takes '
done
run 0 "$strata" plan c.json --hardware "$machines/dgx2-v100.json" --schedule deepspeed --json
cp out.txt plan.json
[ "$(value - ranks plan.json)" = 16 ] || fail 'a DGX-2 has not 16 ranks'
printf '{"name": "x", "device": {"type": "host", "memory_gbps": 1, "fp32_tflops": -1}}\n' >plan.json
refused 2 'plan.json:1:75: device.fp32_tflops: -1 is out of range' \
	"$strata" plan c.json --hardware plan.json
refused 2 'nowhere.json' "$strata" plan c.json --hardware nowhere.json
refused 2 '--measure, --no-measure and --hardware exclude' "$strata" plan c.json --measure --no-measure
refused 2 '--schedule: "fast" is none of' "$strata" plan c.json --schedule fast
rm -f plan.json out.txt err.txt
[ "$before" = "$(find . | sort)" ] || fail 'plan creates or removes files'

# What does not arrive is noticed.
for args in 'help' 'version' 'config schema' 'config dump c.json' 'plan c.json'; do
	if [ -e /dev/full ]; then
		# shellcheck disable=SC2086
		"$strata" $args >/dev/full 2>err.txt
		[ $? -eq 4 ] || fail "$args >/dev/full: no exit code 4"
		has err.txt '^strata: cannot write to the standard output'
	fi
	# shellcheck disable=SC2086
	"$strata" $args >&- 2>err.txt
	[ $? -eq 4 ] || fail "$args >&-: no exit code 4"
done

finish
