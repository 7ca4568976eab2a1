/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offload/trace.h - what a run's programs do, as events of a trace (core/trace.h).
 *
 * Layer:   offload
 * Threads: any; the counters by the engine thread only
 *
 * Rows	 steps; each lane; each thread that takes checksums
 * Slices	 an operation, named as in the printed program; on rows of I/O from its first
 *request on, or from when the operation before it was complete, until it is complete itself Flows
 *from each read to the operations of the compute lane that use what it brought Counters
 *GB/s and requests in flight by direction; bytes of each tier by pool
 */
#ifndef OFFLOAD_TRACE_H
#define OFFLOAD_TRACE_H

#include "core/trace.h"
#include "offload/lanes_real.h"
#include "offload/plan.h"

struct st_run_trace;
struct st_step_out;

/** st_run_trace_create() - names the rows. file and plan are borrowed until destroy. */
ST_MUST_CHECK int st_run_trace_create(struct st_run_trace **out, struct st_trace *file,
				      const struct st_plan *plan, unsigned n_hashers);
void st_run_trace_destroy(struct st_run_trace *t);

struct st_trace_run {    /* which run of a program an operation belongs to */
	uint64_t step;   /* 0: of none */
	uint64_t serial; /* counts runs, of all programs */
};

/** st_run_trace_op() - operation i of p was done. */
void st_run_trace_op(struct st_run_trace *t, const struct st_program *p, uint32_t i,
		     const struct st_trace_run *run, int64_t begin_ns, int64_t end_ns);
/** st_run_trace_hash() - a checksum of a request of operation i was taken, by thread `thread`. */
void st_run_trace_hash(struct st_run_trace *t, unsigned thread, bool is_write,
		       const struct st_program *p, uint32_t i, int64_t begin_ns, int64_t end_ns);
/** st_run_trace_io() - counters of I/O, from sums since the start; drawn at most once a
 *  millisecond. */
void st_run_trace_io(struct st_run_trace *t, const struct st_io_stats *read,
		     const struct st_io_stats *write, const unsigned in_flight[2]);
/** st_run_trace_pools() - counters of memory: bytes that are reserved; drawn when they changed, at
 *  most five times a millisecond. */
void st_run_trace_pools(struct st_run_trace *t, const uint64_t held_bytes[ST_POOL_N]);
/** st_run_trace_step() - a step was reported, with what it was busy with. */
void st_run_trace_step(struct st_run_trace *t, const struct st_step_out *out, int64_t begin_ns,
		       int64_t end_ns);

#endif
