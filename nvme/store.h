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
 *	4096      root slot A (4 KiB)
 *	1 MiB     root slot B, and behind it a second superblock
 *	2 MiB     table area 0, table area 1: one entry per extent: live slot, version, checksum
 *	          names: size and name of each extent, so that a store can be read by itself
 *	          then the data: extent e, slot s, at a fixed offset
 *
 * Commit: data is complete; tables go to the inactive areas; flush every path; then the root
 * (generation, hash of every path's table, the caller's snapshot, own checksum) to the older root
 * slot of every path; flush. Durable when all succeeded. Recovery adopts the highest generation
 * whose root and tables verify on all paths, and rewrites that root on all paths and flushes before
 * any slot may be written: without the rewrite, a kill followed by a power loss can leave one path
 * at generation g and another at g-1 whose slots g has begun to overwrite. A damaged superblock or
 * list of names is repaired from its copy. docs/nvme.md says what happens after which fault.
 *
 * After the first failed write or flush of a commit the store takes no more writes: the last
 * durable generation is what the next st_store_open() finds. A failed flush is never tried again:
 * the kernel may have dropped what it could not write, and would report success.
 *
 * Checksums (XXH3, seeded with store and extent) may be computed by any thread. That of a write is
 * taken before its request is submitted, of the bytes that will be written: the buffer must not
 * change from then until the request has completed.
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
	bool verifies_on_open; /* st_store_open() reads and verifies all live extents */
};

/**
 * st_store_create() - make the private directories and files, preallocate, write generation 0.
 * A path without O_DIRECT is used buffered, with one warning; so is said once where preallocated
 * space is no promise (copy-on-write file systems, thin devices). Generation 0 has no live extents.
 * @param run_json  out [bytes] JSON text that names the store: {"id": .., "paths": [..]}; the
 *                  caller keeps it (run.json) and gives it to st_store_open()
 * @return 0; STRATA_E_INPUT (path missing, not a directory, not writable: what to do);
 *         STRATA_E_NO_FIT (how much is needed, how much is free or allowed);
 *         STRATA_E_UNSUPPORTED (a device whose blocks are larger than 4096 bytes); -errno. On
 *         failure nothing is left behind.
 */
ST_MUST_CHECK int st_store_create(struct st_store **out, const struct st_store_cfg *cfg,
				  char *run_json, size_t run_json_bytes);

/**
 * st_store_open() - recover an existing store (see above); the directories come from
 * run_json (st_store_find() says where they are after a move), and a warning says where they are
 * when cfg->paths does not; extents must match what the
 * superblock says. With cfg->verifies_on_open every live extent is read: damage is then found
 * before the first step, and where the root before it is whole with all its extents, that one is
 * adopted. Without, damage is found by the read that meets it. After a damaged newest root, all
 * extents are verified anyway. Going back to an older root is said by a warning.
 * @return 0; STRATA_E_BUSY (locked by another process, which is named); STRATA_E_CORRUPT;
 *         STRATA_E_STALE (other extents); STRATA_E_INPUT (a path is gone: which); -errno. On
 *         failure nothing was written.
 */
ST_MUST_CHECK int st_store_open(struct st_store **out, const struct st_store_cfg *cfg,
				const char *run_json);

/**
 * st_store_find() - where the directories that run_json names are now. One that is no longer there
 * (its drive is mounted elsewhere, or it was moved) is looked for in `paths`: its name is its own,
 * and whoever opens it compares the store's id.
 * @param paths  in [n_paths] directories to look in; those that are not there are passed over
 * @param out    out, the text with the new places, owned by the caller; NULL: all are where it says
 * @return 0; STRATA_E_INPUT (one is nowhere: which, and where it was looked for); -ENOMEM
 */
ST_MUST_CHECK int st_store_find(const char *run_json, const char *const *paths, size_t n_paths,
				char **out);

/**
 * st_store_close() - close and unlock; `remove` also deletes files and directories. NULL is fine.
 * None of the store's requests may be in flight.
 */
void st_store_close(struct st_store *s, bool remove);

/**
 * st_store_register_files() - make requests of the store cheaper on q, which must be idle, and
 * which must be closed before the store is (see st_aio_register_file()).
 */
ST_MUST_CHECK int st_store_register_files(const struct st_store *s, struct st_aio_queue *q);

/**
 * st_store_reclaim() - remove directories of ours in `path` that hold no committed state and no
 * lock: what is left of a start that was killed. st_store_create() does it on its paths.
 * @return number of directories removed, or a negative code
 */
ST_MUST_CHECK int st_store_reclaim(const char *path);
/** st_store_abandoned() - the directories that st_store_reclaim() would remove now: fn (may be
 * NULL) is called with the name of each. @return their number, or a negative code */
ST_MUST_CHECK int st_store_abandoned(const char *path, void (*fn)(void *user, const char *name),
				     void *user);

/**
 * st_store_prep_read() / st_store_prep_write() - fill *req for extent e (all of it): fd, path,
 * offset, op, length, buffer. The caller submits it.
 * req->user is left alone.
 * @param buf  the whole extent, 4096-aligned; for a write its st_store_checksum() is taken before
 *             the request is submitted
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
 * st_store_checksum() - XXH3 of an extent's bytes, seeded with store and e. Any thread.
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
 * st_store_rollback() - forget what was written since the last commit: reads find its versions
 * again. No request may be in flight.
 * @return 0; -EINVAL: writes or a commit are under way
 */
ST_MUST_CHECK int st_store_rollback(struct st_store *s);

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

/* ---- for tools: reading a store without its model ------------------------------------------- */

/**
 * st_store_open_readonly() - open what run_json names, knowing nothing of the extents: sizes and
 * names come from the store itself. Writes nothing, repairs nothing; a shared lock keeps writers
 * away until st_store_close(). The newest whole generation is what is read; st_store_prep_read()
 * and st_store_read_done() serve as ever, all that would write gives -EROFS.
 *
 * A store that another process has open for writing is opened as well, without a lock:
 * st_store_in_use() tells by whom. Its extents may change at any time, so of such a store only
 * names, sizes, st_store_roots(), st_store_snapshot() and st_store_generation() can be had (of the
 * newest root); reads and st_store_verify() give STRATA_E_BUSY.
 * @return as st_store_open()
 */
ST_MUST_CHECK int st_store_open_readonly(struct st_store **out, const char *run_json);

/** st_store_in_use() - who has the store open for writing ("process 123 (strata)"); NULL: nobody,
 *  or opened by st_store_create() or st_store_open(). Valid until close. */
const char *st_store_in_use(const struct st_store *s);

uint32_t st_store_n_extents(const struct st_store *s);
/** st_store_extent_bytes(), st_store_extent_name() - of extent e < n_extents; valid until close. */
uint64_t st_store_extent_bytes(const struct st_store *s, uint32_t e);
const char *st_store_extent_name(const struct st_store *s, uint32_t e);
/** st_store_live_bytes() - sum of the extents that were ever written. */
uint64_t st_store_live_bytes(const struct st_store *s);

struct st_store_root_info {
	uint64_t generation;
	unsigned n_copies; /* paths that hold it whole */
	bool is_current;   /* an open goes on from it */
	size_t snapshot_bytes;
	uint8_t snapshot[ST_STORE_SNAPSHOT_MAX];
};

/**
 * st_store_roots() - the committed generations whose roots st_store_open_readonly() found, newest
 * first. The one that is not current names extents that may have been overwritten since: it is a
 * way back only where nothing was written after the current one.
 * @param out  out [max_nr]; 2 is enough for a store that was never damaged
 * @return number of roots written to out
 */
unsigned st_store_roots(const struct st_store *s, struct st_store_root_info *out, unsigned max_nr);

struct st_store_verified {
	uint64_t bytes, total_bytes; /* verified so far; of all live extents */
	uint32_t n_extents;          /* verified so far */
	uint32_t n_bad;              /* of them damaged or unreadable */
	uint32_t n_unchecked;        /* of them written without a checksum: only read */
	uint32_t n_bad_blocks;       /* damaged superblocks, roots, lists of names, of all paths */
};

struct st_store_bad {
	uint32_t extent;         /* UINT32_MAX: none, a block that name says ("root A") */
	const char *name, *path; /* of the extent (tensor and range), of the file */
	uint64_t off_bytes, len_bytes;
	int rc;           /* STRATA_E_CORRUPT, or that of the failed read */
	const char *text; /* one line with all of it; valid during the call */
};

struct st_store_verify_cfg {
	struct st_aio_queue *queue;                              /* idle; borrowed for the call */
	void (*bad)(void *user, const struct st_store_bad *bad); /* each once; may be NULL */
	/* After each batch; false stops. May be NULL. */
	bool (*progress)(void *user, const struct st_store_verified *so_far);
	void *user;
};

/**
 * st_store_verify() - read every live extent of the durable generation and compare its checksum;
 * look at its tables, and at the superblocks, roots and names of all paths. Goes on after damage.
 * The store may be open for writing: no commit may begin meanwhile.
 * @param out  out, may be NULL
 * @return 0: all whole; STRATA_E_CORRUPT (out->n_bad of them are not, or a block); STRATA_E_BUSY
 * (in use by another process); STRATA_E_CANCELLED (progress said so); -errno
 */
ST_MUST_CHECK int st_store_verify(struct st_store *s, const struct st_store_verify_cfg *cfg,
				  struct st_store_verified *out);

/* ---- independent snapshots ------------------------------------------------------------------ */

/**
 * st_store_keep() - copy the durable generation into a store of its own, beside this one on the
 * same paths: private directories with the same layout, in which only the live extents take room
 * (shared with this store where the file system can, FICLONERANGE). Waits: the thread of the store
 * reads and writes all live bytes, through a queue of its own; other requests of this store may be
 * in flight, a commit may not. Crash-safe: data, flush, root, flush; a copy without its root is
 * reclaimed by the next start on that path.
 * @param run_json  out [bytes] text that names the copy, for st_store_open_readonly() and
 *                  st_store_remove(); may be NULL: st_store_kept() finds it
 * @return 0; STRATA_E_NO_FIT; STRATA_E_CORRUPT (an extent of this store is damaged); -errno. On
 *         failure nothing is left behind, and this store is as it was.
 */
ST_MUST_CHECK int st_store_keep(struct st_store *s, char *run_json, size_t run_json_bytes);

struct st_store_kept_info {
	const char *run_json; /* names it; valid during the call */
	int rc;               /* 0; <0: damaged or in part, fit only for st_store_remove() */
	const char *text;     /* rc < 0: why */
	uint64_t generation;  /* of the store when it was taken */
	uint64_t live_bytes;
	const void *snapshot; /* [snapshot_bytes] the caller's state at that commit */
	size_t snapshot_bytes;
};

/**
 * st_store_kept() - call fn for each copy that st_store_keep() made of the store that run_json
 * names (which need not be whole, nor free, nor there), oldest first. fn may remove it. Stops when
 * fn returns other than 0, and returns that.
 */
typedef int st_store_kept_fn(void *user, const struct st_store_kept_info *info);
ST_MUST_CHECK int st_store_kept(const char *run_json, st_store_kept_fn *fn, void *user);

/**
 * st_store_restore() - make the state of a copy this store's: each of its extents is verified and
 * written to the slot that is not durable, then committed as a new generation with the copy's
 * snapshot. Until that is durable, this store stays where it was.
 * @param s         opened for writing, nothing in flight, nothing written since the last commit
 * @param run_json  of the copy: as st_store_kept() gives it
 * @return 0; STRATA_E_STALE (a copy of another store); STRATA_E_CORRUPT (naming the extent); -errno
 */
ST_MUST_CHECK int st_store_restore(struct st_store *s, const char *run_json);

/**
 * st_store_remove() - delete the directories and files of a store or a copy, with all it holds.
 * What is already gone is no error.
 * @return 0; STRATA_E_BUSY (in use: nothing was removed); STRATA_E_INPUT (not ours); -errno
 */
ST_MUST_CHECK int st_store_remove(const char *run_json);

#endif
