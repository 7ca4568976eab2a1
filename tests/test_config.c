/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_config.c - the configuration: its table, its values, its errors word for word.
 *
 * The fuzz target's seeds (tests/corpus/config) and every prefix of a real configuration are run
 * through the same checks as when fuzzing.
 */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/config_json.h"
#include "core/config_table.h"
#include "tests/fuzz_config.c"
#include "tests/sanitizer.h"

#define MIN "{\"train_batch_size\": 8}"

static struct st_config *load(const char *text, const char *set)
{
	struct st_config *cfg = NULL;
	int rc = st_config_parse(&cfg, text, strlen(text), "c.json", &set, set ? 1 : 0);

	ck_assert_msg(!rc, "%s: %s", set ? set : text, st_last_error());
	return cfg;
}

static void refuse(const char *text, const char *set, const char *error)
{
	struct st_config *cfg = NULL;
	int rc = st_config_parse(&cfg, text, strlen(text), "c.json", &set, set ? 1 : 0);

	ck_assert_msg(rc == STRATA_E_CONFIG, "accepted: %s %s", text, set ? set : "");
	ck_assert_ptr_null(cfg);
	ck_assert_str_eq(st_last_error(), error);
}

static bool has_note(const struct st_config *cfg, const char *part)
{
	size_t n;
	const char *const *notes = st_config_notes(cfg, &n);

	for (size_t i = 0; i < n; i++)
		if (strstr(notes[i], part))
			return true;
	return false;
}

static char *slurp(const char *path, size_t *len)
{
	FILE *f = fopen(path, "rb");
	char *buf = malloc(ST_CONFIG_MAX_BYTES);

	ck_assert_msg(f && buf, "%s", path);
	*len = fread(buf, 1, ST_CONFIG_MAX_BYTES, f);
	fclose(f);
	return buf;
}

/* ---- the table ---------------------------------------------------------------------------- */

START_TEST(table_is_a_tree_in_order)
{
	size_t n;
	const struct st_key *k = st_config_keys(&n);

	for (size_t i = 0; i < n; i++) {
		size_t up = (size_t)(st_key_leaf(k[i].path) - k[i].path);
		const struct st_key *parent = up ? st_key_find(k[i].path, up - 1) : NULL;

		ck_assert_msg(st_key_find(k[i].path, strlen(k[i].path)) == &k[i], "%s twice",
			      k[i].path);
		ck_assert_msg(k[i].fate == ST_KEY_HONOURED || k[i].reason, "%s: no reason",
			      k[i].path);
		ck_assert_msg(k[i].fate != ST_KEY_HONOURED || k[i].help, "%s: no help", k[i].path);
		if (!up)
			continue;
		ck_assert_msg(parent && parent < &k[i], "%s: no parent before it", k[i].path);
		ck_assert(parent->type == ST_KEY_OBJECT || parent->type == ST_KEY_OPEN);
		for (const struct st_key *p = parent + 1; p < &k[i]; p++)
			ck_assert_msg(!strncmp(p->path, k[i].path, up), "%s between %s and %s",
				      p->path, parent->path, k[i].path);
	}
}
END_TEST

/* Every key that is accepted without effect: its default is taken and reported with the reason. */
START_TEST(every_key_without_effect_is_reported)
{
	size_t n, seen = 0;
	const struct st_key *k = st_config_keys(&n);
	char set[256], note[512];

	for (size_t i = 0; i < n; i++) {
		struct st_config *cfg;
		const char *value = k[i].def ? k[i].def : "auto";
		bool in_section = false;

		if (k[i].fate != ST_KEY_NO_EFFECT)
			continue;
		seen++;
		if (strchr(k[i].path,
			   '.')) { /* below a section without effect, which is reported */
			size_t up = (size_t)(st_key_leaf(k[i].path) - k[i].path);

			if (st_key_find(k[i].path, up - 1)->fate == ST_KEY_NO_EFFECT)
				in_section = true;
		}
		if (k[i].type == ST_KEY_OPEN)
			value = "{\"enabled\": false, \"something\": [1, {\"else\": null}]}";
		snprintf(set, sizeof(set), "%s=%s", k[i].path, value);
		snprintf(note, sizeof(note), "accepted, no effect here: %s (%s)", k[i].path,
			 k[i].reason);
		cfg = load(MIN, set);
		ck_assert_msg(has_note(cfg, note) != in_section, "%s", note);
		st_config_destroy(cfg);
	}
	ck_assert_uint_gt(seen, 100);
}
END_TEST

/* Every refused key: its default passes in silence, another value does not, and names why. */
START_TEST(every_refused_key_says_why)
{
	size_t n, seen = 0;
	const struct st_key *k = st_config_keys(&n);
	char set[256];

	for (size_t i = 0; i < n; i++) {
		const char *other = "7";
		struct st_config *cfg = NULL;

		if (k[i].fate != ST_KEY_REFUSED)
			continue;
		seen++;
		if (k[i].type == ST_KEY_BOOL)
			other = !strcmp(k[i].def, "true") ? "false" : "true";
		else if (k[i].type == ST_KEY_STRING)
			other = "nccl";
		snprintf(set, sizeof(set), "%s=%s", k[i].path, k[i].def ? k[i].def : "null");
		st_config_destroy(load(MIN, set));
		snprintf(set, sizeof(set), "%s=%s", k[i].path, other);
		ck_assert_int_eq(st_config_parse(&cfg, MIN, strlen(MIN), "c.json",
						 (const char *const[]){ set }, 1),
				 STRATA_E_CONFIG);
		ck_assert_msg(strstr(st_last_error(), k[i].reason) != NULL, "%s: %s", set,
			      st_last_error());
	}
	ck_assert_uint_gt(seen, 25);
}
END_TEST

/* Every honoured key whose default is written out keeps the same dump. */
START_TEST(every_default_is_its_own_value)
{
	size_t n, n1, n2;
	const struct st_key *k = st_config_keys(&n);
	struct st_config *plain = load(MIN, NULL);
	char *want = fuzz_dump(plain, &n1), set[256];

	for (size_t i = 0; i < n; i++) {
		struct st_config *cfg;
		char *got;

		if (k[i].fate != ST_KEY_HONOURED || !k[i].def || k[i].schedules)
			continue;
		snprintf(set, sizeof(set), "%s=%s", k[i].path, k[i].def);
		cfg = load(MIN, set);
		got = fuzz_dump(cfg, &n2);
		ck_assert_str_eq(got, want);
		free(got);
		st_config_destroy(cfg);
	}
	free(want);
	st_config_destroy(plain);
}
END_TEST

START_TEST(schema_and_help_hold_every_key)
{
	struct st_pool pool = { 0 };
	struct st_json *root = NULL;
	size_t n, len;
	const struct st_key *k = st_config_keys(&n);
	char *text = NULL, key[80];
	FILE *f = open_memstream(&text, &len);

	st_config_schema(f);
	fclose(f);
	ck_assert_int_eq(st_json_parse(&pool, text, len, "schema", &root), 0);
	ck_assert_ptr_nonnull(st_json_get(root, "properties"));
	for (size_t i = 0; i < n; i++) {
		snprintf(key, sizeof(key), "\"%s\": {", st_key_leaf(k[i].path));
		ck_assert_msg(strstr(text, key) != NULL, "%s", k[i].path);
	}
	free(text);
	st_pool_free(&pool);
	f = open_memstream(&text, &len);
	ck_assert_int_eq(st_config_help(f, NULL), 0);
	fclose(f);
	for (size_t i = 0; i < n; i++)
		ck_assert_msg(strstr(text, k[i].path) != NULL, "%s", k[i].path);
	for (const char *line = text; *line; line = strchr(line, '\n') + 1) /* a key, or indented */
		ck_assert_msg(*line == ' ' || st_key_find(line, strcspn(line, ":\n")), "%.60s",
			      line);
	free(text);
	ck_assert_int_eq(st_config_help(stdout, "aio.queue_dept"), STRATA_E_CONFIG);
	ck_assert_str_eq(st_last_error(),
			 "unknown key \"aio.queue_dept\"; the nearest known key is "
			 "\"aio.queue_depth\"");
}
END_TEST

/* ---- values ------------------------------------------------------------------------------- */

START_TEST(defaults_are_deepspeeds)
{
	struct st_config *c = load(MIN, NULL);

	ck_assert_uint_eq(c->train_batch, 8);
	ck_assert_uint_eq(c->micro_batch, 8);
	ck_assert_uint_eq(c->accum_steps, 1);
	ck_assert_uint_eq(c->zero_stage, 0);
	ck_assert_int_eq(c->offload_param, ST_OFFLOAD_NONE);
	ck_assert_int_eq(c->offload_optimizer, ST_OFFLOAD_NONE);
	ck_assert_str_eq(c->optimizer.type, "AdamW");
	ck_assert_int_eq(c->optimizer.kind, STRATA_OPTIM_ADAMW);
	ck_assert(c->optimizer.lr == 1e-3 && c->optimizer.eps == 1e-8);
	ck_assert(c->optimizer.betas[0] == 0.9 && c->optimizer.betas[1] == 0.999);
	ck_assert(c->optimizer.weight_decay == 0 && c->optimizer.bias_correction);
	ck_assert_int_eq(c->schedule.type, ST_SCHEDULE_NONE);
	ck_assert(c->gradient_clipping == 1.0);
	ck_assert_int_eq(c->dtype, ST_F32);
	ck_assert_int_eq(c->grad_dtype, ST_F32);
	ck_assert_uint_eq(c->aio.block_bytes, 1 << 20);
	ck_assert_uint_eq(c->aio.queue_depth, 8);
	ck_assert_uint_eq(c->device_bytes, 0);
	ck_assert_ptr_null(c->model.name);
	ck_assert_str_eq(c->data.format, "auto");
	ck_assert(c->recompute && c->nvme.checksum);
	ck_assert(has_note(c, "gradient clipping: global norm 1 (the default;"));
	ck_assert(has_note(c, "training in fp32"));
	ck_assert_int_eq(st_config_require_training(c, true), STRATA_E_CONFIG);
	ck_assert_str_eq(st_last_error(),
			 "c.json: no model; add \"strata\": {\"model\": \"gpt2\"}, or "
			 "its dimensions");
	st_config_destroy(c);
}
END_TEST

START_TEST(values_are_taken)
{
	struct st_config *c = load(
		"{\"train_batch_size\": 24, \"gradient_accumulation_steps\": 3, \"bf16\": "
		"{\"enabled\": true},\n"
		"\"gradient_clipping\": 0, \"optimizer\": {\"type\": \"adam\", \"params\":\n"
		" {\"lr\": 2e-4, \"betas\": [0.8, 0.95], \"adam_w_mode\": false, \"weight_decay\": "
		"1e-2}},\n"
		"\"zero_optimization\": {\"stage\": 3.0, \"offload_param\": {\"device\": "
		"\"nvme\"},\n"
		"\"offload_optimizer\": {\"device\": \"nvme\", \"nvme_path\": [\"/a\", \"/b\"]}},\n"
		"\"aio\": {\"thread_count\": 4, \"block_size\": \"512KiB\"},\n"
		"\"strata\": {\"model\": \"gpt2-xl\", \"data\": {\"train\": \"t.bin\"}, \"seed\": "
		"18446744073709551615,\n\"device\": {\"memory\": \"1.5GiB\"}, \"host\": "
		"{\"memory\": "
		"\"2 GB\"}, \"nvme\": {\"weights\": [2, 1]}}}",
		NULL);

	ck_assert_uint_eq(c->micro_batch, 8);
	ck_assert_int_eq(c->optimizer.kind, STRATA_OPTIM_ADAM);
	ck_assert_str_eq(c->optimizer.type, "Adam");
	ck_assert(c->optimizer.lr == 2e-4 && c->optimizer.betas[1] == 0.95);
	ck_assert_int_eq(c->dtype, ST_BF16);
	ck_assert_int_eq(c->grad_dtype, ST_BF16);
	ck_assert(c->gradient_clipping == 0);
	ck_assert_uint_eq(c->nvme_paths.n, 2);
	ck_assert_str_eq(c->nvme_paths.v[1], "/b");
	ck_assert_uint_eq(c->param_nvme_paths.n, 2);
	ck_assert_uint_eq(c->nvme.weights.v[0], 2);
	ck_assert_uint_eq(c->aio.threads, 4);
	ck_assert_uint_eq(c->aio.block_bytes, 512 << 10);
	ck_assert_uint_eq(c->device_bytes, (size_t)3 << 29);
	ck_assert_uint_eq(c->host_bytes, 2000000000u);
	ck_assert(c->seed == UINT64_MAX);
	ck_assert_str_eq(c->model.name, "gpt2-xl");
	ck_assert_str_eq(c->data.format, "bin");
	ck_assert_int_eq(st_config_require_training(c, true), 0);
	ck_assert(has_note(c, "aio.thread_count is the old name of aio.intra_op_parallelism"));
	ck_assert(has_note(c, "weight decay 0.01 on matrices only"));
	ck_assert(has_note(c, "gradient clipping: off"));
	fuzz_round_trip(c);
	st_config_destroy(c);
}
END_TEST

START_TEST(batch_triple_is_derived_as_deepspeed_does)
{
	static const struct {
		const char *text;
		uint64_t t, m, g;
	} cases[] = {
		{ "{\"train_batch_size\":12,\"train_micro_batch_size_per_gpu\":3,"
		  "\"gradient_accumulation_steps\":4}",
		  12, 3, 4 },
		{ "{\"train_batch_size\":12,\"train_micro_batch_size_per_gpu\":3}", 12, 3, 4 },
		{ "{\"train_batch_size\":12,\"gradient_accumulation_steps\":6}", 12, 2, 6 },
		{ "{\"train_micro_batch_size_per_gpu\":3,\"gradient_accumulation_steps\":4}", 12, 3,
		  4 },
		{ "{\"train_batch_size\":12}", 12, 12, 1 },
		{ "{\"train_micro_batch_size_per_gpu\":3}", 3, 3, 1 },
		{ "{\"train_batch_size\":1e1}", 10, 10, 1 },
		{ "{\"train_batch_size\":\"auto\",\"train_micro_batch_size_per_gpu\":\"auto\","
		  "\"gradient_accumulation_steps\":\"auto\"}",
		  8, 8, 1 },
		{ "{\"train_batch_size\":\"auto\",\"train_micro_batch_size_per_gpu\":5,"
		  "\"gradient_accumulation_steps\":2}",
		  10, 5, 2 },
	};

	for (size_t i = 0; i < ST_ARRAY_LEN(cases); i++) {
		struct st_config *c = load(cases[i].text, NULL);

		ck_assert_uint_eq(c->train_batch, cases[i].t);
		ck_assert_uint_eq(c->micro_batch, cases[i].m);
		ck_assert_uint_eq(c->accum_steps, cases[i].g);
		fuzz_round_trip(c);
		st_config_destroy(c);
	}
}
END_TEST

START_TEST(schedules_are_filled)
{
	struct st_config *c =
		load("{\"train_batch_size\": 8, \"optimizer\": {\"params\": {\"lr\": 0.5}},"
		     "\"scheduler\": {\"type\": \"WarmupLR\"}}",
		     NULL);

	ck_assert(c->schedule.warmup_max_lr == 0.5);
	ck_assert(!has_note(c, "optimizer.params.lr"));
	ck_assert_uint_eq(c->schedule.warmup_num_steps, 1000);
	st_config_destroy(c);
	c = load("{\"train_batch_size\": 8, \"scheduler\": {\"type\": \"WarmupDecayLR\", "
		 "\"params\": "
		 "{\"total_num_steps\": \"auto\", \"warmup_num_steps\": 7}}, \"strata\": "
		 "{\"steps\": 77}}",
		 NULL);
	ck_assert(c->schedule.warmup_max_lr == 0.001);
	ck_assert_uint_eq(c->schedule.total_num_steps, 77);
	ck_assert(has_note(c, "\"auto\": scheduler.params.total_num_steps = 77"));
	ck_assert(!has_note(c, "optimizer.params.lr"));
	st_config_destroy(c);
	c = load("{\"train_batch_size\": 8, \"optimizer\": {\"params\": {\"lr\": 0.5}},"
		 "\"scheduler\": {\"type\": \"WarmupDecayLR\", \"params\": "
		 "{\"total_num_steps\": 2000}}}",
		 NULL);
	ck_assert(has_note(c, "optimizer.params.lr 0.5: no effect, WarmupDecayLR goes to "
			      "warmup_max_lr, which is 0.001 unless given"));
	st_config_destroy(c);
	c = load("{\"train_batch_size\": 8, \"scheduler\": {\"type\": \"OneCycle\", \"params\": "
		 "{\"cycle_min_lr\": 1e-4, \"cycle_max_lr\": 1e-3, \"cycle_first_step_size\": 9}}}",
		 NULL);
	ck_assert_uint_eq(c->schedule.cycle_second_step_size, 9);
	ck_assert(has_note(c, "sets beta2 to 0.99"));
	fuzz_round_trip(c);
	st_config_destroy(c);
}
END_TEST

START_TEST(set_overrides)
{
	static const char *const sets[] = {
		"strata.model=gpt2",         "strata.model.init_from=dir",
		"strata.output=2024",        "gradient_clipping=0.5",
		"strata.data.train=a=b.txt", "zero_optimization={\"stage\": 1}"
	};
	static const char text[] = "{\"train_batch_size\": 8, \"gradient_clipping\": 2,"
				   " \"zero_optimization\": {\"stage\": 3}}";
	struct st_config *c = NULL;
	char *out = NULL;
	size_t len;
	FILE *f;

	ck_assert_int_eq(
		st_config_parse(&c, text, strlen(text), "c.json", sets, ST_ARRAY_LEN(sets)), 0);
	ck_assert_str_eq(c->model.name, "gpt2");
	ck_assert_str_eq(c->model.init_from, "dir");
	ck_assert_str_eq(c->output, "2024");
	ck_assert(c->gradient_clipping == 0.5);
	ck_assert_str_eq(c->data.train, "a=b.txt");
	ck_assert_str_eq(c->data.format, "bytes");
	ck_assert_uint_eq(c->zero_stage, 1);
	f = open_memstream(&out, &len);
	st_config_explain(c, f, false);
	fclose(f);
	ck_assert_ptr_nonnull(strstr(out, "--set      gradient_clipping"));
	ck_assert_ptr_nonnull(strstr(out, "file:1     train_batch_size"));
	ck_assert_ptr_nonnull(strstr(out, "default    strata.seed"));
	ck_assert_ptr_nonnull(strstr(out, "derived    strata.data.format"));
	free(out);
	st_config_destroy(c);
}
END_TEST

/* A program that set a locale with a decimal comma reads and writes the same numbers. */
START_TEST(locale_does_not_matter)
{
	static const char *const names[] = { "de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "de_DE" };
	struct st_config *c;
	bool have = false;

	for (size_t i = 0; i < ST_ARRAY_LEN(names) && !have; i++)
		have = setlocale(LC_ALL, names[i]) != NULL;
	c = load("{\"train_batch_size\": 8, \"gradient_clipping\": 0.25}", NULL);
	ck_assert(c->gradient_clipping == 0.25);
	fuzz_round_trip(c);
	st_config_destroy(c);
	setlocale(LC_ALL, "C");
}
END_TEST

/* ---- errors ------------------------------------------------------------------------------- */

static const struct {
	const char *text, *set, *error;
} wrong[] = {
	{ "{\n  \"train_batch_size\": 8,\n  \"zero_optimisation\": {}\n}", NULL,
	  "c.json:3:3: unknown key \"zero_optimisation\"; the nearest known key is "
	  "\"zero_optimization\"" },
	{ "{\"train_batch_size\": 8, \"offload_optimizer\": {}}", NULL,
	  "c.json:1:25: unknown key \"offload_optimizer\"; the nearest known key is "
	  "\"zero_optimization.offload_optimizer\"" },
	{ "{\"train_batch_size\": 8,\n\t\"aio\": {\"qeue_depth\": 4}}", NULL,
	  "c.json:2:10: unknown key \"qeue_depth\" in aio; the nearest known key is "
	  "\"queue_depth\"" },
	{ "{\"train_batch_size\": \"8\"}", NULL,
	  "c.json:1:22: train_batch_size: a whole number is wanted, not the string \"8\"; "
	  "write "
	  "it without quotes" },
	{ "{\"train_batch_size\": 8, \"strata\": {\"output\": 3}}", NULL,
	  "c.json:1:46: strata.output: a string is wanted, not the number 3; put it in "
	  "double "
	  "quotes" },
	{ "{\"train_batch_size\": 8.5}", NULL,
	  "c.json:1:22: train_batch_size: a whole number is wanted, not the number 8.5" },
	{ "{\"train_batch_size\": 8, \"bf16\": true}", NULL,
	  "c.json:1:33: bf16: an object in braces is wanted, not true" },
	{ "{\"train_batch_size\": 8,\n \"train_batch_size\": 8}", NULL,
	  "c.json:2:2: duplicate key \"train_batch_size\", first given at line 1, column "
	  "2; "
	  "keep one" },
	{ "{\"train_batch_size\": 33, \"train_micro_batch_size_per_gpu\": 8,"
	  "\"gradient_accumulation_steps\": 4}",
	  NULL,
	  "c.json:1:22: train_batch_size: 33 is not train_micro_batch_size_per_gpu 8 x "
	  "gradient_accumulation_steps 4 x 1 rank; set train_batch_size to 32" },
	{ "{\"train_batch_size\": 33, \"train_micro_batch_size_per_gpu\": 8}", NULL,
	  "c.json:1:22: train_batch_size: 33 is no multiple of "
	  "train_micro_batch_size_per_gpu 8; "
	  "set train_batch_size to 32" },
	{ "{\"train_batch_size\": 3, \"gradient_accumulation_steps\": 4}", NULL,
	  "c.json:1:22: train_batch_size: 3 is no multiple of gradient_accumulation_steps "
	  "4; set "
	  "train_batch_size to 4" },
	{ "{\"gradient_accumulation_steps\": 4}", NULL,
	  "c.json: neither train_batch_size nor train_micro_batch_size_per_gpu is given; "
	  "give at "
	  "least one, for example \"train_micro_batch_size_per_gpu\": 4" },
	{ MIN, "train_batch_size=0",
	  "--set train_batch_size=0: must be at least 1, not the number 0" },
	{ MIN, "strata.sed=1",
	  "--set strata.sed=1: unknown key \"sed\" in strata; the nearest known key is "
	  "\"strata.seed\"" },
	{ MIN, "strata.steps=many",
	  "--set strata.steps=many: a whole number is wanted, not the string \"many\"; "
	  "write it "
	  "without quotes" },
	{ MIN, "strata",
	  "--set strata: write it as --set key=value, with dots between the "
	  "key's parts" },
	{ MIN, "a..b=1", "--set a..b=1: an empty part in the key; write --set a.b=value" },
	{ MIN, "train_batch_size.x=1",
	  "--set train_batch_size.x=1: \"train_batch_size\" is not an object" },
	{ MIN, "optimizer.type=Lamb",
	  "--set optimizer.type=Lamb: \"Lamb\" is not supported: AdamW, Adam, Adagrad, "
	  "Lion and SGD are built in; choose from \"AdamW\", \"Adam\", \"Adagrad\", \"Lion\", "
	  "\"SGD\"" },
	{ MIN, "optimizer.params.momentum=0.9",
	  "--set optimizer.params.momentum=0.9: is no parameter of AdamW, which is "
	  "optimizer.type; leave it out" },
	{ MIN, "optimizer.params.betas=[0.9, 1]",
	  "--set optimizer.params.betas=[0.9, 1]: must be below 1, not the number 1" },
	{ MIN, "optimizer.params.eps=0",
	  "--set optimizer.params.eps=0: must be above 0, not the number 0" },
	{ MIN, "strata.device.memory=384M",
	  "--set strata.device.memory=384M: \"384M\" is no size; write it as \"384MiB\", "
	  "\"1.5GiB\" or \"2GB\", or as a number of bytes" },
	{ MIN, "aio.block_size=5000",
	  "--set aio.block_size=5000: 5000 is no multiple of 4096; direct I/O needs one: "
	  "set it "
	  "to 8192" },
	{ MIN, "zero_optimization.offload_param.device=cpu",
	  "--set zero_optimization.offload_param.device=cpu: offloading parameters needs "
	  "\"stage\": 3, not 0" },
	{ MIN, "zero_optimization={\"stage\": 3, \"offload_param\": {\"device\": \"nvme\"}}",
	  "--set zero_optimization={\"stage\": 3, \"offload_param\": {\"devi...: "
	  "zero_optimization.offload_param.device: nvme needs a directory; add "
	  "\"nvme_path\": \"DIR\" beside it" },
	{ MIN, "data_types.grad_accum_dtype=fp16",
	  "--set data_types.grad_accum_dtype=fp16: fp16 does not go with training in fp32; "
	  "choose fp32 or leave it out" },
	{ MIN, "strata.optimizer.update=immediate",
	  "--set strata.optimizer.update=immediate: immediate needs gradient_clipping 0: "
	  "the norm "
	  "is known only after the whole backward; set gradient_clipping to 0 or use "
	  "\"auto\"" },
	{ MIN, "strata.seed=auto",
	  "--set strata.seed=auto: \"auto\" is not possible here; give a whole number" },
	{ MIN, "strata.model={\"name\": \"gpt2\", \"n_layer\": 3}",
	  "--set strata.model={\"name\": \"gpt2\", \"n_layer\": 3}: strata.model.n_layer: "
	  "given beside the "
	  "model's name "
	  "\"gpt2\", which says it already; remove one" },
	{ MIN, "strata.model.n_layer=3",
	  "c.json: strata.model.n_embd: missing; a model given by its dimensions needs "
	  "n_layer, "
	  "n_embd, n_head, n_positions and vocab_size" },
	{ MIN, "scheduler.type=StepLR",
	  "--set scheduler.type=StepLR: \"StepLR\" is not supported: PyTorch's own "
	  "schedulers are "
	  "not there; choose from \"none\", \"LRRangeTest\", \"OneCycle\", \"WarmupLR\", "
	  "\"WarmupDecayLR\", \"WarmupCosineLR\"" },
	{ MIN, "scheduler={\"type\": \"WarmupLR\", \"params\": {\"total_num_steps\": 5}}",
	  "--set scheduler={\"type\": \"WarmupLR\", \"params\": {\"total_num_s...: "
	  "scheduler.params.total_num_steps: the schedule WarmupLR has no such parameter" },
	{ MIN, "scheduler.type=WarmupCosineLR",
	  "--set scheduler.type=WarmupCosineLR: WarmupCosineLR needs "
	  "params.total_num_steps; give "
	  "it, or \"auto\" for strata.steps" },
	{ MIN,
	  "scheduler={\"type\":\"OneCycle\",\"params\":{\"cycle_min_lr\":0,\"cycle_max_"
	  "lr\":1,"
	  "\"decay_step_size\":1,\"decay_mom_rate\":1,\"cycle_first_step_size\":9}}",
	  "--set scheduler={\"type\":\"OneCycle\",\"params\":{\"cycle_min_lr\":...: "
	  "scheduler.params.decay_mom_rate: beta1 reaches 884 within 1000 steps; "
	  "lower it, or set cycle_momentum to false" },
	{ "{\"train_batch_size\": 8, \"aio\": {\"thread_count\": 1, "
	  "\"intra_op_parallelism\": 2}}",
	  NULL,
	  "c.json:1:76: aio.intra_op_parallelism: given under its old and its present "
	  "name; keep "
	  "\"aio.intra_op_parallelism\"" },
	{ MIN, "strata.model=gpt3",
	  "--set strata.model=gpt3: strata.model.name: \"gpt3\" is not known; choose from "
	  "\"gpt2\", \"gpt2-medium\", \"gpt2-large\", \"gpt2-xl\"" },
	{ MIN, "wandb={\"enable\": false}",
	  "--set wandb={\"enable\": false}: unknown key \"enable\" in wandb; the nearest "
	  "known "
	  "key is \"wandb.enabled\"" },
	{ "{\"a.b\": 1}", NULL,
	  "c.json:1:2: unknown key \"a.b\"; the nearest known key is \"amp\"" },
	{ "[8]", NULL, "c.json:1:1: the configuration must be one object in braces" },
};

START_TEST(errors_say_what_where_and_what_to_do)
{
	for (size_t i = 0; i < ST_ARRAY_LEN(wrong); i++)
		refuse(wrong[i].text, wrong[i].set, wrong[i].error);
}
END_TEST

START_TEST(syntax_errors_have_a_place)
{
	static const struct {
		const char *text, *error;
	} cases[] = {
		{ "", "c.json:1:1: a value is wanted, not the end of the text" },
		{ "{\"a\" 1}", "c.json:1:6: a colon is wanted after the key \"a\", not '1'" },
		{ "{a: 1}", "c.json:1:2: a key in double quotes is wanted, not 'a'" },
		{ "{\"a\": 1 \"b\": 2}", "c.json:1:9: a comma or '}' is wanted, not '\"'" },
		{ "{\"a\": nvme}", "c.json:1:7: nvme is no JSON value; put text in double quotes" },
		{ "{\"a\": 01}", "c.json:1:7: 01 is no JSON value; put text in double quotes" },
		{ "{\"a\": 1e999}", "c.json:1:7: the number 1e999 is too large" },
		{ "{\"a\": NaN}", "c.json:1:7: NaN is no JSON value; put text in double quotes" },
		{ "{\"a\": \"b\n\"}", "c.json:1:7: this string has no closing quote" },
		{ "{\"a\": \"\\q\"}",
		  "c.json:1:9: unknown escape in a string; write \\\\ for a backslash" },
		{ "{\"a\": \"\\ud800\"}", "c.json:1:10: half of a surrogate pair in a string" },
		{ "{\"a\": \"\\u0000\"}", "c.json:1:10: a string may not contain \\u0000" },
		{ "{\"\xc3\xa9\": \"\xff\"}",
		  "c.json:1:8: byte 0xff is not UTF-8; save the file as UTF-8" },
		{ "{\"a\": \"\xed\xa0\x80\"}",
		  "c.json:1:8: byte 0xed is not UTF-8; save the file as UTF-8" },
		{ "{\n/* {", "c.json:2:1: this comment has no end; close it with */" },
		{ "{\"a\": [1,\n",
		  "c.json:2:1: the list opened at line 1, column 7 is not closed" },
		{ "{} x", "c.json:1:4: 'x' follows the end of the object; remove it" },
		{ "{,}", "c.json:1:2: a key in double quotes is wanted, not ','" },
	};
	char deep[64];

	for (size_t i = 0; i < ST_ARRAY_LEN(cases); i++)
		refuse(cases[i].text, NULL, cases[i].error);
	memset(deep, '[', sizeof(deep) - 1);
	deep[sizeof(deep) - 1] = '\0';
	refuse(deep, NULL, "c.json:1:33: nested deeper than 32 levels");
}
END_TEST

/* ---- what a state is tied to --------------------------------------------------------------- */

START_TEST(differences_are_named)
{
	static const struct {
		const char *set, *text; /* "": a value that may change */
	} cases[] = {
		{ "strata.seed=7", "strata.seed: 42 -> 7" },
		{ "strata.threads=3", "strata.threads: 0 -> 3" },
		{ "strata.model.n_layer=5", "strata.model.n_layer: 4 -> 5" },
		{ "strata.model.init_from=dir", "strata.model.init_from: (not given) -> \"dir\"" },
		{ "strata.data.seq_len=16", "strata.data.seq_len: (not given) -> 16" },
		{ "strata.data.train=b.txt", "strata.data.train: \"a.txt\" -> \"b.txt\"" },
		{ "strata.data.val=b.txt", "strata.data.val: (not given) -> \"b.txt\"" },
		{ "strata.optimizer.decay=all", "strata.optimizer.decay: \"matrices\" -> \"all\"" },
		{ "strata.optimizer.moments=int8",
		  "strata.optimizer.moments: \"fp32\" -> \"int8\"" },
		{ "strata.device.type=host", "strata.device.type: \"auto\" -> \"host\"" },
		{ "optimizer.type=Lion", "optimizer.type: \"AdamW\" -> \"Lion\"" },
		{ "bf16.enabled=true", "bf16.enabled: false -> true; data_types.grad_accum_dtype: "
				       "\"fp32\" -> \"bf16\"" },
		{ "train_micro_batch_size_per_gpu=4",
		  "train_micro_batch_size_per_gpu: 8 -> 4; gradient_accumulation_steps: 1 -> 2" },
		{ "optimizer.params.lr=1", "" },
		{ "optimizer.params.betas=[0.5,0.5]", "" },
		{ "gradient_clipping=0", "" },
		{ "strata.steps=3", "" },
		{ "strata.host.memory=1GiB", "" },
		{ "strata.recompute=false", "" },
		{ "strata.nvme.backend=threads", "" },
		{ "strata.output=elsewhere", "" },
	};
	static const char plain[] =
		"{\"train_batch_size\": 8, \"optimizer\": {\"type\": \"AdamW\"}, \"strata\": "
		"{\"model\": {\"n_layer\": 4, \"n_embd\": 64, \"n_head\": 4, \"n_positions\": 64, "
		"\"vocab_size\": 256}, \"data\": {\"train\": \"a.txt\"}}}";
	struct st_config *was = load(plain, NULL), *now;
	char text[400], tight[20];

	for (size_t i = 0; i < ST_ARRAY_LEN(cases); i++) {
		size_t n;

		now = load(plain, cases[i].set);
		n = st_config_differences(was, now, text, sizeof(text));
		ck_assert_msg(!strcmp(text, cases[i].text), "%s: %s", cases[i].set, text);
		ck_assert_msg(!n == !*cases[i].text, "%s: %zu", cases[i].set, n);
		st_config_destroy(now);
	}
	now = load(plain, "strata.seed=7");
	ck_assert_uint_eq(st_config_differences(was, now, tight, sizeof(tight)), 1);
	ck_assert_str_eq(tight, "strata.seed: 42 -> ");
	st_config_destroy(now);
	st_config_destroy(was);

	/* SGD keeps a moment or none; how much of it counts may change. */
	was = load("{\"train_batch_size\": 8, \"optimizer\": {\"type\": \"SGD\", \"params\": "
		   "{\"momentum\": 0.9}}}",
		   NULL);
	now = load("{\"train_batch_size\": 8, \"optimizer\": {\"type\": \"SGD\"}}",
		   "optimizer.params.momentum=0.5");
	ck_assert_uint_eq(st_config_differences(was, now, text, sizeof(text)), 0);
	st_config_destroy(now);
	now = load("{\"train_batch_size\": 8, \"optimizer\": {\"type\": \"SGD\"}}", NULL);
	ck_assert_uint_eq(st_config_differences(was, now, text, sizeof(text)), 1);
	ck_assert_str_eq(text, "optimizer.params.momentum: 0.9 -> 0");
	st_config_destroy(now);
	st_config_destroy(was);
}
END_TEST

START_TEST(a_failure_elsewhere_names_the_key)
{
	static const char text[] = "{\"train_batch_size\": 8,\n \"strata\": {\"seed\": 3}}";
	struct st_config *c = load(text, NULL);

	ck_assert_int_eq(st_config_fail(c, STRATA_E_INPUT, "strata.seed", "bad %d.", 1),
			 STRATA_E_INPUT);
	ck_assert_str_eq(st_last_error(), "c.json:2:21: strata.seed: bad 1.");
	ck_assert_int_eq(st_config_fail(c, -ENOENT, "strata.output", "x"), -ENOENT);
	ck_assert_str_eq(st_last_error(), "c.json: strata.output: x: No such file or directory");
	st_config_destroy(c);
	c = load(text, "strata.seed=4");
	(void)st_config_fail(c, STRATA_E_INPUT, "strata.seed", "bad.");
	ck_assert_str_eq(st_last_error(), "--set strata.seed=4: bad.");
	st_config_destroy(c);
}
END_TEST

START_TEST(files_that_cannot_be_read)
{
	char dir[] = "/tmp/strata-config-XXXXXX", path[64], want[160];
	struct st_config *c = NULL;
	int fd;

	ck_assert_ptr_nonnull(mkdtemp(dir));
	ck_assert_int_eq(st_config_load(&c, dir, NULL, 0), STRATA_E_CONFIG);
	snprintf(want, sizeof(want), "%s: is a directory; name the configuration file", dir);
	ck_assert_str_eq(st_last_error(), want);
	snprintf(path, sizeof(path), "%s/c.json", dir);
	ck_assert_int_eq(st_config_load(&c, path, NULL, 0), STRATA_E_CONFIG);
	snprintf(want, sizeof(want), "%s: cannot be opened: No such file or directory", path);
	ck_assert_str_eq(st_last_error(), want);
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ftruncate(fd, (1 << 20) + 1), 0);
	ck_assert_int_eq(st_config_load(&c, path, NULL, 0), STRATA_E_CONFIG);
	snprintf(want, sizeof(want), "%s: larger than 1 MiB; is it a configuration?", path);
	ck_assert_str_eq(st_last_error(), want);
	ck_assert_int_eq(ftruncate(fd, 0), 0);
	ck_assert_int_eq(pwrite(fd, MIN, strlen(MIN), 0), (int)strlen(MIN));
	ck_assert_int_eq(st_config_load(&c, path, NULL, 0), 0);
	st_config_destroy(c);
	close(fd);
	unlink(path);
	rmdir(dir);
	ck_assert_int_eq(strata_exit_code(STRATA_E_CONFIG), 2);
}
END_TEST

/* ---- hostile and real input --------------------------------------------------------------- */

/* Runs each file of a directory; returns how many there were. */
static size_t each_file(const char *dir, void (*fn)(const char *text, size_t len))
{
	DIR *d = opendir(dir);
	struct dirent *e;
	size_t seen = 0;

	ck_assert_msg(d != NULL, "%s", dir);
	while ((e = readdir(d))) {
		char path[1024], *text;
		struct stat st;
		size_t len;

		snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		if (stat(path, &st) || !S_ISREG(st.st_mode))
			continue;
		text = slurp(path, &len);
		fn(text, len);
		free(text);
		seen++;
	}
	closedir(d);
	return seen;
}

static void one_seed(const char *text, size_t len)
{
	LLVMFuzzerTestOneInput((const uint8_t *)text, len);
	for (size_t cut = 0; cut < len; cut++) { /* exact-size copy: a read beyond it is caught */
		uint8_t *part = malloc(cut ? cut : 1);

		ck_assert_ptr_nonnull(part);
		memcpy(part, text, cut);
		LLVMFuzzerTestOneInput(part, cut);
		free(part);
	}
}

START_TEST(corpus)
{
	ck_assert_uint_ge(each_file(STRATA_SOURCE_DIR "/tests/corpus/config", one_seed), 20);
}
END_TEST

START_TEST(examples_load)
{
	DIR *d = opendir(STRATA_SOURCE_DIR "/examples");
	struct dirent *e;
	size_t seen = 0;

	ck_assert_ptr_nonnull(d);
	while ((e = readdir(d))) {
		const char *dot = strrchr(e->d_name, '.');
		struct st_config *c = NULL;
		char path[1024];

		if (!dot || strcmp(dot, ".json"))
			continue;
		snprintf(path, sizeof(path), STRATA_SOURCE_DIR "/examples/%s", e->d_name);
		ck_assert_msg(!st_config_load(&c, path, NULL, 0), "%s", st_last_error());
		fuzz_round_trip(c);
		st_config_destroy(c);
		seen++;
	}
	closedir(d);
	ck_assert_uint_ge(seen, 3);
}
END_TEST

/* ---- failing allocations ------------------------------------------------------------------ */

#if !SANITIZER_HAS_MALLOC
#define SEEN_BY_LIBRARIES __attribute__((visibility("default")))

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t n, size_t bytes);
void *__libc_realloc(void *p, size_t bytes);

static long allocs_left = -1; /* < 0: none fails; 0: the next one does */
static bool fails_for_ever;
static unsigned long allocs_failed;

static bool alloc_fails(void)
{
	if (allocs_left < 0)
		return false;
	if (allocs_left > 0) {
		allocs_left--;
		return false;
	}
	if (!fails_for_ever)
		allocs_left = -1;
	allocs_failed++;
	errno = ENOMEM;
	return true;
}

SEEN_BY_LIBRARIES void *malloc(size_t bytes)
{
	return alloc_fails() ? NULL : __libc_malloc(bytes);
}

SEEN_BY_LIBRARIES void *calloc(size_t n, size_t bytes)
{
	return alloc_fails() ? NULL : __libc_calloc(n, bytes);
}

SEEN_BY_LIBRARIES void *realloc(void *p, size_t bytes)
{
	return alloc_fails() ? NULL : __libc_realloc(p, bytes);
}

/* The Nth allocation fails, once or from there on: -ENOMEM, or a whole configuration where it was
 * not needed after all (the C locale). */
START_TEST(failed_allocations_are_reported)
{
	static const char path[] = STRATA_SOURCE_DIR "/examples/huggingface-zero3.json";
	static const char *const sets[] = { "strata.model=gpt2", "strata.nvme={\"weights\": [1]}" };

	for (int mode = 0; mode < 2; mode++) {
		unsigned long before;
		long n = 0;

		fails_for_ever = mode;
		do {
			struct st_config *c = NULL;
			int rc;

			before = allocs_failed;
			allocs_left = n;
			rc = st_config_load(&c, path, sets, 2);
			allocs_left = -1;
			ck_assert_msg(rc == -ENOMEM || !rc, "allocation %ld: %d %s", n, rc,
				      st_last_error());
			ck_assert((c != NULL) == !rc);
			if (c)
				fuzz_round_trip(c);
			st_config_destroy(c);
			n++;
		} while (allocs_failed != before && n < 10000);
		ck_assert_int_gt(n, 10);
		ck_assert_int_lt(n, 10000);
	}
}
END_TEST
#endif

int main(void)
{
	Suite *s = suite_create("config");
	TCase *t = tcase_create("config");
	SRunner *r;
	int failed;

	tcase_add_test(t, table_is_a_tree_in_order);
	tcase_add_test(t, every_key_without_effect_is_reported);
	tcase_add_test(t, every_refused_key_says_why);
	tcase_add_test(t, every_default_is_its_own_value);
	tcase_add_test(t, schema_and_help_hold_every_key);
	tcase_add_test(t, defaults_are_deepspeeds);
	tcase_add_test(t, values_are_taken);
	tcase_add_test(t, batch_triple_is_derived_as_deepspeed_does);
	tcase_add_test(t, schedules_are_filled);
	tcase_add_test(t, set_overrides);
	tcase_add_test(t, locale_does_not_matter);
	tcase_add_test(t, errors_say_what_where_and_what_to_do);
	tcase_add_test(t, syntax_errors_have_a_place);
	tcase_add_test(t, differences_are_named);
	tcase_add_test(t, a_failure_elsewhere_names_the_key);
	tcase_add_test(t, files_that_cannot_be_read);
	tcase_add_test(t, corpus);
	tcase_add_test(t, examples_load);
#if !SANITIZER_HAS_MALLOC
	tcase_add_test(t, failed_allocations_are_reported);
#endif
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
