/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offload/rank.h - the step of one rank of a described machine, as programs to predict with.
 *
 * Layer:   offload
 * Threads: constant after it was made
 *
 * The programs of offload/plan.h are those that run: of one rank, by storage tiles. A machine with
 * several ranks, a model of too many tiles, or another schedule is described by a coarser program
 * in the same vocabulary, with the lane network. It is for predicting, not for running:
 *  - of N ranks each holds 1/N of every unit, of its state and of its gradient, streams them from
 *    its share of the drives and of the host, gathers a unit when it needs it, and reduces and
 *    scatters its gradient. A rank computes its own micro-batches. All ranks do the same at once,
 *    so one of them says it all; what they share (drives, memory) is shared evenly.
 *  - a unit moves whole; its state in chunks of up to ST_RANK_CHUNK parameters.
 *  - rows that are looked up ahead are left out: a table's pending update is done before its use.
 *  - scratch sizes of the stages are those of the host device.
 *
 * Styles. STRATA: as the engine does (offload/compile.c): vertical order, update in backward or
 * before the next forward, optimizer beside compute. DEEPSPEED: ZeRO-3 with offloading as
 * DeepSpeed does it: micro-batches one after another, parameters read ahead, a gradient of fp32
 * beside the states, copies of activations that compute waits for, and the optimizer as a phase
 * after backward, one sub-group after another: read, update, write; PIPELINED overlaps these
 * (pipeline_read and pipeline_write). Its bytes of NVMe are 38 a parameter, its bytes of memory in
 * the optimizer 46 (norm 4, unscale 8, Adam 28, cast 6). SERIAL is the same with nothing overlapped
 * at all, and parameters fetched once more between recomputation and backward: the model behind
 * ZeRO-Infinity's efficiency, ait bw / (ait bw + peak).
 */
#ifndef OFFLOAD_RANK_H
#define OFFLOAD_RANK_H

#include "core/hardware.h"
#include "offload/plan.h"

#define ST_RANK_CHUNK ((uint64_t)1 << 24) /* parameters */

enum st_rank_style {
	ST_RANK_STRATA,
	ST_RANK_DEEPSPEED,
	ST_RANK_DEEPSPEED_PIPELINED,
	ST_RANK_SERIAL,
};

struct st_rank_cfg {
	const struct st_model *model; /* of one rank's micro-batch; borrowed */
	const struct st_hardware *hw; /* borrowed */
	enum st_dtype dtype;
	unsigned n_mb; /* of this rank */
	enum st_home param_home, state_home;
	enum st_update update; /* STRATA: IMMEDIATE or DEFERRED */
	bool recompute, acts_on_host, spills_grads, commits;
	enum st_rank_style style;
	uint64_t device_bytes, host_bytes; /* budgets of a rank; 0: what the machine has */
};

struct st_rank {
	struct st_rank_cfg cfg;
	struct st_program *first, *steady; /* the same where nothing is left pending */
	uint64_t n_elems;                  /* of this rank's shards */
	uint64_t arena_bytes[ST_ARENA_N], min_bytes[ST_ARENA_N], budget_bytes[ST_ARENA_N];
	uint64_t resident_bytes[ST_ARENA_N]; /* of arena_bytes: what stays */
	uint64_t disk_bytes;
};

/**
 * st_rank_create() - @return 0, also when it does not fit (st_rank_fits()); -ENOMEM
 */
ST_MUST_CHECK int st_rank_create(struct st_rank **out, const struct st_rank_cfg *cfg);
void st_rank_destroy(struct st_rank *r);

/** st_rank_fits() - the smallest memory that works is within the budgets (0: unknown, fits). */
bool st_rank_fits(const struct st_rank *r);

#endif
