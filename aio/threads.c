/* SPDX-License-Identifier: Apache-2.0 */
/*
 * aio/threads.c - the thread-pool backend: pread, pwrite and fdatasync, completions by eventfd.
 *
 * Workers share one queue of pieces and one list of results under one lock. A worker that makes the
 * list of results non-empty rings the eventfd, which st_aio_wake() rings too; so the owner has one
 * thing to wait for.
 */
#include "aio/aio.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

struct list {
	struct st_aio_req *head, *tail;
};

struct pool {
	pthread_mutex_t lock;
	pthread_cond_t has_work;
	struct list todo, done;
	bool is_stopping;
	int wake_fd;
	unsigned n_threads;
	pthread_t threads[];
};

/* priv[0] links pieces. */
static void push(struct list *l, struct st_aio_req *p)
{
	p->priv[0] = 0;
	if (l->tail)
		l->tail->priv[0] = (uintptr_t)p;
	else
		l->head = p;
	l->tail = p;
}

static struct st_aio_req *pop(struct list *l)
{
	struct st_aio_req *p = l->head;

	l->head = (struct st_aio_req *)(uintptr_t)p->priv[0];
	if (!l->head)
		l->tail = NULL;
	return p;
}

int64_t st_aio_transfer(const struct st_aio_req *p)
{
	int64_t n = -EINVAL;

	switch (p->op) {
	case ST_AIO_READ:
		n = pread(p->fd, p->buf, p->len_bytes, (off_t)p->off_bytes);
		break;
	case ST_AIO_WRITE:
		n = pwrite(p->fd, p->buf, p->len_bytes, (off_t)p->off_bytes);
		break;
	case ST_AIO_FLUSH:
		n = fdatasync(p->fd);
		break;
	}
	return n < 0 ? -errno : n;
}

static void *work(void *arg)
{
	const uint64_t one = 1;
	struct pool *t = arg;
	struct st_aio_req *p;
	bool was_empty;

	pthread_mutex_lock(&t->lock);
	for (;;) {
		while (!t->todo.head && !t->is_stopping)
			pthread_cond_wait(&t->has_work, &t->lock);
		if (!t->todo.head)
			break;
		p = pop(&t->todo);
		pthread_mutex_unlock(&t->lock);
		p->result = st_aio_transfer(p);
		pthread_mutex_lock(&t->lock);
		was_empty = !t->done.head;
		push(&t->done, p);
		if (was_empty) /* under the lock: after close() no bell rings any more */
			while (write(t->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
				;
	}
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

static void threads_abandon(void *be)
{
	struct pool *t = be;

	/* Their descriptors may name other files soon. Threads that come back find nothing to do.
	 */
	pthread_mutex_lock(&t->lock);
	t->todo = (struct list){ NULL, NULL };
	pthread_mutex_unlock(&t->lock);
}

static void threads_close(void *be)
{
	struct pool *t = be;

	pthread_mutex_lock(&t->lock);
	t->is_stopping = true;
	pthread_cond_broadcast(&t->has_work);
	pthread_mutex_unlock(&t->lock);
	for (unsigned i = 0; i < t->n_threads; i++)
		pthread_join(t->threads[i], NULL);
	pthread_cond_destroy(&t->has_work);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

static int threads_open(void **out, const struct st_aio_cfg *cfg, int wake_fd)
{
	struct pool *t = calloc(1, sizeof(*t) + cfg->threads * sizeof(t->threads[0]));
	sigset_t all, old;
	int rc = 0;

	if (!t)
		return st_fail(-ENOMEM, "aio: pool of %u threads", cfg->threads);
	t->wake_fd = wake_fd;
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->has_work, NULL);
	sigfillset(&all); /* signals belong to the program's own threads */
	pthread_sigmask(SIG_SETMASK, &all, &old);
	while (t->n_threads < cfg->threads && !rc) {
		rc = pthread_create(&t->threads[t->n_threads], NULL, work, t);
		if (!rc)
			t->n_threads++;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc) {
		unsigned n = t->n_threads;

		threads_close(t);
		return st_fail(-rc, "aio: I/O thread %u of %u cannot be started", n + 1,
			       cfg->threads);
	}
	*out = t;
	return 0;
}

static int threads_submit(void *be, struct st_aio_req *p)
{
	struct pool *t = be;

	pthread_mutex_lock(&t->lock);
	push(&t->todo, p);
	pthread_cond_signal(&t->has_work);
	pthread_mutex_unlock(&t->lock);
	return 0;
}

static int take(struct pool *t, struct st_aio_req **done, unsigned max_nr)
{
	unsigned n = 0;

	pthread_mutex_lock(&t->lock);
	while (n < max_nr && t->done.head)
		done[n++] = pop(&t->done);
	pthread_mutex_unlock(&t->lock);
	return (int)n;
}

int st_aio_wait_event(int wake_fd, int64_t timeout_ns)
{
	struct pollfd pfd = { .fd = wake_fd, .events = POLLIN };
	struct timespec ts = { .tv_sec = timeout_ns / 1000000000,
			       .tv_nsec = timeout_ns % 1000000000 };
	uint64_t count;
	int rc = ppoll(&pfd, 1, timeout_ns < 0 ? NULL : &ts, NULL);

	/* The owner is the only reader, so a readable eventfd does not block. */
	if (rc > 0 && read(wake_fd, &count, sizeof(count)) < 0)
		rc = -1;
	return rc < 0 && errno != EINTR ? st_fail(-errno, "aio: wait for an event") : 0;
}

static int threads_reap(void *be, struct st_aio_req **done, unsigned max_nr, int64_t timeout_ns)
{
	struct pool *t = be;
	int n = take(t, done, max_nr), rc;

	if (n || timeout_ns == 0)
		return n;
	rc = st_aio_wait_event(t->wake_fd, timeout_ns);
	return rc < 0 ? rc : take(t, done, max_nr);
}

const struct st_aio_ops st_aio_threads_ops = {
	.api_version = ST_AIO_API_VERSION,
	.name = "threads",
	.open = threads_open,
	.close = threads_close,
	.abandon = threads_abandon,
	.submit = threads_submit,
	.reap = threads_reap,
};
