/* SPDX-License-Identifier: Apache-2.0 */
/* tests/engine_util.h - a small GPT-2 trained by the engine on made-up text, for tests. */
#ifndef TESTS_ENGINE_UTIL_H
#define TESTS_ENGINE_UTIL_H

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/gpt2.h"
#include "offload/engine.h"
#include "offload/lanes_real.h"
#include "tests/place.h"
#include "tests/separate_device.h"

/* Tokens: many that repeat; one only; no two the same. All name the row that two tiles share. */
enum tiny_text { TINY_MIXED, TINY_ONE, TINY_DISTINCT };

struct tiny { /* what a test varies; zero is the plain case */
	enum st_dtype dtype;
	enum strata_optim_moments moments;
	enum strata_optim_kind kind;
	double momentum;
	double loss_scale; /* fp16; 0: 2^power, dynamic */
	unsigned power;
	enum st_home param_home, state_home;
	enum st_update update;
	unsigned immediate; /* bit u: unit u updates at once, whatever `update` says */
	enum st_order order;
	bool keeps_activations, acts_on_host, spills, commits;
	uint64_t device_bytes, host_bytes;
	uint64_t spare_bytes; /* of each budget beyond the smallest, which then are in force */
	double clip;
	unsigned n_paths; /* 0 = 1 */
	const char *backend;
	const struct st_aio_cfg *aio; /* NULL: the defaults, with that backend */
	unsigned n_mb;
	unsigned commit_every; /* 0 = 1 */
	bool plans_modes;
	bool is_for_formats;  /* a variation that is tried with every format */
	bool is_wide;         /* the blocks' matrices are large, instead of the vocabulary */
	bool is_small;        /* nothing is large: two layers, no tensor of two storage tiles */
	bool waits;           /* the lookup waits for the whole table's update */
	bool is_separate;     /* the device's memory is its own */
	bool updates_on_host; /* such a device cannot update */
	enum tiny_text text;
	struct st_trace *trace; /* or NULL */
};

struct tiny_run {
	enum tiny_text text;
	struct st_device *dev;
	struct st_model *model;
	struct st_plan *plan;
	struct st_engine *engine;
	char dir[2][64];
	char run_json[4096];
	const char *paths[2];
};

#define CK(call)                                                                                   \
	do {                                                                                       \
		int ck_rc = (call);                                                                \
		ck_assert_msg(ck_rc >= 0, "%s: %d: %s", #call, ck_rc, st_last_error());            \
	} while (0)

static inline int tiny_fill(void *user, const struct st_tensor_desc *t, size_t first, size_t n,
			    float *out)
{
	(void)user;
	st_init_fill(t, 7, first, n, out);
	return 0;
}

/*
 * Four layers, and a tensor of two storage tiles: the tied embedding in the one (fast) model, where
 * both hold a part of row TINY_SPLIT_ROW, each c_fc and c_proj of the other. Odd sizes.
 */
#define TINY_SPLIT_ROW 3640

static inline void tiny_plan(struct tiny_run *r, const struct tiny *t)
{
	const struct st_gpt2_cfg gpt = { .n_layer = t->is_small ? 2 : 4,
					 .n_embd = t->is_wide ? 288 : 72,
					 .n_head = t->is_wide ? 4 : 3,
					 .n_positions = 32,
					 .vocab_size = t->is_wide || t->is_small ? 259 : 4111 };
	const struct st_device_cfg dev = { .type = "host", .dtype = t->dtype, .threads = 2 };
	struct st_plan_cfg plan = {
		.formats = { .dtype = t->dtype,
			     .grad_dtype = t->dtype,
			     .moments = t->moments,
			     .optim = { .struct_bytes = sizeof(struct strata_optim_cfg),
					.kind = t->kind,
					.beta1 = 0.9,
					.beta2 = 0.95,
					.eps = 1e-8,
					.has_bias_correction = true,
					.momentum = t->momentum,
					.seed = 11 } },
		.n_mb = t->n_mb ? t->n_mb : 3,
		.n_eval_mb = 1,
		.param_home = t->param_home,
		.state_home = t->state_home,
		.update = t->update,
		.needs_norm = t->clip > 0 || t->dtype == ST_F16,
		.may_speculate = t->commits,
		.order = t->order,
		.recompute = !t->keeps_activations,
		.acts_on_host = t->acts_on_host,
		.rest = t->spills ? ST_REST_NVME : ST_REST_MEMORY,
		.commits = t->commits,
		.device_bytes = t->device_bytes,
		.host_bytes = t->host_bytes,
		.lookahead = t->waits ? ST_LOOKAHEAD_OFF : ST_LOOKAHEAD_ON,
		.copies = t->is_separate,
		.updates = { !t->updates_on_host, !t->updates_on_host },
	};

	enum st_update modes[16];

	CK(t->is_separate ? separate_open(&r->dev, &dev) : st_device_open(&r->dev, &dev));
	CK(st_gpt2_create(&r->model, &gpt, 2, 24, r->dev, t->dtype));
	plan.model = r->model;
	for (unsigned u = 0; u < r->model->n_units; u++)
		modes[u] = t->immediate >> u & 1 ? ST_UPDATE_IMMEDIATE : t->update;
	plan.modes = t->plans_modes ? NULL : modes;
	r->text = t->text;
	if (t->spare_bytes) {
		plan.pins = true;
		plan.rest = ST_REST_FIT;
		plan.device_bytes = plan.host_bytes = UINT64_C(1) << 40;
		CK(st_plan_create(&r->plan, &plan));
		plan.device_bytes = r->plan->min_bytes[ST_ARENA_DEVICE] + t->spare_bytes;
		plan.host_bytes = r->plan->min_bytes[ST_ARENA_HOST] + t->spare_bytes;
		st_plan_destroy(r->plan);
	}
	CK(st_plan_create(&r->plan, &plan));
}

static inline void tiny_unplan(struct tiny_run *r)
{
	st_plan_destroy(r->plan);
	st_gpt2_destroy(r->model);
	st_device_close(r->dev);
}

static inline int tiny_try_engine(struct tiny_run *r, const struct tiny *t, const char *resume)
{
	struct st_engine_cfg cfg = {
		.plan = r->plan,
		.device = r->dev,
		.aio = ST_AIO_CFG_DEFAULT,
		.store_paths = r->paths,
		.n_store_paths = t->n_paths ? t->n_paths : 1,
		.checksum = true,
		.commit_every = t->commit_every ? t->commit_every : 1,
		.resume = resume,
		.weight_decay = 0.1,
		.clip = t->clip,
		.always_speculates = true,
		.numeric_plan = 42,
		.fill = tiny_fill,
		.trace = t->trace,
	};

	const struct strata_loss_scale_cfg scale = {
		.struct_bytes = sizeof(scale),
		.fixed = t->dtype == ST_F16 ? t->loss_scale : 1,
		.initial_power = t->power,
		.window = 3,
		.hysteresis = 1,
		.min_scale = 1,
	};

	CK(strata_loss_scale_init(&cfg.loss_scale, &scale));
	cfg.scales_loss = t->dtype == ST_F16;
	cfg.aio.backend = t->backend ? t->backend : "auto";
	if (t->aio)
		cfg.aio = *t->aio;
	return st_engine_create(&r->engine, &cfg, r->run_json, sizeof(r->run_json));
}

static inline void tiny_engine(struct tiny_run *r, const struct tiny *t, const char *resume)
{
	CK(tiny_try_engine(r, t, resume));
}

static bool tiny_in_memory; /* the stores */

static inline const char *tiny_place(void)
{
	return tiny_in_memory ? place_in_memory(STRATA_BUILD_DIR) : STRATA_BUILD_DIR;
}

static inline void tiny_open(struct tiny_run *r, const struct tiny *t)
{
	memset(r, 0, sizeof(*r));
	for (unsigned i = 0; i < 2; i++) {
		snprintf(r->dir[i], sizeof(r->dir[i]), "%s/tiny-XXXXXX", tiny_place());
		ck_assert_ptr_nonnull(mkdtemp(r->dir[i]));
		r->paths[i] = r->dir[i];
	}
	tiny_plan(r, t);
	tiny_engine(r, t, NULL);
}

static inline void tiny_close(struct tiny_run *r)
{
	st_engine_close(r->engine, true);
	tiny_unplan(r);
	for (unsigned i = 0; i < 2; i++) /* nothing of ours is left, so rmdir succeeds */
		ck_assert_int_eq(rmdir(r->dir[i]), 0);
}

static inline void tiny_batch(const struct tiny_run *r, uint64_t step, size_t n, int32_t *tokens,
			      int32_t *targets)
{
	uint64_t z = step * 0x9e3779b97f4a7c15u + 1;
	int32_t vocab = (int32_t)r->model->vocab;
	int32_t split = TINY_SPLIT_ROW % vocab, stride = vocab / (int32_t)n;

	for (size_t i = 0; i < n; i++) {
		z = z * 6364136223846793005u + 1442695040888963407u;
		if (r->text == TINY_ONE || (r->text == TINY_MIXED && i % 17 == 0))
			tokens[i] = split;
		else if (r->text == TINY_DISTINCT)
			tokens[i] = (split + (int32_t)((i + step) % n) * stride) % vocab;
		else
			tokens[i] = (int32_t)((z >> 33) % 13 + i % 5 * 50);
		targets[i] = (int32_t)((tokens[i] * 7 + 3 + (int32_t)(i % 2)) % 259);
	}
}

static inline int tiny_try_step(struct tiny_run *r, uint64_t step, struct st_step_out *out)
{
	size_t n = r->plan->cfg.n_mb * r->model->batch * r->model->seq;
	int32_t *tokens = calloc(n, sizeof(*tokens)), *targets = calloc(n, sizeof(*targets));
	struct st_step_in in = { .tokens = tokens,
				 .targets = targets,
				 .lr = 1e-3,
				 .beta1 = -1,
				 .beta2 = -1,
				 .cursor_after = step * 6 };
	int rc;

	ck_assert(tokens && targets);
	tiny_batch(r, step, n, tokens, targets);
	rc = st_engine_step(r->engine, &in, out);
	free(tokens);
	free(targets);
	return rc;
}

static inline double tiny_step(struct tiny_run *r, uint64_t step, struct st_step_out *out)
{
	struct st_step_out mine;

	CK(tiny_try_step(r, step, out ? out : &mine));
	return out ? out->loss : mine.loss;
}

static inline uint64_t tiny_hash(struct tiny_run *r)
{
	uint64_t hash = 0;

	CK(st_engine_state_hash(r->engine, &hash));
	return hash;
}

#endif
