/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_faults.c - the engine over I/O that fails: what it says, and what a resume finds.
 *
 * Timeout: 120
 * Faults of devices, file systems and limits, which need root, are in cli_faults.sh.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "aio/faulty.h"
#include "tests/engine_util.h"

#define STEPS 3

static const struct tiny plain = { .dtype = ST_BF16,
				   .clip = 0.5,
				   .update = ST_UPDATE_DEFERRED,
				   .param_home = ST_HOME_NVME,
				   .state_home = ST_HOME_NVME,
				   .commits = true,
				   .spills = true,
				   .n_mb = 1 };

static uint64_t want; /* of a run without faults */

static uint64_t hash_of(const struct tiny *t, const char **io)
{
	struct tiny_run r;
	uint64_t hash;

	tiny_open(&r, t);
	for (uint64_t s = 1; s <= STEPS; s++)
		tiny_step(&r, s, NULL);
	hash = tiny_hash(&r);
	if (io)
		*io = st_engine_io(r.engine);
	tiny_close(&r);
	return hash;
}

/* ---- io_uring denied, as containers do ---------------------------------------------------------
 */

static uint64_t denied_hash;
static bool is_denied_by_threads, could_deny;

static bool deny_io_uring(int error)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { .len = ST_ARRAY_LEN(code), .filter = code };

	return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) &&
	       !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog);
}

/* In a child, before this process has threads: a filter cannot be taken off again. */
static void run_denied(void)
{
	struct {
		uint64_t hash;
		bool by_threads, could;
	} got = { 0 };
	int fd[2], status;
	pid_t pid;

	ck_assert_int_eq(pipe(fd), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (!pid) {
		const char *io = "";

		got.could = deny_io_uring(EPERM);
		if (got.could)
			got.hash = hash_of(&plain, &io);
		got.by_threads = !strcmp(io, "threads");
		_exit(write(fd[1], &got, sizeof(got)) != (ssize_t)sizeof(got));
	}
	close(fd[1]);
	ck_assert_int_eq(read(fd[0], &got, sizeof(got)), sizeof(got));
	close(fd[0]);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	could_deny = got.could;
	denied_hash = got.hash;
	is_denied_by_threads = got.by_threads;
	want = hash_of(&plain, NULL);
}

START_TEST(io_uring_denied_by_seccomp)
{
	if (!could_deny) {
		printf("seccomp is not to be had: io_uring was not denied\n");
		return;
	}
	ck_assert(is_denied_by_threads);
	ck_assert_uint_eq(denied_hash, want);
}
END_TEST

/* ---- faults that are overcome
 * -------------------------------------------------------------------- */

static bool works(const char *backend)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_aio_queue *q;

	cfg.backend = backend;
	if (st_aio_open(&q, &cfg))
		return false;
	ck_assert_int_eq(st_aio_close(q), 0);
	return true;
}

START_TEST(short_late_and_interrupted)
{
	static const char *const inner[] = { "threads", "io_uring" };

	for (size_t i = 0; i < ST_ARRAY_LEN(inner); i++) {
		struct st_aio_cfg aio = ST_AIO_CFG_DEFAULT;
		struct tiny t = plain;

		if (!works(inner[i]))
			continue;
		aio.backend = "faulty";
		aio.faulty_inner = inner[i];
		aio.faulty_seed = 11 + i;
		aio.faulty_short_rate = 0.3; /* one in four of these: EINTR or EAGAIN */
		aio.faulty_delay_rate = 0.1;
		aio.faulty_reorder_rate = 0.2;
		aio.block_bytes = 256 << 10;
		t.aio = &aio;
		ck_assert_uint_eq(hash_of(&t, NULL), want);
	}
}
END_TEST

/* ---- faults that end a run
 * ----------------------------------------------------------------------- */

struct outcome {
	int rc; /* of the call that failed; 0: none did */
	uint64_t reported, durable, resumed;
	char text[480];
};

/* Run with the fault until something fails, then without, to the end. */
static void fail_and_resume(const struct st_aio_fault *fault, struct outcome *o)
{
	struct st_aio_cfg aio = ST_AIO_CFG_DEFAULT;
	struct tiny t = plain;
	struct st_snapshot snap;
	struct st_step_out out;
	struct tiny_run r;
	char json[sizeof(r.run_json)];

	memset(o, 0, sizeof(*o));
	aio.backend = "faulty";
	aio.faulty_at = fault;
	aio.n_faulty_at = 1;
	t.aio = &aio;
	tiny_open(&r, &t); /* faults are chosen to come later */
	for (uint64_t s = 1; !o->rc && s <= STEPS; s++) {
		o->rc = tiny_try_step(&r, s, &out);
		if (!o->rc) {
			o->reported = s;
			o->durable = out.durable_step;
		}
	}
	if (!o->rc)
		o->rc = st_engine_save(r.engine);
	snprintf(o->text, sizeof(o->text), "%s", o->rc ? st_last_error() : "");
	if (o->rc) { /* the failure stays: nothing is tried again */
		ck_assert_int_eq(st_engine_save(r.engine), o->rc);
		ck_assert_str_eq(st_last_error(), o->text);
	}
	st_engine_close(r.engine, false);

	memcpy(json, r.run_json, sizeof(json));
	tiny_engine(&r, &plain, json);
	o->resumed = st_engine_resumed(r.engine, &snap) ? snap.step : 0;
	ck_assert_uint_ge(o->resumed, o->durable);
	ck_assert_uint_ge(o->resumed + 1, o->reported);
	for (uint64_t s = o->resumed + 1; s <= STEPS; s++)
		tiny_step(&r, s, NULL);
	ck_assert_uint_eq(tiny_hash(&r), want);
	tiny_close(&r);
}

/* Reads of the first values' commit come first; the nth of each kind counts from there on. */
START_TEST(an_error_names_its_place)
{
	static const struct {
		unsigned ops;
		int64_t nth;
		const char *verb;
	} at[] = {
		{ 1u << ST_AIO_READ, 5, "read" },      { 1u << ST_AIO_READ, 90, "read" },
		{ 1u << ST_AIO_WRITE, 60, "write" },   { 1u << ST_AIO_WRITE, 95, "write" },
		{ 1u << ST_AIO_WRITE, -120, "write" },
	};

	for (size_t i = 0; i < 2 * ST_ARRAY_LEN(at); i++) {
		struct st_aio_fault fault = { .kind = ST_AIO_FAULT_ERROR,
					      .ops = at[i / 2].ops,
					      .path_part = "/strata-",
					      .nth = at[i / 2].nth,
					      .is_after = i % 2,
					      .rc = at[i / 2].ops == 1u << ST_AIO_WRITE && i % 2
							    ? -ENOSPC
							    : -EIO };
		struct outcome o;

		fail_and_resume(&fault, &o);
		ck_assert_msg(o.rc == fault.rc, "%zu: %d: %s", i, o.rc, o.text);
		ck_assert_msg(strstr(o.text, "/data") && strstr(o.text, at[i / 2].verb) &&
				      strstr(o.text, "offset"),
			      "%s", o.text);
	}
}
END_TEST

/* Once only, and yet the store takes nothing more: the kernel may have dropped what it could not
 * write, and would report success the second time. */
START_TEST(a_flush_fails_once)
{
	for (int64_t nth = 3; nth <= 6; nth++) { /* the first two are of the first values */
		const struct st_aio_fault fault = { .kind = ST_AIO_FAULT_ERROR,
						    .ops = 1u << ST_AIO_FLUSH,
						    .nth = nth,
						    .rc = -EIO };
		struct outcome o;

		fail_and_resume(&fault, &o);
		ck_assert_int_eq(o.rc, -EIO);
		ck_assert_msg(strstr(o.text, "flush") && strstr(o.text, "stays"), "%s", o.text);
	}
}
END_TEST

/* A bit that changed on its way: found by the read, with tensor, file and offset. */
START_TEST(a_flipped_bit_is_named)
{
	static const int64_t nth[] = { 3, 41, 77 };

	for (size_t i = 0; i < ST_ARRAY_LEN(nth); i++) {
		const struct st_aio_fault fault = { .kind = ST_AIO_FAULT_FLIP,
						    .ops = 1u << ST_AIO_READ,
						    .path_part = "/strata-",
						    .nth = nth[i] };
		struct outcome o;

		fail_and_resume(&fault, &o);
		/* A part of an extent, read ahead, is checked when all of it is read. */
		ck_assert_msg(o.rc == STRATA_E_CORRUPT || !o.rc, "%d: %s", o.rc, o.text);
		ck_assert_msg(!o.rc || (strstr(o.text, "/data") && strstr(o.text, "offset")), "%s",
			      o.text);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("faults");
	TCase *t = tcase_create("faults");
	SRunner *r;
	int failed;

	tiny_in_memory = true; /* what fails is made up */
	tcase_set_timeout(t, 120);
	tcase_add_unchecked_fixture(t, run_denied, NULL);
	tcase_add_test(t, io_uring_denied_by_seccomp);
	tcase_add_test(t, short_late_and_interrupted);
	tcase_add_test(t, an_error_names_its_place);
	tcase_add_test(t, a_flush_fails_once);
	tcase_add_test(t, a_flipped_bit_is_named);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
