/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu/host/attention.c - heads are dealt out to the team; one head is one thread's work.
 *
 * Each thread has its own scratch (fp32 copies of one head and a few 64 x 64 tiles), so scratch
 * grows with threads and sequence, never with its square. Which thread computes a head changes no
 * bit of it.
 */
#include "gpu/host/host.h"

#include <stdatomic.h>

static size_t head_bytes(const struct st_host *h, size_t seq, size_t head_dim, bool is_backward)
{
	size_t floats = is_backward ? h->k->attn_bwd_floats(seq, head_dim)
				    : h->k->attn_fwd_floats(seq, head_dim);

	return (floats * sizeof(float) + ST_DEVICE_ALIGN - 1) / ST_DEVICE_ALIGN * ST_DEVICE_ALIGN;
}

size_t st_host_attention_work_bytes(const struct st_device *dev, size_t batch, size_t seq,
				    size_t heads, size_t head_dim, bool is_backward)
{
	const struct st_host *h = st_host_const(dev);
	size_t jobs = batch * heads, threads = jobs < h->threads ? jobs : h->threads;

	return threads * head_bytes(h, seq, head_dim, is_backward);
}

static struct st_attn_head head_of(const struct st_attention *at, size_t job, size_t elem_bytes,
				   void *work)
{
	size_t width = at->heads * at->head_dim, b = job / at->heads, i = job % at->heads;
	size_t row_qkv = b * at->seq * 3 * width + i * at->head_dim;
	size_t row_out = b * at->seq * width + i * at->head_dim;
	const char *qkv = (const char *)at->qkv + row_qkv * elem_bytes;
	struct st_attn_head h = {
		.seq = at->seq,
		.head_dim = at->head_dim,
		.ld_qkv = 3 * width,
		.ld_out = width,
		.q = qkv,
		.k = qkv + width * elem_bytes,
		.v = qkv + 2 * width * elem_bytes,
		.out = (char *)at->out + row_out * elem_bytes,
		.lse = at->lse + job * at->seq,
		.work = work,
	};

	if (at->dqkv) {
		char *dqkv = (char *)at->dqkv + row_qkv * elem_bytes;

		h.dout = (const char *)at->dout + row_out * elem_bytes;
		h.dq = dqkv;
		h.dk = dqkv + width * elem_bytes;
		h.dv = dqkv + 2 * width * elem_bytes;
	}
	return h;
}

static void run_heads(const struct st_host *h, const struct st_attention *at, bool is_backward)
{
	enum st_dtype t = h->dev.dtype;
	size_t jobs = at->batch * at->heads;
	size_t work_bytes = head_bytes(h, at->seq, at->head_dim, is_backward);
	_Atomic size_t taken = 0;

#pragma omp parallel num_threads(h->threads)
	{
		char *work = NULL; /* a thread that gets no head takes none: there may be fewer */

#pragma omp for schedule(dynamic)
		for (size_t job = 0; job < jobs; job++) {
			struct st_attn_head head;

			if (!work)
				work = (char *)at->work + atomic_fetch_add(&taken, 1) * work_bytes;
			head = head_of(at, job, st_dtype_bytes(t), work);
			if (is_backward)
				h->k->attn_bwd[t](&head);
			else
				h->k->attn_fwd[t](&head);
		}
	}
}

void st_host_attention_fwd(struct st_device *dev, const struct st_attention *at)
{
	struct st_attention fwd = *at;

	fwd.dqkv = NULL;
	run_heads(st_host(dev), &fwd, false);
}

void st_host_attention_bwd(struct st_device *dev, const struct st_attention *at)
{
	run_heads(st_host(dev), at, true);
}
