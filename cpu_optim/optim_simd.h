/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpu_optim/optim_simd.h - the vector kernels, written once over the operations of a vector type.
 *
 * Layer:    cpu_optim (internal); included once each by optim_avx2.c and optim_avx512.c, which
 *           define first, for vectors vf (fp32) and vi (32-bit integers) of VLEN lanes:
 *
 *	vf_load vf_store vf_set1 vf_add vf_sub vf_mul vf_div vf_sqrt
 *	vf_fma(a, b, c)		a * b + c, rounded once
 *	vf_load_f16 vf_store_f16	VLEN fp16 numbers; stored to nearest even
 *	vi_set1 vi_add vi_sub vi_mul (low half) vi_and vi_or vi_xor, vf_of, vi_of (the same bits)
 *	vi_shl vi_shr (logical) by a constant; vi_min vi_max of signed numbers
 *	vi_iota()		0, 1, 2, ...
 *	vi_max_of(a)		the largest lane, a uint32_t; none is negative
 *	vi_load_u16, vi_load_s16, vi_load_u8, vi_load_s8	VLEN short integers, extended with
 *				zeros or the sign
 *	vi_store_16, vi_store_upper16	the low or high half of each lane
 *	vi_store_8(addr, a)	4 VLEN bytes from 4 vectors of numbers from 0 to 65535, saturated
 *	vi_if_nan(x, a, b), vi_if_zero(x, a, b)	a in the lanes where x is that, else b
 *	struct sq16		16 double sums; sq16_zero, sq16_store
 *	sq16_add(s, x)		s[j] += x[j]^2 for 16 floats in 16 / VLEN vectors
 *	VEC_KERNELS		name of the table
 *
 * Each step is that of optim_scalar.c, in the same order. What is left after the last whole vector
 * goes through the scalar kernels themselves.
 */
#define VEC_RUN    STRATA_MOMENTS_BLOCK
#define VEC_INLINE static inline __attribute__((always_inline))

VEC_INLINE vf vec_canonical(vf x)
{
	return vf_of(vi_if_nan(x, vi_set1(ST_NAN_BITS), vi_of(x)));
}

VEC_INLINE vf vec_join(const uint16_t *hi, const int16_t *lo)
{
	return vf_of(vi_add(vi_shl(vi_load_u16(hi), 16), vi_load_s16(lo)));
}

VEC_INLINE void vec_split(vi u, uint16_t *hi, int16_t *lo)
{
	vi_store_16(hi, vi_shr(vi_add(u, vi_set1(0x8000u)), 16));
	vi_store_16(lo, u);
}

VEC_INLINE vi vec_round_bf16(vf x)
{
	vi u = vi_of(x);
	vi odd = vi_and(vi_shr(u, 16), vi_set1(1));
	vi even = vi_shr(vi_add(vi_add(u, vi_set1(0x7fffu)), odd), 16);
	vi nan = vi_or(vi_and(vi_shr(u, 16), vi_set1(0x8000u)), vi_set1(0x7fc0u));

	return vi_if_nan(x, nan, even);
}

/* The factors in all lanes. */
struct vec_factors {
	vf grad_scale, wd, lr_wd, step_size;
	vf b1, one_minus_b1, b2, one_minus_b2, one_minus_b2_lo, inv_bc2, eps, d_m, d_g;
};

VEC_INLINE struct vec_factors vec_factors(const struct st_factors *s)
{
	return (struct vec_factors){
		.grad_scale = vf_set1(s->grad_scale),
		.wd = vf_set1(s->wd),
		.lr_wd = vf_set1(s->lr_wd),
		.step_size = vf_set1(s->step_size),
		.b1 = vf_set1(s->b1),
		.one_minus_b1 = vf_set1(s->one_minus_b1),
		.b2 = vf_set1(s->b2),
		.one_minus_b2 = vf_set1(s->one_minus_b2),
		.one_minus_b2_lo = vf_set1(s->one_minus_b2_lo),
		.inv_bc2 = vf_set1(s->inv_bc2),
		.eps = vf_set1(s->eps),
		.d_m = vf_set1(s->d_m),
		.d_g = vf_set1(s->d_g),
	};
}

struct vec_elem {
	vf m, v;
};

/* rule: a constant at every call, here and below. */
VEC_INLINE vf vec_direction(const struct vec_factors *s, struct vec_elem *e, vf g,
			    enum st_rule rule)
{
	vf g2, c;
	vi d;

	switch (rule) {
	case ST_RULE_ADAMW:
	case ST_RULE_ADAM:
		e->m = vf_fma(s->b1, e->m, vf_mul(s->one_minus_b1, g));
		g2 = vf_mul(g, g);
		e->v = vf_fma(s->one_minus_b2_lo, g2, vf_mul(s->b2, e->v));
		e->v = vf_fma(s->one_minus_b2, g2, e->v);
		return vf_div(e->m, vf_add(vf_sqrt(vf_mul(e->v, s->inv_bc2)), s->eps));
	case ST_RULE_ADAGRAD:
		e->v = vf_fma(g, g, e->v);
		return vf_div(g, vf_add(vf_sqrt(e->v), s->eps));
	case ST_RULE_LION:
		c = vf_fma(s->b1, e->m, vf_mul(s->one_minus_b1, g));
		e->m = vf_fma(s->b2, e->m, vf_mul(s->one_minus_b2, g));
		d = vi_or(vi_and(vi_of(c), vi_set1(0x80000000u)), vi_set1(0x3f800000u));
		return vf_of(vi_if_nan(c, vi_of(c), vi_if_zero(c, vi_set1(0), d)));
	case ST_RULE_MOMENTUM:
		e->m = vf_fma(s->b1, e->m, vf_mul(s->one_minus_b1, g));
		return vf_fma(s->d_m, e->m, vf_mul(s->d_g, g));
	default:
		return g;
	}
}

VEC_INLINE vf vec_load_grad(enum strata_optim_grads grads, const void *g, size_t i)
{
	if (grads == STRATA_GRADS_BF16)
		return vf_of(vi_shl(vi_load_u16((const uint16_t *)g + i), 16));
	if (grads == STRATA_GRADS_F32)
		return vf_load((const float *)g + i);
	return vf_load_f16((const uint16_t *)g + i);
}

VEC_INLINE vf vec_load_param(const struct strata_optim_range *r, size_t i, bool is_split)
{
	const uint16_t *hi = r->array[STRATA_ARRAY_PARAM];
	const int16_t *lo = r->array[STRATA_ARRAY_LOW];

	if (is_split)
		return vec_join(hi + i, lo + i);
	return vf_load((const float *)r->array[STRATA_ARRAY_PARAM] + i);
}

/* The first half of a step, elements [i, i + VLEN): new moments, and the direction. */
VEC_INLINE vf vec_moments(const struct vec_factors *s, const struct strata_optim_format *f,
			  const struct strata_optim_range *r, size_t i, struct vec_elem *e,
			  enum st_rule rule, bool is_split)
{
	vf g = vf_mul(vec_load_grad(f->grads, r->array[STRATA_ARRAY_GRAD], i), s->grad_scale);

	if (st_rule_is_l2(rule))
		g = vf_add(g, vf_mul(s->wd, vec_load_param(r, i, is_split)));
	return vec_direction(s, e, g, rule);
}

/* The second half: new parameters. Where they are packed, in a loop of its own after the first:
 * what waits for a root and a division is then not all of a step, and more steps are in flight. */
VEC_INLINE void vec_apply(const struct vec_factors *s, const struct strata_optim_format *f,
			  const struct strata_optim_range *r, size_t i, vf d, bool is_split)
{
	uint16_t *hi = r->array[STRATA_ARRAY_PARAM], *low16 = r->array[STRATA_ARRAY_LOW];
	float *p32 = r->array[STRATA_ARRAY_PARAM];
	int16_t *lo = r->array[STRATA_ARRAY_LOW];
	vf p = vec_load_param(r, i, is_split);

	p = vec_canonical(vf_sub(p, vf_fma(s->step_size, d, vf_mul(s->lr_wd, p))));
	if (is_split) {
		vec_split(vi_of(p), hi + i, lo + i);
		return;
	}
	vf_store(p32 + i, p);
	if (f->params == STRATA_PARAMS_F32_BF16)
		vi_store_16(low16 + i, vec_round_bf16(p));
	else if (f->params == STRATA_PARAMS_F32_F16)
		vf_store_f16(low16 + i, p);
}

/* Those of VLEN elements from elem on. */
VEC_INLINE vi vec_random(struct st_random k, uint32_t elem)
{
	vi x = vi_add(vi_iota(), vi_set1(elem + k.k0));

	x = vi_mul(vi_xor(x, vi_shr(x, 16)), vi_set1(ST_RANDOM_MUL1));
	x = vi_xor(x, vi_set1(k.k1));
	x = vi_mul(vi_xor(x, vi_shr(x, 15)), vi_set1(ST_RANDOM_MUL2));
	return vi_xor(x, vi_shr(x, 16));
}

/* Moments of fp32 and bf16. Returns the elements done, the largest multiple of VLEN. */
VEC_INLINE size_t vec_update_plain(const struct st_factors *factors,
				   const struct strata_optim_format *format,
				   const struct strata_optim_range *range, enum st_rule rule,
				   bool is_split, bool is_bf16)
{
	const struct strata_optim_format f = *format; /* what is stored may not alias these */
	const struct strata_optim_range r = *range;
	const struct vec_factors s = vec_factors(factors);
	const struct st_random key = st_random_init(factors->key, r.stream, r.first);
	float *m32 = r.array[STRATA_ARRAY_M], *v32 = r.array[STRATA_ARRAY_V];
	uint16_t *m16 = r.array[STRATA_ARRAY_M], *v16 = r.array[STRATA_ARRAY_V];
	const bool has_m = st_rule_has_m(rule), has_v = st_rule_has_v(rule);
	const size_t whole = r.n / VLEN * VLEN;

	for (size_t at = 0; at < whole; at += VEC_RUN) {
		const size_t end = whole - at < VEC_RUN ? whole : at + VEC_RUN;
		vf d[VEC_RUN / VLEN];

		for (size_t i = at; i < end; i += VLEN) {
			struct vec_elem e = { vf_set1(0.0f), vf_set1(0.0f) };
			vi random = vi_set1(0);
			vf dir;

			if (is_bf16)
				random = vec_random(key, (uint32_t)(r.first + i));
			if (has_m)
				e.m = is_bf16 ? vf_of(vi_shl(vi_load_u16(m16 + i), 16))
					      : vf_load(m32 + i);
			if (has_v)
				e.v = is_bf16 ? vf_of(vi_shl(vi_load_u16(v16 + i), 16))
					      : vf_load(v32 + i);
			dir = vec_moments(&s, &f, &r, i, &e, rule, is_split);
			if (is_split)
				d[(i - at) / VLEN] = dir;
			else
				vec_apply(&s, &f, &r, i, dir, false);
			e.m = vec_canonical(e.m);
			e.v = vec_canonical(e.v);
			if (has_m && is_bf16)
				vi_store_upper16(m16 + i, vi_add(vi_of(e.m), vi_shr(random, 16)));
			else if (has_m)
				vf_store(m32 + i, e.m);
			if (has_v && is_bf16)
				vi_store_upper16(v16 + i, vi_add(vi_of(e.v),
								 vi_and(random, vi_set1(0xffffu))));
			else if (has_v)
				vf_store(v32 + i, e.v);
		}
		for (size_t i = at; is_split && i < end; i += VLEN)
			vec_apply(&s, &f, &r, i, d[(i - at) / VLEN], true);
	}
	return whole;
}

VEC_INLINE vf vec_decode_m(const uint8_t *codes, vf scale)
{
	vi b = vi_load_s8(codes);
	vi u = vi_add(vi_and(vi_shl(b, ST_CODE_SHIFT), vi_set1(ST_CODE_M_MAX << ST_CODE_SHIFT)),
		      vi_set1(ST_CODE_M_BITS));
	vf x = vf_mul(vf_sub(vf_of(u), vf_of(vi_set1(ST_CODE_M_BITS))), scale);

	return vf_of(vi_xor(vi_of(x), vi_and(b, vi_set1(0x80000000u))));
}

VEC_INLINE vf vec_decode_v(const uint8_t *codes, vf scale)
{
	vi u = vi_add(vi_shl(vi_load_u8(codes), ST_CODE_SHIFT), vi_set1(ST_CODE_V_BITS));

	return vf_mul(vf_sub(vf_of(u), vf_of(vi_set1(ST_CODE_V_BITS))), scale);
}

/* random16: already in its place, below ST_CODE_SHIFT. */
VEC_INLINE vi vec_encode(vf y, uint32_t c_bits, vi random)
{
	vi u = vi_add(vi_of(vf_add(y, vf_of(vi_set1(c_bits)))), random);

	return vi_sub(vi_shr(u, ST_CODE_SHIFT), vi_set1(c_bits >> ST_CODE_SHIFT));
}

VEC_INLINE vi vec_encode_m(vf m, vf inverse, vi random)
{
	vi sign = vi_and(vi_of(m), vi_set1(0x80000000u));
	vf y = vf_mul(vf_of(vi_xor(vi_of(m), sign)), inverse);
	vi code = vec_encode(y, ST_CODE_M_BITS,
			     vi_and(vi_shr(random, 16 - (ST_CODE_SHIFT - 16)),
				    vi_set1(0xffffu << (ST_CODE_SHIFT - 16))));

	return vi_or(vi_min(code, vi_set1(ST_CODE_M_MAX)), vi_shr(sign, 24));
}

/* May exceed ST_CODE_V_MAX: the narrowing saturates. */
VEC_INLINE vi vec_encode_v(vf v, vf inverse, vi random)
{
	vi code = vec_encode(vf_mul(v, inverse), ST_CODE_V_BITS,
			     vi_and(vi_shl(random, ST_CODE_SHIFT - 16),
				    vi_set1(0xffffu << (ST_CODE_SHIFT - 16))));

	return vi_max(code, vi_min(vi_of(v), vi_set1(1))); /* v >= 0: 1 unless it is 0 */
}

#define VEC_PER_BLOCK (STRATA_MOMENTS_BLOCK / VLEN)

/* The moments of a block after the step, before they are encoded. */
struct vec_block {
	vf m[VEC_PER_BLOCK], v[VEC_PER_BLOCK], d[VEC_PER_BLOCK];
	vi m_max, v_max; /* of the bits without sign */
};

VEC_INLINE void vec_encode_block(const struct vec_block *b, struct st_random key, uint32_t elem,
				 uint8_t *m8, uint8_t *v8, float *m_scale, float *v_scale,
				 bool has_m, bool has_v)
{
	vf m_inverse = vf_set1(0.0f), v_inverse = vf_set1(0.0f);

	if (has_m) {
		*m_scale = st_scale(vi_max_of(b->m_max));
		m_inverse = vf_set1(st_scale_inverse(*m_scale));
	}
	if (has_v) {
		*v_scale = st_scale(vi_max_of(b->v_max));
		v_inverse = vf_set1(st_scale_inverse(*v_scale));
	}
	for (size_t k = 0; k < VEC_PER_BLOCK; k += 4) {
		vi m[4], v[4];

#pragma GCC unroll 4 /* else m and v go through memory */
		for (size_t j = 0; j < 4; j++) {
			vi random = vec_random(key, elem + (uint32_t)((k + j) * VLEN));

			if (has_m)
				m[j] = vec_encode_m(b->m[k + j], m_inverse, random);
			if (has_v)
				v[j] = vec_encode_v(b->v[k + j], v_inverse, random);
		}
		if (has_m)
			vi_store_8(m8 + k * VLEN, m);
		if (has_v)
			vi_store_8(v8 + k * VLEN, v);
	}
	/* Zeros, or not to be represented: the scale says which. */
	if (has_m && !(*m_scale > 0.0f))
		memset(m8, 0, STRATA_MOMENTS_BLOCK);
	if (has_v && !(*v_scale > 0.0f))
		memset(v8, 0, STRATA_MOMENTS_BLOCK);
}

/* Whole blocks. Returns the elements done. */
VEC_INLINE size_t vec_update_int8(const struct st_factors *factors,
				  const struct strata_optim_format *format,
				  const struct strata_optim_range *range, enum st_rule rule,
				  bool is_split)
{
	const struct strata_optim_format f = *format;
	const struct strata_optim_range r = *range;
	const struct vec_factors s = vec_factors(factors);
	const struct st_random key = st_random_init(factors->key, r.stream, r.first);
	uint8_t *m8 = r.array[STRATA_ARRAY_M], *v8 = r.array[STRATA_ARRAY_V];
	float *m_scale = r.array[STRATA_ARRAY_M_SCALE], *v_scale = r.array[STRATA_ARRAY_V_SCALE];
	const bool has_m = st_rule_has_m(rule), has_v = st_rule_has_v(rule);
	const vi no_sign = vi_set1(0x7fffffffu);
	size_t at;

	for (at = 0; at + STRATA_MOMENTS_BLOCK <= r.n; at += STRATA_MOMENTS_BLOCK) {
		const size_t b = at / STRATA_MOMENTS_BLOCK;
		struct vec_block block;
		vi m_max = vi_set1(0), v_max = vi_set1(0);

		for (size_t k = 0; k < VEC_PER_BLOCK; k++) {
			const size_t i = at + k * VLEN;
			struct vec_elem e = { vf_set1(0.0f), vf_set1(0.0f) };

			if (has_m)
				e.m = vec_decode_m(m8 + i, vf_set1(m_scale[b]));
			if (has_v)
				e.v = vec_decode_v(v8 + i, vf_set1(v_scale[b]));
			block.d[k] = vec_moments(&s, &f, &r, i, &e, rule, is_split);
			block.m[k] = e.m;
			block.v[k] = e.v;
			m_max = vi_max(m_max, vi_and(vi_of(e.m), no_sign));
			v_max = vi_max(v_max, vi_and(vi_of(e.v), no_sign));
		}
		for (size_t k = 0; k < VEC_PER_BLOCK; k++)
			vec_apply(&s, &f, &r, at + k * VLEN, block.d[k], is_split);
		block.m_max = m_max;
		block.v_max = v_max;
		vec_encode_block(&block, key, (uint32_t)(r.first + at), m8 + at, v8 + at,
				 m_scale + b, v_scale + b, has_m, has_v);
	}
	return at;
}

typedef size_t vec_update_fn(const struct st_factors *, const struct strata_optim_format *,
			     const struct strata_optim_range *);

/* One kernel: gradients and low-precision outputs are told apart inside, by branches that always
 * go the same way. */
#define VEC_UPDATE(name, rule, is_split, moments)                                                  \
	static size_t name(const struct st_factors *s, const struct strata_optim_format *f,        \
			   const struct strata_optim_range *r)                                     \
	{                                                                                          \
		if ((moments) == STRATA_MOMENTS_INT8)                                              \
			return vec_update_int8(s, f, r, rule, is_split);                           \
		return vec_update_plain(s, f, r, rule, is_split,                                   \
					(moments) == STRATA_MOMENTS_BF16);                         \
	}
#define VEC_UPDATES(lower, rule)                                                                   \
	VEC_UPDATE(update_##lower##_f32, rule, false, STRATA_MOMENTS_F32)                          \
	VEC_UPDATE(update_##lower##_bf16, rule, false, STRATA_MOMENTS_BF16)                        \
	VEC_UPDATE(update_##lower##_int8, rule, false, STRATA_MOMENTS_INT8)                        \
	VEC_UPDATE(update_##lower##_split_f32, rule, true, STRATA_MOMENTS_F32)                     \
	VEC_UPDATE(update_##lower##_split_bf16, rule, true, STRATA_MOMENTS_BF16)                   \
	VEC_UPDATE(update_##lower##_split_int8, rule, true, STRATA_MOMENTS_INT8)
VEC_UPDATES(adamw, ST_RULE_ADAMW)
VEC_UPDATES(adam, ST_RULE_ADAM)
VEC_UPDATES(adagrad, ST_RULE_ADAGRAD)
VEC_UPDATES(lion, ST_RULE_LION)
VEC_UPDATES(momentum, ST_RULE_MOMENTUM)
VEC_UPDATE(update_sgd, ST_RULE_SGD, false, STRATA_MOMENTS_F32)
VEC_UPDATE(update_sgd_split, ST_RULE_SGD, true, STRATA_MOMENTS_F32)

#define VEC_ROW(lower)                                                                             \
	{                                                                                          \
		{ update_##lower##_f32, update_##lower##_bf16, update_##lower##_int8 },            \
		{                                                                                  \
			update_##lower##_split_f32, update_##lower##_split_bf16,                   \
				update_##lower##_split_int8                                        \
		}                                                                                  \
	}

static void simd_update(const struct st_factors *s, const struct strata_optim_format *f,
			const struct strata_optim_range *r)
{
	static vec_update_fn *const by_rule[ST_RULES][2][3] = {
		[ST_RULE_ADAMW] = VEC_ROW(adamw),
		[ST_RULE_ADAM] = VEC_ROW(adam),
		[ST_RULE_ADAGRAD] = VEC_ROW(adagrad),
		[ST_RULE_LION] = VEC_ROW(lion),
		[ST_RULE_MOMENTUM] = VEC_ROW(momentum),
		[ST_RULE_SGD] = { { update_sgd, update_sgd, update_sgd },
				  { update_sgd_split, update_sgd_split, update_sgd_split } },
	};
	size_t done = by_rule[s->rule][f->params == STRATA_PARAMS_SPLIT][f->moments](s, f, r);

	if (done < r->n) {
		struct strata_optim_range tail = st_optim_range_from(f, r, done);

		st_optim_scalar_kernels.update(s, f, &tail);
	}
}

/* The value as it was stored. */
VEC_INLINE vf vec_store_grad(enum strata_optim_grads to, void *out, size_t i, vf x)
{
	if (to == STRATA_GRADS_F32) {
		vf_store((float *)out + i, x);
		return x;
	}
	if (to == STRATA_GRADS_BF16) {
		vi b = vec_round_bf16(x);

		vi_store_16((uint16_t *)out + i, b);
		return vf_of(vi_shl(b, 16));
	}
	vf_store_f16((uint16_t *)out + i, x);
	return vf_load_f16((uint16_t *)out + i);
}

VEC_INLINE double vec_sum_tile(const void *in, size_t at, enum strata_optim_grads from, void *out,
			       enum strata_optim_grads to)
{
	struct sq16 sum = sq16_zero();
	double lane[16];

	for (size_t i = at; i < at + STRATA_NUMERIC_TILE; i += 16) {
		vf x[16 / VLEN];

		for (size_t k = 0; k < 16 / VLEN; k++) {
			x[k] = vec_load_grad(from, in, i + k * VLEN);
			if (out)
				x[k] = vec_store_grad(to, out, i + k * VLEN, x[k]);
		}
		sum = sq16_add(sum, x);
	}
	sq16_store(lane, sum);
	for (size_t w = 8; w; w /= 2)
		for (size_t j = 0; j < w; j++)
			lane[j] += lane[j + w];
	return lane[0];
}

static void simd_sums(size_t n, const void *in, enum strata_optim_grads from, void *out,
		      enum strata_optim_grads to, double *leaf)
{
	size_t t;

	for (t = 0; t + STRATA_NUMERIC_TILE <= n; t += STRATA_NUMERIC_TILE)
		leaf[t / STRATA_NUMERIC_TILE] = vec_sum_tile(in, t, from, out, to);
	st_optim_scalar_kernels.sums(n - t, (const char *)in + t * st_grad_bytes(from), from,
				     out ? (char *)out + t * st_grad_bytes(to) : NULL, to,
				     leaf + t / STRATA_NUMERIC_TILE);
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
	.sums = simd_sums,
	.split = simd_split,
	.join = simd_join,
	.round = simd_round,
};
