/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_engine_separate.c - the engine on a device whose memory is not the host's: the bits of
 * the host device, wherever things live; and what happens when a copy fails.
 *
 * Timeout: 300
 */
#include "tests/engine_cases.h"

#define STEPS 3

static void in_memory(void)
{
	tiny_in_memory = true;
}

START_TEST(programs_verify)
{
	static const enum st_home homes[][2] = { { DEV, DEV },   { HOST, HOST }, { NVME, NVME },
						 { NVME, HOST }, { DEV, NVME },  { DEV, HOST },
						 { HOST, DEV },  { HOST, NVME } };

	for (unsigned i = 0; i < 4 * ST_ARRAY_LEN(homes); i++) {
		struct tiny t = { .dtype = ST_BF16,
				  .is_separate = true,
				  .param_home = homes[i / 4][0],
				  .state_home = homes[i / 4][1],
				  .update = i % 2 ? ST_UPDATE_DEFERRED : ST_UPDATE_IMMEDIATE,
				  .order = i % 3 ? ST_ORDER_VERTICAL : ST_ORDER_HORIZONTAL,
				  .updates_on_host = i % 4 > 1,
				  .acts_on_host = i % 5 < 2,
				  .keeps_activations = i % 3 == 1,
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

START_TEST(one_hash_without_clipping)
{
	struct tiny t = { .dtype = ST_BF16, .update = ST_UPDATE_IMMEDIATE };

	check_separate(&t, STEPS, true);
}
END_TEST

START_TEST(one_hash_with_clipping)
{
	struct tiny t = { .dtype = ST_BF16, .clip = 0.5, .update = ST_UPDATE_DEFERRED };

	check_separate(&t, STEPS, false);
}
END_TEST

START_TEST(one_hash_in_fp16)
{
	check_separate(&formats[1], STEPS + 1, true); /* the first steps overflow */
}
END_TEST

START_TEST(small_budgets_change_nothing)
{
	struct tiny t = { .dtype = ST_BF16,
			  .clip = 0.5,
			  .update = ST_UPDATE_DEFERRED,
			  .param_home = NVME,
			  .state_home = NVME,
			  .is_separate = true };

	check_budgets(t, STEPS);
}
END_TEST

START_TEST(resumes_bit_exactly)
{
	struct tiny t = { .dtype = ST_BF16,
			  .clip = 0.5,
			  .update = ST_UPDATE_DEFERRED,
			  .param_home = NVME,
			  .state_home = NVME,
			  .commits = true,
			  .is_separate = true };

	tiny_in_memory = false;
	check_resume(t, 5);
	t = (struct tiny){ .dtype = ST_BF16, .clip = 0.5, .update = ST_UPDATE_DEFERRED };
	t.is_separate = true;
	check_resume(t, 5); /* all on the device */
}
END_TEST

/* A copy fails, at one place of a step after the other: the failure is reported, nothing hangs, and
 * the engine can be closed. */
START_TEST(a_failed_copy_ends_the_run)
{
	struct tiny t = { .dtype = ST_BF16,
			  .update = ST_UPDATE_DEFERRED,
			  .param_home = HOST,
			  .state_home = HOST,
			  .is_separate = true };

	for (uint64_t after = 1; after < 60; after += 7) {
		struct st_step_out out;
		struct tiny_run r;
		struct separate *s;

		tiny_open(&r, &t);
		tiny_step(&r, 1, NULL);
		s = separate_of(r.dev);
		pthread_mutex_lock(&s->lock);
		s->fails_at = s->n_copies + after;
		pthread_mutex_unlock(&s->lock);
		ck_assert_int_eq(tiny_try_step(&r, 2, &out), -EIO);
		ck_assert_ptr_nonnull(strstr(st_last_error(), "a copy failed"));
		ck_assert_int_eq(tiny_try_step(&r, 3, &out), -EIO);
		tiny_close(&r);
	}
}
END_TEST

START_TEST(a_plan_for_another_device_is_refused)
{
	struct tiny t = { .dtype = ST_BF16, .is_separate = true };
	struct tiny_run r = { 0 };
	struct st_device *dev;

	tiny_plan(&r, &t);
	r.paths[0] = STRATA_BUILD_DIR;
	dev = r.dev;
	CK(st_device_open(&r.dev, &(struct st_device_cfg){ "host", ST_BF16, 2 }));
	ck_assert_int_eq(tiny_try_engine(&r, &t, NULL), -EINVAL);
	ck_assert_ptr_nonnull(strstr(st_last_error(), "another kind of device"));
	st_device_close(r.dev);
	r.dev = dev;
	tiny_unplan(&r);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("engine, separate device");
	TCase *t = tcase_create("engine, separate device");
	TCase *many = tcase_create("more variations");
	SRunner *r;
	int failed;

	tcase_add_checked_fixture(t, in_memory, NULL);
	tcase_add_checked_fixture(many, in_memory, NULL);
	tcase_add_test(t, programs_verify);
	tcase_add_test(t, a_plan_for_another_device_is_refused);
	tcase_add_test(t, one_hash_without_clipping);
	tcase_add_test(t, small_budgets_change_nothing);
	tcase_add_test(t, resumes_bit_exactly);
	tcase_add_test(t, a_failed_copy_ends_the_run);
	tcase_set_tags(many, "many"); /* the sanitizers' builds leave them out: .ci/run */
	tcase_add_test(many, one_hash_with_clipping);
	tcase_add_test(many, one_hash_in_fp16);
	suite_add_tcase(s, many);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
