/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/cuda_emu/block.h - runs one grid of emulated CUDA threads.
 *
 * Threads: one grid at a time, in any OS thread
 *
 * Each thread of a block has a stack of its own and runs until it needs others: at a barrier of
 * the block, or at what a warp does together. Who runs next is chosen by a seed, so that a missing
 * barrier is seen in some order, and that order again. Blocks run one after the other, in an order
 * chosen by the seed as well. What a card leaves undefined is reported with kernel, block, thread
 * and line, and the grid is given up:
 *
 *	barriers      some threads at another one, or gone
 *	warps         shuffle, vote, ldmatrix and mma by all 32 lanes at the same line
 *	memory        load(), store() and their kin outside of the spans and of shared memory,
 *writes to a span that is only read, misaligned addresses, writes beyond shared memory (guards),
 *shared memory that was never written (poisoned: NaN) copies        the target of copy16_async() is
 *poison until the wait; the source is read at once or only then, as the seed says; never waited for
 *
 * mma sums in fp32 in the order of k. exp2 is off by up to the 2^-22 that the card may be off by.
 */
#ifndef TESTS_CUDA_EMU_BLOCK_H
#define TESTS_CUDA_EMU_BLOCK_H

#include <cuda_runtime.h>
#include <functional>
#include <launch.h>
#include <stddef.h>
#include <stdint.h>
#include <type_traits>

#define EMU_WARP           32
#define EMU_SHARED_MOST    (227u * 1024) /* of a block, with the attribute */
#define EMU_SHARED_DEFAULT (48u * 1024)

struct emuThread {
	dim3 thread, block, block_dim, grid_dim;
};

/**
 * emuRunGrid() - run all blocks of a grid to their end.
 * @param spans  in [n_spans]; the global memory it may touch
 * @param seed   in; the same seed gives the same order
 * @return true; false: reported, and the grid given up where it stood
 */
bool emuRunGrid(const emuKernel *k, dim3 grid, dim3 block, size_t smem, const emuSpan *spans,
		int n_spans, uint64_t seed, const std::function<void()> &body);

/** emuCheckGrid() - what a card says to such a launch. @param allowed shared memory it may have */
cudaError_t emuCheckGrid(dim3 grid, dim3 block, size_t smem, size_t allowed);

/* What portable.h is made of; only inside emuRunGrid(). line: of the caller, for reports. */
const emuThread *emuHere(void);
void *emuShared(void);
void emuAccess(const void *p, size_t bytes, size_t align, bool is_write, int line);
bool emuBarrier(bool x, int line); /* true if x was in any thread */
float emuShuffleXor(float x, int lane_mask, int line);
uint32_t emuBallot(bool x, int line);
void emuMma(bool is_bf16, float d[4], const uint32_t a[4], const uint32_t b[2], int line);
void emuLdmatrix(uint32_t r[4], const void *shared, bool is_trans, int line);
void emuCopyAsync(void *shared, const void *global, bool is_there, int line);
void emuCopyCommit(void);
void emuCopyWait(int most_left);

/* Arithmetic as the card's instructions have it. */
float emuExp2(float x); /* ex2.approx.ftz.f32, at the edge of its error */
float emuHalfToFloat(uint16_t h);
uint16_t emuFloatToHalf(float x);   /* cvt.rn.f16.f32 */
uint16_t emuFloatToBfloat(float x); /* cvt.rn.bf16.f32 */

static inline uint32_t emuBits(float x)
{
	uint32_t u;

	__builtin_memcpy(&u, &x, sizeof(u));
	return u;
}

static inline float emuFloat(uint32_t u)
{
	float x;

	__builtin_memcpy(&x, &u, sizeof(x));
	return x;
}

#endif
