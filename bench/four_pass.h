/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench/four_pass.h - the opponent: an optimizer step as four passes over fp32, as DeepSpeed's
 * offloaded optimizer does it.
 *
 * Layer:    bench
 * Threads:  re-entrant; concurrent calls work on disjoint ranges
 * Hardware: AVX2 with FMA or AVX-512 where the processor has them, else plain C
 *
 *	norm	read g			 4 bytes a parameter
 *	unscale	g = g * scale		 8
 *	update	p, m, v from g		28 (Adam)
 *	cast	low = bf16(p)		 6
 *
 * 46 bytes in all. Each pass is one vectorised loop, as fast as memory; nothing is fused, for
 *between norm and unscale lies the whole gradient, and the other two are calls of their own. Sums
 *are kept in fp32 lanes, factors are fp32: no more exact than the opponent is.
 */
#ifndef BENCH_FOUR_PASS_H
#define BENCH_FOUR_PASS_H

#include "strata/optim.h"

struct st_four_pass { /* one range of n elements; arrays that the optimizer lacks are NULL */
	enum strata_isa
		isa; /* strata_isa_best(), which takes long to find out in a virtual machine */
	size_t n;
	float *p, *m, *v, *g;
	uint16_t *low; /* out: bf16 */
};

struct st_four_factors {
	float lr, beta1, beta2, eps, weight_decay;
	float step_size, inv_bc2; /* Adam: lr / (1 - beta1^t), 1 / (1 - beta2^t) */
};

/** st_four_factors() - of step t, from what strata_optim_prepare() takes. */
struct st_four_factors st_four_factors(const struct strata_optim_cfg *cfg, uint64_t t, double lr,
				       double weight_decay);

/** st_four_norm() - the sum of squares of g. */
double st_four_norm(const struct st_four_pass *a);
void st_four_unscale(const struct st_four_pass *a, float scale);
/** st_four_update() - AdamW, Adam, Adagrad, Lion, or SGD with momentum (not Nesterov's). */
void st_four_update(const struct st_four_pass *a, enum strata_optim_kind kind,
		    const struct st_four_factors *f);
/** st_four_cast() - low = bf16(p), to nearest even; p is finite. */
void st_four_cast(const struct st_four_pass *a);

/** st_four_bytes() - moved by the four passes, a parameter. @param update_bytes  out, of the third;
 *  or NULL */
size_t st_four_bytes(enum strata_optim_kind kind, size_t *update_bytes);

#endif
