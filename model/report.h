/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model/report.h - a page about a run: what it learnt, how fast, what limited it, what was planned.
 *
 * Layer:   model
 * Threads: re-entrant
 *
 * One file of HTML with everything inside: opens without a network and without scripts, in light
 * and dark. It is made from OUTPUT/log.jsonl, from the plan of OUTPUT/strata.json, and from a trace
 * where there is one. What is missing (a killed run has no end, an old log no lanes, a damaged line
 * nothing) leaves out what it would have shown, and the page says so.
 */
#ifndef MODEL_REPORT_H
#define MODEL_REPORT_H

#include "core/status.h"
#include "strata/train.h"

struct st_run_report_cfg {
	const char *dir;      /* the run's output */
	const char *output;   /* file to write; NULL: DIR/report.html. One that is there is replaced
			       * if it is a page of ours, else refused */
	const char *trace;    /* NULL: DIR/trace.json, if it is there */
	const char *hardware; /* rates for the plan's times; NULL: those measured before, if any */
	strata_log_fn *log;   /* or NULL */
	void *log_user;
};

/**
 * st_run_report() - write the page.
 * @param path  out [path_bytes], where it lies; or NULL
 * @return 0; STRATA_E_INPUT (no run, a trace that cannot be read, a file that is not ours);
 *         STRATA_E_CONFIG (the hardware description); -ENOMEM; -errno
 */
ST_MUST_CHECK int st_run_report(const struct st_run_report_cfg *cfg, char *path, size_t path_bytes);

#endif
