/* SPDX-License-Identifier: Apache-2.0 */
/* core/checksum.c - which build of XXH3 is called. */
#include "core/checksum.h"

#include <xxhash.h>
#ifdef STRATA_HAS_XXH_DISPATCH
#include <xxh_x86dispatch.h> /* the same names, chosen by CPUID */
#endif

uint64_t st_checksum(const void *buf, size_t bytes, uint64_t seed)
{
	return XXH3_64bits_withSeed(buf, bytes, seed);
}
