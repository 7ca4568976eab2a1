/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offload/layout.h - storage tiles and extents of a model: what lies where on disk.
 *
 * Layer:   offload (uses core, cpu_optim, offload/model.h)
 * Threads: constant after it was made
 *
 * A storage tile is up to ST_STORAGE_TILE elements of one segment of one unit: the unit of I/O,
 * checksum and update. It has two extents in the store:
 *
 *	parameter	[bf16 x n]			or [fp32 x n] when training in fp32
 *	state		[int16 correction x n | m x n | v x n | 4096]	or [m x n | v x n | 4096]
 *
 * n is a multiple of STRATA_NUMERIC_TILE, so both are multiples of 4096 bytes. The 4096 bytes are
 *spent as gaps of some cache lines before each array: arrays that start at equal offsets modulo 64
 *KiB make the optimizer's loads wait for its stores, at half the rate (measured on Zen 3). Extent
 *2i is the parameter of tile i, extent 2i+1 its state. The layout is a function of model and
 *formats only.
 */
#ifndef OFFLOAD_LAYOUT_H
#define OFFLOAD_LAYOUT_H

#include "offload/model.h"
#include "strata/optim.h"

#define ST_STORAGE_TILE (1u << 18) /* elements: unit of I/O, checksum and update */

static inline enum strata_optim_grads st_optim_grads(enum st_dtype t)
{
	return t == ST_F32 ? STRATA_GRADS_F32 : t == ST_BF16 ? STRATA_GRADS_BF16 : STRATA_GRADS_F16;
}

struct st_tile {
	uint32_t unit;
	bool is_matrix;    /* its tensors have two dimensions: weight decay applies by default */
	size_t first_elem; /* in the unit */
	size_t elems;      /* padded */
	size_t first_leaf; /* index of its first numeric tile in the whole model */
};

struct st_layout {
	const struct st_model *model;
	enum st_dtype dtype;      /* of parameters: BF16 (split master) or F32 */
	enum st_dtype grad_dtype; /* of resting gradients */
	uint32_t n_units, n_tiles;
	struct st_tile *tiles;     /* [n_tiles], ascending by unit and element */
	uint32_t *unit_first_tile; /* [n_units + 1] */
	size_t n_leaves;
	uint32_t n_extents;     /* 2 * n_tiles */
	uint64_t *extent_bytes; /* [n_extents] */
	char **extent_names;    /* [n_extents] "h.0.mlp.c_fc.weight[262144..524288) state" */
};

ST_MUST_CHECK int st_layout_create(struct st_layout **out, const struct st_model *model,
				   enum st_dtype dtype, enum st_dtype grad_dtype);
void st_layout_destroy(struct st_layout *l);

/* Bytes in memory of what a tile or a unit holds. */
size_t st_tile_param_bytes(const struct st_layout *l, uint32_t tile);
size_t st_tile_state_bytes(const struct st_layout *l, uint32_t tile);
size_t st_tile_grad_bytes(const struct st_layout *l, uint32_t tile);
/* The arrays of a tile's state, inside its buffer; *lo is NULL in fp32. */
void st_tile_state_arrays(const struct st_layout *l, uint32_t tile, void *state, int16_t **lo,
			  float **m, float **v);
/* Where they begin, in bytes from the buffer's start: lo, m, v; lo's means nothing in fp32. */
void st_tile_state_offsets(const struct st_layout *l, uint32_t tile, size_t off_bytes[3]);
/**
 * st_tile_each_tensor() - calls fn for each run of elements that the tile and a tensor share, in
 * order: elements [first, first + n) of t lie at `off` in the tile. What is left is padding.
 * @return 0, or the first failure of fn
 */
typedef int st_tensor_run_fn(void *user, const struct st_tensor_desc *t, size_t first, size_t n,
			     size_t off);
ST_MUST_CHECK int st_tile_each_tensor(const struct st_layout *l, uint32_t tile,
				      st_tensor_run_fn *fn, void *user);

/* Elements [first, first + n) of a tensor: master weights and moments. */
typedef int st_emit_fn(void *user, const struct st_tensor_desc *t, size_t first, size_t n,
		       const float *master, const float *m, const float *v);
/**
 * st_tile_emit() - hand out what a tile holds, tensor by tensor; padding is left out.
 * @param param, state  in, the tile's two extents
 * @param master        out, scratch [elems of the tile]
 * @return 0, or the first failure of emit
 */
ST_MUST_CHECK int st_tile_emit(const struct st_layout *l, uint32_t tile, const void *param,
			       void *state, float *master, st_emit_fn *emit, void *user);

size_t st_unit_param_bytes(const struct st_layout *l, uint32_t unit);
size_t st_unit_accum_bytes(const struct st_layout *l, uint32_t unit);

#endif
