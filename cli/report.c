/* SPDX-License-Identifier: Apache-2.0 */
/* cli/report.c - `strata report`: a page about a run. */
#include "model/report.h"

#include <stddef.h>

#include "cli/print.h"
#include "cli/verbs.h"

struct report_args {
	const char *run, *output, *trace, *hardware;
};

static int report_run(const void *args, char **argv)
{
	const struct report_args *a = args;
	const struct st_run_report_cfg cfg = {
		.dir = a->run,
		.output = a->output,
		.trace = a->trace,
		.hardware = a->hardware,
	};
	char path[4096];
	int rc = st_run_report(&cfg, path, sizeof(path));

	(void)argv;
	if (rc)
		return st_report(rc);
	puts(path);
	rc = st_flush_stdout();
	return rc ? st_report(rc) : 0;
}

#define OFF(field) .offset = offsetof(struct report_args, field)
static const struct st_opt options[] = {
	{ "RUN", ST_OPT_OPERAND, true, OFF(run), .help = "the output directory of strata train" },
	{ "output", ST_OPT_TEXT, .metavar = "FILE.html", OFF(output),
	  .help = "the page (RUN/report.html); an older page is replaced, nothing else" },
	{ "trace", ST_OPT_TEXT, .metavar = "FILE", OFF(trace),
	  .help = "what strata train --trace wrote (RUN/trace.json, if it is there)" },
	{ "hardware", ST_OPT_TEXT, .metavar = "FILE", OFF(hardware),
	  .help = "rates for the planned times, as in examples/hardware (those that strata plan\n"
		  "measured on this machine, if it did)" },
};

const struct st_verb st_verb_report = {
	.name = "report",
	.summary = "a page about a run: loss, step times and what limited them, the plan beside it",
	.more = "One file of HTML that opens anywhere, also of a run that goes on or was killed. "
		"Its path goes to stdout.\n"
		"exit code: 0 written; 2 not a run, or bad input; 4 it cannot be written\n",
	.opts = options,
	.n_opts = ST_ARRAY_LEN(options),
	.args_bytes = sizeof(struct report_args),
	.run = report_run,
};
