/* SPDX-License-Identifier: Apache-2.0 */
/* bench/fio.c - starts fio, waits for it, reads its JSON. */
#include "bench/fio.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/machine.h"

#define ARGS_MAX   40
#define OUTPUT_MAX ((size_t)4 << 20)
#define POLL_MS    100
#define GRACE_NS   20000000000 /* beyond the duration, until fio counts as hung */
#define PASS_NS    600000000000
#define TEXT_BYTES 256

/* An argument list whose words live in one buffer. */
struct words {
	char *v[ARGS_MAX];
	size_t n;
	char text[4096];
	size_t used;
	bool is_full;
};

static void add(struct words *w, const char *fmt, ...) ST_PRINTF(2, 3);

static void add(struct words *w, const char *fmt, ...)
{
	char *at = w->text + w->used;
	va_list ap;
	int len;

	va_start(ap, fmt);
	len = vsnprintf(at, sizeof(w->text) - w->used, fmt, ap);
	va_end(ap);
	if (len < 0 || (size_t)len >= sizeof(w->text) - w->used || w->n + 1 >= ARGS_MAX) {
		w->is_full = true;
		return;
	}
	w->v[w->n++] = at;
	w->v[w->n] = NULL;
	w->used += (size_t)len + 1;
}

/* ---- the process --------------------------------------------------------------------------- */

struct child {
	pid_t pid;
	int out_fd, err_fd; /* we read */
	char *out;
	size_t out_bytes;
	char err[TEXT_BYTES];
	size_t err_bytes;
};

static void become(char *const *argv, int out_fd, int err_fd, pid_t parent)
{
	static const int reset[] = { SIGINT, SIGTERM, SIGHUP, SIGPIPE };
	sigset_t none;
	int null_fd = open("/dev/null", O_RDONLY);

	sigemptyset(&none);
	for (size_t i = 0; i < ST_ARRAY_LEN(reset); i++)
		signal(reset[i], SIG_DFL);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (!prctl(PR_SET_PDEATHSIG, SIGKILL) && getppid() == parent && null_fd >= 0 &&
	    dup2(null_fd, 0) == 0 && dup2(out_fd, 1) == 1 && dup2(err_fd, 2) == 2)
		execvp(argv[0], argv);
	_exit(errno == ENOENT ? 127 : 126);
}

static int start(struct child *c, char *const *argv)
{
	int out[2] = { -1, -1 }, err[2] = { -1, -1 }, rc = 0;
	pid_t self = getpid();

	c->pid = -1;
	if (pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
		rc = st_fail(-errno, "fio: pipe");
	if (!rc) {
		c->pid = fork();
		if (c->pid == 0)
			become(argv, out[1], err[1], self);
		if (c->pid < 0)
			rc = st_fail(-errno, "fio: start");
	}
	if (out[1] >= 0)
		close(out[1]);
	if (err[1] >= 0)
		close(err[1]);
	if (rc) {
		if (out[0] >= 0)
			close(out[0]);
		if (err[0] >= 0)
			close(err[0]);
		return rc;
	}
	c->out_fd = out[0];
	c->err_fd = err[0];
	return 0;
}

static int read_out(struct child *c)
{
	ssize_t n;

	if (c->out_bytes == OUTPUT_MAX)
		return st_fail(STRATA_E_IO, "fio: its output does not end.");
	n = read(c->out_fd, c->out + c->out_bytes, OUTPUT_MAX - c->out_bytes);
	if (n < 0 && errno != EINTR)
		return st_fail(-errno, "fio: read its output");
	if (n == 0) {
		close(c->out_fd);
		c->out_fd = -1;
	}
	c->out_bytes += n > 0 ? (size_t)n : 0;
	return 0;
}

/* The first bytes of what it says to people; the rest is read and dropped. */
static void read_err(struct child *c)
{
	char drop[1024];
	ssize_t n = read(c->err_fd, drop, sizeof(drop));
	size_t room = sizeof(c->err) - 1 - c->err_bytes, take;

	if (n < 0 && errno == EINTR)
		return;
	if (n <= 0) {
		close(c->err_fd);
		c->err_fd = -1;
		return;
	}
	take = (size_t)n < room ? (size_t)n : room;
	memcpy(c->err + c->err_bytes, drop, take);
	c->err_bytes += take;
	c->err[c->err_bytes] = '\0';
}

static int follow(struct child *c, int64_t limit_ns, const volatile sig_atomic_t *stop)
{
	int64_t end_ns = st_now_ns() + limit_ns;

	while (c->out_fd >= 0 || c->err_fd >= 0) {
		struct pollfd p[2] = { { .fd = c->out_fd, .events = POLLIN },
				       { .fd = c->err_fd, .events = POLLIN } };
		int rc;

		if (stop && *stop)
			return st_fail(-EINTR, "fio");
		if (st_now_ns() > end_ns)
			return st_fail(STRATA_E_IO, "fio does not end; it was stopped.");
		if (poll(p, 2, POLL_MS) < 0 && errno != EINTR)
			return st_fail(-errno, "fio: poll");
		rc = p[0].revents ? read_out(c) : 0;
		if (rc)
			return rc;
		if (p[1].revents)
			read_err(c);
	}
	return 0;
}

/* One line, printable. */
static void tidy(char *s)
{
	s[strcspn(s, "\r\n")] = '\0';
	for (; *s; s++)
		if ((unsigned char)*s < 0x20 || *s == 0x7f)
			*s = ' ';
}

/* Runs argv to its end. @param status out, as from waitpid(); valid when 0 is returned */
static int run(struct child *c, char *const *argv, int64_t limit_ns,
	       const volatile sig_atomic_t *stop, int *status)
{
	struct st_error e;
	int rc = start(c, argv);

	if (rc)
		return rc;
	rc = follow(c, limit_ns, stop);
	st_error_take(&e, rc);
	if (rc) /* our own child, by its id */
		kill(c->pid, SIGKILL);
	while (waitpid(c->pid, status, 0) < 0 && errno == EINTR)
		;
	if (c->out_fd >= 0)
		close(c->out_fd);
	if (c->err_fd >= 0)
		close(c->err_fd);
	tidy(c->err);
	return rc ? st_error_raise(&e) : 0;
}

int st_fio_find(void)
{
	char name[] = "fio", option[] = "--version";
	char *argv[] = { name, option, NULL };
	struct child c = { .out = malloc(OUTPUT_MAX) };
	int status = 0, rc;

	if (!c.out)
		return st_fail(-ENOMEM, "fio");
	rc = run(&c, argv, GRACE_NS, NULL, &status);
	free(c.out);
	if (rc)
		return rc;
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		return st_fail(STRATA_E_UNSUPPORTED,
			       "fio cannot be started (%s): install it (Debian: apt-get install "
			       "fio), or leave --with-fio away.",
			       WIFEXITED(status) && WEXITSTATUS(status) == 127 ? "not found"
									       : "it failed");
	return 0;
}

/* ---- a job --------------------------------------------------------------------------------- */

/*
 * Our buffers lie on huge pages, and a block there is one piece of memory to the drive; on small
 * pages 1 MiB is 256, more than some drives take at once. fio gets huge pages where the system has
 * reserved some, which is the only kind that it can ask for.
 */
static bool uses_huge_pages(const struct st_fio_job *j)
{
	struct st_machine_memory m;

	st_machine_memory("", &m);
	return j->block_bytes * j->depth + m.huge_page_bytes <=
	       m.huge_pages_free * m.huge_page_bytes;
}

static void make_args(struct words *w, const struct st_fio_job *j, bool is_huge)
{
	static const char *const rw[ST_LOAD_OPS][2] = { { "read", "randread" },
							{ "write", "randwrite" },
							{ "rw", "randrw" } };
	const struct st_area_file *f = &j->files[0];
	char names[1024] = "";
	size_t len = 0;

	for (unsigned i = 0; i < j->n_files && len < sizeof(names); i++)
		len += (size_t)snprintf(names + len, sizeof(names) - len, "%s/proc/%ld/fd/%d",
					i ? ":" : "", (long)getpid(), j->files[i].fd);
	add(w, "fio");
	add(w, "--name=compare");
	add(w, "--output-format=json");
	add(w, "--ioengine=io_uring");
	add(w, "--fixedbufs=1");
	add(w, "--registerfiles=1");
	add(w, "--nonvectored=1");
	add(w, "--direct=%d", f->is_direct);
	add(w, "--overwrite=1");
	add(w, "--allow_file_create=0");
	add(w, "--scramble_buffers=0");
	add(w, "--fsync_on_close=0");
	add(w, "--invalidate=%d", !f->is_direct);
	add(w, "--rw=%s", rw[j->op][j->is_random]);
	add(w, "--rwmixread=%u", ST_LOAD_READ_SHARE);
	if (j->is_random)
		add(w, "--norandommap=1");
	add(w, "--bs=%zu", j->block_bytes);
	add(w, "--iodepth=%u", j->depth);
	if (is_huge)
		add(w, "--iomem=mmaphuge");
	add(w, "--filename=%s", names);
	add(w, "--offset=%llu",
	    (unsigned long long)(j->op == ST_LOAD_READ ? f->off_bytes : f->spare_off_bytes));
	add(w, "--size=%llu", (unsigned long long)f->len_bytes * j->n_files);
	if (j->duration_ns) {
		add(w, "--time_based=1");
		add(w, "--runtime=%lldms", (long long)(j->duration_ns / 1000000));
	}
}

static double number(const json_t *of, const char *key)
{
	return json_number_value(json_object_get(of, key));
}

static int read_figures(const struct child *c, struct st_fio_result *r)
{
	/* fio puts notes for people before the object, on the same stream */
	const char *from = memchr(c->out, '{', c->out_bytes);
	size_t len = from ? c->out_bytes - (size_t)(from - c->out) : 0;
	const json_t *job, *sides[2];
	json_error_t err;
	json_t *root;

	root = from ? json_loadb(from, len, JSON_DISABLE_EOF_CHECK, &err) : NULL;
	job = json_array_get(json_object_get(root, "jobs"), 0);
	if (!job || json_integer_value(json_object_get(job, "error"))) {
		long long code = json_integer_value(json_object_get(job, "error"));

		json_decref(root);
		return st_fail(STRATA_E_IO, "fio failed (%s)%s%s.",
			       code ? strerror((int)code) : "its output is no JSON",
			       c->err[0] ? ": " : "", c->err);
	}
	*r = (struct st_fio_result){ 0 };
	sides[0] = json_object_get(job, "read");
	sides[1] = json_object_get(job, "write");
	for (int i = 0; i < 2; i++) {
		double seconds = number(sides[i], "runtime") / 1000;

		r->n_bytes += (uint64_t)number(sides[i], "io_bytes");
		r->n_ios += (uint64_t)number(sides[i], "total_ios");
		if (seconds > r->seconds)
			r->seconds = seconds;
	}
	r->cpu_seconds = (number(job, "usr_cpu") + number(job, "sys_cpu")) / 100 *
			 number(job, "job_runtime") / 1000;
	json_decref(root);
	return 0;
}

static int check_job(const struct st_fio_job *j)
{
	for (unsigned i = 1; i < j->n_files; i++)
		if (j->files[i].off_bytes != j->files[0].off_bytes ||
		    j->files[i].len_bytes != j->files[0].len_bytes ||
		    j->files[i].is_direct != j->files[0].is_direct)
			return st_fail(-EINVAL,
				       "fio: the files differ in what they hold: fio cannot be "
				       "told so.");
	return j->n_files ? 0 : st_fail(-EINVAL, "fio: no file.");
}

int st_fio_run(const struct st_fio_job *job, struct st_fio_result *r)
{
	struct words w = { .n = 0 };
	struct child c = { 0 };
	int status = 0, rc = check_job(job);
	bool is_huge = uses_huge_pages(job);

	if (rc)
		return rc;
	make_args(&w, job, is_huge);
	if (w.is_full)
		return st_fail(-EINVAL, "fio: too many files.");
	c.out = malloc(OUTPUT_MAX);
	if (!c.out)
		return st_fail(-ENOMEM, "fio");
	rc = run(&c, w.v, GRACE_NS + (job->duration_ns ? job->duration_ns : PASS_NS), job->stop,
		 &status);
	if (!rc && (!WIFEXITED(status) || WEXITSTATUS(status)))
		rc = st_fail(STRATA_E_IO, "fio failed%s%s.", c.err[0] ? ": " : "", c.err);
	if (!rc)
		rc = read_figures(&c, r);
	r->is_huge = is_huge;
	free(c.out);
	return rc;
}

double st_fio_gbps(const struct st_fio_result *r)
{
	return r->seconds > 0 ? (double)r->n_bytes / r->seconds / 1e9 : 0;
}
