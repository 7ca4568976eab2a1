/* SPDX-License-Identifier: Apache-2.0 */
/*
 * core/machine.h - facts about the machine that this process runs on, and the limits put on it.
 *
 * Layer:   core
 * Threads: re-entrant
 *
 * Everything comes from /proc, /sys and a few system calls; nothing is changed and nothing
 * measured. A fact that cannot be learnt is empty, 0 or ST_MACHINE_UNKNOWN: that is no error, for
 * kernels and containers hide what they like. `root` is put before each path ("" for the machine
 * itself; tests bring a directory with a proc and a sys of their own).
 *
 * Texts are foreign (a drive says its own model, an administrator names a mount): control bytes in
 * them became '?'.
 */
#ifndef CORE_MACHINE_H
#define CORE_MACHINE_H

#include <sys/types.h>

#include "core/status.h"

#define ST_MACHINE_UNKNOWN   (-1)
#define ST_MACHINE_UNLIMITED UINT64_MAX
#define ST_MACHINE_NODES_MAX 64u

struct st_machine_cpu {
	char model[128];    /* "AMD EPYC 7763 64-Core Processor"; "" unknown */
	char isa[160];      /* those of its vector and matrix extensions that matter here */
	unsigned sockets;   /* 0 unknown */
	unsigned cores;     /* physical ones; 0 unknown */
	unsigned logical;   /* that the system shows */
	unsigned usable;    /* that this process may run on (affinity) */
	bool is_virtual;    /* under a hypervisor */
	double quota;       /* CPUs' worth of time that the cgroups allow; 0: no limit */
	char quota_by[256]; /* the file that says so */
};
void st_machine_cpu(const char *root, struct st_machine_cpu *out);

struct st_machine_memory {
	uint64_t total_bytes, available_bytes, swap_bytes;
	uint64_t huge_page_bytes, huge_pages, huge_pages_free; /* of the default size */
	char transparent[16];                                  /* "always", "madvise", "never" */
};
void st_machine_memory(const char *root, struct st_machine_memory *out);

/* The cgroup (v1 or v2) that leaves this process the least memory, searched up to the root. */
struct st_machine_cgroup {
	uint64_t limit_bytes; /* ST_MACHINE_UNLIMITED: none */
	uint64_t used_bytes;  /* of that limit */
	char limit_by[256];   /* the file that says so; "" if none */
};
void st_machine_cgroup(const char *root, struct st_machine_cgroup *out);

struct st_machine_memlock {
	uint64_t limit_bytes; /* RLIMIT_MEMLOCK, or ST_MACHINE_UNLIMITED */
	bool is_exempt;       /* CAP_IPC_LOCK: the limit does not count */
};
void st_machine_memlock(const char *root, struct st_machine_memlock *out);

struct st_machine_node {
	unsigned id;
	char cpus[64]; /* "0-15,32-47" */
	uint64_t total_bytes, free_bytes;
};
/** st_machine_nodes() - NUMA nodes in the order of their numbers. @return how many; 0 unknown */
unsigned st_machine_nodes(const char *root, struct st_machine_node out[ST_MACHINE_NODES_MAX]);

struct st_machine_kernel {
	char release[80], machine[16];
	unsigned major, minor;
	int io_uring_disabled; /* sysctl kernel.io_uring_disabled: 0, 1, 2, or unknown */
	int seccomp;           /* 0 none, 1 strict, 2 a filter, or unknown */
	char clock[32];        /* the clock source in use */
};
void st_machine_kernel(const char *root, struct st_machine_kernel *out);

struct st_machine_mount {
	char type[32];     /* "ext4" */
	char options[256]; /* those of the mount, then those of the file system */
	char source[256];  /* "/dev/nvme0n1p2" */
	char at[256];      /* the mount point */
	bool is_read_only;
};
/** st_machine_mount() - what a path lies on. @return false: unknown (no such path, no mounts) */
bool st_machine_mount(const char *root, const char *path, struct st_machine_mount *out);
/** st_machine_mount_has() - whether `option` is one of its options, also as "option=...". */
bool st_machine_mount_has(const struct st_machine_mount *m, const char *option);

struct st_machine_drive {
	char name[64];      /* "nvme0n1" */
	char model[96];     /* "" unknown */
	char driver[32];    /* "virtio_blk"; of virtual drives and maps */
	char over[160];     /* what it is made of: "nvme0n1, nvme1n1", or a loop's file */
	char scheduler[32]; /* "none" */
	char link[64];      /* of PCI: "16.0 GT/s PCIe, 4 lanes" */
	uint64_t size_bytes, logical_bytes, physical_bytes, discard_max_bytes;
	int is_rotational;      /* or unknown */
	int has_volatile_cache; /* 1: "write back"; 0: "write through"; or unknown */
	int node;               /* NUMA, or unknown */
	bool is_virtual;        /* virtio, Xen, a loop, RAM, ...: what lies below is hidden */
};
/**
 * st_machine_drive() - the block device of a file system: the whole drive, not its partition; of a
 * map over a single drive, that drive with `over` empty and the map's name in `driver`.
 * @param dev  in, st_dev of a file
 * @return false: unknown, or none (memory, network)
 */
bool st_machine_drive(const char *root, dev_t dev, struct st_machine_drive *out);

#endif
