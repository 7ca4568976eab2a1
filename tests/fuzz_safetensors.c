/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/fuzz_safetensors.c - any bytes as a safetensors file and as an index.
 *
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -DST_FUZZ_MUTATOR -D_GNU_SOURCE -I. -Iinclude
 * \
 *       tests/fuzz_safetensors.c model/safetensors.c model/json_scan.c model/file.c core/status.c \
 *       -ljansson -o fuzz_safetensors && ./fuzz_safetensors DIR tests/corpus/safetensors
 *
 * tests/test_safetensors.c includes this file and replays the seeds. What is accepted must hold
 * together: names are found, every element can be read, tensors are not larger than the file.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* One F32 [2] tensor named `name`, as a whole file. */
#define FUZZ_SHARD(name)                                                                           \
	"\x40\0\0\0\0\0\0\0"                                                                       \
	"{\"" name "\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}          "        \
	"\0\0\x80\x3f\0\0\0\x40"

static char fuzz_dir[64];

static void fuzz_put(const char *name, const void *data, size_t size)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", fuzz_dir, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	ST_ASSERT(fd >= 0 && write(fd, data, size) == (ssize_t)size);
	close(fd);
}

static void fuzz_clean(void)
{
	static const char *const names[] = { "a.safetensors", "b.safetensors", "x.index.json" };
	char path[128];

	for (size_t i = 0; i < ST_ARRAY_LEN(names); i++) {
		snprintf(path, sizeof(path), "%s/%s", fuzz_dir, names[i]);
		unlink(path);
	}
	rmdir(fuzz_dir);
}

static void fuzz_setup(void)
{
	const char *tmp = getenv("TMPDIR");

	if (fuzz_dir[0])
		return;
	if (!tmp || strlen(tmp) > 32)
		tmp = "/tmp";
	snprintf(fuzz_dir, sizeof(fuzz_dir), "%s/fuzz-st-XXXXXX", tmp);
	ST_ASSERT(mkdtemp(fuzz_dir));
	ST_ASSERT(!atexit(fuzz_clean));
	ST_ASSERT(sizeof(FUZZ_SHARD("a")) - 1 == 8 + 0x40 + 8);
	fuzz_put("a.safetensors", FUZZ_SHARD("a"), sizeof(FUZZ_SHARD("a")) - 1);
	fuzz_put("b.safetensors", FUZZ_SHARD("b"), sizeof(FUZZ_SHARD("b")) - 1);
}

/* What was opened, or why not: both must be in order. */
static void fuzz_check(int rc, struct st_safetensors *s, uint64_t total_bytes)
{
	uint64_t sum = 0;

	if (rc < 0) {
		ST_ASSERT(st_last_error()[0] && !strchr(st_last_error(), '\n'));
		ST_ASSERT(!s);
		return;
	}
	for (size_t i = 0; i < st_safetensors_count(s); i++) {
		struct st_safetensors_info info;
		uint64_t elems = 1;
		float *out;

		st_safetensors_info(s, i, &info);
		ST_ASSERT(st_safetensors_find(s, info.name) == (int64_t)i);
		for (unsigned d = 0; d < info.n_dims; d++)
			ST_ASSERT(!__builtin_mul_overflow(elems, info.dims[d], &elems));
		ST_ASSERT(elems == info.elems);
		if (!info.is_float)
			continue;
		sum += info.elems * st_dtype_bytes(info.dtype);
		ST_ASSERT(sum <= total_bytes);
		out = malloc(info.elems * sizeof(*out) + 1);
		ST_ASSERT(out);
		ST_ASSERT(st_safetensors_read(s, i, 0, info.elems, out) == 0);
		ST_ASSERT(st_safetensors_read(s, i, info.elems, 1, out) == -EINVAL);
		free(out);
	}
	st_safetensors_close(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct st_safetensors *s = NULL;
	char path[128];
	int fd, rc;

	fuzz_setup();
	fd = memfd_create("fuzz", MFD_CLOEXEC);
	ST_ASSERT(fd >= 0 && write(fd, data, size) == (ssize_t)size);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	rc = st_safetensors_open(&s, path);
	fuzz_check(rc, s, size);
	close(fd);

	s = NULL;
	fuzz_put("x.index.json", data, size);
	snprintf(path, sizeof(path), "%s/x.index.json", fuzz_dir);
	rc = st_safetensors_open(&s, path);
	fuzz_check(rc, s, 16);
	return 0;
}

#ifdef ST_FUZZ_MUTATOR
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

/* Mostly: mutate the JSON alone and keep the length before it right; else: any bytes. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
	uint64_t header = 0, room, now;
	uint8_t *tail;
	size_t tail_bytes;

	if (size >= 8)
		memcpy(&header, data, 8);
	if (seed % 4 == 0 || size < 8 || header > size - 8)
		return LLVMFuzzerMutate(data, size, max_size);
	tail_bytes = size - 8 - header;
	tail = malloc(tail_bytes + 1);
	if (!tail)
		return size;
	memcpy(tail, data + 8 + header, tail_bytes);
	room = max_size - 8 - tail_bytes;
	now = LLVMFuzzerMutate(data + 8, header, room);
	memcpy(data, &now, 8);
	memcpy(data + 8 + now, tail, tail_bytes);
	free(tail);
	return 8 + now + tail_bytes;
}
#endif
