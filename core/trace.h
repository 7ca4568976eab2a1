/* SPDX-License-Identifier: Apache-2.0 */
/*
 * core/trace.h - a file of timed events, for Perfetto and chrome://tracing.
 *
 * Layer:   core
 * Threads: st_trace_put() from any; a thread of its own formats and writes
 *
 * The format is Chrome's trace events in their array form: "[", then an object an event with a
 * comma before each but the first, then "]". Readers accept a file without the end, so that of a
 * killed process opens too: each write(2) ends where an event ends.
 *
 * Bounded: events wait in a ring of fixed size until they are written, five times a second or when
 * a quarter of it is full. When it is full events are dropped, and counted. Nothing is allocated
 * after st_trace_open().
 *
 * Slices of one row never overlap (viewers could not nest them): a slice that would begin before
 * the end of the row's last one begins there instead. For a lane that completes in order that is
 * the time since which it was first in line.
 */
#ifndef CORE_TRACE_H
#define CORE_TRACE_H

#include "core/status.h"

#define ST_TRACE_ARGS_MAX 8u
#define ST_TRACE_ROWS_MAX 32u

struct st_trace;

enum st_trace_kind {
	ST_TRACE_SLICE,    /* [begin_ns, end_ns) on a row */
	ST_TRACE_COUNTER,  /* values of args from begin_ns on; row is not looked at */
	ST_TRACE_FLOW_OUT, /* an arrow begins in the slice of the row at begin_ns ... */
	ST_TRACE_FLOW_IN,  /* ... and ends in one that has the same id, name and category */
};

enum st_trace_arg_kind { ST_TRACE_UINT, ST_TRACE_REAL, ST_TRACE_TEXT };

struct st_trace_arg {
	const char *key;
	enum st_trace_arg_kind kind;
	uint64_t n;
	double real;
	const char *text;
};

/* Texts are borrowed until st_trace_flush() or st_trace_close(). */
struct st_trace_event {
	enum st_trace_kind kind;
	unsigned row;
	const char *name, *category;
	int64_t begin_ns, end_ns; /* of st_now_ns() */
	uint64_t id;              /* flows */
	unsigned n_args;
	struct st_trace_arg args[ST_TRACE_ARGS_MAX];
};

/**
 * st_trace_open() - create the file, or replace a trace that is there.
 * @param process  in, what the viewer calls it
 * @return 0; STRATA_E_INPUT (not to be written, or something else than a trace is there); -ENOMEM
 */
ST_MUST_CHECK int st_trace_open(struct st_trace **out, const char *path, const char *process);

/** st_trace_row() - name a row, once, before its first slice; rows are shown in order of number. */
void st_trace_row(struct st_trace *t, unsigned row, const char *name);

/** st_trace_put() - one event, copied. Of a slice begin_ns and end_ns become what was written. */
void st_trace_put(struct st_trace *t, struct st_trace_event *e);

/* Adds an argument to an event that is being filled. */
void st_trace_uint(struct st_trace_event *e, const char *key, uint64_t n);
void st_trace_real(struct st_trace_event *e, const char *key, double x);
void st_trace_text(struct st_trace_event *e, const char *key, const char *text);

/** st_trace_flush() - wait until all that was put is written: its texts may go. */
void st_trace_flush(struct st_trace *t);

/** st_trace_close() - write what waits, and the end. NULL is accepted.
 *  @param removes  in, the file goes, if this process created it
 *  @return 0; the first failure to write (it was logged then, and nothing written since) */
int st_trace_close(struct st_trace *t, bool removes);

#endif
