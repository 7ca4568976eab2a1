/* SPDX-License-Identifier: Apache-2.0 */
/* cli/args.c - verbs and their options: parsing, help, the nearest known name. */
#include "cli/args.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/status.h"
#include "core/text.h"

#define NAME_MAX_LEN 64
#define HELP_COLUMN  26

/* ---- the nearest name ---------------------------------------------------------------------- */

const char *st_nearest(const char *s, const char *(*at)(const void *user, size_t i), size_t n,
		       const void *user)
{
	const char *best = "";
	unsigned best_distance = ~0u;

	for (size_t i = 0; i < n; i++) {
		const char *name = at(user, i);
		unsigned d = name ? st_edit_distance(s, name) : ~0u;

		if (d < best_distance) {
			best_distance = d;
			best = name;
		}
	}
	return best;
}

const struct st_verb *st_verb_find(const struct st_verb *const *verbs, size_t n, char **argv,
				   size_t *n_words)
{
	for (size_t i = 0; argv[0] && i < n; i++) {
		const char *name = verbs[i]->name;
		size_t len = strlen(argv[0]);

		if (strncmp(name, argv[0], len) != 0)
			continue;
		*n_words = name[len] == ' ' ? 2 : 1;
		if (!name[len] || (name[len] == ' ' && argv[1] && !strcmp(name + len + 1, argv[1])))
			return verbs[i];
	}
	return NULL;
}

/* ---- parsing ------------------------------------------------------------------------------- */

struct parse {
	const struct st_verb *v;
	char *args;     /* the struct of arguments */
	size_t n_words; /* room of each list */
	size_t n_operands;
};

static int parse_uint(const struct st_verb *v, const struct st_opt *o, const char *text,
		      uint64_t *out)
{
	unsigned long long x;
	char *end;

	if (text[0] < '0' || text[0] > '9')
		return st_fail(-EINVAL, "%s: --%s needs a whole number, not \"%.64s\".", v->name,
			       o->name, text);
	errno = 0;
	x = strtoull(text, &end, 10);
	if (*end)
		return st_fail(-EINVAL, "%s: --%s needs a whole number, not \"%.64s\".", v->name,
			       o->name, text);
	if (errno || x < o->min || (o->max && x > o->max))
		return st_fail(-EINVAL,
			       "%s: --%s: %.64s is out of range; the least is %llu, the most %llu.",
			       v->name, o->name, text, (unsigned long long)o->min,
			       o->max ? (unsigned long long)o->max : ~0ull);
	*out = x;
	return 0;
}

static int parse_real(const struct st_verb *v, const struct st_opt *o, const char *text,
		      double *out)
{
	char *end;
	double x;

	errno = 0;
	x = strtod(text, &end);
	if (!*text || strspn(text, "0123456789.eE+-") != strlen(text) || *end)
		return st_fail(-EINVAL, "%s: --%s needs a number, not \"%.64s\".", v->name, o->name,
			       text);
	if (!isfinite(x) || x < (double)o->min || x > (double)o->max)
		return st_fail(-EINVAL,
			       "%s: --%s: %.64s is out of range; the least is %llu, the most %llu.",
			       v->name, o->name, text, (unsigned long long)o->min,
			       (unsigned long long)o->max);
	*out = x;
	return 0;
}

static int parse_size(const struct st_verb *v, const struct st_opt *o, const char *text,
		      uint64_t *out)
{
	double x;

	if (strspn(text, "0123456789") == strlen(text))
		return parse_uint(v, o, text, out);
	if (!st_parse_size(text, &x))
		return st_fail(-EINVAL,
			       "%s: --%s: \"%.64s\" is no size; write it as 1GiB, 384MiB or "
			       "4096.",
			       v->name, o->name, text);
	if (x < (double)o->min || x > (o->max ? (double)o->max : 0x1p62))
		return st_fail(-EINVAL,
			       "%s: --%s: %.64s is out of range; the least is %llu bytes, the most "
			       "%llu.",
			       v->name, o->name, text, (unsigned long long)o->min,
			       o->max ? (unsigned long long)o->max : 1ull << 62);
	*out = (uint64_t)x;
	return 0;
}

static int parse_word(const struct st_verb *v, const struct st_opt *o, const char *text, int *out)
{
	char list[128] = "";

	for (int i = 0; o->words[i]; i++) {
		size_t len = strlen(list);

		if (!strcmp(o->words[i], text)) {
			*out = i;
			return 0;
		}
		snprintf(list + len, sizeof(list) - len, "%s%s", i ? ", " : "", o->words[i]);
	}
	return st_fail(-EINVAL, "%s: --%s: \"%.64s\" is none of %s.", v->name, o->name, text, list);
}

static int store(struct parse *p, const struct st_opt *o, const char *text)
{
	void *field = p->args + o->offset;
	struct st_opt_list *list = field;

	switch (o->kind) {
	case ST_OPT_FLAG:
		*(bool *)field = true;
		return 0;
	case ST_OPT_TEXT:
	case ST_OPT_OPERAND:
		if (!*text)
			return st_fail(-EINVAL, "%s: %s%s is empty; name one, or leave it out.",
				       p->v->name, o->kind == ST_OPT_TEXT ? "--" : "", o->name);
		*(const char **)field = text;
		return 0;
	case ST_OPT_ANY:
		*(const char **)field = text;
		return 0;
	case ST_OPT_LIST:
		if (!list->v)
			list->v = calloc(p->n_words, sizeof(*list->v));
		if (!list->v)
			return st_fail(-ENOMEM, "arguments");
		list->v[list->n++] = text;
		return 0;
	case ST_OPT_UINT:
		return parse_uint(p->v, o, text, field);
	case ST_OPT_REAL:
		return parse_real(p->v, o, text, field);
	case ST_OPT_SIZE:
		return parse_size(p->v, o, text, field);
	case ST_OPT_WORD:
		return parse_word(p->v, o, text, field);
	}
	return st_fail(-EINVAL, "%s: --%s: option of no known kind.", p->v->name, o->name);
}

static const char *option_name(const void *user, size_t i)
{
	const struct st_verb *v = user;

	if (i == v->n_opts)
		return "help";
	return v->opts[i].kind == ST_OPT_OPERAND ? NULL : v->opts[i].name;
}

static const struct st_opt *find_option(const struct st_verb *v, const char *name, size_t len)
{
	for (size_t i = 0; i < v->n_opts; i++) {
		const struct st_opt *o = &v->opts[i];

		if (o->kind != ST_OPT_OPERAND && strlen(o->name) == len &&
		    !strncmp(o->name, name, len))
			return o;
	}
	return NULL;
}

/* One option at argv[0]. @return how many words it took, or a negative code */
static int parse_option(struct parse *p, char **argv)
{
	const struct st_verb *v = p->v;
	const char *name = argv[0] + 2;
	size_t len = strcspn(name, "=");
	const struct st_opt *o = find_option(v, name, len);
	const char *text = name[len] ? name + len + 1 : argv[1];
	int rc;

	if (strncmp(argv[0], "--", 2) != 0 || !o) {
		char plain[NAME_MAX_LEN];

		snprintf(plain, sizeof(plain), "%.*s", (int)(len < 63 ? len : 63), name);
		return st_fail(-EINVAL,
			       "%s: unknown option %.64s; the nearest known one is --%s (see"
			       " \"strata help %s\").",
			       v->name, argv[0], st_nearest(plain, option_name, v->n_opts + 1, v),
			       v->name);
	}
	if (o->kind == ST_OPT_FLAG) {
		if (name[len])
			return st_fail(-EINVAL, "%s: --%s takes no value.", v->name, o->name);
		rc = store(p, o, "");
		return rc ? rc : 1;
	}
	if (!text || (!name[len] && !strncmp(text, "--", 2)))
		return st_fail(-EINVAL, "%s: --%s needs %s after it.", v->name, o->name,
			       o->metavar);
	rc = store(p, o, text);
	return rc ? rc : name[len] ? 1 : 2;
}

static int parse_operand(struct parse *p, const char *text)
{
	size_t at = 0;

	for (size_t i = 0; i < p->v->n_opts; i++) {
		if (p->v->opts[i].kind != ST_OPT_OPERAND || at++ < p->n_operands)
			continue;
		p->n_operands++;
		return store(p, &p->v->opts[i], text);
	}
	return st_fail(-EINVAL, "%s: one argument too many: \"%.64s\" (see \"strata help %s\").",
		       p->v->name, text, p->v->name);
}

static int check_operands(const struct parse *p)
{
	size_t at = 0;

	for (size_t i = 0; i < p->v->n_opts; i++) {
		const struct st_opt *o = &p->v->opts[i];

		if (o->kind == ST_OPT_OPERAND && at++ >= p->n_operands && o->is_required)
			return st_fail(-EINVAL, "%s: %s is missing (see \"strata help %s\").",
				       p->v->name, o->name, p->v->name);
	}
	return 0;
}

int st_args_parse(const struct st_verb *v, char **argv, void *args, bool *is_help)
{
	struct parse p = { .v = v, .args = args };
	bool has_options = true;

	memset(args, 0, v->args_bytes);
	if (v->defaults)
		memcpy(args, v->defaults, v->args_bytes);
	*is_help = false;
	for (; argv[p.n_words]; p.n_words++)
		if (!strcmp(argv[p.n_words], "--help") || !strcmp(argv[p.n_words], "-h")) {
			*is_help = true;
			return 0;
		} else if (!strcmp(argv[p.n_words], "--")) {
			break;
		}
	while (argv[p.n_words])
		p.n_words++;
	while (*argv) {
		int rc;

		if (has_options && !strcmp(*argv, "--")) {
			has_options = false;
			argv++;
			continue;
		}
		rc = has_options && argv[0][0] == '-' && argv[0][1] ? parse_option(&p, argv)
								    : parse_operand(&p, *argv);
		if (rc < 0)
			return rc;
		argv += rc ? rc : 1;
	}
	return check_operands(&p);
}

void st_args_fini(const struct st_verb *v, void *args)
{
	for (size_t i = 0; i < v->n_opts; i++)
		if (v->opts[i].kind == ST_OPT_LIST)
			free(((struct st_opt_list *)((char *)args + v->opts[i].offset))->v);
}

/* ---- help ---------------------------------------------------------------------------------- */

static void print_usage(const struct st_verb *v, FILE *f)
{
	bool has_options = false;

	fprintf(f, "usage: strata %s", v->name);
	for (size_t i = 0; i < v->n_opts; i++) {
		const struct st_opt *o = &v->opts[i];

		if (o->kind != ST_OPT_OPERAND)
			has_options = true;
		else
			fprintf(f, o->is_required ? " %s" : " [%s]", o->name);
	}
	fputs(has_options ? " [OPTION]...\n\n" : "\n\n", f);
}

static void print_option(const struct st_opt *o, FILE *f)
{
	char left[96];
	int len;

	if (o->kind == ST_OPT_OPERAND)
		len = snprintf(left, sizeof(left), "  %s", o->name);
	else
		len = snprintf(left, sizeof(left), "  --%s%s%s", o->name, o->metavar ? " " : "",
			       o->metavar ? o->metavar : "");
	if (len > HELP_COLUMN - 2)
		fprintf(f, "%s\n%*s", left, HELP_COLUMN, "");
	else
		fprintf(f, "%-*s", HELP_COLUMN, left);
	for (const char *c = o->help; *c; c++) { /* further lines stand below the first */
		fputc(*c, f);
		if (*c == '\n')
			fprintf(f, "%*s", HELP_COLUMN, "");
	}
	fputc('\n', f);
}

void st_verb_help(const struct st_verb *v, FILE *f)
{
	print_usage(v, f);
	fprintf(f, "%s\n\n", v->summary);
	for (size_t i = 0; i < v->n_opts; i++)
		print_option(&v->opts[i], f);
	fprintf(f, "%-*sthis text\n", HELP_COLUMN, "  --help");
	if (v->more)
		fprintf(f, "\n%s", v->more);
}
