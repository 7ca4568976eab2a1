/* SPDX-License-Identifier: Apache-2.0 */
/* cli/main.c - the program `strata`: finds the verb, parses its options, runs it. */
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/verbs.h"
#include "cli/print.h"
#include "cli/verbs.h"
#include "core/status.h"

struct main_args {
	const char *word, *word2;
};

static int help_run(const void *args, char **argv);
static int version_run(const void *args, char **argv);

static const struct st_opt help_options[] = {
	{ "VERB", ST_OPT_OPERAND, .offset = offsetof(struct main_args, word),
	  .help = "e.g. train" },
	{ "VERB2", ST_OPT_OPERAND, .offset = offsetof(struct main_args, word2),
	  .help = "its second word, e.g. check of config check" },
};

static const struct st_verb verb_help = {
	.name = "help",
	.summary = "this list, or the options of a verb",
	.opts = help_options,
	.n_opts = ST_ARRAY_LEN(help_options),
	.args_bytes = sizeof(struct main_args),
	.run = help_run,
};

static const struct st_verb verb_version = {
	.name = "version",
	.summary = "the program's version",
	.args_bytes = sizeof(struct main_args),
	.run = version_run,
};

static const struct st_verb *const verbs[] = {
	&st_verb_train,
	&st_verb_plan,
	&st_verb_sample,
	&st_verb_report,
	&st_verb_checkpoint_ls,
	&st_verb_checkpoint_verify,
	&st_verb_checkpoint_export,
	&st_verb_checkpoint_gc,
	&st_verb_config_check,
	&st_verb_config_explain,
	&st_verb_config_dump,
	&st_verb_config_schema,
	&st_verb_config_help,
	&st_verb_bench_nvme,
	&st_verb_bench_optim,
	&st_verb_bench_moments,
	&st_verb_bench_step,
	&st_verb_bench_plan,
	&st_verb_tune_nvme,
	&st_verb_doctor,
	&verb_version,
	&verb_help,
};

static const char *verb_name(const void *user, size_t i)
{
	(void)user;
	return verbs[i]->name;
}

static void print_verbs(FILE *f, const char *prefix)
{
	for (size_t i = 0; i < ST_ARRAY_LEN(verbs); i++)
		if (!strncmp(verbs[i]->name, prefix, strlen(prefix)))
			fprintf(f, "  %-17s %s\n", verbs[i]->name, verbs[i]->summary);
}

/* "config" of "config check": the first word of verbs that have two. */
static bool is_group(const char *word)
{
	size_t len = strlen(word);

	for (size_t i = 0; i < ST_ARRAY_LEN(verbs); i++)
		if (!strncmp(verbs[i]->name, word, len) && verbs[i]->name[len] == ' ')
			return true;
	return false;
}

static void print_group(const char *word)
{
	char prefix[64];

	snprintf(prefix, sizeof(prefix), "%.48s ", word);
	print_verbs(stdout, prefix);
}

static void print_overview(FILE *f)
{
	fputs("usage: strata VERB [ARGUMENT]...\n\n"
	      "Trains transformers larger than the machine's memory: parameters, gradients and\n"
	      "optimizer states live in device memory, host memory and NVMe.\n\n",
	      f);
	print_verbs(f, "");
	fputs("\n\"strata help VERB\" has the options of a verb, \"strata config help\" the keys "
	      "of a\n"
	      "configuration.\n",
	      f);
}

static int flushed(void)
{
	int rc = st_flush_stdout();

	return rc ? st_report(rc) : 0;
}

/* "config" alone: which words may follow it. */
static int half_a_verb(const char *word)
{
	char seconds[128] = "";
	size_t len = strlen(word);

	for (size_t i = 0; i < ST_ARRAY_LEN(verbs); i++) {
		size_t at = strlen(seconds);

		if (!strncmp(verbs[i]->name, word, len) && verbs[i]->name[len] == ' ')
			snprintf(seconds + at, sizeof(seconds) - at, "%s%s", at ? ", " : "",
				 verbs[i]->name + len + 1);
	}
	return st_report(
		st_fail(-EINVAL, "%s what? %s (see \"strata help %s\").", word, seconds, word));
}

static int unknown_verb(char **words)
{
	char name[64];

	if (is_group(words[0]) && !words[1])
		return half_a_verb(words[0]);
	if (is_group(words[0])) /* with a second word that is none of its own */
		snprintf(name, sizeof(name), "%.20s %.40s", words[0], words[1]);
	else
		snprintf(name, sizeof(name), "%.48s", words[0]);
	return st_report(
		st_fail(-EINVAL,
			"unknown verb \"%s\"; the nearest known one is \"%s\" (see \"strata"
			" help\").",
			name, st_nearest(name, verb_name, ST_ARRAY_LEN(verbs), NULL)));
}

static int help_run(const void *args, char **argv)
{
	const struct main_args *a = args;
	char word[64], word2[64], *words[] = { word, a->word2 ? word2 : NULL, NULL };
	const struct st_verb *v;
	size_t n_words = 0;

	(void)argv;
	if (!a->word) {
		print_overview(stdout);
		return flushed();
	}
	snprintf(word, sizeof(word), "%s", a->word);
	snprintf(word2, sizeof(word2), "%s", a->word2 ? a->word2 : "");
	v = st_verb_find(verbs, ST_ARRAY_LEN(verbs), words, &n_words);
	if (v)
		st_verb_help(v, stdout);
	else if (!a->word2 && is_group(word))
		print_group(word);
	else
		return unknown_verb(words);
	return flushed();
}

static int version_run(const void *args, char **argv)
{
	(void)args;
	(void)argv;
	puts("strata " STRATA_VERSION);
	return flushed();
}

static int run_verb(const struct st_verb *v, char **rest, char **argv)
{
	void *args = calloc(1, v->args_bytes);
	bool is_help;
	int code;

	if (!args)
		return st_report(st_fail(-ENOMEM, "arguments"));
	code = st_args_parse(v, rest, args, &is_help);
	if (code) {
		code = st_report(code);
	} else if (is_help) {
		st_verb_help(v, stdout);
		code = flushed();
	} else {
		code = v->run(args, argv);
	}
	st_args_fini(v, args);
	free(args);
	return code;
}

/*
 * A standard stream that the caller closed would make the next file opened its successor, and a
 * line for people would land in it. In their place stands /dev/null, opened so that writing fails.
 */
static bool hold_standard_streams(void)
{
	for (int fd = 0; fd <= 2; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd ? O_RDONLY : O_WRONLY) != fd)
			return false;
	return true;
}

int main(int argc, char **argv)
{
	const struct st_verb *v;
	size_t n_words = 0;

	if (!hold_standard_streams())
		return 4;
	signal(SIGPIPE, SIG_IGN); /* a reader that went away is an error of the write */
	setlocale(LC_CTYPE, "");  /* which characters the terminal has; numbers stay as in C */
	if (argc < 2)
		return st_report(st_fail(
			-EINVAL, "which verb? train, plan, sample, config, ... (see \"strata"
				 " help\")."));
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
		return run_verb(&verb_help, argv + argc, argv);
	if (!strcmp(argv[1], "--version"))
		return run_verb(&verb_version, argv + argc, argv);
	v = st_verb_find(verbs, ST_ARRAY_LEN(verbs), argv + 1, &n_words);
	if (v)
		return run_verb(v, argv + 1 + n_words, argv);
	if (is_group(argv[1]) && argv[2] &&
	    (!strcmp(argv[2], "--help") || !strcmp(argv[2], "-h"))) {
		print_group(argv[1]);
		return flushed();
	}
	return unknown_verb(argv + 1);
}
