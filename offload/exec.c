/* SPDX-License-Identifier: Apache-2.0 */
/* offload/exec.c - the operations of compute, copies and optimizer. */
#include "offload/exec.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#define CHUNK_ELEMS                                                                                \
	((size_t)4 * STRATA_NUMERIC_TILE) /* what a thread takes at a time; never cuts a tile */

static void *at(const struct st_exec *x, const struct st_use *u)
{
	return x->base[u->addr.arena] + u->addr.off_bytes;
}

static const struct st_use *find_use(const struct st_program *p, const struct st_op *op,
				     enum st_role role)
{
	for (uint32_t i = 0; i < op->n_uses; i++)
		if (p->uses[op->first_use + i].role == role)
			return &p->uses[op->first_use + i];
	return NULL;
}

static void *operand(const struct st_exec *x, const struct st_program *p, const struct st_op *op,
		     enum st_role role)
{
	const struct st_use *u = find_use(p, op, role);

	return u ? at(x, u) : NULL;
}

static unsigned team(const struct st_exec *x)
{
	return st_device_caps(x->cfg->device)->threads;
}

/* ---- stages -------------------------------------------------------------------------------- */

static void stage_args(const struct st_exec *x, const struct st_program *p, const struct st_op *op,
		       const struct st_run *run, struct st_stage_args *a)
{
	const struct st_model *m = x->plan->cfg.model;
	size_t first = (size_t)op->mb * m->batch * m->seq;

	*a = (struct st_stage_args){
		.x = operand(x, p, op, ST_ROLE_X),
		.y = operand(x, p, op, ST_ROLE_Y),
		.saved = operand(x, p, op, ST_ROLE_SAVED),
		.work = operand(x, p, op, ST_ROLE_WORK),
		.dy = operand(x, p, op, ST_ROLE_DY),
		.dx = operand(x, p, op, ST_ROLE_DX),
	};
	for (unsigned k = 0; k < m->stages[op->stage].n_units; k++) {
		a->params[k] = operand(x, p, op, ST_ROLE_PARAM0 + k);
		a->grads[k] = operand(x, p, op, ST_ROLE_ACCUM0 + k);
	}
	if (x->plan->cfg.copies) {
		a->tokens = operand(x, p, op, ST_ROLE_TOKENS);
		a->targets = operand(x, p, op, ST_ROLE_TARGETS);
		a->loss = operand(x, p, op, ST_ROLE_LOSS);
	} else {
		a->tokens = (op->is_lookup ? run->rows.tokens : run->tokens) + first;
		a->targets = run->targets + first;
		a->loss = op->stage + 1 == m->n_stages ? run->loss + first : NULL;
	}
	if (op->stage + 1 == m->n_stages)
		a->grad_scale = (float)(run->loss_scale /
					((double)run->n_mb * (double)(m->batch * m->seq)));
}

static int run_forward(struct st_exec *x, const struct st_program *p, const struct st_op *op,
		       struct st_run *run)
{
	const struct st_model *m = x->plan->cfg.model;
	struct st_stage_args a;

	stage_args(x, p, op, run, &a);
	m->fwd(m, x->cfg->device, op->stage, &a);
	return st_device_status(x->cfg->device);
}

static int run_backward(struct st_exec *x, const struct st_program *p, const struct st_op *op,
			struct st_run *run)
{
	const struct st_model *m = x->plan->cfg.model;
	struct st_stage_args a;

	stage_args(x, p, op, run, &a);
	for (unsigned k = 0; k < m->stages[op->stage].n_units; k++)
		if (op->zeroes[k])
			st_fill_zero(x->cfg->device, a.grads[k],
				     find_use(p, op, ST_ROLE_ACCUM0 + k)->bytes);
	m->bwd(m, x->cfg->device, op->stage, &a);
	return st_device_status(x->cfg->device);
}

/* ---- gradients and optimizer --------------------------------------------------------------- */

static int run_reduce(struct st_exec *x, const struct st_program *p, const struct st_op *op)
{
	const struct st_layout *l = x->plan->layout;
	const struct st_tile *t = &l->tiles[op->tile];
	enum strata_optim_grads grads = st_optim_grads(l->grad_dtype);
	const float *acc = operand(x, p, op, ST_ROLE_ACCUM0);
	char *out = operand(x, p, op, ST_ROLE_GRAD);
	double *leaf = x->leaves + t->first_leaf;

	if (x->plan->cfg.copies) {
		st_device_reduce(x->cfg->device, t->elems, acc, out, grads,
				 operand(x, p, op, ST_ROLE_LEAVES));
		return st_device_status(x->cfg->device);
	}
#pragma omp parallel for num_threads(team(x)) schedule(static)
	for (size_t e = 0; e < t->elems; e += CHUNK_ELEMS) {
		size_t n = t->elems - e < CHUNK_ELEMS ? t->elems - e : CHUNK_ELEMS;

		ST_ASSERT(!strata_optim_reduce(n, acc + e, out + e * st_dtype_bytes(l->grad_dtype),
					       grads, leaf + e / STRATA_NUMERIC_TILE));
	}
	return 0;
}

/* The leaves of a tile are there. */
static void count_leaves(struct st_exec *x, const struct st_op *op, struct st_run *run)
{
	const struct st_tile *t = &x->plan->layout->tiles[op->tile];

	run->square_sum +=
		strata_optim_tree_sum(x->leaves + t->first_leaf, t->elems / STRATA_NUMERIC_TILE);
	if (run->speculates && st_will_clip(run->square_sum, x->cfg->clip, run->loss_scale))
		atomic_store(&run->is_hopeless, true);
}

static int run_update(struct st_exec *x, const struct st_program *p, const struct st_op *op,
		      const struct st_run *run)
{
	const struct st_layout *l = x->plan->layout;
	const struct st_tile *t = &l->tiles[op->tile];
	const struct strata_optim_step *both = op->is_pending ? x->boundary.optim : run->optim;
	const struct strata_optim_step *s = &both[t->is_matrix || x->cfg->decays_vectors];
	const struct strata_optim_format format = st_tile_format(l, op->tile);
	void *param = operand(x, p, op, ST_ROLE_PARAM0), *state = operand(x, p, op, ST_ROLE_STATE);
	void *grad = operand(x, p, op, ST_ROLE_GRAD);

	if (st_plan_updates_on_device(x->plan, op->tile)) {
		const struct strata_optim_range r =
			st_tile_range(l, op->tile, 0, t->elems, param, state, grad);

		st_device_update(x->cfg->device, s, &format, &r);
		return st_device_status(x->cfg->device);
	}
#pragma omp parallel for num_threads(team(x)) schedule(static)
	for (size_t e = 0; e < t->elems; e += CHUNK_ELEMS) {
		size_t n = t->elems - e < CHUNK_ELEMS ? t->elems - e : CHUNK_ELEMS;
		const struct strata_optim_range r =
			st_tile_range(l, op->tile, e, n, param, state, grad);

		ST_ASSERT(!strata_optim_update(s, &format, &r));
	}
	return 0;
}

/* ---- rows that are looked up ahead --------------------------------------------------------- */

struct chunk { /* operands of an UPDATE_ROWS */
	const struct st_lookup *lookup;
	const uint32_t *row;
	char *buffer; /* what was read, or NULL */
	char *table;  /* [rows in the chunk, cols] out */
	uint64_t at[ST_ROWS_CHUNK_MAX][STRATA_ARRAY_N][ST_ROW_PARTS_MAX];
};

/* What the update of a part needs where it lives in memory. */
static struct strata_optim_range part_at_home(const struct st_exec *x, const struct chunk *c,
					      const struct st_row_part *p)
{
	const struct st_plan *plan = x->plan;
	const struct st_layout *l = plan->layout;
	struct st_addr param = plan->param_addr[c->lookup->unit];
	struct st_addr state = plan->state_addr[p->tile], grad = plan->rest_addr[p->tile];

	param.off_bytes += l->tiles[p->tile].first_elem * st_dtype_bytes(l->dtype);
	return st_tile_range(l, p->tile, p->tile_elem, p->n, x->base[param.arena] + param.off_bytes,
			     x->base[state.arena] + state.off_bytes,
			     x->base[grad.arena] + grad.off_bytes);
}

static void update_part(const struct st_exec *x, const struct chunk *c, uint32_t i, uint32_t index,
			const struct st_row_part *p)
{
	const struct st_layout *l = x->plan->layout;
	const struct strata_optim_step *s =
		&x->boundary.optim[l->tiles[p->tile].is_matrix || x->cfg->decays_vectors];
	const struct strata_optim_format format = st_tile_format(l, p->tile);
	struct strata_optim_range r = part_at_home(x, c, p);

	for (unsigned a = 0; a < STRATA_ARRAY_N; a++)
		if (st_lookup_reads(c->lookup, a, p->tile))
			r.array[a] = c->buffer + c->at[i][a][index];
	ST_ASSERT(!strata_optim_preview(s, &format, &r,
					c->table + (i * c->lookup->cols + p->first) *
							   st_dtype_bytes(l->dtype)));
}

/* What run_update() will make of the rows: element by element the same operations, so the same
 * bits. */
static void run_update_rows(struct st_exec *x, const struct st_program *p, const struct st_op *op,
			    const struct st_run *run)
{
	const struct st_lookup *l = &x->plan->lookup;
	uint32_t n = st_rows_in_chunk(l, &run->rows, op->chunk);
	struct chunk c = {
		.lookup = l,
		.row = run->rows.row + (size_t)op->chunk * l->chunk_rows,
		.buffer = operand(x, p, op, ST_ROLE_ROWS),
		.table = operand(x, p, op, ST_ROLE_PARAM0),
	};

	st_rows_locate(l, &run->rows, op->chunk, c.at);
#pragma omp parallel for num_threads(team(x)) schedule(static)
	for (uint32_t i = 0; i < n; i++) {
		struct st_row_part part;

		for (uint32_t k = 0; k < ST_ROW_PARTS_MAX && st_row_part(l, c.row[i], k, &part);
		     k++)
			update_part(x, &c, i, k, &part);
	}
}

int st_exec_prepare(const struct st_engine_cfg *cfg, uint64_t step, double lr, double beta1,
		    double beta2, double grad_scale, struct strata_optim_step out[2])
{
	struct strata_optim_cfg optim = cfg->plan->cfg.formats.optim;
	int rc;

	if (beta1 >= 0)
		optim.beta1 = beta1;
	if (beta2 >= 0)
		optim.beta2 = beta2;
	rc = strata_optim_prepare(&out[0], &optim, step, lr, 0, grad_scale);
	return rc ? rc
		  : strata_optim_prepare(&out[1], &optim, step, lr, cfg->weight_decay, grad_scale);
}

double st_exec_mean_loss(const struct st_plan *plan, const struct st_run *run)
{
	size_t rows = plan->cfg.model->batch * plan->cfg.model->seq;
	double sum = 0;

	for (unsigned mb = 0; mb < run->n_mb; mb++) {
		double part = 0;

		for (size_t i = 0; i < rows; i++)
			part += (double)run->loss[mb * rows + i];
		sum += part;
	}
	return sum / ((double)run->n_mb * (double)rows);
}

static int run_norm(struct st_exec *x, struct st_run *run)
{
	double norm =
		sqrt(strata_optim_tree_sum(x->leaves, x->plan->layout->n_leaves)) / run->loss_scale;
	struct st_boundary *b = &x->boundary;
	int rc;

	run->mean_loss = st_exec_mean_loss(x->plan, run);
	run->grad_norm = norm;
	run->verdict = st_judge(norm, x->cfg->clip, x->cfg->scales_loss);
	run->rolled_back = run->speculates && run->verdict.is_vain;
	rc = strata_loss_scale_update(&b->loss_scale, run->verdict.is_skipped);
	if (rc)
		return rc;
	if (!isfinite(run->mean_loss) || (!isfinite(norm) && !run->verdict.is_skipped))
		return st_fail(STRATA_E_NUMERIC,
			       "step %llu: the %s is not finite; lower the learning rate, or look "
			       "at the data",
			       (unsigned long long)run->step,
			       isfinite(run->mean_loss) ? "gradient norm" : "loss");
	if (!run->verdict.is_skipped) {
		rc = st_exec_prepare(x->cfg, b->updates + 1, run->lr, run->beta1, run->beta2,
				     run->verdict.clip_factor / run->loss_scale, b->optim);
		if (rc)
			return rc;
		b->updates++;
	}
	b->step = run->step;
	b->cursor = run->cursor_after;
	return 0;
}

/* ---- copies ---------------------------------------------------------------------------------- */

/* Where what has no address in an arena lies: in the run, or in the engine. */
static void *beside(const struct st_exec *x, const struct st_op *op, const struct st_run *run,
		    enum st_role role)
{
	const struct st_model *m = x->plan->cfg.model;
	size_t first = (size_t)op->mb * m->batch * m->seq;

	switch (role) {
	case ST_ROLE_TOKENS:
		return run->tokens + first;
	case ST_ROLE_TARGETS:
		return run->targets + first;
	case ST_ROLE_ROW_NUMBERS:
		return run->rows.tokens + first;
	case ST_ROLE_LOSS:
		return run->loss + first;
	case ST_ROLE_LEAVES:
		return x->leaves + x->plan->layout->tiles[op->tile].first_leaf;
	default:
		return NULL;
	}
}

static int run_copy(const struct st_exec *x, const struct st_program *p, const struct st_op *op,
		    const struct st_run *run)
{
	enum st_stream stream = op->kind == ST_OP_COPY_IN ? ST_STREAM_H2D : ST_STREAM_D2H;
	const struct st_use *from = NULL;
	int rc = 0;

	for (uint32_t i = op->first_use; !rc && i < op->first_use + op->n_uses; i++) {
		const struct st_use *u = &p->uses[i];
		void *other = beside(x, op, run, u->role);

		if (u->role == ST_ROLE_FROM)
			from = u;
		else if (u->role == ST_ROLE_TO)
			rc = st_device_copy(x->cfg->device, stream, at(x, u), at(x, from),
					    u->bytes);
		else if (u->is_write)
			rc = st_device_copy(x->cfg->device, stream, at(x, u), other, u->bytes);
		else
			rc = st_device_copy(x->cfg->device, stream, other, at(x, u), u->bytes);
	}
	return rc;
}

/* ---- first values and export --------------------------------------------------------------- */

struct piece {
	const struct st_exec *x;
	float *master;
};

static int fill_piece(void *user, const struct st_tensor_desc *t, size_t first, size_t n,
		      size_t off)
{
	const struct piece *p = user;

	return p->x->cfg->fill(p->x->cfg->fill_user, t, first, n, p->master + off);
}

static int run_fill(struct st_exec *x, const struct st_program *p, const struct st_op *op)
{
	const struct st_layout *l = x->plan->layout;
	size_t n = l->tiles[op->tile].elems;
	struct piece piece = { .x = x, .master = operand(x, p, op, ST_ROLE_WORK) };
	char *param = operand(x, p, op, ST_ROLE_PARAM0), *state = operand(x, p, op, ST_ROLE_STATE);
	struct strata_optim_range r;
	int rc;

	memset(piece.master, 0, n * sizeof(float));
	rc = st_tile_each_tensor(l, op->tile, fill_piece, &piece);
	if (rc)
		return rc;
	memset(state, 0, st_tile_state_bytes(l, op->tile));
	r = st_tile_range(l, op->tile, 0, n, param, state, NULL);
	if (l->dtype == ST_BF16)
		strata_optim_split(n, piece.master, r.array[STRATA_ARRAY_PARAM],
				   r.array[STRATA_ARRAY_LOW]);
	else
		memcpy(r.array[STRATA_ARRAY_PARAM], piece.master, n * sizeof(float));
	if (l->dtype == ST_F16)
		for (size_t i = 0; i < n; i++)
			((uint16_t *)param)[i] = st_f32_f16(piece.master[i]);
	return 0;
}

static int run_emit(const struct st_exec *x, const struct st_program *p, const struct st_op *op,
		    const struct st_run *run)
{
	return st_tile_emit(x->plan->layout, op->tile, operand(x, p, op, ST_ROLE_PARAM0),
			    operand(x, p, op, ST_ROLE_STATE), operand(x, p, op, ST_ROLE_WORK),
			    run->emit, run->emit_user);
}

int st_exec_run(void *user, const struct st_program *p, uint32_t op_index, void *ctx)
{
	struct st_exec *x = user;
	struct st_run *run = ctx;
	const struct st_op *op = &p->ops[op_index];

	switch (op->kind) {
	case ST_OP_FORWARD:
		return run_forward(x, p, op, run);
	case ST_OP_BACKWARD:
		return run_backward(x, p, op, run);
	case ST_OP_REDUCE:
		return run_reduce(x, p, op);
	case ST_OP_NORM:
		return run_norm(x, run);
	case ST_OP_UPDATE:
		if (op->is_speculative && atomic_load(&run->is_hopeless))
			return 0;
		return run_update(x, p, op, run);
	case ST_OP_UPDATE_ROWS:
		run_update_rows(x, p, op, run);
		return 0;
	case ST_OP_COPY_IN:
	case ST_OP_COPY_OUT:
		return run_copy(x, p, op, run);
	case ST_OP_FILL:
		return run_fill(x, p, op);
	case ST_OP_EMIT:
		return run_emit(x, p, op, run);
	default:
		return st_fail(-EINVAL, "%s is no operation of a worker", st_op_name(op->kind));
	}
}

void st_exec_done(void *user, const struct st_program *p, uint32_t op_index, void *ctx)
{
	struct st_exec *x = user;
	const struct st_op *op = &p->ops[op_index];

	if (op->kind == (x->plan->cfg.copies ? ST_OP_COPY_OUT : ST_OP_REDUCE) &&
	    (op->kind == ST_OP_REDUCE || find_use(p, op, ST_ROLE_LEAVES)))
		count_leaves(x, op, ctx);
}
