/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/check_marks.c - libcheck's note of each assertion that holds, only where it is of use.
 *
 * libcheck writes file and line of each to a file, for the report on a test that crashes in a
 * process of its own. Tests that do not fork (CK_FORK=no, as ctest runs them) have nobody to read
 * it; there it took more time than what was asserted. Linked into every test with
 * --wrap=_mark_point.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

void __real__mark_point(const char *file, int line);
void __wrap__mark_point(const char *file, int line);

void __wrap__mark_point(const char *file, int line)
{
	static atomic_int forks = -1; /* not known yet */
	int known = atomic_load_explicit(&forks, memory_order_relaxed);

	if (known < 0) {
		const char *text = getenv("CK_FORK");

		known = !text || strcmp(text, "no") != 0;
		atomic_store_explicit(&forks, known, memory_order_relaxed);
	}
	if (known)
		__real__mark_point(file, line);
}
