/* SPDX-License-Identifier: Apache-2.0 */
/* bench/config_edit.c - edits a configuration's text by the positions that the parser gives. */
#include "bench/config_edit.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/config_json.h"

#define INDENT_MAX 256u

/* Bytes [from, to) of the text give way to `with`. */
struct change {
	size_t from, to;
	char *with; /* owned */
};

/* ---- where ----------------------------------------------------------------------------------- */

/* How the line that holds byte `at` begins: its blanks. */
static void indent_at(const char *text, size_t at, char indent[INDENT_MAX])
{
	size_t line = at, n;

	while (line > 0 && text[line - 1] != '\n')
		line--;
	n = strspn(text + line, " \t");
	if (n > at - line)
		n = at - line;
	if (n >= INDENT_MAX)
		n = INDENT_MAX - 1;
	memcpy(indent, text + line, n);
	indent[n] = '\0';
}

/*
 * The first byte after `from` that is neither blank nor in a comment; *after is where the last
 * comment before it ended, or from. `to` bounds both. The text has been parsed: comments do end.
 */
static size_t skip(const char *text, size_t from, size_t to, size_t *after)
{
	size_t at = from;

	*after = from;
	while (at < to) {
		if (strchr(" \t\r\n", text[at])) {
			at++;
		} else if (text[at] == '#' || !strncmp(text + at, "//", 2)) {
			while (at < to && text[at] != '\n')
				at++;
			*after = at;
			if (at > from && text[at - 1] == '\r')
				(*after)--;
		} else if (!strncmp(text + at, "/*", 2)) {
			const char *end = strstr(text + at + 2, "*/");

			at = end ? (size_t)(end - text) + 2 : to;
			*after = at;
		} else {
			break;
		}
	}
	return at < to ? at : to;
}

static bool spans_lines(const char *text, const struct st_json *v)
{
	return memchr(text + v->from_byte, '\n', v->to_byte - v->from_byte) != NULL;
}

/* ---- what ------------------------------------------------------------------------------------ */

/* `"a": { "b": VALUE }` for the path a.b */
static char *member_text(const char *path, const char *value)
{
	char *out = NULL;
	size_t len_bytes = 0;
	FILE *f = open_memstream(&out, &len_bytes);
	unsigned depth = 0;
	bool ok;

	if (!f)
		return NULL;
	for (;;) {
		size_t len = strcspn(path, ".");

		fprintf(f, "\"%.*s\": ", (int)len, path);
		if (!path[len])
			break;
		fputs("{ ", f);
		depth++;
		path += len + 1;
	}
	fputs(value, f);
	while (depth--)
		fputs(" }", f);
	ok = !ferror(f);
	if (fclose(f) || !ok) {
		free(out);
		return NULL;
	}
	return out;
}

/*
 * A new last member of an object. A comma is put right behind the last value, unless one is there,
 * and the member after any comment that follows it.
 */
static int plan_insert(const char *text, const struct st_json *obj, const char *member,
		       struct change c[2])
{
	size_t close = obj->to_byte - 1, from, after, at;
	char indent[INDENT_MAX] = "", outer[INDENT_MAX];
	bool has_comma = false, is_long = spans_lines(text, obj);
	int n;

	from = obj->last ? obj->last->to_byte : obj->from_byte + 1;
	at = skip(text, from, close, &after);
	if (obj->last && at < close && text[at] == ',') {
		has_comma = true;
		(void)skip(text, at + 1, close, &after);
	}
	c[0] = (struct change){ .from = from, .to = from };
	c[0].with = strdup(obj->last && !has_comma ? "," : "");
	c[1] = (struct change){ .from = after, .to = after };
	if (!c[0].with)
		return -ENOMEM;
	indent_at(text, close, outer);
	if (obj->last && is_long)
		indent_at(text, obj->last->from_byte, indent);
	if (!is_long && obj->last)
		n = asprintf(&c[1].with, " %s", member);
	else if (obj->last)
		n = asprintf(&c[1].with, "\n%s%s", indent, member);
	else
		n = asprintf(&c[1].with, "\n%s\t%s%s%s", outer, member, is_long ? "" : "\n",
			     is_long ? "" : outer);
	if (n < 0) {
		c[1].with = NULL;
		return -ENOMEM;
	}
	return 0;
}

/* At most two changes, in the order of the text. */
static int plan(const char *text, const struct st_json *root, const char *name,
		const struct st_config_set *set, struct change c[2])
{
	const struct st_json *at = root;
	const char *path = set->path;
	char *member;
	int rc;

	for (;;) {
		const struct st_json *next = NULL;
		size_t len = strcspn(path, ".");

		if (at->type != ST_JSON_OBJ)
			return st_fail(STRATA_E_CONFIG,
				       "%s:%u:%u: %s cannot be set: what stands here is no object.",
				       name, at->line, at->col, set->path);
		for (const struct st_json *m = at->child; m; m = m->next)
			if (strlen(m->key) == len && !strncmp(m->key, path, len))
				next = m;
		if (!next)
			break;
		at = next;
		if (!path[len]) {
			c[0] = (struct change){ .from = at->from_byte, .to = at->to_byte };
			c[0].with = strdup(set->value);
			return c[0].with ? 0 : -ENOMEM;
		}
		path += len + 1;
	}
	member = member_text(path, set->value);
	if (!member)
		return -ENOMEM;
	rc = plan_insert(text, at, member, c);
	free(member);
	return rc;
}

static char *apply(const char *text, size_t len_bytes, const struct change c[2], size_t *out_bytes)
{
	size_t n0 = c[0].with ? strlen(c[0].with) : 0, n1 = c[1].with ? strlen(c[1].with) : 0;
	char *out = malloc(len_bytes + n0 + n1 + 1), *o = out;
	size_t at = 0;

	if (!out)
		return NULL;
	for (int i = 0; i < 2; i++) {
		size_t n = i ? n1 : n0;

		if (!c[i].with)
			continue;
		memcpy(o, text + at, c[i].from - at);
		o += c[i].from - at;
		memcpy(o, c[i].with, n);
		o += n;
		at = c[i].to;
	}
	memcpy(o, text + at, len_bytes - at);
	o += len_bytes - at;
	*o = '\0';
	*out_bytes = (size_t)(o - out);
	return out;
}

/* ---- is it right? ---------------------------------------------------------------------------- */

static bool is_same(const struct st_json *a, const struct st_json *b)
{
	const struct st_json *x = a->child, *y = b->child;

	if (a->type != b->type || a->n != b->n || a->is_true != b->is_true)
		return false;
	if (a->text && b->text ? strcmp(a->text, b->text) != 0 : a->text != b->text)
		return false;
	for (; x && y; x = x->next, y = y->next)
		if ((x->key && (!y->key || strcmp(x->key, y->key))) || !is_same(x, y))
			return false;
	return !x && !y;
}

/* The old tree with the edit made in it must be the new one. */
static int check(struct st_pool *pool, struct st_json *old, const struct st_json *new,
		 const char *name, const struct st_config_set *set)
{
	struct st_json *value, *at = old;
	const char *path = set->path;
	int rc = st_json_parse(pool, set->value, strlen(set->value), set->path, &value);

	while (!rc) {
		size_t len = strcspn(path, ".");
		char *key = st_pool_printf(pool, "%.*s", (int)len, path);
		struct st_json *next = key ? st_json_get(at, key) : NULL;

		if (!key)
			return -ENOMEM;
		if (!path[len] || !next) {
			struct st_json *node = value;

			if (path[len]) {
				node = st_pool_alloc(pool, sizeof(*node));
				if (!node)
					return -ENOMEM;
				node->type = ST_JSON_OBJ;
			}
			node->key = key;
			st_json_put(at, node);
			next = node;
		}
		if (!path[len])
			break;
		at = next;
		path += len + 1;
	}
	if (rc)
		return rc;
	return is_same(old, new) ? 0
				 : st_fail(STRATA_E_CONFIG,
					   "%s: %s cannot be set without changing something else.",
					   name, set->path);
}

static int edit_one(char **text, size_t *len_bytes, const char *name,
		    const struct st_config_set *set)
{
	struct change c[2] = { { .with = NULL }, { .with = NULL } };
	struct st_json *old, *new;
	struct st_pool pool = { 0 };
	char *out = NULL;
	size_t out_bytes = 0;
	int rc = st_json_parse(&pool, *text, *len_bytes, name, &old);

	if (!rc)
		rc = plan(*text, old, name, set, c);
	if (!rc) {
		out = apply(*text, *len_bytes, c, &out_bytes);
		rc = out ? 0 : -ENOMEM;
	}
	if (!rc)
		rc = st_json_parse(&pool, out, out_bytes, name, &new);
	if (!rc)
		rc = check(&pool, old, new, name, set);
	free(c[0].with);
	free(c[1].with);
	st_pool_free(&pool);
	if (rc) {
		free(out);
		return rc == -ENOMEM ? st_fail(rc, "%s: editing it", name) : rc;
	}
	free(*text);
	*text = out;
	*len_bytes = out_bytes;
	return 0;
}

int st_config_edit(const char *text, size_t len_bytes, const char *name,
		   const struct st_config_set *sets, size_t n_sets, char **out)
{
	char *now = malloc(len_bytes + 1);
	int rc = 0;

	if (!now)
		return st_fail(-ENOMEM, "%s: editing it", name);
	memcpy(now, text, len_bytes);
	now[len_bytes] = '\0';
	for (size_t i = 0; !rc && i < n_sets; i++)
		rc = edit_one(&now, &len_bytes, name, &sets[i]);
	if (rc)
		free(now);
	else
		*out = now;
	return rc;
}

/* ---- the file ------------------------------------------------------------------------------ */

static int write_whole(int fd, const char *text, size_t len_bytes)
{
	while (len_bytes) {
		ssize_t n = write(fd, text, len_bytes);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		text += n;
		len_bytes -= (size_t)n;
	}
	return fsync(fd) ? -errno : 0;
}

/* The file's real name, its directory's length in it, and its mode. */
static int find_target(const char *path, char real[PATH_MAX], mode_t *mode, struct stat *st)
{
	mode_t mask = umask(0);

	umask(mask);
	*mode = 0666 & ~mask;
	st->st_nlink = 0; /* nothing there yet */
	if (!realpath(path, real)) {
		if (errno != ENOENT || snprintf(real, PATH_MAX, "%s", path) >= PATH_MAX)
			return st_fail(-errno, "%s", path);
		return 0;
	}
	if (stat(real, st))
		return st_fail(-errno, "%s", path);
	if (!S_ISREG(st->st_mode))
		return st_fail(STRATA_E_INPUT, "%s is no regular file: name one that is.", path);
	*mode = st->st_mode & 07777;
	return 0;
}

static int sync_parent(const char *real)
{
	const char *slash = strrchr(real, '/');
	char dir[PATH_MAX];
	int fd, rc = 0;

	snprintf(dir, sizeof(dir), "%.*s", slash ? (int)(slash == real ? 1 : slash - real) : 1,
		 slash ? real : ".");
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fsync(fd))
		rc = -errno;
	close(fd);
	return rc;
}

int st_config_replace(const char *path, const char *text, size_t len_bytes)
{
	char real[PATH_MAX], temp[PATH_MAX + 16];
	struct stat st;
	mode_t mode;
	int rc = find_target(path, real, &mode, &st), fd;

	if (rc)
		return rc;
	snprintf(temp, sizeof(temp), "%s.XXXXXX", real);
	fd = mkostemp(temp, O_CLOEXEC);
	if (fd < 0)
		return st_fail(-errno, "%s: make a temporary file beside it", path);
	/* Another's file keeps its owner where that is allowed; where not it becomes ours. */
	if (st.st_nlink && (st.st_uid != geteuid() || st.st_gid != getegid()) &&
	    fchown(fd, st.st_uid, st.st_gid))
		mode &= 0777;
	if (fchmod(fd, mode))
		rc = -errno;
	if (!rc)
		rc = write_whole(fd, text, len_bytes);
	if (close(fd) && !rc)
		rc = -errno;
	if (!rc && rename(temp, real))
		rc = -errno;
	if (rc) {
		unlink(temp);
		return st_fail(rc, "%s: write", path);
	}
	rc = sync_parent(real);
	return rc ? st_fail(rc, "%s: sync its directory", path) : 0;
}
