/* SPDX-License-Identifier: Apache-2.0 */
/* bench/plot.c - grouped bars and lines as SVG. */
#include "bench/plot.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/chart.h"

#define WIDTH       800.0
#define HEIGHT      440.0
#define LEFT        72.0
#define RIGHT       28.0
#define BOTTOM      62.0
#define LEGEND_STEP 20.0
#define CHAR_WIDTH  6.6 /* of the small text, on average: what a legend needs */
#define TICKS       6.0

/* Okabe and Ito's colours, darker where white shines through. */
static const char *const colours[ST_PLOT_SERIES_MAX] = {
	"#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#8c6d1f", "#444444",
};

struct frame {
	FILE *f;
	const struct st_plot *p;
	double top;              /* of the plot area */
	double y_top, y_step;    /* value at the top; between two ticks */
	double x_first, x_range; /* of a numeric axis */
};

static void label(FILE *f, double x, double y, const char *class, const char *text)
{
	fprintf(f, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\">", x, y, class);
	st_html_text(f, text);
	fputs("</text>\n", f);
}

/* The smallest of 1, 2, 2.5, 5 times a power of ten that is at least x. */
static double nice_step(double x)
{
	static const double steps[] = { 1, 2, 2.5, 5, 10 };
	double unit = pow(10, floor(log10(x)));

	for (size_t i = 0; i < ST_ARRAY_LEN(steps); i++)
		if (steps[i] * unit >= x * (1 - 1e-9))
			return steps[i] * unit;
	return 10 * unit;
}

static double highest(const struct st_plot *p)
{
	double top = p->ref_name && isfinite(p->ref) ? p->ref : 0;

	for (size_t s = 0; s < p->n_series; s++)
		for (size_t i = 0; i < p->n_x; i++) {
			const struct st_plot_series *v = &p->series[s];

			if (isfinite(v->y[i]) && v->y[i] > top)
				top = v->y[i];
			if (v->hi && isfinite(v->hi[i]) && v->hi[i] > top)
				top = v->hi[i];
		}
	return top;
}

static double y_at(const struct frame *g, double y)
{
	double h = HEIGHT - BOTTOM - g->top;

	return HEIGHT - BOTTOM - h * (y > 0 ? y : 0) / g->y_top;
}

static double group_width(const struct frame *g)
{
	return (WIDTH - LEFT - RIGHT) / (double)g->p->n_x;
}

static double x_at(const struct frame *g, size_t i)
{
	double w = WIDTH - LEFT - RIGHT;

	if (g->p->x)
		return LEFT + w * (g->p->x[i] - g->x_first) / g->x_range;
	return LEFT + group_width(g) * ((double)i + 0.5);
}

/* As few digits as the step between two ticks needs. */
static int decimals_for(double step)
{
	int n = 0;

	while (n < 6 && fabs(step * pow(10, n) - round(step * pow(10, n))) > 1e-6)
		n++;
	return n;
}

static void put_head(FILE *f, const struct st_plot *p)
{
	fprintf(f,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" "
		"width=\"%.0f\" "
		"height=\"%.0f\" role=\"img\">\n<title>",
		WIDTH, HEIGHT, WIDTH, HEIGHT);
	st_html_text(f, p->title);
	fputs("</title>\n<style>\n"
	      "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,Helvetica,Arial,"
	      "'DejaVu Sans',sans-serif;font-size:12px;fill:#333}\n"
	      ".t{font-size:17px;font-weight:600;fill:#111}\n"
	      ".s{fill:#666}\n.m{text-anchor:middle}\n.e{text-anchor:end}\n"
	      ".v{text-anchor:middle;font-size:11px;fill:#111}\n"
	      ".g{stroke:#e4e4e4;stroke-width:1}\n.a{stroke:#555;stroke-width:1}\n"
	      ".w{stroke:#222;stroke-width:1.2;fill:none}\n"
	      ".r{stroke:#b00020;stroke-width:1.3;stroke-dasharray:6 4}\n"
	      "</style>\n",
	      f);
	fprintf(f, "<rect width=\"%.0f\" height=\"%.0f\" fill=\"#fff\"/>\n", WIDTH, HEIGHT);
	label(f, LEFT - 48, 30, "t", p->title);
	if (p->subtitle)
		label(f, LEFT - 48, 49, "s", p->subtitle);
}

/* In rows from the left. @return the y below it */
static double put_legend(FILE *f, const struct st_plot *p, double y)
{
	double x = LEFT;

	if (p->n_series < 2)
		return y - LEGEND_STEP / 2;
	for (size_t s = 0; s < p->n_series; s++) {
		double w = 32 + CHAR_WIDTH * (double)strlen(p->series[s].name);

		if (x > LEFT && x + w > WIDTH - RIGHT) {
			x = LEFT;
			y += LEGEND_STEP;
		}
		fprintf(f,
			"<rect x=\"%.1f\" y=\"%.1f\" width=\"12\" height=\"12\" rx=\"2\" "
			"fill=\"%s\"/>\n",
			x, y - 10, colours[s]);
		label(f, x + 18, y, "", p->series[s].name);
		x += w;
	}
	return y + LEGEND_STEP / 2;
}

static void put_y_axis(const struct frame *g)
{
	int decimals = decimals_for(g->y_step);
	char text[32];

	for (double y = 0; y <= g->y_top * (1 + 1e-9); y += g->y_step) {
		fprintf(g->f,
			"<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" class=\"%s\"/>\n",
			LEFT, y_at(g, y), WIDTH - RIGHT, y_at(g, y), y > 0 ? "g" : "a");
		snprintf(text, sizeof(text), "%.*f", decimals, y);
		label(g->f, LEFT - 8, y_at(g, y) + 4, "e", text);
	}
	fprintf(g->f, "<text transform=\"translate(%.1f %.1f) rotate(-90)\" class=\"m\">",
		LEFT - 48, (g->top + HEIGHT - BOTTOM) / 2);
	st_html_text(g->f, g->p->y_label ? g->p->y_label : "");
	fputs("</text>\n", g->f);
}

static void put_x_axis(const struct frame *g)
{
	const struct st_plot *p = g->p;
	double y = HEIGHT - BOTTOM + 20, step;
	size_t every = 1;
	char text[32];

	if (p->x) {
		step = nice_step(g->x_range / TICKS);
		for (double x = ceil(g->x_first / step) * step;
		     x <= (g->x_first + g->x_range) * (1 + 1e-9); x += step) {
			double at = LEFT + (WIDTH - LEFT - RIGHT) * (x - g->x_first) / g->x_range;

			snprintf(text, sizeof(text), "%.*f", decimals_for(step), x);
			label(g->f, at, y, "m", text);
		}
	} else {
		size_t longest = 1;

		for (size_t i = 0; i < p->n_x; i++)
			if (strlen(p->x_names[i]) > longest)
				longest = strlen(p->x_names[i]);
		while ((double)every * group_width(g) < CHAR_WIDTH * (double)(longest + 1) &&
		       every < p->n_x)
			every++;
		for (size_t i = 0; i < p->n_x; i += every)
			label(g->f, x_at(g, i), y, "m", p->x_names[i]);
	}
	if (p->x_label)
		label(g->f, (LEFT + WIDTH - RIGHT) / 2, y + 24, "m", p->x_label);
}

static void put_whisker(const struct frame *g, const struct st_plot_series *v, size_t i, double x)
{
	if (!v->lo || !v->hi || !isfinite(v->lo[i]) || !isfinite(v->hi[i]))
		return;
	fprintf(g->f, "<path d=\"M%.1f %.1fh8m-4 0V%.1fm-4 0h8\" class=\"w\"/>\n", x - 4,
		y_at(g, v->lo[i]), y_at(g, v->hi[i]));
}

static void put_tip(const struct frame *g, const struct st_plot_series *v, size_t i)
{
	fputs("<title>", g->f);
	st_html_text(g->f, v->name);
	fputs(", ", g->f);
	if (g->p->x)
		fprintf(g->f, "%g", g->p->x[i]);
	else
		st_html_text(g->f, g->p->x_names[i]);
	fprintf(g->f, ": %.4g ", v->y[i]);
	st_html_text(g->f, g->p->y_label ? g->p->y_label : "");
	fputs("</title>", g->f);
}

static void put_bars(const struct frame *g)
{
	const struct st_plot *p = g->p;
	double group = group_width(g) * 0.76, w = group / (double)p->n_series;
	char text[32];

	if (w > 64)
		w = 64;
	for (size_t i = 0; i < p->n_x; i++)
		for (size_t s = 0; s < p->n_series; s++) {
			const struct st_plot_series *v = &p->series[s];
			double x = x_at(g, i) + w * ((double)s - (double)p->n_series / 2);
			double y;

			if (!isfinite(v->y[i]))
				continue;
			y = y_at(g, v->y[i]);
			fprintf(g->f,
				"<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" "
				"rx=\"1.5\" fill=\"%s\">",
				x + w * 0.04, y, w * 0.92, HEIGHT - BOTTOM - y, colours[s]);
			put_tip(g, v, i);
			fputs("</rect>\n", g->f);
			put_whisker(g, v, i, x + w / 2);
			if (w < 5 * CHAR_WIDTH)
				continue; /* no room for the figure */
			snprintf(text, sizeof(text), "%.*f", v->y[i] < 10 ? 2 : 1, v->y[i]);
			if (v->hi && isfinite(v->hi[i]))
				y = y_at(g, v->hi[i]);
			label(g->f, x + w / 2, y - 5, "v", text);
		}
}

static void put_lines(const struct frame *g)
{
	const struct st_plot *p = g->p;

	for (size_t s = 0; s < p->n_series; s++) {
		const struct st_plot_series *v = &p->series[s];
		char pen = 'M';

		fprintf(g->f, "<path fill=\"none\" stroke=\"%s\" stroke-width=\"2\" d=\"",
			colours[s]);
		for (size_t i = 0; i < p->n_x; i++) {
			if (isfinite(v->y[i]))
				fprintf(g->f, "%c%.1f %.1f", pen, x_at(g, i), y_at(g, v->y[i]));
			pen = isfinite(v->y[i]) ? 'L' : 'M';
		}
		fputs("\"/>\n", g->f);
		for (size_t i = 0; i < p->n_x; i++) {
			if (!isfinite(v->y[i]))
				continue;
			put_whisker(g, v, i, x_at(g, i));
			fprintf(g->f, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.2\" fill=\"%s\">",
				x_at(g, i), y_at(g, v->y[i]), colours[s]);
			put_tip(g, v, i);
			fputs("</circle>\n", g->f);
		}
	}
}

static void put_ref(const struct frame *g)
{
	double y = y_at(g, g->p->ref);

	if (!g->p->ref_name || !isfinite(g->p->ref))
		return;
	fprintf(g->f, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" class=\"r\"/>\n", LEFT,
		y, WIDTH - RIGHT, y);
	label(g->f, WIDTH - RIGHT, y - 5, "e", g->p->ref_name);
}

static void draw(FILE *f, const struct st_plot *p)
{
	struct frame g = { .f = f, .p = p };
	double top = highest(p);

	put_head(f, p);
	g.top = put_legend(f, p, p->subtitle ? 76 : 58) + 12;
	g.y_step = nice_step((top > 0 ? top : 1) * 1.04 / TICKS);
	g.y_top = ceil((top > 0 ? top : 1) * 1.04 / g.y_step) * g.y_step;
	if (p->x) {
		g.x_first = p->x[0];
		g.x_range = p->x[p->n_x - 1] - p->x[0];
		if (!(g.x_range > 0))
			g.x_range = 1;
	}
	put_y_axis(&g);
	put_x_axis(&g);
	if (p->kind == ST_PLOT_BARS)
		put_bars(&g);
	else
		put_lines(&g);
	put_ref(&g);
	fputs("</svg>\n", f);
}

static int save(const char *path, const char *text, size_t len_bytes)
{
	FILE *f = fopen(path, "we");
	struct stat st;
	int rc = 0;

	if (!f)
		return st_fail(-errno, "%s: open", path);
	if (fwrite(text, 1, len_bytes, f) != len_bytes)
		rc = errno ? -errno : -EIO;
	if (fclose(f) && !rc)
		rc = -errno;
	if (!rc)
		return 0;
	if (!lstat(path, &st) && S_ISREG(st.st_mode)) /* half a figure is none */
		(void)unlink(path);
	return st_fail(rc, "%s: write", path);
}

int st_plot_write(const struct st_plot *p, const char *path)
{
	char *text = NULL;
	size_t len_bytes = 0;
	FILE *f;
	int rc;

	if (!p->n_x || !p->n_series || p->n_series > ST_PLOT_SERIES_MAX ||
	    (!p->x_names && (!p->x || p->kind == ST_PLOT_BARS)))
		return st_fail(-EINVAL, "%s: %zu points of %zu series: nothing that can be drawn.",
			       path, p->n_x, p->n_series);
	f = open_memstream(&text, &len_bytes);
	if (!f)
		return st_fail(-ENOMEM, "%s: figure", path);
	draw(f, p);
	if (fclose(f)) {
		free(text);
		return st_fail(-ENOMEM, "%s: figure", path);
	}
	rc = save(path, text, len_bytes);
	free(text);
	return rc;
}
