/* SPDX-License-Identifier: Apache-2.0 */
/*
 * aio/aio.c - the queue: cuts requests into kernel I/Os, resumes, retries, watches, counts.
 *
 * A request is in one of three places: its direction's feed list (some of its pieces are not handed
 * over yet; only the first of the list has any piece out), nowhere (all pieces out), the done list.
 * The direction with fewer kernel I/Os out is fed first, so that long writes do not hold up reads.
 *
 * Each piece knows when it was handed over, by the clock of the last submit or reap. check_ns is
 * the earliest time at which one can be too old, so that watching costs a comparison and no list.
 */
#include "aio/aio.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/log.h"

#define REAP_BATCH  64u
#define SHORTS_MAX  64u    /* short transfers in a row without a whole aligned block */
#define RETRIES_MAX 10000u /* EINTR and EAGAIN in a row */
#define BLOCK_MAX   ((size_t)1 << 30)
#define DEPTH_MAX   4096u
#define THREADS_MAX 64u
#define STALL_NS    INT64_C(10000000000)
#define STALL_LINES 4u /* of one look; the others are counted in the last one */
#define CLOSE_NS    INT64_C(30000000000)

enum piece_state { PIECE_IDLE, PIECE_OUT, PIECE_STALLED /* and counted */, PIECE_REPORTED };

/* One kernel I/O. io stands first, so that a backend's pointer is the piece's. */
struct piece {
	struct st_aio_req io;
	struct st_aio_req *parent;
	struct piece *next;
	unsigned shorts, retries;
	int64_t start_ns;
	enum piece_state state; /* not idle: with the backend */
};

/* What the queue keeps in a request's priv while it borrows it. */
struct track {
	struct st_aio_req *next;
	size_t fed_bytes;
	unsigned n_pieces;
	bool is_fed;
};
_Static_assert(sizeof(struct track) <= sizeof(((struct st_aio_req *)0)->priv), "track fits priv");

struct req_list {
	struct st_aio_req *head, *tail;
};

struct st_aio_queue {
	const struct st_aio_ops *ops;
	void *backend;
	struct st_aio_cfg cfg;
	pthread_t owner;
	int wake_fd;
	atomic_bool is_woken; /* the truth about a wake-up; the eventfd only ends a wait */
	struct piece *pieces, *free_pieces, *again; /* again: to be handed over once more */
	struct req_list feed[2], done;              /* feed: reads; writes and flushes */
	unsigned n_out[2];                          /* pieces taken, by direction */
	unsigned n_requests;                        /* accepted and not yet returned by reap */
	unsigned n_pieces;                          /* with the backend */
	bool is_batch_out; /* awaits_batches: nothing new until it is back */
	int64_t now_ns;    /* when the last submit began or reap returned */
	int64_t check_ns;  /* no piece in flight is too old before */
	struct st_aio_stats stats;
	unsigned reads_out, writes_out;
	int64_t read_since_ns, write_since_ns;
	struct st_aio_queue *next_abandoned;
};

static const struct st_aio_ops *const backends[] = {
	&st_aio_uring_ops, &st_aio_threads_ops, &st_aio_null_ops,
	&st_aio_sync_ops,  &st_aio_faulty_ops,
};

/* Queues whose I/Os never came back. The kernel may still use what they point to. */
static struct st_aio_queue *abandoned;
static pthread_mutex_t abandoned_lock = PTHREAD_MUTEX_INITIALIZER;

static struct track *track_of(struct st_aio_req *r)
{
	return (struct track *)r->priv;
}

static int direction(const struct st_aio_req *r)
{
	return r->op != ST_AIO_READ;
}

static void list_push(struct req_list *l, struct st_aio_req *r)
{
	track_of(r)->next = NULL;
	if (l->tail)
		track_of(l->tail)->next = r;
	else
		l->head = r;
	l->tail = r;
}

static struct st_aio_req *list_pop(struct req_list *l)
{
	struct st_aio_req *r = l->head;

	l->head = track_of(r)->next;
	if (!l->head)
		l->tail = NULL;
	return r;
}

const struct st_aio_ops *st_aio_find(const char *name)
{
	for (size_t i = 0; i < ST_ARRAY_LEN(backends); i++)
		if (!strcmp(backends[i]->name, name) &&
		    backends[i]->api_version == ST_AIO_API_VERSION)
			return backends[i];
	return NULL;
}

static int check_cfg(const struct st_aio_cfg *c)
{
	if (c->depth < 1 || c->depth > DEPTH_MAX)
		return st_fail(-EINVAL, "aio: depth %u: must be 1 to %u.", c->depth, DEPTH_MAX);
	if (c->threads < 1 || c->threads > THREADS_MAX)
		return st_fail(-EINVAL, "aio: threads %u: must be 1 to %u.", c->threads,
			       THREADS_MAX);
	if (!c->block_bytes || c->block_bytes % ST_AIO_ALIGN || c->block_bytes > BLOCK_MAX)
		return st_fail(-EINVAL,
			       "aio: block_bytes %zu: must be a multiple of %zu up to %zu.",
			       c->block_bytes, ST_AIO_ALIGN, BLOCK_MAX);
	return 0;
}

/* The backend by name; "auto" is io_uring where it works, else the thread pool. */
static int open_backend(struct st_aio_queue *q)
{
	const char *name = q->cfg.backend ? q->cfg.backend : "auto";
	bool is_auto = !strcmp(name, "auto");
	int rc;

	q->ops = is_auto ? &st_aio_uring_ops : st_aio_find(name);
	if (!q->ops)
		return st_fail(-EINVAL,
			       "aio: backend '%s' is not known: use auto, io_uring, threads, null, "
			       "sync or "
			       "faulty.",
			       name);
	rc = q->ops->open(&q->backend, &q->cfg, q->wake_fd);
	if (rc >= 0 || !is_auto)
		return rc;
	st_log_once(ST_LOG_WARN, "%s. Using %u I/O thread%s instead, with the same results",
		    st_last_error(), q->cfg.threads, q->cfg.threads > 1 ? "s" : "");
	q->ops = &st_aio_threads_ops;
	return q->ops->open(&q->backend, &q->cfg, q->wake_fd);
}

int st_aio_open(struct st_aio_queue **out, const struct st_aio_cfg *cfg)
{
	struct st_aio_queue *q = NULL;
	int rc;

	if (!out || !cfg)
		return st_fail(-EINVAL, "aio: open without a queue or a configuration.");
	rc = check_cfg(cfg);
	if (rc)
		return rc;
	q = calloc(1, sizeof(*q));
	if (!q)
		return st_fail(-ENOMEM, "aio: queue");
	q->cfg = *cfg;
	if (!q->cfg.stall_ns)
		q->cfg.stall_ns = STALL_NS;
	else if (q->cfg.stall_ns > INT64_MAX / 4)
		q->cfg.stall_ns = -1;
	if (!q->cfg.close_ns)
		q->cfg.close_ns = CLOSE_NS;
	q->check_ns = INT64_MAX;
	q->owner = pthread_self();
	q->pieces = calloc(cfg->depth, sizeof(*q->pieces));
	q->wake_fd = eventfd(0, EFD_CLOEXEC);
	if (!q->pieces || q->wake_fd < 0) {
		rc = st_fail(q->pieces ? -errno : -ENOMEM, "aio: queue of depth %u", cfg->depth);
		goto fail;
	}
	for (unsigned i = 0; i < cfg->depth; i++) {
		q->pieces[i].next = q->free_pieces;
		q->free_pieces = &q->pieces[i];
	}
	rc = open_backend(q);
	if (rc < 0)
		goto fail;
	*out = q;
	return 0;

fail:
	if (q->wake_fd >= 0)
		close(q->wake_fd);
	free(q->pieces);
	free(q);
	return rc;
}

const char *st_aio_name(const struct st_aio_queue *q)
{
	return q->ops->name;
}

static int check_owner(const struct st_aio_queue *q)
{
	if (pthread_equal(q->owner, pthread_self()))
		return 0;
	return st_fail(-EINVAL, "aio: the queue belongs to the thread that opened it.");
}

static int check_idle(const struct st_aio_queue *q, const char *what)
{
	int rc = check_owner(q);

	if (!rc && q->n_requests)
		rc = st_fail(-EINVAL, "aio: %s on a queue that is not idle.", what);
	return rc;
}

int st_aio_register(struct st_aio_queue *q, void *base, size_t len_bytes)
{
	int rc = check_idle(q, "register");

	if (rc)
		return rc;
	if (!base || !len_bytes)
		return st_fail(-EINVAL, "aio: register of an empty range.");
	return q->ops->register_buf ? q->ops->register_buf(q->backend, base, len_bytes) : 0;
}

int st_aio_register_file(struct st_aio_queue *q, int fd)
{
	int rc = check_idle(q, "register");

	if (rc)
		return rc;
	if (fd < 0)
		return st_fail(-EINVAL, "aio: register of a file that is not open.");
	return q->ops->register_file ? q->ops->register_file(q->backend, fd) : 0;
}

int st_aio_unregister_file(struct st_aio_queue *q, int fd)
{
	int rc = check_idle(q, "unregister");

	if (!rc && q->ops->unregister_file)
		q->ops->unregister_file(q->backend, fd);
	return rc;
}

/* ---- completion ---------------------------------------------------------------------------- */

static void note_start(struct st_aio_queue *q, const struct st_aio_req *r)
{
	if (r->op == ST_AIO_READ && q->reads_out++ == 0)
		q->read_since_ns = r->submit_ns;
	if (r->op == ST_AIO_WRITE && q->writes_out++ == 0)
		q->write_since_ns = r->submit_ns;
}

static void note_end(struct st_aio_queue *q, const struct st_aio_req *r)
{
	q->stats.cancelled += r->result == STRATA_E_CANCELLED;
	if (r->op == ST_AIO_READ && --q->reads_out == 0)
		q->stats.read_ns += r->done_ns - q->read_since_ns;
	if (r->op == ST_AIO_WRITE && --q->writes_out == 0)
		q->stats.write_ns += r->done_ns - q->write_since_ns;
	if (r->result < 0)
		return;
	switch (r->op) {
	case ST_AIO_READ:
		q->stats.reads++;
		q->stats.read_bytes += r->len_bytes;
		break;
	case ST_AIO_WRITE:
		q->stats.writes++;
		q->stats.write_bytes += r->len_bytes;
		break;
	case ST_AIO_FLUSH:
		q->stats.flushes++;
		break;
	}
}

static void complete_if_over(struct st_aio_queue *q, struct st_aio_req *r)
{
	struct track *t = track_of(r);

	if (!t->is_fed || t->n_pieces)
		return;
	if (r->result >= 0)
		r->result = r->op == ST_AIO_FLUSH ? 0 : (int64_t)r->len_bytes;
	r->done_ns = q->now_ns;
	note_end(q, r);
	list_push(&q->done, r);
}

/* Record the first failure of a request and feed nothing more of it. */
static void fail_request(struct st_aio_queue *q, struct st_aio_req *r, int rc)
{
	if (r->result >= 0) {
		st_error_take(&r->error, rc);
		r->result = rc;
	}
	if (!track_of(r)->is_fed) {
		ST_ASSERT(q->feed[direction(r)].head == r);
		list_pop(&q->feed[direction(r)]);
		track_of(r)->is_fed = true;
	}
}

static const char *op_name(const struct st_aio_req *io)
{
	return io->op == ST_AIO_READ ? "read" : io->op == ST_AIO_WRITE ? "write" : "flush";
}

static int describe(const struct st_aio_req *io, int rc)
{
	const char *path = io->path ? io->path : "file";
	int flags;

	if (io->op == ST_AIO_FLUSH)
		return st_fail(rc, "%s: flush (not retried: what was written may be lost)", path);
	flags = rc == -EINVAL ? fcntl(io->fd, F_GETFL) : 0;
	return st_fail(rc, "%s: %s of %zu bytes at offset %llu%s", path, op_name(io), io->len_bytes,
		       (unsigned long long)io->off_bytes,
		       flags > 0 && (flags & O_DIRECT)
			       ? ": O_DIRECT needs address, length and offset aligned"
			       : "");
}

/*
 * A short transfer goes on at the last aligned offset it reached: under O_DIRECT the rest could not
 * start elsewhere, and repeating a part of a block does no harm.
 * Returns 0 when the piece shall be handed over again, or the failure.
 */
static int resume(struct st_aio_queue *q, struct piece *p, size_t moved)
{
	struct st_aio_req *io = &p->io;
	uint64_t at = (io->off_bytes + moved) & ~(uint64_t)(ST_AIO_ALIGN - 1);
	size_t step = at > io->off_bytes ? (size_t)(at - io->off_bytes) : 0;

	q->stats.resumed++;
	p->shorts = step ? 0 : p->shorts + 1;
	p->retries = 0;
	if (moved == 0 || p->shorts > SHORTS_MAX)
		return st_fail(
			STRATA_E_IO,
			io->op == ST_AIO_READ
				? "%s: read of %zu bytes at offset %llu: the file ends after "
				  "%zu of them: is it truncated?"
				: "%s: write of %zu bytes at offset %llu: only %zu were taken",
			io->path ? io->path : "file", io->len_bytes,
			(unsigned long long)io->off_bytes, moved);
	io->buf = (char *)io->buf + step;
	io->off_bytes += step;
	io->len_bytes -= step;
	return 0;
}

static double age_s(const struct st_aio_queue *q, const struct piece *p)
{
	return (double)(q->now_ns - p->start_ns) * 1e-9;
}

static void report_stall(const struct st_aio_queue *q, const struct piece *p, unsigned n_more)
{
	const struct st_aio_req *io = &p->io;
	char more[40] = "";

	if (n_more)
		snprintf(more, sizeof(more), ", and %u more I/Os", n_more);
	st_log(ST_LOG_WARN,
	       "%s: %s of %zu bytes at offset %llu has been in flight for %.1f s%s: the device "
	       "stalls",
	       io->path ? io->path : "file", op_name(io), io->len_bytes,
	       (unsigned long long)io->off_bytes, age_s(q, p), more);
}

static void report_return(const struct st_aio_queue *q, const struct piece *p)
{
	const struct st_aio_req *io = &p->io;

	st_log(ST_LOG_WARN, "%s: %s of %zu bytes at offset %llu came back after %.1f s",
	       io->path ? io->path : "file", op_name(io), io->len_bytes,
	       (unsigned long long)io->off_bytes, age_s(q, p));
}

/* Find what has become too old, and when the next look is due. */
static void check_stalls(struct st_aio_queue *q)
{
	struct piece *told[STALL_LINES];
	unsigned n = 0;

	q->check_ns = INT64_MAX;
	for (unsigned i = 0; i < q->cfg.depth; i++) {
		struct piece *p = &q->pieces[i];

		if (p->state != PIECE_OUT)
			continue;
		if (q->now_ns - p->start_ns < q->cfg.stall_ns) {
			if (p->start_ns + q->cfg.stall_ns < q->check_ns)
				q->check_ns = p->start_ns + q->cfg.stall_ns;
			continue;
		}
		p->state = n < STALL_LINES ? PIECE_REPORTED : PIECE_STALLED;
		if (n < STALL_LINES)
			told[n] = p;
		n++;
	}
	q->stats.stalls += n;
	for (unsigned i = 0; i < n && i < STALL_LINES; i++)
		report_stall(q, told[i], i == STALL_LINES - 1 ? n - STALL_LINES : 0);
}

static void piece_done(struct st_aio_queue *q, struct piece *p)
{
	struct st_aio_req *io = &p->io, *r = p->parent;
	int64_t res = io->result;
	int rc = 0;

	q->n_pieces--;
	if (p->state == PIECE_REPORTED)
		report_return(q, p);
	p->state = PIECE_IDLE;
	if (res == -EINTR || res == -EAGAIN) {
		if (++p->retries <= RETRIES_MAX)
			goto again;
		rc = st_fail(STRATA_E_IO, "%s: I/O at offset %llu: the kernel keeps answering: %s",
			     io->path ? io->path : "file", (unsigned long long)io->off_bytes,
			     strata_strerror((int)res));
	} else if (res < 0) {
		rc = describe(io, (int)res);
	} else if (io->op != ST_AIO_FLUSH && (uint64_t)res > io->len_bytes) {
		rc = st_fail(STRATA_E_IO,
			     "%s: %lld bytes reported for an I/O of %zu at offset %llu",
			     io->path ? io->path : "file", (long long)res, io->len_bytes,
			     (unsigned long long)io->off_bytes);
	} else if (io->op != ST_AIO_FLUSH && (uint64_t)res < io->len_bytes) {
		rc = resume(q, p, (size_t)res);
		if (!rc)
			goto again;
	}
	if (rc)
		fail_request(q, r, rc);
	track_of(r)->n_pieces--;
	q->n_out[direction(r)]--;
	p->next = q->free_pieces;
	q->free_pieces = p;
	complete_if_over(q, r);
	return;

again:
	p->next = q->again;
	q->again = p;
}

/* ---- handing over --------------------------------------------------------------------------- */

static int hand_over(struct st_aio_queue *q, struct piece *p)
{
	int rc = q->ops->submit(q->backend, &p->io);

	if (rc)
		return rc;
	q->n_pieces++;
	p->start_ns = q->now_ns;
	p->state = PIECE_OUT;
	if (q->cfg.stall_ns > 0 && q->now_ns < q->check_ns - q->cfg.stall_ns)
		q->check_ns = q->now_ns + q->cfg.stall_ns;
	return 0;
}

static size_t next_piece(struct st_aio_queue *q, struct piece *p, struct st_aio_req *r)
{
	struct track *t = track_of(r);
	size_t left = r->len_bytes - t->fed_bytes;

	p->parent = r;
	p->shorts = p->retries = 0;
	p->io.op = r->op;
	p->io.fd = r->fd;
	p->io.path = r->path;
	p->io.buf = r->buf ? (char *)r->buf + t->fed_bytes : NULL;
	p->io.len_bytes = left < q->cfg.block_bytes ? left : q->cfg.block_bytes;
	p->io.off_bytes = r->off_bytes + t->fed_bytes;
	return p->io.len_bytes;
}

static struct st_aio_req *next_to_feed(const struct st_aio_queue *q)
{
	int d = q->n_out[1] < q->n_out[0];

	return q->feed[d].head ? q->feed[d].head : q->feed[!d].head;
}

/* What must go again is handed over. false: the backend is full */
static bool feed_again(struct st_aio_queue *q)
{
	struct piece *p;

	while ((p = q->again)) {
		int rc = hand_over(q, p);

		if (rc == -EAGAIN)
			return false;
		q->again = p->next;
		if (rc < 0) { /* goes the way of every failed piece */
			q->n_pieces++;
			p->io.result = rc;
			piece_done(q, p);
		}
	}
	return true;
}

/* Hand over what can be: first what must go again, then new pieces in order of submission. */
static void feed(struct st_aio_queue *q)
{
	struct st_aio_req *r;
	struct piece *p;
	int rc;

	if (!feed_again(q))
		return;
	if (q->is_batch_out && q->n_pieces)
		return;
	q->is_batch_out = false;
	while ((r = next_to_feed(q)) && (p = q->free_pieces)) {
		struct track *t = track_of(r);
		size_t len_bytes = next_piece(q, p, r);

		rc = hand_over(q, p);
		if (rc == -EAGAIN)
			return;
		if (rc < 0) {
			fail_request(q, r, describe(&p->io, rc));
			complete_if_over(q, r);
			continue;
		}
		q->free_pieces = p->next;
		t->n_pieces++;
		q->n_out[direction(r)]++;
		t->fed_bytes += len_bytes; /* the piece itself is the backend's now */
		if (t->fed_bytes == r->len_bytes) {
			list_pop(&q->feed[direction(r)]);
			t->is_fed = true;
		}
	}
}

static int check_req(const struct st_aio_req *r)
{
	if (!r || r->fd < 0)
		return st_fail(-EINVAL, "aio: submit without a request or an open file.");
	if (r->op == ST_AIO_FLUSH)
		return 0;
	if (r->op != ST_AIO_READ && r->op != ST_AIO_WRITE)
		return st_fail(-EINVAL, "aio: operation %d is not known.", (int)r->op);
	if (!r->buf || !r->len_bytes)
		return st_fail(-EINVAL, "%s: I/O without a buffer or a length.",
			       r->path ? r->path : "file");
	if (r->len_bytes > INT64_MAX || r->off_bytes > INT64_MAX - r->len_bytes)
		return st_fail(-EINVAL, "%s: I/O of %zu bytes at offset %llu: out of range.",
			       r->path ? r->path : "file", r->len_bytes,
			       (unsigned long long)r->off_bytes);
	return 0;
}

int st_aio_submit(struct st_aio_queue *q, struct st_aio_req *req)
{
	int rc = check_owner(q);

	if (!rc)
		rc = check_req(req);
	if (rc)
		return rc;
	if (q->n_requests == q->cfg.depth)
		return -EAGAIN;
	if (req->op == ST_AIO_FLUSH) {
		req->buf = NULL;
		req->len_bytes = 0;
		req->off_bytes = 0;
	}
	*track_of(req) = (struct track){ 0 };
	req->result = 0;
	req->error.rc = 0;
	req->error.text[0] = '\0';
	req->submit_ns = q->now_ns = st_now_ns();
	req->done_ns = 0;
	q->n_requests++;
	note_start(q, req);
	list_push(&q->feed[direction(req)], req);
	feed(q);
	return 0;
}

/* The one before r in its feed list (NULL: r is the head); false when it is not there. */
static bool find_before(const struct req_list *l, const struct st_aio_req *r,
			struct st_aio_req **before)
{
	*before = NULL;
	for (struct st_aio_req *at = l->head; at; at = track_of(at)->next) {
		if (at == r)
			return true;
		*before = at;
	}
	return false;
}

int st_aio_cancel(struct st_aio_queue *q, struct st_aio_req *req)
{
	struct req_list *l = &q->feed[direction(req)];
	struct st_aio_req *before;
	int rc = check_owner(q);

	if (rc)
		return rc;
	if (!find_before(l, req, &before))
		return -EALREADY;
	if (before)
		track_of(before)->next = track_of(req)->next;
	else
		l->head = track_of(req)->next;
	if (l->tail == req)
		l->tail = before;
	track_of(req)->is_fed = true;
	req->result = st_fail(STRATA_E_CANCELLED,
			      "%s: %s of %zu bytes at offset %llu: cancelled "
			      "after %zu bytes were handed over.",
			      req->path ? req->path : "file", op_name(req), req->len_bytes,
			      (unsigned long long)req->off_bytes, track_of(req)->fed_bytes);
	st_error_take(&req->error, STRATA_E_CANCELLED);
	q->now_ns = st_now_ns();
	complete_if_over(q, req);
	return 0;
}

/* ---- waiting -------------------------------------------------------------------------------- */

/* Wait for the backend until `until_ns` (INT64_MAX: for ever), or until a piece may be too old. */
static int step(struct st_aio_queue *q, int64_t until_ns)
{
	struct st_aio_req *got[REAP_BATCH];
	int64_t timeout_ns;
	int n;

	if (q->cfg.awaits_batches && q->n_pieces)
		q->is_batch_out = true;
	if (q->n_pieces && q->check_ns < until_ns)
		until_ns = q->check_ns;
	timeout_ns = until_ns == INT64_MAX ? -1 : until_ns > q->now_ns ? until_ns - q->now_ns : 0;
	n = q->ops->reap(q->backend, got, REAP_BATCH, timeout_ns);
	q->now_ns = st_now_ns();
	for (int i = 0; i < n; i++)
		piece_done(q, (struct piece *)got[i]);
	if (n >= 0 && q->n_pieces && q->now_ns >= q->check_ns)
		check_stalls(q);
	return n;
}

static unsigned take_done(struct st_aio_queue *q, struct st_aio_req **done, unsigned max_nr)
{
	unsigned n = 0;

	while (n < max_nr && q->done.head) {
		done[n++] = list_pop(&q->done);
		q->n_requests--;
	}
	return n;
}

int st_aio_reap(struct st_aio_queue *q, struct st_aio_req **done, unsigned max_nr,
		int64_t timeout_ns)
{
	int64_t end_ns = INT64_MAX;
	bool woken = false, stepped = false;
	unsigned n;
	int rc = check_owner(q);

	if (rc)
		return rc;
	if (!done || !max_nr)
		return st_fail(-EINVAL, "aio: reap without room for a request.");
	q->now_ns = st_now_ns();
	if (timeout_ns >= 0 && timeout_ns < INT64_MAX - q->now_ns)
		end_ns = q->now_ns + timeout_ns;
	for (;;) {
		feed(q);
		n = take_done(q, done, max_nr);
		if (atomic_exchange(&q->is_woken, false))
			woken = true;
		/* A wake-up never hides completions: the backend is asked once before it counts. */
		if (n || (stepped && (woken || q->now_ns >= end_ns)))
			break;
		rc = step(q, woken ? 0 : end_ns);
		if (rc < 0)
			return rc;
		stepped = true;
	}
	/* What was fed above starts now, not at the next call. */
	if (q->cfg.awaits_batches && q->n_pieces)
		q->is_batch_out = true;
	rc = q->ops->flush ? q->ops->flush(q->backend) : 0;
	return n || rc >= 0 ? (int)n : rc;
}

void st_aio_wake(struct st_aio_queue *q)
{
	const uint64_t one = 1;

	/* If it was set already, the bell has been rung or is about to be, by who set it. */
	if (!atomic_exchange(&q->is_woken, true))
		while (write(q->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
			;
}

int st_aio_run(struct st_aio_queue *q, struct st_aio_req *reqs, unsigned n)
{
	struct st_aio_req *done[REAP_BATCH];
	unsigned submitted = 0, reaped = 0;
	int rc, refused = 0;

	if (q->n_requests)
		return st_fail(-EINVAL, "aio: run on a queue that is not idle.");
	while (reaped < submitted || (submitted < n && !refused)) {
		while (submitted < n && !refused) {
			rc = st_aio_submit(q, &reqs[submitted]);
			if (rc == -EAGAIN)
				break;
			if (rc < 0)
				refused = rc;
			else
				submitted++;
		}
		if (reaped == submitted)
			break;
		rc = st_aio_reap(q, done, REAP_BATCH, -1);
		if (rc < 0)
			return rc;
		reaped += (unsigned)rc;
	}
	for (unsigned i = 0; i < submitted; i++)
		if (reqs[i].result < 0)
			return st_error_raise(&reqs[i].error);
	return refused;
}

static const struct piece *oldest_piece(const struct st_aio_queue *q)
{
	const struct piece *p = NULL;

	for (unsigned i = 0; i < q->cfg.depth; i++)
		if (q->pieces[i].state != PIECE_IDLE && (!p || q->pieces[i].start_ns < p->start_ns))
			p = &q->pieces[i];
	return p;
}

/* The kernel still writes to the buffers, and to the backend's rings: nothing can be freed. */
static int abandon(struct st_aio_queue *q)
{
	const struct piece *p = oldest_piece(q);
	int rc;

	rc = st_fail(-EBUSY,
		     "%s: %s of %zu bytes at offset %llu has not come back for %.1f s (%u such "
		     "I/Os): the device hangs; their buffers are given up, not freed",
		     p->io.path ? p->io.path : "file", op_name(&p->io), p->io.len_bytes,
		     (unsigned long long)p->io.off_bytes, age_s(q, p), q->n_pieces);
	st_log(ST_LOG_ERROR, "%s", st_last_error());
	if (q->ops->abandon)
		q->ops->abandon(q->backend);
	pthread_mutex_lock(&abandoned_lock);
	q->next_abandoned = abandoned; /* reachable, so that nobody takes it for a forgotten leak */
	abandoned = q;
	pthread_mutex_unlock(&abandoned_lock);
	return rc;
}

int st_aio_close(struct st_aio_queue *q)
{
	int64_t end_ns = INT64_MAX;

	if (!q)
		return 0;
	ST_ASSERT(pthread_equal(q->owner, pthread_self()));
	q->now_ns = st_now_ns();
	if (q->cfg.close_ns > 0 && q->cfg.close_ns < INT64_MAX - q->now_ns)
		end_ns = q->now_ns + q->cfg.close_ns;
	/* Only what the kernel has is awaited: nothing more is fed. */
	while (q->n_pieces && q->now_ns < end_ns)
		if (step(q, end_ns) < 0)
			break;
	if (q->n_pieces)
		return abandon(q);
	q->ops->close(q->backend);
	close(q->wake_fd);
	free(q->pieces);
	free(q);
	return 0;
}

void st_aio_get_stats(const struct st_aio_queue *q, struct st_aio_stats *out)
{
	int64_t now = st_now_ns();

	*out = q->stats;
	if (q->reads_out)
		out->read_ns += now - q->read_since_ns;
	if (q->writes_out)
		out->write_ns += now - q->write_since_ns;
}
