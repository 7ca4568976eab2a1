/* SPDX-License-Identifier: Apache-2.0 */
/*
 * aio/faulty.c - wraps another backend and makes it fail, by seed.
 *
 * A piece's fate is drawn when it is submitted: it fails with EIO without being moved, or after it
 * was moved; it moves a part only; it answers EINTR or EAGAIN; it completes late. Its fate lies in
 * priv[6] and the length asked for in priv[7].
 */
#include "aio/aio.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"

#define SECTOR       ((size_t)512)
#define DELAY_MAX_NS 2000000u

enum fate { FATE_NONE, FATE_EIO_AFTER };

struct held {
	struct st_aio_req *piece;
	int64_t release_ns;
};

struct faulty {
	const struct st_aio_ops *inner;
	void *inner_q;
	const struct st_aio_cfg *cfg;
	uint64_t state;
	int64_t n_submitted;
	unsigned n_held;
	struct held held[]; /* [depth] completed, but not told yet */
};

static uint64_t draw(struct faulty *f)
{
	uint64_t z = f->state += 0x9e3779b97f4a7c15u; /* splitmix64 */

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static bool chance(struct faulty *f, double rate)
{
	return (double)(draw(f) >> 11) * 0x1p-53 < rate;
}

static int faulty_open(void **out, const struct st_aio_cfg *cfg, int wake_fd)
{
	const char *name = cfg->faulty_inner ? cfg->faulty_inner : "threads";
	const struct st_aio_ops *inner = st_aio_find(name);
	struct faulty *f = NULL;
	int rc;

	if (!inner || inner == &st_aio_faulty_ops)
		return st_fail(-EINVAL, "aio: faulty backend: '%s' cannot be wrapped.", name);
	f = calloc(1, sizeof(*f) + cfg->depth * sizeof(f->held[0]));
	if (!f)
		return st_fail(-ENOMEM, "aio: faulty queue");
	f->inner = inner;
	f->cfg = cfg;
	f->state = cfg->faulty_seed;
	rc = inner->open(&f->inner_q, cfg, wake_fd);
	if (rc < 0) {
		free(f);
		return rc;
	}
	*out = f;
	return 0;
}

static void faulty_close(void *be)
{
	struct faulty *f = be;

	f->inner->close(f->inner_q);
	free(f);
}

static void hold(struct faulty *f, struct st_aio_req *p, int64_t release_ns)
{
	ST_ASSERT(f->n_held < f->cfg->depth);
	f->held[f->n_held++] = (struct held){ .piece = p, .release_ns = release_ns };
}

static bool must_fail(struct faulty *f)
{
	int64_t nth = f->cfg->faulty_fail_nth;

	f->n_submitted++;
	if ((nth > 0 && f->n_submitted == nth) || (nth < 0 && f->n_submitted >= -nth))
		return true;
	return chance(f, f->cfg->faulty_error_rate);
}

/* A part of len: whole sectors where there are several, as devices and file systems give. */
static size_t shorter(struct faulty *f, size_t len)
{
	size_t sectors = (len - 1) / SECTOR;

	return sectors ? SECTOR * (1 + draw(f) % sectors) : 1 + draw(f) % (len - 1);
}

static int faulty_submit(void *be, struct st_aio_req *p)
{
	struct faulty *f = be;
	size_t len = p->len_bytes;
	int rc;

	p->priv[6] = FATE_NONE;
	p->priv[7] = len;
	if (must_fail(f)) {
		if (draw(f) & 1) {
			p->result = -EIO;
			hold(f, p, 0);
			return 0;
		}
		p->priv[6] = FATE_EIO_AFTER;
	} else if (len > 1 && chance(f, f->cfg->faulty_short_rate)) {
		if (draw(f) % 4 == 0) {
			p->result = draw(f) & 1 ? -EINTR : -EAGAIN;
			hold(f, p, 0);
			return 0;
		}
		p->len_bytes = shorter(f, len);
	}
	rc = f->inner->submit(f->inner_q, p);
	if (rc < 0)
		p->len_bytes = len;
	return rc;
}

static unsigned release(struct faulty *f, struct st_aio_req **done, unsigned max_nr)
{
	int64_t now = f->n_held ? st_now_ns() : 0;
	unsigned n = 0;

	for (unsigned i = 0; i < f->n_held && n < max_nr;) {
		if (f->held[i].release_ns > now) {
			i++;
			continue;
		}
		done[n++] = f->held[i].piece;
		f->held[i] = f->held[--f->n_held];
	}
	return n;
}

/* The wait ends no later than the next held completion is due. */
static int64_t bounded(const struct faulty *f, int64_t timeout_ns)
{
	int64_t now = st_now_ns();

	for (unsigned i = 0; i < f->n_held; i++) {
		int64_t left = f->held[i].release_ns > now ? f->held[i].release_ns - now : 0;

		if (timeout_ns < 0 || left < timeout_ns)
			timeout_ns = left;
	}
	return timeout_ns;
}

static int faulty_reap(void *be, struct st_aio_req **done, unsigned max_nr, int64_t timeout_ns)
{
	struct faulty *f = be;
	unsigned n = release(f, done, max_nr), kept = n;
	int got;

	if (n == max_nr)
		return (int)n;
	got = f->inner->reap(f->inner_q, done + n, max_nr - n, n ? 0 : bounded(f, timeout_ns));
	if (got < 0)
		return n ? (int)n : got;
	for (unsigned i = n; i < n + (unsigned)got; i++) {
		struct st_aio_req *p = done[i];

		p->len_bytes = (size_t)p->priv[7];
		if (p->priv[6] == FATE_EIO_AFTER)
			p->result = -EIO;
		if (chance(f, f->cfg->faulty_delay_rate))
			hold(f, p, st_now_ns() + (int64_t)(draw(f) % DELAY_MAX_NS));
		else
			done[kept++] = p;
	}
	return (int)kept;
}

static int faulty_flush(void *be)
{
	struct faulty *f = be;

	return f->inner->flush ? f->inner->flush(f->inner_q) : 0;
}

static int faulty_register(void *be, void *base, size_t len_bytes)
{
	struct faulty *f = be;

	return f->inner->register_buf ? f->inner->register_buf(f->inner_q, base, len_bytes) : 0;
}

const struct st_aio_ops st_aio_faulty_ops = {
	.api_version = ST_AIO_API_VERSION,
	.name = "faulty",
	.open = faulty_open,
	.close = faulty_close,
	.submit = faulty_submit,
	.reap = faulty_reap,
	.flush = faulty_flush,
	.register_buf = faulty_register,
};
