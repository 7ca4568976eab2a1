/* SPDX-License-Identifier: Apache-2.0 */
/* offload/plan.c - homes, pool sizes, and whether it fits. */
#include "offload/plan.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "nvme/store.h"

#define ALIGN_BYTES        ((uint64_t)4096)
#define STATE_TILES_USEFUL 48u    /* tiles in flight that hide any drive's latency */
#define STAGE_CALLS_MAX    65536u /* of a step, forward: placing activations takes their square */
#define REST_TILES_USEFUL  8u
#define TILES_ALONE        256u /* a smaller plan is made before a team of threads has met */
#define PARAM_UNITS_USEFUL 3u

static const struct variant {
	const char *name;
	struct st_variant_desc desc;
} variants[ST_VARIANT_N] = {
#define STEP(first, text, spec)                                                                    \
	[first + ST_DUE_NONE] = { text, { .is_step = true, .speculates = spec } },                 \
		 [first + ST_DUE_DEFERRED] = { text ", updates due",                               \
					       { true, spec, false, ST_DUE_DEFERRED } },           \
		 [first + ST_DUE_ALL] = { text ", all updates due",                                \
					  { true, spec, false, ST_DUE_ALL } }
#define OTHER(first, text, save)                                                                   \
	[first + ST_DUE_NONE] = { text, { .saves = save } },                                       \
		 [first + ST_DUE_DEFERRED] = { text ", updates due",                               \
					       { .saves = save, .due = ST_DUE_DEFERRED } },        \
		 [first + ST_DUE_ALL] = { text ", all updates due",                                \
					  { .saves = save, .due = ST_DUE_ALL } }
	[ST_VARIANT_INIT] = { "init", { 0 } },
	[ST_VARIANT_LOAD] = { "load", { 0 } },
	[ST_VARIANT_EVAL] = { "evaluation", { 0 } },
	[ST_VARIANT_EXPORT] = { "export", { 0 } },
	STEP(ST_VARIANT_STEP, "step", false),
	STEP(ST_VARIANT_SPECULATE, "speculative step", true),
	OTHER(ST_VARIANT_FLUSH, "flush", false),
	OTHER(ST_VARIANT_SAVE, "save", true),
#undef STEP
#undef OTHER
};

const char *st_variant_name(enum st_variant v)
{
	return variants[v].name;
}

const char *st_why_text(enum st_why w)
{
	static const char *const texts[ST_WHY_N] = {
#define ST_X(name, text) text,
		ST_WHYS(ST_X)
#undef ST_X
	};

	return texts[w];
}

const struct st_variant_desc *st_variant_desc(enum st_variant v)
{
	return &variants[v].desc;
}

static uint64_t align_up(uint64_t n)
{
	return (n + ALIGN_BYTES - 1) & ~(ALIGN_BYTES - 1);
}

static uint32_t pool_arena(const struct st_plan *p, enum st_pool pool)
{
	if (pool == ST_POOL_STATE || pool == ST_POOL_REST || pool == ST_POOL_STAGE ||
	    pool == ST_POOL_ACT_REST)
		return ST_ARENA_HOST;
	return pool == ST_POOL_ACT && p->cfg.acts_on_host && !p->cfg.copies ? ST_ARENA_HOST
									    : ST_ARENA_DEVICE;
}

static struct st_addr take(struct st_plan *p, uint32_t arena, uint64_t bytes)
{
	struct st_addr a = { arena, p->resident_bytes[arena] };

	p->resident_bytes[arena] += align_up(bytes);
	return a;
}

/* How many units' parameters, tiles' states and tiles' gradients stay in memory: the first ones,
 * which backward reaches last, so that nothing hides what their update moves. */
struct pins {
	uint32_t params[ST_ARENA_N]; /* units, in this arena; those on the device come first */
	uint32_t states, grads;      /* tiles, in host memory */
};

bool st_plan_has_param(const struct st_plan *p, uint32_t unit, enum st_arena_id arena)
{
	return !(p->on_nvme[p->layout->unit_first_tile[unit]] & ST_ON_NVME_PARAM) &&
	       p->param_addr[unit].arena == arena;
}

static bool has_state(const struct st_plan *p, uint32_t tile, enum st_arena_id arena)
{
	return !(p->on_nvme[tile] & ST_ON_NVME_STATE) && p->state_addr[tile].arena == arena;
}

bool st_plan_updates_on_device(const struct st_plan *p, uint32_t tile)
{
	const struct st_tile *t = &p->layout->tiles[tile];

	return p->cfg.copies && p->cfg.updates[t->is_matrix] &&
	       st_plan_has_param(p, t->unit, ST_ARENA_DEVICE) &&
	       has_state(p, tile, ST_ARENA_DEVICE) && !(p->on_nvme[tile] & ST_ON_NVME_GRAD);
}

static bool rests(const struct st_plan *p, uint32_t tile)
{
	return p->mode[p->layout->tiles[tile].unit] != ST_UPDATE_IMMEDIATE;
}

/* Bytes that an update of the unit moves between memory and NVMe, and that reading it once does. */
static void unit_traffic(const struct st_plan *p, uint32_t unit, double *update, double *read)
{
	const struct st_layout *l = p->layout;

	*update = *read = 0;
	for (uint32_t t = l->unit_first_tile[unit]; t < l->unit_first_tile[unit + 1]; t++) {
		uint8_t on = p->on_nvme[t];
		double param = (double)st_tile_param_bytes(l, t);
		double state = (double)st_tile_state_bytes(l, t);

		*read += on & ST_ON_NVME_PARAM ? param : 0;
		*update += on & ST_ON_NVME_STATE ? state : 0;
		*update += on & ST_ON_NVME_PARAM || p->cfg.commits ? param : 0;
		*update += on & ST_ON_NVME_STATE || p->cfg.commits ? state : 0;
	}
}

/* Work of forward as a share of the step's. */
static double forward_share(const struct st_plan *p)
{
	const struct st_model *m = p->cfg.model;
	double fwd = 0, rest = 0;

	for (unsigned s = 0; s < m->n_stages; s++) {
		rest += m->stages[s].bwd_flops;
		if (s + 1 < m->n_stages) {
			fwd += m->stages[s].fwd_flops;
			rest += p->cfg.recompute ? m->stages[s].fwd_flops : 0;
		}
	}
	return fwd + rest > 0 ? fwd / (fwd + rest) : 0.5;
}

static bool is_of_first_stage(const struct st_plan *p, uint32_t unit)
{
	const struct st_stage_desc *s = &p->cfg.model->stages[0];

	for (unsigned k = 0; k < s->n_units; k++)
		if (s->units[k] == unit)
			return true;
	return false;
}

/*
 * Modes of all units such that forward moves its share of the bytes. The first stage's units are
 * final last and needed first, so they are never updated at once where that moves bytes; of the
 * others, the deferred ones are spread evenly over the layers.
 */
static void interleave(struct st_plan *p, enum st_update eager)
{
	const uint32_t n = p->layout->n_units;
	double total = 0, forward = 0, others = 0, update, read, share, owed = 0;

	for (uint32_t u = 0; u < n; u++) {
		unit_traffic(p, u, &update, &read);
		total += update + 2 * read;
		forward += read + (is_of_first_stage(p, u) ? update : 0);
		others += is_of_first_stage(p, u) ? 0 : update;
	}
	share = others > 0 ? (forward_share(p) * total - forward) / others : 0;
	if (others > 0 && eager != ST_UPDATE_DEFERRED) {
		share = p->cfg.has_deferred_share ? p->cfg.deferred_share : share;
		p->deferred_share = share = fmin(fmax(share, 0), 1);
	}
	for (uint32_t u = 0; u < n; u++) {
		unit_traffic(p, u, &update, &read);
		p->mode[u] = eager;
		p->why[u] = eager == ST_UPDATE_DEFERRED ? ST_WHY_NORM
			    : update == 0               ? ST_WHY_MOVES_NOTHING
							: ST_WHY_BACKWARD;
		if (update == 0 || eager == ST_UPDATE_DEFERRED)
			continue;
		if (is_of_first_stage(p, u)) {
			p->mode[u] = ST_UPDATE_DEFERRED;
			p->why[u] = ST_WHY_FIRST_STAGE;
			continue;
		}
		owed += share * update;
		if (owed < update / 2)
			continue;
		p->mode[u] = ST_UPDATE_DEFERRED;
		p->why[u] = ST_WHY_FORWARD;
		owed -= update;
	}
}

static void choose_modes(struct st_plan *p)
{
	const struct st_plan_cfg *c = &p->cfg;
	const struct st_layout *l = p->layout;

	for (uint32_t u = 0; u < l->n_units; u++) {
		p->mode[u] = c->modes ? c->modes[u] : c->update;
		p->why[u] = ST_WHY_ASKED;
	}
	p->deferred_share = NAN;
	if (c->update == ST_UPDATE_AUTO && !c->modes)
		interleave(p, !c->needs_norm     ? ST_UPDATE_IMMEDIATE
			      : c->may_speculate ? ST_UPDATE_SPECULATIVE
						 : ST_UPDATE_DEFERRED);
	p->has_pending = p->speculates = false;
	for (uint32_t u = 0; u < l->n_units; u++) {
		/* What is updated in memory is gone; only the store keeps what was before. */
		for (uint32_t t = l->unit_first_tile[u]; t < l->unit_first_tile[u + 1]; t++)
			if (p->mode[u] == ST_UPDATE_SPECULATIVE &&
			    ~p->on_nvme[t] & (ST_ON_NVME_PARAM | ST_ON_NVME_STATE)) {
				p->mode[u] = ST_UPDATE_DEFERRED;
				p->why[u] = ST_WHY_IN_MEMORY;
			}
		p->has_pending |= p->mode[u] != ST_UPDATE_IMMEDIATE;
		p->speculates |= p->mode[u] == ST_UPDATE_SPECULATIVE;
	}
}

/* What lives in memory for the whole run gets its place first. */
static void place_homes(struct st_plan *p, const struct pins *pins)
{
	const struct st_layout *l = p->layout;
	const struct st_plan_cfg *c = &p->cfg;

	memset(p->resident_bytes, 0, sizeof(p->resident_bytes));
	memset(p->on_nvme, 0, l->n_tiles);
	p->scratch_bytes = p->pinned_bytes = 0;
	for (uint32_t u = 0; u < l->n_units; u++) {
		bool on_device = u < pins->params[ST_ARENA_DEVICE];
		bool is_pinned = u < pins->params[ST_ARENA_DEVICE] + pins->params[ST_ARENA_HOST];

		if (c->param_home == ST_HOME_NVME && !is_pinned) {
			for (uint32_t t = l->unit_first_tile[u]; t < l->unit_first_tile[u + 1]; t++)
				p->on_nvme[t] |= ST_ON_NVME_PARAM;
			continue;
		}
		if (c->param_home != ST_HOME_NVME)
			on_device = c->param_home == ST_HOME_DEVICE;
		else
			p->pinned_bytes += st_unit_param_bytes(l, u);
		p->param_addr[u] = take(p, on_device ? ST_ARENA_DEVICE : ST_ARENA_HOST,
					st_unit_param_bytes(l, u));
	}
	for (uint32_t t = 0; t < l->n_tiles; t++) {
		if (c->state_home == ST_HOME_NVME && t >= pins->states) {
			p->on_nvme[t] |= ST_ON_NVME_STATE;
			continue;
		}
		if (c->state_home == ST_HOME_NVME)
			p->pinned_bytes += st_tile_state_bytes(l, t);
		p->state_addr[t] =
			take(p, c->state_home == ST_HOME_DEVICE ? ST_ARENA_DEVICE : ST_ARENA_HOST,
			     st_tile_state_bytes(l, t));
	}
	choose_modes(p);
	for (uint32_t t = 0; t < l->n_tiles; t++) {
		if (!rests(p, t))
			continue;
		if (c->rest == ST_REST_NVME || (c->rest == ST_REST_FIT && t >= pins->grads)) {
			p->on_nvme[t] |= ST_ON_NVME_GRAD;
			p->scratch_bytes += align_up(st_tile_grad_bytes(l, t));
		} else {
			p->rest_addr[t] = take(p,
					       st_plan_updates_on_device(p, t) ? ST_ARENA_DEVICE
									       : ST_ARENA_HOST,
					       st_tile_grad_bytes(l, t));
		}
	}
}

/* Something that a step uses lives in memory, and comes from the store on a resume. */
static bool loads(const struct st_plan *p)
{
	for (uint32_t t = 0; t < p->layout->n_tiles; t++)
		if (~p->on_nvme[t] & (ST_ON_NVME_PARAM | ST_ON_NVME_STATE))
			return true;
	return false;
}

static bool is_wanted(const struct st_plan *p, enum st_variant v)
{
	const struct st_variant_desc *d = st_variant_desc(v);

	if (v == ST_VARIANT_LOAD)
		return loads(p);
	if (v == ST_VARIANT_EVAL)
		return p->cfg.n_eval_mb > 0;
	if (v < ST_VARIANT_STEP)
		return true;
	if (v == ST_VARIANT_FLUSH + ST_DUE_NONE || (d->speculates && !p->speculates))
		return false;
	return d->due == ST_DUE_NONE || (d->due == ST_DUE_DEFERRED && p->has_pending) ||
	       (d->due == ST_DUE_ALL && p->speculates);
}

static void drop_programs(struct st_plan *p)
{
	for (unsigned v = 0; v < ST_VARIANT_N; v++) {
		st_program_destroy(p->program[v]);
		p->program[v] = NULL;
	}
}

static enum st_variant first_step(const struct st_plan *p)
{
	return p->speculates ? ST_VARIANT_SPECULATE : ST_VARIANT_STEP;
}

static enum st_variant steady_step(const struct st_plan *p)
{
	return first_step(p) + (p->has_pending ? ST_DUE_DEFERRED : ST_DUE_NONE);
}

/* All wanted variants, each made on one of the machine's threads; what became of each. */
struct compiled {
	struct st_program *program[ST_VARIANT_N]; /* NULL: not wanted, or failed */
	enum st_pool failed_pool[ST_VARIANT_N];
	struct st_error error[ST_VARIANT_N];
};

/* A plan that is only simulated needs the programs of a steady run. */
static bool is_compiled(const struct st_plan *p, enum st_variant v)
{
	return !p->cfg.is_trial || v == first_step(p) || v == steady_step(p);
}

static void compile_variants(const struct st_plan *p, const struct st_pool_place *places,
			     struct compiled *out)
{
	memset(out, 0, sizeof(*out));
#pragma omp parallel for schedule(dynamic) if (p->layout->n_tiles > TILES_ALONE)
	for (int v = 0; v < ST_VARIANT_N; v++) {
		int rc = is_wanted(p, v) && (!places || is_compiled(p, v))
				 ? st_compile(p, v, places, &out->program[v], &out->failed_pool[v])
				 : 0;

		if (rc)
			st_error_take(&out->error[v], rc);
	}
}

/* The smallest size, in small steps from the peak of serial order, in which all claims of a pool
 * find a place. */
static int size_pool(struct compiled *c, enum st_pool pool, uint64_t *bytes)
{
	bool fits = false;

	*bytes = 0;
	for (unsigned v = 0; v < ST_VARIANT_N; v++)
		if (c->program[v] && c->program[v]->pool_peak[pool] > *bytes)
			*bytes = c->program[v]->pool_peak[pool];
	while (!fits) {
		fits = true;
		for (unsigned v = 0; fits && v < ST_VARIANT_N; v++) {
			int rc = c->program[v] ? st_place_try(c->program[v], pool, *bytes) : 0;

			if (rc && rc != STRATA_E_NO_FIT)
				return rc;
			fits = !rc;
		}
		if (!fits)
			*bytes += align_up(*bytes / 32 + ALIGN_BYTES);
	}
	return 0;
}

static void lay_out(struct st_plan *p, const uint64_t *pool_bytes)
{
	uint64_t at[ST_ARENA_N] = { p->resident_bytes[0], p->resident_bytes[1] };

	for (unsigned pool = 0; pool < ST_POOL_N; pool++) {
		uint32_t arena = pool_arena(p, pool);

		p->places[pool] = (struct st_pool_place){ arena, at[arena], pool_bytes[pool] };
		at[arena] += align_up(pool_bytes[pool]);
	}
	memcpy(p->arena_bytes, at, sizeof(at));
}

/* Sizes of pools: the least that hold all programs as they are planned, and what the pools get. */
struct sizes {
	uint64_t least[ST_POOL_N], got[ST_POOL_N];
};

/* The least; from sketches, for most of what is tried on the way to a plan is never run. */
static int size_pools(struct st_plan *p, struct sizes *s)
{
	struct compiled c;
	int rc = 0, size_rc[ST_POOL_N] = { 0 };

	compile_variants(p, NULL, &c);
	for (unsigned v = 0; v < ST_VARIANT_N; v++)
		if (c.error[v].rc)
			rc = st_error_raise(&c.error[v]);
#pragma omp parallel for schedule(dynamic) if (p->layout->n_tiles > TILES_ALONE)
	for (int pool = 0; pool < ST_POOL_N; pool++)
		size_rc[pool] = rc ? 0 : size_pool(&c, pool, &s->least[pool]);
	for (unsigned pool = 0; pool < ST_POOL_N; pool++)
		rc = rc || !size_rc[pool] ? rc : st_fail(size_rc[pool], "plan");
	for (unsigned v = 0; v < ST_VARIANT_N; v++)
		st_program_destroy(c.program[v]);
	memcpy(s->got, s->least, sizeof(s->got));
	lay_out(p, s->got);
	return rc;
}

/* The programs, in pools of these sizes. In a larger pool claims are spread, and it can happen that
 * one then finds no range that is long enough: such a pool gets the least, which is known to do. */
static int compile_all(struct st_plan *p, struct sizes *s)
{
	bool is_done = false;

	while (!is_done) {
		bool falls[ST_POOL_N] = { false };
		struct compiled c;
		int rc = 0;

		drop_programs(p); /* pools moved */
		lay_out(p, s->got);
		compile_variants(p, p->places, &c);
		memcpy(p->program, c.program, sizeof(p->program));
		is_done = true;
		for (unsigned v = 0; v < ST_VARIANT_N; v++) {
			if (c.error[v].rc == STRATA_E_NO_FIT)
				falls[c.failed_pool[v]] = true;
			else if (c.error[v].rc)
				rc = st_error_raise(&c.error[v]);
			is_done &= !c.error[v].rc;
		}
		if (rc)
			return rc;
		for (unsigned pool = 0; pool < ST_POOL_N; pool++) {
			ST_ASSERT(!falls[pool] || s->got[pool] > s->least[pool]);
			s->got[pool] = falls[pool] ? s->least[pool] : s->got[pool];
		}
	}
	return 0;
}

/* What a pool can use beyond what it needs: it lets reads run ahead. Memory that is left after that
 * serves better as a place where nothing has to be read at all. */
static uint64_t useful_bytes(const struct st_plan *p, enum st_pool pool, uint64_t need)
{
	const struct st_layout *l = p->layout;
	uint64_t all = 0, largest = 0, bytes;

	if (pool == ST_POOL_PARAM || pool == ST_POOL_STAGE) {
		for (uint32_t u = 0; u < l->n_units; u++) {
			bytes = align_up(st_unit_param_bytes(l, u));
			all += bytes;
			largest = bytes > largest ? bytes : largest;
		}
		if (p->cfg.pins && all > need + PARAM_UNITS_USEFUL * largest)
			all = need + PARAM_UNITS_USEFUL * largest;
	} else if (pool == ST_POOL_STATE || pool == ST_POOL_REST || pool == ST_POOL_ROUNDED) {
		bool is_state = pool == ST_POOL_STATE;
		unsigned useful = is_state ? STATE_TILES_USEFUL : REST_TILES_USEFUL;

		for (uint32_t t = 0; t < l->n_tiles; t++) {
			bytes = align_up(is_state ? st_tile_state_bytes(l, t)
						  : st_tile_grad_bytes(l, t));
			all += bytes;
			largest = bytes > largest ? bytes : largest;
		}
		if (all > useful * largest)
			all = useful * largest;
	}
	return need && all > need ? all : need;
}

static uint64_t budget_of(const struct st_plan *p, uint32_t arena)
{
	return arena == ST_ARENA_DEVICE ? p->cfg.device_bytes : p->cfg.host_bytes;
}

/* Give what the budgets leave to the pools that can use it. */
static void spread_rest(struct st_plan *p, uint64_t *pool_bytes)
{
	static const enum st_pool wants[] = { ST_POOL_REST, ST_POOL_ROUNDED, ST_POOL_PARAM,
					      ST_POOL_STAGE, ST_POOL_STATE };

	for (unsigned i = 0; i < ST_ARRAY_LEN(wants); i++) {
		enum st_pool pool = wants[i];
		uint32_t arena = pool_arena(p, pool);
		uint64_t budget = budget_of(p, arena) & ~(ALIGN_BYTES - 1);
		uint64_t more = useful_bytes(p, pool, pool_bytes[pool]) - pool_bytes[pool];
		uint64_t left;

		lay_out(p, pool_bytes);
		left = !budget                          ? more
		       : budget > p->arena_bytes[arena] ? budget - p->arena_bytes[arena]
							: 0;
		pool_bytes[pool] += more < left ? more : left;
		pool_bytes[pool] &= ~(ALIGN_BYTES - 1);
	}
}

static int check_budget(const struct st_plan *p, uint32_t arena, const char *name, const char *key)
{
	uint64_t mib = (p->min_bytes[arena] + ((1u << 20) - 1)) >> 20;

	if (!budget_of(p, arena) || p->min_bytes[arena] <= budget_of(p, arena))
		return 0;
	return st_fail(STRATA_E_NO_FIT,
		       "%s memory of %.1f MiB is too small: the smallest that works is \"%s\": "
		       "\"%lluMiB\"",
		       name, (double)budget_of(p, arena) / (1 << 20), key, (unsigned long long)mib);
}

/* The host updates the rows that the batch names: it must be able to read what that takes. */
static bool can_look_up(const struct st_plan *p, uint32_t unit)
{
	const struct st_layout *l = p->layout;
	bool can = !p->cfg.copies || !st_plan_has_param(p, unit, ST_ARENA_DEVICE);

	for (uint32_t t = l->unit_first_tile[unit]; t < l->unit_first_tile[unit + 1]; t++)
		can &= !p->cfg.copies || !has_state(p, t, ST_ARENA_DEVICE);
	return can;
}

/* Is the first stage's table looked up ahead of its update, and in which chunks? */
static int decide_lookup(struct st_plan *p)
{
	const struct st_model *m = p->cfg.model;
	const struct st_stage_desc *s = &m->stages[0];
	size_t pass = p->cfg.order == ST_ORDER_VERTICAL ? p->cfg.n_mb : 1;
	uint64_t all = 0;
	int rc;

	memset(&p->lookup, 0, sizeof(p->lookup));
	if (p->mode[s->units[0]] != ST_UPDATE_DEFERRED || !s->looks_up ||
	    p->cfg.lookahead == ST_LOOKAHEAD_OFF || !can_look_up(p, s->units[0]))
		return 0;
	rc = st_lookup_init(&p->lookup, p->layout, s->units[0], s->lookup_cols,
			    pass * m->batch * m->seq, p->on_nvme);
	if (rc || p->cfg.lookahead == ST_LOOKAHEAD_ON)
		return rc;
	for (uint32_t t = p->layout->unit_first_tile[s->units[0]];
	     t < p->layout->unit_first_tile[s->units[0] + 1]; t++) {
		uint8_t on = p->on_nvme[t];

		all += on & ST_ON_NVME_PARAM ? st_tile_param_bytes(p->layout, t) : 0;
		all += on & ST_ON_NVME_STATE ? st_tile_state_bytes(p->layout, t) : 0;
		all += on & ST_ON_NVME_GRAD ? st_tile_grad_bytes(p->layout, t) : 0;
	}
	if (p->lookup.n_chunks * p->lookup.chunk_bytes >= all) /* also: nothing is read */
		p->lookup.n_chunks = 0;
	return 0;
}

static bool fits(const struct st_plan *p)
{
	for (unsigned a = 0; a < ST_ARENA_N; a++)
		if (budget_of(p, a) && p->arena_bytes[a] > budget_of(p, a))
			return false;
	return true;
}

/* Where the budgets allow it, the update of a table that is looked up ahead is spread over forward;
 * the table then stays in memory beside the blocks. */
static int try_spread(struct st_plan *p, struct sizes *s)
{
	struct sizes spread;
	int rc;

	if (!p->lookup.n_chunks)
		return 0;
	p->spreads_update = true;
	rc = size_pools(p, &spread);
	if (rc)
		return rc;
	p->spreads_update = fits(p);
	if (p->spreads_update)
		*s = spread;
	return 0;
}

/* Homes, and the smallest pools that hold all programs with these. */
static int settle(struct st_plan *p, const struct pins *pins, struct sizes *s)
{
	int rc;

	p->spreads_update = false;
	place_homes(p, pins);
	rc = decide_lookup(p);
	return rc ? rc : size_pools(p, s);
}

static uint64_t unit_state_bytes(const struct st_layout *l, uint32_t unit)
{
	uint64_t sum = 0;

	for (uint32_t t = l->unit_first_tile[unit]; t < l->unit_first_tile[unit + 1]; t++)
		sum += align_up(st_tile_state_bytes(l, t));
	return sum;
}

/* A unit that speculates is on NVMe as a whole, so that the others had better be in memory so. */
static bool pins_whole_units(const struct st_plan *p)
{
	return p->cfg.needs_norm && p->cfg.may_speculate && p->cfg.param_home == ST_HOME_NVME &&
	       p->cfg.state_home == ST_HOME_NVME && p->cfg.update != ST_UPDATE_DEFERRED;
}

/*
 * What the pools leave of the budgets, in the order of what a byte of memory saves: gradients (a
 * write and a read), parameters (two reads), states (one read).
 */
static void choose_pins(const struct st_plan *p, const uint64_t *free_bytes, struct pins *pins)
{
	const struct st_layout *l = p->layout;
	uint64_t left[ST_ARENA_N] = { free_bytes[0], free_bytes[1] };
	uint32_t unit = 0;

	pins->params[ST_ARENA_DEVICE] = pins->params[ST_ARENA_HOST] = pins->states = 0;
	if (p->cfg.rest == ST_REST_FIT && budget_of(p, ST_ARENA_HOST))
		pins->grads = 0;
	while (p->cfg.rest == ST_REST_FIT && pins->grads < l->n_tiles) {
		uint32_t t = pins->grads;
		uint64_t bytes = rests(p, t) ? align_up(st_tile_grad_bytes(l, t)) : 0;

		if (bytes > left[ST_ARENA_HOST])
			break;
		left[ST_ARENA_HOST] -= bytes;
		pins->grads++;
	}
	if (!p->cfg.pins)
		return;
	for (unsigned a = 0; a < ST_ARENA_N && p->cfg.param_home == ST_HOME_NVME; a++)
		for (; unit < l->n_units; unit++, pins->params[a]++) {
			uint64_t bytes = align_up(st_unit_param_bytes(l, unit));
			uint64_t states = pins_whole_units(p) ? unit_state_bytes(l, unit) : 0;

			if (bytes > left[a] || states > left[ST_ARENA_HOST] ||
			    (a == ST_ARENA_HOST && bytes + states > left[a]))
				break;
			left[a] -= bytes;
			left[ST_ARENA_HOST] -= states;
			pins->states = pins_whole_units(p) ? l->unit_first_tile[unit + 1] : 0;
		}
	if (pins_whole_units(p))
		return;
	while (p->cfg.state_home == ST_HOME_NVME && pins->states < l->n_tiles) {
		uint64_t bytes = align_up(st_tile_state_bytes(l, pins->states));

		if (bytes > left[ST_ARENA_HOST])
			break;
		left[ST_ARENA_HOST] -= bytes;
		pins->states++;
	}
}

/*
 * Keep in memory what the budgets allow beside the pools with their run-ahead. Other homes make
 * other programs, and these may need other pools: where it does not come out, keep less.
 */
static int pin(struct st_plan *p, const struct pins *least, struct sizes *s)
{
	struct pins pins = *least;
	uint64_t free_bytes[ST_ARENA_N] = { 0 };
	bool is_settled = true; /* with the least */

	spread_rest(p, s->got);
	lay_out(p, s->got);
	for (unsigned a = 0; a < ST_ARENA_N; a++)
		if (budget_of(p, a) > p->arena_bytes[a])
			free_bytes[a] = budget_of(p, a) - p->arena_bytes[a];
	for (;;) {
		int rc;

		choose_pins(p, free_bytes, &pins);
		if (memcmp(&pins, least, sizeof(pins)) == 0)
			return is_settled ? 0 : settle(p, least, s);
		rc = settle(p, &pins, s);
		if (rc || fits(p))
			return rc;
		if (!free_bytes[ST_ARENA_DEVICE] && !free_bytes[ST_ARENA_HOST])
			return settle(p, least, s);
		is_settled = false;
		for (unsigned a = 0; a < ST_ARENA_N; a++)
			free_bytes[a] = free_bytes[a] > (64u << 20) ? free_bytes[a] / 8 * 7 : 0;
	}
}

/* Without a budget nothing is sent to NVMe, unless what that changes elsewhere breaks another. */
static int keep_all_gradients(struct st_plan *p, struct pins *least, struct sizes *s)
{
	const struct pins none = *least;
	int rc;

	if (p->cfg.rest != ST_REST_FIT || budget_of(p, ST_ARENA_HOST))
		return 0;
	least->grads = p->layout->n_tiles;
	rc = settle(p, least, s);
	if (rc || fits(p))
		return rc;
	*least = none;
	return settle(p, least, s);
}

static int decide(struct st_plan *p)
{
	struct pins least = { 0 };
	struct sizes s;
	int rc = settle(p, &least, &s);

	if (rc)
		return rc;
	memcpy(p->min_bytes, p->arena_bytes, sizeof(p->min_bytes));
	rc = check_budget(p, ST_ARENA_DEVICE, "device", "strata.device.memory");
	if (!rc)
		rc = check_budget(p, ST_ARENA_HOST, "host", "strata.host.memory");
	if (!rc)
		rc = keep_all_gradients(p, &least, &s);
	if (!rc)
		rc = pin(p, &least, &s);
	if (!rc)
		rc = try_spread(p, &s);
	if (rc)
		return rc;
	spread_rest(p, s.got);
	rc = compile_all(p, &s);
	ST_ASSERT(rc || fits(p));
	return rc;
}

int st_plan_create(struct st_plan **out, const struct st_plan_cfg *cfg)
{
	struct st_plan *p = calloc(1, sizeof(*p));
	int rc;

	if (!p)
		return st_fail(-ENOMEM, "plan");
	if ((uint64_t)cfg->model->n_stages * cfg->n_mb > STAGE_CALLS_MAX) {
		free(p);
		return st_fail(
			STRATA_E_CONFIG,
			"a step of %u micro-batches through %u stages is too long to plan; at most "
			"%u micro-batches: raise train_micro_batch_size_per_gpu",
			cfg->n_mb, cfg->model->n_stages, STAGE_CALLS_MAX / cfg->model->n_stages);
	}
	p->cfg = *cfg;
	rc = st_layout_create(&p->layout, cfg->model, &cfg->formats);
	if (rc)
		goto fail;
	p->param_addr = calloc(p->layout->n_units, sizeof(*p->param_addr));
	p->state_addr = calloc(p->layout->n_tiles, sizeof(*p->state_addr));
	p->rest_addr = calloc(p->layout->n_tiles, sizeof(*p->rest_addr));
	p->mode = calloc(p->layout->n_units, sizeof(*p->mode));
	p->why = calloc(p->layout->n_units, sizeof(*p->why));
	p->on_nvme = calloc(p->layout->n_tiles, sizeof(*p->on_nvme));
	if (!p->param_addr || !p->state_addr || !p->rest_addr || !p->mode || !p->why ||
	    !p->on_nvme) {
		rc = st_fail(-ENOMEM, "plan");
		goto fail;
	}
	rc = decide(p);
	p->cfg.modes = NULL;
	if (rc)
		goto fail;
	*out = p;
	return 0;

fail:
	st_plan_destroy(p);
	return rc;
}

void st_plan_destroy(struct st_plan *p)
{
	if (!p)
		return;
	drop_programs(p);
	st_layout_destroy(p->layout);
	free(p->param_addr);
	free(p->state_addr);
	free(p->rest_addr);
	free(p->mode);
	free(p->why);
	free(p->on_nvme);
	free(p);
}

const struct st_program *st_plan_first(const struct st_plan *p)
{
	return p->program[first_step(p)];
}

const struct st_program *st_plan_steady(const struct st_plan *p)
{
	return p->program[steady_step(p)];
}

uint64_t st_plan_read_bytes(const struct st_plan *p)
{
	return st_plan_steady(p)->lane_bytes[ST_LANE_READ];
}

uint64_t st_plan_write_bytes(const struct st_plan *p)
{
	return st_plan_steady(p)->lane_bytes[ST_LANE_WRITE];
}

uint64_t st_plan_disk_bytes(const struct st_plan *p, unsigned n_paths)
{
	return p->scratch_bytes +
	       st_store_disk_bytes(p->layout->extent_bytes, p->layout->n_extents, n_paths);
}
