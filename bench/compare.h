/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench/compare.h - one load in slices, each beside a slice of fio: medians of ratios.
 *
 * Layer:   bench
 * Threads: main
 *
 * Drives that are shared wander by tens of percent within minutes. So a measurement is cut into
 * slices; where fio runs too, it runs a slice right before or right after each of ours, in turn,
 * and what counts is the median over the pairs of (our rate / its rate).
 */
#ifndef BENCH_COMPARE_H
#define BENCH_COMPARE_H

#include "bench/fio.h"
#include "bench/load.h"

#define ST_SLICES_MAX 1000u

struct st_slices {
	unsigned n;          /* 1..ST_SLICES_MAX */
	int64_t duration_ns; /* of each */
	bool with_fio;
};

struct st_compared {
	struct st_load_result sum; /* of all our slices */
	double gbps_min, gbps_max; /* of one slice */
	unsigned n;                /* slices that ended */
	struct st_fio_result fio;  /* sum */
	double fio_gbps_min, fio_gbps_max;
	double ratio, ratio_min, ratio_max; /* NaN without fio; ratio is the median */
};

/** st_slices_plan() - `seconds` in slices of about two, at least n_min. */
struct st_slices st_slices_plan(double seconds, unsigned n_min, bool with_fio);

/**
 * st_compare_prepare() - write all blocks once, and with fio the files' second half too: what was
 * never written is read without any I/O, and written more slowly than later.
 * @param aio  in, the queue to write with
 */
ST_MUST_CHECK int st_compare_prepare(struct st_area *a, const struct st_aio_cfg *aio,
				     unsigned depth, bool with_fio);

/**
 * st_compare() - run the slices, then one pass that compares every byte (counted into sum.n_wrong).
 * @param load  in; its duration is that of the slices
 * @param tell  in, NULL: nobody; called before each slice
 * @return 0; -EINTR (stop); the first failure. *out holds what was measured until then.
 */
ST_MUST_CHECK int st_compare(struct st_area *a, const struct st_load *load,
			     const struct st_slices *slices,
			     void (*tell)(void *user, unsigned i, unsigned n), void *user,
			     struct st_compared *out);

/** st_median() - of n > 0 values, which are put in order. */
double st_median(double *v, size_t n);

#endif
