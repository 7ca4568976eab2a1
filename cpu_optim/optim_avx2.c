/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpu_optim/optim_avx2.c - vector kernels of 8 lanes.
 *
 * Layer:    cpu_optim
 * Hardware: AVX2, FMA, F16C (the build compiles this file for them); elsewhere an empty table
 */
#include "cpu_optim/kernels.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>

#define VLEN        8
#define VEC_KERNELS st_optim_avx2_kernels

typedef __m256 vf;
typedef __m256i vi;

#define vf_load(addr)     _mm256_loadu_ps(addr)
#define vf_store(addr, x) _mm256_storeu_ps(addr, x)
#define vf_set1(f)        _mm256_set1_ps(f)
#define vf_add(a, b)      _mm256_add_ps(a, b)
#define vf_sub(a, b)      _mm256_sub_ps(a, b)
#define vf_mul(a, b)      _mm256_mul_ps(a, b)
#define vf_div(a, b)      _mm256_div_ps(a, b)
#define vf_sqrt(a)        _mm256_sqrt_ps(a)
#define vf_fma(a, b, c)   _mm256_fmadd_ps(a, b, c)
#define vf_of(u)          _mm256_castsi256_ps(u)
#define vf_load_f16(addr) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(addr)))
#define vf_store_f16(addr, x)                                                                      \
	_mm_storeu_si128((__m128i *)(addr), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT))

#define vf_any_nan(a, b) (_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_UNORD_Q)) != 0)

#define vi_of(x)          _mm256_castps_si256(x)
#define vi_load(addr)     _mm256_loadu_si256((const __m256i *)(addr))
#define vi_store(addr, x) _mm256_storeu_si256((__m256i *)(addr), x)
#define vi_set1(u)        _mm256_set1_epi32((int)(u))
#define vi_add(a, b)      _mm256_add_epi32(a, b)
#define vi_and(a, b)      _mm256_and_si256(a, b)
#define vi_or(a, b)       _mm256_or_si256(a, b)
#define vi_mul(a, b)      _mm256_mullo_epi32(a, b)
#define vi_xor(a, b)      _mm256_xor_si256(a, b)
#define vi_min(a, b)      _mm256_min_epu32(a, b)
#define vi_max(a, b)      _mm256_max_epu32(a, b)
#define vi_shl(a, n)      _mm256_slli_epi32(a, n)
#define vi_shr(a, n)      _mm256_srli_epi32(a, n)
#define vi_iota()         _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)

#define vw_set1(u)       _mm256_set1_epi16((short)(u))
#define vw_add(a, b)     _mm256_add_epi16(a, b)
#define vw_sub(a, b)     _mm256_sub_epi16(a, b)
#define vw_min(a, b)     _mm256_min_epu16(a, b)
#define vw_max(a, b)     _mm256_max_epu16(a, b)
#define vw_shl(a, n)     _mm256_slli_epi16(a, n)
#define vw_shr(a, n)     _mm256_srli_epi16(a, n)
#define vw_sra(a, n)     _mm256_srai_epi16(a, n)
#define vw_blend(a, b)   _mm256_blend_epi16(a, b, 0xaa)
#define vw_load_u8(addr) _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(addr)))
#define vw_load_s8(addr) _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(addr)))

/* Packs, unpacks and shuffles work within halves of 16 bytes; a permutation of quarters before or
 * after puts these in order. */
#define QUARTERS_0213(x) _mm256_permute4x64_epi64(x, 0xd8)
#define vw_zip0(a, b)    _mm256_unpacklo_epi16(QUARTERS_0213(a), QUARTERS_0213(b))
#define vw_zip1(a, b)    _mm256_unpackhi_epi16(QUARTERS_0213(a), QUARTERS_0213(b))
#define vw_widen0(a)     _mm256_unpacklo_epi16(_mm256_setzero_si256(), QUARTERS_0213(a))
#define vw_widen1(a)     _mm256_unpackhi_epi16(_mm256_setzero_si256(), QUARTERS_0213(a))
#define vw_high(a, b)    QUARTERS_0213(_mm256_packus_epi32(vi_shr(a, 16), vi_shr(b, 16)))
#define vw_low(a, b)                                                                               \
	QUARTERS_0213(_mm256_packus_epi32(vw_blend(a, _mm256_setzero_si256()),                     \
					  vw_blend(b, _mm256_setzero_si256())))
#define HALVES_FIRST(a, b)  _mm256_permute2f128_ps(a, b, 0x20)
#define HALVES_SECOND(a, b) _mm256_permute2f128_ps(a, b, 0x31)
#define vf_even(a, b)       _mm256_shuffle_ps(HALVES_FIRST(a, b), HALVES_SECOND(a, b), 0x88)
#define vf_odd(a, b)        _mm256_shuffle_ps(HALVES_FIRST(a, b), HALVES_SECOND(a, b), 0xdd)
#define vf_zip0(a, b)       HALVES_FIRST(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b))
#define vf_zip1(a, b)       HALVES_SECOND(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b))

static inline vi vi_if_nan(vf x, vi a, vi b)
{
	return vi_of(_mm256_blendv_ps(vf_of(b), vf_of(a), _mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
}

static inline vi vi_if_zero(vf x, vi a, vi b)
{
	return vi_of(_mm256_blendv_ps(vf_of(b), vf_of(a),
				      _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_EQ_OQ)));
}

static inline uint32_t vi_max_of(vi a)
{
	__m128i x = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));

	x = _mm_max_epi32(x, _mm_shuffle_epi32(x, _MM_SHUFFLE(1, 0, 3, 2)));
	x = _mm_max_epi32(x, _mm_shuffle_epi32(x, _MM_SHUFFLE(2, 3, 0, 1)));
	return (uint32_t)_mm_cvtsi128_si32(x);
}

static inline vi vi_keep(vi a)
{
	__asm__("" : "+x"(a));
	return a;
}

static inline void vw_store_u8(void *to, vi a, vi b)
{
	vi_store(to, QUARTERS_0213(_mm256_packus_epi16(a, b)));
}

struct sq16 {
	__m256d d[4]; /* lanes 4k .. 4k + 3 in d[k] */
};

static inline struct sq16 sq16_zero(void)
{
	__m256d z = _mm256_setzero_pd();

	return (struct sq16){ { z, z, z, z } };
}

static inline struct sq16 sq16_add(struct sq16 s, vf x, vf y)
{
	__m256d a = _mm256_cvtps_pd(_mm256_castps256_ps128(x));
	__m256d b = _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1));
	__m256d c = _mm256_cvtps_pd(_mm256_castps256_ps128(y));
	__m256d d = _mm256_cvtps_pd(_mm256_extractf128_ps(y, 1));

	/* The product is exact in double: fused or not, the same bits. */
	s.d[0] = _mm256_fmadd_pd(a, a, s.d[0]);
	s.d[1] = _mm256_fmadd_pd(b, b, s.d[1]);
	s.d[2] = _mm256_fmadd_pd(c, c, s.d[2]);
	s.d[3] = _mm256_fmadd_pd(d, d, s.d[3]);
	return s;
}

static inline void sq16_store(double lane[16], struct sq16 s)
{
	for (size_t k = 0; k < 4; k++)
		_mm256_storeu_pd(lane + 4 * k, s.d[k]);
}

#include "cpu_optim/optim_simd.h"
#else
const struct st_optim_kernels st_optim_avx2_kernels = { 0 };
#endif
