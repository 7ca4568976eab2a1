/* SPDX-License-Identifier: Apache-2.0 */
/* offload/layout.c - storage tiles and extents. */
#include "offload/layout.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STATE_ALIGN    ((size_t)4096)
#define GAP_STEP_BYTES ((size_t)1344) /* 21 cache lines; three of them fit a block */
#define GAPS           3u

size_t st_tile_param_bytes(const struct st_layout *l, uint32_t tile)
{
	return l->tiles[tile].elems * st_dtype_bytes(l->dtype);
}

static enum strata_optim_params params_of(enum st_dtype dtype)
{
	return dtype == ST_F32   ? STRATA_PARAMS_F32
	       : dtype == ST_F16 ? STRATA_PARAMS_F32_F16
				 : STRATA_PARAMS_SPLIT;
}

struct strata_optim_format st_formats_of(const struct st_formats *f, bool is_matrix)
{
	return (struct strata_optim_format){
		.params = params_of(f->dtype),
		.moments = is_matrix ? f->moments : STRATA_MOMENTS_F32,
		.grads = st_optim_grads(f->grad_dtype),
	};
}

struct strata_optim_format st_tile_format(const struct st_layout *l, uint32_t tile)
{
	return st_formats_of(&l->formats, l->tiles[tile].is_matrix);
}

/* Of n elements; st_layout_create() saw that the formats go together. */
static void array_bytes(const struct st_layout *l, uint32_t tile, size_t n,
			size_t bytes[STRATA_ARRAY_N])
{
	struct strata_optim_format f = st_tile_format(l, tile);
	int rc = strata_optim_array_bytes(&l->formats.optim, &f, n, bytes);

	ST_ASSERT(rc == 0);
}

size_t st_tile_array_bytes(const struct st_layout *l, uint32_t tile, enum strata_optim_array a,
			   size_t n)
{
	size_t bytes[STRATA_ARRAY_N];

	array_bytes(l, tile, n, bytes);
	return bytes[a];
}

size_t st_tile_array_off(const struct st_layout *l, uint32_t tile, enum strata_optim_array a,
			 size_t elem)
{
	bool is_scale = a == STRATA_ARRAY_M_SCALE || a == STRATA_ARRAY_V_SCALE;

	return st_tile_array_bytes(l, tile, a,
				   is_scale ? elem - elem % STRATA_MOMENTS_BLOCK : elem);
}

/* Where each array of a state begins, and the end. */
static size_t state_offsets(const struct st_layout *l, uint32_t tile, size_t off[STRATA_ARRAY_N])
{
	const enum strata_optim_array order[] = { l->master_array, STRATA_ARRAY_M, STRATA_ARRAY_V,
						  STRATA_ARRAY_M_SCALE, STRATA_ARRAY_V_SCALE };
	size_t bytes[STRATA_ARRAY_N + 1] = { 0 }, at = 0;

	array_bytes(l, tile, l->tiles[tile].elems, bytes);
	for (unsigned i = 0; i < ST_ARRAY_LEN(order); i++) {
		at += i < GAPS ? GAP_STEP_BYTES : 0;
		if (order[i] == STRATA_ARRAY_N)
			continue;
		off[order[i]] = at;
		at += bytes[order[i]];
	}
	return at;
}

size_t st_tile_state_bytes(const struct st_layout *l, uint32_t tile)
{
	size_t off[STRATA_ARRAY_N];

	return (state_offsets(l, tile, off) + STATE_ALIGN - 1) / STATE_ALIGN * STATE_ALIGN;
}

size_t st_tile_state_off(const struct st_layout *l, uint32_t tile, enum strata_optim_array a)
{
	size_t off[STRATA_ARRAY_N];

	state_offsets(l, tile, off);
	return off[a];
}

struct strata_optim_range st_tile_range(const struct st_layout *l, uint32_t tile, size_t first,
					size_t n, void *param, void *state, void *grad)
{
	struct strata_optim_range r = { .n = n, .first = first, .stream = tile };
	size_t off[STRATA_ARRAY_N], all[STRATA_ARRAY_N];

	state_offsets(l, tile, off);
	array_bytes(l, tile, l->tiles[tile].elems, all);
	for (unsigned a = 0; a < STRATA_ARRAY_N; a++) {
		char *base = state;

		if (!all[a])
			continue; /* off[a] means nothing */
		if (a == l->param_array)
			base = param;
		else if (a == STRATA_ARRAY_GRAD)
			base = grad;
		else
			base += off[a];
		if (base)
			r.array[a] = base + st_tile_array_off(l, tile, a, first);
	}
	return r;
}

int st_tile_each_tensor(const struct st_layout *l, uint32_t tile, st_tensor_run_fn *fn, void *user)
{
	const struct st_tile *tl = &l->tiles[tile];
	const struct st_unit_desc *u = &l->model->units[tl->unit];
	size_t end = tl->first_elem + tl->elems;

	for (unsigned i = 0; i < u->n_tensors; i++) {
		const struct st_tensor_desc *t = &u->tensors[i];
		size_t lo = t->first_elem > tl->first_elem ? t->first_elem : tl->first_elem;
		size_t hi = t->first_elem + t->elems < end ? t->first_elem + t->elems : end;
		int rc =
			lo < hi ? fn(user, t, lo - t->first_elem, hi - lo, lo - tl->first_elem) : 0;

		if (rc)
			return rc;
	}
	return 0;
}

struct emitted {
	const struct st_layout *l;
	uint32_t tile;
	void *state;
	const float *master;
	st_emit_fn *emit;
	void *user;
};

static int emit_run(void *user, const struct st_tensor_desc *t, size_t first, size_t n, size_t off)
{
	const struct emitted *e = user;
	struct strata_optim_range r = st_tile_range(e->l, e->tile, off, n, NULL, e->state, NULL);
	size_t bytes[STRATA_ARRAY_N];

	array_bytes(e->l, e->tile, n, bytes);
	r.array[STRATA_ARRAY_PARAM] = r.array[STRATA_ARRAY_LOW] = NULL; /* that is the master */
	for (unsigned a = 0; a < STRATA_ARRAY_N; a++)
		bytes[a] = r.array[a] ? bytes[a] : 0;
	return e->emit(e->user, t, first, n, e->master + off, r.array, bytes);
}

int st_tile_emit(const struct st_layout *l, uint32_t tile, const void *param, void *state,
		 float *master, st_emit_fn *emit, void *user)
{
	struct emitted e = { l, tile, state, master, emit, user };
	size_t n = l->tiles[tile].elems;
	const struct strata_optim_range r =
		st_tile_range(l, tile, 0, n, (void *)(uintptr_t)param, state, NULL);

	if (l->master_array == STRATA_ARRAY_LOW)
		strata_optim_join(n, param, r.array[STRATA_ARRAY_LOW], master);
	else
		memcpy(master, r.array[STRATA_ARRAY_PARAM], n * sizeof(float));
	return st_tile_each_tensor(l, tile, emit_run, &e);
}

size_t st_tile_grad_bytes(const struct st_layout *l, uint32_t tile)
{
	return l->tiles[tile].elems * st_dtype_bytes(l->grad_dtype);
}

size_t st_unit_param_bytes(const struct st_layout *l, uint32_t unit)
{
	return l->model->units[unit].elems * st_dtype_bytes(l->dtype);
}

size_t st_unit_accum_bytes(const struct st_layout *l, uint32_t unit)
{
	return l->model->units[unit].elems * sizeof(float);
}

/* First element behind the segment that tensor t begins. */
static size_t segment_end(const struct st_unit_desc *u, unsigned t)
{
	unsigned next = t;

	while (next < u->n_tensors && u->tensors[next].segment == u->tensors[t].segment)
		next++;
	return next < u->n_tensors ? u->tensors[next].first_elem : u->elems;
}

static bool begins_segment(const struct st_unit_desc *u, unsigned t)
{
	return t == 0 || u->tensors[t].segment != u->tensors[t - 1].segment;
}

/* Calls back for each tile of a unit; with tiles NULL it only counts. */
static uint32_t cut_unit(const struct st_model *m, uint32_t unit, struct st_tile *tiles,
			 size_t *next_leaf)
{
	const struct st_unit_desc *u = &m->units[unit];
	uint32_t n = 0;

	for (unsigned t = 0; t < u->n_tensors; t++) {
		size_t end;

		if (!begins_segment(u, t))
			continue;
		end = segment_end(u, t);
		for (size_t e = u->tensors[t].first_elem; e < end; n++) {
			size_t len = end - e < ST_STORAGE_TILE ? end - e : ST_STORAGE_TILE;

			if (tiles) {
				tiles[n] = (struct st_tile){
					.unit = unit,
					.is_matrix = u->tensors[t].n_dims == 2,
					.first_elem = e,
					.elems = len,
					.first_leaf = *next_leaf,
				};
				*next_leaf += len / STRATA_NUMERIC_TILE;
			}
			e += len;
		}
	}
	return n;
}

static int name_extents(struct st_layout *l)
{
	for (uint32_t e = 0; e < l->n_extents; e++) {
		const struct st_tile *t = &l->tiles[e / 2];
		const struct st_unit_desc *u = &l->model->units[t->unit];
		unsigned i = 0;
		size_t at;

		while (i + 1 < u->n_tensors && u->tensors[i + 1].first_elem <= t->first_elem)
			i++;
		at = t->first_elem - u->tensors[i].first_elem;
		if (asprintf(&l->extent_names[e], "%s[%zu..%zu) %s", u->tensors[i].name, at,
			     at + t->elems, e & 1 ? "state" : "parameter") < 0) {
			l->extent_names[e] = NULL;
			return -ENOMEM;
		}
		l->extent_bytes[e] =
			e & 1 ? st_tile_state_bytes(l, e / 2) : st_tile_param_bytes(l, e / 2);
	}
	return 0;
}

static int check_units(const struct st_model *m)
{
	for (uint32_t u = 0; u < m->n_units; u++) {
		const struct st_unit_desc *d = &m->units[u];

		if (!d->n_tensors || d->elems % STRATA_NUMERIC_TILE)
			return st_fail(-EINVAL, "unit %s: %zu elements are not whole numeric tiles",
				       d->name, d->elems);
		for (unsigned t = 0; t < d->n_tensors; t++)
			if (d->tensors[t].first_elem % STRATA_NUMERIC_TILE ||
			    d->tensors[t].first_elem + d->tensors[t].elems > d->elems)
				return st_fail(-EINVAL, "unit %s: tensor %s is misplaced", d->name,
					       d->tensors[t].name);
	}
	return 0;
}

static int check_formats(const struct st_formats *f)
{
	size_t bytes[STRATA_ARRAY_N];
	int rc = 0;

	for (int is_matrix = 0; !rc && is_matrix < 2; is_matrix++) {
		struct strata_optim_format format = st_formats_of(f, is_matrix);

		rc = strata_optim_array_bytes(&f->optim, &format, STRATA_NUMERIC_TILE, bytes);
	}
	return rc;
}

int st_layout_create(struct st_layout **out, const struct st_model *model,
		     const struct st_formats *formats)
{
	struct st_layout *l = NULL;
	int rc = check_units(model);

	if (!rc)
		rc = check_formats(formats);
	if (rc)
		return rc;
	rc = -ENOMEM;
	l = calloc(1, sizeof(*l));
	if (!l)
		goto fail;
	l->model = model;
	l->formats = *formats;
	l->dtype = formats->dtype;
	l->grad_dtype = formats->grad_dtype;
	l->param_array = l->dtype == ST_F16 ? STRATA_ARRAY_LOW : STRATA_ARRAY_PARAM;
	l->master_array = l->dtype == ST_F16   ? STRATA_ARRAY_PARAM
			  : l->dtype == ST_F32 ? STRATA_ARRAY_N
					       : STRATA_ARRAY_LOW;
	l->n_units = model->n_units;
	l->unit_first_tile = calloc(l->n_units + 1, sizeof(*l->unit_first_tile));
	if (!l->unit_first_tile)
		goto fail;
	for (uint32_t u = 0; u < l->n_units; u++)
		l->unit_first_tile[u + 1] = l->unit_first_tile[u] + cut_unit(model, u, NULL, NULL);
	l->n_tiles = l->unit_first_tile[l->n_units];
	l->n_extents = 2 * l->n_tiles;
	l->tiles = calloc(l->n_tiles, sizeof(*l->tiles));
	l->extent_bytes = calloc(l->n_extents, sizeof(*l->extent_bytes));
	l->extent_names = calloc(l->n_extents, sizeof(*l->extent_names));
	if (!l->tiles || !l->extent_bytes || !l->extent_names)
		goto fail;
	for (uint32_t u = 0; u < l->n_units; u++)
		cut_unit(model, u, l->tiles + l->unit_first_tile[u], &l->n_leaves);
	rc = name_extents(l);
	if (rc)
		goto fail;
	*out = l;
	return 0;

fail:
	st_layout_destroy(l);
	return st_fail(rc, "layout of the model");
}

void st_layout_destroy(struct st_layout *l)
{
	if (!l)
		return;
	for (uint32_t e = 0; l->extent_names && e < l->n_extents; e++)
		free(l->extent_names[e]);
	free(l->extent_names);
	free(l->extent_bytes);
	free(l->tiles);
	free(l->unit_first_tile);
	free(l);
}
