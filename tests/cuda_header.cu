/* SPDX-License-Identifier: Apache-2.0 */
/* tests/cuda_header.cu - kernels that do one thing each of gpu/cuda/portable.h. */
#include "gpu/cuda/elements.h"
#include "tests/cuda_cases.h"

/* a: 16 rows of 16; b: 16 rows of 8, or transposed 8 rows of 16; both in rows of 16 bytes pieces.
 */
template <typename T, bool IS_TRANS> ST_KERNEL(ST_WARP) header_mma(const T *a, const T *b, float *d)
{
	T *const sa = (T *)shared_memory(), *const sb = sa + 256;
	const int lane = (int)threadIdx.x;
	float sum[4] = { 0.0f, 0.0f, 0.0f, 0.0f };
	uint32_t x[4], y[4];

	copy16_async(sa + lane * 8, a + lane * 8, true);
	copy_commit();
	copy16_async(sb + lane * 8, b + lane % 16 * 8, lane < 16);
	copy_commit();
	copy_wait<1>();
	barrier();
	ldmatrix(x, sa + lane % 16 * 16 + lane / 16 * 8);
	copy_wait<0>();
	barrier();
	if (IS_TRANS) /* sb: 8 rows of 16, k along the row: pieces of k are matrices 0 and 1 */
		ldmatrix(y, sb + lane % 8 * 16 + lane / 8 % 2 * 8);
	else /* 16 rows of 8: rows are k */
		ldmatrix_trans(y, sb + lane % 16 * 8);
	mma(T{}, sum, x, y);
	for (int i = 0; i < 4; i++)
		store(d + (lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2, sum[i]);
}

template <typename T>
static cudaError_t launch_mma(cudaStream_t s, const T *a, const T *b, bool is_trans, float *d)
{
	auto *fn = is_trans ? header_mma<T, true> : header_mma<T, false>;

	return ST_LAUNCH("header_mma", fn, 1, ST_WARP, 512 * sizeof(T), s,
			 ST_SPANS({ a, 256 * sizeof(T), false }, { b, 128 * sizeof(T), false },
				  { d, 128 * sizeof(float), true }),
			 a, b, d);
}

cudaError_t cuda_header_mma(cudaStream_t s, enum st_dtype dt, const void *a, const void *b,
			    bool is_b_transposed, float *d)
{
	if (dt == ST_BF16)
		return launch_mma(s, (const st_bf16 *)a, (const st_bf16 *)b, is_b_transposed, d);
	return launch_mma(s, (const st_f16 *)a, (const st_f16 *)b, is_b_transposed, d);
}

ST_KERNEL(ST_WARP) header_exp2(const float *x, float *y)
{
	const size_t i = (size_t)blockIdx.x * ST_WARP + threadIdx.x;

	store(y + i, exp2_fast(load(x + i)));
}

cudaError_t cuda_header_exp2(cudaStream_t s, size_t n, const float *x, float *y)
{
	return ST_LAUNCH("header_exp2", header_exp2, (unsigned)(n / ST_WARP), ST_WARP, 0, s,
			 ST_SPANS({ x, n * sizeof(float), false }, { y, n * sizeof(float), true }),
			 x, y);
}

/* Two warps: the first one's values; the second one only joins the barrier. */
ST_KERNEL(2 * ST_WARP)
header_warp(const float *x, int lane_mask, float *y, uint32_t *votes, uint32_t *any)
{
	const int lane = (int)threadIdx.x % ST_WARP;
	const bool is_first = threadIdx.x < ST_WARP;
	const float mine = is_first ? load(x + lane) : 0.0f;
	const float other = shfl_xor(mine, lane_mask);
	const uint32_t all = vote(mine > 0.0f);
	const bool is_any = barrier_or(mine > 0.0f);

	if (is_first) {
		store(y + lane, other);
		if (lane == 0)
			store(votes, all);
	} else if (lane == 0) {
		store(any, (uint32_t)is_any);
	}
}

cudaError_t cuda_header_warp(cudaStream_t s, const float *x, int lane_mask, float *y,
			     uint32_t *votes, uint32_t *any)
{
	return ST_LAUNCH("header_warp", header_warp, 1, 2 * ST_WARP, 0, s,
			 ST_SPANS({ x, 32 * sizeof(float), false }, { y, 32 * sizeof(float), true },
				  { votes, sizeof(*votes), true }, { any, sizeof(*any), true }),
			 x, lane_mask, y, votes, any);
}
