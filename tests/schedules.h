/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/schedules.h - one random schedule: a model, its plan, a training run on simulated lanes.
 *
 * A seed makes a small model (its tensors are sizes only), the choices of a configuration, budgets
 * from the smallest upward, what its data do (steps that clip or overflow), lanes with random
 * durations, failures and paths, and a caller who steps, evaluates, saves, exports, is killed and
 * resumes. The engine's part is played by the executor and offload/sequence.h.
 */
#ifndef TESTS_SCHEDULES_H
#define TESTS_SCHEDULES_H

#include "offload/executor.h"
#include "offload/lanes_sim.h"
#include "tests/random.h"
#include "tests/schedule_machine.h"

#define SYM_RUNS 4u

struct toy { /* a model made up; struct st_model points into it */
	struct st_model model;
	struct st_unit_desc units[12];
	struct st_stage_desc stages[12];
	struct st_tensor_desc tensors[12][4];
	enum st_update modes[12];
};

/** toy_make() - a table, perhaps positions, blocks, and what the loss needs. */
void toy_make(struct toy *toy, struct rng *r);

struct schedule { /* of one seed */
	struct rng r;
	struct toy toy;
	struct st_plan_cfg cfg;
	struct st_plan *plan;
	struct scenario scenario;
	bool always_speculates;
	unsigned n_paths;
	struct machine machine;
	/* Of the process that runs now: */
	struct st_lanes_sim_cfg lanes_cfg;
	struct st_lanes_sim *lanes;
	struct st_executor *executor;
	struct st_sequence sequence;
	struct st_history history;
	struct sym_run runs[SYM_RUNS];
	uint32_t n_runs;
	uint64_t step; /* done */
	uint64_t durable_step;
	unsigned n_lives; /* processes begun */
	uint32_t kill_in; /* this one ends before so many operations have; 0: it is not killed */
	uint64_t n_ops, n_programs;
	uint32_t broken; /* bit v: the defect changed the program of variant v */
	bool is_loud;
	int rc;
	char text[400]; /* what is wrong; "" if nothing */
};

/**
 * schedule_run() - the whole of a seed's schedule. Holds 200 KB: not for the stack of a thread.
 * @return 0; 1: something is wrong, and s->text says what
 */
int schedule_run(struct schedule *s, uint64_t seed, enum defect defect, bool is_loud);
void schedule_fini(struct schedule *s);

const char *feature_text(enum feature f);
const char *defect_text(enum defect d);

#endif
