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
 * are taken by repeated squaring. Every function here runs under round to nearest, without flush
 * to zero and with exceptions masked, whatever the caller's MXCSR, and restores the caller's.
 *
 * Layout of the folder: optim.c checks, sets the environment and dispatches; optim_scalar.c is the
 * reference; optim_simd.h holds the vector kernels once, instantiated by optim_avx2.c and
 * optim_avx512.c; kernels.h is the table between them.
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

#define ST_NUMERIC_TILE 4096u      /* elements: leaf of norms; no cut falls inside one */
#define ST_STORAGE_TILE (1u << 18) /* elements: unit of I/O, checksum and update */

enum st_optim_kind { ST_OPTIM_ADAMW, ST_OPTIM_ADAM /* L2: decay enters the gradient */ };

/* How parameter and gradient are held; moments are fp32. */
enum st_optim_format {
	ST_OPTIM_SPLIT, /* p_hi [n] bf16 + p_lo [n] int16 = fp32 master */
	ST_OPTIM_FP32,  /* p_f32 [n] fp32; no p_lo */
};

struct st_optim_cfg { /* of a run */
	enum st_optim_kind kind;
	double beta1, beta2;      /* in [0, 1) */
	double eps;               /* > 0, added to sqrt(vhat) */
	bool has_bias_correction; /* DeepSpeed's bias_correction, default true */
};

struct st_optim_step { /* of one step: derived once, in double, then rounded */
	enum st_optim_kind kind;
	float b1, b2, one_minus_b1;
	float one_minus_b2;    /* the fp32 below 1 - b2, */
	float one_minus_b2_lo; /* and what is left, > 0: v is dominated by (1 - b2) g g early on */
	float step_size;       /* lr / (1 - b1^t) */
	float inv_bc2;         /* 1 / (1 - b2^t): vhat = v * inv_bc2 */
	float eps;
	float lr_wd;      /* lr * weight_decay */
	float wd;         /* for Adam with L2 */
	float grad_scale; /* unscale * clip factor */
};

/**
 * st_optim_prepare() - derive the factors of step t.
 * @param out           out; untouched on failure
 * @param t             in, 1-based
 * @param lr, weight_decay  in, >= 0, finite
 * @param grad_scale    in, >= 0, multiplies each gradient: clip factor / loss scale
 * @return 0; -EINVAL: a value out of its range, a factor that overflows fp32, or an eps that
 *         becomes 0 there (padding of zeros would give 0 / 0)
 */
ST_MUST_CHECK int st_optim_prepare(struct st_optim_step *out, const struct st_optim_cfg *cfg,
				   uint64_t t, double lr, double weight_decay, double grad_scale);

/*
 * One range of n elements; the arrays do not overlap. 64-byte alignment is for speed only. Arrays
 * that lie at the same offset modulo 64 KiB compete for the same cache sets: a shift of each by
 * another number of cache lines (one was enough) doubled the rate of two threads on a Zen 3.
 */
struct st_optim_range {
	size_t n;
	enum st_optim_format format;
	enum st_dtype grad_dtype; /* F32 or BF16 */
	void *p;                  /* in/out [n] bf16 (SPLIT) or fp32 */
	int16_t *lo;              /* in/out [n] (SPLIT), else NULL */
	float *m, *v;             /* in/out [n] */
	const void *g;            /* in [n] */
};

/**
 * st_optim_update() - one optimizer step on a range, on the calling thread.
 *
 * In this order, each line one operation rounded once to fp32, fma(a, b, c) = a * b + c; a bf16
 * gradient is widened and a split master weight joined first, both exactly:
 *	g = g * grad_scale
 *	t = wd * p;  g = g + t			(ST_OPTIM_ADAM only)
 *	t = one_minus_b1 * g
 *	m = fma(b1, m, t)
 *	t = g * g;  v = b2 * v
 *	v = fma(one_minus_b2_lo, t, v)
 *	v = fma(one_minus_b2, t, v)
 *	w = v * inv_bc2;  w = sqrt(w);  w = w + eps
 *	d = m / w
 *	t = lr_wd * p;  t = fma(step_size, d, t)	(lr_wd is 0 for ST_OPTIM_ADAM)
 *	p = p - t
 * Then a NaN among m, v, p is stored as 0x7fc00000 (which NaN an operation returns depends on the
 * order of its operands), and a master weight is split. p = m = v = g = 0 stays 0 (padding).
 * NaN or Inf in g is no error here: it spreads to the element's m, v, p. Screen the norm first.
 *
 * Tested in tests/test_optim.c: all instruction sets bit-equal to the scalar reference; that one
 * within |dm| <= 2 ulp(|b1 m| + |(1 - b1) g|), |dv| <= 2 ulp(v), |dp| <= 1 ulp(max(|p|, |p'|)) +
 * 4 ulp(lr (|b1 m| + |(1 - b1) g|) / (1 - b1^t) / (sqrt(vhat) + eps)) of long double.
 * Source: Loshchilov & Hutter, arXiv:1711.05101; decay scaled by lr, as torch.optim.AdamW
 */
void st_optim_update(const struct st_optim_step *s, const struct st_optim_range *r);

/**
 * st_optim_reduce() - finish the gradient of whole numeric tiles: round, and sum squares.
 * out = round(acc) once (to nearest even); leaf[i] = sum over tile i of the *rounded* values
 * squared, in double, in a fixed order (lane j sums elements congruent j mod 16, lanes are then
 * added pairwise: j and j + 8, then + 4, + 2, + 1). The bf16 rounding is st_f32_bf16(). A tile
 * with a NaN has leaf +NaN (the quiet one), with an Inf and no NaN +Inf.
 * @param n     in, a multiple of ST_NUMERIC_TILE
 * @param acc   in [n] fp32
 * @param out   out [n] grad_dtype; may be acc itself when grad_dtype is F32
 * @param leaf  out [n / ST_NUMERIC_TILE]
 */
void st_optim_reduce(size_t n, const float *acc, void *out, enum st_dtype grad_dtype, double *leaf);

/**
 * st_optim_tree_sum() - sum of leaves by a fixed binary tree over the index: halves split at the
 * largest power of two below n. Independent of threads.
 * @return the sum, every NaN as the positive quiet one; 0.0 for n = 0
 */
double st_optim_tree_sum(const double *leaf, size_t n);

/*
 * In bulk, [n] each, any alignment, not overlapping.
 * split: master weights to hi, lo; NaN becomes hi 0x7fc0 or 0xffc0 with lo 0. join: the inverse.
 * round: master weights to bf16, to nearest even, as st_f32_bf16() (for export; hi differs from it
 * in ties, which it rounds away from zero).
 */
void st_optim_split(size_t n, const float *master, uint16_t *hi, int16_t *lo);
void st_optim_join(size_t n, const uint16_t *hi, const int16_t *lo, float *master);
void st_optim_round(size_t n, const float *master, uint16_t *out);

/* Instruction sets, weakest first. */
enum st_isa { ST_ISA_SCALAR, ST_ISA_AVX2, ST_ISA_AVX512 };

/** st_optim_isa_best() - the best that this CPU, its operating system and this build have. */
enum st_isa st_optim_isa_best(void);

/**
 * st_optim_isa_from_env() - use what STRATA_ISA names: scalar, avx2, avx512; auto, "" or unset is
 * the best. For a program's start, where a wrong name can still be reported.
 * @return 0; STRATA_E_CONFIG: no such name; STRATA_E_UNSUPPORTED: not here. Nothing changes then.
 */
ST_MUST_CHECK int st_optim_isa_from_env(void);

/** st_optim_isa_force() - use this one (tests). @return 0; STRATA_E_UNSUPPORTED, nothing changed */
ST_MUST_CHECK int st_optim_isa_force(enum st_isa isa);

/**
 * st_optim_isa() - the one in use. The first call, or that of a kernel, chooses as
 * st_optim_isa_from_env() does; if that fails, a warning is logged and the best is used.
 */
enum st_isa st_optim_isa(void);

/** st_isa_name() - as STRATA_ISA spells it; "unknown" outside the list. */
const char *st_isa_name(enum st_isa isa);

#endif
