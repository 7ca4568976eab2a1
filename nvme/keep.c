/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme/keep.c - independent copies of the durable generation, and the way back to one.
 *
 * A copy is a store like any other, with the layout of its origin and room only for what is live.
 * It has an id of its own, so that its files are never taken for the origin's; its checksums are
 * seeded with the origin's, so that they are copied as they are. What makes it one is its root,
 * which is written last. Nothing else records it: copies are found by looking (nvme/list.c).
 */
#include "nvme/dir.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct keep {
	struct st_store *from, *to;
	struct st_store_tables tables;                   /* of from */
	struct st_store_entry *rest[ST_STORE_PATHS_MAX]; /* those that must be copied, not shared */
	const struct st_store_runner *run;
};

/* ---- keep ------------------------------------------------------------------------------------ */

static int lay_out_copy(struct keep *k)
{
	const struct st_store *s = k->from;
	uint64_t *bytes = calloc(s->n_extents, sizeof(*bytes));
	struct st_store_cfg cfg = { .extent_bytes = bytes,
				    .n_extents = s->n_extents,
				    .extent_names = s->names,
				    .checksum = true };
	uint8_t id[ST_STORE_ID_BYTES];
	int rc = bytes ? st_dir_random_id(id) : st_fail(-ENOMEM, "store: copy");

	for (uint32_t e = 0; !rc && e < s->n_extents; e++)
		bytes[e] = s->extents[e].bytes;
	if (!rc)
		rc = st_store_layout(&k->to, &cfg, s->n_files, s->weights, id, s->origin);
	free(bytes);
	for (unsigned p = 0; !rc && p < s->n_files; p++)
		if (s->files[p].table_bytes)
			memcpy(k->to->files[p].table, k->tables.of[p], s->files[p].table_bytes);
	return rc;
}

static int make_files(struct keep *k)
{
	for (unsigned p = 0; p < k->to->n_files; p++) {
		struct st_store_file *f = &k->to->files[p];
		int rc = st_dir_name_beside(f, &k->from->files[p]);

		if (!rc)
			rc = st_dir_make(f);
		if (!rc && ftruncate(f->fd, (off_t)f->file_bytes))
			rc = st_fail(-errno, "%s: set its size", f->path);
		if (!rc)
			rc = st_place_set_direct(f);
		if (!rc)
			rc = st_dir_sync(f);
		if (rc)
			return rc;
	}
	return 0;
}

static const struct st_store_entry *live(const struct keep *k, uint32_t e)
{
	const struct st_store_extent *x = &k->from->extents[e];
	const struct st_store_entry *t = &k->tables.of[x->path][x->index];

	return t->generation ? t : NULL;
}

/* Blocks in common where the file system has that. What it refuses is left to be copied. */
static int share(struct keep *k)
{
	memcpy(k->rest, k->tables.of, sizeof(k->rest));
	for (unsigned p = 0; p < k->from->n_files; p++) {
		int rc = 0;

		for (uint32_t e = 0; !rc && e < k->from->n_extents; e++) {
			const struct st_store_entry *t = live(k, e);

			if (t && k->from->extents[e].path == p)
				rc = st_place_clone(&k->to->files[p], &k->from->files[p],
						    st_store_where(k->from, e, t->slot),
						    k->from->extents[e].bytes);
		}
		if (!rc)
			k->rest[p] = NULL;
		else if (rc != -EOPNOTSUPP)
			return rc;
	}
	return 0;
}

static int reserve(struct keep *k)
{
	uint64_t need[ST_STORE_PATHS_MAX] = { 0 };
	int rc;

	for (uint32_t e = 0; e < k->from->n_extents; e++)
		if (k->rest[k->from->extents[e].path] && live(k, e))
			need[k->from->extents[e].path] += k->from->extents[e].bytes;
	rc = st_place_check_space(k->to, need);
	for (uint32_t e = 0; !rc && e < k->from->n_extents; e++) {
		const struct st_store_extent *x = &k->from->extents[e];
		const struct st_store_entry *t = live(k, e);

		if (t && k->rest[x->path])
			rc = st_place_preallocate(&k->to->files[x->path],
						  st_store_where(k->from, e, t->slot), x->bytes);
	}
	return rc;
}

static int copy_batch(void *user, const struct st_store_item *items, unsigned n)
{
	struct st_aio_req reqs[ST_STORE_BATCH_MAX];
	struct keep *k = user;

	for (unsigned i = 0; i < n; i++) {
		const struct st_store_extent *x = &k->to->extents[items[i].e];

		if (items[i].rc)
			return st_error_raise(&items[i].error);
		reqs[i] = st_store_request(k->to, x->path, ST_AIO_WRITE, items[i].buf, x->bytes,
					   st_store_where(k->to, items[i].e, items[i].entry->slot));
	}
	return st_store_run(k->run, reqs, n);
}

static int fill_copy(struct keep *k)
{
	const struct st_store_root *root = k->from->root;
	int rc = lay_out_copy(k);

	if (!rc)
		rc = make_files(k);
	if (!rc)
		rc = share(k);
	if (!rc)
		rc = reserve(k);
	if (!rc)
		rc = st_store_walk(k->from, k->rest, k->run, copy_batch, k);
	return rc ? rc
		  : st_store_format(k->to, root->generation, root->snapshot, root->snapshot_bytes,
				    k->run);
}

static int name_copy(const struct st_store *s, char *run_json, size_t run_json_bytes)
{
	char *paths[ST_STORE_PATHS_MAX], *json;
	int rc;

	for (unsigned p = 0; p < s->n_files; p++)
		paths[p] = s->files[p].path;
	rc = st_dir_format(&json, s->id, paths, s->n_files);
	if (rc)
		return rc;
	if (strlen(json) < run_json_bytes)
		memcpy(run_json, json, strlen(json) + 1);
	else
		rc = st_fail(-EINVAL, "store: run.json needs %zu bytes, there is room for %zu.",
			     strlen(json) + 1, run_json_bytes);
	free(json);
	return rc;
}

int st_store_keep(struct st_store *s, char *run_json, size_t run_json_bytes)
{
	struct keep k = { .from = s };
	struct st_dir_io io;
	struct st_error e;
	int rc;

	if (s->in_use[0] || s->phase != ST_PHASE_IDLE || !s->root->generation)
		return st_fail(-EINVAL,
			       "store: a copy needs a generation that is committed, and no commit "
			       "going on.");
	rc = st_dir_io_open(&io);
	if (rc)
		return rc;
	k.run = &io.run;
	rc = st_store_tables_read(&k.tables, s, &io.run);
	if (!rc)
		rc = fill_copy(&k);
	if (!rc && run_json)
		rc = name_copy(k.to, run_json, run_json_bytes);
	rc = st_dir_io_close(&io, k.to, rc);
	s->is_lost |= io.run.has_lost;
	st_error_take(&e, rc);
	st_store_tables_free(&k.tables, &io.run);
	st_store_close(k.to, rc != 0);
	return rc ? st_error_raise(&e) : 0;
}

/* ---- restore --------------------------------------------------------------------------------- */

static int check_same(const struct st_store *s, const struct st_store *copy)
{
	bool is_same = !memcmp(s->origin, copy->origin, sizeof(s->origin)) &&
		       s->n_extents == copy->n_extents;

	for (uint32_t e = 0; is_same && e < s->n_extents; e++)
		is_same = s->extents[e].bytes == copy->extents[e].bytes &&
			  st_store_is_written(s, e) <= st_store_is_written(copy, e);
	return is_same ? 0
		       : st_fail(STRATA_E_STALE, "%s is not a copy of the store in %s.",
				 copy->files[0].path, s->files[0].path);
}

static int restore_batch(void *user, const struct st_store_item *items, unsigned n)
{
	struct st_aio_req reqs[ST_STORE_BATCH_MAX];
	struct keep *k = user;
	int rc = 0;

	for (unsigned i = 0; !rc && i < n; i++)
		rc = items[i].rc ? st_error_raise(&items[i].error)
				 : st_store_prep_write(k->to, items[i].e, items[i].buf, &reqs[i]);
	if (!rc)
		rc = st_store_run(k->run, reqs, n);
	for (unsigned i = 0; !rc && i < n; i++)
		st_store_write_done(k->to, items[i].e,
				    st_store_checksum(k->to, items[i].e, items[i].buf));
	return rc;
}

static int restore(struct keep *k, const struct st_dir_io *io)
{
	const struct st_store_root *root = k->from->root;
	int rc = check_same(k->to, k->from);

	if (!rc)
		rc = st_store_tables_read(&k->tables, k->from, k->run);
	if (rc)
		return rc;
	rc = st_store_walk(k->from, k->tables.of, k->run, restore_batch, k);
	if (!rc)
		rc = st_store_commit(k->to, io->q, root->snapshot, root->snapshot_bytes);
	/* Part of it may be written: only opening it again shows what is durable. */
	if (rc && !k->to->failed.rc)
		st_error_take(&k->to->failed, rc);
	return rc;
}

int st_store_restore(struct st_store *s, const char *run_json)
{
	struct keep k = { .to = s };
	struct st_dir_io io = { 0 };
	struct st_error e;
	bool is_changed = s->n_pending > 0;
	int rc;

	for (unsigned p = 0; p < s->n_files; p++)
		is_changed |= s->files[p].is_changed;
	if (s->phase != ST_PHASE_IDLE || is_changed)
		return st_fail(-EINVAL, "store: something is written, or going on: a copy cannot "
					"be restored.");
	rc = st_store_open_readonly(&k.from, run_json);
	if (!rc && k.from->in_use[0])
		rc = st_fail(STRATA_E_BUSY, "%s is in use by %s.", k.from->files[0].path,
			     k.from->in_use);
	if (!rc)
		rc = st_dir_io_open(&io);
	k.run = &io.run;
	if (!rc)
		rc = restore(&k, &io);
	rc = st_dir_io_close(&io, s, rc);
	if (k.from)
		k.from->is_lost |= io.run.has_lost;
	st_error_take(&e, rc);
	st_store_tables_free(&k.tables, &io.run);
	st_store_close(k.from, false);
	return rc ? st_error_raise(&e) : 0;
}
