/* SPDX-License-Identifier: Apache-2.0 */
/* bench/load.c - areas of numbered blocks, and loads upon them. */
#include "bench/load.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "bench/pattern.h"
#include "core/arena.h"
#include "core/clock.h"
#include "core/log.h"
#include "nvme/store.h"

#define JSON_BYTES  8192
#define REAP_MAX    64u
#define POLL_NS     100000000 /* how long a signal may go unnoticed */
#define SEED        0x5354524154413031ull
#define PASS_BYTES  ((size_t)1 << 20) /* at least, of a request of a pass */
#define PASS_DEPTH  16u
#define SPARE_MAX   8u     /* buffers beyond the depth: see loop() */
#define TIMED_BYTES 65536u /* the pattern's CPU time is measured of blocks at least so long */
#define GIB         1073741824.0

const char *const st_load_op_names[ST_LOAD_OPS + 1] = { "read", "write", "mixed", NULL };

struct raw_file {
	int fd;
	bool is_direct;
};

struct st_area {
	struct st_area_cfg cfg;
	uint64_t n_blocks;
	struct st_pattern pattern;
	unsigned n_slots;   /* depth_max or pass_depth, and what is spare */
	uint64_t pass_span; /* blocks that one request of a pass moves */
	unsigned pass_depth;
	struct st_arena arena; /* for n_slots blocks, or as many as a pass needs */
	uint32_t *generation;  /* [n_blocks] as last written; 0: never */
	uint8_t *is_busy;      /* [n_blocks] some request has it */
	struct slot *slots;    /* [n_slots] */
	struct st_store *store;
	bool is_poisoned; /* I/Os never came back */
	struct raw_file raw[ST_STORE_PATHS_MAX];
};

/* One request in flight: a block, or in a pass pass_span of them. */
struct slot {
	struct st_aio_req req;
	struct slot *next; /* in one of the run's lists */
	char *buf;
	uint64_t nr;
	uint64_t checksum;
};

struct slot_list { /* first in, first out */
	struct slot *first, **end;
};

/* One run. A slot is free, ready, in flight, or to be looked at, and then free again. */
struct run {
	struct st_area *a;
	const struct st_load *l;
	struct st_aio_queue *q;
	struct st_load_result *r;
	struct slot *free_slots;
	struct slot_list ready; /* to be submitted */
	struct slot_list todo;  /* completed */
	uint64_t n_out;         /* in flight */
	uint64_t span;
	unsigned depth;
	uint64_t cursor[2]; /* the next block of a sequence: reads, writes */
	uint64_t n_given;   /* blocks made ready; of a pass */
	uint64_t given_bytes[2];
	uint64_t random;
	int64_t end_ns;
	int64_t last_done_ns;
	bool times_pattern;
	int rc;
	struct st_error error;
};

/* ---- files --------------------------------------------------------------------------------- */

int st_load_open_nameless(const char *dir, int flags)
{
	char name[4096];
	int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC | flags, 0600);

	if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR))
		return fd;
	if (snprintf(name, sizeof(name), "%s/strata-bench-XXXXXX", dir) >= (int)sizeof(name)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	fd = mkostemp(name, O_CLOEXEC | flags);
	if (fd >= 0)
		unlink(name);
	return fd;
}

static int check_space(const char *path, int fd, uint64_t bytes)
{
	struct statvfs v;

	if (fstatvfs(fd, &v))
		return st_fail(-errno, "%s: free space", path);
	if ((uint64_t)v.f_bavail * v.f_frsize < bytes)
		return st_fail(STRATA_E_NO_FIT,
			       "%s has %.2f GiB free, %.2f GiB are needed: free some, or give a "
			       "smaller --size.",
			       path, (double)v.f_bavail * (double)v.f_frsize / GIB,
			       (double)bytes / GIB);
	return 0;
}

static int open_raw(struct raw_file *f, const char *path, uint64_t bytes)
{
	int rc;

	f->fd = st_load_open_nameless(path, O_DIRECT);
	f->is_direct = f->fd >= 0;
	if (f->fd < 0 && errno == EINVAL) {
		f->fd = st_load_open_nameless(path, 0);
		st_log_once(ST_LOG_WARN,
			    "%s: the file system refuses O_DIRECT: buffered I/O is measured", path);
	}
	if (f->fd < 0)
		return st_fail(errno == EMFILE || errno == ENOMEM ? -errno : STRATA_E_INPUT,
			       "%s: no file can be made there (%s): name a directory that this "
			       "user may write to.",
			       path, strerror(errno));
	rc = check_space(path, f->fd, bytes);
	if (!rc && fallocate(f->fd, 0, 0, (off_t)bytes)) {
		rc = errno == ENOSPC || errno == EDQUOT ? STRATA_E_NO_FIT : -errno;
		if (errno == EOPNOTSUPP)
			rc = ftruncate(f->fd, (off_t)bytes) ? -errno : 0;
		if (rc)
			rc = st_fail(rc, "%s: preallocate %.2f GiB (%s)%s", path,
				     (double)bytes / GIB, strerror(errno),
				     rc == STRATA_E_NO_FIT ? ": give a smaller --size." : "");
	}
	return rc;
}

static int open_raw_files(struct st_area *a)
{
	const struct st_area_cfg *c = &a->cfg;
	int rc = 0;

	for (unsigned p = 0; !rc && p < c->n_paths; p++)
		rc = open_raw(&a->raw[p], c->paths[p],
			      2 * (a->n_blocks / c->n_paths) * c->block_bytes);
	return rc;
}

static int open_store(struct st_area *a)
{
	struct st_store_cfg cfg = {
		.paths = a->cfg.paths,
		.n_paths = a->cfg.n_paths,
		.weights = a->cfg.weights,
		.n_extents = (uint32_t)a->n_blocks,
		.checksum = a->cfg.checksum,
	};
	char json[JSON_BYTES];
	uint64_t *bytes;
	int rc;

	if (a->n_blocks > UINT32_MAX)
		return st_fail(-EINVAL, "bench: %llu blocks are too many for a store.",
			       (unsigned long long)a->n_blocks);
	bytes = calloc(a->n_blocks, sizeof(*bytes));
	if (!bytes)
		return st_fail(-ENOMEM, "bench: extents");
	for (uint64_t i = 0; i < a->n_blocks; i++)
		bytes[i] = a->cfg.block_bytes;
	cfg.extent_bytes = bytes;
	rc = st_store_create(&a->store, &cfg, json, sizeof(json));
	free(bytes);
	return rc;
}

/* ---- the area ------------------------------------------------------------------------------ */

static int check_cfg(const struct st_area_cfg *c)
{
	if (!c->n_paths || c->n_paths > ST_STORE_PATHS_MAX)
		return st_fail(-EINVAL, "bench: %u paths: must be 1 to %u.", c->n_paths,
			       ST_STORE_PATHS_MAX);
	if (!c->block_bytes || c->block_bytes % ST_AIO_ALIGN)
		return st_fail(-EINVAL, "bench: blocks of %zu bytes: must be a multiple of %zu.",
			       c->block_bytes, ST_AIO_ALIGN);
	if (c->size_bytes / c->block_bytes < 2ull * c->n_paths || c->size_bytes > INT64_MAX / 4)
		return st_fail(-EINVAL, "bench: %llu bytes in blocks of %zu: too few or too many.",
			       (unsigned long long)c->size_bytes, c->block_bytes);
	if (!c->depth_max)
		return st_fail(-EINVAL, "bench: a depth of 0.");
	return 0;
}

static unsigned spare_of(unsigned depth)
{
	return depth < SPARE_MAX ? depth : SPARE_MAX;
}

static int alloc_area(struct st_area *a)
{
	const struct st_area_cfg *c = &a->cfg;
	uint64_t n;
	int rc = st_pattern_init(&a->pattern, c->block_bytes, SEED);

	if (rc)
		return rc;
	a->generation = calloc(a->n_blocks, sizeof(*a->generation));
	a->is_busy = calloc(a->n_blocks, sizeof(*a->is_busy));
	a->n_slots = c->depth_max > a->pass_depth ? c->depth_max : a->pass_depth;
	a->n_slots += spare_of(a->n_slots);
	a->slots = calloc(a->n_slots, sizeof(*a->slots));
	if (!a->generation || !a->is_busy || !a->slots)
		return st_fail(-ENOMEM, "bench: %llu blocks", (unsigned long long)a->n_blocks);
	n = (a->pass_depth + spare_of(a->pass_depth)) * a->pass_span;
	n = a->n_slots > n ? a->n_slots : n;
	rc = st_arena_init(&a->arena, n * c->block_bytes, "bench");
	for (uint64_t i = 0; !rc && i < n; i++)
		st_pattern_body(&a->pattern, a->arena.base + i * c->block_bytes);
	return rc;
}

/*
 * Passes over small raw blocks move runs of them, which lie side by side on one path; so each path
 * holds whole runs.
 */
static void shape(struct st_area *a)
{
	const struct st_area_cfg *c = &a->cfg;
	uint64_t n = c->size_bytes / c->block_bytes / c->n_paths; /* on each path */

	a->pass_span = 1;
	a->pass_depth = c->depth_max;
	if (c->is_raw && c->block_bytes < PASS_BYTES) {
		a->pass_span = PASS_BYTES / c->block_bytes;
		if (a->pass_span > n)
			a->pass_span = n;
		a->pass_depth = PASS_DEPTH;
	}
	a->n_blocks = n / a->pass_span * a->pass_span * c->n_paths;
}

int st_area_open(struct st_area **out, const struct st_area_cfg *cfg)
{
	struct st_area *a;
	struct st_error e;
	int rc = check_cfg(cfg);

	if (rc)
		return rc;
	a = calloc(1, sizeof(*a));
	if (!a)
		return st_fail(-ENOMEM, "bench");
	a->cfg = *cfg;
	shape(a);
	for (unsigned p = 0; p < ST_STORE_PATHS_MAX; p++)
		a->raw[p].fd = -1;
	rc = alloc_area(a);
	if (!rc)
		rc = cfg->is_raw ? open_raw_files(a) : open_store(a);
	if (rc) {
		st_error_take(&e, rc);
		st_area_close(a);
		return st_error_raise(&e);
	}
	*out = a;
	return 0;
}

void st_area_close(struct st_area *a)
{
	if (!a || a->is_poisoned) /* its memory and files are the kernel's: they are leaked */
		return;
	st_store_close(a->store, true);
	for (unsigned p = 0; p < ST_STORE_PATHS_MAX; p++)
		if (a->raw[p].fd >= 0)
			close(a->raw[p].fd);
	st_arena_fini(&a->arena);
	st_pattern_fini(&a->pattern);
	free(a->generation);
	free(a->is_busy);
	free(a->slots);
	free(a);
}

uint64_t st_area_blocks(const struct st_area *a)
{
	return a->n_blocks;
}

uint64_t st_area_pass_span(const struct st_area *a)
{
	return a->pass_span;
}

const struct st_area_cfg *st_area_config(const struct st_area *a)
{
	return &a->cfg;
}

/* Where a block lies: a request for it that is not submitted. */
static int locate(struct st_area *a, uint64_t nr, bool is_write, char *buf, struct st_aio_req *req)
{
	uint64_t run;
	unsigned p;

	if (a->store)
		return is_write ? st_store_prep_write(a->store, (uint32_t)nr, buf, req)
				: st_store_prep_read(a->store, (uint32_t)nr, buf, req);
	run = nr / a->pass_span;
	p = (unsigned)(run % a->cfg.n_paths);
	req->op = is_write ? ST_AIO_WRITE : ST_AIO_READ;
	req->fd = a->raw[p].fd;
	req->path = a->cfg.paths[p];
	req->buf = buf;
	req->len_bytes = a->cfg.block_bytes;
	req->off_bytes =
		(run / a->cfg.n_paths * a->pass_span + nr % a->pass_span) * a->cfg.block_bytes;
	return 0;
}

int st_area_files(struct st_area *a, struct st_area_file *files)
{
	struct st_aio_req req = { 0 };
	unsigned n = 0;
	int rc;

	for (uint64_t nr = 0; nr < a->n_blocks; nr++) {
		unsigned p = 0;

		rc = locate(a, nr, false, a->arena.base, &req);
		if (rc)
			return rc;
		while (p < n && files[p].fd != req.fd)
			p++;
		if (p == n) /* the first block of a path is its lowest */
			files[n++] =
				(struct st_area_file){ .fd = req.fd, .off_bytes = req.off_bytes };
		files[p].len_bytes = req.off_bytes + req.len_bytes - files[p].off_bytes;
	}
	for (unsigned p = 0; p < n; p++) {
		int flags = fcntl(files[p].fd, F_GETFL);

		files[p].spare_off_bytes = files[p].off_bytes + files[p].len_bytes;
		files[p].is_direct = flags >= 0 && (flags & O_DIRECT);
	}
	return n == a->cfg.n_paths ? 0 : st_fail(-EINVAL, "bench: a path holds no block.");
}

/* ---- one run ------------------------------------------------------------------------------- */

static void list_add(struct slot_list *l, struct slot *s)
{
	s->next = NULL;
	*l->end = s;
	l->end = &s->next;
}

static struct slot *list_take(struct slot_list *l)
{
	struct slot *s = l->first;

	l->first = s->next;
	if (!l->first)
		l->end = &l->first;
	return s;
}

static int64_t thread_cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static int64_t process_cpu_ns(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return ((int64_t)u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000 +
	       ((int64_t)u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000;
}

static uint64_t next_random(struct run *u)
{
	u->random ^= u->random << 13;
	u->random ^= u->random >> 7;
	u->random ^= u->random << 17;
	return u->random;
}

/*
 * A block that nobody has in flight: the next of the sequence, or any. Depth is at most half of the
 * blocks, so there is one.
 */
static uint64_t pick(struct run *u, bool is_write)
{
	struct st_area *a = u->a;
	uint64_t nr;

	do {
		if (u->l->is_random) {
			nr = (uint64_t)(((unsigned __int128)next_random(u) * a->n_blocks) >> 64);
		} else {
			nr = u->cursor[is_write];
			u->cursor[is_write] = nr + u->span < a->n_blocks ? nr + u->span : 0;
		}
	} while (a->is_busy[nr]);
	return nr;
}

static bool is_next_a_write(const struct run *u)
{
	if (u->l->op != ST_LOAD_MIXED)
		return u->l->op == ST_LOAD_WRITE;
	return u->given_bytes[0] * (100 - ST_LOAD_READ_SHARE) >
	       u->given_bytes[1] * ST_LOAD_READ_SHARE;
}

static bool is_over(const struct run *u)
{
	if (u->rc || *u->a->cfg.stop)
		return true;
	if (!u->l->duration_ns)
		return u->n_given >= u->a->n_blocks;
	return st_now_ns() >= u->end_ns;
}

static void note_failure(struct run *u, int rc)
{
	if (u->rc)
		return;
	u->rc = rc;
	st_error_take(&u->error, rc);
}

/* The pattern of the next generation, and the store's checksum of it. */
static void make_blocks(struct run *u, struct slot *s)
{
	struct st_area *a = u->a;
	int64_t t0 = u->times_pattern ? thread_cpu_ns() : 0, t1, t2;

	for (uint64_t j = 0; j < u->span; j++)
		st_pattern_stamp(&a->pattern, s->buf + j * a->cfg.block_bytes, s->nr + j,
				 a->generation[s->nr + j] + 1);
	t1 = u->times_pattern ? thread_cpu_ns() : 0;
	u->r->pattern_ns += t1 - t0;
	if (!a->store || !a->cfg.checksum)
		return;
	s->checksum = st_store_checksum(a->store, (uint32_t)s->nr, s->buf);
	t2 = u->times_pattern ? thread_cpu_ns() : 0;
	u->r->checksum_ns += t2 - t1;
}

/* Into a free buffer: the next request, whole but for its submission. */
static int prepare_one(struct run *u)
{
	struct slot *s = u->free_slots;
	bool is_write = is_next_a_write(u);
	int rc;

	s->nr = pick(u, is_write);
	if (is_write)
		make_blocks(u, s);
	rc = locate(u->a, s->nr, is_write, s->buf, &s->req);
	if (rc)
		return rc;
	s->req.len_bytes *= u->span;
	s->req.user = s;
	u->free_slots = s->next;
	list_add(&u->ready, s);
	u->a->is_busy[s->nr] = 1;
	u->given_bytes[is_write] += s->req.len_bytes;
	u->n_given += u->span;
	return 0;
}

static void note_wrong(struct run *u, const struct slot *s, uint64_t j, size_t n_sectors,
		       const char *more)
{
	size_t block_bytes = u->a->cfg.block_bytes;

	if (!u->r->n_wrong++)
		snprintf(u->r->first_wrong, sizeof(u->r->first_wrong),
			 "%s: block %llu at offset %llu: %zu of %zu sectors are not what was "
			 "written%s",
			 s->req.path, (unsigned long long)(s->nr + j),
			 (unsigned long long)(s->req.off_bytes + j * block_bytes), n_sectors,
			 block_bytes / ST_PATTERN_SECTOR, more);
	/* the next write from here shall be right */
	st_pattern_body(&u->a->pattern, s->buf + j * block_bytes);
}

static void check_blocks(struct run *u, struct slot *s)
{
	struct st_area *a = u->a;
	int64_t t0 = u->times_pattern ? thread_cpu_ns() : 0, t1;
	int rc = a->store ? st_store_read_done(a->store, (uint32_t)s->nr, s->buf) : 0;

	t1 = u->times_pattern ? thread_cpu_ns() : 0;
	if (a->store && a->cfg.checksum)
		u->r->checksum_ns += t1 - t0;
	for (uint64_t j = 0; j < u->span; j++) {
		const char *block = s->buf + j * a->cfg.block_bytes;
		uint32_t g = a->generation[s->nr + j];
		size_t n = u->l->is_thorough || rc
				   ? st_pattern_wrong_all(&a->pattern, block, s->nr + j, g)
				   : st_pattern_wrong(&a->pattern, block, s->nr + j, g);

		if (n || rc)
			note_wrong(u, s, j, n, rc ? " (the checksum says so too)" : "");
	}
	u->r->pattern_ns += u->times_pattern ? thread_cpu_ns() - t1 : 0;
}

static void take_one(struct run *u, struct slot *s)
{
	struct st_area *a = u->a;
	bool is_write = s->req.op == ST_AIO_WRITE;

	a->is_busy[s->nr] = 0;
	s->next = u->free_slots;
	u->free_slots = s;
	if (s->req.result < 0) {
		if (!u->rc) {
			u->rc = (int)s->req.result;
			u->error = s->req.error;
		}
		return;
	}
	if (s->req.done_ns > u->last_done_ns)
		u->last_done_ns = s->req.done_ns;
	u->r->n_ios++;
	u->r->n_bytes += s->req.len_bytes;
	st_hist_add(&u->r->latency, s->req.done_ns - s->req.submit_ns);
	if (!is_write) {
		check_blocks(u, s);
		return;
	}
	for (uint64_t j = 0; j < u->span; j++)
		a->generation[s->nr + j]++;
	if (a->store)
		st_store_write_done(a->store, (uint32_t)s->nr, s->checksum);
}

static bool may_prepare(const struct run *u)
{
	return u->free_slots && !is_over(u);
}

static void give(struct run *u)
{
	while (u->n_out < u->depth && !u->rc) {
		int rc = 0;

		if (!u->ready.first && may_prepare(u))
			rc = prepare_one(u);
		if (!rc && !u->ready.first)
			return;
		if (!rc)
			rc = st_aio_submit(u->q, &u->ready.first->req);
		if (rc == -EAGAIN)
			return;
		if (rc) {
			note_failure(u, rc);
			return;
		}
		list_take(&u->ready);
		u->n_out++;
	}
}

/*
 * The drive comes first: what has completed is replaced, and handed over, before the next block is
 * checked or made, since that takes as long as the drive takes for another. So writes are made
 * ahead, and reads checked later, in spare buffers.
 */
static void loop(struct run *u)
{
	struct st_aio_req *done[REAP_MAX];
	int n;

	for (;;) {
		bool has_work;

		give(u);
		has_work = u->todo.first || (!u->rc && may_prepare(u));
		if (!has_work && !u->n_out)
			return;
		n = st_aio_reap(u->q, done, REAP_MAX, has_work ? 0 : POLL_NS);
		if (n < 0) { /* nothing can be awaited any more; closing the queue does */
			note_failure(u, n);
			return;
		}
		for (int i = 0; i < n; i++)
			list_add(&u->todo, done[i]->user);
		u->n_out -= (uint64_t)n;
		if (n)
			continue;
		if (u->todo.first) {
			take_one(u, list_take(&u->todo));
		} else if (has_work) {
			int rc = prepare_one(u);

			if (rc)
				note_failure(u, rc);
		}
	}
}

static int check_load(const struct st_area *a, const struct st_load *l)
{
	if (!l->depth || l->depth > a->cfg.depth_max || l->depth > a->n_blocks / 2)
		return st_fail(-EINVAL,
			       "bench: depth %u: must be 1 to %u, and at most half of the %llu "
			       "blocks.",
			       l->depth, a->cfg.depth_max, (unsigned long long)a->n_blocks);
	return 0;
}

static void reset_slots(struct run *u, unsigned n)
{
	for (unsigned i = n; i-- > 0;) {
		struct slot *s = &u->a->slots[i];

		s->buf = u->a->arena.base + i * u->span * u->a->cfg.block_bytes;
		s->next = u->free_slots;
		u->free_slots = s;
	}
	memset(u->a->is_busy, 0, u->a->n_blocks); /* a run that failed may have left some */
	/*
	 * What the run before read may hold a wrong bit that nobody looked for. In a mixed load
	 * such a bit can still be written again, and then counts where it is found.
	 */
	for (uint64_t i = 0; u->l->op != ST_LOAD_READ && i < n * u->span; i++)
		st_pattern_body(&u->a->pattern, u->a->arena.base + i * u->a->cfg.block_bytes);
}

static int register_files(struct st_area *a, struct st_aio_queue *q)
{
	int rc = 0;

	if (a->store)
		return st_store_register_files(a->store, q);
	for (unsigned p = 0; !rc && p < a->cfg.n_paths; p++)
		rc = st_aio_register_file(q, a->raw[p].fd);
	return rc;
}

int st_area_run(struct st_area *a, const struct st_load *l, struct st_load_result *r)
{
	struct st_aio_cfg cfg = l->aio;
	struct run u = { .a = a, .l = l, .r = r };
	int64_t start_ns, cpu_ns;
	unsigned n_slots;
	int rc = check_load(a, l);

	if (rc)
		return rc;
	*r = (struct st_load_result){ 0 };
	u.span = l->duration_ns ? 1 : a->pass_span;
	u.depth = u.span > 1 ? a->pass_depth : l->depth;
	if (u.span > 1)
		cfg.block_bytes = u.span * a->cfg.block_bytes;
	n_slots = u.depth + spare_of(u.depth);
	cfg.depth = u.span == 1 && l->aio_depth ? l->aio_depth : u.depth;
	if (u.depth > cfg.depth)
		u.depth = cfg.depth;
	rc = st_aio_open(&u.q, &cfg);
	if (rc)
		return rc;
	r->backend = st_aio_name(u.q);
	rc = register_files(a, u.q);
	if (!rc)
		rc = st_aio_register(u.q, a->arena.base, n_slots * u.span * a->cfg.block_bytes);
	if (rc)
		goto out;
	reset_slots(&u, n_slots);
	u.ready.end = &u.ready.first;
	u.todo.end = &u.todo.first;
	/* Mixed: the writes begin half-way, so that neither meets the other soon. */
	u.cursor[1] = l->op == ST_LOAD_MIXED ? a->n_blocks / 2 : 0;
	u.times_pattern = u.span * a->cfg.block_bytes >= TIMED_BYTES;
	cpu_ns = process_cpu_ns();
	start_ns = st_now_ns();
	u.random = SEED ^ (uint64_t)start_ns;
	u.end_ns = start_ns + l->duration_ns;
	u.last_done_ns = start_ns;
	loop(&u);
	r->elapsed_ns = u.last_done_ns - start_ns;
	r->cpu_ns = process_cpu_ns() - cpu_ns - r->pattern_ns;
	rc = u.rc ? st_error_raise(&u.error) : *a->cfg.stop ? st_fail(-EINTR, "bench") : 0;

out:
	if (st_aio_close(u.q)) { /* a drive that hangs still writes into the buffers */
		a->is_poisoned = true;
		rc = rc ? rc : st_fail(STRATA_E_IO, "bench: the drive does not answer.");
	}
	return rc;
}

/* ---- results ------------------------------------------------------------------------------- */

void st_load_add(struct st_load_result *sum, const struct st_load_result *slice)
{
	sum->backend = slice->backend;
	sum->n_ios += slice->n_ios;
	sum->n_bytes += slice->n_bytes;
	if (!sum->n_wrong)
		memcpy(sum->first_wrong, slice->first_wrong, sizeof(sum->first_wrong));
	sum->n_wrong += slice->n_wrong;
	sum->elapsed_ns += slice->elapsed_ns;
	sum->cpu_ns += slice->cpu_ns;
	sum->checksum_ns += slice->checksum_ns;
	sum->pattern_ns += slice->pattern_ns;
	st_hist_merge(&sum->latency, &slice->latency);
}

double st_load_gbps(const struct st_load_result *r)
{
	return r->elapsed_ns > 0 ? (double)r->n_bytes / (double)r->elapsed_ns : 0;
}
