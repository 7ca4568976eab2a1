/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_machine.c - facts about machines: made-up trees of /proc and /sys, and this machine.
 */
#include <check.h>
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "core/machine.h"

static char root[64];

static void put(const char *path, const char *text)
{
	char full[512];
	FILE *f;

	snprintf(full, sizeof(full), "%s%s", root, path);
	for (char *c = full + strlen(root) + 1; *c; c++)
		if (*c == '/') {
			*c = '\0';
			ck_assert(mkdir(full, 0700) == 0 || errno == EEXIST);
			*c = '/';
		}
	f = fopen(full, "w");
	ck_assert_ptr_nonnull(f);
	ck_assert_int_ge(fputs(text, f), 0);
	ck_assert_int_eq(fclose(f), 0);
}

static void put_link(const char *path, const char *target)
{
	char full[512];

	put(path, "");
	snprintf(full, sizeof(full), "%s%s", root, path);
	ck_assert_int_eq(unlink(full), 0);
	ck_assert_int_eq(symlink(target, full), 0);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st;
	(void)type;
	(void)at;
	return remove(path);
}

static void set_up(void)
{
	snprintf(root, sizeof(root), "/tmp/test-machine.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(root));
}

static void tear_down(void)
{
	ck_assert_int_eq(nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

/* ---- processor, memory, kernel ------------------------------------------------------------- */

START_TEST(cpu_of_a_server)
{
	struct st_machine_cpu c;
	char text[8192] = "";

	for (unsigned i = 0; i < 8; i++) { /* two sockets of two cores of two threads */
		size_t len = strlen(text);

		snprintf(text + len, sizeof(text) - len,
			 "processor\t: %u\nmodel name\t: Some \x1b[31mCPU\nphysical id\t: %u\n"
			 "core id\t\t: %u\nflags\t\t: fpu avx avx2 fma f16c avx512f amx_tile"
			 " amx_bf16\n\n",
			 i, i / 4, i / 2 % 2);
	}
	put("/proc/cpuinfo", text);
	st_machine_cpu(root, &c);
	ck_assert_str_eq(c.model, "Some ?[31mCPU");
	ck_assert_str_eq(c.isa, "avx2 fma f16c avx512f amx_tile amx_bf16");
	ck_assert_uint_eq(c.sockets, 2);
	ck_assert_uint_eq(c.cores, 4);
	ck_assert_uint_eq(c.logical, 8);
	ck_assert(!c.is_virtual);
	ck_assert(c.quota == 0);
}
END_TEST

START_TEST(cpu_unknown)
{
	struct st_machine_cpu c;

	st_machine_cpu(root, &c);
	ck_assert_str_eq(c.model, "");
	ck_assert_uint_eq(c.cores, 0);
	ck_assert_uint_gt(c.usable, 0); /* the system call answers all the same */
}
END_TEST

START_TEST(memory)
{
	struct st_machine_memory m;

	put("/proc/meminfo", "MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    900 kB\n"
			     "SwapTotal: 0 kB\nHugePages_Total:       4\nHugePages_Free:        3\n"
			     "Hugepagesize:       2048 kB\n");
	put("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
	st_machine_memory(root, &m);
	ck_assert_uint_eq(m.total_bytes, 1024000);
	ck_assert_uint_eq(m.available_bytes, 921600);
	ck_assert_uint_eq(m.swap_bytes, 0);
	ck_assert_uint_eq(m.huge_pages, 4);
	ck_assert_uint_eq(m.huge_pages_free, 3);
	ck_assert_uint_eq(m.huge_page_bytes, 2 << 20);
	ck_assert_str_eq(m.transparent, "madvise");
}
END_TEST

START_TEST(kernel_and_locks)
{
	struct st_machine_memlock l;
	struct st_machine_kernel k;

	st_machine_kernel(root, &k);
	ck_assert_int_eq(k.io_uring_disabled, ST_MACHINE_UNKNOWN);
	ck_assert_int_eq(k.seccomp, ST_MACHINE_UNKNOWN);
	ck_assert_uint_gt(k.major, 0);
	put("/proc/sys/kernel/io_uring_disabled", "2\n");
	put("/proc/self/status", "Name:\tx\nCapEff:\t0000000000004000\nSeccomp:\t2\n"
				 "Seccomp_filters:\t1\n");
	put("/sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n");
	st_machine_kernel(root, &k);
	ck_assert_int_eq(k.io_uring_disabled, 2);
	ck_assert_int_eq(k.seccomp, 2);
	ck_assert_str_eq(k.clock, "hpet");
	st_machine_memlock(root, &l);
	ck_assert(l.is_exempt);
	put("/proc/self/status", "CapEff:\t00000000ffffbfff\n");
	st_machine_memlock(root, &l);
	ck_assert(!l.is_exempt);
}
END_TEST

START_TEST(nodes)
{
	struct st_machine_node n[ST_MACHINE_NODES_MAX];

	ck_assert_uint_eq(st_machine_nodes(root, n), 0);
	put("/sys/devices/system/node/node10/cpulist", "8-15\n");
	put("/sys/devices/system/node/node2/cpulist", "0-7\n");
	put("/sys/devices/system/node/node2/meminfo",
	    "Node 2 MemTotal:       2048 kB\nNode 2 MemFree:  1024 kB\n");
	put("/sys/devices/system/node/nodes", "");
	ck_assert_uint_eq(st_machine_nodes(root, n), 2);
	ck_assert_uint_eq(n[0].id, 2);
	ck_assert_str_eq(n[0].cpus, "0-7");
	ck_assert_uint_eq(n[0].total_bytes, 2 << 20);
	ck_assert_uint_eq(n[0].free_bytes, 1 << 20);
	ck_assert_uint_eq(n[1].id, 10);
}
END_TEST

/* ---- control groups ------------------------------------------------------------------------ */

static void check_limit(uint64_t limit, uint64_t used, const char *by)
{
	struct st_machine_cgroup g;

	st_machine_cgroup(root, &g);
	ck_assert_uint_eq(g.limit_bytes, limit);
	ck_assert_uint_eq(g.used_bytes, used);
	ck_assert_str_eq(g.limit_by, by);
}

START_TEST(cgroup_v2)
{
	struct st_machine_cpu c;

	check_limit(ST_MACHINE_UNLIMITED, 0, "");
	put("/proc/self/cgroup", "0::/a.slice/b.scope\n");
	put("/proc/self/mountinfo",
	    "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n");
	check_limit(ST_MACHINE_UNLIMITED, 0, "");
	put("/sys/fs/cgroup/a.slice/b.scope/memory.max", "max\n");
	put("/sys/fs/cgroup/a.slice/memory.max", "1000000\n"); /* the parent's counts as well */
	put("/sys/fs/cgroup/a.slice/memory.current", "1234\n");
	check_limit(1000000, 1234, "/sys/fs/cgroup/a.slice/memory.max");
	put("/sys/fs/cgroup/a.slice/b.scope/memory.max", "900000\n");
	check_limit(900000, 0, "/sys/fs/cgroup/a.slice/b.scope/memory.max");
	put("/sys/fs/cgroup/a.slice/b.scope/memory.high", "800000\n");
	check_limit(800000, 0, "/sys/fs/cgroup/a.slice/b.scope/memory.high");
	put("/sys/fs/cgroup/a.slice/b.scope/cpu.max", "max 100000\n");
	st_machine_cpu(root, &c);
	ck_assert(c.quota == 0);
	put("/sys/fs/cgroup/a.slice/cpu.max", "150000 100000\n");
	st_machine_cpu(root, &c);
	ck_assert(c.quota == 1.5);
	ck_assert_str_eq(c.quota_by, "/sys/fs/cgroup/a.slice/cpu.max");
}
END_TEST

START_TEST(cgroup_v1)
{
	struct st_machine_cpu c;

	put("/proc/self/cgroup", "5:cpu,cpuacct:/job\n4:memory:/run/abc/job\n0::/\n");
	put("/proc/self/mountinfo",
	    "27 1 254:0 / / rw - ext4 /dev/vda rw\n"
	    "30 23 0:26 /run/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
	    "31 23 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n");
	put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
	put("/sys/fs/cgroup/memory/job/memory.limit_in_bytes", "9223372036854771712\n");
	check_limit(ST_MACHINE_UNLIMITED, 0, "");
	put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "5000000\n");
	put("/sys/fs/cgroup/memory/memory.usage_in_bytes", "77\n");
	check_limit(5000000, 77, "/sys/fs/cgroup/memory/memory.limit_in_bytes");
	put("/sys/fs/cgroup/memory/job/memory.limit_in_bytes", "4000000\n");
	check_limit(4000000, 0, "/sys/fs/cgroup/memory/job/memory.limit_in_bytes");
	put("/sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "-1\n");
	put("/sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000\n");
	st_machine_cpu(root, &c);
	ck_assert(c.quota == 0);
	put("/sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "400000\n");
	st_machine_cpu(root, &c);
	ck_assert(c.quota == 4);
}
END_TEST

START_TEST(cgroup_nonsense)
{
	put("/proc/self/cgroup", "\n:\n::\nx\n4:memory\n0:memory:/..\n");
	put("/proc/self/mountinfo", "garbage\n\n1 2 3 4\n1 2 0:1 / /m rw - cgroup2\n"
				    "1 2 0:1 / /sys/fs/cgroup rw - cgroup cgroup rw,memory\n");
	put("/sys/fs/cgroup/memory.limit_in_bytes", "12x\n");
	check_limit(ST_MACHINE_UNLIMITED, 0, "");
	put("/sys/fs/cgroup/memory.limit_in_bytes", "99999999999999999999999\n");
	check_limit(ST_MACHINE_UNLIMITED, 0, "");
}
END_TEST

/* ---- mounts and drives --------------------------------------------------------------------- */

START_TEST(mounts)
{
	struct st_machine_mount m;
	char text[1024];

	ck_assert(!st_machine_mount(root, root, &m));
	snprintf(text, sizeof(text),
		 "1 0 8:1 / / rw - ext4 /dev/sda1 rw,errors=remount-ro\n"
		 "2 1 8:2 / %s ro,noatime - xfs /dev/sd\\040b rw,discard\n"
		 "3 1 8:3 / %sx rw - btrfs /dev/sdc rw\n",
		 root, root);
	put("/proc/self/mountinfo", text);
	ck_assert(st_machine_mount(root, root, &m));
	ck_assert_str_eq(m.type, "xfs");
	ck_assert_str_eq(m.source, "/dev/sd b");
	ck_assert_str_eq(m.options, "ro,noatime,rw,discard");
	ck_assert(m.is_read_only);
	ck_assert(st_machine_mount_has(&m, "discard"));
	ck_assert(!st_machine_mount_has(&m, "disc"));
	ck_assert(st_machine_mount(root, "/", &m));
	ck_assert_str_eq(m.type, "ext4");
	ck_assert(!m.is_read_only);
	ck_assert(st_machine_mount_has(&m, "errors"));
	ck_assert(!st_machine_mount(root, "/nonexistent/x", &m));
}
END_TEST

static void put_nvme(void)
{
	put("/sys/devices/pci/nvme0/nvme0n1/size", "1000\n");
	put("/sys/devices/pci/nvme0/nvme0n1/queue/logical_block_size", "512\n");
	put("/sys/devices/pci/nvme0/nvme0n1/queue/physical_block_size", "4096\n");
	put("/sys/devices/pci/nvme0/nvme0n1/queue/rotational", "0\n");
	put("/sys/devices/pci/nvme0/nvme0n1/queue/scheduler", "[none] mq-deadline\n");
	put("/sys/devices/pci/nvme0/nvme0n1/queue/write_cache", "write back\n");
	put("/sys/devices/pci/nvme0/nvme0n1/queue/discard_max_bytes", "2147483136\n");
	put("/sys/devices/pci/nvme0/nvme0n1/nvme0n1p2/partition", "2\n");
	put("/sys/devices/pci/nvme0/model", "Fast Drive 9000   \n");
	put("/sys/devices/pci/current_link_speed", "16.0 GT/s PCIe\n");
	put("/sys/devices/pci/current_link_width", "4\n");
	put("/sys/devices/pci/numa_node", "1\n");
	put_link("/sys/devices/pci/nvme0/nvme0n1/device", "..");
	put_link("/sys/devices/pci/nvme0/device", "..");
	put_link("/sys/dev/block/259:2", "../../devices/pci/nvme0/nvme0n1/nvme0n1p2");
}

START_TEST(drive_nvme)
{
	struct st_machine_drive d;

	ck_assert(!st_machine_drive(root, makedev(259, 2), &d));
	put_nvme();
	ck_assert(st_machine_drive(root, makedev(259, 2), &d));
	ck_assert_str_eq(d.name, "nvme0n1");
	ck_assert_str_eq(d.model, "Fast Drive 9000");
	ck_assert_str_eq(d.scheduler, "none");
	ck_assert_str_eq(d.link, "16.0 GT/s PCIe, 4 lanes");
	ck_assert_str_eq(d.over, "");
	ck_assert_uint_eq(d.size_bytes, 512000);
	ck_assert_uint_eq(d.physical_bytes, 4096);
	ck_assert_int_eq(d.is_rotational, 0);
	ck_assert_int_eq(d.has_volatile_cache, 1);
	ck_assert_int_eq(d.node, 1);
	ck_assert(!d.is_virtual);
}
END_TEST

START_TEST(drive_below_a_map)
{
	struct st_machine_drive d;

	put_nvme();
	put("/sys/devices/virtual/block/dm-0/dm/name", "cryptroot\n");
	put_link("/sys/devices/virtual/block/dm-0/slaves/nvme0n1p2",
		 "../../../../pci/nvme0/nvme0n1/nvme0n1p2");
	put_link("/sys/dev/block/253:0", "../../devices/virtual/block/dm-0");
	ck_assert(st_machine_drive(root, makedev(253, 0), &d));
	ck_assert_str_eq(d.name, "nvme0n1");
	ck_assert_str_eq(d.driver, "cryptroot");
	/* Over two drives the map is the last thing that can be said. */
	put("/sys/devices/virtual/block/md0/md/level", "raid0\n");
	put_link("/sys/devices/virtual/block/md0/slaves/nvme0n1p2",
		 "../../../../pci/nvme0/nvme0n1/nvme0n1p2");
	put("/sys/devices/virtual/block/md0/slaves/sdb", "");
	put("/sys/devices/virtual/block/md0/queue/write_cache", "write through\n");
	put_link("/sys/dev/block/9:0", "../../devices/virtual/block/md0");
	ck_assert(st_machine_drive(root, makedev(9, 0), &d));
	ck_assert_str_eq(d.name, "md0");
	ck_assert_str_eq(d.driver, "raid0");
	ck_assert(!strcmp(d.over, "nvme0n1p2, sdb") || !strcmp(d.over, "sdb, nvme0n1p2"));
	ck_assert_int_eq(d.has_volatile_cache, 0);
}
END_TEST

START_TEST(drive_map_over_itself)
{
	struct st_machine_drive d;

	put("/sys/devices/virtual/block/dm-1/size", "8\n");
	put_link("/sys/devices/virtual/block/dm-1/slaves/dm-1", "..");
	put_link("/sys/dev/block/253:1", "../../devices/virtual/block/dm-1");
	ck_assert(st_machine_drive(root, makedev(253, 1), &d)); /* and comes to an end */
}
END_TEST

/* ---- this machine -------------------------------------------------------------------------- */

START_TEST(this_machine)
{
	struct st_machine_memory mem;
	struct st_machine_kernel k;
	struct st_machine_mount m;
	struct st_machine_cpu c;

	st_machine_cpu("", &c);
	ck_assert_uint_gt(c.logical, 0);
	ck_assert_uint_le(c.usable, c.logical);
	st_machine_memory("", &mem);
	ck_assert_uint_gt(mem.total_bytes, mem.available_bytes);
	ck_assert_uint_gt(mem.available_bytes, 0);
	st_machine_kernel("", &k);
	ck_assert_uint_ge(k.major, 3);
	ck_assert(st_machine_mount("", "/proc/self", &m));
	ck_assert_str_eq(m.type, "proc");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("machine");
	TCase *t = tcase_create("machine");
	SRunner *r;
	int failed;

	tcase_add_checked_fixture(t, set_up, tear_down);
	tcase_add_test(t, cpu_of_a_server);
	tcase_add_test(t, cpu_unknown);
	tcase_add_test(t, memory);
	tcase_add_test(t, kernel_and_locks);
	tcase_add_test(t, nodes);
	tcase_add_test(t, cgroup_v2);
	tcase_add_test(t, cgroup_v1);
	tcase_add_test(t, cgroup_nonsense);
	tcase_add_test(t, mounts);
	tcase_add_test(t, drive_nvme);
	tcase_add_test(t, drive_below_a_map);
	tcase_add_test(t, drive_map_over_itself);
	tcase_add_test(t, this_machine);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
