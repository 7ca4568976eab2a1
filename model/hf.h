/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model/hf.h - Hugging Face's config.json beside the weights.
 *
 * Layer:   model (uses core)
 * Threads: re-entrant
 *
 * What is written opens as GPT2LMHeadModel. What is read must describe the model that gpt2.h
 * computes, to the letter: a switch that changes the mathematics is refused with its name, not
 * ignored. Keys that say nothing about the mathematics are ignored; dropout is reported (log, once)
 * as not used.
 */
#ifndef MODEL_HF_H
#define MODEL_HF_H

#include "core/dtype.h"
#include "core/status.h"
#include "model/gpt2.h"

/**
 * st_hf_config_write() - write DIR/config.json: whole or not at all, mode 0644 & ~umask.
 * @param dtype  in, of the weights beside it ("torch_dtype")
 *
 * bos_token_id and eos_token_id are GPT-2's 50256 where the vocabulary holds it; else null, because
 * readers take 50256 for an absent key.
 *
 * @return 0; -errno: DIR/config.json is as it was
 */
ST_MUST_CHECK int st_hf_config_write(const char *dir, const struct st_gpt2_cfg *cfg,
				     enum st_dtype dtype);

/**
 * st_hf_config_read() - read DIR/config.json of a GPT-2.
 * @return 0; STRATA_E_INPUT (missing, not JSON, a key missing or of the wrong type or out of
 * range); STRATA_E_UNSUPPORTED (another model_type, activation, epsilon, ...: which, and why);
 *         -errno
 */
ST_MUST_CHECK int st_hf_config_read(const char *dir, struct st_gpt2_cfg *out);

#endif
