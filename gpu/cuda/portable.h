/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu/cuda/portable.h - everything in the kernels that is not plain C++, in two bodies.
 *
 * Layer:    gpu/cuda, included by *.cu only
 * Hardware: sm_80 and later; or, with STRATA_CUDA_EMU, any CPU (tests/cuda_emu)
 *
 * Kernels use nothing of CUDA but what stands here and threadIdx, blockIdx, blockDim, gridDim. So
 * one source is compiled twice: for the card, and by g++ against an emulation that knows who waits
 * for whom, which memory a launch may touch, and how fragments lie. Without a card this header
 * alone is unproven; `./run gpu-check` proves it where there is one.
 *
 * Rules. Global memory goes through load(), store(), load16(), store16() and copy16_async(): there
 * the emulation checks alignment and the spans that the launch states. Shared memory is dynamic
 * only: shared_memory(). Whatever a warp does together (shfl_xor, vote, mma, ldmatrix) all its 32
 * lanes do; whatever a block does together all its threads do. Sums that must have the CPU's bits
 * use the functions ending in _rn, which no compiler contracts.
 */
#ifndef GPU_CUDA_PORTABLE_H
#define GPU_CUDA_PORTABLE_H

#include <cuda_runtime.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct st_bf16 {
	uint16_t u;
};
struct st_f16 {
	uint16_t u;
};
struct alignas(16) st_vec16 { /* 16 bytes, moved at once */
	uint32_t u[4];
};

#define ST_WARP 32

#define ST_SPANS(...)                                                                              \
	{                                                                                          \
		__VA_ARGS__                                                                        \
	}

#ifdef STRATA_CUDA_EMU
/* ---- emulated ------------------------------------------------------------------------------ */
#include <block.h>
#include <launch.h>

#define ST_KERNEL(threads) static void
#define ST_DEVICE          static inline
#define ST_UNROLL
#define ST_UNROLL_2

#define threadIdx (emuHere()->thread)
#define blockIdx  (emuHere()->block)
#define blockDim  (emuHere()->block_dim)
#define gridDim   (emuHere()->grid_dim)

template <typename T> static inline T load(const T *p, int line = __builtin_LINE())
{
	emuAccess(p, sizeof(T), alignof(T), false, line);
	return *p;
}
template <typename T> static inline void store(T *p, T x, int line = __builtin_LINE())
{
	emuAccess(p, sizeof(T), alignof(T), true, line);
	*p = x;
}
static inline st_vec16 load16(const void *p, int line = __builtin_LINE())
{
	st_vec16 v;

	emuAccess(p, sizeof(v), sizeof(v), false, line);
	memcpy(&v, p, sizeof(v));
	return v;
}
static inline void store16(void *p, st_vec16 v, int line = __builtin_LINE())
{
	emuAccess(p, sizeof(v), sizeof(v), true, line);
	memcpy(p, &v, sizeof(v));
}
template <int n> static inline void copy_wait(void)
{
	emuCopyWait(n);
}
template <typename T>
static inline void emu_mma(T, float d[4], const uint32_t a[4], const uint32_t b[2], int line)
{
	emuMma(std::is_same<T, st_bf16>::value, d, a, b, line);
}
static inline uint32_t pack2(st_bf16, float lo, float hi)
{
	return (uint32_t)emuFloatToBfloat(hi) << 16 | emuFloatToBfloat(lo);
}
static inline uint32_t pack2(st_f16, float lo, float hi)
{
	return (uint32_t)emuFloatToHalf(hi) << 16 | emuFloatToHalf(lo);
}
#define shared_memory()                        ((unsigned char *)emuShared())
#define barrier()                              emuBarrier(false, __LINE__)
#define barrier_or(x)                          emuBarrier(x, __LINE__)
#define shfl_xor(x, lane_mask)                 emuShuffleXor(x, lane_mask, __LINE__)
#define vote(x)                                emuBallot(x, __LINE__)
#define copy16_async(shared, global, is_there) emuCopyAsync(shared, global, is_there, __LINE__)
#define copy_commit()                          emuCopyCommit()
#define ldmatrix(r, shared)                    emuLdmatrix(r, shared, false, __LINE__)
#define ldmatrix_trans(r, shared)              emuLdmatrix(r, shared, true, __LINE__)
#define mma(T, d, a, b)                        emu_mma(T, d, a, b, __LINE__)
#define exp2_fast                              emuExp2
#define f32_bits                               emuBits
#define bits_f32                               emuFloat
#define f16_f32(h)                             emuHalfToFloat((h).u)
#define f32_bf16(x)                            (st_bf16{ emuFloatToBfloat(x) })
#define f32_f16(x)                             (st_f16{ emuFloatToHalf(x) })
#define fma_rn(a, b, c)                        __builtin_fmaf(a, b, c)
#define mul_rn(a, b)                           ((float)(a) * (float)(b)) /* compiled without contraction */
#define add_rn(a, b)                           ((float)(a) + (float)(b))
#define sub_rn(a, b)                           ((float)(a) - (float)(b))
#define div_rn(a, b)                           ((float)(a) / (float)(b))
#define sqrt_rn(a)                             sqrtf(a)
#define add64_rn(a, b)                         ((double)(a) + (double)(b))
#define count_ones(x)                          __builtin_popcount(x)

/* One grid. spans: ST_SPANS({ pointer, bytes, is_write }, ...), all the global memory it touches,
 * with what is NULL left out by 0 bytes. The value is a cudaError_t. */
#define ST_LAUNCH(text, fn, grid, threads, smem, stream, spans, ...)                               \
	[&]() -> cudaError_t {                                                                     \
		auto *const st_fn = fn;                                                            \
		const emuKernel st_k = { text, __FILE__, __LINE__, (const void *)st_fn };          \
		const emuSpan st_spans[] = spans;                                                  \
		cudaError_t st_rc = st_allow_shared((const void *)st_fn, smem);                    \
		return st_rc ? st_rc                                                               \
			     : emuLaunch(&st_k, grid, threads, smem, stream, st_spans,             \
					 (int)(sizeof(st_spans) / sizeof(st_spans[0])),            \
					 [=]() { st_fn(__VA_ARGS__); });                           \
	}()

#else
/* ---- CUDA ---------------------------------------------------------------------------------- */
#include <cuda_bf16.h>
#include <cuda_fp16.h>

struct st_span {
	const void *p;
	size_t bytes;
	bool is_write;
};

#define ST_KERNEL(threads) static __global__ void __launch_bounds__(threads, 1)
#define ST_DEVICE          static __device__ __forceinline__
#define ST_UNROLL          _Pragma("unroll")
#define ST_UNROLL_2        _Pragma("unroll 2") /* whole, it would take too many registers */

template <typename T> ST_DEVICE T load(const T *p)
{
	return *p;
}
template <typename T> ST_DEVICE void store(T *p, T x)
{
	*p = x;
}
ST_DEVICE st_vec16 load16(const void *p)
{
	const uint4 v = *(const uint4 *)p;

	return { { v.x, v.y, v.z, v.w } };
}
ST_DEVICE void store16(void *p, st_vec16 v) /* in C++, nvcc may make four stores of it */
{
	asm volatile("st.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(p), "r"(v.u[0]), "r"(v.u[1]),
		     "r"(v.u[2]), "r"(v.u[3])
		     : "memory");
}
ST_DEVICE unsigned char *shared_memory(void)
{
	extern __shared__ __align__(128) unsigned char st_shared[];

	return st_shared;
}
ST_DEVICE void barrier(void)
{
	__syncthreads();
}
ST_DEVICE bool barrier_or(bool x)
{
	return __syncthreads_or(x) != 0;
}
ST_DEVICE float shfl_xor(float x, int lane_mask)
{
	return __shfl_xor_sync(0xffffffffu, x, lane_mask);
}
ST_DEVICE uint32_t vote(bool x)
{
	return __ballot_sync(0xffffffffu, x);
}
ST_DEVICE uint32_t st_shared_at(const void *p)
{
	return (uint32_t)__cvta_generic_to_shared(p);
}
/* 16 bytes, zeros where there is nothing to copy; global is then not read. */
ST_DEVICE void copy16_async(void *shared, const void *global, bool is_there)
{
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(st_shared_at(shared)),
		     "l"(global), "r"(is_there ? 16 : 0)
		     : "memory");
}
ST_DEVICE void copy_commit(void)
{
	asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int n> /* until at most n of this thread's groups are under way */
ST_DEVICE void copy_wait(void)
{
	asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}
/* Four 8 x 8 matrices of 16-bit elements; lane l names row l % 8 of matrix l / 8. */
ST_DEVICE void ldmatrix(uint32_t r[4], const void *shared)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
		     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
		     : "r"(st_shared_at(shared))
		     : "memory");
}
ST_DEVICE void ldmatrix_trans(uint32_t r[4], const void *shared)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
		     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
		     : "r"(st_shared_at(shared))
		     : "memory");
}
/* D[16,8] += A[16,16] B[16,8], fp32 sums; fragments as the PTX manual draws them. */
#define ST_MMA(T, name)                                                                            \
	ST_DEVICE void mma(T, float d[4], const uint32_t a[4], const uint32_t b[2])                \
	{                                                                                          \
		asm("mma.sync.aligned.m16n8k16.row.col.f32." name "." name ".f32 "                 \
		    "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                        \
		    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                               \
		    : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));           \
	}
ST_MMA(st_bf16, "bf16")
ST_MMA(st_f16, "f16")
/* Two elements of a fragment in one register, the first one below. */
#define ST_PACK2(T, name)                                                                          \
	ST_DEVICE uint32_t pack2(T, float lo, float hi)                                            \
	{                                                                                          \
		uint32_t y;                                                                        \
		asm("cvt.rn." name "x2.f32 %0, %1, %2;" : "=r"(y) : "f"(hi), "f"(lo));             \
		return y;                                                                          \
	}
ST_PACK2(st_bf16, "bf16")
ST_PACK2(st_f16, "f16")
/* 2^x within 2^-22 |2^x|; results below 2^-126 are 0 */
ST_DEVICE float exp2_fast(float x)
{
	float y;

	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
	return y;
}
#define f32_bits        __float_as_uint
#define bits_f32        __uint_as_float
#define f16_f32(h)      __half2float(__ushort_as_half((h).u))
#define f32_bf16(x)     (st_bf16{ __bfloat16_as_ushort(__float2bfloat16_rn(x)) })
#define f32_f16(x)      (st_f16{ __half_as_ushort(__float2half_rn(x)) })
#define fma_rn(a, b, c) __fmaf_rn(a, b, c)
#define mul_rn(a, b)    __fmul_rn(a, b)
#define add_rn(a, b)    __fadd_rn(a, b)
#define sub_rn(a, b)    __fsub_rn(a, b)
#define div_rn(a, b)    __fdiv_rn(a, b)
#define sqrt_rn(a)      __fsqrt_rn(a)
#define add64_rn(a, b)  __dadd_rn(a, b)
#define count_ones(x)   __popc(x)

#define ST_LAUNCH(text, fn, grid, threads, smem, stream, spans, ...)                               \
	[&]() -> cudaError_t {                                                                     \
		auto *const st_fn = fn;                                                            \
		cudaError_t st_rc = st_allow_shared((const void *)st_fn, smem);                    \
		if (false) { /* what only the emulation needs is still compiled */                 \
			const st_span st_spans[] = spans;                                          \
			(void)st_spans;                                                            \
		}                                                                                  \
		if (st_rc)                                                                         \
			return st_rc;                                                              \
		st_fn<<<grid, threads, smem, stream>>>(__VA_ARGS__);                               \
		return cudaGetLastError();                                                         \
	}()
#endif

/* Above 48 KiB a kernel needs leave for its dynamic shared memory. */
static inline cudaError_t st_allow_shared(const void *fn, size_t bytes)
{
	return bytes > 48 * 1024
		       ? cudaFuncSetAttribute(fn, cudaFuncAttributeMaxDynamicSharedMemorySize,
					      (int)bytes)
		       : cudaSuccess;
}

#endif
