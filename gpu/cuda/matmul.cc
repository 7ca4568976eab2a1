/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu/cuda/matmul.cc - products by cuBLASLt: one algorithm for each shape, chosen once and
 *recorded.
 *
 * cuBLASLt is column-major, so C = op(A) op(B) is asked as its transpose: rows of ours are columns
 * of its, A and B change places, and the bias of our columns is its bias of rows.
 *
 * A shape is chosen when its scratch is first asked about, that is, when a run is planned: the
 *first algorithm that the library proposes for 64-byte aligned operands and at most WORK_MOST bytes
 *of workspace, without reductions by atomics or in 16 bits, and for fp32 without TF32. The
 *workspace is the caller's scratch: planned, in the arena, and on one stream. What the library has
 *nothing for (mixed dtypes, an empty list) goes to product.cu.
 *
 * The text of choices, by which a run keeps them:
 *	cuBLASLt VERSION sm_N
 *	M N K TRANS_A TRANS_B LDA LDB LDC A B C ACCUMULATE BIAS own | 8 words of the algorithm, in
 *hex
 */
#include "gpu/cuda/cuda.h"

#include <cublasLt.h>
#include <inttypes.h>

#define SHAPES_MAX 512u /* a model has some tens */
#define WORK_MOST  ((uint64_t)32 << 20)
#define WORK_ALIGN 256u
#define PROPOSALS  4
#define ALGO_WORDS (sizeof(cublasLtMatmulAlgo_t) / sizeof(uint64_t))
#define LINE_BYTES 400

/* ---- the library ----------------------------------------------------------------------------- */

#define LT_FUNCTIONS(X)                                                                            \
	X(GetVersion)                                                                              \
	X(Create)                                                                                  \
	X(Destroy)                                                                                 \
	X(MatmulDescCreate)                                                                        \
	X(MatmulDescDestroy)                                                                       \
	X(MatmulDescSetAttribute)                                                                  \
	X(MatrixLayoutCreate)                                                                      \
	X(MatrixLayoutDestroy)                                                                     \
	X(MatmulPreferenceCreate)                                                                  \
	X(MatmulPreferenceDestroy)                                                                 \
	X(MatmulPreferenceSetAttribute)                                                            \
	X(MatmulAlgoGetHeuristic)                                                                  \
	X(MatmulAlgoCheck)                                                                         \
	X(Matmul)

struct library {
	void *handle;
#define X(name) decltype(&cublasLt##name) name;
	LT_FUNCTIONS(X)
#undef X
};

static void unload(struct library *l)
{
	if (l->handle)
		(void)dlclose(l->handle);
	l->handle = NULL;
}

/* Where the loader looks, then where the toolkit installs itself. */
static int load(struct library *l, char *why, size_t bytes)
{
	char name[64], path[128];

	snprintf(name, sizeof(name), "libcublasLt.so.%d", CUDART_VERSION / 1000);
	snprintf(path, sizeof(path), "/usr/local/cuda/lib64/%s", name);
	memset(l, 0, sizeof(*l));
	l->handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
	if (!l->handle)
		l->handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!l->handle) {
		snprintf(why, bytes,
			 "libcublasLt not found: no %s where the loader looks; install the CUDA "
			 "libraries or set LD_LIBRARY_PATH",
			 name);
		return STRATA_E_UNSUPPORTED;
	}
	/* POSIX lets a data pointer of dlsym() become a function's. */
#define X(function)                                                                                \
	if (void *at_##function = dlsym(l->handle, "cublasLt" #function)) {                        \
		memcpy(&l->function, &at_##function, sizeof(at_##function));                       \
	} else {                                                                                   \
		snprintf(why, bytes, "%s has no cublasLt" #function ": install it anew", name);    \
		unload(l);                                                                         \
		return STRATA_E_UNSUPPORTED;                                                       \
	}
	LT_FUNCTIONS(X)
#undef X
	return 0;
}

int st_lt_find(char *line, size_t bytes)
{
	struct library l;
	int rc = load(&l, line, bytes);

	if (rc)
		return rc;
	snprintf(line, bytes, "cuBLASLt %zu", l.GetVersion());
	unload(&l);
	return 0;
}

/* ---- shapes ---------------------------------------------------------------------------------- */

struct shape { /* all that a choice depends on */
	uint64_t m, n, k, lda, ldb, ldc;
	uint8_t trans_a, trans_b, a_dtype, b_dtype, c_dtype, accumulate, bias, unused;
};

struct choice {
	struct shape shape;
	bool is_given; /* by st_device_choose(); not yet looked up */
	bool is_own;   /* product.cu */
	int rc;        /* < 0: choosing failed, with this text */
	char text[200];
	cublasLtMatmulAlgo_t algo;
	size_t work_bytes;
	cublasLtMatmulDesc_t desc;
	cublasLtMatrixLayout_t a, b, c; /* as cuBLASLt sees them: its A is our B */
};

struct st_lt {
	struct library f;
	cublasLtHandle_t handle;
	enum st_dtype dtype;
	int sm;
	size_t version;
	unsigned n;
	unsigned n_used; /* of these were asked about: the others were only given */
	struct choice choices[SHAPES_MAX];
};

static struct shape shape_of(const struct st_matmul *mm)
{
	struct shape s;

	memset(&s, 0, sizeof(s)); /* they are compared as bytes */
	s.m = mm->m;
	s.n = mm->n;
	s.k = mm->k;
	s.lda = mm->lda;
	s.ldb = mm->ldb;
	s.ldc = mm->ldc;
	s.trans_a = mm->trans_a;
	s.trans_b = mm->trans_b;
	s.a_dtype = (uint8_t)mm->a_dtype;
	s.b_dtype = (uint8_t)mm->b_dtype;
	s.c_dtype = (uint8_t)mm->c_dtype;
	s.accumulate = mm->accumulate;
	s.bias = mm->bias != NULL;
	return s;
}

/* Some tens of shapes, compared as words: no table is faster. */
static struct choice *find(struct st_lt *lt, const struct shape *s)
{
	for (unsigned i = 0; i < lt->n; i++)
		if (!memcmp(&lt->choices[i].shape, s, sizeof(*s)))
			return &lt->choices[i];
	return NULL;
}

static cudaDataType type_of(unsigned dtype)
{
	return dtype == ST_F32 ? CUDA_R_32F : dtype == ST_BF16 ? CUDA_R_16BF : CUDA_R_16F;
}

static const char *status_text(cublasStatus_t rc)
{
	switch (rc) {
	case CUBLAS_STATUS_NOT_INITIALIZED:
		return "CUBLAS_STATUS_NOT_INITIALIZED; see dmesg for NVRM and Xid lines";
	case CUBLAS_STATUS_ALLOC_FAILED:
		return "CUBLAS_STATUS_ALLOC_FAILED; leave more memory free";
	case CUBLAS_STATUS_NOT_SUPPORTED:
		return "CUBLAS_STATUS_NOT_SUPPORTED; a fault of Strata, please report it";
	case CUBLAS_STATUS_INVALID_VALUE:
		return "CUBLAS_STATUS_INVALID_VALUE; a fault of Strata, please report it";
	case CUBLAS_STATUS_EXECUTION_FAILED:
		return "CUBLAS_STATUS_EXECUTION_FAILED; see dmesg for NVRM and Xid lines";
	default:
		return "an error of its own; see dmesg for NVRM and Xid lines";
	}
}

/* ---- choosing -------------------------------------------------------------------------------- */

static void drop(struct st_lt *lt, struct choice *c)
{
	if (c->a)
		(void)lt->f.MatrixLayoutDestroy(c->a);
	if (c->b)
		(void)lt->f.MatrixLayoutDestroy(c->b);
	if (c->c)
		(void)lt->f.MatrixLayoutDestroy(c->c);
	if (c->desc)
		(void)lt->f.MatmulDescDestroy(c->desc);
	c->a = c->b = c->c = NULL;
	c->desc = NULL;
}

static cublasStatus_t describe_operation(struct st_lt *lt, struct choice *c)
{
	const struct shape *s = &c->shape;
	const cublasOperation_t ta = s->trans_b ? CUBLAS_OP_T : CUBLAS_OP_N;
	const cublasOperation_t tb = s->trans_a ? CUBLAS_OP_T : CUBLAS_OP_N;
	const uint32_t epilogue = s->bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
	const int32_t bias_type = type_of(lt->dtype);
	cublasStatus_t rc = lt->f.MatmulDescCreate(&c->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);

	if (rc) {
		c->desc = NULL;
		return rc;
	}
	rc = lt->f.MatmulDescSetAttribute(c->desc, CUBLASLT_MATMUL_DESC_TRANSA, &ta, sizeof(ta));
	if (!rc)
		rc = lt->f.MatmulDescSetAttribute(c->desc, CUBLASLT_MATMUL_DESC_TRANSB, &tb,
						  sizeof(tb));
	if (!rc)
		rc = lt->f.MatmulDescSetAttribute(c->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
						  sizeof(epilogue));
	if (!rc && s->bias)
		rc = lt->f.MatmulDescSetAttribute(c->desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE,
						  &bias_type, sizeof(bias_type));
	return rc;
}

static cublasStatus_t describe_layouts(struct st_lt *lt, struct choice *c)
{
	const struct shape *s = &c->shape;
	cublasStatus_t rc;

	rc = lt->f.MatrixLayoutCreate(&c->a, type_of(s->b_dtype), s->trans_b ? s->k : s->n,
				      s->trans_b ? s->n : s->k, (int64_t)s->ldb);
	if (rc) {
		c->a = NULL;
		return rc;
	}
	rc = lt->f.MatrixLayoutCreate(&c->b, type_of(s->a_dtype), s->trans_a ? s->m : s->k,
				      s->trans_a ? s->k : s->m, (int64_t)s->lda);
	if (rc) {
		c->b = NULL;
		return rc;
	}
	rc = lt->f.MatrixLayoutCreate(&c->c, type_of(s->c_dtype), s->n, s->m, (int64_t)s->ldc);
	if (rc)
		c->c = NULL;
	return rc;
}

struct preference_value {
	cublasLtMatmulPreferenceAttributes_t name;
	const void *value;
	size_t bytes;
};

static cublasStatus_t prefer(struct st_lt *lt, const struct choice *c,
			     cublasLtMatmulPreference_t *out)
{
	static const uint64_t work = WORK_MOST;
	static const uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
	static const uint32_t align = ST_DEVICE_ALIGN;
	static const uint64_t any = ~(uint64_t)0;
	static const uint64_t only_fp32 =
		~(uint64_t)(CUBLASLT_NUMERICAL_IMPL_FLAGS_OP_INPUT_TYPE_MASK) |
		CUBLASLT_NUMERICAL_IMPL_FLAGS_INPUT_32F;
	const struct preference_value values[] = {
		{ CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &work, sizeof(work) },
		{ CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction, sizeof(reduction) },
		{ CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &align, sizeof(align) },
		{ CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &align, sizeof(align) },
		{ CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &align, sizeof(align) },
		{ CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &align, sizeof(align) },
		{ CUBLASLT_MATMUL_PREF_IMPL_MASK, c->shape.a_dtype == ST_F32 ? &only_fp32 : &any,
		  sizeof(any) },
	};
	cublasStatus_t rc = lt->f.MatmulPreferenceCreate(out);

	if (rc) {
		*out = NULL;
		return rc;
	}
	for (size_t i = 0; !rc && i < sizeof(values) / sizeof(values[0]); i++)
		rc = lt->f.MatmulPreferenceSetAttribute(*out, values[i].name, values[i].value,
							values[i].bytes);
	return rc;
}

/* The library's first proposal; own kernel if it has none. */
static cublasStatus_t choose_first(struct st_lt *lt, struct choice *c)
{
	cublasLtMatmulHeuristicResult_t found[PROPOSALS];
	cublasLtMatmulPreference_t pref = NULL;
	int n = 0;
	cublasStatus_t rc = prefer(lt, c, &pref);

	if (!rc)
		rc = lt->f.MatmulAlgoGetHeuristic(lt->handle, c->desc, c->a, c->b, c->c, c->c, pref,
						  PROPOSALS, found, &n);
	if (pref)
		(void)lt->f.MatmulPreferenceDestroy(pref);
	if (rc == CUBLAS_STATUS_NOT_SUPPORTED) {
		rc = CUBLAS_STATUS_SUCCESS;
		n = 0;
	}
	if (rc)
		return rc;
	for (int i = 0; i < n; i++)
		if (found[i].state == CUBLAS_STATUS_SUCCESS) {
			c->algo = found[i].algo;
			c->work_bytes = found[i].workspaceSize;
			return CUBLAS_STATUS_SUCCESS;
		}
	c->is_own = true;
	return CUBLAS_STATUS_SUCCESS;
}

static int choose_failed(struct choice *c, int rc, const char *what)
{
	const struct shape *s = &c->shape;

	c->rc = rc;
	snprintf(c->text, sizeof(c->text),
		 "device \"cuda\": choosing a product of %" PRIu64 " x %" PRIu64 " x %" PRIu64
		 ": %s.",
		 s->m, s->n, s->k, what);
	return rc;
}

/* A given algorithm, as the library that has it sees it. */
static void take_given(struct st_lt *lt, struct choice *c)
{
	cublasLtMatmulHeuristicResult_t result;
	cublasStatus_t rc = lt->f.MatmulAlgoCheck(lt->handle, c->desc, c->a, c->b, c->c, c->c,
						  &c->algo, &result);

	if (rc || result.workspaceSize > WORK_MOST)
		choose_failed(c, STRATA_E_STALE,
			      "the run's algorithm cannot be used here; resume it with the library "
			      "and the GPU that it was made with");
	else
		c->work_bytes = result.workspaceSize;
}

static void choose(struct st_lt *lt, struct choice *c)
{
	const struct shape *s = &c->shape;
	bool is_given = c->is_given;
	cublasStatus_t rc;

	c->is_given = false;
	lt->n_used++;
	/* What cuBLASLt documents as unsupported is not asked for. */
	if (!is_given &&
	    (s->a_dtype != s->b_dtype || (s->c_dtype != s->a_dtype && s->c_dtype != ST_F32) ||
	     (s->bias && s->c_dtype != lt->dtype)))
		c->is_own = true;
	if (c->is_own)
		return;
	rc = describe_operation(lt, c);
	if (!rc)
		rc = describe_layouts(lt, c);
	if (!rc && is_given)
		take_given(lt, c);
	else if (!rc)
		rc = choose_first(lt, c);
	if (rc) {
		(void)cudaGetLastError(); /* what it may have left is no later call's */
		choose_failed(c, STRATA_E_IO, status_text(rc));
	}
	if (c->rc || c->is_own)
		drop(lt, c);
}

/* NULL: there are too many shapes. */
static struct choice *chosen(struct st_lt *lt, const struct st_matmul *mm)
{
	const struct shape s = shape_of(mm);
	struct choice *c = find(lt, &s);

	if (!c && lt->n == SHAPES_MAX)
		return NULL;
	if (!c) {
		c = &lt->choices[lt->n++];
		memset(c, 0, sizeof(*c));
		c->shape = s;
		choose(lt, c);
	} else if (c->is_given) {
		choose(lt, c);
	}
	return c;
}

size_t st_cuda_matmul_work_bytes(const struct st_device *dev, const struct st_matmul *mm)
{
	struct choice *c = chosen(st_cuda_const(dev)->lt, mm);

	/* The caller aligns to ST_DEVICE_ALIGN; what is left is for aligning further. */
	return c && c->work_bytes ? c->work_bytes + WORK_ALIGN - ST_DEVICE_ALIGN : 0;
}

/* ---- running --------------------------------------------------------------------------------- */

static int run(struct st_cuda *d, struct st_lt *lt, struct choice *c, const struct st_matmul *mm)
{
	const float one = 1, zero = 0;
	uintptr_t work = ((uintptr_t)mm->work + WORK_ALIGN - 1) / WORK_ALIGN * WORK_ALIGN;
	cublasStatus_t rc = CUBLAS_STATUS_SUCCESS;
	cudaError_t cause;

	if (mm->bias)
		rc = lt->f.MatmulDescSetAttribute(c->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
						  &mm->bias, sizeof(mm->bias));
	if (!rc)
		rc = lt->f.Matmul(lt->handle, c->desc, &one, mm->b, c->a, mm->a, c->b,
				  mm->accumulate ? &one : &zero, mm->c, c->c, mm->c, c->c, &c->algo,
				  c->work_bytes ? (void *)work : NULL, c->work_bytes,
				  d->stream[ST_STREAM_COMPUTE]);
	if (rc == CUBLAS_STATUS_SUCCESS)
		return 0;
	cause = cudaGetLastError();
	if (cause != cudaSuccess)
		return st_cuda_try(cause, "cublasLtMatmul", __FILE__, __LINE__,
				   "product of %zu x %zu x %zu", mm->m, mm->n, mm->k);
	return st_fail(STRATA_E_IO,
		       "device \"cuda\": product of %zu x %zu x %zu: cublasLtMatmul (%s:%d) says "
		       "%s.",
		       mm->m, mm->n, mm->k, __FILE__, __LINE__, status_text(rc));
}

void st_cuda_matmul(struct st_device *dev, const struct st_matmul *mm)
{
	st_cuda_range range("matmul");
	struct st_cuda *d = st_cuda(dev);
	struct choice *c = chosen(d->lt, mm);
	int rc;

	if (!c)
		rc = st_fail(-ENOSPC,
			     "device \"cuda\": products of more than %u shapes; a model has some "
			     "tens: use fewer sizes",
			     SHAPES_MAX);
	else if (c->rc)
		rc = st_fail(c->rc, "%s", c->text);
	else if (c->is_own)
		rc = ST_CUDA_TRY(st_cuda_product(d->stream[ST_STREAM_COMPUTE], mm, dev->dtype),
				 "product of %zu x %zu x %zu", mm->m, mm->n, mm->k);
	else
		rc = run(d, d->lt, c, mm);
	if (rc)
		st_device_fail(dev, rc);
}

/* ---- choices as text ------------------------------------------------------------------------- */

static int header(const struct st_lt *lt, char *line, size_t bytes)
{
	return snprintf(line, bytes, "cuBLASLt %zu sm_%d\n", lt->version, lt->sm);
}

static int line_of(const struct choice *c, char *line, size_t bytes)
{
	const struct shape *s = &c->shape;
	int n = snprintf(line, bytes,
			 "%" PRIu64 " %" PRIu64 " %" PRIu64 " %u %u %" PRIu64 " %" PRIu64
			 " %" PRIu64 " %u %u %u %u %u",
			 s->m, s->n, s->k, s->trans_a, s->trans_b, s->lda, s->ldb, s->ldc,
			 s->a_dtype, s->b_dtype, s->c_dtype, s->accumulate, s->bias);

	if (c->is_own)
		return n + snprintf(line + n, bytes - (size_t)n, " own\n");
	for (size_t i = 0; i < ALGO_WORDS; i++)
		n += snprintf(line + n, bytes - (size_t)n, " %016" PRIx64 "%s", c->algo.data[i],
			      i + 1 == ALGO_WORDS ? "\n" : "");
	return n;
}

/* Append what fits; the length counts all of it. */
static size_t append(char *text, size_t bytes, size_t at, const char *line)
{
	size_t len = strlen(line);

	for (size_t i = 0; i < len && at + i + 1 < bytes; i++) {
		text[at + i] = line[i];
		text[at + i + 1] = '\0';
	}
	return at + len;
}

size_t st_cuda_choices(const struct st_device *dev, char *text, size_t bytes)
{
	const struct st_lt *lt = st_cuda_const(dev)->lt;
	char line[LINE_BYTES];
	size_t at = 0;

	header(lt, line, sizeof(line));
	at = append(text, bytes, at, line);
	for (unsigned i = 0; i < lt->n; i++) {
		if (lt->choices[i].rc)
			continue;
		line_of(&lt->choices[i], line, sizeof(line));
		at = append(text, bytes, at, line);
	}
	return at;
}

/* One line; false: it is none. */
static bool parse(const char *line, size_t len, struct choice *c)
{
	struct shape *s = &c->shape;
	unsigned v[7];
	char copy[LINE_BYTES], again[LINE_BYTES];
	int at = 0, used;

	if (len + 1 > sizeof(copy))
		return false;
	memcpy(copy, line, len);
	copy[len] = '\0';
	memset(c, 0, sizeof(*c));
	if (sscanf(copy,
		   "%" SCNu64 " %" SCNu64 " %" SCNu64 " %u %u %" SCNu64 " %" SCNu64 " %" SCNu64
		   " %u %u %u %u %u%n",
		   &s->m, &s->n, &s->k, &v[0], &v[1], &s->lda, &s->ldb, &s->ldc, &v[2], &v[3],
		   &v[4], &v[5], &v[6], &at) != 13)
		return false;
	if (v[0] > 1 || v[1] > 1 || v[2] >= ST_DTYPE_COUNT || v[3] >= ST_DTYPE_COUNT ||
	    v[4] >= ST_DTYPE_COUNT || v[5] > 1 || v[6] > 1)
		return false;
	s->trans_a = (uint8_t)v[0];
	s->trans_b = (uint8_t)v[1];
	s->a_dtype = (uint8_t)v[2];
	s->b_dtype = (uint8_t)v[3];
	s->c_dtype = (uint8_t)v[4];
	s->accumulate = (uint8_t)v[5];
	s->bias = (uint8_t)v[6];
	c->is_given = true;
	c->is_own = !strcmp(copy + at, " own\n");
	for (size_t i = 0; !c->is_own && i < ALGO_WORDS; i++, at += used)
		if (sscanf(copy + at, " %16" SCNx64 "%n", &c->algo.data[i], &used) != 1)
			return false;
	/* Whatever else it says, it must be what would be written. */
	line_of(c, again, sizeof(again));
	return !strcmp(copy, again);
}

int st_cuda_choose(struct st_device *dev, const char *text)
{
	struct st_lt *lt = st_cuda(dev)->lt;
	char first[LINE_BYTES];
	const char *at = text, *end;
	struct choice *c;
	unsigned n = 0;

	if (lt->n_used)
		return st_fail(-EINVAL, "device \"cuda\": choose: products were planned already.");
	header(lt, first, sizeof(first));
	if (!*text)
		return 0;
	if (strncmp(text, first, strlen(first)))
		return st_fail(STRATA_E_STALE,
			       "device \"cuda\": the run was made with \"%.*s\", here is \"%.*s\"; "
			       "resume it there, or start anew.",
			       (int)strcspn(text, "\n") < 60 ? (int)strcspn(text, "\n") : 60, text,
			       (int)strlen(first) - 1, first);
	for (at += strlen(first); *at; at = end + 1, n++) {
		end = strchr(at, '\n');
		c = n < SHAPES_MAX ? &lt->choices[n] : NULL;
		if (!end || !c || !parse(at, (size_t)(end - at) + 1, c)) {
			lt->n = 0;
			return st_fail(STRATA_E_INPUT,
				       "device \"cuda\": choices, line %u: not as this program "
				       "writes it.",
				       n + 2);
		}
	}
	lt->n = n;
	return 0;
}

/* ---- open and close -------------------------------------------------------------------------- */

int st_lt_open(struct st_lt **out, enum st_dtype dtype, int sm)
{
	struct st_lt *lt = (struct st_lt *)calloc(1, sizeof(*lt));
	char why[200];
	cublasStatus_t status;
	int rc;

	if (!lt)
		return st_fail(-ENOMEM, "device \"cuda\": open");
	rc = load(&lt->f, why, sizeof(why));
	if (rc) {
		free(lt);
		return st_fail(rc, "device \"cuda\": %s.", why);
	}
	status = lt->f.Create(&lt->handle);
	if (status) {
		unload(&lt->f);
		free(lt);
		return st_fail(STRATA_E_IO, "device \"cuda\": cublasLtCreate says %s.",
			       status_text(status));
	}
	lt->dtype = dtype;
	lt->sm = sm;
	lt->version = lt->f.GetVersion();
	*out = lt;
	return 0;
}

void st_lt_close(struct st_lt *lt)
{
	if (!lt)
		return;
	for (unsigned i = 0; i < lt->n; i++)
		drop(lt, &lt->choices[i]);
	(void)lt->f.Destroy(lt->handle);
	unload(&lt->f);
	free(lt);
}

size_t st_lt_version(const struct st_lt *lt)
{
	return lt->version;
}
