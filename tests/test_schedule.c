/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_schedule.c - the five schedules against values worked out by hand.
 *
 * Step t of the optimizer uses DeepSpeed's iteration i = t - 1 (core/schedule.h says why).
 */
#include <check.h>
#include <math.h>
#include <stdlib.h>

#include "core/schedule.h"

/* A few roundings apart, no more: the order of operations is DeepSpeed's. */
static void expect(double got, double want)
{
	ck_assert_msg(fabs(got - want) <= 1e-15 + 1e-14 * fabs(want), "%.17g is not %.17g", got,
		      want);
}

START_TEST(none_is_the_base_rate)
{
	struct st_schedule s = { .type = ST_SCHEDULE_NONE };
	double b1 = 0.5, b2 = 0.6;

	expect(st_schedule_lr(&s, 0.25, 0), 0.25);
	expect(st_schedule_lr(&s, 0.25, 1000000), 0.25);
	ck_assert(!st_schedule_betas(&s, 3, &b1, &b2));
	expect(b1, 0.5);
	expect(b2, 0.6);
}
END_TEST

START_TEST(lr_range_test)
{
	struct st_schedule s = { .type = ST_SCHEDULE_LR_RANGE_TEST,
				 .range_min_lr = 1e-3,
				 .range_step_size = 4,
				 .range_step_rate = 2.0 };

	expect(st_schedule_lr(&s, 9, 0), 1e-3);
	expect(st_schedule_lr(&s, 9, 1), 1.5e-3); /* 1e-3 (1 + 2 * 1/4) */
	expect(st_schedule_lr(&s, 9, 6), 4e-3);   /* 1e-3 (1 + 2 * 6/4) */
	s.range_staircase = true;
	expect(st_schedule_lr(&s, 9, 3), 1e-3);
	expect(st_schedule_lr(&s, 9, 4), 3e-3);
	expect(st_schedule_lr(&s, 9, 7), 3e-3);
	expect(st_schedule_lr(&s, 9, 8), 5e-3);
}
END_TEST

static struct st_schedule cycle(void)
{
	return (struct st_schedule){
		.type = ST_SCHEDULE_ONE_CYCLE,
		.cycle_min_lr = 1.0,
		.cycle_max_lr = 5.0,
		.decay_lr_rate = 0.5,
		.cycle_first_step_size = 4,
		.cycle_second_step_size = 8,
		.decay_step_size = 2,
		.cycle_momentum = true,
		.cycle_min_mom = 0.8,
		.cycle_max_mom = 0.9,
		.decay_mom_rate = 0.01,
	};
}

START_TEST(one_cycle_rate)
{
	struct st_schedule s = cycle();

	expect(st_schedule_lr(&s, 9, 0), 1.0);
	expect(st_schedule_lr(&s, 9, 1), 2.0); /* 1/4 of the way up */
	expect(st_schedule_lr(&s, 9, 4), 5.0);
	expect(st_schedule_lr(&s, 9, 6), 4.0);  /* 2/8 of the way down */
	expect(st_schedule_lr(&s, 9, 12), 1.0); /* i = 11, still in the cycle */
	expect(st_schedule_lr(&s, 9, 13), 0.8); /* k = 1: 1 / (1 + 0.5 * 1/2) */
	expect(st_schedule_lr(&s, 9, 16), 0.5); /* k = 4: 1 / (1 + 0.5 * 4/2) */
	s.decay_step_size = 0;
	expect(st_schedule_lr(&s, 9, 16), 1.0);
}
END_TEST

START_TEST(one_cycle_momentum)
{
	struct st_schedule s = cycle();
	double b1 = 0, b2 = 0;

	ck_assert(st_schedule_betas(&s, 0, &b1, &b2)); /* the constructor's: min, not max */
	expect(b1, 0.8);
	expect(b2, 0.99);
	ck_assert(st_schedule_betas(&s, 1, &b1, &b2));
	expect(b1, 0.875); /* 0.9 - 0.1 * 1/4 */
	ck_assert(st_schedule_betas(&s, 4, &b1, &b2));
	expect(b1, 0.8);
	ck_assert(st_schedule_betas(&s, 12, &b1, &b2));
	expect(b1, 0.9);
	ck_assert(st_schedule_betas(&s, 16, &b1, &b2));
	expect(b1, 0.918); /* 0.9 (1 + 0.01 * 4/2) */
	s.decay_mom_rate = 0;
	ck_assert(st_schedule_betas(&s, 16, &b1, &b2));
	expect(b1, 0.9);
	s.cycle_momentum = false;
	ck_assert(!st_schedule_betas(&s, 1, &b1, &b2));
}
END_TEST

START_TEST(one_cycle_stairs)
{
	struct st_schedule s = cycle();

	s.cycle_first_stair_count = 2;
	s.cycle_second_stair_count = 4;
	expect(st_schedule_lr(&s, 9, 1), 1.0);
	expect(st_schedule_lr(&s, 9, 2), 3.0); /* one of two stairs */
	expect(st_schedule_lr(&s, 9, 3), 3.0);
	expect(st_schedule_lr(&s, 9, 4), 5.0);
	expect(st_schedule_lr(&s, 9, 5), 4.0); /* 7/8 of the way: three of four stairs */
	expect(st_schedule_lr(&s, 9, 6), 4.0);
	expect(st_schedule_lr(&s, 9, 7), 3.0);
}
END_TEST

START_TEST(warmup)
{
	struct st_schedule s = { .type = ST_SCHEDULE_WARMUP,
				 .warmup_min_lr = 1e-4,
				 .warmup_max_lr = 1e-3,
				 .warmup_num_steps = 10,
				 .warmup_type = ST_WARMUP_LINEAR };

	expect(st_schedule_lr(&s, 9, 0), 1e-4); /* i = -1 */
	expect(st_schedule_lr(&s, 9, 1), 1e-4); /* i = 0: gamma 0 */
	expect(st_schedule_lr(&s, 9, 2), 1.9e-4);
	expect(st_schedule_lr(&s, 9, 10), 9.1e-4); /* i = 9 */
	expect(st_schedule_lr(&s, 9, 11), 1e-3);
	expect(st_schedule_lr(&s, 9, 99999), 1e-3);
	s.warmup_type = ST_WARMUP_LOG;
	expect(st_schedule_lr(&s, 9, 1), 1e-4);
	expect(st_schedule_lr(&s, 9, 2), 3.7092699609758303e-4); /* gamma = log10(2) */
	expect(st_schedule_lr(&s, 9, 10), 1e-3);                 /* gamma = log10(10) */
	s.warmup_num_steps = 1;                                  /* counts as 2 */
	expect(st_schedule_lr(&s, 9, 1), 1e-4);
	expect(st_schedule_lr(&s, 9, 2), 1e-3); /* i = 1: log 2 / log 2 */
	expect(st_schedule_lr(&s, 9, 3), 1e-3);
}
END_TEST

START_TEST(warmup_decay)
{
	struct st_schedule s = { .type = ST_SCHEDULE_WARMUP_DECAY,
				 .warmup_max_lr = 1.0,
				 .warmup_num_steps = 10,
				 .total_num_steps = 30,
				 .warmup_type = ST_WARMUP_LINEAR };

	expect(st_schedule_lr(&s, 9, 0), 0);
	expect(st_schedule_lr(&s, 9, 6), 0.5);  /* i = 5 */
	expect(st_schedule_lr(&s, 9, 11), 1.0); /* i = 10: (30 - 10) / 20 */
	expect(st_schedule_lr(&s, 9, 21), 0.5); /* i = 20 */
	expect(st_schedule_lr(&s, 9, 31), 0);
	expect(st_schedule_lr(&s, 9, 1000), 0); /* never below */
	s.total_num_steps = 5;                  /* shorter than its warm-up: max(1, T - W) */
	expect(st_schedule_lr(&s, 9, 11), 0);
}
END_TEST

START_TEST(warmup_cosine)
{
	struct st_schedule s = { .type = ST_SCHEDULE_WARMUP_COSINE,
				 .warmup_num_steps = 10,
				 .total_num_steps = 30,
				 .warmup_type = ST_WARMUP_LINEAR,
				 .warmup_min_ratio = 0.2,
				 .cos_min_ratio = 0.1 };

	expect(st_schedule_lr(&s, 2.0, 0), 0);                  /* 0, whatever the ratio */
	expect(st_schedule_lr(&s, 2.0, 1), 0.4);                /* i = 0: 2 * 0.2 */
	expect(st_schedule_lr(&s, 2.0, 6), 1.2);                /* i = 5: 2 * (0.2 + 0.5 * 0.8) */
	expect(st_schedule_lr(&s, 2.0, 15), 1.736396103067893); /* i = 14: 5/20, cos = sqrt(1/2) */
	expect(st_schedule_lr(&s, 2.0, 20), 1.1); /* i = 19: 10/20, 2 * (0.1 + 0.9 / 2) */
	expect(st_schedule_lr(&s, 2.0, 30), 0.2); /* i = 29: 20/20 */
	expect(st_schedule_lr(&s, 2.0, 45), 0.2); /* and does not rise again */
}
END_TEST

int main(void)
{
	Suite *s = suite_create("schedule");
	TCase *t = tcase_create("schedule");
	SRunner *r;
	int failed;

	tcase_add_test(t, none_is_the_base_rate);
	tcase_add_test(t, lr_range_test);
	tcase_add_test(t, one_cycle_rate);
	tcase_add_test(t, one_cycle_momentum);
	tcase_add_test(t, one_cycle_stairs);
	tcase_add_test(t, warmup);
	tcase_add_test(t, warmup_decay);
	tcase_add_test(t, warmup_cosine);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
