/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/cuda_emu/at_end.cc - the emulation inside a program that knows nothing of it: what was
 * reported is said when the process ends, which then ends with 86.
 */
#include "tests/cuda_emu/emu.h"

#include <stdio.h>
#include <unistd.h>

__attribute__((destructor)) static void say_reports(void)
{
	int n = emuReports();

	for (int i = 0; i < n; i++)
		fprintf(stderr, "emulated CUDA: %s\n", emuReportText(i));
	if (n)
		_exit(86);
}
