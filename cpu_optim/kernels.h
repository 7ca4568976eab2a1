/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpu_optim/kernels.h - what one instruction set provides to optim.c.
 *
 * Layer:   cpu_optim (internal)
 * Threads: re-entrant
 *
 * include/strata/optim.h is the interface of this folder. optim.c checks, sets the environment and
 * dispatches; optim_scalar.c is the reference; optim_simd.h holds the vector kernels once,
 * instantiated by optim_avx2.c and optim_avx512.c.
 *
 * A kernel assumes the floating-point environment that optim.c sets around each call: round to
 * nearest, no flush to zero, denormals read as they are, exceptions masked. Arguments are checked
 * there too. Arrays may have any alignment here and any length.
 */
#ifndef CPU_OPTIM_KERNELS_H
#define CPU_OPTIM_KERNELS_H

#include "core/dtype.h"
#include "core/status.h"
#include "strata/optim.h"

#define ST_NAN_BITS 0x7fc00000u /* the only NaN that an update stores */

/* What struct strata_optim_step holds: factors of one step, derived in double, then rounded. */
struct st_factors {
	enum strata_optim_kind kind;
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

_Static_assert(sizeof(struct st_factors) <= sizeof(struct strata_optim_step), "room for factors");

struct st_optim_kernels { /* all required; update is NULL in a table that was not compiled in */
	void (*update)(const struct st_factors *s, const struct strata_optim_format *f,
		       const struct strata_optim_range *r);
	void (*reduce)(size_t n, const float *acc, void *out, enum strata_optim_grads grads,
		       double *leaf);
	void (*split)(size_t n, const float *master, uint16_t *hi, int16_t *lo);
	void (*join)(size_t n, const uint16_t *hi, const int16_t *lo, float *master);
	void (*round)(size_t n, const float *master, uint16_t *out);
};

extern const struct st_optim_kernels st_optim_scalar_kernels;
extern const struct st_optim_kernels st_optim_avx2_kernels;
extern const struct st_optim_kernels st_optim_avx512_kernels;

/**
 * st_optim_array_bytes() - of an array of n elements that start at a block boundary.
 * @param kept  in, which of the moments exist: 1 << STRATA_ARRAY_M, 1 << STRATA_ARRAY_V
 */
size_t st_optim_array_bytes(unsigned kept, const struct strata_optim_format *f,
			    enum strata_optim_array array, size_t n);

/**
 * st_optim_range_from() - the range that starts at element i of r.
 * @param i  in, with int8 moments a multiple of STRATA_MOMENTS_BLOCK
 */
struct strata_optim_range st_optim_range_from(const struct strata_optim_format *f,
					      const struct strata_optim_range *r, size_t i);

#endif
