#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/bench_moments.sh - `strata bench moments`: the runs, what they come to, nothing left behind,
# bad input refused. What the formats do to training is measured with examples/moments.json.
# shellcheck source-path=SCRIPTDIR source=cli_util.sh
. "$(dirname "${BASH_SOURCE[0]}")/cli_util.sh" "$@"
bench=("$strata" bench moments)
mkdir tmp
export TMPDIR=$PWD/tmp
make_text 2000 >text.txt
config cpu | sed "s|4MiB|64MiB|" >c.json
small=(--steps 6 --seeds 2 --set strata.data.held_out=0.05 --set strata.eval_every=2)

# empty: nothing is left in the directory for temporary files.
empty() {
	[ -z "$(ls -A tmp)" ] || fail "left behind: $(ls -A tmp)"
}

run 0 "${bench[@]}" c.json "${small[@]}" --json --svg plot.svg
empty
tr -d '\n' <out.txt >all.txt
echo >>all.txt
value - runs all.txt >runs.txt
value - moments all.txt >sums.txt
grep -o '"moments": *"[a-z0-9]*", *"seed": *[0-9]*' runs.txt | tr -d ' "' >order.txt
printf 'moments:%s,seed:%s\n' fp32 1 bf16 1 int8 1 fp32 2 bf16 2 int8 2 | diff - order.txt >&2 ||
	fail "runs: $(cat runs.txt)"
[ "$(grep -o '"harmless": *"[a-z]*"' sums.txt | wc -l)" = 2 ] || fail "sums: $(cat sums.txt)"

# the difference is that of the losses, and the mean that of the differences
perl -0777 -ne '
	my (%loss, %diff, %mean);
	while (/"moments": *"(\w+)", *"seed": *(\d+), *"val_loss": *([-\d.e]+), *"difference": *([-\d.e]+|null)/g) {
		($loss{$1}{$2}, $diff{$1}{$2}) = ($3, $4);
	}
	while (/"moments": *"(\w+)", *"seeds": *2, *"val_loss": *[-\d.e]+, *"difference": *([-\d.e]+)/g) {
		$mean{$1} = $2;
	}
	for my $m ("bf16", "int8") {
		my $sum = 0;
		for my $s (1, 2) {
			my $d = $loss{$m}{$s} - $loss{fp32}{$s};
			die "$m $s: $d, not $diff{$m}{$s}\n" if abs($d - $diff{$m}{$s}) > 1e-9;
			die "$m trains as fp32 does\n" if $d == 0;
			$sum += $d;
		}
		die "$m: mean $mean{$m}\n" if abs($sum / 2 - $mean{$m}) > 1e-9;
	}' all.txt || fail "arithmetic: $(cat all.txt)"
has plot.svg '^</svg>$'
rm plot.svg

run 0 "${bench[@]}" c.json "${small[@]}"
has out.txt '^moments +seed +val loss +difference +time$'
has out.txt '^int8 +2 +[0-9.]+ +-?[0-9.]+ +-?[0-9.]+ +[0-9.]+ +(yes|no)$'
empty

refused 2 'CONFIG is missing' "${bench[@]}"
refused 2 'nothing.json' "${bench[@]}" nothing.json
refused 2 '--seeds: 1 is out of range' "${bench[@]}" c.json --seeds 1
refused 2 'nowhere/plot.svg' "${bench[@]}" c.json --svg nowhere/plot.svg
refused 2 'TMPDIR' env TMPDIR=nowhere "${bench[@]}" c.json
empty

# stopped: nothing is left
perl -e '$SIG{INT} = "DEFAULT"; exec @ARGV' "${bench[@]}" c.json "${small[@]}" --steps 100000 \
	>out.txt 2>err.txt &
pid=$!
for ((i = 0; i < 200; i++)); do
	[ -n "$(ls -A tmp)" ] && break
	sleep 0.05
done
sleep 0.3
kill -INT $pid
got=0
wait $pid || got=$?
[ $got = 130 ] || fail "exit code $got: $(cat err.txt)"
has err.txt '^strata: stopped by SIGINT; nothing is left behind'
empty

finish
