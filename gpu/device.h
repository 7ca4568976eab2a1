/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu/device.h - the device interface: memory, and the tensor operations of a transformer.
 *
 * Layer:    gpu (uses core)
 * Threads:  operations of one device are issued by one thread (its compute lane). Copies, records
 *           and waits belong to a stream, and each stream to one thread at a time. Events may be
 *           asked from any thread; what opens, closes, creates and destroys, from one
 * Hardware: `host` (AVX2 / AVX-512 / AMX through oneDNN, own kernels with OpenMP); `cuda`
 *
 * Conventions. Matrices are row-major; `ld` is a row stride in elements. Activations and parameters
 * have the device's compute dtype `dt`; every sum, every statistic and the inside of attention,
 * GELU, layer norm and cross-entropy are fp32, rounded once to nearest even; gradients of
 * parameters are fp32 and are added to. In fp16 what reaches 65520 becomes Inf, and an Inf or NaN
 * reaches every sum it is part of, so that the gradients of a step that overflowed show it.
 * Pointers are device addresses inside its arena, or, where caps.host_visible, any host address.
 * Nothing is allocated: an operation that needs scratch gets it from the caller, who asked
 * *_work_bytes() beforehand.
 *
 * Determinism. For one binary, ISA and thread count the same call gives the same bits, wherever
 * its operands lie (all operands are 64-byte aligned) and whatever ran before. Loops over summed
 * dimensions are cut by shape only. Work is split over threads along dimensions that are not
 * summed, or summed afterwards in a fixed order.
 *
 * Errors are sticky: operations return nothing; st_device_status() gives the first failure, and
 * until it has been asked, no further operation is run. Operands of products and all scratch must
 * be 64-byte aligned, others at least 4-byte; sizes of 0 and NULL operands are refused with
 * -EINVAL.
 *
 * Time. A device runs what it is given on three streams, each in order, and need not have run it
 * when the call returns: operations on ST_STREAM_COMPUTE, copies where the caller says. Nothing
 * orders two streams, or a stream and the host, but events. Until an event that was recorded behind
 * an operation is done, its operands are borrowed. The host device has run everything when the call
 * returns, so its events are always done; a program that is right for other devices is right there.
 */
#ifndef GPU_DEVICE_H
#define GPU_DEVICE_H

#include "core/dtype.h"
#include "core/status.h"
#include "strata/optim.h"

struct st_device;
struct st_event;

struct st_device_cfg {
	const char *type; /* "host", "cuda"; "auto": cuda where a GPU can be used, else host; says
			     which in the log if there is a GPU */
	enum st_dtype dtype; /* compute dtype of activations and parameters */
	unsigned threads;    /* host: OpenMP team; 0 = all cores this process may use */
};

struct st_device_caps {
	const char *type;     /* "host", "cuda": what "auto" chose */
	const char *name;     /* "host (AVX2, 2 threads, oneDNN 2.6.3)" */
	bool host_visible;    /* host memory and device memory are one: no copies, NVMe reads land
				 directly */
	bool has_native_bf16; /* bf16 products run on bf16 units; else, as fp16 always, they are
				 widened to fp32 */
	unsigned threads;
	uint64_t memory_bytes; /* an arena can have so many, when it was opened; 0: it is the host's
				*/
};

ST_MUST_CHECK int st_device_open(struct st_device **out, const struct st_device_cfg *cfg);
void st_device_close(struct st_device *dev);
const struct st_device_caps *st_device_caps(const struct st_device *dev);
/** st_device_status() - 0, or the first failure since the last call (which it clears), of all that
 * an event which is done was recorded behind; what still runs may fail later. */
ST_MUST_CHECK int st_device_status(struct st_device *dev);
/** st_device_numeric_id() - hash of everything here that bits depend on: ISA, threads, library
 * versions. */
uint64_t st_device_numeric_id(const struct st_device *dev);

/*
 * What a device chooses once for each shape and bits depend on (algorithms of a library), as text
 * that a run keeps and gives back when it is resumed. A shape is chosen when *_work_bytes() is
 * first asked about it, so the text is whole when all scratch has been planned.
 */
/** st_device_choices() - the text, "" where there is nothing to choose.
 * @param text  out [bytes]; cut off, but always ended
 * @return its length without the end, which may exceed what fits */
size_t st_device_choices(const struct st_device *dev, char *text, size_t bytes);
/** st_device_choose() - choose as the text says, before any shape was asked about.
 * @return 0; STRATA_E_STALE: from another library or GPU; STRATA_E_INPUT: no such text. The device
 *         is as before then. */
ST_MUST_CHECK int st_device_choose(struct st_device *dev, const char *text);

/* ---- memory, streams, events ---------------------------------------------------------------- */

enum st_stream {
	ST_STREAM_COMPUTE, /* operations */
	ST_STREAM_H2D,     /* a lane of its own for each direction: both run beside operations */
	ST_STREAM_D2H,
	ST_STREAM_N
};

/**
 * st_device_arena() - the device memory of a run: one allocation, never more. Freed by close.
 * @param bytes  in, the budget, > 0
 * @param base   out, device address, 256-byte aligned; the content is undefined
 * @return 0; -EINVAL: there is one already; -ENOMEM: what was asked and what is there
 */
ST_MUST_CHECK int st_device_arena(struct st_device *dev, size_t bytes, void **base);

/**
 * st_device_register() - host memory that copies may name, until close: it is pinned. Ranges may
 * not overlap. Needed by copies on devices that are not host_visible; others accept any memory.
 * @param host, bytes  in, borrowed until close
 */
ST_MUST_CHECK int st_device_register(struct st_device *dev, void *host, size_t bytes);

/** st_device_release() - the arena goes, and what is registered is so no more, where the device can
 * do that before it is closed; it is idle. Then there may be another arena. */
void st_device_release(struct st_device *dev);

/**
 * st_device_copy() - copy on a stream, between the arena and registered host memory or inside one
 * of them; asynchronous. dst and src do not overlap and are borrowed until an event behind it is
 * done.
 * @return 0: it will run; -EINVAL: not such memory, or a direction that is not the stream's
 */
ST_MUST_CHECK int st_device_copy(struct st_device *dev, enum st_stream stream, void *dst,
				 const void *src, size_t bytes);

/** st_event_create() - an event that is done until it is first recorded. */
ST_MUST_CHECK int st_event_create(struct st_device *dev, struct st_event **out);
/** st_event_destroy() - NULL is allowed; before its device is closed. */
void st_event_destroy(struct st_event *ev);
/** st_device_record() - ev is done when all that the stream has been given so far is. */
ST_MUST_CHECK int st_device_record(struct st_device *dev, enum st_stream stream,
				   struct st_event *ev);
/** st_device_wait() - what the stream is given from now on runs after ev's latest record. */
ST_MUST_CHECK int st_device_wait(struct st_device *dev, enum st_stream stream,
				 const struct st_event *ev);
/** st_event_query() - 1: done; 0: not yet; < 0: the device failed. */
ST_MUST_CHECK int st_event_query(struct st_device *dev, struct st_event *ev);
/** st_event_join() - wait, without using the processor, until ev is done. */
ST_MUST_CHECK int st_event_join(struct st_device *dev, struct st_event *ev);

/* ---- matrix product ---------------------------------------------------------------------- */

struct st_matmul { /* C[m,n] (+)= op(A)[m,k] op(B)[k,n] (+ bias[n]) */
	size_t m, n, k;
	bool trans_a, trans_b; /* A is stored [k,m], B is stored [n,k] */
	size_t lda, ldb, ldc;  /* 0 = dense */
	enum st_dtype a_dtype, b_dtype, c_dtype;
	bool accumulate; /* C is fp32 and is added to */
	const void *a, *b;
	void *c;
	const void *bias; /* [n] dt, or NULL */
	void *work;       /* [st_matmul_work_bytes()] 64-byte aligned */
	size_t work_bytes;
};
/** Scratch one product needs. Its a, b, c and work are not read; a function of sizes, strides,
 * transposes, dtypes, accumulate and whether there is a bias. */
size_t st_matmul_work_bytes(const struct st_device *dev, const struct st_matmul *mm);
void st_matmul(struct st_device *dev, const struct st_matmul *mm);

/* ---- layer normalisation ------------------------------------------------------------------
 * y = (x - mean) * rstd * gamma + beta over each row of [rows, cols]; eps 1e-5 inside the root. */
void st_layernorm_fwd(struct st_device *dev, size_t rows, size_t cols, const void *x,
		      const void *gamma, const void *beta, void *y, float *mean, float *rstd);
/* dx = d(loss)/dx (+ dx_add, which may be dx itself, or NULL); dgamma, dbeta [cols] fp32 are added
 * to. */
size_t st_layernorm_bwd_work_bytes(const struct st_device *dev, size_t rows, size_t cols);
void st_layernorm_bwd(struct st_device *dev, size_t rows, size_t cols, const void *dy,
		      const void *x, const void *gamma, const float *mean, const float *rstd,
		      const void *dx_add, void *dx, float *dgamma, float *dbeta, void *work);

/* ---- element-wise ------------------------------------------------------------------------ */
/* GELU, tanh form: 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
void st_gelu_fwd(struct st_device *dev, size_t n, const void *x, void *y);
void st_gelu_bwd(struct st_device *dev, size_t n, const void *x, const void *dy, void *dx);
/* y = a + b; y may be a or b */
void st_add(struct st_device *dev, size_t n, const void *a, const void *b, void *y);
void st_fill_zero(struct st_device *dev, void *p, size_t bytes);
/* out[n] (fp32, added to) = sum over rows of dy[rows, n] */
size_t st_bias_bwd_work_bytes(const struct st_device *dev, size_t rows, size_t n);
void st_bias_bwd(struct st_device *dev, size_t rows, size_t n, const void *dy, float *out,
		 void *work);

/* ---- causal self-attention ---------------------------------------------------------------
 * qkv [batch * seq, 3 * heads * head_dim]: q, k, v beside each other, heads inside each; scale
 * 1/sqrt(head_dim). out [batch * seq, heads * head_dim]. lse [batch, heads, seq] fp32: log of the
 * sum of exponentials, kept for backward. No seq x seq matrix is ever stored: 64-row tiles, tiles
 * above the diagonal skipped. head_dim: a multiple of 8, at most 512. */
struct st_attention {
	size_t batch, seq, heads, head_dim;
	const void *qkv;
	void *out;        /* fwd: out; bwd: in */
	float *lse;       /* fwd: out; bwd: in */
	const void *dout; /* bwd */
	void *dqkv;       /* bwd, out, all of it written */
	void *work;
};
size_t st_attention_work_bytes(const struct st_device *dev, size_t batch, size_t seq, size_t heads,
			       size_t head_dim, bool is_backward);
void st_attention_fwd(struct st_device *dev, const struct st_attention *at);
void st_attention_bwd(struct st_device *dev, const struct st_attention *at);

/* ---- embedding ---------------------------------------------------------------------------
 * y[b*seq+t] = wte[tokens[b*seq+t]] + wpe[t]; wte [vocab, cols], wpe [>= seq, cols].
 * Backward adds into dwte and dwpe in token order. A token outside the vocabulary is refused
 * (-EINVAL) and nothing written. */
void st_embedding_fwd(struct st_device *dev, size_t batch, size_t seq, size_t cols, size_t vocab,
		      const int32_t *tokens, const void *wte, const void *wpe, void *y);
void st_embedding_bwd(struct st_device *dev, size_t batch, size_t seq, size_t cols, size_t vocab,
		      const int32_t *tokens, const void *dy, float *dwte, float *dwpe);

/* ---- cross-entropy -----------------------------------------------------------------------
 * logits [rows, vocab], row stride ld, dtype dt; loss[row] = lse - logit[target] (fp32). If
 * grad_scale != 0 the logits are overwritten by grad_scale * (softmax - onehot), rounded to dt
 * after the scaling: a loss scale in grad_scale lifts what fp16 would lose. A
 * target outside the vocabulary is refused and nothing written. Columns vocab..ld stay as they are.
 */
void st_cross_entropy(struct st_device *dev, size_t rows, size_t vocab, size_t ld, void *logits,
		      const int32_t *targets, float *loss, float grad_scale);

/* ---- gradients and the optimizer -------------------------------------------------------------
 * For devices that are not host_visible: in the others' memory strata/optim.h works, and there
 * these are refused with -EINVAL. The bits are those of strata_optim_reduce() and
 * strata_optim_update(); arrays are device addresses, 16-byte aligned.
 */
/** st_device_reduce() - acc [n] rounded to out [n], leaf [ceil(n / STRATA_NUMERIC_TILE)]. */
void st_device_reduce(struct st_device *dev, size_t n, const float *acc, void *out,
		      enum strata_optim_grads grads, double *leaf);
/** st_device_can_update() - has the device a kernel for this optimizer in this format? */
bool st_device_can_update(const struct st_device *dev, const struct strata_optim_cfg *cfg,
			  const struct strata_optim_format *f);
/** st_device_update() - one optimizer step on a range. s, f and r are read before it returns. */
void st_device_update(struct st_device *dev, const struct strata_optim_step *s,
		      const struct strata_optim_format *f, const struct strata_optim_range *r);

#endif
