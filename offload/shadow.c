/* SPDX-License-Identifier: Apache-2.0 */
/* offload/shadow.c - a sorted array of segments. */
#include "offload/shadow.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int reserve(struct st_shadow *m, uint32_t n)
{
	struct st_shadow_segment *seg;

	if (n <= m->cap)
		return 0;
	seg = reallocarray(m->seg, (size_t)n * 2, sizeof(*seg));
	if (!seg)
		return -ENOMEM;
	m->seg = seg;
	m->cap = n * 2;
	return 0;
}

int st_shadow_init(struct st_shadow *m)
{
	*m = (struct st_shadow){ 0 };
	if (reserve(m, 2))
		return -ENOMEM;
	m->seg[m->n++] = (struct st_shadow_segment){ 0, 0 };
	return 0;
}

void st_shadow_fini(struct st_shadow *m)
{
	free(m->seg);
	*m = (struct st_shadow){ 0 };
}

int st_shadow_copy(struct st_shadow *to, const struct st_shadow *from)
{
	if (reserve(to, from->n))
		return -ENOMEM;
	to->n = from->n;
	memcpy(to->seg, from->seg, from->n * sizeof(*from->seg));
	return 0;
}

uint32_t st_shadow_find(const struct st_shadow *m, uint64_t at)
{
	uint32_t lo = 0, hi = m->n;

	while (hi - lo > 1) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (m->seg[mid].lo <= at)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

int st_shadow_paint(struct st_shadow *m, uint64_t lo, uint64_t hi, uint64_t value)
{
	struct st_shadow_segment put[2];
	uint32_t from, last, n_put = 0;
	uint64_t tail;

	if (lo >= hi)
		return 0;
	if (reserve(m, m->n + 2))
		return -ENOMEM;
	from = st_shadow_find(m, lo);
	last = st_shadow_find(m, hi);
	tail = m->seg[last].value;
	if (m->seg[from].lo < lo)
		from++;
	if (!from || m->seg[from - 1].value != value)
		put[n_put++] = (struct st_shadow_segment){ lo, value };
	if (hi < UINT64_MAX && tail != value)
		put[n_put++] = (struct st_shadow_segment){ hi, tail };
	memmove(m->seg + from + n_put, m->seg + last + 1, (m->n - last - 1) * sizeof(*put));
	memcpy(m->seg + from, put, n_put * sizeof(*put));
	m->n = m->n - (last + 1 - from) + n_put;
	return 0;
}

static uint64_t mix(uint64_t h, uint64_t v)
{
	h = (h ^ v) * 0x9e3779b97f4a7c15u;
	return h ^ h >> 32;
}

uint64_t st_shadow_digest(const struct st_shadow *m, uint64_t lo, uint64_t hi)
{
	uint64_t h = mix(lo, hi);

	for (uint32_t i = st_shadow_find(m, lo); i < m->n && m->seg[i].lo < hi; i++)
		h = mix(mix(h, m->seg[i].lo > lo ? m->seg[i].lo : lo), m->seg[i].value);
	return h;
}

bool st_shadow_is_uniform(const struct st_shadow *m, uint64_t lo, uint64_t hi, uint64_t *value)
{
	uint32_t i = st_shadow_find(m, lo);

	*value = m->seg[i].value;
	return i + 1 == m->n || m->seg[i + 1].lo >= hi;
}
