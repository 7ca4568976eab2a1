/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offload/builder.c - from emitted operations to a sealed program: edges, addresses, tables.
 *
 * Edges come from accesses: each object (a claim, a resource) keeps the accesses since it was last
 * written whole; a new access depends on those it conflicts with.
 */
#include "offload/program.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGN_BYTES ((uint64_t)4096)

struct access {
	uint32_t op;
	uint64_t lo, hi;
};

/*
 * Accesses in the order in which they came. Many operations touch one resource, each a range of its
 * own, so a search goes by groups of GROUP: one is skipped when nothing in it lies in the range.
 */
#define GROUP 32u
struct hull {
	uint64_t lo, hi;
};

struct accesses {
	struct access *list;
	struct hull *hulls; /* [n / GROUP]; NULL while one group holds all */
	uint32_t n, cap;
};

struct object {
	struct accesses shared, exclusive;
};

struct vec {
	void *data;
	uint32_t n, cap;
};

struct st_builder {
	char name[48];
	int rc;         /* first failure; everything after it does nothing */
	bool is_sketch; /* only what is claimed when, and how many bytes move */
	uint32_t n_resources;
	struct vec ops, uses, claims, deps, imports,
		touches;          /* deps.. of the latest op at the end */
	struct object *resource;  /* [n_resources] */
	struct vec claim_objects; /* struct object, one per claim */
	struct st_op none;        /* what is written to after a failure, and in a sketch */
	uint32_t n_sketched;      /* operations of a sketch */
	uint64_t lane_bytes[ST_LANE_N];
};

static void *vec_add(struct st_builder *b, struct vec *v, size_t item_bytes)
{
	if (b->rc)
		return NULL;
	if (v->n == v->cap) {
		uint32_t cap = v->cap ? v->cap * 2 : 64;
		void *data = cap < v->cap ? NULL : reallocarray(v->data, cap, item_bytes);

		if (!data) {
			b->rc = -ENOMEM;
			return NULL;
		}
		v->data = data;
		v->cap = cap;
	}
	return memset((char *)v->data + item_bytes * v->n++, 0, item_bytes);
}

int st_builder_create(struct st_builder **out, const char *name, uint32_t n_resources)
{
	struct st_builder *b = calloc(1, sizeof(*b));

	if (b)
		b->resource = calloc(n_resources ? n_resources : 1, sizeof(*b->resource));
	if (!b || !b->resource) {
		free(b);
		return st_fail(-ENOMEM, "program %s", name);
	}
	snprintf(b->name, sizeof(b->name), "%s", name);
	b->n_resources = n_resources;
	*out = b;
	return 0;
}

static void object_fini(struct object *o)
{
	free(o->shared.list);
	free(o->shared.hulls);
	free(o->exclusive.list);
	free(o->exclusive.hulls);
}

void st_builder_sketch(struct st_builder *b)
{
	ST_ASSERT(!b->ops.n && !b->claims.n);
	b->is_sketch = true;
}

void st_builder_destroy(struct st_builder *b)
{
	struct object *objects;

	if (!b)
		return;
	for (uint32_t r = 0; r < b->n_resources; r++)
		object_fini(&b->resource[r]);
	objects = b->claim_objects.data;
	for (uint32_t c = 0; c < b->claim_objects.n; c++)
		object_fini(&objects[c]);
	free(b->resource);
	free(b->claim_objects.data);
	free(b->ops.data);
	free(b->uses.data);
	free(b->claims.data);
	free(b->deps.data);
	free(b->imports.data);
	free(b->touches.data);
	free(b);
}

struct st_op *st_builder_last(struct st_builder *b)
{
	return b->rc || !b->ops.n ? &b->none : (struct st_op *)b->ops.data + (b->ops.n - 1);
}

/* Operations so far. */
static uint32_t n_ops(const struct st_builder *b)
{
	return b->is_sketch ? b->n_sketched : b->ops.n;
}

/* Of the operation before only its bytes are kept. */
static uint32_t sketch_op(struct st_builder *b, enum st_op_kind kind)
{
	if (b->n_sketched)
		b->lane_bytes[b->none.lane] += b->none.bytes;
	b->none = (struct st_op){ .kind = (uint8_t)kind, .lane = (uint8_t)st_op_lane(kind) };
	return b->n_sketched++;
}

uint32_t st_builder_op(struct st_builder *b, enum st_op_kind kind, uint32_t unit, uint32_t tile,
		       uint32_t stage, uint32_t mb)
{
	struct st_op *op;

	if (b->is_sketch)
		return sketch_op(b, kind);
	op = vec_add(b, &b->ops, sizeof(*op));
	if (!op)
		return 0;
	*op = (struct st_op){
		.kind = (uint8_t)kind,
		.lane = (uint8_t)st_op_lane(kind),
		.unit = unit,
		.tile = tile,
		.stage = stage,
		.mb = mb,
		.first_use = b->uses.n,
		.first_dep = b->deps.n,
		.first_import = b->imports.n,
	};
	return b->ops.n - 1;
}

void st_builder_after(struct st_builder *b, uint32_t op)
{
	uint32_t *dep = b->is_sketch ? NULL : vec_add(b, &b->deps, sizeof(*dep));

	if (!dep)
		return;
	ST_ASSERT(op + 1 < b->ops.n);
	*dep = op;
}

static int grow_accesses(struct accesses *a)
{
	uint32_t cap = a->cap ? a->cap * 2 : 4;
	struct access *list = reallocarray(a->list, cap, sizeof(*list));
	struct hull *hulls;

	if (!list)
		return -ENOMEM;
	a->list = list;
	if (cap > GROUP) {
		hulls = reallocarray(a->hulls, cap / GROUP, sizeof(*hulls));
		if (!hulls)
			return -ENOMEM;
		if (!a->hulls) {
			hulls[0] = (struct hull){ UINT64_MAX, 0 };
			for (uint32_t i = 0; i < a->n; i++) {
				hulls[0].lo = list[i].lo < hulls[0].lo ? list[i].lo : hulls[0].lo;
				hulls[0].hi = list[i].hi > hulls[0].hi ? list[i].hi : hulls[0].hi;
			}
		}
		a->hulls = hulls;
	}
	a->cap = cap;
	return 0;
}

static int add_access(struct accesses *a, struct access access)
{
	int rc = a->n == a->cap ? grow_accesses(a) : 0;
	struct hull *h;

	if (rc)
		return rc;
	if (a->hulls) {
		h = &a->hulls[a->n / GROUP];
		if (a->n % GROUP == 0)
			*h = (struct hull){ access.lo, access.hi };
		h->lo = access.lo < h->lo ? access.lo : h->lo;
		h->hi = access.hi > h->hi ? access.hi : h->hi;
	}
	a->list[a->n++] = access;
	return 0;
}

static uint32_t group_end(const struct accesses *a, uint32_t first)
{
	return a->hulls && a->n - first > GROUP ? first + GROUP : a->n;
}

static bool may_meet(const struct accesses *a, uint32_t first, uint64_t lo, uint64_t hi)
{
	return !a->hulls || (a->hulls[first / GROUP].lo < hi && lo < a->hulls[first / GROUP].hi);
}

/* Edges from those that [lo, hi) meets. @return their number */
static uint32_t order_behind(struct st_builder *b, const struct accesses *a, uint64_t lo,
			     uint64_t hi)
{
	uint32_t op = b->ops.n - 1, edges = 0;

	for (uint32_t first = 0; first < a->n; first += GROUP) {
		uint32_t end = group_end(a, first);

		for (uint32_t i = first; may_meet(a, first, lo, hi) && i < end; i++) {
			if (a->list[i].lo >= hi || lo >= a->list[i].hi || a->list[i].op == op)
				continue;
			st_builder_after(b, a->list[i].op);
			edges++;
		}
		if (end == a->n)
			break;
	}
	return edges;
}

/*
 * What a write covers and is ordered behind it need not be asked again. Where nothing of a large
 * list goes, it is not moved.
 */
static void forget_covered(struct accesses *a, uint64_t lo, uint64_t hi, uint32_t op)
{
	uint32_t n = a->n, kept = 0, first = 0, i;

	while (first < n && !may_meet(a, first, lo, hi))
		first += GROUP;
	kept = first;
	for (i = first; i < n; i++) {
		const struct access access = a->list[i];

		if (access.lo >= lo && access.hi <= hi && access.op != op)
			continue;
		a->list[kept++] = access;
	}
	if (kept == n || first >= n)
		return;
	a->n = a->hulls ? first : kept;
	for (i = first; a->hulls && i < kept; i++) /* into groups again; there is room */
		(void)add_access(a, a->list[i]);
}

/* Orders the latest operation behind what it conflicts with. @return number of edges added */
static uint32_t access_object(struct st_builder *b, struct object *o, uint64_t lo, uint64_t hi,
			      bool is_exclusive)
{
	const struct access access = { b->ops.n - 1, lo, hi };
	uint32_t edges = order_behind(b, &o->exclusive, lo, hi);
	int rc;

	if (is_exclusive) {
		edges += order_behind(b, &o->shared, lo, hi);
		forget_covered(&o->exclusive, lo, hi, access.op);
		forget_covered(&o->shared, lo, hi, access.op);
	}
	rc = add_access(is_exclusive ? &o->exclusive : &o->shared, access);
	if (rc && !b->rc)
		b->rc = rc;
	return edges;
}

uint32_t st_builder_claim(struct st_builder *b, enum st_pool pool, uint64_t bytes)
{
	struct object *o = b->is_sketch ? NULL : vec_add(b, &b->claim_objects, sizeof(*o));
	struct st_claim *c = vec_add(b, &b->claims, sizeof(*c));

	if ((!o && !b->is_sketch) || !c)
		return 0;
	c->pool = (uint8_t)pool;
	c->first_op = ST_NONE;
	/* An empty claim takes room too: a range of no length has no place in the order of ranges.
	 */
	c->bytes = ((bytes ? bytes : 1) + ALIGN_BYTES - 1) & ~(ALIGN_BYTES - 1);
	return b->claims.n - 1;
}

void st_builder_use(struct st_builder *b, enum st_role role, uint32_t claim, uint64_t off_bytes,
		    uint64_t bytes, bool is_write)
{
	struct st_use *u = b->is_sketch ? NULL : vec_add(b, &b->uses, sizeof(*u));
	struct st_claim *c;

	if (b->rc)
		return;
	c = (struct st_claim *)b->claims.data + claim;
	ST_ASSERT(off_bytes + bytes <= c->bytes);
	if (c->first_op == ST_NONE) {
		c->first_op = n_ops(b) - 1;
		st_builder_last(b)->n_claims++;
	}
	c->last_op = n_ops(b) - 1;
	c->n_users++;
	if (!u)
		return;
	*u = (struct st_use){ .role = (uint8_t)role,
			      .is_write = is_write,
			      .claim = claim,
			      .addr = { 0, off_bytes },
			      .bytes = bytes };
	st_builder_last(b)->n_uses++;
	access_object(b, (struct object *)b->claim_objects.data + claim, off_bytes,
		      off_bytes + bytes, is_write);
}

void st_builder_use_fixed(struct st_builder *b, enum st_role role, struct st_addr addr,
			  uint64_t bytes, bool is_write)
{
	struct st_use *u = b->is_sketch ? NULL : vec_add(b, &b->uses, sizeof(*u));

	if (!u)
		return;
	*u = (struct st_use){ .role = (uint8_t)role,
			      .is_write = is_write,
			      .claim = ST_NO_CLAIM,
			      .addr = addr,
			      .bytes = bytes };
	st_builder_last(b)->n_uses++;
}

void st_builder_touch(struct st_builder *b, uint32_t resource, uint64_t lo, uint64_t hi,
		      bool is_exclusive)
{
	struct st_touch *t = b->is_sketch ? NULL : vec_add(b, &b->touches, sizeof(*t));

	if (!t)
		return;
	ST_ASSERT(resource < b->n_resources);
	hi = hi ? hi : UINT64_MAX;
	*t = (struct st_touch){ b->ops.n - 1, resource, is_exclusive, lo, hi };
	if (access_object(b, &b->resource[resource], lo, hi, is_exclusive) == 0) {
		uint32_t *import = vec_add(b, &b->imports, sizeof(*import));

		if (import)
			*import = resource;
	}
}

/* ---- tables -------------------------------------------------------------------------------- */

/* Counting sort of (key, item) pairs into lists per key. */
static int make_csr(struct st_csr *c, uint32_t n_keys, uint32_t n_pairs, const uint32_t *keys,
		    const uint32_t *items)
{
	c->first = calloc((size_t)n_keys + 2, sizeof(*c->first));
	c->items = calloc((size_t)n_pairs + 1, sizeof(*c->items));
	if (!c->first || !c->items)
		return -ENOMEM;
	for (uint32_t i = 0; i < n_pairs; i++)
		c->first[keys[i] + 2]++;
	for (uint32_t k = 0; k < n_keys; k++)
		c->first[k + 2] += c->first[k + 1];
	for (uint32_t i = 0; i < n_pairs; i++)
		c->items[c->first[keys[i] + 1]++] = items[i];
	return 0;
}

static int cmp_u32(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static uint32_t sort_unique(uint32_t *list, uint32_t n)
{
	uint32_t kept = 0, sorted = 1;

	while (sorted < n && list[sorted - 1] <= list[sorted])
		sorted++;
	if (sorted < n)
		qsort(list, n, sizeof(*list), cmp_u32);
	for (uint32_t i = 0; i < n; i++)
		if (!i || list[i] != list[kept - 1])
			list[kept++] = list[i];
	return kept;
}

/* Each operation's edges and imports once, ascending. */
static void tidy_lists(struct st_builder *b)
{
	struct st_op *ops = b->ops.data;
	uint32_t *deps = b->deps.data, *imports = b->imports.data;

	for (uint32_t i = 0; i < b->ops.n; i++) {
		uint32_t dep_end = i + 1 < b->ops.n ? ops[i + 1].first_dep : b->deps.n;
		uint32_t import_end = i + 1 < b->ops.n ? ops[i + 1].first_import : b->imports.n;

		ops[i].n_deps = dep_end - ops[i].first_dep;
		if (ops[i].n_deps)
			ops[i].n_deps = sort_unique(deps + ops[i].first_dep, ops[i].n_deps);
		ops[i].n_imports = import_end - ops[i].first_import;
		if (ops[i].n_imports)
			ops[i].n_imports =
				sort_unique(imports + ops[i].first_import, ops[i].n_imports);
	}
}

/* Lists over operations: `n` items of op i start at first(i). */
static int invert(struct st_csr *out, const struct st_program *p, uint32_t n_keys, bool is_imports)
{
	uint32_t n = 0, at = 0;
	uint32_t *keys, *items;
	int rc;

	for (uint32_t i = 0; i < p->n_ops; i++)
		n += is_imports ? p->ops[i].n_imports : p->ops[i].n_deps;
	keys = calloc((size_t)n + 1, sizeof(*keys));
	items = calloc((size_t)n + 1, sizeof(*items));
	rc = keys && items ? 0 : -ENOMEM;
	for (uint32_t i = 0; !rc && i < p->n_ops; i++) {
		const struct st_op *op = &p->ops[i];
		const uint32_t *list =
			is_imports ? p->imports + op->first_import : p->deps + op->first_dep;
		uint32_t len = is_imports ? op->n_imports : op->n_deps;

		for (uint32_t d = 0; d < len; d++, at++) {
			keys[at] = list[d];
			items[at] = i;
		}
	}
	if (!rc)
		rc = make_csr(out, n_keys, n, keys, items);
	free(keys);
	free(items);
	return rc;
}

static int build_touches(struct st_program *p)
{
	const struct st_touch *t = p->touch_list;
	uint32_t *keys = calloc((size_t)p->n_touches + 1, sizeof(*keys));
	uint32_t *items = calloc((size_t)p->n_touches + 1, sizeof(*items));
	uint32_t n = 0;
	int rc = keys && items ? 0 : -ENOMEM;

	p->touch_count = calloc((size_t)p->n_resources + 1, sizeof(*p->touch_count));
	if (!p->touch_count)
		rc = -ENOMEM;
	for (uint32_t i = 0; !rc && i < p->n_touches; i++) {
		bool again = false;

		for (uint32_t j = n; j-- > 0 && keys[j] == t[i].op;)
			again |= items[j] == t[i].resource;
		if (again)
			continue;
		keys[n] = t[i].op;
		items[n++] = t[i].resource;
		p->touch_count[t[i].resource]++;
	}
	if (!rc)
		rc = make_csr(&p->touches, p->n_ops, n, keys, items);
	free(keys);
	free(items);
	return rc;
}

/* Who waits for a claim to be reserved: all that use it. */
static int build_claim_users(struct st_program *p, uint32_t n_uses)
{
	uint32_t *keys = calloc((size_t)n_uses + 1, sizeof(*keys));
	uint32_t *items = calloc((size_t)n_uses + 1, sizeof(*items));
	uint32_t *latest = calloc((size_t)p->n_claims + 1, sizeof(*latest)); /* user + 1 */
	uint32_t n = 0;
	int rc = keys && items && latest ? 0 : -ENOMEM;

	for (uint32_t i = 0; !rc && i < p->n_ops; i++) {
		for (uint32_t u = 0; u < p->ops[i].n_uses; u++) {
			uint32_t claim = p->uses[p->ops[i].first_use + u].claim;

			if (claim == ST_NO_CLAIM || latest[claim] == i + 1)
				continue;
			latest[claim] = i + 1;
			keys[n] = claim;
			items[n++] = i;
			p->ops[i].n_claims_used++;
		}
	}
	if (!rc)
		rc = make_csr(&p->claim_users, p->n_claims, n, keys, items);
	free(keys);
	free(items);
	free(latest);
	return rc;
}

/* Claims by pool in the order in which they are first used, and the serial peak of each pool. */
static int build_pools(struct st_program *p)
{
	uint32_t *keys = calloc((size_t)p->n_claims + 1, sizeof(*keys));
	uint32_t *items = calloc((size_t)p->n_claims + 1, sizeof(*items));
	int64_t *delta = calloc((size_t)p->n_ops + 2, sizeof(*delta));
	int rc = keys && items && delta ? 0 : -ENOMEM;

	for (uint32_t c = 0; !rc && c < p->n_claims; c++) {
		keys[c] = p->claims[c].first_op;
		items[c] = c;
		ST_ASSERT(p->claims[c].first_op != ST_NONE);
	}
	if (!rc) { /* by first operation, then stably by pool */
		struct st_csr by_op = { 0 };

		rc = make_csr(&by_op, p->n_ops, p->n_claims, keys, items);
		for (uint32_t i = 0; !rc && i < p->n_claims; i++) {
			items[i] = by_op.items[i];
			keys[i] = p->claims[items[i]].pool;
		}
		free(by_op.first);
		free(by_op.items);
	}
	if (!rc)
		rc = make_csr(&p->pool_claims, ST_POOL_N, p->n_claims, keys, items);
	for (unsigned pool = 0; !rc && pool < ST_POOL_N; pool++) {
		int64_t live = 0;

		memset(delta, 0, ((size_t)p->n_ops + 2) * sizeof(*delta));
		for (uint32_t k = p->pool_claims.first[pool]; k < p->pool_claims.first[pool + 1];
		     k++) {
			const struct st_claim *c = &p->claims[p->pool_claims.items[k]];

			delta[c->first_op] += (int64_t)c->bytes;
			delta[c->last_op + 1] -= (int64_t)c->bytes;
		}
		for (uint32_t i = 0; i < p->n_ops; i++) {
			live += delta[i];
			if ((uint64_t)live > p->pool_peak[pool])
				p->pool_peak[pool] = (uint64_t)live;
		}
	}
	free(keys);
	free(items);
	free(delta);
	return rc;
}

/* The table is never NULL, so that nobody need ask before a search. @return false: no memory */
static bool take_vec(struct vec *v, void *out_ptr)
{
	void *data = v->data ? v->data : calloc(1, 64);

	memcpy(out_ptr, &data, sizeof(data));
	v->data = NULL;
	v->n = v->cap = 0;
	return data != NULL;
}

static int place_all(struct st_program *p, const struct st_pool_place *places,
		     enum st_pool *failed_pool)
{
	for (unsigned pool = 0; pool < ST_POOL_N; pool++) {
		int rc = st_place_pool(p, pool, places[pool].bytes);

		p->place[pool] = places[pool];
		if (rc) {
			if (failed_pool)
				*failed_pool = pool;
			return rc;
		}
	}
	for (uint32_t i = 0; i < p->n_ops; i++) {
		for (uint32_t u = 0; u < p->ops[i].n_uses; u++) {
			struct st_use *use = &p->uses[p->ops[i].first_use + u];
			const struct st_claim *c;

			if (use->claim == ST_NO_CLAIM)
				continue;
			c = &p->claims[use->claim];
			use->addr.arena = places[c->pool].arena;
			use->addr.off_bytes += places[c->pool].base_bytes + c->off_bytes;
		}
	}
	return 0;
}

/* Claims and peaks; the tables of operations stay empty. */
static int seal_sketch(struct st_builder *b, struct st_program *p)
{
	if (n_ops(b))
		b->lane_bytes[b->none.lane] += b->none.bytes;
	memcpy(p->lane_bytes, b->lane_bytes, sizeof(p->lane_bytes));
	return take_vec(&b->claims, &p->claims) ? build_pools(p) : -ENOMEM;
}

int st_builder_seal(struct st_builder *b, const struct st_pool_place *places,
		    struct st_program **out, enum st_pool *failed_pool)
{
	struct st_program *p = calloc(1, sizeof(*p));
	uint32_t n_uses = b->uses.n;
	int rc = p ? b->rc : -ENOMEM;

	if (rc)
		goto fail;
	snprintf(p->name, sizeof(p->name), "%s", b->name);
	p->n_ops = n_ops(b);
	p->n_claims = b->claims.n;
	p->n_touches = b->touches.n;
	p->n_resources = b->n_resources;
	if (b->is_sketch) {
		rc = seal_sketch(b, p);
		if (rc)
			goto fail;
		*out = p;
		return 0;
	}
	tidy_lists(b);
	if (!take_vec(&b->ops, &p->ops) || !take_vec(&b->uses, &p->uses) ||
	    !take_vec(&b->deps, &p->deps) || !take_vec(&b->imports, &p->imports) ||
	    !take_vec(&b->claims, &p->claims) || !take_vec(&b->touches, &p->touch_list)) {
		rc = -ENOMEM;
		goto fail;
	}
	if ((rc = invert(&p->succs, p, p->n_ops, false)) ||
	    (rc = invert(&p->importers, p, p->n_resources, true)) || (rc = build_touches(p)) ||
	    (rc = build_claim_users(p, n_uses)) || (rc = build_pools(p)))
		goto fail;
	if (places && (rc = place_all(p, places, failed_pool)))
		goto fail;
	for (uint32_t i = 0; i < p->n_ops; i++) {
		p->lane_bytes[p->ops[i].lane] += p->ops[i].bytes;
		p->flops += p->ops[i].flops;
	}
	*out = p;
	return 0;

fail:
	st_program_destroy(p);
	return rc == STRATA_E_NO_FIT ? rc : st_fail(rc, "program %s", b->name);
}
