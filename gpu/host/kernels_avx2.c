/* SPDX-License-Identifier: Apache-2.0 */
/* gpu/host/kernels_avx2.c - the host kernels for AVX2 + FMA + F16C. */
#if defined(__x86_64__)
#define ST_KERNELS_TABLE st_host_kernels_avx2
#define ST_KERNELS_ISA   "avx2"
#include "gpu/host/kernels_body.h"
#endif
