/* SPDX-License-Identifier: Apache-2.0 */
/*
 * core/config_priv.h - what the files of the configuration share.
 *
 * Layer: core; used by core/config*.c only
 *
 * Order of work: config_json.c (text to tree) -> config.c (overrides, then each value of the tree
 * through its row into its field) -> config_resolve.c (rules between keys, notes) ->
 * config_print.c (explain, dump, schema, help).
 */
#ifndef CORE_CONFIG_PRIV_H
#define CORE_CONFIG_PRIV_H

#include "core/config_json.h"
#include "core/config_table.h"

enum st_source { ST_FROM_DEFAULT, ST_FROM_FILE, ST_FROM_SET, ST_FROM_AUTO, ST_FROM_RULE };

struct st_config_note {
	const char *line;
	struct st_config_note *next;
};

struct st_config_priv {
	struct st_pool pool;
	const char *name;            /* of the file, for messages */
	const struct st_json **node; /* [rows] the value given, or NULL */
	enum st_source *source;      /* [rows] of the value in force */
	struct st_config_note *notes, **notes_end;
	const char **note_lines; /* [n_notes] once resolved */
	size_t n_notes;
};

/** st_key_index() - row number of a path that is in the table. */
size_t st_key_index(const char *path);

/** st_key_fail() - STRATA_E_CONFIG with where the value of a row was given. */
#define st_key_fail(cfg, path, ...) st_config_fail((cfg), STRATA_E_CONFIG, (path), __VA_ARGS__)
int st__key_fail(const struct st_config *cfg, const char *path, const struct st_json *node,
		 const char *fmt, ...) ST_PRINTF(4, 5);

/** st_config_note() - add a line for the user. @return 0, -ENOMEM */
ST_MUST_CHECK int st_config_note(struct st_config *cfg, const char *fmt, ...) ST_PRINTF(2, 3);

/** st_config_resolve() - rules between keys; everything a single row cannot say. */
ST_MUST_CHECK int st_config_resolve(struct st_config *cfg);

/** st_config_field() - address of a row's field. */
static inline void *st_config_field(const struct st_config *cfg, const struct st_key *k)
{
	return (char *)(uintptr_t)cfg + k->offset;
}

/** st_config_print_value() - a row's value in force, as JSON. */
void st_config_print_value(const struct st_config *cfg, const struct st_key *k, FILE *f);

/** st_config_is_unset() - a row whose value is "nothing given, nothing decided". */
bool st_config_is_unset(const struct st_config *cfg, const struct st_key *k);

/** st_config_is_idle() - row i was given and has no effect; a section speaks for what is in it. */
bool st_config_is_idle(const struct st_config *cfg, size_t i);

/** st_config_applies() - false for parameters of another schedule. */
bool st_config_applies(const struct st_config *cfg, const struct st_key *k);

#endif
