/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpu_optim/optim_simd.h - the vector kernels, written once over the operations of a vector type.
 *
 * Layer:    cpu_optim (internal); included once each by optim_avx2.c and optim_avx512.c, which
 *           define first, for vectors vf (fp32) and vi (32-bit integers) of VLEN lanes:
 *
 *	vf_load vf_store vf_set1 vf_add vf_sub vf_mul vf_div vf_sqrt
 *	vf_fma(a, b, c)		a * b + c, rounded once
 *	vi_set1 vi_add vi_and vi_or vi_shl16 vi_shr16 (logical), vf_of, vi_of (the same bits)
 *	vi_load_u16, vi_load_s16	VLEN 16-bit integers, extended with zeros or the sign
 *	vi_store_16		the low half of each lane
 *	vi_if_nan(x, a, b)	a in the lanes where x is NaN, else b
 *	struct sq16		16 double sums; sq16_zero, sq16_store
 *	sq16_add(s, x)		s[j] += x[j]^2 for 16 floats in 16 / VLEN vectors
 *	VEC_KERNELS		name of the table
 *
 * Each step is that of optim_scalar.c, in the same order. What is left after the last whole vector
 * goes through the scalar kernels themselves.
 */
#define VEC_INLINE static inline __attribute__((always_inline))

VEC_INLINE vf vec_canonical(vf x)
{
	return vf_of(vi_if_nan(x, vi_set1(ST_NAN_BITS), vi_of(x)));
}

VEC_INLINE vf vec_join(const uint16_t *hi, const int16_t *lo)
{
	return vf_of(vi_add(vi_shl16(vi_load_u16(hi)), vi_load_s16(lo)));
}

VEC_INLINE void vec_split(vi u, uint16_t *hi, int16_t *lo)
{
	vi_store_16(hi, vi_shr16(vi_add(u, vi_set1(0x8000u))));
	vi_store_16(lo, u);
}

VEC_INLINE vi vec_round_bf16(vf x)
{
	vi u = vi_of(x);
	vi odd = vi_and(vi_shr16(u), vi_set1(1));
	vi even = vi_shr16(vi_add(vi_add(u, vi_set1(0x7fffu)), odd));
	vi nan = vi_or(vi_and(vi_shr16(u), vi_set1(0x8000u)), vi_set1(0x7fc0u));

	return vi_if_nan(x, nan, even);
}

/* is_*: constants at every call. Returns the elements done, the largest multiple of VLEN. */
VEC_INLINE size_t vec_update(const struct st_factors *s, const struct strata_optim_range *r,
			     bool is_split, bool is_bf16, bool is_l2)
{
	const vf b1 = vf_set1(s->b1), one_minus_b1 = vf_set1(s->one_minus_b1);
	const vf b2 = vf_set1(s->b2), one_minus_b2 = vf_set1(s->one_minus_b2);
	const vf one_minus_b2_lo = vf_set1(s->one_minus_b2_lo);
	const vf step_size = vf_set1(s->step_size), inv_bc2 = vf_set1(s->inv_bc2);
	const vf eps = vf_set1(s->eps), lr_wd = vf_set1(s->lr_wd), wd = vf_set1(s->wd);
	const vf grad_scale = vf_set1(s->grad_scale);
	const float *g32 = r->array[STRATA_ARRAY_GRAD]; /* r may alias them: not reloaded */
	const uint16_t *g16 = r->array[STRATA_ARRAY_GRAD];
	uint16_t *hi = r->array[STRATA_ARRAY_PARAM];
	int16_t *lo = r->array[STRATA_ARRAY_LOW];
	float *p32 = r->array[STRATA_ARRAY_PARAM];
	float *m_at = r->array[STRATA_ARRAY_M], *v_at = r->array[STRATA_ARRAY_V];
	const size_t n = r->n;
	size_t i;

	for (i = 0; i + VLEN <= n; i += VLEN) {
		vf g = is_bf16 ? vf_of(vi_shl16(vi_load_u16(g16 + i))) : vf_load(g32 + i);
		vf p = is_split ? vec_join(hi + i, lo + i) : vf_load(p32 + i);
		vf m, v, d, g2;

		g = vf_mul(g, grad_scale);
		if (is_l2)
			g = vf_add(g, vf_mul(wd, p));
		m = vf_fma(b1, vf_load(m_at + i), vf_mul(one_minus_b1, g));
		g2 = vf_mul(g, g);
		v = vf_fma(one_minus_b2_lo, g2, vf_mul(b2, vf_load(v_at + i)));
		v = vf_fma(one_minus_b2, g2, v);
		d = vf_div(m, vf_add(vf_sqrt(vf_mul(v, inv_bc2)), eps));
		p = vec_canonical(vf_sub(p, vf_fma(step_size, d, vf_mul(lr_wd, p))));
		vf_store(m_at + i, vec_canonical(m));
		vf_store(v_at + i, vec_canonical(v));
		if (is_split)
			vec_split(vi_of(p), hi + i, lo + i);
		else
			vf_store(p32 + i, p);
	}
	return i;
}

#define VEC_UPDATE(name, is_split, is_bf16, is_l2)                                                 \
	static size_t name(const struct st_factors *s, const struct strata_optim_range *r)         \
	{                                                                                          \
		return vec_update(s, r, is_split, is_bf16, is_l2);                                 \
	}
VEC_UPDATE(update_fp32_fp32_adamw, false, false, false)
VEC_UPDATE(update_fp32_fp32_adam, false, false, true)
VEC_UPDATE(update_fp32_bf16_adamw, false, true, false)
VEC_UPDATE(update_fp32_bf16_adam, false, true, true)
VEC_UPDATE(update_split_fp32_adamw, true, false, false)
VEC_UPDATE(update_split_fp32_adam, true, false, true)
VEC_UPDATE(update_split_bf16_adamw, true, true, false)
VEC_UPDATE(update_split_bf16_adam, true, true, true)

static void simd_update(const struct st_factors *s, const struct strata_optim_format *f,
			const struct strata_optim_range *r)
{
	static size_t (*const by_kind[2][2][2])(const struct st_factors *,
						const struct strata_optim_range *) = {
		{ { update_fp32_fp32_adamw, update_fp32_fp32_adam },
		  { update_fp32_bf16_adamw, update_fp32_bf16_adam } },
		{ { update_split_fp32_adamw, update_split_fp32_adam },
		  { update_split_bf16_adamw, update_split_bf16_adam } },
	};
	size_t done = by_kind[f->params == STRATA_PARAMS_SPLIT][f->grads == STRATA_GRADS_BF16]
			     [s->kind == STRATA_OPTIM_ADAM](s, r);

	if (done < r->n) {
		struct strata_optim_range tail = st_optim_range_from(f, r, done);

		st_optim_scalar_kernels.update(s, f, &tail);
	}
}

VEC_INLINE double vec_reduce_tile(const float *acc, void *out, bool is_bf16)
{
	uint16_t *out16 = out;
	float *out32 = out;
	struct sq16 sum = sq16_zero();
	double lane[16];

	for (size_t i = 0; i < STRATA_NUMERIC_TILE; i += 16) {
		vf x[16 / VLEN];

		for (size_t k = 0; k < 16 / VLEN; k++) {
			x[k] = vf_load(acc + i + k * VLEN);
			if (is_bf16) {
				vi b = vec_round_bf16(x[k]);

				vi_store_16(out16 + i + k * VLEN, b);
				x[k] = vf_of(vi_shl16(b));
			} else {
				vf_store(out32 + i + k * VLEN, x[k]);
			}
		}
		sum = sq16_add(sum, x);
	}
	sq16_store(lane, sum);
	for (size_t w = 8; w; w /= 2)
		for (size_t j = 0; j < w; j++)
			lane[j] += lane[j + w];
	return lane[0];
}

static void simd_reduce(size_t n, const float *acc, void *out, enum strata_optim_grads grads,
			double *leaf)
{
	for (size_t t = 0; t < n; t += STRATA_NUMERIC_TILE)
		if (grads == STRATA_GRADS_BF16)
			leaf[t / STRATA_NUMERIC_TILE] =
				vec_reduce_tile(acc + t, (uint16_t *)out + t, true);
		else
			leaf[t / STRATA_NUMERIC_TILE] =
				vec_reduce_tile(acc + t, (float *)out + t, false);
}

static void simd_split(size_t n, const float *master, uint16_t *hi, int16_t *lo)
{
	size_t i;

	for (i = 0; i + VLEN <= n; i += VLEN) {
		vf x = vf_load(master + i);
		vi sign = vi_and(vi_of(x), vi_set1(0x80000000u));

		vec_split(vi_if_nan(x, vi_or(sign, vi_set1(ST_NAN_BITS)), vi_of(x)), hi + i,
			  lo + i);
	}
	st_optim_scalar_kernels.split(n - i, master + i, hi + i, lo + i);
}

static void simd_join(size_t n, const uint16_t *hi, const int16_t *lo, float *master)
{
	size_t i;

	for (i = 0; i + VLEN <= n; i += VLEN)
		vf_store(master + i, vec_join(hi + i, lo + i));
	st_optim_scalar_kernels.join(n - i, hi + i, lo + i, master + i);
}

static void simd_round(size_t n, const float *master, uint16_t *out)
{
	size_t i;

	for (i = 0; i + VLEN <= n; i += VLEN)
		vi_store_16(out + i, vec_round_bf16(vf_load(master + i)));
	st_optim_scalar_kernels.round(n - i, master + i, out + i);
}

const struct st_optim_kernels VEC_KERNELS = {
	.update = simd_update,
	.reduce = simd_reduce,
	.split = simd_split,
	.join = simd_join,
	.round = simd_round,
};
