/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme/store_priv.h - the store's insides: what lies on disk, and what is kept in memory.
 *
 * Layer:   nvme
 * Threads: as nvme/store.h
 *
 * layout.c   which path and offset an extent has
 * store.c    extents and commit: fills requests, never moves a byte itself
 * recover.c  first format and recovery, over a function that runs requests
 * dir.c      directories, files, locks: the only part that knows the file system
 *
 * So everything above dir.c can be run over a simulated disk (tests/test_store_crash.c).
 *
 * Invariants:
 *  1. Between commits, the slot that the durable root names is never written.
 *  2. A table area is written only while the durable root names the other one of that path.
 *  3. A root of generation g is written to slot g mod 2, after a flush of all that it names.
 *  4. After the first failure of a write or a flush nothing is written any more.
 *
 * On disk all numbers are little-endian.
 */
#ifndef NVME_STORE_PRIV_H
#define NVME_STORE_PRIV_H

#include "nvme/store.h"

#define ST_STORE_VERSION    1u
#define ST_STORE_BLOCK      ((size_t)4096)
#define ST_STORE_ROOT_A     ((uint64_t)4096)
#define ST_STORE_ROOT_B     ((uint64_t)1 << 20)
#define ST_STORE_TABLES     ((uint64_t)2 << 20)
#define ST_STORE_ID_BYTES   16u
#define ST_STORE_NO_SLOT    2u  /* durable_slot of an extent that no commit names */
#define ST_STORE_NAME_BYTES 40u /* "strata-", 32 hexadecimal digits, NUL */

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the store's format is little-endian");

struct st_store_super {
	char magic[8];
	uint32_t version;
	uint32_t path_index, n_paths, n_extents;
	uint8_t id[ST_STORE_ID_BYTES];
	uint32_t weights[ST_STORE_PATHS_MAX];
	uint64_t map_hash;   /* of sizes, weights and number of paths */
	uint64_t file_bytes; /* of this path */
	uint8_t zero[4096 - 120 - 8];
	uint64_t self_hash; /* of all above */
};
_Static_assert(sizeof(struct st_store_super) == 4096, "superblock is one block");

struct st_store_root {
	char magic[8];
	uint64_t generation;
	uint8_t id[ST_STORE_ID_BYTES];
	uint32_t n_paths, snapshot_bytes;
	uint8_t area[ST_STORE_PATHS_MAX]; /* of each path: which of its table areas is meant */
	uint64_t table_hash[ST_STORE_PATHS_MAX];
	uint8_t snapshot[2048];
	uint8_t zero[4096 - 184 - 2048 - 8];
	uint64_t self_hash; /* of all above, seeded with id */
};
_Static_assert(sizeof(struct st_store_root) == 4096, "root is one block");

/* Table: one entry per extent of the path, in the order of extents, zero-padded to blocks. */
struct st_store_entry {
	uint64_t generation; /* whose commit made it durable; 0 = never written */
	uint64_t checksum;
	uint32_t slot;
	uint32_t has_checksum;
};
_Static_assert(sizeof(struct st_store_entry) == 24, "no padding in tables");

struct st_store_extent {
	uint64_t bytes;
	uint64_t off_bytes; /* inside its slot's half of the data */
	uint32_t index;     /* of its entry in the path's table */
	uint8_t path;
	uint8_t durable_slot; /* named by the durable root, or ST_STORE_NO_SLOT */
	bool is_pending;      /* prepared, and not yet said to be done */
};

struct st_store_file {
	int fd;
	char *path;                     /* of the data file, for messages */
	int parent_fd, dir_fd;          /* -1 when there is no directory behind it */
	char name[ST_STORE_NAME_BYTES]; /* of the directory in its parent */
	uint32_t n_extents;
	uint64_t data_off, data_bytes; /* first half; the second follows it */
	uint64_t file_bytes;
	struct st_store_entry *table;      /* 4096-aligned image of what a commit writes */
	size_t table_bytes;                /* multiple of 4096; 0 without extents */
	unsigned area;                     /* that the durable root names */
	bool is_changed;                   /* table differs from that area */
	size_t stale_from[2], stale_to[2]; /* bytes of each area that may differ from the image */
};

enum st_store_phase {
	ST_PHASE_IDLE,
	ST_PHASE_TABLES,
	ST_PHASE_FLUSH,
	ST_PHASE_ROOT,
	ST_PHASE_SEAL,
	ST_PHASE_DURABLE
};

struct st_store {
	uint8_t id[ST_STORE_ID_BYTES];
	uint64_t seed; /* of checksums: the id, hashed */
	uint64_t map_hash;
	uint64_t table_area_bytes;
	uint32_t weights[ST_STORE_PATHS_MAX];
	uint32_t n_extents, n_pending;
	unsigned n_files;
	bool verifies;
	bool skips_root_rewrite; /* tests only: proves that they would see it missing */
	struct st_store_extent *extents;
	const char *const *names;
	struct st_store_file files[ST_STORE_PATHS_MAX];
	struct st_store_root *root, *next_root; /* durable; being committed */
	enum st_store_phase phase;
	const struct st_aio_req *sent; /* requests of the last next(), checked by the next one */
	unsigned n_sent;
	struct st_error failed; /* rc < 0: nothing may be written any more */
};

/** st_store_run_fn - run n independent requests to their end; 0 or the first failure. */
typedef int st_store_run_fn(void *user, struct st_aio_req *reqs, unsigned n);

/**
 * st_store_layout() - a store in memory: map, tables, no files (fd -1), nothing durable.
 * @param weights  in [n_paths]
 * @param id       in [ST_STORE_ID_BYTES]
 */
ST_MUST_CHECK int st_store_layout(struct st_store **out, const struct st_store_cfg *cfg,
				  unsigned n_paths, const uint32_t *weights, const uint8_t *id);
void st_store_free(struct st_store *s);

/** st_store_name() - name of extent e for messages: the caller's, else "extent". */
const char *st_store_name(const struct st_store *s, uint32_t e);

/** st_store_where() - file offset of extent e in slot. */
uint64_t st_store_where(const struct st_store *s, uint32_t e, unsigned slot);

uint64_t st_store_table_hash(const struct st_store *s, unsigned p, const void *table);
uint64_t st_store_root_hash(const struct st_store_root *r);
bool st_store_root_is_valid(const struct st_store_root *r);
bool st_store_super_is_valid(const struct st_store_super *b);

/** st_store_format() - superblocks and empty tables, flush, root of generation 0, flush. */
ST_MUST_CHECK int st_store_format(struct st_store *s, st_store_run_fn *run, void *user);

/** st_store_recover() - see nvme/store.h; s comes from st_store_layout() with its files' fds set.
 */
ST_MUST_CHECK int st_store_recover(struct st_store *s, st_store_run_fn *run, void *user);

#endif
