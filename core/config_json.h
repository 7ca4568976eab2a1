/* SPDX-License-Identifier: Apache-2.0 */
/*
 * core/config_json.h - a JSON text as a tree that remembers where each key and value stood.
 *
 * Layer:   core; used by core/ only
 * Threads: re-entrant; one tree belongs to one thread
 *
 * JSON, plus what people write in configurations: comments (//, #, and C's) and a comma before a
 * closing bracket. Strict otherwise: UTF-8, no duplicate key, no NUL inside a string, nesting at
 * most ST_JSON_DEPTH. Everything lives in a pool and is freed with it.
 */
#ifndef CORE_CONFIG_JSON_H
#define CORE_CONFIG_JSON_H

#include <locale.h>
#include <stdio.h>

#include "core/status.h"

#define ST_JSON_DEPTH    32u   /* nested objects and lists */
#define ST_JSON_KEYS_MAX 2048u /* keys in one object: duplicates are searched one by one */

struct st_pool_chunk;
struct st_pool {
	struct st_pool_chunk *head; /* {0} is an empty pool */
};

/** st_pool_alloc() - zeroed memory that lives as long as the pool; NULL: out of memory. */
void *st_pool_alloc(struct st_pool *p, size_t bytes);
/** st_pool_printf() - a formatted string in the pool; NULL: out of memory. */
char *st_pool_printf(struct st_pool *p, const char *fmt, ...) ST_PRINTF(2, 3);
void st_pool_free(struct st_pool *p);

enum st_json_type {
	ST_JSON_NULL,
	ST_JSON_BOOL,
	ST_JSON_NUM,
	ST_JSON_STR,
	ST_JSON_LIST,
	ST_JSON_OBJ,
};

struct st_json {
	enum st_json_type type;
	unsigned line, col;         /* of the value, from 1; columns count characters */
	unsigned key_line, key_col; /* of the key that names it, in an object */
	size_t from_byte, to_byte;  /* of the value in the text: [from, to) */
	const char *key;            /* NULL in a list and at the root */
	const char *text;           /* string: its content; number: as written */
	double num;                 /* number: finite */
	bool is_true;
	const char *set_arg; /* "--set a.b=v" when it came from there, else NULL */
	struct st_json *child, *last, *next;
	unsigned n; /* children */
};

/**
 * st_json_parse() - parse a whole text.
 * @param name  in, borrowed; what errors call it (a path)
 * @return 0 and *root; STRATA_E_CONFIG ("name:line:col: what; what to do"); -ENOMEM
 */
ST_MUST_CHECK int st_json_parse(struct st_pool *pool, const char *text, size_t len_bytes,
				const char *name, struct st_json **root);

/**
 * st_json_read() - a whole file, to be parsed; longer than ST_CONFIG_MAX_BYTES is cut one byte
 * behind that.
 * @param what  in, what the file should be, for messages: "the configuration file"
 * @param buf   out [ST_CONFIG_MAX_BYTES + 1]
 * @return 0; STRATA_E_CONFIG (path and reason)
 */
ST_MUST_CHECK int st_json_read(const char *path, const char *what, char *buf, size_t *len_bytes);

/** st_json_is_utf8() - whether a text is well-formed UTF-8. */
bool st_json_is_utf8(const char *text, size_t len_bytes);

/** st_json_get() - the value of a key of an object, or NULL. */
struct st_json *st_json_get(const struct st_json *obj, const char *key);
/** st_json_put() - append a node under its key, replacing one of the same name. */
void st_json_put(struct st_json *obj, struct st_json *node);

/** st_json_write_string() - s as a JSON string, quoted and escaped. */
void st_json_write_string(FILE *f, const char *s);
/** st_json_format_number() - shortest decimal that reads back as x (finite); buf >= 32 bytes. */
void st_json_format_number(double x, char *buf, size_t bytes);

/* Numbers are read and written in the C locale, whatever the caller's program has chosen. */
struct st_c_locale {
	locale_t c, old; /* zero: could not be had; the current one is used */
};
struct st_c_locale st_c_locale_enter(void);
void st_c_locale_leave(struct st_c_locale *l);

#endif
