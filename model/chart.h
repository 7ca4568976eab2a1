/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model/chart.h - charts for a page of HTML, as inline SVG.
 *
 * Layer:   model
 * Threads: re-entrant
 *
 * The page's style sheet (st_chart_style()) holds all colours, for light and for dark; the SVG has
 * classes only. Nothing needs a script: under the pointer a column of the chart shows the values of
 * all series there, as its <title>. Many points are drawn as few columns: lines as the mean with
 * the range behind it, stacks as the mean.
 */
#ifndef MODEL_CHART_H
#define MODEL_CHART_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#define ST_CHART_SERIES_MAX 10u

enum st_chart_kind {
	ST_CHART_LINE,
	ST_CHART_POINTS,
	ST_CHART_STACK, /* areas, one on top of the other, in the order of the series */
	ST_CHART_BARS,  /* the same as bars */
};

struct st_chart_series {
	const char *name;
	enum st_chart_kind kind;
	unsigned colour; /* 0..9 */
	const double *y; /* [n]; not finite: nothing there */
	bool is_dashed;
	bool takes_max; /* columns show the largest value, not the mean */
};

struct st_chart {
	const char *title;
	const char *note; /* below the title, or NULL */
	const char *x_label, *y_label;
	const double *x; /* [n] rising */
	size_t n;
	const struct st_chart_series *series;
	size_t n_series; /* at most ST_CHART_SERIES_MAX; those without a value are left out */
	bool from_zero;  /* the y axis */
	bool is_time;    /* x has many digits, few of which matter */
	bool is_wide;    /* over both columns of the page */
};

/** st_chart_style() - the style sheet's part of the charts. */
void st_chart_style(FILE *f);
/** st_chart_put() - one chart, as a <figure>. @return false: no series has a value, nothing was
 *  written */
bool st_chart_put(FILE *f, const struct st_chart *c);
/** st_html_text() - text as HTML shows it. */
void st_html_text(FILE *f, const char *s);

#endif
