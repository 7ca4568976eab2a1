/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model/file.h - files that others made, and files that appear whole or not at all.
 *
 * Layer:   model (uses core)
 * Threads: re-entrant; one st_outfile belongs to one thread at a time
 *
 * Reading: only regular files (a FIFO would hang, a device has no size), by pread (a file truncated
 * under a mapping would kill the process). What others wrote into a file or its name is passed
 * through st_show() before it stands in a message: one line, no control bytes, bounded.
 *
 * Writing: st_outfile collects a file without a name where the file system can, else beside the
 * target under a temporary name; commit makes it durable and puts it in place in one step.
 */
#ifndef MODEL_FILE_H
#define MODEL_FILE_H

#include "core/status.h"

#define ST_SHOW_BYTES 160u

struct st_show {
	char text[ST_SHOW_BYTES];
};

/**
 * st_show() - a foreign text as it may stand in a message.
 * Control bytes and C1 controls become \xNN; a long text keeps its end behind "...".
 * @return s->text
 */
const char *st_show(struct st_show *s, const char *text);

/**
 * st_file_open() - open a regular file for reading.
 * @param dirfd       in, directory that `name` is relative to, or AT_FDCWD
 * @param is_beneath  in, name comes from a file: a symbolic link that leaves dirfd is refused
 *                    (where openat2() is missing: every symbolic link)
 * @param shown       in, path for messages
 * @param size_bytes  out, size at this moment
 * @return file descriptor; STRATA_E_INPUT (missing, not readable, not a regular file); -errno
 */
ST_MUST_CHECK int st_file_open(int dirfd, const char *name, bool is_beneath, const char *shown,
			       uint64_t *size_bytes);

/**
 * st_file_read() - exactly len_bytes from off_bytes.
 * @return 0; STRATA_E_INPUT (the file ends before: it was cut since it was opened); -errno
 */
ST_MUST_CHECK int st_file_read(int fd, void *buf, size_t len_bytes, uint64_t off_bytes,
			       const char *shown);

/** st_file_drop() - tell the kernel that cached pages of this range are of no use any more. */
void st_file_drop(int fd, uint64_t off_bytes, uint64_t len_bytes);

struct st_outfile {
	int fd, dirfd;         /* fd: for pwrite by the caller through st_outfile_write() */
	bool is_named;         /* tmp exists in the directory */
	bool is_failed;        /* a write failed: commit refuses */
	uint64_t len_bytes;    /* written so far */
	uint64_t synced_bytes; /* write-back was started up to here */
	char tmp[40];
	char *path;
	const char *base; /* last component of path */
};

/**
 * st_outfile_open() - start a file of mode 0644 & ~umask that will replace `path`.
 * @param size_bytes  in, space to reserve now, so that a full disk shows before the work; 0: none
 * @return 0; -errno (no such directory, not writable, no space)
 */
ST_MUST_CHECK int st_outfile_open(struct st_outfile *o, const char *path, uint64_t size_bytes);

/** st_outfile_write() - append. After a failure the file can only be aborted. @return 0; -errno */
ST_MUST_CHECK int st_outfile_write(struct st_outfile *o, const void *buf, size_t len_bytes);

/**
 * st_outfile_commit() - fsync, rename onto path, fsync the directory; *o is done in any case.
 * @return 0; -errno: `path` is as it was before, unless the directory's fsync failed after the
 *         rename (the text says so)
 */
ST_MUST_CHECK int st_outfile_commit(struct st_outfile *o);

/** st_outfile_abort() - leave nothing; `path` stays as it was. Errno and last error are kept. */
void st_outfile_abort(struct st_outfile *o);

/** st_outfile_sweep() - remove the temporary names that writers left in dir who were killed between
 *  naming a file and putting it in place. Nobody may be writing there. */
void st_outfile_sweep(const char *dir);

#endif
