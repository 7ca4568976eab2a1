/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/crash_points.h - an engine that dies at a chosen kernel I/O, and what is found afterwards.
 *
 * The program that includes this defines pread(), pwrite(), fdatasync() and fsync(): what the
 * engine's pool of threads and the store call ends up here, is counted, and at the chosen point the
 * process kills itself (SIGKILL), before the I/O, after it, or after half of it. Each engine is a
 * child, so that the parent stays without threads; the two share a page.
 */
#ifndef TESTS_CRASH_POINTS_H
#define TESTS_CRASH_POINTS_H

#include "tests/engine_util.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "nvme/store_priv.h"

#ifndef STEPS
#define STEPS 3
#endif

enum point_class { POINT_ANY, POINT_DATA, POINT_TABLE, POINT_ROOT, POINT_FLUSH, POINT_CLASSES };
enum point_how { POINT_BEFORE, POINT_HALF, POINT_AFTER };

static const char *const point_names[] = { "any I/O", "data", "table", "root", "flush" };
static const char *const how_names[] = { "before", "in", "after" };

struct point {
	enum point_class class;
	int nth; /* 1-based; 0: never */
	enum point_how how;
	uint64_t after_step; /* counted from the report of this step on; 0: from the start */
};

static struct shared {       /* of parent and child */
	struct tiny_run run; /* its pointers are the child's; run_json is what is wanted */
	uint64_t resumed, reported, durable, hash;
	struct point point;
	atomic_bool is_armed;
	atomic_int count[POINT_CLASSES];
} * shared;

static bool is_child;

/* ---- the kernel's side ----------------------------------------------------------------------- */

static enum point_class class_of(int fd, bool is_write, uint64_t off_bytes)
{
	char link[64], path[512];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	path[n > 0 ? n : 0] = '\0';
	if (!is_write || !strstr(path, "/strata-"))
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
	ssize_t put;

	if (is_last && shared->point.how == POINT_BEFORE)
		die();
	if (is_last && shared->point.how == POINT_HALF)
		n = n / 2 & ~(size_t)511;
	put = n ? syscall(SYS_pwrite64, fd, buf, n, off) : 0;
	if (is_last)
		die();
	return put;
}

static int sync_file(int fd, long call)
{
	bool is_last = is_chosen(POINT_FLUSH);
	int rc;

	if (is_last && shared->point.how != POINT_AFTER)
		die();
	rc = (int)syscall(call, fd);
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

/* ---- children ---------------------------------------------------------------------------------
 */

/* After a check that failed in a child, its copy of the runner must not go on. */
static void end_child(void)
{
	if (is_child) {
		fprintf(stderr, "in the child: %s\n", st_last_error());
		_exit(1);
	}
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
	tiny_engine(r, t, resumes ? json : NULL);
	shared->resumed = st_engine_resumed(r->engine, &snap) ? snap.step : 0;
	for (uint64_t s = shared->resumed + 1; s <= STEPS; s++) {
		tiny_step(r, s, &out);
		shared->reported = s;
		shared->durable = out.durable_step;
		if (s == shared->point.after_step)
			atomic_store(&shared->is_armed, true);
	}
	CK(st_engine_save(r->engine));
	shared->durable = STEPS;
	shared->hash = tiny_hash(r);
	st_engine_close(r->engine, true);
}

/* @return it lived to its end */
static bool child(const struct tiny *t, struct point point)
{
	bool resumes = shared->run.run_json[0] != '\0';
	pid_t pid;
	int status;

	shared->point = point;
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
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
		return false;
	ck_assert_msg(WIFEXITED(status) && !WEXITSTATUS(status), "a child ended with %#x",
		      (unsigned)status);
	return true;
}

static void forget(void)
{
	shared->run.run_json[0] = '\0';
	shared->reported = shared->durable = shared->hash = 0;
}

static const struct point nowhere = { .nth = 0 };

static uint64_t undisturbed(const struct tiny *t)
{
	forget();
	ck_assert(child(t, nowhere));
	return shared->hash;
}

/*
 * Die at `first`; then, while resuming, at `again` (or nowhere); then go on to the end.
 * @return the first one was met
 */
static bool crash(const struct tiny *t, struct point first, struct point again, uint64_t want)
{
	uint64_t reported, durable;
	bool was_met;

	forget();
	was_met = !child(t, first);
	reported = shared->reported;
	durable = shared->durable;
	if (was_met) {
		(void)child(t, again);
		if (shared->hash == 0)
			ck_assert(child(t, nowhere));
		ck_assert_msg(shared->resumed >= durable && shared->resumed + 1 >= reported,
			      "%s %s %d after step %llu: %llu reported, %llu durable, resumed at "
			      "%llu",
			      how_names[first.how], point_names[first.class], first.nth,
			      (unsigned long long)first.after_step, (unsigned long long)reported,
			      (unsigned long long)durable, (unsigned long long)shared->resumed);
	}
	ck_assert_msg(shared->hash == want, "%s %s %d after step %llu: state %016llx, not %016llx",
		      how_names[first.how], point_names[first.class], first.nth,
		      (unsigned long long)first.after_step, (unsigned long long)shared->hash,
		      (unsigned long long)want);
	for (unsigned p = 0; p < 2; p++) /* only an empty directory can be removed */
		ck_assert_msg(!rmdir(shared->run.dir[p]) && !mkdir(shared->run.dir[p], 0700),
			      "%s: %s", shared->run.dir[p], strerror(errno));
	return was_met;
}

static void share(void)
{
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	ck_assert(shared != MAP_FAILED);
	for (unsigned p = 0; p < 2; p++) {
		struct tiny_run *r = &shared->run;

		snprintf(r->dir[p], sizeof(r->dir[p]), "%s/crash-XXXXXX", STRATA_BUILD_DIR);
		ck_assert_ptr_nonnull(mkdtemp(r->dir[p]));
		r->paths[p] = r->dir[p];
	}
}

static void unshare_all(void)
{
	for (unsigned p = 0; p < 2; p++)
		rmdir(shared->run.dir[p]);
}

#endif
