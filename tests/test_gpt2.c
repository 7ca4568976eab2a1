/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_gpt2.c - GPT-2's description, initial weights, loss and gradients.
 *
 * Against PyTorch (tests/golden/gpt2.py) and finite differences; also what the engine relies on:
 * micro-batches add up, the same call gives the same bits, chunks of tokens change nothing but
 * rounding. STRATA_TEST_VERBOSE=1 prints the errors found. Timeout: 120
 */
#include <check.h>
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/status.h"
#include "strata/optim.h"
#include "gpt2_util.h"

#define FIXTURE "tests/golden/gpt2_fixture"

static json_t *fixture;
static float *ref_grads; /* of all tensors, in the fixture's order */
static struct st_gpt2_cfg golden;
static size_t batch, seq, rows, n_batches, n_steps;
static int32_t *tokens, *targets; /* batch 0 */

/* ---- fixture --------------------------------------------------------------------- */

static double number(const char *key)
{
	json_t *v = json_object_get(fixture, key);

	ck_assert_msg(json_is_number(v), "fixture: no number %s", key);
	return json_number_value(v);
}

static size_t size_of(const json_t *object, const char *key)
{
	json_t *v = json_object_get(object, key);

	ck_assert_msg(json_is_integer(v) && json_integer_value(v) > 0, "fixture: no size %s", key);
	return (size_t)json_integer_value(v);
}

static double entry(const char *key, size_t i)
{
	json_t *v = json_array_get(json_object_get(fixture, key), i);

	ck_assert_msg(json_is_number(v), "fixture: no number %s[%zu]", key, i);
	return json_number_value(v);
}

static void read_gradients(void)
{
	json_t *list = json_object_get(fixture, "tensors"), *t;
	size_t i, n = 0;
	FILE *f;

	json_array_foreach(list, i, t)
	{
		const json_t *dims = json_object_get(t, "dims");
		json_t *second = json_array_get(dims, 1);

		n += (size_t)json_integer_value(json_array_get(dims, 0)) *
		     (second ? (size_t)json_integer_value(second) : 1);
	}
	ck_assert_uint_gt(n, 0);
	ref_grads = gpt2_calloc(n, sizeof(*ref_grads));
	f = fopen(STRATA_SOURCE_DIR "/" FIXTURE ".bin", "rb");
	ck_assert_msg(f != NULL, "%s.bin: cannot open", FIXTURE);
	ck_assert_uint_eq(fread(ref_grads, sizeof(*ref_grads), n, f), n);
	ck_assert_int_eq(fgetc(f), EOF);
	fclose(f);
}

static void read_fixture(void)
{
	json_error_t e;
	json_t *c;

	fixture = json_load_file(STRATA_SOURCE_DIR "/" FIXTURE ".json", 0, &e);
	ck_assert_msg(fixture != NULL, "%s.json:%d: %s", FIXTURE, e.line, e.text);
	c = json_object_get(fixture, "config");
	golden.n_layer = size_of(c, "n_layer");
	golden.n_embd = size_of(c, "n_embd");
	golden.n_head = size_of(c, "n_head");
	golden.n_positions = size_of(c, "n_positions");
	golden.vocab_size = size_of(c, "vocab_size");
	batch = size_of(fixture, "batch");
	seq = size_of(fixture, "seq");
	n_batches = size_of(fixture, "batches");
	n_steps = size_of(fixture, "steps");
	rows = batch * seq;
	read_gradients();
	tokens = gpt2_calloc(rows, sizeof(*tokens));
	targets = gpt2_calloc(rows, sizeof(*targets));
	gpt2_golden_batch(0, batch, seq, golden.vocab_size, tokens, targets);
}

static void free_fixture(void)
{
	json_decref(fixture);
	free(ref_grads);
	free(tokens);
	free(targets);
}

/* ---- description ----------------------------------------------------------------- */

static void check_layout(const struct st_model *m)
{
	size_t params = 0;

	for (unsigned u = 0; u < m->n_units; u++) {
		const struct st_unit_desc *d = &m->units[u];
		size_t end = 0;
		unsigned segment = 0;

		for (unsigned i = 0; i < d->n_tensors; i++) {
			const struct st_tensor_desc *t = &d->tensors[i];

			ck_assert_uint_eq(t->first_elem % STRATA_NUMERIC_TILE, 0);
			ck_assert_uint_ge(t->first_elem, end);
			ck_assert_uint_lt(t->first_elem - end, STRATA_NUMERIC_TILE);
			ck_assert_uint_eq(t->elems, t->dims[0] * (t->n_dims == 2 ? t->dims[1] : 1));
			ck_assert(t->segment == segment || t->segment == segment + 1);
			ck_assert(t->n_dims == 1 || !i || t->segment == segment + 1);
			segment = t->segment;
			end = t->first_elem + t->elems;
			params += t->elems;
		}
		ck_assert_uint_eq(d->elems % STRATA_NUMERIC_TILE, 0);
		ck_assert_uint_ge(d->elems, end);
		ck_assert_uint_lt(d->elems - end, STRATA_NUMERIC_TILE);
	}
	ck_assert_uint_eq(params, m->n_params);
}

START_TEST(published_sizes)
{
	static const struct {
		const char *name;
		size_t n_params; /* as Hugging Face counts them */
	} want[] = {
		{ "gpt2", 124439808 },
		{ "gpt2-medium", 354823168 },
		{ "gpt2-large", 774030080 },
		{ "gpt2-xl", 1557611200 },
	};
	struct st_device_cfg dc = { .type = "host", .dtype = ST_BF16, .threads = 2 };
	struct st_device *dev;

	ck_assert_int_eq(st_device_open(&dev, &dc), 0);
	for (size_t i = 0; i < ST_ARRAY_LEN(want); i++) {
		struct st_gpt2_cfg cfg;
		struct st_model *m;
		double flops = 0, positions;

		ck_assert(st_gpt2_by_name(want[i].name, &cfg));
		ck_assert_int_eq(st_gpt2_create(&m, &cfg, 4, 512, dev, ST_BF16), 0);
		ck_assert_uint_eq(m->n_params, want[i].n_params);
		check_layout(m);
		ck_assert_str_eq(m->stages[0].name, "embed");
		ck_assert(!m->stages[0].bwd_needs_params);
		ck_assert_str_eq(m->stages[m->n_stages - 1].name, "loss");
		positions = 1024.0 * (double)cfg.n_embd;
		ck_assert_double_eq(m->flops_per_token,
				    6.0 * ((double)m->n_params - positions) +
					    12.0 * (double)(cfg.n_layer * cfg.n_embd * 512));
		/* What the stages count is the same, but for vectors' parameters. */
		for (unsigned s = 0; s < m->n_stages; s++)
			flops += m->stages[s].bwd_flops +
				 (s + 1 < m->n_stages ? m->stages[s].fwd_flops : 0);
		ck_assert_double_lt(fabs(flops / (4 * 512 * m->flops_per_token) - 1), 2e-3);
		/* 9C per token in bf16 and lse. */
		ck_assert_uint_eq(m->stages[1].saved_bytes,
				  2048 * (9 * cfg.n_embd * 2 + 4 * cfg.n_head));
		st_gpt2_destroy(m);
	}
	ck_assert(!st_gpt2_by_name("gpt3", &(struct st_gpt2_cfg){ 0 }));
	st_gpt2_destroy(NULL);
	st_device_close(dev);
}
END_TEST

START_TEST(units_and_names)
{
	json_t *list = json_object_get(fixture, "tensors");
	struct gpt2_run r;
	size_t n = 0;

	gpt2_run_open(&r, &golden, batch, seq, ST_F32, 2);
	for (unsigned u = 0; u < r.m->n_units; u++)
		for (unsigned i = 0; i < r.m->units[u].n_tensors; i++, n++) {
			const struct st_tensor_desc *t = &r.m->units[u].tensors[i];
			json_t *want = json_array_get(list, n);

			ck_assert_str_eq(t->name, json_string_value(json_object_get(want, "name")));
			ck_assert_uint_eq(t->n_dims,
					  json_array_size(json_object_get(want, "dims")));
		}
	ck_assert_uint_eq(n, json_array_size(list));
	ck_assert_str_eq(r.m->units[0].name, "wte");
	ck_assert_str_eq(r.m->units[1].name, "wpe");
	ck_assert_str_eq(r.m->units[2].name, "h.0");
	ck_assert_str_eq(r.m->units[2 + golden.n_layer].name, "ln_f");
	ck_assert_uint_eq(r.m->units[2].tensors[4].segment, 4);
	ck_assert_uint_eq(r.m->units[2].tensors[11].segment, 4);
	gpt2_run_close(&r);
}
END_TEST

START_TEST(bad_configs)
{
	static const struct {
		struct st_gpt2_cfg cfg;
		size_t batch, seq;
		enum st_dtype dtype;
		const char *says;
	} bad[] = {
		{ { 0, 48, 6, 24, 100 }, 1, 8, ST_F32, "n_layer is 0" },
		{ { 4, 0, 6, 24, 100 }, 1, 8, ST_F32, "n_embd is 0" },
		{ { 4, 48, 0, 24, 100 }, 1, 8, ST_F32, "n_head is 0" },
		{ { 4, 48, 6, 0, 100 }, 1, 8, ST_F32, "n_positions is 0" },
		{ { 4, 48, 6, 24, 0 }, 1, 8, ST_F32, "vocab_size is 0" },
		{ { 4, 48, 5, 24, 100 }, 1, 8, ST_F32, "not a multiple of n_head 5" },
		{ { 4, 48, 4, 24, 100 }, 1, 8, ST_F32, "n_embd / n_head is 12" },
		{ { 4, 1024, 1, 24, 100 }, 1, 8, ST_F32, "n_embd / n_head is 1024" },
		{ { 4, 48, 6, 24, 100 }, 0, 8, ST_F32, "micro-batch size is 0" },
		{ { 4, 48, 6, 24, 100 }, 1, 0, ST_F32, "sequence length is 0" },
		{ { 4, 48, 6, 24, 100 }, 1, 25, ST_F32, "exceeds n_positions 24" },
		{ { 4, 48, 6, 24, 100 }, 1, 8, (enum st_dtype)ST_DTYPE_COUNT, "not in dtype 3" },
		{ { (size_t)1 << 40, 48, 6, 24, 100 }, 1, 8, ST_F32, "n_layer" },
		{ { 4, SIZE_MAX, 1, 24, 100 }, 1, 8, ST_F32, "n_embd" },
		{ { 4, 48, 6, 24, SIZE_MAX }, 1, 8, ST_F32, "vocab_size" },
		{ { 4, 48, 6, 24, 100 }, SIZE_MAX / 4, 8, ST_F32, "micro-batch size" },
		{ { 4, 48, 6, 1024, 100 }, 1 << 20, 1024, ST_F32, "tokens exceeds" },
	};
	struct st_device_cfg dc = { .type = "host", .dtype = ST_F32, .threads = 1 };
	struct st_device *dev;

	ck_assert_int_eq(st_device_open(&dev, &dc), 0);
	for (size_t i = 0; i < ST_ARRAY_LEN(bad); i++) {
		struct st_model *m = (struct st_model *)&golden;

		ck_assert_int_eq(st_gpt2_create(&m, &bad[i].cfg, bad[i].batch, bad[i].seq, dev,
						bad[i].dtype),
				 STRATA_E_CONFIG);
		ck_assert_msg(strstr(st_last_error(), bad[i].says) != NULL, "case %zu says: %s", i,
			      st_last_error());
		ck_assert_ptr_eq(m, &golden);
	}
	st_device_close(dev);
}
END_TEST

/* ---- initial weights ------------------------------------------------------------- */

START_TEST(init_matches_formula)
{
	json_t *list = json_object_get(fixture, "init"), *e;
	size_t i;

	ck_assert_uint_gt(json_array_size(list), 3);
	json_array_foreach(list, i, e)
	{
		struct st_tensor_desc t = { .init = ST_INIT_NORMAL, .init_std = 0.5f };
		const char *seed = json_string_value(json_object_get(e, "seed"));
		double want = 0.5 * json_number_value(json_object_get(e, "normal"));
		float got = NAN;

		snprintf(t.name, sizeof(t.name), "%s",
			 json_string_value(json_object_get(e, "name")));
		st_init_fill(&t, strtoull(seed, NULL, 0),
			     (size_t)json_integer_value(json_object_get(e, "index")), 1, &got);
		ck_assert_msg(fabs((double)got - want) <= 1e-6 * 0.5, "entry %zu: %g, not %g", i,
			      (double)got, want);
	}
}
END_TEST

START_TEST(init_is_normal_and_cut_anywhere)
{
	enum { N = 100000 };
	struct st_tensor_desc t = { .name = "h.0.attn.c_attn.weight",
				    .init = ST_INIT_NORMAL,
				    .init_std = 0.02f };
	float *whole = gpt2_calloc(N, sizeof(float)), *part = gpt2_calloc(N, sizeof(float));
	double sum = 0, sq = 0, lag = 0;
	size_t beyond = 0;

	st_init_fill(&t, 7, 0, N, whole);
	for (size_t at = 0, n = 1; at < N; at += n, n = n * 2 + 1) {
		n = n < N - at ? n : N - at;
		st_init_fill(&t, 7, at, n, part + at);
	}
	ck_assert_int_eq(memcmp(whole, part, N * sizeof(float)), 0);
	for (size_t i = 0; i < N; i++) {
		double z = (double)whole[i] / 0.02;

		sum += z;
		sq += z * z;
		lag += i ? z * (double)whole[i - 1] / 0.02 : 0;
		beyond += fabs(z) > 1.959964;
	}
	/* Five standard errors each. */
	ck_assert_double_lt(fabs(sum / N), 5 / sqrt(N));
	ck_assert_double_lt(fabs(sq / N - 1), 5 * sqrt(2.0 / N));
	ck_assert_double_lt(fabs(lag / N), 5 / sqrt(N));
	ck_assert_double_lt(fabs((double)beyond / N - 0.05), 5 * sqrt(0.05 * 0.95 / N));
	st_init_fill(&t, 8, 0, N, part);
	ck_assert_float_ne(whole[0], part[0]);
	t.name[2] = '1';
	st_init_fill(&t, 7, 0, N, part);
	ck_assert_float_ne(whole[0], part[0]);
	t.init = ST_INIT_ONE;
	st_init_fill(&t, 7, 3, 2, part);
	ck_assert(part[0] == 1.0f && part[1] == 1.0f);
	t.init = ST_INIT_ZERO;
	st_init_fill(&t, 7, 3, 2, part);
	ck_assert(part[0] == 0.0f && part[1] == 0.0f);
	free(whole);
	free(part);
}
END_TEST

START_TEST(init_is_as_published)
{
	struct st_device_cfg dc = { .type = "host", .dtype = ST_BF16, .threads = 1 };
	struct st_gpt2_cfg cfg;
	struct st_device *dev;
	struct st_model *m;

	ck_assert(st_gpt2_by_name("gpt2", &cfg));
	ck_assert_int_eq(st_device_open(&dev, &dc), 0);
	ck_assert_int_eq(st_gpt2_create(&m, &cfg, 1, 64, dev, ST_BF16), 0);
	for (unsigned u = 0; u < m->n_units; u++)
		for (unsigned i = 0; i < m->units[u].n_tensors; i++) {
			const struct st_tensor_desc *t = &m->units[u].tensors[i];
			bool is_residual = strstr(t->name, "c_proj.weight") != NULL;
			float std = is_residual ? (float)(0.02 / sqrt(24.0)) : 0.02f;

			if (t->n_dims == 2)
				ck_assert(t->init == ST_INIT_NORMAL && t->init_std == std);
			else
				ck_assert_int_eq(t->init, strstr(t->name, ".weight")
								  ? ST_INIT_ONE
								  : ST_INIT_ZERO);
		}
	st_gpt2_destroy(m);
	st_device_close(dev);
}
END_TEST

/* ---- loss and gradients ---------------------------------------------------------- */

/* @return how many tensors' gradients are not close to `ref`, which has them one after the other;
 *         *worst: the largest relative error */
static unsigned count_wrong(const struct gpt2_run *r, const float *ref, double norm, double rtol,
			    double *worst)
{
	unsigned wrong = 0;
	double err;

	*worst = 0;
	for (unsigned u = 0; u < r->m->n_units; u++)
		for (unsigned i = 0; i < r->m->units[u].n_tensors; i++) {
			size_t n = r->m->units[u].tensors[i].elems;

			wrong += !gpt2_is_close(n, gpt2_run_grad(r, u, i), ref, rtol, 1e-6 * norm,
						&err);
			*worst = *worst < err ? err : *worst;
			ref += n;
		}
	return wrong;
}

/* Norm over all units, as the engine takes it: leaves of numeric tiles, one tree. */
static double gradient_norm(const struct gpt2_run *r)
{
	size_t n = 0, at = 0;
	double *leaf, norm;

	for (unsigned u = 0; u < r->m->n_units; u++)
		n += r->m->units[u].elems / STRATA_NUMERIC_TILE;
	leaf = gpt2_calloc(n, sizeof(*leaf));
	for (unsigned u = 0; u < r->m->n_units; u++) {
		ck_assert_int_eq(strata_optim_reduce(r->m->units[u].elems, r->grads[u].p,
						     r->grads[u].p, STRATA_GRADS_F32, leaf + at),
				 0);
		at += r->m->units[u].elems / STRATA_NUMERIC_TILE;
	}
	norm = sqrt(strata_optim_tree_sum(leaf, n));
	free(leaf);
	return norm;
}

static bool is_verbose(void)
{
	return getenv("STRATA_TEST_VERBOSE") != NULL;
}

/* The gradient of a loss scaled by a power of two, the scale taken off again: exact in fp32. */
static double scaled_step(struct gpt2_run *r, float loss_scale)
{
	double loss;

	gpt2_run_zero_grads(r);
	loss = gpt2_run_step(r, tokens, targets, loss_scale / (float)rows);
	for (unsigned u = 0; u < r->m->n_units; u++)
		for (size_t i = 0; i < r->m->units[u].elems; i++)
			((float *)r->grads[u].p)[i] /= loss_scale;
	return loss;
}

static void compare_with_golden(enum st_dtype dtype, float loss_scale, double loss_rtol,
				double logit_atol, double grad_rtol)
{
	float *logits = gpt2_calloc(golden.vocab_size, sizeof(*logits));
	double want = number("loss"), got, eval, worst = 0, err;
	struct gpt2_run r;

	gpt2_run_open(&r, &golden, batch, seq, dtype, 2);
	gpt2_run_load(&r, gpt2_golden_weights, NULL);
	eval = gpt2_run_eval(&r, tokens, targets, logits) / (double)rows;
	got = scaled_step(&r, loss_scale) / (double)rows;
	ck_assert_msg(fabs(got - want) <= loss_rtol * want, "loss %.9g, not %.9g", got, want);
	ck_assert_msg(eval == got, "evaluation gives %.17g, training %.17g", eval, got);
	for (size_t i = 0; i < golden.vocab_size; i++) {
		double d = fabs((double)logits[i] - entry("last_logits", i));

		worst = d > worst ? d : worst;
		ck_assert_msg(d <= logit_atol, "logit %zu: %g, not %g", i, (double)logits[i],
			      entry("last_logits", i));
	}
	ck_assert_uint_eq(count_wrong(&r, ref_grads, number("grad_norm"), grad_rtol, &err), 0);
	if (is_verbose())
		printf("%s: loss error %.3g, worst logit %.3g, worst gradient %.3g\n",
		       st_dtype_name(dtype), fabs(got - want) / want, worst, err);
	gpt2_run_close(&r);
	free(logits);
}

START_TEST(fp32_matches_pytorch)
{
	compare_with_golden(ST_F32, 1, 1e-6, 2e-5, 1e-4);
}
END_TEST

START_TEST(bf16_matches_pytorch)
{
	compare_with_golden(ST_BF16, 1, 2e-3, 5e-2, 2e-2);
}
END_TEST

/* The golden weights are exact in fp16 too. */
START_TEST(fp16_matches_pytorch)
{
	compare_with_golden(ST_F16, 1024, 2e-4, 5e-3, 5e-3);
}
END_TEST

/* 2^16, with which dynamic loss scales begin, passes; far beyond it the logits' gradient overflows
 * and the sums of squares of all units show it. */
START_TEST(fp16_loss_scales)
{
	double norm = number("grad_norm"), err, leaf, small;
	struct gpt2_run r;
	bool is_seen;

	gpt2_run_open(&r, &golden, batch, seq, ST_F16, 2);
	gpt2_run_load(&r, gpt2_golden_weights, NULL);
	scaled_step(&r, 0x1p16f);
	ck_assert_uint_eq(count_wrong(&r, ref_grads, norm, 5e-3, &err), 0);
	ck_assert(isfinite(gradient_norm(&r)));
	/* Without a scale the small gradients fall between fp16's numbers: less exact by far. */
	scaled_step(&r, 0x1p-8f);
	ck_assert_uint_gt(count_wrong(&r, ref_grads, norm, 5e-3, &small), 0);
	ck_assert_double_gt(small, 4 * err);
	scaled_step(&r, 0x1p24f);
	for (unsigned u = 0; u < r.m->n_units; u++) {
		is_seen = false;
		for (size_t i = 0; i < r.m->units[u].elems; i += STRATA_NUMERIC_TILE) {
			float *g = (float *)r.grads[u].p + i;

			ck_assert_int_eq(strata_optim_reduce(STRATA_NUMERIC_TILE, g, g,
							     STRATA_GRADS_F32, &leaf),
					 0);
			is_seen |= !isfinite(leaf);
		}
		ck_assert_msg(is_seen, "unit %s hides the overflow", r.m->units[u].name);
	}
	ck_assert(!isfinite(gradient_norm(&r)));
	gpt2_run_close(&r);
}
END_TEST

/* The comparison itself must be able to fail, for each tensor and for NaN. */
START_TEST(wrong_gradients_are_seen)
{
	double norm = number("grad_norm"), err;
	struct gpt2_run r;

	gpt2_run_open(&r, &golden, batch, seq, ST_F32, 2);
	gpt2_run_load(&r, gpt2_golden_weights, NULL);
	gpt2_run_step(&r, tokens, targets, 1.0f / (float)rows);
	ck_assert_uint_eq(count_wrong(&r, ref_grads, norm, 1e-4, &err), 0);
	for (unsigned u = 0; u < r.m->n_units; u++)
		for (unsigned i = 0; i < r.m->units[u].n_tensors; i++) {
			size_t n = r.m->units[u].tensors[i].elems;
			float *grad = gpt2_run_grad(&r, u, i), keep = grad[n - 1];

			grad[n - 1] = NAN;
			ck_assert_uint_eq(count_wrong(&r, ref_grads, norm, 1e-4, &err), 1);
			grad[n - 1] = INFINITY;
			ck_assert_uint_eq(count_wrong(&r, ref_grads, norm, 1e-4, &err), 1);
			grad[n - 1] = keep;
			for (size_t k = 0; k < n; k++)
				grad[k] *= 1.001f;
			ck_assert_uint_eq(count_wrong(&r, ref_grads, norm, 1e-4, &err), 1);
			for (size_t k = 0; k < n; k++)
				grad[k] /= 1.001f;
		}
	gpt2_run_close(&r);
}
END_TEST

/* Move the golden weights by eps * d, where d is +-1/sqrt(n) on the n elements of the tensors
 * `first` .. `end` - 1 (counted over all units), its signs drawn from `seed`; on the way, take the
 * products of d's signs with the gradient of those tensors. */
struct direction {
	const char *seed;
	unsigned first, end, next;
	double step;        /* eps / sqrt(n) */
	double dot, norm2;  /* out: sum of sign * gradient, of gradient^2 */
	const float *grads; /* of tensor `first` on */
};

static void fill_moved(const struct st_tensor_desc *t, float *out, void *user)
{
	struct direction *d = user;
	unsigned index = d->next++;

	gpt2_golden_weights(t, out, NULL);
	if (index < d->first || index >= d->end)
		return;
	for (size_t i = 0; i < t->elems; i++) {
		size_t at = i + ((size_t)index << 20);
		double sign = gpt2_mix32(d->seed, at) >> 31 ? 1.0 : -1.0;
		double g = (double)d->grads[i];

		out[i] = (float)((double)out[i] + sign * d->step);
		d->dot += sign * g;
		d->norm2 += g * g;
	}
	d->grads += t->elems;
}

/* The gradient under test, the tensors one after the other. */
static float *packed_gradients(const struct gpt2_run *r)
{
	float *all = gpt2_calloc(r->m->n_params, sizeof(*all)), *at = all;

	for (unsigned u = 0; u < r->m->n_units; u++)
		for (unsigned i = 0; i < r->m->units[u].n_tensors; i++) {
			size_t n = r->m->units[u].tensors[i].elems;

			memcpy(at, gpt2_run_grad(r, u, i), n * sizeof(*at));
			at += n;
		}
	return all;
}

/* Along one direction, over |gradient| / sqrt(n), the size to expect of gradient . d. */
struct slope {
	double measured; /* the difference quotient of the loss */
	double claimed;  /* gradient . d */
};

static struct slope slope_along(struct gpt2_run *r, const float *grads, size_t n, unsigned first,
				unsigned end, double eps)
{
	double loss[2], root = sqrt((double)n);
	struct slope s = { 0 };

	for (int side = 0; side < 2; side++) {
		struct direction d = { .seed = "direction", .first = first, .end = end };

		d.step = (side ? -eps : eps) / root;
		d.grads = grads;
		gpt2_run_load(r, fill_moved, &d);
		loss[side] = gpt2_run_eval(r, tokens, targets, NULL) / (double)rows;
		s.claimed = d.dot / sqrt(d.norm2);
		s.measured = (loss[0] - loss[side]) / (2 * eps) * root / sqrt(d.norm2);
	}
	return s;
}

START_TEST(finite_differences)
{
	double worst = 0;
	struct gpt2_run r;
	struct slope s;
	unsigned index = 0, seen = 0;
	float *grads, *at;

	gpt2_run_open(&r, &golden, batch, seq, ST_F32, 1);
	gpt2_run_load(&r, gpt2_golden_weights, NULL);
	gpt2_run_step(&r, tokens, targets, 1.0f / (float)rows);
	grads = at = packed_gradients(&r);
	for (unsigned u = 0; u < r.m->n_units; u++)
		for (unsigned i = 0; i < r.m->units[u].n_tensors; i++, index++) {
			const struct st_tensor_desc *t = &r.m->units[u].tensors[i];

			s = slope_along(&r, at, t->elems, index, index + 1, 0.02);
			ck_assert_msg(fabs(s.measured - s.claimed) <= 0.01, "%s: slope %g, not %g",
				      t->name, s.claimed, s.measured);
			worst = fmax(worst, fabs(s.measured - s.claimed));
			/* A gradient 5 % too large must show, unless d is nearly at right angles.
			 */
			seen += fabs(s.measured - 1.05 * s.claimed) > 0.01;
			at += t->elems;
		}
	ck_assert_uint_gt(seen, index * 3 / 5);
	s = slope_along(&r, grads, r.m->n_params, 0, index, 0.05);
	ck_assert_double_le(fabs(s.measured - s.claimed), 0.01);
	if (is_verbose())
		printf("finite differences: worst %.3g, %u of %u wrong scales seen\n", worst, seen,
		       index);
	free(grads);
	gpt2_run_close(&r);
}
END_TEST

/* ---- what the engine relies on ----------------------------------------------------- */

/* Three micro-batches of one sequence against one of three. */
START_TEST(micro_batches_accumulate)
{
	double norm = number("grad_norm"), sum = 0, whole, err;
	struct gpt2_run r, one;
	float *ref;

	gpt2_run_open(&r, &golden, batch, seq, ST_F32, 2);
	gpt2_run_load(&r, gpt2_golden_weights, NULL);
	whole = gpt2_run_step(&r, tokens, targets, 1.0f / (float)rows);
	ref = packed_gradients(&r);
	gpt2_run_open(&one, &golden, 1, seq, ST_F32, 2);
	gpt2_run_load(&one, gpt2_golden_weights, NULL);
	for (size_t b = 0; b < batch; b++) {
		if (b)
			ck_assert_uint_gt(count_wrong(&one, ref, norm, 1e-5, &err), 40);
		sum += gpt2_run_step(&one, tokens + b * seq, targets + b * seq, 1.0f / (float)rows);
	}
	ck_assert_double_lt(fabs(sum - whole), 1e-6 * whole);
	ck_assert_uint_eq(count_wrong(&one, ref, norm, 1e-5, &err), 0);
	/* Twice is twice. */
	gpt2_run_step(&r, tokens, targets, 1.0f / (float)rows);
	for (size_t i = 0; i < r.m->n_params; i++)
		ref[i] *= 2;
	ck_assert_uint_eq(count_wrong(&r, ref, 2 * norm, 1e-5, &err), 0);
	free(ref);
	gpt2_run_close(&one);
	gpt2_run_close(&r);
}
END_TEST

/* 1200 tokens run in chunks of 640 and 560, 600 in one. */
static void compare_chunks(enum st_dtype dtype, double rtol)
{
	static const struct st_gpt2_cfg cfg = { 2, 24, 3, 600, 67 };
	int32_t *tok = gpt2_calloc(1200, sizeof(*tok)), *tgt = gpt2_calloc(1200, sizeof(*tgt));
	double norm2 = 0, sum = 0, whole, err;
	struct gpt2_run r, half;
	float *ref;

	gpt2_golden_batch(0, 2, 600, cfg.vocab_size, tok, tgt);
	gpt2_run_open(&r, &cfg, 2, 600, dtype, 2);
	gpt2_run_load(&r, gpt2_golden_weights, NULL);
	whole = gpt2_run_step(&r, tok, tgt, 1.0f / 1200);
	ck_assert(gpt2_run_eval(&r, tok, tgt, NULL) == whole);
	ref = packed_gradients(&r);
	for (size_t i = 0; i < r.m->n_params; i++)
		norm2 += (double)ref[i] * (double)ref[i];
	gpt2_run_open(&half, &cfg, 1, 600, dtype, 2);
	gpt2_run_load(&half, gpt2_golden_weights, NULL);
	for (size_t b = 0; b < 2; b++)
		sum += gpt2_run_step(&half, tok + b * 600, tgt + b * 600, 1.0f / 1200);
	ck_assert_double_lt(fabs(sum - whole), 1e-6 * whole);
	ck_assert_uint_eq(count_wrong(&half, ref, sqrt(norm2), rtol, &err), 0);
	free(ref);
	free(tok);
	free(tgt);
	gpt2_run_close(&half);
	gpt2_run_close(&r);
}

START_TEST(chunks_change_rounding_only)
{
	compare_chunks(ST_F32, 1e-5);
	compare_chunks(ST_BF16, 1e-3);
	compare_chunks(ST_F16, 1e-3);
}
END_TEST

START_TEST(same_call_same_bits)
{
	for (enum st_dtype dtype = ST_F32; dtype < ST_DTYPE_COUNT; dtype++) {
		struct gpt2_run r[2];
		double loss[2];

		for (int i = 0; i < 2; i++) {
			gpt2_run_open(&r[i], &golden, batch, seq, dtype, 2);
			gpt2_run_load(&r[i], gpt2_golden_weights, NULL);
			loss[i] = gpt2_run_step(&r[i], tokens, targets, 1.0f / (float)rows);
		}
		ck_assert(loss[0] == loss[1]);
		for (unsigned u = 0; u < r[0].m->n_units; u++)
			ck_assert_int_eq(
				memcmp(r[0].grads[u].p, r[1].grads[u].p, r[0].grads[u].bytes), 0);
		gpt2_run_close(&r[0]);
		gpt2_run_close(&r[1]);
	}
}
END_TEST

/* Sampling asks for logits only, at any length; padding of gradients stays zero. */
START_TEST(logits_alone_and_padding)
{
	float *a = gpt2_calloc(golden.vocab_size, sizeof(*a));
	float *b = gpt2_calloc(golden.vocab_size, sizeof(*b));
	struct gpt2_run r, one;
	size_t padding = 0;

	gpt2_run_open(&r, &golden, batch, seq, ST_F32, 2);
	gpt2_run_load(&r, gpt2_golden_weights, NULL);
	ck_assert(gpt2_run_eval(&r, tokens, NULL, a) == 0);
	gpt2_run_open(&one, &golden, 1, seq, ST_F32, 2);
	gpt2_run_load(&one, gpt2_golden_weights, NULL);
	ck_assert(gpt2_run_eval(&one, tokens + (batch - 1) * seq, NULL, b) == 0);
	for (size_t i = 0; i < golden.vocab_size; i++)
		ck_assert_double_lt(fabs((double)a[i] - (double)b[i]), 1e-5);

	gpt2_run_step(&r, tokens, targets, 1.0f / (float)rows);
	for (unsigned u = 0; u < r.m->n_units; u++) {
		const struct st_unit_desc *d = &r.m->units[u];
		const float *g = r.grads[u].p;

		for (unsigned i = 0; i < d->n_tensors; i++) {
			size_t end = i + 1 < d->n_tensors ? d->tensors[i + 1].first_elem : d->elems;

			for (size_t k = d->tensors[i].first_elem + d->tensors[i].elems; k < end;
			     k++, padding++)
				ck_assert_msg(g[k] == 0.0f, "unit %s, element %zu", d->name, k);
		}
	}
	ck_assert_uint_gt(padding, 0);
	gpt2_run_close(&one);
	gpt2_run_close(&r);
	free(a);
	free(b);
}
END_TEST

START_TEST(no_weight_no_gradient)
{
	struct gpt2_run r;
	double loss;

	gpt2_run_open(&r, &golden, batch, seq, ST_F32, 2);
	gpt2_run_load(&r, gpt2_golden_weights, NULL);
	loss = gpt2_run_step(&r, tokens, targets, 0.0f);
	ck_assert_double_lt(fabs(loss / (double)rows - number("loss")), 1e-5);
	for (unsigned u = 0; u < r.m->n_units; u++)
		for (size_t i = 0; i < r.m->units[u].elems; i++)
			ck_assert(((float *)r.grads[u].p)[i] == 0.0f);
	gpt2_run_close(&r);
}
END_TEST

/* ---- training -------------------------------------------------------------------- */

static void update(struct gpt2_run *r, struct gpt2_buf *m, struct gpt2_buf *v, uint64_t t,
		   double norm)
{
	static const struct strata_optim_format format = { STRATA_PARAMS_F32, STRATA_MOMENTS_F32,
							   STRATA_GRADS_F32 };
	struct strata_optim_cfg cfg = STRATA_OPTIM_CFG_DEFAULT;
	double clip = fmin(1.0, 1.0 / (norm + 1e-6));
	struct strata_optim_step step[2]; /* without and with decay */

	cfg.beta2 = 0.95;
	ck_assert_int_eq(strata_optim_prepare(&step[0], &cfg, t, 1e-3, 0.0, clip), 0);
	ck_assert_int_eq(strata_optim_prepare(&step[1], &cfg, t, 1e-3, 0.1, clip), 0);
	for (unsigned u = 0; u < r->m->n_units; u++)
		for (unsigned i = 0; i < r->m->units[u].n_tensors; i++) {
			const struct st_tensor_desc *d = &r->m->units[u].tensors[i];
			struct strata_optim_range range = {
				.n = d->elems,
				.array = { [STRATA_ARRAY_PARAM] =
						   (float *)r->params[u].p + d->first_elem,
					   [STRATA_ARRAY_M] = (float *)m[u].p + d->first_elem,
					   [STRATA_ARRAY_V] = (float *)v[u].p + d->first_elem,
					   [STRATA_ARRAY_GRAD] = gpt2_run_grad(r, u, i) },
			};

			ck_assert_int_eq(
				strata_optim_update(&step[d->n_dims == 2], &format, &range), 0);
		}
}

START_TEST(adamw_curve_matches_pytorch)
{
	int32_t *tok = gpt2_calloc(rows, sizeof(*tok)), *tgt = gpt2_calloc(rows, sizeof(*tgt));
	struct gpt2_buf *m, *v;
	double worst = 0, worst_norm = 0, d;
	struct gpt2_run r;

	gpt2_run_open(&r, &golden, batch, seq, ST_F32, 2);
	gpt2_run_load(&r, gpt2_golden_weights, NULL);
	m = gpt2_calloc(r.m->n_units, sizeof(*m));
	v = gpt2_calloc(r.m->n_units, sizeof(*v));
	for (unsigned u = 0; u < r.m->n_units; u++) {
		m[u] = gpt2_buf_copy(&r.grads[u]); /* zeros */
		v[u] = gpt2_buf_copy(&r.grads[u]);
	}
	for (size_t t = 0; t <= n_steps; t++) {
		double loss, norm;

		gpt2_golden_batch(t % n_batches, batch, seq, golden.vocab_size, tok, tgt);
		gpt2_run_zero_grads(&r);
		loss = gpt2_run_step(&r, tok, tgt, 1.0f / (float)rows) / (double)rows;
		d = fabs(loss - entry("curve", t));
		ck_assert_msg(d <= 1e-3, "step %zu: loss %.6f, not %.6f", t, loss,
			      entry("curve", t));
		worst = d > worst ? d : worst;
		if (t == n_steps)
			break;
		norm = gradient_norm(&r);
		d = fabs(norm - entry("norms", t)) / entry("norms", t);
		ck_assert_msg(d <= 1e-3, "step %zu: norm %.6f, not %.6f", t, norm,
			      entry("norms", t));
		worst_norm = d > worst_norm ? d : worst_norm;
		update(&r, m, v, t + 1, norm);
	}
	if (is_verbose())
		printf("curve: worst loss %.3g, worst relative norm %.3g\n", worst, worst_norm);
	for (unsigned u = 0; u < r.m->n_units; u++) {
		gpt2_buf_free(&m[u]);
		gpt2_buf_free(&v[u]);
	}
	free(m);
	free(v);
	free(tok);
	free(tgt);
	gpt2_run_close(&r);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("gpt2");
	TCase *t = tcase_create("gpt2");
	SRunner *r;
	int failed;

	tcase_set_timeout(t, 0); /* the harness has one */
	tcase_add_unchecked_fixture(t, read_fixture, free_fixture);
	tcase_add_test(t, published_sizes);
	tcase_add_test(t, units_and_names);
	tcase_add_test(t, bad_configs);
	tcase_add_test(t, init_matches_formula);
	tcase_add_test(t, init_is_normal_and_cut_anywhere);
	tcase_add_test(t, init_is_as_published);
	tcase_add_test(t, fp32_matches_pytorch);
	tcase_add_test(t, bf16_matches_pytorch);
	tcase_add_test(t, fp16_matches_pytorch);
	tcase_add_test(t, fp16_loss_scales);
	tcase_add_test(t, wrong_gradients_are_seen);
	tcase_add_test(t, finite_differences);
	tcase_add_test(t, micro_batches_accumulate);
	tcase_add_test(t, chunks_change_rounding_only);
	tcase_add_test(t, same_call_same_bits);
	tcase_add_test(t, logits_alone_and_padding);
	tcase_add_test(t, no_weight_no_gradient);
	tcase_add_test(t, adamw_curve_matches_pytorch);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
