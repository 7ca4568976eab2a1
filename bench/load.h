/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench/load.h - reads and writes of numbered blocks through the product's own aio and store.
 *
 * Layer:   bench (uses nvme, aio)
 * Threads: an area belongs to the thread that opened it
 *
 * An area is n blocks on one or more directories, each directory holding its share:
 *
 *	store   one extent a block in a private store (nvme/store.h), which chooses path and offset,
 *	        and checks a checksum of each block it reads. Nothing is ever committed, so the
 *	        store is one that a later start removes should this process be killed.
 *	raw     files without a name, read and written by st_aio_* alone: for blocks so small that
 *	        the engine has no extent of that size
 *
 * On each path there is room for the blocks twice: the second half (in a store: the extents' other
 * slots) belongs to another program that shall be compared on the same files.
 *
 * Every block has the pattern of bench/pattern.h. Each block that is read has its stamps checked;
 * a pass with `is_thorough` compares all bytes.
 */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include <signal.h>

#include "aio/aio.h"
#include "bench/hist.h"
#include "core/status.h"

struct st_area;

struct st_area_cfg {
	const char *const *paths; /* [n_paths] existing directories; borrowed */
	unsigned n_paths;
	const uint32_t *weights; /* [n_paths] or NULL = equal; a store's only */
	uint64_t size_bytes;     /* rounded down to whole blocks, as many on each path if equal */
	size_t block_bytes;      /* a multiple of 4096 */
	bool is_raw;
	bool checksum;                     /* a store's */
	unsigned depth_max;                /* of any load: buffers are made for it */
	const volatile sig_atomic_t *stop; /* not 0: end soon; borrowed */
};

enum st_load_op { ST_LOAD_READ, ST_LOAD_WRITE, ST_LOAD_MIXED, ST_LOAD_OPS };
extern const char *const st_load_op_names[ST_LOAD_OPS + 1]; /* "read", ...; ends with NULL */

#define ST_LOAD_READ_SHARE 55u /* percent of a mixed load's bytes that are reads */

struct st_load {
	enum st_load_op op;
	bool is_random;
	bool is_thorough;      /* compare every byte of what is read */
	unsigned depth;        /* blocks in flight; at most depth_max and n_blocks / 2 */
	int64_t duration_ns;   /* 0: one pass over all blocks, in their order */
	unsigned aio_depth;    /* kernel I/Os in flight, where a block is cut; 0: as depth */
	struct st_aio_cfg aio; /* its depth is set from the above */
};

struct st_load_result {
	const char *backend; /* in use */
	uint64_t n_ios, n_bytes;
	uint64_t n_wrong; /* blocks that came back other than they were written */
	int64_t elapsed_ns;
	int64_t cpu_ns;      /* of the process, user and system, without the pattern's */
	int64_t checksum_ns; /* part of it: the store's checksums */
	int64_t pattern_ns;  /* CPU time of making and checking patterns, where it was measured */
	struct st_hist latency; /* submission to completion of each block */
	char first_wrong[256];  /* which block was wrong first, and how; "" if none */
};

/**
 * st_area_open() - make the store or the files, preallocated.
 * @return 0; -EINVAL; STRATA_E_INPUT (path); STRATA_E_NO_FIT (space); -ENOMEM; -EINTR (stop). On
 *         failure nothing is left behind.
 */
ST_MUST_CHECK int st_area_open(struct st_area **a, const struct st_area_cfg *cfg);

/** st_area_close() - remove everything. NULL is fine. */
void st_area_close(struct st_area *a);

uint64_t st_area_blocks(const struct st_area *a);
/** st_area_pass_span() - blocks that one request of a pass moves: more than one where blocks are
 *  small. */
uint64_t st_area_pass_span(const struct st_area *a);
/** st_area_config() - what it was opened with. */
const struct st_area_cfg *st_area_config(const struct st_area *a);

/**
 * st_area_run() - one load, on a queue of its own (opened and closed outside what is timed).
 * All blocks must have been written (one pass) before any is read.
 * @param r  out, overwritten; complete also after -EINTR
 * @return 0, also with r->n_wrong > 0; -EINTR (stop); -EINVAL; the first failed I/O
 */
ST_MUST_CHECK int st_area_run(struct st_area *a, const struct st_load *l, struct st_load_result *r);

/** st_load_open_nameless() - a file of mode 0600 in `dir` without a name: it is gone whenever this
 *  process is. @param flags  in, further ones of open(). @return file descriptor; -1, errno set */
int st_load_open_nameless(const char *dir, int flags);

/** st_load_add() - add a slice's result to a sum that began as zeroes. */
void st_load_add(struct st_load_result *sum, const struct st_load_result *slice);
double st_load_gbps(const struct st_load_result *r); /* 1e9 bytes a second */

/* One of the area's files, for another program. */
struct st_area_file {
	int fd;
	uint64_t off_bytes;       /* of the blocks: reading them does no harm */
	uint64_t spare_off_bytes; /* of the second half, which may be overwritten */
	uint64_t len_bytes;       /* of each half */
	bool is_direct;           /* O_DIRECT works */
};

/** st_area_files() - @param files out [n_paths] @return 0; an error of the store */
ST_MUST_CHECK int st_area_files(struct st_area *a, struct st_area_file *files);

#endif
