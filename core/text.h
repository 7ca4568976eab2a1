/* SPDX-License-Identifier: Apache-2.0 */
/*
 * core/text.h - how far apart two names are, for "did you mean"; sizes as people write them.
 *
 * Layer:   core
 * Threads: re-entrant
 */
#ifndef CORE_TEXT_H
#define CORE_TEXT_H

#include <stdbool.h>

/** st_edit_distance() - Levenshtein, upper and lower case alike, on at most 64 bytes of each. */
unsigned st_edit_distance(const char *a, const char *b);

/** st_parse_size() - "384MiB", "1.5 GB": a decimal number and a unit. The decimal point is that of
 *  the current locale. @param out out, bytes. @return false: not of that form */
bool st_parse_size(const char *text, double *out);

#endif
