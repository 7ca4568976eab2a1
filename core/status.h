/* SPDX-License-Identifier: Apache-2.0 */
/*
 * core/status.h - error codes, their texts, and the last error's detail.
 *
 * Layer:   core
 * Threads: st_fail() and st_last_error() work on the calling thread's own record
 *
 * Every function that can fail returns int: 0 or a count, or a negative code. A code is -errno,
 * or one of STRATA_E_* below -4096 (include/strata/strata.h holds the list, so that users see it).
 * The detail (what, where, what to do) is recorded once, where the failure is known, by st_fail(),
 * and travels beside the code: st_last_error() gives it to whoever reports it. A failure that
 * crosses threads carries its text with it (struct st_error).
 */
#ifndef CORE_STATUS_H
#define CORE_STATUS_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "strata/strata.h"

#define ST_PRINTF(fmt_idx, arg_idx) __attribute__((format(printf, fmt_idx, arg_idx)))
#define ST_MUST_CHECK               __attribute__((warn_unused_result))
#define ST_ARRAY_LEN(a)             (sizeof(a) / sizeof((a)[0]))

/* A failure as a value: passed between threads, kept by an engine that is poisoned. */
struct st_error {
	int rc;         /* 0 = none */
	char text[480]; /* one line, no newline */
};

/**
 * st_fail() - record the detail of a failure on this thread and return its code.
 * @param rc   in, negative code; returned unchanged
 * @param fmt  in, printf format of one line: what, where, what to do; strerror is not appended
 *             unless rc is -errno and the text does not end in a full stop
 */
#define st_fail(rc, ...) st__fail((rc), __FILE__, __LINE__, __VA_ARGS__)
int st__fail(int rc, const char *file, int line, const char *fmt, ...) ST_PRINTF(4, 5);

/** st_last_error() - text of this thread's latest st_fail(), "" if none. Valid until the next. */
const char *st_last_error(void);

/** st_error_take() - copy this thread's latest failure into *e (rc given by the caller). */
void st_error_take(struct st_error *e, int rc);

/** st_error_save() - this thread's latest failure as it is, for a clean-up that may record others.
 */
void st_error_save(struct st_error *e);

/** st_error_raise() - make *e this thread's latest failure and return its code. */
int st_error_raise(const struct st_error *e);

/* A broken invariant of our own: stays alive in release builds, prints and aborts. */
#define ST_ASSERT(cond)                                                                            \
	do {                                                                                       \
		if (__builtin_expect(!(cond), 0))                                                  \
			st__assert_failed(#cond, __FILE__, __LINE__);                              \
	} while (0)
__attribute__((noreturn)) void st__assert_failed(const char *cond, const char *file, int line);

#endif
