/* SPDX-License-Identifier: Apache-2.0 */
/* core/config.c - loading: file, overrides, and each value through its row into its field. */
#include "core/config.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/config_priv.h"
#include "core/text.h"

_Static_assert(sizeof(enum st_offload) == sizeof(int) && sizeof(enum st_dtype) == sizeof(int) &&
		       sizeof(enum st_schedule_type) == sizeof(int),
	       "ST_KEY_ENUM stores an int");

size_t st_key_index(const char *path)
{
	size_t n;
	const struct st_key *keys = st_config_keys(&n), *k = st_key_find(path, strlen(path));

	ST_ASSERT(k);
	return (size_t)(k - keys);
}

static int key_fail(const struct st_config *cfg, int rc, const char *path,
		    const struct st_json *node, const char *fmt, va_list ap)
{
	const struct st_config_priv *pv = cfg->priv;
	char text[400];

	vsnprintf(text, sizeof(text), fmt, ap);
	if (!node)
		node = pv->node[st_key_index(path)];
	if (!node)
		return st_fail(rc, "%.80s: %s: %s", pv->name, path, text);
	if (node->set_arg) { /* its own text says which key, unless the value is an object */
		const char *key = node->set_arg + strlen("--set ");
		bool is_named =
			strcspn(key, "=") == strlen(path) && !strncmp(key, path, strlen(path));

		return st_fail(rc, "%.60s%s: %s%s%s", node->set_arg,
			       strlen(node->set_arg) > 60 ? "..." : "", is_named ? "" : path,
			       is_named ? "" : ": ", text);
	}
	return st_fail(rc, "%.120s:%u:%u: %s: %s", pv->name, node->line, node->col, path, text);
}

int st__key_fail(const struct st_config *cfg, const char *path, const struct st_json *node,
		 const char *fmt, ...)
{
	va_list ap;
	int rc;

	va_start(ap, fmt);
	rc = key_fail(cfg, STRATA_E_CONFIG, path, node, fmt, ap);
	va_end(ap);
	return rc;
}

int st_config_fail(const struct st_config *cfg, int rc, const char *path, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	rc = key_fail(cfg, rc, path, NULL, fmt, ap);
	va_end(ap);
	return rc;
}

/* ---- values ------------------------------------------------------------------------------- */

/* What was given, for a message. */
static const char *shown(const struct st_json *v, char buf[64])
{
	switch (v->type) {
	case ST_JSON_STR:
		snprintf(buf, 64, "the string \"%.40s\"", v->text);
		return buf;
	case ST_JSON_NUM:
		snprintf(buf, 64, "the number %.40s", v->text);
		return buf;
	case ST_JSON_LIST:
		return "a list";
	case ST_JSON_OBJ:
		return "an object";
	default:
		return v->text; /* true, false, null */
	}
}

static int wrong_type(const struct st_config *cfg, const struct st_key *k, const struct st_json *v)
{
	bool wants_text = k->type == ST_KEY_STRING || k->type == ST_KEY_WORD ||
			  k->type == ST_KEY_ENUM || k->type == ST_KEY_PATHS;
	const char *fix = "";
	char buf[64];

	if (wants_text && v->type <= ST_JSON_NUM)
		fix = "; put it in double quotes";
	else if (v->type == ST_JSON_STR &&
		 (k->type == ST_KEY_INT || k->type == ST_KEY_NUM || k->type == ST_KEY_BOOL))
		fix = "; write it without quotes";
	return st__key_fail(cfg, k->path, v, "%s is wanted, not %s%s", st_key_type_text(k),
			    shown(v, buf), fix);
}

static int check_range(const struct st_config *cfg, const struct st_key *k, const struct st_json *v,
		       double x)
{
	bool is_low = x < k->min || (k->flags & ST_KEY_ABOVE_MIN && x <= k->min);
	bool is_high = k->max > 0 && (x > k->max || (k->flags & ST_KEY_BELOW_MAX && x >= k->max));
	char buf[64], bound[32];

	if (!is_low && !is_high)
		return 0;
	st_json_format_number(is_low ? k->min : k->max, bound, sizeof(bound));
	return st__key_fail(cfg, k->path, v, "must be %s %s, not %s",
			    is_low ? k->flags & ST_KEY_ABOVE_MIN ? "above" : "at least"
			    : k->flags & ST_KEY_BELOW_MAX ? "below"
							  : "at most",
			    bound, shown(v, buf));
}

/* A whole number, also when written as 1e9 or 4.0. Digits are read exactly up to 2^64 - 1. */
static int take_uint(const struct st_config *cfg, const struct st_key *k, const struct st_json *v,
		     uint64_t *out)
{
	uint64_t u;
	int rc;

	if (v->type != ST_JSON_NUM)
		return wrong_type(cfg, k, v);
	if (v->num != floor(v->num))
		return wrong_type(cfg, k, v);
	if (!v->text[strspn(v->text, "0123456789")]) {
		errno = 0;
		u = strtoull(v->text, NULL, 10);
		if (errno)
			return st__key_fail(cfg, k->path, v, "%.40s is too large", v->text);
	} else {
		if (v->num < 0 || v->num >= 18446744073709551616.0)
			return st__key_fail(cfg, k->path, v, "must be %s, not %.40s",
					    v->num < 0 ? "at least 0" : "below 2^64", v->text);
		u = (uint64_t)v->num;
	}
	rc = check_range(cfg, k, v, (double)u);
	if (!rc)
		*out = u;
	return rc;
}

static int take_size(const struct st_config *cfg, const struct st_key *k, const struct st_json *v,
		     size_t *out)
{
	uint64_t u;
	double x;
	int rc;

	if (v->type == ST_JSON_NUM) {
		rc = take_uint(cfg, k, v, &u);
		if (rc)
			return rc;
		if (u > SIZE_MAX / 2)
			return st__key_fail(cfg, k->path, v, "%.40s is too large", v->text);
		*out = (size_t)u;
		return 0;
	}
	if (v->type != ST_JSON_STR)
		return wrong_type(cfg, k, v);
	if (!st_parse_size(v->text, &x))
		return st__key_fail(cfg, k->path, v,
				    "\"%.40s\" is no size; write it as \"384MiB\", \"1.5GiB\" or "
				    "\"2GB\", or as a number of bytes",
				    v->text);
	if (!(x < 0x1p62))
		return st__key_fail(cfg, k->path, v, "\"%.40s\" is too large", v->text);
	rc = check_range(cfg, k, v, floor(x));
	if (!rc)
		*out = (size_t)x;
	return rc;
}

/* --set strata.output=2024 means the text, though 2024 is also a number. */
static const char *text_of(const struct st_json *v)
{
	if (v->type == ST_JSON_STR || (v->set_arg && v->type <= ST_JSON_NUM))
		return v->text;
	return NULL;
}

static bool same_word(const struct st_key *k, const char *a, const char *b)
{
	return k->flags & ST_KEY_FOLD ? !strcasecmp(a, b) : !strcmp(a, b);
}

static int take_choice(const struct st_config *cfg, const struct st_key *k, const struct st_json *v,
		       const struct st_choice **out)
{
	const char *text = text_of(v);
	char list[200];
	size_t len = 0;

	if (!text)
		return wrong_type(cfg, k, v);
	for (const struct st_choice *c = k->choices; c->name; c++) {
		if (same_word(k, c->name, text)) {
			*out = c;
			return 0;
		}
		if (len < sizeof(list))
			len += (size_t)snprintf(list + len, sizeof(list) - len, "%s\"%s\"",
						len ? ", " : "", c->name);
	}
	if (k->reason)
		return st__key_fail(cfg, k->path, v,
				    "\"%.40s\" is not supported: %s; choose from %s", text,
				    k->reason, list);
	return st__key_fail(cfg, k->path, v, "\"%.40s\" is not known; choose from %s", text, list);
}

static int take_string(const struct st_config *cfg, const struct st_key *k, const struct st_json *v,
		       const char **out)
{
	const char *text = text_of(v);

	if (!text)
		return wrong_type(cfg, k, v);
	if (!*text)
		return st__key_fail(cfg, k->path, v, "may not be empty; remove it or give a value");
	*out = text;
	return 0;
}

static int take_paths(struct st_config *cfg, const struct st_key *k, const struct st_json *v,
		      struct st_strings *out)
{
	bool is_list = v->type == ST_JSON_LIST;
	const struct st_json *item = is_list ? v->child : v;
	size_t n = is_list ? v->n : 1, i = 0;
	const char **list;

	if (!n || n > ST_CONFIG_PATHS_MAX)
		return st__key_fail(cfg, k->path, v, "names %zu directories; give 1 to %u", n,
				    ST_CONFIG_PATHS_MAX);
	list = st_pool_alloc(&cfg->priv->pool, n * sizeof(*list));
	if (!list)
		return -ENOMEM;
	for (; i < n; i++, item = item->next) {
		int rc = take_string(cfg, k, item, &list[i]);

		if (rc)
			return rc;
		for (size_t j = 0; j < i; j++)
			if (!strcmp(list[j], list[i]))
				return st__key_fail(
					cfg, k->path, item,
					"\"%.80s\" is named twice; name each directory once",
					list[i]);
	}
	*out = (struct st_strings){ list, n };
	return 0;
}

static int take_pair(const struct st_config *cfg, const struct st_key *k, const struct st_json *v,
		     double *out)
{
	double x[2];
	int i = 0;

	if (v->type != ST_JSON_LIST || v->n != 2)
		return wrong_type(cfg, k, v);
	for (const struct st_json *item = v->child; item; item = item->next, i++) {
		int rc;

		if (item->type != ST_JSON_NUM)
			return wrong_type(cfg, k, item);
		rc = check_range(cfg, k, item, item->num);
		if (rc)
			return rc;
		x[i] = item->num;
	}
	memcpy(out, x, sizeof(x));
	return 0;
}

static int take_ints(struct st_config *cfg, const struct st_key *k, const struct st_json *v,
		     struct st_numbers *out)
{
	struct st_key one = *k;
	uint64_t *list;
	size_t n = 0;

	if (v->type != ST_JSON_LIST || !v->n || v->n > ST_CONFIG_PATHS_MAX)
		return wrong_type(cfg, k, v);
	one.type = ST_KEY_INT;
	one.min = 1;
	one.max = UINT32_MAX;
	list = st_pool_alloc(&cfg->priv->pool, v->n * sizeof(*list));
	if (!list)
		return -ENOMEM;
	for (const struct st_json *item = v->child; item; item = item->next) {
		int rc = take_uint(cfg, &one, item, &list[n++]);

		if (rc)
			return rc;
	}
	*out = (struct st_numbers){ list, n };
	return 0;
}

/* Convert v as row k says and store it at field. */
static int take_value(struct st_config *cfg, const struct st_key *k, const struct st_json *v,
		      void *field)
{
	const struct st_choice *c = NULL;
	int rc;

	switch (k->type) {
	case ST_KEY_BOOL:
		if (v->type != ST_JSON_BOOL)
			return wrong_type(cfg, k, v);
		*(bool *)field = v->is_true;
		return 0;
	case ST_KEY_INT:
		return take_uint(cfg, k, v, field);
	case ST_KEY_NUM:
		if (v->type != ST_JSON_NUM)
			return wrong_type(cfg, k, v);
		rc = check_range(cfg, k, v, v->num);
		if (!rc)
			*(double *)field = v->num;
		return rc;
	case ST_KEY_SIZE:
		return take_size(cfg, k, v, field);
	case ST_KEY_STRING:
		return take_string(cfg, k, v, field);
	case ST_KEY_WORD:
	case ST_KEY_ENUM:
		rc = take_choice(cfg, k, v, &c);
		if (!rc && k->type == ST_KEY_WORD)
			*(const char **)field = c->name;
		else if (!rc)
			*(int *)field = c->value;
		return rc;
	case ST_KEY_PATHS:
		return take_paths(cfg, k, v, field);
	case ST_KEY_PAIR:
		return take_pair(cfg, k, v, field);
	case ST_KEY_INTS:
		return take_ints(cfg, k, v, field);
	case ST_KEY_OBJECT:
	case ST_KEY_OPEN:
	case ST_KEY_ANY:
		break;
	}
	return 0;
}

/* A value without effect, or refused: its type still has to be right. */
static int check_only(struct st_config *cfg, const struct st_key *k, const struct st_json *v)
{
	union {
		uint64_t u;
		double d;
		bool b;
		const char *s;
	} unused;

	if (k->type == ST_KEY_INT) {
		if (v->type != ST_JSON_NUM || v->num != floor(v->num))
			return wrong_type(cfg, k, v);
		return 0;
	}
	if (k->type == ST_KEY_NUM)
		return v->type == ST_JSON_NUM ? 0 : wrong_type(cfg, k, v);
	return take_value(cfg, k, v, &unused);
}

/* Does v say what happens here anyway? */
static bool is_default(const struct st_key *k, const struct st_json *v)
{
	if (v->type == ST_JSON_BOOL)
		return k->def && !strcmp(k->def, v->is_true ? "true" : "false");
	if (v->type == ST_JSON_NUM)
		return k->def && strtod(k->def, NULL) == v->num;
	if (v->type == ST_JSON_OBJ) { /* a section that is there and switched off, or empty */
		const struct st_json *on = st_json_get(v, "enabled");

		return !v->n || (on && on->type == ST_JSON_BOOL && !on->is_true);
	}
	return false;
}

/* ---- the tree ----------------------------------------------------------------------------- */

static int unknown_key(const struct st_config *cfg, const char *parent, const struct st_json *v)
{
	bool is_here = false;
	const char *near = st_key_nearest(parent, v->key, &is_here);
	const char *shown_near = is_here ? st_key_leaf(near) : near;
	const char *in = *parent ? " in " : "";

	if (v->set_arg)
		return st_fail(STRATA_E_CONFIG,
			       "%.120s: unknown key \"%.64s\"%s%s; the nearest known key is \"%s\"",
			       v->set_arg, v->key, in, parent, near);
	return st_fail(STRATA_E_CONFIG,
		       "%.120s:%u:%u: unknown key \"%.64s\"%s%s; the nearest known key is \"%s\"",
		       cfg->priv->name, v->key_line, v->key_col, v->key, in, parent, shown_near);
}

static int take_object(struct st_config *cfg, const struct st_key *parent,
		       const struct st_json *obj);

static bool has_auto_choice(const struct st_key *k)
{
	for (const struct st_choice *c = k->choices; c && c->name; c++)
		if (!strcmp(c->name, "auto"))
			return true;
	return false;
}

static int take_node(struct st_config *cfg, const struct st_key *k, const struct st_json *v)
{
	struct st_config_priv *pv = cfg->priv;
	size_t i = st_key_index(k->path);
	int rc = 0;

	if (pv->node[i])
		return st__key_fail(cfg, k->path, v,
				    "given under its old and its present name; keep \"%s\"",
				    k->path);
	if (v->type == ST_JSON_NULL)
		return 0; /* as if absent */
	pv->node[i] = v;
	if (v->type == ST_JSON_STR && !strcmp(v->text, "auto") && !has_auto_choice(k)) {
		if (!(k->flags & ST_KEY_AUTO))
			return st__key_fail(cfg, k->path, v,
					    "\"auto\" is not possible here; give %s",
					    st_key_type_text(k));
		pv->source[i] = ST_FROM_AUTO;
		return 0;
	}
	pv->source[i] = v->set_arg ? ST_FROM_SET : ST_FROM_FILE;
	if (k->type == ST_KEY_OBJECT || k->type == ST_KEY_OPEN) {
		if (v->type != ST_JSON_OBJ)
			return wrong_type(cfg, k, v);
		return take_object(cfg, k, v);
	}
	if (k->fate == ST_KEY_HONOURED)
		return take_value(cfg, k, v, st_config_field(cfg, k));
	rc = check_only(cfg, k, v);
	if (!rc && k->fate == ST_KEY_REFUSED && !is_default(k, v))
		rc = st__key_fail(cfg, k->path, v, "not supported here: %s", k->reason);
	return rc;
}

/* parent NULL: the whole configuration. Recursion is as deep as the table. */
static int take_object(struct st_config *cfg, const struct st_key *parent,
		       const struct st_json *obj)
{
	const char *prefix = parent ? parent->path : "";

	for (const struct st_json *v = obj->child; v; v = v->next) {
		const struct st_key *k = NULL;
		char path[160];
		int n, rc;

		n = snprintf(path, sizeof(path), "%s%s%s", prefix, *prefix ? "." : "", v->key);
		/* a dot inside a key must not reach into another object */
		if (n > 0 && (size_t)n < sizeof(path) && !strchr(v->key, '.'))
			k = st_key_find(path, (size_t)n);
		if (!k && parent && parent->type == ST_KEY_OPEN)
			continue;
		if (!k)
			return unknown_key(cfg, prefix, v);
		if (k->alias_of) {
			rc = st_config_note(cfg, "%s is the old name of %s", k->path, k->alias_of);
			if (rc)
				return rc;
			k = st_key_find(k->alias_of, strlen(k->alias_of));
			ST_ASSERT(k);
		}
		rc = take_node(cfg, k, v);
		if (rc)
			return rc;
	}
	return 0;
}

/* ---- overrides ---------------------------------------------------------------------------- */

static void mark_set(struct st_json *v, const char *arg)
{
	v->set_arg = arg;
	for (struct st_json *c = v->child; c; c = c->next)
		mark_set(c, arg);
}

static struct st_json *new_object(struct st_pool *pool, const char *key, const char *arg)
{
	struct st_json *v = st_pool_alloc(pool, sizeof(*v));

	if (!v)
		return NULL;
	v->type = ST_JSON_OBJ;
	v->key = key;
	v->set_arg = arg;
	return v;
}

/* "strata": {"model": "gpt2"} is short for {"model": {"name": "gpt2"}}. */
static int expand_model(struct st_pool *pool, struct st_json *root)
{
	struct st_json *strata = st_json_get(root, "strata"), *name, *model;

	if (!strata || strata->type != ST_JSON_OBJ)
		return 0;
	name = st_json_get(strata, "model");
	if (!name || name->type != ST_JSON_STR)
		return 0;
	model = new_object(pool, name->key, name->set_arg);
	if (!model)
		return -ENOMEM;
	model->line = name->line;
	model->col = name->col;
	model->key_line = name->key_line;
	model->key_col = name->key_col;
	st_json_put(strata, model);
	name->key = "name";
	name->next = NULL;
	st_json_put(model, name);
	return 0;
}

static int set_fail(const char *arg, const char *what)
{
	return st_fail(STRATA_E_CONFIG, "--set %.120s: %s", arg, what);
}

/* One "a.b=v" onto the tree. */
static int apply_set(struct st_pool *pool, struct st_json *root, const char *set)
{
	const char *eq = strchr(set, '='), *p = set;
	struct st_json *at = root, *v = NULL;
	char *arg;
	int rc;

	if (!eq || eq == set)
		return set_fail(set,
				"write it as --set key=value, with dots between the key's parts");
	if (!st_json_is_utf8(set, strlen(set)))
		return set_fail(set, "is not UTF-8");
	arg = st_pool_printf(pool, "--set %s", set);
	if (!arg)
		return -ENOMEM;
	rc = st_json_parse(pool, eq + 1, strlen(eq + 1), "--set", &v);
	if (rc == -ENOMEM)
		return rc;
	if (rc) { /* not JSON: a plain string, its quotes spared */
		v = st_pool_alloc(pool, sizeof(*v));
		if (!v)
			return -ENOMEM;
		v->type = ST_JSON_STR;
		v->text = st_pool_printf(pool, "%s", eq + 1);
		if (!v->text)
			return -ENOMEM;
	}
	mark_set(v, arg);
	for (;;) {
		size_t len = strcspn(p, ".=");
		char *key = st_pool_printf(pool, "%.*s", (int)(len > 200 ? 200 : len), p);
		struct st_json *child;

		if (!key)
			return -ENOMEM;
		if (!len)
			return set_fail(set, "an empty part in the key; write --set a.b=value");
		if (p[len] == '=') {
			v->key = key;
			st_json_put(at, v);
			return expand_model(pool, root);
		}
		child = st_json_get(at, key);
		if (!child || child->type == ST_JSON_NULL) {
			child = new_object(pool, key, arg);
			if (!child)
				return -ENOMEM;
			st_json_put(at, child);
		} else if (child->type != ST_JSON_OBJ) {
			return st_fail(STRATA_E_CONFIG, "%.120s: \"%.64s\" is not an object", arg,
				       key);
		}
		at = child;
		p += len + 1;
	}
}

/* ---- the whole ---------------------------------------------------------------------------- */

int st_config_note(struct st_config *cfg, const char *fmt, ...)
{
	struct st_config_priv *pv = cfg->priv;
	struct st_config_note *note = st_pool_alloc(&pv->pool, sizeof(*note));
	char *text = NULL;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (n < 0 || !note) {
		if (n >= 0)
			free(text);
		return -ENOMEM;
	}
	note->line = st_pool_printf(&pv->pool, "%s", text);
	free(text);
	if (!note->line)
		return -ENOMEM;
	*pv->notes_end = note;
	pv->notes_end = &note->next;
	pv->n_notes++;
	return 0;
}

const char *const *st_config_notes(const struct st_config *cfg, size_t *n)
{
	*n = cfg->priv->n_notes;
	return cfg->priv->note_lines;
}

static int list_notes(struct st_config *cfg)
{
	struct st_config_priv *pv = cfg->priv;
	size_t i = 0;

	pv->note_lines = st_pool_alloc(&pv->pool, (pv->n_notes + 1) * sizeof(*pv->note_lines));
	if (!pv->note_lines)
		return -ENOMEM;
	for (const struct st_config_note *note = pv->notes; note; note = note->next)
		pv->note_lines[i++] = note->line;
	return 0;
}

static int new_config(struct st_config **out, const char *name)
{
	struct st_config *cfg = calloc(1, sizeof(*cfg));
	struct st_config_priv *pv = calloc(1, sizeof(*pv));
	size_t n;

	st_config_keys(&n);
	if (!cfg || !pv) {
		free(cfg);
		free(pv);
		return -ENOMEM;
	}
	cfg->priv = pv;
	pv->notes_end = &pv->notes;
	pv->name = st_pool_printf(&pv->pool, "%s", name);
	pv->node = st_pool_alloc(&pv->pool, n * sizeof(*pv->node));
	pv->source = st_pool_alloc(&pv->pool, n * sizeof(*pv->source));
	if (!pv->name || !pv->node || !pv->source) {
		st_config_destroy(cfg);
		return -ENOMEM;
	}
	*out = cfg;
	return 0;
}

void st_config_destroy(struct st_config *cfg)
{
	if (!cfg)
		return;
	st_pool_free(&cfg->priv->pool);
	free(cfg->priv);
	free(cfg);
}

/* The table's defaults go the way of every other value, so they cannot break the table's rules. */
static int take_defaults(struct st_config *cfg)
{
	size_t n;
	const struct st_key *keys = st_config_keys(&n);

	for (size_t i = 0; i < n; i++) {
		struct st_json *v = NULL;
		int rc;

		if (!keys[i].def || keys[i].fate != ST_KEY_HONOURED)
			continue;
		rc = st_json_parse(&cfg->priv->pool, keys[i].def, strlen(keys[i].def), "default",
				   &v);
		if (!rc)
			rc = take_value(cfg, &keys[i], v, st_config_field(cfg, &keys[i]));
		if (rc)
			return rc;
	}
	return 0;
}

static int build(struct st_config *cfg, const char *text, size_t len_bytes, const char *const *sets,
		 size_t n_sets)
{
	struct st_config_priv *pv = cfg->priv;
	struct st_json *root = NULL;
	int rc = take_defaults(cfg);

	if (!rc)
		rc = st_json_parse(&pv->pool, text, len_bytes, pv->name, &root);
	if (rc)
		return rc;
	if (root->type != ST_JSON_OBJ)
		return st_fail(STRATA_E_CONFIG,
			       "%s:%u:%u: the configuration must be one object in braces", pv->name,
			       root->line, root->col);
	rc = expand_model(&pv->pool, root);
	for (size_t i = 0; i < n_sets && !rc; i++)
		rc = apply_set(&pv->pool, root, sets[i]);
	if (!rc)
		rc = take_object(cfg, NULL, root);
	if (!rc)
		rc = st_config_resolve(cfg);
	if (!rc)
		rc = list_notes(cfg);
	return rc;
}

/* What was quoted from the input may hold control bytes or be cut inside a character: an error
 * stays one printable line. */
static int clean_error(int rc)
{
	char text[sizeof(((struct st_error *)0)->text)];
	size_t len;

	snprintf(text, sizeof(text), "%s", st_last_error());
	len = strlen(text);
	for (size_t i = 0; i < len;) {
		size_t n = 1;

		while (n < 4 && i + n < len && ((unsigned char)text[i + n] & 0xc0) == 0x80)
			n++;
		if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f ||
		    !st_json_is_utf8(text + i, n))
			memset(text + i, '?', n);
		i += n;
	}
	return st_fail(rc, "%s", text);
}

int st_config_parse(struct st_config **out, const char *text, size_t len_bytes, const char *name,
		    const char *const *sets, size_t n_sets)
{
	struct st_config *cfg = NULL;
	struct st_c_locale l;
	int rc = new_config(&cfg, name);

	if (rc)
		return st_fail(rc, "%s: reading it", name);
	if (len_bytes > ST_CONFIG_MAX_BYTES) {
		st_config_destroy(cfg);
		return st_fail(STRATA_E_CONFIG, "%s: larger than 1 MiB; is it a configuration?",
			       name);
	}
	l = st_c_locale_enter();
	rc = build(cfg, text, len_bytes, sets, n_sets);
	st_c_locale_leave(&l);
	if (rc) {
		st_config_destroy(cfg);
		return rc == -ENOMEM ? st_fail(rc, "%s: reading it", name) : clean_error(rc);
	}
	*out = cfg;
	return 0;
}

int st_config_load(struct st_config **out, const char *path, const char *const *sets, size_t n_sets)
{
	char *buf = malloc(ST_CONFIG_MAX_BYTES + 1);
	size_t len_bytes = 0;
	int rc;

	if (!buf)
		return st_fail(-ENOMEM, "%s: reading it", path);
	rc = st_json_read(path, "the configuration file", buf, &len_bytes);
	if (!rc)
		rc = st_config_parse(out, buf, len_bytes, path, sets, n_sets);
	free(buf);
	return rc;
}
