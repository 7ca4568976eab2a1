/* SPDX-License-Identifier: Apache-2.0 */
/* cli/watch.c - the thread that waits for signals. */
#include "cli/watch.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/clock.h"

#define TICK_NS 500000000
#define SAME_NS 1000000000 /* timeout(1), and shells, send one request to stop twice */

struct st_watch {
	struct st_progress *progress;
	pthread_t thread;
	sigset_t set;
	pthread_mutex_t lock; /* guards trainer against being closed while it is told to stop */
	struct strata_trainer *trainer;
	bool was_attached, resumes;
	atomic_int signal;
	int64_t signal_ns;  /* when it came */
	bool has_all_steps; /* the result is being written */
	atomic_bool ends;
};

static const char *signal_name(int sig)
{
	return sig == SIGINT ? "SIGINT" : sig == SIGTERM ? "SIGTERM" : "SIGHUP";
}

/* The first one. */
static void ask_to_stop(struct st_watch *w, int sig)
{
	pthread_mutex_lock(&w->lock);
	if (!w->was_attached && w->resumes) {
		st_progress_say(w->progress, false,
				"%s: stopped before the first step; what is saved is as it was",
				signal_name(sig));
		_exit(128 + sig);
	}
	st_progress_say(w->progress, false, "%s: %s (a second signal stops at once)",
			signal_name(sig),
			w->has_all_steps ? "all steps are done: stopping before the result is there"
			: w->was_attached ? "stopping after this step"
					  : "stopping before the first step");
	if (w->trainer)
		strata_trainer_stop(w->trainer);
	pthread_mutex_unlock(&w->lock);
}

static void on_stop_signal(struct st_watch *w, int sig)
{
	int none = 0;

	if (!atomic_compare_exchange_strong(&w->signal, &none, sig)) {
		if (st_now_ns() - w->signal_ns < SAME_NS)
			return;
		st_progress_end(w->progress);
		st_progress_say(w->progress, false,
				"stopped at once by a second signal; what was committed"
				" before is intact");
		_exit(128 + sig);
	}
	w->signal_ns = st_now_ns();
	ask_to_stop(w, sig);
}

static void *watch(void *user)
{
	static const struct timespec tick = { .tv_nsec = TICK_NS };
	struct st_watch *w = user;

	while (!atomic_load(&w->ends)) {
		int sig = sigtimedwait(&w->set, NULL, &tick);

		if (sig == SIGINT || sig == SIGTERM || sig == SIGHUP)
			on_stop_signal(w, sig);
		else
			st_progress_tick(w->progress);
	}
	return NULL;
}

static void choose_signals(sigset_t *set)
{
	static const int stop[] = { SIGINT, SIGTERM, SIGHUP };
	struct sigaction old;

	sigemptyset(set);
	sigaddset(set, SIGWINCH);
	for (size_t i = 0; i < ST_ARRAY_LEN(stop); i++)
		if (!sigaction(stop[i], NULL, &old) && old.sa_handler != SIG_IGN)
			sigaddset(set, stop[i]);
}

int st_watch_start(struct st_watch **out, struct st_progress *progress, bool resumes)
{
	struct st_watch *w = calloc(1, sizeof(*w));
	int rc;

	if (!w)
		return st_fail(-ENOMEM, "signals");
	w->progress = progress;
	w->resumes = resumes;
	choose_signals(&w->set);
	pthread_mutex_init(&w->lock, NULL);
	rc = -pthread_sigmask(SIG_BLOCK, &w->set, NULL);
	if (!rc)
		rc = -pthread_create(&w->thread, NULL, watch, w);
	if (rc) {
		pthread_mutex_destroy(&w->lock);
		free(w);
		return st_fail(rc, "cannot start the thread that waits for signals");
	}
	*out = w;
	return 0;
}

void st_watch_attach(struct st_watch *w, struct strata_trainer *t)
{
	pthread_mutex_lock(&w->lock);
	w->trainer = t;
	w->was_attached = true;
	if (t && st_watch_signal(w)) /* it came while the trainer was being opened */
		strata_trainer_stop(t);
	pthread_mutex_unlock(&w->lock);
}

void st_watch_finishes(struct st_watch *w)
{
	pthread_mutex_lock(&w->lock);
	w->has_all_steps = true;
	pthread_mutex_unlock(&w->lock);
}

int st_watch_signal(const struct st_watch *w)
{
	return atomic_load(&w->signal);
}

void st_watch_stop(struct st_watch *w)
{
	if (!w)
		return;
	atomic_store(&w->ends, true);
	(void)pthread_kill(w->thread, SIGWINCH); /* it may be waiting for the next tick */
	(void)pthread_join(w->thread, NULL);
	pthread_mutex_destroy(&w->lock);
	free(w);
}
