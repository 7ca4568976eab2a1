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

static int check_cfg(const struct strata_optim_cfg *cfg, uint64_t t)
{
	if (cfg->struct_bytes != sizeof(*cfg))
		return st_fail(-EINVAL,
			       "optimizer: strata_optim_cfg.struct_bytes is %zu, not %zu: set it "
			       "with STRATA_OPTIM_CFG_DEFAULT.",
			       cfg->struct_bytes, sizeof(*cfg));
	if (cfg->kind != STRATA_OPTIM_ADAMW && cfg->kind != STRATA_OPTIM_ADAM)
		return st_fail(-EINVAL, "optimizer: kind %d is unknown; use AdamW or Adam.",
			       (int)cfg->kind);
	if (!(cfg->beta1 >= 0.0 && cfg->beta1 < 1.0) || !(cfg->beta2 >= 0.0 && cfg->beta2 < 1.0))
		return st_fail(-EINVAL, "optimizer: betas are %g, %g; each must be in [0, 1).",
			       cfg->beta1, cfg->beta2);
	if (!(cfg->eps > 0.0) || (float)cfg->eps == 0.0f)
		return st_fail(-EINVAL,
			       "optimizer: eps is %g; must be > 0 in fp32, else zero "
			       "gradients give 0 / 0.",
			       cfg->eps);
	if (t == 0)
		return st_fail(-EINVAL, "optimizer: step 0; steps count from 1.");
	return 0;
}

static __attribute__((noinline)) int derive(struct st_factors *out,
					    const struct strata_optim_cfg *cfg, uint64_t t,
					    double lr, double weight_decay, double grad_scale)
{
	const bool is_l2 = cfg->kind == STRATA_OPTIM_ADAM;
	struct st_factors s = { .kind = cfg->kind };
	double bc1 = 1.0, bc2 = 1.0, step_size;
	int rc;

	rc = check_cfg(cfg, t);
	if (rc < 0)
		return rc;
	if (cfg->has_bias_correction) {
		bc1 = 1.0 - power(cfg->beta1, t);
		bc2 = 1.0 - power(cfg->beta2, t);
	}
	step_size = lr / bc1;
	if ((rc = to_factor(&s.step_size, "learning rate / (1 - beta1^t)", step_size)) < 0 ||
	    (rc = to_factor(&s.wd, "weight decay", weight_decay)) < 0 ||
	    (rc = to_factor(&s.lr_wd, "learning rate * weight decay", lr * weight_decay)) < 0 ||
	    (rc = to_factor(&s.grad_scale, "gradient scale", grad_scale)) < 0 ||
	    (rc = to_factor(&s.eps, "eps", cfg->eps)) < 0)
		return rc;
	s.b1 = (float)cfg->beta1;
	s.b2 = (float)cfg->beta2;
	s.one_minus_b1 = (float)(1.0 - cfg->beta1);
	split_factor(1.0 - cfg->beta2, &s.one_minus_b2, &s.one_minus_b2_lo);
	s.inv_bc2 = (float)(1.0 / bc2);
	if (is_l2)
		s.lr_wd = 0.0f;
	else
		s.wd = 0.0f;
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

/* Which moments an optimizer keeps, as bits 1 << STRATA_ARRAY_M and 1 << STRATA_ARRAY_V. */
#define KEEPS_M (1u << STRATA_ARRAY_M)
#define KEEPS_V (1u << STRATA_ARRAY_V)

static unsigned moments_kept(enum strata_optim_kind kind)
{
	switch (kind) {
	case STRATA_OPTIM_ADAMW:
	case STRATA_OPTIM_ADAM:
		return KEEPS_M | KEEPS_V;
	default:
		return 0;
	}
}

static int check_format(const struct strata_optim_format *f)
{
	if (f->params != STRATA_PARAMS_SPLIT && f->params != STRATA_PARAMS_F32)
		return st_fail(-EINVAL, "optimizer: parameter format %d is not built.",
			       (int)f->params);
	if (f->moments != STRATA_MOMENTS_F32)
		return st_fail(-EINVAL, "optimizer: moment format %d is not built; use fp32.",
			       (int)f->moments);
	if (f->grads != STRATA_GRADS_F32 && f->grads != STRATA_GRADS_BF16)
		return st_fail(-EINVAL, "optimizer: gradient format %d is not built.",
			       (int)f->grads);
	return 0;
}

size_t st_optim_array_bytes(unsigned kept, const struct strata_optim_format *f,
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
	case STRATA_ARRAY_V:
		return kept & 1u << array ? n * moment[f->moments] : 0;
	case STRATA_ARRAY_M_SCALE:
		return kept & KEEPS_M && is_int8 ? n_blocks * 4 : 0;
	case STRATA_ARRAY_V_SCALE:
		return kept & KEEPS_V && is_int8 ? n_blocks * 4 : 0;
	case STRATA_ARRAY_GRAD:
		return n * (f->grads == STRATA_GRADS_F32 ? 4 : 2);
	default:
		return 0;
	}
}

int strata_optim_array_bytes(const struct strata_optim_cfg *cfg,
			     const struct strata_optim_format *f, size_t n,
			     size_t bytes[STRATA_ARRAY_N])
{
	int rc = check_cfg(cfg, 1);

	if (rc == 0)
		rc = check_format(f);
	if (rc < 0)
		return rc;
	for (int a = 0; a < STRATA_ARRAY_N; a++)
		bytes[a] = st_optim_array_bytes(moments_kept(cfg->kind), f,
						(enum strata_optim_array)a, n);
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
				     st_optim_array_bytes(~0u, f, (enum strata_optim_array)a, i);
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
	for (int a = 0; a < STRATA_ARRAY_N; a++)
		if (!r->array[a] && r->n &&
		    st_optim_array_bytes(moments_kept(s->kind), f, (enum strata_optim_array)a, 1))
			return st_fail(-EINVAL,
				       "optimizer: array STRATA_ARRAY_%s is NULL; this optimizer "
				       "and format need it.",
				       names[a]);
	return 0;
}

int strata_optim_update(const struct strata_optim_step *step, const struct strata_optim_format *f,
			const struct strata_optim_range *r)
{
	const struct st_optim_kernels *k = kernels();
	struct st_factors s;
	fp_env caller;
	int rc;

	memcpy(&s, step, sizeof(s));
	rc = check_range(&s, f, r);
	if (rc < 0)
		return rc;
	caller = fp_enter();
	k->update(&s, f, r);
	fp_leave(caller);
	return 0;
}

int strata_optim_preview(const struct strata_optim_step *step, const struct strata_optim_format *f,
			 const struct strata_optim_range *r, void *out)
{
	const struct st_optim_kernels *k = kernels();
	enum strata_optim_array low =
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
		struct strata_optim_range from = st_optim_range_from(f, r, done), to;

		n = n < r->n - done ? n : r->n - done;
		to = from;
		to.n = n;
		for (int a = 0; a < STRATA_ARRAY_GRAD; a++) {
			if (!from.array[a])
				continue;
			memcpy(copy[a], from.array[a],
			       st_optim_array_bytes(~0u, f, (enum strata_optim_array)a, n));
			to.array[a] = copy[a];
		}
		k->update(&s, f, &to);
		memcpy((char *)out + st_optim_array_bytes(~0u, f, low, done), copy[low],
		       st_optim_array_bytes(~0u, f, low, n));
		done += n;
	}
	fp_leave(caller);
	return 0;
}

/* ---- sums of squares, conversions ---------------------------------------------------------- */

int strata_optim_reduce(size_t n, const float *acc, void *out, enum strata_optim_grads grads,
			double *leaf)
{
	const struct st_optim_kernels *k = kernels();
	fp_env caller;

	if (n % STRATA_NUMERIC_TILE)
		return st_fail(-EINVAL,
			       "optimizer: a gradient of %zu elements is not whole numeric tiles "
			       "of %u; pad it with zeros.",
			       n, STRATA_NUMERIC_TILE);
	if (grads != STRATA_GRADS_F32 && grads != STRATA_GRADS_BF16)
		return st_fail(-EINVAL, "optimizer: gradient format %d is not built.", (int)grads);
	caller = fp_enter();
	k->reduce(n, acc, out, grads, leaf);
	fp_leave(caller);
	for (size_t i = 0; i < n / STRATA_NUMERIC_TILE; i++)
		if (isnan(leaf[i]))
			leaf[i] = (double)NAN;
	return 0;
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
