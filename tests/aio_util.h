/* SPDX-License-Identifier: Apache-2.0 */
/* tests/aio_util.h - a file, buffers and requests for the tests of aio; children; log lines. */
#ifndef TESTS_AIO_UTIL_H
#define TESTS_AIO_UTIL_H

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "aio/aio.h"
#include "core/clock.h"
#include "core/log.h"

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)

static __attribute__((unused)) const char *real_backends[] = { "io_uring", "threads" };

static char path[64];
static int fd = -1, buffered_fd = -1;
static char *buf, *copy; /* 64 MiB each */

static inline void open_file(void)
{
	snprintf(path, sizeof(path), "test_aio.%d.tmp", (int)getpid());
	buffered_fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	ck_assert_int_ge(buffered_fd, 0);
	fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (fd < 0) /* no O_DIRECT on this file system: the rest holds as well */
		fd = open(path, O_RDWR | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	unlink(path);
	buf = aligned_alloc(ST_AIO_ALIGN, 64 * MIB);
	copy = aligned_alloc(ST_AIO_ALIGN, 64 * MIB);
	ck_assert(buf && copy);
}

static inline void close_file(void)
{
	free(buf);
	free(copy);
	close(fd);
	close(buffered_fd);
}

static inline void fill(char *p, size_t len, uint64_t seed)
{
	uint64_t x = seed * 0x9e3779b97f4a7c15u + 1;

	for (size_t i = 0; i + 8 <= len; i += 8) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		memcpy(p + i, &x, 8);
	}
}

static inline struct st_aio_queue *open_queue(const struct st_aio_cfg *cfg)
{
	struct st_aio_queue *q = NULL;

	ck_assert_msg(st_aio_open(&q, cfg) == 0, "%s", st_last_error());
	return q;
}

static inline struct st_aio_req io(enum st_aio_op op, void *p, size_t len, uint64_t off)
{
	return (struct st_aio_req){
		.op = op, .fd = fd, .path = path, .buf = p, .len_bytes = len, .off_bytes = off
	};
}

static inline void run_ok(struct st_aio_queue *q, struct st_aio_req *r, unsigned n)
{
	ck_assert_msg(st_aio_run(q, r, n) == 0, "%s", st_last_error());
}

static inline void write_read(struct st_aio_queue *q, size_t len, uint64_t off, uint64_t seed)
{
	struct st_aio_req r = io(ST_AIO_WRITE, buf, len, off);

	fill(buf, len, seed);
	run_ok(q, &r, 1);
	ck_assert_int_eq(r.result, (int64_t)len);
	ck_assert(r.done_ns >= r.submit_ns && r.submit_ns > 0);
	r = io(ST_AIO_FLUSH, NULL, 0, 0);
	run_ok(q, &r, 1);
	memset(copy, 0, len);
	r = io(ST_AIO_READ, copy, len, off);
	run_ok(q, &r, 1);
	ck_assert_int_eq(r.result, (int64_t)len);
	ck_assert_int_eq(memcmp(buf, copy, len), 0);
}

static int lines;
static char last_line[1024];

static inline void count_line(void *user, enum st_log_level level, const char *line)
{
	(void)user;
	(void)level;
	lines++;
	snprintf(last_line, sizeof(last_line), "%s", line);
}

#define NEED(cond, code)                                                                           \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			fprintf(stderr, "child: %s: %s\n", #cond, last_line);                      \
			_exit(code);                                                               \
		}                                                                                  \
	} while (0)

/* A child's exit code is 0, or 77: the machine does not allow the test, which is said. */
static inline void check_status(int status, const char *why_skipped)
{
	ck_assert(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		fprintf(stderr, "skipped: %s\n", why_skipped);
	else
		ck_assert_int_eq(WEXITSTATUS(status), 0);
}

static inline void await_child(pid_t pid, const char *why_skipped)
{
	int status;

	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	check_status(status, why_skipped);
}

/* Where io_uring does not work at all, only the thread pool's cases are run. */
static inline bool has_uring(void)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_aio_queue *q;

	cfg.backend = "io_uring";
	if (st_aio_open(&q, &cfg) == 0) {
		st_aio_close(q);
		return true;
	}
	fprintf(stderr, "skipped: cases of io_uring: %s\n", st_last_error());
	return false;
}

#endif
