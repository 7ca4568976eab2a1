/* SPDX-License-Identifier: Apache-2.0 */
/*
 * core/log.h - messages for people, through one callback.
 *
 * Layer:   core
 * Threads: any; the callback is called under a lock, one whole line at a time
 *
 * The library prints nothing by itself: without a callback, messages are dropped.
 */
#ifndef CORE_LOG_H
#define CORE_LOG_H

#include "core/status.h"

enum st_log_level { ST_LOG_ERROR, ST_LOG_WARN, ST_LOG_INFO, ST_LOG_DEBUG };

typedef void st_log_fn(void *user, enum st_log_level level, const char *line);

/** st_log_set() - install the callback (NULL: none); messages above max_level are dropped. */
void st_log_set(st_log_fn *fn, void *user, enum st_log_level max_level);

/** st_log() - one line without newline. */
void st_log(enum st_log_level level, const char *fmt, ...) ST_PRINTF(2, 3);

/** st_log_once() - as st_log(), but a line whose text was already given is dropped. */
void st_log_once(enum st_log_level level, const char *fmt, ...) ST_PRINTF(2, 3);

#endif
