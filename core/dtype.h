/* SPDX-License-Identifier: Apache-2.0 */
/*
 * core/dtype.h - element types, and exact conversions between them in integer arithmetic.
 *
 * Layer:   core
 * Threads: re-entrant
 *
 * A stored bf16 parameter is only ever made by these functions or by the optimizer kernels'
 * equivalents: the VCVTNEPS2BF16 instructions flush denormals and would round differently.
 */
#ifndef CORE_DTYPE_H
#define CORE_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* name, text, bytes per element */
#define ST_DTYPES(X)                                                                               \
	X(F32, "fp32", 4)                                                                          \
	X(BF16, "bf16", 2)                                                                         \
	X(F16, "fp16", 2)

enum st_dtype {
#define ST_X(name, text, bytes) ST_##name,
	ST_DTYPES(ST_X)
#undef ST_X
};

#define ST_DTYPE_COUNT 3u /* for arrays indexed by dtype */

static inline size_t st_dtype_bytes(enum st_dtype t)
{
	return t == ST_F32 ? 4 : 2;
}

static inline const char *st_dtype_name(enum st_dtype t)
{
	static const char *const names[] = {
#define ST_X(name, text, bytes) text,
		ST_DTYPES(ST_X)
#undef ST_X
	};
	return names[t];
}

static inline uint32_t st_f32_bits(float f)
{
	uint32_t u;

	memcpy(&u, &f, sizeof(u));
	return u;
}

static inline float st_bits_f32(uint32_t u)
{
	float f;

	memcpy(&f, &u, sizeof(f));
	return f;
}

static inline float st_bf16_f32(uint16_t b)
{
	return st_bits_f32((uint32_t)b << 16);
}

/* Round to nearest, ties to even; NaN becomes the quiet NaN of its sign. */
static inline uint16_t st_f32_bf16(float f)
{
	uint32_t u = st_f32_bits(f);

	if ((u & 0x7fffffffu) > 0x7f800000u)
		return (uint16_t)((u >> 16 & 0x8000u) | 0x7fc0u);
	return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

/*
 * fp16: the bits that F16C gives, whatever the rounding mode and whether denormals are flushed. A
 * NaN is made quiet and keeps what fits of its payload.
 */

/* Exact for every number. */
static inline float st_f16_f32(uint16_t h)
{
	uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exp = h >> 10 & 31u, mant = h & 0x3ffu;

	if (exp == 31)
		return st_bits_f32(sign | 0x7f800000u | (mant ? 0x400000u : 0) | mant << 13);
	if (exp == 0 && mant != 0) { /* subnormal: mant 2^-24, its leading bit becomes implicit */
		unsigned up = (unsigned)__builtin_clz(mant) - 21;

		return st_bits_f32(sign | (113 - up) << 23 | (mant << up & 0x3ffu) << 13);
	}
	return st_bits_f32(sign | (exp ? (exp + 112) << 23 : 0) | mant << 13);
}

/* Round to nearest, ties to even; from 65520 on infinite, up to 2^-25 zero; subnormals exact. */
static inline uint16_t st_f32_f16(float f)
{
	uint32_t u = st_f32_bits(f), sign = u >> 16 & 0x8000u, mant, drop;

	u &= 0x7fffffffu;
	if (u > 0x7f800000u)
		return (uint16_t)(sign | 0x7e00u | (u >> 13 & 0x3ffu));
	if (u >= 0x477ff000u)
		return (uint16_t)(sign | 0x7c00u);
	if (u >= 0x38800000u) /* 2^-14, the least normal one: a carry runs into the exponent */
		return (uint16_t)(sign | (u - 0x38000000u + 0xfffu + (u >> 13 & 1u)) >> 13);
	if (u <= 0x33000000u)
		return (uint16_t)sign;
	mant = (u & 0x7fffffu) | 0x800000u;
	drop = 126 - (u >> 23); /* bits below 2^-24: 14 to 24 */
	return (uint16_t)(sign | (mant + (1u << (drop - 1)) - 1 + (mant >> drop & 1u)) >> drop);
}

/* Element i of an array of any dtype and any alignment. */
static inline float st_elem_f32(enum st_dtype t, const void *p, size_t i)
{
	const unsigned char *at = (const unsigned char *)p + i * st_dtype_bytes(t);
	uint16_t h;
	float f;

	if (t == ST_F32) {
		memcpy(&f, at, sizeof(f));
		return f;
	}
	memcpy(&h, at, sizeof(h));
	return t == ST_BF16 ? st_bf16_f32(h) : st_f16_f32(h);
}

/* The other way round, rounded to nearest even. */
static inline void st_elem_set(enum st_dtype t, void *p, size_t i, float f)
{
	unsigned char *at = (unsigned char *)p + i * st_dtype_bytes(t);
	uint16_t h;

	if (t == ST_F32) {
		memcpy(at, &f, sizeof(f));
		return;
	}
	h = t == ST_BF16 ? st_f32_bf16(f) : st_f32_f16(f);
	memcpy(at, &h, sizeof(h));
}

#endif
