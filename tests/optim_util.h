/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/optim_util.h - what the tests of the optimizer share: random numbers, ranges with guards
 * around their arrays, loops over all formats.
 */
#ifndef TESTS_OPTIM_UTIL_H
#define TESTS_OPTIM_UTIL_H

#include <check.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "cpu_optim/kernels.h"

#define GUARD 128u /* elements before and after each array, which no kernel may touch */

/* For inner loops: ck_assert() writes to a file each time it holds. */
#define CHECK_AT(i, cond)                                                                          \
	do {                                                                                       \
		if (!(cond))                                                                       \
			ck_abort_msg("element %zu: not %s", (size_t)(i), #cond);                   \
	} while (0)

static uint64_t rng_state;

static inline uint64_t rng(void)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return rng_state;
}

static inline void rng_seed(uint64_t seed)
{
	rng_state = seed * 0x9e3779b97f4a7c15u + 1;
	for (int i = 0; i < 8; i++)
		rng();
}

static inline double uniform(void)
{
	return (double)(rng() >> 11) * 0x1p-53;
}

static inline float signed_decades(double low, double high)
{
	double mag = pow(10.0, low + (high - low) * uniform());

	return (float)(rng() & 1 ? -mag : mag);
}

static inline void *need(size_t bytes)
{
	void *p = calloc(1, bytes);

	ck_assert_ptr_nonnull(p);
	return p;
}

/* A number of any kind: mostly ordinary, now and then one of those where kernels go wrong. */
static inline float any_float(void)
{
	static const uint32_t special[] = {
		0x00000000u, 0x80000000u, 0x00000001u, 0x80000001u, 0x007fffffu, 0x00800000u,
		0x7f7fffffu, 0xff7fffffu, 0x7f800000u, 0xff800000u, 0x7fc00000u, 0xffc00000u,
		0x7f800001u, 0xffbfffffu, 0x7fffffffu, 0x3f808000u, 0x3f818000u, 0x3f7fffffu,
		0x5f800000u, 0x1f800000u, 0x7f7f8000u, 0x00008000u, 0x00018000u, 0xff7f7fffu,
	};
	uint64_t r = rng();

	if (r % 16 == 0)
		return st_bits_f32(special[(r >> 8) % ST_ARRAY_LEN(special)]);
	if (r % 16 == 1)
		return st_bits_f32((uint32_t)(r >> 16));
	return signed_decades(-10, 6);
}

/* ---- optimizers ----------------------------------------------------------------------------- */

/* Every rule of st_rule, and Nesterov besides. */
#define NR_OPTIMS 7

static inline struct strata_optim_cfg optim_cfg(int k)
{
	struct strata_optim_cfg c = STRATA_OPTIM_CFG_DEFAULT;

	c.kind = k < 4 ? (enum strata_optim_kind)k : STRATA_OPTIM_SGD;
	c.lr_decay = 0.01;
	c.momentum = k == 4 ? 0.0 : 0.9;
	c.dampening = k == 5 ? 0.1 : 0.0;
	c.is_nesterov = k == 6;
	c.seed = 77;
	if (c.kind == STRATA_OPTIM_LION)
		c.beta2 = 0.99;
	return c;
}

static inline const char *optim_name(int k)
{
	static const char *const names[NR_OPTIMS] = { "AdamW", "Adam",     "Adagrad", "Lion",
						      "SGD",   "momentum", "Nesterov" };

	return names[k];
}

#define NR_FORMATS (4 * 3 * 3)

static inline struct strata_optim_format optim_format(int k)
{
	return (struct strata_optim_format){ .params = (enum strata_optim_params)(k / 9),
					     .moments = (enum strata_optim_moments)(k / 3 % 3),
					     .grads = (enum strata_optim_grads)(k % 3) };
}

/* ---- ranges --------------------------------------------------------------------------------- */

/* One range with its arrays; offset_elems shifts all of them off their alignment. */
struct bank {
	struct strata_optim_format f;
	struct strata_optim_range r;
	char *block[STRATA_ARRAY_N];
	size_t bytes[STRATA_ARRAY_N];
	size_t guard[STRATA_ARRAY_N];
	/* where the arrays begin, for what knows the format */
	uint16_t *hi;
	int16_t *lo;
	float *p, *m, *v, *g;
};

static inline void bank_init(struct bank *b, const struct strata_optim_cfg *cfg,
			     struct strata_optim_format f, size_t n, size_t offset_elems)
{
	size_t inner[STRATA_ARRAY_N], shift[STRATA_ARRAY_N];

	b->f = f;
	b->r = (struct strata_optim_range){ .n = n, .stream = 5 };
	ck_assert_int_eq(strata_optim_array_bytes(cfg, &f, GUARD, b->guard), 0);
	ck_assert_int_eq(strata_optim_array_bytes(cfg, &f, offset_elems, shift), 0);
	ck_assert_int_eq(strata_optim_array_bytes(cfg, &f, n, inner), 0);
	for (size_t k = 0; k < STRATA_ARRAY_N; k++) {
		b->bytes[k] = inner[k] + shift[k] + 2 * b->guard[k];
		b->block[k] = need(b->bytes[k] + 1);
		memset(b->block[k], 0x5a, b->bytes[k]);
		if (b->guard[k])
			b->r.array[k] = b->block[k] + b->guard[k] + shift[k];
	}
	b->hi = b->r.array[STRATA_ARRAY_PARAM];
	b->p = b->r.array[STRATA_ARRAY_PARAM];
	b->lo = b->r.array[STRATA_ARRAY_LOW];
	b->m = b->r.array[STRATA_ARRAY_M];
	b->v = b->r.array[STRATA_ARRAY_V];
	b->g = b->r.array[STRATA_ARRAY_GRAD];
}

static inline void bank_fini(struct bank *b)
{
	for (size_t k = 0; k < STRATA_ARRAY_N; k++)
		free(b->block[k]);
}

static inline void bank_set_param(struct bank *b, size_t i, float p)
{
	if (b->f.params == STRATA_PARAMS_SPLIT)
		strata_optim_split(1, &p, b->hi + i, b->lo + i);
	else
		b->p[i] = p;
}

/* The master weight. */
static inline float bank_param(const struct bank *b, size_t i)
{
	float p;

	if (b->f.params != STRATA_PARAMS_SPLIT)
		return b->p[i];
	strata_optim_join(1, b->hi + i, b->lo + i, &p);
	return p;
}

static inline void bank_set_grad(struct bank *b, size_t i, float g)
{
	st_elem_set((enum st_dtype)b->f.grads, b->g, i, g);
}

static inline float bank_grad(const struct bank *b, size_t i)
{
	return st_elem_f32((enum st_dtype)b->f.grads, b->g, i);
}

/* Moments as any run may leave them: codes and scales of any value that the format has. */
static inline void bank_fill_moments(struct bank *b, bool is_wild)
{
	const bool has_m = b->m, has_v = b->v;

	for (size_t i = 0; i < b->r.n; i++) {
		float m = is_wild ? any_float() : signed_decades(-4, 0);
		float v = fabsf(is_wild ? any_float() : signed_decades(-8, 0));

		switch (b->f.moments) {
		case STRATA_MOMENTS_F32:
		case STRATA_MOMENTS_BF16:
			if (has_m)
				st_elem_set((enum st_dtype)b->f.moments, b->m, i, m);
			if (has_v)
				st_elem_set((enum st_dtype)b->f.moments, b->v, i, v);
			break;
		default:
			if (has_m)
				((uint8_t *)b->m)[i] = (uint8_t)rng();
			if (has_v)
				((uint8_t *)b->v)[i] = (uint8_t)rng();
			if (i % STRATA_MOMENTS_BLOCK)
				break;
			if (has_m)
				((float *)b->r
					 .array[STRATA_ARRAY_M_SCALE])[i / STRATA_MOMENTS_BLOCK] =
					fabsf(m);
			if (has_v)
				((float *)b->r
					 .array[STRATA_ARRAY_V_SCALE])[i / STRATA_MOMENTS_BLOCK] =
					v;
		}
	}
}

static inline void bank_fill(struct bank *b, uint64_t seed, bool is_wild)
{
	rng_seed(seed);
	for (size_t i = 0; i < b->r.n; i++) {
		bank_set_param(b, i, is_wild ? any_float() : signed_decades(-4, 1));
		bank_set_grad(b, i, is_wild ? any_float() : signed_decades(-4, 0));
	}
	bank_fill_moments(b, is_wild);
}

static inline void bank_check_equal(const struct bank *a, const struct bank *b, const char *what)
{
	static const char *const names[STRATA_ARRAY_N] = { "p",       "low",     "m", "v",
							   "m scale", "v scale", "g" };

	for (size_t k = 0; k < STRATA_ARRAY_N; k++)
		for (size_t i = 0; i < a->bytes[k]; i++)
			if (a->block[k][i] != b->block[k][i])
				ck_abort_msg("%s: n %zu, parameters %d, moments %d, gradient %d: "
					     "%s differs at byte %zu",
					     what, a->r.n, (int)a->f.params, (int)a->f.moments,
					     (int)a->f.grads, names[k], i - a->guard[k]);
}

static inline void bank_check_guards(const struct bank *b)
{
	for (size_t k = 0; k < STRATA_ARRAY_N; k++)
		for (size_t i = 0; i < b->guard[k]; i++) {
			CHECK_AT(i, b->block[k][i] == 0x5a);
			CHECK_AT(i, b->block[k][b->bytes[k] - 1 - i] == 0x5a);
		}
}

static inline void bank_update(struct bank *b, const struct strata_optim_step *s)
{
	if (strata_optim_update(s, &b->f, &b->r))
		ck_abort_msg("%s", strata_last_error());
}

/* As the library calls a kernel, where an instruction set is not in its table. */
static inline void bank_update_by(struct bank *b, const struct strata_optim_step *s,
				  const struct st_optim_kernels *k)
{
	struct st_factors factors;

	memcpy(&factors, s, sizeof(factors));
	k->update(&factors, &b->f, &b->r);
}

static inline void step_prepare(struct strata_optim_step *s, const struct strata_optim_cfg *cfg,
				uint64_t t, double scale)
{
	ck_assert_int_eq(strata_optim_prepare(s, cfg, t, 1e-3, 0.1, scale), 0);
}

#endif
