/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offload/predict.h - how long a step takes on a described machine, and what limits it.
 *
 * Layer:   offload
 * Threads: re-entrant
 *
 * A step is a program, so its time needs no formula: the executor that trains runs the same
 *programs here, over simulated lanes (offload/lanes_sim.h) whose rates are a hardware description's
 * (core/hardware.h), several steps until one takes as long as the one before.
 *
 * What an operation takes of its lane:
 *	forward, backward	products and attention at their rates, memory traffic of the rest at
 *				the device's; they add, for they follow each other; and its latency
 *	reduce, update		parameters (or bytes of memory) at the host's rate; on the compute
 *				lane of a GPU, bytes at its memory's
 *	reads, writes		bytes at the drives' rate; rows that are looked up, at least their
 *				I/Os
 *	copies, gathers		bytes at the link's
 * Reads and writes in flight together have the mixed rates; compute beside I/O and I/O beside
 * compute go at the speed under load. The gate of a step opens when the loss of the step before is
 * known, as in the engine.
 *
 * The bound (offload/bound.h) is the busiest resource's work; the drives' is all bytes at their
 * mixed rate, and never more than the simulated step. By phase: the bound of forward plus that of
 * backward (and after it), less what the buffers can shift between the two: what the chosen update
 * modes allow.
 */
#ifndef OFFLOAD_PREDICT_H
#define OFFLOAD_PREDICT_H

#include "core/hardware.h"
#include "offload/layout.h"
#include "offload/program.h"

struct st_predict_cfg {
	const struct st_hardware *hw;
	const struct st_model *model;
	const struct st_layout *layout; /* NULL: the programs name no tiles (offload/rank.h) */
	enum st_dtype dtype;
	const struct st_program *first;  /* a step that finds no update pending */
	const struct st_program *steady; /* and each one after it; may be the same */
};

struct st_predict_lane {
	double busy_s, wait_s; /* of a step: something was being served; nothing was */
	double work_s;         /* what its operations take of it when nothing slows them */
	uint64_t bytes;
};

struct st_prediction {
	double step_s;
	/* Of these, until the last forward, until the last backward (and reduction), the rest. */
	double forward_s, backward_s, rest_s;
	double bound_s, bound_by_phase_s; /* bound_s <= bound_by_phase_s */
	enum st_lane limiting;
	struct st_predict_lane lane[ST_LANE_N];
	unsigned n_steps; /* simulated */
};

/** st_predict() - @return 0; -ENOMEM; -EDEADLK (a bug) */
ST_MUST_CHECK int st_predict(struct st_prediction *out, const struct st_predict_cfg *cfg);

/** st_predict_op_s() - what operation i takes of its lane when nothing slows it, in seconds,
 *  without the latency of I/O, which overlaps. */
double st_predict_op_s(const struct st_predict_cfg *cfg, const struct st_program *p, uint32_t i);

#endif
