/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/place.h - where the files of a test lie.
 *
 * Most of what a small store takes is waiting for the disk's flushes. A test that asks for other
 * things than what those are for may have its files in memory; on machines where there is little of
 * it for files, as in many containers, they lie on the disk all the same.
 */
#ifndef TESTS_PLACE_H
#define TESTS_PLACE_H

#include <stdint.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define PLACE_BYTES ((uint64_t)512 << 20) /* more than any two tests need at once */

static inline const char *place_in_memory(const char *otherwise)
{
	static const char memory[] = "/dev/shm";
	struct statvfs v;

	if (statvfs(memory, &v) || access(memory, W_OK | X_OK) ||
	    (uint64_t)v.f_bavail * v.f_frsize < PLACE_BYTES)
		return otherwise;
	return memory;
}

#endif
