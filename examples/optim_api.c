/* SPDX-License-Identifier: Apache-2.0 */
/*
 * examples/optim_api.c - a trainer of its own that uses Strata for nothing but the optimizer step.
 *
 *	optim_api [STEPS]
 *
 * It fits y = tanh(W x) with AdamW, bf16 parameters that give back fp32 master weights, and 8-bit
 * moments, all in buffers of its own. The gradient's norm is clipped at 1; a step whose gradient is
 * not finite is skipped. Prints the first and the last loss.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "strata/optim.h"

enum { INPUTS = 96, OUTPUTS = 64, N = INPUTS * OUTPUTS, SAMPLES = 64 };

static int failed(const char *what)
{
	fprintf(stderr, "optim_api: %s: %s\n", what, strata_last_error());
	return 1;
}

static float noise(uint32_t *state) /* in [-1, 1) */
{
	*state = *state * 1664525u + 1013904223u;
	return (float)(int32_t)*state * 0x1p-31f;
}

/* What computes sees 16 bits: the parameter array is bf16. */
static float bf16(const uint16_t *w, size_t i)
{
	union {
		uint32_t bits;
		float f;
	} x = { .bits = (uint32_t)w[i] << 16 };

	return x.f;
}

/* Mean squared error over the samples; its gradient is added to grad [N]. */
static double loss_and_gradient(const uint16_t *w, const float *target, float *grad)
{
	const float scale = 1.0f / (SAMPLES * OUTPUTS);
	uint32_t state = 7;
	double loss = 0;

	for (int s = 0; s < SAMPLES; s++) {
		float x[INPUTS];

		for (int i = 0; i < INPUTS; i++)
			x[i] = noise(&state);
		for (int o = 0; o < OUTPUTS; o++) {
			float y = 0, want = 0, diff;

			for (int i = 0; i < INPUTS; i++) {
				y += bf16(w, (size_t)o * INPUTS + (size_t)i) * x[i];
				want += target[o * INPUTS + i] * x[i];
			}
			y = tanhf(y);
			diff = y - tanhf(want);
			loss += (double)diff * diff * scale;
			for (int i = 0; i < INPUTS; i++)
				grad[o * INPUTS + i] += 2 * scale * diff * (1 - y * y) * x[i];
		}
	}
	return loss;
}

static int train(long steps, void *const array[STRATA_ARRAY_N], const struct strata_optim_cfg *cfg,
		 const struct strata_optim_format *format, const float *target, float *grad)
{
	double loss = 0, first = 0;

	for (long t = 1; t <= steps; t++) {
		struct strata_optim_range r = { .n = N };
		double leaf[(N + STRATA_NUMERIC_TILE - 1) / STRATA_NUMERIC_TILE], norm, clip;
		struct strata_optim_step step;

		for (int i = 0; i < N; i++)
			grad[i] = 0;
		loss = loss_and_gradient(array[STRATA_ARRAY_PARAM], target, grad);
		if (t == 1)
			first = loss;
		/* The gradient is rounded to bf16 once; its norm is that of what was stored. */
		if (strata_optim_reduce(N, grad, array[STRATA_ARRAY_GRAD], format->grads, leaf) < 0)
			return failed("gradient");
		norm = sqrt(strata_optim_tree_sum(leaf, sizeof(leaf) / sizeof(*leaf)));
		if (!isfinite(norm))
			continue;
		clip = norm > 1 ? 1 / norm : 1;
		for (int a = 0; a < STRATA_ARRAY_N; a++)
			r.array[a] = array[a];
		if (strata_optim_prepare(&step, cfg, (uint64_t)t, 0.01, 1e-4, clip) < 0 ||
		    strata_optim_update(&step, format, &r) < 0)
			return failed("step");
	}
	printf("%s: loss %.6f, after %ld steps %.6f\n", strata_isa_name(strata_isa_in_use()), first,
	       steps, loss);
	return isfinite(loss) && loss < 0.05 * first ? 0 : 1;
}

int main(int argc, char **argv)
{
	const struct strata_optim_format format = { STRATA_PARAMS_SPLIT, STRATA_MOMENTS_INT8,
						    STRATA_GRADS_BF16 };
	struct strata_optim_cfg cfg = STRATA_OPTIM_CFG_DEFAULT;
	void *array[STRATA_ARRAY_N] = { NULL };
	float *target = calloc(N, sizeof(float)), *work = calloc(N, sizeof(float));
	long steps = argc > 1 ? strtol(argv[1], NULL, 10) : 200;
	size_t bytes[STRATA_ARRAY_N];
	uint32_t state = 1;
	int rc = 1;

	if (steps < 1) {
		fprintf(stderr, "usage: optim_api [STEPS], at least 1\n");
		goto out;
	}
	if (!target || !work || strata_optim_array_bytes(&cfg, &format, N, bytes) < 0) {
		failed("buffers");
		goto out;
	}
	for (int a = 0; a < STRATA_ARRAY_N; a++) { /* moments begin as zeros */
		array[a] = bytes[a] ? calloc(1, bytes[a]) : NULL;
		if (bytes[a] && !array[a])
			goto out;
	}
	for (int i = 0; i < N; i++) {
		target[i] = 0.2f * noise(&state);
		work[i] = 0.2f * noise(&state);
	}
	strata_optim_split(N, work, array[STRATA_ARRAY_PARAM], array[STRATA_ARRAY_LOW]);
	rc = train(steps, array, &cfg, &format, target, work);
out:
	for (int a = 0; a < STRATA_ARRAY_N; a++)
		free(array[a]);
	free(target);
	free(work);
	return rc;
}
