/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu/cuda/elementwise.cu - GELU, sums, casts, zeros: 16 bytes in, 16 bytes out.
 *
 * A thread does one vector; what is left of n behind the last whole vector, and everything where an
 * operand does not begin at 16 bytes, is done one element at a time by a launch of its own.
 */
#include "gpu/cuda/elements.h"
#include "gpu/cuda/kernels.h"

#define THREADS 256

/* Elements [first, n), N at a time. */
template <int N> ST_DEVICE size_t my_elements(size_t first)
{
	return first + ((size_t)blockIdx.x * THREADS + threadIdx.x) * N;
}

static dim3 blocks_for(size_t n, int each)
{
	return dim3((unsigned)st_ceil_div(n, (size_t)each * THREADS));
}

/* ---- GELU ---------------------------------------------------------------------------------- */

/* gelu(x) = x s, s = 1 / (1 + e), e = exp(-2u), u = x (c + c 0.044715 x^2), c = sqrt(2 / pi) */
#define GELU_C  0.79788456080286536f
#define GELU_C3 (0.79788456080286536f * 0.044715f)

ST_DEVICE float gelu_e(float x)
{
	const float u = x * fma_rn(x * x, GELU_C3, GELU_C) * -2.0f;

	return expf(u > 80.0f ? 80.0f : u); /* a NaN passes */
}

ST_DEVICE float gelu(float x)
{
	return x / (1.0f + gelu_e(x));
}

ST_DEVICE float gelu_slope(float x)
{
	const float e = gelu_e(x), s = 1.0f / (1.0f + e);
	const float du2 = fma_rn(x * x, 6.0f * GELU_C3, 2.0f * GELU_C);

	return fma_rn(x * du2, s * (e * s), s); /* e s = 1 - s, without cancellation */
}

template <typename T, int N> ST_KERNEL(THREADS) gelu_fwd(size_t first, size_t n, const T *x, T *y)
{
	const size_t i = my_elements<N>(first);

	if (i < n) {
		elements<T, N> v = load_elements<T, N>(x + i);

		ST_UNROLL
		for (int j = 0; j < N; j++)
			v.x[j] = gelu(v.x[j]);
		store_elements<T, N>(y + i, v);
	}
}

template <typename T, int N>
ST_KERNEL(THREADS)
gelu_bwd(size_t first, size_t n, const T *x, const T *dy, T *dx)
{
	const size_t i = my_elements<N>(first);

	if (i < n) {
		const elements<T, N> v = load_elements<T, N>(x + i);
		elements<T, N> d = load_elements<T, N>(dy + i);

		ST_UNROLL
		for (int j = 0; j < N; j++)
			d.x[j] *= gelu_slope(v.x[j]);
		store_elements<T, N>(dx + i, d);
	}
}

template <typename T, int N>
ST_KERNEL(THREADS)
add(size_t first, size_t n, const T *a, const T *b, T *y)
{
	const size_t i = my_elements<N>(first);

	if (i < n) {
		const elements<T, N> v = load_elements<T, N>(a + i);
		elements<T, N> w = load_elements<T, N>(b + i);

		ST_UNROLL
		for (int j = 0; j < N; j++)
			w.x[j] += v.x[j];
		store_elements<T, N>(y + i, w);
	}
}

/* ---- casts and zeros ----------------------------------------------------------------------- */

/* Eight elements: one vector of 16 bits, two of 32. */
template <typename T> ST_DEVICE elements<T, 8> load8(const T *p)
{
	if constexpr (sizeof(T) == 2) {
		return load_elements<T, 8>(p);
	} else {
		const elements<T, 4> lo = load_elements<T, 4>(p), hi = load_elements<T, 4>(p + 4);
		elements<T, 8> all;

		ST_UNROLL
		for (int i = 0; i < 4; i++) {
			all.x[i] = lo.x[i];
			all.x[i + 4] = hi.x[i];
		}
		return all;
	}
}

template <typename T> ST_DEVICE void store8(T *p, const float x[8])
{
	if constexpr (sizeof(T) == 2) {
		elements<T, 8> all;

		ST_UNROLL
		for (int i = 0; i < 8; i++)
			all.x[i] = x[i];
		store_elements<T, 8>(p, all);
	} else {
		elements<T, 4> lo, hi;

		ST_UNROLL
		for (int i = 0; i < 4; i++) {
			lo.x[i] = x[i];
			hi.x[i] = x[i + 4];
		}
		store_elements<T, 4>(p, lo);
		store_elements<T, 4>(p + 4, hi);
	}
}

template <typename F, typename T, int N>
ST_KERNEL(THREADS)
cast(size_t first, size_t n, const F *x, T *y)
{
	const size_t i = my_elements<N>(first);

	if (i < n) {
		if constexpr (N == 1)
			store(y + i, from_f32<T>(to_f32(load(x + i))));
		else
			store8<T>(y + i, load8<F>(x + i).x);
	}
}

ST_KERNEL(THREADS) zero16(size_t n, unsigned char *p)
{
	const size_t i = my_elements<16>(0);

	if (i < n)
		store16(p + i, st_vec16{ { 0, 0, 0, 0 } });
}

ST_KERNEL(THREADS) zero1(size_t first, size_t n, unsigned char *p)
{
	const size_t i = my_elements<1>(first);

	if (i < n)
		store(p + i, (unsigned char)0);
}

/* ---- launches ------------------------------------------------------------------------------ */

/* Whole vectors of `each` elements, then the rest; launch(is_wide, first, end). */
template <typename L> static cudaError_t in_two(size_t n, int each, bool is_wide, L launch)
{
	const size_t whole = is_wide ? n / (size_t)each * (size_t)each : 0;
	cudaError_t rc = whole ? launch(true, (size_t)0, whole) : cudaSuccess;

	return rc || whole == n ? rc : launch(false, whole, n);
}

template <typename T> static cudaError_t launch_gelu_fwd(cudaStream_t s, size_t n, const T *x, T *y)
{
	constexpr int each = st_lanes<T>();

	return in_two(n, each, st_is_wide({ x, y }), [=](bool is_wide, size_t first, size_t end) {
		auto *fn = is_wide ? gelu_fwd<T, each> : gelu_fwd<T, 1>;

		return ST_LAUNCH("gelu_fwd", fn, blocks_for(end - first, is_wide ? each : 1),
				 THREADS, 0, s,
				 ST_SPANS({ x, n * sizeof(T), false }, { y, n * sizeof(T), true }),
				 first, end, x, y);
	});
}

cudaError_t st_cuda_gelu_fwd(cudaStream_t s, enum st_dtype dt, size_t n, const void *x, void *y)
{
	auto go = [=](auto t) {
		using T = decltype(t);

		return launch_gelu_fwd(s, n, (const T *)x, (T *)y);
	};

	return ST_EACH_DTYPE(dt, go);
}

template <typename T>
static cudaError_t launch_gelu_bwd(cudaStream_t s, size_t n, const T *x, const T *dy, T *dx)
{
	constexpr int each = st_lanes<T>();

	return in_two(
		n, each, st_is_wide({ x, dy, dx }), [=](bool is_wide, size_t first, size_t end) {
			auto *fn = is_wide ? gelu_bwd<T, each> : gelu_bwd<T, 1>;

			return ST_LAUNCH("gelu_bwd", fn,
					 blocks_for(end - first, is_wide ? each : 1), THREADS, 0, s,
					 ST_SPANS({ x, n * sizeof(T), false },
						  { dy, n * sizeof(T), false },
						  { dx, n * sizeof(T), true }),
					 first, end, x, dy, dx);
		});
}

cudaError_t st_cuda_gelu_bwd(cudaStream_t s, enum st_dtype dt, size_t n, const void *x,
			     const void *dy, void *dx)
{
	auto go = [=](auto t) {
		using T = decltype(t);

		return launch_gelu_bwd(s, n, (const T *)x, (const T *)dy, (T *)dx);
	};

	return ST_EACH_DTYPE(dt, go);
}

template <typename T>
static cudaError_t launch_add(cudaStream_t s, size_t n, const T *a, const T *b, T *y)
{
	constexpr int each = st_lanes<T>();

	return in_two(
		n, each, st_is_wide({ a, b, y }), [=](bool is_wide, size_t first, size_t end) {
			auto *fn = is_wide ? add<T, each> : add<T, 1>;

			return ST_LAUNCH("add", fn, blocks_for(end - first, is_wide ? each : 1),
					 THREADS, 0, s,
					 ST_SPANS({ a, n * sizeof(T), false },
						  { b, n * sizeof(T), false },
						  { y, n * sizeof(T), true }),
					 first, end, a, b, y);
		});
}

cudaError_t st_cuda_add(cudaStream_t s, enum st_dtype dt, size_t n, const void *a, const void *b,
			void *y)
{
	auto go = [=](auto t) {
		using T = decltype(t);

		return launch_add(s, n, (const T *)a, (const T *)b, (T *)y);
	};

	return ST_EACH_DTYPE(dt, go);
}

template <typename F, typename T>
static cudaError_t launch_cast(cudaStream_t s, size_t n, const F *x, T *y)
{
	return in_two(n, 8, st_is_wide({ x, y }), [=](bool is_wide, size_t first, size_t end) {
		auto *fn = is_wide ? cast<F, T, 8> : cast<F, T, 1>;

		return ST_LAUNCH("cast", fn, blocks_for(end - first, is_wide ? 8 : 1), THREADS, 0,
				 s,
				 ST_SPANS({ x, n * sizeof(F), false }, { y, n * sizeof(T), true }),
				 first, end, x, y);
	});
}

cudaError_t st_cuda_cast(cudaStream_t s, size_t n, enum st_dtype from, const void *x,
			 enum st_dtype to, void *y)
{
	auto go = [=](auto f) {
		using F = decltype(f);
		auto go_to = [=](auto t) {
			using T = decltype(t);

			return launch_cast(s, n, (const F *)x, (T *)y);
		};

		return ST_EACH_DTYPE(to, go_to);
	};

	return ST_EACH_DTYPE(from, go);
}

cudaError_t st_cuda_fill_zero(cudaStream_t s, void *p, size_t bytes)
{
	unsigned char *to = (unsigned char *)p;

	return in_two(bytes, 16, st_is_wide({ p }), [=](bool is_wide, size_t first, size_t end) {
		if (is_wide)
			return ST_LAUNCH("fill_zero", zero16, blocks_for(end, 16), THREADS, 0, s,
					 ST_SPANS({ to, bytes, true }), end, to);
		return ST_LAUNCH("fill_zero", zero1, blocks_for(end - first, 1), THREADS, 0, s,
				 ST_SPANS({ to, bytes, true }), first, end, to);
	});
}
