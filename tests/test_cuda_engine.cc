/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_cuda_engine.cc - the engine on the emulated CUDA device (tests/cuda_engine.h): the
 * same state under every schedule and wherever it lives; a step only issues; defects in the order
 * of streams are reported; whatever call fails is told, and the last committed step is whole.
 *
 * STRATA_EMU_FAULTS: so many random calls fail, each in a run of its own; 24 without.
 * Label: slow
 * Timeout: 300
 */
#include "tests/cuda_emu/emu.h"
#include "tests/cuda_engine.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>

extern "C" const char *st_last_error(void);

#define STEPS 2

static const engine_case on_nvme = { ENGINE_ON_NVME, ENGINE_ON_NVME, false,
				     true,           false,          ENGINE_NO_DEFECT };

static emuMachine machine_of(unsigned late_us)
{
	emuMachine m = EMU_MACHINE;

	m.late_us = late_us;
	return m;
}

static std::string all_reports(void)
{
	std::string all;

	for (int i = 0; i < emuReports() && i < 10; i++)
		all += std::string("\n") + emuReportText(i);
	return all;
}

static void no_reports(const char *what)
{
	ck_assert_msg(emuReports() == 0, "%s: %d reports:%s", what, emuReports(),
		      all_reports().c_str());
}

static void good(int rc, const char *what)
{
	ck_assert_msg(rc == 0, "%s: %d: %s; reports:%s", what, rc, st_last_error(),
		      all_reports().c_str());
}

/* ---- schedules ------------------------------------------------------------------------------ */

/* A whole run. @return the hash of its state */
static uint64_t train(uint64_t seed, unsigned late_us, const engine_case &c, double *loss)
{
	emuCounts before, after;
	engine_run *r;
	uint64_t hash = 0;
	char what[64];

	snprintf(what, sizeof(what), "seed %d, homes %d and %d", (int)seed, c.params, c.states);
	emuStart(seed, machine_of(late_us));
	good(engine_open(&r, &c), what);
	before = emuCount();
	emuStep(true); /* what allocates, frees, creates or synchronises is reported */
	good(engine_steps(r, STEPS), what);
	emuStep(false);
	after = emuCount();
	if (!c.is_on_processor) {
		ck_assert_uint_eq(after.allocates, before.allocates);
		ck_assert_uint_eq(after.frees, before.frees);
		ck_assert_uint_eq(after.creates, before.creates);
		ck_assert_uint_eq(after.synchronises, before.synchronises);
		ck_assert_uint_ge(after.launches - before.launches, 40 * STEPS);
		ck_assert_uint_ge(after.products - before.products, 20 * STEPS);
		ck_assert_uint_ge(after.copies - before.copies, 4 * STEPS);
	}
	good(engine_hash(r, &hash), what);
	for (unsigned s = 1; loss && s <= STEPS; s++)
		loss[s - 1] = engine_loss(r, s);
	engine_shut(r);
	no_reports(what);
	ck_assert_msg(emuLeaks() == 0, "%s:%s", what, all_reports().c_str());
	ck_assert_msg(engine_remove(r), "%s: files were left behind", what);
	return hash;
}

START_TEST(every_schedule_gives_one_hash)
{
	uint64_t hash = train(0, 0, on_nvme, NULL);

	for (uint64_t seed = 1; seed < 20; seed++)
		ck_assert_msg(train(seed, seed % 5 * 50, on_nvme, NULL) == hash,
			      "seed %d: another state", (int)seed);
}
END_TEST

START_TEST(every_home_gives_one_hash)
{
	static const engine_home homes[][2] = { { ENGINE_ON_DEVICE, ENGINE_ON_DEVICE },
						{ ENGINE_ON_DEVICE, ENGINE_ON_HOST },
						{ ENGINE_ON_HOST, ENGINE_ON_HOST },
						{ ENGINE_ON_NVME, ENGINE_ON_HOST },
						{ ENGINE_ON_DEVICE, ENGINE_ON_NVME } };

	for (int at_once = 0; at_once < 2; at_once++) {
		engine_case c = on_nvme;
		uint64_t hash;

		c.updates_at_once = at_once;
		hash = train(1, 100, c, NULL);
		for (unsigned i = 0; i < sizeof(homes) / sizeof(homes[0]); i++) {
			c.params = homes[i][0];
			c.states = homes[i][1];
			c.is_tight = i % 2 == 0;
			ck_assert_msg(train(2 + i, i * 40, c, NULL) == hash,
				      "homes %d: another state", (int)i);
		}
	}
}
END_TEST

START_TEST(the_losses_are_those_of_the_host_device)
{
	engine_case c = on_nvme;
	double cuda[STEPS], host[STEPS];

	(void)train(3, 0, c, cuda);
	c.is_on_processor = true;
	(void)train(3, 0, c, host);
	for (int s = 0; s < STEPS; s++)
		ck_assert_msg(fabs(cuda[s] - host[s]) <= 1e-2 * fabs(host[s]),
			      "step %d: %g, on the host %g", s + 1, cuda[s], host[s]);
}
END_TEST

/* One device for two engines: the arena and what was registered are given back between them. */
START_TEST(a_run_goes_on_on_the_same_device)
{
	uint64_t hash = 0, want = train(4, 0, on_nvme, NULL);
	engine_run *r;

	emuStart(5, machine_of(50));
	good(engine_open(&r, &on_nvme), "first engine");
	good(engine_steps(r, 1), "first step");
	good(engine_save(r), "save");
	good(engine_reopen(r), "second engine");
	good(engine_steps(r, 2), "second step");
	good(engine_hash(r, &hash), "hash");
	ck_assert_uint_eq(hash, want);
	engine_shut(r);
	no_reports("two engines");
	ck_assert_int_eq(emuLeaks(), 0);
	ck_assert(engine_remove(r));
}
END_TEST

/* ---- defects -------------------------------------------------------------------------------- */

/* Data may be wrong then, and the run may fail: what counts is that the emulation says why. */
static int races_of(engine_defect defect, uint64_t seed, bool is_tight)
{
	engine_case c = on_nvme;
	engine_run *r;
	int n = 0;

	c.is_tight = is_tight;
	c.defect = defect;
	emuStart(seed, machine_of(300));
	if (engine_open(&r, &c) == 0)
		(void)engine_steps(r, STEPS);
	engine_shut(r);
	for (int i = 0; i < emuReports(); i++)
		n += strncmp(emuReportText(i), "race: ", 6) == 0 ||
		     strstr(emuReportText(i), "was changed by the host") != NULL;
	(void)engine_remove(r);
	return n;
}

START_TEST(defects_in_the_order_of_streams_are_reported)
{
	/* Each under two schedules, one of them with the smallest budgets. */
	for (int d = ENGINE_NO_DEFECT + 1; d < ENGINE_DEFECTS; d++)
		for (uint64_t seed = 0; seed < 2; seed++)
			ck_assert_msg(races_of((engine_defect)d, (unsigned)d + seed, seed) > 0,
				      "defect %d, schedule %d: no race was reported:%s", d,
				      (int)seed, all_reports().c_str());
	for (uint64_t seed = 0; seed < 2; seed++) /* and nothing where there is nothing */
		ck_assert_int_eq(races_of(ENGINE_NO_DEFECT, seed, seed), 0);
}
END_TEST

/* ---- failures ------------------------------------------------------------------------------- */

static uint64_t state_after[STEPS + 1]; /* of a run in which nothing fails */

/* What the store must hold after each step, read back on the host device. */
static void learn_states(void)
{
	for (unsigned s = 0; s <= STEPS; s++) {
		engine_run *r;
		int step;

		emuStart(s, machine_of(0));
		good(engine_open(&r, &on_nvme), "reference");
		good(engine_steps(r, s), "reference");
		good(engine_save(r), "reference");
		engine_shut(r);
		good(engine_look(r, &step, &state_after[s]), "reference");
		ck_assert_int_eq(step, (int)s);
		ck_assert(s == 0 || state_after[s] != state_after[s - 1]);
		ck_assert(engine_remove(r));
	}
}

/* Only gives something back; or a library was not in the first place where it may be. */
static bool is_of_the_end(const char *name)
{
	for (const char *end :
	     { "Destroy", "Free", "Unregister", "StreamSynchronize", "Dlclose", "Dlopen" })
		if (strstr(name, end))
			return true;
	return false;
}

/* A run in which something fails: told with its cause, and what was committed is whole.
 * @return its result */
static int train_and_fail(const char *what)
{
	std::string text;
	uint64_t hash = 0;
	unsigned done = 0, durable = 0;
	int rc, step = -1;
	bool has_begun;
	engine_run *r;

	rc = engine_open(&r, &on_nvme);
	has_begun = rc == 0;
	if (!rc)
		rc = engine_steps(r, STEPS);
	if (!rc)
		rc = engine_save(r);
	text = st_last_error();
	done = engine_done(r);
	durable = rc ? engine_durable(r) : STEPS;
	engine_shut(r);
	no_reports(what);
	ck_assert_msg(rc == 0 || (text.size() > 20 && text.find("evice") != std::string::npos),
		      "%s: %d without a word: %s", what, rc, text.c_str());
	if (has_begun) {
		good(engine_look(r, &step, &hash), what);
		step = step < 0 ? 0 : step;
		ck_assert_msg(step >= (int)durable && step <= (int)done,
			      "%s: the store is at step %d; %d were done, %d durable", what, step,
			      done, durable);
		ck_assert_msg(hash == state_after[step], "%s: another state of step %d", what,
			      step);
	}
	ck_assert_msg(engine_remove(r) || has_begun, "%s: files were left behind", what);
	return rc;
}

static cudaError_t code_for(const char *name)
{
	return strstr(name, "lloc") ? cudaErrorMemoryAllocation : cudaErrorUnknown;
}

START_TEST(every_call_site_that_fails_once_is_told)
{
	std::vector<emuSite> sites;
	int n_told = 0;

	emuStart(2, machine_of(0));
	ck_assert_int_eq(train_and_fail("nothing fails"), 0);
	sites = emuSites();
	ck_assert_uint_ge(sites.size(), 60);
	for (const emuSite &s : sites) {
		int rc, left;

		emuStart(2, machine_of(0));
		emuFailSite(s.at, code_for(s.name));
		rc = train_and_fail(s.name);
		ck_assert_msg(emuFailed(), "%s: was not reached again", s.name);
		ck_assert_msg(rc != 0 || is_of_the_end(s.name), "%s: failed and nobody said so",
			      s.name);
		n_told += rc != 0;
		left = emuLeaks();
		ck_assert_msg(left == 0 || is_of_the_end(s.name), "%s: left %d things behind:%s",
			      s.name, left, all_reports().c_str());
	}
	ck_assert_int_ge(n_told, 45);
}
END_TEST

START_TEST(random_calls_that_fail_are_told)
{
	static const cudaError_t codes[] = { cudaErrorUnknown, cudaErrorMemoryAllocation,
					     cudaErrorECCUncorrectable, cudaErrorLaunchFailure };
	const char *asked = getenv("STRATA_EMU_FAULTS");
	long n = asked ? strtol(asked, NULL, 10) : 24, n_failed = 0, n_told = 0;
	uint64_t calls, x = 3;

	emuStart(2, machine_of(0));
	ck_assert_int_eq(train_and_fail("nothing fails"), 0);
	calls = emuCallCount();
	ck_assert_uint_ge(calls, 500);
	for (long i = 0; i < n; i++) {
		char what[64];
		uint64_t nth;
		int rc;

		x = x * 6364136223846793005u + 1442695040888963407u;
		nth = 1 + (x >> 33) % calls;
		snprintf(what, sizeof(what), "call %d of %d, run %ld", (int)nth, (int)calls, i);
		emuStart(x >> 8 & 7, machine_of(i % 3 == 2 ? 100 : 0));
		emuFailNth(nth, codes[i % 4], i % 2 == 1);
		rc = train_and_fail(what);
		n_failed += emuFailed();
		n_told += rc != 0;
	}
	/* Threads make calls in an order of their own: the last ones may not be reached. */
	ck_assert_int_ge(n_failed, n * 9 / 10);
	ck_assert_int_ge(n_told, n * 3 / 4);
}
END_TEST

/* An operation fails when it runs, and the context with it. */
START_TEST(operations_that_fail_are_told)
{
	for (uint64_t op = 5; op < 400; op += 97) {
		emuStart(op, machine_of(0));
		emuFailOp(op, cudaErrorIllegalAddress);
		ck_assert_int_ne(train_and_fail("an operation"), 0);
		ck_assert(emuFailed());
	}
}
END_TEST

static void add(Suite *s, const char *name, const TTest *test, bool fails)
{
	TCase *t = tcase_create(name);

	tcase_set_timeout(t, 600);
	tcase_set_tags(t, fails ? "faults" : "");
	if (fails)
		tcase_add_unchecked_fixture(t, learn_states, NULL);
	tcase_add_test(t, test);
	suite_add_tcase(s, t);
}

int main(void)
{
	Suite *s = suite_create("cuda_engine");
	SRunner *r = srunner_create(s);
	int failed;

	add(s, "schedules", every_schedule_gives_one_hash, false);
	add(s, "homes", every_home_gives_one_hash, false);
	add(s, "losses", the_losses_are_those_of_the_host_device, false);
	add(s, "two engines", a_run_goes_on_on_the_same_device, false);
	add(s, "defects", defects_in_the_order_of_streams_are_reported, false);
	add(s, "sites", every_call_site_that_fails_once_is_told, true);
	add(s, "random", random_calls_that_fail_are_told, true);
	add(s, "operations", operations_that_fail_are_told, true);
	srunner_run_all(r, CK_ENV);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	engine_end();
	return failed != 0;
}
