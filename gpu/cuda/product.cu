/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu/cuda/product.cu - products that cuBLASLt has nothing for: right for all, fast for none.
 *
 * C [m,n] (+)= op(A) op(B) (+ bias) in any mix of dtypes. A block makes a TILE x TILE piece of C
 * from TILE-deep pieces of A and B that it widens into shared memory; each element is summed in
 * fp32 by one thread in the order of k.
 */
#include "gpu/cuda/c_headers.h"
#include "gpu/cuda/elements.h"
#include "gpu/cuda/cuda.h"

#define TILE    32u
#define THREADS 256
#define EACH    (TILE * TILE / THREADS) /* elements of C a thread */
#define PITCH   (TILE + 1)              /* of shared memory: columns without conflicts */

struct product { /* what the kernel is told, by value */
	size_t m, n, k, lda, ldb, ldc;
	const void *a, *b, *bias;
	void *c;
	unsigned char a_dtype, b_dtype, c_dtype, bias_dtype;
	bool trans_a, trans_b, accumulate;
};

ST_DEVICE float element(const void *p, unsigned dtype, size_t i)
{
	if (dtype == ST_F32)
		return load((const float *)p + i);
	if (dtype == ST_BF16)
		return to_f32(load((const st_bf16 *)p + i));
	return to_f32(load((const st_f16 *)p + i));
}

ST_DEVICE void element_set(void *p, unsigned dtype, size_t i, float x)
{
	if (dtype == ST_F32)
		store((float *)p + i, x);
	else if (dtype == ST_BF16)
		store((st_bf16 *)p + i, from_f32<st_bf16>(x));
	else
		store((st_f16 *)p + i, from_f32<st_f16>(x));
}

ST_KERNEL(THREADS) product_any(struct product p)
{
	float *a = (float *)(void *)shared_memory(), *b = a + TILE * PITCH;
	const size_t row0 = (size_t)blockIdx.y * TILE, col0 = (size_t)blockIdx.x * TILE;
	const unsigned t = threadIdx.x, col = t % TILE, row = t / TILE; /* + j * THREADS / TILE */
	float sum[EACH];

	for (unsigned j = 0; j < EACH; j++)
		sum[j] = 0.0f;
	for (size_t k0 = 0; k0 < p.k; k0 += TILE) {
		/* a [row][k], b [k][col]; neighbours in a warp read neighbours in memory */
		for (unsigned i = t; i < TILE * TILE; i += THREADS) {
			const unsigned hi = i / TILE, lo = i % TILE;
			const unsigned ar = p.trans_a ? lo : hi, ak = p.trans_a ? hi : lo;
			const unsigned bk = p.trans_b ? lo : hi, bc = p.trans_b ? hi : lo;
			float x = 0.0f, y = 0.0f;

			if (row0 + ar < p.m && k0 + ak < p.k)
				x = element(p.a, p.a_dtype,
					    p.trans_a ? (k0 + ak) * p.lda + row0 + ar
						      : (row0 + ar) * p.lda + k0 + ak);
			if (k0 + bk < p.k && col0 + bc < p.n)
				y = element(p.b, p.b_dtype,
					    p.trans_b ? (col0 + bc) * p.ldb + k0 + bk
						      : (k0 + bk) * p.ldb + col0 + bc);
			a[ar * PITCH + ak] = x;
			b[bk * PITCH + bc] = y;
		}
		barrier();
		for (unsigned k = 0; k < TILE && k0 + k < p.k; k++)
			for (unsigned j = 0; j < EACH; j++)
				sum[j] = fma_rn(a[(row + j * (THREADS / TILE)) * PITCH + k],
						b[k * PITCH + col], sum[j]);
		barrier();
	}
	for (unsigned j = 0; j < EACH; j++) {
		const size_t r = row0 + row + j * (THREADS / TILE), c = col0 + col;
		float y = sum[j];

		if (r >= p.m || c >= p.n)
			continue;
		if (p.bias)
			y += element(p.bias, p.bias_dtype, c);
		if (p.accumulate)
			y += load((const float *)p.c + r * p.ldc + c);
		element_set(p.c, p.c_dtype, r * p.ldc + c, y);
	}
}

static size_t span(size_t rows, size_t cols, size_t ld, enum st_dtype dtype)
{
	return ((rows - 1) * ld + cols) * st_dtype_bytes(dtype);
}

cudaError_t st_cuda_product(cudaStream_t stream, const struct st_matmul *mm,
			    enum st_dtype bias_dtype)
{
	const dim3 grid((unsigned)st_ceil_div(mm->n, TILE), (unsigned)st_ceil_div(mm->m, TILE));
	const size_t a_bytes = span(mm->trans_a ? mm->k : mm->m, mm->trans_a ? mm->m : mm->k,
				    mm->lda, mm->a_dtype);
	const size_t b_bytes = span(mm->trans_b ? mm->n : mm->k, mm->trans_b ? mm->k : mm->n,
				    mm->ldb, mm->b_dtype);
	const size_t c_bytes = span(mm->m, mm->n, mm->ldc, mm->c_dtype);
	const size_t bias_bytes = mm->bias ? mm->n * st_dtype_bytes(bias_dtype) : 0;
	struct product p;
	auto *fn = product_any;

	p.m = mm->m;
	p.n = mm->n;
	p.k = mm->k;
	p.lda = mm->lda;
	p.ldb = mm->ldb;
	p.ldc = mm->ldc;
	p.a = mm->a;
	p.b = mm->b;
	p.c = mm->c;
	p.bias = mm->bias;
	p.a_dtype = (unsigned char)mm->a_dtype;
	p.b_dtype = (unsigned char)mm->b_dtype;
	p.c_dtype = (unsigned char)mm->c_dtype;
	p.bias_dtype = (unsigned char)bias_dtype;
	p.trans_a = mm->trans_a;
	p.trans_b = mm->trans_b;
	p.accumulate = mm->accumulate;
	(void)a_bytes; /* only the emulation looks at the spans */
	(void)b_bytes;
	(void)c_bytes;
	(void)bias_bytes;
	return ST_LAUNCH("product", fn, grid, THREADS, 2 * TILE * PITCH * sizeof(float), stream,
			 ST_SPANS({ p.a, a_bytes, false }, { p.b, b_bytes, false },
				  { p.c, c_bytes, true }, { p.bias, bias_bytes, false }),
			 p);
}
