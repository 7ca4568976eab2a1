/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpu_optim/kernels.h - what one instruction set provides to optim.c.
 *
 * Layer:   cpu_optim (internal)
 * Threads: re-entrant
 *
 * A kernel assumes the floating-point environment that optim.c sets around each call: round to
 * nearest, no flush to zero, denormals read as they are, exceptions masked. Arguments are checked
 * there too. Arrays may have any alignment here and any length.
 */
#ifndef CPU_OPTIM_KERNELS_H
#define CPU_OPTIM_KERNELS_H

#include "cpu_optim/optim.h"

#define ST_NAN_BITS 0x7fc00000u /* the only NaN that st_optim_update() stores */

struct st_optim_kernels { /* all required; update is NULL in a table that was not compiled in */
	void (*update)(const struct st_optim_step *s, const struct st_optim_range *r);
	void (*reduce)(size_t n, const float *acc, void *out, enum st_dtype grad_dtype,
		       double *leaf);
	void (*split)(size_t n, const float *master, uint16_t *hi, int16_t *lo);
	void (*join)(size_t n, const uint16_t *hi, const int16_t *lo, float *master);
	void (*round)(size_t n, const float *master, uint16_t *out);
};

extern const struct st_optim_kernels st_optim_scalar_kernels;
extern const struct st_optim_kernels st_optim_avx2_kernels;
extern const struct st_optim_kernels st_optim_avx512_kernels;

/* The range that starts at element i of r, for what a vector loop leaves over. */
static inline struct st_optim_range st_optim_range_from(const struct st_optim_range *r, size_t i)
{
	struct st_optim_range t = *r;

	t.n = r->n - i;
	t.p = (char *)r->p + i * (r->format == ST_OPTIM_SPLIT ? 2 : 4);
	if (r->lo)
		t.lo = r->lo + i;
	t.m = r->m + i;
	t.v = r->v + i;
	t.g = (const char *)r->g + i * st_dtype_bytes(r->grad_dtype);
	return t;
}

#endif
