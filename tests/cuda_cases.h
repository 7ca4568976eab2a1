/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/cuda_cases.h - what the kernels of gpu/cuda must do, as cases for whoever can run them.
 *
 * tests/test_cuda_kernels.cc runs them on the emulation; built by nvcc, the same cases run on a
 * GPU. A case has its operands on the device twice, at other places and between guards, with random
 * values by a constant seed. check() holds that both runs gave the same bits, that the guards
 * stand, and that each element lies within atol + rtol |ref| of plain loops in double
 * (tests/ref_device.h), where NaN fails; and, where a host device is given, as near to its result.
 * rtol: fp32 2e-5, bf16 2^-8, fp16 2^-10. atol: as each case says; 2^-24 more in fp16, its smallest
 * unit. What must be the CPU's to the bit is compared as bits.
 */
#ifndef TESTS_CUDA_CASES_H
#define TESTS_CUDA_CASES_H

#include <cuda_runtime.h>
#include <functional>
#include <stddef.h>
#include <string>

#include "core/dtype.h"

struct st_device;

struct cuda_case {
	std::string op, name; /* "layernorm_fwd", "layernorm_fwd bf16 17 x 768" */
	enum st_dtype dtype;
	double bytes,
		flops; /* that one run moves and computes at least; 0: not a matter of speed */
	/* Put one run into the stream, on one of the two sets of operands. */
	std::function<cudaError_t(cudaStream_t s, int set)> launch;
	/* After one run of each set: how many are wrong; *why: the first of them. */
	std::function<size_t(std::string *why)> check;
};

struct cuda_cases {
	std::string only; /* "" or the beginning of an op's name */
	/* For a dtype, a host device to compare with, or NULL; st_* of gpu/device.h is then called.
	 */
	std::function<st_device *(enum st_dtype)> host;
	std::function<void(cuda_case &)> each;
};

/** cuda_cases_run() - make each case, hand it to `each`, and free it. @return how many there were
 */
size_t cuda_cases_run(const cuda_cases &c);

/** cuda_header_*() - tests/cuda_header.cu: one warp and the header's functions, on the device. */
/* d[16, 8] = a[16, 16] b[16, 8]: a and b through shared memory and ldmatrix; 16-bit dtypes */
cudaError_t cuda_header_mma(cudaStream_t s, enum st_dtype dt, const void *a, const void *b,
			    bool is_b_transposed, float *d);
/* y[i]: exp2_fast(x[i]); n a multiple of 32 */
cudaError_t cuda_header_exp2(cudaStream_t s, size_t n, const float *x, float *y);
/* y[i] of 32: shfl_xor(x, lane_mask); votes: vote(x > 0); any: barrier_or(x[lane of warp] > 0) */
cudaError_t cuda_header_warp(cudaStream_t s, const float *x, int lane_mask, float *y,
			     uint32_t *votes, uint32_t *any);

#endif
