/* SPDX-License-Identifier: Apache-2.0 */
/* model/report.c - the page: tables, and the series of its charts. */
#include "model/report.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/hardware.h"
#include "model/chart.h"
#include "model/file.h"
#include "model/output.h"
#include "model/report_log.h"
#include "model/setup.h"

#define HEAD        "<!doctype html>\n<!-- strata report -->\n"
#define COLUMNS_MAX 56u /* of figures, made from the log */
#define PROGRAM_MAX 480u

struct page {
	const struct st_run_report_cfg *cfg;
	FILE *f;
	struct st_run_log log;
	struct st_step_trace trace;
	bool has_trace;
	struct strata_plan *plan; /* or NULL, and why_not says why */
	char why_not[600];
	double *figures; /* [COLUMNS_MAX][n] */
	size_t n_figures;
	const double *steps; /* x of the charts over steps */
};

/* ---- figures ------------------------------------------------------------------------------- */

static double *new_column(struct page *p)
{
	ST_ASSERT(p->n_figures < COLUMNS_MAX);
	return p->figures + p->log.n * p->n_figures++;
}

static double field(const struct st_log_step *s, size_t off)
{
	double v;

	memcpy(&v, (const char *)s + off, sizeof(v));
	return v;
}

static const double *column(struct page *p, size_t off, double scale)
{
	double *v = new_column(p);

	for (size_t i = 0; i < p->log.n; i++)
		v[i] = field(&p->log.steps[i], off) * scale;
	return v;
}
#define COLUMN(p, name, scale) column(p, offsetof(struct st_log_step, name), scale)

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Of the finite ones; NaN: there are none. The first step, which starts cold, counts only when it
 * is alone. */
static double median(struct page *p, const double *v)
{
	double *copy = new_column(p), result = NAN;
	size_t n = 0;

	for (size_t i = p->log.n > 1; i < p->log.n; i++)
		if (isfinite(v[i]))
			copy[n++] = v[i];
	if (n) {
		qsort(copy, n, sizeof(*copy), compare);
		result = n % 2 ? copy[n / 2] : (copy[n / 2 - 1] + copy[n / 2]) / 2;
	}
	p->n_figures--;
	return result;
}

static double last_of(const struct page *p, size_t off)
{
	for (size_t i = p->log.n; i-- > 0;)
		if (isfinite(field(&p->log.steps[i], off)))
			return field(&p->log.steps[i], off);
	return NAN;
}

struct text {
	char s[40];
};

static struct text bytes_text(double x)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	struct text t;
	unsigned u = 0;

	if (!isfinite(x))
		return (struct text){ "not known" };
	while (x >= 1024 && u < 4) {
		x /= 1024;
		u++;
	}
	snprintf(t.s, sizeof(t.s), u ? "%.2f %s" : "%.0f %s", x, units[u]);
	return t;
}

static struct text seconds_text(double s)
{
	struct text t;

	if (!isfinite(s))
		return (struct text){ "not known" };
	if (s < 0.1)
		snprintf(t.s, sizeof(t.s), "%.2f ms", s * 1e3);
	else
		snprintf(t.s, sizeof(t.s), s < 100 ? "%.3g s" : "%.0f s", s);
	return t;
}

static struct text ST_PRINTF(2, 3) number_text(double x, const char *fmt, ...)
{
	struct text t;
	va_list ap;

	if (!isfinite(x))
		return (struct text){ "not known" };
	va_start(ap, fmt);
	vsnprintf(t.s, sizeof(t.s), fmt, ap);
	va_end(ap);
	return t;
}

/* A unit in which the largest of the values has few digits: seconds or milliseconds. */
struct unit {
	const char *name;
	double scale;
};

static struct unit time_unit(double typical_s)
{
	return typical_s < 0.5 ? (struct unit){ "ms", 1e3 } : (struct unit){ "s", 1 };
}

static struct unit bytes_unit(double most)
{
	return most < 1 << 20   ? (struct unit){ "KiB", 0x1p-10 }
	       : most < 1 << 30 ? (struct unit){ "MiB", 0x1p-20 }
				: (struct unit){ "GiB", 0x1p-30 };
}

/* ---- head ---------------------------------------------------------------------------------- */

static void put_style(FILE *f)
{
	fputs("<style>\n:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--edge:#e1e4e8;"
	      "--text:#1b1f24;--dim:#5b6572;--grid:#eceef1}\n"
	      "@media(prefers-color-scheme:dark){:root{--bg:#12161b;--card:#1b2129;"
	      "--edge:#2d3540;--text:#e8ecf1;--dim:#9aa6b4;--grid:#2a323c}}\n"
	      "*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--text);"
	      "font:14px/1.45 system-ui,-apple-system,'Segoe UI',Roboto,Helvetica,Arial,"
	      "'DejaVu Sans',sans-serif}\n"
	      "main{max-width:1240px;margin:0 auto;padding:24px 20px 48px}\n"
	      "h1{font-size:22px;margin:0 0 2px}h2{font-size:16px;margin:28px 0 10px}\n"
	      "p{margin:4px 0;color:var(--dim)}code{font-size:13px}\n"
	      ".tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(130px,1fr));"
	      "gap:10px;margin:18px 0 6px}\n"
	      ".tile{background:var(--card);border:1px solid var(--edge);border-radius:10px;"
	      "padding:10px 14px}.tile b{display:block;font-size:20px;font-weight:600}"
	      ".tile span{color:var(--dim);font-size:12px}\n"
	      ".charts{display:grid;grid-auto-flow:dense;grid-template-columns:repeat(2,minmax(0,"
	      "1fr));gap:12px}\n"
	      "@media(max-width:860px){.charts{grid-template-columns:1fr}}\n"
	      ".card{background:var(--card);border:1px solid var(--edge);border-radius:10px;"
	      "padding:4px 16px 8px;overflow-x:auto}\n"
	      "table{border-collapse:collapse;width:100%}th,td{text-align:right;"
	      "padding:5px 8px;border-bottom:1px solid var(--edge);white-space:nowrap}"
	      "tr:last-child td{border-bottom:0}th{color:var(--dim);font-weight:500}"
	      "th:first-child,td:first-child,.parts td:nth-child(2),.parts th:nth-child(2)"
	      "{text-align:left;white-space:normal}\n",
	      f);
	st_chart_style(f);
	fputs("</style>\n", f);
}

static void put_tile(FILE *f, const char *label, const char *value)
{
	fputs("<div class=\"tile\"><b>", f);
	st_html_text(f, value);
	fputs("</b><span>", f);
	st_html_text(f, label);
	fputs("</span></div>\n", f);
}

static void put_state(struct page *p)
{
	const struct st_run_log *l = &p->log;
	double asked = p->plan ? (double)strata_plan_info(p->plan)->total_steps : NAN;

	fputs("<h1>", p->f);
	st_html_text(p->f, p->cfg->dir);
	fprintf(p->f, "</h1><p>%.0f step%s", l->steps[l->n - 1].step,
		l->steps[l->n - 1].step == 1 ? "" : "s");
	if (isfinite(asked) && asked > 0)
		fprintf(p->f, " of %.0f", asked);
	fputs(l->is_done ? ", done" : ", no end in the log: stopped, killed or still running",
	      p->f);
	if ((double)l->n < l->steps[l->n - 1].step)
		fprintf(p->f, "; %.0f of them are missing in the log",
			l->steps[l->n - 1].step - (double)l->n);
	if (l->n_bad)
		fprintf(p->f, "; %zu line%s of the log could not be read", l->n_bad,
			l->n_bad == 1 ? "" : "s");
	fputs(".</p>\n", p->f);
	if (p->plan) {
		const struct strata_info *i = strata_plan_info(p->plan);

		fprintf(p->f,
			"<p>%.4g M parameters, %llu tokens a step (micro-batch %llu x %llu "
			"sequences of %llu), on ",
			(double)i->n_params * 1e-6, (unsigned long long)i->tokens_per_step,
			(unsigned long long)i->micro_batch, (unsigned long long)i->accum_steps,
			(unsigned long long)i->seq_len);
		st_html_text(p->f, i->device);
		fputs("</p>\n", p->f);
	}
}

static double share_of(const struct page *p, size_t off)
{
	size_t n = 0;

	for (size_t i = 0; i < p->log.n; i++)
		n += *(const bool *)((const char *)&p->log.steps[i] + off);
	return 100.0 * (double)n / (double)p->log.n;
}

static double bound_percent(const struct page *p)
{
	double step = 0, bound = 0;

	for (size_t i = 0; i < p->log.n; i++)
		if (p->log.steps[i].has_lanes) {
			step += p->log.steps[i].step_s;
			bound += p->log.steps[i].bound_s;
		}
	return step > 0 ? 100 * bound / step : NAN;
}

static void put_tiles(struct page *p)
{
	double val = last_of(p, offsetof(struct st_log_step, val_loss));
	double loss = last_of(p, offsetof(struct st_log_step, loss));
	double step_s = median(p, COLUMN(p, step_s, 1)), bound = bound_percent(p);
	double tokens = median(p, COLUMN(p, tokens_per_s, 1));
	double clipped = share_of(p, offsetof(struct st_log_step, clipped));
	double back = share_of(p, offsetof(struct st_log_step, rolled_back));
	double skipped = share_of(p, offsetof(struct st_log_step, skipped));

	fputs("<div class=\"tiles\">\n", p->f);
	put_tile(p->f, "loss, last step (nats)", number_text(loss, "%.4f", loss).s);
	if (isfinite(val))
		put_tile(p->f, "validation loss (nats)", number_text(val, "%.4f", val).s);
	put_tile(p->f, "step, median", seconds_text(step_s).s);
	put_tile(p->f, "of the bound's speed", number_text(bound, "%.1f %%", bound).s);
	put_tile(p->f, "tokens/s, median", number_text(tokens, "%.4g", tokens).s);
	put_tile(p->f, "steps that clipped", number_text(clipped, "%.1f %%", clipped).s);
	put_tile(p->f, "steps rolled back", number_text(back, "%.1f %%", back).s);
	if (skipped > 0)
		put_tile(p->f, "steps skipped (fp16 overflow)",
			 number_text(skipped, "%.1f %%", skipped).s);
	if (isfinite(p->log.peak_rss_bytes))
		put_tile(p->f, "resident at the peak", bytes_text(p->log.peak_rss_bytes).s);
	fputs("</div>\n", p->f);
}

/* ---- charts over steps --------------------------------------------------------------------- */

static void put_steps_chart(struct page *p, const char *title, const char *note, const char *unit,
			    const struct st_chart_series *series, size_t n, bool from_zero,
			    bool is_wide)
{
	const struct st_chart c = {
		.title = title,
		.note = note,
		.x_label = "step",
		.y_label = unit,
		.x = p->steps,
		.n = p->log.n,
		.series = series,
		.n_series = n,
		.from_zero = from_zero,
		.is_wide = is_wide,
	};

	(void)st_chart_put(p->f, &c);
}

static const double *level(struct page *p, double y)
{
	double *v = new_column(p);

	for (size_t i = 0; i < p->log.n; i++)
		v[i] = y;
	return v;
}

static void put_learning(struct page *p)
{
	const struct st_chart_series loss[] = {
		{ "loss of the step", ST_CHART_LINE, 0, COLUMN(p, loss, 1), false, false },
		{ "validation loss", ST_CHART_LINE, 1, COLUMN(p, val_loss, 1), false, false },
	};
	const struct st_chart_series lr = { "learning rate",  ST_CHART_LINE, 2,
					    COLUMN(p, lr, 1), false,         false };
	double clip = p->plan ? st_planner_setup(p->plan)->cfg->gradient_clipping : 0;
	double *clipped = new_column(p);
	struct st_chart_series norm[3] = {
		{ "norm before clipping", ST_CHART_LINE, 0, COLUMN(p, grad_norm, 1), false, false },
		{ "clipped", ST_CHART_POINTS, 9, clipped, false, false },
		{ "limit", ST_CHART_LINE, 8, level(p, clip > 0 ? clip : NAN), true, false },
	};

	for (size_t i = 0; i < p->log.n; i++)
		clipped[i] = p->log.steps[i].clipped ? p->log.steps[i].grad_norm : NAN;
	put_steps_chart(p, "Loss", "mean over the tokens of a step", "nats", loss, 2, false, true);
	put_steps_chart(p, "Gradient norm", NULL, "norm", norm, 3, true, false);
	put_steps_chart(p, "Learning rate", NULL, "rate", &lr, 1, true, false);
}

static const double *steps_limited_by(struct page *p, const char *lane, double scale)
{
	double *v = new_column(p);

	for (size_t i = 0; i < p->log.n; i++)
		v[i] = !strcmp(p->log.steps[i].limiting, lane) ? p->log.steps[i].step_s * scale
							       : NAN;
	return v;
}

/* The planned step, where it would not dwarf what was measured (the table has it either way). */
static double shown_plan(const struct page *p)
{
	const struct strata_plan_time *t = p->plan ? strata_plan_time(p->plan) : NULL;
	double most = 0;

	for (size_t i = 0; i < p->log.n; i++)
		most = fmax(most, p->log.steps[i].step_s);
	return t && t->step_s < 2 * most ? t->step_s : NAN;
}

static void put_time(struct page *p)
{
	struct unit u = time_unit(median(p, COLUMN(p, step_s, 1)));
	double *waits = new_column(p), *updates = new_column(p);
	const struct st_chart_series limits[] = {
		{ "compute limits", ST_CHART_BARS, 0, steps_limited_by(p, "compute", u.scale),
		  false, false },
		{ "nvme-read limits", ST_CHART_BARS, 2, steps_limited_by(p, "nvme-read", u.scale),
		  false, false },
		{ "nvme-write limits", ST_CHART_BARS, 4, steps_limited_by(p, "nvme-write", u.scale),
		  false, false },
		{ "checksum limits", ST_CHART_BARS, 3, steps_limited_by(p, "checksum", u.scale),
		  false, false },
		{ "h2d limits", ST_CHART_BARS, 5, steps_limited_by(p, "h2d", u.scale), false,
		  false },
		{ "d2h limits", ST_CHART_BARS, 6, steps_limited_by(p, "d2h", u.scale), false,
		  false },
		{ "optimizer limits", ST_CHART_BARS, 1, steps_limited_by(p, "optimizer", u.scale),
		  false, false },
		{ "limit not known", ST_CHART_BARS, 8, steps_limited_by(p, "", u.scale), false,
		  false },
		{ "bound", ST_CHART_LINE, 9, COLUMN(p, bound_s, u.scale), false, false },
		{ "planned", ST_CHART_LINE, 7, level(p, shown_plan(p) * u.scale), true, false },
	};
	const struct st_chart_series parts[] = {
		{ "forward", ST_CHART_BARS, 0, COLUMN(p, forward_s, u.scale), false, false },
		{ "backward", ST_CHART_BARS, 1, COLUMN(p, backward_s, u.scale), false, false },
		{ "round and sum gradients", ST_CHART_BARS, 3, COLUMN(p, reduce_s, u.scale), false,
		  false },
		{ "optimizer", ST_CHART_BARS, 2, updates, false, false },
		{ "compute waits", ST_CHART_BARS, 8, waits, false, false },
	};
	const struct st_chart_series beside[] = {
		{ "copies to the device", ST_CHART_LINE, 5, COLUMN(p, h2d_s, u.scale), false,
		  false },
		{ "copies to the host", ST_CHART_LINE, 6, COLUMN(p, d2h_s, u.scale), false, false },
		{ "optimizer on the host", ST_CHART_LINE, 2, COLUMN(p, optimizer_s, u.scale), false,
		  false },
	};

	for (size_t i = 0; i < p->log.n; i++) {
		const struct st_log_step *s = &p->log.steps[i];
		double host_s = isfinite(s->optimizer_s) ? s->optimizer_s : 0;

		waits[i] =
			isfinite(s->compute_s) ? fmax(0, s->step_s - s->compute_s) * u.scale : NAN;
		updates[i] = isfinite(s->update_s) ? fmax(0, s->update_s - host_s) * u.scale : NAN;
	}
	put_steps_chart(p, "Step time, by the lane that limits",
			"bound: the busiest lane's work, at the rates of the same step", u.name,
			limits, ST_ARRAY_LEN(limits), true, true);
	put_steps_chart(p, "What compute did", NULL, u.name, parts, ST_ARRAY_LEN(parts), true,
			false);
	put_steps_chart(p, "Beside compute", "busy time of the other lanes of a device", u.name,
			beside, ST_ARRAY_LEN(beside), true, false);
}

static const double *rate(struct page *p, size_t off, size_t other)
{
	double *v = new_column(p);

	for (size_t i = 0; i < p->log.n; i++) {
		const struct st_log_step *s = &p->log.steps[i];

		v[i] = (field(s, off) + (other ? field(s, other) : 0)) / s->step_s * 1e-9;
	}
	return v;
}

/* Memory traffic of the fused update: all of a parameter in, all but its gradient out. */
static double update_bytes(const struct page *p)
{
	const struct st_plan *plan = p->plan ? st_planner_setup(p->plan)->plan : NULL;
	double sum = 0;

	for (uint32_t t = 0; plan && t < plan->layout->n_tiles; t++)
		sum += 2.0 * (double)(st_tile_param_bytes(plan->layout, t) +
				      st_tile_state_bytes(plan->layout, t)) +
		       (double)st_tile_grad_bytes(plan->layout, t);
	return sum;
}

static void put_bandwidth(struct page *p)
{
	const size_t read = offsetof(struct st_log_step, read_bytes);
	const size_t write = offsetof(struct st_log_step, write_bytes);
	const struct st_chart_series nvme[] = {
		{ "read", ST_CHART_STACK, 5, rate(p, read, 0), false, false },
		{ "written", ST_CHART_STACK, 4, rate(p, write, 0), false, false },
		{ "drives under load: the bound", ST_CHART_LINE, 9,
		  COLUMN(p, loaded_bytes_per_s, 1e-9), false, false },
	};
	double *v = new_column(p), bytes = update_bytes(p);
	const struct st_chart_series memory = {
		"read and written by the optimizer", ST_CHART_LINE, 2, v, false, false
	};

	for (size_t i = 0; i < p->log.n; i++)
		v[i] = bytes > 0 && p->log.steps[i].update_s > 0
			       ? bytes / p->log.steps[i].update_s * 1e-9
			       : NAN;
	put_steps_chart(p, "NVMe bandwidth",
			"mean over the step, against what the drives did "
			"while enough requests were in flight",
			"GB/s", nvme, 3, true, false);
	put_steps_chart(p, "Host memory bandwidth", "while parameters are updated", "GB/s", &memory,
			1, true, false);
}

static void put_modes(struct page *p)
{
	double *plain = new_column(p), *kept = new_column(p), *back = new_column(p);
	const struct st_chart_series modes[] = {
		{ "nothing on speculation", ST_CHART_BARS, 8, plain, false, false },
		{ "speculation held", ST_CHART_BARS, 2, kept, false, false },
		{ "rolled back", ST_CHART_BARS, 9, back, false, false },
	};
	bool has_any = false;

	for (size_t i = 0; i < p->log.n; i++) {
		const struct st_log_step *s = &p->log.steps[i];

		plain[i] = s->speculated ? NAN : 100;
		kept[i] = s->speculated && !s->rolled_back ? 100 : NAN;
		back[i] = s->rolled_back ? 100 : NAN;
		has_any |= s->speculated;
	}
	if (has_any)
		put_steps_chart(p, "Speculation and rollbacks", NULL, "% of steps", modes, 3, true,
				false);
}

/* ---- memory over a step -------------------------------------------------------------------- */

static void put_tier_trace(struct page *p, unsigned a)
{
	static const char *const titles[] = { "Device memory", "Host memory" };
	const struct st_trace_tier *tier = &p->trace.tiers[a];
	struct st_chart_series series[ST_TRACE_SERIES];
	double x[ST_TRACE_COLUMNS], most = 0;
	double y[ST_TRACE_SERIES][ST_TRACE_COLUMNS];
	struct unit u, t = time_unit(p->trace.dur_us * 1e-6);
	char title[96], label[32];
	struct st_chart c;

	for (unsigned k = 0; k < ST_TRACE_COLUMNS; k++) {
		double sum = 0;

		x[k] = p->trace.dur_us * 1e-6 * t.scale * (k + 0.5) / ST_TRACE_COLUMNS;
		for (unsigned s = 0; s < tier->n_names; s++)
			sum += tier->bytes[s][k];
		most = sum > most ? sum : most;
	}
	u = bytes_unit(most);
	for (unsigned s = 0; s < tier->n_names; s++) {
		for (unsigned k = 0; k < ST_TRACE_COLUMNS; k++)
			y[s][k] = tier->bytes[s][k] * u.scale;
		series[s] = (struct st_chart_series){ tier->names[s], ST_CHART_STACK, s,
						      y[s],           false,          true };
	}
	snprintf(title, sizeof(title), "%s during step %.0f", titles[a], p->trace.step);
	snprintf(label, sizeof(label), "%s into the step", t.name);
	c = (struct st_chart){
		.title = title,
		.note = "reserved bytes by pool, from the trace",
		.x_label = label,
		.y_label = u.name,
		.x = x,
		.n = ST_TRACE_COLUMNS,
		.series = series,
		.n_series = tier->n_names,
		.from_zero = true,
		.is_time = true,
	};
	(void)st_chart_put(p->f, &c);
}

/* Bytes claimed in each pool while the operations at a column run, one after the other. */
static void claim_bytes(const struct st_program *prog, double (*y)[PROGRAM_MAX], uint32_t n)
{
	for (uint32_t k = 0; k < n; k++) {
		uint32_t first = (uint32_t)((uint64_t)k * prog->n_ops / n);
		uint32_t end = (uint32_t)((uint64_t)(k + 1) * prog->n_ops / n);

		for (uint32_t c = 0; c < prog->n_claims; c++)
			if (prog->claims[c].first_op < end && prog->claims[c].last_op >= first)
				y[prog->claims[c].pool][k] += (double)prog->claims[c].bytes;
	}
}

static void put_tier_plan(struct page *p, const struct st_plan *plan, unsigned a,
			  double (*y)[PROGRAM_MAX], uint32_t n)
{
	static const char *const titles[] = { "Device memory over a step",
					      "Host memory over a step" };
	struct st_chart_series series[ST_POOL_N + 1];
	double x[PROGRAM_MAX], resident[PROGRAM_MAX];
	struct unit u = bytes_unit((double)plan->arena_bytes[a]);
	struct st_chart c = {
		.title = titles[a],
		.note = "bytes in use, as the plan's program runs one operation after the other; "
			"a trace (strata train --trace) shows them over time",
		.x_label = "operation of the program",
		.y_label = u.name,
		.x = x,
		.n = n,
		.series = series,
		.from_zero = true,
	};

	for (uint32_t k = 0; k < n; k++) {
		x[k] = (double)((uint64_t)k * st_plan_steady(plan)->n_ops / n);
		resident[k] = (double)plan->resident_bytes[a] * u.scale;
	}
	series[c.n_series++] =
		(struct st_chart_series){ "resident", ST_CHART_STACK, 8, resident, false, true };
	for (unsigned pool = 0; pool < ST_POOL_N; pool++) {
		if (plan->places[pool].arena != a)
			continue;
		for (uint32_t k = 0; k < n; k++)
			y[pool][k] *= u.scale;
		series[c.n_series++] = (struct st_chart_series){
			st_pool_name(pool), ST_CHART_STACK, pool, y[pool], false, true
		};
	}
	(void)st_chart_put(p->f, &c);
}

static int put_occupancy(struct page *p)
{
	const struct st_plan *plan = p->plan ? st_planner_setup(p->plan)->plan : NULL;
	double(*y)[PROGRAM_MAX];
	uint32_t n;

	if (p->has_trace) {
		put_tier_trace(p, 0);
		put_tier_trace(p, 1);
		return 0;
	}
	if (!plan)
		return 0;
	y = calloc(ST_POOL_N, sizeof(*y));
	if (!y)
		return st_fail(-ENOMEM, "report");
	n = st_plan_steady(plan)->n_ops < PROGRAM_MAX ? st_plan_steady(plan)->n_ops : PROGRAM_MAX;
	claim_bytes(st_plan_steady(plan), y, n);
	for (unsigned a = 0; a < ST_ARENA_N; a++)
		if (plan->arena_bytes[a])
			put_tier_plan(p, plan, a, y, n);
	free(y);
	return 0;
}

/* ---- the lanes during a step --------------------------------------------------------------- */

static unsigned colour_of(const char *name)
{
	static const struct {
		const char *name;
		unsigned colour;
	} known[] = {
		{ "forward", 0 },     { "backward", 1 },    { "update", 2 },
		{ "update-rows", 2 }, { "read-state", 2 },  { "write-state", 2 },
		{ "reduce", 3 },      { "read-grad", 3 },   { "write-grad", 3 },
		{ "read-param", 5 },  { "write-param", 5 }, { "read-rows", 6 },
		{ "commit", 9 },      { "step", 7 },
	};

	for (size_t i = 0; i < ST_ARRAY_LEN(known); i++)
		if (!strcmp(known[i].name, name))
			return known[i].colour;
	return 8;
}

/* What took most of a column, and how much was busy in all. */
static unsigned dominant(const struct st_step_trace *t, unsigned row, unsigned column, double *busy)
{
	unsigned best = 0;

	*busy = 0;
	for (unsigned i = 0; i < t->n_names; i++) {
		*busy += (double)t->busy[row][column][i];
		if (t->busy[row][column][i] > t->busy[row][column][best])
			best = i;
	}
	return best;
}

static void put_lane(struct page *p, unsigned row, double y, double height)
{
	const struct st_step_trace *t = &p->trace;
	const double left = 96, width = (1160 - left - 50) / ST_TRACE_COLUMNS;
	double total = 0, busy;

	fprintf(p->f, "<text class=\"e\" x=\"%.0f\" y=\"%.1f\">", left - 6, y + height / 2 + 4);
	st_html_text(p->f, t->rows[row]);
	fprintf(p->f,
		"</text><rect style=\"fill:var(--grid)\" x=\"%.0f\" y=\"%.1f\" width=\"%.1f\" "
		"height=\"%.1f\"/>\n",
		left, y, width * ST_TRACE_COLUMNS, height);
	for (unsigned k = 0; k < ST_TRACE_COLUMNS; k++) {
		unsigned i = dominant(t, row, k, &busy);

		busy = busy < 1 ? busy : 1;
		total += busy / ST_TRACE_COLUMNS;
		if (busy < 0.005)
			continue;
		fprintf(p->f,
			"<rect class=\"f%u\" opacity=\"%.2f\" x=\"%.1f\" width=\"%.2f\" y=\"%.1f\" "
			"height=\"%.1f\"><title>",
			colour_of(t->names[i]), 0.25 + 0.75 * busy, left + k * width, width + 0.05,
			y, height);
		st_html_text(p->f, t->names[i]);
		fprintf(p->f, ", %.0f %% busy at %s</title></rect>", 100 * busy,
			seconds_text(t->dur_us * 1e-6 * (k + 0.5) / ST_TRACE_COLUMNS).s);
	}
	fprintf(p->f, "<text class=\"e\" x=\"1152\" y=\"%.1f\">%.0f %%</text>\n",
		y + height / 2 + 4, 100 * total);
}

static void put_lanes(struct page *p)
{
	const struct st_step_trace *t = &p->trace;
	const double height = 24, gap = 6;
	unsigned n = 0;

	if (!p->has_trace)
		return;
	for (unsigned r = 0; r < ST_TRACE_NAMES; r++)
		n += t->rows[r][0] && strcmp(t->rows[r], "step") != 0;
	fprintf(p->f,
		"<figure class=\"wide\"><figcaption>Lanes during step %.0f<small>%s in all, from "
		"the trace; colour: what took most of that moment, strength: how busy</small>"
		"</figcaption><div class=\"legend\">",
		t->step, seconds_text(t->dur_us * 1e-6).s);
	for (unsigned i = 0; i < t->n_names; i++)
		if (strcmp(t->names[i], "step") != 0) {
			fprintf(p->f, "<span><i style=\"background:var(--c%u)\"></i>",
				colour_of(t->names[i]));
			st_html_text(p->f, t->names[i]);
			fputs("</span>", p->f);
		}
	fprintf(p->f, "</div>\n<svg viewBox=\"0 0 1160 %.0f\" role=\"img\" aria-label=\"lanes\">\n",
		n * (height + gap) + 8);
	n = 0;
	for (unsigned r = 0; r < ST_TRACE_NAMES; r++)
		if (t->rows[r][0] && strcmp(t->rows[r], "step") != 0)
			put_lane(p, r, 4 + n++ * (height + gap), height);
	fputs("</svg></figure>\n", p->f);
}

/* ---- tables -------------------------------------------------------------------------------- */

static void put_row(FILE *f, const char *what, struct text planned, struct text measured,
		    double ratio)
{
	fputs("<tr><td>", f);
	st_html_text(f, what);
	fputs("</td><td>", f);
	st_html_text(f, planned.s);
	fputs("</td><td>", f);
	st_html_text(f, measured.s);
	fprintf(f, "</td><td>%s</td></tr>\n",
		isfinite(ratio) && ratio > 0 ? number_text(ratio, "%.3f", ratio).s : "");
}

static void put_comparison(struct page *p)
{
	const struct strata_plan_time *t = strata_plan_time(p->plan);
	double step_s = median(p, COLUMN(p, step_s, 1)), bound_s = median(p, COLUMN(p, bound_s, 1));
	double read = median(p, COLUMN(p, read_bytes, 1));
	double written = median(p, COLUMN(p, write_bytes, 1));
	uint64_t plan_read, plan_written;
	size_t n;
	const struct strata_tier *tier = strata_plan_tiers(p->plan, &n);

	strata_plan_bytes_per_step(p->plan, &plan_read, &plan_written);
	fputs("<h2>The plan and the measurement</h2><div class=\"card\"><table><tr><th></th>"
	      "<th>planned</th><th>measured, median</th><th>measured / planned</th></tr>\n",
	      p->f);
	if (t) {
		struct text none = { "" }, limiting;

		put_row(p->f, "step", seconds_text(t->step_s), seconds_text(step_s),
			step_s / t->step_s);
		put_row(p->f, "bound", seconds_text(t->bound_s), seconds_text(bound_s),
			bound_s / t->bound_s);
		snprintf(limiting.s, sizeof(limiting.s), "%s", t->limiting_lane);
		snprintf(none.s, sizeof(none.s), "%s", p->log.steps[p->log.n - 1].limiting);
		put_row(p->f, "limiting lane (measured: last step)", limiting, none, NAN);
	}
	put_row(p->f, "NVMe read in a step", bytes_text((double)plan_read), bytes_text(read),
		read / (double)plan_read);
	put_row(p->f, "NVMe written in a step", bytes_text((double)plan_written),
		bytes_text(written), written / (double)plan_written);
	for (size_t i = 0; i < n; i++) {
		char what[64];

		snprintf(what, sizeof(what), "%s, reserved", tier[i].name);
		put_row(p->f, what, bytes_text((double)tier[i].peak_bytes), (struct text){ "" },
			NAN);
	}
	put_row(p->f, "resident at the peak, whole process (planned: its arenas)",
		bytes_text((double)(tier[0].peak_bytes + tier[1].peak_bytes)),
		bytes_text(p->log.peak_rss_bytes), NAN);
	fputs("</table>\n", p->f);
	if (t) {
		fputs("<p>Planned times: rates of ", p->f);
		st_html_text(p->f, t->hardware);
		if (*t->measured)
			fprintf(p->f, ", %s", t->measured);
		if (*t->nominal) {
			fputs("; the drives' are nominal: ", p->f);
			st_html_text(p->f, t->nominal);
		}
		fputs(".</p>", p->f);
	} else {
		fputs("<p>No times are planned: this machine's rates are not known for this run's "
		      "shapes. <code>strata plan RUN/strata.json</code> measures and keeps "
		      "them.</p>",
		      p->f);
	}
	fputs("</div>\n", p->f);
}

static void put_modes_table(struct page *p)
{
	char line[1024];

	fputs("<h2>What lives where, and when it is updated</h2><div class=\"card\">\n", p->f);
	for (size_t i = 0; strata_plan_line(p->plan, "summary", i, line, sizeof(line)); i++) {
		fputs("<p>", p->f);
		st_html_text(p->f, line);
		fputs("</p>\n", p->f);
	}
	fputs("</div>\n<div class=\"card\" style=\"margin-top:12px\"><table "
	      "class=\"parts\"><tr><th>tier</th>"
	      "<th>part</th><th>bytes</th></tr>\n",
	      p->f);
	{
		size_t n;
		const struct strata_plan_part *part = strata_plan_parts(p->plan, &n);

		for (size_t i = 0; i < n; i++) {
			fprintf(p->f, "<tr><td>%s</td><td>", part[i].tier);
			st_html_text(p->f, part[i].what);
			fprintf(p->f, "</td><td>%s</td></tr>\n",
				bytes_text((double)part[i].bytes).s);
		}
	}
	fputs("</table></div>\n", p->f);
}

/* ---- the page ------------------------------------------------------------------------------ */

static int put_page(struct page *p)
{
	int rc;

	fputs(HEAD "<html lang=\"en\"><head><meta charset=\"utf-8\">"
		   "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">"
		   "<title>",
	      p->f);
	st_html_text(p->f, p->cfg->dir);
	fputs(" - strata</title>\n", p->f);
	put_style(p->f);
	fputs("</head><body><main>\n", p->f);
	put_state(p);
	put_tiles(p);
	fputs("<h2>Learning</h2><div class=\"charts\">\n", p->f);
	put_learning(p);
	fputs("</div><h2>Speed</h2><div class=\"charts\">\n", p->f);
	put_time(p);
	put_bandwidth(p);
	put_modes(p);
	put_lanes(p);
	rc = put_occupancy(p);
	fputs("</div>\n", p->f);
	if (p->plan) {
		put_comparison(p);
		put_modes_table(p);
	} else {
		fputs("<h2>The plan</h2><div class=\"card\"><p>It could not be made again: ", p->f);
		st_html_text(p->f, p->why_not);
		fputs("</p></div>\n", p->f);
	}
	fputs("</main></body></html>\n", p->f);
	return rc;
}

static void open_plan(struct page *p)
{
	char config[4096];
	const struct strata_options opt = {
		.struct_bytes = sizeof(opt),
		.output = p->cfg->dir,
	};
	const struct strata_plan_options how = {
		.struct_bytes = sizeof(how),
		.hardware = p->cfg->hardware,
		.measure = STRATA_MEASURE_KEPT,
	};

	if (st_output_path(config, sizeof(config), p->cfg->dir, "strata.json") ||
	    strata_plan_open(&p->plan, config, &opt, &how))
		snprintf(p->why_not, sizeof(p->why_not), "%s", strata_last_error());
}

static int read_trace(struct page *p)
{
	char path[4096];
	int rc;

	if (p->cfg->trace) {
		rc = st_step_trace_read(&p->trace, p->cfg->trace);
		if (!rc)
			return st_fail(STRATA_E_INPUT, "trace %s: holds no whole step",
				       p->cfg->trace);
	} else {
		rc = st_output_path(path, sizeof(path), p->cfg->dir, "trace.json");
		if (rc || access(path, F_OK))
			return rc;
		rc = st_step_trace_read(&p->trace, path);
	}
	p->has_trace = rc > 0;
	return rc < 0 ? rc : 0;
}

static int read_run(struct page *p)
{
	char path[4096];
	int rc = st_output_path(path, sizeof(path), p->cfg->dir, "log.jsonl");

	if (rc)
		return rc;
	if (access(path, F_OK))
		return st_fail(STRATA_E_INPUT,
			       "%s is no run: it has no log.jsonl; name the directory that was "
			       "strata.output",
			       p->cfg->dir);
	rc = st_run_log_read(&p->log, path);
	if (rc)
		return rc;
	p->figures = calloc(p->log.n, COLUMNS_MAX * sizeof(*p->figures));
	if (!p->figures)
		return st_fail(-ENOMEM, "report");
	p->steps = COLUMN(p, step, 1);
	return read_trace(p);
}

/* Only a page of ours is replaced. */
static int check_target(const char *path)
{
	char head[sizeof(HEAD) - 1];
	FILE *f = fopen(path, "re");
	size_t n;

	if (!f)
		return errno == ENOENT
			       ? 0
			       : st_fail(STRATA_E_INPUT, "%s: %s", path, strata_strerror(-errno));
	n = fread(head, 1, sizeof(head), f);
	fclose(f);
	return n == sizeof(head) && !memcmp(head, HEAD, n)
		       ? 0
		       : st_fail(STRATA_E_INPUT,
				 "%s is there already and is no report; move it away, or choose "
				 "another --output",
				 path);
}

static int save(const char *path, const char *text, size_t len_bytes)
{
	struct st_outfile out;
	int rc = st_outfile_open(&out, path, 0);

	if (rc)
		return rc;
	rc = st_outfile_write(&out, text, len_bytes);
	if (rc) {
		st_outfile_abort(&out);
		return rc;
	}
	return st_outfile_commit(&out);
}

int st_run_report(const struct st_run_report_cfg *cfg, char *path, size_t path_bytes)
{
	struct page *p = calloc(1, sizeof(*p));
	char target[4096], *text = NULL;
	size_t len_bytes = 0;
	int rc, n;

	if (!p)
		return st_fail(-ENOMEM, "report");
	p->cfg = cfg;
	n = snprintf(target, sizeof(target), "%s%s", cfg->output ? cfg->output : cfg->dir,
		     cfg->output ? "" : "/report.html");
	rc = n > 0 && (size_t)n < sizeof(target)
		     ? read_run(p)
		     : st_fail(STRATA_E_INPUT, "%s: the path is too long", cfg->dir);
	if (!rc)
		rc = check_target(target);
	if (!rc && cfg->hardware) {
		struct st_hardware hw; /* a description that is wrong is an error, not a gap */

		st_hardware_default(&hw);
		rc = st_hardware_load(&hw, cfg->hardware);
	}
	if (rc)
		goto out;
	open_plan(p);
	p->f = open_memstream(&text, &len_bytes);
	rc = p->f ? put_page(p) : st_fail(-ENOMEM, "report");
	if (p->f && fclose(p->f) && !rc)
		rc = st_fail(-ENOMEM, "report");
	if (!rc)
		rc = save(target, text, len_bytes);
	if (!rc && path)
		snprintf(path, path_bytes, "%s", target);
out:
	free(text);
	free(p->figures);
	if (p->has_trace)
		st_step_trace_free(&p->trace);
	st_run_log_free(&p->log);
	strata_plan_close(p->plan);
	free(p);
	return rc;
}
