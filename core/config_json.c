/* SPDX-License-Identifier: Apache-2.0 */
/* core/config_json.c - the tolerant JSON reader behind the configuration. */
#include "core/config_json.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/config.h"

#define CHUNK_BYTES ((size_t)16 << 10)

struct st_pool_chunk {
	struct st_pool_chunk *next;
	size_t used, size;
	_Alignas(16) char mem[];
};

void *st_pool_alloc(struct st_pool *p, size_t bytes)
{
	struct st_pool_chunk *c = p->head;
	void *out;

	if (bytes > SIZE_MAX / 2)
		return NULL;
	bytes = (bytes + 15) & ~(size_t)15;
	if (!c || c->size - c->used < bytes) {
		size_t size = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;

		c = calloc(1, sizeof(*c) + size);
		if (!c)
			return NULL;
		c->size = size;
		c->next = p->head;
		p->head = c;
	}
	out = c->mem + c->used;
	c->used += bytes;
	return out;
}

char *st_pool_printf(struct st_pool *p, const char *fmt, ...)
{
	va_list ap;
	char *out;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0)
		return NULL;
	out = st_pool_alloc(p, (size_t)n + 1);
	if (!out)
		return NULL;
	va_start(ap, fmt);
	vsnprintf(out, (size_t)n + 1, fmt, ap);
	va_end(ap);
	return out;
}

void st_pool_free(struct st_pool *p)
{
	while (p->head) {
		struct st_pool_chunk *next = p->head->next;

		free(p->head);
		p->head = next;
	}
}

struct st_c_locale st_c_locale_enter(void)
{
	struct st_c_locale l = { .c = newlocale(LC_ALL_MASK, "C", (locale_t)0) };

	if (l.c)
		l.old = uselocale(l.c);
	return l;
}

void st_c_locale_leave(struct st_c_locale *l)
{
	if (!l->c)
		return;
	uselocale(l->old);
	freelocale(l->c);
	l->c = (locale_t)0;
}

struct parser {
	struct st_pool *pool;
	const unsigned char *text, *p, *end;
	const char *name;
	unsigned line, col, depth;
};

#define syntax_error(ps, line_no, col_no, fmt, ...)                                                \
	st_fail(STRATA_E_CONFIG, "%s:%u:%u: " fmt, (ps)->name, (line_no),                          \
		(col_no)__VA_OPT__(, ) __VA_ARGS__)

/* Only ever over bytes that are there. */
static void advance(struct parser *ps)
{
	unsigned char c = *ps->p++;

	if (c == '\n') {
		ps->line++;
		ps->col = 1;
	} else if ((c & 0xc0) != 0x80) { /* a continuation byte is no new column */
		ps->col++;
	}
}

/* Length of the well-formed UTF-8 sequence at p, or 0 (overlong, surrogate, beyond U+10FFFF). */
static unsigned utf8_len(const unsigned char *p, const unsigned char *end)
{
	unsigned char lo = 0x80, hi = 0xbf;
	unsigned n;

	if (*p < 0x80)
		return 1;
	if (*p < 0xc2 || *p > 0xf4)
		return 0;
	n = *p < 0xe0 ? 2 : *p < 0xf0 ? 3 : 4;
	if ((size_t)(end - p) < n)
		return 0;
	if (*p == 0xe0)
		lo = 0xa0;
	else if (*p == 0xed)
		hi = 0x9f;
	else if (*p == 0xf0)
		lo = 0x90;
	else if (*p == 0xf4)
		hi = 0x8f;
	if (p[1] < lo || p[1] > hi)
		return 0;
	for (unsigned i = 2; i < n; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	return n;
}

bool st_json_is_utf8(const char *text, size_t len_bytes)
{
	const unsigned char *p = (const unsigned char *)text, *end = p + len_bytes;

	while (p < end) {
		unsigned n = utf8_len(p, end);

		if (!n)
			return false;
		p += n;
	}
	return true;
}

static int check_utf8(const struct parser *start)
{
	struct parser ps = *start;

	while (ps.p < ps.end) {
		unsigned n = utf8_len(ps.p, ps.end);

		if (!n)
			return syntax_error(&ps, ps.line, ps.col,
					    "byte 0x%02x is not UTF-8; save the file as UTF-8",
					    *ps.p);
		while (n--)
			advance(&ps);
	}
	return 0;
}

static int skip_block_comment(struct parser *ps)
{
	unsigned line = ps->line, col = ps->col;

	advance(ps);
	advance(ps);
	while (ps->end - ps->p >= 2) {
		if (ps->p[0] == '*' && ps->p[1] == '/') {
			advance(ps);
			advance(ps);
			return 0;
		}
		advance(ps);
	}
	return syntax_error(ps, line, col, "this comment has no end; close it with */");
}

static int skip_space(struct parser *ps)
{
	while (ps->p < ps->end) {
		unsigned char c = *ps->p, d = ps->end - ps->p > 1 ? ps->p[1] : 0;

		if (c == ' ' || c == '\t' || c == '\n' || c == '\r') {
			advance(ps);
		} else if (c == '#' || (c == '/' && d == '/')) {
			while (ps->p < ps->end && *ps->p != '\n')
				advance(ps);
		} else if (c == '/' && d == '*') {
			int rc = skip_block_comment(ps);

			if (rc)
				return rc;
		} else {
			break;
		}
	}
	return 0;
}

/* What stands at the cursor, for a message. */
static const char *found(const struct parser *ps, char buf[16])
{
	unsigned n;

	if (ps->p >= ps->end)
		return "the end of the text";
	if (*ps->p < 0x20 || *ps->p == 0x7f) {
		snprintf(buf, 16, "byte 0x%02x", *ps->p);
		return buf;
	}
	n = utf8_len(ps->p, ps->end);
	snprintf(buf, 16, "'%.*s'", (int)n, (const char *)ps->p);
	return buf;
}

static int hex4(struct parser *ps, unsigned *out)
{
	*out = 0;
	for (int i = 0; i < 4; i++) {
		unsigned char c = ps->p < ps->end ? *ps->p : 0;
		unsigned d;

		if (c >= '0' && c <= '9')
			d = c - '0';
		else if ((c | 32) >= 'a' && (c | 32) <= 'f')
			d = (c | 32u) - 'a' + 10;
		else
			return syntax_error(ps, ps->line, ps->col,
					    "\\u needs four hexadecimal digits");
		*out = *out << 4 | d;
		advance(ps);
	}
	return 0;
}

static char *put_utf8(char *o, unsigned u)
{
	if (u < 0x80) {
		*o++ = (char)u;
	} else if (u < 0x800) {
		*o++ = (char)(0xc0 | u >> 6);
		*o++ = (char)(0x80 | (u & 63));
	} else if (u < 0x10000) {
		*o++ = (char)(0xe0 | u >> 12);
		*o++ = (char)(0x80 | (u >> 6 & 63));
		*o++ = (char)(0x80 | (u & 63));
	} else {
		*o++ = (char)(0xf0 | u >> 18);
		*o++ = (char)(0x80 | (u >> 12 & 63));
		*o++ = (char)(0x80 | (u >> 6 & 63));
		*o++ = (char)(0x80 | (u & 63));
	}
	return o;
}

static int unicode_escape(struct parser *ps, char **o)
{
	unsigned line = ps->line, col = ps->col, u, v;
	int rc = hex4(ps, &u);

	if (rc)
		return rc;
	if (u >= 0xd800 && u < 0xdc00 && ps->end - ps->p >= 2 && ps->p[0] == '\\' &&
	    ps->p[1] == 'u') {
		advance(ps);
		advance(ps);
		rc = hex4(ps, &v);
		if (rc)
			return rc;
		if (v < 0xdc00 || v > 0xdfff)
			return syntax_error(ps, line, col, "half of a surrogate pair in a string");
		u = 0x10000 + ((u - 0xd800) << 10) + (v - 0xdc00);
	} else if (u >= 0xd800 && u <= 0xdfff) {
		return syntax_error(ps, line, col, "half of a surrogate pair in a string");
	}
	if (!u)
		return syntax_error(ps, line, col, "a string may not contain \\u0000");
	*o = put_utf8(*o, u);
	return 0;
}

static int escape(struct parser *ps, char **o)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	const char *at;

	advance(ps);
	if (ps->p < ps->end && *ps->p == 'u') {
		advance(ps);
		return unicode_escape(ps, o);
	}
	at = ps->p < ps->end && *ps->p ? strchr(from, *ps->p) : NULL;
	if (!at)
		return syntax_error(ps, ps->line, ps->col,
				    "unknown escape in a string; write \\\\ for a backslash");
	*(*o)++ = to[at - from];
	advance(ps);
	return 0;
}

static int parse_string(struct parser *ps, const char **out)
{
	unsigned line = ps->line, col = ps->col;
	const unsigned char *q;
	char *buf, *o;

	advance(ps);
	for (q = ps->p; q < ps->end && *q != '"' && *q != '\n'; q++)
		if (*q == '\\' && q + 1 < ps->end)
			q++;
	buf = o = st_pool_alloc(ps->pool, (size_t)(q - ps->p) + 1); /* escapes only shrink */
	if (!buf)
		return -ENOMEM;
	while (ps->p < ps->end && *ps->p != '"') {
		if (*ps->p == '\n')
			break;
		if (*ps->p < 0x20)
			return syntax_error(ps, ps->line, ps->col,
					    "byte 0x%02x in a string; write it as \\u%04x", *ps->p,
					    *ps->p);
		if (*ps->p == '\\') {
			int rc = escape(ps, &o);

			if (rc)
				return rc;
		} else {
			*o++ = (char)*ps->p;
			advance(ps);
		}
	}
	if (ps->p >= ps->end || *ps->p != '"')
		return syntax_error(ps, line, col, "this string has no closing quote");
	advance(ps);
	*out = buf;
	return 0;
}

static size_t digits(const unsigned char *p, const unsigned char *end)
{
	size_t n = 0;

	while (p + n < end && p[n] >= '0' && p[n] <= '9')
		n++;
	return n;
}

/* Length of a JSON number at p, or 0. */
static size_t number_len(const unsigned char *p, const unsigned char *end)
{
	const unsigned char *s = p;
	size_t n;

	if (p < end && *p == '-')
		p++;
	n = digits(p, end);
	if (!n || (n > 1 && *p == '0'))
		return 0;
	p += n;
	if (p < end && *p == '.') {
		n = digits(p + 1, end);
		if (!n)
			return 0;
		p += 1 + n;
	}
	if (p < end && (*p | 32) == 'e') {
		p++;
		if (p < end && (*p == '+' || *p == '-'))
			p++;
		n = digits(p, end);
		if (!n)
			return 0;
		p += n;
	}
	return (size_t)(p - s);
}

static bool is_word_byte(unsigned char c)
{
	return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || c == '_' ||
	       c == '.' || c == '+' || c == '-' || c >= 0x80;
}

/* A number, true, false or null: whatever runs up to the next delimiter must be one of them. */
static int parse_word(struct parser *ps, struct st_json *v)
{
	const unsigned char *p = ps->p;
	size_t len = 0;
	char *word, buf[16];

	while (p + len < ps->end && is_word_byte(p[len]))
		len++;
	if (!len)
		return syntax_error(ps, v->line, v->col, "a value is wanted, not %s",
				    found(ps, buf));
	word = st_pool_printf(ps->pool, "%.*s", len > 400 ? 400 : (int)len, (const char *)p);
	if (!word)
		return -ENOMEM;
	if (!strcmp(word, "true") || !strcmp(word, "false")) {
		v->type = ST_JSON_BOOL;
		v->is_true = *word == 't';
	} else if (!strcmp(word, "null")) {
		v->type = ST_JSON_NULL;
	} else if (len <= 400 && number_len(p, ps->end) == len) {
		v->type = ST_JSON_NUM;
		v->num = strtod(word, NULL);
		if (!isfinite(v->num))
			return syntax_error(ps, v->line, v->col, "the number %.40s is too large",
					    word);
	} else {
		return syntax_error(ps, v->line, v->col,
				    "%.60s is no JSON value; put text in double quotes", word);
	}
	v->text = word;
	while (len--)
		advance(ps);
	return 0;
}

static int parse_value(struct parser *ps, struct st_json **out);

struct st_json *st_json_get(const struct st_json *obj, const char *key)
{
	for (struct st_json *c = obj->child; c; c = c->next)
		if (!strcmp(c->key, key))
			return c;
	return NULL;
}

static void append(struct st_json *parent, struct st_json *node)
{
	node->next = NULL;
	if (parent->last)
		parent->last->next = node;
	else
		parent->child = node;
	parent->last = node;
	parent->n++;
}

void st_json_put(struct st_json *obj, struct st_json *node)
{
	struct st_json *prev = NULL;

	for (struct st_json *c = obj->child; c; prev = c, c = c->next) {
		if (strcmp(c->key, node->key))
			continue;
		node->next = c->next;
		if (prev)
			prev->next = node;
		else
			obj->child = node;
		if (obj->last == c)
			obj->last = node;
		return;
	}
	append(obj, node);
}

static int parse_member(struct parser *ps, struct st_json *obj)
{
	unsigned line = ps->line, col = ps->col;
	const struct st_json *twin;
	struct st_json *value;
	const char *key;
	char buf[16];
	int rc;

	if (*ps->p != '"')
		return syntax_error(ps, line, col, "a key in double quotes is wanted, not %s",
				    found(ps, buf));
	rc = parse_string(ps, &key);
	if (rc)
		return rc;
	twin = st_json_get(obj, key);
	if (twin)
		return syntax_error(
			ps, line, col,
			"duplicate key \"%.64s\", first given at line %u, column %u; keep one", key,
			twin->key_line, twin->key_col);
	if (obj->n >= ST_JSON_KEYS_MAX)
		return syntax_error(ps, line, col, "more than %u keys in one object",
				    ST_JSON_KEYS_MAX);
	rc = skip_space(ps);
	if (rc)
		return rc;
	if (ps->p >= ps->end || *ps->p != ':')
		return syntax_error(ps, ps->line, ps->col,
				    "a colon is wanted after the key \"%.64s\", not %s", key,
				    found(ps, buf));
	advance(ps);
	rc = parse_value(ps, &value);
	if (rc)
		return rc;
	value->key = key;
	value->key_line = line;
	value->key_col = col;
	append(obj, value);
	return 0;
}

/* The cursor is on the opening bracket; is_obj says which. */
static int parse_items(struct parser *ps, struct st_json *v, bool is_obj)
{
	unsigned char close = is_obj ? '}' : ']';
	char buf[16];
	int rc;

	if (ps->depth >= ST_JSON_DEPTH)
		return syntax_error(ps, v->line, v->col, "nested deeper than %u levels",
				    ST_JSON_DEPTH);
	ps->depth++;
	advance(ps);
	for (;;) {
		rc = skip_space(ps);
		if (rc)
			return rc;
		if (ps->p < ps->end && *ps->p == close)
			break;
		if (ps->p >= ps->end)
			return syntax_error(ps, ps->line, ps->col,
					    "the %s opened at line %u, column %u is not closed",
					    is_obj ? "object" : "list", v->line, v->col);
		if (is_obj) {
			rc = parse_member(ps, v);
		} else {
			struct st_json *item = NULL;

			rc = parse_value(ps, &item);
			if (!rc)
				append(v, item);
		}
		if (!rc)
			rc = skip_space(ps);
		if (rc)
			return rc;
		if (ps->p < ps->end && *ps->p == ',')
			advance(ps);
		else if (ps->p < ps->end && *ps->p != close)
			return syntax_error(ps, ps->line, ps->col,
					    "a comma or '%c' is wanted, not %s", close,
					    found(ps, buf));
	}
	advance(ps);
	ps->depth--;
	return 0;
}

static int parse_value(struct parser *ps, struct st_json **out)
{
	struct st_json *v;
	int rc = skip_space(ps);

	if (rc)
		return rc;
	v = st_pool_alloc(ps->pool, sizeof(*v));
	if (!v)
		return -ENOMEM;
	v->line = ps->line;
	v->col = ps->col;
	v->from_byte = (size_t)(ps->p - ps->text);
	if (ps->p < ps->end && (*ps->p == '{' || *ps->p == '[')) {
		v->type = *ps->p == '{' ? ST_JSON_OBJ : ST_JSON_LIST;
		rc = parse_items(ps, v, *ps->p == '{');
	} else if (ps->p < ps->end && *ps->p == '"') {
		v->type = ST_JSON_STR;
		rc = parse_string(ps, &v->text);
	} else {
		rc = parse_word(ps, v);
	}
	v->to_byte = (size_t)(ps->p - ps->text);
	if (!rc)
		*out = v;
	return rc;
}

int st_json_parse(struct st_pool *pool, const char *text, size_t len_bytes, const char *name,
		  struct st_json **root)
{
	struct parser ps = { .pool = pool, .name = name, .line = 1, .col = 1 };
	struct st_c_locale l;
	struct st_json *v = NULL;
	char buf[16];
	int rc;

	ps.p = ps.text = (const unsigned char *)text;
	ps.end = ps.p + len_bytes;
	if (len_bytes >= 3 && !memcmp(text, "\xef\xbb\xbf", 3))
		ps.p += 3; /* a byte order mark says nothing here */
	rc = check_utf8(&ps);
	if (rc)
		return rc;
	l = st_c_locale_enter();
	rc = parse_value(&ps, &v);
	if (!rc)
		rc = skip_space(&ps);
	st_c_locale_leave(&l);
	if (!rc && ps.p < ps.end)
		rc = syntax_error(&ps, ps.line, ps.col,
				  "%s follows the end of the object; remove it", found(&ps, buf));
	if (!rc)
		*root = v;
	return rc == -ENOMEM ? st_fail(rc, "%s: reading it", name) : rc;
}

void st_json_write_string(FILE *f, const char *s)
{
	fputc('"', f);
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;

		if (c == '"' || c == '\\')
			fprintf(f, "\\%c", c);
		else if (c == '\n')
			fputs("\\n", f);
		else if (c < 0x20 || c == 0x7f)
			fprintf(f, "\\u%04x", c);
		else
			fputc(c, f);
	}
	fputc('"', f);
}

void st_json_format_number(double x, char *buf, size_t bytes)
{
	for (int prec = 15; prec <= 17; prec++) {
		snprintf(buf, bytes, "%.*g", prec, x);
		if (strtod(buf, NULL) == x)
			return;
	}
}

/* ---- files -------------------------------------------------------------------------------- */

int st_json_read(const char *path, const char *what, char *buf, size_t *len_bytes)
{
	struct stat st;
	size_t len = 0;
	/* A pipe is welcome; one that nobody writes to is an empty file, not a wait for ever. */
	int rc = 0, fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	if (fd < 0)
		return st_fail(STRATA_E_CONFIG, "%s: cannot be opened: %s", path,
			       strata_strerror(-errno));
	if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK)) {
		rc = st_fail(STRATA_E_CONFIG, "%s: cannot be opened: %s", path,
			     strata_strerror(-errno));
		goto out;
	}
	if (!fstat(fd, &st) && S_ISDIR(st.st_mode)) {
		rc = st_fail(STRATA_E_CONFIG, "%.200s: is a directory; name %s", path, what);
		goto out;
	}
	while (len <= ST_CONFIG_MAX_BYTES) {
		ssize_t got = read(fd, buf + len, ST_CONFIG_MAX_BYTES + 1 - len);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0) {
			rc = st_fail(STRATA_E_CONFIG, "%s: cannot be read: %s", path,
				     strata_strerror(-errno));
			goto out;
		}
		if (!got)
			break;
		len += (size_t)got;
	}
	*len_bytes = len;
out:
	close(fd);
	return rc;
}
