/* SPDX-License-Identifier: Apache-2.0 */
/* core/trace.c - a ring of events, and the thread that turns them into text. */
#include "core/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/log.h"

#define RING       16384u
#define TEXT_BYTES ((size_t)256 << 10)
#define EVENT_MAX  ((size_t)4096) /* of text, at the most */
#define PERIOD_NS  200000000
#define HEAD       "[\n{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":1,\"tid\":0,\"args\":"

struct st_trace {
	char *path;
	int fd;
	bool is_created; /* the file was not there before */
	int64_t origin_ns;
	char *text; /* [TEXT_BYTES] the writer's, and open's and close's */
	size_t len;
	struct st_trace_event *batch; /* [RING / 4] the writer's copy */
	pthread_t writer;
	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t wakes, written;
	struct st_trace_event *ring; /* [RING] */
	uint32_t head, n;
	uint64_t n_dropped;
	const char *rows[ST_TRACE_ROWS_MAX];
	uint32_t rows_named; /* bits: rows that the writer has yet to name */
	int64_t row_end_ns[ST_TRACE_ROWS_MAX];
	bool stops, flushes;
	bool is_writing; /* the writer has a batch of its own */
	int rc;
};

/* ---- text ---------------------------------------------------------------------------------- */

static int write_out(struct st_trace *t)
{
	size_t done = 0;

	while (done < t->len) {
		ssize_t n = write(t->fd, t->text + done, t->len - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		done += (size_t)n;
	}
	t->len = 0;
	return 0;
}

static void ST_PRINTF(2, 3) put(struct st_trace *t, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(t->text + t->len, TEXT_BYTES - t->len, fmt, ap);
	va_end(ap);
	if (n > 0 && t->len + (size_t)n < TEXT_BYTES)
		t->len += (size_t)n;
}

static void put_quoted(struct st_trace *t, const char *s)
{
	put(t, "\"");
	for (unsigned i = 0; s[i] && i < 200; i++) {
		unsigned char c = (unsigned char)s[i];

		if (c == '"' || c == '\\')
			put(t, "\\%c", c);
		else if (c < 0x20 || c >= 0x7f)
			put(t, "?");
		else
			put(t, "%c", c);
	}
	put(t, "\"");
}

/* Microseconds, to the nanosecond. */
static void put_us(struct st_trace *t, const char *key, int64_t ns)
{
	uint64_t abs_ns = ns < 0 ? (uint64_t)-ns : (uint64_t)ns;

	put(t, ",\"%s\":%s%llu.%03llu", key, ns < 0 ? "-" : "", (unsigned long long)(abs_ns / 1000),
	    (unsigned long long)(abs_ns % 1000));
}

static void put_args(struct st_trace *t, const struct st_trace_event *e)
{
	put(t, ",\"args\":{");
	for (unsigned i = 0; i < e->n_args; i++) {
		const struct st_trace_arg *a = &e->args[i];

		put(t, "%s\"%s\":", i ? "," : "", a->key);
		if (a->kind == ST_TRACE_TEXT)
			put_quoted(t, a->text);
		else if (a->kind == ST_TRACE_UINT)
			put(t, "%llu", (unsigned long long)a->n);
		else if (isfinite(a->real))
			put(t, "%.6g", a->real);
		else
			put(t, "null");
	}
	put(t, "}");
}

static void put_event(struct st_trace *t, const struct st_trace_event *e)
{
	static const char *const phase[] = {
		[ST_TRACE_SLICE] = "X",
		[ST_TRACE_COUNTER] = "C",
		[ST_TRACE_FLOW_OUT] = "s",
		[ST_TRACE_FLOW_IN] = "f",
	};

	put(t, ",\n{\"ph\":\"%s\",\"pid\":1,\"tid\":%u,\"cat\":", phase[e->kind],
	    e->kind == ST_TRACE_COUNTER ? 0 : e->row + 1);
	put_quoted(t, e->category);
	put(t, ",\"name\":");
	put_quoted(t, e->name);
	put_us(t, "ts", e->begin_ns - t->origin_ns);
	if (e->kind == ST_TRACE_SLICE)
		put_us(t, "dur", e->end_ns - e->begin_ns);
	if (e->kind == ST_TRACE_FLOW_OUT || e->kind == ST_TRACE_FLOW_IN)
		put(t, ",\"id\":\"0x%llx\"%s", (unsigned long long)e->id,
		    e->kind == ST_TRACE_FLOW_IN ? ",\"bp\":\"e\"" : "");
	if (e->n_args)
		put_args(t, e);
	put(t, "}");
}

static void put_row(struct st_trace *t, unsigned row, const char *name)
{
	put(t, ",\n{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":1,\"tid\":%u,\"args\":{\"name\":",
	    row + 1);
	put_quoted(t, name);
	put(t,
	    "}},\n{\"ph\":\"M\",\"name\":\"thread_sort_index\",\"pid\":1,\"tid\":%u,"
	    "\"args\":{\"sort_index\":%u}}",
	    row + 1, row);
}

/* ---- the writer ---------------------------------------------------------------------------- */

static void note_failure(struct st_trace *t, int rc)
{
	st_log(ST_LOG_WARN, "trace %s: writing failed (%s); it ends here, training goes on",
	       t->path, strata_strerror(rc));
	pthread_mutex_lock(&t->lock);
	t->rc = rc;
	pthread_mutex_unlock(&t->lock);
}

/* Takes a batch from the ring. @return how many events; rows: those that want a name */
static uint32_t take(struct st_trace *t, uint32_t *rows, bool *stops)
{
	struct timespec until;
	uint32_t n;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += PERIOD_NS;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_mutex_lock(&t->lock);
	t->is_writing = false;
	pthread_cond_broadcast(&t->written);
	while (t->n < RING / 4 && !t->stops && !t->flushes)
		if (pthread_cond_timedwait(&t->wakes, &t->lock, &until))
			break;
	n = t->n < RING / 4 ? t->n : RING / 4;
	for (uint32_t i = 0; i < n; i++)
		t->batch[i] = t->ring[(t->head + i) % RING];
	t->head = (t->head + n) % RING;
	t->n -= n;
	*rows = t->rows_named;
	t->rows_named = 0;
	t->flushes = t->flushes && t->n;
	t->is_writing = n || *rows;
	*stops = t->stops && !t->n;
	pthread_mutex_unlock(&t->lock);
	return n;
}

static int write_batch(struct st_trace *t, uint32_t rows, uint32_t n)
{
	int rc = 0;

	for (unsigned r = 0; r < ST_TRACE_ROWS_MAX; r++)
		if (rows >> r & 1)
			put_row(t, r, t->rows[r]);
	for (uint32_t i = 0; i < n && !rc; i++) {
		put_event(t, &t->batch[i]);
		if (t->len > TEXT_BYTES - EVENT_MAX)
			rc = write_out(t);
	}
	return rc ? rc : write_out(t);
}

static void *writer_main(void *arg)
{
	struct st_trace *t = arg;
	bool stops = false;
	uint32_t rows;
	int rc = 0;

	while (!stops) {
		uint32_t n = take(t, &rows, &stops);

		if (rc)
			continue; /* taken and dropped, so that nobody finds the ring full */
		rc = write_batch(t, rows, n);
		if (rc)
			note_failure(t, rc);
	}
	return NULL;
}

/* ---- events -------------------------------------------------------------------------------- */

void st_trace_put(struct st_trace *t, struct st_trace_event *e)
{
	ST_ASSERT(e->n_args <= ST_TRACE_ARGS_MAX && e->row < ST_TRACE_ROWS_MAX);
	pthread_mutex_lock(&t->lock);
	if (e->kind == ST_TRACE_SLICE) {
		int64_t *end_ns = &t->row_end_ns[e->row];

		e->begin_ns = e->begin_ns > *end_ns ? e->begin_ns : *end_ns;
		e->end_ns = e->end_ns > e->begin_ns ? e->end_ns : e->begin_ns + 1;
		*end_ns = e->end_ns;
	}
	if (t->n == RING)
		t->n_dropped++;
	else
		t->ring[(t->head + t->n++) % RING] = *e;
	if (t->n == RING / 4)
		pthread_cond_signal(&t->wakes);
	pthread_mutex_unlock(&t->lock);
}

static struct st_trace_arg *add_arg(struct st_trace_event *e, const char *key,
				    enum st_trace_arg_kind kind)
{
	struct st_trace_arg *a = &e->args[e->n_args];

	ST_ASSERT(e->n_args < ST_TRACE_ARGS_MAX);
	e->n_args++;
	*a = (struct st_trace_arg){ .key = key, .kind = kind };
	return a;
}

void st_trace_uint(struct st_trace_event *e, const char *key, uint64_t n)
{
	add_arg(e, key, ST_TRACE_UINT)->n = n;
}

void st_trace_real(struct st_trace_event *e, const char *key, double x)
{
	add_arg(e, key, ST_TRACE_REAL)->real = x;
}

void st_trace_text(struct st_trace_event *e, const char *key, const char *text)
{
	add_arg(e, key, ST_TRACE_TEXT)->text = text;
}

void st_trace_row(struct st_trace *t, unsigned row, const char *name)
{
	ST_ASSERT(row < ST_TRACE_ROWS_MAX);
	pthread_mutex_lock(&t->lock);
	t->rows[row] = name;
	t->rows_named |= 1u << row;
	pthread_mutex_unlock(&t->lock);
}

void st_trace_flush(struct st_trace *t)
{
	pthread_mutex_lock(&t->lock);
	while (t->n || t->rows_named || t->is_writing) {
		t->flushes = t->n || t->rows_named;
		pthread_cond_signal(&t->wakes);
		pthread_cond_wait(&t->written, &t->lock);
	}
	pthread_mutex_unlock(&t->lock);
}

/* ---- open and close ------------------------------------------------------------------------ */

/* Nobody's file is written over: only what begins as a trace does. */
static int take_file(struct st_trace *t)
{
	char head[sizeof(HEAD) - 1];
	struct stat st;

	t->fd = open(t->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	t->is_created = t->fd >= 0;
	if (t->fd < 0 && errno == EEXIST)
		t->fd = open(t->path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (t->fd < 0 || fstat(t->fd, &st))
		return st_fail(STRATA_E_INPUT, "trace %s: cannot be written (%s)", t->path,
			       strata_strerror(-errno));
	/* O_NONBLOCK was for the open alone: a pipe's reader may be slow. */
	if (!S_ISREG(st.st_mode) && fcntl(t->fd, F_SETFL, O_RDWR) < 0)
		return st_fail(-errno, "trace %s: fcntl", t->path);
	if (!S_ISREG(st.st_mode) || !st.st_size)
		return 0;
	if (pread(t->fd, head, sizeof(head), 0) != (ssize_t)sizeof(head) ||
	    memcmp(head, HEAD, sizeof(head)) != 0)
		return st_fail(STRATA_E_INPUT,
			       "trace %s is there already and is no trace; move it away, or "
			       "choose another file",
			       t->path);
	if (ftruncate(t->fd, 0))
		return st_fail(-errno, "trace %s: truncate", t->path);
	return 0;
}

static void release(struct st_trace *t)
{
	if (t->fd >= 0)
		close(t->fd);
	free(t->path);
	free(t->text);
	free(t->batch);
	free(t->ring);
	free(t);
}

static int start(struct st_trace *t)
{
	pthread_condattr_t monotonic;
	int rc;

	pthread_mutex_init(&t->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&t->wakes, &monotonic);
	pthread_cond_init(&t->written, NULL);
	pthread_condattr_destroy(&monotonic);
	rc = -pthread_create(&t->writer, NULL, writer_main, t);
	if (!rc)
		return 0;
	pthread_mutex_destroy(&t->lock);
	pthread_cond_destroy(&t->wakes);
	pthread_cond_destroy(&t->written);
	return st_fail(rc, "trace %s: a thread", t->path);
}

int st_trace_open(struct st_trace **out, const char *path, const char *process)
{
	struct st_trace *t = calloc(1, sizeof(*t));
	int rc = -ENOMEM;

	if (!t)
		return st_fail(rc, "trace");
	t->fd = -1;
	t->path = strdup(path);
	t->text = malloc(TEXT_BYTES);
	t->ring = calloc(RING, sizeof(*t->ring));
	t->batch = calloc(RING / 4, sizeof(*t->batch));
	if (!t->path || !t->text || !t->ring || !t->batch) {
		release(t);
		return st_fail(rc, "trace");
	}
	t->origin_ns = st_now_ns();
	rc = take_file(t);
	if (!rc) {
		put(t, HEAD "{\"name\":");
		put_quoted(t, process);
		put(t, "}}");
		rc = write_out(t);
		rc = rc ? st_fail(rc, "trace %s: write", path) : start(t);
	}
	if (rc) {
		if (t->is_created)
			unlink(t->path);
		release(t);
		return rc;
	}
	*out = t;
	return 0;
}

static int write_end(struct st_trace *t)
{
	if (t->n_dropped) {
		put(t,
		    ",\n{\"ph\":\"M\",\"name\":\"dropped_events\",\"pid\":1,\"tid\":0,"
		    "\"args\":{\"count\":%llu}}",
		    (unsigned long long)t->n_dropped);
		st_log(ST_LOG_WARN,
		       "trace %s: %llu events came faster than they were written and "
		       "are missing",
		       t->path, (unsigned long long)t->n_dropped);
	}
	put(t, "\n]\n");
	return write_out(t);
}

int st_trace_close(struct st_trace *t, bool removes)
{
	int rc;

	if (!t)
		return 0;
	pthread_mutex_lock(&t->lock);
	t->stops = true;
	pthread_cond_signal(&t->wakes);
	pthread_mutex_unlock(&t->lock);
	pthread_join(t->writer, NULL);
	rc = t->rc ? t->rc : write_end(t);
	if (rc)
		rc = st_fail(rc, "trace %s: write", t->path);
	if (removes && t->is_created)
		unlink(t->path);
	pthread_mutex_destroy(&t->lock);
	pthread_cond_destroy(&t->wakes);
	pthread_cond_destroy(&t->written);
	release(t);
	return rc;
}
