/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offload/shadow.h - what lies where, as far as a simulation is concerned.
 *
 * Layer:   offload (uses core)
 * Threads: a map belongs to its caller
 *
 * A map gives each address of [0, UINT64_MAX) a value of 64 bits, 0 at first, and takes memory for
 * the places only where that changes. Simulated lanes and tests keep in it which version a range of
 * memory holds, in place of the bytes.
 */
#ifndef OFFLOAD_SHADOW_H
#define OFFLOAD_SHADOW_H

#include "core/status.h"

struct st_shadow_segment { /* [lo, next segment's lo) holds this */
	uint64_t lo, value;
};

struct st_shadow { /* neighbours differ */
	struct st_shadow_segment *seg;
	uint32_t n, cap;
};

/** st_shadow_init() - @return 0; -ENOMEM */
ST_MUST_CHECK int st_shadow_init(struct st_shadow *m);
void st_shadow_fini(struct st_shadow *m);
/** st_shadow_copy() - both were initialised. @return 0; -ENOMEM */
ST_MUST_CHECK int st_shadow_copy(struct st_shadow *to, const struct st_shadow *from);
/** st_shadow_paint() - [lo, hi) holds value from now on. @return 0; -ENOMEM, and it does not */
ST_MUST_CHECK int st_shadow_paint(struct st_shadow *m, uint64_t lo, uint64_t hi, uint64_t value);
/** st_shadow_find() - the segment that holds an address. */
uint32_t st_shadow_find(const struct st_shadow *m, uint64_t at);
/** st_shadow_digest() - of the values in [lo, hi), and of where each begins. */
uint64_t st_shadow_digest(const struct st_shadow *m, uint64_t lo, uint64_t hi);
/** st_shadow_is_uniform() - [lo, hi), which is not empty, holds one value. @param value out: that
 * of lo */
bool st_shadow_is_uniform(const struct st_shadow *m, uint64_t lo, uint64_t hi, uint64_t *value);

#endif
