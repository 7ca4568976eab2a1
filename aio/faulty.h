/* SPDX-License-Identifier: Apache-2.0 */
/*
 * aio/faulty.h - what the "faulty" backend does to the I/Os of the backend that it wraps.
 *
 * Layer:   aio
 * Threads: as the queue; an undo log belongs to one thread at a time
 *
 * st_aio_cfg.faulty_inner moves the bytes: any other backend. Faults strike kernel I/Os, of which a
 * request has one for each block_bytes and one for each resumption. They come from two places:
 *
 *  - rates, each the chance that an I/O has that fault, drawn from faulty_seed in the order of
 *    issue, so that a seed has the same faults whatever the timing:
 *	faulty_error_rate	EIO, half of them after the bytes were moved
 *	faulty_short_rate	fewer bytes than asked for; one in four is EINTR or EAGAIN instead
 *	faulty_delay_rate	is told up to faulty_delay_ns late
 *	faulty_reorder_rate	is issued, or told, after others that came later
 *	faulty_tear_rate	a write of which only the first sectors arrive; it reports success
 *	faulty_flip_rate	a bit is flipped on its way; success
 *	faulty_misdirect_rate	goes to, or comes from, another offset of the file; success
 *  - faulty_at: a fault at the nth I/O of some kind (struct st_aio_fault). They are looked at in
 *    order before the rates are, and the first that matches decides. faulty_fail_nth stands for
 *    one: ERROR at the nth I/O of any kind, before or after the transfer by seed.
 *
 * Power loss. With a log of what unflushed writes have overwritten (faulty_undo), the fault
 * POWER_LOSS, or st_aio_undo_lose_power(), turns files into what a disk may hold after the power
 * went: of each write since the file's last successful flush any set of 512-byte sectors is there,
 * in any order of writes. A write counts as flushed when it was complete before the flush was
 * issued. Files must then be readable too, and each is told apart by its descriptor.
 *
 * A crash in the middle of what was handed over: each I/O that waits to be issued (with
 * faulty_reorder_rate all do, until the owner waits) is done, not done, or torn. Then KILL and
 * POWER_LOSS raise SIGKILL in the process; with faulty_survives every I/O fails with EIO instead,
 * also those in flight, so that a simulation can go on with a new queue over the same files and
 *log.
 */
#ifndef AIO_FAULTY_H
#define AIO_FAULTY_H

#include "aio/aio.h"

enum st_aio_fault_kind {
	ST_AIO_FAULT_ERROR,      /* fails with rc, nothing moved; is_after: after the transfer */
	ST_AIO_FAULT_SHORT,      /* of a read or write of more than one byte */
	ST_AIO_FAULT_DELAY,      /* told delay_ns late */
	ST_AIO_FAULT_HANG,       /* never told */
	ST_AIO_FAULT_TEAR,       /* of a write */
	ST_AIO_FAULT_FLIP,       /* of a read or write */
	ST_AIO_FAULT_MISDIRECT,  /* of a read or write in a file that is longer than it */
	ST_AIO_FAULT_LOSE,       /* of a write or flush: not done, success */
	ST_AIO_FAULT_KILL,       /* the process dies before it; is_after: when it is complete */
	ST_AIO_FAULT_POWER_LOSS, /* the same, and what was not flushed may be lost */
};

struct st_aio_fault {
	enum st_aio_fault_kind kind;
	unsigned ops;                /* of 1u << ST_AIO_READ ...; 0: any */
	const char *path_part;       /* only I/Os whose path contains it; NULL: any. Borrowed */
	uint64_t lo_bytes, hi_bytes; /* only I/Os that touch [lo, hi) of their file; hi 0: any */
	int64_t nth;                 /* > 0: the nth of those, once; < 0: the -nth and all after */
	bool is_after;
	int rc;           /* ERROR: 0 = -EIO */
	int64_t delay_ns; /* DELAY */
};

struct st_aio_undo;

/** st_aio_undo_create() - an empty log. It outlives queues, as a disk's cache outlives a process.
 */
ST_MUST_CHECK int st_aio_undo_create(struct st_aio_undo **out);

/** st_aio_undo_destroy() - forget everything; files stay as they are. NULL is fine. */
void st_aio_undo_destroy(struct st_aio_undo *u);

/**
 * st_aio_undo_lose_power() - undo a random part of all unflushed writes, then forget them.
 * No queue that uses the log may have I/Os in flight; the files must be open still.
 * @return 0, or a negative code of a file that could not be read or written
 */
ST_MUST_CHECK int st_aio_undo_lose_power(struct st_aio_undo *u, uint64_t seed);

/* ---- for the backend ---------------------------------------------------------------------- */

struct st_aio_undo_entry;

/** st_aio_undo_note() - before a write: keep what is there now. 0 and *e, or a negative code. */
ST_MUST_CHECK int st_aio_undo_note(struct st_aio_undo *u, int fd, uint64_t off_bytes,
				   size_t len_bytes, struct st_aio_undo_entry **e);
/** st_aio_undo_written() - the write of *e is complete. */
void st_aio_undo_written(struct st_aio_undo *u, struct st_aio_undo_entry *e);
/** st_aio_undo_mark() - now; a flush that is issued now covers what was written before. */
uint64_t st_aio_undo_mark(struct st_aio_undo *u);
/** st_aio_undo_flushed() - writes of fd complete before the mark are durable. */
void st_aio_undo_flushed(struct st_aio_undo *u, int fd, uint64_t mark);

#endif
