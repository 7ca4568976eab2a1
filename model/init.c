/* SPDX-License-Identifier: Apache-2.0 */
/* model/init.c - initial weights from a counter-based normal generator. */
#include "model/gpt2.h"

#include <math.h>

static uint64_t mix(uint64_t z)
{
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static uint64_t fnv1a(const char *s)
{
	uint64_t h = 0xcbf29ce484222325u;

	while (*s)
		h = (h ^ (unsigned char)*s++) * 0x100000001b3u;
	return h;
}

static double draw53(uint64_t key, uint64_t counter)
{
	return (double)(mix(key + (counter + 1) * 0x9e3779b97f4a7c15u) >> 11);
}

static void fill_normal(uint64_t key, double std, size_t first, size_t n, float *out)
{
	static const double two_pi = 6.283185307179586476925286766559;

	for (size_t i = first; i < first + n;) {
		uint64_t pair = i / 2;
		double r = std * sqrt(-2.0 * log((draw53(key, 2 * pair) + 1.0) * 0x1p-53));
		double phi = two_pi * (draw53(key, 2 * pair + 1) * 0x1p-53);

		/* A range may start or end inside a pair; the other half is then not wanted. */
		if (i % 2 == 0) {
			out[i - first] = (float)(r * cos(phi));
			i++;
		}
		if (i < first + n && i / 2 == pair) {
			out[i - first] = (float)(r * sin(phi));
			i++;
		}
	}
}

void st_init_fill(const struct st_tensor_desc *t, uint64_t seed, size_t first, size_t n, float *out)
{
	switch (t->init) {
	case ST_INIT_ZERO:
	case ST_INIT_ONE:
		for (size_t i = 0; i < n; i++)
			out[i] = t->init == ST_INIT_ONE ? 1.0f : 0.0f;
		return;
	case ST_INIT_NORMAL:
		fill_normal(mix(mix(seed) ^ fnv1a(t->name)), (double)t->init_std, first, n, out);
		return;
	}
	ST_ASSERT(!"an init kind of the table");
}
