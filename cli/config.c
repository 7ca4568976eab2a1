/* SPDX-License-Identifier: Apache-2.0 */
/* cli/config.c - `strata config`: check, explain, dump, schema and help, all from one table. */
#include "cli/config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/config.h"

static const char usage[] =
	"usage: strata config check CONFIG [--set key=value]...     is it valid, and what it "
	"means\n"
	"       strata config explain CONFIG [--set key=value]... [--json]\n"
	"                                             each value in force and where it came from\n"
	"       strata config dump CONFIG [--set key=value]...      the resolved configuration\n"
	"       strata config schema                                JSON Schema, for editors\n"
	"       strata config help [KEY]                            keys, defaults, ranges\n";

struct args {
	const char *path;  /* CONFIG or KEY, NULL if not given */
	const char **sets; /* [n_sets] */
	size_t n_sets;
	bool as_json;
};

static int usage_error(const char *what, const char *arg)
{
	fprintf(stderr, "strata config: %s%s\n%s", what, arg, usage);
	return 2;
}

/* @return 0, or an exit code after saying why. args->sets has room for argc. */
static int parse_args(int argc, char **argv, struct args *a)
{
	for (int i = 2; i < argc; i++) {
		const char *arg = argv[i];

		if (!strcmp(arg, "--set")) {
			if (++i == argc)
				return usage_error("--set needs key=value", "");
			a->sets[a->n_sets++] = argv[i];
		} else if (!strncmp(arg, "--set=", 6)) {
			a->sets[a->n_sets++] = arg + 6;
		} else if (!strcmp(arg, "--json")) {
			a->as_json = true;
		} else if (arg[0] == '-' && arg[1]) {
			return usage_error("unknown option ", arg);
		} else if (a->path) {
			return usage_error("one argument too many: ", arg);
		} else {
			a->path = arg;
		}
	}
	return 0;
}

static int failed(int rc)
{
	fprintf(stderr, "strata: %s\n", st_last_error());
	return strata_exit_code(rc);
}

static void check(const struct st_config *cfg, const char *path)
{
	size_t n;
	const char *const *notes = st_config_notes(cfg, &n);

	for (size_t i = 0; i < n; i++)
		fprintf(stderr, "%s\n", notes[i]);
	printf("%s: valid\n", path);
}

static int with_config(const char *verb, const struct args *a)
{
	struct st_config *cfg = NULL;
	int rc;

	if (!a->path)
		return usage_error("name the configuration file after ", verb);
	rc = st_config_load(&cfg, a->path, a->sets, a->n_sets);
	if (rc)
		return failed(rc);
	if (!strcmp(verb, "check"))
		check(cfg, a->path);
	else if (!strcmp(verb, "explain"))
		st_config_explain(cfg, stdout, a->as_json);
	else
		st_config_dump(cfg, stdout);
	st_config_destroy(cfg);
	return 0;
}

static int run(const char *verb, const struct args *a)
{
	int rc;

	if (!strcmp(verb, "check") || !strcmp(verb, "explain") || !strcmp(verb, "dump"))
		return with_config(verb, a);
	if (a->n_sets || a->as_json)
		return usage_error("no options go with ", verb);
	if (!strcmp(verb, "schema")) {
		if (a->path)
			return usage_error("no argument goes with ", verb);
		st_config_schema(stdout);
		return 0;
	}
	if (!strcmp(verb, "help")) {
		rc = st_config_help(stdout, a->path);
		return rc ? failed(rc) : 0;
	}
	return usage_error("unknown verb ", verb);
}

int st_cli_config(int argc, char **argv)
{
	struct args a = { 0 };
	int code;

	if (argc < 2)
		return usage_error("what to do?", "");
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
		fputs(usage, stdout);
		return 0;
	}
	a.sets = calloc((size_t)argc, sizeof(*a.sets));
	if (!a.sets) {
		fprintf(stderr, "strata: out of memory\n");
		return strata_exit_code(-ENOMEM);
	}
	code = parse_args(argc, argv, &a);
	if (!code)
		code = run(argv[1], &a);
	free(a.sets);
	if (fflush(stdout) && !code) {
		fprintf(stderr, "strata: cannot write to stdout: %s\n", strata_strerror(-errno));
		code = strata_exit_code(-EIO);
	}
	return code;
}
