/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offload/hasher.h - threads that take the checksums of NVMe data.
 *
 * Layer:   offload
 * Threads: created, fed, asked and destroyed by the engine thread, whose reaps end when a checksum
 *          is ready; the threads here only read memory
 *
 * The engine thread submits and reaps for all drives, so what it computes itself is time in which
 * they wait. Jobs are taken in the order in which they were handed over, and one thread finishes
 * them in that order too. A thread covers about 10 GB/s, what a drive or two can move.
 */
#ifndef OFFLOAD_HASHER_H
#define OFFLOAD_HASHER_H

#include "nvme/scratch.h"
#include "nvme/store.h"

struct st_hasher;

struct st_hash_job {     /* embedded in what it is for; borrowed from submit to collect */
	const void *buf; /* the whole extent or slot, not written to meanwhile */
	uint32_t extent; /* of the store, or slot of the scratch */
	bool is_scratch;
	uint64_t checksum; /* out */
	unsigned thread;   /* out: which of them took it, from 0, and when */
	int64_t begin_ns, end_ns;
	struct st_hash_job *next;
};

/**
 * st_hasher_create() - start n_threads (1..8) threads.
 * @param queue  in, borrowed: woken when the first of some jobs is ready to be collected
 * @param store, scratch  in, borrowed; NULL when no job is about it
 */
ST_MUST_CHECK int st_hasher_create(struct st_hasher **out, struct st_aio_queue *queue,
				   const struct st_store *store, const struct st_scratch *scratch,
				   unsigned n_threads);
/** st_hasher_destroy() - end the threads; jobs that were not begun are dropped. NULL is fine. */
void st_hasher_destroy(struct st_hasher *h);
void st_hasher_submit(struct st_hasher *h, struct st_hash_job *job);
/** st_hasher_collect() - the jobs that were finished since, as a list, oldest first; or NULL. */
struct st_hash_job *st_hasher_collect(struct st_hasher *h);
/** st_hasher_busy_ns() - time spent on checksums, of all threads together. Any thread. */
int64_t st_hasher_busy_ns(struct st_hasher *h);

#endif
