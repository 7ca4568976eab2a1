/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_engine.c - bit-exactness: one state hash, wherever the state lives and however it
 * moves.
 *
 * Timeout: 300
 * A model of four layers, a tensor of two storage tiles, three micro-batches.
 */
#include "tests/engine_util.h"

#include <math.h>

#define STEPS 6

static uint64_t hash_after(const struct tiny *t, unsigned steps)
{
	struct tiny_run r;
	struct st_step_out out;
	double first = 0, loss = 0;
	uint64_t hash;

	tiny_open(&r, t);
	for (unsigned s = 1; s <= steps; s++) {
		loss = tiny_step(&r, s, &out);
		ck_assert_uint_eq(out.step, s);
		if (s == 1)
			first = loss;
	}
	ck_assert_msg(loss < first, "loss went from %g to %g", first, loss);
	hash = tiny_hash(&r);
	tiny_close(&r);
	return hash;
}

#define NVME ST_HOME_NVME
#define HOST ST_HOME_HOST
#define DEV  ST_HOME_DEVICE

/* Every variation must give the hash of the plain case with the same mathematics. */
static const struct variation {
	const char *name;
	struct tiny t;
} variations[] = {
	{ "cpu", { .param_home = HOST, .state_home = HOST } },
	{ "nvme", { .param_home = NVME, .state_home = NVME } },
	{ "parameters on nvme", { .param_home = NVME, .state_home = HOST } },
	{ "optimizer on nvme", { .param_home = DEV, .state_home = NVME } },
	{ "two paths", { .param_home = NVME, .state_home = NVME, .n_paths = 2 } },
	{ "threads", { .param_home = NVME, .state_home = NVME, .backend = "threads" } },
	{ "horizontal", { .param_home = NVME, .state_home = NVME, .order = ST_ORDER_HORIZONTAL } },
	{ "no recompute", { .param_home = NVME, .state_home = NVME, .keeps_activations = true } },
	{ "activations on host", { .param_home = NVME, .state_home = NVME, .acts_on_host = true } },
	{ "committed", { .param_home = NVME, .state_home = NVME, .commits = true } },
	{ "committed, mixed homes", { .param_home = NVME, .state_home = HOST, .commits = true } },
};

static void check_all(enum st_dtype dtype, double clip, bool is_deferred, uint64_t *hash_out)
{
	struct tiny plain = { .dtype = dtype,
			      .clip = clip,
			      .update = is_deferred ? ST_UPDATE_DEFERRED : ST_UPDATE_IMMEDIATE };
	uint64_t want = hash_after(&plain, STEPS);

	for (size_t i = 0; i < ST_ARRAY_LEN(variations); i++) {
		struct tiny t = variations[i].t;
		uint64_t got;

		t.dtype = dtype;
		t.clip = clip;
		t.update = plain.update;
		got = hash_after(&t, STEPS);
		ck_assert_msg(got == want, "%s, %s, clip %g: %016lx, plain %016lx",
			      variations[i].name, is_deferred ? "deferred" : "immediate", clip, got,
			      want);
	}
	*hash_out = want;
}

START_TEST(one_hash_without_clipping)
{
	uint64_t immediate, deferred;

	check_all(ST_BF16, 0, false, &immediate);
	check_all(ST_BF16, 0, true, &deferred);
	ck_assert_uint_eq(immediate, deferred);
}
END_TEST

START_TEST(one_hash_with_clipping)
{
	uint64_t hash, other;
	struct tiny spilled = { .dtype = ST_BF16,
				.clip = 0.5,
				.update = ST_UPDATE_DEFERRED,
				.param_home = NVME,
				.state_home = NVME,
				.spills = true };

	check_all(ST_BF16, 0.5, true, &hash);
	ck_assert_uint_eq(hash_after(&spilled, STEPS), hash);
	spilled.clip = 0;
	other = hash_after(&spilled, STEPS);
	ck_assert_uint_ne(other, hash); /* clipping did something */
}
END_TEST

START_TEST(one_hash_in_fp32)
{
	uint64_t hash;

	check_all(ST_F32, 0.5, true, &hash);
}
END_TEST

START_TEST(small_budgets_change_nothing)
{
	struct tiny t = { .dtype = ST_BF16,
			  .clip = 0.5,
			  .update = ST_UPDATE_DEFERRED,
			  .param_home = NVME,
			  .state_home = NVME };
	uint64_t want = hash_after(&t, STEPS), smallest[2];
	struct tiny_run r = { 0 };

	tiny_plan(&r, &t);
	memcpy(smallest, r.plan->min_bytes, sizeof(smallest));
	st_plan_destroy(r.plan);
	st_gpt2_destroy(r.model);
	st_device_close(r.dev);
	t.device_bytes = smallest[0];
	t.host_bytes = smallest[1];
	ck_assert_uint_eq(hash_after(&t, STEPS), want);
	t.device_bytes = smallest[0] * 3 / 2;
	t.host_bytes = smallest[1] * 3 / 2;
	ck_assert_uint_eq(hash_after(&t, STEPS), want);
}
END_TEST

START_TEST(too_small_a_budget_names_the_smallest)
{
	struct tiny t = { .dtype = ST_BF16,
			  .update = ST_UPDATE_DEFERRED,
			  .param_home = NVME,
			  .state_home = NVME };
	struct tiny_run r = { 0 };
	struct st_plan *plan;
	struct st_plan_cfg cfg;

	tiny_plan(&r, &t);
	cfg = r.plan->cfg;
	cfg.device_bytes = r.plan->min_bytes[0] - 1;
	ck_assert_int_eq(st_plan_create(&plan, &cfg), STRATA_E_NO_FIT);
	ck_assert_msg(strstr(st_last_error(), "device") && strstr(st_last_error(), "MiB"), "%s",
		      st_last_error());
	cfg.device_bytes++;
	CK(st_plan_create(&plan, &cfg));
	ck_assert_uint_le(plan->arena_bytes[0], cfg.device_bytes);
	st_plan_destroy(plan);
	st_plan_destroy(r.plan);
	st_gpt2_destroy(r.model);
	st_device_close(r.dev);
}
END_TEST

START_TEST(programs_verify)
{
	static const enum st_home homes[][2] = {
		{ DEV, DEV }, { HOST, HOST }, { NVME, NVME }, { NVME, HOST }, { DEV, NVME }
	};

	for (size_t i = 0; i < 2 * ST_ARRAY_LEN(homes); i++) {
		struct tiny t = { .dtype = ST_BF16,
				  .param_home = homes[i / 2][0],
				  .state_home = homes[i / 2][1],
				  .update = i % 2 ? ST_UPDATE_DEFERRED : ST_UPDATE_IMMEDIATE,
				  .order = i % 3 ? ST_ORDER_VERTICAL : ST_ORDER_HORIZONTAL,
				  .spills = i % 4 == 1,
				  .commits = i % 5 < 3 };
		struct tiny_run r = { 0 };

		tiny_plan(&r, &t);
		for (unsigned v = 0; v < ST_VARIANT_N; v++)
			if (r.plan->program[v])
				CK(st_program_verify(r.plan->program[v]));
		st_plan_destroy(r.plan);
		st_gpt2_destroy(r.model);
		st_device_close(r.dev);
	}
}
END_TEST

/* Stop, save, open again in a new engine: as if nothing had happened. Also saves and evaluations in
 * between change nothing. */
static void check_resume(struct tiny t)
{
	uint64_t want = hash_after(&t, STEPS);
	struct st_snapshot snap;
	struct tiny_run r;
	char json[4096];
	int32_t tokens[2 * 24] = { 0 };
	double loss;

	tiny_open(&r, &t);
	for (unsigned s = 1; s <= 2; s++)
		tiny_step(&r, s, NULL);
	CK(st_engine_eval(r.engine, tokens, tokens, &loss));
	ck_assert(isfinite(loss) && loss > 0);
	tiny_step(&r, 3, NULL);
	CK(st_engine_save(r.engine));
	CK(st_engine_save(r.engine));
	tiny_step(&r, 4, NULL);
	CK(st_engine_save(r.engine));
	st_engine_close(r.engine, false);
	memcpy(json, r.run_json, sizeof(json));
	tiny_engine(&r, &t, json);
	ck_assert(st_engine_resumed(r.engine, &snap));
	ck_assert_uint_eq(snap.step, 4);
	ck_assert_uint_eq(snap.cursor, 24);
	for (unsigned s = 5; s <= STEPS; s++)
		tiny_step(&r, s, NULL);
	ck_assert_uint_eq(tiny_hash(&r), want);
	tiny_close(&r);
}

START_TEST(resumes_bit_exactly)
{
	check_resume((struct tiny){ .dtype = ST_BF16,
				    .clip = 0.5,
				    .update = ST_UPDATE_DEFERRED,
				    .param_home = NVME,
				    .state_home = NVME,
				    .commits = true });
	check_resume((struct tiny){ .dtype = ST_BF16,
				    .update = ST_UPDATE_IMMEDIATE,
				    .param_home = NVME,
				    .state_home = HOST });
	check_resume((struct tiny){ .dtype = ST_F32, .clip = 0.5, .update = ST_UPDATE_DEFERRED });
}
END_TEST

int main(void)
{
	Suite *s = suite_create("engine");
	TCase *t = tcase_create("engine");
	SRunner *r;
	int failed;

	tcase_add_test(t, programs_verify);
	tcase_add_test(t, too_small_a_budget_names_the_smallest);
	tcase_add_test(t, one_hash_without_clipping);
	tcase_add_test(t, one_hash_with_clipping);
	tcase_add_test(t, one_hash_in_fp32);
	tcase_add_test(t, small_budgets_change_nothing);
	tcase_add_test(t, resumes_bit_exactly);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
