/* SPDX-License-Identifier: Apache-2.0 */
/* model/json_scan.c - find members of an object; jansson judges what they hold. */
#include "model/json_scan.h"

#include <errno.h>
#include <string.h>
#include <stdlib.h>

#include "model/file.h"

#define KEY_BYTES_MAX 8192u

static int bad(const struct st_json_scan *scan, size_t off, const char *what)
{
	return st_fail(STRATA_E_INPUT, "%s: byte %zu: %s", scan->shown, scan->base + off, what);
}

static size_t skip_blank(const struct st_json_scan *scan, size_t pos)
{
	while (pos < scan->end && (scan->text[pos] == ' ' || scan->text[pos] == '\t' ||
				   scan->text[pos] == '\n' || scan->text[pos] == '\r'))
		pos++;
	return pos;
}

/* From an opening quote to behind the closing one; 0 if it does not close. */
static size_t skip_string(const struct st_json_scan *scan, size_t pos)
{
	for (pos++; pos < scan->end; pos++) {
		if (scan->text[pos] == '\\')
			pos++;
		else if (scan->text[pos] == '"')
			return pos + 1;
	}
	return 0;
}

/* From the first byte of a value to behind its last; 0 if it does not end. */
static size_t skip_value(const struct st_json_scan *scan, size_t pos)
{
	size_t depth = 0;

	while (pos < scan->end) {
		char c = scan->text[pos];

		if (c == '"') {
			pos = skip_string(scan, pos);
			if (!pos || !depth)
				return pos;
			continue;
		}
		if (c == '{' || c == '[') {
			depth++;
		} else if (c == '}' || c == ']') {
			if (!depth)
				return pos; /* a scalar before the object's end */
			if (!--depth)
				return pos + 1;
		} else if (!depth &&
			   (c == ',' || c == ' ' || c == '\t' || c == '\n' || c == '\r')) {
			return pos;
		}
		pos++;
	}
	return 0;
}

static unsigned depth_of(const struct st_json_scan *scan, struct st_json_slice slice,
			 unsigned limit)
{
	struct st_json_scan part = *scan;
	unsigned depth = 0, deepest = 0;

	part.end = slice.off + slice.len;
	for (size_t pos = slice.off; pos < part.end && deepest <= limit;) {
		char c = part.text[pos];

		if (c == '"') {
			pos = skip_string(&part, pos);
			if (!pos)
				break;
			continue;
		}
		if (c == '{' || c == '[')
			depth++;
		else if ((c == '}' || c == ']') && depth)
			depth--;
		if (depth > deepest)
			deepest = depth;
		pos++;
	}
	return deepest;
}

int st_json_load(const struct st_json_scan *scan, struct st_json_slice slice, size_t max_bytes,
		 unsigned max_depth, json_t **out)
{
	json_error_t err;
	struct st_show s;
	const char *nul;
	json_t *j;

	if (slice.len > max_bytes)
		return st_fail(STRATA_E_INPUT,
			       "%s: byte %zu: %zu bytes of JSON; at most %zu are read", scan->shown,
			       scan->base + slice.off, slice.len, max_bytes);
	if (depth_of(scan, slice, max_depth) > max_depth)
		return bad(scan, slice.off, "JSON is nested too deeply");
	/* jansson overlooks a NUL behind a number. */
	nul = memchr(scan->text + slice.off, '\0', slice.len);
	if (nul)
		return bad(scan, (size_t)(nul - scan->text), "not valid JSON: a NUL byte");
	errno = 0;
	j = json_loadb(scan->text + slice.off, slice.len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY,
		       &err);
	/* jansson calls a failed malloc an invalid token; malloc's errno tells them apart. */
	if (!j && (errno == ENOMEM || !err.text[0]))
		return st_fail(-ENOMEM, "%s: parsing JSON", scan->shown);
	if (!j)
		return st_fail(STRATA_E_INPUT, "%s: byte %zu: not valid JSON: %s", scan->shown,
			       scan->base + slice.off +
				       (size_t)(err.position > 0 ? err.position : 0),
			       st_show(&s, err.text));
	*out = j;
	return 0;
}

static int load_key(const struct st_json_scan *scan, struct st_json_slice slice, char **key)
{
	json_t *j = NULL;
	int rc = st_json_load(scan, slice, KEY_BYTES_MAX, 0, &j);

	if (rc < 0)
		return rc;
	*key = strdup(json_string_value(j));
	json_decref(j);
	return *key ? 0 : st_fail(-ENOMEM, "%s", scan->shown);
}

int st_json_next(struct st_json_scan *scan, struct st_json_member *m)
{
	struct st_json_slice key;
	bool is_first = !scan->has_begun;
	size_t pos = scan->pos, stop;

	if (is_first) {
		if (pos >= scan->end || scan->text[pos] != '{')
			return bad(scan, pos, "'{' expected");
		pos++;
		scan->has_begun = true;
	}
	pos = skip_blank(scan, pos);
	if (pos < scan->end && scan->text[pos] == '}') {
		scan->pos = pos + 1;
		return 0;
	}
	if (!is_first) {
		if (pos >= scan->end || scan->text[pos] != ',')
			return bad(scan, pos, "',' or '}' expected");
		pos = skip_blank(scan, pos + 1);
	}
	if (pos >= scan->end || scan->text[pos] != '"')
		return bad(scan, pos, "a name in quotes expected");
	stop = skip_string(scan, pos);
	if (!stop)
		return bad(scan, pos, "this string does not end");
	key = (struct st_json_slice){ pos, stop - pos };
	pos = skip_blank(scan, stop);
	if (pos >= scan->end || scan->text[pos] != ':')
		return bad(scan, pos, "':' expected");
	pos = skip_blank(scan, pos + 1);
	stop = skip_value(scan, pos);
	if (!stop)
		return bad(scan, pos, "this value does not end");
	if (stop == pos)
		return bad(scan, pos, "a value expected");
	m->key_off = key.off;
	m->value = (struct st_json_slice){ pos, stop - pos };
	scan->pos = stop;
	int rc = load_key(scan, key, &m->key);

	return rc < 0 ? rc : 1;
}

int st_json_rest_blank(const struct st_json_scan *scan)
{
	size_t pos = skip_blank(scan, scan->pos);

	return pos == scan->end ? 0 : bad(scan, pos, "text after the end of the JSON object");
}
