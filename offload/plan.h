/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offload/plan.h - what lives where, and the programs that follow from it.
 *
 * Layer:   offload
 * Threads: constant after it was made
 *
 * The planner decides once, from sizes and budgets: the home of each unit's parameters and of each
 * tile's state, where rounded gradients rest, in which phase each unit is updated, how large each
 * pool is. It never changes a bit of the result. Then it compiles the programs (the variants), and
 * every program fits the pools in serial order, or the answer is "does not fit" with the smallest
 * budgets that work.
 *
 * Homes. DEVICE and HOST: the arena, for the whole run. NVME: the store; a buffer holds it while it
 * is used. On a device that is host_visible both arenas are memory that the compute lane reads
 * directly. On another one (`copies`) stages compute with what is in the device's arena: what is at
 * home elsewhere is staged in host memory and copied. The optimizer works on the host, save where
 * it can work on the device with all that it needs there.
 *
 * Update modes, per unit; they change no bit of the result.
 *  IMMEDIATE    inside backward, right after the unit's gradient was rounded, which then is gone;
 *               legal when neither clipping nor a loss scale needs the whole norm first.
 *  DEFERRED     due after the step, applied right before the unit's next use in forward.
 *  SPECULATIVE  inside backward, taking for granted that the step will not clip. The gradient is
 *               kept. If the step does clip, the store forgets what was written since its last
 *               commit, and the update is due as if deferred. So it needs a commit every step, and
 *               the unit on NVMe.
 * With AUTO the planner interleaves the modes so that forward and backward move bytes in
 * proportion to their work: a step is then as long as its slower resource, not as the slower
 * resource of each half.
 */
#ifndef OFFLOAD_PLAN_H
#define OFFLOAD_PLAN_H

#include "core/config.h"
#include "offload/program.h"
#include "offload/rows.h"

/*
 * A pending update of the table that the first stage looks tokens up in: wait for it, or update the
 * rows of the batch ahead (offload/rows.h). It changes no bit of the result.
 */
enum st_lookahead {
	ST_LOOKAHEAD_AUTO, /* where it reads less than the whole table would */
	ST_LOOKAHEAD_ON,   /* wherever the model says that its first stage looks up */
	ST_LOOKAHEAD_OFF,
};

/* Why a unit is updated when it is. */
#define ST_WHYS(X)                                                                                 \
	X(ASKED, "as configured")                                                                  \
	X(FIRST_STAGE, "forward needs it first and backward is done with it last")                 \
	X(FORWARD, "forward moves its share of the bytes then")                                    \
	X(BACKWARD, "backward moves its share of the bytes then")                                  \
	X(MOVES_NOTHING, "the update moves nothing, so it need not wait")                          \
	X(NORM, "the norm must be known before, and no commit of each step leaves a way back")     \
	X(IN_MEMORY, "what is updated in memory has no way back should the step clip")

enum st_why {
#define ST_X(name, text) ST_WHY_##name,
	ST_WHYS(ST_X)
#undef ST_X
		ST_WHY_N
};

enum st_home { ST_HOME_DEVICE, ST_HOME_HOST, ST_HOME_NVME };

/* Where rounded gradients wait for a deferred update. */
enum st_rest {
	ST_REST_MEMORY,
	ST_REST_NVME, /* scratch */
	ST_REST_FIT,  /* in host memory as far as its budget goes, the others on NVMe */
};

struct st_plan_cfg {
	const struct st_model *model; /* borrowed for the plan's life */
	struct st_formats formats;
	unsigned n_mb;      /* micro-batches of a step (gradient accumulation) */
	unsigned n_eval_mb; /* micro-batches of an evaluation program; 0 = no evaluation */
	enum st_home param_home, state_home;
	bool pins;             /* what is at home on NVMe stays in memory as far as budgets go */
	bool needs_norm;       /* clipping or loss scaling: nothing is IMMEDIATE */
	bool may_speculate;    /* every step is committed, so there is a way back */
	enum st_update update; /* for all units; AUTO: the planner's choice ... */
	const enum st_update
		*modes; /* ... or for each: [n_units], borrowed for the call; or NULL */
	enum st_order order;
	bool recompute;    /* activation checkpointing: forward again inside backward */
	bool acts_on_host; /* stage inputs rest in the host arena */
	enum st_rest rest;
	bool commits;    /* every step is committed; then all homes are written through */
	bool copies;     /* the device's memory is not the host's */
	bool updates[2]; /* of such a device: it can update vectors, matrices (st_tile.is_matrix) */
	uint64_t device_bytes, host_bytes; /* budgets; 0 = as much as is useful */
	enum st_lookahead lookahead;
	/* With AUTO: of the bytes that updates move, and whose phase is free, so many move in
	 * forward; else so many that forward moves its share of all (offload/search.h). */
	bool has_deferred_share;
	double deferred_share;
	bool is_trial; /* only the programs of a steady run are compiled: it is simulated, not run
			*/
};

/* Updates that the step before left: of no unit, of those that are DEFERRED, or also of those that
 * are SPECULATIVE (it did not speculate, or in vain). */
enum st_due { ST_DUE_NONE, ST_DUE_DEFERRED, ST_DUE_ALL, ST_DUE_N };

/* Which program. */
enum st_variant {
	ST_VARIANT_INIT,   /* first values everywhere; commit */
	ST_VARIANT_LOAD,   /* what lives in memory, from the store */
	ST_VARIANT_EVAL,   /* forward and loss only */
	ST_VARIANT_EXPORT, /* each tile's master weights and moments, in order */
	ST_VARIANT_STEP,   /* + enum st_due, of the step before */
	ST_VARIANT_SPECULATE = ST_VARIANT_STEP + ST_DUE_N,  /* + due: a step that speculates */
	ST_VARIANT_FLUSH = ST_VARIANT_SPECULATE + ST_DUE_N, /* + due: apply it */
	ST_VARIANT_SAVE = ST_VARIANT_FLUSH + ST_DUE_N, /* + due: the store is current; commit */
	ST_VARIANT_N = ST_VARIANT_SAVE + ST_DUE_N
};

struct st_variant_desc {
	bool is_step, speculates, saves;
	enum st_due due;
};
const struct st_variant_desc *st_variant_desc(enum st_variant v);

struct st_plan {
	struct st_plan_cfg cfg;
	struct st_layout *layout;
	enum st_update *mode;       /* [n_units] when each unit is updated */
	enum st_why *why;           /* [n_units] */
	double deferred_share;      /* see cfg; NaN where nothing was to be chosen */
	bool has_pending;           /* steps leave an update behind, of some unit */
	bool speculates;            /* some unit is SPECULATIVE */
	uint8_t *on_nvme;           /* [n_tiles] ST_ON_NVME_*; a unit's tiles agree on PARAM */
	struct st_addr *param_addr; /* [n_units] in memory, where not on NVMe */
	struct st_addr *state_addr; /* [n_tiles] */
	struct st_addr *rest_addr;  /* [n_tiles] */
	uint64_t pinned_bytes;      /* at home on NVMe, and kept in memory by the budgets */
	struct st_lookup lookup;    /* of the first stage; n_chunks 0: nothing is looked up ahead */
	bool spreads_update;        /* a table that is looked up ahead stays in memory through
				     * forward, and its update is spread over it */
	struct st_pool_place places[ST_POOL_N];
	uint64_t arena_bytes[ST_ARENA_N];         /* what the engine allocates */
	uint64_t resident_bytes[ST_ARENA_N];      /* of that: homes and resting gradients */
	uint64_t min_bytes[ST_ARENA_N];           /* the smallest budgets that work */
	uint64_t scratch_bytes;                   /* NVMe scratch for gradients */
	struct st_program *program[ST_VARIANT_N]; /* NULL: this plan never runs it */
};

/**
 * st_plan_create() - decide and compile.
 * @return 0; STRATA_E_NO_FIT (the message names the budget and the smallest that works); -ENOMEM
 */
ST_MUST_CHECK int st_plan_create(struct st_plan **out, const struct st_plan_cfg *cfg);
void st_plan_destroy(struct st_plan *p);

const char *st_variant_name(enum st_variant v);
const char *st_why_text(enum st_why w);
/** st_plan_first() - the program of a step that finds no update pending, before steady ones. */
const struct st_program *st_plan_first(const struct st_plan *p);
/** st_plan_steady() - the program of a step in the middle of a run that never clips. */
const struct st_program *st_plan_steady(const struct st_plan *p);

/* Bytes a step moves between memory and NVMe; rows that are looked up ahead count at their most. */
uint64_t st_plan_read_bytes(const struct st_plan *p);
uint64_t st_plan_write_bytes(const struct st_plan *p);
/* Bytes preallocated on all paths of a run: the store, and the scratch of spilled gradients. */
uint64_t st_plan_disk_bytes(const struct st_plan *p, unsigned n_paths);

/** st_plan_has_param() - a unit's parameters are at home in this arena. */
bool st_plan_has_param(const struct st_plan *p, uint32_t unit, enum st_arena_id arena);
/** st_plan_updates_on_device() - the device updates this tile, and its gradient rests there. */
bool st_plan_updates_on_device(const struct st_plan *p, uint32_t tile);

/* Resources, by number (program.h): */
uint32_t st_plan_resources(const struct st_layout *l);

/* offload/compile.c: emit one variant. Addresses of homes are taken from the plan.
 * @param places  NULL: a sketch (st_builder_sketch()) */
ST_MUST_CHECK int st_compile(const struct st_plan *plan, enum st_variant v,
			     const struct st_pool_place *places, struct st_program **out,
			     enum st_pool *failed_pool);

#endif
