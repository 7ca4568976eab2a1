/* SPDX-License-Identifier: Apache-2.0 */
/* bench/doctor.c - `strata doctor`: can this machine train, and what keeps it from doing so well.
 */
#include "bench/doctor.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/signals.h"
#include "bench/verbs.h"
#include "cli/print.h"
#include "core/config.h"

#define NAME_COLUMNS 13

struct doctor_args {
	const char *config;
	struct st_opt_list paths, sets;
	bool as_json, no_measure;
};

/* ---- printing ------------------------------------------------------------------------------ */

static const char *const mark_words[] = { "ok", "warn", "FAIL" };
static const char *const mark_colours[] = { "\033[32m", "\033[33m", "\033[1;31m" };

/* What a drive, a mount or a file's name says must not move the cursor or break the line. */
static void make_plain(char *s)
{
	for (; *s; s++)
		if (iscntrl((unsigned char)*s) ||
		    (s[0] == '\xc2' && (unsigned char)s[1] >= 0x80 && (unsigned char)s[1] < 0xa0))
			*s = '?'; /* of a C1 control's two bytes the second alone is nothing */
}

static void end_fact(struct st_doctor *d)
{
	if (d->has_fact && d->as_json)
		putchar('}');
	d->has_fact = false;
}

void st_doctor_section(struct st_doctor *d, const char *fmt, ...)
{
	va_list ap;

	end_fact(d);
	va_start(ap, fmt);
	vsnprintf(d->section, sizeof(d->section), fmt, ap);
	va_end(ap);
	make_plain(d->section);
	if (!d->as_json)
		printf("\n%s\n", d->section);
}

static void print_text(const struct st_doctor *d, const char *name, enum st_mark mark,
		       const char *text, const char *advice)
{
	printf("  %s%-4s%s  %-*s %s\n", d->has_colour ? mark_colours[mark] : "", mark_words[mark],
	       d->has_colour ? "\033[0m" : "", NAME_COLUMNS, name, text);
	if (advice)
		printf("        -> %s\n", advice);
}

static void print_json(const struct st_doctor *d, const char *name, enum st_mark mark,
		       const char *text, const char *advice)
{
	printf("%s{\"section\":", d->n_facts ? "," : "");
	st_put_json_string(d->section, stdout);
	printf(",\"name\":\"%s\",\"mark\":\"%s\",\"text\":", name, mark_words[mark]);
	st_put_json_string(text, stdout);
	printf(",\"advice\":");
	if (advice)
		st_put_json_string(advice, stdout);
	else
		printf("null");
}

void st_doctor_fact(struct st_doctor *d, const char *name, enum st_mark mark, const char *advice,
		    const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	end_fact(d);
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	make_plain(text);
	if (d->as_json)
		print_json(d, name, mark, text, advice);
	else
		print_text(d, name, mark, text, advice);
	fflush(stdout);
	d->n_facts++;
	d->n_warn += mark == ST_MARK_WARN;
	d->n_fail += mark == ST_MARK_FAIL;
	d->has_fact = true;
}

void st_doctor_uint(struct st_doctor *d, const char *name, uint64_t x)
{
	if (d->as_json)
		printf(",\"%s\":%llu", name, (unsigned long long)x);
}

void st_doctor_real(struct st_doctor *d, const char *name, double x)
{
	if (!d->as_json)
		return;
	printf(",\"%s\":", name);
	st_put_json_real(x, stdout);
}

void st_doctor_bool(struct st_doctor *d, const char *name, bool x)
{
	if (d->as_json)
		printf(",\"%s\":%s", name, x ? "true" : "false");
}

void st_doctor_text(struct st_doctor *d, const char *name, const char *s)
{
	if (!d->as_json)
		return;
	printf(",\"%s\":", name);
	if (s)
		st_put_json_string(s, stdout);
	else
		printf("null");
}

static bool wants_colour(void)
{
	const char *term = getenv("TERM"), *no_colour = getenv("NO_COLOR");

	return isatty(STDOUT_FILENO) && term && *term && strcmp(term, "dumb") != 0 &&
	       (!no_colour || !*no_colour);
}

/* ---- the verb ------------------------------------------------------------------------------ */

static bool is_listed(const struct doctor_args *a, size_t before, const char *path)
{
	for (size_t i = 0; i < before; i++)
		if (!strcmp(a->paths.v[i], path))
			return true;
	return false;
}

/* The paths that were named; else those of the configuration, else where we stand. */
static void visit_paths(struct st_doctor *d, const struct doctor_args *a)
{
	struct st_config *cfg = NULL;
	size_t n = 0;

	for (size_t i = 0; i < a->paths.n && !st_signal; i++)
		if (!is_listed(a, i, a->paths.v[i]))
			st_doctor_path(d, a->paths.v[i]);
	/* A configuration that cannot be read is reported by st_doctor_config(). */
	if (a->config && !st_config_load(&cfg, a->config, a->sets.v, a->sets.n)) {
		n = cfg->nvme_paths.n;
		for (size_t i = 0; i < n && !st_signal; i++)
			if (!is_listed(a, a->paths.n, cfg->nvme_paths.v[i]))
				st_doctor_path(d, cfg->nvme_paths.v[i]);
		st_config_destroy(cfg);
	}
	if (!a->paths.n && !n && !st_signal)
		st_doctor_path(d, ".");
}

static void conclude(struct st_doctor *d)
{
	end_fact(d);
	if (d->as_json) {
		printf("],\"can_train\":%s,\"warnings\":%u,\"failures\":%u}\n",
		       d->n_fail ? "false" : "true", d->n_warn, d->n_fail);
		return;
	}
	printf("\ntraining %s here", d->n_fail ? "CANNOT run" : "can run");
	if (d->n_fail)
		printf(": %u failure%s", d->n_fail, d->n_fail > 1 ? "s" : "");
	if (d->n_warn)
		printf("%s%u warning%s", d->n_fail ? ", " : ": ", d->n_warn,
		       d->n_warn > 1 ? "s" : "");
	putchar('\n');
}

static int doctor_run(const void *args, char **argv)
{
	const struct doctor_args *a = args;
	struct st_doctor d = { .as_json = a->as_json, .measures = !a->no_measure };
	int rc;

	(void)argv;
	d.has_colour = !d.as_json && wants_colour();
	st_signals_catch();
	if (d.as_json)
		printf("{\"version\":\"%s\",\"facts\":[", STRATA_VERSION);
	else
		printf("strata %s doctor\n", STRATA_VERSION);
	st_doctor_machine(&d);
	visit_paths(&d, a);
	if (a->config && !st_signal)
		st_doctor_config(&d, a->config, a->sets.v, a->sets.n);
	if (st_signal)
		return st_signals_report();
	conclude(&d);
	rc = st_flush_stdout();
	if (rc)
		return st_report(rc);
	return d.n_fail ? 2 : 0;
}

#define OFF(field) .offset = offsetof(struct doctor_args, field)
static const struct st_opt options[] = {
	{ "CONFIG", ST_OPT_OPERAND, OFF(config),
	  .help = "look at its nvme_path, and whether its needs are met" },
	{ "path", ST_OPT_LIST, .metavar = "DIR", OFF(paths),
	  .help = "a directory to look at; again for each further one (.)" },
	{ "set", ST_OPT_LIST, .metavar = "KEY=VALUE", OFF(sets), .help = "over CONFIG" },
	{ "no-measure", ST_OPT_FLAG, OFF(no_measure),
	  .help = "no reading and writing of the paths" },
	{ "json", ST_OPT_FLAG, OFF(as_json), .help = "one object, for programs" },
};

const struct st_verb st_verb_doctor = {
	.name = "doctor",
	.summary = "can this machine train, and what keeps it from doing so well",
	.more = "One fact a line, to be pasted into a report: kernel, processor, memory, limits, "
		"io_uring,\n"
		"GPU, and for each path the file system, space, direct I/O, the drive and its "
		"rates over\n"
		"about a second each. No file is left behind.\n\n"
		"warn: training runs, but slower or less safely than it could; FAIL: it cannot "
		"run\n"
		"exit code: 0 training can run; 2 it cannot; 4 nobody reads the output\n",
	.opts = options,
	.n_opts = ST_ARRAY_LEN(options),
	.args_bytes = sizeof(struct doctor_args),
	.run = doctor_run,
};
