/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench/optim_run.h - optimizer passes on memory, timed in turn with their opponents.
 *
 * Layer:   bench
 * Threads: one bench at a time, from main; it makes teams of its own
 *
 * Three things are timed in each round, in an order that rotates: the pass itself; the loads and
 * stores of the same arrays (bench/rmw.h); and the same step as four passes over fp32
 * (bench/four_pass.h). What is reported are medians over the rounds, of rates and of ratios within
 * a round, for others may use the machine too.
 *
 * Arrays lie as those of a storage tile do (offload/layout.h): shifted against each other by 21
 * cache lines. The opponent's are too. A pass goes through tiles of 2^18 elements; each thread has
 * a run of whole numeric tiles of its own. "In cache" means that each thread has arrays that fit
 * its L1 cache: the same instructions, without memory.
 */
#ifndef BENCH_OPTIM_RUN_H
#define BENCH_OPTIM_RUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"
#include "strata/optim.h"

enum st_optim_size {
	ST_OPTIM_CACHED,
	ST_OPTIM_64MIB, /* all arrays together; left out where `params` is not larger */
	ST_OPTIM_PARAMS,
	ST_OPTIM_SIZES
};

struct st_optim_rates {
	bool is_there;
	size_t elems, resident_bytes; /* of all threads, all arrays */
	unsigned threads, rounds;
	double gparams, gparams_min, gparams_max;           /* 1e9 a second */
	double gbps, rmw_gbps, rmw_share;                   /* NaN in cache: nothing is moved */
	double four_gparams, ratio_to_four, ratio_to_alone; /* alone: its third pass only */
	double cached_gparams, cached_share;                /* of the rate in cache */
	uint64_t wrong; /* elements other than the scalar reference makes them */
};

struct st_optim_bench_cfg {
	struct strata_optim_cfg optim;
	size_t params;     /* of the largest size */
	unsigned threads;  /* at most */
	size_t elem_bytes; /* of all arrays: the largest of the formats to come */
};

struct st_optim_bench;

/** st_optim_bench_create() - @return 0; -EINVAL; -ENOMEM; STRATA_E_NO_FIT (says how many params
 *  would fit) */
ST_MUST_CHECK int st_optim_bench_create(struct st_optim_bench **out,
					const struct st_optim_bench_cfg *cfg);
void st_optim_bench_destroy(struct st_optim_bench *b);

/** st_optim_bench_use() - from now on this format; fills its arrays. */
ST_MUST_CHECK int st_optim_bench_use(struct st_optim_bench *b, const struct strata_optim_format *f);

/**
 * st_optim_bench_run() - rounds until `until_ns` (of st_now_ns()), one at least; then compare
 * some tiles with the scalar reference.
 * @param stops  in, asked between rounds: true ends it; or NULL
 * @return 0; -EINTR: stopped, and *out is untouched
 */
ST_MUST_CHECK int st_optim_bench_run(struct st_optim_bench *b, unsigned threads, int64_t until_ns,
				     bool (*stops)(void),
				     struct st_optim_rates out[ST_OPTIM_SIZES]);

/** st_optim_resident_bytes() - of one parameter, in memory. */
double st_optim_resident_bytes(const struct strata_optim_cfg *cfg,
			       const struct strata_optim_format *f);
/** st_optim_moved_bytes() - of one parameter, in a step: each array read and written, but gradients
 *  only read and low-precision copies only written. */
double st_optim_moved_bytes(const struct strata_optim_cfg *cfg,
			    const struct strata_optim_format *f);

#endif
