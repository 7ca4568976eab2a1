/* SPDX-License-Identifier: Apache-2.0 */
/* offload/checkpoint.c - listing, verifying and reading out the states of a run. */
#include "offload/checkpoint.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define DATA_FILE   "/data"
#define TILES_AHEAD 8u /* read before the one that is handed out */

/* ---- names --------------------------------------------------------------------------------- */

struct names {
	json_t *root;
	const char *dirs[ST_STORE_PATHS_MAX];
	unsigned n;
};

static int read_names(const char *run_json, const char *shown, struct names *out)
{
	json_t *paths;

	*out = (struct names){ .root = json_loads(run_json, JSON_REJECT_DUPLICATES, NULL) };
	paths = json_object_get(out->root, "paths");
	for (size_t i = 0; i < json_array_size(paths) && out->n < ST_STORE_PATHS_MAX; i++) {
		const char *dir = json_string_value(json_array_get(paths, i));

		if (dir)
			out->dirs[out->n++] = dir;
	}
	if (out->n)
		return 0;
	json_decref(out->root);
	return st_fail(STRATA_E_INPUT, "%s is damaged: it names no store (\"paths\").", shown);
}

/* Size on disk, and the time of the last write to any of the files. */
static void stat_files(const struct names *n, struct st_checkpoint_info *info)
{
	for (unsigned p = 0; p < n->n; p++) {
		char path[4096];
		struct stat st;
		int len = snprintf(path, sizeof(path), "%s" DATA_FILE, n->dirs[p]);

		if (len < 0 || (size_t)len >= sizeof(path) || lstat(path, &st))
			continue;
		info->disk_bytes += (uint64_t)st.st_blocks * 512;
		if (st.st_mtime > info->written_s)
			info->written_s = st.st_mtime;
	}
}

/* ---- list ---------------------------------------------------------------------------------- */

/* What an open store says; so that it can be closed before it is shown, and removed by who sees it.
 */
struct opened {
	struct st_checkpoint_info base; /* what its states have in common */
	struct st_store_root_info *roots;
	unsigned n_roots;
	uint64_t current; /* generation */
	char in_use[128];
};

static int look_into(const char *run_json, struct opened *o)
{
	struct st_store *s = NULL;
	const char *in_use;
	int rc = st_store_open_readonly(&s, run_json);

	if (rc)
		return rc;
	o->roots = calloc(2 * ST_STORE_PATHS_MAX, sizeof(*o->roots));
	if (o->roots) {
		o->n_roots = st_store_roots(s, o->roots, 2 * ST_STORE_PATHS_MAX);
		o->current = st_store_generation(s);
		o->base.live_bytes = st_store_live_bytes(s);
		in_use = st_store_in_use(s);
		if (in_use) {
			snprintf(o->in_use, sizeof(o->in_use), "%s", in_use);
			o->base.in_use = o->in_use;
		}
	}
	st_store_close(s, false);
	return o->roots ? 0 : st_fail(-ENOMEM, "checkpoints");
}

static int list_roots(const struct opened *o, st_checkpoint_fn *fn, void *user)
{
	int rc = 0;

	for (int pass = 0; pass < 2; pass++) /* the current one first */
		for (unsigned i = 0; !rc && i < o->n_roots; i++) {
			const struct st_store_root_info *r = &o->roots[i];
			struct st_checkpoint_info info = o->base;

			if (r->is_current != (pass == 0))
				continue;
			info.generation = r->generation;
			info.n_copies = r->n_copies;
			info.has_state =
				st_snapshot_parse(r->snapshot, r->snapshot_bytes, &info.state);
			if (pass) {
				info.kind = ST_CHECKPOINT_SUPERSEDED;
				info.disk_bytes = info.live_bytes = 0;
				info.written_s = 0;
			}
			if (r->generation > o->current) {
				info.kind = ST_CHECKPOINT_LOST;
				info.rc = STRATA_E_CORRUPT;
				info.text = "its tables are damaged or in part: an open goes back "
					    "to the state before";
			}
			rc = fn(user, &info);
		}
	return rc;
}

struct kept {
	st_checkpoint_fn *fn;
	void *user;
};

static int list_kept(void *user, const struct st_store_kept_info *k)
{
	struct st_checkpoint_info info = {
		.kind = ST_CHECKPOINT_KEPT,
		.rc = k->rc,
		.text = k->text,
		.run_json = k->run_json,
		.generation = k->generation,
		.live_bytes = k->live_bytes,
	};
	const struct kept *to = user;
	struct names names;
	int rc = read_names(k->run_json, "the name of a copy", &names);

	if (rc)
		return rc;
	info.dirs = names.dirs;
	info.n_dirs = names.n;
	info.has_state = !k->rc && st_snapshot_parse(k->snapshot, k->snapshot_bytes, &info.state);
	stat_files(&names, &info);
	rc = to->fn(to->user, &info);
	json_decref(names.root);
	return rc;
}

int st_checkpoint_list(const char *run_json, const char *shown, st_checkpoint_fn *fn, void *user)
{
	struct opened o = { .base = { .kind = ST_CHECKPOINT_CURRENT, .run_json = run_json } };
	struct kept kept = { fn, user };
	struct st_error e = { 0 };
	struct names names;
	int rc = read_names(run_json, shown, &names);

	if (rc)
		return rc;
	o.base.dirs = names.dirs;
	o.base.n_dirs = names.n;
	stat_files(&names, &o.base);
	rc = look_into(run_json, &o);
	if (rc) {
		st_error_take(&e, rc);
		o.base.rc = rc;
		o.base.text = e.text;
		rc = fn(user, &o.base);
	} else {
		rc = list_roots(&o, fn, user);
	}
	if (!rc)
		rc = st_store_kept(run_json, list_kept, &kept);
	free(o.roots);
	json_decref(names.root);
	return rc;
}

/* ---- verify -------------------------------------------------------------------------------- */

static int open_queue(struct st_aio_queue **q)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;

	return st_aio_open(q, &cfg);
}

static void pass_bad(void *user, const struct st_store_bad *b)
{
	const struct st_checkpoint_watch *w = user;
	const struct st_checkpoint_bad bad = { b->name, b->path, b->off_bytes, b->len_bytes,
					       b->text };

	if (w && w->bad)
		w->bad(w->user, &bad);
}

static struct st_checkpoint_seen seen_of(const struct st_store_verified *v)
{
	return (struct st_checkpoint_seen){ v->bytes, v->total_bytes, v->n_extents,
					    v->n_bad, v->n_unchecked, v->n_bad_blocks };
}

static bool pass_progress(void *user, const struct st_store_verified *v)
{
	const struct st_checkpoint_watch *w = user;
	struct st_checkpoint_seen seen = seen_of(v);

	return !w || !w->progress || w->progress(w->user, &seen);
}

int st_checkpoint_verify(const char *run_json, const struct st_checkpoint_watch *w,
			 struct st_checkpoint_seen *seen)
{
	struct st_store_verify_cfg cfg = {
		.bad = pass_bad,
		.progress = pass_progress,
		.user = (void *)(uintptr_t)w, /* goes out as it came in */
	};
	struct st_store_verified v = { 0 };
	struct st_store *s = NULL;
	struct st_error e;
	int rc = st_store_open_readonly(&s, run_json);

	if (!rc)
		rc = open_queue(&cfg.queue);
	if (!rc)
		rc = st_store_verify(s, &cfg, &v);
	st_error_take(&e, rc);
	if (!st_aio_close(cfg.queue)) /* else the kernel still uses its files */
		st_store_close(s, false);
	if (seen)
		*seen = seen_of(&v);
	return rc ? st_error_raise(&e) : 0;
}

/* ---- export -------------------------------------------------------------------------------- */

struct slot { /* one tile on its way */
	struct st_aio_req reqs[2];
	char *buf[2]; /* parameter, state */
	unsigned n_pending;
};

struct reader {
	const struct st_layout *l;
	struct st_store *s;
	struct st_aio_queue *q;
	struct slot slots[TILES_AHEAD];
	float *master;
	const struct st_checkpoint_watch *w;
	struct st_checkpoint_seen seen;
};

/* The layout is a function of model and formats: is the store one of these? */
static int check_extents(const struct st_store *s, const struct st_layout *l)
{
	uint32_t n = st_store_n_extents(s);

	for (uint32_t e = 0; n == l->n_extents && e < n; e++)
		if (st_store_extent_bytes(s, e) != l->extent_bytes[e] ||
		    strcmp(st_store_extent_name(s, e), l->extent_names[e]) != 0)
			return st_fail(STRATA_E_STALE,
				       "the store holds %s (%llu bytes) where the model of "
				       "strata.json has %s (%llu bytes): it is not this run's.",
				       st_store_extent_name(s, e),
				       (unsigned long long)st_store_extent_bytes(s, e),
				       l->extent_names[e], (unsigned long long)l->extent_bytes[e]);
	if (n != l->n_extents)
		return st_fail(STRATA_E_STALE,
			       "the store has %u extents, the model of strata.json %u: it is not "
			       "this run's.",
			       n, l->n_extents);
	return 0;
}

static int alloc_slots(struct reader *r)
{
	size_t bytes[2] = { 0, 0 }, elems = 0;

	for (uint32_t t = 0; t < r->l->n_tiles; t++) {
		for (unsigned i = 0; i < 2; i++)
			if (r->l->extent_bytes[2 * t + i] > bytes[i])
				bytes[i] = r->l->extent_bytes[2 * t + i];
		elems = r->l->tiles[t].elems > elems ? r->l->tiles[t].elems : elems;
	}
	r->master = malloc(elems * sizeof(float));
	for (unsigned k = 0; k < TILES_AHEAD; k++)
		for (unsigned i = 0; i < 2; i++) {
			char *buf = aligned_alloc(ST_AIO_ALIGN, bytes[i]);

			r->slots[k].buf[i] = buf;
			if (!buf)
				return st_fail(-ENOMEM, "buffers for the state's tiles");
		}
	return r->master ? 0 : st_fail(-ENOMEM, "buffers for the state's tiles");
}

static void free_reader(struct reader *r)
{
	st_store_close(r->s, false);
	for (unsigned k = 0; k < TILES_AHEAD; k++)
		for (unsigned i = 0; i < 2; i++)
			free(r->slots[k].buf[i]);
	free(r->master);
	free(r);
}

static int request_tile(struct reader *r, uint32_t tile)
{
	struct slot *slot = &r->slots[tile % TILES_AHEAD];
	int rc = 0;

	for (unsigned i = 0; !rc && i < 2; i++) {
		rc = st_store_prep_read(r->s, 2 * tile + i, slot->buf[i], &slot->reqs[i]);
		slot->reqs[i].user = slot;
		if (!rc)
			rc = st_aio_submit(r->q, &slot->reqs[i]);
		slot->n_pending += rc == 0;
	}
	return rc;
}

static int await_tile(struct reader *r, uint32_t tile)
{
	struct slot *slot = &r->slots[tile % TILES_AHEAD];

	while (slot->n_pending) {
		struct st_aio_req *done[2 * TILES_AHEAD];
		int n = st_aio_reap(r->q, done, ST_ARRAY_LEN(done), -1);

		if (n < 0)
			return n;
		for (int i = 0; i < n; i++)
			((struct slot *)done[i]->user)->n_pending--;
	}
	for (unsigned i = 0; i < 2; i++) {
		int rc = slot->reqs[i].result < 0
				 ? st_error_raise(&slot->reqs[i].error)
				 : st_store_read_done(r->s, 2 * tile + i, slot->buf[i]);

		if (rc)
			return rc;
		r->seen.n_extents++;
		r->seen.bytes += r->l->extent_bytes[2 * tile + i];
	}
	return 0;
}

static int read_all(struct reader *r, st_emit_fn *emit, void *emit_user)
{
	uint32_t asked = 0;
	int rc = 0;

	r->seen.total_bytes = st_store_live_bytes(r->s);
	for (uint32_t t = 0; !rc && t < r->l->n_tiles; t++) {
		struct slot *slot = &r->slots[t % TILES_AHEAD];

		while (!rc && asked < r->l->n_tiles && asked < t + TILES_AHEAD)
			rc = request_tile(r, asked++);
		if (!rc)
			rc = await_tile(r, t);
		if (!rc)
			rc = st_tile_emit(r->l, t, slot->buf[0], slot->buf[1], r->master, emit,
					  emit_user);
		if (!rc && r->w && r->w->progress && !r->w->progress(r->w->user, &r->seen))
			rc = st_fail(STRATA_E_CANCELLED, "stopped on request.");
	}
	return rc;
}

int st_checkpoint_export(const char *run_json, const struct st_layout *l, st_emit_fn *emit,
			 void *emit_user, const struct st_checkpoint_watch *w)
{
	struct reader *r = calloc(1, sizeof(*r));
	unsigned char kept[ST_STORE_SNAPSHOT_MAX];
	struct st_snapshot state;
	struct st_error e;
	int rc;

	if (!r)
		return st_fail(-ENOMEM, "checkpoint");
	r->l = l;
	r->w = w;
	rc = st_store_open_readonly(&r->s, run_json);
	if (!rc && st_store_in_use(r->s))
		rc = st_fail(STRATA_E_BUSY,
			     "the state is being written by %s: let it end, or stop it first.",
			     st_store_in_use(r->s));
	if (!rc && !st_snapshot_parse(kept, st_store_snapshot(r->s, kept, sizeof(kept)), &state))
		rc = st_fail(STRATA_E_INPUT,
			     "the run ended before anything was saved: there is no state to "
			     "export.");
	if (!rc)
		rc = check_extents(r->s, l);
	if (!rc)
		rc = alloc_slots(r);
	if (!rc)
		rc = open_queue(&r->q);
	if (!rc)
		rc = read_all(r, emit, emit_user);
	st_error_take(&e, rc);
	if (!st_aio_close(r->q)) /* what was read ahead came back; else its buffers stay */
		free_reader(r);
	return rc ? st_error_raise(&e) : 0;
}

/* ---- reclaim ------------------------------------------------------------------------------- */

int st_checkpoint_reclaim(const char *path, bool is_dry, void (*fn)(void *user, const char *name),
			  void *user)
{
	return is_dry ? st_store_abandoned(path, fn, user) : st_store_reclaim(path);
}
