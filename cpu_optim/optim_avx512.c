/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpu_optim/optim_avx512.c - vector kernels of 16 lanes.
 *
 * Layer:    cpu_optim
 * Hardware: AVX-512 F, BW, DQ, VL (the build compiles this file for them); elsewhere an empty table
 *
 * No VCVTNEPS2BF16 here: it flushes denormals, and bf16 is made in integers (core/dtype.h).
 */
#include "cpu_optim/kernels.h"

#if defined(ST_AVX512_EMULATED) || (defined(__AVX512F__) && defined(__AVX512BW__) &&               \
				    defined(__AVX512DQ__) && defined(__AVX512VL__))
#ifndef ST_AVX512_EMULATED /* by tests/test_optim_avx512.c */
#include <immintrin.h>
#endif

#define VLEN        16
#define VEC_KERNELS st_optim_avx512_kernels

typedef __m512 vf;
typedef __m512i vi;

#define vf_load(addr)     _mm512_loadu_ps(addr)
#define vf_store(addr, x) _mm512_storeu_ps(addr, x)
#define vf_set1(f)        _mm512_set1_ps(f)
#define vf_add(a, b)      _mm512_add_ps(a, b)
#define vf_sub(a, b)      _mm512_sub_ps(a, b)
#define vf_mul(a, b)      _mm512_mul_ps(a, b)
#define vf_div(a, b)      _mm512_div_ps(a, b)
#define vf_sqrt(a)        _mm512_sqrt_ps(a)
#define vf_fma(a, b, c)   _mm512_fmadd_ps(a, b, c)
#define vf_of(u)          _mm512_castsi512_ps(u)
#define vf_load_f16(addr) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(addr)))
#define vf_store_f16(addr, x)                                                                      \
	_mm256_storeu_si256((__m256i *)(addr), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT))

#define vf_any_nan(a, b) (_mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q) != 0)

#define vi_of(x)          _mm512_castps_si512(x)
#define vi_load(addr)     _mm512_loadu_si512(addr)
#define vi_store(addr, x) _mm512_storeu_si512(addr, x)
#define vi_set1(u)        _mm512_set1_epi32((int)(u))
#define vi_add(a, b)      _mm512_add_epi32(a, b)
#define vi_and(a, b)      _mm512_and_si512(a, b)
#define vi_or(a, b)       _mm512_or_si512(a, b)
#define vi_mul(a, b)      _mm512_mullo_epi32(a, b)
#define vi_xor(a, b)      _mm512_xor_si512(a, b)
#define vi_min(a, b)      _mm512_min_epu32(a, b)
#define vi_max(a, b)      _mm512_max_epu32(a, b)
#define vi_shl(a, n)      _mm512_slli_epi32(a, n)
#define vi_shr(a, n)      _mm512_srli_epi32(a, n)
#define vi_iota()         _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
#define vi_max_of(a)      ((uint32_t)_mm512_reduce_max_epi32(a))

#define vw_set1(u)       _mm512_set1_epi16((short)(u))
#define vw_add(a, b)     _mm512_add_epi16(a, b)
#define vw_sub(a, b)     _mm512_sub_epi16(a, b)
#define vw_min(a, b)     _mm512_min_epu16(a, b)
#define vw_max(a, b)     _mm512_max_epu16(a, b)
#define vw_shl(a, n)     _mm512_slli_epi16(a, n)
#define vw_shr(a, n)     _mm512_srli_epi16(a, n)
#define vw_sra(a, n)     _mm512_srai_epi16(a, n)
#define vw_blend(a, b)   _mm512_mask_blend_epi16(0xaaaaaaaau, a, b)
#define vw_load_u8(addr) _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(addr)))
#define vw_load_s8(addr) _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(addr)))

/* Words or lanes of two vectors by number, those of the second after those of the first. */
#define STEPS4(from, step) (from), (from) + (step), (from) + 2 * (step), (from) + 3 * (step)
#define STEPS16(from, step)                                                                        \
	STEPS4(from, step), STEPS4((from) + 4 * (step), step), STEPS4((from) + 8 * (step), step),  \
		STEPS4((from) + 12 * (step), step)
#define ZIPPED4(from, second)                                                                      \
	(from), (second) + (from), (from) + 1, (second) + (from) + 1, (from) + 2,                  \
		(second) + (from) + 2, (from) + 3, (second) + (from) + 3
static const uint16_t even_words[32] = { STEPS16(0, 2), STEPS16(32, 2) };
static const uint16_t odd_words[32] = { STEPS16(1, 2), STEPS16(33, 2) };
static const uint16_t zipped_words[2][32] = {
	{ ZIPPED4(0, 32), ZIPPED4(4, 32), ZIPPED4(8, 32), ZIPPED4(12, 32) },
	{ ZIPPED4(16, 32), ZIPPED4(20, 32), ZIPPED4(24, 32), ZIPPED4(28, 32) },
};
static const uint32_t even_lanes[16] = { STEPS16(0, 2) };
static const uint32_t odd_lanes[16] = { STEPS16(1, 2) };
static const uint32_t zipped_lanes[2][16] = {
	{ ZIPPED4(0, 16), ZIPPED4(4, 16) },
	{ ZIPPED4(8, 16), ZIPPED4(12, 16) },
};

#define vw_low(a, b)  _mm512_permutex2var_epi16(a, vi_load(even_words), b)
#define vw_high(a, b) _mm512_permutex2var_epi16(a, vi_load(odd_words), b)
#define vw_zip0(a, b) _mm512_permutex2var_epi16(a, vi_load(zipped_words[0]), b)
#define vw_zip1(a, b) _mm512_permutex2var_epi16(a, vi_load(zipped_words[1]), b)
#define vw_widen0(a)  vw_zip0(vi_set1(0), a)
#define vw_widen1(a)  vw_zip1(vi_set1(0), a)
#define vf_even(a, b) _mm512_permutex2var_ps(a, vi_load(even_lanes), b)
#define vf_odd(a, b)  _mm512_permutex2var_ps(a, vi_load(odd_lanes), b)
#define vf_zip0(a, b) _mm512_permutex2var_ps(a, vi_load(zipped_lanes[0]), b)
#define vf_zip1(a, b) _mm512_permutex2var_ps(a, vi_load(zipped_lanes[1]), b)

static inline vi vi_if_nan(vf x, vi a, vi b)
{
	return _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), b, a);
}

static inline vi vi_if_zero(vf x, vi a, vi b)
{
	return _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_EQ_OQ), b,
				       a);
}

static inline vi vi_keep(vi a)
{
#ifndef ST_AVX512_EMULATED
	__asm__("" : "+v"(a));
#endif
	return a;
}

static inline void vw_store_u8(void *to, vi a, vi b)
{
	_mm256_storeu_si256(to, _mm512_cvtusepi16_epi8(a));
	_mm256_storeu_si256((__m256i *)to + 1, _mm512_cvtusepi16_epi8(b));
}

struct sq16 {
	__m512d d[2]; /* lanes 8k .. 8k + 7 in d[k] */
};

static inline struct sq16 sq16_zero(void)
{
	__m512d z = _mm512_setzero_pd();

	return (struct sq16){ { z, z } };
}

static inline struct sq16 sq16_add16(struct sq16 s, vf x)
{
	__m512d a = _mm512_cvtps_pd(_mm512_castps512_ps256(x));
	__m512d b = _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1));

	/* The product is exact in double: fused or not, the same bits. */
	s.d[0] = _mm512_fmadd_pd(a, a, s.d[0]);
	s.d[1] = _mm512_fmadd_pd(b, b, s.d[1]);
	return s;
}

static inline struct sq16 sq16_add(struct sq16 s, vf a, vf b)
{
	return sq16_add16(sq16_add16(s, a), b);
}

static inline void sq16_store(double lane[16], struct sq16 s)
{
	for (size_t k = 0; k < 2; k++)
		_mm512_storeu_pd(lane + 8 * k, s.d[k]);
}

#include "cpu_optim/optim_simd.h"
#else
const struct st_optim_kernels st_optim_avx512_kernels = { 0 };
#endif
