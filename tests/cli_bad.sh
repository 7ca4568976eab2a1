#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/cli_bad.sh - bad input: one line that says what and where, the right exit code, no file left.
# shellcheck source-path=SCRIPTDIR source=cli_util.sh
. "$(dirname "${BASH_SOURCE[0]}")/cli_util.sh" "$@"
set_up
train=("$strata" train)

# ---- the configuration ---------------------------------------------------------------------------

sed 's/"train_batch_size"/"train_batch_szie"/' c.json >bad.json
refused 2 'bad.json:2:[0-9]+: unknown key "train_batch_szie"; the nearest known key is "train_batch_size"' \
	"${train[@]}" bad.json
sed 's/"gradient_clipping": 1.0/"gradient_clipping": "1.0"/' c.json >bad.json
refused 2 'bad.json:3:[0-9]+: gradient_clipping: ' "${train[@]}" bad.json
sed 's/"stage": 3/"stage": "3"/' c.json >bad.json
refused 2 'bad.json:6:[0-9]+: zero_optimization.stage: ' "${train[@]}" bad.json
sed 's/"nvme_path": "nvme"/"nvme_path": 3/' c.json >bad.json
refused 2 'bad.json:[0-9]+:[0-9]+: zero_optimization.offload_param.nvme_path: ' "${train[@]}" bad.json
sed 's/"train_batch_size": 8/"train_batch_size": 8, "gradient_accumulation_steps": 3/' c.json >bad.json
refused 2 'train_batch_size' "${train[@]}" bad.json
sed 's/"seed": 1/"seed": 1, "seed": 2/' c.json >bad.json
refused 2 'bad.json:[0-9]+:[0-9]+: .*seed' "${train[@]}" bad.json
head -n 9 c.json >bad.json
refused 2 'bad.json:' "${train[@]}" bad.json
refused 2 'strata.stpes' "${train[@]}" c.json --set strata.stpes=3
refused 2 'seq_len' "${train[@]}" c.json --set strata.data.seq_len=65
refused 2 'nowhere.json' "${train[@]}" nowhere.json
refused 2 'output none holds no run to resume' "${train[@]}" c.json --resume --output none
mkfifo pipe
refused 2 'pipe:1:1: a value is wanted' timeout 20 "${train[@]}" pipe
run 0 "$strata" config check <(cat c.json)
rm -f bad.json pipe

# ---- data ----------------------------------------------------------------------------------------

refused 2 '--set strata.data.train=nowhere.txt: nowhere.txt: cannot open: No such file' \
	"${train[@]}" c.json --set strata.data.train=nowhere.txt
sed 's/"text.txt"/"nowhere.txt"/' c.json >bad.json
refused 2 'bad.json:15:20: strata.data.train: nowhere.txt: cannot open: No such file' \
	"${train[@]}" bad.json
rm bad.json
refused 2 '--set strata.data.val=nowhere.txt: nowhere.txt: cannot open' \
	"${train[@]}" c.json --set strata.data.val=nowhere.txt
: >empty.txt
refused 2 'strata.data.train=empty.txt: empty.txt: the file is empty' \
	"${train[@]}" c.json --set strata.data.train=empty.txt
refused 2 'strata.data.val=empty.txt: empty.txt: the file is empty' \
	"${train[@]}" c.json --set strata.data.val=empty.txt
printf 'too short' >short.txt
refused 2 'strata.data.train=short.txt: short.txt: 9 tokens' \
	"${train[@]}" c.json --set strata.data.train=short.txt
refused 2 'strata.data.val=short.txt: short.txt: 9 tokens' \
	"${train[@]}" c.json --set strata.data.val=short.txt
refused 2 'nvme' "${train[@]}" c.json --set strata.data.train=nvme
refused 2 '--set strata.model.vocab_size=100: .*needs at least 256' "${train[@]}" c.json --set strata.model.vocab_size=100

# le32 NUMBER...: little-endian.
le32() {
	local n

	for n in "$@"; do
		# shellcheck disable=SC2059 # the format is made of the number's bytes
		printf "\\x$(printf %02x $((n & 255)))\\x$(printf %02x $((n >> 8 & 255)))\\x$(
			printf %02x $((n >> 16 & 255)))\\x$(printf %02x $((n >> 24 & 255)))"
	done
}
# A token file of llm.c: 1024 bytes of header, then 20,000 tokens of 16 bits, all "AB" = 0x4241
# where the vocabulary has them.
{
	le32 20240520 1 20000
	head -c 1012 /dev/zero
	head -c 40000 text.txt
} >tokens.bin
bin=(--set strata.data.format=bin)
refused 2 'tokens.bin.*(token|vocabulary)' "${train[@]}" c.json "${bin[@]}" \
	--set strata.data.train=tokens.bin
head -c 41000 tokens.bin >cut.bin
refused 2 'cut.bin' "${train[@]}" c.json "${bin[@]}" --set strata.data.train=cut.bin
head -c 1001 tokens.bin >cut.bin
refused 2 'cut.bin' "${train[@]}" c.json "${bin[@]}" --set strata.data.train=cut.bin
run 0 "${train[@]}" c.json "${bin[@]}" --set strata.data.train=tokens.bin --output bin --steps 2 \
	--set strata.model.vocab_size=32768
rm -rf bin ./*.bin empty.txt short.txt

# ---- weights -------------------------------------------------------------------------------------

run 0 "${train[@]}" c.json --output good --steps 2
mkdir weights
cp good/config.json weights
model=good/model.safetensors
header=$(od -An -tu8 -N8 $model | tr -d ' ')

# damaged WHAT: weights/model.safetensors, as it now is, must be refused.
damaged() {
	refused 2 'weights|model.safetensors' "${train[@]}" w.json
	[ "$n_failed" -eq "$n_before" ] || note "    ... with weights: $1"
	n_before=$n_failed
}
n_before=$n_failed
config nvme | sed '/"family"/,/"n_positions"/d; s/"model": {/"model": { "init_from": "weights"/' >w.json
w=weights/model.safetensors
sed 's/"weights"/"weihgts"/' w.json >w2.json
refused 2 'init_from: no directory "weihgts" is there.*nothing is downloaded' "${train[@]}" w2.json
cp $model $w
run 0 "${train[@]}" w.json --output started --steps 2
rm -rf started
: >$w
damaged 'empty'
head -c 7 $model >$w
damaged 'shorter than the length of its header'
{ printf '\377\377\377\377\0\0\0\0'; tail -c +9 $model; } >$w
damaged 'header longer than any'
head -c $((header / 2)) $model >$w
damaged 'cut off in the header'
head -c -1 $model >$w
damaged 'cut off in the data'
{ cat $model; printf x; } >$w
damaged 'a byte too many'
{ head -c 8 $model; printf ' '; tail -c +10 $model; } >$w
damaged 'the header does not begin with a brace'
sed 's/"ln_f\.bias"/"ln_x.bias"/; s/"transformer\.ln_f\.bias"/"transformer.ln_x.bias"/' $model >$w
damaged 'a tensor has another name'
sed 's/"dtype":"F32"/"dtype":"I32"/' $model >$w
damaged 'a tensor of integers'
sed 's/"shape":\[64\]/"shape":[63]/' $model >$w
damaged 'a shape that does not fit its bytes'
sed 's/"data_offsets":\[0,/"data_offsets":[4,/' $model >$w
damaged 'a hole'
sed 's/"data_offsets"/"data_offzets"/' $model >$w
damaged 'an unknown member'
rm $w
damaged 'missing'
cp $model $w
sed 's/"n_embd": *64/"n_embd": 128/' good/config.json >weights/config.json
damaged 'shapes that config.json does not have'
printf '{' >weights/config.json
damaged 'a broken config.json'
rm -rf good weights w.json

# ---- budgets -------------------------------------------------------------------------------------

for tier in device host; do
	# wide enough to need more than the least that a budget may be
	wide=(c.json --set strata.model.n_embd=192 --set "strata.$tier.memory=1MiB")
	refused 3 "\"strata.$tier.memory\": \"[0-9]+[KMG]?i?B\"" "${train[@]}" "${wide[@]}"
	smallest=$(sed -n "s/.*\"strata.$tier.memory\": \"\([^\"]*\)\".*/\1/p" err.txt)
	run 0 "${train[@]}" "${wide[@]}" --set "strata.$tier.memory=$smallest" --output fits --steps 2
	rm -rf fits
	run 3 "$strata" plan "${wide[@]}" --json
	cp out.txt plan.json
	[ "$(value - fits plan.json)" = false ] || fail 'plan --json: fits is not false'
	value - message plan.json | grep -q "strata.$tier.memory" || fail 'plan --json: no message'
	rm -f plan.json
done

# The smallest that the plan names without reading the data is enough for what training does with it:
# here an evaluation holds three micro-batches, and a step one.
wide=(c.json --set strata.model.n_layer=1 --set strata.model.vocab_size=5003 --set train_batch_size=1
	--set train_micro_batch_size_per_gpu=1 --set strata.data.eval_windows=3
	--set strata.recompute=false)
run 0 "$strata" plan "${wide[@]}" --json --no-measure
smallest=$(tr ',' '\n' <out.txt | sed -n '/smallest_bytes/ { s/.*: *\([0-9]*\).*/\1/p; q }')
run 0 "${train[@]}" "${wide[@]}" --set "strata.device.memory=$smallest" --output fits --steps 2
rm -rf fits

# ---- nvme_path -----------------------------------------------------------------------------------

nvme_at() {
	nvme=(--set "zero_optimization.offload_param.nvme_path=$1"
		--set "zero_optimization.offload_optimizer.nvme_path=$1")
}
nvme_at missing
refused 2 'offload_param.nvme_path=missing: store path missing does not exist' "${train[@]}" c.json "${nvme[@]}"
sed 's/"nvme_path": "nvme"/"nvme_path": "missing"/' c.json >bad.json
refused 2 'bad.json:7:[0-9]+: zero_optimization.offload_param.nvme_path: store path missing does not exist' \
	"${train[@]}" bad.json
rm bad.json
nvme_at text.txt
refused 2 'text.txt' "${train[@]}" c.json "${nvme[@]}"
if [ "$(id -u)" -eq 0 ]; then
	nvme_at /proc # where not even root can make a directory
	refused 2 "/proc" "${train[@]}" c.json "${nvme[@]}"
else
	mkdir -m 0555 closed
	nvme_at closed
	refused 2 "closed" "${train[@]}" c.json "${nvme[@]}"
fi
mkdir small
if mount -t tmpfs -o size=4m strata-test small 2>/dev/null; then
	mounts+=("$work/small")
	nvme_at small
	refused 3 'small' "${train[@]}" c.json "${nvme[@]}"
	mount -o remount,size=64m small
	run 0 "${train[@]}" c.json "${nvme[@]}" --output tmpfs --steps 2
	for ((i = 0; i < 100; i++)); do # the kernel may still be closing what a ring held
		mount -o remount,ro small 2>/dev/null && break
		sleep 0.1
	done
	refused 2 '/small: the file system is mounted read-only.*remount' "${train[@]}" c.json "${nvme[@]}"
	refused 2 '/small: the file system is mounted read-only.*remount' "${train[@]}" c.json "${nvme[@]}" \
		--output tmpfs --steps 3 --resume
else
	note 'no tmpfs can be mounted here: too small a path was not tried'
fi

# ---- output --------------------------------------------------------------------------------------

refused 2 'text.txt' "${train[@]}" c.json --output text.txt
refused 2 'text.txt' "${train[@]}" c.json --output text.txt/below

# A file that the result would replace may be anybody's, even this run's configuration or text.
mkdir mine
for name in config.json strata.json log.jsonl model.safetensors; do
	cp c.json "mine/$name"
	refused 2 "output mine: $name is there already" "${train[@]}" "mine/$name" --output mine
	cmp -s c.json "mine/$name" || fail "mine/$name was changed"
	rm -f "mine/$name"
done

# A log that is no file does not hang a resumed run.
run 0 "${train[@]}" c.json --steps 2
rm out/log.jsonl
mkfifo out/log.jsonl
refused 2 'out/log.jsonl: is no regular file' timeout 20 "${train[@]}" c.json --steps 3 --resume
rm out/log.jsonl
run 0 "${train[@]}" c.json --steps 3 --resume

finish
