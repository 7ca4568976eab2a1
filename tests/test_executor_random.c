/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_executor_random.c - the executor on simulated lanes: random programs, and what must be
 * found. (Compiled plans, and all that an engine decides: tests/test_schedules.c)
 * Timeout: 180
 *
 * STRATA_SEED=n runs that one seed of the property test and prints its programs; STRATA_SEEDS=n
 * sets how many are run.
 */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "offload/executor.h"
#include "offload/lanes_sim.h"
#include "tests/program_defects.h"
#include "tests/sanitizer.h"

#define SEEDS        (SANITIZER_HAS_MALLOC ? 600u : 3000u)
#define KIB          ((uint64_t)1024)
#define STEPS_MAX    6u
#define VARIANTS_MAX 3u
#define FIXED_BYTES  (64 * KIB) /* memory that stays, per resource */

/* ---- random programs --------------------------------------------------------------------- */

/* What the programs of one run share, so that their resources mean the same. */
struct shape {
	bool is_wild;
	uint32_t n_units, n_tiles, n_mb; /* n_tiles: of each unit */
	uint32_t n_resources;
	bool param_streams, state_streams, defers, spills, recomputes;
	uint64_t tile_bytes, act_bytes, work_bytes;
};

enum { R_LEAVES, R_PENDING, R_ROUND, R_COUNT };

static uint32_t r_param(const struct shape *sh, uint32_t unit)
{
	return unit;
}

static uint32_t r_state(const struct shape *sh, uint32_t unit, uint32_t tile)
{
	return sh->n_units + unit * sh->n_tiles + tile;
}

static uint32_t r_rest(const struct shape *sh, uint32_t unit, uint32_t tile)
{
	return sh->n_units + (sh->n_units + unit) * sh->n_tiles + tile;
}

static uint32_t r_one(const struct shape *sh, uint32_t which)
{
	return sh->n_units * (1 + 2 * sh->n_tiles) + which;
}

static void make_shape(struct shape *sh, struct rng *r)
{
	*sh = (struct shape){
		.is_wild = chance(r, 50),
		.n_units = 1 + below(r, 4),
		.n_tiles = 1 + below(r, 3),
		.n_mb = 1 + below(r, 3),
		.param_streams = chance(r, 70),
		.state_streams = chance(r, 70),
		.defers = chance(r, 50),
		.spills = chance(r, 50),
		.recomputes = chance(r, 50),
		.tile_bytes = 1 + below(r, 12 * 1024),
		.act_bytes = 1 + below(r, 20 * 1024),
		.work_bytes = below(r, 20 * 1024),
	};
	sh->n_resources = r_one(sh, R_COUNT);
}

/* Memory that stays and belongs to a resource; the touch that orders it goes with it. */
static void use_fixed(struct st_builder *b, enum st_role role, uint32_t resource, uint64_t lo,
		      uint64_t bytes, bool is_write)
{
	struct st_addr a = { ST_ARENA_HOST, resource * FIXED_BYTES + lo };

	st_builder_use_fixed(b, role, a, bytes, is_write);
	st_builder_touch(b, resource, lo, lo + bytes, is_write);
}

static void add(struct st_builder *b, struct rng *r, enum st_op_kind kind, uint32_t unit,
		uint32_t tile)
{
	st_builder_op(b, kind, unit, tile, ST_NONE, ST_NONE);
	st_builder_last(b)->bytes = below(r, 1 << 20);
	st_builder_last(b)->flops = below(r, 1 << 20);
}

struct train { /* one training step while it is emitted */
	struct st_builder *b;
	struct rng *r;
	const struct shape *sh;
	uint32_t gate, param, accum;
	uint32_t act[8], grad[8]; /* [n_mb] of the latest stage */
};

/* A unit's parameters into one buffer, a read for each tile: all but one begin after its claim. */
static void read_unit(struct train *t, uint32_t unit)
{
	const struct shape *sh = t->sh;

	t->param = ST_NO_CLAIM;
	if (!sh->param_streams)
		return;
	t->param = st_builder_claim(t->b, ST_POOL_PARAM, sh->n_tiles * sh->tile_bytes);
	for (uint32_t k = 0; k < sh->n_tiles; k++) {
		add(t->b, t->r, ST_OP_READ_PARAM, unit, k);
		st_builder_use(t->b, ST_ROLE_PARAM0, t->param, k * sh->tile_bytes, sh->tile_bytes,
			       true);
		st_builder_touch(t->b, r_param(sh, unit), k * sh->tile_bytes,
				 (k + 1) * sh->tile_bytes, false);
	}
}

static void use_unit(struct train *t, uint32_t unit)
{
	uint64_t bytes = t->sh->n_tiles * t->sh->tile_bytes;

	if (t->param != ST_NO_CLAIM)
		st_builder_use(t->b, ST_ROLE_PARAM0, t->param, 0, bytes, false);
	else
		use_fixed(t->b, ST_ROLE_PARAM0, r_param(t->sh, unit), 0, bytes, false);
}

static void use_work(struct train *t)
{
	if (t->sh->work_bytes)
		st_builder_use(t->b, ST_ROLE_WORK,
			       st_builder_claim(t->b, ST_POOL_WORK, t->sh->work_bytes), 0,
			       t->sh->work_bytes, true);
	st_builder_after(t->b, t->gate);
}

/* Update of a tile: state in, parameters and state changed, both written back. grad: or at home. */
static void update_tile(struct train *t, uint32_t unit, uint32_t tile, uint32_t grad)
{
	const struct shape *sh = t->sh;
	uint64_t lo = tile * sh->tile_bytes, bytes = sh->tile_bytes;
	uint32_t state = ST_NO_CLAIM, s = r_state(sh, unit, tile), p = r_param(sh, unit);

	if (sh->state_streams) {
		state = st_builder_claim(t->b, ST_POOL_STATE, 2 * bytes);
		add(t->b, t->r, ST_OP_READ_STATE, unit, tile);
		st_builder_use(t->b, ST_ROLE_STATE, state, 0, 2 * bytes, true);
		st_builder_touch(t->b, s, 0, 0, false);
	}
	add(t->b, t->r, ST_OP_UPDATE, unit, tile);
	if (t->param != ST_NO_CLAIM)
		st_builder_use(t->b, ST_ROLE_PARAM0, t->param, lo, bytes, true);
	else
		use_fixed(t->b, ST_ROLE_PARAM0, p, lo, bytes, true);
	if (state != ST_NO_CLAIM)
		st_builder_use(t->b, ST_ROLE_STATE, state, 0, 2 * bytes, true);
	else
		use_fixed(t->b, ST_ROLE_STATE, s, 0, 2 * bytes, true);
	if (grad != ST_NO_CLAIM)
		st_builder_use(t->b, ST_ROLE_GRAD, grad, 0, bytes, false);
	else
		use_fixed(t->b, ST_ROLE_GRAD, r_rest(sh, unit, tile), 0, bytes, false);
	st_builder_after(t->b, t->gate);
	if (t->param != ST_NO_CLAIM) {
		add(t->b, t->r, ST_OP_WRITE_PARAM, unit, tile);
		st_builder_use(t->b, ST_ROLE_PARAM0, t->param, lo, bytes, false);
		st_builder_touch(t->b, p, lo, lo + bytes, true);
		st_builder_touch(t->b, r_one(sh, R_ROUND), 0, 0, false);
		st_builder_after(t->b, t->gate);
	}
	if (state != ST_NO_CLAIM) {
		add(t->b, t->r, ST_OP_WRITE_STATE, unit, tile);
		st_builder_use(t->b, ST_ROLE_STATE, state, 0, 2 * bytes, false);
		st_builder_touch(t->b, s, 0, 0, true);
		st_builder_touch(t->b, r_one(sh, R_ROUND), 0, 0, false);
		st_builder_after(t->b, t->gate);
	}
}

static void apply_pending(struct train *t, uint32_t unit)
{
	for (uint32_t k = 0; k < t->sh->n_tiles; k++) {
		uint32_t grad = ST_NO_CLAIM;

		if (t->sh->spills) {
			grad = st_builder_claim(t->b, ST_POOL_REST, t->sh->tile_bytes);
			add(t->b, t->r, ST_OP_READ_GRAD, unit, k);
			st_builder_use(t->b, ST_ROLE_GRAD, grad, 0, t->sh->tile_bytes, true);
			st_builder_touch(t->b, r_rest(t->sh, unit, k), 0, 0, false);
		}
		update_tile(t, unit, k, grad);
	}
}

static void emit_forward(struct train *t, uint32_t unit)
{
	for (uint32_t mb = 0; mb < t->sh->n_mb; mb++) {
		uint32_t y = st_builder_claim(t->b, ST_POOL_ACT, t->sh->act_bytes);

		add(t->b, t->r, ST_OP_FORWARD, unit, ST_NONE);
		use_unit(t, unit);
		if (unit)
			st_builder_use(t->b, ST_ROLE_X, t->act[mb], 0, t->sh->act_bytes, false);
		st_builder_use(t->b, ST_ROLE_Y, y, 0, t->sh->act_bytes, true);
		use_work(t);
		t->act[mb] = y;
	}
}

static void finish_tile(struct train *t, uint32_t unit, uint32_t tile)
{
	const struct shape *sh = t->sh;
	bool is_at_home = sh->defers && !sh->spills;
	uint32_t grad =
		is_at_home ? ST_NO_CLAIM : st_builder_claim(t->b, ST_POOL_REST, sh->tile_bytes);
	uint32_t rest = r_rest(sh, unit, tile), leaf = unit * sh->n_tiles + tile;

	add(t->b, t->r, ST_OP_REDUCE, unit, tile);
	st_builder_use(t->b, ST_ROLE_ACCUM0, t->accum, 2 * tile * sh->tile_bytes,
		       2 * sh->tile_bytes, false);
	if (is_at_home)
		use_fixed(t->b, ST_ROLE_GRAD, rest, 0, sh->tile_bytes, true);
	else
		st_builder_use(t->b, ST_ROLE_GRAD, grad, 0, sh->tile_bytes, true);
	st_builder_touch(t->b, r_one(sh, R_LEAVES), leaf, leaf + 1, true);
	st_builder_after(t->b, t->gate);
	if (sh->defers && !is_at_home) {
		add(t->b, t->r, ST_OP_WRITE_GRAD, unit, tile);
		st_builder_use(t->b, ST_ROLE_GRAD, grad, 0, sh->tile_bytes, false);
		st_builder_touch(t->b, rest, 0, 0, true);
		st_builder_after(t->b, t->gate);
	} else if (!sh->defers) {
		update_tile(t, unit, tile, grad);
	}
}

static void emit_backward(struct train *t, uint32_t unit)
{
	const struct shape *sh = t->sh;

	read_unit(t, unit);
	t->accum = st_builder_claim(t->b, ST_POOL_ACCUM, 2 * sh->n_tiles * sh->tile_bytes);
	for (uint32_t mb = 0; mb < sh->n_mb; mb++) {
		uint32_t dx = st_builder_claim(t->b, ST_POOL_ACT, sh->act_bytes);
		uint32_t saved = st_builder_claim(t->b, ST_POOL_SAVED, sh->act_bytes);

		add(t->b, t->r, ST_OP_FORWARD, unit, ST_NONE);
		use_unit(t, unit);
		st_builder_use(t->b, ST_ROLE_SAVED, saved, 0, sh->act_bytes, true);
		if (sh->recomputes)
			st_builder_use(t->b, ST_ROLE_Y, dx, 0, sh->act_bytes, true);
		use_work(t);
		add(t->b, t->r, ST_OP_BACKWARD, unit, ST_NONE);
		use_unit(t, unit);
		st_builder_use(t->b, ST_ROLE_SAVED, saved, 0, sh->act_bytes, false);
		st_builder_use(t->b, ST_ROLE_ACCUM0, t->accum, 0, 2 * sh->n_tiles * sh->tile_bytes,
			       true);
		st_builder_use(t->b, ST_ROLE_DY, t->grad[mb], 0, sh->act_bytes, false);
		st_builder_use(t->b, ST_ROLE_DX, dx, 0, sh->act_bytes, true);
		use_work(t);
		t->grad[mb] = dx;
	}
	for (uint32_t k = 0; k < sh->n_tiles; k++)
		finish_tile(t, unit, k);
}

/* Like a training step: with a pending update, without one, or forward only. */
static void emit_step(struct st_builder *b, struct rng *r, const struct shape *sh)
{
	struct train t = { .b = b, .r = r, .sh = sh };
	bool is_pending = sh->defers && chance(r, 60), is_forward_only = chance(r, 20);

	t.gate = st_builder_op(b, ST_OP_GATE, ST_NONE, ST_NONE, ST_NONE, ST_NONE);
	for (uint32_t u = 0; u < sh->n_units; u++) {
		read_unit(&t, u);
		if (is_pending)
			apply_pending(&t, u);
		emit_forward(&t, u);
	}
	memcpy(t.grad, t.act, sizeof(t.grad));
	for (uint32_t u = sh->n_units; !is_forward_only && u-- > 0;)
		emit_backward(&t, u);
	add(b, r, ST_OP_NORM, ST_NONE, ST_NONE);
	st_builder_touch(b, r_one(sh, R_LEAVES), 0, 0, false);
	st_builder_touch(b, r_one(sh, R_PENDING), 0, 0, true);
	st_builder_after(b, t.gate);
	if (chance(r, 70)) {
		add(b, r, ST_OP_COMMIT, ST_NONE, ST_NONE);
		st_builder_touch(b, r_one(sh, R_ROUND), 0, 0, true);
		st_builder_touch(b, r_one(sh, R_PENDING), 0, 0, false);
		st_builder_after(b, t.gate);
	}
}

struct wild_claim {
	uint32_t id;
	uint64_t bytes;
};

/* Random uses of one operation: claims that live, a new one, ranges at any address. */
static void wild_uses(struct st_builder *b, struct rng *r, struct wild_claim *live,
		      uint32_t *n_live)
{
	for (uint32_t i = 0; i < *n_live;) {
		if (chance(r, 15)) {
			live[i] = live[--*n_live];
			continue;
		}
		if (chance(r, 35)) {
			uint64_t lo = below(r, (uint32_t)live[i].bytes);
			uint64_t bytes = chance(r, 30)
						 ? live[i].bytes - lo
						 : 1 + below(r, (uint32_t)(live[i].bytes - lo));

			st_builder_use(b, ST_ROLE_X, live[i].id, lo, bytes, chance(r, 40));
		}
		i++;
	}
	while (*n_live < 8 && chance(r, 35)) {
		uint64_t bytes = 1 + below(r, chance(r, 20) ? 200 * 1024 : 20 * 1024);
		uint32_t id = st_builder_claim(b, below(r, ST_POOL_N), bytes);

		st_builder_use(b, ST_ROLE_Y, id, 0,
			       chance(r, 70) ? bytes : 1 + below(r, (uint32_t)bytes), true);
		live[(*n_live)++] = (struct wild_claim){ id, bytes };
	}
}

/* No structure at all. What lasts is changed behind the gate only: look-ahead can be cancelled. */
static void emit_wild(struct st_builder *b, struct rng *r, const struct shape *sh)
{
	static const enum st_op_kind kinds[] = { ST_OP_READ_PARAM,  ST_OP_READ_STATE,
						 ST_OP_WRITE_PARAM, ST_OP_WRITE_STATE,
						 ST_OP_COMMIT,      ST_OP_FORWARD,
						 ST_OP_UPDATE };
	struct wild_claim live[8];
	uint32_t n = 5 + below(r, 60), gate_at = below(r, n / 2), gate = ST_NONE, n_live = 0;

	for (uint32_t i = 0; i < n; i++) {
		bool has_effect = gate != ST_NONE && chance(r, 50);

		if (i == gate_at) {
			gate = st_builder_op(b, ST_OP_GATE, ST_NONE, ST_NONE, ST_NONE, ST_NONE);
			continue;
		}
		add(b, r, kinds[below(r, ST_ARRAY_LEN(kinds))], ST_NONE, i);
		wild_uses(b, r, live, &n_live);
		for (uint32_t k = below(r, 3); k; k--) {
			uint32_t resource = below(r, sh->n_resources);
			uint64_t lo = below(r, FIXED_BYTES - 1);
			uint64_t bytes = 1 + below(r, (uint32_t)(FIXED_BYTES - lo));

			if (chance(r, 30))
				use_fixed(b, ST_ROLE_X, resource, lo, bytes,
					  has_effect && chance(r, 50));
			else if (chance(r, 50))
				st_builder_touch(b, resource, 0, 0, has_effect && chance(r, 50));
			else
				st_builder_touch(b, resource, lo, lo + bytes,
						 has_effect && chance(r, 70));
		}
		if (has_effect)
			st_builder_after(b, gate);
		if (i && chance(r, 20))
			st_builder_after(b, below(r, i));
	}
}

/* Deterministic in seed, so that a program can be measured first and placed then. */
static int build(uint64_t seed, const struct shape *sh, const struct st_pool_place *places,
		 struct st_program **out, enum st_pool *failed_pool)
{
	struct rng r = { seed };
	struct st_builder *b = NULL;
	int rc;

	ck_assert_int_eq(st_builder_create(&b, sh->is_wild ? "wild" : "train", sh->n_resources), 0);
	if (sh->is_wild)
		emit_wild(b, &r, sh);
	else
		emit_step(b, &r, sh);
	rc = st_builder_seal(b, places, out, failed_pool);
	st_builder_destroy(b);
	return rc;
}

/* ---- a run ------------------------------------------------------------------------------- */

struct mode {
	bool is_tight; /* pools of the serial peak, or the smallest above it that can be placed */
	bool is_calm;  /* no failure, no cancel */
	bool reserve_when_ready, drops_edge;
	bool is_loud;
};

struct step {
	const struct st_program *p;
	uint8_t *count; /* [n_ops] times completed */
	int *rc;
	uint32_t n_done;
	bool is_open, is_cancelled;
};

struct world {
	struct rng r;
	struct mode mode;
	struct shape shape;
	struct st_program *variant[VARIANTS_MAX];
	uint32_t n_variants, n_steps, n_appended;
	struct st_pool_place place[ST_POOL_N];
	struct step step[STEPS_MAX];
	struct st_lanes_sim *sim;
	struct st_lanes_sim_cfg sim_cfg;
	struct st_executor *x;
	bool is_hung, has_strange; /* has_strange: a completion that must not be */
	int rc;
};

static void completed(void *user, void *ctx, const struct st_program *p, uint32_t op, int rc)
{
	struct world *w = user;
	struct step *s = ctx;

	if (s->p != p || op >= p->n_ops || s->count[op]++) {
		w->has_strange = true;
		return;
	}
	s->rc[op] = rc;
	s->n_done++;
}

static void layout_pools(struct world *w)
{
	uint64_t at[ST_ARENA_N] = { 0 };

	at[ST_ARENA_HOST] = w->shape.n_resources * FIXED_BYTES;
	for (unsigned p = 0; p < ST_POOL_N; p++) {
		w->place[p].base_bytes = at[w->place[p].arena];
		at[w->place[p].arena] += w->place[p].bytes;
	}
}

/* Measure all variants, size the pools from the serial peak upwards, place. */
static void make_programs(struct world *w)
{
	uint64_t seeds[VARIANTS_MAX];
	unsigned percent = w->mode.is_tight || chance(&w->r, 40) ? 100 : 100 + below(&w->r, 300);

	make_shape(&w->shape, &w->r);
	w->n_variants = 1 + below(&w->r, VARIANTS_MAX);
	for (unsigned p = 0; p < ST_POOL_N; p++)
		w->place[p].arena = below(&w->r, ST_ARENA_N);
	for (uint32_t v = 0; v < w->n_variants; v++) {
		struct st_program *p = NULL;

		seeds[v] = next(&w->r);
		ck_assert_int_eq(build(seeds[v], &w->shape, NULL, &p, NULL), 0);
		for (unsigned q = 0; q < ST_POOL_N; q++) {
			uint64_t bytes = p->pool_peak[q] * percent / 100;

			if (bytes > w->place[q].bytes)
				w->place[q].bytes = bytes;
		}
		st_program_destroy(p);
	}
	for (uint32_t v = 0; v < w->n_variants;) {
		enum st_pool failed = ST_POOL_N;
		int rc;

		layout_pools(w);
		rc = build(seeds[v], &w->shape, w->place, &w->variant[v], &failed);
		if (!rc) {
			v++;
			continue;
		}
		/* The peak is a sum; placement may need a little more. Then all are placed anew. */
		ck_assert_int_eq(rc, STRATA_E_NO_FIT);
		ck_assert_uint_lt(failed, ST_POOL_N);
		w->place[failed].bytes += 4096;
		for (; v; v--) {
			st_program_destroy(w->variant[v - 1]);
			w->variant[v - 1] = NULL;
		}
	}
}

static void make_lanes(struct world *w)
{
	struct st_lanes_sim_cfg *c = &w->sim_cfg;
	struct rng *r = &w->r;

	*c = (struct st_lanes_sim_cfg){ .is_checked = true, .seed = next(r) };
	c->random_decades = 1 + below(r, 6);
	for (unsigned l = 0; l < ST_LANE_N; l++) {
		c->lane[l].depth = 1 + below(r, 8);
		c->lane[l].is_fifo = l == ST_LANE_COMPUTE || l == ST_LANE_COMMIT || chance(r, 30);
		if (chance(r, 40))
			c->lane[l].waits_on = below(r, 1u << ST_LANE_N);
	}
	if (w->mode.is_calm)
		return;
	c->wake_permille = chance(r, 30) ? below(r, 500) : 0;
	c->fail_rc = -EIO - (int)below(r, 3);
	if (chance(r, 12))
		c->fail_nth = 1 + below(r, 200);
	else if (chance(r, 5))
		c->refuse_nth = 1 + below(r, 200);
	else if (chance(r, 5))
		c->fail_per_million = 20000;
}

static void make_world(struct world *w, uint64_t seed, struct mode mode)
{
	memset(w, 0, sizeof(*w));
	w->r.s = seed * 0x2545f4914f6cdd1du + 1;
	w->mode = mode;
	make_programs(w);
	make_lanes(w);
	w->n_steps = 1 + below(&w->r, STEPS_MAX);
	for (uint32_t k = 0; k < w->n_steps; k++) {
		struct step *s = &w->step[k];

		s->p = w->variant[below(&w->r, w->n_variants)];
		s->count = calloc(s->p->n_ops, 1);
		s->rc = calloc(s->p->n_ops, sizeof(*s->rc));
		ck_assert_ptr_nonnull(s->count);
		ck_assert_ptr_nonnull(s->rc);
	}
}

static void unmake_world(struct world *w)
{
	st_executor_destroy(w->x);
	st_lanes_sim_destroy(w->sim);
	for (uint32_t k = 0; k < w->n_steps; k++) {
		free(w->step[k].count);
		free(w->step[k].rc);
	}
	for (uint32_t v = 0; v < w->n_variants; v++)
		st_program_destroy(w->variant[v]);
}

static void append_some(struct world *w)
{
	while (w->n_appended < w->n_steps && st_executor_has_room(w->x) && !chance(&w->r, 20)) {
		struct step *s = &w->step[w->n_appended];

		if (w->mode.is_loud)
			fprintf(stderr, "append %u\n", w->n_appended);
		ck_assert_int_eq(st_lanes_sim_begin(w->sim, s->p, s), 0);
		if (st_executor_append(w->x, s->p,
				       s)) { /* failed before; turn() tells it in the end */
			ck_assert_int_ne(st_executor_error(w->x)->rc, 0);
			return;
		}
		w->n_appended++;
		if (chance(&w->r, 30)) {
			st_executor_open(w->x, s);
			s->is_open = true;
		}
	}
}

static void open_oldest(struct world *w)
{
	for (uint32_t k = 0; k < w->n_appended; k++) {
		if (!w->step[k].is_open && !w->step[k].is_cancelled) {
			if (w->mode.is_loud)
				fprintf(stderr, "open %u\n", k);
			st_executor_open(w->x, &w->step[k]);
			w->step[k].is_open = true;
			return;
		}
	}
}

static void maybe_cancel(struct world *w)
{
	struct step *s = w->n_appended ? &w->step[w->n_appended - 1] : NULL;

	if (w->mode.is_calm || !s || s->is_open || s->is_cancelled || !chance(&w->r, 3))
		return;
	if (w->mode.is_loud)
		fprintf(stderr, "cancel %u\n", w->n_appended - 1);
	s->is_cancelled = true;
	st_executor_cancel(w->x);
	st_lanes_sim_cancel(w->sim);
}

static void drive(struct world *w)
{
	static const int64_t timeouts[] = { -1, -1, 0, 100, 1000000 };
	struct st_executor_cfg cfg = { .completed = completed,
				       .user = w,
				       .reserve_when_ready = w->mode.reserve_when_ready };
	uint32_t idle_turns = 0;

	ck_assert_int_eq(st_lanes_sim_create(&w->sim, &w->sim_cfg), 0);
	cfg.lanes = st_lanes_sim_lanes(w->sim);
	ck_assert_int_eq(st_executor_create(&w->x, &cfg), 0);
	for (uint32_t v = 0; v < w->n_variants; v++)
		ck_assert_int_eq(st_executor_admit(w->x, w->variant[v]), 0);
	while (w->n_appended < w->n_steps || !st_executor_is_idle(w->x)) {
		append_some(w);
		maybe_cancel(w);
		if (chance(&w->r, 10))
			open_oldest(w);
		w->rc = st_executor_turn(w->x, timeouts[below(&w->r, ST_ARRAY_LEN(timeouts))]);
		if (w->rc < 0)
			break;
		if (w->rc == 0)
			open_oldest(w);
		idle_turns = w->rc ? 0 : idle_turns + 1;
		if (idle_turns > 100000) {
			w->is_hung = true;
			break;
		}
	}
	st_lanes_sim_finish(w->sim);
}

/* ---- what must hold after a run ---------------------------------------------------------- */

static void complain(char *text, size_t n, const char *what, uint32_t k, uint32_t op)
{
	if (!text[0])
		snprintf(text, n, "step %u operation %u: %s", k, op, what);
}

static void check_step(const struct world *w, uint32_t k, char *text, size_t n)
{
	const struct step *s = &w->step[k];

	for (uint32_t i = 0; i < s->p->n_ops; i++) {
		const struct st_op *o = &s->p->ops[i];

		if (s->count[i] != 1)
			complain(text, n, "did not complete once", k, i);
		else if (s->rc[i] == 0)
			for (uint32_t d = 0; d < o->n_deps; d++)
				if (s->rc[s->p->deps[o->first_dep + d]])
					complain(text, n, "ran after an edge that failed", k, i);
		if (s->rc[i] && !s->is_cancelled && w->rc >= 0)
			complain(text, n, "failed in a run that did not", k, i);
		if (s->rc[i] && s->rc[i] != STRATA_E_CANCELLED && s->rc[i] != w->sim_cfg.fail_rc)
			complain(text, n, "has a code that nobody gave", k, i);
	}
}

static void check_run(const struct world *w, char *text, size_t n)
{
	text[0] = 0;
	if (w->is_hung)
		snprintf(text, n, "hangs");
	else if (w->has_strange)
		snprintf(text, n, "an operation completed twice");
	else if (w->rc == -EDEADLK)
		snprintf(text, n, "%s", st_last_error());
	else if (st_lanes_sim_faults(w->sim, ST_SIM_FAULT_N))
		snprintf(text, n, "%s", st_lanes_sim_fault_text(w->sim));
	else if (st_lanes_sim_stats(w->sim)->n_failed && w->rc != w->sim_cfg.fail_rc)
		snprintf(text, n, "an injected failure came back as %d", w->rc);
	else if (!st_lanes_sim_stats(w->sim)->n_failed && w->rc < 0)
		snprintf(text, n, "failed with %d: %s", w->rc, st_last_error());
	for (uint32_t k = 0; !text[0] && k < w->n_appended; k++)
		check_step(w, k, text, n);
}

static void print_world(const struct world *w)
{
	char line[512];

	for (uint32_t v = 0; v < w->n_variants; v++) {
		fprintf(stderr, "variant %u\n", v);
		for (uint32_t i = 0; i < w->variant[v]->n_ops; i++) {
			st_program_print(w->variant[v], i, line, sizeof(line));
			fprintf(stderr, "%s\n", line);
		}
	}
}

/* Every invariant, for every seed. */
START_TEST(random_programs_keep_every_invariant)
{
	uint32_t one = env_number("STRATA_SEED", UINT32_MAX), n = env_number("STRATA_SEEDS", SEEDS);
	uint32_t lo = one == UINT32_MAX ? 1 : one, hi = one == UINT32_MAX ? n : one;
	uint64_t n_ops = 0, n_early = 0, n_failed = 0, n_cancelled = 0, n_bad = 0;

	for (uint32_t seed = lo; seed <= hi; seed++) {
		struct mode mode = { .is_tight = seed % 3 == 0,
				     .is_calm = seed % 4 == 0,
				     .is_loud = one != UINT32_MAX };
		struct world w;
		char text[400];

		make_world(&w, seed, mode);
		if (mode.is_loud)
			print_world(&w);
		for (uint32_t v = 0; v < w.n_variants; v++)
			if (st_program_verify(w.variant[v])) {
				fprintf(stderr, "seed %u: variant %u: %s\n", seed, v,
					st_last_error());
				n_bad++;
			}
		drive(&w);
		check_run(&w, text, sizeof(text));
		if (text[0]) {
			fprintf(stderr, "seed %u: %s (STRATA_SEED=%u shows it)\n", seed, text,
				seed);
			n_bad++;
		}
		n_ops += st_lanes_sim_stats(w.sim)->n_started;
		n_early += st_lanes_sim_stats(w.sim)->n_early;
		n_failed += st_lanes_sim_stats(w.sim)->n_failed > 0;
		for (uint32_t k = 0; k < w.n_steps; k++)
			n_cancelled += w.step[k].is_cancelled;
		unmake_world(&w);
		ck_assert_uint_lt(n_bad, 10);
	}
	printf("%u seeds: %llu operations, %llu submitted early, %llu runs failed on purpose, "
	       "%llu programs cancelled\n",
	       hi - lo + 1, (unsigned long long)n_ops, (unsigned long long)n_early,
	       (unsigned long long)n_failed, (unsigned long long)n_cancelled);
	ck_assert_uint_eq(n_bad, 0);
	if (hi - lo >= 599) { /* it did try what it is there for */
		ck_assert_uint_gt(n_early, n_ops / 50);
		ck_assert_uint_gt(n_failed, (hi - lo) / 20);
		ck_assert_uint_gt(n_cancelled, (hi - lo) / 50);
	}
}
END_TEST

/* ---- what must be found ------------------------------------------------------------------ */

/* Reservation by readiness instead of in program order: tight programs lock up, and it is told. */
START_TEST(reservation_when_ready_deadlocks_and_is_reported)
{
	uint32_t n_runs = 0, n_deadlocks = 0;

	for (uint32_t seed = 1; seed <= 600; seed++) {
		struct mode mode = { .is_tight = true,
				     .is_calm = true,
				     .reserve_when_ready = true };
		struct world w;
		char text[400];

		make_world(&w, seed, mode);
		if (w.shape.is_wild) {
			unmake_world(&w);
			continue;
		}
		n_runs++;
		drive(&w);
		ck_assert(!w.is_hung && !w.has_strange);
		ck_assert(w.rc >= 0 || w.rc == -EDEADLK);
		n_deadlocks += w.rc == -EDEADLK;
		/* One error path: all that was appended completed once, most of it as cancelled. */
		text[0] = 0;
		for (uint32_t k = 0; k < w.n_appended; k++)
			check_step(&w, k, text, sizeof(text));
		ck_assert_msg(!text[0], "seed %u: %s", seed, text);
		ck_assert_uint_eq(st_lanes_sim_faults(w.sim, ST_SIM_CONFLICT), 0);
		ck_assert_uint_eq(st_lanes_sim_faults(w.sim, ST_SIM_CLAIM), 0);
		if (w.rc < 0) {
			ck_assert_int_eq(st_executor_turn(w.x, 0), -EDEADLK);
			ck_assert(st_executor_is_idle(w.x));
		}
		unmake_world(&w);
	}
	printf("reservation when ready: %u of %u tight programs deadlock\n", n_deadlocks, n_runs);
	ck_assert_uint_gt(n_runs, 200);
	ck_assert_uint_gt(n_deadlocks * 5, n_runs);
}
END_TEST

/* An edge of one of the variants that run. @return false if there is none */
static bool remove_some_edge(struct world *w)
{
	const struct st_program *p = w->step[below(&w->r, w->n_steps)].p;

	for (uint32_t v = 0; v < w->n_variants; v++)
		if (w->variant[v] == p)
			return remove_random_edge(w->variant[v], &w->r);
	return false;
}

/* The executor knows only the edges; the lanes know what memory the operations use. */
START_TEST(a_removed_edge_is_found)
{
	uint32_t n_runs = 0, n_found = 0, n_verified = 0;

	for (uint32_t seed = 1; seed <= 600; seed++) {
		bool is_rejected = false, is_seen;
		struct world w;

		make_world(&w, seed, (struct mode){ .is_calm = true });
		if (remove_some_edge(&w)) {
			n_runs++;
			for (uint32_t v = 0; v < w.n_variants; v++)
				is_rejected |= st_program_verify(w.variant[v]) == -EPROTO;
			drive(&w);
			ck_assert(!w.is_hung && !w.has_strange);
			is_seen = st_lanes_sim_faults(w.sim, ST_SIM_CONFLICT) ||
				  st_lanes_sim_faults(w.sim, ST_SIM_STALE);
			ck_assert_msg(is_rejected || !is_seen,
				      "seed %u: a hazard that verify missed", seed);
			n_verified += is_rejected;
			n_found += is_seen;
		}
		unmake_world(&w);
	}
	printf("one edge removed: %u of %u runs show the hazard, st_program_verify() finds %u\n",
	       n_found, n_runs, n_verified);
	ck_assert_uint_gt(n_runs, 500);
	ck_assert_uint_gt(n_found * 4, n_runs);
	ck_assert_uint_gt(n_verified * 4, n_runs * 3);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("executor_random");
	TCase *t = tcase_create("random");
	SRunner *r;
	int failed;

	tcase_set_timeout(t, 170);
	tcase_add_test(t, random_programs_keep_every_invariant);
	tcase_add_test(t, reservation_when_ready_deadlocks_and_is_reported);
	tcase_add_test(t, a_removed_edge_is_found);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
