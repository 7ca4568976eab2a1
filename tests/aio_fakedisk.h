/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/aio_fakedisk.h - files in memory that forget, tear and reorder what was not flushed.
 *
 * A file has two contents: what a reader sees, and what would be there after a power loss. A write
 * changes the first; a flush brings the second up to it. Requests of one batch are independent, so
 * they are done in a random order. When the budget of writes and flushes is used up in the middle
 * of a batch, each request that is left is done, not done or done in part, and everything fails
 * from then on: the process is dead. Then either it was only killed, and the cache lives on; or the
 * power went, and of each unflushed write any set of 512-byte sectors has survived, in any order.
 */
#ifndef TESTS_AIO_FAKEDISK_H
#define TESTS_AIO_FAKEDISK_H

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "aio/aio.h"

#define FAKE_PAGE    ((size_t)4096)
#define FAKE_PAGES   1536u
#define FAKE_SECTOR  ((size_t)512)
#define FAKE_FILES   2u
#define FAKE_PENDING 512u

struct fake_write {
	uint64_t off_bytes;
	size_t len_bytes;
	char *data;
};

struct fake_file {
	char *seen[FAKE_PAGES], *durable[FAKE_PAGES]; /* NULL = zeroes */
	struct fake_write pending[FAKE_PENDING];
	unsigned n_pending;
};

struct fake_disk {
	struct fake_file files[FAKE_FILES]; /* by file descriptor */
	uint64_t state;                     /* of the random numbers */
	long budget;                        /* writes and flushes until the crash; < 0: none */
	bool is_dead;
	bool is_lying; /* flushes do nothing: the test must see that */
};

static inline uint64_t fake_draw(struct fake_disk *d, uint64_t n)
{
	uint64_t z = d->state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return (z ^ z >> 31) % n;
}

static inline char *fake_page(char **pages, uint64_t i)
{
	ST_ASSERT(i < FAKE_PAGES);
	if (!pages[i])
		pages[i] = calloc(1, FAKE_PAGE);
	ST_ASSERT(pages[i] != NULL);
	return pages[i];
}

/* keep: percent of sectors that are written, each by chance. */
static inline void fake_put(struct fake_disk *d, char **pages, const struct fake_write *w,
			    unsigned keep)
{
	for (size_t at = 0; at < w->len_bytes; at += FAKE_SECTOR) {
		uint64_t off = w->off_bytes + at;

		if (keep < 100 && fake_draw(d, 100) >= keep)
			continue;
		memcpy(fake_page(pages, off / FAKE_PAGE) + off % FAKE_PAGE, w->data + at,
		       FAKE_SECTOR);
	}
}

static inline void fake_write(struct fake_disk *d, const struct st_aio_req *r, unsigned keep)
{
	struct fake_file *f = &d->files[r->fd];
	struct fake_write *w = &f->pending[f->n_pending++];
	struct fake_write sector;

	ST_ASSERT(f->n_pending < FAKE_PENDING);
	*w = (struct fake_write){ r->off_bytes, r->len_bytes, malloc(r->len_bytes) };
	ST_ASSERT(w->data != NULL);
	memcpy(w->data, r->buf, r->len_bytes);
	if (keep == 100) {
		fake_put(d, f->seen, w, 100);
		return;
	}
	/* What the cache has not seen cannot become durable either: the rest is as it was. */
	for (size_t at = 0; at < w->len_bytes; at += FAKE_SECTOR) {
		uint64_t off = w->off_bytes + at;
		char *now = fake_page(f->seen, off / FAKE_PAGE) + off % FAKE_PAGE;

		sector = (struct fake_write){ off, FAKE_SECTOR, w->data + at };
		if (fake_draw(d, 100) < keep)
			fake_put(d, f->seen, &sector, 100);
		else
			memcpy(w->data + at, now, FAKE_SECTOR);
	}
}

static inline void fake_forget_pending(struct fake_file *f)
{
	for (unsigned i = 0; i < f->n_pending; i++)
		free(f->pending[i].data);
	f->n_pending = 0;
}

static inline void fake_flush(struct fake_disk *d, struct fake_file *f)
{
	if (d->is_lying)
		return;
	for (unsigned i = 0; i < f->n_pending; i++)
		fake_put(d, f->durable, &f->pending[i], 100);
	fake_forget_pending(f);
}

static inline void fake_read(struct fake_disk *d, const struct st_aio_req *r)
{
	char **pages = d->files[r->fd].seen;

	for (size_t at = 0; at < r->len_bytes; at += FAKE_PAGE)
		memcpy((char *)r->buf + at, fake_page(pages, (r->off_bytes + at) / FAKE_PAGE),
		       FAKE_PAGE);
}

/* The process dies during r: not done, done, or done in part. */
static inline void fake_cut(struct fake_disk *d, const struct st_aio_req *r)
{
	uint64_t fate = fake_draw(d, 3);

	if (fate == 0 || r->op == ST_AIO_READ)
		return;
	if (r->op == ST_AIO_FLUSH)
		fake_flush(d, &d->files[r->fd]);
	else
		fake_write(d, r, fate == 1 ? 100 : 50);
}

static inline int fake_run(void *user, struct st_aio_req *reqs, unsigned n)
{
	struct fake_disk *d = user;
	unsigned order[64];

	ST_ASSERT(n <= ST_ARRAY_LEN(order));
	if (d->is_dead)
		return st_fail(-EIO, "the process is dead");
	for (unsigned i = 0; i < n; i++) {
		unsigned k = (unsigned)fake_draw(d, i + 1);

		order[i] = order[k];
		order[k] = i;
	}
	for (unsigned i = 0; i < n; i++) {
		struct st_aio_req *r = &reqs[order[i]];

		if (!d->is_dead && r->op != ST_AIO_READ && d->budget >= 0 && d->budget-- == 0)
			d->is_dead = true;
		if (d->is_dead) {
			fake_cut(d, r);
			continue;
		}
		if (r->op == ST_AIO_READ)
			fake_read(d, r);
		else if (r->op == ST_AIO_WRITE)
			fake_write(d, r, 100);
		else
			fake_flush(d, &d->files[r->fd]);
		r->result = (int64_t)r->len_bytes;
	}
	return d->is_dead ? st_fail(-EIO, "the process is dead") : 0;
}

static inline void fake_lose_power(struct fake_disk *d)
{
	static const unsigned keeps[] = { 0, 0, 100, 50, 90, 10 };

	for (unsigned p = 0; p < FAKE_FILES; p++) {
		struct fake_file *f = &d->files[p];

		for (unsigned n = f->n_pending; n > 0; n--) { /* in a random order */
			unsigned k = (unsigned)fake_draw(d, n);
			struct fake_write w = f->pending[k];

			fake_put(d, f->durable, &w, keeps[fake_draw(d, ST_ARRAY_LEN(keeps))]);
			f->pending[k] = f->pending[n - 1];
			f->pending[n - 1] = w;
		}
		fake_forget_pending(f);
		for (unsigned i = 0; i < FAKE_PAGES; i++)
			if (f->seen[i] && f->durable[i])
				memcpy(f->seen[i], f->durable[i], FAKE_PAGE);
			else if (f->seen[i])
				memset(f->seen[i], 0, FAKE_PAGE);
			else if (f->durable[i])
				memcpy(fake_page(f->seen, i), f->durable[i], FAKE_PAGE);
	}
	d->is_dead = false;
}

static inline void fake_free(struct fake_disk *d)
{
	for (unsigned p = 0; p < FAKE_FILES; p++) {
		fake_forget_pending(&d->files[p]);
		for (unsigned i = 0; i < FAKE_PAGES; i++) {
			free(d->files[p].seen[i]);
			free(d->files[p].durable[i]);
		}
	}
}

#endif
