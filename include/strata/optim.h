/* SPDX-License-Identifier: Apache-2.0 */
/*
 * include/strata/optim.h - fused optimizer kernels on host memory.
 *
 * Threads:  re-entrant; concurrent calls work on disjoint ranges
 * Hardware: scalar reference always built; AVX2+FMA+F16C and AVX-512 (F, BW, DQ, VL) chosen at run
 *           time, the same bits from all
 *
 *	struct strata_optim_cfg cfg = STRATA_OPTIM_CFG_DEFAULT;	once a run
 *	strata_optim_prepare(&step, &cfg, t, lr, wd, scale);	once a step
 *	strata_optim_update(&step, &format, &range);		for each range, from any thread
 *
 * A range is a run of elements of one tensor, with the caller's buffers. One pass: unscale, clip,
 * update, low-precision parameter, in registers. strata_optim_array_bytes() says how large each
 * buffer is; moments and their scales begin as zero bytes. The trainer uses nothing else.
 *
 * A C program of 30 lines, and how to compile it: docs/optimizers.md. A small trainer:
 * examples/optim_api.c. Every function that can fail returns 0 or a negative code, and
 * strata_last_error() then has one line on what was wrong.
 *
 * Hyper-parameters are double; every derived factor is formed in double and rounded to float once
 * (1 - 0.999f alone is 217 ulp off in v after the first step); powers are taken by repeated
 * squaring. Every function here runs under round to nearest, without flush to zero and with
 * exceptions masked, whatever the caller's floating-point environment, and restores the caller's.
 */
#ifndef STRATA_OPTIM_H
#define STRATA_OPTIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "strata/strata.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Elements: the leaf of norms; no cut of a tensor into ranges falls inside one. */
#define STRATA_NUMERIC_TILE 4096u
/* Elements that share a scale, with int8 moments. */
#define STRATA_MOMENTS_BLOCK 128u

enum strata_optim_kind {
	STRATA_OPTIM_ADAMW,   /* Loshchilov & Hutter, arXiv:1711.05101 */
	STRATA_OPTIM_ADAM,    /* Kingma & Ba, arXiv:1412.6980; decay enters the gradient (L2) */
	STRATA_OPTIM_ADAGRAD, /* Duchi et al., JMLR 12 (2011); as torch.optim.Adagrad */
	STRATA_OPTIM_LION,    /* Chen et al., arXiv:2302.06675 */
	STRATA_OPTIM_SGD,     /* with momentum, dampening, Nesterov; as torch.optim.SGD */
	STRATA_OPTIM_KINDS
};

/* How the master weight is held, and what the pass writes for the computation. */
enum strata_optim_params {
	STRATA_PARAMS_SPLIT,    /* param [n] bf16 + low [n] int16 correction = fp32 master */
	STRATA_PARAMS_F32,      /* param [n] fp32 */
	STRATA_PARAMS_F32_BF16, /* param [n] fp32; low [n] bf16, out: rounded to nearest even */
	STRATA_PARAMS_F32_F16,  /* param [n] fp32; low [n] fp16, out: rounded to nearest even */
};

enum strata_optim_moments {
	STRATA_MOMENTS_F32,
	STRATA_MOMENTS_BF16, /* rounded stochastically */
	STRATA_MOMENTS_INT8, /* quantised by blocks of STRATA_MOMENTS_BLOCK elements */
};

/* Of the bits that an update gives to moments of 16 and 8 bits: raised when the same steps round
 * them otherwise than before. What was stored can be read, and gone on with, by any. */
#define STRATA_MOMENTS_VERSION 2

enum strata_optim_grads { STRATA_GRADS_F32, STRATA_GRADS_BF16, STRATA_GRADS_F16 };

struct strata_optim_format {
	enum strata_optim_params params;
	enum strata_optim_moments moments;
	enum strata_optim_grads grads;
};

struct strata_optim_cfg {    /* of a run */
	size_t struct_bytes; /* sizeof(struct strata_optim_cfg); _DEFAULT sets it */
	enum strata_optim_kind kind;
	double beta1, beta2;        /* Adam, AdamW, Lion; each in [0, 1) */
	double eps;                 /* Adam, AdamW, Adagrad: > 0, added to the root */
	bool has_bias_correction;   /* Adam, AdamW */
	double momentum, dampening; /* SGD; momentum 0: no moment is kept */
	bool is_nesterov;           /* SGD */
	double lr_decay;            /* Adagrad: lr / (1 + (t - 1) * lr_decay) */
	uint64_t seed;              /* of stochastic rounding */
};
#define STRATA_OPTIM_CFG_DEFAULT                                                                   \
	{                                                                                          \
		.struct_bytes = sizeof(struct strata_optim_cfg), .kind = STRATA_OPTIM_ADAMW,       \
		.beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .has_bias_correction = true             \
	}

/* Derived factors of one step; the content is private. */
struct strata_optim_step {
	uint64_t priv[16];
};

/* The buffers of a range, by number. */
enum strata_optim_array {
	STRATA_ARRAY_PARAM,
	STRATA_ARRAY_LOW,
	STRATA_ARRAY_M, /* first moment; momentum */
	STRATA_ARRAY_V, /* second moment; sum of squares */
	STRATA_ARRAY_M_SCALE,
	STRATA_ARRAY_V_SCALE,
	STRATA_ARRAY_GRAD,
	STRATA_ARRAY_N
};

/*
 * One range of n elements; the arrays do not overlap. 64-byte alignment is for speed only. Arrays
 * that lie at the same offset modulo 64 KiB compete for the same cache sets: a shift of each by
 * another number of cache lines (one was enough) doubled the rate of two threads on a Zen 3.
 */
struct strata_optim_range {
	size_t n;
	/* Where the range begins, in elements, in what is quantised and rounded together: its
	 * tensor, or a part of it that begins at a multiple of STRATA_NUMERIC_TILE. */
	uint64_t first;
	uint64_t stream;             /* which tensor or part: another one has other random bits */
	void *array[STRATA_ARRAY_N]; /* each at element `first` (scales: at its block); NULL where
				      * the optimizer and the format have none; GRAD is only read */
};

/**
 * strata_optim_array_bytes() - size of each buffer of n elements that start at a block boundary.
 * @param bytes  out [STRATA_ARRAY_N]; 0: there is no such array
 * @return 0; -EINVAL: no such combination
 */
STRATA_API STRATA_MUST_CHECK int strata_optim_array_bytes(const struct strata_optim_cfg *cfg,
							  const struct strata_optim_format *f,
							  size_t n, size_t bytes[STRATA_ARRAY_N]);

/**
 * strata_optim_prepare() - derive the factors of step t.
 * @param out           out; untouched on failure
 * @param t             in, 1-based
 * @param lr, weight_decay  in, >= 0, finite
 * @param grad_scale    in, >= 0, multiplies each gradient: clip factor / loss scale
 * @return 0; -EINVAL: a value out of its range, a factor that overflows fp32, or an eps that
 *         becomes 0 there (padding of zeros would give 0 / 0)
 */
STRATA_API STRATA_MUST_CHECK int strata_optim_prepare(struct strata_optim_step *out,
						      const struct strata_optim_cfg *cfg,
						      uint64_t t, double lr, double weight_decay,
						      double grad_scale);

/**
 * strata_optim_update() - one optimizer step on a range, on the calling thread.
 * With int8 moments, first is a multiple of STRATA_MOMENTS_BLOCK, and n too unless the tensor or
 * part ends there.
 *
 * In this order, each line one operation rounded once to fp32, fma(a, b, c) = a * b + c; a 16-bit
 * gradient is widened, a split master weight joined and a moment decoded first, all exactly:
 *	g = g * grad_scale
 *	t = wd * p;  g = g + t				Adam, Adagrad, SGD
 *
 *	t = one_minus_b1 * g;  m = fma(b1, m, t)	Adam, AdamW
 *	t = g * g;  v = b2 * v
 *	v = fma(one_minus_b2_lo, t, v);  v = fma(one_minus_b2, t, v)
 *	w = v * inv_bc2;  w = sqrt(w);  w = w + eps;  d = m / w
 *
 *	v = fma(g, g, v)				Adagrad
 *	w = sqrt(v);  w = w + eps;  d = g / w
 *
 *	t = one_minus_b1 * g;  c = fma(b1, m, t);  d = sign(c)	Lion; sign(0) = 0
 *	t = one_minus_b2 * g;  m = fma(b2, m, t)
 *
 *	t = one_minus_b1 * g;  m = fma(b1, m, t)	SGD with momentum: b1 = momentum and
 *	d = m, or with Nesterov fma(b1, m, g)		one_minus_b1 = 1 - dampening; in step 1
 *	d = g						they are 0 and 1. SGD without momentum
 *
 *	t = lr_wd * p;  t = fma(step_size, d, t)	all; lr_wd is 0 but for AdamW and Lion
 *	p = p - t
 * The decay is part of one sum, so it is not lost below lr * wd = 6e-8 as a factor float(1 - lr *
 * wd) would be. step_size is lr / (1 - b1^t) for Adam, lr / (1 + (t - 1) lr_decay) for Adagrad.
 *
 * Then a NaN among m, v, p is stored as 0x7fc00000 (which NaN an operation returns depends on the
 * order of its operands), a master weight is split, low-precision outputs are rounded to nearest
 * even, and moments of 16 and 8 bits are rounded stochastically: up or down with the probability
 * that makes the mean exact, by random bits that are a function of (cfg.seed, t, range.stream,
 * element, moment) alone (two elements next to each other share a draw, each using one half of it
 * for m and the other for v, in opposite order). The update itself uses m and v unrounded. A
 * v > 0 never becomes 0 in 8 bits. p = m = v = g = 0 stays 0 (padding). NaN or Inf in g is no error
 * here: it spreads to the element's m, v, p, and with int8 moments, in the next step, to its block.
 * Screen the sums of squares first. docs/optimizers.md explains the formats.
 *
 * Tested: all instruction sets bit-equal to the scalar reference, any cut on any thread
 * (tests/test_optim.c); that one near long double, also in denormal numbers, and PyTorch
 * (tests/test_optim_accuracy.c), for Adam with S = |b1 m| + |(1 - b1) g|
 *	|dm| <= 2 ulp(S)    |dv| <= 2 ulp(v)
 *	|dp| <= 1 ulp(max(|p|, |p'|)) + 4 ulp(lr S / (1 - b1^t) / (sqrt(vhat) + eps))
 * and that rounding does no harm (tests/test_optim_quant.c).
 * @return 0; -EINVAL: an array is missing, a range begins inside a block, or an unknown format;
 *         nothing was written
 */
STRATA_API STRATA_MUST_CHECK int strata_optim_update(const struct strata_optim_step *s,
						     const struct strata_optim_format *f,
						     const struct strata_optim_range *r);

/**
 * strata_optim_preview() - the low-precision parameters that strata_optim_update() would make of
 * a range, bit for bit, and nothing else: every array of r is only read, and the range may begin
 * and end anywhere, also inside a block (its scales are then those of the block it begins in).
 * @param out  out [n] bf16 (SPLIT, F32_BF16), fp16 (F32_F16) or fp32 (F32)
 */
STRATA_API STRATA_MUST_CHECK int strata_optim_preview(const struct strata_optim_step *s,
						      const struct strata_optim_format *f,
						      const struct strata_optim_range *r,
						      void *out);

/**
 * strata_optim_moments() - the moments of a range as fp32, exactly.
 * @param r  in, its M, V and their scales, as far as there are any; nothing else of it is read.
 *           With int8 moments it begins at a block
 * @param m, v  out [n] each; may be NULL; zeros where the optimizer has no such moment
 * @return 0; -EINVAL: an unknown format, a scale is missing, or a range begins inside a block
 */
STRATA_API STRATA_MUST_CHECK int strata_optim_moments(const struct strata_optim_format *f,
						      const struct strata_optim_range *r, float *m,
						      float *v);

/**
 * strata_optim_reduce() - finish an accumulated gradient: round it once, and sum squares.
 * out = round(acc) to nearest even. leaf[i] = sum over tile i, of STRATA_NUMERIC_TILE elements or
 * what is left, of the *rounded* values squared, in double, in a fixed order (lane j sums elements
 * congruent j mod 16, lanes are then added pairwise: j and j + 8, then + 4, + 2, + 1). A tile with
 * a NaN has leaf +NaN (the quiet one), with an Inf and no NaN +Inf; with finite elements the leaf
 * is finite. So isfinite(strata_optim_tree_sum()) tells of an overflow without another pass.
 * @param acc   in [n] fp32
 * @param out   out [n] of `grads`; may be acc itself when that is F32
 * @param leaf  out [ceil(n / STRATA_NUMERIC_TILE)]
 * @return 0; -EINVAL: grads unknown; nothing was written
 */
STRATA_API STRATA_MUST_CHECK int strata_optim_reduce(size_t n, const float *acc, void *out,
						     enum strata_optim_grads grads, double *leaf);

/** strata_optim_sumsq() - the leaves alone, of a gradient that was received as it is. */
STRATA_API STRATA_MUST_CHECK int strata_optim_sumsq(size_t n, const void *g,
						    enum strata_optim_grads grads, double *leaf);

/**
 * strata_optim_tree_sum() - sum of leaves by a fixed binary tree over the index: halves split at
 * the largest power of two below n. Independent of threads.
 * @return the sum, every NaN as the positive quiet one; 0.0 for n = 0
 */
STRATA_API double strata_optim_tree_sum(const double *leaf, size_t n);

/*
 * Master weight. hi = bf16 parameter, lo = int16 correction, exact for every fp32 pattern but NaN:
 *	hi = (u + 0x8000) >> 16,   lo = (int16)(u - (hi << 16)),   u = (hi << 16) + lo   (mod 2^32)
 * NaN is first mapped to sign | 0x7fc00000: else 0x7fffffff would carry into hi and become -0.0,
 * and a broken run would train on.
 *
 * In bulk, [n] each, any alignment, not overlapping.
 * split: master weights to hi, lo; NaN becomes hi 0x7fc0 or 0xffc0 with lo 0. join: the inverse.
 * round: master weights to bf16, to nearest even, NaN to the quiet one of its sign (for export; hi
 * differs from it in ties, which it rounds away from zero).
 */
STRATA_API void strata_optim_split(size_t n, const float *master, uint16_t *hi, int16_t *lo);
STRATA_API void strata_optim_join(size_t n, const uint16_t *hi, const int16_t *lo, float *master);
STRATA_API void strata_optim_round(size_t n, const float *master, uint16_t *out);

/* Instruction sets, weakest first. */
enum strata_isa { STRATA_ISA_SCALAR, STRATA_ISA_AVX2, STRATA_ISA_AVX512 };

/** strata_isa_best() - the best that this CPU, its operating system and this build have. */
STRATA_API enum strata_isa strata_isa_best(void);

/**
 * strata_isa_from_env() - use what STRATA_ISA names: scalar, avx2, avx512; auto, "" or unset is
 * the best. For a program's start, where a wrong name can still be reported.
 * @return 0; STRATA_E_CONFIG: no such name; STRATA_E_UNSUPPORTED: not here. Nothing changes then.
 */
STRATA_API STRATA_MUST_CHECK int strata_isa_from_env(void);

/** strata_isa_force() - use this one. @return 0; STRATA_E_UNSUPPORTED, nothing changed */
STRATA_API STRATA_MUST_CHECK int strata_isa_force(enum strata_isa isa);

/**
 * strata_isa_in_use() - the one in use. The first call, or that of a kernel, chooses as
 * strata_isa_from_env() does; if that fails, a warning is logged and the best is used.
 */
STRATA_API enum strata_isa strata_isa_in_use(void);

/** strata_isa_name() - as STRATA_ISA spells it; "unknown" outside the list. */
STRATA_API const char *strata_isa_name(enum strata_isa isa);

#ifdef __cplusplus
}
#endif
#endif
