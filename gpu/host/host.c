/* SPDX-License-Identifier: Apache-2.0 */
/* gpu/host/host.c - open the host device: team, instruction set, oneDNN, numeric identity. */
#include "gpu/host/host.h"
#include "gpu/host/onednn.h"

#include <errno.h>
#include <gnu/libc-version.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

/* Raise when a change of the host kernels changes bits. */
#define NUMERIC_VERSION 1

#if defined(__x86_64__)
/* What kernels_avx2.c is compiled for. clang 14 cannot be asked for F16C. */
static bool has_avx2(void)
{
	unsigned a, b, c = 0, d;

	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
	       __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

const struct st_host_kernels *st_host_kernels_best(void)
{
#if defined(__x86_64__)
	__builtin_cpu_init();
	if (has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
	    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
		return &st_host_kernels_avx512;
	if (has_avx2())
		return &st_host_kernels_avx2;
#endif
	return &st_host_kernels_generic;
}

static uint64_t fnv1a(const char *s)
{
	uint64_t x = 0xcbf29ce484222325u;

	for (; *s; s++)
		x = (x ^ (unsigned char)*s) * 0x100000001b3u;
	return x;
}

/* Everything that may change a bit of a result: also libc (logf), and the cache sizes that oneDNN
 * cuts its products by. */
static uint64_t numeric_id(const struct st_host *h, const char *dnn_version, int dnn_isa)
{
	char text[256];

	snprintf(text, sizeof(text), "host %d %s %u threads %s oneDNN %s %d bf16 %d libc %s L2 %ld",
		 NUMERIC_VERSION, h->k->isa, h->threads, st_dtype_name(h->dev.dtype), dnn_version,
		 dnn_isa, h->dev.caps.has_native_bf16, gnu_get_libc_version(),
		 sysconf(_SC_LEVEL2_CACHE_SIZE));
	return fnv1a(text);
}

static int host_open(struct st_device **out, const struct st_device_cfg *cfg)
{
	struct st_host *h = calloc(1, sizeof(*h));
	char version[32];
	int rc, isa;

	if (!h)
		return st_fail(-ENOMEM, "device \"host\": open");
	h->k = st_host_kernels_best();
	h->threads = cfg->threads ? cfg->threads : (unsigned)omp_get_num_procs();
	rc = st_onednn_open(&h->dnn, h->threads);
	if (rc < 0) {
		free(h);
		return rc;
	}
	st_onednn_version(version, sizeof(version), &isa);
	snprintf(h->name, sizeof(h->name), "host (%s, %u thread%s, oneDNN %s)", h->k->isa,
		 h->threads, h->threads == 1 ? "" : "s", version);
	h->dev.ops = &st_host_ops;
	h->dev.dtype = cfg->dtype;
	h->dev.caps.name = h->name;
	h->dev.caps.host_visible = true;
	h->dev.caps.has_native_bf16 = st_onednn_has_bf16();
	h->dev.caps.threads = h->threads;
	h->dev.numeric_id = numeric_id(h, version, isa);
	*out = &h->dev;
	return 0;
}

static void host_close(struct st_device *dev)
{
	struct st_host *h = st_host(dev);

	st_onednn_close(h->dnn);
	st_arena_fini(&h->arena);
	free(h);
}

const struct st_device_ops st_host_ops = {
	.api_version = ST_DEVICE_API_VERSION,
	.type = "host",
	.open = host_open,
	.close = host_close,
	.arena = st_host_arena,
	.register_host = st_host_register,
	.release = st_host_release,
	.copy = st_host_copy,
	.event_create = st_host_event_create,
	.event_destroy = st_host_event_destroy,
	.record = st_host_record,
	.wait = st_host_wait,
	.event_query = st_host_event_query,
	.event_join = st_host_event_join,
	.matmul_work_bytes = st_host_matmul_work_bytes,
	.matmul = st_host_matmul,
	.layernorm_fwd = st_host_layernorm_fwd,
	.layernorm_bwd_work_bytes = st_host_layernorm_bwd_work_bytes,
	.layernorm_bwd = st_host_layernorm_bwd,
	.gelu_fwd = st_host_gelu_fwd,
	.gelu_bwd = st_host_gelu_bwd,
	.add = st_host_add,
	.fill_zero = st_host_fill_zero,
	.bias_bwd_work_bytes = st_host_bias_bwd_work_bytes,
	.bias_bwd = st_host_bias_bwd,
	.attention_work_bytes = st_host_attention_work_bytes,
	.attention_fwd = st_host_attention_fwd,
	.attention_bwd = st_host_attention_bwd,
	.embedding_fwd = st_host_embedding_fwd,
	.embedding_bwd = st_host_embedding_bwd,
	.cross_entropy = st_host_cross_entropy,
};
