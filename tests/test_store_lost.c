/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_store_lost.c - a drive that hangs: the kernel still has requests of the store when
 * their queue is closed. The caller is told, and nothing that they name is freed or closed.
 *
 * Wrap: st_aio_run st_aio_close free
 */
#include "store_util.h"

#define LOST_MAX 64u

int __real_st_aio_run(struct st_aio_queue *queue, struct st_aio_req *reqs, unsigned n);
int __wrap_st_aio_run(struct st_aio_queue *queue, struct st_aio_req *reqs, unsigned n);
int __real_st_aio_close(struct st_aio_queue *queue);
int __wrap_st_aio_close(struct st_aio_queue *queue);
void __real_free(void *mem);
void __wrap_free(void *mem);

/* The run that does not come back, counted from 1; 0: none. */
static unsigned hangs_at;
static struct st_aio_queue *hanging; /* the queue that it was on, until it is closed */
static bool was_closed;
static void *volatile bufs[LOST_MAX]; /* what the kernel has */
static int fds[LOST_MAX];
static unsigned n_lost, n_freed;

int __wrap_st_aio_run(struct st_aio_queue *queue, struct st_aio_req *reqs, unsigned n)
{
	int rc;

	if (queue == hanging && !n)
		return st_fail(-EINVAL, "aio: run on a queue that is not idle.");
	ck_assert_msg(queue != hanging, "a queue that failed is used again");
	rc = __real_st_aio_run(queue, reqs, n);
	if (!n || !hangs_at || --hangs_at)
		return rc;
	hanging = queue;
	for (unsigned i = 0; i < n && n_lost < LOST_MAX; i++, n_lost++) {
		bufs[n_lost] = reqs[i].buf;
		fds[n_lost] = reqs[i].fd;
	}
	return st_fail(-EIO, "the queue no longer works");
}

int __wrap_st_aio_close(struct st_aio_queue *queue)
{
	bool hangs = queue && queue == hanging;
	int rc = __real_st_aio_close(queue);

	if (!hangs)
		return rc;
	hanging = NULL;
	was_closed = true;
	return st_fail(-EBUSY, "a drive hangs");
}

void __wrap_free(void *mem)
{
	for (unsigned i = 0; mem && i < n_lost; i++)
		n_freed += bufs[i] == mem;
	__real_free(mem);
}

/* ---- what is called ------------------------------------------------------------------------ */

static int call_create(void)
{
	struct st_store_cfg cfg = make_cfg(2);
	struct st_store *s = NULL;
	int rc = st_store_create(&s, &cfg, json, sizeof(json));

	st_store_close(s, true);
	return rc;
}

static int call_open(void)
{
	struct st_store_cfg cfg = make_cfg(2);
	struct st_store *s = NULL;
	int rc;

	cfg.verifies_on_open = true;
	rc = st_store_open(&s, &cfg, json);
	st_store_close(s, false);
	return rc;
}

static int call_open_readonly(void)
{
	struct st_store *s = NULL;
	int rc = st_store_open_readonly(&s, json);

	st_store_close(s, false);
	return rc;
}

static int call_keep(void)
{
	struct st_store_cfg cfg = make_cfg(2);
	struct st_store *s = NULL;
	unsigned hangs = hangs_at;
	int rc;

	hangs_at = 0; /* in keeping only */
	ck_assert_int_eq(st_store_open(&s, &cfg, json), 0);
	hangs_at = hangs;
	rc = st_store_keep(s, NULL, 0);
	hangs_at = 0;
	st_store_close(s, false);
	return rc;
}

static const struct {
	const char *name;
	int (*call)(void);
	unsigned least; /* runs that it makes */
} calls[] = {
	{ "create", call_create, 3 },
	{ "open", call_open, 4 },
	{ "open for reading", call_open_readonly, 2 },
	{ "keep", call_keep, 3 },
};

/* A store with a few extents written, as `json`. */
static void make_store(void)
{
	struct st_store *s = create(2, NULL);

	for (uint32_t e = 0; e < 4; e++) {
		struct st_aio_req req = { 0 };

		memset(buf, (int)e + 1, sizes[e]);
		ck_assert_int_eq(st_store_prep_write(s, e, buf, &req), 0);
		ck_assert_int_eq(st_aio_run(q, &req, 1), 0);
		st_store_write_done(s, e, st_store_checksum(s, e, buf));
	}
	ck_assert_int_eq(st_store_commit(s, q, "1", 1), 0);
	st_store_close(s, false);
}

/* @return false: it makes fewer runs than that, and went well */
static bool hang(int (*call)(void), unsigned at)
{
	int rc;

	n_lost = n_freed = 0;
	was_closed = false;
	hangs_at = at;
	rc = call();
	hangs_at = 0;
	if (!was_closed) {
		ck_assert_msg(!hanging && !rc, "%d: %s", rc, st_last_error());
		return false;
	}
	ck_assert_msg(rc < 0, "a drive that hangs is no failure");
	ck_assert_msg(strlen(st_last_error()) > 0, "no word about it");
	ck_assert_uint_gt(n_lost, 0);
	ck_assert_msg(!n_freed, "run %u: %u buffers were freed", at, n_freed);
	for (unsigned i = 0; i < n_lost; i++)
		ck_assert_msg(fcntl(fds[i], F_GETFD) >= 0, "run %u: a file was closed", at);
	n_lost = 0;
	return true;
}

START_TEST(what_a_hanging_drive_has_is_kept)
{
	unsigned at = 1;

	do {
		/* What was lost keeps its locks: each time another store, in other directories. */
		if (at > 1) {
			teardown();
			setup();
		}
		make_store();
	} while (hang(calls[_i].call, at++) && at < 100);
	ck_assert_msg(at > calls[_i].least, "%s: hung in %u runs only", calls[_i].name, at - 2);
	ck_assert_uint_lt(at, 100);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("store_lost");
	TCase *c = tcase_create("hang");
	SRunner *r;
	int failed;

	store_in_memory = true;
	tcase_add_checked_fixture(c, setup, teardown);
	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, what_a_hanging_drive_has_is_kept, 0, (int)ST_ARRAY_LEN(calls));
	suite_add_tcase(s, c);
	r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
