/* SPDX-License-Identifier: Apache-2.0 */
/* cli/plan.c - `strata plan`: does it fit, what lives where, what a step does. */
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#include "cli/print.h"
#include "cli/verbs.h"
#include "core/status.h"
#include "strata/train.h"

#define LINE_BYTES 1024

struct plan_args {
	const char *config;
	struct st_opt_list sets;
	bool as_json, prints_program;
};

static void print_lines(const struct strata_plan *p, const char *what)
{
	char line[LINE_BYTES];

	for (size_t i = 0; strata_plan_line(p, what, i, line, sizeof(line)); i++)
		puts(line);
}

static void print_tiers(const struct strata_plan *p)
{
	size_t n;
	const struct strata_tier *tier = strata_plan_tiers(p, &n);

	printf("%-8s %12s %12s %12s\n", "tier", "budget", "peak", "smallest");
	for (size_t i = 0; i < n; i++) {
		const struct strata_tier *t = &tier[i];

		printf("%-8s %12s %12s", t->name,
		       t->budget_bytes ? st_bytes_text(t->budget_bytes).s : "auto",
		       st_bytes_text(t->peak_bytes).s);
		printf(" %12s\n", t->smallest_bytes ? st_bytes_text(t->smallest_bytes).s : "-");
	}
}

static void print_table(const struct strata_plan *p)
{
	const struct strata_info *info = strata_plan_info(p);
	uint64_t read, write;

	strata_plan_bytes_per_step(p, &read, &write);
	printf("%s parameters, %" PRIu64 " tokens a step (%" PRIu64 " x %" PRIu64
	       " sequences of %" PRIu64 "), on %s\n\n",
	       st_count_text((double)info->n_params).s, info->tokens_per_step, info->micro_batch,
	       info->accum_steps, info->seq_len, info->device);
	print_tiers(p);
	putchar('\n');
	if (info->uses_nvme)
		printf("NVMe traffic of a step: %s read, %s written, %.2f bytes per parameter\n",
		       st_bytes_text(read).s, st_bytes_text(write).s,
		       (double)(read + write) / (double)info->n_params);
	print_lines(p, "summary");
}

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

static void print_json(const struct strata_plan *p, bool with_program)
{
	const struct strata_info *info = strata_plan_info(p);
	uint64_t read, write;
	size_t n;
	const struct strata_tier *tier = strata_plan_tiers(p, &n);

	strata_plan_bytes_per_step(p, &read, &write);
	printf("{\"fits\":true,\"params\":%" PRIu64 ",\"tokens_per_step\":%" PRIu64 ",\"device\":",
	       info->n_params, info->tokens_per_step);
	st_put_json_string(info->device, stdout);
	printf(",\"tiers\":[");
	for (size_t i = 0; i < n; i++)
		printf("%s{\"name\":\"%s\",\"peak_bytes\":%" PRIu64 ",\"budget_bytes\":%" PRIu64
		       ",\"smallest_bytes\":%" PRIu64 "}",
		       i ? "," : "", tier[i].name, tier[i].peak_bytes, tier[i].budget_bytes,
		       tier[i].smallest_bytes);
	printf("],\"nvme_bytes_per_step\":%" PRIu64 ",\"nvme_read_bytes_per_step\":%" PRIu64
	       ",\"nvme_write_bytes_per_step\":%" PRIu64 ",\"nvme_bytes_per_param_step\":",
	       read + write, read, write);
	st_put_json_real((double)(read + write) / (double)info->n_params, stdout);
	printf(",\"nvme_disk_bytes\":%" PRIu64, info->nvme_disk_bytes);
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

static int plan_run(const void *args, char **argv)
{
	const struct plan_args *a = args;
	const struct strata_options opt = {
		.struct_bytes = sizeof(opt),
		.sets = a->sets.v,
		.n_sets = a->sets.n,
		.log = say,
	};
	struct strata_plan *p = NULL;
	int rc = strata_plan_open(&p, a->config, &opt);

	(void)argv;
	if (rc) {
		int code = st_report(rc);

		if (a->as_json && rc == STRATA_E_NO_FIT) {
			printf("{\"fits\":false,\"message\":");
			st_put_json_string(strata_last_error(), stdout);
			puts("}");
		}
		(void)fflush(stdout); /* the code says it all */
		return code;
	}
	if (a->as_json) {
		print_json(p, a->prints_program);
	} else if (a->prints_program) {
		print_lines(p, "program");
	} else {
		print_table(p);
	}
	strata_plan_close(p);
	rc = st_flush_stdout();
	return rc ? st_report(rc) : 0;
}

#define OFF(field) .offset = offsetof(struct plan_args, field)
static const struct st_opt options[] = {
	{ "CONFIG", ST_OPT_OPERAND, true, OFF(config), .help = "as for strata train" },
	{ "set", ST_OPT_LIST, .metavar = "KEY=VALUE", OFF(sets),
	  .help = "over the file, e.g. strata.device.memory=1GiB; may be given many times" },
	{ "json", ST_OPT_FLAG, OFF(as_json), .help = "one object, for programs" },
	{ "print-program", ST_OPT_FLAG, OFF(prints_program),
	  .help = "the operations of a step, with bytes and dependencies" },
};

const struct st_verb st_verb_plan = {
	.name = "plan",
	.summary = "does it fit, what lives where, how much moves; nothing is created or trained",
	.more = "exit code: 0 fits; 3 does not (the message names the smallest budget); 2 bad "
		"input\n",
	.opts = options,
	.n_opts = ST_ARRAY_LEN(options),
	.args_bytes = sizeof(struct plan_args),
	.run = plan_run,
};
