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

#define ST_DEVICE_API_VERSION 3u
#define ST_DEVICE_ALIGN       64u  /* of every operand of a product and of every scratch */
#define ST_DEVICE_ARENA_ALIGN 256u /* of the arena's base */

struct st_device_ops {
	uint32_t api_version; /* ST_DEVICE_API_VERSION; another one is refused at open */
	const char *type;     /* "host", "cuda": what st_device_cfg.type names */

	/* All required. open: 0 and *out set with ops, caps, dtype and numeric_id filled, or a
	 * negative code with st_fail() text and *out untouched. close: the device is idle. */
	int (*open)(struct st_device **out, const struct st_device_cfg *cfg);
	void (*close)(struct st_device *dev);

	/* Optional, NULL = operations fail at once: called by st_device_status(), to call
	 * st_device_fail() for what was found since. */
	void (*check)(struct st_device *dev);
	/* Optional, both or neither; NULL = there is nothing to choose. */
	size_t (*choices)(const struct st_device *dev, char *text, size_t bytes);
	int (*choose)(struct st_device *dev, const char *text);

	/* All required. arena is called once, and again after each release. */
	int (*arena)(struct st_device *dev, size_t bytes, void **base);
	int (*register_host)(struct st_device *dev, void *host, size_t bytes);
	/* Optional, NULL = arena and registered memory stay until close. */
	void (*release)(struct st_device *dev);
	int (*copy)(struct st_device *dev, enum st_stream stream, void *dst, const void *src,
		    size_t bytes);
	int (*event_create)(struct st_device *dev, struct st_event **out);
	void (*event_destroy)(struct st_event *ev);
	int (*record)(struct st_device *dev, enum st_stream stream, struct st_event *ev);
	int (*wait)(struct st_device *dev, enum st_stream stream, const struct st_event *ev);
	int (*event_query)(struct st_device *dev, struct st_event *ev);
	int (*event_join)(struct st_device *dev, struct st_event *ev);

	/* The operations of gpu/device.h, same arguments, same meaning; all required but the last
	 * three. */
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
			      size_t vocab, const int32_t *tokens, const void *wte, const void *wpe,
			      void *y);
	void (*embedding_bwd)(struct st_device *dev, size_t batch, size_t seq, size_t cols,
			      size_t vocab, const int32_t *tokens, const void *dy, float *dwte,
			      float *dwpe);
	void (*cross_entropy)(struct st_device *dev, size_t rows, size_t vocab, size_t ld,
			      void *logits, const int32_t *targets, float *loss, float grad_scale);
	/* Required, save where caps.host_visible: NULL = the caller uses strata/optim.h. */
	void (*reduce)(struct st_device *dev, size_t n, const float *acc, void *out,
		       enum strata_optim_grads grads, double *leaf);
	/* Optional, both or neither; NULL = nothing is updated on this device. can_update is asked
	 * before update is called, about any values. */
	void (*update)(struct st_device *dev, const struct strata_optim_step *s,
		       const struct strata_optim_format *f, const struct strata_optim_range *r);
	bool (*can_update)(const struct st_device *dev, const struct strata_optim_cfg *cfg,
			   const struct strata_optim_format *f);
};

struct st_device {
	const struct st_device_ops *ops;
	struct st_device_caps caps;
	enum st_dtype dtype;
	uint64_t numeric_id;
	bool has_arena;
	struct st_error err; /* sticky: the first failure since st_device_status() */
};

struct st_event { /* embedded as the first member, as struct st_device is */
	struct st_device *dev;
};

/** st_device_fail() - keep this thread's latest st_fail() as the device's failure, if the first. */
void st_device_fail(struct st_device *dev, int rc);

extern const struct st_device_ops st_host_ops; /* gpu/host/host.c */

#endif
