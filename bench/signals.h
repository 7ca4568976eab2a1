/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench/signals.h - a measurement that is asked to stop ends soon and leaves nothing behind.
 *
 * Layer:   bench
 * Threads: main
 */
#ifndef BENCH_SIGNALS_H
#define BENCH_SIGNALS_H

#include <signal.h>

/* The first SIGINT, SIGTERM or SIGHUP since st_signals_catch(), else 0. */
extern volatile sig_atomic_t st_signal;

/** st_signals_catch() - from now on they only set st_signal. Those ignored so far stay ignored. */
void st_signals_catch(void);
/** st_signals_report() - "strata: stopped by ..." on stderr. @return the exit code, 128 + signal */
int st_signals_report(void);

#endif
