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
 *	vf_any_nan(a, b)	is there one?
 *	vf_even vf_odd(a, b)	these lanes of a, then of b
 *	vf_zip0 vf_zip1(a, b)	the inverse: first and second half of a[0], b[0], a[1], ...
 *	vi_load vi_store vi_set1 vi_add vi_mul (low half) vi_and vi_or vi_xor
 *	vf_of vi_of		the same bits as the other type
 *	vi_shl vi_shr (logical) by a constant; vi_min vi_max of unsigned numbers
 *	vi_iota()		0, 1, 2, ...
 *	vi_keep(a)		a, which the compiler no longer takes for a constant: in a loop that
 *				needs many it would make each anew, in three instructions
 *	vi_max_of(a)		the largest lane, a uint32_t below 2^31
 *	vi_if_nan(x, a, b), vi_if_zero(x, a, b)	a in the lanes where x is that, else b
 *
 * a vi as 2 VLEN words of 16 bits, of which words 2j and 2j + 1 are lane j:
 *
 *	vw_set1 vw_add vw_sub; vw_shl vw_shr (logical) vw_sra by a constant; vw_min vw_max
 *				of unsigned numbers
 *	vw_blend(a, b)		even words of a, odd ones of b
 *	vw_low vw_high(a, b)	the lower or upper halves of the lanes of a, then of b
 *	vw_zip0 vw_zip1(a, b)	the inverse: the first or second VLEN lanes a[i] | b[i] << 16
 *	vw_widen0 vw_widen1(a)	the same with zeros and a
 *	vw_load_u8 vw_load_s8	2 VLEN bytes, extended with zeros or the sign
 *	vw_store_u8(to, a)	2 VLEN bytes from numbers below 2^15, saturated
 *	vw_store_u8(to_a, to_b, a, b)	the same of both
 *
 *	struct sq16		16 double sums; sq16_zero, sq16_store
 *	sq16_add(s, a, b)	s[i mod 16] += x[i]^2 for the 2 VLEN lanes x of a, then b
 *	VEC_KERNELS		name of the table
 *
 * Each step is that of optim_scalar.c, in the same order. Two vectors are taken at a time, a pair:
 * as they come in memory (IN_ORDER), or elements with an even index in one and those with an odd
 * index in the other (EVEN_ODD). Then each lane of a vector of words has both: what is stored in 16
 * or 8 bits is unpacked by a shift and a mask, and packed by a shift and a blend, with nothing that
 * crosses lanes; and 32 random bits serve both. Arrays of fp32 beside are reordered by shuffles.
 * What is left after the last whole pair goes through the scalar kernels themselves.
 */
#define PAIR       ((size_t)2 * VLEN)
#define VEC_INLINE static inline __attribute__((always_inline))

enum vec_order { IN_ORDER, EVEN_ODD }; /* a constant at every call */

struct vf2 {
	vf a, b;
};

VEC_INLINE vf vec_canonical(vf x)
{
	return vf_of(vi_if_nan(x, vi_set1(ST_NAN_BITS), vi_of(x)));
}

/* The upper halves from words, the lower ones zero. */
VEC_INLINE struct vf2 vec_widen(vi w, enum vec_order order)
{
	if (order == IN_ORDER)
		return (struct vf2){ vf_of(vw_widen0(w)), vf_of(vw_widen1(w)) };
	return (struct vf2){ vf_of(vi_shl(w, 16)), vf_of(vi_and(w, vi_set1(0xffff0000u))) };
}

VEC_INLINE vi vec_upper(vi a, vi b, enum vec_order order)
{
	return order == IN_ORDER ? vw_high(a, b) : vw_blend(vi_shr(a, 16), b);
}

VEC_INLINE vi vec_lower(vi a, vi b, enum vec_order order)
{
	return order == IN_ORDER ? vw_low(a, b) : vw_blend(a, vi_shl(b, 16));
}

VEC_INLINE struct vf2 vec_load_f32(const float *x, enum vec_order order)
{
	vf a = vf_load(x), b = vf_load(x + VLEN);

	return order == IN_ORDER ? (struct vf2){ a, b }
				 : (struct vf2){ vf_even(a, b), vf_odd(a, b) };
}

VEC_INLINE struct vf2 vec_to_memory(struct vf2 x, enum vec_order order)
{
	return order == IN_ORDER ? x : (struct vf2){ vf_zip0(x.a, x.b), vf_zip1(x.a, x.b) };
}

VEC_INLINE void vec_store_f32(float *to, struct vf2 x, enum vec_order order)
{
	x = vec_to_memory(x, order);
	vf_store(to, x.a);
	vf_store(to + VLEN, x.b);
}

VEC_INLINE struct vf2 vec_load_f16(const uint16_t *h, enum vec_order order)
{
	vf a = vf_load_f16(h), b = vf_load_f16(h + VLEN);

	return order == IN_ORDER ? (struct vf2){ a, b }
				 : (struct vf2){ vf_even(a, b), vf_odd(a, b) };
}

VEC_INLINE void vec_store_f16(uint16_t *to, struct vf2 x, enum vec_order order)
{
	x = vec_to_memory(x, order);
	vf_store_f16(to, x.a);
	vf_store_f16(to + VLEN, x.b);
}

/* A negative correction borrows 1 from the upper half of the sum. */
VEC_INLINE struct vf2 vec_join(const uint16_t *hi, const int16_t *lo, enum vec_order order)
{
	vi low = vi_load(lo), up = vw_add(vi_load(hi), vw_sra(low, 15));

	if (order == IN_ORDER)
		return (struct vf2){ vf_of(vw_zip0(low, up)), vf_of(vw_zip1(low, up)) };
	return (struct vf2){ vf_of(vw_blend(low, vi_shl(up, 16))),
			     vf_of(vw_blend(vi_shr(low, 16), up)) };
}

/* The upper half of u + 0x8000 is that of u, plus the highest bit of the lower half. */
VEC_INLINE void vec_split(struct vf2 x, uint16_t *hi, int16_t *lo, enum vec_order order)
{
	vi low = vec_lower(vi_of(x.a), vi_of(x.b), order);
	vi up = vec_upper(vi_of(x.a), vi_of(x.b), order);

	vi_store(lo, low);
	vi_store(hi, vw_add(up, vw_shr(low, 15)));
}

/* bf16 in the upper halves, to nearest even; the lower ones are not zero. */
VEC_INLINE vi vec_round_bf16(vf x)
{
	vi u = vi_of(x);
	vi odd = vi_and(vi_shr(u, 16), vi_set1(1));
	vi even = vi_add(vi_add(u, vi_set1(0x7fffu)), odd);
	vi nan = vi_or(vi_and(u, vi_set1(0x80000000u)), vi_set1(ST_NAN_BITS));

	return vi_if_nan(x, nan, even);
}

VEC_INLINE vi vec_round2_bf16(struct vf2 x, enum vec_order order)
{
	return vec_upper(vec_round_bf16(x.a), vec_round_bf16(x.b), order);
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

/*
 * A step is taken in three parts, each one pair of vectors behind the part before it: new moments
 * and x, the direction or what is divided; the divisor; the new parameter. In one piece, what waits
 * for the root and then for the division would keep the processor from seeing enough of the next.
 *
 * rule: a constant at every call, here and below. Returns x.
 */
VEC_INLINE vf vec_begin(const struct vec_factors *s, struct vec_elem *e, vf g, enum st_rule rule)
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
		return e->m;
	case ST_RULE_ADAGRAD:
		e->v = vf_fma(g, g, e->v);
		return g;
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

VEC_INLINE vf vec_divisor(const struct vec_factors *s, vf v, enum st_rule rule)
{
	if (rule != ST_RULE_ADAGRAD)
		v = vf_mul(v, s->inv_bc2);
	return vf_add(vf_sqrt(v), s->eps);
}

VEC_INLINE vf vec_end(const struct vec_factors *s, vf p, vf x, vf divisor, enum st_rule rule)
{
	vf d = st_rule_has_v(rule) ? vf_div(x, divisor) : x;

	return vf_sub(p, vf_fma(s->step_size, d, vf_mul(s->lr_wd, p)));
}

VEC_INLINE struct vf2 vec_load_grad(enum strata_optim_grads grads, const void *g, size_t i,
				    enum vec_order order)
{
	if (grads == STRATA_GRADS_BF16)
		return vec_widen(vi_load((const uint16_t *)g + i), order);
	if (grads == STRATA_GRADS_F32)
		return vec_load_f32((const float *)g + i, order);
	return vec_load_f16((const uint16_t *)g + i, order);
}

/* st_random_bits() in all lanes; first: of the first elements of a range. */
struct vec_random {
	vi first, k1, mul1, mul2;
};

VEC_INLINE struct vec_random vec_random_init(struct st_random k, uint64_t first_elem)
{
	vi first = vi_set1((uint32_t)first_elem / 2 + k.k0);

	return (struct vec_random){
		.first = vi_keep(vi_add(first, vi_iota())),
		.k1 = vi_keep(vi_set1(k.k1)),
		.mul1 = vi_keep(vi_set1(ST_RANDOM_MUL1)),
		.mul2 = vi_keep(vi_set1(ST_RANDOM_MUL2)),
	};
}

/* Of pair i / 2 of the range and those after it. */
VEC_INLINE vi vec_random(const struct vec_random *k, size_t i)
{
	vi x = vi_add(k->first, vi_set1((uint32_t)(i / 2)));

	x = vi_mul(vi_xor(x, vi_shr(x, 16)), k->mul1);
	x = vi_xor(x, k->k1);
	x = vi_mul(vi_xor(x, vi_shr(x, 15)), k->mul2);
	return vi_xor(x, vi_shr(x, 16));
}

VEC_INLINE vi vec_random_low(vi random, unsigned n)
{
	return vi_and(random, vi_set1((1u << n) - 1));
}

VEC_INLINE vi vec_random_high(vi random, unsigned n)
{
	return vi_shr(random, 32 - n);
}

/* What a loop needs; copies, which nothing that is stored may alias. */
struct vec_pass {
	struct vec_factors s;
	struct strata_optim_format f;
	struct strata_optim_range r;
	struct vec_random random;
	enum st_rule rule; /* constants, here and below */
	enum vec_order order;
	bool is_split;
};

#define AHEAD ((size_t)512) /* elements: on a Zen 3, 256 to 1024 were as good */

/*
 * Asks for what comes AHEAD elements later, past the end too. The instructions between two lines
 * of one array are more than the processor looks ahead over, so it has few misses under way unless
 * it is told; and it is told that the lines will be written.
 */
VEC_INLINE void vec_ahead(const struct vec_pass *w, size_t i, size_t moment_bytes)
{
	const uintptr_t at = i + AHEAD, param_bytes = w->is_split ? 2 : 4;
	void *const *a = w->r.array;

#define VEC_ASK(which, bytes, writes)                                                              \
	__builtin_prefetch((const void *)((uintptr_t)a[which] + at * (bytes)), writes)
	VEC_ASK(STRATA_ARRAY_PARAM, param_bytes, 1);
	if (w->is_split)
		VEC_ASK(STRATA_ARRAY_LOW, 2, 1);
	if (st_rule_has_m(w->rule))
		VEC_ASK(STRATA_ARRAY_M, moment_bytes, 1);
	if (st_rule_has_v(w->rule))
		VEC_ASK(STRATA_ARRAY_V, moment_bytes, 1);
	VEC_ASK(STRATA_ARRAY_GRAD, st_grad_bytes(w->f.grads), 0);
#undef VEC_ASK
}

VEC_INLINE struct vf2 vec_load_param(const struct vec_pass *w, size_t i)
{
	const uint16_t *hi = w->r.array[STRATA_ARRAY_PARAM];
	const int16_t *lo = w->r.array[STRATA_ARRAY_LOW];

	if (w->is_split)
		return vec_join(hi + i, lo + i, w->order);
	return vec_load_f32((const float *)w->r.array[STRATA_ARRAY_PARAM] + i, w->order);
}

/* What the first part hands on. */
struct vec_first {
	struct vf2 m, v, x;
};

/* And the second. */
struct vec_second {
	struct vf2 x, divisor;
};

/* The first part, elements [i, i + PAIR), from the moments that are there. */
VEC_INLINE void vec_moments(const struct vec_pass *w, size_t i, struct vec_first *e)
{
	const struct vec_factors *s = &w->s;
	struct vf2 g = vec_load_grad(w->f.grads, w->r.array[STRATA_ARRAY_GRAD], i, w->order);
	struct vec_elem a = { e->m.a, e->v.a }, b = { e->m.b, e->v.b };

	g.a = vf_mul(g.a, s->grad_scale);
	g.b = vf_mul(g.b, s->grad_scale);
	if (st_rule_is_l2(w->rule)) {
		struct vf2 p = vec_load_param(w, i);

		g.a = vf_add(g.a, vf_mul(s->wd, p.a));
		g.b = vf_add(g.b, vf_mul(s->wd, p.b));
	}
	e->x.a = vec_begin(s, &a, g.a, w->rule);
	e->x.b = vec_begin(s, &b, g.b, w->rule);
	e->m = (struct vf2){ a.m, b.m };
	e->v = (struct vf2){ a.v, b.v };
}

VEC_INLINE struct vec_second vec_divisors(const struct vec_pass *w, const struct vec_first *e)
{
	struct vec_second h = { e->x, e->x };

	if (st_rule_has_v(w->rule)) {
		h.divisor.a = vec_divisor(&w->s, e->v.a, w->rule);
		h.divisor.b = vec_divisor(&w->s, e->v.b, w->rule);
	}
	return h;
}

/* The third part. */
VEC_INLINE void vec_apply(const struct vec_pass *w, size_t i, const struct vec_second *h)
{
	uint16_t *hi = w->r.array[STRATA_ARRAY_PARAM], *low16 = w->r.array[STRATA_ARRAY_LOW];
	float *p32 = w->r.array[STRATA_ARRAY_PARAM];
	int16_t *lo = w->r.array[STRATA_ARRAY_LOW];
	struct vf2 p = vec_load_param(w, i);

	p.a = vec_end(&w->s, p.a, h->x.a, h->divisor.a, w->rule);
	p.b = vec_end(&w->s, p.b, h->x.b, h->divisor.b, w->rule);
	if (__builtin_expect(vf_any_nan(p.a, p.b), 0))
		p = (struct vf2){ vec_canonical(p.a), vec_canonical(p.b) };
	if (w->is_split) {
		vec_split(p, hi + i, lo + i, w->order);
		return;
	}
	vec_store_f32(p32 + i, p, w->order);
	if (w->f.params == STRATA_PARAMS_F32_BF16)
		vi_store(low16 + i, vec_round2_bf16(p, w->order));
	else if (w->f.params == STRATA_PARAMS_F32_F16)
		vec_store_f16(low16 + i, p, w->order);
}

/* ---- moments of 32 and 16 bits -------------------------------------------------------------- */

VEC_INLINE struct vf2 vec_load_moment(const void *x, size_t i, bool is_bf16, enum vec_order order)
{
	if (is_bf16)
		return vec_widen(vi_load((const uint16_t *)x + i), order);
	return vec_load_f32((const float *)x + i, order);
}

/* even, odd: random bits, of bf16. */
VEC_INLINE void vec_store_moment(void *to, size_t i, struct vf2 x, vi even, vi odd, bool is_bf16,
				 enum vec_order order)
{
	if (is_bf16)
		vi_store((uint16_t *)to + i,
			 vec_upper(vi_add(vi_of(x.a), even), vi_add(vi_of(x.b), odd), order));
	else
		vec_store_f32((float *)to + i, x, order);
}

VEC_INLINE struct vec_first vec_plain_first(const struct vec_pass *w, size_t i, bool is_bf16)
{
	const struct vf2 zero = { vf_set1(0.0f), vf_set1(0.0f) };
	struct vec_first e = { zero, zero, zero };

	if (st_rule_has_m(w->rule))
		e.m = vec_load_moment(w->r.array[STRATA_ARRAY_M], i, is_bf16, w->order);
	if (st_rule_has_v(w->rule))
		e.v = vec_load_moment(w->r.array[STRATA_ARRAY_V], i, is_bf16, w->order);
	vec_moments(w, i, &e);
	return e;
}

/* NaN is rare, and comparing costs less than blending. */
VEC_INLINE void vec_canonical_moments(struct vec_first *e, enum st_rule rule)
{
	const bool has_m = st_rule_has_m(rule), has_v = st_rule_has_v(rule);
	const struct vf2 x = has_m ? e->m : e->v, y = has_v ? e->v : x;
	bool has_nan = vf_any_nan(x.a, y.b);

	if (has_m && has_v)
		has_nan |= vf_any_nan(x.b, y.a);
	if (__builtin_expect(has_nan, 0)) {
		e->m = (struct vf2){ vec_canonical(e->m.a), vec_canonical(e->m.b) };
		e->v = (struct vf2){ vec_canonical(e->v.a), vec_canonical(e->v.b) };
	}
}

/* The second part, and the moments are stored. */
VEC_INLINE struct vec_second vec_plain_second(const struct vec_pass *w, size_t i,
					      struct vec_first e, bool is_bf16)
{
	const struct vec_second h = vec_divisors(w, &e);
	vi random, low = vi_set1(0), high = vi_set1(0);

	if (is_bf16) {
		random = vec_random(&w->random, i);
		low = vec_random_low(random, ST_RANDOM_BF16);
		high = vec_random_high(random, ST_RANDOM_BF16);
	}
	if (w->rule != ST_RULE_SGD)
		vec_canonical_moments(&e, w->rule);
	if (st_rule_has_m(w->rule))
		vec_store_moment(w->r.array[STRATA_ARRAY_M], i, e.m, low, high, is_bf16, w->order);
	if (st_rule_has_v(w->rule))
		vec_store_moment(w->r.array[STRATA_ARRAY_V], i, e.v, high, low, is_bf16, w->order);
	return h;
}

/* Returns the elements done, the largest multiple of PAIR. The first has an even index. */
VEC_INLINE size_t vec_update_plain(const struct st_factors *factors,
				   const struct strata_optim_format *f,
				   const struct strata_optim_range *r, enum st_rule rule,
				   bool is_split, bool is_bf16)
{
	const struct vec_pass w = {
		.s = vec_factors(factors),
		.f = *f,
		.r = *r,
		.random = vec_random_init(st_random_init(factors->key, r->stream, r->first),
					  r->first),
		.rule = rule,
		.order = is_bf16 ? EVEN_ODD : IN_ORDER,
		.is_split = is_split,
	};
	const struct vf2 zero = { vf_set1(0.0f), vf_set1(0.0f) };
	const size_t whole = w.r.n / PAIR * PAIR;
	struct vec_first first = { zero, zero, zero };
	struct vec_second second = { zero, zero };

	for (size_t i = 0; whole && i < whole + 2 * PAIR; i += PAIR) {
		const size_t i1 = i - PAIR, i2 = i1 - PAIR; /* huge before there is one */

		vec_ahead(&w, i, is_bf16 ? 2 : 4);
		if (i2 < whole)
			vec_apply(&w, i2, &second);
		if (i1 < whole)
			second = vec_plain_second(&w, i1, first, is_bf16);
		if (i < whole)
			first = vec_plain_first(&w, i, is_bf16);
	}
	return whole;
}

/* ---- moments of 8 bits ---------------------------------------------------------------------- */

/* Constants of decoding and encoding; those of words first. */
struct vec_codes {
	vi m_field, m_c_word, v_c_word, v_c_code, m_most, m_max, m_sign;
	vi sign, no_sign, sign_c, m_c, one, random_low;
	vf v_c;
};

VEC_INLINE struct vec_codes vec_codes(void)
{
	return (struct vec_codes){
		.m_field = vi_keep(vw_set1(0x8000u | ST_CODE_M_MAX << (ST_CODE_SHIFT - 16))),
		.m_c_word = vi_keep(vw_set1(ST_CODE_M_BITS >> 16)),
		.v_c_word = vi_keep(vw_set1(ST_CODE_V_BITS >> 16)),
		.v_c_code = vi_keep(vw_set1(ST_CODE_V_BITS >> ST_CODE_SHIFT)),
		.m_most = vi_keep(vw_set1(0x7fffu)),
		.m_max = vi_keep(vw_set1(ST_CODE_M_MAX)),
		.m_sign = vi_keep(vw_set1(0x80u)),
		.sign = vi_keep(vi_set1(0x80000000u)),
		.no_sign = vi_keep(vi_set1(0x7fffffffu)),
		.sign_c = vi_keep(vi_set1(0x80000000u | ST_CODE_M_BITS)),
		.m_c = vi_keep(vi_set1(ST_CODE_M_BITS)),
		.one = vi_keep(vi_set1(1)),
		.random_low = vi_keep(vi_set1((1u << ST_RANDOM_INT8) - 1)),
		.v_c = vf_of(vi_keep(vi_set1(ST_CODE_V_BITS))),
	};
}

/* The float of a code has zeros in its lower half: as a word it is made. */
VEC_INLINE struct vf2 vec_decode_m(const struct vec_codes *c, const uint8_t *codes, vf scale)
{
	vi w = vw_shl(vw_load_s8(codes), ST_CODE_SHIFT - 16);
	struct vf2 x = vec_widen(vi_or(vi_and(w, c->m_field), c->m_c_word), EVEN_ODD);

	x.a = vf_mul(vf_sub(x.a, vf_of(vi_and(vi_of(x.a), c->sign_c))), scale);
	x.b = vf_mul(vf_sub(x.b, vf_of(vi_and(vi_of(x.b), c->sign_c))), scale);
	return x;
}

VEC_INLINE struct vf2 vec_decode_v(const struct vec_codes *c, const uint8_t *codes, vf scale)
{
	vi w = vw_add(vw_shl(vw_load_u8(codes), ST_CODE_SHIFT - 16), c->v_c_word);
	struct vf2 x = vec_widen(w, EVEN_ODD);

	x.a = vf_mul(vf_sub(x.a, c->v_c), scale);
	x.b = vf_mul(vf_sub(x.b, c->v_c), scale);
	return x;
}

/* Words of codes; even, odd: random bits. */
VEC_INLINE vi vec_encode_m(const struct vec_codes *c, struct vf2 m, vf inverse, vi even, vi odd)
{
	vf a = vf_fma(m.a, inverse, vf_of(vi_or(vi_and(vi_of(m.a), c->sign), c->m_c)));
	vf b = vf_fma(m.b, inverse, vf_of(vi_or(vi_and(vi_of(m.b), c->sign), c->m_c)));
	vi w = vec_upper(vi_add(vi_of(a), even), vi_add(vi_of(b), odd), EVEN_ODD);
	vi code = vw_shr(vw_min(vw_shl(w, 1), c->m_most), ST_CODE_SHIFT - 16 + 1);

	return vi_or(vi_and(code, c->m_max), vi_and(vw_shr(w, 8), c->m_sign));
}

/* May exceed ST_CODE_V_MAX: the narrowing saturates. At least 1 where v is not zero. */
VEC_INLINE vi vec_encode_v(const struct vec_codes *c, struct vf2 v, vf inverse, vi even, vi odd)
{
	vf a = vf_fma(v.a, inverse, c->v_c), b = vf_fma(v.b, inverse, c->v_c);
	vi w = vec_upper(vi_add(vi_of(a), even), vi_add(vi_of(b), odd), EVEN_ODD);
	vi code = vw_sub(vw_shr(w, ST_CODE_SHIFT - 16), c->v_c_code);

	return vw_max(code,
		      vec_lower(vi_min(vi_of(v.a), c->one), vi_min(vi_of(v.b), c->one), EVEN_ODD));
}

#define PAIRS_PER_BLOCK (STRATA_MOMENTS_BLOCK / PAIR)
#define KEPT            (2 * PAIRS_PER_BLOCK)

/* Moments after the step, before they are encoded, and the scales for it. */
struct vec_kept {
	struct vf2 m[KEPT], v[KEPT]; /* of pair i at i % KEPT */
	vi m_max, v_max;             /* of the block that comes in; of the bits without sign */
	float m_scale[2], v_scale[2], m_inverse[2], v_inverse[2]; /* of block b at b % 2 */
};

/* Here and below, i is the first element of a pair. */
VEC_INLINE struct vec_first vec_block_first(const struct vec_pass *w, const struct vec_codes *c,
					    size_t i)
{
	const struct vf2 zero = { vf_set1(0.0f), vf_set1(0.0f) };
	const size_t b = i / STRATA_MOMENTS_BLOCK;
	const uint8_t *m8 = w->r.array[STRATA_ARRAY_M], *v8 = w->r.array[STRATA_ARRAY_V];
	const float *m_scale = w->r.array[STRATA_ARRAY_M_SCALE];
	const float *v_scale = w->r.array[STRATA_ARRAY_V_SCALE];
	struct vec_first e = { zero, zero, zero };

	if (st_rule_has_m(w->rule))
		e.m = vec_decode_m(c, m8 + i, vf_set1(m_scale[b]));
	if (st_rule_has_v(w->rule))
		e.v = vec_decode_v(c, v8 + i, vf_set1(v_scale[b]));
	vec_moments(w, i, &e);
	return e;
}

/* The second part, and the moments are kept for when the block is whole. */
VEC_INLINE struct vec_second vec_block_second(const struct vec_pass *w, const struct vec_codes *c,
					      size_t i, const struct vec_first *e,
					      struct vec_kept *kept)
{
	if (st_rule_has_m(w->rule)) {
		kept->m[i / PAIR % KEPT] = e->m;
		kept->m_max = vi_max(kept->m_max, vi_and(vi_of(e->m.a), c->no_sign));
		kept->m_max = vi_max(kept->m_max, vi_and(vi_of(e->m.b), c->no_sign));
	}
	if (st_rule_has_v(w->rule)) { /* >= 0, or NaN of any sign */
		kept->v[i / PAIR % KEPT] = e->v;
		kept->v_max = vi_max(kept->v_max, vi_of(e->v.a));
		kept->v_max = vi_max(kept->v_max, vi_of(e->v.b));
	}
	return vec_divisors(w, e);
}

/* Of the block of i, which is whole. */
VEC_INLINE void vec_block_scales(const struct vec_pass *w, size_t i, struct vec_kept *kept)
{
	const size_t b = i / STRATA_MOMENTS_BLOCK;
	float scale;

	if (st_rule_has_m(w->rule)) {
		scale = st_scale(vi_max_of(kept->m_max));
		((float *)w->r.array[STRATA_ARRAY_M_SCALE])[b] = scale;
		kept->m_scale[b & 1] = scale;
		kept->m_inverse[b & 1] = st_scale_inverse(scale);
	}
	if (st_rule_has_v(w->rule)) {
		scale = st_scale(vi_max_of(vi_and(kept->v_max, vi_set1(0x7fffffffu))));
		((float *)w->r.array[STRATA_ARRAY_V_SCALE])[b] = scale;
		kept->v_scale[b & 1] = scale;
		kept->v_inverse[b & 1] = st_scale_inverse(scale);
	}
	kept->m_max = kept->v_max = vi_set1(0);
}

/* Two pairs from i on. */
VEC_INLINE void vec_block_encode(const struct vec_pass *w, const struct vec_codes *c, size_t i,
				 const struct vec_kept *kept)
{
	const bool has_m = st_rule_has_m(w->rule), has_v = st_rule_has_v(w->rule);
	const size_t b = i / STRATA_MOMENTS_BLOCK & 1;
	uint8_t *m8 = w->r.array[STRATA_ARRAY_M], *v8 = w->r.array[STRATA_ARRAY_V];
	vi m[2], v[2];

#pragma GCC unroll 2 /* else m and v go through memory */
	for (size_t j = 0; j < 2; j++) {
		const size_t k = i / PAIR % KEPT + j;
		const vi random = vec_random(&w->random, i + j * PAIR);
		const vi low = vi_and(random, c->random_low);
		const vi high = vec_random_high(random, ST_RANDOM_INT8);

		if (has_m)
			m[j] = vec_encode_m(c, kept->m[k], vf_set1(kept->m_inverse[b]), low, high);
		if (has_v)
			v[j] = vec_encode_v(c, kept->v[k], vf_set1(kept->v_inverse[b]), high, low);
	}
	if (has_m)
		vw_store_u8(m8 + i, m[0], m[1]);
	if (has_v)
		vw_store_u8(v8 + i, v[0], v[1]);
}

/* Codes of block b. Where it is of zeros, or not to be represented, its scale says which. */
VEC_INLINE void vec_block_codes(const struct vec_pass *w, const struct vec_codes *c, size_t b,
				const struct vec_kept *kept)
{
	const size_t at = b * STRATA_MOMENTS_BLOCK;

	for (size_t i = at; i < at + STRATA_MOMENTS_BLOCK; i += 2 * PAIR)
		vec_block_encode(w, c, i, kept);
	if (st_rule_has_m(w->rule) && !(kept->m_scale[b & 1] > 0.0f))
		memset((char *)w->r.array[STRATA_ARRAY_M] + at, 0, STRATA_MOMENTS_BLOCK);
	if (st_rule_has_v(w->rule) && !(kept->v_scale[b & 1] > 0.0f))
		memset((char *)w->r.array[STRATA_ARRAY_V] + at, 0, STRATA_MOMENTS_BLOCK);
}

/* Whole blocks. Returns the elements done. Codes follow one block behind: what needs the largest of
 * a block does not wait for it. */
VEC_INLINE size_t vec_update_int8(const struct st_factors *factors,
				  const struct strata_optim_format *f,
				  const struct strata_optim_range *r, enum st_rule rule,
				  bool is_split)
{
	const struct vec_pass w = {
		.s = vec_factors(factors),
		.f = *f,
		.r = *r,
		.random = vec_random_init(st_random_init(factors->key, r->stream, r->first),
					  r->first),
		.rule = rule,
		.order = EVEN_ODD,
		.is_split = is_split,
	};
	const struct vf2 zero = { vf_set1(0.0f), vf_set1(0.0f) };
	const size_t n_blocks = w.r.n / STRATA_MOMENTS_BLOCK,
		     whole = n_blocks * STRATA_MOMENTS_BLOCK;
	struct vec_first first = { zero, zero, zero };
	struct vec_second second = { zero, zero };
	const struct vec_codes c = vec_codes();
	struct vec_kept kept;

	kept.m_max = kept.v_max = vi_set1(0);
	for (size_t i = 0, b = 0; n_blocks && b <= n_blocks; b++) {
		for (size_t k = 0; k < PAIRS_PER_BLOCK && i < whole + 2 * PAIR; k++, i += PAIR) {
			const size_t i1 = i - PAIR, i2 = i1 - PAIR; /* huge before there is one */

			vec_ahead(&w, i, 1);
			if (i2 < whole)
				vec_apply(&w, i2, &second);
			if (i1 < whole)
				second = vec_block_second(&w, &c, i1, &first, &kept);
			if (k == 0 && b > 0)
				vec_block_scales(&w, (b - 1) * STRATA_MOMENTS_BLOCK, &kept);
			if (i < whole)
				first = vec_block_first(&w, &c, i);
		}
		if (b > 0)
			vec_block_codes(&w, &c, b - 1, &kept);
	}
	return whole;
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
	vec_update_fn *fn = by_rule[s->rule][f->params == STRATA_PARAMS_SPLIT][f->moments];
	struct strata_optim_range rest = *r, one = *r;

	/* The second of a pair first. With 8 bits a range that begins with one has no whole block.
	 */
	if ((r->first & 1) && r->n && f->moments != STRATA_MOMENTS_INT8) {
		one.n = 1;
		st_optim_scalar_kernels.update(s, f, &one);
		rest = st_optim_range_from(f, r, 1);
	}
	rest = st_optim_range_from(f, &rest, fn(s, f, &rest));
	if (rest.n)
		st_optim_scalar_kernels.update(s, f, &rest);
}

/* The values as they were stored. */
VEC_INLINE struct vf2 vec_store_grad(enum strata_optim_grads to, void *out, size_t i, struct vf2 x)
{
	if (to == STRATA_GRADS_F32) {
		vec_store_f32((float *)out + i, x, IN_ORDER);
		return x;
	}
	if (to == STRATA_GRADS_BF16) {
		const vi upper = vi_set1(0xffff0000u);
		vi a = vec_round_bf16(x.a), b = vec_round_bf16(x.b);

		vi_store((uint16_t *)out + i, vec_upper(a, b, IN_ORDER));
		return (struct vf2){ vf_of(vi_and(a, upper)), vf_of(vi_and(b, upper)) };
	}
	vec_store_f16((uint16_t *)out + i, x, IN_ORDER);
	return vec_load_f16((uint16_t *)out + i, IN_ORDER);
}

VEC_INLINE double vec_sum_tile(const void *in, size_t at, enum strata_optim_grads from, void *out,
			       enum strata_optim_grads to)
{
	struct sq16 sum = sq16_zero();
	double lane[16];

	for (size_t i = at; i < at + STRATA_NUMERIC_TILE; i += PAIR) {
		struct vf2 x = vec_load_grad(from, in, i, IN_ORDER);

		if (out)
			x = vec_store_grad(to, out, i, x);
		sum = sq16_add(sum, x.a, x.b);
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

VEC_INLINE vf vec_quiet(vf x)
{
	vi sign = vi_and(vi_of(x), vi_set1(0x80000000u));

	return vf_of(vi_if_nan(x, vi_or(sign, vi_set1(ST_NAN_BITS)), vi_of(x)));
}

static void simd_split(size_t n, const float *master, uint16_t *hi, int16_t *lo)
{
	size_t i;

	for (i = 0; i + PAIR <= n; i += PAIR) {
		struct vf2 x = vec_load_f32(master + i, IN_ORDER);

		x = (struct vf2){ vec_quiet(x.a), vec_quiet(x.b) };
		vec_split(x, hi + i, lo + i, IN_ORDER);
	}
	st_optim_scalar_kernels.split(n - i, master + i, hi + i, lo + i);
}

static void simd_join(size_t n, const uint16_t *hi, const int16_t *lo, float *master)
{
	size_t i;

	for (i = 0; i + PAIR <= n; i += PAIR)
		vec_store_f32(master + i, vec_join(hi + i, lo + i, IN_ORDER), IN_ORDER);
	st_optim_scalar_kernels.join(n - i, hi + i, lo + i, master + i);
}

static void simd_round(size_t n, const float *master, uint16_t *out)
{
	size_t i;

	for (i = 0; i + PAIR <= n; i += PAIR)
		vi_store(out + i, vec_round2_bf16(vec_load_f32(master + i, IN_ORDER), IN_ORDER));
	st_optim_scalar_kernels.round(n - i, master + i, out + i);
}

const struct st_optim_kernels VEC_KERNELS = {
	.update = simd_update,
	.sums = simd_sums,
	.split = simd_split,
	.join = simd_join,
	.round = simd_round,
};
