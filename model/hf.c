/* SPDX-License-Identifier: Apache-2.0 */
/* model/hf.c - config.json of GPT-2: written for others, read with care. */
#include "model/hf.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/log.h"
#include "model/file.h"
#include "model/json_scan.h"

#define CONFIG_BYTES_MAX ((uint64_t)4 << 20)
#define CONFIG_DEPTH_MAX 16u
#define DIM_MAX          ((json_int_t)INT32_MAX)
#define GPT2_END_OF_TEXT 50256
#define LAYER_NORM_EPS   1e-5

static char *config_path(const char *dir)
{
	size_t cap = strlen(dir) + sizeof("/config.json");
	char *path = malloc(cap);

	if (path)
		snprintf(path, cap, "%s/config.json", dir);
	return path;
}

/* --- writing ------------------------------------------------------------------------------ */

static json_t *make_config(const struct st_gpt2_cfg *cfg, enum st_dtype dtype)
{
	static const char *const torch_dtype[ST_DTYPE_COUNT] = {
		[ST_F32] = "float32", [ST_BF16] = "bfloat16", [ST_F16] = "float16"
	};
	bool has_end = cfg->vocab_size > GPT2_END_OF_TEXT;
	json_t *end = has_end ? json_integer(GPT2_END_OF_TEXT) : json_null();
	json_t *begin = has_end ? json_integer(GPT2_END_OF_TEXT) : json_null();

	return json_pack(
		"{s:s, s:[s], s:s, s:f, s:o, s:f, s:o, s:b, s:f, s:s, s:I, s:I, s:I, s:n, s:I,"
		" s:I, s:b, s:b, s:f, s:b, s:b, s:b, s:s, s:I}",
		"activation_function", "gelu_new", "architectures", "GPT2LMHeadModel", "model_type",
		"gpt2", "attn_pdrop", 0.0, "bos_token_id", begin, "embd_pdrop", 0.0, "eos_token_id",
		end, "add_cross_attention", 0, "layer_norm_epsilon", LAYER_NORM_EPS, "torch_dtype",
		torch_dtype[dtype], "n_ctx", (json_int_t)cfg->n_positions, "n_embd",
		(json_int_t)cfg->n_embd, "n_head", (json_int_t)cfg->n_head, "n_inner", "n_layer",
		(json_int_t)cfg->n_layer, "n_positions", (json_int_t)cfg->n_positions,
		"reorder_and_upcast_attn", 0, "scale_attn_by_inverse_layer_idx", 0, "resid_pdrop",
		0.0, "scale_attn_weights", 1, "tie_word_embeddings", 1, "use_cache", 1,
		"summary_type", "cls_index", "vocab_size", (json_int_t)cfg->vocab_size);
}

int st_hf_config_write(const char *dir, const struct st_gpt2_cfg *cfg, enum st_dtype dtype)
{
	struct st_outfile file;
	struct st_show shown;
	char *path = NULL, *text = NULL;
	json_t *j = NULL;
	int rc;

	if (!dir || !cfg || (unsigned)dtype >= ST_DTYPE_COUNT)
		return st_fail(-EINVAL, "config.json: fp32, bf16 or fp16 weights.");
	path = config_path(dir);
	j = make_config(cfg, dtype);
	if (j) /* 6 digits: 1e-05, as others write it */
		text = json_dumps(j, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
	json_decref(j);
	if (!path || !text) {
		rc = st_fail(-ENOMEM, "%s/config.json", st_show(&shown, dir));
		goto out;
	}
	rc = st_outfile_open(&file, path, strlen(text) + 1);
	if (rc < 0)
		goto out;
	rc = st_outfile_write(&file, text, strlen(text));
	if (rc == 0)
		rc = st_outfile_write(&file, "\n", 1);
	if (rc == 0)
		rc = st_outfile_commit(&file);
	else
		st_outfile_abort(&file);
out:
	free(text);
	free(path);
	return rc;
}

/* --- reading ------------------------------------------------------------------------------ */

struct reader {
	const json_t *j;
	const char *shown;
	int rc; /* the first refusal */
};

static void refuse(struct reader *r, const char *key, const char *why)
{
	if (r->rc == 0)
		r->rc = st_fail(STRATA_E_UNSUPPORTED, "%s: \"%s\": %s", r->shown, key, why);
}

static size_t take_dim(struct reader *r, const char *key)
{
	const json_t *v = json_object_get(r->j, key);

	if (r->rc)
		return 0;
	if (!v) {
		r->rc = st_fail(STRATA_E_INPUT, "%s: \"%s\" is missing", r->shown, key);
		return 0;
	}
	if (!json_is_integer(v) || json_integer_value(v) < 1 || json_integer_value(v) > DIM_MAX) {
		r->rc = st_fail(STRATA_E_INPUT, "%s: \"%s\" is not a whole number in 1 .. %" PRId64,
				r->shown, key, (int64_t)DIM_MAX);
		return 0;
	}
	return (size_t)json_integer_value(v);
}

/* Absent means what GPT-2's published configuration has: `wanted`. */
static void want_bool(struct reader *r, const char *key, bool wanted, const char *why)
{
	const json_t *v = json_object_get(r->j, key);

	if (v && !json_is_boolean(v) && r->rc == 0)
		r->rc = st_fail(STRATA_E_INPUT, "%s: \"%s\" is not true or false", r->shown, key);
	else if (v && json_is_true(v) != wanted)
		refuse(r, key, why);
}

static void want_model(struct reader *r)
{
	const char *type = json_string_value(json_object_get(r->j, "model_type"));
	struct st_show s;

	if (r->rc)
		return;
	if (!type)
		r->rc = st_fail(STRATA_E_INPUT, "%s: \"model_type\" is missing or not a string",
				r->shown);
	else if (strcmp(type, "gpt2"))
		r->rc = st_fail(STRATA_E_UNSUPPORTED,
				"%s: \"model_type\" is \"%.40s\"; only \"gpt2\" is read", r->shown,
				st_show(&s, type));
}

static void want_activation(struct reader *r)
{
	const json_t *v = json_object_get(r->j, "activation_function");
	const char *text = json_string_value(v);
	struct st_show s;

	if (r->rc || !v)
		return;
	if (!text)
		r->rc = st_fail(STRATA_E_INPUT, "%s: \"activation_function\" is not a string",
				r->shown);
	else if (strcmp(text, "gelu_new") && strcmp(text, "gelu_pytorch_tanh")) /* one formula */
		r->rc = st_fail(STRATA_E_UNSUPPORTED,
				"%s: \"activation_function\" is \"%.40s\"; the model computes "
				"\"gelu_new\"",
				r->shown, st_show(&s, text));
}

static void want_numbers(struct reader *r, const struct st_gpt2_cfg *c)
{
	const json_t *eps = json_object_get(r->j, "layer_norm_epsilon");
	const json_t *inner = json_object_get(r->j, "n_inner");
	const json_t *pruned = json_object_get(r->j, "pruned_heads");

	if (r->rc)
		return;
	if (eps && !(json_is_number(eps) &&
		     fabs(json_number_value(eps) - LAYER_NORM_EPS) <= 1e-6 * LAYER_NORM_EPS))
		refuse(r, "layer_norm_epsilon", "the model computes with 1e-5");
	if (inner && !json_is_null(inner) &&
	    !(json_is_integer(inner) &&
	      (uint64_t)json_integer_value(inner) == 4 * (uint64_t)c->n_embd))
		refuse(r, "n_inner", "the model computes with 4 n_embd");
	if (json_object_size(pruned) || json_array_size(pruned))
		refuse(r, "pruned_heads", "heads cannot be left out");
	if (c->n_head && c->n_embd % c->n_head && r->rc == 0)
		r->rc = st_fail(STRATA_E_INPUT,
				"%s: \"n_embd\" %zu is not a multiple of \"n_head\" %zu", r->shown,
				c->n_embd, c->n_head);
}

static void report_dropout(const struct reader *r)
{
	static const char *const keys[] = { "resid_pdrop", "embd_pdrop", "attn_pdrop" };

	for (size_t i = 0; i < ST_ARRAY_LEN(keys); i++) {
		double p = json_number_value(json_object_get(r->j, keys[i]));

		if (p > 0)
			st_log_once(ST_LOG_INFO, "%s: %s %g has no effect: dropout is 0", r->shown,
				    keys[i], p);
	}
}

static int take_config(const json_t *j, const char *shown, struct st_gpt2_cfg *out)
{
	struct reader r = { .j = j, .shown = shown };
	struct st_gpt2_cfg c;

	if (!json_is_object(j))
		return st_fail(STRATA_E_INPUT, "%s: not a JSON object", shown);
	want_model(&r);
	want_activation(&r);
	want_bool(&r, "scale_attn_weights", true, "attention is scaled by 1/sqrt(head size)");
	want_bool(&r, "scale_attn_by_inverse_layer_idx", false, "attention is not scaled by layer");
	want_bool(&r, "add_cross_attention", false, "there is no cross attention");
	want_bool(&r, "tie_word_embeddings", true, "the output layer is the embedding");
	if (json_is_object(json_object_get(j, "quantization_config")))
		refuse(&r, "quantization_config", "quantized weights are not read");
	c.n_layer = take_dim(&r, "n_layer");
	c.n_embd = take_dim(&r, "n_embd");
	c.n_head = take_dim(&r, "n_head");
	c.n_positions = take_dim(&r, "n_positions");
	c.vocab_size = take_dim(&r, "vocab_size");
	want_numbers(&r, &c);
	if (r.rc < 0)
		return r.rc;
	report_dropout(&r);
	*out = c;
	return 0;
}

int st_hf_config_read(const char *dir, struct st_gpt2_cfg *out)
{
	struct st_show shown;
	uint64_t size_bytes;
	char *path, *text = NULL;
	json_t *j = NULL;
	int fd = -1, rc;

	if (!dir || !out)
		return st_fail(-EINVAL, "config.json: no directory.");
	path = config_path(dir);
	if (!path)
		return st_fail(-ENOMEM, "%s/config.json", st_show(&shown, dir));
	st_show(&shown, path);
	fd = st_file_open(AT_FDCWD, path, false, path, &size_bytes);
	if (fd < 0) {
		rc = fd;
		goto out;
	}
	if (size_bytes > CONFIG_BYTES_MAX) {
		rc = st_fail(STRATA_E_INPUT, "%s: %" PRIu64 " bytes are too many for a config",
			     shown.text, size_bytes);
		goto out;
	}
	text = malloc(size_bytes + 1);
	if (!text) {
		rc = st_fail(-ENOMEM, "%s", shown.text);
		goto out;
	}
	rc = st_file_read(fd, text, size_bytes, 0, path);
	if (rc == 0) {
		struct st_json_scan scan = { .text = text, .end = size_bytes, .shown = shown.text };

		rc = st_json_load(&scan, (struct st_json_slice){ 0, size_bytes }, size_bytes,
				  CONFIG_DEPTH_MAX, &j);
	}
	if (rc == 0)
		rc = take_config(j, shown.text, out);
out:
	json_decref(j);
	free(text);
	if (fd >= 0)
		close(fd);
	free(path);
	return rc;
}
