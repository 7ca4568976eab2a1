/* SPDX-License-Identifier: Apache-2.0 */
/* tests/test_store.c - the extent store on real files: commits, damage, locks, space, planted
 * links. */
#include "store_util.h"

/* Over the queue of its own choice, the thread pool, and one with short transfers. */
static void change_queue(const char *backend)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;

	cfg.backend = backend;
	cfg.block_bytes = 64 << 10;
	cfg.faulty_short_rate = 0.3;
	cfg.faulty_delay_rate = 0.05;
	cfg.faulty_seed = 3;
	st_aio_close(q);
	ck_assert_int_eq(st_aio_open(&q, &cfg), 0);
}

START_TEST(commits_survive_reopening)
{
	const uint32_t weights[2] = { 3, 1 };
	struct st_store *s = create((unsigned)_i % 3 + 1, _i == 1 ? weights : NULL);
	char big[ST_STORE_SNAPSHOT_MAX + 1] = { 0 };

	if (_i >= 3)
		change_queue(_i == 3 ? "threads" : "faulty");
	ck_assert_uint_eq(st_store_generation(s), 0);
	ck_assert_uint_eq(st_store_snapshot(s, NULL, 0), 0);
	for (uint32_t e = 0; e < N_EXTENTS; e++) {
		ck_assert(!st_store_is_written(s, e));
		ck_assert_int_eq(read_extent(s, e), STRATA_E_CORRUPT);
	}
	ck_assert_ptr_nonnull(strstr(st_last_error(), "head"));
	for (unsigned v = 1; v <= 5; v++) {
		write_all(s, v);
		commit(s, v);
		expect_all(s, v);
		ck_assert_uint_eq(st_store_generation(s), v);
		if (v == 3) {
			st_store_close(s, false);
			s = reopen();
			ck_assert_uint_eq(st_store_generation(s), 3);
			expect_all(s, 3);
		}
	}
	/* Written, written again, not committed: gone after reopening, whatever was live. */
	write_extent(s, 3, 6);
	expect_extent(s, 3, 6);
	write_extent(s, 3, 7);
	expect_extent(s, 3, 7);
	st_store_close(s, false);
	s = reopen();
	expect_all(s, 5);
	/* A commit of a few extents, and of none. */
	write_extent(s, 7, 8);
	commit(s, 9);
	commit(s, 10);
	st_store_close(s, false);
	s = reopen();
	ck_assert_uint_eq(st_store_generation(s), 7);
	expect_extent(s, 7, 8);
	expect_extent(s, 6, 5);
	ck_assert_int_eq(st_store_commit(s, q, big, sizeof(big)), -EINVAL);
	ck_assert_int_eq(st_store_commit(s, q, big, ST_STORE_SNAPSHOT_MAX), 0);
	ck_assert_uint_eq(st_store_snapshot(s, big, sizeof(big)), ST_STORE_SNAPSHOT_MAX);
	st_store_close(s, true);
	for (int p = 0; p < 3; p++)
		ck_assert_uint_eq(count_entries(dirs[p]), 0);
}
END_TEST

START_TEST(weights_share_the_bytes)
{
	enum { N = 1000 };
	static uint64_t many[N];
	const uint32_t weights[3] = { 5, 2, 1 };
	uint8_t id[ST_STORE_ID_BYTES] = { 1 };
	struct st_store_cfg cfg = { .extent_bytes = many, .n_extents = N };
	uint64_t sum = 0, disk = 0;
	struct st_store *s = NULL;

	for (int e = 0; e < N; e++)
		sum += many[e] = 4096 * (1 + (uint64_t)e * 7919 % 640);
	ck_assert_int_eq(st_store_layout(&s, &cfg, 3, weights, id, NULL), 0);
	for (unsigned p = 0; p < 3; p++) {
		double share = (double)s->files[p].data_bytes / (double)sum;

		ck_assert_double_eq_tol(share, weights[p] / 8.0, 0.01);
		disk += s->files[p].file_bytes;
	}
	ck_assert_uint_eq(disk, st_store_disk_bytes(many, N, 3));
	for (uint32_t e = 0; e < N; e++) /* slots stay inside, and apart */
		for (unsigned slot = 0; slot < 2; slot++) {
			const struct st_store_file *f = &s->files[s->extents[e].path];
			uint64_t at = st_store_where(s, e, slot), end = at + many[e];

			ck_assert_uint_ge(at, ST_STORE_TABLES + 2 * s->table_area_bytes);
			ck_assert_uint_le(end, f->file_bytes);
			if (slot == 0)
				ck_assert_uint_le(end, st_store_where(s, e, 1));
		}
	st_store_free(s);
}
END_TEST

START_TEST(every_extent_notices_a_flipped_bit)
{
	struct st_store *s = create(2, NULL);

	for (unsigned v = 1; v <= 2; v++) {
		write_all(s, v);
		commit(s, v);
	}
	st_store_close(s, false);
	s = reopen();
	for (uint32_t e = 0; e < N_EXTENTS; e++) {
		const struct st_store_extent *x = &s->extents[e];
		uint64_t at = st_store_where(s, e, x->durable_slot) + sizes[e] / 2 + e;
		const char *file = s->files[x->path].path;
		char off[40];

		flip(file, at, (int)(e % 8));
		ck_assert_int_eq(read_extent(s, e), STRATA_E_CORRUPT);
		ck_assert_ptr_nonnull(strstr(st_last_error(), names[e]));
		ck_assert_ptr_nonnull(strstr(st_last_error(), file));
		snprintf(off, sizeof(off), "offset %llu",
			 (unsigned long long)st_store_where(s, e, x->durable_slot));
		ck_assert_ptr_nonnull(strstr(st_last_error(), off));
		flip(file, at, (int)(e % 8));
		ck_assert_int_eq(read_extent(s, e), 0);
		/* The other slot is not live: a bit there means nothing. */
		flip(file, st_store_where(s, e, 1u - x->durable_slot), 0);
		ck_assert_int_eq(read_extent(s, e), 0);
	}
	/* The right bytes of the wrong extent are wrong as well. */
	ck_assert_uint_eq(sizes[0], sizes[6]);
	ck_assert_uint_ne(st_store_checksum(s, 0, buf), st_store_checksum(s, 6, buf));
	st_store_close(s, true);
}
END_TEST

START_TEST(damaged_metadata_is_refused_or_repaired)
{
	char file[2][300], keep[2][310];
	struct st_store *s = create(2, NULL);

	for (unsigned p = 0; p < 2; p++) {
		data_path(p, file[p], sizeof(file[p]));
		snprintf(keep[p], sizeof(keep[p]), "%s/keep%u", base, p);
	}
	write_all(s, 1);
	commit(s, 1);
	write_all(s, 2);
	commit(s, 2);
	st_store_close(s, false);
	for (unsigned p = 0; p < 2; p++)
		copy_file(file[p], keep[p]);

	/* Generation 2 lies in slot A: one copy lost, the other path's serves, and is put back. */
	flip(file[0], ST_STORE_ROOT_A + 100, 3);
	s = reopen();
	expect_all(s, 2);
	st_store_close(s, false);
	flip(file[1], ST_STORE_ROOT_A + 100, 3);
	s = reopen();
	expect_all(s, 2);
	st_store_close(s, false);
	/* Both lost: generation 1, whose slots nobody has touched. */
	flip(file[0], ST_STORE_ROOT_A, 3);
	flip(file[1], ST_STORE_ROOT_A + 4095, 3);
	s = reopen();
	expect_all(s, 1);
	/* All roots lost. */
	st_store_close(s, false);
	for (unsigned p = 0; p < 2; p++) {
		flip(file[p], ST_STORE_ROOT_A + 2000, 1);
		flip(file[p], ST_STORE_ROOT_B + 2000, 1);
	}
	expect_open_fails(STRATA_E_CORRUPT, "no valid root");
	/* One path is an older copy of itself: never mixed. */
	for (unsigned p = 0; p < 2; p++)
		copy_file(keep[p], file[p]);
	s = reopen();
	for (unsigned v = 3; v <= 5; v++) {
		write_all(s, v);
		commit(s, v);
	}
	st_store_close(s, false);
	copy_file(keep[1], file[1]);
	expect_open_fails(STRATA_E_CORRUPT, "older");
	/* Tables. */
	for (unsigned p = 0; p < 2; p++)
		copy_file(keep[p], file[p]);
	flip(file[1], ST_STORE_TABLES + 5, 0);
	flip(file[1], ST_STORE_TABLES + 4096 + 5, 0);
	expect_open_fails(STRATA_E_CORRUPT, file[1]);
	/* Superblock: damaged, of the other path, of another store. */
	copy_file(keep[1], file[1]);
	for (int i = 0; i < 2; i++) { /* one of the two: repaired, so that the other may go next */
		flip(file[1], i ? ST_STORE_SUPER_B + 17 : 17, 0);
		s = reopen();
		expect_all(s, 2);
		st_store_close(s, false);
	}
	flip(file[1], 17, 0);
	flip(file[1], ST_STORE_SUPER_B + 17, 0);
	expect_open_fails(STRATA_E_CORRUPT, "superblock");
	copy_file(keep[0], file[1]);
	expect_open_fails(STRATA_E_CORRUPT, "exchanged");
	copy_file(keep[1], file[1]);
	ck_assert_int_eq(truncate(file[1], 5 << 20), 0);
	expect_open_fails(STRATA_E_CORRUPT, "truncated");
	ck_assert_ptr_nonnull(strstr(st_last_error(), file[1]));
	copy_file(keep[1], file[1]);
	s = reopen();
	expect_all(s, 2);
	st_store_close(s, true);
}
END_TEST

START_TEST(a_root_that_lost_its_tables_never_returns)
{
	struct st_store *s = create(2, NULL);
	char file[300];

	data_path(1, file, sizeof(file));
	write_all(s, 1);
	commit(s, 1);
	write_extent(s, 0, 2);
	write_extent(s, 1, 2);
	write_extent(s, 2, 2);
	write_extent(s, 3, 2);
	commit(s, 2);
	st_store_close(s, false);
	/* Generation 2's table of path 1 (area 0) rots: back to 1, and 2 is wiped out. */
	flip(file, ST_STORE_TABLES, 0);
	s = reopen();
	ck_assert_uint_eq(st_store_generation(s), 1);
	expect_all(s, 1);
	st_store_close(s, false);
	flip(file, ST_STORE_TABLES, 0);
	s = reopen();
	ck_assert_uint_eq(st_store_generation(s), 1);
	write_all(s, 3);
	commit(s, 3);
	expect_all(s, 3);
	st_store_close(s, true);
}
END_TEST

START_TEST(other_stores_and_models_are_refused)
{
	struct st_store *s = create(1, NULL), *other = NULL;
	char file[300], foreign[300], first[4096];
	uint64_t resized[N_EXTENTS];
	struct st_store_cfg cfg = make_cfg(0);

	data_path(0, file, sizeof(file));
	snprintf(first, sizeof(first), "%s", json);
	commit(s, 1); /* else it may be cleared away by the next create */
	st_store_close(s, false);
	other = create(1, NULL);
	data_path(0, foreign, sizeof(foreign));
	st_store_close(other, false);
	copy_file(foreign, file);
	snprintf(json, sizeof(json), "%s", first);
	expect_open_fails(STRATA_E_CORRUPT, "another store");

	memcpy(resized, sizes, sizeof(sizes));
	resized[2] += 4096;
	cfg.extent_bytes = resized;
	s = create(1, NULL);
	st_store_close(s, false);
	ck_assert_int_eq(st_store_open(&other, &cfg, json), STRATA_E_STALE);
	cfg = make_cfg(0);
	cfg.n_extents--;
	ck_assert_int_eq(st_store_open(&other, &cfg, json), STRATA_E_STALE);
	s = reopen();
	st_store_close(s, true);
}
END_TEST

START_TEST(bad_run_json_is_refused)
{
	static const char *const bad[] = {
		"",
		"{",
		"[]",
		"{\"id\": \"x\", \"paths\": []}",
		"{\"id\": \"00112233445566778899aabbccddeeff\", \"paths\": []}",
		"{\"id\": \"00112233445566778899aabbccddeeff\", \"paths\": [1]}",
		"{\"id\": \"00112233445566778899aabbccddeeff\", \"paths\": [\"/tmp/x\"]}",
		"{\"id\": \"00112233445566778899aabbccddeeff\", \"paths\": [\"strata-\"]}",
		"{\"id\": \"00112233445566778899aabbccddeeff\", \"paths\": [\"/nowhere/"
		"strata-00112233445566778899aabbccddeeff\"]}",
		"{\"id\": \"00112233445566778899aabbccddeeff\", \"paths\": [\"/tmp/"
		"strata-00112233445566778899aabbccddeef/\"]}",
	};

	for (size_t i = 0; i < ST_ARRAY_LEN(bad); i++) {
		struct st_store *s = NULL;

		snprintf(json, sizeof(json), "%s", bad[i]);
		ck_assert_int_eq(try_open(&s), STRATA_E_INPUT);
		ck_assert_ptr_null(s);
	}
}
END_TEST

/* A second process finds the store busy while the first lives, and gets it when that is gone. */
START_TEST(a_live_store_is_locked)
{
	struct st_store *s = create(2, NULL), *again = NULL;
	int status;
	pid_t pid;

	ck_assert_int_eq(try_open(&again), STRATA_E_BUSY); /* not even twice in one process */
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0)
		_exit(try_open(&again) == STRATA_E_BUSY && strstr(st_last_error(), "in use") ? 0
											     : 1);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	write_all(s, 1);
	commit(s, 1);
	st_store_close(s, false);
	s = reopen();
	expect_all(s, 1);
	st_store_close(s, true);
}
END_TEST

/* The ring may still hold the file after the last flush was reaped; the lock must be free. */
START_TEST(a_closed_store_opens_at_once_beside_a_live_queue)
{
	struct st_store *s = create(1, NULL);

	for (unsigned v = 1; v <= 100; v++) {
		write_extent(s, 0, v);
		commit(s, v);
		st_store_close(s, false);
		s = reopen();
	}
	st_store_close(s, true);
}
END_TEST

START_TEST(bad_paths_say_what_to_do)
{
	struct st_store_cfg cfg = make_cfg(2);
	struct st_store *s = NULL;
	char file[300];
	int fd, status;
	pid_t pid;

	snprintf(file, sizeof(file), "%s/plain", base);
	fd = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	ck_assert_int_ge(fd, 0);
	close(fd);
	paths[1] = file;
	ck_assert_int_eq(st_store_create(&s, &cfg, json, sizeof(json)), STRATA_E_INPUT);
	ck_assert_ptr_nonnull(strstr(st_last_error(), "not a directory"));
	paths[1] = "no-such-directory";
	ck_assert_int_eq(st_store_create(&s, &cfg, json, sizeof(json)), STRATA_E_INPUT);
	ck_assert_ptr_nonnull(strstr(st_last_error(), "create the directory"));
	paths[1] = dirs[1];
	ck_assert_int_eq(st_store_create(&s, &cfg, json, 20), -EINVAL);
	/* Not writable: root may write anywhere, so another user tries. */
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		int rc;

		if (getuid() == 0 ? setuid(65534) : chmod(dirs[0], 0500))
			_exit(77);
		rc = st_store_create(&s, &cfg, json, sizeof(json));
		if (rc != STRATA_E_INPUT || !strstr(st_last_error(), "writable"))
			fprintf(stderr, "child: %d %s\n", rc, st_last_error());
		_exit(rc == STRATA_E_INPUT && strstr(st_last_error(), "writable") ? 0 : 1);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		fprintf(stderr, "skipped: no other user to try as\n");
	else
		ck_assert_int_eq(WEXITSTATUS(status), 0);
	ck_assert_int_eq(chmod(dirs[0], 0755), 0);
	for (int p = 0; p < 3; p++)
		ck_assert_uint_eq(count_entries(dirs[p]), 0);
}
END_TEST

START_TEST(everything_is_private)
{
	mode_t old = umask(0);
	struct st_store *s = create(1, NULL);
	struct stat st;
	char file[300], dir[300], moved[310];

	umask(old);
	data_path(0, file, sizeof(file));
	snprintf(dir, sizeof(dir), "%.*s", (int)(strlen(file) - 5), file);
	ck_assert_int_eq(stat(file, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0600);
	/* All of it is allocated; a fragmented file takes blocks of its own for that. */
	ck_assert_uint_ge((uint64_t)st.st_blocks * 512, st_store_disk_bytes(sizes, N_EXTENTS, 1));
	ck_assert_int_eq(stat(dir, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0700);
	ck_assert_int_eq(strncmp(strrchr(dir, '/'), "/strata-", 8), 0);
	st_store_close(s, false);

	/* Opened to others, replaced by a link, a second name, a pipe: refused. */
	ck_assert_int_eq(chmod(dir, 0755), 0);
	expect_open_fails(STRATA_E_INPUT, "open to other users");
	ck_assert_int_eq(chmod(dir, 0700), 0);
	snprintf(moved, sizeof(moved), "%s.moved", dir);
	ck_assert_int_eq(rename(dir, moved), 0);
	ck_assert_int_eq(symlink(strrchr(moved, '/') + 1, dir), 0);
	expect_open_fails(-ENOTDIR, "store directory");
	unlink(dir);
	ck_assert_int_eq(rename(moved, dir), 0);
	snprintf(moved, sizeof(moved), "%s.moved", file);
	ck_assert_int_eq(rename(file, moved), 0);
	ck_assert_int_eq(symlink("data.moved", file), 0);
	expect_open_fails(-ELOOP, file);
	unlink(file);
	ck_assert_int_eq(link(moved, file), 0);
	expect_open_fails(STRATA_E_INPUT, "plain file");
	unlink(file);
	ck_assert_int_eq(mkfifo(file, 0600), 0);
	expect_open_fails(STRATA_E_INPUT, "plain file");
	unlink(file);
	ck_assert_int_eq(rename(moved, file), 0);
	s = reopen();
	st_store_close(s, true);
}
END_TEST

START_TEST(no_space_is_said_before_and_leaves_nothing)
{
	struct st_store_cfg cfg = make_cfg(2);
	struct st_store *s = NULL;
	char *mnt = mount_point;

	snprintf(mount_point, sizeof(mount_point), "%s/small", base);
	ck_assert_int_eq(mkdir(mnt, 0755), 0);
	if (mount("none", mnt, "tmpfs", 0, "size=12m")) {
		fprintf(stderr, "skipped: no tmpfs can be mounted here: %s\n", strerror(errno));
		mount_point[0] = '\0';
		return;
	}
	paths[1] = mnt;
	ck_assert_int_eq(st_store_create(&s, &cfg, json, sizeof(json)), 0);
	write_all(s, 1);
	commit(s, 1);
	expect_all(s, 1);
	st_store_close(s, true);
	cfg.n_paths = 1;
	paths[0] = mnt;
	ck_assert_int_eq(st_store_create(&s, &cfg, json, sizeof(json)), STRATA_E_NO_FIT);
	ck_assert_ptr_nonnull(strstr(st_last_error(), mnt));
	ck_assert_ptr_nonnull(strstr(st_last_error(), "12582912 (0.01 GiB) are free"));
	cfg.n_paths = 2; /* twice the same file system: the needs add up */
	ck_assert_int_eq(st_store_create(&s, &cfg, json, sizeof(json)), STRATA_E_NO_FIT);
	ck_assert_uint_eq(count_entries(mnt), 0);
}
END_TEST

/* ramfs has neither O_DIRECT nor preallocation nor a size. */
START_TEST(a_poor_file_system_is_used_buffered)
{
	struct st_store_cfg cfg = make_cfg(1);
	struct st_store *s = NULL;

	snprintf(mount_point, sizeof(mount_point), "%s/poor", base);
	ck_assert_int_eq(mkdir(mount_point, 0755), 0);
	if (mount("none", mount_point, "ramfs", 0, NULL)) {
		fprintf(stderr, "skipped: no ramfs can be mounted here: %s\n", strerror(errno));
		mount_point[0] = '\0';
		return;
	}
	st_log_set(keep_warning, NULL, ST_LOG_WARN);
	paths[0] = mount_point;
	ck_assert_msg(st_store_create(&s, &cfg, json, sizeof(json)) == 0, "%s", st_last_error());
	st_log_set(NULL, NULL, ST_LOG_WARN);
	ck_assert_int_eq(fcntl(s->files[0].fd, F_GETFL) & O_DIRECT, 0);
	ck_assert_ptr_nonnull(strstr(warning, "buffered I/O is used"));
	write_all(s, 1);
	commit(s, 1);
	st_store_close(s, false);
	s = reopen();
	expect_all(s, 1);
	st_store_close(s, true);
}
END_TEST

/* Commits for ever, telling each through the pipe. */
static void commit_until_killed(int out)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_store *s = reopen();
	unsigned v = (unsigned)st_store_generation(s);

	ck_assert_int_eq(st_aio_open(&q, &cfg), 0); /* the parent's ring is not ours */
	for (;;) {
		write_all(s, ++v);
		commit(s, v);
		ck_assert_int_eq(write(out, &v, sizeof(v)), sizeof(v));
	}
}

/* A real kill at a random time: the last step told, or the one after it. */
START_TEST(a_killed_process_loses_no_committed_step)
{
	struct st_store *s = create(2, NULL);
	unsigned told = 1, v;

	write_all(s, 1);
	commit(s, 1);
	for (int i = 0; i < 6; i++) {
		int tube[2], status;
		pid_t pid;

		st_store_close(s, false);
		ck_assert_int_eq(pipe(tube), 0);
		pid = fork();
		ck_assert_int_ge(pid, 0);
		if (pid == 0)
			commit_until_killed(tube[1]);
		close(tube[1]);
		ck_assert_int_eq(read(tube[0], &told, sizeof(told)), sizeof(told));
		usleep(7000u * (unsigned)i + 500);
		ck_assert_int_eq(kill(pid, SIGKILL), 0);
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		while (read(tube[0], &v, sizeof(v)) == sizeof(v))
			told = v;
		close(tube[0]);
		s = reopen();
		v = (unsigned)st_store_generation(s);
		ck_assert(v == told || v == told + 1);
		expect_all(s, v);
	}
	st_store_close(s, true);
}
END_TEST

START_TEST(reclaim_takes_only_stateless_unlocked_directories)
{
	struct st_store *s = create(1, NULL), *busy = NULL;
	char rootless[160], sub[300], first[4096];
	int fd;

	commit(s, 1);
	st_store_close(s, false);
	data_path(0, sub, sizeof(sub));
	flip(sub, ST_STORE_ROOT_A, 0); /* damaged is not empty */
	flip(sub, ST_STORE_ROOT_B, 0);
	ck_assert_int_eq(st_store_reclaim(dirs[0]), 0);
	flip(sub, ST_STORE_ROOT_A, 0);
	flip(sub, ST_STORE_ROOT_B, 0);
	snprintf(first, sizeof(first), "%s", json);
	st_store_close(create(1, NULL), false); /* nothing committed: the next create removes it */
	ck_assert_uint_eq(count_entries(dirs[0]), 2);
	busy = create(1, NULL);
	ck_assert_uint_eq(count_entries(dirs[0]), 2);
	snprintf(rootless, sizeof(rootless), "%s/strata-%032x", dirs[0], 7);
	ck_assert_int_eq(mkdir(rootless, 0700), 0);
	snprintf(sub, sizeof(sub), "%s/data", rootless);
	fd = open(sub, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ftruncate(fd, 8 << 20), 0);
	snprintf(sub, sizeof(sub), "%s/strata-%032x", dirs[0], 8);
	ck_assert_int_eq(mkdir(sub, 0700), 0); /* nothing in it */
	snprintf(sub, sizeof(sub), "%s/strata-%032x", dirs[0], 9);
	ck_assert_int_eq(symlink("..", sub), 0); /* a link is not ours */
	snprintf(sub, sizeof(sub), "%s/strata-other", dirs[0]);
	ck_assert_int_eq(mkdir(sub, 0700), 0); /* nor is another name */
	snprintf(sub, sizeof(sub), "%s/strata-%032x", dirs[0], 10);
	ck_assert_int_eq(mkdir(sub, 0755), 0); /* nor one open to others */
	ck_assert_int_eq(st_store_reclaim(dirs[0]), 2);
	ck_assert_int_eq(st_store_reclaim(dirs[0]), 0);
	ck_assert_uint_eq(count_entries(dirs[0]), 5);
	ck_assert_int_eq(st_store_reclaim("no-such-directory"), STRATA_E_INPUT);
	close(fd);
	st_store_close(busy, true);
	snprintf(json, sizeof(json), "%s", first);
	s = reopen();
	st_store_close(s, true);
}
END_TEST

START_TEST(misuse_is_refused)
{
	struct st_store *s = create(2, NULL);
	struct st_aio_req r, reqs[4], w;
	int n;

	ck_assert_int_eq(st_store_prep_write(s, N_EXTENTS, buf, &r), -EINVAL);
	ck_assert_int_eq(st_store_prep_write(s, 0, buf + 8, &r), -EINVAL);
	ck_assert_int_eq(st_store_prep_read(s, N_EXTENTS, buf, &r), -EINVAL);
	ck_assert_int_eq(st_store_commit_next(s, reqs, 4), -EINVAL);
	write_all(s, 1);
	ck_assert_int_eq(st_store_prep_write(s, 4, buf, &w), 0);
	ck_assert_int_eq(st_store_commit_begin(s, NULL, 0), -EINVAL); /* 4 is not done */
	ck_assert_ptr_nonnull(strstr(st_last_error(), "h.3"));
	write_extent(s, 4, 1);
	ck_assert_int_eq(st_store_commit_begin(s, NULL, 0), 0);
	ck_assert_int_eq(st_store_commit_begin(s, NULL, 0), -EINVAL);
	ck_assert_int_eq(st_store_prep_write(s, 0, buf, &r), -EINVAL);
	ck_assert_int_eq(st_store_commit_next(s, reqs, 3), -EINVAL);
	while ((n = st_store_commit_next(s, reqs, 4)) > 0) {
		ck_assert_int_eq(read_extent(s, 1), 0); /* reads go on beside */
		ck_assert_int_eq(st_store_prep_write(s, 0, buf, &r), -EINVAL);
		ck_assert_int_eq(st_aio_run(q, reqs, (unsigned)n), 0);
	}
	ck_assert_int_eq(n, 0);
	ck_assert_uint_eq(st_store_generation(s), 1);
	/* Requests given out and never run. */
	write_extent(s, 0, 2);
	ck_assert_int_eq(st_store_commit_begin(s, NULL, 0), 0);
	ck_assert_int_eq(st_store_commit_next(s, reqs, 4), 1);
	ck_assert_int_eq(st_store_commit_next(s, reqs, 4), STRATA_E_IO);
	ck_assert_int_eq(st_store_prep_write(s, 0, buf, &r), STRATA_E_IO);
	ck_assert_int_eq(st_store_commit(s, q, NULL, 0), STRATA_E_IO);
	ck_assert_uint_eq(st_store_generation(s), 1);
	st_store_close(s, true);
}
END_TEST

/* Each I/O of a commit fails in turn: the old generation stays, nothing more is written. */
START_TEST(a_failed_commit_keeps_the_last_one)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_store *s = create(2, NULL);
	struct st_aio_req r;
	int failures = 0;

	cfg.backend = "faulty";
	cfg.threads = 1;
	write_all(s, 1);
	commit(s, 1);
	for (int nth = 1; nth <= 9; nth++) {
		struct st_aio_queue *bad = NULL;
		unsigned version = 2;
		int rc;

		st_store_close(s, false);
		s = reopen();
		if (st_store_generation(s) == 2)
			break; /* both roots were written, or the commit went through */
		expect_all(s, 1);
		write_all(s, 2);
		cfg.faulty_fail_nth = nth;
		cfg.faulty_seed = (uint64_t)nth;
		ck_assert_int_eq(st_aio_open(&bad, &cfg), 0);
		rc = st_store_commit(s, bad, &version, sizeof(version));
		st_aio_close(bad);
		if (rc == 0)
			continue;
		failures++;
		ck_assert_int_eq(rc, -EIO);
		ck_assert_uint_eq(st_store_generation(s), 1);
		ck_assert_int_eq(st_store_prep_write(s, 0, buf, &r), -EIO);
		ck_assert_ptr_nonnull(strstr(st_last_error(), "generation 1 stays"));
	}
	ck_assert_int_ge(failures, 4);
	st_store_close(s, false);
	s = reopen();
	expect_all(s, (unsigned)st_store_generation(s));
	st_store_close(s, true);
}
END_TEST

START_TEST(without_checksums_nothing_is_compared)
{
	struct st_store_cfg cfg = make_cfg(1);
	struct st_store *s = NULL;

	cfg.checksum = false;
	ck_assert_int_eq(st_store_create(&s, &cfg, json, sizeof(json)), 0);
	write_all(s, 1);
	commit(s, 1);
	flip(s->files[0].path, st_store_where(s, 1, 0), 0);
	ck_assert_int_eq(read_extent(s, 1), 0);
	st_store_close(s, false);
	s = reopen(); /* with checksums from now on: only for what is written from now on */
	ck_assert_int_eq(read_extent(s, 1), 0);
	write_extent(s, 1, 2);
	commit(s, 2);
	flip(s->files[0].path, st_store_where(s, 1, 1), 0);
	ck_assert_int_eq(read_extent(s, 1), STRATA_E_CORRUPT);
	st_store_close(s, true);
}
END_TEST

/* ---- for tools ------------------------------------------------------------------------------- */

START_TEST(a_store_tells_what_it_holds)
{
	struct st_store_root_info roots[2];
	struct st_store *s = create(2, NULL), *r;
	struct st_aio_req req;
	unsigned snap = 0;

	for (unsigned v = 1; v <= 2; v++) {
		write_all(s, v);
		commit(s, v);
	}
	st_store_close(s, false);
	r = open_readonly(json);
	ck_assert_ptr_null(st_store_in_use(r));
	ck_assert_uint_eq(st_store_n_extents(r), N_EXTENTS);
	ck_assert_uint_eq(st_store_generation(r), 2);
	for (uint32_t e = 0; e < N_EXTENTS; e++) {
		ck_assert_uint_eq(st_store_extent_bytes(r, e), sizes[e]);
		ck_assert_str_eq(st_store_extent_name(r, e), names[e]);
	}
	expect_all(r, 2);
	ck_assert_uint_eq(st_store_roots(r, roots, 2), 2);
	for (unsigned i = 0; i < 2; i++) {
		memcpy(&snap, roots[i].snapshot, sizeof(snap));
		ck_assert_uint_eq(roots[i].generation, 2 - i);
		ck_assert_uint_eq(roots[i].snapshot_bytes, sizeof(snap));
		ck_assert_uint_eq(snap, 2 - i);
		ck_assert_uint_eq(roots[i].n_copies, 2);
		ck_assert(roots[i].is_current == (i == 0));
	}
	/* Nothing is written through it, and two may read; but nobody writes meanwhile. */
	ck_assert_int_eq(st_store_prep_write(r, 0, buf, &req), -EROFS);
	ck_assert_int_eq(st_store_commit(r, q, NULL, 0), -EROFS);
	st_store_close(open_readonly(json), false);
	ck_assert_int_eq(try_open(&s), STRATA_E_BUSY);
	st_store_close(r, false);
	s = reopen();
	st_store_close(s, true);
	ck_assert_int_eq(st_store_open_readonly(&r, json), STRATA_E_INPUT);
}
END_TEST

/* Beside a writer: what is committed can be listed, by whom it is used is told, no more. */
START_TEST(a_store_in_use_can_be_listed_only)
{
	struct st_store *s = create(2, NULL), *r;
	struct st_store_root_info roots[2];
	struct st_store_verified v;
	struct seen_bad seen = { 0 };
	struct st_aio_req req;
	char who[40];

	write_all(s, 1);
	commit(s, 1);
	r = open_readonly(json);
	ck_assert_ptr_nonnull(st_store_in_use(r));
	snprintf(who, sizeof(who), "process %d (", (int)getpid());
	ck_assert_msg(strstr(st_store_in_use(r), who) != NULL, "%s", st_store_in_use(r));
	ck_assert_uint_eq(st_store_roots(r, roots, 2), 2);
	ck_assert_uint_eq(roots[0].generation, 1);
	ck_assert_uint_eq(st_store_generation(r), 1);
	ck_assert_str_eq(st_store_extent_name(r, 3), "h.2");
	ck_assert_int_eq(st_store_prep_read(r, 0, copy, &req), STRATA_E_BUSY);
	ck_assert_ptr_nonnull(strstr(st_last_error(), who));
	ck_assert_int_eq(verify(r, &seen, &v), STRATA_E_BUSY);
	ck_assert_int_eq(st_store_remove(json), STRATA_E_BUSY);
	st_store_close(r, false);
	write_all(s, 2); /* the writer has not noticed */
	commit(s, 2);
	ck_assert_int_eq(verify(s, &seen, &v), 0);
	ck_assert_uint_eq(v.n_extents, N_EXTENTS);
	st_store_close(s, false);
	ck_assert_int_eq(st_store_remove(json), 0);
	ck_assert_int_eq(st_store_remove(json), 0); /* gone is gone */
	for (int p = 0; p < 3; p++)
		ck_assert_uint_eq(count_entries(dirs[p]), 0);
}
END_TEST

START_TEST(verify_names_every_damaged_extent)
{
	struct st_store *s = create(2, NULL);
	struct st_store_verified v;
	struct seen_bad seen = { 0 };
	char want[64];

	write_all(s, 1);
	commit(s, 1);
	write_extent(s, 3, 2); /* written, not committed: not what is verified */
	flip(s->files[s->extents[3].path].path, st_store_where(s, 3, 1), 0);
	ck_assert_int_eq(verify(s, &seen, &v), 0);
	st_store_close(s, false);
	s = open_readonly(json);
	ck_assert_int_eq(verify(s, &seen, &v), 0);
	ck_assert_uint_gt(seen.n_progress, 0);
	ck_assert_uint_eq(v.bytes, v.total_bytes);
	ck_assert_uint_eq(v.total_bytes, st_store_live_bytes(s));
	for (uint32_t e = 0; e < N_EXTENTS; e++) { /* one flipped bit in each in turn */
		uint64_t at = st_store_where(s, e, 0);
		const char *file = s->files[s->extents[e].path].path;

		flip(file, at + sizes[e] - 1 - e, (int)(e % 8));
		ck_assert_int_eq(verify(s, &seen, &v), STRATA_E_CORRUPT);
		flip(file, at + sizes[e] - 1 - e, (int)(e % 8));
		ck_assert_uint_eq(seen.n, 1);
		ck_assert_uint_eq(v.n_bad, 1);
		ck_assert_uint_eq(v.n_extents, N_EXTENTS);
		ck_assert_uint_eq(seen.last.extent, e);
		ck_assert_uint_eq(seen.last.off_bytes, at);
		ck_assert_uint_eq(seen.last.len_bytes, sizes[e]);
		ck_assert_int_eq(seen.last.rc, STRATA_E_CORRUPT);
		snprintf(want, sizeof(want), "offset %llu", (unsigned long long)at);
		ck_assert_ptr_nonnull(strstr(seen.text, names[e]));
		ck_assert_ptr_nonnull(strstr(seen.text, file));
		ck_assert_ptr_nonnull(strstr(seen.text, want));
	}
	for (uint32_t e = 0; e < N_EXTENTS; e++) /* and in all */
		flip(s->files[s->extents[e].path].path, st_store_where(s, e, 0), 5);
	ck_assert_int_eq(verify(s, &seen, &v), STRATA_E_CORRUPT);
	ck_assert_uint_eq(v.n_bad, N_EXTENTS);
	seen.stops = true;
	ck_assert_int_eq(verify(s, &seen, &v), STRATA_E_CANCELLED);
	st_store_close(s, false);
	ck_assert_int_eq(st_store_remove(json), 0);
}
END_TEST

/* ---- copies ---------------------------------------------------------------------------------- */

START_TEST(copies_are_stores_of_their_own)
{
	struct st_store *s = create((unsigned)_i + 1, NULL), *r;
	struct st_store_verified v;
	struct seen_bad seen = { 0 };
	struct kept k;
	char text[1024];

	ck_assert_int_eq(st_store_keep(s, NULL, 0), -EINVAL); /* nothing is committed */
	for (unsigned g = 1; g <= 5; g++) {
		write_all(s, g);
		commit(s, g);
		if (g % 2)
			continue;
		write_extent(s, 2, 99); /* of the next step: not in the copy */
		ck_assert_msg(st_store_keep(s, text, sizeof(text)) == 0, "%s", st_last_error());
		list_kept(&k);
		ck_assert_uint_eq(k.n, g / 2);
		ck_assert_str_eq(k.json[k.n - 1], text);
	}
	for (unsigned i = 0; i < 2; i++) {
		ck_assert_uint_eq(k.info[i].generation, 2 * i + 2);
		ck_assert_uint_eq(k.snap[i], 2 * i + 2);
		ck_assert_int_eq(k.info[i].rc, 0);
		r = open_readonly(k.json[i]);
		ck_assert_ptr_null(st_store_in_use(r));
		ck_assert_int_eq(verify(r, &seen, &v), 0);
		ck_assert_uint_eq(v.total_bytes, k.info[i].live_bytes);
		expect_all(r, 2 * i + 2);
		st_store_close(r, false);
	}
	/* The store goes on as if nothing had been. */
	expect_all(s, 5);
	st_store_close(s, false);
	s = reopen();
	expect_all(s, 5);
	/* Back to step 2, and on from there. */
	ck_assert_msg(st_store_restore(s, k.json[0]) == 0, "%s", st_last_error());
	ck_assert_uint_eq(st_store_generation(s), 6);
	expect_all(s, 2);
	st_store_close(s, false);
	s = reopen();
	expect_all(s, 2);
	write_all(s, 3);
	ck_assert_int_eq(st_store_restore(s, k.json[0]), -EINVAL); /* something is written */
	commit(s, 3);
	expect_all(s, 3);
	/* They outlive the store. */
	st_store_close(s, true);
	list_kept(&k);
	ck_assert_uint_eq(k.n, 2);
	for (unsigned i = 0; i < 2; i++)
		ck_assert_msg(st_store_remove(k.json[i]) == 0, "%s", st_last_error());
	list_kept(&k);
	ck_assert_uint_eq(k.n, 0);
	for (int p = 0; p < 3; p++)
		ck_assert_uint_eq(count_entries(dirs[p]), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("store");
	TCase *t = tcase_create("store");
	SRunner *r;
	int failed;

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, commits_survive_reopening, 0, 5);
	tcase_add_test(t, weights_share_the_bytes);
	tcase_add_test(t, every_extent_notices_a_flipped_bit);
	tcase_add_test(t, damaged_metadata_is_refused_or_repaired);
	tcase_add_test(t, a_root_that_lost_its_tables_never_returns);
	tcase_add_test(t, other_stores_and_models_are_refused);
	tcase_add_test(t, bad_run_json_is_refused);
	tcase_add_test(t, a_live_store_is_locked);
	tcase_add_test(t, a_closed_store_opens_at_once_beside_a_live_queue);
	tcase_add_test(t, bad_paths_say_what_to_do);
	tcase_add_test(t, everything_is_private);
	tcase_add_test(t, no_space_is_said_before_and_leaves_nothing);
	tcase_add_test(t, a_poor_file_system_is_used_buffered);
	tcase_add_test(t, a_killed_process_loses_no_committed_step);
	tcase_add_test(t, reclaim_takes_only_stateless_unlocked_directories);
	tcase_add_test(t, misuse_is_refused);
	tcase_add_test(t, a_failed_commit_keeps_the_last_one);
	tcase_add_test(t, without_checksums_nothing_is_compared);
	tcase_add_test(t, a_store_tells_what_it_holds);
	tcase_add_test(t, a_store_in_use_can_be_listed_only);
	tcase_add_test(t, verify_names_every_damaged_extent);
	tcase_add_loop_test(t, copies_are_stores_of_their_own, 0, 3);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
