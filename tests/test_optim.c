/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_optim.c - optimizer kernels: all instruction sets bit-equal to the scalar reference in
 * every optimizer and format, whatever the cut; previews; sums; factors; floating-point
 * environment. How near they are to exact arithmetic: test_optim_accuracy.c.
 */
#include <errno.h>
#include <pthread.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "core/log.h"
#include "tests/optim_util.h"

static const struct strata_optim_cfg cfg_default = STRATA_OPTIM_CFG_DEFAULT;

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
	cfg = cfg_default;
	cfg.struct_bytes--;
	ck_assert_int_eq(strata_optim_prepare(&s, &cfg, 1, 1e-3, 0, 1), -EINVAL);
	for (int k = 0; k < 5; k++) {
		static const struct {
			double momentum, dampening, lr_decay;
			bool is_nesterov;
		} sgd[5] = { { -0.1, 0, 0, false },
			     { 0.9, NAN, 0, false },
			     { 0.9, 0.1, 0, true },
			     { 0, 0, 0, true },
			     { 0, 0, -1, false } };

		cfg = cfg_default;
		cfg.kind = k < 4 ? STRATA_OPTIM_SGD : STRATA_OPTIM_ADAGRAD;
		cfg.momentum = sgd[k].momentum;
		cfg.dampening = sgd[k].dampening;
		cfg.lr_decay = sgd[k].lr_decay;
		cfg.is_nesterov = sgd[k].is_nesterov;
		ck_assert_int_eq(strata_optim_prepare(&s, &cfg, 1, 1e-3, 0, 1), -EINVAL);
	}
	ck_assert_int_eq(strata_optim_prepare(NULL, &cfg_default, 1, 1e-3, 0, 1), -EINVAL);
	ck_assert_int_eq(strata_optim_prepare(&s, NULL, 1, 1e-3, 0, 1), -EINVAL);
	ck_assert_int_eq(memcmp(&s, &before, sizeof(s)), 0);
}
END_TEST

/* The bits of update(), by every instruction set, of each optimizer in each format. */
static void check_update_equal(int optim, int format, size_t n, size_t offset, bool is_wild)
{
	const struct strata_optim_cfg cfg = optim_cfg(optim);
	struct strata_optim_step s;
	struct bank a, b;

	step_prepare(&s, &cfg, 3, 0.37);
	bank_init(&a, &cfg, optim_format(format), n, offset);
	a.r.first = 7 * STRATA_NUMERIC_TILE; /* or off the pairs of elements that share a draw */
	if (a.f.moments != STRATA_MOMENTS_INT8)
		a.r.first += offset;
	bank_fill(&a, n + offset, is_wild);
	bank_update_by(&a, &s, &st_optim_scalar_kernels);
	bank_update_by(&a, &s, &st_optim_scalar_kernels);
	for (int isa = STRATA_ISA_AVX2; isa <= (int)strata_isa_best(); isa++) {
		bank_init(&b, &cfg, optim_format(format), n, offset);
		b.r.first = a.r.first;
		bank_fill(&b, n + offset, is_wild);
		ck_assert_int_eq(strata_isa_force((enum strata_isa)isa), 0);
		bank_update(&b, &s);
		bank_update(&b, &s);
		bank_check_equal(&a, &b, optim_name(optim));
		bank_fini(&b);
	}
	bank_check_guards(&a);
	bank_fini(&a);
}

START_TEST(update_is_bit_equal)
{
	static const size_t lengths[] = { 0, 1, 7, 8, 9, 15, 16, 17, 33, 127, 128, 129, 257, 385 };

	for (int o = 0; o < NR_OPTIMS; o++)
		for (int f = 0; f < NR_FORMATS; f++)
			for (size_t l = 0; l < ST_ARRAY_LEN(lengths); l++)
				for (int k = 0; k < 2; k++)
					check_update_equal(o, f, lengths[l], k ? 0 : 3, k);
}
END_TEST

START_TEST(long_update_is_bit_equal)
{
	static const size_t lengths[] = { 4095, 4096, 4097 };

	for (int o = 0; o < NR_OPTIMS; o++)
		for (int f = 0; f < NR_FORMATS; f++)
			for (size_t l = 0; l < ST_ARRAY_LEN(lengths); l++)
				check_update_equal(o, f, lengths[l], l, l == 1);
	for (int m = 0; m < 3; m++) /* a storage tile as the engine has it */
		check_update_equal(0, 1 + 3 * m, (size_t)1 << 18, 0, false);
}
END_TEST

/* The same steps on any partition into numeric tiles: each cut on a thread of its own. */
struct cut {
	pthread_t thread;
	const struct strata_optim_step *step;
	struct strata_optim_format f;
	struct strata_optim_range r;
	int rc;
};

static void *update_cut(void *arg)
{
	struct cut *c = arg;

	c->rc = strata_optim_update(c->step, &c->f, &c->r);
	return NULL;
}

#define CUTS_MAX 7u

static void update_in_cuts(struct bank *b, const struct strata_optim_step *s, size_t nr_cuts)
{
	const size_t nr_tiles = (b->r.n + STRATA_NUMERIC_TILE - 1) / STRATA_NUMERIC_TILE;
	struct cut cuts[CUTS_MAX];

	ck_assert_uint_le(nr_cuts, CUTS_MAX);
	for (size_t c = 0; c < nr_cuts; c++) {
		size_t from = nr_tiles * c / nr_cuts * STRATA_NUMERIC_TILE;
		size_t to = nr_tiles * (c + 1) / nr_cuts * STRATA_NUMERIC_TILE;

		cuts[c] = (struct cut){ .step = s,
					.f = b->f,
					.r = st_optim_range_from(&b->f, &b->r, from) };
		cuts[c].r.n = (to < b->r.n ? to : b->r.n) - from;
		CHECK_AT(c, !pthread_create(&cuts[c].thread, NULL, update_cut, &cuts[c]));
	}
	for (size_t c = 0; c < nr_cuts; c++) {
		CHECK_AT(c, !pthread_join(cuts[c].thread, NULL));
		CHECK_AT(c, cuts[c].rc == 0);
	}
}

/* 1, 2 and 7 threads. */
START_TEST(threads_do_not_matter)
{
	static const size_t cuts[] = { 2, CUTS_MAX };
	const size_t n = 9 * STRATA_NUMERIC_TILE + 333;

	ck_assert_int_eq(strata_isa_force(strata_isa_best()), 0);
	for (int o = 0; o < NR_OPTIMS; o++)
		for (int f = 0; f < NR_FORMATS; f++) {
			const struct strata_optim_cfg cfg = optim_cfg(o);
			struct strata_optim_step s;
			struct bank a, b;

			if (f % 3 && o > 1) /* gradients have nothing to do with it */
				continue;
			bank_init(&a, &cfg, optim_format(f), n, 0);
			a.r.first = ((uint64_t)1 << 32) - 3 * STRATA_NUMERIC_TILE;
			bank_fill(&a, 4, false);
			step_prepare(&s, &cfg, 9, 1);
			bank_update(&a, &s);
			for (size_t c = 0; c < ST_ARRAY_LEN(cuts); c++) {
				bank_init(&b, &cfg, optim_format(f), n, 0);
				b.r.first = a.r.first;
				bank_fill(&b, 4, false);
				update_in_cuts(&b, &s, cuts[c]);
				bank_check_equal(&a, &b, optim_name(o));
				bank_fini(&b);
			}
			bank_fini(&a);
		}
}
END_TEST

START_TEST(preview_is_what_update_stores)
{
	static const struct {
		size_t from, n;
	} cuts[] = { { 0, 1000 }, { 1, 126 }, { 127, 2 }, { 128, 128 }, { 300, 700 }, { 999, 1 } };
	const size_t n = 1000;

	for (int isa = STRATA_ISA_SCALAR; isa <= (int)strata_isa_best(); isa++)
		for (int k = 0; k < NR_OPTIMS * NR_FORMATS; k++) {
			const struct strata_optim_cfg cfg = optim_cfg(k / NR_FORMATS);
			const struct strata_optim_format f = optim_format(k % NR_FORMATS);
			const size_t bytes = f.params == STRATA_PARAMS_F32 ? 4 : 2;
			char *out = need(n * bytes);
			struct strata_optim_step s;
			struct bank a, b;
			const char *stored;

			ck_assert_int_eq(strata_isa_force((enum strata_isa)isa), 0);
			bank_init(&a, &cfg, f, n, 1);
			bank_init(&b, &cfg, f, n, 1);
			bank_fill(&a, 8, k & 1);
			bank_fill(&b, 8, k & 1);
			step_prepare(&s, &cfg, 2, 1);
			bank_update(&a, &s);
			stored = a.r.array[f.params >= STRATA_PARAMS_F32_BF16 ? STRATA_ARRAY_LOW
									      : STRATA_ARRAY_PARAM];
			for (size_t c = 0; c < ST_ARRAY_LEN(cuts); c++) {
				/* Scales stand at their block, so a range inside one keeps them. */
				struct strata_optim_range r =
					st_optim_range_from(&f, &b.r, cuts[c].from);
				size_t block = cuts[c].from / STRATA_MOMENTS_BLOCK;

				for (int x = STRATA_ARRAY_M_SCALE; x <= STRATA_ARRAY_V_SCALE; x++)
					if (r.array[x])
						r.array[x] = (float *)b.r.array[x] + block;
				r.n = cuts[c].n;
				CHECK_AT(c, strata_optim_preview(&s, &f, &r, out) == 0);
				CHECK_AT(c, !memcmp(out, stored + cuts[c].from * bytes,
						    cuts[c].n * bytes));
			}
			bank_fini(&a);
			bank_init(&a, &cfg, f, n, 1); /* and b is as it was */
			bank_fill(&a, 8, k & 1);
			bank_check_equal(&a, &b, "after preview");
			bank_fini(&a);
			bank_fini(&b);
			free(out);
		}
}
END_TEST

/* No neighbour of what is stored in 16 bits is nearer to p. */
static bool is_nearest(uint16_t stored, bool is_f16, float p)
{
	const enum st_dtype dtype = is_f16 ? ST_F16 : ST_BF16;
	const double off = fabs((double)st_elem_f32(dtype, &stored, 0) - (double)p);

	for (int d = -1; d <= 1; d += 2) {
		const uint16_t other = (uint16_t)(stored + d);

		if (fabs((double)st_elem_f32(dtype, &other, 0) - (double)p) < off)
			return false;
	}
	return true;
}

/* The master weight does not depend on how it is held, nor on a gradient's width where the gradient
 * is exact in all; and what goes to the computation is that weight, rounded to nearest. */
START_TEST(formats_hold_the_same_weight)
{
	enum { N = 1500 };

	for (int k = 0; k < 12 * NR_OPTIMS; k++) { /* parameters x gradients; moments fp32 */
		const struct strata_optim_cfg cfg = optim_cfg(k / 12);
		const struct strata_optim_format f = optim_format(k % 12 / 3 * 9 + k % 3);
		static float want[N];
		struct strata_optim_step s;
		struct bank b;

		bank_init(&b, &cfg, f, N, 0);
		for (size_t a = 0; a < STRATA_ARRAY_N; a++)
			memset(b.block[a], 0, b.bytes[a]);
		rng_seed(17);
		for (size_t i = 0; i < N; i++) {
			bank_set_param(&b, i, signed_decades(-3, 3));
			bank_set_grad(&b, i, (float)((int)(rng() % 255) - 127) * 0x1p-7f);
		}
		for (uint64_t t = 1; t <= 3; t++) {
			step_prepare(&s, &cfg, t, 0.5);
			bank_update(&b, &s);
		}
		for (size_t i = 0; i < N; i++) {
			want[i] = k % 12 ? want[i] : bank_param(&b, i);
			CHECK_AT(i, st_f32_bits(bank_param(&b, i)) == st_f32_bits(want[i]));
			if (f.params >= STRATA_PARAMS_F32_BF16)
				CHECK_AT(i, is_nearest(((uint16_t *)b.lo)[i],
						       f.params == STRATA_PARAMS_F32_F16, b.p[i]));
		}
		bank_fini(&b);
	}
}
END_TEST

START_TEST(padding_stays_zero)
{
	for (int isa = STRATA_ISA_SCALAR; isa <= (int)strata_isa_best(); isa++)
		for (int k = 0; k < NR_OPTIMS * NR_FORMATS; k++) {
			const struct strata_optim_cfg cfg = optim_cfg(k / NR_FORMATS);
			struct strata_optim_step s;
			struct bank b;

			ck_assert_int_eq(strata_isa_force((enum strata_isa)isa), 0);
			bank_init(&b, &cfg, optim_format(k % NR_FORMATS), 277, 0);
			for (size_t a = 0; a < STRATA_ARRAY_N; a++)
				memset(b.block[a], 0, b.bytes[a]);
			for (uint64_t t = 1; t < 5; t++) {
				step_prepare(&s, &cfg, t, 1);
				bank_update(&b, &s);
			}
			for (size_t a = 0; a < STRATA_ARRAY_N; a++)
				for (size_t i = 0; i < b.bytes[a]; i++)
					CHECK_AT(i, b.block[a][i] == 0);
			bank_fini(&b);
		}
}
END_TEST

static void fill_ordinary(struct bank *b)
{
	for (size_t k = 0; k < STRATA_ARRAY_N; k++)
		memset(b->block[k], 0, b->bytes[k]);
	for (size_t i = 0; i < b->r.n; i++) {
		bank_set_param(b, i, 1.0f);
		bank_set_grad(b, i, 1.0f);
	}
}

/* NaN and Inf in a gradient reach their own element, in one form, and no other; with 8-bit moments
 * the block after one step more. */
START_TEST(nan_is_canonical_and_stays_local)
{
	static const uint32_t bad[] = { 0x7f800001u, 0xffffffffu, 0x7f800000u, 0xff800000u };

	for (int k = 0; k < NR_OPTIMS * 12 * (int)ST_ARRAY_LEN(bad); k++) {
		const int o = k % NR_OPTIMS, f = k / NR_OPTIMS % 12 * 3;
		const uint32_t value = bad[k / NR_OPTIMS / 12];
		const struct strata_optim_cfg cfg = optim_cfg(o);
		const struct strata_optim_format format = optim_format(f);
		const bool is_nan = (value & 0x7fffffffu) > 0x7f800000u;
		struct strata_optim_step s;
		struct bank b;

		ck_assert_int_eq(strata_isa_force(strata_isa_best()), 0);
		bank_init(&b, &cfg, format, 300, 0);
		fill_ordinary(&b);
		b.g[21] = st_bits_f32(value);
		step_prepare(&s, &cfg, 2, 1);
		bank_update(&b, &s);
		for (size_t i = 0; i < 300; i++)
			CHECK_AT(i, i == 21 || isfinite(bank_param(&b, i)));
		if (is_nan)
			CHECK_AT(k, st_f32_bits(bank_param(&b, 21)) == 0x7fc00000u);
		if (is_nan && b.m && format.moments == STRATA_MOMENTS_F32)
			CHECK_AT(k, st_f32_bits(b.m[21]) == 0x7fc00000u);
		if (is_nan && b.v && format.moments == STRATA_MOMENTS_BF16)
			CHECK_AT(k, ((uint16_t *)b.v)[21] == 0x7fc0);
		if (format.moments == STRATA_MOMENTS_INT8 && b.m) {
			const float *scale = b.r.array[STRATA_ARRAY_M_SCALE];

			CHECK_AT(k, st_f32_bits(scale[0]) == 0x7fc00000u && scale[1] > 0.0f);
			b.g[21] = 1.0f;
			bank_update(&b, &s);
			for (size_t i = 0; i < 300; i++) /* Lion tells no more than the sign */
				CHECK_AT(i, (i < 128) == !isfinite(bank_param(&b, i)));
		}
		bank_fini(&b);
	}
}
END_TEST

START_TEST(bad_ranges_are_refused)
{
	struct strata_optim_format f = { STRATA_PARAMS_SPLIT, STRATA_MOMENTS_INT8,
					 STRATA_GRADS_BF16 };
	size_t bytes[STRATA_ARRAY_N];
	struct strata_optim_step s, garbage;
	struct strata_optim_range r;
	struct bank b, same;

	bank_init(&b, &cfg_default, f, 256, 0);
	bank_init(&same, &cfg_default, f, 256, 0);
	bank_fill(&b, 1, false);
	bank_fill(&same, 1, false);
	step_prepare(&s, &cfg_default, 1, 1);
	for (int a = 0; a < STRATA_ARRAY_N; a++) {
		r = b.r;
		r.array[a] = NULL;
		ck_assert_int_eq(strata_optim_update(&s, &f, &r), -EINVAL);
		ck_assert_ptr_nonnull(strstr(strata_last_error(), "is NULL"));
		ck_assert_int_eq(strata_optim_preview(&s, &f, &r, bytes), -EINVAL);
	}
	r = b.r;
	r.first = 64;
	ck_assert_int_eq(strata_optim_update(&s, &f, &r), -EINVAL);
	ck_assert_ptr_nonnull(strstr(strata_last_error(), "inside a block"));
	memset(&garbage, 0xff, sizeof(garbage));
	ck_assert_int_eq(strata_optim_update(&garbage, &f, &b.r), -EINVAL);
	f.params = (enum strata_optim_params)4;
	ck_assert_int_eq(strata_optim_update(&s, &f, &b.r), -EINVAL);
	ck_assert_int_eq(strata_optim_array_bytes(&cfg_default, &f, 1, bytes), -EINVAL);
	f.params = STRATA_PARAMS_F32;
	f.moments = (enum strata_optim_moments) - 1;
	ck_assert_int_eq(strata_optim_update(&s, &f, &b.r), -EINVAL);
	f.moments = STRATA_MOMENTS_F32;
	ck_assert_int_eq(strata_optim_moments(&f, &b.r, NULL, NULL), 0);
	f.moments = STRATA_MOMENTS_INT8;
	r = b.r;
	r.array[STRATA_ARRAY_V_SCALE] = NULL;
	ck_assert_int_eq(strata_optim_moments(&f, &r, NULL, (float *)bytes), -EINVAL);
	f.grads = (enum strata_optim_grads)3;
	ck_assert_int_eq(strata_optim_update(&s, &f, &b.r), -EINVAL);
	bank_check_equal(&b, &same, "after refusals");
	bank_fini(&b);
	bank_fini(&same);
}
END_TEST

START_TEST(arrays_have_their_sizes)
{
	static const struct {
		int optim, format;
		size_t bytes[STRATA_ARRAY_N];
	} want[] = {
		{ 0, 1, { 600, 600, 1200, 1200, 0, 0, 600 } },   /* split, fp32, bf16 */
		{ 0, 4, { 600, 600, 600, 600, 0, 0, 600 } },     /* bf16 moments */
		{ 0, 7, { 600, 600, 300, 300, 12, 12, 600 } },   /* int8 */
		{ 0, 9, { 1200, 0, 1200, 1200, 0, 0, 1200 } },   /* fp32 */
		{ 0, 29, { 1200, 600, 1200, 1200, 0, 0, 600 } }, /* fp32 with fp16 */
		{ 2, 7, { 600, 600, 0, 300, 0, 12, 600 } },      /* Adagrad */
		{ 3, 7, { 600, 600, 300, 0, 12, 0, 600 } },      /* Lion */
		{ 4, 7, { 600, 600, 0, 0, 0, 0, 600 } },         /* SGD */
		{ 5, 4, { 600, 600, 600, 0, 0, 0, 600 } },
	};

	for (size_t k = 0; k < ST_ARRAY_LEN(want); k++) {
		const struct strata_optim_cfg cfg = optim_cfg(want[k].optim);
		const struct strata_optim_format f = optim_format(want[k].format);
		size_t bytes[STRATA_ARRAY_N];

		ck_assert_int_eq(strata_optim_array_bytes(&cfg, &f, 300, bytes), 0);
		for (size_t a = 0; a < STRATA_ARRAY_N; a++)
			ck_assert_uint_eq(bytes[a], want[k].bytes[a]);
	}
}
END_TEST

#if defined(__x86_64__)
/* One optimizer and format under a hostile MXCSR, and under the usual one: the same bits. */
static void check_environment(unsigned hostile, int optim, int format)
{
	enum { N = 2 * STRATA_NUMERIC_TILE };
	struct strata_optim_cfg cfg = optim_cfg(optim);
	float *acc = need(N * sizeof(float));
	double leaf[2][2], sum[2];
	uint16_t *out[2] = { need(N * 2), need(N * 2) };
	struct strata_optim_step s[2];
	struct bank b[2];

	cfg.eps = 1e-40; /* a denormal factor */
	for (int k = 0; k < 2; k++) {
		unsigned usual = _mm_getcsr(), after;
		int rc;

		bank_init(&b[k], &cfg, optim_format(format), N, 0);
		bank_fill(&b[k], 5, true);
		for (size_t i = 0; i < N; i++)
			acc[i] = st_bits_f32((uint32_t)i * 0x1f123u);
		memset(&s[k], 0, sizeof(s[k]));
		_mm_setcsr(k ? hostile : usual);
		rc = strata_optim_prepare(&s[k], &cfg, 9, 1e-3, 1e-37, 0.3);
		rc |= strata_optim_update(&s[k], &b[k].f, &b[k].r);
		rc |= strata_optim_reduce(N, acc, out[k], (enum strata_optim_grads)(1 + format % 2),
					  leaf[k]);
		sum[k] = strata_optim_tree_sum((double[]){ 1.1, 0x1p-1060, 3.3 }, 3);
		after = _mm_getcsr();
		_mm_setcsr(usual);
		ck_assert_int_eq(rc, 0);
		ck_assert_uint_eq(after, k ? hostile : usual);
	}
	ck_assert_int_eq(memcmp(&s[0], &s[1], sizeof(s[0])), 0);
	bank_check_equal(&b[0], &b[1], optim_name(optim));
	ck_assert_int_eq(memcmp(out[0], out[1], N * 2), 0);
	ck_assert_int_eq(memcmp(leaf[0], leaf[1], sizeof(leaf[0])), 0);
	ck_assert(sum[0] == sum[1]);
	for (int k = 0; k < 2; k++) {
		bank_fini(&b[k]);
		free(out[k]);
	}
	free(acc);
}

START_TEST(callers_environment_does_not_matter)
{
	static const unsigned hostile[] = {
		0x9fc0, /* FTZ, DAZ */
		0xffc0, /* and round toward zero */
		0x5f80, /* round up */
		0x0000, /* every exception unmasked */
	};

	for (int isa = STRATA_ISA_SCALAR; isa <= (int)strata_isa_best(); isa++) {
		ck_assert_int_eq(strata_isa_force((enum strata_isa)isa), 0);
		for (size_t h = 0; h < ST_ARRAY_LEN(hostile); h++)
			for (int k = 0; k < NR_OPTIMS + 4; k++)
				check_environment(hostile[h], k % NR_OPTIMS, 5 * k % NR_FORMATS);
	}
}
END_TEST
#endif

/* The generator: no bit is biased, none follows the neighbours', the step before, or the other
 * half. 3 * 10^5 draws: the mean of a product of two signs is within 0.01 by 5 deviations. */
START_TEST(random_bits_are_independent)
{
	enum { N = 300000 };
	const struct st_random k[3] = { st_random_init(st_random_hash(st_random_hash(1) + 7), 3, 0),
					st_random_init(st_random_hash(st_random_hash(1) + 8), 3, 0),
					st_random_init(st_random_hash(st_random_hash(1) + 7), 4,
						       0) };
	int ones[32] = { 0 }, pairs[6][32] = { { 0 } };
	unsigned low = 0, histogram[2][256] = { { 0 } };

	for (uint32_t i = 0; i < N; i++) {
		const uint32_t x = st_random_bits(k[0], i);
		const uint32_t other[6] = {
			st_random_bits(k[0], i + 1),  st_random_bits(k[0], i + 4),
			st_random_bits(k[0], i + 64), st_random_bits(k[1], i),
			st_random_bits(k[2], i),      x << 16 | x >> 16
		};

		histogram[0][x >> 24]++;
		histogram[1][x >> 8 & 0xff]++;
		low += x & 1;
		for (int b = 0; b < 32; b++) {
			ones[b] += x >> b & 1 ? 1 : -1;
			for (int o = 0; o < 6; o++)
				pairs[o][b] += (x ^ other[o]) >> b & 1 ? 1 : -1;
		}
	}
	ck_assert_uint_gt(low, N / 3);
	for (int b = 0; b < 32; b++) {
		CHECK_AT(b, abs(ones[b]) < N / 100);
		for (int o = 0; o < 6; o++)
			CHECK_AT(b * 6 + o, abs(pairs[o][b]) < N / 100);
	}
	for (int h = 0; h < 2; h++) { /* chi^2 of 255 degrees: mean 255, deviation 22.6 */
		double chi2 = 0;

		for (int i = 0; i < 256; i++)
			chi2 += pow(histogram[h][i] - N / 256.0, 2) / (N / 256.0);
		ck_assert(chi2 > 150 && chi2 < 370);
	}
	/* Beyond 2^32 elements the bits are others. */
	ck_assert(st_random_init(1, 2, 0).k0 != st_random_init(1, 2, (uint64_t)1 << 32).k0);
}
END_TEST

/* The numbers that are added before rounding, as a share of what they can be: of the two moments of
 * an element, and of one moment in two elements that follow each other. 3 * 10^5 of each: mean and
 * correlation by 5 deviations, and evenly spread over 64 x 64 squares. */
START_TEST(roundings_are_independent)
{
	enum { N = 300000, SIDE = 64 };
	static const unsigned bits[] = { ST_RANDOM_BF16, ST_RANDOM_INT8 };
	const struct st_random key =
		st_random_init(st_random_hash(st_random_hash(1) + 7), 3, (uint64_t)5 << 32);

	for (int k = 0; k < 8; k++) {
		const unsigned n = bits[k & 1];
		const bool first = k & 2, across = k & 4; /* a moment; of the next element, too */
		static unsigned square[SIDE][SIDE];
		double mean = 0, product = 0, chi2 = 0;

		memset(square, 0, sizeof(square));
		for (uint32_t i = 0; i < N; i++) {
			uint32_t elem = i, next = elem + across;
			uint32_t a = st_random_of(st_random_bits(key, elem >> 1), elem, first, n);
			uint32_t b = st_random_of(st_random_bits(key, next >> 1), next,
						  across ? first : !first, n);
			double x = ldexp(a, -(int)n), y = ldexp(b, -(int)n);

			CHECK_AT(i, a >> n == 0);
			mean += (x - 0.5) / N;
			product += 12 * (x - 0.5) * (y - 0.5) / N;
			square[(int)(x * SIDE)][(int)(y * SIDE)]++;
		}
		CHECK_AT(k, fabs(mean) < 5 / sqrt(12.0 * N));
		CHECK_AT(k, fabs(product) < 5 / sqrt(1.0 * N));
		for (int i = 0; i < SIDE * SIDE; i++) {
			double want = (double)N / SIDE / SIDE;

			chi2 += pow(square[i / SIDE][i % SIDE] - want, 2) / want;
		}
		CHECK_AT(k, fabs(chi2 - SIDE * SIDE) < 5 * sqrt(2.0 * SIDE * SIDE));
	}
}
END_TEST

/* Over many seeds the stored moment is the true one in the mean, and always one of its neighbours.
 */
START_TEST(moments_are_rounded_without_bias)
{
	enum { N = STRATA_MOMENTS_BLOCK, SEEDS = 4000 };

	ck_assert_int_eq(strata_isa_force(strata_isa_best()), 0);
	for (int f = STRATA_MOMENTS_BF16; f <= STRATA_MOMENTS_INT8; f++) {
		const double worst = f == STRATA_MOMENTS_BF16 ? 0x1p-7 : 0x1p-3;
		double mean[2][N] = { { 0 } }, truth[2][N];
		float read[2][N];

		for (int k = 0; k < SEEDS; k++) {
			struct strata_optim_cfg cfg = cfg_default;
			struct strata_optim_step s;
			struct bank b;

			cfg.seed = (uint64_t)k;
			bank_init(&b, &cfg, optim_format(9 + 3 * f), N, 0);
			fill_ordinary(&b);
			rng_seed(9);
			for (size_t i = 0; i < N; i++) {
				bank_set_grad(&b, i, (float)(1.0 + uniform()));
				truth[0][i] = bank_grad(&b, i) * (1 - cfg.beta1);
				truth[1][i] = pow(bank_grad(&b, i), 2) * (1 - cfg.beta2);
			}
			ck_assert_int_eq(strata_optim_prepare(&s, &cfg, 1, 1, 0, 1), 0);
			bank_update(&b, &s);
			CHECK_AT(k, !strata_optim_moments(&b.f, &b.r, read[0], read[1]));
			for (int which = 0; which < 2; which++)
				for (size_t i = 0; i < N; i++) {
					double x = read[which][i] / truth[which][i];

					CHECK_AT(i, fabs(x - 1) <= worst);
					mean[which][i] += x / SEEDS;
				}
			bank_fini(&b);
		}
		for (int which = 0; which < 2; which++)
			for (size_t i = 0; i < N; i++) /* 5 deviations of half a unit each */
				CHECK_AT(i, fabs(mean[which][i] - 1) <=
						    5 * worst / 2 / sqrt((double)SEEDS));
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

static void check_reduce(enum strata_isa isa, enum strata_optim_grads to, bool is_in_place)
{
	enum { TILES = 4, N = (TILES - 1) * STRATA_NUMERIC_TILE + 77 };
	float *acc = need(TILES * STRATA_NUMERIC_TILE * sizeof(float));
	float *seen = need(TILES * STRATA_NUMERIC_TILE * sizeof(float));
	void *out = is_in_place ? acc : need(N * sizeof(float));
	const enum st_dtype dtype = (enum st_dtype)to;
	double leaf[TILES], again[TILES];

	ck_assert_int_eq(strata_isa_force(isa), 0);
	rng_seed(3);
	for (size_t i = 0; i < N; i++) {
		acc[i] = i < STRATA_NUMERIC_TILE || i >= 3 * STRATA_NUMERIC_TILE
				 ? signed_decades(-20, to == STRATA_GRADS_F16 ? 4 : 10)
				 : any_float();
		if (i >= 2 * STRATA_NUMERIC_TILE && isnan(acc[i]))
			acc[i] = -INFINITY;
		st_elem_set(dtype, &seen[i], 0, acc[i]);
		seen[i] = st_elem_f32(dtype, &seen[i], 0);
	}
	ck_assert_int_eq(strata_optim_reduce(N, acc, out, to, leaf), 0);
	for (size_t i = 0; i < N; i++)
		CHECK_AT(i, st_f32_bits(st_elem_f32(dtype, out, i)) == st_f32_bits(seen[i]));
	ck_assert(leaf[0] == reduce_by_hand(seen) && leaf[0] > 0 && isfinite(leaf[0]));
	ck_assert(isnan(leaf[1]) && !signbit(leaf[1]));
	ck_assert(isinf(leaf[2]) && leaf[2] > 0);
	ck_assert(leaf[3] == reduce_by_hand(seen + (size_t)3 * STRATA_NUMERIC_TILE));
	ck_assert_int_eq(strata_optim_sumsq(N, out, to, again), 0);
	ck_assert_int_eq(memcmp(leaf, again, sizeof(leaf)), 0);
	if (!is_in_place)
		free(out);
	free(acc);
	free(seen);
}

START_TEST(reduce_rounds_and_sums)
{
	double untouched = 7;

	for (int isa = STRATA_ISA_SCALAR; isa <= (int)strata_isa_best(); isa++) {
		for (int to = STRATA_GRADS_F32; to <= STRATA_GRADS_F16; to++)
			check_reduce((enum strata_isa)isa, (enum strata_optim_grads)to, false);
		check_reduce((enum strata_isa)isa, STRATA_GRADS_F32, true);
		ck_assert_int_eq(strata_optim_reduce(0, NULL, NULL, STRATA_GRADS_BF16, &untouched),
				 0);
		ck_assert_int_eq(strata_optim_reduce(5, NULL, NULL, STRATA_GRADS_BF16, &untouched),
				 -EINVAL);
		ck_assert_int_eq(
			strata_optim_sumsq(1, &untouched, (enum strata_optim_grads)3, &untouched),
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
	tcase_add_test(t, arrays_have_their_sizes);
	tcase_add_test(t, bad_ranges_are_refused);
	tcase_add_test(t, update_is_bit_equal);
	tcase_add_test(t, long_update_is_bit_equal);
	tcase_add_test(t, threads_do_not_matter);
	tcase_add_test(t, formats_hold_the_same_weight);
	tcase_add_test(t, preview_is_what_update_stores);
	tcase_add_test(t, padding_stays_zero);
	tcase_add_test(t, nan_is_canonical_and_stays_local);
#if defined(__x86_64__)
	tcase_add_test(t, callers_environment_does_not_matter);
#endif
	tcase_add_test(t, random_bits_are_independent);
	tcase_add_test(t, roundings_are_independent);
	tcase_add_test(t, moments_are_rounded_without_bias);
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
