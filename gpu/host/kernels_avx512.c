/* SPDX-License-Identifier: Apache-2.0 */
/* gpu/host/kernels_avx512.c - the host kernels for AVX-512 F, BW, DQ, VL. */
#if defined(__x86_64__)
#define ST_KERNELS_TABLE st_host_kernels_avx512
#define ST_KERNELS_ISA   "avx512"
#include "gpu/host/kernels_body.h"
#endif
