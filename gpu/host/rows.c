/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu/host/rows.c - everything that is not a product or attention, dealt out to the team.
 *
 * Rows and ranges are independent, except in sums over rows (layer norm's and bias gradients):
 * these are cut into at most ROW_PARTS parts by the number of rows alone, each part is summed into
 * its own fp32 row of scratch, and the parts are added in order. The bits do not depend on the
 * number of threads.
 */
#include "gpu/host/host.h"

#include <errno.h>

#define ROW_PARTS      32u
#define ROW_PART_MIN   16u
#define RANGE          16384u /* elements of an element-wise piece */
#define COLUMNS        64u    /* of a sum over parts, or of an embedding gradient */
#define CACHE_LINE_F32 16u

static size_t least(size_t a, size_t b)
{
	return a < b ? a : b;
}

static const void *row_of(const struct st_device *dev, const void *p, size_t row, size_t ld)
{
	return (const char *)p + row * ld * st_dtype_bytes(dev->dtype);
}

static void *row_mut(const struct st_device *dev, void *p, size_t row, size_t ld)
{
	return (char *)p + row * ld * st_dtype_bytes(dev->dtype);
}

/* ---- element-wise ------------------------------------------------------------------------ */

void st_host_gelu_fwd(struct st_device *dev, size_t n, const void *x, void *y)
{
	const struct st_host *h = st_host(dev);
	enum st_dtype t = dev->dtype;

#pragma omp parallel for num_threads(h->threads) schedule(static)
	for (size_t i = 0; i < n; i += RANGE)
		h->k->gelu_fwd[t](least(RANGE, n - i), row_of(dev, x, i, 1), row_mut(dev, y, i, 1));
}

void st_host_gelu_bwd(struct st_device *dev, size_t n, const void *x, const void *dy, void *dx)
{
	const struct st_host *h = st_host(dev);
	enum st_dtype t = dev->dtype;

#pragma omp parallel for num_threads(h->threads) schedule(static)
	for (size_t i = 0; i < n; i += RANGE)
		h->k->gelu_bwd[t](least(RANGE, n - i), row_of(dev, x, i, 1), row_of(dev, dy, i, 1),
				  row_mut(dev, dx, i, 1));
}

void st_host_add(struct st_device *dev, size_t n, const void *a, const void *b, void *y)
{
	const struct st_host *h = st_host(dev);
	enum st_dtype t = dev->dtype;

#pragma omp parallel for num_threads(h->threads) schedule(static)
	for (size_t i = 0; i < n; i += RANGE)
		h->k->add[t](least(RANGE, n - i), row_of(dev, a, i, 1), row_of(dev, b, i, 1),
			     row_mut(dev, y, i, 1));
}

void st_host_fill_zero(struct st_device *dev, void *p, size_t bytes)
{
	const size_t piece = (size_t)1 << 20;

#pragma omp parallel for num_threads(st_host(dev)->threads) schedule(static)
	for (size_t i = 0; i < bytes; i += piece)
		memset((char *)p + i, 0, least(piece, bytes - i));
}

/* ---- sums over rows ---------------------------------------------------------------------- */

static size_t part_rows(size_t rows)
{
	size_t n = (rows + ROW_PARTS - 1) / ROW_PARTS;

	return n < ROW_PART_MIN ? ROW_PART_MIN : n;
}

static size_t parts_of(size_t rows)
{
	return (rows + part_rows(rows) - 1) / part_rows(rows);
}

static size_t part_stride(size_t n)
{
	return (n + CACHE_LINE_F32 - 1) / CACHE_LINE_F32 * CACHE_LINE_F32;
}

/* out[i] += parts in order, called by the whole team inside a parallel region */
static void add_parts(const struct st_host *h, size_t parts, size_t stride, size_t n,
		      const float *part, float *out)
{
#pragma omp for schedule(static)
	for (size_t i = 0; i < n; i += COLUMNS)
		for (size_t p = 0; p < parts; p++)
			h->k->add_into[ST_F32](least(COLUMNS, n - i), part + p * stride + i,
					       out + i);
}

size_t st_host_bias_bwd_work_bytes(const struct st_device *dev, size_t rows, size_t n)
{
	return parts_of(rows) * part_stride(n) * sizeof(float);
}

void st_host_bias_bwd(struct st_device *dev, size_t rows, size_t n, const void *dy, float *out,
		      void *work)
{
	const struct st_host *h = st_host(dev);
	enum st_dtype t = dev->dtype;
	size_t parts = parts_of(rows), each = part_rows(rows), stride = part_stride(n);
	float *part = work;

#pragma omp parallel num_threads(h->threads)
	{
#pragma omp for schedule(static)
		for (size_t p = 0; p < parts; p++) {
			float *sum = part + p * stride;

			memset(sum, 0, n * sizeof(float));
			h->k->column_sum[t](least(each, rows - p * each), n,
					    row_of(dev, dy, p * each, n), sum);
		}
		add_parts(h, parts, stride, n, part, out);
	}
}

void st_host_layernorm_fwd(struct st_device *dev, size_t rows, size_t cols, const void *x,
			   const void *gamma, const void *beta, void *y, float *mean, float *rstd)
{
	const struct st_host *h = st_host(dev);
	enum st_dtype t = dev->dtype;
	size_t each = part_rows(rows);

#pragma omp parallel for num_threads(h->threads) schedule(static)
	for (size_t r = 0; r < rows; r += each)
		h->k->layernorm_fwd[t](least(each, rows - r), cols, row_of(dev, x, r, cols), gamma,
				       beta, row_mut(dev, y, r, cols), mean + r, rstd + r);
}

size_t st_host_layernorm_bwd_work_bytes(const struct st_device *dev, size_t rows, size_t cols)
{
	return parts_of(rows) * 2 * part_stride(cols) * sizeof(float);
}

void st_host_layernorm_bwd(struct st_device *dev, size_t rows, size_t cols, const void *dy,
			   const void *x, const void *gamma, const float *mean, const float *rstd,
			   const void *dx_add, void *dx, float *dgamma, float *dbeta, void *work)
{
	const struct st_host *h = st_host(dev);
	enum st_dtype t = dev->dtype;
	size_t parts = parts_of(rows), each = part_rows(rows), stride = part_stride(cols);
	float *part = work;

#pragma omp parallel num_threads(h->threads)
	{
#pragma omp for schedule(static)
		for (size_t p = 0; p < parts; p++) {
			size_t r = p * each;
			float *sum = part + p * 2 * stride;

			memset(sum, 0, 2 * stride * sizeof(float));
			h->k->layernorm_bwd[t](least(each, rows - r), cols,
					       row_of(dev, dy, r, cols), row_of(dev, x, r, cols),
					       gamma, mean + r, rstd + r,
					       dx_add ? row_of(dev, dx_add, r, cols) : NULL,
					       row_mut(dev, dx, r, cols), sum, sum + stride);
		}
		add_parts(h, parts, 2 * stride, cols, part, dgamma);
		add_parts(h, parts, 2 * stride, cols, part + stride, dbeta);
	}
}

/* ---- embedding --------------------------------------------------------------------------- */

static bool are_tokens(struct st_device *dev, const char *op, size_t n, const int32_t *token,
		       size_t vocab)
{
	for (size_t i = 0; i < n; i++)
		if (token[i] < 0 || (size_t)token[i] >= vocab) {
			st_device_fail(dev, st_fail(-EINVAL,
						    "device: %s: token %zu is %d, outside the "
						    "vocabulary of %zu.",
						    op, i, (int)token[i], vocab));
			return false;
		}
	return true;
}

void st_host_embedding_fwd(struct st_device *dev, size_t batch, size_t seq, size_t cols,
			   size_t vocab, const int32_t *tokens, const void *wte, const void *wpe,
			   void *y)
{
	const struct st_host *h = st_host(dev);
	enum st_dtype t = dev->dtype;

	if (!are_tokens(dev, "embedding_fwd", batch * seq, tokens, vocab))
		return;
#pragma omp parallel for num_threads(h->threads) schedule(static)
	for (size_t r = 0; r < batch * seq; r++)
		h->k->add[t](cols, row_of(dev, wte, (size_t)tokens[r], cols),
			     row_of(dev, wpe, r % seq, cols), row_mut(dev, y, r, cols));
}

void st_host_embedding_bwd(struct st_device *dev, size_t batch, size_t seq, size_t cols,
			   size_t vocab, const int32_t *tokens, const void *dy, float *dwte,
			   float *dwpe)
{
	const struct st_host *h = st_host(dev);
	enum st_dtype t = dev->dtype;

	if (!are_tokens(dev, "embedding_bwd", batch * seq, tokens, vocab))
		return;
		/* Columns are dealt out, so each element of dwte is added to by one thread in token
		 * order. */
#pragma omp parallel for num_threads(h->threads) schedule(static)
	for (size_t c = 0; c < cols; c += COLUMNS) {
		size_t n = least(COLUMNS, cols - c), elem_bytes = st_dtype_bytes(dev->dtype);

		for (size_t r = 0; r < batch * seq; r++) {
			const char *x = (const char *)row_of(dev, dy, r, cols) + c * elem_bytes;

			h->k->add_into[t](n, x, dwte + (size_t)tokens[r] * cols + c);
			h->k->add_into[t](n, x, dwpe + r % seq * cols + c);
		}
	}
}

/* ---- loss -------------------------------------------------------------------------------- */

void st_host_cross_entropy(struct st_device *dev, size_t rows, size_t vocab, size_t ld,
			   void *logits, const int32_t *targets, float *loss, float grad_scale)
{
	const struct st_host *h = st_host(dev);
	enum st_dtype t = dev->dtype;

	if (!are_tokens(dev, "cross_entropy", rows, targets, vocab))
		return;
#pragma omp parallel for num_threads(h->threads) schedule(static)
	for (size_t r = 0; r < rows; r++)
		h->k->cross_entropy[t](vocab, row_mut(dev, logits, r, ld), (size_t)targets[r],
				       loss + r, grad_scale);
}
