/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme/dir.h - what a store has on a file system: directories, files, locks, space.
 *
 * Layer:   nvme
 * Threads: as nvme/store.h
 *
 * Every name below a path of the user's is opened relative to its directory and without following
 * links. What is found must be ours: our user's, a plain directory or file, closed to others.
 *
 * Two locks are held: on the directory, so that reclaim lets it be, and on the data file. The
 * second is the one that matters after a kill: I/O that the kernel still does for a dead process
 * holds the file open, and with it this lock, so nobody recovers while old writes may still land.
 */
#ifndef NVME_DIR_H
#define NVME_DIR_H

#include "nvme/store_priv.h"

#define ST_DIR_DATA      "data"
#define ST_DIR_HEX_CHARS (2 * ST_STORE_ID_BYTES)

enum st_dir_mode {
	ST_DIR_WRITE, /* exclusive locks */
	ST_DIR_READ   /* shared locks, or none beside a writer: then s->in_use tells */
};

/* ---- dir.c: names and run.json */

struct st_dir_names { /* what run_json says */
	uint8_t id[ST_STORE_ID_BYTES];
	unsigned n;
	char *dirs[ST_STORE_PATHS_MAX]; /* "PARENT/strata-..." */
};
ST_MUST_CHECK int st_dir_parse(struct st_dir_names *out, const char *run_json);
void st_dir_names_free(struct st_dir_names *n);
/** st_dir_format() - text of run.json; dirs: the paths of n data files. Owned by the caller. */
ST_MUST_CHECK int st_dir_format(char **out, const uint8_t *id, char *const *data_paths, unsigned n);

ST_MUST_CHECK int st_dir_random_id(uint8_t id[ST_STORE_ID_BYTES]);
/** st_dir_is_our_name() - is it the name of a store's directory? */
bool st_dir_is_our_name(const char *name);

/* ---- dir.c: one path's directory and file */

/* What messages about a file system call it: the directory of the user's that a private one is in.
 */
struct st_dir_place {
	char text[256];
};
struct st_dir_place st_dir_place(const struct st_store_file *f);

/** st_dir_fail_read_only() - STRATA_E_INPUT: f lies on a file system that takes no writes. */
int st_dir_fail_read_only(const struct st_store_file *f);

/** st_dir_open_parent() - a directory of the user's choice (it may be a link): descriptor or <0. */
ST_MUST_CHECK int st_dir_open_parent(const char *path);

/** st_dir_check_ours() - not somebody else's, not open to others, a plain directory or file with
 *  one name? Else STRATA_E_INPUT. */
ST_MUST_CHECK int st_dir_check_ours(int fd, const char *path, bool is_dir);

/** st_dir_name() - open the parent and choose a name in it; nothing is made. */
ST_MUST_CHECK int st_dir_name(struct st_store_file *f, const char *parent);
/** st_dir_name_beside() - the same in the parent of another one. */
ST_MUST_CHECK int st_dir_name_beside(struct st_store_file *f, const struct st_store_file *other);
/** st_dir_make() - directory and empty file of that name, locked. */
ST_MUST_CHECK int st_dir_make(struct st_store_file *f);
/** st_dir_open() - both of an existing one, checked and locked. in_use: [80] in/out, see above.
 *  -ENOENT: there is no data file; the directory is open and locked. */
ST_MUST_CHECK int st_dir_open(struct st_store_file *f, const char *dir, enum st_dir_mode mode,
			      char *in_use);
/** st_dir_sync() - what was made is there after a power loss. */
ST_MUST_CHECK int st_dir_sync(const struct st_store_file *f);
/** st_dir_remove() - file and directory; does not close. What is gone is no error. */
ST_MUST_CHECK int st_dir_remove(struct st_store_file *f);
void st_dir_close(struct st_store_file *f);

/** st_dir_read_super() - of an open file, whichever copy serves; is the file as long as that says?
 *  @param b  out */
ST_MUST_CHECK int st_dir_read_super(const struct st_store_file *f, const uint8_t *id,
				    struct st_store_super *b);

/** st_dir_open_store() - st_store_open() without, for ST_DIR_READ, knowing the extents: cfg NULL.
 */
ST_MUST_CHECK int st_dir_open_store(struct st_store **out, const struct st_store_cfg *cfg,
				    const char *run_json, enum st_dir_mode mode);

/* A queue for a few large transfers, and the runner over it: between open and close it stays where
 * it is. */
struct st_dir_io {
	struct st_aio_queue *q; /* NULL once it has failed */
	struct st_store_runner run;
	struct st_error failed;
};
ST_MUST_CHECK int st_dir_io_open(struct st_dir_io *io);
/**
 * st_dir_io_close() - also of one that was never opened ({0}).
 * @param s     in, a store whose files and memory its requests named, or NULL: lost where the queue
 *              lost it (st_store_close())
 * @return rc; or, if that is 0, the failure of closing
 */
ST_MUST_CHECK int st_dir_io_close(struct st_dir_io *io, struct st_store *s, int rc);

/* ---- place.c: what the file system offers */

/** st_place_prepare() - an empty file is made fit (no copy-on-write), and what preallocation is
 *  worth here is said. */
void st_place_prepare(const struct st_store_file *f);
/** st_place_set_direct() - O_DIRECT where it works, else a warning.
 *  @return 0; STRATA_E_UNSUPPORTED: the device needs blocks larger than ours */
ST_MUST_CHECK int st_place_set_direct(const struct st_store_file *f);
/** st_place_check_blocks() - may a file there, whose direct I/O needs this alignment, be used? */
ST_MUST_CHECK int st_place_check_blocks(const char *place, unsigned align_bytes);
/** st_place_check_space() - have the paths room for need_bytes[n_files]? Paths on one file system
 *  are added up. */
ST_MUST_CHECK int st_place_check_space(const struct st_store *s, const uint64_t *need_bytes);
/** st_place_preallocate() - bytes [off, off + len) of the file. 0; STRATA_E_NO_FIT; -errno */
ST_MUST_CHECK int st_place_preallocate(const struct st_store_file *f, uint64_t off_bytes,
				       uint64_t len_bytes);
/** st_place_clone() - the same bytes of `from` in f, sharing their room. -EOPNOTSUPP: not here. */
ST_MUST_CHECK int st_place_clone(const struct st_store_file *f, const struct st_store_file *from,
				 uint64_t off_bytes, uint64_t len_bytes);

#endif
