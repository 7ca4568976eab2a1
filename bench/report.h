/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench/report.h - what the measuring verbs say beside their tables.
 *
 * Layer:   bench
 * Threads: main
 *
 * Notes are lines that begin with "# ". They stand on stdout above and below a table for people,
 * and on stderr when stdout is for a program. What goes on right now is one line on stderr, where
 * that is a terminal, and is wiped before anything else is said.
 */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include "bench/table.h"
#include "core/status.h"

struct st_report {
	enum st_table_form form;
	FILE *notes;
	bool has_status; /* a line of what goes on stands on stderr */
	bool is_terminal;
};

/** st_report_begin() - also takes the library's log, whose lines become notes on stderr. */
void st_report_begin(struct st_report *r, enum st_table_form form);
/** st_report_take_log() - again, after somebody else had it. */
void st_report_take_log(struct st_report *r);
void st_report_end(struct st_report *r);

void st_report_note(struct st_report *r, const char *fmt, ...) ST_PRINTF(2, 3);
void st_report_status(struct st_report *r, const char *fmt, ...) ST_PRINTF(2, 3);
/** st_report_wipe() - before something else is written. */
void st_report_wipe(struct st_report *r);

/** st_report_check_file() - can `path` be written? Asked before minutes are spent on measuring.
 *  @return 0; STRATA_E_INPUT */
ST_MUST_CHECK int st_report_check_file(const char *path);

#endif
