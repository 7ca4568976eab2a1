/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_crash_points.c - the engine, killed at every named point of a commit and in recovery.
 *
 * test_crash_points_long.c kills at every kernel I/O.
 */
#include "tests/crash_points.h"

static const struct tiny deferred = { .dtype = ST_BF16,
				      .clip = 0.5,
				      .update = ST_UPDATE_DEFERRED,
				      .param_home = ST_HOME_NVME,
				      .state_home = ST_HOME_NVME,
				      .commits = true,
				      .n_paths = 2,
				      .n_mb = 1,
				      .backend = "threads" };

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
	uint64_t want = undisturbed(&deferred);

	for (size_t i = 0; i < ST_ARRAY_LEN(points); i++)
		ck_assert_msg(crash(&deferred, points[i], nowhere, want), "there is no %s %d",
			      point_names[points[i].class], points[i].nth);
}
END_TEST

/* One path stands at the next generation, the other does not, when recovery is killed as well. */
START_TEST(in_recovery)
{
	static const struct point torn = { POINT_ROOT, 2, POINT_HALF, 1 };
	struct point again = { POINT_ROOT, 1, POINT_HALF, 0 };
	uint64_t want = undisturbed(&deferred);

	for (again.nth = 1; again.nth <= 2; again.nth++)
		ck_assert(crash(&deferred, torn, again, want));
	again.class = POINT_FLUSH;
	again.how = POINT_BEFORE;
	for (again.nth = 1; again.nth <= 2; again.nth++)
		ck_assert(crash(&deferred, torn, again, want));
	again.class = POINT_ANY;
	for (again.nth = 1; again.nth <= 9; again.nth += 4)
		ck_assert(crash(&deferred, torn, again, want));
}
END_TEST

/* A run that dies before its store is whole leaves what the next one reclaims. */
START_TEST(in_the_making)
{
	struct point early = { POINT_ANY, 1, POINT_BEFORE, 0 };
	uint64_t want = undisturbed(&deferred);

	for (early.nth = 1; early.nth <= 16; early.nth += 5)
		ck_assert(crash(&deferred, early, nowhere, want));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("crash_points");
	TCase *t = tcase_create("crash_points");
	SRunner *r;
	int failed;

	tcase_set_timeout(t, 60);
	tcase_add_unchecked_fixture(t, share, unshare_all);
	tcase_add_checked_fixture(t, NULL, end_child);
	tcase_add_test(t, in_a_commit);
	tcase_add_test(t, in_recovery);
	tcase_add_test(t, in_the_making);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
