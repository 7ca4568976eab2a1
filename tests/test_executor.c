/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_executor.c - the executor on simulated lanes: run-ahead, single cases, and compiled
 * plans of a real model. (At random: tests/test_executor_random.c, tests/test_schedules.c)
 */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/gpt2.h"
#include "offload/executor.h"
#include "offload/lanes_sim.h"
#include "offload/plan.h"
#include "tests/random.h"
#include "tests/sanitizer.h"

/* ---- allocations are counted where no sanitizer has its own malloc ----------------------- */

#if SANITIZER_HAS_MALLOC
#define HAS_MALLOC_COUNT false
static unsigned long n_mallocs;
#else
#define HAS_MALLOC_COUNT true
static unsigned long n_mallocs;

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t m);
void *__libc_realloc(void *p, size_t n);

void *malloc(size_t n)
{
	n_mallocs++;
	return __libc_malloc(n);
}

void *calloc(size_t n, size_t m)
{
	n_mallocs++;
	return __libc_calloc(n, m);
}

void *realloc(void *p, size_t n)
{
	n_mallocs++;
	return __libc_realloc(p, n);
}
#endif

/* ---- run-ahead --------------------------------------------------------------------------- */

#define LAYERS 6u
#define MS     ((int64_t)1000000)

/* Read a layer, compute with it, update it, write it back. */
static struct st_program *layers_program(const struct st_pool_place *places)
{
	struct st_program *p = NULL;
	struct st_builder *b = NULL;
	uint32_t gate;

	ck_assert_int_eq(st_builder_create(&b, "layers", LAYERS), 0);
	gate = st_builder_op(b, ST_OP_GATE, ST_NONE, ST_NONE, ST_NONE, ST_NONE);
	for (uint32_t l = 0; l < LAYERS; l++) {
		uint32_t claim = st_builder_claim(b, ST_POOL_PARAM, 4096);

		st_builder_op(b, ST_OP_READ_PARAM, l, ST_NONE, ST_NONE, ST_NONE);
		st_builder_use(b, ST_ROLE_PARAM0, claim, 0, 4096, true);
		st_builder_touch(b, l, 0, 0, false);
		st_builder_op(b, ST_OP_UPDATE, l, ST_NONE, ST_NONE, ST_NONE);
		st_builder_use(b, ST_ROLE_PARAM0, claim, 0, 4096, true);
		st_builder_after(b, gate);
		st_builder_op(b, ST_OP_WRITE_PARAM, l, ST_NONE, ST_NONE, ST_NONE);
		st_builder_use(b, ST_ROLE_PARAM0, claim, 0, 4096, false);
		st_builder_touch(b, l, 0, 0, true);
		st_builder_after(b, gate);
	}
	ck_assert_int_eq(st_builder_seal(b, places, &p, NULL), 0);
	st_builder_destroy(b);
	return p;
}

static int64_t layers_cost(void *user, const struct st_program *p, uint32_t op)
{
	const int64_t *cost_ns = user;

	return cost_ns[p->ops[op].lane];
}

struct layers_run {
	char ctx[16];        /* one for each step */
	uint32_t n_computed; /* steps whose last update is done */
};

static void layers_completed(void *user, void *ctx, const struct st_program *p, uint32_t op, int rc)
{
	struct layers_run *run = user;

	run->n_computed += p->ops[op].kind == ST_OP_UPDATE && p->ops[op].unit == LAYERS - 1;
}

/* n_programs steps; each gate opens when the step before has computed, as in training. */
static int64_t layers_time(uint64_t pool_bytes, const int64_t *cost_ns, uint32_t n_programs,
			   struct st_sim_stats *stats)
{
	struct st_pool_place places[ST_POOL_N] = { [ST_POOL_PARAM] = { .bytes = pool_bytes } };
	struct st_program *p = layers_program(places);
	struct st_lanes_sim_cfg cfg = { .is_checked = true, .cost_ns = layers_cost };
	struct layers_run run = { .n_computed = 0 };
	struct st_executor_cfg xcfg = { .completed = layers_completed, .user = &run };
	struct st_lanes_sim *sim = NULL;
	struct st_executor *x = NULL;
	uint32_t appended = 0;
	int64_t now_ns;

	ck_assert_uint_le(n_programs, sizeof(run.ctx));
	memcpy(&cfg.user, &cost_ns, sizeof(cfg.user));
	cfg.lane[ST_LANE_READ].depth = cfg.lane[ST_LANE_WRITE].depth = 4;
	cfg.lane[ST_LANE_COMPUTE].is_fifo = true;
	ck_assert_int_eq(st_lanes_sim_create(&sim, &cfg), 0);
	xcfg.lanes = st_lanes_sim_lanes(sim);
	ck_assert_int_eq(st_executor_create(&x, &xcfg), 0);
	ck_assert_int_eq(st_executor_admit(x, p), 0);
	while (appended < n_programs || !st_executor_is_idle(x)) {
		while (appended < n_programs && st_executor_has_room(x)) {
			ck_assert_int_eq(st_lanes_sim_begin(sim, p, &run.ctx[appended]), 0);
			ck_assert_int_eq(st_executor_append(x, p, &run.ctx[appended]), 0);
			appended++;
		}
		if (run.n_computed < appended)
			st_executor_open(x, &run.ctx[run.n_computed]);
		ck_assert_int_ge(st_executor_turn(x, -1), 0);
	}
	st_lanes_sim_finish(sim);
	ck_assert_msg(!st_lanes_sim_faults(sim, ST_SIM_FAULT_N), "%s",
		      st_lanes_sim_fault_text(sim));
	*stats = *st_lanes_sim_stats(sim);
	now_ns = stats->now_ns;
	st_executor_destroy(x);
	st_lanes_sim_destroy(sim);
	st_program_destroy(p);
	return now_ns;
}

/* With room, the time of all steps is that of the busiest lane; without, the sum over lanes. */
START_TEST(reads_run_ahead_across_the_program_boundary)
{
	static const int64_t cost_ns[][ST_LANE_N] = {
		{ [ST_LANE_READ] = 10 * MS, [ST_LANE_COMPUTE] = 7 * MS, [ST_LANE_WRITE] = 5 * MS },
		{ [ST_LANE_READ] = 6 * MS, [ST_LANE_COMPUTE] = 11 * MS, [ST_LANE_WRITE] = 9 * MS },
		{ [ST_LANE_READ] = 8 * MS, [ST_LANE_COMPUTE] = 8 * MS, [ST_LANE_WRITE] = 8 * MS },
	};
	const uint32_t n = 8;

	for (size_t c = 0; c < ST_ARRAY_LEN(cost_ns); c++) {
		int64_t most = 0, sum = 0, ample_ns, tight_ns;
		struct st_sim_stats stats;

		for (unsigned l = 0; l < ST_LANE_N; l++) {
			sum += cost_ns[c][l] * LAYERS * n;
			if (cost_ns[c][l] * LAYERS * n > most)
				most = cost_ns[c][l] * LAYERS * n;
		}
		ample_ns = layers_time(2 * LAYERS * 4096, cost_ns[c], n, &stats);
		for (unsigned l = 0; l < ST_LANE_N; l++)
			ck_assert_int_eq(stats.cost_ns[l], cost_ns[c][l] * LAYERS * n);
		printf("run-ahead: %lld ms with room, busiest lane %lld ms, sum %lld ms\n",
		       (long long)(ample_ns / MS), (long long)(most / MS), (long long)(sum / MS));
		/* One fill and one drain of the pipeline in all, not one for each program. */
		ck_assert_int_le(ample_ns, most + 2 * (cost_ns[c][ST_LANE_READ] +
						       cost_ns[c][ST_LANE_COMPUTE] +
						       cost_ns[c][ST_LANE_WRITE]));
		ck_assert_int_ge(ample_ns, most);
		ck_assert_uint_gt(stats.pool_high[ST_POOL_PARAM], 4096);
		tight_ns = layers_time(4096, cost_ns[c], n, &stats);
		ck_assert_int_eq(tight_ns, sum);
		ck_assert_uint_eq(stats.pool_high[ST_POOL_PARAM], 4096);
	}
}
END_TEST

/* ---- single cases ------------------------------------------------------------------------ */

/* Up to two programs on lanes of 1 ms an operation; everything checked. */
struct bench {
	struct st_lanes_sim *sim;
	struct st_executor *x;
	int done[64]; /* by operation of the program with ctx &ctx[1]: 1 + -rc */
	char ctx[2];
};

static void bench_completed(void *user, void *ctx, const struct st_program *p, uint32_t op, int rc)
{
	struct bench *b = user;

	if (ctx == &b->ctx[1])
		b->done[op] += 1 - rc;
}

static int64_t one_ms(void *user, const struct st_program *p, uint32_t op)
{
	return MS;
}

static void bench_init(struct bench *b, struct st_lanes_sim_cfg cfg)
{
	struct st_executor_cfg x = { .completed = bench_completed, .user = b };

	memset(b, 0, sizeof(*b));
	cfg.is_checked = true;
	cfg.cost_ns = one_ms;
	for (unsigned l = 0; l < ST_LANE_N; l++) {
		cfg.lane[l].depth = 4;
		cfg.lane[l].is_fifo = true;
	}
	ck_assert_int_eq(st_lanes_sim_create(&b->sim, &cfg), 0);
	x.lanes = st_lanes_sim_lanes(b->sim);
	ck_assert_int_eq(st_executor_create(&b->x, &x), 0);
}

static void bench_append(struct bench *b, const struct st_program *p, unsigned k)
{
	ck_assert_int_eq(st_lanes_sim_begin(b->sim, p, &b->ctx[k]), 0);
	ck_assert_int_eq(st_executor_append(b->x, p, &b->ctx[k]), 0);
}

static int bench_turns(struct bench *b, unsigned n)
{
	int rc = 0;

	for (unsigned i = 0; i < n && rc >= 0; i++)
		rc = st_executor_turn(b->x, -1);
	return rc;
}

static void bench_fini(struct bench *b)
{
	st_lanes_sim_finish(b->sim);
	ck_assert_msg(!st_lanes_sim_faults(b->sim, ST_SIM_FAULT_N), "%s",
		      st_lanes_sim_fault_text(b->sim));
	st_executor_destroy(b->x);
	st_lanes_sim_destroy(b->sim);
}

/* What is appended behind a cancelled program must not wait for what that will never do. */
START_TEST(append_behind_a_cancelled_program)
{
	struct st_pool_place places[ST_POOL_N] = { [ST_POOL_PARAM] = { .bytes = 2 * 4096 } };
	struct st_program *p = layers_program(places);

	for (unsigned turns = 0; turns < 3; turns++) {
		struct bench b;

		bench_init(&b, (struct st_lanes_sim_cfg){ 0 });
		ck_assert_int_eq(st_executor_admit(b.x, p), 0);
		bench_append(&b, p, 0);
		ck_assert_int_ge(bench_turns(&b, turns),
				 0); /* 0: nothing in flight; 1: a read is */
		st_executor_cancel(b.x);
		st_lanes_sim_cancel(b.sim);
		bench_append(&b, p, 1);
		st_executor_open(b.x, &b.ctx[1]);
		ck_assert_msg(bench_turns(&b, 60) >= 0, "%s", st_last_error());
		ck_assert(st_executor_is_idle(b.x));
		for (uint32_t i = 0; i < p->n_ops; i++)
			ck_assert_int_eq(b.done[i], 1);
		bench_fini(&b);
	}
	st_program_destroy(p);
}
END_TEST

/* The second user of a claim has no edge to the first: it must wait for the reservation itself. */
START_TEST(every_user_of_a_claim_waits_for_it)
{
	struct st_pool_place places[ST_POOL_N] = { [ST_POOL_PARAM] = { .bytes = 8192 } };
	struct st_program *p = NULL;
	struct st_builder *sb = NULL;
	struct bench b;

	ck_assert_int_eq(st_builder_create(&sb, "halves", 0), 0);
	for (uint32_t u = 0; u < 2; u++) { /* two buffers, one after the other in the same memory */
		uint32_t claim = st_builder_claim(sb, ST_POOL_PARAM, 8192);

		for (uint32_t half = 0; half < 2; half++) {
			st_builder_op(sb, ST_OP_READ_PARAM, u, half, ST_NONE, ST_NONE);
			st_builder_use(sb, ST_ROLE_PARAM0, claim, half * 4096, 4096, true);
		}
		st_builder_op(sb, ST_OP_FORWARD, u, ST_NONE, ST_NONE, ST_NONE);
		st_builder_use(sb, ST_ROLE_PARAM0, claim, 0, 8192, false);
	}
	ck_assert_int_eq(st_builder_seal(sb, places, &p, NULL), 0);
	st_builder_destroy(sb);
	ck_assert_uint_eq(p->ops[1].n_deps, 0);
	ck_assert_uint_eq(p->ops[1].n_claims_used, 1);
	bench_init(&b, (struct st_lanes_sim_cfg){ 0 });
	ck_assert_int_eq(st_executor_admit(b.x, p), 0);
	bench_append(&b, p, 1);
	ck_assert_int_ge(bench_turns(&b, 30), 0);
	ck_assert(st_executor_is_idle(b.x));
	bench_fini(&b);
	st_program_destroy(p);
}
END_TEST

/* An operation that a submission made ready goes to its own lane in the same turn. */
START_TEST(lanes_that_wait_are_filled_in_one_turn)
{
	struct st_pool_place places[ST_POOL_N] = { [ST_POOL_PARAM] = { .bytes = LAYERS * 4096 } };
	struct st_program *p = layers_program(places);
	struct st_lanes_sim_cfg cfg = { 0 };
	struct bench b;

	cfg.lane[ST_LANE_READ].waits_on = 1u << ST_LANE_COMPUTE;
	cfg.lane[ST_LANE_COMPUTE].waits_on =
		UINT32_MAX; /* also the gate, which no lane ever sees */
	cfg.lane[ST_LANE_WRITE].waits_on = 1u << ST_LANE_READ | 1u << ST_LANE_COMPUTE;
	bench_init(&b, cfg);
	ck_assert_int_eq(st_executor_admit(b.x, p), 0);
	bench_append(&b, p, 1);
	st_executor_open(b.x, &b.ctx[1]);
	ck_assert_int_eq(st_executor_turn(b.x, 0), 1);
	ck_assert_uint_eq(st_lanes_sim_stats(b.sim)->n_submits, 12); /* depth 4 in three lanes */
	ck_assert_uint_eq(st_lanes_sim_stats(b.sim)->n_early, 8);
	ck_assert_int_ge(bench_turns(&b, 60), 0);
	ck_assert(st_executor_is_idle(b.x));
	bench_fini(&b);
	st_program_destroy(p);
}
END_TEST

/* What waits in a lane for an operation that fails comes back as cancelled, and the first rc stays.
 */
START_TEST(a_failure_cancels_what_waits_in_lanes)
{
	struct st_pool_place places[ST_POOL_N] = { [ST_POOL_PARAM] = { .bytes = LAYERS * 4096 } };
	struct st_program *p = layers_program(places);
	struct st_lanes_sim_cfg cfg = { .fail_nth = 1, .fail_rc = -ENOSPC };
	struct bench b;

	cfg.lane[ST_LANE_COMPUTE].waits_on = 1u << ST_LANE_READ;
	cfg.lane[ST_LANE_WRITE].waits_on = 1u << ST_LANE_COMPUTE;
	bench_init(&b, cfg);
	ck_assert_int_eq(st_executor_admit(b.x, p), 0);
	bench_append(&b, p, 1);
	st_executor_open(b.x, &b.ctx[1]);
	ck_assert_int_eq(bench_turns(&b, 60), -ENOSPC);
	ck_assert_int_eq(st_executor_error(b.x)->rc, -ENOSPC);
	ck_assert_int_eq(st_executor_append(b.x, p, &b.ctx[0]), -ENOSPC);
	ck_assert(st_executor_is_idle(b.x));
	ck_assert_int_eq(b.done[1], 1 + ENOSPC);
	ck_assert_int_eq(b.done[2], 1 - STRATA_E_CANCELLED);
	ck_assert_int_eq(b.done[3], 1 - STRATA_E_CANCELLED);
	ck_assert_int_eq(b.done[p->n_ops - 1], 1 - STRATA_E_CANCELLED);
	bench_fini(&b);
	st_program_destroy(p);
}
END_TEST

static uint32_t one_path(void *user, const struct st_program *p, uint32_t op)
{
	return p->ops[op].lane == ST_LANE_READ ? 1u << p->ops[op].unit % 2 : 0;
}

static uint32_t two_paths(void *user, const struct st_program *p, uint32_t op)
{
	return p->ops[op].lane == ST_LANE_READ ? 3 : 0;
}

/* Two paths serve side by side: reads of one each, or a half on both; and one can be lost. */
START_TEST(paths_of_a_lane)
{
	struct st_pool_place places[ST_POOL_N] = { [ST_POOL_PARAM] = { .bytes = LAYERS * 4096 } };
	struct st_program *p = layers_program(places);
	const struct {
		uint32_t (*paths)(void *user, const struct st_program *p, uint32_t op);
		int64_t end_ns;
	} cases[] = { { NULL, LAYERS * MS },
		      { one_path, LAYERS / 2 * MS },
		      { two_paths, LAYERS / 2 * MS } };

	for (size_t i = 0; i < ST_ARRAY_LEN(cases); i++) {
		struct bench b;

		bench_init(&b, (struct st_lanes_sim_cfg){ .paths = cases[i].paths });
		ck_assert_int_eq(st_executor_admit(b.x, p), 0);
		bench_append(&b, p, 1);
		ck_assert_int_ge(bench_turns(&b, 30), 0); /* the gate is closed: only reads */
		ck_assert_int_eq(st_lanes_sim_stats(b.sim)->n_ops[ST_LANE_READ], LAYERS);
		ck_assert_int_eq(st_lanes_sim_stats(b.sim)->now_ns, cases[i].end_ns);
		st_executor_open(b.x, &b.ctx[1]);
		ck_assert_int_ge(bench_turns(&b, 60), 0);
		bench_fini(&b);
		bench_init(&b, (struct st_lanes_sim_cfg){ .paths = cases[i].paths,
							  .lost_paths = 2,
							  .lost_at = 3,
							  .fail_rc = -EIO });
		ck_assert_int_eq(st_executor_admit(b.x, p), 0);
		bench_append(&b, p, 1);
		ck_assert_int_eq(bench_turns(&b, 30), cases[i].paths ? -EIO : 0);
		/* The first two reads were before; the third is of unit 2. */
		for (uint32_t u = 0; u < 4; u++)
			ck_assert_int_eq(b.done[1 + 3 * u],
					 !cases[i].paths || u < 2 || (u == 2 && i == 1) ? 1
											: 1 + EIO);
		st_executor_destroy(b.x);
		st_lanes_sim_destroy(b.sim);
	}
	st_program_destroy(p);
}
END_TEST

/* A program that cannot go on is told even when the one behind it only waits for its gate. */
START_TEST(deadlock_is_told_behind_a_closed_gate)
{
	struct st_pool_place places[ST_POOL_N] = { [ST_POOL_PARAM] = { .bytes = LAYERS * 4096 } };
	struct st_program *p = layers_program(places);
	struct bench b;

	p->ops[4].n_claims_used++; /* a claim that never comes */
	bench_init(&b, (struct st_lanes_sim_cfg){ 0 });
	ck_assert_int_eq(st_executor_admit(b.x, p), 0);
	bench_append(&b, p, 1);
	bench_append(&b, p, 0);
	ck_assert_int_ge(bench_turns(&b, 20), 0); /* closed gates are no deadlock */
	st_executor_open(b.x, &b.ctx[1]);
	ck_assert_int_eq(bench_turns(&b, 60), -EDEADLK);
	ck_assert_ptr_nonnull(strstr(st_last_error(), "layers: operation 4 "));
	for (uint32_t i = 0; i < p->n_ops; i++)
		ck_assert_int_ne(b.done[i], 0);
	ck_assert(st_executor_is_idle(b.x));
	st_executor_destroy(b.x);
	st_lanes_sim_destroy(b.sim);
	st_program_destroy(p);
}
END_TEST

/* After admit, append and turn take no memory. */
START_TEST(steps_allocate_nothing)
{
	struct st_pool_place places[ST_POOL_N] = { [ST_POOL_PARAM] = { .bytes = 3 * 4096 } };
	struct st_program *p = layers_program(places);
	struct st_lanes_sim_cfg cfg = { .cost_ns = one_ms };
	struct st_executor_cfg xcfg = { 0 };
	struct st_lanes_sim *sim = NULL;
	struct st_executor *x = NULL;
	unsigned long before, after;
	char ctx[8] = { 0 };
	int rc;

	before = n_mallocs;
	cfg.lane[ST_LANE_READ].depth = 3;
	ck_assert_int_eq(st_lanes_sim_create(&sim, &cfg), 0);
	xcfg.lanes = st_lanes_sim_lanes(sim);
	ck_assert_int_eq(st_executor_create(&x, &xcfg), 0);
	ck_assert_int_eq(st_executor_admit(x, p), 0);
	if (HAS_MALLOC_COUNT)
		ck_assert_uint_gt(n_mallocs, before); /* it does count */
	for (size_t k = 0; k < sizeof(ctx); k++) {
		ck_assert_int_eq(st_lanes_sim_begin(sim, p, &ctx[k]), 0);
		before = n_mallocs; /* ck_assert allocates, so none until it is read again */
		rc = st_executor_append(x, p, &ctx[k]);
		st_executor_open(x, &ctx[k]);
		while (rc >= 0 && (!st_executor_has_room(x) ||
				   (k + 1 == sizeof(ctx) && !st_executor_is_idle(x))))
			rc = st_executor_turn(x, -1);
		after = n_mallocs;
		ck_assert_int_ge(rc, 0);
		ck_assert_uint_eq(after, before);
	}
	ck_assert(st_executor_is_idle(x));
	st_executor_destroy(x);
	st_lanes_sim_destroy(sim);
	st_program_destroy(p);
}
END_TEST

/* ---- compiled plans ---------------------------------------------------------------------- */

/* Plans of a small GPT-2: homes, update mode, order, budgets as given or the smallest that work. */
static struct st_plan *small_plan(const struct st_model *m, uint32_t i, bool is_tight)
{
	static const enum st_home homes[][2] = { { ST_HOME_DEVICE, ST_HOME_DEVICE },
						 { ST_HOME_HOST, ST_HOME_HOST },
						 { ST_HOME_NVME, ST_HOME_NVME },
						 { ST_HOME_NVME, ST_HOME_HOST },
						 { ST_HOME_DEVICE, ST_HOME_NVME } };
	struct st_plan_cfg cfg = { .model = m,
				   .formats = { .dtype = ST_BF16,
						.grad_dtype = ST_BF16,
						.moments = i % 3,
						.optim = STRATA_OPTIM_CFG_DEFAULT },
				   .n_mb = 3,
				   .n_eval_mb = 1 };
	struct st_plan *plan = NULL;

	cfg.param_home = homes[i % ST_ARRAY_LEN(homes)][0];
	cfg.state_home = homes[i % ST_ARRAY_LEN(homes)][1];
	cfg.update = i % 2 ? ST_UPDATE_DEFERRED : ST_UPDATE_IMMEDIATE;
	cfg.order = i % 3 ? ST_ORDER_VERTICAL : ST_ORDER_HORIZONTAL;
	cfg.recompute = i % 4 < 2;
	cfg.acts_on_host = i % 7 < 3;
	cfg.commits = i % 3 == 1;
	cfg.rest = i % 4 == 1 ? ST_REST_NVME : ST_REST_MEMORY;
	cfg.lookahead = i % 8 == 7 ? ST_LOOKAHEAD_OFF : ST_LOOKAHEAD_ON;
	ck_assert_msg(st_plan_create(&plan, &cfg) == 0, "%s", st_last_error());
	if (is_tight) {
		cfg.device_bytes = plan->min_bytes[ST_ARENA_DEVICE];
		cfg.host_bytes = plan->min_bytes[ST_ARENA_HOST];
		st_plan_destroy(plan);
		ck_assert_msg(st_plan_create(&plan, &cfg) == 0, "%s", st_last_error());
	}
	return plan;
}

static const struct st_program *any_program(const struct st_plan *plan, struct rng *r)
{
	const struct st_program *p;

	do {
		p = plan->program[below(r, ST_VARIANT_N)];
	} while (!p);
	return p;
}

/* Any variant behind any other, the second one looking ahead. @return operations that ran */
static uint64_t run_variants(const struct st_plan *plan, struct rng *r)
{
	struct st_lanes_sim_cfg cfg = { .is_checked = true, .seed = next(r) };
	struct st_executor_cfg xcfg = { 0 };
	struct st_lanes_sim *sim = NULL;
	struct st_executor *x = NULL;
	uint32_t n = 0, n_open = 0;
	char ctx[8] = { 0 };
	uint64_t n_ops;
	int rc = 0;

	cfg.random_decades = 1 + below(r, 6);
	for (unsigned l = 0; l < ST_LANE_N; l++) {
		cfg.lane[l].depth = 1 + below(r, 16);
		cfg.lane[l].is_fifo = l == ST_LANE_COMPUTE || l == ST_LANE_COMMIT;
		cfg.lane[l].waits_on = chance(r, 40) ? below(r, 1u << ST_LANE_N) : 0;
	}
	ck_assert_int_eq(st_lanes_sim_create(&sim, &cfg), 0);
	xcfg.lanes = st_lanes_sim_lanes(sim);
	ck_assert_int_eq(st_executor_create(&x, &xcfg), 0);
	for (unsigned v = 0; v < ST_VARIANT_N; v++)
		if (plan->program[v])
			ck_assert_int_eq(st_executor_admit(x, plan->program[v]), 0);
	while (rc >= 0 && (n < sizeof(ctx) || !st_executor_is_idle(x))) {
		for (; n < sizeof(ctx) && st_executor_has_room(x); n++) {
			const struct st_program *p = any_program(plan, r);

			ck_assert_int_eq(st_lanes_sim_begin(sim, p, &ctx[n]), 0);
			ck_assert_int_eq(st_executor_append(x, p, &ctx[n]), 0);
		}
		rc = st_executor_turn(x, -1);
		if (n_open < n && (rc == 0 || chance(r, 5)))
			st_executor_open(x, &ctx[n_open++]);
	}
	st_lanes_sim_finish(sim);
	ck_assert_msg(rc >= 0, "%s", st_last_error());
	ck_assert_msg(!st_lanes_sim_faults(sim, ST_SIM_FAULT_N), "%s",
		      st_lanes_sim_fault_text(sim));
	for (unsigned q = 0; q < ST_POOL_N; q++)
		ck_assert_uint_le(st_lanes_sim_stats(sim)->pool_high[q], plan->places[q].bytes);
	n_ops = st_lanes_sim_stats(sim)->n_started;
	st_executor_destroy(x);
	st_lanes_sim_destroy(sim);
	return n_ops;
}

/* What the compiler emits for a real model keeps the same invariants, at the smallest budgets too.
 */
START_TEST(compiled_plans_keep_every_invariant)
{
	const struct st_gpt2_cfg gpt = {
		.n_layer = 3, .n_embd = 288, .n_head = 4, .n_positions = 32, .vocab_size = 259
	};
	const struct st_device_cfg dev = { .type = "host", .dtype = ST_BF16, .threads = 1 };
	struct st_device *d = NULL;
	struct st_model *m = NULL;
	struct rng r = { 1 };
	uint64_t n_ops = 0;

	ck_assert_msg(st_device_open(&d, &dev) == 0, "%s", st_last_error());
	ck_assert_msg(st_gpt2_create(&m, &gpt, 2, 24, d, ST_BF16) == 0, "%s", st_last_error());
	for (uint32_t i = 0; i < 20; i++) {
		struct st_plan *plan = small_plan(m, i, i >= 10);

		for (unsigned v = 0; v < ST_VARIANT_N; v++)
			if (plan->program[v])
				ck_assert_msg(st_program_verify(plan->program[v]) == 0,
					      "plan %u: %s", i, st_last_error());
		for (unsigned k = 0; k < 4; k++)
			n_ops += run_variants(plan, &r);
		st_plan_destroy(plan);
	}
	printf("compiled plans: %llu operations\n", (unsigned long long)n_ops);
	st_gpt2_destroy(m);
	st_device_close(d);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("executor");
	TCase *t = tcase_create("executor");
	SRunner *r;
	int failed;

	tcase_set_timeout(t, 170);
	tcase_add_test(t, reads_run_ahead_across_the_program_boundary);
	tcase_add_test(t, append_behind_a_cancelled_program);
	tcase_add_test(t, every_user_of_a_claim_waits_for_it);
	tcase_add_test(t, lanes_that_wait_are_filled_in_one_turn);
	tcase_add_test(t, a_failure_cancels_what_waits_in_lanes);
	tcase_add_test(t, paths_of_a_lane);
	tcase_add_test(t, deadlock_is_told_behind_a_closed_gate);
	tcase_add_test(t, steps_allocate_nothing);
	tcase_add_test(t, compiled_plans_keep_every_invariant);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
