/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme/walk.c - all live extents, read a batch at a time, and verified.
 *
 * The tables are those of one root, as they lie on disk: the images in memory may already hold
 * what the next commit will name.
 */
#include "nvme/store_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BATCH_BYTES ((uint64_t)16 << 20) /* of memory, or one extent if that is larger */

struct walk {
	const struct st_store *s;
	struct st_store_entry *const *tables;
	const struct st_store_runner *run;
	struct st_store_item items[ST_STORE_BATCH_MAX];
	struct st_aio_req reqs[ST_STORE_BATCH_MAX];
	unsigned n;
	uint64_t bytes, room;
	char *mem;
};

/* NULL: not live, or not to be looked at. */
static const struct st_store_entry *live(const struct walk *w, uint32_t e)
{
	const struct st_store_extent *x = &w->s->extents[e];
	const struct st_store_entry *table = w->tables[x->path];

	return table && table[x->index].generation ? &table[x->index] : NULL;
}

/* ---- tables --------------------------------------------------------------------------------- */

void st_store_tables_free(struct st_store_tables *t, const struct st_store_runner *run)
{
	for (unsigned p = 0; p < ST_STORE_PATHS_MAX; p++)
		st_store_release(run, t->of[p]);
	memset(t, 0, sizeof(*t));
}

int st_store_tables_read(struct st_store_tables *t, const struct st_store *s,
			 const struct st_store_runner *run)
{
	struct st_aio_req reqs[ST_STORE_PATHS_MAX];
	unsigned n = 0;
	int rc = 0;

	memset(t, 0, sizeof(*t));
	for (unsigned p = 0; p < s->n_files; p++) {
		size_t bytes = s->files[p].table_bytes;

		if (!bytes)
			continue;
		t->of[p] = aligned_alloc(ST_STORE_BLOCK, bytes);
		if (!t->of[p]) {
			rc = st_fail(-ENOMEM, "store: tables");
			goto fail;
		}
		reqs[n++] = st_store_request(s, p, ST_AIO_READ, t->of[p], bytes,
					     st_store_table_off(s, s->files[p].area));
	}
	rc = st_store_run(run, reqs, n);
	for (unsigned p = 0; !rc && p < s->n_files; p++)
		if (st_store_table_hash(s, p, t->of[p]) != s->root->table_hash[p])
			rc = st_fail(STRATA_E_CORRUPT,
				     "%s: the table of generation %llu (%zu bytes at offset %llu) "
				     "is damaged.",
				     s->files[p].path, (unsigned long long)s->root->generation,
				     s->files[p].table_bytes,
				     (unsigned long long)st_store_table_off(s, s->files[p].area));
	if (!rc)
		return 0;
fail:
	st_store_tables_free(t, run);
	return rc;
}

/* ---- the walk ------------------------------------------------------------------------------- */

static void look_at(struct walk *w, unsigned i)
{
	const struct st_store_entry *t = w->items[i].entry;
	struct st_store_item *item = &w->items[i];
	const struct st_aio_req *r = &w->reqs[i];
	uint32_t e = item->e;
	int rc = 0;

	if (r->result < 0) {
		rc = st_fail((int)r->result, "%s (extent %u): %.400s",
			     st_store_extent_name(w->s, e), e, r->error.text);
	} else if ((uint64_t)r->result != r->len_bytes) {
		rc = st_fail(STRATA_E_IO, "%s: %s (extent %u, offset %llu) was not read.", r->path,
			     st_store_extent_name(w->s, e), e, (unsigned long long)r->off_bytes);
	} else if (t->has_checksum && st_store_checksum(w->s, e, item->buf) != t->checksum) {
		rc = st_store_fail_damaged(w->s, e, t);
	}
	item->rc = rc;
	st_error_take(&item->error, rc);
}

static int flush_batch(struct walk *w, st_store_batch_fn *batch, void *user)
{
	unsigned n = w->n;

	if (!n)
		return 0;
	/* Each request has its own result, and the batch says what becomes of a failure. */
	if (st_store_run(w->run, w->reqs, n) == -ENOMEM)
		return -ENOMEM;
	for (unsigned i = 0; i < n; i++)
		look_at(w, i);
	w->n = 0;
	w->bytes = 0;
	return batch(user, w->items, n);
}

static int walk_all(struct walk *w, st_store_batch_fn *batch, void *user)
{
	const struct st_store *s = w->s;
	int rc;

	for (uint32_t e = 0; e < s->n_extents; e++) {
		const struct st_store_extent *x = &s->extents[e];
		const struct st_store_entry *t = live(w, e);

		if (!t)
			continue;
		if (t->slot > 1)
			return st_fail(STRATA_E_CORRUPT, "%s: the table's slot %u of extent %u.",
				       s->files[x->path].path, t->slot, e);
		if (w->n == ST_STORE_BATCH_MAX || w->bytes + x->bytes > w->room) {
			rc = flush_batch(w, batch, user);
			if (rc)
				return rc;
		}
		w->items[w->n] =
			(struct st_store_item){ .e = e, .entry = t, .buf = w->mem + w->bytes };
		w->reqs[w->n] = st_store_request(s, x->path, ST_AIO_READ, w->items[w->n].buf,
						 x->bytes, st_store_where(s, e, t->slot));
		w->bytes += x->bytes;
		w->n++;
	}
	return flush_batch(w, batch, user);
}

int st_store_walk(const struct st_store *s, struct st_store_entry *const *tables,
		  const struct st_store_runner *run, st_store_batch_fn *batch, void *user)
{
	struct walk *w = calloc(1, sizeof(*w));
	int rc;

	if (!w)
		return st_fail(-ENOMEM, "store: walk");
	w->s = s;
	w->tables = tables;
	w->run = run;
	w->room = BATCH_BYTES;
	for (uint32_t e = 0; e < s->n_extents; e++)
		if (s->extents[e].bytes > w->room)
			w->room = s->extents[e].bytes;
	w->mem = aligned_alloc(ST_STORE_BLOCK, w->room);
	rc = w->mem ? walk_all(w, batch, user)
		    : st_fail(-ENOMEM, "store: %llu bytes to read extents into",
			      (unsigned long long)w->room);
	st_store_release(run, w->mem);
	free(w);
	return rc;
}

/* ---- verify --------------------------------------------------------------------------------- */

struct verify {
	const struct st_store *s;
	const struct st_store_verify_cfg *cfg;
	struct st_store_verified v;
};

static void report(const struct verify *v, const struct st_store_item *item)
{
	const struct st_store_extent *x = &v->s->extents[item->e];
	const struct st_store_bad bad = {
		.extent = item->e,
		.name = st_store_extent_name(v->s, item->e),
		.path = v->s->files[x->path].path,
		.off_bytes = st_store_where(v->s, item->e, item->entry->slot),
		.len_bytes = x->bytes,
		.rc = item->rc,
		.text = item->error.text,
	};

	(void)st_error_raise(&item->error); /* so that st_last_error() says it as well */
	if (v->cfg->bad)
		v->cfg->bad(v->cfg->user, &bad);
}

static int verify_batch(void *user, const struct st_store_item *items, unsigned n)
{
	struct verify *v = user;

	for (unsigned i = 0; i < n; i++) {
		v->v.bytes += v->s->extents[items[i].e].bytes;
		v->v.n_extents++;
		v->v.n_unchecked += !items[i].entry->has_checksum;
		if (!items[i].rc)
			continue;
		v->v.n_bad++;
		report(v, &items[i]);
	}
	if (v->cfg->progress && !v->cfg->progress(v->cfg->user, &v->v))
		return st_fail(STRATA_E_CANCELLED, "verification was stopped.");
	return 0;
}

int st_store_verify_tables(const struct st_store *s, struct st_store_entry *const *tables,
			   const struct st_store_runner *run, const struct st_store_verify_cfg *cfg,
			   struct st_store_verified *out)
{
	struct verify v = { .s = s, .cfg = cfg };
	int rc;

	for (uint32_t e = 0; e < s->n_extents; e++) {
		const struct st_store_extent *x = &s->extents[e];

		if (tables[x->path][x->index].generation)
			v.v.total_bytes += x->bytes;
	}
	rc = st_store_walk(s, tables, run, verify_batch, &v);
	if (out)
		*out = v.v;
	if (!rc && v.v.n_bad)
		rc = st_fail(STRATA_E_CORRUPT, "%u of %u extents are damaged or unreadable.",
			     v.v.n_bad, v.v.n_extents);
	return rc;
}

static int run_queue(void *user, struct st_aio_req *reqs, unsigned n)
{
	return st_aio_run(user, reqs, n);
}

int st_store_verify(struct st_store *s, const struct st_store_verify_cfg *cfg,
		    struct st_store_verified *out)
{
	struct st_store_verified seen = { 0 };
	struct st_store_tables tables;
	struct st_store_runner run;
	unsigned n_blocks;
	int rc;

	if (out)
		*out = seen;
	if (!s || !cfg || !cfg->queue)
		return st_fail(-EINVAL, "store: verify without a queue.");
	if (s->in_use[0])
		return st_fail(STRATA_E_BUSY,
			       "%s is in use by %s, which changes it: let it end first.",
			       s->files[0].path, s->in_use);
	run = (struct st_store_runner){ .run = run_queue, .user = cfg->queue };
	rc = st_store_tables_read(&tables, s, &run);
	if (!rc)
		rc = st_store_verify_blocks(s, cfg, &n_blocks, &run);
	if (rc) {
		st_store_tables_free(&tables, &run);
		return rc;
	}
	rc = st_store_verify_tables(s, tables.of, &run, cfg, &seen);
	st_store_tables_free(&tables, &run);
	seen.n_bad_blocks = n_blocks;
	if (out)
		*out = seen;
	if (!rc && n_blocks)
		rc = st_fail(STRATA_E_CORRUPT,
			     "%u superblocks, roots or lists of names are damaged; the extents are "
			     "whole, and an open for writing repairs the rest.",
			     n_blocks);
	return rc;
}
