/* SPDX-License-Identifier: Apache-2.0 */
/* model/safetensors.c - read safetensors: untrusted headers, then plain preads. */
#include "model/safetensors.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/file.h"
#include "model/json_scan.h"

#define BOUNCE_BYTES       ((size_t)64 << 10)
#define ENTRY_JSON_BYTES   ((size_t)64 << 10) /* of one tensor's description */
#define METADATA_BYTES_MAX ((size_t)16 << 20)
#define SHARD_NAME_MAX     255u
#define PREFIX             "transformer."

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensor data is read as it lies");

/* Everything the format knows; what we cannot read is still measured. */
static const struct dtype_row {
	const char *text;
	unsigned bits;
	bool is_float; /* that st_safetensors_read() gives as fp32 */
	enum st_dtype dtype;
} dtypes[] = {
	{ "F32", 32, true, ST_F32 },         { "BF16", 16, true, ST_BF16 },
	{ "F16", 16, true, ST_F16 },         { "BOOL", 8, false, ST_F32 },
	{ "U8", 8, false, ST_F32 },          { "I8", 8, false, ST_F32 },
	{ "I16", 16, false, ST_F32 },        { "U16", 16, false, ST_F32 },
	{ "I32", 32, false, ST_F32 },        { "U32", 32, false, ST_F32 },
	{ "I64", 64, false, ST_F32 },        { "U64", 64, false, ST_F32 },
	{ "F64", 64, false, ST_F32 },        { "C64", 64, false, ST_F32 },
	{ "F4", 4, false, ST_F32 },          { "F6_E2M3", 6, false, ST_F32 },
	{ "F6_E3M2", 6, false, ST_F32 },     { "F8_E5M2", 8, false, ST_F32 },
	{ "F8_E4M3", 8, false, ST_F32 },     { "F8_E8M0", 8, false, ST_F32 },
	{ "F8_E5M2FNUZ", 8, false, ST_F32 }, { "F8_E4M3FNUZ", 8, false, ST_F32 },
};

struct tensor {
	size_t name_off;   /* in the pool */
	uint64_t off, end; /* in the shard's data buffer */
	uint64_t dims[ST_SAFETENSORS_DIMS_MAX];
	uint64_t elems;
	uint32_t shard;
	uint8_t n_dims;
	uint8_t dtype; /* row of dtypes[] */
};

struct shard {
	char *path; /* for messages */
	int fd;
	uint64_t data_off;
};

struct st_safetensors {
	struct shard *shards;
	size_t n_shards, cap_shards;
	struct tensor *tensors;
	size_t n_tensors, cap_tensors;
	char *pool; /* names, each with its NUL */
	size_t pool_bytes, cap_pool;
	uint32_t *by_name; /* [n_tensors], ascending */
	unsigned char *bounce;
};

/* What an index says of one tensor. */
struct mapping {
	size_t name_off, file_off; /* in the index's own pool */
	bool is_found;
};

struct index {
	char *pool;
	size_t pool_bytes, cap_pool;
	struct mapping *maps; /* ascending by name */
	size_t n_maps, cap_maps;
	size_t *files; /* pool offsets, ascending by text, unique */
	size_t n_files;
};

static int grow(void **base, size_t *cap, size_t need, size_t elem_bytes)
{
	size_t want = *cap + *cap / 2 + 16, bytes;
	void *p;

	if (need <= *cap)
		return 0;
	if (want < need)
		want = need;
	if (__builtin_mul_overflow(want, elem_bytes, &bytes))
		return -ENOMEM;
	p = realloc(*base, bytes);
	if (!p)
		return -ENOMEM;
	*base = p;
	*cap = want;
	return 0;
}

static int pool_add(char **pool, size_t *used, size_t *cap, const char *text, size_t *off)
{
	size_t bytes = strlen(text) + 1, need;

	if (__builtin_add_overflow(*used, bytes, &need) || grow((void **)pool, cap, need, 1) < 0)
		return -ENOMEM;
	memcpy(*pool + *used, text, bytes);
	*off = *used;
	*used = need;
	return 0;
}

/* --- one tensor's description ------------------------------------------------------------- */

struct entry {
	const char *path; /* shown already */
	const char *name; /* shown already */
	struct tensor *t;
};

static int entry_bad(const struct entry *e, const char *what)
{
	return st_fail(STRATA_E_INPUT, "%s: tensor \"%s\": %s", e->path, e->name, what);
}

static int take_u64(const json_t *j, uint64_t *out)
{
	if (!json_is_integer(j) || json_integer_value(j) < 0)
		return -1;
	*out = (uint64_t)json_integer_value(j);
	return 0;
}

static int take_dtype(const struct entry *e, const json_t *j)
{
	const char *text = json_string_value(j);
	struct st_show s;

	if (!text)
		return entry_bad(e, "\"dtype\" is missing or not a string");
	for (size_t i = 0; i < ST_ARRAY_LEN(dtypes); i++)
		if (!strcmp(dtypes[i].text, text)) {
			e->t->dtype = (uint8_t)i;
			return 0;
		}
	return st_fail(STRATA_E_INPUT, "%s: tensor \"%s\": unknown dtype \"%.20s\"", e->path,
		       e->name, st_show(&s, text));
}

static int take_shape(const struct entry *e, const json_t *j)
{
	size_t n = json_array_size(j);

	if (!json_is_array(j))
		return entry_bad(e, "\"shape\" is missing or not a list");
	if (n > ST_SAFETENSORS_DIMS_MAX)
		return st_fail(STRATA_E_INPUT,
			       "%s: tensor \"%s\": %zu dimensions; at most %u are read", e->path,
			       e->name, n, ST_SAFETENSORS_DIMS_MAX);
	e->t->elems = 1;
	for (size_t i = 0; i < n; i++) {
		if (take_u64(json_array_get(j, i), &e->t->dims[i]) < 0)
			return entry_bad(e, "a dimension is not a whole number >= 0");
		if (__builtin_mul_overflow(e->t->elems, e->t->dims[i], &e->t->elems))
			return entry_bad(e, "the product of the dimensions overflows");
	}
	e->t->n_dims = (uint8_t)n;
	return 0;
}

static int take_offsets(const struct entry *e, const json_t *j, uint64_t data_bytes)
{
	struct tensor *t = e->t;
	uint64_t bits;

	if (json_array_size(j) != 2 || take_u64(json_array_get(j, 0), &t->off) < 0 ||
	    take_u64(json_array_get(j, 1), &t->end) < 0)
		return entry_bad(e, "\"data_offsets\" is not two whole numbers >= 0");
	if (t->off > t->end || t->end > data_bytes)
		return st_fail(STRATA_E_INPUT,
			       "%s: tensor \"%s\": data_offsets [%" PRIu64 ", %" PRIu64
			       "] are not within the %" PRIu64
			       " bytes of data; the file is cut or damaged",
			       e->path, e->name, t->off, t->end, data_bytes);
	if (__builtin_mul_overflow(t->elems, (uint64_t)dtypes[t->dtype].bits, &bits))
		return entry_bad(e, "its size overflows");
	if (bits % 8)
		return entry_bad(e, "its size is not a whole number of bytes");
	if (t->end - t->off != bits / 8)
		return st_fail(STRATA_E_INPUT,
			       "%s: tensor \"%s\": data_offsets hold %" PRIu64
			       " bytes, shape and dtype %s need %" PRIu64,
			       e->path, e->name, t->end - t->off, dtypes[t->dtype].text, bits / 8);
	return 0;
}

static int take_entry(const struct entry *e, const json_t *j, uint64_t data_bytes)
{
	int rc;

	if (!json_is_object(j))
		return entry_bad(e, "its description is not an object");
	rc = take_dtype(e, json_object_get(j, "dtype"));
	if (rc == 0)
		rc = take_shape(e, json_object_get(j, "shape"));
	if (rc == 0)
		rc = take_offsets(e, json_object_get(j, "data_offsets"), data_bytes);
	if (rc == 0 && json_object_size(j) != 3)
		rc = entry_bad(e, "unknown field beside dtype, shape and data_offsets");
	return rc;
}

/* --- one file's header -------------------------------------------------------------------- */

static int check_metadata(const struct st_json_scan *scan, struct st_json_slice slice)
{
	json_t *j = NULL, *value;
	const char *key;
	int rc = st_json_load(scan, slice, METADATA_BYTES_MAX, 1, &j);

	if (rc < 0)
		return rc;
	if (!json_is_object(j))
		rc = st_fail(STRATA_E_INPUT, "%s: __metadata__ is not an object", scan->shown);
	json_object_foreach(j, key, value)
	{
		struct st_show s;

		if (!json_is_string(value)) {
			rc = st_fail(STRATA_E_INPUT, "%s: __metadata__: \"%s\" is not a string",
				     scan->shown, st_show(&s, key));
			break;
		}
	}
	json_decref(j);
	return rc;
}

static int add_tensor(struct st_safetensors *s, const struct st_json_scan *scan,
		      const struct st_json_member *m, uint64_t data_bytes)
{
	struct tensor t = { .shard = (uint32_t)(s->n_shards - 1) };
	struct st_show name;
	struct entry e = { scan->shown, st_show(&name, m->key), &t };
	json_t *j = NULL;
	int rc;

	if (s->n_tensors >= ST_SAFETENSORS_TENSORS_MAX)
		return st_fail(STRATA_E_INPUT, "%s: more than %zu tensors", scan->shown,
			       ST_SAFETENSORS_TENSORS_MAX);
	rc = st_json_load(scan, m->value, ENTRY_JSON_BYTES, 2, &j);
	if (rc < 0)
		return rc;
	rc = take_entry(&e, j, data_bytes);
	if (rc == 0 && memchr(scan->text + m->value.off, '-', m->value.len))
		rc = entry_bad(&e, "-0 is not a whole number >= 0"); /* jansson gives 0 */
	json_decref(j);
	if (rc < 0)
		return rc;
	if (pool_add(&s->pool, &s->pool_bytes, &s->cap_pool, m->key, &t.name_off) < 0 ||
	    grow((void **)&s->tensors, &s->cap_tensors, s->n_tensors + 1, sizeof(t)) < 0)
		return st_fail(-ENOMEM, "%s: %zu tensors", scan->shown, s->n_tensors);
	s->tensors[s->n_tensors++] = t;
	return 0;
}

static int tensor_by_name(const void *a, const void *b, void *pool)
{
	const struct tensor *x = a, *y = b;

	return strcmp((const char *)pool + x->name_off, (const char *)pool + y->name_off);
}

static int tensor_by_offset(const void *a, const void *b)
{
	const struct tensor *x = a, *y = b;

	if (x->off != y->off)
		return x->off < y->off ? -1 : 1;
	if (x->end != y->end)
		return x->end < y->end ? -1 : 1;
	return (x->name_off > y->name_off) - (x->name_off < y->name_off);
}

/* Names are unique; the data is covered without holes and overlaps. Leaves it in data's order. */
static int check_cover(struct st_safetensors *s, size_t first, uint64_t data_bytes,
		       const char *path)
{
	size_t n = s->n_tensors - first;
	struct tensor *t = n ? s->tensors + first : NULL;
	struct st_show name;
	uint64_t at = 0;

	if (n)
		qsort_r(t, n, sizeof(*t), tensor_by_name, s->pool);
	for (size_t i = 1; i < n; i++)
		if (!tensor_by_name(&t[i - 1], &t[i], s->pool))
			return st_fail(STRATA_E_INPUT, "%s: tensor \"%s\" is described twice", path,
				       st_show(&name, s->pool + t[i].name_off));
	if (n)
		qsort(t, n, sizeof(*t), tensor_by_offset);
	for (size_t i = 0; i < n; i++) {
		if (t[i].off != at)
			return st_fail(STRATA_E_INPUT,
				       "%s: tensor \"%s\": starts at data byte %" PRIu64
				       "; %s %" PRIu64,
				       path, st_show(&name, s->pool + t[i].name_off), t[i].off,
				       t[i].off < at ? "it overlaps the tensor that ends at"
						     : "there is a hole from byte",
				       at);
		at = t[i].end;
	}
	if (at != data_bytes)
		return st_fail(STRATA_E_INPUT,
			       "%s: %" PRIu64 " bytes of data, of which tensors describe %" PRIu64,
			       path, data_bytes, at);
	return 0;
}

static int scan_header(struct st_safetensors *s, struct st_json_scan *scan, uint64_t data_bytes)
{
	struct st_json_member m;
	bool has_metadata = false;
	int rc;

	while ((rc = st_json_next(scan, &m)) == 1) {
		if (strcmp(m.key, "__metadata__"))
			rc = add_tensor(s, scan, &m, data_bytes);
		else if (has_metadata)
			rc = st_fail(STRATA_E_INPUT, "%s: __metadata__ stands twice", scan->shown);
		else
			rc = check_metadata(scan, m.value);
		has_metadata |= !strcmp(m.key, "__metadata__");
		free(m.key);
		if (rc < 0)
			return rc;
	}
	return rc < 0 ? rc : st_json_rest_blank(scan);
}

/* Reads the header of the newest shard, whose file is open. */
static int read_header(struct st_safetensors *s, uint64_t size_bytes)
{
	struct shard *sh = &s->shards[s->n_shards - 1];
	size_t first = s->n_tensors;
	struct st_show shown;
	uint64_t header_bytes, data_bytes;
	char *text = NULL;
	int rc;

	st_show(&shown, sh->path);
	if (size_bytes < sizeof(header_bytes))
		return st_fail(STRATA_E_INPUT,
			       "%s: %" PRIu64 " bytes are too few for safetensors; is it cut?",
			       shown.text, size_bytes);
	rc = st_file_read(sh->fd, &header_bytes, sizeof(header_bytes), 0, sh->path);
	if (rc < 0)
		return rc;
	header_bytes = le64toh(header_bytes);
	if (header_bytes > ST_SAFETENSORS_HEADER_MAX)
		return st_fail(STRATA_E_INPUT,
			       "%s: byte 0: header of %" PRIu64
			       " bytes is over the limit of %" PRIu64 "; not a safetensors file?",
			       shown.text, header_bytes, ST_SAFETENSORS_HEADER_MAX);
	if (header_bytes > size_bytes - sizeof(header_bytes))
		return st_fail(STRATA_E_INPUT,
			       "%s: byte 0: header of %" PRIu64 " bytes in a file of %" PRIu64
			       "; the file is cut or not safetensors",
			       shown.text, header_bytes, size_bytes);
	sh->data_off = sizeof(header_bytes) + header_bytes;
	data_bytes = size_bytes - sh->data_off;
	text = malloc(header_bytes + 1);
	if (!text)
		return st_fail(-ENOMEM, "%s: header of %" PRIu64 " bytes", shown.text,
			       header_bytes);
	rc = st_file_read(sh->fd, text, header_bytes, sizeof(header_bytes), sh->path);
	if (rc == 0) {
		struct st_json_scan scan = { .text = text,
					     .end = header_bytes,
					     .base = sizeof(header_bytes),
					     .shown = shown.text };

		rc = scan_header(s, &scan, data_bytes);
	}
	if (rc == 0)
		rc = check_cover(s, first, data_bytes, shown.text);
	free(text);
	return rc;
}

static int open_shard(struct st_safetensors *s, int dirfd, const char *name, bool is_beneath,
		      const char *path)
{
	struct shard *sh;
	struct st_show shown;
	uint64_t size_bytes;
	int fd;

	if (grow((void **)&s->shards, &s->cap_shards, s->n_shards + 1, sizeof(*sh)) < 0)
		return st_fail(-ENOMEM, "%s", st_show(&shown, path));
	sh = &s->shards[s->n_shards];
	*sh = (struct shard){ .path = strdup(path), .fd = -1 };
	s->n_shards++;
	if (!sh->path)
		return st_fail(-ENOMEM, "%s", st_show(&shown, path));
	fd = st_file_open(dirfd, name, is_beneath, path, &size_bytes);
	if (fd < 0)
		return fd;
	sh->fd = fd;
	return read_header(s, size_bytes);
}

/* --- an index ----------------------------------------------------------------------------- */

static bool is_plain_component(const char *name)
{
	static const char allowed[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
		"._-";
	size_t len = strlen(name);

	return len && len <= SHARD_NAME_MAX && strspn(name, allowed) == len && strcmp(name, ".") &&
	       strcmp(name, "..");
}

static int add_mapping(struct index *ix, const struct st_json_scan *scan,
		       const struct st_json_member *m)
{
	struct mapping map = { 0 };
	struct st_show name, file;
	const char *text;
	json_t *j = NULL;
	int rc;

	if (ix->n_maps >= ST_SAFETENSORS_TENSORS_MAX)
		return st_fail(STRATA_E_INPUT, "%s: more than %zu tensors", scan->shown,
			       ST_SAFETENSORS_TENSORS_MAX);
	rc = st_json_load(scan, m->value, 4 * SHARD_NAME_MAX, 0, &j);
	if (rc < 0)
		return rc;
	text = json_string_value(j);
	if (!text || !is_plain_component(text)) {
		rc = st_fail(
			STRATA_E_INPUT,
			"%s: weight_map: tensor \"%s\": %s%s%s is not the plain name of a file in "
			"this directory",
			scan->shown, st_show(&name, m->key), text ? "\"" : "",
			text ? st_show(&file, text) : "its value", text ? "\"" : "");
	} else if (pool_add(&ix->pool, &ix->pool_bytes, &ix->cap_pool, m->key, &map.name_off) < 0 ||
		   pool_add(&ix->pool, &ix->pool_bytes, &ix->cap_pool, text, &map.file_off) < 0 ||
		   grow((void **)&ix->maps, &ix->cap_maps, ix->n_maps + 1, sizeof(map)) < 0) {
		rc = st_fail(-ENOMEM, "%s", scan->shown);
	} else {
		ix->maps[ix->n_maps++] = map;
	}
	json_decref(j);
	return rc;
}

static int scan_weight_map(struct index *ix, const struct st_json_scan *scan,
			   struct st_json_slice slice)
{
	struct st_json_scan part = *scan;
	struct st_json_member m;
	int rc;

	part.pos = slice.off;
	part.end = slice.off + slice.len;
	part.has_begun = false;
	while ((rc = st_json_next(&part, &m)) == 1) {
		rc = add_mapping(ix, &part, &m);
		free(m.key);
		if (rc < 0)
			return rc;
	}
	return rc < 0 ? rc : st_json_rest_blank(&part);
}

static int mapping_by_name(const void *a, const void *b, void *pool)
{
	const struct mapping *x = a, *y = b;

	return strcmp((const char *)pool + x->name_off, (const char *)pool + y->name_off);
}

static int offset_by_text(const void *a, const void *b, void *pool)
{
	return strcmp((const char *)pool + *(const size_t *)a,
		      (const char *)pool + *(const size_t *)b);
}

static int sort_index(struct index *ix, const char *shown)
{
	struct st_show name;

	if (!ix->n_maps)
		return st_fail(STRATA_E_INPUT, "%s: no weight_map with tensors in it", shown);
	qsort_r(ix->maps, ix->n_maps, sizeof(*ix->maps), mapping_by_name, ix->pool);
	for (size_t i = 1; i < ix->n_maps; i++)
		if (!mapping_by_name(&ix->maps[i - 1], &ix->maps[i], ix->pool))
			return st_fail(STRATA_E_INPUT, "%s: weight_map: tensor \"%s\" stands twice",
				       shown, st_show(&name, ix->pool + ix->maps[i].name_off));
	ix->files = calloc(ix->n_maps, sizeof(*ix->files));
	if (!ix->files)
		return st_fail(-ENOMEM, "%s", shown);
	for (size_t i = 0; i < ix->n_maps; i++)
		ix->files[i] = ix->maps[i].file_off;
	qsort_r(ix->files, ix->n_maps, sizeof(*ix->files), offset_by_text, ix->pool);
	ix->n_files = 1;
	for (size_t i = 1; i < ix->n_maps; i++)
		if (offset_by_text(&ix->files[ix->n_files - 1], &ix->files[i], ix->pool))
			ix->files[ix->n_files++] = ix->files[i];
	return 0;
}

static int scan_index(struct index *ix, struct st_json_scan *scan)
{
	struct st_json_member m;
	bool has_map = false;
	json_t *j;
	int rc;

	while ((rc = st_json_next(scan, &m)) == 1) {
		if (strcmp(m.key, "weight_map")) { /* metadata: of no use here, but JSON */
			j = NULL;
			rc = st_json_load(scan, m.value, METADATA_BYTES_MAX, 8, &j);
			json_decref(j);
		} else if (has_map) {
			rc = st_fail(STRATA_E_INPUT, "%s: weight_map stands twice", scan->shown);
		} else {
			has_map = true;
			rc = scan_weight_map(ix, scan, m.value);
		}
		free(m.key);
		if (rc < 0)
			return rc;
	}
	if (rc == 0)
		rc = st_json_rest_blank(scan);
	return rc == 0 ? sort_index(ix, scan->shown) : rc;
}

/* Keep what the index gives to this shard (its tensors are [first, n_tensors)). */
static int claim(struct st_safetensors *s, struct index *ix, size_t first, size_t file_off,
		 const char *path)
{
	size_t kept = first;
	struct st_show shown, name;

	for (size_t i = first; i < s->n_tensors; i++) {
		const char *text = s->pool + s->tensors[i].name_off;
		size_t lo = 0, hi = ix->n_maps;

		while (lo < hi) {
			size_t mid = lo + (hi - lo) / 2;

			if (strcmp(ix->pool + ix->maps[mid].name_off, text) < 0)
				lo = mid + 1;
			else
				hi = mid;
		}
		if (lo == ix->n_maps || strcmp(ix->pool + ix->maps[lo].name_off, text))
			continue;
		if (strcmp(ix->pool + ix->maps[lo].file_off, ix->pool + file_off))
			return st_fail(STRATA_E_INPUT,
				       "%s: holds tensor \"%s\", which the index gives to %.100s",
				       st_show(&shown, path), st_show(&name, text),
				       ix->pool + ix->maps[lo].file_off);
		ix->maps[lo].is_found = true;
		s->tensors[kept++] = s->tensors[i];
	}
	s->n_tensors = kept;
	return 0;
}

static int open_mapped(struct st_safetensors *s, struct index *ix, int dirfd, const char *dir,
		       const char *index_shown)
{
	char *path = NULL;
	size_t cap = 0;
	struct st_show name;
	int rc;

	for (size_t f = 0; f < ix->n_files; f++) {
		const char *file = ix->pool + ix->files[f];
		size_t first = s->n_tensors, need = strlen(dir) + strlen(file) + 2;

		if (grow((void **)&path, &cap, need, 1) < 0) {
			rc = st_fail(-ENOMEM, "%s", index_shown);
			goto out;
		}
		snprintf(path, cap, "%s/%s", dir, file);
		rc = open_shard(s, dirfd, file, true, path);
		if (rc == 0)
			rc = claim(s, ix, first, ix->files[f], path);
		if (rc < 0)
			goto out;
	}
	rc = 0;
	for (size_t i = 0; i < ix->n_maps && rc == 0; i++)
		if (!ix->maps[i].is_found)
			rc = st_fail(STRATA_E_INPUT, "%s: tensor \"%s\" is not in %.100s",
				     index_shown, st_show(&name, ix->pool + ix->maps[i].name_off),
				     ix->pool + ix->maps[i].file_off);
out:
	free(path);
	return rc;
}

static int open_index(struct st_safetensors *s, int dirfd, const char *dir, const char *name,
		      const char *path)
{
	struct index ix = { 0 };
	struct st_show shown;
	uint64_t size_bytes;
	char *text = NULL;
	int fd, rc;

	st_show(&shown, path);
	fd = st_file_open(dirfd, name, false, path, &size_bytes);
	if (fd < 0)
		return fd;
	if (size_bytes > ST_SAFETENSORS_HEADER_MAX) {
		rc = st_fail(STRATA_E_INPUT,
			     "%s: index of %" PRIu64 " bytes is over the limit of %" PRIu64,
			     shown.text, size_bytes, ST_SAFETENSORS_HEADER_MAX);
		goto out;
	}
	text = malloc(size_bytes + 1);
	if (!text) {
		rc = st_fail(-ENOMEM, "%s: %" PRIu64 " bytes", shown.text, size_bytes);
		goto out;
	}
	rc = st_file_read(fd, text, size_bytes, 0, path);
	if (rc == 0) {
		struct st_json_scan scan = { .text = text, .end = size_bytes, .shown = shown.text };

		rc = scan_index(&ix, &scan);
	}
	free(text);
	text = NULL;
	if (rc == 0)
		rc = open_mapped(s, &ix, dirfd, dir, shown.text);
out:
	free(text);
	close(fd);
	free(ix.files);
	free(ix.maps);
	free(ix.pool);
	return rc;
}

/* --- the reader --------------------------------------------------------------------------- */

static int by_name_cmp(const void *a, const void *b, void *arg)
{
	const struct st_safetensors *s = arg;

	return tensor_by_name(&s->tensors[*(const uint32_t *)a], &s->tensors[*(const uint32_t *)b],
			      s->pool);
}

static int build_lookup(struct st_safetensors *s)
{
	s->by_name = calloc(s->n_tensors + 1, sizeof(*s->by_name));
	s->bounce = malloc(BOUNCE_BYTES);
	if (!s->by_name || !s->bounce)
		return st_fail(-ENOMEM, "names of %zu tensors", s->n_tensors);
	for (size_t i = 0; i < s->n_tensors; i++)
		s->by_name[i] = (uint32_t)i;
	if (s->n_tensors)
		qsort_r(s->by_name, s->n_tensors, sizeof(*s->by_name), by_name_cmp, s);
	return 0;
}

static int open_dir(struct st_safetensors *s, int dirfd, const char *dir)
{
	static const char one[] = "model.safetensors", many[] = "model.safetensors.index.json";
	size_t cap = strlen(dir) + sizeof(many) + 1;
	char *path = malloc(cap);
	struct stat st;
	struct st_show shown;
	int rc;

	if (!path)
		return st_fail(-ENOMEM, "%s", st_show(&shown, dir));
	if (!fstatat(dirfd, one, &st, 0)) {
		snprintf(path, cap, "%s/%s", dir, one);
		rc = open_shard(s, dirfd, one, false, path);
	} else if (!fstatat(dirfd, many, &st, 0)) {
		snprintf(path, cap, "%s/%s", dir, many);
		rc = open_index(s, dirfd, dir, many, path);
	} else {
		rc = st_fail(STRATA_E_INPUT, "%s: holds neither %s nor %s", st_show(&shown, dir),
			     one, many);
	}
	free(path);
	return rc;
}

/* `path` is an index itself: its shards lie in its directory. */
static int open_index_file(struct st_safetensors *s, const char *path)
{
	const char *slash = strrchr(path, '/');
	char *dir = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
	struct st_show shown;
	int dirfd, rc;

	if (!dir)
		return st_fail(-ENOMEM, "%s", st_show(&shown, path));
	dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dirfd < 0) {
		rc = st_fail(STRATA_E_INPUT, "%s: cannot open its directory: %s",
			     st_show(&shown, path), strata_strerror(-errno));
	} else {
		rc = open_index(s, dirfd, dir, slash ? slash + 1 : path, path);
		close(dirfd);
	}
	free(dir);
	return rc;
}

static bool ends_with(const char *text, const char *end)
{
	size_t n = strlen(text), m = strlen(end);

	return n >= m && !strcmp(text + n - m, end);
}

int st_safetensors_open(struct st_safetensors **out, const char *path)
{
	struct st_safetensors *s;
	int dirfd, rc;

	if (!out || !path)
		return st_fail(-EINVAL, "safetensors: no path");
	s = calloc(1, sizeof(*s));
	if (!s)
		return st_fail(-ENOMEM, "safetensors");
	dirfd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NONBLOCK);
	if (dirfd >= 0) {
		rc = open_dir(s, dirfd, path);
		close(dirfd);
	} else if (ends_with(path, ".index.json")) {
		rc = open_index_file(s, path);
	} else {
		rc = open_shard(s, AT_FDCWD, path, false, path);
	}
	if (rc == 0)
		rc = build_lookup(s);
	if (rc < 0) {
		st_safetensors_close(s);
		return rc;
	}
	*out = s;
	return 0;
}

void st_safetensors_close(struct st_safetensors *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->n_shards; i++) {
		if (s->shards[i].fd >= 0)
			close(s->shards[i].fd);
		free(s->shards[i].path);
	}
	free(s->bounce);
	free(s->by_name);
	free(s->pool);
	free(s->tensors);
	free(s->shards);
	free(s);
}

size_t st_safetensors_count(const struct st_safetensors *s)
{
	return s->n_tensors;
}

void st_safetensors_info(const struct st_safetensors *s, size_t i, struct st_safetensors_info *out)
{
	const struct tensor *t;

	ST_ASSERT(i < s->n_tensors);
	t = &s->tensors[i];
	*out = (struct st_safetensors_info){ .name = s->pool + t->name_off,
					     .dtype = dtypes[t->dtype].dtype,
					     .is_float = dtypes[t->dtype].is_float,
					     .n_dims = t->n_dims,
					     .elems = t->elems,
					     .dtype_text = dtypes[t->dtype].text };
	memcpy(out->dims, t->dims, sizeof(out->dims));
}

/* Compares PREFIX-and-name with text without building it. */
static int cmp_prefixed(bool has_prefix, const char *name, const char *text)
{
	int c = has_prefix ? strncmp(PREFIX, text, strlen(PREFIX)) : 0;

	return c ? c : strcmp(name, text + (has_prefix ? strlen(PREFIX) : 0));
}

static int64_t find_exact(const struct st_safetensors *s, bool has_prefix, const char *name)
{
	size_t lo = 0, hi = s->n_tensors;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		const struct tensor *t = &s->tensors[s->by_name[mid]];
		int c = cmp_prefixed(has_prefix, name, s->pool + t->name_off);

		if (!c)
			return (int64_t)s->by_name[mid];
		if (c > 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return -1;
}

int64_t st_safetensors_find(const struct st_safetensors *s, const char *name)
{
	int64_t i = find_exact(s, false, name);

	if (i >= 0)
		return i;
	if (!strncmp(name, PREFIX, strlen(PREFIX)))
		return find_exact(s, false, name + strlen(PREFIX));
	return find_exact(s, true, name);
}

int st_safetensors_read(struct st_safetensors *s, size_t i, uint64_t first, size_t n, float *out)
{
	const struct tensor *t;
	const struct shard *sh;
	struct st_show shown, name;
	uint64_t off;
	int rc;

	if (i >= s->n_tensors || first > s->tensors[i].elems || n > s->tensors[i].elems - first)
		return st_fail(-EINVAL, "safetensors: no such tensor or elements");
	t = &s->tensors[i];
	sh = &s->shards[t->shard];
	if (!dtypes[t->dtype].is_float)
		return st_fail(STRATA_E_UNSUPPORTED,
			       "%s: tensor \"%s\": dtype %s; weights are F32, BF16 or F16",
			       st_show(&shown, sh->path), st_show(&name, s->pool + t->name_off),
			       dtypes[t->dtype].text);
	off = sh->data_off + t->off + first * (dtypes[t->dtype].bits / 8);
	if (dtypes[t->dtype].dtype == ST_F32) {
		rc = st_file_read(sh->fd, out, n * sizeof(*out), off, sh->path);
		st_file_drop(sh->fd, off, n * sizeof(*out));
		return rc;
	}
	while (n) {
		size_t step = n < BOUNCE_BYTES / 2 ? n : BOUNCE_BYTES / 2;

		rc = st_file_read(sh->fd, s->bounce, step * 2, off, sh->path);
		if (rc < 0)
			return rc;
		for (size_t k = 0; k < step; k++)
			out[k] = st_elem_f32(dtypes[t->dtype].dtype, s->bounce, k);
		st_file_drop(sh->fd, off, step * 2);
		out += step;
		off += step * 2;
		n -= step;
	}
	return 0;
}
