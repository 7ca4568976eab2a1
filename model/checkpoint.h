/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model/checkpoint.h - a state on NVMe as Hugging Face's files, without the run that made it.
 *
 * Layer:   model
 * Threads: re-entrant
 */
#ifndef MODEL_CHECKPOINT_H
#define MODEL_CHECKPOINT_H

#include "core/dtype.h"
#include "offload/checkpoint.h"

/**
 * st_checkpoint_write() - TO/model.safetensors and TO/config.json, by the trainer's own writer: the
 * bytes that a run that ends at that step writes.
 * @param from      in, a run's output directory: its strata.json says which model it trains
 * @param run_json  in, names the state (offload/checkpoint.h)
 * @param to        in, an existing directory; what is there under these names is replaced, each
 *                  file whole or not at all
 * @param dtype     in, ST_F32 (the master weights, exact) or ST_BF16 (rounded to nearest even)
 * @return as st_checkpoint_export(); STRATA_E_CONFIG: strata.json is missing or damaged; -errno
 */
ST_MUST_CHECK int st_checkpoint_write(const char *from, const char *run_json, const char *to,
				      enum st_dtype dtype, const struct st_checkpoint_watch *w);

#endif
