/* SPDX-License-Identifier: Apache-2.0 */
/* tests/test_aio.c - requests over every backend: contents, cuts, waits, cancels, stalls, the end.
 */
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "aio/faulty.h"
#include "aio_util.h"

#define N_PINGS 1000

static const size_t lengths[] = { 4 * KIB, 12 * KIB, MIB, MIB + 4 * KIB, 64 * MIB };

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

struct ping {
	struct st_aio_queue *q;
	atomic_int n_woken, n_seen;
};

static void *wake_often(void *arg)
{
	struct ping *p = arg;

	for (int i = 1; i <= N_PINGS; i++) {
		atomic_store(&p->n_woken, i);
		st_aio_wake(p->q);
		while (atomic_load(&p->n_seen) < i)
			sched_yield();
	}
	return NULL;
}

/* One wake-up at a time, at any point of the owner's wait: none may get lost. */
START_TEST(no_wake_is_lost)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct ping p = { 0 };
	struct st_aio_req *done;
	pthread_t t;

	cfg.backend = real_backends[_i % 2];
	cfg.sqpoll = _i == 2;
	p.q = open_queue(&cfg);
	ck_assert_int_eq(pthread_create(&t, NULL, wake_often, &p), 0);
	while (atomic_load(&p.n_seen) < N_PINGS) {
		int64_t start = st_now_ns();

		ck_assert_int_eq(st_aio_reap(p.q, &done, 1, 5000000000), 0);
		ck_assert_int_lt(st_now_ns() - start, 4000000000);
		atomic_store(&p.n_seen, atomic_load(&p.n_woken));
	}
	pthread_join(t, NULL);
	st_aio_close(p.q);
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

static struct st_aio_fault at_op(enum st_aio_fault_kind kind, enum st_aio_op op, int64_t nth)
{
	return (struct st_aio_fault){ .kind = kind, .ops = 1u << op, .nth = nth };
}

/* Faults at chosen I/Os of the real backend i. */
static struct st_aio_cfg faulty_cfg(int i, const struct st_aio_fault *at, unsigned n)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;

	cfg.backend = "faulty";
	cfg.faulty_inner = real_backends[i % 2];
	cfg.block_bytes = 4 * KIB;
	cfg.faulty_at = at;
	cfg.n_faulty_at = n;
	return cfg;
}

static struct st_aio_req *reap_one(struct st_aio_queue *q)
{
	struct st_aio_req *done = NULL;

	ck_assert_msg(st_aio_reap(q, &done, 1, -1) == 1, "%s", st_last_error());
	return done;
}

/*
 * Depth 4, and two requests of four and one pieces; the first piece is told late. Where batches
 * overlap the second request passes it by; where they do not, it starts when the first is over.
 */
START_TEST(batches_overlap_or_do_not)
{
	struct st_aio_fault late = at_op(ST_AIO_FAULT_DELAY, ST_AIO_READ, 1);
	struct st_aio_cfg cfg = faulty_cfg(_i, &late, 1);
	struct st_aio_req r[2];
	struct st_aio_queue *q;
	int64_t start;

	late.delay_ns = 60000000;
	cfg.depth = 4;
	cfg.awaits_batches = _i >= 2;
	ck_assert_int_eq(ftruncate(buffered_fd, (off_t)MIB), 0);
	q = open_queue(&cfg);
	r[0] = io(ST_AIO_READ, buf, 16 * KIB, 0);
	r[1] = io(ST_AIO_READ, copy, 4 * KIB, 0);
	start = st_now_ns();
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(st_aio_submit(q, &r[i]), 0);
	ck_assert_ptr_eq(reap_one(q), _i >= 2 ? &r[0] : &r[1]);
	if (_i >= 2)
		ck_assert_int_ge(st_now_ns() - start, late.delay_ns);
	ck_assert_ptr_eq(reap_one(q), _i >= 2 ? &r[1] : &r[0]);
	ck_assert_int_eq(r[0].result, 16 * (int64_t)KIB);
	ck_assert_int_eq(r[1].result, 4 * (int64_t)KIB);
	/* It goes on over many batches. */
	write_read(q, MIB, 0, 21);
	st_aio_close(q);
}
END_TEST

START_TEST(what_was_not_handed_over_is_cancelled)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_aio_req r[4], *done;
	struct st_aio_stats s;
	struct st_aio_queue *q;
	unsigned n = 0, touched = 0;

	cfg.backend = real_backends[_i];
	cfg.depth = 4;
	cfg.block_bytes = 4 * KIB;
	q = open_queue(&cfg);
	write_read(q, MIB, 0, 31);
	memset(copy, 0, MIB);
	r[0] = io(ST_AIO_READ, copy, 4 * KIB, 0);                     /* handed over at once */
	r[1] = io(ST_AIO_READ, copy + 64 * KIB, 512 * KIB, 64 * KIB); /* its first three pieces */
	r[2] = io(ST_AIO_READ, copy + 600 * KIB, 8 * KIB, 600 * KIB);
	r[3] = io(ST_AIO_READ, copy + 700 * KIB, 8 * KIB, 700 * KIB);
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(st_aio_submit(q, &r[i]), 0);
	ck_assert_int_eq(st_aio_cancel(q, &r[0]), -EALREADY);
	ck_assert_int_eq(st_aio_cancel(q, &r[2]), 0);
	ck_assert_int_eq(st_aio_cancel(q, &r[1]), 0);
	ck_assert_int_eq(st_aio_cancel(q, &r[1]), -EALREADY);
	while (n < 4) {
		done = reap_one(q);
		ck_assert_int_eq(st_aio_cancel(q, done), -EALREADY);
		n++;
	}
	ck_assert_int_eq(st_aio_reap(q, &done, 1, 0), 0);
	ck_assert_int_eq(r[0].result, 4 * (int64_t)KIB);
	ck_assert_int_eq(r[3].result, 8 * (int64_t)KIB);
	for (int i = 1; i <= 2; i++) {
		ck_assert_int_eq(r[i].result, STRATA_E_CANCELLED);
		ck_assert_int_eq(r[i].error.rc, STRATA_E_CANCELLED);
		ck_assert_ptr_nonnull(strstr(r[i].error.text, path));
	}
	ck_assert_int_eq(memcmp(copy + 700 * KIB, buf + 700 * KIB, 8 * KIB), 0);
	for (size_t i = 76 * KIB; i < 700 * KIB; i++) /* behind the three pieces nothing was read */
		touched += copy[i] != 0;
	ck_assert_uint_eq(touched, 0);
	st_aio_get_stats(q, &s);
	ck_assert_uint_eq(s.cancelled, 2);
	write_read(q, MIB, 0, 32);
	st_aio_close(q);
}
END_TEST

static char log_text[8192];

static void keep_lines(void *user, enum st_log_level level, const char *line)
{
	size_t at = strlen(log_text);

	(void)user;
	(void)level;
	lines++;
	snprintf(log_text + at, sizeof(log_text) - at, "%s\n", line);
}

static void start_log(void)
{
	lines = 0;
	log_text[0] = '\0';
	st_log_set(keep_lines, NULL, ST_LOG_INFO);
}

static int64_t cpu_ns(void)
{
	struct rusage u;

	ck_assert_int_eq(getrusage(RUSAGE_SELF, &u), 0);
	return ((int64_t)u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000 +
	       ((int64_t)u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000;
}

/* The owner sleeps for ever, as it believes; it wakes to report, and does not spin. */
START_TEST(a_stall_is_reported_once_and_its_end)
{
	struct st_aio_fault late = at_op(ST_AIO_FAULT_DELAY, ST_AIO_WRITE, 2);
	struct st_aio_cfg cfg = faulty_cfg(_i, &late, 1);
	struct st_aio_req r = io(ST_AIO_WRITE, buf, 4 * KIB, 8 * KIB);
	struct st_aio_stats s;
	struct st_aio_queue *q;
	int64_t cpu;
	char want[200];

	late.delay_ns = 300000000;
	cfg.stall_ns = 50000000;
	q = open_queue(&cfg);
	start_log();
	run_ok(q, &r, 1);
	ck_assert_int_eq(lines, 0);
	cpu = cpu_ns();
	ck_assert_int_eq(st_aio_submit(q, &r), 0);
	ck_assert_ptr_eq(reap_one(q), &r);
	ck_assert_int_lt(cpu_ns() - cpu, 50000000);
	st_log_set(NULL, NULL, ST_LOG_INFO);
	ck_assert_int_eq(r.result, 4 * (int64_t)KIB);
	snprintf(want, sizeof(want), "%s: write of 4096 bytes at offset 8192 has been in flight",
		 path);
	ck_assert_msg(strstr(log_text, want) == log_text, "%s", log_text);
	ck_assert_ptr_nonnull(strstr(log_text, "the device stalls\n"));
	ck_assert_ptr_nonnull(strstr(log_text, "offset 8192 came back after 0.3 s\n"));
	ck_assert_int_eq(lines, 2);
	st_aio_get_stats(q, &s);
	ck_assert_uint_eq(s.stalls, 1);
	st_aio_close(q);
}
END_TEST

START_TEST(many_stalls_are_few_lines)
{
	struct st_aio_fault late = at_op(ST_AIO_FAULT_DELAY, ST_AIO_READ, -1);
	struct st_aio_cfg cfg = faulty_cfg(_i, &late, 1);
	struct st_aio_req r = io(ST_AIO_READ, buf, 40 * KIB, 0);
	struct st_aio_stats s;
	struct st_aio_queue *q;

	late.delay_ns = 150000000;
	cfg.stall_ns = 30000000;
	ck_assert_int_eq(ftruncate(buffered_fd, (off_t)MIB), 0);
	q = open_queue(&cfg);
	start_log();
	run_ok(q, &r, 1);
	st_log_set(NULL, NULL, ST_LOG_INFO);
	st_aio_get_stats(q, &s);
	ck_assert_uint_eq(s.stalls, 10);
	ck_assert_int_eq(lines, 8); /* four begin, four end */
	ck_assert_ptr_nonnull(strstr(log_text, "and 6 more I/Os: the device stalls"));
	st_aio_close(q);
}
END_TEST

/* An I/O that never comes back: close says so, in time, and leaves its hands off the memory. */
START_TEST(close_gives_up_on_what_hangs)
{
	struct st_aio_fault hang = at_op(ST_AIO_FAULT_HANG, ST_AIO_READ, 2);
	struct st_aio_cfg cfg = faulty_cfg(_i, &hang, 1);
	struct st_aio_req r = io(ST_AIO_READ, buf, 12 * KIB, 0), *done;
	struct st_aio_queue *q;
	int64_t start;

	cfg.close_ns = 50000000;
	ck_assert_int_eq(ftruncate(buffered_fd, (off_t)MIB), 0);
	q = open_queue(&cfg);
	ck_assert_int_eq(st_aio_submit(q, &r), 0);
	ck_assert_int_eq(st_aio_reap(q, &done, 1, 20000000), 0);
	start_log();
	start = st_now_ns();
	ck_assert_int_eq(st_aio_close(q), -EBUSY);
	st_log_set(NULL, NULL, ST_LOG_INFO);
	ck_assert_int_ge(st_now_ns() - start, 50000000);
	ck_assert_int_lt(st_now_ns() - start, 2000000000);
	ck_assert_int_eq(lines, 1);
	ck_assert_ptr_nonnull(strstr(log_text, "read of 4096 bytes at offset 4096 has not come"));
	ck_assert_ptr_nonnull(strstr(st_last_error(), "given up, not freed"));
}
END_TEST

/* The same with a kernel that really holds on: io_uring reads a pipe into which nobody writes. */
START_TEST(close_gives_up_on_a_pipe)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_aio_req r = io(ST_AIO_READ, NULL, 4 * KIB, 0);
	static char *leaked; /* borrowed for ever */
	struct st_aio_queue *q;
	int ends[2];

	if (strcmp(real_backends[0], "io_uring") != 0)
		return;
	leaked = aligned_alloc(ST_AIO_ALIGN, 4 * KIB);
	ck_assert_ptr_nonnull(leaked);
	ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
	cfg.backend = "io_uring";
	cfg.close_ns = 20000000;
	q = open_queue(&cfg);
	r.fd = ends[0];
	r.buf = leaked;
	ck_assert_int_eq(st_aio_submit(q, &r), 0);
	ck_assert_int_eq(st_aio_close(q), -EBUSY);
	ck_assert_int_eq(write(ends[1], "late", 4), 4); /* and nobody is hurt */
	close(ends[0]);
	close(ends[1]);
}
END_TEST

/* A page that is missing until somebody fills it holds a thread inside its read. */
static int make_hole(char **out)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	char *p;

	if (uffd < 0)
		return -1;
	p = mmap(NULL, 4 * KIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	reg.range.start = (uintptr_t)p;
	reg.range.len = 4 * KIB;
	if (p == MAP_FAILED || ioctl(uffd, UFFDIO_API, &api) ||
	    ioctl(uffd, UFFDIO_REGISTER, &reg)) {
		close(uffd);
		return -1;
	}
	*out = p;
	return uffd;
}

START_TEST(close_gives_up_on_a_thread)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_aio_req r[2];
	struct uffdio_zeropage fill_in = { 0 };
	struct st_aio_queue *q;
	char *hole = NULL;
	int mem = open("/proc/self/mem", O_RDONLY | O_CLOEXEC); /* two look at one page at a time */
	int uffd = make_hole(&hole);

	if (uffd < 0 || mem < 0) {
		fprintf(stderr, "skipped: no userfaultfd\n");
		return;
	}
	fill(buf, 8 * KIB, 77);
	ck_assert_int_eq(pwrite(buffered_fd, buf, 8 * KIB, 0), 8 * KIB);
	cfg.backend = "threads";
	cfg.threads = 1;
	cfg.close_ns = 20000000;
	q = open_queue(&cfg);
	r[0] = io(ST_AIO_READ, hole, 4 * KIB, 0);
	r[1] = io(ST_AIO_WRITE, copy, 4 * KIB, 4 * KIB); /* behind it; must never happen */
	memset(copy, 0, 4 * KIB);
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(st_aio_submit(q, &r[i]), 0);
	ck_assert_int_eq(st_aio_close(q), -EBUSY);
	fill_in.range.start = (uintptr_t)hole;
	fill_in.range.len = 4 * KIB;
	ck_assert_int_eq(ioctl(uffd, UFFDIO_ZEROPAGE, &fill_in), 0);
	for (int i = 0; i < 2000 && memcmp(copy, buf, 4 * KIB) != 0; i++) {
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
		ck_assert_int_eq(pread(mem, copy, 4 * KIB, (off_t)(uintptr_t)hole), 4 * KIB);
	}
	ck_assert_int_eq(memcmp(copy, buf, 4 * KIB), 0); /* the thread did go on */
	nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
	ck_assert_int_eq(pread(buffered_fd, copy, 4 * KIB, 4 * KIB), 4 * KIB);
	ck_assert_int_eq(memcmp(copy, buf + 4 * KIB, 4 * KIB), 0);
	close(uffd);
	close(mem);
}
END_TEST

static volatile sig_atomic_t n_signals;

static void on_signal(int sig)
{
	(void)sig;
	n_signals++;
}

START_TEST(signals_interrupt_nothing)
{
	const struct sigaction act = { .sa_handler = on_signal }; /* without SA_RESTART */
	const struct itimerval often = { { 0, 300 }, { 0, 300 } }, never = { { 0, 0 }, { 0, 0 } };
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_aio_queue *q;
	struct sigaction old;
	int64_t start;

	cfg.backend = real_backends[_i];
	cfg.block_bytes = 64 * KIB;
	n_signals = 0;
	ck_assert_int_eq(sigaction(SIGALRM, &act, &old), 0);
	q = open_queue(&cfg);
	setitimer(ITIMER_REAL, &often, NULL);
	start = st_now_ns();
	for (uint64_t k = 0; st_now_ns() - start < 200000000; k++)
		write_read(q, 2 * MIB, 0, k);
	ck_assert_int_eq(st_aio_close(q), 0);
	setitimer(ITIMER_REAL, &never, NULL);
	ck_assert_int_eq(sigaction(SIGALRM, &old, NULL), 0);
	ck_assert_int_gt(n_signals, 10);
}
END_TEST

START_TEST(registered_files_need_no_luck)
{
	const char *const all[] = { real_backends[0], "threads", "null", "faulty" };
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_aio_queue *q;
	char other_path[80];
	int other, number;
	struct st_aio_req r[2];

	cfg.backend = all[_i];
	cfg.faulty_inner = real_backends[0];
	q = open_queue(&cfg);
	snprintf(other_path, sizeof(other_path), "%s.other", path);
	other = open(other_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	ck_assert_int_ge(other, 0);
	unlink(other_path);
	ck_assert_int_eq(st_aio_register_file(q, -1), -EINVAL);
	ck_assert_int_eq(st_aio_register_file(q, fd), 0);
	ck_assert_int_eq(st_aio_register_file(q, other), 0);
	ck_assert_int_eq(st_aio_register_file(q, other), 0); /* again: nothing new */
	if (_i == 2) { /* nothing is moved, but all of it is accepted */
		ck_assert_int_eq(st_aio_unregister_file(q, other), 0);
		close(other);
		st_aio_close(q);
		return;
	}
	write_read(q, MIB, 0, 41);
	for (uint64_t k = 0; k < 2; k++) { /* both files at once, and flushes of both */
		fill(copy, 8 * KIB, 50 + k);
		r[0] = io(ST_AIO_WRITE, copy, 4 * KIB, 0);
		r[1] = io(ST_AIO_WRITE, copy + 4 * KIB, 4 * KIB, 0);
		r[1].fd = other;
		run_ok(q, r, 2);
		r[0] = io(ST_AIO_FLUSH, NULL, 0, 0);
		r[1] = io(ST_AIO_FLUSH, NULL, 0, 0);
		r[1].fd = other;
		run_ok(q, r, 2);
		ck_assert_int_eq(pread(buffered_fd, buf, 4 * KIB, 0), 4 * KIB);
		ck_assert_int_eq(pread(other, buf + 4 * KIB, 4 * KIB, 0), 4 * KIB);
		ck_assert_int_eq(memcmp(buf, copy, 8 * KIB), 0);
	}
	/* Forgotten, closed, and its number given to another file: that one is reached. */
	ck_assert_int_eq(st_aio_unregister_file(q, other), 0);
	ck_assert_int_eq(st_aio_unregister_file(q, other), 0);
	number = other;
	close(other);
	ck_assert_int_eq(dup3(buffered_fd, number, O_CLOEXEC), number);
	r[0] = io(ST_AIO_READ, buf, 4 * KIB, 0);
	r[0].fd = number;
	run_ok(q, r, 1);
	ck_assert_int_eq(memcmp(buf, copy, 4 * KIB), 0);
	close(number);
	st_aio_close(q);
}
END_TEST

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
	tcase_add_loop_test(t, no_wake_is_lost, 0, 3);
	tcase_add_loop_test(t, close_waits_for_what_is_in_flight, 0, 4);
	tcase_add_test(t, null_moves_nothing);
	tcase_add_loop_test(t, long_writes_do_not_hold_up_reads, 0, 2);
	tcase_add_loop_test(t, batches_overlap_or_do_not, 0, 4);
	tcase_add_loop_test(t, what_was_not_handed_over_is_cancelled, 0, 2);
	tcase_add_loop_test(t, a_stall_is_reported_once_and_its_end, 0, 2);
	tcase_add_loop_test(t, many_stalls_are_few_lines, 0, 2);
	tcase_add_loop_test(t, close_gives_up_on_what_hangs, 0, 2);
	tcase_add_test(t, close_gives_up_on_a_pipe);
	tcase_add_test(t, close_gives_up_on_a_thread);
	tcase_add_loop_test(t, signals_interrupt_nothing, 0, 2);
	tcase_add_loop_test(t, registered_files_need_no_luck, 0, 4);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
