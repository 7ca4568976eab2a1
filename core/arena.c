/* SPDX-License-Identifier: Apache-2.0 */
/* core/arena.c - mapped, populated and locked host memory. */
#include "core/arena.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_BYTES ((size_t)2 << 20)

int st_arena_init(struct st_arena *a, size_t bytes, const char *name)
{
	size_t map_bytes;
	char *map, *base;

	memset(a, 0, sizeof(*a));
	if (bytes > SIZE_MAX / 2)
		return st_fail(-ENOMEM, "%s arena: %zu bytes cannot be mapped", name, bytes);
	bytes = (bytes + 4095) & ~(size_t)4095;
	if (!bytes)
		return 0;
	/* Mapped with slack, then trimmed, so that the base is aligned for huge pages. */
	map_bytes = bytes + HUGE_BYTES;
	map = mmap(NULL, map_bytes, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (map == MAP_FAILED)
		return st_fail(-errno, "%s arena: mapping %zu MiB (lower strata.%s.memory)", name,
			       bytes >> 20, name);
	base = (char *)(((uintptr_t)map + HUGE_BYTES - 1) & ~(uintptr_t)(HUGE_BYTES - 1));
	if (base > map)
		munmap(map, (size_t)(base - map));
	if (map + map_bytes > base + bytes)
		munmap(base + bytes, (size_t)(map + map_bytes - (base + bytes)));
	a->is_huge = madvise(base, bytes, MADV_HUGEPAGE) == 0;
	madvise(base, bytes, MADV_DONTDUMP); /* weights and data stay out of core dumps */
	if (madvise(base, bytes, MADV_POPULATE_WRITE) && errno == ENOMEM) {
		munmap(base, bytes);
		return st_fail(-ENOMEM, "%s arena: %zu MiB are not there; lower the budget", name,
			       bytes >> 20);
	}
	a->is_locked = mlock(base, bytes) == 0;
	a->base = base;
	a->bytes = bytes;
	return 0;
}

size_t st_arena_resident_bytes(const struct st_arena *a)
{
	unsigned char in[1024];
	size_t sum = 0;

	for (size_t at = 0; at < a->bytes; at += sizeof(in) * 4096) {
		size_t n = a->bytes - at < sizeof(in) * 4096 ? a->bytes - at : sizeof(in) * 4096;

		if (mincore(a->base + at, n, in))
			return 0;
		for (size_t i = 0; i < n / 4096; i++)
			sum += in[i] & 1 ? 4096 : 0;
	}
	return sum;
}

void st_arena_fini(struct st_arena *a)
{
	if (a->base)
		munmap(a->base, a->bytes);
	memset(a, 0, sizeof(*a));
}
