/* SPDX-License-Identifier: Apache-2.0 */
/*
 * core/optim_factors.h - the factors of one optimizer step, for whoever computes one: the kernels
 * of cpu_optim, which derives them, and those of devices.
 *
 * Layer: core; C and C++
 */
#ifndef CORE_OPTIM_FACTORS_H
#define CORE_OPTIM_FACTORS_H

#include <stdbool.h>
#include <stdint.h>

#define ST_NAN_BITS 0x7fc00000u /* the only NaN that an update stores */

/* What a kernel tells apart: the kinds of the interface, and SGD with and without a moment. */
enum st_rule {
	ST_RULE_ADAMW,
	ST_RULE_ADAM,
	ST_RULE_ADAGRAD,
	ST_RULE_LION,
	ST_RULE_SGD, /* no moment */
	ST_RULE_MOMENTUM,
	ST_RULES
};

/* What struct strata_optim_step holds: factors of one step, derived in double, then rounded. */
struct st_factors {
	enum st_rule rule;
	float grad_scale; /* unscale * clip factor */
	float wd;         /* where decay enters the gradient */
	float lr_wd;      /* lr * weight_decay where it is decoupled, else 0 */
	float step_size;  /* Adam: lr / (1 - b1^t); Adagrad: lr / (1 + (t - 1) lr_decay); else lr */
	float b1, one_minus_b1; /* SGD: momentum, 1 - dampening; 0 and 1 in the first step */
	float b2, one_minus_b2; /* Adam: one_minus_b2 is the fp32 below 1 - b2, */
	float one_minus_b2_lo;  /* and this what is left, > 0: v is dominated by (1 - b2) g g early
				 */
	float inv_bc2;          /* 1 / (1 - b2^t): vhat = v * inv_bc2 */
	float eps;
	float d_m, d_g; /* SGD with momentum: d = d_m m + d_g g */
	uint64_t key;   /* of seed and step: of random bits */
};

#endif
