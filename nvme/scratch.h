/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme/scratch.h - NVMe space for what is not state: gradients that do not fit in memory.
 *
 * Layer:   nvme (uses core, aio)
 * Threads: the thread that opened it, save where a call says otherwise
 *
 * Files without a name, one per path: the kernel frees them however the process ends.
 * No commit, no slots. Checksums live in memory, for this process is the only one that reads.
 */
#ifndef NVME_SCRATCH_H
#define NVME_SCRATCH_H

#include "aio/aio.h"

struct st_scratch;

/**
 * st_scratch_create() - preallocate room for n slots, spread over the paths by weight, as extents
 * of a store are (nvme/store.h).
 * @param weights     in [n_paths], each > 0; NULL = equal
 * @param slot_bytes  in [n] multiples of 4096
 * @return 0; STRATA_E_NO_FIT (how much is needed, how much is free); STRATA_E_INPUT (a path that
 *         cannot be used); STRATA_E_UNSUPPORTED (its device); -errno
 */
ST_MUST_CHECK int st_scratch_create(struct st_scratch **out, const char *const *paths,
				    unsigned n_paths, const uint32_t *weights,
				    const uint64_t *slot_bytes, uint32_t n);
void st_scratch_destroy(struct st_scratch *s);
/** st_scratch_register_files() - as st_store_register_files(). */
ST_MUST_CHECK int st_scratch_register_files(const struct st_scratch *s, struct st_aio_queue *q);

/** st_scratch_prep() - fill *req for slot i; buf is 4096-aligned and holds all of it. */
void st_scratch_prep(struct st_scratch *s, uint32_t i, void *buf, bool is_write,
		     struct st_aio_req *req);
/**
 * st_scratch_prep_read_range() - read bytes [off, off + len) of slot i. The checksum is of the
 * whole slot, so nothing checks what comes (see st_store_prep_read_range()).
 * @param off_bytes, len_bytes  in, multiples of 4096, inside the slot; len_bytes > 0
 * @param buf  [len_bytes], 4096-aligned
 * @return 0; -EINVAL: a bad range
 */
ST_MUST_CHECK int st_scratch_prep_read_range(struct st_scratch *s, uint32_t i, uint64_t off_bytes,
					     uint64_t len_bytes, void *buf, struct st_aio_req *req);
/** st_scratch_checksum() - XXH3 of slot i's bytes, seeded with i. Any thread. */
uint64_t st_scratch_checksum(const struct st_scratch *s, uint32_t i, const void *buf);
/** st_scratch_write_done() - the write of slot i completed: what later reads must give. */
void st_scratch_write_done(struct st_scratch *s, uint32_t i, uint64_t checksum);
/** st_scratch_read_verify() - @return 0; STRATA_E_CORRUPT: not what was written */
ST_MUST_CHECK int st_scratch_read_verify(const struct st_scratch *s, uint32_t i, uint64_t checksum);

#endif
