/* SPDX-License-Identifier: Apache-2.0 */
/*
 * include/strata/strata.h - Strata's public API: errors, and what every other public header needs.
 *
 * Threads: every function may be called from any thread unless its docstring says otherwise
 */
#ifndef STRATA_STRATA_H
#define STRATA_STRATA_H

#ifdef __cplusplus
extern "C" {
#endif

#define STRATA_API        __attribute__((visibility("default")))
#define STRATA_MUST_CHECK __attribute__((warn_unused_result))

#define STRATA_VERSION "0.1.0"

/*
 * Domain errors: name, code, exit code of the program, text. Codes of the system are -errno.
 * Exit codes: 2 bad input or usage, 3 does not fit, 4 I/O error, 5 numeric failure.
 */
#define STRATA_ERRORS(X)                                                                           \
	X(CONFIG, -4097, 2, "the configuration is not valid")                                      \
	X(INPUT, -4098, 2, "an input file is not valid")                                           \
	X(NO_FIT, -4099, 3, "the plan does not fit the budgets")                                   \
	X(IO, -4100, 4, "an I/O operation failed")                                                 \
	X(CORRUPT, -4101, 4, "stored data is damaged")                                             \
	X(NUMERIC, -4102, 5, "the numbers are no longer finite")                                   \
	X(BUSY, -4103, 2, "in use by another run")                                                 \
	X(CANCELLED, -4104, 4, "cancelled after an earlier error")                                 \
	X(UNSUPPORTED, -4105, 2, "not supported here")                                             \
	X(STALE, -4106, 2, "state of another numeric plan")

enum strata_error {
#define STRATA_X(name, code, exit_code, text) STRATA_E_##name = code,
	STRATA_ERRORS(STRATA_X)
#undef STRATA_X
};

/** strata_strerror() - text of a code of this API, or of -errno; never NULL, never fails. */
STRATA_API const char *strata_strerror(int rc);

/** strata_last_error() - one line on the calling thread's latest failure; "" if none. */
STRATA_API const char *strata_last_error(void);

/** strata_exit_code() - the documented exit code of a program that ends with rc (0 for rc >= 0). */
STRATA_API int strata_exit_code(int rc);

#ifdef __cplusplus
}
#endif
#endif
