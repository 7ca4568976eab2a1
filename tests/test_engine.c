/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_engine.c - bit-exactness of the engine, on models that a few steps train in no time.
 *
 * Timeout: 300
 * Four layers, a tensor of two storage tiles, three micro-batches; three steps, so that the last
 * one finds what is pending and looks ahead as all later ones do. test_engine_long.c does the same
 * over 20 steps, on wider blocks as well, and where this takes some of the variations, all of them.
 */
#include "tests/engine_cases.h"

#define STEPS 3

static void in_memory(void)
{
	tiny_in_memory = true;
}

START_TEST(one_hash_without_clipping)
{
	check_without_clipping(false, STEPS, true);
}
END_TEST

/* All variations on the disk. */
START_TEST(one_hash_with_clipping)
{
	tiny_in_memory = false;
	check_with_clipping(false, STEPS);
}
END_TEST

START_TEST(one_hash_in_fp32)
{
	struct tiny t = { .dtype = ST_F32, .clip = 0.5, .update = ST_UPDATE_DEFERRED };

	check(&t, STEPS, true);
}
END_TEST

START_TEST(small_budgets_change_nothing)
{
	struct tiny t = { .dtype = ST_BF16,
			  .clip = 0.5,
			  .update = ST_UPDATE_DEFERRED,
			  .param_home = NVME,
			  .state_home = NVME };

	check_budgets(t, STEPS);
	t.clip = 0;
	t.update = ST_UPDATE_IMMEDIATE;
	check_budgets(t, STEPS);
}
END_TEST

START_TEST(looking_ahead_changes_nothing)
{
	check_lookahead(ST_BF16, TINY_MIXED, 3, 0x3f);
	check_lookahead(ST_BF16, TINY_ONE, 3, 0x22);
	check_lookahead(ST_BF16, TINY_DISTINCT, 3, 0x24);
	check_lookahead(ST_F32, TINY_DISTINCT, 3, 0x2);
}
END_TEST

/* Operations of a kind (and unit, or ST_NONE) before the first one of another kind. */
static uint32_t count_before(const struct st_program *p, enum st_op_kind kind, uint32_t unit,
			     enum st_op_kind end, uint32_t stage)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < p->n_ops; i++) {
		const struct st_op *op = &p->ops[i];

		if (op->kind == end && op->stage == stage)
			return n;
		n += op->kind == kind && (unit == ST_NONE || op->unit == unit);
	}
	return ST_NONE;
}

START_TEST(the_first_block_does_not_wait_for_the_table)
{
	struct tiny t = { .dtype = ST_BF16,
			  .update = ST_UPDATE_DEFERRED,
			  .param_home = NVME,
			  .state_home = NVME,
			  .commits = true };
	const struct st_program *p;
	struct tiny_run r = { 0 };
	struct st_row_part part;
	uint32_t loss;

	tiny_plan(&r, &t);
	ck_assert(st_row_part(&r.plan->lookup, TINY_SPLIT_ROW, 1, &part));
	ck_assert(!st_row_part(&r.plan->lookup, TINY_SPLIT_ROW + 1, 1, &part));
	p = r.plan->program[ST_VARIANT_STEP + ST_DUE_DEFERRED];
	loss = r.model->n_stages - 1;
	ck_assert_uint_ge(r.plan->lookup.n_chunks, 2);
	ck_assert_uint_eq(count_before(p, ST_OP_UPDATE, 0, ST_OP_FORWARD, 1), 0);
	/* By the way, and no less: each block takes a share of the tiles. */
	ck_assert_uint_ge(count_before(p, ST_OP_UPDATE, 0, ST_OP_FORWARD, loss - 1), 1);
	ck_assert_uint_eq(count_before(p, ST_OP_READ_ROWS, 0, ST_OP_FORWARD, 0),
			  r.plan->lookup.n_chunks);
	ck_assert_uint_eq(count_before(p, ST_OP_UPDATE, 0, ST_OP_BACKWARD, loss),
			  r.plan->layout->unit_first_tile[1]);
	p = r.plan->program[ST_VARIANT_STEP]; /* nothing is pending: nothing to look ahead */
	ck_assert_uint_eq(count_before(p, ST_OP_READ_ROWS, ST_NONE, ST_OP_BACKWARD, loss), 0);
	t.device_bytes = r.plan->min_bytes[ST_ARENA_DEVICE];
	t.host_bytes = r.plan->min_bytes[ST_ARENA_HOST];
	tiny_unplan(&r);

	tiny_plan(&r, &t); /* no room to keep the table beside the blocks */
	p = r.plan->program[ST_VARIANT_STEP + ST_DUE_DEFERRED];
	ck_assert_uint_eq(count_before(p, ST_OP_UPDATE, 0, ST_OP_FORWARD, loss - 1), 0);
	tiny_unplan(&r);
}
END_TEST

START_TEST(one_hash_for_each_format)
{
	check(&formats[_i], STEPS + 1, true); /* of fp16 the first steps overflow */
}
END_TEST

/* A table that the last stage does not use is updated before the loss all the same. */
START_TEST(an_untied_table_is_updated_before_the_commit)
{
	struct tiny t = { .dtype = ST_BF16, .update = ST_UPDATE_DEFERRED };
	struct st_stage_desc stages[8];
	const struct st_program *p;
	struct tiny_run r = { 0 };
	struct st_plan_cfg cfg;
	struct st_plan *plan;
	struct st_model untied;

	tiny_plan(&r, &t);
	untied = *r.model;
	ck_assert_uint_le(untied.n_stages, ST_ARRAY_LEN(stages));
	memcpy(stages, untied.stages, untied.n_stages * sizeof(*stages));
	stages[untied.n_stages - 1].n_units = 1;
	untied.stages = stages;
	for (unsigned order = 0; order < 2; order++) {
		cfg = r.plan->cfg;
		cfg.model = &untied;
		cfg.order = order ? ST_ORDER_HORIZONTAL : ST_ORDER_VERTICAL;
		cfg.param_home = cfg.state_home = ST_HOME_NVME;
		cfg.commits = true;
		CK(st_plan_create(&plan, &cfg));
		p = plan->program[ST_VARIANT_STEP + ST_DUE_DEFERRED];
		ck_assert_uint_ge(plan->lookup.n_chunks, 1);
		ck_assert_uint_eq(count_before(p, ST_OP_UPDATE, ST_NONE, ST_OP_COMMIT, ST_NONE),
				  plan->layout->n_tiles);
		for (unsigned v = 0; v < ST_VARIANT_N; v++)
			if (plan->program[v])
				CK(st_program_verify(plan->program[v]));
		st_plan_destroy(plan);
	}
	tiny_unplan(&r);
}
END_TEST

/* Blocks of more than one storage tile per matrix. */
START_TEST(one_hash_with_wide_blocks)
{
	struct tiny plain = {
		.dtype = ST_BF16, .clip = 0.5, .update = ST_UPDATE_DEFERRED, .is_wide = true
	};
	struct tiny moved = { .dtype = ST_BF16,
			      .clip = 0.5,
			      .update = ST_UPDATE_DEFERRED,
			      .param_home = NVME,
			      .state_home = NVME,
			      .n_paths = 2,
			      .commits = true,
			      .is_wide = true };

	ck_assert_uint_eq(hash_after(&plain, 2), hash_after(&moved, 2));
}
END_TEST

START_TEST(too_small_a_budget_names_the_smallest)
{
	struct tiny t = { .dtype = ST_BF16,
			  .update = ST_UPDATE_DEFERRED,
			  .param_home = NVME,
			  .state_home = NVME };
	struct tiny_run r = { 0 };
	struct st_plan *plan;
	struct st_plan_cfg cfg;

	tiny_plan(&r, &t);
	cfg = r.plan->cfg;
	cfg.device_bytes = r.plan->min_bytes[0] - 1;
	ck_assert_int_eq(st_plan_create(&plan, &cfg), STRATA_E_NO_FIT);
	ck_assert_msg(strstr(st_last_error(), "device") && strstr(st_last_error(), "MiB"), "%s",
		      st_last_error());
	cfg.device_bytes++;
	CK(st_plan_create(&plan, &cfg));
	ck_assert_uint_le(plan->arena_bytes[0], cfg.device_bytes);
	st_plan_destroy(plan);
	tiny_unplan(&r);
}
END_TEST

START_TEST(programs_verify)
{
	static const enum st_home homes[][2] = {
		{ DEV, DEV }, { HOST, HOST }, { NVME, NVME }, { NVME, HOST }, { DEV, NVME }
	};

	for (size_t i = 0; i < 2 * ST_ARRAY_LEN(homes); i++) {
		struct tiny t = { .dtype = ST_BF16,
				  .param_home = homes[i / 2][0],
				  .state_home = homes[i / 2][1],
				  .update = i % 2 ? ST_UPDATE_DEFERRED : ST_UPDATE_IMMEDIATE,
				  .order = i % 3 ? ST_ORDER_VERTICAL : ST_ORDER_HORIZONTAL,
				  .spills = i % 4 == 1,
				  .commits = i % 5 < 3 };
		struct tiny_run r = { 0 };

		tiny_plan(&r, &t);
		for (unsigned v = 0; v < ST_VARIANT_N; v++)
			if (r.plan->program[v])
				CK(st_program_verify(r.plan->program[v]));
		tiny_unplan(&r);
	}
}
END_TEST

START_TEST(resumes_bit_exactly)
{
	check_resumes(false, 6);
}
END_TEST

/* Without commits a run that ends before it is saved leaves nothing: it begins anew. */
START_TEST(without_commits_nothing_is_half_there)
{
	static const struct tiny cases[] = {
		{ .param_home = ST_HOME_NVME, .state_home = ST_HOME_NVME, .spare_bytes = 1 << 20 },
		{ .param_home = ST_HOME_HOST, .state_home = ST_HOME_NVME },
		{ .param_home = ST_HOME_NVME, .state_home = ST_HOME_NVME },
	};

	for (size_t i = 0; i < ST_ARRAY_LEN(cases); i++) {
		char run_json[4096];
		struct tiny_run r;
		uint64_t once;

		tiny_open(&r, &cases[i]);
		tiny_step(&r, 1, NULL);
		once = tiny_hash(&r);
		memcpy(run_json, r.run_json, sizeof(run_json));
		st_engine_close(r.engine, false);
		r.engine = NULL;
		tiny_engine(&r, &cases[i], run_json);
		tiny_step(&r, 1, NULL);
		ck_assert_uint_eq(tiny_hash(&r), once);
		tiny_close(&r);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("engine");
	TCase *t = tcase_create("engine"), *many = tcase_create("more variations");
	SRunner *r;
	int failed;

	tcase_add_checked_fixture(t, in_memory, NULL);
	tcase_add_checked_fixture(many, in_memory, NULL);
	tcase_add_test(t, programs_verify);
	tcase_add_test(t, too_small_a_budget_names_the_smallest);
	tcase_add_test(t, one_hash_with_clipping);
	tcase_add_test(t, the_first_block_does_not_wait_for_the_table);
	tcase_add_test(t, an_untied_table_is_updated_before_the_commit);
	tcase_add_test(t, looking_ahead_changes_nothing);
	tcase_add_test(t, small_budgets_change_nothing);
	tcase_add_test(t, resumes_bit_exactly);
	tcase_add_test(t, without_commits_nothing_is_half_there);
	tcase_set_tags(many, "many"); /* the sanitizers' builds leave them out: .ci/run */
	tcase_add_test(many, one_hash_without_clipping);
	tcase_add_test(many, one_hash_in_fp32);
	tcase_add_loop_test(many, one_hash_for_each_format, 0, 3);
	tcase_add_test(many, one_hash_with_wide_blocks);
	suite_add_tcase(s, many);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
