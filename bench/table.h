/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench/table.h - rows of figures for people (fixed columns), for programs (JSON), for sheets
 * (CSV).
 *
 * Layer:   bench
 * Threads: a table belongs to one thread
 *
 * One list of columns describes all three forms. As text: a line of titles, a line of units, then
 * each row as soon as it is measured, figures right-aligned, "-" where there is none. As JSON: one
 * array, one object a row, an object a line; null where there is no figure. As CSV: the keys, then
 * the rows; an empty field where there is no figure.
 */
#ifndef BENCH_TABLE_H
#define BENCH_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum st_cell_kind {
	ST_CELL_TEXT,  /* text, left-aligned; NULL: none */
	ST_CELL_TEXTS, /* texts, ends with NULL: a JSON array; ";" between them elsewhere */
	ST_CELL_UINT,  /* n */
	ST_CELL_REAL,  /* real; not finite: none */
	ST_CELL_BYTES, /* n; as text with a unit ("4 MiB"), elsewhere the number of bytes */
};

struct st_cell { /* the member that the column's kind names */
	const char *text;
	const char *const *texts;
	uint64_t n;
	double real;
	bool is_none;
};
#define ST_TEXT(s)  ((struct st_cell){ .text = (s) })
#define ST_TEXTS(v) ((struct st_cell){ .texts = (v) })
#define ST_UINT(x)  ((struct st_cell){ .n = (x) })
#define ST_REAL(x)  ((struct st_cell){ .real = (x) })
#define ST_NO_CELL  ((struct st_cell){ .is_none = true })

struct st_col {
	const char *key;   /* in JSON and CSV: "gbps"; NULL: only people see it */
	const char *title; /* as text: "rate"; NULL: only programs see it */
	const char *unit;  /* as text: "GB/s"; NULL: none */
	enum st_cell_kind kind;
	unsigned width;    /* as text, at least; title and unit always fit */
	unsigned decimals; /* REAL, as text; programs get all digits */
};

enum st_table_form { ST_TABLE_TEXT, ST_TABLE_JSON, ST_TABLE_CSV };

#define ST_TABLE_COLS_MAX 40u

struct st_table {
	FILE *f;
	enum st_table_form form;
	const struct st_col *cols; /* [n_cols] borrowed */
	size_t n_cols;
	size_t n_rows; /* written so far */
};

/** st_table_begin() - titles and units, or what opens the array. f and cols are borrowed.
 *  @param n_cols  in, at most ST_TABLE_COLS_MAX */
void st_table_begin(struct st_table *t, FILE *f, enum st_table_form form, const struct st_col *cols,
		    size_t n_cols);
/** st_table_row() - one row, flushed. @param cells  in [n_cols], in the order of the columns */
void st_table_row(struct st_table *t, const struct st_cell *cells);
/** st_table_end() - what closes the array. Also right when no row came. Whether all of it arrived
 *  is st_flush_stdout()'s to say. */
void st_table_end(struct st_table *t);

#endif
