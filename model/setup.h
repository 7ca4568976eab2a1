/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model/setup.h - from a configuration to a planned model: what train and plan have in common.
 *
 * Layer:   model
 * Threads: one thread at a time
 */
#ifndef MODEL_SETUP_H
#define MODEL_SETUP_H

#include "core/config.h"
#include "core/hardware.h"
#include "model/data.h"
#include "model/gpt2.h"
#include "offload/plan.h"
#include "strata/train.h"

struct st_engine;

struct st_setup {
	struct st_config *cfg;
	struct st_gpt2_cfg gpt2;
	struct st_device *device;
	struct st_model *model;
	/* What is planned for; NULL: this machine. Borrowed; set after st_setup_model(). */
	const struct st_hardware *described;
	bool is_tight[ST_ARENA_N]; /* what a plan would like exceeds that machine's memory */
	struct st_plan *plan;
	struct st_data *data;            /* NULL: the caller brings batches */
	unsigned n_eval_mb, n_eval_runs; /* an evaluation is so many micro-batches, so many times */
	uint64_t numeric_plan, data_id;
	bool chose_device; /* the configuration left it open */
	const char *const
		*store_paths; /* [n_store_paths]; the output directory if nothing is on nvme */
	size_t n_store_paths;
	struct strata_info info;
};

/**
 * st_setup_open() - load the configuration, check data and model, plan. Creates nothing.
 * @param needs_data  in, the configured data is opened and checked (training)
 */
ST_MUST_CHECK int st_setup_open(struct st_setup *s, const char *config_path,
				const struct strata_options *opt, bool needs_data);
/** st_setup_model() - the same without the plan; st_setup_plan() may follow. */
ST_MUST_CHECK int st_setup_model(struct st_setup *s, const char *config_path,
				 const struct strata_options *opt, bool needs_data);
/**
 * st_setup_plan() - plan, in place of an earlier plan.
 * @param within_budgets  in, false: as if there were none; s->plan->min_bytes says what is needed
 * @return 0; STRATA_E_NO_FIT; -ENOMEM
 */
ST_MUST_CHECK int st_setup_plan(struct st_setup *s, bool within_budgets);
/** st_setup_search() - a better plan in place of the one that is there, where these rates say so.
 */
ST_MUST_CHECK int st_setup_search(struct st_setup *s, const struct st_hardware *hw);
/** st_setup_budget() - the configured budget of an arena, at most the described machine's memory,
 *  which stands for one that is not configured. 0: neither is known. */
uint64_t st_setup_budget(const struct st_setup *s, enum st_arena_id arena);
/** st_setup_plan_cfg() - what the configuration asks of a planner. A described GPU is planned as
 * the CUDA device would be, save that scratch memory is the opened device's. */
struct st_plan_cfg st_setup_plan_cfg(const struct st_setup *s);
/** st_setup_numeric_plan() - hash of all that trained bits depend on, as a program has it whose
 *  rounding of moments is of this version; s->numeric_plan is that of STRATA_MOMENTS_VERSION. */
uint64_t st_setup_numeric_plan(const struct st_setup *s, unsigned moments_version);
/** st_setup_stops() - STRATA_E_CANCELLED if opt->stops says so, else 0. */
ST_MUST_CHECK int st_setup_stops(const struct strata_options *opt);
void st_setup_close(struct st_setup *s);

/** st_planner_setup() - of a plan: what it was made from; its `plan` is NULL where the step is
 *  written down more coarsely. Borrowed. */
const struct st_setup *st_planner_setup(const struct strata_plan *p);
/** st_planner_recall() - the rates of this machine that an earlier measurement kept for such a run.
 *  @return false: there are none */
bool st_planner_recall(const struct st_setup *s, struct st_hardware *out);
/** st_planner_measure() - rates of this machine as it is now, the mixed one of the drives at the
 *  plan's own proportion of reads; takes some seconds, and nothing is kept. */
ST_MUST_CHECK int st_planner_measure(const struct strata_plan *p, struct st_hardware *out);
/** st_planner_predict() - a step at these rates; strata_plan_time() and _lanes() say it. */
ST_MUST_CHECK int st_planner_predict(struct strata_plan *p, const struct st_hardware *hw);

/** st_trainer_engine() - borrowed, until the trainer is finished or closed. */
const struct st_engine *st_trainer_engine(const struct strata_trainer *t);

#endif
