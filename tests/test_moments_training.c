/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_moments_training.c - a small model trained with moments in 32, 16 and 8 bits learns
 * the same; with 8 bits cut linearly, which is how not to do it, it does not.
 *
 * Label: slow
 * Timeout: 100
 * Wrap: strata_optim_update
 *
 * The text is this repository's documentation. examples/moments.json does the same for real, with
 * more steps and seeds: strata bench moments.
 */
#include <check.h>
#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "strata/optim.h"
#include "strata/train.h"

#define STEPS "200"

int __real_strata_optim_update(const struct strata_optim_step *s,
			       const struct strata_optim_format *f,
			       const struct strata_optim_range *r);
int __wrap_strata_optim_update(const struct strata_optim_step *s,
			       const struct strata_optim_format *f,
			       const struct strata_optim_range *r);

static bool is_linear; /* fp32 moments are cut to 8 bits after each step */

/* In blocks, to the nearest of `codes` equal steps up to the largest. */
static void cut(float *x, size_t n, float codes)
{
	for (size_t at = 0; at < n; at += STRATA_MOMENTS_BLOCK) {
		size_t end = n - at < STRATA_MOMENTS_BLOCK ? n : at + STRATA_MOMENTS_BLOCK;
		float max = 0;

		for (size_t i = at; i < end; i++)
			max = fmaxf(max, fabsf(x[i]));
		for (size_t i = at; max > 0 && i < end; i++)
			x[i] = rintf(x[i] / max * codes) / codes * max;
	}
}

int __wrap_strata_optim_update(const struct strata_optim_step *s,
			       const struct strata_optim_format *f,
			       const struct strata_optim_range *r)
{
	int rc = __real_strata_optim_update(s, f, r);

	if (!rc && is_linear) {
		cut(r->array[STRATA_ARRAY_M], r->n, 127);
		cut(r->array[STRATA_ARRAY_V], r->n, 255);
	}
	return rc;
}

static char dir[] = "/tmp/strata-test-moments.XXXXXX";

static void put_file(const char *name, const char *text)
{
	FILE *f = fopen(name, "w");

	ck_assert_ptr_nonnull(f);
	ck_assert_int_ge(fputs(text, f), 0);
	ck_assert_int_eq(fclose(f), 0);
}

static void append(FILE *out, const char *name)
{
	char path[512], buf[4096];
	size_t n;
	FILE *in;

	snprintf(path, sizeof(path), "%s/%s", STRATA_SOURCE_DIR, name);
	in = fopen(path, "r");
	ck_assert_msg(in, "%s", path);
	while ((n = fread(buf, 1, sizeof(buf), in)) > 0)
		ck_assert_uint_eq(fwrite(buf, 1, n, out), n);
	fclose(in);
}

static void set_up(void)
{
	static const char config[] =
		"{ \"train_batch_size\": 4, \"train_micro_batch_size_per_gpu\": 4,\n"
		"\"gradient_clipping\": 1.0, \"bf16\": { \"enabled\": true },\n"
		"\"optimizer\": { \"type\": \"AdamW\", \"params\": { \"lr\": 1.5e-3,\n"
		"	\"betas\": [0.9, 0.999], \"weight_decay\": 0.1 } },\n"
		"\"scheduler\": { \"type\": \"WarmupCosineLR\", \"params\": { "
		"\"warmup_num_steps\": 20,\n"
		"	\"total_num_steps\": " STEPS ", \"cos_min_ratio\": 0.05 } },\n"
		"\"zero_optimization\": { \"stage\": 3, \"offload_param\": { \"device\": \"cpu\" "
		"},\n"
		"	\"offload_optimizer\": { \"device\": \"cpu\" } },\n"
		"\"strata\": { \"model\": { \"family\": \"gpt2\", \"n_layer\": 2, \"n_embd\": 64,\n"
		"	\"n_head\": 2, \"n_positions\": 64, \"vocab_size\": 256 },\n"
		"	\"data\": { \"train\": \"text.txt\", \"format\": \"bytes\" },\n"
		"	\"threads\": 2, \"steps\": " STEPS ", \"output\": \"out\" } }\n";
	FILE *text;

	ck_assert_ptr_nonnull(mkdtemp(dir));
	ck_assert_int_eq(chdir(dir), 0);
	put_file("c.json", config);
	text = fopen("text.txt", "w");
	ck_assert_ptr_nonnull(text);
	append(text, "docs/design.md");
	append(text, "docs/usage.md");
	append(text, "docs/optimizers.md");
	append(text, "include/strata/train.h");
	append(text, "include/strata/optim.h");
	ck_assert_int_eq(fclose(text), 0);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st;
	(void)type;
	(void)at;
	return remove(path);
}

static void tear_down(void)
{
	ck_assert_int_eq(chdir("/"), 0);
	ck_assert_int_eq(nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

/* @return the validation loss at the end; infinite where training broke down */
static double loss_with(const char *moments)
{
	static unsigned n_runs;
	char set[64], output[32];
	const char *sets[] = { set };
	struct strata_options opt = STRATA_OPTIONS_DEFAULT;
	struct strata_metrics m = { 0 };
	struct strata_result result;
	struct strata_trainer *t = NULL;
	int rc;

	snprintf(set, sizeof(set), "strata.optimizer.moments=\"%s\"", moments);
	snprintf(output, sizeof(output), "out-%u", n_runs++);
	opt.sets = sets;
	opt.n_sets = 1;
	opt.output = output;
	ck_assert_msg(!strata_trainer_open(&t, "c.json", &opt), "%s", strata_last_error());
	do
		rc = strata_trainer_step(t, NULL, NULL, &m);
	while (!rc && m.step < m.total_steps);
	if (!rc)
		rc = strata_trainer_finish(t, &result);
	ck_assert_msg(!rc || rc == STRATA_E_NUMERIC, "%s", strata_last_error());
	strata_trainer_close(t);
	return rc ? INFINITY : result.val_loss;
}

START_TEST(training_loses_nothing)
{
	double fp32 = loss_with("fp32"), bf16 = loss_with("bf16"), int8 = loss_with("int8"), linear;

	is_linear = true;
	linear = loss_with("fp32");
	is_linear = false;
	printf("validation loss: fp32 %.4f, bf16 %.4f, int8 %.4f; 8 bits, linear: %.4f\n", fp32,
	       bf16, int8, linear);
	ck_assert_msg(fp32 < 3.5, "fp32 has learnt nothing: %g", fp32);
	ck_assert(fabs(bf16 - fp32) <= 0.02);
	ck_assert(fabs(int8 - fp32) <= 0.02);
	ck_assert(bf16 != fp32 && int8 != fp32 && int8 != bf16);
	/* The measure tells harm. */
	ck_assert(!(linear <= fp32 + 0.2));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("moments in training");
	TCase *t = tcase_create("training");
	SRunner *r;
	int failed;

	tcase_set_timeout(t, 0);
	tcase_add_checked_fixture(t, set_up, tear_down);
	tcase_add_test(t, training_loses_nothing);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
