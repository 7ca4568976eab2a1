/* SPDX-License-Identifier: Apache-2.0 */
/*
 * core/config_table.h - one row for each key of the configuration.
 *
 * Layer:   core; used by core/config*.c and the tests
 *
 * Invariants (tests/test_config.c):
 *  1. A row's parent (the path up to the last dot) is an object's row and stands before it, and
 *     the rows below an object follow it without a gap: the table is the tree, in depth-first
 * order.
 *  2. Paths are unique. Each default satisfies its own row.
 */
#ifndef CORE_CONFIG_TABLE_H
#define CORE_CONFIG_TABLE_H

#include "core/config.h"

enum st_key_type {
	ST_KEY_OBJECT, /* its keys are rows */
	ST_KEY_OPEN,   /* an object whose other keys are not looked at */
	ST_KEY_BOOL,
	ST_KEY_INT,    /* uint64_t; 1e9 is an integer */
	ST_KEY_NUM,    /* double, finite */
	ST_KEY_SIZE,   /* size_t: bytes, or "384MiB" */
	ST_KEY_STRING, /* const char *, not empty */
	ST_KEY_WORD,   /* const char *, one of choices */
	ST_KEY_ENUM,   /* int-sized enum, one of choices */
	ST_KEY_PATHS,  /* struct st_strings: a string or a list of strings */
	ST_KEY_PAIR,   /* double[2] */
	ST_KEY_INTS,   /* struct st_numbers, each > 0 */
	ST_KEY_ANY,    /* not looked at */
};

enum st_key_fate {
	ST_KEY_HONOURED,
	ST_KEY_NO_EFFECT, /* accepted and reported once, with the reason */
	ST_KEY_REFUSED,   /* any value but the default (and null) is an error, with the reason */
};

enum st_key_tie {
	ST_KEY_FREE,
	ST_KEY_TIED,     /* what was trained goes on under the same value only */
	ST_KEY_TIED_SIGN /* the same, as to whether it is above 0 */
};

enum {
	ST_KEY_AUTO = 1,      /* "auto" is accepted: auto_text says what it becomes */
	ST_KEY_ABOVE_MIN = 2, /* the range excludes min */
	ST_KEY_BELOW_MAX = 4, /* the range excludes max */
	ST_KEY_FOLD = 8,      /* choices are compared without case */
};

struct st_choice {
	const char *name;
	int value; /* the first name of a value is the one that is written */
};

struct st_key {
	const char *path;
	enum st_key_type type;
	enum st_key_fate fate;
	unsigned flags;
	unsigned schedules; /* bit per st_schedule_type the parameter belongs to; 0 = not one */
	const char *def;    /* JSON; NULL = unset (null is accepted) */
	double min, max;    /* of INT, NUM, SIZE, PAIR's elements; max 0 = none */
	const struct st_choice *choices; /* ends with name NULL */
	const char *auto_text;           /* NULL: the default */
	size_t offset;                   /* honoured: of the field in struct st_config */
	const char *alias_of;            /* this is the old name of that path */
	enum st_key_tie tie;             /* of a run's state to the value */
	const char *reason;              /* of no effect, of refusal */
	const char *help;
};

/** st_config_keys() - the table. */
const struct st_key *st_config_keys(size_t *n);

/** st_key_find() - the row of a path (len bytes of it), or NULL. */
const struct st_key *st_key_find(const char *path, size_t len);

/** st_key_leaf() - the part of a path after the last dot. */
const char *st_key_leaf(const char *path);

/** st_key_nearest() - path of the known key that an unknown one most likely meant.
 *  @param parent  in, path of the object it stood in, "" at the top
 *  @param is_here out, the answer stands in that object; else its place is elsewhere */
const char *st_key_nearest(const char *parent, const char *name, bool *is_here);

/** st_key_type_text() - "a whole number", "true or false", ... */
const char *st_key_type_text(const struct st_key *k);

#endif
