/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu/host/onednn.c - matrix products by oneDNN 2.6 or 3.x, one prepared primitive per shape.
 *
 * The two major versions differ in how descriptors are held (by value; by pointer), in how a
 * matmul is described, and in the arguments of the sum post-operation: the #if blocks below are all
 * of it.
 */
#include "gpu/host/onednn.h"

#include <errno.h>
#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

struct key { /* all that a primitive depends on; compared as bytes, so it is zeroed first */
	size_t m, n, k, lda, ldb, ldc;
	uint8_t trans_a, trans_b, a_dtype, b_dtype, c_dtype, bias_dtype, has_bias, accumulate;
};

enum arg { ARG_A, ARG_B, ARG_C, ARG_BIAS, ARG_SCRATCH, ARGS };

struct product {
	struct key key;
	bool is_supported;
	dnnl_primitive_t primitive;
	dnnl_memory_t mem[ARGS]; /* bound to nothing between calls */
	size_t scratch_bytes;
	struct product *next;
};

struct st_onednn {
	unsigned threads;
	dnnl_engine_t engine;
	dnnl_stream_t stream;
	pthread_mutex_t lock; /* of the list; a product never changes once it is in it */
	struct product *products;
};

/* ---- descriptors, the part that differs -------------------------------------------------- */

#if DNNL_VERSION_MAJOR >= 3

typedef dnnl_memory_desc_t md_t;

static dnnl_status_t md_init(md_t *md, size_t rows, size_t cols, size_t row_stride,
			     size_t col_stride, enum st_dtype dtype)
{
	const dnnl_dims_t dims = { (dnnl_dim_t)rows, (dnnl_dim_t)cols };
	const dnnl_dims_t strides = { (dnnl_dim_t)row_stride, (dnnl_dim_t)col_stride };

	return dnnl_memory_desc_create_with_strides(
		md, 2, dims, dtype == ST_BF16 ? dnnl_bf16 : dnnl_f32, strides);
}

static void md_fini(md_t *md)
{
	if (*md)
		dnnl_memory_desc_destroy(*md);
}

static dnnl_status_t memory_init(dnnl_memory_t *mem, const md_t *md, dnnl_engine_t engine)
{
	return dnnl_memory_create(mem, *md, engine, DNNL_MEMORY_NONE);
}

static dnnl_status_t scratch_init(dnnl_memory_t *mem, size_t *bytes, const_dnnl_primitive_desc_t pd,
				  dnnl_engine_t engine)
{
	const_dnnl_memory_desc_t md = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);

	*bytes = dnnl_memory_desc_get_size(md);
	return dnnl_memory_create(mem, md, engine, DNNL_MEMORY_NONE);
}

static dnnl_status_t append_sum(dnnl_post_ops_t ops)
{
	return dnnl_post_ops_append_sum(ops, 1.0f, 0, dnnl_data_type_undef);
}

static dnnl_status_t matmul_pd(dnnl_primitive_desc_t *pd, const md_t md[ARGS], bool has_bias,
			       const_dnnl_primitive_attr_t attr, dnnl_engine_t engine)
{
	return dnnl_matmul_primitive_desc_create(pd, engine, md[ARG_A], md[ARG_B],
						 has_bias ? md[ARG_BIAS] : NULL, md[ARG_C], attr);
}

#else

typedef dnnl_memory_desc_t md_t;

static dnnl_status_t md_init(md_t *md, size_t rows, size_t cols, size_t row_stride,
			     size_t col_stride, enum st_dtype dtype)
{
	const dnnl_dims_t dims = { (dnnl_dim_t)rows, (dnnl_dim_t)cols };
	const dnnl_dims_t strides = { (dnnl_dim_t)row_stride, (dnnl_dim_t)col_stride };

	return dnnl_memory_desc_init_by_strides(md, 2, dims,
						dtype == ST_BF16 ? dnnl_bf16 : dnnl_f32, strides);
}

static void md_fini(md_t *md)
{
	(void)md; /* held by value */
}

static dnnl_status_t memory_init(dnnl_memory_t *mem, const md_t *md, dnnl_engine_t engine)
{
	return dnnl_memory_create(mem, md, engine, DNNL_MEMORY_NONE);
}

static dnnl_status_t scratch_init(dnnl_memory_t *mem, size_t *bytes, const_dnnl_primitive_desc_t pd,
				  dnnl_engine_t engine)
{
	const dnnl_memory_desc_t *md =
		dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);

	*bytes = dnnl_memory_desc_get_size(md);
	return dnnl_memory_create(mem, md, engine, DNNL_MEMORY_NONE);
}

static dnnl_status_t append_sum(dnnl_post_ops_t ops)
{
	return dnnl_post_ops_append_sum(ops, 1.0f);
}

static dnnl_status_t matmul_pd(dnnl_primitive_desc_t *pd, const md_t md[ARGS], bool has_bias,
			       const_dnnl_primitive_attr_t attr, dnnl_engine_t engine)
{
	dnnl_matmul_desc_t desc;
	dnnl_status_t st = dnnl_matmul_desc_init(&desc, &md[ARG_A], &md[ARG_B],
						 has_bias ? &md[ARG_BIAS] : NULL, &md[ARG_C]);

	return st ? st : dnnl_primitive_desc_create(pd, &desc, attr, engine, NULL);
}

#endif

/* ---- preparing a product ----------------------------------------------------------------- */

static struct key key_of(const struct st_matmul *mm, enum st_dtype bias_dtype)
{
	struct key key;

	memset(&key, 0, sizeof(key)); /* padding too */
	key.m = mm->m;
	key.n = mm->n;
	key.k = mm->k;
	key.lda = mm->lda;
	key.ldb = mm->ldb;
	key.ldc = mm->ldc;
	key.trans_a = mm->trans_a;
	key.trans_b = mm->trans_b;
	key.a_dtype = (uint8_t)mm->a_dtype;
	key.b_dtype = (uint8_t)mm->b_dtype;
	key.c_dtype = (uint8_t)mm->c_dtype;
	key.bias_dtype = (uint8_t)bias_dtype;
	key.has_bias = mm->bias != NULL;
	key.accumulate = mm->accumulate;
	return key;
}

static void product_free(struct product *p)
{
	if (!p)
		return;
	for (int i = 0; i < ARGS; i++)
		if (p->mem[i])
			dnnl_memory_destroy(p->mem[i]);
	if (p->primitive)
		dnnl_primitive_destroy(p->primitive);
	free(p);
}

static dnnl_status_t attr_init(dnnl_primitive_attr_t *attr, bool accumulate)
{
	dnnl_post_ops_t ops = NULL;
	dnnl_status_t st = dnnl_primitive_attr_create(attr);

	if (!st)
		st = dnnl_primitive_attr_set_scratchpad_mode(*attr, dnnl_scratchpad_mode_user);
	if (!st && accumulate) {
		st = dnnl_post_ops_create(&ops);
		if (!st)
			st = append_sum(ops);
		if (!st)
			st = dnnl_primitive_attr_set_post_ops(*attr, ops);
		if (ops)
			dnnl_post_ops_destroy(ops);
	}
	return st;
}

static dnnl_status_t md_init_all(md_t md[ARGS], const struct key *k)
{
	dnnl_status_t st;

	st = md_init(&md[ARG_A], k->m, k->k, k->trans_a ? 1 : k->lda, k->trans_a ? k->lda : 1,
		     k->a_dtype);
	if (!st)
		st = md_init(&md[ARG_B], k->k, k->n, k->trans_b ? 1 : k->ldb,
			     k->trans_b ? k->ldb : 1, k->b_dtype);
	if (!st)
		st = md_init(&md[ARG_C], k->m, k->n, k->ldc, 1, k->c_dtype);
	if (!st)
		st = md_init(&md[ARG_BIAS], 1, k->n, k->n, 1, k->bias_dtype);
	return st;
}

/* oneDNN's reference loops are hundreds of times slower than the packed path. */
static bool is_reference(const_dnnl_primitive_desc_t pd)
{
	const char *name = NULL;

	return dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &name) || !name ||
	       strncmp(name, "ref", 3) == 0;
}

/* Fill in a product whose key is set. dnnl_unimplemented: not with this library here. */
static dnnl_status_t product_init(struct product *p, dnnl_engine_t engine)
{
	md_t md[ARGS];
	dnnl_primitive_attr_t attr = NULL;
	dnnl_primitive_desc_t pd = NULL;
	dnnl_status_t st;

	memset(md, 0, sizeof(md));
	st = md_init_all(md, &p->key);
	if (!st)
		st = attr_init(&attr, p->key.accumulate);
	if (!st)
		st = matmul_pd(&pd, md, p->key.has_bias, attr, engine);
	if (!st && is_reference(pd))
		st = dnnl_unimplemented;
	if (!st)
		st = dnnl_primitive_create(&p->primitive, pd);
	if (!st)
		st = scratch_init(&p->mem[ARG_SCRATCH], &p->scratch_bytes, pd, engine);
	for (int i = ARG_A; !st && i <= ARG_BIAS; i++)
		st = memory_init(&p->mem[i], &md[i], engine);
	p->is_supported = !st;
	if (pd)
		dnnl_primitive_desc_destroy(pd);
	if (attr)
		dnnl_primitive_attr_destroy(attr);
	for (int i = ARG_A; i <= ARG_BIAS; i++)
		md_fini(&md[i]);
	return st;
}

/* The product of this key, prepared now if it is new; what oneDNN refuses is remembered as such. */
static int product_get(struct st_onednn *d, const struct st_matmul *mm, enum st_dtype bias_dtype,
		       struct product **out)
{
	struct key key = key_of(mm, bias_dtype);
	int team = omp_get_max_threads(), rc = 0;
	dnnl_status_t st;
	struct product *p;

	pthread_mutex_lock(&d->lock);
	for (p = d->products; p; p = p->next)
		if (!memcmp(&p->key, &key, sizeof(key)))
			goto out;
	p = calloc(1, sizeof(*p));
	if (!p) {
		rc = st_fail(-ENOMEM, "oneDNN: preparing a product of %zu x %zu x %zu", mm->m,
			     mm->n, mm->k);
		goto out;
	}
	p->key = key;
	omp_set_num_threads((int)d->threads); /* a primitive is cut for the team it sees now */
	st = product_init(p, d->engine);
	omp_set_num_threads(team);
	if (st == dnnl_out_of_memory) {
		rc = st_fail(-ENOMEM, "oneDNN: preparing a product of %zu x %zu x %zu", mm->m,
			     mm->n, mm->k);
		product_free(p);
		goto out;
	}
	p->next = d->products;
	d->products = p;
out:
	pthread_mutex_unlock(&d->lock);
	if (!rc)
		*out = p;
	return rc;
}

/* ---- the interface ----------------------------------------------------------------------- */

int st_onednn_open(struct st_onednn **out, unsigned threads)
{
	struct st_onednn *d = calloc(1, sizeof(*d));

	if (!d)
		return st_fail(-ENOMEM, "oneDNN: open");
	d->threads = threads;
	if (dnnl_engine_create(&d->engine, dnnl_cpu, 0) ||
	    dnnl_stream_create(&d->stream, d->engine, dnnl_stream_default_flags)) {
		if (d->engine)
			dnnl_engine_destroy(d->engine);
		free(d);
		return st_fail(STRATA_E_UNSUPPORTED,
			       "oneDNN: no engine for this processor; the library needs SSE4.1.");
	}
	pthread_mutex_init(&d->lock, NULL);
	*out = d;
	return 0;
}

void st_onednn_close(struct st_onednn *d)
{
	if (!d)
		return;
	while (d->products) {
		struct product *p = d->products;

		d->products = p->next;
		product_free(p);
	}
	dnnl_stream_destroy(d->stream);
	dnnl_engine_destroy(d->engine);
	pthread_mutex_destroy(&d->lock);
	free(d);
}

void st_onednn_version(char *text, size_t text_bytes, int *isa)
{
	const dnnl_version_t *v = dnnl_version();

	snprintf(text, text_bytes, "%d.%d.%d", v->major, v->minor, v->patch);
	*isa = (int)dnnl_get_effective_cpu_isa();
}

bool st_onednn_has_bf16(void)
{
	int isa = (int)dnnl_get_effective_cpu_isa(), need = (int)dnnl_cpu_isa_avx512_core_bf16;

	return (isa & need) == need; /* each set contains the bits of the smaller ones; AMX too */
}

int st_onednn_work_bytes(struct st_onednn *d, const struct st_matmul *mm, enum st_dtype bias_dtype,
			 size_t *bytes)
{
	struct product *p = NULL;
	int rc = product_get(d, mm, bias_dtype, &p);

	if (rc < 0)
		return rc;
	if (!p->is_supported)
		return STRATA_E_UNSUPPORTED;
	*bytes = p->scratch_bytes;
	return 0;
}

int st_onednn_matmul(struct st_onednn *d, const struct st_matmul *mm, enum st_dtype bias_dtype)
{
	static const int names[ARGS] = { DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST,
					 DNNL_ARG_BIAS, DNNL_ARG_SCRATCHPAD };
	union { /* oneDNN takes inputs as void * too, and does not write them */
		const void *in;
		void *out;
	} ptr[ARGS] = { { mm->a }, { mm->b }, { mm->c }, { mm->bias }, { mm->work } };
	dnnl_exec_arg_t args[ARGS];
	struct product *p = NULL;
	dnnl_status_t st = dnnl_success;
	int team = omp_get_max_threads(), n = 0, rc;

	rc = product_get(d, mm, bias_dtype, &p);
	if (rc < 0)
		return rc;
	if (!p->is_supported)
		return st_fail(STRATA_E_UNSUPPORTED,
			       "oneDNN: no product of %zu x %zu x %zu with these dtypes.", mm->m,
			       mm->n, mm->k);
	for (int i = 0; i < ARGS && !st; i++) {
		if (i == ARG_BIAS && !mm->bias)
			continue;
		st = dnnl_memory_set_data_handle(p->mem[i], ptr[i].out);
		args[n++] = (dnnl_exec_arg_t){ .arg = names[i], .memory = p->mem[i] };
	}
	omp_set_num_threads((int)d->threads);
	if (!st)
		st = dnnl_primitive_execute(p->primitive, d->stream, n, args);
	if (!st)
		st = dnnl_stream_wait(d->stream);
	omp_set_num_threads(team);
	if (st)
		return st_fail(st == dnnl_out_of_memory ? -ENOMEM : -EIO,
			       "oneDNN: product of %zu x %zu x %zu failed with its status %d.",
			       mm->m, mm->n, mm->k, (int)st);
	return 0;
}
