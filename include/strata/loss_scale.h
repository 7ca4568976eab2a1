/* SPDX-License-Identifier: Apache-2.0 */
/*
 * include/strata/loss_scale.h - the factor of the loss that keeps fp16 gradients in range.
 *
 * Threads: a state belongs to one thread at a time; it is plain data and may be copied and stored
 *
 * Dynamic: doubled after `window` steps without overflow, halved by an overflow once `hysteresis`
 * of them have come; a step that overflows is skipped and changes nothing else. The rules, step by
 * step, are those of DeepSpeed's DynamicLossScaler, so that a run there and one here skip the same
 * steps given the same gradients. Static: never changes; an overflow is still skipped.
 */
#ifndef STRATA_LOSS_SCALE_H
#define STRATA_LOSS_SCALE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "strata/strata.h"

#ifdef __cplusplus
extern "C" {
#endif

struct strata_loss_scale_cfg {
	size_t struct_bytes;
	double fixed;           /* > 0: static; 0: dynamic, by what follows */
	unsigned initial_power; /* the first scale is 2 to this power, 0..32 */
	uint64_t window;        /* >= 1 */
	uint64_t hysteresis;    /* >= 1 */
	bool is_consecutive;    /* a step without overflow refills the hysteresis */
	double min_scale;       /* > 0 */
};
#define STRATA_LOSS_SCALE_CFG_DEFAULT                                                              \
	{                                                                                          \
		.struct_bytes = sizeof(struct strata_loss_scale_cfg), .initial_power = 16,         \
		.window = 1000, .hysteresis = 2, .min_scale = 1                                    \
	}

struct strata_loss_scale {
	double scale; /* of the next step's loss */
	double min_scale;
	uint64_t window;           /* 0: static */
	uint64_t hysteresis, left; /* overflows until the scale falls */
	uint64_t step;             /* steps seen */
	int64_t overflow;          /* the last one of them that overflowed, or -1 */
	uint64_t is_consecutive;
};

/** strata_loss_scale_init() - @return 0; -EINVAL: a value out of its range, *s untouched */
STRATA_API STRATA_MUST_CHECK int strata_loss_scale_init(struct strata_loss_scale *s,
							const struct strata_loss_scale_cfg *cfg);

/**
 * strata_loss_scale_update() - a step's gradients are known.
 * @param has_overflow  in, one of them is not finite: the step must be skipped
 * @return 0; STRATA_E_NUMERIC: an overflow that should lower the scale, which is at its minimum
 */
STRATA_API STRATA_MUST_CHECK int strata_loss_scale_update(struct strata_loss_scale *s,
							  bool has_overflow);

#ifdef __cplusplus
}
#endif
#endif
