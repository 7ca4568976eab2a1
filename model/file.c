/* SPDX-License-Identifier: Apache-2.0 */
/* model/file.c - careful opens and reads, and files that appear whole or not at all. */
#include "model/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define WRITEBACK_BYTES ((uint64_t)8 << 20)
#define IO_STEP_BYTES   ((size_t)1 << 30) /* below the kernel's limit of one read or write */

const char *st_show(struct st_show *s, const char *text)
{
	static const char hex[] = "0123456789abcdef";
	size_t len = strlen(text), start = 0, at = 0;

	/* The worst case is four bytes for one; a text that is plain keeps more of its end. */
	if (len > ST_SHOW_BYTES - 1) {
		start = len - (ST_SHOW_BYTES - 4);
		while (start < len && ((unsigned char)text[start] & 0xc0) == 0x80)
			start++; /* not in the middle of a UTF-8 character */
		memcpy(s->text, "...", 3);
		at = 3;
	}
	for (size_t i = start; i < len; i++) {
		unsigned char c = (unsigned char)text[i];
		/* A C1 control is two bytes in UTF-8: 0xc2, then 0x80 .. 0x9f. */
		bool is_c1 = c == 0xc2 && (unsigned char)text[i + 1] - 0x80u < 0x20u;
		bool is_c1_end =
			i > start && (unsigned char)text[i - 1] == 0xc2 && c - 0x80u < 0x20u;

		if (at + 5 > ST_SHOW_BYTES)
			break;
		if (c < 0x20 || c == 0x7f || is_c1 || is_c1_end) {
			s->text[at++] = '\\';
			s->text[at++] = 'x';
			s->text[at++] = hex[c >> 4];
			s->text[at++] = hex[c & 15];
		} else {
			s->text[at++] = (char)c;
		}
	}
	s->text[at] = '\0';
	return s->text;
}

/* One component below dirfd, never out of it. */
static int open_beneath(int dirfd, const char *name, int flags)
{
	struct open_how how = {
		.flags = (uint64_t)flags,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
	};
	int fd, tries = 8;

	do { /* EAGAIN: a directory was renamed during the walk */
		fd = (int)syscall(SYS_openat2, dirfd, name, &how, sizeof(how));
	} while (fd < 0 && (errno == EAGAIN || errno == EINTR) && --tries);
	/* Old kernels say ENOSYS, old container filters EPERM. */
	if (fd < 0 && (errno == ENOSYS || errno == EPERM))
		fd = openat(dirfd, name, flags | O_NOFOLLOW);
	return fd;
}

static int open_failed(int err, bool is_beneath, const char *shown)
{
	struct st_show s;

	st_show(&s, shown);
	if (is_beneath && (err == EXDEV || err == ELOOP))
		return st_fail(STRATA_E_INPUT,
			       "%s: a symbolic link that leaves its directory is not followed; put "
			       "the file itself there",
			       s.text);
	switch (err) {
	case ENOENT:
	case ENOTDIR:
	case EACCES:
	case ELOOP:
	case EISDIR:
	case ENXIO:
	case ENAMETOOLONG:
		return st_fail(STRATA_E_INPUT, "%s: cannot open: %s", s.text,
			       strata_strerror(-err));
	default:
		return st_fail(-err, "%s: cannot open", s.text);
	}
}

static const char *kind_of(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFDIR:
		return "a directory";
	case S_IFIFO:
		return "a pipe";
	case S_IFSOCK:
		return "a socket";
	default:
		return "a device";
	}
}

int st_file_open(int dirfd, const char *name, bool is_beneath, const char *shown,
		 uint64_t *size_bytes)
{
	/* O_NONBLOCK: opening a FIFO without a writer would wait for ever. */
	const int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
	struct stat st;
	struct st_show s;
	int fd, rc;

	fd = is_beneath ? open_beneath(dirfd, name, flags) : openat(dirfd, name, flags);
	if (fd < 0)
		return open_failed(errno, is_beneath, shown);
	if (fstat(fd, &st) < 0) {
		rc = st_fail(-errno, "%s: stat", st_show(&s, shown));
		close(fd);
		return rc;
	}
	if (!S_ISREG(st.st_mode)) {
		close(fd);
		return st_fail(STRATA_E_INPUT, "%s: is %s; a regular file is needed",
			       st_show(&s, shown), kind_of(st.st_mode));
	}
	*size_bytes = (uint64_t)st.st_size;
	return fd;
}

int st_file_read(int fd, void *buf, size_t len_bytes, uint64_t off_bytes, const char *shown)
{
	char *to = buf;
	struct st_show s;

	while (len_bytes) {
		size_t step = len_bytes < IO_STEP_BYTES ? len_bytes : IO_STEP_BYTES;
		ssize_t got = pread(fd, to, step, (off_t)off_bytes);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return st_fail(-errno, "%s: read of %zu bytes at byte %llu",
				       st_show(&s, shown), len_bytes,
				       (unsigned long long)off_bytes);
		if (got == 0)
			return st_fail(STRATA_E_INPUT,
				       "%s: ends at byte %llu: it became shorter while in use",
				       st_show(&s, shown), (unsigned long long)off_bytes);
		to += got;
		len_bytes -= (size_t)got;
		off_bytes += (uint64_t)got;
	}
	return 0;
}

void st_file_drop(int fd, uint64_t off_bytes, uint64_t len_bytes)
{
	(void)posix_fadvise(fd, (off_t)off_bytes, (off_t)len_bytes, POSIX_FADV_DONTNEED);
}

static int random_name(struct st_outfile *o)
{
	uint64_t r;

	if (getrandom(&r, sizeof(r), 0) != (ssize_t)sizeof(r))
		return -errno;
	snprintf(o->tmp, sizeof(o->tmp), ".strata-%016llx.tmp", (unsigned long long)r);
	return 0;
}

/* A file without a name: whatever kills the process, nothing is left. */
static int open_nameless(const struct st_outfile *o)
{
	char link[40];
	int fd = openat(o->dirfd, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0644);

	if (fd < 0)
		return -1;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if (access(link, F_OK) < 0) { /* no /proc: it could not get its name later */
		close(fd);
		return -1;
	}
	return fd;
}

static int open_named(struct st_outfile *o)
{
	int rc;

	for (int tries = 0; tries < 16; tries++) {
		rc = random_name(o);
		if (rc < 0)
			return rc;
		o->fd = openat(o->dirfd, o->tmp,
			       O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
		if (o->fd >= 0) {
			o->is_named = true;
			return 0;
		}
		if (errno != EEXIST)
			return -errno;
	}
	return -EEXIST;
}

static int open_dir_of(struct st_outfile *o, const char *path)
{
	struct st_show s;
	char *slash;

	o->path = strdup(path);
	if (!o->path)
		return st_fail(-ENOMEM, "%s: create", st_show(&s, path));
	slash = strrchr(o->path, '/');
	o->base = slash ? slash + 1 : o->path;
	if (!o->base[0] || !strcmp(o->base, ".") || !strcmp(o->base, ".."))
		return st_fail(-EISDIR, "%s: create", st_show(&s, path));
	if (!slash) {
		o->dirfd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	} else if (slash == o->path) {
		o->dirfd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	} else {
		*slash = '\0';
		o->dirfd = open(o->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		*slash = '/';
	}
	if (o->dirfd < 0)
		return st_fail(-errno, "%s: cannot open its directory", st_show(&s, path));
	return 0;
}

int st_outfile_open(struct st_outfile *o, const char *path, uint64_t size_bytes)
{
	struct stat st;
	struct st_show s;
	int rc;

	*o = (struct st_outfile){ .fd = -1, .dirfd = -1 };
	rc = open_dir_of(o, path);
	if (rc < 0)
		goto fail;
	if (!fstatat(o->dirfd, o->base, &st, AT_SYMLINK_NOFOLLOW) && !S_ISREG(st.st_mode) &&
	    !S_ISLNK(st.st_mode)) {
		rc = st_fail(-EEXIST, "%s: is %s and is not replaced.", st_show(&s, path),
			     kind_of(st.st_mode));
		goto fail;
	}
	o->fd = open_nameless(o);
	if (o->fd < 0) {
		rc = open_named(o);
		if (rc < 0) {
			st_fail(rc, "%s: create", st_show(&s, path));
			goto fail;
		}
	}
	/* Not every file system can; one that can says now that it is full. */
	if (size_bytes && fallocate(o->fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)size_bytes) < 0 &&
	    errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL && errno != EINTR) {
		rc = st_fail(-errno, "%s: reserve %llu bytes", st_show(&s, path),
			     (unsigned long long)size_bytes);
		goto fail;
	}
	return 0;

fail:
	st_outfile_abort(o);
	return rc;
}

/*
 * Start write-back early and forget what is on disk: a large file neither fills the page cache nor
 * leaves a long fsync. Waiting reports (and thereby clears) write errors, so it must be heeded.
 */
static int write_behind(struct st_outfile *o)
{
	const unsigned wait =
		SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
	uint64_t off = o->synced_bytes;

	if (o->len_bytes - off < WRITEBACK_BYTES)
		return 0;
	if (off >= WRITEBACK_BYTES) {
		off_t old = (off_t)(off - WRITEBACK_BYTES);

		if (sync_file_range(o->fd, old, (off_t)WRITEBACK_BYTES, wait) < 0 &&
		    errno != ENOSYS && errno != EINVAL && errno != ESPIPE)
			return -errno;
		st_file_drop(o->fd, (uint64_t)old, WRITEBACK_BYTES);
	}
	if (sync_file_range(o->fd, (off_t)off, (off_t)WRITEBACK_BYTES, SYNC_FILE_RANGE_WRITE) < 0 &&
	    errno != ENOSYS && errno != EINVAL && errno != ESPIPE)
		return -errno;
	o->synced_bytes = off + WRITEBACK_BYTES;
	return 0;
}

int st_outfile_write(struct st_outfile *o, const void *buf, size_t len_bytes)
{
	const char *from = buf;
	struct st_show s;
	int rc = 0;

	if (o->is_failed)
		return st_fail(-EIO, "%s: an earlier write failed.", st_show(&s, o->path));
	while (len_bytes && rc == 0) {
		size_t step = len_bytes < WRITEBACK_BYTES ? len_bytes : (size_t)WRITEBACK_BYTES;
		ssize_t put = pwrite(o->fd, from, step, (off_t)o->len_bytes);

		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0) {
			rc = put < 0 ? -errno : -EIO;
			break;
		}
		from += put;
		len_bytes -= (size_t)put;
		o->len_bytes += (uint64_t)put;
		rc = write_behind(o);
	}
	if (rc < 0) {
		o->is_failed = true;
		st_fail(rc, "%s: write at byte %llu", st_show(&s, o->path),
			(unsigned long long)o->len_bytes);
	}
	return rc;
}

/* Give a nameless file its temporary name. */
static int name_it(struct st_outfile *o)
{
	char link[40];
	int rc;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", o->fd);
	for (int tries = 0; tries < 16; tries++) {
		rc = random_name(o);
		if (rc < 0)
			return rc;
		if (!linkat(AT_FDCWD, link, o->dirfd, o->tmp, AT_SYMLINK_FOLLOW)) {
			o->is_named = true;
			return 0;
		}
		if (errno != EEXIST)
			return -errno;
	}
	return -EEXIST;
}

int st_outfile_commit(struct st_outfile *o)
{
	struct st_show s;
	int rc;

	st_show(&s, o->path);
	if (o->is_failed) {
		rc = st_fail(-EIO, "%s: an earlier write failed.", s.text);
		goto out;
	}
	if (fsync(o->fd) < 0) {
		rc = st_fail(-errno, "%s: fsync", s.text);
		goto out;
	}
	if (!o->is_named) {
		rc = name_it(o);
		if (rc < 0) {
			st_fail(rc, "%s: create", s.text);
			goto out;
		}
	}
	if (renameat(o->dirfd, o->tmp, o->dirfd, o->base) < 0) {
		rc = st_fail(-errno, "%s: rename", s.text);
		goto out;
	}
	o->is_named = false;
	rc = 0;
	if (fsync(o->dirfd) < 0 && errno != EINVAL) /* EINVAL: not a thing on this file system */
		rc = st_fail(-errno, "%s: in place, but fsync of its directory failed", s.text);
out:
	st_outfile_abort(o);
	return rc;
}

void st_outfile_abort(struct st_outfile *o)
{
	int kept = errno;

	if (o->is_named)
		(void)unlinkat(o->dirfd, o->tmp, 0);
	if (o->fd >= 0)
		close(o->fd);
	if (o->dirfd >= 0)
		close(o->dirfd);
	free(o->path);
	*o = (struct st_outfile){ .fd = -1, .dirfd = -1 };
	errno = kept;
}

static bool is_temporary(const char *name)
{
	static const char before[] = ".strata-", after[] = ".tmp";
	size_t digits;

	if (strncmp(name, before, strlen(before)))
		return false;
	name += strlen(before);
	digits = strspn(name, "0123456789abcdef");
	return digits == 16 && !strcmp(name + digits, after);
}

void st_outfile_sweep(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *e;

	while (d && (e = readdir(d)))
		if (is_temporary(e->d_name))
			(void)unlinkat(dirfd(d), e->d_name, 0);
	if (d)
		closedir(d);
}
