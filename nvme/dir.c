/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme/dir.c - directories, files and locks of a store.
 *
 * Every name below a path is opened relative to its directory and without following links. What is
 * found must be ours: our user's, a plain directory or file, closed to others.
 *
 * Two locks are held: on the directory, so that reclaim lets it be, and on the data file. The
 * second is the one that matters after a kill: I/O that the kernel still does for a dead process
 * holds the file open, and with it this lock, so nobody recovers while old writes may still land.
 */
#include "nvme/store_priv.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <linux/stat.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/log.h"

#define DIR_PREFIX   "strata-"
#define DATA_NAME    "data"
#define HEX_CHARS    (2 * ST_STORE_ID_BYTES)
#define LOCK_WAIT_NS 5000000000 /* for a dead process' last I/O */
#define GIB          1073741824.0

_Static_assert(sizeof(DIR_PREFIX) + HEX_CHARS == ST_STORE_NAME_BYTES, "directory names fit");

/* ---- small things ---------------------------------------------------------------------------- */

static int run_queue(void *user, struct st_aio_req *reqs, unsigned n)
{
	return n ? st_aio_run(user, reqs, n) : 0;
}

static int open_queue(struct st_aio_queue **q)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;

	cfg.backend = "threads"; /* a few blocks: no ring is worth it */
	cfg.threads = 2;
	return st_aio_open(q, &cfg);
}

static int random_id(uint8_t id[ST_STORE_ID_BYTES])
{
	ssize_t n = getrandom(id, ST_STORE_ID_BYTES, 0);

	return n == (ssize_t)ST_STORE_ID_BYTES ? 0
					       : st_fail(n < 0 ? -errno : -EIO, "random numbers");
}

static void to_hex(const uint8_t *id, char out[HEX_CHARS + 1])
{
	for (size_t i = 0; i < ST_STORE_ID_BYTES; i++)
		snprintf(out + 2 * i, 3, "%02x", id[i]);
}

static bool from_hex(const char *hex, uint8_t *id)
{
	if (strlen(hex) != HEX_CHARS || strspn(hex, "0123456789abcdef") != HEX_CHARS)
		return false;
	for (size_t i = 0; i < ST_STORE_ID_BYTES; i++) {
		char pair[3] = { hex[2 * i], hex[2 * i + 1], '\0' };

		id[i] = (uint8_t)strtoul(pair, NULL, 16);
	}
	return true;
}

static bool is_our_name(const char *name)
{
	uint8_t id[ST_STORE_ID_BYTES];

	return !strncmp(name, DIR_PREFIX, strlen(DIR_PREFIX)) &&
	       from_hex(name + strlen(DIR_PREFIX), id);
}

/* `path` is a directory of the user's choice: it may be a link. An open descriptor, or <0. */
static int open_parent(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd >= 0)
		return fd;
	switch (errno) {
	case ENOENT:
		return st_fail(
			STRATA_E_INPUT,
			"store path %s does not exist: create the directory or name another.",
			path);
	case ENOTDIR:
		return st_fail(STRATA_E_INPUT,
			       "store path %s is not a directory: name a directory.", path);
	case EACCES:
		return st_fail(STRATA_E_INPUT, "store path %s may not be entered by this user.",
			       path);
	default:
		return st_fail(-errno, "store path %s", path);
	}
}

static int lock(int fd, const char *path, int64_t wait_ns)
{
	int64_t end_ns = st_now_ns() + wait_ns;

	while (flock(fd, LOCK_EX | LOCK_NB)) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			return st_fail(-errno, "%s: lock", path);
		if (st_now_ns() >= end_ns)
			return st_fail(
				STRATA_E_BUSY,
				"%s is in use by another process: let it end, or use another "
				"output directory.",
				path);
		nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
	}
	return 0;
}

/* Somebody else's, or open to others: not to be trusted. is_dir says what it must be. */
static int check_ours(int fd, const char *path, bool is_dir)
{
	struct stat st;

	if (fstat(fd, &st))
		return st_fail(-errno, "%s: stat", path);
	if (is_dir ? !S_ISDIR(st.st_mode) : !S_ISREG(st.st_mode) || st.st_nlink > 1)
		return st_fail(STRATA_E_INPUT, "%s is not a plain %s: it is not used.", path,
			       is_dir ? "directory" : "file with one name");
	if (st.st_uid != geteuid())
		return st_fail(STRATA_E_INPUT,
			       "%s belongs to user %u, not to this one: it is not used.", path,
			       (unsigned)st.st_uid);
	if (st.st_mode & 077)
		return st_fail(
			STRATA_E_INPUT,
			"%s is open to other users (mode %03o): close it (chmod go=) if the data "
			"are still yours.",
			path, (unsigned)(st.st_mode & 0777));
	return 0;
}

/* ---- direct I/O --------------------------------------------------------------------------------
 */

/* NULL when direct I/O in blocks of 4096 works, else why not. Asked first, then tried by a read. */
static const char *try_direct(int fd)
{
	int flags = fcntl(fd, F_GETFL);
	const char *why = NULL;
	void *block;
	ssize_t got;

#ifdef STATX_DIOALIGN
	struct statx sx;

	if (!statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) && (sx.stx_mask & STATX_DIOALIGN)) {
		if (!sx.stx_dio_offset_align)
			return "the file system has none";
		if (sx.stx_dio_offset_align > ST_STORE_BLOCK ||
		    sx.stx_dio_mem_align > ST_STORE_BLOCK)
			return "the device needs blocks larger than 4096 bytes";
	}
#endif
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_DIRECT))
		return "the file system refuses O_DIRECT";
	block = aligned_alloc(ST_STORE_BLOCK, ST_STORE_BLOCK);
	if (!block)
		why = "out of memory";
	got = block ? pread(fd, block, ST_STORE_BLOCK, 0) : 0;
	if (block && got != (ssize_t)ST_STORE_BLOCK)
		why = "a direct read of 4096 bytes failed";
	free(block);
	if (why && fcntl(fd, F_SETFL, flags))
		why = "the file system refuses O_DIRECT";
	return why;
}

static void set_direct(const struct st_store_file *f)
{
	const char *why = try_direct(f->fd);

	if (why)
		st_log_once(ST_LOG_WARN,
			    "%s: no direct I/O here (%s): buffered I/O is used, slower and through "
			    "the page cache",
			    f->path, why);
}

/* ---- space -------------------------------------------------------------------------------------
 */

static int no_space(const struct st_store_file *f, uint64_t need, uint64_t have)
{
	return st_fail(
		STRATA_E_NO_FIT,
		"%s: the store needs %llu bytes (%.2f GiB) on this file system, %llu (%.2f GiB) "
		"are free: free %.2f GiB, or add a path.",
		f->path, (unsigned long long)need, (double)need / GIB, (unsigned long long)have,
		(double)have / GIB, (double)(need > have ? need - have : 0) / GIB);
}

/* Paths may share a file system: their needs add up. */
static int check_space(const struct st_store *s)
{
	for (unsigned p = 0; p < s->n_files; p++) {
		struct stat st, other;
		struct statvfs vfs;
		uint64_t need = 0, have;

		if (fstat(s->files[p].parent_fd, &st) || fstatvfs(s->files[p].parent_fd, &vfs))
			return st_fail(-errno, "%s: free space", s->files[p].path);
		for (unsigned k = 0; k < s->n_files; k++)
			if (!fstat(s->files[k].parent_fd, &other) && other.st_dev == st.st_dev)
				need += s->files[k].file_bytes;
		have = (uint64_t)vfs.f_bavail * vfs.f_frsize;
		/* A file system in memory may know no limit and say 0 of 0. */
		if (vfs.f_blocks && need > have)
			return no_space(&s->files[p], need, have);
	}
	return 0;
}

static int preallocate(const struct st_store_file *f)
{
	struct statvfs vfs;
	int rc;

	do
		rc = fallocate(f->fd, 0, 0, (off_t)f->file_bytes) ? -errno : 0;
	while (rc == -EINTR);
	if (rc == -ENOSPC && !fstatvfs(f->fd, &vfs))
		return no_space(f, f->file_bytes, (uint64_t)vfs.f_bavail * vfs.f_frsize);
	if (rc == -EOPNOTSUPP) {
		st_log_once(
			ST_LOG_WARN,
			"%s: the file system cannot preallocate: if it fills up, a step will fail",
			f->path);
		rc = ftruncate(f->fd, (off_t)f->file_bytes) ? -errno : 0;
	}
	return rc ? st_fail(rc, "%s: preallocate %llu bytes", f->path,
			    (unsigned long long)f->file_bytes)
		  : 0;
}

/* ---- create ------------------------------------------------------------------------------------
 */

static int set_names(struct st_store *s, unsigned p, const char *parent)
{
	struct st_store_file *f = &s->files[p];
	uint8_t id[ST_STORE_ID_BYTES];
	char hex[HEX_CHARS + 1], *real;
	int rc = random_id(id), n;

	if (rc)
		return rc;
	f->parent_fd = open_parent(parent);
	if (f->parent_fd < 0)
		return f->parent_fd;
	to_hex(id, hex);
	snprintf(f->name, sizeof(f->name), DIR_PREFIX "%s", hex);
	real = realpath(parent, NULL);
	if (!real)
		return st_fail(-errno, "store path %s", parent);
	n = asprintf(&f->path, "%s/%s/" DATA_NAME, real, f->name);
	free(real);
	if (n < 0) {
		f->path = NULL;
		return st_fail(-ENOMEM, "store path %s", parent);
	}
	return 0;
}

/*
 * The new directory, locked. Until it is, a reclaim would take it for an abandoned one; so both
 * hold a lock on the parent meanwhile. Who cannot get it within a second goes on without: the lock
 * is open to everybody, and nobody shall be able to stop us with it.
 */
static int make_dir(struct st_store_file *f, const char *parent)
{
	int rc;

	for (int i = 0; i < 100 && flock(f->parent_fd, LOCK_SH | LOCK_NB); i++)
		nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
	if (mkdirat(f->parent_fd, f->name, 0700)) {
		f->name[0] = '\0'; /* not ours to remove */
		if (errno == EACCES || errno == EPERM || errno == EROFS || errno == ENOENT)
			return st_fail(STRATA_E_INPUT,
				       "store path %s is not writable (%s): name another or change "
				       "its permissions.",
				       parent, strata_strerror(-errno));
		return st_fail(-errno, "store path %s: make a directory", parent);
	}
	f->dir_fd = openat(f->parent_fd, f->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (f->dir_fd < 0 || fchmod(f->dir_fd, 0700))
		return st_fail(-errno, "%s: open the new directory", f->path);
	rc = lock(f->dir_fd, f->path, 0);
	flock(f->parent_fd, LOCK_UN);
	return rc ? rc : check_ours(f->dir_fd, f->path, true);
}

static int make_files(struct st_store_file *f, const char *parent)
{
	int rc = make_dir(f, parent);

	if (rc)
		return rc;
	f->fd = openat(f->dir_fd, DATA_NAME, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
		       0600);
	if (f->fd < 0 || fchmod(f->fd, 0600))
		return st_fail(-errno, "%s: make the file", f->path);
	rc = lock(f->fd, f->path, 0);
	if (!rc)
		rc = preallocate(f);
	if (rc)
		return rc;
	set_direct(f);
	return 0;
}

static int sync_dirs(const struct st_store *s)
{
	for (unsigned p = 0; p < s->n_files; p++) {
		const struct st_store_file *f = &s->files[p];

		if (fsync(f->fd) || fsync(f->dir_fd) || fsync(f->parent_fd))
			return st_fail(-errno, "%s: sync the new directory", f->path);
	}
	return 0;
}

/* The text of run.json, owned by the caller. */
static int make_json(const struct st_store *s, char **out)
{
	json_t *root = json_object(), *paths = json_array();
	char hex[HEX_CHARS + 1];
	int rc = 0;

	to_hex(s->id, hex);
	if (json_object_set_new(root, "id", json_string(hex)))
		rc = -ENOMEM;
	for (unsigned p = 0; !rc && p < s->n_files; p++) {
		const char *path = s->files[p].path;
		json_t *str = json_stringn(path, strlen(path) - strlen("/" DATA_NAME));

		if (!str)
			rc = st_fail(STRATA_E_INPUT,
				     "store path %s is not UTF-8: use another name.", path);
		else if (json_array_append_new(paths, str))
			rc = -ENOMEM;
	}
	if (!rc && json_object_set(root, "paths", paths))
		rc = -ENOMEM;
	*out = rc ? NULL : json_dumps(root, 0);
	if (!rc && !*out)
		rc = -ENOMEM;
	json_decref(paths);
	json_decref(root);
	return rc == -ENOMEM ? st_fail(rc, "store: run.json") : rc;
}

/* Runs that were killed before their first commit took room on these drives. */
static void reclaim_all(const struct st_store_cfg *cfg)
{
	for (unsigned p = 0; p < cfg->n_paths; p++) {
		int n = st_store_reclaim(cfg->paths[p]);

		if (n > 0) /* a path that cannot even be listed may still serve */
			st_log(ST_LOG_INFO, "%s: removed what %d killed start%s left there",
			       cfg->paths[p], n, n > 1 ? "s" : "");
	}
}

static int fill_new(struct st_store *s, const struct st_store_cfg *cfg)
{
	struct st_aio_queue *q;
	int rc;

	reclaim_all(cfg);
	rc = check_space(s);

	for (unsigned p = 0; !rc && p < s->n_files; p++)
		rc = make_files(&s->files[p], cfg->paths[p]);
	if (rc)
		return rc;
	rc = open_queue(&q);
	if (rc)
		return rc;
	rc = st_store_format(s, run_queue, q);
	st_aio_close(q);
	return rc ? rc : sync_dirs(s);
}

int st_store_create(struct st_store **out, const struct st_store_cfg *cfg, char *run_json,
		    size_t run_json_bytes)
{
	uint32_t equal[ST_STORE_PATHS_MAX];
	uint8_t id[ST_STORE_ID_BYTES];
	struct st_store *s = NULL;
	struct st_error e;
	char *json = NULL;
	int rc;

	if (!out || !cfg || !cfg->paths || !run_json)
		return st_fail(-EINVAL, "store: create without paths or room for run.json.");
	for (unsigned p = 0; p < ST_STORE_PATHS_MAX; p++)
		equal[p] = 1;
	rc = random_id(id);
	if (!rc)
		rc = st_store_layout(&s, cfg, cfg->n_paths, cfg->weights ? cfg->weights : equal,
				     id);
	if (rc)
		return rc;
	for (unsigned p = 0; !rc && p < s->n_files; p++)
		rc = set_names(s, p, cfg->paths[p]);
	if (!rc)
		rc = make_json(s, &json);
	if (!rc && strlen(json) >= run_json_bytes)
		rc = st_fail(-EINVAL, "store: run.json needs %zu bytes, there is room for %zu.",
			     strlen(json) + 1, run_json_bytes);
	if (!rc)
		rc = fill_new(s, cfg);
	if (rc) {
		st_error_take(&e, rc);
		free(json);
		st_store_close(s, true);
		return st_error_raise(&e);
	}
	memcpy(run_json, json, strlen(json) + 1);
	free(json);
	*out = s;
	return 0;
}

/* ---- open --------------------------------------------------------------------------------------
 */

/* Splits dir ("PARENT/strata-...") and opens directory and file, locked. Writes nothing. */
static int open_files(struct st_store_file *f, const char *dir)
{
	const char *slash = strrchr(dir, '/');
	char *parent = NULL;
	int rc = 0;

	if (!slash || slash == dir || !is_our_name(slash + 1))
		return st_fail(STRATA_E_INPUT, "run.json: '%s' is not a store's directory.", dir);
	snprintf(f->name, sizeof(f->name), "%s", slash + 1);
	parent = strndup(dir, (size_t)(slash - dir));
	if (!parent || asprintf(&f->path, "%s/" DATA_NAME, dir) < 0) {
		f->path = NULL;
		free(parent);
		return st_fail(-ENOMEM, "store directory %s", dir);
	}
	f->parent_fd = open_parent(parent);
	free(parent);
	if (f->parent_fd < 0)
		return f->parent_fd;
	f->dir_fd = openat(f->parent_fd, f->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (f->dir_fd < 0)
		return st_fail(errno == ENOENT ? STRATA_E_INPUT : -errno,
			       "store directory %s cannot be opened: is its disk mounted?", dir);
	rc = check_ours(f->dir_fd, dir, true);
	if (!rc)
		rc = lock(f->dir_fd, dir, 0);
	if (rc)
		return rc;
	/* O_NONBLOCK: a pipe planted here must not hang the run. It does nothing to a file. */
	f->fd = openat(f->dir_fd, DATA_NAME, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (f->fd < 0)
		return st_fail(-errno, "%s: open", f->path);
	rc = check_ours(f->fd, f->path, false);
	if (!rc && fcntl(f->fd, F_SETFL, fcntl(f->fd, F_GETFL) & ~O_NONBLOCK))
		rc = st_fail(-errno, "%s: open", f->path);
	if (!rc)
		rc = lock(f->fd, f->path, LOCK_WAIT_NS);
	return rc;
}

static int read_json(const char *text, uint8_t *id, json_t **root, json_t **paths)
{
	json_error_t err;
	const char *hex;

	*root = text ? json_loads(text, JSON_REJECT_DUPLICATES, &err) : NULL;
	if (!*root)
		return st_fail(STRATA_E_INPUT, "run.json: line %d: %s.", text ? err.line : 0,
			       text ? err.text : "no text");
	hex = json_string_value(json_object_get(*root, "id"));
	*paths = json_object_get(*root, "paths");
	if (!hex || !from_hex(hex, id))
		return st_fail(STRATA_E_INPUT, "run.json: \"id\" is not a store's id.");
	if (!json_is_array(*paths) || json_array_size(*paths) < 1 ||
	    json_array_size(*paths) > ST_STORE_PATHS_MAX)
		return st_fail(STRATA_E_INPUT, "run.json: \"paths\" is not a list of 1 to %u.",
			       ST_STORE_PATHS_MAX);
	for (size_t p = 0; p < json_array_size(*paths); p++)
		if (!json_is_string(json_array_get(*paths, p)))
			return st_fail(STRATA_E_INPUT, "run.json: path %zu is not a string.", p);
	return 0;
}

/*
 * Nothing is in flight here, so the lock is given up by name: a ring frees a flush that it has long
 * reported only when it is entered again, and until then holds the file open, and a lock with it.
 */
static void close_files(struct st_store_file *f)
{
	if (f->fd >= 0) {
		flock(f->fd, LOCK_UN);
		close(f->fd);
	}
	if (f->dir_fd >= 0)
		close(f->dir_fd);
	if (f->parent_fd >= 0)
		close(f->parent_fd);
	f->fd = f->dir_fd = f->parent_fd = -1;
}

/* Of the first path: the weights that the map was made with. Of each: is the file whole? */
static int read_super(const struct st_store_file *f, unsigned n_paths, uint32_t *weights)
{
	struct st_store_super *b = aligned_alloc(ST_STORE_BLOCK, sizeof(*b));
	ssize_t got = b ? pread(f->fd, b, sizeof(*b), 0) : 0;
	struct stat st;
	int rc = 0;

	if (!b)
		rc = st_fail(-ENOMEM, "%s: superblock", f->path);
	else if (got < 0 || fstat(f->fd, &st))
		rc = st_fail(-errno, "%s: read the superblock", f->path);
	else if (got != (ssize_t)sizeof(*b) || !st_store_super_is_valid(b))
		rc = st_fail(STRATA_E_CORRUPT, "%s: the superblock is damaged, or not of a store.",
			     f->path);
	else if ((uint64_t)st.st_size < b->file_bytes)
		rc = st_fail(STRATA_E_CORRUPT, "%s is truncated: it has %llu bytes of %llu.",
			     f->path, (unsigned long long)st.st_size,
			     (unsigned long long)b->file_bytes);
	else if (b->n_paths != n_paths)
		rc = st_fail(STRATA_E_CORRUPT, "%s: the store has %u paths, run.json names %u.",
			     f->path, b->n_paths, n_paths);
	else
		memcpy(weights, b->weights, n_paths * sizeof(weights[0]));
	free(b);
	return rc;
}

static int recover(struct st_store *s)
{
	struct st_aio_queue *q;
	int rc = open_queue(&q);

	if (rc)
		return rc;
	rc = st_store_recover(s, run_queue, q);
	st_aio_close(q);
	return rc;
}

/* Hands the opened files over to the store, which is laid out only when the weights are known. */
static int open_store(struct st_store **out, const struct st_store_cfg *cfg, const uint8_t *id,
		      struct st_store_file *files, unsigned n_paths)
{
	uint32_t weights[ST_STORE_PATHS_MAX];
	struct st_store *s = NULL;
	int rc = 0;

	for (unsigned p = n_paths; !rc && p > 0; p--)
		rc = read_super(&files[p - 1], n_paths, weights);
	if (!rc)
		rc = st_store_layout(&s, cfg, n_paths, weights, id);
	if (rc)
		return rc;
	for (unsigned p = 0; p < n_paths; p++) {
		struct st_store_file *f = &s->files[p];

		f->fd = files[p].fd;
		f->dir_fd = files[p].dir_fd;
		f->parent_fd = files[p].parent_fd;
		f->path = files[p].path;
		memcpy(f->name, files[p].name, sizeof(f->name));
		files[p].fd = files[p].dir_fd = files[p].parent_fd = -1;
		files[p].path = NULL;
		set_direct(f);
	}
	*out = s;
	return 0;
}

int st_store_open(struct st_store **out, const struct st_store_cfg *cfg, const char *run_json)
{
	struct st_store_file files[ST_STORE_PATHS_MAX] = { 0 };
	json_t *root = NULL, *paths = NULL;
	uint8_t id[ST_STORE_ID_BYTES];
	struct st_store *s = NULL;
	struct st_error e;
	unsigned n = 0;
	int rc;

	if (!out || !cfg)
		return st_fail(-EINVAL, "store: open without a configuration.");
	for (unsigned p = 0; p < ST_STORE_PATHS_MAX; p++)
		files[p].fd = files[p].dir_fd = files[p].parent_fd = -1;
	rc = read_json(run_json, id, &root, &paths);
	if (!rc)
		n = (unsigned)json_array_size(paths);
	for (unsigned p = 0; !rc && p < n; p++)
		rc = open_files(&files[p], json_string_value(json_array_get(paths, p)));
	if (!rc)
		rc = open_store(&s, cfg, id, files, n);
	if (!rc)
		rc = recover(s);
	json_decref(root);
	for (unsigned p = 0; p < ST_STORE_PATHS_MAX; p++) {
		close_files(&files[p]);
		free(files[p].path);
	}
	if (rc) {
		st_error_take(&e, rc);
		st_store_close(s, false);
		return st_error_raise(&e);
	}
	*out = s;
	return 0;
}

/* ---- close and reclaim -------------------------------------------------------------------------
 */

static void remove_files(struct st_store_file *f)
{
	int rc = 0;

	if (f->dir_fd >= 0 && unlinkat(f->dir_fd, DATA_NAME, 0) && errno != ENOENT)
		rc = -errno;
	if (!rc && f->parent_fd >= 0 && f->name[0] &&
	    unlinkat(f->parent_fd, f->name, AT_REMOVEDIR) && errno != ENOENT)
		rc = -errno;
	if (rc)
		st_log(ST_LOG_WARN, "%s could not be removed: %s", f->path ? f->path : f->name,
		       strata_strerror(rc));
}

void st_store_close(struct st_store *s, bool remove)
{
	if (!s)
		return;
	for (unsigned p = 0; p < s->n_files; p++) {
		if (remove)
			remove_files(&s->files[p]);
		close_files(&s->files[p]);
	}
	st_store_free(s);
}

static bool is_zero(const struct st_store_root *r)
{
	const unsigned char *b = (const unsigned char *)r;

	return !b[0] && !memcmp(b, b + 1, sizeof(*r) - 1);
}

/*
 * Only where no root was ever written, or that of generation 0, which names nothing, did the first
 * commit never come. Any doubt, a damaged root (another path may hold it whole) or an error of
 * reading, counts as a state: nothing is removed that might be needed.
 */
static bool may_hold_state(int fd)
{
	static const uint64_t at[] = { ST_STORE_ROOT_A, ST_STORE_ROOT_B };
	struct st_store_root *r = aligned_alloc(ST_STORE_BLOCK, sizeof(*r));
	bool may = !r;

	for (size_t i = 0; !may && i < ST_ARRAY_LEN(at); i++) {
		ssize_t n = pread(fd, r, sizeof(*r), (off_t)at[i]);

		may = n < 0 || (n == (ssize_t)sizeof(*r) && !is_zero(r) &&
				(!st_store_root_is_valid(r) || r->generation > 0));
	}
	free(r);
	return may;
}

/* 1 removed, 0 left alone. */
static int reclaim_one(int parent_fd, const char *name)
{
	struct st_store_file f = { .fd = -1, .dir_fd = -1, .parent_fd = -1 };
	bool is_removed = false;

	f.dir_fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (f.dir_fd < 0 || check_ours(f.dir_fd, name, true) || flock(f.dir_fd, LOCK_EX | LOCK_NB))
		goto out;
	f.fd = openat(f.dir_fd, DATA_NAME, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (f.fd < 0 && errno != ENOENT)
		goto out;
	if (f.fd >= 0 && (check_ours(f.fd, name, false) || flock(f.fd, LOCK_EX | LOCK_NB) ||
			  may_hold_state(f.fd) || unlinkat(f.dir_fd, DATA_NAME, 0)))
		goto out;
	is_removed = !unlinkat(parent_fd, name, AT_REMOVEDIR);

out:
	close_files(&f);
	return is_removed;
}

int st_store_reclaim(const char *path)
{
	int fd = open_parent(path), removed = 0;
	struct dirent *d;
	DIR *dir;

	if (fd < 0)
		return fd;
	dir = fdopendir(fd);
	if (!dir) {
		removed = st_fail(-errno, "store path %s: list", path);
		close(fd);
		return removed;
	}
	/* Not beside a create, see make_dir(). */
	while (!flock(fd, LOCK_EX | LOCK_NB) && (d = readdir(dir)))
		if (is_our_name(d->d_name))
			removed += reclaim_one(fd, d->d_name);
	closedir(dir);
	return removed;
}
