/* SPDX-License-Identifier: Apache-2.0 */
/* model/gpt2.c - GPT-2 as units and stages: description, scratch layouts, forward and backward. */
#include "model/gpt2.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "strata/optim.h" /* STRATA_NUMERIC_TILE */

#define ALIGN_BYTES   64u  /* what the device asks of operands */
#define CHUNK_TOKENS  512u /* the head's products run at full rate from here on */
#define CHUNK_ALIGN   64u  /* rows: whatever n_embd is, every chunk starts at an aligned address */
#define VOCAB_ROUND   64u  /* row stride of the logits */
#define HEAD_DIM_UNIT 8u   /* what attention on the devices takes */
#define HEAD_DIM_MAX  512u
#define INIT_STD      0.02

/* Bounds of one size; products of any that meet stay far below 2^63. */
#define MAX_LAYER     4096u
#define MAX_EMBD      (1u << 17)
#define MAX_POSITIONS (1u << 22)
#define MAX_VOCAB     (1u << 24)
#define MAX_ROWS      (1u << 24)

enum block_tensor {
	W_QKV,
	W_PROJ,
	W_FC,
	W_MLP,
	LN1_W,
	LN1_B,
	B_QKV,
	B_PROJ,
	LN2_W,
	LN2_B,
	B_FC,
	B_MLP,
	N_BLOCK_TENSORS,
};

static const struct {
	const char *name;
	unsigned rows, cols; /* times n_embd; cols 0: a vector */
	unsigned segment;
	enum st_init init;
	bool is_residual; /* adds to the residual stream: a smaller initial weight */
} block_tensors[N_BLOCK_TENSORS] = {
	[W_QKV] = { "attn.c_attn.weight", 1, 3, 0, ST_INIT_NORMAL, false },
	[W_PROJ] = { "attn.c_proj.weight", 1, 1, 1, ST_INIT_NORMAL, true },
	[W_FC] = { "mlp.c_fc.weight", 1, 4, 2, ST_INIT_NORMAL, false },
	[W_MLP] = { "mlp.c_proj.weight", 4, 1, 3, ST_INIT_NORMAL, true },
	[LN1_W] = { "ln_1.weight", 1, 0, 4, ST_INIT_ONE, false },
	[LN1_B] = { "ln_1.bias", 1, 0, 4, ST_INIT_ZERO, false },
	[B_QKV] = { "attn.c_attn.bias", 3, 0, 4, ST_INIT_ZERO, false },
	[B_PROJ] = { "attn.c_proj.bias", 1, 0, 4, ST_INIT_ZERO, false },
	[LN2_W] = { "ln_2.weight", 1, 0, 4, ST_INIT_ONE, false },
	[LN2_B] = { "ln_2.bias", 1, 0, 4, ST_INIT_ZERO, false },
	[B_FC] = { "mlp.c_fc.bias", 4, 0, 4, ST_INIT_ZERO, false },
	[B_MLP] = { "mlp.c_proj.bias", 1, 0, 4, ST_INIT_ZERO, false },
};

/* Byte offsets of one stage's buffers; ranges of a phase may cover those of another. */
struct block_layout {
	/* saved */
	size_t qkv, att, x1, fc, lse, saved_bytes;
	/* forward: a LayerNorm's output, then gelu's in the same place */
	size_t f_act, f_mean, f_rstd, f_op, f_bytes;
	/* backward of the MLP: gelu's output, then d(c_fc's output); pieces of d(gelu), then ln_2
	 */
	size_t m_wide, m_side, m_mean, m_rstd, m_op;
	/* backward of attention: d(qkv); d(attention), then ln_1, then its gradient */
	size_t a_wide, a_side, a_mean, a_rstd, a_op, b_bytes;
};

struct loss_layout {
	size_t h, mean, rstd, loss, logits, op;   /* one chunk of tokens */
	size_t row_h, row_mean, row_rstd, row_op; /* last position's logits */
	size_t fwd_bytes, bwd_bytes;
};

struct gpt2 {
	struct st_model model; /* first: st_gpt2_destroy() gets its address */
	struct st_gpt2_cfg cfg;
	enum st_dtype dtype;
	size_t elem_bytes, rows, chunk, ld_logits;
	struct block_layout block;
	struct loss_layout loss;
	size_t at[N_BLOCK_TENSORS]; /* first elements in a block's unit */
	size_t at_lnf_bias;
	struct st_unit_desc *units;
	struct st_tensor_desc *tensors;
	size_t n_tensors;
	struct st_stage_desc *stages;
};

static const struct {
	const char *name;
	struct st_gpt2_cfg cfg;
} published[] = {
	{ "gpt2", { 12, 768, 12, 1024, 50257 } },
	{ "gpt2-medium", { 24, 1024, 16, 1024, 50257 } },
	{ "gpt2-large", { 36, 1280, 20, 1024, 50257 } },
	{ "gpt2-xl", { 48, 1600, 25, 1024, 50257 } },
};

bool st_gpt2_by_name(const char *name, struct st_gpt2_cfg *out)
{
	for (size_t i = 0; i < ST_ARRAY_LEN(published); i++)
		if (!strcmp(published[i].name, name)) {
			*out = published[i].cfg;
			return true;
		}
	return false;
}

/* ---- matrix products: one place says each one's shape, for sizing and for running  */

enum form {
	FORM_FWD,    /* y = x w */
	FORM_WEIGHT, /* dw += x^T dy */
	FORM_INPUT,  /* dx = dy w^T */
};

static struct st_matmul linear(const struct gpt2 *g, enum form form, size_t rows, size_t in,
			       size_t out)
{
	struct st_matmul mm = { .a_dtype = g->dtype, .b_dtype = g->dtype, .c_dtype = g->dtype };

	switch (form) {
	case FORM_FWD:
		mm.m = rows;
		mm.k = in;
		mm.n = out;
		mm.bias = g; /* it has one: product() says which */
		break;
	case FORM_WEIGHT:
		mm.m = in;
		mm.k = rows;
		mm.n = out;
		mm.trans_a = true;
		mm.c_dtype = ST_F32;
		mm.accumulate = true;
		break;
	case FORM_INPUT:
		mm.m = rows;
		mm.k = out;
		mm.n = in;
		mm.trans_b = true;
		break;
	}
	return mm;
}

/* The head is a linear layer whose weight is stored [out, in]; logits have a padded row stride. */
static struct st_matmul head(const struct gpt2 *g, enum form form, size_t rows)
{
	struct st_matmul mm = { .a_dtype = g->dtype, .b_dtype = g->dtype, .c_dtype = g->dtype };
	size_t vocab = g->cfg.vocab_size, c = g->cfg.n_embd;

	switch (form) {
	case FORM_FWD:
		mm.m = rows;
		mm.k = c;
		mm.n = vocab;
		mm.trans_b = true;
		mm.ldc = g->ld_logits;
		break;
	case FORM_WEIGHT:
		mm.m = vocab;
		mm.k = rows;
		mm.n = c;
		mm.trans_a = true;
		mm.lda = g->ld_logits;
		mm.c_dtype = ST_F32;
		mm.accumulate = true;
		break;
	case FORM_INPUT:
		mm.m = rows;
		mm.k = vocab;
		mm.n = c;
		mm.lda = g->ld_logits;
		break;
	}
	return mm;
}

static struct st_matmul last_logits(const struct gpt2 *g)
{
	struct st_matmul mm = head(g, FORM_FWD, 1);

	mm.c_dtype = ST_F32;
	return mm;
}

/* Scratch of single operations: the end of a stage's, so all that follows its offset. */
struct scratch {
	void *p;
	size_t bytes;
};

static void product(struct st_device *dev, struct st_matmul mm, const void *a, const void *b,
		    void *c, const void *bias, struct scratch op)
{
	mm.a = a;
	mm.b = b;
	mm.c = c;
	mm.bias = bias;
	mm.work = op.p;
	mm.work_bytes = op.bytes;
	st_matmul(dev, &mm);
}

/* ---- layouts ----------------------------------------------------- */

static size_t round_up(size_t n, size_t to)
{
	return (n + to - 1) / to * to;
}

static size_t max_size(size_t a, size_t b)
{
	return a > b ? a : b;
}

static size_t take(size_t *cursor, size_t bytes)
{
	size_t at = *cursor;

	*cursor = at + round_up(bytes, ALIGN_BYTES);
	return at;
}

static size_t product_bytes(const struct st_device *dev, struct st_matmul mm)
{
	return st_matmul_work_bytes(dev, &mm);
}

/* Rows of the last chunk. */
static size_t chunk_tail(const struct gpt2 *g)
{
	size_t tail = g->rows % g->chunk;

	return tail ? tail : g->chunk;
}

/* The most that any operation of a linear layer's backward needs. */
static size_t linear_bwd_bytes(const struct st_device *dev, const struct gpt2 *g, size_t in,
			       size_t out)
{
	size_t bytes = product_bytes(dev, linear(g, FORM_WEIGHT, g->rows, in, out));

	bytes = max_size(bytes, product_bytes(dev, linear(g, FORM_INPUT, g->rows, in, out)));
	return max_size(bytes, st_bias_bwd_work_bytes(dev, g->rows, out));
}

static void lay_out_block_fwd(struct gpt2 *g, const struct st_device *dev)
{
	size_t c = g->cfg.n_embd, act = g->rows * g->elem_bytes, stat = g->rows * sizeof(float);
	size_t heads = g->cfg.n_head, op, cur = 0;
	struct block_layout *l = &g->block;

	l->qkv = take(&cur, 3 * c * act);
	l->att = take(&cur, c * act);
	l->x1 = take(&cur, c * act);
	l->fc = take(&cur, 4 * c * act);
	l->lse = take(&cur, heads * stat);
	l->saved_bytes = cur;

	op = st_attention_work_bytes(dev, g->model.batch, g->model.seq, heads, c / heads, false);
	op = max_size(op, product_bytes(dev, linear(g, FORM_FWD, g->rows, c, 3 * c)));
	op = max_size(op, product_bytes(dev, linear(g, FORM_FWD, g->rows, c, c)));
	op = max_size(op, product_bytes(dev, linear(g, FORM_FWD, g->rows, c, 4 * c)));
	op = max_size(op, product_bytes(dev, linear(g, FORM_FWD, g->rows, 4 * c, c)));
	cur = 0;
	l->f_act = take(&cur, c * act);
	l->f_mean = take(&cur, stat);
	l->f_rstd = take(&cur, stat);
	/* The output of gelu lies over all three. */
	cur = max_size(cur, round_up(4 * c * act, ALIGN_BYTES));
	l->f_op = take(&cur, op);
	l->f_bytes = cur;
}

static void lay_out_block_bwd(struct gpt2 *g, const struct st_device *dev)
{
	size_t c = g->cfg.n_embd, act = g->rows * g->elem_bytes, stat = g->rows * sizeof(float);
	size_t heads = g->cfg.n_head, op, cur = 0;
	struct block_layout *l = &g->block;

	op = linear_bwd_bytes(dev, g, c, 4 * c);
	op = max_size(op, linear_bwd_bytes(dev, g, 4 * c, c));
	op = max_size(op, product_bytes(dev, linear(g, FORM_INPUT, g->chunk, 4 * c, c)));
	op = max_size(op, product_bytes(dev, linear(g, FORM_INPUT, chunk_tail(g), 4 * c, c)));
	op = max_size(op, st_layernorm_bwd_work_bytes(dev, g->rows, c));
	l->m_wide = take(&cur, 4 * c * act);
	l->m_side = take(&cur, max_size(c * act, 4 * c * g->chunk * g->elem_bytes));
	l->m_mean = take(&cur, stat);
	l->m_rstd = take(&cur, stat);
	l->m_op = take(&cur, op);
	l->b_bytes = cur;

	op = st_attention_work_bytes(dev, g->model.batch, g->model.seq, heads, c / heads, true);
	op = max_size(op, linear_bwd_bytes(dev, g, c, c));
	op = max_size(op, linear_bwd_bytes(dev, g, c, 3 * c));
	op = max_size(op, st_layernorm_bwd_work_bytes(dev, g->rows, c));
	cur = 0;
	l->a_wide = take(&cur, 3 * c * act);
	l->a_side = take(&cur, c * act);
	l->a_mean = take(&cur, stat);
	l->a_rstd = take(&cur, stat);
	l->a_op = take(&cur, op);
	l->b_bytes = max_size(l->b_bytes, cur);
}

static void lay_out_loss(struct gpt2 *g, const struct st_device *dev)
{
	size_t c = g->cfg.n_embd, sizes[2] = { g->chunk, chunk_tail(g) };
	size_t op = 0, op_bwd = 0, cur = 0;
	struct loss_layout *l = &g->loss;

	for (size_t i = 0; i < 2; i++) {
		op = max_size(op, product_bytes(dev, head(g, FORM_FWD, sizes[i])));
		op_bwd = max_size(op_bwd, product_bytes(dev, head(g, FORM_WEIGHT, sizes[i])));
		op_bwd = max_size(op_bwd, product_bytes(dev, head(g, FORM_INPUT, sizes[i])));
		op_bwd = max_size(op_bwd, st_layernorm_bwd_work_bytes(dev, sizes[i], c));
	}
	l->h = take(&cur, g->chunk * c * g->elem_bytes);
	l->mean = take(&cur, g->chunk * sizeof(float));
	l->rstd = take(&cur, g->chunk * sizeof(float));
	l->loss = take(&cur, g->chunk * sizeof(float));
	l->logits = take(&cur, g->chunk * g->ld_logits * g->elem_bytes);
	l->op = cur;
	l->fwd_bytes = l->op + round_up(op, ALIGN_BYTES);
	l->bwd_bytes = l->op + round_up(max_size(op, op_bwd), ALIGN_BYTES);

	cur = 0;
	l->row_h = take(&cur, c * g->elem_bytes);
	l->row_mean = take(&cur, sizeof(float));
	l->row_rstd = take(&cur, sizeof(float));
	l->row_op = take(&cur, product_bytes(dev, last_logits(g)));
	l->fwd_bytes = max_size(l->fwd_bytes, cur);
}

/* ---- description ------------------------------------------------- */

/* Append a tensor to unit u, units being described one after the other; dim1 0 means a vector. */
static struct st_tensor_desc *add_tensor(struct gpt2 *g, struct st_unit_desc *u, unsigned segment,
					 size_t dim0, size_t dim1)
{
	struct st_tensor_desc *t = &g->tensors[g->n_tensors++];

	if (!u->n_tensors)
		u->tensors = t;
	u->n_tensors++;
	t->n_dims = dim1 ? 2 : 1;
	t->dims[0] = dim0;
	t->dims[1] = dim1;
	t->elems = dim1 ? dim0 * dim1 : dim0;
	t->segment = segment;
	t->first_elem = u->elems;
	u->elems = round_up(u->elems + t->elems, STRATA_NUMERIC_TILE);
	g->model.n_params += t->elems;
	return t;
}

static void describe_block(struct gpt2 *g, size_t layer, struct st_unit_desc *u)
{
	double small = INIT_STD / sqrt(2.0 * (double)g->cfg.n_layer);
	size_t c = g->cfg.n_embd;

	snprintf(u->name, sizeof(u->name), "h.%zu", layer);
	for (unsigned i = 0; i < N_BLOCK_TENSORS; i++) {
		struct st_tensor_desc *t =
			add_tensor(g, u, block_tensors[i].segment, block_tensors[i].rows * c,
				   block_tensors[i].cols * c);

		snprintf(t->name, sizeof(t->name), "%s.%s", u->name, block_tensors[i].name);
		t->init = block_tensors[i].init;
		if (t->init == ST_INIT_NORMAL)
			t->init_std = (float)(block_tensors[i].is_residual ? small : INIT_STD);
		g->at[i] = t->first_elem;
	}
}

static void describe_embedding(struct gpt2 *g, struct st_unit_desc *u, const char *name,
			       size_t rows)
{
	struct st_tensor_desc *t = add_tensor(g, u, 0, rows, g->cfg.n_embd);

	snprintf(u->name, sizeof(u->name), "%s", name);
	snprintf(t->name, sizeof(t->name), "%s.weight", name);
	t->init = ST_INIT_NORMAL;
	t->init_std = (float)INIT_STD;
}

static void describe_units(struct gpt2 *g)
{
	size_t n_layer = g->cfg.n_layer;
	struct st_unit_desc *ln_f = &g->units[n_layer + 2];
	struct st_tensor_desc *t;

	describe_embedding(g, &g->units[0], "wte", g->cfg.vocab_size);
	describe_embedding(g, &g->units[1], "wpe", g->cfg.n_positions);
	for (size_t i = 0; i < n_layer; i++)
		describe_block(g, i, &g->units[i + 2]);
	snprintf(ln_f->name, sizeof(ln_f->name), "ln_f");
	t = add_tensor(g, ln_f, 0, g->cfg.n_embd, 0);
	snprintf(t->name, sizeof(t->name), "ln_f.weight");
	t->init = ST_INIT_ONE;
	t = add_tensor(g, ln_f, 0, g->cfg.n_embd, 0);
	snprintf(t->name, sizeof(t->name), "ln_f.bias");
	t->init = ST_INIT_ZERO;
	g->at_lnf_bias = t->first_elem;
}

static void describe_stages(struct gpt2 *g)
{
	double rows = (double)g->rows, c = (double)g->cfg.n_embd, seq = (double)g->model.seq;
	size_t n_layer = g->cfg.n_layer, out_bytes = g->rows * g->cfg.n_embd * g->elem_bytes;
	double fwd = rows * (24 * c * c + 4 * c * seq);
	double head_fwd = 2 * rows * c * (double)g->model.vocab;
	double act = rows * c * (double)g->elem_bytes; /* one pass over [rows, C] */
	double logits = rows * (double)(g->model.vocab * g->elem_bytes);
	struct st_stage_desc *loss = &g->stages[n_layer + 1];

	snprintf(g->stages[0].name, sizeof(g->stages[0].name), "embed");
	g->stages[0].units[0] = 0;
	g->stages[0].units[1] = 1;
	g->stages[0].n_units = 2;
	g->stages[0].looks_up = true;
	g->stages[0].lookup_cols = g->cfg.n_embd;
	g->stages[0].out_bytes = out_bytes;
	g->stages[0].fwd_kernel_bytes = 3 * act;
	g->stages[0].bwd_kernel_bytes = act + 4 * rows * c * sizeof(float);
	for (size_t i = 1; i <= n_layer; i++) {
		struct st_stage_desc *s = &g->stages[i];

		snprintf(s->name, sizeof(s->name), "h.%zu", i - 1);
		s->units[0] = (unsigned)i + 1;
		s->n_units = 1;
		s->bwd_needs_params = true;
		s->out_bytes = out_bytes;
		s->saved_bytes = g->block.saved_bytes;
		s->fwd_work_bytes = g->block.f_bytes;
		s->bwd_work_bytes = g->block.b_bytes;
		s->fwd_flops = fwd;
		s->bwd_flops = 2 * fwd;
		s->fwd_attention_flops = 4 * rows * c * seq;
		s->bwd_attention_flops = 2 * s->fwd_attention_flops;
		/* Twice LayerNorm (2) and addition (3), gelu (8). Backward: these two again
		 * (2, 8), their gradients (4, 12), those of the biases (9). */
		s->fwd_kernel_bytes = 18 * act;
		s->bwd_kernel_bytes = 41 * act;
	}
	snprintf(loss->name, sizeof(loss->name), "loss");
	loss->units[0] = (unsigned)n_layer + 2;
	loss->units[1] = 0;
	loss->n_units = 2;
	loss->bwd_needs_params = true;
	loss->fwd_work_bytes = g->loss.fwd_bytes;
	loss->bwd_work_bytes = g->loss.bwd_bytes;
	loss->fwd_flops = head_fwd;
	loss->bwd_flops = 3 * head_fwd;
	loss->fwd_kernel_bytes = 2 * act + 2 * logits;
	loss->bwd_kernel_bytes = 6 * act + 3 * logits;
}

/* ---- forward and backward ---------------------------------------- */

static void *at(void *base, size_t off_bytes)
{
	return (char *)base + off_bytes;
}

static struct scratch scratch_at(void *work, size_t off_bytes, size_t end_bytes)
{
	return (struct scratch){ at(work, off_bytes), end_bytes - off_bytes };
}

static const void *const_at(const void *base, size_t off_bytes)
{
	return (const char *)base + off_bytes;
}

static const void *param(const struct gpt2 *g, const void *unit, size_t first_elem)
{
	return const_at(unit, first_elem * g->elem_bytes);
}

static const struct gpt2 *gpt2_of(const struct st_model *m)
{
	return m->priv;
}

static void block_fwd(const struct gpt2 *g, struct st_device *dev, const struct st_stage_args *a)
{
	const struct block_layout *l = &g->block;
	size_t rows = g->rows, c = g->cfg.n_embd;
	const void *u = a->params[0];
	struct scratch op = scratch_at(a->work, l->f_op, l->f_bytes);
	void *act = at(a->work, l->f_act);
	float *mean = at(a->work, l->f_mean), *rstd = at(a->work, l->f_rstd);
	void *qkv = at(a->saved, l->qkv), *att = at(a->saved, l->att);
	void *x1 = at(a->saved, l->x1), *fc = at(a->saved, l->fc);
	struct st_attention attn = {
		.batch = g->model.batch,
		.seq = g->model.seq,
		.heads = g->cfg.n_head,
		.head_dim = c / g->cfg.n_head,
		.qkv = qkv,
		.out = att,
		.lse = at(a->saved, l->lse),
		.work = op.p,
	};

	st_layernorm_fwd(dev, rows, c, a->x, param(g, u, g->at[LN1_W]), param(g, u, g->at[LN1_B]),
			 act, mean, rstd);
	product(dev, linear(g, FORM_FWD, rows, c, 3 * c), act, param(g, u, g->at[W_QKV]), qkv,
		param(g, u, g->at[B_QKV]), op);
	st_attention_fwd(dev, &attn);
	product(dev, linear(g, FORM_FWD, rows, c, c), att, param(g, u, g->at[W_PROJ]), x1,
		param(g, u, g->at[B_PROJ]), op);
	st_add(dev, rows * c, a->x, x1, x1);

	st_layernorm_fwd(dev, rows, c, x1, param(g, u, g->at[LN2_W]), param(g, u, g->at[LN2_B]),
			 act, mean, rstd);
	product(dev, linear(g, FORM_FWD, rows, c, 4 * c), act, param(g, u, g->at[W_FC]), fc,
		param(g, u, g->at[B_FC]), op);
	st_gelu_fwd(dev, rows * 4 * c, fc, act);
	product(dev, linear(g, FORM_FWD, rows, 4 * c, c), act, param(g, u, g->at[W_MLP]), a->y,
		param(g, u, g->at[B_MLP]), op);
	st_add(dev, rows * c, x1, a->y, a->y);
}

/* dy -> d(x1), which is left in dx. */
static void mlp_bwd(const struct gpt2 *g, struct st_device *dev, const struct st_stage_args *a)
{
	const struct block_layout *l = &g->block;
	size_t rows = g->rows, c = g->cfg.n_embd, n;
	const void *u = a->params[0], *x1 = const_at(a->saved, l->x1);
	const void *fc = const_at(a->saved, l->fc);
	float *grad = a->grads[0];
	void *wide = at(a->work, l->m_wide), *side = at(a->work, l->m_side);
	struct scratch op = scratch_at(a->work, l->m_op, l->b_bytes);
	float *mean = at(a->work, l->m_mean), *rstd = at(a->work, l->m_rstd);

	st_gelu_fwd(dev, rows * 4 * c, fc, wide);
	product(dev, linear(g, FORM_WEIGHT, rows, 4 * c, c), wide, a->dy, grad + g->at[W_MLP], NULL,
		op);
	st_bias_bwd(dev, rows, c, a->dy, grad + g->at[B_MLP], op.p);
	/* gelu's output has served: its place takes d(c_fc's output). */
	for (size_t row = 0; row < rows; row += n) {
		size_t narrow = row * c * g->elem_bytes;

		n = rows - row < g->chunk ? rows - row : g->chunk;
		product(dev, linear(g, FORM_INPUT, n, 4 * c, c), const_at(a->dy, narrow),
			param(g, u, g->at[W_MLP]), side, NULL, op);
		st_gelu_bwd(dev, n * 4 * c, const_at(fc, 4 * narrow), side, at(wide, 4 * narrow));
	}
	st_layernorm_fwd(dev, rows, c, x1, param(g, u, g->at[LN2_W]), param(g, u, g->at[LN2_B]),
			 side, mean, rstd);
	product(dev, linear(g, FORM_WEIGHT, rows, c, 4 * c), side, wide, grad + g->at[W_FC], NULL,
		op);
	st_bias_bwd(dev, rows, 4 * c, wide, grad + g->at[B_FC], op.p);
	product(dev, linear(g, FORM_INPUT, rows, c, 4 * c), wide, param(g, u, g->at[W_FC]), side,
		NULL, op);
	st_layernorm_bwd(dev, rows, c, side, x1, param(g, u, g->at[LN2_W]), mean, rstd, a->dy,
			 a->dx, grad + g->at[LN2_W], grad + g->at[LN2_B], op.p);
}

/* d(x1) in dx -> dx. */
static void attention_bwd(const struct gpt2 *g, struct st_device *dev,
			  const struct st_stage_args *a)
{
	const struct block_layout *l = &g->block;
	size_t rows = g->rows, c = g->cfg.n_embd;
	const void *u = a->params[0];
	float *grad = a->grads[0];
	void *att = at(a->saved, l->att), *wide = at(a->work, l->a_wide);
	void *side = at(a->work, l->a_side);
	struct scratch op = scratch_at(a->work, l->a_op, l->b_bytes);
	float *mean = at(a->work, l->a_mean), *rstd = at(a->work, l->a_rstd);
	struct st_attention attn = {
		.batch = g->model.batch,
		.seq = g->model.seq,
		.heads = g->cfg.n_head,
		.head_dim = c / g->cfg.n_head,
		.qkv = at(a->saved, l->qkv),
		.out = att,
		.lse = at(a->saved, l->lse),
		.dout = side,
		.dqkv = wide,
		.work = op.p,
	};

	product(dev, linear(g, FORM_WEIGHT, rows, c, c), att, a->dx, grad + g->at[W_PROJ], NULL,
		op);
	st_bias_bwd(dev, rows, c, a->dx, grad + g->at[B_PROJ], op.p);
	product(dev, linear(g, FORM_INPUT, rows, c, c), a->dx, param(g, u, g->at[W_PROJ]), side,
		NULL, op);
	st_attention_bwd(dev, &attn);
	st_layernorm_fwd(dev, rows, c, a->x, param(g, u, g->at[LN1_W]), param(g, u, g->at[LN1_B]),
			 side, mean, rstd);
	product(dev, linear(g, FORM_WEIGHT, rows, c, 3 * c), side, wide, grad + g->at[W_QKV], NULL,
		op);
	st_bias_bwd(dev, rows, 3 * c, wide, grad + g->at[B_QKV], op.p);
	product(dev, linear(g, FORM_INPUT, rows, c, 3 * c), wide, param(g, u, g->at[W_QKV]), side,
		NULL, op);
	st_layernorm_bwd(dev, rows, c, side, a->x, param(g, u, g->at[LN1_W]), mean, rstd, a->dx,
			 a->dx, grad + g->at[LN1_W], grad + g->at[LN1_B], op.p);
}

/* Losses of all tokens; with scale, the gradients too. */
static void loss_chunks(const struct gpt2 *g, struct st_device *dev, const struct st_stage_args *a,
			float scale)
{
	const struct loss_layout *l = &g->loss;
	size_t c = g->cfg.n_embd, n;
	const void *gamma = a->params[0], *beta = param(g, a->params[0], g->at_lnf_bias);
	const void *wte = a->params[1];
	void *h = at(a->work, l->h), *logits = at(a->work, l->logits);
	struct scratch op = scratch_at(a->work, l->op, scale == 0 ? l->fwd_bytes : l->bwd_bytes);
	float *mean = at(a->work, l->mean), *rstd = at(a->work, l->rstd);

	for (size_t row = 0; row < g->rows; row += n) {
		const void *x = const_at(a->x, row * c * g->elem_bytes);
		float *loss = a->loss ? a->loss + row : at(a->work, l->loss);

		n = g->rows - row < g->chunk ? g->rows - row : g->chunk;
		st_layernorm_fwd(dev, n, c, x, gamma, beta, h, mean, rstd);
		product(dev, head(g, FORM_FWD, n), h, wte, logits, NULL, op);
		st_cross_entropy(dev, n, g->cfg.vocab_size, g->ld_logits, logits, a->targets + row,
				 loss, scale);
		if (scale == 0)
			continue;
		product(dev, head(g, FORM_WEIGHT, n), logits, h, a->grads[1], NULL, op);
		product(dev, head(g, FORM_INPUT, n), logits, wte, h, NULL, op);
		st_layernorm_bwd(dev, n, c, h, x, gamma, mean, rstd, NULL,
				 at(a->dx, row * c * g->elem_bytes), a->grads[0],
				 a->grads[0] + g->at_lnf_bias, op.p);
	}
}

/* A row lies where LayerNorm wants it: n_embd is a multiple of HEAD_DIM_UNIT. */
static void last_position(const struct gpt2 *g, struct st_device *dev,
			  const struct st_stage_args *a)
{
	const struct loss_layout *l = &g->loss;
	size_t c = g->cfg.n_embd;
	const void *row = const_at(a->x, (g->rows - 1) * c * g->elem_bytes);
	void *h = at(a->work, l->row_h);

	st_layernorm_fwd(dev, 1, c, row, a->params[0], param(g, a->params[0], g->at_lnf_bias), h,
			 at(a->work, l->row_mean), at(a->work, l->row_rstd));
	product(dev, last_logits(g), h, a->params[1], a->logits, NULL,
		scratch_at(a->work, l->row_op, l->fwd_bytes));
}

static void gpt2_fwd(const struct st_model *m, struct st_device *dev, unsigned stage,
		     const struct st_stage_args *a)
{
	const struct gpt2 *g = gpt2_of(m);

	ST_ASSERT(stage < m->n_stages);
	if (stage == 0) {
		st_embedding_fwd(dev, m->batch, m->seq, g->cfg.n_embd, g->cfg.vocab_size, a->tokens,
				 a->params[0], a->params[1], a->y);
		return;
	}
	if (stage < m->n_stages - 1) {
		block_fwd(g, dev, a);
		return;
	}
	if (a->targets && a->loss)
		loss_chunks(g, dev, a, 0);
	if (a->logits)
		last_position(g, dev, a);
}

static void gpt2_bwd(const struct st_model *m, struct st_device *dev, unsigned stage,
		     const struct st_stage_args *a)
{
	const struct gpt2 *g = gpt2_of(m);

	ST_ASSERT(stage < m->n_stages);
	if (stage == 0) {
		st_embedding_bwd(dev, m->batch, m->seq, g->cfg.n_embd, g->cfg.vocab_size, a->tokens,
				 a->dy, a->grads[0], a->grads[1]);
		return;
	}
	if (stage < m->n_stages - 1) {
		mlp_bwd(g, dev, a);
		attention_bwd(g, dev, a);
		return;
	}
	loss_chunks(g, dev, a, a->grad_scale);
	if (a->grad_scale == 0)
		st_fill_zero(dev, a->dx, g->rows * g->cfg.n_embd * g->elem_bytes);
}

/* ---- create ------------------------------------------------------ */

static int check_sizes(const struct st_gpt2_cfg *cfg, size_t batch, size_t seq)
{
	const struct {
		const char *name;
		size_t value, max;
	} sizes[] = {
		{ "n_layer", cfg->n_layer, MAX_LAYER },
		{ "n_embd", cfg->n_embd, MAX_EMBD },
		{ "n_head", cfg->n_head, MAX_EMBD },
		{ "n_positions", cfg->n_positions, MAX_POSITIONS },
		{ "vocab_size", cfg->vocab_size, MAX_VOCAB },
		{ "micro-batch size", batch, MAX_ROWS },
		{ "sequence length", seq, MAX_POSITIONS },
	};

	for (size_t i = 0; i < ST_ARRAY_LEN(sizes); i++)
		if (!sizes[i].value || sizes[i].value > sizes[i].max)
			return st_fail(STRATA_E_CONFIG, "gpt2: %s is %zu; give 1 to %zu",
				       sizes[i].name, sizes[i].value, sizes[i].max);
	if (cfg->n_embd % cfg->n_head)
		return st_fail(
			STRATA_E_CONFIG,
			"gpt2: n_embd %zu is not a multiple of n_head %zu; change one of them",
			cfg->n_embd, cfg->n_head);
	if (cfg->n_embd / cfg->n_head % HEAD_DIM_UNIT || cfg->n_embd / cfg->n_head > HEAD_DIM_MAX)
		return st_fail(
			STRATA_E_CONFIG,
			"gpt2: n_embd / n_head is %zu; attention takes multiples of %u up to %u",
			cfg->n_embd / cfg->n_head, HEAD_DIM_UNIT, HEAD_DIM_MAX);
	if (seq > cfg->n_positions)
		return st_fail(
			STRATA_E_CONFIG,
			"gpt2: sequence length %zu exceeds n_positions %zu; shorten the sequences",
			seq, cfg->n_positions);
	if (batch * seq > MAX_ROWS)
		return st_fail(
			STRATA_E_CONFIG,
			"gpt2: a micro-batch of %zu x %zu tokens exceeds %u; use smaller ones and "
			"accumulate",
			batch, seq, MAX_ROWS);
	return 0;
}

static void set_shape(struct gpt2 *g, size_t batch, size_t seq)
{
	size_t n = batch * seq / CHUNK_TOKENS;

	g->elem_bytes = st_dtype_bytes(g->dtype);
	g->rows = batch * seq;
	g->chunk = g->rows;
	if (n >= 2)
		g->chunk = round_up(round_up(g->rows, n) / n, CHUNK_ALIGN);
	g->ld_logits = round_up(g->cfg.vocab_size, VOCAB_ROUND);
	g->model.batch = batch;
	g->model.seq = seq;
	g->model.vocab = g->cfg.vocab_size;
}

int st_gpt2_create(struct st_model **out, const struct st_gpt2_cfg *cfg, size_t batch, size_t seq,
		   const struct st_device *dev, enum st_dtype dtype)
{
	struct gpt2 *g;
	int rc;

	if (!out || !cfg || !dev)
		return st_fail(-EINVAL,
			       "gpt2: no place for the model, no configuration or no device");
	rc = check_sizes(cfg, batch, seq);
	if (rc)
		return rc;
	if ((unsigned)dtype >= ST_DTYPE_COUNT)
		return st_fail(STRATA_E_CONFIG,
			       "gpt2: computes in fp32, bf16 or fp16, not in dtype %u",
			       (unsigned)dtype);
	g = calloc(1, sizeof(*g));
	if (!g)
		return st_fail(-ENOMEM, "gpt2: model description");
	g->cfg = *cfg;
	g->dtype = dtype;
	g->units = calloc(cfg->n_layer + 3, sizeof(*g->units));
	g->tensors = calloc(cfg->n_layer * N_BLOCK_TENSORS + 4, sizeof(*g->tensors));
	g->stages = calloc(cfg->n_layer + 2, sizeof(*g->stages));
	if (!g->units || !g->tensors || !g->stages) {
		rc = st_fail(-ENOMEM, "gpt2: description of %zu layers", cfg->n_layer);
		goto fail;
	}
	set_shape(g, batch, seq);
	lay_out_block_fwd(g, dev);
	lay_out_block_bwd(g, dev);
	lay_out_loss(g, dev);
	describe_units(g);
	describe_stages(g);
	g->model.family = "gpt2";
	g->model.units = g->units;
	g->model.n_units = (unsigned)cfg->n_layer + 3;
	g->model.stages = g->stages;
	g->model.n_stages = (unsigned)cfg->n_layer + 2;
	g->model.flops_per_token =
		6.0 * (double)(g->model.n_params - cfg->n_positions * cfg->n_embd) +
		12.0 * (double)cfg->n_layer * (double)cfg->n_embd * (double)seq;
	g->model.priv = g;
	g->model.fwd = gpt2_fwd;
	g->model.bwd = gpt2_bwd;
	*out = &g->model;
	return 0;

fail:
	st_gpt2_destroy(&g->model);
	return rc;
}

void st_gpt2_destroy(struct st_model *m)
{
	struct gpt2 *g = (struct gpt2 *)m;

	if (!g)
		return;
	free(g->stages);
	free(g->tensors);
	free(g->units);
	free(g);
}
