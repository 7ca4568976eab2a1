/* SPDX-License-Identifier: Apache-2.0 */
/* offload/engine.c - the engine thread, and the calls that hand it programs to run. */
#include "offload/engine.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "core/arena.h"
#include "core/clock.h"
#include "core/log.h"
#include "offload/bound.h"
#include "offload/exec.h"
#include "offload/executor.h"
#include "offload/lanes_real.h"
#include "offload/sequence.h"
#include "offload/trace.h"

_Static_assert(ST_CONFIG_PATHS_MAX <= ST_STORE_PATHS_MAX, "a configuration that the store refuses");

#define SNAPSHOT_MAGIC UINT64_C(0x31617461727473) /* "strata1" */
#define LOADED_BYTES   ((uint64_t)64 << 20)       /* moved under load: enough to tell a rate */
#define RUNS           4u /* two in the window, one being filled, one to spare */

struct command {
	enum st_variant variant;
	const struct st_step_in *step;   /* STEP */
	const int32_t *tokens, *targets; /* EVAL; borrowed until done */
	st_emit_fn *emit;
	void *emit_user;
	struct st_run *run; /* out: the run that did it, read before the next command */
	bool is_taken, is_done;
	struct st_error error; /* rc 0: success */
};

struct st_engine {
	struct st_engine_cfg cfg;
	struct st_arena arena[ST_ARENA_N]; /* of the device's only where the host sees it */
	struct st_arena batches;           /* of the runs, and the leaves of the norm */
	bool has_device;                   /* it was given an arena, or told of memory */
	struct st_exec exec;
	struct st_run runs[RUNS];
	int32_t *row_number; /* [rows] scratch of st_rows_find(), where the plan looks up ahead */
	bool has_snapshot;
	struct st_snapshot snapshot;

	/* Engine thread only */
	struct st_aio_queue *queue;
	struct st_store *store;
	struct st_scratch *scratch;
	struct st_lanes_real *lanes;
	struct st_executor *executor;
	struct st_sequence sequence;
	struct st_run_trace *trace; /* or NULL */
	uint64_t n_runs, serving;   /* runs begun; step that runs, or ran last */
	uint64_t committing_step;
	char *run_json; /* where create() wants it */
	size_t run_json_bytes;
	bool removes_store;
	bool has_lost_buffers; /* a device hangs: what it may still use is leaked; after the join */

	/* Shared, under lock */
	pthread_t thread;
	bool has_thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct command *command; /* being served */
	bool is_ready, stops;
	struct st_error broken;
	uint64_t durable_step;

	/* Caller's thread only */
	struct st_history history;
	uint64_t updates;
	uint64_t step;
	int64_t report_ns;
	struct st_lanes_stats at_report;
	struct st_lanes_stats at_rate; /* when the drives' rate was taken last */
	double loaded_bytes_per_s;
};

/* ---- runs ---------------------------------------------------------------------------------- */

/* What runs hold of batches lies in one range, which a device can be told of. */
static int alloc_runs(struct st_engine *e)
{
	const struct st_plan_cfg *p = &e->cfg.plan->cfg;
	const struct st_lookup *l = &e->cfg.plan->lookup;
	size_t n_mb = p->n_mb > p->n_eval_mb ? p->n_mb : p->n_eval_mb;
	size_t tokens = n_mb * p->model->batch * p->model->seq;
	size_t bytes = e->cfg.plan->layout->n_leaves * sizeof(double) +
		       RUNS * tokens * (3 * sizeof(int32_t) + sizeof(float));
	int rc = st_arena_init(&e->batches, bytes, "batches");
	char *at = e->batches.base;

	if (rc)
		return rc;
	e->exec.leaves = (double *)(void *)at;
	at += e->cfg.plan->layout->n_leaves * sizeof(double);
	for (unsigned i = 0; i < RUNS; i++) {
		int32_t *batch = (int32_t *)(void *)at;

		e->runs[i].tokens = batch;
		e->runs[i].targets = batch + tokens;
		e->runs[i].rows.tokens = batch + 2 * tokens;
		e->runs[i].loss = (float *)(void *)(batch + 3 * tokens);
		at += tokens * (3 * sizeof(int32_t) + sizeof(float));
	}
	if (!l->n_chunks)
		return 0;
	ST_ASSERT(l->max_tokens <= tokens);
	e->row_number = calloc(l->rows, sizeof(*e->row_number));
	for (unsigned i = 0; i < RUNS; i++) {
		e->runs[i].rows.row = calloc(l->max_rows, sizeof(*e->runs[i].rows.row));
		if (!e->row_number || !e->runs[i].rows.row)
			return st_fail(-ENOMEM, "engine: rows of a batch");
	}
	return 0;
}

/* The arenas; what copies name is registered with the device. */
static int alloc_arenas(struct st_engine *e)
{
	const uint64_t *bytes = e->cfg.plan->arena_bytes;
	bool is_visible = st_device_caps(e->cfg.device)->host_visible;
	struct st_arena *host = &e->arena[ST_ARENA_HOST];
	void *base = NULL;
	int rc = 0;

	if (is_visible == e->cfg.plan->cfg.copies)
		return st_fail(-EINVAL, "engine: the plan was made for another kind of device");
	e->has_device = !is_visible;
	if (is_visible)
		rc = st_arena_init(&e->arena[ST_ARENA_DEVICE], bytes[ST_ARENA_DEVICE], "device");
	else if (bytes[ST_ARENA_DEVICE])
		rc = st_device_arena(e->cfg.device, bytes[ST_ARENA_DEVICE], &base);
	if (!rc)
		rc = st_arena_init(host, bytes[ST_ARENA_HOST], "host");
	if (!rc && !is_visible && host->bytes)
		rc = st_device_register(e->cfg.device, host->base, host->bytes);
	if (!rc && !is_visible)
		rc = st_device_register(e->cfg.device, e->batches.base, e->batches.bytes);
	e->exec.base[ST_ARENA_DEVICE] = is_visible ? e->arena[ST_ARENA_DEVICE].base : base;
	e->exec.base[ST_ARENA_HOST] = host->base;
	return rc;
}

static int take_run(void *user, enum st_variant v, void **run)
{
	struct st_engine *e = user;

	for (unsigned i = 0; i < RUNS; i++) {
		struct st_run *r = &e->runs[i];

		if (r->is_busy)
			continue;
		r->is_busy = true;
		r->variant = v;
		r->n_mb = v == ST_VARIANT_EVAL ? e->cfg.plan->cfg.n_eval_mb : e->cfg.plan->cfg.n_mb;
		r->serial = ++e->n_runs;
		r->step = 0;
		r->emit = NULL;
		r->square_sum = 0;
		r->verdict = (struct st_verdict){ .clip_factor = 1 };
		atomic_store(&r->is_hopeless, false);
		r->speculates = st_variant_desc(v)->speculates;
		r->rolled_back = r->is_reported = false;
		*run = r;
		return 0;
	}
	ST_ASSERT(!"no run is free");
	return -EBUSY;
}

/* ---- what the lanes ask -------------------------------------------------------------------- */

static bool wants_commit(void *user, void *ctx)
{
	struct st_engine *e = user;
	const struct st_run *run = ctx;

	return st_wants_commit(run->variant, e->exec.boundary.step, e->committing_step,
			       e->cfg.commit_every);
}

static size_t take_snapshot(void *user, void *ctx, void *out)
{
	struct st_engine *e = user;
	const struct st_snapshot s = {
		.magic = SNAPSHOT_MAGIC,
		.step = e->exec.boundary.step,
		.cursor = e->exec.boundary.cursor,
		.numeric_plan = e->cfg.numeric_plan,
		.data_id = e->cfg.data_id,
		.updates = e->exec.boundary.updates,
		.loss_scale = e->exec.boundary.loss_scale,
	};

	e->committing_step = s.step;
	memcpy(out, &s, sizeof(s));
	return sizeof(s);
}

static const struct st_rows *rows_of(void *user, void *ctx)
{
	return &((const struct st_run *)ctx)->rows;
}

static void trace_run(void *user, void *ctx, struct st_trace_run *out)
{
	const struct st_run *run = ctx;

	*out = (struct st_trace_run){ .step = run->step, .serial = run->serial };
}

static bool is_void(void *user, void *ctx)
{
	return atomic_load(&((struct st_run *)ctx)->is_hopeless);
}

static int run_op(void *user, const struct st_program *p, uint32_t op, void *ctx)
{
	struct st_engine *e = user;

	return st_exec_run(&e->exec, p, op, ctx);
}

static void op_done(void *user, const struct st_program *p, uint32_t op, void *ctx)
{
	struct st_engine *e = user;

	st_exec_done(&e->exec, p, op, ctx);
}

/* ---- commands ------------------------------------------------------------------------------ */

static void reply(struct st_engine *e, struct st_run *run, int rc)
{
	pthread_mutex_lock(&e->lock);
	if (e->command) {
		e->command->run = run;
		e->command->error.rc = 0;
		if (rc)
			st_error_take(&e->command->error, rc);
		e->command->is_done = true;
		e->command = NULL;
		pthread_cond_broadcast(&e->changed);
	}
	pthread_mutex_unlock(&e->lock);
}

/*
 * The first commit at or after each multiple. No commit can begin while this waits, so what it
 * copies cannot be overwritten. Without the copy the run is as safe as before: it goes on.
 */
static void keep_copy(struct st_engine *e, uint64_t before, uint64_t step)
{
	uint64_t every = e->cfg.keep_every;

	if (!every || step / every == before / every)
		return;
	if (st_store_keep(e->store, NULL, 0))
		st_log(ST_LOG_WARN, "no copy of step %llu was kept, training goes on: %s",
		       (unsigned long long)step, st_last_error());
}

static void op_completed(void *user, void *ctx, const struct st_program *p, uint32_t op, int rc)
{
	struct st_engine *e = user;
	struct st_run *run = ctx;

	if (p->ops[op].kind == ST_OP_COMMIT && !rc) {
		uint64_t before = e->durable_step;

		pthread_mutex_lock(&e->lock);
		e->durable_step = e->committing_step;
		pthread_mutex_unlock(&e->lock);
		keep_copy(e, before, e->committing_step);
	}
	if (p->ops[op].kind == ST_OP_NORM && !rc && !run->is_reported) {
		run->is_reported = true;
		e->sequence.rolls_back = run->rolled_back;
		reply(e, run, 0);
	}
}

/* A run is free again once its program has left the window. */
static void free_runs(struct st_engine *e)
{
	for (unsigned i = 0; i < RUNS; i++)
		if (e->runs[i].is_busy && !st_executor_holds(e->executor, &e->runs[i]))
			e->runs[i].is_busy = false;
}

static int turn(void *user, int64_t timeout_ns)
{
	struct st_engine *e = user;
	int rc = st_executor_turn(e->executor, timeout_ns);

	free_runs(e);
	if (e->trace) {
		uint64_t held[ST_POOL_N];

		st_executor_held(e->executor, held);
		st_run_trace_pools(e->trace, held);
	}
	if (rc >= 0)
		return 0;
	pthread_mutex_lock(&e->lock);
	st_error_take(&e->broken, rc);
	pthread_mutex_unlock(&e->lock);
	reply(e, NULL, rc);
	return rc;
}

static void copy_tokens(const struct st_engine *e, struct st_run *run, const int32_t *tokens,
			const int32_t *targets)
{
	const struct st_model *m = e->cfg.plan->cfg.model;
	size_t bytes = run->n_mb * m->batch * m->seq * sizeof(int32_t);

	memcpy(run->tokens, tokens, bytes);
	if (targets)
		memcpy(run->targets, targets, bytes);
}

static int serve_step(struct st_engine *e, struct command *c)
{
	const struct st_lookup *lookup = &e->cfg.plan->lookup;
	struct st_run *run;
	void *taken;
	int rc = st_sequence_step(&e->sequence, c->variant, &taken);

	if (rc)
		return rc;
	run = taken;
	rc = st_exec_prepare(&e->cfg, e->exec.boundary.updates + 1, c->step->lr, c->step->beta1,
			     c->step->beta2, 1.0 / e->exec.boundary.loss_scale.scale, run->optim);
	if (rc)
		return rc;
	e->serving = c->run->step;
	if (run->step != e->serving) /* one that ran ahead has it, and may be read meanwhile */
		run->step = e->serving;
	run->loss_scale = e->exec.boundary.loss_scale.scale;
	run->lr = c->step->lr;
	run->beta1 = c->step->beta1;
	run->beta2 = c->step->beta2;
	run->cursor_after = c->step->cursor_after;
	copy_tokens(e, run, c->step->tokens, c->step->targets);
	if (st_variant_desc(run->variant)->due != ST_DUE_NONE && lookup->n_chunks)
		rc = st_rows_find(lookup, &run->rows, run->tokens, e->row_number);
	if (rc)
		return rc;
	st_executor_open(e->executor, run);
	return 0; /* op_completed() replies */
}

/* Any program but a step: alone in the window. */
static int serve_other(struct st_engine *e, struct command *c)
{
	struct st_run *run;
	void *taken;
	int rc = st_sequence_other(&e->sequence, c->variant, &taken);

	if (rc)
		return rc;
	run = taken;
	if (c->tokens)
		copy_tokens(e, run, c->tokens, c->targets);
	run->emit = c->emit;
	run->emit_user = c->emit_user;
	st_executor_open(e->executor, run);
	rc = st_sequence_finish(&e->sequence);
	if (!rc)
		reply(e, run, 0);
	return rc;
}

static int forget(void *user)
{
	return st_store_rollback(((struct st_engine *)user)->store);
}

static void fail_command(struct st_engine *e, int rc)
{
	pthread_mutex_lock(&e->lock);
	if (!e->broken.rc)
		st_error_take(&e->broken, rc);
	pthread_mutex_unlock(&e->lock);
	reply(e, NULL, rc);
}

/* Between commands: the step that is likely to come next stands ready; its reads begin. */
static int look_ahead(struct st_engine *e)
{
	void *run;
	int rc = st_sequence_look_ahead(&e->sequence, &run);

	if (run)
		((struct st_run *)run)->step = e->serving + 1;
	return rc;
}

static void serve(struct st_engine *e)
{
	for (;;) {
		struct command *c;
		bool stops, is_broken;
		int rc;

		pthread_mutex_lock(&e->lock);
		is_broken = e->broken.rc != 0;
		while (is_broken && !e->stops && !e->command)
			pthread_cond_wait(&e->changed, &e->lock);
		c = e->command;
		stops = e->stops;
		pthread_mutex_unlock(&e->lock);
		if (stops)
			break;
		if (is_broken) {
			reply(e, NULL, st_error_raise(&e->broken));
			continue;
		}
		rc = st_sequence_roll_back(&e->sequence); /* the caller may still read its run */
		if (!rc && c && !c->is_taken) {
			c->is_taken = true;
			rc = c->step ? serve_step(e, c) : serve_other(e, c);
		} else if (!rc) {
			rc = look_ahead(e);
			if (!rc)
				(void)turn(e, -1); /* a failure is in e->broken */
		}
		if (rc < 0)
			fail_command(e, rc);
	}
}

/* ---- the engine thread --------------------------------------------------------------------- */

bool st_snapshot_parse(const void *bytes, size_t n_bytes, struct st_snapshot *out)
{
	struct st_snapshot s;

	if (n_bytes != sizeof(s))
		return false;
	memcpy(&s, bytes, sizeof(s));
	if (s.magic != SNAPSHOT_MAGIC)
		return false;
	*out = s;
	return true;
}

static int check_snapshot(const struct st_engine *e, const struct st_snapshot *s)
{
	if (s->numeric_plan != e->cfg.numeric_plan)
		return st_fail(STRATA_E_STALE,
			       "the state was made with another numeric plan (model, batch, "
			       "dtypes, threads, instruction set, or with bf16 or int8 moments the "
			       "version of the program differ); start anew, or restore what was "
			       "changed");
	if (s->data_id != e->cfg.data_id)
		return st_fail(STRATA_E_STALE,
			       "the run was made with other data, or another seed or seq_len: its"
			       " order of text cannot be continued; restore them, or start anew");
	return 0;
}

struct wanted { /* the copy of a step */
	uint64_t step;
	struct st_snapshot snapshot;
	char *run_json;
	char others[160]; /* steps of other copies, for the message */
};

static int find_copy(void *user, const struct st_store_kept_info *info)
{
	struct wanted *w = user;
	struct st_snapshot s;
	size_t n = strlen(w->others);

	if (info->rc || !st_snapshot_parse(info->snapshot, info->snapshot_bytes, &s))
		return 0;
	if (s.step != w->step) {
		snprintf(w->others + n, sizeof(w->others) - n, " %llu", (unsigned long long)s.step);
		return 0;
	}
	free(w->run_json); /* of two copies of a step the later counts */
	w->run_json = strdup(info->run_json);
	w->snapshot = s;
	return w->run_json ? 0 : st_fail(-ENOMEM, "copies of a run");
}

/* The store takes over the copy of the step that is asked for. */
static int go_back(struct st_engine *e)
{
	struct wanted w = { .step = e->cfg.resume_step };
	int rc = st_store_kept(e->cfg.resume, find_copy, &w);

	if (!rc && !w.run_json)
		rc = st_fail(
			STRATA_E_INPUT,
			"no copy of step %llu was kept (strata.nvme.keep_every): the run is at "
			"step %llu, copies are of steps%s.",
			(unsigned long long)w.step, (unsigned long long)e->snapshot.step,
			w.others[0] ? w.others : ": none");
	if (!rc)
		rc = check_snapshot(e, &w.snapshot);
	if (!rc)
		rc = st_store_restore(e->store, w.run_json);
	if (!rc)
		e->snapshot = w.snapshot;
	free(w.run_json);
	return rc;
}

static int open_store(struct st_engine *e)
{
	const struct st_layout *l = e->cfg.plan->layout;
	const struct st_store_cfg cfg = {
		.paths = e->cfg.store_paths,
		.n_paths = e->cfg.n_store_paths,
		.weights = e->cfg.store_weights,
		.extent_bytes = l->extent_bytes,
		.n_extents = l->n_extents,
		.extent_names = (const char *const *)l->extent_names,
		.checksum = e->cfg.checksum,
		.verifies_on_open = e->cfg.verifies_on_open,
	};
	unsigned char kept[ST_STORE_SNAPSHOT_MAX];
	size_t n;
	int rc;

	if (!e->cfg.resume)
		return st_store_create(&e->store, &cfg, e->run_json, e->run_json_bytes);
	rc = st_store_open(&e->store, &cfg, e->cfg.resume);
	if (rc)
		return rc;
	if (!st_store_generation(e->store)) {
		st_log(ST_LOG_WARN, "the run ended before anything was committed: it begins anew");
		return 0;
	}
	n = st_store_snapshot(e->store, kept, sizeof(kept));
	if (!st_snapshot_parse(kept, n, &e->snapshot))
		return st_fail(STRATA_E_INPUT, "the store holds no state of a training run");
	if (e->cfg.resume_step && e->cfg.resume_step != e->snapshot.step)
		rc = go_back(e);
	else
		rc = check_snapshot(e, &e->snapshot);
	if (rc)
		return rc;
	e->has_snapshot = true;
	e->exec.boundary.step = e->durable_step = e->committing_step = e->snapshot.step;
	e->exec.boundary.cursor = e->snapshot.cursor;
	e->exec.boundary.updates = e->updates = e->snapshot.updates;
	e->exec.boundary.loss_scale = e->snapshot.loss_scale;
	return 0;
}

static int open_scratch(struct st_engine *e)
{
	const struct st_layout *l = e->cfg.plan->layout;
	uint64_t *bytes;
	int rc;

	if (!e->cfg.plan->scratch_bytes)
		return 0;
	bytes = calloc(l->n_tiles, sizeof(*bytes));
	if (!bytes)
		return st_fail(-ENOMEM, "scratch");
	for (uint32_t t = 0; t < l->n_tiles; t++)
		bytes[t] = st_tile_grad_bytes(l, t);
	rc = st_scratch_create(&e->scratch, e->cfg.store_paths, e->cfg.n_store_paths,
			       e->cfg.store_weights, bytes, l->n_tiles);
	free(bytes);
	return rc;
}

static unsigned n_hashers(const struct st_engine *e)
{
	return e->cfg.checksum ? e->cfg.n_store_paths : 0;
}

static int start_lanes(struct st_engine *e)
{
	const struct st_lanes_real_cfg lanes = {
		.queue = e->queue,
		.store = e->store,
		.scratch = e->scratch,
		.layout = e->cfg.plan->layout,
		.lookup = &e->cfg.plan->lookup,
		.base = { e->exec.base[0], e->exec.base[1] },
		.device = e->cfg.plan->cfg.copies ? e->cfg.device : NULL,
		.depth = e->cfg.aio.depth,
		.n_hashers = n_hashers(e),
		.run = run_op,
		.done = op_done,
		.snapshot = take_snapshot,
		.wants_commit = wants_commit,
		.is_void = is_void,
		.rows = rows_of,
		.trace = e->trace,
		.trace_run = trace_run,
		.user = e,
	};
	struct st_executor_cfg x = { .completed = op_completed, .user = e };
	int rc = st_lanes_real_create(&e->lanes, &lanes);

	if (rc)
		return rc;
	x.lanes = st_lanes_real(e->lanes);
	rc = st_executor_create(&e->executor, &x);
	st_sequence_init(&e->sequence, &(struct st_sequence_cfg){ .plan = e->cfg.plan,
								  .executor = e->executor,
								  .take_run = take_run,
								  .turn = turn,
								  .forget = forget,
								  .user = e });
	for (unsigned v = 0; !rc && v < ST_VARIANT_N; v++)
		if (e->cfg.plan->program[v])
			rc = st_executor_admit(e->executor, e->cfg.plan->program[v]);
	return rc;
}

static int start_up(struct st_engine *e)
{
	struct st_aio_cfg aio = e->cfg.aio;
	int rc;

	aio.depth =
		2 * e->cfg.aio.depth + 4 * ST_STORE_PATHS_MAX; /* both directions, and commits */
	rc = st_aio_open(&e->queue, &aio);
	if (rc)
		return rc;
	for (unsigned a = 0; !rc && a < ST_ARENA_N; a++)
		if (e->arena[a].bytes) /* a device's own memory is not here */
			rc = st_aio_register(e->queue, e->arena[a].base, e->arena[a].bytes);
	if (!rc)
		rc = open_store(e);
	if (!rc)
		rc = open_scratch(e);
	if (!rc && e->store)
		rc = st_store_register_files(e->store, e->queue);
	if (!rc && e->scratch)
		rc = st_scratch_register_files(e->scratch, e->queue);
	if (!rc && e->cfg.trace)
		rc = st_run_trace_create(&e->trace, e->cfg.trace, e->cfg.plan, n_hashers(e));
	return rc ? rc : start_lanes(e);
}

static void *engine_main(void *arg)
{
	struct st_engine *e = arg;
	int rc = start_up(e);
	bool removes_store;

	pthread_mutex_lock(&e->lock);
	if (rc)
		st_error_take(&e->broken, rc);
	e->is_ready = true;
	pthread_cond_broadcast(&e->changed);
	pthread_mutex_unlock(&e->lock);
	if (!rc)
		serve(e);
	pthread_mutex_lock(&e->lock); /* after a failed start nobody said that it stops */
	removes_store = rc ? !e->cfg.resume : e->removes_store;
	pthread_mutex_unlock(&e->lock);
	/* What is in flight comes back before its requests and buffers go. */
	st_lanes_real_stop(e->lanes);
	e->has_lost_buffers = st_aio_close(e->queue) != 0;
	st_lanes_real_destroy(e->lanes);
	st_executor_destroy(e->executor);
	st_run_trace_destroy(e->trace);
	if (e->has_lost_buffers)
		return NULL; /* the kernel still uses tables, files and arenas: see st_aio_close()
			      */
	st_scratch_destroy(e->scratch);
	st_store_close(e->store, removes_store);
	return NULL;
}

/* ---- the caller's side --------------------------------------------------------------------- */

static int call(struct st_engine *e, struct command *c)
{
	pthread_mutex_lock(&e->lock);
	e->command = c;
	pthread_cond_broadcast(&e->changed);
	if (e->queue && !e->broken.rc)
		st_aio_wake(e->queue);
	while (!c->is_done)
		pthread_cond_wait(&e->changed, &e->lock);
	pthread_mutex_unlock(&e->lock);
	return c->error.rc ? st_error_raise(&c->error) : 0;
}

static int run_variant(struct st_engine *e, enum st_variant v)
{
	struct command c = { .variant = v };

	return call(e, &c);
}

static int settle(struct st_engine *e)
{
	enum st_due *due = &e->history.due;
	int rc = *due ? run_variant(e, ST_VARIANT_FLUSH + *due) : 0;

	if (!rc)
		*due = ST_DUE_NONE;
	return rc;
}

static int first_state(struct st_engine *e)
{
	if (!e->has_snapshot)
		return run_variant(e, ST_VARIANT_INIT);
	e->step = e->snapshot.step;
	return e->cfg.plan->program[ST_VARIANT_LOAD] ? run_variant(e, ST_VARIANT_LOAD) : 0;
}

int st_engine_create(struct st_engine **out, const struct st_engine_cfg *cfg, char *run_json,
		     size_t run_json_bytes)
{
	struct st_engine *e = calloc(1, sizeof(*e));
	int rc;

	if (!e)
		return st_fail(-ENOMEM, "engine");
	e->cfg = *cfg;
	e->run_json = run_json;
	e->run_json_bytes = run_json_bytes;
	pthread_mutex_init(&e->lock, NULL);
	pthread_cond_init(&e->changed, NULL);
	e->exec.cfg = &e->cfg;
	e->exec.plan = cfg->plan;
	e->exec.boundary.loss_scale = cfg->loss_scale;
	rc = alloc_runs(e);
	if (!rc)
		rc = alloc_arenas(e);
	if (rc)
		goto fail;
	rc = -pthread_create(&e->thread, NULL, engine_main, e);
	if (rc) {
		rc = st_fail(rc, "engine thread");
		goto fail;
	}
	e->has_thread = true;
	pthread_mutex_lock(&e->lock);
	while (!e->is_ready)
		pthread_cond_wait(&e->changed, &e->lock);
	rc = e->broken.rc ? st_error_raise(&e->broken) : 0;
	pthread_mutex_unlock(&e->lock);
	if (!rc && cfg->store_made && !cfg->resume)
		rc = cfg->store_made(cfg->store_made_user);
	if (!rc)
		rc = first_state(e);
	if (rc)
		goto fail;
	st_engine_rebase(e);
	*out = e;
	return 0;

fail:
	st_engine_close(e, !cfg->resume);
	return rc;
}

void st_engine_close(struct st_engine *e, bool removes_store)
{
	struct st_error last;

	if (!e)
		return;
	st_error_save(&last); /* closing must not hide why */
	if (e->has_thread) {
		pthread_mutex_lock(&e->lock);
		e->stops = true;
		e->removes_store = removes_store;
		pthread_cond_broadcast(&e->changed);
		if (e->queue && !e->broken.rc)
			st_aio_wake(e->queue);
		pthread_mutex_unlock(&e->lock);
		pthread_join(e->thread, NULL);
	}
	if (e->has_device)
		st_device_release(e->cfg.device); /* before what it knows of goes */
	for (unsigned a = 0; a < ST_ARENA_N && !e->has_lost_buffers; a++)
		st_arena_fini(&e->arena[a]);
	st_arena_fini(&e->batches);
	for (unsigned i = 0; i < RUNS; i++)
		free(e->runs[i].rows.row);
	free(e->row_number);
	pthread_mutex_destroy(&e->lock);
	pthread_cond_destroy(&e->changed);
	free(e);
	(void)st_error_raise(&last);
}

int st_engine_remove_store(const char *run_json)
{
	return st_store_remove(run_json);
}

int st_engine_find_store(const char *run_json, const char *const *paths, size_t n_paths, char **out)
{
	return st_store_find(run_json, paths, n_paths, out);
}

bool st_engine_resumed(const struct st_engine *e, struct st_snapshot *out)
{
	if (e->has_snapshot)
		*out = e->snapshot;
	return e->has_snapshot;
}

/* The drives' rate under load, from what they moved lately. */
static double loaded_rate(struct st_engine *e, const struct st_lanes_stats *now)
{
	uint64_t loaded_bytes = now->io_loaded_bytes - e->at_rate.io_loaded_bytes;
	int64_t loaded_ns = now->io_loaded_ns - e->at_rate.io_loaded_ns;
	double rate = loaded_ns > 0 ? (double)loaded_bytes / ((double)loaded_ns * 1e-9) : 0;

	if (loaded_bytes >= LOADED_BYTES && loaded_ns > 0) {
		e->loaded_bytes_per_s = rate;
		e->at_rate = *now;
	}
	return e->loaded_bytes_per_s > 0 ? e->loaded_bytes_per_s : rate;
}

static int64_t lane_ns(const struct st_lanes_stats *now, const struct st_lanes_stats *was,
		       enum st_lane lane)
{
	return now->lane_ns[lane] - was->lane_ns[lane];
}

static struct st_step_lanes lanes_since(struct st_engine *e, const struct st_lanes_stats *now)
{
	const struct st_lanes_stats *was = &e->at_report;
	int64_t kind[ST_OP_KINDS];
	struct st_work w = {
		.io_most_s = (double)(now->io_busy_ns - was->io_busy_ns) * 1e-9,
		.read_bytes = now->read.bytes - was->read.bytes,
		.write_bytes = now->write.bytes - was->write.bytes,
	};
	struct st_bound bound;
	struct st_step_lanes l = {
		.compute_ns = lane_ns(now, was, ST_LANE_COMPUTE),
		.h2d_ns = lane_ns(now, was, ST_LANE_H2D),
		.d2h_ns = lane_ns(now, was, ST_LANE_D2H),
		.optimizer_ns = lane_ns(now, was, ST_LANE_OPTIMIZER),
		.read_ns = now->read.busy_ns - was->read.busy_ns,
		.write_ns = now->write.busy_ns - was->write.busy_ns,
		.commit_ns = now->commit_ns - was->commit_ns,
	};

	for (unsigned k = 0; k < ST_OP_KINDS; k++)
		kind[k] = now->kind_ns[k] - was->kind_ns[k];
	l.forward_ns = kind[ST_OP_FORWARD];
	l.backward_ns = kind[ST_OP_BACKWARD];
	l.reduce_ns = kind[ST_OP_REDUCE];
	l.update_ns = kind[ST_OP_UPDATE] + kind[ST_OP_UPDATE_ROWS];
	if (n_hashers(e))
		l.checksum_ns = (now->hash_ns - was->hash_ns) / n_hashers(e);
	l.loaded_bytes_per_s = loaded_rate(e, now);
	w.lane_s[ST_LANE_COMPUTE] = (double)l.compute_ns * 1e-9;
	w.lane_s[ST_LANE_H2D] = (double)l.h2d_ns * 1e-9;
	w.lane_s[ST_LANE_D2H] = (double)l.d2h_ns * 1e-9;
	w.lane_s[ST_LANE_OPTIMIZER] = (double)l.optimizer_ns * 1e-9;
	w.checksum_s = (double)l.checksum_ns * 1e-9;
	w.io_s = w.io_most_s;
	if (l.loaded_bytes_per_s > 0)
		w.io_s = (double)(w.read_bytes + w.write_bytes) / l.loaded_bytes_per_s;
	bound = st_bound(&w);
	l.nvme_ns = llround(bound.io_s * 1e9);
	l.bound_ns = llround(bound.s * 1e9);
	l.limiting = bound.limiting;
	return l;
}

int st_engine_step(struct st_engine *e, const struct st_step_in *in, struct st_step_out *out)
{
	const struct st_plan *plan = e->cfg.plan;
	struct st_run request = { .step = e->step + 1 };
	struct command c = { .variant =
				     st_history_step(&e->history, plan, e->cfg.always_speculates),
			     .step = in,
			     .run = &request };
	struct st_lanes_stats now;
	int64_t now_ns;
	int rc = call(e, &c);

	if (rc)
		return rc;
	e->step++;
	st_history_add(&e->history, plan, &c.run->verdict, c.run->speculates);
	e->updates += !c.run->verdict.is_skipped;
	now_ns = st_now_ns();
	st_lanes_real_stats(e->lanes, &now);
	*out = (struct st_step_out){
		.step = e->step,
		.loss = c.run->mean_loss,
		.grad_norm = c.run->grad_norm,
		.clip_factor = c.run->verdict.clip_factor,
		.skipped = c.run->verdict.is_skipped,
		.loss_scale = c.run->loss_scale,
		.updates = e->updates,
		.speculated = c.run->speculates,
		.rolled_back = c.run->rolled_back,
		.wall_ns = now_ns - e->report_ns,
		.compute_ns = lane_ns(&now, &e->at_report, ST_LANE_COMPUTE),
		.read_bytes = now.read.bytes - e->at_report.read.bytes,
		.write_bytes = now.write.bytes - e->at_report.write.bytes,
		.lanes = lanes_since(e, &now),
	};
	if (e->trace)
		st_run_trace_step(e->trace, out, e->report_ns, now_ns);
	pthread_mutex_lock(&e->lock);
	out->durable_step = e->durable_step;
	pthread_mutex_unlock(&e->lock);
	e->report_ns = now_ns;
	e->at_report = now;
	return 0;
}

int st_engine_eval(struct st_engine *e, const int32_t *tokens, const int32_t *targets, double *loss)
{
	struct command c = { .variant = ST_VARIANT_EVAL, .tokens = tokens, .targets = targets };
	int rc = settle(e);

	if (!rc)
		rc = call(e, &c);
	if (!rc)
		*loss = st_exec_mean_loss(e->cfg.plan, c.run);
	return rc;
}

int st_engine_save(struct st_engine *e)
{
	int rc = run_variant(e, ST_VARIANT_SAVE + e->history.due);

	if (!rc)
		e->history.due = ST_DUE_NONE;
	return rc;
}

int st_engine_export(struct st_engine *e, st_emit_fn *emit, void *user)
{
	struct command c = { .variant = ST_VARIANT_EXPORT, .emit = emit, .emit_user = user };
	int rc = settle(e);

	return rc ? rc : call(e, &c);
}

void st_engine_rebase(struct st_engine *e)
{
	e->report_ns = st_now_ns();
	st_lanes_real_stats(e->lanes, &e->at_report);
}

void st_engine_resident(const struct st_engine *e, uint64_t bytes[ST_ARENA_N])
{
	for (unsigned a = 0; a < ST_ARENA_N; a++)
		bytes[a] = st_arena_resident_bytes(&e->arena[a]);
}

const char *st_engine_io(const struct st_engine *e)
{
	return st_aio_name(e->queue);
}

/* ---- state hash ---------------------------------------------------------------------------- */

#define PARTS (1 + STRATA_ARRAY_N) /* master weights, and each array of moments */

struct tensor_hash {
	char name[96];
	uint64_t value[PARTS];
};

struct hasher {
	XXH3_state_t *part[PARTS];
	struct tensor_hash *tensors;
	size_t n;
};

static int hash_piece(void *user, const struct st_tensor_desc *t, size_t first, size_t n,
		      const float *master, void *const moments[STRATA_ARRAY_N],
		      const size_t bytes[STRATA_ARRAY_N])
{
	struct hasher *h = user;

	for (unsigned i = 0; i < PARTS && !first; i++)
		XXH3_64bits_reset(h->part[i]);
	XXH3_64bits_update(h->part[0], master, n * sizeof(float));
	for (unsigned a = 0; a < STRATA_ARRAY_N; a++)
		if (bytes[a])
			XXH3_64bits_update(h->part[1 + a], moments[a], bytes[a]);
	if (first + n == t->elems) {
		memcpy(h->tensors[h->n].name, t->name, sizeof(t->name));
		for (unsigned i = 0; i < PARTS; i++)
			h->tensors[h->n].value[i] = XXH3_64bits_digest(h->part[i]);
		h->n++;
	}
	return 0;
}

static int cmp_tensor(const void *a, const void *b)
{
	return strcmp(((const struct tensor_hash *)a)->name, ((const struct tensor_hash *)b)->name);
}

int st_engine_state_hash(struct st_engine *e, uint64_t *hash)
{
	const struct st_model *m = e->cfg.plan->cfg.model;
	struct hasher h = { 0 };
	uint64_t boundary[2];
	size_t n = 0;
	int rc = 0;

	for (unsigned u = 0; u < m->n_units; u++)
		n += m->units[u].n_tensors;
	h.tensors = calloc(n, sizeof(*h.tensors));
	for (unsigned i = 0; i < PARTS; i++) {
		h.part[i] = XXH3_createState();
		rc = h.part[i] ? rc : -ENOMEM;
	}
	rc = !rc && h.tensors ? st_engine_export(e, hash_piece, &h)
			      : st_fail(-ENOMEM, "hash of the state");
	if (!rc) {
		qsort(h.tensors, h.n, sizeof(*h.tensors), cmp_tensor);
		boundary[0] = e->exec.boundary.step;
		boundary[1] = e->exec.boundary.cursor;
		*hash = XXH3_64bits_withSeed(h.tensors, h.n * sizeof(*h.tensors),
					     XXH3_64bits(boundary, sizeof(boundary)));
	}
	for (unsigned i = 0; i < PARTS; i++)
		XXH3_freeState(h.part[i]);
	free(h.tensors);
	return rc;
}
