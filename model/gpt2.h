/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model/gpt2.h - GPT-2 as published: learned positions, pre-LayerNorm, tanh-GELU, tied embeddings.
 *
 * Layer:   model (uses core, gpu, offload/model.h)
 * Threads: create and destroy from any one thread; fwd and bwd on the device's compute lane
 *
 * Units, in this order, and their tensors (Hugging Face names without "transformer."; matrices of a
 * block are Conv1D, [in, out]; C = n_embd):
 *	wte	wte.weight [vocab, C]
 *	wpe	wpe.weight [n_positions, C]
 *	h.i	h.i.attn.c_attn.weight [C, 3C] | h.i.attn.c_proj.weight [C, C] |
 *		h.i.mlp.c_fc.weight [C, 4C] | h.i.mlp.c_proj.weight [4C, C] |
 *		ln_1.weight ln_1.bias attn.c_attn.bias attn.c_proj.bias
 *		ln_2.weight ln_2.bias mlp.c_fc.bias mlp.c_proj.bias
 *	ln_f	ln_f.weight ln_f.bias
 * A bar ends a segment: each matrix is one, all vectors of a block are one.
 *
 * Stages, and the units in the order of st_stage_args.params and .grads:
 *	embed	(wte, wpe)	y = wte[token] + wpe[position]
 *	h.i	(h.i)		x1 = x + c_proj(attention(c_attn(ln_1(x))))
 *				y = x1 + c_proj(gelu(c_fc(ln_2(x1))))
 *	loss	(ln_f, wte)	mean over tokens of -log softmax(wte ln_f(x))[target]
 * wte takes gradients from two stages. Each adds to the buffer it is given, so one buffer for both
 * is right; its bits then depend on the order of the calls.
 *
 * What a block leaves for backward, of rows = batch * seq tokens in compute dtype:
 *	qkv [rows, 3C] | output of attention [rows, C] | x1 [rows, C] | output of c_fc [rows, 4C] |
 *	lse [batch, heads, seq] fp32
 * Those are the results of products and attention, and x1: no product runs again in backward. The
 * outputs of ln_1, ln_2 and gelu (6C of 15C per token, some 1 % of a block's time) are made
 * again, by the same calls, so with the same bits. Backward does not write `saved`.
 *
 * The head works on chunks of tokens: all if fewer than 1024, else n = rows / 512 chunks, each of
 * rows / n rounded up to a multiple of 64, the last one smaller. For each: ln_f, logits [chunk,
 * vocab padded to 64], cross-entropy in place, weight gradient, input gradient, ln_f backward.
 * Chunks depend on the shape only. The gradient that enters gelu is cut in the same way.
 *
 * In backward dx holds d(x1) for a while: it must overlap neither dy nor x.
 *
 * The loss stage gives the loss of each token; no stage reads or writes memory but by the device.
 *   fwd  with targets and loss: losses of all tokens. With logits: the last position's, [vocab]
 *        fp32, not rounded to the compute dtype. Either part is left out when a pointer is NULL.
 *   bwd  writes loss (may be NULL) and dx, adds to both gradients. grad_scale 0: dx is zero and no
 *        gradient is touched.
 *
 * In fp16 the activations, the logits and what flows back are fp16, rounded from fp32 sums once
 *each; statistics, softmax, losses and gradients of parameters are fp32 (gpu/device.h). grad_scale
 *then carries the loss scale, loss_scale / tokens: it reaches the logits' gradient before that is
 * rounded, and all gradients come out multiplied by it. An overflow on the way leaves Inf or NaN in
 * them, hence in their sum of squares.
 *
 * Tested: tests/test_gpt2.c against PyTorch (tests/golden/gpt2.py), loss and every gradient, and by
 *         finite differences
 * Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019
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
 * @param dev         in, borrowed for this call: scratch sizes come from it; fwd and bwd run on it,
 *                    or on one opened with the same configuration
 * @param dtype       in, compute dtype of dev
 *
 * n_params counts wte once; flops_per_token is 6 (n_params - wpe) + 12 n_layer C seq. fwd_flops and
 * bwd_flops of a stage count products with 2 m n k and attention as if not causal (4 C seq per
 * token forward, twice that backward), so that the figures compare; bwd_flops of "loss" includes
 * its forward.
 *
 * @return 0; STRATA_E_CONFIG (n_embd / n_head not whole, or no multiple of 8 up to 512; sizes 0 or
 *         absurd; dtype);
 *         -EINVAL (NULL); -ENOMEM
 */
ST_MUST_CHECK int st_gpt2_create(struct st_model **out, const struct st_gpt2_cfg *cfg, size_t batch,
				 size_t seq, const struct st_device *dev, enum st_dtype dtype);
/** st_gpt2_destroy() - NULL is accepted. */
void st_gpt2_destroy(struct st_model *m);

/**
 * st_init_fill() - initial values of elements [first, first + n) of a tensor, fp32.
 * GPT-2 asks for normal(0, 0.02), for c_proj normal(0, 0.02 / sqrt(2 n_layer)), ones for weights of
 * LayerNorm, zeros for biases; t->init and t->init_std (std below) say which. Element i depends on
 * (seed, t->name, i) and on nothing else, so any thread may fill any range. Modulo 2^64:
 *
 *	mix(z):  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9
 *		 z = (z ^ z >> 27) * 0x94d049bb133111eb
 *		 z ^ z >> 31				(the finaliser of SplitMix64)
 *	key = mix(mix(seed) ^ FNV-1a-64(name))
 *	u_c = mix(key + (c + 1) * 0x9e3779b97f4a7c15) >> 11,	c = 0, 1, 2, ...
 *
 * and in double, with j = i / 2:
 *
 *	U = (u_2j + 1) / 2^53 in (0, 1]		V = u_(2j+1) / 2^53 in [0, 1)
 *	out = (float)(std * sqrt(-2 ln U) * (i even ? cos(2 pi V) : sin(2 pi V)))
 *
 * The last bits follow the log, sin and cos of the C library.
 * Tested: tests/test_gpt2.c against tests/golden/gpt2.py, within 1e-6 std; mean, deviation, ranges
 * Source: Box and Muller, 1958; Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
 *         Generators", 2014
 */
void st_init_fill(const struct st_tensor_desc *t, uint64_t seed, size_t first, size_t n,
		  float *out);

#endif
