/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/engine_cases.h - bit-exactness: one state hash, wherever the state lives and however it
 * moves. test_engine.c runs these on small models, test_engine_long.c longer and on larger ones.
 */
#ifndef TESTS_ENGINE_CASES_H
#define TESTS_ENGINE_CASES_H

#include "tests/engine_util.h"

#include <limits.h>
#include <math.h>

#define NVME ST_HOME_NVME
#define HOST ST_HOME_HOST
#define DEV  ST_HOME_DEVICE

/* Every variation must give the hash of the plain case with the same mathematics. */
static const struct variation {
	const char *name;
	struct tiny t;
} variations[] = {
	{ "cpu", { .param_home = HOST, .state_home = HOST } },
	{ "nvme", { .param_home = NVME, .state_home = NVME, .is_for_formats = true } },
	{ "parameters on nvme", { .param_home = NVME, .state_home = HOST } },
	{ "optimizer on nvme", { .param_home = DEV, .state_home = NVME } },
	{ "two paths", { .param_home = NVME, .state_home = NVME, .n_paths = 2 } },
	{ "threads", { .param_home = NVME, .state_home = NVME, .backend = "threads" } },
	{ "horizontal", { .param_home = NVME, .state_home = NVME, .order = ST_ORDER_HORIZONTAL } },
	{ "no recompute", { .param_home = NVME, .state_home = NVME, .keeps_activations = true } },
	{ "activations on host", { .param_home = NVME, .state_home = NVME, .acts_on_host = true } },
	{ "pinned in part",
	  { .param_home = NVME,
	    .state_home = NVME,
	    .spare_bytes = 3 << 20,
	    .is_for_formats = true } },
	{ "pinned in part, committed",
	  { .param_home = NVME, .state_home = NVME, .spare_bytes = 12 << 20, .commits = true } },
	{ "speculative",
	  { .param_home = NVME,
	    .state_home = NVME,
	    .commits = true,
	    .update = ST_UPDATE_SPECULATIVE } },
	{ "speculative, gradients on nvme, pinned in part",
	  { .param_home = NVME,
	    .state_home = NVME,
	    .commits = true,
	    .update = ST_UPDATE_SPECULATIVE,
	    .spare_bytes = 2 << 20,
	    .is_for_formats = true } },
	{ "the planner's modes",
	  { .param_home = NVME, .state_home = NVME, .commits = true, .plans_modes = true } },
	{ "committed", { .param_home = NVME, .state_home = NVME, .commits = true } },
	{ "committed, mixed homes", { .param_home = NVME, .state_home = HOST, .commits = true } },
};

/* The same where the device's memory is not the host's; updates_on_host matters with DEV, DEV. */
static const struct variation separate_variations[] = {
	{ "all on the device", { .param_home = DEV, .state_home = DEV, .is_for_formats = true } },
	{ "all on the device, updates on the host",
	  { .param_home = DEV, .state_home = DEV, .updates_on_host = true } },
	{ "all on the device, committed",
	  { .param_home = DEV, .state_home = DEV, .commits = true } },
	{ "all on the device, gradients on nvme",
	  { .param_home = DEV, .state_home = DEV, .spills = true } },
	{ "optimizer on cpu", { .param_home = DEV, .state_home = HOST, .is_for_formats = true } },
	{ "optimizer on cpu, committed",
	  { .param_home = DEV, .state_home = HOST, .commits = true, .updates_on_host = true } },
	{ "states on the device alone", { .param_home = HOST, .state_home = DEV } },
	{ "cpu, activations on host",
	  { .param_home = HOST, .state_home = HOST, .acts_on_host = true } },
	{ "cpu, activations on host, kept, horizontal",
	  { .param_home = HOST,
	    .state_home = HOST,
	    .acts_on_host = true,
	    .keeps_activations = true,
	    .order = ST_ORDER_HORIZONTAL } },
};

static inline uint64_t hash_after(const struct tiny *t, unsigned steps)
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

/* A variation of a plain case, of which dtype, clip, update and is_wide are taken. */
static inline void check_variation(const struct variation *v, const struct tiny *plain,
				   bool is_separate, unsigned steps, uint64_t want)
{
	struct tiny t = v->t;
	uint64_t got;

	t.is_separate = is_separate;
	t.dtype = plain->dtype;
	t.moments = plain->moments;
	t.kind = plain->kind;
	t.momentum = plain->momentum;
	t.loss_scale = plain->loss_scale;
	t.power = plain->power;
	t.clip = plain->clip;
	t.update = t.plans_modes ? ST_UPDATE_AUTO : t.update ? t.update : plain->update;
	t.is_wide = plain->is_wide;
	got = hash_after(&t, steps);
	ck_assert_msg(got == want, "%s%s, update mode %d, clip %g: %016lx, plain %016lx", v->name,
		      is_separate ? ", separate device" : "", (int)t.update, t.clip, got, want);
}

/* All variations of a plain case, which waits for its table's update; the others look ahead. */
static inline uint64_t check(const struct tiny *t_plain, unsigned steps, bool is_for_formats)
{
	struct tiny plain = *t_plain;
	uint64_t want;

	plain.waits = true;
	want = hash_after(&plain, steps);
	for (size_t i = 0; i < ST_ARRAY_LEN(variations); i++)
		if (!is_for_formats || variations[i].t.is_for_formats)
			check_variation(&variations[i], &plain, plain.is_separate, steps, want);
	return want;
}

/* The same on a device of its own memory: these variations and more. */
static inline void check_separate(const struct tiny *t_plain, unsigned steps, bool is_for_formats)
{
	struct tiny plain = *t_plain;
	uint64_t want;

	plain.waits = true;
	want = hash_after(&plain, steps);
	for (size_t i = 0; i < ST_ARRAY_LEN(separate_variations); i++)
		if (!is_for_formats || separate_variations[i].t.is_for_formats)
			check_variation(&separate_variations[i], &plain, true, steps, want);
	for (size_t i = 0; i < ST_ARRAY_LEN(variations); i++)
		if (!is_for_formats || variations[i].t.is_for_formats)
			check_variation(&variations[i], &plain, true, steps, want);
}

static inline uint64_t check_all(const struct tiny *plain, unsigned steps)
{
	return check(plain, steps, false);
}

/* The rows of a batch, updated ahead of their table, have the bits that waiting for it gives.
 * cases: bit i, of `ahead`. */
static inline void check_lookahead(enum st_dtype dtype, enum tiny_text text, unsigned steps,
				   unsigned cases)
{
	static const struct tiny ahead[] = {
		{ .param_home = DEV, .state_home = DEV },
		{ .param_home = NVME, .state_home = NVME, .n_paths = 2 },
		{ .param_home = NVME, .state_home = NVME, .spills = true, .commits = true },
		{ .param_home = NVME, .state_home = HOST, .order = ST_ORDER_HORIZONTAL },
		{ .param_home = HOST, .state_home = NVME, .spills = true },
		{ .param_home = NVME, .state_home = NVME, .spare_bytes = 4 << 20, .commits = true },
	};
	struct tiny waits = { .waits = true };
	uint64_t want = 0;

	for (size_t i = 0; i <= ST_ARRAY_LEN(ahead); i++) {
		struct tiny t = i ? ahead[i - 1] : waits;
		uint64_t got;

		if (i && !(cases >> (i - 1) & 1))
			continue;
		t.dtype = dtype;
		t.text = text;
		t.clip = 0.5;
		t.update = ST_UPDATE_DEFERRED;
		got = hash_after(&t, steps);
		want = i ? want : got;
		ck_assert_msg(got == want, "%s, text %d, case %zu: %016lx, waiting %016lx",
			      st_dtype_name(dtype), (int)text, i, got, want);
	}
}

/* Half of what is useful, the smallest budgets that work, and something between. */
static inline void check_budgets(struct tiny t, unsigned steps)
{
	uint64_t want = hash_after(&t, steps), smallest[ST_ARENA_N], useful[ST_ARENA_N];
	struct tiny_run r = { 0 };

	tiny_plan(&r, &t);
	memcpy(smallest, r.plan->min_bytes, sizeof(smallest));
	memcpy(useful, r.plan->arena_bytes, sizeof(useful));
	tiny_unplan(&r);
	for (unsigned i = 0; i < 3; i++) {
		uint64_t budget[ST_ARENA_N];

		for (unsigned a = 0; a < ST_ARENA_N; a++) {
			budget[a] = i == 0   ? smallest[a]
				    : i == 1 ? smallest[a] * 3 / 2
					     : useful[a] / 2;
			if (budget[a] < smallest[a])
				budget[a] = smallest[a];
		}
		t.device_bytes = budget[ST_ARENA_DEVICE];
		t.host_bytes = budget[ST_ARENA_HOST];
		ck_assert_uint_eq(hash_after(&t, steps), want);
	}
}

/* Stop, save, open again in a new engine: as if nothing had happened. Also saves and evaluations in
 * between change nothing. steps: 5 or more. */
static inline void check_resume(struct tiny t, unsigned steps)
{
	uint64_t want = hash_after(&t, steps);
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
	for (unsigned s = 5; s <= steps; s++)
		tiny_step(&r, s, NULL);
	ck_assert_uint_eq(tiny_hash(&r), want);
	tiny_close(&r);
}

/* Everything above, on one of the two models. is_short: deferred updates on some variations only,
 * for with clipping they are tried on all. */
static inline void check_without_clipping(bool is_wide, unsigned steps, bool is_short)
{
	struct tiny t = { .dtype = ST_BF16, .update = ST_UPDATE_IMMEDIATE, .is_wide = is_wide };
	uint64_t immediate = check_all(&t, steps);

	t.update = ST_UPDATE_DEFERRED;
	ck_assert_uint_eq(check(&t, steps, is_short), immediate);
	/* Some units at once, some deferred: the embedding among these, or among those. */
	t.param_home = t.state_home = NVME;
	t.commits = true;
	for (t.immediate = 0x15; t.immediate < 0x40; t.immediate += 0x15)
		ck_assert_uint_eq(hash_after(&t, steps), immediate);
	t.immediate = 0x15;
	check_resume(t, steps > 5 ? steps : 5);
}

static inline void check_with_clipping(bool is_wide, unsigned steps)
{
	struct tiny t = {
		.dtype = ST_BF16, .clip = 0.5, .update = ST_UPDATE_DEFERRED, .is_wide = is_wide
	};
	uint64_t want = check_all(&t, steps);

	t.param_home = t.state_home = NVME;
	t.spills = true;
	ck_assert_uint_eq(hash_after(&t, steps), want);
	t.clip = 0;
	ck_assert_uint_ne(hash_after(&t, steps), want); /* clipping did something */
}

static inline void check_resumes(bool is_wide, unsigned steps)
{
	struct tiny t = { .dtype = ST_BF16,
			  .clip = 0.5,
			  .update = ST_UPDATE_DEFERRED,
			  .param_home = NVME,
			  .state_home = NVME,
			  .commits = true,
			  .is_wide = is_wide };

	check_resume(t, steps);
	t = (struct tiny){ .dtype = ST_BF16,
			   .update = ST_UPDATE_IMMEDIATE,
			   .param_home = NVME,
			   .state_home = HOST,
			   .is_wide = is_wide };
	check_resume(t, steps);
	t = (struct tiny){
		.dtype = ST_F32, .clip = 0.5, .update = ST_UPDATE_DEFERRED, .is_wide = is_wide
	};
	check_resume(t, steps);
}

/* Formats and optimizers beside AdamW with fp32 moments, each with its own hash. */
static const struct tiny formats[] = {
	{ .dtype = ST_BF16,
	  .moments = STRATA_MOMENTS_INT8,
	  .clip = 0.5,
	  .update = ST_UPDATE_DEFERRED },
	{ .dtype = ST_F16, .power = 24, .clip = 0.5, .update = ST_UPDATE_DEFERRED },
	{ .dtype = ST_BF16, .moments = STRATA_MOMENTS_BF16, .update = ST_UPDATE_IMMEDIATE },
	{ .dtype = ST_BF16,
	  .kind = STRATA_OPTIM_LION,
	  .moments = STRATA_MOMENTS_INT8,
	  .update = ST_UPDATE_IMMEDIATE },
	{ .dtype = ST_F32,
	  .kind = STRATA_OPTIM_SGD,
	  .momentum = 0.9,
	  .update = ST_UPDATE_IMMEDIATE },
	{ .dtype = ST_F32, .kind = STRATA_OPTIM_SGD, .update = ST_UPDATE_IMMEDIATE },
	{ .dtype = ST_F16,
	  .kind = STRATA_OPTIM_ADAGRAD,
	  .moments = STRATA_MOMENTS_BF16,
	  .loss_scale = 512,
	  .update = ST_UPDATE_DEFERRED },
};

#endif
