/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_cuda_kernels.cc - every kernel of gpu/cuda on the emulation, against plain loops, the
 * host device and the CPU's optimizer.
 *
 * The cases are those of tests/cuda_cases.cc. With arguments it runs the cases whose operation
 * begins with one of them, without the host device, prints the first that fails and exits with 1
 * then: tests/checks/cuda_mutations.pl looks at that. The emulation's order of threads is another
 * one in each launch; the two runs of a case must give the same bits all the same.
 *
 * Label: slow
 * Timeout: 300
 */
#include <check.h>
#include <exception>
#include <stdexcept>
#include <stdio.h>

#include "tests/cuda_cases.h"
#include "tests/cuda_emu/emu.h"

extern "C" {
#include "gpu/device.h"
}

static struct st_device *devices[ST_DTYPE_COUNT];
static bool is_with_host;
static cudaStream_t stream;

static struct st_device *host(enum st_dtype dt)
{
	return is_with_host ? devices[dt] : NULL;
}

/* "" or what is wrong with a case. After a report the emulated context is lost, as a real one. */
static std::string failure_of(cuda_case &k)
{
	std::string why;
	cudaError_t rc = cudaSuccess;
	size_t wrong;

	for (int set = 0; set < 2 && !rc; set++)
		rc = k.launch(stream, set);
	rc = rc ? rc : cudaStreamSynchronize(stream);
	if (emuReports())
		throw std::runtime_error(k.name + ": " + emuReportText(0));
	if (rc)
		throw std::runtime_error(k.name + ": " + cudaGetErrorString(rc));
	wrong = k.check(&why);
	return wrong ? k.name + ": " + std::to_string(wrong) + " wrong: " + why : "";
}

static size_t n_cases, n_failed;
static std::string first_failure;

static void run_cases(const char *only)
{
	static uint64_t seed;
	const emuMachine machine = EMU_MACHINE;
	cuda_cases c;

	emuStart(++seed, machine);
	if (cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking))
		throw std::runtime_error("cudaStreamCreateWithFlags");
	c.only = only;
	c.host = host;
	c.each = [](cuda_case &k) {
		std::string failure = failure_of(k);

		n_cases++;
		if (failure.empty())
			return;
		if (n_failed++ == 0)
			first_failure = failure;
		if (!is_with_host)
			throw std::runtime_error(failure);
		fprintf(stderr, "%s\n", failure.c_str());
	};
	cuda_cases_run(c);
}

static void run_test(const char *only, size_t at_least)
{
	n_cases = n_failed = 0;
	try {
		run_cases(only);
	} catch (const std::exception &e) {
		ck_abort_msg("%s", e.what());
	}
	ck_assert_msg(n_failed == 0, "%zu of %zu cases failed, the first: %s", n_failed, n_cases,
		      first_failure.c_str());
	ck_assert_uint_ge(n_cases, at_least); /* none was left out */
	for (struct st_device *d : devices)
		ck_assert_msg(st_device_status(d) == 0, "%s", st_last_error());
}

#define OPERATION(name, at_least)                                                                  \
	START_TEST(name)                                                                           \
	{                                                                                          \
		run_test(#name, at_least);                                                         \
	}                                                                                          \
	END_TEST
OPERATION(header, 200)
OPERATION(gelu, 42)
OPERATION(add, 21)
OPERATION(fill_zero, 6)
OPERATION(cast, 36)
OPERATION(layernorm, 90)
OPERATION(bias_bwd, 30)
OPERATION(embedding, 27)
OPERATION(cross_entropy, 52)
OPERATION(attention, 132)
OPERATION(reduce, 21)
OPERATION(adam_update, 84)

static bool open_devices(void)
{
	for (unsigned t = 0; t < ST_DTYPE_COUNT; t++) {
		struct st_device_cfg cfg = {};

		cfg.type = "host";
		cfg.dtype = (enum st_dtype)t;
		cfg.threads = 1;
		if (st_device_open(&devices[t], &cfg)) {
			fprintf(stderr, "%s\n", st_last_error());
			return false;
		}
	}
	return true;
}

static int run_suite(void)
{
	Suite *s = suite_create("cuda_kernels");
	TCase *t = tcase_create("cuda_kernels");
	SRunner *r;
	int failed;

	is_with_host = true;
	tcase_set_timeout(t, 60);
	tcase_add_test(t, header);
	tcase_add_test(t, gelu);
	tcase_add_test(t, add);
	tcase_add_test(t, fill_zero);
	tcase_add_test(t, cast);
	tcase_add_test(t, layernorm);
	tcase_add_test(t, bias_bwd);
	tcase_add_test(t, embedding);
	tcase_add_test(t, cross_entropy);
	tcase_add_test(t, attention);
	tcase_add_test(t, reduce);
	tcase_add_test(t, adam_update);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}

int main(int argc, char **argv)
{
	int rc = 0;

	if (!open_devices())
		return 1;
	try {
		if (argc == 1) {
			rc = run_suite();
		} else {
			for (int i = 1; i < argc; i++)
				run_cases(argv[i]);
			printf("%zu cases, %zu failed\n", n_cases, n_failed);
			rc = n_failed || !n_cases;
		}
	} catch (const std::exception &e) {
		fprintf(stderr, "%s\n", e.what());
		rc = 1;
	}
	for (struct st_device *d : devices)
		st_device_close(d);
	return rc;
}
