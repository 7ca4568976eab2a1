/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model/json_scan.h - walk a large JSON object member by member, in bounded memory.
 *
 * Layer:   model (uses core)
 * Threads: re-entrant
 *
 * A header of 100 MB parsed whole would become gigabytes of small objects. The scan finds where
 * each member's key and value begin and end (strings, brackets, nothing more) and hands the slices
 * to jansson one at a time, which decides strictly whether they are JSON. What the scan accepts
 * wrongly between brackets, jansson refuses; what stands between the members, the scan checks.
 */
#ifndef MODEL_JSON_SCAN_H
#define MODEL_JSON_SCAN_H

#include <jansson.h>

#include "core/status.h"

struct st_json_slice {
	size_t off, len; /* in the text */
};

struct st_json_scan {
	const char *text;  /* borrowed */
	size_t end;        /* the object ends before this byte */
	size_t pos;        /* next byte to look at; after the end: just behind '}' */
	size_t base;       /* what to add to an offset in messages */
	const char *shown; /* file for messages, through st_show() already; borrowed */
	bool has_begun;
};

struct st_json_member {
	char *key; /* decoded, NUL-terminated UTF-8; taken by the caller: free() it */
	size_t key_off;
	struct st_json_slice value;
};

/**
 * st_json_next() - the next member of the object at scan->pos.
 * @return 1 and *m; 0 at the end of the object; STRATA_E_INPUT; -ENOMEM
 */
ST_MUST_CHECK int st_json_next(struct st_json_scan *scan, struct st_json_member *m);

/** st_json_rest_blank() - only white space follows. @return 0; STRATA_E_INPUT */
ST_MUST_CHECK int st_json_rest_blank(const struct st_json_scan *scan);

/**
 * st_json_load() - parse a slice, strictly: no duplicate keys, no trailing text.
 * @param max_bytes, max_depth  in, limits checked before the parser sees the text; a scalar has
 *                              depth 0, {"a":[1]} has 2
 * @param out  returned owned: json_decref() it
 * @return 0; STRATA_E_INPUT; -ENOMEM
 */
ST_MUST_CHECK int st_json_load(const struct st_json_scan *scan, struct st_json_slice slice,
			       size_t max_bytes, unsigned max_depth, json_t **out);

#endif
