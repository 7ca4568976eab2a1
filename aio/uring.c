/* SPDX-License-Identifier: Apache-2.0 */
/*
 * aio/uring.c - the io_uring backend.
 *
 * The ring is made with SINGLE_ISSUER and DEFER_TASKRUN where the kernel has them: completions are
 * then made visible only while the owner is inside the kernel, which costs no interrupts of its
 * work, and a submit from another thread fails. So every wait and every poll here enters the
 * kernel.
 *
 * One read of the eventfd is always in the ring, so that one wait serves completions and wake-ups.
 *
 * Files are not registered: a registered file stays open, and its lock held, after the caller
 * closed it, and a reused descriptor number would reach the old file.
 */
#include "aio/aio.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "core/log.h"

#define SLICE_BYTES    ((size_t)1 << 30) /* the kernel's limit for one registered buffer */
#define SLICES_MAX     1024u
#define WAKE_TAG       1u /* no piece has this address */
#define PROBE_BYTES    ((size_t)4096)
#define PROBE_LIMIT_NS 10000000000

struct uring {
	struct io_uring ring;
	bool is_single_submit;
	int wake_fd;
	uint64_t wake_count; /* the read of the eventfd lands here */
	bool is_armed;
	int wake_rc;    /* < 0: the eventfd cannot be read through the ring */
	bool has_table; /* of registered buffers */
	unsigned n_slices, last_slice;
	struct iovec slices[SLICES_MAX];
	char *probe;
};

static int init_ring(struct uring *u, unsigned entries)
{
	static const unsigned flags[] = {
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL,
		IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SUBMIT_ALL,
		0,
	};
	int rc = -EINVAL;

	for (size_t i = 0; i < ST_ARRAY_LEN(flags) && rc == -EINVAL; i++)
		rc = io_uring_queue_init(entries, &u->ring, flags[i]);
	return rc;
}

static struct io_uring_sqe *get_sqe(struct uring *u)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

	if (!sqe && io_uring_submit(&u->ring) > 0)
		sqe = io_uring_get_sqe(&u->ring);
	return sqe;
}

static void arm(struct uring *u)
{
	struct io_uring_sqe *sqe;

	if (u->is_armed)
		return;
	sqe = get_sqe(u);
	if (!sqe)
		return;
	io_uring_prep_read(sqe, u->wake_fd, &u->wake_count, sizeof(u->wake_count), 0);
	io_uring_sqe_set_data64(sqe, WAKE_TAG);
	u->is_armed = true;
}

/* The registered slice that holds all of [buf, buf + len), or -1. */
static int find_slice(struct uring *u, const void *buf, size_t len_bytes)
{
	uintptr_t a = (uintptr_t)buf;

	for (unsigned k = 0; k < u->n_slices; k++) {
		unsigned i = (u->last_slice + k) % u->n_slices;
		uintptr_t base = (uintptr_t)u->slices[i].iov_base;

		if (a >= base && a - base <= u->slices[i].iov_len &&
		    u->slices[i].iov_len - (a - base) >= len_bytes) {
			u->last_slice = i;
			return (int)i;
		}
	}
	return -1;
}

static int uring_submit(void *be, struct st_aio_req *p)
{
	struct uring *u = be;
	struct io_uring_sqe *sqe = get_sqe(u);
	int slice;

	if (!sqe)
		return -EAGAIN;
	slice = p->op == ST_AIO_FLUSH ? -1 : find_slice(u, p->buf, p->len_bytes);
	if (p->op == ST_AIO_FLUSH)
		io_uring_prep_fsync(sqe, p->fd, IORING_FSYNC_DATASYNC);
	else if (p->op == ST_AIO_READ && slice >= 0)
		io_uring_prep_read_fixed(sqe, p->fd, p->buf, (unsigned)p->len_bytes, p->off_bytes,
					 slice);
	else if (p->op == ST_AIO_READ)
		io_uring_prep_read(sqe, p->fd, p->buf, (unsigned)p->len_bytes, p->off_bytes);
	else if (slice >= 0)
		io_uring_prep_write_fixed(sqe, p->fd, p->buf, (unsigned)p->len_bytes, p->off_bytes,
					  slice);
	else
		io_uring_prep_write(sqe, p->fd, p->buf, (unsigned)p->len_bytes, p->off_bytes);
	io_uring_sqe_set_data(sqe, p);
	/* If this system call fails the entry stays in the ring and the next one takes it along. */
	if (u->is_single_submit)
		(void)io_uring_submit(&u->ring);
	return 0;
}

static int collect(struct uring *u, struct st_aio_req **done, unsigned max_nr)
{
	struct io_uring_cqe *cqe;
	unsigned head, seen = 0, n = 0;

	io_uring_for_each_cqe(&u->ring, head, cqe)
	{
		if (n == max_nr)
			break;
		seen++;
		if (cqe->user_data == LIBURING_UDATA_TIMEOUT)
			continue;
		if (cqe->user_data == WAKE_TAG) {
			u->is_armed = false;
			if (cqe->res < 0 && cqe->res != -EINTR && cqe->res != -EAGAIN)
				u->wake_rc = cqe->res;
			continue;
		}
		done[n] = io_uring_cqe_get_data(cqe);
		done[n++]->result = cqe->res;
	}
	io_uring_cq_advance(&u->ring, seen);
	return (int)n;
}

static bool is_passing(int rc)
{
	return rc == -EINTR || rc == -ETIME || rc == -EAGAIN || rc == -EBUSY;
}

static int uring_reap(void *be, struct st_aio_req **done, unsigned max_nr, int64_t timeout_ns)
{
	struct uring *u = be;
	struct __kernel_timespec ts;
	struct io_uring_cqe *cqe;
	int n, rc;

	n = collect(u, done, max_nr);
	if (n)
		return n;
	if (u->wake_rc)
		return st_fail(u->wake_rc, "io_uring: read of the wake-up event");
	arm(u);
	if (timeout_ns == 0) {
		rc = io_uring_submit_and_get_events(&u->ring);
	} else if (timeout_ns < 0) {
		rc = io_uring_submit_and_wait(&u->ring, 1);
	} else {
		ts.tv_sec = timeout_ns / 1000000000;
		ts.tv_nsec = timeout_ns % 1000000000;
		rc = io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, &ts, NULL);
	}
	n = collect(u, done, max_nr);
	if (n || rc >= 0)
		return n;
	if (!is_passing(rc))
		return st_fail(rc, "io_uring: wait");
	if (rc == -EAGAIN || rc == -EBUSY) /* the kernel is short of memory: do not spin on it */
		nanosleep(&(struct timespec){ .tv_nsec = 100000 }, NULL);
	return 0;
}

static int uring_flush(void *be)
{
	struct uring *u = be;
	int rc = io_uring_sq_ready(&u->ring) ? io_uring_submit(&u->ring) : 0;

	return rc >= 0 || is_passing(rc) ? 0 : st_fail(rc, "io_uring: submit");
}

static int uring_register(void *be, void *base, size_t len_bytes)
{
	struct uring *u = be;
	const __u64 tag = 0;
	char *at = base;
	int rc = 0;

	if (!u->has_table) {
		rc = io_uring_register_buffers_sparse(&u->ring, SLICES_MAX);
		u->has_table = rc >= 0;
	}
	while (rc >= 0 && len_bytes && u->n_slices < SLICES_MAX) {
		struct iovec *v = &u->slices[u->n_slices];

		v->iov_base = at;
		v->iov_len = len_bytes < SLICE_BYTES ? len_bytes : SLICE_BYTES;
		rc = io_uring_register_buffers_update_tag(&u->ring, u->n_slices, v, &tag, 1);
		if (rc < 0)
			break;
		u->n_slices++;
		at += v->iov_len;
		len_bytes -= v->iov_len;
	}
	if (rc < 0)
		st_log_once(
			ST_LOG_INFO,
			"io_uring: buffers are not registered (%s)%s; transfers cost more CPU time",
			strata_strerror(rc),
			rc == -ENOMEM
				? ": raise the limit of locked memory (ulimit -l, LimitMEMLOCK, "
				  "--ulimit memlock=-1)"
				: "");
	return 0;
}

/* Wait for one completion of the probe; the wake-up's counts as p == NULL. */
static int await(struct uring *u, struct st_aio_req *p)
{
	struct st_aio_req *done;
	int64_t waited_ns = 0;
	int n;

	for (; waited_ns < PROBE_LIMIT_NS; waited_ns += 100000000) {
		n = uring_reap(u, &done, 1, 100000000);
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

static int uring_open(void **out, const struct st_aio_cfg *cfg, int wake_fd)
{
	struct uring *u = calloc(1, sizeof(*u));
	char *buf = aligned_alloc(PROBE_BYTES, 2 * PROBE_BYTES);
	bool has_ring = false;
	int rc = -ENOMEM;

	if (!u || !buf)
		goto fail;
	u->probe = buf;
	u->wake_fd = wake_fd;
	u->is_single_submit = cfg->single_submit;
	rc = init_ring(u, cfg->depth + 2); /* the wake-up and a time-out */
	if (rc < 0)
		goto fail;
	has_ring = true;
	rc = probe(u);
	if (rc < 0)
		goto fail;
	*out = u;
	return 0;

fail:
	if (has_ring)
		io_uring_queue_exit(&u->ring);
	free(buf);
	free(u);
	return st_fail(STRATA_E_UNSUPPORTED, "io_uring is not usable here (%s: %s)",
		       has_ring ? "a probe read failed" : "set-up failed", strata_strerror(rc));
}

static void uring_close(void *be)
{
	const uint64_t one = 1;
	struct st_aio_req *done;
	struct uring *u = be;

	/* End the read of the eventfd, so that the kernel writes nothing here after the free. */
	if (u->is_armed && write(u->wake_fd, &one, sizeof(one)) == (ssize_t)sizeof(one))
		while (u->is_armed && io_uring_submit_and_wait(&u->ring, 1) >= 0)
			(void)collect(u, &done, 1);
	io_uring_queue_exit(&u->ring);
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
};
