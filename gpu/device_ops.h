/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu/device_ops.h - what a device implements; gpu/device.c checks and counts before it calls.
 *
 * Layer:   gpu (uses core); included by device.c and by implementations only
 * Threads: as gpu/device.h
 *
 * An implementation embeds struct st_device as the first member of its own. The core has checked
 * every argument (not NULL, sizes not 0, alignment, scratch large enough, dtypes known) before a
 * slot is called; an operation that still fails calls st_device_fail() and returns. After a
 * failure the core calls no further operation until st_device_status() has been asked.
 */
#ifndef GPU_DEVICE_OPS_H
#define GPU_DEVICE_OPS_H

#include "gpu/device.h"

#define ST_DEVICE_API_VERSION 1u
#define ST_DEVICE_ALIGN       64u /* of every operand of a product and of every scratch */

struct st_device_ops {
	uint32_t api_version; /* ST_DEVICE_API_VERSION; another one is refused at open */
	const char *type;     /* "host", "cuda": what st_device_cfg.type names */

	/* All required. open: 0 and *out set with ops, caps, dtype and numeric_id filled, or a
	 * negative code with st_fail() text and *out untouched. close: the device is idle. */
	int (*open)(struct st_device **out, const struct st_device_cfg *cfg);
	void (*close)(struct st_device *dev);

	/* All required: the operations of gpu/device.h, same arguments, same meaning. */
	size_t (*matmul_work_bytes)(const struct st_device *dev, const struct st_matmul *mm);
	void (*matmul)(struct st_device *dev, const struct st_matmul *mm);
	void (*layernorm_fwd)(struct st_device *dev, size_t rows, size_t cols, const void *x,
			      const void *gamma, const void *beta, void *y, float *mean,
			      float *rstd);
	size_t (*layernorm_bwd_work_bytes)(const struct st_device *dev, size_t rows, size_t cols);
	void (*layernorm_bwd)(struct st_device *dev, size_t rows, size_t cols, const void *dy,
			      const void *x, const void *gamma, const float *mean,
			      const float *rstd, const void *dx_add, void *dx, float *dgamma,
			      float *dbeta, void *work);
	void (*gelu_fwd)(struct st_device *dev, size_t n, const void *x, void *y);
	void (*gelu_bwd)(struct st_device *dev, size_t n, const void *x, const void *dy, void *dx);
	void (*add)(struct st_device *dev, size_t n, const void *a, const void *b, void *y);
	void (*fill_zero)(struct st_device *dev, void *p, size_t bytes);
	size_t (*bias_bwd_work_bytes)(const struct st_device *dev, size_t rows, size_t n);
	void (*bias_bwd)(struct st_device *dev, size_t rows, size_t n, const void *dy, float *out,
			 void *work);
	size_t (*attention_work_bytes)(const struct st_device *dev, size_t batch, size_t seq,
				       size_t heads, size_t head_dim, bool is_backward);
	void (*attention_fwd)(struct st_device *dev, const struct st_attention *at);
	void (*attention_bwd)(struct st_device *dev, const struct st_attention *at);
	void (*embedding_fwd)(struct st_device *dev, size_t batch, size_t seq, size_t cols,
			      const int32_t *tokens, const void *wte, const void *wpe, void *y);
	void (*embedding_bwd)(struct st_device *dev, size_t batch, size_t seq, size_t cols,
			      const int32_t *tokens, const void *dy, float *dwte, float *dwpe);
	void (*cross_entropy)(struct st_device *dev, size_t rows, size_t vocab, size_t ld,
			      void *logits, const int32_t *targets, float *loss, float grad_scale);
};

struct st_device {
	const struct st_device_ops *ops;
	struct st_device_caps caps;
	enum st_dtype dtype;
	uint64_t numeric_id;
	struct st_error err; /* sticky: the first failure since st_device_status() */
};

/** st_device_fail() - keep this thread's latest st_fail() as the device's failure, if the first. */
void st_device_fail(struct st_device *dev, int rc);

extern const struct st_device_ops st_host_ops; /* gpu/host/host.c */

#endif
