/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offload/measure.h - a quick measurement of this machine, as a hardware description.
 *
 * Layer:   offload (uses gpu, cpu_optim, aio)
 * Threads: one at a time; while it runs it uses all cores of the device's team and the drives
 *
 * Two seconds or so, most of it I/O. Each figure is the better of two tries: what the machine does
 * when nothing else disturbs it, save for the two that are taken with products and I/O at once
 * (load). Files are unnamed (O_TMPFILE, or removed at once), so nothing is left behind.
 */
#ifndef OFFLOAD_MEASURE_H
#define OFFLOAD_MEASURE_H

#include "aio/aio.h"
#include "core/hardware.h"
#include "offload/layout.h"

struct st_measure_cfg {
	struct st_device *device;  /* borrowed, idle */
	struct st_formats formats; /* of the run: what is multiplied, and updated */
	size_t rows, seq;          /* of a micro-batch: tokens, and tokens of a sequence */
	size_t n_embd, n_head;     /* products are n_embd x 4 n_embd */
	const char *const
		*paths; /* [n_paths] directories; those that are not there keep nominal rates */
	size_t n_paths;
	double read_share; /* of the bytes of the mixed rate; 0: a half */
	struct st_aio_cfg aio;
};

/** st_measure() - @return 0; -ENOMEM; a failure of the device or of I/O */
ST_MUST_CHECK int st_measure(struct st_hardware *out, const struct st_measure_cfg *cfg);

#endif
