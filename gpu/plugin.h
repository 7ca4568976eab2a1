/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu/plugin.h - the CUDA device as a shared object: what crosses the border, and how it is found.
 *
 * Layer:   gpu (uses core)
 * Threads: any; it is loaded once in a process and stays
 *
 * strata-cuda.so lies beside the program or beside libstrata.so and is opened by its absolute path.
 * So one binary runs with and without a GPU, a driver or CUDA's libraries; the plugin brings its
 *own CUDA runtime and looks for the driver and cuBLASLt when it is asked. It exports one function,
 *
 *	const struct st_plugin *strata_cuda_plugin(const struct st_plugin_core *core);
 *
 * whose result begins with the build id: a hash of Strata's version and of every header that the
 * two sides share. Nothing else of it is read unless that is the program's own.
 */
#ifndef GPU_PLUGIN_H
#define GPU_PLUGIN_H

#include "core/log.h"
#include "gpu/device_ops.h"

#define ST_PLUGIN_FILE  "strata-cuda.so"
#define ST_PLUGIN_ENTRY "strata_cuda_plugin"
#define ST_PLUGIN_LINE  256 /* bytes of a line about the GPU, with its end */

/* What the plugin needs of the program, whose functions it could not see. */
struct st_plugin_core {
	int (*fail)(int rc, const char *file, int line, const char *text); /* st__fail() */
	const char *(*last_error)(void);
	void (*device_fail)(struct st_device *dev, int rc);
	void (*log)(enum st_log_level level, const char *line);
};

struct st_plugin {
	char build_id[32]; /* first */
	const struct st_device_ops *ops;
	/* 0 and "NVIDIA H100 80GB HBM3, sm_90, ...", or a negative code and why not. */
	int (*probe)(char *line, size_t bytes);
};

typedef const struct st_plugin *st_plugin_entry(const struct st_plugin_core *core);

/**
 * st_plugin_cuda() - the CUDA device of this machine.
 * @param ops  out, untouched on failure
 * @return 0; STRATA_E_UNSUPPORTED: st_plugin_cuda_line() says why
 */
ST_MUST_CHECK int st_plugin_cuda(const struct st_device_ops **ops);

/** st_plugin_cuda_line() - one line, without a full stop: which GPU, or why there is none. */
const char *st_plugin_cuda_line(void);

/**
 * st_plugin_load() - the plugin at a path, whether there is a GPU or not.
 * @param line  out [ST_PLUGIN_LINE], on failure why
 * @return the plugin, which is never unloaded, or NULL
 */
const struct st_plugin *st_plugin_load(const char *path, char *line);

#endif
