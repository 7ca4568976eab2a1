/* SPDX-License-Identifier: Apache-2.0 */
/* bench/doctor_path.c - facts about a directory: file system, space, direct I/O, drive, rates. */
#include <errno.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "bench/doctor.h"
#include "bench/load.h"
#include "bench/signals.h"
#include "cli/print.h"

#define BLOCK_BYTES   ((size_t)4096)
#define MEASURE_BLOCK ((size_t)1 << 20)
#define MEASURE_BYTES ((uint64_t)256 << 20)
#define MEASURE_LEAST ((uint64_t)16 << 20)
#define MEASURE_NS    1000000000
#define MEASURE_DEPTH 32u
#define SLOW_GBPS     0.2 /* of a SATA drive's 0.5, the half that is left beside other work */
#define LOW_BYTES     ((uint64_t)1 << 30)
#define LOW_INODES    1000u

struct path {
	const char *name;
	int fd;         /* a file without a name on it, or -1 */
	bool is_direct; /* O_DIRECT in blocks of 4096 */
	struct st_machine_mount mount;
	bool has_mount;
	uint64_t free_bytes;
};

/* ---- file system --------------------------------------------------------------------------- */

struct fs_note {
	const char *type;
	enum st_mark mark;
	const char *advice;
};

static const struct fs_note fs_notes[] = {
	{ "ext4", ST_MARK_OK, NULL },
	{ "xfs", ST_MARK_OK, NULL },
	{ "f2fs", ST_MARK_OK, NULL },
	{ "ext3", ST_MARK_WARN, "preallocates nothing: ext4 or xfs serve better" },
	{ "btrfs", ST_MARK_WARN,
	  "copies on write: preallocated space is no promise, and rates fall with age; ext4 or xfs "
	  "serve better" },
	{ "zfs", ST_MARK_WARN,
	  "copies on write and caches: preallocated space is no promise; ext4 or xfs serve "
	  "better" },
	{ "tmpfs", ST_MARK_WARN,
	  "this is memory, not a drive: name a directory on a drive, or offload to \"cpu\"" },
	{ "ramfs", ST_MARK_WARN,
	  "this is memory, not a drive: name a directory on a drive, or offload to \"cpu\"" },
	{ "overlay", ST_MARK_WARN,
	  "a container's own layer: mount a drive's directory into the container and name that" },
	{ "nfs", ST_MARK_WARN,
	  "a network's file system: slow, and locks may not hold; use a local drive" },
	{ "nfs4", ST_MARK_WARN,
	  "a network's file system: slow, and locks may not hold; use a local drive" },
	{ "cifs", ST_MARK_WARN,
	  "a network's file system: slow, and locks may not hold; use a local drive" },
	{ "9p", ST_MARK_WARN, "shared by a hypervisor: slow; use a virtual drive of its own" },
	{ "virtiofs", ST_MARK_WARN,
	  "shared by a hypervisor: slow; use a virtual drive of its own" },
	{ "fuse", ST_MARK_WARN, "served by a program: slow, and its promises are that program's" },
};

static const struct fs_note *find_fs(const char *type)
{
	static const struct fs_note unknown = { "", ST_MARK_OK, NULL };

	for (size_t i = 0; i < ST_ARRAY_LEN(fs_notes); i++)
		if (!strcmp(type, fs_notes[i].type) ||
		    (!strcmp(fs_notes[i].type, "fuse") && !strncmp(type, "fuse.", 5)))
			return &fs_notes[i];
	return &unknown;
}

static void mount_facts(struct st_doctor *d, const struct path *p)
{
	const struct st_machine_mount *m = &p->mount;
	const struct fs_note *note = find_fs(m->type);
	bool skips_flush = st_machine_mount_has(m, "nobarrier") ||
			   strstr(m->options, "barrier=0") || st_machine_mount_has(m, "volatile");

	if (!p->has_mount) {
		st_doctor_fact(d, "file system", ST_MARK_OK, NULL, "unknown (no mount covers it)");
		return;
	}
	st_doctor_fact(d, "file system", note->mark, note->advice, "%s on %s, mounted at %s",
		       m->type, m->source, m->at);
	st_doctor_text(d, "type", m->type);
	st_doctor_text(d, "source", m->source);
	st_doctor_fact(d, "mount options", skips_flush ? ST_MARK_WARN : ST_MARK_OK,
		       skips_flush
			       ? "flushes are not passed on to the drive: a power loss can take "
				 "committed steps; mount with barriers"
			       : NULL,
		       "%s", m->options);
}

static void space_facts(struct st_doctor *d, struct path *p)
{
	bool is_low, has_inodes;
	struct statvfs v;

	if (statvfs(p->name, &v)) {
		st_doctor_fact(d, "space", ST_MARK_WARN, "nothing can be said of it", "unknown: %s",
			       strerror(errno));
		return;
	}
	p->free_bytes = (uint64_t)v.f_bavail * v.f_frsize;
	is_low = v.f_blocks && p->free_bytes < LOW_BYTES;
	st_doctor_fact(d, "space", is_low ? ST_MARK_WARN : ST_MARK_OK,
		       is_low ? "few models fit there: free some, or name another directory" : NULL,
		       "%s free of %s", st_bytes_text(p->free_bytes).s,
		       st_bytes_text((uint64_t)v.f_blocks * v.f_frsize).s);
	st_doctor_uint(d, "free_bytes", p->free_bytes);
	st_doctor_uint(d, "total_bytes", (uint64_t)v.f_blocks * v.f_frsize);
	has_inodes = v.f_files > 0;
	is_low = has_inodes && v.f_favail < LOW_INODES;
	if (has_inodes)
		st_doctor_fact(d, "inodes", is_low ? ST_MARK_WARN : ST_MARK_OK,
			       is_low ? "a run makes a few files: delete some small ones" : NULL,
			       "%llu free", (unsigned long long)v.f_favail);
	else
		st_doctor_fact(d, "inodes", ST_MARK_OK, NULL, "made as needed");
}

/* ---- direct I/O ---------------------------------------------------------------------------- */

/* Whether a block of so many bytes, at such an offset, can be written and read back directly. */
static bool works_with(int fd, char *page, size_t bytes)
{
	return pwrite(fd, page, bytes, (off_t)bytes) == (ssize_t)bytes &&
	       pread(fd, page, bytes, (off_t)bytes) == (ssize_t)bytes;
}

static void direct_facts(struct st_doctor *d, struct path *p)
{
	char *page = aligned_alloc(BLOCK_BYTES, BLOCK_BYTES);
	int flags = fcntl(p->fd, F_GETFL);
	char asked[96] = "";
	size_t least = BLOCK_BYTES;

	if (!page || flags < 0 || ftruncate(p->fd, 4 * (off_t)BLOCK_BYTES) ||
	    fcntl(p->fd, F_SETFL, flags | O_DIRECT)) {
		st_doctor_fact(d, "direct I/O", ST_MARK_WARN,
			       "all I/O goes through the page cache, slower and beside the memory "
			       "budgets: ext4 or xfs on a drive have it",
			       "refused (%s)", strerror(errno));
		free(page);
		return;
	}
	memset(page, 0, BLOCK_BYTES);
	p->is_direct = works_with(p->fd, page, BLOCK_BYTES);
	while (p->is_direct && least > 512 && works_with(p->fd, page, least / 2))
		least /= 2;
#ifdef STATX_DIOALIGN
	struct statx sx;

	if (!statx(p->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) && (sx.stx_mask & STATX_DIOALIGN))
		snprintf(asked, sizeof(asked), "; the kernel says %u, memory %u",
			 sx.stx_dio_offset_align, sx.stx_dio_mem_align);
#endif
	if (p->is_direct)
		st_doctor_fact(d, "direct I/O", ST_MARK_OK, NULL,
			       "works, in blocks from %zu bytes on%s", least, asked);
	else
		st_doctor_fact(d, "direct I/O", ST_MARK_WARN,
			       "all I/O goes through the page cache, slower and beside the memory "
			       "budgets: ext4 or xfs on a drive with blocks of at most 4096 bytes "
			       "have it",
			       "a block of %zu bytes does not come back%s", BLOCK_BYTES, asked);
	st_doctor_uint(d, "alignment_bytes", p->is_direct ? least : 0);
	free(page);
}

/* ---- drive --------------------------------------------------------------------------------- */

/* The device number behind the directory; that of the mount's source where the former is none. */
static dev_t device_of(const struct path *p)
{
	struct stat st;

	if (p->has_mount && !strncmp(p->mount.source, "/dev/", 5) && !stat(p->mount.source, &st) &&
	    S_ISBLK(st.st_mode))
		return st.st_rdev;
	return stat(p->name, &st) ? 0 : st.st_dev;
}

static void cache_facts(struct st_doctor *d, const struct st_machine_drive *v)
{
	const char *what = v->has_volatile_cache == 1   ? "write back"
			   : v->has_volatile_cache == 0 ? "write through"
							: "unknown";

	if (v->has_volatile_cache == 1 && !v->is_virtual)
		st_doctor_fact(
			d, "write cache", ST_MARK_WARN,
			"committed steps are safe, for each is flushed, and each flush takes "
			"the drive's time; a drive with power-loss protection answers at once",
			"%s: volatile, no power-loss protection", what);
	else if (v->has_volatile_cache == 1)
		st_doctor_fact(d, "write cache", ST_MARK_OK, NULL,
			       "%s: flushes are passed on; the drive below is hidden", what);
	else
		st_doctor_fact(d, "write cache", ST_MARK_OK, NULL, "%s%s", what,
			       v->has_volatile_cache == 0
				       ? ": none, or protected against power loss"
				       : "");
	st_doctor_text(d, "cache", what);
}

static void drive_facts(struct st_doctor *d, const struct path *p)
{
	struct st_machine_drive v;
	char node[32] = "";
	bool is_slow;

	if (!st_machine_drive("", device_of(p), &v)) {
		st_doctor_fact(d, "drive", ST_MARK_OK, NULL, "none to be seen");
		return;
	}
	is_slow = v.is_rotational == 1 && !v.is_virtual; /* virtual drives say so for no reason */
	st_doctor_fact(
		d, "drive", is_slow ? ST_MARK_WARN : ST_MARK_OK,
		is_slow ? "a disk that turns: training would wait for it; use an NVMe drive" : NULL,
		"%s, %s%s%s%s%s%s, %s%s%s", v.name, *v.model ? v.model : "model unknown",
		*v.driver ? " (" : "", v.driver, *v.driver ? ")" : "", *v.over ? " over " : "",
		v.over, st_bytes_text(v.size_bytes).s, *v.link ? ", " : "", v.link);
	st_doctor_text(d, "device", v.name);
	st_doctor_text(d, "model", *v.model ? v.model : NULL);
	if (v.node >= 0)
		snprintf(node, sizeof(node), ", NUMA node %d", v.node);
	st_doctor_fact(d, "queue", ST_MARK_OK, NULL,
		       "scheduler %s, blocks of %llu bytes (physical %llu)%s",
		       *v.scheduler ? v.scheduler : "unknown", (unsigned long long)v.logical_bytes,
		       (unsigned long long)v.physical_bytes, node);
	st_doctor_text(d, "scheduler", *v.scheduler ? v.scheduler : NULL);
	if (v.node >= 0)
		st_doctor_uint(d, "node", (uint64_t)v.node);
	cache_facts(d, &v);
	st_doctor_fact(d, "trim", ST_MARK_OK, NULL, "%s%s%s", v.discard_max_bytes ? "yes" : "no",
		       p->has_mount && st_machine_mount_has(&p->mount, "discard")
			       ? ", at each deletion (mount option discard)"
			       : "",
		       v.is_virtual && v.discard_max_bytes
			       ? "; the drive may be thin: then free space is no promise"
			       : "");
}

/* ---- rates --------------------------------------------------------------------------------- */

static void rate_fact(struct st_doctor *d, const struct path *p, const char *name, unsigned depth,
		      const struct st_load_result *r)
{
	double gbps = st_load_gbps(r);
	bool is_slow = gbps < SLOW_GBPS;

	if (r->n_wrong)
		st_doctor_fact(d, name, ST_MARK_FAIL,
			       "this drive or its path corrupts data: do not use it",
			       "%llu blocks came back other than they were written (%s)",
			       (unsigned long long)r->n_wrong, r->first_wrong);
	else
		st_doctor_fact(d, name, is_slow ? ST_MARK_WARN : ST_MARK_OK,
			       is_slow ? "steps will wait for this drive; strata bench nvme "
					 "measures it at length"
				       : NULL,
			       "%.2f GB/s%s (%s, blocks of 1 MiB, depth %u, %.1f s)", gbps,
			       p->is_direct ? "" : " through the page cache", r->backend, depth,
			       (double)r->elapsed_ns * 1e-9);
	st_doctor_real(d, "gbps", gbps);
	st_doctor_text(d, "backend", r->backend);
}

/* Writes first: what was never written is read without touching the drive. */
static int measure_area(struct st_doctor *d, const struct path *p, struct st_area *a,
			unsigned depth)
{
	struct st_load load = { .op = ST_LOAD_WRITE, .depth = depth, .aio = ST_AIO_CFG_DEFAULT };
	struct st_load_result *r = calloc(1, sizeof(*r));
	int rc = r ? 0 : st_fail(-ENOMEM, "measuring");

	if (!rc)
		rc = st_area_run(a, &load, r);
	load.duration_ns = MEASURE_NS;
	if (!rc && r->elapsed_ns < MEASURE_NS) /* the first pass of a slow drive was long enough */
		rc = st_area_run(a, &load, r);
	if (!rc)
		rate_fact(d, p, "write", depth, r);
	load.op = ST_LOAD_READ;
	if (!rc)
		rc = st_area_run(a, &load, r);
	if (!rc)
		rate_fact(d, p, "read", depth, r);
	free(r);
	return rc;
}

static void measure(struct st_doctor *d, const struct path *p)
{
	uint64_t size = p->free_bytes / 4 < MEASURE_BYTES ? p->free_bytes / 4 : MEASURE_BYTES;
	uint64_t half = size / MEASURE_BLOCK / 2; /* a load may have no more blocks in flight */
	unsigned depth = half < MEASURE_DEPTH ? (unsigned)half : MEASURE_DEPTH;
	const struct st_area_cfg cfg = {
		.paths = &p->name,
		.n_paths = 1,
		.size_bytes = size,
		.block_bytes = MEASURE_BLOCK,
		.is_raw = true,
		.depth_max = depth,
		.stop = &st_signal,
	};
	struct st_area *a = NULL;
	int rc;

	if (size < MEASURE_LEAST) {
		st_doctor_fact(d, "rates", ST_MARK_WARN, "free some space",
			       "not measured: too little space is free");
		return;
	}
	rc = st_area_open(&a, &cfg);
	if (!rc)
		rc = measure_area(d, p, a, depth);
	st_area_close(a);
	if (rc && rc != -EINTR)
		st_doctor_fact(d, "rates", ST_MARK_FAIL, "training would fail in the same way",
			       "%s", strata_last_error());
}

/* ---- a path -------------------------------------------------------------------------------- */

static const char *open_advice(int err)
{
	switch (err) {
	case EROFS:
		return "mount it for writing, or name another";
	case EACCES:
	case EPERM:
		return "this user may not write there: change its permissions, or name another";
	case ENOSPC:
	case EDQUOT:
		return "free some space, or name another";
	default:
		return "no file can be made there: name another";
	}
}

void st_doctor_path(struct st_doctor *d, const char *path)
{
	struct path p = { .name = path, .fd = -1 };
	struct stat st;

	st_doctor_section(d, "path %s", path);
	if (stat(path, &st) || (!S_ISDIR(st.st_mode) && (errno = ENOTDIR))) {
		st_doctor_fact(d, "directory", ST_MARK_FAIL,
			       errno == ENOENT    ? "create it, or name another"
			       : errno == ENOTDIR ? "name a directory"
						  : open_advice(errno),
			       "%s", strerror(errno));
		return;
	}
	p.has_mount = st_machine_mount("", path, &p.mount);
	p.fd = st_load_open_nameless(path, 0);
	if (p.fd >= 0)
		st_doctor_fact(d, "directory", ST_MARK_OK, NULL, "writable");
	else
		st_doctor_fact(d, "directory", ST_MARK_FAIL, open_advice(errno), "not writable: %s",
			       strerror(errno));
	mount_facts(d, &p);
	space_facts(d, &p);
	if (p.fd >= 0)
		direct_facts(d, &p);
	drive_facts(d, &p);
	if (p.fd >= 0) {
		close(p.fd);
		if (d->measures)
			measure(d, &p);
	}
}
