/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offload/sequence.h - which program follows which, and what a step's norm decides.
 *
 * Layer:   offload
 * Threads: a history belongs to the thread that asks for steps, a sequence to the one that drives
 *          the executor
 *
 * The norm of a step's gradients gives its verdict; verdicts make the history that names the next
 * step's program; the sequence brings programs into the executor's window. What a run is, what the
 * lanes do and where time comes from they do not know: the engine and the simulation that tests it
 * decide by the same functions.
 */
#ifndef OFFLOAD_SEQUENCE_H
#define OFFLOAD_SEQUENCE_H

#include "offload/executor.h"
#include "offload/plan.h"

/* ---- a step -------------------------------------------------------------------------------- */

struct st_verdict {
	bool is_skipped;    /* a gradient is not finite, and the loss scale is to blame */
	double clip_factor; /* 1: the step does not clip */
	bool is_vain;       /* it clips or is skipped: in vain was it speculated that it does not */
};

/** st_judge() - of a step whose global norm is known. @param clip  limit of the norm; 0: none */
struct st_verdict st_judge(double norm, double clip, bool scales_loss);

/** st_will_clip() - the gradients that are final so far make st_judge() call the step vain. The
 * limit leaves room for another order of the sum. @param square_sum  of the scaled gradients */
bool st_will_clip(double square_sum, double clip, double loss_scale);

/** st_wants_commit() - a program's commit, at the boundary after `step`, is to be made: always
 * where it is no step's; else every so many steps, and once. @param committed  step of the latest
 * commit
 */
bool st_wants_commit(enum st_variant v, uint64_t step, uint64_t committed, uint64_t every);

/* ---- steps --------------------------------------------------------------------------------- */

struct st_history {      /* zero: of a process that did no step yet */
	enum st_due due; /* updates that the latest step left */
	uint64_t vain;   /* bit i: the step i before the latest was */
	unsigned n_steps;
};

/** st_history_step() - the program of the next step. It speculates where the plan can and steps are
 * rarely vain: not at first, not within 4 steps of one that was, and with at most one in the last
 * 64; or always. */
enum st_variant st_history_step(const struct st_history *h, const struct st_plan *p,
				bool always_speculates);
/** st_history_add() - a step was done. */
void st_history_add(struct st_history *h, const struct st_plan *p, const struct st_verdict *v,
		    bool speculated);

/* ---- the window ---------------------------------------------------------------------------- */

/* The calls that return int give 0 or a failure. */
struct st_sequence_cfg {
	const struct st_plan *plan;
	struct st_executor *executor;
	/* required. *run becomes the ctx of a program that is appended right after this. */
	int (*take_run)(void *user, enum st_variant v, void **run);
	/* optional. The program of this run was dropped: only reads of it were made. */
	void (*dropped)(void *user, void *run);
	/* required. One st_executor_turn(). */
	int (*turn)(void *user, int64_t timeout_ns);
	/* required. The store forgets what was written since its last commit; nothing is in flight.
	 */
	int (*forget)(void *user);
	void *user;
};

struct st_sequence {
	struct st_sequence_cfg cfg;
	void *ahead; /* run of the program that stands behind the latest step's, its gate closed */
	enum st_variant ahead_variant;
	enum st_variant latest; /* the latest step's; ST_VARIANT_N: nothing looks ahead */
	bool rolls_back;        /* the latest step speculated in vain. Set when its norm is known */
};

void st_sequence_init(struct st_sequence *q, const struct st_sequence_cfg *cfg);

/** st_sequence_step() - the program of a step stands in the window: the one that looks ahead where
 * it is that, else that one is dropped. The caller opens its gate. */
ST_MUST_CHECK int st_sequence_step(struct st_sequence *q, enum st_variant v, void **run);
/** st_sequence_settle() - what looks ahead is dropped, and the window is empty. */
ST_MUST_CHECK int st_sequence_settle(struct st_sequence *q);
/** st_sequence_other() - settle; then any program but a step's stands in the window, alone. */
ST_MUST_CHECK int st_sequence_other(struct st_sequence *q, enum st_variant v, void **run);
/** st_sequence_finish() - turn until the window is empty. */
ST_MUST_CHECK int st_sequence_finish(struct st_sequence *q);
/** st_sequence_roll_back() - if the latest step speculated in vain: what it wrote is forgotten. To
 * be called before anything else is asked of the sequence. What looks ahead goes, for it was made
 * for a step that succeeds, and may have read what goes. @return 1: done; 0: nothing to do; <0 */
ST_MUST_CHECK int st_sequence_roll_back(struct st_sequence *q);
/** st_sequence_look_ahead() - the program of the step that is likely to follow is put behind the
 * latest step's, where that one has left room; its reads begin. @param run  out: its run, or NULL
 */
ST_MUST_CHECK int st_sequence_look_ahead(struct st_sequence *q, void **run);

#endif
