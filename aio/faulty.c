/* SPDX-License-Identifier: Apache-2.0 */
/*
 * aio/faulty.c - wraps another backend and makes it fail, by seed and by plan (aio/faulty.h).
 *
 * A piece passes through up to three places: `waiting` to be issued, which serves reordering; the
 * inner backend; `held` until it may be told. What strikes it is decided when it is issued, so that
 * it depends on the order of issue and on no clock. While it is inside, its fields may name another
 * buffer, length or offset than the core's, which are put back before it is told.
 */
#include "aio/faulty.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/clock.h"

#define SECTOR       ((size_t)512)
#define DELAY_MAX_NS 2000000
#define NEVER_NS     INT64_MAX

/* What is done to one piece. Several may come together, as the rates have it. */
struct fate {
	bool is_lost, fails_before, fails_after, is_short, is_torn, is_flipped, is_misdirected;
	bool crash_after, crash_loses_power;
	int rc;
	int64_t delay_ns;
};

struct slot { /* of a piece that is inside */
	struct st_aio_req *piece;
	void *buf;
	size_t len_bytes;
	uint64_t off_bytes;
	struct fate fate;
	char *bounce; /* what is written instead of buf */
	struct st_aio_undo_entry *undo;
	uint64_t flush_mark;
	int64_t release_ns;
	struct slot *next_free;
};

struct faulty {
	const struct st_aio_ops *inner;
	void *inner_q;
	const struct st_aio_cfg *cfg;
	uint64_t state;
	int64_t *hits; /* [n_faulty_at] I/Os that matched */
	int64_t n_issued;
	bool is_dead;
	int crash_rc; /* < 0: the crash could not be made; the queue is of no use any more */
	unsigned n_inner, n_waiting, n_held;
	struct slot **waiting, **held; /* [depth] */
	struct slot *free_slots;
	struct slot slots[]; /* [depth] */
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

/* ---- what strikes a piece ------------------------------------------------------------------- */

static bool fits_op(const struct st_aio_fault *a, const struct st_aio_req *p)
{
	switch (a->kind) {
	case ST_AIO_FAULT_SHORT:
	case ST_AIO_FAULT_FLIP:
	case ST_AIO_FAULT_MISDIRECT:
		return p->op != ST_AIO_FLUSH;
	case ST_AIO_FAULT_TEAR:
		return p->op == ST_AIO_WRITE;
	case ST_AIO_FAULT_LOSE:
		return p->op != ST_AIO_READ;
	default:
		return true;
	}
}

static bool matches(const struct st_aio_fault *a, const struct st_aio_req *p)
{
	if (!fits_op(a, p) || (a->ops && !(a->ops & 1u << p->op)))
		return false;
	if (a->path_part && (!p->path || !strstr(p->path, a->path_part)))
		return false;
	return !a->hi_bytes || (p->op != ST_AIO_FLUSH && p->off_bytes < a->hi_bytes &&
				p->off_bytes + p->len_bytes > a->lo_bytes);
}

static bool is_nth(int64_t nth, int64_t count)
{
	return nth > 0 ? count == nth : nth < 0 && count >= -nth;
}

static void apply(struct fate *t, const struct st_aio_fault *a)
{
	switch (a->kind) {
	case ST_AIO_FAULT_ERROR:
		t->rc = a->rc ? a->rc : -EIO;
		*(a->is_after ? &t->fails_after : &t->fails_before) = true;
		break;
	case ST_AIO_FAULT_SHORT:
		t->is_short = true;
		break;
	case ST_AIO_FAULT_DELAY:
		t->delay_ns = a->delay_ns;
		break;
	case ST_AIO_FAULT_HANG:
		t->delay_ns = NEVER_NS;
		break;
	case ST_AIO_FAULT_TEAR:
		t->is_torn = true;
		break;
	case ST_AIO_FAULT_FLIP:
		t->is_flipped = true;
		break;
	case ST_AIO_FAULT_MISDIRECT:
		t->is_misdirected = true;
		break;
	case ST_AIO_FAULT_LOSE:
		t->is_lost = true;
		break;
	case ST_AIO_FAULT_KILL:
	case ST_AIO_FAULT_POWER_LOSS:
		t->crash_after = true;
		t->crash_loses_power = a->kind == ST_AIO_FAULT_POWER_LOSS;
		break;
	}
}

static void draw_fate(struct faulty *f, const struct st_aio_req *p, struct fate *t)
{
	const struct st_aio_cfg *c = f->cfg;
	int64_t longest = c->faulty_delay_ns ? c->faulty_delay_ns : DELAY_MAX_NS;
	bool moves = p->op != ST_AIO_FLUSH;

	if (chance(f, c->faulty_error_rate)) {
		t->rc = -EIO;
		*(draw(f) & 1 ? &t->fails_before : &t->fails_after) = true;
	} else if (chance(f, c->faulty_short_rate) && p->len_bytes > 1) {
		if (draw(f) % 4 == 0) {
			t->rc = draw(f) & 1 ? -EINTR : -EAGAIN;
			t->fails_before = true;
		} else {
			t->is_short = true;
		}
	}
	if (chance(f, c->faulty_delay_rate) && longest > 0)
		t->delay_ns = 1 + (int64_t)(draw(f) % (uint64_t)longest);
	t->is_torn = chance(f, c->faulty_tear_rate) && p->op == ST_AIO_WRITE;
	t->is_flipped = chance(f, c->faulty_flip_rate) && moves;
	t->is_misdirected = chance(f, c->faulty_misdirect_rate) && moves;
}

/* The first fault of the plan that matches; every one counts what it has seen. */
static const struct st_aio_fault *planned(struct faulty *f, const struct st_aio_req *p)
{
	const struct st_aio_fault *found = NULL;

	for (unsigned i = 0; i < f->cfg->n_faulty_at; i++) {
		const struct st_aio_fault *a = &f->cfg->faulty_at[i];

		if (matches(a, p) && is_nth(a->nth, ++f->hits[i]) && !found)
			found = a;
	}
	return found;
}

static bool is_crash(const struct st_aio_fault *a)
{
	return a->kind == ST_AIO_FAULT_KILL || a->kind == ST_AIO_FAULT_POWER_LOSS;
}

/* ---- slots ---------------------------------------------------------------------------------- */

static struct slot *slot_of(const struct st_aio_req *p)
{
	return (struct slot *)(uintptr_t)p->priv[6];
}

static struct slot *take_slot(struct faulty *f, struct st_aio_req *p)
{
	struct slot *s = f->free_slots;

	ST_ASSERT(s != NULL); /* the core hands over at most depth */
	f->free_slots = s->next_free;
	*s = (struct slot){
		.piece = p, .buf = p->buf, .len_bytes = p->len_bytes, .off_bytes = p->off_bytes
	};
	p->priv[6] = (uintptr_t)s;
	return s;
}

static struct st_aio_req *give_back(struct faulty *f, struct slot *s)
{
	struct st_aio_req *p = s->piece;

	p->buf = s->buf;
	p->len_bytes = s->len_bytes;
	p->off_bytes = s->off_bytes;
	free(s->bounce);
	s->next_free = f->free_slots;
	f->free_slots = s;
	return p;
}

static void hold(struct faulty *f, struct slot *s)
{
	int64_t d = s->fate.delay_ns;

	s->release_ns = d == NEVER_NS ? NEVER_NS : d ? st_now_ns() + d : 0;
	f->held[f->n_held++] = s;
}

static void hold_failed(struct faulty *f, struct slot *s, int rc)
{
	s->piece->result = rc;
	hold(f, s);
}

/* ---- on the way in -------------------------------------------------------------------------- */

/*
 * A part of len: whole blocks where there are several, as devices and file systems give. Of a
 * single block the device moves all or nothing, but less may be told: see told_bytes().
 */
static size_t shorter(struct faulty *f, size_t len)
{
	size_t blocks = (len - 1) / ST_AIO_ALIGN;

	return blocks ? ST_AIO_ALIGN * (1 + draw(f) % blocks) : len;
}

static int64_t told_bytes(const struct slot *s)
{
	size_t n = (size_t)s->piece->result;

	if (s->fate.is_torn)
		return (int64_t)s->len_bytes;
	if (s->fate.is_short && n == s->len_bytes && n > 1)
		return (int64_t)(n > SECTOR ? n - SECTOR : n / 2);
	return (int64_t)n;
}

/* Another place of the same file, if it has one. */
static uint64_t elsewhere(struct faulty *f, const struct st_aio_req *p)
{
	struct stat st;
	uint64_t n, at;

	if (fstat(p->fd, &st) || st.st_size < 0 ||
	    (uint64_t)st.st_size < p->len_bytes + ST_AIO_ALIGN)
		return p->off_bytes;
	n = ((uint64_t)st.st_size - p->len_bytes) / ST_AIO_ALIGN + 1;
	at = draw(f) % n * ST_AIO_ALIGN;
	if (at == p->off_bytes)
		at = (at / ST_AIO_ALIGN + 1) % n * ST_AIO_ALIGN;
	return at;
}

/* Bytes of the file as they are now; those behind its end are left alone. */
static int read_now(const struct st_aio_req *p, char *buf)
{
	struct st_aio_req r = *p;
	int64_t n;

	r.op = ST_AIO_READ;
	r.buf = buf;
	do {
		n = st_aio_transfer(&r);
	} while (n == -EINTR || n == -EAGAIN);
	return n < 0 ? (int)n : 0;
}

/* The bytes that a damaged write carries: the tail of a torn one is what the file holds already. */
static int make_bounce(struct faulty *f, struct slot *s)
{
	struct st_aio_req *p = s->piece;
	size_t rounded = (p->len_bytes + ST_AIO_ALIGN - 1) & ~(ST_AIO_ALIGN - 1);
	size_t arrives = p->len_bytes;
	int rc = 0;

	s->bounce = aligned_alloc(ST_AIO_ALIGN, rounded);
	if (!s->bounce)
		return -ENOMEM;
	memset(s->bounce, 0, rounded);
	if (s->fate.is_torn) {
		arrives = draw(f) % ((p->len_bytes + SECTOR - 1) / SECTOR) * SECTOR;
		rc = read_now(p, s->bounce);
	}
	memcpy(s->bounce, p->buf, arrives);
	if (s->fate.is_flipped)
		s->bounce[draw(f) % p->len_bytes] ^= (char)(1u << draw(f) % 8);
	p->buf = s->bounce;
	return rc;
}

static int prepare(struct faulty *f, struct slot *s)
{
	struct st_aio_req *p = s->piece;
	int rc = 0;

	if (s->fate.is_misdirected)
		p->off_bytes = elsewhere(f, p);
	if (s->fate.is_short)
		p->len_bytes = shorter(f, p->len_bytes);
	if (p->op == ST_AIO_WRITE && f->cfg->faulty_undo)
		rc = st_aio_undo_note(f->cfg->faulty_undo, p->fd, p->off_bytes, p->len_bytes,
				      &s->undo);
	if (!rc && p->op == ST_AIO_WRITE && (s->fate.is_torn || s->fate.is_flipped))
		rc = make_bounce(f, s);
	if (p->op == ST_AIO_FLUSH && f->cfg->faulty_undo)
		s->flush_mark = st_aio_undo_mark(f->cfg->faulty_undo);
	return rc;
}

static void hand_over(struct faulty *f, struct slot *s)
{
	struct st_aio_req *p = s->piece;
	int rc;

	if (s->fate.fails_before || s->fate.is_lost) {
		hold_failed(f, s, s->fate.fails_before ? s->fate.rc : (int)s->len_bytes);
		return;
	}
	rc = prepare(f, s);
	if (!rc)
		rc = f->inner->submit(f->inner_q, p);
	if (rc)
		hold_failed(f, s, rc);
	else
		f->n_inner++;
}

/* ---- on the way out ------------------------------------------------------------------------- */

static void finish(struct faulty *f, struct slot *s)
{
	struct st_aio_req *p = s->piece;
	struct st_aio_undo *u = f->cfg->faulty_undo;

	f->n_inner--;
	if (s->undo)
		st_aio_undo_written(u, s->undo);
	if (p->op == ST_AIO_FLUSH && u && p->result >= 0)
		st_aio_undo_flushed(u, p->fd, s->flush_mark);
	if (p->op == ST_AIO_READ && s->fate.is_flipped && p->result > 0)
		((char *)p->buf)[draw(f) % (uint64_t)p->result] ^= (char)(1u << draw(f) % 8);
	if (p->result > 0)
		p->result = told_bytes(s);
	if (s->fate.fails_after)
		p->result = s->fate.rc;
	hold(f, s);
}

/* What the inner backend has in flight comes back. */
static int drain(struct faulty *f)
{
	struct st_aio_req *done[16];

	while (f->n_inner) {
		int n = f->inner->reap(f->inner_q, done, ST_ARRAY_LEN(done), -1);

		if (n < 0)
			return n;
		for (int i = 0; i < n; i++)
			finish(f, slot_of(done[i]));
	}
	return 0;
}

/*
 * The process dies. Of what it has handed over, that which waits is done, not done or torn. With
 * the power goes what was not flushed; what is in flight must have landed before.
 */
static void crash(struct faulty *f, bool loses_power)
{
	f->is_dead = true;
	for (unsigned i = 0; i < f->n_waiting; i++) {
		struct slot *s = f->waiting[i];
		uint64_t fate = draw(f) % 3;

		s->fate = (struct fate){ .is_torn = fate == 2 && s->piece->op == ST_AIO_WRITE };
		if (fate == 0) {
			s->fate.fails_before = true;
			s->fate.rc = -EIO;
		}
		hand_over(f, s);
	}
	f->n_waiting = 0;
	/* An inner backend that fails now has lost its I/Os, as a dead process has. */
	if (f->inner->flush)
		(void)f->inner->flush(f->inner_q);
	(void)drain(f);
	if (loses_power)
		f->crash_rc = st_aio_undo_lose_power(f->cfg->faulty_undo, draw(f));
	if (!f->cfg->faulty_survives && !f->crash_rc)
		(void)kill(getpid(), SIGKILL);
	for (unsigned i = 0; i < f->n_held; i++) {
		f->held[i]->piece->result = -EIO;
		f->held[i]->release_ns = 0;
	}
}

static void issue(struct faulty *f, struct slot *s)
{
	const struct st_aio_fault *a;
	int64_t nth = f->cfg->faulty_fail_nth;
	struct fate *t = &s->fate;

	if (f->is_dead) {
		hold_failed(f, s, -EIO);
		return;
	}
	a = planned(f, s->piece);
	if (a && is_crash(a) && !a->is_after) {
		f->waiting[f->n_waiting++] = s; /* it may be done in part */
		crash(f, a->kind == ST_AIO_FAULT_POWER_LOSS);
		return;
	}
	if (is_nth(nth, ++f->n_issued)) {
		t->rc = -EIO;
		*(draw(f) & 1 ? &t->fails_before : &t->fails_after) = true;
	} else if (a) {
		apply(t, a);
	} else {
		draw_fate(f, s->piece, t);
	}
	hand_over(f, s);
}

/* Each of n may change places with another. */
static void shuffle(struct faulty *f, struct slot **s, unsigned n)
{
	for (unsigned i = n; i > 1; i--) {
		unsigned k;
		struct slot *other;

		if (!chance(f, f->cfg->faulty_reorder_rate))
			continue;
		k = (unsigned)(draw(f) % i);
		other = s[k];
		s[k] = s[i - 1];
		s[i - 1] = other;
	}
}

static void issue_waiting(struct faulty *f)
{
	shuffle(f, f->waiting, f->n_waiting);
	while (f->n_waiting) { /* at a crash, issue() takes the rest */
		struct slot *s = f->waiting[0];

		memmove(f->waiting, f->waiting + 1, --f->n_waiting * sizeof(f->waiting[0]));
		issue(f, s);
	}
}

static int faulty_submit(void *be, struct st_aio_req *p)
{
	struct faulty *f = be;
	struct slot *s = take_slot(f, p);

	if (f->cfg->faulty_reorder_rate > 0)
		f->waiting[f->n_waiting++] = s;
	else
		issue(f, s);
	return 0;
}

static unsigned release(struct faulty *f, struct st_aio_req **done, unsigned max_nr)
{
	int64_t now = f->n_held ? st_now_ns() : 0;
	unsigned n = 0, kept = 0;

	if (f->cfg->faulty_reorder_rate > 0)
		shuffle(f, f->held, f->n_held);
	for (unsigned i = 0; i < f->n_held; i++) {
		struct slot *s = f->held[i];

		if (n == max_nr || s->release_ns > now)
			f->held[kept++] = s;
		else
			done[n++] = give_back(f, s);
	}
	f->n_held = kept;
	return n;
}

/* The wait ends no later than the next held completion is due. */
static int64_t bounded(const struct faulty *f, int64_t timeout_ns)
{
	int64_t now = f->n_held ? st_now_ns() : 0;

	for (unsigned i = 0; i < f->n_held; i++) {
		int64_t at = f->held[i]->release_ns, left = at > now ? at - now : 0;

		if (at != NEVER_NS && (timeout_ns < 0 || left < timeout_ns))
			timeout_ns = left;
	}
	return timeout_ns;
}

/* Pieces that have just come from the inner backend; one of them may bring the crash. */
static void take_in(struct faulty *f, struct st_aio_req **got, unsigned n)
{
	bool crashes = false, loses_power = false;

	for (unsigned i = 0; i < n; i++) {
		struct slot *s = slot_of(got[i]);

		crashes |= s->fate.crash_after;
		loses_power |= s->fate.crash_loses_power;
		finish(f, s);
	}
	if (crashes && !f->is_dead)
		crash(f, loses_power);
}

static int faulty_reap(void *be, struct st_aio_req **done, unsigned max_nr, int64_t timeout_ns)
{
	struct st_aio_req *got[16];
	struct faulty *f = be;
	int n;

	issue_waiting(f);
	if (f->crash_rc)
		return f->crash_rc;
	n = f->inner->reap(f->inner_q, got, ST_ARRAY_LEN(got), bounded(f, timeout_ns));
	if (n > 0)
		take_in(f, got, (unsigned)n);
	return n < 0 ? n : (int)release(f, done, max_nr);
}

static int faulty_flush(void *be)
{
	struct faulty *f = be;

	issue_waiting(f);
	return f->inner->flush ? f->inner->flush(f->inner_q) : 0;
}

static int faulty_register(void *be, void *base, size_t len_bytes)
{
	struct faulty *f = be;

	return f->inner->register_buf ? f->inner->register_buf(f->inner_q, base, len_bytes) : 0;
}

static int faulty_register_file(void *be, int fd)
{
	struct faulty *f = be;

	return f->inner->register_file ? f->inner->register_file(f->inner_q, fd) : 0;
}

static void faulty_unregister_file(void *be, int fd)
{
	struct faulty *f = be;

	if (f->inner->unregister_file)
		f->inner->unregister_file(f->inner_q, fd);
}

/* ---- open and close ------------------------------------------------------------------------ */

static void free_all(struct faulty *f)
{
	free(f->hits);
	free(f->waiting);
	free(f->held);
	free(f);
}

static int faulty_open(void **out, const struct st_aio_cfg *cfg, int wake_fd)
{
	const char *name = cfg->faulty_inner ? cfg->faulty_inner : "threads";
	const struct st_aio_ops *inner = st_aio_find(name);
	struct faulty *f = NULL;
	int rc;

	if (!inner || inner == &st_aio_faulty_ops)
		return st_fail(-EINVAL, "aio: faulty backend: '%s' cannot be wrapped.", name);
	if (cfg->n_faulty_at && !cfg->faulty_at)
		return st_fail(-EINVAL, "aio: faulty backend: %u faults, but no list of them.",
			       cfg->n_faulty_at);
	for (unsigned i = 0; i < cfg->n_faulty_at; i++)
		if (cfg->faulty_at[i].kind == ST_AIO_FAULT_POWER_LOSS && !cfg->faulty_undo)
			return st_fail(-EINVAL,
				       "aio: faulty backend: a power loss needs faulty_undo.");
	f = calloc(1, sizeof(*f) + cfg->depth * sizeof(f->slots[0]));
	if (!f)
		return st_fail(-ENOMEM, "aio: faulty queue");
	f->hits = calloc(cfg->n_faulty_at + 1, sizeof(*f->hits));
	f->waiting = calloc(cfg->depth, sizeof(*f->waiting));
	f->held = calloc(cfg->depth, sizeof(*f->held));
	if (!f->hits || !f->waiting || !f->held) {
		rc = st_fail(-ENOMEM, "aio: faulty queue");
		goto fail;
	}
	for (unsigned i = 0; i < cfg->depth; i++) {
		f->slots[i].next_free = f->free_slots;
		f->free_slots = &f->slots[i];
	}
	f->inner = inner;
	f->cfg = cfg;
	f->state = cfg->faulty_seed;
	rc = inner->open(&f->inner_q, cfg, wake_fd);
	if (rc < 0)
		goto fail;
	*out = f;
	return 0;

fail:
	free_all(f);
	return rc;
}

static void faulty_close(void *be)
{
	struct faulty *f = be;

	f->inner->close(f->inner_q);
	free_all(f);
}

static void faulty_abandon(void *be)
{
	struct faulty *f = be;

	if (f->inner->abandon)
		f->inner->abandon(f->inner_q);
}

const struct st_aio_ops st_aio_faulty_ops = {
	.api_version = ST_AIO_API_VERSION,
	.name = "faulty",
	.open = faulty_open,
	.close = faulty_close,
	.abandon = faulty_abandon,
	.submit = faulty_submit,
	.reap = faulty_reap,
	.flush = faulty_flush,
	.register_buf = faulty_register,
	.register_file = faulty_register_file,
	.unregister_file = faulty_unregister_file,
};
