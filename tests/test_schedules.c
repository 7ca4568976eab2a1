/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_schedules.c - random training runs of random plans on simulated lanes, and defects
 * that must be found. Timeout: 110
 *
 * STRATA_SEEDS=n runs so many seeds (.ci/run: 10,000), STRATA_JOBS=n in so many processes;
 * STRATA_SEED=n runs that one, and says what happens.
 */
#include <check.h>
#include <math.h>
#include <omp.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/sanitizer.h"
#include "tests/schedules.h"

#define SEEDS      (SANITIZER_HAS_MALLOC ? 60u : 300u)
#define ENOUGH     10000u /* seeds, from which on each feature must have been there ... */
#define EACH_LEAST 200u   /* ... in so many */
#define BAD_MAX    10u

struct totals { /* shared by the processes */
	atomic_uint next_seed, n_bad, n_deadlocks;
	atomic_ullong n_ops, n_programs, n_steps, n_lives, by_feature[FEATURE_N];
};

static void report_bad(const struct schedule *s, uint32_t seed)
{
	fprintf(stderr,
		"seed %u: %s\n  to see it: STRATA_SEED=%u CK_FORK=no %s/tests/test_schedules\n",
		seed, s->text, seed, STRATA_BUILD_DIR);
}

static int verify_programs(struct schedule *s)
{
	for (unsigned v = 0; v < ST_VARIANT_N; v++)
		if (s->plan->program[v] && st_program_verify(s->plan->program[v])) {
			snprintf(s->text, sizeof(s->text), "%s", st_last_error());
			return 1;
		}
	return 0;
}

static void run_seed(struct totals *t, struct schedule *s, uint32_t seed, bool is_loud)
{
	int rc = schedule_run(s, seed, DEFECT_NONE, is_loud);

	if (!rc && seed % 16 == 0)
		rc = verify_programs(s);
	if (rc) {
		report_bad(s, seed);
		atomic_fetch_add(&t->n_bad, 1);
	}
	atomic_fetch_add(&t->n_ops, s->n_ops);
	atomic_fetch_add(&t->n_programs, s->n_programs);
	atomic_fetch_add(&t->n_steps, s->step);
	atomic_fetch_add(&t->n_lives, s->n_lives);
	for (unsigned f = 0; f < FEATURE_N; f++)
		atomic_fetch_add(&t->by_feature[f], s->machine.features >> f & 1);
	schedule_fini(s);
}

static void work(struct totals *t, uint32_t end, bool is_loud)
{
	struct schedule *s = malloc(sizeof(*s));
	uint32_t seed;

	ST_ASSERT(s);
	while ((seed = atomic_fetch_add(&t->next_seed, 1)) < end && t->n_bad < BAD_MAX)
		run_seed(t, s, seed, is_loud);
	free(s);
}

/* Seeds [first, end), in n processes. @return how many processes ended badly */
static unsigned work_in_processes(struct totals *t, uint32_t end, unsigned n)
{
	unsigned n_broken = 0;
	int status;

	fflush(NULL);
	for (unsigned i = 0; i < n; i++) {
		pid_t pid = fork();

		if (pid == 0) {
			work(t, end, false);
			_exit(0);
		}
		n_broken += pid < 0;
	}
	while (wait(&status) > 0)
		n_broken += !WIFEXITED(status) || WEXITSTATUS(status);
	return n_broken;
}

static double now_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

/* Every invariant, for every seed; and the seeds do try what they are there for. */
START_TEST(schedules_keep_every_invariant)
{
	uint32_t one = env_number("STRATA_SEED", 0), n = env_number("STRATA_SEEDS", SEEDS);
	long n_cpus = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned jobs = env_number("STRATA_JOBS", n_cpus > 8 ? 8 : (uint32_t)n_cpus);
	struct totals *t =
		mmap(NULL, sizeof(*t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	double start = now_s();

	ck_assert_ptr_ne(t, MAP_FAILED);
	atomic_store(&t->next_seed, one ? one : 1);
	if (one)
		work(t, one + 1, true);
	else
		ck_assert_uint_eq(work_in_processes(t, n + 1, jobs), 0);
	printf("%u schedules in %.1f s: %llu operations of %llu programs, %llu steps, %llu "
	       "processes\n",
	       one ? 1 : n, now_s() - start, (unsigned long long)t->n_ops,
	       (unsigned long long)t->n_programs, (unsigned long long)t->n_steps,
	       (unsigned long long)t->n_lives);
	for (unsigned f = 0; f < FEATURE_N; f++)
		printf("%8llu  %s\n", (unsigned long long)t->by_feature[f], feature_text(f));
	ck_assert_uint_eq(t->n_bad, 0);
	for (unsigned f = 0; f < FEATURE_N && !one; f++)
		ck_assert_msg(t->by_feature[f] >= EACH_LEAST || n < ENOUGH,
			      "only %llu of %u seeds: %s", (unsigned long long)t->by_feature[f], n,
			      feature_text(f));
	munmap(t, sizeof(*t));
}
END_TEST

/* Each defect, in the seeds where it does something, is found in at least so many of 100. */
static const unsigned least_found[DEFECT_N] = {
	[DEFECT_EDGE] = 30,           [DEFECT_EARLY_COMMIT] = 80,  [DEFECT_CLAIM] = 90,
	[DEFECT_WHEN_READY] = 20,     [DEFECT_ROLLBACK_TILE] = 80, [DEFECT_NO_ROLLBACK] = 80,
	[DEFECT_EARLY_ROLLBACK] = 50, [DEFECT_SKIP_UPDATES] = 80,  [DEFECT_TWICE] = 80,
	[DEFECT_MISSING] = 80,        [DEFECT_NO_ABORT] = 50,
};

START_TEST(defects_are_found)
{
	enum defect defect = (enum defect)_i;
	struct schedule *s = malloc(sizeof(*s));
	uint32_t enough = (SANITIZER_HAS_MALLOC ? 6 : 12) * (defect == DEFECT_EDGE ? 3 : 1);
	uint32_t n_tried = 0, n_found = 0, n_other = 0;
	char example[400] = "";

	ck_assert_ptr_nonnull(s);
	for (uint32_t seed = 1; seed <= 1000 && n_tried < enough; seed++) {
		bool is_found = schedule_run(s, seed, defect, false);

		n_tried += s->machine.has_applied;
		n_found += s->machine.has_applied && is_found;
		n_other += !s->machine.has_applied && is_found;
		if (is_found && !example[0])
			snprintf(example, sizeof(example), "%s", s->text);
		schedule_fini(s);
	}
	printf("%s: found in %u of %u seeds, for example: %s\n", defect_text(defect), n_found,
	       n_tried, example);
	free(s);
	ck_assert_uint_eq(n_other, 0); /* what was not put in is not found */
	ck_assert_uint_eq(n_tried, enough);
	ck_assert_uint_ge(n_found * 100, n_tried * least_found[defect]);
}
END_TEST

/* A step is called hopeless only if its verdict says so too, whatever the order of the sums. */
START_TEST(hopeless_steps_are_vain)
{
	struct rng r = { 5 };
	uint32_t n_hopeless = 0, n_vain = 0;

	for (uint32_t i = 0; i < 200000; i++) {
		double clip = chance(&r, 10)
				      ? 0
				      : ldexp(1 + below(&r, 1000) * 1e-3, (int)below(&r, 30) - 20);
		double scale = chance(&r, 50) ? 1 : ldexp(1, (int)below(&r, 33));
		double norm = clip * scale *
			      (1 + ldexp((double)below(&r, 2001) - 1000, -(int)below(&r, 60)));
		double sum = norm * norm,
		       other = sum * (1 + ldexp((double)below(&r, 201) - 100, -50));
		bool is_hopeless = st_will_clip(sum, clip, scale);

		n_hopeless += is_hopeless;
		n_vain += st_judge(sqrt(other) / scale, clip, true).is_vain;
		ck_assert(!is_hopeless || st_judge(sqrt(other) / scale, clip, true).is_vain);
	}
	ck_assert_uint_gt(n_hopeless, 20000);
	ck_assert_uint_gt(n_vain, n_hopeless);
	ck_assert(st_will_clip(INFINITY, 0, 1) && st_will_clip(NAN, 1, 1));
	ck_assert(st_judge(INFINITY, 1, true).is_skipped && st_judge(NAN, 0, true).is_vain);
	ck_assert(!st_judge(1e30, 0, true).is_vain && !st_judge(1, 2, false).is_vain);
	ck_assert(st_judge(1, 0.5, false).clip_factor < 0.5);
}
END_TEST

/* It begins after four steps, ends with a step that was in vain, and waits while two of 64 were. */
START_TEST(speculation_begins_and_ends)
{
	const struct st_plan plan = { .has_pending = true, .speculates = true }, none = { 0 };
	const struct st_verdict good = { .clip_factor = 1 };
	const struct st_verdict vain = { .clip_factor = 0.5, .is_vain = true };
	const struct st_verdict skipped = { .clip_factor = 1, .is_vain = true, .is_skipped = true };
	struct st_history h = { 0 };

	for (unsigned i = 0; i < 4; i++) {
		ck_assert_uint_eq(st_history_step(&h, &plan, false),
				  ST_VARIANT_STEP + (i ? ST_DUE_ALL : ST_DUE_NONE));
		st_history_add(&h, &plan, &good, false);
	}
	ck_assert_uint_eq(st_history_step(&h, &plan, false), ST_VARIANT_SPECULATE + ST_DUE_ALL);
	ck_assert_uint_eq(st_history_step(&h, &none, true), ST_VARIANT_STEP + ST_DUE_ALL);
	st_history_add(&h, &plan, &good, true);
	ck_assert_uint_eq(st_history_step(&h, &plan, false),
			  ST_VARIANT_SPECULATE + ST_DUE_DEFERRED);
	st_history_add(&h, &plan, &vain, true);
	for (unsigned i = 0; i < 4; i++) {
		ck_assert_uint_eq(st_history_step(&h, &plan, false), ST_VARIANT_STEP + ST_DUE_ALL);
		ck_assert_uint_eq(st_history_step(&h, &plan, true),
				  ST_VARIANT_SPECULATE + ST_DUE_ALL);
		st_history_add(&h, &plan, &good, false);
	}
	ck_assert_uint_eq(st_history_step(&h, &plan, false), ST_VARIANT_SPECULATE + ST_DUE_ALL);
	st_history_add(&h, &plan, &skipped, true); /* nothing of it is due; it was in vain too */
	ck_assert_uint_eq(st_history_step(&h, &plan, false), ST_VARIANT_STEP + ST_DUE_NONE);
	for (unsigned i = 0; i < 58; i++) {
		st_history_add(&h, &plan, &good, false);
		ck_assert_uint_eq(st_history_step(&h, &plan, false), ST_VARIANT_STEP + ST_DUE_ALL);
	}
	st_history_add(&h, &plan, &good, false); /* the first of the two is 64 steps ago */
	ck_assert_uint_eq(st_history_step(&h, &plan, false), ST_VARIANT_SPECULATE + ST_DUE_ALL);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("schedules");
	TCase *t = tcase_create("schedules");
	SRunner *r;
	int failed;

	omp_set_num_threads(1); /* plans are small, and seeds run side by side */
	tcase_set_timeout(t, 600);
	tcase_add_test(t, schedules_keep_every_invariant);
	tcase_add_test(t, hopeless_steps_are_vain);
	tcase_add_test(t, speculation_begins_and_ends);
	if (!getenv("STRATA_SEED") && !getenv("STRATA_SEEDS"))
		tcase_add_loop_test(t, defects_are_found, DEFECT_NONE + 1, DEFECT_N);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
