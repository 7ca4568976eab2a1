# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# tests/cli_util.sh - what the tests of the program share. Sourced with the arguments
# STRATA CLI_JSON TRAIN_API; changes into a directory of its own, which is removed at the end.
set -uo pipefail
export LC_ALL=C

# shellcheck disable=SC2034 # for those that source this
strata=$1
cli_json=$2
# shellcheck disable=SC2034 # for those that source this
train_api=$3

work=$(mktemp -d "${TMPDIR:-/tmp}/strata-cli.XXXXXX")
# what strata plan measures is kept there, not among the user's files
export XDG_CACHE_HOME=$work.cache
n_failed=0
mounts=()

clean_up() {
	local job mount

	for job in $(jobs -p); do
		kill -KILL "$job" 2>/dev/null
	done
	wait 2>/dev/null
	for mount in "${mounts[@]+"${mounts[@]}"}"; do
		umount "$mount"
	done
	cd /
	rm -rf "$work" "$work.cache"
}
trap clean_up EXIT
cd "$work" || exit 1

fail() {
	printf 'FAILED: %s\n' "$*" >&2
	n_failed=$((n_failed + 1))
}

note() {
	printf '%s\n' "$*" >&2
}

# finish: the end of each test.
finish() {
	[ "$n_failed" -eq 0 ] || note "$n_failed checks failed"
	exit $((n_failed > 0))
}

# Prose of 60 words in made-up order: enough structure to learn from in 20 steps.
make_text() {
	awk -v n="$1" 'BEGIN {
		srand(7)
		split("the a quick slow brown grey fox dog cat jumps sleeps runs over under near lazy old wall river", w, " ")
		for (i = 0; i < n; i++) {
			line = ""
			for (j = 0; j < 8; j++)
				line = line w[1 + int(rand() * 19)] " "
			print line
		}
	}'
}

# config [PARAM_DEVICE [OPTIMIZER_DEVICE]]: 4 layers x 64, 20 steps.
# shellcheck disable=SC2120 # most callers want the default
config() {
	cat <<-END
		{
			"train_batch_size": 8, "train_micro_batch_size_per_gpu": 4, "steps_per_print": 5,
			"gradient_clipping": 1.0, "bf16": { "enabled": true },
			"optimizer": { "type": "AdamW", "params": { "lr": 3e-3 } },
			"zero_optimization": {
				"stage": 3,
				"offload_param": { "device": "${1-nvme}", "nvme_path": "nvme" },
				"offload_optimizer": { "device": "${2-${1-nvme}}", "nvme_path": "nvme" }
			},
			"strata": {
				"model": {
					"family": "gpt2", "n_layer": 4, "n_embd": 64, "n_head": 4,
					"n_positions": 64, "vocab_size": 256
				},
				"data": { "train": "text.txt", "format": "bytes", "eval_windows": 8 },
				"host": { "memory": "4MiB" },
				"threads": 2, "steps": 20, "seed": 1, "output": "out"
			}
		}
	END
}

# set_up: the files that most tests need.
set_up() {
	make_text 2000 >text.txt
	config nvme >c.json
	mkdir nvme
}

# run CODE COMMAND...: stdout to out.txt, stderr to err.txt; the exit code must be CODE.
run() {
	local want=$1 got=0

	shift
	"$@" >out.txt 2>err.txt || got=$?
	if [ "$got" -ne "$want" ]; then
		fail "exit code $got in place of $want: $*"
		sed 's/^/    /' err.txt >&2
	fi
}

# has FILE PATTERN: some line matches.
has() {
	grep -Eq -- "$2" "$1" || {
		fail "$1 has no line like: $2"
		sed 's/^/    /' "$1" >&2
	}
}

# refused CODE PATTERN COMMAND...: exit code CODE, nothing on stdout, the last line of stderr is
# "strata: ..." and matches, it is the only such line, and no file appears or vanishes.
refused() {
	local want=$1 pattern=$2 before after

	shift 2
	before=$(find . -not -name out.txt -not -name err.txt | sort)
	run "$want" "$@"
	after=$(find . -not -name out.txt -not -name err.txt | sort)
	[ "$before" = "$after" ] || fail "files left behind or removed by $*: $(
		diff <(echo "$before") <(echo "$after")
	)"
	[ "$(grep -c '^strata: ' err.txt)" = 1 ] || fail "not exactly one error line: $*"
	tail -n 1 err.txt >last.txt
	has last.txt "^strata: .*$pattern"
	rm -f last.txt
	[ ! -s out.txt ] || fail "stdout is not empty: $*"
}

# value EVENT KEY FILE: of the JSON lines, strictly read.
value() {
	"$cli_json" "$1" "$2" <"$3" || fail "$3: no good JSON lines, or no $2 in $1"
}

# wait_for FILE PATTERN PID: until a line matches, as long as the process is alive, at most 50 s.
wait_for() {
	local i

	for ((i = 0; i < 2500; i++)); do
		grep -Eq -- "$2" "$1" 2>/dev/null && return
		kill -0 "$3" 2>/dev/null || break
		sleep 0.02
	done
	fail "$1 got no line like: $2"
}
