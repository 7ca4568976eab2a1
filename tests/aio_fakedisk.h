/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/aio_fakedisk.h - two files in memory that forget, tear and reorder what was not flushed.
 *
 * The faulty backend over files without a name: requests of one batch are independent, so they are
 * done in a random order. When the budget of writes and flushes is used up in the middle of a
 * batch, each request that is left is done, not done or done in part, and everything fails from
 * then on: the process is dead. Then either it was only killed, and the cache lives on; or the
 * power went, and of each unflushed write any set of 512-byte sectors has survived.
 *
 * Requests name the files 0 and 1 instead of descriptors.
 */
#ifndef TESTS_AIO_FAKEDISK_H
#define TESTS_AIO_FAKEDISK_H

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "aio/faulty.h"

#define FAKE_BYTES ((off_t)6 << 20)
#define FAKE_FILES 2u
#define FAKE_BATCH 64u

struct fake_disk {
	uint64_t state; /* of the random numbers */
	long budget; /* writes and flushes until the crash, counted from when it was set; < 0: none
		      */
	bool is_dead;
	bool is_lying; /* flushes do nothing: the test must see that */

	int fds[FAKE_FILES]; /* 0: not made yet */
	struct st_aio_undo *undo;
	struct st_aio_queue *queue;
	struct st_aio_fault faults[2];
	long armed; /* the budget that the queue has */
};

static inline uint64_t fake_draw(struct fake_disk *d, uint64_t n)
{
	uint64_t z = d->state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return (z ^ z >> 31) % n;
}

static inline void fake_make(struct fake_disk *d)
{
	for (unsigned p = 0; p < FAKE_FILES; p++) {
		d->fds[p] = memfd_create("fakedisk", MFD_CLOEXEC);
		ST_ASSERT(d->fds[p] > 0 && ftruncate(d->fds[p], FAKE_BYTES) == 0);
	}
	ST_ASSERT(st_aio_undo_create(&d->undo) == 0);
}

/* A queue that knows the budget; what is not flushed lives on from one to the next. */
static inline void fake_open(struct fake_disk *d)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;

	if (!d->undo)
		fake_make(d);
	if (d->queue && d->budget == d->armed)
		return;
	st_aio_close(d->queue);
	d->faults[0] = (struct st_aio_fault){ .kind = ST_AIO_FAULT_KILL,
					      .ops = 1u << ST_AIO_WRITE | 1u << ST_AIO_FLUSH,
					      .nth = d->budget < 0 ? 0 : d->budget + 1 };
	d->faults[1] = (struct st_aio_fault){ .kind = ST_AIO_FAULT_LOSE,
					      .ops = 1u << ST_AIO_FLUSH,
					      .nth = d->is_lying ? -1 : 0 };
	cfg.backend = "faulty";
	cfg.faulty_inner = "sync";
	cfg.depth = FAKE_BATCH;
	cfg.faulty_seed = fake_draw(d, UINT64_MAX);
	cfg.faulty_reorder_rate = 1;
	cfg.faulty_at = d->faults;
	cfg.n_faulty_at = ST_ARRAY_LEN(d->faults);
	cfg.faulty_undo = d->undo;
	cfg.faulty_survives = true;
	ST_ASSERT(st_aio_open(&d->queue, &cfg) == 0);
	d->armed = d->budget;
}

static inline int fake_run(void *user, struct st_aio_req *reqs, unsigned n)
{
	struct fake_disk *d = user;
	int rc;

	if (d->is_dead)
		return st_fail(-EIO, "the process is dead");
	if (!n)
		return 0;
	fake_open(d);
	for (unsigned i = 0; i < n; i++)
		reqs[i].fd = d->fds[reqs[i].fd];
	rc = st_aio_run(d->queue, reqs, n);
	for (unsigned i = 0; i < n; i++)
		reqs[i].fd = reqs[i].fd == d->fds[0] ? 0 : 1;
	if (!rc)
		return 0;
	ST_ASSERT(rc == -EIO); /* nothing but the crash fails here */
	d->is_dead = true;
	st_aio_close(d->queue); /* what it wrote is still in the cache */
	d->queue = NULL;
	return st_fail(-EIO, "the process is dead");
}

static inline void fake_lose_power(struct fake_disk *d)
{
	if (d->undo)
		ST_ASSERT(st_aio_undo_lose_power(d->undo, fake_draw(d, UINT64_MAX)) == 0);
	d->is_dead = false;
}

static inline void fake_free(struct fake_disk *d)
{
	st_aio_close(d->queue);
	st_aio_undo_destroy(d->undo);
	for (unsigned p = 0; p < FAKE_FILES; p++)
		if (d->fds[p])
			close(d->fds[p]);
}

#endif
