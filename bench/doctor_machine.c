/* SPDX-License-Identifier: Apache-2.0 */
/* bench/doctor_machine.c - facts about kernel, processor, memory, limits, I/O interface and GPU. */
#include <dlfcn.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "aio/aio.h"
#include "bench/doctor.h"
#include "cli/print.h"
#include "core/clock.h"
#include "core/dtype.h"
#include "gpu/device.h"
#include "gpu/plugin.h"
#include "strata/optim.h"

#define CLOCK_READS   100
#define CLOCK_TRIES   10 /* the best counts: somebody else may run in between */
#define CLOCK_SLOW_NS 400.0
#define PROBE_DEPTH   32u
#define FEW_BYTES     ((uint64_t)512 << 20) /* too little memory for any run worth its name */

/* ---- system -------------------------------------------------------------------------------- */

static void clock_facts(struct st_doctor *d, const struct st_machine_kernel *k)
{
	double read_ns = INFINITY;
	struct tm tm;
	time_t now = time(NULL);
	char date[32] = "?";

	for (int try = 0; try < CLOCK_TRIES; try++) {
		int64_t begin_ns = st_now_ns(), end_ns = begin_ns;

		for (int i = 0; i < CLOCK_READS; i++)
			end_ns = st_now_ns();
		read_ns = fmin(read_ns, (double)(end_ns - begin_ns) / CLOCK_READS);
	}
	st_doctor_fact(d, "clock", read_ns > CLOCK_SLOW_NS ? ST_MARK_WARN : ST_MARK_OK,
		       read_ns > CLOCK_SLOW_NS
			       ? "a slow clock source: every timestamp costs a system call; choose "
				 "tsc, or what the hypervisor offers"
			       : NULL,
		       "%s, %.0f ns a reading", *k->clock ? k->clock : "source unknown", read_ns);
	st_doctor_text(d, "source", *k->clock ? k->clock : NULL);
	st_doctor_real(d, "read_ns", read_ns);
	if (gmtime_r(&now, &tm))
		strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", &tm);
	st_doctor_fact(d, "date", ST_MARK_OK, NULL, "%s", date);
}

static void system_facts(struct st_doctor *d, const struct st_machine_kernel *k)
{
	st_doctor_section(d, "system");
	st_doctor_fact(d, "kernel", ST_MARK_OK, NULL, "Linux %s, %s", k->release, k->machine);
	st_doctor_text(d, "release", k->release);
	st_doctor_text(d, "machine", k->machine);
	clock_facts(d, k);
}

/* ---- processor ----------------------------------------------------------------------------- */

static void cpu_facts(struct st_doctor *d, struct st_machine_cpu *c)
{
	st_doctor_fact(d, "cpu", ST_MARK_OK, NULL, "%s%s", *c->model ? c->model : "model unknown",
		       c->is_virtual ? ", virtual" : "");
	st_doctor_text(d, "model", *c->model ? c->model : NULL);
	st_doctor_fact(d, "cores", ST_MARK_OK, NULL, "%u usable of %u CPUs; %u cores, %u socket%s",
		       c->usable, c->logical, c->cores, c->sockets, c->sockets == 1 ? "" : "s");
	st_doctor_uint(d, "usable", c->usable);
	st_doctor_uint(d, "logical", c->logical);
	st_doctor_uint(d, "cores", c->cores);
	st_doctor_uint(d, "sockets", c->sockets);
	if (c->quota > 0 && c->quota < c->usable) {
		st_doctor_fact(d, "cpu quota", ST_MARK_WARN,
			       "more threads than the quota are stopped again and again: raise it, "
			       "or lower strata.threads to it",
			       "%.2f CPUs' worth of time (%s)", c->quota, c->quota_by);
		st_doctor_real(d, "cpus", c->quota);
	}
}

static void isa_facts(struct st_doctor *d, const struct st_machine_cpu *c)
{
	const struct st_device_cfg cfg = { .type = "host", .dtype = ST_BF16 };
	int rc = strata_isa_from_env();
	struct st_device *dev = NULL;

	st_doctor_fact(d, "extensions", ST_MARK_OK, NULL, "%s",
		       *c->isa ? c->isa : "none that matter here");
	if (rc) {
		st_doctor_fact(d, "optimizer", ST_MARK_FAIL, "correct STRATA_ISA, or unset it",
			       "%s", strata_last_error());
		return;
	}
	st_doctor_fact(d, "optimizer",
		       strata_isa_in_use() == STRATA_ISA_SCALAR ? ST_MARK_WARN : ST_MARK_OK,
		       strata_isa_in_use() == STRATA_ISA_SCALAR
			       ? "plain C code is used, several times slower: a CPU with AVX2 "
				 "serves better (or unset STRATA_ISA)"
			       : NULL,
		       "%s kernels", strata_isa_name(strata_isa_in_use()));
	st_doctor_text(d, "isa", strata_isa_name(strata_isa_in_use()));
	if (st_device_open(&dev, &cfg)) {
		st_doctor_fact(d, "device", ST_MARK_FAIL, "without it nothing can be computed",
			       "%s", strata_last_error());
		return;
	}
	st_doctor_fact(d, "device", ST_MARK_OK, NULL, "%s; bf16 products %s",
		       st_device_caps(dev)->name,
		       st_device_caps(dev)->has_native_bf16 ? "on bf16 units" : "widened to fp32");
	st_doctor_uint(d, "threads", st_device_caps(dev)->threads);
	st_doctor_bool(d, "native_bf16", st_device_caps(dev)->has_native_bf16);
	st_device_close(dev);
}

static void numa_facts(struct st_doctor *d)
{
	struct st_machine_node nodes[ST_MACHINE_NODES_MAX];
	unsigned n = st_machine_nodes("", nodes);

	if (n == 0) {
		st_doctor_fact(d, "numa", ST_MARK_OK, NULL, "unknown");
		return;
	}
	for (unsigned i = 0; i < n; i++) {
		st_doctor_fact(d, "numa", ST_MARK_OK, NULL, "node %u of %u: CPUs %s, %s, %s free",
			       nodes[i].id, n, *nodes[i].cpus ? nodes[i].cpus : "none",
			       st_bytes_text(nodes[i].total_bytes).s,
			       st_bytes_text(nodes[i].free_bytes).s);
		st_doctor_uint(d, "node", nodes[i].id);
		st_doctor_uint(d, "total_bytes", nodes[i].total_bytes);
		st_doctor_uint(d, "free_bytes", nodes[i].free_bytes);
	}
}

static void processor_facts(struct st_doctor *d)
{
	struct st_machine_cpu c;

	st_machine_cpu("", &c);
	st_doctor_section(d, "processor");
	cpu_facts(d, &c);
	isa_facts(d, &c);
	numa_facts(d);
}

/* ---- memory -------------------------------------------------------------------------------- */

static void ram_facts(struct st_doctor *d, const struct st_machine_memory *m)
{
	bool is_low = m->total_bytes && m->available_bytes < FEW_BYTES;

	st_doctor_fact(d, "ram", is_low ? ST_MARK_WARN : ST_MARK_OK,
		       is_low ? "end other programs: the smallest useful run needs more" : NULL,
		       "%s, %s available; swap %s", st_bytes_text(m->total_bytes).s,
		       st_bytes_text(m->available_bytes).s,
		       m->swap_bytes ? st_bytes_text(m->swap_bytes).s : "none");
	st_doctor_uint(d, "total_bytes", m->total_bytes);
	st_doctor_uint(d, "available_bytes", m->available_bytes);
	st_doctor_uint(d, "swap_bytes", m->swap_bytes);
}

static void cgroup_facts(struct st_doctor *d)
{
	struct st_machine_cgroup g;
	uint64_t left;

	st_machine_cgroup("", &g);
	if (g.limit_bytes == ST_MACHINE_UNLIMITED) {
		st_doctor_fact(d, "cgroup limit", ST_MARK_OK, NULL, "none");
		st_doctor_text(d, "limit_bytes", NULL);
		return;
	}
	left = g.limit_bytes > g.used_bytes ? g.limit_bytes - g.used_bytes : 0;
	st_doctor_fact(d, "cgroup limit", left < FEW_BYTES ? ST_MARK_WARN : ST_MARK_OK,
		       left < FEW_BYTES ? "raise the container's memory limit: what exceeds it is "
					  "killed without a word"
					: NULL,
		       "%s, %s of it left (%s)", st_bytes_text(g.limit_bytes).s,
		       st_bytes_text(left).s, g.limit_by);
	st_doctor_uint(d, "limit_bytes", g.limit_bytes);
	st_doctor_uint(d, "used_bytes", g.used_bytes);
}

static void huge_page_facts(struct st_doctor *d, const struct st_machine_memory *m)
{
	bool is_off = !strcmp(m->transparent, "never");

	st_doctor_fact(d, "huge pages", is_off ? ST_MARK_WARN : ST_MARK_OK,
		       is_off ? "write madvise into /sys/kernel/mm/transparent_hugepage/enabled: "
				"arenas then use large pages"
			      : NULL,
		       "transparent: %s; reserved: %llu of %s",
		       *m->transparent ? m->transparent : "unknown",
		       (unsigned long long)m->huge_pages,
		       m->huge_page_bytes ? st_bytes_text(m->huge_page_bytes).s : "unknown size");
	st_doctor_text(d, "transparent", *m->transparent ? m->transparent : NULL);
	st_doctor_uint(d, "reserved", m->huge_pages);
}

static void memlock_facts(struct st_doctor *d)
{
	struct st_machine_memlock l;
	bool is_free;

	st_machine_memlock("", &l);
	is_free = l.is_exempt || l.limit_bytes == ST_MACHINE_UNLIMITED;
	st_doctor_fact(
		d, "memlock", is_free ? ST_MARK_OK : ST_MARK_WARN,
		is_free ? NULL
			: "buffers beyond it are neither locked nor registered, and I/O costs "
			  "more CPU time: ulimit -l unlimited, LimitMEMLOCK=infinity, "
			  "--ulimit memlock=-1",
		"limit %s%s; a run asks for its memory budgets",
		l.limit_bytes == ST_MACHINE_UNLIMITED ? "none" : st_bytes_text(l.limit_bytes).s,
		l.is_exempt ? ", which does not count for this process (CAP_IPC_LOCK)" : "");
	if (l.limit_bytes == ST_MACHINE_UNLIMITED)
		st_doctor_text(d, "limit_bytes", NULL);
	else
		st_doctor_uint(d, "limit_bytes", l.limit_bytes);
	st_doctor_bool(d, "exempt", l.is_exempt);
}

static void memory_facts(struct st_doctor *d)
{
	struct st_machine_memory m;

	st_machine_memory("", &m);
	st_doctor_section(d, "memory");
	ram_facts(d, &m);
	cgroup_facts(d);
	huge_page_facts(d, &m);
	memlock_facts(d);
}

/* ---- I/O and GPU --------------------------------------------------------------------------- */

/* Why there is no io_uring, as far as it can be seen from outside. */
static const char *uring_advice(const struct st_machine_kernel *k)
{
	if (k->io_uring_disabled == 2)
		return "switched off for everybody: sysctl kernel.io_uring_disabled=0";
	if (k->io_uring_disabled == 1)
		return "kept for a group: sysctl kernel.io_uring_disabled=0, or join the group of "
		       "kernel.io_uring_group";
	if (k->major < 5 || (k->major == 5 && k->minor < 6))
		return "the kernel is too old: from 5.6 on, best from 6.1 on";
	if (k->seccomp > 0)
		return "a seccomp filter stands in the way: allow io_uring_setup, _enter and "
		       "_register in the container's profile";
	return "threads are used instead, with the same results and more CPU time";
}

static void io_facts(struct st_doctor *d, const struct st_machine_kernel *k)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_aio_queue *q = NULL;

	st_doctor_section(d, "I/O");
	cfg.backend = "io_uring";
	cfg.depth = PROBE_DEPTH;
	if (st_aio_open(&q, &cfg))
		st_doctor_fact(d, "io_uring", ST_MARK_WARN, uring_advice(k), "%s",
			       strata_last_error());
	else
		st_doctor_fact(d, "io_uring", ST_MARK_OK, NULL,
			       "usable: a read through it came back");
	st_doctor_bool(d, "usable", q != NULL);
	if (k->io_uring_disabled >= 0)
		st_doctor_uint(d, "sysctl_disabled", (uint64_t)k->io_uring_disabled);
	if (k->seccomp >= 0)
		st_doctor_uint(d, "seccomp", (uint64_t)k->seccomp);
	if (st_aio_close(q))
		st_doctor_fact(d, "io_uring", ST_MARK_WARN, NULL, "%s", strata_last_error());
}

/* The few calls of the driver's interface that say what is there. */
struct cuda {
	int (*init)(unsigned flags);
	int (*version)(int *v);
	int (*count)(int *n);
	int (*name)(char *name, int bytes, int device);
	int (*memory)(size_t *bytes, int device);
	int (*error)(int rc, const char **text);
};

/* POSIX lets a data pointer of dlsym() become a function's; ISO C has no cast for it. */
static bool find(void *lib, const char *name, void *slot)
{
	void *at = dlsym(lib, name);

	memcpy(slot, &at, sizeof(at));
	return at != NULL;
}

static void gpus(struct st_doctor *d, const struct cuda *c)
{
	int version = 0, n = 0, rc = c->init(0);
	const char *text = NULL;

	if (!rc)
		rc = c->version(&version);
	if (!rc)
		rc = c->count(&n);
	if (rc) {
		if (c->error(rc, &text) || !text)
			text = "unknown error";
		st_doctor_fact(d, "cuda", ST_MARK_WARN,
			       "the driver is installed and does not start: look at dmesg, and "
			       "whether the container was given the GPU",
			       "error %d: %s", rc, text);
		return;
	}
	st_doctor_fact(d, "cuda", ST_MARK_OK, NULL, "driver for CUDA %d.%d, %d device%s",
		       version / 1000, version % 1000 / 10, n, n == 1 ? "" : "s");
	st_doctor_uint(d, "devices", (uint64_t)n);
	for (int i = 0; i < n; i++) {
		char name[128] = "?";
		size_t bytes = 0;

		if (c->name(name, sizeof(name), i) || c->memory(&bytes, i))
			continue;
		name[sizeof(name) - 1] = '\0';
		st_doctor_fact(d, "gpu", ST_MARK_OK, NULL, "%d: %s, %s", i, name,
			       st_bytes_text(bytes).s);
		st_doctor_uint(d, "memory_bytes", bytes);
	}
}

static void gpu_facts(struct st_doctor *d)
{
	void *lib = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
	struct cuda c;

	st_doctor_section(d, "GPU");
	if (!lib) {
		st_doctor_fact(d, "cuda", ST_MARK_OK, NULL,
			       "no CUDA driver (libcuda.so.1): the CPU computes");
		st_doctor_uint(d, "devices", 0);
	} else if (find(lib, "cuInit", &c.init) && find(lib, "cuDriverGetVersion", &c.version) &&
		   find(lib, "cuDeviceGetCount", &c.count) &&
		   find(lib, "cuDeviceGetName", &c.name) &&
		   find(lib, "cuDeviceTotalMem_v2", &c.memory) &&
		   find(lib, "cuGetErrorString", &c.error)) {
		gpus(d, &c);
	} else {
		st_doctor_fact(d, "cuda", ST_MARK_WARN, "install the driver anew",
			       "libcuda.so.1 lacks calls that every driver has");
	}
	/* Not closed: a driver that started has threads of its own. */
	st_doctor_fact(d, "cuda device", ST_MARK_OK, NULL, "%s", st_plugin_cuda_line());
}

void st_doctor_machine(struct st_doctor *d)
{
	struct st_machine_kernel k;

	st_machine_kernel("", &k);
	system_facts(d, &k);
	processor_facts(d);
	memory_facts(d);
	io_facts(d, &k);
	gpu_facts(d);
}
