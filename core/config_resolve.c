/* SPDX-License-Identifier: Apache-2.0 */
/* core/config_resolve.c - rules between keys, and what the user is told once at start. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/config_priv.h"

#define BATCH      "train_batch_size"
#define MICRO      "train_micro_batch_size_per_gpu"
#define ACCUM      "gradient_accumulation_steps"
#define ZO         "zero_optimization."
#define SP         "scheduler.params."
#define AUTO_MICRO 8u /* the Hugging Face trainer's own default */

static enum st_source source_of(const struct st_config *cfg, const char *path)
{
	return cfg->priv->source[st_key_index(path)];
}

static bool is_given(const struct st_config *cfg, const char *path)
{
	enum st_source s = source_of(cfg, path);

	return s == ST_FROM_FILE || s == ST_FROM_SET;
}

static void derived(struct st_config *cfg, const char *path)
{
	enum st_source *s = &cfg->priv->source[st_key_index(path)];

	if (*s != ST_FROM_AUTO) /* which says more */
		*s = ST_FROM_RULE;
}

/* ---- batch -------------------------------------------------------------------------------- */

static int derive_batch(struct st_config *cfg, bool has_batch, bool has_micro, bool has_accum)
{
	if (has_batch && has_micro && has_accum)
		return 0;
	if (has_batch && has_micro) {
		cfg->accum_steps = cfg->train_batch / cfg->micro_batch;
		derived(cfg, ACCUM);
	} else if (has_batch) {
		if (!has_accum) {
			cfg->accum_steps = 1;
			derived(cfg, ACCUM);
		}
		cfg->micro_batch = cfg->train_batch / cfg->accum_steps;
		derived(cfg, MICRO);
	} else {
		if (!has_micro && source_of(cfg, MICRO) != ST_FROM_AUTO)
			return st_fail(STRATA_E_CONFIG,
				       "%s: neither " BATCH " nor " MICRO
				       " is given; give at least one, for example \"" MICRO "\": 4",
				       cfg->priv->name);
		if (!has_micro)
			cfg->micro_batch = AUTO_MICRO;
		if (!has_accum) {
			cfg->accum_steps = 1;
			derived(cfg, ACCUM);
		}
		cfg->train_batch = cfg->micro_batch * cfg->accum_steps;
		derived(cfg, BATCH);
	}
	return 0;
}

/* The triple, as DeepSpeed derives and checks it, with one rank. */
static int resolve_batch(struct st_config *cfg)
{
	bool has_batch = is_given(cfg, BATCH), has_micro = is_given(cfg, MICRO);
	bool has_accum = is_given(cfg, ACCUM);
	uint64_t batch, micro, accum;
	int rc = derive_batch(cfg, has_batch, has_micro, has_accum);

	if (rc)
		return rc;
	batch = cfg->train_batch;
	micro = cfg->micro_batch;
	accum = cfg->accum_steps;
	if (batch > 1000000000)
		return st_key_fail(cfg, MICRO,
				   "makes, with " ACCUM " %ju, a batch of %ju sequences; the most "
				   "is 1e9",
				   (uintmax_t)accum, (uintmax_t)batch);
	if (batch == micro * accum)
		return 0;
	if (has_micro && has_accum)
		return st_key_fail(cfg, BATCH,
				   "%ju is not " MICRO " %ju x " ACCUM " %ju x 1 rank; set " BATCH
				   " to %ju",
				   (uintmax_t)batch, (uintmax_t)micro, (uintmax_t)accum,
				   (uintmax_t)(micro * accum));
	if (has_micro)
		return st_key_fail(cfg, BATCH,
				   "%ju is no multiple of " MICRO " %ju; set " BATCH " to %ju",
				   (uintmax_t)batch, (uintmax_t)micro,
				   (uintmax_t)(micro * (accum ? accum : 1)));
	return st_key_fail(cfg, BATCH, "%ju is no multiple of " ACCUM " %ju; set " BATCH " to %ju",
			   (uintmax_t)batch, (uintmax_t)accum,
			   (uintmax_t)(accum * (micro ? micro : 1)));
}

/* ---- where things live -------------------------------------------------------------------- */

static bool same_paths(const struct st_strings *a, const struct st_strings *b)
{
	if (a->n != b->n)
		return false;
	for (size_t i = 0; i < a->n; i++)
		if (strcmp(a->v[i], b->v[i]))
			return false;
	return true;
}

static int note_idle_path(struct st_config *cfg, const char *path, enum st_offload device)
{
	if (device == ST_OFFLOAD_NVME || !is_given(cfg, path))
		return 0;
	return st_config_note(cfg, "%s: no effect, the device is %s", path,
			      device == ST_OFFLOAD_CPU ? "cpu" : "none");
}

/* One store holds all that is on NVMe, so both sections must agree on its directories; one of
 * them may leave them to the other. */
static int resolve_paths(struct st_config *cfg)
{
	bool param = cfg->offload_param == ST_OFFLOAD_NVME;
	bool optim = cfg->offload_optimizer == ST_OFFLOAD_NVME;
	const struct st_strings *p = &cfg->param_nvme_paths, *o = &cfg->optimizer_nvme_paths;

	if (!param && !optim)
		return cfg->nvme.weights.n
			       ? st_config_note(cfg,
						"strata.nvme.weights: no effect, nothing is on "
						"nvme")
			       : 0;
	if (param && optim && p->n && o->n && !same_paths(p, o))
		return st_key_fail(
			cfg, ZO "offload_optimizer.nvme_path",
			"differs from offload_param.nvme_path; one store holds both: give "
			"one list of all directories in both places");
	if (param && p->n)
		cfg->nvme_paths = *p;
	else if (optim && o->n)
		cfg->nvme_paths = *o;
	else
		cfg->nvme_paths = p->n ? *p : *o;
	if (!cfg->nvme_paths.n)
		return st_key_fail(
			cfg, param ? ZO "offload_param.device" : ZO "offload_optimizer.device",
			"nvme needs a directory; add \"nvme_path\": \"DIR\" beside it");
	if (param && !p->n) {
		cfg->param_nvme_paths = cfg->nvme_paths;
		derived(cfg, ZO "offload_param.nvme_path");
	}
	if (optim && !o->n) {
		cfg->optimizer_nvme_paths = cfg->nvme_paths;
		derived(cfg, ZO "offload_optimizer.nvme_path");
	}
	if (cfg->nvme.weights.n && cfg->nvme.weights.n != cfg->nvme_paths.n)
		return st_key_fail(
			cfg, "strata.nvme.weights",
			"%zu weights for %zu directories of nvme_path; give one for each",
			cfg->nvme.weights.n, cfg->nvme_paths.n);
	return 0;
}

/* Copies are of commits, and are found through run.json. */
static int resolve_copies(struct st_config *cfg)
{
	if (!cfg->nvme.keep_every)
		return 0;
	if (cfg->nvme.durability == ST_DURABILITY_NONE)
		return st_key_fail(cfg, "strata.nvme.keep_every",
				   "copies are made of committed steps, and \"durability\" is "
				   "\"none\"; set it to \"step\"");
	if (cfg->nvme.keep == ST_KEEP_NEVER)
		return st_key_fail(cfg, "strata.nvme.keep_every",
				   "the copies are found through the run's state, which \"keep\": "
				   "\"never\" removes at the end; set it to \"always\"");
	return 0;
}

static int resolve_zero(struct st_config *cfg)
{
	int rc;

	if (cfg->offload_param != ST_OFFLOAD_NONE && cfg->zero_stage != 3)
		return st_key_fail(cfg, ZO "offload_param.device",
				   "offloading parameters needs \"stage\": 3, not %ju",
				   (uintmax_t)cfg->zero_stage);
	if (cfg->offload_optimizer == ST_OFFLOAD_NVME && cfg->zero_stage != 3)
		return st_key_fail(cfg, ZO "offload_optimizer.device",
				   "offloading to nvme needs \"stage\": 3, not %ju",
				   (uintmax_t)cfg->zero_stage);
	if (cfg->offload_optimizer != ST_OFFLOAD_NONE && !cfg->zero_stage)
		return st_key_fail(cfg, ZO "offload_optimizer.device",
				   "offloading the optimizer needs \"stage\": 1, 2 or 3");
	if (cfg->aio.block_bytes % 4096)
		return st_key_fail(
			cfg, "aio.block_size",
			"%zu is no multiple of 4096; direct I/O needs one: set it to %zu",
			cfg->aio.block_bytes, (cfg->aio.block_bytes / 4096 + 1) * 4096);
	rc = note_idle_path(cfg, ZO "offload_param.nvme_path", cfg->offload_param);
	if (!rc)
		rc = note_idle_path(cfg, ZO "offload_optimizer.nvme_path", cfg->offload_optimizer);
	if (!rc)
		rc = resolve_copies(cfg);
	return rc ? rc : resolve_paths(cfg);
}

/* ---- optimizer and schedule --------------------------------------------------------------- */

/* A parameter that only other optimizers have, and that would change something there. */
static int check_owner(const struct st_config *cfg, const char *key, bool has, bool is_default)
{
	if (has || is_default || !is_given(cfg, key))
		return 0;
	return st_key_fail(cfg, key, "is no parameter of %s, which is optimizer.type; leave it out",
			   cfg->optimizer.type);
}

static int resolve_kind(struct st_config *cfg)
{
	static const struct {
		const char *type;
		enum strata_optim_kind kind;
	} kinds[] = {
		{ "AdamW", STRATA_OPTIM_ADAMW },     { "Adam", STRATA_OPTIM_ADAMW },
		{ "Adagrad", STRATA_OPTIM_ADAGRAD }, { "Lion", STRATA_OPTIM_LION },
		{ "SGD", STRATA_OPTIM_SGD },
	};
	enum strata_optim_kind kind = STRATA_OPTIM_ADAMW;
	const struct st_config_optimizer *o = &cfg->optimizer;
	bool is_adam, is_sgd, is_adagrad, is_lion;
	int rc;

	for (size_t i = 0; i < ST_ARRAY_LEN(kinds); i++)
		if (!strcmp(cfg->optimizer.type, kinds[i].type))
			kind = kinds[i].kind;
	if (!strcmp(cfg->optimizer.type, "Adam") && !cfg->optimizer.adam_w_mode)
		kind = STRATA_OPTIM_ADAM;
	cfg->optimizer.kind = kind;
	is_adam = kind == STRATA_OPTIM_ADAMW || kind == STRATA_OPTIM_ADAM;
	is_sgd = kind == STRATA_OPTIM_SGD;
	is_lion = kind == STRATA_OPTIM_LION;
	is_adagrad = kind == STRATA_OPTIM_ADAGRAD;
	if (is_lion && !is_given(cfg, "optimizer.params.betas")) {
		cfg->optimizer.betas[1] = 0.99;
		derived(cfg, "optimizer.params.betas");
	}
	if (is_adagrad && !is_given(cfg, "optimizer.params.eps")) {
		cfg->optimizer.eps = 1e-10;
		derived(cfg, "optimizer.params.eps");
	}
	if ((rc = check_owner(cfg, "optimizer.params.betas", is_adam || is_lion,
			      o->betas[0] == 0.9 && o->betas[1] == 0.999)) < 0 ||
	    (rc = check_owner(cfg, "optimizer.params.eps", is_adam || is_adagrad, o->eps == 1e-8)) <
		    0 ||
	    (rc = check_owner(cfg, "optimizer.params.bias_correction", is_adam,
			      o->bias_correction)) < 0 ||
	    (rc = check_owner(cfg, "optimizer.params.momentum", is_sgd, o->momentum == 0)) < 0 ||
	    (rc = check_owner(cfg, "optimizer.params.dampening", is_sgd, o->dampening == 0)) < 0 ||
	    (rc = check_owner(cfg, "optimizer.params.nesterov", is_sgd, !o->nesterov)) < 0 ||
	    (rc = check_owner(cfg, "optimizer.params.lr_decay", is_adagrad, o->lr_decay == 0)) < 0)
		return rc;
	if (cfg->optimizer.nesterov &&
	    (cfg->optimizer.momentum == 0 || cfg->optimizer.dampening != 0))
		return st_key_fail(cfg, "optimizer.params.nesterov",
				   "needs momentum above 0 and dampening 0");
	return 0;
}

static int resolve_moments(struct st_config *cfg)
{
	bool wants_bf16 = cfg->bf16_states || !cfg->optimizer.fp32_states;

	if (!is_given(cfg, "strata.optimizer.moments")) {
		cfg->optimizer.moments = wants_bf16 ? STRATA_MOMENTS_BF16 : STRATA_MOMENTS_F32;
		derived(cfg, "strata.optimizer.moments");
		return 0;
	}
	if (wants_bf16 && cfg->optimizer.moments != STRATA_MOMENTS_BF16)
		return st_key_fail(cfg, "strata.optimizer.moments",
				   "contradicts %s, which asks for bf16; leave one of them out",
				   cfg->bf16_states ? "bf16.bf16_optimizer_states"
						    : "optimizer.params.fp32_optimizer_states");
	return 0;
}

static int resolve_optimizer(struct st_config *cfg)
{
	int rc = resolve_kind(cfg);

	if (!rc)
		rc = resolve_moments(cfg);
	if (rc)
		return rc;
	if (cfg->optimizer.update == ST_UPDATE_IMMEDIATE && cfg->fp16.enabled)
		return st_key_fail(cfg, "strata.optimizer.update",
				   "immediate cannot be had with fp16: whether a step overflows is "
				   "known only after the whole backward; use \"auto\"");
	if (cfg->optimizer.update == ST_UPDATE_IMMEDIATE && cfg->gradient_clipping > 0)
		return st_key_fail(
			cfg, "strata.optimizer.update",
			"immediate needs gradient_clipping 0: the norm is known only after "
			"the whole backward; set gradient_clipping to 0 or use \"auto\"");
	if (cfg->optimizer.update == ST_UPDATE_SPECULATIVE &&
	    (cfg->offload_optimizer != ST_OFFLOAD_NVME || cfg->offload_param != ST_OFFLOAD_NVME ||
	     cfg->nvme.durability != ST_DURABILITY_STEP || cfg->nvme.commit_every != 1))
		return st_key_fail(cfg, "strata.optimizer.update",
				   "speculative needs parameters and states on nvme, durability "
				   "\"step\" and commit_every 1: the way back is the last commit; "
				   "set these or use \"auto\"");
	return 0;
}

static const char *schedule_name(const struct st_config *cfg)
{
	const struct st_key *k = st_key_find("scheduler.type", strlen("scheduler.type"));

	for (const struct st_choice *c = k->choices; c->name; c++)
		if (c->value == (int)cfg->schedule.type)
			return c->name;
	return "none";
}

static int check_schedule_keys(struct st_config *cfg)
{
	size_t n;
	const struct st_key *keys = st_config_keys(&n);

	for (size_t i = 0; i < n; i++) {
		if (!keys[i].schedules || !cfg->priv->node[i] || st_config_applies(cfg, &keys[i]))
			continue;
		if (cfg->schedule.type == ST_SCHEDULE_NONE)
			return st_key_fail(cfg, keys[i].path,
					   "given without a schedule; set scheduler.type");
		return st_key_fail(cfg, keys[i].path, "the schedule %s has no such parameter",
				   schedule_name(cfg));
	}
	return 0;
}

static int resolve_one_cycle(struct st_config *cfg)
{
	struct st_schedule *s = &cfg->schedule;
	double beta1 = 0, beta2 = 0;

	if (!is_given(cfg, SP "cycle_min_lr") || !is_given(cfg, SP "cycle_max_lr"))
		return st_key_fail(cfg, "scheduler.type",
				   "OneCycle needs params cycle_min_lr and cycle_max_lr");
	if (!is_given(cfg, SP "cycle_second_step_size")) {
		s->cycle_second_step_size = s->cycle_first_step_size;
		derived(cfg, SP "cycle_second_step_size");
	}
	if (!is_given(cfg, SP "cycle_second_stair_count")) {
		s->cycle_second_stair_count = s->cycle_first_stair_count;
		derived(cfg, SP "cycle_second_stair_count");
	}
	/* beta1 grows after the cycle only, so the last step has the largest */
	if (st_schedule_betas(s, cfg->steps - 1, &beta1, &beta2) && beta1 >= 1)
		return st_key_fail(cfg, SP "decay_mom_rate",
				   "beta1 reaches %.3g within %ju steps; lower it, or set "
				   "cycle_momentum to false",
				   beta1, (uintmax_t)cfg->steps);
	if (!s->cycle_momentum)
		return 0;
	return st_config_note(cfg,
			      "OneCycle cycles beta1 between %g and %g and sets beta2 to 0.99 "
			      "(as DeepSpeed does); optimizer.params.betas has no effect",
			      s->cycle_min_mom, s->cycle_max_mom);
}

static int resolve_warmup(struct st_config *cfg)
{
	struct st_schedule *s = &cfg->schedule;
	bool has_end = s->type != ST_SCHEDULE_WARMUP,
	     is_cosine = s->type == ST_SCHEDULE_WARMUP_COSINE;
	const struct st_json *max = cfg->priv->node[st_key_index(SP "warmup_max_lr")];

	if (!is_cosine && !is_given(cfg, SP "warmup_max_lr")) {
		s->warmup_max_lr =
			s->type == ST_SCHEDULE_WARMUP_DECAY && !max ? 0.001 : cfg->optimizer.lr;
		derived(cfg, SP "warmup_max_lr");
	}
	if (has_end && !is_given(cfg, SP "total_num_steps")) {
		if (source_of(cfg, SP "total_num_steps") != ST_FROM_AUTO)
			return st_key_fail(
				cfg, "scheduler.type",
				"%s needs params.total_num_steps; give it, or \"auto\" for "
				"strata.steps",
				schedule_name(cfg));
		s->total_num_steps = cfg->steps;
	}
	if (has_end && s->total_num_steps < s->warmup_num_steps)
		return st_config_note(cfg,
				      "scheduler: total_num_steps %ju is less than "
				      "warmup_num_steps %ju",
				      (uintmax_t)s->total_num_steps,
				      (uintmax_t)s->warmup_num_steps);
	if (s->warmup_num_steps > cfg->steps)
		return st_config_note(cfg,
				      "scheduler: the warm-up of %ju steps does not end within "
				      "the %ju steps of this run",
				      (uintmax_t)s->warmup_num_steps, (uintmax_t)cfg->steps);
	return 0;
}

static int resolve_schedule(struct st_config *cfg)
{
	int rc = check_schedule_keys(cfg);

	if (rc)
		return rc;
	switch (cfg->schedule.type) {
	case ST_SCHEDULE_ONE_CYCLE:
		return resolve_one_cycle(cfg);
	case ST_SCHEDULE_WARMUP:
	case ST_SCHEDULE_WARMUP_DECAY:
	case ST_SCHEDULE_WARMUP_COSINE:
		return resolve_warmup(cfg);
	default:
		return 0;
	}
}

/* ---- strata ------------------------------------------------------------------------------- */

static int resolve_model(struct st_config *cfg)
{
	static const char *const dims[] = { "strata.model.n_layer", "strata.model.n_embd",
					    "strata.model.n_head", "strata.model.n_positions",
					    "strata.model.vocab_size" };
	const char *first = NULL, *missing = NULL;

	for (size_t i = 0; i < ST_ARRAY_LEN(dims); i++) {
		if (is_given(cfg, dims[i]))
			first = first ? first : dims[i];
		else
			missing = missing ? missing : dims[i];
	}
	if (cfg->model.name && first)
		return st_key_fail(
			cfg, first,
			"given beside the model's name \"%.40s\", which says it already; "
			"remove one",
			cfg->model.name);
	if (first && missing)
		return st_key_fail(cfg, missing,
				   "missing; a model given by its dimensions needs n_layer, "
				   "n_embd, n_head, n_positions and vocab_size");
	if (first && cfg->model.n_embd % cfg->model.n_head)
		return st_key_fail(cfg, "strata.model.n_head",
				   "%ju heads do not divide n_embd %ju; choose a divisor",
				   (uintmax_t)cfg->model.n_head, (uintmax_t)cfg->model.n_embd);
	if (first && cfg->data.seq_len > cfg->model.n_positions)
		return st_key_fail(cfg, "strata.data.seq_len",
				   "%ju tokens do not fit the model's n_positions %ju",
				   (uintmax_t)cfg->data.seq_len, (uintmax_t)cfg->model.n_positions);
	return 0;
}

static void resolve_data(struct st_config *cfg)
{
	size_t len = cfg->data.train ? strlen(cfg->data.train) : 0;

	if (!len || strcmp(cfg->data.format, "auto"))
		return;
	cfg->data.format = len > 4 && !strcmp(cfg->data.train + len - 4, ".bin") ? "bin" : "bytes";
	derived(cfg, "strata.data.format");
}

static int resolve_precision(struct st_config *cfg)
{
	if (cfg->bf16_enabled && cfg->fp16.enabled)
		return st_key_fail(cfg, "fp16.enabled", "bf16.enabled is true too; choose one");
	cfg->dtype = cfg->bf16_enabled ? ST_BF16 : cfg->fp16.enabled ? ST_F16 : ST_F32;
	if (!is_given(cfg, "data_types.grad_accum_dtype")) {
		cfg->grad_dtype = cfg->dtype;
		derived(cfg, "data_types.grad_accum_dtype");
	} else if (cfg->grad_dtype != ST_F32 && cfg->grad_dtype != cfg->dtype) {
		return st_key_fail(cfg, "data_types.grad_accum_dtype",
				   "%s does not go with training in %s; choose %s or leave it out",
				   st_dtype_name(cfg->grad_dtype), st_dtype_name(cfg->dtype),
				   st_dtype_name(cfg->dtype));
	}
	return 0;
}

/* ---- notes -------------------------------------------------------------------------------- */

static int note_no_effect(struct st_config *cfg, size_t first, const struct st_key *keys, size_t n)
{
	char *text = NULL;
	size_t bytes = 0;
	int has_failed, rc;
	FILE *f;

	for (size_t i = 0; i < first; i++) /* reported with an earlier row of the same reason */
		if (st_config_is_idle(cfg, i) && !strcmp(keys[i].reason, keys[first].reason))
			return 0;
	f = open_memstream(&text, &bytes);
	if (!f)
		return -ENOMEM;
	for (size_t i = first; i < n; i++)
		if (st_config_is_idle(cfg, i) && !strcmp(keys[i].reason, keys[first].reason))
			fprintf(f, "%s%s", i == first ? "" : ", ", keys[i].path);
	has_failed = ferror(f); /* fclose() alone forgets it */
	if (fclose(f) || has_failed) {
		free(text);
		return -ENOMEM;
	}
	rc = st_config_note(cfg, "accepted, no effect here: %s (%s)", text, keys[first].reason);
	free(text);
	return rc;
}

static int note_auto(struct st_config *cfg, const struct st_key *k)
{
	char *text = NULL;
	size_t bytes = 0;
	FILE *f = open_memstream(&text, &bytes);
	int has_failed, rc;

	if (!f)
		return -ENOMEM;
	if (st_config_is_unset(cfg, k))
		fprintf(f, "%s", k->auto_text ? k->auto_text : "not set");
	else
		st_config_print_value(cfg, k, f);
	has_failed = ferror(f); /* fclose() alone forgets it */
	if (fclose(f) || has_failed) {
		free(text);
		return -ENOMEM;
	}
	rc = st_config_note(cfg, "\"auto\": %s = %s", k->path, text);
	free(text);
	return rc;
}

static int note_keys(struct st_config *cfg)
{
	size_t n;
	const struct st_key *keys = st_config_keys(&n);

	for (size_t i = 0; i < n; i++) {
		int rc = 0;

		if (st_config_is_idle(cfg, i))
			rc = note_no_effect(cfg, i, keys, n);
		else if (keys[i].fate == ST_KEY_HONOURED && cfg->priv->source[i] == ST_FROM_AUTO)
			rc = note_auto(cfg, &keys[i]);
		else if (keys[i].fate == ST_KEY_REFUSED && cfg->priv->source[i] == ST_FROM_AUTO)
			rc = st_config_note(cfg, "\"auto\": %s = %s", keys[i].path,
					    keys[i].def ? keys[i].def : "null");
		if (rc)
			return rc;
	}
	return 0;
}

/* A scheduler with rates of its own leaves the optimizer's unused, as in DeepSpeed. */
static int note_rate(struct st_config *cfg)
{
	const struct st_schedule *s = &cfg->schedule;
	bool is_warmup = s->type == ST_SCHEDULE_WARMUP || s->type == ST_SCHEDULE_WARMUP_DECAY;

	if (s->type == ST_SCHEDULE_NONE || s->type == ST_SCHEDULE_WARMUP_COSINE ||
	    !is_given(cfg, "optimizer.params.lr"))
		return 0;
	if (!is_warmup)
		return st_config_note(cfg,
				      "optimizer.params.lr: no effect, %s has rates of its own",
				      schedule_name(cfg));
	if (s->warmup_max_lr == cfg->optimizer.lr)
		return 0;
	return st_config_note(
		cfg,
		"optimizer.params.lr %g: no effect, %s goes to warmup_max_lr, which is "
		"%g%s",
		cfg->optimizer.lr, schedule_name(cfg), s->warmup_max_lr,
		is_given(cfg, SP "warmup_max_lr") ? "" : " unless given");
}

static int note_training(struct st_config *cfg)
{
	bool is_adam = !strcmp(cfg->optimizer.type, "Adam");
	int rc = 0;

	if (cfg->gradient_clipping > 0)
		rc = st_config_note(
			cfg, "gradient clipping: global norm %g%s", cfg->gradient_clipping,
			is_given(cfg, "gradient_clipping")
				? ""
				: " (the default; DeepSpeed's was 0, none, and is now 1.0)");
	else
		rc = st_config_note(cfg, "gradient clipping: off");
	if (rc)
		return rc;
	if (cfg->optimizer.weight_decay > 0 && cfg->optimizer.decay == ST_DECAY_MATRICES)
		rc = st_config_note(cfg,
				    "weight decay %g on matrices only (on all tensors, DeepSpeed's "
				    "way: strata.optimizer.decay \"all\")",
				    cfg->optimizer.weight_decay);
	else if (cfg->optimizer.weight_decay > 0)
		rc = st_config_note(cfg, "weight decay %g on all tensors",
				    cfg->optimizer.weight_decay);
	if (!rc)
		rc = note_rate(cfg);
	if (!rc && is_adam && cfg->optimizer.weight_decay > 0)
		rc = st_config_note(cfg, "optimizer Adam: weight decay is %s",
				    cfg->optimizer.kind == STRATA_OPTIM_ADAM
					    ? "added to the gradient (adam_w_mode false)"
					    : "decoupled, as AdamW's (adam_w_mode true)");
	if (!rc && !is_adam && !cfg->optimizer.adam_w_mode)
		rc = st_config_note(cfg, "optimizer.params.adam_w_mode: no effect with %s",
				    cfg->optimizer.type);
	if (!rc && cfg->dtype == ST_F32)
		rc = st_config_note(cfg, "training in fp32 (bf16.enabled is %s)",
				    is_given(cfg, "bf16.enabled") ? "false" : "not given");
	if (!rc && cfg->zero_stage && cfg->offload_param == ST_OFFLOAD_NONE &&
	    cfg->offload_optimizer == ST_OFFLOAD_NONE)
		rc = st_config_note(cfg,
				    "zero_optimization.stage %ju: one rank, so partitioning "
				    "changes nothing",
				    (uintmax_t)cfg->zero_stage);
	return rc;
}

int st_config_resolve(struct st_config *cfg)
{
	int rc = resolve_batch(cfg);

	if (!rc)
		rc = resolve_zero(cfg);
	if (!rc)
		rc = resolve_optimizer(cfg);
	if (!rc)
		rc = resolve_schedule(cfg);
	if (!rc)
		rc = resolve_model(cfg);
	if (rc)
		return rc;
	resolve_data(cfg);
	rc = resolve_precision(cfg);
	if (!rc)
		rc = note_training(cfg);
	return rc ? rc : note_keys(cfg);
}

int st_config_require_training(const struct st_config *cfg, bool needs_data)
{
	if (!cfg->model.name && !cfg->model.n_layer && !cfg->model.init_from)
		return st_fail(
			STRATA_E_CONFIG,
			"%s: no model; add \"strata\": {\"model\": \"gpt2\"}, or its dimensions",
			cfg->priv->name);
	if (needs_data && !cfg->data.train)
		return st_fail(
			STRATA_E_CONFIG,
			"%s: no training data; add \"strata\": {\"data\": {\"train\": \"FILE\"}}",
			cfg->priv->name);
	return 0;
}
