/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offload/lanes_real.h - lanes of this machine: io_uring for NVMe, one worker for compute.
 *
 * Layer:   offload
 * Threads: created, used and destroyed by the engine thread, which owns the I/O queue and never
 *          computes. The worker runs operations of the compute lane one after the other, each with
 *          the device's whole thread team, and wakes the engine thread through the queue.
 *
 * Reads and writes have a FIFO each. An operation is a list of pieces, each of one extent (or slot
 * of the scratch): its tile; the tiles of its unit; the windows of its chunk of rows. They become
 * requests as slots get free. Checksums are taken before a write and verified after a read, save
 * for windows, which are a part of what a checksum covers: the same step reads their tiles whole,
 * from the same slots, before it commits anything.
 */
#ifndef OFFLOAD_LANES_REAL_H
#define OFFLOAD_LANES_REAL_H

#include "nvme/scratch.h"
#include "nvme/store.h"
#include "offload/lanes.h"
#include "offload/rows.h"

struct st_lanes_real;

struct st_lanes_real_cfg {
	struct st_aio_queue *queue; /* opened by the calling thread; borrowed */
	struct st_store *store;     /* borrowed; NULL when no program moves store data */
	struct st_scratch *scratch; /* borrowed or NULL */
	const struct st_layout *layout;
	const struct st_lookup *lookup; /* borrowed; of programs with READ_ROWS */
	char *arena[ST_ARENA_N];
	unsigned depth; /* requests in flight per direction */
	/* Runs an operation of the compute lane, on the worker. */
	int (*compute)(void *user, const struct st_program *p, uint32_t op, void *ctx);
	/* What a commit records: bytes written to out (at most ST_STORE_SNAPSHOT_MAX). */
	size_t (*snapshot)(void *user, void *ctx, void *out);
	/* A commit became durable, or was not asked for at this boundary. */
	bool (*wants_commit)(void *user, void *ctx);
	/* The rows of a run, known when its gate opened; for READ_ROWS. */
	const struct st_rows *(*rows)(void *user, void *ctx);
	void *user;
};

struct st_lanes_stats {
	int64_t compute_ns;               /* the worker ran an operation */
	int64_t kind_ns[ST_OP_KINDS];     /* of that, by operation */
	uint64_t read_bytes, write_bytes; /* by requests that completed */
	uint64_t commits;
};

ST_MUST_CHECK int st_lanes_real_create(struct st_lanes_real **out,
				       const struct st_lanes_real_cfg *cfg);
void st_lanes_real_destroy(struct st_lanes_real *r);
struct st_lanes st_lanes_real(struct st_lanes_real *r);
/** st_lanes_real_stats() - sums since creation. Any thread. */
void st_lanes_real_stats(struct st_lanes_real *r, struct st_lanes_stats *out);

#endif
