/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu/cuda/optim.cu - gradients rounded and their squares summed, and Adam: the CPU's bits.
 *
 * Every operation here is one that strata/optim.h names, rounded once (the functions ending in
 * _rn), and conversions are in integers as in core/dtype.h, since the card's own give other NaNs.
 */
#include "gpu/cuda/elements.h"
#include "gpu/cuda/kernels.h"

#define THREADS 256
#define LANES   16 /* of the sum of a tile: element i goes to lane i % 16 */
#define TILE    ((int)STRATA_NUMERIC_TILE)

/* ---- conversions --------------------------------------------------------------------------- */

struct exact { /* rounded to an element's type: its bits, and its value */
	uint32_t bits;
	float x;
};

ST_DEVICE uint32_t exact_bf16(float f)
{
	const uint32_t u = f32_bits(f);

	if ((u & 0x7fffffffu) > 0x7f800000u)
		return (u >> 16 & 0x8000u) | 0x7fc0u;
	return (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
}

/* As st_f32_f16(): a NaN keeps what fits of its payload. */
ST_DEVICE uint32_t exact_f16(float f)
{
	const uint32_t u = f32_bits(f), a = u & 0x7fffffffu;

	if (a > 0x7f800000u)
		return (u >> 16 & 0x8000u) | 0x7e00u | (a >> 13 & 0x3ffu);
	return f32_f16(f).u;
}

ST_DEVICE float grad_f32(enum strata_optim_grads grads, uint32_t u)
{
	st_f16 h;

	if (grads == STRATA_GRADS_F32)
		return bits_f32(u);
	if (grads == STRATA_GRADS_BF16)
		return bits_f32(u << 16);
	h.u = (uint16_t)u;
	return f16_f32(h);
}

template <enum strata_optim_grads G> ST_DEVICE struct exact round_grad(float x)
{
	struct exact e = { f32_bits(x), x };

	if (G == STRATA_GRADS_BF16)
		e.bits = exact_bf16(x);
	if (G == STRATA_GRADS_F16)
		e.bits = exact_f16(x);
	e.x = grad_f32(G, e.bits);
	return e;
}

/* ---- gradients ----------------------------------------------------------------------------- */

/* One block, one tile. Lane l of the sum adds elements l, l + 16, ... in order, which takes two of
 * the CPU's vectors or 256 steps of one thread. So the tile is rounded and written by all threads,
 * its rounded values lie in shared memory, and 16 threads add; then the tree. */
template <enum strata_optim_grads G, int N>
ST_KERNEL(THREADS)
reduce(size_t n, const float *acc, void *out, double *leaf)
{
	float *const value = (float *)shared_memory();
	double *const lane = (double *)(value + TILE);
	const size_t first = (size_t)blockIdx.x * TILE;
	const int left = n - first < (size_t)TILE ? (int)(n - first) : TILE, me = (int)threadIdx.x;
	double sum = 0.0;

	for (int i = me * N; i < left; i += THREADS * N) {
		const elements<float, N> a = load_elements<float, N>(acc + first + i);
		uint32_t bits[N];

		ST_UNROLL
		for (int j = 0; j < N; j++) {
			const struct exact e = round_grad<G>(a.x[j]);

			bits[j] = e.bits;
			value[i + j] = e.x;
		}
		if constexpr (G == STRATA_GRADS_F32 && N == 4) {
			store16((float *)out + first + i,
				st_vec16{ { bits[0], bits[1], bits[2], bits[3] } });
		} else {
			ST_UNROLL
			for (int j = 0; j < N; j++) {
				if constexpr (G == STRATA_GRADS_F32)
					store((uint32_t *)out + first + i + j, bits[j]);
				else
					store((uint16_t *)out + first + i + j, (uint16_t)bits[j]);
			}
		}
	}
	barrier();
	for (int i = me; me < LANES && i < left; i += LANES) {
		const double x = value[i];

		sum = add64_rn(sum, x * x); /* the square is exact */
	}
	if (me < LANES)
		lane[me] = sum;
	barrier();
	if (me > 0)
		return;
	for (int w = LANES / 2; w; w /= 2)
		for (int j = 0; j < w; j++)
			lane[j] = add64_rn(lane[j], lane[j + w]);
	store(leaf + blockIdx.x, lane[0] == lane[0] ? lane[0] : (double)bits_f32(ST_NAN_BITS));
}

template <enum strata_optim_grads G>
static cudaError_t launch_reduce(cudaStream_t s, size_t n, const float *acc, void *out,
				 double *leaf)
{
	const size_t tiles = st_ceil_div(n, TILE), out_bytes = n * (G == STRATA_GRADS_F32 ? 4 : 2);
	auto *fn = n % 4 == 0 && st_is_wide({ acc, out }) ? reduce<G, 4> : reduce<G, 1>;

	return ST_LAUNCH("reduce", fn, dim3((unsigned)tiles), THREADS,
			 TILE * sizeof(float) + LANES * sizeof(double), s,
			 ST_SPANS({ out, out_bytes, true }, { acc, n * sizeof(float), false },
				  { leaf, tiles * sizeof(double), true }),
			 n, acc, out, leaf);
}

cudaError_t st_cuda_reduce(cudaStream_t s, size_t n, const float *acc, void *out,
			   enum strata_optim_grads grads, double *leaf)
{
	switch (grads) {
	case STRATA_GRADS_F32:
		return launch_reduce<STRATA_GRADS_F32>(s, n, acc, out, leaf);
	case STRATA_GRADS_BF16:
		return launch_reduce<STRATA_GRADS_BF16>(s, n, acc, out, leaf);
	case STRATA_GRADS_F16:
		return launch_reduce<STRATA_GRADS_F16>(s, n, acc, out, leaf);
	}
	return cudaErrorInvalidValue;
}

/* ---- Adam ---------------------------------------------------------------------------------- */

struct adam {
	size_t n;
	struct st_factors s;
	enum strata_optim_params params;
	enum strata_optim_grads grads;
	uint32_t *p32; /* or hi, 16 bits */
	uint16_t *low;
	float *m, *v;
	const void *grad;
};

ST_DEVICE float canonical(float x)
{
	return x != x ? bits_f32(ST_NAN_BITS) : x;
}

/* The order of strata/optim.h. */
ST_DEVICE float adam_step(const struct st_factors &s, float p, float *m, float *v, float g)
{
	float g2, d, t;

	g = mul_rn(g, s.grad_scale);
	if (s.rule == ST_RULE_ADAM)
		g = add_rn(g, mul_rn(s.wd, p));
	t = mul_rn(s.one_minus_b1, g);
	*m = fma_rn(s.b1, *m, t);
	g2 = mul_rn(g, g);
	t = mul_rn(s.b2, *v);
	t = fma_rn(s.one_minus_b2_lo, g2, t);
	*v = fma_rn(s.one_minus_b2, g2, t);
	t = mul_rn(*v, s.inv_bc2);
	t = sqrt_rn(t);
	t = add_rn(t, s.eps);
	d = div_rn(*m, t);
	t = mul_rn(s.lr_wd, p);
	t = fma_rn(s.step_size, d, t);
	p = canonical(sub_rn(p, t));
	*m = canonical(*m);
	*v = canonical(*v);
	return p;
}

/* N elements at p as bits, 16 or 32 each: N is 1, or so many that they fill whole vectors. */
template <int N> ST_DEVICE void load_bits16(const uint16_t *p, uint32_t u[N])
{
	if constexpr (N == 1) {
		u[0] = load(p);
	} else {
		const st_vec16 w = load16(p);

		ST_UNROLL
		for (int j = 0; j < N; j++)
			u[j] = j % 2 ? w.u[j / 2] >> 16 : w.u[j / 2] & 0xffffu;
	}
}

template <int N> ST_DEVICE void load_bits32(const uint32_t *p, uint32_t u[N])
{
	if constexpr (N == 1) {
		u[0] = load(p);
	} else {
		ST_UNROLL
		for (int i = 0; i < N; i += 4) {
			const st_vec16 w = load16(p + i);

			ST_UNROLL
			for (int j = 0; j < 4; j++)
				u[i + j] = w.u[j];
		}
	}
}

template <int N> ST_DEVICE void store_bits16(uint16_t *p, const uint32_t u[N])
{
	if constexpr (N == 1) {
		store(p, (uint16_t)u[0]);
	} else {
		st_vec16 w;

		ST_UNROLL
		for (int j = 0; j < 4; j++)
			w.u[j] = (u[2 * j] & 0xffffu) | u[2 * j + 1] << 16;
		store16(p, w);
	}
}

template <int N> ST_DEVICE void store_bits32(uint32_t *p, const uint32_t u[N])
{
	if constexpr (N == 1) {
		store(p, u[0]);
	} else {
		ST_UNROLL
		for (int i = 0; i < N; i += 4)
			store16(p + i, st_vec16{ { u[i], u[i + 1], u[i + 2], u[i + 3] } });
	}
}

template <int N> ST_DEVICE void load_params(const struct adam &a, size_t i, float p[N])
{
	uint32_t hi[N], lo[N];

	if (a.params != STRATA_PARAMS_SPLIT) {
		load_bits32<N>(a.p32 + i, hi);
		ST_UNROLL
		for (int j = 0; j < N; j++)
			p[j] = bits_f32(hi[j]);
		return;
	}
	load_bits16<N>((const uint16_t *)a.p32 + i, hi);
	load_bits16<N>(a.low + i, lo);
	ST_UNROLL
	for (int j = 0; j < N; j++) /* the correction is signed */
		p[j] = bits_f32((hi[j] << 16) + (uint32_t)(int32_t)(int16_t)lo[j]);
}

template <int N> ST_DEVICE void store_params(const struct adam &a, size_t i, const float p[N])
{
	uint32_t hi[N], lo[N];

	ST_UNROLL
	for (int j = 0; j < N; j++) {
		hi[j] = lo[j] = f32_bits(p[j]);
		if (a.params == STRATA_PARAMS_SPLIT)
			hi[j] = (hi[j] + 0x8000u) >> 16;
		else if (a.params == STRATA_PARAMS_F32_BF16)
			lo[j] = exact_bf16(p[j]);
		else
			lo[j] = exact_f16(p[j]);
	}
	if (a.params == STRATA_PARAMS_SPLIT)
		store_bits16<N>((uint16_t *)a.p32 + i, hi);
	else
		store_bits32<N>(a.p32 + i, hi);
	if (a.params != STRATA_PARAMS_F32)
		store_bits16<N>(a.low + i, lo);
}

template <int N> ST_KERNEL(THREADS) adam_update(size_t first, size_t end, struct adam a)
{
	const size_t i = first + ((size_t)blockIdx.x * THREADS + threadIdx.x) * N;
	uint32_t g[N], m[N], v[N];
	float p[N];

	if (i >= end)
		return;
	if (a.grads == STRATA_GRADS_F32)
		load_bits32<N>((const uint32_t *)a.grad + i, g);
	else
		load_bits16<N>((const uint16_t *)a.grad + i, g);
	load_params<N>(a, i, p);
	load_bits32<N>((const uint32_t *)a.m + i, m);
	load_bits32<N>((const uint32_t *)a.v + i, v);
	ST_UNROLL
	for (int j = 0; j < N; j++) {
		float mj = bits_f32(m[j]), vj = bits_f32(v[j]);

		p[j] = adam_step(a.s, p[j], &mj, &vj, grad_f32(a.grads, g[j]));
		m[j] = f32_bits(mj);
		v[j] = f32_bits(vj);
	}
	store_params<N>(a, i, p);
	store_bits32<N>((uint32_t *)a.m + i, m);
	store_bits32<N>((uint32_t *)a.v + i, v);
}

static cudaError_t launch_adam(cudaStream_t s, const struct adam &a, bool is_wide, size_t first,
			       size_t end)
{
	const size_t p_bytes = a.params == STRATA_PARAMS_SPLIT ? 2 : 4;
	const size_t low_bytes = a.params == STRATA_PARAMS_F32 ? 0 : 2;
	const size_t g_bytes = a.grads == STRATA_GRADS_F32 ? 4 : 2;
	auto *fn = is_wide ? adam_update<8> : adam_update<1>;

	return ST_LAUNCH("adam_update", fn,
			 dim3((unsigned)st_ceil_div(end - first, (is_wide ? 8 : 1) * THREADS)),
			 THREADS, 0, s,
			 ST_SPANS({ a.p32, a.n * p_bytes, true }, { a.low, a.n * low_bytes, true },
				  { a.m, a.n * sizeof(float), true },
				  { a.v, a.n * sizeof(float), true },
				  { a.grad, a.n * g_bytes, false }),
			 first, end, a);
}

cudaError_t st_cuda_update(cudaStream_t stream, const struct st_factors *s,
			   const struct strata_optim_format *f, const struct strata_optim_range *r)
{
	const struct adam a = { r->n,
				*s,
				f->params,
				f->grads,
				(uint32_t *)r->array[STRATA_ARRAY_PARAM],
				(uint16_t *)r->array[STRATA_ARRAY_LOW],
				(float *)r->array[STRATA_ARRAY_M],
				(float *)r->array[STRATA_ARRAY_V],
				r->array[STRATA_ARRAY_GRAD] };
	const size_t whole = st_is_wide({ a.p32, a.low, a.m, a.v, a.grad }) ? a.n / 8 * 8 : 0;
	cudaError_t rc = cudaSuccess;

	if (!st_cuda_can_update(s->rule, f))
		return cudaErrorInvalidValue;
	if (whole)
		rc = launch_adam(stream, a, true, 0, whole);
	return rc || whole == a.n ? rc : launch_adam(stream, a, false, whole, a.n);
}
