/* SPDX-License-Identifier: Apache-2.0 */
/* offload/rows.c - which windows hold the rows that a batch names. */
#include "offload/rows.h"

#include <errno.h>
#include <string.h>

/* ---- geometry ------------------------------------------------------------------------------ */

bool st_row_part(const struct st_lookup *l, uint32_t row, uint32_t index, struct st_row_part *out)
{
	size_t elem = (size_t)row * l->cols, in_tile = elem % ST_STORAGE_TILE;
	size_t left = ST_STORAGE_TILE - in_tile;
	uint32_t tile = l->layout->unit_first_tile[l->unit] + (uint32_t)(elem / ST_STORAGE_TILE);

	if (index == 0)
		*out = (struct st_row_part){ .tile = tile,
					     .n = l->cols < left ? l->cols : left,
					     .tile_elem = in_tile };
	else
		*out = (struct st_row_part){ .tile = tile + 1, .first = left, .n = l->cols - left };
	return index == 0 || (index == 1 && left < l->cols);
}

static bool is_scale(enum strata_optim_array a)
{
	return a == STRATA_ARRAY_M_SCALE || a == STRATA_ARRAY_V_SCALE;
}

bool st_lookup_needs(const struct st_lookup *l, enum strata_optim_array array, uint32_t tile)
{
	bool is_written_only = array == STRATA_ARRAY_LOW && l->layout->param_array == array;

	return !is_written_only && l->elem_bytes[array] > 0;
}

bool st_lookup_reads(const struct st_lookup *l, enum strata_optim_array array, uint32_t tile)
{
	unsigned bit = array == l->layout->param_array ? ST_ON_NVME_PARAM
		       : array == STRATA_ARRAY_GRAD    ? ST_ON_NVME_GRAD
						       : ST_ON_NVME_STATE;

	return (l->on_nvme[tile] & bit) && st_lookup_needs(l, array, tile);
}

/* The bytes of a part in the extent (or slot) of an array: [*lo, *hi). */
static void byte_range(const struct st_lookup *l, enum strata_optim_array array,
		       const struct st_row_part *p, uint64_t *lo, uint64_t *hi)
{
	const struct st_layout *layout = l->layout;
	size_t unit = is_scale(array) ? STRATA_MOMENTS_BLOCK : 1, off = 0;

	if (array != layout->param_array && array != STRATA_ARRAY_GRAD)
		off = layout->tiles[p->tile].elems == ST_STORAGE_TILE
			      ? l->state_off[array]
			      : st_tile_state_off(layout, p->tile, array);
	*lo = off + p->tile_elem / unit * l->elem_bytes[array];
	*hi = off + (p->tile_elem + p->n + unit - 1) / unit * l->elem_bytes[array];
}

static uint64_t block_down(uint64_t off)
{
	return off / ST_ROWS_BLOCK * ST_ROWS_BLOCK;
}

static uint64_t block_up(uint64_t off)
{
	return block_down(off + ST_ROWS_BLOCK - 1);
}

/* What is read of one row when none of its windows meets another's. */
static uint64_t row_bytes(const struct st_lookup *l, uint32_t row)
{
	struct st_row_part p;
	uint64_t sum = 0, lo, hi;

	for (uint32_t i = 0; i < ST_ROW_PARTS_MAX && st_row_part(l, row, i, &p); i++) {
		for (unsigned a = 0; a < STRATA_ARRAY_N; a++) {
			if (!st_lookup_reads(l, a, p.tile))
				continue;
			byte_range(l, a, &p, &lo, &hi);
			sum += block_up(hi) - block_down(lo);
		}
	}
	return sum;
}

int st_lookup_init(struct st_lookup *l, const struct st_layout *layout, uint32_t unit, size_t cols,
		   size_t max_tokens, const uint8_t *on_nvme)
{
	const struct st_unit_desc *u = &layout->model->units[unit];
	const struct st_tensor_desc *t = &u->tensors[0];
	uint64_t widest = 0, room = 0;

	if (t->n_dims != 2 || !cols || t->dims[1] != cols || t->first_elem)
		return st_fail(-EINVAL, "unit %s does not begin with a table of %zu columns",
			       u->name, cols);
	*l = (struct st_lookup){ .layout = layout, .unit = unit, .rows = t->dims[0], .cols = cols };
	if (cols > ST_STORAGE_TILE || !max_tokens)
		return 0;
	for (unsigned a = 0; a < STRATA_ARRAY_N; a++) {
		uint32_t first = layout->unit_first_tile[unit];

		l->elem_bytes[a] = st_tile_array_bytes(layout, first, a, 1);
		if (layout->tiles[first].elems == ST_STORAGE_TILE && l->elem_bytes[a] &&
		    a != layout->param_array && a != STRATA_ARRAY_GRAD)
			l->state_off[a] = st_tile_state_off(layout, first, a);
	}
	l->on_nvme = on_nvme;
	l->max_tokens = max_tokens;
	l->max_rows = (uint32_t)(max_tokens < l->rows ? max_tokens : l->rows);
	for (uint32_t row = 0; row < l->rows; row++)
		if (row_bytes(l, row) > widest)
			widest = row_bytes(l, row);
	for (uint32_t i = 0; i < layout->n_tiles; i++)
		if (st_tile_state_bytes(layout, i) > room)
			room = st_tile_state_bytes(layout, i);
	l->chunk_rows = ST_ROWS_CHUNK_MAX;
	if (widest && room / 2 / widest < l->chunk_rows)
		l->chunk_rows = room / 2 / widest ? (uint32_t)(room / 2 / widest) : 1;
	if (l->max_rows < l->chunk_rows)
		l->chunk_rows = l->max_rows;
	l->n_chunks = (l->max_rows + l->chunk_rows - 1) / l->chunk_rows;
	l->chunk_bytes = l->chunk_rows * widest;
	return 0;
}

/* ---- a batch ------------------------------------------------------------------------------- */

int st_rows_find(const struct st_lookup *l, struct st_rows *r, const int32_t *tokens,
		 int32_t *number)
{
	for (size_t i = 0; i < l->max_tokens; i++)
		if (tokens[i] < 0 || (size_t)tokens[i] >= l->rows)
			return st_fail(STRATA_E_INPUT,
				       "token %zu of the batch is %d, beyond the vocabulary of %zu",
				       i, (int)tokens[i], l->rows);
	memset(number, 0, l->rows * sizeof(*number));
	for (size_t i = 0; i < l->max_tokens; i++)
		number[tokens[i]] = 1;
	r->n = 0;
	for (size_t row = 0; row < l->rows; row++) {
		if (!number[row])
			continue;
		number[row] = (int32_t)r->n;
		r->row[r->n++] = (uint32_t)row;
	}
	for (size_t i = 0; i < l->max_tokens; i++)
		r->tokens[i] = number[tokens[i]];
	return 0;
}

uint32_t st_rows_in_chunk(const struct st_lookup *l, const struct st_rows *r, uint32_t chunk)
{
	uint32_t first = chunk * l->chunk_rows;

	if (first >= r->n)
		return 0;
	return r->n - first < l->chunk_rows ? r->n - first : l->chunk_rows;
}

/* ---- windows ------------------------------------------------------------------------------- */

enum step { STEP_END, STEP_JOINS, STEP_BEGINS };

struct place { /* of one part */
	unsigned array;
	uint32_t i, index;
	uint64_t at_bytes;
};

/* The next part that is read, and where it is put. It joins the window before it, or begins one. */
static enum step next_part(struct st_row_walk *w, struct place *out)
{
	const struct st_lookup *l = w->lookup;
	struct st_row_window *win = &w->window;
	struct st_row_part p;
	uint64_t lo, hi;
	bool joins;

	for (;;) {
		while (w->array < STRATA_ARRAY_N && w->i == w->n) {
			w->array++;
			w->i = w->index = 0;
		}
		if (w->array == STRATA_ARRAY_N)
			return STEP_END;
		if (w->index == ST_ROW_PARTS_MAX || !st_row_part(l, w->row[w->i], w->index, &p)) {
			w->i++;
			w->index = 0;
		} else if (st_lookup_reads(l, w->array, p.tile)) {
			break;
		} else {
			w->index++;
		}
	}
	byte_range(l, w->array, &p, &lo, &hi);
	joins = win->len_bytes && win->array == w->array && win->tile == p.tile &&
		block_down(lo) <= win->off_bytes + win->len_bytes;
	if (!joins)
		*win = (struct st_row_window){ .array = w->array,
					       .tile = p.tile,
					       .off_bytes = block_down(lo),
					       .at_bytes = win->at_bytes + win->len_bytes };
	if (block_up(hi) > win->off_bytes + win->len_bytes)
		win->len_bytes = block_up(hi) - win->off_bytes;
	*out = (struct place){ w->array, w->i, w->index++, win->at_bytes + lo - win->off_bytes };
	return joins ? STEP_JOINS : STEP_BEGINS;
}

void st_rows_walk(struct st_row_walk *w, const struct st_lookup *l, const struct st_rows *rows,
		  uint32_t chunk)
{
	*w = (struct st_row_walk){ .lookup = l,
				   .row = rows->row + (size_t)chunk * l->chunk_rows,
				   .n = st_rows_in_chunk(l, rows, chunk) };
}

bool st_rows_next(struct st_row_walk *w, struct st_row_window *out)
{
	struct place unused;

	for (;;) {
		struct st_row_window before = w->window;
		enum step step = next_part(w, &unused);

		if (step == STEP_JOINS)
			continue;
		if (step == STEP_END)
			w->window.len_bytes = 0;
		if (before.len_bytes) {
			*out = before;
			return true;
		}
		if (step == STEP_END)
			return false;
	}
}

void st_rows_locate(const struct st_lookup *l, const struct st_rows *rows, uint32_t chunk,
		    uint64_t (*at)[STRATA_ARRAY_N][ST_ROW_PARTS_MAX])
{
	struct st_row_walk w;
	struct place p;

	st_rows_walk(&w, l, rows, chunk);
	while (next_part(&w, &p) != STEP_END)
		at[p.i][p.array][p.index] = p.at_bytes;
}
