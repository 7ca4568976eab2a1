/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_engine.c - bit-exactness of the engine, on models that a few steps train in no time.
 *
 * Timeout: 300
 * Four layers, a tensor of two storage tiles, three micro-batches. test_engine_long.c does the same
 * over 20 steps on wider blocks.
 */
#include "tests/engine_cases.h"

#define STEPS 4

START_TEST(one_hash_without_clipping)
{
	check_without_clipping(false, STEPS);
}
END_TEST

START_TEST(one_hash_with_clipping)
{
	check_with_clipping(false, STEPS);
}
END_TEST

START_TEST(one_hash_in_fp32)
{
	struct tiny t = { .dtype = ST_F32, .clip = 0.5, .update = ST_UPDATE_DEFERRED };

	check_all(&t, STEPS);
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

int main(void)
{
	Suite *s = suite_create("engine");
	TCase *t = tcase_create("engine");
	SRunner *r;
	int failed;

	tcase_add_test(t, programs_verify);
	tcase_add_test(t, too_small_a_budget_names_the_smallest);
	tcase_add_test(t, one_hash_without_clipping);
	tcase_add_test(t, one_hash_with_clipping);
	tcase_add_test(t, one_hash_in_fp32);
	tcase_add_test(t, one_hash_with_wide_blocks);
	tcase_add_test(t, small_budgets_change_nothing);
	tcase_add_test(t, resumes_bit_exactly);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
