/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_traffic.c - bytes that a step moves between NVMe and memory, everything on NVMe, for a
 * parameter: the rows of docs/design.md.
 *
 * The plan of GPT-2 XL has each row to 3 %, and a small model that runs moves what its own plan
 * says, so that the rows are the engine's. tests/cli_traffic.sh (slow) trains a model large enough
 * to have the rows itself.
 */
#include <math.h>

#include "tests/engine_util.h"

static const struct row {
	const char *name;
	enum st_dtype dtype;
	enum strata_optim_moments moments;
	bool spills;
	double bytes;
} rows[] = {
	{ "bf16, moments fp32", ST_BF16, STRATA_MOMENTS_F32, false, 26 },
	{ "bf16, moments bf16", ST_BF16, STRATA_MOMENTS_BF16, false, 18 },
	{ "bf16, moments int8", ST_BF16, STRATA_MOMENTS_INT8, false, 14.13 },
	{ "bf16, moments fp32, gradients spilled", ST_BF16, STRATA_MOMENTS_F32, true, 30 },
	{ "bf16, moments int8, gradients spilled", ST_BF16, STRATA_MOMENTS_INT8, true, 18.13 },
	{ "fp16", ST_F16, STRATA_MOMENTS_F32, false, 28 },
	{ "fp32", ST_F32, STRATA_MOMENTS_F32, false, 28 },
};

/* Only planned: 1.56 G parameters, 1 x 1024 tokens. */
START_TEST(xl_moves_what_the_rows_say)
{
	const struct row *row = &rows[_i];
	const struct st_gpt2_cfg xl = { .n_layer = 48,
					.n_embd = 1600,
					.n_head = 25,
					.n_positions = 1024,
					.vocab_size = 50257 };
	const struct st_device_cfg cfg = { .type = "host", .dtype = row->dtype, .threads = 1 };
	struct st_plan_cfg plan_cfg = {
		.formats = { .dtype = row->dtype,
			     .grad_dtype = row->dtype,
			     .moments = row->moments,
			     .optim = STRATA_OPTIM_CFG_DEFAULT },
		.n_mb = 1,
		.n_eval_mb = 1,
		.param_home = ST_HOME_NVME,
		.state_home = ST_HOME_NVME,
		.update = ST_UPDATE_DEFERRED,
		.needs_norm = true,
		.recompute = true,
		.rest = row->spills ? ST_REST_NVME : ST_REST_MEMORY,
		.commits = true,
		.lookahead = ST_LOOKAHEAD_ON,
		.updates = { true, true },
	};
	enum st_update modes[64];
	struct st_device *dev;
	struct st_model *model;
	struct st_plan *plan;
	double bytes;

	CK(st_device_open(&dev, &cfg));
	CK(st_gpt2_create(&model, &xl, 1, 1024, dev, row->dtype));
	ck_assert_uint_le(model->n_units, ST_ARRAY_LEN(modes));
	for (unsigned u = 0; u < model->n_units; u++)
		modes[u] = ST_UPDATE_DEFERRED;
	plan_cfg.model = model;
	plan_cfg.modes = modes;
	CK(st_plan_create(&plan, &plan_cfg));
	bytes = (double)(st_plan_read_bytes(plan) + st_plan_write_bytes(plan)) /
		(double)model->n_params;
	printf("GPT-2 XL, %s: %.2f bytes a parameter\n", row->name, bytes);
	ck_assert_msg(fabs(bytes / row->bytes - 1) <= 0.03, "%s: %.3f bytes a parameter, not %g",
		      row->name, bytes, row->bytes);
	st_plan_destroy(plan);
	st_gpt2_destroy(model);
	st_device_close(dev);
}
END_TEST

/* What has completed, over the steps from the third on; reads for the next step are among it, as
 * those of the first are in the step before. */
START_TEST(a_run_moves_what_its_plan_says)
{
	enum { STEPS = 10 };
	const struct row *row = &rows[_i];
	const struct tiny t = { .dtype = row->dtype,
				.moments = row->moments,
				.clip = 0.5,
				.update = ST_UPDATE_DEFERRED,
				.param_home = ST_HOME_NVME,
				.state_home = ST_HOME_NVME,
				.loss_scale = 512,
				.commits = true,
				.spills = row->spills,
				.waits = true,
				.n_mb = 1 };
	double moved = 0, planned;
	struct st_step_out out;
	struct tiny_run r;

	tiny_open(&r, &t);
	for (uint64_t s = 1; s <= STEPS; s++) {
		tiny_step(&r, s, &out);
		ck_assert(!out.skipped);
		moved += s > 2 ? (double)(out.read_bytes + out.write_bytes) / (STEPS - 2) : 0;
	}
	planned = (double)(st_plan_read_bytes(r.plan) + st_plan_write_bytes(r.plan));
	ck_assert_msg(fabs(moved / planned - 1) <= 0.03, "%s: %.0f bytes moved, %.0f planned",
		      row->name, moved, planned);
	tiny_close(&r);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("traffic");
	TCase *t = tcase_create("traffic");
	SRunner *r;
	int failed;

	tiny_in_memory = true;
	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, xl_moves_what_the_rows_say, 0, (int)ST_ARRAY_LEN(rows));
	tcase_add_loop_test(t, a_run_moves_what_its_plan_says, 0, (int)ST_ARRAY_LEN(rows));
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
