/* SPDX-License-Identifier: Apache-2.0 */
/*
 * aio/null.c - two backends that complete every piece inside submit().
 *
 * "null" moves nothing: what the layers above cost. "sync" does the I/O on the calling thread: the
 * simplest thing that is right, for simulations that need neither threads nor overlap.
 */
#include "aio/aio.h"

#include <errno.h>
#include <stdlib.h>

struct null_queue {
	int wake_fd;
	struct st_aio_req *head; /* linked by priv[0] */
};

static int null_open(void **out, const struct st_aio_cfg *cfg, int wake_fd)
{
	struct null_queue *q = calloc(1, sizeof(*q));

	if (!q)
		return st_fail(-ENOMEM, "aio: null queue");
	q->wake_fd = wake_fd;
	*out = q;
	return 0;
}

static void null_close(void *be)
{
	free(be);
}

static int complete(struct null_queue *q, struct st_aio_req *p, int64_t result)
{
	p->result = result;
	p->priv[0] = (uintptr_t)q->head;
	q->head = p;
	return 0;
}

static int null_submit(void *be, struct st_aio_req *p)
{
	return complete(be, p, (int64_t)p->len_bytes);
}

static int sync_submit(void *be, struct st_aio_req *p)
{
	return complete(be, p, st_aio_transfer(p));
}

static int null_reap(void *be, struct st_aio_req **done, unsigned max_nr, int64_t timeout_ns)
{
	struct null_queue *q = be;
	unsigned n = 0;

	while (n < max_nr && q->head) {
		done[n++] = q->head;
		q->head = (struct st_aio_req *)(uintptr_t)q->head->priv[0];
	}
	if (n || timeout_ns == 0)
		return (int)n;
	return st_aio_wait_event(q->wake_fd, timeout_ns);
}

const struct st_aio_ops st_aio_null_ops = {
	.api_version = ST_AIO_API_VERSION,
	.name = "null",
	.open = null_open,
	.close = null_close,
	.submit = null_submit,
	.reap = null_reap,
};

const struct st_aio_ops st_aio_sync_ops = {
	.api_version = ST_AIO_API_VERSION,
	.name = "sync",
	.open = null_open,
	.close = null_close,
	.submit = sync_submit,
	.reap = null_reap,
};
