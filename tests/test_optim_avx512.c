/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_optim_avx512.c - the AVX-512 kernels of the optimizer, where there is no AVX-512.
 *
 * The very text of cpu_optim/optim_avx512.c, in which each intrinsic that it uses is a function of
 * the same meaning here, in plain C. So what the kernels do with 16 lanes is tested on every
 * processor; the instructions themselves are where there are any (test_optim.c).
 */
#include "tests/optim_util.h"

/* Not inlined: the compiler takes minutes for what would come of it. */
#define LANE_FN static __attribute__((noinline))

struct v256 {
	union {
		uint16_t h[16];
		uint8_t b[32];
	};
};
struct v512f {
	float f[16];
};
struct v256f {
	float f[8];
};
struct v512i {
	union {
		uint32_t u[16];
		uint16_t h[32]; /* of lane j, 2j is the lower half */
	};
};
struct v512d {
	double d[8];
};

/* One operation in every lane of a and b. */
#define FLOATS(name, expression)                                                                   \
	LANE_FN struct v512f name(struct v512f a, struct v512f b)                                  \
	{                                                                                          \
		struct v512f x;                                                                    \
		for (int i = 0; i < 16; i++)                                                       \
			x.f[i] = (expression);                                                     \
		return x;                                                                          \
	}
FLOATS(emu_add_ps, a.f[i] + b.f[i])
FLOATS(emu_sub_ps, a.f[i] - b.f[i])
FLOATS(emu_mul_ps, a.f[i] * b.f[i])
FLOATS(emu_div_ps, a.f[i] / b.f[i])

#define INTS(name, expression)                                                                     \
	LANE_FN struct v512i name(struct v512i a, struct v512i b)                                  \
	{                                                                                          \
		struct v512i x;                                                                    \
		for (int i = 0; i < 16; i++)                                                       \
			x.u[i] = (expression);                                                     \
		return x;                                                                          \
	}
INTS(emu_add_epi32, a.u[i] + b.u[i])
INTS(emu_mullo_epi32, a.u[i] * b.u[i])
INTS(emu_and_si512, a.u[i] & b.u[i])
INTS(emu_or_si512, a.u[i] | b.u[i])
INTS(emu_xor_si512, a.u[i] ^ b.u[i])
INTS(emu_min_epu32, a.u[i] < b.u[i] ? a.u[i] : b.u[i])
INTS(emu_max_epu32, a.u[i] > b.u[i] ? a.u[i] : b.u[i])

#define WORDS(name, expression)                                                                    \
	LANE_FN struct v512i name(struct v512i a, struct v512i b)                                  \
	{                                                                                          \
		struct v512i x;                                                                    \
		for (int i = 0; i < 32; i++)                                                       \
			x.h[i] = (uint16_t)(expression);                                           \
		return x;                                                                          \
	}
WORDS(emu_add_epi16, a.h[i] + b.h[i])
WORDS(emu_sub_epi16, a.h[i] - b.h[i])
WORDS(emu_min_epu16, a.h[i] < b.h[i] ? a.h[i] : b.h[i])
WORDS(emu_max_epu16, a.h[i] > b.h[i] ? a.h[i] : b.h[i])

/* Lane i of a vector of `type` from what is in scope. */
#define LANES(type, member, name, argument, expression)                                            \
	LANE_FN struct type name argument {                                                        \
		struct type x;                                                                     \
		for (size_t i = 0; i < sizeof(x.member) / sizeof(x.member[0]); i++)                \
			x.member[i] = (expression);                                                \
		return x;                                                                          \
	}
LANES(v512f, f, emu_sqrt_ps, (struct v512f a), sqrtf(a.f[i]))
LANES(v512f, f, emu_fmadd_ps, (struct v512f a, struct v512f b, struct v512f c),
      __builtin_fmaf(a.f[i], b.f[i], c.f[i]))
LANES(v512f, f, emu_set1_ps, (float f), f)
LANES(v512f, f, emu_setzero_ps, (void), 0.0f)
LANES(v512f, f, emu_castsi512_ps, (struct v512i a), st_bits_f32(a.u[i]))
LANES(v512f, f, emu_cvtph_ps, (struct v256 a), st_f16_f32(a.h[i]))
LANES(v512i, u, emu_castps_si512, (struct v512f a), st_f32_bits(a.f[i]))
LANES(v512i, u, emu_set1_epi32, (int a), (uint32_t)a)
LANES(v512i, u, emu_iota, (void), (uint32_t)i)
LANES(v512i, u, emu_slli_epi32, (struct v512i a, unsigned n), a.u[i] << n)
LANES(v512i, u, emu_srli_epi32, (struct v512i a, unsigned n), a.u[i] >> n)
LANES(v512i, h, emu_set1_epi16, (short a), (uint16_t)a)
LANES(v512i, h, emu_slli_epi16, (struct v512i a, unsigned n), (uint16_t)(a.h[i] << n))
LANES(v512i, h, emu_srli_epi16, (struct v512i a, unsigned n), (uint16_t)(a.h[i] >> n))
LANES(v512i, h, emu_srai_epi16, (struct v512i a, unsigned n), (uint16_t)((int16_t)a.h[i] >> n))
LANES(v512i, h, emu_cvtepu8_epi16, (struct v256 a), a.b[i])
LANES(v512i, h, emu_cvtepi8_epi16, (struct v256 a), (uint16_t)(int8_t)a.b[i])
LANES(v512i, h, emu_mask_blend_epi16, (uint32_t m, struct v512i a, struct v512i b),
      m >> i & 1 ? b.h[i] : a.h[i])
LANES(v512i, h, emu_permutex2var_epi16, (struct v512i a, struct v512i n, struct v512i b),
      (n.h[i] & 32 ? b : a).h[n.h[i] & 31])
LANES(v512f, f, emu_permutex2var_ps, (struct v512f a, struct v512i n, struct v512f b),
      (n.u[i] & 16 ? b : a).f[n.u[i] & 15])
LANES(v512i, u, emu_mask_blend_epi32, (uint16_t m, struct v512i a, struct v512i b),
      m >> i & 1 ? b.u[i] : a.u[i])
LANES(v256, h, emu_cvtps_ph, (struct v512f a, int rounding), st_f32_f16(a.f[i]))
LANES(v256, b, emu_cvtusepi16_epi8, (struct v512i a), (uint8_t)(a.h[i] < 255 ? a.h[i] : 255))
LANES(v512d, d, emu_setzero_pd, (void), 0.0)
LANES(v512d, d, emu_cvtps_pd, (struct v256f a), a.f[i])
LANES(v512d, d, emu_fmadd_pd, (struct v512d a, struct v512d b, struct v512d c),
      __builtin_fma(a.d[i], b.d[i], c.d[i]))
LANES(v256f, f, emu_castps512_ps256, (struct v512f a), a.f[i])
LANES(v256f, f, emu_extractf32x8_ps, (struct v512f a, unsigned half), a.f[8 * half + i])

/* predicate: unordered with b, or equal to it; no other is used. */
enum { EMU_UNORD, EMU_EQ };

LANE_FN uint16_t emu_cmp_ps_mask(struct v512f a, struct v512f b, int predicate)
{
	uint16_t mask = 0;

	for (int i = 0; i < 16; i++) {
		bool is_unordered = a.f[i] != a.f[i] || b.f[i] != b.f[i];
		bool is_set = predicate == EMU_UNORD ? is_unordered : a.f[i] == b.f[i];

		mask |= (uint16_t)(is_set << i);
	}
	return mask;
}

LANE_FN int emu_reduce_max_epi32(struct v512i a)
{
	int32_t max = INT32_MIN;

	for (int i = 0; i < 16; i++)
		max = (int32_t)a.u[i] > max ? (int32_t)a.u[i] : max;
	return max;
}

#define LOAD(type, name)                                                                           \
	LANE_FN struct type emu_load_##name(const void *p)                                         \
	{                                                                                          \
		struct type x;                                                                     \
		memcpy(&x, p, sizeof(x));                                                          \
		return x;                                                                          \
	}
LOAD(v512f, ps)
LOAD(v512i, si512)
LOAD(v256, si256)

#define STORE(type, name)                                                                          \
	LANE_FN void emu_store_##name(void *p, struct type x)                                      \
	{                                                                                          \
		memcpy(p, &x, sizeof(x));                                                          \
	}
STORE(v512f, ps)
STORE(v512i, si512)
STORE(v256, si256)
STORE(v512d, pd)

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#define __m512              struct v512f
#define __m512i             struct v512i
#define __m512d             struct v512d
#define __m256i             struct v256
#define _mm512_loadu_ps     emu_load_ps
#define _mm512_storeu_ps    emu_store_ps
#define _mm256_loadu_si256  emu_load_si256
#define _mm256_storeu_si256 emu_store_si256
#define _mm512_storeu_pd    emu_store_pd
#define _mm512_add_ps       emu_add_ps
#define _mm512_sub_ps       emu_sub_ps
#define _mm512_mul_ps       emu_mul_ps
#define _mm512_div_ps       emu_div_ps
#define _mm512_add_epi32    emu_add_epi32
#define _mm512_mullo_epi32  emu_mullo_epi32
#define _mm512_and_si512    emu_and_si512
#define _mm512_or_si512     emu_or_si512
#define _mm512_xor_si512    emu_xor_si512
#define _mm512_min_epu32    emu_min_epu32
#define _mm512_max_epu32    emu_max_epu32
#define _mm512_add_epi16    emu_add_epi16
#define _mm512_sub_epi16    emu_sub_epi16
#define _mm512_min_epu16    emu_min_epu16
#define _mm512_max_epu16    emu_max_epu16
#define _mm512_set1_epi16   emu_set1_epi16
#define _mm512_loadu_si512  emu_load_si512
#define _mm512_storeu_si512 emu_store_si512
#define _mm512_sqrt_ps      emu_sqrt_ps
#define _mm512_fmadd_ps     emu_fmadd_ps
#define _mm512_set1_ps      emu_set1_ps
#define _mm512_setzero_ps   emu_setzero_ps
#define _mm512_castsi512_ps emu_castsi512_ps
#undef _mm512_cvtps_ph
#define _mm512_cvtps_ph     emu_cvtps_ph
#define _mm512_cvtph_ps     emu_cvtph_ps
#define _mm512_castps_si512 emu_castps_si512
#define _mm512_set1_epi32   emu_set1_epi32
#undef _mm512_setr_epi32
#define _mm512_setr_epi32(...) emu_iota()
#undef _mm512_slli_epi32
#undef _mm512_srli_epi32
#define _mm512_slli_epi32 emu_slli_epi32
#define _mm512_srli_epi32 emu_srli_epi32
#undef _mm512_slli_epi16
#undef _mm512_srli_epi16
#undef _mm512_srai_epi16
#define _mm512_slli_epi16         emu_slli_epi16
#define _mm512_srli_epi16         emu_srli_epi16
#define _mm512_srai_epi16         emu_srai_epi16
#define _mm512_cvtepu8_epi16      emu_cvtepu8_epi16
#define _mm512_cvtepi8_epi16      emu_cvtepi8_epi16
#define _mm512_cvtusepi16_epi8    emu_cvtusepi16_epi8
#define _mm512_permutex2var_epi16 emu_permutex2var_epi16
#define _mm512_permutex2var_ps    emu_permutex2var_ps
#undef _mm512_mask_blend_epi16
#define _mm512_mask_blend_epi16 emu_mask_blend_epi16
#define _mm512_mask_blend_epi32 emu_mask_blend_epi32
#undef _mm512_cmp_ps_mask
#define _mm512_cmp_ps_mask      emu_cmp_ps_mask
#define _mm512_reduce_max_epi32 emu_reduce_max_epi32
#define _mm512_setzero_pd       emu_setzero_pd
#define _mm512_cvtps_pd         emu_cvtps_pd
#define _mm512_fmadd_pd         emu_fmadd_pd
#define _mm512_castps512_ps256  emu_castps512_ps256
#undef _mm512_extractf32x8_ps
#define _mm512_extractf32x8_ps emu_extractf32x8_ps
#undef _CMP_UNORD_Q
#undef _CMP_EQ_OQ
#undef _MM_FROUND_TO_NEAREST_INT
#define _CMP_UNORD_Q              EMU_UNORD
#define _CMP_EQ_OQ                EMU_EQ
#define _MM_FROUND_TO_NEAREST_INT 0

#define ST_AVX512_EMULATED
#define st_optim_avx512_kernels emulated_kernels
extern const struct st_optim_kernels emulated_kernels;
#include "cpu_optim/optim_avx512.c"

static void check_update_equal(int optim, int format, size_t n, bool is_wild)
{
	const struct strata_optim_cfg cfg = optim_cfg(optim);
	struct strata_optim_step s;
	struct bank a, b;

	step_prepare(&s, &cfg, 3, 0.37);
	bank_init(&a, &cfg, optim_format(format), n, 3);
	bank_init(&b, &cfg, optim_format(format), n, 3);
	a.r.first = b.r.first = 5 * STRATA_NUMERIC_TILE;
	bank_fill(&a, n, is_wild);
	bank_fill(&b, n, is_wild);
	for (int k = 0; k < 2; k++) {
		bank_update_by(&a, &s, &st_optim_scalar_kernels);
		bank_update_by(&b, &s, &emulated_kernels);
	}
	bank_check_equal(&a, &b, optim_name(optim));
	bank_check_guards(&b);
	bank_fini(&a);
	bank_fini(&b);
}

START_TEST(update_is_bit_equal)
{
	static const size_t lengths[] = { 0, 1, 15, 16, 17, 128, 129, 400, 4095, 4096, 4097 };

	for (int o = 0; o < NR_OPTIMS; o++)
		for (int f = 0; f < NR_FORMATS; f++)
			for (size_t l = 0; l < ST_ARRAY_LEN(lengths); l++)
				if (lengths[l] < 4000 || f % 3 == 1 || o == 0)
					check_update_equal(o, f, lengths[l], (o + f + l) & 1);
}
END_TEST

START_TEST(sums_and_conversions_are_bit_equal)
{
	enum { N = 2 * STRATA_NUMERIC_TILE + 100 };
	float *in = need(N * sizeof(float)), *out[2];
	double leaf[2][3];

	rng_seed(2);
	for (size_t i = 0; i < N; i++)
		in[i] = any_float();
	for (int k = 0; k < 2; k++)
		out[k] = need(N * sizeof(float));
	for (int from = STRATA_GRADS_F32; from <= STRATA_GRADS_F16; from++)
		for (int to = STRATA_GRADS_F32; to <= STRATA_GRADS_F16; to++) {
			st_optim_scalar_kernels.sums(N, in, (enum strata_optim_grads)from, out[0],
						     (enum strata_optim_grads)to, leaf[0]);
			emulated_kernels.sums(N, in, (enum strata_optim_grads)from, out[1],
					      (enum strata_optim_grads)to, leaf[1]);
			ck_assert_int_eq(memcmp(out[0], out[1], N * sizeof(float)), 0);
			for (int t = 0; t < 3; t++)
				ck_assert(leaf[0][t] == leaf[1][t] ||
					  (isnan(leaf[0][t]) && isnan(leaf[1][t])));
		}
	st_optim_scalar_kernels.split(N, in, (uint16_t *)out[0], (int16_t *)out[0] + N);
	emulated_kernels.split(N, in, (uint16_t *)out[1], (int16_t *)out[1] + N);
	ck_assert_int_eq(memcmp(out[0], out[1], N * sizeof(float)), 0);
	st_optim_scalar_kernels.join(N, (uint16_t *)in, (int16_t *)in + N, out[0]);
	emulated_kernels.join(N, (uint16_t *)in, (int16_t *)in + N, out[1]);
	ck_assert_int_eq(memcmp(out[0], out[1], N * sizeof(float)), 0);
	st_optim_scalar_kernels.round(N, in, (uint16_t *)out[0]);
	emulated_kernels.round(N, in, (uint16_t *)out[1]);
	ck_assert_int_eq(memcmp(out[0], out[1], N * sizeof(float)), 0);
	free(in);
	free(out[0]);
	free(out[1]);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("optim avx512");
	TCase *t = tcase_create("emulated");
	SRunner *r;
	int failed;

	tcase_set_timeout(t, 0);
	tcase_add_test(t, update_is_bit_equal);
	tcase_add_test(t, sums_and_conversions_are_bit_equal);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
