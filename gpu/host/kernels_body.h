/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu/host/kernels_body.h - the host kernels, written once over simd.h.
 *
 * Layer:   gpu/host; included by kernels_*.c, which name the table and set the instruction set
 * Threads: every kernel works on what it is given and nothing else
 *
 * A kernel for all dtypes is an always-inlined body with a constant `dt`, and an instance of each.
 * Sums run over VL lanes, each in index order, then over a fixed tree of lanes.
 */
#include "gpu/host/host.h"
#include "gpu/host/simd.h"

#include <math.h>

#if VL == 16
#define MR 12 /* 24 of 32 registers accumulate */
#else
#define MR 6 /* 12 of 16 */
#endif
#define NR   (2 * VL)
#define TILE 64 /* rows and columns of an attention tile */

/* The block for i = 0, VL, .. below n: whole vectors in one loop, where the tests for a tail in
 * vf_get() and vf_put() fold away, then the tail. */
#define EACH_VECTOR(i, n, ...)                                                                     \
	do {                                                                                       \
		size_t i = 0;                                                                      \
		for (; i + VL <= (n); i += VL)                                                     \
			__VA_ARGS__                                                                \
		if (i < (n))                                                                       \
			__VA_ARGS__                                                                \
	} while (0)

/* An instance of body(enum st_dtype dt, ...) for each dtype. */
#define INSTANCES(name, params, ...)                                                               \
	static void name##_f32 params                                                              \
	{                                                                                          \
		name(ST_F32, __VA_ARGS__);                                                         \
	}                                                                                          \
	static void name##_bf16 params                                                             \
	{                                                                                          \
		name(ST_BF16, __VA_ARGS__);                                                        \
	}                                                                                          \
	static void name##_f16 params                                                              \
	{                                                                                          \
		name(ST_F16, __VA_ARGS__);                                                         \
	}
#define EACH_DTYPE(name)                                                                           \
	{                                                                                          \
		[ST_F32] = name##_f32, [ST_BF16] = name##_bf16, [ST_F16] = name##_f16              \
	}

/* ---- element-wise ------------------------------------------------------------------------ */

ST_INLINE const void *at(enum st_dtype dt, const void *p, size_t i)
{
	return (const char *)p + i * st_dtype_bytes(dt);
}

ST_INLINE void *at_mut(enum st_dtype dt, void *p, size_t i)
{
	return (char *)p + i * st_dtype_bytes(dt);
}

ST_INLINE size_t round_up(size_t x, size_t to)
{
	return (x + to - 1) / to * to;
}

/* gelu(x) = x s, s = 1 / (1 + e), e = exp(-2u), u = x (c + c 0.044715 x^2), c = sqrt(2 / pi) */
#define GELU_C  0.79788456080286536f
#define GELU_C3 (0.79788456080286536f * 0.044715f)

ST_INLINE vf gelu_e(vf x)
{
	vf u = x * vf_fma(x * x, vf_set1(GELU_C3), vf_set1(GELU_C));

	return vf_exp(vf_min(vf_set1(80.0f), u * vf_set1(-2.0f)));
}

ST_INLINE void gelu_fwd(enum st_dtype dt, size_t n, const void *x, void *y)
{
	EACH_VECTOR(i, n, {
		vf v = vf_get(dt, x, i, n);

		vf_put(dt, y, i, n, v / (vf_set1(1.0f) + gelu_e(v)));
	});
}
INSTANCES(gelu_fwd, (size_t n, const void *x, void *y), n, x, y)

ST_INLINE void gelu_bwd(enum st_dtype dt, size_t n, const void *x, const void *dy, void *dx)
{
	EACH_VECTOR(i, n, {
		vf v = vf_get(dt, x, i, n);
		vf e = gelu_e(v), s = vf_set1(1.0f) / (vf_set1(1.0f) + e);
		vf du2 = vf_fma(v * v, vf_set1(6.0f * GELU_C3), vf_set1(2.0f * GELU_C));
		vf d = vf_fma(v * du2, s * (e * s), s); /* e s = 1 - s, without cancellation */

		vf_put(dt, dx, i, n, vf_get(dt, dy, i, n) * d);
	});
}
INSTANCES(gelu_bwd, (size_t n, const void *x, const void *dy, void *dx), n, x, dy, dx)

ST_INLINE void add(enum st_dtype dt, size_t n, const void *a, const void *b, void *y)
{
	EACH_VECTOR(i, n, { vf_put(dt, y, i, n, vf_get(dt, a, i, n) + vf_get(dt, b, i, n)); });
}
INSTANCES(add, (size_t n, const void *a, const void *b, void *y), n, a, b, y)

ST_INLINE void add_into(enum st_dtype dt, size_t n, const void *x, float *sum)
{
	EACH_VECTOR(i, n, {
		vf_put(ST_F32, sum, i, n, vf_get(ST_F32, sum, i, n) + vf_get(dt, x, i, n));
	});
}
INSTANCES(add_into, (size_t n, const void *x, float *sum), n, x, sum)

ST_INLINE void column_sum(enum st_dtype dt, size_t rows, size_t n, const void *x, float *sum)
{
	size_t r = 0;

	for (; r + 4 <= rows; r += 4) {
		const void *x0 = at(dt, x, r * n), *x1 = at(dt, x, (r + 1) * n);
		const void *x2 = at(dt, x, (r + 2) * n), *x3 = at(dt, x, (r + 3) * n);

		EACH_VECTOR(i, n, {
			vf lo = vf_get(dt, x0, i, n) + vf_get(dt, x1, i, n);
			vf hi = vf_get(dt, x2, i, n) + vf_get(dt, x3, i, n);

			vf_put(ST_F32, sum, i, n, vf_get(ST_F32, sum, i, n) + (lo + hi));
		});
	}
	for (; r < rows; r++)
		add_into(dt, n, at(dt, x, r * n), sum);
}
INSTANCES(column_sum, (size_t rows, size_t n, const void *x, float *sum), rows, n, x, sum)

static void exp_f32(size_t n, const float *x, float *y)
{
	EACH_VECTOR(i, n, { vf_put(ST_F32, y, i, n, vf_exp(vf_get(ST_F32, x, i, n))); });
}

/* ---- layer normalisation ----------------------------------------------------------------- */

#define LN_EPS 1e-5f

ST_INLINE void layernorm_fwd(enum st_dtype dt, size_t rows, size_t cols, const void *x,
			     const void *gamma, const void *beta, void *y, float *mean, float *rstd)
{
	for (size_t r = 0; r < rows; r++) {
		const void *xr = at(dt, x, r * cols);
		void *yr = at_mut(dt, y, r * cols);
		vf s = vf_set1(0.0f), q = vf_set1(0.0f), m, k;

		EACH_VECTOR(i, cols, { s += vf_get(dt, xr, i, cols); });
		mean[r] = vf_hsum(s) / (float)cols;
		m = vf_set1(mean[r]);
		EACH_VECTOR(i, cols, {
			vf d = vf_inside(vf_get(dt, xr, i, cols) - m, i, cols, 0.0f);

			q = vf_fma(d, d, q);
		});
		rstd[r] = 1.0f / sqrtf(vf_hsum(q) / (float)cols + LN_EPS);
		k = vf_set1(rstd[r]);
		EACH_VECTOR(i, cols, {
			vf d = (vf_get(dt, xr, i, cols) - m) * k;

			vf_put(dt, yr, i, cols,
			       vf_fma(d, vf_get(dt, gamma, i, cols), vf_get(dt, beta, i, cols)));
		});
	}
}
INSTANCES(layernorm_fwd,
	  (size_t rows, size_t cols, const void *x, const void *gamma, const void *beta, void *y,
	   float *mean, float *rstd),
	  rows, cols, x, gamma, beta, y, mean, rstd)

/* With h = (x - mean) rstd and g = dy gamma: dx = rstd (g - avg(g) - h avg(g h)) */
ST_INLINE void layernorm_bwd(enum st_dtype dt, size_t rows, size_t cols, const void *dy,
			     const void *x, const void *gamma, const float *mean, const float *rstd,
			     const void *dx_add, void *dx, float *dgamma, float *dbeta)
{
	for (size_t r = 0; r < rows; r++) {
		const void *xr = at(dt, x, r * cols), *dyr = at(dt, dy, r * cols);
		vf m = vf_set1(mean[r]), k = vf_set1(rstd[r]);
		vf s = vf_set1(0.0f), q = vf_set1(0.0f);

		EACH_VECTOR(i, cols, {
			vf d = vf_get(dt, dyr, i, cols), g = d * vf_get(dt, gamma, i, cols);
			vf h = (vf_get(dt, xr, i, cols) - m) * k;

			s += g; /* lanes outside are 0: dy is */
			q = vf_fma(g, h, q);
			vf_put(ST_F32, dgamma, i, cols,
			       vf_fma(d, h, vf_get(ST_F32, dgamma, i, cols)));
			vf_put(ST_F32, dbeta, i, cols, vf_get(ST_F32, dbeta, i, cols) + d);
		});
		s = vf_set1(vf_hsum(s) / (float)cols);
		q = vf_set1(vf_hsum(q) / (float)cols);
		EACH_VECTOR(i, cols, {
			vf g = vf_get(dt, dyr, i, cols) * vf_get(dt, gamma, i, cols);
			vf h = (vf_get(dt, xr, i, cols) - m) * k;
			vf d = (g - s - h * q) * k;

			if (dx_add)
				d += vf_get(dt, at(dt, dx_add, r * cols), i, cols);
			vf_put(dt, at_mut(dt, dx, r * cols), i, cols, d);
		});
	}
}
INSTANCES(layernorm_bwd,
	  (size_t rows, size_t cols, const void *dy, const void *x, const void *gamma,
	   const float *mean, const float *rstd, const void *dx_add, void *dx, float *dgamma,
	   float *dbeta),
	  rows, cols, dy, x, gamma, mean, rstd, dx_add, dx, dgamma, dbeta)

/* ---- cross-entropy of one row ------------------------------------------------------------ */

ST_INLINE float exp1(float x)
{
	float lane[VL];

	vf_store(lane, vf_exp(vf_set1(x)));
	return lane[0];
}

ST_INLINE void cross_entropy(enum st_dtype dt, size_t vocab, void *logits, size_t target,
			     float *loss, float grad_scale)
{
	vf m = vf_set1(-INFINITY), s = vf_set1(0.0f), k;
	float xt = st_elem_f32(dt, logits, target), max, sum, gt;

	EACH_VECTOR(i, vocab, {
		m = vf_max(vf_inside(vf_get(dt, logits, i, vocab), i, vocab, -INFINITY), m);
	});
	max = vf_hmax(m);
	m = vf_set1(max);
	EACH_VECTOR(i, vocab, {
		s += vf_exp(vf_inside(vf_get(dt, logits, i, vocab), i, vocab, -INFINITY) - m);
	});
	sum = vf_hsum(s);
	*loss = (max - xt) + logf(sum);
	if (grad_scale == 0.0f)
		return;
	k = vf_set1(grad_scale / sum);
	EACH_VECTOR(i, vocab, {
		vf_put(dt, logits, i, vocab, vf_exp(vf_get(dt, logits, i, vocab) - m) * k);
	});
	gt = grad_scale * (exp1(xt - max) / sum - 1.0f); /* before rounding, not after */
	st_elem_set(dt, logits, target, gt);
}
INSTANCES(cross_entropy, (size_t vocab, void *logits, size_t target, float *loss, float grad_scale),
	  vocab, logits, target, loss, grad_scale)

/* ---- packing ----------------------------------------------------------------------------- */

#if VL >= 8

ST_INLINE __m256 widen8(enum st_dtype dt, __m128i u)
{
	if (dt == ST_F16)
		return _mm256_cvtph_ps(u);
	return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(u), 16));
}

ST_INLINE __m256 load8(enum st_dtype dt, const void *p)
{
	if (dt == ST_F32)
		return _mm256_loadu_ps(p);
	return widen8(dt, _mm_loadu_si128((const __m128i *)p));
}

/* The first w (4 or 6) of them, without a look beyond. */
ST_INLINE __m256 load_first(enum st_dtype dt, const void *p, size_t w)
{
	const char *rest = (const char *)p + 4 * st_dtype_bytes(dt);
	__m128i u;
	int two;

	if (dt == ST_F32) {
		u = w == 6 ? _mm_loadl_epi64((const __m128i *)rest) : _mm_setzero_si128();
		return _mm256_set_m128(_mm_castsi128_ps(u), _mm_loadu_ps(p));
	}
	u = _mm_loadl_epi64((const __m128i *)p);
	if (w == 6) {
		memcpy(&two, rest, sizeof(two));
		u = _mm_insert_epi32(u, two, 2);
	}
	return widen8(dt, u);
}

ST_INLINE void transpose8(__m256 r[8])
{
	__m256 a0 = _mm256_unpacklo_ps(r[0], r[1]), a1 = _mm256_unpackhi_ps(r[0], r[1]);
	__m256 a2 = _mm256_unpacklo_ps(r[2], r[3]), a3 = _mm256_unpackhi_ps(r[2], r[3]);
	__m256 a4 = _mm256_unpacklo_ps(r[4], r[5]), a5 = _mm256_unpackhi_ps(r[4], r[5]);
	__m256 a6 = _mm256_unpacklo_ps(r[6], r[7]), a7 = _mm256_unpackhi_ps(r[6], r[7]);
	__m256 b0 = _mm256_shuffle_ps(a0, a2, 0x44), b1 = _mm256_shuffle_ps(a0, a2, 0xee);
	__m256 b2 = _mm256_shuffle_ps(a1, a3, 0x44), b3 = _mm256_shuffle_ps(a1, a3, 0xee);
	__m256 b4 = _mm256_shuffle_ps(a4, a6, 0x44), b5 = _mm256_shuffle_ps(a4, a6, 0xee);
	__m256 b6 = _mm256_shuffle_ps(a5, a7, 0x44), b7 = _mm256_shuffle_ps(a5, a7, 0xee);

	r[0] = _mm256_permute2f128_ps(b0, b4, 0x20);
	r[1] = _mm256_permute2f128_ps(b1, b5, 0x20);
	r[2] = _mm256_permute2f128_ps(b2, b6, 0x20);
	r[3] = _mm256_permute2f128_ps(b3, b7, 0x20);
	r[4] = _mm256_permute2f128_ps(b0, b4, 0x31);
	r[5] = _mm256_permute2f128_ps(b1, b5, 0x31);
	r[6] = _mm256_permute2f128_ps(b2, b6, 0x31);
	r[7] = _mm256_permute2f128_ps(b3, b7, 0x31);
}

/* The first w (4, 6 or 8) lanes: a panel is MR wide, and what follows may be another thread's. */
ST_INLINE void store_first(float *p, __m256 x, size_t w)
{
	if (w >= 8) {
		_mm256_storeu_ps(p, x);
		return;
	}
	_mm_storeu_ps(p, _mm256_castps256_ps128(x));
	if (w == 6)
		_mm_storel_pi((__m64 *)(p + 4), _mm256_extractf128_ps(x, 1));
}

#endif

/* dst[k * width + j] = src[j * ld + k] for j < rows, 0 for rows <= j < width; width 6, 12 or 8 x.
 */
ST_INLINE void pack_rows(enum st_dtype dt, const void *src, size_t ld, size_t rows, size_t kc,
			 float *dst, size_t width)
{
	size_t k = 0;

#if VL >= 8
	for (; k + 8 <= kc; k += 8) {
		for (size_t g = 0; g < width; g += 8) {
			__m256 r[8];

#pragma GCC unroll 8
			for (size_t j = 0; j < 8; j++)
				r[j] = g + j < rows ? load8(dt, at(dt, src, (g + j) * ld + k))
						    : _mm256_setzero_ps();
			transpose8(r);
#pragma GCC unroll 8
			for (size_t j = 0; j < 8; j++)
				store_first(dst + (k + j) * width + g, r[j], width - g);
		}
	}
#endif
	for (; k < kc; k++)
		for (size_t j = 0; j < width; j++)
			dst[k * width + j] = j < rows ? st_elem_f32(dt, src, j * ld + k) : 0.0f;
}

/* One row of pack_cols: dst[j] = row[j] for j < cols, 0 up to width. */
ST_INLINE void pack_row(enum st_dtype dt, const void *row, size_t cols, float *dst, size_t width)
{
	for (size_t j = 0; j < width; j++)
		dst[j] = j < cols ? st_elem_f32(dt, row, j) : 0.0f;
}

/* width elements of one row of src into one row of a panel; width a multiple of VL, 6 or 12. */
ST_INLINE void pack_whole_row(enum st_dtype dt, const void *row, float *dst, size_t width)
{
	size_t j = 0;

#if VL >= 8
	if (width % 8) {
		for (; j + 8 <= width; j += 8)
			_mm256_storeu_ps(dst + j, load8(dt, at(dt, row, j)));
		store_first(dst + j, load_first(dt, at(dt, row, j), width - j), width - j);
		return;
	}
#endif
#pragma GCC unroll 4
	for (; j + VL <= width; j += VL)
		vf_store(dst + j, vf_get(dt, row, j, width));
}

/* Panels of src [kc, cols]: dst[g][k][j] = src[k * ld + g * width + j], 0 beyond cols. A few rows
 * of all panels, then the next: their lines of src are read once, and each panel is written in
 * pieces of several lines. */
ST_INLINE void pack_cols(enum st_dtype dt, const void *src, size_t ld, size_t cols, size_t kc,
			 float *dst, size_t width)
{
	const size_t block = 8;

	for (size_t k0 = 0; k0 < kc; k0 += block) {
		size_t end = k0 + block < kc ? k0 + block : kc;

		for (size_t g = 0; g < cols; g += width) {
			for (size_t k = k0; k < end; k++) {
				const void *row = at(dt, src, k * ld + g);
				float *d = dst + g * kc + k * width;

				if (g + width <= cols && (VL >= 8 || width % VL == 0))
					pack_whole_row(dt, row, d, width);
				else
					pack_row(dt, row, cols - g, d, width);
			}
		}
	}
}

ST_INLINE void pack(enum st_dtype dt, const void *src, size_t ld, bool is_rows, size_t n, size_t kc,
		    float *dst, size_t width)
{
	if (!is_rows) {
		pack_cols(dt, src, ld, n, kc, dst, width);
		return;
	}
	for (size_t g = 0; g < n; g += width)
		pack_rows(dt, at(dt, src, g * ld), ld, n - g < width ? n - g : width, kc,
			  dst + g * kc, width);
}

ST_INLINE void pack_a(enum st_dtype dt, const void *a, size_t lda, bool trans, size_t rows,
		      size_t kc, float *dst)
{
	pack(dt, a, lda, !trans, rows, kc, dst, MR);
}
INSTANCES(pack_a, (const void *a, size_t lda, bool trans, size_t rows, size_t kc, float *dst), a,
	  lda, trans, rows, kc, dst)

ST_INLINE void pack_b(enum st_dtype dt, const void *b, size_t ldb, bool trans, size_t cols,
		      size_t kc, float *dst)
{
	pack(dt, b, ldb, trans, cols, kc, dst, NR);
}
INSTANCES(pack_b, (const void *b, size_t ldb, bool trans, size_t cols, size_t kc, float *dst), b,
	  ldb, trans, cols, kc, dst)

/* ---- register tile ----------------------------------------------------------------------- */

/* C[mr, NR] (+)= sum over k of A[i, k] B[k, :], A[i, k] at a[i * rs + k * cs], rows of B ldb apart.
 */
ST_INLINE void micro(int mr, size_t kc, const float *a, size_t rs, size_t cs, const float *b,
		     size_t ldb, float *c, size_t ldc, bool is_added)
{
	vf acc[MR][2];

#pragma GCC unroll 12
	for (int i = 0; i < mr; i++)
		acc[i][0] = acc[i][1] = vf_set1(0.0f);
	for (size_t k = 0; k < kc; k++) {
		vf b0 = vf_load(b), b1 = vf_load(b + VL);

#pragma GCC unroll 12
		for (int i = 0; i < mr; i++) {
			vf x = vf_set1(a[(size_t)i * rs]);

			acc[i][0] = vf_fma(x, b0, acc[i][0]);
			acc[i][1] = vf_fma(x, b1, acc[i][1]);
		}
		a += cs;
		b += ldb;
	}
#pragma GCC unroll 12
	for (int i = 0; i < mr; i++) {
		float *row = c + (size_t)i * ldc;

		if (is_added) {
			acc[i][0] = vf_load(row) + acc[i][0];
			acc[i][1] = vf_load(row + VL) + acc[i][1];
		}
		vf_store(row, acc[i][0]);
		vf_store(row + VL, acc[i][1]);
	}
}

typedef void micro_fn(size_t kc, const float *a, size_t ld, const float *b, size_t ldb, float *c,
		      size_t ldc, bool is_added);

/* micro_col_*: A's rows lie beside each other (packed, or transposed); micro_row_*: ld apart. */
#define MICRO(mr)                                                                                  \
	static void micro_col_##mr(size_t kc, const float *a, size_t ld, const float *b,           \
				   size_t ldb, float *c, size_t ldc, bool is_added)                \
	{                                                                                          \
		micro(mr, kc, a, 1, ld, b, ldb, c, ldc, is_added);                                 \
	}                                                                                          \
	static void micro_row_##mr(size_t kc, const float *a, size_t ld, const float *b,           \
				   size_t ldb, float *c, size_t ldc, bool is_added)                \
	{                                                                                          \
		micro(mr, kc, a, ld, 1, b, ldb, c, ldc, is_added);                                 \
	}
MICRO(1)
MICRO(2)
MICRO(3)
MICRO(4)
MICRO(5)
MICRO(6)
#if MR == 12
MICRO(7)
MICRO(8)
MICRO(9)
MICRO(10)
MICRO(11)
MICRO(12)
#endif

/* clang-format off */
static micro_fn *const micro_col[MR + 1] = {
	NULL, micro_col_1, micro_col_2, micro_col_3, micro_col_4, micro_col_5, micro_col_6,
#if MR == 12
	micro_col_7, micro_col_8, micro_col_9, micro_col_10, micro_col_11, micro_col_12,
#endif
};
static micro_fn *const micro_row[MR + 1] = {
	NULL, micro_row_1, micro_row_2, micro_row_3, micro_row_4, micro_row_5, micro_row_6,
#if MR == 12
	micro_row_7, micro_row_8, micro_row_9, micro_row_10, micro_row_11, micro_row_12,
#endif
};
/* clang-format on */

/* ---- product: one macro-tile ------------------------------------------------------------- */

/* Rows row.. of the tile, columns col..: buf (+ earlier cuts, chunks) goes to part, or, after the
 * last chunk, (+ bias) (+ C) to C, rounded to its dtype. */
ST_INLINE void finish(enum st_dtype dt, const struct st_gemm_tile *t, size_t row, size_t col,
		      size_t mr, const float *buf, const float *sum)
{
	size_t cols = t->cols - col < NR ? t->cols - col : NR;

	for (size_t i = 0; i < mr; i++) {
		float *part = t->part ? t->part + (row + i) * t->ld_part + col : NULL;
		void *c = at_mut(dt, t->c, (row + i) * t->ldc + col);

		for (size_t j = 0; j < cols; j += VL) {
			vf v = vf_load(buf + i * NR + j);

			if (sum)
				v += vf_load(sum + i * ST_GEMM_N_TILE + j);
			if (!t->is_first)
				v += vf_load(part + j);
			if (!t->is_last) {
				vf_store(part + j, v);
				continue;
			}
			if (t->bias)
				v += vf_get(t->bias_dtype, at(t->bias_dtype, t->bias, col), j,
					    cols);
			if (t->accumulate)
				v += vf_get(ST_F32, c, j, cols);
			vf_put(dt, c, j, cols, v);
		}
	}
}

INSTANCES(finish,
	  (const struct st_gemm_tile *t, size_t row, size_t col, size_t mr, const float *buf,
	   const float *sum),
	  t, row, col, mr, buf, sum)

typedef void finish_fn(const struct st_gemm_tile *t, size_t row, size_t col, size_t mr,
		       const float *buf, const float *sum);

static finish_fn *const finish_to[ST_DTYPE_COUNT] = EACH_DTYPE(finish);

/* Rows row .. row + MR of `rows` fetch their part of what all of them need next. */
ST_INLINE void prefetch_part(const float *p, size_t floats, size_t row, size_t rows)
{
	size_t end = row + MR < rows ? (row + MR) * floats / rows : floats;

	for (size_t i = row * floats / rows; i < end; i += 64 / sizeof(float))
		__builtin_prefetch(p + i, 0, 2);
}

/* One cut: into sum, or, after the last cut, through finish(). */
static void gemm_cut(const struct st_gemm_tile *t, size_t k0, size_t kc, float *sum)
{
	float buf[MR * NR] __attribute__((aligned(64)));
	bool is_last = k0 + kc == t->kc;

	for (size_t col = 0; col < t->cols; col += NR) { /* one panel of B stays in L1 */
		const float *b = t->b + col * t->kc + k0 * NR;
		/* from L3 while this panel computes: the next one, or the next cut's first */
		const float *next = col + NR < t->cols ? b + t->kc * NR : t->b + (k0 + kc) * NR;
		bool has_next = col + NR < t->cols || !is_last;

		for (size_t row = 0; row < t->rows; row += MR) {
			size_t mr = t->rows - row < MR ? t->rows - row : MR;
			const float *a = t->a + row * t->kc + k0 * MR;
			float *s = sum + row * ST_GEMM_N_TILE + col;

			if (has_next)
				prefetch_part(next, kc * NR, row, t->rows);
			if (!is_last) {
				micro_col[mr](kc, a, MR, b, NR, s, ST_GEMM_N_TILE, k0 > 0);
				continue;
			}
			micro_col[mr](kc, a, MR, b, NR, buf, NR, false);
			finish_to[t->c_dtype](t, row, col, mr, buf, k0 ? s : NULL);
		}
	}
}

static void gemm_tile(const struct st_gemm_tile *t)
{
	float sum[ST_GEMM_M_TILE * ST_GEMM_N_TILE] __attribute__((aligned(64))); /* 96 KiB */
	size_t cuts = (t->kc + ST_GEMM_K_CUT - 1) / ST_GEMM_K_CUT;
	size_t each = round_up((t->kc + cuts - 1) / cuts, 8);

	for (size_t k0 = 0; k0 < t->kc; k0 += each)
		gemm_cut(t, k0, t->kc - k0 < each ? t->kc - k0 : each, sum);
}

/* ---- attention: one head ----------------------------------------------------------------- */

/* C[m, n] (+)= A[m, k] B[k, n]; n a multiple of NR; A's rows lda apart, or its columns (is_cols).
 */
static void tile_mm(bool is_cols, size_t m, size_t n, size_t k, const float *a, size_t lda,
		    const float *b, size_t ldb, float *c, size_t ldc, bool is_added)
{
	for (size_t col = 0; col < n; col += NR)
		for (size_t row = 0; row < m; row += MR) {
			size_t mr = m - row < MR ? m - row : MR;
			micro_fn *fn = is_cols ? micro_col[mr] : micro_row[mr];

			fn(k, is_cols ? a + row : a + row * lda, lda, b + col, ldb,
			   c + row * ldc + col, ldc, is_added);
		}
}

/* dst[rows, wide] = scale * src[rows, cols], fp32, columns beyond cols 0 */
ST_INLINE void load_rows(enum st_dtype dt, const void *src, size_t ld, size_t rows, size_t cols,
			 float scale, float *dst, size_t wide)
{
	for (size_t r = 0; r < rows; r++)
		for (size_t i = 0; i < wide; i += VL) {
			vf x = vf_set1(0.0f);

			if (i < cols)
				x = vf_get(dt, at(dt, src, r * ld), i, cols) * vf_set1(scale);
			vf_store(dst + r * wide + i, x);
		}
}

ST_INLINE void store_rows(enum st_dtype dt, const float *src, size_t wide, size_t rows, size_t cols,
			  float scale, void *dst, size_t ld)
{
	for (size_t r = 0; r < rows; r++)
		for (size_t i = 0; i < cols; i += VL)
			vf_put(dt, at_mut(dt, dst, r * ld), i, cols,
			       vf_load(src + r * wide + i) * vf_set1(scale));
}

/* Row r of a diagonal tile sees columns 0..r. */
ST_INLINE void mask_diagonal(float *s, size_t rows)
{
	for (size_t r = 0; r < rows; r++)
		for (size_t c = r + 1; c < TILE; c++)
			s[r * TILE + c] = -INFINITY;
}

static size_t attn_fwd_floats(size_t seq, size_t d)
{
	size_t tiles = (seq + TILE - 1) / TILE, wide = round_up(d, NR);

	/* K^T and V of the whole head; Q, S, O of one tile; max and sum of its rows */
	return tiles * TILE * (d + wide) + TILE * round_up(d, 16) + TILE * TILE + TILE * wide +
	       2 * TILE;
}

/* One row of scores: running maximum and sum, s = exp(s - max), earlier output rescaled. */
ST_INLINE void softmax_row(float *s, float *max, float *sum, float *o, size_t wide, bool is_first)
{
	vf m = vf_set1(*max), z = vf_set1(0.0f);
	float new_max, shrink;

	for (size_t c = 0; c < TILE; c += VL)
		m = vf_max(vf_load(s + c), m);
	new_max = vf_hmax(m);
	m = vf_set1(new_max);
	for (size_t c = 0; c < TILE; c += VL) {
		vf p = vf_exp(vf_load(s + c) - m);

		vf_store(s + c, p);
		z += p;
	}
	if (is_first) {
		*sum = vf_hsum(z);
	} else {
		shrink = exp1(*max - new_max);
		*sum = *sum * shrink + vf_hsum(z);
		if (shrink != 1.0f)
			for (size_t i = 0; i < wide; i += VL)
				vf_store(o + i, vf_load(o + i) * vf_set1(shrink));
	}
	*max = new_max;
}

ST_INLINE void attn_fwd(enum st_dtype dt, const struct st_attn_head *h)
{
	size_t d = h->head_dim, wide = round_up(d, NR);
	size_t tiles = (h->seq + TILE - 1) / TILE;
	float *kt = h->work, *v = kt + tiles * TILE * d, *q = v + tiles * TILE * wide;
	float *s = q + TILE * round_up(d, 16), *o = s + TILE * TILE;
	float *max = o + TILE * wide, *sum = max + TILE;
	float scale = 1.0f / sqrtf((float)d);

	for (size_t j = 0; j < tiles; j++) {
		size_t first = j * TILE, n = h->seq - first < TILE ? h->seq - first : TILE;

		pack_rows(dt, at(dt, h->k, first * h->ld_qkv), h->ld_qkv, n, d, kt + first * d,
			  TILE);
		load_rows(dt, at(dt, h->v, first * h->ld_qkv), h->ld_qkv, n, d, 1.0f,
			  v + first * wide, wide);
	}
	for (size_t i = 0; i < tiles; i++) {
		size_t first = i * TILE, m = h->seq - first < TILE ? h->seq - first : TILE;

		load_rows(dt, at(dt, h->q, first * h->ld_qkv), h->ld_qkv, m, d, scale, q,
			  round_up(d, VL));
		for (size_t j = 0; j <= i; j++) {
			tile_mm(false, m, TILE, d, q, round_up(d, VL), kt + j * TILE * d, TILE, s,
				TILE, false);
			if (j == i)
				mask_diagonal(s, m);
			for (size_t r = 0; r < m; r++) {
				if (j == 0)
					max[r] = -INFINITY;
				softmax_row(s + r * TILE, max + r, sum + r, o + r * wide, wide,
					    j == 0);
			}
			tile_mm(false, m, wide, j == i ? m : TILE, s, TILE, v + j * TILE * wide,
				wide, o, wide, j > 0);
		}
		for (size_t r = 0; r < m; r++) {
			store_rows(dt, o + r * wide, wide, 1, d, 1.0f / sum[r],
				   at_mut(dt, h->out, (first + r) * h->ld_out), h->ld_out);
			h->lse[first + r] = max[r] + logf(sum[r]);
		}
	}
}
INSTANCES(attn_fwd, (const struct st_attn_head *h), h)

static size_t attn_bwd_floats(size_t seq, size_t d)
{
	size_t rows = round_up(seq, TILE), wide = round_up(d, NR);

	/* Q, dO, dQ and delta of the whole head; K, dK, dV, K^T, V^T, S, dS of one tile */
	return 3 * rows * wide + rows + 3 * TILE * wide + 2 * TILE * d + 2 * TILE * TILE;
}

/* P = exp(S - lse), dS = P (dP - delta), in place; [m, TILE] */
ST_INLINE void softmax_bwd(float *s, float *dp, size_t m, const float *lse, const float *delta)
{
	for (size_t r = 0; r < m; r++)
		for (size_t c = r * TILE; c < (r + 1) * TILE; c += VL) {
			vf p = vf_exp(vf_load(s + c) - vf_set1(lse[r]));

			vf_store(s + c, p);
			vf_store(dp + c, p * (vf_load(dp + c) - vf_set1(delta[r])));
		}
}

/* delta[r] = sum of dO * O of row r, which equals sum of P * dP */
ST_INLINE void row_dots(enum st_dtype dt, const struct st_attn_head *h, float *delta)
{
	for (size_t r = 0; r < h->seq; r++) {
		const void *a = at(dt, h->dout, r * h->ld_out);
		const void *b = at(dt, h->out, r * h->ld_out);
		vf s = vf_set1(0.0f);

		for (size_t i = 0; i < h->head_dim; i += VL)
			s = vf_fma(vf_get(dt, a, i, h->head_dim), vf_get(dt, b, i, h->head_dim), s);
		delta[r] = vf_hsum(s);
	}
}

ST_INLINE void attn_bwd(enum st_dtype dt, const struct st_attn_head *h)
{
	size_t d = h->head_dim, wide = round_up(d, NR), rows = round_up(h->seq, TILE);
	float *q = h->work, *dout = q + rows * wide, *dq = dout + rows * wide;
	float *delta = dq + rows * wide, *k = delta + rows, *dk = k + TILE * wide;
	float *dv = dk + TILE * wide, *kt = dv + TILE * wide, *vt = kt + TILE * d;
	float *s = vt + TILE * d, *dp = s + TILE * TILE;
	float scale = 1.0f / sqrtf((float)d);

	load_rows(dt, h->q, h->ld_qkv, h->seq, d, scale, q, wide);
	load_rows(dt, h->dout, h->ld_out, h->seq, d, 1.0f, dout, wide);
	row_dots(dt, h, delta);
	for (size_t j0 = 0; j0 < h->seq; j0 += TILE) {
		size_t n = h->seq - j0 < TILE ? h->seq - j0 : TILE, at_j = j0 * h->ld_qkv;

		load_rows(dt, at(dt, h->k, at_j), h->ld_qkv, n, d, 1.0f, k, wide);
		pack_rows(dt, at(dt, h->k, at_j), h->ld_qkv, n, d, kt, TILE);
		pack_rows(dt, at(dt, h->v, at_j), h->ld_qkv, n, d, vt, TILE);
		for (size_t i0 = j0; i0 < h->seq; i0 += TILE) {
			size_t m = h->seq - i0 < TILE ? h->seq - i0 : TILE;
			bool is_first = i0 == j0; /* also: the diagonal */

			tile_mm(false, m, TILE, d, q + i0 * wide, wide, kt, TILE, s, TILE, false);
			if (is_first)
				mask_diagonal(s, m);
			tile_mm(false, m, TILE, d, dout + i0 * wide, wide, vt, TILE, dp, TILE,
				false);
			softmax_bwd(s, dp, m, h->lse + i0, delta + i0);
			tile_mm(true, n, wide, m, s, TILE, dout + i0 * wide, wide, dv, wide,
				!is_first);
			tile_mm(true, n, wide, m, dp, TILE, q + i0 * wide, wide, dk, wide,
				!is_first);
			tile_mm(false, m, wide, n, dp, TILE, k, wide, dq + i0 * wide, wide, j0 > 0);
		}
		store_rows(dt, dk, wide, n, d, 1.0f, at_mut(dt, h->dk, at_j), h->ld_qkv);
		store_rows(dt, dv, wide, n, d, 1.0f, at_mut(dt, h->dv, at_j), h->ld_qkv);
	}
	store_rows(dt, dq, wide, h->seq, d, scale, h->dq, h->ld_qkv);
}
INSTANCES(attn_bwd, (const struct st_attn_head *h), h)

/* ---- the table --------------------------------------------------------------------------- */

const struct st_host_kernels ST_KERNELS_TABLE = {
	.isa = ST_KERNELS_ISA,
	.mr = MR,
	.nr = NR,
	.pack_a = EACH_DTYPE(pack_a),
	.pack_b = EACH_DTYPE(pack_b),
	.gemm_tile = gemm_tile,
	.gelu_fwd = EACH_DTYPE(gelu_fwd),
	.gelu_bwd = EACH_DTYPE(gelu_bwd),
	.add = EACH_DTYPE(add),
	.add_into = EACH_DTYPE(add_into),
	.layernorm_fwd = EACH_DTYPE(layernorm_fwd),
	.layernorm_bwd = EACH_DTYPE(layernorm_bwd),
	.column_sum = EACH_DTYPE(column_sum),
	.cross_entropy = EACH_DTYPE(cross_entropy),
	.attn_fwd_floats = attn_fwd_floats,
	.attn_bwd_floats = attn_bwd_floats,
	.attn_fwd = EACH_DTYPE(attn_fwd),
	.attn_bwd = EACH_DTYPE(attn_bwd),
	.exp = exp_f32,
};
