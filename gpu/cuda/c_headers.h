/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu/cuda/c_headers.h - the C headers that the CUDA device shares with the program, as C++.
 *
 * Layer: gpu/cuda, included first by *.cc and by what needs struct st_device
 */
#ifndef GPU_CUDA_C_HEADERS_H
#define GPU_CUDA_C_HEADERS_H

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define _Noreturn [[noreturn]]
extern "C" {
#include "gpu/device_ops.h"
#include "gpu/plugin.h"
}
#undef _Noreturn

#endif
