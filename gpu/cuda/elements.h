/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu/cuda/elements.h - elements of fp32, bf16 and fp16 as fp32, one or 16 bytes at a time.
 *
 * Layer: gpu/cuda, included by *.cu only
 *
 * A streaming kernel is a template over T and IS_WIDE. IS_WIDE: rows begin at 16 bytes and hold a
 * whole number of these, so a thread moves st_lanes<T>() elements at once; else one.
 */
#ifndef GPU_CUDA_ELEMENTS_H
#define GPU_CUDA_ELEMENTS_H

#include <initializer_list>
#include <type_traits>

#include "core/dtype.h"
#include "gpu/cuda/portable.h"

template <typename T> ST_DEVICE T from_f32(float x)
{
	if constexpr (std::is_same<T, st_bf16>::value)
		return f32_bf16(x);
	else if constexpr (std::is_same<T, st_f16>::value)
		return f32_f16(x);
	else
		return x;
}

ST_DEVICE float to_f32(float x)
{
	return x;
}
ST_DEVICE float to_f32(st_bf16 x)
{
	return bits_f32((uint32_t)x.u << 16);
}
ST_DEVICE float to_f32(st_f16 x)
{
	return f16_f32(x);
}

/* N consecutive elements: N sizeof(T) == 16, at 16 bytes; or N == 1. */
template <typename T, int N> struct elements {
	float x[N];
};

template <typename T, int N> ST_DEVICE elements<T, N> load_elements(const T *p)
{
	elements<T, N> e;

	if constexpr (N == 1) {
		e.x[0] = to_f32(load(p));
	} else if constexpr (sizeof(T) == 4) {
		const st_vec16 v = load16(p);

		ST_UNROLL
		for (int i = 0; i < 4; i++)
			e.x[i] = bits_f32(v.u[i]);
	} else {
		const st_vec16 v = load16(p);

		ST_UNROLL
		for (int i = 0; i < 4; i++) {
			T lo, hi;

			lo.u = (uint16_t)v.u[i];
			hi.u = (uint16_t)(v.u[i] >> 16);
			e.x[2 * i] = to_f32(lo);
			e.x[2 * i + 1] = to_f32(hi);
		}
	}
	return e;
}

template <typename T, int N> ST_DEVICE void store_elements(T *p, const elements<T, N> &e)
{
	if constexpr (N == 1) {
		store(p, from_f32<T>(e.x[0]));
	} else {
		st_vec16 v;

		ST_UNROLL
		for (int i = 0; i < 4; i++) {
			if constexpr (sizeof(T) == 4)
				v.u[i] = f32_bits(e.x[i]);
			else
				v.u[i] = pack2(T{}, e.x[2 * i], e.x[2 * i + 1]);
		}
		store16(p, v);
	}
}

/* p[i] += e, N elements of fp32 at 16 bytes each four; or one */
template <typename T, int N> ST_DEVICE void add_elements(float *p, const elements<T, N> &e)
{
	if constexpr (N == 1) {
		store(p, load(p) + e.x[0]);
	} else {
		ST_UNROLL
		for (int j = 0; j < N; j += 4) {
			elements<float, 4> s = load_elements<float, 4>(p + j);

			ST_UNROLL
			for (int i = 0; i < 4; i++)
				s.x[i] += e.x[j + i];
			store_elements<float, 4>(p + j, s);
		}
	}
}

/* Sum and maximum over the lanes of a warp, the same in all of them; a NaN may be lost in max. */
ST_DEVICE float warp_sum(float x)
{
	ST_UNROLL
	for (int m = ST_WARP / 2; m > 0; m /= 2)
		x += shfl_xor(x, m);
	return x;
}

/* ---- on the host --------------------------------------------------------------------------- */

template <typename T> constexpr int st_lanes(void)
{
	return (int)(16 / sizeof(T));
}

static inline bool st_is_wide(std::initializer_list<const void *> all)
{
	for (const void *p : all)
		if ((uintptr_t)p % 16)
			return false;
	return true;
}

static inline size_t st_ceil_div(size_t a, size_t b)
{
	return (a + b - 1) / b;
}

/* call(T{}) for the T of a dtype; call returns a cudaError_t */
#define ST_EACH_DTYPE(dt, call)                                                                    \
	((dt) == ST_F32 ? call(float{}) : (dt) == ST_BF16 ? call(st_bf16{}) : call(st_f16{}))

#endif
