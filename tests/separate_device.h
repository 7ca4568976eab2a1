/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/separate_device.h - the host device behind memory that nobody else can touch.
 *
 * A device as a GPU is one, for tests of those who use it: same bits as the host device, but
 *  - its arena has two mappings. The addresses that it gives away are of one that nobody can read
 *    or write; operations translate them. So whoever takes a device address for a host address
 *    crashes, and an operand that is no device address is refused;
 *  - copies to and from it run on a thread of each stream: late, by seed, and what they are about
 *    to write is destroyed first. They take registered host memory only;
 *  - events are done when what is before them is.
 * Operations run at once; so does what waits for nothing on the compute stream.
 */
#ifndef TESTS_SEPARATE_DEVICE_H
#define TESTS_SEPARATE_DEVICE_H

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "gpu/device_ops.h"

#define SEPARATE_RANGES 8u
#define SEPARATE_QUEUE  256u

struct separate_event {
	struct st_event ev;
	uint64_t recorded, done; /* records so far, and those that were reached */
	int rc;
};

struct separate_item { /* a copy, a record or a wait */
	void *dst;
	const void *src;
	size_t bytes;
	struct separate_event *ev;
	uint64_t nr; /* of the record */
	bool is_record;
};

struct separate_stream {
	struct separate *s;
	pthread_t thread;
	struct separate_item items[SEPARATE_QUEUE];
	unsigned head, n;
	uint64_t seed;
	int rc;
};

struct separate {
	struct st_device dev;
	struct st_device *host;
	char name[64];
	int fd;
	char *shown, *real; /* the arena */
	size_t bytes;
	struct {
		char *p;
		size_t bytes;
	} ranges[SEPARATE_RANGES];
	unsigned n_ranges;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool stops;
	struct separate_stream stream[ST_STREAM_N];
	uint64_t n_copies, fails_at; /* the copy of this number fails, counted from 1; 0: none */
};

static inline struct separate *separate_of(const struct st_device *dev)
{
	return (struct separate *)(uintptr_t)dev;
}

/* ---- streams ------------------------------------------------------------------------------- */

static inline void separate_copy_now(struct separate_stream *t, const struct separate_item *i)
{
	struct timespec late = { 0 };

	t->seed = t->seed * 6364136223846793005u + 1442695040888963407u;
	late.tv_nsec = (long)((t->seed >> 40) % 8 ? (t->seed >> 33) % 20000 : 300000);
	memset(i->dst, 0xff, i->bytes);
	nanosleep(&late, NULL);
	memcpy(i->dst, i->src, i->bytes);
}

static inline void *separate_main(void *arg)
{
	struct separate_stream *t = arg;
	struct separate *s = t->s;

	pthread_mutex_lock(&s->lock);
	for (;;) {
		struct separate_item i;

		while (!t->n && !s->stops)
			pthread_cond_wait(&s->changed, &s->lock);
		if (!t->n)
			break;
		i = t->items[t->head];
		if (i.is_record) {
			i.ev->done = i.nr;
			i.ev->rc = t->rc;
		} else if (i.ev) {
			while (i.ev->done < i.nr)
				pthread_cond_wait(&s->changed, &s->lock);
		} else if (++s->n_copies == s->fails_at || t->rc) {
			t->rc = -EIO;
		} else {
			pthread_mutex_unlock(&s->lock);
			separate_copy_now(t, &i);
			pthread_mutex_lock(&s->lock);
		}
		t->head = (t->head + 1) % SEPARATE_QUEUE;
		t->n--;
		pthread_cond_broadcast(&s->changed);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

static inline void separate_push(struct separate *s, enum st_stream stream,
				 struct separate_item item)
{
	struct separate_stream *t = &s->stream[stream];

	while (t->n == SEPARATE_QUEUE)
		pthread_cond_wait(&s->changed, &s->lock);
	t->items[(t->head + t->n++) % SEPARATE_QUEUE] = item;
	pthread_cond_broadcast(&s->changed);
}

static inline int separate_event_create(struct st_device *dev, struct st_event **out)
{
	struct separate_event *ev = calloc(1, sizeof(*ev));

	if (!ev)
		return st_fail(-ENOMEM, "event");
	ev->ev.dev = dev;
	*out = &ev->ev;
	return 0;
}

static inline void separate_event_destroy(struct st_event *ev)
{
	free(ev);
}

static inline int separate_record(struct st_device *dev, enum st_stream stream,
				  struct st_event *event)
{
	struct separate_event *ev = (struct separate_event *)event;
	struct separate *s = separate_of(dev);

	pthread_mutex_lock(&s->lock);
	ev->recorded++;
	if (stream == ST_STREAM_COMPUTE)
		ev->done = ev->recorded;
	else
		separate_push(
			s, stream,
			(struct separate_item){ .ev = ev, .nr = ev->recorded, .is_record = true });
	pthread_mutex_unlock(&s->lock);
	return 0;
}

static inline int separate_join(struct st_device *dev, struct st_event *event)
{
	struct separate_event *ev = (struct separate_event *)event;
	struct separate *s = separate_of(dev);
	int rc;

	pthread_mutex_lock(&s->lock);
	while (ev->done < ev->recorded)
		pthread_cond_wait(&s->changed, &s->lock);
	rc = ev->rc;
	pthread_mutex_unlock(&s->lock);
	return rc ? st_fail(rc, "device \"separate\": a copy failed.") : 0;
}

static inline int separate_wait(struct st_device *dev, enum st_stream stream,
				const struct st_event *event)
{
	struct separate_event *ev = (struct separate_event *)(uintptr_t)event;
	struct separate *s = separate_of(dev);

	pthread_mutex_lock(&s->lock);
	if (stream == ST_STREAM_COMPUTE)
		while (ev->done < ev->recorded)
			pthread_cond_wait(&s->changed, &s->lock);
	else
		separate_push(s, stream, (struct separate_item){ .ev = ev, .nr = ev->recorded });
	pthread_mutex_unlock(&s->lock);
	return 0;
}

static inline int separate_query(struct st_device *dev, struct st_event *event)
{
	struct separate_event *ev = (struct separate_event *)event;
	struct separate *s = separate_of(dev);
	int rc;

	pthread_mutex_lock(&s->lock);
	rc = ev->done < ev->recorded ? 0 : ev->rc ? ev->rc : 1;
	pthread_mutex_unlock(&s->lock);
	return rc;
}

/* ---- memory -------------------------------------------------------------------------------- */

static inline int separate_arena(struct st_device *dev, size_t bytes, void **base)
{
	struct separate *s = separate_of(dev);

	bytes = (bytes + 4095) & ~(size_t)4095;
	s->fd = memfd_create("separate", MFD_CLOEXEC);
	if (s->fd < 0 || ftruncate(s->fd, (off_t)bytes))
		return st_fail(-errno, "device \"separate\": arena");
	s->real = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
	s->shown = mmap(NULL, bytes, PROT_NONE, MAP_SHARED, s->fd, 0);
	if (s->real == MAP_FAILED || s->shown == MAP_FAILED)
		return st_fail(-errno, "device \"separate\": arena");
	s->bytes = bytes;
	memset(s->real, 0xff, bytes); /* NaN in every dtype */
	*base = s->shown;
	return 0;
}

static inline int separate_register(struct st_device *dev, void *host, size_t bytes)
{
	struct separate *s = separate_of(dev);

	if (s->n_ranges == SEPARATE_RANGES)
		return st_fail(-EINVAL, "device \"separate\": too many ranges");
	s->ranges[s->n_ranges].p = host;
	s->ranges[s->n_ranges++].bytes = bytes;
	return 0;
}

static inline void separate_release(struct st_device *dev)
{
	struct separate *s = separate_of(dev);

	s->n_ranges = 0;
	if (!s->bytes)
		return;
	munmap(s->real, s->bytes);
	munmap(s->shown, s->bytes);
	close(s->fd);
	s->bytes = 0;
}

static inline bool separate_holds(const struct separate *s, const void *p)
{
	const char *c = p;

	return s->bytes && c >= s->shown && c < s->shown + s->bytes;
}

static inline bool separate_is_registered(const struct separate *s, const void *p, size_t bytes)
{
	const char *c = p;

	for (unsigned i = 0; i < s->n_ranges; i++)
		if (c >= s->ranges[i].p && c + bytes <= s->ranges[i].p + s->ranges[i].bytes)
			return true;
	return false;
}

static inline int separate_copy(struct st_device *dev, enum st_stream stream, void *dst,
				const void *src, size_t bytes)
{
	struct separate *s = separate_of(dev);
	struct separate_item item = { .dst = dst, .src = src, .bytes = bytes };
	const char *device = stream == ST_STREAM_H2D ? dst : src;
	const void *host = stream == ST_STREAM_H2D ? src : dst;

	if (stream == ST_STREAM_COMPUTE || !separate_holds(s, device) ||
	    !separate_holds(s, device + bytes - 1) || !separate_is_registered(s, host, bytes))
		return st_fail(
			-EINVAL,
			"device \"separate\": a copy between %p and %p is none of its stream", src,
			dst);
	if (stream == ST_STREAM_H2D)
		item.dst = s->real + (device - s->shown);
	else
		item.src = s->real + (device - s->shown);
	pthread_mutex_lock(&s->lock);
	separate_push(s, stream, item);
	pthread_mutex_unlock(&s->lock);
	return 0;
}

/* ---- operations ---------------------------------------------------------------------------- */

/* Where an operand lies. One that is no device address becomes an address that crashes. */
static inline void *separate_at(struct st_device *dev, const void *p)
{
	struct separate *s = separate_of(dev);

	if (!p)
		return NULL;
	if (separate_holds(s, p))
		return s->real + ((const char *)p - s->shown);
	st_device_fail(dev, st_fail(-EINVAL, "device \"separate\": operand %p is not its own", p));
	return s->shown;
}

/* What the host device said. */
static inline void separate_end(struct st_device *dev)
{
	int rc = st_device_status(separate_of(dev)->host);

	if (rc)
		st_device_fail(dev, rc);
}

#define SEP_HOST    (separate_of(dev)->host)
#define SEP_AT(p)   separate_at(dev, p)
#define SEP_IS_FINE (!dev->err.rc)

static inline size_t separate_matmul_bytes(const struct st_device *dev, const struct st_matmul *mm)
{
	return st_matmul_work_bytes(SEP_HOST, mm);
}

static inline void separate_matmul(struct st_device *dev, const struct st_matmul *mm)
{
	struct st_matmul here = *mm;

	here.a = SEP_AT(mm->a);
	here.b = SEP_AT(mm->b);
	here.c = SEP_AT(mm->c);
	here.bias = SEP_AT(mm->bias);
	here.work = SEP_AT(mm->work);
	if (SEP_IS_FINE)
		st_matmul(SEP_HOST, &here);
	separate_end(dev);
}

static inline void separate_layernorm_fwd(struct st_device *dev, size_t rows, size_t cols,
					  const void *x, const void *gamma, const void *beta,
					  void *y, float *mean, float *rstd)
{
	const void *a = SEP_AT(x), *b = SEP_AT(gamma), *c = SEP_AT(beta);
	void *d = SEP_AT(y), *m = SEP_AT(mean), *r = SEP_AT(rstd);

	if (SEP_IS_FINE)
		st_layernorm_fwd(SEP_HOST, rows, cols, a, b, c, d, m, r);
	separate_end(dev);
}

static inline size_t separate_layernorm_bytes(const struct st_device *dev, size_t rows, size_t cols)
{
	return st_layernorm_bwd_work_bytes(SEP_HOST, rows, cols);
}

static inline void separate_layernorm_bwd(struct st_device *dev, size_t rows, size_t cols,
					  const void *dy, const void *x, const void *gamma,
					  const float *mean, const float *rstd, const void *dx_add,
					  void *dx, float *dgamma, float *dbeta, void *work)
{
	const void *a = SEP_AT(dy), *b = SEP_AT(x), *c = SEP_AT(gamma), *add = SEP_AT(dx_add);
	const float *m = SEP_AT(mean), *r = SEP_AT(rstd);
	void *d = SEP_AT(dx), *g = SEP_AT(dgamma), *h = SEP_AT(dbeta), *w = SEP_AT(work);

	if (SEP_IS_FINE)
		st_layernorm_bwd(SEP_HOST, rows, cols, a, b, c, m, r, add, d, g, h, w);
	separate_end(dev);
}

static inline void separate_gelu_fwd(struct st_device *dev, size_t n, const void *x, void *y)
{
	const void *a = SEP_AT(x);
	void *b = SEP_AT(y);

	if (SEP_IS_FINE)
		st_gelu_fwd(SEP_HOST, n, a, b);
	separate_end(dev);
}

static inline void separate_gelu_bwd(struct st_device *dev, size_t n, const void *x, const void *dy,
				     void *dx)
{
	const void *a = SEP_AT(x), *b = SEP_AT(dy);
	void *c = SEP_AT(dx);

	if (SEP_IS_FINE)
		st_gelu_bwd(SEP_HOST, n, a, b, c);
	separate_end(dev);
}

static inline void separate_add(struct st_device *dev, size_t n, const void *a, const void *b,
				void *y)
{
	const void *x = SEP_AT(a), *z = SEP_AT(b);
	void *c = SEP_AT(y);

	if (SEP_IS_FINE)
		st_add(SEP_HOST, n, x, z, c);
	separate_end(dev);
}

static inline void separate_fill_zero(struct st_device *dev, void *p, size_t bytes)
{
	void *a = SEP_AT(p);

	if (SEP_IS_FINE)
		st_fill_zero(SEP_HOST, a, bytes);
	separate_end(dev);
}

static inline size_t separate_bias_bytes(const struct st_device *dev, size_t rows, size_t n)
{
	return st_bias_bwd_work_bytes(SEP_HOST, rows, n);
}

static inline void separate_bias_bwd(struct st_device *dev, size_t rows, size_t n, const void *dy,
				     float *out, void *work)
{
	const void *a = SEP_AT(dy);
	void *b = SEP_AT(out), *w = SEP_AT(work);

	if (SEP_IS_FINE)
		st_bias_bwd(SEP_HOST, rows, n, a, b, w);
	separate_end(dev);
}

static inline size_t separate_attention_bytes(const struct st_device *dev, size_t batch, size_t seq,
					      size_t heads, size_t head_dim, bool is_backward)
{
	return st_attention_work_bytes(SEP_HOST, batch, seq, heads, head_dim, is_backward);
}

static inline struct st_attention separate_attention(struct st_device *dev,
						     const struct st_attention *at)
{
	struct st_attention here = *at;

	here.qkv = SEP_AT(at->qkv);
	here.out = SEP_AT(at->out);
	here.lse = SEP_AT(at->lse);
	here.dout = SEP_AT(at->dout);
	here.dqkv = SEP_AT(at->dqkv);
	here.work = SEP_AT(at->work);
	return here;
}

static inline void separate_attention_fwd(struct st_device *dev, const struct st_attention *at)
{
	struct st_attention here = separate_attention(dev, at);

	if (SEP_IS_FINE)
		st_attention_fwd(SEP_HOST, &here);
	separate_end(dev);
}

static inline void separate_attention_bwd(struct st_device *dev, const struct st_attention *at)
{
	struct st_attention here = separate_attention(dev, at);

	if (SEP_IS_FINE)
		st_attention_bwd(SEP_HOST, &here);
	separate_end(dev);
}

static inline void separate_embedding_fwd(struct st_device *dev, size_t batch, size_t seq,
					  size_t cols, size_t vocab, const int32_t *tokens,
					  const void *wte, const void *wpe, void *y)
{
	const void *a = SEP_AT(tokens), *b = SEP_AT(wte), *c = SEP_AT(wpe);
	void *d = SEP_AT(y);

	if (SEP_IS_FINE)
		st_embedding_fwd(SEP_HOST, batch, seq, cols, vocab, a, b, c, d);
	separate_end(dev);
}

static inline void separate_embedding_bwd(struct st_device *dev, size_t batch, size_t seq,
					  size_t cols, size_t vocab, const int32_t *tokens,
					  const void *dy, float *dwte, float *dwpe)
{
	const void *a = SEP_AT(tokens), *b = SEP_AT(dy);
	void *c = SEP_AT(dwte), *d = SEP_AT(dwpe);

	if (SEP_IS_FINE)
		st_embedding_bwd(SEP_HOST, batch, seq, cols, vocab, a, b, c, d);
	separate_end(dev);
}

static inline void separate_cross_entropy(struct st_device *dev, size_t rows, size_t vocab,
					  size_t ld, void *logits, const int32_t *targets,
					  float *loss, float grad_scale)
{
	void *a = SEP_AT(logits), *c = SEP_AT(loss);
	const void *b = SEP_AT(targets);

	if (SEP_IS_FINE)
		st_cross_entropy(SEP_HOST, rows, vocab, ld, a, b, c, grad_scale);
	separate_end(dev);
}

static inline void separate_reduce(struct st_device *dev, size_t n, const float *acc, void *out,
				   enum strata_optim_grads grads, double *leaf)
{
	const void *a = SEP_AT(acc);
	void *b = SEP_AT(out), *c = SEP_AT(leaf);

	int rc = SEP_IS_FINE ? strata_optim_reduce(n, a, b, grads, c) : 0;

	if (rc)
		st_device_fail(dev, rc);
	separate_end(dev);
}

static inline void separate_update(struct st_device *dev, const struct strata_optim_step *step,
				   const struct strata_optim_format *f,
				   const struct strata_optim_range *r)
{
	struct strata_optim_range here = *r;

	int rc;

	for (unsigned a = 0; a < STRATA_ARRAY_N; a++)
		here.array[a] = SEP_AT(r->array[a]);
	rc = SEP_IS_FINE ? strata_optim_update(step, f, &here) : 0;
	if (rc)
		st_device_fail(dev, rc);
	separate_end(dev);
}

/* Whatever the host's kernels can. */
static inline bool separate_can_update(const struct st_device *dev,
				       const struct strata_optim_cfg *cfg,
				       const struct strata_optim_format *f)
{
	size_t bytes[STRATA_ARRAY_N];

	return !strata_optim_array_bytes(cfg, f, STRATA_NUMERIC_TILE, bytes);
}

/* ---- open and close ------------------------------------------------------------------------ */

static inline void separate_close(struct st_device *dev)
{
	struct separate *s = separate_of(dev);

	pthread_mutex_lock(&s->lock);
	s->stops = true;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	for (unsigned i = 0; i < ST_STREAM_N; i++)
		pthread_join(s->stream[i].thread, NULL);
	separate_release(dev);
	st_device_close(s->host);
	pthread_mutex_destroy(&s->lock);
	pthread_cond_destroy(&s->changed);
	free(s);
}

static const struct st_device_ops separate_ops = {
	.api_version = ST_DEVICE_API_VERSION,
	.type = "separate",
	.close = separate_close,
	.arena = separate_arena,
	.register_host = separate_register,
	.release = separate_release,
	.copy = separate_copy,
	.event_create = separate_event_create,
	.event_destroy = separate_event_destroy,
	.record = separate_record,
	.wait = separate_wait,
	.event_query = separate_query,
	.event_join = separate_join,
	.matmul_work_bytes = separate_matmul_bytes,
	.matmul = separate_matmul,
	.layernorm_fwd = separate_layernorm_fwd,
	.layernorm_bwd_work_bytes = separate_layernorm_bytes,
	.layernorm_bwd = separate_layernorm_bwd,
	.gelu_fwd = separate_gelu_fwd,
	.gelu_bwd = separate_gelu_bwd,
	.add = separate_add,
	.fill_zero = separate_fill_zero,
	.bias_bwd_work_bytes = separate_bias_bytes,
	.bias_bwd = separate_bias_bwd,
	.attention_work_bytes = separate_attention_bytes,
	.attention_fwd = separate_attention_fwd,
	.attention_bwd = separate_attention_bwd,
	.embedding_fwd = separate_embedding_fwd,
	.embedding_bwd = separate_embedding_bwd,
	.cross_entropy = separate_cross_entropy,
	.reduce = separate_reduce,
	.update = separate_update,
	.can_update = separate_can_update,
};

/** separate_open() - as st_device_open(); cfg->type is "host". */
static inline int separate_open(struct st_device **out, const struct st_device_cfg *cfg)
{
	struct separate *s = calloc(1, sizeof(*s));
	int rc = s ? st_device_open(&s->host, cfg) : st_fail(-ENOMEM, "device \"separate\"");

	if (rc) {
		free(s);
		return rc;
	}
	s->dev.ops = &separate_ops;
	s->dev.dtype = cfg->dtype;
	s->dev.caps = *st_device_caps(s->host);
	s->dev.caps.host_visible = false;
	snprintf(s->name, sizeof(s->name), "separate");
	s->dev.caps.name = s->name;
	s->dev.numeric_id = st_device_numeric_id(s->host);
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->changed, NULL);
	for (unsigned i = 0; i < ST_STREAM_N; i++) {
		s->stream[i].s = s;
		s->stream[i].seed = i + 1;
		rc = -pthread_create(&s->stream[i].thread, NULL, separate_main, &s->stream[i]);
		if (rc)
			abort(); /* a test without threads is none */
	}
	*out = &s->dev;
	return 0;
}

#endif
