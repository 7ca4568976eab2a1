/* SPDX-License-Identifier: Apache-2.0 */
/* bench/report.c - notes, and the line that says what goes on. */
#include "bench/report.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/log.h"

void st_report_wipe(struct st_report *r)
{
	if (!r->has_status)
		return;
	fputs("\r\033[K", stderr);
	fflush(stderr);
	r->has_status = false;
}

static void on_log(void *user, enum st_log_level level, const char *line)
{
	st_report_wipe(user);
	fprintf(stderr, "# %s%s\n", level <= ST_LOG_WARN ? "warning: " : "", line);
}

void st_report_begin(struct st_report *r, enum st_table_form form)
{
	const char *term = getenv("TERM");

	*r = (struct st_report){
		.form = form,
		.notes = form == ST_TABLE_TEXT ? stdout : stderr,
		.is_terminal = isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0,
	};
	st_report_take_log(r);
}

void st_report_take_log(struct st_report *r)
{
	st_log_set(on_log, r, ST_LOG_INFO);
}

void st_report_end(struct st_report *r)
{
	st_report_wipe(r);
	st_log_set(NULL, NULL, ST_LOG_ERROR);
}

void st_report_note(struct st_report *r, const char *fmt, ...)
{
	va_list ap;

	st_report_wipe(r);
	fputs("# ", r->notes);
	va_start(ap, fmt);
	vfprintf(r->notes, fmt, ap);
	va_end(ap);
	fputc('\n', r->notes);
	fflush(r->notes);
}

void st_report_status(struct st_report *r, const char *fmt, ...)
{
	va_list ap;

	if (!r->is_terminal)
		return;
	st_report_wipe(r);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fflush(stderr);
	r->has_status = true;
}

int st_report_check_file(const char *path)
{
	struct stat st;
	bool is_new = stat(path, &st) != 0;
	int fd;

	if (is_new && errno != ENOENT)
		return st_fail(STRATA_E_INPUT, "%s cannot be written (%s): name another file.",
			       path, strata_strerror(-errno));
	/* A pipe without a reader would be waited for. */
	if (!is_new && (S_ISDIR(st.st_mode) || S_ISFIFO(st.st_mode)))
		return st_fail(STRATA_E_INPUT, "%s cannot be written: it is %s; name another file.",
			       path, S_ISDIR(st.st_mode) ? "a directory" : "a pipe");
	/* Tried, for permissions alone do not tell: not root's, nor those of a read-only mount. */
	fd = open(path,
		  O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | (is_new ? O_CREAT | O_EXCL : 0),
		  0666);
	if (fd < 0 && errno == EEXIST)
		return st_fail(
			STRATA_E_INPUT,
			"%s cannot be written: it is a link that leads nowhere; name another "
			"file.",
			path);
	if (fd < 0)
		return st_fail(STRATA_E_INPUT,
			       "%s cannot be written (%s): name a file in a directory that this "
			       "user may write to.",
			       path, strata_strerror(-errno));
	close(fd);
	if (is_new)
		(void)unlink(path);
	return 0;
}
