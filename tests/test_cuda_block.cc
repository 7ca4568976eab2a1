/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_cuda_block.cc - the emulation of a block reports what a card forbids, and nothing
 * else.
 *
 * Each kernel here does one wrong thing, and beside it the right one.
 */
#include <check.h>
#include <stdio.h>
#include <string.h>
#include <string>

#include "gpu/cuda/portable.h"
#include "tests/cuda_emu/emu.h"

#define THREADS 64

#define FLOATS 512

static float *memory; /* on the device, [FLOATS]; of a new machine for each run */
static float result[FLOATS];
static cudaStream_t stream;

struct args {
	float *p;
	int wrong; /* 0: nothing */
};

static void new_machine(void)
{
	static uint64_t seed;
	const emuMachine machine = EMU_MACHINE;

	emuStart(++seed, machine);
	memset(result, 0, sizeof(result));
	ck_assert_int_eq(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
	ck_assert_int_eq(cudaMalloc((void **)&memory, sizeof(result)), cudaSuccess);
	ck_assert_int_eq(cudaMemcpy(memory, result, sizeof(result), cudaMemcpyHostToDevice),
			 cudaSuccess);
}

/* Runs it; "" or the first report. What it wrote is in `result`. */
static std::string run(void (*fn)(struct args), int wrong, size_t smem, bool is_write)
{
	struct args a = { NULL, wrong };
	cudaError_t rc;
	std::string said;

	new_machine();
	a.p = memory;
	rc = ST_LAUNCH("wrong", fn, 2, THREADS, smem, stream,
		       ST_SPANS({ memory, sizeof(result), is_write }), a);
	rc = rc ? rc : cudaStreamSynchronize(stream);
	ck_assert_int_le(emuReports(), 1);
	said = emuReports() ? emuReportText(0) : "";
	ck_assert_msg(said.empty() == (rc == cudaSuccess), "%d, %s", (int)rc, said.c_str());
	if (rc == cudaSuccess)
		ck_assert_int_eq(cudaMemcpy(result, memory, sizeof(result), cudaMemcpyDeviceToHost),
				 cudaSuccess);
	return said;
}

static void run_right(void (*fn)(struct args), int wrong, size_t smem)
{
	std::string said = run(fn, wrong, smem, true);

	ck_assert_msg(said.empty(), "%s", said.c_str());
}

/* Right with 0; with `wrong` it says so, naming kernel, file and thread. */
static void expect(void (*fn)(struct args), int wrong, const char *says, size_t smem = 4096,
		   bool is_write = true)
{
	std::string said;

	run_right(fn, 0, smem);
	said = run(fn, wrong, smem, is_write);
	ck_assert_msg(said.find(says) != std::string::npos, "no \"%s\" in: %s", says, said.c_str());
	ck_assert_msg(said.find("kernel wrong (") == 0, "%s", said.c_str());
	ck_assert_msg(said.find("thread (") != std::string::npos, "%s", said.c_str());
	ck_assert_msg(said.find("test_cuda_block.cc:") != std::string::npos, "%s", said.c_str());
}

ST_KERNEL(THREADS) barriers(struct args a)
{
	if (a.wrong == 1 && threadIdx.x == 5)
		return;
	if (a.wrong == 2 && threadIdx.x >= 32)
		barrier();
	else
		barrier();
}

ST_KERNEL(THREADS) warps(struct args a)
{
	const int lane = threadIdx.x % ST_WARP;
	float x = (float)lane;

	if (a.wrong == 1 && lane == 7)
		return;
	if (a.wrong == 2 && lane < 16)
		x = shfl_xor(x, 1);
	else
		x = shfl_xor(x, 1);
	if (a.wrong == 3 && lane < 16)
		(void)vote(x > 3.0f);
	else
		x += shfl_xor(x, 2);
	if (a.wrong == 4 && lane == 9)
		barrier();
	(void)vote(x > 1.0f);
	if (!(a.wrong == 4 && lane == 9))
		barrier();
}

ST_KERNEL(THREADS) global_memory(struct args a)
{
	const unsigned at = threadIdx.x;

	if (a.wrong == 0)
		store(a.p + 511, load(a.p) + load16(a.p + 508).u[0]);
	if (a.wrong == 1)
		(void)load(a.p + 512);
	if (a.wrong == 2)
		store(a.p - 1, 0.0f);
	if (a.wrong == 3)
		(void)load16(a.p + 1);
	if (a.wrong == 4)
		(void)load16(a.p + 509 + at - at);
	if (a.wrong == 5)
		store(a.p + at, 0.0f);
	if (a.wrong == 6)
		(void)load((const double *)(a.p + 1));
}

ST_KERNEL(THREADS) shared(struct args a)
{
	float *s = (float *)shared_memory();
	uint32_t r[4];

	s[threadIdx.x] = (float)threadIdx.x;
	if (a.wrong == 1 && threadIdx.x == 0)
		s[1024] = 1.0f;
	if (a.wrong == 2)
		ldmatrix(r, s + 2);
	if (a.wrong == 3)
		ldmatrix(r, a.p);
	if (a.wrong == 4)
		copy16_async(s + 1020, a.p + 1, true);
	if (a.wrong == 5)
		copy16_async(s + 1024, a.p, true);
	if (a.wrong == 6)
		copy16_async(s + 4 * threadIdx.x, a.p + 4 * threadIdx.x + 508, true);
	copy16_async(s + 4 * threadIdx.x, a.p, true);
	copy_commit();
	if (a.wrong != 7)
		copy_wait<0>();
}

START_TEST(reports_what_a_card_forbids)
{
	expect(barriers, 1, "while thread");
	expect(barriers, 2, "at the barrier of line");
	expect(warps, 1, "wait for it");
	expect(warps, 2, "shuffle while other lanes");
	expect(warps, 3, "while other lanes of the warp are at the");
	expect(warps, 4, "at a barrier, while other lanes");
	expect(global_memory, 1, "in no span");
	expect(global_memory, 2, "in no span");
	expect(global_memory, 3, "misaligned");
	expect(global_memory, 4, "load of 16 bytes");
	expect(global_memory, 5, "only reads", 4096, false);
	expect(global_memory, 6, "misaligned");
	expect(shared, 1, "beyond its 4096 bytes");
	expect(shared, 2, "ldmatrix");
	expect(shared, 3, "ldmatrix");
	expect(shared, 4, "copy from");
	expect(shared, 5, "copy to");
	expect(shared, 6, "copy from");
	expect(shared, 7, "never waited");
}
END_TEST

ST_KERNEL(40) odd_block(struct args a)
{
	(void)vote(a.wrong != 0);
}

START_TEST(a_warp_has_32_threads)
{
	struct args a = { NULL, 1 };
	cudaError_t rc;

	new_machine();
	a.p = memory;
	rc = ST_LAUNCH("odd", odd_block, 1, 40, 0, stream, ST_SPANS({ memory, 4, false }), a);
	ck_assert_int_eq(rc, cudaSuccess);
	ck_assert_int_eq(cudaStreamSynchronize(stream), cudaErrorLaunchFailure);
	ck_assert_ptr_nonnull(strstr(emuReportText(0), "8 threads, not 32"));
}
END_TEST

ST_KERNEL(1024) nothing(struct args a)
{
	(void)a;
}

START_TEST(launches_that_a_card_refuses)
{
	static const struct {
		dim3 grid, block;
		size_t smem;
		cudaError_t rc;
	} t[] = {
		{ dim3(1), dim3(1024), 48 * 1024, cudaSuccess },
		{ dim3(0), dim3(32), 0, cudaErrorInvalidConfiguration },
		{ dim3(1), dim3(0), 0, cudaErrorInvalidConfiguration },
		{ dim3(1), dim3(1025), 0, cudaErrorInvalidConfiguration },
		{ dim3(1), dim3(32, 33), 0, cudaErrorInvalidConfiguration },
		{ dim3(1), dim3(1, 1, 65), 0, cudaErrorInvalidConfiguration },
		{ dim3(1, 65536), dim3(32), 0, cudaErrorInvalidConfiguration },
		{ dim3(1, 1, 65536), dim3(32), 0, cudaErrorInvalidConfiguration },
		{ dim3(1), dim3(32), 48 * 1024 + 1, cudaErrorInvalidValue },
	};
	const emuKernel k = { "nothing", __FILE__, __LINE__, (const void *)nothing };
	struct args a = { NULL, 0 };
	emuSpan span = { NULL, 4, false };

	new_machine();
	span.p = a.p = memory;
	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++)
		ck_assert_int_eq(emuLaunch(&k, t[i].grid, t[i].block, t[i].smem, stream, &span, 1,
					   [=]() { nothing(a); }),
				 t[i].rc);
	ck_assert_int_eq(cudaFuncSetAttribute(k.func, cudaFuncAttributeMaxDynamicSharedMemorySize,
					      227 * 1024 + 1),
			 cudaErrorInvalidValue);
	ck_assert_int_eq(cudaFuncSetAttribute(k.func, cudaFuncAttributeMaxDynamicSharedMemorySize,
					      227 * 1024),
			 cudaSuccess);
	ck_assert_int_eq(emuLaunch(&k, dim3(1), dim3(32), 227 * 1024, stream, &span, 1,
				   [=]() { nothing(a); }),
			 cudaSuccess);
	ck_assert_int_eq(cudaStreamSynchronize(stream), cudaSuccess);
}
END_TEST

/* A sum over the block; with `wrong` the barrier is missing. */
ST_KERNEL(THREADS) sum_of_block(struct args a)
{
	float *s = (float *)shared_memory(), sum = 0.0f;

	s[threadIdx.x] = (float)(threadIdx.x + 1);
	if (!a.wrong)
		barrier();
	for (int i = 0; i < THREADS; i++)
		sum += s[i];
	store(a.p + blockIdx.x * THREADS + threadIdx.x, sum);
}

/* A copy is looked at before the wait, or after it. */
ST_KERNEL(THREADS) early(struct args a)
{
	float *s = (float *)shared_memory() + 4 * threadIdx.x;

	s[0] = 1.0f;
	copy16_async(s, a.p + 256, true);
	copy_commit();
	if (!a.wrong)
		copy_wait<0>();
	store(a.p + threadIdx.x, s[0]);
	copy_wait<0>();
}

/* Many orders: a missing barrier or wait shows in nearly each, a right kernel in none. */
START_TEST(orders_show_a_missing_barrier)
{
	int wrong[2] = { 0, 0 };

	for (int seed = 0; seed < 20; seed++)
		for (int w = 0; w < 2; w++) {
			run_right(sum_of_block, w, THREADS * sizeof(float));
			for (int i = 0; i < 2 * THREADS; i++)
				if (!(result[i] == THREADS * (THREADS + 1) / 2)) {
					wrong[w]++;
					break;
				}
		}
	ck_assert_int_eq(wrong[0], 0);
	ck_assert_int_eq(wrong[1], 20);
	for (int w = 0; w < 2; w++) {
		run_right(early, w, 16 * THREADS);
		for (int i = 0; i < THREADS; i++)
			ck_assert_msg(w ? result[i] != result[i] : result[i] == 0.0f, "%d: %g", i,
				      (double)result[i]);
	}
}
END_TEST

/* Shared memory that nobody wrote is NaN in every type. */
ST_KERNEL(THREADS) unwritten(struct args a)
{
	const unsigned char *s = shared_memory();

	store(a.p + threadIdx.x, ((const float *)s)[threadIdx.x]);
	store(a.p + THREADS + threadIdx.x, f16_f32(((const st_f16 *)s)[threadIdx.x]));
}

START_TEST(shared_memory_is_poison)
{
	run_right(unwritten, 0, 1024);
	for (int i = 0; i < 2 * THREADS; i++)
		ck_assert(result[i] != result[i]);
}
END_TEST

/* The same seed gives the same order, another one another. */
static void note_order(unsigned *order, unsigned *n)
{
	order[(*n)++] = blockIdx.x * 64 + threadIdx.x;
	barrier();
	order[(*n)++] = blockIdx.x * 64 + threadIdx.x;
}

START_TEST(a_seed_replays_an_order)
{
	const emuKernel k = { "order", __FILE__, __LINE__, NULL };
	unsigned order[3][512], n;

	for (int i = 0; i < 3; i++) {
		n = 0;
		ck_assert(emuRunGrid(&k, dim3(4), dim3(64), 0, NULL, 0, i == 2 ? 8 : 7,
				     [&]() { note_order(order[i], &n); }));
		ck_assert_uint_eq(n, 512);
	}
	ck_assert_mem_eq(order[0], order[1], sizeof(order[0]));
	ck_assert_mem_ne(order[0], order[2], sizeof(order[0]));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("cuda_block");
	TCase *t = tcase_create("cuda_block");
	SRunner *r;
	int failed;

	tcase_add_test(t, reports_what_a_card_forbids);
	tcase_add_test(t, a_warp_has_32_threads);
	tcase_add_test(t, launches_that_a_card_refuses);
	tcase_add_test(t, orders_show_a_missing_barrier);
	tcase_add_test(t, shared_memory_is_poison);
	tcase_add_test(t, a_seed_replays_an_order);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
