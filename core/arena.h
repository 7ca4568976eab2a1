/* SPDX-License-Identifier: Apache-2.0 */
/*
 * core/arena.h - one contiguous range of host memory with a hard budget.
 *
 * Layer:   core
 * Threads: create and destroy from one thread; the memory is the caller's to share
 *
 * An arena is mapped and populated once, at start. Nothing is allocated from it at run time: the
 * planner gave every buffer its offset. What the engine keeps in memory for tensors lies in an
 * arena, so its size is the budget.
 */
#ifndef CORE_ARENA_H
#define CORE_ARENA_H

#include "core/status.h"

struct st_arena {
	char *base;     /* 2 MiB aligned; NULL when bytes is 0 */
	size_t bytes;   /* as asked, rounded up to 4096 */
	bool is_locked; /* mlock succeeded */
	bool is_huge;   /* transparent huge pages were advised */
};

/**
 * st_arena_init() - map, populate and, where the limit allows, lock `bytes` of zeroed memory.
 * @return 0; -ENOMEM (with the text of what was asked and what is there). A failed mlock is no
 *         failure: is_locked says so.
 */
ST_MUST_CHECK int st_arena_init(struct st_arena *a, size_t bytes, const char *name);

/** st_arena_resident_bytes() - how much of it lies in memory now. */
size_t st_arena_resident_bytes(const struct st_arena *a);

/** st_arena_fini() - unmap; a zeroed arena is accepted. */
void st_arena_fini(struct st_arena *a);

#endif
