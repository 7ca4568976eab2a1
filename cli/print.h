/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cli/print.h - sizes, durations and counts for people; numbers and strings for programs.
 *
 * Layer: cli
 */
#ifndef CLI_PRINT_H
#define CLI_PRINT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct st_text {
	char s[24];
};

/** st_bytes_text() - "384.0 MiB", "17 B". */
struct st_text st_bytes_text(uint64_t bytes);
/** st_count_text() - three digits and a unit: "10.8 M", "1.56 G", "950". */
struct st_text st_count_text(double n);
/** st_duration_text() - "0:07", "2:03", "1:02:03", "3 d 04:05"; "?" if not finite or negative. */
struct st_text st_duration_text(double seconds);

/** st_put_json_string() - quoted and escaped. In a text that is not UTF-8 (a file's name may
 *  be any bytes), at most 1 KiB, the bytes beyond ASCII become "?". */
void st_put_json_string(const char *s, FILE *f);
/** st_put_json_real() - the shortest decimal that reads back the same; null if not finite. */
void st_put_json_real(double x, FILE *f);
/** st_member_*() - a member behind others of its object, on stdout: ',"key":value'. */
void st_member_real(const char *key, double x);
void st_member_uint(const char *key, uint64_t x);
void st_member_bool(const char *key, bool x);
void st_member_text(const char *key, const char *text);

/** st_put_shell_word() - as a shell reads it back, in quotes where it needs them. */
void st_put_shell_word(const char *s, FILE *f);

/** st_flush_stdout() - @return 0, or a negative code when what was written did not arrive (the
 *  message is in strata_last_error()); -EPIPE: nobody reads any more */
int st_flush_stdout(void);

/* A reader that has gone away (head, less) ends the program as it ends others: without a word, and
 * with the exit code that a shell shows for SIGPIPE. */
#define ST_EXIT_UNREAD 141

/** st_report() - "strata: MESSAGE" on stderr for a failed call, nothing for -EPIPE of
 *  st_flush_stdout(). @return the program's exit code */
int st_report(int rc);

#endif
