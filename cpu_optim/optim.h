/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpu_optim/optim.h - fused optimizer kernels on host memory.
 *
 * Layer:    cpu_optim (uses core)
 * Threads:  re-entrant; concurrent calls work on disjoint ranges
 * Hardware: scalar reference always built; AVX2+FMA+F16C and AVX-512 (F, BW, DQ, VL) chosen at run
 *           time, the same bits from all
 *
 * One pass over a range of at most one storage tile: unscale, clip, update, low-precision
 * parameter, in registers. Hyper-parameters are double; every derived factor is formed in double
 * and rounded to float once (1 - 0.999f alone is 217 ulp off in v after the first step); powers
 * are taken by repeated squaring. A kernel sets MXCSR (round to nearest, no flush to zero) and
 * restores the caller's.
 *
 * Master weight. hi = bf16 parameter, lo = int16 correction, exact for every fp32 pattern but NaN:
 *	hi = (u + 0x8000) >> 16,   lo = (int16)(u - (hi << 16)),   u = (hi << 16) + lo   (mod 2^32)
 * NaN is first mapped to sign | 0x7fc00000: else 0x7fffffff would carry into hi and become -0.0,
 * and a broken run would train on.
 */
#ifndef CPU_OPTIM_OPTIM_H
#define CPU_OPTIM_OPTIM_H

#include "core/dtype.h"
#include "core/status.h"

#define ST_NUMERIC_TILE 4096u		/* elements: leaf of norms; no cut falls inside one */
#define ST_STORAGE_TILE (1u << 18)	/* elements: unit of I/O, checksum and update */

enum st_optim_kind { ST_OPTIM_ADAMW, ST_OPTIM_ADAM /* L2: decay enters the gradient */ };

/* How parameter and gradient are held; moments are fp32. */
enum st_optim_format {
	ST_OPTIM_SPLIT,	/* p_hi [n] bf16 + p_lo [n] int16 = fp32 master */
	ST_OPTIM_FP32,	/* p_f32 [n] fp32; no p_lo */
};

struct st_optim_cfg {		/* of a run */
	enum st_optim_kind kind;
	double beta1, beta2;	/* in [0, 1) */
	double eps;		/* > 0, added to sqrt(vhat) */
	bool has_bias_correction; /* DeepSpeed's bias_correction, default true */
};

struct st_optim_step {		/* of one step: derived once, in double, then rounded */
	enum st_optim_kind kind;
	float b1, b2, one_minus_b1, one_minus_b2;
	float step_size;	/* lr / (1 - b1^t) */
	float inv_bc2;		/* 1 / (1 - b2^t): vhat = v * inv_bc2 */
	float eps;
	float lr_wd;		/* lr * weight_decay */
	float wd;		/* for Adam with L2 */
	float grad_scale;	/* unscale * clip factor */
};

/**
 * st_optim_prepare() - derive the factors of step t.
 * @param t             in, 1-based
 * @param lr, weight_decay  in, >= 0, finite
 * @param grad_scale    in, multiplies each gradient: clip factor / loss scale
 * @return 0; -EINVAL
 */
ST_MUST_CHECK int st_optim_prepare(struct st_optim_step *out, const struct st_optim_cfg *cfg, uint64_t t,
				   double lr, double weight_decay, double grad_scale);

struct st_optim_range {		/* one range of n elements, all arrays 64-byte aligned, not overlapping */
	size_t n;
	enum st_optim_format format;
	enum st_dtype grad_dtype; /* F32 or BF16 */
	void *p;		/* in/out [n] bf16 (SPLIT) or fp32 */
	int16_t *lo;		/* in/out [n] (SPLIT), else NULL */
	float *m, *v;		/* in/out [n] */
	const void *g;		/* in [n] */
};

/**
 * st_optim_update() - one optimizer step on a range, on the calling thread.
 *	g' = g * grad_scale (+ wd * p for Adam)
 *	m = fma(b1, m, (1-b1) g')      v = fma(b2, v, ((1-b2) g') g')
 *	d = step_size * m / (sqrt(v * inv_bc2) + eps)
 *	p = fma(-lr_wd, p, p - d)
 * Every operation is rounded as written; fma where it says so and nowhere else.
 * Tested: all ISA variants bit-equal to the scalar reference, tests/test_optim.c
 * Source: Loshchilov & Hutter, arXiv:1711.05101; decay scaled by lr, as torch.optim.AdamW
 */
void st_optim_update(const struct st_optim_step *s, const struct st_optim_range *r);

/**
 * st_optim_reduce() - finish the gradient of whole numeric tiles: round, and sum squares.
 * out = round(acc) once (to nearest even); leaf[i] = sum over tile i of the *rounded* values
 * squared, in double, in a fixed order (lane j sums elements congruent j mod 16, lanes are then
 * added pairwise 8, 4, 2, 1). NaN or Inf in a tile makes its leaf NaN or Inf.
 * @param n     in, a multiple of ST_NUMERIC_TILE
 * @param acc   in [n] fp32
 * @param out   out [n] grad_dtype; may be acc itself when grad_dtype is F32
 * @param leaf  out [n / ST_NUMERIC_TILE]
 */
void st_optim_reduce(size_t n, const float *acc, void *out, enum st_dtype grad_dtype, double *leaf);

/** st_optim_tree_sum() - sum of leaves by a fixed binary tree over the index: halves split at the
 *  largest power of two below n. Independent of threads. @return 0.0 for n = 0 */
double st_optim_tree_sum(const double *leaf, size_t n);

/* Master weights in bulk: split canonicalises NaN; join is exact. Round: master to bf16, to nearest
 * even (for export). All re-entrant, [n] each. */
void st_optim_split(size_t n, const float *master, uint16_t *hi, int16_t *lo);
void st_optim_join(size_t n, const uint16_t *hi, const int16_t *lo, float *master);

/* Instruction sets, weakest first. */
enum st_isa { ST_ISA_SCALAR, ST_ISA_AVX2, ST_ISA_AVX512 };

/** st_optim_isa() - the one in use. st_optim_isa_best() - the best this CPU has. */
enum st_isa st_optim_isa(void);
enum st_isa st_optim_isa_best(void);
/** st_optim_isa_force() - use this one (tests, `STRATA_ISA` environment). @return 0; STRATA_E_UNSUPPORTED */
ST_MUST_CHECK int st_optim_isa_force(enum st_isa isa);
const char *st_isa_name(enum st_isa isa);

#endif
