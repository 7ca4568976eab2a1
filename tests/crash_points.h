/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/crash_points.h - an engine that dies at a chosen kernel I/O, and what is found afterwards.
 *
 * The program that includes this defines pread(), pwrite(), fdatasync() and fsync(): what the
 * engine's pool of threads and the store call ends up here, is counted, and at the chosen point the
 * process kills itself (SIGKILL), before the I/O, after it, or after half of it. Each engine is a
 * child, so that the parent stays without threads; the two share memory.
 *
 * In it also stands what each write to a store has overwritten, until a flush of its file that was
 * issued after the write was complete has succeeded. When the power goes as well, the parent puts a
 * random part of that back, by sectors of 512 bytes: unflushed writes are lost, torn and out of
 * order, also those of processes that were killed before without a loss of power.
 */
#ifndef TESTS_CRASH_POINTS_H
#define TESTS_CRASH_POINTS_H

#include "tests/engine_util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "nvme/store_priv.h"

#define LOG_ENTRIES 4096u
#define LOG_BYTES   ((size_t)512 << 20) /* address space: few pages of it are touched */
#define LOG_FILES   4u
#define SECTOR      512u

#ifndef STEPS
#define STEPS 3
#endif

enum point_class { POINT_ANY, POINT_DATA, POINT_TABLE, POINT_ROOT, POINT_FLUSH, POINT_CLASSES };
enum point_how { POINT_BEFORE, POINT_HALF, POINT_AFTER };

static const char *const point_names[] = { "any I/O", "data", "table", "root", "flush" };
static const char *const how_names[] = { "before", "in", "after" };

struct entry { /* of a write */
	unsigned file;
	uint64_t off_bytes, done; /* done: its number among completed writes; 0: not complete */
	size_t len_bytes, at;     /* what was there, in log_bytes */
	bool is_flushed;
};

struct point {
	enum point_class class;
	int nth; /* 1-based; 0: never */
	enum point_how how;
	uint64_t after_step; /* counted from the report of this step on; 0: from the start */
};

static struct shared {       /* of parent and child */
	struct tiny_run run; /* its pointers are the child's; run_json is what is wanted */
	uint64_t resumed, reported, durable, hash;
	unsigned skipped; /* steps, in this process */
	struct point point;
	atomic_bool is_armed;
	atomic_int count[POINT_CLASSES];
	char file[LOG_FILES][200];
	unsigned n_files, n_entries;
	uint64_t n_done;
	size_t n_bytes;
	struct entry log[LOG_ENTRIES];
	_Alignas(4096) unsigned char log_bytes[]; /* each entry's at a multiple of 4096 */
} * shared;

static uint64_t steps = STEPS; /* of a run */
static bool is_child;
static bool logs;     /* the power may go: writes are noted */
static bool is_lying; /* flushes do nothing: the tests must see that */
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- the kernel's side ----------------------------------------------------------------------- */

/* Whose descriptor it is, if it is of a store; else "". */
static void store_file(int fd, char path[200])
{
	char link[64];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, 199);
	path[n > 0 ? n : 0] = '\0';
	if (!strstr(path, "/strata-") || strstr(path, "(deleted)"))
		path[0] = '\0';
}

static enum point_class class_of(int fd, bool is_write, uint64_t off_bytes)
{
	char path[200];

	store_file(fd, path);
	if (!is_write || !path[0])
		return POINT_ANY;
	if (off_bytes == ST_STORE_ROOT_A || off_bytes == ST_STORE_ROOT_B)
		return POINT_ROOT;
	if (off_bytes < ST_STORE_TABLES)
		return POINT_ANY; /* superblocks, when a store is made */
	return off_bytes < ST_STORE_TABLES + 2 * ST_STORE_BLOCK ? POINT_TABLE : POINT_DATA;
}

/* @return the I/O in progress is the last one of this process, and how it ends */
static bool is_chosen(enum point_class class)
{
	int any, mine;

	if (!is_child || !atomic_load(&shared->is_armed))
		return false;
	any = atomic_fetch_add(&shared->count[POINT_ANY], 1) + 1;
	mine = class == POINT_ANY ? 0 : atomic_fetch_add(&shared->count[class], 1) + 1;
	return shared->point.nth &&
	       (shared->point.class == POINT_ANY ? any : mine) == shared->point.nth &&
	       (shared->point.class == POINT_ANY || shared->point.class == class);
}

static void die(void)
{
	kill(getpid(), SIGKILL);
	for (;;)
		pause();
}

/* The number of a file in the log; LOG_FILES: it is not of a store. */
static unsigned log_file(int fd)
{
	char path[200];
	unsigned f;

	store_file(fd, path);
	if (!path[0])
		return LOG_FILES;
	for (f = 0; f < shared->n_files && strcmp(shared->file[f], path); f++)
		;
	if (f == shared->n_files) {
		ST_ASSERT(f < LOG_FILES);
		memcpy(shared->file[f], path, sizeof(path));
		shared->n_files++;
	}
	return f;
}

static size_t log_room(size_t n)
{
	return (n + 4095) & ~(size_t)4095;
}

/* Before a write: what is there. NULL: of no interest. */
static struct entry *note_write(int fd, size_t n, off_t off)
{
	struct entry *e = NULL;
	unsigned file;
	ssize_t got;

	if (!is_child || !logs || !n)
		return NULL;
	pthread_mutex_lock(&log_lock);
	file = log_file(fd);
	if (file < LOG_FILES) {
		ST_ASSERT(shared->n_entries < LOG_ENTRIES &&
			  shared->n_bytes + log_room(n) <= LOG_BYTES);
		e = &shared->log[shared->n_entries];
		*e = (struct entry){ .file = file,
				     .off_bytes = (uint64_t)off,
				     .len_bytes = n,
				     .at = shared->n_bytes };
		got = syscall(SYS_pread64, fd, shared->log_bytes + e->at, n, off);
		ST_ASSERT(got == (ssize_t)n); /* a store's file has its length from the start */
		shared->n_bytes += log_room(n);
		shared->n_entries++;
	}
	pthread_mutex_unlock(&log_lock);
	return e;
}

static void note_written(struct entry *e)
{
	if (!e)
		return;
	pthread_mutex_lock(&log_lock);
	e->done = ++shared->n_done;
	pthread_mutex_unlock(&log_lock);
}

static uint64_t now_done(void)
{
	uint64_t done;

	pthread_mutex_lock(&log_lock);
	done = shared->n_done;
	pthread_mutex_unlock(&log_lock);
	return done;
}

/* A flush of the file has succeeded that was issued when `mark` writes were complete. */
static void note_flushed(int fd, uint64_t mark)
{
	unsigned file;

	if (!is_child || !logs || is_lying)
		return;
	pthread_mutex_lock(&log_lock);
	file = log_file(fd);
	for (unsigned i = 0; i < shared->n_entries; i++) {
		struct entry *e = &shared->log[i];

		e->is_flushed |= e->file == file && e->done && e->done <= mark;
	}
	pthread_mutex_unlock(&log_lock);
}

ssize_t pread(int fd, void *buf, size_t n, off_t off)
{
	bool is_last = is_chosen(class_of(fd, false, (uint64_t)off));
	ssize_t got;

	if (is_last && shared->point.how != POINT_AFTER)
		die();
	got = syscall(SYS_pread64, fd, buf, n, off);
	if (is_last)
		die();
	return got;
}

ssize_t pwrite(int fd, const void *buf, size_t n, off_t off)
{
	bool is_last = is_chosen(class_of(fd, true, (uint64_t)off));
	struct entry *e;
	ssize_t put;

	if (is_last && shared->point.how == POINT_BEFORE)
		die();
	if (is_last && shared->point.how == POINT_HALF)
		n = n / 2 & ~(size_t)511;
	e = note_write(fd, n, off);
	put = n ? syscall(SYS_pwrite64, fd, buf, n, off) : 0;
	if (is_last)
		die();
	note_written(e);
	return put;
}

static int sync_file(int fd, long call)
{
	bool is_last = is_chosen(POINT_FLUSH);
	uint64_t mark = now_done();
	int rc;

	if (is_last && shared->point.how != POINT_AFTER)
		die();
	rc = (int)syscall(call, fd);
	if (!rc)
		note_flushed(fd, mark);
	if (is_last)
		die();
	return rc;
}

int fdatasync(int fd)
{
	return sync_file(fd, SYS_fdatasync);
}

int fsync(int fd)
{
	return sync_file(fd, SYS_fsync);
}

/* ---- the power ------------------------------------------------------------------------------- */

/* No process is left: what was flushed can no longer be lost, and nothing is in flight. */
static void settle_writes(void)
{
	unsigned n = 0;
	size_t at = 0;

	for (unsigned i = 0; i < shared->n_entries; i++) {
		struct entry e = shared->log[i];

		if (e.is_flushed)
			continue;
		if (!e.done)
			e.done = ++shared->n_done;
		memmove(shared->log_bytes + at, shared->log_bytes + e.at, e.len_bytes);
		e.at = at;
		at += log_room(e.len_bytes);
		shared->log[n++] = e;
	}
	shared->n_entries = n;
	shared->n_bytes = at;
}

static void forget_writes(void)
{
	shared->n_entries = shared->n_files = 0;
	shared->n_bytes = 0;
}

/* Of each unflushed write, each sector is there or not: none, half or most of them, by seed. */
static void lose_power(uint64_t seed)
{
	static const unsigned keeps[] = { 0, 2, 3 }; /* of four */
	uint64_t z = seed * 0x9e3779b97f4a7c15u + 1;

	for (unsigned i = shared->n_entries; i-- > 0;) { /* the latest first */
		const struct entry *e = &shared->log[i];
		int fd = open(shared->file[e->file], O_WRONLY | O_CLOEXEC);

		if (fd < 0 && errno == ENOENT) /* a store that was removed */
			continue;
		ck_assert_msg(fd >= 0, "%s: %s", shared->file[e->file], strerror(errno));
		for (size_t s = 0; s < e->len_bytes; s += SECTOR) {
			z = z * 6364136223846793005u + 1442695040888963407u;
			if ((z >> 33) % 4 < keeps[seed % 3])
				continue;
			ck_assert_int_eq(syscall(SYS_pwrite64, fd, shared->log_bytes + e->at + s,
						 SECTOR, (off_t)(e->off_bytes + s)),
					 SECTOR);
		}
		ck_assert_int_eq(close(fd), 0);
	}
	forget_writes();
}

/* ---- children -------------------------------------------------------------------------------- */

/* A check failed in a child (none of its own does): its copy of the runner must not go on. */
static void end_child(void)
{
	if (is_child)
		_exit(1);
}

static void must(int rc)
{
	if (!rc)
		return;
	if (!is_lying)
		fprintf(stderr, "in the child: %s\n", st_last_error());
	_exit(1);
}

static void train(const struct tiny *t, bool resumes)
{
	char json[sizeof(shared->run.run_json)];
	struct tiny_run *r = &shared->run;
	struct st_snapshot snap;
	struct st_step_out out;

	memcpy(json, r->run_json, sizeof(json));
	atomic_store(&shared->is_armed, !shared->point.after_step);
	tiny_plan(r, t);
	must(tiny_try_engine(r, t, resumes ? json : NULL));
	shared->resumed = st_engine_resumed(r->engine, &snap) ? snap.step : 0;
	for (uint64_t s = shared->resumed + 1; s <= steps; s++) {
		must(tiny_try_step(r, s, &out));
		shared->reported = s;
		shared->durable = out.durable_step;
		shared->skipped += out.skipped;
		if (s == shared->point.after_step)
			atomic_store(&shared->is_armed, true);
	}
	must(st_engine_save(r->engine));
	shared->durable = steps;
	must(st_engine_state_hash(r->engine, &shared->hash));
	st_engine_close(r->engine, true);
}

enum fate { LIVED, KILLED, FAILED };

static enum fate child(const struct tiny *t, struct point point)
{
	bool resumes = shared->run.run_json[0] != '\0';
	pid_t pid;
	int status;

	shared->point = point;
	shared->skipped = 0;
	for (unsigned c = 0; c < POINT_CLASSES; c++)
		atomic_store(&shared->count[c], 0);
	fflush(NULL);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (!pid) {
		is_child = true;
		train(t, resumes);
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	settle_writes();
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
		return KILLED;
	ck_assert_msg(is_lying || WIFEXITED(status), "a child ended with %#x", (unsigned)status);
	return WIFEXITED(status) && !WEXITSTATUS(status) ? LIVED : FAILED;
}

static void forget(void)
{
	shared->run.run_json[0] = '\0';
	shared->reported = shared->durable = shared->hash = 0;
	forget_writes();
}

static const struct point nowhere = { .nth = 0 };

static uint64_t undisturbed(const struct tiny *t)
{
	forget();
	ck_assert_int_eq(child(t, nowhere), LIVED);
	return shared->hash;
}

/* One run: dies at `first`; then, while resuming, at `again` (or nowhere); then goes on to the end.
 * Bit 0 of `losses`: the power goes with the first death, bit 1: with the second. */
struct scenario {
	struct point first, again;
	unsigned losses;
	uint64_t seed; /* of what is lost */
};

struct found {
	bool was_met, again_was_met;
	bool is_right; /* else text says what is wrong */
	char text[300];
};

/* The directories, empty again: what is left in them is an error. */
static void expect_empty(void)
{
	for (unsigned p = 0; p < 2; p++) /* only an empty directory can be removed */
		ck_assert_msg(!rmdir(shared->run.dir[p]) && !mkdir(shared->run.dir[p], 0700),
			      "%s: %s", shared->run.dir[p], strerror(errno));
}

static void play(const struct tiny *t, const struct scenario *s, uint64_t want, struct found *f)
{
	const uint64_t every = t->commit_every ? t->commit_every : 1;
	uint64_t reported, durable, least;
	enum fate fate;

	memset(f, 0, sizeof(*f));
	forget();
	logs = s->losses != 0;
	fate = child(t, s->first);
	f->was_met = fate == KILLED;
	reported = shared->reported;
	durable = shared->durable;
	if (f->was_met && s->losses & 1)
		lose_power(s->seed);
	if (f->was_met)
		fate = child(t, s->again);
	if (f->was_met && fate == KILLED) {
		f->again_was_met = true;
		reported = shared->reported; /* its own steps, if it came so far */
		durable = shared->durable;
		if (s->losses & 2)
			lose_power(s->seed + 1);
		fate = child(t, nowhere);
	}
	logs = false;
	least = reported ? (reported - 1) / every * every : 0;
	f->is_right = fate == LIVED && shared->hash == want &&
		      (!f->was_met || (shared->resumed >= durable && shared->resumed >= least));
	snprintf(f->text, sizeof(f->text),
		 "%s %s %d after step %llu, power lost %u, seed %llu: %llu reported, %llu durable, "
		 "resumed at %llu; state %016llx, not %016llx",
		 how_names[s->first.how], point_names[s->first.class], s->first.nth,
		 (unsigned long long)s->first.after_step, s->losses, (unsigned long long)s->seed,
		 (unsigned long long)reported, (unsigned long long)durable,
		 (unsigned long long)shared->resumed, (unsigned long long)shared->hash,
		 (unsigned long long)want);
}

static struct found expect_right(const struct tiny *t, const struct scenario *s, uint64_t want)
{
	struct found f;

	play(t, s, want, &f);
	ck_assert_msg(f.is_right, "%s", f.text);
	expect_empty();
	return f;
}

/* @return the point was met */
static bool crash(const struct tiny *t, struct point first, uint64_t want)
{
	return expect_right(t, &(struct scenario){ .first = first }, want).was_met;
}

static void share(void)
{
	shared = mmap(NULL, sizeof(*shared) + LOG_BYTES, PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ck_assert(shared != MAP_FAILED);
	for (unsigned p = 0; p < 2; p++) {
		struct tiny_run *r = &shared->run;

		snprintf(r->dir[p], sizeof(r->dir[p]), "%s/crash-XXXXXX", tiny_place());
		ck_assert_ptr_nonnull(mkdtemp(r->dir[p]));
		r->paths[p] = r->dir[p];
	}
}

/* Whatever a scenario that went wrong has left. */
static void clear_dirs(void)
{
	char path[300];
	struct dirent *e;

	for (unsigned p = 0; p < 2; p++) {
		DIR *d = opendir(shared->run.dir[p]);

		while (d && (e = readdir(d))) {
			if (strncmp(e->d_name, "strata-", 7))
				continue;
			snprintf(path, sizeof(path), "%s/%.60s/data", shared->run.dir[p],
				 e->d_name);
			unlink(path);
			*strrchr(path, '/') = '\0';
			rmdir(path);
		}
		if (d)
			closedir(d);
	}
}

static void unshare_all(void)
{
	clear_dirs();
	for (unsigned p = 0; p < 2; p++)
		rmdir(shared->run.dir[p]);
}

#endif
