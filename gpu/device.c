/* SPDX-License-Identifier: Apache-2.0 */
/* gpu/device.c - open a device by type, check arguments, keep the first failure. */
#include "gpu/device_ops.h"
#include "gpu/plugin.h"

#include <errno.h>
#include <math.h>

#define MAX_THREADS 4096u
#define MAX_ELEMS   ((size_t)1 << 46) /* products of sizes up to here cannot overflow in bytes */

static bool is_dtype(enum st_dtype t)
{
	return (unsigned)t < ST_DTYPE_COUNT;
}

static int open_with(struct st_device **out, const struct st_device_ops *ops,
		     const struct st_device_cfg *cfg)
{
	int rc;

	if (ops->api_version != ST_DEVICE_API_VERSION)
		return st_fail(STRATA_E_UNSUPPORTED,
			       "device \"%s\": interface version %u, this program needs %u; "
			       "rebuild both together.",
			       ops->type, ops->api_version, ST_DEVICE_API_VERSION);
	rc = ops->open(out, cfg);
	if (!rc)
		(*out)->caps.type = ops->type;
	return rc;
}

/* A GPU that cannot be used is no failure, for the processor can do what was asked. */
static int open_auto(struct st_device **out, const struct st_device_cfg *cfg)
{
	const struct st_device_ops *ops;

	if (st_plugin_cuda(&ops))
		return open_with(out, &st_host_ops, cfg);
	if (open_with(out, ops, cfg)) {
		st_log(ST_LOG_WARN,
		       "device \"auto\": the processor, for the GPU cannot be used: %s",
		       st_last_error());
		return open_with(out, &st_host_ops, cfg);
	}
	st_log(ST_LOG_INFO, "device \"auto\": %s; with \"host\" the processor would compute",
	       (*out)->caps.name);
	return 0;
}

int st_device_open(struct st_device **out, const struct st_device_cfg *cfg)
{
	const struct st_device_ops *ops;

	if (!out || !cfg || !cfg->type)
		return st_fail(-EINVAL, "device: open needs a place for the result and a type.");
	if (!is_dtype(cfg->dtype))
		return st_fail(STRATA_E_UNSUPPORTED,
			       "device: compute dtype must be fp32, bf16 or fp16; choose one of "
			       "these.");
	if (cfg->threads > MAX_THREADS)
		return st_fail(-EINVAL, "device: %u threads; give at most %u, or 0 for all cores.",
			       cfg->threads, MAX_THREADS);
	if (!strcmp(cfg->type, "auto"))
		return open_auto(out, cfg);
	if (!strcmp(cfg->type, "host"))
		return open_with(out, &st_host_ops, cfg);
	if (strcmp(cfg->type, "cuda"))
		return st_fail(-EINVAL,
			       "device \"%s\": unknown type; use \"auto\", \"host\" or \"cuda\".",
			       cfg->type);
	if (st_plugin_cuda(&ops))
		return st_fail(STRATA_E_UNSUPPORTED,
			       "device \"cuda\": %s; use \"host\" or \"auto\".",
			       st_plugin_cuda_line());
	return open_with(out, ops, cfg);
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
	int rc;

	if (dev->ops->check)
		dev->ops->check(dev);
	rc = dev->err.rc;
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

/* ---- memory, streams, events ------------------------------------------------------------- */

size_t st_device_choices(const struct st_device *dev, char *text, size_t bytes)
{
	if (bytes)
		text[0] = '\0';
	return dev->ops->choices ? dev->ops->choices(dev, text, bytes) : 0;
}

int st_device_choose(struct st_device *dev, const char *text)
{
	if (!text)
		return st_fail(-EINVAL, "device: choose: no text.");
	if (dev->ops->choose)
		return dev->ops->choose(dev, text);
	return *text ? st_fail(STRATA_E_STALE,
			       "device \"%s\": the run was made on another device, which chose "
			       "algorithms; resume it there, or start anew.",
			       dev->ops->type)
		     : 0;
}

int st_device_arena(struct st_device *dev, size_t bytes, void **base)
{
	int rc;

	if (!bytes || !base)
		return st_fail(-EINVAL, "device: arena: a size of 0, or no place for the result.");
	if (dev->has_arena)
		return st_fail(-EINVAL, "device: arena: there is one already; a run has one.");
	rc = dev->ops->arena(dev, bytes, base);
	dev->has_arena = rc == 0;
	return rc;
}

int st_device_register(struct st_device *dev, void *host, size_t bytes)
{
	if (!host || !bytes || (uintptr_t)host + bytes < (uintptr_t)host)
		return st_fail(-EINVAL, "device: register: %zu bytes at %p are no memory.", bytes,
			       host);
	return dev->ops->register_host(dev, host, bytes);
}

void st_device_release(struct st_device *dev)
{
	if (!dev->ops->release)
		return;
	dev->ops->release(dev);
	dev->has_arena = false;
}

static bool is_stream(enum st_stream stream)
{
	return (unsigned)stream < ST_STREAM_N;
}

int st_device_copy(struct st_device *dev, enum st_stream stream, void *dst, const void *src,
		   size_t bytes)
{
	uintptr_t d = (uintptr_t)dst, s = (uintptr_t)src;

	if (!is_stream(stream))
		return st_fail(-EINVAL, "device: copy: stream %d is unknown.", (int)stream);
	if (!dst || !src || !bytes)
		return st_fail(-EINVAL, "device: copy: a size is 0 or an operand is NULL.");
	if (d + bytes < d || s + bytes < s || (d < s + bytes && s < d + bytes))
		return st_fail(-EINVAL, "device: copy: source and destination overlap.");
	return dev->ops->copy(dev, stream, dst, src, bytes);
}

int st_event_create(struct st_device *dev, struct st_event **out)
{
	if (!out)
		return st_fail(-EINVAL, "device: event: no place for the result.");
	return dev->ops->event_create(dev, out);
}

void st_event_destroy(struct st_event *ev)
{
	if (ev)
		ev->dev->ops->event_destroy(ev);
}

static int is_event(const struct st_device *dev, const struct st_event *ev, const char *op)
{
	if (!ev || ev->dev != dev)
		return st_fail(-EINVAL, "device: %s: the event is NULL or another device's.", op);
	return 0;
}

int st_device_record(struct st_device *dev, enum st_stream stream, struct st_event *ev)
{
	int rc = is_event(dev, ev, "record");

	if (!rc && !is_stream(stream))
		rc = st_fail(-EINVAL, "device: record: stream %d is unknown.", (int)stream);
	return rc ? rc : dev->ops->record(dev, stream, ev);
}

int st_device_wait(struct st_device *dev, enum st_stream stream, const struct st_event *ev)
{
	int rc = is_event(dev, ev, "wait");

	if (!rc && !is_stream(stream))
		rc = st_fail(-EINVAL, "device: wait: stream %d is unknown.", (int)stream);
	return rc ? rc : dev->ops->wait(dev, stream, ev);
}

int st_event_query(struct st_device *dev, struct st_event *ev)
{
	int rc = is_event(dev, ev, "query");

	return rc ? rc : dev->ops->event_query(dev, ev);
}

int st_event_join(struct st_device *dev, struct st_event *ev)
{
	int rc = is_event(dev, ev, "join");

	return rc ? rc : dev->ops->event_join(dev, ev);
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

void st_embedding_fwd(struct st_device *dev, size_t batch, size_t seq, size_t cols, size_t vocab,
		      const int32_t *tokens, const void *wte, const void *wpe, void *y)
{
	const char *op = "embedding_fwd";

	if (is_size(dev, op, batch, seq, cols) && is_size(dev, op, vocab, cols, 1) &&
	    HAVE(dev, op, tokens, wte, wpe, y))
		dev->ops->embedding_fwd(dev, batch, seq, cols, vocab, tokens, wte, wpe, y);
}

void st_embedding_bwd(struct st_device *dev, size_t batch, size_t seq, size_t cols, size_t vocab,
		      const int32_t *tokens, const void *dy, float *dwte, float *dwpe)
{
	const char *op = "embedding_bwd";

	if (is_size(dev, op, batch, seq, cols) && is_size(dev, op, vocab, cols, 1) &&
	    HAVE(dev, op, tokens, dy, dwte, dwpe))
		dev->ops->embedding_bwd(dev, batch, seq, cols, vocab, tokens, dy, dwte, dwpe);
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

/* ---- gradients and the optimizer --------------------------------------------------------- */

static const char in_host_memory[] = "strata/optim.h does this in host memory";

void st_device_reduce(struct st_device *dev, size_t n, const float *acc, void *out,
		      enum strata_optim_grads grads, double *leaf)
{
	const char *op = "reduce";

	if (!is_size(dev, op, n, 1, 1) || !HAVE(dev, op, acc, out, leaf))
		return;
	if (!dev->ops->reduce)
		refuse(dev, op, in_host_memory);
	else if (!is_aligned(leaf, sizeof(*leaf)))
		refuse(dev, op, "the leaves are not aligned");
	else
		dev->ops->reduce(dev, n, acc, out, grads, leaf);
}

bool st_device_can_update(const struct st_device *dev, const struct strata_optim_cfg *cfg,
			  const struct strata_optim_format *f)
{
	return dev->ops->can_update && dev->ops->can_update(dev, cfg, f);
}

void st_device_update(struct st_device *dev, const struct strata_optim_step *s,
		      const struct strata_optim_format *f, const struct strata_optim_range *r)
{
	const char *op = "update";

	if (!HAVE(dev, op, s, f, r) || !is_size(dev, op, r->n, 1, 1))
		return;
	for (size_t i = 0; i < STRATA_ARRAY_N; i++)
		if (!is_aligned(r->array[i], 4)) {
			refuse(dev, op, "an array is not aligned");
			return;
		}
	if (!dev->ops->update) {
		refuse(dev, op, in_host_memory);
		return;
	}
	dev->ops->update(dev, s, f, r);
}
