/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu/cuda/kernels.h - the operations of a CUDA device, one launch wrapper each.
 *
 * Layer:    gpu/cuda; kernels in elementwise.cu, rows.cu, embedding.cu, loss.cu, attention.cu,
 *           attention_fma.cu, optim.cu
 * Threads:  as CUDA: a stream belongs to whoever issues into it
 * Hardware: sm_80 and later
 *
 * Each function puts one operation of gpu/device.h into a stream and returns; same arguments, same
 * meaning, device addresses. The caller has checked them as gpu/device.c does. A wrapper returns
 * the first error of its launches. None allocates, and none waits.
 *
 * Numbers. Sums and statistics are fp32 (the squares of gradients double), results are rounded once
 * to nearest even. What the tensor cores multiply in attention has 16 bits, so there, and only
 * there, the probabilities and the gradients of the scores are rounded to the compute dtype before
 * their products, by 2^-9 (bf16) or 2^-11 (fp16) of each; head_dim above 128, fp32, and operands
 * that do not begin at 16 bytes take kernels that multiply in fp32. No floating-point atomics: the
 * order of each sum is a function of shapes, so the same call gives the same bits. The sums of
 * st_cuda_reduce(), st_cuda_update() and st_cuda_embedding_bwd() are those of the CPU to the bit.
 *
 * Speed. Operands that begin at 16 bytes, with rows that are a multiple of 16, are moved 16 bytes
 * at a time; others are right and slow.
 *
 * Tested: tests/test_cuda_kernels.cc, on the emulation and, by ./run gpu-check, on a GPU.
 */
#ifndef GPU_CUDA_KERNELS_H
#define GPU_CUDA_KERNELS_H

#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>

#include "core/dtype.h"
#include "core/optim_factors.h"
#include "gpu/cuda/formats.h"
#include "strata/optim.h"

/* ---- element-wise ------------------------------------------------------------------------ */

cudaError_t st_cuda_gelu_fwd(cudaStream_t s, enum st_dtype dt, size_t n, const void *x, void *y);
cudaError_t st_cuda_gelu_bwd(cudaStream_t s, enum st_dtype dt, size_t n, const void *x,
			     const void *dy, void *dx);
cudaError_t st_cuda_add(cudaStream_t s, enum st_dtype dt, size_t n, const void *a, const void *b,
			void *y);
cudaError_t st_cuda_fill_zero(cudaStream_t s, void *p, size_t bytes);
/** y = x in another dtype, rounded to nearest even. y may be x only if the dtypes are the same. */
cudaError_t st_cuda_cast(cudaStream_t s, size_t n, enum st_dtype from, const void *x,
			 enum st_dtype to, void *y);

/* ---- rows -------------------------------------------------------------------------------- */

cudaError_t st_cuda_layernorm_fwd(cudaStream_t s, enum st_dtype dt, size_t rows, size_t cols,
				  const void *x, const void *gamma, const void *beta, void *y,
				  float *mean, float *rstd);
size_t st_cuda_layernorm_bwd_work_bytes(size_t rows, size_t cols);
cudaError_t st_cuda_layernorm_bwd(cudaStream_t s, enum st_dtype dt, size_t rows, size_t cols,
				  const void *dy, const void *x, const void *gamma,
				  const float *mean, const float *rstd, const void *dx_add,
				  void *dx, float *dgamma, float *dbeta, void *work);
size_t st_cuda_bias_bwd_work_bytes(size_t rows, size_t n);
cudaError_t st_cuda_bias_bwd(cudaStream_t s, enum st_dtype dt, size_t rows, size_t n,
			     const void *dy, float *out, void *work);

/* ---- tokens ------------------------------------------------------------------------------
 * A device cannot refuse a token when the operation is issued. st_cuda_check_tokens() is put in
 * front: if *bad is 0 and a token lies outside of [0, vocab), it sets *bad to 1 + the index of the
 * first. The operations below do nothing while *bad is not 0. bad: [1], device; the caller clears
 * it and looks at it when it looks for errors. */
cudaError_t st_cuda_check_tokens(cudaStream_t s, size_t n, const int32_t *tokens, size_t vocab,
				 uint64_t *bad);
cudaError_t st_cuda_embedding_fwd(cudaStream_t s, enum st_dtype dt, size_t batch, size_t seq,
				  size_t cols, size_t vocab, const int32_t *tokens, const void *wte,
				  const void *wpe, void *y, const uint64_t *bad);
cudaError_t st_cuda_embedding_bwd(cudaStream_t s, enum st_dtype dt, size_t batch, size_t seq,
				  size_t cols, size_t vocab, const int32_t *tokens, const void *dy,
				  float *dwte, float *dwpe, const uint64_t *bad);
cudaError_t st_cuda_cross_entropy(cudaStream_t s, enum st_dtype dt, size_t rows, size_t vocab,
				  size_t ld, void *logits, const int32_t *targets, float *loss,
				  float grad_scale, const uint64_t *bad);

/* ---- attention --------------------------------------------------------------------------- */

struct st_cuda_attention { /* as struct st_attention */
	size_t batch, seq, heads, head_dim;
	const void *qkv;
	void *out;
	float *lse;
	const void *dout;
	void *dqkv;
	void *work;
};
size_t st_cuda_attention_work_bytes(size_t batch, size_t seq, size_t heads, size_t head_dim,
				    bool is_backward);
cudaError_t st_cuda_attention_fwd(cudaStream_t s, enum st_dtype dt,
				  const struct st_cuda_attention *at);
cudaError_t st_cuda_attention_bwd(cudaStream_t s, enum st_dtype dt,
				  const struct st_cuda_attention *at);

/* ---- gradients and the optimizer --------------------------------------------------------- */

/** As strata_optim_reduce(), to the bit. leaf: [ceil(n / STRATA_NUMERIC_TILE)], device. */
cudaError_t st_cuda_reduce(cudaStream_t s, size_t n, const float *acc, void *out,
			   enum strata_optim_grads grads, double *leaf);
/**
 * st_cuda_update() - as strata_optim_update(), to the bit, for what st_cuda_can_update() says.
 * @param s  in, factors of the step: the content of struct strata_optim_step
 */
cudaError_t st_cuda_update(cudaStream_t stream, const struct st_factors *s,
			   const struct strata_optim_format *f, const struct strata_optim_range *r);

#endif
