/* SPDX-License-Identifier: Apache-2.0 */
/* tests/test_loss_scale.c - the loss scale after given overflows, step by step. */
#include <check.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "core/status.h"
#include "strata/loss_scale.h"

/* '.': finite, 'x': overflow; then the scale after each step, as DeepSpeed's rules give it. */
static const struct {
	const char *name, *steps;
	struct strata_loss_scale_cfg cfg;
	double scale[16];
} cases[] = {
	{ "window from the start",
	  "....",
	  { .initial_power = 3, .window = 2, .hysteresis = 1, .min_scale = 1 },
	  { 8, 16, 16, 32 } },
	{ "an overflow restarts the window",
	  "..x...",
	  { .initial_power = 3, .window = 2, .hysteresis = 1, .min_scale = 1 },
	  { 8, 16, 8, 8, 16, 16 } },
	{ "hysteresis absorbs the first overflow",
	  "xxx",
	  { .initial_power = 4, .window = 1000, .hysteresis = 2, .min_scale = 1 },
	  { 16, 8, 4 } },
	{ "a full window refills it",
	  "x..xx",
	  { .initial_power = 4, .window = 2, .hysteresis = 2, .min_scale = 1 },
	  { 16, 16, 32, 32, 16 } },
	{ "a finite step does not",
	  "x.xx",
	  { .initial_power = 4, .window = 1000, .hysteresis = 2, .min_scale = 1 },
	  { 16, 16, 8, 4 } },
	{ "unless it is consecutive",
	  "x.x.xx",
	  { .initial_power = 4,
	    .window = 1000,
	    .hysteresis = 2,
	    .is_consecutive = true,
	    .min_scale = 1 },
	  { 16, 16, 16, 16, 16, 8 } },
	{ "the minimum holds",
	  "xx",
	  { .initial_power = 3, .window = 1000, .hysteresis = 1, .min_scale = 3 },
	  { 4, 3 } },
	{ "static", "x.xx", { .fixed = 128 }, { 128, 128, 128, 128 } },
};

START_TEST(scales_are_as_the_rules_say)
{
	struct strata_loss_scale_cfg cfg = cases[_i].cfg;
	struct strata_loss_scale s;

	cfg.struct_bytes = sizeof(cfg);
	ck_assert_int_eq(strata_loss_scale_init(&s, &cfg), 0);
	for (size_t i = 0; cases[_i].steps[i]; i++) {
		ck_assert_int_eq(strata_loss_scale_update(&s, cases[_i].steps[i] == 'x'), 0);
		ck_assert_msg(s.scale == cases[_i].scale[i], "%s: %g after step %zu, not %g",
			      cases[_i].name, s.scale, i + 1, cases[_i].scale[i]);
	}
}
END_TEST

START_TEST(no_scale_below_the_minimum)
{
	struct strata_loss_scale_cfg cfg = STRATA_LOSS_SCALE_CFG_DEFAULT;
	struct strata_loss_scale s;

	cfg.initial_power = 0;
	cfg.hysteresis = 2;
	ck_assert_int_eq(strata_loss_scale_init(&s, &cfg), 0);
	ck_assert_int_eq(strata_loss_scale_update(&s, true), 0);
	ck_assert_int_eq(strata_loss_scale_update(&s, true), STRATA_E_NUMERIC);
	ck_assert(s.scale == 1);
}
END_TEST

START_TEST(bad_values_are_refused)
{
	struct strata_loss_scale_cfg cfg = STRATA_LOSS_SCALE_CFG_DEFAULT;
	struct strata_loss_scale s;

	cfg.fixed = -1;
	ck_assert_int_eq(strata_loss_scale_init(&s, &cfg), -EINVAL);
	cfg.fixed = NAN;
	ck_assert_int_eq(strata_loss_scale_init(&s, &cfg), -EINVAL);
	cfg.fixed = 0;
	cfg.window = 0;
	ck_assert_int_eq(strata_loss_scale_init(&s, &cfg), -EINVAL);
	cfg.window = 1;
	cfg.initial_power = 33;
	ck_assert_int_eq(strata_loss_scale_init(&s, &cfg), -EINVAL);
	cfg.struct_bytes = 0;
	ck_assert_int_eq(strata_loss_scale_init(&s, &cfg), -EINVAL);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("loss scale");
	TCase *t = tcase_create("loss scale");
	SRunner *r;
	int failed;

	tcase_add_loop_test(t, scales_are_as_the_rules_say, 0, (int)ST_ARRAY_LEN(cases));
	tcase_add_test(t, no_scale_below_the_minimum);
	tcase_add_test(t, bad_values_are_refused);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
