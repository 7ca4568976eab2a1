/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu/cuda/formats.h - the optimizers that the CUDA device has kernels for. The program asks too,
 * to plan for a machine with a GPU from one without.
 *
 * Layer: gpu; C and C++
 */
#ifndef GPU_CUDA_FORMATS_H
#define GPU_CUDA_FORMATS_H

#include "core/optim_factors.h"
#include "strata/optim.h"

/** st_cuda_can_update() - Adam and AdamW with fp32 moments, any master weights and gradients. */
static inline bool st_cuda_can_update(enum st_rule rule, const struct strata_optim_format *f)
{
	return (rule == ST_RULE_ADAMW || rule == ST_RULE_ADAM) &&
	       f->moments == STRATA_MOMENTS_F32 && (unsigned)f->params <= STRATA_PARAMS_F32_F16 &&
	       (unsigned)f->grads <= STRATA_GRADS_F16;
}

/** st_cuda_can_step() - the same of an optimizer as it is configured. */
static inline bool st_cuda_can_step(const struct strata_optim_cfg *cfg,
				    const struct strata_optim_format *f)
{
	if (cfg->kind != STRATA_OPTIM_ADAMW && cfg->kind != STRATA_OPTIM_ADAM)
		return false;
	return st_cuda_can_update(cfg->kind == STRATA_OPTIM_ADAMW ? ST_RULE_ADAMW : ST_RULE_ADAM,
				  f);
}

#endif
