/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/ref_device.h - the operations of gpu/device.h as plain loops in double.
 *
 * Inputs are doubles that are exact in the dtype under test; nothing is rounded here.
 */
#ifndef TESTS_REF_DEVICE_H
#define TESTS_REF_DEVICE_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/* C[m,n] = op(A) op(B) (+ bias) (+ C); strides in elements. */
static inline void ref_matmul(size_t m, size_t n, size_t k, bool ta, bool tb, size_t lda,
			      size_t ldb, size_t ldc, const double *a, const double *b,
			      const double *bias, bool accumulate, double *c)
{
	for (size_t i = 0; i < m; i++) {
		double *row = c + i * ldc;

		for (size_t j = 0; j < n; j++)
			row[j] = (accumulate ? row[j] : 0) + (bias ? bias[j] : 0);
		for (size_t p = 0; p < k; p++) {
			double x = a[ta ? p * lda + i : i * lda + p];

			if (tb)
				for (size_t j = 0; j < n; j++)
					row[j] += x * b[j * ldb + p];
			else
				for (size_t j = 0; j < n; j++)
					row[j] += x * b[p * ldb + j];
		}
	}
}

static inline double ref_gelu(double x)
{
	return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

static inline double ref_gelu_slope(double x)
{
	double c = sqrt(2 / M_PI), t = tanh(c * (x + 0.044715 * x * x * x));

	return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x);
}

static inline void ref_layernorm(size_t rows, size_t cols, const double *x, const double *gamma,
				 const double *beta, double *y, double *mean, double *rstd)
{
	for (size_t r = 0; r < rows; r++) {
		const double *row = x + r * cols;
		double m = 0, v = 0;

		for (size_t i = 0; i < cols; i++)
			m += row[i] / (double)cols;
		for (size_t i = 0; i < cols; i++)
			v += (row[i] - m) * (row[i] - m) / (double)cols;
		mean[r] = m;
		rstd[r] = 1 / sqrt(v + 1e-5);
		for (size_t i = 0; i < cols; i++)
			y[r * cols + i] = (row[i] - m) * rstd[r] * gamma[i] + beta[i];
	}
}

/* dgamma and dbeta are added to. */
static inline void ref_layernorm_bwd(size_t rows, size_t cols, const double *dy, const double *x,
				     const double *gamma, const double *mean, const double *rstd,
				     const double *dx_add, double *dx, double *dgamma,
				     double *dbeta)
{
	for (size_t r = 0; r < rows; r++) {
		double s = 0, q = 0;

		for (size_t i = 0; i < cols; i++) {
			double h = (x[r * cols + i] - mean[r]) * rstd[r], d = dy[r * cols + i];

			s += d * gamma[i] / (double)cols;
			q += d * gamma[i] * h / (double)cols;
			dgamma[i] += d * h;
			dbeta[i] += d;
		}
		for (size_t i = 0; i < cols; i++) {
			double h = (x[r * cols + i] - mean[r]) * rstd[r];

			dx[r * cols + i] = rstd[r] * (dy[r * cols + i] * gamma[i] - s - h * q) +
					   (dx_add ? dx_add[r * cols + i] : 0);
		}
	}
}

struct ref_attn {
	size_t batch, seq, heads, dim;
	const double *qkv;
};

static inline double ref_qkv(const struct ref_attn *a, size_t which, size_t b, size_t h, size_t t,
			     size_t i)
{
	size_t width = a->heads * a->dim;

	return a->qkv[(b * a->seq + t) * 3 * width + which * width + h * a->dim + i];
}

static inline double ref_score(const struct ref_attn *a, size_t b, size_t h, size_t t, size_t u)
{
	double s = 0;

	for (size_t i = 0; i < a->dim; i++)
		s += ref_qkv(a, 0, b, h, t, i) * ref_qkv(a, 1, b, h, u, i);
	return s / sqrt((double)a->dim);
}

static inline void ref_attention(const struct ref_attn *a, double *out, double *lse)
{
	double *s = (double *)calloc(a->seq, sizeof(*s));

	for (size_t b = 0; s && b < a->batch; b++)
		for (size_t h = 0; h < a->heads; h++)
			for (size_t t = 0; t < a->seq; t++) {
				double max = -INFINITY, sum = 0;

				for (size_t u = 0; u <= t; u++) {
					s[u] = ref_score(a, b, h, t, u);
					max = s[u] > max ? s[u] : max;
				}
				for (size_t u = 0; u <= t; u++) {
					s[u] = exp(s[u] - max);
					sum += s[u];
				}
				lse[(b * a->heads + h) * a->seq + t] = max + log(sum);
				for (size_t i = 0; i < a->dim; i++) {
					double o = 0;

					for (size_t u = 0; u <= t; u++)
						o += s[u] / sum * ref_qkv(a, 2, b, h, u, i);
					out[((b * a->seq + t) * a->heads + h) * a->dim + i] = o;
				}
			}
	free(s);
}

static inline void ref_attention_bwd(const struct ref_attn *a, const double *lse,
				     const double *dout, double *dqkv)
{
	size_t width = a->heads * a->dim;
	double scale = 1 / sqrt((double)a->dim);
	double *p = (double *)calloc(2 * a->seq, sizeof(*p)), *dp = p ? p + a->seq : NULL;

	for (size_t i = 0; i < a->batch * a->seq * 3 * width; i++)
		dqkv[i] = 0;
	for (size_t b = 0; p && b < a->batch; b++)
		for (size_t h = 0; h < a->heads; h++)
			for (size_t t = 0; t < a->seq; t++) {
				const double *g = dout + ((b * a->seq + t) * a->heads + h) * a->dim;
				double *dq = dqkv + (b * a->seq + t) * 3 * width + h * a->dim;
				double delta = 0;

				for (size_t u = 0; u <= t; u++) {
					p[u] = exp(ref_score(a, b, h, t, u) -
						   lse[(b * a->heads + h) * a->seq + t]);
					dp[u] = 0;
					for (size_t i = 0; i < a->dim; i++)
						dp[u] += g[i] * ref_qkv(a, 2, b, h, u, i);
					delta += p[u] * dp[u];
				}
				for (size_t u = 0; u <= t; u++) {
					double ds = p[u] * (dp[u] - delta) * scale;
					double *dk = dqkv + (b * a->seq + u) * 3 * width + width +
						     h * a->dim;

					for (size_t i = 0; i < a->dim; i++) {
						dq[i] += ds * ref_qkv(a, 1, b, h, u, i);
						dk[i] += ds * ref_qkv(a, 0, b, h, t, i);
						dk[width + i] += p[u] * g[i];
					}
				}
			}
	free(p);
}

/* Loss of one row; grad (may be NULL) [vocab] = scale (softmax - onehot). */
static inline double ref_cross_entropy(size_t vocab, const double *x, size_t target, double scale,
				       double *grad)
{
	double max = -INFINITY, sum = 0;

	for (size_t i = 0; i < vocab; i++)
		max = x[i] > max ? x[i] : max;
	for (size_t i = 0; i < vocab; i++)
		sum += exp(x[i] - max);
	for (size_t i = 0; grad && i < vocab; i++)
		grad[i] = scale * (exp(x[i] - max) / sum - (i == target));
	return max + log(sum) - x[target];
}

#endif
