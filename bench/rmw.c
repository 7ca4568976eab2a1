/* SPDX-License-Identifier: Apache-2.0 */
/* bench/rmw.c - loads and stores of several streams, by the widest vectors there are. */
#include "bench/rmw.h"

#include <string.h>

#define LINE 64u

#define WRITTEN 0x3f803f803f803f80u /* by streams that are only written: not zero, no denormal */

static const volatile uint64_t zero;

/* Registers of 16, 32 and 64 bytes, at any alignment. */
typedef uint64_t words2 __attribute__((vector_size(16), aligned(8), may_alias));
typedef uint64_t words4 __attribute__((vector_size(32), aligned(8), may_alias));
typedef uint64_t words8 __attribute__((vector_size(64), aligned(8), may_alias));

static inline void walk_scale(char *at, uint32_t none)
{
	uint32_t x;

	memcpy(&x, at, sizeof(x));
	x |= none;
	memcpy(at, &x, sizeof(x));
}

/* All in one function: vectors that are arguments would be taken apart. */
#define BLOCKS(name, attribute, words)                                                             \
	attribute static uint64_t name(const struct st_rmw_stream *streams, size_t n_streams,      \
				       size_t first, size_t n)                                     \
	{                                                                                          \
		words none = { 0 }, sum = { 0 };                                                   \
		uint64_t all = 0;                                                                  \
                                                                                                   \
		none |= zero;                                                                      \
		for (size_t b = first; b < first + n; b++)                                         \
			for (const struct st_rmw_stream *s = streams; s < streams + n_streams;     \
			     s++) {                                                                \
				words *at = (words *)(s->base + b * s->block_bytes);               \
				const words *end = at + s->block_bytes / sizeof(words);            \
                                                                                                   \
				if (s->block_bytes < LINE)                                         \
					walk_scale((char *)at, (uint32_t)none[0]);                 \
				else if (!s->is_written)                                           \
					for (; at < end; at += 2)                                  \
						sum |= at[0] | at[1];                              \
				else if (!s->is_read)                                              \
					for (; at < end; at += 2)                                  \
						at[0] = at[1] = none | WRITTEN;                    \
				else                                                               \
					for (; at < end; at += 2) {                                \
						at[0] |= none;                                     \
						at[1] |= none;                                     \
					}                                                          \
			}                                                                          \
		for (size_t k = 0; k < sizeof(words) / sizeof(all); k++)                           \
			all |= sum[k];                                                             \
		return all;                                                                        \
	}

BLOCKS(blocks_plain, , words2)
#if defined(__x86_64__)
BLOCKS(blocks_avx2, __attribute__((target("avx2"))), words4)
BLOCKS(blocks_avx512, __attribute__((target("avx512f"))), words8)
#endif

uint64_t st_rmw(enum strata_isa isa, const struct st_rmw_stream *streams, size_t n_streams,
		size_t first, size_t n)
{
#if defined(__x86_64__)
	switch (isa) {
	case STRATA_ISA_AVX512:
		return blocks_avx512(streams, n_streams, first, n);
	case STRATA_ISA_AVX2:
		return blocks_avx2(streams, n_streams, first, n);
	default:
		break;
	}
#endif
	return blocks_plain(streams, n_streams, first, n);
}
