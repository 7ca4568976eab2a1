/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme/store.h - the two-slot extent store on one or more directories.
 *
 * Layer:   nvme (uses core, aio)
 * Threads: the thread that opened the store calls everything; I/O goes through the caller's queue
 *
 * An extent is a fixed number of bytes (a multiple of 4096) with two places on disk. The durable
 * root names the live one of each. A write goes to the other one, and until the next commit may go
 * there again; so whatever happens, the last committed version stays whole.
 *
 * Per path, a private directory (0700, unpredictable name, locked) with one file (0600):
 *
 *	0         superblock: magic, format version, store id, path index and count, extent map hash
 *	4096      root slot A        1 MiB  root slot B   (4 KiB each)
 *	2 MiB     table area 0, table area 1: one entry per extent: live slot, version, checksum
 *	          then the data: extent e, slot s, at a fixed offset
 *
 * Commit: data is complete; tables go to the inactive areas; flush every path; then the root
 * (generation, hash of every path's table, the caller's snapshot, own checksum) to the older root
 * slot of every path; flush. Durable when all succeeded. Recovery adopts the highest generation
 * whose root and tables verify on all paths, and rewrites that root on all paths and flushes before
 * any slot may be written: without the rewrite, a kill followed by a power loss can leave one path
 * at generation g and another at g-1 whose slots g has begun to overwrite.
 *
 * After the first failed write or flush of a commit the store takes no more writes: the last
 *durable generation is what the next st_store_open() finds.
 *
 * The extent map (which path and offset) is a function of the extents' sizes, in order, and of the
 * paths' weights frozen in the superblock; never of budgets.
 */
#ifndef NVME_STORE_H
#define NVME_STORE_H

#include "aio/aio.h"
#include "core/status.h"

#define ST_STORE_SNAPSHOT_MAX ((size_t)2048)
#define ST_STORE_PATHS_MAX    16u

struct st_store;

struct st_store_cfg {
	const char *const *paths; /* [n_paths] existing directories; borrowed for the call */
	unsigned n_paths;         /* 1..ST_STORE_PATHS_MAX */
	const uint32_t *weights;  /* [n_paths] share of extents by bytes, each > 0; NULL = equal */
	const uint64_t *extent_bytes; /* [n_extents] multiples of 4096; borrowed for the call */
	uint32_t n_extents;
	const char *const
		*extent_names; /* [n_extents] for messages; borrowed for the store's life */
	bool checksum;         /* verify XXH3 on each read (a bad one: STRATA_E_CORRUPT) */
};

/**
 * st_store_create() - make the private directories and files, preallocate, write generation 0.
 * A path without O_DIRECT is used buffered, with one warning. Generation 0 has no live extents.
 * @param run_json  out [bytes] JSON text that names the store: {"id": .., "paths": [..]}; the
 *                  caller keeps it (run.json) and gives it to st_store_open()
 * @return 0; STRATA_E_INPUT (path missing, not a directory, not writable: what to do);
 *         STRATA_E_NO_FIT (how much is needed, how much is free); -errno. On failure nothing is
 * left behind.
 */
ST_MUST_CHECK int st_store_create(struct st_store **out, const struct st_store_cfg *cfg,
				  char *run_json, size_t run_json_bytes);

/**
 * st_store_open() - recover an existing store (see above); cfg->paths is ignored, the directories
 * come from run_json; extents must match what the superblock says.
 * @return 0; STRATA_E_BUSY (locked by another process); STRATA_E_CORRUPT; STRATA_E_STALE
 *         (other extents); -errno. On failure nothing was written.
 */
ST_MUST_CHECK int st_store_open(struct st_store **out, const struct st_store_cfg *cfg,
				const char *run_json);

/**
 * st_store_close() - close and unlock; `remove` also deletes files and directories. NULL is fine.
 * None of the store's requests may be in flight.
 */
void st_store_close(struct st_store *s, bool remove);

/**
 * st_store_reclaim() - remove directories of ours in `path` that hold no committed state and no
 * lock: what is left of a start that was killed. st_store_create() does it on its paths.
 * @return number of directories removed, or a negative code
 */
ST_MUST_CHECK int st_store_reclaim(const char *path);

/**
 * st_store_prep_read() / st_store_prep_write() - fill *req for extent e (all of it): fd, path,
 * offset, op, length, buffer. The caller submits it.
 * req->user is left alone.
 * @param buf  the whole extent, 4096-aligned; for a write its st_store_checksum() may be taken on
 *             any thread before or after this
 * @return 0; -EINVAL (bad extent or buffer; a write during a commit); STRATA_E_CORRUPT when e was
 *         never written (read); the first failure of an earlier commit (write)
 */
ST_MUST_CHECK int st_store_prep_read(struct st_store *s, uint32_t e, void *buf,
				     struct st_aio_req *req);
ST_MUST_CHECK int st_store_prep_write(struct st_store *s, uint32_t e, const void *buf,
				      struct st_aio_req *req);

/**
 * st_store_prep_read_range() - as st_store_prep_read() for bytes [off, off + len) of extent e, in
 * the slot that a read of all of it would take. A checksum covers whole extents only, so nothing
 * checks what comes: use it for what is read again whole, and checked, before it counts.
 * @param off_bytes, len_bytes  in, multiples of 4096, inside the extent; len_bytes > 0
 * @param buf  [len_bytes], 4096-aligned
 * @return as st_store_prep_read(); -EINVAL also for a bad range
 */
ST_MUST_CHECK int st_store_prep_read_range(struct st_store *s, uint32_t e, uint64_t off_bytes,
					   uint64_t len_bytes, void *buf, struct st_aio_req *req);

/**
 * st_store_checksum() - XXH3 of an extent's bytes, seeded with store id and e. Any thread.
 */
uint64_t st_store_checksum(const struct st_store *s, uint32_t e, const void *buf);

/**
 * st_store_read_done() - check a completed read against the table.
 * @return 0, or STRATA_E_CORRUPT naming extent, file and offset
 */
ST_MUST_CHECK int st_store_read_done(struct st_store *s, uint32_t e, const void *buf);
/** st_store_read_verify() - the same with a checksum that another thread has computed. */
ST_MUST_CHECK int st_store_read_verify(struct st_store *s, uint32_t e, uint64_t checksum);

/** st_store_write_done() - the write of e completed; its new version is live (not yet durable). */
void st_store_write_done(struct st_store *s, uint32_t e, uint64_t checksum);

/**
 * The commit as a sequence of requests, so that it can run beside other I/O. After all writes are
 * done: begin() freezes tables and snapshot; then, as often as next() gives requests, submit
 * them all and await them all before calling next() again; next() gives 0 when durable.
 * Writes of extents must not be prepared between begin() and that moment (they are refused); reads
 * may. The requests stay valid and unmoved until next() is called again, which checks their
 * results: nothing becomes durable over a failed one.
 * @param snapshot  in [snapshot_bytes <= ST_STORE_SNAPSHOT_MAX] the caller's state at this commit
 */
ST_MUST_CHECK int st_store_commit_begin(struct st_store *s, const void *snapshot,
					size_t snapshot_bytes);
/** @param reqs out [max_nr >= 2 * n_paths] @return number of requests, 0 = durable, <0 */
ST_MUST_CHECK int st_store_commit_next(struct st_store *s, struct st_aio_req *reqs,
				       unsigned max_nr);

/** st_store_commit() - the same, waiting, on queue q (which must be idle). */
ST_MUST_CHECK int st_store_commit(struct st_store *s, struct st_aio_queue *q, const void *snapshot,
				  size_t snapshot_bytes);

/** st_store_snapshot() - snapshot of the last durable commit; 0 bytes after create. */
size_t st_store_snapshot(const struct st_store *s, void *out, size_t out_bytes);
/** st_store_generation() - number of the last durable commit; 0 after create. */
uint64_t st_store_generation(const struct st_store *s);
/** st_store_is_written() - extent e has a live version (committed or not). */
bool st_store_is_written(const struct st_store *s, uint32_t e);
/** st_store_disk_bytes() - bytes preallocated on all paths for these extents. */
uint64_t st_store_disk_bytes(const uint64_t *extent_bytes, uint32_t n_extents, unsigned n_paths);

#endif
