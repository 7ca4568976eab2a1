/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model/output.h - files of a run's output directory that more than the trainer deals with.
 *
 * Layer:   model
 * Threads: re-entrant
 */
#ifndef MODEL_OUTPUT_H
#define MODEL_OUTPUT_H

#include "core/dtype.h"
#include "core/status.h"
#include "model/gpt2.h"
#include "offload/layout.h"

#define ST_RUN_JSON_BYTES ((size_t)64 << 10) /* room for the text of run.json */

/** st_output_path() - "DIR/NAME". @return 0; STRATA_E_INPUT: too long */
ST_MUST_CHECK int st_output_path(char *out, size_t bytes, const char *dir, const char *name);

/**
 * st_output_lock() - keep other runs out of DIR until *fd is closed.
 * @param creates  in, make the lock file where there is none; else *fd is then -1
 * @return 0; STRATA_E_BUSY (another run has it); STRATA_E_INPUT (not writable)
 */
ST_MUST_CHECK int st_output_lock(int *fd, const char *dir, bool creates);

#define ST_OUTPUT_RUN     "run.json"
#define ST_OUTPUT_REMOVED "run.json.removed" /* what it becomes while the state is removed */
#define ST_OUTPUT_DEVICE  "device.txt"       /* what its device chose: st_device_choices() */

/**
 * st_output_read_run() - the text of DIR/NAME, which names the store, or is the device's.
 * @param name  in, one of these three
 * @param out   out [ST_RUN_JSON_BYTES]
 * @return 0; STRATA_E_INPUT (missing, no file, too large); -errno
 */
ST_MUST_CHECK int st_output_read_run(const char *dir, const char *name, char *out);

/** st_output_condemn() - durably rename run.json: the state that it names is removed from now on,
 *  and whoever finds it so goes on with that. @return 0; -errno */
ST_MUST_CHECK int st_output_condemn(const char *dir);
/** st_output_pardon() - the opposite, where nothing was removed. @return 0; -errno */
ST_MUST_CHECK int st_output_pardon(const char *dir);
/** st_output_forget() - the state is gone: its name goes too. @return 0; -errno */
ST_MUST_CHECK int st_output_forget(const char *dir);

/* Calls emit for the whole state, in order of units and elements. */
typedef int st_output_source(void *user, st_emit_fn *emit, void *emit_user);

/**
 * st_output_write_model() - DIR/model.safetensors, then DIR/config.json, each whole or not at all.
 * @param dtype   in, ST_F32 (the master weights, exact) or ST_BF16 (rounded to nearest even)
 * @param source  in, hands out the state of m's tensors
 * @return 0; the first failure of source or of writing
 */
ST_MUST_CHECK int st_output_write_model(const char *dir, const struct st_model *m,
					const struct st_gpt2_cfg *gpt2, enum st_dtype dtype,
					st_output_source *source, void *user);

#endif
