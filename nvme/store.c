/* SPDX-License-Identifier: Apache-2.0 */
/* nvme/store.c - extents and commit: fills requests for others to move. */
#include "core/checksum.h"
#include "nvme/store_priv.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

static struct st_store_entry *entry_of(const struct st_store *s, uint32_t e)
{
	const struct st_store_extent *x = &s->extents[e];

	return &s->files[x->path].table[x->index];
}

/* Never the slot of the durable root, so that its version stays whole. */
static unsigned write_slot(const struct st_store_extent *x)
{
	return x->durable_slot == ST_STORE_NO_SLOT ? 0 : 1 - x->durable_slot;
}

/* What keeps extents from being read or written at all. */
static int check_open(const struct st_store *s, bool is_write)
{
	if (is_write && s->failed.rc)
		return st_error_raise(&s->failed);
	if (s->in_use[0])
		return st_fail(STRATA_E_BUSY,
			       "%s is in use by %s, which changes it: let it end first.",
			       s->files[0].path, s->in_use);
	if (is_write && s->is_readonly)
		return st_fail(-EROFS, "%s was opened for reading only", s->files[0].path);
	return 0;
}

static int check_extent(const struct st_store *s, uint32_t e, const void *buf)
{
	if (e >= s->n_extents)
		return st_fail(-EINVAL, "store: extent %u of %u.", e, s->n_extents);
	if (!buf || (uintptr_t)buf % ST_STORE_BLOCK)
		return st_fail(-EINVAL, "store: buffer of %s %u is not aligned to %zu bytes.",
			       st_store_extent_name(s, e), e, ST_STORE_BLOCK);
	return 0;
}

static void fill(struct st_aio_req *req, const struct st_store_file *f, enum st_aio_op op,
		 void *buf, size_t len_bytes, uint64_t off_bytes)
{
	req->op = op;
	req->fd = f->fd;
	req->path = f->path;
	req->buf = buf;
	req->len_bytes = len_bytes;
	req->off_bytes = off_bytes;
	req->result = 0;
}

static int prep_read(struct st_store *s, uint32_t e, uint64_t off_bytes, uint64_t len_bytes,
		     void *buf, struct st_aio_req *req)
{
	const struct st_store_entry *t = entry_of(s, e);
	int rc = check_open(s, false);

	if (rc)
		return rc;
	if (!t->generation)
		return st_fail(STRATA_E_CORRUPT, "store: %s (extent %u) was never written.",
			       st_store_extent_name(s, e), e);
	fill(req, &s->files[s->extents[e].path], ST_AIO_READ, buf, len_bytes,
	     st_store_where(s, e, t->slot) + off_bytes);
	return 0;
}

int st_store_register_files(const struct st_store *s, struct st_aio_queue *q)
{
	int rc = 0;

	for (unsigned p = 0; !rc && p < s->n_files; p++)
		rc = st_aio_register_file(q, s->files[p].fd);
	return rc;
}

int st_store_prep_read(struct st_store *s, uint32_t e, void *buf, struct st_aio_req *req)
{
	int rc = check_extent(s, e, buf);

	return rc ? rc : prep_read(s, e, 0, s->extents[e].bytes, buf, req);
}

int st_store_prep_read_range(struct st_store *s, uint32_t e, uint64_t off_bytes, uint64_t len_bytes,
			     void *buf, struct st_aio_req *req)
{
	int rc = check_extent(s, e, buf);

	if (rc)
		return rc;
	if (!len_bytes || (off_bytes | len_bytes) % ST_STORE_BLOCK ||
	    off_bytes > s->extents[e].bytes || len_bytes > s->extents[e].bytes - off_bytes)
		return st_fail(-EINVAL,
			       "store: bytes %llu to %llu of %s (extent %u of %llu bytes): give "
			       "whole blocks of %zu inside it.",
			       (unsigned long long)off_bytes,
			       (unsigned long long)(off_bytes + len_bytes),
			       st_store_extent_name(s, e), e,
			       (unsigned long long)s->extents[e].bytes, ST_STORE_BLOCK);
	return prep_read(s, e, off_bytes, len_bytes, buf, req);
}

int st_store_prep_write(struct st_store *s, uint32_t e, const void *buf, struct st_aio_req *req)
{
	int rc = check_extent(s, e, buf);
	struct st_store_extent *x;

	if (!rc)
		rc = check_open(s, true);
	if (rc)
		return rc;
	if (s->phase != ST_PHASE_IDLE)
		return st_fail(-EINVAL,
			       "store: write of %s (extent %u) prepared during the commit of "
			       "generation %llu.",
			       st_store_extent_name(s, e), e,
			       (unsigned long long)s->next_root->generation);
	x = &s->extents[e];
	if (!x->is_pending)
		s->n_pending++;
	x->is_pending = true;
	fill(req, &s->files[x->path], ST_AIO_WRITE, (void *)(uintptr_t)buf, x->bytes,
	     st_store_where(s, e, write_slot(x)));
	return 0;
}

uint64_t st_store_checksum(const struct st_store *s, uint32_t e, const void *buf)
{
	uint64_t seed = XXH3_64bits_withSeed(&e, sizeof(e), s->seed);

	return st_checksum(buf, s->extents[e].bytes, seed);
}

int st_store_fail_damaged(const struct st_store *s, uint32_t e, const struct st_store_entry *t)
{
	return st_fail(
		STRATA_E_CORRUPT,
		"%s: %s (extent %u, %llu bytes at offset %llu) is damaged: the checksum differs "
		"from the one of generation %llu. The disk gave other data than were written.",
		s->files[s->extents[e].path].path, st_store_extent_name(s, e), e,
		(unsigned long long)s->extents[e].bytes,
		(unsigned long long)st_store_where(s, e, t->slot),
		(unsigned long long)t->generation);
}

int st_store_read_verify(struct st_store *s, uint32_t e, uint64_t checksum)
{
	const struct st_store_entry *t = entry_of(s, e);

	if (!s->verifies || !t->has_checksum || t->checksum == checksum)
		return 0;
	return st_store_fail_damaged(s, e, t);
}

int st_store_read_done(struct st_store *s, uint32_t e, const void *buf)
{
	if (!s->verifies || !entry_of(s, e)->has_checksum)
		return 0;
	return st_store_read_verify(s, e, st_store_checksum(s, e, buf));
}

void st_store_write_done(struct st_store *s, uint32_t e, uint64_t checksum)
{
	struct st_store_extent *x = &s->extents[e];
	struct st_store_file *f = &s->files[x->path];
	size_t from = x->index * sizeof(*f->table), to = from + sizeof(*f->table);

	ST_ASSERT(x->is_pending && s->phase == ST_PHASE_IDLE);
	x->is_pending = false;
	s->n_pending--;
	f->table[x->index] = (struct st_store_entry){
		.generation = s->root->generation + 1,
		.checksum = s->verifies ? checksum : 0,
		.slot = write_slot(x),
		.has_checksum = s->verifies,
	};
	f->is_changed = true;
	for (int a = 0; a < 2; a++) {
		if (f->stale_from[a] == f->stale_to[a])
			f->stale_from[a] = f->stale_to[a] = from;
		if (from < f->stale_from[a])
			f->stale_from[a] = from;
		if (to > f->stale_to[a])
			f->stale_to[a] = to;
	}
}

int st_store_rollback(struct st_store *s)
{
	if (s->phase != ST_PHASE_IDLE || s->n_pending)
		return st_fail(-EINVAL,
			       "store: rollback while a commit or %u writes are under way.",
			       s->n_pending);
	for (uint32_t e = 0; e < s->n_extents; e++) {
		struct st_store_extent *x = &s->extents[e];

		s->files[x->path].table[x->index] = x->durable;
	}
	for (unsigned p = 0; p < s->n_files; p++)
		s->files[p].is_changed = false;
	return 0;
}

/* ---- hashes ---------------------------------------------------------------------------------- */

uint64_t st_store_table_hash(const struct st_store *s, unsigned p, const void *table)
{
	return XXH3_64bits_withSeed(table, s->files[p].table_bytes, s->seed + p);
}

uint64_t st_store_root_hash(const struct st_store_root *r)
{
	return XXH3_64bits_withSeed(r, offsetof(struct st_store_root, self_hash),
				    XXH3_64bits(r->id, sizeof(r->id)));
}

/* ---- commit ---------------------------------------------------------------------------------- */

static int poison(struct st_store *s, int rc)
{
	char text[sizeof(s->failed.text)];

	snprintf(text, sizeof(text), "%s", st_last_error());
	if (!text[0])
		snprintf(text, sizeof(text), "%s", strata_strerror(rc));
	rc = st_fail(rc, "commit of generation %llu failed, generation %llu stays: %.380s.",
		     (unsigned long long)s->next_root->generation,
		     (unsigned long long)s->root->generation, text);
	st_error_take(&s->failed, rc);
	s->phase = ST_PHASE_IDLE;
	s->sent = NULL;
	s->n_sent = 0;
	return rc;
}

static int check_idle(const struct st_store *s, size_t snapshot_bytes)
{
	int rc = check_open(s, true);

	if (rc)
		return rc;
	if (s->phase != ST_PHASE_IDLE)
		return st_fail(-EINVAL, "store: a commit is going on already.");
	if (snapshot_bytes > ST_STORE_SNAPSHOT_MAX)
		return st_fail(-EINVAL, "store: snapshot of %zu bytes: at most %zu.",
			       snapshot_bytes, ST_STORE_SNAPSHOT_MAX);
	for (uint32_t e = 0; s->n_pending && e < s->n_extents; e++)
		if (s->extents[e].is_pending)
			return st_fail(
				-EINVAL,
				"store: commit while the write of %s (extent %u) is not done.",
				st_store_extent_name(s, e), e);
	return 0;
}

int st_store_commit_begin(struct st_store *s, const void *snapshot, size_t snapshot_bytes)
{
	struct st_store_root *r = s->next_root;
	int rc = check_idle(s, snapshot_bytes);

	if (rc)
		return rc;
	if (snapshot_bytes && !snapshot)
		return st_fail(-EINVAL, "store: commit without its snapshot.");
	memcpy(r, s->root, offsetof(struct st_store_root, snapshot));
	r->generation++;
	r->snapshot_bytes = (uint32_t)snapshot_bytes;
	memset(r->snapshot, 0, sizeof(r->snapshot));
	if (snapshot_bytes)
		memcpy(r->snapshot, snapshot, snapshot_bytes);
	for (unsigned p = 0; p < s->n_files; p++) {
		struct st_store_file *f = &s->files[p];

		if (!f->is_changed)
			continue;
		r->area[p] = (uint8_t)(1 - f->area);
		r->table_hash[p] = st_store_table_hash(s, p, f->table);
	}
	r->self_hash = st_store_root_hash(r);
	s->phase = ST_PHASE_TABLES;
	s->n_sent = 0;
	return 0;
}

/* Only the blocks that may differ from what the inactive area holds. */
static unsigned fill_tables(struct st_store *s, struct st_aio_req *reqs)
{
	unsigned n = 0;

	for (unsigned p = 0; p < s->n_files; p++) {
		struct st_store_file *f = &s->files[p];
		unsigned a = 1 - f->area;
		size_t from, to;

		if (!f->is_changed)
			continue;
		from = f->stale_from[a] & ~(ST_STORE_BLOCK - 1);
		to = (f->stale_to[a] + ST_STORE_BLOCK - 1) & ~(ST_STORE_BLOCK - 1);
		fill(&reqs[n++], f, ST_AIO_WRITE, (char *)f->table + from, to - from,
		     st_store_table_off(s, a) + from);
	}
	return n;
}

static unsigned fill_all(struct st_store *s, struct st_aio_req *reqs, enum st_aio_op op)
{
	uint64_t off = s->next_root->generation & 1 ? ST_STORE_ROOT_B : ST_STORE_ROOT_A;

	for (unsigned p = 0; p < s->n_files; p++)
		if (op == ST_AIO_FLUSH)
			fill(&reqs[p], &s->files[p], op, NULL, 0, 0);
		else
			fill(&reqs[p], &s->files[p], op, s->next_root, sizeof(*s->next_root), off);
	return s->n_files;
}

static void finish(struct st_store *s)
{
	struct st_store_root *r = s->root;

	s->root = s->next_root;
	s->next_root = r;
	for (uint32_t e = 0; e < s->n_extents; e++) {
		const struct st_store_entry *t = entry_of(s, e);

		s->extents[e].durable = *t;
		if (t->generation)
			s->extents[e].durable_slot = (uint8_t)t->slot;
	}
	for (unsigned p = 0; p < s->n_files; p++) {
		struct st_store_file *f = &s->files[p];

		if (!f->is_changed)
			continue;
		f->area = 1 - f->area;
		f->is_changed = false;
		f->stale_from[f->area] = f->stale_to[f->area] = 0;
	}
	s->phase = ST_PHASE_IDLE;
}

/* The caller may have overlooked a failure: a commit never becomes durable over one. */
static int check_sent(struct st_store *s)
{
	for (unsigned i = 0; i < s->n_sent; i++) {
		const struct st_aio_req *r = &s->sent[i];

		if (r->result < 0) {
			st_error_raise(&r->error);
			return poison(s, (int)r->result);
		}
		if (r->op != ST_AIO_FLUSH && (uint64_t)r->result != r->len_bytes)
			return poison(s,
				      st_fail(STRATA_E_IO, "%s: a write was not awaited", r->path));
	}
	return 0;
}

int st_store_commit_next(struct st_store *s, struct st_aio_req *reqs, unsigned max_nr)
{
	unsigned n = 0;
	int rc;

	if (s->failed.rc)
		return st_error_raise(&s->failed);
	if (s->phase == ST_PHASE_IDLE)
		return st_fail(-EINVAL, "store: no commit was begun.");
	if (!reqs || max_nr < 2 * s->n_files)
		return st_fail(-EINVAL, "store: a commit needs room for %u requests.",
			       2 * s->n_files);
	rc = check_sent(s);
	if (rc)
		return rc;
	while (!n) {
		switch (s->phase) {
		case ST_PHASE_TABLES:
			n = fill_tables(s, reqs);
			s->phase = ST_PHASE_FLUSH;
			break;
		case ST_PHASE_FLUSH:
			n = fill_all(s, reqs, ST_AIO_FLUSH);
			s->phase = ST_PHASE_ROOT;
			break;
		case ST_PHASE_ROOT:
			n = fill_all(s, reqs, ST_AIO_WRITE);
			s->phase = ST_PHASE_SEAL;
			break;
		case ST_PHASE_SEAL:
			n = fill_all(s, reqs, ST_AIO_FLUSH);
			s->phase = ST_PHASE_DURABLE;
			break;
		case ST_PHASE_DURABLE:
			finish(s);
			s->n_sent = 0;
			return 0;
		case ST_PHASE_IDLE:
			return st_fail(-EINVAL, "store: no commit was begun.");
		}
	}
	s->sent = reqs;
	s->n_sent = n;
	return (int)n;
}

int st_store_commit(struct st_store *s, struct st_aio_queue *q, const void *snapshot,
		    size_t snapshot_bytes)
{
	struct st_aio_req reqs[2 * ST_STORE_PATHS_MAX];
	int rc = st_store_commit_begin(s, snapshot, snapshot_bytes), n;

	if (rc)
		return rc;
	while ((n = st_store_commit_next(s, reqs, ST_ARRAY_LEN(reqs))) > 0) {
		rc = st_aio_run(q, reqs, (unsigned)n);
		if (rc)
			return poison(s, rc);
	}
	return n;
}

/* ---- state ----------------------------------------------------------------------------------- */

size_t st_store_snapshot(const struct st_store *s, void *out, size_t out_bytes)
{
	size_t n = s->root->snapshot_bytes;

	if (out)
		memcpy(out, s->root->snapshot, n < out_bytes ? n : out_bytes);
	return n;
}

uint64_t st_store_generation(const struct st_store *s)
{
	return s->root->generation;
}

const char *st_store_in_use(const struct st_store *s)
{
	return s->in_use[0] ? s->in_use : NULL;
}

uint64_t st_store_live_bytes(const struct st_store *s)
{
	uint64_t sum = 0;

	for (uint32_t e = 0; e < s->n_extents; e++)
		sum += entry_of(s, e)->generation ? s->extents[e].bytes : 0;
	return sum;
}

unsigned st_store_roots(const struct st_store *s, struct st_store_root_info *out, unsigned max_nr)
{
	unsigned n = s->n_found < max_nr ? s->n_found : max_nr;

	if (n)
		memcpy(out, s->found, n * sizeof(*out));
	return n;
}

bool st_store_is_written(const struct st_store *s, uint32_t e)
{
	return e < s->n_extents && entry_of(s, e)->generation != 0;
}
