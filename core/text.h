/* SPDX-License-Identifier: Apache-2.0 */
/*
 * core/text.h - how far apart two names are, for "did you mean".
 *
 * Layer:   core
 * Threads: re-entrant
 */
#ifndef CORE_TEXT_H
#define CORE_TEXT_H

/** st_edit_distance() - Levenshtein, upper and lower case alike, on at most 64 bytes of each. */
unsigned st_edit_distance(const char *a, const char *b);

#endif
