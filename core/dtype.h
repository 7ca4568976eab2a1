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

#endif
