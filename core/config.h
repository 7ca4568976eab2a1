/* SPDX-License-Identifier: Apache-2.0 */
/*
 * core/config.h - the configuration: a DeepSpeed JSON plus one object "strata".
 *
 * Layer:   core
 * Threads: a configuration is constant once loaded; loading is re-entrant
 *
 * One table (st_config_keys()) describes every key: where it stands, its type, default and range,
 * what becomes of it here (honoured; accepted without effect, and why; refused, and why), and its
 * help. Parsing, `strata config check|explain|schema|help` and the dump all read that table, so a
 * new key is one row there and one field here.
 *
 * An error is one line, "file:line:col: key: what; what to do" (or "--set a.b=v: ..."), code
 * STRATA_E_CONFIG, and nothing is written to *out.
 */
#ifndef CORE_CONFIG_H
#define CORE_CONFIG_H

#include <stdio.h>

#include "core/dtype.h"
#include "core/schedule.h"
#include "core/status.h"
#include "strata/optim.h"

#define ST_CONFIG_MAX_BYTES ((size_t)1 << 20)
#define ST_CONFIG_PATHS_MAX 16u /* directories of nvme_path, and their weights */

enum st_offload { ST_OFFLOAD_NONE, ST_OFFLOAD_CPU, ST_OFFLOAD_NVME };
enum st_decay { ST_DECAY_MATRICES, ST_DECAY_ALL };
enum st_update { ST_UPDATE_AUTO, ST_UPDATE_IMMEDIATE, ST_UPDATE_DEFERRED, ST_UPDATE_SPECULATIVE };
enum st_order { ST_ORDER_VERTICAL, ST_ORDER_HORIZONTAL };
enum st_durability { ST_DURABILITY_STEP, ST_DURABILITY_NONE };
enum st_keep { ST_KEEP_ALWAYS, ST_KEEP_NEVER };
enum st_verify { ST_VERIFY_READ, ST_VERIFY_OPEN };
enum st_spill { ST_SPILL_AUTO, ST_SPILL_NEVER };
enum st_device_type { ST_DEVICE_AUTO, ST_DEVICE_HOST, ST_DEVICE_CUDA };

struct st_strings {
	const char *const *v; /* [n] */
	size_t n;
};

struct st_numbers {
	const uint64_t *v; /* [n] */
	size_t n;
};

/*
 * The resolved configuration. Strings are owned by it. "auto" is gone, save where a field's
 * comment says that someone else decides.
 */
struct st_config {
	/* Batch, in sequences: train_batch == micro_batch * accum_steps, each > 0. */
	uint64_t train_batch, micro_batch, accum_steps;

	uint64_t zero_stage; /* 0..3; one rank: partitioning changes nothing */
	enum st_offload offload_param, offload_optimizer;
	struct st_strings param_nvme_paths, optimizer_nvme_paths; /* as given */
	struct st_strings nvme_paths; /* the store's directories; n > 0 iff something is on nvme */

	struct st_config_optimizer {
		const char *type;            /* "AdamW", ... */
		enum strata_optim_kind kind; /* derived from type and adam_w_mode */
		bool adam_w_mode;
		double lr;           /* >= 0 */
		double betas[2];     /* each in [0, 1) */
		double eps;          /* > 0 */
		double weight_decay; /* >= 0 */
		bool bias_correction;
		double momentum, dampening; /* SGD; momentum in [0, 1) */
		bool nesterov;
		double lr_decay; /* Adagrad */
		bool fp32_states;
		enum strata_optim_moments moments;
		enum st_decay decay;   /* strata: which tensors decay */
		enum st_update update; /* strata: AUTO = the planner, per unit */
	} optimizer;
	struct st_schedule schedule; /* complete: st_schedule_lr(&schedule, optimizer.lr, step) */
	double gradient_clipping;    /* global norm, 0 = off */

	enum st_dtype dtype; /* of compute: as bf16.enabled and fp16.enabled say, else ST_F32 */
	enum st_dtype grad_dtype; /* of a gradient at rest: dtype, or ST_F32 */
	bool bf16_enabled, bf16_states;
	struct {
		bool enabled;
		double loss_scale; /* 0: dynamic */
		uint64_t initial_scale_power, loss_scale_window, hysteresis;
		bool consecutive_hysteresis;
		double min_loss_scale;
	} fp16;

	uint64_t steps_per_print; /* a progress line every so many optimizer steps, >= 1 */
	bool cpu_checkpointing;   /* saved activations rest in host memory */

	struct {
		size_t block_bytes;   /* one kernel I/O; a multiple of 4096 */
		uint64_t queue_depth; /* in flight in each direction */
		uint64_t threads;     /* intra_op_parallelism: pool size of the threads backend */
		bool single_submit, overlap_events;
	} aio;

	struct {
		const char *name;      /* "gpt2-xl" ...; NULL: the dimensions below */
		const char *family;    /* "gpt2" */
		const char *init_from; /* directory to read weights from, or NULL: random */
		/* 0 where name or init_from's config.json give them */
		uint64_t n_layer, n_embd, n_head, n_positions, vocab_size;
	} model;

	struct {
		const char *train;     /* path; NULL: the caller brings batches */
		const char *val;       /* path; NULL: the held-out part of train */
		const char *format;    /* "bytes", "bin"; "auto" only when train is NULL */
		uint64_t seq_len;      /* tokens; 0 = n_positions */
		double held_out;       /* share of train's windows, 0..0.5 */
		uint64_t eval_windows; /* windows per evaluation; 0 = all */
	} data;

	enum st_device_type device; /* AUTO: cuda where there is one */
	size_t device_bytes;        /* budgets; 0 = "auto": the planner takes what it needs */
	size_t host_bytes;

	struct {
		const char *backend; /* "auto", "io_uring", "threads" */
		bool sqpoll, iopoll; /* modes of io_uring, where they work */
		bool checksum;
		enum st_durability durability;
		uint64_t commit_every;     /* optimizer steps, >= 1 */
		enum st_keep keep;         /* the store after the run's last step */
		uint64_t keep_every;       /* optimizer steps from copy to copy; 0 = none */
		enum st_verify verify;     /* when checksums are looked at */
		struct st_numbers weights; /* share of each nvme path; n = 0: equal */
		enum st_spill spill;       /* gradients that do not fit the host budget */
	} nvme;

	enum st_order micro_batch_order;
	bool recompute;   /* activations of a block are computed again in backward */
	uint64_t threads; /* 0 = all cores this process may use */
	uint64_t steps;   /* optimizer steps in total, >= 1 */
	uint64_t seed;
	const char *output;       /* directory */
	uint64_t eval_every;      /* optimizer steps; 0 = at the end only */
	enum st_dtype save_dtype; /* of model.safetensors: ST_F32 (exact) or ST_BF16 */

	struct st_config_priv *priv;
};

/**
 * st_config_load() - read, check and resolve a file.
 * @param path    in, the file (at most ST_CONFIG_MAX_BYTES); paths inside it are relative to the
 *                current directory
 * @param sets    in [n_sets] "a.b=v", applied in order over the file: v is JSON, else a string
 * @return 0 and *out (for st_config_destroy()); STRATA_E_CONFIG; -ENOMEM
 */
ST_MUST_CHECK int st_config_load(struct st_config **out, const char *path, const char *const *sets,
				 size_t n_sets);

/** st_config_parse() - the same from a text in memory; name is what errors call it. */
ST_MUST_CHECK int st_config_parse(struct st_config **out, const char *text, size_t len_bytes,
				  const char *name, const char *const *sets, size_t n_sets);

/** st_config_destroy() - NULL is accepted. */
void st_config_destroy(struct st_config *cfg);

/**
 * st_config_require_training() - what planning and training need beyond a valid configuration: a
 * model and, with needs_data, training data. @return 0; STRATA_E_CONFIG (which key is missing)
 */
ST_MUST_CHECK int st_config_require_training(const struct st_config *cfg, bool needs_data);

/**
 * st_config_notes() - what the user should read once at start: keys without effect and why, what
 * "auto" became, the clipping in force, what weight decay covers, ...
 * @param n  out, number of lines
 * @return [n] lines without newline, owned by cfg
 */
const char *const *st_config_notes(const struct st_config *cfg, size_t *n);

/** st_config_fail() - a failure that the value of a key caused, elsewhere: rc, with "file:line:col:
 *  key: " (or "--set ...: ") before the text. */
int st_config_fail(const struct st_config *cfg, int rc, const char *path, const char *fmt, ...)
	ST_PRINTF(4, 5);

/**
 * st_config_differences() - the keys that what was trained is tied to and whose values differ.
 * @param text  out, "strata.seed: 1 -> 2; strata.threads: 4 -> 2", as many as there is room for
 * @return how many differ
 */
size_t st_config_differences(const struct st_config *was, const struct st_config *now, char *text,
			     size_t text_bytes);

/** st_config_explain() - each honoured key: value in force and where it came from (default, file
 *  line, --set, auto, derived); then the keys without effect. as_json: an array of objects. */
void st_config_explain(const struct st_config *cfg, FILE *f, bool as_json);

/** st_config_dump() - the resolved configuration as JSON, which loads again to the same. */
void st_config_dump(const struct st_config *cfg, FILE *f);

/** st_config_schema() - the table as a JSON Schema (draft 2020-12). */
void st_config_schema(FILE *f);

/** st_config_help() - type, default, range and help of one key and all below it; NULL: of all.
 *  @return 0; STRATA_E_CONFIG (no such key, and the nearest) */
ST_MUST_CHECK int st_config_help(FILE *f, const char *path);

#endif
