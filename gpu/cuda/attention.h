/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu/cuda/attention.h - what the two kinds of attention kernels share.
 *
 * Layer: gpu/cuda, included by attention*.cu only
 *
 * attention.cu multiplies on tensor cores: bf16 and fp16, head_dim up to 128, operands at 16 bytes.
 * attention_fma.cu takes everything else.
 */
#ifndef GPU_CUDA_ATTENTION_H
#define GPU_CUDA_ATTENTION_H

#include "gpu/cuda/elements.h"
#include "gpu/cuda/kernels.h"

#define LOG2E 1.4426950408889634f
#define LN2   0.69314718055994531f

/* One head of one sequence is blockIdx.x. */
struct attn_args {
	size_t seq, heads, head_dim;
	const void *qkv, *out, *dout;
	void *result;       /* out, or dqkv */
	float *lse, *delta; /* [batch, heads, seq]; delta: sum of dout * out of a row */
	float scale;        /* 1 / sqrt(head_dim) */
};

/* The head's first row of q (which = 0), k, v in qkv; of out. Strides in elements. */
ST_DEVICE size_t attn_qkv_at(const struct attn_args &a, unsigned which)
{
	const size_t width = a.heads * a.head_dim, b = blockIdx.x / a.heads,
		     h = blockIdx.x % a.heads;

	return b * a.seq * 3 * width + which * width + h * a.head_dim;
}

ST_DEVICE size_t attn_out_at(const struct attn_args &a)
{
	const size_t width = a.heads * a.head_dim, b = blockIdx.x / a.heads,
		     h = blockIdx.x % a.heads;

	return b * a.seq * width + h * a.head_dim;
}

ST_DEVICE size_t attn_ld_qkv(const struct attn_args &a)
{
	return 3 * a.heads * a.head_dim;
}

ST_DEVICE size_t attn_ld_out(const struct attn_args &a)
{
	return a.heads * a.head_dim;
}

/** Both kinds: forward, and backward behind attn_delta() which attention_fma.cu launches. */
cudaError_t st_cuda_attn_mma_fwd(cudaStream_t s, enum st_dtype dt, size_t batch,
				 const struct attn_args &a);
cudaError_t st_cuda_attn_mma_bwd(cudaStream_t s, enum st_dtype dt, size_t batch,
				 const struct attn_args &a);

#endif
