/* SPDX-License-Identifier: Apache-2.0 */
/* cli/progress.c - the bar, the lines and the JSON of a run. */
#include "cli/progress.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bar.h"
#include "cli/print.h"
#include "core/clock.h"

#define REDRAW_NS    100000000 /* at most ten frames a second */
#define PART_JSON_NS 1000000000
#define PART_LINE_NS 10000000000
#define FORGET       0.9 /* the bar's rates: a step counts 0.9 of the one after it */

const char *const st_progress_names[] = { "auto", "bar", "line", "json", "none", NULL };

/* Sums over some steps, from which rates are made. */
struct sums {
	double steps, ns, wait_ns, bound_ns, read_bytes, write_bytes, skipped;
};

struct st_progress {
	enum st_progress_mode mode; /* not AUTO */
	bool is_utf8, is_drawn, has_begun, has_step;
	struct strata_info info;
	struct strata_metrics last;
	struct sums recent;   /* the bar's, older steps fading */
	struct sums interval; /* since the last line */
	uint64_t first_step;  /* of this process */
	int64_t drawn_ns, begun_ns, step_end_ns;
	struct part { /* what goes on beside steps; total 0: nothing */
		const char *what;
		uint64_t done, total;
		int64_t begun_ns, said_ns;
	} part;
	uint64_t n_skipped; /* steps of this process */
	pthread_mutex_t lock;
};

/* ---- terminal ------------------------------------------------------------------------------ */

/* Take the bar off the screen, so that a line can stand in its place. */
static void erase(struct st_progress *p)
{
	if (p->is_drawn)
		fputs("\r\033[K", stderr);
	p->is_drawn = false;
}

/* ---- rates --------------------------------------------------------------------------------- */

static void add_step(struct sums *s, const struct strata_metrics *m, double keep)
{
	s->steps = s->steps * keep + 1;
	s->ns = s->ns * keep + (double)m->step_ns;
	s->wait_ns = s->wait_ns * keep + (double)m->compute_wait_ns;
	s->bound_ns = s->bound_ns * keep + m->bound_s * 1e9;
	s->read_bytes = s->read_bytes * keep + (double)m->nvme_read_bytes;
	s->write_bytes = s->write_bytes * keep + (double)m->nvme_write_bytes;
	s->skipped = s->skipped * keep + m->skipped;
}

static double wait_percent(const struct sums *s)
{
	return s->ns > 0 ? 100 * s->wait_ns / s->ns : 0;
}

/* Of the bound's speed. */
static double bound_percent(const struct sums *s)
{
	return s->ns > 0 ? 100 * s->bound_ns / s->ns : 0;
}

static double tokens_per_s(const struct st_progress *p, const struct sums *s)
{
	return s->ns > 0 ? (double)p->info.tokens_per_step * s->steps / (s->ns * 1e-9) : 0;
}

/* bytes per ns are GB/s */
static double gbps(double bytes, const struct sums *s)
{
	return s->ns > 0 ? bytes / s->ns : 0;
}

static double eta_s(const struct st_progress *p)
{
	const struct sums *s = &p->recent;
	double left_ns;

	if (s->steps <= 0)
		return NAN;
	left_ns = (double)(p->last.total_steps - p->last.step) * s->ns / s->steps;
	left_ns -= (double)(st_now_ns() - p->step_end_ns); /* a long step counts down as well */
	return left_ns > 0 ? left_ns * 1e-9 : 0;
}

/* ---- bar ----------------------------------------------------------------------------------- */

/*
 * The figures right of the bar, the most wanted first: what does not fit is left out from the end.
 * @param is_long  in, with units, for wide terminals
 * @return columns used
 */
static size_t figures(const struct st_progress *p, bool is_long, size_t room, char *out,
		      size_t out_bytes)
{
	const struct strata_metrics *m = &p->last;
	const struct sums *s = &p->recent;
	char part[10][64];
	size_t n = 0, used = 0;

	snprintf(part[n++], sizeof(part[0]), "%llu/%llu", (unsigned long long)m->step,
		 (unsigned long long)m->total_steps);
	if (p->has_step) {
		snprintf(part[n++], sizeof(part[0]), " loss %.3f", m->loss);
		snprintf(part[n++], sizeof(part[0]), is_long ? " %s<%s" : "%.0s %s",
			 st_duration_text((double)(st_now_ns() - p->begun_ns) * 1e-9).s,
			 st_duration_text(eta_s(p)).s);
		snprintf(part[n++], sizeof(part[0]), is_long ? " lr %.2e" : " lr %.0e", m->lr);
		snprintf(part[n++], sizeof(part[0]), is_long ? " norm %.3f" : " g %.2f",
			 m->grad_norm);
		snprintf(part[n++], sizeof(part[0]), is_long ? " %s tok/s" : " %s/s",
			 st_count_text(tokens_per_s(p, s)).s);
		if (p->info.scales_loss)
			snprintf(part[n++], sizeof(part[0]),
				 is_long ? " scale %.10g skipped %llu" : " s%.10g -%llu",
				 m->loss_scale, (unsigned long long)p->n_skipped);
		if (p->info.uses_nvme)
			snprintf(part[n++], sizeof(part[0]),
				 is_long ? " read %.2f write %.2f GB/s" : " r%.2f w%.2f",
				 gbps(s->read_bytes, s), gbps(s->write_bytes, s));
		snprintf(part[n++], sizeof(part[0]), is_long ? " waits %.0f %%" : " wait%.0f%%",
			 wait_percent(s));
		snprintf(part[n++], sizeof(part[0]), is_long ? " %.0f %% of bound" : " b%.0f%%",
			 bound_percent(s));
	}
	*out = '\0';
	for (size_t i = 0; i < n; i++) {
		size_t len = strlen(part[i]);

		if (used + len > room || used + len >= out_bytes)
			break;
		memcpy(out + used, part[i], len + 1);
		used += len;
	}
	return used;
}

/* " 37%|#####.....|" and the figures, one column short of the width, so that no terminal wraps. */
static void draw(struct st_progress *p)
{
	enum { FRAME = 6, BLOCKS_LONG = 8, BLOCKS_SHORT = 3 };
	size_t columns = st_terminal_columns() - 1, used;
	char text[ST_COLUMNS_MAX + 1];
	double share = p->last.total_steps ? (double)p->last.step / (double)p->last.total_steps : 1;
	char all[ST_COLUMNS_MAX * 2];

	if (columns < FRAME + BLOCKS_SHORT)
		return;
	used = figures(p, true, columns - FRAME - BLOCKS_SHORT, text, sizeof(text));
	if (used < figures(p, true, sizeof(all) - 1, all, sizeof(all)) ||
	    used + FRAME + BLOCKS_LONG > columns)
		figures(p, false, columns - FRAME - BLOCKS_SHORT, text, sizeof(text));
	st_bar_line(share, text, p->is_utf8);
	p->is_drawn = true;
	p->drawn_ns = st_now_ns();
}

static double part_left_s(const struct part *t)
{
	return t->done ? (double)(st_now_ns() - t->begun_ns) * 1e-9 * (double)(t->total - t->done) /
				 (double)t->done
		       : NAN;
}

/* " 37%|###...| evaluating 0:02<0:05" */
static void draw_part(struct st_progress *p)
{
	const struct part *t = &p->part;
	char text[96];

	snprintf(text, sizeof(text), " %s %s<%s", t->what,
		 st_duration_text((double)(st_now_ns() - t->begun_ns) * 1e-9).s,
		 st_duration_text(part_left_s(t)).s);
	st_bar_line((double)t->done / (double)t->total, text, p->is_utf8);
	p->is_drawn = true;
	p->drawn_ns = st_now_ns();
}

static void draw_if_due(struct st_progress *p)
{
	if (p->mode != ST_PROGRESS_BAR || (!p->has_begun && !p->part.total))
		return;
	if (p->is_drawn && st_now_ns() - p->drawn_ns < REDRAW_NS)
		return;
	if (p->part.total)
		draw_part(p);
	else
		draw(p);
}

/* ---- lines --------------------------------------------------------------------------------- */

static void print_line(struct st_progress *p)
{
	const struct strata_metrics *m = &p->last;
	const struct sums *s = &p->interval;

	fprintf(stderr, "step %llu/%llu  loss %.6f  lr %.4e  norm %.4f  %.1f tokens/s",
		(unsigned long long)m->step, (unsigned long long)m->total_steps, m->loss, m->lr,
		m->grad_norm, tokens_per_s(p, s));
	fprintf(stderr,
		"  read %.3f GB/s  write %.3f GB/s  waits %.1f %%  bound %.1f %%  "
		"durable %llu  eta %s",
		gbps(s->read_bytes, s), gbps(s->write_bytes, s), wait_percent(s), bound_percent(s),
		(unsigned long long)m->durable_step, st_duration_text(eta_s(p)).s);
	if (p->info.scales_loss)
		fprintf(stderr, "  loss scale %.10g  skipped %.0f", m->loss_scale, s->skipped);
	fputc('\n', stderr);
	fflush(stderr);
	p->interval = (struct sums){ 0 };
}

static bool is_line_due(const struct st_progress *p)
{
	uint64_t step = p->last.step, every = p->info.steps_per_print ? p->info.steps_per_print : 1;

	return step % every == 0 || step == p->first_step || step == p->last.total_steps;
}

/* ---- JSON ---------------------------------------------------------------------------------- */

static int json_step(const struct strata_metrics *m)
{
	printf("{\"event\":\"step\",\"step\":%llu", (unsigned long long)m->step);
	st_member_real("loss", m->loss);
	st_member_real("grad_norm", m->grad_norm);
	st_member_real("lr", m->lr);
	st_member_real("tokens_per_s", m->tokens_per_s);
	st_member_uint("nvme_read_bytes", m->nvme_read_bytes);
	st_member_uint("nvme_write_bytes", m->nvme_write_bytes);
	printf(",\"compute_wait_ns\":%lld", (long long)m->compute_wait_ns);
	st_member_uint("durable_step", m->durable_step);
	st_member_real("clip_factor", m->clip_factor);
	printf(",\"step_ns\":%lld", (long long)m->step_ns);
	st_member_real("step_s", m->step_s);
	st_member_real("bound_s", m->bound_s);
	st_member_text("limiting_lane", m->limiting_lane);
	if (!isnan(m->h2d_s)) {
		st_member_real("h2d_s", m->h2d_s);
		st_member_real("d2h_s", m->d2h_s);
		st_member_real("optimizer_s", m->optimizer_s);
	}
	st_member_bool("clipped", m->clipped);
	st_member_bool("rolled_back", m->rolled_back);
	st_member_real("loss_scale", m->loss_scale);
	st_member_bool("skipped", m->skipped);
	puts("}");
	if (isfinite(m->val_loss)) {
		printf("{\"event\":\"eval\",\"step\":%llu", (unsigned long long)m->step);
		st_member_real("val_loss", m->val_loss);
		puts("}");
	}
	return st_flush_stdout();
}

/* ---- interface ----------------------------------------------------------------------------- */

int st_progress_create(struct st_progress **out, enum st_progress_mode mode)
{
	struct st_progress *p = calloc(1, sizeof(*p));

	if (!p)
		return st_fail(-ENOMEM, "progress");
	if (mode == ST_PROGRESS_AUTO || mode == ST_PROGRESS_BAR)
		mode = st_terminal_is_capable() ? ST_PROGRESS_BAR : ST_PROGRESS_LINE;
	p->mode = mode;
	p->is_utf8 = st_terminal_is_utf8();
	pthread_mutex_init(&p->lock, NULL);
	*out = p;
	return 0;
}

void st_progress_destroy(struct st_progress *p)
{
	if (!p)
		return;
	st_progress_end(p);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

bool st_progress_shows(const struct st_progress *p)
{
	return p->mode != ST_PROGRESS_NONE;
}

void st_progress_say(struct st_progress *p, bool is_error, const char *fmt, ...)
{
	va_list ap;

	if (!is_error && !st_progress_shows(p))
		return;
	pthread_mutex_lock(&p->lock);
	erase(p);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	fflush(stderr);
	draw_if_due(p);
	pthread_mutex_unlock(&p->lock);
}

void st_progress_log(void *user, enum strata_log_level level, const char *line)
{
	static const char *const prefix[] = { "error: ", "warning: ", "", "" };

	st_progress_say(user, level == STRATA_LOG_ERROR, "%s%s", prefix[level], line);
}

void st_progress_begin(struct st_progress *p, const struct strata_info *info)
{
	pthread_mutex_lock(&p->lock);
	p->info = *info;
	p->last.step = info->resumed_step;
	p->last.total_steps = info->total_steps;
	p->first_step = info->resumed_step + 1;
	p->has_begun = true;
	p->begun_ns = st_now_ns();
	draw_if_due(p);
	pthread_mutex_unlock(&p->lock);
}

int st_progress_step(struct st_progress *p, const struct strata_metrics *m)
{
	bool has_eval = isfinite(m->val_loss);
	int rc = 0;

	pthread_mutex_lock(&p->lock);
	p->last = *m;
	p->n_skipped += m->skipped;
	p->part = (struct part){ 0 };
	p->has_step = true;
	p->step_end_ns = st_now_ns();
	add_step(&p->recent, m, FORGET);
	add_step(&p->interval, m, 1);
	if (p->mode == ST_PROGRESS_LINE && (has_eval || is_line_due(p)))
		print_line(p);
	else if (p->mode == ST_PROGRESS_JSON)
		rc = json_step(m);
	else
		draw_if_due(p);
	pthread_mutex_unlock(&p->lock);
	if (has_eval && p->mode != ST_PROGRESS_JSON)
		st_progress_say(p, false, "step %llu/%llu  validation loss %.6f",
				(unsigned long long)m->step, (unsigned long long)m->total_steps,
				m->val_loss);
	return rc;
}

/* A new part: from now on this is what is drawn. */
static void begin_part(struct st_progress *p, const char *what, int64_t now_ns)
{
	erase(p);
	p->part = (struct part){ .what = what,
				 .begun_ns = now_ns,
				 .said_ns = p->mode == ST_PROGRESS_JSON ? now_ns - PART_JSON_NS
									: now_ns };
}

static void say_part(struct st_progress *p, int64_t now_ns)
{
	struct part *t = &p->part;

	if (p->mode == ST_PROGRESS_JSON && now_ns - t->said_ns >= PART_JSON_NS) {
		printf("{\"event\":\"progress\"");
		st_member_text("what", t->what);
		st_member_uint("done", t->done);
		st_member_uint("total", t->total);
		puts("}");
		(void)st_flush_stdout(); /* it remembers: the next event that matters says it */
		t->said_ns = now_ns;
	} else if (p->mode == ST_PROGRESS_LINE && now_ns - t->said_ns >= PART_LINE_NS) {
		fprintf(stderr, "%s  %.0f %%  eta %s\n", t->what,
			100 * (double)t->done / (double)t->total,
			st_duration_text(part_left_s(t)).s);
		fflush(stderr);
		t->said_ns = now_ns;
	}
}

void st_progress_part(void *user, const char *what, uint64_t done, uint64_t total)
{
	struct st_progress *p = user;
	int64_t now_ns = st_now_ns();

	pthread_mutex_lock(&p->lock);
	if (!p->part.total || p->part.what != what)
		begin_part(p, what, now_ns);
	p->part.done = done;
	p->part.total = total;
	say_part(p, now_ns);
	draw_if_due(p);
	if (done >= total) {
		erase(p);
		p->part = (struct part){ 0 };
	}
	pthread_mutex_unlock(&p->lock);
}

int st_progress_stopped(struct st_progress *p, uint64_t step)
{
	if (p->mode != ST_PROGRESS_JSON)
		return 0;
	printf("{\"event\":\"stopped\",\"step\":%llu}\n", (unsigned long long)step);
	return st_flush_stdout();
}

int st_progress_done(struct st_progress *p, const struct strata_result *r)
{
	if (p->mode != ST_PROGRESS_JSON)
		return 0;
	printf("{\"event\":\"done\",\"state_hash\":\"%s\"", r->state_hash);
	st_member_real("val_loss", r->val_loss);
	st_member_uint("peak_rss_bytes", r->peak_rss_bytes);
	st_member_uint("device_peak_bytes", r->device_peak_bytes);
	st_member_uint("host_peak_bytes", r->host_peak_bytes);
	st_member_real("nvme_bytes_per_param_step", r->nvme_bytes_per_param_step);
	st_member_uint("steps", r->steps);
	st_member_uint("skipped_steps", r->skipped_steps);
	puts("}");
	return st_flush_stdout();
}

void st_progress_tick(struct st_progress *p)
{
	pthread_mutex_lock(&p->lock);
	draw_if_due(p);
	pthread_mutex_unlock(&p->lock);
}

void st_progress_end(struct st_progress *p)
{
	pthread_mutex_lock(&p->lock);
	if (p->part.total || !p->has_begun)
		erase(p);
	if (p->is_drawn) {
		draw(p); /* the last step, whether or not it was due */
		fputc('\n', stderr);
	}
	fflush(stderr);
	p->is_drawn = false;
	p->has_begun = false;
	p->part = (struct part){ 0 };
	pthread_mutex_unlock(&p->lock);
}
