/* SPDX-License-Identifier: Apache-2.0 */
/* nvme/list.c - what lies on a path: abandoned starts, copies of a store; and removal. */
#include "nvme/dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/log.h"

/* ---- reclaim --------------------------------------------------------------------------------- */

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

/* 1 removed (with is_dry: would be), 0 left alone. */
static int reclaim_one(int parent_fd, const char *name, bool is_dry)
{
	struct st_store_file f = ST_STORE_FILE_NONE;
	bool is_removed = false;

	f.dir_fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (f.dir_fd < 0 || st_dir_check_ours(f.dir_fd, name, true) ||
	    flock(f.dir_fd, LOCK_EX | LOCK_NB))
		goto out;
	f.fd = openat(f.dir_fd, ST_DIR_DATA, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (f.fd < 0 && errno != ENOENT)
		goto out;
	if (f.fd >= 0 && (st_dir_check_ours(f.fd, name, false) || flock(f.fd, LOCK_EX | LOCK_NB) ||
			  may_hold_state(f.fd)))
		goto out;
	is_removed = is_dry || ((f.fd < 0 || !unlinkat(f.dir_fd, ST_DIR_DATA, 0)) &&
				!unlinkat(parent_fd, name, AT_REMOVEDIR));

out:
	st_dir_close(&f);
	return is_removed;
}

/* What is in a directory, and the descriptor behind it, closed by closedir(). */
static DIR *list(const char *path, int *fd, int *rc)
{
	DIR *d;

	*fd = st_dir_open_parent(path);
	*rc = *fd < 0 ? *fd : 0;
	if (*rc)
		return NULL;
	d = fdopendir(*fd);
	if (!d) {
		*rc = st_fail(-errno, "store path %s: list", path);
		close(*fd);
	}
	return d;
}

static int reclaim(const char *path, bool is_dry, void (*fn)(void *user, const char *name),
		   void *user)
{
	int fd, removed;
	struct dirent *d;
	DIR *dir = list(path, &fd, &removed);

	if (!dir)
		return removed;
	/* Not beside a create or an open, see hold_parent(). */
	while (!flock(fd, LOCK_EX | LOCK_NB) && (d = readdir(dir)))
		if (st_dir_is_our_name(d->d_name) && reclaim_one(fd, d->d_name, is_dry)) {
			removed++;
			if (fn)
				fn(user, d->d_name);
		}
	closedir(dir);
	return removed;
}

int st_store_reclaim(const char *path)
{
	return reclaim(path, false, NULL, NULL);
}

int st_store_abandoned(const char *path, void (*fn)(void *user, const char *name), void *user)
{
	return reclaim(path, true, fn, user);
}

/* ---- copies ---------------------------------------------------------------------------------- */

struct copy {
	uint8_t id[ST_STORE_ID_BYTES];
	unsigned n_parts;
	bool is_begun; /* some part has no root yet, and none has one: a copy that was cut off */
	char *data[ST_STORE_PATHS_MAX];
	char *run_json;
	struct st_store_root_info root;
	uint64_t live_bytes;
	struct st_error error;
};

struct copies {
	const struct st_dir_names *of;
	struct copy *list;
	size_t n;
};

static void free_copies(struct copies *c)
{
	for (size_t i = 0; i < c->n; i++) {
		for (unsigned p = 0; p < ST_STORE_PATHS_MAX; p++)
			free(c->list[i].data[p]);
		free(c->list[i].run_json);
	}
	free(c->list);
}

static struct copy *find_copy(struct copies *c, const uint8_t *id)
{
	struct copy *more;

	for (size_t i = 0; i < c->n; i++)
		if (!memcmp(c->list[i].id, id, ST_STORE_ID_BYTES))
			return &c->list[i];
	more = realloc(c->list, (c->n + 1) * sizeof(*more));
	if (!more)
		return NULL;
	c->list = more;
	more = &c->list[c->n++];
	memset(more, 0, sizeof(*more));
	memcpy(more->id, id, ST_STORE_ID_BYTES);
	more->is_begun = true;
	return more;
}

/* Is the directory `name` part p of a copy of our store? Takes note of it. Never waits. */
static int look_at(struct copies *c, int parent_fd, const char *parent, const char *name,
		   unsigned p)
{
	struct st_store_file f = ST_STORE_FILE_NONE;
	struct st_store_super b;
	struct copy *copy;
	int rc = 0;

	if (asprintf(&f.path, "%s/%s/" ST_DIR_DATA, parent, name) < 0)
		return st_fail(-ENOMEM, "store path %s", parent);
	f.dir_fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (f.dir_fd >= 0 && !st_dir_check_ours(f.dir_fd, name, true))
		f.fd = openat(f.dir_fd, ST_DIR_DATA,
			      O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (f.fd < 0 || st_dir_check_ours(f.fd, f.path, false) ||
	    st_dir_read_super(&f, c->of->id, &b) || b.path_index != p ||
	    memcmp(b.origin, c->of->id, sizeof(b.origin)) || !memcmp(b.id, c->of->id, sizeof(b.id)))
		goto out;
	copy = find_copy(c, b.id);
	if (!copy) {
		rc = st_fail(-ENOMEM, "copies of a store");
	} else if (!copy->data[p]) {
		copy->data[p] = f.path;
		f.path = NULL;
		copy->n_parts++;
		copy->is_begun &= !may_hold_state(f.fd);
	}
out:
	st_dir_close(&f);
	free(f.path);
	return rc;
}

static int scan(struct copies *c, unsigned p)
{
	const char *dir = c->of->dirs[p];
	char *parent = strndup(dir, (size_t)(strrchr(dir, '/') - dir));
	struct dirent *e;
	int fd, rc = 0;
	DIR *d;

	if (!parent)
		return st_fail(-ENOMEM, "store path %s", dir);
	d = list(parent, &fd, &rc);
	while (d && !rc && (e = readdir(d)))
		if (st_dir_is_our_name(e->d_name))
			rc = look_at(c, fd, parent, e->d_name, p);
	if (d)
		closedir(d);
	free(parent);
	return rc;
}

/* What the copy holds, or why nobody can tell. */
static int inspect(struct copies *c, struct copy *copy)
{
	char *parts[ST_STORE_PATHS_MAX];
	struct st_store *s = NULL;
	unsigned n = 0;
	int rc;

	for (unsigned p = 0; p < c->of->n; p++)
		if (copy->data[p])
			parts[n++] = copy->data[p];
	rc = st_dir_format(&copy->run_json, copy->id, parts, n);
	if (rc)
		return rc;
	rc = n < c->of->n ? st_fail(STRATA_E_INPUT,
				    "%s: %u of the copy's %u parts are not there: is a disk not "
				    "mounted?",
				    parts[0], c->of->n - n, c->of->n)
			  : st_store_open_readonly(&s, copy->run_json);
	if (rc == -ENOMEM)
		return rc;
	st_error_take(&copy->error, rc);
	if (!rc) {
		copy->live_bytes = st_store_live_bytes(s);
		copy->root.generation = st_store_generation(s);
		copy->root.snapshot_bytes =
			st_store_snapshot(s, copy->root.snapshot, sizeof(copy->root.snapshot));
	}
	st_store_close(s, false);
	return 0;
}

static int oldest_first(const void *a, const void *b)
{
	const struct copy *x = a, *y = b;

	return (x->root.generation > y->root.generation) -
	       (x->root.generation < y->root.generation);
}

int st_store_kept(const char *run_json, st_store_kept_fn *fn, void *user)
{
	struct st_dir_names names;
	struct copies c = { .of = &names };
	int rc = st_dir_parse(&names, run_json);

	if (rc)
		return rc;
	for (unsigned p = 0; !rc && p < names.n; p++)
		rc = scan(&c, p);
	for (size_t i = 0; !rc && i < c.n; i++)
		if (!c.list[i].is_begun)
			rc = inspect(&c, &c.list[i]);
	if (!rc && c.n)
		qsort(c.list, c.n, sizeof(*c.list), oldest_first);
	for (size_t i = 0; !rc && i < c.n; i++) {
		const struct copy *copy = &c.list[i];
		const struct st_store_kept_info info = {
			.run_json = copy->run_json,
			.rc = copy->error.rc,
			.text = copy->error.text,
			.generation = copy->root.generation,
			.live_bytes = copy->live_bytes,
			.snapshot = copy->root.snapshot,
			.snapshot_bytes = copy->root.snapshot_bytes,
		};

		if (!copy->is_begun)
			rc = fn(user, &info);
	}
	free_copies(&c);
	st_dir_names_free(&names);
	return rc;
}

/* ---- a store that has moved ------------------------------------------------------------------ */

static bool is_gone(const char *dir)
{
	struct stat st;

	return lstat(dir, &st) && (errno == ENOENT || errno == ENOTDIR);
}

/* The directory `name` in one of the paths. @param out  out, owned by the caller; NULL: in none */
static int look_for(const char *name, const char *const *paths, size_t n_paths, char **out)
{
	*out = NULL;
	for (size_t i = 0; i < n_paths; i++) {
		char *real = realpath(paths[i], NULL);
		int len = real ? asprintf(out, "%s/%s", strcmp(real, "/") ? real : "", name) : 0;

		free(real);
		if (len < 0) {
			*out = NULL;
			return st_fail(-ENOMEM, "store path %s", paths[i]);
		}
		if (*out && !is_gone(*out))
			return 0;
		free(*out);
		*out = NULL;
	}
	return 0;
}

static int fail_nowhere(const char *dir, const char *const *paths, size_t n_paths)
{
	char places[200] = "";

	for (size_t i = 0; i < n_paths; i++) {
		size_t at = strlen(places);

		if (at + 1 < sizeof(places))
			snprintf(places + at, sizeof(places) - at, "%s%s", i ? ", " : "", paths[i]);
	}
	return st_fail(
		STRATA_E_INPUT,
		"the run's state is not where it was, %.120s, nor in %s: mount its drive, or "
		"name the directory that it is in now as nvme_path",
		dir, *places ? places : "any other place that is named");
}

int st_store_find(const char *run_json, const char *const *paths, size_t n_paths, char **out)
{
	char *data[ST_STORE_PATHS_MAX] = { NULL };
	struct st_dir_names names;
	bool has_moved = false;
	int rc = st_dir_parse(&names, run_json);

	*out = NULL;
	if (rc)
		return rc;
	for (unsigned p = 0; !rc && p < names.n; p++) {
		char *found;

		if (!is_gone(names.dirs[p]))
			continue;
		rc = look_for(strrchr(names.dirs[p], '/') + 1, paths, n_paths, &found);
		if (!rc && !found)
			rc = fail_nowhere(names.dirs[p], paths, n_paths);
		if (rc)
			break;
		free(names.dirs[p]);
		names.dirs[p] = found;
		has_moved = true;
	}
	for (unsigned p = 0; !rc && has_moved && p < names.n; p++)
		if (asprintf(&data[p], "%s/" ST_DIR_DATA, names.dirs[p]) < 0) {
			data[p] = NULL;
			rc = st_fail(-ENOMEM, "run.json");
		}
	if (!rc && has_moved)
		rc = st_dir_format(out, names.id, data, names.n);
	for (unsigned p = 0; p < ST_STORE_PATHS_MAX; p++)
		free(data[p]);
	st_dir_names_free(&names);
	return rc;
}

/* ---- removal --------------------------------------------------------------------------------- */

/* Locked and known to be of that store, as far as anything can be known; 1: it is gone already. */
static int open_to_remove(struct st_store_file *f, const char *dir, const uint8_t *id)
{
	struct st_store_super b;
	char in_use[80] = "";
	int rc = st_dir_open(f, dir, ST_DIR_WRITE, in_use);

	if (rc == -ENOENT)
		return 0; /* no file: the directory is left */
	if (rc == STRATA_E_INPUT && f->parent_fd >= 0 && f->dir_fd < 0)
		return 1;
	if (rc)
		return rc;
	if (!st_dir_read_super(f, id, &b) && memcmp(b.id, id, sizeof(b.id)) != 0)
		return st_fail(STRATA_E_INPUT, "%s belongs to another store: it is not removed.",
			       f->path);
	return 0;
}

int st_store_remove(const char *run_json)
{
	struct st_store_file files[ST_STORE_PATHS_MAX];
	bool is_gone[ST_STORE_PATHS_MAX] = { false };
	struct st_dir_names names;
	int rc = st_dir_parse(&names, run_json);

	if (rc)
		return rc;
	for (unsigned p = 0; p < names.n; p++)
		files[p] = (struct st_store_file)ST_STORE_FILE_NONE;
	for (unsigned p = 0; rc >= 0 && p < names.n; p++) {
		rc = open_to_remove(&files[p], names.dirs[p], names.id);
		is_gone[p] = rc == 1;
	}
	for (unsigned p = 0; rc >= 0 && p < names.n; p++)
		if (!is_gone[p])
			rc = st_dir_remove(&files[p]);
	for (unsigned p = 0; p < names.n; p++) {
		st_dir_close(&files[p]);
		free(files[p].path);
	}
	st_dir_names_free(&names);
	return rc < 0 ? rc : 0;
}
