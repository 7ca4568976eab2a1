/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offload/executor.h - runs programs as far ahead as memory allows.
 *
 * Layer:   offload
 * Threads: one thread (the engine's) makes all calls
 *
 * At most two programs are in the window: the one that runs, and the next, whose reads may already
 * be under way. The loop: each pool's cursor reserves claims in program order; an operation is
 * ready when its claims are reserved, its edges are done (or wait in a lane that can wait by
 * itself) and what it imports was finished by the program before; ready operations go to their
 * lanes, lowest first; completions end claims and make others ready.
 *
 * Why it cannot deadlock: take the lowest incomplete operation i. What its edges and imports name
 * is complete. A cursor that has not passed i stands at or before i, blocked by a claim whose
 * users all lie before i in program order (sealing checked it), so they are complete and the claim
 * has ended. So i is ready.
 *
 * Errors: after the first one nothing is reserved or submitted; what is in flight is awaited; every
 * other operation completes once as cancelled.
 */
#ifndef OFFLOAD_EXECUTOR_H
#define OFFLOAD_EXECUTOR_H

#include "offload/lanes.h"

struct st_executor;

struct st_executor_cfg {
	struct st_lanes lanes;
	/* optional. Each operation of each program, once: rc 0, its failure, or STRATA_E_CANCELLED.
	 */
	void (*completed)(void *user, void *ctx, const struct st_program *p, uint32_t op, int rc);
	void *user;
	/* For tests: reserve when an operation is ready instead of in program order (deadlocks). */
	bool reserve_when_ready;
};

ST_MUST_CHECK int st_executor_create(struct st_executor **out, const struct st_executor_cfg *cfg);
void st_executor_destroy(struct st_executor *x);

/** st_executor_admit() - make room for programs like p; call for each before the first append, so
 *  that nothing is allocated in a step. */
ST_MUST_CHECK int st_executor_admit(struct st_executor *x, const struct st_program *p);

/** st_executor_has_room() - fewer than two programs are in the window. */
bool st_executor_has_room(const struct st_executor *x);
/** st_executor_append() - put p behind the window; ctx goes to lanes and completed(). Needs room.
 *  All programs of an executor were placed in the same pools. An empty program is done at once. */
ST_MUST_CHECK int st_executor_append(struct st_executor *x, const struct st_program *p, void *ctx);
/** st_executor_open() - open the gate of the program appended with ctx. */
void st_executor_open(struct st_executor *x, const void *ctx);
/** st_executor_cancel() - drop the last program in the window, whose gate was never opened. Its
 *  reads are awaited by later st_executor_turn() calls. */
void st_executor_cancel(struct st_executor *x);

/**
 * st_executor_turn() - reserve, submit, then wait for completions once.
 * @param timeout_ns  in, as lanes.wait
 * @return 1: something completed or was submitted; 0: nothing to do but wait for a gate, a wake-up
 *         or an append; -EDEADLK: a program can make no progress (a bug), and all that is left
 *         completed as cancelled; another negative code: the first failure, once everything in
 *         flight has come back
 */
ST_MUST_CHECK int st_executor_turn(struct st_executor *x, int64_t timeout_ns);

/** st_executor_holds() - the program appended with ctx is still in the window. */
bool st_executor_holds(const struct st_executor *x, const void *ctx);
/** st_executor_held() - bytes of each pool that are reserved now. */
void st_executor_held(const struct st_executor *x, uint64_t out[ST_POOL_N]);
/** st_executor_is_idle() - the window is empty. */
bool st_executor_is_idle(const struct st_executor *x);
/** st_executor_error() - the first failure, as a value; rc 0 if none. */
const struct st_error *st_executor_error(const struct st_executor *x);

#endif
