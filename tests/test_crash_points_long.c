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

	while (crash(t, p, want))
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
			ck_assert(expect_right(&deferred, &(struct scenario){ first, again, 0, 0 },
					       want)
					  .was_met);
}
END_TEST

static uint64_t draw(uint64_t n)
{
	static uint64_t state;
	uint64_t z = state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return (z ^ z >> 31) % n;
}

/* The power goes at a random I/O behind the first commit; or the process is killed there, and the
 * power goes at a random I/O of what resumes; or both. */
START_TEST(power_lost_anywhere)
{
	enum { SEEDS = 400 };
	const uint64_t want = undisturbed(&deferred);
	unsigned met = 0, met_again = 0;

	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct scenario s = { .losses = 1 + (unsigned)draw(3), .seed = seed };
		struct found f;

		s.first = (struct point){ (enum point_class)draw(POINT_CLASSES), 1 + (int)draw(8),
					  (enum point_how)draw(3), 1 };
		if (s.first.class == POINT_ANY || s.first.class == POINT_DATA)
			s.first.nth += (int)draw(60);
		if (s.losses & 2)
			s.again = (struct point){ POINT_ANY, 1 + (int)draw(60),
						  (enum point_how)draw(3), 0 };
		f = expect_right(&deferred, &s, want);
		met += f.was_met;
		met_again += f.again_was_met;
	}
	printf("power lost: %d seeds, %u cut, %u cut again while resuming\n", SEEDS, met,
	       met_again);
	ck_assert_uint_gt(met, SEEDS / 2);
	ck_assert_uint_gt(met_again, SEEDS / 4);
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
	tcase_add_test(t, power_lost_anywhere);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
