/* SPDX-License-Identifier: Apache-2.0 */
/* cli/plan.c - `strata plan`: does it fit, what lives where, what a step does. */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "cli/print.h"
#include "cli/verbs.h"
#include "core/status.h"
#include "strata/train.h"

#define LINE_BYTES 1024

struct plan_args {
	const char *config, *hardware;
	struct st_opt_list sets;
	int schedule;
	bool as_json, prints_program, measures, no_measure;
};

static void print_lines(const struct strata_plan *p, const char *what)
{
	char line[LINE_BYTES];

	for (size_t i = 0; strata_plan_line(p, what, i, line, sizeof(line)); i++)
		puts(line);
}

/* ---- for people ---------------------------------------------------------------------------- */

/* 0.12, 1.2, 12, 1.23 k */
static struct st_text rate_text(double x)
{
	struct st_text t;

	if (x >= 100)
		return st_count_text(x);
	snprintf(t.s, sizeof(t.s), "%.3g", x);
	return t;
}

/* 0.0123 s, 1.23 s, 123 s */
static struct st_text seconds_text(double s)
{
	struct st_text t;

	snprintf(t.s, sizeof(t.s), "%.*f s", s < 0.1 ? 4 : s < 10 ? 2 : s < 100 ? 1 : 0, s);
	return t;
}

static void print_tiers(const struct strata_plan *p)
{
	size_t n, n_parts;
	const struct strata_tier *tier = strata_plan_tiers(p, &n);
	const struct strata_plan_part *part = strata_plan_parts(p, &n_parts);

	printf("%-8s %12s %12s %12s\n", "tier", "budget", "peak", "smallest");
	for (size_t i = 0; i < n; i++) {
		const struct strata_tier *t = &tier[i];

		printf("%-8s %12s %12s", t->name,
		       t->budget_bytes ? st_bytes_text(t->budget_bytes).s : "auto",
		       st_bytes_text(t->peak_bytes).s);
		printf(" %12s%s\n", t->smallest_bytes ? st_bytes_text(t->smallest_bytes).s : "-",
		       t->budget_bytes && t->smallest_bytes > t->budget_bytes ? "  does not fit"
									      : "");
		for (size_t k = 0; k < n_parts; k++)
			if (strcmp(part[k].tier, t->name) == 0)
				printf("  %31s  %s\n", st_bytes_text(part[k].bytes).s,
				       part[k].what);
	}
}

/* "h.0" and "h.1" */
static bool are_numbered(const char *a, const char *b)
{
	const char *dot = strchr(a, '.');

	return dot && !strncmp(a, b, (size_t)(dot - a) + 1);
}

/* "wte, h.0-h.3, h.6": all units from i on that unit i speaks for; those are told then. */
static void print_names(const struct strata_plan_unit *u, size_t n, size_t i, bool *told)
{
	size_t run = 0; /* of those just before k */

	for (size_t k = i; k <= n; k++) {
		bool is_alike = k < n && !told[k] && !strcmp(u[k].param_tier, u[i].param_tier) &&
				!strcmp(u[k].update, u[i].update) && !strcmp(u[k].why, u[i].why) &&
				!strcmp(u[k].updated_on, u[i].updated_on) &&
				!strcmp(u[k].updated_why, u[i].updated_why);
		bool goes_on = is_alike && run && are_numbered(u[k - 1].name, u[k].name);

		if (run > 1 && !goes_on)
			printf("%s%s", run > 2 ? "-" : ", ", u[k - 1].name);
		if (is_alike && !goes_on)
			printf("%s%s", k > i ? ", " : "", u[k].name);
		run = goes_on ? run + 1 : is_alike;
		if (is_alike)
			told[k] = true;
	}
}

/* One line for all units that are treated alike. */
static void print_units(const struct strata_plan *p)
{
	size_t n;
	const struct strata_plan_unit *u = strata_plan_units(p, &n);
	uint64_t pinned = strata_plan_pinned_bytes(p);
	bool *told = calloc(n + 1, sizeof(*told));

	if (pinned)
		printf("%s of what lives on nvme stay in memory, as far as the budgets go\n",
		       st_bytes_text(pinned).s);
	for (size_t i = 0; told && i < n; i++) {
		if (told[i])
			continue;
		printf("  ");
		print_names(u, n, i, told);
		printf(": parameters on %s, %s", u[i].param_tier, u[i].update);
		if (*u[i].updated_why)
			printf(", updated on %s (%s)", u[i].updated_on, u[i].updated_why);
		printf("; %s\n", u[i].why);
	}
	free(told);
}

static void print_nvme(const struct strata_plan *p)
{
	const struct strata_info *info = strata_plan_info(p);
	const struct strata_plan_time *time = strata_plan_time(p);
	uint64_t read, write;
	double wear = strata_plan_wear(p);

	strata_plan_bytes_per_step(p, &read, &write);
	if (!read && !write)
		return;
	printf("NVMe traffic of a step%s: %s read, ", time && time->ranks > 1 ? ", each rank" : "",
	       st_bytes_text(read).s);
	printf("%s written, %.2f bytes per parameter\n", st_bytes_text(write).s,
	       (double)(read + write) / (double)info->n_params * (time ? time->ranks : 1));
	if (wear > 0)
		printf("1,000 steps take %.3g %% of the drives' rated life\n", 100 * wear);
}

static void print_time(const struct strata_plan *p)
{
	const struct strata_info *info = strata_plan_info(p);
	const struct strata_plan_time *t = strata_plan_time(p);
	size_t n;
	const struct strata_plan_lane *lane = strata_plan_lanes(p, &n);
	double tokens;

	if (!t)
		return;
	tokens = (double)info->tokens_per_step * t->ranks;
	printf("\nA step takes %s: ", seconds_text(t->step_s).s);
	printf("%s tokens/s, ", rate_text(tokens / t->step_s).s);
	printf("%sFLOP/s of the model%s\n",
	       st_count_text(info->flops_per_token * tokens / t->step_s / t->ranks).s,
	       t->ranks > 1 ? " a rank" : "");
	if (t->step_clipped_s != t->step_s)
		printf("  one that clips %s\n", seconds_text(t->step_clipped_s).s);
	printf("  forward %s, ", seconds_text(t->forward_s).s);
	printf("backward %s, ", seconds_text(t->backward_s).s);
	printf("then %s\n", seconds_text(t->rest_s).s);
	printf("  bound %s by %s (%.2f x)", seconds_text(t->bound_s).s, t->limiting_lane,
	       t->step_s / t->bound_s);
	if (t->bound_by_phase_s > 1.005 * t->bound_s)
		printf("; %s with this mode of updates", seconds_text(t->bound_by_phase_s).s);
	printf("\n\n%-12s %10s %10s %12s\n", "lane", "busy", "waits", "moves");
	for (size_t i = 0; i < n; i++) {
		printf("%-12s %10s", lane[i].name, seconds_text(lane[i].busy_s).s);
		printf(" %10s %12s%s\n", seconds_text(lane[i].wait_s).s,
		       lane[i].bytes ? st_bytes_text(lane[i].bytes).s : "-",
		       strcmp(lane[i].name, t->limiting_lane) == 0 ? "  limits" : "");
	}
	printf("\nrates: %s%s%s%s\n", t->hardware, *t->measured ? " (" : "", t->measured,
	       *t->measured ? ")" : "");
	if (*t->nominal)
		printf("the drives' rates are nominal: %s\n", t->nominal);
	if (t->is_coarse)
		puts("predicted by whole units and chunks of 16.8 M parameters, not by storage "
		     "tiles");
}

static void print_remedies(const struct strata_plan *p)
{
	size_t n;
	const struct strata_plan_remedy *r = strata_plan_remedies(p, &n);

	for (size_t i = 0; i < n; i++) {
		printf("\nThis would fit: %s\n", r[i].what);
		for (size_t k = 0; k < r[i].n_sets; k++)
			printf("  --set %s\n", r[i].sets[k]);
	}
	if (!n)
		puts("\nNo smaller micro-batch fits either: the largest layer needs more.");
}

static void print_table(const struct strata_plan *p)
{
	const struct strata_info *info = strata_plan_info(p);
	const struct strata_plan_time *time = strata_plan_time(p);
	double ranks = time ? time->ranks : 1;

	printf("%s parameters, ", st_count_text((double)info->n_params).s);
	printf("%.0f tokens a step (", (double)info->tokens_per_step * ranks);
	if (ranks > 1)
		printf("%.0f ranks x ", ranks);
	printf("%" PRIu64 " x %" PRIu64 " sequences of %" PRIu64 "), on %s\n\n", info->micro_batch,
	       info->accum_steps, info->seq_len, time ? time->hardware : info->device);
	print_tiers(p);
	putchar('\n');
	print_nvme(p);
	print_lines(p, "summary");
	print_units(p);
	print_time(p);
	if (!strata_plan_fits(p, NULL))
		print_remedies(p);
}

/* ---- for programs -------------------------------------------------------------------------- */

static void json_lines(const struct strata_plan *p, const char *what)
{
	char line[LINE_BYTES];

	printf(",\"%s\":[", what);
	for (size_t i = 0; strata_plan_line(p, what, i, line, sizeof(line)); i++) {
		if (i)
			putchar(',');
		st_put_json_string(line, stdout);
	}
	putchar(']');
}

static void json_tiers(const struct strata_plan *p)
{
	size_t n, n_parts;
	const struct strata_tier *tier = strata_plan_tiers(p, &n);
	const struct strata_plan_part *part = strata_plan_parts(p, &n_parts);

	printf(",\"tiers\":[");
	for (size_t i = 0; i < n; i++) {
		const char *before = "";

		printf("%s{\"name\":\"%s\",\"peak_bytes\":%" PRIu64 ",\"budget_bytes\":%" PRIu64
		       ",\"smallest_bytes\":%" PRIu64 ",\"parts\":[",
		       i ? "," : "", tier[i].name, tier[i].peak_bytes, tier[i].budget_bytes,
		       tier[i].smallest_bytes);
		for (size_t k = 0; k < n_parts; k++) {
			if (strcmp(part[k].tier, tier[i].name) != 0)
				continue;
			printf("%s{\"what\":", before);
			st_put_json_string(part[k].what, stdout);
			printf(",\"bytes\":%" PRIu64 "}", part[k].bytes);
			before = ",";
		}
		printf("]}");
	}
	putchar(']');
}

static void json_time(const struct strata_plan *p)
{
	const struct strata_plan_time *t = strata_plan_time(p);
	size_t n;
	const struct strata_plan_lane *lane = strata_plan_lanes(p, &n);

	if (!t)
		return;
	st_member_real("step_s", t->step_s);
	if (t->step_clipped_s != t->step_s)
		st_member_real("step_clipped_s", t->step_clipped_s);
	st_member_real("bound_s", t->bound_s);
	st_member_real("bound_by_phase_s", t->bound_by_phase_s);
	st_member_text("limiting_lane", t->limiting_lane);
	st_member_real("forward_s", t->forward_s);
	st_member_real("backward_s", t->backward_s);
	st_member_real("rest_s", t->rest_s);
	st_member_text("hardware", t->hardware);
	st_member_text("source", t->source);
	if (*t->measured)
		st_member_text("measured", t->measured);
	if (*t->nominal)
		st_member_text("nominal", t->nominal);
	st_member_real("ranks", t->ranks);
	printf(",\"is_coarse\":%s,\"lanes\":[", t->is_coarse ? "true" : "false");
	for (size_t i = 0; i < n; i++) {
		printf("%s{\"name\":\"%s\"", i ? "," : "", lane[i].name);
		st_member_real("busy_s", lane[i].busy_s);
		st_member_real("wait_s", lane[i].wait_s);
		st_member_real("work_s", lane[i].work_s);
		printf(",\"bytes\":%" PRIu64 "}", lane[i].bytes);
	}
	putchar(']');
}

static void json_units(const struct strata_plan *p)
{
	size_t n;
	const struct strata_plan_unit *u = strata_plan_units(p, &n);

	printf(",\"pinned_bytes\":%" PRIu64 ",\"units\":[", strata_plan_pinned_bytes(p));
	for (size_t i = 0; i < n; i++) {
		printf("%s{\"name\":", i ? "," : "");
		st_put_json_string(u[i].name, stdout);
		printf(",\"params_on\":\"%s\",\"is_pinned\":%s,\"param_bytes\":%" PRIu64
		       ",\"state_bytes\":%" PRIu64 ",\"state_kept_bytes\":%" PRIu64
		       ",\"grad_bytes\":%" PRIu64 ",\"grad_kept_bytes\":%" PRIu64
		       ",\"update\":\"%s\",\"why\":",
		       u[i].param_tier, u[i].is_pinned ? "true" : "false", u[i].param_bytes,
		       u[i].state_bytes, u[i].state_kept_bytes, u[i].grad_bytes,
		       u[i].grad_kept_bytes, u[i].update);
		st_put_json_string(u[i].why, stdout);
		st_member_text("updated_on", u[i].updated_on);
		st_member_text("updated_why", u[i].updated_why);
		putchar('}');
	}
	putchar(']');
}

static void json_remedies(const struct strata_plan *p)
{
	const char *message;
	size_t n;
	const struct strata_plan_remedy *r = strata_plan_remedies(p, &n);

	if (strata_plan_fits(p, &message))
		return;
	st_member_text("message", message);
	printf(",\"nearest\":[");
	for (size_t i = 0; i < n; i++) {
		printf("%s{\"what\":", i ? "," : "");
		st_put_json_string(r[i].what, stdout);
		printf(",\"set\":[");
		for (size_t k = 0; k < r[i].n_sets; k++) {
			if (k)
				putchar(',');
			st_put_json_string(r[i].sets[k], stdout);
		}
		printf("]}");
	}
	putchar(']');
}

static void print_json(const struct strata_plan *p, bool with_program)
{
	const struct strata_info *info = strata_plan_info(p);
	const struct strata_plan_time *time = strata_plan_time(p);
	double ranks = time ? time->ranks : 1, wear = strata_plan_wear(p);
	size_t n;
	const struct strata_tier *tier = strata_plan_tiers(p, &n);
	uint64_t read, write;

	strata_plan_bytes_per_step(p, &read, &write);
	printf("{\"fits\":%s,\"params\":%" PRIu64 ",\"tokens_per_step\":%.0f,\"device\":",
	       strata_plan_fits(p, NULL) ? "true" : "false", info->n_params,
	       (double)info->tokens_per_step * ranks);
	st_put_json_string(info->device, stdout);
	json_tiers(p);
	printf(",\"nvme_bytes_per_step\":%" PRIu64 ",\"nvme_read_bytes_per_step\":%" PRIu64
	       ",\"nvme_write_bytes_per_step\":%" PRIu64,
	       read + write, read, write);
	st_member_real("nvme_bytes_per_param_step",
		       (double)(read + write) * ranks / (double)info->n_params);
	printf(",\"nvme_disk_bytes\":%" PRIu64, tier[n - 1].peak_bytes);
	if (wear > 0)
		st_member_real("nvme_wear_per_1000_steps", wear);
	json_units(p);
	json_time(p);
	json_remedies(p);
	json_lines(p, "summary");
	if (with_program)
		json_lines(p, "program");
	puts("}");
}

static void say(void *user, enum strata_log_level level, const char *line)
{
	(void)user;
	fprintf(stderr, "%s%s\n", level == STRATA_LOG_WARN ? "warning: " : "", line);
}

/* What does not fit is an answer, on stdout, and a failure, on stderr. */
static int say_no_fit(const struct strata_plan *p)
{
	const char *message;

	if (strata_plan_fits(p, &message))
		return 0;
	return st_report(st_fail(STRATA_E_NO_FIT, "%s", message));
}

static int plan_run(const void *args, char **argv)
{
	const struct plan_args *a = args;
	const struct strata_options opt = {
		.struct_bytes = sizeof(opt),
		.sets = a->sets.v,
		.n_sets = a->sets.n,
		.log = say,
	};
	const struct strata_plan_options how = {
		.struct_bytes = sizeof(how),
		.hardware = a->hardware,
		.measure = a->measures     ? STRATA_MEASURE_NOW
			   : a->no_measure ? STRATA_MEASURE_NEVER
					   : STRATA_MEASURE_CACHED,
		.schedule = (enum strata_plan_schedule)a->schedule,
		.skips_time = a->prints_program && !a->as_json,
	};
	struct strata_plan *p = NULL;
	int rc, code;

	(void)argv;
	if (a->measures + a->no_measure + !!a->hardware > 1)
		return st_report(st_fail(
			-EINVAL, "plan: --measure, --no-measure and --hardware exclude each "
				 "other: they say where rates come from."));
	rc = strata_plan_open(&p, a->config, &opt, &how);
	if (rc)
		return st_report(rc);
	if (a->as_json)
		print_json(p, a->prints_program);
	else if (a->prints_program)
		print_lines(p, "program");
	else
		print_table(p);
	code = say_no_fit(p);
	strata_plan_close(p);
	rc = st_flush_stdout();
	return rc ? st_report(rc) : code;
}

static const char *const schedules[] = { "strata", "deepspeed", "deepspeed-pipelined", "serial",
					 NULL };

#define OFF(field) .offset = offsetof(struct plan_args, field)
static const struct st_opt options[] = {
	{ "CONFIG", ST_OPT_OPERAND, true, OFF(config), .help = "as for strata train" },
	{ "set", ST_OPT_LIST, .metavar = "KEY=VALUE", OFF(sets),
	  .help = "over the file, e.g. strata.device.memory=1GiB; may be given many times" },
	{ "hardware", ST_OPT_TEXT, .metavar = "FILE", OFF(hardware),
	  .help = "a description of another machine or cluster, as in examples/hardware" },
	{ "measure", ST_OPT_FLAG, OFF(measures), .help = "measure this machine anew" },
	{ "no-measure", ST_OPT_FLAG, OFF(no_measure), .help = "nominal rates, nothing is run" },
	{ "schedule", ST_OPT_WORD, .metavar = "HOW", OFF(schedule), .words = schedules,
	  .help = "strata; or, to compare, deepspeed, deepspeed-pipelined, serial" },
	{ "json", ST_OPT_FLAG, OFF(as_json), .help = "one object, for programs" },
	{ "print-program", ST_OPT_FLAG, OFF(prints_program),
	  .help = "the operations of a step, with bytes and dependencies" },
};

const struct st_verb st_verb_plan = {
	.name = "plan",
	.summary =
		"does it fit, what lives where, how fast will it be; nothing is created or trained",
	.more = "Rates are measured once (some seconds, kept in the user's cache) unless a "
		"description is given.\n"
		"exit code: 0 fits; 3 does not (the message names the smallest budget, the output "
		"what would fit); 2 bad input\n",
	.opts = options,
	.n_opts = ST_ARRAY_LEN(options),
	.args_bytes = sizeof(struct plan_args),
	.run = plan_run,
};
