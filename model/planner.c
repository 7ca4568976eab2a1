/* SPDX-License-Identifier: Apache-2.0 */
/* model/planner.c - a configuration, planned, predicted and described; nothing is created. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "core/machine.h"
#include "model/setup.h"
#include "offload/measure.h"
#include "offload/predict.h"
#include "offload/rank.h"
#include "strata/train.h"

#define TILES_MAX    12000u /* of a plan in full; beyond, minutes would pass */
#define PARTS_MAX    (5 * ST_ARENA_N + ST_POOL_N + 2)
#define REMEDIES_MAX 2u
#define SETS_MAX     3u
#define MIB          ((uint64_t)1 << 20)

enum { TIER_DEVICE, TIER_HOST, TIER_NVME, TIER_N };

struct remedy_text {
	char set[SETS_MAX][96];
	const char *sets[SETS_MAX];
};

struct strata_plan {
	struct strata_plan_options how;
	struct st_setup setup;
	struct st_hardware hw;
	struct st_rank *rank; /* of a machine with several ranks, of another schedule, or of a model
			       * too large to plan by tiles; else NULL, and setup.plan says it */
	bool fits, has_time;
	char message[512], measured[64];
	struct strata_tier tiers[TIER_N];
	struct strata_plan_part parts[PARTS_MAX];
	size_t n_parts;
	struct strata_plan_unit *units; /* [n_units] */
	size_t n_units;
	struct strata_plan_time time;
	struct strata_plan_lane lanes[ST_LANE_N];
	size_t n_lanes;
	struct strata_plan_remedy remedies[REMEDIES_MAX];
	struct remedy_text remedy_texts[REMEDIES_MAX];
	size_t n_remedies;
};

/* ---- the machine --------------------------------------------------------------------------- */

static void say(const struct strata_options *opt, enum strata_log_level level, const char *line)
{
	if (opt && opt->log)
		opt->log(opt->log_user, level, line);
}

static char *cache_path(void)
{
	const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	char *path = NULL;
	int n = -1;

	if (cache && cache[0] == '/')
		n = asprintf(&path, "%s/strata/hardware.json", cache);
	else if (home && home[0] == '/')
		n = asprintf(&path, "%s/.cache/strata/hardware.json", home);
	return n < 0 ? NULL : path;
}

/* What a measurement depends on. */
static void cache_key(const struct st_setup *s, char *key, size_t bytes)
{
	struct st_machine_cpu cpu;
	size_t at;
	int n;

	st_machine_cpu("", &cpu);
	n = snprintf(key, bytes, "%s, %s, %s, %s, %s, %u.%u, %zu x %zu of %zu, %zu heads, on", "2",
		     cpu.model, st_device_caps(s->device)->name, st_dtype_name(s->cfg->dtype),
		     st_dtype_name(s->cfg->grad_dtype), s->cfg->optimizer.kind,
		     s->cfg->optimizer.moments, s->model->batch, s->model->seq, s->gpt2.n_embd,
		     s->gpt2.n_head);
	at = n < 0 ? 0 : (size_t)n;
	for (size_t i = 0; i < s->cfg->nvme_paths.n && at < bytes; i++) {
		struct stat st;
		bool is_there = stat(s->cfg->nvme_paths.v[i], &st) == 0;

		n = snprintf(key + at, bytes - at, " %llx",
			     is_there ? (unsigned long long)st.st_dev : 0ull);
		at += n < 0 ? 0 : (size_t)n;
	}
}

static struct st_measure_cfg measure_cfg(const struct st_setup *s)
{
	return (struct st_measure_cfg){
		.device = s->device,
		.formats = st_setup_plan_cfg(s).formats,
		.rows = s->model->batch * s->model->seq,
		.seq = s->model->seq,
		.n_embd = s->gpt2.n_embd,
		.n_head = s->gpt2.n_head,
		.paths = s->cfg->nvme_paths.v,
		.n_paths = s->cfg->nvme_paths.n,
		.aio = { .backend = s->cfg->nvme.backend,
			 .depth = (unsigned)s->cfg->aio.queue_depth,
			 .threads = (unsigned)s->cfg->aio.threads,
			 .block_bytes = s->cfg->aio.block_bytes },
	};
}

static int measure_here(struct strata_plan *p, const struct strata_options *opt, bool *is_known)
{
	const struct st_measure_cfg cfg = measure_cfg(&p->setup);
	char key[512], line[640], *path = cache_path();
	int rc = 0;

	cache_key(&p->setup, key, sizeof(key));
	if (p->how.measure == STRATA_MEASURE_CACHED && path &&
	    st_hardware_recall(&p->hw, path, key)) {
		const char *why = st_hardware_doubt(&p->hw, (double)time(NULL));

		if (!why) {
			free(path);
			return 0;
		}
		snprintf(line, sizeof(line), "what was measured before is not used: %s", why);
		say(opt, STRATA_LOG_INFO, line);
	}
	if (p->how.measure == STRATA_MEASURE_KEPT) {
		free(path);
		*is_known = st_planner_recall(&p->setup, &p->hw);
		return 0;
	}
	say(opt, STRATA_LOG_INFO,
	    "measuring this machine, some seconds (--no-measure: nominal rates)");
	rc = st_measure(&p->hw, &cfg);
	if (rc) {
		free(path);
		return rc;
	}
	if (st_hardware_doubt(&p->hw, (double)time(NULL))) {
		snprintf(
			line, sizeof(line),
			"other tasks ran beside the measurement (load %.1f a processor): rates may "
			"be too low, and the next plan measures again",
			p->hw.busy);
		say(opt, STRATA_LOG_WARN, line);
	}
	if (!path || st_hardware_keep(&p->hw, path, key)) {
		snprintf(line, sizeof(line), "what was measured is not kept: %s",
			 path ? strata_last_error() : "neither XDG_CACHE_HOME nor HOME is set");
		say(opt, STRATA_LOG_WARN, line);
	}
	free(path);
	return 0;
}

bool st_planner_recall(const struct st_setup *s, struct st_hardware *out)
{
	char key[512], *path = cache_path();
	bool is_kept;

	cache_key(s, key, sizeof(key));
	is_kept = path && st_hardware_recall(out, path, key);
	free(path);
	return is_kept;
}

/* @param is_known  out, false: no rates, and none wanted */
static int choose_rates(struct strata_plan *p, const struct strata_options *opt, bool *is_known)
{
	*is_known = true;
	if (p->how.hardware || p->how.skips_time) /* loaded before, or not needed */
		return 0;
	if (p->how.measure != STRATA_MEASURE_NEVER)
		return measure_here(p, opt, is_known);
	say(opt, STRATA_LOG_INFO, "nominal rates, nothing was measured");
	return 0;
}

/* ---- what lives where ---------------------------------------------------------------------- */

static void ST_PRINTF(4, 5)
	add_part(struct strata_plan *p, unsigned tier, uint64_t bytes, const char *fmt, ...)
{
	struct strata_plan_part *part = &p->parts[p->n_parts];
	va_list ap;

	if (!bytes)
		return;
	ST_ASSERT(p->n_parts < PARTS_MAX);
	part->tier = p->tiers[tier].name;
	part->bytes = bytes;
	va_start(ap, fmt);
	vsnprintf(part->what, sizeof(part->what), fmt, ap);
	va_end(ap);
	p->n_parts++;
}

enum { STAYS_PARAM, STAYS_STATE, STAYS_GRAD, STAYS_N };

/* What stays in a tier's memory for the whole run, by kind. */
static void count_resident(const struct strata_plan *p, uint64_t bytes[ST_ARENA_N][STAYS_N])
{
	const struct st_plan *plan = p->setup.plan;
	const struct st_layout *l = plan->layout;

	for (uint32_t t = 0; t < l->n_tiles; t++) {
		uint8_t on_nvme = plan->on_nvme[t];
		uint32_t u = l->tiles[t].unit;

		if (!(on_nvme & ST_ON_NVME_PARAM))
			bytes[plan->param_addr[u].arena][STAYS_PARAM] += st_tile_param_bytes(l, t);
		if (!(on_nvme & ST_ON_NVME_STATE))
			bytes[plan->state_addr[t].arena][STAYS_STATE] += st_tile_state_bytes(l, t);
		if (!(on_nvme & ST_ON_NVME_GRAD) && plan->mode[u] != ST_UPDATE_IMMEDIATE)
			bytes[plan->rest_addr[t].arena][STAYS_GRAD] += st_tile_grad_bytes(l, t);
	}
}

static void describe_resident(struct strata_plan *p, unsigned a, const uint64_t bytes[STAYS_N])
{
	static const char *const texts[STAYS_N] = {
		[STAYS_PARAM] = "parameters that stay",
		[STAYS_STATE] = "states that stay",
		[STAYS_GRAD] = "gradients that wait for their update",
	};

	for (unsigned k = 0; k < STAYS_N; k++)
		add_part(p, a, bytes[k], "%s", texts[k]);
}

static const char *resident_text(const struct strata_plan *p, unsigned arena)
{
	const struct st_rank_cfg *c = &p->rank->cfg;
	enum st_home here = arena == ST_ARENA_DEVICE ? ST_HOME_DEVICE : ST_HOME_HOST;

	if (c->param_home == here && c->state_home == here)
		return "parameters, states, gradients";
	return c->param_home == here   ? "parameters, gradients"
	       : c->state_home == here ? "states, gradients"
				       : "gradients";
}

static const char *pool_text(const struct strata_plan *p, unsigned pool)
{
	static const char *const texts[ST_POOL_N] = {
		[ST_POOL_PARAM] = "parameters in use or read ahead",
		[ST_POOL_ACCUM] = "fp32 gradient sums",
		[ST_POOL_ACT] = "activations",
		[ST_POOL_SAVED] = "what forward leaves for backward",
		[ST_POOL_WORK] = "workspace of operations",
		[ST_POOL_STATE] = "states in flight: staging",
		[ST_POOL_REST] = "gradients in flight: staging",
		[ST_POOL_STAGE] = "parameters on their way to the device: staging",
		[ST_POOL_ROUNDED] = "gradients on their way to the host",
		[ST_POOL_ACT_REST] = "activations at rest",
	};

	if (pool == ST_POOL_STATE && p->rank)
		return "states and shards in flight: staging";
	if (pool == ST_POOL_REST && p->rank)
		return "activations at rest, gradients in flight";
	return texts[pool];
}

static void describe_memory(struct strata_plan *p)
{
	const struct st_plan *plan = p->setup.plan;
	const struct st_rank *r = p->rank;
	const struct st_pool_place *places = r ? r->steady->place : plan->places;
	uint64_t resident[ST_ARENA_N][STAYS_N] = { { 0 } };

	if (!r)
		count_resident(p, resident);
	for (unsigned a = 0; a < ST_ARENA_N; a++) {
		uint64_t sum = 0, all;

		for (unsigned k = 0; k < STAYS_N; k++)
			sum += resident[a][k];
		sum += r ? r->resident_bytes[a] : 0;

		p->tiers[a] = (struct strata_tier){
			.name = a == ST_ARENA_DEVICE ? "device" : "host",
			.peak_bytes = r ? r->arena_bytes[a] : plan->arena_bytes[a],
			.smallest_bytes = r ? r->min_bytes[a] : plan->min_bytes[a],
			.budget_bytes = r ? r->budget_bytes[a] : st_setup_budget(&p->setup, a),
		};
		describe_resident(p, a, resident[a]);
		if (r)
			add_part(p, a, r->resident_bytes[a], "%s that stay", resident_text(p, a));
		for (unsigned pool = 0; pool < ST_POOL_N; pool++) {
			if (places[pool].arena != a)
				continue;
			add_part(p, a, places[pool].bytes, "%s", pool_text(p, pool));
			sum += places[pool].bytes;
		}
		all = p->tiers[a].peak_bytes;
		add_part(p, a, all > sum ? all - sum : 0, "rounding");
	}
}

/* ---- units --------------------------------------------------------------------------------- */

static const char *update_name(enum st_update u)
{
	return u == ST_UPDATE_IMMEDIATE  ? "immediate"
	       : u == ST_UPDATE_DEFERRED ? "deferred"
					 : "speculative";
}

/* What stays of a unit, and why just that. */
static void describe_pins(const struct strata_plan *p, uint32_t u, struct strata_plan_unit *out)
{
	const struct st_plan *plan = p->setup.plan;
	const struct st_plan_cfg *c = &plan->cfg;
	bool has_param = c->param_home == ST_HOME_NVME && strcmp(out->param_tier, "nvme") != 0;
	bool has_state = c->state_home == ST_HOME_NVME && out->state_kept_bytes;
	bool is_on_nvme = c->param_home == ST_HOME_NVME || c->state_home == ST_HOME_NVME;
	const char *what = has_param && has_state ? "parameters and states"
			   : has_param            ? "parameters"
						  : "states";

	out->is_pinned = has_param || has_state;
	if (out->is_pinned)
		snprintf(out->why, sizeof(out->why),
			 "%s stay%s: the budgets have room, and of the first layers' updates the "
			 "least is hidden; update: ",
			 what,
			 out->state_kept_bytes < out->state_bytes && has_state ? " in part" : "");
	else if (is_on_nvme)
		snprintf(out->why, sizeof(out->why), "%s; update: ",
			 c->device_bytes || c->host_bytes ? "no room in the budgets to stay"
							  : "no budget to stay in");
}

/* Whether the device updates a tile; if not, why not. */
static const char *host_reason(const struct st_plan *plan, uint32_t tile)
{
	uint8_t on = plan->on_nvme[tile];

	if (st_plan_updates_on_device(plan, tile))
		return NULL;
	if (on & ST_ON_NVME_STATE)
		return "its states live on nvme";
	if (plan->state_addr[tile].arena != ST_ARENA_DEVICE)
		return "its states live in host memory";
	if (on & ST_ON_NVME_PARAM)
		return "its parameters live on nvme";
	if (!st_plan_has_param(plan, plan->layout->tiles[tile].unit, ST_ARENA_DEVICE))
		return "its parameters live in host memory";
	if (on & ST_ON_NVME_GRAD)
		return "its gradient rests on nvme";
	return "the device has no kernel for this optimizer in these formats";
}

/* Which processor updates a unit, and why that one. */
static void describe_where(const struct strata_plan *p, uint32_t u, struct strata_plan_unit *out)
{
	const struct st_plan *plan = p->setup.plan;
	const struct st_layout *l = plan->layout;
	uint32_t n_here = 0, first = l->unit_first_tile[u], end = l->unit_first_tile[u + 1];

	out->updated_on = "host";
	out->updated_why = "";
	if (!plan->cfg.copies)
		return;
	for (uint32_t t = first; t < end; t++) {
		const char *reason = host_reason(plan, t);

		n_here += !reason;
		out->updated_why = reason ? reason : out->updated_why;
	}
	if (n_here == end - first)
		out->updated_why = "its parameters, states and gradient live there";
	if (n_here)
		out->updated_on = n_here < end - first ? "device and host" : "device";
}

static int describe_units(struct strata_plan *p)
{
	const struct st_plan *plan = p->setup.plan;
	const struct st_layout *l = plan ? plan->layout : NULL;

	if (p->rank)
		return 0;
	free(p->units);
	p->units = calloc(l->n_units, sizeof(*p->units));
	if (!p->units)
		return st_fail(-ENOMEM, "plan");
	p->n_units = l->n_units;
	for (uint32_t u = 0; u < l->n_units; u++) {
		struct strata_plan_unit *out = &p->units[u];
		uint32_t first = l->unit_first_tile[u];
		size_t n;

		out->name = l->model->units[u].name;
		out->param_tier = plan->on_nvme[first] & ST_ON_NVME_PARAM
					  ? p->tiers[TIER_NVME].name
					  : p->tiers[plan->param_addr[u].arena].name;
		out->update = update_name(plan->mode[u]);
		for (uint32_t t = first; t < l->unit_first_tile[u + 1]; t++) {
			uint8_t on = plan->on_nvme[t];
			bool rests = plan->mode[u] != ST_UPDATE_IMMEDIATE;

			out->param_bytes += st_tile_param_bytes(l, t);
			out->state_bytes += st_tile_state_bytes(l, t);
			out->state_kept_bytes +=
				on & ST_ON_NVME_STATE ? 0 : st_tile_state_bytes(l, t);
			out->grad_bytes += rests ? st_tile_grad_bytes(l, t) : 0;
			out->grad_kept_bytes +=
				rests && !(on & ST_ON_NVME_GRAD) ? st_tile_grad_bytes(l, t) : 0;
		}
		describe_pins(p, u, out);
		n = strlen(out->why);
		snprintf(out->why + n, sizeof(out->why) - n, "%s", st_why_text(plan->why[u]));
		describe_where(p, u, out);
	}
	return 0;
}

/* Free bytes of the file systems that the paths are on, each counted once; 0: a path is not there.
 */
static uint64_t free_bytes(const struct strata_plan *p)
{
	const struct st_strings *paths = &p->setup.cfg->nvme_paths;
	dev_t seen[ST_CONFIG_PATHS_MAX];
	uint64_t sum = 0;
	size_t n = 0;

	for (size_t i = 0; i < paths->n; i++) {
		struct statvfs vfs;
		struct stat st;
		bool is_new = true;

		if (stat(paths->v[i], &st) || statvfs(paths->v[i], &vfs))
			return 0;
		for (size_t k = 0; k < n; k++)
			is_new &= seen[k] != st.st_dev;
		if (!is_new)
			continue;
		seen[n++] = st.st_dev;
		sum += (uint64_t)vfs.f_bavail * vfs.f_frsize;
	}
	return sum;
}

/* A run that is there already has its space. */
static bool has_run(const struct strata_plan *p)
{
	char path[PATH_MAX];
	int n = snprintf(path, sizeof(path), "%s/run.json", p->setup.cfg->output);

	return n > 0 && (size_t)n < sizeof(path) && access(path, F_OK) == 0;
}

static void describe_drives(struct strata_plan *p)
{
	bool is_used = p->setup.cfg->nvme_paths.n > 0;
	uint64_t disk = p->rank ? p->rank->disk_bytes : p->setup.info.nvme_disk_bytes;
	uint64_t scratch = p->rank ? 0 : p->setup.plan->scratch_bytes;
	struct strata_tier *t = &p->tiers[TIER_NVME];

	*t = (struct strata_tier){ .name = "nvme", .peak_bytes = disk, .smallest_bytes = disk };
	if (p->how.hardware)
		t->budget_bytes = (uint64_t)(p->hw.drive_bytes / p->hw.ranks_per_node);
	else if (is_used && !has_run(p))
		t->budget_bytes = free_bytes(p);
	if (!is_used && p->rank)
		t->peak_bytes = t->smallest_bytes = disk = 0;
	add_part(p, TIER_NVME, scratch, "spilled gradients: scratch");
	add_part(p, TIER_NVME, disk - scratch,
		 p->how.schedule == STRATA_SCHEDULE_STRATA ? "two slots of each extent, tables"
							   : "one file of each tensor");
}

/* ---- does it fit --------------------------------------------------------------------------- */

static bool is_fitting(struct strata_plan *p)
{
	static const char *const keys[] = { "strata.device.memory", "strata.host.memory" };

	for (unsigned t = 0; t < TIER_N; t++) {
		const struct strata_tier *tier = &p->tiers[t];

		if (!tier->budget_bytes || tier->smallest_bytes <= tier->budget_bytes)
			continue;
		if (t == TIER_NVME)
			snprintf(
				p->message, sizeof(p->message),
				"the drives have %.1f GB free and %.1f GB are needed: name another "
				"nvme_path, or a smaller model",
				(double)tier->budget_bytes / 1e9,
				(double)tier->smallest_bytes / 1e9);
		else
			snprintf(p->message, sizeof(p->message),
				 "%s memory of %.1f MiB is too small: the smallest that works is "
				 "\"%s\": \"%lluMiB\"",
				 tier->name, (double)tier->budget_bytes / (double)MIB, keys[t],
				 (unsigned long long)((tier->smallest_bytes + MIB - 1) / MIB));
		return false;
	}
	return true;
}

static void ST_PRINTF(3, 4)
	add_set(struct strata_plan *p, struct strata_plan_remedy *r, const char *fmt, ...)
{
	struct remedy_text *text = &p->remedy_texts[r - p->remedies];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text->set[r->n_sets], sizeof(text->set[0]), fmt, ap);
	va_end(ap);
	text->sets[r->n_sets] = text->set[r->n_sets];
	r->sets = text->sets;
	r->n_sets++;
}

/* The smallest budgets of the tiers that are too small; a described machine has what it has. */
static void suggest_budgets(struct strata_plan *p)
{
	struct strata_plan_remedy *r = &p->remedies[p->n_remedies];

	for (unsigned t = 0; t < TIER_NVME; t++) {
		const struct strata_tier *tier = &p->tiers[t];
		double memory = t == TIER_DEVICE ? p->hw.device_memory_bytes
						 : p->hw.host_memory_bytes / p->hw.ranks_per_node;

		if (!tier->budget_bytes || tier->smallest_bytes <= tier->budget_bytes)
			continue;
		if (p->how.hardware && memory > 0 && (double)tier->smallest_bytes > memory)
			return;
		add_set(p, r, "strata.%s.memory=%lluMiB", tier->name,
			(unsigned long long)((tier->smallest_bytes + MIB - 1) / MIB));
	}
	if (!r->n_sets)
		return;
	snprintf(r->what, sizeof(r->what), "the smallest budgets with this micro-batch");
	p->n_remedies++;
}

static int plan_it(struct strata_plan *p, bool within_budgets);
static int open_setup(struct strata_plan *p, const char *config_path,
		      const struct strata_options *opt);

/* Does it fit with a micro-batch so small? Planned, not estimated. @return 1, 0, or <0 */
static int try_micro_batch(const struct strata_plan *p, const char *config_path,
			   const struct strata_options *opt, const char *const sets[SETS_MAX])
{
	struct strata_plan *small = calloc(1, sizeof(*small));
	struct strata_options with = opt ? *opt : (struct strata_options)STRATA_OPTIONS_DEFAULT;
	const char **all = calloc(with.n_sets + SETS_MAX, sizeof(*all));
	int rc = -ENOMEM;

	if (!small || !all)
		goto out;
	for (size_t i = 0; i < with.n_sets; i++)
		all[i] = with.sets[i];
	for (size_t i = 0; i < SETS_MAX; i++)
		all[with.n_sets++] = sets[i];
	with.sets = all;
	small->how = p->how;
	small->hw = p->hw;
	rc = open_setup(small, config_path, &with);
	if (!rc) {
		rc = plan_it(small, true);
		rc = rc == STRATA_E_NO_FIT ? 0
		     : rc                  ? rc
					   : !small->rank || st_rank_fits(small->rank);
		st_rank_destroy(small->rank);
		st_setup_close(&small->setup);
	}
out:
	free(all);
	free(small);
	return rc;
}

/* The largest smaller micro-batch that fits, the step being as large as it was. */
static int suggest_micro_batch(struct strata_plan *p, const char *config_path,
			       const struct strata_options *opt)
{
	const struct st_config *c = p->setup.cfg;
	uint64_t accum = c->accum_steps;

	for (uint64_t mb = c->micro_batch; mb > 1 && mb % 2 == 0;) {
		struct strata_plan_remedy *r = &p->remedies[p->n_remedies];
		int rc;

		mb /= 2;
		accum *= 2;
		r->n_sets = 0;
		add_set(p, r, "train_micro_batch_size_per_gpu=%llu", (unsigned long long)mb);
		add_set(p, r, "gradient_accumulation_steps=%llu", (unsigned long long)accum);
		add_set(p, r, "train_batch_size=%llu", (unsigned long long)c->train_batch);
		rc = try_micro_batch(p, config_path, opt, r->sets);
		if (rc < 0)
			return rc;
		if (!rc)
			continue;
		snprintf(r->what, sizeof(r->what),
			 "a smaller micro-batch within these budgets, the same step");
		p->n_remedies++;
		return 0;
	}
	p->remedies[p->n_remedies].n_sets = 0;
	return 0;
}

/* ---- time ---------------------------------------------------------------------------------- */

static const struct st_program *steady(const struct strata_plan *p)
{
	return p->rank ? p->rank->steady : st_plan_steady(p->setup.plan);
}

static int predict_steps(const struct strata_plan *p, const struct st_program *first,
			 const struct st_program *each, struct st_prediction *out)
{
	const struct st_predict_cfg cfg = {
		.hw = &p->hw,
		.model = p->setup.model,
		.layout = p->rank ? NULL : p->setup.plan->layout,
		.dtype = p->setup.cfg->dtype,
		.first = first,
		.steady = each,
	};

	return st_predict(out, &cfg);
}

static void take_lanes(struct strata_plan *p, const struct st_prediction *out)
{
	for (unsigned l = 0; l < ST_LANE_N; l++) {
		const struct st_predict_lane *lane = &out->lane[l];

		if (l == ST_LANE_GATE || (!lane->bytes && !(lane->work_s > 0)))
			continue;
		p->lanes[p->n_lanes++] = (struct strata_plan_lane){
			st_lane_name(l), lane->busy_s, lane->wait_s, lane->work_s, lane->bytes,
		};
	}
}

static int predict(struct strata_plan *p)
{
	const struct st_plan *plan = p->setup.plan;
	struct st_prediction out, clipped;
	int rc = predict_steps(p,
			       p->rank            ? p->rank->first
			       : plan->speculates ? plan->program[ST_VARIANT_SPECULATE]
						  : plan->program[ST_VARIANT_STEP],
			       steady(p), &out);

	clipped = out;
	/* Where each step clips, nothing is done on speculation. */
	if (!rc && !p->rank && plan->speculates)
		rc = predict_steps(p, plan->program[ST_VARIANT_STEP],
				   plan->program[ST_VARIANT_STEP + ST_DUE_ALL], &clipped);
	if (rc)
		return rc;
	p->time = (struct strata_plan_time){
		.step_s = out.step_s,
		.step_clipped_s = clipped.step_s,
		.bound_s = out.bound_s,
		.bound_by_phase_s = out.bound_by_phase_s,
		.forward_s = out.forward_s,
		.backward_s = out.backward_s,
		.rest_s = out.rest_s,
		.limiting_lane = st_lane_name(out.limiting),
		.hardware = p->hw.name,
		.source = p->hw.source,
		.measured = st_hardware_when(&p->hw, p->measured),
		.nominal = p->hw.nominal,
		.ranks = p->how.hardware ? st_hardware_ranks(&p->hw) : 1,
		.is_coarse = p->rank != NULL,
	};
	p->n_lanes = 0;
	take_lanes(p, &out);
	p->has_time = true;
	return 0;
}

/* ---- opening ------------------------------------------------------------------------------- */

static size_t count_tiles(const struct st_model *m)
{
	size_t n = 0;

	for (unsigned u = 0; u < m->n_units; u++)
		n += m->units[u].elems / ST_STORAGE_TILE + 1;
	return n;
}

/* Whether the plan of every storage tile is made, or the coarse one of a rank. */
static bool is_by_tiles(const struct strata_plan *p)
{
	return p->how.schedule == STRATA_SCHEDULE_STRATA && st_hardware_ranks(&p->hw) <= 1 &&
	       count_tiles(p->setup.model) <= TILES_MAX;
}

static int plan_rank(struct strata_plan *p)
{
	static const enum st_rank_style styles[] = {
		[STRATA_SCHEDULE_STRATA] = ST_RANK_STRATA,
		[STRATA_SCHEDULE_DEEPSPEED] = ST_RANK_DEEPSPEED,
		[STRATA_SCHEDULE_DEEPSPEED_PIPELINED] = ST_RANK_DEEPSPEED_PIPELINED,
		[STRATA_SCHEDULE_SERIAL] = ST_RANK_SERIAL,
	};
	const struct st_plan_cfg c = st_setup_plan_cfg(&p->setup);
	bool is_at_once = c.update == ST_UPDATE_IMMEDIATE || c.update == ST_UPDATE_SPECULATIVE ||
			  (c.update == ST_UPDATE_AUTO && !c.needs_norm);
	struct st_rank_cfg cfg = {
		.model = p->setup.model,
		.hw = &p->hw,
		.dtype = c.formats.dtype,
		.n_mb = c.n_mb,
		.param_home = c.param_home,
		.state_home = c.state_home,
		.update = is_at_once ? ST_UPDATE_IMMEDIATE : ST_UPDATE_DEFERRED,
		.recompute = c.recompute,
		.acts_on_host = c.acts_on_host,
		.spills_grads = !is_at_once && c.rest == ST_REST_NVME,
		.commits = c.commits,
		.style = styles[p->how.schedule],
		.device_bytes = c.device_bytes,
		.host_bytes = c.host_bytes,
	};
	int rc = st_rank_create(&p->rank, &cfg);

	if (!rc && !st_rank_fits(p->rank) && !is_at_once && c.rest == ST_REST_FIT) {
		st_rank_destroy(p->rank);
		p->rank = NULL;
		cfg.spills_grads = true;
		rc = st_rank_create(&p->rank, &cfg);
	}
	return rc;
}

static int plan_it(struct strata_plan *p, bool within_budgets)
{
	return is_by_tiles(p) ? st_setup_plan(&p->setup, within_budgets) : plan_rank(p);
}

static int load_hardware(struct strata_plan *p)
{
	st_hardware_default(&p->hw);
	return p->how.hardware ? st_hardware_load(&p->hw, p->how.hardware) : 0;
}

/* A described machine's device cannot be opened here: the model's shapes come from the host's. What
 * is in p->hw is kept there from then on. */
static int open_setup(struct strata_plan *p, const char *config_path,
		      const struct strata_options *opt)
{
	struct strata_options with = opt ? *opt : (struct strata_options)STRATA_OPTIONS_DEFAULT;
	const char **sets;
	int rc;

	if (!p->how.hardware)
		return st_setup_model(&p->setup, config_path, opt, false);
	sets = calloc(with.n_sets + 1, sizeof(*sets));
	if (!sets)
		return st_fail(-ENOMEM, "plan");
	for (size_t i = 0; i < with.n_sets; i++)
		sets[i] = with.sets[i];
	sets[with.n_sets++] = "strata.device.type=host";
	with.sets = sets;
	rc = st_setup_model(&p->setup, config_path, &with, false);
	free(sets);
	p->setup.described = &p->hw;
	return rc;
}

static int describe(struct strata_plan *p)
{
	p->n_parts = 0;
	describe_memory(p);
	describe_drives(p);
	return describe_units(p);
}

/* With rates that are neither made up nor in doubt the plan is what they say it should be. */
static int improve(struct strata_plan *p, bool is_known)
{
	const struct st_plan *before = p->setup.plan;
	struct st_hardware hw = p->hw;
	bool is_known_here = is_known && !p->how.skips_time;
	int rc;

	if (p->rank || (!p->how.hardware && p->how.measure == STRATA_MEASURE_NEVER))
		return 0;
	if (!p->how.hardware && !is_known_here && !st_planner_recall(&p->setup, &hw))
		return 0;
	if (!p->how.hardware && st_hardware_doubt(&hw, (double)time(NULL)))
		return 0;
	rc = st_setup_search(&p->setup, &hw);
	return rc || p->setup.plan == before ? rc : describe(p);
}

static int make(struct strata_plan *p, const char *config_path, const struct strata_options *opt)
{
	int rc = plan_it(p, true);
	bool is_known;

	p->fits = true;
	if (rc == STRATA_E_NO_FIT) { /* what would it need? */
		snprintf(p->message, sizeof(p->message), "%s", strata_last_error());
		p->fits = false;
		rc = plan_it(p, false);
	}
	if (rc)
		return rc;
	rc = describe(p);
	if (rc)
		return rc;
	p->fits = is_fitting(p) && p->fits;
	if (!p->fits) {
		suggest_budgets(p);
		return suggest_micro_batch(p, config_path, opt);
	}
	rc = choose_rates(p, opt, &is_known);
	if (!rc)
		rc = improve(p, is_known);
	return rc || !is_known || p->how.skips_time ? rc : predict(p);
}

int strata_plan_open(struct strata_plan **out, const char *config_path,
		     const struct strata_options *opt, const struct strata_plan_options *how)
{
	struct strata_plan *p = calloc(1, sizeof(*p));
	int rc = 0;

	if (!p)
		return st_fail(-ENOMEM, "plan");
	if (how)
		p->how = *how;
	if (how && how->struct_bytes != sizeof(*how))
		rc = st_fail(-EINVAL,
			     "strata_plan_options.struct_bytes is %zu, not %zu: set it with"
			     " STRATA_PLAN_OPTIONS_DEFAULT.",
			     how->struct_bytes, sizeof(*how));
	if (!rc && (unsigned)p->how.schedule > STRATA_SCHEDULE_SERIAL)
		rc = st_fail(-EINVAL, "strata_plan_options.schedule is %u, which is none.",
			     (unsigned)p->how.schedule);
	if (!rc)
		rc = load_hardware(p);
	if (!rc)
		rc = open_setup(p, config_path, opt);
	if (!rc)
		rc = make(p, config_path, opt);
	if (rc) {
		strata_plan_close(p);
		return rc;
	}
	*out = p;
	return 0;
}

void strata_plan_close(struct strata_plan *p)
{
	struct st_error last;

	if (!p)
		return;
	st_error_save(&last);
	st_rank_destroy(p->rank);
	if (p->setup.cfg)
		st_setup_close(&p->setup);
	free(p->units);
	free(p);
	(void)st_error_raise(&last);
}

/* ---- asking -------------------------------------------------------------------------------- */

const struct st_setup *st_planner_setup(const struct strata_plan *p)
{
	return &p->setup;
}

int st_planner_measure(const struct strata_plan *p, struct st_hardware *out)
{
	struct st_measure_cfg cfg = measure_cfg(&p->setup);
	uint64_t read, write;

	strata_plan_bytes_per_step(p, &read, &write);
	cfg.read_share = read + write ? (double)read / (double)(read + write) : 0;
	return st_measure(out, &cfg);
}

int st_planner_predict(struct strata_plan *p, const struct st_hardware *hw)
{
	p->hw = *hw;
	return predict(p);
}

const struct strata_info *strata_plan_info(const struct strata_plan *p)
{
	return &p->setup.info;
}

bool strata_plan_fits(const struct strata_plan *p, const char **message)
{
	if (message)
		*message = p->message;
	return p->fits;
}

const struct strata_plan_remedy *strata_plan_remedies(const struct strata_plan *p, size_t *n)
{
	*n = p->n_remedies;
	return p->remedies;
}

const struct strata_tier *strata_plan_tiers(const struct strata_plan *p, size_t *n)
{
	*n = TIER_N;
	return p->tiers;
}

const struct strata_plan_part *strata_plan_parts(const struct strata_plan *p, size_t *n)
{
	*n = p->n_parts;
	return p->parts;
}

const struct strata_plan_unit *strata_plan_units(const struct strata_plan *p, size_t *n)
{
	*n = p->n_units;
	return p->units;
}

uint64_t strata_plan_pinned_bytes(const struct strata_plan *p)
{
	return p->rank ? 0 : p->setup.plan->pinned_bytes;
}

const struct strata_plan_time *strata_plan_time(const struct strata_plan *p)
{
	return p->has_time ? &p->time : NULL;
}

const struct strata_plan_lane *strata_plan_lanes(const struct strata_plan *p, size_t *n)
{
	*n = p->n_lanes;
	return p->lanes;
}

void strata_plan_bytes_per_step(const struct strata_plan *p, uint64_t *read, uint64_t *write)
{
	*read = steady(p)->lane_bytes[ST_LANE_READ];
	*write = steady(p)->lane_bytes[ST_LANE_WRITE];
}

double strata_plan_wear(const struct strata_plan *p)
{
	uint64_t read, write;

	if (!(p->hw.written_bytes_rated > 0))
		return 0;
	strata_plan_bytes_per_step(p, &read, &write);
	return 1000 * (double)write * p->hw.ranks_per_node / p->hw.written_bytes_rated;
}

/* ---- lines --------------------------------------------------------------------------------- */

static const char *home_name(enum st_home h)
{
	return h == ST_HOME_DEVICE ? "device" : h == ST_HOME_HOST ? "host" : "nvme";
}

static void update_text(const struct strata_plan *p, char *line, size_t n)
{
	const struct st_plan *plan = p->setup.plan;
	unsigned count[ST_UPDATE_SPECULATIVE + 1] = { 0 };
	const char *rest = "nowhere";

	if (p->how.schedule != STRATA_SCHEDULE_STRATA) {
		snprintf(line, n, "updates are a phase after backward, as DeepSpeed does it");
		return;
	}
	for (uint32_t u = 0; u < p->setup.model->n_units; u++)
		count[p->rank ? p->rank->cfg.update : plan->mode[u]]++;
	if (count[ST_UPDATE_DEFERRED] + count[ST_UPDATE_SPECULATIVE])
		rest = (p->rank ? p->rank->cfg.spills_grads : plan->scratch_bytes > 0)
			       ? "on nvme where they do not fit the host budget"
		       : !p->rank && plan->cfg.copies ? "in memory"
						      : "in host memory";
	if (count[ST_UPDATE_SPECULATIVE])
		snprintf(
			line, n,
			"updates: %u units in backward on speculation that the step does not clip, "
			"%u in the next forward; gradients rest %s",
			count[ST_UPDATE_SPECULATIVE], count[ST_UPDATE_DEFERRED], rest);
	else if (count[ST_UPDATE_IMMEDIATE] && count[ST_UPDATE_DEFERRED])
		snprintf(line, n,
			 "updates: %u units in backward, %u in the next forward; gradients that "
			 "wait for them rest %s",
			 count[ST_UPDATE_IMMEDIATE], count[ST_UPDATE_DEFERRED], rest);
	else
		snprintf(line, n, "updates are %s; gradients that wait for them rest %s",
			 count[ST_UPDATE_DEFERRED] ? "deferred to the next forward"
						   : "immediate, inside backward",
			 rest);
}

/* Of a device with memory of its own. */
static bool where_text(const struct strata_plan *p, char *line, size_t n)
{
	const struct st_plan *plan = p->setup.plan;
	uint32_t n_tiles = plan->layout->n_tiles, n_there = 0;

	for (uint32_t t = 0; t < n_tiles; t++)
		n_there += st_plan_updates_on_device(plan, t);
	if (n_there == n_tiles)
		snprintf(line, n, "updates run on the device");
	else if (!n_there)
		snprintf(line, n, "updates run on the host, beside the device");
	else
		snprintf(line, n, "updates of %u tiles run on the device, of %u on the host",
			 n_there, n_tiles - n_there);
	return true;
}

static bool summary_line(const struct strata_plan *p, size_t i, char *line, size_t n)
{
	const struct st_plan_cfg c = st_setup_plan_cfg(&p->setup);
	bool is_ds = p->how.schedule != STRATA_SCHEDULE_STRATA;

	switch (i) {
	case 0:
		snprintf(line, n, "parameters live on %s, optimizer states on %s, in %zu tiles",
			 home_name(c.param_home), home_name(c.state_home),
			 p->rank ? count_tiles(c.model) : p->setup.plan->layout->n_tiles);
		return true;
	case 1:
		update_text(p, line, n);
		return true;
	case 2:
		snprintf(line, n,
			 "%u micro-batches of %zu x %zu tokens, %s order; activations are %s",
			 c.n_mb, c.model->batch, c.model->seq,
			 c.order == ST_ORDER_VERTICAL && !is_ds ? "vertical" : "horizontal",
			 c.recompute ? "computed again in backward" : "kept");
		return true;
	case 3:
		snprintf(line, n, "%s",
			 is_ds       ? "nothing is durable but a checkpoint"
			 : c.commits ? "every step is committed to nvme"
				     : "state is committed when the run stops");
		return true;
	case 4:
		return !p->rank && c.copies && where_text(p, line, n);
	default:
		return false;
	}
}

bool strata_plan_line(const struct strata_plan *p, const char *what, size_t i, char *line,
		      size_t line_bytes)
{
	const struct st_program *prog = steady(p);

	if (strcmp(what, "summary") == 0)
		return summary_line(p, i, line, line_bytes);
	if (strcmp(what, "program") != 0 || i >= prog->n_ops)
		return false;
	st_program_print(prog, (uint32_t)i, line, line_bytes);
	return true;
}
