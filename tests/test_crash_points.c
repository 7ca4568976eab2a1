/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_crash_points.c - the engine, killed at every named point of a commit and in recovery,
 * with the power lost or not.
 *
 * test_crash_points_long.c kills at every kernel I/O, and loses the power at hundreds of random
 * ones.
 */
#include "tests/crash_points.h"

static const struct tiny deferred = { .dtype = ST_BF16,
				      .clip = 0.5,
				      .update = ST_UPDATE_DEFERRED,
				      .param_home = ST_HOME_NVME,
				      .state_home = ST_HOME_NVME,
				      .commits = true,
				      .is_small = true,
				      .n_paths = 2,
				      .n_mb = 1,
				      .backend = "threads" };

static void share_in_memory(void)
{
	tiny_in_memory = true;
	share();
	tiny_in_memory = false;
}

static void begin(void)
{
	steps = STEPS;
}

static uint64_t deferred_hash(void)
{
	static uint64_t hash;

	if (!hash)
		hash = undisturbed(&deferred);
	return hash;
}

/* Two paths: a commit is two tables, two flushes, two roots, two flushes. */
START_TEST(in_a_commit)
{
	static const struct point points[] = {
		{ POINT_DATA, 1, POINT_HALF, 1 },   { POINT_TABLE, 1, POINT_BEFORE, 1 },
		{ POINT_TABLE, 2, POINT_HALF, 1 },  { POINT_FLUSH, 1, POINT_BEFORE, 1 },
		{ POINT_FLUSH, 2, POINT_AFTER, 1 }, { POINT_ROOT, 1, POINT_HALF, 1 },
		{ POINT_ROOT, 2, POINT_BEFORE, 1 }, { POINT_ROOT, 2, POINT_HALF, 1 },
		{ POINT_ROOT, 2, POINT_AFTER, 1 },  { POINT_FLUSH, 4, POINT_AFTER, 1 },
	};

	for (size_t i = 0; i < ST_ARRAY_LEN(points); i++)
		ck_assert_msg(crash(&deferred, points[i], deferred_hash()), "there is no %s %d",
			      point_names[points[i].class], points[i].nth);
}
END_TEST

/* One path stands at the next generation, the other does not, when recovery is killed as well. */
START_TEST(in_recovery)
{
	static const struct point torn = { POINT_ROOT, 2, POINT_HALF, 1 };
	static const struct point again[] = {
		{ POINT_ROOT, 1, POINT_HALF, 0 },    { POINT_ROOT, 2, POINT_HALF, 0 },
		{ POINT_FLUSH, 1, POINT_BEFORE, 0 }, { POINT_FLUSH, 2, POINT_BEFORE, 0 },
		{ POINT_ANY, 1, POINT_BEFORE, 0 },   { POINT_ANY, 5, POINT_BEFORE, 0 },
		{ POINT_ANY, 9, POINT_BEFORE, 0 },
	};

	for (size_t i = 0; i < ST_ARRAY_LEN(again); i++) {
		const struct scenario s = { .first = torn, .again = again[i] };
		struct found f = expect_right(&deferred, &s, deferred_hash());

		ck_assert_msg(f.was_met && f.again_was_met, "%s %d of a recovery was not met",
			      point_names[again[i].class], again[i].nth);
	}
}
END_TEST

/* A run that dies before its store is whole leaves what the next one reclaims. */
START_TEST(in_the_making)
{
	struct point early = { POINT_ANY, 1, POINT_BEFORE, 0 };

	for (early.nth = 1; early.nth <= 16; early.nth += 5)
		ck_assert(crash(&deferred, early, deferred_hash()));
}
END_TEST

/* With a commit every three steps: the third one's, in the middle of the fourth step. */
START_TEST(in_the_commit_of_several_steps)
{
	static const struct point points[] = {
		{ POINT_DATA, 1, POINT_HALF, 2 },  { POINT_TABLE, 1, POINT_BEFORE, 3 },
		{ POINT_ROOT, 2, POINT_HALF, 3 },  { POINT_FLUSH, 4, POINT_AFTER, 3 },
		{ POINT_DATA, 1, POINT_AFTER, 4 },
	};
	struct tiny t = deferred;
	uint64_t want;

	t.commit_every = 3;
	steps = 5;
	want = undisturbed(&t);
	for (size_t i = 0; i < ST_ARRAY_LEN(points); i++)
		ck_assert_msg(crash(&t, points[i], want), "there is no %s %d",
			      point_names[points[i].class], points[i].nth);
}
END_TEST

/* The gradients of the first steps overflow: nothing of them is applied, and their commit is a root
 * and two flushes of each path. */
START_TEST(in_the_commit_of_a_skipped_step)
{
	static const struct point points[] = {
		{ POINT_FLUSH, 1, POINT_BEFORE, 1 },
		{ POINT_ROOT, 1, POINT_HALF, 1 },
		{ POINT_ROOT, 2, POINT_AFTER, 1 },
		{ POINT_FLUSH, 4, POINT_AFTER, 1 },
	};
	struct tiny t = deferred;
	uint64_t want;

	t.dtype = ST_F16;
	t.power = 18;
	steps = 5;
	want = undisturbed(&t);
	ck_assert_uint_gt(shared->skipped, 0);
	ck_assert_uint_lt(shared->skipped, steps);
	for (size_t i = 0; i < ST_ARRAY_LEN(points); i++)
		ck_assert_msg(crash(&t, points[i], want), "there is no %s %d",
			      point_names[points[i].class], points[i].nth);
}
END_TEST

/* The power goes at a commit; after a kill, in the recovery; both times. */
START_TEST(with_the_power_lost)
{
	static const struct scenario s[] = {
		{ { POINT_DATA, 3, POINT_HALF, 1 }, { .nth = 0 }, 1, 1 },
		{ { POINT_FLUSH, 1, POINT_BEFORE, 1 }, { .nth = 0 }, 1, 2 },
		{ { POINT_ROOT, 2, POINT_AFTER, 1 }, { .nth = 0 }, 1, 3 },
		{ { POINT_FLUSH, 3, POINT_BEFORE, 1 }, { POINT_DATA, 2, POINT_AFTER, 0 }, 2, 4 },
		{ { POINT_ROOT, 2, POINT_HALF, 1 }, { POINT_ROOT, 1, POINT_AFTER, 0 }, 2, 5 },
		{ { POINT_ROOT, 2, POINT_BEFORE, 1 }, { POINT_FLUSH, 2, POINT_BEFORE, 0 }, 3, 6 },
		{ { POINT_FLUSH, 4, POINT_AFTER, 1 }, { POINT_TABLE, 1, POINT_HALF, 0 }, 3, 7 },
	};

	for (size_t i = 0; i < ST_ARRAY_LEN(s); i++) {
		struct found f = expect_right(&deferred, &s[i], deferred_hash());

		ck_assert_msg(f.was_met && (!s[i].again.nth || f.again_was_met),
			      "a point was not met: %s", f.text);
	}
}
END_TEST

/* The same with flushes that do nothing: what was committed is lost, and that is seen. */
START_TEST(lying_flushes_are_seen)
{
	const struct scenario s = { .first = { POINT_FLUSH, 4, POINT_AFTER, 1 }, .losses = 1 };
	const uint64_t want = deferred_hash();
	struct found f;

	is_lying = true;
	play(&deferred, &s, want, &f);
	is_lying = false;
	clear_dirs();
	ck_assert(f.was_met);
	ck_assert_msg(!f.is_right, "%s", f.text);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("crash_points");
	TCase *t = tcase_create("on the disk"), *m = tcase_create("in memory");
	SRunner *r;
	int failed;

	tcase_set_timeout(t, 60);
	tcase_add_unchecked_fixture(t, share, unshare_all);
	tcase_add_checked_fixture(t, begin, end_child);
	tcase_add_test(t, in_a_commit);
	tcase_set_timeout(m, 60);
	tcase_add_unchecked_fixture(m, share_in_memory, unshare_all);
	tcase_add_checked_fixture(m, begin, end_child);
	tcase_add_test(m, in_recovery);
	tcase_add_test(m, in_the_making);
	tcase_add_test(m, in_the_commit_of_several_steps);
	tcase_add_test(m, in_the_commit_of_a_skipped_step);
	tcase_add_test(m, with_the_power_lost);
	tcase_add_test(m, lying_flushes_are_seen);
	suite_add_tcase(s, t);
	suite_add_tcase(s, m);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
