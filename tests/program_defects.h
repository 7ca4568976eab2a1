/* SPDX-License-Identifier: Apache-2.0 */
/* tests/program_defects.h - sealed programs with something wrong, for tests that must find it. */
#ifndef TESTS_PROGRAM_DEFECTS_H
#define TESTS_PROGRAM_DEFECTS_H

#include <stdlib.h>
#include <string.h>

#include "offload/program.h"
#include "tests/random.h"

/* Is op `to` behind `from` without the edge between them? */
static inline bool is_implied(const struct st_program *p, uint32_t from, uint32_t to)
{
	bool *reached = calloc(p->n_ops, sizeof(*reached));
	bool found = false;

	ST_ASSERT(reached);
	reached[from] = true;
	for (uint32_t i = from + 1; i <= to && !found; i++) {
		for (uint32_t d = 0; d < p->ops[i].n_deps; d++) {
			uint32_t dep = p->deps[p->ops[i].first_dep + d];

			reached[i] |= reached[dep] && !(i == to && dep == from);
		}
		found = i == to && reached[i];
	}
	free(reached);
	return found;
}

/* The d-th edge of operation `to`. */
static inline void remove_edge(struct st_program *p, uint32_t to, uint32_t d)
{
	struct st_op *o = &p->ops[to];
	uint32_t from = p->deps[o->first_dep + d], last = p->succs.first[from + 1] - 1;

	for (uint32_t k = d; k + 1 < o->n_deps; k++)
		p->deps[o->first_dep + k] = p->deps[o->first_dep + k + 1];
	o->n_deps--;
	/* Lists are stored one behind the other, so all later ones move down. */
	for (uint32_t k = p->succs.first[from]; k <= last; k++) {
		if (p->succs.items[k] == to) {
			memmove(p->succs.items + k, p->succs.items + k + 1,
				(p->succs.first[p->n_ops] - k - 1) * sizeof(*p->succs.items));
			break;
		}
	}
	for (uint32_t i = from + 1; i <= p->n_ops; i++)
		p->succs.first[i]--;
}

/* A random edge that nothing else implies, and that no gate explains. @return false: none found */
static inline bool remove_random_edge(struct st_program *p, struct rng *r)
{
	for (unsigned tries = 0; tries < 200; tries++) {
		uint32_t to = below(r, p->n_ops), d;

		if (!p->ops[to].n_deps)
			continue;
		d = below(r, p->ops[to].n_deps);
		if (p->ops[p->deps[p->ops[to].first_dep + d]].lane == ST_LANE_GATE ||
		    is_implied(p, p->deps[p->ops[to].first_dep + d], to))
			continue;
		remove_edge(p, to, d);
		return true;
	}
	return false;
}

/* No commit waits for the writes before it. @return edges removed */
static inline uint32_t remove_commit_edges(struct st_program *p)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < p->n_ops; i++) {
		for (uint32_t d = p->ops[i].kind == ST_OP_COMMIT ? p->ops[i].n_deps : 0; d-- > 0;) {
			if (p->ops[p->deps[p->ops[i].first_dep + d]].lane != ST_LANE_WRITE)
				continue;
			remove_edge(p, i, d);
			n++;
		}
	}
	return n;
}

/* A claim comes to lie where another one is that lives at the same time. @return false: there are
 * no such two */
static inline bool overlap_claims(struct st_program *p, struct rng *r)
{
	for (unsigned tries = 0; tries < 200 && p->n_claims; tries++) {
		const struct st_claim *a = &p->claims[below(r, p->n_claims)];
		uint32_t moved = below(r, p->n_claims);
		struct st_claim *b = &p->claims[moved];
		uint64_t shift = a->off_bytes - b->off_bytes; /* modulo 2^64 */

		if (a->pool != b->pool || a->last_op < b->first_op || b->last_op < a->first_op ||
		    a->off_bytes + b->bytes > p->place[a->pool].bytes || a == b)
			continue;
		b->off_bytes += shift;
		for (uint32_t i = b->first_op; i <= b->last_op; i++)
			for (uint32_t k = 0; k < p->ops[i].n_uses; k++)
				if (p->uses[p->ops[i].first_use + k].claim == moved)
					p->uses[p->ops[i].first_use + k].addr.off_bytes += shift;
		return true;
	}
	return false;
}

#endif
