/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offload/compile.c - from a plan to the operations of one program, in serial order.
 *
 * Reads are emitted right before their first use: that is where they must be at the latest. How
 * much earlier they run is the executor's affair, as far as the pools allow.
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
	uint32_t *param;     /* [n_units] claim of a unit that was read, or ST_NO_CLAIM */
	uint32_t *accum;     /* [n_units] claim of its gradient sum */
	uint32_t *next_tile; /* [n_units] the first tile whose update is still due */
	uint32_t *act;       /* [n_stages * n_mb] output of a stage */
	uint32_t *saved;     /* [n_stages * n_mb] kept from forward to backward, or ST_NO_CLAIM */
	uint32_t *grad;      /* [n_mb] gradient of the latest stage's input */
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

/* A unit's parameters as operand `role` of the latest operation: in a buffer, or at home. */
static void use_param(struct emit *e, unsigned role, uint32_t unit)
{
	uint64_t bytes = st_unit_param_bytes(e->l, unit);

	if (param_on_nvme(e, unit)) {
		st_builder_use(e->b, role, e->param[unit], 0, bytes, false);
	} else {
		st_builder_use_fixed(e->b, role, e->plan->param_addr[unit], bytes, false);
		st_builder_touch(e->b, r_param(e->l, unit), 0, 0, false);
	}
}

/* Parameters of a unit are in memory when the next operation runs. */
static void need_param(struct emit *e, uint32_t unit)
{
	uint64_t bytes = st_unit_param_bytes(e->l, unit);

	if (!param_on_nvme(e, unit) || e->param[unit] != ST_NO_CLAIM)
		return;
	e->param[unit] = st_builder_claim(e->b, ST_POOL_PARAM, bytes);
	add(e, ST_OP_READ_PARAM, unit, ST_NONE, bytes);
	st_builder_use(e->b, ST_ROLE_PARAM0, e->param[unit], 0, bytes, true);
	st_builder_touch(e->b, r_param(e->l, unit), 0, 0, false);
}

/* ---- update -------------------------------------------------------------------------------- */

static void write_param_tile(struct emit *e, uint32_t tile)
{
	const struct st_tile *t = &e->l->tiles[tile];
	uint64_t bytes = st_tile_param_bytes(e->l, tile), lo = tile_off(e, tile);

	add(e, ST_OP_WRITE_PARAM, t->unit, tile, bytes);
	if (param_on_nvme(e, t->unit)) {
		st_builder_use(e->b, ST_ROLE_PARAM0, e->param[t->unit], lo, bytes, false);
		st_builder_touch(e->b, r_param(e->l, t->unit), lo, lo + bytes, true);
	} else {
		st_builder_use_fixed(e->b, ST_ROLE_PARAM0, param_tile_addr(e, tile), bytes, false);
		st_builder_touch(e->b, r_param(e->l, t->unit), lo, lo + bytes, false);
	}
	st_builder_touch(e->b, r_one(e->l, R_ROUND), 0, 0, false);
	st_builder_after(e->b, e->gate);
}

static void write_state_tile(struct emit *e, uint32_t tile, uint32_t claim)
{
	uint64_t bytes = st_tile_state_bytes(e->l, tile);

	add(e, ST_OP_WRITE_STATE, e->l->tiles[tile].unit, tile, bytes);
	if (claim != ST_NO_CLAIM)
		st_builder_use(e->b, ST_ROLE_STATE, claim, 0, bytes, false);
	else
		st_builder_use_fixed(e->b, ST_ROLE_STATE, e->plan->state_addr[tile], bytes, false);
	st_builder_touch(e->b, r_state(e->l, tile), 0, 0, claim != ST_NO_CLAIM);
	st_builder_touch(e->b, r_one(e->l, R_ROUND), 0, 0, false);
	st_builder_after(e->b, e->gate);
}

/* The tile's state, in a buffer that was read, or ST_NO_CLAIM when it lives in memory. */
static uint32_t need_state(struct emit *e, uint32_t tile)
{
	uint64_t bytes = st_tile_state_bytes(e->l, tile);
	uint32_t claim;

	if (!state_on_nvme(e, tile))
		return ST_NO_CLAIM;
	claim = st_builder_claim(e->b, ST_POOL_STATE, bytes);
	add(e, ST_OP_READ_STATE, e->l->tiles[tile].unit, tile, bytes);
	st_builder_use(e->b, ST_ROLE_STATE, claim, 0, bytes, true);
	st_builder_touch(e->b, r_state(e->l, tile), 0, 0, false);
	return claim;
}

static void use_state(struct emit *e, uint32_t tile, uint32_t claim, bool is_write)
{
	uint64_t bytes = st_tile_state_bytes(e->l, tile);

	if (claim != ST_NO_CLAIM) {
		st_builder_use(e->b, ST_ROLE_STATE, claim, 0, bytes, is_write);
	} else {
		st_builder_use_fixed(e->b, ST_ROLE_STATE, e->plan->state_addr[tile], bytes,
				     is_write);
		st_builder_touch(e->b, r_state(e->l, tile), 0, 0, is_write);
	}
}

/* A tile's parameters as operand of the latest operation, one that writes or reads just them. */
static void use_param_tile(struct emit *e, uint32_t tile, bool is_write)
{
	const struct st_tile *t = &e->l->tiles[tile];
	uint64_t bytes = st_tile_param_bytes(e->l, tile), lo = tile_off(e, tile);

	if (param_on_nvme(e, t->unit)) {
		st_builder_use(e->b, ST_ROLE_PARAM0, e->param[t->unit], lo, bytes, is_write);
	} else {
		st_builder_use_fixed(e->b, ST_ROLE_PARAM0, param_tile_addr(e, tile), bytes,
				     is_write);
		st_builder_touch(e->b, r_param(e->l, t->unit), lo, lo + bytes, is_write);
	}
}

static void write_back(struct emit *e, uint32_t tile, uint32_t state_claim)
{
	if (param_on_nvme(e, e->l->tiles[tile].unit) || e->plan->cfg.commits)
		write_param_tile(e, tile);
	if (state_on_nvme(e, tile) || e->plan->cfg.commits)
		write_state_tile(e, tile, state_claim);
}

/* The optimizer on one tile. grad: a claim, or ST_NO_CLAIM for the gradient that rests at home. */
static void update_tile(struct emit *e, uint32_t tile, uint32_t grad, bool is_pending)
{
	const struct st_tile *t = &e->l->tiles[tile];
	uint32_t state;

	e->is_speculative = !is_pending && e->plan->mode[t->unit] == ST_UPDATE_SPECULATIVE;
	state = need_state(e, tile);
	add(e, ST_OP_UPDATE, t->unit, tile, 0);
	st_builder_last(e->b)->is_pending = is_pending;
	use_param_tile(e, tile, true);
	use_state(e, tile, state, true);
	if (grad != ST_NO_CLAIM) {
		st_builder_use(e->b, ST_ROLE_GRAD, grad, 0, st_tile_grad_bytes(e->l, tile), false);
	} else {
		st_builder_use_fixed(e->b, ST_ROLE_GRAD, e->plan->rest_addr[tile],
				     st_tile_grad_bytes(e->l, tile), false);
		st_builder_touch(e->b, r_rest(e->l, tile), 0, 0, false);
	}
	if (is_pending)
		st_builder_touch(e->b, r_one(e->l, R_PENDING), 0, 0, false);
	st_builder_after(e->b, e->gate);
	write_back(e, tile, state);
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
		uint32_t t = e->next_tile[unit], grad = ST_NO_CLAIM;

		if (grad_on_nvme(e, t)) {
			uint64_t bytes = st_tile_grad_bytes(e->l, t);

			grad = st_builder_claim(e->b, ST_POOL_REST, bytes);
			add(e, ST_OP_READ_GRAD, unit, t, bytes);
			st_builder_use(e->b, ST_ROLE_GRAD, grad, 0, bytes, true);
			st_builder_touch(e->b, r_rest(e->l, t), 0, 0, false);
		}
		update_tile(e, t, grad, true);
	}
}

/* As need_param(), for a unit all of whose tiles are updated next. With fp16 the master weight is
 * in the state as a whole, and what the update makes of it needs no reading. */
static void need_param_for_update(struct emit *e, uint32_t unit)
{
	bool is_overwritten = e->l->param_array == STRATA_ARRAY_LOW &&
			      e->next_tile[unit] == e->l->unit_first_tile[unit];

	if (!param_on_nvme(e, unit) || e->param[unit] != ST_NO_CLAIM)
		return;
	if (is_overwritten && !is_updated(e, unit))
		e->param[unit] =
			st_builder_claim(e->b, ST_POOL_PARAM, st_unit_param_bytes(e->l, unit));
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

/* Round a unit's gradient, and keep it where its update may be due after this step. Then update the
 * unit here and now, unless that has to wait. */
static void finish_gradient(struct emit *e, uint32_t unit)
{
	enum st_update mode = e->plan->mode[unit];
	bool keeps = mode != ST_UPDATE_IMMEDIATE;
	bool waits =
		mode == ST_UPDATE_DEFERRED || (mode == ST_UPDATE_SPECULATIVE && !e->v->speculates);

	for (uint32_t t = e->l->unit_first_tile[unit]; t < e->l->unit_first_tile[unit + 1]; t++) {
		const struct st_tile *tile = &e->l->tiles[t];
		bool is_at_home = keeps && !grad_on_nvme(e, t);
		uint64_t bytes = st_tile_grad_bytes(e->l, t);
		uint32_t grad =
			is_at_home ? ST_NO_CLAIM : st_builder_claim(e->b, ST_POOL_REST, bytes);

		add(e, ST_OP_REDUCE, unit, t, 0);
		st_builder_use(e->b, ST_ROLE_ACCUM0, e->accum[unit],
			       tile->first_elem * sizeof(float), tile->elems * sizeof(float),
			       false);
		if (is_at_home) {
			st_builder_use_fixed(e->b, ST_ROLE_GRAD, e->plan->rest_addr[t], bytes,
					     true);
			st_builder_touch(e->b, r_rest(e->l, t), 0, 0, true);
		} else {
			st_builder_use(e->b, ST_ROLE_GRAD, grad, 0, bytes, true);
		}
		st_builder_touch(e->b, r_one(e->l, R_LEAVES), tile->first_leaf,
				 tile->first_leaf + tile->elems / STRATA_NUMERIC_TILE, true);
		if (keeps && !is_at_home) {
			add(e, ST_OP_WRITE_GRAD, unit, t, bytes);
			st_builder_use(e->b, ST_ROLE_GRAD, grad, 0, bytes, false);
			st_builder_touch(e->b, r_rest(e->l, t), 0, 0, true);
		}
		if (!waits) {
			need_param(e, unit);
			update_tile(e, t, grad, false);
		}
	}
	e->accum[unit] = ST_NO_CLAIM;
}

/* ---- forward and backward ------------------------------------------------------------------ */

static void release_params(struct emit *e, unsigned stage)
{
	const struct st_stage_desc *s = &e->m->stages[stage];

	for (unsigned k = 0; k < s->n_units; k++)
		e->param[s->units[k]] = ST_NO_CLAIM;
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
		if (!looks_ahead(e, stage) || s->units[k] != e->plan->lookup.unit)
			need_current(e, s->units[k]);
}

static void use_work(struct emit *e, size_t bytes)
{
	if (bytes)
		st_builder_use(e->b, ST_ROLE_WORK, st_builder_claim(e->b, ST_POOL_WORK, bytes), 0,
			       bytes, true);
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

	e->table = st_builder_claim(e->b, ST_POOL_PARAM,
				    l->max_rows * l->cols * st_dtype_bytes(e->l->dtype));
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
	uint32_t saved = ST_NO_CLAIM;

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
	use_work(e, s->fwd_work_bytes);
	st_builder_after(e->b, e->gate);
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
	}
	release_params(e, stage);
	e->table = ST_NO_CLAIM;
}

static void backward(struct emit *e, unsigned stage, unsigned mb)
{
	const struct st_stage_desc *s = &e->m->stages[stage];
	bool is_last = stage + 1 == e->m->n_stages;
	uint32_t dx = ST_NO_CLAIM, saved = e->saved[stage * e->n_mb + mb];
	size_t x_bytes = stage ? e->m->stages[stage - 1].out_bytes : 0;

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
	use_work(e, s->bwd_work_bytes);
	st_builder_after(e->b, e->gate);
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
		for (unsigned k = 0; k < s->n_units; k++)
			need_param(e, s->units[k]);
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
		e->param[u] = ST_NO_CLAIM;
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
			e->param[u] = ST_NO_CLAIM;
		}
		for (uint32_t t = e->l->unit_first_tile[u];
		     e->v->saves && t < e->l->unit_first_tile[u + 1]; t++) {
			if (!param_on_nvme(e, u) && !e->plan->cfg.commits)
				write_param_tile(e, t);
			if (!state_on_nvme(e, t) && !e->plan->cfg.commits)
				write_state_tile(e, t, ST_NO_CLAIM);
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
		uint32_t state = ST_NO_CLAIM;

		if (state_on_nvme(e, t))
			state = st_builder_claim(e->b, ST_POOL_STATE, st_tile_state_bytes(e->l, t));
		if (param_on_nvme(e, u) && t == e->l->unit_first_tile[u])
			e->param[u] =
				st_builder_claim(e->b, ST_POOL_PARAM, st_unit_param_bytes(e->l, u));
		add(e, ST_OP_FILL, u, t, 0);
		use_param_tile(e, t, true);
		use_state(e, t, state, true);
		use_work(e, e->l->tiles[t].elems * sizeof(float));
		st_builder_after(e->b, e->gate);
		write_back(e, t, state);
	}
	if (stores_all(e) || e->plan->cfg.commits) /* what a commit names can be resumed */
		commit(e);
}

static void emit_load(struct emit *e)
{
	for (uint32_t u = 0; u < e->l->n_units; u++) {
		if (!param_on_nvme(e, u)) {
			add(e, ST_OP_READ_PARAM, u, ST_NONE, st_unit_param_bytes(e->l, u));
			st_builder_use_fixed(e->b, ST_ROLE_PARAM0, e->plan->param_addr[u],
					     st_unit_param_bytes(e->l, u), true);
			st_builder_touch(e->b, r_param(e->l, u), 0, 0, true);
			st_builder_after(e->b, e->gate);
		}
		for (uint32_t t = e->l->unit_first_tile[u]; t < e->l->unit_first_tile[u + 1]; t++) {
			if (state_on_nvme(e, t))
				continue;
			add(e, ST_OP_READ_STATE, u, t, st_tile_state_bytes(e->l, t));
			st_builder_use_fixed(e->b, ST_ROLE_STATE, e->plan->state_addr[t],
					     st_tile_state_bytes(e->l, t), true);
			st_builder_touch(e->b, r_state(e->l, t), 0, 0, true);
			st_builder_after(e->b, e->gate);
		}
	}
}

static void emit_export(struct emit *e)
{
	uint32_t before = e->gate;

	for (uint32_t t = 0; t < e->l->n_tiles; t++) {
		uint32_t u = e->l->tiles[t].unit;
		uint32_t state, op;

		need_param(e, u);
		state = need_state(e, t);
		op = st_builder_op(e->b, ST_OP_EMIT, u, t, ST_NONE, ST_NONE);
		st_builder_after(e->b, before); /* they are handed out in order */
		before = op;
		use_param_tile(e, t, false);
		use_state(e, t, state, false);
		use_work(e, e->l->tiles[t].elems * sizeof(float));
		if (t + 1 == e->l->unit_first_tile[u + 1])
			e->param[u] = ST_NO_CLAIM;
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
	e.accum = calloc(l->n_units, sizeof(*e.accum));
	e.next_tile = calloc(l->n_units, sizeof(*e.next_tile));
	e.act = calloc(n_acts, sizeof(*e.act));
	e.saved = calloc(n_acts, sizeof(*e.saved));
	e.grad = calloc(e.n_mb, sizeof(*e.grad));
	if (!e.param || !e.accum || !e.next_tile || !e.act || !e.saved || !e.grad) {
		rc = st_fail(-ENOMEM, "program %s", st_variant_name(v));
		goto out;
	}
	for (uint32_t u = 0; u < l->n_units; u++)
		e.next_tile[u] = l->unit_first_tile[u + !is_due(&e, u)];
	fill_none(e.param, l->n_units);
	fill_none(e.accum, l->n_units);
	fill_none(e.act, n_acts);
	fill_none(e.saved, n_acts);
	e.gate = st_builder_op(e.b, ST_OP_GATE, ST_NONE, ST_NONE, ST_NONE, ST_NONE);
	emit_variant(&e, v);
	rc = st_builder_seal(e.b, places, out, failed_pool);
out:
	free(e.param);
	free(e.accum);
	free(e.next_tile);
	free(e.act);
	free(e.saved);
	free(e.grad);
	st_builder_destroy(e.b);
	return rc;
}
