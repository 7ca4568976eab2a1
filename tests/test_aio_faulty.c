/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_aio_faulty.c - each fault does what aio/faulty.h says, over a real backend; what is
 * left after a kill and after a power loss.
 */
#include <signal.h>
#include <sys/mman.h>

#include "aio/faulty.h"
#include "aio_util.h"

#define FILE_BYTES (256 * KIB)
#define SECTOR     ((size_t)512)

static const char *inners[] = { "threads", "io_uring", "sync" };

static struct st_aio_cfg faulty_cfg(int i, const struct st_aio_fault *at, unsigned n)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;

	cfg.backend = "faulty";
	cfg.faulty_inner = inners[i % 3];
	cfg.faulty_at = at;
	cfg.n_faulty_at = n;
	return cfg;
}

static struct st_aio_fault at_op(enum st_aio_fault_kind kind, enum st_aio_op op, int64_t nth)
{
	return (struct st_aio_fault){ .kind = kind, .ops = 1u << op, .nth = nth };
}

/* The file holds copy's bytes of this seed, and buf gets other ones to be written. */
static void start_file(uint64_t seed)
{
	fill(copy, FILE_BYTES, 1000 + seed);
	fill(buf, FILE_BYTES, 2000 + seed);
	ck_assert_int_eq(ftruncate(buffered_fd, FILE_BYTES), 0);
	ck_assert_int_eq(pwrite(buffered_fd, copy, FILE_BYTES, 0), (ssize_t)FILE_BYTES);
}

/* What the file holds now; behind buf and copy. */
static const char *file_now(void)
{
	char *now = buf + 32 * MIB;

	ck_assert_int_eq(pread(buffered_fd, now, FILE_BYTES, 0), (ssize_t)FILE_BYTES);
	return now;
}

static unsigned sectors_equal(const char *a, const char *b, size_t len)
{
	unsigned n = 0;

	for (size_t at = 0; at < len; at += SECTOR)
		n += memcmp(a + at, b + at, SECTOR) == 0;
	return n;
}

static unsigned bits_different(const char *a, const char *b, size_t len)
{
	unsigned n = 0;

	for (size_t at = 0; at < len; at++)
		n += (unsigned)__builtin_popcount((unsigned char)(a[at] ^ b[at]));
	return n;
}

static void run_faulty(int i, struct st_aio_fault at, uint64_t seed, struct st_aio_req *r, int want)
{
	struct st_aio_cfg cfg = faulty_cfg(i, &at, 1);
	struct st_aio_queue *q;

	cfg.faulty_seed = seed;
	q = open_queue(&cfg);
	ck_assert_int_eq(st_aio_run(q, r, 1), want);
	st_aio_close(q);
}

START_TEST(a_torn_write_persists_a_prefix)
{
	unsigned n_partial = 0;

	for (uint64_t seed = 0; seed < 20; seed++) {
		struct st_aio_req r = io(ST_AIO_WRITE, buf, 16 * KIB, 8 * KIB);
		const char *now;
		unsigned n;

		start_file(seed);
		run_faulty(_i, at_op(ST_AIO_FAULT_TEAR, ST_AIO_WRITE, 1), seed, &r, 0);
		ck_assert_int_eq(r.result, 16 * (int64_t)KIB);
		now = file_now();
		n = sectors_equal(now + 8 * KIB, buf, 16 * KIB);
		ck_assert_uint_lt(n, 32);
		ck_assert_int_eq(memcmp(now + 8 * KIB, buf, n * SECTOR), 0);
		ck_assert_int_eq(memcmp(now + 8 * KIB + n * SECTOR, copy + 8 * KIB + n * SECTOR,
					16 * KIB - n * SECTOR),
				 0);
		n_partial += n % 8 != 0;
		ck_assert_int_eq(memcmp(now, copy, 8 * KIB), 0);
		ck_assert_int_eq(memcmp(now + 24 * KIB, copy + 24 * KIB, FILE_BYTES - 24 * KIB), 0);
	}
	ck_assert_uint_gt(n_partial, 5); /* by sectors, not by pages */
}
END_TEST

START_TEST(a_flip_is_one_bit)
{
	struct st_aio_req r = io(ST_AIO_WRITE, buf, 16 * KIB, 8 * KIB);
	const char *now;

	start_file(1);
	run_faulty(_i, at_op(ST_AIO_FAULT_FLIP, ST_AIO_WRITE, 1), 7, &r, 0);
	now = file_now();
	ck_assert_uint_eq(bits_different(now + 8 * KIB, buf, 16 * KIB), 1);
	memcpy(copy + 8 * KIB, now + 8 * KIB, 16 * KIB);
	ck_assert_int_eq(memcmp(now, copy, FILE_BYTES), 0);

	r = io(ST_AIO_READ, buf, 32 * KIB, 0);
	run_faulty(_i, at_op(ST_AIO_FAULT_FLIP, ST_AIO_READ, 1), 8, &r, 0);
	ck_assert_uint_eq(bits_different(copy, buf, 32 * KIB), 1);
	ck_assert_int_eq(memcmp(file_now(), copy, FILE_BYTES), 0);
}
END_TEST

START_TEST(a_misdirected_write_hits_another_place)
{
	for (uint64_t seed = 0; seed < 8; seed++) {
		struct st_aio_req r = io(ST_AIO_WRITE, buf, 8 * KIB, 64 * KIB);
		const char *now;
		unsigned n = 0;

		start_file(seed);
		run_faulty(_i, at_op(ST_AIO_FAULT_MISDIRECT, ST_AIO_WRITE, 1), seed, &r, 0);
		ck_assert_int_eq(r.result, 8 * (int64_t)KIB);
		now = file_now();
		for (size_t at = 0; at + 8 * KIB <= FILE_BYTES; at += 4 * KIB)
			n += memcmp(now + at, buf, 8 * KIB) == 0;
		ck_assert_uint_eq(n, 1);
		ck_assert_uint_eq(sectors_equal(now, copy, FILE_BYTES), FILE_BYTES / SECTOR - 16);
		ck_assert_int_ne(memcmp(now + 64 * KIB, buf, 8 * KIB), 0);

		memcpy(copy, now, FILE_BYTES);
		r = io(ST_AIO_READ, buf, 8 * KIB, 32 * KIB);
		run_faulty(_i, at_op(ST_AIO_FAULT_MISDIRECT, ST_AIO_READ, 1), seed, &r, 0);
		ck_assert_int_ne(memcmp(buf, copy + 32 * KIB, 8 * KIB), 0);
	}
}
END_TEST

START_TEST(a_lost_write_is_reported_as_done)
{
	struct st_aio_req r = io(ST_AIO_WRITE, buf, 8 * KIB, 64 * KIB);

	start_file(2);
	run_faulty(_i, at_op(ST_AIO_FAULT_LOSE, ST_AIO_WRITE, 1), 1, &r, 0);
	ck_assert_int_eq(r.result, 8 * (int64_t)KIB);
	ck_assert_int_eq(memcmp(file_now(), copy, FILE_BYTES), 0);
}
END_TEST

/* The nth of a kind, by operation, place and path; with its own code; before or after. */
START_TEST(faults_strike_where_they_are_planned)
{
	struct st_aio_fault at = at_op(ST_AIO_FAULT_ERROR, ST_AIO_WRITE, 2);
	struct st_aio_cfg cfg = faulty_cfg(_i, &at, 1);
	struct st_aio_queue *q;

	at.rc = -ENOSPC;
	at.lo_bytes = 64 * KIB;
	at.hi_bytes = 128 * KIB;
	at.path_part = "test_aio";
	at.is_after = _i >= 3;
	start_file(3);
	q = open_queue(&cfg);
	for (unsigned k = 0; k < 2; k++) {
		struct st_aio_req r[] = {
			io(ST_AIO_WRITE, buf, 4 * KIB, 0),
			io(ST_AIO_READ, copy, 4 * KIB, 64 * KIB),
			io(ST_AIO_WRITE, buf + 60 * KIB, 8 * KIB, 60 * KIB),   /* counts */
			io(ST_AIO_WRITE, buf + 128 * KIB, 4 * KIB, 128 * KIB), /* behind it */
			io(ST_AIO_FLUSH, NULL, 0, 0),
		};

		ck_assert_int_eq(st_aio_run(q, r, ST_ARRAY_LEN(r)), k ? -ENOSPC : 0);
		for (unsigned i = 0; i < ST_ARRAY_LEN(r); i++)
			ck_assert_int_eq(r[i].result < 0, k && i == 2);
		if (k)
			ck_assert_int_eq(memcmp(file_now() + 60 * KIB, buf + 60 * KIB, 8 * KIB) ==
						 0,
					 at.is_after);
		fill(buf, FILE_BYTES, 77);
	}
	st_aio_close(q);
	at.path_part = "elsewhere"; /* another file's faults are not this one's */
	at.nth = -1;
	q = open_queue(&cfg);
	write_read(q, 128 * KIB, 64 * KIB, 5);
	st_aio_close(q);
}
END_TEST

static bool is_in_order(const struct st_aio_req *r, unsigned n)
{
	for (unsigned i = 1; i < n; i++)
		if (r[i].user < r[i - 1].user)
			return false;
	return true;
}

START_TEST(reordering_changes_the_order_and_nothing_else)
{
	struct st_aio_cfg cfg = faulty_cfg(_i, NULL, 0);
	struct st_aio_req r[16], *done[16];
	unsigned n_mixed = 0, n_last[2] = { 0, 0 };

	for (uint64_t seed = 0; seed < 10; seed++) {
		struct st_aio_queue *q;
		unsigned n = 0;

		start_file(seed);
		cfg.faulty_seed = seed;
		cfg.faulty_reorder_rate = 1;
		q = open_queue(&cfg);
		for (unsigned i = 0; i < 16; i++) { /* two each to the same place: who is last? */
			r[i] = io(ST_AIO_WRITE, buf + i * 4 * KIB, 4 * KIB, i / 2 * 4 * KIB);
			ck_assert_int_eq(st_aio_submit(q, &r[i]), 0);
		}
		while (n < 16) {
			int got = st_aio_reap(q, done, 16, -1);

			ck_assert_int_gt(got, 0);
			for (int i = 0; i < got; i++, n++) {
				ck_assert_int_eq(done[i]->result, 4 * (int64_t)KIB);
				done[i]->user = (void *)(uintptr_t)(n + 1);
			}
		}
		n_mixed += !is_in_order(r, 16);
		for (unsigned i = 0; i < 8; i++) {
			const char *now = file_now() + i * 4 * KIB;
			bool second = !memcmp(now, buf + (2 * i + 1) * 4 * KIB, 4 * KIB);

			ck_assert(second || !memcmp(now, buf + 2 * i * 4 * KIB, 4 * KIB));
			n_last[second]++;
		}
		st_aio_close(q);
	}
	ck_assert_uint_ge(n_mixed, 9);
	ck_assert_uint_gt(n_last[0], 10);
	ck_assert_uint_gt(n_last[1], 10);
}
END_TEST

/* The same seed strikes the same requests in the same way, whatever the threads do. */
START_TEST(a_seed_is_a_plan)
{
	int64_t results[2][64];
	struct st_aio_cfg cfg = faulty_cfg(_i, NULL, 0);
	int failed = 0;

	cfg.faulty_seed = 99;
	cfg.faulty_error_rate = 0.2;
	cfg.faulty_delay_rate = 0.3;
	cfg.faulty_reorder_rate = 0.5;
	for (int k = 0; k < 2; k++) {
		struct st_aio_queue *q = open_queue(&cfg);
		struct st_aio_req *r = calloc(64, sizeof(*r));

		ck_assert_ptr_nonnull(r);
		start_file(4);
		for (unsigned i = 0; i < 64; i++)
			r[i] = io(ST_AIO_READ, buf + i * 4 * KIB, 4 * KIB, i * 4 * KIB);
		ck_assert_int_eq(st_aio_run(q, r, 64), -EIO);
		for (unsigned i = 0; i < 64; i++) {
			results[k][i] = r[i].result;
			failed += r[i].result < 0;
		}
		st_aio_close(q);
		free(r);
	}
	ck_assert_int_eq(memcmp(results[0], results[1], sizeof(results[0])), 0);
	ck_assert_int_gt(failed, 5);
	ck_assert_int_lt(failed, 50);
}
END_TEST

static struct st_aio_req write_at(size_t i) /* 4 KiB of buf, at its place */
{
	return io(ST_AIO_WRITE, buf + i * 4 * KIB, 4 * KIB, i * 4 * KIB);
}

/* Flushed writes stay; of the others any sectors do, over seeds all, none and some. */
START_TEST(a_power_loss_takes_what_was_not_flushed)
{
	unsigned n_all = 0, n_none = 0, n_some = 0;

	for (uint64_t seed = 0; seed < 40; seed++) {
		struct st_aio_cfg cfg = faulty_cfg(_i, NULL, 0);
		struct st_aio_req r[3];
		struct st_aio_queue *q;
		const char *now;
		unsigned n;

		start_file(seed);
		ck_assert_int_eq(st_aio_undo_create(&cfg.faulty_undo), 0);
		q = open_queue(&cfg);
		r[0] = write_at(0);
		run_ok(q, r, 1);
		r[0] = io(ST_AIO_FLUSH, NULL, 0, 0);
		run_ok(q, r, 1);
		r[0] = io(ST_AIO_WRITE, buf + 4 * KIB, 16 * KIB, 4 * KIB);
		r[1] = write_at(10);
		run_ok(q, r, 2);
		st_aio_close(q);
		ck_assert_int_eq(memcmp(file_now(), buf, 20 * KIB), 0); /* all there until then */
		ck_assert_int_eq(st_aio_undo_lose_power(cfg.faulty_undo, seed), 0);
		now = file_now();
		ck_assert_int_eq(memcmp(now, buf, 4 * KIB), 0);
		n = sectors_equal(now + 4 * KIB, buf + 4 * KIB, 16 * KIB);
		ck_assert_uint_eq(n + sectors_equal(now + 4 * KIB, copy + 4 * KIB, 16 * KIB), 32);
		*(n == 32 ? &n_all : n ? &n_some : &n_none) += 1;
		/* A second one finds nothing more to take. */
		memcpy(copy, now, FILE_BYTES);
		ck_assert_int_eq(st_aio_undo_lose_power(cfg.faulty_undo, seed + 1), 0);
		ck_assert_int_eq(memcmp(file_now(), copy, FILE_BYTES), 0);
		st_aio_undo_destroy(cfg.faulty_undo);
	}
	ck_assert_uint_gt(n_all, 2);
	ck_assert_uint_gt(n_none, 2);
	ck_assert_uint_gt(n_some, 2);
}
END_TEST

/* Three versions of a place, none flushed: each sector ends as one of the four there have been. */
START_TEST(a_power_loss_leaves_one_of_the_versions)
{
	unsigned seen[4] = { 0 };

	for (uint64_t seed = 0; seed < 30; seed++) {
		struct st_aio_cfg cfg = faulty_cfg(_i, NULL, 0);
		struct st_aio_queue *q;
		const char *now;

		start_file(seed);
		ck_assert_int_eq(st_aio_undo_create(&cfg.faulty_undo), 0);
		q = open_queue(&cfg);
		for (unsigned v = 0; v < 3; v++) {
			struct st_aio_req r = io(ST_AIO_WRITE, buf + v * 4 * KIB, 4 * KIB, 0);

			run_ok(q, &r, 1);
		}
		st_aio_close(q);
		ck_assert_int_eq(st_aio_undo_lose_power(cfg.faulty_undo, seed), 0);
		now = file_now();
		for (size_t at = 0; at < 4 * KIB; at += SECTOR) {
			unsigned v = 0;

			while (v < 3 && memcmp(now + at, buf + v * 4 * KIB + at, SECTOR) != 0)
				v++;
			ck_assert(v < 3 || memcmp(now + at, copy + at, SECTOR) == 0);
			seen[v]++;
		}
		st_aio_undo_destroy(cfg.faulty_undo);
	}
	for (unsigned v = 0; v < 4; v++)
		ck_assert_uint_gt(seen[v], 10);
}
END_TEST

/* A flush that lies, or fails, or that began before the write was complete, covers nothing. */
START_TEST(only_a_true_flush_covers)
{
	static const struct st_aio_fault kinds[] = {
		{ .kind = ST_AIO_FAULT_LOSE, .ops = 1u << ST_AIO_FLUSH, .nth = 1 },
		{ .kind = ST_AIO_FAULT_ERROR, .ops = 1u << ST_AIO_FLUSH, .nth = 1 },
		/* the write is told late, the flush is issued beside it */
		{ .kind = ST_AIO_FAULT_DELAY, .ops = 1u << ST_AIO_FLUSH, .nth = 1, .delay_ns = 1 },
	};
	unsigned n_lost = 0;

	for (uint64_t seed = 0; seed < 12; seed++) {
		struct st_aio_cfg cfg = faulty_cfg(1, &kinds[_i], 1);
		struct st_aio_req r[2] = { write_at(0), io(ST_AIO_FLUSH, NULL, 0, 0) };
		struct st_aio_queue *q;

		start_file(seed);
		cfg.faulty_inner = "threads";
		ck_assert_int_eq(st_aio_undo_create(&cfg.faulty_undo), 0);
		q = open_queue(&cfg);
		if (_i < 2) {
			run_ok(q, &r[0], 1);
			ck_assert_int_eq(st_aio_run(q, &r[1], 1), _i ? -EIO : 0);
		} else {
			run_ok(q, r, 2); /* together: handed over before the write could end */
		}
		st_aio_close(q);
		ck_assert_int_eq(st_aio_undo_lose_power(cfg.faulty_undo, seed), 0);
		n_lost += sectors_equal(file_now(), buf, 4 * KIB) < 8;
		st_aio_undo_destroy(cfg.faulty_undo);
	}
	ck_assert_uint_gt(n_lost, 4);
}
END_TEST

/* What a child leaves that dies at its third write. The parent's file is the child's. */
static void crash_child(int i, const struct st_aio_fault *at)
{
	struct st_aio_cfg cfg = faulty_cfg(i, at, 1);
	struct st_aio_queue *q = NULL;

	NEED(st_aio_undo_create(&cfg.faulty_undo) == 0, 2);
	cfg.faulty_seed = (uint64_t)i + 5;
	NEED(st_aio_open(&q, &cfg) == 0, 3);
	for (size_t k = 0; k < 5; k++) {
		struct st_aio_req r = write_at(k);

		NEED(st_aio_run(q, &r, 1) == 0, 4);
		if (k == 0) {
			r = io(ST_AIO_FLUSH, NULL, 0, 0);
			NEED(st_aio_run(q, &r, 1) == 0, 5);
		}
	}
	_exit(6); /* it should be dead */
}

static void crash_there(int i, const struct st_aio_fault *at)
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0)
		crash_child(i, at);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "status %x", status);
}

START_TEST(a_kill_is_where_it_was_planned)
{
	struct st_aio_fault at = at_op(ST_AIO_FAULT_KILL, ST_AIO_WRITE, 3);
	const char *now;

	start_file(6);
	at.is_after = true;
	crash_there(_i, &at);
	now = file_now();
	ck_assert_uint_eq(sectors_equal(now, buf, 20 * KIB), 24); /* three of five */
	ck_assert_int_eq(memcmp(now, buf, 12 * KIB), 0);

	start_file(
		7); /* by place: before the fourth, which may be torn or be done at that moment */
	at = (struct st_aio_fault){ .kind = ST_AIO_FAULT_KILL,
				    .ops = 1u << ST_AIO_WRITE,
				    .lo_bytes = 12 * KIB,
				    .hi_bytes = 16 * KIB,
				    .nth = 1 };
	crash_there(_i, &at);
	now = file_now();
	ck_assert_int_eq(memcmp(now, buf, 12 * KIB), 0);
	ck_assert_int_eq(memcmp(now + 16 * KIB, copy + 16 * KIB, FILE_BYTES - 16 * KIB), 0);

	start_file(8); /* any I/O counts: write, flush, write */
	at = (struct st_aio_fault){ .kind = ST_AIO_FAULT_KILL, .nth = 2, .is_after = true };
	crash_there(_i, &at);
	ck_assert_int_eq(memcmp(file_now(), buf, 4 * KIB), 0);
	ck_assert_int_eq(memcmp(file_now() + 4 * KIB, copy + 4 * KIB, FILE_BYTES - 4 * KIB), 0);
}
END_TEST

START_TEST(a_kill_with_power_loss_leaves_the_flushed)
{
	struct st_aio_fault at = at_op(ST_AIO_FAULT_POWER_LOSS, ST_AIO_WRITE, 5);
	unsigned n;

	start_file(9);
	at.is_after = true;
	crash_there(_i, &at);
	ck_assert_int_eq(memcmp(file_now(), buf, 4 * KIB), 0);
	n = sectors_equal(file_now(), buf, 20 * KIB);
	ck_assert_uint_lt(n, 40);
	ck_assert_uint_eq(n + sectors_equal(file_now(), copy, 20 * KIB), 40);
}
END_TEST

/* In one process: the queue is dead, the log lives on, and a new queue goes on over both. */
START_TEST(a_crash_can_be_survived)
{
	struct st_aio_fault at = at_op(ST_AIO_FAULT_KILL, ST_AIO_WRITE, 3);
	struct st_aio_cfg cfg = faulty_cfg(_i, &at, 1);
	struct st_aio_req r[6];
	struct st_aio_queue *q;
	unsigned n;

	start_file(10);
	ck_assert_int_eq(st_aio_undo_create(&cfg.faulty_undo), 0);
	cfg.faulty_survives = true;
	cfg.faulty_reorder_rate = 1;
	q = open_queue(&cfg);
	for (size_t i = 0; i < 6; i++)
		r[i] = write_at(i);
	ck_assert_int_eq(st_aio_run(q, r, 6), -EIO);
	n = sectors_equal(file_now(), buf, 24 * KIB);
	ck_assert_uint_ge(n, 2 * 8);
	r[0] = io(ST_AIO_READ, copy + 32 * MIB, 4 * KIB, 0);
	ck_assert_int_eq(st_aio_run(q, r, 1), -EIO);
	st_aio_close(q);

	cfg.n_faulty_at = 0;
	q = open_queue(&cfg);
	run_ok(q, r, 1);
	r[0] = write_at(20);
	run_ok(q, r, 1);
	st_aio_close(q);
	for (uint64_t seed = 0; seed < 20 && n; seed++) /* of both lives nothing was flushed */
		ck_assert_int_eq(st_aio_undo_lose_power(cfg.faulty_undo, seed), 0);
	ck_assert_uint_lt(sectors_equal(file_now(), buf, 24 * KIB) +
				  sectors_equal(file_now() + 80 * KIB, buf + 80 * KIB, 4 * KIB),
			  n + 8);
	st_aio_undo_destroy(cfg.faulty_undo);
}
END_TEST

START_TEST(bad_plans_are_refused)
{
	struct st_aio_fault at = at_op(ST_AIO_FAULT_POWER_LOSS, ST_AIO_WRITE, 5);
	struct st_aio_cfg cfg = faulty_cfg(0, &at, 1);
	struct st_aio_queue *q = NULL;

	ck_assert_int_eq(st_aio_open(&q, &cfg), -EINVAL);
	ck_assert_ptr_nonnull(strstr(st_last_error(), "faulty_undo"));
	cfg.faulty_at = NULL;
	ck_assert_int_eq(st_aio_open(&q, &cfg), -EINVAL);
	ck_assert_ptr_null(q);
	st_aio_undo_destroy(NULL);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("aio_faulty");
	TCase *t = tcase_create("aio_faulty");
	SRunner *r;
	int failed;

	if (!has_uring())
		inners[1] = "threads";
	tcase_add_unchecked_fixture(t, open_file, close_file);
	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, a_torn_write_persists_a_prefix, 0, 3);
	tcase_add_loop_test(t, a_flip_is_one_bit, 0, 3);
	tcase_add_loop_test(t, a_misdirected_write_hits_another_place, 0, 3);
	tcase_add_loop_test(t, a_lost_write_is_reported_as_done, 0, 3);
	tcase_add_loop_test(t, faults_strike_where_they_are_planned, 0, 6);
	tcase_add_loop_test(t, reordering_changes_the_order_and_nothing_else, 0, 3);
	tcase_add_loop_test(t, a_seed_is_a_plan, 0, 3);
	tcase_add_loop_test(t, a_power_loss_takes_what_was_not_flushed, 0, 3);
	tcase_add_loop_test(t, a_power_loss_leaves_one_of_the_versions, 0, 3);
	tcase_add_loop_test(t, only_a_true_flush_covers, 0, 3);
	tcase_add_loop_test(t, a_kill_is_where_it_was_planned, 0, 3);
	tcase_add_loop_test(t, a_kill_with_power_loss_leaves_the_flushed, 0, 3);
	tcase_add_loop_test(t, a_crash_can_be_survived, 0, 3);
	tcase_add_test(t, bad_plans_are_refused);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
