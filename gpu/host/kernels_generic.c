/* SPDX-License-Identifier: Apache-2.0 */
/* gpu/host/kernels_generic.c - the host kernels for plain C (SSE2, NEON): the fallback, always
 * built. */
#define ST_KERNELS_TABLE st_host_kernels_generic
#define ST_KERNELS_ISA   "generic"
#include "gpu/host/kernels_body.h"
