/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model/report_log.h - log.jsonl and a trace, read back for the page about a run.
 *
 * Layer:   model
 * Threads: re-entrant
 */
#ifndef MODEL_REPORT_LOG_H
#define MODEL_REPORT_LOG_H

#include "core/status.h"

struct st_log_step { /* NaN: not in the log */
	double step, loss, val_loss, grad_norm, clip_factor, lr, tokens_per_s;
	double step_s, bound_s, compute_s, forward_s, backward_s, reduce_s, update_s;
	double nvme_s, checksum_s, commit_s, read_bytes, write_bytes, loaded_bytes_per_s;
	double h2d_s, d2h_s, optimizer_s; /* NaN also where there are no such lanes */
	char limiting[16];                /* "" unknown */
	bool has_lanes;                   /* step_s and bound_s are there */
	bool clipped, speculated, rolled_back, skipped;
};

struct st_run_log {
	struct st_log_step *steps; /* [n], rising */
	size_t n, cap;
	size_t n_bad;          /* lines that are none of ours */
	bool is_done;          /* the run's end is the last thing in the log */
	double peak_rss_bytes; /* of that end; NaN */
};

/** st_run_log_read() - @return 0; STRATA_E_INPUT (not there, or no line of it is a step's);
 *  -ENOMEM */
ST_MUST_CHECK int st_run_log_read(struct st_run_log *log, const char *path);
void st_run_log_free(struct st_run_log *log);

#define ST_TRACE_COLUMNS 240u
#define ST_TRACE_NAMES   32u
#define ST_TRACE_SERIES  9u

/* What a trace says of one step in the middle of it, cut into columns of equal length. */
struct st_step_trace {
	double step, begin_us, dur_us;
	char rows[ST_TRACE_NAMES][32]; /* by tid; "" none */
	char names[ST_TRACE_NAMES][24];
	unsigned n_names;
	/* [tid][column][name]: share of the column */
	float (*busy)[ST_TRACE_COLUMNS][ST_TRACE_NAMES];
	struct st_trace_tier {
		char names[ST_TRACE_SERIES][24];
		unsigned n_names;
		double bytes[ST_TRACE_SERIES][ST_TRACE_COLUMNS]; /* the most in it */
	} tiers[2];                                              /* device, host */
};

/** st_step_trace_read() - @return 1: there is a step; 0: none; STRATA_E_INPUT: no file; -ENOMEM */
ST_MUST_CHECK int st_step_trace_read(struct st_step_trace *t, const char *path);
void st_step_trace_free(struct st_step_trace *t);

#endif
