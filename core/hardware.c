/* SPDX-License-Identifier: Apache-2.0 */
/* core/hardware.c - the table of a description's keys, and what reads and writes it. */
#include "core/hardware.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/config.h"
#include "core/config_json.h"
#include "core/text.h"

#define KEPT_MAX  32u /* descriptions in one file */
#define KEPT_DAYS 30
#define BUSY_MAX  1.5 /* tasks a processor; with more, rates are of a part of the machine */

enum kind { TEXT, TEXTS, WORD, BOOL, COUNT, NUMBER, SIZE, DATE };
enum need { OPTIONAL, REQUIRED, GPU_NEEDS, RANKS_NEED };

static const char *const device_words[] = { [ST_HW_HOST] = "host", [ST_HW_GPU] = "gpu" };

static const struct key {
	const char *section, *name; /* section NULL: at the root */
	enum kind kind;
	enum need need;
	size_t offset, room; /* room: of a text */
	double scale;        /* to the field's unit */
	double min, max; /* as written, before scaling; min 0 of a rate that is given: above 0 */
} keys[] = {
#define AT(field)   offsetof(struct st_hardware, field)
#define ROOM(field) sizeof(((struct st_hardware *)0)->field)
#define NUM(s, n, need, field, by, lo, hi)                                                         \
	{                                                                                          \
		s, n, NUMBER, need, AT(field), 0, by, lo, hi                                       \
	}
#define RATE(s, n, need, field, by) NUM(s, n, need, field, by, 1e-9, 1e9)
#define BYTES(s, n, field)                                                                         \
	{                                                                                          \
		s, n, SIZE, OPTIONAL, AT(field), 0, 1, 0, 1e21                                     \
	}
	{ NULL, "name", TEXT, REQUIRED, AT(name), ROOM(name), 0, 0, 0 },
	{ NULL, "source", TEXTS, OPTIONAL, AT(source), ROOM(source), 0, 0, 0 },
	{ NULL, "measured", DATE, OPTIONAL, AT(measured_s), 0, 0, 0, 0 },
	NUM(NULL, "load_a_processor", OPTIONAL, busy, 1, 0, 1e6),
	{ NULL, "nodes", COUNT, OPTIONAL, AT(nodes), 0, 1, 1, 65536 },
	{ NULL, "ranks_per_node", COUNT, OPTIONAL, AT(ranks_per_node), 0, 1, 1, 1024 },
	{ "device", "type", WORD, REQUIRED, AT(device_type), 0, 0, 0, 0 },
	BYTES("device", "memory", device_memory_bytes),
	RATE("device", "fp32_tflops", OPTIONAL, product_flops[ST_F32], 1e12),
	RATE("device", "bf16_tflops", OPTIONAL, product_flops[ST_BF16], 1e12),
	RATE("device", "fp16_tflops", OPTIONAL, product_flops[ST_F16], 1e12),
	NUM("device", "backward_ratio", OPTIONAL, backward_ratio, 1, 0.01, 100),
	RATE("device", "attention_tflops", OPTIONAL, attention_flops, 1e12),
	NUM("device", "attention_backward_ratio", OPTIONAL, attention_backward_ratio, 1, 0.01, 100),
	RATE("device", "memory_gbps", REQUIRED, device_bytes_per_s, 1e9),
	NUM("device", "latency_us", OPTIONAL, device_latency_ns, 1e3, 0, 1e6),
	BYTES("host", "memory", host_memory_bytes),
	RATE("host", "memory_gbps", REQUIRED, host_bytes_per_s, 1e9),
	RATE("host", "update_gparams", OPTIONAL, updates_per_s, 1e9),
	RATE("host", "reduce_gparams", OPTIONAL, reduces_per_s, 1e9),
	RATE("links", "h2d_gbps", GPU_NEEDS, h2d_bytes_per_s, 1e9),
	RATE("links", "d2h_gbps", GPU_NEEDS, d2h_bytes_per_s, 1e9),
	RATE("links", "network_gbps", RANKS_NEED, network_bytes_per_s, 1e9),
	RATE("drives", "read_gbps", REQUIRED, read_bytes_per_s, 1e9),
	RATE("drives", "write_gbps", REQUIRED, write_bytes_per_s, 1e9),
	RATE("drives", "mixed_gbps", OPTIONAL, mixed_bytes_per_s, 1e9),
	NUM("drives", "mixed_read_share", OPTIONAL, mixed_read_share, 1, 0.01, 0.99),
	{ "drives", "shared", BOOL, OPTIONAL, AT(is_shared), 0, 0, 0, 0 },
	NUM("drives", "latency_us", OPTIONAL, drive_latency_ns, 1e3, 0, 1e7),
	NUM("drives", "read_iops", OPTIONAL, read_iops, 1, 1, 1e12),
	NUM("drives", "flush_ms", OPTIONAL, flush_ns, 1e6, 0, 1e6),
	BYTES("drives", "capacity", drive_bytes),
	BYTES("drives", "rated_writes", written_bytes_rated),
	{ "drives", "nominal", TEXT, OPTIONAL, AT(nominal), ROOM(nominal), 0, 0, 0 },
	NUM("load", "compute_beside_io", OPTIONAL, compute_beside_io, 1, 0.01, 1),
	NUM("load", "io_beside_compute", OPTIONAL, io_beside_compute, 1, 0.01, 1),
#undef AT
#undef ROOM
#undef NUM
#undef RATE
#undef BYTES
};

static const char *const sections[] = { "device", "host", "links", "drives", "load" };

/* What is left out. */
static const struct st_hardware blank = {
	.nodes = 1,
	.ranks_per_node = 1,
	.backward_ratio = 1,
	.attention_backward_ratio = 1,
	.mixed_read_share = 0.5,
	.is_shared = true,
	.drive_latency_ns = 1e5,
	.flush_ns = 1e6,
	.compute_beside_io = 1,
	.io_beside_compute = 1,
};

void st_hardware_default(struct st_hardware *out)
{
	*out = blank;
	memcpy(out->name, "nominal", sizeof("nominal"));
	out->product_flops[ST_F32] = 1e11;
	out->product_flops[ST_BF16] = 1e11;
	out->attention_flops = 5e10;
	out->device_bytes_per_s = 1e10;
	out->host_bytes_per_s = 2e10;
	out->read_bytes_per_s = 2e9;
	out->write_bytes_per_s = 1.5e9;
}

/* ---- reading ----------------------------------------------------------------------------- */

struct source {
	const char *name;
};

static int bad(const struct source *src, const struct st_json *v, const struct key *k,
	       const char *what)
{
	return st_fail(STRATA_E_CONFIG, "%.160s:%u:%u: %s%s%s: %s", src->name, v->line, v->col,
		       k->section ? k->section : "", k->section ? "." : "", k->name, what);
}

static int take_texts(const struct source *src, const struct key *k, const struct st_json *v,
		      char *out)
{
	const struct st_json *item = v->type == ST_JSON_LIST ? v->child : v;
	size_t at = 0;

	for (; item; item = v->type == ST_JSON_LIST ? item->next : NULL) {
		int n;

		if (item->type != ST_JSON_STR)
			return bad(src, item, k,
				   k->kind == TEXTS ? "must be a text or a list of texts"
						    : "must be a text");
		n = snprintf(out + at, k->room - at, "%s%s", at ? "; " : "", item->text);
		if (n < 0 || (size_t)n >= k->room - at)
			return bad(src, item, k, "is too long");
		at += (size_t)n;
	}
	return at ? 0 : bad(src, v, k, "is empty");
}

static int take_number(const struct source *src, const struct key *k, const struct st_json *v,
		       double *out)
{
	char what[160];
	double x = v->num;

	if (k->kind == SIZE && v->type == ST_JSON_STR) {
		if (!st_parse_size(v->text, &x))
			return bad(src, v, k,
				   "is no size; write it as \"32GB\" or \"1.5TiB\", or as a number "
				   "of bytes");
	} else if (v->type != ST_JSON_NUM) {
		return bad(src, v, k,
			   k->kind == SIZE ? "must be a size such as \"32GB\""
					   : "must be a number");
	}
	if (k->kind == COUNT && x != floor(x))
		return bad(src, v, k, "must be a whole number");
	if (!(x >= k->min && x <= k->max)) {
		snprintf(what, sizeof(what), "%.40s is out of range; it must lie within %g and %g",
			 v->text, k->min, k->max);
		return bad(src, v, k, what);
	}
	*out = x * (k->scale > 0 ? k->scale : 1);
	return 0;
}

/* "2026-11-22T09:05:00Z" */
static int take_date(const struct source *src, const struct key *k, const struct st_json *v,
		     double *out)
{
	struct tm tm = { 0 };
	const char *end =
		v->type == ST_JSON_STR ? strptime(v->text, "%Y-%m-%dT%H:%M:%SZ", &tm) : NULL;

	if (!end || *end)
		return bad(src, v, k, "must be a date such as \"2026-11-22T09:05:00Z\"");
	*out = (double)timegm(&tm);
	return 0;
}

static int take_word(const struct source *src, const struct key *k, const struct st_json *v,
		     int *out)
{
	for (size_t i = 0; v->type == ST_JSON_STR && i < ST_ARRAY_LEN(device_words); i++) {
		if (strcmp(v->text, device_words[i]) == 0) {
			*out = (int)i;
			return 0;
		}
	}
	return bad(src, v, k, "must be \"host\" or \"gpu\"");
}

static int take_value(const struct source *src, const struct key *k, const struct st_json *v,
		      struct st_hardware *hw)
{
	void *field = (char *)hw + k->offset;

	switch (k->kind) {
	case TEXT:
	case TEXTS:
		if (k->kind == TEXT && v->type != ST_JSON_STR)
			return bad(src, v, k, "must be a text");
		return take_texts(src, k, v, field);
	case WORD:
		return take_word(src, k, v, field);
	case DATE:
		return take_date(src, k, v, field);
	case BOOL:
		if (v->type != ST_JSON_BOOL)
			return bad(src, v, k, "must be true or false");
		*(bool *)field = v->is_true;
		return 0;
	default:
		return take_number(src, k, v, field);
	}
}

static bool is_in(const struct key *k, const char *section)
{
	return section ? k->section && strcmp(k->section, section) == 0 : !k->section;
}

static int unknown(const struct source *src, const struct st_json *v, const char *section)
{
	const char *near = NULL;
	unsigned least = UINT32_MAX;

	for (size_t i = 0; i < ST_ARRAY_LEN(keys) + ST_ARRAY_LEN(sections); i++) {
		bool is_key = i < ST_ARRAY_LEN(keys);
		const char *name = is_key ? keys[i].name : sections[i - ST_ARRAY_LEN(keys)];
		unsigned far;

		if (is_key ? !is_in(&keys[i], section) : section != NULL)
			continue;
		far = st_edit_distance(name, v->key);
		if (far < least) {
			least = far;
			near = name;
		}
	}
	return st_fail(STRATA_E_CONFIG,
		       "%.160s:%u:%u: unknown key \"%.64s\"%s%s; the nearest known key is \"%s\"",
		       src->name, v->key_line, v->key_col, v->key, section ? " in " : "",
		       section ? section : "", near ? near : "name");
}

static int take_section(const struct source *src, const struct st_json *obj, const char *section,
			struct st_hardware *hw, bool is_given[ST_ARRAY_LEN(keys)])
{
	for (const struct st_json *v = obj->child; v; v = v->next) {
		size_t i = 0;
		int rc;

		for (size_t s = 0; !section && s < ST_ARRAY_LEN(sections); s++) {
			if (strcmp(v->key, sections[s]) != 0)
				continue;
			if (v->type != ST_JSON_OBJ)
				return st_fail(STRATA_E_CONFIG,
					       "%.160s:%u:%u: %s: must be an object", src->name,
					       v->line, v->col, v->key);
			rc = take_section(src, v, sections[s], hw, is_given);
			if (rc)
				return rc;
			i = ST_ARRAY_LEN(keys) + 1;
		}
		if (i)
			continue;
		while (i < ST_ARRAY_LEN(keys) &&
		       (!is_in(&keys[i], section) || strcmp(v->key, keys[i].name) != 0))
			i++;
		if (i == ST_ARRAY_LEN(keys))
			return unknown(src, v, section);
		rc = take_value(src, &keys[i], v, hw);
		if (rc)
			return rc;
		is_given[i] = true;
	}
	return 0;
}

static int check_whole(const struct source *src, const struct st_hardware *hw,
		       const bool is_given[ST_ARRAY_LEN(keys)])
{
	for (size_t i = 0; i < ST_ARRAY_LEN(keys); i++) {
		const struct key *k = &keys[i];
		bool is_needed = k->need == REQUIRED ||
				 (k->need == GPU_NEEDS && hw->device_type == ST_HW_GPU) ||
				 (k->need == RANKS_NEED && st_hardware_ranks(hw) > 1);

		if (is_needed && !is_given[i])
			return st_fail(STRATA_E_CONFIG, "%.160s: \"%s%s%s\" is missing%s; add it",
				       src->name, k->section ? k->section : "",
				       k->section ? "." : "", k->name,
				       k->need == GPU_NEEDS    ? ", which a gpu needs"
				       : k->need == RANKS_NEED ? ", which several ranks need"
							       : "");
	}
	for (size_t t = 0; t < ST_DTYPE_COUNT; t++)
		if (hw->product_flops[t] > 0)
			return 0;
	return st_fail(STRATA_E_CONFIG,
		       "%.160s: no rate of matrix products is given; add \"device.bf16_tflops\"",
		       src->name);
}

static int from_tree(struct st_hardware *out, const struct st_json *root, const char *name)
{
	const struct source src = { name };
	struct st_hardware hw = blank;
	bool is_given[ST_ARRAY_LEN(keys)] = { false };
	int rc;

	if (root->type != ST_JSON_OBJ)
		return st_fail(STRATA_E_CONFIG, "%.160s:%u:%u: must be an object", name, root->line,
			       root->col);
	rc = take_section(&src, root, NULL, &hw, is_given);
	if (!rc)
		rc = check_whole(&src, &hw, is_given);
	if (!rc)
		*out = hw;
	return rc;
}

int st_hardware_parse(struct st_hardware *out, const char *text, size_t len_bytes, const char *name)
{
	struct st_pool pool = { 0 };
	struct st_c_locale l;
	struct st_json *root;
	int rc;

	if (len_bytes > ST_CONFIG_MAX_BYTES)
		return st_fail(STRATA_E_CONFIG, "%.160s: is longer than %zu bytes", name,
			       ST_CONFIG_MAX_BYTES);
	l = st_c_locale_enter();
	rc = st_json_parse(&pool, text, len_bytes, name, &root);
	if (!rc)
		rc = from_tree(out, root, name);
	st_c_locale_leave(&l);
	st_pool_free(&pool);
	return rc;
}

int st_hardware_load(struct st_hardware *out, const char *path)
{
	char *text = malloc(ST_CONFIG_MAX_BYTES + 1);
	size_t len_bytes;
	int rc;

	if (!text)
		return st_fail(-ENOMEM, "hardware description %s", path);
	rc = st_json_read(path, "the file that describes the machine (see examples/hardware)", text,
			  &len_bytes);
	if (!rc)
		rc = st_hardware_parse(out, text, len_bytes, path);
	free(text);
	return rc;
}

/* ---- writing ------------------------------------------------------------------------------- */

static bool is_worth_writing(const struct st_hardware *hw, const struct key *k)
{
	const void *field = (const char *)hw + k->offset;

	if (k->kind == TEXT || k->kind == TEXTS)
		return *(const char *)field != '\0';
	if (k->kind == WORD || k->kind == BOOL || k->need == REQUIRED)
		return true;
	/* 0 is what stands for "not given" wherever 0 is no value. */
	return *(const double *)field > 0 ||
	       (k->min == 0 &&
		*(const double *)field != *(const double *)((const char *)&blank + k->offset));
}

static void put_date(double s, const char *format, char *out, size_t bytes)
{
	time_t t = (time_t)s;
	struct tm tm;

	if (!gmtime_r(&t, &tm) || !strftime(out, bytes, format, &tm))
		*out = '\0';
}

static void write_value(const struct st_hardware *hw, const struct key *k, FILE *f)
{
	const void *field = (const char *)hw + k->offset;
	char number[40];

	switch (k->kind) {
	case TEXT:
	case TEXTS:
		st_json_write_string(f, field);
		break;
	case WORD:
		st_json_write_string(f, device_words[*(const int *)field]);
		break;
	case DATE:
		put_date(*(const double *)field, "\"%Y-%m-%dT%H:%M:%SZ\"", number, sizeof(number));
		fputs(number, f);
		break;
	case BOOL:
		fputs(*(const bool *)field ? "true" : "false", f);
		break;
	default:
		st_json_format_number(*(const double *)field / (k->scale > 0 ? k->scale : 1),
				      number, sizeof(number));
		fputs(number, f);
		break;
	}
}

static void write_section(const struct st_hardware *hw, const char *section, FILE *f)
{
	const char *before = section ? "" : "\n\t";

	for (size_t i = 0; i < ST_ARRAY_LEN(keys); i++) {
		if (!is_in(&keys[i], section) || !is_worth_writing(hw, &keys[i]))
			continue;
		fprintf(f, "%s\"%s\": ", before, keys[i].name);
		write_value(hw, &keys[i], f);
		before = section ? ", " : ",\n\t";
	}
}

void st_hardware_write(const struct st_hardware *hw, FILE *f)
{
	struct st_c_locale l = st_c_locale_enter();

	fputc('{', f);
	write_section(hw, NULL, f);
	for (size_t s = 0; s < ST_ARRAY_LEN(sections); s++) {
		fprintf(f, ",\n\t\"%s\": { ", sections[s]);
		write_section(hw, sections[s], f);
		fputs(" }", f);
	}
	fputs("\n}", f);
	st_c_locale_leave(&l);
}

/* ---- what is derived ----------------------------------------------------------------------- */

double st_hardware_ranks(const struct st_hardware *hw)
{
	return hw->nodes * hw->ranks_per_node;
}

double st_hardware_product_flops(const struct st_hardware *hw, enum st_dtype t)
{
	const double *rate = hw->product_flops;

	if (rate[t] > 0)
		return rate[t];
	if (t != ST_F32 && rate[ST_BF16] > 0)
		return rate[ST_BF16];
	if (t != ST_F32 && rate[ST_F16] > 0)
		return rate[ST_F16];
	if (rate[ST_F32] > 0)
		return rate[ST_F32];
	/* Only 16 bits are given, and fp32 asked for: no machine is faster in fp32. */
	return (rate[ST_BF16] > rate[ST_F16] ? rate[ST_BF16] : rate[ST_F16]) / 2;
}

struct st_drive_rates st_hardware_drives(const struct st_hardware *hw)
{
	double r = hw->read_bytes_per_s / hw->ranks_per_node;
	double w = hw->write_bytes_per_s / hw->ranks_per_node;
	double mixed = hw->mixed_bytes_per_s / hw->ranks_per_node;
	struct st_drive_rates d = { .read = r, .write = w, .mixed_read = r, .mixed_write = w };

	if (mixed > 0) {
		d.mixed_read = mixed * hw->mixed_read_share;
		d.mixed_write = mixed * (1 - hw->mixed_read_share);
	} else if (hw->is_shared) {
		d.mixed_read = r / 2;
		d.mixed_write = w / 2;
	}
	/* Beside the other direction nothing is faster than alone. */
	d.mixed_read = d.mixed_read < r ? d.mixed_read : r;
	d.mixed_write = d.mixed_write < w ? d.mixed_write : w;
	return d;
}

/* ---- when it was measured ------------------------------------------------------------------ */

const char *st_hardware_doubt(const struct st_hardware *hw, double now_s)
{
	if (!(hw->measured_s > 0))
		return "when it was made is not known";
	if (now_s - hw->measured_s > KEPT_DAYS * 86400.0)
		return "it is older than 30 days";
	if (now_s < hw->measured_s - 86400)
		return "it is dated in the future";
	if (hw->busy > BUSY_MAX)
		return "the machine was busy then";
	return NULL;
}

const char *st_hardware_when(const struct st_hardware *hw, char out[64])
{
	char date[32];

	*out = '\0';
	if (!(hw->measured_s > 0))
		return out;
	put_date(hw->measured_s, "%Y-%m-%d %H:%M UTC", date, sizeof(date));
	snprintf(out, 64, "%s, load %.2g a processor", date, hw->busy);
	return out;
}

/* ---- descriptions that are kept ------------------------------------------------------------ */

struct kept {
	struct st_pool pool;
	char *text;
	struct st_json *root; /* NULL: nothing that we can use */
	struct st_c_locale locale;
};

static void open_kept(struct kept *k, const char *path)
{
	struct st_error before; /* a file that is not there, or broken, is no failure */
	size_t len_bytes;

	st_error_save(&before);
	*k = (struct kept){ .text = malloc(ST_CONFIG_MAX_BYTES + 1),
			    .locale = st_c_locale_enter() };
	if (!k->text || st_json_read(path, "the file of descriptions", k->text, &len_bytes) ||
	    len_bytes > ST_CONFIG_MAX_BYTES ||
	    st_json_parse(&k->pool, k->text, len_bytes, path, &k->root) ||
	    k->root->type != ST_JSON_OBJ)
		k->root = NULL;
	(void)st_error_raise(&before);
}

static void close_kept(struct kept *k)
{
	st_c_locale_leave(&k->locale);
	st_pool_free(&k->pool);
	free(k->text);
}

bool st_hardware_recall(struct st_hardware *out, const char *path, const char *key)
{
	const struct st_json *node;
	struct st_error before;
	struct kept k;
	bool is_there;

	st_error_save(&before);
	open_kept(&k, path);
	node = k.root ? st_json_get(k.root, key) : NULL;
	is_there = node && from_tree(out, node, path) == 0;
	close_kept(&k);
	(void)st_error_raise(&before);
	return is_there;
}

static int make_directories(const char *path)
{
	char *copy = strdup(path);

	if (!copy)
		return -ENOMEM;
	for (char *at = strchr(copy + 1, '/'); at; at = strchr(at + 1, '/')) {
		*at = '\0';
		if (mkdir(copy, 0700) && errno != EEXIST) {
			int rc = -errno;

			free(copy);
			return rc;
		}
		*at = '/';
	}
	free(copy);
	return 0;
}

/* The new one first; of the others as many as there is room for. */
static int write_kept(const struct st_hardware *hw, const char *path, const char *key, FILE *f)
{
	unsigned n = 1;
	struct kept k;

	fputs("{\n", f);
	st_json_write_string(f, key);
	fputs(": ", f);
	st_hardware_write(hw, f);
	open_kept(&k, path);
	for (const struct st_json *v = k.root ? k.root->child : NULL; v && n < KEPT_MAX;
	     v = v->next) {
		struct st_hardware other;

		if (strcmp(v->key, key) == 0 || from_tree(&other, v, path))
			continue;
		fputs(",\n", f);
		st_json_write_string(f, v->key);
		fputs(": ", f);
		st_hardware_write(&other, f);
		n++;
	}
	close_kept(&k);
	fputs("\n}\n", f);
	return ferror(f) ? -EIO : 0;
}

int st_hardware_keep(const struct st_hardware *hw, const char *path, const char *key)
{
	char *temp = NULL;
	FILE *f = NULL;
	int rc = make_directories(path), fd = -1;

	if (!rc && asprintf(&temp, "%s.XXXXXX", path) < 0) {
		temp = NULL;
		rc = -ENOMEM;
	}
	if (!rc) {
		fd = mkstemp(temp);
		rc = fd < 0 ? -errno : 0;
	}
	if (!rc) {
		f = fdopen(fd, "w");
		rc = f ? write_kept(hw, path, key, f) : -errno;
	}
	if (f && fclose(f) && !rc)
		rc = -errno;
	if (!f && fd >= 0)
		close(fd);
	if (!rc && rename(temp, path))
		rc = -errno;
	if (rc && fd >= 0)
		unlink(temp);
	free(temp);
	return rc ? st_fail(rc, "%s: what was measured cannot be kept", path) : 0;
}
