/* SPDX-License-Identifier: Apache-2.0 */
/* bench/hist.c - durations in buckets that double every ST_HIST_SUB. */
#include "bench/hist.h"

#include <math.h>

/* Below 2 * ST_HIST_SUB each value has its own bucket; above, the leading six bits choose. */
static unsigned bucket_of(uint64_t ns)
{
	unsigned shift, i;

	if (ns < 2 * ST_HIST_SUB)
		return (unsigned)ns;
	shift = 63u - (unsigned)__builtin_clzll(ns) - 5u;
	i = shift * ST_HIST_SUB + (unsigned)(ns >> shift);
	return i < ST_HIST_BUCKETS ? i : ST_HIST_BUCKETS - 1;
}

static double middle_of(unsigned i)
{
	unsigned shift;

	if (i < 2 * ST_HIST_SUB)
		return i;
	shift = i / ST_HIST_SUB - 1;
	return ((double)(i - shift * ST_HIST_SUB) + 0.5) * (double)(1ull << shift);
}

void st_hist_add(struct st_hist *h, int64_t ns)
{
	h->buckets[bucket_of(ns > 0 ? (uint64_t)ns : 0)]++;
	h->n++;
}

void st_hist_merge(struct st_hist *h, const struct st_hist *from)
{
	for (unsigned i = 0; i < ST_HIST_BUCKETS; i++)
		h->buckets[i] += from->buckets[i];
	h->n += from->n;
}

double st_hist_quantile(const struct st_hist *h, double q)
{
	double wanted = q * (double)h->n;
	uint64_t seen = 0;

	for (unsigned i = 0; i < ST_HIST_BUCKETS; i++) {
		seen += h->buckets[i];
		if (seen && (double)seen >= wanted)
			return middle_of(i);
	}
	return NAN;
}
