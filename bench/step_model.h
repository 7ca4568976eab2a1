/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench/step_model.h - a model of equal blocks, to measure the engine without a real one.
 *
 * Layer:   bench
 * Threads: constant after it was made; fwd and bwd run on the compute lane
 *
 * A block is two products, y = (x W1) W2 with W1 [h, 6 h] and W2 [6 h, h]: as many parameters and
 * operations in products as a transformer's block of hidden size h, nothing else. The first one
 * makes its input from the tokens, the last one a loss, the mean of y^2 / 2. Gradients are those
 * of this loss. Simulated, the two products are not run: the lane sleeps as long as a device of a
 * given speed would take for the same operations, gradients are 0, and only optimizer and I/O are
 * real.
 */
#ifndef BENCH_STEP_MODEL_H
#define BENCH_STEP_MODEL_H

#include "offload/model.h"

struct st_step_model;

struct st_step_model_cfg {
	uint64_t n_params;  /* about; the hidden size is the nearest multiple of 64 */
	unsigned n_layers;  /* >= 2 */
	size_t batch, seq;  /* of a micro-batch */
	double s_per_gflop; /* simulated: seconds of 1e9 operations; 0: real products */
};

/** st_step_model_create() - @return 0; -EINVAL (too small for blocks of 64); -ENOMEM */
ST_MUST_CHECK int st_step_model_create(struct st_step_model **out,
				       const struct st_step_model_cfg *cfg,
				       const struct st_device *device);
void st_step_model_destroy(struct st_step_model *s);
const struct st_model *st_step_model_get(const struct st_step_model *s);
size_t st_step_model_hidden(const struct st_step_model *s);

#endif
