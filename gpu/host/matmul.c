/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu/host/matmul.c - products: oneDNN where it computes in the operands' dtype, else packed.
 *
 * fp32 operands, and bf16 ones where the processor multiplies them natively, go to oneDNN as they
 * lie. Everything else (bf16 on AVX2, mixed dtypes, what oneDNN refuses) takes the packed path:
 * operands are widened to fp32 while they are packed into panels, which costs nothing extra, for
 * every transpose the same; sums run in fp32 and are rounded once.
 *
 * The packed path cuts m, n and k by shape only:
 *	for each M_CHUNK rows, for each N_CHUNK columns:
 *		for each cut of k, in order:
 *			pack A, pack B		(all threads, panels dealt out)
 *			macro-tiles of C	(all threads; each adds its cut to `part`, fp32)
 * Each element of C is summed by one thread at a time in the order of k, so its bits depend on
 * neither the number of threads nor the place of the operands.
 */
#include "gpu/host/host.h"
#include "gpu/host/onednn.h"

#define K_CUT   256u /* panels of B of this depth stay in L1 */
#define M_CHUNK 2048u
#define N_CHUNK 3072u
#define M_TILE  96u  /* macro-tile: its part of A stays in L2; a multiple of every mr */
#define N_TILE  256u /* a multiple of every nr */

struct plan {            /* of one product, from its sizes alone */
	size_t kc, cuts; /* depth of a cut, number of cuts */
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

	p.cuts = (mm->k + K_CUT - 1) / K_CUT;
	p.kc = round_up((mm->k + p.cuts - 1) / p.cuts, 8);
	p.cuts = (mm->k + p.kc - 1) / p.kc;
	p.m_chunk = mm->m < M_CHUNK ? mm->m : M_CHUNK;
	p.n_chunk = mm->n < N_CHUNK ? mm->n : N_CHUNK;
	p.a_floats = round_up(round_up(p.m_chunk, k->mr) * p.kc, 16);
	p.b_floats = round_up(round_up(p.n_chunk, k->nr) * p.kc, 16);
	p.part_floats = p.cuts > 1 ? p.m_chunk * round_up(p.n_chunk, k->nr) : 0;
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

struct chunk { /* one chunk of C, one cut of k */
	const struct st_host_kernels *k;
	const struct st_matmul *mm;
	size_t m0, m, n0, n, k0, kc;
	float *a, *b; /* packed */
	struct st_gemm_tile tile;
};

static void pack_panel(const struct chunk *c, size_t i)
{
	const struct st_matmul *mm = c->mm;
	const struct st_host_kernels *k = c->k;
	size_t a_panels = (c->m + k->mr - 1) / k->mr;

	if (i < a_panels) {
		size_t r = i * k->mr, rows = c->m - r < k->mr ? c->m - r : k->mr;
		const void *src = mm->trans_a
					  ? element(mm->a, mm->a_dtype, c->k0, mm->lda, c->m0 + r)
					  : element(mm->a, mm->a_dtype, c->m0 + r, mm->lda, c->k0);

		k->pack_a[mm->a_dtype == ST_BF16](src, mm->lda, mm->trans_a, rows, c->kc,
						  c->a + r * c->kc);
	} else {
		size_t j = (i - a_panels) * k->nr, cols = c->n - j < k->nr ? c->n - j : k->nr;
		const void *src = mm->trans_b
					  ? element(mm->b, mm->b_dtype, c->n0 + j, mm->ldb, c->k0)
					  : element(mm->b, mm->b_dtype, c->k0, mm->ldb, c->n0 + j);

		k->pack_b[mm->b_dtype == ST_BF16](src, mm->ldb, mm->trans_b, cols, c->kc,
						  c->b + j * c->kc);
	}
}

static void run_tile(const struct chunk *c, size_t row, size_t col)
{
	const struct st_matmul *mm = c->mm;
	struct st_gemm_tile t = c->tile;
	size_t bias_bytes = t.bias_bf16 ? 2 : 4;

	t.rows = c->m - row < M_TILE ? c->m - row : M_TILE;
	t.cols = c->n - col < N_TILE ? c->n - col : N_TILE;
	t.kc = c->kc;
	t.a = c->a + row * c->kc;
	t.b = c->b + col * c->kc;
	if (t.part)
		t.part += row * t.ld_part + col;
	t.c = (char *)mm->c + ((c->m0 + row) * mm->ldc + c->n0 + col) * st_dtype_bytes(mm->c_dtype);
	if (t.bias)
		t.bias = (const char *)t.bias + (c->n0 + col) * bias_bytes;
	c->k->gemm_tile(&t);
}

static void run_chunk(struct chunk *c, const struct plan *p, unsigned threads)
{
	size_t panels = (c->m + c->k->mr - 1) / c->k->mr + (c->n + c->k->nr - 1) / c->k->nr;

	for (size_t cut = 0; cut < p->cuts; cut++) {
		c->k0 = cut * p->kc;
		c->kc = c->mm->k - c->k0 < p->kc ? c->mm->k - c->k0 : p->kc;
		c->tile.is_first = cut == 0;
		c->tile.is_last = cut == p->cuts - 1;
#pragma omp parallel num_threads(threads)
		{
#pragma omp for schedule(static)
			for (size_t i = 0; i < panels; i++)
				pack_panel(c, i);
#pragma omp for collapse(2) schedule(static)
			for (size_t row = 0; row < c->m; row += M_TILE)
				for (size_t col = 0; col < c->n; col += N_TILE)
					run_tile(c, row, col);
		}
	}
}

void st_host_packed_matmul(const struct st_host_kernels *k, unsigned threads,
			   const struct st_matmul *mm, bool bias_bf16)
{
	struct plan p = plan_product(k, mm);
	struct chunk c = { .k = k, .mm = mm, .a = mm->work };

	c.b = c.a + p.a_floats;
	c.tile.part = p.cuts > 1 ? c.b + p.b_floats : NULL;
	c.tile.ld_part = round_up(p.n_chunk, k->nr);
	c.tile.ldc = mm->ldc;
	c.tile.c_bf16 = mm->c_dtype == ST_BF16;
	c.tile.accumulate = mm->accumulate;
	c.tile.bias = mm->bias;
	c.tile.bias_bf16 = bias_bf16;
	for (c.m0 = 0; c.m0 < mm->m; c.m0 += p.m_chunk) {
		c.m = mm->m - c.m0 < p.m_chunk ? mm->m - c.m0 : p.m_chunk;
		for (c.n0 = 0; c.n0 < mm->n; c.n0 += p.n_chunk) {
			c.n = mm->n - c.n0 < p.n_chunk ? mm->n - c.n0 : p.n_chunk;
			run_chunk(&c, &p, threads);
		}
	}
}

/* oneDNN computes it as it is, without a copy. */
static bool is_native(const struct st_host *h, const struct st_matmul *mm)
{
	if (mm->a_dtype != mm->b_dtype)
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
		st_host_packed_matmul(h->k, h->threads, mm, dev->dtype == ST_BF16);
		rc = 0;
	}
	if (rc < 0)
		st_device_fail(dev, rc);
}
