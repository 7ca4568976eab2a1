/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model/safetensors.h - read and write Hugging Face safetensors, one file or sharded with an index.
 *
 * Layer:   model (uses core)
 * Threads: a reader or writer belongs to one thread at a time
 *
 * Nothing is executed, nothing outside the directory is opened, nothing is allocated before the
 * file's size allows it. Refused: header over 100 MB, not JSON, not starting with '{', duplicate
 * keys, holes or overlaps, a buffer not fully covered, sizes that overflow or do not match shape
 * and dtype, more than 1 M tensors, names that are not one path component in an index, symlinks out
 * of the directory, FIFOs and devices.
 */
#ifndef MODEL_SAFETENSORS_H
#define MODEL_SAFETENSORS_H

#include "core/dtype.h"
#include "core/status.h"

struct st_safetensors;

struct st_safetensors_info {
	const char *name;	/* valid while the reader is open */
	enum st_dtype dtype;
	bool is_float;		/* false: another dtype (bool, int): skip it, e.g. attn.bias buffers */
	unsigned n_dims;
	uint64_t dims[8];
	uint64_t elems;
};

/**
 * st_safetensors_open() - `path` is a file, or a directory with model.safetensors or
 * model.safetensors.index.json.
 * @return 0; STRATA_E_INPUT (file, offset or tensor, what is wrong); -errno
 */
ST_MUST_CHECK int st_safetensors_open(struct st_safetensors **out, const char *path);
void st_safetensors_close(struct st_safetensors *s);
size_t st_safetensors_count(const struct st_safetensors *s);
void st_safetensors_info(const struct st_safetensors *s, size_t i, struct st_safetensors_info *out);
/** st_safetensors_find() - index of `name`, with or without the prefix "transformer."; -1 if none. */
int64_t st_safetensors_find(const struct st_safetensors *s, const char *name);
/** st_safetensors_read() - elements [first, first + n) of tensor i as fp32 (F16, BF16, F32 exact). */
ST_MUST_CHECK int st_safetensors_read(struct st_safetensors *s, size_t i, uint64_t first, size_t n,
				      float *out);

struct st_safetensors_writer;
struct st_safetensors_out {
	const char *name;
	unsigned n_dims;
	const size_t *dims;
};
/**
 * st_safetensors_create() - start `path` (written beside it, then renamed by finish()).
 * All tensors have dtype; their data is then given in this order by write(), as fp32; bf16 is
 * rounded to nearest even. Metadata is {"format": "pt"}. A single file.
 */
ST_MUST_CHECK int st_safetensors_create(struct st_safetensors_writer **out, const char *path,
					enum st_dtype dtype, const struct st_safetensors_out *tensors,
					size_t n_tensors);
ST_MUST_CHECK int st_safetensors_write(struct st_safetensors_writer *w, const float *data, size_t n);
/** finish(): all data was given; fsync, rename, fsync the directory. abort(): leave nothing. Both free w. */
ST_MUST_CHECK int st_safetensors_finish(struct st_safetensors_writer *w);
void st_safetensors_abort(struct st_safetensors_writer *w);

#endif
