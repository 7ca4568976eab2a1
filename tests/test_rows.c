/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_rows.c - rows of a table: windows, their places in a buffer, and reads of ranges.
 *
 * Timeout: 60
 */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "nvme/scratch.h"
#include "nvme/store.h"
#include "offload/rows.h"

struct table {
	struct st_tensor_desc tensor;
	struct st_unit_desc unit;
	struct st_model model;
	struct st_layout *layout;
};

static void table_init(struct table *t, size_t rows, size_t cols, enum st_dtype dtype,
		       enum strata_optim_moments moments)
{
	const struct st_formats formats = { .dtype = dtype,
					    .grad_dtype = dtype,
					    .moments = moments,
					    .optim = STRATA_OPTIM_CFG_DEFAULT };

	memset(t, 0, sizeof(*t));
	t->tensor = (struct st_tensor_desc){
		.name = "table", .n_dims = 2, .dims = { rows, cols }, .elems = rows * cols
	};
	t->unit = (struct st_unit_desc){ .name = "table", .tensors = &t->tensor, .n_tensors = 1 };
	t->unit.elems =
		(rows * cols + STRATA_NUMERIC_TILE - 1) / STRATA_NUMERIC_TILE * STRATA_NUMERIC_TILE;
	t->model = (struct st_model){ .units = &t->unit, .n_units = 1 };
	ck_assert_int_eq(st_layout_create(&t->layout, &t->model, &formats), 0);
}

static uint64_t extent_bytes(const struct table *t, const struct st_row_window *w)
{
	bool is_param =
		w->array == (t->layout->dtype == ST_F16 ? STRATA_ARRAY_LOW : STRATA_ARRAY_PARAM);

	if (w->array == STRATA_ARRAY_GRAD)
		return st_tile_grad_bytes(t->layout, w->tile);
	return t->layout->extent_bytes[2 * w->tile + !is_param];
}

/* Bytes of an element of an array, worked out apart from the code tested; 0: there is none, or the
 * update does not read it. Scales: per block. */
static size_t elem_bytes(const struct table *t, unsigned array)
{
	static const size_t moment[] = {
		[STRATA_MOMENTS_F32] = 4, [STRATA_MOMENTS_BF16] = 2, [STRATA_MOMENTS_INT8] = 1
	};
	enum st_dtype dtype = t->layout->dtype;

	switch (array) {
	case STRATA_ARRAY_PARAM:
		return dtype == ST_BF16 ? 2 : 4;
	case STRATA_ARRAY_LOW:
		return dtype == ST_BF16 ? 2 : 0;
	case STRATA_ARRAY_M:
	case STRATA_ARRAY_V:
		return moment[t->layout->formats.moments];
	case STRATA_ARRAY_GRAD:
		return dtype == ST_F32 ? 4 : 2;
	default:
		return t->layout->formats.moments == STRATA_MOMENTS_INT8 ? 4 : 0;
	}
}

/* Where a part's bytes lie in its extent: [off, off + len). */
static uint64_t expected_off(const struct table *t, unsigned array, const struct st_row_part *p,
			     uint64_t *len)
{
	const uint64_t gap = 21 * 64, n = t->layout->tiles[p->tile].elems;
	size_t b = elem_bytes(t, array), m = elem_bytes(t, STRATA_ARRAY_M);
	enum st_dtype dtype = t->layout->dtype;
	uint64_t master = n * (dtype == ST_BF16 ? 2 : dtype == ST_F16 ? 4 : 0);
	uint64_t m_at = gap + master + gap, v_at = m_at + n * m + gap, scales = v_at + n * m;
	uint64_t block = p->tile_elem / 128, end = (p->tile_elem + p->n + 127) / 128;

	ck_assert_uint_le(p->tile_elem + p->n, n);
	*len = p->n * b;
	switch (array) {
	case STRATA_ARRAY_PARAM:
		return (dtype == ST_F16 ? gap : 0) + p->tile_elem * b;
	case STRATA_ARRAY_LOW:
		return gap + p->tile_elem * b;
	case STRATA_ARRAY_M:
		return m_at + p->tile_elem * b;
	case STRATA_ARRAY_V:
		return v_at + p->tile_elem * b;
	case STRATA_ARRAY_GRAD:
		return p->tile_elem * b;
	default:
		*len = (end - block) * b;
		return scales + block * b + (array == STRATA_ARRAY_V_SCALE ? n / 128 * b : 0);
	}
}

#define WINDOWS_MAX (ST_ROWS_CHUNK_MAX * STRATA_ARRAY_N * ST_ROW_PARTS_MAX)

static bool is_read(const struct table *t, const struct st_lookup *l, unsigned array, uint32_t tile)
{
	bool in_param = array == STRATA_ARRAY_PARAM && t->layout->dtype != ST_F16;

	return elem_bytes(t, array) &&
	       l->on_nvme[tile] & (in_param                     ? ST_ON_NVME_PARAM
				   : array == STRATA_ARRAY_GRAD ? ST_ON_NVME_GRAD
								: ST_ON_NVME_STATE);
}

/* Every part lies whole in one window, at the place that locate() says. */
static void check_parts(const struct table *t, const struct st_lookup *l, const struct st_rows *r,
			uint32_t chunk, const struct st_row_window *w, uint32_t n_windows)
{
	static uint64_t at[ST_ROWS_CHUNK_MAX][STRATA_ARRAY_N][ST_ROW_PARTS_MAX];
	uint32_t first = chunk * l->chunk_rows;
	struct st_row_part p;

	st_rows_locate(l, r, chunk, at);
	for (uint32_t i = 0; i < st_rows_in_chunk(l, r, chunk); i++) {
		size_t elems = 0;

		for (uint32_t k = 0; st_row_part(l, r->row[first + i], k, &p); k++) {
			ck_assert_uint_eq(p.first, elems);
			elems += p.n;
			for (unsigned a = 0; a < STRATA_ARRAY_N; a++) {
				uint64_t len, off = expected_off(t, a, &p, &len);
				uint32_t hits = 0;

				for (uint32_t j = 0; j < n_windows; j++)
					hits += w[j].tile == p.tile && w[j].array == a &&
						w[j].off_bytes <= off &&
						off + len <= w[j].off_bytes + w[j].len_bytes &&
						at[i][a][k] - w[j].at_bytes == off - w[j].off_bytes;
				if (hits != is_read(t, l, a, p.tile))
					ck_abort_msg("row %u, array %u: in %u windows", i, a, hits);
			}
		}
		ck_assert_uint_eq(elems, l->cols);
	}
}

static uint32_t check_chunk(const struct table *t, const struct st_lookup *l,
			    const struct st_rows *r, uint32_t chunk)
{
	static struct st_row_window w[WINDOWS_MAX];
	struct st_row_walk walk;
	uint64_t end = 0;
	uint32_t n = 0;

	st_rows_walk(&walk, l, r, chunk);
	while (n < WINDOWS_MAX && st_rows_next(&walk, &w[n])) {
		ck_assert_uint_eq(w[n].at_bytes, end);
		ck_assert_uint_gt(w[n].len_bytes, 0);
		ck_assert_uint_eq((w[n].off_bytes | w[n].len_bytes) % ST_ROWS_BLOCK, 0);
		ck_assert_uint_le(w[n].off_bytes + w[n].len_bytes, extent_bytes(t, &w[n]));
		end += w[n].len_bytes;
		n++;
	}
	ck_assert(!st_rows_next(&walk, &w[0]) || n == WINDOWS_MAX);
	ck_assert_uint_le(end, l->chunk_bytes);
	check_parts(t, l, r, chunk, w, n);
	return n;
}

/* kind 0: spread out; 1: neighbours; 2: the rows that straddle tiles */
static void fill_tokens(const struct st_lookup *l, unsigned kind, int32_t *tokens)
{
	uint64_t z = kind + 1;

	for (size_t i = 0; i < l->max_tokens; i++) {
		z = z * 6364136223846793005u + 1442695040888963407u;
		if (kind == 0)
			tokens[i] = (int32_t)((z >> 33) % l->rows);
		else if (kind == 1)
			tokens[i] = (int32_t)(i % l->rows);
		else
			tokens[i] = (int32_t)((i + 1) * ST_STORAGE_TILE / l->cols % l->rows);
	}
}

static void check_table(size_t rows, size_t cols, enum st_dtype dtype,
			enum strata_optim_moments moments, unsigned reads)
{
	struct st_lookup l;
	struct st_rows r;
	struct table t;
	int32_t *tokens, *number;

	uint8_t *on_nvme;

	table_init(&t, rows, cols, dtype, moments);
	on_nvme = calloc(t.layout->n_tiles, 1);
	ck_assert_ptr_nonnull(on_nvme);
	for (uint32_t i = 0; i < t.layout->n_tiles; i++) /* bit 3: every other tile only */
		on_nvme[i] = reads & 8 && i % 2 ? 0 : (uint8_t)(reads & 7);
	ck_assert_int_eq(st_lookup_init(&l, t.layout, 0, cols, 200, on_nvme), 0);
	ck_assert_uint_ge(l.n_chunks * l.chunk_rows, l.max_rows);
	tokens = calloc(l.max_tokens, sizeof(*tokens));
	number = calloc(l.rows, sizeof(*number));
	r.tokens = calloc(l.max_tokens, sizeof(*r.tokens));
	r.row = calloc(l.max_rows, sizeof(*r.row));
	ck_assert(tokens && number && r.tokens && r.row);
	for (unsigned kind = 0; kind < 3; kind++) {
		uint32_t covered = 0;

		fill_tokens(&l, kind, tokens);
		ck_assert_int_eq(st_rows_find(&l, &r, tokens, number), 0);
		for (size_t i = 0; i < l.max_tokens; i++)
			ck_assert_int_eq((int)r.row[r.tokens[i]], tokens[i]);
		for (uint32_t i = 1; i < r.n; i++)
			ck_assert_uint_lt(r.row[i - 1], r.row[i]);
		for (uint32_t c = 0; c < l.n_chunks; c++) {
			uint32_t n = check_chunk(&t, &l, &r, c);

			covered += st_rows_in_chunk(&l, &r, c);
			if (!st_rows_in_chunk(&l, &r, c) || !reads)
				ck_assert_uint_eq(n, 0);
		}
		ck_assert_uint_eq(covered, r.n);
	}
	free(tokens);
	free(number);
	free(on_nvme);
	free(r.tokens);
	free(r.row);
	st_layout_destroy(t.layout);
}

START_TEST(windows_hold_every_part)
{
	static const size_t shapes[][2] = { { 50257, 16 },         { 4111, 72 },   { 911, 768 },
					    { 400, 1600 },         { 40, 131072 }, { 7, 8 },
					    { 3, ST_STORAGE_TILE } };

	static const unsigned all_reads[] = { 0, 1, 2, 4, 7, 15 };

	for (size_t i = 0; i < ST_ARRAY_LEN(shapes); i++)
		for (unsigned k = 0; k < ST_ARRAY_LEN(all_reads); k++) {
			unsigned reads = all_reads[k];

			check_table(shapes[i][0], shapes[i][1], ST_BF16, STRATA_MOMENTS_F32, reads);
			check_table(shapes[i][0], shapes[i][1], ST_BF16, STRATA_MOMENTS_INT8,
				    reads);
			check_table(shapes[i][0], shapes[i][1], ST_F16, STRATA_MOMENTS_BF16, reads);
			check_table(shapes[i][0], shapes[i][1], ST_F32, STRATA_MOMENTS_F32, reads);
		}
}
END_TEST

START_TEST(two_chunks_fit_where_a_tile_does)
{
	uint8_t all[256];
	struct st_lookup l;
	struct table t;

	memset(all, ST_ON_NVME_PARAM | ST_ON_NVME_STATE | ST_ON_NVME_GRAD, sizeof(all));
	table_init(&t, 50257, 768, ST_BF16, STRATA_MOMENTS_F32);
	ck_assert_uint_le(t.layout->n_tiles, sizeof(all));
	ck_assert_int_eq(st_lookup_init(&l, t.layout, 0, 768, 2048, all), 0);
	ck_assert_uint_le(2 * l.chunk_bytes, st_tile_state_bytes(t.layout, 0));
	ck_assert_uint_ge(l.chunk_rows, 16);
	/* A row longer than a tile has no place here; a table that is none is refused. */
	st_layout_destroy(t.layout);
	table_init(&t, 2, ST_STORAGE_TILE + 8, ST_BF16, STRATA_MOMENTS_F32);
	ck_assert_int_eq(st_lookup_init(&l, t.layout, 0, ST_STORAGE_TILE + 8, 4, all), 0);
	ck_assert_uint_eq(l.n_chunks, 0);
	ck_assert_int_eq(st_lookup_init(&l, t.layout, 0, 8, 4, all), -EINVAL);
	st_layout_destroy(t.layout);
}
END_TEST

START_TEST(a_token_that_is_no_row_is_named)
{
	const uint8_t none[1] = { 0 };
	int32_t tokens[4] = { 0, 1, 6, 2 }, number[7], out[4];
	uint32_t row[4];
	struct st_rows r = { .row = row, .tokens = out };
	struct st_lookup l;
	struct table t;

	table_init(&t, 7, 8, ST_BF16, STRATA_MOMENTS_F32);
	ck_assert_int_eq(st_lookup_init(&l, t.layout, 0, 8, 4, none), 0);
	ck_assert_int_eq(st_rows_find(&l, &r, tokens, number), 0);
	tokens[2] = 7;
	ck_assert_int_eq(st_rows_find(&l, &r, tokens, number), STRATA_E_INPUT);
	ck_assert_msg(strstr(st_last_error(), "token 2") && strstr(st_last_error(), "7"), "%s",
		      st_last_error());
	tokens[2] = -1;
	ck_assert_int_eq(st_rows_find(&l, &r, tokens, number), STRATA_E_INPUT);
	st_layout_destroy(t.layout);
}
END_TEST

/* ---- ranges of extents and slots ----------------------------------------------------------- */

#define BLOCK  ((size_t)4096)
#define EXTENT (8 * BLOCK)

static void fill(uint8_t *buf, unsigned salt)
{
	for (size_t i = 0; i < EXTENT; i++)
		buf[i] = (uint8_t)(i / 97 + i * salt);
}

static void run_one(struct st_aio_queue *q, struct st_aio_req *req)
{
	ck_assert_msg(st_aio_run(q, req, 1) == 0, "%s", st_last_error());
}

static void write_extent(struct st_store *s, struct st_aio_queue *q, uint8_t *buf, unsigned salt)
{
	struct st_aio_req req = { 0 };

	fill(buf, salt);
	ck_assert_int_eq(st_store_prep_write(s, 1, buf, &req), 0);
	run_one(q, &req);
	st_store_write_done(s, 1, st_store_checksum(s, 1, buf));
}

static const uint64_t bad_ranges[][2] = { { 0, 0 },
					  { 1, BLOCK },
					  { 0, BLOCK + 1 },
					  { EXTENT, BLOCK },
					  { BLOCK, EXTENT },
					  { UINT64_MAX - BLOCK + 1, BLOCK },
					  { 0, EXTENT + BLOCK } };

/* A range is read from the slot that a whole read would take, also between a write and its commit.
 */
START_TEST(a_range_is_that_of_the_live_version)
{
	const uint64_t sizes[] = { BLOCK, EXTENT };
	char dir[] = STRATA_BUILD_DIR "/rows-XXXXXX", json[4096];
	const char *paths[] = { dir };
	const struct st_store_cfg cfg = { .paths = paths,
					  .n_paths = 1,
					  .extent_bytes = sizes,
					  .n_extents = 2,
					  .checksum = true };
	struct st_aio_cfg aio = ST_AIO_CFG_DEFAULT;
	struct st_aio_queue *q;
	struct st_store *s;
	struct st_aio_req req = { 0 };
	uint8_t *buf = aligned_alloc(BLOCK, EXTENT), *got = aligned_alloc(BLOCK, EXTENT);

	ck_assert(buf && got && mkdtemp(dir));
	ck_assert_int_eq(st_aio_open(&q, &aio), 0);
	ck_assert_int_eq(st_store_create(&s, &cfg, json, sizeof(json)), 0);
	ck_assert_int_eq(st_store_prep_read_range(s, 1, 0, BLOCK, got, &req), STRATA_E_CORRUPT);
	for (unsigned salt = 1; salt < 4; salt++) {
		write_extent(s, q, buf, salt);
		for (size_t off = 0; off < EXTENT; off += 3 * BLOCK) {
			size_t len = EXTENT - off < 2 * BLOCK ? EXTENT - off : 2 * BLOCK;

			ck_assert_int_eq(st_store_prep_read_range(s, 1, off, len, got, &req), 0);
			run_one(q, &req);
			ck_assert_int_eq(memcmp(got, buf + off, len), 0);
		}
		if (salt != 2)
			ck_assert_int_eq(st_store_commit(s, q, NULL, 0), 0);
	}
	for (size_t i = 0; i < ST_ARRAY_LEN(bad_ranges); i++)
		ck_assert_int_eq(st_store_prep_read_range(s, 1, bad_ranges[i][0], bad_ranges[i][1],
							  got, &req),
				 -EINVAL);
	ck_assert_int_eq(st_store_prep_read_range(s, 1, 0, BLOCK, got + 1, &req), -EINVAL);
	ck_assert_int_eq(st_store_prep_read_range(s, 2, 0, BLOCK, got, &req), -EINVAL);
	st_aio_close(q);
	st_store_close(s, true);
	ck_assert_int_eq(rmdir(dir), 0);
	free(buf);
	free(got);
}
END_TEST

START_TEST(a_range_of_the_scratch)
{
	const uint64_t sizes[] = { BLOCK, EXTENT };
	const char *paths[] = { STRATA_BUILD_DIR };
	struct st_aio_cfg aio = ST_AIO_CFG_DEFAULT;
	struct st_aio_queue *q;
	struct st_scratch *s;
	struct st_aio_req req = { 0 };
	uint8_t *buf = aligned_alloc(BLOCK, EXTENT), *got = aligned_alloc(BLOCK, EXTENT);

	ck_assert(buf && got);
	ck_assert_int_eq(st_aio_open(&q, &aio), 0);
	ck_assert_int_eq(st_scratch_create(&s, paths, 1, NULL, sizes, 2), 0);
	fill(buf, 5);
	st_scratch_prep(s, 1, buf, true, &req);
	run_one(q, &req);
	ck_assert_int_eq(st_scratch_prep_read_range(s, 1, 5 * BLOCK, 3 * BLOCK, got, &req), 0);
	run_one(q, &req);
	ck_assert_int_eq(memcmp(got, buf + 5 * BLOCK, 3 * BLOCK), 0);
	for (size_t i = 0; i < ST_ARRAY_LEN(bad_ranges); i++)
		ck_assert_int_eq(st_scratch_prep_read_range(s, 1, bad_ranges[i][0],
							    bad_ranges[i][1], got, &req),
				 -EINVAL);
	st_aio_close(q);
	st_scratch_destroy(s);
	free(buf);
	free(got);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("rows");
	TCase *t = tcase_create("rows");
	SRunner *r;
	int failed;

	tcase_add_test(t, windows_hold_every_part);
	tcase_add_test(t, two_chunks_fit_where_a_tile_does);
	tcase_add_test(t, a_token_that_is_no_row_is_named);
	tcase_add_test(t, a_range_is_that_of_the_live_version);
	tcase_add_test(t, a_range_of_the_scratch);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
