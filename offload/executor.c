/* SPDX-License-Identifier: Apache-2.0 */
/* offload/executor.c - see executor.h for why it cannot deadlock. */
#include "offload/executor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW   2u
#define DONE_MAX 64u

enum op_state { OP_WAITING, OP_READY, OP_SUBMITTED, OP_DONE };

struct instance {
	const struct st_program *p;
	void *ctx;
	bool is_live, is_open, is_cancelled;
	uint32_t *left;             /* [n_ops] edges, imports and claims still missing */
	uint8_t *state;             /* [n_ops] enum op_state */
	uint32_t *users_left;       /* [n_claims] */
	uint32_t *touch_left;       /* [n_resources] */
	uint32_t cursor[ST_POOL_N]; /* next claim of each pool to reserve */
	uint32_t gate;              /* a ready gate that is not open yet, or ST_NONE */
	uint32_t n_done, in_flight;
};

struct held { /* a claim that was reserved and has not ended */
	uint64_t lo, hi;
	uint32_t slot, claim;
};

struct held_list {
	struct held *items;
	uint32_t n;
};

struct heap { /* lowest (age, op) first */
	uint64_t *items;
	uint32_t n;
};

struct st_executor {
	struct st_executor_cfg cfg;
	uint32_t waits_on[ST_LANE_N];
	struct instance slot[WINDOW];
	uint32_t oldest; /* slot of the program that runs */
	uint32_t max_ops, max_claims, max_resources;
	struct held_list held[ST_POOL_N];
	struct heap ready[ST_LANE_N];
	uint32_t in_flight;
	bool has_progress;
	struct st_error error;
};

/* ---- heap ---------------------------------------------------------------------------------- */

static void heap_push(struct heap *h, uint64_t v)
{
	uint32_t i = h->n++;

	while (i && h->items[(i - 1) / 2] > v) {
		h->items[i] = h->items[(i - 1) / 2];
		i = (i - 1) / 2;
	}
	h->items[i] = v;
}

static void heap_pop(struct heap *h)
{
	uint64_t v = h->items[--h->n];
	uint32_t i = 0, c;

	while ((c = 2 * i + 1) < h->n) {
		if (c + 1 < h->n && h->items[c + 1] < h->items[c])
			c++;
		if (h->items[c] >= v)
			break;
		h->items[i] = h->items[c];
		i = c;
	}
	h->items[i] = v;
}

/* ---- the window ---------------------------------------------------------------------------- */

static struct instance *nth(struct st_executor *x, uint32_t age)
{
	return &x->slot[(x->oldest + age) % WINDOW];
}

/* Order in heaps: the slots swap ages, so the key is rebuilt when the window moves. */
static uint64_t key_of(const struct st_executor *x, const struct instance *in, uint32_t op)
{
	uint32_t slot = (uint32_t)(in - x->slot), age = (slot + WINDOW - x->oldest) % WINDOW;

	return (uint64_t)age << 40 | (uint64_t)slot << 32 | op;
}

static void rebuild_keys(struct st_executor *x)
{
	for (unsigned l = 0; l < ST_LANE_N; l++) {
		uint32_t n = x->ready[l].n;

		x->ready[l].n = 0;
		for (uint32_t i = 0; i < n; i++) {
			uint64_t k = x->ready[l].items[i];
			struct instance *in = &x->slot[k >> 32 & 0xff];

			if (in->is_live)
				heap_push(&x->ready[l], key_of(x, in, (uint32_t)k));
		}
	}
}

static void free_instance(struct instance *in)
{
	free(in->left);
	free(in->state);
	free(in->users_left);
	free(in->touch_left);
}

static int grow_instance(struct instance *in, uint32_t ops, uint32_t claims, uint32_t resources)
{
	void *a = reallocarray(in->left, ops, sizeof(*in->left)), *b, *c, *d;

	in->left = a ? a : in->left;
	b = reallocarray(in->state, ops, sizeof(*in->state));
	in->state = b ? b : in->state;
	c = reallocarray(in->users_left, claims, sizeof(*in->users_left));
	in->users_left = c ? c : in->users_left;
	d = reallocarray(in->touch_left, resources, sizeof(*in->touch_left));
	in->touch_left = d ? d : in->touch_left;
	return a && b && c && d ? 0 : -ENOMEM;
}

int st_executor_create(struct st_executor **out, const struct st_executor_cfg *cfg)
{
	struct st_executor *x = calloc(1, sizeof(*x));

	if (!x)
		return st_fail(-ENOMEM, "executor");
	x->cfg = *cfg;
	for (unsigned l = 0; l < ST_LANE_N; l++)
		/* Gates never reach a lane, so none can wait for one. */
		x->waits_on[l] =
			cfg->lanes.ops->waits_on(cfg->lanes.priv, l) & ~(1u << ST_LANE_GATE);
	*out = x;
	return 0;
}

void st_executor_destroy(struct st_executor *x)
{
	if (!x)
		return;
	for (uint32_t i = 0; i < WINDOW; i++)
		free_instance(&x->slot[i]);
	for (unsigned p = 0; p < ST_POOL_N; p++)
		free(x->held[p].items);
	for (unsigned l = 0; l < ST_LANE_N; l++)
		free(x->ready[l].items);
	free(x);
}

int st_executor_admit(struct st_executor *x, const struct st_program *p)
{
	ST_ASSERT(st_executor_is_idle(x));
	if (p->n_ops > x->max_ops)
		x->max_ops = p->n_ops;
	if (p->n_claims + 1 > x->max_claims)
		x->max_claims = p->n_claims + 1;
	if (p->n_resources + 1 > x->max_resources)
		x->max_resources = p->n_resources + 1;
	for (uint32_t i = 0; i < WINDOW; i++)
		if (grow_instance(&x->slot[i], x->max_ops, x->max_claims, x->max_resources))
			return st_fail(-ENOMEM, "executor: program %s", p->name);
	for (unsigned q = 0; q < ST_POOL_N; q++) {
		struct held *h =
			reallocarray(x->held[q].items, WINDOW * (size_t)x->max_claims, sizeof(*h));

		if (!h)
			return st_fail(-ENOMEM, "executor: program %s", p->name);
		x->held[q].items = h;
	}
	for (unsigned l = 0; l < ST_LANE_N; l++) {
		uint64_t *h =
			reallocarray(x->ready[l].items, WINDOW * (size_t)x->max_ops, sizeof(*h));

		if (!h)
			return st_fail(-ENOMEM, "executor: program %s", p->name);
		x->ready[l].items = h;
	}
	return 0;
}

bool st_executor_has_room(const struct st_executor *x)
{
	return !x->slot[0].is_live || !x->slot[1].is_live;
}

bool st_executor_is_idle(const struct st_executor *x)
{
	return !x->slot[0].is_live && !x->slot[1].is_live;
}

bool st_executor_holds(const struct st_executor *x, const void *ctx)
{
	for (uint32_t i = 0; i < WINDOW; i++)
		if (x->slot[i].is_live && x->slot[i].ctx == ctx)
			return true;
	return false;
}

void st_executor_held(const struct st_executor *x, uint64_t out[ST_POOL_N])
{
	for (unsigned p = 0; p < ST_POOL_N; p++) {
		out[p] = 0;
		for (uint32_t i = 0; i < x->held[p].n; i++)
			out[p] += x->held[p].items[i].hi - x->held[p].items[i].lo;
	}
}

const struct st_error *st_executor_error(const struct st_executor *x)
{
	return &x->error;
}

/* ---- readiness ----------------------------------------------------------------------------- */

static void satisfy(struct st_executor *x, struct instance *in, uint32_t op)
{
	const struct st_op *o = &in->p->ops[op];

	ST_ASSERT(in->left[op] > 0);
	if (--in->left[op] || in->state[op] != OP_WAITING)
		return;
	in->state[op] = OP_READY;
	if (o->lane == ST_LANE_GATE)
		in->gate = op;
	else
		heap_push(&x->ready[o->lane], key_of(x, in, op));
}

/* Does the program before still have to do with a resource? */
static bool must_import(const struct instance *prev, uint32_t resource)
{
	return resource < prev->p->n_resources && prev->touch_left[resource];
}

int st_executor_append(struct st_executor *x, const struct st_program *p, void *ctx)
{
	struct instance *prev = nth(x, 0), *in;

	ST_ASSERT(st_executor_has_room(x) && p->n_ops <= x->max_ops &&
		  p->n_claims < x->max_claims && p->n_resources < x->max_resources);
	if (x->error.rc)
		return st_error_raise(&x->error);
	if (!p->n_ops)
		return 0; /* nothing to do, so it is done */
	if (!prev->is_live) {
		in = prev;
		prev = NULL;
	} else {
		in = nth(x, 1);
	}
	in->p = p;
	in->ctx = ctx;
	in->is_live = true;
	in->is_open = in->is_cancelled = false;
	in->gate = ST_NONE;
	in->n_done = in->in_flight = 0;
	memset(in->cursor, 0, sizeof(in->cursor));
	memset(in->state, OP_WAITING, p->n_ops);
	memcpy(in->touch_left, p->touch_count, p->n_resources * sizeof(*in->touch_left));
	for (uint32_t c = 0; c < p->n_claims; c++)
		in->users_left[c] = p->claims[c].n_users;
	for (uint32_t i = 0; i < p->n_ops; i++) {
		const struct st_op *op = &p->ops[i];

		in->left[i] = op->n_deps + op->n_claims_used + 1; /* 1: until all are counted */
		for (uint32_t k = 0; prev && k < op->n_imports; k++)
			in->left[i] += must_import(prev, p->imports[op->first_import + k]);
	}
	for (uint32_t i = 0; i < p->n_ops; i++)
		satisfy(x, in, i);
	x->has_progress = true;
	return 0;
}

/* ---- reservation --------------------------------------------------------------------------- */

static bool is_range_free(const struct held_list *h, const struct st_claim *c)
{
	for (uint32_t i = 0; i < h->n; i++)
		if (h->items[i].lo < c->off_bytes + c->bytes && c->off_bytes < h->items[i].hi)
			return false;
	return true;
}

/* A claim begins: one thing less to wait for, for each that uses it (not every one of them has an
 * edge to the first: they may fill different parts). */
static void hold(struct st_executor *x, struct instance *in, uint32_t claim)
{
	const struct st_csr *users = &in->p->claim_users;
	const struct st_claim *c = &in->p->claims[claim];
	struct held_list *h = &x->held[c->pool];

	h->items[h->n++] = (struct held){ c->off_bytes, c->off_bytes + c->bytes,
					  (uint32_t)(in - x->slot), claim };
	for (uint32_t k = users->first[claim]; k < users->first[claim + 1]; k++)
		satisfy(x, in, users->items[k]);
	x->has_progress = true;
}

/* Each pool's cursor goes on until a claim's range is still held. */
static void reserve_in_order(struct st_executor *x)
{
	for (unsigned pool = 0; pool < ST_POOL_N; pool++) {
		for (uint32_t age = 0; age < WINDOW; age++) {
			struct instance *in = nth(x, age);
			const struct st_csr *list;
			uint32_t n;

			if (!in->is_live || in->is_cancelled)
				break;
			list = &in->p->pool_claims;
			n = list->first[pool + 1] - list->first[pool];
			while (in->cursor[pool] < n) {
				uint32_t claim = list->items[list->first[pool] + in->cursor[pool]];

				if (!is_range_free(&x->held[pool], &in->p->claims[claim]))
					break;
				hold(x, in, claim);
				in->cursor[pool]++;
			}
			if (in->cursor[pool] < n)
				break; /* a later program's claims come after this one's */
		}
	}
}

static bool is_held(const struct st_executor *x, const struct instance *in, uint32_t claim)
{
	const struct held_list *h = &x->held[in->p->claims[claim].pool];

	for (uint32_t i = 0; i < h->n; i++)
		if (h->items[i].claim == claim && &x->slot[h->items[i].slot] == in)
			return true;
	return false;
}

/* The wrong way, for the test that shows it: whoever is ready but for its claims takes what is
 * free. */
static void reserve_when_ready(struct st_executor *x)
{
	for (uint32_t k = 0; k < WINDOW; k++) {
		struct instance *in = nth(x, k);

		if (!in->is_live || in->is_cancelled)
			continue;
		for (uint32_t c = 0; c < in->p->n_claims; c++) {
			const struct st_csr *users = &in->p->claim_users;
			const struct st_claim *claim = &in->p->claims[c];
			uint32_t op = claim->first_op, missing = 0;

			if (in->state[op] != OP_WAITING || is_held(x, in, c))
				continue;
			for (uint32_t d = 0; d < in->p->n_claims; d++)
				for (uint32_t u = users->first[d]; u < users->first[d + 1]; u++)
					missing += users->items[u] == op && !is_held(x, in, d);
			if (in->left[op] == missing && is_range_free(&x->held[claim->pool], claim))
				hold(x, in, c);
		}
	}
}

static void end_claim(struct st_executor *x, struct instance *in, uint32_t claim)
{
	struct held_list *h = &x->held[in->p->claims[claim].pool];

	for (uint32_t i = 0; i < h->n; i++) {
		if (h->items[i].claim == claim && &x->slot[h->items[i].slot] == in) {
			h->items[i] = h->items[--h->n];
			return;
		}
	}
	ST_ASSERT(!"a claim ended that was not held");
}

/* ---- completion ---------------------------------------------------------------------------- */

static void retire(struct st_executor *x, struct instance *in)
{
	in->is_live = false;
	if (in == nth(x, 0) && nth(x, 1)->is_live)
		x->oldest = (x->oldest + 1) % WINDOW;
	rebuild_keys(x);
}

/* The program before has done with a resource. next: NULL if there is none. */
static void export_resource(struct st_executor *x, struct instance *next, uint32_t resource)
{
	if (!next || !next->is_live || next->is_cancelled || resource >= next->p->n_resources)
		return;
	for (uint32_t i = next->p->importers.first[resource];
	     i < next->p->importers.first[resource + 1]; i++)
		satisfy(x, next, next->p->importers.items[i]);
}

static void complete(struct st_executor *x, struct instance *in, uint32_t op)
{
	const struct st_program *p = in->p;
	const struct st_op *o = &p->ops[op];
	struct instance *next = in == nth(x, 0) ? nth(x, 1) : NULL;

	in->state[op] = OP_DONE;
	in->n_done++;
	x->has_progress = true;
	for (uint32_t u = 0; u < o->n_uses; u++) {
		uint32_t claim = p->uses[o->first_use + u].claim;

		if (claim != ST_NO_CLAIM && --in->users_left[claim] == 0)
			end_claim(x, in, claim);
	}
	for (uint32_t k = p->succs.first[op]; k < p->succs.first[op + 1]; k++) {
		uint32_t s = p->succs.items[k];

		/* What waits in its lane was satisfied when this one was submitted. */
		if (!(x->waits_on[p->ops[s].lane] >> o->lane & 1))
			satisfy(x, in, s);
	}
	for (uint32_t k = p->touches.first[op]; k < p->touches.first[op + 1]; k++) {
		uint32_t r = p->touches.items[k];

		if (--in->touch_left[r] == 0)
			export_resource(x, next, r);
	}
	if (x->cfg.completed)
		x->cfg.completed(x->cfg.user, in->ctx, p, op, 0);
	if (in->n_done == p->n_ops)
		retire(x, in);
}

/* Everything that has not completed does so now, as cancelled; nothing is in flight. */
static void drop_instance(struct st_executor *x, struct instance *in)
{
	struct instance *next = in == nth(x, 0) ? nth(x, 1) : NULL;

	for (unsigned pool = 0; pool < ST_POOL_N; pool++) {
		struct held_list *h = &x->held[pool];
		uint32_t kept = 0;

		for (uint32_t i = 0; i < h->n; i++)
			if (&x->slot[h->items[i].slot] != in)
				h->items[kept++] = h->items[i];
		h->n = kept;
	}
	for (uint32_t i = 0; i < in->p->n_ops; i++) {
		if (in->state[i] == OP_DONE)
			continue;
		in->state[i] = OP_DONE;
		if (x->cfg.completed)
			x->cfg.completed(x->cfg.user, in->ctx, in->p, i, STRATA_E_CANCELLED);
	}
	/* A program appended behind it waits for what it will never finish. */
	for (uint32_t r = 0; r < in->p->n_resources; r++)
		if (in->touch_left[r])
			export_resource(x, next, r);
	retire(x, in);
	x->has_progress = true;
}

static void fail(struct st_executor *x, int rc)
{
	if (!x->error.rc)
		st_error_take(&x->error, rc);
}

static void finish(struct st_executor *x, uint64_t token, int rc)
{
	struct instance *in = &x->slot[token >> 32];
	uint32_t op = (uint32_t)token;

	ST_ASSERT(in->is_live && in->state[op] == OP_SUBMITTED);
	x->in_flight--;
	in->in_flight--;
	if (rc) {
		fail(x, rc);
		in->state[op] = OP_DONE;
		in->n_done++;
		if (x->cfg.completed)
			x->cfg.completed(x->cfg.user, in->ctx, in->p, op, rc);
		return;
	}
	if (in->is_cancelled || x->error.rc) {
		/* Its work is done, but nothing may follow from it. */
		in->state[op] = OP_DONE;
		in->n_done++;
		if (x->cfg.completed)
			x->cfg.completed(x->cfg.user, in->ctx, in->p, op, 0);
		return;
	}
	complete(x, in, op);
}

/* ---- submission ---------------------------------------------------------------------------- */

static void submit_lane(struct st_executor *x, enum st_lane lane)
{
	struct heap *h = &x->ready[lane];

	while (h->n && !x->error.rc) {
		uint64_t k = h->items[0];
		uint32_t slot = (uint32_t)(k >> 32 & 0xff), op = (uint32_t)k;
		struct instance *in = &x->slot[slot];
		int rc;

		if (in->is_cancelled) {
			heap_pop(h);
			continue;
		}
		in->state[op] = OP_SUBMITTED;
		rc = x->cfg.lanes.ops->submit(x->cfg.lanes.priv, in->p, op, in->ctx,
					      (uint64_t)slot << 32 | op);
		if (rc) {
			in->state[op] = OP_READY;
			if (rc != -EAGAIN)
				fail(x, rc);
			return;
		}
		heap_pop(h);
		x->in_flight++;
		in->in_flight++;
		x->has_progress = true;
		for (uint32_t i = in->p->succs.first[op]; i < in->p->succs.first[op + 1]; i++) {
			uint32_t s = in->p->succs.items[i];

			if (x->waits_on[in->p->ops[s].lane] >> lane & 1)
				satisfy(x, in, s);
		}
	}
}

static void pass_gates(struct st_executor *x)
{
	for (uint32_t age = 0; age < WINDOW; age++) {
		struct instance *in = nth(x, age);

		if (in->is_live && in->is_open && in->gate != ST_NONE && !in->is_cancelled) {
			uint32_t gate = in->gate;

			in->gate = ST_NONE;
			complete(x, in, gate);
		}
	}
}

void st_executor_open(struct st_executor *x, const void *ctx)
{
	for (uint32_t i = 0; i < WINDOW; i++)
		if (x->slot[i].is_live && x->slot[i].ctx == ctx)
			x->slot[i].is_open = true;
}

void st_executor_cancel(struct st_executor *x)
{
	struct instance *in = nth(x, 1)->is_live ? nth(x, 1) : nth(x, 0);

	ST_ASSERT(in->is_live && !in->is_open);
	in->is_cancelled = true;
}

static void drop_cancelled(struct st_executor *x)
{
	for (uint32_t i = 0; i < WINDOW; i++) {
		struct instance *in = &x->slot[i];

		if (in->is_live && in->in_flight == 0 &&
		    (in->is_cancelled || (x->error.rc && !x->in_flight)))
			drop_instance(x, in);
	}
}

/* Nothing is in flight and nothing could be done. Then the lowest incomplete operation is a gate
 * that is closed; anything else is a deadlock. @return that operation, or ST_NONE */
static uint32_t find_stuck(struct st_executor *x)
{
	const struct instance *in = nth(x, 0);
	uint32_t op = 0;

	if (!in->is_live ||
	    (in->gate != ST_NONE && in->state[in->gate] == OP_READY && !in->is_open))
		return ST_NONE;
	while (op + 1 < in->p->n_ops && in->state[op] == OP_DONE)
		op++;
	return op;
}

/* Hand ready operations to lanes until that makes no more of them ready. */
static void submit_all(struct st_executor *x)
{
	uint32_t before;

	do {
		before = x->in_flight;
		for (unsigned l = 0; l < ST_LANE_N; l++)
			if (l != ST_LANE_GATE)
				submit_lane(x, l);
	} while (x->in_flight != before);
}

int st_executor_turn(struct st_executor *x, int64_t timeout_ns)
{
	struct st_lane_done done[DONE_MAX];
	uint32_t stuck;
	int n;

	x->has_progress = false;
	if (!x->error.rc) {
		pass_gates(x);
		if (x->cfg.reserve_when_ready)
			reserve_when_ready(x);
		else
			reserve_in_order(x);
		submit_all(x);
	}
	drop_cancelled(x);
	stuck = x->in_flight || x->has_progress || x->error.rc ? ST_NONE : find_stuck(x);
	if (stuck != ST_NONE) {
		fail(x, st_fail(-EDEADLK, "%s: operation %u can never run, and none is in flight",
				nth(x, 0)->p->name, stuck));
		drop_cancelled(x);
	}
	if (x->error.rc && !x->in_flight)
		return st_error_raise(&x->error);
	n = x->cfg.lanes.ops->wait(x->cfg.lanes.priv, done, DONE_MAX,
				   x->has_progress && !x->in_flight ? 0 : timeout_ns);
	if (n < 0) {
		fail(x, n);
		return n;
	}
	for (int i = 0; i < n; i++)
		finish(x, done[i].token, done[i].rc);
	return n || x->has_progress;
}
