/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offload/exec.h - what each operation that is not I/O does.
 *
 * Layer:   offload
 * Threads: the workers of offload/lanes_real.h; inside, the device's thread team
 */
#ifndef OFFLOAD_EXEC_H
#define OFFLOAD_EXEC_H

#include <stdatomic.h>

#include "offload/engine.h"
#include "offload/sequence.h"

/* One run of a program. */
struct st_run {
	bool is_busy;
	enum st_variant variant;
	uint64_t serial;           /* counts runs */
	uint64_t step;             /* STEP: its number, 1-based */
	int32_t *tokens, *targets; /* [max micro-batches * batch * seq] */
	struct st_rows rows;       /* updates due, where the plan looks up ahead */
	float *loss;               /* [max micro-batches * batch * seq] out, of each token */
	unsigned n_mb;
	uint64_t cursor_after;
	double lr, beta1, beta2;
	struct strata_optim_step optim[2]; /* IMMEDIATE updates: without and with decay */
	double loss_scale;                 /* of the loss of this step */
	double mean_loss, grad_norm;       /* out */
	struct st_verdict verdict;         /* out, when the norm is known */
	double square_sum;                 /* of the gradients that are final so far */
	atomic_bool is_hopeless;      /* speculation: the step will clip, so it goes no further */
	bool speculates, rolled_back; /* out: rolled_back: in vain */
	bool is_reported;
	st_emit_fn *emit;
	void *emit_user;
};

/* The boundary after the latest step, and its update where that is still due. Ordered between
 * operations by the resource "pending update". */
struct st_boundary {
	uint64_t step, cursor;
	uint64_t updates;                    /* steps applied, or due */
	struct strata_loss_scale loss_scale; /* for the next step */
	struct strata_optim_step optim[2];
};

struct st_exec {
	const struct st_engine_cfg *cfg;
	const struct st_plan *plan;
	char *base[ST_ARENA_N]; /* of the arenas; the device's need not be readable here */
	double *leaves;         /* [n_leaves] sums of squares */
	struct st_boundary boundary;
};

/**
 * st_exec_run() - as st_lanes_real_cfg.run: user is a struct st_exec, ctx a struct st_run. What the
 * device does need not be done when it returns.
 */
int st_exec_run(void *user, const struct st_program *p, uint32_t op, void *ctx);
/** st_exec_done() - as st_lanes_real_cfg.done: the operation is done. */
void st_exec_done(void *user, const struct st_program *p, uint32_t op, void *ctx);

/** st_exec_mean_loss() - of a run whose losses are all there: summed in the order of tokens. */
double st_exec_mean_loss(const struct st_plan *plan, const struct st_run *run);

/** st_exec_prepare() - both forms of the optimizer's factors for a step. */
ST_MUST_CHECK int st_exec_prepare(const struct st_engine_cfg *cfg, uint64_t step, double lr,
				  double beta1, double beta2, double grad_scale,
				  struct strata_optim_step out[2]);

#endif
