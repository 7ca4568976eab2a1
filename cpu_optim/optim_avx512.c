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

#define vi_of(x)          _mm512_castps_si512(x)
#define vi_set1(u)        _mm512_set1_epi32((int)(u))
#define vi_add(a, b)      _mm512_add_epi32(a, b)
#define vi_and(a, b)      _mm512_and_si512(a, b)
#define vi_or(a, b)       _mm512_or_si512(a, b)
#define vi_sub(a, b)      _mm512_sub_epi32(a, b)
#define vi_mul(a, b)      _mm512_mullo_epi32(a, b)
#define vi_xor(a, b)      _mm512_xor_si512(a, b)
#define vi_min(a, b)      _mm512_min_epi32(a, b)
#define vi_max(a, b)      _mm512_max_epi32(a, b)
#define vi_shl(a, n)      _mm512_slli_epi32(a, n)
#define vi_shr(a, n)      _mm512_srli_epi32(a, n)
#define vi_iota()         _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
#define vi_max_of(a)      ((uint32_t)_mm512_reduce_max_epi32(a))
#define vi_load_u8(addr)  _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(addr)))
#define vi_load_s8(addr)  _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(addr)))
#define vi_load_u16(addr) _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(addr)))
#define vi_load_s16(addr) _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)(addr)))

static inline vi vi_if_nan(vf x, vi a, vi b)
{
	return _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), b, a);
}

static inline vi vi_if_zero(vf x, vi a, vi b)
{
	return _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_EQ_OQ), b,
				       a);
}

static inline void vi_store_upper16(void *addr, vi a)
{
	_mm256_storeu_si256(addr, _mm512_cvtepi32_epi16(vi_shr(a, 16)));
}

static inline void vi_store_8(void *addr, const vi a[4])
{
	for (size_t k = 0; k < 4; k++)
		_mm_storeu_si128((__m128i *)addr + k, _mm512_cvtusepi32_epi8(a[k]));
}

/* The narrowing truncates: no mask needed. */
static inline void vi_store_16(void *addr, vi a)
{
	_mm256_storeu_si256(addr, _mm512_cvtepi32_epi16(a));
}

struct sq16 {
	__m512d d[2]; /* lanes 8k .. 8k + 7 in d[k] */
};

static inline struct sq16 sq16_zero(void)
{
	__m512d z = _mm512_setzero_pd();

	return (struct sq16){ { z, z } };
}

static inline struct sq16 sq16_add(struct sq16 s, const vf x[1])
{
	__m512d a = _mm512_cvtps_pd(_mm512_castps512_ps256(x[0]));
	__m512d b = _mm512_cvtps_pd(_mm512_extractf32x8_ps(x[0], 1));

	/* The product is exact in double: fused or not, the same bits. */
	s.d[0] = _mm512_fmadd_pd(a, a, s.d[0]);
	s.d[1] = _mm512_fmadd_pd(b, b, s.d[1]);
	return s;
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
