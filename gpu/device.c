/* SPDX-License-Identifier: Apache-2.0 */
/* gpu/device.c - open a device by type, check arguments, keep the first failure. */
#include "gpu/device_ops.h"

#include <errno.h>
#include <math.h>

#define MAX_THREADS 4096u
#define MAX_ELEMS   ((size_t)1 << 46) /* products of sizes up to here cannot overflow in bytes */

static const struct st_device_ops *const registry[] = { &st_host_ops };

static bool is_dtype(enum st_dtype t)
{
	return (unsigned)t < ST_DTYPE_COUNT;
}

int st_device_open(struct st_device **out, const struct st_device_cfg *cfg)
{
	const char *type;

	if (!out || !cfg || !cfg->type)
		return st_fail(-EINVAL, "device: open needs a place for the result and a type.");
	if (!is_dtype(cfg->dtype))
		return st_fail(STRATA_E_UNSUPPORTED,
			       "device: compute dtype must be fp32, bf16 or fp16; choose one of "
			       "these.");
	if (cfg->threads > MAX_THREADS)
		return st_fail(-EINVAL, "device: %u threads; give at most %u, or 0 for all cores.",
			       cfg->threads, MAX_THREADS);
	type = strcmp(cfg->type, "auto") ? cfg->type : "host";
	if (!strcmp(type, "cuda"))
		return st_fail(STRATA_E_UNSUPPORTED,
			       "device \"cuda\": this build has no CUDA device; use \"host\" or "
			       "\"auto\".");
	for (size_t i = 0; i < ST_ARRAY_LEN(registry); i++) {
		if (strcmp(type, registry[i]->type))
			continue;
		if (registry[i]->api_version != ST_DEVICE_API_VERSION)
			return st_fail(
				STRATA_E_UNSUPPORTED,
				"device \"%s\": interface version %u, this program needs %u; "
				"rebuild both together.",
				type, registry[i]->api_version, ST_DEVICE_API_VERSION);
		return registry[i]->open(out, cfg);
	}
	return st_fail(-EINVAL, "device \"%s\": unknown type; use \"auto\", \"host\" or \"cuda\".",
		       type);
}

void st_device_close(struct st_device *dev)
{
	if (dev)
		dev->ops->close(dev);
}

const struct st_device_caps *st_device_caps(const struct st_device *dev)
{
	return &dev->caps;
}

uint64_t st_device_numeric_id(const struct st_device *dev)
{
	return dev->numeric_id;
}

int st_device_status(struct st_device *dev)
{
	int rc = dev->err.rc;

	if (rc)
		st_error_raise(&dev->err);
	dev->err.rc = 0;
	return rc;
}

void st_device_fail(struct st_device *dev, int rc)
{
	if (!dev->err.rc)
		st_error_take(&dev->err, rc);
}

/* ---- argument checks: true = go on -------------------------------------------------------- */

static bool is_aligned(const void *p, size_t bytes)
{
	return (uintptr_t)p % bytes == 0;
}

static bool refuse(struct st_device *dev, const char *op, const char *what)
{
	st_device_fail(dev, st_fail(-EINVAL, "device: %s: %s.", op, what));
	return false;
}

/* No failure is pending, and a * b * c elements can be counted in bytes. */
static bool is_size(struct st_device *dev, const char *op, size_t a, size_t b, size_t c)
{
	size_t ab, abc;

	if (dev->err.rc)
		return false;
	if (!a || !b || !c)
		return refuse(dev, op, "a size is 0");
	if (__builtin_mul_overflow(a, b, &ab) || __builtin_mul_overflow(ab, c, &abc) ||
	    abc > MAX_ELEMS)
		return refuse(dev, op, "sizes are absurdly large");
	return true;
}

/* None of the n operands is NULL or off the alignment of its elements. */
static bool is_all(struct st_device *dev, const char *op, const void *const *p, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (!p[i])
			return refuse(dev, op, "an operand is NULL");
		if (!is_aligned(p[i], 4))
			return refuse(dev, op, "an operand is not aligned");
	}
	return true;
}

#define HAVE(dev, op, ...)                                                                         \
	is_all(dev, op, (const void *const[]){ __VA_ARGS__ },                                      \
	       sizeof((const void *const[]){ __VA_ARGS__ }) / sizeof(void *))

static bool is_work(struct st_device *dev, const char *op, const void *work, size_t need_bytes)
{
	if (need_bytes && !work)
		return refuse(dev, op, "scratch is NULL");
	if (!is_aligned(work, ST_DEVICE_ALIGN))
		return refuse(dev, op, "scratch is not 64-byte aligned");
	return true;
}

/* ---- matrix product ---------------------------------------------------------------------- */

/* Defaults filled in, so that an implementation never meets ld = 0. */
static struct st_matmul dense(const struct st_matmul *mm)
{
	struct st_matmul d = *mm;

	if (!d.lda)
		d.lda = d.trans_a ? d.m : d.k;
	if (!d.ldb)
		d.ldb = d.trans_b ? d.k : d.n;
	if (!d.ldc)
		d.ldc = d.n;
	return d;
}

size_t st_matmul_work_bytes(const struct st_device *dev, const struct st_matmul *mm)
{
	struct st_matmul d = dense(mm);

	return dev->ops->matmul_work_bytes(dev, &d);
}

static bool is_product(struct st_device *dev, const struct st_matmul *d)
{
	const char *op = "matmul";

	if (!is_size(dev, op, d->m, d->n, 1) || !is_size(dev, op, d->m, d->k, 1) ||
	    !is_size(dev, op, d->k, d->n, 1))
		return false;
	if (!is_size(dev, op, d->trans_a ? d->k : d->m, d->lda, 1) ||
	    !is_size(dev, op, d->trans_b ? d->n : d->k, d->ldb, 1) ||
	    !is_size(dev, op, d->m, d->ldc, 1))
		return false;
	if (d->lda < (d->trans_a ? d->m : d->k) || d->ldb < (d->trans_b ? d->k : d->n) ||
	    d->ldc < d->n)
		return refuse(dev, op, "a row stride is smaller than its row");
	if (!is_dtype(d->a_dtype) || !is_dtype(d->b_dtype) || !is_dtype(d->c_dtype))
		return refuse(dev, op, "operands must be fp32, bf16 or fp16");
	if (d->accumulate && d->c_dtype != ST_F32)
		return refuse(dev, op, "only an fp32 result can be added to");
	if (!HAVE(dev, op, d->a, d->b, d->c))
		return false;
	if (!is_aligned(d->a, ST_DEVICE_ALIGN) || !is_aligned(d->b, ST_DEVICE_ALIGN) ||
	    !is_aligned(d->c, ST_DEVICE_ALIGN))
		return refuse(dev, op, "an operand is not 64-byte aligned");
	if (d->bias && !is_aligned(d->bias, 2))
		return refuse(dev, op, "bias is not aligned");
	return true;
}

void st_matmul(struct st_device *dev, const struct st_matmul *mm)
{
	struct st_matmul d = dense(mm);
	size_t need;

	if (!is_product(dev, &d))
		return;
	need = dev->ops->matmul_work_bytes(dev, &d);
	if (!is_work(dev, "matmul", d.work, need))
		return;
	if (d.work_bytes < need) {
		st_device_fail(dev, st_fail(-EINVAL,
					    "device: matmul: %zu bytes of scratch, %zu needed; ask "
					    "st_matmul_work_bytes().",
					    d.work_bytes, need));
		return;
	}
	dev->ops->matmul(dev, &d);
}

/* ---- rows -------------------------------------------------------------------------------- */

void st_layernorm_fwd(struct st_device *dev, size_t rows, size_t cols, const void *x,
		      const void *gamma, const void *beta, void *y, float *mean, float *rstd)
{
	const char *op = "layernorm_fwd";

	if (is_size(dev, op, rows, cols, 1) && HAVE(dev, op, x, gamma, beta, y, mean, rstd))
		dev->ops->layernorm_fwd(dev, rows, cols, x, gamma, beta, y, mean, rstd);
}

size_t st_layernorm_bwd_work_bytes(const struct st_device *dev, size_t rows, size_t cols)
{
	return dev->ops->layernorm_bwd_work_bytes(dev, rows, cols);
}

void st_layernorm_bwd(struct st_device *dev, size_t rows, size_t cols, const void *dy,
		      const void *x, const void *gamma, const float *mean, const float *rstd,
		      const void *dx_add, void *dx, float *dgamma, float *dbeta, void *work)
{
	const char *op = "layernorm_bwd";

	if (is_size(dev, op, rows, cols, 1) &&
	    HAVE(dev, op, dy, x, gamma, mean, rstd, dx, dgamma, dbeta) &&
	    is_work(dev, op, work, dev->ops->layernorm_bwd_work_bytes(dev, rows, cols)))
		dev->ops->layernorm_bwd(dev, rows, cols, dy, x, gamma, mean, rstd, dx_add, dx,
					dgamma, dbeta, work);
}

void st_gelu_fwd(struct st_device *dev, size_t n, const void *x, void *y)
{
	if (is_size(dev, "gelu_fwd", n, 1, 1) && HAVE(dev, "gelu_fwd", x, y))
		dev->ops->gelu_fwd(dev, n, x, y);
}

void st_gelu_bwd(struct st_device *dev, size_t n, const void *x, const void *dy, void *dx)
{
	if (is_size(dev, "gelu_bwd", n, 1, 1) && HAVE(dev, "gelu_bwd", x, dy, dx))
		dev->ops->gelu_bwd(dev, n, x, dy, dx);
}

void st_add(struct st_device *dev, size_t n, const void *a, const void *b, void *y)
{
	if (is_size(dev, "add", n, 1, 1) && HAVE(dev, "add", a, b, y))
		dev->ops->add(dev, n, a, b, y);
}

void st_fill_zero(struct st_device *dev, void *p, size_t bytes)
{
	if (!dev->err.rc && bytes && HAVE(dev, "fill_zero", p))
		dev->ops->fill_zero(dev, p, bytes);
}

size_t st_bias_bwd_work_bytes(const struct st_device *dev, size_t rows, size_t n)
{
	return dev->ops->bias_bwd_work_bytes(dev, rows, n);
}

void st_bias_bwd(struct st_device *dev, size_t rows, size_t n, const void *dy, float *out,
		 void *work)
{
	const char *op = "bias_bwd";

	if (is_size(dev, op, rows, n, 1) && HAVE(dev, op, dy, out) &&
	    is_work(dev, op, work, dev->ops->bias_bwd_work_bytes(dev, rows, n)))
		dev->ops->bias_bwd(dev, rows, n, dy, out, work);
}

/* ---- attention --------------------------------------------------------------------------- */

size_t st_attention_work_bytes(const struct st_device *dev, size_t batch, size_t seq, size_t heads,
			       size_t head_dim, bool is_backward)
{
	return dev->ops->attention_work_bytes(dev, batch, seq, heads, head_dim, is_backward);
}

static bool is_attention(struct st_device *dev, const char *op, const struct st_attention *at,
			 bool is_backward)
{
	size_t width;

	if (!is_size(dev, op, at->heads, at->head_dim, 3))
		return false;
	width = at->heads * at->head_dim * 3;
	if (!is_size(dev, op, at->batch, at->seq, width))
		return false;
	if (at->head_dim % 8 || at->head_dim > 512)
		return refuse(dev, op, "head_dim must be a multiple of 8, at most 512");
	return HAVE(dev, op, at->qkv, at->out, at->lse) &&
	       (!is_backward || HAVE(dev, op, at->dout, at->dqkv)) &&
	       is_work(dev, op, at->work,
		       dev->ops->attention_work_bytes(dev, at->batch, at->seq, at->heads,
						      at->head_dim, is_backward));
}

void st_attention_fwd(struct st_device *dev, const struct st_attention *at)
{
	if (is_attention(dev, "attention_fwd", at, false))
		dev->ops->attention_fwd(dev, at);
}

void st_attention_bwd(struct st_device *dev, const struct st_attention *at)
{
	if (is_attention(dev, "attention_bwd", at, true))
		dev->ops->attention_bwd(dev, at);
}

/* ---- embedding and loss ------------------------------------------------------------------ */

void st_embedding_fwd(struct st_device *dev, size_t batch, size_t seq, size_t cols,
		      const int32_t *tokens, const void *wte, const void *wpe, void *y)
{
	const char *op = "embedding_fwd";

	if (is_size(dev, op, batch, seq, cols) && HAVE(dev, op, tokens, wte, wpe, y))
		dev->ops->embedding_fwd(dev, batch, seq, cols, tokens, wte, wpe, y);
}

void st_embedding_bwd(struct st_device *dev, size_t batch, size_t seq, size_t cols,
		      const int32_t *tokens, const void *dy, float *dwte, float *dwpe)
{
	const char *op = "embedding_bwd";

	if (is_size(dev, op, batch, seq, cols) && HAVE(dev, op, tokens, dy, dwte, dwpe))
		dev->ops->embedding_bwd(dev, batch, seq, cols, tokens, dy, dwte, dwpe);
}

void st_cross_entropy(struct st_device *dev, size_t rows, size_t vocab, size_t ld, void *logits,
		      const int32_t *targets, float *loss, float grad_scale)
{
	const char *op = "cross_entropy";

	if (!is_size(dev, op, rows, vocab, 1) || !is_size(dev, op, rows, ld, 1))
		return;
	if (ld < vocab)
		refuse(dev, op, "the row stride is smaller than the vocabulary");
	else if (!isfinite(grad_scale))
		refuse(dev, op, "grad_scale is not finite");
	else if (HAVE(dev, op, logits, targets, loss))
		dev->ops->cross_entropy(dev, rows, vocab, ld, logits, targets, loss, grad_scale);
}
