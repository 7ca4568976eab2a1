/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_store_faults.c - what surrounds a store and may fail or be hostile: other users, full
 * and lost file systems, flushes that fail, kills in a copy, many at once.
 */
#include "store_util.h"

#include "nvme/dir.h"
#include "nvme/scratch.h"

#include <grp.h>
#include <sys/file.h>
#include <sys/resource.h>

#define NOBODY 65534u

/* ---- other users ----------------------------------------------------------------------------- */

/* Runs fn as another user; its result is the exit code, 0 = as expected. Skipped without root. */
static void as_other_user(int (*fn)(void))
{
	int status;
	pid_t pid;

	if (geteuid() != 0) {
		fprintf(stderr, "skipped: only root can be another user\n");
		return;
	}
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		alarm(20); /* nothing that is planted may hang us */
		if (setgroups(0, NULL) || setegid(NOBODY) || seteuid(NOBODY))
			_exit(99);
		_exit(fn());
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", status);
}

static char victim[160], at_json[160]; /* a file of ours; where the store of run.json should be */

static int plant_everything(void)
{
	char name[200], sub[300];
	int n = 1;

	/* Names of ours in a directory where all may write, as /tmp is. */
	snprintf(name, sizeof(name), "%s/strata-%032x", dirs[0], n++);
	if (symlink(victim, name))
		return 1;
	snprintf(name, sizeof(name), "%s/strata-%032x", dirs[0], n++);
	if (mkfifo(name, 0666))
		return 2;
	snprintf(name, sizeof(name), "%s/strata-%032x", dirs[0], n++);
	if (mkdir(name, 0777) || chmod(name, 0777))
		return 3;
	snprintf(sub, sizeof(sub), "%s/data", name);
	if (symlink(victim, sub))
		return 4;
	snprintf(name, sizeof(name), "%s/strata-%032x", dirs[0], n++);
	if (mkdir(name, 0700))
		return 5;
	snprintf(sub, sizeof(sub), "%s/data", name);
	return mkfifo(sub, 0600) ? 6 : 0;
}

static int plant_link(void)
{
	return symlink(victim, at_json) ? 1 : 0;
}

static int plant_directory(void)
{
	char sub[200];

	snprintf(sub, sizeof(sub), "%s/data", at_json);
	return mkdir(at_json, 0700) || mkfifo(sub, 0600) ? 1 : 0;
}

/* As private as ours, and a plain file in it: only its owner is wrong. */
static int plant_store(void)
{
	char sub[200];
	int fd;

	snprintf(sub, sizeof(sub), "%s/data", at_json);
	if (mkdir(at_json, 0700))
		return 1;
	fd = open(sub, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	return fd < 0 || ftruncate(fd, 64 << 20) ? 2 : 0;
}

static int plant_fifo(void)
{
	return mkfifo(at_json, 0666) ? 1 : 0;
}

static void expect_victim_unchanged(void)
{
	char text[32] = { 0 }, path[200];
	struct stat st;
	int fd;

	snprintf(path, sizeof(path), "%s/data", victim);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(read(fd, text, sizeof(text)), 7);
	ck_assert_str_eq(text, "victim\n");
	ck_assert_int_eq(fstat(fd, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0644);
	close(fd);
}

static void make_victim(void)
{
	char path[200];
	int fd;

	snprintf(victim, sizeof(victim), "%s/victim", base);
	ck_assert_int_eq(mkdir(victim, 0755), 0);
	snprintf(path, sizeof(path), "%s/data", victim);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, "victim\n", 7), 7);
	ck_assert_int_eq(fchmod(fd, 0644), 0);
	close(fd);
	ck_assert_int_eq(chmod(base, 0755), 0);
	ck_assert_int_eq(chmod(dirs[0], 01777), 0);
}

/* What another user leaves where we work: not followed, not waited for, not removed, not used. */
START_TEST(nothing_planted_is_followed)
{
	static const struct {
		int (*plant)(void);
		const char *reason;
	} plants[] = { { plant_link, "cannot be opened" },
		       { plant_directory, "belongs to user 65534" },
		       { plant_store, "belongs to user 65534" },
		       { plant_fifo, "cannot be opened" } };
	struct st_store *s;
	unsigned n_planted;

	make_victim();
	as_other_user(plant_everything);
	n_planted = count_entries(dirs[0]);
	s = create(1, NULL);
	write_all(s, 1);
	commit(s, 1);
	ck_assert_int_eq(st_store_keep(s, NULL, 0), 0);
	ck_assert_int_eq(st_store_reclaim(dirs[0]), 0);
	expect_victim_unchanged();
	snprintf(at_json, sizeof(at_json), "%s/%s", dirs[0], s->files[0].name);
	st_store_close(s, true);
	/* In the place of a store whose name is known by now. */
	for (size_t i = 0; i < ST_ARRAY_LEN(plants) && geteuid() == 0; i++) {
		struct kept k;

		as_other_user(plants[i].plant);
		ck_assert_int_ne(try_open(&s), 0);
		ck_assert_msg(strstr(st_last_error(), at_json) != NULL, "%s", st_last_error());
		ck_assert_msg(strstr(st_last_error(), plants[i].reason) != NULL, "%s",
			      st_last_error());
		ck_assert_int_ne(st_store_open_readonly(&s, json), 0);
		ck_assert_int_ne(st_store_remove(json), 0);
		list_kept(&k); /* looks at everything there */
		ck_assert_uint_eq(k.n, 1);
		expect_victim_unchanged();
		remove_tree(at_json);
		unlink(at_json);
	}
	{
		struct kept k;

		list_kept(&k);
		ck_assert_int_eq(st_store_remove(k.json[0]), 0);
	}
	ck_assert_uint_eq(count_entries(dirs[0]), n_planted);
}
END_TEST

/* Under the strangest umasks: 0700 and 0600, and it works. */
static int use_store_under_umask(void)
{
	static const mode_t masks[] = { 0, 0777, 0277 };
	struct st_store_cfg cfg = make_cfg(1);
	struct stat st;
	char dir[200];

	for (size_t i = 0; i < ST_ARRAY_LEN(masks); i++) {
		struct st_store *s = NULL;
		int bad;

		umask(masks[i]);
		if (st_store_create(&s, &cfg, json, sizeof(json))) {
			fprintf(stderr, "umask %o: %s\n", masks[i], st_last_error());
			return 1;
		}
		snprintf(dir, sizeof(dir), "%s/%s", dirs[0], s->files[0].name);
		bad = stat(dir, &st) || (st.st_mode & 07777) != 0700 ||
		      fstat(s->files[0].fd, &st) || (st.st_mode & 07777) != 0600;
		st_store_close(s, true);
		if (bad)
			return 2;
	}
	return 0;
}

START_TEST(modes_do_not_depend_on_the_umask)
{
	ck_assert_int_eq(chmod(base, 0755), 0);
	ck_assert_int_eq(chmod(dirs[0], 0777), 0);
	as_other_user(use_store_under_umask);
	ck_assert_uint_eq(count_entries(dirs[0]), 0);
}
END_TEST

/* ---- paths ----------------------------------------------------------------------------------- */

START_TEST(weights_are_frozen_and_a_lost_path_is_named)
{
	const uint32_t weights[3] = { 4, 2, 1 }, others[3] = { 1, 1, 9 };
	struct st_store *s = create(3, weights);
	struct st_store_cfg cfg = make_cfg(3);
	uint8_t where[N_EXTENTS];
	char away[400];

	for (uint32_t e = 0; e < N_EXTENTS; e++)
		where[e] = s->extents[e].path;
	write_all(s, 1);
	commit(s, 1);
	st_store_close(s, false);
	cfg.weights = others; /* of no interest to a store that exists */
	ck_assert_int_eq(st_store_open(&s, &cfg, json), 0);
	for (uint32_t e = 0; e < N_EXTENTS; e++)
		ck_assert_uint_eq(where[e], s->extents[e].path);
	ck_assert_uint_gt(s->files[0].data_bytes, s->files[1].data_bytes);
	ck_assert_uint_gt(s->files[1].data_bytes, s->files[2].data_bytes);
	expect_all(s, 1);
	st_store_close(s, false);
	for (int p = 0; p < 3; p++) {
		snprintf(away, sizeof(away), "%s.away", dirs[p]);
		ck_assert_int_eq(rename(dirs[p], away), 0);
		expect_open_fails(STRATA_E_INPUT, dirs[p] + strlen(base));
		ck_assert_int_eq(mkdir(dirs[p], 0755), 0); /* as where its disk is not mounted */
		expect_open_fails(STRATA_E_INPUT, "mounted");
		ck_assert_ptr_nonnull(strstr(st_last_error(), dirs[p] + strlen(base)));
		ck_assert_int_eq(rmdir(dirs[p]), 0);
		ck_assert_int_eq(rename(away, dirs[p]), 0);
	}
	s = reopen();
	expect_all(s, 1);
	st_store_close(s, true);
}
END_TEST

START_TEST(only_devices_with_our_blocks_serve)
{
	ck_assert_int_eq(st_place_check_blocks("x", 0), 0);
	ck_assert_int_eq(st_place_check_blocks("x", 512), 0);
	ck_assert_int_eq(st_place_check_blocks("x", 4096), 0);
	ck_assert_int_eq(st_place_check_blocks("nvme/data", 16384), STRATA_E_UNSUPPORTED);
	ck_assert_ptr_nonnull(strstr(st_last_error(), "nvme/data"));
	ck_assert_ptr_nonnull(strstr(st_last_error(), "16384"));
}
END_TEST

/* ---- space ----------------------------------------------------------------------------------- */

static bool mount_small(const char *options)
{
	snprintf(mount_point, sizeof(mount_point), "%s/small", base);
	ck_assert_int_eq(mkdir(mount_point, 0755), 0);
	if (!mount("none", mount_point, "tmpfs", 0, options))
		return true;
	fprintf(stderr, "skipped: no tmpfs can be mounted here: %s\n", strerror(errno));
	mount_point[0] = '\0';
	return false;
}

/* Room that was promised and is not there, as on a thin device: the write fails, the commit stays.
 */
START_TEST(space_that_ends_in_a_step_costs_that_step_only)
{
	struct st_store *s;
	struct st_aio_req r;
	unsigned n_failed = 0;
	char filler[200];
	int fd;

	if (!mount_small("size=24m"))
		return;
	paths[0] = mount_point;
	s = create(1, NULL);
	write_all(s, 1);
	commit(s, 1);
	/* The other half of the data loses its room to somebody else. */
	ck_assert_int_eq(fallocate(s->files[0].fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				   (off_t)st_store_where(s, 0, 1), (off_t)s->files[0].data_bytes),
			 0);
	snprintf(filler, sizeof(filler), "%s/filler", mount_point);
	fd = open(filler, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ck_assert_int_ge(fd, 0);
	for (off_t at = 0; !fallocate(fd, 0, at, 65536); at += 65536)
		;
	for (uint32_t e = 0; e < N_EXTENTS; e++) {
		fill(buf, e, 2);
		ck_assert_int_eq(st_store_prep_write(s, e, buf, &r), 0);
		if (st_aio_run(q, &r, 1) == 0) {
			st_store_write_done(s, e, st_store_checksum(s, e, buf));
			continue;
		}
		ck_assert_int_eq(r.result, -ENOSPC);
		ck_assert_ptr_nonnull(strstr(st_last_error(), s->files[0].path));
		n_failed++;
	}
	ck_assert_uint_gt(n_failed, 0);
	ck_assert_int_eq(st_store_commit(s, q, NULL, 0), -EINVAL); /* a write is missing */
	/* Nor is there room for a copy, which leaves nothing behind. */
	ck_assert_int_eq(st_store_keep(s, NULL, 0), STRATA_E_NO_FIT);
	ck_assert_uint_eq(count_entries(mount_point), 2);
	st_store_close(s, false);
	/* The next open asks for the room again, and says how much. */
	expect_open_fails(STRATA_E_NO_FIT, "are free");
	close(fd);
	ck_assert_int_eq(unlink(filler), 0);
	s = reopen();
	expect_all(s, 1);
	write_all(s, 2);
	commit(s, 2);
	st_store_close(s, true);
}
END_TEST

START_TEST(a_limit_of_the_file_size_is_named)
{
	struct rlimit old, low = { 8 << 20, 8 << 20 };
	struct st_store_cfg cfg = make_cfg(1);
	struct st_store *s = NULL;

	ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
	low.rlim_max = old.rlim_max;
	signal(SIGXFSZ, SIG_IGN);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &low), 0);
	ck_assert_int_eq(st_store_create(&s, &cfg, json, sizeof(json)), STRATA_E_NO_FIT);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &old), 0);
	signal(SIGXFSZ, SIG_DFL);
	ck_assert_msg(strstr(st_last_error(), "ulimit -f") != NULL, "%s", st_last_error());
	ck_assert_uint_eq(count_entries(dirs[0]), 0);
}
END_TEST

/* Scratch lies on the same paths: shared by weight, gone with its owner, refused when there is no
 * room. */
START_TEST(scratch_is_shared_by_weight_and_leaves_nothing)
{
	static const uint32_t weights[2] = { 3, 1 };
	uint64_t slots[64];
	struct st_scratch *s = NULL;
	uint64_t on[2] = { 0 };

	for (unsigned i = 0; i < 64; i++)
		slots[i] = 4096 * (1 + i % 3);
	ck_assert_int_eq(st_scratch_create(&s, paths, 2, weights, slots, 64), 0);
	for (unsigned i = 0; i < 64; i++) {
		struct st_aio_req r = { 0 };

		memset(buf, (int)i, slots[i]);
		st_scratch_prep(s, i, buf, true, &r);
		ck_assert_msg(st_aio_run(q, &r, 1) == 0, "%s", st_last_error());
		st_scratch_write_done(s, i, st_scratch_checksum(s, i, buf));
		on[!strcmp(strrchr(r.path, '/'), strrchr(dirs[1], '/'))] += slots[i];
	}
	ck_assert_uint_gt(on[0], 2 * on[1]);
	ck_assert_uint_lt(on[0], 4 * on[1]);
	for (unsigned i = 0; i < 64; i++) {
		struct st_aio_req r = { 0 };

		st_scratch_prep(s, i, copy, false, &r);
		ck_assert_int_eq(st_aio_run(q, &r, 1), 0);
		ck_assert_int_eq(st_scratch_read_verify(s, i, st_scratch_checksum(s, i, copy)), 0);
		copy[slots[i] - 1] ^= 1;
		ck_assert_int_eq(st_scratch_read_verify(s, i, st_scratch_checksum(s, i, copy)),
				 STRATA_E_CORRUPT);
	}
	for (unsigned p = 0; p < 2; p++) /* it has no name even now */
		ck_assert_uint_eq(count_entries(dirs[p]), 0);
	st_scratch_destroy(s);
	slots[0] = (uint64_t)64 << 20;
	if (!mount_small("size=16m"))
		return;
	paths[0] = mount_point;
	ck_assert_int_eq(st_scratch_create(&s, paths, 1, NULL, slots, 1), STRATA_E_NO_FIT);
	ck_assert_ptr_nonnull(strstr(st_last_error(), mount_point));
	ck_assert_ptr_nonnull(strstr(st_last_error(), "67108864"));
}
END_TEST

/* ---- flushes --------------------------------------------------------------------------------- */

/*
 * One flush fails once: first round (before the root) or second (after it), on either path. It is
 * not asked for again, nothing more is written, and what is durable is whole.
 */
START_TEST(a_failed_flush_is_never_tried_again)
{
	unsigned round = (unsigned)_i / 2, path = (unsigned)_i % 2, n_flushes = 0;
	struct st_store *s = create(2, NULL);
	struct st_aio_req reqs[4], r;
	const unsigned version = 2;
	int n, rounds = 0;

	write_all(s, 1);
	commit(s, 1);
	write_all(s, 2);
	ck_assert_int_eq(st_store_commit_begin(s, &version, sizeof(version)), 0);
	while ((n = st_store_commit_next(s, reqs, 4)) > 0) {
		bool is_flush = reqs[0].op == ST_AIO_FLUSH;

		ck_assert_int_eq(st_aio_run(q, reqs, (unsigned)n), 0);
		n_flushes += is_flush ? (unsigned)n : 0;
		if (is_flush && (unsigned)rounds++ == round) {
			reqs[path].result = -EIO;
			st_error_take(&reqs[path].error,
				      st_fail(-EIO, "%s: flush", reqs[path].path));
		}
	}
	ck_assert_int_eq(n, -EIO);
	ck_assert_uint_eq(n_flushes, 2 * (round + 1));
	ck_assert_ptr_nonnull(strstr(st_last_error(), s->files[path].path));
	ck_assert_ptr_nonnull(strstr(st_last_error(), "generation 1 stays"));
	for (int i = 0; i < 3; i++) { /* whatever is asked, the same answer and no request */
		ck_assert_int_eq(st_store_commit_next(s, reqs, 4), -EIO);
		ck_assert_int_eq(st_store_commit_begin(s, NULL, 0), -EIO);
		ck_assert_int_eq(st_store_prep_write(s, 0, buf, &r), -EIO);
	}
	ck_assert_uint_eq(st_store_generation(s), 1);
	st_store_close(s, false);
	s = reopen(); /* the flush did work here, so the root of the second round is there */
	ck_assert_uint_eq(st_store_generation(s), 1 + round);
	expect_all(s, 1 + round);
	st_store_close(s, true);
}
END_TEST

/* ---- processes ------------------------------------------------------------------------------- */

static void keep_until_killed(int out)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_store *s = reopen();

	ck_assert_int_eq(st_aio_open(&q, &cfg), 0);
	for (;;) {
		unsigned v = (unsigned)st_store_generation(s) + 1;
		int rc;

		write_all(s, v);
		commit(s, v);
		rc = st_store_keep(s, NULL, 0);
		ck_assert_msg(rc == 0, "%s", st_last_error());
		ck_assert_int_eq(write(out, &v, sizeof(v)), sizeof(v));
	}
}

static int check_and_remove(void *user, const struct st_store_kept_info *info)
{
	struct st_store_verified v;
	struct seen_bad seen = { 0 };
	unsigned snap = 0, *n = user;
	struct st_store *r;

	ck_assert_msg(info->rc == 0, "%s", info->text);
	r = open_readonly(info->run_json);
	ck_assert_int_eq(verify(r, &seen, &v), 0);
	memcpy(&snap, info->snapshot, sizeof(snap));
	expect_all(r, snap);
	st_store_close(r, false);
	(*n)++;
	return st_store_remove(info->run_json);
}

/* Killed at any time while copies are made: those reported are whole, the rest is cleared away. */
START_TEST(a_kill_in_a_copy_leaves_whole_copies_only)
{
	struct st_store *s = create(2, NULL);

	write_all(s, 1);
	commit(s, 1);
	for (int i = 0; i < 8; i++) {
		unsigned n_told = 0, n_found = 0, v;
		int tube[2], status;
		pid_t pid;

		st_store_close(s, false);
		ck_assert_int_eq(pipe(tube), 0);
		pid = fork();
		ck_assert_int_ge(pid, 0);
		if (pid == 0)
			keep_until_killed(tube[1]);
		close(tube[1]);
		if (i % 2) {
			ck_assert_int_eq(read(tube[0], &v, sizeof(v)), sizeof(v));
			n_told++;
		}
		usleep(15000u * (unsigned)i + 1000);
		ck_assert_int_eq(kill(pid, SIGKILL), 0);
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		while (read(tube[0], &v, sizeof(v)) == sizeof(v))
			n_told++;
		close(tube[0]);
		s = reopen(); /* clears away */
		ck_assert_msg(st_store_kept(json, check_and_remove, &n_found) == 0, "%s",
			      st_last_error());
		ck_assert(n_found == n_told || n_found == n_told + 1);
		for (unsigned p = 0; p < 2; p++)
			ck_assert_uint_eq(count_entries(dirs[p]), 1);
	}
	st_store_close(s, true);
}
END_TEST

static int make_use_and_remove(void)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_store *s;

	cfg.backend = "threads";
	ck_assert_int_eq(st_aio_open(&q, &cfg), 0);
	s = create(2, NULL);
	for (unsigned v = 1; v <= 3; v++) {
		write_all(s, v);
		commit(s, v);
	}
	st_store_close(s, false);
	s = reopen();
	expect_all(s, 3);
	st_store_close(s, true);
	return 0;
}

/* Eight at once on the same paths: each finds its own, none takes another's for abandoned. */
START_TEST(many_stores_share_a_path)
{
	int status;

	for (int i = 0; i < 8; i++) {
		pid_t pid = fork();

		ck_assert_int_ge(pid, 0);
		if (pid == 0)
			_exit(make_use_and_remove());
	}
	for (int i = 0; i < 8; i++) {
		ck_assert_int_gt(wait(&status), 0);
		ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", status);
	}
	for (unsigned p = 0; p < 2; p++)
		ck_assert_uint_eq(count_entries(dirs[p]), 0);
}
END_TEST

/*
 * Between the making of a directory and its lock it looks like an abandoned one. So a start waits
 * while somebody clears away, and who clears away lets a path be on which somebody starts.
 */
START_TEST(starts_and_removals_keep_apart)
{
	int fd = open(dirs[0], O_RDONLY | O_DIRECTORY | O_CLOEXEC), dir, status;
	struct st_store *s;
	char name[200];
	pid_t pid;

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(flock(fd, LOCK_EX), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		st_store_close(create(1, NULL), false); /* left, to be seen */
		_exit(0);
	}
	usleep(300000);
	ck_assert_uint_eq(count_entries(dirs[0]), 0);
	ck_assert_int_eq(flock(fd, LOCK_UN), 0);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	ck_assert_int_eq(st_store_reclaim(dirs[0]), 1); /* nothing was committed */

	/* A run is resumed while the lock of its directory is held to look into it. */
	s = create(1, NULL);
	snprintf(name, sizeof(name), "%s/%s", dirs[0], s->files[0].name);
	commit(s, 1);
	st_store_close(s, false);
	ck_assert_int_eq(flock(fd, LOCK_EX), 0);
	dir = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_eq(flock(dir, LOCK_EX), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		close(fd);
		close(dir);
		_exit(try_open(&s));
	}
	usleep(300000);
	close(dir);
	ck_assert_int_eq(flock(fd, LOCK_UN), 0);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	st_store_close(reopen(), true);

	snprintf(name, sizeof(name), "%s/strata-%032x", dirs[0], 7);
	ck_assert_int_eq(mkdir(name, 0700), 0);
	ck_assert_int_eq(flock(fd, LOCK_SH), 0); /* as a start holds it */
	ck_assert_int_eq(st_store_reclaim(dirs[0]), 0);
	ck_assert_int_eq(flock(fd, LOCK_UN), 0);
	ck_assert_int_eq(st_store_reclaim(dirs[0]), 1);
	close(fd);
}
END_TEST

START_TEST(a_busy_store_says_who_uses_it)
{
	struct st_store *s = create(1, NULL), *again = NULL;
	char who[40];

	snprintf(who, sizeof(who), "in use by process %d (", (int)getpid());
	commit(s, 1);
	ck_assert_int_eq(try_open(&again), STRATA_E_BUSY);
	ck_assert_msg(strstr(st_last_error(), who) != NULL, "%s", st_last_error());
	st_store_close(s, true);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("store_faults");
	TCase *t = tcase_create("store_faults");
	SRunner *r;
	int failed;

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 60);
	tcase_add_test(t, nothing_planted_is_followed);
	tcase_add_test(t, modes_do_not_depend_on_the_umask);
	tcase_add_test(t, weights_are_frozen_and_a_lost_path_is_named);
	tcase_add_test(t, only_devices_with_our_blocks_serve);
	tcase_add_test(t, space_that_ends_in_a_step_costs_that_step_only);
	tcase_add_test(t, a_limit_of_the_file_size_is_named);
	tcase_add_test(t, scratch_is_shared_by_weight_and_leaves_nothing);
	tcase_add_loop_test(t, a_failed_flush_is_never_tried_again, 0, 4);
	tcase_add_test(t, a_kill_in_a_copy_leaves_whole_copies_only);
	tcase_add_test(t, many_stores_share_a_path);
	tcase_add_test(t, starts_and_removals_keep_apart);
	tcase_add_test(t, a_busy_store_says_who_uses_it);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
