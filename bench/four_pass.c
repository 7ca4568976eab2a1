/* SPDX-License-Identifier: Apache-2.0 */
/* bench/four_pass.c - norm, unscale, update and cast, one vectorised loop each. */
#include "bench/four_pass.h"

#include <math.h>

#include "core/dtype.h"
#include "core/status.h"

#define INLINE static inline __attribute__((always_inline))

/* Registers of 16, 32 and 64 bytes. */
typedef float floats4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef float floats8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef float floats16 __attribute__((vector_size(64), aligned(4), may_alias));

#ifdef __clang__ /* what it does not vectorise under a sanitizer is no error */
#pragma clang diagnostic ignored "-Wpass-failed"
#endif

/* has_fma: a constant at every call, here and below. */
INLINE float mad(float a, float b, float c, bool has_fma)
{
	return has_fma ? __builtin_fmaf(a, b, c) : a * b + c;
}

INLINE void unscale(const struct st_four_pass *a, float scale)
{
	float *restrict g = a->g;

#pragma omp simd
	for (size_t i = 0; i < a->n; i++)
		g[i] *= scale;
}

INLINE void adam(const struct st_four_pass *a, const struct st_four_factors *f, float wd, float l2,
		 bool has_fma)
{
	float *restrict p = a->p, *restrict m = a->m, *restrict v = a->v;
	const float *restrict grad = a->g;
	const float b1 = f->beta1, b2 = f->beta2, c1 = 1 - f->beta1, c2 = 1 - f->beta2;
	const float step = -f->step_size, inv = f->inv_bc2, eps = f->eps;

#pragma omp simd
	for (size_t i = 0; i < a->n; i++) {
		float g = mad(l2, p[i], grad[i], has_fma);
		float mi = mad(b1, m[i], c1 * g, has_fma);
		float vi = mad(b2, v[i], c2 * g * g, has_fma);

		m[i] = mi;
		v[i] = vi;
		p[i] = mad(step, mi / (sqrtf(vi * inv) + eps), p[i] * wd, has_fma);
	}
}

INLINE void adagrad(const struct st_four_pass *a, const struct st_four_factors *f, bool has_fma)
{
	float *restrict p = a->p, *restrict v = a->v;
	const float *restrict grad = a->g;
	const float step = -f->step_size, eps = f->eps, l2 = f->weight_decay;

#pragma omp simd
	for (size_t i = 0; i < a->n; i++) {
		float g = mad(l2, p[i], grad[i], has_fma);
		float vi = mad(g, g, v[i], has_fma);

		v[i] = vi;
		p[i] = mad(step, g / (sqrtf(vi) + eps), p[i], has_fma);
	}
}

INLINE void lion(const struct st_four_pass *a, const struct st_four_factors *f, bool has_fma)
{
	float *restrict p = a->p, *restrict m = a->m;
	const float *restrict grad = a->g;
	const float b1 = f->beta1, b2 = f->beta2, c1 = 1 - f->beta1, c2 = 1 - f->beta2;
	const float lr = f->lr, keep = 1 - f->lr * f->weight_decay;

#pragma omp simd
	for (size_t i = 0; i < a->n; i++) {
		float c = mad(b1, m[i], c1 * grad[i], has_fma);
		float d = c > 0 ? lr : c < 0 ? -lr : 0;

		m[i] = mad(b2, m[i], c2 * grad[i], has_fma);
		p[i] = mad(keep, p[i], -d, has_fma);
	}
}

INLINE void momentum(const struct st_four_pass *a, const struct st_four_factors *f, bool has_fma)
{
	float *restrict p = a->p, *restrict m = a->m;
	const float *restrict grad = a->g;
	const float b1 = f->beta1, c1 = 1 - f->beta2, step = -f->lr, l2 = f->weight_decay;

#pragma omp simd
	for (size_t i = 0; i < a->n; i++) {
		float g = mad(l2, p[i], grad[i], has_fma);
		float mi = mad(b1, m[i], c1 * g, has_fma);

		m[i] = mi;
		p[i] = mad(step, mi, p[i], has_fma);
	}
}

INLINE void update(const struct st_four_pass *a, enum strata_optim_kind kind,
		   const struct st_four_factors *f, bool has_fma)
{
	switch (kind) {
	case STRATA_OPTIM_ADAMW:
		adam(a, f, 1 - f->lr * f->weight_decay, 0, has_fma);
		break;
	case STRATA_OPTIM_ADAM:
		adam(a, f, 1, f->weight_decay, has_fma);
		break;
	case STRATA_OPTIM_ADAGRAD:
		adagrad(a, f, has_fma);
		break;
	case STRATA_OPTIM_LION:
		lion(a, f, has_fma);
		break;
	default:
		momentum(a, f, has_fma);
	}
}

INLINE void cast(const struct st_four_pass *a)
{
	const float *restrict p = a->p;
	uint16_t *restrict low = a->low;

#pragma omp simd
	for (size_t i = 0; i < a->n; i++) {
		uint32_t u = st_f32_bits(p[i]);

		low[i] = (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
	}
}

struct passes {
	double (*norm)(const struct st_four_pass *a);
	void (*unscale)(const struct st_four_pass *a, float scale);
	void (*update)(const struct st_four_pass *a, enum strata_optim_kind kind,
		       const struct st_four_factors *f);
	void (*cast)(const struct st_four_pass *a);
};

/* norm: four sums of vectors, so that no addition waits for the one before; all in one function, as
 * vectors that are arguments would be taken apart. */
#define PASSES(name, attribute, floats, has_fma)                                                   \
	attribute static double norm_##name(const struct st_four_pass *a)                          \
	{                                                                                          \
		const size_t lanes = sizeof(floats) / sizeof(float);                               \
		floats sum0 = { 0 }, sum1 = { 0 }, sum2 = { 0 }, sum3 = { 0 };                     \
		double total = 0;                                                                  \
		size_t i;                                                                          \
                                                                                                   \
		for (i = 0; i + 4 * lanes <= a->n; i += 4 * lanes) {                               \
			const floats *g = (const floats *)(a->g + i);                              \
                                                                                                   \
			sum0 += g[0] * g[0];                                                       \
			sum1 += g[1] * g[1];                                                       \
			sum2 += g[2] * g[2];                                                       \
			sum3 += g[3] * g[3];                                                       \
		}                                                                                  \
		sum0 += sum1 + sum2 + sum3;                                                        \
		for (size_t k = 0; k < lanes; k++)                                                 \
			total += (double)sum0[k];                                                  \
		for (; i < a->n; i++)                                                              \
			total += (double)a->g[i] * (double)a->g[i];                                \
		return total;                                                                      \
	}                                                                                          \
	attribute static void unscale_##name(const struct st_four_pass *a, float scale)            \
	{                                                                                          \
		unscale(a, scale);                                                                 \
	}                                                                                          \
	attribute static void update_##name(const struct st_four_pass *a,                          \
					    enum strata_optim_kind kind,                           \
					    const struct st_four_factors *f)                       \
	{                                                                                          \
		update(a, kind, f, has_fma);                                                       \
	}                                                                                          \
	attribute static void cast_##name(const struct st_four_pass *a)                            \
	{                                                                                          \
		cast(a);                                                                           \
	}                                                                                          \
	static const struct passes passes_##name = { norm_##name, unscale_##name, update_##name,   \
						     cast_##name };

PASSES(plain, , floats4, false)
#if defined(__x86_64__)
PASSES(avx2, __attribute__((target("avx2,fma"))), floats8, true)
#ifdef __clang__
PASSES(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))), floats16, true)
#else /* left to itself it would use half of each register */
PASSES(avx512,
       __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512"))),
       floats16, true)
#endif
#endif

static const struct passes *passes(enum strata_isa isa)
{
#if defined(__x86_64__)
	switch (isa) {
	case STRATA_ISA_AVX512:
		return &passes_avx512;
	case STRATA_ISA_AVX2:
		return &passes_avx2;
	default:
		break;
	}
#endif
	return &passes_plain;
}

struct st_four_factors st_four_factors(const struct strata_optim_cfg *cfg, uint64_t t, double lr,
				       double weight_decay)
{
	struct st_four_factors f = {
		.lr = (float)lr,
		.beta1 = (float)cfg->beta1,
		.beta2 = (float)cfg->beta2,
		.eps = (float)cfg->eps,
		.weight_decay = (float)weight_decay,
		.step_size = (float)lr,
		.inv_bc2 = 1,
	};
	const bool is_adam = cfg->kind == STRATA_OPTIM_ADAMW || cfg->kind == STRATA_OPTIM_ADAM;

	if (is_adam && cfg->has_bias_correction) {
		f.step_size = (float)(lr / (1 - pow(cfg->beta1, (double)t)));
		f.inv_bc2 = (float)(1 / (1 - pow(cfg->beta2, (double)t)));
	} else if (cfg->kind == STRATA_OPTIM_ADAGRAD) {
		f.step_size = (float)(lr / (1 + (double)(t - 1) * cfg->lr_decay));
	} else if (cfg->kind == STRATA_OPTIM_SGD) {
		f.beta1 = t == 1 ? 0 : (float)cfg->momentum;
		f.beta2 = t == 1 ? 0 : (float)cfg->dampening;
	}
	return f;
}

double st_four_norm(const struct st_four_pass *a)
{
	return passes(a->isa)->norm(a);
}

void st_four_unscale(const struct st_four_pass *a, float scale)
{
	passes(a->isa)->unscale(a, scale);
}

void st_four_update(const struct st_four_pass *a, enum strata_optim_kind kind,
		    const struct st_four_factors *f)
{
	passes(a->isa)->update(a, kind, f);
}

void st_four_cast(const struct st_four_pass *a)
{
	passes(a->isa)->cast(a);
}

size_t st_four_bytes(enum strata_optim_kind kind, size_t *update_bytes)
{
	const bool is_adam = kind == STRATA_OPTIM_ADAMW || kind == STRATA_OPTIM_ADAM;
	size_t update = is_adam ? 28 : 20;

	if (update_bytes)
		*update_bytes = update;
	return 4 + 8 + update + 6;
}
