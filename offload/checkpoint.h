/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offload/checkpoint.h - the states of a run on NVMe, for a program that trains nothing.
 *
 * Layer:   offload (uses core, aio, nvme)
 * Threads: re-entrant; each call runs on the caller's thread, with an I/O queue of its own
 *
 * A run has one store, which holds the state after its last commit, and as many copies of earlier
 * states as strata.nvme.keep_every made (nvme/store.h). Each is named by the text of a run_json:
 * the store by that of OUTPUT/run.json, a copy by that which st_checkpoint_list() gives.
 *
 * Nothing here writes to a store. One that a training process has open can be listed; its extents
 * change at any time, so verify and export give STRATA_E_BUSY.
 */
#ifndef OFFLOAD_CHECKPOINT_H
#define OFFLOAD_CHECKPOINT_H

#include "nvme/store.h"
#include "offload/engine.h"
#include "offload/layout.h"

enum st_checkpoint_kind {
	ST_CHECKPOINT_CURRENT,    /* what a resume goes on from */
	ST_CHECKPOINT_SUPERSEDED, /* the commit before: parts of it may be overwritten by now */
	ST_CHECKPOINT_LOST,       /* a later commit whose tables are damaged */
	ST_CHECKPOINT_KEPT,       /* an independent copy */
};

struct st_checkpoint_info {
	enum st_checkpoint_kind kind;
	int rc;                    /* 0; <0: damaged, or in part */
	const char *text;          /* rc < 0: why */
	const char *in_use;        /* by whom it is written ("process 123 (strata)"), or NULL */
	const char *run_json;      /* names it */
	const char *const *dirs;   /* [n_dirs] its private directories */
	unsigned n_dirs, n_copies; /* n_copies: of them that hold the root whole; 0 unknown */
	bool has_state;            /* `state` is set: a commit of an engine */
	struct st_snapshot state;
	uint64_t generation;
	uint64_t live_bytes, disk_bytes; /* of the state; of the files on disk */
	int64_t written_s; /* of the last write there, seconds since 1970; 0 unknown */
};

typedef int st_checkpoint_fn(void *user, const struct st_checkpoint_info *info);

/**
 * st_checkpoint_list() - call fn for each state: the current one, superseded and lost ones whose
 * roots are there, then the copies, oldest first. What `info` points to is valid during the call;
 * fn may remove the state. A store that cannot be opened is listed with the reason in info->rc.
 * @param shown  in, what messages call run_json ("out/run.json")
 * @return 0; what fn returned, if not 0; STRATA_E_INPUT (run_json is no such text); -errno
 */
ST_MUST_CHECK int st_checkpoint_list(const char *run_json, const char *shown, st_checkpoint_fn *fn,
				     void *user);

struct st_checkpoint_bad { /* a damaged or unreadable extent, or block of the store */
	const char *name;  /* "h.0.mlp.c_fc.weight[0..262144) state", "root A" */
	const char *path;  /* of the file */
	uint64_t off_bytes, len_bytes;
	const char *text; /* one line with all of it */
};

struct st_checkpoint_seen { /* of verifying or exporting */
	uint64_t bytes, total_bytes;
	uint32_t n_extents;
	uint32_t n_bad;        /* of them damaged or unreadable */
	uint32_t n_unchecked;  /* of them written without a checksum: only read */
	uint32_t n_bad_blocks; /* superblocks, roots, lists of names: an open for writing repairs
				* them */
};

struct st_checkpoint_watch {
	void (*bad)(void *user, const struct st_checkpoint_bad *bad);          /* may be NULL */
	bool (*progress)(void *user, const struct st_checkpoint_seen *so_far); /* false: stop */
	void *user;
};

/**
 * st_checkpoint_verify() - the checksum of every extent of the state that an open would go on from,
 * its tables, and superblocks, roots and names.
 * @param seen  out, may be NULL
 * @return 0: all whole; STRATA_E_CORRUPT; STRATA_E_BUSY; STRATA_E_CANCELLED (progress said so);
 *         STRATA_E_INPUT (gone); -errno
 */
ST_MUST_CHECK int st_checkpoint_verify(const char *run_json, const struct st_checkpoint_watch *w,
				       struct st_checkpoint_seen *seen);

/**
 * st_checkpoint_export() - hand out the whole state in order of units and elements, each extent
 * checked before it is used. emit runs on the calling thread.
 * @param l  in, of the model that was trained
 * @return as st_checkpoint_verify(); STRATA_E_STALE: the state is that of another model or format;
 *         STRATA_E_INPUT: nothing was committed yet
 */
ST_MUST_CHECK int st_checkpoint_export(const char *run_json, const struct st_layout *l,
				       st_emit_fn *emit, void *emit_user,
				       const struct st_checkpoint_watch *w);

/**
 * st_checkpoint_reclaim() - remove what killed starts left in a directory of stores: private
 * directories without a committed state, whose lock is free.
 * @param is_dry  in, only say which
 * @param fn      called with the name of each when is_dry; may be NULL
 * @return how many; STRATA_E_INPUT (no such directory); -errno
 */
ST_MUST_CHECK int st_checkpoint_reclaim(const char *path, bool is_dry,
					void (*fn)(void *user, const char *name), void *user);

#endif
