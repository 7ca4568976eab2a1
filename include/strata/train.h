/* SPDX-License-Identifier: Apache-2.0 */
/*
 * include/strata/train.h - train a transformer larger than memory, from a configuration file.
 *
 * Threads: a trainer is used by one thread at a time; strata_trainer_stop() may be called from any
 *          thread and from a signal handler
 *
 *	struct strata_options opt = STRATA_OPTIONS_DEFAULT;
 *	struct strata_trainer *t;
 *	struct strata_metrics m;
 *
 *	rc = strata_trainer_open(&t, "config.json", &opt);
 *	while (!rc && strata_trainer_step(t, NULL, NULL, &m) == 0 && m.step < m.total_steps)
 *		printf("%llu %g\n", m.step, m.loss);
 *	rc = strata_trainer_finish(t, NULL);
 *	strata_trainer_close(t);
 *
 * OUTPUT/ (the key strata.output) belongs to one run at a time: it holds config.json and
 * model.safetensors at the end, log.jsonl (a line per step), run.json (which store is ours) and
 * strata.json (the resolved configuration).
 */
#ifndef STRATA_TRAIN_H
#define STRATA_TRAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "strata/strata.h"

#ifdef __cplusplus
extern "C" {
#endif

struct strata_trainer;

enum strata_log_level { STRATA_LOG_ERROR, STRATA_LOG_WARN, STRATA_LOG_INFO, STRATA_LOG_DEBUG };
typedef void strata_log_fn(void *user, enum strata_log_level level, const char *line);

struct strata_options {
	size_t struct_bytes;     /* sizeof(struct strata_options) */
	const char *const *sets; /* [n_sets] "a.b=v", over the file */
	size_t n_sets;
	uint64_t steps;      /* > 0: over strata.steps; in total, also after a resume */
	const char *output;  /* over strata.output, or NULL */
	bool resume;         /* go on from OUTPUT; the state must be of the same numeric plan */
	bool brings_batches; /* the caller gives every batch: strata.data.train may be missing */
	strata_log_fn *log;  /* messages for people, one line each; NULL: none */
	void *log_user;
	/* Asked between the parts of strata_trainer_open(), from any thread; true ends it. May be
	 * NULL. */
	bool (*stops)(void *user);
	void *stops_user;
	/* > 0, with resume: go back to the copy of that step (strata.nvme.keep_every). What came
	 * after it is replaced, also in log.jsonl. */
	uint64_t resume_step;
	/* A file for a trace of the run (Chrome's trace events, for Perfetto), or NULL. A trace
	 * that is there is replaced; anything else is refused. */
	const char *trace;
	/* How far an evaluation, or the writing of the result, has come: about `done` of `total`.
	 * From any thread, while a call of the trainer runs. May be NULL. */
	void (*progress)(void *user, const char *what, uint64_t done, uint64_t total);
	void *progress_user;
};
#define STRATA_OPTIONS_DEFAULT                                                                     \
	{                                                                                          \
		.struct_bytes = sizeof(struct strata_options)                                      \
	}

struct strata_info { /* constant for a trainer */
	uint64_t n_params;
	uint64_t tokens_per_step, seq_len, train_batch, micro_batch, accum_steps, vocab_size;
	uint64_t total_steps, resumed_step; /* resumed_step: 0 for a new run */
	uint64_t steps_per_print, eval_every;
	double flops_per_token;            /* 6 P + 12 L C T */
	uint64_t device_bytes, host_bytes; /* arenas: what was taken of the budgets */
	uint64_t nvme_disk_bytes;          /* preallocated on all paths */
	bool uses_nvme;                    /* parameters or states live there */
	const char *device;                /* "host (AVX2, 2 threads, ...)" */
	const char *io;                    /* "io_uring", "threads" */
	const char *output;
	bool scales_loss; /* fp16: steps may be skipped */
};

struct strata_metrics { /* of one step */
	uint64_t step, total_steps;
	double loss;        /* mean over all tokens of the step, nats */
	double grad_norm;   /* global, before clipping */
	double clip_factor; /* 1: not clipped */
	double loss_scale;  /* 1 without fp16 */
	bool skipped;       /* fp16: a gradient overflowed, so the step changed nothing */
	bool rolled_back;   /* units were updated inside backward, in vain: the step clipped */
	double lr;
	double tokens_per_s;                        /* of this step, wall time */
	int64_t step_ns, compute_wait_ns;           /* wall; of that the compute unit was idle */
	uint64_t nvme_read_bytes, nvme_write_bytes; /* since the step before was reported */
	uint64_t durable_step; /* a crash loses nothing up to here; 0: none yet */
	double val_loss;       /* NaN save on steps after which an evaluation ran */
	bool clipped;          /* clip_factor was applied */
	bool speculated;       /* units were updated inside backward, before the norm was known */
	double step_s;         /* step_ns */
	/*
	 * What no order of the same operations could beat at the rates at which they ran: the
	 * largest of the busy time of the lanes compute, h2d, d2h and optimizer, the NVMe bytes
	 * over the drives' rate under load, and the time that checksums took.
	 */
	double bound_s;
	/* "compute", "h2d", "d2h", "optimizer", "nvme-read", "nvme-write", "checksum" */
	const char *limiting_lane;
	double compute_s, forward_s, backward_s, reduce_s, update_s; /* busy; the last four are
								      * parts of the first */
	double nvme_s, checksum_s;      /* the other candidates for the bound */
	double read_s, write_s;         /* a request of that direction was in flight */
	double commit_s;                /* from a commit's first table to durable */
	double nvme_loaded_bytes_per_s; /* reads and writes together; 0: not known yet */
	/* Busy times of the lanes that a device with memory of its own has beside compute: copies
	 * to it and from it, and the optimizer on the host, of which update_s then is a part. NaN:
	 * there are none. */
	double h2d_s, d2h_s, optimizer_s;
};

struct strata_result {
	char state_hash[17]; /* 16 hex digits: the logical state, whatever its placement */
	double val_loss;     /* NaN when there is no validation data */
	uint64_t peak_rss_bytes, device_peak_bytes, host_peak_bytes;
	double nvme_bytes_per_param_step; /* over steps 3 and later of this process; NaN before */
	uint64_t steps;                   /* reached */
	uint64_t skipped_steps;           /* of them changed nothing: a gradient overflowed */
};

/**
 * strata_trainer_open() - read and check everything, plan, allocate, open or create the store.
 * @return 0 and *out; STRATA_E_CONFIG, _INPUT (one line in strata_last_error() says what, where,
 * what to do), _NO_FIT (names the smallest budget), _BUSY (output in use), _STALE, _CANCELLED
 * (opt->stops said so), -errno; -EALREADY: asked to resume a run whose last step is done, whose
 * result is in OUTPUT and whose state was removed as configured. On failure nothing is left behind,
 * and what is resumed is as it was.
 */
STRATA_API STRATA_MUST_CHECK int strata_trainer_open(struct strata_trainer **out,
						     const char *config_path,
						     const struct strata_options *opt);

/** strata_trainer_info() - borrowed, valid until close. */
STRATA_API const struct strata_info *strata_trainer_info(const struct strata_trainer *t);

/**
 * strata_trainer_step() - one optimizer step.
 * @param tokens, targets  in [accum_steps * micro_batch, seq_len] token ids below vocab_size,
 * borrowed for the call; both NULL: the next batch of the configured data
 * @param m  out
 * @return 0; STRATA_E_INPUT (a token id out of range, no data configured); STRATA_E_NUMERIC; an I/O
 *         failure: the trainer is then only good for close, and the last committed step is intact
 */
STRATA_API STRATA_MUST_CHECK int strata_trainer_step(struct strata_trainer *t,
						     const int32_t *tokens, const int32_t *targets,
						     struct strata_metrics *m);

/** strata_trainer_eval() - mean loss over the configured validation windows. STRATA_E_INPUT: none;
 *  STRATA_E_CANCELLED: strata_trainer_stop() was called meanwhile; nothing is lost. */
STRATA_API STRATA_MUST_CHECK int strata_trainer_eval(struct strata_trainer *t, double *loss);

/** strata_trainer_save() - commit the state after the last step; a resume goes on from there. */
STRATA_API STRATA_MUST_CHECK int strata_trainer_save(struct strata_trainer *t);

/** strata_trainer_stop() - ask the loop to end: strata_trainer_stopped() is true from then on. */
STRATA_API void strata_trainer_stop(struct strata_trainer *t);
STRATA_API bool strata_trainer_stopped(const struct strata_trainer *t);

/**
 * strata_trainer_finish() - save, evaluate, write model.safetensors and config.json, fill *result.
 * @param result  out, or NULL
 * @return 0; STRATA_E_CANCELLED: strata_trainer_stop() was called meanwhile: the state is saved,
 * the result is not written, a resume does it; a failure
 */
STRATA_API STRATA_MUST_CHECK int strata_trainer_finish(struct strata_trainer *t,
						       struct strata_result *result);

/** strata_trainer_close() - release all; NULL is accepted. What was not saved is lost. A run that
 * was stopped before its first step leaves nothing. */
STRATA_API void strata_trainer_close(struct strata_trainer *t);

/* ---- planning ------------------------------------------------------------------------------ */

struct strata_plan; /* a configuration, planned; nothing was allocated or created */

enum strata_measure {
	STRATA_MEASURE_CACHED, /* as measured before, else now: a second or two */
	STRATA_MEASURE_NOW,
	STRATA_MEASURE_NEVER, /* nominal figures */
	STRATA_MEASURE_KEPT,  /* as measured before, else no prediction */
};

enum strata_plan_schedule {
	STRATA_SCHEDULE_STRATA,
	STRATA_SCHEDULE_DEEPSPEED,           /* the optimizer is a phase of its own; to compare */
	STRATA_SCHEDULE_DEEPSPEED_PIPELINED, /* with pipeline_read and pipeline_write */
	STRATA_SCHEDULE_SERIAL,              /* DeepSpeed's work with nothing overlapped */
};

struct strata_plan_options {
	size_t struct_bytes;
	const char *hardware; /* a description of a machine (examples/hardware); NULL: this one */
	enum strata_measure measure;
	enum strata_plan_schedule schedule;
	bool skips_time; /* no prediction: only what lives where */
};
#define STRATA_PLAN_OPTIONS_DEFAULT                                                                \
	{                                                                                          \
		.struct_bytes = sizeof(struct strata_plan_options)                                 \
	}

struct strata_tier {
	const char *name;                  /* "device", "host", "nvme" */
	uint64_t peak_bytes, budget_bytes; /* budget 0: as much as is useful */
	uint64_t smallest_bytes;           /* the smallest budget that works */
};

struct strata_plan_part { /* of a tier's peak; together they are all of it */
	const char *tier;
	char what[64];
	uint64_t bytes;
};

struct strata_plan_unit {       /* what is fetched together: a block, an embedding */
	const char *name;       /* "h.0" */
	const char *param_tier; /* where its parameters live: "device", "host", "nvme" */
	uint64_t param_bytes, state_bytes, grad_bytes;
	/* Of its states, and of the gradients that wait for their update: in memory. */
	uint64_t state_kept_bytes, grad_kept_bytes;
	bool is_pinned; /* at home on nvme, and kept in memory by the budgets, in part at least */
	const char *update;      /* "immediate", "deferred", "speculative" */
	char why[240];           /* both, in words */
	const char *updated_on;  /* by which processor: "device", "host", "device and host" */
	const char *updated_why; /* ""; where the device has memory of its own, why there */
};

struct strata_plan_lane { /* a resource that works, in a step */
	const char *name;
	double busy_s, wait_s;
	double work_s; /* what its operations take of it when nothing slows them */
	uint64_t bytes;
};

struct strata_plan_time {
	double step_s, step_clipped_s; /* they differ where updates are speculative */
	double bound_s;                /* what no order of the same operations could beat */
	double bound_by_phase_s;       /* what this mode of updates could reach */
	double forward_s, backward_s, rest_s;
	const char *limiting_lane;
	const char *hardware, *source; /* whose rates these are, and where they are from */
	const char
		*measured; /* "2026-11-22 09:05 UTC, load 0.4 a processor"; "": not, or not here */
	const char *nominal; /* why the drives' rates are nominal; "": they are not */
	double ranks;
	bool is_coarse; /* units and large chunks stand for storage tiles */
};

struct strata_plan_remedy { /* what would fit: keys to set */
	char what[120];
	const char *const *sets; /* [n_sets] "key=value" */
	size_t n_sets;
};

/**
 * strata_plan_open() - plan a configuration, and predict its steps.
 * @param how  in, or NULL: this machine, measured
 * @return as strata_trainer_open(), save that what does not fit is an answer: 0, and
 *         strata_plan_fits() is false
 */
STRATA_API STRATA_MUST_CHECK int strata_plan_open(struct strata_plan **out, const char *config_path,
						  const struct strata_options *opt,
						  const struct strata_plan_options *how);
STRATA_API void strata_plan_close(struct strata_plan *p);
STRATA_API const struct strata_info *strata_plan_info(const struct strata_plan *p);
/** strata_plan_fits() - @param message  out, why not; or NULL */
STRATA_API bool strata_plan_fits(const struct strata_plan *p, const char **message);
/** strata_plan_remedies() - [n] what would fit, nearest first. */
STRATA_API const struct strata_plan_remedy *strata_plan_remedies(const struct strata_plan *p,
								 size_t *n);
/** strata_plan_tiers() - [n] in the order device, host, nvme; borrowed. Of one rank. Where it does
 *  not fit, the peak is what it would need at least. */
STRATA_API const struct strata_tier *strata_plan_tiers(const struct strata_plan *p, size_t *n);
/** strata_plan_parts() - [n] in the order of tiers; borrowed. */
STRATA_API const struct strata_plan_part *strata_plan_parts(const struct strata_plan *p, size_t *n);
/** strata_plan_units() - [n] in the model's order; borrowed. None where the step is written down
 * more coarsely (is_coarse). */
STRATA_API const struct strata_plan_unit *strata_plan_units(const struct strata_plan *p, size_t *n);
/** strata_plan_pinned_bytes() - what is at home on nvme and kept in memory by the budgets. */
STRATA_API uint64_t strata_plan_pinned_bytes(const struct strata_plan *p);
/** strata_plan_time() - NULL: not predicted. */
STRATA_API const struct strata_plan_time *strata_plan_time(const struct strata_plan *p);
/** strata_plan_lanes() - [n], those that have work. */
STRATA_API const struct strata_plan_lane *strata_plan_lanes(const struct strata_plan *p, size_t *n);
/** strata_plan_bytes_per_step() - NVMe traffic of a step in steady state, of one rank. */
STRATA_API void strata_plan_bytes_per_step(const struct strata_plan *p, uint64_t *read,
					   uint64_t *write);
/** strata_plan_wear() - share of the drives' rated writes that 1,000 steps take; 0: not known. */
STRATA_API double strata_plan_wear(const struct strata_plan *p);
/** strata_plan_line() - line i of the text: what = "summary" (what lives where) or "program" (the
 *  step's operations). @return false beyond the last */
STRATA_API bool strata_plan_line(const struct strata_plan *p, const char *what, size_t i,
				 char *line, size_t line_bytes);

/* ---- sampling ------------------------------------------------------------------------------ */

struct strata_sampler;

/**
 * strata_sampler_open() - a result directory (model.safetensors, config.json) for generation.
 * @param threads  in, 0 = all
 */
STRATA_API STRATA_MUST_CHECK int strata_sampler_open(struct strata_sampler **out, const char *dir,
						     unsigned threads);
STRATA_API void strata_sampler_close(struct strata_sampler *s);
STRATA_API uint64_t strata_sampler_vocab(const struct strata_sampler *s);
/**
 * strata_sampler_next() - one more token after tokens[0..n), looking back at most n_positions.
 * @param temperature  in, > 0; 0: the most likely
 * @param top_k        in, 0 = all
 * @param seed         in/out, state of the generator
 */
STRATA_API STRATA_MUST_CHECK int strata_sampler_next(struct strata_sampler *s,
						     const int32_t *tokens, size_t n,
						     double temperature, unsigned top_k,
						     uint64_t *seed, int32_t *token);

#ifdef __cplusplus
}
#endif
#endif
