/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/cuda_emu/launch.h - what a launch in gpu/cuda/portable.h becomes in the emulated build.
 *
 * Threads: any, as CUDA's own calls
 */
#ifndef TESTS_CUDA_EMU_LAUNCH_H
#define TESTS_CUDA_EMU_LAUNCH_H

#include <cuda_runtime.h>
#include <functional>
#include <stddef.h>

struct emuKernel {
	const char *name; /* of the operation: "layernorm_fwd" */
	const char *file; /* of the launch */
	int line;
	const void *func; /* what cudaFuncSetAttribute() knows it by */
};

struct emuSpan { /* global memory that a launch reads, or reads and writes; 0 bytes: none */
	const void *p;
	size_t bytes;
	bool is_write;
};

/**
 * emuLaunch() - put a grid into a stream.
 * @param k, spans  in, borrowed for the call: copied
 * @param body      in, what each thread of the grid runs
 * @return cudaSuccess, or what the card would say of such a configuration
 */
cudaError_t emuLaunch(const emuKernel *k, dim3 grid, dim3 block, size_t smem, cudaStream_t s,
		      const emuSpan *spans, int n_spans, std::function<void()> body);

/** emuReport() - something that CUDA forbids was done; kept in order, for tests to look at. */
void emuReport(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
int emuReports(void);             /* how many since emuClearReports() */
const char *emuReportText(int i); /* "" outside */
void emuClearReports(void);

#endif
