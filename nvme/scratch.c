/* SPDX-License-Identifier: Apache-2.0 */
/* nvme/scratch.c - unnamed files for spilled gradients. */
#include "nvme/scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

struct slot {
	uint32_t path;
	uint64_t off_bytes, bytes, checksum;
};

struct st_scratch {
	unsigned n_paths;
	char **paths;
	int *fds;
	struct slot *slots;
};

static int open_unnamed(const char *path, uint64_t bytes)
{
	int fd = open(path, O_TMPFILE | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);
	int rc;

	if (fd < 0 && errno == EINVAL) /* a file system without O_DIRECT */
		fd = open(path, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		return st_fail(STRATA_E_INPUT,
			       "nvme_path %s: cannot make a scratch file there (%s)", path,
			       strata_strerror(-errno));
	rc = bytes ? posix_fallocate(fd, 0, (off_t)bytes) : 0;
	if (rc) {
		close(fd);
		return st_fail(-rc, "nvme_path %s: %llu MiB of scratch for gradients", path,
			       (unsigned long long)(bytes >> 20));
	}
	return fd;
}

int st_scratch_create(struct st_scratch **out, const char *const *paths, unsigned n_paths,
		      const uint64_t *slot_bytes, uint32_t n)
{
	struct st_scratch *s = calloc(1, sizeof(*s));
	uint64_t *end = calloc(n_paths, sizeof(*end));
	int rc = -ENOMEM;

	if (!s || !end)
		goto fail;
	s->paths = calloc(n_paths, sizeof(*s->paths));
	s->fds = malloc(n_paths * sizeof(*s->fds));
	s->slots = calloc(n, sizeof(*s->slots));
	if (!s->paths || !s->fds || !s->slots)
		goto fail;
	memset(s->fds, 0xff, n_paths * sizeof(*s->fds));
	s->n_paths = n_paths;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t at = i % n_paths;

		s->slots[i] =
			(struct slot){ .path = at, .off_bytes = end[at], .bytes = slot_bytes[i] };
		end[at] += slot_bytes[i];
	}
	for (unsigned p = 0; p < n_paths; p++) {
		s->paths[p] = strdup(paths[p]);
		if (!s->paths[p])
			goto fail;
		s->fds[p] = open_unnamed(paths[p], end[p]);
		if (s->fds[p] < 0) {
			rc = s->fds[p];
			goto fail;
		}
	}
	free(end);
	*out = s;
	return 0;

fail:
	free(end);
	st_scratch_destroy(s);
	return rc == -ENOMEM ? st_fail(rc, "scratch for gradients") : rc;
}

void st_scratch_destroy(struct st_scratch *s)
{
	if (!s)
		return;
	for (unsigned p = 0; p < s->n_paths; p++) {
		if (s->fds[p] >= 0)
			close(s->fds[p]);
		free(s->paths[p]);
	}
	free(s->paths);
	free(s->fds);
	free(s->slots);
	free(s);
}

int st_scratch_register_files(const struct st_scratch *s, struct st_aio_queue *q)
{
	int rc = 0;

	for (unsigned p = 0; !rc && p < s->n_paths; p++)
		rc = s->fds[p] < 0 ? 0 : st_aio_register_file(q, s->fds[p]);
	return rc;
}

void st_scratch_prep(struct st_scratch *s, uint32_t i, void *buf, bool is_write,
		     struct st_aio_req *req)
{
	const struct slot *slot = &s->slots[i];

	*req = (struct st_aio_req){
		.op = is_write ? ST_AIO_WRITE : ST_AIO_READ,
		.fd = s->fds[slot->path],
		.path = s->paths[slot->path],
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
	return XXH3_64bits_withSeed(buf, s->slots[i].bytes, i);
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
		       s->paths[slot->path], (unsigned long long)slot->off_bytes,
		       (unsigned long long)slot->bytes);
}
