/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offload/lanes_real.h - lanes of this machine: aio for NVMe, workers for the rest.
 *
 * Layer:   offload
 * Threads: created, used and destroyed by the engine thread, which owns the I/O queue and never
 *          computes. Workers run operations one after the other; checksums have threads of their
 *          own (offload/hasher.h). All wake the engine thread through the queue.
 *
 * Where the device's memory is the host's there is one worker: it runs the operations of the
 * compute lane, each with the device's whole thread team.
 *
 * With another device:
 *	optimizer	a worker with the thread team, beside the device
 *	compute, h2d,	one worker, the only thread that gives the device anything, hands operations
 *	d2h		of all three over in the order in which they were submitted, each on its
 *			lane's stream and behind the events of those it depends on; so these lanes
 *			wait on each other by themselves. Behind each operation it records an event;
 *			a worker of each lane waits for these and reports.
 *
 * Reads and writes have a FIFO each. An operation is a list of pieces, each of one extent (or slot
 * of the scratch): its tile; the tiles of its unit; the windows of its chunk of rows. They become
 * requests as slots get free. Checksums are taken before a write and verified after a read, save
 * for windows, which are a part of what a checksum covers: the same step reads their tiles whole,
 * from the same slots, before it commits anything. So a request passes through these hands:
 *
 *	read	aio, hasher, done		write	hasher, aio, done
 */
#ifndef OFFLOAD_LANES_REAL_H
#define OFFLOAD_LANES_REAL_H

#include "nvme/scratch.h"
#include "nvme/store.h"
#include "offload/lanes.h"
#include "offload/rows.h"

struct st_lanes_real;
struct st_run_trace; /* offload/trace.h */
struct st_trace_run;

struct st_lanes_real_cfg {
	struct st_aio_queue *queue; /* opened by the calling thread; borrowed */
	struct st_store *store;     /* borrowed; NULL when no program moves store data */
	struct st_scratch *scratch; /* borrowed or NULL */
	const struct st_layout *layout;
	const struct st_lookup *lookup; /* borrowed; of programs with READ_ROWS */
	char *base[ST_ARENA_N];         /* of the arenas */
	struct st_device *device;       /* borrowed; NULL: its memory is the host's */
	unsigned depth;                 /* requests per direction, those at the hasher included */
	unsigned n_hashers;             /* threads for checksums; 0: none are taken or verified */
	/* Runs an operation of compute, copies or optimizer, on a worker; on a device: hands it
	 * over. Then, once it is done and only if it succeeded, perhaps on another worker: done. */
	int (*run)(void *user, const struct st_program *p, uint32_t op, void *ctx);
	void (*done)(void *user, const struct st_program *p, uint32_t op, void *ctx);
	/* What a commit records: bytes written to out (at most ST_STORE_SNAPSHOT_MAX). */
	size_t (*snapshot)(void *user, void *ctx, void *out);
	/* A commit became durable, or was not asked for at this boundary. */
	bool (*wants_commit)(void *user, void *ctx);
	/* Speculation of this run is over: what it would still read and write is of no use. */
	bool (*is_void)(void *user, void *ctx);
	/* The rows of a run, known when its gate opened; for READ_ROWS. */
	const struct st_rows *(*rows)(void *user, void *ctx);
	struct st_run_trace *trace; /* borrowed; NULL: nothing is traced */
	/* Of a trace: what a run is called. On the engine thread and the workers. */
	void (*trace_run)(void *user, void *ctx, struct st_trace_run *out);
	void *user;
};

struct st_io_stats {                   /* of one direction */
	uint64_t ops, requests, bytes; /* that completed without error */
	int64_t busy_ns;               /* at least one request was with the drive, up to now */
	/* Sum over requests of the time from submission to completion: divided by busy_ns, the mean
	 * queue depth; by requests, the mean latency. */
	int64_t flight_ns;
	unsigned max_depth;
};

struct st_lanes_stats {
	int64_t lane_ns[ST_LANE_N];   /* compute, copies, optimizer: an operation was running */
	int64_t kind_ns[ST_OP_KINDS]; /* of that, by operation */
	struct st_io_stats read, write;
	/* Both directions together, up to this moment: at least one request with the drive; so many
	 * that it is under load (half of a direction's queue, at most 8); completed meanwhile. */
	int64_t io_busy_ns, io_loaded_ns;
	uint64_t io_loaded_bytes;
	uint64_t commits;
	int64_t commit_ns; /* from the first table written to durable */
	int64_t hash_ns;   /* checksums, all threads together */
};

ST_MUST_CHECK int st_lanes_real_create(struct st_lanes_real **out,
				       const struct st_lanes_real_cfg *cfg);
/** st_lanes_real_stop() - end workers and hashers, so that nobody wakes the queue any more: it can
 * be closed. What is in flight there still has its requests here, until st_lanes_real_destroy(). */
void st_lanes_real_stop(struct st_lanes_real *r);
/** st_lanes_real_destroy() - stop, if that was not done, and free. Nothing may be in flight. */
void st_lanes_real_destroy(struct st_lanes_real *r);
struct st_lanes st_lanes_real(struct st_lanes_real *r);
/** st_lanes_real_stats() - sums since creation. Any thread. */
void st_lanes_real_stats(struct st_lanes_real *r, struct st_lanes_stats *out);

#endif
