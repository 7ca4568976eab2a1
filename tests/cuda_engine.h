/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/cuda_engine.h - a small GPT-2 that the engine trains on the emulated CUDA device, for
 * tests/test_cuda_engine.cc.
 *
 * Threads: one; the engine has its own
 *
 * Two layers of 64, two micro-batches of a sequence, bf16, clipped. The emulation is told of all
 * that the engine's own threads read and write beside the device: what NVMe reads and writes, what
 * checksums are taken of, operands of the optimizer, batches, losses, leaves of the norm. The
 * functions of gpu/device.h that order streams go through here, where a defect can be put in, as
 * whoever wrote offload/lanes_real.c could have made it.
 */
#ifndef TESTS_CUDA_ENGINE_H
#define TESTS_CUDA_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum engine_home { ENGINE_ON_DEVICE, ENGINE_ON_HOST, ENGINE_ON_NVME };

enum engine_defect {
	ENGINE_NO_DEFECT,
	ENGINE_COMPUTES_BEFORE_COPY,  /* operations do not wait for what is copied in */
	ENGINE_COPIES_BEFORE_COMPUTE, /* what is copied out is not waited for */
	ENGINE_WAITS_FOR_ONE_BEFORE,  /* for the event of the operation before the right one */
	ENGINE_RECORDS_ONE_EARLY,     /* an event stands behind the operation before its own */
	ENGINE_RECORDS_NONE,          /* copies out have no event behind them */
	ENGINE_FREES_DEVICE_EARLY,    /* an operation's buffers are free before it has run */
	ENGINE_FREES_STAGING_EARLY,   /* what is copied in can be overwritten before it is */
	ENGINE_READS_RESULT_EARLY,    /* the host uses what has not been copied out yet */
	ENGINE_COPIES_ON_COMPUTE,     /* copies in are issued on the stream of operations */
	ENGINE_DEFECTS
};

struct engine_case {
	enum engine_home params, states;
	bool is_on_processor; /* the host device, to compare with; nothing is emulated */
	bool is_tight;        /* the smallest budgets */
	bool updates_at_once; /* no clipping: each unit is updated inside backward */
	enum engine_defect defect;
};

struct engine_run;

/** engine_open() - device, model, plan, engine; where it ends, *out is to be shut all the same.
 * @return 0, or the first failure, as every function here that returns int */
int engine_open(struct engine_run **out, const struct engine_case *c);
/** engine_reopen() - close the engine, keeping its store, and go on with another one on the same
 * device. */
int engine_reopen(struct engine_run *r);
/** engine_steps() - steps up to this one. */
int engine_steps(struct engine_run *r, unsigned last);
unsigned engine_done(const struct engine_run *r);              /* steps */
unsigned engine_durable(const struct engine_run *r);           /* the latest that was said to be */
double engine_loss(const struct engine_run *r, unsigned step); /* 1-based */
int engine_save(struct engine_run *r);
int engine_hash(struct engine_run *r, uint64_t *hash);
/** engine_shut() - close engine and device; the store stays. */
void engine_shut(struct engine_run *r);
/** engine_look() - what the store holds, read back by an engine on the host device.
 * @param step  out, the last committed one; -1: none was, and it begins with first values
 * @param hash  out, of the whole state */
int engine_look(struct engine_run *r, int *step, uint64_t *hash);
/** engine_remove() - free it, and remove what it left.
 * @return false: there was something left that engine_look() has not made known */
bool engine_remove(struct engine_run *r);
/** engine_end() - free what engine_look() keeps. */
void engine_end(void);

#ifdef __cplusplus
}
#endif
#endif
