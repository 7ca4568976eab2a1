/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offload/layout.h - storage tiles and extents of a model: what lies where on disk.
 *
 * Layer:   offload (uses core, cpu_optim, offload/model.h)
 * Threads: constant after it was made
 *
 * A storage tile is up to ST_STORAGE_TILE elements of one segment of one unit: the unit of I/O,
 * checksum and update. It has two extents in the store, 2i and 2i + 1 for tile i:
 *
 *	parameter	what computes: [bf16 x n], [fp16 x n] or [fp32 x n]
 *	state		what only the optimizer uses, array by array: what the master weight has
 *			beyond the parameter (int16 corrections; with fp16 the fp32 weight; with
 *			fp32 nothing), then m, v, their scales, as far as the optimizer and the
 *			format of the moments have them
 *
 * n is a multiple of STRATA_NUMERIC_TILE. Before each of the first three arrays of a state lies a
 * gap of some cache lines: arrays that start at equal offsets modulo 64 KiB make the optimizer's
 * loads wait for its stores, at half the rate (measured on Zen 3). Both extents are whole blocks of
 * 4096 bytes. Vectors keep fp32 moments whatever the format of the matrices'. The layout is a
 * function of model and formats only.
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

struct st_formats {               /* of a run */
	enum st_dtype dtype;      /* of parameters as they compute: BF16 (split master), F16, F32 */
	enum st_dtype grad_dtype; /* of resting gradients */
	enum strata_optim_moments moments; /* of matrices */
	struct strata_optim_cfg optim;     /* which moments there are */
};

struct st_tile {
	uint32_t unit;
	bool is_matrix;    /* its tensors have two dimensions: weight decay applies by default */
	size_t first_elem; /* in the unit */
	size_t elems;      /* padded */
	size_t first_leaf; /* index of its first numeric tile in the whole model */
};

struct st_layout {
	const struct st_model *model;
	struct st_formats formats;
	enum st_dtype dtype, grad_dtype;      /* formats' */
	enum strata_optim_array param_array;  /* what a parameter extent holds */
	enum strata_optim_array master_array; /* what of the master weight is in the state */
	uint32_t n_units, n_tiles;
	struct st_tile *tiles;     /* [n_tiles], ascending by unit and element */
	uint32_t *unit_first_tile; /* [n_units + 1] */
	size_t n_leaves;
	uint32_t n_extents;     /* 2 * n_tiles */
	uint64_t *extent_bytes; /* [n_extents] */
	char **extent_names;    /* [n_extents] "h.0.mlp.c_fc.weight[262144..524288) state" */
};

ST_MUST_CHECK int st_layout_create(struct st_layout **out, const struct st_model *model,
				   const struct st_formats *formats);
void st_layout_destroy(struct st_layout *l);

/* Bytes in memory of what a tile or a unit holds. */
size_t st_tile_param_bytes(const struct st_layout *l, uint32_t tile);
size_t st_tile_state_bytes(const struct st_layout *l, uint32_t tile);
size_t st_tile_grad_bytes(const struct st_layout *l, uint32_t tile);

/** st_formats_of() - of the kernels that update matrices, or vectors. */
struct strata_optim_format st_formats_of(const struct st_formats *f, bool is_matrix);
/** st_tile_format() - of those that update this tile. */
struct strata_optim_format st_tile_format(const struct st_layout *l, uint32_t tile);
/** st_tile_array_bytes() - of its first n elements; 0: the tile has no such array. */
size_t st_tile_array_bytes(const struct st_layout *l, uint32_t tile, enum strata_optim_array a,
			   size_t n);
/** st_tile_array_off() - of element elem, or of the scale of its block, from the array's start. */
size_t st_tile_array_off(const struct st_layout *l, uint32_t tile, enum strata_optim_array a,
			 size_t elem);
/** st_tile_state_off() - where an array begins in the state; only of those that are there. */
size_t st_tile_state_off(const struct st_layout *l, uint32_t tile, enum strata_optim_array a);
/**
 * st_tile_range() - elements [first, first + n) of a tile, as the kernels take them.
 * @param param, state, grad  the tile's two extents and its gradient; grad may be NULL
 */
struct strata_optim_range st_tile_range(const struct st_layout *l, uint32_t tile, size_t first,
					size_t n, void *param, void *state, void *grad);

/**
 * st_tile_each_tensor() - calls fn for each run of elements that the tile and a tensor share, in
 * order: elements [first, first + n) of t lie at `off` in the tile. What is left is padding.
 * @return 0, or the first failure of fn
 */
typedef int st_tensor_run_fn(void *user, const struct st_tensor_desc *t, size_t first, size_t n,
			     size_t off);
ST_MUST_CHECK int st_tile_each_tensor(const struct st_layout *l, uint32_t tile,
				      st_tensor_run_fn *fn, void *user);

/* Elements [first, first + n) of a tensor: master weights, and the moments as they are stored. */
typedef int st_emit_fn(void *user, const struct st_tensor_desc *t, size_t first, size_t n,
		       const float *master, void *const moments[STRATA_ARRAY_N],
		       const size_t bytes[STRATA_ARRAY_N]);
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
