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

#define vi_of(x)          _mm256_castps_si256(x)
#define vi_set1(u)        _mm256_set1_epi32((int)(u))
#define vi_add(a, b)      _mm256_add_epi32(a, b)
#define vi_and(a, b)      _mm256_and_si256(a, b)
#define vi_or(a, b)       _mm256_or_si256(a, b)
#define vi_sub(a, b)      _mm256_sub_epi32(a, b)
#define vi_mul(a, b)      _mm256_mullo_epi32(a, b)
#define vi_xor(a, b)      _mm256_xor_si256(a, b)
#define vi_min(a, b)      _mm256_min_epi32(a, b)
#define vi_max(a, b)      _mm256_max_epi32(a, b)
#define vi_shl(a, n)      _mm256_slli_epi32(a, n)
#define vi_shr(a, n)      _mm256_srli_epi32(a, n)
#define vi_iota()         _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)
#define vi_load_u8(addr)  _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(addr)))
#define vi_load_s8(addr)  _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(addr)))
#define vi_load_u16(addr) _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(addr)))
#define vi_load_s16(addr) _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)(addr)))

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

static inline void vi_store_upper16(void *addr, vi a)
{
	vi upper = vi_shr(a, 16);
	__m128i packed =
		_mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1));

	_mm_storeu_si128(addr, packed);
}

/* Both packs saturate and work within halves; the permutation puts the runs of 4 back in order. */
static inline void vi_store_8(void *addr, const vi a[4])
{
	vi x = _mm256_packus_epi16(_mm256_packus_epi32(a[0], a[1]),
				   _mm256_packus_epi32(a[2], a[3]));

	x = _mm256_permutevar8x32_epi32(x, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
	_mm256_storeu_si256(addr, x);
}

/* The pack saturates, so the upper halves are cleared first. */
static inline void vi_store_16(void *addr, vi a)
{
	vi low = vi_and(a, vi_set1(0xffffu));
	__m128i packed =
		_mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));

	_mm_storeu_si128(addr, packed);
}

struct sq16 {
	__m256d d[4]; /* lanes 4k .. 4k + 3 in d[k] */
};

static inline struct sq16 sq16_zero(void)
{
	__m256d z = _mm256_setzero_pd();

	return (struct sq16){ { z, z, z, z } };
}

static inline struct sq16 sq16_add(struct sq16 s, const vf x[2])
{
	__m256d a = _mm256_cvtps_pd(_mm256_castps256_ps128(x[0]));
	__m256d b = _mm256_cvtps_pd(_mm256_extractf128_ps(x[0], 1));
	__m256d c = _mm256_cvtps_pd(_mm256_castps256_ps128(x[1]));
	__m256d d = _mm256_cvtps_pd(_mm256_extractf128_ps(x[1], 1));

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
