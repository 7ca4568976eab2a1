/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpu_optim/kernels.h - what one instruction set provides to optim.c.
 *
 * Layer:   cpu_optim (internal)
 * Threads: re-entrant
 *
 * include/strata/optim.h is the interface of this folder. optim.c checks, sets the environment and
 * dispatches; optim_scalar.c is the reference; optim_simd.h holds the vector kernels once,
 * instantiated by optim_avx2.c and optim_avx512.c.
 *
 * A kernel assumes the floating-point environment that optim.c sets around each call: round to
 * nearest, no flush to zero, denormals read as they are, exceptions masked. Arguments are checked
 * there too. Arrays may have any alignment here and any length.
 */
#ifndef CPU_OPTIM_KERNELS_H
#define CPU_OPTIM_KERNELS_H

#include "core/dtype.h"
#include "core/optim_factors.h"
#include "core/status.h"
#include "strata/optim.h"

static inline bool st_rule_has_m(enum st_rule r)
{
	return r != ST_RULE_ADAGRAD && r != ST_RULE_SGD;
}

static inline bool st_rule_has_v(enum st_rule r)
{
	return r == ST_RULE_ADAMW || r == ST_RULE_ADAM || r == ST_RULE_ADAGRAD;
}

/* Decay enters the gradient. */
static inline bool st_rule_is_l2(enum st_rule r)
{
	return r != ST_RULE_ADAMW && r != ST_RULE_LION;
}

_Static_assert(sizeof(struct st_factors) <= sizeof(struct strata_optim_step), "room for factors");

static inline size_t st_grad_bytes(enum strata_optim_grads g)
{
	return g == STRATA_GRADS_F32 ? 4 : 2;
}

/*
 * Random bits of a stream, for elements 2j and 2j + 1 together: a mix of 32 bits of j with two
 * words of key, from a hash of (seed, step), stream and the upper half of the element's index.
 * Rounding takes as many as it drops, n: m of the even element and v of the odd one the lowest n,
 * the other two the highest n. So each of the four is uniform; what two share are other moments of
 * other elements, and for n = 19 also, in one element, 6 bits that are the first of one and the
 * last of the other.
 */
struct st_random {
	uint32_t k0, k1;
};

static inline uint64_t st_random_hash(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

static inline struct st_random st_random_init(uint64_t key, uint64_t stream, uint64_t elem)
{
	uint64_t h = st_random_hash(st_random_hash(key ^ st_random_hash(stream)) + (elem >> 32));

	return (struct st_random){ (uint32_t)h, (uint32_t)(h >> 32) };
}

#define ST_RANDOM_MUL1 0x7feb352du
#define ST_RANDOM_MUL2 0x846ca68bu

static inline uint32_t st_random_bits(struct st_random k, uint32_t pair)
{
	uint32_t x = pair + k.k0;

	x = (x ^ x >> 16) * ST_RANDOM_MUL1 ^ k.k1;
	x = (x ^ x >> 15) * ST_RANDOM_MUL2;
	return x ^ x >> 16;
}

#define ST_RANDOM_BF16 16 /* bits that rounding drops */
#define ST_RANDOM_INT8 ST_CODE_SHIFT

/* What is added before n bits are dropped; x: of the pair. */
static inline uint32_t st_random_of(uint32_t x, uint32_t elem, bool is_v, unsigned n)
{
	return (elem & 1) == is_v ? x & ((1u << n) - 1) : x >> (32 - n);
}

/*
 * 8-bit moments. The scale of a block is the power of two 2^e with 2^e * 61/64 <= max|x| < 2^e *
 * 61/32, and the codes are those of a small floating-point format, linear near zero. With y =
 * |x| / 2^e and a constant c, code k stands for the float of the bits (k << 19) + bits(c), minus c:
 *	m: sign and 7 bits, c = 2^-7;	v: 8 bits, c = 2^-15
 * that is 16 codes for each binade of y + c. Rounding adds random bits to those that are dropped,
 * as for bf16: the mean over the random bits is y, everywhere; y + c stays below the last code but
 * one, else the largest element of a block could not grow out of its binade in small steps. A value
 * on the grid stays on it as long as the scale stays, and where that changes, all but the smallest
 * do. v > 0 is stored as code 1 at least. A block with NaN or Inf gets the scale NaN and the codes
 * 0, so that all of it becomes NaN; a block of zeros has the scale 0.
 */
#define ST_CODE_SHIFT   19
#define ST_CODE_M_BITS  0x3c000000u /* 2^-7 */
#define ST_CODE_V_BITS  0x38000000u /* 2^-15 */
#define ST_CODE_M_MAX   127u
#define ST_CODE_V_MAX   255u
#define ST_SCALE_LEAST  0x00800000u /* 2^-126: of denormal numbers */
#define ST_SCALE_MOST   0x7f000000u /* 2^127: its block saturates from 1.9375 on */
#define ST_SCALE_MARGIN 0x000c0000u /* 3/32 of a binade */

/* Scale of a block from the bits of the largest |x|. */
static inline float st_scale(uint32_t max_bits)
{
	uint32_t e = (max_bits + ST_SCALE_MARGIN) & 0x7f800000u;

	if (max_bits == 0)
		return 0.0f;
	if (max_bits >= 0x7f800000u)
		return st_bits_f32(ST_NAN_BITS);
	if (e < ST_SCALE_LEAST)
		e = ST_SCALE_LEAST;
	return st_bits_f32(e < ST_SCALE_MOST ? e : ST_SCALE_MOST);
}

/* What a code stands for; c_bits with the sign of the code. */
static inline float st_code_value(uint32_t code, uint32_t c_bits, float scale)
{
	return (st_bits_f32((code << ST_CODE_SHIFT) + c_bits) - st_bits_f32(c_bits)) * scale;
}

static inline float st_code_m(uint8_t code, float scale)
{
	return st_code_value(code & 0x7fu, ST_CODE_M_BITS | (code & 0x80u) << 24, scale);
}

static inline float st_code_v(uint8_t code, float scale)
{
	return st_code_value(code, ST_CODE_V_BITS, scale);
}

/* 1 / scale, exactly, in integers; 0 where all codes are to be 0. */
static inline float st_scale_inverse(float scale)
{
	uint32_t u = st_f32_bits(scale);

	if (u == 0 || u > ST_SCALE_MOST)
		return 0.0f;
	return st_bits_f32(u == ST_SCALE_MOST ? 0x00400000u : ST_SCALE_MOST - u);
}

struct st_optim_kernels { /* all required; update is NULL in a table that was not compiled in */
	void (*update)(const struct st_factors *s, const struct strata_optim_format *f,
		       const struct strata_optim_range *r);
	/* Whole tiles and one that is cut short; out is NULL, or of `to`, rounded before summing.
	 */
	void (*sums)(size_t n, const void *in, enum strata_optim_grads from, void *out,
		     enum strata_optim_grads to, double *leaf);
	void (*split)(size_t n, const float *master, uint16_t *hi, int16_t *lo);
	void (*join)(size_t n, const uint16_t *hi, const int16_t *lo, float *master);
	void (*round)(size_t n, const float *master, uint16_t *out);
};

extern const struct st_optim_kernels st_optim_scalar_kernels;
extern const struct st_optim_kernels st_optim_avx2_kernels;
extern const struct st_optim_kernels st_optim_avx512_kernels;

/** st_optim_array_bytes() - of an array of n elements that start at a block boundary. */
size_t st_optim_array_bytes(enum st_rule rule, const struct strata_optim_format *f,
			    enum strata_optim_array array, size_t n);

/**
 * st_optim_range_from() - the range that starts at element i of r.
 * @param i  in, with int8 moments a multiple of STRATA_MOMENTS_BLOCK
 */
struct strata_optim_range st_optim_range_from(const struct strata_optim_format *f,
					      const struct strata_optim_range *r, size_t i);

#endif
