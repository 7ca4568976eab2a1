/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model/safetensors.h - read and write Hugging Face safetensors, one file or sharded with an index.
 *
 * Layer:   model (uses core)
 * Threads: a reader or writer belongs to one thread at a time
 *
 *   file:  u64 N (little-endian) | N bytes of JSON, starting with '{' | data buffer to the end
 *   JSON:  {"__metadata__": {string: string}, NAME: {"dtype", "shape", "data_offsets": [b, e]},
 * ...} index: {"metadata": ..., "weight_map": {NAME: SHARD FILE, ...}}
 *
 * Nothing is executed, nothing outside the directory is opened, nothing is allocated before the
 * file's size allows it. Refused: header over 100 MB, not JSON, not starting with '{', duplicate
 * keys, holes or overlaps, a buffer not fully covered, sizes that overflow or do not match shape
 * and dtype, unknown dtypes and fields, more than 1 M tensors or 8 dimensions, names that are not
 * one path component in an index, shards that are symlinks out of the directory, FIFOs and devices.
 *
 * Files named by the user (the file, model.safetensors or the index in a directory) may be
 * symbolic links, as they are in Hugging Face's cache; shards named by an index may be links only
 * within the directory. Of a shard, the tensors that the index gives to it count; one that the
 * index gives to another shard is an error, one that it does not know is ignored.
 */
#ifndef MODEL_SAFETENSORS_H
#define MODEL_SAFETENSORS_H

#include "core/dtype.h"
#include "core/status.h"

#define ST_SAFETENSORS_DIMS_MAX    8u
#define ST_SAFETENSORS_TENSORS_MAX ((size_t)1000000)
#define ST_SAFETENSORS_HEADER_MAX  ((uint64_t)100000000) /* bytes; the same for an index */

struct st_safetensors;

struct st_safetensors_info {
	const char *name; /* valid while the reader is open */
	enum st_dtype dtype;
	bool is_float; /* false: another dtype (bool, int): skip it, e.g. attn.bias buffers */
	unsigned n_dims;
	uint64_t dims[ST_SAFETENSORS_DIMS_MAX];
	uint64_t elems;
	const char *dtype_text; /* as in the file, e.g. "F32", "BOOL"; static */
};

/**
 * st_safetensors_open() - read and check headers; no data yet.
 * @param path  in, a file; or a directory with model.safetensors or, failing that,
 *              model.safetensors.index.json; or an index (a name that ends in ".index.json")
 * @return 0; STRATA_E_INPUT (file, offset or tensor, what is wrong); -errno
 */
ST_MUST_CHECK int st_safetensors_open(struct st_safetensors **out, const char *path);
/** st_safetensors_close() - NULL is accepted. */
void st_safetensors_close(struct st_safetensors *s);
/** st_safetensors_count() - tensors, in the order of shards (by name) and their data. */
size_t st_safetensors_count(const struct st_safetensors *s);
/** st_safetensors_info() - describe tensor i < count. */
void st_safetensors_info(const struct st_safetensors *s, size_t i, struct st_safetensors_info *out);
/** st_safetensors_find() - index of `name`, with or without the prefix "transformer."; -1 if none.
 */
int64_t st_safetensors_find(const struct st_safetensors *s, const char *name);
/**
 * st_safetensors_read() - elements [first, first + n) of tensor i as fp32 (all exact).
 * @param out  out [n]; undefined after an error
 * @return 0; -EINVAL (not a tensor, not its range); STRATA_E_UNSUPPORTED (dtype);
 *         STRATA_E_INPUT (the file was cut since it was opened); -errno
 */
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
 * @param dtype    in, of all tensors
 * @param tensors  in, borrowed for the call; names unique, UTF-8; at most 8 dimensions, 0 = scalar
 *
 * Their data is then given in this order by write(), as fp32; bf16 and fp16 are rounded to
 * nearest even, and what fp16 does not reach becomes infinite.
 * Metadata is {"format": "pt"}. A single file, mode 0644 & ~umask. Its space is reserved here,
 * where the file system can. An existing file stays as it is until finish().
 *
 * @return 0; -EINVAL (names, dimensions, dtype); -errno, e.g. -ENOSPC: nothing is left
 */
ST_MUST_CHECK int st_safetensors_create(struct st_safetensors_writer **out, const char *path,
					enum st_dtype dtype,
					const struct st_safetensors_out *tensors, size_t n_tensors);
/**
 * st_safetensors_write() - the next n elements; tensors may be cut or joined at will.
 * @return 0; -EINVAL (more than was announced); -errno: only abort() or finish() may follow, and
 *         finish() fails
 */
ST_MUST_CHECK int st_safetensors_write(struct st_safetensors_writer *w, const float *data,
				       size_t n);
/**
 * st_safetensors_finish() - all data was given: fsync, rename, fsync the directory. Frees w always.
 * @return 0; -EINVAL (data is missing); -errno: nothing is left
 */
ST_MUST_CHECK int st_safetensors_finish(struct st_safetensors_writer *w);
/** st_safetensors_abort() - leave nothing; frees w; NULL is accepted. */
void st_safetensors_abort(struct st_safetensors_writer *w);

#endif
