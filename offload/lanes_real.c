/* SPDX-License-Identifier: Apache-2.0 */
/* offload/lanes_real.c - NVMe through aio, hasher and store; the rest on worker threads. */
#include "offload/lanes_real.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "offload/hasher.h"
#include "offload/trace.h"

#define IO_OPS       32u /* operations accepted per direction */
#define LANE_OPS     4u  /* queued for a worker, so that it need not wait for the engine thread */
#define WORKER_LANES 4u  /* compute, h2d, d2h, optimizer */
#define WORKER_OPS   (WORKER_LANES * LANE_OPS)
#define LOADED_MAX   8u /* requests in flight that any drive is busy with */
#define DONE_RING    (2 * IO_OPS + 2 * WORKER_OPS + 8u)

struct piece { /* what one request moves */
	bool is_scratch, is_whole;
	uint32_t extent;               /* of the store, or slot of the scratch */
	uint64_t off_bytes, len_bytes; /* of a piece that is not whole */
	char *buf;
};

struct pieces { /* those of an operation that have not been looked at */
	const struct st_layout *layout;
	enum st_op_kind kind;
	char *buf; /* of the operation */
	uint32_t tile, end_tile;
	size_t unit_elem; /* element of the unit that lies at buf */
	struct st_row_walk rows;
};

struct io_op { /* an accepted read or write operation */
	const struct st_program *p;
	void *ctx;
	uint32_t op;
	int64_t begin_ns; /* its first request was handed over; 0: none was */
	uint64_t token;
	struct pieces pieces;
	struct piece next; /* to be started */
	bool has_next;
	uint32_t in_flight;
	int rc;
	struct st_error error;
};

struct io_req {
	struct st_aio_req aio;
	struct st_hash_job hash;
	struct io_op *owner;
	struct piece piece;
	struct io_req *next; /* in a FIFO */
	bool is_busy, is_write;
};

struct direction {
	struct io_op ops[IO_OPS]; /* FIFO: head .. head + n */
	uint32_t head, n;
	struct io_req *reqs; /* [depth] */
	uint32_t n_busy;
	struct io_req *first, **last; /* FIFO of those that can be handed to aio */
	uint32_t n_flying;            /* with aio; these three are written under the lock */
	int64_t since_ns;             /* n_flying > 0 */
	struct st_io_stats stats;
};

struct job {
	const struct st_program *p;
	void *ctx;
	uint64_t token;
	uint32_t op;
	struct st_event *event; /* on a device: recorded behind it */
	int64_t begin_ns;       /* it was handed over */
	int rc;
	struct st_error error;
};

struct worker { /* takes jobs in order */
	struct st_lanes_real *r;
	void (*run)(struct worker *w, struct job *j);
	pthread_t thread;
	bool has_thread, stops;
	bool is_broken;     /* the worker's: a job failed */
	int64_t free_ns;    /* the worker's: when it was done with its latest job */
	pthread_cond_t has; /* what follows is under the lock */
	struct job jobs[WORKER_OPS];
	uint32_t head, n;
};

struct stream { /* the latest operations on it, and their events; the device's worker only */
	struct st_event *event[LANE_OPS];
	struct {
		const void *ctx;
		uint32_t op;
	} of[LANE_OPS];
	uint32_t n; /* handed over, ever */
};

struct st_lanes_real {
	struct st_lanes_real_cfg cfg;
	struct st_hasher *hasher; /* NULL: no checksums */
	struct direction dir[2];  /* 0 read, 1 write */
	struct st_lane_done done[DONE_RING];
	uint32_t n_done;
	struct {
		bool is_active;
		const struct st_program *p;
		void *ctx;
		uint32_t op;
		uint64_t token;
		struct st_aio_req *reqs;
		uint32_t n, left;
		int64_t since_ns;
	} commit;
	struct worker front;               /* compute; or what is given to the device */
	struct worker optimizer;           /* beside a device */
	struct worker behind[ST_STREAM_N]; /* what it has been given */
	struct stream stream[ST_STREAM_N]; /* in the order of enum st_stream */
	atomic_bool has_failed;         /* a job: what the device is still given does not count */
	pthread_mutex_t lock;           /* what follows is shared with the workers */
	uint32_t n_lane_ops[ST_LANE_N]; /* submitted to a worker and not collected */
	struct job finished[WORKER_OPS];
	uint32_t n_finished;
	struct st_lanes_stats stats;
	struct { /* both directions together */
		unsigned n_flying, n_loaded;
		int64_t since_ns, loaded_since_ns; /* n_flying reached 1, n_loaded */
	} io;
};

static void trace_op(const struct st_lanes_real *r, const struct st_program *p, uint32_t op,
		     void *ctx, int64_t begin_ns, int64_t end_ns)
{
	struct st_trace_run run;

	if (!r->cfg.trace)
		return;
	r->cfg.trace_run(r->cfg.user, ctx, &run);
	st_run_trace_op(r->cfg.trace, p, op, &run, begin_ns, end_ns);
}

/* ---- workers ------------------------------------------------------------------------------- */

static enum st_lane lane_of(const struct job *j)
{
	return j->p->ops[j->op].lane;
}

static enum st_stream stream_of(enum st_lane lane)
{
	return lane == ST_LANE_H2D   ? ST_STREAM_H2D
	       : lane == ST_LANE_D2H ? ST_STREAM_D2H
				     : ST_STREAM_COMPUTE;
}

static void fail_job(struct job *j, int rc)
{
	j->rc = rc;
	st_error_take(&j->error, rc);
}

static void push_job(struct worker *w, const struct job *j)
{
	pthread_mutex_lock(&w->r->lock);
	ST_ASSERT(w->n < WORKER_OPS);
	w->jobs[(w->head + w->n++) % WORKER_OPS] = *j;
	pthread_cond_signal(&w->has);
	pthread_mutex_unlock(&w->r->lock);
}

/* A job is over: the engine thread collects it. since_ns: when its lane turned to it. */
static void finish_job(struct st_lanes_real *r, const struct job *j, int64_t since_ns)
{
	int64_t end_ns = st_now_ns();

	if (!j->rc)
		r->cfg.done(r->cfg.user, j->p, j->op, j->ctx);
	trace_op(r, j->p, j->op, j->ctx, since_ns, end_ns);
	pthread_mutex_lock(&r->lock);
	ST_ASSERT(r->n_finished < WORKER_OPS);
	r->finished[r->n_finished++] = *j;
	if (j->rc) /* what is cancelled because of it comes behind it */
		atomic_store(&r->has_failed, true);
	r->stats.lane_ns[lane_of(j)] += end_ns - since_ns;
	r->stats.kind_ns[j->p->ops[j->op].kind] += end_ns - since_ns;
	st_aio_wake(r->cfg.queue);
	pthread_mutex_unlock(&r->lock);
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;

	pthread_mutex_lock(&w->r->lock);
	for (;;) {
		struct job j;

		while (!w->n && !w->stops)
			pthread_cond_wait(&w->has, &w->r->lock);
		if (!w->n)
			break;
		j = w->jobs[w->head];
		w->head = (w->head + 1) % WORKER_OPS;
		w->n--;
		pthread_mutex_unlock(&w->r->lock);
		j.begin_ns = j.begin_ns ? j.begin_ns : st_now_ns();
		w->run(w, &j);
		pthread_mutex_lock(&w->r->lock);
	}
	pthread_mutex_unlock(&w->r->lock);
	return NULL;
}

/* The job is done when it has been run. */
static void run_here(struct worker *w, struct job *j)
{
	struct st_lanes_real *r = w->r;
	int rc = w->is_broken ? STRATA_E_CANCELLED : r->cfg.run(r->cfg.user, j->p, j->op, j->ctx);

	if (rc)
		fail_job(j, rc);
	w->is_broken |= rc != 0;
	finish_job(r, j, j->begin_ns);
}

/* ---- a device ------------------------------------------------------------------------------ */

static bool depends_on(const struct job *j, uint32_t other)
{
	const struct st_op *op = &j->p->ops[j->op];
	const uint32_t *deps = j->p->deps + op->first_dep;
	uint32_t lo = 0, hi = op->n_deps; /* ascending */

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (deps[mid] == other)
			return true;
		if (deps[mid] < other)
			lo = mid + 1;
		else
			hi = mid;
	}
	return false;
}

/* What the job depends on and may still run is on a stream: in its own it comes before, and of
 * another one the latest such operation's event is enough. */
static int wait_for_others(struct st_lanes_real *r, const struct job *j, enum st_stream mine)
{
	for (unsigned s = 0; s < ST_STREAM_N; s++) {
		struct stream *other = &r->stream[s];
		uint32_t n = other->n < LANE_OPS ? other->n : LANE_OPS;

		for (uint32_t back = 1; s != mine && back <= n; back++) {
			uint32_t i = (other->n - back) % LANE_OPS;
			int rc;

			if (other->of[i].ctx != j->ctx || !depends_on(j, other->of[i].op))
				continue;
			rc = st_device_wait(r->cfg.device, mine, other->event[i]);
			if (rc)
				return rc;
			break;
		}
	}
	return 0;
}

/* Of a lane no more than LANE_OPS are on their way, so the event that comes round is free. */
static int give_to_device(struct st_lanes_real *r, struct job *j)
{
	enum st_stream mine = stream_of(lane_of(j));
	struct stream *s = &r->stream[mine];
	uint32_t i = s->n % LANE_OPS;
	int rc = wait_for_others(r, j, mine);

	if (!rc)
		rc = r->cfg.run(r->cfg.user, j->p, j->op, j->ctx);
	if (!rc)
		rc = st_device_record(r->cfg.device, mine, s->event[i]);
	if (rc)
		return rc;
	j->event = s->event[i];
	s->of[i].ctx = j->ctx;
	s->of[i].op = j->op;
	s->n++;
	return 0;
}

static void run_on_device(struct worker *w, struct job *j)
{
	struct st_lanes_real *r = w->r;
	int rc = atomic_load(&r->has_failed) ? STRATA_E_CANCELLED : give_to_device(r, j);

	if (rc) {
		fail_job(j, rc);
		finish_job(r, j, j->begin_ns);
	} else {
		push_job(&r->behind[stream_of(lane_of(j))], j);
	}
}

static void await_device(struct worker *w, struct job *j)
{
	struct st_lanes_real *r = w->r;
	int rc = st_event_join(r->cfg.device, j->event);

	if (rc < 0) {
		fail_job(j, rc);
	} else if (atomic_load(&r->has_failed)) {
		fail_job(j, STRATA_E_CANCELLED); /* what it depends on may have failed */
	}
	finish_job(r, j, j->begin_ns > w->free_ns ? j->begin_ns : w->free_ns);
	w->free_ns = st_now_ns();
}

static int submit_job(struct st_lanes_real *r, struct worker *w, const struct st_program *p,
		      uint32_t op, void *ctx, uint64_t token)
{
	const struct job j = { .p = p, .ctx = ctx, .token = token, .op = op };
	uint32_t *n = &r->n_lane_ops[p->ops[op].lane];
	bool is_full;

	pthread_mutex_lock(&r->lock);
	is_full = *n == LANE_OPS;
	*n += !is_full;
	pthread_mutex_unlock(&r->lock);
	if (is_full)
		return -EAGAIN;
	push_job(w, &j);
	return 0;
}

/* ---- completions --------------------------------------------------------------------------- */

static void push_done(struct st_lanes_real *r, uint64_t token, int rc)
{
	ST_ASSERT(r->n_done < DONE_RING);
	r->done[r->n_done++] = (struct st_lane_done){ token, rc };
}

/* The text of a failure belongs to the thread that recorded it; hand it over to this one. What was
 * cancelled because of it has none, and must not hide it. */
static int carry(const struct st_error *error, int rc)
{
	if (rc && rc != STRATA_E_CANCELLED && error->rc)
		(void)st_error_raise(error);
	return rc;
}

static void collect_jobs(struct st_lanes_real *r)
{
	pthread_mutex_lock(&r->lock);
	for (uint32_t i = 0; i < r->n_finished; i++) {
		push_done(r, r->finished[i].token, carry(&r->finished[i].error, r->finished[i].rc));
		r->n_lane_ops[lane_of(&r->finished[i])]--;
	}
	r->n_finished = 0;
	pthread_mutex_unlock(&r->lock);
}

/* ---- reads and writes ---------------------------------------------------------------------- */

static void begin_pieces(const struct st_lanes_real *r, const struct st_program *p,
			 uint32_t op_index, void *ctx, struct pieces *it)
{
	const struct st_op *op = &p->ops[op_index];
	const struct st_layout *l = r->cfg.layout;
	const struct st_use *use = &p->uses[op->first_use];

	*it = (struct pieces){ .layout = l,
			       .kind = op->kind,
			       .buf = r->cfg.base[use->addr.arena] + use->addr.off_bytes };
	if (op->is_speculative && r->cfg.is_void(r->cfg.user, ctx))
		return; /* no pieces */
	if (op->kind == ST_OP_READ_ROWS) {
		st_rows_walk(&it->rows, r->cfg.lookup, r->cfg.rows(r->cfg.user, ctx), op->chunk);
	} else if (op->tile != ST_NONE) {
		it->tile = op->tile;
		it->end_tile = op->tile + 1;
		it->unit_elem = l->tiles[op->tile].first_elem;
	} else { /* all of a unit: its tiles lie one behind the other */
		it->tile = l->unit_first_tile[op->unit];
		it->end_tile = l->unit_first_tile[op->unit + 1];
	}
}

static uint32_t extent_of(uint32_t tile, bool is_state)
{
	return 2 * tile + is_state;
}

static bool next_window(struct pieces *it, struct piece *out)
{
	struct st_row_window w;

	if (!st_rows_next(&it->rows, &w))
		return false;
	*out = (struct piece){ .off_bytes = w.off_bytes,
			       .len_bytes = w.len_bytes,
			       .buf = it->buf + w.at_bytes };
	out->is_scratch = w.array == STRATA_ARRAY_GRAD;
	out->extent =
		out->is_scratch ? w.tile : extent_of(w.tile, w.array != it->layout->param_array);
	return true;
}

/* The next piece of an operation. @return false: there is none left */
static bool next_piece(struct pieces *it, struct piece *out)
{
	size_t elem;

	if (it->kind == ST_OP_READ_ROWS)
		return next_window(it, out);
	if (it->tile == it->end_tile)
		return false;
	elem = it->layout->tiles[it->tile].first_elem - it->unit_elem;
	*out = (struct piece){ .is_whole = true,
			       .buf = it->buf + elem * st_dtype_bytes(it->layout->dtype) };
	out->is_scratch = it->kind == ST_OP_READ_GRAD || it->kind == ST_OP_WRITE_GRAD;
	out->extent = out->is_scratch ? it->tile
				      : extent_of(it->tile, it->kind == ST_OP_READ_STATE ||
								    it->kind == ST_OP_WRITE_STATE);
	it->tile++;
	return true;
}

static bool is_hashed(const struct st_lanes_real *r, const struct io_req *q)
{
	return r->hasher && q->piece.is_whole;
}

static void begin_hash(struct st_lanes_real *r, struct io_req *q)
{
	q->hash.buf = q->piece.buf;
	q->hash.extent = q->piece.extent;
	q->hash.is_scratch = q->piece.is_scratch;
	st_hasher_submit(r->hasher, &q->hash);
}

static int prepare(struct st_lanes_real *r, struct io_req *q)
{
	const struct piece *p = &q->piece;

	if (p->is_scratch && p->is_whole) {
		st_scratch_prep(r->cfg.scratch, p->extent, p->buf, q->is_write, &q->aio);
		return 0;
	}
	if (p->is_scratch)
		return st_scratch_prep_read_range(r->cfg.scratch, p->extent, p->off_bytes,
						  p->len_bytes, p->buf, &q->aio);
	if (!p->is_whole)
		return st_store_prep_read_range(r->cfg.store, p->extent, p->off_bytes, p->len_bytes,
						p->buf, &q->aio);
	return q->is_write ? st_store_prep_write(r->cfg.store, p->extent, p->buf, &q->aio)
			   : st_store_prep_read(r->cfg.store, p->extent, p->buf, &q->aio);
}

static void fail_op(struct io_op *o, int rc)
{
	if (!o->rc) {
		o->rc = rc;
		st_error_take(&o->error, rc);
	}
	o->has_next = false; /* nothing more of it is started */
}

static struct io_req *free_request(struct st_lanes_real *r, struct direction *d)
{
	for (uint32_t i = 0; d->n_busy < r->cfg.depth && i < r->cfg.depth; i++)
		if (!d->reqs[i].is_busy)
			return &d->reqs[i];
	return NULL;
}

static void release(struct direction *d, struct io_req *q)
{
	q->is_busy = false;
	q->owner->in_flight--;
	d->n_busy--;
}

static void push_ready(struct direction *d, struct io_req *q)
{
	q->next = NULL;
	*d->last = q;
	d->last = &q->next;
}

static void note_start(struct st_lanes_real *r, struct direction *d, struct io_op *o)
{
	int64_t now_ns = st_now_ns();

	if (!o->begin_ns)
		o->begin_ns = now_ns;
	pthread_mutex_lock(&r->lock);
	if (!d->n_flying++)
		d->since_ns = now_ns;
	if (d->n_flying > d->stats.max_depth)
		d->stats.max_depth = d->n_flying;
	r->io.n_flying++;
	if (r->io.n_flying == 1)
		r->io.since_ns = now_ns;
	if (r->io.n_flying == r->io.n_loaded)
		r->io.loaded_since_ns = now_ns;
	pthread_mutex_unlock(&r->lock);
}

/* Hand over what can be, in order. */
static void hand_over(struct st_lanes_real *r, struct direction *d)
{
	while (d->first) {
		struct io_req *q = d->first;
		int rc = q->owner->rc; /* of an operation that failed nothing more is started */

		if (!rc) {
			rc = prepare(r, q);
			q->aio.user = q;
			if (!rc)
				rc = st_aio_submit(r->cfg.queue, &q->aio);
			if (rc == -EAGAIN)
				return;
		}
		d->first = q->next;
		if (!d->first)
			d->last = &d->first;
		if (rc) {
			fail_op(q->owner, rc);
			release(d, q);
		} else {
			note_start(r, d, q->owner);
		}
	}
}

/* Start requests of the accepted operations, in order, while there are slots. */
static void feed(struct st_lanes_real *r, struct direction *d)
{
	struct io_req *q;

	for (uint32_t i = 0; i < d->n; i++) {
		struct io_op *o = &d->ops[(d->head + i) % IO_OPS];

		while (o->has_next && (q = free_request(r, d))) {
			q->is_busy = true;
			d->n_busy++;
			q->owner = o;
			o->in_flight++;
			q->piece = o->next;
			o->has_next = next_piece(&o->pieces, &o->next);
			if (q->is_write && is_hashed(r, q))
				begin_hash(r, q);
			else
				push_ready(d, q);
		}
	}
	hand_over(r, d);
}

/* Operations leave the FIFO in order; a later one that is complete waits for the ones before it. */
static void retire_ops(struct st_lanes_real *r, struct direction *d)
{
	while (d->n) {
		struct io_op *o = &d->ops[d->head];

		if (o->has_next || o->in_flight)
			return;
		push_done(r, o->token, carry(&o->error, o->rc));
		if (r->cfg.trace)
			trace_op(r, o->p, o->op, o->ctx, o->begin_ns ? o->begin_ns : st_now_ns(),
				 st_now_ns());
		pthread_mutex_lock(&r->lock);
		d->stats.ops += !o->rc;
		pthread_mutex_unlock(&r->lock);
		d->head = (d->head + 1) % IO_OPS;
		d->n--;
	}
}

/* What was written is what reads give from now on. */
static void written(struct st_lanes_real *r, const struct io_req *q)
{
	const struct piece *p = &q->piece;

	if (p->is_scratch)
		st_scratch_write_done(r->cfg.scratch, p->extent, q->hash.checksum);
	else
		st_store_write_done(r->cfg.store, p->extent, q->hash.checksum);
}

/* The checksum of what is to be written, or of what was read. */
static void finish_hash(struct st_lanes_real *r, struct io_req *q)
{
	const struct piece *p = &q->piece;
	int rc;

	if (q->is_write) {
		push_ready(&r->dir[1], q);
		return;
	}
	rc = p->is_scratch ? st_scratch_read_verify(r->cfg.scratch, p->extent, q->hash.checksum)
			   : st_store_read_verify(r->cfg.store, p->extent, q->hash.checksum);
	if (rc)
		fail_op(q->owner, rc);
	release(&r->dir[0], q);
}

static void collect_hashes(struct st_lanes_real *r)
{
	struct st_hash_job *job = r->hasher ? st_hasher_collect(r->hasher) : NULL;

	while (job) {
		struct st_hash_job *next = job->next; /* a job can be handed over again at once */
		char *at = (char *)job - offsetof(struct io_req, hash);
		struct io_req *q = (struct io_req *)(void *)at;

		if (r->cfg.trace)
			st_run_trace_hash(r->cfg.trace, job->thread, q->is_write, q->owner->p,
					  q->owner->op, job->begin_ns, job->end_ns);
		finish_hash(r, q);
		job = next;
	}
}

static void note_end(struct st_lanes_real *r, struct direction *d, const struct st_aio_req *q)
{
	pthread_mutex_lock(&r->lock);
	if (!--d->n_flying)
		d->stats.busy_ns += q->done_ns - d->since_ns;
	if (r->io.n_flying == 1)
		r->stats.io_busy_ns += q->done_ns - r->io.since_ns;
	if (r->io.n_flying == r->io.n_loaded)
		r->stats.io_loaded_ns += q->done_ns - r->io.loaded_since_ns;
	if (q->result >= 0 && r->io.n_flying >= r->io.n_loaded)
		r->stats.io_loaded_bytes += q->len_bytes;
	r->io.n_flying--;
	d->stats.flight_ns += q->done_ns - q->submit_ns;
	if (q->result >= 0) {
		d->stats.requests++;
		d->stats.bytes += q->len_bytes;
	}
	pthread_mutex_unlock(&r->lock);
}

static void finish_request(struct st_lanes_real *r, struct io_req *q)
{
	struct direction *d = &r->dir[q->is_write];

	note_end(r, d, &q->aio);
	if (q->aio.result < 0) {
		(void)st_error_raise(&q->aio.error);
		fail_op(q->owner, (int)q->aio.result);
	} else if (q->is_write) {
		written(r, q);
	} else if (is_hashed(r, q)) {
		begin_hash(r, q);
		return;
	}
	release(d, q);
}

static int submit_io(struct st_lanes_real *r, struct direction *d, const struct st_program *p,
		     uint32_t op, void *ctx, uint64_t token)
{
	struct io_op *slot;

	if (d->n == IO_OPS)
		return -EAGAIN;
	slot = &d->ops[(d->head + d->n++) % IO_OPS];
	*slot = (struct io_op){ .p = p, .op = op, .ctx = ctx, .token = token };
	begin_pieces(r, p, op, ctx, &slot->pieces);
	slot->has_next = next_piece(&slot->pieces, &slot->next);
	feed(r, d);
	return 0;
}

/* ---- commit -------------------------------------------------------------------------------- */

/* The next round of the commit's requests; ends it when there is none, or when the store says that
 * one of the last round failed. */
static void commit_round(struct st_lanes_real *r)
{
	int n = 0;

	while (!r->commit.left) {
		n = st_store_commit_next(r->cfg.store, r->commit.reqs, r->commit.n);
		if (n <= 0)
			break;
		for (int i = 0; i < n; i++) {
			struct st_aio_req *q = &r->commit.reqs[i];
			int rc;

			q->user = NULL;
			rc = st_aio_submit(r->cfg.queue, q);
			if (rc) { /* told to the store like any other failure */
				q->result = rc;
				st_error_take(&q->error, rc);
			} else {
				r->commit.left++;
			}
		}
	}
	if (r->commit.left)
		return;
	r->commit.is_active = false;
	push_done(r, r->commit.token, n);
	trace_op(r, r->commit.p, r->commit.op, r->commit.ctx, r->commit.since_ns, st_now_ns());
	pthread_mutex_lock(&r->lock);
	r->stats.commits += !n;
	r->stats.commit_ns += st_now_ns() - r->commit.since_ns;
	pthread_mutex_unlock(&r->lock);
}

static int submit_commit(struct st_lanes_real *r, const struct st_program *p, uint32_t op,
			 void *ctx, uint64_t token)
{
	char snapshot[ST_STORE_SNAPSHOT_MAX];
	size_t n;
	int rc;

	if (r->commit.is_active)
		return -EAGAIN;
	if (!r->cfg.wants_commit(r->cfg.user, ctx)) {
		push_done(r, token, 0);
		return 0;
	}
	n = r->cfg.snapshot(r->cfg.user, ctx, snapshot);
	rc = st_store_commit_begin(r->cfg.store, snapshot, n);
	if (rc)
		return rc;
	r->commit.is_active = true;
	r->commit.p = p;
	r->commit.op = op;
	r->commit.ctx = ctx;
	r->commit.token = token;
	r->commit.left = 0;
	r->commit.since_ns = st_now_ns();
	commit_round(r);
	return 0;
}

static void finish_commit_request(struct st_lanes_real *r)
{
	if (--r->commit.left == 0)
		commit_round(r);
}

/* ---- the interface ------------------------------------------------------------------------- */

static uint32_t real_waits_on(void *priv, enum st_lane lane)
{
	const uint32_t device = 1u << ST_LANE_COMPUTE | 1u << ST_LANE_H2D | 1u << ST_LANE_D2H;
	const struct st_lanes_real *r = priv;

	/* A worker takes its jobs in order, and after a failure cancels the rest. */
	if (lane == ST_LANE_OPTIMIZER)
		return 1u << ST_LANE_OPTIMIZER;
	if (r->cfg.device && (device >> lane & 1))
		return device;
	return lane == ST_LANE_COMPUTE ? 1u << ST_LANE_COMPUTE : 0;
}

static int real_submit(void *priv, const struct st_program *p, uint32_t op, void *ctx,
		       uint64_t token)
{
	struct st_lanes_real *r = priv;

	switch (p->ops[op].lane) {
	case ST_LANE_COMPUTE:
	case ST_LANE_H2D:
	case ST_LANE_D2H:
		return submit_job(r, &r->front, p, op, ctx, token);
	case ST_LANE_OPTIMIZER:
		return submit_job(r, &r->optimizer, p, op, ctx, token);
	case ST_LANE_READ:
		return submit_io(r, &r->dir[0], p, op, ctx, token);
	case ST_LANE_WRITE:
		return submit_io(r, &r->dir[1], p, op, ctx, token);
	case ST_LANE_COMMIT:
		return submit_commit(r, p, op, ctx, token);
	default:
		return st_fail(-EINVAL, "no lane for %s", st_op_name(p->ops[op].kind));
	}
}

static void collect(struct st_lanes_real *r)
{
	collect_jobs(r);
	collect_hashes(r);
	for (unsigned d = 0; d < 2; d++) {
		retire_ops(r, &r->dir[d]);
		feed(r, &r->dir[d]);
	}
	if (r->cfg.trace) /* of the counters this thread is the only writer */
		st_run_trace_io(r->cfg.trace, &r->dir[0].stats, &r->dir[1].stats,
				(const unsigned[2]){ r->dir[0].n_flying, r->dir[1].n_flying });
}

static int real_wait(void *priv, struct st_lane_done *done, unsigned max, int64_t timeout_ns)
{
	struct st_lanes_real *r = priv;
	struct st_aio_req *reaped[64];
	unsigned n;
	int got;

	collect(r);
	got = st_aio_reap(r->cfg.queue, reaped, ST_ARRAY_LEN(reaped), r->n_done ? 0 : timeout_ns);
	if (got < 0)
		return got;
	for (int i = 0; i < got; i++) {
		if (reaped[i]->user)
			finish_request(r, reaped[i]->user);
		else
			finish_commit_request(r);
	}
	collect(r);
	n = r->n_done < max ? r->n_done : max;
	memcpy(done, r->done, n * sizeof(*done));
	memmove(r->done, r->done + n, (r->n_done - n) * sizeof(*r->done));
	r->n_done -= n;
	return (int)n;
}

static const struct st_lanes_ops real_ops = {
	.waits_on = real_waits_on,
	.submit = real_submit,
	.wait = real_wait,
};

struct st_lanes st_lanes_real(struct st_lanes_real *r)
{
	return (struct st_lanes){ &real_ops, r };
}

void st_lanes_real_stats(struct st_lanes_real *r, struct st_lanes_stats *out)
{
	int64_t now_ns;

	pthread_mutex_lock(&r->lock);
	now_ns = st_now_ns();
	*out = r->stats;
	if (r->io.n_flying)
		out->io_busy_ns += now_ns - r->io.since_ns;
	if (r->io.n_flying >= r->io.n_loaded)
		out->io_loaded_ns += now_ns - r->io.loaded_since_ns;
	out->read = r->dir[0].stats;
	out->write = r->dir[1].stats;
	if (r->dir[0].n_flying)
		out->read.busy_ns += now_ns - r->dir[0].since_ns;
	if (r->dir[1].n_flying)
		out->write.busy_ns += now_ns - r->dir[1].since_ns;
	pthread_mutex_unlock(&r->lock);
	out->hash_ns = r->hasher ? st_hasher_busy_ns(r->hasher) : 0;
}

static int start_worker(struct st_lanes_real *r, struct worker *w,
			void (*run)(struct worker *w, struct job *j))
{
	int rc;

	w->run = run;
	rc = -pthread_create(&w->thread, NULL, worker_main, w);
	w->has_thread = rc == 0;
	return rc ? st_fail(rc, "lanes: a worker") : 0;
}

/* What was handed to it is run first. */
static void stop_worker(struct worker *w)
{
	if (!w->has_thread)
		return;
	pthread_mutex_lock(&w->r->lock);
	w->stops = true;
	pthread_cond_signal(&w->has);
	pthread_mutex_unlock(&w->r->lock);
	pthread_join(w->thread, NULL);
	w->has_thread = false;
}

static int start_workers(struct st_lanes_real *r)
{
	int rc = 0;

	if (!r->cfg.device)
		return start_worker(r, &r->front, run_here);
	for (unsigned s = 0; s < ST_STREAM_N; s++) {
		for (unsigned i = 0; !rc && i < LANE_OPS; i++)
			rc = st_event_create(r->cfg.device, &r->stream[s].event[i]);
		rc = rc ? rc : start_worker(r, &r->behind[s], await_device);
	}
	rc = rc ? rc : start_worker(r, &r->optimizer, run_here);
	return rc ? rc : start_worker(r, &r->front, run_on_device);
}

static void init_worker(struct st_lanes_real *r, struct worker *w)
{
	w->r = r;
	pthread_cond_init(&w->has, NULL);
}

int st_lanes_real_create(struct st_lanes_real **out, const struct st_lanes_real_cfg *cfg)
{
	struct st_lanes_real *r = calloc(1, sizeof(*r));
	int rc;

	if (!r)
		return st_fail(-ENOMEM, "lanes");
	r->cfg = *cfg;
	pthread_mutex_init(&r->lock, NULL);
	init_worker(r, &r->front);
	init_worker(r, &r->optimizer);
	for (unsigned s = 0; s < ST_STREAM_N; s++)
		init_worker(r, &r->behind[s]);
	r->io.n_loaded =
		cfg->depth / 2 < LOADED_MAX ? cfg->depth / 2 + !(cfg->depth / 2) : LOADED_MAX;
	r->commit.n = 2 * ST_STORE_PATHS_MAX;
	r->commit.reqs = calloc(r->commit.n, sizeof(*r->commit.reqs));
	for (unsigned d = 0; d < 2; d++) {
		r->dir[d].last = &r->dir[d].first;
		r->dir[d].reqs = calloc(cfg->depth, sizeof(*r->dir[d].reqs));
		for (unsigned i = 0; r->dir[d].reqs && i < cfg->depth; i++)
			r->dir[d].reqs[i].is_write = d == 1;
	}
	if (r->commit.reqs && r->dir[0].reqs && r->dir[1].reqs)
		rc = start_workers(r);
	else
		rc = st_fail(-ENOMEM, "lanes");
	if (!rc && cfg->n_hashers)
		rc = st_hasher_create(&r->hasher, cfg->queue, cfg->store, cfg->scratch,
				      cfg->n_hashers);
	if (rc) {
		st_lanes_real_destroy(r);
		return rc;
	}
	*out = r;
	return 0;
}

void st_lanes_real_stop(struct st_lanes_real *r)
{
	if (!r)
		return;
	stop_worker(&r->front); /* before those that it hands on to */
	for (unsigned s = 0; s < ST_STREAM_N; s++)
		stop_worker(&r->behind[s]);
	stop_worker(&r->optimizer);
	st_hasher_destroy(r->hasher);
	r->hasher = NULL;
}

void st_lanes_real_destroy(struct st_lanes_real *r)
{
	if (!r)
		return;
	st_lanes_real_stop(r);
	for (unsigned s = 0; s < ST_STREAM_N; s++) {
		for (unsigned i = 0; i < LANE_OPS; i++)
			st_event_destroy(r->stream[s].event[i]);
		pthread_cond_destroy(&r->behind[s].has);
	}
	pthread_cond_destroy(&r->front.has);
	pthread_cond_destroy(&r->optimizer.has);
	pthread_mutex_destroy(&r->lock);
	free(r->commit.reqs);
	free(r->dir[0].reqs);
	free(r->dir[1].reqs);
	free(r);
}
