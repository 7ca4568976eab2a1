/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme/recover.c - first format and recovery, as requests that someone else runs.
 *
 * A root is written only after a flush of everything that it names on all paths. So one valid copy
 * of a root, on any path, is enough to adopt its generation; but that copy may be in a cache only,
 * left there by a killed process. Before any slot that it does not name is overwritten it is
 * therefore written to all paths and flushed.
 */
#include "nvme/store_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "core/log.h"

static const char super_magic[8] = { 'S', 'T', 'R', 'A', 'T', 'A', 'S', 'B' };
static const char root_magic[8] = { 'S', 'T', 'R', 'A', 'T', 'A', 'R', 'T' };

/* What is read of one path before anything is decided. */
struct found {
	struct st_store_super super;
	struct st_store_root roots[2];
};

static uint64_t super_hash(const struct st_store_super *b)
{
	return XXH3_64bits(b, offsetof(struct st_store_super, self_hash));
}

bool st_store_super_is_valid(const struct st_store_super *b)
{
	return !memcmp(b->magic, super_magic, sizeof(b->magic)) && b->self_hash == super_hash(b);
}

bool st_store_root_is_valid(const struct st_store_root *r)
{
	if (memcmp(r->magic, root_magic, sizeof(r->magic)) || r->self_hash != st_store_root_hash(r))
		return false;
	for (unsigned p = 0; p < ST_STORE_PATHS_MAX; p++)
		if (r->area[p] > 1)
			return false;
	return r->n_paths <= ST_STORE_PATHS_MAX && r->snapshot_bytes <= ST_STORE_SNAPSHOT_MAX;
}

static struct st_aio_req request(const struct st_store *s, unsigned p, enum st_aio_op op, void *buf,
				 size_t len_bytes, uint64_t off_bytes)
{
	return (struct st_aio_req){ .op = op,
				    .fd = s->files[p].fd,
				    .path = s->files[p].path,
				    .buf = buf,
				    .len_bytes = len_bytes,
				    .off_bytes = off_bytes };
}

static int flush_all(struct st_store *s, st_store_run_fn *run, void *user)
{
	struct st_aio_req reqs[ST_STORE_PATHS_MAX];

	for (unsigned p = 0; p < s->n_files; p++)
		reqs[p] = request(s, p, ST_AIO_FLUSH, NULL, 0, 0);
	return run(user, reqs, s->n_files);
}

/* The durable root to the root slot of its parity, or to the other one, of every path. */
static int write_roots(struct st_store *s, bool is_other, st_store_run_fn *run, void *user)
{
	struct st_aio_req reqs[ST_STORE_PATHS_MAX];
	bool is_b = (s->root->generation & 1) != is_other;
	int rc;

	for (unsigned p = 0; p < s->n_files; p++)
		reqs[p] = request(s, p, ST_AIO_WRITE, s->root, sizeof(*s->root),
				  is_b ? ST_STORE_ROOT_B : ST_STORE_ROOT_A);
	rc = run(user, reqs, s->n_files);
	return rc ? rc : flush_all(s, run, user);
}

/* ---- format --------------------------------------------------------------------------------- */

static void make_super(const struct st_store *s, unsigned p, struct st_store_super *b)
{
	memset(b, 0, sizeof(*b));
	memcpy(b->magic, super_magic, sizeof(b->magic));
	b->version = ST_STORE_VERSION;
	b->path_index = p;
	b->n_paths = s->n_files;
	b->n_extents = s->n_extents;
	memcpy(b->id, s->id, sizeof(b->id));
	memcpy(b->weights, s->weights, sizeof(b->weights));
	b->map_hash = s->map_hash;
	b->file_bytes = s->files[p].file_bytes;
	b->self_hash = super_hash(b);
}

int st_store_format(struct st_store *s, st_store_run_fn *run, void *user)
{
	struct st_aio_req reqs[2 * ST_STORE_PATHS_MAX];
	struct st_store_root *r = s->root;
	struct st_store_super *supers;
	unsigned n = 0;
	int rc;

	supers = aligned_alloc(ST_STORE_BLOCK, s->n_files * sizeof(*supers));
	if (!supers)
		return st_fail(-ENOMEM, "store: superblocks");
	memset(r, 0, sizeof(*r));
	memcpy(r->magic, root_magic, sizeof(r->magic));
	memcpy(r->id, s->id, sizeof(r->id));
	r->n_paths = s->n_files;
	for (unsigned p = 0; p < s->n_files; p++) {
		struct st_store_file *f = &s->files[p];

		make_super(s, p, &supers[p]);
		reqs[n++] = request(s, p, ST_AIO_WRITE, &supers[p], sizeof(supers[p]), 0);
		if (f->table_bytes)
			reqs[n++] = request(s, p, ST_AIO_WRITE, f->table, f->table_bytes,
					    ST_STORE_TABLES);
		r->table_hash[p] = st_store_table_hash(s, p, f->table);
		f->area = 0;
		f->stale_from[0] = f->stale_to[0] = 0;
	}
	r->self_hash = st_store_root_hash(r);
	rc = run(user, reqs, n);
	if (!rc)
		rc = flush_all(s, run, user);
	if (!rc)
		rc = write_roots(s, false, run, user);
	free(supers);
	return rc;
}

/* ---- recovery ------------------------------------------------------------------------------- */

static int read_found(struct st_store *s, struct found *found, st_store_run_fn *run, void *user)
{
	for (unsigned p = 0; p < s->n_files; p++) {
		struct found *f = &found[p];
		struct st_aio_req reqs[] = {
			request(s, p, ST_AIO_READ, &f->super, sizeof(f->super), 0),
			request(s, p, ST_AIO_READ, &f->roots[0], sizeof(f->roots[0]),
				ST_STORE_ROOT_A),
			request(s, p, ST_AIO_READ, &f->roots[1], sizeof(f->roots[1]),
				ST_STORE_ROOT_B),
		};
		int rc = run(user, reqs, ST_ARRAY_LEN(reqs));

		if (rc)
			return rc;
	}
	return 0;
}

static int check_super(const struct st_store *s, unsigned p, const struct st_store_super *b)
{
	const char *path = s->files[p].path;

	if (!st_store_super_is_valid(b))
		return st_fail(STRATA_E_CORRUPT,
			       "%s: the superblock is damaged, or not of a store.", path);
	if (b->version != ST_STORE_VERSION)
		return st_fail(STRATA_E_UNSUPPORTED,
			       "%s: format version %u: this program reads version %u.", path,
			       b->version, ST_STORE_VERSION);
	if (memcmp(b->id, s->id, sizeof(b->id)))
		return st_fail(STRATA_E_CORRUPT, "%s: the file belongs to another store.", path);
	if (b->path_index != p || b->n_paths != s->n_files)
		return st_fail(STRATA_E_CORRUPT,
			       "%s: this is path %u of %u, expected path %u of %u: are paths "
			       "exchanged or missing?",
			       path, b->path_index, b->n_paths, p, s->n_files);
	if (b->n_extents != s->n_extents || b->map_hash != s->map_hash ||
	    b->file_bytes != s->files[p].file_bytes)
		return st_fail(STRATA_E_STALE,
			       "%s: the store was made for another model or other formats (%u"
			       " extents, %u are needed): restore them, or start anew with another"
			       " output.",
			       path, b->n_extents, s->n_extents);
	return 0;
}

/* Is the root whole, of this store, and do its tables lie on every path? Reads them into the
 * images. */
static int try_root(struct st_store *s, const struct st_store_root *r, bool *fits,
		    unsigned *bad_path, st_store_run_fn *run, void *user)
{
	struct st_aio_req reqs[ST_STORE_PATHS_MAX];
	unsigned n = 0;
	int rc;

	*fits = false;
	for (unsigned p = 0; p < s->n_files; p++) {
		struct st_store_file *f = &s->files[p];

		if (f->table_bytes)
			reqs[n++] = request(s, p, ST_AIO_READ, f->table, f->table_bytes,
					    ST_STORE_TABLES + r->area[p] * s->table_area_bytes);
	}
	rc = run(user, reqs, n);
	if (rc)
		return rc;
	for (unsigned p = 0; p < s->n_files; p++) {
		const struct st_store_file *f = &s->files[p];

		*bad_path = p;
		if (st_store_table_hash(s, p, f->table) != r->table_hash[p])
			return 0;
		/* A checksum is no proof of good will: offsets are made from these. */
		for (uint32_t i = 0; i < f->n_extents; i++)
			if (f->table[i].slot > 1 || f->table[i].generation > r->generation)
				return 0;
	}
	*fits = true;
	return 0;
}

static void adopt(struct st_store *s, const struct st_store_root *r)
{
	memcpy(s->root, r, sizeof(*r));
	for (unsigned p = 0; p < s->n_files; p++) {
		struct st_store_file *f = &s->files[p];

		f->area = r->area[p];
		f->is_changed = false;
		/* Nobody knows what the other area holds. */
		f->stale_from[f->area] = f->stale_to[f->area] = 0;
		f->stale_from[1 - f->area] = 0;
		f->stale_to[1 - f->area] = f->table_bytes;
	}
	for (uint32_t e = 0; e < s->n_extents; e++) {
		struct st_store_extent *x = &s->extents[e];
		const struct st_store_entry *t = &s->files[x->path].table[x->index];

		x->durable_slot = t->generation ? (uint8_t)t->slot : ST_STORE_NO_SLOT;
		x->is_pending = false;
	}
	s->n_pending = 0;
	s->phase = ST_PHASE_IDLE;
}

static int newest_first(const void *a, const void *b)
{
	const struct st_store_root *const *x = a, *const *y = b;

	return ((*x)->generation < (*y)->generation) - ((*x)->generation > (*y)->generation);
}

/* The valid roots of this store on all paths, newest first; one of each. */
static unsigned list_roots(const struct st_store *s, const struct found *found,
			   const struct st_store_root **list)
{
	unsigned n = 0, kept = 0;

	for (unsigned p = 0; p < s->n_files; p++)
		for (int i = 0; i < 2; i++) {
			const struct st_store_root *r = &found[p].roots[i];

			if (st_store_root_is_valid(r) && r->n_paths == s->n_files &&
			    !memcmp(r->id, s->id, sizeof(r->id)))
				list[n++] = r;
		}
	qsort(list, n, sizeof(list[0]), newest_first);
	for (unsigned i = 0; i < n; i++) {
		bool is_new = true;

		for (unsigned k = 0; k < kept && is_new; k++)
			is_new = memcmp(list[i], list[k], sizeof(*list[i])) != 0;
		if (is_new)
			list[kept++] = list[i];
	}
	return kept;
}

static int adopt_newest(struct st_store *s, const struct found *found, bool *is_newest,
			st_store_run_fn *run, void *user)
{
	const struct st_store_root *list[2 * ST_STORE_PATHS_MAX];
	unsigned n = list_roots(s, found, list), bad_path = 0;
	bool fits = false;
	int rc;

	for (unsigned i = 0; i < n; i++) {
		rc = try_root(s, list[i], &fits, &bad_path, run, user);
		if (rc)
			return rc;
		if (fits) {
			*is_newest = i == 0;
			adopt(s, list[i]);
			return 0;
		}
		st_log(ST_LOG_WARN,
		       "%s: the tables there do not belong to generation %llu; trying an older one",
		       s->files[bad_path].path, (unsigned long long)list[i]->generation);
	}
	if (!n)
		return st_fail(STRATA_E_CORRUPT, "%s: no valid root on any of %u paths.",
			       s->files[0].path, s->n_files);
	return st_fail(
		STRATA_E_CORRUPT,
		"%s: the tables there are damaged or older than the other paths': no generation "
		"(newest %llu) is whole on all %u paths.",
		s->files[bad_path].path, (unsigned long long)list[0]->generation, s->n_files);
}

int st_store_recover(struct st_store *s, st_store_run_fn *run, void *user)
{
	struct found *found = aligned_alloc(ST_STORE_BLOCK, s->n_files * sizeof(*found));
	bool is_newest = true;
	int rc;

	if (!found)
		return st_fail(-ENOMEM, "store: recovery");
	rc = read_found(s, found, run, user);
	for (unsigned p = 0; !rc && p < s->n_files; p++)
		rc = check_super(s, p, &found[p].super);
	if (!rc)
		rc = adopt_newest(s, found, &is_newest, run, user);
	if (!rc && !s->skips_root_rewrite)
		rc = write_roots(s, false, run, user);
	/* A later root that did not verify must not come to life again beside a new one. */
	if (!rc && !s->skips_root_rewrite && !is_newest)
		rc = write_roots(s, true, run, user);
	free(found);
	return rc;
}
