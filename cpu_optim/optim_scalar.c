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

static void scalar_update(const struct st_factors *s, const struct strata_optim_format *f,
			  const struct strata_optim_range *r)
{
	const bool is_split = f->params == STRATA_PARAMS_SPLIT;
	const bool is_l2 = s->kind == STRATA_OPTIM_ADAM;
	const float *g32 = r->array[STRATA_ARRAY_GRAD];
	const uint16_t *g16 = r->array[STRATA_ARRAY_GRAD];
	uint16_t *hi = r->array[STRATA_ARRAY_PARAM];
	int16_t *lo = r->array[STRATA_ARRAY_LOW];
	float *p32 = r->array[STRATA_ARRAY_PARAM];
	float *m_at = r->array[STRATA_ARRAY_M], *v_at = r->array[STRATA_ARRAY_V];

	for (size_t i = 0; i < r->n; i++) {
		float g = f->grads == STRATA_GRADS_BF16 ? st_bf16_f32(g16[i]) : g32[i];
		float p = is_split ? master_join(hi[i], lo[i]) : p32[i];
		float m, v, d;

		g = g * s->grad_scale;
		if (is_l2)
			g = g + s->wd * p;
		m = __builtin_fmaf(s->b1, m_at[i], s->one_minus_b1 * g);
		v = __builtin_fmaf(s->one_minus_b2_lo, g * g, s->b2 * v_at[i]);
		v = __builtin_fmaf(s->one_minus_b2, g * g, v);
		d = m / (sqrtf(v * s->inv_bc2) + s->eps);
		p = canonical(p - __builtin_fmaf(s->step_size, d, s->lr_wd * p));
		m_at[i] = canonical(m);
		v_at[i] = canonical(v);
		if (is_split)
			master_split(st_f32_bits(p), &hi[i], &lo[i]);
		else
			p32[i] = p;
	}
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

static void scalar_reduce(size_t n, const float *acc, void *out, enum strata_optim_grads grads,
			  double *leaf)
{
	for (size_t t = 0; t < n; t += STRATA_NUMERIC_TILE) {
		double lane[16] = { 0 };

		for (size_t i = t; i < t + STRATA_NUMERIC_TILE; i++) {
			double x;

			if (grads == STRATA_GRADS_BF16) {
				uint16_t b = st_f32_bf16(acc[i]);

				((uint16_t *)out)[i] = b;
				x = st_bf16_f32(b);
			} else {
				float f = acc[i];

				((float *)out)[i] = f;
				x = f;
			}
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
	.reduce = scalar_reduce,
	.split = scalar_split,
	.join = scalar_join,
	.round = scalar_round,
};
