/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu/host/simd.h - one vector of VL floats on AVX-512, AVX2 or whatever the compiler has.
 *
 * Layer:    gpu/host; included by kernels_body.h only, once per instruction set
 * Hardware: AVX-512 F/BW/DQ/VL: 16 lanes; AVX2 + FMA + F16C: 8; otherwise 4 (SSE2, NEON), without
 * FMA
 *
 * A tail shorter than a vector is loaded into zeroed lanes, goes through the same instructions and
 * is stored in part, so an element's bits do not depend on where in the array it stands.
 */
#ifndef GPU_HOST_SIMD_H
#define GPU_HOST_SIMD_H

#include "core/dtype.h"

#define ST_INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)

#include <immintrin.h>
#define VL 16
typedef __m512 vf;

ST_INLINE vf vf_set1(float x)
{
	return _mm512_set1_ps(x);
}

ST_INLINE vf vf_load(const float *p)
{
	return _mm512_loadu_ps(p);
}

ST_INLINE void vf_store(float *p, vf x)
{
	_mm512_storeu_ps(p, x);
}

ST_INLINE vf vf_fma(vf a, vf b, vf c)
{
	return _mm512_fmadd_ps(a, b, c);
}

/* a > b ? a : b; a NaN in either operand gives b */
ST_INLINE vf vf_max(vf a, vf b)
{
	return _mm512_max_ps(a, b);
}

ST_INLINE vf vf_min(vf a, vf b)
{
	return _mm512_min_ps(a, b);
}

/* x < lo ? 0 : y */
ST_INLINE vf vf_zero_below(vf x, vf lo, vf y)
{
	return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, lo, _CMP_NLT_UQ), y);
}

/* 2^n, where t = n + 1.5 * 2^23 and -126 <= n <= 127 */
ST_INLINE vf vf_pow2(vf t)
{
	__m512i e = _mm512_slli_epi32(_mm512_castps_si512(t), 23);

	return _mm512_castsi512_ps(_mm512_add_epi32(e, _mm512_set1_epi32(0x3f800000)));
}

ST_INLINE vf vf_load_bf16(const uint16_t *p)
{
	__m512i u = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));

	return _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
}

ST_INLINE void vf_store_bf16(uint16_t *p, vf x)
{
	__m512i u = _mm512_castps_si512(x);
	__m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
	__m512i r = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
	__m512i sign = _mm512_and_si512(u, _mm512_set1_epi32((int)0x80000000u));
	__m512i nan = _mm512_or_si512(sign, _mm512_set1_epi32(0x7fc00000));

	r = _mm512_mask_mov_epi32(r, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), nan);
	_mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16)));
}

ST_INLINE vf vf_load_f16(const uint16_t *p)
{
	return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

ST_INLINE void vf_store_f16(uint16_t *p, vf x)
{
	_mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include <immintrin.h>
#define VL 8
typedef __m256 vf;

ST_INLINE vf vf_set1(float x)
{
	return _mm256_set1_ps(x);
}

ST_INLINE vf vf_load(const float *p)
{
	return _mm256_loadu_ps(p);
}

ST_INLINE void vf_store(float *p, vf x)
{
	_mm256_storeu_ps(p, x);
}

ST_INLINE vf vf_fma(vf a, vf b, vf c)
{
	return _mm256_fmadd_ps(a, b, c);
}

/* a > b ? a : b; a NaN in either operand gives b */
ST_INLINE vf vf_max(vf a, vf b)
{
	return _mm256_max_ps(a, b);
}

ST_INLINE vf vf_min(vf a, vf b)
{
	return _mm256_min_ps(a, b);
}

/* x < lo ? 0 : y */
ST_INLINE vf vf_zero_below(vf x, vf lo, vf y)
{
	return _mm256_and_ps(_mm256_cmp_ps(x, lo, _CMP_NLT_UQ), y);
}

/* 2^n, where t = n + 1.5 * 2^23 and -126 <= n <= 127 */
ST_INLINE vf vf_pow2(vf t)
{
	__m256i e = _mm256_slli_epi32(_mm256_castps_si256(t), 23);

	return _mm256_castsi256_ps(_mm256_add_epi32(e, _mm256_set1_epi32(0x3f800000)));
}

ST_INLINE vf vf_load_bf16(const uint16_t *p)
{
	__m256i u = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));

	return _mm256_castsi256_ps(_mm256_slli_epi32(u, 16));
}

ST_INLINE void vf_store_bf16(uint16_t *p, vf x)
{
	__m256i u = _mm256_castps_si256(x);
	__m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
	__m256i r = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
	__m256i sign = _mm256_and_si256(u, _mm256_set1_epi32((int)0x80000000u));
	__m256i nan = _mm256_or_si256(sign, _mm256_set1_epi32(0x7fc00000));
	__m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));

	r = _mm256_srli_epi32(_mm256_blendv_epi8(r, nan, is_nan), 16);
	r = _mm256_permute4x64_epi64(_mm256_packus_epi32(r, r), 0x08);
	_mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(r));
}

ST_INLINE vf vf_load_f16(const uint16_t *p)
{
	return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

ST_INLINE void vf_store_f16(uint16_t *p, vf x)
{
	_mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

#else

#define VL 4
typedef float vf __attribute__((vector_size(16)));
typedef uint32_t vu __attribute__((vector_size(16)));

ST_INLINE vf vf_set1(float x)
{
	return (vf){ x, x, x, x };
}

ST_INLINE vf vf_load(const float *p)
{
	vf x;

	memcpy(&x, p, sizeof(x));
	return x;
}

ST_INLINE void vf_store(float *p, vf x)
{
	memcpy(p, &x, sizeof(x));
}

ST_INLINE vf vf_fma(vf a, vf b, vf c)
{
	return a * b + c;
}

ST_INLINE vf vf_select(vu mask, vf a, vf b)
{
	return (vf)((mask & (vu)a) | (~mask & (vu)b));
}

/* a > b ? a : b; a NaN in either operand gives b */
ST_INLINE vf vf_max(vf a, vf b)
{
	return vf_select((vu)(a > b), a, b);
}

ST_INLINE vf vf_min(vf a, vf b)
{
	return vf_select((vu)(a < b), a, b);
}

/* x < lo ? 0 : y */
ST_INLINE vf vf_zero_below(vf x, vf lo, vf y)
{
	return (vf)(~(vu)(x < lo) & (vu)y);
}

/* 2^n, where t = n + 1.5 * 2^23 and -126 <= n <= 127 */
ST_INLINE vf vf_pow2(vf t)
{
	return (vf)(((vu)t << 23) + 0x3f800000u);
}

ST_INLINE vf vf_load_bf16(const uint16_t *p)
{
	return (vf){ st_bf16_f32(p[0]), st_bf16_f32(p[1]), st_bf16_f32(p[2]), st_bf16_f32(p[3]) };
}

ST_INLINE void vf_store_bf16(uint16_t *p, vf x)
{
	for (int i = 0; i < VL; i++)
		p[i] = st_f32_bf16(x[i]);
}

ST_INLINE vf vf_load_f16(const uint16_t *p)
{
	return (vf){ st_f16_f32(p[0]), st_f16_f32(p[1]), st_f16_f32(p[2]), st_f16_f32(p[3]) };
}

ST_INLINE void vf_store_f16(uint16_t *p, vf x)
{
	for (int i = 0; i < VL; i++)
		p[i] = st_f32_f16(x[i]);
}

#endif

/* The tails: out of line, so that loops keep their constants in registers. */
#define ST_TAIL static __attribute__((noinline, cold, unused))

ST_TAIL vf vf_get_tail(enum st_dtype dt, const void *p, size_t n)
{
	float lane[VL] = { 0 };

	for (size_t j = 0; j < n; j++)
		lane[j] = st_elem_f32(dt, p, j);
	return vf_load(lane);
}

ST_TAIL void vf_put_tail(enum st_dtype dt, void *p, size_t n, vf x)
{
	float lane[VL];

	vf_store(lane, x);
	for (size_t j = 0; j < n; j++)
		st_elem_set(dt, p, j, lane[j]);
}

ST_TAIL vf vf_inside_tail(vf x, size_t n, float out)
{
	float lane[VL];

	vf_store(lane, x);
	for (size_t j = n; j < VL; j++)
		lane[j] = out;
	return vf_load(lane);
}

/* Elements i .. i+VL-1 of an array of n of one dtype as floats; lanes beyond n are 0. */
ST_INLINE vf vf_get(enum st_dtype dt, const void *p, size_t i, size_t n)
{
	const uint16_t *h = (const uint16_t *)p + i;
	const float *f = (const float *)p + i;

	if (__builtin_expect(i + VL > n, 0))
		return vf_get_tail(dt, dt == ST_F32 ? (const void *)f : (const void *)h, n - i);
	if (dt == ST_F32)
		return vf_load(f);
	return dt == ST_BF16 ? vf_load_bf16(h) : vf_load_f16(h);
}

/* The other way round: 16 bits are rounded to nearest even, NaN stays NaN. */
ST_INLINE void vf_put(enum st_dtype dt, void *p, size_t i, size_t n, vf x)
{
	uint16_t *h = (uint16_t *)p + i;
	float *f = (float *)p + i;

	if (__builtin_expect(i + VL > n, 0))
		vf_put_tail(dt, dt == ST_F32 ? (void *)f : (void *)h, n - i, x);
	else if (dt == ST_F32)
		vf_store(f, x);
	else if (dt == ST_BF16)
		vf_store_bf16(h, x);
	else
		vf_store_f16(h, x);
}

/* Lanes of element i and on that are inside an array of n keep their value, the others get `out`.
 */
ST_INLINE vf vf_inside(vf x, size_t i, size_t n, float out)
{
	return __builtin_expect(i + VL > n, 0) ? vf_inside_tail(x, n - i, out) : x;
}

/* Sum and maximum of the lanes, as a fixed tree. A NaN lane makes the sum NaN. */
ST_INLINE float vf_hsum(vf x)
{
	float lane[VL];

	vf_store(lane, x);
	for (int w = VL / 2; w; w /= 2)
		for (int j = 0; j < w; j++)
			lane[j] += lane[j + w];
	return lane[0];
}

ST_INLINE float vf_hmax(vf x)
{
	float lane[VL];

	vf_store(lane, x);
	for (int w = VL / 2; w; w /= 2)
		for (int j = 0; j < w; j++)
			lane[j] = lane[j] > lane[j + w] ? lane[j] : lane[j + w];
	return lane[0];
}

/*
 * exp(x), relative error below 2e-7 for -87.3 <= x <= 88.3; 0 below that (also -inf), saturated
 * above, NaN for NaN. x = n ln 2 + r with |r| <= ln 2 / 2, a polynomial of degree 6 in r, times
 * 2^n. Tested: tests/test_device.c, through the operations that use it.
 */
ST_INLINE vf vf_exp(vf x0)
{
	const vf lo = vf_set1(-87.3f), magic = vf_set1(12582912.0f); /* 1.5 * 2^23 */
	vf x, t, n, r, p;

	x = vf_min(vf_set1(88.3f), x0); /* constant first: a NaN in x0 passes */
	x = vf_max(lo, x);
	t = vf_fma(x, vf_set1(1.44269504088896341f), magic);
	n = t - magic;
	r = vf_fma(n, vf_set1(-0.693359375f), x); /* ln 2 in two parts, the first exact in n */
	r = vf_fma(n, vf_set1(2.12194440e-4f), r);
	p = vf_set1(1.9875691500e-4f);
	p = vf_fma(p, r, vf_set1(1.3981999507e-3f));
	p = vf_fma(p, r, vf_set1(8.3334519073e-3f));
	p = vf_fma(p, r, vf_set1(4.1665795894e-2f));
	p = vf_fma(p, r, vf_set1(1.6666665459e-1f));
	p = vf_fma(p, r, vf_set1(5.0000001201e-1f));
	p = vf_fma(p, r * r, r) + vf_set1(1.0f);
	return vf_zero_below(x0, lo, p * vf_pow2(t));
}

#endif
