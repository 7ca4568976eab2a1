/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offload/compile.c - from a plan to the operations of one program, in serial order.
 *
 * Reads are emitted right before their first use: that is where they must be at the latest. How
 * much earlier they run is the executor's affair, as far as the pools allow.
 *
 * Where the device's memory is not the host's (`copies`), stages compute with copies in the
 * device's pools, or with what is at home there; NVMe, optimizer and export work on the host, with
 * staged copies of what is at home on the device. A unit is copied in behind a pending update, and
 * before one inside backward. A tile is updated on the device where parameters, states and
 * gradient are all there and the device can.
 */
#include "offload/plan.h"

#include <errno.h>
#include <stdlib.h>

struct emit {
	const struct st_plan *plan;
	const struct st_layout *l;
	const struct st_model *m;
	struct st_builder *b;
	uint32_t gate;
	unsigned n_mb;
	const struct st_variant_desc *v;
	bool is_speculative; /* the operations that are being emitted */
	uint32_t *param;  /* [n_units] claim of a unit that stages compute with, or ST_NO_CLAIM */
	uint32_t *staged; /* [n_units] ... of one that was read: `param`, if nothing is copied */
	uint32_t *accum;  /* [n_units] claim of its gradient sum */
	uint32_t *next_tile; /* [n_units] the first tile whose update is still due */
	uint32_t *act;       /* [n_stages * n_mb] output of a stage */
	uint32_t *saved;     /* [n_stages * n_mb] kept from forward to backward, or ST_NO_CLAIM */
	uint32_t *grad;      /* [n_mb] gradient of the latest stage's input */
	uint32_t *act_rest;  /* [n_stages * n_mb] `act`, where it rests on the host */
	uint32_t *batch;     /* [n_mb] tokens and targets on the device */
	uint32_t table;      /* the rows that were looked up ahead, or ST_NO_CLAIM */
};

/* ---- resources ----------------------------------------------------------------------------- */

static uint32_t r_param(const struct st_layout *l, uint32_t unit)
{
	return unit;
}

static uint32_t r_state(const struct st_layout *l, uint32_t tile)
{
	return l->n_units + tile;
}

static uint32_t r_rest(const struct st_layout *l, uint32_t tile)
{
	return l->n_units + l->n_tiles + tile;
}

enum { R_LEAVES, R_PENDING, R_ROUND, R_COUNT };

static uint32_t r_one(const struct st_layout *l, unsigned which)
{
	return l->n_units + 2 * l->n_tiles + which;
}

uint32_t st_plan_resources(const struct st_layout *l)
{
	return r_one(l, R_COUNT);
}

/* ---- where things are ---------------------------------------------------------------------- */

static bool param_on_nvme(const struct emit *e, uint32_t unit)
{
	return e->plan->on_nvme[e->l->unit_first_tile[unit]] & ST_ON_NVME_PARAM;
}

static bool state_on_nvme(const struct emit *e, uint32_t tile)
{
	return e->plan->on_nvme[tile] & ST_ON_NVME_STATE;
}

static bool grad_on_nvme(const struct emit *e, uint32_t tile)
{
	return e->plan->on_nvme[tile] & ST_ON_NVME_GRAD;
}

static uint64_t tile_off(const struct emit *e, uint32_t tile)
{
	return e->l->tiles[tile].first_elem * st_dtype_bytes(e->l->dtype);
}

static struct st_addr param_tile_addr(const struct emit *e, uint32_t tile)
{
	struct st_addr a = e->plan->param_addr[e->l->tiles[tile].unit];

	a.off_bytes += tile_off(e, tile);
	return a;
}

static uint32_t add(struct emit *e, enum st_op_kind kind, uint32_t unit, uint32_t tile,
		    uint64_t bytes)
{
	uint32_t op = st_builder_op(e->b, kind, unit, tile, ST_NONE, ST_NONE);

	st_builder_last(e->b)->bytes = bytes;
	st_builder_last(e->b)->is_speculative = e->is_speculative;
	return op;
}

/* The latest operation works on the host beside the device, if these are two. */
static void on_host(struct emit *e)
{
	if (e->plan->cfg.copies)
		st_builder_last(e->b)->lane = ST_LANE_OPTIMIZER;
}

/* ---- places ---------------------------------------------------------------------------------- */

struct place {              /* memory in a claim, or at home, where it comes with its resource */
	uint32_t claim;     /* or ST_NO_CLAIM */
	uint64_t off_bytes; /* in the claim */
	struct st_addr home;
	uint64_t bytes;
	uint32_t resource;
	uint64_t lo, hi; /* of the resource */
};

static struct place claimed(uint32_t claim, uint64_t off_bytes, uint64_t bytes)
{
	return (struct place){ .claim = claim, .off_bytes = off_bytes, .bytes = bytes };
}

static struct place new_claim(struct emit *e, enum st_pool pool, uint64_t bytes)
{
	return claimed(st_builder_claim(e->b, pool, bytes), 0, bytes);
}

static struct place param_home(const struct emit *e, uint32_t tile)
{
	uint64_t bytes = st_tile_param_bytes(e->l, tile), lo = tile_off(e, tile);

	return (struct place){ .claim = ST_NO_CLAIM,
			       .home = param_tile_addr(e, tile),
			       .bytes = bytes,
			       .resource = r_param(e->l, e->l->tiles[tile].unit),
			       .lo = lo,
			       .hi = lo + bytes };
}

static struct place unit_home(const struct emit *e, uint32_t unit)
{
	return (struct place){ .claim = ST_NO_CLAIM,
			       .home = e->plan->param_addr[unit],
			       .bytes = st_unit_param_bytes(e->l, unit),
			       .resource = r_param(e->l, unit) };
}

static struct place state_home(const struct emit *e, uint32_t tile)
{
	return (struct place){ .claim = ST_NO_CLAIM,
			       .home = e->plan->state_addr[tile],
			       .bytes = st_tile_state_bytes(e->l, tile),
			       .resource = r_state(e->l, tile) };
}

static struct place rest_home(const struct emit *e, uint32_t tile)
{
	return (struct place){ .claim = ST_NO_CLAIM,
			       .home = e->plan->rest_addr[tile],
			       .bytes = st_tile_grad_bytes(e->l, tile),
			       .resource = r_rest(e->l, tile) };
}

/* As operand `role` of the latest operation. */
static void use(struct emit *e, enum st_role role, const struct place *at, bool is_write)
{
	if (at->claim != ST_NO_CLAIM) {
		st_builder_use(e->b, role, at->claim, at->off_bytes, at->bytes, is_write);
	} else {
		st_builder_use_fixed(e->b, role, at->home, at->bytes, is_write);
		st_builder_touch(e->b, at->resource, at->lo, at->hi, is_write);
	}
}

static void copy(struct emit *e, enum st_op_kind kind, uint32_t unit, uint32_t tile,
		 const struct place *from, const struct place *to)
{
	add(e, kind, unit, tile, from->bytes);
	use(e, ST_ROLE_FROM, from, false);
	use(e, ST_ROLE_TO, to, true);
}

/* ---- parameters ------------------------------------------------------------------------------ */

static uint32_t claim_staged(struct emit *e, uint32_t unit)
{
	return st_builder_claim(e->b, e->plan->cfg.copies ? ST_POOL_STAGE : ST_POOL_PARAM,
				st_unit_param_bytes(e->l, unit));
}

static void forget(struct emit *e, uint32_t unit)
{
	e->param[unit] = e->staged[unit] = ST_NO_CLAIM;
}

/* A unit's parameters as operand `role` of the latest operation: in a buffer, or at home. */
static void use_param(struct emit *e, unsigned role, uint32_t unit)
{
	struct place at = unit_home(e, unit);

	if (e->param[unit] != ST_NO_CLAIM)
		at = claimed(e->param[unit], 0, at.bytes);
	use(e, role, &at, false);
}

/* Parameters of a unit are in host memory when the next operation runs, or at home on the device.
 */
static void need_param(struct emit *e, uint32_t unit)
{
	uint64_t bytes = st_unit_param_bytes(e->l, unit);

	if (!param_on_nvme(e, unit) || e->staged[unit] != ST_NO_CLAIM)
		return;
	e->staged[unit] = claim_staged(e, unit);
	add(e, ST_OP_READ_PARAM, unit, ST_NONE, bytes);
	st_builder_use(e->b, ST_ROLE_PARAM0, e->staged[unit], 0, bytes, true);
	st_builder_touch(e->b, r_param(e->l, unit), 0, 0, false);
}

/* What is in memory of a unit is where stages can compute with it. */
static void need_on_device(struct emit *e, uint32_t unit)
{
	struct place from = unit_home(e, unit), to;

	if (!e->plan->cfg.copies || st_plan_has_param(e->plan, unit, ST_ARENA_DEVICE) ||
	    e->param[unit] != ST_NO_CLAIM)
		return;
	if (param_on_nvme(e, unit))
		from = claimed(e->staged[unit], 0, from.bytes);
	to = new_claim(e, ST_POOL_PARAM, from.bytes);
	e->param[unit] = to.claim;
	copy(e, ST_OP_COPY_IN, unit, ST_NONE, &from, &to);
}

/* ---- a tile's operands on the host ----------------------------------------------------------- */

/* is_read: what is at home elsewhere is wanted; else only room for what it will be. */
static struct place host_param(struct emit *e, uint32_t tile, bool is_read)
{
	uint32_t unit = e->l->tiles[tile].unit;
	struct place home, at;

	if (param_on_nvme(e, unit))
		return claimed(e->staged[unit], tile_off(e, tile), st_tile_param_bytes(e->l, tile));
	home = param_home(e, tile);
	if (!e->plan->cfg.copies || home.home.arena == ST_ARENA_HOST)
		return home;
	at = new_claim(e, ST_POOL_STAGE, home.bytes);
	if (is_read)
		copy(e, ST_OP_COPY_OUT, unit, tile, &home, &at);
	return at;
}

static struct place host_state(struct emit *e, uint32_t tile, bool is_read)
{
	struct place home = state_home(e, tile), at;
	uint32_t unit = e->l->tiles[tile].unit;

	if (state_on_nvme(e, tile)) {
		at = new_claim(e, ST_POOL_STATE, home.bytes);
		if (!is_read)
			return at;
		add(e, ST_OP_READ_STATE, unit, tile, home.bytes);
		st_builder_use(e->b, ST_ROLE_STATE, at.claim, 0, at.bytes, true);
		st_builder_touch(e->b, home.resource, 0, 0, false);
		return at;
	}
	if (!e->plan->cfg.copies || home.home.arena == ST_ARENA_HOST)
		return home;
	at = new_claim(e, ST_POOL_STATE, home.bytes);
	if (is_read)
		copy(e, ST_OP_COPY_OUT, unit, tile, &home, &at);
	return at;
}

/* What was changed on the host goes to its home on the device. */
static void bring_home(struct emit *e, uint32_t tile, const struct place *param,
		       const struct place *state)
{
	uint32_t unit = e->l->tiles[tile].unit;
	struct place home;

	if (param->claim != ST_NO_CLAIM && !param_on_nvme(e, unit)) {
		home = param_home(e, tile);
		copy(e, ST_OP_COPY_IN, unit, tile, param, &home);
		st_builder_after(e->b, e->gate);
	}
	if (state->claim != ST_NO_CLAIM && !state_on_nvme(e, tile)) {
		home = state_home(e, tile);
		copy(e, ST_OP_COPY_IN, unit, tile, state, &home);
		st_builder_after(e->b, e->gate);
	}
}

/* ---- update -------------------------------------------------------------------------------- */

static void write_param_tile(struct emit *e, uint32_t tile, const struct place *at)
{
	const struct st_tile *t = &e->l->tiles[tile];
	uint64_t lo = tile_off(e, tile);

	add(e, ST_OP_WRITE_PARAM, t->unit, tile, at->bytes);
	use(e, ST_ROLE_PARAM0, at, false);
	if (at->claim != ST_NO_CLAIM)
		st_builder_touch(e->b, r_param(e->l, t->unit), lo, lo + at->bytes,
				 param_on_nvme(e, t->unit));
	st_builder_touch(e->b, r_one(e->l, R_ROUND), 0, 0, false);
	st_builder_after(e->b, e->gate);
}

static void write_state_tile(struct emit *e, uint32_t tile, const struct place *at)
{
	add(e, ST_OP_WRITE_STATE, e->l->tiles[tile].unit, tile, at->bytes);
	use(e, ST_ROLE_STATE, at, false);
	if (at->claim != ST_NO_CLAIM)
		st_builder_touch(e->b, r_state(e->l, tile), 0, 0, state_on_nvme(e, tile));
	st_builder_touch(e->b, r_one(e->l, R_ROUND), 0, 0, false);
	st_builder_after(e->b, e->gate);
}

static void write_back(struct emit *e, uint32_t tile, const struct place *param,
		       const struct place *state)
{
	if (param_on_nvme(e, e->l->tiles[tile].unit) || e->plan->cfg.commits)
		write_param_tile(e, tile, param);
	if (state_on_nvme(e, tile) || e->plan->cfg.commits)
		write_state_tile(e, tile, state);
}

/* With fp16 the master weight is in the state as a whole, and what an update makes of it is all
 * that the parameter is. */
static bool makes_param(const struct emit *e)
{
	return e->l->param_array == STRATA_ARRAY_LOW;
}

/* The optimizer on one tile. */
static void update_tile(struct emit *e, uint32_t tile, const struct place *grad, bool is_pending)
{
	const struct st_tile *t = &e->l->tiles[tile];
	bool is_there = st_plan_updates_on_device(e->plan, tile);
	struct place param, state;

	e->is_speculative = !is_pending && e->plan->mode[t->unit] == ST_UPDATE_SPECULATIVE;
	state = is_there ? state_home(e, tile) : host_state(e, tile, true);
	param = is_there ? param_home(e, tile) : host_param(e, tile, !makes_param(e));
	add(e, ST_OP_UPDATE, t->unit, tile, 0);
	if (!is_there)
		on_host(e);
	st_builder_last(e->b)->is_pending = is_pending;
	use(e, ST_ROLE_PARAM0, &param, true);
	use(e, ST_ROLE_STATE, &state, true);
	use(e, ST_ROLE_GRAD, grad, false);
	if (is_pending)
		st_builder_touch(e->b, r_one(e->l, R_PENDING), 0, 0, false);
	st_builder_after(e->b, e->gate);
	if (!is_there) {
		bring_home(e, tile, &param, &state);
	} else if (e->plan->cfg.commits) {
		param = host_param(e, tile, true);
		state = host_state(e, tile, true);
	}
	write_back(e, tile, &param, &state);
	e->is_speculative = false;
}

/* The step before left an update of this unit. */
static bool is_due(const struct emit *e, uint32_t unit)
{
	enum st_update mode = e->plan->mode[unit];

	return (mode == ST_UPDATE_DEFERRED && e->v->due != ST_DUE_NONE) ||
	       (mode == ST_UPDATE_SPECULATIVE && e->v->due == ST_DUE_ALL);
}

static bool is_updated(const struct emit *e, uint32_t unit)
{
	return e->next_tile[unit] == e->l->unit_first_tile[unit + 1];
}

/* Apply the update that the step before left for a unit's tiles below `end`. */
static void apply_pending(struct emit *e, uint32_t unit, uint32_t end)
{
	for (; e->next_tile[unit] < end; e->next_tile[unit]++) {
		uint32_t t = e->next_tile[unit];
		struct place grad = rest_home(e, t);

		if (grad_on_nvme(e, t)) {
			grad = new_claim(e, ST_POOL_REST, grad.bytes);
			add(e, ST_OP_READ_GRAD, unit, t, grad.bytes);
			use(e, ST_ROLE_GRAD, &grad, true);
			st_builder_touch(e->b, r_rest(e->l, t), 0, 0, false);
		}
		update_tile(e, t, &grad, true);
	}
}

/* As need_param(), for a unit all of whose tiles are updated next: what that makes needs no
 * reading. */
static void need_param_for_update(struct emit *e, uint32_t unit)
{
	if (!param_on_nvme(e, unit) || e->staged[unit] != ST_NO_CLAIM)
		return;
	if (makes_param(e) && e->next_tile[unit] == e->l->unit_first_tile[unit] &&
	    !is_updated(e, unit))
		e->staged[unit] = claim_staged(e, unit);
	else
		need_param(e, unit);
}

/* Parameters of a unit in memory, its pending update applied. */
static void need_current(struct emit *e, uint32_t unit)
{
	need_param_for_update(e, unit);
	apply_pending(e, unit, e->l->unit_first_tile[unit + 1]);
}

static void commit(struct emit *e)
{
	add(e, ST_OP_COMMIT, ST_NONE, ST_NONE, 0);
	st_builder_touch(e->b, r_one(e->l, R_ROUND), 0, 0, true);
	st_builder_touch(e->b, r_one(e->l, R_PENDING), 0, 0,
			 false); /* the boundary that it names */
	st_builder_after(e->b, e->gate);
}

/* ---- gradients ------------------------------------------------------------------------------- */

static void touch_leaves(struct emit *e, uint32_t tile)
{
	const struct st_tile *t = &e->l->tiles[tile];

	st_builder_touch(e->b, r_one(e->l, R_LEAVES), t->first_leaf,
			 t->first_leaf + t->elems / STRATA_NUMERIC_TILE, true);
}

/*
 * Round a tile's gradient to `grad`. On another device: there, and behind the result the sums of
 * squares, which come to the host in any case, and the gradient with them where it is updated.
 */
static void reduce_tile(struct emit *e, uint32_t tile, const struct place *grad)
{
	const struct st_tile *t = &e->l->tiles[tile];
	bool comes_out = e->plan->cfg.copies && !st_plan_updates_on_device(e->plan, tile);
	struct place out = *grad, leaves = { 0 };

	if (e->plan->cfg.copies) {
		uint64_t out_bytes = comes_out ? grad->bytes : 0;

		leaves = new_claim(e, ST_POOL_ROUNDED,
				   out_bytes + t->elems / STRATA_NUMERIC_TILE * sizeof(double));
		if (comes_out)
			out = claimed(leaves.claim, 0, out_bytes);
		leaves.off_bytes = out_bytes;
		leaves.bytes -= out_bytes;
	}
	add(e, ST_OP_REDUCE, t->unit, tile, 0);
	st_builder_use(e->b, ST_ROLE_ACCUM0, e->accum[t->unit], t->first_elem * sizeof(float),
		       t->elems * sizeof(float), false);
	use(e, ST_ROLE_GRAD, &out, true);
	if (e->plan->cfg.copies) {
		use(e, ST_ROLE_LEAVES, &leaves, true);
		add(e, ST_OP_COPY_OUT, t->unit, tile, (comes_out ? grad->bytes : 0) + leaves.bytes);
		if (comes_out) {
			use(e, ST_ROLE_FROM, &out, false);
			use(e, ST_ROLE_TO, grad, true);
		}
		use(e, ST_ROLE_LEAVES, &leaves, false);
	}
	touch_leaves(e, tile);
}

/* Round a unit's gradient, and keep it where its update may be due after this step. Then update the
 * unit here and now, unless that has to wait. */
static void finish_gradient(struct emit *e, uint32_t unit)
{
	enum st_update mode = e->plan->mode[unit];
	bool keeps = mode != ST_UPDATE_IMMEDIATE;
	bool waits =
		mode == ST_UPDATE_DEFERRED || (mode == ST_UPDATE_SPECULATIVE && !e->v->speculates);

	for (uint32_t t = e->l->unit_first_tile[unit]; t < e->l->unit_first_tile[unit + 1]; t++) {
		bool is_at_home = keeps && !grad_on_nvme(e, t);
		struct place grad = rest_home(e, t);

		if (!is_at_home)
			grad = new_claim(e,
					 st_plan_updates_on_device(e->plan, t) ? ST_POOL_ROUNDED
									       : ST_POOL_REST,
					 grad.bytes);
		reduce_tile(e, t, &grad);
		if (keeps && !is_at_home) {
			add(e, ST_OP_WRITE_GRAD, unit, t, grad.bytes);
			use(e, ST_ROLE_GRAD, &grad, false);
			st_builder_touch(e->b, r_rest(e->l, t), 0, 0, true);
		}
		if (!waits) {
			need_param(e, unit);
			update_tile(e, t, &grad, false);
		}
	}
	e->accum[unit] = ST_NO_CLAIM;
}

/* ---- forward and backward ------------------------------------------------------------------ */

static void release_params(struct emit *e, unsigned stage)
{
	const struct st_stage_desc *s = &e->m->stages[stage];

	for (unsigned k = 0; k < s->n_units; k++)
		forget(e, s->units[k]);
}

/* Does a stage use rows of its table that are updated ahead of it? */
static bool looks_ahead(const struct emit *e, unsigned stage)
{
	return stage == 0 && e->plan->lookup.n_chunks && !is_updated(e, e->plan->lookup.unit);
}

static void need_stage_params(struct emit *e, unsigned stage)
{
	const struct st_stage_desc *s = &e->m->stages[stage];

	for (unsigned k = 0; k < s->n_units; k++)
		if (!looks_ahead(e, stage) || s->units[k] != e->plan->lookup.unit) {
			need_current(e, s->units[k]);
			need_on_device(e, s->units[k]);
		}
}

static void use_work(struct emit *e, enum st_pool pool, size_t bytes)
{
	struct place work;

	if (!bytes)
		return;
	work = new_claim(e, pool, bytes);
	use(e, ST_ROLE_WORK, &work, true);
}

/* Scratch of what works on the host: one fp32 number for each element of a tile. */
static void use_host_work(struct emit *e, uint32_t tile)
{
	use_work(e, e->plan->cfg.copies ? ST_POOL_STAGE : ST_POOL_WORK,
		 e->l->tiles[tile].elems * sizeof(float));
}

/* ---- look-ahead of the first stage's table --------------------------------------------------- */

#define LOOKUP_BUFFERS 2u /* one chunk is read while another one is updated */

/* The latest operation reads of the table, or stands for those that do. */
static void touch_table(struct emit *e)
{
	uint32_t unit = e->plan->lookup.unit;

	st_builder_touch(e->b, r_param(e->l, unit), 0, 0, false);
	for (uint32_t t = e->l->unit_first_tile[unit]; t < e->l->unit_first_tile[unit + 1]; t++) {
		st_builder_touch(e->b, r_state(e->l, t), 0, 0, false);
		st_builder_touch(e->b, r_rest(e->l, t), 0, 0, false);
	}
	st_builder_touch(e->b, r_one(e->l, R_PENDING), 0, 0, false);
}

/* What lives in memory of the table, as operands of the latest operation. */
static void use_table(struct emit *e)
{
	uint32_t unit = e->plan->lookup.unit;

	if (!param_on_nvme(e, unit))
		st_builder_use_fixed(e->b, ST_ROLE_PARAM1, e->plan->param_addr[unit],
				     st_unit_param_bytes(e->l, unit), false);
	for (uint32_t t = e->l->unit_first_tile[unit]; t < e->l->unit_first_tile[unit + 1]; t++) {
		if (!state_on_nvme(e, t))
			st_builder_use_fixed(e->b, ST_ROLE_STATE, e->plan->state_addr[t],
					     st_tile_state_bytes(e->l, t), false);
		if (!grad_on_nvme(e, t))
			st_builder_use_fixed(e->b, ST_ROLE_GRAD, e->plan->rest_addr[t],
					     st_tile_grad_bytes(e->l, t), false);
	}
}

/* An operation on a chunk, behind `before`; the first one of all waits for the table. */
static uint32_t add_rows(struct emit *e, enum st_op_kind kind, uint32_t chunk, uint32_t before)
{
	uint32_t op = add(e, kind, e->plan->lookup.unit, ST_NONE, 0);

	st_builder_last(e->b)->chunk = chunk;
	st_builder_last(e->b)->is_pending = true;
	st_builder_after(e->b, e->gate); /* nobody knows the batch before */
	if (before == ST_NONE)
		touch_table(e);
	else
		st_builder_after(e->b, before);
	return op;
}

/* The optimizer on a chunk's rows, from its buffer (ST_NO_CLAIM: all is in memory) to the table. */
static uint32_t update_rows(struct emit *e, uint32_t chunk, uint32_t buffer, uint32_t before)
{
	const struct st_lookup *l = &e->plan->lookup;
	uint64_t row_bytes = l->cols * st_dtype_bytes(e->l->dtype);
	uint32_t at = chunk * l->chunk_rows;
	uint32_t n = l->max_rows - at < l->chunk_rows ? l->max_rows - at : l->chunk_rows;
	uint32_t op = add_rows(e, ST_OP_UPDATE_ROWS, chunk, before);

	on_host(e);
	st_builder_use(e->b, ST_ROLE_PARAM0, e->table, at * row_bytes, n * row_bytes, true);
	if (buffer != ST_NO_CLAIM)
		st_builder_use(e->b, ST_ROLE_ROWS, buffer, 0, l->chunk_bytes, true);
	return op;
}

/*
 * The updated rows of this pass's tokens, in e->table. The first operation waits for what the
 * program before does to the table, and the others for it; updates follow each other, so the last
 * one ends it all, and what this program does to the table comes behind that one. (Each chunk
 * touching each tile would make as many edges as chunks times tiles.)
 */
static void look_ahead(struct emit *e)
{
	const struct st_lookup *l = &e->plan->lookup;
	uint32_t buffers[LOOKUP_BUFFERS] = { ST_NO_CLAIM, ST_NO_CLAIM };
	uint32_t first = ST_NONE, last = ST_NONE;

	struct place table = new_claim(e, e->plan->cfg.copies ? ST_POOL_STAGE : ST_POOL_PARAM,
				       l->max_rows * l->cols * st_dtype_bytes(e->l->dtype));

	e->table = table.claim;
	for (uint32_t c = 0; c < l->n_chunks; c++) {
		uint32_t *buffer = &buffers[c % LOOKUP_BUFFERS];

		if (l->chunk_bytes) {
			uint32_t op;

			if (*buffer == ST_NO_CLAIM)
				*buffer = st_builder_claim(e->b, ST_POOL_STATE, l->chunk_bytes);
			op = add_rows(e, ST_OP_READ_ROWS, c, first);
			st_builder_last(e->b)->bytes = l->chunk_bytes;
			st_builder_use(e->b, ST_ROLE_ROWS, *buffer, 0, l->chunk_bytes, true);
			first = first == ST_NONE ? op : first;
		}
		last = update_rows(e, c, *buffer, last == ST_NONE ? first : last);
		first = first == ST_NONE ? last : first;
	}
	if (last != first)
		touch_table(e);
	use_table(e);
	if (e->plan->cfg.copies) {
		struct place there = new_claim(e, ST_POOL_PARAM, table.bytes);

		copy(e, ST_OP_COPY_IN, l->unit, ST_NONE, &table, &there);
		e->table = there.claim;
	}
}

/* ---- a micro-batch --------------------------------------------------------------------------- */

/* Tokens, targets, and the tokens as numbers of rows that were looked up ahead, one part each. */
static uint64_t batch_part_bytes(const struct emit *e)
{
	return (e->m->batch * e->m->seq * sizeof(int32_t) + 63) & ~(uint64_t)63;
}

static void use_batch(struct emit *e, enum st_role role, unsigned mb, unsigned part, bool is_write)
{
	st_builder_use(e->b, role, e->batch[mb], part * batch_part_bytes(e),
		       e->m->batch * e->m->seq * sizeof(int32_t), is_write);
}

static void need_batch(struct emit *e, unsigned mb)
{
	bool has_rows = e->table != ST_NO_CLAIM;
	unsigned parts = has_rows ? 3 : 2;

	if (!e->plan->cfg.copies || e->batch[mb] != ST_NO_CLAIM)
		return;
	e->batch[mb] = st_builder_claim(e->b, ST_POOL_ACT, parts * batch_part_bytes(e));
	st_builder_op(e->b, ST_OP_COPY_IN, ST_NONE, ST_NONE, ST_NONE, mb);
	st_builder_last(e->b)->bytes = parts * e->m->batch * e->m->seq * sizeof(int32_t);
	use_batch(e, ST_ROLE_TOKENS, mb, 0, true);
	use_batch(e, ST_ROLE_TARGETS, mb, 1, true);
	if (has_rows)
		use_batch(e, ST_ROLE_ROW_NUMBERS, mb, 2, true);
	st_builder_after(e->b, e->gate);
}

/* What the first stage and the last take of a micro-batch, and what the last one makes of it.
 * @return the losses, or ST_NO_CLAIM */
static uint32_t use_ends(struct emit *e, unsigned stage, unsigned mb)
{
	struct place loss;

	if (!e->plan->cfg.copies)
		return ST_NO_CLAIM;
	if (stage == 0)
		use_batch(e, ST_ROLE_TOKENS, mb, st_builder_last(e->b)->is_lookup ? 2 : 0, false);
	if (stage + 1 < e->m->n_stages)
		return ST_NO_CLAIM;
	use_batch(e, ST_ROLE_TARGETS, mb, 1, false);
	loss = new_claim(e, ST_POOL_ACT, e->m->batch * e->m->seq * sizeof(float));
	use(e, ST_ROLE_LOSS, &loss, true);
	return loss.claim;
}

/* The norm comes behind the losses as it does behind the leaves. */
static void bring_loss(struct emit *e, unsigned mb, uint32_t loss)
{
	uint64_t bytes = e->m->batch * e->m->seq * sizeof(float), at = e->l->n_leaves + mb;

	if (loss == ST_NO_CLAIM)
		return;
	st_builder_op(e->b, ST_OP_COPY_OUT, ST_NONE, ST_NONE, ST_NONE, mb);
	st_builder_last(e->b)->bytes = bytes;
	st_builder_use(e->b, ST_ROLE_LOSS, loss, 0, bytes, false);
	st_builder_touch(e->b, r_one(e->l, R_LEAVES), at, at + 1, true);
}

/* A stage's input rests on the host from forward to backward; not the last one's, which is next. */
static void rest_act(struct emit *e, unsigned stage, unsigned mb)
{
	size_t i = (size_t)stage * e->n_mb + mb;
	struct place from, to;

	if (!e->plan->cfg.copies || !e->plan->cfg.acts_on_host || !e->v->is_step ||
	    stage + 2 >= e->m->n_stages)
		return;
	from = claimed(e->act[i], 0, e->m->stages[stage].out_bytes);
	to = new_claim(e, ST_POOL_ACT_REST, from.bytes);
	copy(e, ST_OP_COPY_OUT, ST_NONE, ST_NONE, &from, &to);
	st_builder_last(e->b)->stage = stage;
	st_builder_last(e->b)->mb = mb;
	e->act_rest[i] = to.claim;
}

static void wake_act(struct emit *e, unsigned stage, unsigned mb)
{
	size_t i = (size_t)stage * e->n_mb + mb;
	struct place from, to;

	if (e->act_rest[i] == ST_NO_CLAIM)
		return;
	from = claimed(e->act_rest[i], 0, e->m->stages[stage].out_bytes);
	to = new_claim(e, ST_POOL_ACT, from.bytes);
	copy(e, ST_OP_COPY_IN, ST_NONE, ST_NONE, &from, &to);
	st_builder_last(e->b)->stage = stage;
	st_builder_last(e->b)->mb = mb;
	e->act[i] = to.claim;
}

/* ---- stages ------------------------------------------------------------------------------- */

static void use_stage_param(struct emit *e, unsigned stage, unsigned k)
{
	const struct st_lookup *l = &e->plan->lookup;
	uint32_t unit = e->m->stages[stage].units[k];

	if (stage == 0 && k == 0 && e->table != ST_NO_CLAIM) {
		st_builder_last(e->b)->is_lookup = true;
		st_builder_use(e->b, ST_ROLE_PARAM0, e->table, 0,
			       l->max_rows * l->cols * st_dtype_bytes(e->l->dtype), false);
	} else {
		use_param(e, ST_ROLE_PARAM0 + k, unit);
	}
}

/* Forward of one stage and micro-batch. y: where the output goes. */
static uint32_t forward(struct emit *e, unsigned stage, unsigned mb, uint32_t y, bool is_recompute)
{
	const struct st_stage_desc *s = &e->m->stages[stage];
	uint32_t saved = ST_NO_CLAIM, loss;

	if (stage == 0)
		need_batch(e, mb);
	st_builder_op(e->b, ST_OP_FORWARD, ST_NONE, ST_NONE, stage, mb);
	st_builder_last(e->b)->flops = s->fwd_flops;
	st_builder_last(e->b)->is_recompute = is_recompute;
	for (unsigned k = 0; k < s->n_units; k++)
		use_stage_param(e, stage, k);
	if (stage)
		st_builder_use(e->b, ST_ROLE_X, e->act[(stage - 1) * e->n_mb + mb], 0,
			       e->m->stages[stage - 1].out_bytes, false);
	if (y != ST_NO_CLAIM)
		st_builder_use(e->b, ST_ROLE_Y, y, 0, s->out_bytes, true);
	if (s->saved_bytes) {
		saved = st_builder_claim(e->b, ST_POOL_SAVED, s->saved_bytes);
		st_builder_use(e->b, ST_ROLE_SAVED, saved, 0, s->saved_bytes, true);
	}
	use_work(e, ST_POOL_WORK, s->fwd_work_bytes);
	loss = use_ends(e, stage, mb);
	st_builder_after(e->b, e->gate);
	bring_loss(e, mb, loss);
	return saved;
}

static void emit_forward(struct emit *e, unsigned stage, unsigned mb_lo, unsigned mb_hi)
{
	const struct st_stage_desc *s = &e->m->stages[stage];

	if (looks_ahead(e, stage))
		look_ahead(e);
	need_stage_params(e, stage);
	for (unsigned mb = mb_lo; mb < mb_hi; mb++) {
		uint32_t y = s->out_bytes ? st_builder_claim(e->b, ST_POOL_ACT, s->out_bytes)
					  : ST_NO_CLAIM;
		uint32_t saved = forward(e, stage, mb, y, false);

		e->act[stage * e->n_mb + mb] = y;
		e->saved[stage * e->n_mb + mb] = e->plan->cfg.recompute ? ST_NO_CLAIM : saved;
		rest_act(e, stage, mb);
	}
	release_params(e, stage);
	e->table = ST_NO_CLAIM;
}

static void backward(struct emit *e, unsigned stage, unsigned mb)
{
	const struct st_stage_desc *s = &e->m->stages[stage];
	bool is_last = stage + 1 == e->m->n_stages;
	uint32_t dx = ST_NO_CLAIM, saved = e->saved[stage * e->n_mb + mb], loss;
	size_t x_bytes = stage ? e->m->stages[stage - 1].out_bytes : 0;

	if (stage)
		wake_act(e, stage - 1, mb);
	if (stage)
		dx = st_builder_claim(e->b, ST_POOL_ACT, x_bytes);
	if (!is_last && s->saved_bytes && saved == ST_NO_CLAIM) {
		/* The output is not needed again; it goes where the input's gradient will be. */
		uint32_t y = dx != ST_NO_CLAIM && x_bytes >= s->out_bytes
				     ? dx
				     : st_builder_claim(e->b, ST_POOL_ACT, s->out_bytes);

		saved = forward(e, stage, mb, y, true);
	}
	st_builder_op(e->b, ST_OP_BACKWARD, ST_NONE, ST_NONE, stage, mb);
	st_builder_last(e->b)->flops = s->bwd_flops;
	for (unsigned k = 0; k < s->n_units; k++) {
		uint32_t u = s->units[k];

		if (s->bwd_needs_params)
			use_param(e, ST_ROLE_PARAM0 + k, u);
		if (e->accum[u] == ST_NO_CLAIM) {
			e->accum[u] =
				st_builder_claim(e->b, ST_POOL_ACCUM, st_unit_accum_bytes(e->l, u));
			st_builder_last(e->b)->zeroes[k] = true;
		}
		st_builder_use(e->b, ST_ROLE_ACCUM0 + k, e->accum[u], 0,
			       st_unit_accum_bytes(e->l, u), true);
	}
	if (stage)
		st_builder_use(e->b, ST_ROLE_X, e->act[(stage - 1) * e->n_mb + mb], 0, x_bytes,
			       false);
	if (saved != ST_NO_CLAIM)
		st_builder_use(e->b, ST_ROLE_SAVED, saved, 0, s->saved_bytes, false);
	if (!is_last)
		st_builder_use(e->b, ST_ROLE_DY, e->grad[mb], 0, s->out_bytes, false);
	if (stage)
		st_builder_use(e->b, ST_ROLE_DX, dx, 0, x_bytes, true);
	use_work(e, ST_POOL_WORK, s->bwd_work_bytes);
	loss = use_ends(e, stage, mb);
	st_builder_after(e->b, e->gate);
	bring_loss(e, mb, loss);
	e->grad[mb] = dx;
}

static bool is_first_stage_of(const struct emit *e, unsigned stage, uint32_t unit)
{
	for (unsigned s = 0; s < stage; s++)
		for (unsigned k = 0; k < e->m->stages[s].n_units; k++)
			if (e->m->stages[s].units[k] == unit)
				return false;
	return true;
}

static void emit_backward(struct emit *e, unsigned stage, unsigned mb_lo, unsigned mb_hi)
{
	const struct st_stage_desc *s = &e->m->stages[stage];
	bool runs_again = e->plan->cfg.recompute && s->saved_bytes; /* forward, inside backward */

	if (stage + 1 == e->m->n_stages) /* its forward is inside its backward */
		need_stage_params(e, stage);
	else if (s->bwd_needs_params || runs_again)
		for (unsigned k = 0; k < s->n_units; k++) {
			need_param(e, s->units[k]);
			need_on_device(e, s->units[k]);
		}
	for (unsigned mb = mb_lo; mb < mb_hi; mb++)
		backward(e, stage, mb);
	if (mb_hi == e->n_mb)
		for (unsigned k = 0; k < s->n_units; k++)
			if (is_first_stage_of(e, stage, s->units[k]))
				finish_gradient(e, s->units[k]);
	release_params(e, stage);
}

/* ---- variants ------------------------------------------------------------------------------ */

/*
 * The first stage may share a unit with a later one (tied embeddings). Its backward then waits
 * until the later one has done so for all micro-batches: the sum is the same whatever their order.
 */
static bool shares_units(const struct emit *e)
{
	for (unsigned k = 0; k < e->m->stages[0].n_units; k++)
		for (unsigned s = 1; s < e->m->n_stages; s++)
			for (unsigned j = 0; j < e->m->stages[s].n_units; j++)
				if (e->m->stages[s].units[j] == e->m->stages[0].units[k])
					return true;
	return false;
}

/*
 * A table that was looked up ahead is updated by the way, a share behind each block, so that its
 * reads and writes do not come all at once between the last block and the loss.
 */
static void spread_update(struct emit *e, unsigned stage)
{
	const struct st_lookup *l = &e->plan->lookup;
	uint32_t first = e->l->unit_first_tile[l->unit];
	uint32_t n = e->l->unit_first_tile[l->unit + 1] - first;
	unsigned shares = e->m->n_stages - 2; /* the last one before the loss */

	if (!e->plan->spreads_update || is_updated(e, l->unit) || !stage)
		return;
	need_param_for_update(e, l->unit);
	apply_pending(e, l->unit, first + (uint32_t)((uint64_t)n * stage / shares));
}

/* Before the loss, and so before the commit, nothing is pending any more: also a table that was
 * looked up ahead and that the last stage does not use. */
static void catch_up(struct emit *e)
{
	const struct st_stage_desc *last = &e->m->stages[e->m->n_stages - 1];

	for (uint32_t u = 0; u < e->l->n_units; u++) {
		bool is_next = false;

		for (unsigned k = 0; k < last->n_units; k++)
			is_next |= last->units[k] == u;
		if (is_next || is_updated(e, u))
			continue;
		need_current(e, u);
		forget(e, u);
	}
}

static void emit_step(struct emit *e)
{
	unsigned n = e->m->n_stages, block = e->plan->cfg.order == ST_ORDER_VERTICAL ? e->n_mb : 1;
	unsigned last = shares_units(e) ? 1 : 0; /* stages below it come at the end */

	for (unsigned lo = 0; lo < e->n_mb; lo += block) {
		for (unsigned s = 0; s + 1 < n; s++) {
			emit_forward(e, s, lo, lo + block);
			if (s + 2 < n)
				spread_update(e, s);
		}
		catch_up(e);
		/* Nothing is due any more once the loss has its parameters; what backward updates
		 * belongs to the next commit. */
		need_stage_params(e, n - 1);
		if (lo == 0 && e->plan->has_pending && e->plan->cfg.commits)
			commit(e);
		for (unsigned s = n; s-- > last;)
			emit_backward(e, s, lo, lo + block);
	}
	if (last)
		emit_backward(e, 0, 0, e->n_mb);
	add(e, ST_OP_NORM, ST_NONE, ST_NONE, 0);
	on_host(e);
	st_builder_touch(e->b, r_one(e->l, R_LEAVES), 0, 0, false);
	st_builder_touch(e->b, r_one(e->l, R_PENDING), 0, 0, true);
	if (!e->plan->has_pending && e->plan->cfg.commits)
		commit(e);
}

static void emit_flush(struct emit *e)
{
	for (uint32_t u = 0; u < e->l->n_units; u++) {
		if (!is_updated(e, u)) {
			need_current(e, u);
			forget(e, u);
		}
		for (uint32_t t = e->l->unit_first_tile[u];
		     e->v->saves && t < e->l->unit_first_tile[u + 1]; t++) {
			struct place at;

			if (!param_on_nvme(e, u) && !e->plan->cfg.commits) {
				at = host_param(e, t, true);
				write_param_tile(e, t, &at);
			}
			if (!state_on_nvme(e, t) && !e->plan->cfg.commits) {
				at = host_state(e, t, true);
				write_state_tile(e, t, &at);
			}
		}
	}
	if (e->v->saves || e->plan->cfg.commits)
		commit(e);
}

/* The store holds all of the state once what is at home there was written. */
static bool stores_all(const struct emit *e)
{
	for (uint32_t t = 0; t < e->l->n_tiles; t++)
		if (~e->plan->on_nvme[t] & (ST_ON_NVME_PARAM | ST_ON_NVME_STATE))
			return false;
	return true;
}

static void emit_init(struct emit *e)
{
	for (uint32_t t = 0; t < e->l->n_tiles; t++) {
		uint32_t u = e->l->tiles[t].unit;
		struct place state = host_state(e, t, false), param;

		if (param_on_nvme(e, u) && t == e->l->unit_first_tile[u])
			e->staged[u] = claim_staged(e, u);
		param = host_param(e, t, false);
		add(e, ST_OP_FILL, u, t, 0);
		on_host(e);
		use(e, ST_ROLE_PARAM0, &param, true);
		use(e, ST_ROLE_STATE, &state, true);
		use_host_work(e, t);
		st_builder_after(e->b, e->gate);
		bring_home(e, t, &param, &state);
		write_back(e, t, &param, &state);
	}
	if (stores_all(e) || e->plan->cfg.commits) /* what a commit names can be resumed */
		commit(e);
}

/* A unit's parameters, or with a tile its state, from the store to its home in memory. */
static void load(struct emit *e, enum st_op_kind kind, uint32_t unit, uint32_t tile,
		 const struct place *home)
{
	enum st_role role = kind == ST_OP_READ_STATE ? ST_ROLE_STATE : ST_ROLE_PARAM0;
	struct place at = *home;

	if (e->plan->cfg.copies && home->home.arena == ST_ARENA_DEVICE)
		at = new_claim(e, kind == ST_OP_READ_STATE ? ST_POOL_STATE : ST_POOL_STAGE,
			       home->bytes);
	add(e, kind, unit, tile, home->bytes);
	use(e, role, &at, true);
	if (at.claim != ST_NO_CLAIM)
		st_builder_touch(e->b, home->resource, 0, 0, false);
	st_builder_after(e->b, e->gate);
	if (at.claim != ST_NO_CLAIM)
		copy(e, ST_OP_COPY_IN, unit, tile, &at, home);
}

static void emit_load(struct emit *e)
{
	for (uint32_t u = 0; u < e->l->n_units; u++) {
		struct place home = unit_home(e, u);

		if (!param_on_nvme(e, u))
			load(e, ST_OP_READ_PARAM, u, ST_NONE, &home);
		for (uint32_t t = e->l->unit_first_tile[u]; t < e->l->unit_first_tile[u + 1]; t++) {
			home = state_home(e, t);
			if (!state_on_nvme(e, t))
				load(e, ST_OP_READ_STATE, u, t, &home);
		}
	}
}

static void emit_export(struct emit *e)
{
	uint32_t before = e->gate;

	for (uint32_t t = 0; t < e->l->n_tiles; t++) {
		uint32_t u = e->l->tiles[t].unit;
		struct place param, state;
		uint32_t op;

		need_param(e, u);
		state = host_state(e, t, true);
		param = host_param(e, t, true);
		op = st_builder_op(e->b, ST_OP_EMIT, u, t, ST_NONE, ST_NONE);
		on_host(e);
		st_builder_after(e->b, before); /* they are handed out in order */
		before = op;
		use(e, ST_ROLE_PARAM0, &param, false);
		use(e, ST_ROLE_STATE, &state, false);
		use_host_work(e, t);
		if (t + 1 == e->l->unit_first_tile[u + 1])
			forget(e, u);
	}
}

static void emit_eval(struct emit *e)
{
	for (unsigned s = 0; s < e->m->n_stages; s++)
		emit_forward(e, s, 0, e->n_mb);
}

static void emit_variant(struct emit *e, enum st_variant v)
{
	switch (v) {
	case ST_VARIANT_INIT:
		emit_init(e);
		break;
	case ST_VARIANT_LOAD:
		emit_load(e);
		break;
	case ST_VARIANT_EVAL:
		emit_eval(e);
		break;
	case ST_VARIANT_EXPORT:
		emit_export(e);
		break;
	default:
		if (e->v->is_step)
			emit_step(e);
		else
			emit_flush(e);
	}
}

static void fill_none(uint32_t *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		list[i] = ST_NO_CLAIM;
}

int st_compile(const struct st_plan *plan, enum st_variant v, const struct st_pool_place *places,
	       struct st_program **out, enum st_pool *failed_pool)
{
	const struct st_layout *l = plan->layout;
	struct emit e = {
		.plan = plan,
		.l = l,
		.m = plan->cfg.model,
		.n_mb = v == ST_VARIANT_EVAL ? plan->cfg.n_eval_mb : plan->cfg.n_mb,
		.v = st_variant_desc(v),
		.table = ST_NO_CLAIM,
	};
	size_t n_acts = (size_t)e.m->n_stages * e.n_mb;
	int rc = st_builder_create(&e.b, st_variant_name(v), st_plan_resources(l));

	if (rc)
		return rc;
	if (!places)
		st_builder_sketch(e.b);
	e.param = calloc(l->n_units, sizeof(*e.param));
	e.staged = plan->cfg.copies ? calloc(l->n_units, sizeof(*e.staged)) : e.param;
	e.accum = calloc(l->n_units, sizeof(*e.accum));
	e.next_tile = calloc(l->n_units, sizeof(*e.next_tile));
	e.act = calloc(n_acts, sizeof(*e.act));
	e.saved = calloc(n_acts, sizeof(*e.saved));
	e.grad = calloc(e.n_mb, sizeof(*e.grad));
	e.act_rest = calloc(n_acts, sizeof(*e.act_rest));
	e.batch = calloc(e.n_mb, sizeof(*e.batch));
	if (!e.param || !e.staged || !e.accum || !e.next_tile || !e.act || !e.saved || !e.grad ||
	    !e.act_rest || !e.batch) {
		rc = st_fail(-ENOMEM, "program %s", st_variant_name(v));
		goto out;
	}
	for (uint32_t u = 0; u < l->n_units; u++)
		e.next_tile[u] = l->unit_first_tile[u + !is_due(&e, u)];
	fill_none(e.param, l->n_units);
	fill_none(e.staged, l->n_units);
	fill_none(e.accum, l->n_units);
	fill_none(e.act, n_acts);
	fill_none(e.saved, n_acts);
	fill_none(e.act_rest, n_acts);
	fill_none(e.batch, e.n_mb);
	e.gate = st_builder_op(e.b, ST_OP_GATE, ST_NONE, ST_NONE, ST_NONE, ST_NONE);
	emit_variant(&e, v);
	rc = st_builder_seal(e.b, places, out, failed_pool);
out:
	if (e.staged != e.param)
		free(e.staged);
	free(e.param);
	free(e.accum);
	free(e.next_tile);
	free(e.act);
	free(e.saved);
	free(e.grad);
	free(e.act_rest);
	free(e.batch);
	st_builder_destroy(e.b);
	return rc;
}
