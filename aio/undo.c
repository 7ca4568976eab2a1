/* SPDX-License-Identifier: Apache-2.0 */
/*
 * aio/undo.c - what unflushed writes have overwritten, and what is left of them without power.
 *
 * Entries lie in the order of issue. A power loss walks them from the newest to the oldest and
 * decides of each sector whether the write arrived: if not, what was there before is put back; if
 * it did, no older entry may touch that sector any more, which the bitmap of each entry remembers.
 * Thus each sector ends as any of its versions since the last flush.
 */
#include "aio/faulty.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <unistd.h>

#define SECTOR ((size_t)512)

struct st_aio_undo_entry {
	TAILQ_ENTRY(st_aio_undo_entry) link;
	int fd;
	uint64_t off_bytes;
	size_t len_bytes;
	uint64_t written_at; /* count of events; 0: in flight */
	char *old, *is_kept; /* is_kept [sectors]: this write arrived there */
};

struct st_aio_undo {
	TAILQ_HEAD(undo_list, st_aio_undo_entry) entries; /* oldest first */
	uint64_t n_events;
};

int st_aio_undo_create(struct st_aio_undo **out)
{
	struct st_aio_undo *u = calloc(1, sizeof(*u));

	if (!u)
		return st_fail(-ENOMEM, "aio: undo log");
	TAILQ_INIT(&u->entries);
	*out = u;
	return 0;
}

static void free_entry(struct st_aio_undo_entry *e)
{
	free(e->old);
	free(e->is_kept);
	free(e);
}

static void drop_entry(struct st_aio_undo *u, struct st_aio_undo_entry *e)
{
	TAILQ_REMOVE(&u->entries, e, link);
	free_entry(e);
}

void st_aio_undo_destroy(struct st_aio_undo *u)
{
	if (!u)
		return;
	while (!TAILQ_EMPTY(&u->entries))
		drop_entry(u, TAILQ_FIRST(&u->entries));
	free(u);
}

/* All of the range; what lies behind the end of the file is read as zeroes. */
static int move_all(enum st_aio_op op, const struct st_aio_undo_entry *e, char *buf)
{
	size_t at = 0;

	while (at < e->len_bytes) {
		struct st_aio_req r = { .op = op,
					.fd = e->fd,
					.buf = buf + at,
					.len_bytes = e->len_bytes - at,
					.off_bytes = e->off_bytes + at };
		int64_t n = st_aio_transfer(&r);

		if (n == -EINTR || n == -EAGAIN)
			continue;
		if (n < 0)
			return st_fail((int)n, "aio: undo log: %s of %zu bytes at offset %llu",
				       op == ST_AIO_READ ? "read" : "write", e->len_bytes,
				       (unsigned long long)e->off_bytes);
		if (n == 0 && op == ST_AIO_WRITE)
			return st_fail(-EIO, "aio: undo log: write at offset %llu: nothing taken",
				       (unsigned long long)(e->off_bytes + at));
		at += (size_t)n;
		if (op == ST_AIO_READ && (n == 0 || (size_t)n % SECTOR)) { /* the file ends here */
			memset(buf + at, 0, e->len_bytes - at);
			break;
		}
	}
	return 0;
}

static char *new_buffer(size_t len_bytes)
{
	size_t rounded = (len_bytes + ST_AIO_ALIGN - 1) & ~(ST_AIO_ALIGN - 1);

	return aligned_alloc(ST_AIO_ALIGN, rounded);
}

static size_t n_sectors(const struct st_aio_undo_entry *e)
{
	return (e->len_bytes + SECTOR - 1) / SECTOR;
}

int st_aio_undo_note(struct st_aio_undo *u, int fd, uint64_t off_bytes, size_t len_bytes,
		     struct st_aio_undo_entry **out)
{
	struct st_aio_undo_entry *e = calloc(1, sizeof(*e));
	int rc = -ENOMEM;

	if (!e)
		return st_fail(rc, "aio: undo log");
	e->fd = fd;
	e->off_bytes = off_bytes;
	e->len_bytes = len_bytes;
	e->old = new_buffer(len_bytes);
	e->is_kept = calloc(n_sectors(e), 1);
	if (!e->old || !e->is_kept) {
		rc = st_fail(rc, "aio: undo log: %zu bytes", len_bytes);
		goto fail;
	}
	rc = move_all(ST_AIO_READ, e, e->old);
	if (rc)
		goto fail;
	TAILQ_INSERT_TAIL(&u->entries, e, link);
	*out = e;
	return 0;

fail:
	free_entry(e);
	return rc;
}

void st_aio_undo_written(struct st_aio_undo *u, struct st_aio_undo_entry *e)
{
	e->written_at = ++u->n_events;
}

uint64_t st_aio_undo_mark(struct st_aio_undo *u)
{
	return ++u->n_events;
}

void st_aio_undo_flushed(struct st_aio_undo *u, int fd, uint64_t mark)
{
	struct st_aio_undo_entry *e = TAILQ_FIRST(&u->entries), *next;

	for (; e; e = next) {
		next = TAILQ_NEXT(e, link);
		if (e->fd == fd && e->written_at && e->written_at < mark)
			drop_entry(u, e);
	}
}

static uint64_t draw(uint64_t *state, uint64_t n)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u; /* splitmix64 */

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return (z ^ z >> 31) % n;
}

static bool is_kept_by(const struct st_aio_undo_entry *e, uint64_t at)
{
	return at >= e->off_bytes && at < e->off_bytes + e->len_bytes &&
	       e->is_kept[(at - e->off_bytes) / SECTOR];
}

/* Has a newer write of this sector arrived? */
static bool is_newer_kept(const struct st_aio_undo_entry *e, uint64_t at)
{
	const struct st_aio_undo_entry *newer = e;

	while ((newer = TAILQ_NEXT(newer, link)))
		if (newer->fd == e->fd && is_kept_by(newer, at))
			return true;
	return false;
}

static bool has_newer_overlap(const struct st_aio_undo_entry *e)
{
	const struct st_aio_undo_entry *newer = e;

	while ((newer = TAILQ_NEXT(newer, link)))
		if (newer->fd == e->fd && newer->off_bytes < e->off_bytes + e->len_bytes &&
		    e->off_bytes < newer->off_bytes + newer->len_bytes)
			return true;
	return false;
}

static int undo_some(struct st_aio_undo_entry *e, unsigned keep_percent, uint64_t *state)
{
	bool overlaps = has_newer_overlap(e);
	char *now = NULL;
	int rc = 0;

	for (size_t i = 0; i < n_sectors(e); i++)
		e->is_kept[i] = draw(state, 100) < keep_percent;
	if (keep_percent == 100)
		return 0;
	now = new_buffer(e->len_bytes);
	if (!now)
		return st_fail(-ENOMEM, "aio: undo log: %zu bytes", e->len_bytes);
	rc = move_all(ST_AIO_READ, e, now);
	for (size_t i = 0; !rc && i < n_sectors(e); i++) {
		size_t at = i * SECTOR;
		size_t n = e->len_bytes - at < SECTOR ? e->len_bytes - at : SECTOR;

		if (!e->is_kept[i] && !(overlaps && is_newer_kept(e, e->off_bytes + at)))
			memcpy(now + at, e->old + at, n);
	}
	if (!rc)
		rc = move_all(ST_AIO_WRITE, e, now);
	free(now);
	return rc;
}

int st_aio_undo_lose_power(struct st_aio_undo *u, uint64_t seed)
{
	static const unsigned keeps[] = { 0, 0, 100, 50, 90, 10 };
	struct st_aio_undo_entry *e;
	int rc = 0;

	TAILQ_FOREACH_REVERSE(e, &u->entries, undo_list, link)
	{
		int failed = undo_some(e, keeps[draw(&seed, ST_ARRAY_LEN(keeps))], &seed);

		rc = rc ? rc : failed;
	}
	while (!TAILQ_EMPTY(&u->entries))
		drop_entry(u, TAILQ_FIRST(&u->entries));
	return rc;
}
