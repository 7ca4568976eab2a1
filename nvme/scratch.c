/* SPDX-License-Identifier: Apache-2.0 */
/* nvme/scratch.c - unnamed files for spilled gradients. */
#include "nvme/scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/checksum.h"
#include "nvme/dir.h"

struct slot {
	uint32_t path;
	uint64_t off_bytes, bytes, checksum;
};

struct st_scratch {
	unsigned n_paths;
	struct st_store_file files[ST_STORE_PATHS_MAX]; /* path: the directory, for messages */
	struct slot *slots;
};

/* Where the file system has no files without a name, one that loses its name at once. */
static int open_unnamed(const char *path)
{
	uint8_t id[ST_STORE_ID_BYTES];
	char name[3 * ST_STORE_ID_BYTES] = ".strata-scratch-";
	int fd = open(path, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600), dir_fd;

	if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL))
		return fd;
	if (st_dir_random_id(id))
		return -1;
	for (size_t i = 0, n = strlen(name); i < ST_STORE_ID_BYTES; i++)
		snprintf(name + n + i, 2, "%x", id[i] & 15u);
	dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir_fd < 0)
		return -1;
	fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd >= 0 && unlinkat(dir_fd, name, 0)) {
		close(fd);
		fd = -1;
	}
	close(dir_fd);
	return fd;
}

static int open_file(struct st_store_file *f, const char *path, uint64_t bytes)
{
	int rc;

	f->path = realpath(path, NULL); /* as the store calls it, so that nothing is said twice */
	if (!f->path)
		f->path = strdup(path);
	if (!f->path)
		return st_fail(-ENOMEM, "scratch for gradients");
	f->fd = open_unnamed(path);
	if (f->fd < 0)
		return st_fail(STRATA_E_INPUT,
			       "nvme_path %s: cannot make a scratch file there (%s)", path,
			       strata_strerror(-errno));
	st_place_prepare(f);
	rc = bytes ? st_place_preallocate(f, 0, bytes) : 0;
	return rc || !bytes ? rc : st_place_set_direct(f);
}

int st_scratch_create(struct st_scratch **out, const char *const *paths, unsigned n_paths,
		      const uint32_t *weights, const uint64_t *slot_bytes, uint32_t n)
{
	uint64_t end[ST_STORE_PATHS_MAX] = { 0 };
	uint32_t equal[ST_STORE_PATHS_MAX];
	struct st_scratch *s;
	int rc = 0;

	if (!n_paths || n_paths > ST_STORE_PATHS_MAX)
		return st_fail(-EINVAL, "scratch on %u paths: must be 1 to %u.", n_paths,
			       ST_STORE_PATHS_MAX);
	s = calloc(1, sizeof(*s));
	if (!s)
		return st_fail(-ENOMEM, "scratch for gradients");
	s->n_paths = n_paths;
	for (unsigned p = 0; p < n_paths; p++) {
		s->files[p] = (struct st_store_file)ST_STORE_FILE_NONE;
		equal[p] = 1;
	}
	s->slots = calloc(n, sizeof(*s->slots));
	if (!s->slots)
		rc = st_fail(-ENOMEM, "scratch for gradients");
	for (uint32_t i = 0; !rc && i < n; i++) {
		unsigned at =
			st_store_pick_path(end, weights ? weights : equal, n_paths, slot_bytes[i]);

		s->slots[i] =
			(struct slot){ .path = at, .off_bytes = end[at], .bytes = slot_bytes[i] };
		end[at] += slot_bytes[i];
	}
	for (unsigned p = 0; !rc && p < n_paths; p++)
		rc = open_file(&s->files[p], paths[p], end[p]);
	if (rc) {
		st_scratch_destroy(s);
		return rc;
	}
	*out = s;
	return 0;
}

void st_scratch_destroy(struct st_scratch *s)
{
	if (!s)
		return;
	for (unsigned p = 0; p < s->n_paths; p++) {
		if (s->files[p].fd >= 0)
			close(s->files[p].fd);
		free(s->files[p].path);
	}
	free(s->slots);
	free(s);
}

int st_scratch_register_files(const struct st_scratch *s, struct st_aio_queue *q)
{
	int rc = 0;

	for (unsigned p = 0; !rc && p < s->n_paths; p++)
		rc = s->files[p].fd < 0 ? 0 : st_aio_register_file(q, s->files[p].fd);
	return rc;
}

void st_scratch_prep(struct st_scratch *s, uint32_t i, void *buf, bool is_write,
		     struct st_aio_req *req)
{
	const struct slot *slot = &s->slots[i];

	*req = (struct st_aio_req){
		.op = is_write ? ST_AIO_WRITE : ST_AIO_READ,
		.fd = s->files[slot->path].fd,
		.path = s->files[slot->path].path,
		.buf = buf,
		.len_bytes = slot->bytes,
		.off_bytes = slot->off_bytes,
	};
}

int st_scratch_prep_read_range(struct st_scratch *s, uint32_t i, uint64_t off_bytes,
			       uint64_t len_bytes, void *buf, struct st_aio_req *req)
{
	const struct slot *slot = &s->slots[i];

	if (!len_bytes || (off_bytes | len_bytes) % ST_AIO_ALIGN || off_bytes > slot->bytes ||
	    len_bytes > slot->bytes - off_bytes)
		return st_fail(-EINVAL,
			       "scratch: bytes %llu to %llu of slot %u of %llu bytes: give whole "
			       "blocks of %zu inside it.",
			       (unsigned long long)off_bytes,
			       (unsigned long long)(off_bytes + len_bytes), i,
			       (unsigned long long)slot->bytes, ST_AIO_ALIGN);
	st_scratch_prep(s, i, buf, false, req);
	req->len_bytes = len_bytes;
	req->off_bytes += off_bytes;
	return 0;
}

uint64_t st_scratch_checksum(const struct st_scratch *s, uint32_t i, const void *buf)
{
	return st_checksum(buf, s->slots[i].bytes, i);
}

void st_scratch_write_done(struct st_scratch *s, uint32_t i, uint64_t checksum)
{
	s->slots[i].checksum = checksum;
}

int st_scratch_read_verify(const struct st_scratch *s, uint32_t i, uint64_t checksum)
{
	const struct slot *slot = &s->slots[i];

	if (checksum == slot->checksum)
		return 0;
	return st_fail(STRATA_E_CORRUPT,
		       "scratch in %s, offset %llu, %llu bytes: not what was written",
		       s->files[slot->path].path, (unsigned long long)slot->off_bytes,
		       (unsigned long long)slot->bytes);
}
