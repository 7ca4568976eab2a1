/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench/plot.h - a figure as one self-contained SVG file: grouped bars, or lines.
 *
 * Layer:   bench
 * Threads: re-entrant
 *
 * No script, no font, no reference to anything outside; every mark carries its value as a <title>,
 * which a browser shows under the pointer. Colours are told apart by people who see few of them,
 * and the picture stands on white.
 */
#ifndef BENCH_PLOT_H
#define BENCH_PLOT_H

#include <stddef.h>

#include "core/status.h"

enum st_plot_kind {
	ST_PLOT_BARS,  /* one group for each x_names[i], one bar in it for each series */
	ST_PLOT_LINES, /* one line for each series over x, or over x_names at equal distances */
};

#define ST_PLOT_SERIES_MAX 8u

struct st_plot_series {
	const char *name;      /* in the legend */
	const double *y;       /* [n_x]; not finite: no mark there */
	const double *lo, *hi; /* [n_x] ends of whiskers, or NULL */
};

struct st_plot {
	enum st_plot_kind kind;
	const char *title;
	const char *subtitle;       /* machine, conditions; NULL: none */
	const char *x_label;        /* NULL: none */
	const char *y_label;        /* with its unit: "GB/s" */
	const char *const *x_names; /* [n_x]; required for bars */
	const double *x;            /* [n_x], rising: a numeric axis for lines; else NULL */
	size_t n_x;
	const struct st_plot_series *series;
	size_t n_series;      /* 1..ST_PLOT_SERIES_MAX */
	double ref;           /* a dashed line at this height, when ref_name is given */
	const char *ref_name; /* NULL: none */
};

/**
 * st_plot_write() - write the figure to `path`, replacing what is there.
 * @return 0; -EINVAL (no point, or too many series); -ENOMEM; -errno (the file)
 */
ST_MUST_CHECK int st_plot_write(const struct st_plot *p, const char *path);

#endif
