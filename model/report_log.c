/* SPDX-License-Identifier: Apache-2.0 */
/* model/report_log.c - lines of JSON into steps; lines of a trace into columns. */
#include "model/report_log.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the log ------------------------------------------------------------------------------- */

static const struct {
	const char *key;
	size_t off;
} keys[] = {
#define KEY(key, field)                                                                            \
	{                                                                                          \
		key, offsetof(struct st_log_step, field)                                           \
	}
	KEY("loss", loss),
	KEY("grad_norm", grad_norm),
	KEY("clip_factor", clip_factor),
	KEY("lr", lr),
	KEY("tokens_per_s", tokens_per_s),
	KEY("step_s", step_s),
	KEY("bound_s", bound_s),
	KEY("compute_s", compute_s),
	KEY("forward_s", forward_s),
	KEY("backward_s", backward_s),
	KEY("reduce_s", reduce_s),
	KEY("update_s", update_s),
	KEY("nvme_s", nvme_s),
	KEY("checksum_s", checksum_s),
	KEY("commit_s", commit_s),
	KEY("nvme_read_bytes", read_bytes),
	KEY("nvme_write_bytes", write_bytes),
	KEY("nvme_loaded_bytes_per_s", loaded_bytes_per_s),
	KEY("h2d_s", h2d_s),
	KEY("d2h_s", d2h_s),
	KEY("optimizer_s", optimizer_s),
#undef KEY
};

static double number(const json_t *o, const char *key)
{
	const json_t *v = json_object_get(o, key);

	return json_is_number(v) ? json_number_value(v) : NAN;
}

/* The place of a step; what the log had from there on is replaced (a run that went back). */
static struct st_log_step *place(struct st_run_log *log, double step)
{
	while (log->n && log->steps[log->n - 1].step >= step)
		log->n--;
	if (log->n == log->cap) {
		size_t cap = log->cap ? 2 * log->cap : 256;
		void *p = reallocarray(log->steps, cap, sizeof(*log->steps));

		if (!p)
			return NULL;
		log->steps = p;
		log->cap = cap;
	}
	return &log->steps[log->n++];
}

static int take_step(struct st_run_log *log, const json_t *o)
{
	double step = number(o, "step");
	struct st_log_step *s;
	const char *limiting;

	if (!(step > 0)) {
		log->n_bad++;
		return 0;
	}
	s = place(log, step);
	if (!s)
		return st_fail(-ENOMEM, "log of a run");
	memset(s, 0, sizeof(*s));
	s->step = step;
	s->val_loss = NAN;
	for (size_t k = 0; k < ST_ARRAY_LEN(keys); k++) {
		double v = number(o, keys[k].key);

		memcpy((char *)s + keys[k].off, &v, sizeof(v));
	}
	if (!isfinite(s->step_s))
		s->step_s = number(o, "step_ns") * 1e-9;
	limiting = json_string_value(json_object_get(o, "limiting_lane"));
	snprintf(s->limiting, sizeof(s->limiting), "%s", limiting ? limiting : "");
	s->has_lanes = s->step_s > 0 && isfinite(s->bound_s);
	s->clipped = json_is_true(json_object_get(o, "clipped")) ||
		     (isfinite(s->clip_factor) && s->clip_factor < 1);
	s->speculated = json_is_true(json_object_get(o, "speculated"));
	s->rolled_back = json_is_true(json_object_get(o, "rolled_back"));
	s->skipped = json_is_true(json_object_get(o, "skipped"));
	log->is_done = false;
	return 0;
}

static int take_line(struct st_run_log *log, const char *line, size_t n)
{
	json_error_t error;
	json_t *o = json_loadb(line, n, 0, &error);
	const char *event = json_string_value(json_object_get(o, "event"));
	int rc = 0;

	if (!event) {
		log->n_bad++;
	} else if (!strcmp(event, "step")) {
		rc = take_step(log, o);
	} else if (!strcmp(event, "eval")) {
		for (size_t i = log->n; i-- > 0 && log->steps[i].step >= number(o, "step");)
			if (log->steps[i].step == number(o, "step"))
				log->steps[i].val_loss = number(o, "val_loss");
	} else if (!strcmp(event, "done")) {
		log->is_done = true;
		log->peak_rss_bytes = number(o, "peak_rss_bytes");
		if (log->n)
			log->steps[log->n - 1].val_loss = number(o, "val_loss");
	}
	json_decref(o);
	return rc;
}

int st_run_log_read(struct st_run_log *log, const char *path)
{
	FILE *f = fopen(path, "re");
	char *line = NULL;
	size_t cap = 0;
	ssize_t n;
	int rc = 0;

	*log = (struct st_run_log){ .peak_rss_bytes = NAN };
	if (!f)
		return st_fail(STRATA_E_INPUT, "%s: %s", path, strata_strerror(-errno));
	while (!rc && (n = getline(&line, &cap, f)) > 0)
		if (strspn(line, " \t\r\n") < (size_t)n)
			rc = take_line(log, line, (size_t)n);
	if (!rc && ferror(f))
		rc = st_fail(STRATA_E_INPUT, "%s: cannot be read", path);
	free(line);
	fclose(f);
	if (!rc && !log->n)
		rc = st_fail(STRATA_E_INPUT, "%s: holds no step", path);
	if (rc)
		st_run_log_free(log);
	return rc;
}

void st_run_log_free(struct st_run_log *log)
{
	free(log->steps);
	log->steps = NULL;
	log->n = log->cap = 0;
}

/* ---- the trace ----------------------------------------------------------------------------- */

/* Our traces have an event a line, with a comma behind it. */
static json_t *event_of(const char *line, size_t n)
{
	json_error_t error;

	while (n && strchr(",\r\n ", line[n - 1]))
		n--;
	return json_loadb(line, n, 0, &error);
}

static double figure(const char *line, const char *key)
{
	const char *at = strstr(line, key);

	return at ? strtod(at + strlen(key), NULL) : NAN;
}

struct step_slice {
	double step, begin_us, dur_us;
};

struct steps {
	struct step_slice *v;
	size_t n, cap;
};

static int add_step(struct steps *s, const char *line)
{
	if (s->n == s->cap) {
		size_t cap = s->cap ? 2 * s->cap : 64;
		void *p = reallocarray(s->v, cap, sizeof(*s->v));

		if (!p)
			return st_fail(-ENOMEM, "trace");
		s->v = p;
		s->cap = cap;
	}
	s->v[s->n++] = (struct step_slice){ figure(line, "\"step\":"), figure(line, "\"ts\":"),
					    figure(line, "\"dur\":") };
	return 0;
}

static void name_row(struct st_step_trace *t, const char *line, size_t n)
{
	json_t *o = event_of(line, n);
	const char *name = json_string_value(json_object_get(json_object_get(o, "args"), "name"));
	json_int_t tid = json_integer_value(json_object_get(o, "tid"));

	if (name && tid > 0 && tid < ST_TRACE_NAMES)
		snprintf(t->rows[tid], sizeof(t->rows[tid]), "%s", name);
	json_decref(o);
}

/* Which step: one in the middle, so that neither the start nor the end is on the picture. */
static int choose_step(struct st_step_trace *t, FILE *f)
{
	struct steps steps = { 0 };
	char *line = NULL;
	size_t cap = 0;
	ssize_t n;
	int rc = 0;

	while (!rc && (n = getline(&line, &cap, f)) > 0) {
		if (strstr(line, "\"cat\":\"step\""))
			rc = add_step(&steps, line);
		else if (strstr(line, "\"thread_name\""))
			name_row(t, line, (size_t)n);
	}
	if (!rc && steps.n) {
		const struct step_slice *s = &steps.v[steps.n / 2];

		t->step = s->step;
		t->begin_us = s->begin_us;
		t->dur_us = s->dur_us;
		rc = t->dur_us > 0 && isfinite(t->begin_us);
	}
	free(line);
	free(steps.v);
	return rc;
}

static unsigned name_index(char names[][24], unsigned *n, unsigned max, const char *name)
{
	for (unsigned i = 0; i < *n; i++)
		if (!strcmp(names[i], name))
			return i;
	if (*n == max)
		return max - 1;
	snprintf(names[*n], sizeof(names[0]), "%s", name);
	return (*n)++;
}

static void take_slice(struct st_step_trace *t, const json_t *o, double begin, double end)
{
	const char *name = json_string_value(json_object_get(o, "name"));
	json_int_t tid = json_integer_value(json_object_get(o, "tid"));
	double width = t->dur_us / ST_TRACE_COLUMNS;
	unsigned i;

	begin -= t->begin_us;
	end -= t->begin_us;
	if (!name || tid <= 0 || tid >= ST_TRACE_NAMES || end <= 0 || begin >= t->dur_us)
		return;
	i = name_index(t->names, &t->n_names, ST_TRACE_NAMES, name);
	begin = begin > 0 ? begin : 0;
	for (unsigned c = (unsigned)(begin / width); c < ST_TRACE_COLUMNS; c++) {
		double lo = c * width, hi = lo + width;

		if (lo >= end)
			break;
		t->busy[tid][c][i] += (float)((fmin(hi, end) - fmax(lo, begin)) / width);
	}
}

static void take_counter(struct st_step_trace *t, json_t *o, double at)
{
	const char *name = json_string_value(json_object_get(o, "name")), *key;
	struct st_trace_tier *tier;
	json_t *value;
	double column = (at - t->begin_us) / t->dur_us * ST_TRACE_COLUMNS;
	unsigned c;

	if (!name || column >= ST_TRACE_COLUMNS)
		return;
	if (strcmp(name, "device bytes") != 0 && strcmp(name, "host bytes") != 0)
		return;
	tier = &t->tiers[*name == 'h'];
	c = column > 0 ? (unsigned)column : 0; /* the last one before the step holds at its start */
	json_object_foreach(json_object_get(o, "args"), key, value)
	{
		double *bytes =
			tier->bytes[name_index(tier->names, &tier->n_names, ST_TRACE_SERIES, key)];
		double v = json_number_value(value);

		bytes[c] = column < 0 || isnan(bytes[c]) || v > bytes[c] ? v : bytes[c];
	}
}

/* A counter holds its value until the next one. */
static void hold_counters(struct st_step_trace *t)
{
	for (unsigned a = 0; a < 2; a++)
		for (unsigned s = 0; s < t->tiers[a].n_names; s++) {
			double *bytes = t->tiers[a].bytes[s], last = 0;

			for (unsigned c = 0; c < ST_TRACE_COLUMNS; c++)
				last = bytes[c] = isnan(bytes[c]) ? last : bytes[c];
		}
}

static void take_events(struct st_step_trace *t, FILE *f)
{
	char *line = NULL;
	size_t cap = 0;
	ssize_t n;

	while ((n = getline(&line, &cap, f)) > 0) {
		double at = figure(line, "\"ts\":"), dur = figure(line, "\"dur\":");
		bool is_slice = strstr(line, "\"ph\":\"X\""), is_counter;
		json_t *o;

		is_counter = !is_slice && strstr(line, "\"ph\":\"C\"");
		if ((!is_slice && !is_counter) || !(at < t->begin_us + t->dur_us) ||
		    (is_slice && !(at + dur > t->begin_us)))
			continue;
		o = event_of(line, (size_t)n);
		if (o && is_slice)
			take_slice(t, o, at, at + dur);
		else if (o)
			take_counter(t, o, at);
		json_decref(o);
	}
	free(line);
	hold_counters(t);
}

int st_step_trace_read(struct st_step_trace *t, const char *path)
{
	FILE *f = fopen(path, "re");
	int rc;

	memset(t, 0, sizeof(*t));
	if (!f)
		return st_fail(STRATA_E_INPUT, "trace %s: %s", path, strata_strerror(-errno));
	for (unsigned a = 0; a < 2; a++)
		for (unsigned s = 0; s < ST_TRACE_SERIES; s++)
			for (unsigned c = 0; c < ST_TRACE_COLUMNS; c++)
				t->tiers[a].bytes[s][c] = NAN;
	t->busy = calloc(ST_TRACE_NAMES, sizeof(*t->busy));
	rc = t->busy ? choose_step(t, f) : st_fail(-ENOMEM, "trace %s", path);
	if (rc > 0) {
		rewind(f);
		take_events(t, f);
	}
	fclose(f);
	if (rc <= 0)
		st_step_trace_free(t);
	return rc;
}

void st_step_trace_free(struct st_step_trace *t)
{
	free(t->busy);
	t->busy = NULL;
}
