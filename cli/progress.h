/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cli/progress.h - how a run shows itself: a bar, lines, JSON, or not at all.
 *
 * Layer:   cli
 * Threads: any, also from the log callback; one lock inside
 *
 * Invariants:
 *  1. Only JSON goes to stdout; everything for people goes to stderr.
 *  2. Control bytes ("\r" and the erasure of a line's rest) are written by the bar only, and the
 * bar runs only where stderr is a terminal that understands them.
 *  3. The cursor is never hidden and no mode of the terminal is changed, so there is nothing to
 *     restore after any exit, SIGKILL included. An orderly exit also ends the bar's line.
 */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

#include "core/status.h"
#include "strata/train.h"

enum st_progress_mode {
	ST_PROGRESS_AUTO, /* a bar where stderr is a terminal, else lines */
	ST_PROGRESS_BAR,  /* lines where it is none */
	ST_PROGRESS_LINE,
	ST_PROGRESS_JSON,
	ST_PROGRESS_NONE, /* errors only */
};
/* Their names, for --progress; ends with NULL. */
extern const char *const st_progress_names[];

struct st_progress;

/** st_progress_create() - @param mode  in; what AUTO became is kept inside */
ST_MUST_CHECK int st_progress_create(struct st_progress **out, enum st_progress_mode mode);
/** st_progress_destroy() - ends the bar's line; NULL is accepted. */
void st_progress_destroy(struct st_progress *p);

/** st_progress_shows() - whether there is somebody to talk to (any mode but NONE). */
bool st_progress_shows(const struct st_progress *p);

/** st_progress_say() - one line for people, above the bar; dropped in mode NONE unless is_error. */
void st_progress_say(struct st_progress *p, bool is_error, const char *fmt, ...) ST_PRINTF(3, 4);
/** st_progress_log() - the same as a strata_log_fn; user is the progress. */
void st_progress_log(void *user, enum strata_log_level level, const char *line);

/** st_progress_begin() - the run is known: from here on the bar is drawn. info is borrowed. */
void st_progress_begin(struct st_progress *p, const struct strata_info *info);

/**
 * st_progress_step() - one step is done: redraw, print a line (each steps_per_print steps, the
 * first and the last), or an object {"event":"step",...}; a validation loss in *m follows on its
 * own.
 * @return 0, or a negative code when stdout cannot be written
 */
ST_MUST_CHECK int st_progress_step(struct st_progress *p, const struct strata_metrics *m);
/** st_progress_part() - an evaluation, or the writing of the result, has come so far: a bar of its
 *  own, a line each 10 s, or {"event":"progress",...} at its start and once a second. A
 *  strata_options.progress; user is the progress. */
void st_progress_part(void *user, const char *what, uint64_t done, uint64_t total);
/** st_progress_stopped() - {"event":"stopped",...}: ended by a signal, state saved. @return as
 * above */
ST_MUST_CHECK int st_progress_stopped(struct st_progress *p, uint64_t step);
/** st_progress_done() - {"event":"done",...}, the last line. @return as above */
ST_MUST_CHECK int st_progress_done(struct st_progress *p, const struct strata_result *r);

/** st_progress_tick() - time has passed, or the terminal has another width: redraw if due. */
void st_progress_tick(struct st_progress *p);
/** st_progress_end() - end the bar's line; nothing is drawn from here on. */
void st_progress_end(struct st_progress *p);

#endif
