/* SPDX-License-Identifier: Apache-2.0 */
/* core/log.c - the log callback. */
#include "core/log.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define ONCE_MAX 256

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static st_log_fn *sink;
static void *sink_user;
static enum st_log_level sink_max;
static uint64_t once_hash[ONCE_MAX];
static unsigned once_n;

void st_log_set(st_log_fn *fn, void *user, enum st_log_level max_level)
{
	pthread_mutex_lock(&lock);
	sink = fn;
	sink_user = user;
	sink_max = max_level;
	once_n = 0;
	pthread_mutex_unlock(&lock);
}

static void emit(enum st_log_level level, const char *line)
{
	if (sink && level <= sink_max)
		sink(sink_user, level, line);
}

void st_log(enum st_log_level level, const char *fmt, ...)
{
	char line[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	pthread_mutex_lock(&lock);
	emit(level, line);
	pthread_mutex_unlock(&lock);
}

static bool seen_before(const char *line)
{
	uint64_t h = 0xcbf29ce484222325u; /* FNV-1a: a table of lines already given */

	for (const char *c = line; *c; c++)
		h = (h ^ (unsigned char)*c) * 0x100000001b3u;
	for (unsigned i = 0; i < once_n; i++)
		if (once_hash[i] == h)
			return true;
	if (once_n < ONCE_MAX)
		once_hash[once_n++] = h;
	return false;
}

void st_log_once(enum st_log_level level, const char *fmt, ...)
{
	char line[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	pthread_mutex_lock(&lock);
	if (!seen_before(line))
		emit(level, line);
	pthread_mutex_unlock(&lock);
}
