/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/cuda_emu/host.h - tell the emulation of memory that the host itself reads or writes.
 *
 * Threads: any. In C and C++.
 *
 * Of host memory that copies name, the emulation knows what copies do. That the host's own accesses
 * come after the copies which they depend on, and before those which depend on them, it can only
 * see if it is told of them.
 */
#ifndef TESTS_CUDA_EMU_HOST_H
#define TESTS_CUDA_EMU_HOST_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/** @param what  in, who does it, for the report: "the host's hash" */
void emuHostRead(const void *p, size_t bytes, const char *what);
void emuHostWrite(const void *p, size_t bytes, const char *what);

#ifdef __cplusplus
}
#endif
#endif
