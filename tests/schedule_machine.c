/* SPDX-License-Identifier: Apache-2.0 */
/* tests/schedule_machine.c - symbols in memory and on NVMe, and what each operation does to them.
 */
#include "tests/schedule_machine.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- names of values --------------------------------------------------------------------- */

/* kind, which, a count, and a step, a run or a digest. 0: nobody wrote it yet. */
enum kind {
	K_NOTHING,
	K_BUSY,  /* an operation that has not ended writes it, or one that failed did */
	K_PARAM, /* tile; updates applied, which */
	K_STATE,
	K_GRAD,  /* tile; step */
	K_ROWS,  /* chunk; step whose update is due */
	K_TABLE, /* rows ahead of their table; updates applied, which */
	K_ACT,   /* stage, micro-batch; run */
	K_DACT,
	K_SAVED,
	K_ACCUM, /* unit, contributions; run */
};

static uint64_t name_of(enum kind kind, uint32_t which, uint32_t n, uint64_t what)
{
	return (uint64_t)kind << 60 | (uint64_t)which << 44 | (uint64_t)n << 32 | (uint32_t)what;
}

static const char *text_of(uint64_t name, char *text, size_t n)
{
	static const char *const kinds[] = {
		"nothing",        "what is being written",   "parameters of tile",
		"state of tile",  "gradient of tile",        "rows of chunk",
		"looked up rows", "activation of stage",     "gradient of the activation of stage",
		"saved by stage", "sum of gradients of unit"
	};
	unsigned kind = (unsigned)(name >> 60);

	snprintf(text, n, "%s %u #%u (%#x)", kind < ST_ARRAY_LEN(kinds) ? kinds[kind] : "?",
		 (unsigned)(name >> 44 & 0xffff), (unsigned)(name >> 32 & 0xfff), (unsigned)name);
	return text;
}

static uint32_t digest(uint32_t which, uint64_t step, bool is_clipped)
{
	uint64_t h = (which ^ step << 1 ^ is_clipped) * 0x9e3779b97f4a7c15u;

	return (uint32_t)((h ^ h >> 29) * 0xbf58476d1ce4e5b9u >> 32);
}

void machine_fault(struct machine *m, const char *fmt, ...)
{
	va_list ap;

	if (m->n_faults++)
		return;
	va_start(ap, fmt);
	vsnprintf(m->fault, sizeof(m->fault), fmt, ap);
	va_end(ap);
}

/* ---- operations under way ---------------------------------------------------------------- */

#define EFFECTS_MAX 48u
#define SOURCES_MAX 64u

enum place { IN_ARENA, IN_EXTENT, IN_SCRATCH };

struct effect { /* when the operation is over, this place holds that */
	enum place place;
	uint32_t index; /* arena, extent, or tile of the scratch */
	uint64_t lo, hi;
	uint64_t name;
};

struct sym_job {
	const struct st_program *p;
	struct sym_run *run;
	uint32_t op, n_effects, n_sources;
	bool is_void, commits;
	struct effect effect[EFFECTS_MAX];
	struct effect source[SOURCES_MAX]; /* what is read all the while, and must stay as it is */
};

#define JOBS_MAX 64u

static void fault_at(struct machine *m, const struct sym_job *j, const char *what, uint64_t found,
		     uint64_t wanted)
{
	char a[96], b[96];

	machine_fault(m, "%s, run %u, operation %u (%s): %s: finds %s, in serial order %s",
		      j->p->name, j->run->serial, j->op, st_op_name(j->p->ops[j->op].kind), what,
		      text_of(found, a, sizeof(a)), text_of(wanted, b, sizeof(b)));
}

static uint64_t arena_name(const struct machine *m, struct st_addr a, uint64_t bytes)
{
	uint64_t name;

	if (!st_shadow_is_uniform(&m->arena[a.arena], a.off_bytes, a.off_bytes + bytes, &name))
		return name_of(K_BUSY, 0xffff, 0, 0);
	return name;
}

static void add_source(struct sym_job *j, struct effect e)
{
	ST_ASSERT(j->n_sources < SOURCES_MAX);
	j->source[j->n_sources++] = e;
}

/* [off, off + bytes) of an operand must hold this now, and until the operation is over. */
static void expect(struct machine *m, struct sym_job *j, const char *what, struct st_addr at,
		   uint64_t bytes, uint64_t wanted)
{
	uint64_t found;

	if (!bytes)
		return;
	found = arena_name(m, at, bytes);
	if (found != wanted)
		fault_at(m, j, what, found, wanted);
	add_source(j, (struct effect){ IN_ARENA, at.arena, at.off_bytes, at.off_bytes + bytes,
				       found });
}

static void paint(struct machine *m, const struct effect *e, uint64_t name)
{
	if (e->place == IN_ARENA)
		ST_ASSERT(!st_shadow_paint(&m->arena[e->index], e->lo, e->hi, name));
	else if (e->place == IN_SCRATCH)
		m->scratch[e->index] = name;
	else
		m->extent[e->index].slot[e->lo] = name;
}

static void will_hold(struct machine *m, struct sym_job *j, struct effect e)
{
	if (e.place == IN_ARENA && e.lo == e.hi)
		return;
	ST_ASSERT(j->n_effects < EFFECTS_MAX);
	j->effect[j->n_effects++] = e;
	paint(m, &e, name_of(K_BUSY, j->op, 0, j->run->serial));
}

static void will_hold_at(struct machine *m, struct sym_job *j, struct st_addr at, uint64_t bytes,
			 uint64_t name)
{
	will_hold(m, j,
		  (struct effect){ IN_ARENA, at.arena, at.off_bytes, at.off_bytes + bytes, name });
}

static const struct st_use *use_of(const struct sym_job *j, enum st_role role)
{
	const struct st_op *o = &j->p->ops[j->op];

	for (uint32_t k = 0; k < o->n_uses; k++)
		if (j->p->uses[o->first_use + k].role == role)
			return &j->p->uses[o->first_use + k];
	return NULL;
}

static struct st_addr plus(struct st_addr a, uint64_t off_bytes)
{
	a.off_bytes += off_bytes;
	return a;
}

static uint64_t tile_off(const struct machine *m, uint32_t tile)
{
	const struct st_layout *l = m->plan->layout;

	return l->tiles[tile].first_elem * st_dtype_bytes(l->dtype);
}

static uint64_t tile_after(const struct machine *m, enum kind kind, uint32_t tile, uint64_t step)
{
	return name_of(kind, tile, m->truth[step].n, m->truth[step].which);
}

/* ---- NVMe -------------------------------------------------------------------------------- */

static uint64_t live_name(struct machine *m, const struct sym_job *j, uint32_t e)
{
	const struct sym_extent *x = &m->extent[e];

	if (x->live >= 0)
		return x->slot[x->live];
	machine_fault(m, "%s, run %u, operation %u: reads extent %u, which was never written",
		      j->p->name, j->run->serial, j->op, e);
	return 0;
}

static void read_extent(struct machine *m, struct sym_job *j, uint32_t e, struct st_addr to,
			uint64_t bytes)
{
	uint64_t name = live_name(m, j, e);

	add_source(j, (struct effect){ IN_EXTENT, e, m->extent[e].live == 1, 0, name });
	will_hold_at(m, j, to, bytes, name);
}

static void write_extent(struct machine *m, struct sym_job *j, uint32_t e, struct st_addr from,
			 uint64_t bytes, enum kind kind)
{
	struct sym_extent *x = &m->extent[e];
	uint64_t slot = x->durable == 0, name = arena_name(m, from, bytes);

	if (name >> 44 != name_of(kind, e / 2, 0, 0) >> 44)
		fault_at(m, j, "writes", name, name_of(kind, e / 2, 0, 0));
	if (m->is_committing)
		machine_fault(m, "%s, run %u, operation %u: writes extent %u during a commit",
			      j->p->name, j->run->serial, j->op, e);
	if (x->is_written)
		machine_fault(m, "%s, run %u, operation %u: writes extent %u, as another one does",
			      j->p->name, j->run->serial, j->op, e);
	x->is_written = true;
	m->n_writing++;
	add_source(j, (struct effect){ IN_ARENA, from.arena, from.off_bytes, from.off_bytes + bytes,
				       name });
	will_hold(m, j, (struct effect){ IN_EXTENT, e, slot, 0, name });
}

static void begin_commit(struct machine *m, struct sym_job *j)
{
	const struct st_variant_desc *v = st_variant_desc(j->run->variant);
	bool is_whole = m->plan->cfg.commits || v->saves;

	j->commits =
		st_wants_commit(j->run->variant, m->boundary.step, m->committed, m->commit_every);
	if (!j->commits)
		return;
	if (m->n_writing || m->is_committing)
		machine_fault(m, "%s, run %u: a commit begins while %u writes%s are under way",
			      j->p->name, j->run->serial, m->n_writing,
			      m->is_committing ? " and another one" : "");
	m->is_committing = true;
	m->committed = m->boundary.step;
	m->committing = m->boundary;
	for (uint32_t e = 0; e < 2 * m->plan->layout->n_tiles; e++) {
		struct sym_extent *x = &m->extent[e];
		uint64_t wanted = tile_after(m, e % 2 ? K_STATE : K_PARAM, e / 2, m->boundary.step);

		x->committing = x->live;
		if (x->live < 0 ? is_whole : x->slot[x->live] != wanted)
			fault_at(m, j,
				 x->live < 0 ? "commits an extent that was never written"
					     : "commits",
				 x->live < 0 ? 0 : x->slot[x->live], wanted);
	}
}

static void end_commit(struct machine *m, int rc)
{
	m->is_committing = false;
	m->is_unknown = rc != 0;
	if (rc) {
		m->is_broken = true;
		return;
	}
	m->durable = m->committing;
	m->has_durable = true;
	for (uint32_t e = 0; e < 2 * m->plan->layout->n_tiles; e++)
		m->extent[e].durable = m->extent[e].committing;
}

bool machine_is_ahead(const struct machine *m)
{
	bool is_ahead = m->n_writing > 0;

	for (uint32_t e = 0; e < 2 * m->plan->layout->n_tiles; e++)
		is_ahead |= m->extent[e].live != m->extent[e].durable;
	return is_ahead;
}

int machine_forget(struct machine *m)
{
	uint32_t n = 2 * m->plan->layout->n_tiles, forgotten = UINT32_MAX;

	if (m->n_writing || m->is_committing)
		return st_fail(-EINVAL, "rollback while a commit or %u writes are under way",
			       m->n_writing);
	for (uint32_t e = 0; e < n && m->defect == DEFECT_ROLLBACK_TILE; e++)
		if (m->extent[e].live != m->extent[e].durable)
			forgotten = e;
	m->has_applied |= forgotten != UINT32_MAX;
	for (uint32_t e = 0; e < n; e++)
		if (e != forgotten)
			m->extent[e].live = m->extent[e].durable;
	return 0;
}

/* ---- the lanes of NVMe ------------------------------------------------------------------- */

static void begin_read(struct machine *m, struct sym_job *j)
{
	const struct st_op *o = &j->p->ops[j->op];
	const struct st_layout *l = m->plan->layout;
	const struct st_use *u = &j->p->uses[o->first_use];

	if (o->kind == ST_OP_READ_GRAD) {
		add_source(j, (struct effect){ IN_SCRATCH, o->tile, 0, 0, m->scratch[o->tile] });
		will_hold_at(m, j, u->addr, u->bytes, m->scratch[o->tile]);
	} else if (o->kind == ST_OP_READ_STATE) {
		read_extent(m, j, 2 * o->tile + 1, u->addr, u->bytes);
	} else {
		for (uint32_t t = l->unit_first_tile[o->unit]; t < l->unit_first_tile[o->unit + 1];
		     t++)
			read_extent(m, j, 2 * t, plus(u->addr, tile_off(m, t)),
				    st_tile_param_bytes(l, t));
	}
}

static void begin_write(struct machine *m, struct sym_job *j)
{
	const struct st_op *o = &j->p->ops[j->op];
	const struct st_use *u = &j->p->uses[o->first_use];
	uint64_t name;

	if (o->kind == ST_OP_WRITE_PARAM) {
		write_extent(m, j, 2 * o->tile, u->addr, u->bytes, K_PARAM);
	} else if (o->kind == ST_OP_WRITE_STATE) {
		write_extent(m, j, 2 * o->tile + 1, u->addr, u->bytes, K_STATE);
	} else {
		name = name_of(K_GRAD, o->tile, 0, j->run->step);
		expect(m, j, "spills", u->addr, u->bytes, name);
		will_hold(m, j, (struct effect){ IN_SCRATCH, o->tile, 0, 0, name });
	}
}

/* All of the table stands for its rows: none of it may change meanwhile. */
static void begin_read_rows(struct machine *m, struct sym_job *j)
{
	const struct st_lookup *k = &m->plan->lookup;
	const struct st_layout *l = m->plan->layout;
	const struct st_use *u = use_of(j, ST_ROLE_ROWS);
	uint64_t due = m->boundary.step;

	machine_note(m, FEATURE_ROWS);
	for (uint32_t t = l->unit_first_tile[k->unit]; t < l->unit_first_tile[k->unit + 1]; t++) {
		for (unsigned a = 0; a < STRATA_ARRAY_N; a++) {
			bool is_param = a == l->param_array, is_grad = a == STRATA_ARRAY_GRAD;
			uint32_t e = 2 * t + !is_param;
			uint64_t wanted = is_grad ? name_of(K_GRAD, t, 0, due)
						  : tile_after(m, is_param ? K_PARAM : K_STATE, t,
							       due ? due - 1 : 0);
			uint64_t found;

			if (!st_lookup_reads(k, a, t))
				continue;
			found = is_grad ? m->scratch[t] : live_name(m, j, e);
			if (found != wanted)
				fault_at(m, j, "reads of the table", found, wanted);
			add_source(j, (struct effect){
					      is_grad ? IN_SCRATCH : IN_EXTENT, is_grad ? t : e,
					      !is_grad && m->extent[e].live == 1, 0, found });
		}
	}
	will_hold_at(m, j, u->addr, u->bytes, name_of(K_ROWS, j->p->ops[j->op].chunk, 0, due));
}

/* ---- the compute lane -------------------------------------------------------------------- */

/* Step whose parameters a program of this run computes with. */
static uint64_t base_step(const struct machine *m, const struct sym_run *run)
{
	return st_variant_desc(run->variant)->is_step ? run->step - 1 : m->boundary.step;
}

static void expect_params(struct machine *m, struct sym_job *j)
{
	const struct st_op *o = &j->p->ops[j->op];
	const struct st_stage_desc *s = &m->plan->cfg.model->stages[o->stage];
	const struct st_layout *l = m->plan->layout;
	uint64_t step = base_step(m, j->run);

	for (unsigned k = 0; k < s->n_units; k++) {
		const struct st_use *u = use_of(j, ST_ROLE_PARAM0 + k);
		uint32_t unit = s->units[k];

		if (!u)
			continue;
		if (o->is_lookup && k == 0) {
			expect(m, j, "the rows of the batch", u->addr, u->bytes,
			       name_of(K_TABLE, 0, m->truth[step].n, m->truth[step].which));
			continue;
		}
		for (uint32_t t = l->unit_first_tile[unit]; t < l->unit_first_tile[unit + 1]; t++)
			expect(m, j, "parameters", plus(u->addr, tile_off(m, t)),
			       st_tile_param_bytes(l, t), tile_after(m, K_PARAM, t, step));
	}
}

static void expect_use(struct machine *m, struct sym_job *j, enum st_role role, const char *what,
		       uint64_t wanted)
{
	const struct st_use *u = use_of(j, role);

	if (u)
		expect(m, j, what, u->addr, u->bytes, wanted);
}

static void use_will_hold(struct machine *m, struct sym_job *j, enum st_role role, uint64_t name)
{
	const struct st_use *u = use_of(j, role);

	if (u)
		will_hold_at(m, j, u->addr, u->bytes, name);
}

static void begin_forward(struct machine *m, struct sym_job *j)
{
	const struct st_op *o = &j->p->ops[j->op];
	uint32_t run = j->run->serial;

	if (o->is_recompute)
		machine_note(m, FEATURE_RECOMPUTED);
	expect_params(m, j);
	expect_use(m, j, ST_ROLE_X, "input", name_of(K_ACT, o->stage - 1, o->mb, run));
	use_will_hold(m, j, ST_ROLE_Y, name_of(K_ACT, o->stage, o->mb, run));
	use_will_hold(m, j, ST_ROLE_SAVED, name_of(K_SAVED, o->stage, o->mb, run));
}

/* What the sum of a unit's gradients takes, in order: the last stage first, there each micro-batch.
 * @return how many there are; *at: which one this stage and micro-batch is, from 0 */
static uint32_t contributions(const struct machine *m, uint32_t unit, uint32_t stage, uint32_t mb,
			      uint32_t *at)
{
	const struct st_model *model = m->plan->cfg.model;
	uint32_t n = 0;

	for (uint32_t s = model->n_stages; s-- > 0;) {
		for (unsigned k = 0; k < model->stages[s].n_units; k++) {
			if (model->stages[s].units[k] != unit)
				continue;
			if (s == stage)
				*at = n + mb;
			n += m->plan->cfg.n_mb;
		}
	}
	return n;
}

static void begin_backward(struct machine *m, struct sym_job *j)
{
	const struct st_op *o = &j->p->ops[j->op];
	const struct st_stage_desc *s = &m->plan->cfg.model->stages[o->stage];
	uint32_t run = j->run->serial, at = 0;

	expect_params(m, j);
	expect_use(m, j, ST_ROLE_X, "input", name_of(K_ACT, o->stage - 1, o->mb, run));
	expect_use(m, j, ST_ROLE_SAVED, "saved", name_of(K_SAVED, o->stage, o->mb, run));
	expect_use(m, j, ST_ROLE_DY, "gradient of the output",
		   name_of(K_DACT, o->stage, o->mb, run));
	for (unsigned k = 0; k < s->n_units; k++) {
		const struct st_use *u = use_of(j, ST_ROLE_ACCUM0 + k);

		contributions(m, s->units[k], o->stage, o->mb, &at);
		if (o->zeroes[k] != (at == 0))
			machine_fault(m, "%s operation %u: contribution %u to unit %u %s",
				      j->p->name, j->op, at, s->units[k],
				      at ? "begins it anew" : "is added to what was there");
		if (at)
			expect(m, j, "sum so far", u->addr, u->bytes,
			       name_of(K_ACCUM, s->units[k], at, run));
		if (at)
			j->n_sources--; /* it changes, by this operation */
		will_hold_at(m, j, u->addr, u->bytes, name_of(K_ACCUM, s->units[k], at + 1, run));
	}
	if (o->stage)
		use_will_hold(m, j, ST_ROLE_DX, name_of(K_DACT, o->stage - 1, o->mb, run));
}

static void begin_reduce(struct machine *m, struct sym_job *j)
{
	const struct st_op *o = &j->p->ops[j->op];
	uint32_t at = 0;

	expect_use(m, j, ST_ROLE_ACCUM0, "sum",
		   name_of(K_ACCUM, o->unit, contributions(m, o->unit, 0, 0, &at), j->run->serial));
	use_will_hold(m, j, ST_ROLE_GRAD, name_of(K_GRAD, o->tile, 0, j->run->step));
}

/* Where a tile's share of the norm lies: in the scenario, for each step. */
static double square_of(const struct machine *m, const struct sym_run *run, uint32_t tile)
{
	uint32_t n = m->plan->layout->n_tiles;
	double norm = m->scenario->step[run->step].size * run->loss_scale;
	bool is_hot = tile == m->scenario->step[run->step].hot % n;

	if (is_hot && m->scenario->step[run->step].outcome == OVERFLOWS)
		return m->scenario->step[run->step].is_nan ? NAN : INFINITY;
	if (m->scenario->step[run->step].is_even || n == 1)
		return norm * norm / n;
	return is_hot ? norm * norm * 0.96875 : norm * norm * 0.03125 / (n - 1);
}

static void end_reduce(struct machine *m, const struct sym_job *j)
{
	const struct st_op *o = &j->p->ops[j->op];
	struct sym_run *run = j->run;
	bool was_hopeless = run->is_hopeless;

	m->leaf[o->tile].step = run->step;
	m->leaf[o->tile].square = square_of(m, run, o->tile);
	run->square_sum += m->leaf[o->tile].square;
	if (!st_variant_desc(run->variant)->speculates)
		return;
	run->is_hopeless |= st_will_clip(run->square_sum, m->scenario->clip, run->loss_scale) ||
			    m->defect == DEFECT_NO_ABORT;
	if (run->is_hopeless && !was_hopeless)
		machine_note(m, FEATURE_ABORTED);
}

/* The optimizer on a tile's master weights. @return the name's count and digest after it */
static void begin_update(struct machine *m, struct sym_job *j)
{
	const struct st_op *o = &j->p->ops[j->op];
	const struct st_use *param = use_of(j, ST_ROLE_PARAM0), *state = use_of(j, ST_ROLE_STATE);
	uint64_t step = o->is_pending ? m->boundary.step : j->run->step, found, wanted;
	bool is_clipped = o->is_pending && m->boundary.is_clipped, may_fail;
	uint32_t n, which;

	found = arena_name(m, state->addr, state->bytes);
	if (found >> 44 != name_of(K_STATE, o->tile, 0, 0) >> 44)
		fault_at(m, j, "state", found, name_of(K_STATE, o->tile, 0, 0));
	wanted = name_of(K_PARAM, o->tile, 0, 0) | (found & 0xfffffffffffu);
	if (m->plan->layout->param_array != STRATA_ARRAY_LOW &&
	    arena_name(m, param->addr, param->bytes) != wanted)
		fault_at(m, j, "parameters beside the state",
			 arena_name(m, param->addr, param->bytes), wanted);
	expect_use(m, j, ST_ROLE_GRAD, "gradient", name_of(K_GRAD, o->tile, 0, step));
	n = ((uint32_t)(found >> 32) & 0xfff) + 1;
	which = digest((uint32_t)found, step, is_clipped);
	may_fail = m->scenario->step[step].outcome != PLAIN && /* nothing of it will be committed */
		   (o->is_speculative || (!o->is_pending && !m->scenario->scales_loss));
	if (!may_fail && (n != m->truth[step].n || which != m->truth[step].which))
		fault_at(m, j, "updates to", name_of(K_STATE, o->tile, n, which),
			 tile_after(m, K_STATE, o->tile, step));
	will_hold_at(m, j, param->addr, param->bytes, name_of(K_PARAM, o->tile, n, which));
	will_hold_at(m, j, state->addr, state->bytes, name_of(K_STATE, o->tile, n, which));
	machine_note(m, o->is_speculative ? FEATURE_SPECULATED
			: o->is_pending   ? FEATURE_DEFERRED
					  : FEATURE_IMMEDIATE);
}

/* What of the table is at home in memory, and what was read of it, is as it was before the update
 * that is due. */
static void begin_update_rows(struct machine *m, struct sym_job *j)
{
	const struct st_plan *plan = m->plan;
	const struct st_lookup *k = &plan->lookup;
	const struct st_layout *l = plan->layout;
	uint64_t due = m->boundary.step, before = due ? due - 1 : 0;

	expect_use(m, j, ST_ROLE_ROWS, "rows", name_of(K_ROWS, j->p->ops[j->op].chunk, 0, due));
	for (uint32_t t = l->unit_first_tile[k->unit]; t < l->unit_first_tile[k->unit + 1]; t++) {
		if (!(plan->on_nvme[t] & ST_ON_NVME_PARAM) && st_lookup_needs(k, l->param_array, t))
			expect(m, j, "parameters", plus(plan->param_addr[k->unit], tile_off(m, t)),
			       st_tile_param_bytes(l, t), tile_after(m, K_PARAM, t, before));
		if (!(plan->on_nvme[t] & ST_ON_NVME_STATE))
			expect(m, j, "state", plan->state_addr[t], st_tile_state_bytes(l, t),
			       tile_after(m, K_STATE, t, before));
		if (!(plan->on_nvme[t] & ST_ON_NVME_GRAD))
			expect(m, j, "gradient", plan->rest_addr[t], st_tile_grad_bytes(l, t),
			       name_of(K_GRAD, t, 0, due));
	}
	use_will_hold(m, j, ST_ROLE_PARAM0,
		      name_of(K_TABLE, 0, m->truth[due].n, m->truth[due].which));
}

static int end_norm(struct machine *m, const struct sym_job *j)
{
	struct sym_run *run = j->run;
	double sum = 0, norm;
	int rc;

	for (uint32_t t = 0; t < m->plan->layout->n_tiles; t++) {
		if (m->leaf[t].step != run->step)
			machine_fault(m, "step %llu: the norm takes tile %u of step %llu",
				      (unsigned long long)run->step, t,
				      (unsigned long long)m->leaf[t].step);
		sum += m->leaf[t].square;
	}
	norm = sqrt(sum) / run->loss_scale;
	run->verdict = st_judge(norm, m->scenario->clip, m->scenario->scales_loss);
	run->rolled_back = st_variant_desc(run->variant)->speculates && run->verdict.is_vain;
	rc = strata_loss_scale_update(&m->boundary.loss_scale, run->verdict.is_skipped);
	if (rc)
		return rc;
	if (!isfinite(norm) && !run->verdict.is_skipped) {
		machine_note(m, FEATURE_NOT_FINITE);
		return st_fail(STRATA_E_NUMERIC, "step %llu: the norm is not finite",
			       (unsigned long long)run->step);
	}
	m->boundary.is_clipped = run->verdict.clip_factor != 1;
	m->boundary.step = run->step;
	return 0;
}

static void begin_tile(struct machine *m, struct sym_job *j)
{
	const struct st_op *o = &j->p->ops[j->op];
	uint64_t param = tile_after(m, K_PARAM, o->tile, m->boundary.step);
	uint64_t state = tile_after(m, K_STATE, o->tile, m->boundary.step);

	if (o->kind == ST_OP_FILL) {
		use_will_hold(m, j, ST_ROLE_PARAM0, param);
		use_will_hold(m, j, ST_ROLE_STATE, state);
	} else {
		expect_use(m, j, ST_ROLE_PARAM0, "parameters", param);
		expect_use(m, j, ST_ROLE_STATE, "state", state);
	}
}

/* ---- lanes ------------------------------------------------------------------------------- */

void machine_begin(void *user, const struct st_program *p, uint32_t op, void *ctx)
{
	struct machine *m = user;
	const struct st_op *o = &p->ops[op];
	struct sym_job *j = &m->jobs[m->n_jobs];

	ST_ASSERT(m->n_jobs < JOBS_MAX);
	m->n_jobs++;
	j->p = p;
	j->run = ctx;
	j->op = op;
	j->n_effects = j->n_sources = 0;
	j->commits = false;
	j->is_void = o->is_speculative && j->run->is_hopeless;
	if (j->is_void)
		machine_note(m, FEATURE_VOID);
	if (o->lane == ST_LANE_COMPUTE && st_variant_desc(j->run->variant)->is_step &&
	    !j->run->step) {
		machine_fault(m, "%s operation %u (%s) computes before its gate", p->name, op,
			      st_op_name(o->kind));
		j->is_void = true; /* nobody knows of which step */
	}
	if (j->is_void)
		return;
	switch (o->kind) {
	case ST_OP_READ_PARAM:
	case ST_OP_READ_STATE:
	case ST_OP_READ_GRAD:
		begin_read(m, j);
		break;
	case ST_OP_READ_ROWS:
		begin_read_rows(m, j);
		break;
	case ST_OP_WRITE_PARAM:
	case ST_OP_WRITE_STATE:
	case ST_OP_WRITE_GRAD:
		begin_write(m, j);
		break;
	case ST_OP_COMMIT:
		begin_commit(m, j);
		break;
	case ST_OP_FORWARD:
		begin_forward(m, j);
		break;
	case ST_OP_BACKWARD:
		begin_backward(m, j);
		break;
	case ST_OP_REDUCE:
		begin_reduce(m, j);
		break;
	case ST_OP_UPDATE:
		begin_update(m, j);
		break;
	case ST_OP_UPDATE_ROWS:
		begin_update_rows(m, j);
		break;
	case ST_OP_FILL:
	case ST_OP_EMIT:
		begin_tile(m, j);
		break;
	case ST_OP_NORM:
		break;
	default:
		machine_fault(m, "%s operation %u: nobody knows what %s does", p->name, op,
			      st_op_name(o->kind));
	}
}

static void check_sources(struct machine *m, const struct sym_job *j)
{
	for (uint32_t i = 0; i < j->n_sources; i++) {
		const struct effect *e = &j->source[i];
		uint64_t name;

		if (e->place == IN_ARENA)
			name = arena_name(m, (struct st_addr){ e->index, e->lo }, e->hi - e->lo);
		else if (e->place == IN_SCRATCH)
			name = m->scratch[e->index];
		else
			name = m->extent[e->index].slot[e->lo];
		if (name != e->name)
			fault_at(m, j, "changed while it was read", name, e->name);
	}
}

static void apply(struct machine *m, const struct sym_job *j, int rc)
{
	for (uint32_t i = 0; i < j->n_effects; i++) {
		const struct effect *e = &j->effect[i];

		if (!rc)
			paint(m, e, e->name);
		if (e->place != IN_EXTENT)
			continue;
		m->extent[e->index].is_written = false;
		m->n_writing--;
		if (rc)
			m->is_broken = true;
		else
			m->extent[e->index].live = (int8_t)e->lo;
	}
}

int machine_end(void *user, const struct st_program *p, uint32_t op, void *ctx, int rc)
{
	struct machine *m = user;
	struct sym_job j;
	uint32_t i = 0;

	while (i < m->n_jobs && (m->jobs[i].p != p || m->jobs[i].op != op || m->jobs[i].run != ctx))
		i++;
	ST_ASSERT(i < m->n_jobs);
	j = m->jobs[i];
	m->jobs[i] = m->jobs[--m->n_jobs];
	check_sources(m, &j);
	apply(m, &j, rc);
	if (j.commits)
		end_commit(m, rc);
	if (!rc && p->ops[op].kind == ST_OP_REDUCE && !j.is_void)
		end_reduce(m, &j);
	if (!rc && p->ops[op].kind == ST_OP_NORM && !j.is_void)
		rc = end_norm(m, &j);
	return rc;
}

/* ---- the whole machine ------------------------------------------------------------------- */

void machine_expect_durable(struct machine *m, uint64_t step)
{
	char a[96], b[96];

	if (m->durable.step != step)
		machine_fault(m, "the store holds step %llu, not %llu",
			      (unsigned long long)m->durable.step, (unsigned long long)step);
	for (uint32_t e = 0; e < 2 * m->plan->layout->n_tiles; e++) {
		const struct sym_extent *x = &m->extent[e];
		uint64_t wanted = tile_after(m, e % 2 ? K_STATE : K_PARAM, e / 2, step);

		if (x->durable >= 0 && x->slot[x->durable] != wanted)
			machine_fault(m, "the store's step %llu holds %s in place of %s",
				      (unsigned long long)step,
				      text_of(x->slot[x->durable], a, sizeof(a)),
				      text_of(wanted, b, sizeof(b)));
	}
}

static void lose_memory(struct machine *m)
{
	for (unsigned a = 0; a < ST_ARENA_N; a++)
		ST_ASSERT(!st_shadow_paint(&m->arena[a], 0, UINT64_MAX, 0));
	for (uint32_t t = 0; t < m->plan->layout->n_tiles; t++) {
		m->scratch[t] = 0;
		m->leaf[t].step = 0;
	}
}

void machine_crash(struct machine *m, bool commit_counts)
{
	if (m->is_committing || m->is_unknown)
		end_commit(m, commit_counts ? 0 : -EIO);
	m->is_unknown = false;
	m->n_jobs = m->n_writing = 0;
	m->is_broken = false;
	lose_memory(m);
	for (uint32_t e = 0; e < 2 * m->plan->layout->n_tiles; e++) {
		struct sym_extent *x = &m->extent[e];

		x->live = x->durable;
		x->is_written = false;
	}
	if (m->has_durable)
		machine_expect_durable(m, m->durable.step);
	m->boundary = m->durable;
	m->committed = m->durable.step;
}

void machine_init(struct machine *m, const struct st_plan *plan, const struct scenario *scenario,
		  uint64_t commit_every)
{
	const struct strata_loss_scale_cfg scale = STRATA_LOSS_SCALE_CFG_DEFAULT;
	uint32_t n = plan->layout->n_tiles;

	memset(m, 0, sizeof(*m));
	m->plan = plan;
	m->scenario = scenario;
	m->commit_every = commit_every;
	m->extent = calloc((size_t)2 * n, sizeof(*m->extent));
	m->scratch = calloc(n, sizeof(*m->scratch));
	m->leaf = calloc(n, sizeof(*m->leaf));
	m->jobs = calloc(JOBS_MAX, sizeof(*m->jobs));
	ST_ASSERT(m->extent && m->scratch && m->leaf && m->jobs);
	for (uint32_t e = 0; e < 2 * n; e++)
		m->extent[e].live = m->extent[e].durable = m->extent[e].committing = -1;
	for (unsigned a = 0; a < ST_ARENA_N; a++)
		ST_ASSERT(!st_shadow_init(&m->arena[a]));
	ST_ASSERT(!strata_loss_scale_init(&m->boundary.loss_scale, &scale));
	if (!scenario->scales_loss)
		m->boundary.loss_scale.scale = 1;
	m->boundary.loss_scale.window = scenario->scales_loss ? scale.window : 0;
	m->durable = m->boundary;
	for (uint32_t i = 1; i <= SCHEDULE_STEPS_MAX; i++) {
		enum outcome o = scenario->step[i].outcome;

		m->truth[i] = m->truth[i - 1];
		if (o == OVERFLOWS)
			continue;
		m->truth[i].n++;
		m->truth[i].which = digest(m->truth[i].which, i, o == CLIPS);
	}
}

void machine_fini(struct machine *m)
{
	free(m->extent);
	free(m->scratch);
	free(m->leaf);
	free(m->jobs);
	for (unsigned a = 0; a < ST_ARENA_N; a++)
		st_shadow_fini(&m->arena[a]);
}
