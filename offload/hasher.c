/* SPDX-License-Identifier: Apache-2.0 */
/* offload/hasher.c - a FIFO of jobs, a list of finished ones, and the threads between. */
#include "offload/hasher.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "core/clock.h"

#define THREADS_MAX 8u

struct fifo {
	struct st_hash_job *head, **tail;
};

struct st_hasher {
	struct st_aio_queue *queue;
	const struct st_store *store;
	const struct st_scratch *scratch;
	pthread_t threads[THREADS_MAX];
	unsigned n_threads;
	pthread_mutex_t lock; /* guards what follows */
	unsigned n_running;
	pthread_cond_t has_job;
	struct fifo waiting, finished;
	int64_t busy_ns;
	bool stops;
};

static void fifo_init(struct fifo *f)
{
	f->head = NULL;
	f->tail = &f->head;
}

static void fifo_push(struct fifo *f, struct st_hash_job *job)
{
	job->next = NULL;
	*f->tail = job;
	f->tail = &job->next;
}

static struct st_hash_job *fifo_pop(struct fifo *f)
{
	struct st_hash_job *job = f->head;

	f->head = job->next;
	if (!f->head)
		f->tail = &f->head;
	return job;
}

static void run(const struct st_hasher *h, struct st_hash_job *job)
{
	job->checksum = job->is_scratch ? st_scratch_checksum(h->scratch, job->extent, job->buf)
					: st_store_checksum(h->store, job->extent, job->buf);
}

static void *hasher_main(void *arg)
{
	struct st_hasher *h = arg;
	unsigned me;

	pthread_mutex_lock(&h->lock);
	me = h->n_running++;
	for (;;) {
		struct st_hash_job *job;
		bool is_first;

		while (!h->waiting.head && !h->stops)
			pthread_cond_wait(&h->has_job, &h->lock);
		if (h->stops)
			break;
		job = fifo_pop(&h->waiting);
		pthread_mutex_unlock(&h->lock);
		job->thread = me;
		job->begin_ns = st_now_ns();
		run(h, job);
		job->end_ns = st_now_ns();
		pthread_mutex_lock(&h->lock);
		h->busy_ns += job->end_ns - job->begin_ns;
		is_first = !h->finished.head;
		fifo_push(&h->finished, job);
		if (is_first) /* of later ones the owner learns when it collects this one */
			st_aio_wake(h->queue);
	}
	pthread_mutex_unlock(&h->lock);
	return NULL;
}

int st_hasher_create(struct st_hasher **out, struct st_aio_queue *queue,
		     const struct st_store *store, const struct st_scratch *scratch,
		     unsigned n_threads)
{
	struct st_hasher *h = calloc(1, sizeof(*h));

	if (!h)
		return st_fail(-ENOMEM, "checksums");
	h->queue = queue;
	h->store = store;
	h->scratch = scratch;
	pthread_mutex_init(&h->lock, NULL);
	pthread_cond_init(&h->has_job, NULL);
	fifo_init(&h->waiting);
	fifo_init(&h->finished);
	while (h->n_threads < n_threads && h->n_threads < THREADS_MAX) {
		int rc = -pthread_create(&h->threads[h->n_threads], NULL, hasher_main, h);

		if (rc) {
			st_hasher_destroy(h);
			return st_fail(rc, "a thread for checksums");
		}
		h->n_threads++;
	}
	*out = h;
	return 0;
}

void st_hasher_destroy(struct st_hasher *h)
{
	if (!h)
		return;
	pthread_mutex_lock(&h->lock);
	h->stops = true;
	pthread_cond_broadcast(&h->has_job);
	pthread_mutex_unlock(&h->lock);
	for (unsigned i = 0; i < h->n_threads; i++)
		pthread_join(h->threads[i], NULL);
	pthread_mutex_destroy(&h->lock);
	pthread_cond_destroy(&h->has_job);
	free(h);
}

void st_hasher_submit(struct st_hasher *h, struct st_hash_job *job)
{
	pthread_mutex_lock(&h->lock);
	fifo_push(&h->waiting, job);
	pthread_cond_signal(&h->has_job);
	pthread_mutex_unlock(&h->lock);
}

struct st_hash_job *st_hasher_collect(struct st_hasher *h)
{
	struct st_hash_job *list;

	pthread_mutex_lock(&h->lock);
	list = h->finished.head;
	fifo_init(&h->finished);
	pthread_mutex_unlock(&h->lock);
	return list;
}

int64_t st_hasher_busy_ns(struct st_hasher *h)
{
	int64_t ns;

	pthread_mutex_lock(&h->lock);
	ns = h->busy_ns;
	pthread_mutex_unlock(&h->lock);
	return ns;
}
