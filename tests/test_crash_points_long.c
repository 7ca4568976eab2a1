/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_crash_points_long.c - the engine, killed before, in and after every kernel I/O of its
 * life: making the store, first values, steps with their commits, the save at the end.
 *
 * Label: slow
 * Timeout: 1800
 */
#define STEPS 2
#include "tests/crash_points.h"

static const struct tiny deferred = { .dtype = ST_BF16,
				      .clip = 0.5,
				      .update = ST_UPDATE_DEFERRED,
				      .param_home = ST_HOME_NVME,
				      .state_home = ST_HOME_NVME,
				      .commits = true,
				      .spills = true,
				      .n_paths = 2,
				      .n_mb = 1,
				      .backend = "threads" };
static const struct tiny immediate = { .dtype = ST_BF16,
				       .update = ST_UPDATE_IMMEDIATE,
				       .param_home = ST_HOME_NVME,
				       .state_home = ST_HOME_NVME,
				       .commits = true,
				       .n_mb = 1,
				       .backend = "threads" };

/*
 * A root of generation 0 that was torn is left out: the store takes any damaged root for one that
 * somebody may need, and leaves its directory to "strata checkpoint gc".
 * @return how many there are
 */
static unsigned check_class(const struct tiny *t, enum point_class class, enum point_how how,
			    uint64_t want)
{
	int n_paths = t->n_paths ? (int)t->n_paths : 1;
	int first = class == POINT_ROOT && how == POINT_HALF ? 1 + n_paths : 1;
	struct point p = { class, first, how, 0 };

	while (crash(t, p, nowhere, want))
		p.nth++;
	printf("killed %s %s: %d points, each resumed to state %016llx\n", how_names[how],
	       point_names[class], p.nth - first, (unsigned long long)want);
	fflush(stdout);
	return (unsigned)(p.nth - first);
}

/* After an I/O is before the next one, and in a read is before it. */
static void check_every_point(const struct tiny *t)
{
	uint64_t want = undisturbed(t);
	unsigned any = check_class(t, POINT_ANY, POINT_BEFORE, want), some = 0;

	some += check_class(t, POINT_DATA, POINT_HALF, want);
	some += check_class(t, POINT_TABLE, POINT_HALF, want);
	some += check_class(t, POINT_ROOT, POINT_HALF, want);
	some += check_class(t, POINT_FLUSH, POINT_AFTER, want);
	ck_assert_uint_gt(some, 0);
	ck_assert_uint_gt(any, some);
}

START_TEST(deferred_on_two_paths)
{
	check_every_point(&deferred);
}
END_TEST

START_TEST(immediate_on_one)
{
	check_every_point(&immediate);
}
END_TEST

/* Every I/O of a recovery, from each point of a commit. */
START_TEST(every_point_of_recovery)
{
	struct point first = { POINT_ROOT, 1, POINT_HALF, 1 }, again = { .how = POINT_HALF };
	uint64_t want = undisturbed(&deferred);

	for (first.nth = 1; first.nth <= 2; first.nth++)
		for (again.nth = 1; again.nth <= 24; again.nth++)
			ck_assert(crash(&deferred, first, again, want));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("crash_points_long");
	TCase *t = tcase_create("crash_points_long");
	SRunner *r;
	int failed;

	tcase_set_timeout(t, 1800);
	tcase_add_unchecked_fixture(t, share, unshare_all);
	tcase_add_checked_fixture(t, NULL, end_child);
	tcase_add_test(t, deferred_on_two_paths);
	tcase_add_test(t, immediate_on_one);
	tcase_add_test(t, every_point_of_recovery);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
