/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu/cuda/attention.cu - causal attention on tensor cores: bf16 and fp16, head_dim up to 128.
 *
 * A block has 4 warps and a tile of 64 rows, 16 for each warp; it goes through the tiles of the
 * other side, which come by asynchronous copies, one ahead. D is head_dim rounded up to 64 or 128;
 * what lies beyond head_dim, and rows beyond the sequence, are zeros in shared memory.
 *
 *	forward   rows of q; for each tile of k and v: S = q k^T, softmax as it goes, O += P v
 *	dq        rows of q; S and dP = dO v^T again, dS = P (dP - delta), dq += dS k
 *	dk, dv    rows of k; the transposes S^T = k q^T and dP^T = v dO^T, so that P^T and dS^T come
 *	          out of one product as the left operand of the next: dv += P^T dO, dk += dS^T q
 *
 * Backward computes S and dP twice, in two kernels, so that no sum is shared between blocks: the
 * order of every sum is that of the tiles, and no bit depends on which block is first.
 *
 * A tile in shared memory: rows of D elements, their 16-byte pieces permuted by the row, so that
 *the eight rows that ldmatrix reads at once lie in different banks.
 */
#include "gpu/cuda/attention.h"

#define WARPS   4
#define THREADS (WARPS * ST_WARP)
#define ROWS    64 /* of a block: 16 for each warp */
#define PIECE   8  /* elements in 16 bytes */

/* Columns of S at a time: as many as registers and 96 KiB of shared memory hold. */
#define COLS_FWD 64
template <int D> constexpr int cols_bwd = D == 64 ? 64 : 32;

template <typename T, int D> struct tile { /* in shared memory */
	T *p;
};

template <typename T, int D> ST_DEVICE T *piece_at(struct tile<T, D> t, int row, int piece)
{
	return t.p + row * D + (piece ^ (row & 7)) * PIECE;
}

/* Rows [row, row + R) of a matrix that ends after `rows` rows and head_dim columns. */
template <typename T, int D, int R>
ST_DEVICE void fetch(struct tile<T, D> t, const T *src, size_t ld, size_t row, size_t rows,
		     size_t head_dim)
{
	ST_UNROLL
	for (int i = (int)threadIdx.x; i < R * (D / PIECE); i += THREADS) {
		const int r = i / (D / PIECE), piece = i % (D / PIECE);
		const bool is_there = row + r < rows && (size_t)piece * PIECE < head_dim;

		copy16_async(piece_at(t, r, piece),
			     is_there ? src + (row + r) * ld + piece * PIECE : src, is_there);
	}
}

/* Left operand A[16, 16]: rows from `row`, columns from 16 k. */
template <typename T, int D> ST_DEVICE void left(uint32_t a[4], struct tile<T, D> t, int row, int k)
{
	const int lane = threadIdx.x % ST_WARP;

	ldmatrix(a, piece_at(t, row + lane % 16, 2 * k + lane / 16));
}

/* Right operands B[16, 8] of two neighbours, B = t^T: rows of t from 16 n are columns of B. */
template <typename T, int D>
ST_DEVICE void right_trans(uint32_t b[4], struct tile<T, D> t, int n, int k)
{
	const int lane = threadIdx.x % ST_WARP;

	ldmatrix(b, piece_at(t, 16 * n + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
}

/* The same, B = t: rows of t from 16 k, columns from 16 n. */
template <typename T, int D> ST_DEVICE void right(uint32_t b[4], struct tile<T, D> t, int n, int k)
{
	const int lane = threadIdx.x % ST_WARP;

	ldmatrix_trans(b, piece_at(t, 16 * k + lane % 16, 2 * n + lane / 16));
}

/* s[16, 8 N] = a[16, D] b[8 N, D]^T; the rows of a from `row` */
template <typename T, int D, int N>
ST_DEVICE void scores(float s[N][4], struct tile<T, D> a, int row, struct tile<T, D> b)
{
	ST_UNROLL
	for (int n = 0; n < N; n++)
		s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.0f;
	ST_UNROLL_2
	for (int k = 0; k < D / 16; k++) {
		uint32_t x[4];

		left(x, a, row, k);
		ST_UNROLL
		for (int n = 0; n < N / 2; n++) {
			uint32_t y[4];

			right_trans(y, b, n, k);
			mma(T{}, s[2 * n], x, y);
			mma(T{}, s[2 * n + 1], x, y + 2);
		}
	}
}

/* o[16, D] += p[16, 8 N] b[8 N, D]; p as scores() leaves it, rounded to T here */
template <typename T, int D, int N>
ST_DEVICE void combine(float o[D / 8][4], const float p[N][4], struct tile<T, D> b)
{
	ST_UNROLL
	for (int k = 0; k < N / 2; k++) {
		uint32_t x[4];

		x[0] = pack2(T{}, p[2 * k][0], p[2 * k][1]);
		x[1] = pack2(T{}, p[2 * k][2], p[2 * k][3]);
		x[2] = pack2(T{}, p[2 * k + 1][0], p[2 * k + 1][1]);
		x[3] = pack2(T{}, p[2 * k + 1][2], p[2 * k + 1][3]);
		ST_UNROLL
		for (int n = 0; n < D / 16; n++) {
			uint32_t y[4];

			right(y, b, n, k);
			mma(T{}, o[2 * n], x, y);
			mma(T{}, o[2 * n + 1], x, y + 2);
		}
	}
}

/* Row and column of element i of fragment n of s[16, 8 N]. */
ST_DEVICE int frag_row(int i)
{
	return (int)threadIdx.x % ST_WARP / 4 + i / 2 * 8;
}

ST_DEVICE int frag_col(int n, int i)
{
	return 8 * n + (int)threadIdx.x % 4 * 2 + i % 2;
}

/* Over the four lanes that share a row of a fragment. */
ST_DEVICE float quad_sum(float x)
{
	x += shfl_xor(x, 1);
	return x + shfl_xor(x, 2);
}

ST_DEVICE float quad_max(float x)
{
	float y = shfl_xor(x, 1);

	x = y > x ? y : x;
	y = shfl_xor(x, 2);
	return y > x ? y : x;
}

/* dst[row, :] = scale[i / 2] o, the rows of a warp from `row`. */
template <typename T, int D>
ST_DEVICE void write_rows(T *dst, size_t ld, size_t row, size_t rows, size_t head_dim,
			  const float o[D / 8][4], const float scale[2])
{
	ST_UNROLL
	for (int h = 0; h < 2; h++) {
		const size_t r = row + frag_row(2 * h);

		ST_UNROLL
		for (int n = 0; n < D / 8; n++) {
			const size_t c = frag_col(n, 0);

			if (r < rows && c < head_dim)
				store((uint32_t *)(dst + r * ld + c),
				      pack2(T{}, o[n][2 * h] * scale[h],
					    o[n][2 * h + 1] * scale[h]));
		}
	}
}

/* ---- forward ------------------------------------------------------------------------------- */

struct softmax_rows { /* of the two rows whose fragments a lane has; logarithms of base 2 */
	float max[2], sum[2];
};

/* s = exp2(s - max) of the rows so far; what was summed before is brought to the new maximum. */
template <int D, int N>
ST_DEVICE void softmax(float s[N][4], struct softmax_rows *run, float o[D / 8][4])
{
	ST_UNROLL
	for (int h = 0; h < 2; h++) {
		float max = run->max[h], sum = 0.0f, shrink;

		ST_UNROLL
		for (int n = 0; n < N; n++) {
			max = s[n][2 * h] > max ? s[n][2 * h] : max;
			max = s[n][2 * h + 1] > max ? s[n][2 * h + 1] : max;
		}
		max = quad_max(max);
		shrink = exp2_fast(run->max[h] - max);
		ST_UNROLL
		for (int n = 0; n < N; n++) {
			s[n][2 * h] = exp2_fast(s[n][2 * h] - max);
			s[n][2 * h + 1] = exp2_fast(s[n][2 * h + 1] - max);
			sum += s[n][2 * h] + s[n][2 * h + 1];
		}
		run->max[h] = max;
		run->sum[h] = run->sum[h] * shrink + quad_sum(sum);
		ST_UNROLL
		for (int n = 0; n < D / 8; n++) {
			o[n][2 * h] *= shrink;
			o[n][2 * h + 1] *= shrink;
		}
	}
}

template <typename T, int D> ST_KERNEL(THREADS) attention_fwd(struct attn_args a)
{
	constexpr int C = COLS_FWD, N = C / 8;
	const struct tile<T, D> q = {
		(T *)shared_memory()
	};
	const T *const base = (const T *)a.qkv;
	const T *const q_src = base + attn_qkv_at(a, 0), *const k_src = base + attn_qkv_at(a, 1);
	const T *const v_src = base + attn_qkv_at(a, 2);
	/* The longest rows first: what is left at the end is short. */
	const size_t row = (size_t)(gridDim.y - 1 - blockIdx.y) * ROWS, ld = attn_ld_qkv(a);
	const size_t end = row + ROWS < a.seq ? row + ROWS : a.seq; /* columns that any row sees */
	const int mine = (int)threadIdx.x / ST_WARP * 16;
	struct softmax_rows run = { { -INFINITY, -INFINITY }, { 0.0f, 0.0f } };
	float o[D / 8][4] = {}, scale[2];

	fetch<T, D, ROWS>(q, q_src, ld, row, a.seq, a.head_dim);
	fetch<T, D, C>({ q.p + ROWS * D }, k_src, ld, 0, a.seq, a.head_dim);
	fetch<T, D, C>({ q.p + (ROWS + 2 * C) * D }, v_src, ld, 0, a.seq, a.head_dim);
	copy_commit();
	for (size_t col = 0, i = 0; col < end; col += C, i ^= 1) {
		const struct tile<T, D> k = {
			q.p + (ROWS + (int)i * C) * D
		};
		const struct tile<T, D> v = {
			q.p + (ROWS + (int)(2 + i) * C) * D
		};
		float s[N][4];

		copy_wait<0>();
		barrier(); /* it is there for all; and all are done with the other one */
		if (col + C < end) {
			fetch<T, D, C>({ q.p + (ROWS + (int)(i ^ 1) * C) * D }, k_src, ld, col + C,
				       a.seq, a.head_dim);
			fetch<T, D, C>({ q.p + (ROWS + (int)(2 + (i ^ 1)) * C) * D }, v_src, ld,
				       col + C, a.seq, a.head_dim);
			copy_commit();
		}
		scores<T, D, N>(s, q, mine, k);
		ST_UNROLL
		for (int n = 0; n < N; n++)
			ST_UNROLL
		for (int j = 0; j < 4; j++) {
			s[n][j] *= a.scale * LOG2E;
			if (col + frag_col(n, j) > row + mine + frag_row(j))
				s[n][j] = -INFINITY;
		}
		softmax<D, N>(s, &run, o);
		combine<T, D, N>(o, s, v);
	}
	ST_UNROLL
	for (int h = 0; h < 2; h++) {
		const size_t r = row + mine + frag_row(2 * h);

		scale[h] = 1.0f / run.sum[h];
		if (r < a.seq && threadIdx.x % 4 == 0)
			store(a.lse + (size_t)blockIdx.x * a.seq + r,
			      (run.max[h] + log2f(run.sum[h])) * LN2);
	}
	write_rows<T, D>((T *)a.result + attn_out_at(a), attn_ld_out(a), row + mine, a.seq,
			 a.head_dim, o, scale);
}

/* ---- backward ------------------------------------------------------------------------------ */

/* P and dS of one element, from S and dP; 0 where the row does not see the column. */
ST_DEVICE void softmax_bwd(float *s, float *dp, float scale, float lse, float delta, bool is_seen)
{
	const float p = is_seen ? exp2_fast(*s * (scale * LOG2E) - lse * LOG2E) : 0.0f;

	*dp = is_seen ? p * (*dp - delta) : 0.0f;
	*s = p;
}

template <typename T, int D> ST_KERNEL(THREADS) attention_bwd_q(struct attn_args a)
{
	constexpr int C = cols_bwd<D>, N = C / 8;
	const struct tile<T, D> q = { (T *)shared_memory() }, g = {
		q.p + ROWS *D
	};
	T *const kv = g.p + ROWS * D; /* k, k, v, v */
	const T *const base = (const T *)a.qkv;
	const T *const k_src = base + attn_qkv_at(a, 1), *const v_src = base + attn_qkv_at(a, 2);
	const size_t row = (size_t)(gridDim.y - 1 - blockIdx.y) * ROWS, ld = attn_ld_qkv(a);
	const size_t end = row + ROWS < a.seq ? row + ROWS : a.seq;
	const int mine = (int)threadIdx.x / ST_WARP * 16;
	const float scale[2] = { a.scale, a.scale };
	float dq[D / 8][4] = {}, lse[2] = {}, delta[2] = {};

	fetch<T, D, ROWS>(q, base + attn_qkv_at(a, 0), ld, row, a.seq, a.head_dim);
	fetch<T, D, ROWS>(g, (const T *)a.dout + attn_out_at(a), attn_ld_out(a), row, a.seq,
			  a.head_dim);
	fetch<T, D, C>({ kv }, k_src, ld, 0, a.seq, a.head_dim);
	fetch<T, D, C>({ kv + 2 * C * D }, v_src, ld, 0, a.seq, a.head_dim);
	copy_commit();
	ST_UNROLL
	for (int h = 0; h < 2; h++) {
		const size_t r = row + mine + frag_row(2 * h);

		if (r < a.seq) {
			lse[h] = load(a.lse + (size_t)blockIdx.x * a.seq + r);
			delta[h] = load(a.delta + (size_t)blockIdx.x * a.seq + r);
		}
	}
	for (size_t col = 0, i = 0; col < end; col += C, i ^= 1) {
		const struct tile<T, D> k = { kv + (int)i * C * D }, v = {
			kv + (int)(2 + i) * C *D
		};
		float s[N][4], dp[N][4];

		copy_wait<0>();
		barrier();
		if (col + C < end) {
			fetch<T, D, C>({ kv + (int)(i ^ 1) * C * D }, k_src, ld, col + C, a.seq,
				       a.head_dim);
			fetch<T, D, C>({ kv + (int)(2 + (i ^ 1)) * C * D }, v_src, ld, col + C,
				       a.seq, a.head_dim);
			copy_commit();
		}
		scores<T, D, N>(s, q, mine, k);
		scores<T, D, N>(dp, g, mine, v);
		ST_UNROLL
		for (int n = 0; n < N; n++)
			ST_UNROLL
		for (int j = 0; j < 4; j++) {
			const size_t r = row + mine + frag_row(j), c = col + frag_col(n, j);

			softmax_bwd(&s[n][j], &dp[n][j], a.scale, lse[j / 2], delta[j / 2],
				    c <= r && r < a.seq);
		}
		combine<T, D, N>(dq, dp, k);
	}
	write_rows<T, D>((T *)a.result + attn_qkv_at(a, 0), ld, row + mine, a.seq, a.head_dim, dq,
			 scale);
}

/* Of q and dO, and of lse and delta, one tile. */
template <typename T, int D> struct q_tile {
	struct tile<T, D> q, g;
	float *lse, *delta;
};

template <typename T, int D, int C>
ST_DEVICE void fetch_q(struct q_tile<T, D> t, const struct attn_args &a, size_t row)
{
	fetch<T, D, C>(t.q, (const T *)a.qkv + attn_qkv_at(a, 0), attn_ld_qkv(a), row, a.seq,
		       a.head_dim);
	fetch<T, D, C>(t.g, (const T *)a.dout + attn_out_at(a), attn_ld_out(a), row, a.seq,
		       a.head_dim);
	copy_commit();
	for (int i = (int)threadIdx.x; i < C; i += THREADS) {
		const size_t at = (size_t)blockIdx.x * a.seq + row + i;
		const bool is_there = row + i < a.seq;

		t.lse[i] = is_there ? load(a.lse + at) : 0.0f;
		t.delta[i] = is_there ? load(a.delta + at) : 0.0f;
	}
}

template <typename T, int D> ST_KERNEL(THREADS) attention_bwd_kv(struct attn_args a)
{
	constexpr int C = cols_bwd<D>, N = C / 8;
	const struct tile<T, D> k = { (T *)shared_memory() }, v = {
		k.p + ROWS *D
	};
	T *const qg = v.p + ROWS * D; /* q, dO, q, dO; then lse, delta, lse, delta */
	float *const stats = (float *)(qg + 4 * C * D);
	const T *const base = (const T *)a.qkv;
	const size_t row = (size_t)blockIdx.y * ROWS, ld = attn_ld_qkv(a); /* of k and v */
	const int mine = (int)threadIdx.x / ST_WARP * 16;
	const float scale[2] = { a.scale, a.scale }, one[2] = { 1.0f, 1.0f };
	float dk[D / 8][4] = {}, dv[D / 8][4] = {};
	struct q_tile<T, D> t[2];

	ST_UNROLL
	for (int i = 0; i < 2; i++)
		t[i] = { { qg + 2 * i * C * D },
			 { qg + (2 * i + 1) * C * D },
			 stats + 2 * i * C,
			 stats + (2 * i + 1) * C };
	fetch<T, D, ROWS>(k, base + attn_qkv_at(a, 1), ld, row, a.seq, a.head_dim);
	fetch<T, D, ROWS>(v, base + attn_qkv_at(a, 2), ld, row, a.seq, a.head_dim);
	fetch_q<T, D, C>(t[0], a, row);
	for (size_t col = row, i = 0; col < a.seq; col += C, i ^= 1) {
		const struct q_tile<T, D> now = i ? t[1] : t[0];
		float s[N][4], dp[N][4];

		copy_wait<0>();
		barrier();
		if (col + C < a.seq)
			fetch_q<T, D, C>(i ? t[0] : t[1], a, col + C);
		scores<T, D, N>(s, k, mine, now.q);
		scores<T, D, N>(dp, v, mine, now.g);
		ST_UNROLL
		for (int n = 0; n < N; n++)
			ST_UNROLL
		for (int j = 0; j < 4; j++) {
			const int c = frag_col(n, j); /* of S^T: a row of q */

			softmax_bwd(&s[n][j], &dp[n][j], a.scale, now.lse[c], now.delta[c],
				    row + mine + frag_row(j) <= col + c && col + c < a.seq);
		}
		combine<T, D, N>(dv, s, now.g);
		combine<T, D, N>(dk, dp, now.q);
	}
	write_rows<T, D>((T *)a.result + attn_qkv_at(a, 1), ld, row + mine, a.seq, a.head_dim, dk,
			 scale);
	write_rows<T, D>((T *)a.result + attn_qkv_at(a, 2), ld, row + mine, a.seq, a.head_dim, dv,
			 one);
}

/* ---- launches ------------------------------------------------------------------------------ */

struct attn_bytes {
	size_t qkv, out, stat;
};

static struct attn_bytes bytes_of(size_t batch, const struct attn_args &a)
{
	const size_t rows = batch * a.seq, width = a.heads * a.head_dim;

	return { rows * 3 * width * 2, rows * width * 2, rows * a.heads * sizeof(float) };
}

template <typename T, int D>
static cudaError_t launch_fwd(cudaStream_t s, size_t batch, const struct attn_args &a)
{
	const struct attn_bytes n = bytes_of(batch, a);
	auto *fn = attention_fwd<T, D>;

	return ST_LAUNCH("attention_fwd", fn,
			 dim3((unsigned)(batch * a.heads), (unsigned)st_ceil_div(a.seq, ROWS)),
			 THREADS, (ROWS + 4 * COLS_FWD) * D * sizeof(T), s,
			 ST_SPANS({ a.qkv, n.qkv, false }, { a.result, n.out, true },
				  { a.lse, n.stat, true }),
			 a);
}

template <typename T, int D>
static cudaError_t launch_bwd(cudaStream_t s, size_t batch, const struct attn_args &a)
{
	const struct attn_bytes n = bytes_of(batch, a);
	const dim3 grid((unsigned)(batch * a.heads), (unsigned)st_ceil_div(a.seq, ROWS));
	const size_t tiles = (2 * ROWS + 4 * cols_bwd<D>)*D * sizeof(T);
	auto *fn_q = attention_bwd_q<T, D>, *fn_kv = attention_bwd_kv<T, D>;
	cudaError_t rc;

	rc = ST_LAUNCH("attention_bwd_q", fn_q, grid, THREADS, tiles, s,
		       ST_SPANS({ a.qkv, n.qkv, false }, { a.dout, n.out, false },
				{ a.lse, n.stat, false }, { a.delta, n.stat, false },
				{ a.result, n.qkv, true }),
		       a);
	return rc ? rc
		  : ST_LAUNCH("attention_bwd_kv", fn_kv, grid, THREADS,
			      tiles + 4 * cols_bwd<D> * sizeof(float), s,
			      ST_SPANS({ a.qkv, n.qkv, false }, { a.dout, n.out, false },
				       { a.lse, n.stat, false }, { a.delta, n.stat, false },
				       { a.result, n.qkv, true }),
			      a);
}

cudaError_t st_cuda_attn_mma_fwd(cudaStream_t s, enum st_dtype dt, size_t batch,
				 const struct attn_args &a)
{
	if (dt == ST_BF16)
		return a.head_dim <= 64 ? launch_fwd<st_bf16, 64>(s, batch, a)
					: launch_fwd<st_bf16, 128>(s, batch, a);
	return a.head_dim <= 64 ? launch_fwd<st_f16, 64>(s, batch, a)
				: launch_fwd<st_f16, 128>(s, batch, a);
}

cudaError_t st_cuda_attn_mma_bwd(cudaStream_t s, enum st_dtype dt, size_t batch,
				 const struct attn_args &a)
{
	if (dt == ST_BF16)
		return a.head_dim <= 64 ? launch_bwd<st_bf16, 64>(s, batch, a)
					: launch_bwd<st_bf16, 128>(s, batch, a);
	return a.head_dim <= 64 ? launch_bwd<st_f16, 64>(s, batch, a)
				: launch_bwd<st_f16, 128>(s, batch, a);
}
