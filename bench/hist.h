/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench/hist.h - how long many things took: counts in buckets 3 % wide, and quantiles of them.
 *
 * Layer:   bench
 * Threads: a histogram belongs to one thread
 */
#ifndef BENCH_HIST_H
#define BENCH_HIST_H

#include <stdint.h>

#define ST_HIST_SUB     32u /* buckets for each doubling */
#define ST_HIST_BUCKETS (ST_HIST_SUB * 40u)

struct st_hist {
	uint64_t n; /* in all buckets */
	uint32_t buckets[ST_HIST_BUCKETS];
};

/** st_hist_add() - count one duration; a negative one counts as 0. */
void st_hist_add(struct st_hist *h, int64_t ns);
/** st_hist_merge() - add all of `from` to `h`. */
void st_hist_merge(struct st_hist *h, const struct st_hist *from);
/** st_hist_quantile() - the duration that q (0..1) of all do not exceed, in ns; NaN of none. */
double st_hist_quantile(const struct st_hist *h, double q);

#endif
