/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offload/lanes_sim.h - lanes on a virtual clock, which check the executor while they run.
 *
 * Layer:   offload
 * Threads: one thread makes all calls, the one that drives the executor
 *
 * Tests run random programs and compiled plans here, with random durations and failures. Nothing
 * sleeps and nothing moves: an operation takes virtual time only.
 *
 * Model of a lane. FIFO: one operation after another, each for latency + cost. Otherwise all that
 * are in flight at once: costs pass through one pipe, latencies overlap. The cost comes from
 * bytes and flops, or from a callback. Lanes may slow each other down (speed): reads and writes
 * that share a drive, compute beside I/O. What is being served then goes on at another speed from
 * the instant at which another lane begins or ends to serve. A lane may have several paths, each
 * such a queue of its own; an operation takes an equal share of its cost on each of those that it
 * needs, and ends when all have ended. A lane may wait by itself for others
 * (lanes.h, rule 3): an operation whose edges are not done stays where it is, in a FIFO with
 * everything behind it.
 *
 * Checks (is_checked). The programs are announced in serial order; each is first executed serially
 * on a shadow of memory and resources, and every access remembers which versions it must meet. Then
 * the lanes hold against what really happens, knowing nothing of the executor's tables:
 *  1. CONFLICT: from start to completion, an operation's uses and touches clash with no other's.
 *  2. STALE: each access meets the versions that it meets in serial order.
 *  3. CLAIM: live claims of a pool do not overlap and stay inside it. A claim lives from the
 *     submission of its first user to the completion of its last.
 *  4. ORDER: an operation is submitted after its edges are done, or are in a lane that is waited
 * for.
 *  5. TWICE: no operation is submitted twice, or without its program.
 *  6. AFTER_ERROR: nothing is submitted once a failure was returned.
 *  7. LOST: at the end everything ran, and memory and resources hold what serial order leaves.
 * A gate never reaches a lane, so what a gate itself touches is not checked.
 */
#ifndef OFFLOAD_LANES_SIM_H
#define OFFLOAD_LANES_SIM_H

#include "offload/lanes.h"

#define ST_SIM_PATHS_MAX 4u

struct st_sim_lane {
	double bytes_per_s, flops_per_s; /* 0: costs nothing */
	int64_t latency_ns;
	unsigned depth;    /* in flight at most, then -EAGAIN; 0 means 1 */
	bool is_fifo;      /* one after another */
	uint32_t waits_on; /* bit l: waits by itself for lane l */
};

struct st_lanes_sim_cfg {
	struct st_sim_lane lane[ST_LANE_N];
	bool is_checked;
	/* optional. Cost of an operation, >= 0, in place of bytes and flops. */
	int64_t (*cost_ns)(void *user, const struct st_program *p, uint32_t op);
	/* optional. In (0, 1]: of a lane while those in `serving` (bit l, itself included) serve.
	 */
	double (*speed)(void *user, enum st_lane lane, uint32_t serving);
	void *user;
	/* optional. What operations do: begin when one starts; end when it is over, with what it
	 * comes back with so far. @return what it does come back with, 0 or a failure. */
	void (*begin)(void *user, const struct st_program *p, uint32_t op, void *ctx);
	int (*end)(void *user, const struct st_program *p, uint32_t op, void *ctx, int rc);
	/* optional. Bit k: an operation needs path k of its lane, k < ST_SIM_PATHS_MAX; 0: path 0.
	 */
	uint32_t (*paths)(void *user, const struct st_program *p, uint32_t op);
	uint64_t seed;             /* of what follows */
	unsigned random_decades;   /* durations 10^u ns, u uniform in [0, decades); at most 12, 0:
				      model */
	unsigned wake_permille;    /* wait() returns 0 for no reason */
	unsigned fail_per_million; /* an operation that starts fails */
	uint64_t fail_nth;         /* the nth operation that starts fails; 0: none */
	uint32_t lost_paths;       /* whatever needs one of these fails ... */
	uint64_t lost_at;          /* ... from the nth operation on that starts; 0: never */
	uint32_t fail_lanes;       /* bit l: only what starts in lane l counts and fails; 0: all */
	uint64_t refuse_nth;       /* the nth submit is refused; 0: none */
	int fail_rc;               /* of these; 0 means STRATA_E_IO */
};

#define ST_SIM_FAULTS(X)                                                                           \
	X(CONFLICT, "conflict")                                                                    \
	X(STALE, "stale access")                                                                   \
	X(CLAIM, "claim")                                                                          \
	X(ORDER, "order")                                                                          \
	X(TWICE, "submitted twice")                                                                \
	X(AFTER_ERROR, "submitted after an error")                                                 \
	X(LOST, "lost")

enum st_sim_fault {
#define ST_X(name, text) ST_SIM_##name,
	ST_SIM_FAULTS(ST_X)
#undef ST_X
		ST_SIM_FAULT_N
};

struct st_sim_stats {
	int64_t now_ns;                /* virtual */
	int64_t busy_ns[ST_LANE_N];    /* at least one operation was being served */
	int64_t cost_ns[ST_LANE_N];    /* sum of what operations took of the lane for themselves */
	uint64_t n_ops[ST_LANE_N];     /* served */
	uint64_t pool_high[ST_POOL_N]; /* highest end of a live claim (is_checked) */
	uint64_t n_started, n_submits; /* what fail_nth and refuse_nth count, in all lanes */
	uint64_t n_early;              /* submitted before an edge was done, to a lane that waits */
	uint64_t n_failed;             /* failures injected */
};

struct st_lanes_sim;

/** st_lanes_sim_create() - @return 0; -EINVAL (a rate or cost below 0); -ENOMEM */
ST_MUST_CHECK int st_lanes_sim_create(struct st_lanes_sim **out,
				      const struct st_lanes_sim_cfg *cfg);
void st_lanes_sim_destroy(struct st_lanes_sim *s);

/** st_lanes_sim_lanes() - for st_executor_cfg; borrowed from s. */
struct st_lanes st_lanes_sim_lanes(struct st_lanes_sim *s);

/**
 * st_lanes_sim_begin() - p, with ctx, is the next program in serial order.
 * Call right before st_executor_append(). p is borrowed until st_lanes_sim_destroy() or until all
 * its operations completed and another begin followed; ctx must differ from those still running.
 * All memory is taken here: unless is_checked, submit and wait allocate nothing.
 * @return 0; -ENOMEM
 */
ST_MUST_CHECK int st_lanes_sim_begin(struct st_lanes_sim *s, const struct st_program *p, void *ctx);

/**
 * st_lanes_sim_cancel() - the program begun last was cancelled: serial order goes on without it.
 * Call right after st_executor_cancel(). Whatever it changed outside its own claims shows as STALE
 * or LOST later.
 */
void st_lanes_sim_cancel(struct st_lanes_sim *s);

/** st_lanes_sim_stats() - counters so far; valid until destroy. */
const struct st_sim_stats *st_lanes_sim_stats(const struct st_lanes_sim *s);

/** st_lanes_sim_finish() - the executor is idle: check what is left (LOST; not after a failure). */
void st_lanes_sim_finish(struct st_lanes_sim *s);

/** st_lanes_sim_faults() - violations of one kind so far; ST_SIM_FAULT_N: of all. */
uint64_t st_lanes_sim_faults(const struct st_lanes_sim *s, enum st_sim_fault kind);
/** st_lanes_sim_fault_text() - the first violation, one line; "" if there was none. */
const char *st_lanes_sim_fault_text(const struct st_lanes_sim *s);

#endif
