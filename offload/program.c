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

enum st_lane st__op_lane(enum st_op_kind k);
enum st_lane st__op_lane(enum st_op_kind k)
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
	if (op->mb != ST_NONE)
		put(&t, " micro-batch %u%s", op->mb, op->is_recompute ? " again" : "");
	if (op->bytes)
		put(&t, "  %llu B", (unsigned long long)op->bytes);
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

static int cmp_u32(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static bool has_edge(const struct st_program *p, uint32_t from, uint32_t to)
{
	const struct st_op *op = &p->ops[to];

	return bsearch(&from, p->deps + op->first_dep, op->n_deps, sizeof(uint32_t), cmp_u32) != NULL;
}

/* Is `from` an ancestor of `to`? mark and stack are scratch of n_ops; marks equal to `to + 1` are seen. */
static bool has_path(const struct st_program *p, uint32_t from, uint32_t to, uint32_t *mark, uint32_t *stack)
{
	uint32_t n = 0;

	if (has_edge(p, from, to))
		return true;
	stack[n++] = to;
	memset(mark, 0, p->n_ops * sizeof(*mark));
	while (n) {
		const struct st_op *op = &p->ops[stack[--n]];

		for (uint32_t d = 0; d < op->n_deps; d++) {
			uint32_t at = p->deps[op->first_dep + d];

			if (at == from)
				return true;
			if (at > from && !mark[at]) {
				mark[at] = 1;
				stack[n++] = at;
			}
		}
	}
	return false;
}

static int verify_edges(const struct st_program *p)
{
	for (uint32_t i = 0; i < p->n_ops; i++)
		for (uint32_t d = 0; d < p->ops[i].n_deps; d++)
			if (p->deps[p->ops[i].first_dep + d] >= i)
				return st_fail(-EPROTO, "%s: operation %u has an edge to %u, which is not before it",
					       p->name, i, p->deps[p->ops[i].first_dep + d]);
	return 0;
}

static bool ranges_meet(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
	return a < b + b_len && b < a + a_len;
}

/* Two claims of one pool that overlap in place must not overlap in serial time. */
static int verify_claims(const struct st_program *p)
{
	for (unsigned pool = 0; pool < ST_POOL_N; pool++) {
		const uint32_t *list = p->pool_claims.items + p->pool_claims.first[pool];
		uint32_t n = p->pool_claims.first[pool + 1] - p->pool_claims.first[pool];

		for (uint32_t i = 0; i < n; i++) {
			const struct st_claim *b = &p->claims[list[i]];

			for (uint32_t j = 0; j < i; j++) {
				const struct st_claim *a = &p->claims[list[j]];

				if (a->last_op >= b->first_op &&
				    ranges_meet(a->off_bytes, a->bytes, b->off_bytes, b->bytes))
					return st_fail(-EPROTO, "%s: claims %u and %u of %s overlap", p->name,
						       list[j], list[i], st_pool_name(pool));
			}
		}
	}
	return 0;
}

/* In one claim, or in memory that stays: conflicting uses need a path. */
static int verify_uses(const struct st_program *p, uint32_t *mark, uint32_t *stack)
{
	for (uint32_t j = 0; j < p->n_ops; j++) {
		for (uint32_t v = 0; v < p->ops[j].n_uses; v++) {
			const struct st_use *b = &p->uses[p->ops[j].first_use + v];
			uint32_t from = b->claim == ST_NO_CLAIM ? 0 : p->claims[b->claim].first_op;

			for (uint32_t i = from; i < j; i++) {
				for (uint32_t u = 0; u < p->ops[i].n_uses; u++) {
					const struct st_use *a = &p->uses[p->ops[i].first_use + u];

					if (a->claim != b->claim || !(a->is_write || b->is_write) ||
					    a->addr.arena != b->addr.arena ||
					    !ranges_meet(a->addr.off_bytes, a->bytes, b->addr.off_bytes, b->bytes))
						continue;
					if (!has_path(p, i, j, mark, stack))
						return st_fail(-EPROTO, "%s: operations %u and %u use the same memory"
							       " and nothing orders them", p->name, i, j);
				}
			}
		}
	}
	return 0;
}

int st_program_verify(const struct st_program *p)
{
	uint32_t *mark = calloc(p->n_ops + 1, sizeof(*mark));
	uint32_t *stack = calloc(p->n_ops + 1, sizeof(*stack));
	int rc = mark && stack ? 0 : -ENOMEM;

	if (!rc)
		rc = verify_edges(p);
	if (!rc)
		rc = verify_claims(p);
	if (!rc)
		rc = verify_uses(p, mark, stack);
	free(mark);
	free(stack);
	return rc;
}
