/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_engine_long.c - bit-exactness of the engine: 20 steps, both models, all variations.
 *
 * Label: slow
 * Timeout: 1800
 */
#include "tests/engine_cases.h"

#define STEPS 20

/* _i: which model */
START_TEST(one_hash_without_clipping)
{
	check_without_clipping(_i, STEPS, false);
}
END_TEST

START_TEST(one_hash_with_clipping)
{
	check_with_clipping(_i, STEPS);
}
END_TEST

START_TEST(one_hash_in_fp32)
{
	struct tiny t = {
		.dtype = ST_F32, .clip = 0.5, .update = ST_UPDATE_DEFERRED, .is_wide = _i
	};

	check_all(&t, STEPS);
}
END_TEST

START_TEST(one_hash_for_each_format)
{
	check_all(&formats[_i], STEPS);
}
END_TEST

START_TEST(looking_ahead_changes_nothing)
{
	for (int text = TINY_MIXED; text <= TINY_DISTINCT; text++) {
		check_lookahead(ST_BF16, (enum tiny_text)text, STEPS, UINT_MAX);
		check_lookahead(ST_F32, (enum tiny_text)text, STEPS, UINT_MAX);
	}
}
END_TEST

START_TEST(small_budgets_change_nothing)
{
	struct tiny t = { .dtype = ST_BF16,
			  .clip = 0.5,
			  .update = ST_UPDATE_DEFERRED,
			  .param_home = NVME,
			  .state_home = NVME,
			  .is_wide = _i };

	check_budgets(t, STEPS);
	t.spills = true;
	check_budgets(t, STEPS);
	t.spills = false;
	t.clip = 0;
	t.update = ST_UPDATE_IMMEDIATE;
	check_budgets(t, STEPS);
}
END_TEST

/* A device whose memory is not the host's. */
START_TEST(one_hash_on_a_separate_device)
{
	struct tiny t = { .dtype = ST_BF16, .update = ST_UPDATE_IMMEDIATE, .is_wide = _i };

	check_separate(&t, STEPS, false);
	t.update = ST_UPDATE_DEFERRED;
	t.clip = 0.5;
	check_separate(&t, STEPS, false);
}
END_TEST

START_TEST(one_hash_for_each_format_on_a_separate_device)
{
	check_separate(&formats[_i], STEPS, true);
}
END_TEST

START_TEST(resumes_bit_exactly)
{
	check_resumes(_i, STEPS);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("engine, long");
	TCase *t = tcase_create("engine, long");
	SRunner *r;
	int failed;

	tcase_add_loop_test(t, one_hash_without_clipping, 0, 2);
	tcase_add_loop_test(t, one_hash_with_clipping, 0, 2);
	tcase_add_loop_test(t, one_hash_in_fp32, 0, 2);
	tcase_add_loop_test(t, one_hash_for_each_format, 0, (int)ST_ARRAY_LEN(formats));
	tcase_add_test(t, looking_ahead_changes_nothing);
	tcase_add_loop_test(t, small_budgets_change_nothing, 0, 2);
	tcase_add_loop_test(t, resumes_bit_exactly, 0, 2);
	tcase_add_loop_test(t, one_hash_on_a_separate_device, 0, 2);
	tcase_add_loop_test(t, one_hash_for_each_format_on_a_separate_device, 0,
			    (int)ST_ARRAY_LEN(formats));
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
