/* SPDX-License-Identifier: Apache-2.0 */
/* model/safetensors_write.c - write one safetensors file, whole or not at all. */
#include "model/safetensors.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <jansson.h>

#include "model/file.h"

#define BUF_BYTES    ((size_t)1 << 20)
#define HEADER_ALIGN 8u /* so that the data starts aligned for every dtype */

struct st_safetensors_writer {
	struct st_outfile file;
	enum st_dtype dtype;
	uint64_t left_elems; /* still to be given */
	unsigned char *buf;  /* [BUF_BYTES], not yet written */
	size_t buf_bytes;
	struct st_error failed; /* the first failure: nothing is written after it */
};

static int refuse(const char *name, const char *what)
{
	struct st_show s;

	return st_fail(-EINVAL, "safetensors: tensor \"%s\": %s.", st_show(&s, name), what);
}

/* One tensor's description; *end_bytes is where its data begins, then where it ends. */
static int describe(json_t *header, const struct st_safetensors_out *t, enum st_dtype dtype,
		    uint64_t *end_bytes)
{
	static const char *const names[ST_DTYPE_COUNT] = {
		[ST_F32] = "F32", [ST_BF16] = "BF16", [ST_F16] = "F16"
	};
	uint64_t elems = 1, bytes, begin = *end_bytes, end;
	json_t *shape, *entry;

	if (!t->name || !strcmp(t->name, "__metadata__") || t->n_dims > ST_SAFETENSORS_DIMS_MAX)
		return refuse(t->name ? t->name : "",
			      "no name for a tensor, or too many dimensions");
	if (json_object_get(header, t->name))
		return refuse(t->name, "given twice");
	shape = json_array();
	if (!shape)
		return -ENOMEM;
	for (unsigned d = 0; d < t->n_dims; d++) {
		uint64_t dim = t->dims[d];

		if (dim > INT64_MAX || __builtin_mul_overflow(elems, dim, &elems)) {
			json_decref(shape);
			return refuse(t->name, "its size overflows");
		}
		if (json_array_append_new(shape, json_integer((json_int_t)dim)) < 0) {
			json_decref(shape);
			return -ENOMEM;
		}
	}
	if (__builtin_mul_overflow(elems, (uint64_t)st_dtype_bytes(dtype), &bytes) ||
	    __builtin_add_overflow(begin, bytes, &end) || end > INT64_MAX) {
		json_decref(shape);
		return refuse(t->name, "its size overflows");
	}
	entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", names[dtype], "shape", shape,
			  "data_offsets", (json_int_t)begin, (json_int_t)end);
	if (!entry)
		return -ENOMEM;
	errno = 0;
	if (json_object_set_new(header, t->name, entry) < 0)
		return errno == ENOMEM ? -ENOMEM : refuse(t->name, "the name is not UTF-8");
	*end_bytes = end;
	return 0;
}

/* Length, JSON and padding, ready to be written. */
static int make_header(const struct st_safetensors_out *tensors, size_t n_tensors,
		       enum st_dtype dtype, char **out, size_t *out_bytes, uint64_t *data_bytes)
{
	json_t *header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
	size_t len, padded;
	uint64_t le;
	char *buf;
	int rc = header ? 0 : -ENOMEM;

	*data_bytes = 0;
	for (size_t i = 0; i < n_tensors && rc == 0; i++)
		rc = describe(header, &tensors[i], dtype, data_bytes);
	if (rc < 0)
		goto out;
	len = json_dumpb(header, NULL, 0, JSON_COMPACT);
	padded = (len + HEADER_ALIGN - 1) / HEADER_ALIGN * HEADER_ALIGN;
	if (len == 0 || padded > ST_SAFETENSORS_HEADER_MAX) {
		rc = len ? st_fail(-EINVAL, "safetensors: a header of %zu bytes is too large.",
				   padded)
			 : -ENOMEM;
		goto out;
	}
	buf = malloc(sizeof(le) + padded);
	if (!buf) {
		rc = -ENOMEM;
		goto out;
	}
	le = htole64(padded);
	memcpy(buf, &le, sizeof(le));
	if (json_dumpb(header, buf + sizeof(le), padded, JSON_COMPACT) != len) {
		free(buf);
		rc = -ENOMEM;
		goto out;
	}
	memset(buf + sizeof(le) + len, ' ', padded - len);
	*out = buf;
	*out_bytes = sizeof(le) + padded;
out:
	json_decref(header);
	if (rc == -ENOMEM)
		st_fail(rc, "safetensors: header of %zu tensors", n_tensors);
	return rc;
}

int st_safetensors_create(struct st_safetensors_writer **out, const char *path, enum st_dtype dtype,
			  const struct st_safetensors_out *tensors, size_t n_tensors)
{
	struct st_safetensors_writer *w = NULL;
	char *header = NULL;
	size_t header_bytes = 0;
	uint64_t data_bytes = 0;
	int rc;

	if (!out || !path || (n_tensors && !tensors) || n_tensors > ST_SAFETENSORS_TENSORS_MAX ||
	    (unsigned)dtype >= ST_DTYPE_COUNT)
		return st_fail(-EINVAL,
			       "safetensors: writes fp32, bf16 or fp16, up to %zu tensors.",
			       ST_SAFETENSORS_TENSORS_MAX);
	rc = make_header(tensors, n_tensors, dtype, &header, &header_bytes, &data_bytes);
	if (rc < 0)
		return rc;
	w = calloc(1, sizeof(*w));
	if (w)
		w->buf = malloc(BUF_BYTES);
	if (!w || !w->buf) {
		rc = st_fail(-ENOMEM, "safetensors: write buffer");
		goto fail;
	}
	w->dtype = dtype;
	w->left_elems = data_bytes / st_dtype_bytes(dtype);
	rc = st_outfile_open(&w->file, path, header_bytes + data_bytes);
	if (rc < 0)
		goto fail;
	rc = st_outfile_write(&w->file, header, header_bytes);
	if (rc < 0) {
		st_outfile_abort(&w->file);
		goto fail;
	}
	free(header);
	*out = w;
	return 0;

fail:
	free(header);
	if (w)
		free(w->buf);
	free(w);
	return rc;
}

static int flush(struct st_safetensors_writer *w)
{
	int rc = st_outfile_write(&w->file, w->buf, w->buf_bytes);

	w->buf_bytes = 0;
	if (rc < 0)
		st_error_take(&w->failed, rc);
	return rc;
}

static void convert(unsigned char *to, const float *from, size_t n, enum st_dtype dtype)
{
	if (dtype == ST_F32) {
		memcpy(to, from, n * sizeof(*from));
		return;
	}
	for (size_t i = 0; i < n; i++)
		st_elem_set(dtype, to, i, from[i]);
}

int st_safetensors_write(struct st_safetensors_writer *w, const float *data, size_t n)
{
	const size_t elem_bytes = st_dtype_bytes(w->dtype);
	int rc;

	if (w->failed.rc)
		return st_error_raise(&w->failed);
	if (n > w->left_elems) {
		rc = st_fail(-EINVAL,
			     "safetensors: %zu elements given, %" PRIu64 " are left to give.", n,
			     w->left_elems);
		st_error_take(&w->failed, rc);
		return rc;
	}
	w->left_elems -= n;
	while (n) {
		size_t room = (BUF_BYTES - w->buf_bytes) / elem_bytes;
		size_t step = n < room ? n : room;

		convert(w->buf + w->buf_bytes, data, step, w->dtype);
		w->buf_bytes += step * elem_bytes;
		data += step;
		n -= step;
		if (w->buf_bytes == BUF_BYTES) {
			rc = flush(w);
			if (rc < 0)
				return rc;
		}
	}
	return 0;
}

int st_safetensors_finish(struct st_safetensors_writer *w)
{
	int rc = 0;

	if (w->failed.rc)
		rc = st_error_raise(&w->failed);
	else if (w->left_elems)
		rc = st_fail(-EINVAL, "safetensors: %" PRIu64 " elements were not given.",
			     w->left_elems);
	else
		rc = flush(w);
	if (rc == 0)
		rc = st_outfile_commit(&w->file);
	else
		st_outfile_abort(&w->file);
	free(w->buf);
	free(w);
	return rc;
}

void st_safetensors_abort(struct st_safetensors_writer *w)
{
	if (!w)
		return;
	st_outfile_abort(&w->file);
	free(w->buf);
	free(w);
}
