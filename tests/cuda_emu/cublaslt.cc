/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/cuda_emu/cublaslt.cc - cuBLASLt as a plain product, which says no where the library may.
 *
 * Column-major, D = alpha op(A) op(B) + beta C (+ bias of each row). Two algorithms: one with the
 * needs of tensor cores (16-byte rows and addresses, a workspace), one without. An algorithm is
 * bound to what it was chosen for: given to another product, or less aligned pointers, it is
 * refused. Its sums run in fp32 in the order of k, in the two algorithms from opposite ends, so
 * that a mixed-up choice changes bits.
 *
 * What a Destroy that failed has done nobody can know: the handle may be free, so it must not be
 * used or destroyed again, and it may not be, so it counts as left behind. Both are held here.
 */
#include "tests/cuda_emu/emu.h"

#include <cublasLt.h>
#include <map>
#include <string.h>
#include <string>
#include <vector>

#include "core/dtype.h"

#undef dlopen
#undef dlsym
#undef dlclose
#undef dlerror

#define VERSION      130000u
#define ALGO_TENSOR  0x7e01u
#define ALGO_PLAIN   0x7e02u
#define TENSOR_BYTES 16u
#define WORK_BYTES   4096u
#define WORK_ALIGN   256u
#define NO_ALIGNMENT 256u /* what a preference assumes that does not say */

struct emuLtHandle {
	int unused;
};
struct emuLtLayout {
	cudaDataType type;
	uint64_t rows, cols;
	int64_t ld;
};
struct emuLtDesc {
	cublasOperation_t transa, transb;
	uint32_t epilogue;
	const void *bias;
	int32_t bias_type; /* -1: that of D */
};
struct emuLtPreference {
	uint64_t work_bytes, impl;
	uint32_t reduction, align[4];
};

#define FROM __builtin_extract_return_addr(__builtin_return_address(0))
#define ENTER(kind, code)                                                                          \
	if (emuEnter(__func__, FROM, kind))                                                        \
	return code

/* ---- handles -------------------------------------------------------------------------------- */

struct Kept {
	void (*free)(void *);
	bool is_given_up; /* a Destroy failed */
};

/* never destroyed: what is left behind is no leak of the process */
static std::map<const void *, Kept> &kept = *new std::map<const void *, Kept>;

void emuLtStart(void)
{
	for (auto &k : kept)
		k.second.free((void *)k.first);
	kept.clear();
}

template <typename T> static cublasStatus_t make(T **out, const T &x)
{
	*out = new T(x);
	kept[*out] = Kept{ [](void *p) { delete (T *)p; }, false };
	emuHold(1);
	return CUBLAS_STATUS_SUCCESS;
}

/* Is it one that may be used? */
static bool is_handle(const void *x, const char *name)
{
	auto it = kept.find(x);

	if (it != kept.end() && !it->second.is_given_up)
		return true;
	emuReport("%s: a handle that %s", name,
		  it == kept.end() ? "is not there" : "was to be destroyed before");
	return false;
}

static bool are_handles(std::initializer_list<const void *> all, const char *name)
{
	for (const void *x : all)
		if (!is_handle(x, name))
			return false;
	return true;
}

static cublasStatus_t drop(void *x, const char *name, bool has_failed, cublasStatus_t rc)
{
	if (!is_handle(x, name))
		return CUBLAS_STATUS_INVALID_VALUE;
	if (has_failed) {
		kept[x].is_given_up = true;
		return rc;
	}
	kept[x].free(x);
	kept.erase(x);
	emuHold(-1);
	return CUBLAS_STATUS_SUCCESS;
}

#define DESTROY(x, rc) return drop(x, __func__, emuEnter(__func__, FROM, EMU_CREATE) != 0, rc)

size_t cublasLtGetVersion(void)
{
	return VERSION;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
	ENTER(EMU_CREATE, CUBLAS_STATUS_NOT_INITIALIZED);
	return make(handle, emuLtHandle());
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
	DESTROY(handle, CUBLAS_STATUS_NOT_INITIALIZED);
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, cublasComputeType_t compute,
					cudaDataType_t scale)
{
	ENTER(EMU_CREATE, CUBLAS_STATUS_ALLOC_FAILED);
	if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F)
		return CUBLAS_STATUS_NOT_SUPPORTED;
	return make(desc,
		    emuLtDesc{ CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, nullptr, -1 });
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc)
{
	DESTROY(desc, CUBLAS_STATUS_INTERNAL_ERROR);
}

template <typename T> static cublasStatus_t set(T *field, const void *buf, size_t bytes)
{
	if (!buf || bytes != sizeof(T))
		return CUBLAS_STATUS_INVALID_VALUE;
	memcpy(field, buf, bytes);
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
					      cublasLtMatmulDescAttributes_t attr, const void *buf,
					      size_t bytes)
{
	ENTER(EMU_CALL, CUBLAS_STATUS_INVALID_VALUE);
	if (!is_handle(desc, __func__))
		return CUBLAS_STATUS_INVALID_VALUE;
	switch (attr) {
	case CUBLASLT_MATMUL_DESC_TRANSA:
		return set(&desc->transa, buf, bytes);
	case CUBLASLT_MATMUL_DESC_TRANSB:
		return set(&desc->transb, buf, bytes);
	case CUBLASLT_MATMUL_DESC_EPILOGUE:
		return set(&desc->epilogue, buf, bytes);
	case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
		return set(&desc->bias, buf, bytes);
	case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
		return set(&desc->bias_type, buf, bytes);
	}
	return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type,
					  uint64_t rows, uint64_t cols, int64_t ld)
{
	ENTER(EMU_CREATE, CUBLAS_STATUS_ALLOC_FAILED);
	return make(layout, emuLtLayout{ type, rows, cols, ld });
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
	DESTROY(layout, CUBLAS_STATUS_INTERNAL_ERROR);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *pref)
{
	ENTER(EMU_CREATE, CUBLAS_STATUS_ALLOC_FAILED);
	return make(
		pref,
		emuLtPreference{
			0, ~0ull, 7, { NO_ALIGNMENT, NO_ALIGNMENT, NO_ALIGNMENT, NO_ALIGNMENT } });
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t pref)
{
	DESTROY(pref, CUBLAS_STATUS_INTERNAL_ERROR);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t pref,
						    cublasLtMatmulPreferenceAttributes_t attr,
						    const void *buf, size_t bytes)
{
	ENTER(EMU_CALL, CUBLAS_STATUS_INVALID_VALUE);
	if (!is_handle(pref, __func__))
		return CUBLAS_STATUS_INVALID_VALUE;
	switch (attr) {
	case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
		return set(&pref->work_bytes, buf, bytes);
	case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
		return set(&pref->reduction, buf, bytes);
	case CUBLASLT_MATMUL_PREF_IMPL_MASK:
		return set(&pref->impl, buf, bytes);
	case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
	case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
	case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
	case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
		return set(&pref->align[attr - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], buf,
			   bytes);
	}
	return CUBLAS_STATUS_INVALID_VALUE;
}

/* ---- what is supported ---------------------------------------------------------------------- */

static size_t bytes_of(cudaDataType t)
{
	return t == CUDA_R_32F ? 4 : 2;
}

struct Product {
	const emuLtDesc *desc;
	const emuLtLayout *a, *b, *c, *d;
	uint64_t m, n, k;
};

static cublasStatus_t product(Product *p, const emuLtDesc *desc, const emuLtLayout *a,
			      const emuLtLayout *b, const emuLtLayout *c, const emuLtLayout *d)
{
	uint64_t ka = desc->transa == CUBLAS_OP_T ? a->rows : a->cols;
	uint64_t kb = desc->transb == CUBLAS_OP_T ? b->cols : b->rows;

	*p = Product{ desc, a, b, c, d, d->rows, d->cols, ka };
	if (ka != kb || (desc->transa == CUBLAS_OP_T ? a->cols : a->rows) != d->rows ||
	    (desc->transb == CUBLAS_OP_T ? b->rows : b->cols) != d->cols || c->rows != d->rows ||
	    c->cols != d->cols)
		return CUBLAS_STATUS_INVALID_VALUE;
	for (const emuLtLayout *l : { a, b, c, d })
		if (l->ld < 0 || (uint64_t)l->ld < l->rows)
			return CUBLAS_STATUS_INVALID_VALUE;
	/* The table of types, with fp32 sums: A and B alike; D of their type, or fp32. */
	if (a->type != b->type || c->type != d->type ||
	    (d->type != a->type && d->type != CUDA_R_32F))
		return CUBLAS_STATUS_NOT_SUPPORTED;
	if (desc->epilogue == CUBLASLT_EPILOGUE_BIAS && desc->bias_type >= 0 &&
	    desc->bias_type != (int32_t)d->type)
		return CUBLAS_STATUS_NOT_SUPPORTED;
	if (desc->epilogue != CUBLASLT_EPILOGUE_DEFAULT && desc->epilogue != CUBLASLT_EPILOGUE_BIAS)
		return CUBLAS_STATUS_NOT_SUPPORTED;
	return CUBLAS_STATUS_SUCCESS;
}

/* Everything that a choice is bound to. */
static uint64_t key_of(const Product &p)
{
	uint64_t h = 0xcbf29ce484222325u;
	const uint64_t v[] = { p.m,
			       p.n,
			       p.k,
			       p.a->type,
			       p.d->type,
			       (uint64_t)p.a->ld,
			       (uint64_t)p.b->ld,
			       (uint64_t)p.d->ld,
			       p.desc->transa,
			       p.desc->transb,
			       p.desc->epilogue };

	for (uint64_t x : v)
		h = (h ^ x) * 0x100000001b3u;
	return h;
}

static bool has_tensor_rows(const Product &p)
{
	for (const emuLtLayout *l : { p.a, p.b, p.d })
		if ((uint64_t)l->ld * bytes_of(l->type) % TENSOR_BYTES)
			return false;
	return p.a->type != CUDA_R_32F;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
					      cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
					      cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
					      cublasLtMatmulPreference_t pref, int wanted,
					      cublasLtMatmulHeuristicResult_t results[],
					      int *n_results)
{
	ENTER(EMU_CALL, CUBLAS_STATUS_INTERNAL_ERROR);
	bool is_aligned = true;
	cublasStatus_t rc;
	Product p;
	int n = 0;

	if (wanted <= 0 || !are_handles({ handle, desc, a, b, c, d, pref }, __func__))
		return CUBLAS_STATUS_INVALID_VALUE;
	*n_results = 0;
	rc = product(&p, desc, a, b, c, d);
	if (rc)
		return rc;
	if (pref->reduction & CUBLASLT_REDUCTION_SCHEME_INPLACE)
		emuReport("%s: a reduction by atomics is allowed: sums change from run to run",
			  __func__);
	if (p.a->type == CUDA_R_32F &&
	    (pref->impl & CUBLASLT_NUMERICAL_IMPL_FLAGS_OP_INPUT_TYPE_MASK) !=
		    CUBLASLT_NUMERICAL_IMPL_FLAGS_INPUT_32F)
		emuReport("%s: fp32 operands may be rounded to TF32", __func__);
	if (!emuIs().has_heuristics)
		return CUBLAS_STATUS_SUCCESS;
	for (uint32_t x : pref->align)
		is_aligned = is_aligned && x >= TENSOR_BYTES;
	memset(results, 0, (size_t)wanted * sizeof(results[0]));
	if (is_aligned && has_tensor_rows(p) && pref->work_bytes >= WORK_BYTES) {
		results[n].algo.data[0] = ALGO_TENSOR;
		results[n++].workspaceSize = WORK_BYTES;
	}
	if (n < wanted)
		results[n++].algo.data[0] = ALGO_PLAIN;
	for (int i = 0; i < n; i++)
		results[i].algo.data[1] = key_of(p);
	*n_results = n;
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
				       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
				       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
				       const cublasLtMatmulAlgo_t *algo,
				       cublasLtMatmulHeuristicResult_t *result)
{
	ENTER(EMU_CALL, CUBLAS_STATUS_INTERNAL_ERROR);
	Product p;
	cublasStatus_t rc = are_handles({ handle, desc, a, b, c, d }, __func__)
				    ? product(&p, desc, a, b, c, d)
				    : CUBLAS_STATUS_INVALID_VALUE;

	if (rc)
		return rc;
	if (algo->data[1] != key_of(p) ||
	    (algo->data[0] != ALGO_PLAIN && algo->data[0] != ALGO_TENSOR))
		return CUBLAS_STATUS_NOT_SUPPORTED;
	memset(result, 0, sizeof(*result));
	result->algo = *algo;
	result->workspaceSize = algo->data[0] == ALGO_TENSOR ? WORK_BYTES : 0;
	return CUBLAS_STATUS_SUCCESS;
}

/* ---- the product ---------------------------------------------------------------------------- */

static enum st_dtype dtype_of(int32_t t)
{
	return t == CUDA_R_32F ? ST_F32 : t == CUDA_R_16BF ? ST_BF16 : ST_F16;
}

static float element(const void *p, const emuLtLayout &l, uint64_t row, uint64_t col)
{
	return st_elem_f32(dtype_of(l.type), p, col * (uint64_t)l.ld + row);
}

struct Call { /* of one product, by value: it runs later */
	emuLtDesc desc;
	emuLtLayout a, b, d;
	uint64_t m, n, k;
	float alpha, beta;
	const void *pa, *pb;
	void *pd;
	bool is_backwards;
};

/*
 * Blocks of 8 x 4 elements, each summed in the order of k, as if one by one. The two operands are
 * widened and put side by side beforehand: with k in the order of the algorithm, 8 rows of op(A) or
 * 4 columns of op(B) next to each other, zeros where there are no more.
 */
#define BLOCK_M 8
#define BLOCK_N 4

typedef float four __attribute__((vector_size(16)));

template <uint64_t each, typename Element>
static std::vector<float> packed(uint64_t n, uint64_t n_k, bool is_backwards, Element at)
{
	std::vector<float> all((n + each - 1) / each * each * n_k);

	for (uint64_t i = 0; i < n; i++)
		for (uint64_t step = 0; step < n_k; step++)
			all[i / each * each * n_k + step * each + i % each] =
				at(i, is_backwards ? n_k - 1 - step : step);
	return all;
}

static void multiply_block(const float *a, const float *b, uint64_t n_k,
			   float out[BLOCK_N][BLOCK_M])
{
	four s[BLOCK_N][2] = {}, lo, hi;

	for (uint64_t k = 0; k < n_k; k++, a += BLOCK_M, b += BLOCK_N) {
		memcpy(&lo, a, sizeof(lo));
		memcpy(&hi, a + 4, sizeof(hi));
#pragma GCC unroll 4
		for (int j = 0; j < BLOCK_N; j++) {
			s[j][0] += lo * b[j];
			s[j][1] += hi * b[j];
		}
	}
	memcpy(out, s, sizeof(s));
}

static void finish_element(const Call &x, uint64_t i, uint64_t j, float sum)
{
	float y = x.alpha * sum;

	if (x.beta != 0)
		y += x.beta * element(x.pd, x.d, i, j);
	if (x.desc.epilogue == CUBLASLT_EPILOGUE_BIAS)
		y += st_elem_f32(dtype_of(x.desc.bias_type), x.desc.bias, i);
	st_elem_set(dtype_of(x.d.type), x.pd, j * (uint64_t)x.d.ld + i, y);
}

static void run(const Call &x)
{
	const std::vector<float> a =
		packed<BLOCK_M>(x.m, x.k, x.is_backwards, [&](uint64_t i, uint64_t k) {
			return x.desc.transa == CUBLAS_OP_T ? element(x.pa, x.a, k, i)
							    : element(x.pa, x.a, i, k);
		});
	const std::vector<float> b =
		packed<BLOCK_N>(x.n, x.k, x.is_backwards, [&](uint64_t j, uint64_t k) {
			return x.desc.transb == CUBLAS_OP_T ? element(x.pb, x.b, j, k)
							    : element(x.pb, x.b, k, j);
		});
	float sum[BLOCK_N][BLOCK_M];

	for (uint64_t j = 0; j < x.n; j += BLOCK_N)
		for (uint64_t i = 0; i < x.m; i += BLOCK_M) {
			multiply_block(&a[i * x.k], &b[j * x.k], x.k, sum);
			for (uint64_t c = j; c < j + BLOCK_N && c < x.n; c++)
				for (uint64_t r = i; r < i + BLOCK_M && r < x.m; r++)
					finish_element(x, r, c, sum[c - j][r - i]);
		}
}

static size_t span_of(const emuLtLayout &l)
{
	return ((l.cols - 1) * (uint64_t)l.ld + l.rows) * bytes_of(l.type);
}

static bool is_aligned(const void *p, size_t bytes)
{
	return (uintptr_t)p % bytes == 0;
}

static cublasStatus_t check(const Product &p, const cublasLtMatmulAlgo_t *algo, const void *a,
			    const void *b, const void *d, const void *work, size_t work_bytes)
{
	if (!algo || algo->data[1] != key_of(p)) {
		emuReport("cublasLtMatmul: an algorithm that was chosen for another product");
		return CUBLAS_STATUS_NOT_SUPPORTED;
	}
	for (const void *x : { a, b, d })
		if (!is_aligned(x, algo->data[0] == ALGO_TENSOR ? TENSOR_BYTES : 2))
			return CUBLAS_STATUS_NOT_SUPPORTED;
	if (algo->data[0] == ALGO_TENSOR && (!work || work_bytes < WORK_BYTES))
		return CUBLAS_STATUS_INVALID_VALUE;
	if (work && !is_aligned(work, WORK_ALIGN))
		return CUBLAS_STATUS_INVALID_VALUE;
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha,
			      const void *a, cublasLtMatrixLayout_t al, const void *b,
			      cublasLtMatrixLayout_t bl, const void *beta, const void *c,
			      cublasLtMatrixLayout_t cl, void *d, cublasLtMatrixLayout_t dl,
			      const cublasLtMatmulAlgo_t *algo, void *workspace,
			      size_t workspace_bytes, cudaStream_t s)
{
	ENTER(EMU_CALL, CUBLAS_STATUS_EXECUTION_FAILED);
	emuSpan spans[5];
	int n = 0;
	Product p;
	Call x;
	cublasStatus_t rc;

	if (!are_handles({ handle, desc, al, bl, cl, dl }, __func__) || c != d)
		return CUBLAS_STATUS_INVALID_VALUE;
	rc = product(&p, desc, al, bl, cl, dl);
	if (!rc)
		rc = check(p, algo, a, b, d, workspace, workspace_bytes);
	if (rc)
		return rc;
	x = Call{ *desc,
		  *al,
		  *bl,
		  *dl,
		  p.m,
		  p.n,
		  p.k,
		  *(const float *)alpha,
		  *(const float *)beta,
		  a,
		  b,
		  d,
		  algo->data[0] == ALGO_TENSOR };
	if (x.desc.bias_type < 0)
		x.desc.bias_type = (int32_t)dl->type;
	spans[n++] = emuSpan{ a, span_of(*al), false };
	spans[n++] = emuSpan{ b, span_of(*bl), false };
	spans[n++] = emuSpan{ d, span_of(*dl), true };
	if (desc->epilogue == CUBLASLT_EPILOGUE_BIAS)
		spans[n++] = emuSpan{ desc->bias, p.m * bytes_of((cudaDataType)x.desc.bias_type),
				      false };
	if (algo->data[0] == ALGO_TENSOR)
		spans[n++] = emuSpan{ workspace, WORK_BYTES, true };
	emuCountProduct();
	if (emuQueue("product", s, spans, n, [=]() {
		    if (x.is_backwards) /* the algorithm with a workspace */
			    memset(workspace, 0xff, WORK_BYTES);
		    run(x);
	    }))
		return CUBLAS_STATUS_EXECUTION_FAILED;
	return CUBLAS_STATUS_SUCCESS;
}

/* ---- the library's file --------------------------------------------------------------------- */

static const struct {
	const char *name;
	void *at;
} symbols[] = {
#define SYMBOL(name)                                                                               \
	{                                                                                          \
#name, (void *)name                                                                \
	}
	SYMBOL(cublasLtCreate),
	SYMBOL(cublasLtDestroy),
	SYMBOL(cublasLtGetVersion),
	SYMBOL(cublasLtMatmulDescCreate),
	SYMBOL(cublasLtMatmulDescDestroy),
	SYMBOL(cublasLtMatmulDescSetAttribute),
	SYMBOL(cublasLtMatrixLayoutCreate),
	SYMBOL(cublasLtMatrixLayoutDestroy),
	SYMBOL(cublasLtMatmulPreferenceCreate),
	SYMBOL(cublasLtMatmulPreferenceDestroy),
	SYMBOL(cublasLtMatmulPreferenceSetAttribute),
	SYMBOL(cublasLtMatmulAlgoGetHeuristic),
	SYMBOL(cublasLtMatmulAlgoCheck),
	SYMBOL(cublasLtMatmul),
};

static std::string dl_error;

void *emuDlopen(const char *name, int flags)
{
	cudaError_t rc = emuEnter(__func__, FROM, EMU_CREATE);

	if (!rc && emuIs().has_lt && strstr(name, "libcublasLt.so")) {
		emuHold(1);
		return (void *)symbols;
	}
	dl_error = std::string(name) + ": cannot open shared object file";
	return nullptr;
}

void *emuDlsym(void *lib, const char *name)
{
	if (lib != (void *)symbols || emuEnter(__func__, FROM, EMU_CALL))
		return nullptr;
	for (const auto &s : symbols)
		if (!strcmp(s.name, name))
			return s.at;
	return nullptr;
}

int emuDlclose(void *lib)
{
	emuHold(-1);
	return 0;
}

char *emuDlerror(void)
{
	return &dl_error[0];
}
