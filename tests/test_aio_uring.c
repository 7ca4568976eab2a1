/* SPDX-License-Identifier: Apache-2.0 */
/* tests/test_aio_uring.c - io_uring: what is registered, its modes, and where it is not allowed. */
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "aio_util.h"

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
		NEED(lines == 1 && strstr(last_line, "I/O threads instead"), 6);
	}
	cfg.backend = "io_uring";
	NEED(st_aio_open(&q, &cfg) == STRATA_E_UNSUPPORTED, 7);
	NEED(strstr(st_last_error(), strata_strerror(-err)), 8);
	NEED(strstr(st_last_error(), "seccomp profile"), 9);
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
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0)
		denied_child(cases[_i].first_nr, cases[_i].err);
	await_child(pid, "no seccomp filter can be set here");
}
END_TEST

/* Give up one of root's privileges; nothing to do for another user. */
static int drop_capability(unsigned cap)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &head, data))
		return -errno;
	data[cap / 32].effective &= ~(1u << cap % 32);
	data[cap / 32].permitted &= ~(1u << cap % 32);
	return syscall(SYS_capset, &head, data) ? -errno : 0;
}

/* Root passes every limit of locked memory by a capability. */
static void small_memlock_child(void)
{
	const struct rlimit none = { 65536, 65536 };
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_aio_queue *q = NULL;
	struct st_aio_req r;

	lines = 0;
	st_log_set(count_line, NULL, ST_LOG_DEBUG);
	NEED(setrlimit(RLIMIT_MEMLOCK, &none) == 0, 77);
	NEED(drop_capability(CAP_IPC_LOCK) == 0, 77);
	cfg.backend = "io_uring";
	NEED(st_aio_open(&q, &cfg) == 0, 77);
	NEED(st_aio_register(q, buf, 64 * MIB) == 0, 2);
	NEED(st_aio_register(q, copy, 64 * MIB) == 0, 3);
	NEED(lines == 1 && strstr(last_line, "64 MiB of buffers are not registered"), 4);
	NEED(strstr(last_line, "ulimit -l") && strstr(last_line, "LimitMEMLOCK") &&
		     strstr(last_line, "--ulimit memlock=-1"),
	     7);
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
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0)
		small_memlock_child();
	await_child(pid, "no io_uring, or no limit can be set");
}
END_TEST

/* kernel.io_uring_disabled = 1 binds only those who are not privileged: no other test notices. */
#define SYSCTL "/proc/sys/kernel/io_uring_disabled"

static int set_sysctl(char value, char *before)
{
	int f = open(SYSCTL, O_RDWR | O_CLOEXEC), rc = -1;

	if (f < 0)
		return -errno;
	if (pread(f, before, 1, 0) == 1 && (*before == value || pwrite(f, &value, 1, 0) == 1))
		rc = 0;
	close(f);
	return rc;
}

static void sysctl_child(void)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_aio_queue *q = NULL;

	lines = 0;
	st_log_set(count_line, NULL, ST_LOG_DEBUG);
	NEED(setgid(65534) == 0 && setuid(65534) == 0, 77);
	NEED(st_aio_open(&q, &cfg) == 0, 2);
	NEED(!strcmp(st_aio_name(q), "threads") && lines == 1, 3);
	NEED(strstr(last_line, "kernel.io_uring_disabled is 1: set it to 0"), 4);
	st_aio_close(q);
	cfg.backend = "io_uring";
	NEED(st_aio_open(&q, &cfg) == STRATA_E_UNSUPPORTED, 5);
	NEED(strstr(st_last_error(), "kernel.io_uring_disabled"), 6);
	_exit(0);
}

START_TEST(a_sysctl_against_io_uring_is_named)
{
	char before, ignored;
	int status = 0, rc = 0;
	pid_t pid;

	if (geteuid() != 0 || set_sysctl('1', &before)) {
		fprintf(stderr, "skipped: %s cannot be set\n", SYSCTL);
		return;
	}
	pid = fork();
	if (pid == 0)
		sysctl_child();
	if (pid > 0)
		rc = waitpid(pid, &status, 0) == pid;
	ck_assert_int_eq(set_sysctl(before, &ignored), 0); /* before anything can fail */
	ck_assert(rc);
	check_status(status, "no other user");
}
END_TEST

/* Two ranges side by side, each registered by itself, and a third between them that is not. */
START_TEST(transfers_across_slices_work)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_aio_queue *q;

	cfg.backend = "io_uring";
	q = open_queue(&cfg);
	for (size_t i = 7; i < 8; i--) { /* from the last to the first: the search must not care */
		if (i != 3)
			ck_assert_int_eq(st_aio_register(q, buf + i * MIB / 2, MIB / 2), 0);
		ck_assert_int_eq(st_aio_register(q, copy + i * MIB, MIB), 0);
	}
	write_read(q, 8 * MIB, 0, 61); /* pieces of 1 MiB lie in two slices */
	for (size_t off = 0; off < 4 * MIB; off += 252 * KIB)
		write_read(q, MIB, off, 62 + off);
	st_aio_close(q);
}
END_TEST

/* 16 MiB of memory that stand 65 times one behind the other: a gigabyte that costs none. */
static char *map_gigabyte(size_t window_bytes, unsigned n)
{
	int mem = memfd_create("test_aio", MFD_CLOEXEC);
	char *p;

	ck_assert_int_ge(mem, 0);
	ck_assert_int_eq(ftruncate(mem, (off_t)window_bytes), 0);
	p = mmap(NULL, n * window_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
		 0);
	ck_assert(p != MAP_FAILED);
	for (unsigned i = 0; i < n; i++)
		ck_assert(mmap(p + i * window_bytes, window_bytes, PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_FIXED, mem, 0) != MAP_FAILED);
	close(mem);
	return p;
}

START_TEST(a_gigabyte_is_two_slices)
{
	const size_t edge = (size_t)1 << 30, bytes = edge + 16 * MIB;
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_aio_req r;
	struct st_aio_queue *q;
	char *p = map_gigabyte(16 * MIB, 65);

	cfg.backend = "io_uring";
	q = open_queue(&cfg);
	lines = 0;
	st_log_set(count_line, NULL, ST_LOG_DEBUG);
	ck_assert_int_eq(st_aio_register(q, p, bytes), 0);
	st_log_set(NULL, NULL, ST_LOG_DEBUG);
	ck_assert_msg(lines == 0 || strstr(last_line, "ulimit -l"), "%s", last_line);
	fill(p + edge - 2 * MIB, 4 * MIB, 63);
	r = io(ST_AIO_WRITE, p + edge - 2 * MIB, 4 * MIB, 0);
	run_ok(q, &r, 1);
	r = io(ST_AIO_WRITE, p + edge - 512 * KIB, MIB, 8 * MIB); /* one piece, both slices */
	run_ok(q, &r, 1);
	r = io(ST_AIO_READ, copy, 4 * MIB, 0);
	run_ok(q, &r, 1);
	ck_assert_int_eq(memcmp(copy, p + edge - 2 * MIB, 4 * MIB), 0);
	r = io(ST_AIO_READ, copy, MIB, 8 * MIB);
	run_ok(q, &r, 1);
	ck_assert_int_eq(memcmp(copy, p + edge - 512 * KIB, MIB), 0);
	st_aio_close(q);
	munmap(p, bytes);
}
END_TEST

START_TEST(more_files_than_places_work)
{
	enum { N = 70 };
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_aio_req r = io(ST_AIO_WRITE, buf, 4 * KIB, 0);
	struct st_aio_queue *q;
	int fds[N];

	cfg.backend = "io_uring";
	q = open_queue(&cfg);
	fill(buf, 4 * KIB, 64);
	run_ok(q, &r, 1);
	for (int i = 0; i < N; i++) {
		fds[i] = dup(fd);
		ck_assert_int_ge(fds[i], 0);
		ck_assert_int_eq(st_aio_register_file(q, fds[i]), 0);
	}
	for (int i = 0; i < N; i++) {
		memset(copy, 0, 4 * KIB);
		r = io(ST_AIO_READ, copy, 4 * KIB, 0);
		r.fd = fds[i];
		run_ok(q, &r, 1);
		ck_assert_int_eq(memcmp(buf, copy, 4 * KIB), 0);
	}
	ck_assert_int_eq(st_aio_register_file(q, 100000), 0); /* no place is left to find out */
	ck_assert_int_eq(st_aio_unregister_file(q, fds[3]), 0);
	ck_assert_int_eq(st_aio_register_file(q, 100000), -EINVAL);
	st_aio_close(q);
	for (int i = 0; i < N; i++)
		close(fds[i]);
}
END_TEST

/* Not asked for, SQPOLL, IOPOLL, both: at most a line for each, and the same results. */
START_TEST(modes_on_request_work_or_are_left_out)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_aio_queue *q;
	int64_t start;
	struct st_aio_req *done;

	lines = 0;
	st_log_set(count_line, NULL, ST_LOG_DEBUG);
	cfg.backend = "io_uring";
	cfg.sqpoll = _i & 1;
	cfg.iopoll = _i & 2;
	for (int k = 0; k < 2; k++) {
		q = open_queue(&cfg);
		ck_assert_str_eq(st_aio_name(q), "io_uring");
		write_read(q, MIB, 0, 71); /* the file is not registered yet */
		ck_assert_int_eq(st_aio_register(q, buf, 8 * MIB), 0);
		ck_assert_int_eq(st_aio_register_file(q, fd), 0);
		ck_assert_int_eq(st_aio_register(q, copy, 8 * MIB), 0);
		ck_assert_int_le(lines, !!cfg.sqpoll + !!cfg.iopoll);
		write_read(q, 16 * MIB, 4 * KIB, 72);
		start = st_now_ns();
		ck_assert_int_eq(st_aio_reap(q, &done, 1, 20000000), 0);
		ck_assert_int_ge(st_now_ns() - start, 20000000);
		st_aio_wake(q);
		ck_assert_int_eq(st_aio_reap(q, &done, 1, -1), 0);
		ck_assert_int_eq(st_aio_close(q), 0);
	}
	st_log_set(NULL, NULL, ST_LOG_DEBUG);
	fprintf(stderr, "sqpoll %d iopoll %d: %s\n", cfg.sqpoll, cfg.iopoll,
		lines ? last_line : "as asked for");
}
END_TEST

/* The probe's wake-up may have come before it is waited for; it was lost then, one time in thirty.
 */
START_TEST(opening_waits_for_nothing)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	int64_t start = st_now_ns();

	lines = 0;
	st_log_set(count_line, NULL, ST_LOG_DEBUG);
	cfg.backend = "io_uring";
	cfg.depth = 4;
	cfg.sqpoll = true;
	for (int i = 0; i < 60; i++)
		st_aio_close(open_queue(&cfg));
	st_log_set(NULL, NULL, ST_LOG_DEBUG);
	ck_assert_int_le(lines, 1); /* where there is no SQPOLL at all */
	ck_assert_int_lt(st_now_ns() - start, 8000000000);
}
END_TEST

/*
 * A preallocated file without data passes the probe, for nothing asks the device. Where the device
 * then does not poll, its I/Os go the other way, after the same one line.
 */
START_TEST(a_device_that_does_not_poll_is_found_out_late)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_aio_queue *q;
	int other;

	if (!(fcntl(fd, F_GETFL) & O_DIRECT))
		return;
	lines = 0;
	st_log_set(count_line, NULL, ST_LOG_DEBUG);
	cfg.backend = "io_uring";
	cfg.iopoll = true;
	cfg.block_bytes = 64 * KIB;
	ck_assert_int_eq(ftruncate(buffered_fd, 0), 0);
	ck_assert_int_eq(posix_fallocate(buffered_fd, 0, 8 * (off_t)MIB), 0);
	q = open_queue(&cfg);
	ck_assert_int_eq(st_aio_register(q, buf, 8 * MIB), 0);
	ck_assert_int_eq(st_aio_register_file(q, fd), 0);
	for (uint64_t k = 0; k < 4; k++)
		write_read(q, 2 * MIB, 2 * MIB * k, 80 + k);
	other = dup(fd); /* now there is data, and the probe knows at once */
	ck_assert_int_ge(other, 0);
	ck_assert_int_eq(st_aio_register_file(q, other), 0);
	st_aio_close(q);
	close(other);
	st_log_set(NULL, NULL, ST_LOG_DEBUG);
	ck_assert_int_le(lines, 1);
}
END_TEST

/* What lies on no drive cannot be polled: one line, then interrupts. */
START_TEST(a_file_that_does_not_poll_is_read_all_the_same)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_aio_req r = io(ST_AIO_WRITE, buf, 4 * KIB, 0);
	int mem = memfd_create("test_aio", MFD_CLOEXEC);
	struct st_aio_queue *q;

	ck_assert_int_ge(mem, 0);
	lines = 0;
	st_log_set(count_line, NULL, ST_LOG_DEBUG);
	cfg.backend = "io_uring";
	cfg.iopoll = true;
	q = open_queue(&cfg);
	fill(buf, 4 * KIB, 73);
	ck_assert_int_eq(pwrite(mem, buf, 4 * KIB, 0), 4 * KIB);
	ck_assert_int_eq(st_aio_register_file(q, mem), 0);
	ck_assert_int_eq(lines, 1);
	ck_assert_ptr_nonnull(strstr(last_line, "strata.nvme.iopoll: a polled read failed"));
	st_log_set(NULL, NULL, ST_LOG_DEBUG);
	r.fd = mem;
	run_ok(q, &r, 1);
	r = io(ST_AIO_READ, copy, 4 * KIB, 0);
	r.fd = mem;
	run_ok(q, &r, 1);
	ck_assert_int_eq(memcmp(buf, copy, 4 * KIB), 0);
	r = io(ST_AIO_FLUSH, NULL, 0, 0);
	r.fd = mem;
	run_ok(q, &r, 1);
	st_aio_close(q);
	close(mem);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("aio_uring");
	TCase *t = tcase_create("aio_uring");
	SRunner *r;
	int failed;

	tcase_add_unchecked_fixture(t, open_file, close_file);
	tcase_set_timeout(t, 60);
	tcase_add_test(t, a_small_memlock_limit_is_no_failure);
	tcase_add_loop_test(t, denied_io_uring_falls_back, 0, 3);
	tcase_add_test(t, a_sysctl_against_io_uring_is_named);
	if (has_uring()) { /* else what follows has nothing to test */
		tcase_add_test(t, transfers_across_slices_work);
		tcase_add_test(t, a_gigabyte_is_two_slices);
		tcase_add_test(t, more_files_than_places_work);
		tcase_add_loop_test(t, modes_on_request_work_or_are_left_out, 0, 4);
		tcase_add_test(t, opening_waits_for_nothing);
		tcase_add_test(t, a_device_that_does_not_poll_is_found_out_late);
		tcase_add_test(t, a_file_that_does_not_poll_is_read_all_the_same);
	}
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
