/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model/gpt2.h - GPT-2 as published: learned positions, pre-LayerNorm, tanh-GELU, tied embeddings.
 *
 * Layer:   model (uses core, gpu, offload/model.h)
 *
 * Units: "wte" [vocab, C], "wpe" [n_positions, C], "h.i" (c_attn, c_proj, c_fc, mlp c_proj as
 * Conv1D [in, out]; one segment of vectors: ln_1, ln_2, biases), "ln_f".
 * Stages: "embed" (wte, wpe), "h.i", "loss" (ln_f, wte; head tied to wte; logits in chunks of tokens,
 * bf16 or fp32, overwritten by their gradient).
 */
#ifndef MODEL_GPT2_H
#define MODEL_GPT2_H

#include "offload/model.h"

struct st_gpt2_cfg {
	size_t n_layer, n_embd, n_head, n_positions, vocab_size;
};

/** st_gpt2_by_name() - "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl". @return false: unknown */
bool st_gpt2_by_name(const char *name, struct st_gpt2_cfg *out);

/**
 * st_gpt2_create() - describe the model for one micro-batch shape on a device.
 * @param batch, seq  in, sequences and tokens each of a micro-batch; seq <= n_positions
 * @param dev         in, borrowed for the model's life: scratch sizes come from it
 * @return 0; STRATA_E_CONFIG (n_embd not divisible by n_head, sizes 0 or absurd)
 */
ST_MUST_CHECK int st_gpt2_create(struct st_model **out, const struct st_gpt2_cfg *cfg, size_t batch,
				 size_t seq, const struct st_device *dev, enum st_dtype dtype);
void st_gpt2_destroy(struct st_model *m);

/* Initial weights, as published: normal 0.02, residual projections / sqrt(2 n_layer), ones, zeros.
 * Counter-based, so element i of a tensor never depends on any other: */
void st_init_fill(const struct st_tensor_desc *t, uint64_t seed, size_t first, size_t n, float *out);

#endif
