/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_optim_accuracy.c - the optimizers against exact arithmetic and against PyTorch.
 *
 * One step from the same stored state, over 12 decades. With S the sum of the magnitudes of what m
 * is made of, and D that of what the step is made of, all in exact arithmetic:
 *	|dm| <= 2 ulp(S)     |dv| <= 2 ulp(v)     |dp| <= 1 ulp(max(|p|, |p'|)) + 4 ulp(D)
 * Where decay enters the gradient, g + wd p may cancel: then |g| + |wd p| stands for g in v and D
 *as well, and for the two roundings more there are 3 ulp of S and 4 of v. PyTorch in float32 rounds
 *as often, in another order: the same bounds, twice where decay or momentum add roundings there.
 * 1000 steps, as norms: |p - exact| <= 1e-5 |p - p0|.
 */
#include "tests/optim_util.h"

#include "tests/golden/adamw.h"
#include "tests/golden/optim.h"

/* Unit in the last place of fp32 at x. */
static double ulp32(double x)
{
	int e;

	frexp(x, &e);
	return ldexp(1.0, (e < -125 ? -125 : e) - 24);
}

struct exact {
	long double p, m, v;
	long double m_sum, v_sum, d_sum; /* S, v and D without cancellation */
	double m_ulps, v_ulps;
	bool is_sure; /* Lion: c is so far from 0 that its sign is */
};

struct hyper {
	uint64_t t;
	long double lr, decay, scale;
};

static void exact_moment(struct exact *e, long double b1, long double rest, long double g,
			 long double g_sum)
{
	e->m_sum = fabsl(b1 * e->m) + fabsl(rest) * g_sum;
	e->m = b1 * e->m + rest * g;
}

static void exact_adam(struct exact *e, const struct strata_optim_cfg *c, const struct hyper *h,
		       long double g, long double g_sum, long double *d, long double *d_sum)
{
	const long double bc1 = 1 - powl(c->beta1, h->t), bc2 = 1 - powl(c->beta2, h->t);
	const long double v = e->v;
	long double w;

	exact_moment(e, c->beta1, 1 - (long double)c->beta1, g, g_sum);
	e->v = c->beta2 * e->v + (1 - (long double)c->beta2) * g * g;
	e->v_sum = c->beta2 * v + (1 - (long double)c->beta2) * g_sum * g_sum;
	w = sqrtl(e->v / bc2) + c->eps;
	*d = e->m / bc1 / w;
	*d_sum = e->m_sum / bc1 / w * (e->v > 0 ? e->v_sum / e->v : 1);
}

static void exact_lion(struct exact *e, const struct strata_optim_cfg *c, long double g,
		       long double *d, long double *d_sum)
{
	struct exact other = *e;

	exact_moment(&other, c->beta1, 1 - (long double)c->beta1, g, fabsl(g));
	e->is_sure = fabsl(other.m) > 4 * ulp32((double)other.m_sum);
	exact_moment(e, c->beta2, 1 - (long double)c->beta2, g, fabsl(g));
	*d = other.m > 0 ? 1 : other.m < 0 ? -1 : 0;
	*d_sum = 1;
}

/* One step in long double, of optimizer k of optim_util.h. */
static void exact_step(struct exact *e, int k, const struct hyper *h, float grad)
{
	const struct strata_optim_cfg c = optim_cfg(k);
	const bool is_l2 = c.kind != STRATA_OPTIM_ADAMW && c.kind != STRATA_OPTIM_LION;
	const long double wd_p = h->decay * e->p;
	long double g = grad * h->scale + (is_l2 ? wd_p : 0);
	long double g_sum = fabsl(grad * h->scale) + (is_l2 ? fabsl(wd_p) : 0);
	long double d = g, d_sum = g_sum, lr = h->lr;

	e->is_sure = true;
	e->m_ulps = is_l2 && h->decay > 0 ? 3 : 2;
	e->v_ulps = is_l2 && h->decay > 0 ? 4 : 2;
	if (c.kind == STRATA_OPTIM_ADAMW || c.kind == STRATA_OPTIM_ADAM) {
		exact_adam(e, &c, h, g, g_sum, &d, &d_sum);
	} else if (c.kind == STRATA_OPTIM_ADAGRAD) {
		lr /= 1 + (h->t - 1) * (long double)c.lr_decay;
		e->v_sum = e->v + g_sum * g_sum;
		e->v += g * g;
		d = g / (sqrtl(e->v) + c.eps);
		d_sum = g_sum / (sqrtl(e->v) + c.eps) * (e->v > 0 ? e->v_sum / e->v : 1);
	} else if (c.kind == STRATA_OPTIM_LION) {
		exact_lion(e, &c, g, &d, &d_sum);
	} else if (c.momentum > 0) {
		exact_moment(e, h->t == 1 ? 0 : c.momentum,
			     h->t == 1 ? 1 : 1 - (long double)c.dampening, g, g_sum);
		d = c.is_nesterov ? g + c.momentum * e->m : e->m;
		d_sum = c.is_nesterov ? g_sum + c.momentum * e->m_sum : e->m_sum;
	}
	e->d_sum = lr * d_sum + (is_l2 ? 0 : lr * fabsl(wd_p));
	e->p -= lr * d + (is_l2 ? 0 : lr * wd_p);
}

struct worst {
	double m, v, p; /* largest error over what is allowed */
};

static void worst_add(struct worst *w, const struct exact *before, const struct exact *want,
		      double p, double m, double v)
{
	double scale = fmax(fabs((double)before->p), fabs((double)want->p));

	if (want->is_sure)
		w->p = fmax(w->p, (double)fabsl(p - want->p) /
					  (ulp32(scale) + 4 * ulp32((double)want->d_sum)));
	w->m = fmax(w->m, (double)fabsl(m - want->m) / (want->m_ulps * ulp32((double)want->m_sum)));
	w->v = fmax(w->v, (double)fabsl(v - want->v) / (want->v_ulps * ulp32((double)want->v_sum)));
}

static void check_accuracy(int k, struct hyper h, size_t n)
{
	const struct strata_optim_cfg cfg = optim_cfg(k);
	const struct strata_optim_format f = { STRATA_PARAMS_F32, STRATA_MOMENTS_F32,
					       STRATA_GRADS_F32 };
	struct exact *before = need(n * sizeof(*before)), want;
	struct worst w = { 0 };
	struct strata_optim_step s;
	size_t nr_unsure = 0;
	struct bank b;

	bank_init(&b, &cfg, f, n, 0);
	rng_seed(h.t);
	for (size_t i = 0; i < n; i++) {
		before[i].p = b.p[i] = signed_decades(-8, 4);
		b.g[i] = signed_decades(-8, 4);
		if (b.m)
			before[i].m = b.m[i] = signed_decades(-8, 4);
		if (b.v)
			before[i].v = b.v[i] = fabsf(signed_decades(-16, 8));
	}
	ck_assert_int_eq(
		strata_optim_prepare(&s, &cfg, h.t, (double)h.lr, (double)h.decay, (double)h.scale),
		0);
	bank_update(&b, &s);
	for (size_t i = 0; i < n; i++) {
		want = before[i];
		exact_step(&want, k, &h, b.g[i]);
		nr_unsure += !want.is_sure;
		CHECK_AT(i, isfinite(b.p[i]));
		worst_add(&w, &before[i], &want, b.p[i], b.m ? b.m[i] : 0, b.v ? b.v[i] : 0);
	}
	ck_assert_msg(w.m <= 1 && w.v <= 1 && w.p <= 1,
		      "%s, t %llu: largest error over the allowed one: m %g, v %g, p %g",
		      optim_name(k), (unsigned long long)h.t, w.m, w.v, w.p);
	/* SGD's first m is the gradient itself. */
	ck_assert_msg(w.p > 0.1 && (!b.m || w.m > 0.1 || h.t == 1) && (!b.v || w.v > 0.1),
		      "%s: the comparison compared nothing", optim_name(k));
	ck_assert_uint_lt(nr_unsure, n / 1000);
	bank_fini(&b);
	free(before);
}

START_TEST(near_long_double)
{
	ck_assert_int_eq(strata_isa_force(strata_isa_best()), 0);
	check_accuracy(0, (struct hyper){ 1, 1e-3, 0, 1 }, 250000);
	check_accuracy(0, (struct hyper){ 7, 1e-3, 0.1, 0x1p-10 }, 250000);
	check_accuracy(0, (struct hyper){ 1000, 1e-3, 0, 0x1p-4 }, 250000);
	check_accuracy(0, (struct hyper){ 1000000, 1e-3, 0.01, 1 }, 250000);
	for (int k = 1; k < NR_OPTIMS; k++) {
		check_accuracy(k, (struct hyper){ 1, 1e-2, 0, 1 }, 50000);
		check_accuracy(k, (struct hyper){ 40, 1e-2, 0.1, 0x1p-3 }, 50000);
	}
}
END_TEST

/*
 * Where squares and moments are denormal numbers: m and v within the same bounds, whose unit is
 * then the least number there is. What m is off by, the direction is off by too, over the root,
 * which eps keeps from being small: for p that is added to what is allowed.
 */
static void check_denormals(int k, double eps_or_1)
{
	enum { N = 20000 };
	const struct strata_optim_cfg cfg = optim_cfg(k);
	const struct strata_optim_format f = { STRATA_PARAMS_F32, STRATA_MOMENTS_F32,
					       STRATA_GRADS_F32 };
	const struct hyper h = { 3, 1e-3, 0, 1 };
	const long double bc1 = k < 2 ? 1 - powl(cfg.beta1, 3) : 1;
	const long double off = 4 * 0x1p-149L * 1e-3L / bc1 / eps_or_1;
	struct exact *e = need(N * sizeof(*e));
	struct strata_optim_step s;
	size_t nr_denormal = 0;
	struct bank b;

	bank_init(&b, &cfg, f, N, 0);
	ck_assert_int_eq(strata_optim_prepare(&s, &cfg, h.t, 1e-3, 0, 1), 0);
	rng_seed(8);
	for (size_t i = 0; i < N; i++) {
		e[i].p = b.p[i] = signed_decades(-44, -30);
		b.g[i] = signed_decades(-44, -18);
		if (b.m)
			e[i].m = b.m[i] = signed_decades(-44, -36);
		if (b.v)
			e[i].v = b.v[i] = fabsf(signed_decades(-44, -36));
	}
	bank_update(&b, &s);
	for (size_t i = 0; i < N; i++) {
		double scale = fabs((double)e[i].p);

		exact_step(&e[i], k, &h, b.g[i]);
		scale = fmax(scale, fabs((double)e[i].p));
		if (e[i].is_sure)
			CHECK_AT(i, fabsl(b.p[i] - e[i].p) <=
					    ulp32(scale) + 4 * ulp32((double)e[i].d_sum) + off);
		if (b.m)
			CHECK_AT(i,
				 fabsl(b.m[i] - e[i].m) <= e[i].m_ulps * ulp32((double)e[i].m_sum));
		if (b.v)
			CHECK_AT(i,
				 fabsl(b.v[i] - e[i].v) <= e[i].v_ulps * ulp32((double)e[i].v_sum));
		nr_denormal += fpclassify(b.m ? b.m[i] : b.v ? b.v[i] : b.g[i]) == FP_SUBNORMAL;
	}
	ck_assert_uint_gt(nr_denormal, N / 20);
	bank_fini(&b);
	free(e);
}

START_TEST(near_long_double_in_denormals)
{
	for (int isa = STRATA_ISA_SCALAR; isa <= (int)strata_isa_best(); isa++) {
		ck_assert_int_eq(strata_isa_force((enum strata_isa)isa), 0);
		for (int k = 0; k < NR_OPTIMS; k++) /* the first three divide by a root plus eps */
			check_denormals(k, k < 3 ? optim_cfg(k).eps : 1);
	}
}
END_TEST

static void check_golden(int k, struct hyper h, const struct strata_optim_cfg *cfg, double slack,
			 const float in[4], const float got32[3], const double got64[3])
{
	const struct strata_optim_format f = { STRATA_PARAMS_F32, STRATA_MOMENTS_F32,
					       STRATA_GRADS_F32 };
	struct exact before = { .p = in[0], .m = in[1], .v = in[2] }, want = before, torch;
	struct worst w32 = { 0 }, w64 = { 0 };
	struct strata_optim_step s;
	struct bank b;

	bank_init(&b, cfg, f, 1, 0);
	b.p[0] = in[0];
	b.g[0] = in[3];
	if (b.m)
		b.m[0] = in[1];
	if (b.v)
		b.v[0] = in[2];
	ck_assert_int_eq(strata_optim_prepare(&s, cfg, h.t, (double)h.lr, (double)h.decay, 1), 0);
	bank_update(&b, &s);
	exact_step(&want, k, &h, in[3]); /* for the sums of magnitudes only */
	torch = want;
	torch.p = got64[0];
	torch.m = b.m ? got64[1] : 0;
	torch.v = b.v ? got64[2] : 0;
	worst_add(&w64, &before, &torch, b.p[0], b.m ? b.m[0] : 0, b.v ? b.v[0] : 0);
	torch.p = got32[0];
	torch.m = b.m ? got32[1] : 0;
	torch.v = b.v ? got32[2] : 0;
	worst_add(&w32, &before, &torch, b.p[0], b.m ? b.m[0] : 0, b.v ? b.v[0] : 0);
	ck_assert_msg(w64.m <= 1 && w64.v <= 1 && w64.p <= 1, "%s, torch in float64: %g %g %g",
		      optim_name(k), w64.m, w64.v, w64.p);
	ck_assert_msg(w32.m <= slack && w32.v <= slack && w32.p <= slack,
		      "%s, torch in float32: %g %g %g", optim_name(k), w32.m, w32.v, w32.p);
	bank_fini(&b);
}

START_TEST(near_torch)
{
	ck_assert_int_eq(strata_isa_force(strata_isa_best()), 0);
	for (size_t c = 0; c < ST_ARRAY_LEN(optim_golden); c++) {
		const struct optim_case *x = &optim_golden[c];
		const struct strata_optim_cfg cfg = optim_cfg(x->optim);
		const struct hyper h = { x->t, x->lr, x->decay, 1 };

		for (size_t i = 0; i < ST_ARRAY_LEN(x->elem); i++)
			check_golden(x->optim, h, &cfg, 2,
				     (float[4]){ x->elem[i].p, x->elem[i].m, x->elem[i].v,
						 x->elem[i].g },
				     (float[3]){ x->elem[i].p32, x->elem[i].m32, x->elem[i].v32 },
				     (double[3]){ x->elem[i].p64, x->elem[i].m64, x->elem[i].v64 });
	}
}
END_TEST

/* torch.optim.AdamW with its own betas and eps. */
START_TEST(near_torch_adamw)
{
	ck_assert_int_eq(strata_isa_force(strata_isa_best()), 0);
	for (size_t c = 0; c < ST_ARRAY_LEN(golden); c++) {
		const struct golden_case *x = &golden[c];
		const double bc1 = 1 - pow(x->beta1, (double)x->t);
		const double bc2 = 1 - pow(x->beta2, (double)x->t);
		struct strata_optim_cfg cfg = optim_cfg(0);
		struct worst w32 = { 0 }, w64 = { 0 };
		struct strata_optim_step s;

		cfg.beta1 = x->beta1;
		cfg.beta2 = x->beta2;
		cfg.eps = x->eps;
		ck_assert_int_eq(strata_optim_prepare(&s, &cfg, x->t, x->lr, 0, 1), 0);
		for (size_t i = 0; i < ST_ARRAY_LEN(x->elem); i++) {
			float p = x->elem[i].p, m = x->elem[i].m, v = x->elem[i].v;
			float g = x->elem[i].g;
			const struct strata_optim_format f = { STRATA_PARAMS_F32,
							       STRATA_MOMENTS_F32,
							       STRATA_GRADS_F32 };
			const struct strata_optim_range r = {
				.n = 1,
				.array = { [STRATA_ARRAY_PARAM] = &p,
					   [STRATA_ARRAY_M] = &m,
					   [STRATA_ARRAY_V] = &v,
					   [STRATA_ARRAY_GRAD] = &g },
			};
			const struct exact before = { .p = p };
			struct exact want = { .is_sure = true, .m_ulps = 2, .v_ulps = 2 };

			want.m_sum = fabsl(x->beta1 * m) + fabsl((1 - x->beta1) * g);
			want.d_sum =
				x->lr / bc1 * want.m_sum / (sqrt(x->elem[i].v64 / bc2) + x->eps);
			ck_assert_int_eq(strata_optim_update(&s, &f, &r), 0);
			want.v_sum = x->elem[i].v64;
			want.p = x->elem[i].p64;
			want.m = x->elem[i].m64;
			want.v = x->elem[i].v64;
			worst_add(&w64, &before, &want, p, m, v);
			want.p = x->elem[i].p32;
			want.m = x->elem[i].m32;
			want.v = x->elem[i].v32;
			worst_add(&w32, &before, &want, p, m, v);
		}
		ck_assert_msg(w64.m <= 1 && w64.v <= 1 && w64.p <= 1,
			      "case %zu, torch in float64: m %g, v %g, p %g", c, w64.m, w64.v,
			      w64.p);
		ck_assert_msg(w32.m <= 1 && w32.v <= 1 && w32.p <= 1,
			      "case %zu, torch in float32: m %g, v %g, p %g", c, w32.m, w32.v,
			      w32.p);
	}
}
END_TEST

START_TEST(thousand_steps_stay_near)
{
	enum { N = 500, STEPS = 1000 };

	ck_assert_int_eq(strata_isa_force(strata_isa_best()), 0);
	for (int k = 0; k < NR_OPTIMS; k++) {
		const struct strata_optim_cfg cfg = optim_cfg(k);
		const struct strata_optim_format f = { STRATA_PARAMS_SPLIT, STRATA_MOMENTS_F32,
						       STRATA_GRADS_BF16 };
		/* Large enough that p moves by more than what storing it rounds. */
		const double lr = cfg.kind == STRATA_OPTIM_ADAGRAD ? 1e-2 : 1e-3;
		struct exact want[N] = { { 0 } };
		double diff = 0, moved = 0;
		struct strata_optim_step s;
		float first[N];
		struct bank b;

		bank_init(&b, &cfg, f, N, 0);
		for (size_t a = 0; a < STRATA_ARRAY_N; a++)
			memset(b.block[a], 0, b.bytes[a]);
		rng_seed(31);
		for (size_t i = 0; i < N; i++) {
			first[i] = signed_decades(-3, 0);
			want[i].p = first[i];
			bank_set_param(&b, i, first[i]);
		}
		for (uint64_t t = 1; t <= STEPS; t++) {
			const struct hyper h = { t, lr, 0, 1 };

			ck_assert_int_eq(strata_optim_prepare(&s, &cfg, t, lr, 0, 1), 0);
			for (size_t i = 0; i < N; i++) {
				float g = signed_decades(-4, 0) + (i & 1 ? 0.03f : -0.1f);

				bank_set_grad(&b, i, g);
				exact_step(&want[i], k, &h, bank_grad(&b, i));
			}
			bank_update(&b, &s);
		}
		for (size_t i = 0; i < N; i++) {
			diff += pow(bank_param(&b, i) - (double)want[i].p, 2);
			moved += pow((double)want[i].p - first[i], 2);
		}
		ck_assert_msg(sqrt(diff) <= 1e-5 * sqrt(moved) && diff > 0, "%s: %g of %g",
			      optim_name(k), sqrt(diff), sqrt(moved));
		bank_fini(&b);
	}
}
END_TEST

/* Decay as a factor float(1 - 2e-8) would be none at all; as a part of the sum it acts in full. */
START_TEST(small_decay_is_not_lost)
{
	enum { N = 4096, STEPS = 1000 };
	const struct strata_optim_cfg cfg = optim_cfg(0);
	const struct strata_optim_format f = { STRATA_PARAMS_F32, STRATA_MOMENTS_F32,
					       STRATA_GRADS_F32 };
	struct strata_optim_step s;
	struct bank b[2];
	double lost = 0;

	ck_assert(1.0f - 2e-8f == 1.0f);
	for (int k = 0; k < 2; k++) {
		bank_init(&b[k], &cfg, f, N, 0);
		for (size_t a = 0; a < STRATA_ARRAY_N; a++)
			memset(b[k].block[a], 0, b[k].bytes[a]);
		rng_seed(6);
		for (size_t i = 0; i < N; i++)
			b[k].p[i] = 0.7f;
		for (uint64_t t = 1; t <= STEPS; t++) {
			ck_assert_int_eq(strata_optim_prepare(&s, &cfg, t, 1e-4, k ? 2e-4 : 0, 1),
					 0);
			for (size_t i = 0; i < N; i++)
				b[k].g[i] = (float)(rng() >> 40) * 0x1p-24f - 0.5f;
			bank_update(&b[k], &s);
		}
	}
	for (size_t i = 0; i < N; i++)
		lost += ((double)b[0].p[i] - (double)b[1].p[i]) / N;
	ck_assert_msg(fabs(lost / (0.7 * 2e-8 * STEPS) - 1) < 0.1, "%g", lost);
	bank_fini(&b[0]);
	bank_fini(&b[1]);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("optim accuracy");
	TCase *t = tcase_create("accuracy");
	SRunner *r;
	int failed;

	tcase_set_timeout(t, 0);
	tcase_add_test(t, near_long_double);
	tcase_add_test(t, near_long_double_in_denormals);
	tcase_add_test(t, near_torch);
	tcase_add_test(t, near_torch_adamw);
	tcase_add_test(t, thousand_steps_stay_near);
	tcase_add_test(t, small_decay_is_not_lost);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
