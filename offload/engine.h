/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offload/engine.h - trains a model by running the plan's programs.
 *
 * Layer:   offload
 * Threads: one thread calls; an engine thread of its own owns the rings and runs the executor, a
 *          worker computes (offload/lanes_real.h)
 *
 * While step t runs, the program of step t + 1 already stands behind it: its reads run ahead as
 * far as memory allows, everything else waits for its gate, which st_engine_step() opens. A call
 * other than step drops that program (only reads were made), and runs its own.
 *
 * After the first failure every call returns it; the last committed step is intact.
 */
#ifndef OFFLOAD_ENGINE_H
#define OFFLOAD_ENGINE_H

#include "aio/aio.h"
#include "offload/plan.h"
#include "strata/loss_scale.h"

struct st_engine;

struct st_engine_cfg {
	const struct st_plan *plan; /* borrowed for the engine's life */
	struct st_device *device;   /* borrowed */
	struct st_aio_cfg aio;
	/* The store: where state lives, or is saved. */
	const char *const *store_paths; /* [n_store_paths] directories */
	unsigned n_store_paths;
	const uint32_t *store_weights; /* [n_store_paths] or NULL */
	bool checksum;
	uint64_t commit_every; /* steps; the programs commit only if the plan says so */
	uint64_t keep_every;   /* steps from copy to copy of the store; 0 = none */
	bool verifies_on_open; /* a store that is resumed is read and verified as a whole */
	const char *resume;    /* text of an earlier run_json, or NULL for a new store */
	uint64_t resume_step;  /* > 0: go back to the copy of that step */
	/* Optimizer: what the plan's formats say, and */
	double weight_decay;
	bool decays_vectors;                 /* decay on all tensors, not matrices only */
	double clip;                         /* limit of the global norm; 0 = none */
	bool scales_loss;                    /* then a step whose gradients overflow is skipped */
	struct strata_loss_scale loss_scale; /* at the start; static 1 without */
	bool always_speculates; /* where the plan can; else when the last steps rarely clipped */
	uint64_t numeric_plan;  /* hash of what bits depend on; kept in the snapshot */
	uint64_t data_id;       /* the same of data, seed and order */
	/* First values: elements [first, first + n) of tensor t of a unit, fp32. On the worker. */
	int (*fill)(void *user, const struct st_tensor_desc *t, size_t first, size_t n, float *out);
	void *fill_user;
	/*
	 * optional. The store was made and its run_json is there, nothing is committed yet: to be
	 * kept now, so that whatever ends the process, either no state was committed or run_json
	 * names it. On the thread of st_engine_create(); <0 ends that.
	 */
	int (*store_made)(void *user);
	void *store_made_user;
	struct st_trace *trace; /* borrowed for the engine's life; NULL: none is written */
};

struct st_snapshot { /* what the root of a commit names: the boundary after `step` */
	uint64_t magic, step;
	uint64_t cursor; /* data windows consumed, the caller's */
	uint64_t numeric_plan, data_id;
	uint64_t updates; /* steps that were applied: all but those that overflowed */
	struct strata_loss_scale loss_scale;
};

/** st_snapshot_parse() - what a store keeps with a commit. @return false: not of an engine */
bool st_snapshot_parse(const void *bytes, size_t n_bytes, struct st_snapshot *out);

struct st_step_in {
	const int32_t *tokens, *targets; /* [n_mb * batch * seq] */
	double lr;
	double beta1, beta2;   /* < 0: the configured ones (OneCycle moves them) */
	uint64_t cursor_after; /* goes into the snapshot of this step's boundary */
};

/*
 * What each resource was busy with since the step before was reported, and the bound that follows
 * (offload/bound.h), the largest of
 *	compute, h2d, d2h, optimizer
 *		  the lane was busy
 *	nvme	  bytes moved, over the drives' rate under load: over the last 64 MiB or more that
 *		  were moved under load, those of this step included (before, over all so far); and
 *		  at most the time in which any request was in flight
 *	checksum  the busy time of the threads that take them, shared evenly
 */
struct st_step_lanes {
	int64_t compute_ns, nvme_ns, checksum_ns;
	int64_t forward_ns, backward_ns, reduce_ns; /* of compute_ns */
	int64_t update_ns; /* of compute_ns, and of optimizer_ns where there is that lane */
	/* Lanes of a device whose memory is not the host's: copies in, copies out, what the host
	 * does beside it. 0 on another one. */
	int64_t h2d_ns, d2h_ns, optimizer_ns;
	int64_t read_ns, write_ns; /* a request of that direction was in flight */
	int64_t commit_ns;
	double loaded_bytes_per_s; /* the drives' rate, reads and writes together; 0: not known */
	int64_t bound_ns;
	const char *limiting; /* "compute", "h2d", "d2h", "optimizer", "nvme-read", "nvme-write"
			       * (the larger), "checksum" */
};

struct st_step_out {
	uint64_t step;
	double loss;      /* mean over all tokens of the step */
	double grad_norm; /* before clipping */
	double clip_factor;
	bool skipped;                     /* a gradient was not finite: nothing was applied */
	double loss_scale;                /* in force during the step */
	uint64_t updates;                 /* steps applied until now */
	bool speculated, rolled_back;     /* units were updated inside backward; in vain */
	uint64_t durable_step;            /* latest step whose commit is durable */
	int64_t wall_ns;                  /* since the step before was reported */
	int64_t compute_ns;               /* of that, the compute lane was busy */
	uint64_t read_bytes, write_bytes; /* NVMe, since the step before was reported */
	struct st_step_lanes lanes;
};

/**
 * st_engine_create() - arenas, store, threads; then first values (or what the store holds).
 * @param run_json  out [run_json_bytes] text that names the store, to be kept for resume
 * @return 0; -ENOMEM; STRATA_E_INPUT, _BUSY, _CORRUPT, _STALE, -ENOSPC of the store
 */
ST_MUST_CHECK int st_engine_create(struct st_engine **out, const struct st_engine_cfg *cfg,
				   char *run_json, size_t run_json_bytes);

/** st_engine_close() - stop; a pending update that was not saved is lost. `removes_store` deletes
 * it. */
void st_engine_close(struct st_engine *e, bool removes_store);

/** st_engine_remove_store() - delete what run_json names, as far as it is still there.
 *  @return 0; STRATA_E_BUSY; STRATA_E_INPUT (not ours); -errno */
ST_MUST_CHECK int st_engine_remove_store(const char *run_json);

/** st_engine_find_store() - where the store that run_json names is now: see st_store_find(). */
ST_MUST_CHECK int st_engine_find_store(const char *run_json, const char *const *paths,
				       size_t n_paths, char **out);

/** st_engine_resumed() - the snapshot that the store held; false for a new one, and for one whose
 *  run ended before its first commit: it begins with first values. */
bool st_engine_resumed(const struct st_engine *e, struct st_snapshot *out);

/** st_engine_step() - one optimizer step; returns when its loss and norm are known.
 *  @return 0; STRATA_E_NUMERIC (loss or norm not finite; nothing of this step was applied, or in
 *          immediate mode nothing of it will be committed); an I/O failure */
ST_MUST_CHECK int st_engine_step(struct st_engine *e, const struct st_step_in *in,
				 struct st_step_out *out);

/** st_engine_eval() - mean loss of n_eval_mb micro-batches with the parameters after the last step.
 */
ST_MUST_CHECK int st_engine_eval(struct st_engine *e, const int32_t *tokens, const int32_t *targets,
				 double *loss);

/** st_engine_save() - apply what is pending; the store then holds the state after the last step,
 * durably. */
ST_MUST_CHECK int st_engine_save(struct st_engine *e);

/** st_engine_export() - hand out the whole state in order of units and elements. emit runs on the
 *  worker. Applies what is pending.
 */
ST_MUST_CHECK int st_engine_export(struct st_engine *e, st_emit_fn *emit, void *user);

/** st_engine_state_hash() - hash of the logical state: per tensor, sorted by name, master, m and v;
 *  step and cursor. Independent of placement and budgets. */
ST_MUST_CHECK int st_engine_state_hash(struct st_engine *e, uint64_t *hash);

/** st_engine_rebase() - what moved and passed until now does not count for the next step's report.
 */
void st_engine_rebase(struct st_engine *e);

/** st_engine_resident() - bytes of each arena that lie in memory, as the kernel counts. */
void st_engine_resident(const struct st_engine *e, uint64_t bytes[ST_ARENA_N]);

/** st_engine_io() - name of the I/O backend in use; static storage. */
const char *st_engine_io(const struct st_engine *e);

#endif
