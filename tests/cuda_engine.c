/* SPDX-License-Identifier: Apache-2.0 */
/* tests/cuda_engine.c - the engine, and what stands between it and the emulated device. */
#include "tests/cuda_engine.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gpu/device_ops.h"
#include "model/gpt2.h"
#include "offload/engine.h"
#include "offload/exec.h"
#include "offload/executor.h"
#include "offload/hasher.h"
#include "tests/cuda_emu/host.h"

#define BATCH     1
#define SEQ       17
#define N_MB      2
#define VOCAB     131
#define TOKENS    (N_MB * BATCH * SEQ)
#define STEPS_MAX 16
#define UNLIMITED (UINT64_C(1) << 40)

extern const struct st_device_ops st_cuda_ops;

struct engine_run {
	struct engine_case c;
	struct st_device *dev;
	struct st_model *model;
	struct st_plan *plan;
	struct st_engine *engine;
	char dir[64], run_json[4096];
	const char *path;
	unsigned done, durable;
	double loss[STEPS_MAX];
};

/* ---- defects ------------------------------------------------------------------------------- */

#define RING_MOST 16u

/* Events of a stream, which come round; the device's thread records, others ask. */
struct ring {
	struct st_event *ev[RING_MOST];
	unsigned n;
	bool is_closed;
	struct st_event *early; /* recorded before its time */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct ring rings[ST_STREAM_N];
static enum engine_defect defect;
static bool is_told; /* of the host's accesses */

static void forget_rings(void)
{
	memset(rings, 0, sizeof(rings));
}

/* @return its place, or -1 */
static int place_of(const struct ring *r, const struct st_event *ev)
{
	for (unsigned i = 0; i < r->n; i++)
		if (r->ev[i] == ev)
			return (int)i;
	return -1;
}

static enum st_stream stream_of(const struct st_event *ev)
{
	enum st_stream s = ST_STREAM_N;

	pthread_mutex_lock(&lock);
	for (unsigned i = 0; i < ST_STREAM_N; i++)
		if (place_of(&rings[i], ev) >= 0)
			s = (enum st_stream)i;
	pthread_mutex_unlock(&lock);
	return s;
}

static void note(struct ring *r, struct st_event *ev)
{
	int at = place_of(r, ev);

	pthread_mutex_lock(&lock);
	if (at >= 0)
		r->is_closed = true;
	else if (r->n < RING_MOST)
		r->ev[r->n++] = ev;
	pthread_mutex_unlock(&lock);
}

/* The event that the stream records next, or before this one; NULL while it is not known. */
static struct st_event *neighbour(const struct st_event *ev, int by)
{
	for (unsigned i = 0; i < ST_STREAM_N; i++) {
		const struct ring *r = &rings[i];
		int at = place_of(r, ev);

		if (at >= 0)
			return r->is_closed ? r->ev[((unsigned)at + r->n + (unsigned)by) % r->n]
					    : NULL;
	}
	return NULL;
}

int __real_st_device_wait(struct st_device *dev, enum st_stream stream, const struct st_event *ev);
int __wrap_st_device_wait(struct st_device *dev, enum st_stream stream, const struct st_event *ev);

int __wrap_st_device_wait(struct st_device *dev, enum st_stream stream, const struct st_event *ev)
{
	const struct st_event *other =
		defect == ENGINE_WAITS_FOR_ONE_BEFORE ? neighbour(ev, -1) : NULL;
	enum st_stream from = stream_of(ev);

	if (defect == ENGINE_COMPUTES_BEFORE_COPY && stream == ST_STREAM_COMPUTE &&
	    from == ST_STREAM_H2D)
		return 0;
	if (defect == ENGINE_COPIES_BEFORE_COMPUTE && stream == ST_STREAM_D2H)
		return 0;
	return __real_st_device_wait(dev, stream, other ? other : ev);
}

int __real_st_device_record(struct st_device *dev, enum st_stream stream, struct st_event *ev);
int __wrap_st_device_record(struct st_device *dev, enum st_stream stream, struct st_event *ev);

int __wrap_st_device_record(struct st_device *dev, enum st_stream stream, struct st_event *ev)
{
	struct ring *r = &rings[stream];
	int rc = 0;

	note(r, ev);
	if (defect == ENGINE_RECORDS_NONE && stream == ST_STREAM_D2H)
		return 0;
	if (r->early != ev)
		rc = __real_st_device_record(dev, stream, ev);
	r->early = defect == ENGINE_RECORDS_ONE_EARLY ? neighbour(ev, 1) : NULL;
	return rc || !r->early ? rc : __real_st_device_record(dev, stream, r->early);
}

int __real_st_event_join(struct st_device *dev, struct st_event *ev);
int __wrap_st_event_join(struct st_device *dev, struct st_event *ev);

int __wrap_st_event_join(struct st_device *dev, struct st_event *ev)
{
	enum st_stream s = stream_of(ev);

	if ((defect == ENGINE_FREES_DEVICE_EARLY && s == ST_STREAM_COMPUTE) ||
	    (defect == ENGINE_FREES_STAGING_EARLY && s == ST_STREAM_H2D) ||
	    (defect == ENGINE_READS_RESULT_EARLY && s == ST_STREAM_D2H))
		return 0;
	return __real_st_event_join(dev, ev);
}

int __real_st_device_copy(struct st_device *dev, enum st_stream stream, void *dst, const void *src,
			  size_t bytes);
int __wrap_st_device_copy(struct st_device *dev, enum st_stream stream, void *dst, const void *src,
			  size_t bytes);

int __wrap_st_device_copy(struct st_device *dev, enum st_stream stream, void *dst, const void *src,
			  size_t bytes)
{
	if (defect == ENGINE_COPIES_ON_COMPUTE && stream == ST_STREAM_H2D)
		stream = ST_STREAM_COMPUTE;
	return __real_st_device_copy(dev, stream, dst, src, bytes);
}

/* ---- the host's own accesses --------------------------------------------------------------- */

static void tell(const void *p, size_t bytes, bool is_write, const char *what)
{
	if (is_told && is_write)
		emuHostWrite(p, bytes, what);
	else if (is_told)
		emuHostRead(p, bytes, what);
}

/* What a request's buffer is to the host: a read fills it. */
static void tell_request(const struct st_aio_req *q)
{
	if (q->op != ST_AIO_FLUSH)
		tell(q->buf, q->len_bytes, q->op == ST_AIO_READ,
		     q->op == ST_AIO_READ ? "a read from NVMe" : "a write to NVMe");
}

int __real_st_aio_submit(struct st_aio_queue *q, struct st_aio_req *req);
int __wrap_st_aio_submit(struct st_aio_queue *q, struct st_aio_req *req);

int __wrap_st_aio_submit(struct st_aio_queue *q, struct st_aio_req *req)
{
	tell_request(req);
	return __real_st_aio_submit(q, req);
}

/* It lasted until here: what the device was given meanwhile may not touch it either. */
int __real_st_aio_reap(struct st_aio_queue *q, struct st_aio_req **done, unsigned max_nr,
		       int64_t timeout_ns);
int __wrap_st_aio_reap(struct st_aio_queue *q, struct st_aio_req **done, unsigned max_nr,
		       int64_t timeout_ns);

int __wrap_st_aio_reap(struct st_aio_queue *q, struct st_aio_req **done, unsigned max_nr,
		       int64_t timeout_ns)
{
	int n = __real_st_aio_reap(q, done, max_nr, timeout_ns);

	for (int i = 0; i < n; i++)
		tell_request(done[i]);
	return n;
}

void __real_st_hasher_submit(struct st_hasher *h, struct st_hash_job *job);
void __wrap_st_hasher_submit(struct st_hasher *h, struct st_hash_job *job);

void __wrap_st_hasher_submit(struct st_hasher *h, struct st_hash_job *job)
{
	tell(job->buf, ST_AIO_ALIGN, false, "a checksum"); /* of all, but it is the beginning */
	__real_st_hasher_submit(h, job);
}

/* An operation that runs here has its operands from before until after. */
static void tell_operands(const struct st_exec *x, const struct st_program *p,
			  const struct st_op *op, const struct st_run *run)
{
	if (op->lane != ST_LANE_OPTIMIZER)
		return;
	for (uint32_t i = op->first_use; i < op->first_use + op->n_uses; i++) {
		const struct st_use *u = &p->uses[i];

		tell(x->base[u->addr.arena] + u->addr.off_bytes, u->bytes, u->is_write,
		     st_op_name(op->kind));
	}
	if (op->kind != ST_OP_NORM)
		return;
	tell(x->leaves, x->plan->layout->n_leaves * sizeof(double), false, "the norm");
	tell(run->loss, run->n_mb * BATCH * SEQ * sizeof(float), false, "the mean loss");
}

int __real_st_exec_run(void *user, const struct st_program *p, uint32_t op, void *ctx);
int __wrap_st_exec_run(void *user, const struct st_program *p, uint32_t op, void *ctx);

int __wrap_st_exec_run(void *user, const struct st_program *p, uint32_t op, void *ctx)
{
	int rc;

	tell_operands(user, p, &p->ops[op], ctx);
	rc = __real_st_exec_run(user, p, op, ctx);
	tell_operands(user, p, &p->ops[op], ctx);
	return rc;
}

void __real_st_exec_done(void *user, const struct st_program *p, uint32_t op, void *ctx);
void __wrap_st_exec_done(void *user, const struct st_program *p, uint32_t op, void *ctx);

void __wrap_st_exec_done(void *user, const struct st_program *p, uint32_t op, void *ctx)
{
	const struct st_exec *x = user;
	const struct st_op *o = &p->ops[op];

	for (uint32_t i = o->first_use; i < o->first_use + o->n_uses; i++)
		if (o->kind == ST_OP_COPY_OUT && p->uses[i].role == ST_ROLE_LEAVES)
			tell(x->leaves + x->plan->layout->tiles[o->tile].first_leaf,
			     p->uses[i].bytes, false, "the norm so far");
	__real_st_exec_done(user, p, op, ctx);
}

/* The batch was put there. */
void __real_st_executor_open(struct st_executor *x, const void *ctx);
void __wrap_st_executor_open(struct st_executor *x, const void *ctx);

void __wrap_st_executor_open(struct st_executor *x, const void *ctx)
{
	const struct st_run *run = ctx;

	if (st_variant_desc(run->variant)->is_step) {
		tell(run->tokens, TOKENS * sizeof(int32_t), true, "the next batch");
		tell(run->targets, TOKENS * sizeof(int32_t), true, "the next batch");
	}
	__real_st_executor_open(x, ctx);
}

/* ---- a run --------------------------------------------------------------------------------- */

static int first_value(void *user, const struct st_tensor_desc *t, size_t first, size_t n,
		       float *out)
{
	(void)user;
	st_init_fill(t, 5, first, n, out);
	return 0;
}

static enum st_home home_of(enum engine_home h)
{
	return h == ENGINE_ON_NVME   ? ST_HOME_NVME
	       : h == ENGINE_ON_HOST ? ST_HOME_HOST
				     : ST_HOME_DEVICE;
}

static int make_plan(struct engine_run *r)
{
	const struct engine_case *c = &r->c;
	bool uses_nvme = c->params == ENGINE_ON_NVME || c->states == ENGINE_ON_NVME;
	struct st_plan_cfg plan = {
		.model = r->model,
		.formats = { .dtype = ST_BF16,
			     .grad_dtype = ST_BF16,
			     .optim = { .struct_bytes = sizeof(struct strata_optim_cfg),
					.beta1 = 0.9,
					.beta2 = 0.95,
					.eps = 1e-8,
					.has_bias_correction = true,
					.seed = 3 } },
		.n_mb = N_MB,
		.n_eval_mb = 1,
		.param_home = home_of(c->params),
		.state_home = home_of(c->states),
		.update = c->updates_at_once ? ST_UPDATE_IMMEDIATE : ST_UPDATE_AUTO,
		.pins = c->is_tight,
		.needs_norm = !c->updates_at_once,
		.rest = uses_nvme ? ST_REST_FIT : ST_REST_MEMORY,
		.commits = uses_nvme,
		.may_speculate = uses_nvme,
		.copies = !c->is_on_processor,
		.device_bytes = c->is_tight ? UNLIMITED : 0,
		.host_bytes = c->is_tight ? UNLIMITED : 0,
	};
	int rc;

	for (unsigned m = 0; m < ST_ARRAY_LEN(plan.updates); m++) {
		struct strata_optim_format f = st_formats_of(&plan.formats, m);

		plan.updates[m] = st_device_can_update(r->dev, &plan.formats.optim, &f);
	}
	rc = st_plan_create(&r->plan, &plan);
	if (rc || !c->is_tight)
		return rc;
	plan.device_bytes = r->plan->min_bytes[ST_ARENA_DEVICE];
	plan.host_bytes = r->plan->min_bytes[ST_ARENA_HOST];
	st_plan_destroy(r->plan);
	r->plan = NULL;
	return st_plan_create(&r->plan, &plan);
}

static int open_device(struct engine_run *r)
{
	const struct st_device_cfg cfg = { .type = "host", .dtype = ST_BF16, .threads = 1 };
	const struct st_gpt2_cfg gpt = {
		.n_layer = 2, .n_embd = 64, .n_head = 2, .n_positions = 32, .vocab_size = VOCAB
	};
	int rc = r->c.is_on_processor ? st_device_open(&r->dev, &cfg)
				      : st_cuda_ops.open(&r->dev, &cfg);

	if (!rc)
		rc = st_gpt2_create(&r->model, &gpt, BATCH, SEQ, r->dev, ST_BF16);
	return rc ? rc : make_plan(r);
}

static int open_engine(struct engine_run *r, const char *resume)
{
	const struct strata_loss_scale_cfg none = { .struct_bytes = sizeof(none), .fixed = 1 };
	struct st_engine_cfg cfg = {
		.plan = r->plan,
		.device = r->dev,
		.aio = ST_AIO_CFG_DEFAULT,
		.store_paths = &r->path,
		.n_store_paths = 1,
		.checksum = true,
		.commit_every = 1,
		.resume = resume,
		.weight_decay = 0.1,
		.clip = r->c.updates_at_once ? 0 : 0.5,
		.numeric_plan = 42,
		.fill = first_value,
	};
	int rc = strata_loss_scale_init(&cfg.loss_scale, &none);

	cfg.aio.depth = 16;
	return rc ? rc : st_engine_create(&r->engine, &cfg, r->run_json, sizeof(r->run_json));
}

int engine_open(struct engine_run **out, const struct engine_case *c)
{
	struct engine_run *r = calloc(1, sizeof(*r));
	int rc;

	if (!r)
		abort();
	*out = r;
	r->c = *c;
	defect = c->defect;
	is_told = !c->is_on_processor;
	forget_rings();
	/* Memory, where there is such a file system: nothing here is about the drive. */
	snprintf(r->dir, sizeof(r->dir), "%s/strata-emu-XXXXXX",
		 access("/dev/shm", W_OK) ? "." : "/dev/shm");
	if (!mkdtemp(r->dir))
		abort();
	r->path = r->dir;
	rc = open_device(r);
	return rc ? rc : open_engine(r, NULL);
}

int engine_reopen(struct engine_run *r)
{
	char json[sizeof(r->run_json)];

	memcpy(json, r->run_json, sizeof(json));
	st_engine_close(r->engine, false);
	r->engine = NULL;
	return open_engine(r, json);
}

static void next_batch(unsigned step, int32_t *tokens, int32_t *targets)
{
	uint64_t z = step * 0x9e3779b97f4a7c15u + 1;

	for (unsigned i = 0; i < TOKENS; i++) {
		z = z * 6364136223846793005u + 1442695040888963407u;
		tokens[i] = (int32_t)((z >> 33) % 11 * 7);
		targets[i] = (tokens[i] * 3 + 5) % VOCAB;
	}
}

int engine_steps(struct engine_run *r, unsigned last)
{
	int32_t tokens[TOKENS], targets[TOKENS];
	int rc = 0;

	while (!rc && r->done < last && r->done < STEPS_MAX) {
		const struct st_step_in in = { .tokens = tokens,
					       .targets = targets,
					       .lr = 1e-2,
					       .beta1 = -1,
					       .beta2 = -1,
					       .cursor_after = r->done + 1 };
		struct st_step_out out;

		next_batch(r->done + 1, tokens, targets);
		rc = st_engine_step(r->engine, &in, &out);
		if (rc)
			break;
		r->loss[r->done++] = out.loss;
		r->durable = (unsigned)out.durable_step;
	}
	return rc;
}

unsigned engine_done(const struct engine_run *r)
{
	return r->done;
}

unsigned engine_durable(const struct engine_run *r)
{
	return r->durable;
}

double engine_loss(const struct engine_run *r, unsigned step)
{
	return r->loss[step - 1];
}

int engine_save(struct engine_run *r)
{
	return st_engine_save(r->engine);
}

int engine_hash(struct engine_run *r, uint64_t *hash)
{
	return st_engine_state_hash(r->engine, hash);
}

void engine_shut(struct engine_run *r)
{
	st_engine_close(r->engine, false);
	st_plan_destroy(r->plan);
	st_gpt2_destroy(r->model);
	st_device_close(r->dev);
	r->engine = NULL;
	r->plan = NULL;
	r->model = NULL;
	r->dev = NULL;
	defect = ENGINE_NO_DEFECT;
	is_told = false;
}

/* ---- what a run left ----------------------------------------------------------------------- */

static struct engine_run reader; /* a host device, a model and a plan */

int engine_look(struct engine_run *r, int *step, uint64_t *hash)
{
	struct st_snapshot snap;
	int rc = 0;

	if (!reader.dev) {
		reader.c = (struct engine_case){ .params = ENGINE_ON_NVME,
						 .states = ENGINE_ON_NVME,
						 .is_on_processor = true };
		rc = open_device(&reader);
	}
	if (rc)
		return rc;
	reader.path = r->path;
	rc = open_engine(&reader, r->run_json);
	if (rc)
		return rc;
	*step = st_engine_resumed(reader.engine, &snap) ? (int)snap.step : -1;
	rc = st_engine_state_hash(reader.engine, hash);
	st_engine_close(reader.engine, false);
	reader.engine = NULL;
	return rc;
}

bool engine_remove(struct engine_run *r)
{
	bool is_clean;

	/* The engine wrote run_json when it had made a store; it removes that if it never began. */
	if (r->run_json[0])
		(void)!st_engine_remove_store(r->run_json);
	is_clean = rmdir(r->dir) == 0;
	free(r);
	return is_clean;
}

void engine_end(void)
{
	st_plan_destroy(reader.plan);
	st_gpt2_destroy(reader.model);
	st_device_close(reader.dev);
	memset(&reader, 0, sizeof(reader));
}
