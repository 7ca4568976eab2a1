/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu/host/matmul.c - products: oneDNN where it computes in the operands' dtype, else packed.
 *
 * fp32 operands, and bf16 ones where the processor multiplies them natively, go to oneDNN as they
 * lie. Everything else (fp16, bf16 on AVX2, mixed dtypes, what oneDNN refuses) takes the packed
 *path: operands are widened to fp32 while they are packed into panels, which costs nothing extra,
 *for every transpose the same; sums run in fp32 and are rounded once.
 *
 * The packed path cuts m, n and k by shape only:
 *	for each M_CHUNK rows, for each N_CHUNK columns, for each K_CHUNK in order:
 *		pack A, pack B		(all threads, panels dealt out; A once if it has one chunk)
 *		macro-tiles of C	(all threads; cuts of 256 summed in L2, then written or,
 *					with several K_CHUNKs, added to `part` in scratch)
 * Each element of C is summed by one thread at a time in the order of k, so its bits depend on
 * neither the number of threads nor the place of the operands.
 */
#include "gpu/host/host.h"
#include "gpu/host/onednn.h"

#define M_CHUNK 2048u
#define N_CHUNK 1536u
#define K_CHUNK 1024u
#define A_GROUP 8u /* panels packed at a time: their source shares cache lines */
#define B_GROUP 4u

struct plan {              /* of one product, from its sizes alone */
	size_t kc, chunks; /* depth of a chunk, number of chunks */
	size_t m_chunk, n_chunk;
	size_t a_floats, b_floats, part_floats;
};

static size_t round_up(size_t x, size_t to)
{
	return (x + to - 1) / to * to;
}

static struct plan plan_product(const struct st_host_kernels *k, const struct st_matmul *mm)
{
	struct plan p;

	p.chunks = (mm->k + K_CHUNK - 1) / K_CHUNK;
	p.kc = round_up((mm->k + p.chunks - 1) / p.chunks, 8);
	p.chunks = (mm->k + p.kc - 1) / p.kc;
	p.m_chunk = mm->m < M_CHUNK ? mm->m : M_CHUNK;
	p.n_chunk = mm->n < N_CHUNK ? mm->n : N_CHUNK;
	p.a_floats = round_up(round_up(p.m_chunk, k->mr) * p.kc, 16);
	p.b_floats = round_up(round_up(p.n_chunk, k->nr) * p.kc, 16);
	p.part_floats = p.chunks > 1 ? p.m_chunk * round_up(p.n_chunk, k->nr) : 0;
	return p;
}

size_t st_host_packed_work_bytes(const struct st_host_kernels *k, const struct st_matmul *mm)
{
	struct plan p = plan_product(k, mm);

	return (p.a_floats + p.b_floats + p.part_floats) * sizeof(float);
}

static const void *element(const void *p, enum st_dtype t, size_t row, size_t ld, size_t col)
{
	return (const char *)p + (row * ld + col) * st_dtype_bytes(t);
}

struct chunk { /* of m, n and k */
	const struct st_host_kernels *k;
	const struct st_matmul *mm;
	size_t m0, m, n0, n, k0, kc;
	float *a, *b; /* packed */
	bool is_a_packed;
	struct st_gemm_tile tile;
};

static void pack_a_group(const struct chunk *c, size_t row)
{
	const struct st_matmul *mm = c->mm;
	size_t group = A_GROUP * c->k->mr, rows = c->m - row < group ? c->m - row : group;
	const void *src = mm->trans_a ? element(mm->a, mm->a_dtype, c->k0, mm->lda, c->m0 + row)
				      : element(mm->a, mm->a_dtype, c->m0 + row, mm->lda, c->k0);

	c->k->pack_a[mm->a_dtype](src, mm->lda, mm->trans_a, rows, c->kc, c->a + row * c->kc);
}

static void pack_b_group(const struct chunk *c, size_t col)
{
	const struct st_matmul *mm = c->mm;
	size_t group = B_GROUP * c->k->nr, cols = c->n - col < group ? c->n - col : group;
	const void *src = mm->trans_b ? element(mm->b, mm->b_dtype, c->n0 + col, mm->ldb, c->k0)
				      : element(mm->b, mm->b_dtype, c->k0, mm->ldb, c->n0 + col);

	c->k->pack_b[mm->b_dtype](src, mm->ldb, mm->trans_b, cols, c->kc, c->b + col * c->kc);
}

static void run_tile(const struct chunk *c, size_t row, size_t col)
{
	const struct st_matmul *mm = c->mm;
	struct st_gemm_tile t = c->tile;

	t.rows = c->m - row < ST_GEMM_M_TILE ? c->m - row : ST_GEMM_M_TILE;
	t.cols = c->n - col < ST_GEMM_N_TILE ? c->n - col : ST_GEMM_N_TILE;
	t.kc = c->kc;
	t.a = c->a + row * c->kc;
	t.b = c->b + col * c->kc;
	if (t.part)
		t.part += row * t.ld_part + col;
	t.c = (char *)mm->c + ((c->m0 + row) * mm->ldc + c->n0 + col) * st_dtype_bytes(mm->c_dtype);
	if (t.bias)
		t.bias = (const char *)t.bias + (c->n0 + col) * st_dtype_bytes(t.bias_dtype);
	c->k->gemm_tile(&t);
}

static void run_chunk(struct chunk *c, unsigned threads)
{
	size_t a_group = A_GROUP * c->k->mr, b_group = B_GROUP * c->k->nr;

#pragma omp parallel num_threads(threads)
	{
		if (!c->is_a_packed) {
#pragma omp for schedule(static) nowait
			for (size_t row = 0; row < c->m; row += a_group)
				pack_a_group(c, row);
		}
#pragma omp for schedule(static)
		for (size_t col = 0; col < c->n; col += b_group)
			pack_b_group(c, col);
			/* A tile's bits do not depend on who computes it, so whoever is free takes
			 * the next. */
#pragma omp for collapse(2) schedule(dynamic)
		for (size_t row = 0; row < c->m; row += ST_GEMM_M_TILE)
			for (size_t col = 0; col < c->n; col += ST_GEMM_N_TILE)
				run_tile(c, row, col);
	}
}

/* All chunks of k, in order, of one chunk of C. */
static void run_chunks(struct chunk *c, const struct plan *p, unsigned threads)
{
	for (size_t i = 0; i < p->chunks; i++) {
		c->k0 = i * p->kc;
		c->kc = c->mm->k - c->k0 < p->kc ? c->mm->k - c->k0 : p->kc;
		c->is_a_packed = p->chunks == 1 && c->n0 > 0;
		c->tile.is_first = i == 0;
		c->tile.is_last = i == p->chunks - 1;
		run_chunk(c, threads);
	}
}

void st_host_packed_matmul(const struct st_host_kernels *k, unsigned threads,
			   const struct st_matmul *mm, enum st_dtype bias_dtype)
{
	struct plan p = plan_product(k, mm);
	struct chunk c = { .k = k, .mm = mm, .a = mm->work };

	c.b = c.a + p.a_floats;
	c.tile.part = p.chunks > 1 ? c.b + p.b_floats : NULL;
	c.tile.ld_part = round_up(p.n_chunk, k->nr);
	c.tile.ldc = mm->ldc;
	c.tile.c_dtype = mm->c_dtype;
	c.tile.accumulate = mm->accumulate;
	c.tile.bias = mm->bias;
	c.tile.bias_dtype = bias_dtype;
	for (c.m0 = 0; c.m0 < mm->m; c.m0 += p.m_chunk) {
		c.m = mm->m - c.m0 < p.m_chunk ? mm->m - c.m0 : p.m_chunk;
		for (c.n0 = 0; c.n0 < mm->n; c.n0 += p.n_chunk) {
			c.n = mm->n - c.n0 < p.n_chunk ? mm->n - c.n0 : p.n_chunk;
			run_chunks(&c, &p, threads);
		}
	}
}

/* oneDNN computes it as it is, without a copy. Of fp16 it is not asked: before AVX512_FP16 it has
 * nothing but reference loops, and one way everywhere keeps the bits alike. */
static bool is_native(const struct st_host *h, const struct st_matmul *mm)
{
	if (mm->a_dtype != mm->b_dtype || mm->a_dtype == ST_F16 || mm->c_dtype == ST_F16 ||
	    (mm->bias && h->dev.dtype == ST_F16))
		return false;
	if (mm->a_dtype == ST_F32)
		return mm->c_dtype == ST_F32;
	return h->dev.caps.has_native_bf16;
}

size_t st_host_matmul_work_bytes(const struct st_device *dev, const struct st_matmul *mm)
{
	const struct st_host *h = st_host_const(dev);
	size_t bytes;

	if (is_native(h, mm) && st_onednn_work_bytes(h->dnn, mm, dev->dtype, &bytes) == 0)
		return bytes;
	return st_host_packed_work_bytes(h->k, mm);
}

void st_host_matmul(struct st_device *dev, const struct st_matmul *mm)
{
	struct st_host *h = st_host(dev);
	int rc = STRATA_E_UNSUPPORTED;
	size_t bytes;

	if (is_native(h, mm))
		rc = st_onednn_work_bytes(h->dnn, mm, dev->dtype, &bytes);
	if (rc == 0)
		rc = st_onednn_matmul(h->dnn, mm, dev->dtype);
	else if (rc == STRATA_E_UNSUPPORTED) {
		st_host_packed_matmul(h->k, h->threads, mm, dev->dtype);
		rc = 0;
	}
	if (rc < 0)
		st_device_fail(dev, rc);
}
