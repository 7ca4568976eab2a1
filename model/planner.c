/* SPDX-License-Identifier: Apache-2.0 */
/* model/planner.c - a configuration, planned and described; nothing is created. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/setup.h"
#include "strata/train.h"

enum { TIER_DEVICE, TIER_HOST, TIER_NVME, TIER_N };

struct strata_plan {
	struct st_setup setup;
	struct strata_tier tiers[TIER_N];
};

int strata_plan_open(struct strata_plan **out, const char *config_path,
		     const struct strata_options *opt)
{
	struct strata_plan *p = calloc(1, sizeof(*p));
	const struct st_plan *plan;
	int rc;

	if (!p)
		return st_fail(-ENOMEM, "plan");
	rc = st_setup_open(&p->setup, config_path, opt, false);
	if (rc) {
		free(p);
		return rc;
	}
	plan = p->setup.plan;
	for (unsigned a = 0; a < ST_ARENA_N; a++)
		p->tiers[a] = (struct strata_tier){
			.name = a == ST_ARENA_DEVICE ? "device" : "host",
			.peak_bytes = plan->arena_bytes[a],
			.budget_bytes = a == ST_ARENA_DEVICE ? plan->cfg.device_bytes
							     : plan->cfg.host_bytes,
			.smallest_bytes = plan->min_bytes[a],
		};
	p->tiers[TIER_NVME] = (struct strata_tier){
		.name = "nvme",
		.peak_bytes = p->setup.info.nvme_disk_bytes,
		.smallest_bytes = p->setup.info.nvme_disk_bytes,
	};
	*out = p;
	return 0;
}

void strata_plan_close(struct strata_plan *p)
{
	if (!p)
		return;
	st_setup_close(&p->setup);
	free(p);
}

const struct strata_info *strata_plan_info(const struct strata_plan *p)
{
	return &p->setup.info;
}

const struct strata_tier *strata_plan_tiers(const struct strata_plan *p, size_t *n)
{
	*n = TIER_N;
	return p->tiers;
}

void strata_plan_bytes_per_step(const struct strata_plan *p, uint64_t *read, uint64_t *write)
{
	*read = st_plan_read_bytes(p->setup.plan);
	*write = st_plan_write_bytes(p->setup.plan);
}

static const char *home_name(enum st_home h)
{
	return h == ST_HOME_DEVICE ? "device" : h == ST_HOME_HOST ? "host" : "nvme";
}

static bool summary_line(const struct strata_plan *p, size_t i, char *line, size_t n)
{
	const struct st_plan *plan = p->setup.plan;
	const struct st_plan_cfg *c = &plan->cfg;
	size_t pool = i - 4;

	switch (i) {
	case 0:
		snprintf(line, n, "parameters live on %s, optimizer states on %s, in %u tiles",
			 home_name(c->param_home), home_name(c->state_home), plan->layout->n_tiles);
		return true;
	case 1:
		snprintf(line, n, "updates are %s; gradients that wait for them rest %s",
			 c->update == ST_UPDATE_DEFERRED ? "deferred to the next forward"
							 : "immediate, inside backward",
			 !plan->has_pending ? "nowhere"
			 : plan->scratch_bytes ? "on nvme where they do not fit the host budget"
					    : "in host memory");
		return true;
	case 2:
		snprintf(line, n,
			 "%u micro-batches of %zu x %zu tokens, %s order; activations are %s",
			 c->n_mb, c->model->batch, c->model->seq,
			 c->order == ST_ORDER_VERTICAL ? "vertical" : "horizontal",
			 c->recompute ? "computed again in backward" : "kept");
		return true;
	case 3:
		snprintf(line, n, "%s",
			 c->commits ? "every step is committed to nvme"
				    : "state is committed when the run stops");
		return true;
	default:
		if (pool >= ST_POOL_N)
			return false;
		snprintf(line, n, "%-12s %10.1f MiB on %s", st_pool_name(pool),
			 (double)plan->places[pool].bytes / (1 << 20),
			 plan->places[pool].arena == ST_ARENA_DEVICE ? "device" : "host");
		return true;
	}
}

bool strata_plan_line(const struct strata_plan *p, const char *what, size_t i, char *line,
		      size_t line_bytes)
{
	const struct st_plan *plan = p->setup.plan;
	const struct st_program *prog = st_plan_steady(plan);

	if (strcmp(what, "summary") == 0)
		return summary_line(p, i, line, line_bytes);
	if (strcmp(what, "program") != 0 || i >= prog->n_ops)
		return false;
	st_program_print(prog, (uint32_t)i, line, line_bytes);
	return true;
}
