/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cli/watch.h - signals, and the passing of time, for a run.
 *
 * Layer:   cli
 * Threads: one of its own, which takes the signals; all other threads have them blocked, so that no
 *          system call of the run is ever interrupted and no handler interrupts anything
 *
 * SIGINT, SIGTERM and SIGHUP: the first asks the trainer to stop after the current step, or to
 * begin none where there is no trainer yet; the second ends the process at once, unless it follows
 * within a second, as when timeout(1) signals both the process and its group. One that was ignored
 * when the program began stays ignored (nohup, and shells that start jobs in the background).
 * SIGWINCH and time redraw the bar.
 */
#ifndef CLI_WATCH_H
#define CLI_WATCH_H

#include "cli/progress.h"

struct st_watch;

/** st_watch_start() - to be called before any other thread exists. progress is borrowed.
 *  @param resumes  in, there is nothing to tidy up before the first st_watch_attach(): until then
 * the first signal ends the process at once */
ST_MUST_CHECK int st_watch_start(struct st_watch **out, struct st_progress *progress, bool resumes);
/** st_watch_attach() - the trainer to stop, or NULL: none (any more). */
void st_watch_attach(struct st_watch *w, struct strata_trainer *t);
/** st_watch_finishes() - all steps are done: a first signal stops before the result is there. */
void st_watch_finishes(struct st_watch *w);
/** st_watch_signal() - the first signal that asked to stop, 0 if none came. Any thread. */
int st_watch_signal(const struct st_watch *w);
/** st_watch_stop() - end the thread; NULL is accepted. The signals stay blocked. */
void st_watch_stop(struct st_watch *w);

#endif
