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
 * walk.c     all live extents, read and verified, over such a function
 * keep.c     independent copies, and the way back to one
 * dir.c      directories, files, locks; create, open, close    } the only parts that
 * place.c    what a file system offers: direct I/O, space      } know the file system
 * list.c     stores and copies found on a path; removal        } (nvme/dir.h)
 *
 * So what lies above dir.c can be run over a simulated disk (tests/test_store_crash.c).
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

#define ST_STORE_VERSION    2u
#define ST_STORE_BLOCK      ((size_t)4096)
#define ST_STORE_ROOT_A     ((uint64_t)4096)
#define ST_STORE_ROOT_B     ((uint64_t)1 << 20)
#define ST_STORE_SUPER_B    (ST_STORE_ROOT_B + 4096)
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
	uint8_t origin[ST_STORE_ID_BYTES]; /* the store that this is a copy of; else id */
	uint32_t weights[ST_STORE_PATHS_MAX];
	uint64_t map_hash;   /* of sizes, weights and number of paths */
	uint64_t names_hash; /* of the area of names */
	uint64_t file_bytes; /* of this path */
	uint8_t zero[4096 - 144 - 8];
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

/* Area of names: one of these per extent of the store, the same on every path. */
struct st_store_name {
	uint64_t bytes;
	char text[120]; /* NUL-terminated; of a longer name its end */
};
_Static_assert(sizeof(struct st_store_name) == 128, "names fill blocks");

struct st_store_extent {
	uint64_t bytes;
	uint64_t off_bytes; /* inside its slot's half of the data */
	uint32_t index;     /* of its entry in the path's table */
	uint8_t path;
	uint8_t durable_slot;          /* named by the durable root, or ST_STORE_NO_SLOT */
	struct st_store_entry durable; /* what its table says */
	bool is_pending;               /* prepared, and not yet said to be done */
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

#define ST_STORE_FILE_NONE                                                                         \
	{                                                                                          \
		.fd = -1, .parent_fd = -1, .dir_fd = -1                                            \
	}

enum st_store_phase {
	ST_PHASE_IDLE,
	ST_PHASE_TABLES,
	ST_PHASE_FLUSH,
	ST_PHASE_ROOT,
	ST_PHASE_SEAL,
	ST_PHASE_DURABLE
};

struct st_store {
	uint8_t id[ST_STORE_ID_BYTES], origin[ST_STORE_ID_BYTES];
	uint64_t seed; /* of checksums: the origin, hashed, so that copies keep them */
	uint64_t map_hash, names_hash;
	uint64_t table_area_bytes, names_bytes;
	uint32_t weights[ST_STORE_PATHS_MAX];
	uint32_t n_extents, n_pending;
	unsigned n_files;
	bool verifies, verifies_on_open;
	bool is_readonly;
	bool skips_root_rewrite; /* tests only: proves that they would see it missing */
	struct st_store_extent *extents;
	const char *const *names;
	const char **own_names;          /* what names points to when nobody else owns it */
	struct st_store_name *own_texts; /* and the texts */
	char in_use[80];                 /* by whom; "" = locked by us */
	struct st_store_file files[ST_STORE_PATHS_MAX];
	struct st_store_root *root, *next_root; /* durable; being committed */
	enum st_store_phase phase;
	const struct st_aio_req *sent; /* requests of the last next(), checked by the next one */
	unsigned n_sent;
	struct st_store_root_info *found; /* opened for reading: the roots, newest first */
	unsigned n_found;
	struct st_error failed; /* rc < 0: nothing may be written any more */
	bool is_lost;           /* a drive that hangs has its memory and files: never freed */
};

/** st_store_run_fn - run n independent requests to their end; 0 or the first failure. */
typedef int st_store_run_fn(void *user, struct st_aio_req *reqs, unsigned n);

struct st_store_runner {
	st_store_run_fn *run;
	void *user;
	bool has_lost; /* buffers to a drive that hangs: nothing that was read into or written
			* from may be freed any more */
};

static inline int st_store_run(const struct st_store_runner *r, struct st_aio_req *reqs, unsigned n)
{
	return n ? r->run(r->user, reqs, n) : 0;
}

/** st_store_release() - free what requests of r used, or lose it. NULL is fine. */
void st_store_release(const struct st_store_runner *r, void *mem);
/** st_store_lose() - keep mem for ever: a drive that hangs still uses it. NULL is fine. */
void st_store_lose(void *mem);

/** st_store_request() - a request on the file of path p. */
struct st_aio_req st_store_request(const struct st_store *s, unsigned p, enum st_aio_op op,
				   void *buf, size_t len_bytes, uint64_t off_bytes);

/* ---- layout.c */

/**
 * st_store_layout() - a store in memory: map, tables, no files (fd -1), nothing durable.
 * @param weights  in [n_paths]
 * @param id       in [ST_STORE_ID_BYTES]
 * @param origin   in [ST_STORE_ID_BYTES]; NULL: id
 */
ST_MUST_CHECK int st_store_layout(struct st_store **out, const struct st_store_cfg *cfg,
				  unsigned n_paths, const uint32_t *weights, const uint8_t *id,
				  const uint8_t *origin);
void st_store_free(struct st_store *s);

/** st_store_pick_path() - the path that is fullest last: the smallest (used + bytes) / weight,
 *  compared exactly; the first of equals. */
unsigned st_store_pick_path(const uint64_t *used_bytes, const uint32_t *weights, unsigned n_paths,
			    uint64_t bytes);

/** st_store_where() - file offset of extent e in slot. */
uint64_t st_store_where(const struct st_store *s, uint32_t e, unsigned slot);

/** st_store_table_off(), st_store_names_off() - file offset of a table area, of the names. */
uint64_t st_store_table_off(const struct st_store *s, unsigned area);
uint64_t st_store_names_off(uint32_t n_extents);
size_t st_store_names_bytes(uint32_t n_extents);

/** st_store_make_names() - the area of names, [names_bytes], 4096-aligned, owned by the caller. */
ST_MUST_CHECK int st_store_make_names(const struct st_store *s, struct st_store_name **out);

uint64_t st_store_table_hash(const struct st_store *s, unsigned p, const void *table);
uint64_t st_store_root_hash(const struct st_store_root *r);
bool st_store_root_is_valid(const struct st_store_root *r);
bool st_store_super_is_valid(const struct st_store_super *b);
/** st_store_pick_super() - of two copies the one that is valid and, if there is a choice, of store
 *  id; NULL: neither is valid. */
const struct st_store_super *st_store_pick_super(const struct st_store_super *a,
						 const struct st_store_super *b, const uint8_t *id);

/* ---- recover.c */

/**
 * st_store_format() - superblocks, names and the tables as they are in memory (into area 0), flush;
 * root of this generation, flush. Data that the tables name are already written, if not flushed.
 */
ST_MUST_CHECK int st_store_format(struct st_store *s, uint64_t generation, const void *snapshot,
				  size_t snapshot_bytes, const struct st_store_runner *run);

/**
 * st_store_recover() - see nvme/store.h; s comes from st_store_layout() with its files' fds set.
 * With s->is_readonly nothing is written; with s->in_use nothing but the roots is looked at.
 */
ST_MUST_CHECK int st_store_recover(struct st_store *s, const struct st_store_runner *run);

/** st_store_verify_blocks() - superblocks, roots and names of all paths, each damaged one to
 *  cfg->bad. Says nothing of the tables. @param n_bad  out @return 0; a failed read; -ENOMEM */
ST_MUST_CHECK int st_store_verify_blocks(const struct st_store *s,
					 const struct st_store_verify_cfg *cfg, unsigned *n_bad,
					 const struct st_store_runner *run);

/* ---- walk.c */

struct st_store_tables { /* of the durable generation, as they lie on disk: [path] */
	struct st_store_entry *of[ST_STORE_PATHS_MAX];
};
ST_MUST_CHECK int st_store_tables_read(struct st_store_tables *t, const struct st_store *s,
				       const struct st_store_runner *run);
void st_store_tables_free(struct st_store_tables *t, const struct st_store_runner *run);

struct st_store_item { /* a live extent that was read */
	uint32_t e;
	const struct st_store_entry *entry;
	void *buf;
	int rc; /* 0: whole. <0: damaged, or not to be read; the text is in error */
	struct st_error error;
};

/** st_store_walk() - read all live extents, some at a time, verify them, and give them to `batch`,
 *  which may end the walk with a code other than 0. tables: [n_files], NULL: leave that path out */
#define ST_STORE_BATCH_MAX 16u
typedef int st_store_batch_fn(void *user, const struct st_store_item *items, unsigned n);
ST_MUST_CHECK int st_store_walk(const struct st_store *s, struct st_store_entry *const *tables,
				const struct st_store_runner *run, st_store_batch_fn *batch,
				void *user);

/** st_store_verify_tables() - st_store_verify() of what these tables name. */
ST_MUST_CHECK int st_store_verify_tables(const struct st_store *s,
					 struct st_store_entry *const *tables,
					 const struct st_store_runner *run,
					 const struct st_store_verify_cfg *cfg,
					 struct st_store_verified *out);

/** st_store_fail_damaged() - the failure that names extent e with this entry. */
ST_MUST_CHECK int st_store_fail_damaged(const struct st_store *s, uint32_t e,
					const struct st_store_entry *t);

#endif
