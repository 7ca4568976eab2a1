/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/gpu_check/no_host.c - the CUDA device linked in, and no other: the host device needs
 * libraries that a machine with a GPU may lack.
 */
#include <stdio.h>

#include "gpu/plugin.h"

extern const struct st_device_ops st_cuda_ops;

static int refuse_open(struct st_device **out, const struct st_device_cfg *cfg)
{
	return st_fail(STRATA_E_UNSUPPORTED, "device \"%s\": not built into this program.",
		       cfg->type);
}

const struct st_device_ops st_host_ops = { .api_version = ST_DEVICE_API_VERSION,
					   .type = "host",
					   .open = refuse_open };

int st_plugin_cuda(const struct st_device_ops **ops)
{
	*ops = &st_cuda_ops;
	return 0;
}

const char *st_plugin_cuda_line(void)
{
	return "linked in";
}
