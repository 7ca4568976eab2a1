/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu/cuda/plugin.cc - the one function that strata-cuda.so exports, and what the program lends it.
 *
 * In the emulated build, which is linked to the program's own code, this file is left out.
 */
#include "gpu/cuda/cuda.h"

static const struct st_plugin_core *program;

extern "C" int st__fail(int rc, const char *file, int line, const char *fmt, ...)
{
	struct st_error e;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(e.text, sizeof(e.text), fmt, ap);
	va_end(ap);
	return program->fail(rc, file, line, e.text);
}

extern "C" const char *st_last_error(void)
{
	return program->last_error();
}

extern "C" void st_device_fail(struct st_device *dev, int rc)
{
	program->device_fail(dev, rc);
}

extern "C" void st_log(enum st_log_level level, const char *fmt, ...)
{
	struct st_error e;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(e.text, sizeof(e.text), fmt, ap);
	va_end(ap);
	program->log(level, e.text);
}

static const struct st_plugin plugin = { STRATA_BUILD_ID, &st_cuda_ops, st_cuda_probe };

extern "C" __attribute__((visibility("default"))) const struct st_plugin *
strata_cuda_plugin(const struct st_plugin_core *core)
{
	program = core;
	return &plugin;
}
