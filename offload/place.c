/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offload/place.c - a place in its pool for each claim of a program.
 *
 * In serial order no two live claims of a pool may overlap. What is left to choose is which free
 * range a claim gets, and that says how far ahead of execution it can be reserved.
 */
#include "offload/program.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ALIGN_BYTES ((uint64_t)4096)

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

static bool takes_reads(enum st_pool pool)
{
	return pool == ST_POOL_PARAM || pool == ST_POOL_STATE || pool == ST_POOL_REST ||
	       pool == ST_POOL_STAGE || pool == ST_POOL_ROUNDED;
}

/* By how much less the next size is that is tried: a claim's mean. */
static uint64_t mean_bytes(const struct st_program *p, enum st_pool pool)
{
	uint32_t n = p->pool_claims.first[pool + 1] - p->pool_claims.first[pool];
	uint64_t mean = 0;

	for (uint32_t k = p->pool_claims.first[pool]; k < p->pool_claims.first[pool + 1]; k++)
		mean += p->claims[p->pool_claims.items[k]].bytes / n;
	return (mean + ALIGN_BYTES - 1) & ~(ALIGN_BYTES - 1);
}

/*
 * Where reads land, spreading claims over the pool lets reservations run ahead, the further the
 * larger it is, save where the round of ranges does not come out even at the program's end: then a
 * little less is more. Several sizes are tried and the one that lets the most stalled claim run
 * furthest is taken. Spreading may leave no range long enough for a large claim; packed from the
 * bottom, what fits some size fits every larger one. Pools of the compute lane are always packed:
 * its operations come one after the other.
 */
int st_place_pool(struct st_program *p, enum st_pool pool, uint64_t bytes)
{
	uint64_t mean, best = 0, lying = 0; /* in so many bytes the claims lie now */
	int64_t gap, best_gap = INT64_MIN;

	if (p->pool_claims.first[pool + 1] == p->pool_claims.first[pool])
		return 0;
	mean = mean_bytes(p, pool);
	for (uint64_t i = 0; takes_reads(pool) && i < SIZES_TRIED && bytes > i * mean; i++) {
		int rc;

		if (bytes - i * mean < p->pool_peak[pool])
			break; /* nor does anything smaller */
		rc = place_claims(p, pool, bytes - i * mean, false, &gap);
		if (rc == -ENOMEM)
			return rc;
		lying = rc ? 0 : bytes - i * mean;
		if (!rc && gap > best_gap) {
			best_gap = gap;
			best = bytes - i * mean;
		}
	}
	if (best && best == lying)
		return 0;
	return best ? place_claims(p, pool, best, false, &gap)
		    : place_claims(p, pool, bytes, true, &gap);
}

int st_place_try(struct st_program *p, enum st_pool pool, uint64_t bytes)
{
	uint64_t mean;
	int64_t gap;
	int rc;

	if (p->pool_claims.first[pool + 1] == p->pool_claims.first[pool])
		return 0;
	if (bytes < p->pool_peak[pool])
		return STRATA_E_NO_FIT;
	rc = place_claims(p, pool, bytes, true, &gap);
	if (rc != STRATA_E_NO_FIT || !takes_reads(pool))
		return rc;
	mean = mean_bytes(p, pool);
	for (uint64_t i = 0; rc == STRATA_E_NO_FIT && i < SIZES_TRIED; i++) {
		if (bytes < i * mean || bytes - i * mean < p->pool_peak[pool])
			break;
		rc = place_claims(p, pool, bytes - i * mean, false, &gap);
	}
	return rc;
}
