/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offload/rows.h - the rows of a table that a batch names, updated ahead of the table.
 *
 * Layer:   offload
 * Threads: st_lookup is constant; a walk belongs to its caller
 *
 * The first stage looks tokens up in a table whose pending update takes long: it is the largest
 * unit of many a model, and where it is tied to the head, its gradient was final last. So a step
 * with a pending update does not wait for it. It reads the rows that its tokens name, with their
 * states (READ_ROWS), updates private copies into a compact table (UPDATE_ROWS), and runs the first
 * stage on that, with tokens renumbered. Nothing of this is written back. The update of the whole
 * table follows before its next use and, the optimizer being element-wise, repeats the same bits.
 *
 * Rows are taken in chunks. The number of chunks is fixed by the plan; a chunk beyond the rows that
 * a batch names does nothing. What is read of a chunk lies in one buffer, array by array (see
 * enum strata_optim_array), row by row, in windows: whole blocks of ST_ROWS_BLOCK bytes of one
 *extent. Windows of neighbouring rows that meet are one.
 *
 *	extent of a tile	|....[ row 7 ].....[ row 8 | row 9 ]...|
 *	blocks			|----|----|----|----|----|----|----|----|
 *	windows			     <--------><------------------->
 *	buffer			<--------><------------------->...
 *
 * A row may begin in one storage tile and end in the next: it then has two parts, each with its own
 * window. No row spans more than two.
 */
#ifndef OFFLOAD_ROWS_H
#define OFFLOAD_ROWS_H

#include "offload/layout.h"

/* What of a tile is on NVMe between its uses; the rest has its place in memory. */
enum { ST_ON_NVME_PARAM = 1, ST_ON_NVME_STATE = 2, ST_ON_NVME_GRAD = 4 };

#define ST_ROWS_BLOCK     ((uint64_t)4096)
#define ST_ROWS_CHUNK_MAX 64u
#define ST_ROW_PARTS_MAX  2u

struct st_lookup { /* of a plan */
	const struct st_layout *layout;
	uint32_t unit;
	size_t rows, cols;                 /* of the table */
	size_t max_tokens;                 /* of one pass of the first stage */
	uint32_t max_rows;                 /* that these can name */
	uint32_t chunk_rows, n_chunks;     /* n_chunks 0: nothing is looked up ahead */
	size_t elem_bytes[STRATA_ARRAY_N]; /* of the table's arrays; scales: of a block */
	size_t state_off[STRATA_ARRAY_N];  /* where they begin in the state of a whole tile */
	const uint8_t *on_nvme;            /* [n_tiles] ST_ON_NVME_*; the rest lives in memory */
	uint64_t chunk_bytes;              /* holds what is read of any chunk; 0: nothing is read */
};

/**
 * st_lookup_init() - chunks for a table that begins unit `unit`, tensor 0, as [rows, cols].
 * A chunk's buffer takes at most half of the largest tile's state, so that two of them fit wherever
 * one tile does.
 * @param max_tokens  in, of one pass of the first stage
 * @param on_nvme     in [layout->n_tiles], borrowed for the lookup's life
 * @return 0; -EINVAL: the unit does not begin with such a table. A row longer than a storage tile
 *         is no error: then n_chunks is 0.
 */
ST_MUST_CHECK int st_lookup_init(struct st_lookup *l, const struct st_layout *layout, uint32_t unit,
				 size_t cols, size_t max_tokens, const uint8_t *on_nvme);

/** st_lookup_needs() - the update of a tile of the table reads this array. */
bool st_lookup_needs(const struct st_lookup *l, enum strata_optim_array array, uint32_t tile);
/** st_lookup_reads() - and it comes from NVMe. */
bool st_lookup_reads(const struct st_lookup *l, enum strata_optim_array array, uint32_t tile);

/* The rows that a batch names, and the batch as numbers of them. */
struct st_rows {
	uint32_t n;
	uint32_t *row;   /* [max_rows] ascending */
	int32_t *tokens; /* [tokens of the batch] */
};

/**
 * st_rows_find() - which rows max_tokens tokens name.
 * @param number  scratch [rows of the table]
 * @return 0; STRATA_E_INPUT: a token that is no row
 */
ST_MUST_CHECK int st_rows_find(const struct st_lookup *l, struct st_rows *r, const int32_t *tokens,
			       int32_t *number);

/** st_rows_in_chunk() - how many of n rows chunk `chunk` has; they begin at chunk * chunk_rows. */
uint32_t st_rows_in_chunk(const struct st_lookup *l, const struct st_rows *r, uint32_t chunk);

struct st_row_part { /* elements [first, first + n) of a row: those in one tile */
	uint32_t tile;
	size_t first, n;
	size_t tile_elem; /* where they begin in the tile */
};

/** st_row_part() - part `index` of a row of the table. @return false: there is no such part */
bool st_row_part(const struct st_lookup *l, uint32_t row, uint32_t index, struct st_row_part *out);

struct st_row_window { /* one read; len_bytes 0: none */
	enum strata_optim_array
		array; /* STRATA_ARRAY_GRAD: from the scratch; else from the store */
	uint32_t tile;
	uint64_t off_bytes, len_bytes; /* of the extent, or of the scratch's slot */
	uint64_t at_bytes;             /* in the chunk's buffer */
};

struct st_row_walk { /* over what is read of a chunk */
	const struct st_lookup *lookup;
	const uint32_t *row; /* [n] */
	uint32_t n;
	unsigned array;              /* of the next part */
	uint32_t i, index;           /* the next part */
	struct st_row_window window; /* of the latest part; the next one may join it */
};

/** st_rows_walk() - begin before the first window of a chunk. rows is borrowed for the walk. */
void st_rows_walk(struct st_row_walk *w, const struct st_lookup *l, const struct st_rows *rows,
		  uint32_t chunk);
/** st_rows_next() - the next window. @return false: there is none left */
bool st_rows_next(struct st_row_walk *w, struct st_row_window *out);

/**
 * st_rows_locate() - where the rows of a chunk lie in its buffer.
 * @param at  out [rows in the chunk][array][part] bytes from the buffer's start; untouched where
 *            nothing is read
 */
void st_rows_locate(const struct st_lookup *l, const struct st_rows *rows, uint32_t chunk,
		    uint64_t (*at)[STRATA_ARRAY_N][ST_ROW_PARTS_MAX]);

#endif
