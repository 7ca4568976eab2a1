/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_cuda_faults.cc - the step of tests/cuda_scenario.h on the emulated CUDA device: the
 * same bits under every schedule; what fails is told, call by call; defects in the order of streams
 * are reported; a step makes no call that allocates, frees, creates or synchronises.
 */
#include "tests/cuda_emu/emu.h"
#include "tests/cuda_scenario.h"

#include <check.h>
#include <functional>
#include <nvtx3/nvToolsExt.h>
#include <string>

static std::string all_reports(void)
{
	std::string all;

	for (int i = 0; i < emuReports(); i++)
		all += std::string(emuReportText(i)) + "\n";
	return all;
}

/* ---- schedules ------------------------------------------------------------------------------ */

START_TEST(every_schedule_gives_the_same_bits)
{
	uint64_t hash = 0;

	for (uint64_t seed = 0; seed < 20; seed++) {
		Run r;

		emuStart(seed, EMU_MACHINE);
		ck_assert_msg(scenario(&r, NONE) == 0, "seed %d: %s", (int)seed, st_last_error());
		if (seed == 0)
			hash = r.hash;
		ck_assert_msg(r.hash == hash, "seed %d: other bits", (int)seed);
		shut_run(&r);
		ck_assert_int_eq(emuLeaks(), 0);
		ck_assert_msg(emuReports() == 0, "seed %d: %s", (int)seed, all_reports().c_str());
	}
	ck_assert_uint_ne(hash, NO_HASH);
}
END_TEST

START_TEST(a_seed_replays)
{
	uint64_t calls[2];

	for (int i = 0; i < 2; i++) {
		Run r;

		emuStart(14, EMU_MACHINE);
		ck_assert_int_eq(scenario(&r, NONE), 0);
		calls[i] = emuTrace();
		shut_run(&r);
	}
	ck_assert_uint_eq(calls[0], calls[1]);
	for (uint64_t seed = 15; seed < 19; seed++) { /* and another one plays another order */
		Run r;

		emuStart(seed, EMU_MACHINE);
		ck_assert_int_eq(scenario(&r, NONE), 0);
		ck_assert_uint_ne(emuTrace(), calls[0]);
		shut_run(&r);
	}
}
END_TEST

START_TEST(a_step_only_issues)
{
	emuCounts before, after;
	Run r;

	emuStart(3, EMU_MACHINE);
	ck_assert_int_eq(open_run(&r), 0);
	ck_assert_int_eq(begin(&r), 0);
	before = emuCount();
	ck_assert_int_eq(step(&r, NONE), 0);
	after = emuCount();
	ck_assert_uint_eq(after.allocates, before.allocates);
	ck_assert_uint_eq(after.frees, before.frees);
	ck_assert_uint_eq(after.creates, before.creates);
	ck_assert_uint_eq(after.synchronises, before.synchronises);
	ck_assert_uint_eq(after.copies - before.copies, 2 * LAYERS);
	ck_assert_uint_eq(after.products - before.products, LAYERS);
	ck_assert_uint_ge(after.launches - before.launches, 3 * LAYERS);
	/* The count is alive: what a step must not do is seen. */
	emuStep(true);
	st_event_destroy(r.in[0]);
	r.in[0] = nullptr;
	emuStep(false);
	ck_assert_int_eq(emuReports(), 1);
	ck_assert_ptr_nonnull(strstr(emuReportText(0), "cudaEventDestroy inside a step"));
	shut_run(&r);
}
END_TEST

/* ---- failures ------------------------------------------------------------------------------- */

/* Every failure is told with its cause, or concerns only what is being given back. */
static void check_failed(int rc, const std::string &text, const char *what)
{
	ck_assert_msg(emuFailed(), "%s: was never reached", what);
	if (rc == 0)
		return;
	ck_assert_msg(text.find("device") != std::string::npos && text.size() > 20,
		      "%s: rc %d without a word: %s", what, rc, text.c_str());
}

/* Does it give something back? Then its failure is not the run's. Nor is it that a library is not
 * in the first place where it may be. */
static bool is_of_the_end(const char *name)
{
	for (const char *end :
	     { "Destroy", "Free", "Unregister", "Synchronize", "Dlclose", "Dlopen" })
		if (strstr(name, end))
			return true;
	return false;
}

static void no_reports(const char *what)
{
	ck_assert_msg(emuReports() == 0, "%s: %s", what, all_reports().c_str());
}

START_TEST(every_call_site_that_fails_once_is_told)
{
	std::vector<emuSite> sites;
	int n_told = 0;
	Run first;

	emuStart(2, EMU_MACHINE);
	ck_assert_int_eq(scenario(&first, NONE), 0);
	sites = emuSites();
	shut_run(&first);
	for (const emuSite &s : emuSites()) { /* those that only the end has */
		bool is_known = false;

		for (const emuSite &k : sites)
			is_known = is_known || k.at == s.at;
		if (!is_known)
			sites.push_back(s);
	}
	ck_assert_uint_ge(sites.size(), 40);
	for (const emuSite &s : sites) {
		std::string text;
		int rc, left;
		Run r;

		emuStart(2, EMU_MACHINE);
		emuFailSite(s.at,
			    strstr(s.name, "lloc") ? cudaErrorMemoryAllocation : cudaErrorUnknown);
		rc = scenario(&r, NONE);
		text = st_last_error();
		emuStep(false);
		no_reports(s.name);
		shut_run(&r);
		check_failed(rc, text, s.name);
		ck_assert_msg(rc != 0 || is_of_the_end(s.name), "%s: failed and nobody said so",
			      s.name);
		n_told += rc != 0;
		left = emuLeaks();
		ck_assert_msg(left == 0 || is_of_the_end(s.name), "%s: left %d things behind: %s",
			      s.name, left, all_reports().c_str());
	}
	ck_assert_int_ge(n_told, 30);
}
END_TEST

START_TEST(every_nth_call_that_fails_is_told)
{
	uint64_t calls, x = 1;
	Run first;

	emuStart(2, EMU_MACHINE);
	ck_assert_int_eq(scenario(&first, NONE), 0);
	calls = emuCallCount();
	shut_run(&first);
	ck_assert_uint_ge(calls, 200);
	for (int i = 0; i < 200; i++) {
		static const cudaError_t codes[] = { cudaErrorUnknown, cudaErrorMemoryAllocation,
						     cudaErrorECCUncorrectable,
						     cudaErrorLaunchFailure };
		std::string text;
		char what[64];
		int rc;
		Run r;

		x = x * 6364136223846793005u + 1442695040888963407u;
		emuStart(x >> 8 & 7, EMU_MACHINE);
		emuFailNth(1 + (x >> 33) % (calls - 60), codes[i % 4], i % 2 == 1);
		rc = scenario(&r, NONE);
		text = st_last_error();
		emuStep(false);
		snprintf(what, sizeof(what), "call %d (%d)", (int)(1 + (x >> 33) % (calls - 60)),
			 i);
		no_reports(what);
		check_failed(rc, text, what);
		ck_assert_msg(rc != 0 || i % 2 == 0, "%s: failed for good and nobody said so",
			      what);
		shut_run(&r);
	}
}
END_TEST

START_TEST(an_operation_that_fails_when_it_runs_is_told_for_good)
{
	for (uint64_t seed = 0; seed < 4; seed++)
		for (uint64_t op = 8; op < 60; op += 7) {
			Run r;

			emuStart(seed, EMU_MACHINE);
			emuFailOp(op, cudaErrorIllegalAddress);
			ck_assert_int_eq(scenario(&r, NONE), STRATA_E_IO);
			ck_assert_msg(strstr(st_last_error(), "cudaErrorIllegalAddress") &&
					      strstr(st_last_error(), "please report it"),
				      "%s", st_last_error());
			emuStep(false);
			ck_assert_int_lt(st_event_query(r.rig.dev, r.rig.event), 0);
			shut_run(&r);
		}
}
END_TEST

START_TEST(a_query_that_is_not_ready_blames_no_later_call)
{
	for (uint64_t seed = 0; seed < 8; seed++) {
		int not_ready = 0;
		Run r;

		emuStart(seed, EMU_MACHINE);
		ck_assert_int_eq(open_run(&r), 0);
		ck_assert_int_eq(begin(&r), 0);
		for (int i = 0; i < 20; i++) {
			st_fill_zero(r.rig.dev, r.z, Y_BYTES);
			ck_assert_int_eq(st_device_record(r.rig.dev, ST_STREAM_COMPUTE, r.in[0]),
					 0);
			not_ready += st_event_query(r.rig.dev, r.in[0]) == 0;
			/* A launch asks cudaGetLastError(), as kernels are launched. */
			ck_assert_int_eq(cudaPeekAtLastError(), cudaSuccess);
		}
		ck_assert_int_eq(st_device_status(r.rig.dev), 0);
		ck_assert(seed % 4 != 1 || not_ready > 0);
		shut_run(&r);
	}
}
END_TEST

/* ---- seeded defects ------------------------------------------------------------------------- */

/* Each is reported under every schedule, however harmless the order that was played. */
static void caught(Defect defect, const char *what)
{
	for (uint64_t seed = 0; seed < 8; seed++) {
		Run r;

		emuStart(seed, EMU_MACHINE);
		ck_assert_msg(scenario(&r, defect) == 0, "%s", st_last_error());
		ck_assert_msg(all_reports().find(what) != std::string::npos,
			      "defect %d, seed %d: not reported as '%s': %s", defect, (int)seed,
			      what, all_reports().c_str());
		shut_run(&r);
	}
}

START_TEST(defects_in_the_order_of_streams_are_reported)
{
	caught(COMPUTE_BEFORE_COPY, "race: product");
	caught(WRONG_EVENT, "race: product");
	caught(COPY_TOO_EARLY, "race: copy to the device");
	caught(RESULT_TOO_EARLY, "race: copy to the host");
	caught(RESULT_OVERWRITTEN, "race: gelu_fwd");
	caught(HOST_READS_EARLY, "race: the host's hash reads");
	caught(HOST_REUSES_SOURCE, "race: the host's fill writes");
}
END_TEST

/* What the device itself refuses, done past it: the emulation sees it as well. */
static void raw(const char *what, const std::function<void(Rig *, cudaStream_t)> &act)
{
	cudaStream_t s = nullptr;
	Rig rig;

	emuStart(1, EMU_MACHINE);
	ck_assert_int_eq(rig.open(ST_F32, 1 << 16), 0);
	ck_assert_int_eq(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), 0);
	act(&rig, s);
	ck_assert_msg(all_reports().find(what) != std::string::npos, "not reported as '%s': %s",
		      what, all_reports().c_str());
	cudaStreamDestroy(s);
	rig.shut();
}

START_TEST(what_cuda_forbids_is_reported)
{
	static char elsewhere[8192];

	raw("host memory that is not registered", [](Rig *rig, cudaStream_t s) {
		cudaMemcpyAsync(rig->base, elsewhere, 64, cudaMemcpyHostToDevice, s);
	});
	raw("was changed by the host before it had run", [](Rig *rig, cudaStream_t s) {
		/* nobody told the emulation of the host's write */
		cudaMemcpyAsync(rig->base, rig->host, 64, cudaMemcpyHostToDevice, s);
		rig->host[5] ^= 1;
		cudaStreamSynchronize(s);
	});
	raw("operations that are still to run use this memory", [](Rig *rig, cudaStream_t s) {
		cudaHostRegister(elsewhere, sizeof(elsewhere), 0);
		cudaMemcpyAsync(rig->base, elsewhere, 64, cudaMemcpyHostToDevice, s);
		cudaHostUnregister(elsewhere);
	});
	raw("are registered already", [](Rig *rig, cudaStream_t s) {
		ck_assert_int_eq(cudaHostRegister(rig->host + 4096, 4096, 0),
				 cudaErrorHostMemoryAlreadyRegistered);
	});
	raw("on the legacy stream",
	    [](Rig *rig, cudaStream_t s) { cudaMemsetAsync(rig->base, 0, 64, nullptr); });
	raw("beyond the end of device memory", [](Rig *rig, cudaStream_t s) {
		ck_assert_int_eq(cudaMemcpyAsync(rig->base + 65536, rig->host, 4096,
						 cudaMemcpyHostToDevice, s),
				 cudaErrorInvalidValue);
	});
	raw("not in memory of the device",
	    [](Rig *rig, cudaStream_t s) { cudaMemsetAsync(elsewhere, 0, 64, s); });
	raw("its direction", [](Rig *rig, cudaStream_t s) {
		cudaMemcpyAsync(rig->host, rig->base, 64, cudaMemcpyHostToDevice, s);
	});
	raw("was never given out", [](Rig *rig, cudaStream_t s) {
		ck_assert_int_eq(cudaFree(elsewhere), cudaErrorInvalidValue);
	});
	raw("a stream that is not there", [](Rig *rig, cudaStream_t s) {
		cudaStream_t gone = nullptr;

		cudaStreamCreateWithFlags(&gone, cudaStreamNonBlocking);
		cudaStreamDestroy(gone);
		cudaMemsetAsync(rig->base, 0, 64, gone);
	});
	raw("a range is closed that was never opened",
	    [](Rig *rig, cudaStream_t s) { nvtxRangePop(); });
	raw("left behind: 4096 bytes of device memory", [](Rig *rig, cudaStream_t s) {
		void *p = nullptr;

		ck_assert_int_eq(cudaMalloc(&p, 4096), 0);
		ck_assert_int_ge(emuLeaks(), 1);
		cudaFree(p);
	});
}
END_TEST

START_TEST(fresh_memory_is_poison)
{
	float x[16];
	Rig rig;

	emuStart(1, EMU_MACHINE);
	ck_assert_int_eq(rig.open(ST_F32, 1 << 16), 0);
	ck_assert_int_eq(rig.get(x, rig.base, sizeof(x)), 0);
	for (float f : x)
		ck_assert(f != f);
	rig.shut();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("cuda_faults");
	TCase *t = tcase_create("faults");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_set_timeout(t, 120);
	tcase_add_test(t, every_schedule_gives_the_same_bits);
	tcase_add_test(t, a_seed_replays);
	tcase_add_test(t, a_step_only_issues);
	tcase_add_test(t, every_call_site_that_fails_once_is_told);
	tcase_add_test(t, every_nth_call_that_fails_is_told);
	tcase_add_test(t, an_operation_that_fails_when_it_runs_is_told_for_good);
	tcase_add_test(t, a_query_that_is_not_ready_blames_no_later_call);
	tcase_add_test(t, defects_in_the_order_of_streams_are_reported);
	tcase_add_test(t, what_cuda_forbids_is_reported);
	tcase_add_test(t, fresh_memory_is_poison);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_ENV);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
