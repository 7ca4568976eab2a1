#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/cli_report.sh - --trace, what a step says of its bound, and the page about a run, also of
# runs that are short, damaged or killed.
# shellcheck source-path=SCRIPTDIR source=cli_util.sh
. "$(dirname "${BASH_SOURCE[0]}")/cli_util.sh" "$@"
set_up

# whole_page FILE PATTERN...: HTML with its end, nothing from elsewhere, no number that is none.
whole_page() {
	local file=$1 pattern

	shift
	[ "$(head -n 1 "$file")" = '<!doctype html>' ] || fail "$file is no page"
	[ "$(tail -n 1 "$file")" = '</main></body></html>' ] || fail "$file has no end"
	grep -Eq '(src|href)=|url\(|@import|<script' "$file" && fail "$file needs something from elsewhere"
	grep -Eqw 'nan|NaN|inf' "$file" && fail "$file shows a number that is none"
	[ "$(grep -o '<figure' "$file" | wc -l)" -eq "$(grep -o '</figure>' "$file" | wc -l)" ] ||
		fail "$file: a figure does not end"
	[ "$(grep -o '<svg' "$file" | wc -l)" -eq "$(grep -o '</svg>' "$file" | wc -l)" ] ||
		fail "$file: a picture does not end"
	for pattern; do
		has "$file" "$pattern"
	done
}

# ---- a run with a trace ------------------------------------------------------------------------
run 0 "$strata" train c.json --steps 4 --progress json --trace trace.json --set strata.eval_every=2
cp out.txt log.txt
for key in step_s bound_s; do
	value step "$key" log.txt | grep -qv '^[0-9.eE+-]*$' && fail "$key is no number"
done
value step limiting_lane log.txt | grep -Evq '^"(compute|nvme-read|nvme-write|checksum)"$' &&
	fail "limiting_lane: $(value step limiting_lane log.txt)"
for key in clipped rolled_back; do
	value step "$key" log.txt | grep -Evq '^(true|false)$' && fail "$key is no truth value"
done
paste <(value step step_s log.txt) <(value step bound_s log.txt) |
	awk '!($2 > 0 && $2 <= $1 * 1.1 + 0.05) { exit 1 }' || fail 'a bound beyond its step'
for key in forward_s update_s nvme_s nvme_loaded_bytes_per_s; do
	value step "$key" out/log.jsonl >/dev/null
done
[ "$(tail -n 1 out/log.jsonl | cut -c 1-15)" = '{"event":"done"' ] || fail 'the log has no end'
[ "$(head -c 1 trace.json)$(tail -n 1 trace.json)" = '[]' ] || fail 'the trace is no whole array'
grep -q '"name":"forward"' trace.json || fail 'the trace has no forward'
has err.txt 'NVMe'

run 0 "$strata" report out --trace trace.json
[ "$(cat out.txt)" = out/report.html ] || fail "report says $(cat out.txt)"
whole_page out/report.html '4 steps of 4, done' 'Lanes during step' 'Device memory during step' \
	'The plan and the measurement' 'NVMe read in a step' 'Step time, by the lane that limits'
# again, in the place of the page that is there; nothing else is replaced
run 0 "$strata" report out --hardware "$(dirname "$0")/../examples/hardware/reference-vm.json"
whole_page out/report.html 'Device memory over a step' 'limiting lane' 'rates of'
cp c.json mine.json
refused 2 'mine.json is there already and is no report' "$strata" report out --output mine.json
cmp -s c.json mine.json || fail 'a report was written over a file'
refused 2 'c.json is there already and is no trace' \
	"$strata" train c.json --output other --trace c.json
refused 2 'trace nowhere/t.json' "$strata" train c.json --output other --trace nowhere/t.json
run 0 "$strata" train c.json --steps 5 --resume --progress line --trace trace.json
has err.txt '^step 5/5 .* bound [0-9.]+ %'

# ---- runs that are not whole -------------------------------------------------------------------
mkdir one part
grep -m 1 '"step":1,' out/log.jsonl >one/log.jsonl
run 0 "$strata" report one --output one.html
whole_page one.html '1 step, no end' 'It could not be made again'
{
	grep '"step":2,' out/log.jsonl
	echo 'no JSON'
	echo '{"event":"step","step":9,"loss":null,"step_ns":5}'
	grep '"step":4,' out/log.jsonl | head -n 1
	printf '{"event":"step","st'
} >part/log.jsonl
cp out/strata.json part
run 0 "$strata" report part
whole_page part/report.html 'are missing in the log' '2 lines of the log could not be read'
refused 2 'is no run: it has no log.jsonl' "$strata" report nvme
refused 2 'is no run' "$strata" report nowhere
mkdir void
: >void/log.jsonl
refused 2 'log.jsonl: holds no step' "$strata" report void
refused 2 'trace text.txt: holds no whole step' "$strata" report out --trace text.txt
refused 2 'trace nowhere.json' "$strata" report out --trace nowhere.json

# killed in the middle: the trace has no end, the page is there
"$strata" train c.json --output killed --steps 2000 --progress line --trace cut.json 2>err.txt &
pid=$!
wait_for err.txt '^step 10/' "$pid"
kill -KILL "$pid"
wait "$pid" 2>/dev/null
[ "$(tail -n 1 cut.json)" != ']' ] || fail 'a killed run ended its trace'
run 0 "$strata" report killed --trace cut.json
whole_page killed/report.html 'no end in the log: stopped, killed or still running' 'Lanes during step'

finish
