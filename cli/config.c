/* SPDX-License-Identifier: Apache-2.0 */
/* cli/config.c - `strata config check|explain|dump|schema|help`, all from the table in core. */
#include <stdbool.h>

#include "cli/print.h"
#include "cli/verbs.h"
#include "core/config.h"

struct config_args {
	const char *operand; /* CONFIG or KEY */
	struct st_opt_list sets;
	bool as_json;
};

static int load(struct st_config **cfg, const struct config_args *a)
{
	return st_config_load(cfg, a->operand, a->sets.v, a->sets.n);
}

/* Everything was printed, if it arrived. */
static int done(struct st_config *cfg)
{
	int rc = st_flush_stdout();

	st_config_destroy(cfg);
	return rc ? st_report(rc) : 0;
}

static int check_run(const void *args, char **argv)
{
	const struct config_args *a = args;
	struct st_config *cfg = NULL;
	const char *const *notes;
	int rc = load(&cfg, a);
	size_t n;

	(void)argv;
	if (rc)
		return st_report(rc);
	notes = st_config_notes(cfg, &n);
	for (size_t i = 0; i < n; i++)
		fprintf(stderr, "%s\n", notes[i]);
	printf("%s: valid\n", a->operand);
	return done(cfg);
}

static int explain_run(const void *args, char **argv)
{
	const struct config_args *a = args;
	struct st_config *cfg = NULL;
	int rc = load(&cfg, a);

	(void)argv;
	if (rc)
		return st_report(rc);
	st_config_explain(cfg, stdout, a->as_json);
	return done(cfg);
}

static int dump_run(const void *args, char **argv)
{
	struct st_config *cfg = NULL;
	int rc = load(&cfg, args);

	(void)argv;
	if (rc)
		return st_report(rc);
	st_config_dump(cfg, stdout);
	return done(cfg);
}

static int schema_run(const void *args, char **argv)
{
	(void)args;
	(void)argv;
	st_config_schema(stdout);
	return done(NULL);
}

static int help_run(const void *args, char **argv)
{
	const struct config_args *a = args;
	int rc = st_config_help(stdout, a->operand);

	(void)argv;
	return rc ? st_report(rc) : done(NULL);
}

#define OFF(field) .offset = offsetof(struct config_args, field)
static const struct st_opt with_config[] = {
	{ "CONFIG", ST_OPT_OPERAND, true, OFF(operand),
	  .help = "a DeepSpeed JSON plus one object \"strata\"" },
	{ "set", ST_OPT_LIST, .metavar = "KEY=VALUE", OFF(sets),
	  .help = "over the file; may be given many times" },
	/* last: only explain has it */
	{ "json", ST_OPT_FLAG, OFF(as_json), .help = "an array of objects, for programs" },
};
static const struct st_opt with_key[] = {
	{ "KEY", ST_OPT_OPERAND, OFF(operand),
	  .help = "one key and all below it, e.g. strata.nvme; else all" },
};

const struct st_verb st_verb_config_check = {
	.name = "config check",
	.summary = "is the configuration valid, and what is there to know about it",
	.opts = with_config,
	.n_opts = ST_ARRAY_LEN(with_config) - 1,
	.args_bytes = sizeof(struct config_args),
	.run = check_run,
};

const struct st_verb st_verb_config_explain = {
	.name = "config explain",
	.summary = "each value in force and where it came from, then the keys without effect",
	.opts = with_config,
	.n_opts = ST_ARRAY_LEN(with_config),
	.args_bytes = sizeof(struct config_args),
	.run = explain_run,
};

const struct st_verb st_verb_config_dump = {
	.name = "config dump",
	.summary = "the configuration with every default and \"auto\" resolved",
	.opts = with_config,
	.n_opts = ST_ARRAY_LEN(with_config) - 1,
	.args_bytes = sizeof(struct config_args),
	.run = dump_run,
};

const struct st_verb st_verb_config_schema = {
	.name = "config schema",
	.summary = "JSON Schema of the configuration, for editors",
	.args_bytes = sizeof(struct config_args),
	.run = schema_run,
};

const struct st_verb st_verb_config_help = {
	.name = "config help",
	.summary = "the keys of a configuration: types, defaults, ranges, meaning",
	.opts = with_key,
	.n_opts = ST_ARRAY_LEN(with_key),
	.args_bytes = sizeof(struct config_args),
	.run = help_run,
};
