/* SPDX-License-Identifier: Apache-2.0 */
/* offload/trace.c - operations, checksums and counters as events. */
#include "offload/trace.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "offload/engine.h"

#define ROW_STEP    0u
#define ROW_LANES   1u
#define ROW_HASHERS (ROW_LANES + ST_LANE_N)
#define HASHERS_MAX 8u
#define IO_NS       1000000
#define POOLS_NS    200000

_Static_assert(ROW_HASHERS + HASHERS_MAX <= ST_TRACE_ROWS_MAX, "rows of the trace");

struct st_run_trace {
	struct st_trace *file;
	const struct st_plan *plan;
	char hasher_names[HASHERS_MAX][16];
	/* Engine thread only: what the counters said last. */
	int64_t io_ns, pools_ns;
	uint64_t io_bytes[2];
	uint64_t held[ST_POOL_N];
	bool has_held;
};

/* ---- rows ---------------------------------------------------------------------------------- */

static uint64_t lanes_of(const struct st_plan *plan)
{
	uint64_t lanes = 0;

	for (unsigned v = 0; v < ST_VARIANT_N; v++)
		for (uint32_t i = 0; plan->program[v] && i < plan->program[v]->n_ops; i++)
			lanes |= UINT64_C(1) << plan->program[v]->ops[i].lane;
	return lanes & ~(UINT64_C(1) << ST_LANE_GATE);
}

int st_run_trace_create(struct st_run_trace **out, struct st_trace *file,
			const struct st_plan *plan, unsigned n_hashers)
{
	struct st_run_trace *t = calloc(1, sizeof(*t));
	uint64_t lanes = lanes_of(plan);

	if (!t)
		return st_fail(-ENOMEM, "trace");
	t->file = file;
	t->plan = plan;
	t->io_ns = t->pools_ns = st_now_ns();
	st_trace_row(file, ROW_STEP, "step");
	for (unsigned l = 0; l < ST_LANE_N; l++)
		if (lanes >> l & 1)
			st_trace_row(file, ROW_LANES + l, st_lane_name(l));
	for (unsigned i = 0; i < n_hashers && i < HASHERS_MAX; i++) {
		snprintf(t->hasher_names[i], sizeof(t->hasher_names[i]), "checksum %u", i);
		st_trace_row(file, ROW_HASHERS + i, t->hasher_names[i]);
	}
	*out = t;
	return 0;
}

void st_run_trace_destroy(struct st_run_trace *t)
{
	if (t)
		st_trace_flush(t->file); /* names of rows, units and stages go */
	free(t);
}

/* ---- operations ---------------------------------------------------------------------------- */

static void add_names(const struct st_run_trace *t, const struct st_op *op,
		      struct st_trace_event *e)
{
	const struct st_model *m = t->plan->cfg.model;

	if (op->stage != ST_NONE)
		st_trace_text(e, "stage", m->stages[op->stage].name);
	if (op->unit != ST_NONE)
		st_trace_text(e, "unit", m->units[op->unit].name);
	if (op->tile != ST_NONE)
		st_trace_uint(e, "tile", op->tile);
	if (op->kind == ST_OP_READ_ROWS || op->kind == ST_OP_UPDATE_ROWS)
		st_trace_uint(e, "chunk", op->chunk);
	if (op->mb != ST_NONE)
		st_trace_uint(e, "micro_batch", op->mb);
}

/* The same for the read and for the one that uses it: operations are fewer than 2^24. */
static uint64_t flow_id(const struct st_trace_run *run, uint32_t read, uint32_t user)
{
	return run->serial << 48 | (uint64_t)(read & 0xffffff) << 24 | (user & 0xffffff);
}

static void put_flow(struct st_run_trace *t, enum st_trace_kind kind, unsigned row, int64_t at_ns,
		     uint64_t id)
{
	struct st_trace_event e = {
		.kind = kind,
		.row = row,
		.name = "fetch",
		.category = "flow",
		.begin_ns = at_ns,
		.id = id,
	};

	st_trace_put(t->file, &e);
}

/* Reads that filled a claim come before those who use it. */
static void put_claim_flows(struct st_run_trace *t, const struct st_program *p, uint32_t i,
			    uint32_t claim, const struct st_trace_run *run,
			    const struct st_trace_event *slice)
{
	const struct st_csr *users = &p->claim_users;
	bool is_read = p->ops[i].lane == ST_LANE_READ;

	for (uint32_t k = users->first[claim]; k < users->first[claim + 1]; k++) {
		uint32_t other = users->items[k];
		enum st_lane lane = p->ops[other].lane;

		if (is_read && other > i && lane == ST_LANE_COMPUTE)
			put_flow(t, ST_TRACE_FLOW_OUT, slice->row, slice->end_ns - 1,
				 flow_id(run, i, other));
		else if (!is_read && other < i && lane == ST_LANE_READ)
			put_flow(t, ST_TRACE_FLOW_IN, slice->row, slice->begin_ns,
				 flow_id(run, other, i));
	}
}

void st_run_trace_op(struct st_run_trace *t, const struct st_program *p, uint32_t i,
		     const struct st_trace_run *run, int64_t begin_ns, int64_t end_ns)
{
	const struct st_op *op = &p->ops[i];
	struct st_trace_event e = {
		.kind = ST_TRACE_SLICE,
		.row = ROW_LANES + op->lane,
		.name = st_op_name(op->kind),
		.category = st_lane_name(op->lane),
		.begin_ns = begin_ns,
		.end_ns = end_ns,
	};

	add_names(t, op, &e);
	if (op->bytes)
		st_trace_uint(&e, "bytes", op->bytes);
	if (run->step)
		st_trace_uint(&e, "step", run->step);
	st_trace_uint(&e, "operation", i);
	st_trace_put(t->file, &e);
	if (op->lane != ST_LANE_READ && op->lane != ST_LANE_COMPUTE)
		return;
	for (uint32_t u = op->first_use; u < op->first_use + op->n_uses; u++) {
		uint32_t claim = p->uses[u].claim;
		bool is_seen = claim == ST_NO_CLAIM;

		for (uint32_t v = op->first_use; !is_seen && v < u; v++)
			is_seen = p->uses[v].claim == claim;
		if (!is_seen)
			put_claim_flows(t, p, i, claim, run, &e);
	}
}

void st_run_trace_hash(struct st_run_trace *t, unsigned thread, bool is_write,
		       const struct st_program *p, uint32_t i, int64_t begin_ns, int64_t end_ns)
{
	struct st_trace_event e = {
		.kind = ST_TRACE_SLICE,
		.row = ROW_HASHERS + thread % HASHERS_MAX,
		.name = is_write ? "checksum-write" : "checksum-read",
		.category = "checksum",
		.begin_ns = begin_ns,
		.end_ns = end_ns,
	};

	st_trace_text(&e, "of", st_op_name(p->ops[i].kind));
	add_names(t, &p->ops[i], &e);
	st_trace_put(t->file, &e);
}

void st_run_trace_step(struct st_run_trace *t, const struct st_step_out *out, int64_t begin_ns,
		       int64_t end_ns)
{
	const struct st_step_lanes *l = &out->lanes;
	struct st_trace_event e = {
		.kind = ST_TRACE_SLICE,
		.row = ROW_STEP,
		.name = "step",
		.category = "step",
		.begin_ns = begin_ns,
		.end_ns = end_ns,
	};

	st_trace_uint(&e, "step", out->step);
	st_trace_real(&e, "loss", out->loss);
	st_trace_uint(&e, "clipped", out->clip_factor != 1.0);
	st_trace_uint(&e, "rolled_back", out->rolled_back);
	st_trace_real(&e, "compute_s", (double)l->compute_ns * 1e-9);
	if (t->plan->cfg.copies) {
		st_trace_real(&e, "h2d_s", (double)l->h2d_ns * 1e-9);
		st_trace_real(&e, "d2h_s", (double)l->d2h_ns * 1e-9);
		st_trace_real(&e, "optimizer_s", (double)l->optimizer_ns * 1e-9);
	}
	st_trace_put(t->file, &e);
}

/* ---- counters ------------------------------------------------------------------------------ */

static struct st_trace_event counter(const char *name, int64_t at_ns)
{
	return (struct st_trace_event){
		.kind = ST_TRACE_COUNTER,
		.name = name,
		.category = "counter",
		.begin_ns = at_ns,
	};
}

void st_run_trace_io(struct st_run_trace *t, const struct st_io_stats *read,
		     const struct st_io_stats *write, const unsigned in_flight[2])
{
	struct st_trace_event rate, depth;
	int64_t now_ns = st_now_ns();
	double ns = (double)(now_ns - t->io_ns);

	if (now_ns - t->io_ns < IO_NS)
		return;
	/* What was completed since the last sample; a rate holds from then on, until now. */
	rate = counter("GB/s", t->io_ns);
	st_trace_real(&rate, "read", (double)(read->bytes - t->io_bytes[0]) / ns);
	st_trace_real(&rate, "write", (double)(write->bytes - t->io_bytes[1]) / ns);
	st_trace_put(t->file, &rate);
	depth = counter("requests in flight", now_ns);
	st_trace_uint(&depth, "read", in_flight[0]);
	st_trace_uint(&depth, "write", in_flight[1]);
	st_trace_put(t->file, &depth);
	t->io_ns = now_ns;
	t->io_bytes[0] = read->bytes;
	t->io_bytes[1] = write->bytes;
}

void st_run_trace_pools(struct st_run_trace *t, const uint64_t held_bytes[ST_POOL_N])
{
	static const char *const names[ST_ARENA_N] = { "device bytes", "host bytes" };
	int64_t now_ns = st_now_ns();

	if (t->has_held &&
	    (now_ns - t->pools_ns < POOLS_NS || !memcmp(held_bytes, t->held, sizeof(t->held))))
		return;
	for (unsigned a = 0; a < ST_ARENA_N; a++) {
		struct st_trace_event e = counter(names[a], now_ns);

		if (!t->plan->arena_bytes[a])
			continue;
		st_trace_uint(&e, "resident", t->plan->resident_bytes[a]);
		for (unsigned p = 0; p < ST_POOL_N; p++)
			if (t->plan->places[p].arena == a && t->plan->places[p].bytes)
				st_trace_uint(&e, st_pool_name(p), held_bytes[p]);
		st_trace_put(t->file, &e);
	}
	memcpy(t->held, held_bytes, sizeof(t->held));
	t->pools_ns = now_ns;
	t->has_held = true;
}
