/* SPDX-License-Identifier: Apache-2.0 */
/* tests/cuda_emu/nvtx3/nvToolsExt.h - ranges of a profiler that is not there: they must pair. */
#ifndef TESTS_CUDA_EMU_NVTX_H
#define TESTS_CUDA_EMU_NVTX_H

int nvtxRangePushA(const char *name);
int nvtxRangePop(void);

#endif
