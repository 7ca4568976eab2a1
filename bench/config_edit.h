/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench/config_edit.h - set keys of a configuration's text, leaving the rest of it as it was typed.
 *
 * Layer:   bench
 * Threads: re-entrant
 *
 * The parser of core/config_json.h says at which byte each value begins and ends. A value that is
 * there is replaced in its place; a key that is not is added at the end of its object, and an
 * object that is not with it. Comments, order, and everything else stay. What came out is parsed
 * again and compared with what went in: apart from the edits both must say the same.
 */
#ifndef BENCH_CONFIG_EDIT_H
#define BENCH_CONFIG_EDIT_H

#include <stddef.h>

#include "core/status.h"

struct st_config_set {
	const char *path;  /* "strata.nvme.weights": objects joined by dots */
	const char *value; /* as JSON */
};

/**
 * st_config_edit() - apply the edits, in order.
 * @param text  in, a JSON object, with comments allowed
 * @param name  in, what errors call it
 * @param out   out, allocated text with a NUL; the caller frees it
 * @return 0; STRATA_E_CONFIG (no valid object; something that is no object stands in the way; the
 *         result would not say what it should); -ENOMEM
 */
ST_MUST_CHECK int st_config_edit(const char *text, size_t len_bytes, const char *name,
				 const struct st_config_set *sets, size_t n_sets, char **out);

/**
 * st_config_replace() - put the text in place of the file, so that at any moment, also of a crash,
 * the old or the new one is there whole: temporary file beside it, fsync, rename, fsync of the
 * directory. Mode and, where allowed, owner stay; a link is followed. A path where nothing is yet
 * is made (0644 less the umask).
 * @return 0; STRATA_E_INPUT (not a regular file); -errno. On failure nothing has changed.
 */
ST_MUST_CHECK int st_config_replace(const char *path, const char *text, size_t len_bytes);

#endif
