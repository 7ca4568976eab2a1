/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpu_optim/optim_scalar.c - the reference: every other instruction set gives these bits.
 *
 * Layer:    cpu_optim
 * Hardware: any; fmaf() and sqrtf() of the C library are exact to the rounding, with or without
 *           instructions for them
 */
#include <math.h>

#include "cpu_optim/kernels.h"

/* Which NaN an operation returns depends on operand order, hence on the compiler: store one. */
static inline float canonical(float f)
{
	return f != f ? st_bits_f32(ST_NAN_BITS) : f;
}

static inline float master_join(uint16_t hi, int16_t lo)
{
	return st_bits_f32(((uint32_t)hi << 16) + (uint32_t)(int32_t)lo);
}

/* u - (hi << 16) leaves the low half of u as it is: read as signed, it is the correction. */
static inline void master_split(uint32_t u, uint16_t *hi, int16_t *lo)
{
	uint16_t low = (uint16_t)u;

	*hi = (uint16_t)((u + 0x8000u) >> 16);
	memcpy(lo, &low, sizeof(low));
}

struct elem {
	float p, m, v;
};

/* d of optim.h's formulas: what the step subtracts, before the step size. */
static float direction(const struct st_factors *s, struct elem *e, float g)
{
	float c;

	switch (s->rule) {
	case ST_RULE_ADAMW:
	case ST_RULE_ADAM:
		e->m = __builtin_fmaf(s->b1, e->m, s->one_minus_b1 * g);
		e->v = __builtin_fmaf(s->one_minus_b2_lo, g * g, s->b2 * e->v);
		e->v = __builtin_fmaf(s->one_minus_b2, g * g, e->v);
		return e->m / (sqrtf(e->v * s->inv_bc2) + s->eps);
	case ST_RULE_ADAGRAD:
		e->v = __builtin_fmaf(g, g, e->v);
		return g / (sqrtf(e->v) + s->eps);
	case ST_RULE_LION:
		c = __builtin_fmaf(s->b1, e->m, s->one_minus_b1 * g);
		e->m = __builtin_fmaf(s->b2, e->m, s->one_minus_b2 * g);
		return c > 0.0f ? 1.0f : c < 0.0f ? -1.0f : c == 0.0f ? 0.0f : c;
	case ST_RULE_MOMENTUM:
		e->m = __builtin_fmaf(s->b1, e->m, s->one_minus_b1 * g);
		return __builtin_fmaf(s->d_m, e->m, s->d_g * g);
	default:
		return g;
	}
}

static inline float load_grad(enum strata_optim_grads grads, const void *g, size_t i)
{
	return grads == STRATA_GRADS_F32    ? ((const float *)g)[i]
	       : grads == STRATA_GRADS_BF16 ? st_bf16_f32(((const uint16_t *)g)[i])
					    : st_f16_f32(((const uint16_t *)g)[i]);
}

/* Element i of the range; its moments are decoded before and stored after. */
static void step_elem(const struct st_factors *s, const struct strata_optim_format *f,
		      const struct strata_optim_range *r, size_t i, struct elem *e)
{
	float *p32 = r->array[STRATA_ARRAY_PARAM];
	uint16_t *hi = r->array[STRATA_ARRAY_PARAM], *low16 = r->array[STRATA_ARRAY_LOW];
	int16_t *lo = r->array[STRATA_ARRAY_LOW];
	float g = load_grad(f->grads, r->array[STRATA_ARRAY_GRAD], i), d;
	const bool is_split = f->params == STRATA_PARAMS_SPLIT;

	e->p = is_split ? master_join(hi[i], lo[i]) : p32[i];
	g = g * s->grad_scale;
	if (st_rule_is_l2(s->rule))
		g = g + s->wd * e->p;
	d = direction(s, e, g);
	e->p = canonical(e->p - __builtin_fmaf(s->step_size, d, s->lr_wd * e->p));
	if (is_split) {
		master_split(st_f32_bits(e->p), &hi[i], &lo[i]);
		return;
	}
	p32[i] = e->p;
	if (f->params == STRATA_PARAMS_F32_BF16)
		low16[i] = st_f32_bf16(e->p);
	else if (f->params == STRATA_PARAMS_F32_F16)
		low16[i] = st_f32_f16(e->p);
}

static void update_f32(const struct st_factors *s, const struct strata_optim_format *f,
		       const struct strata_optim_range *r)
{
	float *m = r->array[STRATA_ARRAY_M], *v = r->array[STRATA_ARRAY_V];

	for (size_t i = 0; i < r->n; i++) {
		struct elem e = { 0 };

		if (st_rule_has_m(s->rule))
			e.m = m[i];
		if (st_rule_has_v(s->rule))
			e.v = v[i];
		step_elem(s, f, r, i, &e);
		if (st_rule_has_m(s->rule))
			m[i] = canonical(e.m);
		if (st_rule_has_v(s->rule))
			v[i] = canonical(e.v);
	}
}

static inline uint16_t round_bf16(float x, uint32_t random)
{
	return (uint16_t)((st_f32_bits(canonical(x)) + random) >> 16);
}

static void update_bf16(const struct st_factors *s, const struct strata_optim_format *f,
			const struct strata_optim_range *r)
{
	const struct st_random key = st_random_init(s->key, r->stream, r->first);
	uint16_t *m = r->array[STRATA_ARRAY_M], *v = r->array[STRATA_ARRAY_V];

	for (size_t i = 0; i < r->n; i++) {
		const uint32_t elem = (uint32_t)(r->first + i);
		const uint32_t random = st_random_bits(key, elem >> 1);
		struct elem e = { 0 };

		if (st_rule_has_m(s->rule))
			e.m = st_bf16_f32(m[i]);
		if (st_rule_has_v(s->rule))
			e.v = st_bf16_f32(v[i]);
		step_elem(s, f, r, i, &e);
		if (st_rule_has_m(s->rule))
			m[i] = round_bf16(e.m, st_random_of(random, elem, false, ST_RANDOM_BF16));
		if (st_rule_has_v(s->rule))
			v[i] = round_bf16(e.v, st_random_of(random, elem, true, ST_RANDOM_BF16));
	}
}

/* x >= 0. The product is exact, or so small that the sum is c: fused or not, the same bits. */
static inline uint32_t encode(float x, float inverse, uint32_t c_bits, uint32_t random,
			      uint32_t max)
{
	uint32_t u = st_f32_bits(__builtin_fmaf(x, inverse, st_bits_f32(c_bits))) + random;
	uint32_t code = (u >> ST_CODE_SHIFT) - (c_bits >> ST_CODE_SHIFT);

	return code < max ? code : max;
}

static inline uint8_t encode_m(float m, float inverse, uint32_t random)
{
	uint32_t u = st_f32_bits(m);
	uint32_t code = encode(st_bits_f32(u & 0x7fffffffu), inverse, ST_CODE_M_BITS, random,
			       ST_CODE_M_MAX);

	return (uint8_t)(code | (u >> 24 & 0x80u));
}

static inline uint8_t encode_v(float v, float inverse, uint32_t random)
{
	uint32_t code = encode(v, inverse, ST_CODE_V_BITS, random, ST_CODE_V_MAX);

	return (uint8_t)(code == 0 && v > 0.0f ? 1 : code);
}

static inline uint32_t max_bits(uint32_t max, float x)
{
	uint32_t u = st_f32_bits(x) & 0x7fffffffu;

	return u > max ? u : max;
}

/* Block b of the range, n elements of it. */
static void update_block(const struct st_factors *s, const struct strata_optim_format *f,
			 const struct strata_optim_range *r, struct st_random key, size_t b,
			 size_t n)
{
	const size_t at = b * STRATA_MOMENTS_BLOCK;
	const bool has_m = st_rule_has_m(s->rule), has_v = st_rule_has_v(s->rule);
	uint8_t *m8 = r->array[STRATA_ARRAY_M], *v8 = r->array[STRATA_ARRAY_V];
	float *m_scale = r->array[STRATA_ARRAY_M_SCALE], *v_scale = r->array[STRATA_ARRAY_V_SCALE];
	struct elem e[STRATA_MOMENTS_BLOCK] = { 0 };
	uint32_t m_max = 0, v_max = 0;
	float m_inverse, v_inverse;

	for (size_t i = 0; i < n; i++) {
		if (has_m)
			e[i].m = st_code_m(m8[at + i], m_scale[b]);
		if (has_v)
			e[i].v = st_code_v(v8[at + i], v_scale[b]);
		step_elem(s, f, r, at + i, &e[i]);
		m_max = max_bits(m_max, e[i].m);
		v_max = max_bits(v_max, e[i].v);
	}
	m_inverse = st_scale_inverse(st_scale(m_max));
	v_inverse = st_scale_inverse(st_scale(v_max));
	for (size_t i = 0; i < n; i++) {
		const uint32_t elem = (uint32_t)(r->first + at + i);
		const uint32_t random = st_random_bits(key, elem >> 1);
		const uint32_t m_random = st_random_of(random, elem, false, ST_RANDOM_INT8);
		const uint32_t v_random = st_random_of(random, elem, true, ST_RANDOM_INT8);

		if (has_m)
			m8[at + i] = m_inverse > 0.0f ? encode_m(e[i].m, m_inverse, m_random) : 0;
		if (has_v)
			v8[at + i] = v_inverse > 0.0f ? encode_v(e[i].v, v_inverse, v_random) : 0;
	}
	if (has_m)
		m_scale[b] = st_scale(m_max);
	if (has_v)
		v_scale[b] = st_scale(v_max);
}

static void update_int8(const struct st_factors *s, const struct strata_optim_format *f,
			const struct strata_optim_range *r)
{
	const struct st_random key = st_random_init(s->key, r->stream, r->first);

	for (size_t b = 0; b * STRATA_MOMENTS_BLOCK < r->n; b++) {
		size_t left = r->n - b * STRATA_MOMENTS_BLOCK;

		update_block(s, f, r, key, b,
			     left < STRATA_MOMENTS_BLOCK ? left : STRATA_MOMENTS_BLOCK);
	}
}

static void scalar_update(const struct st_factors *s, const struct strata_optim_format *f,
			  const struct strata_optim_range *r)
{
	if (s->rule == ST_RULE_SGD || f->moments == STRATA_MOMENTS_F32)
		update_f32(s, f, r);
	else if (f->moments == STRATA_MOMENTS_BF16)
		update_bf16(s, f, r);
	else
		update_int8(s, f, r);
}

/* A float squared is exact in double, so only the additions round: their order is the contract. */
static double tile_sum(const double lane[16])
{
	double s[16];

	memcpy(s, lane, sizeof(s));
	for (size_t w = 8; w; w /= 2)
		for (size_t j = 0; j < w; j++)
			s[j] += s[j + w];
	return s[0];
}

/* Rounds to the type of a gradient, writes it where out is not NULL, and returns what was written.
 */
static float store_grad(enum strata_optim_grads to, void *out, size_t i, float x)
{
	uint16_t h;

	if (!out)
		return x;
	if (to == STRATA_GRADS_F32) {
		((float *)out)[i] = x;
		return x;
	}
	h = to == STRATA_GRADS_BF16 ? st_f32_bf16(x) : st_f32_f16(x);
	((uint16_t *)out)[i] = h;
	return to == STRATA_GRADS_BF16 ? st_bf16_f32(h) : st_f16_f32(h);
}

static void scalar_sums(size_t n, const void *in, enum strata_optim_grads from, void *out,
			enum strata_optim_grads to, double *leaf)
{
	for (size_t t = 0; t < n; t += STRATA_NUMERIC_TILE) {
		size_t end = n - t < STRATA_NUMERIC_TILE ? n : t + STRATA_NUMERIC_TILE;
		double lane[16] = { 0 };

		for (size_t i = t; i < end; i++) {
			double x = store_grad(to, out, i, load_grad(from, in, i));

			lane[i % 16] += x * x;
		}
		leaf[t / STRATA_NUMERIC_TILE] = tile_sum(lane);
	}
}

static void scalar_split(size_t n, const float *master, uint16_t *hi, int16_t *lo)
{
	for (size_t i = 0; i < n; i++) {
		uint32_t u = st_f32_bits(master[i]);

		if ((u & 0x7fffffffu) > 0x7f800000u)
			u = (u & 0x80000000u) | ST_NAN_BITS;
		master_split(u, &hi[i], &lo[i]);
	}
}

static void scalar_join(size_t n, const uint16_t *hi, const int16_t *lo, float *master)
{
	for (size_t i = 0; i < n; i++)
		master[i] = master_join(hi[i], lo[i]);
}

static void scalar_round(size_t n, const float *master, uint16_t *out)
{
	for (size_t i = 0; i < n; i++)
		out[i] = st_f32_bf16(master[i]);
}

const struct st_optim_kernels st_optim_scalar_kernels = {
	.update = scalar_update,
	.sums = scalar_sums,
	.split = scalar_split,
	.join = scalar_join,
	.round = scalar_round,
};
