/* SPDX-License-Identifier: Apache-2.0 */
/* offload/lanes_real.c - NVMe through aio, hasher and store; compute on one worker thread. */
#include "offload/lanes_real.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "offload/hasher.h"
#include "offload/trace.h"

#define IO_OPS      32u /* operations accepted per direction */
#define COMPUTE_OPS 4u  /* queued for the worker, so that it need not wait for the engine thread */
#define LOADED_MAX  8u  /* requests in flight that any drive is busy with */
#define DONE_RING   (2 * IO_OPS + 2 * COMPUTE_OPS + 8u)

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
	int rc;
	struct st_error error;
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
	pthread_t worker;
	bool has_worker;
	pthread_mutex_t lock; /* what follows is shared with the worker */
	pthread_cond_t has_job;
	struct job jobs[COMPUTE_OPS];
	uint32_t job_head, n_jobs;
	struct job finished[COMPUTE_OPS];
	uint32_t n_finished;
	bool stops;
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

/* ---- compute ------------------------------------------------------------------------------- */

static void run_job(struct st_lanes_real *r, struct job *j, bool is_broken)
{
	if (is_broken) {
		j->rc = STRATA_E_CANCELLED;
		return;
	}
	j->rc = r->cfg.compute(r->cfg.user, j->p, j->op, j->ctx);
	if (j->rc)
		st_error_take(&j->error, j->rc);
}

static void *worker_main(void *arg)
{
	struct st_lanes_real *r = arg;
	bool is_broken = false;

	pthread_mutex_lock(&r->lock);
	for (;;) {
		struct job j;
		int64_t start, end;

		while (!r->n_jobs && !r->stops)
			pthread_cond_wait(&r->has_job, &r->lock);
		if (!r->n_jobs)
			break;
		j = r->jobs[r->job_head];
		pthread_mutex_unlock(&r->lock);
		start = st_now_ns();
		run_job(r, &j, is_broken);
		is_broken |= j.rc != 0;
		end = st_now_ns();
		trace_op(r, j.p, j.op, j.ctx, start, end);
		pthread_mutex_lock(&r->lock);
		r->job_head = (r->job_head + 1) % COMPUTE_OPS;
		r->n_jobs--;
		r->finished[r->n_finished++] = j;
		r->stats.compute_ns += end - start;
		r->stats.kind_ns[j.p->ops[j.op].kind] += end - start;
		st_aio_wake(r->cfg.queue);
	}
	pthread_mutex_unlock(&r->lock);
	return NULL;
}

static int submit_compute(struct st_lanes_real *r, const struct st_program *p, uint32_t op,
			  void *ctx, uint64_t token)
{
	int rc = -EAGAIN;

	pthread_mutex_lock(&r->lock);
	if (r->n_jobs + r->n_finished < COMPUTE_OPS) {
		r->jobs[(r->job_head + r->n_jobs++) % COMPUTE_OPS] =
			(struct job){ .p = p, .ctx = ctx, .token = token, .op = op };
		pthread_cond_signal(&r->has_job);
		rc = 0;
	}
	pthread_mutex_unlock(&r->lock);
	return rc;
}

/* ---- completions --------------------------------------------------------------------------- */

static void push_done(struct st_lanes_real *r, uint64_t token, int rc)
{
	ST_ASSERT(r->n_done < DONE_RING);
	r->done[r->n_done++] = (struct st_lane_done){ token, rc };
}

/* The text of a failure belongs to the thread that recorded it; hand it over to this one. */
static int carry(const struct st_error *error, int rc)
{
	if (rc && error->rc)
		(void)st_error_raise(error);
	return rc;
}

static void collect_compute(struct st_lanes_real *r)
{
	pthread_mutex_lock(&r->lock);
	for (uint32_t i = 0; i < r->n_finished; i++)
		push_done(r, r->finished[i].token, carry(&r->finished[i].error, r->finished[i].rc));
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
			       .buf = r->cfg.arena[use->addr.arena] + use->addr.off_bytes };
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
	/* The worker takes its jobs in order, and after a failure cancels the rest. */
	return lane == ST_LANE_COMPUTE ? 1u << ST_LANE_COMPUTE : 0;
}

static int real_submit(void *priv, const struct st_program *p, uint32_t op, void *ctx,
		       uint64_t token)
{
	struct st_lanes_real *r = priv;

	switch (p->ops[op].lane) {
	case ST_LANE_COMPUTE:
		return submit_compute(r, p, op, ctx, token);
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
	collect_compute(r);
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

int st_lanes_real_create(struct st_lanes_real **out, const struct st_lanes_real_cfg *cfg)
{
	struct st_lanes_real *r = calloc(1, sizeof(*r));
	int rc = -ENOMEM;

	if (!r)
		return st_fail(rc, "lanes");
	r->cfg = *cfg;
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->has_job, NULL);
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
	if (!r->commit.reqs || !r->dir[0].reqs || !r->dir[1].reqs)
		goto fail;
	rc = -pthread_create(&r->worker, NULL, worker_main, r);
	if (rc)
		goto fail;
	r->has_worker = true;
	rc = cfg->n_hashers ? st_hasher_create(&r->hasher, cfg->queue, cfg->store, cfg->scratch,
					       cfg->n_hashers)
			    : 0;
	if (rc)
		goto fail;
	*out = r;
	return 0;

fail:
	st_lanes_real_destroy(r);
	return st_fail(rc, "lanes");
}

void st_lanes_real_stop(struct st_lanes_real *r)
{
	if (!r)
		return;
	if (r->has_worker) {
		pthread_mutex_lock(&r->lock);
		r->stops = true;
		pthread_cond_signal(&r->has_job);
		pthread_mutex_unlock(&r->lock);
		pthread_join(r->worker, NULL);
		r->has_worker = false;
	}
	st_hasher_destroy(r->hasher);
	r->hasher = NULL;
}

void st_lanes_real_destroy(struct st_lanes_real *r)
{
	if (!r)
		return;
	st_lanes_real_stop(r);
	pthread_mutex_destroy(&r->lock);
	pthread_cond_destroy(&r->has_job);
	free(r->commit.reqs);
	free(r->dir[0].reqs);
	free(r->dir[1].reqs);
	free(r);
}
