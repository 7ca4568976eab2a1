/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cli/args.h - verbs and their options: one table drives parsing and help.
 *
 * Layer:   cli
 * Threads: none but main
 *
 * An option is written "--name value" or "--name=value"; "--" ends the options. What does not start
 * with "-" is an operand, taken by the operands of the table in their order.
 */
#ifndef CLI_ARGS_H
#define CLI_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum st_opt_kind {
	ST_OPT_FLAG,    /* bool */
	ST_OPT_TEXT,    /* const char *, not empty; NULL if not given */
	ST_OPT_ANY,     /* const char *, may be empty */
	ST_OPT_LIST,    /* struct st_opt_list: may be given many times */
	ST_OPT_UINT,    /* uint64_t in min..max, decimal digits only */
	ST_OPT_REAL,    /* double in min..max */
	ST_OPT_SIZE,    /* uint64_t in min..max: bytes, or with a unit ("1GiB") */
	ST_OPT_WORD,    /* int: the index in words */
	ST_OPT_OPERAND, /* const char *: name is what help calls it */
};

struct st_opt_list {
	const char **v; /* [n], owned by the parsed arguments */
	size_t n;
};

struct st_opt {
	const char *name; /* "steps"; "CONFIG" for an operand */
	enum st_opt_kind kind;
	bool is_required;         /* operands */
	const char *metavar;      /* what help calls the value */
	size_t offset;            /* of the field in the verb's struct of arguments */
	uint64_t min, max;        /* UINT, REAL, SIZE */
	const char *const *words; /* WORD: ends with NULL */
	const char *help;
};

struct st_verb {
	const char *name;    /* "train", "config check" */
	const char *summary; /* what it does, for the list of verbs */
	const char *more;    /* further text of its help, or NULL; ends with a newline */
	const struct st_opt *opts;
	size_t n_opts;
	size_t args_bytes;    /* of the struct of arguments; its fields start from defaults */
	const void *defaults; /* [args_bytes], or NULL: zeroes */
	/* @return the program's exit code; argv is the whole command line, NULL at its end */
	int (*run)(const void *args, char **argv);
};

/** st_verb_find() - the verb that argv (from the first word on) names. @param n_words  out, 1 or 2
 */
const struct st_verb *st_verb_find(const struct st_verb *const *verbs, size_t n, char **argv,
				   size_t *n_words);

/** st_nearest() - of n names that at() gives, the one most like s. */
const char *st_nearest(const char *s, const char *(*at)(const void *user, size_t i), size_t n,
		       const void *user);

/**
 * st_args_parse() - fill a verb's arguments.
 * @param argv      in, what follows the verb; NULL at its end
 * @param args      out, [v->args_bytes]; st_args_fini() also after a failure
 * @param is_help   out, "--help" or "-h" stood there; nothing else was looked at
 * @return 0; -EINVAL (one line in strata_last_error()); -ENOMEM
 */
int st_args_parse(const struct st_verb *v, char **argv, void *args, bool *is_help);
void st_args_fini(const struct st_verb *v, void *args);

/** st_verb_help() - usage, options and text of a verb. */
void st_verb_help(const struct st_verb *v, FILE *f);

#endif
