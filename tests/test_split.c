/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_split.c - master weight split and joined again, for all 2^32 patterns.
 *
 * Label: slow
 * Timeout: 600
 *
 * Of every instruction set that this CPU has:
 *	join(split(x)) is x, bit for bit, unless x is NaN;
 *	hi, read as bf16, is within half a unit in its last place of x;
 *	a NaN gives hi 0x7fc0 or 0xffc0, by its sign, and lo 0;
 *	round() is st_f32_bf16().
 */
#include <check.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>

#include "core/dtype.h"
#include "strata/optim.h"

#define CHUNK      4096u
#define NR_CHUNKS  ((uint64_t)1 << 20)
#define NR_THREADS 2u

struct worker {
	pthread_t thread;
	unsigned index;
	uint64_t nr_checked, nr_nan, nr_bad;
	uint32_t first_bad;
};

static bool is_right(uint32_t u, uint16_t hi, int16_t lo, uint32_t joined, uint16_t rounded)
{
	uint32_t sign = u >> 16 & 0x8000u;
	double x, h, ulp;

	if (rounded != st_f32_bf16(st_bits_f32(u)))
		return false;
	if ((u & 0x7fffffffu) > 0x7f800000u)
		return hi == (sign | 0x7fc0u) && lo == 0;
	if (joined != u || (hi & 0x8000u) != sign)
		return false;
	if ((u & 0x7fffffffu) == 0x7f800000u)
		return hi == u >> 16 && lo == 0;
	if ((hi & 0x7fffu) ==
	    0x7f80u) /* rounded up from the last half step: to Inf, as bf16 does */
		return (u & 0x7fffffffu) >= 0x7f7f8000u;
	x = st_bits_f32(u);
	h = st_bf16_f32(hi);
	/* one unit of x's binade: 2^-7 of its leading power of two, denormals as the first binade
	 */
	ulp = (double)st_bits_f32(u & 0x7f800000u);
	ulp = ulp > 0x1p-126 ? ulp * 0x1p-7 : 0x1p-133;
	return fabs(x - h) <= 0.5 * ulp;
}

static void *check_patterns(void *arg)
{
	static _Thread_local float in[CHUNK], back[CHUNK];
	static _Thread_local uint16_t hi[CHUNK], rounded[CHUNK];
	static _Thread_local int16_t lo[CHUNK];
	struct worker *w = arg;

	for (uint64_t c = w->index; c < NR_CHUNKS; c += NR_THREADS) {
		uint32_t base = (uint32_t)(c * CHUNK);

		for (uint32_t i = 0; i < CHUNK; i++) {
			uint32_t u = base + i;

			memcpy(&in[i], &u, sizeof(u));
		}
		strata_optim_split(CHUNK, in, hi, lo);
		strata_optim_join(CHUNK, hi, lo, back);
		strata_optim_round(CHUNK, in, rounded);
		for (uint32_t i = 0; i < CHUNK; i++) {
			uint32_t u = base + i, joined;

			memcpy(&joined, &back[i], sizeof(joined));
			w->nr_checked++;
			w->nr_nan += (u & 0x7fffffffu) > 0x7f800000u;
			if (is_right(u, hi[i], lo[i], joined, rounded[i]))
				continue;
			if (!w->nr_bad++)
				w->first_bad = u;
		}
	}
	return NULL;
}

static void check_isa(enum strata_isa isa)
{
	struct worker w[NR_THREADS];
	uint64_t nr_checked = 0, nr_nan = 0;

	ck_assert_int_eq(strata_isa_force(isa), 0);
	for (unsigned i = 0; i < NR_THREADS; i++) {
		w[i] = (struct worker){ .index = i };
		ck_assert_int_eq(pthread_create(&w[i].thread, NULL, check_patterns, &w[i]), 0);
	}
	for (unsigned i = 0; i < NR_THREADS; i++) {
		ck_assert_int_eq(pthread_join(w[i].thread, NULL), 0);
		ck_assert_msg(w[i].nr_bad == 0, "%s: %llu wrong patterns, the first is %08x",
			      strata_isa_name(isa), (unsigned long long)w[i].nr_bad,
			      w[i].first_bad);
		nr_checked += w[i].nr_checked;
		nr_nan += w[i].nr_nan;
	}
	ck_assert_uint_eq(nr_checked, (uint64_t)1 << 32);
	ck_assert_uint_eq(nr_nan, 2 * (uint64_t)0x7fffff);
}

START_TEST(all_patterns_survive)
{
	for (int isa = STRATA_ISA_SCALAR; isa <= (int)strata_isa_best(); isa++)
		check_isa((enum strata_isa)isa);
}
END_TEST

/* The checker itself must be able to say no. */
START_TEST(checker_refuses)
{
	ck_assert(is_right(0x3f800001u, 0x3f80, 1, 0x3f800001u, 0x3f80));
	ck_assert(!is_right(0x3f800001u, 0x3f80, 1, 0x3f800000u, 0x3f80));
	ck_assert(!is_right(0x3f800001u, 0x3f81, -0x7fff, 0x3f800001u - 0x10000u, 0x3f80));
	ck_assert(!is_right(0x3f800001u, 0x3f81, 1, 0x3f800001u, 0x3f80));
	ck_assert(!is_right(0x3f800001u, 0x3f80, 1, 0x3f800001u, 0x3f81));
	ck_assert(!is_right(0x7fffffffu, 0x8000, -1, 0x7fffffffu, 0x7fc0));
	ck_assert(!is_right(0xffc00001u, 0x7fc0, 0, 0x7fc00000u, 0xffc0));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("split");
	TCase *t = tcase_create("split");
	SRunner *r;
	int failed;

	tcase_set_timeout(t, 0);
	tcase_add_test(t, checker_refuses);
	tcase_add_test(t, all_patterns_survive);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
