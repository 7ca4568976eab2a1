/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench/pattern.h - what a measured block holds, so that a wrong one is seen.
 *
 * Layer:   bench
 * Threads: a pattern is constant once made
 *
 * A block is a run of 512-byte sectors, the least that a drive writes at once. The first eight
 *bytes of each are its stamp, a function of seed, block, generation (how often the block was
 *written) and place in the block; the other 504 are pseudo-random bytes that are the same in each
 *block.
 *
 *	0        8                                    512      520
 *	[ stamp ][ bytes 8..511 of the body           ][ stamp ][ ...
 *
 * The stamps tell a block that is torn, stale, misplaced or never written, and cost an eighth of
 * its cache lines; so each block of each measurement has them checked. The body tells the rest
 * (single bits that flipped); it is compared in a pass of its own, outside what is timed.
 */
#ifndef BENCH_PATTERN_H
#define BENCH_PATTERN_H

#include "core/status.h"

#define ST_PATTERN_SECTOR ((size_t)512)

struct st_pattern {
	size_t block_bytes; /* a multiple of ST_PATTERN_SECTOR */
	uint64_t seed;
	char *body; /* [block_bytes] */
};

/** st_pattern_init() - @return 0; -EINVAL (length); -ENOMEM */
ST_MUST_CHECK int st_pattern_init(struct st_pattern *p, size_t block_bytes, uint64_t seed);
void st_pattern_fini(struct st_pattern *p);

/** st_pattern_body() - the body into a block that holds anything. */
void st_pattern_body(const struct st_pattern *p, void *block);

/** st_pattern_stamp() - make a block that holds the body generation `generation` of block `nr`. */
void st_pattern_stamp(const struct st_pattern *p, void *block, uint64_t nr, uint32_t generation);

/** st_pattern_wrong() - sectors whose stamp is another. */
size_t st_pattern_wrong(const struct st_pattern *p, const void *block, uint64_t nr,
			uint32_t generation);

/** st_pattern_wrong_all() - sectors with any byte that is another. */
size_t st_pattern_wrong_all(const struct st_pattern *p, const void *block, uint64_t nr,
			    uint32_t generation);

#endif
