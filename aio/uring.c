/* SPDX-License-Identifier: Apache-2.0 */
/*
 * aio/uring.c - the io_uring backend.
 *
 * The ring is made with SINGLE_ISSUER and DEFER_TASKRUN where the kernel has them: completions are
 * then made visible only while the owner is inside the kernel, which costs no interrupts of its
 * work, and a submit from another thread fails. So every wait and every poll here enters the
 * kernel. On request a kernel thread submits instead (SQPOLL, which excludes DEFER_TASKRUN).
 *
 * One read of the eventfd is always in the ring, so that one wait serves completions and wake-ups.
 *
 * IOPOLL is a second ring: such a ring takes reads and writes of files that poll, and nothing else.
 * It comes into being when the first file is registered that passes a read through it; while I/Os
 * are in it, the owner polls both rings instead of sleeping.
 */
#include "aio/aio.h"

#include <errno.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/log.h"

#define SLICE_BYTES    ((size_t)1 << 30) /* the kernel's limit for one registered buffer */
#define SLICES_MAX     1024u
#define FILES_MAX      64u
#define BATCH          8u /* entries after which they are handed over without waiting for more */
#define SQPOLL_IDLE_MS 50u
#define WAKE_TAG       1u /* no piece has this address, */
#define PROBE_TAG      2u /* nor this */
#define PROBE_BYTES    ((size_t)4096)
#define PROBE_LIMIT_NS 10000000000
#define PROBE_WAIT_NS  100000000
#define PROBE_WAITS    20u

struct slice { /* sorted by base; index: place in the kernel's table */
	uintptr_t base;
	size_t len_bytes;
	unsigned index;
};

struct file {   /* place in the kernel's table = place here */
	int fd; /* < 0: free */
	bool is_polled;
};

struct uring {
	struct io_uring ring, polled; /* polled: IOPOLL */
	bool has_ring, has_polled;
	bool is_single_submit, wants_iopoll;
	unsigned entries, n_polled; /* n_polled: in flight in the polled ring */
	int wake_fd;
	uint64_t wake_count; /* the read of the eventfd lands here */
	bool is_armed;
	int wake_rc;    /* < 0: the eventfd cannot be read through the ring */
	bool has_table; /* of registered buffers */
	unsigned n_slices, last_slice;
	struct slice slices[SLICES_MAX];
	bool has_files; /* the table of registered files */
	unsigned last_file;
	struct file files[FILES_MAX];
	char *probe;
};

/* The first of these sets of flags that the kernel knows. */
static int init_ring(struct io_uring *ring, unsigned entries, const unsigned *flags, size_t n)
{
	int rc = -EINVAL;

	for (size_t i = 0; i < n && rc == -EINVAL; i++) {
		struct io_uring_params p = { .flags = flags[i], .sq_thread_idle = SQPOLL_IDLE_MS };

		rc = io_uring_queue_init_params(entries, ring, &p);
	}
	/* Each entry into the kernel is then cheaper. Where it cannot be, nothing else changes. */
	if (!rc)
		(void)io_uring_register_ring_fd(ring);
	return rc;
}

static struct io_uring_sqe *get_sqe(struct io_uring *ring)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	if (!sqe && io_uring_submit(ring) > 0)
		sqe = io_uring_get_sqe(ring);
	return sqe;
}

static void arm(struct uring *u)
{
	struct io_uring_sqe *sqe;

	if (u->is_armed)
		return;
	sqe = get_sqe(&u->ring);
	if (!sqe)
		return;
	io_uring_prep_read(sqe, u->wake_fd, &u->wake_count, sizeof(u->wake_count), 0);
	io_uring_sqe_set_data64(sqe, WAKE_TAG);
	u->is_armed = true;
}

/* ---- the kernel's tables ------------------------------------------------------------------- */

static bool is_in(const struct slice *s, uintptr_t at, size_t len_bytes)
{
	return at >= s->base && at - s->base <= s->len_bytes &&
	       s->len_bytes - (at - s->base) >= len_bytes;
}

/* The registered slice that holds all of [buf, buf + len), or -1. */
static int find_slice(struct uring *u, const void *buf, size_t len_bytes)
{
	uintptr_t at = (uintptr_t)buf;
	unsigned lo = 0, hi = u->n_slices;

	if (!u->n_slices)
		return -1;
	if (is_in(&u->slices[u->last_slice], at, len_bytes))
		return (int)u->slices[u->last_slice].index;
	while (hi - lo > 1) { /* the last slice that does not begin behind buf */
		unsigned mid = lo + (hi - lo) / 2;

		if (u->slices[mid].base <= at)
			lo = mid;
		else
			hi = mid;
	}
	if (!is_in(&u->slices[lo], at, len_bytes))
		return -1;
	u->last_slice = lo;
	return (int)u->slices[lo].index;
}

static int find_file(struct uring *u, int fd)
{
	if (!u->has_files)
		return -1;
	if (u->files[u->last_file].fd == fd)
		return (int)u->last_file;
	for (unsigned i = 0; i < FILES_MAX; i++)
		if (u->files[i].fd == fd) {
			u->last_file = i;
			return (int)i;
		}
	return -1;
}

static int make_table(struct io_uring *ring)
{
	return io_uring_register_buffers_sparse(ring, SLICES_MAX);
}

static int set_slice(struct io_uring *ring, unsigned index, void *base, size_t len_bytes)
{
	const struct iovec v = { .iov_base = base, .iov_len = len_bytes };
	const __u64 tag = 0;

	return io_uring_register_buffers_update_tag(ring, index, &v, &tag, 1);
}

static void insert_slice(struct uring *u, void *base, size_t len_bytes)
{
	unsigned at = u->n_slices;

	for (; at && u->slices[at - 1].base > (uintptr_t)base; at--)
		u->slices[at] = u->slices[at - 1];
	u->slices[at] = (struct slice){ (uintptr_t)base, len_bytes, u->n_slices++ };
	u->last_slice = at;
}

/* Pages that are there already are pinned faster, and as huge pages where those were advised. */
static void populate(char *base, size_t len_bytes)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	uintptr_t first = (uintptr_t)base & ~(page - 1);
	uintptr_t end = ((uintptr_t)base + len_bytes + page - 1) & ~(page - 1);

	/* On failure (an old kernel, no memory) the registration populates, or says why not. */
	(void)madvise((void *)first, end - first, MADV_POPULATE_WRITE);
}

static void say_unregistered(int rc, size_t n_bytes)
{
	st_log_once(
		ST_LOG_WARN,
		"io_uring: %zu MiB of buffers are not registered (%s)%s; transfers work, at more "
		"CPU time",
		(n_bytes + ((size_t)1 << 20) - 1) >> 20, strata_strerror(rc),
		rc == -ENOMEM ? ": raise the limit of locked memory (ulimit -l unlimited, "
				"LimitMEMLOCK=infinity in a unit, --ulimit memlock=-1 for a "
				"container)"
			      : "");
}

static int uring_register(void *be, void *base, size_t len_bytes)
{
	struct uring *u = be;
	char *at = base;
	int rc = 0;

	if (!u->has_table) {
		rc = make_table(&u->ring);
		if (rc >= 0 && u->has_polled)
			rc = make_table(&u->polled);
		u->has_table = rc >= 0;
	}
	while (rc >= 0 && len_bytes) {
		size_t slice_bytes = len_bytes < SLICE_BYTES ? len_bytes : SLICE_BYTES;

		if (u->n_slices == SLICES_MAX) {
			rc = -ENOSPC;
			break;
		}
		populate(at, slice_bytes);
		rc = set_slice(&u->ring, u->n_slices, at, slice_bytes);
		if (rc >= 0 && u->has_polled)
			rc = set_slice(&u->polled, u->n_slices, at, slice_bytes);
		if (rc < 0)
			break;
		insert_slice(u, at, slice_bytes);
		at += slice_bytes;
		len_bytes -= slice_bytes;
	}
	if (rc < 0)
		say_unregistered(rc, len_bytes);
	return 0;
}

static int make_files(struct io_uring *ring)
{
	int none[FILES_MAX];

	for (unsigned i = 0; i < FILES_MAX; i++)
		none[i] = -1;
	return io_uring_register_files(ring, none, FILES_MAX);
}

/* ---- submission and completion ------------------------------------------------------------- */

static int uring_submit(void *be, struct st_aio_req *p)
{
	struct uring *u = be;
	int file = find_file(u, p->fd), fd = file < 0 ? p->fd : file, slice;
	bool is_polled = p->op != ST_AIO_FLUSH && file >= 0 && u->files[file].is_polled;
	struct io_uring *ring = is_polled ? &u->polled : &u->ring;
	struct io_uring_sqe *sqe = get_sqe(ring);

	if (!sqe)
		return -EAGAIN;
	slice = p->op == ST_AIO_FLUSH ? -1 : find_slice(u, p->buf, p->len_bytes);
	if (p->op == ST_AIO_FLUSH)
		io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
	else if (p->op == ST_AIO_READ && slice >= 0)
		io_uring_prep_read_fixed(sqe, fd, p->buf, (unsigned)p->len_bytes, p->off_bytes,
					 slice);
	else if (p->op == ST_AIO_READ)
		io_uring_prep_read(sqe, fd, p->buf, (unsigned)p->len_bytes, p->off_bytes);
	else if (slice >= 0)
		io_uring_prep_write_fixed(sqe, fd, p->buf, (unsigned)p->len_bytes, p->off_bytes,
					  slice);
	else
		io_uring_prep_write(sqe, fd, p->buf, (unsigned)p->len_bytes, p->off_bytes);
	if (file >= 0)
		io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
	io_uring_sqe_set_data(sqe, p);
	u->n_polled += is_polled;
	/*
	 * A device works while the rest of a long batch is being prepared. If the system call fails
	 * the entries stay in the ring and the next one takes them along.
	 */
	if (u->is_single_submit || io_uring_sq_ready(ring) >= BATCH)
		(void)io_uring_submit(ring);
	return 0;
}

static void say_no_polling(int rc)
{
	st_log_once(ST_LOG_WARN,
		    "strata.nvme.iopoll: a polled read failed (%s); interrupts are used. Polling "
		    "needs an NVMe drive and the kernel parameter nvme.poll_queues",
		    strata_strerror(rc));
}

/*
 * The device does not poll after all (a file without data passes the probe, since nothing asks the
 * device): the piece, and all that follow, go the other way.
 */
static int stop_polling(struct uring *u, const struct st_aio_req *p)
{
	int file = find_file(u, p->fd);

	if (file >= 0)
		u->files[file].is_polled = false;
	say_no_polling(-EOPNOTSUPP);
	return -EAGAIN;
}

static unsigned collect(struct uring *u, struct io_uring *ring, struct st_aio_req **done,
			unsigned max_nr)
{
	struct io_uring_cqe *cqe;
	unsigned head, seen = 0, n = 0;

	io_uring_for_each_cqe(ring, head, cqe)
	{
		if (n == max_nr)
			break;
		seen++;
		if (cqe->user_data == LIBURING_UDATA_TIMEOUT || cqe->user_data == PROBE_TAG)
			continue;
		if (cqe->user_data == WAKE_TAG) {
			u->is_armed = false;
			if (cqe->res < 0 && cqe->res != -EINTR && cqe->res != -EAGAIN)
				u->wake_rc = cqe->res;
			continue;
		}
		done[n] = io_uring_cqe_get_data(cqe);
		done[n]->result = cqe->res;
		if (ring == &u->polled) {
			u->n_polled--;
			if (cqe->res == -EOPNOTSUPP)
				done[n]->result = stop_polling(u, done[n]);
		}
		n++;
	}
	io_uring_cq_advance(ring, seen);
	return n;
}

static unsigned collect_all(struct uring *u, struct st_aio_req **done, unsigned max_nr)
{
	unsigned n = collect(u, &u->ring, done, max_nr);

	if (u->has_polled && n < max_nr)
		n += collect(u, &u->polled, done + n, max_nr - n);
	return n;
}

static bool is_passing(int rc)
{
	return rc == -EINTR || rc == -ETIME || rc == -EAGAIN || rc == -EBUSY;
}

static int wait_once(struct io_uring *ring, int64_t timeout_ns)
{
	struct __kernel_timespec ts;
	struct io_uring_cqe *cqe;

	if (timeout_ns == 0)
		return io_uring_submit_and_get_events(ring);
	if (timeout_ns < 0)
		return io_uring_submit_and_wait(ring, 1);
	ts.tv_sec = timeout_ns / 1000000000;
	ts.tv_nsec = timeout_ns % 1000000000;
	return io_uring_submit_and_wait_timeout(ring, &cqe, 1, &ts, NULL);
}

/* Both rings are looked at until something is there: the kernel finds polled I/Os only if asked. */
static int poll_both(struct uring *u, int64_t timeout_ns)
{
	int64_t end_ns = timeout_ns < 0 ? INT64_MAX : st_now_ns() + timeout_ns;
	int rc;

	do {
		rc = io_uring_submit_and_get_events(&u->polled);
		if (rc >= 0 || is_passing(rc))
			rc = io_uring_submit_and_get_events(&u->ring);
	} while (rc >= 0 && !io_uring_cq_ready(&u->polled) && !io_uring_cq_ready(&u->ring) &&
		 st_now_ns() < end_ns);
	return rc;
}

static int uring_reap(void *be, struct st_aio_req **done, unsigned max_nr, int64_t timeout_ns)
{
	struct uring *u = be;
	bool was_armed = u->is_armed;
	unsigned n = collect_all(u, done, max_nr);
	int rc;

	/* A wake-up that was found lying there ends this wait too: there will be no other. */
	if (n || was_armed != u->is_armed)
		return (int)n;
	if (u->wake_rc)
		return st_fail(u->wake_rc, "io_uring: read of the wake-up event");
	arm(u);
	rc = u->n_polled ? poll_both(u, timeout_ns) : wait_once(&u->ring, timeout_ns);
	n = collect_all(u, done, max_nr);
	if (n || rc >= 0)
		return (int)n;
	if (!is_passing(rc))
		return st_fail(rc, "io_uring: wait");
	if (rc == -EAGAIN || rc == -EBUSY) /* the kernel is short of memory: do not spin on it */
		nanosleep(&(struct timespec){ .tv_nsec = 100000 }, NULL);
	return 0;
}

static int flush_ring(struct io_uring *ring)
{
	int rc = io_uring_sq_ready(ring) ? io_uring_submit(ring) : 0;

	return rc >= 0 || is_passing(rc) ? 0 : st_fail(rc, "io_uring: submit");
}

static int uring_flush(void *be)
{
	struct uring *u = be;
	int rc = flush_ring(&u->ring);

	return rc || !u->has_polled ? rc : flush_ring(&u->polled);
}

/* ---- probes -------------------------------------------------------------------------------- */

/*
 * Wait for one completion of a probe; the wake-up's counts as p == NULL. A virtual machine can
 * stand still for longer than the limit, and its clock goes on: so some waits are made in any case.
 */
static int await(struct uring *u, struct st_aio_req *p)
{
	struct st_aio_req *done;
	int64_t end_ns = st_now_ns() + PROBE_LIMIT_NS;
	int n;

	for (unsigned waits = 0; waits < PROBE_WAITS || st_now_ns() < end_ns; waits++) {
		n = uring_reap(u, &done, 1, PROBE_WAIT_NS);
		if (n < 0 || u->wake_rc)
			return n < 0 ? n : u->wake_rc;
		if (p ? n == 1 : !u->is_armed)
			return p && p->result < 0 ? (int)p->result : 0;
	}
	return -ETIMEDOUT;
}

/*
 * Real I/O, since a ring can be set up where each operation then fails: a read of a file's page,
 * and a wake-up. Where no memory file can be made, the wake-up alone decides.
 */
static int probe(struct uring *u)
{
	const uint64_t one = 1;
	struct st_aio_req r = { .op = ST_AIO_READ, .buf = u->probe, .len_bytes = PROBE_BYTES };
	char *pattern = u->probe + PROBE_BYTES;
	int rc = 0;

	r.fd = memfd_create("aio-probe", MFD_CLOEXEC);
	memset(pattern, 0x5a, PROBE_BYTES);
	if (r.fd >= 0 && pwrite(r.fd, pattern, PROBE_BYTES, 0) == (ssize_t)PROBE_BYTES) {
		rc = uring_submit(u, &r);
		if (!rc)
			rc = await(u, &r);
		if (!rc && (r.result != (int64_t)PROBE_BYTES ||
			    memcmp(u->probe, pattern, PROBE_BYTES) != 0))
			rc = -EIO;
	}
	if (r.fd >= 0)
		close(r.fd);
	if (rc)
		return rc;
	arm(u);
	if (write(u->wake_fd, &one, sizeof(one)) != (ssize_t)sizeof(one))
		return -errno;
	return await(u, NULL);
}

/* End the read of the eventfd, so that the kernel writes nothing here after the free. */
static void disarm(struct uring *u)
{
	const uint64_t one = 1;
	int64_t end_ns = st_now_ns() + PROBE_LIMIT_NS;
	struct st_aio_req *done;
	int rc = 0;

	if (!u->is_armed || write(u->wake_fd, &one, sizeof(one)) != (ssize_t)sizeof(one))
		return;
	while (u->is_armed && (rc >= 0 || is_passing(rc)) && st_now_ns() < end_ns) {
		rc = wait_once(&u->ring, PROBE_WAIT_NS);
		(void)collect(u, &u->ring, &done, 1);
	}
}

static void drop_ring(struct uring *u)
{
	if (u->has_ring)
		io_uring_queue_exit(&u->ring);
	u->has_ring = false;
	u->is_armed = false;
	u->wake_rc = 0;
}

/* A ring that has done an I/O, or none. */
static int try_ring(struct uring *u, const unsigned *flags, size_t n)
{
	int rc = init_ring(&u->ring, u->entries, flags, n);

	if (rc < 0)
		return rc;
	u->has_ring = true;
	return probe(u);
}

static int set_up(struct uring *u, bool wants_sqpoll)
{
	static const unsigned sqpoll[] = {
		IORING_SETUP_SQPOLL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_SUBMIT_ALL,
		IORING_SETUP_SQPOLL,
	};
	static const unsigned normal[] = {
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL,
		IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SUBMIT_ALL,
		0,
	};
	int rc, refused = 0;

	if (wants_sqpoll) {
		refused = try_ring(u, sqpoll, ST_ARRAY_LEN(sqpoll));
		if (!refused)
			return 0;
		disarm(u); /* else it would swallow the next probe's wake-up */
		drop_ring(u);
	}
	rc = try_ring(u, normal, ST_ARRAY_LEN(normal));
	if (!rc && wants_sqpoll)
		st_log_once(
			ST_LOG_WARN,
			"strata.nvme.sqpoll: the kernel does not allow a submitting thread (%s); "
			"going on without it",
			strata_strerror(refused));
	return rc;
}

/* ---- files --------------------------------------------------------------------------------- */

/* A ring with IOPOLL that has in its tables what the other one has. */
static int make_polled(struct uring *u)
{
	static const unsigned flags[] = {
		IORING_SETUP_IOPOLL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_SUBMIT_ALL,
		IORING_SETUP_IOPOLL,
	};
	int rc = init_ring(&u->polled, u->entries, flags, ST_ARRAY_LEN(flags));

	if (rc < 0)
		return rc;
	u->has_polled = true;
	rc = make_files(&u->polled);
	if (rc >= 0 && u->has_table)
		rc = make_table(&u->polled);
	for (unsigned i = 0; rc >= 0 && i < u->n_slices; i++)
		rc = set_slice(&u->polled, u->slices[i].index, (void *)u->slices[i].base,
			       u->slices[i].len_bytes);
	return rc;
}

/* One read of the file through the polled ring. @return 0 it came, or why not */
static int probe_polled(struct uring *u, unsigned slot, int fd)
{
	int64_t end_ns = st_now_ns() + PROBE_LIMIT_NS;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	int rc = io_uring_register_files_update(&u->polled, slot, &fd, 1);

	if (rc < 0)
		return rc;
	sqe = get_sqe(&u->polled);
	if (!sqe)
		return -EBUSY;
	io_uring_prep_read(sqe, (int)slot, u->probe, (unsigned)PROBE_BYTES, 0);
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
	io_uring_sqe_set_data64(sqe, PROBE_TAG);
	do {
		rc = io_uring_submit_and_get_events(&u->polled);
		if (rc < 0 && !is_passing(rc))
			return rc;
		if (!io_uring_cq_ready(&u->polled))
			continue;
		io_uring_peek_cqe(&u->polled, &cqe);
		rc = cqe->res;
		io_uring_cqe_seen(&u->polled, cqe);
		/* A file without a whole block shows nothing about its device. */
		return rc == (int)PROBE_BYTES ? 0 : rc < 0 ? rc : -ENODATA;
	} while (st_now_ns() < end_ns);
	return -ETIMEDOUT;
}

static bool any_polled(const struct uring *u)
{
	for (unsigned i = 0; i < FILES_MAX; i++)
		if (u->files[i].fd >= 0 && u->files[i].is_polled)
			return true;
	return false;
}

static void drop_polled(struct uring *u)
{
	if (u->has_polled)
		io_uring_queue_exit(&u->polled);
	u->has_polled = false;
}

static bool try_polling(struct uring *u, unsigned slot, int fd)
{
	int rc = u->has_polled ? 0 : make_polled(u);

	if (rc >= 0)
		rc = probe_polled(u, slot, fd);
	if (rc >= 0)
		return true;
	say_no_polling(rc);
	if (!any_polled(u))
		drop_polled(u);
	return false;
}

static int uring_register_file(void *be, int fd)
{
	struct uring *u = be;
	unsigned slot = 0;
	int rc = 0;

	if (find_file(u, fd) >= 0)
		return 0;
	if (!u->has_files) {
		rc = make_files(&u->ring);
		u->has_files = rc >= 0;
	}
	while (slot < FILES_MAX && u->files[slot].fd >= 0)
		slot++;
	if (rc >= 0)
		rc = slot == FILES_MAX ? -ENOSPC
				       : io_uring_register_files_update(&u->ring, slot, &fd, 1);
	if (rc < 0) {
		st_log_once(ST_LOG_INFO,
			    "io_uring: a file is not registered (%s); transfers cost more CPU time",
			    strata_strerror(rc));
		return rc == -EBADF ? st_fail(-EINVAL, "io_uring: descriptor %d is not open.", fd)
				    : 0;
	}
	u->files[slot] = (struct file){ .fd = fd };
	if (u->wants_iopoll)
		u->files[slot].is_polled = try_polling(u, slot, fd);
	return 0;
}

static void uring_unregister_file(void *be, int fd)
{
	const int none = -1;
	struct uring *u = be;
	int slot = find_file(u, fd);

	if (slot < 0)
		return;
	/* The table takes an empty place always; at worst the old file stays open until close. */
	(void)io_uring_register_files_update(&u->ring, (unsigned)slot, &none, 1);
	if (u->has_polled)
		(void)io_uring_register_files_update(&u->polled, (unsigned)slot, &none, 1);
	u->files[slot] = (struct file){ .fd = -1 };
}

/* ---- open and close ------------------------------------------------------------------------ */

/* What to do about a ring that cannot be had, or does no I/O. */
static const char *remedy(int rc)
{
	FILE *f;
	int value;

	if (rc == -ENOMEM)
		return "; raise the limit of locked memory (ulimit -l), which older kernels count "
		       "rings against";
	if (rc != -EPERM && rc != -ENOSYS && rc != -EACCES)
		return "";
	f = fopen("/proc/sys/kernel/io_uring_disabled", "re");
	value = f ? fgetc(f) : '0';
	if (f)
		fclose(f);
	if (rc == -EPERM && value == '1')
		return "; kernel.io_uring_disabled is 1: set it to 0 (sysctl -w), or join the "
		       "group "
		       "of kernel.io_uring_group";
	if (rc == -EPERM && value == '2')
		return "; kernel.io_uring_disabled is 2: set it to 0 (sysctl -w)";
	return "; allow io_uring_setup, io_uring_enter and io_uring_register in the container's "
	       "seccomp profile";
}

static int uring_open(void **out, const struct st_aio_cfg *cfg, int wake_fd)
{
	struct uring *u = calloc(1, sizeof(*u));
	char *buf = aligned_alloc(PROBE_BYTES, 2 * PROBE_BYTES);
	int rc = -ENOMEM;

	if (!u || !buf)
		goto fail;
	u->probe = buf;
	u->wake_fd = wake_fd;
	u->is_single_submit = cfg->single_submit;
	u->wants_iopoll = cfg->iopoll;
	u->entries = cfg->depth + 2; /* the wake-up and a time-out */
	for (unsigned i = 0; i < FILES_MAX; i++)
		u->files[i].fd = -1;
	rc = set_up(u, cfg->sqpoll);
	if (rc < 0)
		goto fail;
	*out = u;
	return 0;

fail:
	rc = st_fail(STRATA_E_UNSUPPORTED, "io_uring is not usable here (%s: %s%s)",
		     u && u->has_ring ? "a probe read failed" : "set-up failed",
		     strata_strerror(rc), remedy(rc));
	if (u)
		drop_ring(u);
	free(buf);
	free(u);
	return rc;
}

static void uring_close(void *be)
{
	struct uring *u = be;

	disarm(u);
	drop_polled(u);
	drop_ring(u);
	free(u->probe);
	free(u);
}

const struct st_aio_ops st_aio_uring_ops = {
	.api_version = ST_AIO_API_VERSION,
	.name = "io_uring",
	.open = uring_open,
	.close = uring_close,
	.submit = uring_submit,
	.reap = uring_reap,
	.flush = uring_flush,
	.register_buf = uring_register,
	.register_file = uring_register_file,
	.unregister_file = uring_unregister_file,
};
