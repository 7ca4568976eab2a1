/* SPDX-License-Identifier: Apache-2.0 */
/* core/status.c - error codes and the calling thread's latest failure. */
#include "core/status.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local struct st_error last;

static const struct {
	int rc;
	int exit_code;
	const char *text;
} domain[] = {
#define STRATA_X(name, code, exit_code, text) { code, exit_code, text },
	STRATA_ERRORS(STRATA_X)
#undef STRATA_X
};

const char *strata_strerror(int rc)
{
	if (rc >= 0)
		return "success";
	for (size_t i = 0; i < ST_ARRAY_LEN(domain); i++)
		if (domain[i].rc == rc)
			return domain[i].text;
	const char *s = strerrordesc_np(-rc);

	return s ? s : "unknown error";
}

int strata_exit_code(int rc)
{
	if (rc >= 0)
		return 0;
	for (size_t i = 0; i < ST_ARRAY_LEN(domain); i++)
		if (domain[i].rc == rc)
			return domain[i].exit_code;
	return rc == -EINVAL ? 2 : 4;
}

static bool ends_with(const char *text, size_t len, const char *end)
{
	size_t n = strlen(end);

	return len >= n && !memcmp(text + len - n, end, n);
}

int st__fail(int rc, const char *file, int line, const char *fmt, ...)
{
	va_list ap;
	size_t len;

	(void)file;
	(void)line;
	va_start(ap, fmt);
	vsnprintf(last.text, sizeof(last.text), fmt, ap);
	va_end(ap);
	last.rc = rc;
	len = strlen(last.text);
	if (rc < 0 && rc > -4096 && len && last.text[len - 1] != '.' &&
	    !ends_with(last.text, len, strata_strerror(rc))) /* an error that is handed on */
		snprintf(last.text + len, sizeof(last.text) - len, ": %s", strata_strerror(rc));
	return rc;
}

const char *st_last_error(void)
{
	return last.text;
}

const char *strata_last_error(void)
{
	return last.text;
}

void st_error_take(struct st_error *e, int rc)
{
	*e = last;
	if (last.rc != rc || !last.text[0])
		snprintf(e->text, sizeof(e->text), "%s", strata_strerror(rc));
	e->rc = rc;
}

void st_error_save(struct st_error *e)
{
	*e = last;
}

int st_error_raise(const struct st_error *e)
{
	last = *e;
	return e->rc;
}

void st__assert_failed(const char *cond, const char *file, int line)
{
	fprintf(stderr, "strata: broken invariant at %s:%d: %s (please report this)\n", file, line,
		cond);
	abort();
}
