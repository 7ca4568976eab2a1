/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offload/bound.h - the least time for a step's work: one definition, for what is predicted
 * (offload/predict.h) and for what was measured (offload/engine.h).
 *
 * Layer:   offload
 * Threads: re-entrant
 *
 * Whatever the order, a step is no shorter than the work of its busiest resource. Resources are the
 * lanes; all drives together, in both directions; and the threads that take checksums.
 *
 * Reads and writes share the drives, and they share one rate: B_mix, of both together at the step's
 * own proportion of bytes. A step that overlaps what it can has both in flight, so that is the rate
 * that it could reach, also on a drive that would be faster with one direction at a time: to keep
 * them apart, memory for all that a phase moves would be needed. Where a description knows the
 * mixed rate at another proportion, the direction with more bytes has the drives to itself when the
 * other has nothing left: time is then linear between that proportion and one direction alone,
 * which the description also knows. So an entry for the step's own proportion is used as it is.
 *	predicted  from the description's rates
 *	measured   bytes over the rate under load of the very run
 */
#ifndef OFFLOAD_BOUND_H
#define OFFLOAD_BOUND_H

#include "core/hardware.h"
#include "offload/program.h"

struct st_work {                  /* of a step, in seconds */
	double lane_s[ST_LANE_N]; /* those of NVMe and commits are not looked at: see io_s */
	double io_s;              /* the drives', for all bytes read and written */
	/* In fact something was in flight, or the step lasted, no longer than this: what was served
	 * within it needed no more. 0: not known. */
	double io_most_s;
	uint64_t read_bytes, write_bytes; /* say which direction io_s is named after */
	double checksum_s;                /* of each of its threads */
};

struct st_bound {
	double s;
	double io_s;          /* the drives' part: io_s, at most io_most_s */
	enum st_lane lane;    /* ST_LANE_N: checksums */
	const char *limiting; /* its name; static */
};

struct st_bound st_bound(const struct st_work *w);

/**
 * st_bound_io_s() - the least time in which drives that need read_s for all reads alone, and
 * write_s for all writes alone, do both at once.
 */
double st_bound_io_s(const struct st_drive_rates *d, double read_s, double write_s);

#endif
