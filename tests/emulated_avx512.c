/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/emulated_avx512.c - the host kernels for AVX-512, run on AVX2: 16 lanes as two halves.
 *
 * The very text of kernels_body.h and simd.h with their AVX-512 branches, where each AVX-512
 * intrinsic that they use is a function of the same meaning here. So tiles of 12 x 32, tails of 16
 * lanes and packing are tested on processors without AVX-512; the instructions themselves are not.
 */
#if defined(__x86_64__)

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

union wide {
	__m512 f;
	__m512i i;
	__m256 fh[2];
	__m256i ih[2];
	uint32_t u[16];
};

#define FLOATS(lo, hi) ((union wide){ .fh = { lo, hi } }.f)
#define INTS(lo, hi)   ((union wide){ .ih = { lo, hi } }.i)
#define F(x, h)        ((union wide){ .f = (x) }.fh[h])
#define I(x, h)        ((union wide){ .i = (x) }.ih[h])

INLINE __m512 emu_set1_ps(float x)
{
	return FLOATS(_mm256_set1_ps(x), _mm256_set1_ps(x));
}

INLINE __m512 emu_loadu_ps(const float *p)
{
	return FLOATS(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8));
}

INLINE void emu_storeu_ps(float *p, __m512 x)
{
	_mm256_storeu_ps(p, F(x, 0));
	_mm256_storeu_ps(p + 8, F(x, 1));
}

INLINE __m512 emu_fmadd_ps(__m512 a, __m512 b, __m512 c)
{
	return FLOATS(_mm256_fmadd_ps(F(a, 0), F(b, 0), F(c, 0)),
		      _mm256_fmadd_ps(F(a, 1), F(b, 1), F(c, 1)));
}

INLINE __m512 emu_max_ps(__m512 a, __m512 b)
{
	return FLOATS(_mm256_max_ps(F(a, 0), F(b, 0)), _mm256_max_ps(F(a, 1), F(b, 1)));
}

INLINE __m512 emu_min_ps(__m512 a, __m512 b)
{
	return FLOATS(_mm256_min_ps(F(a, 0), F(b, 0)), _mm256_min_ps(F(a, 1), F(b, 1)));
}

INLINE __m512 emu_select(unsigned mask, __m512 no, __m512 yes)
{
	union wide a = { .f = no }, b = { .f = yes };

	for (int j = 0; j < 16; j++)
		a.u[j] = mask >> j & 1 ? b.u[j] : a.u[j];
	return a.f;
}

#define emu_cmp_ps_mask(a, b, how)                                                                 \
	((unsigned)_mm256_movemask_ps(_mm256_cmp_ps(F(a, 0), F(b, 0), how)) |                      \
	 (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(F(a, 1), F(b, 1), how)) << 8)
#define emu_maskz_mov_ps(mask, x) emu_select(mask, emu_set1_ps(0.0f), x)
#define emu_mask_mov_epi32(no, mask, yes)                                                          \
	((union wide){                                                                             \
		.f = emu_select(mask, (union wide){ .i = (no) }.f, (union wide){ .i = (yes) }.f) } \
		 .i)
#define emu_castps_si512(x)  ((union wide){ .f = (x) }.i)
#define emu_castsi512_ps(x)  ((union wide){ .i = (x) }.f)
#define emu_slli_epi32(x, n) INTS(_mm256_slli_epi32(I(x, 0), n), _mm256_slli_epi32(I(x, 1), n))
#define emu_srli_epi32(x, n) INTS(_mm256_srli_epi32(I(x, 0), n), _mm256_srli_epi32(I(x, 1), n))

INLINE __m512i emu_set1_epi32(int x)
{
	return INTS(_mm256_set1_epi32(x), _mm256_set1_epi32(x));
}

INLINE __m512i emu_add_epi32(__m512i a, __m512i b)
{
	return INTS(_mm256_add_epi32(I(a, 0), I(b, 0)), _mm256_add_epi32(I(a, 1), I(b, 1)));
}

INLINE __m512i emu_and_si512(__m512i a, __m512i b)
{
	return INTS(_mm256_and_si256(I(a, 0), I(b, 0)), _mm256_and_si256(I(a, 1), I(b, 1)));
}

INLINE __m512i emu_or_si512(__m512i a, __m512i b)
{
	return INTS(_mm256_or_si256(I(a, 0), I(b, 0)), _mm256_or_si256(I(a, 1), I(b, 1)));
}

INLINE __m512i emu_cvtepu16_epi32(__m256i x)
{
	return INTS(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(x)),
		    _mm256_cvtepu16_epi32(_mm256_extracti128_si256(x, 1)));
}

INLINE __m256i emu_cvtepi32_epi16(__m512i x) /* the low half of each */
{
	union wide w = { .i = x };
	uint16_t h[16];

	for (int j = 0; j < 16; j++)
		h[j] = (uint16_t)w.u[j];
	return _mm256_loadu_si256((const __m256i *)h);
}

INLINE __m512 emu_cvtph_ps(__m256i x)
{
	return FLOATS(_mm256_cvtph_ps(_mm256_castsi256_si128(x)),
		      _mm256_cvtph_ps(_mm256_extracti128_si256(x, 1)));
}

#define emu_cvtps_ph(x, how)                                                                       \
	_mm256_set_m128i(_mm256_cvtps_ph(F(x, 1), how), _mm256_cvtps_ph(F(x, 0), how))

/* Some of them are macros where the compiler does not inline. */
#undef _mm512_slli_epi32
#undef _mm512_srli_epi32
#undef _mm512_cmp_ps_mask
#undef _mm512_cvtps_ph

#define _mm512_set1_ps        emu_set1_ps
#define _mm512_loadu_ps       emu_loadu_ps
#define _mm512_storeu_ps      emu_storeu_ps
#define _mm512_fmadd_ps       emu_fmadd_ps
#define _mm512_max_ps         emu_max_ps
#define _mm512_min_ps         emu_min_ps
#define _mm512_cmp_ps_mask    emu_cmp_ps_mask
#define _mm512_maskz_mov_ps   emu_maskz_mov_ps
#define _mm512_mask_mov_epi32 emu_mask_mov_epi32
#define _mm512_castps_si512   emu_castps_si512
#define _mm512_castsi512_ps   emu_castsi512_ps
#define _mm512_slli_epi32     emu_slli_epi32
#define _mm512_srli_epi32     emu_srli_epi32
#define _mm512_set1_epi32     emu_set1_epi32
#define _mm512_add_epi32      emu_add_epi32
#define _mm512_and_si512      emu_and_si512
#define _mm512_or_si512       emu_or_si512
#define _mm512_cvtepu16_epi32 emu_cvtepu16_epi32
#define _mm512_cvtepi32_epi16 emu_cvtepi32_epi16
#define _mm512_cvtph_ps       emu_cvtph_ps
#define _mm512_cvtps_ph       emu_cvtps_ph

#define __AVX512F__      1
#define __AVX512BW__     1
#define __AVX512DQ__     1
#define __AVX512VL__     1
#define ST_KERNELS_TABLE st_host_kernels_emulated
#define ST_KERNELS_ISA   "avx512, emulated"
#include "gpu/host/kernels_body.h"

#endif
