/* SPDX-License-Identifier: Apache-2.0 */
/* tests/test_aio.c - requests over every backend: contents, cuts, faults, waits, fallbacks. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "aio/aio.h"
#include "core/clock.h"
#include "core/log.h"

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)

static const char *real_backends[] = { "io_uring", "threads" };
static const size_t lengths[] = { 4 * KIB, 12 * KIB, MIB, MIB + 4 * KIB, 64 * MIB };

static char path[64];
static int fd = -1, buffered_fd = -1;
static char *buf, *copy; /* 64 MiB each */

static void open_file(void)
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

static void close_file(void)
{
	free(buf);
	free(copy);
	close(fd);
	close(buffered_fd);
}

static void fill(char *p, size_t len, uint64_t seed)
{
	uint64_t x = seed * 0x9e3779b97f4a7c15u + 1;

	for (size_t i = 0; i + 8 <= len; i += 8) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		memcpy(p + i, &x, 8);
	}
}

static struct st_aio_queue *open_queue(const struct st_aio_cfg *cfg)
{
	struct st_aio_queue *q = NULL;

	ck_assert_msg(st_aio_open(&q, cfg) == 0, "%s", st_last_error());
	return q;
}

static struct st_aio_req io(enum st_aio_op op, void *p, size_t len, uint64_t off)
{
	return (struct st_aio_req){
		.op = op, .fd = fd, .path = path, .buf = p, .len_bytes = len, .off_bytes = off
	};
}

static void run_ok(struct st_aio_queue *q, struct st_aio_req *r, unsigned n)
{
	ck_assert_msg(st_aio_run(q, r, n) == 0, "%s", st_last_error());
}

static void write_read(struct st_aio_queue *q, size_t len, uint64_t off, uint64_t seed)
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

START_TEST(every_length_round_trips)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_aio_queue *q;
	struct st_aio_stats s;

	cfg.backend = real_backends[_i % 2];
	cfg.depth = _i < 2 ? 4 : 64; /* 64 MiB is 64 pieces: far more than 4 */
	cfg.single_submit = _i < 2;
	q = open_queue(&cfg);
	ck_assert_str_eq(st_aio_name(q), cfg.backend);
	if (_i >= 2) {
		ck_assert_int_eq(st_aio_register(q, buf, 64 * MIB), 0);
		ck_assert_int_eq(st_aio_register(q, copy, 32 * MIB),
				 0); /* half is not registered */
	}
	for (size_t i = 0; i < ST_ARRAY_LEN(lengths); i++)
		write_read(q, lengths[i], 8 * KIB * i, 77 * i + (unsigned)_i);
	st_aio_get_stats(q, &s);
	ck_assert_uint_eq(s.reads, ST_ARRAY_LEN(lengths));
	ck_assert_uint_eq(s.writes, ST_ARRAY_LEN(lengths));
	ck_assert_uint_eq(s.flushes, ST_ARRAY_LEN(lengths));
	ck_assert_uint_eq(s.read_bytes, 66 * MIB + 20 * KIB);
	ck_assert_uint_eq(s.write_bytes, s.read_bytes);
	ck_assert(s.read_ns > 0 && s.write_ns > 0);
	st_aio_close(q);
}
END_TEST

START_TEST(many_at_once_complete_once_each)
{
	enum { N = 256 };
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_aio_req *r = calloc(N, sizeof(*r)), *done[7];
	struct st_aio_queue *q;
	unsigned n = 0, reaped = 0, refused = 0;
	char seen[N] = { 0 };
	int rc;

	ck_assert_ptr_nonnull(r);
	cfg.backend = real_backends[_i];
	cfg.depth = 16;
	cfg.block_bytes = 16 * KIB;
	q = open_queue(&cfg);
	write_read(q, N * 32 * KIB, 0, 5);
	memset(copy, 0, N * 32 * KIB);
	while (reaped < N) {
		while (n < N) {
			r[n] = io(ST_AIO_READ, copy + n * 32 * KIB, 32 * KIB, n * 32 * KIB);
			rc = st_aio_submit(q, &r[n]);
			if (rc == -EAGAIN) {
				refused++;
				break;
			}
			ck_assert_int_eq(rc, 0);
			n++;
		}
		ck_assert_uint_le(n - reaped, 16);
		rc = st_aio_reap(q, done, 7, -1);
		ck_assert_int_gt(rc, 0);
		for (int i = 0; i < rc; i++) {
			ck_assert_int_eq(done[i]->result, 32 * (int64_t)KIB);
			ck_assert_int_eq(seen[done[i] - r]++, 0);
		}
		reaped += (unsigned)rc;
	}
	ck_assert_uint_gt(refused, 0);
	ck_assert_int_eq(st_aio_reap(q, done, 7, 0), 0);
	ck_assert_int_eq(memcmp(buf, copy, N * 32 * KIB), 0);
	st_aio_close(q);
	free(r);
}
END_TEST

START_TEST(short_transfers_are_resumed)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_aio_queue *q;
	struct st_aio_stats s;

	cfg.backend = "faulty";
	cfg.faulty_inner = real_backends[_i % 2];
	cfg.faulty_short_rate = 0.5;
	cfg.faulty_delay_rate = 0.1;
	cfg.faulty_seed = (uint64_t)_i;
	cfg.depth = 8;
	cfg.block_bytes = 64 * KIB;
	q = open_queue(&cfg);
	ck_assert_str_eq(st_aio_name(q), "faulty");
	write_read(q, 4 * KIB, 0, 1);
	write_read(q, 2 * MIB + 12 * KIB, 4 * KIB, 2);
	st_aio_get_stats(q, &s);
	ck_assert_uint_gt(s.resumed, 10);
	ck_assert_uint_eq(s.read_bytes, 2 * MIB + 16 * KIB);
	st_aio_close(q);
}
END_TEST

/* Each failing kernel I/O in turn: the request that holds it fails, the others do not. */
START_TEST(nth_failure_is_reported_once)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;

	cfg.backend = "faulty";
	cfg.faulty_inner = real_backends[_i % 2];
	cfg.block_bytes = 4 * KIB;
	cfg.depth = 4;
	for (int64_t nth = 1; nth <= 7; nth++) {
		struct st_aio_queue *q;
		struct st_aio_req r[3] = { io(ST_AIO_WRITE, buf, 8 * KIB, 0),
					   io(ST_AIO_WRITE, buf + 8 * KIB, 12 * KIB, 8 * KIB),
					   io(ST_AIO_FLUSH, NULL, 0, 0) };
		bool forever = _i >= 2;
		int failed = 0;

		cfg.faulty_fail_nth = forever ? -nth : nth;
		q = open_queue(&cfg);
		ck_assert_int_eq(st_aio_run(q, r, 3), nth <= 6 ? -EIO : 0);
		for (int i = 0; i < 3; i++)
			if (r[i].result < 0) {
				failed++;
				ck_assert_int_eq(r[i].result, -EIO);
				ck_assert_int_eq(r[i].error.rc, -EIO);
				ck_assert_ptr_nonnull(strstr(r[i].error.text, path));
				ck_assert_ptr_nonnull(strstr(r[i].error.text, "Input/output"));
			}
		if (forever)
			ck_assert_int_eq(failed, nth <= 2 ? 3 : nth <= 5 ? 2 : nth == 6);
		else
			ck_assert_int_eq(failed, nth <= 6);
		st_aio_close(q);
	}
}
END_TEST

START_TEST(errors_name_path_offset_and_length)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_aio_queue *q;
	struct st_aio_req r;
	int ro = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

	cfg.backend = real_backends[_i];
	q = open_queue(&cfg);
	ck_assert_int_eq(ftruncate(buffered_fd, 8 * (off_t)KIB + 100), 0);
	r = io(ST_AIO_READ, buf, 64 * KIB, 4 * KIB);
	ck_assert_int_eq(st_aio_run(q, &r, 1), STRATA_E_IO);
	ck_assert_int_eq(r.result, STRATA_E_IO);
	ck_assert_ptr_nonnull(strstr(r.error.text, path));
	ck_assert_ptr_nonnull(strstr(r.error.text, "truncated"));
	ck_assert_ptr_nonnull(strstr(r.error.text, "offset 8192"));
	r = io(ST_AIO_READ, buf, 4 * KIB, 64 * MIB);
	ck_assert_int_eq(st_aio_run(q, &r, 1), STRATA_E_IO);
	ck_assert_ptr_nonnull(strstr(r.error.text, "4096 bytes at offset 67108864"));

	r = io(ST_AIO_WRITE, buf, 4 * KIB, 12288);
	r.fd = ro;
	ck_assert_int_eq(st_aio_run(q, &r, 1), -EBADF);
	ck_assert_ptr_nonnull(strstr(r.error.text, "write of 4096 bytes at offset 12288"));
	ck_assert_ptr_nonnull(strstr(r.error.text, "Bad file descriptor"));
	ck_assert_str_eq(st_last_error(), r.error.text);
	if (fcntl(fd, F_GETFL) & O_DIRECT) {
		r = io(ST_AIO_WRITE, buf + 1, 4 * KIB, 0);
		ck_assert_int_eq(st_aio_run(q, &r, 1), -EINVAL);
		ck_assert_ptr_nonnull(strstr(r.error.text, "O_DIRECT"));
	}
	write_read(q, 4 * KIB, 0, 3); /* the queue works on */
	st_aio_close(q);
	close(ro);
}
END_TEST

START_TEST(bad_arguments_are_refused)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_aio_queue *q = NULL;
	struct st_aio_req r = io(ST_AIO_READ, buf, 0, 0), *done;

	cfg.depth = 0;
	ck_assert_int_eq(st_aio_open(&q, &cfg), -EINVAL);
	cfg.depth = 4097;
	ck_assert_int_eq(st_aio_open(&q, &cfg), -EINVAL);
	cfg.depth = 4;
	cfg.block_bytes = 5000;
	ck_assert_int_eq(st_aio_open(&q, &cfg), -EINVAL);
	cfg.block_bytes = 4096;
	cfg.threads = 65;
	ck_assert_int_eq(st_aio_open(&q, &cfg), -EINVAL);
	cfg.threads = 1;
	cfg.backend = "libaio";
	ck_assert_int_eq(st_aio_open(&q, &cfg), -EINVAL);
	ck_assert_ptr_nonnull(strstr(st_last_error(), "libaio"));
	cfg.backend = "faulty";
	cfg.faulty_inner = "faulty";
	ck_assert_int_eq(st_aio_open(&q, &cfg), -EINVAL);
	ck_assert_ptr_null(q);
	cfg.backend = "threads";
	q = open_queue(&cfg);
	ck_assert_int_eq(st_aio_submit(q, &r), -EINVAL);
	r = io(ST_AIO_READ, NULL, 4096, 0);
	ck_assert_int_eq(st_aio_submit(q, &r), -EINVAL);
	r = io(ST_AIO_READ, buf, 4096, INT64_MAX - 100);
	ck_assert_int_eq(st_aio_submit(q, &r), -EINVAL);
	r = io(ST_AIO_READ, buf, 4096, 0);
	r.fd = -1;
	ck_assert_int_eq(st_aio_submit(q, &r), -EINVAL);
	ck_assert_int_eq(st_aio_reap(q, &done, 0, 0), -EINVAL);
	ck_assert_int_eq(st_aio_reap(q, &done, 1, 0), 0);
	ck_assert_int_eq(st_aio_register(q, NULL, 5), -EINVAL);
	st_aio_close(q);
	st_aio_close(NULL);
}
END_TEST

static void *wake_later(void *q)
{
	nanosleep(&(struct timespec){ .tv_nsec = 30000000 }, NULL);
	st_aio_wake(q);
	return NULL;
}

static void *submit_elsewhere(void *q)
{
	struct st_aio_req r = io(ST_AIO_READ, buf, 4096, 0), *done;

	ck_assert_int_eq(st_aio_submit(q, &r), -EINVAL);
	ck_assert_int_eq(st_aio_reap(q, &done, 1, 0), -EINVAL);
	return NULL;
}

START_TEST(waits_end_by_wake_and_by_time)
{
	const char *const all[] = { real_backends[0], "threads", "null", "faulty" };
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_aio_req *done, r;
	struct st_aio_queue *q;
	pthread_t t;
	int64_t start, took;

	cfg.backend = all[_i];
	q = open_queue(&cfg);
	for (int k = 0; k < 3; k++) {
		start = st_now_ns();
		ck_assert_int_eq(pthread_create(&t, NULL, wake_later, q), 0);
		ck_assert_int_eq(st_aio_reap(q, &done, 1, k == 1 ? 5000000000 : -1), 0);
		took = st_now_ns() - start;
		ck_assert_int_ge(took, 20000000);
		ck_assert_int_lt(took, 4000000000);
		pthread_join(t, NULL);
		start = st_now_ns();
		ck_assert_int_eq(st_aio_reap(q, &done, 1, 20000000), 0);
		ck_assert_int_ge(st_now_ns() - start, 20000000);
	}
	/* A wake-up before the wait ends the next one, once; many count as one. */
	for (int k = 0; k < 3; k++)
		st_aio_wake(q);
	ck_assert_int_eq(st_aio_reap(q, &done, 1, -1), 0);
	start = st_now_ns();
	ck_assert_int_eq(st_aio_reap(q, &done, 1, 10000000), 0);
	ck_assert_int_ge(st_now_ns() - start, 10000000);
	/* A storm of wake-ups starves no completion. */
	r = io(ST_AIO_READ, buf, 4096, 0);
	ck_assert_int_eq(st_aio_submit(q, &r), 0);
	start = st_now_ns();
	do {
		st_aio_wake(q);
		took = st_now_ns() - start;
	} while (st_aio_reap(q, &done, 1, -1) == 0 && took < 5000000000);
	ck_assert_ptr_eq(done, &r);
	ck_assert_int_eq(r.result, 4096);
	ck_assert_int_eq(pthread_create(&t, NULL, submit_elsewhere, q), 0);
	pthread_join(t, NULL);
	st_aio_close(q);
}
END_TEST

START_TEST(close_waits_for_what_is_in_flight)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_aio_req r[4];
	struct st_aio_queue *q;

	cfg.backend = _i < 2 ? real_backends[_i] : "faulty";
	cfg.faulty_inner = real_backends[_i % 2];
	cfg.faulty_delay_rate = 0.5;
	cfg.depth = 4;
	q = open_queue(&cfg);
	write_read(q, 32 * MIB, 0, 9);
	memset(copy, 0, 32 * MIB);
	for (int i = 0; i < 4; i++) {
		r[i] = io(ST_AIO_READ, copy + i * 8 * MIB, 8 * MIB, i * 8 * MIB);
		ck_assert_int_eq(st_aio_submit(q, &r[i]), 0);
	}
	st_aio_close(q);
	fill(copy, 32 * MIB, 10); /* nobody writes there any more */
	fill(buf, 32 * MIB, 10);
	ck_assert_int_eq(memcmp(buf, copy, 32 * MIB), 0);
}
END_TEST

START_TEST(null_moves_nothing)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_aio_req r = io(ST_AIO_READ, buf, 64 * MIB, 0);
	struct st_aio_queue *q;

	cfg.backend = "null";
	cfg.depth = 3;
	q = open_queue(&cfg);
	memset(buf, 7, 64);
	run_ok(q, &r, 1);
	ck_assert_int_eq(r.result, 64 * (int64_t)MIB);
	ck_assert_int_eq(buf[5], 7);
	st_aio_close(q);
}
END_TEST

/* Deny the three io_uring system calls from first_nr on; everything else goes on. */
static int deny_uring(unsigned first_nr, int err)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, first_nr, 0, 2),
		BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, __NR_io_uring_register, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)err),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { .len = ST_ARRAY_LEN(code), .filter = code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -errno;
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) ? -errno : 0;
}

static int lines;
static char last_line[1024];

static void count_line(void *user, enum st_log_level level, const char *line)
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

static void denied_child(unsigned first_nr, int err)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_aio_queue *q = NULL;
	struct st_aio_req r;

	lines = 0;
	st_log_set(count_line, NULL, ST_LOG_DEBUG);
	NEED(deny_uring(first_nr, err) == 0, 77);
	for (int i = 0; i < 2; i++) {
		NEED(st_aio_open(&q, &cfg) == 0, 2);
		NEED(!strcmp(st_aio_name(q), "threads"), 3);
		fill(buf, MIB, 4);
		r = io(ST_AIO_WRITE, buf, MIB, 0);
		NEED(st_aio_run(q, &r, 1) == 0, 4);
		r = io(ST_AIO_READ, copy, MIB, 0);
		NEED(st_aio_run(q, &r, 1) == 0 && !memcmp(buf, copy, MIB), 5);
		st_aio_close(q);
		NEED(lines == 1 && strstr(last_line, "I/O threads"), 6);
	}
	cfg.backend = "io_uring";
	NEED(st_aio_open(&q, &cfg) == STRATA_E_UNSUPPORTED, 7);
	NEED(strstr(st_last_error(), strata_strerror(-err)), 8);
	_exit(0);
}

START_TEST(denied_io_uring_falls_back)
{
	static const struct {
		unsigned first_nr;
		int err;
	} cases[] = { { __NR_io_uring_setup, EPERM },
		      { __NR_io_uring_setup, ENOSYS },
		      { __NR_io_uring_enter, EPERM } }; /* set up, but no I/O */
	int status;
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0)
		denied_child(cases[_i].first_nr, cases[_i].err);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		fprintf(stderr, "skipped: no seccomp filter can be set here\n");
	else
		ck_assert_int_eq(WEXITSTATUS(status), 0);
}
END_TEST

/* A read behind many long writes gets its share of the kernel I/Os. */
START_TEST(long_writes_do_not_hold_up_reads)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_aio_req w[4], r, *done;
	struct st_aio_queue *q;
	int before = 0;

	cfg.backend = real_backends[_i];
	cfg.depth = 8;
	cfg.block_bytes = 256 * KIB;
	q = open_queue(&cfg);
	write_read(q, MIB, 0, 12);
	for (int i = 0; i < 4; i++) {
		w[i] = io(ST_AIO_WRITE, buf, 16 * MIB, (uint64_t)i * 16 * MIB);
		ck_assert_int_eq(st_aio_submit(q, &w[i]), 0);
	}
	r = io(ST_AIO_READ, copy, 4 * KIB, 64 * MIB - 4 * KIB);
	ck_assert_int_eq(ftruncate(buffered_fd, 64 * (off_t)MIB), 0);
	ck_assert_int_eq(st_aio_submit(q, &r), 0);
	do {
		ck_assert_int_eq(st_aio_reap(q, &done, 1, -1), 1);
		ck_assert_int_ge(done->result, 0);
		before += done != &r;
	} while (done != &r);
	ck_assert_int_le(before, 2);
	st_aio_close(q);
}
END_TEST

/* Root passes every limit of locked memory, so another user tries. */
static void small_memlock_child(void)
{
	const struct rlimit none = { 65536, 65536 };
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_aio_queue *q = NULL;
	struct st_aio_req r;

	lines = 0;
	st_log_set(count_line, NULL, ST_LOG_DEBUG);
	NEED(getuid() != 0 || setuid(65534) == 0, 77);
	NEED(setrlimit(RLIMIT_MEMLOCK, &none) == 0, 77);
	cfg.backend = "io_uring";
	NEED(st_aio_open(&q, &cfg) == 0, 77);
	NEED(st_aio_register(q, buf, 64 * MIB) == 0, 2);
	NEED(st_aio_register(q, copy, 64 * MIB) == 0, 3);
	NEED(lines == 1 && strstr(last_line, "ulimit -l"), 4);
	fill(buf, 4 * MIB, 8);
	r = io(ST_AIO_WRITE, buf, 4 * MIB, 0);
	NEED(st_aio_run(q, &r, 1) == 0, 5);
	r = io(ST_AIO_READ, copy, 4 * MIB, 0);
	NEED(st_aio_run(q, &r, 1) == 0 && !memcmp(buf, copy, 4 * MIB), 6);
	st_aio_close(q);
	_exit(0);
}

START_TEST(a_small_memlock_limit_is_no_failure)
{
	int status;
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0)
		small_memlock_child();
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		fprintf(stderr, "skipped: no other user, or no io_uring for one\n");
	else
		ck_assert_int_eq(WEXITSTATUS(status), 0);
}
END_TEST

/* Where io_uring does not work at all, only the thread pool's cases are run. */
static bool has_uring(void)
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

int main(void)
{
	Suite *s = suite_create("aio");
	TCase *t = tcase_create("aio");
	SRunner *r;
	int failed;

	if (!has_uring())
		real_backends[0] = "threads";
	tcase_add_unchecked_fixture(t, open_file, close_file);
	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, every_length_round_trips, 0, 4);
	tcase_add_loop_test(t, many_at_once_complete_once_each, 0, 2);
	tcase_add_loop_test(t, short_transfers_are_resumed, 0, 6);
	tcase_add_loop_test(t, nth_failure_is_reported_once, 0, 4);
	tcase_add_loop_test(t, errors_name_path_offset_and_length, 0, 2);
	tcase_add_test(t, bad_arguments_are_refused);
	tcase_add_loop_test(t, waits_end_by_wake_and_by_time, 0, 4);
	tcase_add_loop_test(t, close_waits_for_what_is_in_flight, 0, 4);
	tcase_add_test(t, null_moves_nothing);
	tcase_add_loop_test(t, long_writes_do_not_hold_up_reads, 0, 2);
	tcase_add_test(t, a_small_memlock_limit_is_no_failure);
	tcase_add_loop_test(t, denied_io_uring_falls_back, 0, 3);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
