/* SPDX-License-Identifier: Apache-2.0 */
/* offload/rank.c - one rank's step on a described machine, emitted in serial order. */
#include "offload/rank.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ALIGN_BYTES ((uint64_t)4096)
#define SLOTS       2u /* of the store, for each extent */

/* Bytes a parameter, of memory that the optimizer moves and of DeepSpeed's files. */
enum { UPDATE_16 = 26, UPDATE_32 = 28, DS_UPDATE = 46, DS_READ = 16, DS_WRITE = 12, DS_GRAD = 4 };

struct emit {
	const struct st_rank_cfg *cfg;
	const struct st_model *m;
	struct st_builder *b;
	uint32_t gate;
	uint64_t n_ranks;
	unsigned elem; /* bytes of a parameter that computes */
	bool copies, is_ds;
	uint32_t *dev;      /* [n_units] claim of the gathered unit, or ST_NO_CLAIM */
	uint32_t *shard;    /* [n_units] claim of its shard in host memory */
	uint32_t *accum;    /* [n_units] claim of its gradient on the device */
	bool *is_updated;   /* [n_units] nothing is pending for it */
	uint32_t *act;      /* [n_stages * n_mb] output of a stage on the device */
	uint32_t *at_rest;  /* [n_stages * n_mb] the same in host memory */
	uint32_t *saved;    /* [n_stages * n_mb] */
	uint32_t *grad;     /* [n_mb] gradient of the latest stage's input */
	uint32_t computed;  /* the latest operation of the compute lane */
	uint32_t blocking;  /* a copy that compute waits for, or ST_NONE */
	uint32_t chunk_end; /* DEEPSPEED: the last operation of the sub-group before */
	uint32_t latest;    /* SERIAL: the operation before */
};

/* ---- sizes and resources ------------------------------------------------------------------- */

static uint64_t align_up(uint64_t n)
{
	return (n + ALIGN_BYTES - 1) & ~(ALIGN_BYTES - 1);
}

static uint64_t unit_elems(const struct emit *e, uint32_t u)
{
	return e->m->units[u].elems;
}

static uint64_t shard_elems(const struct emit *e, uint32_t u)
{
	return (unit_elems(e, u) + e->n_ranks - 1) / e->n_ranks;
}

/* What a gather brings, or a reduction takes away, of a unit: all but one's own. */
static uint64_t others_bytes(const struct emit *e, uint32_t u)
{
	return (unit_elems(e, u) - shard_elems(e, u)) * e->elem;
}

static unsigned state_bytes(enum st_dtype dtype)
{
	return dtype == ST_F32 ? 8 : 10;
}

static uint32_t r_param(const struct emit *e, uint32_t u)
{
	return u;
}

static uint32_t r_state(const struct emit *e, uint32_t u)
{
	return e->m->n_units + u;
}

static uint32_t r_rest(const struct emit *e, uint32_t u)
{
	return 2 * e->m->n_units + u;
}

static uint32_t r_norm(const struct emit *e)
{
	return 3 * e->m->n_units;
}

static uint32_t begin(struct emit *e, enum st_op_kind kind, uint32_t unit, unsigned stage,
		      unsigned mb)
{
	uint32_t op = st_builder_op(e->b, kind, unit, ST_NONE, stage, mb);

	if (e->cfg->style == ST_RANK_SERIAL)
		st_builder_after(e->b, e->latest);
	e->latest = op;
	return op;
}

static uint32_t add(struct emit *e, enum st_op_kind kind, uint32_t unit, uint64_t bytes)
{
	uint32_t op = begin(e, kind, unit, ST_NONE, ST_NONE);

	st_builder_last(e->b)->bytes = bytes;
	return op;
}

/* ---- parameters ---------------------------------------------------------------------------- */

/* The shard in host memory; a host device that has all of it computes on that very buffer. */
static void need_shard(struct emit *e, uint32_t u)
{
	bool is_whole = !e->copies && e->n_ranks == 1;
	uint64_t bytes = shard_elems(e, u) * e->elem;

	if (e->cfg->param_home != ST_HOME_NVME || e->shard[u] != ST_NO_CLAIM)
		return;
	e->shard[u] = st_builder_claim(e->b, is_whole ? ST_POOL_PARAM : ST_POOL_STATE, bytes);
	add(e, ST_OP_READ_PARAM, u, bytes);
	st_builder_use(e->b, ST_ROLE_PARAM0, e->shard[u], 0, bytes, true);
	st_builder_touch(e->b, r_param(e, u), 0, 0, false);
	if (e->is_ds)
		st_builder_after(e->b, e->gate);
	if (is_whole)
		e->dev[u] = e->shard[u];
}

/* The latest operation reads the shard, wherever it lives. */
static void use_shard(struct emit *e, uint32_t u)
{
	if (e->shard[u] != ST_NO_CLAIM)
		st_builder_use(e->b, ST_ROLE_PARAM0, e->shard[u], 0, shard_elems(e, u) * e->elem,
			       false);
	else
		st_builder_touch(e->b, r_param(e, u), 0, 0, false);
}

/* The whole unit on the device. */
static void bring(struct emit *e, uint32_t u)
{
	bool is_copied = e->copies && e->cfg->param_home != ST_HOME_DEVICE;
	uint64_t bytes = unit_elems(e, u) * e->elem, own = shard_elems(e, u) * e->elem;

	if (e->dev[u] != ST_NO_CLAIM || (!is_copied && e->n_ranks == 1))
		return;
	e->dev[u] = st_builder_claim(e->b, ST_POOL_PARAM, bytes);
	if (is_copied) {
		add(e, ST_OP_COPY_IN, u, own);
		use_shard(e, u);
		st_builder_use(e->b, ST_ROLE_PARAM1, e->dev[u], 0, own, true);
		if (e->is_ds)
			st_builder_after(e->b, e->gate);
	}
	if (e->n_ranks > 1) {
		add(e, ST_OP_GATHER, u, others_bytes(e, u));
		if (!is_copied)
			use_shard(e, u);
		st_builder_use(e->b, ST_ROLE_PARAM1, e->dev[u], 0, bytes, true);
		if (e->is_ds)
			st_builder_after(e->b, e->gate);
	}
}

static void use_param(struct emit *e, unsigned k, uint32_t u)
{
	if (e->dev[u] != ST_NO_CLAIM)
		st_builder_use(e->b, ST_ROLE_PARAM0 + k, e->dev[u], 0, unit_elems(e, u) * e->elem,
			       false);
	else
		st_builder_touch(e->b, r_param(e, u), 0, 0, false);
}

/* ---- update -------------------------------------------------------------------------------- */

struct chunk {
	uint32_t unit;
	uint64_t lo, n;       /* parameters of the shard */
	uint32_t state, grad; /* claims, or ST_NO_CLAIM: at home */
};

static void read_chunk(struct emit *e, struct chunk *c, unsigned bytes)
{
	if (e->cfg->state_home != ST_HOME_NVME)
		return;
	c->state = st_builder_claim(e->b, ST_POOL_STATE, c->n * bytes);
	add(e, ST_OP_READ_STATE, c->unit, c->n * bytes);
	st_builder_use(e->b, ST_ROLE_STATE, c->state, 0, c->n * bytes, true);
	st_builder_touch(e->b, r_state(e, c->unit), c->lo, c->lo + c->n, false);
}

static void use_state(struct emit *e, const struct chunk *c, bool is_write)
{
	unsigned bytes = e->is_ds ? DS_READ : state_bytes(e->cfg->dtype);

	if (c->state != ST_NO_CLAIM)
		st_builder_use(e->b, ST_ROLE_STATE, c->state, 0, c->n * bytes, is_write);
	else
		st_builder_touch(e->b, r_state(e, c->unit), c->lo, c->lo + c->n, is_write);
}

/* The optimizer: on the device where its state lives there, else in host memory. */
static uint32_t update_chunk(struct emit *e, const struct chunk *c, unsigned bytes)
{
	uint32_t op = add(e, ST_OP_UPDATE, c->unit, c->n * bytes), shard = e->shard[c->unit];

	if (e->copies && e->cfg->state_home != ST_HOME_DEVICE)
		st_builder_last(e->b)->lane = ST_LANE_OPTIMIZER;
	use_state(e, c, true);
	if (shard != ST_NO_CLAIM)
		st_builder_use(e->b, ST_ROLE_PARAM0, shard, c->lo * e->elem, c->n * e->elem, true);
	else
		st_builder_touch(e->b, r_param(e, c->unit), c->lo, c->lo + c->n, true);
	if (c->grad != ST_NO_CLAIM)
		st_builder_use(e->b, ST_ROLE_GRAD, c->grad, c->lo * e->elem, c->n * e->elem, false);
	else
		st_builder_touch(e->b, r_rest(e, c->unit), 0, 0, false);
	st_builder_after(e->b, e->gate);
	return op;
}

static uint32_t write_chunk(struct emit *e, const struct chunk *c, unsigned bytes, uint32_t last)
{
	uint32_t shard = e->shard[c->unit];

	if (c->state != ST_NO_CLAIM || e->cfg->commits) {
		last = add(e, ST_OP_WRITE_STATE, c->unit, c->n * bytes);
		use_state(e, c, false);
		if (c->state != ST_NO_CLAIM)
			st_builder_touch(e->b, r_state(e, c->unit), c->lo, c->lo + c->n, true);
		st_builder_after(e->b, e->gate);
	}
	if (e->cfg->param_home == ST_HOME_NVME || e->cfg->commits) {
		last = add(e, ST_OP_WRITE_PARAM, c->unit, c->n * e->elem);
		if (shard != ST_NO_CLAIM)
			st_builder_use(e->b, ST_ROLE_PARAM0, shard, c->lo * e->elem, c->n * e->elem,
				       false);
		st_builder_touch(e->b, r_param(e, c->unit), c->lo, c->lo + c->n,
				 shard != ST_NO_CLAIM);
		st_builder_after(e->b, e->gate);
	}
	return last;
}

/* New parameters go to the device where they live there and the optimizer does not. */
static void refresh_device(struct emit *e, uint32_t u)
{
	if (!e->copies || e->cfg->param_home != ST_HOME_DEVICE ||
	    e->cfg->state_home == ST_HOME_DEVICE)
		return;
	add(e, ST_OP_COPY_IN, u, shard_elems(e, u) * e->elem);
	st_builder_touch(e->b, r_param(e, u), 0, 0, true);
}

static void update_unit(struct emit *e, uint32_t u, uint32_t grad, bool is_pending)
{
	unsigned bytes = state_bytes(e->cfg->dtype);
	uint64_t all = shard_elems(e, u);

	for (uint64_t lo = 0; lo < all; lo += ST_RANK_CHUNK) {
		struct chunk c = { u, lo, all - lo < ST_RANK_CHUNK ? all - lo : ST_RANK_CHUNK,
				   ST_NO_CLAIM, grad };
		uint32_t op;

		read_chunk(e, &c, bytes);
		op = update_chunk(e, &c, e->cfg->dtype == ST_F32 ? UPDATE_32 : UPDATE_16);
		st_builder_last(e->b)->is_pending = is_pending;
		if (is_pending)
			st_builder_touch(e->b, r_norm(e), 0, 0, false);
		(void)write_chunk(e, &c, bytes, op);
	}
	refresh_device(e, u);
	e->is_updated[u] = true;
}

static void apply_pending(struct emit *e, uint32_t u)
{
	uint64_t bytes = shard_elems(e, u) * e->elem;
	uint32_t grad = ST_NO_CLAIM;

	if (e->is_updated[u])
		return;
	need_shard(e, u);
	if (e->cfg->spills_grads) {
		grad = st_builder_claim(e->b, ST_POOL_REST, bytes);
		add(e, ST_OP_READ_GRAD, u, bytes);
		st_builder_use(e->b, ST_ROLE_GRAD, grad, 0, bytes, true);
		st_builder_touch(e->b, r_rest(e, u), 0, 0, false);
	}
	update_unit(e, u, grad, true);
}

static void need_unit(struct emit *e, uint32_t u)
{
	apply_pending(e, u);
	need_shard(e, u);
	bring(e, u);
}

/* A unit's gradient is complete for these micro-batches: to its shards, off the device. */
static void finish_gradient(struct emit *e, uint32_t u, bool is_last)
{
	bool is_immediate = !e->is_ds && e->cfg->update == ST_UPDATE_IMMEDIATE;
	uint64_t bytes = shard_elems(e, u) * e->elem;
	unsigned accum = e->is_ds ? e->elem : sizeof(float);
	uint32_t grad = is_immediate || (!e->is_ds && e->cfg->spills_grads)
				? st_builder_claim(e->b, ST_POOL_REST, bytes)
				: ST_NO_CLAIM;

	if (e->n_ranks > 1) {
		add(e, ST_OP_SCATTER, u, others_bytes(e, u));
		st_builder_use(e->b, ST_ROLE_ACCUM0, e->accum[u], 0, unit_elems(e, u) * accum,
			       true);
	}
	/* Where nothing is copied this is the rounding of the sum. */
	if (e->copies && e->cfg->state_home != ST_HOME_DEVICE)
		add(e, ST_OP_COPY_OUT, u, bytes);
	else
		add(e, ST_OP_REDUCE, u, unit_elems(e, u) * (accum + e->elem));
	st_builder_use(e->b, ST_ROLE_ACCUM0, e->accum[u], 0, unit_elems(e, u) * accum, false);
	if (grad != ST_NO_CLAIM)
		st_builder_use(e->b, ST_ROLE_GRAD, grad, 0, bytes, true);
	else
		st_builder_touch(e->b, r_rest(e, u), 0, 0, true);
	st_builder_touch(e->b, r_norm(e), u, (uint64_t)u + 1, true);
	e->accum[u] = ST_NO_CLAIM;
	if (is_immediate) {
		need_shard(e, u);
		update_unit(e, u, grad, false);
	} else if (!e->is_ds && e->cfg->spills_grads) {
		add(e, ST_OP_WRITE_GRAD, u, bytes);
		st_builder_use(e->b, ST_ROLE_GRAD, grad, 0, bytes, false);
		st_builder_touch(e->b, r_rest(e, u), 0, 0, true);
	} else if (e->is_ds && is_last && e->cfg->state_home == ST_HOME_NVME) {
		add(e, ST_OP_WRITE_GRAD, u, shard_elems(e, u) * DS_GRAD);
		st_builder_touch(e->b, r_rest(e, u), 0, 0, true);
	}
}

/* ---- stages -------------------------------------------------------------------------------- */

static bool offloads_acts(const struct emit *e)
{
	return e->copies && e->cfg->acts_on_host;
}

static void begin_compute(struct emit *e, enum st_op_kind kind, unsigned stage, unsigned mb)
{
	e->computed = begin(e, kind, ST_NONE, stage, mb);
	st_builder_after(e->b, e->gate);
	if (e->blocking != ST_NONE)
		st_builder_after(e->b, e->blocking);
	e->blocking = ST_NONE;
}

static void use_work(struct emit *e, uint64_t bytes)
{
	if (bytes)
		st_builder_use(e->b, ST_ROLE_WORK, st_builder_claim(e->b, ST_POOL_WORK, bytes), 0,
			       bytes, true);
}

static uint32_t forward(struct emit *e, unsigned stage, unsigned mb, uint32_t y, bool is_recompute)
{
	const struct st_stage_desc *s = &e->m->stages[stage];
	uint32_t saved = ST_NO_CLAIM;

	begin_compute(e, ST_OP_FORWARD, stage, mb);
	st_builder_last(e->b)->flops = s->fwd_flops;
	st_builder_last(e->b)->is_recompute = is_recompute;
	for (unsigned k = 0; k < s->n_units; k++)
		use_param(e, k, s->units[k]);
	if (stage)
		st_builder_use(e->b, ST_ROLE_X, e->act[(stage - 1) * e->cfg->n_mb + mb], 0,
			       e->m->stages[stage - 1].out_bytes, false);
	if (y != ST_NO_CLAIM)
		st_builder_use(e->b, ST_ROLE_Y, y, 0, s->out_bytes, true);
	if (s->saved_bytes) {
		saved = st_builder_claim(e->b, ST_POOL_SAVED, s->saved_bytes);
		st_builder_use(e->b, ST_ROLE_SAVED, saved, 0, s->saved_bytes, true);
	}
	use_work(e, s->fwd_work_bytes);
	return saved;
}

static void release_params(struct emit *e, unsigned stage)
{
	for (unsigned k = 0; k < e->m->stages[stage].n_units; k++) {
		e->dev[e->m->stages[stage].units[k]] = ST_NO_CLAIM;
		e->shard[e->m->stages[stage].units[k]] = ST_NO_CLAIM;
	}
}

static void rest_activation(struct emit *e, unsigned stage, unsigned mb)
{
	uint64_t bytes = e->m->stages[stage].out_bytes;
	uint32_t *rest = &e->at_rest[stage * e->cfg->n_mb + mb], op;

	*rest = st_builder_claim(e->b, ST_POOL_REST, bytes);
	op = add(e, ST_OP_COPY_OUT, ST_NONE, bytes);
	st_builder_use(e->b, ST_ROLE_X, e->act[stage * e->cfg->n_mb + mb], 0, bytes, false);
	st_builder_use(e->b, ST_ROLE_Y, *rest, 0, bytes, true);
	if (e->is_ds)
		e->blocking = op;
}

static void emit_forward(struct emit *e, unsigned stage, unsigned lo, unsigned hi)
{
	const struct st_stage_desc *s = &e->m->stages[stage];

	for (unsigned k = 0; k < s->n_units; k++)
		need_unit(e, s->units[k]);
	for (unsigned mb = lo; mb < hi; mb++) {
		size_t i = stage * e->cfg->n_mb + mb;
		uint32_t y = st_builder_claim(e->b, ST_POOL_ACT, s->out_bytes);
		uint32_t saved = forward(e, stage, mb, y, false);

		e->act[i] = y;
		e->saved[i] = e->cfg->recompute ? ST_NO_CLAIM : saved;
		if (offloads_acts(e))
			rest_activation(e, stage, mb);
	}
	release_params(e, stage);
}

/* A stage's input on the device again. */
static void need_input(struct emit *e, unsigned stage, unsigned mb)
{
	size_t i = (stage - 1) * e->cfg->n_mb + mb;
	uint64_t bytes = e->m->stages[stage - 1].out_bytes;
	uint32_t op;

	/* The last stage follows its input's making at once. */
	if (!offloads_acts(e) || stage + 1 == e->m->n_stages)
		return;
	e->act[i] = st_builder_claim(e->b, ST_POOL_ACT, bytes);
	op = add(e, ST_OP_COPY_IN, ST_NONE, bytes);
	st_builder_use(e->b, ST_ROLE_X, e->at_rest[i], 0, bytes, false);
	st_builder_use(e->b, ST_ROLE_Y, e->act[i], 0, bytes, true);
	if (e->is_ds) {
		st_builder_after(e->b, e->computed);
		e->blocking = op;
	}
}

static void use_accum(struct emit *e, unsigned k, uint32_t u)
{
	uint64_t bytes = unit_elems(e, u) * (e->is_ds ? e->elem : sizeof(float));

	if (e->accum[u] == ST_NO_CLAIM) {
		e->accum[u] = st_builder_claim(e->b, ST_POOL_ACCUM, bytes);
		st_builder_last(e->b)->zeroes[k] = !e->copies;
	}
	st_builder_use(e->b, ST_ROLE_ACCUM0 + k, e->accum[u], 0, bytes, true);
}

static uint32_t forward_again(struct emit *e, unsigned stage, unsigned mb, uint32_t y)
{
	const struct st_stage_desc *s = &e->m->stages[stage];
	uint32_t saved = forward(e, stage, mb, y, true);

	if (e->cfg->style != ST_RANK_SERIAL)
		return saved;
	release_params(e, stage);
	for (unsigned k = 0; k < s->n_units; k++)
		need_unit(e, s->units[k]);
	return saved;
}

static void backward(struct emit *e, unsigned stage, unsigned mb)
{
	const struct st_stage_desc *s = &e->m->stages[stage];
	bool is_last = stage + 1 == e->m->n_stages;
	uint32_t dx = ST_NO_CLAIM, saved = e->saved[stage * e->cfg->n_mb + mb];
	size_t x_bytes = stage ? e->m->stages[stage - 1].out_bytes : 0;

	if (stage) {
		need_input(e, stage, mb);
		dx = st_builder_claim(e->b, ST_POOL_ACT, x_bytes);
	}
	if (!is_last && s->saved_bytes && saved == ST_NO_CLAIM)
		saved = forward_again(e, stage, mb, dx);
	begin_compute(e, ST_OP_BACKWARD, stage, mb);
	st_builder_last(e->b)->flops = s->bwd_flops;
	for (unsigned k = 0; k < s->n_units; k++) {
		if (s->bwd_needs_params)
			use_param(e, k, s->units[k]);
		use_accum(e, k, s->units[k]);
	}
	if (stage) {
		st_builder_use(e->b, ST_ROLE_X, e->act[(stage - 1) * e->cfg->n_mb + mb], 0, x_bytes,
			       false);
		st_builder_use(e->b, ST_ROLE_DX, dx, 0, x_bytes, true);
	}
	if (saved != ST_NO_CLAIM)
		st_builder_use(e->b, ST_ROLE_SAVED, saved, 0, s->saved_bytes, false);
	if (!is_last)
		st_builder_use(e->b, ST_ROLE_DY, e->grad[mb], 0, s->out_bytes, false);
	use_work(e, s->bwd_work_bytes);
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

static void emit_backward(struct emit *e, unsigned stage, unsigned lo, unsigned hi)
{
	const struct st_stage_desc *s = &e->m->stages[stage];

	for (unsigned k = 0; k < s->n_units; k++)
		if (s->bwd_needs_params)
			need_unit(e, s->units[k]);
	for (unsigned mb = lo; mb < hi; mb++)
		backward(e, stage, mb);
	for (unsigned k = 0; k < s->n_units; k++)
		if (is_first_stage_of(e, stage, s->units[k]))
			finish_gradient(e, s->units[k], hi == e->cfg->n_mb);
	release_params(e, stage);
}

/* ---- steps --------------------------------------------------------------------------------- */

static void emit_norm(struct emit *e)
{
	add(e, ST_OP_NORM, ST_NONE, 0);
	st_builder_touch(e->b, r_norm(e), 0, 0, true);
	st_builder_after(e->b, e->gate);
}

static void emit_strata(struct emit *e)
{
	unsigned n = e->m->n_stages;

	for (unsigned s = 0; s + 1 < n; s++)
		emit_forward(e, s, 0, e->cfg->n_mb);
	for (unsigned s = n; s-- > 0;)
		emit_backward(e, s, 0, e->cfg->n_mb);
	emit_norm(e);
}

/* One sub-group: read, update, write; the next one behind it unless they are pipelined. */
static void emit_sub_group(struct emit *e, struct chunk *c)
{
	bool is_serial = e->cfg->style != ST_RANK_DEEPSPEED_PIPELINED;

	read_chunk(e, c, DS_READ);
	if (c->state != ST_NO_CLAIM) {
		st_builder_touch(e->b, r_rest(e, c->unit), 0, 0, false);
		st_builder_touch(e->b, r_norm(e), 0, 0, false);
		if (is_serial && e->chunk_end != ST_NONE)
			st_builder_after(e->b, e->chunk_end);
	}
	e->chunk_end = update_chunk(e, c, DS_UPDATE);
	st_builder_touch(e->b, r_norm(e), 0, 0, false);
	e->chunk_end = write_chunk(e, c, DS_WRITE, e->chunk_end);
}

static void emit_deepspeed(struct emit *e)
{
	unsigned n = e->m->n_stages;

	for (unsigned mb = 0; mb < e->cfg->n_mb; mb++) {
		for (unsigned s = 0; s + 1 < n; s++)
			emit_forward(e, s, mb, mb + 1);
		for (unsigned s = n; s-- > 0;)
			emit_backward(e, s, mb, mb + 1);
	}
	emit_norm(e);
	for (uint32_t u = 0; u < e->m->n_units; u++) {
		uint64_t all = shard_elems(e, u);

		for (uint64_t lo = 0; lo < all; lo += ST_RANK_CHUNK) {
			struct chunk c = { u, lo,
					   all - lo < ST_RANK_CHUNK ? all - lo : ST_RANK_CHUNK,
					   ST_NO_CLAIM, ST_NO_CLAIM };

			/* The new 16-bit parameters have a buffer until they are written. */
			if (e->cfg->param_home == ST_HOME_NVME)
				e->shard[u] = st_builder_claim(e->b, ST_POOL_STATE, all * e->elem);
			emit_sub_group(e, &c);
			e->shard[u] = ST_NO_CLAIM;
		}
		refresh_device(e, u);
	}
	/* The step ends when all of this has: what it wrote, and what it copied. */
	emit_norm(e);
	for (uint32_t u = 0; u < e->m->n_units; u++) {
		st_builder_touch(e->b, r_param(e, u), 0, 0, true);
		st_builder_touch(e->b, r_state(e, u), 0, 0, true);
	}
}

static void fill_none(uint32_t *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		list[i] = ST_NO_CLAIM;
}

static int compile(const struct st_rank_cfg *cfg, bool is_pending,
		   const struct st_pool_place *places, struct st_program **out,
		   enum st_pool *failed)
{
	size_t n_units = cfg->model->n_units, n_acts = (size_t)cfg->model->n_stages * cfg->n_mb;
	struct emit e = {
		.cfg = cfg,
		.m = cfg->model,
		.n_ranks = (uint64_t)st_hardware_ranks(cfg->hw),
		.elem = (unsigned)st_dtype_bytes(cfg->dtype),
		.copies = cfg->hw->device_type == ST_HW_GPU,
		.is_ds = cfg->style != ST_RANK_STRATA,
		.blocking = ST_NONE,
		.chunk_end = ST_NONE,
	};
	uint32_t *lists = calloc(3 * n_units + 3 * n_acts + cfg->n_mb, sizeof(*lists));
	int rc = st_builder_create(&e.b, is_pending ? "step with a pending update" : "step",
				   3 * (uint32_t)n_units + 1);

	if (!rc && !places)
		st_builder_sketch(e.b);
	e.is_updated = calloc(n_units, sizeof(*e.is_updated));
	if (rc || !lists || !e.is_updated) {
		rc = rc ? rc : st_fail(-ENOMEM, "program of a rank");
		goto out;
	}
	fill_none(lists, 3 * n_units + 3 * n_acts + cfg->n_mb);
	e.dev = lists;
	e.shard = e.dev + n_units;
	e.accum = e.shard + n_units;
	e.act = e.accum + n_units;
	e.at_rest = e.act + n_acts;
	e.saved = e.at_rest + n_acts;
	e.grad = e.saved + n_acts;
	for (size_t u = 0; u < n_units; u++)
		e.is_updated[u] = !is_pending;
	e.gate = e.computed = e.latest =
		st_builder_op(e.b, ST_OP_GATE, ST_NONE, ST_NONE, ST_NONE, ST_NONE);
	if (e.is_ds)
		emit_deepspeed(&e);
	else
		emit_strata(&e);
	rc = st_builder_seal(e.b, places, out, failed);
out:
	free(lists);
	free(e.is_updated);
	st_builder_destroy(e.b);
	return rc;
}

/* ---- memory -------------------------------------------------------------------------------- */

static uint32_t pool_arena(enum st_pool pool)
{
	return pool == ST_POOL_STATE || pool == ST_POOL_REST ? ST_ARENA_HOST : ST_ARENA_DEVICE;
}

/* What stays for the whole run, in memory and on the drives. */
static void place_homes(struct st_rank *r)
{
	const struct st_rank_cfg *c = &r->cfg;
	bool is_ds = c->style != ST_RANK_STRATA;
	uint64_t elem = st_dtype_bytes(c->dtype), n_ranks = (uint64_t)st_hardware_ranks(c->hw);
	uint64_t state = is_ds ? DS_READ : state_bytes(c->dtype), grad = elem;

	for (uint32_t u = 0; u < c->model->n_units; u++)
		r->n_elems += (c->model->units[u].elems + n_ranks - 1) / n_ranks;
	if (c->param_home != ST_HOME_NVME)
		r->resident_bytes[c->param_home == ST_HOME_HOST] += r->n_elems * elem;
	else
		r->disk_bytes += r->n_elems * elem * (is_ds ? 1 : SLOTS);
	if (c->state_home != ST_HOME_NVME)
		r->resident_bytes[c->state_home == ST_HOME_HOST] += r->n_elems * state;
	else
		r->disk_bytes += r->n_elems * state * (is_ds ? 1 : SLOTS);
	if (c->spills_grads)
		r->disk_bytes += r->n_elems * grad;
	else if (is_ds || c->update == ST_UPDATE_DEFERRED)
		r->resident_bytes[c->state_home != ST_HOME_DEVICE] += r->n_elems * grad;
}

static void lay_out(struct st_rank *r, const uint64_t *pool, struct st_pool_place *places)
{
	memcpy(r->arena_bytes, r->resident_bytes, sizeof(r->arena_bytes));
	for (unsigned p = 0; p < ST_POOL_N; p++) {
		uint64_t *end = &r->arena_bytes[pool_arena(p)];

		places[p] = (struct st_pool_place){ pool_arena(p), *end, pool[p] };
		*end += align_up(pool[p]);
	}
}

static bool has_two(const struct st_rank *r)
{
	return r->cfg.style == ST_RANK_STRATA && r->cfg.update == ST_UPDATE_DEFERRED;
}

/* Sizes of pools: the least that hold both programs, what they get, the largest claim of each. */
struct sizes {
	uint64_t least[ST_POOL_N], got[ST_POOL_N], largest[ST_POOL_N];
};

/* Both programs; a pool too large to be filled without gaps gets the least, which is known to do.
 */
static int compile_all(struct st_rank *r, struct sizes *s)
{
	struct st_pool_place places[ST_POOL_N];
	enum st_pool failed = 0;
	int rc;

	do {
		lay_out(r, s->got, places);
		if (r->first != r->steady)
			st_program_destroy(r->first);
		st_program_destroy(r->steady);
		r->first = r->steady = NULL;
		rc = compile(&r->cfg, has_two(r), places, &r->steady, &failed);
		if (!rc && has_two(r))
			rc = compile(&r->cfg, false, places, &r->first, &failed);
		else if (!rc)
			r->first = r->steady;
		if (rc == STRATA_E_NO_FIT) {
			ST_ASSERT(s->got[failed] > s->least[failed]);
			s->got[failed] = s->least[failed];
		}
	} while (rc == STRATA_E_NO_FIT);
	return rc;
}

/* The smallest size, in small steps from the peak of serial order, in which a pool's claims lie. */
static int size_pool(struct st_program *const sketch[2], enum st_pool pool, uint64_t *bytes)
{
	int rc = STRATA_E_NO_FIT;

	*bytes = 0;
	for (unsigned v = 0; v < 2 && sketch[v]; v++)
		if (sketch[v]->pool_peak[pool] > *bytes)
			*bytes = sketch[v]->pool_peak[pool];
	while (rc == STRATA_E_NO_FIT) {
		rc = 0;
		for (unsigned v = 0; !rc && v < 2 && sketch[v]; v++)
			rc = st_place_try(sketch[v], pool, *bytes);
		if (rc == STRATA_E_NO_FIT)
			*bytes += align_up(*bytes / 32 + ALIGN_BYTES);
	}
	return rc;
}

static int measure(const struct st_rank *r, struct sizes *s)
{
	struct st_program *sketch[2] = { NULL, NULL };
	int rc = 0;

	for (unsigned v = 0; !rc && v < 1u + has_two(r); v++) {
		rc = compile(&r->cfg, v == 1, NULL, &sketch[v], NULL);
		for (uint32_t i = 0; !rc && i < sketch[v]->n_claims; i++)
			if (sketch[v]->claims[i].bytes > s->largest[sketch[v]->claims[i].pool])
				s->largest[sketch[v]->claims[i].pool] = sketch[v]->claims[i].bytes;
	}
	for (unsigned pool = 0; !rc && pool < ST_POOL_N; pool++) {
		rc = size_pool(sketch, pool, &s->least[pool]);
		if (rc)
			rc = st_fail(rc, "rank");
	}
	st_program_destroy(sketch[0]);
	st_program_destroy(sketch[1]);
	memcpy(s->got, s->least, sizeof(s->got));
	return rc;
}

/* Room to run ahead: two more of the largest buffers that move, as far as the budgets go. */
static void spread_rest(const struct st_rank *r, uint64_t *pool, const uint64_t *largest)
{
	static const enum st_pool wants[] = { ST_POOL_PARAM, ST_POOL_ACCUM, ST_POOL_ACT,
					      ST_POOL_STATE, ST_POOL_REST };

	for (unsigned i = 0; i < ST_ARRAY_LEN(wants); i++) {
		uint32_t arena = pool_arena(wants[i]);
		uint64_t sum = r->resident_bytes[arena], budget = r->budget_bytes[arena];
		uint64_t more = (wants[i] == ST_POOL_STATE ? 6 : 2) * largest[wants[i]];

		for (unsigned p = 0; p < ST_POOL_N; p++)
			sum += pool_arena(p) == arena ? align_up(pool[p]) : 0;
		if (budget && sum + more > budget)
			more = budget > sum ? budget - sum : 0;
		pool[wants[i]] += more & ~(ALIGN_BYTES - 1);
	}
}

static uint64_t budget(uint64_t asked, double memory)
{
	return asked && (memory <= 0 || (double)asked < memory) ? asked : (uint64_t)memory;
}

int st_rank_create(struct st_rank **out, const struct st_rank_cfg *cfg)
{
	struct st_pool_place places[ST_POOL_N];
	struct sizes s = { .got = { 0 } };
	struct st_rank *r = calloc(1, sizeof(*r));
	int rc;

	if (!r)
		return st_fail(-ENOMEM, "rank");
	r->cfg = *cfg;
	if (cfg->style != ST_RANK_STRATA)
		r->cfg.commits = r->cfg.spills_grads = false;
	r->budget_bytes[ST_ARENA_DEVICE] = budget(cfg->device_bytes, cfg->hw->device_memory_bytes);
	r->budget_bytes[ST_ARENA_HOST] =
		budget(cfg->host_bytes, cfg->hw->host_memory_bytes / cfg->hw->ranks_per_node);
	place_homes(r);
	rc = measure(r, &s);
	if (!rc) {
		lay_out(r, s.got, places);
		memcpy(r->min_bytes, r->arena_bytes, sizeof(r->min_bytes));
		spread_rest(r, s.got, s.largest);
		rc = compile_all(r, &s);
	}
	if (rc) {
		st_rank_destroy(r);
		return rc;
	}
	*out = r;
	return 0;
}

void st_rank_destroy(struct st_rank *r)
{
	if (!r)
		return;
	if (r->first != r->steady)
		st_program_destroy(r->first);
	st_program_destroy(r->steady);
	free(r);
}

bool st_rank_fits(const struct st_rank *r)
{
	for (unsigned a = 0; a < ST_ARENA_N; a++)
		if (r->budget_bytes[a] && r->min_bytes[a] > r->budget_bytes[a])
			return false;
	return true;
}
