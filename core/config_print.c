/* SPDX-License-Identifier: Apache-2.0 */
/* core/config_print.c - the configuration for people and programs: explain, dump, schema, help. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/config_priv.h"

bool st_config_applies(const struct st_config *cfg, const struct st_key *k)
{
	return !k->schedules || k->schedules & 1u << cfg->schedule.type;
}

bool st_config_is_idle(const struct st_config *cfg, size_t i)
{
	size_t n, up;
	const struct st_key *keys = st_config_keys(&n), *parent;

	if (!cfg->priv->node[i] || keys[i].fate != ST_KEY_NO_EFFECT)
		return false;
	up = (size_t)(st_key_leaf(keys[i].path) - keys[i].path);
	parent = up ? st_key_find(keys[i].path, up - 1) : NULL;
	return !parent || parent->fate != ST_KEY_NO_EFFECT;
}

bool st_config_is_unset(const struct st_config *cfg, const struct st_key *k)
{
	enum st_source source = cfg->priv->source[st_key_index(k->path)];
	const void *field = st_config_field(cfg, k);

	if (k->def || (source != ST_FROM_DEFAULT && source != ST_FROM_AUTO))
		return false;
	switch (k->type) {
	case ST_KEY_INT:
		return !*(const uint64_t *)field;
	case ST_KEY_SIZE:
		return !*(const size_t *)field;
	case ST_KEY_STRING:
	case ST_KEY_WORD:
		return !*(const char *const *)field;
	case ST_KEY_PATHS:
		return !((const struct st_strings *)field)->n;
	case ST_KEY_INTS:
		return !((const struct st_numbers *)field)->n;
	default:
		return false;
	}
}

static void print_number(double x, FILE *f)
{
	char buf[32];

	st_json_format_number(x, buf, sizeof(buf));
	fputs(buf, f);
}

static void print_enum(const struct st_key *k, int value, FILE *f)
{
	for (const struct st_choice *c = k->choices; c->name; c++) {
		if (c->value != value)
			continue;
		st_json_write_string(f, c->name);
		return;
	}
	fputs("null", f);
}

void st_config_print_value(const struct st_config *cfg, const struct st_key *k, FILE *f)
{
	const void *field = st_config_field(cfg, k);
	const struct st_strings *s = field;
	const struct st_numbers *u = field;

	if (st_config_is_unset(cfg, k)) {
		fputs("null", f);
		return;
	}
	switch (k->type) {
	case ST_KEY_BOOL:
		fputs(*(const bool *)field ? "true" : "false", f);
		break;
	case ST_KEY_INT:
		fprintf(f, "%ju", (uintmax_t) * (const uint64_t *)field);
		break;
	case ST_KEY_SIZE:
		fprintf(f, "%zu", *(const size_t *)field);
		break;
	case ST_KEY_NUM:
		print_number(*(const double *)field, f);
		break;
	case ST_KEY_PAIR:
		fputc('[', f);
		print_number(((const double *)field)[0], f);
		fputs(", ", f);
		print_number(((const double *)field)[1], f);
		fputc(']', f);
		break;
	case ST_KEY_STRING:
	case ST_KEY_WORD:
		st_json_write_string(f, *(const char *const *)field);
		break;
	case ST_KEY_ENUM:
		print_enum(k, *(const int *)field, f);
		break;
	case ST_KEY_PATHS:
		for (size_t i = 0; i < s->n; i++) {
			fputs(i ? ", " : "[", f);
			st_json_write_string(f, s->v[i]);
		}
		fputs(s->n ? "]" : "[]", f);
		break;
	case ST_KEY_INTS:
		for (size_t i = 0; i < u->n; i++)
			fprintf(f, "%s%ju", i ? ", " : "[", (uintmax_t)u->v[i]);
		fputs(u->n ? "]" : "[]", f);
		break;
	case ST_KEY_OBJECT:
	case ST_KEY_OPEN:
	case ST_KEY_ANY:
		fputs("null", f);
		break;
	}
}

/* ---- explain ------------------------------------------------------------------------------ */

static bool has_value(const struct st_key *k)
{
	return k->fate == ST_KEY_HONOURED && !k->alias_of && k->type != ST_KEY_OBJECT &&
	       k->type != ST_KEY_OPEN;
}

static void source_text(const struct st_config *cfg, size_t i, char *buf, size_t bytes)
{
	const struct st_config_priv *pv = cfg->priv;

	switch (pv->source[i]) {
	case ST_FROM_DEFAULT:
		snprintf(buf, bytes, "default");
		break;
	case ST_FROM_FILE:
		snprintf(buf, bytes, "file:%u", pv->node[i]->line);
		break;
	case ST_FROM_SET:
		snprintf(buf, bytes, "--set");
		break;
	case ST_FROM_AUTO:
		snprintf(buf, bytes, "auto");
		break;
	case ST_FROM_RULE:
		snprintf(buf, bytes, "derived");
		break;
	}
}

static void explain_json(const struct st_config *cfg, const struct st_key *keys, size_t n, FILE *f)
{
	const char *sep = "[\n";
	char source[32];

	for (size_t i = 0; i < n; i++) {
		bool is_idle = st_config_is_idle(cfg, i);

		if (!is_idle && (!has_value(&keys[i]) || !st_config_applies(cfg, &keys[i])))
			continue;
		source_text(cfg, i, source, sizeof(source));
		fprintf(f, "%s  {\"key\": \"%s\", \"source\": \"%s\", ", sep, keys[i].path, source);
		sep = ",\n";
		if (is_idle) {
			fputs("\"no_effect\": ", f);
			st_json_write_string(f, keys[i].reason);
		} else {
			fputs("\"value\": ", f);
			st_config_print_value(cfg, &keys[i], f);
		}
		fputc('}', f);
	}
	fputs("\n]\n", f);
}

void st_config_explain(const struct st_config *cfg, FILE *f, bool as_json)
{
	struct st_c_locale l = st_c_locale_enter();
	size_t n;
	const struct st_key *keys = st_config_keys(&n);
	char source[32];

	if (as_json) {
		explain_json(cfg, keys, n, f);
		st_c_locale_leave(&l);
		return;
	}
	for (size_t i = 0; i < n; i++) {
		if (!has_value(&keys[i]) || !st_config_applies(cfg, &keys[i]))
			continue;
		source_text(cfg, i, source, sizeof(source));
		fprintf(f, "%-10s %-46s = ", source, keys[i].path);
		st_config_print_value(cfg, &keys[i], f);
		fputc('\n', f);
	}
	for (size_t i = 0; i < n; i++) {
		if (!st_config_is_idle(cfg, i))
			continue;
		source_text(cfg, i, source, sizeof(source));
		fprintf(f, "%-10s %-46s   no effect here: %s\n", source, keys[i].path,
			keys[i].reason);
	}
	st_c_locale_leave(&l);
}

/* ---- differences -------------------------------------------------------------------------- */

/* A row's value as explain writes it. @return owned by the caller, or NULL */
static char *value_text(const struct st_config *cfg, const struct st_key *k)
{
	char *text = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);

	if (!f)
		return NULL;
	st_config_print_value(cfg, k, f);
	if (fclose(f)) {
		free(text);
		return NULL;
	}
	return text;
}

/* One of the differences, "key: old -> new". */
static void add_difference(const struct st_key *k, const char *was, const char *now, size_t n,
			   char *text, size_t text_bytes)
{
	static const char none[] = "(not given)";
	size_t at = strlen(text);

	if (!strcmp(was, "null"))
		was = none;
	if (!strcmp(now, "null"))
		now = none;
	if (at + 1 < text_bytes)
		snprintf(text + at, text_bytes - at, "%s%s: %.48s -> %.48s", n ? "; " : "", k->path,
			 was, now);
}

size_t st_config_differences(const struct st_config *was, const struct st_config *now, char *text,
			     size_t text_bytes)
{
	struct st_c_locale l = st_c_locale_enter();
	size_t n_keys, n = 0;
	const struct st_key *keys = st_config_keys(&n_keys);

	if (text_bytes)
		*text = '\0';
	for (size_t i = 0; i < n_keys; i++) {
		const struct st_key *k = &keys[i];
		char *a, *b;

		if (!k->tie)
			continue;
		if (k->tie == ST_KEY_TIED_SIGN &&
		    (*(const double *)st_config_field(was, k) > 0) ==
			    (*(const double *)st_config_field(now, k) > 0))
			continue;
		a = value_text(was, k);
		b = value_text(now, k);
		if (a && b && strcmp(a, b) != 0)
			add_difference(k, a, b, n++, text, text_bytes);
		free(a);
		free(b);
	}
	st_c_locale_leave(&l);
	return n;
}

/* ---- dump --------------------------------------------------------------------------------- */

/* Is there anything to write below k, whose first member is row i? */
static bool holds_values(const struct st_key *keys, size_t n, size_t i, const struct st_key *k)
{
	size_t len = strlen(k->path);

	for (; i < n && !strncmp(keys[i].path, k->path, len) && keys[i].path[len] == '.'; i++)
		if (has_value(&keys[i]))
			return true;
	return false;
}

/* Rows [*i, end of parent's subtree): the members of one object. */
static void dump_members(const struct st_config *cfg, const struct st_key *keys, size_t n,
			 size_t *i, const char *parent, int depth, FILE *f)
{
	size_t len = strlen(parent);
	const char *sep = "";

	while (*i < n &&
	       (!len || (!strncmp(keys[*i].path, parent, len) && keys[*i].path[len] == '.'))) {
		const struct st_key *k = &keys[(*i)++];

		if (k->type == ST_KEY_OBJECT && !k->alias_of && holds_values(keys, n, *i, k)) {
			fprintf(f, "%s\n%*s\"%s\": {", sep, depth * 2, "", st_key_leaf(k->path));
			dump_members(cfg, keys, n, i, k->path, depth + 1, f);
			fprintf(f, "\n%*s}", depth * 2, "");
			sep = ",";
		} else if (has_value(k) && st_config_applies(cfg, k) &&
			   !st_config_is_unset(cfg, k)) {
			fprintf(f, "%s\n%*s\"%s\": ", sep, depth * 2, "", st_key_leaf(k->path));
			st_config_print_value(cfg, k, f);
			sep = ",";
		}
	}
}

void st_config_dump(const struct st_config *cfg, FILE *f)
{
	struct st_c_locale l = st_c_locale_enter();
	size_t n, i = 0;
	const struct st_key *keys = st_config_keys(&n);

	fputc('{', f);
	dump_members(cfg, keys, n, &i, "", 1, f);
	fputs("\n}\n", f);
	st_c_locale_leave(&l);
}

/* ---- schema ------------------------------------------------------------------------------- */

static void schema_choices(const struct st_key *k, FILE *f)
{
	const char *sep = "";

	if (k->flags & ST_KEY_FOLD) { /* any case: a schema can only say so by a pattern */
		fputs("\"type\": \"string\", \"pattern\": \"^(", f);
		for (const struct st_choice *c = k->choices; c->name; c++, sep = "|") {
			fputs(sep, f);
			for (const char *p = c->name; *p; p++)
				fprintf(f, "[%c%c]", *p & ~32, *p | 32);
		}
		fputs(")$\"", f);
		return;
	}
	fputs("\"enum\": [", f);
	for (const struct st_choice *c = k->choices; c->name; c++, sep = ", ")
		fprintf(f, "%s\"%s\"", sep, c->name);
	fputc(']', f);
}

static void schema_range(const struct st_key *k, FILE *f)
{
	if (k->fate != ST_KEY_HONOURED)
		return;
	fprintf(f, ", \"%s\": ", k->flags & ST_KEY_ABOVE_MIN ? "exclusiveMinimum" : "minimum");
	print_number(k->min, f);
	if (!(k->max > 0))
		return;
	fprintf(f, ", \"%s\": ", k->flags & ST_KEY_BELOW_MAX ? "exclusiveMaximum" : "maximum");
	print_number(k->max, f);
}

/* The keywords that describe a value of row k, without braces. */
static void schema_type(const struct st_key *k, FILE *f)
{
	switch (k->type) {
	case ST_KEY_OBJECT:
	case ST_KEY_OPEN:
		fputs("\"type\": \"object\"", f);
		break;
	case ST_KEY_BOOL:
		fputs("\"type\": \"boolean\"", f);
		break;
	case ST_KEY_INT:
		fputs("\"type\": \"integer\"", f);
		schema_range(k, f);
		break;
	case ST_KEY_NUM:
		fputs("\"type\": \"number\"", f);
		schema_range(k, f);
		break;
	case ST_KEY_SIZE:
		fputs("\"anyOf\": [{\"type\": \"integer\"", f);
		schema_range(k, f);
		fputs("}, {\"type\": \"string\", \"pattern\": "
		      "\"^[0-9]+([.][0-9]+)? *([KMGT]iB|[kKMGT]?B)$\"}]",
		      f);
		break;
	case ST_KEY_STRING:
		fputs("\"type\": \"string\"", f);
		if (k->fate == ST_KEY_HONOURED)
			fputs(", \"minLength\": 1", f);
		break;
	case ST_KEY_WORD:
	case ST_KEY_ENUM:
		schema_choices(k, f);
		break;
	case ST_KEY_PATHS:
		fprintf(f,
			"\"anyOf\": [{\"type\": \"string\", \"minLength\": 1}, {\"type\": "
			"\"array\", "
			"\"items\": {\"type\": \"string\", \"minLength\": 1}, \"minItems\": 1, "
			"\"maxItems\": %u, \"uniqueItems\": true}]",
			ST_CONFIG_PATHS_MAX);
		break;
	case ST_KEY_PAIR:
		fputs("\"type\": \"array\", \"minItems\": 2, \"maxItems\": 2, \"items\": "
		      "{\"type\": \"number\"",
		      f);
		schema_range(k, f);
		fputc('}', f);
		break;
	case ST_KEY_INTS:
		fprintf(f,
			"\"type\": \"array\", \"minItems\": 1, \"maxItems\": %u, \"items\": "
			"{\"type\": \"integer\", \"minimum\": 1}",
			ST_CONFIG_PATHS_MAX);
		break;
	case ST_KEY_ANY:
		break;
	}
}

static void schema_description(const struct st_key *k, FILE *f)
{
	char buf[400];

	if (k->fate == ST_KEY_NO_EFFECT)
		snprintf(buf, sizeof(buf), "accepted, no effect here: %s", k->reason);
	else if (k->fate == ST_KEY_REFUSED)
		snprintf(buf, sizeof(buf), "refused, save its default: %s", k->reason);
	else
		snprintf(buf, sizeof(buf), "%s", k->help);
	fputs("\"description\": ", f);
	st_json_write_string(f, buf);
	if (k->def)
		fprintf(f, ", \"default\": %s", k->def);
}

static void schema_leaf(const struct st_key *k, FILE *f)
{
	const struct st_key *of = k;

	if (k->alias_of) {
		of = st_key_find(k->alias_of, strlen(k->alias_of));
		fputs("{\"deprecated\": true, ", f);
	} else {
		fputc('{', f);
	}
	schema_description(of, f);
	if (of->fate == ST_KEY_REFUSED) {
		/* what parses: the default, null, "auto", and a section that is empty or off */
		fprintf(f, ", \"anyOf\": [{\"enum\": [null, \"auto\"%s%s]}", of->def ? ", " : "",
			of->def ? of->def : "");
		if (of->type == ST_KEY_ANY)
			fputs(", {\"type\": \"object\", \"maxProperties\": 0}, {\"type\": "
			      "\"object\", "
			      "\"required\": [\"enabled\"], \"properties\": {\"enabled\": "
			      "{\"const\": false}}}",
			      f);
		fputs("]}", f);
	} else if (of->type == ST_KEY_ANY) {
		fputc('}', f);
	} else {
		fputs(", \"anyOf\": [{", f);
		schema_type(of, f);
		fprintf(f, "}, {\"type\": \"null\"}%s]}",
			of->flags & ST_KEY_AUTO ? ", {\"const\": \"auto\"}" : "");
	}
}

static void schema_members(const struct st_key *keys, size_t n, size_t *i, const char *parent,
			   int depth, FILE *f)
{
	size_t len = strlen(parent);
	const char *sep = "";

	while (*i < n &&
	       (!len || (!strncmp(keys[*i].path, parent, len) && keys[*i].path[len] == '.'))) {
		const struct st_key *k = &keys[(*i)++];

		fprintf(f, "%s\n%*s\"%s\": ", sep, depth, "", st_key_leaf(k->path));
		sep = ",";
		if (k->type != ST_KEY_OBJECT && k->type != ST_KEY_OPEN) {
			schema_leaf(k, f);
			continue;
		}
		if (k->alias_of) {
			schema_leaf(k, f);
			continue;
		}
		fputc('{', f);
		schema_description(k, f);
		fprintf(f,
			", \"anyOf\": [%s{\"type\": \"null\"}%s, {\"type\": \"object\", "
			"\"additionalProperties\": %s, \"properties\": {",
			strcmp(k->path, "strata.model") ? "" : "{\"type\": \"string\"}, ",
			k->flags & ST_KEY_AUTO ? ", {\"const\": \"auto\"}" : "",
			k->type == ST_KEY_OPEN ? "true" : "false");
		schema_members(keys, n, i, k->path, depth + 1, f);
		fputs("}}]}", f);
	}
}

void st_config_schema(FILE *f)
{
	struct st_c_locale l = st_c_locale_enter();
	size_t n, i = 0;
	const struct st_key *keys = st_config_keys(&n);

	fputs("{\"$schema\": \"https://json-schema.org/draft/2020-12/schema\",\n"
	      "\"title\": \"Strata configuration: a DeepSpeed JSON plus one object "
	      "\\\"strata\\\"\",\n"
	      "\"type\": \"object\", \"additionalProperties\": false, \"properties\": {",
	      f);
	schema_members(keys, n, &i, "", 1, f);
	fputs("\n}}\n", f);
	st_c_locale_leave(&l);
}

/* ---- help --------------------------------------------------------------------------------- */

static void help_value(const struct st_key *k, FILE *f)
{
	if (k->choices) {
		fputs("one of", f);
		for (const struct st_choice *c = k->choices; c->name; c++)
			fprintf(f, " \"%s\"", c->name);
	} else {
		fputs(st_key_type_text(k), f);
	}
	if (k->min != 0) {
		fprintf(f, ", %s ", k->flags & ST_KEY_ABOVE_MIN ? "above" : "at least");
		print_number(k->min, f);
	}
	if (k->max > 0) {
		fprintf(f, ", %s ", k->flags & ST_KEY_BELOW_MAX ? "below" : "at most");
		print_number(k->max, f);
	}
	if (k->def)
		fprintf(f, "; default %s", k->def);
	if (k->flags & ST_KEY_AUTO && k->auto_text)
		fprintf(f, "; \"auto\": %s", k->auto_text);
}

/* A text of several lines stands under its first one. */
static void help_text(const char *text, FILE *f)
{
	for (; *text; text++) {
		fputc(*text, f);
		if (*text == '\n')
			fputs("    ", f);
	}
}

static void help_row(const struct st_key *k, FILE *f)
{
	if (k->alias_of) {
		fprintf(f, "%s\n    old name of %s\n", k->path, k->alias_of);
		return;
	}
	if (k->type == ST_KEY_OBJECT && k->help) {
		fprintf(f, "%s: %s\n", k->path, k->help);
		return;
	}
	fprintf(f, "%s\n    ", k->path);
	if (k->fate == ST_KEY_NO_EFFECT) {
		fprintf(f, "accepted, no effect here: %s\n", k->reason);
	} else if (k->fate == ST_KEY_REFUSED) {
		fprintf(f, "refused%s%s: %s\n", k->def ? ", save " : "", k->def ? k->def : "",
			k->reason);
	} else {
		help_text(k->help, f);
		fputs("\n    ", f);
		help_value(k, f);
		fputc('\n', f);
	}
}

int st_config_help(FILE *f, const char *path)
{
	size_t n, len = path ? strlen(path) : 0;
	const struct st_key *keys = st_config_keys(&n);
	struct st_c_locale l;
	bool is_here = false;

	if (path && !st_key_find(path, len))
		return st_fail(STRATA_E_CONFIG,
			       "unknown key \"%.64s\"; the nearest known key is \"%s\"", path,
			       st_key_nearest("", st_key_leaf(path), &is_here));
	l = st_c_locale_enter();
	for (size_t i = 0; i < n; i++)
		if (!path || (!strncmp(keys[i].path, path, len) &&
			      (!keys[i].path[len] || keys[i].path[len] == '.')))
			help_row(&keys[i], f);
	st_c_locale_leave(&l);
	return 0;
}
