/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/cuda_scenario.h - a small training step on three streams of a CUDA device.
 *
 * For each of LAYERS layers, with two buffers for parameters and two for results:
 *
 *	h2d      wait until the buffer's last user is done; copy parameters in
 *	compute  wait for the copy; z = x W + bias; y = gelu(z) + x; sums += sums of y's columns
 *	d2h      wait for compute; copy the result out; the host adds it to a hash
 *
 * tests/test_cuda_faults.cc runs it on the emulation, which is told of the host's own accesses and
 * of where a step begins; tests/gpu_check on a GPU.
 */
#ifndef TESTS_CUDA_SCENARIO_H
#define TESTS_CUDA_SCENARIO_H

#include "tests/cuda_emu/rig.h"

#ifdef STRATA_CUDA_EMU
#include "tests/cuda_emu/emu.h"
#else
static inline void emuHostRead(const void *, size_t, const char *)
{
}
static inline void emuHostWrite(const void *, size_t, const char *)
{
}
static inline void emuStep(bool)
{
}
#endif

#define LAYERS  6
#define ROWS    16u
#define COLS    32u
#define STEPS   2
#define NO_HASH 0xcbf29ce484222325u

enum Defect { /* what the step's author could have got wrong */
	      NONE,
	      COMPUTE_BEFORE_COPY, /* compute does not wait for the parameters */
	      COPY_TOO_EARLY,   /* parameters arrive while an earlier layer still uses the buffer */
	      RESULT_TOO_EARLY, /* the result is copied out without waiting for compute */
	      RESULT_OVERWRITTEN, /* compute writes a result buffer that is still being copied out
				   */
	      HOST_READS_EARLY,   /* the host looks at the result before the copy's event */
	      HOST_REUSES_SOURCE, /* the host fills the source of a copy that may still run */
	      WRONG_EVENT,        /* compute waits for the event of the layer before */
};

struct Run {
	Rig rig;
	struct st_event *in[2] = {}, *computed[2] = {}, *out[2] = {};
	char *w[2], *y[2], *x, *z, *bias, *sums, *work;
	struct st_matmul mm;
	uint64_t hash = NO_HASH;
};

#define W_BYTES (COLS * COLS * 2)
#define Y_BYTES (ROWS * COLS * 2)

static int open_run(Run *r)
{
	int rc = r->rig.open(ST_BF16, 1 << 18);

	for (int i = 0; !rc && i < 2; i++) {
		rc = st_event_create(r->rig.dev, &r->in[i]);
		rc = rc ? rc : st_event_create(r->rig.dev, &r->computed[i]);
		rc = rc ? rc : st_event_create(r->rig.dev, &r->out[i]);
	}
	if (rc)
		return rc;
	for (int i = 0; i < 2; i++) {
		r->w[i] = (char *)r->rig.take(W_BYTES);
		r->y[i] = (char *)r->rig.take(Y_BYTES);
	}
	r->x = (char *)r->rig.take(Y_BYTES);
	r->z = (char *)r->rig.take(Y_BYTES);
	r->bias = (char *)r->rig.take(COLS * 2);
	r->sums = (char *)r->rig.take(COLS * 4);
	memset(&r->mm, 0, sizeof(r->mm));
	r->mm.m = ROWS;
	r->mm.n = r->mm.k = COLS;
	r->mm.a_dtype = r->mm.b_dtype = r->mm.c_dtype = ST_BF16;
	r->mm.a = r->x;
	r->mm.bias = r->bias;
	r->mm.c = r->z;
	r->mm.work_bytes = st_matmul_work_bytes(r->rig.dev, &r->mm);
	r->mm.work = r->rig.take(r->mm.work_bytes + 64);
	r->work = (char *)r->rig.take(st_bias_bwd_work_bytes(r->rig.dev, ROWS, COLS) + 64);
	return 0;
}

static void shut_run(Run *r)
{
	for (int i = 0; i < 2; i++) {
		st_event_destroy(r->in[i]);
		st_event_destroy(r->computed[i]);
		st_event_destroy(r->out[i]);
	}
	r->rig.shut();
}

static void fill(char *p, size_t bytes, unsigned salt)
{
	uint16_t *h = (uint16_t *)(void *)p;

	for (size_t i = 0; i < bytes / 2; i++) {
		salt = salt * 1664525u + 1013904223u;
		h[i] = st_f32_bf16((float)((int)(salt >> 16 & 0xff) - 128) / 512.0f);
	}
	emuHostWrite(p, bytes, "the host's fill");
}

/* What the rig's host memory holds: x, bias, then each layer's parameters and results. */
static char *host_w(Run *r, int slot)
{
	return r->rig.host + 8192 + slot * 4096;
}

static char *host_y(Run *r, int slot)
{
	return r->rig.host + 32768 + slot * 4096;
}

static int begin(Run *r)
{
	struct st_device *dev = r->rig.dev;
	int rc;

	fill(r->rig.host, Y_BYTES, 7);
	fill(r->rig.host + 4096, COLS * 2, 11);
	rc = st_device_copy(dev, ST_STREAM_COMPUTE, r->x, r->rig.host, Y_BYTES);
	rc = rc ? rc
		: st_device_copy(dev, ST_STREAM_COMPUTE, r->bias, r->rig.host + 4096, COLS * 2);
	st_fill_zero(dev, r->sums, COLS * 4);
	rc = rc ? rc : st_device_status(dev);
	return rc ? rc : r->rig.wait(ST_STREAM_COMPUTE);
}

static int take_result(Run *r, int slot, Defect defect)
{
	int rc = defect == HOST_READS_EARLY ? 0 : st_event_join(r->rig.dev, r->out[slot]);
	const unsigned char *p = (const unsigned char *)host_y(r, slot);

	if (rc)
		return rc;
	emuHostRead(p, Y_BYTES, "the host's hash");
	for (size_t i = 0; i < Y_BYTES; i++)
		r->hash = (r->hash ^ p[i]) * 0x100000001b3u;
	return 0;
}

#define TRY(call)                                                                                  \
	do {                                                                                       \
		int st_rc = (call);                                                                \
		if (st_rc)                                                                         \
			return st_rc;                                                              \
	} while (0)

static int layer(Run *r, int n, Defect defect)
{
	struct st_device *dev = r->rig.dev;
	const int slot = n % 2;

	/* The host fills what the copy two layers before has read. */
	if (defect != HOST_REUSES_SOURCE)
		TRY(st_event_join(dev, r->in[slot]));
	fill(host_w(r, slot), W_BYTES, (unsigned)n + 100);
	if (defect != COPY_TOO_EARLY)
		TRY(st_device_wait(dev, ST_STREAM_H2D, r->computed[slot]));
	TRY(st_device_copy(dev, ST_STREAM_H2D, r->w[slot], host_w(r, slot), W_BYTES));
	TRY(st_device_record(dev, ST_STREAM_H2D, r->in[slot]));

	if (defect != COMPUTE_BEFORE_COPY)
		TRY(st_device_wait(dev, ST_STREAM_COMPUTE,
				   r->in[defect == WRONG_EVENT ? !slot : slot]));
	if (defect != RESULT_OVERWRITTEN)
		TRY(st_device_wait(dev, ST_STREAM_COMPUTE, r->out[slot]));
	r->mm.b = r->w[slot];
	st_matmul(dev, &r->mm);
	st_gelu_fwd(dev, ROWS * COLS, r->z, r->y[slot]);
	st_add(dev, ROWS * COLS, r->y[slot], r->x, r->y[slot]);
	st_bias_bwd(dev, ROWS, COLS, r->y[slot], (float *)(void *)r->sums, r->work);
	TRY(st_device_status(dev));
	TRY(st_device_record(dev, ST_STREAM_COMPUTE, r->computed[slot]));

	if (n >= 2) /* whose copy out used this slot, before it is used again */
		TRY(take_result(r, slot, defect));
	if (defect != RESULT_TOO_EARLY)
		TRY(st_device_wait(dev, ST_STREAM_D2H, r->computed[slot]));
	TRY(st_device_copy(dev, ST_STREAM_D2H, host_y(r, slot), r->y[slot], Y_BYTES));
	return st_device_record(dev, ST_STREAM_D2H, r->out[slot]);
}

static int step(Run *r, Defect defect)
{
	for (int n = 0; n < LAYERS; n++)
		TRY(layer(r, n, defect));
	TRY(take_result(r, 0, defect));
	return take_result(r, 1, defect);
}

/* All of it. @return the first failure */
static int scenario(Run *r, Defect defect)
{
	TRY(open_run(r));
	TRY(begin(r));
	emuStep(true);
	for (int s = 0; s < STEPS; s++)
		TRY(step(r, defect));
	emuStep(false);
	return 0;
}

#endif
