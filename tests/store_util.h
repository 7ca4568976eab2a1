/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/store_util.h - a small store on up to three directories, for the tests of nvme/.
 *
 * setup() and teardown() make and remove everything. The content of an extent is a function of its
 * number and a version; the snapshot of a commit is its version.
 */
#ifndef TESTS_STORE_UTIL_H
#define TESTS_STORE_UTIL_H

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/log.h"
#include "nvme/store.h"
#include "nvme/store_priv.h"
#include "tests/place.h"

#define N_EXTENTS 9u
#define MAX_BYTES ((size_t)3 << 20)

static const uint64_t sizes[N_EXTENTS] = { 4096,      1 << 20, 12288, 3 << 20, 8192,
					   256 << 10, 4096,    40960, 2 << 20 };
static const char *const names[N_EXTENTS] = { "wte",  "h.0", "h.1", "h.2", "h.3",
					      "ln_f", "wpe", "h.4", "head" };

static char base[64], dirs[3][96], mount_point[96];
static const char *paths[3] = { dirs[0], dirs[1], dirs[2] };
static char *buf, *copy;
static struct st_aio_queue *q;
static char json[4096];

static inline void remove_tree(const char *path)
{
	DIR *d = opendir(path);
	struct dirent *e;
	char sub[512];

	while (d && (e = readdir(d))) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		snprintf(sub, sizeof(sub), "%.240s/%s", path, e->d_name);
		if (unlink(sub))
			remove_tree(sub);
	}
	if (d)
		closedir(d);
	rmdir(path);
}

static inline unsigned count_entries(const char *path)
{
	DIR *d = opendir(path);
	unsigned n = 0;

	ck_assert_ptr_nonnull(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

static bool store_in_memory;

static inline void setup(void)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;

	const char *place = store_in_memory ? place_in_memory("") : "";

	snprintf(base, sizeof(base), "%s%stest_store.%d.tmp", place, *place ? "/" : "",
		 (int)getpid());
	ck_assert_int_eq(mkdir(base, 0755), 0);
	for (int p = 0; p < 3; p++) {
		snprintf(dirs[p], sizeof(dirs[p]), "%s/nvme%d", base, p);
		ck_assert_int_eq(mkdir(dirs[p], 0755), 0);
	}
	buf = aligned_alloc(4096, MAX_BYTES);
	copy = aligned_alloc(4096, MAX_BYTES);
	ck_assert(buf && copy);
	ck_assert_msg(st_aio_open(&q, &cfg) == 0, "%s", st_last_error());
}

static inline void teardown(void)
{
	st_aio_close(q);
	free(buf);
	free(copy);
	paths[0] = dirs[0];
	paths[1] = dirs[1];
	if (mount_point[0])
		umount2(mount_point, MNT_DETACH);
	mount_point[0] = '\0';
	remove_tree(base);
}

static inline struct st_store_cfg make_cfg(unsigned n_paths)
{
	return (struct st_store_cfg){ .paths = paths,
				      .n_paths = n_paths,
				      .extent_bytes = sizes,
				      .n_extents = N_EXTENTS,
				      .extent_names = names,
				      .checksum = true };
}

static inline struct st_store *create(unsigned n_paths, const uint32_t *weights)
{
	struct st_store_cfg cfg = make_cfg(n_paths);
	struct st_store *s = NULL;

	cfg.weights = weights;
	ck_assert_msg(st_store_create(&s, &cfg, json, sizeof(json)) == 0, "%s", st_last_error());
	return s;
}

static inline int try_open(struct st_store **s)
{
	struct st_store_cfg cfg = make_cfg(0);

	cfg.paths = NULL;
	return st_store_open(s, &cfg, json);
}

static inline struct st_store *reopen(void)
{
	struct st_store *s = NULL;

	ck_assert_msg(try_open(&s) == 0, "%s", st_last_error());
	return s;
}

static inline void fill(char *p, uint32_t e, unsigned version)
{
	uint64_t x = (uint64_t)version * 1000003 + e + 1;

	for (size_t i = 0; i < sizes[e]; i += 8) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		memcpy(p + i, &x, 8);
	}
}

static inline void write_extent(struct st_store *s, uint32_t e, unsigned version)
{
	struct st_aio_req r;

	fill(buf, e, version);
	ck_assert_msg(st_store_prep_write(s, e, buf, &r) == 0, "%s", st_last_error());
	ck_assert_msg(st_aio_run(q, &r, 1) == 0, "%s", st_last_error());
	st_store_write_done(s, e, st_store_checksum(s, e, buf));
}

static inline int read_extent(struct st_store *s, uint32_t e)
{
	struct st_aio_req r;
	int rc = st_store_prep_read(s, e, copy, &r);

	if (!rc)
		rc = st_aio_run(q, &r, 1);
	return rc ? rc : st_store_read_done(s, e, copy);
}

static inline void expect_extent(struct st_store *s, uint32_t e, unsigned version)
{
	ck_assert_msg(read_extent(s, e) == 0, "%s", st_last_error());
	fill(buf, e, version);
	ck_assert_int_eq(memcmp(buf, copy, sizes[e]), 0);
}

static inline void commit(struct st_store *s, unsigned version)
{
	ck_assert_msg(st_store_commit(s, q, &version, sizeof(version)) == 0, "%s", st_last_error());
}

static inline void write_all(struct st_store *s, unsigned version)
{
	for (uint32_t e = 0; e < N_EXTENTS; e++)
		write_extent(s, e, version);
}

static inline void expect_all(struct st_store *s, unsigned version)
{
	unsigned snap = 0;

	ck_assert_uint_eq(st_store_snapshot(s, &snap, sizeof(snap)), sizeof(snap));
	ck_assert_uint_eq(snap, version);
	for (uint32_t e = 0; e < N_EXTENTS; e++)
		expect_extent(s, e, version);
}

/* Change one bit of a file of the store, as a bad cell would. (A direct read that follows waits for
 * what was written through the page cache.) */
static inline void flip(const char *path, uint64_t off, int bit)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	char c;

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pread(fd, &c, 1, (off_t)off), 1);
	c ^= (char)(1 << bit);
	ck_assert_int_eq(pwrite(fd, &c, 1, (off_t)off), 1);
	close(fd);
}

/* Path of the data file of store path p, from run.json. */
static inline void data_path(unsigned p, char *out, size_t n)
{
	const char *at = strchr(json, '[');

	for (unsigned i = 0; i <= p; i++) {
		at = strchr(at + 1, '"') + 1;
		if (i < p)
			at = strchr(at, '"');
	}
	snprintf(out, n, "%.*s/data", (int)strcspn(at, "\""), at);
}

static inline void copy_file(const char *from, const char *to)
{
	int in = open(from, O_RDONLY | O_CLOEXEC);
	int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	ssize_t n;

	ck_assert(in >= 0 && out >= 0);
	while ((n = read(in, copy, MAX_BYTES)) > 0)
		ck_assert_int_eq(write(out, copy, (size_t)n), n);
	ck_assert_int_eq(n, 0);
	close(in);
	close(out);
}

static inline void expect_open_fails(int want, const char *text)
{
	struct st_store *s = NULL;

	ck_assert_int_eq(try_open(&s), want);
	ck_assert_msg(strstr(st_last_error(), text) != NULL, "%s", st_last_error());
	ck_assert_ptr_null(s);
}

static char warning[1024];

static inline void keep_warning(void *user, enum st_log_level level, const char *line)
{
	(void)user;
	(void)level;
	snprintf(warning, sizeof(warning), "%s", line);
}

static inline struct st_store *open_readonly(const char *text)
{
	struct st_store *s = NULL;

	ck_assert_msg(st_store_open_readonly(&s, text) == 0, "%s", st_last_error());
	return s;
}

struct seen_bad {
	unsigned n, n_progress;
	bool stops;
	struct st_store_bad last;
	char text[500];
};

static inline void see_bad(void *user, const struct st_store_bad *bad)
{
	struct seen_bad *seen = user;

	seen->n++;
	seen->last = *bad;
	snprintf(seen->text, sizeof(seen->text), "%s", bad->text);
}

static inline bool see_progress(void *user, const struct st_store_verified *v)
{
	struct seen_bad *seen = user;

	ck_assert_uint_le(v->bytes, v->total_bytes);
	seen->n_progress++;
	return !seen->stops;
}

static inline int verify(struct st_store *s, struct seen_bad *seen, struct st_store_verified *v)
{
	const struct st_store_verify_cfg cfg = {
		.queue = q, .bad = see_bad, .progress = see_progress, .user = seen
	};

	*seen = (struct seen_bad){ .stops = seen->stops };
	return st_store_verify(s, &cfg, v);
}

struct kept {
	unsigned n;
	struct st_store_kept_info info[8];
	char json[8][1024];
	unsigned snap[8];
};

static inline int note_kept(void *user, const struct st_store_kept_info *info)
{
	struct kept *k = user;

	ck_assert_uint_lt(k->n, 8);
	k->info[k->n] = *info;
	snprintf(k->json[k->n], sizeof(k->json[0]), "%s", info->run_json);
	if (!info->rc)
		memcpy(&k->snap[k->n], info->snapshot, sizeof(k->snap[0]));
	return (int)++k->n < 0;
}

static inline void list_kept(struct kept *k)
{
	*k = (struct kept){ 0 };
	ck_assert_msg(st_store_kept(json, note_kept, k) == 0, "%s", st_last_error());
}

#endif
