/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench/rmw.h - what memory allows: streams that are loaded and stored, with no arithmetic between.
 *
 * Layer:    bench
 * Threads:  re-entrant; concurrent calls work on disjoint blocks
 * Hardware: 16-, 32- or 64-byte loads and stores, whichever the processor has
 *
 * A pass of an optimizer reads and writes several arrays side by side. Its bound is not the rate of
 * one plain stream (which was a quarter lower on the machine where both were compared), but that of
 * the same arrays, walked in the same order by the same threads. So that is what this does, block
 * by block: every cache line of a stream that is read is loaded, every line that is written is
 * stored, with an OR in between whose other operand is zero, which the compiler cannot know. What
 * the streams hold stays, save those that are only written.
 */
#ifndef BENCH_RMW_H
#define BENCH_RMW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "strata/optim.h"

struct st_rmw_stream {
	char *base;
	size_t block_bytes; /* of a block: a multiple of 128, or 4 */
	bool is_read, is_written;
};

#define ST_RMW_STREAMS_MAX 8u

/**
 * st_rmw() - walk blocks [first, first + n) of all streams.
 * @param isa      in, strata_isa_best(), which takes long to find out in a virtual machine
 * @param streams  in [n_streams], at most ST_RMW_STREAMS_MAX
 * @return an OR of what was loaded from streams that are only read
 */
uint64_t st_rmw(enum strata_isa isa, const struct st_rmw_stream *streams, size_t n_streams,
		size_t first, size_t n);

#endif
