/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu/cuda/rows.cu - layer normalisation, and sums over rows.
 *
 * Forward: a warp for each row. Sums over rows (gradients of gamma, beta and biases) are cut into
 * parts by the number of rows alone; a block sums one part into a row of scratch, and add_parts()
 * adds the parts. Each order is fixed by the shape.
 */
#include "gpu/cuda/elements.h"
#include "gpu/cuda/kernels.h"

#define LN_EPS      1e-5f
#define FWD_WARPS   4
#define BWD_THREADS 256
#define SUM_GROUPS  8 /* rows in flight in a block that sums columns */
#define SUM_THREADS (SUM_GROUPS * ST_WARP)
#define PARTS_MOST  512u
#define PART_ROWS   16u          /* at least */
#define SHARED_MOST (96u * 1024) /* what every card from sm_80 on has */

/* ---- layer normalisation, forward ---------------------------------------------------------- */

template <typename T, int N>
ST_KERNEL(FWD_WARPS *ST_WARP)
layernorm_fwd(size_t rows, size_t cols, const T *x, const T *gamma, const T *beta, T *y,
	      float *mean, float *rstd)
{
	const size_t row = (size_t)blockIdx.x * FWD_WARPS + threadIdx.x / ST_WARP;
	const size_t first = threadIdx.x % ST_WARP * N;
	float s = 0.0f, q = 0.0f, m, k;

	if (row >= rows)
		return; /* a whole warp */
	x += row * cols;
	y += row * cols;
	for (size_t c = first; c < cols; c += ST_WARP * N) {
		const elements<T, N> v = load_elements<T, N>(x + c);

		ST_UNROLL
		for (int j = 0; j < N; j++)
			s += v.x[j];
	}
	m = warp_sum(s) / (float)cols;
	for (size_t c = first; c < cols; c += ST_WARP * N) {
		const elements<T, N> v = load_elements<T, N>(x + c);

		ST_UNROLL
		for (int j = 0; j < N; j++)
			q = fma_rn(v.x[j] - m, v.x[j] - m, q);
	}
	k = 1.0f / sqrtf(warp_sum(q) / (float)cols + LN_EPS);
	for (size_t c = first; c < cols; c += ST_WARP * N) {
		const elements<T, N> g = load_elements<T, N>(gamma + c);
		const elements<T, N> b = load_elements<T, N>(beta + c);
		elements<T, N> v = load_elements<T, N>(x + c);

		ST_UNROLL
		for (int j = 0; j < N; j++)
			v.x[j] = fma_rn((v.x[j] - m) * k, g.x[j], b.x[j]);
		store_elements<T, N>(y + c, v);
	}
	if (threadIdx.x % ST_WARP == 0) {
		store(mean + row, m);
		store(rstd + row, k);
	}
}

/* ---- layer normalisation, backward --------------------------------------------------------- */

struct ln_bwd {
	size_t rows, cols, each, stride; /* rows of a part; floats between rows of scratch */
	const void *dy, *x, *gamma, *dx_add;
	void *dx;
	const float *mean, *rstd;
	float *part;       /* [parts][2][stride]: dgamma, dbeta */
	bool is_in_shared; /* the block's sums; else they grow in `part` */
};

/* Two sums over the block, the same in every thread; `room` is used by turns, so that one barrier
 * is enough. */
ST_DEVICE void block_sums(float *s, float *q, float *room)
{
	const unsigned warp = threadIdx.x / ST_WARP, warps = blockDim.x / ST_WARP;
	float a = warp_sum(*s), b = warp_sum(*q);

	if (threadIdx.x % ST_WARP == 0) {
		room[2 * warp] = a;
		room[2 * warp + 1] = b;
	}
	barrier();
	a = b = 0.0f;
	for (unsigned w = 0; w < warps; w++) {
		a += room[2 * w];
		b += room[2 * w + 1];
	}
	*s = a;
	*q = b;
}

#define LN_ROOM (2 * 2 * BWD_THREADS / ST_WARP) /* floats: two rows by turns */

/* With h = (x - mean) rstd and g = dy gamma: dx = rstd (g - avg(g) - h avg(g h)). A block has the
 * rows of one part; a thread has the same columns of each, so no sum has two owners. */
template <typename T, int N> ST_KERNEL(BWD_THREADS) layernorm_bwd(struct ln_bwd a)
{
	float *const room = (float *)shared_memory();
	float *const part = a.part + (size_t)blockIdx.x * 2 * a.stride;
	float *const dgamma = a.is_in_shared ? room + LN_ROOM : part, *const dbeta =
									      dgamma + a.stride;
	const T *const gamma = (const T *)a.gamma, *const add = (const T *)a.dx_add;
	const size_t r0 = (size_t)blockIdx.x * a.each, step = (size_t)blockDim.x * N;
	const size_t r1 = r0 + a.each < a.rows ? r0 + a.each : a.rows, c0 = (size_t)threadIdx.x * N;

	for (size_t c = c0; c < a.cols; c += step)
		ST_UNROLL
	for (int j = 0; j < N; j++) {
		store(dgamma + c + j, 0.0f);
		store(dbeta + c + j, 0.0f);
	}
	for (size_t r = r0; r < r1; r++) {
		const T *const x = (const T *)a.x + r * a.cols, *const dy = (const T *)a.dy +
									    r * a.cols;
		const float m = load(a.mean + r), k = load(a.rstd + r);
		float s = 0.0f, q = 0.0f;

		for (size_t c = c0; c < a.cols; c += step) {
			const elements<T, N> d = load_elements<T, N>(dy + c);
			const elements<T, N> g = load_elements<T, N>(gamma + c);
			elements<T, N> h = load_elements<T, N>(x + c);

			ST_UNROLL
			for (int j = 0; j < N; j++) {
				h.x[j] = (h.x[j] - m) * k;
				s += d.x[j] * g.x[j];
				q = fma_rn(d.x[j] * g.x[j], h.x[j], q);
				h.x[j] *= d.x[j];
			}
			add_elements<T, N>(dgamma + c, h);
			add_elements<T, N>(dbeta + c, d);
		}
		block_sums(&s, &q, room + r % 2 * (LN_ROOM / 2));
		s /= (float)a.cols;
		q /= (float)a.cols;
		for (size_t c = c0; c < a.cols; c += step) {
			const elements<T, N> d = load_elements<T, N>(dy + c);
			const elements<T, N> g = load_elements<T, N>(gamma + c);
			const elements<T, N> v = load_elements<T, N>(x + c);
			elements<T, N> out = {};

			if (add)
				out = load_elements<T, N>(add + r * a.cols + c);
			ST_UNROLL
			for (int j = 0; j < N; j++)
				out.x[j] += (d.x[j] * g.x[j] - s - (v.x[j] - m) * k * q) * k;
			store_elements<T, N>((T *)a.dx + r * a.cols + c, out);
		}
	}
	if (!a.is_in_shared)
		return;
	for (size_t c = c0; c < a.cols; c += step)
		ST_UNROLL
	for (int j = 0; j < N; j++) {
		store(part + c + j, dgamma[c + j]);
		store(part + a.stride + c + j, dbeta[c + j]);
	}
}

/* ---- sums over rows ------------------------------------------------------------------------ */

/* SUM_GROUPS partial sums of N columns each, added in order; valid in group 0. */
template <int N>
ST_DEVICE elements<float, N> sum_groups(const elements<float, N> &mine, float *room)
{
	const unsigned group = threadIdx.x / ST_WARP, lane = threadIdx.x % ST_WARP;
	elements<float, N> sum = mine;

	ST_UNROLL
	for (int j = 0; j < N; j++)
		room[(group * ST_WARP + lane) * N + j] = mine.x[j];
	barrier();
	for (unsigned w = 1; group == 0 && w < SUM_GROUPS; w++)
		ST_UNROLL
	for (int j = 0; j < N; j++)
		sum.x[j] += room[(w * ST_WARP + lane) * N + j];
	return sum;
}

/* Part blockIdx.y of the sums of columns. */
template <typename T, int N>
ST_KERNEL(SUM_THREADS)
column_sums(size_t rows, size_t n, size_t each, size_t stride, const T *x, float *part)
{
	const size_t c = ((size_t)blockIdx.x * ST_WARP + threadIdx.x % ST_WARP) * N;
	const size_t r0 = (size_t)blockIdx.y * each, r1 = r0 + each < rows ? r0 + each : rows;
	elements<float, N> sum = {};

	for (size_t r = r0 + threadIdx.x / ST_WARP; r < r1 && c < n; r += SUM_GROUPS) {
		const elements<T, N> v = load_elements<T, N>(x + r * n + c);

		ST_UNROLL
		for (int j = 0; j < N; j++)
			sum.x[j] += v.x[j];
	}
	sum = sum_groups<N>(sum, (float *)shared_memory());
	if (threadIdx.x < ST_WARP && c < n)
		ST_UNROLL
	for (int j = 0; j < N; j++)
		store(part + blockIdx.y * stride + c + j, sum.x[j]);
}

/* out[i] += parts; blockIdx.y: of two outputs, whose parts lie beside each other */
template <int N>
ST_KERNEL(SUM_THREADS)
add_parts(size_t parts, size_t n, size_t stride, size_t offset, const float *part, float *out0,
	  float *out1)
{
	const size_t c = ((size_t)blockIdx.x * ST_WARP + threadIdx.x % ST_WARP) * N;
	float *const out = blockIdx.y ? out1 : out0;
	elements<float, N> sum = {};

	part += blockIdx.y * offset + c;
	for (size_t p = threadIdx.x / ST_WARP; p < parts && c < n; p += SUM_GROUPS) {
		const elements<float, N> v = load_elements<float, N>(part + p * stride);

		ST_UNROLL
		for (int j = 0; j < N; j++)
			sum.x[j] += v.x[j];
	}
	sum = sum_groups<N>(sum, (float *)shared_memory());
	if (threadIdx.x < ST_WARP && c < n)
		add_elements<float, N>(out + c, sum);
}

/* ---- launches ------------------------------------------------------------------------------ */

static size_t part_rows(size_t rows)
{
	const size_t n = st_ceil_div(rows, PARTS_MOST);

	return n < PART_ROWS ? PART_ROWS : n;
}

static size_t parts_of(size_t rows)
{
	return st_ceil_div(rows, part_rows(rows));
}

static size_t part_stride(size_t n)
{
	return st_ceil_div(n, 8) * 8; /* each part begins at 32 bytes */
}

/* out1: NULL, or the sums that lie `offset` behind those of out0 */
static cudaError_t launch_add_parts(cudaStream_t s, size_t parts, size_t n, size_t stride,
				    size_t offset, const float *part, float *out0, float *out1)
{
	const bool is_wide = n % 4 == 0 && st_is_wide({ out0, out1 });
	const int each = is_wide ? 4 : 1;
	auto *fn = is_wide ? add_parts<4> : add_parts<1>;

	return ST_LAUNCH("add_parts", fn,
			 dim3((unsigned)st_ceil_div(n, (size_t)each * ST_WARP), out1 ? 2 : 1),
			 SUM_THREADS, SUM_THREADS * (size_t)each * sizeof(float), s,
			 ST_SPANS({ part, parts * stride * sizeof(float), false },
				  { out0, n * sizeof(float), true },
				  { out1, out1 ? n * sizeof(float) : 0, true }),
			 parts, n, stride, offset, part, out0, out1);
}

template <typename T>
static cudaError_t launch_layernorm_fwd(cudaStream_t s, size_t rows, size_t cols, const T *x,
					const T *gamma, const T *beta, T *y, float *mean,
					float *rstd)
{
	constexpr int each = st_lanes<T>();
	const bool is_wide = cols % each == 0 && st_is_wide({ x, gamma, beta, y });
	auto *fn = is_wide ? layernorm_fwd<T, each> : layernorm_fwd<T, 1>;

	return ST_LAUNCH(
		"layernorm_fwd", fn, dim3((unsigned)st_ceil_div(rows, FWD_WARPS)),
		FWD_WARPS * ST_WARP, 0, s,
		ST_SPANS({ x, rows * cols * sizeof(T), false }, { gamma, cols * sizeof(T), false },
			 { beta, cols * sizeof(T), false }, { y, rows * cols * sizeof(T), true },
			 { mean, rows * sizeof(float), true },
			 { rstd, rows * sizeof(float), true }),
		rows, cols, x, gamma, beta, y, mean, rstd);
}

cudaError_t st_cuda_layernorm_fwd(cudaStream_t s, enum st_dtype dt, size_t rows, size_t cols,
				  const void *x, const void *gamma, const void *beta, void *y,
				  float *mean, float *rstd)
{
	auto go = [=](auto t) {
		using T = decltype(t);

		return launch_layernorm_fwd(s, rows, cols, (const T *)x, (const T *)gamma,
					    (const T *)beta, (T *)y, mean, rstd);
	};

	return ST_EACH_DTYPE(dt, go);
}

size_t st_cuda_layernorm_bwd_work_bytes(size_t rows, size_t cols)
{
	return parts_of(rows) * 2 * part_stride(cols) * sizeof(float);
}

template <typename T>
static cudaError_t launch_layernorm_bwd(cudaStream_t s, const struct ln_bwd &a)
{
	constexpr int each = st_lanes<T>();
	const bool is_wide =
		a.cols % each == 0 && st_is_wide({ a.dy, a.x, a.gamma, a.dx_add, a.dx, a.part });
	const size_t vectors = st_ceil_div(a.cols, is_wide ? each : 1), whole = a.rows * a.cols;
	const size_t warps = st_ceil_div(vectors, ST_WARP), parts = parts_of(a.rows);
	const unsigned threads =
		(unsigned)(warps < BWD_THREADS / ST_WARP ? warps * ST_WARP : BWD_THREADS);
	const size_t shared = (LN_ROOM + (a.is_in_shared ? 2 * a.stride : 0)) * sizeof(float);
	auto *fn = is_wide ? layernorm_bwd<T, each> : layernorm_bwd<T, 1>;

	return ST_LAUNCH("layernorm_bwd", fn, dim3((unsigned)parts), threads, shared, s,
			 ST_SPANS({ a.x, whole * sizeof(T), false },
				  { a.dy, whole * sizeof(T), false },
				  { a.dx_add, a.dx_add ? whole * sizeof(T) : 0, false },
				  { a.gamma, a.cols * sizeof(T), false },
				  { a.mean, a.rows * sizeof(float), false },
				  { a.rstd, a.rows * sizeof(float), false },
				  { a.dx, whole * sizeof(T), true },
				  { a.part, parts * 2 * a.stride * sizeof(float), true }),
			 a);
}

cudaError_t st_cuda_layernorm_bwd(cudaStream_t s, enum st_dtype dt, size_t rows, size_t cols,
				  const void *dy, const void *x, const void *gamma,
				  const float *mean, const float *rstd, const void *dx_add,
				  void *dx, float *dgamma, float *dbeta, void *work)
{
	const size_t stride = part_stride(cols);
	const struct ln_bwd a = { rows,
				  cols,
				  part_rows(rows),
				  stride,
				  dy,
				  x,
				  gamma,
				  dx_add,
				  dx,
				  mean,
				  rstd,
				  (float *)work,
				  (LN_ROOM + 2 * stride) * sizeof(float) <= SHARED_MOST };
	auto go = [=](auto t) { return launch_layernorm_bwd<decltype(t)>(s, a); };
	cudaError_t rc = ST_EACH_DTYPE(dt, go);

	return rc ? rc
		  : launch_add_parts(s, parts_of(rows), cols, 2 * stride, stride, a.part, dgamma,
				     dbeta);
}

size_t st_cuda_bias_bwd_work_bytes(size_t rows, size_t n)
{
	return parts_of(rows) * part_stride(n) * sizeof(float);
}

template <typename T>
static cudaError_t launch_column_sums(cudaStream_t s, size_t rows, size_t n, const T *x,
				      float *part)
{
	constexpr int lanes = st_lanes<T>();
	const bool is_wide = n % lanes == 0 && st_is_wide({ x });
	const size_t each = is_wide ? lanes : 1, parts = parts_of(rows), stride = part_stride(n);
	auto *fn = is_wide ? column_sums<T, lanes> : column_sums<T, 1>;

	return ST_LAUNCH("column_sums", fn,
			 dim3((unsigned)st_ceil_div(n, each * ST_WARP), (unsigned)parts),
			 SUM_THREADS, SUM_THREADS * each * sizeof(float), s,
			 ST_SPANS({ x, rows * n * sizeof(T), false },
				  { part, parts * stride * sizeof(float), true }),
			 rows, n, part_rows(rows), stride, x, part);
}

cudaError_t st_cuda_bias_bwd(cudaStream_t s, enum st_dtype dt, size_t rows, size_t n,
			     const void *dy, float *out, void *work)
{
	float *part = (float *)work;
	auto go = [=](auto t) {
		using T = decltype(t);

		return launch_column_sums(s, rows, n, (const T *)dy, part);
	};
	cudaError_t rc = ST_EACH_DTYPE(dt, go);

	return rc ? rc : launch_add_parts(s, parts_of(rows), n, part_stride(n), 0, part, out, NULL);
}
