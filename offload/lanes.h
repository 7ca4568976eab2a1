/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offload/lanes.h - what runs operations: real hardware, or a simulation on a virtual clock.
 *
 * Layer:   offload
 * Threads: all calls by the engine thread, save where an implementation says otherwise
 *
 * The executor cannot tell the implementations apart.
 *  1. submit() returning 0 means exactly one completion from wait(); any error means none.
 *  2. -EAGAIN: the lane is full; submit again after a completion.
 *  3. An operation may be submitted before one it depends on has completed, when that one was
 *     submitted before it, to a lane that waits_on() names: the lane then waits by itself.
 *     If that one fails, the later one completes as cancelled and has done nothing.
 */
#ifndef OFFLOAD_LANES_H
#define OFFLOAD_LANES_H

#include "offload/program.h"

struct st_lane_done {
	uint64_t token;
	int rc;
};

struct st_lanes_ops {
	/* required. Bit l: `lane` waits by itself for what was submitted to lane l. */
	uint32_t (*waits_on)(void *priv, enum st_lane lane);
	/* required. ctx is the instance's, passed through. */
	int (*submit)(void *priv, const struct st_program *p, uint32_t op, void *ctx,
		      uint64_t token);
	/* required. Completions; 0 after a wake-up or time-out; <0: the lanes are broken. */
	int (*wait)(void *priv, struct st_lane_done *done, unsigned max, int64_t timeout_ns);
};

struct st_lanes {
	const struct st_lanes_ops *ops;
	void *priv;
};

#endif
