/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/gpt2_util.h - drive a model's stages by a plain loop, without the engine.
 *
 * For tests with the check library. Every buffer has exactly the size that the description says,
 * is followed by a guard that is checked when it is freed, and holds NaN before a stage may write
 * it: what reads before it wrote, or writes too far, does not go unseen. Backward is also watched
 * for writes to `saved` and x, and gets no parameters where it said that it needs none.
 *
 *	struct gpt2_run r;
 *	gpt2_run_open(&r, &cfg, batch, seq, ST_F32, 2);
 *	gpt2_run_load(&r, gpt2_golden_weights, NULL);
 *	loss = gpt2_run_step(&r, tokens, targets, 1.0f / (batch * seq)) / (batch * seq);
 *	... r.grads[unit] + tensor->first_elem ...
 *	gpt2_run_close(&r);
 */
#ifndef TESTS_GPT2_UTIL_H
#define TESTS_GPT2_UTIL_H

#include <check.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/dtype.h"
#include "gpu/device.h"
#include "model/gpt2.h"

#define GPT2_GUARD_BYTES 64u

struct gpt2_buf {
	void *p;
	size_t bytes;
};

struct gpt2_run {
	struct st_device *dev;
	struct st_model *m;
	enum st_dtype dtype;
	struct gpt2_buf *params; /* [n_units], compute dtype */
	struct gpt2_buf *grads;  /* [n_units], fp32, added to by each step */
	struct gpt2_buf *acts;   /* [n_stages - 1], what stage i made */
	struct gpt2_buf *saved;  /* [n_stages - 1] */
};

/* Fill `out` [t->elems] with a tensor's fp32 values. */
typedef void gpt2_fill_fn(const struct st_tensor_desc *t, float *out, void *user);

/* ---- buffers --------------------------------------------------------------------- */

static inline void *gpt2_calloc(size_t n, size_t bytes)
{
	void *p = calloc(n ? n : 1, bytes);

	ck_assert_ptr_nonnull(p);
	return p;
}

/* 64-byte aligned, all bits one: NaN in every dtype. */
static inline struct gpt2_buf gpt2_buf_new(size_t bytes)
{
	struct gpt2_buf b = { .bytes = bytes };

	b.p = aligned_alloc(64, (bytes + 63) / 64 * 64 + GPT2_GUARD_BYTES);
	ck_assert_ptr_nonnull(b.p);
	memset(b.p, 0xff, bytes);
	memset((char *)b.p + bytes, 0xa5, GPT2_GUARD_BYTES);
	return b;
}

static inline void gpt2_buf_free(struct gpt2_buf *b)
{
	if (!b->p)
		return;
	for (size_t i = 0; i < GPT2_GUARD_BYTES; i++)
		ck_assert_msg(((unsigned char *)b->p)[b->bytes + i] == 0xa5,
			      "byte %zu after a buffer of %zu bytes was overwritten", i, b->bytes);
	free(b->p);
	b->p = NULL;
}

static inline struct gpt2_buf gpt2_buf_copy(const struct gpt2_buf *from)
{
	struct gpt2_buf b = gpt2_buf_new(from->bytes);

	memcpy(b.p, from->p, from->bytes);
	return b;
}

/* ---- the plain loop -------------------------------------------------------------- */

static inline void gpt2_run_zero_grads(struct gpt2_run *r)
{
	for (unsigned i = 0; i < r->m->n_units; i++)
		memset(r->grads[i].p, 0, r->grads[i].bytes);
}

static inline void gpt2_run_open(struct gpt2_run *r, const struct st_gpt2_cfg *cfg, size_t batch,
				 size_t seq, enum st_dtype dtype, unsigned threads)
{
	struct st_device_cfg dc = { .type = "host", .dtype = dtype, .threads = threads };

	memset(r, 0, sizeof(*r));
	r->dtype = dtype;
	ck_assert_msg(!st_device_open(&r->dev, &dc), "%s", st_last_error());
	ck_assert_msg(!st_gpt2_create(&r->m, cfg, batch, seq, r->dev, dtype), "%s",
		      st_last_error());
	r->params = gpt2_calloc(r->m->n_units, sizeof(*r->params));
	r->grads = gpt2_calloc(r->m->n_units, sizeof(*r->grads));
	r->acts = gpt2_calloc(r->m->n_stages, sizeof(*r->acts));
	r->saved = gpt2_calloc(r->m->n_stages, sizeof(*r->saved));
	for (unsigned i = 0; i < r->m->n_units; i++) {
		r->params[i] = gpt2_buf_new(r->m->units[i].elems * st_dtype_bytes(dtype));
		memset(r->params[i].p, 0, r->params[i].bytes);
		r->grads[i] = gpt2_buf_new(r->m->units[i].elems * sizeof(float));
	}
	gpt2_run_zero_grads(r);
}

static inline void gpt2_run_close(struct gpt2_run *r)
{
	for (unsigned i = 0; i < r->m->n_units; i++) {
		gpt2_buf_free(&r->params[i]);
		gpt2_buf_free(&r->grads[i]);
	}
	for (unsigned i = 0; i < r->m->n_stages; i++) {
		gpt2_buf_free(&r->acts[i]);
		gpt2_buf_free(&r->saved[i]);
	}
	free(r->params);
	free(r->grads);
	free(r->acts);
	free(r->saved);
	st_gpt2_destroy(r->m);
	st_device_close(r->dev);
	memset(r, 0, sizeof(*r));
}

static inline float *gpt2_run_grad(const struct gpt2_run *r, unsigned unit, unsigned tensor)
{
	return (float *)r->grads[unit].p + r->m->units[unit].tensors[tensor].first_elem;
}

/* Set one tensor, rounding to the compute dtype. */
static inline void gpt2_run_set(struct gpt2_run *r, unsigned unit, unsigned tensor,
				const float *values)
{
	const struct st_tensor_desc *t = &r->m->units[unit].tensors[tensor];

	for (size_t i = 0; i < t->elems; i++)
		st_elem_set(r->dtype, r->params[unit].p, t->first_elem + i, values[i]);
}

static inline void gpt2_run_load(struct gpt2_run *r, gpt2_fill_fn *fill, void *user)
{
	for (unsigned u = 0; u < r->m->n_units; u++)
		for (unsigned i = 0; i < r->m->units[u].n_tensors; i++) {
			const struct st_tensor_desc *t = &r->m->units[u].tensors[i];
			float *values = gpt2_calloc(t->elems, sizeof(*values));

			fill(t, values, user);
			gpt2_run_set(r, u, i, values);
			free(values);
		}
}

static inline struct st_stage_args gpt2_run_args(const struct gpt2_run *r, unsigned stage,
						 bool wants_params, const int32_t *tokens,
						 const int32_t *targets)
{
	const struct st_stage_desc *s = &r->m->stages[stage];
	struct st_stage_args a = { .tokens = tokens, .targets = targets };

	for (unsigned i = 0; i < s->n_units; i++) {
		a.params[i] = wants_params ? r->params[s->units[i]].p : NULL;
		a.grads[i] = r->grads[s->units[i]].p;
	}
	a.x = stage ? r->acts[stage - 1].p : NULL;
	return a;
}

/* Forward of all stages but the last. */
static inline void gpt2_run_body(struct gpt2_run *r, const int32_t *tokens)
{
	for (unsigned i = 0; i + 1 < r->m->n_stages; i++) {
		const struct st_stage_desc *s = &r->m->stages[i];
		struct st_stage_args a = gpt2_run_args(r, i, true, tokens, NULL);
		struct gpt2_buf work = gpt2_buf_new(s->fwd_work_bytes);

		memset(a.grads, 0, sizeof(a.grads)); /* none in forward */
		gpt2_buf_free(&r->acts[i]);
		gpt2_buf_free(&r->saved[i]);
		r->acts[i] = gpt2_buf_new(s->out_bytes);
		r->saved[i] = gpt2_buf_new(s->saved_bytes);
		a.y = r->acts[i].p;
		a.saved = r->saved[i].p;
		a.work = work.p;
		r->m->fwd(r->m, r->dev, i, &a);
		gpt2_buf_free(&work);
	}
}

static inline double gpt2_sum(const struct gpt2_run *r, const struct gpt2_buf *loss)
{
	double sum = 0;

	for (size_t i = 0; i < r->m->batch * r->m->seq; i++)
		sum += (double)((const float *)loss->p)[i];
	return sum;
}

/* Evaluation. @return sum of the tokens' losses; targets or logits may be NULL */
static inline double gpt2_run_eval(struct gpt2_run *r, const int32_t *tokens,
				   const int32_t *targets, float *logits)
{
	unsigned last = r->m->n_stages - 1;
	struct gpt2_buf work = gpt2_buf_new(r->m->stages[last].fwd_work_bytes);
	struct gpt2_buf loss = gpt2_buf_new(r->m->batch * r->m->seq * sizeof(float));
	struct gpt2_buf row = gpt2_buf_new(r->m->vocab * sizeof(float));
	struct st_stage_args a;
	double sum;

	gpt2_run_body(r, tokens);
	a = gpt2_run_args(r, last, true, tokens, targets);
	memset(a.grads, 0, sizeof(a.grads));
	a.work = work.p;
	memset(loss.p, 0, loss.bytes);
	a.loss = targets ? loss.p : NULL;
	a.logits = logits ? row.p : NULL;
	r->m->fwd(r->m, r->dev, last, &a);
	ck_assert_msg(!st_device_status(r->dev), "%s", st_last_error());
	if (logits)
		memcpy(logits, row.p, r->m->vocab * sizeof(float));
	sum = gpt2_sum(r, &loss);
	gpt2_buf_free(&work);
	gpt2_buf_free(&loss);
	gpt2_buf_free(&row);
	return sum;
}

static inline void gpt2_run_backward(struct gpt2_run *r, unsigned stage, struct st_stage_args *a,
				     const struct gpt2_buf *dy, struct gpt2_buf *dx)
{
	const struct st_stage_desc *s = &r->m->stages[stage];
	struct gpt2_buf *x = stage ? &r->acts[stage - 1] : NULL, *saved = &r->saved[stage];
	struct gpt2_buf work = gpt2_buf_new(s->bwd_work_bytes);
	struct gpt2_buf x_before = { 0 }, saved_before = { 0 };

	if (x) {
		x_before = gpt2_buf_copy(x);
		*dx = gpt2_buf_new(x->bytes);
	}
	if (saved->p)
		saved_before = gpt2_buf_copy(saved);
	a->dy = dy->p;
	a->dx = dx->p;
	a->saved = saved->p;
	a->work = work.p;
	r->m->bwd(r->m, r->dev, stage, a);
	ck_assert_msg(!x || !memcmp(x->p, x_before.p, x->bytes), "stage %s: backward wrote x",
		      s->name);
	ck_assert_msg(!saved->p || !memcmp(saved->p, saved_before.p, saved->bytes),
		      "stage %s: backward wrote saved", s->name);
	gpt2_buf_free(&work);
	gpt2_buf_free(&x_before);
	gpt2_buf_free(&saved_before);
}

/* Forward and backward of one micro-batch; gradients are added to.
 * @return sum of the tokens' losses */
static inline double gpt2_run_step(struct gpt2_run *r, const int32_t *tokens,
				   const int32_t *targets, float grad_scale)
{
	struct gpt2_buf dy = { 0 }, loss = gpt2_buf_new(r->m->batch * r->m->seq * sizeof(float));
	double sum;

	gpt2_run_body(r, tokens);
	for (unsigned i = r->m->n_stages; i-- > 0;) {
		const struct st_stage_desc *s = &r->m->stages[i];
		struct st_stage_args a = gpt2_run_args(r, i, s->bwd_needs_params, tokens, targets);
		struct gpt2_buf dx = { 0 };

		a.grad_scale = grad_scale;
		a.loss = loss.p;
		gpt2_run_backward(r, i, &a, &dy, &dx);
		gpt2_buf_free(&dy);
		dy = dx;
	}
	ck_assert_msg(!st_device_status(r->dev), "%s", st_last_error());
	sum = gpt2_sum(r, &loss);
	gpt2_buf_free(&loss);
	return sum;
}

/* ---- weights and tokens of tests/golden/gpt2.py ------------------------------------ */

static inline uint32_t gpt2_mix32(const char *name, size_t i)
{
	uint32_t z = 0x811c9dc5u;

	for (; *name; name++)
		z = (z ^ (unsigned char)*name) * 0x01000193u;
	z += (uint32_t)i * 0x9e3779b9u;
	z = (z ^ z >> 16) * 0x85ebca6bu;
	z = (z ^ z >> 13) * 0xc2b2ae35u;
	return z ^ z >> 16;
}

/* Exact in bf16 and in fp16: matrices in [-1/4, 1/4), weights of LayerNorm around 1, biases in
 * [-1/8, 1/8). */
static inline void gpt2_golden_weights(const struct st_tensor_desc *t, float *out, void *user)
{
	(void)user;
	for (size_t i = 0; i < t->elems; i++) {
		int k = (int)(gpt2_mix32(t->name, i) >> 24);

		if (t->n_dims == 2)
			out[i] = (float)(k - 128) / 512.0f;
		else if (t->init == ST_INIT_ONE)
			out[i] = 1.0f + (float)(k / 8 - 16) / 64.0f;
		else
			out[i] = (float)(k - 128) / 1024.0f;
	}
}

/* Batch `index`: tokens and targets [batch, seq]. */
static inline void gpt2_golden_batch(size_t index, size_t batch, size_t seq, size_t vocab,
				     int32_t *tokens, int32_t *targets)
{
	for (size_t b = 0; b < batch; b++)
		for (size_t t = 0; t < seq; t++) {
			size_t at = (index * batch + b) * (seq + 1) + t;

			tokens[b * seq + t] = (int32_t)(gpt2_mix32("tokens", at) % vocab);
			targets[b * seq + t] = (int32_t)(gpt2_mix32("tokens", at + 1) % vocab);
		}
}

/* ---- comparison ------------------------------------------------------------------ */

/* ||a - r|| <= rtol ||r|| + floor; false as well when anything is NaN or infinite. */
static inline bool gpt2_is_close(size_t n, const float *a, const float *ref, double rtol,
				 double floor, double *err)
{
	double diff = 0, norm = 0;

	for (size_t i = 0; i < n; i++) {
		double d = (double)a[i] - (double)ref[i];

		diff += d * d;
		norm += (double)ref[i] * (double)ref[i];
	}
	diff = sqrt(diff);
	norm = sqrt(norm);
	*err = norm > 0 ? diff / norm : diff;
	return isfinite(norm) && isfinite(diff) && diff <= rtol * norm + floor;
}

#endif
