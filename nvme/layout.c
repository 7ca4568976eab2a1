/* SPDX-License-Identifier: Apache-2.0 */
/* nvme/layout.c - the extent map: which path and offset each extent has; a store in memory. */
#include "nvme/store_priv.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define DATA_ALIGN ((uint64_t)1 << 20)

static uint64_t round_up(uint64_t n, uint64_t to)
{
	return (n + to - 1) / to * to;
}

/* Each path has room for a table of all extents, so that sizes do not depend on the weights. */
static uint64_t table_area_bytes(uint32_t n_extents)
{
	return round_up((uint64_t)n_extents * sizeof(struct st_store_entry), ST_STORE_BLOCK);
}

size_t st_store_names_bytes(uint32_t n_extents)
{
	return round_up((uint64_t)n_extents * sizeof(struct st_store_name), ST_STORE_BLOCK);
}

uint64_t st_store_names_off(uint32_t n_extents)
{
	return ST_STORE_TABLES + 2 * table_area_bytes(n_extents);
}

uint64_t st_store_table_off(const struct st_store *s, unsigned area)
{
	return ST_STORE_TABLES + area * s->table_area_bytes;
}

static uint64_t data_off(uint32_t n_extents)
{
	return round_up(st_store_names_off(n_extents) + st_store_names_bytes(n_extents),
			DATA_ALIGN);
}

uint64_t st_store_disk_bytes(const uint64_t *extent_bytes, uint32_t n_extents, unsigned n_paths)
{
	uint64_t sum = 0;

	for (uint32_t e = 0; e < n_extents; e++)
		sum += 2 * extent_bytes[e];
	return sum + n_paths * data_off(n_extents);
}

const char *st_store_extent_name(const struct st_store *s, uint32_t e)
{
	return s->names && s->names[e] ? s->names[e] : "extent";
}

uint64_t st_store_extent_bytes(const struct st_store *s, uint32_t e)
{
	return s->extents[e].bytes;
}

uint32_t st_store_n_extents(const struct st_store *s)
{
	return s->n_extents;
}

int st_store_make_names(const struct st_store *s, struct st_store_name **out)
{
	struct st_store_name *names = aligned_alloc(ST_STORE_BLOCK, s->names_bytes);

	if (!names)
		return st_fail(-ENOMEM, "store: names of %u extents", s->n_extents);
	memset(names, 0, s->names_bytes);
	for (uint32_t e = 0; e < s->n_extents; e++) {
		const char *text = st_store_extent_name(s, e);
		size_t len = strlen(text), room = sizeof(names[e].text) - 1;

		names[e].bytes = s->extents[e].bytes;
		memcpy(names[e].text, len > room ? text + len - room : text,
		       len > room ? room : len);
	}
	*out = names;
	return 0;
}

uint64_t st_store_where(const struct st_store *s, uint32_t e, unsigned slot)
{
	const struct st_store_extent *x = &s->extents[e];
	const struct st_store_file *f = &s->files[x->path];

	return f->data_off + slot * f->data_bytes + x->off_bytes;
}

static int check_cfg(const struct st_store_cfg *cfg, unsigned n_paths, const uint32_t *weights)
{
	uint64_t sum = 0;

	if (n_paths < 1 || n_paths > ST_STORE_PATHS_MAX)
		return st_fail(-EINVAL, "store: %u paths: must be 1 to %u.", n_paths,
			       ST_STORE_PATHS_MAX);
	if (!cfg->n_extents || !cfg->extent_bytes)
		return st_fail(-EINVAL, "store: no extents.");
	for (unsigned p = 0; p < n_paths; p++)
		if (!weights[p])
			return st_fail(-EINVAL, "store: weight of path %u is 0: must be positive.",
				       p);
	for (uint32_t e = 0; e < cfg->n_extents; e++) {
		uint64_t bytes = cfg->extent_bytes[e];

		if (!bytes || bytes % ST_STORE_BLOCK)
			return st_fail(
				-EINVAL,
				"store: extent %u has %llu bytes: must be a positive multiple "
				"of %zu.",
				e, (unsigned long long)bytes, ST_STORE_BLOCK);
		if (__builtin_add_overflow(sum, bytes, &sum) || sum > INT64_MAX / 4)
			return st_fail(-EINVAL, "store: the extents' sizes overflow at extent %u.",
				       e);
	}
	return 0;
}

unsigned st_store_pick_path(const uint64_t *used_bytes, const uint32_t *weights, unsigned n_paths,
			    uint64_t bytes)
{
	unsigned best = 0;

	for (unsigned p = 1; p < n_paths; p++) {
		unsigned __int128 a = (unsigned __int128)used_bytes[p] + bytes;
		unsigned __int128 b = (unsigned __int128)used_bytes[best] + bytes;

		if (a * weights[best] < b * weights[p])
			best = p;
	}
	return best;
}

static void assign(struct st_store *s, const uint64_t *extent_bytes)
{
	uint64_t used[ST_STORE_PATHS_MAX] = { 0 };

	for (uint32_t e = 0; e < s->n_extents; e++) {
		struct st_store_extent *x = &s->extents[e];
		unsigned p = st_store_pick_path(used, s->weights, s->n_files, extent_bytes[e]);

		x->bytes = extent_bytes[e];
		x->path = (uint8_t)p;
		x->off_bytes = used[p];
		x->index = s->files[p].n_extents++;
		x->durable_slot = ST_STORE_NO_SLOT;
		used[p] += x->bytes;
	}
	for (unsigned p = 0; p < s->n_files; p++)
		s->files[p].data_bytes = used[p];
}

static uint64_t map_hash(const struct st_store *s, const uint64_t *extent_bytes)
{
	uint64_t h = XXH3_64bits(extent_bytes, s->n_extents * sizeof(extent_bytes[0]));

	return XXH3_64bits_withSeed(s->weights, s->n_files * sizeof(s->weights[0]), h);
}

static int alloc_tables(struct st_store *s)
{
	for (unsigned p = 0; p < s->n_files; p++) {
		struct st_store_file *f = &s->files[p];

		f->data_off = data_off(s->n_extents);
		f->file_bytes = f->data_off + 2 * f->data_bytes;
		f->table_bytes = table_area_bytes(f->n_extents);
		f->stale_to[0] = f->stale_to[1] = f->table_bytes;
		if (!f->table_bytes)
			continue;
		f->table = aligned_alloc(ST_STORE_BLOCK, f->table_bytes);
		if (!f->table)
			return -ENOMEM;
		memset(f->table, 0, f->table_bytes);
	}
	return 0;
}

int st_store_layout(struct st_store **out, const struct st_store_cfg *cfg, unsigned n_paths,
		    const uint32_t *weights, const uint8_t *id, const uint8_t *origin)
{
	struct st_store *s;
	int rc = check_cfg(cfg, n_paths, weights);

	if (rc)
		return rc;
	s = calloc(1, sizeof(*s));
	if (!s)
		return st_fail(-ENOMEM, "store");
	for (unsigned p = 0; p < ST_STORE_PATHS_MAX; p++)
		s->files[p] = (struct st_store_file)ST_STORE_FILE_NONE;
	s->n_files = n_paths;
	s->n_extents = cfg->n_extents;
	s->names = cfg->extent_names;
	s->verifies = cfg->checksum;
	s->verifies_on_open = cfg->verifies_on_open;
	memcpy(s->weights, weights, n_paths * sizeof(weights[0]));
	memcpy(s->id, id, ST_STORE_ID_BYTES);
	memcpy(s->origin, origin ? origin : id, ST_STORE_ID_BYTES);
	s->seed = XXH3_64bits(s->origin, ST_STORE_ID_BYTES);
	s->table_area_bytes = table_area_bytes(s->n_extents);
	s->names_bytes = st_store_names_bytes(s->n_extents);
	s->extents = calloc(s->n_extents, sizeof(*s->extents));
	s->root = aligned_alloc(ST_STORE_BLOCK, sizeof(*s->root));
	s->next_root = aligned_alloc(ST_STORE_BLOCK, sizeof(*s->next_root));
	if (!s->extents || !s->root || !s->next_root)
		goto no_memory;
	memset(s->root, 0, sizeof(*s->root));
	memset(s->next_root, 0, sizeof(*s->next_root));
	assign(s, cfg->extent_bytes);
	s->map_hash = map_hash(s, cfg->extent_bytes);
	if (alloc_tables(s))
		goto no_memory;
	*out = s;
	return 0;

no_memory:
	st_store_free(s);
	return st_fail(-ENOMEM, "store: tables of %u extents", cfg->n_extents);
}

/* Reachable, so that nobody takes it for a forgotten leak. */
static struct lost {
	void *mem;
	struct lost *next;
} * lost;
static pthread_mutex_t lost_lock = PTHREAD_MUTEX_INITIALIZER;

void st_store_lose(void *mem)
{
	struct lost *l = mem ? malloc(sizeof(*l)) : NULL;

	if (!l)
		return; /* without a note it is kept all the same */
	pthread_mutex_lock(&lost_lock);
	*l = (struct lost){ mem, lost };
	lost = l;
	pthread_mutex_unlock(&lost_lock);
}

void st_store_release(const struct st_store_runner *r, void *mem)
{
	if (r->has_lost)
		st_store_lose(mem);
	else
		free(mem);
}

void st_store_free(struct st_store *s)
{
	if (!s)
		return;
	for (unsigned p = 0; p < s->n_files; p++) {
		free(s->files[p].table);
		free(s->files[p].path);
	}
	free(s->extents);
	free(s->own_names);
	free(s->own_texts);
	free(s->found);
	free(s->root);
	free(s->next_root);
	free(s);
}
