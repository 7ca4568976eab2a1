/* SPDX-License-Identifier: Apache-2.0 */
/* model/setup.c - configuration, device, model, data, plan. */
#include "model/setup.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "core/log.h"
#include "gpu/cuda/formats.h"
#include "model/hf.h"
#include "model/output.h"
#include "offload/search.h"

#define EVAL_MB_MAX 4u /* micro-batches that share one reading of the parameters */

static int load_config(struct st_setup *s, const char *path, const struct strata_options *opt)
{
	const char **sets = calloc(opt->n_sets + 2, sizeof(*sets));
	char *steps = NULL, *output = NULL;
	size_t n = opt->n_sets;
	int rc = -ENOMEM;

	if (!sets)
		goto out;
	for (size_t i = 0; i < opt->n_sets; i++) /* sets may be NULL when there are none */
		sets[i] = opt->sets[i];
	if (opt->steps) {
		if (asprintf(&steps, "strata.steps=%llu", (unsigned long long)opt->steps) < 0)
			goto out;
		sets[n++] = steps;
	}
	if (opt->output) { /* as a JSON string: "5" and "auto" are directories here */
		json_t *quoted = json_string(opt->output);
		char *text = quoted ? json_dumps(quoted, JSON_ENCODE_ANY) : NULL;
		int len = text ? asprintf(&output, "strata.output=%s", text) : -1;

		free(text);
		json_decref(quoted);
		if (!quoted)
			rc = st_fail(STRATA_E_CONFIG, "--output is not UTF-8");
		if (len < 0)
			goto out;
		sets[n++] = output;
	}
	rc = st_config_load(&s->cfg, path, sets, n);
out:
	free(sets);
	free(steps);
	free(output);
	return rc == -ENOMEM ? st_fail(rc, "configuration %s", path) : rc;
}

static int resolve_model(struct st_setup *s)
{
	const struct st_config *c = s->cfg;

	if (c->model.init_from) {
		if (access(c->model.init_from, F_OK))
			return st_config_fail(
				c, STRATA_E_CONFIG, "strata.model.init_from",
				"no directory \"%.160s\" is there; it holds model.safetensors and "
				"config.json, and nothing is downloaded",
				c->model.init_from);
		return st_hf_config_read(c->model.init_from, &s->gpt2);
	}
	if (c->model.name) {
		if (!st_gpt2_by_name(c->model.name, &s->gpt2))
			return st_config_fail(c, STRATA_E_CONFIG, "strata.model.name",
					      "\"%s\" is no model known here", c->model.name);
		return 0;
	}
	s->gpt2 = (struct st_gpt2_cfg){
		.n_layer = c->model.n_layer,
		.n_embd = c->model.n_embd,
		.n_head = c->model.n_head,
		.n_positions = c->model.n_positions,
		.vocab_size = c->model.vocab_size,
	};
	return 0;
}

/* A run goes on with the algorithms that it began with. */
static int give_choices_back(struct st_setup *s)
{
	char path[4096], *text;
	int rc = st_output_path(path, sizeof(path), s->cfg->output, ST_OUTPUT_DEVICE);

	/* Another device chooses nothing; that it is another one is said when the state is opened.
	 */
	if (rc || access(path, F_OK) || st_device_caps(s->device)->host_visible)
		return rc;
	text = calloc(1, ST_RUN_JSON_BYTES);
	if (!text)
		return st_fail(-ENOMEM, "%s", path);
	rc = st_output_read_run(s->cfg->output, ST_OUTPUT_DEVICE, text);
	if (!rc)
		rc = st_device_choose(s->device, text);
	free(text);
	return rc;
}

static int open_model(struct st_setup *s, bool resumes)
{
	const struct st_config *c = s->cfg;
	const struct st_device_cfg dev = {
		.type = c->device == ST_DEVICE_CUDA   ? "cuda"
			: c->device == ST_DEVICE_HOST ? "host"
						      : "auto",
		.dtype = c->dtype,
		.threads = (unsigned)c->threads,
	};
	size_t seq = c->data.seq_len ? c->data.seq_len : s->gpt2.n_positions;
	int rc;

	if (seq > s->gpt2.n_positions)
		return st_config_fail(c, STRATA_E_CONFIG, "strata.data.seq_len",
				      "is %zu, but the model has %zu positions; lower it", seq,
				      s->gpt2.n_positions);
	rc = st_device_open(&s->device, &dev);
	if (rc)
		return rc;
	s->chose_device = c->device == ST_DEVICE_AUTO;
	/* "All" is a number now, and "auto" a device: the state is tied to them, so a resume has to
	 * see them. */
	s->cfg->threads = st_device_caps(s->device)->threads;
	s->cfg->device =
		strcmp(st_device_caps(s->device)->type, "cuda") ? ST_DEVICE_HOST : ST_DEVICE_CUDA;
	if (resumes)
		rc = give_choices_back(s);
	if (rc)
		return rc;
	return st_gpt2_create(&s->model, &s->gpt2, c->micro_batch, seq, s->device, c->dtype);
}

static int open_data(struct st_setup *s)
{
	const struct st_config *c = s->cfg;
	bool blames_val = false;
	const struct st_data_cfg data = {
		.blames_val = &blames_val,
		.train = c->data.train,
		.val = c->data.val,
		.held_out = c->data.held_out,
		.format = c->data.format,
		.seq = s->model->seq,
		.vocab = s->model->vocab,
		.seed = c->seed,
	};
	uint64_t windows, mbs;
	int rc;

	if (!c->data.train)
		return 0;
	rc = st_data_open(&s->data, &data);
	if (rc == STRATA_E_INPUT)
		return st_config_fail(c, rc, blames_val ? "strata.data.val" : "strata.data.train",
				      "%.380s", strata_last_error());
	if (rc == STRATA_E_CONFIG) /* of what it looks at, the rest is checked before */
		return st_config_fail(c, rc, "strata.model.vocab_size", "%.380s",
				      strata_last_error());
	if (rc)
		return rc;
	windows = st_data_val_windows(s->data);
	if (c->data.eval_windows && c->data.eval_windows < windows)
		windows = c->data.eval_windows;
	mbs = windows / c->micro_batch ? windows / c->micro_batch : 1;
	s->n_eval_mb = EVAL_MB_MAX;
	while (mbs % s->n_eval_mb) /* none is left out */
		s->n_eval_mb--;
	s->n_eval_runs = (unsigned)(mbs / s->n_eval_mb);
	return 0;
}

/* Micro-batches of an evaluation: the data's, or where it was not read the most that it can make.
 */
static unsigned eval_mb(const struct st_setup *s)
{
	const struct st_config *c = s->cfg;
	uint64_t mbs = c->data.eval_windows ? c->data.eval_windows / c->micro_batch : EVAL_MB_MAX;

	if (s->data || !c->data.train)
		return s->n_eval_mb ? s->n_eval_mb : 1;
	return mbs > EVAL_MB_MAX ? EVAL_MB_MAX : mbs ? (unsigned)mbs : 1;
}

static enum st_home home_of(enum st_offload o)
{
	return o == ST_OFFLOAD_NVME  ? ST_HOME_NVME
	       : o == ST_OFFLOAD_CPU ? ST_HOME_HOST
				     : ST_HOME_DEVICE;
}

static struct st_formats formats_of(const struct st_config *c)
{
	return (struct st_formats){
		.dtype = c->dtype,
		.grad_dtype = c->grad_dtype,
		.moments = c->optimizer.moments,
		.optim = { .struct_bytes = sizeof(struct strata_optim_cfg),
			   .kind = c->optimizer.kind,
			   .beta1 = c->optimizer.betas[0],
			   .beta2 = c->optimizer.betas[1],
			   .eps = c->optimizer.eps,
			   .has_bias_correction = c->optimizer.bias_correction,
			   .momentum = c->optimizer.momentum,
			   .dampening = c->optimizer.dampening,
			   .is_nesterov = c->optimizer.nesterov,
			   .lr_decay = c->optimizer.lr_decay,
			   .seed = c->seed },
	};
}

static uint64_t configured_budget(const struct st_setup *s, enum st_arena_id arena)
{
	return arena == ST_ARENA_DEVICE ? s->cfg->device_bytes : s->cfg->host_bytes;
}

uint64_t st_setup_budget(const struct st_setup *s, enum st_arena_id arena)
{
	const struct st_hardware *hw = s->described;
	uint64_t asked = configured_budget(s, arena), memory = 0;

	if (hw)
		memory = (uint64_t)(arena == ST_ARENA_DEVICE
					    ? hw->device_memory_bytes
					    : hw->host_memory_bytes / hw->ranks_per_node);
	else if (arena == ST_ARENA_DEVICE)
		memory = st_device_caps(s->device)->memory_bytes;
	return asked && (!memory || asked < memory) ? asked : memory;
}

/* "As much as is useful" is 0, unless that is more than the described machine has. */
static uint64_t planned_budget(const struct st_setup *s, enum st_arena_id arena)
{
	return configured_budget(s, arena) || s->is_tight[arena] ? st_setup_budget(s, arena) : 0;
}

/* What is asked of the device: of the one that is open, or of the one that is described. */
static void plan_device(const struct st_setup *s, struct st_plan_cfg *plan)
{
	bool is_gpu = s->described && s->described->device_type == ST_HW_GPU;

	plan->copies = is_gpu || !st_device_caps(s->device)->host_visible;
	for (unsigned m = 0; m < ST_ARRAY_LEN(plan->updates); m++) {
		struct strata_optim_format f = st_formats_of(&plan->formats, m);

		plan->updates[m] =
			is_gpu ? st_cuda_can_step(&plan->formats.optim, &f)
			       : st_device_can_update(s->device, &plan->formats.optim, &f);
	}
}

struct st_plan_cfg st_setup_plan_cfg(const struct st_setup *s)
{
	const struct st_config *c = s->cfg;
	struct st_plan_cfg plan = {
		.model = s->model,
		.formats = formats_of(c),
		.n_mb = (unsigned)c->accum_steps,
		.n_eval_mb = eval_mb(s),
		.param_home = home_of(c->offload_param),
		.state_home = home_of(c->offload_optimizer),
		.needs_norm = c->gradient_clipping > 0 || c->fp16.enabled,
		.update = c->optimizer.update,
		.pins = true,
		.order = c->micro_batch_order,
		.recompute = c->recompute,
		.acts_on_host = c->cpu_checkpointing,
		.device_bytes = planned_budget(s, ST_ARENA_DEVICE),
		.host_bytes = planned_budget(s, ST_ARENA_HOST),
	};
	bool uses_nvme = plan.param_home == ST_HOME_NVME || plan.state_home == ST_HOME_NVME;

	plan.commits = uses_nvme && c->nvme.durability == ST_DURABILITY_STEP;
	plan.rest = uses_nvme && c->nvme.spill == ST_SPILL_AUTO ? ST_REST_FIT : ST_REST_MEMORY;
	plan.may_speculate = plan.commits && c->nvme.commit_every == 1;
	plan_device(s, &plan);
	return plan;
}

static int make_plan(struct st_setup *s, bool within_budgets)
{
	struct st_plan_cfg plan = st_setup_plan_cfg(s);

	if (!within_budgets) { /* as if nothing had room, so that the smallest budgets show */
		plan.device_bytes = plan.host_bytes = 0;
		plan.rest = plan.rest == ST_REST_FIT ? ST_REST_NVME : plan.rest;
	}
	return st_plan_create(&s->plan, &plan);
}

/* What trained bits depend on; never budgets, placement or paths. */
uint64_t st_setup_numeric_plan(const struct st_setup *s, unsigned moments_version)
{
	const struct st_config *c = s->cfg;
	const uint64_t numeric[] = {
		s->gpt2.n_layer,
		s->gpt2.n_embd,
		s->gpt2.n_head,
		s->gpt2.n_positions,
		s->gpt2.vocab_size,
		c->micro_batch,
		c->accum_steps,
		s->model->seq,
		c->dtype,
		c->grad_dtype,
		st_device_numeric_id(s->device),
		c->optimizer.kind,
		c->optimizer.decay,
		c->optimizer.moments == STRATA_MOMENTS_F32
			? 0 /* not rounded: of no version */
			: (uint64_t)moments_version << 8 | c->optimizer.moments,
		c->optimizer.momentum > 0,
	};

	return XXH3_64bits(numeric, sizeof(numeric));
}

static void hash_plans(struct st_setup *s)
{
	const struct st_config *c = s->cfg;
	const uint64_t data[] = {
		s->data ? st_data_fingerprint(s->data) : 0,
		s->data ? c->seed : 0,
		s->model->seq,
	};

	s->numeric_plan = st_setup_numeric_plan(s, STRATA_MOMENTS_VERSION);
	s->data_id = XXH3_64bits(data, sizeof(data));
}

static void fill_info(struct st_setup *s)
{
	const struct st_config *c = s->cfg;

	s->info = (struct strata_info){
		.n_params = s->model->n_params,
		.tokens_per_step = c->train_batch * s->model->seq,
		.seq_len = s->model->seq,
		.train_batch = c->train_batch,
		.micro_batch = c->micro_batch,
		.accum_steps = c->accum_steps,
		.vocab_size = s->model->vocab,
		.total_steps = c->steps,
		.steps_per_print = c->steps_per_print,
		.eval_every = c->eval_every,
		.flops_per_token = s->model->flops_per_token,
		.uses_nvme = c->nvme_paths.n > 0,
		.device = st_device_caps(s->device)->name,
		.output = c->output,
		.scales_loss = c->fp16.enabled,
	};
}

int st_setup_stops(const struct strata_options *opt)
{
	return opt->stops && opt->stops(opt->stops_user)
		       ? st_fail(STRATA_E_CANCELLED, "stopped before the first step.")
		       : 0;
}

int st_setup_model(struct st_setup *s, const char *config_path, const struct strata_options *opt,
		   bool needs_data)
{
	static const struct strata_options none = STRATA_OPTIONS_DEFAULT;
	int rc;

	memset(s, 0, sizeof(*s));
	if (!opt)
		opt = &none;
	if (opt->struct_bytes != sizeof(*opt))
		return st_fail(-EINVAL,
			       "strata_options.struct_bytes is %zu, not %zu: set it with"
			       " STRATA_OPTIONS_DEFAULT.",
			       opt->struct_bytes, sizeof(*opt));
	rc = strata_isa_from_env();
	if (!rc)
		rc = load_config(s, config_path, opt);
	if (!rc)
		rc = st_config_require_training(s->cfg, needs_data && !opt->brings_batches);
	if (!rc)
		rc = resolve_model(s);
	if (!rc)
		rc = open_model(s, opt->resume);
	if (!rc && needs_data)
		rc = open_data(s);
	if (!rc)
		rc = st_setup_stops(opt);
	if (rc) {
		st_setup_close(s);
		return rc;
	}
	s->store_paths = s->cfg->nvme_paths.n ? s->cfg->nvme_paths.v : &s->cfg->output;
	s->n_store_paths = s->cfg->nvme_paths.n ? s->cfg->nvme_paths.n : 1;
	hash_plans(s);
	fill_info(s);
	return 0;
}

/* What lives on the device is updated there, if it can. */
static void say_where_updates_run(const struct st_plan *p)
{
	const struct st_plan_cfg *c = &p->cfg;

	if (c->copies && c->param_home == ST_HOME_DEVICE && c->state_home == ST_HOME_DEVICE &&
	    !(c->updates[0] && c->updates[1]))
		st_log(ST_LOG_INFO,
		       "this device has no kernel for this optimizer in these formats: what lives "
		       "on it is copied, updated on the host and copied back");
}

static void take_sizes(struct st_setup *s)
{
	s->info.device_bytes = s->plan->arena_bytes[ST_ARENA_DEVICE];
	s->info.host_bytes = s->plan->arena_bytes[ST_ARENA_HOST];
	s->info.nvme_disk_bytes = st_plan_disk_bytes(s->plan, (unsigned)s->n_store_paths);
}

/* Without a budget, more is useful than the described machine has: that is the budget then. */
static bool exceeds_memory(struct st_setup *s)
{
	bool exceeds = false;

	for (unsigned a = 0; a < ST_ARENA_N; a++) {
		uint64_t memory = st_setup_budget(s, a);

		s->is_tight[a] =
			!configured_budget(s, a) && memory && s->plan->arena_bytes[a] > memory;
		exceeds |= s->is_tight[a];
	}
	return exceeds;
}

int st_setup_plan(struct st_setup *s, bool within_budgets)
{
	int rc;

	st_plan_destroy(s->plan);
	s->plan = NULL;
	rc = make_plan(s, within_budgets);
	if (!rc && within_budgets && exceeds_memory(s)) {
		st_plan_destroy(s->plan);
		s->plan = NULL;
		rc = make_plan(s, true);
	}
	if (!rc) {
		say_where_updates_run(s->plan);
		take_sizes(s);
	}
	return rc;
}

int st_setup_search(struct st_setup *s, const struct st_hardware *hw)
{
	int rc = st_plan_search(&s->plan, hw);

	if (!rc)
		take_sizes(s);
	return rc;
}

/* As strata plan would with what was measured for such a run, if anything was. */
static int search_with_kept_rates(struct st_setup *s)
{
	struct st_hardware hw;

	if (!st_planner_recall(s, &hw) || st_hardware_doubt(&hw, (double)time(NULL)))
		return 0;
	return st_setup_search(s, &hw);
}

/* The GPU that "auto" chose has not the memory, whatever the budgets. */
static bool is_gpu_too_small(struct st_setup *s)
{
	uint64_t memory = st_device_caps(s->device)->memory_bytes;
	struct st_error why;
	bool is_too_small = false;

	st_error_save(&why);
	if (s->chose_device && memory && !st_setup_plan(s, false))
		is_too_small = s->plan->min_bytes[ST_ARENA_DEVICE] > memory;
	(void)st_error_raise(&why);
	return is_too_small;
}

/* All of it again, with the processor for the GPU. */
static int set_up_on_host(struct st_setup *s, const char *config_path,
			  const struct strata_options *opt, bool needs_data)
{
	struct strata_options on_host = STRATA_OPTIONS_DEFAULT;
	const char **sets;
	int rc;

	st_log(ST_LOG_WARN, "device \"auto\": the processor, for the GPU's memory is too small: %s",
	       st_last_error());
	st_setup_close(s);
	if (opt)
		on_host = *opt;
	sets = calloc(on_host.n_sets + 1, sizeof(*sets));
	if (!sets)
		return st_fail(-ENOMEM, "configuration %s", config_path);
	for (size_t i = 0; i < on_host.n_sets; i++)
		sets[i] = on_host.sets[i];
	sets[on_host.n_sets++] = "strata.device.type=host";
	on_host.sets = sets;
	rc = st_setup_model(s, config_path, &on_host, needs_data);
	free(sets);
	return rc ? rc : st_setup_plan(s, true);
}

int st_setup_open(struct st_setup *s, const char *config_path, const struct strata_options *opt,
		  bool needs_data)
{
	int rc = st_setup_model(s, config_path, opt, needs_data);

	if (rc)
		return rc;
	rc = st_setup_plan(s, true);
	if (rc == STRATA_E_NO_FIT && is_gpu_too_small(s))
		rc = set_up_on_host(s, config_path, opt, needs_data);
	if (!rc)
		rc = search_with_kept_rates(s);
	if (!rc && opt)
		rc = st_setup_stops(opt);
	if (rc)
		st_setup_close(s);
	return rc;
}

void st_setup_close(struct st_setup *s)
{
	struct st_error last;

	st_error_save(&last);
	st_data_close(s->data);
	st_plan_destroy(s->plan);
	st_gpt2_destroy(s->model);
	st_device_close(s->device);
	st_config_destroy(s->cfg);
	memset(s, 0, sizeof(*s));
	(void)st_error_raise(&last);
}
