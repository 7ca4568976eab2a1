/* SPDX-License-Identifier: Apache-2.0 */
/* tests/schedules.c - configurations made up, the caller, the engine's loop, and what must hold. */
#include "tests/schedules.h"

#include "tests/program_defects.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

const char *feature_text(enum feature f)
{
	static const char *const texts[] = {
#define ST_X(name, text) text,
		FEATURES(ST_X)
#undef ST_X
	};
	return texts[f];
}

const char *defect_text(enum defect d)
{
	static const char *const texts[] = {
#define ST_X(name, text) text,
		DEFECTS(ST_X)
#undef ST_X
	};
	return texts[d];
}

static void ST_PRINTF(2, 3) wrong(struct schedule *s, const char *fmt, ...)
{
	va_list ap;

	if (s->text[0])
		return;
	va_start(ap, fmt);
	vsnprintf(s->text, sizeof(s->text), fmt, ap);
	va_end(ap);
}

static void note(struct schedule *s, enum feature f)
{
	machine_note(&s->machine, f);
}

/* ---- a configuration --------------------------------------------------------------------- */

static void choose_formats(struct schedule *s)
{
	struct rng *r = &s->r;
	struct st_formats *f = &s->cfg.formats;
	static const enum st_dtype dtypes[] = { ST_BF16, ST_F16, ST_F32 };

	f->dtype = dtypes[below(r, ST_ARRAY_LEN(dtypes))];
	f->grad_dtype = chance(r, 80) ? f->dtype : ST_F32;
	f->moments = below(r, 3);
	f->optim = (struct strata_optim_cfg)STRATA_OPTIM_CFG_DEFAULT;
	if (chance(r, 25))
		f->optim.kind = STRATA_OPTIM_LION;
}

static void choose_homes(struct schedule *s)
{
	static const enum st_home homes[][2] = {
		{ ST_HOME_HOST, ST_HOME_NVME },
		{ ST_HOME_DEVICE, ST_HOME_NVME },
		{ ST_HOME_NVME, ST_HOME_HOST },
		{ ST_HOME_DEVICE, ST_HOME_HOST },
	};
	uint32_t i = below(&s->r, ST_ARRAY_LEN(homes));
	bool is_all = chance(&s->r, 65), uses_nvme;

	s->cfg.param_home = is_all ? ST_HOME_NVME : homes[i][0];
	s->cfg.state_home = is_all ? ST_HOME_NVME : homes[i][1];
	uses_nvme = s->cfg.param_home == ST_HOME_NVME || s->cfg.state_home == ST_HOME_NVME;
	s->cfg.pins = chance(&s->r, 50);
	s->cfg.commits = uses_nvme && chance(&s->r, 85);
	s->machine.commit_every = s->cfg.commits && chance(&s->r, 12) ? 2 + below(&s->r, 3) : 1;
	s->cfg.may_speculate = s->cfg.commits && s->machine.commit_every == 1;
	s->cfg.rest = !uses_nvme          ? ST_REST_MEMORY
		      : chance(&s->r, 60) ? ST_REST_FIT
					  : below(&s->r, 2); /* all in memory, all on NVMe */
}

static void choose_modes(struct schedule *s)
{
	struct rng *r = &s->r;

	s->cfg.update = ST_UPDATE_AUTO;
	s->always_speculates = chance(r, 70);
	if (!chance(r, 35))
		return;
	for (unsigned u = 0; u < s->toy.model.n_units; u++)
		s->toy.modes[u] = !s->cfg.needs_norm && chance(r, 50)     ? ST_UPDATE_IMMEDIATE
				  : s->cfg.may_speculate && chance(r, 60) ? ST_UPDATE_SPECULATIVE
									  : ST_UPDATE_DEFERRED;
	s->cfg.modes = s->toy.modes;
}

/* What the data do: runs of plain steps, so that speculation begins, and steps that end it. */
static void choose_scenario(struct schedule *s)
{
	struct scenario *sc = &s->scenario;
	struct rng *r = &s->r;
	unsigned vain = chance(r, 25) ? 0 : 10 + below(r, 40);

	sc->scales_loss = s->cfg.formats.dtype == ST_F16;
	sc->clip = chance(r, 75) ? 0.001 + below(r, 1000) : 0;
	s->cfg.needs_norm = sc->clip > 0 || sc->scales_loss;
	for (uint32_t i = 1; i <= SCHEDULE_STEPS_MAX; i++) {
		double limit = sc->clip > 0 ? sc->clip : 1;
		enum outcome o = PLAIN;

		if (chance(r, vain))
			o = sc->clip > 0 && chance(r, 60) ? CLIPS
			    : sc->scales_loss             ? OVERFLOWS
							  : PLAIN;
		if (!sc->scales_loss && below(r, 150) == 0)
			o = OVERFLOWS; /* ends the run */
		sc->step[i].outcome = o;
		sc->step[i].is_nan = chance(r, 50);
		sc->step[i].hot = (uint32_t)next(r);
		sc->step[i].is_even = chance(r, 30);
		sc->step[i].size =
			limit * (o == CLIPS ? 1.1 + below(r, 100) : 0.001 + 0.009 * below(r, 100));
	}
}

static void choose_rest(struct schedule *s)
{
	struct rng *r = &s->r;

	s->cfg.n_mb = 1 + below(r, 3);
	s->cfg.n_eval_mb = chance(r, 70) ? 1 + below(r, 2) : 0;
	s->cfg.order = chance(r, 75) ? ST_ORDER_VERTICAL : ST_ORDER_HORIZONTAL;
	s->cfg.recompute = chance(r, 50);
	s->cfg.acts_on_host = chance(r, 40);
	s->cfg.lookahead = below(r, 3);
	s->n_paths = chance(r, 50) ? 1 : 2 + below(r, ST_SIM_PATHS_MAX - 1);
}

/* Budgets: none, the smallest that work, something between these and what is useful; a budget below
 * the smallest must be refused. */
static int choose_budgets(struct schedule *s)
{
	struct st_plan *least = NULL;
	uint64_t min[ST_ARENA_N], most[ST_ARENA_N];
	uint32_t kind = below(&s->r, 10);
	int rc = st_plan_create(&least, &s->cfg);

	if (rc)
		return rc;
	memcpy(min, least->min_bytes, sizeof(min));
	memcpy(most, least->arena_bytes, sizeof(most));
	if (kind < 2) {
		s->plan = least;
		return 0;
	}
	st_plan_destroy(least);
	if (kind == 2 && min[ST_ARENA_HOST] > 4096) {
		s->cfg.host_bytes = min[ST_ARENA_HOST] - 4096;
		s->cfg.device_bytes = min[ST_ARENA_DEVICE];
		rc = st_plan_create(&s->plan, &s->cfg);
		if (rc != STRATA_E_NO_FIT)
			wrong(s, "a budget below the smallest that works: %d", rc);
	}
	for (unsigned a = 0; a < ST_ARENA_N; a++) {
		uint64_t more = (most[a] > min[a] ? most[a] - min[a] : 0) + (4 << 20);
		uint64_t bytes = min[a] + (kind < 6 ? 0 : next(&s->r) % more);

		*(a == ST_ARENA_DEVICE ? &s->cfg.device_bytes : &s->cfg.host_bytes) = bytes;
	}
	note(s, kind < 6 ? FEATURE_TIGHT : FEATURE_BUDGETS);
	rc = st_plan_create(&s->plan, &s->cfg);
	if (!rc && (s->plan->arena_bytes[ST_ARENA_DEVICE] > s->cfg.device_bytes ||
		    s->plan->arena_bytes[ST_ARENA_HOST] > s->cfg.host_bytes))
		wrong(s, "a plan of %llu and %llu bytes for budgets of %llu and %llu",
		      (unsigned long long)s->plan->arena_bytes[0],
		      (unsigned long long)s->plan->arena_bytes[1],
		      (unsigned long long)s->cfg.device_bytes,
		      (unsigned long long)s->cfg.host_bytes);
	return rc;
}

static void note_plan(struct schedule *s)
{
	const struct st_plan *p = s->plan;
	const struct st_model *m = &s->toy.model;
	uint32_t n_spilled = 0, n_resting = 0;
	bool is_mixed = false;

	for (uint32_t t = 0; t < p->layout->n_tiles; t++) {
		n_resting += p->mode[p->layout->tiles[t].unit] != ST_UPDATE_IMMEDIATE;
		n_spilled += !!(p->on_nvme[t] & ST_ON_NVME_GRAD);
	}
	for (uint32_t u = 1; u < p->layout->n_units; u++)
		is_mixed |= p->mode[u] != p->mode[0];
	if (n_spilled)
		note(s, FEATURE_SPILLED);
	if (n_spilled && n_spilled < n_resting)
		note(s, FEATURE_SPILLED_SOME);
	if (is_mixed)
		note(s, FEATURE_MIXED);
	if (p->pinned_bytes)
		note(s, FEATURE_PINNED);
	if (m->stages[m->n_stages - 1].units[0] == 0)
		note(s, FEATURE_TIED);
	if (p->spreads_update)
		note(s, FEATURE_SPREAD);
	if (p->cfg.order == ST_ORDER_HORIZONTAL && p->cfg.n_mb > 1)
		note(s, FEATURE_HORIZONTAL);
	if (p->cfg.formats.dtype != ST_BF16)
		note(s, p->cfg.formats.dtype == ST_F16 ? FEATURE_F16 : FEATURE_F32);
	if (!p->cfg.commits)
		note(s, FEATURE_NO_COMMITS);
	if (s->machine.commit_every > 1)
		note(s, FEATURE_RARE_COMMITS);
	if (s->n_paths > 1)
		note(s, FEATURE_PATHS);
}

/* ---- lanes ------------------------------------------------------------------------------- */

/* Extents and slots of the scratch are spread over the paths, each tile's by itself. */
static uint32_t paths_of(void *user, const struct st_program *p, uint32_t op)
{
	const struct schedule *s =
		(const struct schedule *)(const void *)((const char *)user -
							offsetof(struct schedule, machine));
	const struct st_op *o = &p->ops[op];
	const struct st_layout *l = s->plan->layout;
	uint32_t mask = 0;

	if (o->lane == ST_LANE_COMMIT)
		return (1u << s->n_paths) - 1;
	if (o->lane != ST_LANE_READ && o->lane != ST_LANE_WRITE)
		return 1;
	if (o->tile != ST_NONE)
		return 1u << (o->tile +
			      (o->kind == ST_OP_READ_STATE || o->kind == ST_OP_WRITE_STATE)) %
				     s->n_paths;
	for (uint32_t t = l->unit_first_tile[o->unit]; t < l->unit_first_tile[o->unit + 1]; t++)
		mask |= 1u << t % s->n_paths;
	return mask;
}

static void choose_failure(struct schedule *s, struct st_lanes_sim_cfg *c)
{
	static const enum st_lane lanes[] = { ST_LANE_READ, ST_LANE_WRITE, ST_LANE_COMMIT,
					      ST_LANE_COMPUTE };
	enum st_lane lane = lanes[below(&s->r, ST_ARRAY_LEN(lanes))];
	uint64_t nth = 1 + below(&s->r, lane == ST_LANE_COMMIT ? 5 : 300);

	c->fail_rc = -EIO - (int)below(&s->r, 3);
	if (chance(&s->r, 20)) {
		c->refuse_nth = nth;
	} else if (s->n_paths > 1 && chance(&s->r, 50)) {
		c->lost_paths = 1u << below(&s->r, s->n_paths);
		c->lost_at = nth;
		c->fail_lanes = 1u << ST_LANE_READ | 1u << ST_LANE_WRITE | 1u << ST_LANE_COMMIT;
	} else {
		c->fail_nth = nth;
		c->fail_lanes = 1u << lane;
	}
}

static void choose_lanes(struct schedule *s)
{
	struct rng *r = &s->r;
	struct st_lanes_sim_cfg *c = &s->lanes_cfg;

	*c = (struct st_lanes_sim_cfg){ .is_checked = true,
					.seed = next(r),
					.random_decades = 1 + below(r, 6),
					.begin = machine_begin,
					.end = machine_end,
					.paths = paths_of,
					.user = &s->machine };
	for (unsigned l = 0; l < ST_LANE_N; l++) {
		c->lane[l].depth = 1 + below(r, 12);
		c->lane[l].is_fifo = l == ST_LANE_COMPUTE || l == ST_LANE_COMMIT || chance(r, 40);
		if (chance(r, 20))
			c->lane[l].waits_on = below(r, 1u << ST_LANE_N);
	}
	if (chance(r, 60)) /* as the worker of a real machine does */
		c->lane[ST_LANE_COMPUTE].waits_on |= 1u << ST_LANE_COMPUTE;
	c->wake_permille = chance(r, 15) ? below(r, 400) : 0;
	if (c->wake_permille)
		note(s, FEATURE_WOKEN);
	if (s->n_lives < 3 && chance(r, 40))
		choose_failure(s, c);
}

/* What has failed, once it has. */
static void note_failure(struct schedule *s, const struct st_program *p, uint32_t op)
{
	static const enum feature by_lane[ST_LANE_N] = {
		[ST_LANE_READ] = FEATURE_READ_FAILED,
		[ST_LANE_WRITE] = FEATURE_WRITE_FAILED,
		[ST_LANE_COMMIT] = FEATURE_COMMIT_FAILED,
		[ST_LANE_COMPUTE] = FEATURE_COMPUTE_FAILED,
	};

	note(s, by_lane[p->ops[op].lane]);
	if (s->lanes_cfg.lost_at && s->lanes_cfg.lost_paths)
		note(s, FEATURE_PATH_LOST);
}

/* ---- the engine's part ------------------------------------------------------------------- */

static void completed(void *user, void *ctx, const struct st_program *p, uint32_t op, int rc)
{
	struct schedule *s = user;
	struct sym_run *run = ctx;

	if (rc && rc == s->lanes_cfg.fail_rc)
		note_failure(s, p, op);
	s->kill_in -= s->kill_in > 1;
	if (rc)
		return;
	if (p->ops[op].kind == ST_OP_COMMIT) {
		s->durable_step = s->machine.committed;
		if (s->machine.durable.step != s->durable_step)
			wrong(s, "step %llu is called durable",
			      (unsigned long long)s->durable_step);
	}
	if (p->ops[op].kind != ST_OP_NORM)
		return;
	run->is_reported = true;
	s->sequence.rolls_back = run->rolled_back;
	if (run->rolled_back)
		note(s, FEATURE_ROLLED_BACK);
	if (run->rolled_back && run->verdict.is_skipped)
		note(s, FEATURE_SKIPPED_VAIN);
	if (run->verdict.is_skipped)
		note(s, FEATURE_SKIPPED);
	if (run->verdict.clip_factor != 1)
		note(s, FEATURE_CLIPPED);
	if (s->machine.defect == DEFECT_NO_ABORT && run->is_hopeless && !run->verdict.is_vain)
		s->machine.has_applied = true;
	if (run->rolled_back && s->machine.defect == DEFECT_NO_ROLLBACK) {
		s->sequence.rolls_back = false;
		s->machine.has_applied |= machine_is_ahead(&s->machine);
	}
	if (run->rolled_back && s->machine.defect == DEFECT_EARLY_ROLLBACK &&
	    s->machine.n_writing) { /* writes that end later stay */
		uint32_t n = s->machine.n_writing;

		s->machine.n_writing = 0;
		ST_ASSERT(!machine_forget(&s->machine));
		s->machine.n_writing = n;
		s->sequence.rolls_back = false;
		s->machine.has_applied = true;
	}
}

static int take_run(void *user, enum st_variant v, void **out)
{
	struct schedule *s = user;

	for (unsigned i = 0; i < SYM_RUNS; i++) {
		struct sym_run *run = &s->runs[i];

		if (run->is_busy)
			continue;
		*run = (struct sym_run){ .is_busy = true,
					 .variant = v,
					 .serial = ++s->n_runs,
					 .verdict = { .clip_factor = 1 } };
		if (s->is_loud)
			fprintf(stderr, "  run %u: %s\n", run->serial, st_variant_name(v));
		s->n_programs++;
		s->machine.has_applied |= s->broken >> v & 1;
		*out = run;
		return st_lanes_sim_begin(s->lanes, s->plan->program[v], run);
	}
	ST_ASSERT(!"no run is free");
	return -EBUSY;
}

static void dropped(void *user, void *run)
{
	struct schedule *s = user;

	if (s->is_loud)
		fprintf(stderr, "  run %u is dropped\n", ((struct sym_run *)run)->serial);
	st_lanes_sim_cancel(s->lanes);
	note(s, FEATURE_AHEAD_DROPPED);
}

static int turn(void *user, int64_t timeout_ns)
{
	struct schedule *s = user;
	int rc = st_executor_turn(s->executor, timeout_ns);

	for (unsigned i = 0; i < SYM_RUNS; i++)
		if (s->runs[i].is_busy && !st_executor_holds(s->executor, &s->runs[i]))
			s->runs[i].is_busy = false;
	if (rc >= 0 && s->kill_in == 1)
		return -EINTR;
	return rc < 0 ? rc : 0;
}

static int forget(void *user)
{
	struct schedule *s = user;

	if (s->is_loud)
		fprintf(stderr, "  rollback\n");
	return machine_forget(&s->machine);
}

/* As the engine thread between commands. */
static int tend(struct schedule *s)
{
	static const int64_t timeouts[] = { -1, -1, 0, 100, 1000000 };
	void *run;
	int rc = st_sequence_roll_back(&s->sequence);

	if (rc)
		return rc < 0 ? rc : 0;
	rc = st_sequence_look_ahead(&s->sequence, &run);
	return rc ? rc : turn(s, timeouts[below(&s->r, ST_ARRAY_LEN(timeouts))]);
}

#define TURNS_MAX 200000u

static int run_step(struct schedule *s)
{
	enum st_variant v = st_history_step(&s->history, s->plan, s->always_speculates);
	struct st_verdict verdict;
	struct sym_run *run;
	void *taken, *ahead;
	uint32_t n = 0;
	int rc;

	while ((rc = st_sequence_roll_back(&s->sequence)) > 0)
		;
	ahead = s->sequence.ahead;
	if (!rc)
		rc = st_sequence_step(&s->sequence, v, &taken);
	if (rc)
		return rc;
	run = taken;
	if (run == ahead)
		note(s, FEATURE_AHEAD_USED);
	if (s->is_loud)
		fprintf(stderr, "step %llu: run %u, %s, outcome %d\n",
			(unsigned long long)s->step + 1, run->serial, st_variant_name(v),
			s->scenario.step[s->step + 1].outcome);
	run->step = s->step + 1;
	run->loss_scale = s->machine.boundary.loss_scale.scale;
	st_executor_open(s->executor, run);
	while (!rc && !run->is_reported && n++ < TURNS_MAX)
		rc = tend(s);
	if (!rc && !run->is_reported)
		wrong(s, "step %llu hangs", (unsigned long long)run->step);
	if (rc || s->text[0])
		return rc;
	s->step++;
	verdict = run->verdict;
	if (s->machine.defect == DEFECT_SKIP_UPDATES && verdict.is_skipped)
		verdict.is_skipped = false, s->machine.has_applied = s->plan->has_pending;
	if (s->machine.defect == DEFECT_TWICE && st_variant_desc(v)->speculates && !verdict.is_vain)
		verdict.is_vain = s->machine.has_applied = true;
	if (s->machine.defect == DEFECT_MISSING && run->rolled_back && !verdict.is_skipped)
		verdict.is_vain = false, s->machine.has_applied = true;
	st_history_add(&s->history, s->plan, &verdict, st_variant_desc(v)->speculates);
	return 0;
}

/* A program that is no step. */
static int run_other(struct schedule *s, enum st_variant v)
{
	void *run;
	int rc;

	if (!s->plan->program[v])
		return 0;
	while ((rc = st_sequence_roll_back(&s->sequence)) > 0)
		;
	if (!rc)
		rc = st_sequence_other(&s->sequence, v, &run);
	if (rc)
		return rc;
	st_executor_open(s->executor, run);
	return st_sequence_finish(&s->sequence);
}

static int run_settled(struct schedule *s, enum st_variant v)
{
	int rc = s->history.due ? run_other(s, ST_VARIANT_FLUSH + s->history.due) : 0;

	if (!rc)
		s->history.due = ST_DUE_NONE;
	return rc ? rc : run_other(s, v);
}

static int run_save(struct schedule *s)
{
	int rc = run_other(s, ST_VARIANT_SAVE + s->history.due);

	if (rc)
		return rc;
	s->history.due = ST_DUE_NONE;
	note(s, FEATURE_SAVED);
	machine_expect_durable(&s->machine, s->step);
	return 0;
}

/* ---- a life: from the start of a process to its end ------------------------------------- */

static int be_born(struct schedule *s)
{
	struct st_executor_cfg x = { .completed = completed,
				     .user = s,
				     .reserve_when_ready = s->machine.defect == DEFECT_WHEN_READY };

	s->n_lives++;
	choose_lanes(s);
	ST_ASSERT(!st_lanes_sim_create(&s->lanes, &s->lanes_cfg));
	x.lanes = st_lanes_sim_lanes(s->lanes);
	ST_ASSERT(!st_executor_create(&s->executor, &x));
	for (unsigned v = 0; v < ST_VARIANT_N; v++)
		if (s->plan->program[v])
			ST_ASSERT(!st_executor_admit(s->executor, s->plan->program[v]));
	st_sequence_init(&s->sequence, &(struct st_sequence_cfg){ .plan = s->plan,
								  .executor = s->executor,
								  .take_run = take_run,
								  .dropped = dropped,
								  .turn = turn,
								  .forget = forget,
								  .user = s });
	if (s->machine.durable.step < s->durable_step)
		wrong(s, "step %llu was called durable and is lost",
		      (unsigned long long)s->durable_step);
	s->history = (struct st_history){ 0 };
	memset(s->runs, 0, sizeof(s->runs));
	if (!s->machine.has_durable) {
		s->step = 0;
		return run_other(s, ST_VARIANT_INIT);
	}
	s->step = s->machine.durable.step;
	note(s, FEATURE_RESUMED);
	if (s->plan->program[ST_VARIANT_LOAD])
		note(s, FEATURE_LOADED);
	return run_other(s, ST_VARIANT_LOAD);
}

/* The lanes' own checks, and that no pool holds more than it has. */
static void inspect(struct schedule *s)
{
	const struct st_sim_stats *stats = st_lanes_sim_stats(s->lanes);

	s->n_ops += stats->n_started;
	if (stats->n_early)
		note(s, FEATURE_EARLY);
	if (s->lanes_cfg.refuse_nth && stats->n_submits >= s->lanes_cfg.refuse_nth)
		note(s, FEATURE_REFUSED);
	if (st_lanes_sim_faults(s->lanes, ST_SIM_FAULT_N))
		wrong(s, "%s", st_lanes_sim_fault_text(s->lanes));
	for (unsigned q = 0; q < ST_POOL_N; q++)
		if (stats->pool_high[q] > s->plan->places[q].bytes)
			wrong(s, "%s holds more than its pool", st_pool_name(q));
	if (s->machine.n_faults)
		wrong(s, "%s", s->machine.fault);
}

static void die(struct schedule *s)
{
	inspect(s);
	st_executor_destroy(s->executor);
	st_lanes_sim_destroy(s->lanes);
	s->executor = NULL;
	s->lanes = NULL;
	machine_crash(&s->machine, chance(&s->r, 50));
	if (s->machine.n_faults)
		wrong(s, "%s", s->machine.fault);
}

/* What comes back as a failure was asked for. */
static bool is_intended(const struct schedule *s, int rc)
{
	const struct st_sim_stats *stats = st_lanes_sim_stats(s->lanes);

	return (stats->n_failed && rc == s->lanes_cfg.fail_rc) ||
	       (rc == STRATA_E_NUMERIC && s->machine.features >> FEATURE_NOT_FINITE & 1);
}

static int act(struct schedule *s)
{
	uint32_t what = below(&s->r, 100);
	int rc = 0;

	for (uint32_t n = below(&s->r, 12); !rc && n; n--)
		rc = tend(s); /* the caller takes its time */
	if (rc)
		return rc;
	if (what < 82)
		return run_step(s);
	if (what < 88) {
		if (s->plan->program[ST_VARIANT_EVAL])
			note(s, FEATURE_EVALUATED);
		return run_settled(s, ST_VARIANT_EVAL);
	}
	if (what < 94)
		return run_save(s);
	note(s, FEATURE_EXPORTED);
	return run_settled(s, ST_VARIANT_EXPORT);
}

/* Steps up to `last`. @return 0: done, and saved; 1: died on the way */
static int live(struct schedule *s, uint64_t last)
{
	int rc = be_born(s);

	while (!rc && !s->text[0] && s->step < last)
		rc = act(s);
	if (!rc && !s->text[0])
		rc = run_settled(s, ST_VARIANT_EXPORT);
	if (!rc && !s->text[0])
		rc = run_save(s);
	if (!rc && !s->text[0])
		st_lanes_sim_finish(s->lanes);
	if (!rc)
		return 0;
	if (s->is_loud)
		fprintf(stderr, "ends with %d\n", rc);
	if (rc == -EINTR && s->kill_in == 1)
		note(s, FEATURE_KILLED);
	else if (!is_intended(s, rc))
		wrong(s, "failed with %d: %s", rc, st_last_error());
	return rc != STRATA_E_NUMERIC;
}

/* ---- defects ----------------------------------------------------------------------------- */

/* Into the programs of steps, or into all; defects that are decisions are made later. */
static void put_in(struct schedule *s, enum defect defect)
{
	for (unsigned v = 0; v < ST_VARIANT_N; v++) {
		struct st_program *p = s->plan->program[v];
		bool is_step = st_variant_desc(v)->is_step;

		if (p && ((defect == DEFECT_EARLY_COMMIT && remove_commit_edges(p)) ||
			  (defect == DEFECT_EDGE && is_step && remove_random_edge(p, &s->r)) ||
			  (defect == DEFECT_CLAIM && is_step && overlap_claims(p, &s->r))))
			s->broken |= 1u << v;
	}
	s->machine.has_applied |= defect == DEFECT_WHEN_READY;
}

/* ---- all of it --------------------------------------------------------------------------- */

/* Nothing keeps the steps from speculating, and some from doing it in vain. */
static void favour_speculation(struct schedule *s)
{
	s->cfg.param_home = s->cfg.state_home = ST_HOME_NVME;
	s->cfg.commits = s->cfg.may_speculate = s->cfg.needs_norm = true;
	s->cfg.pins = false;
	s->cfg.modes = NULL;
	s->always_speculates = true;
	s->machine.commit_every = 1;
	s->scenario.clip = s->scenario.clip > 0 ? s->scenario.clip : 1;
	for (uint32_t i = 1; i <= SCHEDULE_STEPS_MAX; i++) {
		bool clips = chance(&s->r, 30);

		s->scenario.step[i].outcome = clips ? CLIPS : PLAIN;
		s->scenario.step[i].size = s->scenario.clip * (clips ? 2 : 0.5);
	}
}

static int make(struct schedule *s, uint64_t seed, enum defect defect)
{
	int rc;

	memset(s, 0, sizeof(*s));
	s->r.s = seed * 0x2545f4914f6cdd1du + 7;
	toy_make(&s->toy, &s->r);
	s->cfg.model = &s->toy.model;
	choose_formats(s);
	choose_homes(s);
	choose_scenario(s);
	choose_modes(s);
	choose_rest(s);
	if (defect >= DEFECT_ROLLBACK_TILE && defect != DEFECT_SKIP_UPDATES)
		favour_speculation(s);
	rc = choose_budgets(s);
	if (rc)
		wrong(s, "no plan: %d: %s", rc, st_last_error());
	return rc;
}

int schedule_run(struct schedule *s, uint64_t seed, enum defect defect, bool is_loud)
{
	uint64_t features, every, last;
	unsigned kills;
	int rc = make(s, seed, defect);

	if (rc)
		return 1;
	features = s->machine.features;
	every = s->machine.commit_every;
	machine_init(&s->machine, s->plan, &s->scenario, every);
	s->machine.features = features;
	s->machine.defect = defect;
	s->is_loud = is_loud;
	note_plan(s);
	put_in(s, defect);
	last = 2 + below(&s->r, 9);
	kills = chance(&s->r, 30) ? 1 + below(&s->r, 2) : 0;
	do {
		s->kill_in = kills ? 2 + below(&s->r, 1500) : 0;
		kills -= kills > 0;
		rc = live(s, last);
		die(s);
	} while (rc == 1 && !s->text[0] && s->n_lives < 8);
	if (rc == 1 && !s->text[0])
		wrong(s, "dies again and again");
	return s->text[0] != 0;
}

void schedule_fini(struct schedule *s)
{
	machine_fini(&s->machine);
	st_plan_destroy(s->plan);
}
