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
 * buffer is. The trainer uses nothing else.
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

#define STRATA_NUMERIC_TILE  4096u /* elements: leaf of norms; no cut of a tensor falls inside one */
#define STRATA_MOMENTS_BLOCK 128u  /* elements that share a scale, with int8 moments */

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

enum strata_optim_grads { STRATA_GRADS_F32, STRATA_GRADS_BF16, STRATA_GRADS_F16 };

struct strata_optim_format {
	enum strata_optim_params params;
	enum strata_optim_moments moments;
	enum strata_optim_grads grads;
};

struct strata_optim_cfg { /* of a run */
	size_t struct_bytes;
	enum strata_optim_kind kind;
	double beta1, beta2;       /* Adam, AdamW, Lion; each in [0, 1) */
	double eps;                /* Adam, AdamW, Adagrad: > 0, added to the root */
	bool has_bias_correction;  /* Adam, AdamW */
	double momentum, dampening; /* SGD; momentum 0: no moment is kept */
	bool is_nesterov;          /* SGD */
	double lr_decay;           /* Adagrad: lr / (1 + (t - 1) * lr_decay) */
	uint64_t seed;             /* of stochastic rounding */
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
	uint64_t stream; /* which tensor or part: another one has other random bits */
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
 * With int8 moments, first and n are multiples of STRATA_MOMENTS_BLOCK (n may end the tensor).
 * @return 0; -EINVAL: an array is missing, or a cut inside a block; nothing was written
 */
STRATA_API STRATA_MUST_CHECK int strata_optim_update(const struct strata_optim_step *s,
						     const struct strata_optim_format *f,
						     const struct strata_optim_range *r);

/**
 * strata_optim_preview() - the low-precision parameters that strata_optim_update() would make of
 * a range, bit for bit, and nothing else: every array of r is only read, and the range may begin
 * and end anywhere, also inside a block.
 * @param out  out [n] bf16 (SPLIT, F32_BF16), fp16 (F32_F16) or fp32 (F32)
 */
STRATA_API STRATA_MUST_CHECK int strata_optim_preview(const struct strata_optim_step *s,
						      const struct strata_optim_format *f,
						      const struct strata_optim_range *r, void *out);

#ifdef __cplusplus
}
#endif
#endif
