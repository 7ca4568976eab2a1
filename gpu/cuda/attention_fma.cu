/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu/cuda/attention_fma.cu - causal attention in fp32 for all dtypes, up to head_dim 512; the
 * entry to both kinds.
 *
 * A block of 16 x 16 threads has a tile of 64 x 64; a thread has 4 x 4 of it: rows 4 y + i, columns
 * x + 16 j. head_dim is cut into chunks of 64. A block makes one chunk of the result (blockIdx.z)
 * and for that computes the scores over all chunks: so shared memory and registers do not grow with
 * head_dim, and no sum has two owners. Backward is cut as in attention.cu.
 */
#include "gpu/cuda/attention.h"

#define SIDE        16
#define THREADS     (SIDE * SIDE)
#define TILE        64
#define EACH        (TILE / SIDE)
#define LD          (TILE + 1) /* floats: a column of a tile lies in all banks */
#define TILE_FLOATS (TILE * LD)

#define ROW(i) ((int)threadIdx.x / SIDE * EACH + (i))
#define COL(j) ((int)threadIdx.x % SIDE + SIDE * (j))

/* t = src[row .. row + 64, 64 chunk .. + 64], zeros beyond `rows` and head_dim. Barriers around. */
template <typename T, int N>
ST_DEVICE void read_tile(float *t, const T *src, size_t ld, size_t row, size_t rows, int chunk,
			 size_t head_dim)
{
	barrier();
	for (int i = (int)threadIdx.x * N; i < TILE * TILE; i += THREADS * N) {
		const int r = i / TILE, c = i % TILE;
		const size_t col = (size_t)chunk * TILE + c;
		elements<T, N> e = {};

		if (row + r < rows && col < head_dim) /* head_dim is a multiple of 8 */
			e = load_elements<T, N>(src + (row + r) * ld + col);
		ST_UNROLL
		for (int j = 0; j < N; j++)
			t[r * LD + c + j] = e.x[j];
	}
	barrier();
}

ST_DEVICE void clear(float s[EACH][EACH])
{
	ST_UNROLL
	for (int i = 0; i < EACH; i++)
		ST_UNROLL
	for (int j = 0; j < EACH; j++)
		s[i][j] = 0.0f;
}

/* s += a b^T */
ST_DEVICE void dots(float s[EACH][EACH], const float *a, const float *b)
{
	for (int d = 0; d < TILE; d++) {
		float x[EACH], y[EACH];

		ST_UNROLL
		for (int i = 0; i < EACH; i++) {
			x[i] = a[ROW(i) * LD + d];
			y[i] = b[COL(i) * LD + d];
		}
		ST_UNROLL
		for (int i = 0; i < EACH; i++)
			ST_UNROLL
		for (int j = 0; j < EACH; j++)
			s[i][j] += x[i] * y[j];
	}
}

/* o += p b */
ST_DEVICE void combine(float o[EACH][EACH], const float *p, const float *b)
{
	for (int d = 0; d < TILE; d++) {
		float x[EACH], y[EACH];

		ST_UNROLL
		for (int i = 0; i < EACH; i++) {
			x[i] = p[ROW(i) * LD + d];
			y[i] = b[d * LD + COL(i)];
		}
		ST_UNROLL
		for (int i = 0; i < EACH; i++)
			ST_UNROLL
		for (int j = 0; j < EACH; j++)
			o[i][j] += x[i] * y[j];
	}
}

/* Into shared memory; who reads it has a barrier in between, of read_tile(). */
ST_DEVICE void put(float *t, const float s[EACH][EACH])
{
	ST_UNROLL
	for (int i = 0; i < EACH; i++)
		ST_UNROLL
	for (int j = 0; j < EACH; j++)
		t[ROW(i) * LD + COL(j)] = s[i][j];
}

/* s = a b^T over all chunks, through the tiles ta and tb. */
template <typename T, int N>
ST_DEVICE void scores(float s[EACH][EACH], float *ta, float *tb, const T *a, size_t lda, size_t row,
		      const T *b, size_t ldb, size_t col, size_t rows, size_t head_dim)
{
	clear(s);
	for (int c = 0; (size_t)c * TILE < head_dim; c++) {
		read_tile<T, N>(ta, a, lda, row, rows, c, head_dim);
		read_tile<T, N>(tb, b, ldb, col, rows, c, head_dim);
		dots(s, ta, tb);
	}
}

template <typename T>
ST_DEVICE void write_rows(T *dst, size_t ld, size_t row, size_t rows, int chunk, size_t head_dim,
			  const float o[EACH][EACH], const float scale[EACH])
{
	ST_UNROLL
	for (int i = 0; i < EACH; i++)
		ST_UNROLL
	for (int j = 0; j < EACH; j++) {
		const size_t r = row + ROW(i), c = (size_t)chunk * TILE + COL(j);

		if (r < rows && c < head_dim)
			store(dst + r * ld + c, from_f32<T>(o[i][j] * scale[i]));
	}
}

/* ---- forward ------------------------------------------------------------------------------- */

/* Over the 16 lanes that share a row. */
ST_DEVICE float side_max(float x)
{
	ST_UNROLL
	for (int m = SIDE / 2; m > 0; m /= 2) {
		const float y = shfl_xor(x, m);

		x = y > x ? y : x;
	}
	return x;
}

ST_DEVICE float side_sum(float x)
{
	ST_UNROLL
	for (int m = SIDE / 2; m > 0; m /= 2)
		x += shfl_xor(x, m);
	return x;
}

ST_DEVICE void softmax_row(float s[EACH], float *run_max, float *run_sum, float o[EACH])
{
	float max = *run_max, sum = 0.0f, shrink;

	ST_UNROLL
	for (int j = 0; j < EACH; j++)
		max = s[j] > max ? s[j] : max;
	max = side_max(max);
	shrink = expf(*run_max - max);
	ST_UNROLL
	for (int j = 0; j < EACH; j++) {
		s[j] = expf(s[j] - max);
		sum += s[j];
		o[j] *= shrink;
	}
	*run_sum = *run_sum * shrink + side_sum(sum);
	*run_max = max;
}

template <typename T, int N> ST_KERNEL(THREADS) attention_fma_fwd(struct attn_args a)
{
	float *const ta = (float *)shared_memory(), *const tb = ta + TILE_FLOATS;
	float *const tp = tb + TILE_FLOATS;
	const T *const base = (const T *)a.qkv, *const v = base + attn_qkv_at(a, 2);
	const size_t row = (size_t)(gridDim.y - 1 - blockIdx.y) * TILE, ld = attn_ld_qkv(a);
	const int chunk = (int)blockIdx.z;
	float o[EACH][EACH], s[EACH][EACH], max[EACH], sum[EACH];

	clear(o);
	for (int i = 0; i < EACH; i++) {
		max[i] = -INFINITY;
		sum[i] = 0.0f;
	}
	for (size_t col = 0; col <= row; col += TILE) {
		scores<T, N>(s, ta, tb, base + attn_qkv_at(a, 0), ld, row, base + attn_qkv_at(a, 1),
			     ld, col, a.seq, a.head_dim);
		ST_UNROLL
		for (int i = 0; i < EACH; i++) {
			ST_UNROLL
			for (int j = 0; j < EACH; j++)
				s[i][j] =
					col + COL(j) > row + ROW(i) ? -INFINITY : s[i][j] * a.scale;
			softmax_row(s[i], &max[i], &sum[i], o[i]);
		}
		put(tp, s);
		read_tile<T, N>(tb, v, ld, col, a.seq, chunk, a.head_dim);
		combine(o, tp, tb);
	}
	ST_UNROLL
	for (int i = 0; i < EACH; i++) {
		const size_t r = row + ROW(i);

		if (r < a.seq && chunk == 0 && threadIdx.x % SIDE == 0)
			store(a.lse + (size_t)blockIdx.x * a.seq + r, max[i] + logf(sum[i]));
		sum[i] = 1.0f / sum[i];
	}
	write_rows((T *)a.result + attn_out_at(a), attn_ld_out(a), row, a.seq, chunk, a.head_dim, o,
		   sum);
}

/* ---- backward ------------------------------------------------------------------------------ */

#define DELTA_LANES   8 /* that share a row of a head */
#define DELTA_THREADS 256

/* delta = sum of dout * out, which equals the sum of P * dP; out is [batch, seq, heads, head_dim]
 */
template <typename T, int N>
ST_KERNEL(DELTA_THREADS)
attention_delta(size_t rows, struct attn_args a)
{
	const size_t at = (size_t)blockIdx.x * DELTA_THREADS + threadIdx.x, r = at / DELTA_LANES;
	const size_t h = r % a.heads, t = r / a.heads % a.seq, b = r / a.heads / a.seq;
	float s = 0.0f;

	for (size_t c = at % DELTA_LANES * N; r < rows && c < a.head_dim; c += DELTA_LANES * N) {
		const elements<T, N> o = load_elements<T, N>((const T *)a.out + r * a.head_dim + c);
		const elements<T, N> d =
			load_elements<T, N>((const T *)a.dout + r * a.head_dim + c);

		ST_UNROLL
		for (int j = 0; j < N; j++)
			s += o.x[j] * d.x[j];
	}
	ST_UNROLL
	for (int m = DELTA_LANES / 2; m > 0; m /= 2)
		s += shfl_xor(s, m);
	if (r < rows && at % DELTA_LANES == 0)
		store(a.delta + (b * a.heads + h) * a.seq + t, s);
}

/* P and dS from S and dP. */
ST_DEVICE void softmax_bwd(float *s, float *dp, float scale, float lse, float delta, bool is_seen)
{
	const float p = is_seen ? expf(*s * scale - lse) : 0.0f;

	*dp = is_seen ? p * (*dp - delta) : 0.0f;
	*s = p;
}

template <typename T, int N> ST_KERNEL(THREADS) attention_fma_bwd_q(struct attn_args a)
{
	float *const ta = (float *)shared_memory(), *const tb = ta + TILE_FLOATS;
	float *const tp = tb + TILE_FLOATS;
	const T *const base = (const T *)a.qkv, *const k = base + attn_qkv_at(a, 1);
	const T *const dout = (const T *)a.dout + attn_out_at(a);
	const size_t row = (size_t)(gridDim.y - 1 - blockIdx.y) * TILE, ld = attn_ld_qkv(a);
	const size_t stat = (size_t)blockIdx.x * a.seq;
	float dq[EACH][EACH], s[EACH][EACH], dp[EACH][EACH], lse[EACH], delta[EACH], scale[EACH];

	clear(dq);
	for (int i = 0; i < EACH; i++) {
		const bool is_there = row + ROW(i) < a.seq;

		lse[i] = is_there ? load(a.lse + stat + row + ROW(i)) : 0.0f;
		delta[i] = is_there ? load(a.delta + stat + row + ROW(i)) : 0.0f;
		scale[i] = a.scale;
	}
	for (size_t col = 0; col <= row; col += TILE) {
		scores<T, N>(s, ta, tb, base + attn_qkv_at(a, 0), ld, row, k, ld, col, a.seq,
			     a.head_dim);
		scores<T, N>(dp, ta, tb, dout, attn_ld_out(a), row, base + attn_qkv_at(a, 2), ld,
			     col, a.seq, a.head_dim);
		ST_UNROLL
		for (int i = 0; i < EACH; i++)
			ST_UNROLL
		for (int j = 0; j < EACH; j++) {
			const size_t r = row + ROW(i);

			softmax_bwd(&s[i][j], &dp[i][j], a.scale, lse[i], delta[i],
				    col + COL(j) <= r && r < a.seq);
		}
		put(tp, dp);
		read_tile<T, N>(tb, k, ld, col, a.seq, (int)blockIdx.z, a.head_dim);
		combine(dq, tp, tb);
	}
	write_rows((T *)a.result + attn_qkv_at(a, 0), ld, row, a.seq, (int)blockIdx.z, a.head_dim,
		   dq, scale);
}

template <typename T, int N> ST_KERNEL(THREADS) attention_fma_bwd_kv(struct attn_args a)
{
	float *const ta = (float *)shared_memory(), *const tb = ta + TILE_FLOATS;
	float *const tp = tb + TILE_FLOATS;
	const T *const q = (const T *)a.qkv + attn_qkv_at(a, 0);
	const T *const dout = (const T *)a.dout + attn_out_at(a);
	const size_t row = (size_t)blockIdx.y * TILE, ld = attn_ld_qkv(a), ldo = attn_ld_out(a);
	const size_t stat = (size_t)blockIdx.x * a.seq;
	const int chunk = (int)blockIdx.z;
	float dk[EACH][EACH], dv[EACH][EACH], s[EACH][EACH], dp[EACH][EACH], scale[EACH], one[EACH];

	clear(dk);
	clear(dv);
	for (int i = 0; i < EACH; i++) {
		scale[i] = a.scale;
		one[i] = 1.0f;
	}
	for (size_t col = row; col < a.seq; col += TILE) { /* of S^T: a row of q */
		scores<T, N>(s, ta, tb, (const T *)a.qkv + attn_qkv_at(a, 1), ld, row, q, ld, col,
			     a.seq, a.head_dim);
		scores<T, N>(dp, ta, tb, (const T *)a.qkv + attn_qkv_at(a, 2), ld, row, dout, ldo,
			     col, a.seq, a.head_dim);
		ST_UNROLL
		for (int j = 0; j < EACH; j++) {
			const size_t c = col + COL(j);
			const float lse = c < a.seq ? load(a.lse + stat + c) : 0.0f;
			const float delta = c < a.seq ? load(a.delta + stat + c) : 0.0f;

			ST_UNROLL
			for (int i = 0; i < EACH; i++)
				softmax_bwd(&s[i][j], &dp[i][j], a.scale, lse, delta,
					    row + ROW(i) <= c && c < a.seq);
		}
		put(tp, s);
		read_tile<T, N>(tb, dout, ldo, col, a.seq, chunk, a.head_dim);
		combine(dv, tp, tb);
		barrier(); /* all have read P^T */
		put(tp, dp);
		read_tile<T, N>(tb, q, ld, col, a.seq, chunk, a.head_dim);
		combine(dk, tp, tb);
	}
	write_rows((T *)a.result + attn_qkv_at(a, 1), ld, row, a.seq, chunk, a.head_dim, dk, scale);
	write_rows((T *)a.result + attn_qkv_at(a, 2), ld, row, a.seq, chunk, a.head_dim, dv, one);
}

/* ---- launches ------------------------------------------------------------------------------ */

struct attn_launch {
	cudaStream_t s;
	size_t batch, shared;
	dim3 grid;
	bool is_wide;
	size_t qkv, out, stat; /* elements */
};

static struct attn_launch launch_of(cudaStream_t s, size_t batch, const struct attn_args &a)
{
	const size_t rows = batch * a.seq, width = a.heads * a.head_dim;

	return { s,
		 batch,
		 3 * TILE_FLOATS * sizeof(float),
		 dim3((unsigned)(batch * a.heads), (unsigned)st_ceil_div(a.seq, TILE),
		      (unsigned)st_ceil_div(a.head_dim, TILE)),
		 st_is_wide({ a.qkv, a.out, a.dout, a.result }),
		 rows * 3 * width,
		 rows * width,
		 rows * a.heads * sizeof(float) };
}

template <typename T>
static cudaError_t launch_fwd(const struct attn_launch &l, const struct attn_args &a)
{
	auto *fn = l.is_wide ? attention_fma_fwd<T, st_lanes<T>()> : attention_fma_fwd<T, 1>;

	return ST_LAUNCH("attention_fma_fwd", fn, l.grid, THREADS, l.shared, l.s,
			 ST_SPANS({ a.qkv, l.qkv * sizeof(T), false },
				  { a.result, l.out * sizeof(T), true }, { a.lse, l.stat, true }),
			 a);
}

template <typename T>
static cudaError_t launch_bwd(const struct attn_launch &l, const struct attn_args &a)
{
	constexpr int lanes = st_lanes<T>();
	auto *q = l.is_wide ? attention_fma_bwd_q<T, lanes> : attention_fma_bwd_q<T, 1>;
	auto *kv = l.is_wide ? attention_fma_bwd_kv<T, lanes> : attention_fma_bwd_kv<T, 1>;
	cudaError_t rc;

	rc = ST_LAUNCH("attention_fma_bwd_q", q, l.grid, THREADS, l.shared, l.s,
		       ST_SPANS({ a.qkv, l.qkv * sizeof(T), false },
				{ a.dout, l.out * sizeof(T), false }, { a.lse, l.stat, false },
				{ a.delta, l.stat, false }, { a.result, l.qkv * sizeof(T), true }),
		       a);
	return rc ? rc
		  : ST_LAUNCH("attention_fma_bwd_kv", kv, l.grid, THREADS, l.shared, l.s,
			      ST_SPANS({ a.qkv, l.qkv * sizeof(T), false },
				       { a.dout, l.out * sizeof(T), false },
				       { a.lse, l.stat, false }, { a.delta, l.stat, false },
				       { a.result, l.qkv * sizeof(T), true }),
			      a);
}

template <typename T>
static cudaError_t launch_delta(const struct attn_launch &l, const struct attn_args &a)
{
	const size_t rows = l.batch * a.seq * a.heads;
	auto *fn = l.is_wide ? attention_delta<T, st_lanes<T>()> : attention_delta<T, 1>;

	return ST_LAUNCH("attention_delta", fn,
			 dim3((unsigned)st_ceil_div(rows * DELTA_LANES, DELTA_THREADS)),
			 DELTA_THREADS, 0, l.s,
			 ST_SPANS({ a.out, l.out * sizeof(T), false },
				  { a.dout, l.out * sizeof(T), false }, { a.delta, l.stat, true }),
			 rows, a);
}

static bool is_for_mma(enum st_dtype dt, const struct attn_launch &l, const struct attn_args &a)
{
	return dt != ST_F32 && a.head_dim <= 128 && l.is_wide;
}

size_t st_cuda_attention_work_bytes(size_t batch, size_t seq, size_t heads, size_t head_dim,
				    bool is_backward)
{
	(void)head_dim;
	return is_backward ? batch * seq * heads * sizeof(float) : 0;
}

cudaError_t st_cuda_attention_fwd(cudaStream_t s, enum st_dtype dt,
				  const struct st_cuda_attention *at)
{
	const struct attn_args a = {
		at->seq, at->heads, at->head_dim, at->qkv, NULL,
		NULL,    at->out,   at->lse,      NULL,    1.0f / sqrtf((float)at->head_dim)
	};
	const struct attn_launch l = launch_of(s, at->batch, a);
	auto go = [&](auto t) { return launch_fwd<decltype(t)>(l, a); };

	if (is_for_mma(dt, l, a))
		return st_cuda_attn_mma_fwd(s, dt, at->batch, a);
	return ST_EACH_DTYPE(dt, go);
}

cudaError_t st_cuda_attention_bwd(cudaStream_t s, enum st_dtype dt,
				  const struct st_cuda_attention *at)
{
	const struct attn_args a = { at->seq,           at->heads,
				     at->head_dim,      at->qkv,
				     at->out,           at->dout,
				     at->dqkv,          at->lse,
				     (float *)at->work, 1.0f / sqrtf((float)at->head_dim) };
	const struct attn_launch l = launch_of(s, at->batch, a);
	auto delta = [&](auto t) { return launch_delta<decltype(t)>(l, a); };
	auto go = [&](auto t) { return launch_bwd<decltype(t)>(l, a); };
	cudaError_t rc = ST_EACH_DTYPE(dt, delta);

	if (rc)
		return rc;
	if (is_for_mma(dt, l, a))
		return st_cuda_attn_mma_bwd(s, dt, at->batch, a);
	return ST_EACH_DTYPE(dt, go);
}
