/* SPDX-License-Identifier: Apache-2.0 */
/* bench/table.c - rows of figures as text, JSON and CSV. */
#include "bench/table.h"

#include <math.h>
#include <string.h>

#include "cli/print.h"
#include "core/status.h"

struct shown {
	char s[64];
};

static bool is_none(const struct st_col *c, const struct st_cell *x)
{
	switch (c->kind) {
	case ST_CELL_TEXT:
		return x->is_none || !x->text;
	case ST_CELL_TEXTS:
		return x->is_none || !x->texts;
	case ST_CELL_REAL:
		return x->is_none || !isfinite(x->real);
	default:
		return x->is_none;
	}
}

/* "4 MiB" where that is exact, else "2.5 MiB" and the like. */
static void put_bytes(struct shown *out, uint64_t bytes)
{
	static const char *const unit[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	size_t i = 0;

	while (i + 1 < ST_ARRAY_LEN(unit) && bytes >= 1024 && bytes % 1024 == 0) {
		bytes /= 1024;
		i++;
	}
	if (bytes < 10000)
		snprintf(out->s, sizeof(out->s), "%llu %s", (unsigned long long)bytes, unit[i]);
	else
		snprintf(out->s, sizeof(out->s), "%s", st_bytes_text(bytes << (10 * i)).s);
}

/* As people see it; a list of texts is cut to what fits. */
static struct shown show(const struct st_col *c, const struct st_cell *x)
{
	struct shown out = { "-" };
	size_t len = 0;

	if (is_none(c, x))
		return out;
	switch (c->kind) {
	case ST_CELL_TEXT:
		snprintf(out.s, sizeof(out.s), "%s", x->text);
		break;
	case ST_CELL_TEXTS:
		for (size_t i = 0; x->texts[i] && len + 1 < sizeof(out.s); i++) {
			snprintf(out.s + len, sizeof(out.s) - len, "%s%s", i ? ";" : "",
				 x->texts[i]);
			len = strlen(out.s);
		}
		break;
	case ST_CELL_UINT:
		snprintf(out.s, sizeof(out.s), "%llu", (unsigned long long)x->n);
		break;
	case ST_CELL_REAL:
		snprintf(out.s, sizeof(out.s), "%.*f", (int)c->decimals, x->real);
		break;
	case ST_CELL_BYTES:
		put_bytes(&out, x->n);
		break;
	}
	return out;
}

static int width_of(const struct st_col *c)
{
	size_t w = c->width;

	if (strlen(c->title) > w)
		w = strlen(c->title);
	if (c->unit && strlen(c->unit) > w)
		w = strlen(c->unit);
	return (int)w;
}

static bool is_left(const struct st_col *c)
{
	return c->kind == ST_CELL_TEXT || c->kind == ST_CELL_TEXTS;
}

/* ---- text ---------------------------------------------------------------------------------- */

/* Blanks are owed until a word follows them, so that no line ends in one. */
static void put_line(const struct st_table *t, const char *const *words)
{
	int owed = 0;
	bool is_first = true;

	for (size_t i = 0; i < t->n_cols; i++) {
		const struct st_col *c = &t->cols[i];
		int len = words[i] ? (int)strlen(words[i]) : 0, pad;

		if (!c->title)
			continue;
		pad = width_of(c) > len ? width_of(c) - len : 0;
		owed += (is_first ? 0 : 2) + (is_left(c) ? 0 : pad);
		is_first = false;
		if (len) {
			fprintf(t->f, "%*s%s", owed, "", words[i]);
			owed = 0;
		}
		owed += is_left(c) ? pad : 0;
	}
	fputc('\n', t->f);
}

static void put_titles(const struct st_table *t)
{
	const char *titles[ST_TABLE_COLS_MAX], *units[ST_TABLE_COLS_MAX];

	for (size_t i = 0; i < t->n_cols; i++) {
		titles[i] = t->cols[i].title;
		units[i] = t->cols[i].unit;
	}
	put_line(t, titles);
	put_line(t, units);
}

static void put_text_row(const struct st_table *t, const struct st_cell *cells)
{
	struct shown shown[ST_TABLE_COLS_MAX];
	const char *words[ST_TABLE_COLS_MAX];

	for (size_t i = 0; i < t->n_cols; i++) {
		shown[i] = show(&t->cols[i], &cells[i]);
		words[i] = shown[i].s;
	}
	put_line(t, words);
}

/* ---- JSON ---------------------------------------------------------------------------------- */

static void put_json_cell(FILE *f, const struct st_col *c, const struct st_cell *x)
{
	if (is_none(c, x)) {
		fputs("null", f);
		return;
	}
	switch (c->kind) {
	case ST_CELL_TEXT:
		st_put_json_string(x->text, f);
		break;
	case ST_CELL_TEXTS:
		fputc('[', f);
		for (size_t i = 0; x->texts[i]; i++) {
			fputs(i ? "," : "", f);
			st_put_json_string(x->texts[i], f);
		}
		fputc(']', f);
		break;
	case ST_CELL_UINT:
	case ST_CELL_BYTES:
		fprintf(f, "%llu", (unsigned long long)x->n);
		break;
	case ST_CELL_REAL:
		st_put_json_real(x->real, f);
		break;
	}
}

static void put_json_row(const struct st_table *t, const struct st_cell *cells)
{
	const char *before = "{";

	fputs(t->n_rows ? ",\n" : "\n", t->f);
	for (size_t i = 0; i < t->n_cols; i++) {
		if (!t->cols[i].key)
			continue;
		fprintf(t->f, "%s\"%s\":", before, t->cols[i].key);
		put_json_cell(t->f, &t->cols[i], &cells[i]);
		before = ",";
	}
	fputc('}', t->f);
}

/* ---- CSV ----------------------------------------------------------------------------------- */

static void put_csv_text(FILE *f, const char *s)
{
	for (; *s; s++) {
		if (*s == '"')
			fputc('"', f);
		fputc(*s, f);
	}
}

static void put_csv_cell(FILE *f, const struct st_col *c, const struct st_cell *x)
{
	if (is_none(c, x))
		return;
	switch (c->kind) {
	case ST_CELL_TEXT:
		fputc('"', f);
		put_csv_text(f, x->text);
		fputc('"', f);
		break;
	case ST_CELL_TEXTS:
		fputc('"', f);
		for (size_t i = 0; x->texts[i]; i++) {
			fputs(i ? ";" : "", f);
			put_csv_text(f, x->texts[i]);
		}
		fputc('"', f);
		break;
	case ST_CELL_UINT:
	case ST_CELL_BYTES:
		fprintf(f, "%llu", (unsigned long long)x->n);
		break;
	case ST_CELL_REAL:
		st_put_json_real(x->real, f);
		break;
	}
}

/* The keys, or with cells a row. */
static void put_csv_line(const struct st_table *t, const struct st_cell *cells)
{
	bool is_first = true;

	for (size_t i = 0; i < t->n_cols; i++) {
		if (!t->cols[i].key)
			continue;
		fputs(is_first ? "" : ",", t->f);
		is_first = false;
		if (cells)
			put_csv_cell(t->f, &t->cols[i], &cells[i]);
		else
			fputs(t->cols[i].key, t->f);
	}
	fputc('\n', t->f);
}

/* ---- the table ----------------------------------------------------------------------------- */

void st_table_begin(struct st_table *t, FILE *f, enum st_table_form form, const struct st_col *cols,
		    size_t n_cols)
{
	ST_ASSERT(n_cols <= ST_TABLE_COLS_MAX);
	*t = (struct st_table){ .f = f, .form = form, .cols = cols, .n_cols = n_cols };
	switch (form) {
	case ST_TABLE_TEXT:
		put_titles(t);
		break;
	case ST_TABLE_JSON:
		fputc('[', f);
		break;
	case ST_TABLE_CSV:
		put_csv_line(t, NULL);
		break;
	}
	fflush(f);
}

void st_table_row(struct st_table *t, const struct st_cell *cells)
{
	switch (t->form) {
	case ST_TABLE_TEXT:
		put_text_row(t, cells);
		break;
	case ST_TABLE_JSON:
		put_json_row(t, cells);
		break;
	case ST_TABLE_CSV:
		put_csv_line(t, cells);
		break;
	}
	t->n_rows++;
	fflush(t->f);
}

void st_table_end(struct st_table *t)
{
	if (t->form == ST_TABLE_JSON)
		fputs(t->n_rows ? "\n]\n" : "]\n", t->f);
	fflush(t->f);
}
