/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/schedule_machine.h - a machine that trains in symbols: what every operation of a plan's
 * programs must meet, and what it leaves.
 *
 * Memory, the two-slot store and the scratch hold no numbers but names of values: "parameters of
 * tile 7 after 3 updates, these" instead of their bytes. An operation that starts checks the name
 * of each operand against what training in serial order would give it, and makes its results
 * unusable; once it is over they have their names. So a missing, doubled or early update, one with
 * the gradient or the clip factor of another step, a buffer read before it was filled, a state that
 * is lost by a rollback or a crash, each shows at the first operation that meets it, or in the next
 * commit, which must name one boundary for every extent.
 *
 * How a step decides is not modelled: it is offload/sequence.h, as in the engine.
 */
#ifndef TESTS_SCHEDULE_MACHINE_H
#define TESTS_SCHEDULE_MACHINE_H

#include "offload/plan.h"
#include "offload/sequence.h"
#include "offload/shadow.h"
#include "strata/loss_scale.h"

#define SCHEDULE_STEPS_MAX 24u

/* What a seed made happen; the counts say that the test tries what it is there for. */
#define FEATURES(X)                                                                                \
	X(SPECULATED, "steps that speculate")                                                      \
	X(ROLLED_BACK, "speculation in vain, rolled back")                                         \
	X(ABORTED, "speculation given up before the norm is known")                                \
	X(VOID, "operations of a hopeless speculation")                                            \
	X(MIXED, "plans that mix update modes")                                                    \
	X(IMMEDIATE, "immediate updates")                                                          \
	X(DEFERRED, "deferred updates")                                                            \
	X(CLIPPED, "steps that clip")                                                              \
	X(SKIPPED, "steps skipped for an overflow")                                                \
	X(SKIPPED_VAIN, "overflows in a step that speculates")                                     \
	X(SPILLED, "gradients spilled to NVMe")                                                    \
	X(SPILLED_SOME, "gradients spilled in part")                                               \
	X(PINNED, "parameters or states pinned")                                                   \
	X(TIGHT, "the smallest budgets that work")                                                 \
	X(BUDGETS, "other budgets")                                                                \
	X(TIED, "a table that two stages share")                                                   \
	X(ROWS, "rows looked up ahead")                                                            \
	X(SPREAD, "the table's update spread over forward")                                        \
	X(HORIZONTAL, "micro-batches one by one")                                                  \
	X(RECOMPUTED, "forward again inside backward")                                             \
	X(F16, "fp16, the master weight in the state")                                             \
	X(F32, "fp32")                                                                             \
	X(NO_COMMITS, "no commit but when saving")                                                 \
	X(RARE_COMMITS, "commits every few steps")                                                 \
	X(EVALUATED, "evaluations")                                                                \
	X(SAVED, "saves")                                                                          \
	X(EXPORTED, "exports")                                                                     \
	X(AHEAD_USED, "programs that looked ahead rightly")                                        \
	X(AHEAD_DROPPED, "programs that looked ahead in vain")                                     \
	X(PATHS, "several paths")                                                                  \
	X(PATH_LOST, "a path lost")                                                                \
	X(READ_FAILED, "failing reads")                                                            \
	X(WRITE_FAILED, "failing writes")                                                          \
	X(COMMIT_FAILED, "failing commits")                                                        \
	X(COMPUTE_FAILED, "failing computations")                                                  \
	X(REFUSED, "refused submissions")                                                          \
	X(KILLED, "killed at any moment")                                                          \
	X(RESUMED, "resumed from a commit")                                                        \
	X(LOADED, "homes in memory loaded again")                                                  \
	X(EARLY, "lanes that wait by themselves")                                                  \
	X(WOKEN, "waits that end for no reason")                                                   \
	X(NOT_FINITE, "a norm that is not finite, without a loss scale")

enum feature {
#define ST_X(name, text) FEATURE_##name,
	FEATURES(ST_X)
#undef ST_X
		FEATURE_N
};

/* One defect, put in on purpose, that the checks must find. */
#define DEFECTS(X)                                                                                 \
	X(NONE, "none")                                                                            \
	X(EDGE, "an edge left out")                                                                \
	X(EARLY_COMMIT, "a commit that does not wait for the writes")                              \
	X(CLAIM, "two live claims in one place")                                                   \
	X(WHEN_READY, "reservation when an operation is ready")                                    \
	X(ROLLBACK_TILE, "a rollback that forgets a tile")                                         \
	X(NO_ROLLBACK, "a speculative write that survives a clip")                                 \
	X(EARLY_ROLLBACK, "a rollback that does not wait for what is in flight")                   \
	X(SKIP_UPDATES, "a skip that updates")                                                     \
	X(TWICE, "an update that is made again")                                                   \
	X(MISSING, "an update that is not made after a rollback")                                  \
	X(NO_ABORT, "a step that calls its speculation hopeless without a reason")

enum defect {
#define ST_X(name, text) DEFECT_##name,
	DEFECTS(ST_X)
#undef ST_X
		DEFECT_N
};

enum outcome { PLAIN, CLIPS, OVERFLOWS };

struct scenario { /* what the data bring, by step; the same however the step is executed */
	double clip;
	bool scales_loss;
	struct { /* of step i */
		enum outcome outcome;
		bool is_nan;  /* OVERFLOWS: else infinite */
		uint32_t hot; /* tile with most of the norm */
		bool is_even; /* ... or none */
		double size;  /* norm: PLAIN below the limit, CLIPS above it */
	} step[SCHEDULE_STEPS_MAX + 1];
};

struct sym_run { /* ctx of a program: what struct st_run is to the engine */
	bool is_busy;
	enum st_variant variant;
	uint32_t serial;
	uint64_t step; /* 0 until its gate opens */
	double loss_scale, square_sum;
	bool is_hopeless, rolled_back, is_reported;
	struct st_verdict verdict;
};

struct sym_boundary { /* what struct st_boundary is to the engine */
	uint64_t step;
	bool is_clipped; /* the update that it left is */
	struct strata_loss_scale loss_scale;
};

struct sym_extent {
	uint64_t slot[2];                 /* names of values */
	int8_t live, durable, committing; /* slot, or -1: none */
	bool is_written;                  /* a write is under way */
};

struct machine {
	const struct st_plan *plan;
	const struct scenario *scenario;
	uint64_t commit_every;
	enum defect defect;
	bool has_applied; /* it did something */
	struct {          /* after step i: updates applied, and a digest of which */
		uint32_t n, which;
	} truth[SCHEDULE_STEPS_MAX + 1];
	struct st_shadow arena[ST_ARENA_N];
	struct sym_extent *extent; /* 2i, 2i + 1: parameters and state of tile i */
	uint64_t *scratch;         /* [n_tiles] */
	struct {
		uint64_t step;
		double square;
	} * leaf; /* [n_tiles] */
	struct sym_boundary boundary, durable, committing;
	bool has_durable; /* something was committed */
	bool is_committing,
		is_unknown;   /* is_unknown: one failed, and may be on disk all the same */
	bool is_broken;       /* a commit or a write failed: the store takes no more writes */
	uint64_t committed;   /* step of the latest commit that was asked for */
	struct sym_job *jobs; /* under way */
	uint32_t n_jobs, n_writing;
	uint64_t features;
	uint32_t n_faults;
	bool is_loud;
	char fault[320]; /* the first */
};

/** machine_init() - of a plan that runs a scenario; ck_assert() on what fails. */
void machine_init(struct machine *m, const struct st_plan *plan, const struct scenario *scenario,
		  uint64_t commit_every);
void machine_fini(struct machine *m);

/* Of struct st_lanes_sim_cfg; user is the machine, ctx a struct sym_run. */
void machine_begin(void *user, const struct st_program *p, uint32_t op, void *ctx);
int machine_end(void *user, const struct st_program *p, uint32_t op, void *ctx, int rc);

/** machine_forget() - st_store_rollback(). @return 0; -EINVAL: something is under way */
int machine_forget(struct machine *m);
/** machine_is_ahead() - something was written, or is being written, since the last commit. */
bool machine_is_ahead(const struct machine *m);
/** machine_crash() - the process ends now: memory and scratch are gone, the store is what its last
 * commit left. @param commit_counts  one that is under way is durable. */
void machine_crash(struct machine *m, bool commit_counts);
/** machine_expect_durable() - the store holds the boundary after step, whole. */
void machine_expect_durable(struct machine *m, uint64_t step);

void machine_fault(struct machine *m, const char *fmt, ...) ST_PRINTF(2, 3);

static inline void machine_note(struct machine *m, enum feature f)
{
	m->features |= (uint64_t)1 << f;
}

#endif
