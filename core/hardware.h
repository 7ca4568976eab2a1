/* SPDX-License-Identifier: Apache-2.0 */
/*
 * core/hardware.h - a machine as a planner sees it: ranks, rates, sizes, links, drives.
 *
 * Layer:   core
 * Threads: re-entrant; a description is a plain value
 *
 * A description comes from a JSON file (strata plan --hardware FILE), from a measurement, or from
 * nominal figures. One table describes each key: parsing, writing and the documentation follow it.
 * Rates are what the resource reaches, not what a data sheet promises. Units are in the keys:
 * "gbps" is 1e9 bytes a second, "tflops" 1e12 operations a second, "gparams" 1e9 parameters a
 * second; sizes are bytes or texts such as "32GB".
 *
 * Device keys are of one rank, host and drive keys of one node, which its ranks share evenly.
 */
#ifndef CORE_HARDWARE_H
#define CORE_HARDWARE_H

#include <stdio.h>

#include "core/dtype.h"
#include "core/status.h"

enum st_hw_device {
	ST_HW_HOST, /* the CPU computes: compute and optimizer are one lane, nothing is copied */
	ST_HW_GPU,
};

struct st_hardware {
	char name[96];
	char source[512];  /* where the figures are from; several are joined by "; " */
	double measured_s; /* seconds since 1970; 0: not measured, or when is not known */
	double busy;       /* tasks that ran beside it, a processor: the load at that moment */
	char nominal[160]; /* why the drives' figures are nominal; "": they are not */
	double nodes, ranks_per_node;
	int device_type;                      /* enum st_hw_device */
	double device_memory_bytes;           /* 0: unknown */
	double product_flops[ST_DTYPE_COUNT]; /* by dtype; 0: not given */
	double backward_ratio;                /* rate of backward's products over forward's */
	double attention_flops;               /* 0: as products */
	double attention_backward_ratio;
	double device_bytes_per_s;                  /* of memory-bound kernels, read and written */
	double device_latency_ns;                   /* of one operation */
	double host_memory_bytes, host_bytes_per_s; /* 0: unknown; read and written */
	double updates_per_s, reduces_per_s;        /* parameters; 0: from host_bytes_per_s */
	double h2d_bytes_per_s, d2h_bytes_per_s;    /* of a rank; GPU only */
	double network_bytes_per_s; /* into each rank, of a gather; ranks > 1 only */
	double read_bytes_per_s, write_bytes_per_s; /* of all drives of a node, alone */
	double mixed_bytes_per_s;                   /* sum of both at once; 0: see is_shared */
	double mixed_read_share;                    /* of that */
	bool is_shared; /* no mixed rate is given: a drive's time is shared by reads and writes */
	double drive_latency_ns, read_iops; /* 4 KiB; 0: bytes only */
	double flush_ns;
	double drive_bytes, written_bytes_rated;     /* capacity, rated life (TBW); 0: unknown */
	double compute_beside_io, io_beside_compute; /* speed under load over speed alone */
};

/** st_hardware_default() - nominal figures: one rank, the host device, two cores, one drive. */
void st_hardware_default(struct st_hardware *out);

/**
 * st_hardware_load() - read a file.
 * @return 0; STRATA_E_CONFIG, "file:line:col: key: what; what to do", and *out is untouched;
 * -ENOMEM
 */
ST_MUST_CHECK int st_hardware_load(struct st_hardware *out, const char *path);

/** st_hardware_parse() - the same from a text; name is what errors call it. */
ST_MUST_CHECK int st_hardware_parse(struct st_hardware *out, const char *text, size_t len_bytes,
				    const char *name);

/** st_hardware_write() - as an object that st_hardware_parse() reads back to the same. */
void st_hardware_write(const struct st_hardware *hw, FILE *f);

/** st_hardware_ranks() - in all. */
double st_hardware_ranks(const struct st_hardware *hw);

/** st_hardware_product_flops() - the rate of products in a dtype. bf16 and fp16 stand for each
 *  other; where neither is given it is the rate of fp32, into which they are widened. */
double st_hardware_product_flops(const struct st_hardware *hw, enum st_dtype t);

/* Rates of the drives, of one rank's share: while only reads, only writes or both are in flight. */
struct st_drive_rates {
	double read, write, mixed_read, mixed_write;
};
struct st_drive_rates st_hardware_drives(const struct st_hardware *hw);

/** st_hardware_doubt() - why a measurement that was kept should be made again: it is older than 30
 *  days at now_s, or more than 1.5 tasks a processor ran beside it. @return NULL: it is good */
const char *st_hardware_doubt(const struct st_hardware *hw, double now_s);

/** st_hardware_when() - "2026-11-22 09:05 UTC, load 0.4 a processor". @return out; "" where that is
 *  not known */
const char *st_hardware_when(const struct st_hardware *hw, char out[64]);

/**
 * st_hardware_recall() - the description that was kept under a key.
 * @return true and *out; false: there is none, or the file is none of ours
 */
bool st_hardware_recall(struct st_hardware *out, const char *path, const char *key);

/** st_hardware_keep() - keep it under a key, beside the others; the file is replaced as a whole.
 *  Directories on the way are made. @return 0; -errno (path) */
ST_MUST_CHECK int st_hardware_keep(const struct st_hardware *hw, const char *path, const char *key);

#endif
