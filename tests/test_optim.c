/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_optim.c - optimizer kernels: all instruction sets bit-equal to the scalar reference,
 * that one near long double and torch.optim.AdamW; norms; factors; floating-point environment.
 */
#include <check.h>
#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "core/log.h"
#include "cpu_optim/kernels.h"
#include "tests/golden/adamw.h"

#define GUARD 64u /* elements before and after each array, which no kernel may touch */

static const struct strata_optim_cfg cfg_default = STRATA_OPTIM_CFG_DEFAULT;

/* For inner loops: ck_assert() writes to a file each time it holds. */
#define CHECK_AT(i, cond)                                                                          \
	do {                                                                                       \
		if (!(cond))                                                                       \
			ck_abort_msg("element %zu: not %s", (size_t)(i), #cond);                   \
	} while (0)

static uint64_t rng_state;

static uint64_t rng(void)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return rng_state;
}

static void rng_seed(uint64_t seed)
{
	rng_state = seed * 0x9e3779b97f4a7c15u + 1;
	for (int i = 0; i < 8; i++)
		rng();
}

static double uniform(void)
{
	return (double)(rng() >> 11) * 0x1p-53;
}

static float signed_decades(double low, double high)
{
	double mag = pow(10.0, low + (high - low) * uniform());

	return (float)(rng() & 1 ? -mag : mag);
}

static void *need(size_t bytes)
{
	void *p = calloc(1, bytes);

	ck_assert_ptr_nonnull(p);
	return p;
}

/* A number of any kind: mostly ordinary, now and then one of those where kernels go wrong. */
static float any_float(void)
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

/* One range with its arrays; offset_elems shifts all of them off their alignment. */
struct bank {
	struct strata_optim_format f;
	struct strata_optim_range r;
	char *block[STRATA_ARRAY_N];
	size_t bytes[STRATA_ARRAY_N];
	/* where the arrays begin, for what knows the format */
	uint16_t *hi;
	int16_t *lo;
	float *p, *m, *v, *g;
};

static void bank_init(struct bank *b, size_t n, enum strata_optim_params params,
		      enum strata_optim_grads grads, size_t offset_elems)
{
	size_t guard[STRATA_ARRAY_N], shift[STRATA_ARRAY_N], inner[STRATA_ARRAY_N];

	b->f = (struct strata_optim_format){ .params = params, .grads = grads };
	b->r = (struct strata_optim_range){ .n = n };
	ck_assert_int_eq(strata_optim_array_bytes(&cfg_default, &b->f, GUARD, guard), 0);
	ck_assert_int_eq(strata_optim_array_bytes(&cfg_default, &b->f, offset_elems, shift), 0);
	ck_assert_int_eq(strata_optim_array_bytes(&cfg_default, &b->f, n, inner), 0);
	for (size_t k = 0; k < STRATA_ARRAY_N; k++) {
		b->bytes[k] = inner[k] + 2 * guard[k];
		b->block[k] = need(b->bytes[k] + 1);
		memset(b->block[k], 0x5a, b->bytes[k]);
		if (guard[k])
			b->r.array[k] = b->block[k] + guard[k] + shift[k];
	}
	b->hi = b->r.array[STRATA_ARRAY_PARAM];
	b->p = b->r.array[STRATA_ARRAY_PARAM];
	b->lo = b->r.array[STRATA_ARRAY_LOW];
	b->m = b->r.array[STRATA_ARRAY_M];
	b->v = b->r.array[STRATA_ARRAY_V];
	b->g = b->r.array[STRATA_ARRAY_GRAD];
}

static void bank_fini(struct bank *b)
{
	for (size_t k = 0; k < STRATA_ARRAY_N; k++)
		free(b->block[k]);
}

static void bank_fill(struct bank *b, uint64_t seed)
{
	rng_seed(seed);
	for (size_t i = 0; i < b->r.n; i++) {
		float p = any_float(), g = any_float(), v = any_float();

		b->m[i] = any_float();
		b->v[i] = rng() % 32 ? st_bits_f32(st_f32_bits(v) & 0x7fffffffu) : v;
		if (b->f.grads == STRATA_GRADS_BF16)
			((uint16_t *)b->g)[i] = (uint16_t)(st_f32_bits(g) >> 16);
		else
			b->g[i] = g;
		if (b->f.params == STRATA_PARAMS_F32) {
			b->p[i] = p;
		} else {
			b->hi[i] = (uint16_t)(st_f32_bits(p) >> 16);
			b->lo[i] = (int16_t)(rng() & 0x7fff);
		}
	}
}

static void bank_check_equal(const struct bank *a, const struct bank *b, const char *what)
{
	static const char *const names[STRATA_ARRAY_N] = { "p",       "low",     "m", "v",
							   "m scale", "v scale", "g" };

	for (size_t k = 0; k < STRATA_ARRAY_N; k++)
		for (size_t i = 0; i < a->bytes[k]; i++)
			if (a->block[k][i] != b->block[k][i])
				ck_abort_msg("%s: n %zu, parameters %d, moments %d, gradient %d: "
					     "%s differs at byte %zu",
					     what, a->r.n, (int)a->f.params, (int)a->f.moments,
					     (int)a->f.grads, names[k], i);
}

static void bank_update(struct bank *b, const struct strata_optim_step *s)
{
	CHECK_AT(0, strata_optim_update(s, &b->f, &b->r) == 0);
}

static void prepare(struct strata_optim_step *s, enum strata_optim_kind kind, uint64_t t)
{
	struct strata_optim_cfg cfg = cfg_default;

	cfg.kind = kind;
	ck_assert_int_eq(strata_optim_prepare(s, &cfg, t, 1e-3, 0.1, 0.37), 0);
}

static int nr_lines;
static char line_text[256];

static void keep_line(void *user, enum st_log_level level, const char *line)
{
	ck_assert_ptr_null(user);
	ck_assert_int_eq(level, ST_LOG_WARN);
	snprintf(line_text, sizeof(line_text), "%s", line);
	nr_lines++;
}

/* First of all tests: nothing has chosen an instruction set yet. */
START_TEST(isa_choice)
{
	enum strata_isa best = strata_isa_best();

	st_log_set(keep_line, NULL, ST_LOG_DEBUG);
	setenv("STRATA_ISA", "mmx", 1);
	ck_assert_int_eq(strata_isa_in_use(), best);
	ck_assert_int_eq(nr_lines, 1);
	ck_assert_ptr_nonnull(strstr(line_text, "STRATA_ISA=mmx"));
	ck_assert_int_eq(strata_isa_in_use(), best);
	ck_assert_int_eq(nr_lines, 1);
	st_log_set(NULL, NULL, ST_LOG_ERROR);

	setenv("STRATA_ISA", "scalar", 1);
	ck_assert_int_eq(strata_isa_from_env(), 0);
	ck_assert_int_eq(strata_isa_in_use(), STRATA_ISA_SCALAR);
	setenv("STRATA_ISA", "AVX2", 1);
	ck_assert_int_eq(strata_isa_from_env(), STRATA_E_CONFIG);
	ck_assert_ptr_nonnull(strstr(st_last_error(), "use auto, scalar, avx2 or avx512"));
	ck_assert_int_eq(strata_isa_in_use(), STRATA_ISA_SCALAR);
	setenv("STRATA_ISA", "auto", 1);
	ck_assert_int_eq(strata_isa_from_env(), 0);
	ck_assert_int_eq(strata_isa_in_use(), best);
	unsetenv("STRATA_ISA");
	ck_assert_int_eq(strata_isa_from_env(), 0);

	for (int i = STRATA_ISA_SCALAR; i <= STRATA_ISA_AVX512; i++) {
		bool is_here = i <= (int)best;

		ck_assert_int_eq(strata_isa_force((enum strata_isa)i),
				 is_here ? 0 : STRATA_E_UNSUPPORTED);
		ck_assert_int_eq(strata_isa_in_use(), is_here ? i : (int)best);
	}
	ck_assert_int_eq(strata_isa_force((enum strata_isa)3), STRATA_E_UNSUPPORTED);
	ck_assert_str_eq(strata_isa_name(STRATA_ISA_AVX512), "avx512");
	ck_assert_str_eq(strata_isa_name((enum strata_isa) - 1), "unknown");
}
END_TEST

START_TEST(factors_are_rounded_once)
{
	static const uint64_t ts[] = { 1, 2, 3, 7, 1000, 123457, UINT64_MAX };
	struct strata_optim_cfg cfg = cfg_default;
	struct strata_optim_step step;
	struct st_factors s;

	for (size_t i = 0; i < ST_ARRAY_LEN(ts); i++) {
		long double bc1 = 1 - powl(cfg.beta1, ts[i]), bc2 = 1 - powl(cfg.beta2, ts[i]);

		ck_assert_int_eq(strata_optim_prepare(&step, &cfg, ts[i], 3e-4, 0.1, 0.25), 0);
		memcpy(&s, &step, sizeof(s));
		ck_assert(s.step_size == (float)(3e-4L / bc1));
		ck_assert(s.inv_bc2 == (float)(1 / bc2));
		ck_assert(s.b1 == 0.9f && s.b2 == 0.999f && s.one_minus_b1 == (float)(1 - 0.9));
		ck_assert(s.one_minus_b2 < 1 - 0.999 && s.one_minus_b2_lo > 0);
		ck_assert(fabs((double)s.one_minus_b2 + s.one_minus_b2_lo - (1 - 0.999)) < 1e-17);
		ck_assert(s.lr_wd == (float)(3e-4 * 0.1) && s.wd == 0 && s.grad_scale == 0.25f);
	}
	cfg.kind = STRATA_OPTIM_ADAM;
	cfg.has_bias_correction = false;
	cfg.beta2 = 0.5; /* 1 - beta2 is an fp32 number: the low part must stay positive */
	ck_assert_int_eq(strata_optim_prepare(&step, &cfg, 1, 3e-4, 0.1, 1), 0);
	memcpy(&s, &step, sizeof(s));
	ck_assert(s.step_size == 3e-4f && s.inv_bc2 == 1 && s.lr_wd == 0 && s.wd == 0.1f);
	ck_assert(s.one_minus_b2_lo > 0);
	ck_assert((double)s.one_minus_b2 + s.one_minus_b2_lo == 0.5);
}
END_TEST

START_TEST(bad_factors_are_refused)
{
	static const struct {
		double beta1, beta2, eps, lr, wd, scale;
		const char *names;
	} bad[] = {
		{ 1.0, 0.9, 1e-8, 1e-3, 0, 1, "betas" },
		{ -0.1, 0.9, 1e-8, 1e-3, 0, 1, "betas" },
		{ 0.9, 1.0, 1e-8, 1e-3, 0, 1, "betas" },
		{ 0.9, NAN, 1e-8, 1e-3, 0, 1, "betas" },
		{ 0.9, 0.9, 0, 1e-3, 0, 1, "eps" },
		{ 0.9, 0.9, 1e-50, 1e-3, 0, 1, "eps" },
		{ 0.9, 0.9, NAN, 1e-3, 0, 1, "eps" },
		{ 0.9, 0.9, 1e50, 1e-3, 0, 1, "eps" },
		{ 0.9, 0.9, 1e-8, -1e-3, 0, 1, "learning rate" },
		{ 0.9, 0.9, 1e-8, NAN, 0, 1, "learning rate" },
		{ 0.9, 0.9, 1e-8, 1e38, 0, 1, "learning rate" },
		{ 0.9, 0.9, 1e-8, 1e-3, -1, 1, "weight decay" },
		{ 0.9, 0.9, 1e-8, 1e-3, INFINITY, 1, "weight decay" },
		{ 0.9, 0.9, 1e-8, 1e30, 1e30, 1, "weight decay" },
		{ 0.9, 0.9, 1e-8, 1e-3, 0, INFINITY, "gradient scale" },
		{ 0.9, 0.9, 1e-8, 1e-3, 0, NAN, "gradient scale" },
		{ 0.9, 0.9, 1e-8, 1e-3, 0, -1, "gradient scale" },
	};
	struct strata_optim_cfg cfg = cfg_default;
	struct strata_optim_step s, before;

	memset(&s, 0x33, sizeof(s));
	before = s;
	for (size_t i = 0; i < ST_ARRAY_LEN(bad); i++) {
		cfg.beta1 = bad[i].beta1;
		cfg.beta2 = bad[i].beta2;
		cfg.eps = bad[i].eps;
		ck_assert_int_eq(
			strata_optim_prepare(&s, &cfg, 1, bad[i].lr, bad[i].wd, bad[i].scale),
			-EINVAL);
		ck_assert_msg(strstr(st_last_error(), bad[i].names), "case %zu: %s", i,
			      st_last_error());
	}
	ck_assert_int_eq(strata_optim_prepare(&s, &cfg_default, 0, 1e-3, 0, 1), -EINVAL);
	ck_assert_ptr_nonnull(strstr(st_last_error(), "step 0"));
	cfg = cfg_default;
	cfg.kind = (enum strata_optim_kind)7;
	ck_assert_int_eq(strata_optim_prepare(&s, &cfg, 1, 1e-3, 0, 1), -EINVAL);
	ck_assert_int_eq(strata_optim_prepare(NULL, &cfg_default, 1, 1e-3, 0, 1), -EINVAL);
	ck_assert_int_eq(strata_optim_prepare(&s, NULL, 1, 1e-3, 0, 1), -EINVAL);
	ck_assert_int_eq(memcmp(&s, &before, sizeof(s)), 0);
}
END_TEST

static void check_update_equal(enum strata_optim_kind kind, enum strata_optim_params format,
			       enum strata_optim_grads dtype, size_t n, size_t offset)
{
	struct strata_optim_step s;
	struct bank a, b;

	prepare(&s, kind, 3);
	bank_init(&a, n, format, dtype, offset);
	bank_fill(&a, n + offset);
	ck_assert_int_eq(strata_isa_force(STRATA_ISA_SCALAR), 0);
	bank_update(&a, &s);
	bank_update(&a, &s);
	for (int isa = STRATA_ISA_AVX2; isa <= (int)strata_isa_best(); isa++) {
		bank_init(&b, n, format, dtype, offset);
		bank_fill(&b, n + offset);
		ck_assert_int_eq(strata_isa_force((enum strata_isa)isa), 0);
		bank_update(&b, &s);
		bank_update(&b, &s);
		bank_check_equal(&a, &b, strata_isa_name((enum strata_isa)isa));
		bank_fini(&b);
	}
	for (size_t k = 0; k < STRATA_ARRAY_N; k++) /* and nothing outside the range was written */
		for (size_t i = 0; i < GUARD / 2 && i < a.bytes[k]; i++) {
			CHECK_AT(i, a.block[k][i] == 0x5a);
			CHECK_AT(i, a.block[k][a.bytes[k] - 1 - i] == 0x5a);
		}
	bank_fini(&a);
}

START_TEST(update_is_bit_equal)
{
	static const size_t lengths[] = { 0,  1,  7,  8,    9,    15,   16,
					  17, 31, 33, 4095, 4096, 4097, (1u << 18) };

	for (size_t l = 0; l < ST_ARRAY_LEN(lengths); l++)
		for (size_t offset = 0; offset <= 3; offset += 3)
			for (int kind = STRATA_OPTIM_ADAMW; kind <= STRATA_OPTIM_ADAM; kind++)
				for (int f = STRATA_PARAMS_SPLIT; f <= STRATA_PARAMS_F32; f++)
					for (int d = STRATA_GRADS_F32; d <= STRATA_GRADS_BF16;
					     d++) {
						if (lengths[l] > 5000 && offset)
							continue;
						check_update_equal((enum strata_optim_kind)kind,
								   (enum strata_optim_params)f,
								   (enum strata_optim_grads)d,
								   lengths[l], offset);
					}
}
END_TEST

START_TEST(padding_stays_zero)
{
	struct strata_optim_step s;
	struct bank b;

	for (int isa = STRATA_ISA_SCALAR; isa <= (int)strata_isa_best(); isa++)
		for (int kind = STRATA_OPTIM_ADAMW; kind <= STRATA_OPTIM_ADAM; kind++)
			for (int f = STRATA_PARAMS_SPLIT; f <= STRATA_PARAMS_F32; f++) {
				ck_assert_int_eq(strata_isa_force((enum strata_isa)isa), 0);
				bank_init(&b, 77, (enum strata_optim_params)f, STRATA_GRADS_BF16,
					  0);
				for (size_t k = 0; k < STRATA_ARRAY_N; k++)
					memset(b.block[k], 0, b.bytes[k]);
				for (uint64_t t = 1; t < 20; t++) {
					prepare(&s, (enum strata_optim_kind)kind, t);
					bank_update(&b, &s);
				}
				for (size_t k = 0; k < STRATA_ARRAY_N; k++)
					for (size_t i = 0; i < b.bytes[k]; i++)
						CHECK_AT(i, b.block[k][i] == 0);
				bank_fini(&b);
			}
}
END_TEST

/* NaN and Inf spread to their own element, in one form, and to no other. */
START_TEST(nan_is_canonical_and_stays_local)
{
	static const uint32_t bad[] = { 0x7f800001u, 0xffffffffu, 0x7f800000u, 0xff800000u };
	struct strata_optim_step s;
	struct bank b;

	for (int isa = STRATA_ISA_SCALAR; isa <= (int)strata_isa_best(); isa++) {
		ck_assert_int_eq(strata_isa_force((enum strata_isa)isa), 0);
		for (size_t k = 0; k < ST_ARRAY_LEN(bad); k++) {
			bank_init(&b, 40, STRATA_PARAMS_SPLIT, STRATA_GRADS_F32, 0);
			for (size_t i = 0; i < 40; i++) {
				b.hi[i] = 0x3f80;
				b.lo[i] = -3;
				b.m[i] = b.v[i] = 0.5f;
				b.g[i] = 1.0f;
			}
			b.g[21] = st_bits_f32(bad[k]);
			prepare(&s, STRATA_OPTIM_ADAMW, 2);
			bank_update(&b, &s);
			for (size_t i = 0; i < 40; i++) {
				ck_assert(isfinite(b.m[i]) == (i != 21));
				ck_assert(isfinite(b.v[i]) == (i != 21));
			}
			ck_assert_uint_eq(b.hi[21], 0x7fc0);
			ck_assert_int_eq(b.lo[21], 0);
			ck_assert_uint_eq(b.hi[20], b.hi[22]);
			ck_assert_uint_eq(st_f32_bits(b.m[21]), k < 2 ? 0x7fc00000u : bad[k]);
			ck_assert_uint_eq(st_f32_bits(b.v[21]), k < 2 ? 0x7fc00000u : 0x7f800000u);
			bank_fini(&b);
		}
	}
}
END_TEST

#if defined(__x86_64__)
/* Run everything under a hostile MXCSR, and compare with a run under the usual one. */
START_TEST(callers_environment_does_not_matter)
{
	static const unsigned hostile[] = {
		0x9fc0, /* FTZ, DAZ */
		0xffc0, /* and round toward zero */
		0x5f80, /* round up */
		0x0000, /* every exception unmasked */
	};
	enum { N = 2 * STRATA_NUMERIC_TILE };
	float *acc = need(N * sizeof(float));
	double leaf[2][2], sum[2];
	uint16_t *out[2] = { need(N * 2), need(N * 2) };
	struct strata_optim_step s[2];
	struct bank b[2];

	for (int isa = STRATA_ISA_SCALAR; isa <= (int)strata_isa_best(); isa++)
		for (size_t h = 0; h < ST_ARRAY_LEN(hostile); h++) {
			ck_assert_int_eq(strata_isa_force((enum strata_isa)isa), 0);
			for (int k = 0; k < 2; k++) {
				unsigned usual = _mm_getcsr(), after;
				struct strata_optim_cfg cfg = cfg_default;
				int rc;

				bank_init(&b[k], N, STRATA_PARAMS_SPLIT, STRATA_GRADS_F32, 0);
				bank_fill(&b[k], 5);
				for (size_t i = 0; i < N; i++)
					acc[i] = st_bits_f32((uint32_t)i * 0x1f123u);
				cfg.eps = 1e-40; /* a denormal factor */
				memset(&s[k], 0, sizeof(s[k]));
				_mm_setcsr(k ? hostile[h] : usual);
				rc = strata_optim_prepare(&s[k], &cfg, 9, 1e-3, 1e-37, 0.3);
				bank_update(&b[k], &s[k]);
				rc |= strata_optim_reduce(N, acc, out[k], STRATA_GRADS_BF16,
							  leaf[k]);
				sum[k] =
					strata_optim_tree_sum((double[]){ 1.1, 0x1p-1060, 3.3 }, 3);
				after = _mm_getcsr();
				_mm_setcsr(usual);
				ck_assert_int_eq(rc, 0);
				ck_assert_uint_eq(after, k ? hostile[h] : usual);
			}
			ck_assert_int_eq(memcmp(&s[0], &s[1], sizeof(s[0])), 0);
			bank_check_equal(&b[0], &b[1], strata_isa_name((enum strata_isa)isa));
			ck_assert_int_eq(memcmp(out[0], out[1], N * 2), 0);
			ck_assert_int_eq(memcmp(leaf[0], leaf[1], sizeof(leaf[0])), 0);
			ck_assert(sum[0] == sum[1]);
			bank_fini(&b[0]);
			bank_fini(&b[1]);
		}
	free(acc);
	free(out[0]);
	free(out[1]);
}
END_TEST
#endif

static const struct strata_optim_format plain_f32 = { STRATA_PARAMS_F32, STRATA_MOMENTS_F32,
						      STRATA_GRADS_F32 };

static struct strata_optim_range one_elem(float *p, float *m, float *v, float *g)
{
	return (struct strata_optim_range){ .n = 1,
					    .array = { [STRATA_ARRAY_PARAM] = p,
						       [STRATA_ARRAY_M] = m,
						       [STRATA_ARRAY_V] = v,
						       [STRATA_ARRAY_GRAD] = g } };
}

/* Unit in the last place of fp32 at x. */
static double ulp32(double x)
{
	int e;

	frexp(x, &e);
	return ldexp(1.0, (e < -125 ? -125 : e) - 24);
}

struct worst {
	double m, v, p; /* largest error over what is allowed */
};

/* The rule of optim.h: one element before and after, against the exact step (want_*). */
static void worst_add(struct worst *w, double b1m, double b1g, double step, double denominator,
		      const double before_p, const double got[3], const long double want[3])
{
	double s = fabs(b1m) + fabs(b1g), d = step * s / denominator;
	double p = fmax(fabs(before_p), (double)fabsl(want[0]));

	w->p = fmax(w->p, (double)fabsl(got[0] - want[0]) / (ulp32(p) + 4 * ulp32(d)));
	w->m = fmax(w->m, (double)fabsl(got[1] - want[1]) / (2 * ulp32(s)));
	w->v = fmax(w->v, (double)fabsl(got[2] - want[2]) / (2 * ulp32((double)want[2])));
}

static void check_accuracy(uint64_t t, double weight_decay, double grad_scale, size_t n)
{
	const double lr = 1e-3, b1 = cfg_default.beta1, b2 = cfg_default.beta2;
	const long double step = lr / (1 - powl(b1, t)), bc2 = 1 - powl(b2, t);
	struct worst w = { 0 };
	struct strata_optim_step s;
	float *before = need(3 * n * sizeof(float));
	struct bank b;

	bank_init(&b, n, STRATA_PARAMS_F32, STRATA_GRADS_F32, 0);
	rng_seed(t);
	for (size_t i = 0; i < n; i++) {
		before[3 * i] = b.p[i] = signed_decades(-8, 4);
		before[3 * i + 1] = b.m[i] = signed_decades(-8, 4);
		before[3 * i + 2] = b.v[i] = fabsf(signed_decades(-16, 8));
		b.g[i] = signed_decades(-8, 4);
	}
	ck_assert_int_eq(strata_optim_prepare(&s, &cfg_default, t, lr, weight_decay, grad_scale),
			 0);
	bank_update(&b, &s);
	for (size_t i = 0; i < n; i++) {
		const float *old = before + 3 * i;
		long double g = (long double)b.g[i] * grad_scale;
		long double m = b1 * (long double)old[1] + (1 - b1) * g;
		long double v = b2 * (long double)old[2] + (1 - b2) * g * g;
		long double denominator = sqrtl(v / bc2) + cfg_default.eps;
		long double p =
			old[0] - (long double)lr * weight_decay * old[0] - step * m / denominator;
		const double got[3] = { b.p[i], b.m[i], b.v[i] };

		CHECK_AT(i, isfinite(got[0]) && isfinite(got[1]) && isfinite(got[2]));
		worst_add(&w, b1 * old[1], (double)((1 - b1) * g), (double)step,
			  (double)denominator, old[0], got, (const long double[3]){ p, m, v });
	}
	ck_assert_msg(w.m <= 1 && w.v <= 1 && w.p <= 1,
		      "t %llu: largest error over the allowed one: m %g, v %g, p %g",
		      (unsigned long long)t, w.m, w.v, w.p);
	ck_assert_msg(w.m > 0.1 && w.v > 0.1 && w.p > 0.1, "the comparison compared nothing");
	bank_fini(&b);
	free(before);
}

START_TEST(near_long_double)
{
	ck_assert_int_eq(strata_isa_force(strata_isa_best()), 0);
	check_accuracy(1, 0, 1, 250000);
	check_accuracy(7, 0.1, 0x1p-10, 250000);
	check_accuracy(1000, 0, 0x1p-4, 250000);
	check_accuracy(1000000, 0.01, 1, 250000);
}
END_TEST

START_TEST(near_torch_adamw)
{
	ck_assert_int_eq(strata_isa_force(strata_isa_best()), 0);
	for (size_t c = 0; c < ST_ARRAY_LEN(golden); c++) {
		const struct golden_case *k = &golden[c];
		const double bc1 = 1 - pow(k->beta1, (double)k->t);
		const double bc2 = 1 - pow(k->beta2, (double)k->t);
		struct strata_optim_cfg cfg = cfg_default;
		struct worst w32 = { 0 }, w64 = { 0 };
		struct strata_optim_step s;

		cfg.beta1 = k->beta1;
		cfg.beta2 = k->beta2;
		cfg.eps = k->eps;
		ck_assert_int_eq(strata_optim_prepare(&s, &cfg, k->t, k->lr, 0, 1), 0);
		for (size_t i = 0; i < ST_ARRAY_LEN(k->elem); i++) {
			float p = k->elem[i].p, m = k->elem[i].m, v = k->elem[i].v;
			float g = k->elem[i].g;
			struct strata_optim_range r = one_elem(&p, &m, &v, &g);
			double b1m = k->beta1 * m, b1g = (1 - k->beta1) * g;
			double denominator = sqrt(k->elem[i].v64 / bc2) + k->eps;

			CHECK_AT(i, strata_optim_update(&s, &plain_f32, &r) == 0);
			worst_add(&w64, b1m, b1g, k->lr / bc1, denominator, k->elem[i].p,
				  (const double[3]){ p, m, v },
				  (const long double[3]){ k->elem[i].p64, k->elem[i].m64,
							  k->elem[i].v64 });
			worst_add(&w32, b1m, b1g, k->lr / bc1, denominator, k->elem[i].p,
				  (const double[3]){ p, m, v },
				  (const long double[3]){ k->elem[i].p32, k->elem[i].m32,
							  k->elem[i].v32 });
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

/* Adam with L2 is AdamW without decay on the gradient g + wd * p. */
START_TEST(l2_enters_the_gradient)
{
	struct strata_optim_cfg cfg = cfg_default;
	struct strata_optim_step l2, plain;
	float p[2], m[2], v[2];

	cfg.kind = STRATA_OPTIM_ADAM;
	ck_assert_int_eq(strata_optim_prepare(&l2, &cfg, 4, 1e-2, 0.25, 0.5), 0);
	cfg.kind = STRATA_OPTIM_ADAMW;
	ck_assert_int_eq(strata_optim_prepare(&plain, &cfg, 4, 1e-2, 0, 1), 0);
	rng_seed(11);
	for (int i = 0; i < 1000; i++) {
		float g = signed_decades(-3, 3), sum;
		struct strata_optim_range r[2];

		p[0] = p[1] = signed_decades(-3, 3);
		m[0] = m[1] = signed_decades(-3, 3);
		v[0] = v[1] = fabsf(signed_decades(-3, 3));
		sum = g * 0.5f + 0.25f * p[0]; /* both products are exact */
		r[0] = one_elem(&p[0], &m[0], &v[0], &g);
		r[1] = one_elem(&p[1], &m[1], &v[1], &sum);
		CHECK_AT(i, strata_optim_update(&l2, &plain_f32, &r[0]) == 0);
		CHECK_AT(i, strata_optim_update(&plain, &plain_f32, &r[1]) == 0);
		CHECK_AT(i, p[0] == p[1] && m[0] == m[1] && v[0] == v[1]);
	}
}
END_TEST

static double reduce_by_hand(const float *x)
{
	double lane[16] = { 0 };

	for (size_t i = 0; i < STRATA_NUMERIC_TILE; i++)
		lane[i & 15] += (double)x[i] * (double)x[i];
	for (int j = 0; j < 8; j++)
		lane[j] += lane[j + 8];
	for (int j = 0; j < 4; j++)
		lane[j] += lane[j + 4];
	return (lane[0] + lane[2]) + (lane[1] + lane[3]);
}

static void check_reduce(enum strata_isa isa, enum strata_optim_grads dtype, bool is_in_place)
{
	enum { TILES = 3, N = TILES * STRATA_NUMERIC_TILE };
	float *acc = need(N * sizeof(float)), *seen = need(N * sizeof(float));
	void *out = is_in_place ? acc : need(N * sizeof(float));
	double leaf[TILES];

	ck_assert_int_eq(strata_isa_force(isa), 0);
	rng_seed(3);
	for (size_t i = 0; i < N; i++) {
		acc[i] = i < STRATA_NUMERIC_TILE ? signed_decades(-20, 10) : any_float();
		if (i >= 2 * STRATA_NUMERIC_TILE && isnan(acc[i]))
			acc[i] = -INFINITY;
		seen[i] = dtype == STRATA_GRADS_BF16 ? st_bf16_f32(st_f32_bf16(acc[i])) : acc[i];
	}
	ck_assert_int_eq(strata_optim_reduce(N, acc, out, dtype, leaf), 0);
	for (size_t i = 0; i < N; i++)
		if (dtype == STRATA_GRADS_BF16)
			CHECK_AT(i, ((uint16_t *)out)[i] == st_f32_bits(seen[i]) >> 16);
		else
			CHECK_AT(i, st_f32_bits(((float *)out)[i]) == st_f32_bits(seen[i]));
	ck_assert(leaf[0] == reduce_by_hand(seen) && leaf[0] > 0 && isfinite(leaf[0]));
	ck_assert(isnan(leaf[1]) && !signbit(leaf[1]));
	ck_assert(isinf(leaf[2]) && leaf[2] > 0);
	if (!is_in_place)
		free(out);
	free(acc);
	free(seen);
}

START_TEST(reduce_rounds_and_sums)
{
	double untouched = 7;

	for (int isa = STRATA_ISA_SCALAR; isa <= (int)strata_isa_best(); isa++) {
		check_reduce((enum strata_isa)isa, STRATA_GRADS_BF16, false);
		check_reduce((enum strata_isa)isa, STRATA_GRADS_F32, false);
		check_reduce((enum strata_isa)isa, STRATA_GRADS_F32, true);
		ck_assert_int_eq(strata_optim_reduce(0, NULL, NULL, STRATA_GRADS_BF16, &untouched),
				 0);
		ck_assert_int_eq(strata_optim_reduce(5, NULL, NULL, STRATA_GRADS_BF16, &untouched),
				 -EINVAL);
		ck_assert(untouched == 7);
	}
}
END_TEST

static double tree_by_hand(const double *x, size_t n)
{
	size_t half = 1;

	if (n == 0)
		return 0;
	if (n == 1)
		return x[0];
	while (half * 2 < n)
		half *= 2;
	return tree_by_hand(x, half) + tree_by_hand(x + half, n - half);
}

START_TEST(tree_sum_is_the_tree)
{
	enum { N = 70001 };
	double *x = need(N * sizeof(double)), straight = 0;

	rng_seed(9);
	for (size_t i = 0; i < N; i++) {
		x[i] = uniform() * pow(10.0, 12 * uniform());
		straight += x[i];
	}
	for (size_t n = 0; n < 600; n++)
		ck_assert(strata_optim_tree_sum(x, n) == tree_by_hand(x, n));
	for (size_t n = N - 4; n <= N; n++)
		ck_assert(strata_optim_tree_sum(x, n) == tree_by_hand(x, n));
	ck_assert(strata_optim_tree_sum(x, N) != straight); /* the order is seen at all */
	x[77] = -(double)NAN;
	ck_assert(isnan(strata_optim_tree_sum(x, N)) && !signbit(strata_optim_tree_sum(x, N)));
	x[77] = INFINITY;
	ck_assert(strata_optim_tree_sum(x, N) == INFINITY);
	free(x);
}
END_TEST

START_TEST(bulk_conversions_are_bit_equal)
{
	enum { N = 4097 };
	float *in = need(N * sizeof(float)), *back = need((N + 1) * sizeof(float));
	uint16_t *hi = need((N + 1) * 2), *rounded = need((N + 1) * 2);
	int16_t *lo = need((N + 1) * 2);

	rng_seed(13);
	for (size_t i = 0; i < N; i++)
		in[i] = any_float();
	for (int isa = STRATA_ISA_SCALAR; isa <= (int)strata_isa_best(); isa++)
		for (size_t n = N; n > 0; n = n > 40 ? n / 2 : n - 1) {
			ck_assert_int_eq(strata_isa_force((enum strata_isa)isa), 0);
			hi[n] = rounded[n] = 0x1234;
			lo[n] = 0x1234;
			back[n] = 1.5f;
			strata_optim_split(n, in, hi, lo);
			strata_optim_join(n, hi, lo, back);
			strata_optim_round(n, in, rounded);
			for (size_t i = 0; i < n; i++) {
				uint32_t u = st_f32_bits(in[i]);

				if (isnan(in[i]))
					u = (u & 0x80000000u) | 0x7fc00000u;
				CHECK_AT(i, hi[i] == (uint16_t)((u + 0x8000u) >> 16));
				CHECK_AT(i, (uint16_t)lo[i] == (uint16_t)u);
				CHECK_AT(i, st_f32_bits(back[i]) == u);
				CHECK_AT(i, rounded[i] == st_f32_bf16(in[i]));
			}
			ck_assert(hi[n] == 0x1234 && lo[n] == 0x1234 && rounded[n] == 0x1234);
			ck_assert(back[n] == 1.5f);
		}
	free(in);
	free(back);
	free(hi);
	free(lo);
	free(rounded);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("optim");
	TCase *t = tcase_create("optim");
	SRunner *r;
	int failed;

	tcase_set_timeout(t, 0);
	tcase_add_test(t, isa_choice);
	tcase_add_test(t, factors_are_rounded_once);
	tcase_add_test(t, bad_factors_are_refused);
	tcase_add_test(t, update_is_bit_equal);
	tcase_add_test(t, padding_stays_zero);
	tcase_add_test(t, nan_is_canonical_and_stays_local);
#if defined(__x86_64__)
	tcase_add_test(t, callers_environment_does_not_matter);
#endif
	tcase_add_test(t, near_long_double);
	tcase_add_test(t, near_torch_adamw);
	tcase_add_test(t, l2_enters_the_gradient);
	tcase_add_test(t, reduce_rounds_and_sums);
	tcase_add_test(t, tree_sum_is_the_tree);
	tcase_add_test(t, bulk_conversions_are_bit_equal);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
