/* SPDX-License-Identifier: Apache-2.0 */
/* model/chart.c - axes, lines, stacks and the columns that tell their values. */
#include "model/chart.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define HEIGHT  260.0
#define LEFT    58.0
#define RIGHT   14.0
#define TOP     10.0
#define BOTTOM  40.0
#define COLUMNS 240u /* drawn at most */
#define TICKS   5.0

struct column { /* points first..end of a chart */
	size_t first, end;
	double x;
};

struct frame {
	FILE *f;
	const struct st_chart *c;
	double width;
	double x_lo, x_hi, y_lo, y_hi;
	size_t n;
	struct column column[COLUMNS];
};

void st_html_text(FILE *f, const char *s)
{
	for (; *s; s++)
		switch (*s) {
		case '<':
			fputs("&lt;", f);
			break;
		case '>':
			fputs("&gt;", f);
			break;
		case '&':
			fputs("&amp;", f);
			break;
		case '"':
			fputs("&quot;", f);
			break;
		default:
			fputc((unsigned char)*s < 0x20 && *s != '\n' ? ' ' : *s, f);
		}
}

void st_chart_style(FILE *f)
{
	/* Okabe and Ito's colours, for those who tell few apart; lighter ones on dark. */
	static const char *const light[] = {
		"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00",
		"#56b4e9", "#8c6d1f", "#6a51a3", "#666666", "#b00020"
	};
	static const char *const dark[] = { "#4ea8de", "#f28e4b", "#3fc79a", "#e39ac6", "#f5b942",
					    "#8fd0f5", "#c9a94e", "#a78be0", "#a8a8a8", "#ff6b7d" };

	fputs(":root{", f);
	for (unsigned i = 0; i < 10; i++)
		fprintf(f, "--c%u:%s;", i, light[i]);
	fputs("}\n@media(prefers-color-scheme:dark){:root{", f);
	for (unsigned i = 0; i < 10; i++)
		fprintf(f, "--c%u:%s;", i, dark[i]);
	fputs("}}\n", f);
	for (unsigned i = 0; i < 10; i++)
		fprintf(f, ".l%u{stroke:var(--c%u);fill:none}.f%u{fill:var(--c%u)}\n", i, i, i, i);
	fputs("figure{margin:0;background:var(--card);border:1px solid var(--edge);"
	      "border-radius:10px;padding:14px 14px 6px}\nfigure.wide{grid-column:1/-1}\n"
	      "figcaption{font-weight:600}\nfigcaption small{display:block;font-weight:400;"
	      "color:var(--dim)}\n.legend{display:flex;flex-wrap:wrap;gap:2px 14px;margin:6px 0 "
	      "2px;"
	      "font-size:12px;color:var(--dim)}\n.legend i{display:inline-block;width:10px;"
	      "height:10px;border-radius:2px;margin-right:5px}\n"
	      "svg{display:block;width:100%;height:auto}\n"
	      "svg "
	      "text{font-size:11px;fill:var(--dim)}\n.e{text-anchor:end}.m{text-anchor:middle}\n"
	      ".g{stroke:var(--grid);stroke-width:1}.ax{stroke:var(--dim);stroke-width:1}\n"
	      ".ln{stroke-width:1.8;stroke-linejoin:round}.ds{stroke-dasharray:5 4}\n"
	      ".ar{opacity:.72}.bd{opacity:.16}.hv{fill:transparent}\n"
	      ".hv:hover{fill:var(--text);opacity:.09}\n",
	      f);
}

/* ---- columns and axes ---------------------------------------------------------------------- */

static void cut_columns(struct frame *g)
{
	size_t n = g->c->n;

	g->n = n < COLUMNS ? n : COLUMNS;
	for (size_t i = 0; i < g->n; i++) {
		struct column *k = &g->column[i];

		k->first = i * n / g->n;
		k->end = (i + 1) * n / g->n;
		k->x = (g->c->x[k->first] + g->c->x[k->end - 1]) / 2;
	}
}

struct value {
	double mean, lo, hi;
};

static struct value value_at(const struct frame *g, const struct st_chart_series *s, size_t column)
{
	const struct column *k = &g->column[column];
	struct value v = { NAN, NAN, NAN };
	double sum = 0;
	size_t n = 0;

	for (size_t i = k->first; i < k->end; i++) {
		if (!isfinite(s->y[i]))
			continue;
		sum += s->y[i];
		v.lo = n && v.lo < s->y[i] ? v.lo : s->y[i];
		v.hi = n && v.hi > s->y[i] ? v.hi : s->y[i];
		n++;
	}
	if (n)
		v.mean = s->takes_max ? v.hi : sum / (double)n;
	return v;
}

static bool is_stacked(const struct st_chart_series *s)
{
	return s->kind == ST_CHART_STACK || s->kind == ST_CHART_BARS;
}

/* What a series adds to a stack in a column: of several points their mean, with 0 for those
 * without. */
static double share_at(const struct frame *g, const struct st_chart_series *s, size_t column)
{
	const struct column *k = &g->column[column];
	double sum = 0;

	if (s->takes_max) {
		struct value v = value_at(g, s, column);

		return isfinite(v.hi) ? v.hi : 0;
	}
	for (size_t i = k->first; i < k->end; i++)
		sum += isfinite(s->y[i]) ? s->y[i] : 0;
	return sum / (double)(k->end - k->first);
}

static bool has_value(const struct st_chart *c, const struct st_chart_series *s)
{
	for (size_t i = 0; i < c->n; i++)
		if (isfinite(s->y[i]) && (!is_stacked(s) || s->y[i] != 0))
			return true;
	return false;
}

static double nice_step(double x)
{
	static const double steps[] = { 1, 2, 2.5, 5, 10 };
	double unit = pow(10, floor(log10(x)));

	for (size_t i = 0; i < 5; i++)
		if (steps[i] * unit >= x * (1 - 1e-9))
			return steps[i] * unit;
	return 10 * unit;
}

static void widen(struct frame *g, double y)
{
	if (!isfinite(y))
		return;
	g->y_lo = y < g->y_lo ? y : g->y_lo;
	g->y_hi = y > g->y_hi ? y : g->y_hi;
}

static void find_range(struct frame *g)
{
	const struct st_chart *c = g->c;
	double step;

	g->x_lo = g->column[0].x;
	g->x_hi = g->column[g->n - 1].x;
	g->y_lo = INFINITY;
	g->y_hi = -INFINITY;
	for (size_t k = 0; k < g->n; k++) {
		double stack = 0;

		for (size_t s = 0; s < c->n_series; s++) {
			struct value v = value_at(g, &c->series[s], k);

			if (is_stacked(&c->series[s])) {
				stack += share_at(g, &c->series[s], k);
				widen(g, stack);
				continue;
			}
			widen(g, v.lo);
			widen(g, v.hi);
		}
	}
	if (c->from_zero)
		widen(g, 0);
	if (!(g->y_hi > g->y_lo)) {
		double by = g->y_hi != 0 ? fabs(g->y_hi) / 2 : 1;

		g->y_hi += by;
		g->y_lo -= c->from_zero ? 0 : by;
	}
	step = nice_step((g->y_hi - g->y_lo) / TICKS);
	g->y_lo = floor(g->y_lo / step + 1e-9) * step;
	g->y_hi = ceil(g->y_hi / step - 1e-9) * step;
}

static double y_at(const struct frame *g, double y)
{
	return TOP + (HEIGHT - TOP - BOTTOM) * (g->y_hi - y) / (g->y_hi - g->y_lo);
}

static double column_width(const struct frame *g)
{
	return (g->width - LEFT - RIGHT) / (double)g->n;
}

/* Bars need room at the ends; points at equal distances, as steps are, all the more. */
static double x_at(const struct frame *g, size_t column)
{
	return LEFT + column_width(g) * ((double)column + 0.5);
}

static void put_axes(const struct frame *g)
{
	double step = nice_step((g->y_hi - g->y_lo) / TICKS);
	size_t every = 1;

	for (double y = g->y_lo; y <= g->y_hi + step / 2; y += step) {
		fprintf(g->f,
			"<line class=\"%s\" x1=\"%.0f\" x2=\"%.0f\" y1=\"%.1f\" y2=\"%.1f\"/>"
			"<text class=\"e\" x=\"%.0f\" y=\"%.1f\">%.6g</text>\n",
			y > g->y_lo ? "g" : "ax", LEFT, g->width - RIGHT, y_at(g, y), y_at(g, y),
			LEFT - 6, y_at(g, y) + 4, fabs(y) < step * 1e-6 ? 0 : y);
	}
	while ((double)g->n / (double)every > 8)
		every = (size_t)nice_step((double)every + 1);
	for (size_t k = 0; k < g->n; k += every)
		fprintf(g->f,
			g->c->is_time ? "<text class=\"m\" x=\"%.1f\" y=\"%.0f\">%.3g</text>\n"
				      : "<text class=\"m\" x=\"%.1f\" y=\"%.0f\">%.7g</text>\n",
			x_at(g, k), HEIGHT - BOTTOM + 16, g->column[k].x);
	fprintf(g->f, "<text class=\"e\" x=\"%.0f\" y=\"%.0f\">", g->width - RIGHT, HEIGHT - 6);
	st_html_text(g->f, g->c->x_label);
	fprintf(g->f, "</text><text class=\"m\" transform=\"translate(12 %.0f) rotate(-90)\">",
		(TOP + HEIGHT - BOTTOM) / 2);
	st_html_text(g->f, g->c->y_label);
	fputs("</text>\n", g->f);
}

/* ---- marks --------------------------------------------------------------------------------- */

static void put_band(const struct frame *g, const struct st_chart_series *s)
{
	if (g->n == g->c->n || s->takes_max)
		return; /* each point is drawn */
	for (size_t k = 0; k < g->n; k++) {
		struct value v = value_at(g, s, k);

		if (isfinite(v.lo))
			fprintf(g->f,
				"<rect class=\"bd f%u\" x=\"%.1f\" width=\"%.1f\" y=\"%.1f\" "
				"height=\"%.1f\"/>",
				s->colour, x_at(g, k) - column_width(g) / 2, column_width(g),
				y_at(g, v.hi), y_at(g, v.lo) - y_at(g, v.hi));
	}
	fputc('\n', g->f);
}

static void put_line(const struct frame *g, const struct st_chart_series *s)
{
	bool is_alone = true; /* a point between two that are missing shows as a dot */
	char pen = 'M';

	put_band(g, s);
	fprintf(g->f, "<path class=\"ln l%u%s\" d=\"", s->colour, s->is_dashed ? " ds" : "");
	for (size_t k = 0; k < g->n; k++) {
		double y = value_at(g, s, k).mean;

		if (!isfinite(y)) {
			continue; /* values that come now and then are joined */
		}
		is_alone = pen == 'M';
		fprintf(g->f, "%c%.1f %.1f", pen, x_at(g, k), y_at(g, y));
		pen = 'L';
	}
	fputs("\"/>\n", g->f);
	for (size_t k = 0; is_alone && k < g->n; k++) {
		double y = value_at(g, s, k).mean;

		if (isfinite(y))
			fprintf(g->f, "<circle class=\"f%u\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"/>\n",
				s->colour, x_at(g, k), y_at(g, y));
	}
}

static void put_points(const struct frame *g, const struct st_chart_series *s)
{
	for (size_t k = 0; k < g->n; k++) {
		double y = value_at(g, s, k).mean;

		if (isfinite(y))
			fprintf(g->f, "<circle class=\"f%u\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"/>",
				s->colour, x_at(g, k), y_at(g, y));
	}
	fputc('\n', g->f);
}

static void put_bars(const struct frame *g, const struct st_chart_series *s, double *base)
{
	double w = column_width(g), gap = w > 6 ? w * 0.12 : 0;

	w = w - 2 * gap > 48 ? 48 : w - 2 * gap;
	for (size_t k = 0; k < g->n; k++) {
		double y = share_at(g, s, k);

		if (y > 0)
			fprintf(g->f,
				"<rect class=\"ar f%u\" x=\"%.1f\" width=\"%.1f\" y=\"%.1f\" "
				"height=\"%.1f\"/>",
				s->colour, x_at(g, k) - w / 2, w, y_at(g, base[k] + y),
				y_at(g, base[k]) - y_at(g, base[k] + y));
		base[k] += y;
	}
	fputc('\n', g->f);
}

static void put_area(const struct frame *g, const struct st_chart_series *s, double *base)
{
	char pen = 'M';

	fprintf(g->f, "<path class=\"ar f%u\" d=\"", s->colour);
	for (size_t k = 0; k < g->n; k++, pen = 'L')
		fprintf(g->f, "%c%.1f %.1f", pen, x_at(g, k), y_at(g, base[k] + share_at(g, s, k)));
	for (size_t k = g->n; k-- > 0;)
		fprintf(g->f, "L%.1f %.1f", x_at(g, k), y_at(g, base[k]));
	fputs("Z\"/>\n", g->f);
	for (size_t k = 0; k < g->n; k++)
		base[k] += share_at(g, s, k);
}

static void put_tips(const struct frame *g)
{
	const struct st_chart *c = g->c;

	for (size_t k = 0; k < g->n; k++) {
		const struct column *col = &g->column[k];

		fprintf(g->f,
			"<rect class=\"hv\" x=\"%.1f\" width=\"%.1f\" y=\"%.0f\" height=\"%.0f\">"
			"<title>",
			x_at(g, k) - column_width(g) / 2, column_width(g), TOP,
			HEIGHT - TOP - BOTTOM);
		st_html_text(g->f, c->x_label);
		fprintf(g->f, " %.6g", c->x[col->first]);
		if (col->end - col->first > 1)
			fprintf(g->f, " to %.6g", c->x[col->end - 1]);
		for (size_t s = 0; s < c->n_series; s++) {
			double y = is_stacked(&c->series[s]) ? share_at(g, &c->series[s], k)
							     : value_at(g, &c->series[s], k).mean;

			if (!isfinite(y) || (is_stacked(&c->series[s]) && y == 0))
				continue;
			fputs("\n", g->f);
			st_html_text(g->f, c->series[s].name);
			fprintf(g->f, ": %.5g ", y);
			st_html_text(g->f, c->y_label);
		}
		fputs("</title></rect>", g->f);
	}
	fputc('\n', g->f);
}

static void put_head(const struct frame *g)
{
	const struct st_chart *c = g->c;

	fprintf(g->f, "<figure%s><figcaption>", c->is_wide ? " class=\"wide\"" : "");
	st_html_text(g->f, c->title);
	if (c->note) {
		fputs("<small>", g->f);
		st_html_text(g->f, c->note);
		fputs("</small>", g->f);
	}
	fputs("</figcaption><div class=\"legend\">", g->f);
	for (size_t s = 0; s < c->n_series; s++) {
		if (!has_value(c, &c->series[s]))
			continue;
		fprintf(g->f, "<span><i style=\"background:var(--c%u)\"></i>", c->series[s].colour);
		st_html_text(g->f, c->series[s].name);
		fputs("</span>", g->f);
	}
	fprintf(g->f, "</div>\n<svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"", g->width,
		HEIGHT);
	st_html_text(g->f, c->title);
	fputs("\">\n", g->f);
}

bool st_chart_put(FILE *f, const struct st_chart *c)
{
	struct frame g = { .f = f, .c = c, .width = c->is_wide ? 1160 : 560 };
	double base[COLUMNS] = { 0 };
	bool has_any = false;

	for (size_t s = 0; s < c->n_series; s++)
		has_any |= has_value(c, &c->series[s]);
	if (!c->n || !has_any)
		return false;
	cut_columns(&g);
	find_range(&g);
	put_head(&g);
	put_axes(&g);
	for (size_t s = 0; s < c->n_series; s++) {
		const struct st_chart_series *v = &c->series[s];

		if (!has_value(c, v))
			continue;
		if (v->kind == ST_CHART_STACK)
			put_area(&g, v, base);
		else if (v->kind == ST_CHART_BARS)
			put_bars(&g, v, base);
		else if (v->kind == ST_CHART_LINE)
			put_line(&g, v);
		else
			put_points(&g, v);
	}
	put_tips(&g);
	fputs("</svg></figure>\n", f);
	return true;
}
