/* SPDX-License-Identifier: Apache-2.0 */
/* bench/step_model.c - blocks of two products, run or slept. */
#include "bench/step_model.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define WIDE 6u /* the inner width over the hidden size */

struct block_names {
	struct st_tensor_desc tensors[2];
};

struct st_step_model {
	struct st_model model;
	struct st_step_model_cfg cfg;
	size_t hidden, tokens;
	size_t product_work; /* scratch that any of the products needs */
	struct st_unit_desc *units;
	struct st_stage_desc *stages;
	struct block_names *names;
};

/* Pieces of a call's workspace; whole cache lines each. */
struct work {
	char *x, *wide, *d_wide, *y, *dy, *product;
};

static size_t narrow_bytes(const struct st_step_model *s)
{
	return s->tokens * s->hidden * 2;
}

static size_t wide_bytes(const struct st_step_model *s)
{
	return WIDE * narrow_bytes(s);
}

static struct work cut(const struct st_step_model *s, void *work)
{
	struct work w = { .product = work };

	w.x = w.product + s->product_work;
	w.y = w.x + narrow_bytes(s);
	w.dy = w.y + narrow_bytes(s);
	w.d_wide = w.dy + narrow_bytes(s);
	w.wide = w.d_wide + wide_bytes(s);
	return w;
}

static size_t work_bytes(const struct st_step_model *s, bool is_last)
{
	return s->product_work + 3 * narrow_bytes(s) + (is_last ? 2 : 1) * wide_bytes(s);
}

/* ---- products ------------------------------------------------------------------------------ */

enum product { X_W1, WIDE_W2, D_W2, D_WIDE, D_W1, D_X, PRODUCTS };

static struct st_matmul shape(const struct st_step_model *s, enum product p)
{
	size_t t = s->tokens, h = s->hidden, wide = WIDE * h;
	const struct st_matmul all[PRODUCTS] = {
		[X_W1] = { .m = t, .k = h, .n = wide },
		[WIDE_W2] = { .m = t, .k = wide, .n = h },
		[D_W2] = { .m = wide, .k = t, .n = h, .trans_a = true, .accumulate = true },
		[D_WIDE] = { .m = t, .k = h, .n = wide, .trans_b = true },
		[D_W1] = { .m = h, .k = t, .n = wide, .trans_a = true, .accumulate = true },
		[D_X] = { .m = t, .k = wide, .n = h, .trans_b = true },
	};
	struct st_matmul mm = all[p];

	mm.a_dtype = mm.b_dtype = ST_BF16;
	mm.c_dtype = mm.accumulate ? ST_F32 : ST_BF16;
	return mm;
}

static void multiply(const struct st_step_model *s, struct st_device *dev, enum product p,
		     const void *a, const void *b, void *c, void *work)
{
	struct st_matmul mm = shape(s, p);

	mm.a = a;
	mm.b = b;
	mm.c = c;
	mm.work = work;
	mm.work_bytes = st_matmul_work_bytes(dev, &mm);
	st_matmul(dev, &mm);
}

static const char *w2(const struct st_step_model *s, const void *params)
{
	return (const char *)params + s->hidden * WIDE * s->hidden * 2;
}

/* ---- stages -------------------------------------------------------------------------------- */

/* A row of numbers between -1/2 and 1/2 for each token. */
static const void *input(const struct st_step_model *s, const struct st_stage_args *a, char *x)
{
	uint16_t *out = (uint16_t *)(void *)x;

	if (a->x)
		return a->x;
	for (size_t t = 0; t < s->tokens; t++)
		for (size_t j = 0; j < s->hidden; j++) {
			uint32_t z =
				((uint32_t)a->tokens[t] * 40503u + (uint32_t)j + 1) * 2654435761u;

			out[t * s->hidden + j] = st_f32_bf16((float)(z >> 16) * 0x1p-16f - 0.5f);
		}
	return x;
}

/* Loss of a token: the mean of y^2 / 2. */
static void loss_of(const struct st_step_model *s, const struct st_stage_args *a, const char *y,
		    char *dy)
{
	const uint16_t *in = (const uint16_t *)(const void *)y;
	uint16_t *out = (uint16_t *)(void *)dy;
	double n = (double)s->hidden;

	for (size_t t = 0; t < s->tokens; t++) {
		double sum = 0;

		for (size_t j = 0; j < s->hidden; j++) {
			float v = st_bf16_f32(in[t * s->hidden + j]);

			sum += (double)v * (double)v;
			if (out)
				out[t * s->hidden + j] = st_f32_bf16(v / (float)n * a->grad_scale);
		}
		a->loss[t] = (float)(sum / (2 * n));
	}
}

static void sleep_flops(const struct st_step_model *s, double flops)
{
	double seconds = flops * 1e-9 * s->cfg.s_per_gflop;
	struct timespec left = { (time_t)seconds,
				 (long)((seconds - (double)(time_t)seconds) * 1e9) };

	while (nanosleep(&left, &left) && errno == EINTR)
		;
}

static void simulate(const struct st_step_model *s, const struct st_stage_args *a, double flops)
{
	sleep_flops(s, flops);
	for (size_t t = 0; a->loss && t < s->tokens; t++)
		a->loss[t] = 1;
}

static void forward(const struct st_model *m, struct st_device *dev, unsigned stage,
		    const struct st_stage_args *a)
{
	const struct st_step_model *s = m->priv;
	struct work w = cut(s, a->work);
	bool is_last = stage + 1 == m->n_stages;
	char *wide = is_last ? w.wide : a->saved;
	char *y = is_last ? w.y : a->y;

	if (s->cfg.s_per_gflop > 0) {
		simulate(s, a, m->stages[stage].fwd_flops);
		return;
	}
	multiply(s, dev, X_W1, input(s, a, w.x), a->params[0], wide, w.product);
	multiply(s, dev, WIDE_W2, wide, w2(s, a->params[0]), y, w.product);
	if (is_last)
		loss_of(s, a, y, NULL);
}

static void backward(const struct st_model *m, struct st_device *dev, unsigned stage,
		     const struct st_stage_args *a)
{
	const struct st_step_model *s = m->priv;
	struct work w = cut(s, a->work);
	const char *wide = a->saved, *dy = a->dy;
	const void *x;

	if (s->cfg.s_per_gflop > 0) {
		simulate(s, a, m->stages[stage].bwd_flops);
		return;
	}
	x = input(s, a, w.x);
	if (stage + 1 == m->n_stages) {
		multiply(s, dev, X_W1, x, a->params[0], w.wide, w.product);
		multiply(s, dev, WIDE_W2, w.wide, w2(s, a->params[0]), w.y, w.product);
		loss_of(s, a, w.y, w.dy);
		wide = w.wide;
		dy = w.dy;
	}
	multiply(s, dev, D_W2, wide, dy, a->grads[0] + s->hidden * WIDE * s->hidden, w.product);
	multiply(s, dev, D_WIDE, dy, w2(s, a->params[0]), w.d_wide, w.product);
	multiply(s, dev, D_W1, x, w.d_wide, a->grads[0], w.product);
	if (a->dx)
		multiply(s, dev, D_X, w.d_wide, a->params[0], a->dx, w.product);
}

/* ---- description --------------------------------------------------------------------------- */

static void describe_block(struct st_step_model *s, unsigned i)
{
	size_t half = s->hidden * WIDE * s->hidden;
	struct st_tensor_desc *t = s->names[i].tensors;
	struct st_unit_desc *u = &s->units[i];

	for (unsigned k = 0; k < 2; k++) {
		t[k] = (struct st_tensor_desc){
			.n_dims = 2,
			.dims = { k ? WIDE * s->hidden : s->hidden,
				  k ? s->hidden : WIDE * s->hidden },
			.elems = half,
			.first_elem = k * half,
			.segment = k,
			.init = s->cfg.s_per_gflop > 0 ? ST_INIT_ZERO : ST_INIT_NORMAL,
		};
		t[k].init_std = 1 / sqrtf((float)t[k].dims[0]);
		snprintf(t[k].name, sizeof(t[k].name), "block.%u.w%u", i, k + 1);
	}
	snprintf(u->name, sizeof(u->name), "block.%u", i);
	u->tensors = t;
	u->n_tensors = 2;
	u->elems = 2 * half;
}

static void describe_stage(struct st_step_model *s, unsigned i)
{
	bool is_last = i + 1 == s->cfg.n_layers;
	double flops = 4.0 * (double)s->tokens * (double)(s->hidden * WIDE * s->hidden);
	struct st_stage_desc *d = &s->stages[i];

	*d = (struct st_stage_desc){
		.units = { i },
		.n_units = 1,
		.bwd_needs_params = true,
		.out_bytes = is_last ? 0 : narrow_bytes(s),
		.saved_bytes = is_last ? 0 : wide_bytes(s),
		.fwd_work_bytes = work_bytes(s, is_last),
		.bwd_work_bytes = work_bytes(s, is_last),
		.fwd_flops = flops,
		.bwd_flops = 2 * flops + (is_last ? flops : 0),
	};
	snprintf(d->name, sizeof(d->name), "block.%u", i);
}

static size_t hidden_for(const struct st_step_model_cfg *c)
{
	double h = sqrt((double)c->n_params / (2.0 * WIDE * c->n_layers));

	return (size_t)(h / 64 + 0.5) * 64;
}

int st_step_model_create(struct st_step_model **out, const struct st_step_model_cfg *cfg,
			 const struct st_device *device)
{
	struct st_step_model *s = calloc(1, sizeof(*s));
	unsigned n = cfg->n_layers;

	if (!s)
		return st_fail(-ENOMEM, "blocks");
	s->cfg = *cfg;
	s->hidden = hidden_for(cfg);
	s->tokens = cfg->batch * cfg->seq;
	s->units = calloc(n, sizeof(*s->units));
	s->stages = calloc(n, sizeof(*s->stages));
	s->names = calloc(n, sizeof(*s->names));
	if (!s->units || !s->stages || !s->names || !s->hidden) {
		bool is_small = !s->hidden;

		st_step_model_destroy(s);
		return is_small ? st_fail(-EINVAL,
					  "%llu parameters in %u layers: too few, a layer has at "
					  "least %u.",
					  (unsigned long long)cfg->n_params, n, 2 * WIDE * 64 * 64)
				: st_fail(-ENOMEM, "blocks");
	}
	for (unsigned p = 0; p < PRODUCTS; p++) {
		struct st_matmul mm = shape(s, p);
		size_t bytes = (st_matmul_work_bytes(device, &mm) + 63) & ~(size_t)63;

		s->product_work = bytes > s->product_work ? bytes : s->product_work;
	}
	for (unsigned i = 0; i < n; i++) {
		describe_block(s, i);
		describe_stage(s, i);
	}
	s->model = (struct st_model){
		.family = "blocks",
		.units = s->units,
		.n_units = n,
		.stages = s->stages,
		.n_stages = n,
		.batch = cfg->batch,
		.seq = cfg->seq,
		.vocab = 256,
		.n_params = n * s->units[0].elems,
		.flops_per_token = 6.0 * (double)(n * s->units[0].elems),
		.priv = s,
		.fwd = forward,
		.bwd = backward,
	};
	*out = s;
	return 0;
}

void st_step_model_destroy(struct st_step_model *s)
{
	if (!s)
		return;
	free(s->units);
	free(s->stages);
	free(s->names);
	free(s);
}

const struct st_model *st_step_model_get(const struct st_step_model *s)
{
	return &s->model;
}

size_t st_step_model_hidden(const struct st_step_model *s)
{
	return s->hidden;
}
