/* SPDX-License-Identifier: Apache-2.0 */
/*
 * aio/aio.h - asynchronous I/O requests with checked completions.
 *
 * Layer:    aio (uses core)
 * Threads:  a queue belongs to one thread, which opens it, submits, reaps and closes.
 *           st_aio_wake() alone may be called from any thread.
 * Hardware: io_uring where the kernel allows it, else a pool of threads with the same semantics
 *
 * Contract (for every backend):
 *  1. submit() returning 0 means exactly one completion through reap(), also after a cancel; any
 *     error means none.
 *  2. Request and buffer are borrowed from submit to reap. What close() finds in flight it waits
 *     for; what does not come back keeps its buffer borrowed for ever, and close() says so.
 *  3. -EAGAIN from submit is the only "try again": the queue is full, reap first.
 *  4. A completed request has moved all its bytes or failed: short transfers are resumed here, at
 *     the aligned offset. result is len_bytes, or a negative code with the text in error
 *     (path, offset, length, what the kernel said). End of file inside a read is STRATA_E_IO.
 *  5. EINTR and EAGAIN of the kernel are never seen by the caller. A failed flush is not retried.
 *  6. A kernel I/O that is in flight for longer than stall_ns is reported by a warning, once, and
 *     again when it comes back. It is still awaited: the kernel cannot be made to let go of it.
 *
 * depth bounds both the requests between submit and reap and the kernel I/Os in flight. A request
 * longer than block_bytes feeds its pieces in order as kernel I/Os come free, so a request of
 * gigabytes needs one place only. Requests of one direction start in the order of submission; reads
 * and writes share the kernel I/Os evenly. Requests that are in flight together are independent: an
 * order between them, such as a flush after a write, is made by waiting. Nothing is allocated
 * between open and close.
 */
#ifndef AIO_AIO_H
#define AIO_AIO_H

#include "core/status.h"

#define ST_AIO_API_VERSION 2

struct st_aio_queue;
struct st_aio_fault; /* aio/faulty.h, with what the faulty_ fields mean */
struct st_aio_undo;

enum st_aio_op { ST_AIO_READ, ST_AIO_WRITE, ST_AIO_FLUSH /* fdatasync of fd */ };

struct st_aio_req {
	enum st_aio_op op;
	int fd;
	const char *path; /* borrowed, for messages */
	void *buf;        /* aligned as fd's file needs (ST_AIO_ALIGN serves every device) */
	size_t len_bytes; /* > 0 save for a flush; a multiple of the alignment under O_DIRECT */
	uint64_t off_bytes;
	void *user;                 /* never read by a backend */
	int64_t result;             /* out: len_bytes, or a negative code */
	struct st_error error;      /* out: set when result < 0 */
	int64_t submit_ns, done_ns; /* out: monotonic times */
	uint64_t priv[8];           /* backend's scratch while borrowed */
};

#define ST_AIO_ALIGN ((size_t)4096)

struct st_aio_cfg {
	const char *backend; /* "auto", "io_uring", "threads", "null", "sync", "faulty" */
	unsigned depth;      /* requests in flight, 1..4096 */
	unsigned threads;    /* threads backend: pool size, 1..64 */
	size_t block_bytes;  /* longest kernel I/O a request is cut into; multiple of 4096 */
	bool single_submit;  /* io_uring: one system call per kernel I/O instead of batches */
	/* faulty backend: aio/faulty.h */
	const char *faulty_inner; /* "io_uring", "threads", "null", "sync" */
	uint64_t faulty_seed;
	double faulty_error_rate, faulty_short_rate, faulty_delay_rate;
	int64_t faulty_fail_nth; /* > 0: kernel I/O N fails with EIO; < 0: -N and all after */

	/*
	 * A batch (what is handed over between two waits, at most depth kernel I/Os) is awaited
	 * whole before the next one starts. false: submissions and completions overlap.
	 */
	bool awaits_batches;
	/* io_uring, used where a probe shows that they work, else one warning and the normal way:
	 */
	bool sqpoll; /* a kernel thread submits; no system call for it, but a busy core */
	bool iopoll; /* completions of registered O_DIRECT files are polled for, not interrupts */
	int64_t stall_ns; /* report a kernel I/O of this age; 0: 10 s, < 0: never */
	int64_t close_ns; /* how long close() waits for what is in flight; 0: 30 s, < 0: for ever */

	double faulty_reorder_rate, faulty_tear_rate, faulty_flip_rate, faulty_misdirect_rate;
	int64_t faulty_delay_ns;              /* longest delay of faulty_delay_rate; 0: 2 ms */
	const struct st_aio_fault *faulty_at; /* [n_faulty_at] faults at chosen I/Os; borrowed */
	unsigned n_faulty_at;
	struct st_aio_undo *faulty_undo; /* of unflushed writes; borrowed, NULL: none is kept */
	bool faulty_survives;            /* a kill does not kill: every I/O fails from then on */
};
#define ST_AIO_CFG_DEFAULT                                                                         \
	{                                                                                          \
		.backend = "auto", .depth = 64, .threads = 4, .block_bytes = 1 << 20,              \
		.faulty_inner = "threads"                                                          \
	}

struct st_aio_stats {
	uint64_t read_bytes, write_bytes;         /* moved by completed requests */
	uint64_t reads, writes, flushes, resumed; /* resumed: kernel I/Os that came back short */
	int64_t read_ns, write_ns;                /* time during which at least one was in flight */
	uint64_t stalls;                          /* kernel I/Os that reached stall_ns */
	uint64_t cancelled;                       /* requests */
};

/**
 * st_aio_open() - open a queue on the calling thread, which then owns it.
 * With "auto", io_uring is probed by a real I/O; where it is denied the thread pool is used and the
 * reason logged once.
 * @return 0 and *q; -EINVAL; STRATA_E_UNSUPPORTED (the named backend does not work here, why)
 */
ST_MUST_CHECK int st_aio_open(struct st_aio_queue **q, const struct st_aio_cfg *cfg);

/**
 * st_aio_close() - wait for what is in flight (completions are dropped), free. NULL is fine.
 * Requests of which nothing was handed over are dropped.
 * @return 0; -EBUSY: kernel I/Os did not come back within close_ns. The kernel, or a thread that it
 *         holds, still uses the buffers of all requests that were not reaped: whoever owns them
 * must leak them and keep the files open. The queue itself is leaked and gone for the caller.
 */
int st_aio_close(struct st_aio_queue *q);

/** st_aio_name() - "io_uring", "threads", ...: the backend in use; static storage. */
const char *st_aio_name(const struct st_aio_queue *q);

/**
 * st_aio_register() - pin [base, base + len_bytes) for cheaper transfers (io_uring: registered
 * buffers, slices of at most 1 GiB, populated first). May be called for several ranges. A transfer
 * that lies in no slice, or in two, works as well and costs more. The queue must be idle.
 * @return 0 also where the backend or the memlock limit does not allow it (logged once, with the
 *         remedy); -EINVAL
 */
ST_MUST_CHECK int st_aio_register(struct st_aio_queue *q, void *base, size_t len_bytes);

/**
 * st_aio_register_file() - let the kernel look fd up once and not for each I/O (io_uring: a fixed
 * file). From now to st_aio_unregister_file() or close() the caller keeps fd open and naming the
 * same file: a number that is closed and reused would still reach the old file, which stays open,
 * its locks held. The queue must be idle.
 * @return 0 also where there is no place for it, or the backend does not know such a thing; -EINVAL
 */
ST_MUST_CHECK int st_aio_register_file(struct st_aio_queue *q, int fd);

/** st_aio_unregister_file() - forget fd, which may now be closed. Idle queue. @return 0; -EINVAL */
int st_aio_unregister_file(struct st_aio_queue *q, int fd);

/**
 * st_aio_submit() - hand over one request; see the contract.
 * @return 0; -EAGAIN (depth requests are out: reap first); -EINVAL (bad request, or another thread)
 */
ST_MUST_CHECK int st_aio_submit(struct st_aio_queue *q, struct st_aio_req *req);

/**
 * st_aio_cancel() - hand no more of a request over that was submitted and not reaped.
 * @return 0: it will be reaped with STRATA_E_CANCELLED, once, when those of its pieces that are in
 *         flight have come back (how much of it was moved is unknown);
 *         -EALREADY: all of it was handed over, or it is complete; it ends as if not asked;
 *         -EINVAL (another thread)
 */
ST_MUST_CHECK int st_aio_cancel(struct st_aio_queue *q, struct st_aio_req *req);

/**
 * st_aio_reap() - the one wait of the engine thread: completed requests, a wake-up, or time-out.
 * Requests submitted and not yet handed to the kernel are handed over first.
 * @param done        out [max_nr] completed requests, each once
 * @param max_nr      in, > 0
 * @param timeout_ns  in, < 0 waits for ever, 0 polls
 * @return number of requests in done (0 after a wake-up or a time-out), or a negative code
 */
ST_MUST_CHECK int st_aio_reap(struct st_aio_queue *q, struct st_aio_req **done, unsigned max_nr,
			      int64_t timeout_ns);

/** st_aio_wake() - end the owner's current or next st_aio_reap(). Any thread; never blocks. */
void st_aio_wake(struct st_aio_queue *q);

/**
 * st_aio_run() - submit n requests and wait for them all; the queue must be idle.
 * @return 0, or the first failure in the order of reqs (each req has its own result and error)
 */
ST_MUST_CHECK int st_aio_run(struct st_aio_queue *q, struct st_aio_req *reqs, unsigned n);

/** st_aio_get_stats() - counters since open. Owner thread. */
void st_aio_get_stats(const struct st_aio_queue *q, struct st_aio_stats *out);

/* ---- what a backend provides ------------------------------------------------------------- */

/* priv[0..5] of a piece belong to the backend that moves it, priv[6..7] to one that wraps it. */

struct st_aio_ops {
	uint32_t api_version; /* ST_AIO_API_VERSION */
	const char *name;
	/*
	 * required. 0 and *q, or <0 and *q untouched. wake_fd: a blocking eventfd that must end a
	 * wait; the backend is its only reader. cfg is borrowed until close.
	 */
	int (*open)(void **q, const struct st_aio_cfg *cfg, int wake_fd);
	/* required. Nothing is in flight. */
	void (*close)(void *q);
	/*
	 * optional, NULL = nothing starts by itself. Instead of close, when pieces do not come
	 * back: start none of those that have not begun. Frees nothing; no call follows.
	 */
	void (*abandon)(void *q);
	/* required. One kernel I/O of at most cfg.block_bytes. 0, -EAGAIN (full), <0 not taken. */
	int (*submit)(void *q, struct st_aio_req *piece);
	/*
	 * required. Completed pieces, result = bytes moved (may be short) or -errno. Returns 0
	 * after a wake-up, a time-out or a signal; the core knows which. timeout_ns < 0 waits, 0
	 * polls.
	 */
	int (*reap)(void *q, struct st_aio_req **done, unsigned max_nr, int64_t timeout_ns);
	/* optional, NULL = submit() already hands the piece over. */
	int (*flush)(void *q);
	/* optional, NULL = any address is as good. Idle. */
	int (*register_buf)(void *q, void *base, size_t len_bytes);
	/* optional, both or none, NULL = any descriptor is as good. Idle. */
	int (*register_file)(void *q, int fd);
	void (*unregister_file)(void *q, int fd);
};

/** st_aio_find() - the backend of that name, NULL if there is none. */
const struct st_aio_ops *st_aio_find(const char *name);

/** st_aio_wait_event() - wait for the eventfd alone and empty it; 0 or a negative code. */
ST_MUST_CHECK int st_aio_wait_event(int wake_fd, int64_t timeout_ns);

/** st_aio_transfer() - do a piece here and now. @return bytes moved, or -errno */
ST_MUST_CHECK int64_t st_aio_transfer(const struct st_aio_req *piece);

extern const struct st_aio_ops st_aio_uring_ops, st_aio_threads_ops, st_aio_null_ops,
	st_aio_sync_ops, st_aio_faulty_ops;

#endif
