/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu/host/host.h - the host device: one OpenMP team, kernels of one instruction set, oneDNN.
 *
 * Layer:    gpu/host (uses core)
 * Threads:  operations come from one thread; each opens a parallel region of exactly `threads`
 *           (a second team, or another team size, would leave threads spinning against it)
 * Hardware: kernels for AVX-512, AVX2 and plain C, chosen once at open
 *
 * Kernels work on one thread's share (rows, a range, one head) and know nothing of threads. Drivers
 * (matmul.c, rows.c, attention.c) cut the work by shape alone. Rows and ranges go out by static
 * schedules; tiles of a product and heads, whose bits depend on no thread, to whoever is free: one
 * preempted thread then costs a tile, not a half.
 */
#ifndef GPU_HOST_HOST_H
#define GPU_HOST_HOST_H

#include "core/arena.h"
#include "gpu/device_ops.h"

#define ST_GEMM_K_CUT  256u /* summed in registers at a time: this depth of B stays in L1 */
#define ST_GEMM_M_TILE 96u  /* macro-tile: its part of A stays in L2; a multiple of every mr */
#define ST_GEMM_N_TILE 256u /* a multiple of every nr */

/* A macro-tile of C, over one chunk of the summed dimension. */
struct st_gemm_tile {
	size_t rows, cols; /* <= M_TILE, N_TILE; what lies beyond in C is untouched */
	size_t kc;         /* depth of this chunk */
	const float *a;    /* packed panels [ceil(rows / mr)][kc][mr] */
	const float *b;    /* packed panels [ceil(cols / nr)][kc][nr] */
	float *part;       /* [rows, ld_part] fp32 sums over earlier chunks; NULL: only one chunk */
	size_t ld_part;    /* multiple of nr */
	bool is_first, is_last; /* of the chunks: part is set / C is written */
	void *c;
	size_t ldc;
	enum st_dtype c_dtype, bias_dtype;
	bool accumulate;
	const void *bias; /* of column 0 of this tile, or NULL */
};

/* One head of one sequence. Strides in elements. */
struct st_attn_head {
	size_t seq, head_dim;
	size_t ld_qkv, ld_out;
	const void *q, *k, *v; /* rows of head_dim, stride ld_qkv */
	void *out;             /* stride ld_out; read in backward */
	float *lse;            /* [seq] */
	const void *dout;      /* stride ld_out */
	void *dq, *dk, *dv;    /* stride ld_qkv */
	float *work;           /* [attn_*_floats()] */
};

/* The kernels of one instruction set; an index is the dtype of the operands. */
struct st_host_kernels {
	const char *isa;
	size_t mr, nr; /* register tile of a product */

	/* A is [rows, kc] from element (0,0) at a: panels dst [ceil(rows / mr)][kc][mr], missing
	 * rows 0; trans: stored [kc, rows]. B is [kc, cols]: panels dst [ceil(cols / nr)][kc][nr].
	 */
	void (*pack_a[ST_DTYPE_COUNT])(const void *a, size_t lda, bool trans, size_t rows,
				       size_t kc, float *dst);
	void (*pack_b[ST_DTYPE_COUNT])(const void *b, size_t ldb, bool trans, size_t cols,
				       size_t kc, float *dst);
	void (*gemm_tile)(const struct st_gemm_tile *t);

	void (*gelu_fwd[ST_DTYPE_COUNT])(size_t n, const void *x, void *y);
	void (*gelu_bwd[ST_DTYPE_COUNT])(size_t n, const void *x, const void *dy, void *dx);
	void (*add[ST_DTYPE_COUNT])(size_t n, const void *a, const void *b, void *y);
	void (*add_into[ST_DTYPE_COUNT])(size_t n, const void *x, float *sum); /* sum += x */
	void (*layernorm_fwd[ST_DTYPE_COUNT])(size_t rows, size_t cols, const void *x,
					      const void *gamma, const void *beta, void *y,
					      float *mean, float *rstd);
	/* dgamma, dbeta [cols] are added to */
	void (*layernorm_bwd[ST_DTYPE_COUNT])(size_t rows, size_t cols, const void *dy,
					      const void *x, const void *gamma, const float *mean,
					      const float *rstd, const void *dx_add, void *dx,
					      float *dgamma, float *dbeta);
	void (*column_sum[ST_DTYPE_COUNT])(size_t rows, size_t n, const void *x,
					   float *sum); /* sum += */
	void (*cross_entropy[ST_DTYPE_COUNT])(size_t vocab, void *logits, size_t target,
					      float *loss, float grad_scale);

	size_t (*attn_fwd_floats)(size_t seq, size_t head_dim);
	size_t (*attn_bwd_floats)(size_t seq, size_t head_dim);
	void (*attn_fwd[ST_DTYPE_COUNT])(const struct st_attn_head *h);
	void (*attn_bwd[ST_DTYPE_COUNT])(const struct st_attn_head *h);

	void (*exp)(size_t n, const float *x, float *y); /* for tests of accuracy */
};

extern const struct st_host_kernels st_host_kernels_generic;
#if defined(__x86_64__)
extern const struct st_host_kernels st_host_kernels_avx2, st_host_kernels_avx512;
#endif

struct st_onednn;

struct st_host {
	struct st_device dev; /* first: a struct st_device * of this type is a struct st_host * */
	const struct st_host_kernels *k;
	struct st_onednn *dnn;
	unsigned threads;
	struct st_arena arena;
	char name[128];
};

static inline struct st_host *st_host(struct st_device *dev)
{
	return (struct st_host *)(void *)dev;
}

static inline const struct st_host *st_host_const(const struct st_device *dev)
{
	return (const struct st_host *)(const void *)dev;
}

/** st_host_kernels_best() - the widest instruction set this processor runs. */
const struct st_host_kernels *st_host_kernels_best(void);

/* Product by own kernels, any mix of dtypes (matmul.c); st_host_matmul chooses between it and
 * oneDNN by dtype. Both are bit-exact in the sense of gpu/device.h; the packed one
 * gives the same bits for every number of threads. */
size_t st_host_packed_work_bytes(const struct st_host_kernels *k, const struct st_matmul *mm);
void st_host_packed_matmul(const struct st_host_kernels *k, unsigned threads,
			   const struct st_matmul *mm, enum st_dtype bias_dtype);

size_t st_host_matmul_work_bytes(const struct st_device *dev, const struct st_matmul *mm);
void st_host_matmul(struct st_device *dev, const struct st_matmul *mm);

/* rows.c */
void st_host_layernorm_fwd(struct st_device *dev, size_t rows, size_t cols, const void *x,
			   const void *gamma, const void *beta, void *y, float *mean, float *rstd);
size_t st_host_layernorm_bwd_work_bytes(const struct st_device *dev, size_t rows, size_t cols);
void st_host_layernorm_bwd(struct st_device *dev, size_t rows, size_t cols, const void *dy,
			   const void *x, const void *gamma, const float *mean, const float *rstd,
			   const void *dx_add, void *dx, float *dgamma, float *dbeta, void *work);
void st_host_gelu_fwd(struct st_device *dev, size_t n, const void *x, void *y);
void st_host_gelu_bwd(struct st_device *dev, size_t n, const void *x, const void *dy, void *dx);
void st_host_add(struct st_device *dev, size_t n, const void *a, const void *b, void *y);
void st_host_fill_zero(struct st_device *dev, void *p, size_t bytes);
size_t st_host_bias_bwd_work_bytes(const struct st_device *dev, size_t rows, size_t n);
void st_host_bias_bwd(struct st_device *dev, size_t rows, size_t n, const void *dy, float *out,
		      void *work);
void st_host_embedding_fwd(struct st_device *dev, size_t batch, size_t seq, size_t cols,
			   size_t vocab, const int32_t *tokens, const void *wte, const void *wpe,
			   void *y);
void st_host_embedding_bwd(struct st_device *dev, size_t batch, size_t seq, size_t cols,
			   size_t vocab, const int32_t *tokens, const void *dy, float *dwte,
			   float *dwpe);
void st_host_cross_entropy(struct st_device *dev, size_t rows, size_t vocab, size_t ld,
			   void *logits, const int32_t *targets, float *loss, float grad_scale);

/* memory.c */
int st_host_arena(struct st_device *dev, size_t bytes, void **base);
int st_host_register(struct st_device *dev, void *host, size_t bytes);
void st_host_release(struct st_device *dev);
int st_host_copy(struct st_device *dev, enum st_stream stream, void *dst, const void *src,
		 size_t bytes);
int st_host_event_create(struct st_device *dev, struct st_event **out);
void st_host_event_destroy(struct st_event *ev);
int st_host_record(struct st_device *dev, enum st_stream stream, struct st_event *ev);
int st_host_wait(struct st_device *dev, enum st_stream stream, const struct st_event *ev);
int st_host_event_query(struct st_device *dev, struct st_event *ev);
int st_host_event_join(struct st_device *dev, struct st_event *ev);

/* attention.c */
size_t st_host_attention_work_bytes(const struct st_device *dev, size_t batch, size_t seq,
				    size_t heads, size_t head_dim, bool is_backward);
void st_host_attention_fwd(struct st_device *dev, const struct st_attention *at);
void st_host_attention_bwd(struct st_device *dev, const struct st_attention *at);

#endif
