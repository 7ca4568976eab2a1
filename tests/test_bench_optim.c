/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_bench_optim.c - what the optimizers are measured against does the work it is said to
 * do: the four passes take the step that the reference takes, loads and stores reach all of memory.
 */
#include <math.h>

#include "bench/four_pass.h"
#include "bench/optim_run.h"
#include "bench/rmw.h"
#include "tests/optim_util.h"

#define N 1003u

static void init_four(struct bank *b, struct st_four_pass *a, uint16_t *low, float *v)
{
	a->n = N;
	a->p = b->p;
	a->m = b->m;
	a->v = b->v ? b->v : v;
	a->g = b->g;
	a->low = low;
}

/* Of `was` and a step, either of which may be far larger than their sum. */
static bool is_near(float x, float want, float was)
{
	return isfinite(want) && fabsf(x - want) <= 1e-6f + 1e-5f * (fabsf(want) + fabsf(was));
}

static void check_near(const struct bank *ours, const struct st_four_pass *four, const float *was)
{
	for (size_t i = 0; i < N; i++) {
		CHECK_AT(i, is_near(four->p[i], ours->p[i], was[i]));
		CHECK_AT(i, four->low[i] == st_f32_bf16(four->p[i]));
		CHECK_AT(i, !ours->m || is_near(four->m[i], ours->m[i], 0));
		CHECK_AT(i, !ours->v || is_near(four->v[i], ours->v[i], 0));
	}
}

/* Three steps of each optimizer from the same state, by each instruction set. */
START_TEST(four_passes_take_the_step)
{
	const struct strata_optim_format f = { STRATA_PARAMS_F32, STRATA_MOMENTS_F32,
					       STRATA_GRADS_F32 };

	for (int kind = 0; kind < STRATA_OPTIM_KINDS; kind++)
		for (int isa = 0; isa <= (int)strata_isa_best(); isa++) {
			struct strata_optim_cfg cfg = STRATA_OPTIM_CFG_DEFAULT;
			struct st_four_pass a = { .isa = (enum strata_isa)isa };
			static uint16_t low[N];
			static float v[N], was[N];
			struct bank ours, theirs;

			cfg.kind = (enum strata_optim_kind)kind;
			cfg.momentum = kind == STRATA_OPTIM_SGD ? 0.9 : 0;
			bank_init(&ours, &cfg, f, N, 0);
			bank_init(&theirs, &cfg, f, N, 0);
			bank_fill(&ours, 3, false);
			bank_fill(&theirs, 3, false);
			init_four(&theirs, &a, low, v);
			for (uint64_t t = 1; t <= 3; t++) {
				struct st_four_factors four = st_four_factors(&cfg, t, 1e-3, 0.1);
				struct strata_optim_step s;
				double norm = 0;

				for (size_t i = 0; i < N; i++)
					norm += (double)a.g[i] * (double)a.g[i];
				ck_assert(fabs(st_four_norm(&a) - norm) <= 1e-5 * norm);
				ck_assert_int_eq(strata_optim_prepare(&s, &cfg, t, 1e-3, 0.1, 0.5),
						 0);
				memcpy(was, ours.p, sizeof(was));
				bank_update(&ours, &s);
				st_four_unscale(&a, 0.5f);
				st_four_update(&a, cfg.kind, &four);
				st_four_cast(&a);
				for (size_t i = 0; i < N; i++) /* as it was */
					a.g[i] *= 2;
				check_near(&ours, &a, was);
			}
			bank_fini(&ours);
			bank_fini(&theirs);
		}
}
END_TEST

#define BLOCKS 5u

START_TEST(streams_are_walked_whole)
{
	for (int isa = 0; isa <= (int)strata_isa_best(); isa++) {
		_Alignas(64) static char both[BLOCKS][128], out[BLOCKS][256];
		static uint64_t in[BLOCKS][32];
		static uint32_t scale[BLOCKS];
		struct st_rmw_stream s[] = {
			{ (char *)both, 128, true, true },
			{ (char *)in, 256, true, false },
			{ (char *)out, 256, false, true },
			{ (char *)scale, 4, true, true },
		};
		char was[BLOCKS][128];

		for (size_t i = 0; i < sizeof(both); i++)
			both[i / 128][i % 128] = was[i / 128][i % 128] = (char)(i * 7);
		memset(out, 0, sizeof(out));
		for (size_t b = 0; b < BLOCKS; b++)
			scale[b] = 0x01010101u * (uint32_t)(b + 1);
		/* each word of what is read is seen, and no other block's */
		for (size_t w = 0; w < 4 * 32; w++) {
			memset(in, 0, sizeof(in));
			in[1 + w / 32][w % 32] = (uint64_t)1 << w % 64;
			in[0][0] = in[4][31] = 1ull << 63 | 1;
			ck_assert_uint_eq(st_rmw((enum strata_isa)isa, s, 4, 1, 3),
					  w / 32 < 3 ? (uint64_t)1 << w % 64 : 0);
		}
		ck_assert_mem_eq(both, was, sizeof(was));
		for (size_t b = 0; b < BLOCKS; b++) {
			ck_assert_uint_eq(scale[b], 0x01010101u * (uint32_t)(b + 1));
			for (size_t i = 0; i < 256; i++)
				ck_assert((out[b][i] != 0) == (b >= 1 && b <= 3));
		}
	}
}
END_TEST

/* Bytes moved, as the documentation counts them. */
START_TEST(bytes_are_counted)
{
	const struct strata_optim_cfg cfg = STRATA_OPTIM_CFG_DEFAULT;
	const struct strata_optim_format fp32 = { STRATA_PARAMS_SPLIT, STRATA_MOMENTS_F32,
						  STRATA_GRADS_BF16 };
	const struct strata_optim_format int8 = { STRATA_PARAMS_SPLIT, STRATA_MOMENTS_INT8,
						  STRATA_GRADS_BF16 };
	const struct strata_optim_format copy = { STRATA_PARAMS_F32_BF16, STRATA_MOMENTS_F32,
						  STRATA_GRADS_BF16 };
	size_t update;

	ck_assert(st_optim_moved_bytes(&cfg, &fp32) == 26);
	ck_assert(st_optim_moved_bytes(&cfg, &int8) == 14.125);
	ck_assert(st_optim_moved_bytes(&cfg, &copy) == 28);
	ck_assert(st_optim_resident_bytes(&cfg, &int8) == 8.0625);
	ck_assert_uint_eq(st_four_bytes(STRATA_OPTIM_ADAMW, &update), 46);
	ck_assert_uint_eq(update, 28);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("bench optim");
	TCase *t = tcase_create("opponents");
	SRunner *r;
	int failed;

	tcase_set_timeout(t, 0);
	tcase_add_test(t, four_passes_take_the_step);
	tcase_add_test(t, streams_are_walked_whole);
	tcase_add_test(t, bytes_are_counted);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
