/* SPDX-License-Identifier: Apache-2.0 */
/*
 * examples/train_api.c - train with batches of one's own, through the public API.
 *
 *	train_api CONFIG OUTPUT
 *
 * CONFIG is a configuration as for `strata train`; it needs no "strata.data", because the batches
 * are made here: sequences that count upwards in steps of 1 to 4, from anywhere, modulo the
 * vocabulary. The model learns to go on counting. Prints step and loss, then what 8 tokens the
 * trained model puts after 10 12 14. The exit code is the one that `strata train` would have.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "strata/train.h"

/* A small generator of pseudo-random numbers; the same on every machine. */
static uint32_t next_random(uint64_t *state)
{
	*state = *state * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(*state >> 33);
}

/* [n_seqs, seq_len] each: a target is the token that follows its own. */
static void make_batch(const struct strata_info *info, uint64_t *state, int32_t *tokens,
		       int32_t *targets)
{
	uint64_t vocab = info->vocab_size;

	for (uint64_t s = 0; s < info->train_batch; s++) {
		uint64_t x = next_random(state) % vocab, by = 1 + next_random(state) % 4;

		for (uint64_t i = 0; i < info->seq_len; i++) {
			*tokens++ = (int32_t)x;
			x = (x + by) % vocab;
			*targets++ = (int32_t)x;
		}
	}
}

static int train(struct strata_trainer *t)
{
	const struct strata_info *info = strata_trainer_info(t);
	int32_t *tokens = calloc(info->tokens_per_step, sizeof(*tokens));
	int32_t *targets = calloc(info->tokens_per_step, sizeof(*targets));
	uint64_t state = 1;
	int rc = tokens && targets ? 0 : -ENOMEM;

	for (uint64_t step = 0; !rc && step < info->total_steps; step++) {
		struct strata_metrics m;

		make_batch(info, &state, tokens, targets);
		if (step < info->resumed_step) /* the run that is resumed has had this one */
			continue;
		rc = strata_trainer_step(t, tokens, targets, &m);
		if (!rc && (m.step % info->steps_per_print == 0 || m.step == 1))
			printf("step %" PRIu64 " loss %.4f\n", m.step, m.loss);
	}
	free(tokens);
	free(targets);
	return rc ? rc : strata_trainer_finish(t, NULL);
}

static int count_on(const char *dir)
{
	struct strata_sampler *s = NULL;
	int32_t tokens[11] = { 10, 12, 14 };
	uint64_t seed = 1;
	int rc = strata_sampler_open(&s, dir, 0);

	for (size_t n = 3; !rc && n < 11; n++) {
		rc = strata_sampler_next(s, tokens, n, 0, 0, &seed, &tokens[n]);
		if (!rc)
			printf("%s%d", n == 3 ? "10 12 14 -> " : " ", tokens[n]);
	}
	if (!rc)
		putchar('\n');
	strata_sampler_close(s);
	return rc;
}

static void log_line(void *user, enum strata_log_level level, const char *line)
{
	(void)user;
	(void)level;
	fprintf(stderr, "%s\n", line);
}

int main(int argc, char **argv)
{
	struct strata_options opt = STRATA_OPTIONS_DEFAULT;
	struct strata_trainer *t = NULL;
	int rc;

	if (argc != 3) {
		fprintf(stderr, "usage: train_api CONFIG OUTPUT\n");
		return 2;
	}
	opt.output = argv[2];
	opt.log = log_line;
	opt.brings_batches = true;
	rc = strata_trainer_open(&t, argv[1], &opt);
	if (!rc)
		rc = train(t);
	strata_trainer_close(t); /* NULL is fine */
	if (!rc)
		rc = count_on(argv[2]);
	if (rc)
		fprintf(stderr, "train_api: %s\n", strata_last_error());
	return strata_exit_code(rc);
}
