/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme/recover.c - first format and recovery, as requests that someone else runs.
 *
 * A root is written only after a flush of everything that it names on all paths. So one valid copy
 * of a root, on any path, is enough to adopt its generation; but that copy may be in a cache only,
 * left there by a killed process. Before any slot that it does not name is overwritten it is
 * therefore written to all paths and flushed.
 *
 * A root that cannot be read leaves the one before it. Its data are whole if the process ended in
 * the commit or right after it; if not, later writes have begun to replace them. So whenever the
 * newest root seen is not adopted, every extent is verified before the older one is.
 */
#include "nvme/store_priv.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "core/log.h"

static const char super_magic[8] = { 'S', 'T', 'R', 'A', 'T', 'A', 'S', 'B' };
static const char root_magic[8] = { 'S', 'T', 'R', 'A', 'T', 'A', 'R', 'T' };
static const uint64_t super_off[2] = { 0, ST_STORE_SUPER_B };
static const uint64_t root_off[2] = { ST_STORE_ROOT_A, ST_STORE_ROOT_B };

/* What is read of one path before anything is decided. */
struct found {
	struct st_store_super supers[2];
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

const struct st_store_super *st_store_pick_super(const struct st_store_super *a,
						 const struct st_store_super *b, const uint8_t *id)
{
	bool has_a = st_store_super_is_valid(a), has_b = st_store_super_is_valid(b);

	if (has_a &&
	    (!has_b || !memcmp(a->id, id, sizeof(a->id)) || memcmp(b->id, id, sizeof(b->id)) != 0))
		return a;
	return has_b ? b : NULL;
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

struct st_aio_req st_store_request(const struct st_store *s, unsigned p, enum st_aio_op op,
				   void *buf, size_t len_bytes, uint64_t off_bytes)
{
	return (struct st_aio_req){ .op = op,
				    .fd = s->files[p].fd,
				    .path = s->files[p].path,
				    .buf = buf,
				    .len_bytes = len_bytes,
				    .off_bytes = off_bytes };
}

static int flush_all(const struct st_store *s, const struct st_store_runner *run)
{
	struct st_aio_req reqs[ST_STORE_PATHS_MAX];

	for (unsigned p = 0; p < s->n_files; p++)
		reqs[p] = st_store_request(s, p, ST_AIO_FLUSH, NULL, 0, 0);
	return st_store_run(run, reqs, s->n_files);
}

/* The durable root to the root slot of its parity, or to the other one, of every path. */
static int write_roots(const struct st_store *s, bool is_other, const struct st_store_runner *run)
{
	struct st_aio_req reqs[ST_STORE_PATHS_MAX];
	bool is_b = (s->root->generation & 1) != is_other;
	int rc;

	for (unsigned p = 0; p < s->n_files; p++)
		reqs[p] = st_store_request(s, p, ST_AIO_WRITE, s->root, sizeof(*s->root),
					   root_off[is_b]);
	rc = st_store_run(run, reqs, s->n_files);
	return rc ? rc : flush_all(s, run);
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
	memcpy(b->origin, s->origin, sizeof(b->origin));
	memcpy(b->weights, s->weights, sizeof(b->weights));
	b->map_hash = s->map_hash;
	b->names_hash = s->names_hash;
	b->file_bytes = s->files[p].file_bytes;
	b->self_hash = super_hash(b);
}

static void make_root(struct st_store *s, uint64_t generation, const void *snapshot,
		      size_t snapshot_bytes)
{
	struct st_store_root *r = s->root;

	memset(r, 0, sizeof(*r));
	memcpy(r->magic, root_magic, sizeof(r->magic));
	memcpy(r->id, s->id, sizeof(r->id));
	r->n_paths = s->n_files;
	r->generation = generation;
	r->snapshot_bytes = (uint32_t)snapshot_bytes;
	if (snapshot_bytes)
		memcpy(r->snapshot, snapshot, snapshot_bytes);
	for (unsigned p = 0; p < s->n_files; p++)
		r->table_hash[p] = st_store_table_hash(s, p, s->files[p].table);
	r->self_hash = st_store_root_hash(r);
}

static int write_metadata(struct st_store *s, struct st_store_super *supers,
			  struct st_store_name *names, const struct st_store_runner *run)
{
	struct st_aio_req reqs[4 * ST_STORE_PATHS_MAX];
	unsigned n = 0;
	int rc;

	for (unsigned p = 0; p < s->n_files; p++) {
		struct st_store_file *f = &s->files[p];

		make_super(s, p, &supers[p]);
		for (int i = 0; i < 2; i++)
			reqs[n++] = st_store_request(s, p, ST_AIO_WRITE, &supers[p],
						     sizeof(supers[p]), super_off[i]);
		reqs[n++] = st_store_request(s, p, ST_AIO_WRITE, names, s->names_bytes,
					     st_store_names_off(s->n_extents));
		if (f->table_bytes)
			reqs[n++] = st_store_request(s, p, ST_AIO_WRITE, f->table, f->table_bytes,
						     st_store_table_off(s, 0));
		f->area = 0;
		f->stale_from[0] = f->stale_to[0] = 0;
	}
	rc = st_store_run(run, reqs, n);
	return rc ? rc : flush_all(s, run);
}

int st_store_format(struct st_store *s, uint64_t generation, const void *snapshot,
		    size_t snapshot_bytes, const struct st_store_runner *run)
{
	struct st_store_super *supers;
	struct st_store_name *names = NULL;
	int rc;

	supers = aligned_alloc(ST_STORE_BLOCK, s->n_files * sizeof(*supers));
	if (!supers)
		return st_fail(-ENOMEM, "store: superblocks");
	rc = st_store_make_names(s, &names);
	if (!rc) {
		s->names_hash = XXH3_64bits(names, s->names_bytes);
		make_root(s, generation, snapshot, snapshot_bytes);
		rc = write_metadata(s, supers, names, run);
	}
	if (!rc)
		rc = write_roots(s, false, run);
	st_store_release(run, names);
	st_store_release(run, supers);
	return rc;
}

/* ---- what is found -------------------------------------------------------------------------- */

static int read_found(const struct st_store *s, struct found *found,
		      const struct st_store_runner *run)
{
	for (unsigned p = 0; p < s->n_files; p++) {
		struct found *f = &found[p];
		struct st_aio_req reqs[4];
		int rc;

		for (int i = 0; i < 2; i++) {
			reqs[i] = st_store_request(s, p, ST_AIO_READ, &f->supers[i],
						   sizeof(f->supers[i]), super_off[i]);
			reqs[2 + i] = st_store_request(s, p, ST_AIO_READ, &f->roots[i],
						       sizeof(f->roots[i]), root_off[i]);
		}
		rc = st_store_run(run, reqs, ST_ARRAY_LEN(reqs));
		if (rc)
			return rc;
	}
	return 0;
}

static int check_super(struct st_store *s, unsigned p, const struct found *found)
{
	const struct st_store_super *b =
		st_store_pick_super(&found->supers[0], &found->supers[1], s->id);
	const char *path = s->files[p].path;

	if (!b)
		return st_fail(STRATA_E_CORRUPT,
			       "%s: both superblocks are damaged, or not of a store.", path);
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
	s->names_hash = b->names_hash;
	return 0;
}

static bool is_root_of(const struct st_store *s, const struct st_store_root *r)
{
	return st_store_root_is_valid(r) && r->n_paths == s->n_files &&
	       !memcmp(r->id, s->id, sizeof(r->id));
}

static bool is_zero(const void *block)
{
	const unsigned char *b = block;

	return !b[0] && !memcmp(b, b + 1, ST_STORE_BLOCK - 1);
}

/* A root slot that was written and now holds no root of ours on any path. */
static bool has_damaged_slot(const struct st_store *s, const struct found *found)
{
	for (int i = 0; i < 2; i++) {
		bool is_written = false, is_valid = false;

		for (unsigned p = 0; p < s->n_files; p++) {
			is_valid |= is_root_of(s, &found[p].roots[i]);
			is_written |= !is_zero(&found[p].roots[i]);
		}
		if (is_written && !is_valid)
			return true;
	}
	return false;
}

static int newest_first(const void *a, const void *b)
{
	const struct st_store_root *const *x = a, *const *y = b;

	return ((*x)->generation < (*y)->generation) - ((*x)->generation > (*y)->generation);
}

/* The valid roots of this store on all paths, newest first; one of each. */
static unsigned list_roots(const struct st_store *s, const struct found *found,
			   const struct st_store_root **list, unsigned *copies)
{
	unsigned n = 0, kept = 0;

	for (unsigned p = 0; p < s->n_files; p++)
		for (int i = 0; i < 2; i++)
			if (is_root_of(s, &found[p].roots[i]))
				list[n++] = &found[p].roots[i];
	qsort(list, n, sizeof(list[0]), newest_first);
	for (unsigned i = 0; i < n; i++) {
		unsigned k = 0;

		while (k < kept && memcmp(list[i], list[k], sizeof(*list[i])) != 0)
			k++;
		if (k == kept) {
			copies[kept] = 0;
			list[kept++] = list[i];
		}
		copies[k]++;
	}
	return kept;
}

static int note_roots(struct st_store *s, const struct st_store_root *const *list,
		      const unsigned *copies, unsigned n)
{
	free(s->found);
	s->n_found = 0;
	s->found = calloc(n ? n : 1, sizeof(*s->found));
	if (!s->found)
		return st_fail(-ENOMEM, "store: roots");
	for (unsigned i = 0; i < n; i++) {
		struct st_store_root_info *info = &s->found[i];

		info->generation = list[i]->generation;
		info->n_copies = copies[i] < s->n_files ? copies[i] : s->n_files;
		info->snapshot_bytes = list[i]->snapshot_bytes;
		memcpy(info->snapshot, list[i]->snapshot, list[i]->snapshot_bytes);
	}
	s->n_found = n;
	return 0;
}

/* ---- adoption ------------------------------------------------------------------------------- */

/* Do the tables that the root names lie on every path? Reads them into the images. */
static int try_root(struct st_store *s, const struct st_store_root *r, bool *fits,
		    unsigned *bad_path, const struct st_store_runner *run)
{
	struct st_aio_req reqs[ST_STORE_PATHS_MAX];
	unsigned n = 0;
	int rc;

	*fits = false;
	for (unsigned p = 0; p < s->n_files; p++) {
		struct st_store_file *f = &s->files[p];

		if (f->table_bytes)
			reqs[n++] = st_store_request(s, p, ST_AIO_READ, f->table, f->table_bytes,
						     st_store_table_off(s, r->area[p]));
	}
	rc = st_store_run(run, reqs, n);
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

		x->durable = *t;
		x->durable_slot = t->generation ? (uint8_t)t->slot : ST_STORE_NO_SLOT;
		x->is_pending = false;
	}
	s->n_pending = 0;
	s->phase = ST_PHASE_IDLE;
	for (unsigned i = 0; i < s->n_found; i++)
		s->found[i].is_current = s->found[i].generation == r->generation;
}

static void keep_first(void *user, const struct st_store_bad *bad)
{
	struct st_error *first = user;

	if (!first->rc)
		st_error_take(first, bad->rc);
}

/* All extents of the adopted root, with the first damage as the failure. */
static int verify_all(const struct st_store *s, const struct st_store_runner *run)
{
	struct st_store_entry *tables[ST_STORE_PATHS_MAX];
	struct st_error first = { 0 };
	const struct st_store_verify_cfg cfg = { .bad = keep_first, .user = &first };
	struct st_store_verified v;
	int rc;

	for (unsigned p = 0; p < s->n_files; p++)
		tables[p] = s->files[p].table;
	rc = st_store_verify_tables(s, tables, run, &cfg, &v);
	if (rc != STRATA_E_CORRUPT || v.n_bad == 1)
		return first.rc ? st_error_raise(&first) : rc;
	return st_fail(rc, "%.380s And %u more.", first.text, v.n_bad - 1);
}

struct choice {
	const struct st_store_root *list[2 * ST_STORE_PATHS_MAX];
	unsigned n, at; /* roots, newest first; the one being looked at */
	bool has_damaged_slot;
};

/* 1: adopted; 0: the root is not whole, *why says how; <0: nothing can be said */
static int try_adopt(struct st_store *s, const struct choice *c, struct st_error *why,
		     const struct st_store_runner *run)
{
	const struct st_store_root *r = c->list[c->at];
	bool fits = false, is_newest = c->at == 0 && !c->has_damaged_slot;
	unsigned bad_path = 0;
	int rc = s->in_use[0] ? 0 : try_root(s, r, &fits, &bad_path, run);

	if (rc)
		return rc;
	if (!fits && !s->in_use[0]) {
		st_error_take(why,
			      st_fail(STRATA_E_CORRUPT,
				      "%s: the tables there are damaged or older than the other "
				      "paths': no generation (newest %llu) is whole on all %u "
				      "paths.",
				      s->files[bad_path].path,
				      (unsigned long long)c->list[0]->generation, s->n_files));
		return 0;
	}
	adopt(s, r);
	if (s->is_readonly || (is_newest && !s->verifies_on_open))
		return 1;
	rc = verify_all(s, run);
	if (rc == STRATA_E_CORRUPT || rc == STRATA_E_IO || rc == -EIO) {
		st_error_take(why, rc);
		return 0;
	}
	return rc ? rc : 1;
}

static int adopt_newest(struct st_store *s, const struct found *found, bool *is_newest,
			const struct st_store_runner *run)
{
	struct choice c = { .has_damaged_slot = has_damaged_slot(s, found) };
	unsigned copies[2 * ST_STORE_PATHS_MAX];
	struct st_error why = { 0 }; /* of the newest root: what is wrong with it */
	int rc;

	c.n = list_roots(s, found, c.list, copies);
	if (!c.n)
		return st_fail(STRATA_E_CORRUPT, "%s: no valid root on any of %u paths.",
			       s->files[0].path, s->n_files);
	rc = s->is_readonly ? note_roots(s, c.list, copies, c.n) : 0;
	if (rc)
		return rc;
	for (c.at = 0; c.at < c.n; c.at++) {
		struct st_error e = { 0 };

		rc = try_adopt(s, &c, &e, run);
		if (rc < 0)
			return rc;
		if (!why.rc)
			why = e;
		if (!rc)
			continue;
		*is_newest = c.at == 0 && !c.has_damaged_slot;
		if (c.at > 0)
			st_log(ST_LOG_WARN,
			       "generation %llu is damaged, going on from generation %llu: the "
			       "step between is lost and will be done again (%s)",
			       (unsigned long long)c.list[0]->generation,
			       (unsigned long long)c.list[c.at]->generation, why.text);
		else if (c.has_damaged_slot)
			st_log(ST_LOG_WARN,
			       "%s: a root is damaged on all paths: going on from generation %llu; "
			       "if a later one is lost, its step will be done again",
			       s->files[0].path, (unsigned long long)c.list[0]->generation);
		return 0;
	}
	return st_error_raise(&why);
}

/* ---- repair --------------------------------------------------------------------------------- */

static int repair_supers(const struct st_store *s, const struct found *found,
			 struct st_store_super *b, const struct st_store_runner *run)
{
	for (unsigned p = 0; p < s->n_files; p++)
		for (int i = 0; i < 2; i++) {
			struct st_aio_req req;
			int rc;

			make_super(s, p, b);
			if (!memcmp(&found[p].supers[i], b, sizeof(*b)))
				continue;
			st_log(ST_LOG_WARN, "%s: superblock %d was damaged; repaired from its copy",
			       s->files[p].path, i + 1);
			req = st_store_request(s, p, ST_AIO_WRITE, b, sizeof(*b), super_off[i]);
			rc = st_store_run(run, &req, 1);
			if (rc)
				return rc;
		}
	return 0;
}

/* names: a buffer. Finds whole names on some path, or makes them anew; 1 found, 0 not. */
static int find_names(const struct st_store *s, struct st_store_name *names, bool *is_bad,
		      unsigned *n_bad, const struct st_store_runner *run)
{
	uint64_t off = st_store_names_off(s->n_extents);
	int good = -1, rc = 0;

	*n_bad = 0;
	for (unsigned p = 0; !rc && p < s->n_files; p++) {
		struct st_aio_req req =
			st_store_request(s, p, ST_AIO_READ, names, s->names_bytes, off);

		rc = st_store_run(run, &req, 1);
		is_bad[p] = XXH3_64bits(names, s->names_bytes) != s->names_hash;
		*n_bad += is_bad[p];
		if (!is_bad[p])
			good = (int)p;
	}
	if (rc || good < 0)
		return rc;
	if (is_bad[s->n_files - 1]) { /* another one is in the buffer */
		struct st_aio_req req = st_store_request(s, (unsigned)good, ST_AIO_READ, names,
							 s->names_bytes, off);

		rc = st_store_run(run, &req, 1);
	}
	return rc ? rc : 1;
}

/* They serve tools only: a run goes on without. */
static int repair_names(const struct st_store *s, const struct st_store_runner *run)
{
	bool is_bad[ST_STORE_PATHS_MAX] = { false };
	struct st_store_name *names = NULL, *made = NULL;
	unsigned n_bad = 0;
	int rc;

	names = aligned_alloc(ST_STORE_BLOCK, s->names_bytes);
	rc = names ? find_names(s, names, is_bad, &n_bad, run) : st_fail(-ENOMEM, "store: names");
	if (rc == 0) {
		rc = st_store_make_names(s, &made);
		if (!rc && XXH3_64bits(made, s->names_bytes) == s->names_hash) {
			memcpy(names, made, s->names_bytes);
			rc = 1;
		} else if (!rc) {
			st_log(ST_LOG_WARN, "%s: the names of extents are damaged on all paths",
			       s->files[0].path);
		}
		free(made);
	}
	for (unsigned p = 0; rc > 0 && n_bad && p < s->n_files; p++) {
		struct st_aio_req req = st_store_request(s, p, ST_AIO_WRITE, names, s->names_bytes,
							 st_store_names_off(s->n_extents));

		if (!is_bad[p])
			continue;
		st_log(ST_LOG_WARN, "%s: the names of extents were damaged; repaired",
		       s->files[p].path);
		rc = st_store_run(run, &req, 1);
		rc = rc ? rc : 1;
	}
	st_store_release(run, names);
	return rc < 0 ? rc : 0;
}

/* ---- verify -------------------------------------------------------------------------------- */

/* A block of path p that is not what it must be. */
static void report_block(const struct st_store *s, unsigned p, const char *what, uint64_t off_bytes,
			 uint64_t len_bytes, const struct st_store_verify_cfg *cfg)
{
	struct st_error e;
	struct st_store_bad bad = {
		.extent = UINT32_MAX,
		.name = what,
		.path = s->files[p].path,
		.off_bytes = off_bytes,
		.len_bytes = len_bytes,
		.rc = STRATA_E_CORRUPT,
		.text = e.text,
	};

	st_error_take(&e,
		      st_fail(STRATA_E_CORRUPT, "%s: %s (%llu bytes at offset %llu) is damaged.",
			      s->files[p].path, what, (unsigned long long)len_bytes,
			      (unsigned long long)off_bytes));
	if (cfg->bad)
		cfg->bad(cfg->user, &bad);
}

static unsigned verify_found(const struct st_store *s, const struct found *found,
			     struct st_store_super *want, const struct st_store_verify_cfg *cfg)
{
	static const char *const super_names[] = { "superblock 1", "superblock 2" };
	static const char *const root_names[] = { "root A", "root B" };
	unsigned n_bad = 0;

	for (unsigned p = 0; p < s->n_files; p++) {
		make_super(s, p, want);
		for (int i = 0; i < 2; i++) {
			const struct st_store_root *r = &found[p].roots[i];

			if (memcmp(&found[p].supers[i], want, sizeof(*want)) != 0) {
				report_block(s, p, super_names[i], super_off[i], sizeof(*want),
					     cfg);
				n_bad++;
			}
			/* One that was never written is none. */
			if (!is_zero(r) && !is_root_of(s, r)) {
				report_block(s, p, root_names[i], root_off[i], sizeof(*r), cfg);
				n_bad++;
			}
		}
	}
	return n_bad;
}

static int verify_names(const struct st_store *s, const struct st_store_verify_cfg *cfg,
			unsigned *n_bad, const struct st_store_runner *run)
{
	bool is_bad[ST_STORE_PATHS_MAX] = { false };
	struct st_store_name *names = aligned_alloc(ST_STORE_BLOCK, s->names_bytes);
	unsigned n = 0;
	int rc = names ? find_names(s, names, is_bad, &n, run) : st_fail(-ENOMEM, "store: names");

	for (unsigned p = 0; rc >= 0 && p < s->n_files; p++)
		if (is_bad[p]) {
			report_block(s, p, "names of extents", st_store_names_off(s->n_extents),
				     s->names_bytes, cfg);
			(*n_bad)++;
		}
	st_store_release(run, names);
	return rc < 0 ? rc : 0;
}

int st_store_verify_blocks(const struct st_store *s, const struct st_store_verify_cfg *cfg,
			   unsigned *n_bad, const struct st_store_runner *run)
{
	/* One block more: what a superblock must be. */
	struct found *found =
		aligned_alloc(ST_STORE_BLOCK, s->n_files * sizeof(*found) + ST_STORE_BLOCK);
	int rc = found ? read_found(s, found, run) : st_fail(-ENOMEM, "store: verification");

	*n_bad = 0;
	if (!rc) {
		*n_bad = verify_found(s, found, (struct st_store_super *)&found[s->n_files], cfg);
		rc = verify_names(s, cfg, n_bad, run);
	}
	st_store_release(run, found);
	return rc;
}

/* ---- recover ------------------------------------------------------------------------------- */

int st_store_recover(struct st_store *s, const struct st_store_runner *run)
{
	/* One block more: what is written in a repair. */
	struct found *found =
		aligned_alloc(ST_STORE_BLOCK, s->n_files * sizeof(*found) + ST_STORE_BLOCK);
	bool is_newest = true;
	int rc;

	if (!found)
		return st_fail(-ENOMEM, "store: recovery");
	rc = read_found(s, found, run);
	for (unsigned p = 0; !rc && p < s->n_files; p++)
		rc = check_super(s, p, &found[p]);
	if (!rc)
		rc = adopt_newest(s, found, &is_newest, run);
	if (rc || s->is_readonly)
		goto out;
	rc = repair_supers(s, found, (struct st_store_super *)&found[s->n_files], run);
	if (!rc)
		rc = repair_names(s, run);
	if (!rc && !s->skips_root_rewrite)
		rc = write_roots(s, false, run);
	/* A later root that did not verify must not come to life again beside a new one. */
	if (!rc && !s->skips_root_rewrite && !is_newest)
		rc = write_roots(s, true, run);
out:
	st_store_release(run, found);
	return rc;
}
