/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offload/model.h - what the engine needs to know of a model: units and stages.
 *
 * Layer:   offload (uses core, gpu); implemented by model/
 * Threads: a model description is constant after it was made; fwd and bwd run on the compute lane
 *
 * A unit is what is fetched together: a flat space of elements in which every tensor starts at a
 * multiple of STRATA_NUMERIC_TILE elements, padding is zero and stays zero. Tensors with the same
 * `segment` are contiguous and share storage tiles (a block's one-dimensional tensors); otherwise
 * storage tiles are counted from the tensor's first element.
 *
 * A stage is one step of forward: x -> y, using the parameters of some units. Backward takes dy
 * to dx and adds to the fp32 gradients of those units. The first stage takes tokens, the last one
 * takes targets and gives the loss; in training it does forward and backward at once (bwd).
 */
#ifndef OFFLOAD_MODEL_H
#define OFFLOAD_MODEL_H

#include "core/dtype.h"
#include "core/status.h"
#include "gpu/device.h"

#define ST_STAGE_UNITS_MAX 4u

enum st_init { ST_INIT_ZERO, ST_INIT_ONE, ST_INIT_NORMAL };

struct st_tensor_desc {
	char name[96];   /* the name on disk: Hugging Face's */
	unsigned n_dims; /* 1 or 2 */
	size_t dims[2];
	size_t elems;      /* product */
	size_t first_elem; /* in the unit; a multiple of STRATA_NUMERIC_TILE */
	unsigned segment;  /* in the unit, ascending from 0 */
	enum st_init init;
	float init_std; /* ST_INIT_NORMAL */
};

struct st_unit_desc {
	char name[32]; /* "wte", "wpe", "h.0", "ln_f" */
	const struct st_tensor_desc *tensors;
	unsigned n_tensors;
	size_t elems; /* padded, a multiple of STRATA_NUMERIC_TILE */
};

struct st_stage_desc {
	char name[32]; /* "embed", "h.0", "loss" */
	unsigned units[ST_STAGE_UNITS_MAX];
	unsigned n_units;
	bool bwd_needs_params; /* false: backward reads no parameter (embedding) */
	/*
	 * First stage only: units[0] is a table [rows, lookup_cols], and of it forward reads the
	 * rows that tokens name and nothing else. params[0] may then be a table of fewer rows, with
	 * tokens that number them.
	 */
	bool looks_up;
	size_t lookup_cols;
	size_t out_bytes;   /* y of one micro-batch; 0 for the last stage */
	size_t saved_bytes; /* what forward leaves for backward, one micro-batch */
	size_t fwd_work_bytes, bwd_work_bytes; /* scratch during the call */
	double fwd_flops, bwd_flops;           /* of one micro-batch, products and attention */
	double fwd_attention_flops, bwd_attention_flops; /* of these, attention's */
	/* Memory traffic of what is neither: element-wise operations and row-wise ones. */
	double fwd_kernel_bytes, bwd_kernel_bytes;
};

struct st_stage_args { /* of one call; everything borrowed, all pointers are device addresses */
	const int32_t *tokens, *targets;        /* [batch * seq] of this micro-batch: those of the
						 * first stage, and of the last one */
	const void *params[ST_STAGE_UNITS_MAX]; /* unit bases, compute dtype */
	float *grads[ST_STAGE_UNITS_MAX];       /* unit bases, fp32, added to (bwd) */
	const void *x;                          /* input activation (not the first stage) */
	void *y;                                /* output activation (fwd, not the last stage) */
	void *saved;                            /* written by fwd, read by bwd */
	void *work;
	const void *dy;   /* bwd, not the last stage */
	void *dx;         /* bwd, not the first stage */
	float grad_scale; /* last stage, bwd: weight of one token's loss in the step's mean */
	float *loss;      /* last stage: [batch * seq] out, the tokens' losses */
	float *logits;    /* last stage, fwd, sampling only: [vocab] of the last position, aligned
			   * as a product's operand, or NULL */
};

struct st_model {
	const char *family;
	const struct st_unit_desc *units;
	unsigned n_units;
	const struct st_stage_desc *stages;
	unsigned n_stages;
	size_t batch, seq; /* of one micro-batch */
	size_t vocab;
	size_t n_params;        /* without padding */
	double flops_per_token; /* 6 P + 12 L C T: what "model FLOPs" means */
	void *priv;
	void (*fwd)(const struct st_model *m, struct st_device *dev, unsigned stage,
		    const struct st_stage_args *a);
	void (*bwd)(const struct st_model *m, struct st_device *dev, unsigned stage,
		    const struct st_stage_args *a);
};

#endif
