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
	bool is_exclusive;
	uint64_t lo, hi;
};

struct object {
	struct access *list;
	uint32_t n, cap;
};

struct vec {
	void *data;
	uint32_t n, cap;
};

struct st_builder {
	char name[48];
	int rc; /* first failure; everything after it does nothing */
	uint32_t n_resources;
	struct vec ops, uses, claims, deps, imports,
		touches;          /* deps.. of the latest op at the end */
	struct object *resource;  /* [n_resources] */
	struct vec claim_objects; /* struct object, one per claim */
	struct st_op none;        /* what is written to after a failure */
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

void st_builder_destroy(struct st_builder *b)
{
	struct object *objects;

	if (!b)
		return;
	for (uint32_t r = 0; r < b->n_resources; r++)
		free(b->resource[r].list);
	objects = b->claim_objects.data;
	for (uint32_t c = 0; c < b->claim_objects.n; c++)
		free(objects[c].list);
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

uint32_t st_builder_op(struct st_builder *b, enum st_op_kind kind, uint32_t unit, uint32_t tile,
		       uint32_t stage, uint32_t mb)
{
	struct st_op *op = vec_add(b, &b->ops, sizeof(*op));

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
	uint32_t *dep = vec_add(b, &b->deps, sizeof(*dep));

	if (!dep)
		return;
	ST_ASSERT(op + 1 < b->ops.n);
	*dep = op;
}

/* Orders the latest operation behind what it conflicts with. @return number of edges added */
static uint32_t access_object(struct st_builder *b, struct object *o, uint64_t lo, uint64_t hi,
			      bool is_exclusive)
{
	uint32_t op = b->ops.n - 1, kept = 0, edges = 0;

	for (uint32_t i = 0; i < o->n; i++) {
		struct access a = o->list[i];
		bool meets = a.lo < hi && lo < a.hi;

		if (meets && a.op != op && (a.is_exclusive || is_exclusive)) {
			st_builder_after(b, a.op);
			edges++;
		}
		/* What this access covers and is ordered behind it need not be asked again. */
		if (!(is_exclusive && a.lo >= lo && a.hi <= hi && a.op != op))
			o->list[kept++] = a;
	}
	o->n = kept;
	if (o->n == o->cap) {
		uint32_t cap = o->cap ? o->cap * 2 : 4;
		struct access *list = reallocarray(o->list, cap, sizeof(*list));

		if (!list) {
			b->rc = -ENOMEM;
			return edges;
		}
		o->list = list;
		o->cap = cap;
	}
	o->list[o->n++] = (struct access){ op, is_exclusive, lo, hi };
	return edges;
}

uint32_t st_builder_claim(struct st_builder *b, enum st_pool pool, uint64_t bytes)
{
	struct object *o = vec_add(b, &b->claim_objects, sizeof(*o));
	struct st_claim *c = vec_add(b, &b->claims, sizeof(*c));

	if (!o || !c)
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
	struct st_use *u = vec_add(b, &b->uses, sizeof(*u));
	struct st_claim *c;

	if (!u)
		return;
	*u = (struct st_use){ .role = (uint8_t)role,
			      .is_write = is_write,
			      .claim = claim,
			      .addr = { 0, off_bytes },
			      .bytes = bytes };
	c = (struct st_claim *)b->claims.data + claim;
	ST_ASSERT(off_bytes + bytes <= c->bytes);
	if (c->first_op == ST_NONE) {
		c->first_op = b->ops.n - 1;
		st_builder_last(b)->n_claims++;
	}
	c->last_op = b->ops.n - 1;
	c->n_users++;
	st_builder_last(b)->n_uses++;
	access_object(b, (struct object *)b->claim_objects.data + claim, off_bytes,
		      off_bytes + bytes, is_write);
}

void st_builder_use_fixed(struct st_builder *b, enum st_role role, struct st_addr addr,
			  uint64_t bytes, bool is_write)
{
	struct st_use *u = vec_add(b, &b->uses, sizeof(*u));

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
	struct st_touch *t = vec_add(b, &b->touches, sizeof(*t));

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

/* ---- addresses ----------------------------------------------------------------------------- */

struct segment { /* [lo, next segment's lo) was last used by operation `last` */
	uint64_t lo;
	int64_t last; /* -1: never */
};

struct skyline {
	struct segment *seg;
	uint32_t n, cap;
	uint64_t bytes;
};

static uint64_t seg_end(const struct skyline *s, uint32_t i)
{
	return i + 1 < s->n ? s->seg[i + 1].lo : s->bytes;
}

/*
 * The start among free ranges whose latest use lies furthest back; with is_compact, the lowest.
 * @return segment, or ST_NONE
 */
static uint32_t choose_range(const struct skyline *s, uint64_t bytes, uint32_t first_op,
			     bool is_compact)
{
	uint32_t best = ST_NONE;
	int64_t best_last = INT64_MAX;

	for (uint32_t i = 0; i < s->n; i++) {
		int64_t last = -1;
		uint32_t j = i;

		for (; j < s->n && s->seg[j].last < (int64_t)first_op; j++) {
			if (s->seg[j].last > last)
				last = s->seg[j].last;
			if (seg_end(s, j) - s->seg[i].lo >= bytes)
				break;
		}
		if (j < s->n && s->seg[j].last < (int64_t)first_op && last < best_last) {
			best = i;
			best_last = last;
			if (is_compact)
				break;
		}
	}
	return best;
}

static int paint(struct skyline *s, uint64_t lo, uint64_t hi, int64_t last)
{
	struct segment out[2];
	uint32_t i = 0, j, n_out = 0;
	int64_t tail_last = -1;

	if (s->n + 2 > s->cap) {
		struct segment *seg = reallocarray(s->seg, s->cap * 2 + 4, sizeof(*seg));

		if (!seg)
			return -ENOMEM;
		s->seg = seg;
		s->cap = s->cap * 2 + 4;
	}
	while (i < s->n && s->seg[i].lo < lo)
		i++;
	for (j = i; j < s->n && s->seg[j].lo < hi; j++)
		tail_last = s->seg[j].last;
	if (j == i)
		tail_last = s->seg[i - 1].last;
	out[n_out++] = (struct segment){ lo, last };
	if (hi < s->bytes && !(j < s->n && s->seg[j].lo == hi))
		out[n_out++] = (struct segment){ hi, tail_last };
	memmove(s->seg + i + n_out, s->seg + j, (s->n - j) * sizeof(*s->seg));
	memcpy(s->seg + i, out, n_out * sizeof(*out));
	s->n = s->n - (j - i) + n_out;
	return 0;
}

/* Of all uses of [lo, hi), the latest. */
static int64_t latest_use(const struct skyline *s, uint64_t lo, uint64_t hi)
{
	int64_t last = INT64_MIN;

	for (uint32_t i = 0; i < s->n && s->seg[i].lo < hi; i++)
		if (seg_end(s, i) > lo && s->seg[i].last > last)
			last = s->seg[i].last;
	return last;
}

/*
 * The same program follows itself: how many operations lie, at the least, between the end of what a
 * claim's range held before and the claim. That is how far ahead it can be reserved.
 */
static int measure_gap(const struct st_program *p, enum st_pool pool, struct skyline *s,
		       int64_t *gap)
{
	int rc = 0;

	*gap = INT64_MAX;
	for (uint32_t i = 0; i < s->n; i++)
		s->seg[i].last -= p->n_ops;
	for (uint32_t k = p->pool_claims.first[pool]; !rc && k < p->pool_claims.first[pool + 1];
	     k++) {
		const struct st_claim *c = &p->claims[p->pool_claims.items[k]];
		uint64_t hi = c->off_bytes + c->bytes;
		int64_t ahead = (int64_t)c->first_op - latest_use(s, c->off_bytes, hi);

		if (ahead < *gap)
			*gap = ahead;
		rc = paint(s, c->off_bytes, hi, c->last_op);
	}
	return rc;
}

/* Place every claim of a pool; STRATA_E_NO_FIT when one finds no range. gap: see measure_gap(). */
static int place_claims(const struct st_program *p, enum st_pool pool, uint64_t bytes,
			bool is_compact, int64_t *gap)
{
	struct skyline s = { .bytes = bytes };
	int rc = 0;

	if (!bytes)
		return STRATA_E_NO_FIT;
	s.seg = calloc(8, sizeof(*s.seg));
	if (!s.seg)
		return -ENOMEM;
	s.cap = 8;
	s.n = 1;
	s.seg[0] = (struct segment){ 0, -1 };
	for (uint32_t k = p->pool_claims.first[pool]; !rc && k < p->pool_claims.first[pool + 1];
	     k++) {
		struct st_claim *c = &p->claims[p->pool_claims.items[k]];
		uint32_t at = choose_range(&s, c->bytes, c->first_op, is_compact);

		if (at == ST_NONE) {
			rc = STRATA_E_NO_FIT;
			break;
		}
		c->off_bytes = s.seg[at].lo;
		rc = paint(&s, c->off_bytes, c->off_bytes + c->bytes, c->last_op);
	}
	if (!rc)
		rc = measure_gap(p, pool, &s, gap);
	free(s.seg);
	return rc;
}

#define SIZES_TRIED 8u

/*
 * Where reads land, spreading claims over the pool lets reservations run ahead, the further the
 * larger it is, save where the round of ranges does not come out even at the program's end: then a
 * little less is more. Several sizes are tried and the one that lets the most stalled claim run
 * furthest is taken. Spreading may leave no range long enough for a large claim; packed from the
 * bottom, what fits some size fits every larger one. Pools of the compute lane are always packed:
 * its operations come one after the other.
 */
static int place_pool(const struct st_program *p, enum st_pool pool, uint64_t bytes)
{
	uint32_t n = p->pool_claims.first[pool + 1] - p->pool_claims.first[pool];
	bool takes_reads = pool == ST_POOL_PARAM || pool == ST_POOL_STATE || pool == ST_POOL_REST;
	uint64_t mean = 0, best = 0;
	int64_t gap, best_gap = INT64_MIN;

	if (!n)
		return 0;
	for (uint32_t k = p->pool_claims.first[pool]; k < p->pool_claims.first[pool + 1]; k++)
		mean += p->claims[p->pool_claims.items[k]].bytes / n;
	mean = (mean + ALIGN_BYTES - 1) & ~(ALIGN_BYTES - 1);
	for (uint64_t i = 0; takes_reads && i < SIZES_TRIED && bytes > i * mean; i++) {
		int rc = place_claims(p, pool, bytes - i * mean, false, &gap);

		if (rc == -ENOMEM)
			return rc;
		if (!rc && gap > best_gap) {
			best_gap = gap;
			best = bytes - i * mean;
		}
	}
	return best ? place_claims(p, pool, best, false, &gap)
		    : place_claims(p, pool, bytes, true, &gap);
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
	uint32_t kept = 0;

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
		int rc = place_pool(p, pool, places[pool].bytes);

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

int st_builder_seal(struct st_builder *b, const struct st_pool_place *places,
		    struct st_program **out, enum st_pool *failed_pool)
{
	struct st_program *p = calloc(1, sizeof(*p));
	uint32_t n_uses = b->uses.n;
	int rc = p ? b->rc : -ENOMEM;

	if (rc)
		goto fail;
	tidy_lists(b);
	snprintf(p->name, sizeof(p->name), "%s", b->name);
	p->n_ops = b->ops.n;
	p->n_claims = b->claims.n;
	p->n_touches = b->touches.n;
	p->n_resources = b->n_resources;
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
