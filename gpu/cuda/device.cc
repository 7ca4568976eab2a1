/* SPDX-License-Identifier: Apache-2.0 */
/* gpu/cuda/device.cc - open and close; arena, registered memory, streams, events, failures. */
#include "gpu/cuda/cuda.h"

#include <sched.h>

#define OLDEST_SM 80
#define KEEP_FREE 32 /* such a part of the GPU's free memory is none of an arena's */
/* Raise when a change of the CUDA kernels changes bits. */
#define NUMERIC_VERSION 1

/* ---- failures ------------------------------------------------------------------------------- */

static int code_of(cudaError_t rc)
{
	switch (rc) {
	case cudaErrorMemoryAllocation:
		return -ENOMEM;
	case cudaErrorInsufficientDriver:
	case cudaErrorNoDevice:
	case cudaErrorNoKernelImageForDevice:
		return STRATA_E_UNSUPPORTED;
	default:
		return STRATA_E_IO;
	}
}

static const char *hint_of(cudaError_t rc)
{
	switch (rc) {
	case cudaErrorMemoryAllocation:
		return "end other programs on the GPU, or lower the budgets";
	case cudaErrorInsufficientDriver:
		return "install a newer driver";
	case cudaErrorNoDevice:
		return "nvidia-smi should list a GPU; a container must be given one";
	case cudaErrorNoKernelImageForDevice:
		return "this build has no kernels for this GPU; rebuild with its CUDA toolkit";
	case cudaErrorECCUncorrectable:
		return "the GPU's memory is damaged: see nvidia-smi -q -d ECC, and reset or "
		       "replace it";
	case cudaErrorIllegalAddress:
	case cudaErrorMisalignedAddress:
	case cudaErrorLaunchFailure:
	case cudaErrorInvalidValue:
	case cudaErrorInvalidConfiguration:
	case cudaErrorInvalidResourceHandle:
	case cudaErrorLaunchOutOfResources:
		return "a fault of Strata: please report it, with what compute-sanitizer says";
	case cudaErrorHostMemoryAlreadyRegistered:
	case cudaErrorHostMemoryNotRegistered:
		return "a fault of Strata: please report it";
	default:
		return "see dmesg for NVRM and Xid lines, and start again from the last commit";
	}
}

int st_cuda_try(cudaError_t rc, const char *call, const char *file, int line, const char *what, ...)
{
	char text[160];
	int name_len = (int)strcspn(call, "(");
	va_list ap;

	if (rc == cudaSuccess)
		return 0;
	(void)cudaGetLastError(); /* one that lasts comes back with every call, others are over */
	va_start(ap, what);
	vsnprintf(text, sizeof(text), what, ap);
	va_end(ap);
	return st_fail(code_of(rc), "device \"cuda\": %s: %.*s (%s:%d) says %s, %s; %s.", text,
		       name_len, call, file, line, cudaGetErrorName(rc), cudaGetErrorString(rc),
		       hint_of(rc));
}

/* ---- the machine ---------------------------------------------------------------------------- */

static int find_gpu(struct cudaDeviceProp *prop, char *line, size_t bytes)
{
	const int wanted = CUDART_VERSION / 1000;
	int driver = 0, n = 0;

	if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
		(void)cudaGetLastError();
		snprintf(line, bytes, "no CUDA driver (libcuda.so.1)");
		return STRATA_E_UNSUPPORTED;
	}
	if (driver / 1000 < wanted) {
		snprintf(line, bytes, "driver older than CUDA %d: it is for %d.%d", wanted,
			 driver / 1000, driver % 1000 / 10);
		return STRATA_E_UNSUPPORTED;
	}
	cudaError_t rc = cudaGetDeviceCount(&n);

	if (rc == cudaSuccess && n > 0)
		rc = cudaGetDeviceProperties(prop, 0);
	if (rc != cudaSuccess || n == 0) {
		(void)cudaGetLastError();
		snprintf(line, bytes, "no GPU: %s",
			 cudaGetErrorString(rc ? rc : cudaErrorNoDevice));
		return STRATA_E_UNSUPPORTED;
	}
	if (prop->major * 10 + prop->minor < OLDEST_SM) {
		snprintf(line, bytes, "GPU too old: %.100s is sm_%d%d, sm_%d is needed", prop->name,
			 prop->major, prop->minor, OLDEST_SM);
		return STRATA_E_UNSUPPORTED;
	}
	return 0;
}

int st_cuda_probe(char *line, size_t bytes)
{
	struct cudaDeviceProp prop;
	char lt[96];
	int driver = 0, rc = find_gpu(&prop, line, bytes);

	if (rc)
		return rc;
	rc = st_lt_find(lt, sizeof(lt));
	if (rc) {
		snprintf(line, bytes, "%s", lt);
		return rc;
	}
	if (cudaDriverGetVersion(&driver) != cudaSuccess)
		(void)cudaGetLastError();
	snprintf(line, bytes, "%.100s, sm_%d%d, %.1f GiB, driver for CUDA %d.%d, %s", prop.name,
		 prop.major, prop.minor, (double)prop.totalGlobalMem / (double)(1ull << 30),
		 driver / 1000, driver % 1000 / 10, lt);
	return 0;
}

static unsigned host_threads(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set))
		return 1;
	return (unsigned)CPU_COUNT(&set);
}

static uint64_t fnv1a(const char *s)
{
	uint64_t x = 0xcbf29ce484222325u;

	for (; *s; s++)
		x = (x ^ (unsigned char)*s) * 0x100000001b3u;
	return x;
}

static void describe(struct st_cuda *c, const struct st_device_cfg *cfg,
		     const struct cudaDeviceProp *prop, size_t memory_bytes)
{
	char text[512];

	c->sm = prop->major * 10 + prop->minor;
	snprintf(c->name, sizeof(c->name), "cuda (%.100s, sm_%d, cuBLASLt %zu)", prop->name, c->sm,
		 st_lt_version(c->lt));
	c->dev.ops = &st_cuda_ops;
	c->dev.dtype = cfg->dtype;
	c->dev.caps.name = c->name;
	c->dev.caps.host_visible = false;
	c->dev.caps.has_native_bf16 = true;
	c->dev.caps.threads = cfg->threads ? cfg->threads : host_threads();
	c->dev.caps.memory_bytes = memory_bytes;
	/* What algorithms were chosen is not in it: that is what st_device_choices() is for. */
	snprintf(text, sizeof(text), "cuda %d %.255s sm_%d x %d %s cuBLASLt %zu runtime %d",
		 NUMERIC_VERSION, prop->name, c->sm, prop->multiProcessorCount,
		 st_dtype_name(cfg->dtype), st_lt_version(c->lt), CUDART_VERSION);
	c->dev.numeric_id = fnv1a(text);
}

/* A failure while something is given back changes nothing; the log tells it. */
static void ignore(int rc, const char *doing)
{
	if (rc)
		st_log(ST_LOG_WARN,
		       "%s the CUDA device: a call failed, and what it was about comes back when "
		       "the process ends: %s",
		       doing, st_last_error());
}

/* For a clean-up that may fail as well: what the caller will hear is the first failure. */
static void keep_error(struct st_error *e)
{
	snprintf(e->text, sizeof(e->text), "%s", st_last_error());
}

/* Keep the first of two results, of calls that are all made. */
static int first_of(int rc, int later)
{
	return rc ? rc : later;
}

/* All that was issued is over, or can be no more: what a call could still use may go. */
static int drain(struct st_cuda *c, const char *why)
{
	int rc = 0;

	for (int i = 0; i < ST_STREAM_N; i++)
		if (c->stream[i])
			rc = first_of(rc,
				      ST_CUDA_TRY(cudaStreamSynchronize(c->stream[i]), "%s", why));
	return rc;
}

/* What could not be given back is given up: nothing of it is used or given back again. */
static int give_back(struct st_cuda *c, const char *why)
{
	int rc = drain(c, why);

	for (unsigned i = 0; i < c->n_hosts; i++)
		rc = first_of(rc,
			      ST_CUDA_TRY(cudaHostUnregister((void *)c->hosts[i].base), "%s", why));
	c->n_hosts = 0;
	if (c->arena)
		rc = first_of(rc, ST_CUDA_TRY(cudaFree((void *)c->arena), "%s", why));
	c->arena = 0;
	c->arena_bytes = 0;
	c->bad_device = NULL;
	return rc;
}

static void cuda_release(struct st_device *dev)
{
	struct st_cuda *c = st_cuda(dev);

	ignore(give_back(c, "release"), "releasing what a run had of");
	*c->bad = 0; /* a token that was refused was that run's */
}

static void cuda_close(struct st_device *dev)
{
	struct st_cuda *c = st_cuda(dev);
	int rc = give_back(c, "close");

	st_lt_close(c->lt);
	if (c->bad)
		rc = first_of(rc, ST_CUDA_TRY(cudaFreeHost(c->bad), "close"));
	for (int i = 0; i < ST_STREAM_N; i++)
		if (c->stream[i])
			rc = first_of(rc, ST_CUDA_TRY(cudaStreamDestroy(c->stream[i]), "close"));
	ignore(rc, "closing");
	free(c);
}

static int open_streams(struct st_cuda *c)
{
	int rc = ST_CUDA_TRY(cudaSetDevice(0), "open");

	for (int i = 0; !rc && i < ST_STREAM_N; i++)
		rc = ST_CUDA_TRY(cudaStreamCreateWithFlags(&c->stream[i], cudaStreamNonBlocking),
				 "open: stream %d", i);
	if (!rc)
		rc = ST_CUDA_TRY(
			cudaHostAlloc((void **)&c->bad, sizeof(*c->bad), cudaHostAllocPortable),
			"open: pinned memory");
	if (!rc)
		*c->bad = 0;
	return rc;
}

static int cuda_open(struct st_device **out, const struct st_device_cfg *cfg)
{
	struct st_cuda *c = (struct st_cuda *)calloc(1, sizeof(*c));
	struct cudaDeviceProp prop;
	struct st_error e;
	size_t free_bytes = 0, total_bytes = 0;
	char line[ST_PLUGIN_LINE];
	int rc;

	if (!c)
		return st_fail(-ENOMEM, "device \"cuda\": open");
	rc = find_gpu(&prop, line, sizeof(line));
	if (rc) {
		free(c);
		return st_fail(rc, "device \"cuda\": %s; use \"host\" or \"auto\".", line);
	}
	c->dev.ops = &st_cuda_ops;
	rc = open_streams(c);
	if (!rc)
		rc = st_lt_open(&c->lt, cfg->dtype, prop.major * 10 + prop.minor);
	if (!rc)
		rc = ST_CUDA_TRY(cudaMemGetInfo(&free_bytes, &total_bytes), "open: memory");
	if (rc) {
		keep_error(&e);
		cuda_close(&c->dev);
		return st_fail(rc, "%s", e.text);
	}
	/* Code is loaded, and its stacks made, when a kernel is launched first. */
	describe(c, cfg, &prop, free_bytes - free_bytes / KEEP_FREE);
	*out = &c->dev;
	return 0;
}

/* ---- memory --------------------------------------------------------------------------------- */

static int cuda_arena(struct st_device *dev, size_t bytes, void **base)
{
	struct st_cuda *c = st_cuda(dev);
	size_t free_bytes = 0, total_bytes = 0, flag_at;
	struct st_error e;
	void *p = NULL;
	int rc = ST_CUDA_TRY(cudaMemGetInfo(&free_bytes, &total_bytes), "arena");

	if (rc)
		return rc;
	if (bytes > SIZE_MAX / 2)
		return st_fail(-ENOMEM, "device \"cuda\": arena: %zu bytes cannot be had.", bytes);
	/* Behind it the word in which kernels say what they refuse: one allocation for both. */
	flag_at =
		(bytes + ST_DEVICE_ARENA_ALIGN - 1) / ST_DEVICE_ARENA_ALIGN * ST_DEVICE_ARENA_ALIGN;
	rc = ST_CUDA_TRY(cudaMalloc(&p, flag_at + sizeof(*c->bad)),
			 "arena: %zu MiB asked, %zu MiB free of %zu MiB", bytes >> 20,
			 free_bytes >> 20, total_bytes >> 20);
	if (rc)
		return rc;
	c->bad_device = (uint64_t *)(void *)((char *)p + flag_at);
	rc = ST_CUDA_TRY(
		cudaMemsetAsync(c->bad_device, 0, sizeof(*c->bad), c->stream[ST_STREAM_COMPUTE]),
		"arena");
	if (rc) {
		keep_error(&e);
		ignore(ST_CUDA_TRY(cudaFree(p), "arena"), "giving memory back to");
		return st_fail(rc, "%s", e.text);
	}
	c->arena = (uintptr_t)p;
	c->arena_bytes = bytes;
	*base = p;
	return 0;
}

/* The place of a range among the registered ones: the first that ends behind p. */
static unsigned host_at(const struct st_cuda *c, uintptr_t p)
{
	unsigned low = 0, high = c->n_hosts;

	while (low < high) {
		unsigned mid = (low + high) / 2;

		if (c->hosts[mid].base + c->hosts[mid].bytes <= p)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static int cuda_register(struct st_device *dev, void *host, size_t bytes)
{
	struct st_cuda *c = st_cuda(dev);
	uintptr_t base = (uintptr_t)host;
	unsigned at = host_at(c, base);
	int rc;

	if (at < c->n_hosts && c->hosts[at].base < base + bytes)
		return st_fail(-EINVAL,
			       "device \"cuda\": register: %zu bytes at %p are registered already, "
			       "at least in part.",
			       bytes, host);
	if (c->n_hosts == ST_CUDA_HOSTS_MAX)
		return st_fail(-ENOSPC,
			       "device \"cuda\": register: %u ranges of host memory are "
			       "registered; register fewer, larger ones",
			       ST_CUDA_HOSTS_MAX);
	rc = ST_CUDA_TRY(cudaHostRegister(host, bytes, cudaHostRegisterPortable),
			 "register: pinning %zu MiB of host memory", bytes >> 20);
	if (rc)
		return rc;
	memmove(&c->hosts[at + 1], &c->hosts[at], (c->n_hosts - at) * sizeof(c->hosts[0]));
	c->hosts[at].base = base;
	c->hosts[at].bytes = bytes;
	c->n_hosts++;
	return 0;
}

static bool in_arena(const struct st_cuda *c, const void *p, size_t bytes)
{
	uintptr_t at = (uintptr_t)p;

	return at >= c->arena && at - c->arena < c->arena_bytes &&
	       bytes <= c->arena_bytes - (at - c->arena);
}

static bool is_registered(const struct st_cuda *c, const void *p, size_t bytes)
{
	uintptr_t at = (uintptr_t)p;
	unsigned i = host_at(c, at);

	return i < c->n_hosts && c->hosts[i].base <= at &&
	       bytes <= c->hosts[i].bytes - (at - c->hosts[i].base);
}

static int refuse_copy(const void *dst, const void *src, size_t bytes, const char *why)
{
	return st_fail(-EINVAL, "device \"cuda\": copy of %zu bytes from %p to %p: %s.", bytes, src,
		       dst, why);
}

static int cuda_copy(struct st_device *dev, enum st_stream stream, void *dst, const void *src,
		     size_t bytes)
{
	static const char *const names[] = { "copy", "copy to the device", "copy to the host" };
	struct st_cuda *c = st_cuda(dev);
	bool to = in_arena(c, dst, bytes), from = in_arena(c, src, bytes);
	enum cudaMemcpyKind kind = to && from ? cudaMemcpyDeviceToDevice
				   : to       ? cudaMemcpyHostToDevice
					      : cudaMemcpyDeviceToHost;

	if (!to && !from)
		return refuse_copy(dst, src, bytes, "neither end lies in the arena");
	if ((!to && !is_registered(c, dst, bytes)) || (!from && !is_registered(c, src, bytes)))
		return refuse_copy(
			dst, src, bytes,
			"the host's end is not registered, so the copy would hold up the "
			"host; st_device_register() it");
	if ((stream == ST_STREAM_H2D && (from || !to)) ||
	    (stream == ST_STREAM_D2H && (to || !from)))
		return refuse_copy(dst, src, bytes, "its direction is not that of its stream");
	st_cuda_range range(names[stream]);

	return ST_CUDA_TRY(cudaMemcpyAsync(dst, src, bytes, kind, c->stream[stream]),
			   "copy of %zu bytes", bytes);
}

/* ---- events --------------------------------------------------------------------------------- */

struct cuda_event {
	struct st_event ev; /* first */
	cudaEvent_t handle;
};

static struct cuda_event *event(struct st_event *ev)
{
	return (struct cuda_event *)(void *)ev;
}

static int cuda_event_create(struct st_device *dev, struct st_event **out)
{
	struct cuda_event *e = (struct cuda_event *)calloc(1, sizeof(*e));
	int rc;

	if (!e)
		return st_fail(-ENOMEM, "device \"cuda\": event");
	rc = ST_CUDA_TRY(cudaEventCreateWithFlags(&e->handle,
						  cudaEventDisableTiming | cudaEventBlockingSync),
			 "event");
	if (rc) {
		free(e);
		return rc;
	}
	e->ev.dev = dev;
	*out = &e->ev;
	return 0;
}

static void cuda_event_destroy(struct st_event *ev)
{
	ignore(ST_CUDA_TRY(cudaEventDestroy(event(ev)->handle), "event"), "destroying an event of");
	free(event(ev));
}

static int cuda_record(struct st_device *dev, enum st_stream stream, struct st_event *ev)
{
	return ST_CUDA_TRY(cudaEventRecord(event(ev)->handle, st_cuda(dev)->stream[stream]),
			   "record");
}

static int cuda_wait(struct st_device *dev, enum st_stream stream, const struct st_event *ev)
{
	const struct cuda_event *e = (const struct cuda_event *)(const void *)ev;

	return ST_CUDA_TRY(cudaStreamWaitEvent(st_cuda(dev)->stream[stream], e->handle, 0), "wait");
}

static int cuda_event_query(struct st_device *dev, struct st_event *ev)
{
	cudaError_t rc = cudaEventQuery(event(ev)->handle);

	if (rc == cudaErrorNotReady) { /* no failure, but it would be taken for a later call's */
		(void)cudaGetLastError();
		return 0;
	}
	return rc == cudaSuccess ? 1
				 : st_cuda_try(rc, "cudaEventQuery", __FILE__, __LINE__,
					       "what ran before an event");
}

static int cuda_event_join(struct st_device *dev, struct st_event *ev)
{
	return ST_CUDA_TRY(cudaEventSynchronize(event(ev)->handle), "what ran before an event");
}

/* ---- the table ------------------------------------------------------------------------------ */

static const struct st_device_ops make_ops(void)
{
	struct st_device_ops ops = st_cuda_operations();

	ops.api_version = ST_DEVICE_API_VERSION;
	ops.type = "cuda";
	ops.open = cuda_open;
	ops.close = cuda_close;
	ops.check = st_cuda_check;
	ops.choices = st_cuda_choices;
	ops.choose = st_cuda_choose;
	ops.arena = cuda_arena;
	ops.register_host = cuda_register;
	ops.release = cuda_release;
	ops.copy = cuda_copy;
	ops.event_create = cuda_event_create;
	ops.event_destroy = cuda_event_destroy;
	ops.record = cuda_record;
	ops.wait = cuda_wait;
	ops.event_query = cuda_event_query;
	ops.event_join = cuda_event_join;
	ops.matmul_work_bytes = st_cuda_matmul_work_bytes;
	ops.matmul = st_cuda_matmul;
	return ops;
}

const struct st_device_ops st_cuda_ops = make_ops();
