/* SPDX-License-Identifier: Apache-2.0 */
/* offload/program.c - a program's tables, its text, and its verification. */
#include "offload/program.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	enum st_lane lane;
	const char *name;
} kinds[] = {
#define ST_X(name, lane, text) { ST_LANE_##lane, text },
	ST_OPS(ST_X)
#undef ST_X
};

const char *st_op_name(enum st_op_kind k)
{
	return kinds[k].name;
}

enum st_lane st_op_lane(enum st_op_kind k)
{
	return kinds[k].lane;
}

const char *st_lane_name(enum st_lane l)
{
	static const char *const names[] = {
#define ST_X(name, text) text,
		ST_LANES(ST_X)
#undef ST_X
	};
	return names[l];
}

const char *st_pool_name(enum st_pool p)
{
	static const char *const names[] = {
#define ST_X(name, text) text,
		ST_POOLS(ST_X)
#undef ST_X
	};
	return names[p];
}

static void csr_free(struct st_csr *c)
{
	free(c->first);
	free(c->items);
}

void st_program_destroy(struct st_program *p)
{
	if (!p)
		return;
	free(p->ops);
	free(p->uses);
	free(p->deps);
	free(p->imports);
	free(p->claims);
	free(p->touch_list);
	free(p->touch_count);
	csr_free(&p->succs);
	csr_free(&p->importers);
	csr_free(&p->touches);
	csr_free(&p->pool_claims);
	csr_free(&p->claim_users);
	free(p);
}

/* ---- text ---------------------------------------------------------------------------------- */

struct text {
	char *at;
	size_t left;
};

static void ST_PRINTF(2, 3) put(struct text *t, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(t->at, t->left, fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= t->left)
		n = t->left ? (int)t->left - 1 : 0;
	t->at += n;
	t->left -= (size_t)n;
}

static void put_list(struct text *t, const char *label, const uint32_t *items, uint32_t n)
{
	if (!n)
		return;
	put(t, "  %s", label);
	for (uint32_t i = 0; i < n; i++)
		put(t, "%s%u", i ? "," : "", items[i]);
}

void st_program_print(const struct st_program *p, uint32_t i, char *line, size_t line_bytes)
{
	const struct st_op *op = &p->ops[i];
	struct text t = { line, line_bytes };

	put(&t, "%5u %-10s %-12s", i, st_lane_name(op->lane), st_op_name(op->kind));
	if (op->stage != ST_NONE)
		put(&t, " stage %u", op->stage);
	if (op->unit != ST_NONE)
		put(&t, " unit %u", op->unit);
	if (op->tile != ST_NONE)
		put(&t, " tile %u", op->tile);
	if (op->kind == ST_OP_READ_ROWS || op->kind == ST_OP_UPDATE_ROWS)
		put(&t, " chunk %u", op->chunk);
	if (op->mb != ST_NONE)
		put(&t, " micro-batch %u%s", op->mb, op->is_recompute ? " again" : "");
	if (op->bytes)
		put(&t, "  %s%llu B", op->kind == ST_OP_READ_ROWS ? "up to " : "",
		    (unsigned long long)op->bytes);
	if (op->flops > 0)
		put(&t, "  %.3g flop", op->flops);
	for (uint32_t c = 0; c < p->n_claims; c++)
		if (p->claims[c].first_op == i)
			put(&t, "  claims %s[%llu+%llu]..%u", st_pool_name(p->claims[c].pool),
			    (unsigned long long)p->claims[c].off_bytes,
			    (unsigned long long)p->claims[c].bytes, p->claims[c].last_op);
	put_list(&t, "after ", p->deps + op->first_dep, op->n_deps);
	put_list(&t, "imports ", p->imports + op->first_import, op->n_imports);
}

/* ---- verification -------------------------------------------------------------------------- */

struct past { /* an earlier access to an object */
	uint32_t op;
	bool is_write;
	uint64_t lo, hi;
};

struct object {            /* a claim, the memory of an arena that stays, or a resource */
	struct past *list; /* what no later write covers */
	uint32_t n, cap;
};

struct verifier {
	const struct st_program *p;
	uint32_t *mark, *stack; /* [n_ops] scratch of has_path(); marks equal to stamp are seen */
	uint32_t stamp;
	struct object *objects; /* claims, arenas, resources */
	uint32_t n_objects;
};

static int cmp_u32(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static bool has_edge(const struct st_program *p, uint32_t from, uint32_t to)
{
	const struct st_op *op = &p->ops[to];

	return bsearch(&from, p->deps + op->first_dep, op->n_deps, sizeof(uint32_t), cmp_u32) !=
	       NULL;
}

/* Is `from` an ancestor of `to`? */
static bool has_path(struct verifier *v, uint32_t from, uint32_t to)
{
	const struct st_program *p = v->p;
	uint32_t n = 0;

	if (has_edge(p, from, to))
		return true;
	v->stamp++;
	v->stack[n++] = to;
	while (n) {
		const struct st_op *op = &p->ops[v->stack[--n]];

		for (uint32_t d = 0; d < op->n_deps; d++) {
			uint32_t at = p->deps[op->first_dep + d];

			if (at == from)
				return true;
			if (at > from && v->mark[at] != v->stamp) {
				v->mark[at] = v->stamp;
				v->stack[n++] = at;
			}
		}
	}
	return false;
}

static int verify_edges(const struct st_program *p)
{
	uint32_t n_deps = 0;

	for (uint32_t i = 0; i < p->n_ops; i++) {
		n_deps += p->ops[i].n_deps;
		for (uint32_t d = 0; d < p->ops[i].n_deps; d++)
			if (p->deps[p->ops[i].first_dep + d] >= i)
				return st_fail(-EPROTO,
					       "%s: operation %u has an edge to %u, which is not "
					       "before it",
					       p->name, i, p->deps[p->ops[i].first_dep + d]);
	}
	if (p->succs.first[p->n_ops] != n_deps)
		return st_fail(-EPROTO, "%s: %u edges back, %u forth", p->name, n_deps,
			       p->succs.first[p->n_ops]);
	for (uint32_t i = 0; i < p->n_ops; i++)
		for (uint32_t k = p->succs.first[i]; k < p->succs.first[i + 1]; k++)
			if (p->succs.items[k] >= p->n_ops || !has_edge(p, i, p->succs.items[k]))
				return st_fail(-EPROTO,
					       "%s: operation %u is followed by %u, which has no "
					       "edge to it",
					       p->name, i, p->succs.items[k]);
	return 0;
}

static bool ranges_meet(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
	return a < b + b_len && b < a + a_len;
}

static bool is_placed(const struct st_program *p)
{
	for (unsigned pool = 0; pool < ST_POOL_N; pool++)
		if (p->place[pool].bytes)
			return true;
	return false;
}

/* Uses of claims lie inside them, and a claim's life is that of its uses. */
static int verify_lives(const struct st_program *p)
{
	uint32_t *users = calloc((size_t)p->n_claims + 1, sizeof(*users));
	bool has_places = is_placed(p);
	int rc = users ? 0 : st_fail(-ENOMEM, "%s: verification", p->name);

	for (uint32_t i = 0; !rc && i < p->n_ops; i++) {
		for (uint32_t k = 0; !rc && k < p->ops[i].n_uses; k++) {
			const struct st_use *u = &p->uses[p->ops[i].first_use + k];
			const struct st_claim *c;
			uint64_t lo = 0;

			if (u->claim == ST_NO_CLAIM)
				continue;
			c = &p->claims[u->claim];
			if (has_places)
				lo = p->place[c->pool].base_bytes + c->off_bytes;
			if (u->addr.off_bytes < lo ||
			    u->addr.off_bytes + u->bytes > lo + c->bytes ||
			    (has_places && u->addr.arena != p->place[c->pool].arena))
				rc = st_fail(-EPROTO,
					     "%s: operation %u uses memory outside claim %u",
					     p->name, i, u->claim);
			else if (i < c->first_op || i > c->last_op ||
				 (!users[u->claim]++ && i != c->first_op))
				rc = st_fail(-EPROTO,
					     "%s: operation %u uses claim %u outside its life",
					     p->name, i, u->claim);
		}
	}
	for (uint32_t c = 0; !rc && c < p->n_claims; c++)
		if (users[c] != p->claims[c].n_users)
			rc = st_fail(-EPROTO, "%s: claim %u has %u users, not %u", p->name, c,
				     users[c], p->claims[c].n_users);
	free(users);
	return rc;
}

/* Two claims of one pool that overlap in place must not overlap in serial time. */
static int verify_claims(const struct st_program *p)
{
	for (unsigned pool = 0; pool < ST_POOL_N && is_placed(p); pool++) {
		const uint32_t *list = p->pool_claims.items + p->pool_claims.first[pool];
		uint32_t n = p->pool_claims.first[pool + 1] - p->pool_claims.first[pool];

		for (uint32_t i = 0; i < n; i++) {
			const struct st_claim *b = &p->claims[list[i]];

			if (b->off_bytes + b->bytes > p->place[pool].bytes)
				return st_fail(-EPROTO, "%s: claim %u lies outside %s", p->name,
					       list[i], st_pool_name(pool));
			for (uint32_t j = 0; j < i; j++) {
				const struct st_claim *a = &p->claims[list[j]];

				if (a->last_op >= b->first_op &&
				    ranges_meet(a->off_bytes, a->bytes, b->off_bytes, b->bytes))
					return st_fail(
						-EPROTO, "%s: claims %u and %u of %s overlap",
						p->name, list[j], list[i], st_pool_name(pool));
			}
		}
	}
	return 0;
}

/*
 * Every earlier access that conflicts needs a path to this one. An access that a write covers is
 * forgotten: it has a path to the write, and whatever conflicts with it conflicts with the write.
 * @return conflicts found (0: the first access in its program), or -EPROTO, -ENOMEM
 */
static int verify_access(struct verifier *v, uint32_t object, struct past now)
{
	struct object *o = &v->objects[object];
	uint32_t kept = 0;
	int n = 0;

	for (uint32_t i = 0; i < o->n; i++) {
		struct past a = o->list[i];

		if (a.op != now.op && (a.is_write || now.is_write) && a.lo < now.hi &&
		    now.lo < a.hi) {
			if (!has_path(v, a.op, now.op))
				return st_fail(
					-EPROTO,
					"%s: operations %u and %u use the same %s and nothing"
					" orders them",
					v->p->name, a.op, now.op,
					object < v->p->n_claims + ST_ARENA_N ? "memory"
									     : "resource");
			n = 1;
		}
		if (!(now.is_write && a.op != now.op && a.lo >= now.lo && a.hi <= now.hi))
			o->list[kept++] = a;
	}
	o->n = kept;
	if (o->n == o->cap) {
		struct past *list = reallocarray(o->list, (size_t)o->cap * 2 + 4, sizeof(*list));

		if (!list)
			return st_fail(-ENOMEM, "%s: verification", v->p->name);
		o->list = list;
		o->cap = o->cap * 2 + 4;
	}
	o->list[o->n++] = now;
	return n;
}

static bool imports(const struct st_program *p, uint32_t op, uint32_t resource)
{
	const struct st_op *o = &p->ops[op];

	return bsearch(&resource, p->imports + o->first_import, o->n_imports, sizeof(uint32_t),
		       cmp_u32) != NULL;
}

static int verify_accesses(struct verifier *v)
{
	const struct st_program *p = v->p;
	uint32_t t = 0;
	int rc = 0;

	for (uint32_t i = 0; rc >= 0 && i < p->n_ops; i++) {
		for (uint32_t k = 0; rc >= 0 && k < p->ops[i].n_uses; k++) {
			const struct st_use *u = &p->uses[p->ops[i].first_use + k];
			uint32_t object =
				u->claim == ST_NO_CLAIM ? p->n_claims + u->addr.arena : u->claim;

			rc = verify_access(v, object,
					   (struct past){ i, u->is_write, u->addr.off_bytes,
							  u->addr.off_bytes + u->bytes });
		}
		for (; rc >= 0 && t < p->n_touches && p->touch_list[t].op == i; t++) {
			const struct st_touch *touch = &p->touch_list[t];

			rc = verify_access(
				v, p->n_claims + ST_ARENA_N + touch->resource,
				(struct past){ i, touch->is_exclusive, touch->lo, touch->hi });
			if (rc == 0 && !imports(p, i, touch->resource))
				rc = st_fail(-EPROTO,
					     "%s: operation %u is the first to touch resource %u "
					     "and does"
					     " not import it",
					     p->name, i, touch->resource);
		}
	}
	return rc < 0 ? rc : 0;
}

int st_program_verify(const struct st_program *p)
{
	struct verifier v = { .p = p, .n_objects = p->n_claims + ST_ARENA_N + p->n_resources };
	int rc;

	v.mark = calloc((size_t)p->n_ops + 1, sizeof(*v.mark));
	v.stack = calloc((size_t)p->n_ops + 1, sizeof(*v.stack));
	v.objects = calloc(v.n_objects, sizeof(*v.objects));
	rc = v.mark && v.stack && v.objects ? 0 : st_fail(-ENOMEM, "%s: verification", p->name);
	if (!rc)
		rc = verify_edges(p);
	if (!rc)
		rc = verify_lives(p);
	if (!rc)
		rc = verify_claims(p);
	if (!rc)
		rc = verify_accesses(&v);
	for (uint32_t i = 0; v.objects && i < v.n_objects; i++)
		free(v.objects[i].list);
	free(v.objects);
	free(v.mark);
	free(v.stack);
	return rc;
}
