/* SPDX-License-Identifier: Apache-2.0 */
/* nvme/dir.c - directories, files and locks of a store: create, open, close. */
#include "nvme/dir.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "core/clock.h"
#include "core/log.h"

#define DIR_PREFIX   "strata-"
#define LOCK_WAIT_NS 5000000000 /* for a dead process' last I/O, or a reclaim's */
#define IN_USE_BYTES sizeof(((struct st_store *)0)->in_use)

_Static_assert(sizeof(DIR_PREFIX) + ST_DIR_HEX_CHARS == ST_STORE_NAME_BYTES, "directory names fit");

/* ---- small things ---------------------------------------------------------------------------- */

/*
 * A run that returns before all its requests have come back has a queue that no longer works. The
 * requests and their buffers are the callers', on their stacks and heaps, so the queue is closed
 * here, where they still exist. What it cannot wait for stays with the kernel.
 */
static int run_queue(void *user, struct st_aio_req *reqs, unsigned n)
{
	struct st_dir_io *io = user;
	int rc;

	if (!io->q)
		return st_error_raise(&io->failed);
	rc = st_aio_run(io->q, reqs, n);
	if (!rc)
		return 0;
	st_error_take(&io->failed, rc);
	if (st_aio_run(io->q, NULL, 0)) { /* it is not idle */
		io->run.has_lost = st_aio_close(io->q) != 0;
		io->q = NULL;
	}
	return st_error_raise(&io->failed);
}

int st_dir_io_open(struct st_dir_io *io)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;

	cfg.backend = "threads"; /* large transfers, and few: no ring is worth it */
	cfg.threads = 4;
	*io = (struct st_dir_io){ .run = { run_queue, io, false } };
	return st_aio_open(&io->q, &cfg);
}

int st_dir_io_close(struct st_dir_io *io, struct st_store *s, int rc)
{
	struct st_error e;
	int closed;

	st_error_take(&e, rc);
	closed = st_aio_close(io->q);
	io->run.has_lost |= closed != 0;
	io->q = NULL;
	if (s)
		s->is_lost |= io->run.has_lost;
	return rc ? st_error_raise(&e) : closed;
}

int st_dir_random_id(uint8_t id[ST_STORE_ID_BYTES])
{
	ssize_t n = getrandom(id, ST_STORE_ID_BYTES, 0);

	return n == (ssize_t)ST_STORE_ID_BYTES ? 0
					       : st_fail(n < 0 ? -errno : -EIO, "random numbers");
}

static void to_hex(const uint8_t *id, char out[ST_DIR_HEX_CHARS + 1])
{
	for (size_t i = 0; i < ST_STORE_ID_BYTES; i++)
		snprintf(out + 2 * i, 3, "%02x", id[i]);
}

static bool from_hex(const char *hex, uint8_t *id)
{
	if (strlen(hex) != ST_DIR_HEX_CHARS || strspn(hex, "0123456789abcdef") != ST_DIR_HEX_CHARS)
		return false;
	for (size_t i = 0; i < ST_STORE_ID_BYTES; i++) {
		char pair[3] = { hex[2 * i], hex[2 * i + 1], '\0' };

		id[i] = (uint8_t)strtoul(pair, NULL, 16);
	}
	return true;
}

bool st_dir_is_our_name(const char *name)
{
	uint8_t id[ST_STORE_ID_BYTES];

	return !strncmp(name, DIR_PREFIX, strlen(DIR_PREFIX)) &&
	       from_hex(name + strlen(DIR_PREFIX), id);
}

int st_dir_open_parent(const char *path)
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

struct st_dir_place st_dir_place(const struct st_store_file *f)
{
	size_t tail = f->name[0] ? strlen("/") + strlen(f->name) + strlen("/" ST_DIR_DATA) : 0;
	size_t len = strlen(f->path);
	struct st_dir_place p;

	if (tail < len)
		snprintf(p.text, sizeof(p.text), "%.*s", (int)(len - tail), f->path);
	else
		snprintf(p.text, sizeof(p.text), "/");
	return p;
}

int st_dir_fail_read_only(const struct st_store_file *f)
{
	return st_fail(STRATA_E_INPUT,
		       "%s: the file system is mounted read-only: a run writes to it; remount it "
		       "(mount -o remount,rw), or name another directory",
		       st_dir_place(f).text);
}

/* ---- locks ----------------------------------------------------------------------------------- */

/* Name of a process, of printable characters only. */
static void process_name(long pid, char *out, size_t bytes)
{
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%ld/comm", pid);
	out[0] = '\0';
	f = fopen(path, "re");
	if (!f)
		return;
	if (!fgets(out, (int)bytes, f))
		out[0] = '\0';
	fclose(f);
	out[strcspn(out, "\n")] = '\0';
	for (char *c = out; *c; c++)
		if (!isprint((unsigned char)*c))
			*c = '?';
}

/* Who holds a lock on fd's file, as the kernel lists it. */
static void find_holder(int fd, char *out, size_t bytes)
{
	char line[256], name[32];
	struct stat st;
	FILE *f = fopen("/proc/locks", "re");
	bool is_found = false;

	snprintf(out, bytes, "another process");
	while (f && !is_found && !fstat(fd, &st) && fgets(line, sizeof(line), f)) {
		unsigned long ino;
		unsigned maj, min;
		long pid;

		/* "1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF" */
		if (sscanf(line, "%*d: FLOCK %*s %*s %ld %x:%x:%lu", &pid, &maj, &min, &ino) != 4 ||
		    pid <= 0 || maj != major(st.st_dev) || min != minor(st.st_dev) ||
		    ino != (unsigned long)st.st_ino)
			continue;
		is_found = true;
		process_name(pid, name, sizeof(name));
		snprintf(out, bytes, name[0] ? "process %ld (%s)" : "process %ld", pid, name);
	}
	if (f)
		fclose(f);
}

static int lock(int fd, int kind, const char *path, int64_t wait_ns)
{
	int64_t end_ns = st_now_ns() + wait_ns;
	char holder[IN_USE_BYTES];

	while (flock(fd, kind | LOCK_NB)) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			return st_fail(-errno, "%s: lock", path);
		if (st_now_ns() >= end_ns) {
			find_holder(fd, holder, sizeof(holder));
			return st_fail(STRATA_E_BUSY,
				       "%s is in use by %s: let it end, or use another output "
				       "directory.",
				       path, holder);
		}
		nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
	}
	return 0;
}

int st_dir_check_ours(int fd, const char *path, bool is_dir)
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

/* ---- make ------------------------------------------------------------------------------------ */

/* A name in the directory `real`, which is open as f->parent_fd. */
static int choose_name(struct st_store_file *f, const char *real, size_t real_len)
{
	uint8_t id[ST_STORE_ID_BYTES];
	char hex[ST_DIR_HEX_CHARS + 1];
	int rc = st_dir_random_id(id);

	if (rc)
		return rc;
	to_hex(id, hex);
	snprintf(f->name, sizeof(f->name), DIR_PREFIX "%s", hex);
	if (asprintf(&f->path, "%.*s/%s/" ST_DIR_DATA, (int)real_len, real, f->name) < 0) {
		f->path = NULL;
		return st_fail(-ENOMEM, "store path %s", real);
	}
	return 0;
}

int st_dir_name(struct st_store_file *f, const char *parent)
{
	char *real;
	int rc;

	f->parent_fd = st_dir_open_parent(parent);
	if (f->parent_fd < 0)
		return f->parent_fd;
	real = realpath(parent, NULL);
	if (!real)
		return st_fail(-errno, "store path %s", parent);
	rc = choose_name(f, real, strlen(real));
	free(real);
	return rc;
}

int st_dir_name_beside(struct st_store_file *f, const struct st_store_file *other)
{
	size_t tail = strlen("/") + strlen(other->name) + strlen("/" ST_DIR_DATA);

	/* Opened, not duplicated: a lock on the parent must not be shared with the other's. */
	f->parent_fd = openat(other->parent_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (f->parent_fd < 0)
		return st_fail(-errno, "%s: open its directory's parent", other->path);
	return choose_name(f, other->path, strlen(other->path) - tail);
}

/*
 * The directory just made, opened: mode 0700 whatever the umask left. It may have been replaced by
 * who can write to the parent; so it is looked at before it is touched.
 */
static int open_made(struct st_store_file *f)
{
	char self[64];
	struct stat st;
	int fd, rc = 0;

	fd = openat(f->parent_fd, f->name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return st_fail(-errno, "%s: open the new directory", f->path);
	rc = st_dir_check_ours(fd, f->path, true);
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	if (!rc && (fstat(fd, &st) ||
		    ((st.st_mode & 07777) != 0700 && chmod(self, 0700)))) /* no fchmod on O_PATH */
		rc = st_fail(-errno, "%s: set the mode of the new directory", f->path);
	if (!rc)
		f->dir_fd = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (!rc && f->dir_fd < 0)
		rc = st_fail(-errno, "%s: open the new directory", f->path);
	close(fd);
	return rc;
}

/*
 * Keeps clearing away off the parent: to a reclaim a directory without a lock looks abandoned, and
 * its own lock, held while it looks, would make a directory look used. Who cannot get it goes on
 * without: the lock is open to everybody, and nobody shall be able to stop us with it.
 */
static void hold_parent(const struct st_store_file *f)
{
	int64_t end_ns = st_now_ns() + LOCK_WAIT_NS;

	while (flock(f->parent_fd, LOCK_SH | LOCK_NB) && st_now_ns() < end_ns)
		nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
}

static void release_parent(const struct st_store_file *f)
{
	flock(f->parent_fd, LOCK_UN);
}

static int fail_to_make(const struct st_store_file *f, int err)
{
	const struct st_dir_place at = st_dir_place(f);

	switch (err) {
	case EROFS:
		return st_dir_fail_read_only(f);
	case EACCES:
	case EPERM:
	case ENOENT:
		return st_fail(STRATA_E_INPUT,
			       "store path %s is not writable (%s): name another or change its "
			       "permissions.",
			       at.text, strata_strerror(-err));
	case ENOSPC:
	case EDQUOT:
		return st_fail(STRATA_E_NO_FIT,
			       "%s: not even a directory can be made (%s): free space.", at.text,
			       strata_strerror(-err));
	default:
		return st_fail(-err, "%s: make a directory", at.text);
	}
}

/* The new directory, locked. */
static int make_dir(struct st_store_file *f)
{
	int rc;

	hold_parent(f);
	if (mkdirat(f->parent_fd, f->name, 0700)) {
		rc = fail_to_make(f, errno);
		f->name[0] = '\0'; /* not ours to remove */
		return rc;
	}
	rc = open_made(f);
	if (!rc)
		rc = lock(f->dir_fd, LOCK_EX, f->path, 0);
	release_parent(f);
	return rc;
}

int st_dir_make(struct st_store_file *f)
{
	int rc = make_dir(f);

	if (rc)
		return rc;
	f->fd = openat(f->dir_fd, ST_DIR_DATA, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
		       0600);
	if (f->fd < 0 || fchmod(f->fd, 0600))
		return st_fail(-errno, "%s: make the file", f->path);
	rc = st_dir_check_ours(f->fd, f->path, false);
	if (!rc)
		rc = lock(f->fd, LOCK_EX, f->path, 0);
	if (!rc)
		st_place_prepare(f);
	return rc;
}

int st_dir_sync(const struct st_store_file *f)
{
	if (fsync(f->fd) || fsync(f->dir_fd) || fsync(f->parent_fd))
		return st_fail(-errno, "%s: sync the new directory", f->path);
	return 0;
}

int st_dir_remove(struct st_store_file *f)
{
	if (f->dir_fd >= 0 && unlinkat(f->dir_fd, ST_DIR_DATA, 0) && errno != ENOENT)
		return st_fail(-errno, "%s: remove", f->path ? f->path : f->name);
	if (f->parent_fd >= 0 && f->name[0] && unlinkat(f->parent_fd, f->name, AT_REMOVEDIR) &&
	    errno != ENOENT)
		return st_fail(-errno, "%s: remove its directory", f->path ? f->path : f->name);
	return 0;
}

/*
 * Nothing is in flight here, so the lock is given up by name: a ring frees a flush that it has long
 * reported only when it is entered again, and until then holds the file open, and a lock with it.
 */
void st_dir_close(struct st_store_file *f)
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

/* ---- run.json -------------------------------------------------------------------------------- */

int st_dir_format(char **out, const uint8_t *id, char *const *data_paths, unsigned n)
{
	json_t *root = json_object(), *paths = json_array();
	char hex[ST_DIR_HEX_CHARS + 1];
	int rc = 0;

	to_hex(id, hex);
	if (json_object_set_new(root, "id", json_string(hex)))
		rc = -ENOMEM;
	for (unsigned p = 0; !rc && p < n; p++) {
		const char *path = data_paths[p];
		json_t *str = json_stringn(path, strlen(path) - strlen("/" ST_DIR_DATA));

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

void st_dir_names_free(struct st_dir_names *n)
{
	for (unsigned p = 0; p < ST_STORE_PATHS_MAX; p++)
		free(n->dirs[p]);
	memset(n, 0, sizeof(*n));
}

static int take_dirs(struct st_dir_names *out, const json_t *paths)
{
	if (!json_is_array(paths) || json_array_size(paths) < 1 ||
	    json_array_size(paths) > ST_STORE_PATHS_MAX)
		return st_fail(STRATA_E_INPUT, "run.json: \"paths\" is not a list of 1 to %u.",
			       ST_STORE_PATHS_MAX);
	for (size_t p = 0; p < json_array_size(paths); p++) {
		const char *dir = json_string_value(json_array_get(paths, p));
		const char *slash = dir ? strrchr(dir, '/') : NULL;

		if (!dir)
			return st_fail(STRATA_E_INPUT, "run.json: path %zu is not a string.", p);
		if (!slash || slash == dir || !st_dir_is_our_name(slash + 1))
			return st_fail(STRATA_E_INPUT,
				       "run.json: '%.200s' is not a store's directory.", dir);
		out->dirs[p] = strdup(dir);
		if (!out->dirs[p])
			return st_fail(-ENOMEM, "run.json");
		out->n++;
	}
	return 0;
}

int st_dir_parse(struct st_dir_names *out, const char *run_json)
{
	json_error_t err;
	json_t *root = run_json ? json_loads(run_json, JSON_REJECT_DUPLICATES, &err) : NULL;
	const char *hex = json_string_value(json_object_get(root, "id"));
	int rc;

	memset(out, 0, sizeof(*out));
	if (!root)
		return st_fail(STRATA_E_INPUT, "run.json: line %d: %s.", run_json ? err.line : 0,
			       run_json ? err.text : "no text");
	if (!hex || !from_hex(hex, out->id))
		rc = st_fail(STRATA_E_INPUT, "run.json: \"id\" is not a store's id.");
	else
		rc = take_dirs(out, json_object_get(root, "paths"));
	json_decref(root);
	if (rc)
		st_dir_names_free(out);
	return rc;
}

/* ---- create ---------------------------------------------------------------------------------- */

/* Runs that were killed before their first commit, or in a copy, took room on this drive. */
static void reclaim(const char *path)
{
	int n = st_store_reclaim(path);

	if (n > 0) /* a path that cannot even be listed may still serve */
		st_log(ST_LOG_INFO, "%s: removed what %d killed start%s left there", path, n,
		       n > 1 ? "s" : "");
}

static int fill_new(struct st_store *s, const struct st_store_cfg *cfg)
{
	uint64_t need[ST_STORE_PATHS_MAX];
	struct st_dir_io io = { 0 };
	int rc;

	for (unsigned p = 0; p < s->n_files; p++) {
		reclaim(cfg->paths[p]);
		need[p] = s->files[p].file_bytes;
	}
	rc = st_place_check_space(s, need);
	for (unsigned p = 0; !rc && p < s->n_files; p++) {
		struct st_store_file *f = &s->files[p];

		rc = st_dir_make(f);
		if (!rc)
			rc = st_place_preallocate(f, 0, f->file_bytes);
		if (!rc)
			rc = st_place_set_direct(f);
	}
	if (!rc)
		rc = st_dir_io_open(&io);
	if (!rc)
		rc = st_store_format(s, 0, NULL, 0, &io.run);
	rc = st_dir_io_close(&io, s, rc);
	for (unsigned p = 0; !rc && p < s->n_files; p++)
		rc = st_dir_sync(&s->files[p]);
	return rc;
}

int st_store_create(struct st_store **out, const struct st_store_cfg *cfg, char *run_json,
		    size_t run_json_bytes)
{
	uint32_t equal[ST_STORE_PATHS_MAX];
	char *data_paths[ST_STORE_PATHS_MAX], *json = NULL;
	uint8_t id[ST_STORE_ID_BYTES];
	struct st_store *s = NULL;
	struct st_error e;
	int rc;

	if (!out || !cfg || !cfg->paths || !run_json)
		return st_fail(-EINVAL, "store: create without paths or room for run.json.");
	for (unsigned p = 0; p < ST_STORE_PATHS_MAX; p++)
		equal[p] = 1;
	rc = st_dir_random_id(id);
	if (!rc)
		rc = st_store_layout(&s, cfg, cfg->n_paths, cfg->weights ? cfg->weights : equal, id,
				     NULL);
	if (rc)
		return rc;
	for (unsigned p = 0; !rc && p < s->n_files; p++) {
		rc = st_dir_name(&s->files[p], cfg->paths[p]);
		data_paths[p] = s->files[p].path;
	}
	if (!rc)
		rc = st_dir_format(&json, id, data_paths, s->n_files);
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

/* ---- open ------------------------------------------------------------------------------------ */

/* Readers may go on beside a writer: then in_use says who it is. */
static int lock_for(int fd, const char *path, enum st_dir_mode mode, int64_t wait_ns, char *in_use)
{
	int rc = lock(fd, mode == ST_DIR_READ ? LOCK_SH : LOCK_EX, path, wait_ns);

	if (rc != STRATA_E_BUSY || mode != ST_DIR_READ)
		return rc;
	find_holder(fd, in_use, IN_USE_BYTES);
	return 0;
}

/* The data file in the open directory. */
static int open_data(struct st_store_file *f, enum st_dir_mode mode, char *in_use)
{
	int flags = mode == ST_DIR_READ ? O_RDONLY : O_RDWR;
	int rc;

	/* O_NONBLOCK: a pipe planted here must not hang the run. It does nothing to a file. */
	f->fd = openat(f->dir_fd, ST_DIR_DATA, flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (f->fd < 0)
		return errno == EROFS ? st_dir_fail_read_only(f)
				      : st_fail(-errno, "%s: open", f->path);
	rc = st_dir_check_ours(f->fd, f->path, false);
	if (!rc && fcntl(f->fd, F_SETFL, fcntl(f->fd, F_GETFL) & ~O_NONBLOCK))
		rc = st_fail(-errno, "%s: open", f->path);
	/* The directory was free, so nobody alive has this: readers wait for a dead one as well. */
	if (!rc && !in_use[0])
		rc = lock_for(f->fd, f->path, mode, LOCK_WAIT_NS, in_use);
	return rc;
}

int st_dir_open(struct st_store_file *f, const char *dir, enum st_dir_mode mode, char *in_use)
{
	const char *slash = strrchr(dir, '/');
	char *parent = strndup(dir, (size_t)(slash - dir));
	int rc;

	snprintf(f->name, sizeof(f->name), "%s", slash + 1);
	if (!parent || asprintf(&f->path, "%s/" ST_DIR_DATA, dir) < 0) {
		f->path = NULL;
		free(parent);
		return st_fail(-ENOMEM, "store directory %s", dir);
	}
	f->parent_fd = st_dir_open_parent(parent);
	free(parent);
	if (f->parent_fd < 0)
		return f->parent_fd;
	f->dir_fd = openat(f->parent_fd, f->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (f->dir_fd < 0)
		return st_fail(errno == ENOENT ? STRATA_E_INPUT : -errno,
			       "store directory %s cannot be opened: is its disk mounted?", dir);
	rc = st_dir_check_ours(f->dir_fd, dir, true);
	if (rc)
		return rc;
	hold_parent(f);
	rc = lock_for(f->dir_fd, dir, mode, 0, in_use);
	release_parent(f);
	return rc ? rc : open_data(f, mode, in_use);
}

int st_dir_read_super(const struct st_store_file *f, const uint8_t *id, struct st_store_super *b)
{
	static const uint64_t at[2] = { 0, ST_STORE_SUPER_B };
	struct st_store_super *copies = aligned_alloc(ST_STORE_BLOCK, 2 * sizeof(*copies));
	const struct st_store_super *good;
	struct stat st;
	int rc = 0;

	if (!copies)
		return st_fail(-ENOMEM, "%s: superblock", f->path);
	memset(copies, 0, 2 * sizeof(*copies));
	for (int i = 0; !rc && i < 2; i++)
		if (pread(f->fd, &copies[i], sizeof(copies[i]), (off_t)at[i]) < 0)
			rc = st_fail(-errno, "%s: read the superblock", f->path);
	good = st_store_pick_super(&copies[0], &copies[1], id);
	if (rc)
		;
	else if (fstat(f->fd, &st))
		rc = st_fail(-errno, "%s: stat", f->path);
	else if (!good)
		rc = st_fail(STRATA_E_CORRUPT,
			     "%s: both superblocks are damaged, or not of a store.", f->path);
	else if (good->version != ST_STORE_VERSION)
		rc = st_fail(STRATA_E_UNSUPPORTED,
			     "%s: format version %u: this program reads version %u.", f->path,
			     good->version, ST_STORE_VERSION);
	else if ((uint64_t)st.st_size < good->file_bytes)
		rc = st_fail(STRATA_E_CORRUPT, "%s is truncated: it has %llu bytes of %llu.",
			     f->path, (unsigned long long)st.st_size,
			     (unsigned long long)good->file_bytes);
	else
		*b = *good;
	free(copies);
	return rc;
}

/* What the first path's superblock says, after a look at all of them. */
static int read_supers(struct st_store_super *b, const struct st_store_file *files,
		       const struct st_dir_names *names)
{
	for (unsigned p = names->n; p > 0; p--) {
		int rc = st_dir_read_super(&files[p - 1], names->id, b);

		if (rc)
			return rc;
		if (memcmp(b->id, names->id, sizeof(b->id)))
			return st_fail(STRATA_E_CORRUPT, "%s: the file belongs to another store.",
				       files[p - 1].path);
		if (b->n_paths != names->n)
			return st_fail(STRATA_E_CORRUPT,
				       "%s: the store has %u paths, run.json names %u.",
				       files[p - 1].path, b->n_paths, names->n);
	}
	return 0;
}

/* The extents as the store itself tells them. The caller frees texts, names and bytes. */
struct told {
	struct st_store_name *texts;
	const char **names;
	uint64_t *bytes;
};

static int read_names(struct told *t, const struct st_store_file *files,
		      const struct st_store_super *b)
{
	size_t len = st_store_names_bytes(b->n_extents);
	bool is_good = false;

	/* Superblocks may be forged: no more memory than the file has bytes. */
	if (!b->n_extents || st_store_names_off(b->n_extents) + len > b->file_bytes)
		return st_fail(STRATA_E_CORRUPT, "%s: a store of %u extents in %llu bytes.",
			       files[0].path, b->n_extents, (unsigned long long)b->file_bytes);
	t->texts = aligned_alloc(ST_STORE_BLOCK, len);
	t->names = calloc(b->n_extents, sizeof(*t->names));
	t->bytes = calloc(b->n_extents, sizeof(*t->bytes));
	if (!t->texts || !t->names || !t->bytes)
		return st_fail(-ENOMEM, "store: names of %u extents", b->n_extents);
	for (unsigned p = 0; !is_good && p < b->n_paths; p++) {
		size_t done = 0;
		ssize_t n = 1;

		for (; done < len && n > 0; done += n > 0 ? (size_t)n : 0)
			n = pread(files[p].fd, (char *)t->texts + done, len - done,
				  (off_t)(st_store_names_off(b->n_extents) + done));
		is_good = done == len && XXH3_64bits(t->texts, len) == b->names_hash;
	}
	if (!is_good)
		return st_fail(STRATA_E_CORRUPT,
			       "%s: the names of extents are damaged on all paths: open the run "
			       "with --resume once, which repairs them.",
			       files[0].path);
	for (uint32_t e = 0; e < b->n_extents; e++) {
		t->texts[e].text[sizeof(t->texts[e].text) - 1] = '\0';
		t->names[e] = t->texts[e].text;
		t->bytes[e] = t->texts[e].bytes;
	}
	return 0;
}

static int layout_as_told(struct st_store **out, const struct st_store_file *files,
			  const struct st_store_super *b)
{
	struct told t = { 0 };
	int rc = read_names(&t, files, b);
	struct st_store_cfg cfg = { .extent_bytes = t.bytes,
				    .n_extents = b->n_extents,
				    .extent_names = t.names,
				    .checksum = true };

	if (!rc)
		rc = st_store_layout(out, &cfg, b->n_paths, b->weights, b->id, b->origin);
	free(t.bytes);
	if (rc) {
		free(t.names);
		free(t.texts);
		return rc;
	}
	(*out)->own_names = t.names;
	(*out)->own_texts = t.texts;
	return 0;
}

/* A file that was put back from a sparse archive, or is a copy, is no promise of room. */
static int fill_holes(const struct st_store_file *f)
{
	struct stat st;

	if (fstat(f->fd, &st))
		return st_fail(-errno, "%s: stat", f->path);
	return (uint64_t)st.st_blocks * 512 >= (uint64_t)st.st_size
		       ? 0
		       : st_place_preallocate(f, 0, (uint64_t)st.st_size);
}

/* Hands the opened files over to the store, which is laid out only when the weights are known. */
static int lay_out(struct st_store **out, const struct st_store_cfg *cfg,
		   const struct st_dir_names *names, struct st_store_file *files,
		   enum st_dir_mode mode)
{
	struct st_store_super b;
	struct st_store *s = NULL;
	int rc = read_supers(&b, files, names);

	if (rc)
		return rc;
	rc = cfg ? st_store_layout(&s, cfg, b.n_paths, b.weights, b.id, b.origin)
		 : layout_as_told(&s, files, &b);
	if (rc)
		return rc;
	for (unsigned p = 0; p < names->n; p++) {
		struct st_store_file *f = &s->files[p];

		f->fd = files[p].fd;
		f->dir_fd = files[p].dir_fd;
		f->parent_fd = files[p].parent_fd;
		f->path = files[p].path;
		memcpy(f->name, files[p].name, sizeof(f->name));
		files[p] = (struct st_store_file)ST_STORE_FILE_NONE;
		if (!rc)
			rc = st_place_set_direct(f);
		if (!rc && mode == ST_DIR_WRITE)
			rc = fill_holes(f);
	}
	if (rc) {
		st_store_close(s, false);
		return rc;
	}
	*out = s;
	return 0;
}

static int recover(struct st_store *s)
{
	struct st_dir_io io;
	int rc = st_dir_io_open(&io);

	if (rc)
		return rc;
	return st_dir_io_close(&io, s, st_store_recover(s, &io.run));
}

/*
 * A resumed run's state stays where it is found, whatever the configuration names now.
 * @param parents  in [n], where the store's directories are
 */
static void say_where(const struct st_store_cfg *cfg, char *const *parents, unsigned n)
{
	char text[512] = "";
	bool is_elsewhere = false;

	if (!cfg->paths || !cfg->n_paths)
		return;
	for (unsigned p = 0; p < n; p++) {
		size_t at = strlen(text);
		struct stat a, b;
		bool is_named = stat(parents[p], &a) != 0;

		for (unsigned i = 0; !is_named && i < cfg->n_paths; i++)
			is_named = stat(cfg->paths[i], &b) == 0 && a.st_dev == b.st_dev &&
				   a.st_ino == b.st_ino;
		is_elsewhere |= !is_named;
		snprintf(text + at, sizeof(text) - at, "%s%s", p ? ", " : "", parents[p]);
	}
	if (is_elsewhere)
		st_log(ST_LOG_WARN,
		       "the state stays where it is: %s; to have it elsewhere, stop the run and "
		       "move "
		       "its directory there",
		       text);
}

int st_dir_open_store(struct st_store **out, const struct st_store_cfg *cfg, const char *run_json,
		      enum st_dir_mode mode)
{
	struct st_store_file files[ST_STORE_PATHS_MAX];
	char in_use[IN_USE_BYTES] = "";
	struct st_dir_names names;
	struct st_store *s = NULL;
	struct st_error e;
	int rc = st_dir_parse(&names, run_json);

	if (rc)
		return rc;
	for (unsigned p = 0; p < ST_STORE_PATHS_MAX; p++)
		files[p] = (struct st_store_file)ST_STORE_FILE_NONE;
	for (unsigned p = 0; !rc && p < names.n; p++)
		rc = st_dir_open(&files[p], names.dirs[p], mode, in_use);
	if (!rc)
		rc = lay_out(&s, cfg, &names, files, mode);
	if (!rc) {
		s->is_readonly = mode == ST_DIR_READ;
		memcpy(s->in_use, in_use, sizeof(in_use));
		rc = recover(s);
	}
	for (unsigned p = 0; !rc && mode == ST_DIR_WRITE && p < names.n; p++) {
		*strrchr(names.dirs[p], '/') = '\0';
		reclaim(names.dirs[p]);
	}
	if (!rc && mode == ST_DIR_WRITE)
		say_where(cfg, names.dirs, names.n);
	st_error_take(&e, rc);
	for (unsigned p = 0; p < ST_STORE_PATHS_MAX; p++) {
		st_dir_close(&files[p]);
		free(files[p].path);
	}
	st_dir_names_free(&names);
	if (rc) {
		st_store_close(s, false);
		return st_error_raise(&e);
	}
	*out = s;
	return 0;
}

int st_store_open(struct st_store **out, const struct st_store_cfg *cfg, const char *run_json)
{
	if (!out || !cfg)
		return st_fail(-EINVAL, "store: open without a configuration.");
	return st_dir_open_store(out, cfg, run_json, ST_DIR_WRITE);
}

int st_store_open_readonly(struct st_store **out, const char *run_json)
{
	if (!out)
		return st_fail(-EINVAL, "store: open without a place for it.");
	return st_dir_open_store(out, NULL, run_json, ST_DIR_READ);
}

void st_store_close(struct st_store *s, bool remove)
{
	if (!s)
		return;
	if (s->is_lost) {
		st_store_lose(s);
		return;
	}
	for (unsigned p = 0; p < s->n_files; p++) {
		int rc = remove ? st_dir_remove(&s->files[p]) : 0;

		if (rc)
			st_log(ST_LOG_WARN, "%s", st_last_error());
		st_dir_close(&s->files[p]);
	}
	st_store_free(s);
}
