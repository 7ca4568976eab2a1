/* SPDX-License-Identifier: Apache-2.0 */
/* nvme/place.c - what a file system offers a store: direct I/O, space, shared blocks. */
#include "nvme/dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/stat.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "core/log.h"

#define GIB            1073741824.0
#define ZFS_MAGIC      0x2fc12fc1
#define BCACHEFS_MAGIC 0xca451a4e

/* ---- the device behind a file, as /sys knows it ---------------------------------------------- */

/* The first line of a file there, without its end; false if there is none. */
static bool read_sys(dev_t dev, const char *name, char *out, size_t bytes)
{
	char path[256];
	FILE *f;
	bool has;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s", major(dev), minor(dev), name);
	f = fopen(path, "re");
	if (!f)
		return false;
	has = fgets(out, (int)bytes, f) != NULL;
	fclose(f);
	if (has)
		out[strcspn(out, "\n")] = '\0';
	return has;
}

static bool is_sparse(const char *file)
{
	struct stat st;

	return !stat(file, &st) && S_ISREG(st.st_mode) &&
	       (uint64_t)st.st_blocks * 512 < (uint64_t)st.st_size;
}

/* A volume of a thin pool lies on the pool's device, whose uuid ends so. */
static bool is_thin_volume(dev_t dev)
{
	char path[256], text[300];
	struct dirent *e;
	bool is_thin = false;
	DIR *d;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/slaves", major(dev), minor(dev));
	d = opendir(path);
	while (d && !is_thin && (e = readdir(d))) {
		char name[280];
		size_t n;

		snprintf(name, sizeof(name), "slaves/%s/dm/uuid", e->d_name);
		if (!read_sys(dev, name, text, sizeof(text)))
			continue;
		n = strlen(text);
		is_thin = n > 6 && !strcmp(text + n - 6, "-tpool");
	}
	if (d)
		closedir(d);
	return is_thin;
}

/* Why preallocated space is no promise on this device; NULL: it is one, or nobody knows. */
static const char *why_thin(dev_t dev)
{
	char text[4096];

	if (read_sys(dev, "loop/backing_file", text, sizeof(text)) && is_sparse(text))
		return "a loop device on a sparse file";
	return is_thin_volume(dev) ? "a thin volume" : NULL;
}

/* Blocks of the device; 0: not to be had, as for a file system over several. */
static unsigned logical_block(dev_t dev)
{
	char text[32];

	if (!read_sys(dev, "queue/logical_block_size", text, sizeof(text)) &&
	    !read_sys(dev, "../queue/logical_block_size", text, sizeof(text))) /* a partition */
		return 0;
	return (unsigned)strtoul(text, NULL, 10);
}

/* ---- direct I/O ------------------------------------------------------------------------------ */

int st_place_check_blocks(const char *place, unsigned align_bytes)
{
	if (align_bytes <= ST_STORE_BLOCK)
		return 0;
	return st_fail(
		STRATA_E_UNSUPPORTED,
		"%s: the device there needs direct I/O in blocks of %u bytes, the store's are "
		"%zu: use a path on another device.",
		place, align_bytes, ST_STORE_BLOCK);
}

/* Asked of the file, else of the device; 0: nobody says. *has_none: there is no direct I/O. */
static unsigned ask_alignment(int fd, bool *has_none)
{
	struct stat st;

	*has_none = false;
#ifdef STATX_DIOALIGN
	struct statx sx;

	if (!statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) && (sx.stx_mask & STATX_DIOALIGN)) {
		*has_none = !sx.stx_dio_offset_align;
		return sx.stx_dio_offset_align > sx.stx_dio_mem_align ? sx.stx_dio_offset_align
								      : sx.stx_dio_mem_align;
	}
#endif
	return fstat(fd, &st) ? 0 : logical_block(st.st_dev);
}

/* NULL when direct I/O in blocks of 4096 works, else why not: tried by a read. */
static const char *try_direct(int fd)
{
	int flags = fcntl(fd, F_GETFL);
	const char *why = NULL;
	void *block;
	ssize_t got;

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_DIRECT))
		return "the file system refuses O_DIRECT";
	block = aligned_alloc(ST_STORE_BLOCK, ST_STORE_BLOCK);
	if (!block)
		why = "out of memory";
	got = block ? pread(fd, block, ST_STORE_BLOCK, 0) : 0;
	if (block && got != (ssize_t)ST_STORE_BLOCK)
		why = "a direct read of 4096 bytes failed";
	free(block);
	if (why && fcntl(fd, F_SETFL, flags))
		why = "the file system refuses O_DIRECT";
	return why;
}

int st_place_set_direct(const struct st_store_file *f)
{
	bool has_none;
	unsigned align = ask_alignment(f->fd, &has_none);
	const char *why;
	int rc = st_place_check_blocks(st_dir_place(f).text, align);

	if (rc)
		return rc;
	why = has_none ? "the file system has none" : try_direct(f->fd);
	if (why)
		st_log_once(ST_LOG_WARN,
			    "%s: no direct I/O here (%s): buffered I/O is used, slower and through "
			    "the page cache",
			    st_dir_place(f).text, why);
	return 0;
}

/* ---- space ----------------------------------------------------------------------------------- */

static int no_space(const struct st_store_file *f, uint64_t need, uint64_t have)
{
	return st_fail(
		STRATA_E_NO_FIT,
		"%s: %llu bytes (%.2f GiB) are needed on this file system, %llu (%.2f GiB) are "
		"free: free %.2f GiB, or add a path.",
		st_dir_place(f).text, (unsigned long long)need, (double)need / GIB,
		(unsigned long long)have, (double)have / GIB,
		(double)(need > have ? need - have : 0) / GIB);
}

static uint64_t free_bytes(const struct statvfs *v)
{
	return (uint64_t)v->f_bavail * v->f_frsize;
}

int st_place_check_space(const struct st_store *s, const uint64_t *need_bytes)
{
	for (unsigned p = 0; p < s->n_files; p++) {
		struct stat st, other;
		struct statvfs vfs;
		uint64_t need = 0;

		if (fstat(s->files[p].parent_fd, &st) || fstatvfs(s->files[p].parent_fd, &vfs))
			return st_fail(-errno, "%s: free space", st_dir_place(&s->files[p]).text);
		if (vfs.f_flag & ST_RDONLY)
			return st_dir_fail_read_only(&s->files[p]);
		for (unsigned k = 0; k < s->n_files; k++)
			if (!fstat(s->files[k].parent_fd, &other) && other.st_dev == st.st_dev)
				need += need_bytes[k];
		/* A file system in memory may know no limit and say 0 of 0. */
		if (vfs.f_blocks && need > free_bytes(&vfs))
			return no_space(&s->files[p], need, free_bytes(&vfs));
	}
	return 0;
}

int st_place_preallocate(const struct st_store_file *f, uint64_t off_bytes, uint64_t len_bytes)
{
	struct statvfs vfs;
	struct stat st;
	int rc;

	do
		rc = fallocate(f->fd, 0, (off_t)off_bytes, (off_t)len_bytes) ? -errno : 0;
	while (rc == -EINTR);
	if (rc == -ENOSPC && !fstatvfs(f->fd, &vfs))
		return no_space(f, len_bytes, free_bytes(&vfs));
	if (rc == -EDQUOT)
		return st_fail(
			STRATA_E_NO_FIT,
			"%s: %llu bytes (%.2f GiB) are needed, more than the disk quota of user %u "
			"leaves: raise the quota, or add a path.",
			st_dir_place(f).text, (unsigned long long)len_bytes,
			(double)len_bytes / GIB, (unsigned)geteuid());
	if (rc == -EFBIG)
		return st_fail(STRATA_E_NO_FIT,
			       "%s: a file of %llu bytes (%.2f GiB) is larger than this file "
			       "system or the limit of this process (ulimit -f) allows.",
			       st_dir_place(f).text, (unsigned long long)(off_bytes + len_bytes),
			       (double)(off_bytes + len_bytes) / GIB);
	if (rc == -EOPNOTSUPP) {
		st_log_once(
			ST_LOG_WARN,
			"%s: the file system cannot preallocate: if it fills up, a step will fail",
			st_dir_place(f).text);
		rc = fstat(f->fd, &st) ? -errno : 0;
		if (!rc && (uint64_t)st.st_size < off_bytes + len_bytes)
			rc = ftruncate(f->fd, (off_t)(off_bytes + len_bytes)) ? -errno : 0;
	}
	return rc ? st_fail(rc, "%s: preallocate %llu bytes", st_dir_place(f).text,
			    (unsigned long long)len_bytes)
		  : 0;
}

/* Only an empty file can be taken out of copy-on-write. */
static bool set_nocow(int fd)
{
	int flags = 0;

	if (ioctl(fd, FS_IOC_GETFLAGS, &flags))
		return false;
	flags |= FS_NOCOW_FL;
	return !ioctl(fd, FS_IOC_SETFLAGS, &flags);
}

void st_place_prepare(const struct st_store_file *f)
{
	const char *why = NULL;
	struct statfs fs;
	struct stat st;

	if (fstatfs(f->fd, &fs) || fstat(f->fd, &st))
		return; /* what fails here says so when it is used */
	if ((unsigned long)fs.f_type == BTRFS_SUPER_MAGIC) {
		if (set_nocow(f->fd)) {
			st_log_once(
				ST_LOG_INFO,
				"%s: copy-on-write is off for this file; a snapshot of the file "
				"system turns it on again, and what was preallocated is no "
				"promise any more",
				st_dir_place(f).text);
			return;
		}
		why = "a copy-on-write file system";
	} else if ((unsigned long)fs.f_type == ZFS_MAGIC ||
		   (unsigned long)fs.f_type == BCACHEFS_MAGIC) {
		why = "a copy-on-write file system";
	} else {
		why = why_thin(st.st_dev);
	}
	if (why)
		st_log_once(ST_LOG_WARN,
			    "%s: %s: preallocated space is no promise here; keep room free, or a "
			    "step may fail (the last commit stays)",
			    st_dir_place(f).text, why);
}

int st_place_clone(const struct st_store_file *f, const struct st_store_file *from,
		   uint64_t off_bytes, uint64_t len_bytes)
{
	struct file_clone_range r = { .src_fd = from->fd,
				      .src_offset = off_bytes,
				      .src_length = len_bytes,
				      .dest_offset = off_bytes };

	if (!ioctl(f->fd, FICLONERANGE, &r))
		return 0;
	switch (errno) {
	case ENOSPC:
	case EDQUOT:
	case EIO:
		return st_fail(-errno, "%s: share %llu bytes at offset %llu", f->path,
			       (unsigned long long)len_bytes, (unsigned long long)off_bytes);
	default: /* no such call, other blocks, other flags: all mean "copy instead" */
		return -EOPNOTSUPP;
	}
}
