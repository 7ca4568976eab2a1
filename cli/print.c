/* SPDX-License-Identifier: Apache-2.0 */
/* cli/print.c - sizes, durations and counts for people; numbers and strings for programs. */
#include "cli/print.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/config_json.h"
#include "core/status.h"

struct st_text st_bytes_text(uint64_t bytes)
{
	static const char *const unit[] = { "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	struct st_text t;
	double x = (double)bytes / 1024;
	size_t i = 0;

	if (bytes < 1024) {
		snprintf(t.s, sizeof(t.s), "%u B", (unsigned)bytes);
		return t;
	}
	while (x >= 1023.95 && i + 1 < ST_ARRAY_LEN(unit)) {
		x /= 1024;
		i++;
	}
	snprintf(t.s, sizeof(t.s), "%.1f %s", x, unit[i]);
	return t;
}

struct st_text st_count_text(double n)
{
	static const char *const unit[] = { "", " k", " M", " G", " T", " P" };
	struct st_text t;
	size_t i = 0;

	while (n >= 999.5 && i + 1 < ST_ARRAY_LEN(unit)) {
		n /= 1000;
		i++;
	}
	snprintf(t.s, sizeof(t.s), "%.*f%s",
		 i == 0 || n >= 99.95 ? 0
		 : n >= 9.995         ? 1
				      : 2,
		 n, unit[i]);
	return t;
}

struct st_text st_duration_text(double seconds)
{
	struct st_text t = { "?" };
	unsigned long s;

	if (!isfinite(seconds) || seconds < 0 || seconds > 1e9)
		return t;
	s = (unsigned long)(seconds + 0.5);
	if (s < 3600)
		snprintf(t.s, sizeof(t.s), "%lu:%02lu", s / 60, s % 60);
	else if (s < 86400)
		snprintf(t.s, sizeof(t.s), "%lu:%02lu:%02lu", s / 3600, s / 60 % 60, s % 60);
	else
		snprintf(t.s, sizeof(t.s), "%lu d %02lu:%02lu", s / 86400, s / 3600 % 24,
			 s / 60 % 60);
	return t;
}

void st_put_json_string(const char *s, FILE *f)
{
	char plain[1024];
	size_t n = strnlen(s, sizeof(plain) - 1);

	if (st_json_is_utf8(s, strlen(s))) {
		st_json_write_string(f, s);
		return;
	}
	for (size_t i = 0; i < n; i++)
		plain[i] = (unsigned char)s[i] < 0x80 ? s[i] : '?';
	plain[n] = '\0';
	st_json_write_string(f, plain);
}

void st_put_json_real(double x, FILE *f)
{
	char buf[32];

	if (!isfinite(x)) {
		fputs("null", f);
		return;
	}
	st_json_format_number(x, buf, sizeof(buf));
	fputs(buf, f);
}

void st_member_real(const char *key, double x)
{
	printf(",\"%s\":", key);
	st_put_json_real(x, stdout);
}

void st_member_uint(const char *key, uint64_t x)
{
	printf(",\"%s\":%" PRIu64, key, x);
}

void st_member_bool(const char *key, bool x)
{
	printf(",\"%s\":%s", key, x ? "true" : "false");
}

void st_member_text(const char *key, const char *text)
{
	printf(",\"%s\":", key);
	st_put_json_string(text, stdout);
}

void st_put_shell_word(const char *s, FILE *f)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
				    "_./=:,+@%-";

	if (*s && strspn(s, plain) == strlen(s)) {
		fputs(s, f);
		return;
	}
	fputc('\'', f);
	for (; *s; s++) {
		if (*s == '\'')
			fputs("'\\''", f);
		else
			fputc(*s, f);
	}
	fputc('\'', f);
}

static int stdout_rc; /* of the first flush that failed: what was written then is gone */

int st_flush_stdout(void)
{
	if (fflush(stdout) && !stdout_rc)
		stdout_rc = errno ? -errno : -EIO;
	if (ferror(stdout) && !stdout_rc)
		stdout_rc = -EIO;
	if (stdout_rc)
		return st_fail(stdout_rc, "cannot write to the standard output");
	return 0;
}

int st_report(int rc)
{
	const char *text = strata_last_error();

	if (rc == -EPIPE && stdout_rc == -EPIPE)
		return ST_EXIT_UNREAD;
	if (!*text)
		text = strata_strerror(rc);
	fputs("strata: ", stderr);
	for (; *text; text++) { /* one line, whatever the names and values in it hold */
		bool is_control = (unsigned char)*text < ' ' || *text == 0x7f;

		fprintf(stderr, is_control ? "\\x%02x" : "%c", *text);
	}
	fputc('\n', stderr);
	return strata_exit_code(rc);
}
