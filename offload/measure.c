/* SPDX-License-Identifier: Apache-2.0 */
/* offload/measure.c - products, memory, optimizer and drives, each for a few tens of milliseconds.
 */
#include "offload/measure.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/log.h"
#include "offload/layout.h"
#include "strata/optim.h"

#define ROWS_MAX    512u
#define PRODUCT_MAX 8e9 /* operations of one product */
#define TRIES       2u
#define TRY_NS      40000000
#define TILES       8u /* of the optimizer: more than caches hold */
#define ELEMS       ((size_t)TILES * ST_STORAGE_TILE)
#define CHUNK_ELEMS ((size_t)16 * STRATA_NUMERIC_TILE)
#define FILE_BYTES  ((uint64_t)96 << 20) /* a path */
#define IO_BYTES    ((size_t)1 << 20)
#define DEPTH_MAX   64u
#define SMALL_IOS   1024u

struct measure {
	const struct st_measure_cfg *cfg;
	struct st_hardware *hw;
	size_t rows, cols, heads; /* what is tried */
	char *a, *b, *c;          /* operands */
	size_t operand_bytes;
	void *work;
	size_t work_bytes;
};

/* ---- compute ------------------------------------------------------------------------------- */

static struct st_matmul product(const struct measure *m, unsigned form)
{
	enum st_dtype t = m->cfg->formats.dtype;
	size_t rows = m->rows, in = m->cfg->n_embd, out = m->cols;
	struct st_matmul mm = { .m = rows,
				.k = in,
				.n = out,
				.a_dtype = t,
				.b_dtype = t,
				.c_dtype = t,
				.a = m->a,
				.b = m->b,
				.c = m->c };

	if (form == 1) { /* of the weight's gradient */
		mm.m = in;
		mm.k = rows;
		mm.trans_a = mm.accumulate = true;
		mm.c_dtype = ST_F32;
	} else if (form == 2) { /* of the input's */
		mm.k = out;
		mm.n = in;
		mm.trans_b = true;
	}
	return mm;
}

static void run_product(void *user, unsigned form)
{
	const struct measure *m = user;
	struct st_matmul mm = product(m, form);

	mm.work = m->work;
	mm.work_bytes = st_matmul_work_bytes(m->cfg->device, &mm);
	st_matmul(m->cfg->device, &mm);
}

static struct st_attention attention(const struct measure *m)
{
	return (struct st_attention){
		.batch = 1,
		.seq = m->cfg->seq,
		.heads = m->heads,
		.head_dim = m->cfg->n_embd / m->cfg->n_head,
		.qkv = m->a,
		.out = m->b,
		.lse = (float *)(void *)(m->c + m->operand_bytes / 2),
		.dout = m->b,
		.dqkv = m->c,
		.work = m->work,
	};
}

static void run_attention(void *user, unsigned is_backward)
{
	const struct measure *m = user;
	struct st_attention at = attention(m);

	if (is_backward)
		st_attention_bwd(m->cfg->device, &at);
	else
		st_attention_fwd(m->cfg->device, &at);
}

static void run_kernel(void *user, unsigned is_backward)
{
	const struct measure *m = user;
	size_t n = m->rows * m->cols;

	if (is_backward)
		st_gelu_bwd(m->cfg->device, n, m->a, m->b, m->c);
	else
		st_gelu_fwd(m->cfg->device, n, m->a, m->c);
}

/* Seconds of one call: the best of some tries of TRY_NS or one call, after a first one. */
static double time_of(void (*run)(void *user, unsigned what), void *user, unsigned what)
{
	double best = 0;

	run(user, what);
	for (unsigned i = 0; i < TRIES; i++) {
		int64_t begin_ns = st_now_ns(), now_ns;
		unsigned n = 0;
		double s;

		do {
			run(user, what);
			n++;
			now_ns = st_now_ns();
		} while (now_ns - begin_ns < TRY_NS);
		s = (double)(now_ns - begin_ns) * 1e-9 / n;
		if (!i || s < best)
			best = s;
	}
	return best;
}

static size_t round_down(size_t n, size_t to)
{
	return n > to ? n / to * to : to;
}

static void fill(char *p, size_t bytes, enum st_dtype t)
{
	for (size_t i = 0; i < bytes / st_dtype_bytes(t); i++)
		st_elem_set(t, p, i, (float)(i * 2654435761u % 2001) * 1e-3f - 1);
}

static size_t larger(size_t a, size_t b)
{
	return a > b ? a : b;
}

static void choose_sizes(struct measure *m)
{
	const struct st_measure_cfg *c = m->cfg;
	double head = 4.0 * (double)(c->n_embd / c->n_head) * (double)c->seq * (double)c->seq;
	size_t cols;

	m->rows = c->rows < ROWS_MAX ? c->rows : ROWS_MAX;
	cols = (size_t)(PRODUCT_MAX / (2.0 * (double)m->rows * (double)c->n_embd));
	m->cols = round_down(cols < 4 * c->n_embd ? cols : 4 * c->n_embd, 64);
	m->heads = (size_t)(PRODUCT_MAX / 2 / head);
	m->heads = m->heads < 1 ? 1 : m->heads < c->n_head ? m->heads : c->n_head;
}

static int allocate(struct measure *m)
{
	const struct st_measure_cfg *c = m->cfg;
	size_t wide = larger(m->cols, c->n_embd), qkv = c->seq * 3 * c->n_embd;
	size_t elems =
		larger(larger(m->rows * wide, c->n_embd * m->cols), qkv + c->seq * c->n_head);

	for (unsigned f = 0; f < 3; f++) {
		struct st_matmul mm = product(m, f);

		m->work_bytes = larger(m->work_bytes, st_matmul_work_bytes(c->device, &mm));
	}
	for (unsigned b = 0; b < 2; b++)
		m->work_bytes = larger(m->work_bytes,
				       st_attention_work_bytes(c->device, 1, c->seq, m->heads,
							       c->n_embd / c->n_head, b));
	m->operand_bytes = (2 * elems * sizeof(float) + 8191) & ~(size_t)8191;
	m->work_bytes = (m->work_bytes + 4095) & ~(size_t)4095;
	m->a = aligned_alloc(4096, m->operand_bytes);
	m->b = aligned_alloc(4096, m->operand_bytes);
	m->c = aligned_alloc(4096, m->operand_bytes);
	m->work = aligned_alloc(4096, m->work_bytes + 4096);
	if (!m->a || !m->b || !m->c || !m->work)
		return st_fail(-ENOMEM, "measuring this machine");
	fill(m->a, m->operand_bytes, c->formats.dtype);
	fill(m->b, m->operand_bytes, c->formats.dtype);
	memset(m->c, 0, m->operand_bytes);
	return 0;
}

static double product_flops(const struct measure *m)
{
	return 2.0 * (double)m->rows * (double)m->cols * (double)m->cfg->n_embd;
}

static int measure_compute(struct measure *m)
{
	const struct st_measure_cfg *c = m->cfg;
	struct st_hardware *hw = m->hw;
	double pass = (double)(m->rows * m->cols * st_dtype_bytes(c->formats.dtype));
	double head = 4.0 * (double)(c->n_embd / c->n_head) * (double)c->seq * (double)c->seq;
	double fwd = time_of(run_product, m, 0);
	double bwd = time_of(run_product, m, 1) + time_of(run_product, m, 2);
	double attend = time_of(run_attention, m, 0), attend_bwd = time_of(run_attention, m, 1);

	memset(hw->product_flops, 0, sizeof(hw->product_flops));
	hw->product_flops[c->formats.dtype] = product_flops(m) / fwd;
	hw->backward_ratio = 2 * fwd / bwd;
	hw->attention_flops = head * (double)m->heads / attend;
	hw->attention_backward_ratio = 2 * attend / attend_bwd;
	hw->device_bytes_per_s = 5 * pass / (time_of(run_kernel, m, 0) + time_of(run_kernel, m, 1));
	return st_device_status(c->device);
}

/* ---- optimizer ----------------------------------------------------------------------------- */

/* A tensor of some tiles, laid out as in a run, in the run's formats. */
struct optim {
	struct strata_optim_step step;
	struct st_layout *layout;
	char *param, *state, *grad; /* [TILES] of one tile's bytes each */
	float *sum;                 /* [ELEMS] */
	double *leaf;
	int threads;
};

static void run_optim(void *user, unsigned is_reduce)
{
	const struct optim *o = user;
	const struct st_layout *l = o->layout;

#pragma omp parallel for num_threads(o->threads) schedule(static)
	for (size_t e = 0; e < ELEMS; e += CHUNK_ELEMS) {
		uint32_t t = (uint32_t)(e / ST_STORAGE_TILE);
		const struct strata_optim_format format = st_tile_format(l, t);
		const struct strata_optim_range r =
			st_tile_range(l, t, e % ST_STORAGE_TILE, CHUNK_ELEMS,
				      o->param + t * st_tile_param_bytes(l, t),
				      o->state + t * st_tile_state_bytes(l, t),
				      o->grad + t * st_tile_grad_bytes(l, t));
		int rc = is_reduce ? strata_optim_reduce(CHUNK_ELEMS, o->sum + e,
							 r.array[STRATA_ARRAY_GRAD], format.grads,
							 o->leaf + e / STRATA_NUMERIC_TILE)
				   : strata_optim_update(&o->step, &format, &r);

		ST_ASSERT(rc == 0);
	}
}

static int lay_out_optim(struct optim *o, const struct st_measure_cfg *c, struct st_model *model,
			 struct st_unit_desc *unit, struct st_tensor_desc *tensor)
{
	*tensor = (struct st_tensor_desc){
		.name = "measured", .n_dims = 2, .dims = { TILES, ST_STORAGE_TILE }, .elems = ELEMS
	};
	*unit = (struct st_unit_desc){ .tensors = tensor, .n_tensors = 1, .elems = ELEMS };
	*model = (struct st_model){ .units = unit, .n_units = 1 };
	return st_layout_create(&o->layout, model, &c->formats);
}

static int measure_optim(struct measure *m)
{
	const struct st_measure_cfg *c = m->cfg;
	struct optim o = { .threads = (int)st_device_caps(c->device)->threads };
	struct st_tensor_desc tensor;
	struct st_unit_desc unit;
	struct st_model model;
	size_t param, state, grad, sum = ELEMS * sizeof(float);
	char *all = NULL;
	int rc = lay_out_optim(&o, c, &model, &unit, &tensor);

	if (rc)
		return rc;
	param = TILES * st_tile_param_bytes(o.layout, 0);
	state = TILES * st_tile_state_bytes(o.layout, 0);
	grad = TILES * st_tile_grad_bytes(o.layout, 0);
	all = aligned_alloc(4096, param + state + grad + sum +
					  ELEMS / STRATA_NUMERIC_TILE * sizeof(double) + 4096);
	if (!all) {
		rc = st_fail(-ENOMEM, "measuring this machine");
		goto out;
	}
	memset(all, 0, param + state + grad);
	o.param = all;
	o.state = o.param + param;
	o.grad = o.state + state;
	o.sum = (float *)(void *)(o.grad + grad);
	o.leaf = (double *)(void *)(o.sum + ELEMS);
	for (size_t i = 0; i < ELEMS; i++)
		o.sum[i] = (float)(i % 1999) * 1e-3f - 1;
	rc = strata_optim_prepare(&o.step, &c->formats.optim, 1, 1e-4, 0.1, 1);
	if (!rc) {
		m->hw->reduces_per_s = (double)ELEMS / time_of(run_optim, &o, 1);
		m->hw->updates_per_s = (double)ELEMS / time_of(run_optim, &o, 0);
		/* All of it in, all but the gradient out. */
		m->hw->host_bytes_per_s =
			m->hw->updates_per_s * (double)(2 * (param + state) + grad) / (double)ELEMS;
	}
out:
	free(all);
	st_layout_destroy(o.layout);
	return rc;
}

/* ---- drives -------------------------------------------------------------------------------- */

struct drives {
	const struct st_measure_cfg *cfg;
	struct st_aio_queue *queue;
	int fd[16];
	size_t n;
	unsigned depth;
	char *buf;
	struct st_aio_req req[DEPTH_MAX];
	uint64_t small_seed;
};

static int open_unnamed(const char *dir)
{
	int fd = open(dir, O_TMPFILE | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);
	char *name = NULL;

	if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL))
		return fd;
	if (asprintf(&name, "%s/.strata-measure.XXXXXX", dir) < 0)
		return -1;
	fd = mkostemp(name, O_DIRECT | O_CLOEXEC);
	if (fd >= 0)
		unlink(name);
	free(name);
	return fd;
}

enum pattern { ALL_WRITES, ALL_READS, MIXED, SMALL_READS };

/* Neither direction is left out: the rate says nothing then. */
static double read_share(const struct st_measure_cfg *c)
{
	double share = c->read_share > 0 ? c->read_share : 0.5;

	return share < 0.02 ? 0.02 : share > 0.98 ? 0.98 : share;
}

/* Request i of a pattern; the mixed one reads the front half of the files and writes the other. */
static void set_request(struct drives *d, struct st_aio_req *req, enum pattern p, uint64_t i)
{
	uint64_t per_file = FILE_BYTES / IO_BYTES, file = i % d->n, at = i / d->n;
	char *buf = d->buf + (size_t)(req - d->req) * IO_BYTES;

	double share = read_share(d->cfg);
	uint64_t reads = (uint64_t)((double)at * share);

	*req = (struct st_aio_req){ .op = p == ALL_WRITES ? ST_AIO_WRITE : ST_AIO_READ,
				    .fd = d->fd[file],
				    .path = d->cfg->paths[file],
				    .buf = buf,
				    .len_bytes = IO_BYTES,
				    .off_bytes = at % per_file * IO_BYTES };
	if (p == MIXED) {
		bool is_read = (uint64_t)((double)(at + 1) * share) > reads;
		uint64_t nth = is_read ? reads : at - reads;

		req->op = is_read ? ST_AIO_READ : ST_AIO_WRITE;
		req->off_bytes = (nth % (per_file / 2) + (is_read ? 0 : per_file / 2)) * IO_BYTES;
	} else if (p == SMALL_READS) {
		d->small_seed = d->small_seed * 6364136223846793005u + 1442695040888963407u;
		req->len_bytes = ST_AIO_ALIGN;
		req->off_bytes = (d->small_seed >> 33) % (FILE_BYTES / ST_AIO_ALIGN) * ST_AIO_ALIGN;
	}
}

/* n requests with `depth` of them in flight. @return 0 and the seconds they took; or a failure */
static int run_io(struct drives *d, enum pattern p, uint64_t n, double *seconds)
{
	struct st_aio_req *done[DEPTH_MAX];
	int64_t begin_ns = st_now_ns();
	uint64_t submitted = 0, completed = 0;
	int rc = 0;

	while (completed < submitted || (!rc && submitted < n)) {
		int got;

		while (!rc && submitted < n && submitted < d->depth) {
			set_request(d, &d->req[submitted], p, submitted);
			rc = st_aio_submit(d->queue, &d->req[submitted]);
			submitted += rc == 0;
		}
		got = st_aio_reap(d->queue, done, d->depth, -1);
		if (got < 0)
			return got;
		for (int i = 0; i < got; i++) {
			completed++;
			if (done[i]->result < 0 && !rc)
				rc = st_error_raise(&done[i]->error);
			if (rc || submitted == n)
				continue;
			set_request(d, done[i], p, submitted);
			rc = st_aio_submit(d->queue, done[i]);
			submitted += rc == 0;
		}
	}
	*seconds = (double)(st_now_ns() - begin_ns) * 1e-9;
	return rc;
}

static int run_flush(struct drives *d, double *seconds)
{
	struct st_aio_req req = { .op = ST_AIO_FLUSH, .fd = d->fd[0], .path = d->cfg->paths[0] };
	int64_t begin_ns = st_now_ns();
	int rc = st_aio_run(d->queue, &req, 1);

	*seconds = (double)(st_now_ns() - begin_ns) * 1e-9;
	return rc;
}

struct beside { /* products beside I/O */
	struct measure *m;
	atomic_bool stops;
	uint64_t n;
	double seconds;
};

static void *run_beside(void *user)
{
	struct beside *b = user;
	int64_t begin_ns = st_now_ns();

	do {
		run_product(b->m, 0);
		b->n++;
	} while (!atomic_load(&b->stops));
	b->seconds = (double)(st_now_ns() - begin_ns) * 1e-9;
	return NULL;
}

static double share(double x)
{
	return x < 0.05 ? 0.05 : x < 1 ? x : 1;
}

static int measure_load(struct drives *d, struct measure *m, uint64_t n, double alone_s)
{
	struct beside b = { .m = m };
	pthread_t thread;
	double io_s = 0;
	int rc = pthread_create(&thread, NULL, run_beside, &b);

	if (rc)
		return st_fail(-rc, "measuring this machine");
	rc = run_io(d, MIXED, n, &io_s);
	atomic_store(&b.stops, true);
	pthread_join(thread, NULL);
	if (rc)
		return rc;
	m->hw->io_beside_compute = share(alone_s / io_s);
	m->hw->compute_beside_io = share(product_flops(m) * (double)b.n / b.seconds /
					 m->hw->product_flops[m->cfg->formats.dtype]);
	return 0;
}

static int measure_files(struct drives *d, struct measure *m)
{
	struct st_hardware *hw = m->hw;
	uint64_t n = FILE_BYTES / IO_BYTES * d->n;
	double bytes = (double)n * (double)IO_BYTES, first, wr, rd, mixed, small, flush;
	int rc = run_io(d, ALL_WRITES, n, &first); /* the first pass allocates */

	if (!rc)
		rc = run_io(d, ALL_WRITES, n, &wr);
	if (!rc)
		rc = run_flush(d, &flush);
	if (!rc)
		rc = run_io(d, ALL_READS, n, &rd);
	if (!rc)
		rc = run_io(d, MIXED, n, &mixed);
	if (!rc)
		rc = run_io(d, SMALL_READS, SMALL_IOS, &small);
	if (rc)
		return rc;
	hw->write_bytes_per_s = bytes / wr;
	hw->read_bytes_per_s = bytes / rd;
	hw->mixed_bytes_per_s = bytes / mixed;
	hw->mixed_read_share = read_share(d->cfg);
	hw->read_iops = SMALL_IOS / small;
	hw->drive_latency_ns = 1e9 * (double)d->depth * small / SMALL_IOS;
	hw->flush_ns = 1e9 * flush;
	return measure_load(d, m, n, mixed);
}

static int measure_drives(struct measure *m)
{
	const struct st_measure_cfg *c = m->cfg;
	struct drives *d = calloc(1, sizeof(*d));
	struct st_aio_cfg aio = c->aio;
	int rc = d ? 0 : -ENOMEM;

	for (; d && !rc && d->n < c->n_paths && d->n < ST_ARRAY_LEN(d->fd); d->n++) {
		d->fd[d->n] = open_unnamed(c->paths[d->n]);
		if (d->fd[d->n] < 0) {
			rc = st_fail(-errno, "%s: no file can be made there", c->paths[d->n]);
			break;
		}
	}
	if (!rc && d->n) {
		d->cfg = c;
		d->depth = aio.depth && aio.depth < DEPTH_MAX ? aio.depth : DEPTH_MAX;
		aio.depth = d->depth;
		d->buf = aligned_alloc(4096, DEPTH_MAX * IO_BYTES);
		rc = d->buf ? st_aio_open(&d->queue, &aio) : -ENOMEM;
		if (!rc) {
			fill(d->buf, DEPTH_MAX * IO_BYTES, ST_F32);
			rc = measure_files(d, m);
		}
		if (st_aio_close(d->queue)) /* a drive that hangs still uses files and buffers */
			return rc ? rc : st_fail(-EBUSY, "%s: hangs", c->paths[0]);
		free(d->buf);
	}
	for (size_t i = 0; d && i < d->n; i++)
		close(d->fd[i]);
	free(d);
	return rc;
}

/* ---- all of it ----------------------------------------------------------------------------- */

/* Now, and what else runs: 1-minute load, which is of the whole machine. */
static void note_moment(struct st_hardware *hw)
{
	long processors = sysconf(_SC_NPROCESSORS_ONLN);
	double load = 0;

	hw->measured_s = (double)time(NULL);
	if (getloadavg(&load, 1) == 1 && processors > 0)
		hw->busy = load / (double)processors;
}

int st_measure(struct st_hardware *out, const struct st_measure_cfg *cfg)
{
	struct st_hardware hw;
	struct measure m = { .cfg = cfg, .hw = &hw };
	int rc;

	st_hardware_default(&hw);
	note_moment(&hw);
	snprintf(hw.name, sizeof(hw.name), "this machine, measured");
	snprintf(hw.source, sizeof(hw.source), "products of %s, its optimizer, files in %s",
		 st_dtype_name(cfg->formats.dtype), cfg->n_paths ? cfg->paths[0] : "no directory");
	choose_sizes(&m);
	rc = allocate(&m);
	if (!rc)
		rc = measure_compute(&m);
	if (!rc)
		rc = measure_optim(&m);
	if (!rc && cfg->n_paths && measure_drives(&m)) {
		/* A plan is of use also where the drives are not there yet. */
		st_log(ST_LOG_WARN, "the drives are not measured, nominal rates are used: %s",
		       st_last_error());
		snprintf(hw.name, sizeof(hw.name), "this machine, measured; drives nominal");
		snprintf(hw.nominal, sizeof(hw.nominal), "%s", st_last_error());
	}
	free(m.a);
	free(m.b);
	free(m.c);
	free(m.work);
	if (!rc)
		*out = hw;
	return rc;
}
