/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_plan.c - plans of random models: never over a budget, and the smallest budget that is
 * named is one that works.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "offload/predict.h"
#include "offload/search.h"

#define SEEDS      120u
#define LAYERS_MAX 5u
#define UNITS_MAX  (LAYERS_MAX + 2u)
#define TENSORS    5u
#define MIB        ((uint64_t)1 << 20)

#define CK(call)                                                                                   \
	do {                                                                                       \
		int ck_rc = (call);                                                                \
		ck_assert_msg(ck_rc >= 0, "%s: %d: %s", #call, ck_rc, st_last_error());            \
	} while (0)

static uint64_t rng;

static uint32_t below(uint32_t n)
{
	rng = rng * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)((rng >> 33) % n);
}

static bool chance(uint32_t percent)
{
	return below(100) < percent;
}

/* ---- models -------------------------------------------------------------------------------- */

struct random_model {
	struct st_model model;
	struct st_tensor_desc tensors[UNITS_MAX][TENSORS];
	struct st_unit_desc units[UNITS_MAX];
	struct st_stage_desc stages[UNITS_MAX];
};

static void add_tensor(struct random_model *m, unsigned u, size_t rows, size_t cols)
{
	struct st_unit_desc *unit = &m->units[u];
	struct st_tensor_desc *t = &m->tensors[u][unit->n_tensors];
	bool joins = cols == 1 && unit->n_tensors && t[-1].n_dims == 1;

	*t = (struct st_tensor_desc){
		.n_dims = cols == 1 ? 1 : 2,
		.dims = { rows, cols },
		.elems = rows * cols,
		.first_elem = unit->elems,
		.segment = unit->n_tensors ? t[-1].segment + !joins : 0,
	};
	snprintf(t->name, sizeof(t->name), "%u.%u", u, unit->n_tensors);
	unit->tensors = m->tensors[u];
	unit->n_tensors++;
	unit->elems +=
		(rows * cols + STRATA_NUMERIC_TILE - 1) / STRATA_NUMERIC_TILE * STRATA_NUMERIC_TILE;
	m->model.n_params += rows * cols;
}

static void add_stage(struct random_model *m, unsigned unit, bool is_last)
{
	struct st_stage_desc *s = &m->stages[m->model.n_stages++];

	*s = (struct st_stage_desc){
		.units = { unit },
		.n_units = 1,
		.bwd_needs_params = true,
		.out_bytes = is_last ? 0 : 1000 + below(100000),
		.saved_bytes = chance(80) && !is_last ? 1 + below(1000000) : 0,
		.fwd_work_bytes = chance(80) ? below(500000) : 0,
		.bwd_work_bytes = chance(80) ? below(1000000) : 0,
		.fwd_flops = 1e6 * (1 + below(1000)),
	};
	s->bwd_flops = 2 * s->fwd_flops;
}

/* A table, blocks of some tensors each, and a last stage that has the table or one of its own. */
static void make_model(struct random_model *m)
{
	unsigned n_layers = 1 + below(LAYERS_MAX);
	bool is_tied = chance(60);

	memset(m, 0, sizeof(*m));
	m->model = (struct st_model){ .family = "random",
				      .units = m->units,
				      .stages = m->stages,
				      .batch = 1 + below(3),
				      .seq = 8 + below(120) };
	for (unsigned u = 0; u < n_layers + 1 + !is_tied; u++) {
		bool is_block = u && u <= n_layers;

		snprintf(m->units[u].name, sizeof(m->units[u].name), "u.%u", u);
		if (!is_block)
			add_tensor(m, u, 200 + below(3000), 64 * (1 + below(6)));
		for (unsigned t = 1 + below(TENSORS - 2); is_block && t--;)
			add_tensor(m, u, 1 + below(900), 2 + below(900));
		for (unsigned t = 2; is_block && t--;)
			add_tensor(m, u, 1 + below(5000), 1);
		m->model.n_units++;
	}
	add_stage(m, 0, false);
	m->stages[0].looks_up = true;
	m->stages[0].lookup_cols = m->tensors[0][0].dims[1];
	m->stages[0].bwd_needs_params = false;
	m->stages[0].saved_bytes = 0; /* nothing is computed again without them */
	m->model.vocab = m->tensors[0][0].dims[0];
	for (unsigned u = 1; u <= n_layers; u++)
		add_stage(m, u, false);
	add_stage(m, is_tied ? 0 : n_layers + 1, true);
}

static struct st_plan_cfg make_cfg(const struct random_model *m)
{
	static const enum st_home homes[] = { ST_HOME_DEVICE, ST_HOME_HOST, ST_HOME_NVME,
					      ST_HOME_NVME, ST_HOME_NVME };
	static const enum st_update updates[] = { ST_UPDATE_AUTO, ST_UPDATE_AUTO,
						  ST_UPDATE_IMMEDIATE, ST_UPDATE_DEFERRED,
						  ST_UPDATE_SPECULATIVE };
	struct st_plan_cfg c = {
		.model = &m->model,
		.formats = { .dtype = chance(70) ? ST_BF16 : ST_F32,
			     .moments = below(3),
			     .optim = STRATA_OPTIM_CFG_DEFAULT },
		.n_mb = 1 + below(4),
		.n_eval_mb = below(3),
		.param_home = homes[below(5)],
		.state_home = homes[below(5)],
		.pins = chance(70),
		.update = updates[below(5)],
		.order = chance(70) ? ST_ORDER_VERTICAL : ST_ORDER_HORIZONTAL,
		.recompute = chance(70),
		.acts_on_host = chance(20),
		.rest = below(3),
		.commits = chance(70),
		.lookahead = below(3),
	};

	c.formats.grad_dtype = c.formats.dtype;
	c.needs_norm = c.update != ST_UPDATE_IMMEDIATE && chance(70);
	c.may_speculate = c.commits;
	return c;
}

/* ---- budgets ------------------------------------------------------------------------------- */

static unsigned n_plans, n_refused;

static void check_plan(const struct st_plan *p, const uint64_t *min)
{
	const uint64_t budget[] = { p->cfg.device_bytes, p->cfg.host_bytes };
	uint64_t end[ST_ARENA_N] = { p->resident_bytes[0], p->resident_bytes[1] };

	for (unsigned a = 0; a < ST_ARENA_N; a++) {
		ck_assert_msg(!budget[a] || p->arena_bytes[a] <= budget[a],
			      "arena %u has %llu bytes of a budget of %llu, least %llu", a,
			      (unsigned long long)p->arena_bytes[a], (unsigned long long)budget[a],
			      (unsigned long long)min[a]);
		ck_assert_uint_eq(p->min_bytes[a], min[a]);
	}
	for (unsigned pool = 0; pool < ST_POOL_N; pool++) {
		const struct st_pool_place *at = &p->places[pool];

		ck_assert_uint_ge(at->base_bytes, end[at->arena]);
		end[at->arena] = at->base_bytes + at->bytes;
		for (unsigned v = 0; v < ST_VARIANT_N; v++)
			ck_assert(!p->program[v] || p->program[v]->pool_peak[pool] <= at->bytes);
	}
	for (unsigned a = 0; a < ST_ARENA_N; a++)
		ck_assert_uint_le(end[a], p->arena_bytes[a]);
	ck_assert_ptr_nonnull(st_plan_steady(p));
	if (chance(5))
		for (unsigned v = 0; v < ST_VARIANT_N; v++)
			if (p->program[v])
				CK(st_program_verify(p->program[v]));
	n_plans++;
}

static void plan_within(struct st_plan_cfg *c, uint64_t device, uint64_t host, const uint64_t *min)
{
	struct st_plan *p;

	c->device_bytes = device;
	c->host_bytes = host;
	CK(st_plan_create(&p, c));
	check_plan(p, min);
	st_plan_destroy(p);
}

/* One byte less than the smallest is refused, with the smallest in whole MiB, which then works. */
static void refuse_below(struct st_plan_cfg *c, unsigned a, const uint64_t *min)
{
	struct st_plan *p;
	char number[64];
	uint64_t mib = (min[a] + MIB - 1) / MIB;

	if (min[a] < 2)
		return;
	c->device_bytes = a == ST_ARENA_DEVICE ? min[a] - 1 : 0;
	c->host_bytes = a == ST_ARENA_HOST ? min[a] - 1 : 0;
	ck_assert_int_eq(st_plan_create(&p, c), STRATA_E_NO_FIT);
	snprintf(number, sizeof(number), "strata.%s.memory\": \"%lluMiB\"",
		 a == ST_ARENA_DEVICE ? "device" : "host", (unsigned long long)mib);
	ck_assert_msg(strstr(st_last_error(), number) != NULL, "no %s in: %s", number,
		      st_last_error());
	n_refused++;
	plan_within(c, a == ST_ARENA_DEVICE ? mib * MIB : 0, a == ST_ARENA_HOST ? mib * MIB : 0,
		    min);
}

static void try_budgets(struct st_plan_cfg *c)
{
	uint64_t min[ST_ARENA_N];
	struct st_plan *p;

	CK(st_plan_create(&p, c));
	memcpy(min, p->min_bytes, sizeof(min));
	check_plan(p, min);
	st_plan_destroy(p);
	plan_within(c, min[0], min[1], min);
	plan_within(c, min[0], 0, min);
	plan_within(c, 0, min[1], min);
	for (unsigned i = 0; i < 3; i++)
		plan_within(c, min[0] + below(i ? 20000000 : 100000),
			    min[1] + below(i ? 40000000 : 100000), min);
	for (unsigned a = 0; a < ST_ARENA_N; a++)
		refuse_below(c, a, min);
}

START_TEST(budgets_are_never_exceeded)
{
	struct random_model m;

	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct st_plan_cfg c;

		rng = seed * 0x9e3779b97f4a7c15u;
		make_model(&m);
		c = make_cfg(&m);
		printf("seed %llu\n", (unsigned long long)seed); /* the last line names it */
		fflush(stdout);
		try_budgets(&c);
	}
	printf("%u plans, %u refusals\n", n_plans, n_refused);
	ck_assert_uint_gt(n_refused, SEEDS);
}
END_TEST

/* ---- rates --------------------------------------------------------------------------------- */

static double step_s(const struct st_plan *p, const struct st_hardware *hw)
{
	const struct st_predict_cfg cfg = {
		.hw = hw,
		.model = p->cfg.model,
		.layout = p->layout,
		.dtype = p->layout->dtype,
		.first = st_plan_first(p),
		.steady = st_plan_steady(p),
	};
	struct st_prediction out;

	CK(st_predict(&out, &cfg));
	return out.step_s;
}

/* Drives and products that take as long, backward being so much faster than forward. */
static void balance(struct st_hardware *hw, const struct st_plan *p, double backward_ratio)
{
	double io_s = (double)(st_plan_read_bytes(p) + st_plan_write_bytes(p)) / 1e9, flops = 0;

	st_hardware_default(hw);
	hw->read_bytes_per_s = hw->write_bytes_per_s = hw->mixed_bytes_per_s = 1e9;
	hw->mixed_read_share = 0.5;
	hw->drive_latency_ns = hw->device_latency_ns = hw->flush_ns = 0;
	hw->backward_ratio = backward_ratio;
	for (unsigned s = 0; s < p->cfg.model->n_stages; s++)
		flops += 2 * p->cfg.model->stages[s].fwd_flops +
			 p->cfg.model->stages[s].bwd_flops / backward_ratio;
	hw->product_flops[ST_F32] = hw->product_flops[ST_BF16] = flops / io_s;
}

/* Drives and products that take about as long, and a backward that is slower or faster than its
 * operations say: then bytes in proportion to these are not the best. */
START_TEST(known_rates_make_steps_shorter)
{
	unsigned n_better = 0, n_same = 0;
	struct random_model m;

	for (uint64_t seed = 1; seed <= 24; seed++) {
		struct st_plan_cfg c;
		struct st_hardware hw;
		struct st_plan *p;
		double before, after, share;
		size_t n_wanted = 0, n_there = 0;

		rng = seed * 0x9e3779b97f4a7c15u;
		make_model(&m);
		c = make_cfg(&m);
		c.param_home = c.state_home = ST_HOME_NVME;
		c.update = ST_UPDATE_AUTO;
		c.commits = c.may_speculate = true;
		c.needs_norm = seed % 2;
		c.pins = false;
		c.recompute = true;
		for (unsigned k = 0; k < m.model.n_stages; k++) {
			m.stages[k].fwd_flops = 2e8;
			m.stages[k].bwd_flops = 4e8;
		}
		CK(st_plan_create(&p, &c));
		balance(&hw, p, seed % 3 ? 0.3 : 8);
		before = step_s(p, &hw);
		share = p->deferred_share;
		CK(st_plan_search(&p, &hw));
		after = step_s(p, &hw);
		ck_assert_msg(after <= before, "seed %llu: %g s, then %g", (unsigned long long)seed,
			      before, after);
		ck_assert_msg(after == before || after < before * (1 - ST_SEARCH_GAIN),
			      "seed %llu: another plan for too little", (unsigned long long)seed);
		ck_assert((after == before) == (share == p->deferred_share));
		for (unsigned v = 0; v < ST_VARIANT_N; v++)
			n_there += p->program[v] != NULL;
		n_wanted = 6 + (c.n_eval_mb > 0); /* init, export, step, flush, save, ... */
		ck_assert_uint_ge(n_there, n_wanted);
		ck_assert(!p->cfg.is_trial);
		n_better += after < before;
		n_same += after == before;
		st_plan_destroy(p);
	}
	printf("shorter with %u, the same with %u\n", n_better, n_same);
	ck_assert_uint_gt(n_better, 0);
	ck_assert_uint_gt(n_same, 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("plan");
	TCase *t = tcase_create("plan");
	SRunner *r;
	int failed;

	tcase_set_timeout(t, 50);
	tcase_add_test(t, budgets_are_never_exceeded);
	tcase_add_test(t, known_rates_make_steps_shorter);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
