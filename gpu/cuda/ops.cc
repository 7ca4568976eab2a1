/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu/cuda/ops.cc - operations: a kernel of kernels.h, in the compute stream.
 *
 * Tokens are checked by a kernel, for the host must not wait for them: what it refuses, and all
 * that uses the tokens skips, reaches the host by a copy of one word behind the operation.
 */
#include "gpu/cuda/cuda.h"
#include "gpu/cuda/kernels.h"

static void done(struct st_device *dev, cudaError_t rc, const char *op, const char *file, int line)
{
	int failed = st_cuda_try(rc, "launch", file, line, "%s", op);

	if (failed)
		st_device_fail(dev, failed);
}

/* Issue an operation under a range of its name; its failure becomes the device's. */
#define ISSUE(dev, name, call)                                                                     \
	do {                                                                                       \
		st_cuda_range st_range(name);                                                      \
		done(dev, call, name, __FILE__, __LINE__);                                         \
	} while (0)

static cudaStream_t compute(struct st_device *dev)
{
	return st_cuda(dev)->stream[ST_STREAM_COMPUTE];
}

static void cuda_layernorm_fwd(struct st_device *dev, size_t rows, size_t cols, const void *x,
			       const void *gamma, const void *beta, void *y, float *mean,
			       float *rstd)
{
	ISSUE(dev, "layernorm_fwd",
	      st_cuda_layernorm_fwd(compute(dev), dev->dtype, rows, cols, x, gamma, beta, y, mean,
				    rstd));
}

static size_t cuda_layernorm_bwd_work_bytes(const struct st_device *dev, size_t rows, size_t cols)
{
	return st_cuda_layernorm_bwd_work_bytes(rows, cols);
}

static void cuda_layernorm_bwd(struct st_device *dev, size_t rows, size_t cols, const void *dy,
			       const void *x, const void *gamma, const float *mean,
			       const float *rstd, const void *dx_add, void *dx, float *dgamma,
			       float *dbeta, void *work)
{
	ISSUE(dev, "layernorm_bwd",
	      st_cuda_layernorm_bwd(compute(dev), dev->dtype, rows, cols, dy, x, gamma, mean, rstd,
				    dx_add, dx, dgamma, dbeta, work));
}

static void cuda_gelu_fwd(struct st_device *dev, size_t n, const void *x, void *y)
{
	ISSUE(dev, "gelu_fwd", st_cuda_gelu_fwd(compute(dev), dev->dtype, n, x, y));
}

static void cuda_gelu_bwd(struct st_device *dev, size_t n, const void *x, const void *dy, void *dx)
{
	ISSUE(dev, "gelu_bwd", st_cuda_gelu_bwd(compute(dev), dev->dtype, n, x, dy, dx));
}

static void cuda_add(struct st_device *dev, size_t n, const void *a, const void *b, void *y)
{
	ISSUE(dev, "add", st_cuda_add(compute(dev), dev->dtype, n, a, b, y));
}

static void cuda_fill_zero(struct st_device *dev, void *p, size_t bytes)
{
	ISSUE(dev, "fill_zero", st_cuda_fill_zero(compute(dev), p, bytes));
}

static size_t cuda_bias_bwd_work_bytes(const struct st_device *dev, size_t rows, size_t n)
{
	return st_cuda_bias_bwd_work_bytes(rows, n);
}

static void cuda_bias_bwd(struct st_device *dev, size_t rows, size_t n, const void *dy, float *out,
			  void *work)
{
	ISSUE(dev, "bias_bwd", st_cuda_bias_bwd(compute(dev), dev->dtype, rows, n, dy, out, work));
}

static size_t cuda_attention_work_bytes(const struct st_device *dev, size_t batch, size_t seq,
					size_t heads, size_t head_dim, bool is_backward)
{
	return st_cuda_attention_work_bytes(batch, seq, heads, head_dim, is_backward);
}

static struct st_cuda_attention attention(const struct st_attention *at)
{
	struct st_cuda_attention c;

	c.batch = at->batch;
	c.seq = at->seq;
	c.heads = at->heads;
	c.head_dim = at->head_dim;
	c.qkv = at->qkv;
	c.out = at->out;
	c.lse = at->lse;
	c.dout = at->dout;
	c.dqkv = at->dqkv;
	c.work = at->work;
	return c;
}

static void cuda_attention_fwd(struct st_device *dev, const struct st_attention *at)
{
	const struct st_cuda_attention c = attention(at);

	ISSUE(dev, "attention_fwd", st_cuda_attention_fwd(compute(dev), dev->dtype, &c));
}

static void cuda_attention_bwd(struct st_device *dev, const struct st_attention *at)
{
	const struct st_cuda_attention c = attention(at);

	ISSUE(dev, "attention_bwd", st_cuda_attention_bwd(compute(dev), dev->dtype, &c));
}

/* ---- what depends on tokens ------------------------------------------------------------------ */

static cudaError_t check_tokens(struct st_cuda *c, size_t n, const int32_t *tokens, size_t vocab)
{
	cudaStream_t s = c->stream[ST_STREAM_COMPUTE];
	cudaError_t rc = st_cuda_check_tokens(s, n, tokens, vocab, c->bad_device);

	return rc ? rc
		  : cudaMemcpyAsync(c->bad, c->bad_device, sizeof(*c->bad), cudaMemcpyDeviceToHost,
				    s);
}

static void cuda_embedding_fwd(struct st_device *dev, size_t batch, size_t seq, size_t cols,
			       size_t vocab, const int32_t *tokens, const void *wte,
			       const void *wpe, void *y)
{
	struct st_cuda *c = st_cuda(dev);
	cudaError_t rc;

	ISSUE(dev, "embedding_fwd",
	      (rc = check_tokens(c, batch * seq, tokens, vocab),
	       rc ? rc
		  : st_cuda_embedding_fwd(compute(dev), dev->dtype, batch, seq, cols, vocab, tokens,
					  wte, wpe, y, c->bad_device)));
}

static void cuda_embedding_bwd(struct st_device *dev, size_t batch, size_t seq, size_t cols,
			       size_t vocab, const int32_t *tokens, const void *dy, float *dwte,
			       float *dwpe)
{
	struct st_cuda *c = st_cuda(dev);
	cudaError_t rc;

	ISSUE(dev, "embedding_bwd",
	      (rc = check_tokens(c, batch * seq, tokens, vocab),
	       rc ? rc
		  : st_cuda_embedding_bwd(compute(dev), dev->dtype, batch, seq, cols, vocab, tokens,
					  dy, dwte, dwpe, c->bad_device)));
}

static void cuda_cross_entropy(struct st_device *dev, size_t rows, size_t vocab, size_t ld,
			       void *logits, const int32_t *targets, float *loss, float grad_scale)
{
	struct st_cuda *c = st_cuda(dev);
	cudaError_t rc;

	ISSUE(dev, "cross_entropy",
	      (rc = check_tokens(c, rows, targets, vocab),
	       rc ? rc
		  : st_cuda_cross_entropy(compute(dev), dev->dtype, rows, vocab, ld, logits,
					  targets, loss, grad_scale, c->bad_device)));
}

void st_cuda_check(struct st_device *dev)
{
	struct st_cuda *c = st_cuda(dev);
	uint64_t bad = __atomic_load_n(c->bad, __ATOMIC_ACQUIRE);
	int rc;

	if (!bad)
		return;
	st_device_fail(dev, st_fail(-EINVAL,
				    "device \"cuda\": token %llu is negative or outside the "
				    "vocabulary.",
				    (unsigned long long)bad - 1));
	/* What is still to run would copy the word again; then it is clear for what comes. */
	rc = ST_CUDA_TRY(cudaStreamSynchronize(compute(dev)), "clearing a failure");
	if (!rc)
		rc = ST_CUDA_TRY(cudaMemsetAsync(c->bad_device, 0, sizeof(*c->bad), compute(dev)),
				 "clearing a failure");
	if (!rc)
		__atomic_store_n(c->bad, 0, __ATOMIC_RELEASE);
}

/* ---- gradients and the optimizer ------------------------------------------------------------- */

static void cuda_reduce(struct st_device *dev, size_t n, const float *acc, void *out,
			enum strata_optim_grads grads, double *leaf)
{
	if ((unsigned)grads > STRATA_GRADS_F16) {
		st_device_fail(dev, st_fail(-EINVAL, "device \"cuda\": reduce: the gradient format "
						     "is unknown."));
		return;
	}
	ISSUE(dev, "reduce", st_cuda_reduce(compute(dev), n, acc, out, grads, leaf));
}

static bool cuda_can_update(const struct st_device *dev, const struct strata_optim_cfg *cfg,
			    const struct strata_optim_format *f)
{
	return st_cuda_can_step(cfg, f);
}

/* The arrays that every format has which st_cuda_can_update() accepts. */
static bool has_arrays(const struct strata_optim_format *f, const struct strata_optim_range *r)
{
	return r->array[STRATA_ARRAY_PARAM] && r->array[STRATA_ARRAY_M] &&
	       r->array[STRATA_ARRAY_V] && r->array[STRATA_ARRAY_GRAD] &&
	       (f->params == STRATA_PARAMS_F32 || r->array[STRATA_ARRAY_LOW]);
}

static void cuda_update(struct st_device *dev, const struct strata_optim_step *s,
			const struct strata_optim_format *f, const struct strata_optim_range *r)
{
	struct st_factors factors;

	memcpy(&factors, s, sizeof(factors));
	if (!st_cuda_can_update(factors.rule, f))
		st_device_fail(dev, st_fail(STRATA_E_UNSUPPORTED,
					    "device \"cuda\": update: this optimizer in this "
					    "format runs on the host only; ask "
					    "st_device_can_update()."));
	else if (!has_arrays(f, r))
		st_device_fail(dev,
			       st_fail(-EINVAL, "device \"cuda\": update: an array is missing."));
	else
		ISSUE(dev, "update", st_cuda_update(compute(dev), &factors, f, r));
}

struct st_device_ops st_cuda_operations(void)
{
	struct st_device_ops ops;

	memset(&ops, 0, sizeof(ops));
	ops.layernorm_fwd = cuda_layernorm_fwd;
	ops.layernorm_bwd_work_bytes = cuda_layernorm_bwd_work_bytes;
	ops.layernorm_bwd = cuda_layernorm_bwd;
	ops.gelu_fwd = cuda_gelu_fwd;
	ops.gelu_bwd = cuda_gelu_bwd;
	ops.add = cuda_add;
	ops.fill_zero = cuda_fill_zero;
	ops.bias_bwd_work_bytes = cuda_bias_bwd_work_bytes;
	ops.bias_bwd = cuda_bias_bwd;
	ops.attention_work_bytes = cuda_attention_work_bytes;
	ops.attention_fwd = cuda_attention_fwd;
	ops.attention_bwd = cuda_attention_bwd;
	ops.embedding_fwd = cuda_embedding_fwd;
	ops.embedding_bwd = cuda_embedding_bwd;
	ops.cross_entropy = cuda_cross_entropy;
	ops.reduce = cuda_reduce;
	ops.update = cuda_update;
	ops.can_update = cuda_can_update;
	return ops;
}
