/* SPDX-License-Identifier: Apache-2.0 */
/* bench/pattern.c - stamps and bodies of measured blocks. */
#include "bench/pattern.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define STEP  0x9e3779b97f4a7c15ull /* between the stamps of two sectors; odd */
#define STAMP sizeof(uint64_t)

static uint64_t mix(uint64_t x)
{
	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9ull;
	x ^= x >> 27;
	x *= 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

static uint64_t first_stamp(const struct st_pattern *p, uint64_t nr, uint32_t generation)
{
	return mix(mix(p->seed ^ mix(nr + STEP)) + (generation + 1) * STEP);
}

int st_pattern_init(struct st_pattern *p, size_t block_bytes, uint64_t seed)
{
	uint64_t x = seed;
	char *body;

	if (!block_bytes || block_bytes % ST_PATTERN_SECTOR)
		return st_fail(-EINVAL, "pattern: blocks of %zu bytes: must be sectors of %zu.",
			       block_bytes, ST_PATTERN_SECTOR);
	body = malloc(block_bytes);
	if (!body)
		return st_fail(-ENOMEM, "pattern: a block of %zu bytes", block_bytes);
	for (size_t i = 0; i < block_bytes; i += sizeof(x)) {
		uint64_t word = mix(x += STEP);

		memcpy(body + i, &word, sizeof(word));
	}
	*p = (struct st_pattern){ .block_bytes = block_bytes, .seed = seed, .body = body };
	return 0;
}

void st_pattern_fini(struct st_pattern *p)
{
	free(p->body);
	p->body = NULL;
}

void st_pattern_body(const struct st_pattern *p, void *block)
{
	memcpy(block, p->body, p->block_bytes);
}

void st_pattern_stamp(const struct st_pattern *p, void *block, uint64_t nr, uint32_t generation)
{
	uint64_t stamp = first_stamp(p, nr, generation);
	char *at = block;

	for (size_t i = 0; i < p->block_bytes; i += ST_PATTERN_SECTOR, stamp += STEP)
		memcpy(at + i, &stamp, STAMP);
}

size_t st_pattern_wrong(const struct st_pattern *p, const void *block, uint64_t nr,
			uint32_t generation)
{
	uint64_t stamp = first_stamp(p, nr, generation);
	const char *at = block;
	size_t n = 0;

	for (size_t i = 0; i < p->block_bytes; i += ST_PATTERN_SECTOR, stamp += STEP)
		n += memcmp(at + i, &stamp, STAMP) != 0;
	return n;
}

size_t st_pattern_wrong_all(const struct st_pattern *p, const void *block, uint64_t nr,
			    uint32_t generation)
{
	uint64_t stamp = first_stamp(p, nr, generation);
	const char *at = block;
	size_t n = 0;

	for (size_t i = 0; i < p->block_bytes; i += ST_PATTERN_SECTOR, stamp += STEP)
		n += memcmp(at + i, &stamp, STAMP) ||
		     memcmp(at + i + STAMP, p->body + i + STAMP, ST_PATTERN_SECTOR - STAMP);
	return n;
}
