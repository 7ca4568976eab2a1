/* SPDX-License-Identifier: Apache-2.0 */
/* bench/signals.c - the flag that a signal sets. */
#include "bench/signals.h"

#include <stddef.h>
#include <stdio.h>

#include "core/status.h"

volatile sig_atomic_t st_signal;

static void on_signal(int sig)
{
	if (!st_signal)
		st_signal = sig;
}

void st_signals_catch(void)
{
	static const int which[] = { SIGINT, SIGTERM, SIGHUP };
	struct sigaction sa = { .sa_handler = on_signal, .sa_flags = SA_RESTART }, old;

	sigemptyset(&sa.sa_mask);
	for (size_t i = 0; i < ST_ARRAY_LEN(which); i++)
		if (!sigaction(which[i], NULL, &old) && old.sa_handler != SIG_IGN)
			(void)sigaction(which[i], &sa, NULL); /* these signals can be caught */
}

int st_signals_report(void)
{
	int sig = st_signal;

	fprintf(stderr, "strata: stopped by %s; nothing is left behind\n",
		sig == SIGINT    ? "SIGINT"
		: sig == SIGTERM ? "SIGTERM"
				 : "SIGHUP");
	return 128 + sig;
}
