/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu/cuda/cuda.h - the CUDA device's host side: streams, memory, failures, products.
 *
 * Layer:    gpu/cuda (uses core), plain C++ without exceptions; included by *.cc
 * Threads:  as gpu/device.h: compute stream and operations by one thread, each copy stream by one
 * Hardware: compute capability 8.0 and later; a driver for CUDA 12 or 13, as compiled
 *
 *	plugin.cc   the entry; what the program lends (st_fail, st_log)
 *	device.cc   open, close, arena, registered memory, streams, events, failures
 *	ops.cc      operations: a range for the profiler, a kernel of kernels.h, its failure
 *	matmul.cc   products by cuBLASLt, and by product.cu where that has none
 *
 * Inside a step nothing allocates, frees, creates or synchronises: streams and flags are made when
 * the device is opened, memory once by arena(), descriptions of products when their scratch is
 * planned, events by the caller beforehand.
 */
#ifndef GPU_CUDA_CUDA_H
#define GPU_CUDA_CUDA_H

#include "gpu/cuda/c_headers.h"

#include <cuda_runtime.h>
#include <nvtx3/nvToolsExt.h>

#define ST_CUDA_HOSTS_MAX 256u /* registered ranges */

struct st_lt; /* matmul.cc */

struct st_cuda_host { /* a registered range */
	uintptr_t base;
	size_t bytes;
};

struct st_cuda {
	struct st_device dev; /* first: a struct st_device * of this type is a struct st_cuda * */
	cudaStream_t stream[ST_STREAM_N];
	uintptr_t arena;
	size_t arena_bytes;
	struct st_cuda_host hosts[ST_CUDA_HOSTS_MAX]; /* by address */
	unsigned n_hosts;
	/* 1 + the index of the first token that a kernel refused, else 0: kernels write the one
	 * behind the arena, which is copied to the pinned one for check() to read. */
	uint64_t *bad_device, *bad;
	struct st_lt *lt;
	int sm; /* 80 for 8.0 */
	char name[ST_PLUGIN_LINE];
};

static inline struct st_cuda *st_cuda(struct st_device *dev)
{
	return (struct st_cuda *)(void *)dev;
}

static inline const struct st_cuda *st_cuda_const(const struct st_device *dev)
{
	return (const struct st_cuda *)(const void *)dev;
}

/**
 * ST_CUDA_TRY() - a CUDA call's result as ours. A failure that does not last is cleared, so that no
 * later call is blamed for it, and recorded with the call, its place, and what to do.
 * @param what  in, what failed: "copy of 4096 bytes to the device"; printf format and arguments
 */
#define ST_CUDA_TRY(call, ...) st_cuda_try((call), #call, __FILE__, __LINE__, __VA_ARGS__)
int st_cuda_try(cudaError_t rc, const char *call, const char *file, int line, const char *what, ...)
	ST_PRINTF(5, 6);

/** st_cuda_probe() - which GPU; see struct st_plugin. */
int st_cuda_probe(char *line, size_t bytes);

extern "C" const struct st_device_ops st_cuda_ops;

/* A range that a profiler shows, as long as it lives. */
struct st_cuda_range {
	explicit st_cuda_range(const char *name)
	{
		nvtxRangePushA(name);
	}
	~st_cuda_range()
	{
		nvtxRangePop();
	}
	st_cuda_range(const st_cuda_range &) = delete;
	st_cuda_range &operator=(const st_cuda_range &) = delete;
};

/* ---- matmul.cc ---------------------------------------------------------------------------- */

/** st_lt_open() - find cuBLASLt and make a handle. @return 0; STRATA_E_UNSUPPORTED: not found */
int st_lt_open(struct st_lt **out, enum st_dtype dtype, int sm);
void st_lt_close(struct st_lt *lt);
/** st_lt_find() - is the library there, and which? @param line out, why not, or its version */
int st_lt_find(char *line, size_t bytes);
size_t st_lt_version(const struct st_lt *lt);

size_t st_cuda_matmul_work_bytes(const struct st_device *dev, const struct st_matmul *mm);
void st_cuda_matmul(struct st_device *dev, const struct st_matmul *mm);
size_t st_cuda_choices(const struct st_device *dev, char *text, size_t bytes);
int st_cuda_choose(struct st_device *dev, const char *text);

/* product.cu: any dtypes and strides, sums in the order of k. */
cudaError_t st_cuda_product(cudaStream_t stream, const struct st_matmul *mm,
			    enum st_dtype bias_dtype);

/* ---- ops.cc -------------------------------------------------------------------------------- */

/** st_cuda_operations() - the table, with what ops.cc has. */
struct st_device_ops st_cuda_operations(void);
/** st_cuda_check() - what kernels have refused since: becomes the device's failure. */
void st_cuda_check(struct st_device *dev);

#endif
