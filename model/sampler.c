/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model/sampler.c - text from a result: forward of one sequence with all weights in memory.
 *
 * Generation computes in fp32 and keeps no keys and values between tokens; a model is made for each
 * length until the context is full.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/gpt2.h"
#include "model/hf.h"
#include "model/safetensors.h"
#include "strata/train.h"

#define ALIGN_BYTES ((size_t)64)

enum { BUF_X, BUF_Y, BUF_SAVED, BUF_WORK, BUF_N };

struct strata_sampler {
	struct st_gpt2_cfg gpt2;
	struct st_device *device;
	struct st_model *model; /* for the present length */
	float **weights;        /* [n_units] */
	unsigned n_units;
	void *buf[BUF_N];
	size_t buf_bytes[BUF_N];
	float *logits, *sorted; /* [vocab] */
	int32_t *window;        /* [n_positions] */
};

static void *alloc_aligned(size_t bytes)
{
	return aligned_alloc(ALIGN_BYTES, (bytes + ALIGN_BYTES - 1) & ~(ALIGN_BYTES - 1));
}

/* A model for sequences of `seq` tokens, and buffers that are large enough for it. */
static int shape_for(struct strata_sampler *s, size_t seq)
{
	size_t need[BUF_N] = { 64, 64, 64, 64 };
	struct st_model *m;
	int rc;

	if (s->model && s->model->seq == seq)
		return 0;
	rc = st_gpt2_create(&m, &s->gpt2, 1, seq, s->device, ST_F32);
	if (rc)
		return rc;
	st_gpt2_destroy(s->model);
	s->model = m;
	for (unsigned i = 0; i < m->n_stages; i++) {
		const struct st_stage_desc *d = &m->stages[i];
		const size_t wants[BUF_N] = { d->out_bytes, d->out_bytes, d->saved_bytes,
					      d->fwd_work_bytes };

		for (unsigned b = 0; b < BUF_N; b++)
			if (wants[b] > need[b])
				need[b] = wants[b];
	}
	for (unsigned b = 0; b < BUF_N; b++) {
		if (need[b] <= s->buf_bytes[b])
			continue;
		free(s->buf[b]);
		s->buf[b] = alloc_aligned(need[b]);
		s->buf_bytes[b] = s->buf[b] ? need[b] : 0;
		if (!s->buf[b])
			return st_fail(-ENOMEM, "activations for %zu tokens", seq);
	}
	return 0;
}

static int load_unit(struct strata_sampler *s, struct st_safetensors *f, const char *dir,
		     unsigned u)
{
	const struct st_unit_desc *d = &s->model->units[u];

	s->weights[u] = alloc_aligned(d->elems * sizeof(float));
	if (!s->weights[u])
		return st_fail(-ENOMEM, "weights of %s: %zu MiB", d->name,
			       d->elems * sizeof(float) >> 20);
	memset(s->weights[u], 0, d->elems * sizeof(float));
	for (unsigned i = 0; i < d->n_tensors; i++) {
		const struct st_tensor_desc *t = &d->tensors[i];
		int64_t at = st_safetensors_find(f, t->name);
		struct st_safetensors_info info;
		int rc;

		if (at < 0)
			return st_fail(STRATA_E_INPUT, "%s: tensor %s is missing", dir, t->name);
		st_safetensors_info(f, (size_t)at, &info);
		if (!info.is_float || info.elems != t->elems)
			return st_fail(STRATA_E_INPUT, "%s: tensor %s does not match config.json",
				       dir, t->name);
		rc = st_safetensors_read(f, (size_t)at, 0, t->elems, s->weights[u] + t->first_elem);
		if (rc)
			return rc;
	}
	return 0;
}

static int load_weights(struct strata_sampler *s, const char *dir)
{
	struct st_safetensors *f = NULL;
	int rc = shape_for(s, 1);

	if (rc)
		return rc;
	s->n_units = s->model->n_units;
	s->weights = calloc(s->n_units, sizeof(*s->weights));
	s->logits = alloc_aligned(s->gpt2.vocab_size * sizeof(float));
	s->sorted = calloc(s->gpt2.vocab_size, sizeof(*s->sorted));
	s->window = calloc(s->gpt2.n_positions, sizeof(*s->window));
	if (!s->weights || !s->logits || !s->sorted || !s->window)
		return st_fail(-ENOMEM, "sampler");
	rc = st_safetensors_open(&f, dir);
	for (unsigned u = 0; !rc && u < s->n_units; u++)
		rc = load_unit(s, f, dir, u);
	st_safetensors_close(f);
	return rc;
}

int strata_sampler_open(struct strata_sampler **out, const char *dir, unsigned threads)
{
	const struct st_device_cfg dev = { .type = "host", .dtype = ST_F32, .threads = threads };
	struct strata_sampler *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return st_fail(-ENOMEM, "sampler");
	rc = st_hf_config_read(dir, &s->gpt2);
	if (!rc)
		rc = st_device_open(&s->device, &dev);
	if (!rc)
		rc = load_weights(s, dir);
	if (rc) {
		strata_sampler_close(s);
		return rc;
	}
	*out = s;
	return 0;
}

void strata_sampler_close(struct strata_sampler *s)
{
	if (!s)
		return;
	for (unsigned u = 0; s->weights && u < s->n_units; u++)
		free(s->weights[u]);
	for (unsigned b = 0; b < BUF_N; b++)
		free(s->buf[b]);
	free(s->weights);
	free(s->logits);
	free(s->sorted);
	free(s->window);
	st_gpt2_destroy(s->model);
	st_device_close(s->device);
	free(s);
}

uint64_t strata_sampler_vocab(const struct strata_sampler *s)
{
	return s->gpt2.vocab_size;
}

static int forward(struct strata_sampler *s, const int32_t *tokens)
{
	const struct st_model *m = s->model;
	void *x = s->buf[BUF_X], *y = s->buf[BUF_Y];

	for (unsigned i = 0; i < m->n_stages; i++) {
		struct st_stage_args a = {
			.tokens = tokens,
			.x = x,
			.y = y,
			.saved = s->buf[BUF_SAVED],
			.work = s->buf[BUF_WORK],
			.logits = i + 1 == m->n_stages ? s->logits : NULL,
		};
		void *swap = x;

		for (unsigned k = 0; k < m->stages[i].n_units; k++)
			a.params[k] = s->weights[m->stages[i].units[k]];
		m->fwd(m, s->device, i, &a);
		x = y;
		y = swap;
	}
	return st_device_status(s->device);
}

static double uniform(uint64_t *seed)
{
	uint64_t z = *seed += 0x9e3779b97f4a7c15u; /* SplitMix64 */

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

static int cmp_desc(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return x > y ? -1 : x < y;
}

static int32_t choose(struct strata_sampler *s, double temperature, unsigned top_k, uint64_t *seed)
{
	size_t n = s->gpt2.vocab_size, best = 0;
	float floor_logit = -INFINITY;
	double sum = 0, u;

	for (size_t i = 1; i < n; i++)
		if (s->logits[i] > s->logits[best])
			best = i;
	if (!(temperature > 0))
		return (int32_t)best;
	if (top_k && top_k < n) {
		memcpy(s->sorted, s->logits, n * sizeof(*s->sorted));
		qsort(s->sorted, n, sizeof(*s->sorted), cmp_desc);
		floor_logit = s->sorted[top_k - 1];
	}
	for (size_t i = 0; i < n; i++)
		if (s->logits[i] >= floor_logit)
			sum += exp(((double)s->logits[i] - (double)s->logits[best]) / temperature);
	u = uniform(seed) * sum;
	for (size_t i = 0; i < n; i++) {
		if (s->logits[i] < floor_logit)
			continue;
		u -= exp(((double)s->logits[i] - (double)s->logits[best]) / temperature);
		if (u < 0)
			return (int32_t)i;
	}
	return (int32_t)best;
}

int strata_sampler_next(struct strata_sampler *s, const int32_t *tokens, size_t n,
			double temperature, unsigned top_k, uint64_t *seed, int32_t *token)
{
	size_t seq = n < s->gpt2.n_positions ? n : s->gpt2.n_positions;
	int rc;

	if (!n)
		return st_fail(-EINVAL, "sampling needs at least one token to go on from.");
	for (size_t i = 0; i < seq; i++) {
		s->window[i] = tokens[n - seq + i];
		if (s->window[i] < 0 || (size_t)s->window[i] >= s->gpt2.vocab_size)
			return st_fail(STRATA_E_INPUT, "token %d is beyond the vocabulary of %zu",
				       s->window[i], s->gpt2.vocab_size);
	}
	rc = shape_for(s, seq);
	if (!rc)
		rc = forward(s, s->window);
	if (rc)
		return rc;
	for (size_t i = 0; i < s->gpt2.vocab_size; i++)
		if (!isfinite(s->logits[i]))
			return st_fail(STRATA_E_NUMERIC, "the model's outputs are not finite");
	*token = choose(s, temperature, top_k, seed);
	return 0;
}
