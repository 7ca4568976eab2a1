/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpu_optim/optim.c - derived factors, choice of the instruction set, floating-point environment.
 *
 * Layer:   cpu_optim
 * Threads: see strata/optim.h; the chosen instruction set is one atomic
 */
#include <errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "cpu_optim/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <xmmintrin.h>

typedef unsigned fp_env;

/* Exceptions masked, round to nearest, neither FTZ nor DAZ. The memory clobbers keep the work that
 * needs this environment between enter and leave. */
static inline fp_env fp_enter(void)
{
	fp_env caller = _mm_getcsr();

	_mm_setcsr(0x1f80);
	__asm__ volatile("" ::: "memory");
	return caller;
}

static inline void fp_leave(fp_env caller)
{
	__asm__ volatile("" ::: "memory");
	_mm_setcsr(caller);
}
#else
#include <fenv.h>

typedef fenv_t fp_env;

static inline fp_env fp_enter(void)
{
	fp_env caller;

	fegetenv(&caller);
	fesetenv(FE_DFL_ENV);
	__asm__ volatile("" ::: "memory");
	return caller;
}

static inline void fp_leave(fp_env caller)
{
	__asm__ volatile("" ::: "memory");
	fesetenv(&caller);
}
#endif

static const struct {
	const char *name;
	const struct st_optim_kernels *kernels;
} isas[] = {
	[STRATA_ISA_SCALAR] = { "scalar", &st_optim_scalar_kernels },
	[STRATA_ISA_AVX2] = { "avx2", &st_optim_avx2_kernels },
	[STRATA_ISA_AVX512] = { "avx512", &st_optim_avx512_kernels },
};

#define ISA_UNCHOSEN (-1)
static atomic_int chosen = ISA_UNCHOSEN;

const char *strata_isa_name(enum strata_isa isa)
{
	return (size_t)isa < ST_ARRAY_LEN(isas) ? isas[isa].name : "unknown";
}

/* Of the CPU and the operating system: the compiler's run time also asks XGETBV. */
static bool cpu_has(enum strata_isa isa)
{
#if defined(__x86_64__)
	unsigned a, b, c = 0, d;
	bool has_avx2;

	__builtin_cpu_init();
	has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
		   __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
	if (isa == STRATA_ISA_AVX2)
		return has_avx2;
	if (isa == STRATA_ISA_AVX512)
		return has_avx2 && __builtin_cpu_supports("avx512f") &&
		       __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
		       __builtin_cpu_supports("avx512vl");
#endif
	return isa == STRATA_ISA_SCALAR;
}

static bool isa_usable(enum strata_isa isa)
{
	return (size_t)isa < ST_ARRAY_LEN(isas) && isas[isa].kernels->update && cpu_has(isa);
}

enum strata_isa strata_isa_best(void)
{
	for (size_t i = ST_ARRAY_LEN(isas); i-- > 0;)
		if (isa_usable((enum strata_isa)i))
			return (enum strata_isa)i;
	return STRATA_ISA_SCALAR;
}

int strata_isa_force(enum strata_isa isa)
{
	if (!isa_usable(isa))
		return st_fail(STRATA_E_UNSUPPORTED,
			       "instruction set %s: this CPU or this build lacks it; the best here "
			       "is %s",
			       strata_isa_name(isa), strata_isa_name(strata_isa_best()));
	atomic_store(&chosen, (int)isa);
	return 0;
}

int strata_isa_from_env(void)
{
	const char *want = getenv("STRATA_ISA");

	if (!want || !want[0] || !strcmp(want, "auto"))
		return strata_isa_force(strata_isa_best());
	for (size_t i = 0; i < ST_ARRAY_LEN(isas); i++)
		if (!strcmp(want, isas[i].name))
			return strata_isa_force((enum strata_isa)i);
	return st_fail(STRATA_E_CONFIG,
		       "STRATA_ISA=%s: no such instruction set; use auto, scalar, avx2 or avx512",
		       want);
}

enum strata_isa strata_isa_in_use(void)
{
	int isa = atomic_load_explicit(&chosen, memory_order_relaxed);

	if (isa == ISA_UNCHOSEN) {
		if (strata_isa_from_env() < 0) {
			st_log_once(ST_LOG_WARN, "%s (going on with %s)", st_last_error(),
				    strata_isa_name(strata_isa_best()));
			atomic_store(&chosen, (int)strata_isa_best());
		}
		isa = atomic_load(&chosen);
	}
	return (enum strata_isa)isa;
}

static const struct st_optim_kernels *kernels(void)
{
	return isas[strata_isa_in_use()].kernels;
}

static double power(double x, uint64_t n)
{
	double y = 1.0;

	for (; n; n >>= 1, x *= x)
		if (n & 1)
			y *= x;
	return y;
}

/* A double that is not finite, or no longer is in fp32, would turn all parameters into NaN. */
static int to_factor(float *out, const char *what, double x)
{
	float f = (float)x;

	if (!(x >= 0.0) || !isfinite(f))
		return st_fail(-EINVAL, "optimizer: %s is %g; must be >= 0 and finite in fp32.",
			       what, x);
	*out = f;
	return 0;
}

/* hi + lo = x with lo > 0: were it 0 or negative, an infinite g * g would give NaN here, and not
 * there, depending on beta2. */
static void split_factor(double x, float *hi, float *lo)
{
	float h = (float)x;

	if ((double)h >= x)
		h = nextafterf(h, 0.0f);
	*hi = h;
	*lo = (float)(x - (double)h);
}

static int check_betas(const struct strata_optim_cfg *cfg)
{
	if (!(cfg->beta1 >= 0.0 && cfg->beta1 < 1.0) || !(cfg->beta2 >= 0.0 && cfg->beta2 < 1.0))
		return st_fail(-EINVAL, "optimizer: betas are %g, %g; each must be in [0, 1).",
			       cfg->beta1, cfg->beta2);
	return 0;
}

static int check_eps(const struct strata_optim_cfg *cfg)
{
	if (!(cfg->eps > 0.0) || (float)cfg->eps == 0.0f || !isfinite((float)cfg->eps))
		return st_fail(-EINVAL,
			       "optimizer: eps is %g; must be > 0 and finite in fp32, else zero "
			       "gradients give 0 / 0.",
			       cfg->eps);
	return 0;
}

static int check_sgd(const struct strata_optim_cfg *cfg)
{
	if (!(cfg->momentum >= 0.0) || !isfinite((float)cfg->momentum))
		return st_fail(-EINVAL, "optimizer: momentum is %g; must be >= 0 and finite.",
			       cfg->momentum);
	if (!isfinite((float)(1.0 - cfg->dampening)))
		return st_fail(-EINVAL, "optimizer: dampening is %g; must be finite.",
			       cfg->dampening);
	if (cfg->is_nesterov && !(cfg->momentum > 0.0 && cfg->dampening == 0.0))
		return st_fail(-EINVAL,
			       "optimizer: Nesterov momentum needs momentum > 0 and dampening 0, "
			       "not %g and %g.",
			       cfg->momentum, cfg->dampening);
	return 0;
}

static int check_cfg(const struct strata_optim_cfg *cfg)
{
	int rc;

	if (cfg->struct_bytes != sizeof(*cfg))
		return st_fail(-EINVAL,
			       "optimizer: strata_optim_cfg.struct_bytes is %zu, not %zu: set it "
			       "with STRATA_OPTIM_CFG_DEFAULT.",
			       cfg->struct_bytes, sizeof(*cfg));
	switch (cfg->kind) {
	case STRATA_OPTIM_ADAMW:
	case STRATA_OPTIM_ADAM:
		rc = check_betas(cfg);
		return rc ? rc : check_eps(cfg);
	case STRATA_OPTIM_ADAGRAD:
		if (!(cfg->lr_decay >= 0.0) || !isfinite(cfg->lr_decay))
			return st_fail(-EINVAL,
				       "optimizer: lr_decay is %g; must be >= 0 and finite.",
				       cfg->lr_decay);
		return check_eps(cfg);
	case STRATA_OPTIM_LION:
		return check_betas(cfg);
	case STRATA_OPTIM_SGD:
		return check_sgd(cfg);
	default:
		return st_fail(-EINVAL,
			       "optimizer: kind %d is unknown; use one of enum strata_optim_kind.",
			       (int)cfg->kind);
	}
}

static enum st_rule rule_of(const struct strata_optim_cfg *cfg)
{
	static const enum st_rule rules[STRATA_OPTIM_KINDS] = {
		[STRATA_OPTIM_ADAMW] = ST_RULE_ADAMW,     [STRATA_OPTIM_ADAM] = ST_RULE_ADAM,
		[STRATA_OPTIM_ADAGRAD] = ST_RULE_ADAGRAD, [STRATA_OPTIM_LION] = ST_RULE_LION,
		[STRATA_OPTIM_SGD] = ST_RULE_MOMENTUM,
	};

	if (cfg->kind == STRATA_OPTIM_SGD && cfg->momentum == 0.0)
		return ST_RULE_SGD;
	return rules[cfg->kind];
}

static void derive_adam(struct st_factors *s, const struct strata_optim_cfg *cfg, double bc2)
{
	s->b1 = (float)cfg->beta1;
	s->b2 = (float)cfg->beta2;
	s->one_minus_b1 = (float)(1.0 - cfg->beta1);
	split_factor(1.0 - cfg->beta2, &s->one_minus_b2, &s->one_minus_b2_lo);
	s->inv_bc2 = (float)(1.0 / bc2);
}

static void derive_lion(struct st_factors *s, const struct strata_optim_cfg *cfg)
{
	s->b1 = (float)cfg->beta1;
	s->b2 = (float)cfg->beta2;
	s->one_minus_b1 = (float)(1.0 - cfg->beta1);
	s->one_minus_b2 = (float)(1.0 - cfg->beta2);
}

/* The first step takes the gradient as it is, and nothing of what m holds. */
static void derive_sgd(struct st_factors *s, const struct strata_optim_cfg *cfg, uint64_t t)
{
	s->b1 = t == 1 ? 0.0f : (float)cfg->momentum;
	s->one_minus_b1 = t == 1 ? 1.0f : (float)(1.0 - cfg->dampening);
	s->d_m = cfg->is_nesterov ? (float)cfg->momentum : 1.0f;
	s->d_g = cfg->is_nesterov ? 1.0f : 0.0f;
}

static __attribute__((noinline)) int derive(struct st_factors *out,
					    const struct strata_optim_cfg *cfg, uint64_t t,
					    double lr, double weight_decay, double grad_scale)
{
	const bool is_adam = cfg->kind == STRATA_OPTIM_ADAMW || cfg->kind == STRATA_OPTIM_ADAM;
	struct st_factors s = { 0 };
	double bc1 = 1.0, bc2 = 1.0, step_size = lr;
	const char *what = "learning rate";
	int rc;

	rc = check_cfg(cfg);
	if (rc < 0)
		return rc;
	if (t == 0)
		return st_fail(-EINVAL, "optimizer: step 0; steps count from 1.");
	s.rule = rule_of(cfg);
	if (is_adam && cfg->has_bias_correction) {
		bc1 = 1.0 - power(cfg->beta1, t);
		bc2 = 1.0 - power(cfg->beta2, t);
		step_size = lr / bc1;
		what = "learning rate / (1 - beta1^t)";
	}
	if (cfg->kind == STRATA_OPTIM_ADAGRAD)
		step_size = lr / (1.0 + (double)(t - 1) * cfg->lr_decay);
	if ((rc = to_factor(&s.step_size, what, step_size)) < 0 ||
	    (rc = to_factor(&s.wd, "weight decay", weight_decay)) < 0 ||
	    (rc = to_factor(&s.lr_wd, "learning rate * weight decay", lr * weight_decay)) < 0 ||
	    (rc = to_factor(&s.grad_scale, "gradient scale", grad_scale)) < 0)
		return rc;
	s.eps = (float)cfg->eps;
	if (is_adam)
		derive_adam(&s, cfg, bc2);
	else if (cfg->kind == STRATA_OPTIM_LION)
		derive_lion(&s, cfg);
	else if (cfg->kind == STRATA_OPTIM_SGD)
		derive_sgd(&s, cfg, t);
	if (st_rule_is_l2(s.rule))
		s.lr_wd = 0.0f;
	else
		s.wd = 0.0f;
	s.key = st_random_hash(st_random_hash(cfg->seed) + t);
	*out = s;
	return 0;
}

int strata_optim_prepare(struct strata_optim_step *out, const struct strata_optim_cfg *cfg,
			 uint64_t t, double lr, double weight_decay, double grad_scale)
{
	struct st_factors s;
	fp_env caller;
	int rc;

	if (!out || !cfg)
		return st_fail(-EINVAL, "optimizer: no configuration or no place for the factors.");
	caller = fp_enter();
	rc = derive(&s, cfg, t, lr, weight_decay, grad_scale);
	fp_leave(caller);
	if (rc < 0)
		return rc;
	memset(out, 0, sizeof(*out));
	memcpy(out, &s, sizeof(s));
	return 0;
}

/* ---- arrays -------------------------------------------------------------------------------- */

static int check_format(const struct strata_optim_format *f)
{
	if ((unsigned)f->params > STRATA_PARAMS_F32_F16)
		return st_fail(-EINVAL,
			       "optimizer: parameter format %d is unknown; use one of enum "
			       "strata_optim_params.",
			       (int)f->params);
	if ((unsigned)f->moments > STRATA_MOMENTS_INT8)
		return st_fail(-EINVAL,
			       "optimizer: moment format %d is unknown; use one of enum "
			       "strata_optim_moments.",
			       (int)f->moments);
	if ((unsigned)f->grads > STRATA_GRADS_F16)
		return st_fail(-EINVAL,
			       "optimizer: gradient format %d is unknown; use one of enum "
			       "strata_optim_grads.",
			       (int)f->grads);
	return 0;
}

size_t st_optim_array_bytes(enum st_rule rule, const struct strata_optim_format *f,
			    enum strata_optim_array array, size_t n)
{
	static const size_t moment[] = { 4, 2, 1 };
	const size_t n_blocks = (n + STRATA_MOMENTS_BLOCK - 1) / STRATA_MOMENTS_BLOCK;
	const bool is_int8 = f->moments == STRATA_MOMENTS_INT8;

	switch (array) {
	case STRATA_ARRAY_PARAM:
		return n * (f->params == STRATA_PARAMS_SPLIT ? 2 : 4);
	case STRATA_ARRAY_LOW:
		return f->params == STRATA_PARAMS_F32 ? 0 : n * 2;
	case STRATA_ARRAY_M:
		return st_rule_has_m(rule) ? n * moment[f->moments] : 0;
	case STRATA_ARRAY_V:
		return st_rule_has_v(rule) ? n * moment[f->moments] : 0;
	case STRATA_ARRAY_M_SCALE:
		return st_rule_has_m(rule) && is_int8 ? n_blocks * 4 : 0;
	case STRATA_ARRAY_V_SCALE:
		return st_rule_has_v(rule) && is_int8 ? n_blocks * 4 : 0;
	case STRATA_ARRAY_GRAD:
		return n * st_grad_bytes(f->grads);
	default:
		return 0;
	}
}

int strata_optim_array_bytes(const struct strata_optim_cfg *cfg,
			     const struct strata_optim_format *f, size_t n,
			     size_t bytes[STRATA_ARRAY_N])
{
	int rc = check_cfg(cfg);

	if (rc == 0)
		rc = check_format(f);
	if (rc < 0)
		return rc;
	for (int a = 0; a < STRATA_ARRAY_N; a++)
		bytes[a] = st_optim_array_bytes(rule_of(cfg), f, (enum strata_optim_array)a, n);
	return 0;
}

struct strata_optim_range st_optim_range_from(const struct strata_optim_format *f,
					      const struct strata_optim_range *r, size_t i)
{
	struct strata_optim_range t = *r;

	t.n = r->n - i;
	t.first = r->first + i;
	for (int a = 0; a < STRATA_ARRAY_N; a++)
		if (r->array[a])
			t.array[a] = (char *)r->array[a] +
				     st_optim_array_bytes(ST_RULE_ADAMW, f,
							  (enum strata_optim_array)a, i);
	return t;
}

/* ---- one step of a range ------------------------------------------------------------------- */

static int check_range(const struct st_factors *s, const struct strata_optim_format *f,
		       const struct strata_optim_range *r)
{
	static const char *const names[STRATA_ARRAY_N] = { "PARAM",   "LOW",     "M",   "V",
							   "M_SCALE", "V_SCALE", "GRAD" };
	int rc = check_format(f);

	if (rc < 0)
		return rc;
	if ((unsigned)s->rule >= ST_RULES)
		return st_fail(-EINVAL,
			       "optimizer: the step was not made by strata_optim_prepare().");
	for (int a = 0; a < STRATA_ARRAY_N; a++)
		if (!r->array[a] && r->n &&
		    st_optim_array_bytes(s->rule, f, (enum strata_optim_array)a, 1))
			return st_fail(-EINVAL,
				       "optimizer: array STRATA_ARRAY_%s is NULL; this optimizer "
				       "and format need it.",
				       names[a]);
	return 0;
}

/* Kernels count elements in 32 bits: a range is cut where these overflow. */
static void update(const struct st_factors *s, const struct strata_optim_format *f,
		   const struct strata_optim_range *r)
{
	const struct st_optim_kernels *k = kernels();

	for (size_t done = 0; done < r->n;) {
		struct strata_optim_range part = st_optim_range_from(f, r, done);
		uint64_t room = ((uint64_t)1 << 32) - (uint32_t)part.first;

		if (part.n > room)
			part.n = (size_t)room;
		k->update(s, f, &part);
		done += part.n;
	}
}

int strata_optim_update(const struct strata_optim_step *step, const struct strata_optim_format *f,
			const struct strata_optim_range *r)
{
	struct st_factors s;
	fp_env caller;
	int rc;

	memcpy(&s, step, sizeof(s));
	rc = check_range(&s, f, r);
	if (rc < 0)
		return rc;
	if (f->moments == STRATA_MOMENTS_INT8 && r->first % STRATA_MOMENTS_BLOCK)
		return st_fail(-EINVAL,
			       "optimizer: a range begins at element %llu, inside a block of %u "
			       "elements with one scale; cut at multiples of it.",
			       (unsigned long long)r->first, STRATA_MOMENTS_BLOCK);
	caller = fp_enter();
	update(&s, f, r);
	fp_leave(caller);
	return 0;
}

/* As st_optim_range_from(), for a range that may begin inside a block. */
static struct strata_optim_range range_at(const struct strata_optim_format *f,
					  const struct strata_optim_range *r, size_t i)
{
	struct strata_optim_range t = st_optim_range_from(f, r, i);
	size_t block = (r->first % STRATA_MOMENTS_BLOCK + i) / STRATA_MOMENTS_BLOCK;

	for (int a = STRATA_ARRAY_M_SCALE; a <= STRATA_ARRAY_V_SCALE; a++)
		if (r->array[a])
			t.array[a] = (float *)r->array[a] + block;
	return t;
}

int strata_optim_preview(const struct strata_optim_step *step, const struct strata_optim_format *f,
			 const struct strata_optim_range *r, void *out)
{
	const enum strata_optim_array low =
		f->params == STRATA_PARAMS_F32_BF16 || f->params == STRATA_PARAMS_F32_F16
			? STRATA_ARRAY_LOW
			: STRATA_ARRAY_PARAM;
	/* The widest is fp32; what is written goes here. */
	float copy[STRATA_ARRAY_N][STRATA_MOMENTS_BLOCK];
	struct st_factors s;
	size_t done = 0;
	fp_env caller;
	int rc;

	memcpy(&s, step, sizeof(s));
	rc = check_range(&s, f, r);
	if (rc < 0)
		return rc;
	caller = fp_enter();
	while (done < r->n) {
		size_t n = STRATA_MOMENTS_BLOCK - (r->first + done) % STRATA_MOMENTS_BLOCK;
		struct strata_optim_range from = range_at(f, r, done), to;

		n = n < r->n - done ? n : r->n - done;
		to = from;
		to.n = n;
		for (int a = 0; a < STRATA_ARRAY_GRAD; a++) {
			if (!from.array[a])
				continue;
			memcpy(copy[a], from.array[a],
			       st_optim_array_bytes(ST_RULE_ADAMW, f, (enum strata_optim_array)a,
						    n));
			to.array[a] = copy[a];
		}
		update(&s, f, &to);
		memcpy((char *)out + st_optim_array_bytes(ST_RULE_ADAMW, f, low, done), copy[low],
		       st_optim_array_bytes(ST_RULE_ADAMW, f, low, n));
		done += n;
	}
	fp_leave(caller);
	return 0;
}

/* One moment of the range; code: of 8 bits. */
static void decode(const struct strata_optim_format *f, const struct strata_optim_range *r,
		   enum strata_optim_array array, float (*code)(uint8_t, float), float *out)
{
	const enum strata_optim_array scales =
		array == STRATA_ARRAY_M ? STRATA_ARRAY_M_SCALE : STRATA_ARRAY_V_SCALE;
	const float *scale = r->array[scales], *x32 = r->array[array];
	const uint16_t *x16 = r->array[array];
	const uint8_t *x8 = r->array[array];

	for (size_t i = 0; i < r->n; i++)
		out[i] = !x8                                ? 0.0f
			 : f->moments == STRATA_MOMENTS_F32 ? x32[i]
			 : f->moments == STRATA_MOMENTS_BF16
				 ? st_bf16_f32(x16[i])
				 : code(x8[i], scale[i / STRATA_MOMENTS_BLOCK]);
}

int strata_optim_moments(const struct strata_optim_format *f, const struct strata_optim_range *r,
			 float *m, float *v)
{
	fp_env caller;
	int rc = check_format(f);

	if (rc < 0)
		return rc;
	if (f->moments == STRATA_MOMENTS_INT8 &&
	    ((m && r->array[STRATA_ARRAY_M] && !r->array[STRATA_ARRAY_M_SCALE]) ||
	     (v && r->array[STRATA_ARRAY_V] && !r->array[STRATA_ARRAY_V_SCALE]) ||
	     r->first % STRATA_MOMENTS_BLOCK))
		return st_fail(-EINVAL,
			       "optimizer: 8-bit moments without their scales, or from inside a "
			       "block of %u elements.",
			       STRATA_MOMENTS_BLOCK);
	caller = fp_enter();
	if (m)
		decode(f, r, STRATA_ARRAY_M, st_code_m, m);
	if (v)
		decode(f, r, STRATA_ARRAY_V, st_code_v, v);
	fp_leave(caller);
	return 0;
}

/* ---- sums of squares, conversions ---------------------------------------------------------- */

static int sums(size_t n, const void *in, enum strata_optim_grads from, void *out,
		enum strata_optim_grads to, double *leaf)
{
	const struct st_optim_kernels *k = kernels();
	fp_env caller;

	if (n && (!in || !leaf))
		return st_fail(-EINVAL,
			       "optimizer: no gradient, or no place for its sums of squares.");
	if ((unsigned)from > STRATA_GRADS_F16 || (unsigned)to > STRATA_GRADS_F16)
		return st_fail(-EINVAL, "optimizer: a gradient format is unknown; use one of enum "
					"strata_optim_grads.");
	caller = fp_enter();
	k->sums(n, in, from, out, to, leaf);
	fp_leave(caller);
	for (size_t i = 0; i * STRATA_NUMERIC_TILE < n; i++)
		if (isnan(leaf[i]))
			leaf[i] = (double)NAN;
	return 0;
}

int strata_optim_reduce(size_t n, const float *acc, void *out, enum strata_optim_grads grads,
			double *leaf)
{
	if (n && !out)
		return st_fail(-EINVAL, "optimizer: no place for the rounded gradient.");
	return sums(n, acc, STRATA_GRADS_F32, out, grads, leaf);
}

int strata_optim_sumsq(size_t n, const void *g, enum strata_optim_grads grads, double *leaf)
{
	return sums(n, g, grads, NULL, grads, leaf);
}

/*
 * Perfect subtrees are merged as soon as two of one size stand side by side, as a binary counter
 * carries; those left at the end are merged from the right. That is the tree of the contract,
 * since its left halves are all perfect.
 */
static __attribute__((noinline)) double tree_sum(const double *leaf, size_t n)
{
	double subtree[8 * sizeof(size_t)]; /* of 2^k leaves each, k as in the set bits of i */
	size_t depth = 0;
	double sum;

	if (n == 0)
		return 0.0;
	for (size_t i = 0; i < n; i++) {
		sum = leaf[i];
		for (size_t carry = i; carry & 1; carry >>= 1)
			sum = subtree[--depth] + sum;
		subtree[depth++] = sum;
	}
	sum = subtree[--depth];
	while (depth)
		sum = subtree[--depth] + sum;
	return isnan(sum) ? (double)NAN : sum;
}

double strata_optim_tree_sum(const double *leaf, size_t n)
{
	fp_env caller = fp_enter();
	double sum = tree_sum(leaf, n);

	fp_leave(caller);
	return sum;
}

void strata_optim_split(size_t n, const float *master, uint16_t *hi, int16_t *lo)
{
	const struct st_optim_kernels *k = kernels();
	fp_env caller = fp_enter();

	k->split(n, master, hi, lo);
	fp_leave(caller);
}

void strata_optim_join(size_t n, const uint16_t *hi, const int16_t *lo, float *master)
{
	const struct st_optim_kernels *k = kernels();
	fp_env caller = fp_enter();

	k->join(n, hi, lo, master);
	fp_leave(caller);
}

void strata_optim_round(size_t n, const float *master, uint16_t *out)
{
	const struct st_optim_kernels *k = kernels();
	fp_env caller = fp_enter();

	k->round(n, master, out);
	fp_leave(caller);
}
