/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_predict.c - predicted steps: small programs against arithmetic, real plans against
 * their bounds, published systems against what their authors measured, a GPU's lanes against bytes.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/gpt2.h"
#include "offload/bound.h"
#include "offload/predict.h"
#include "offload/rank.h"
#include "strata/train.h"

#define GB 1000000000ull

#define CK(call)                                                                                   \
	do {                                                                                       \
		int ck_rc = (call);                                                                \
		ck_assert_msg(ck_rc >= 0, "%s: %d: %s", #call, ck_rc, st_last_error());            \
	} while (0)

/* ---- programs by hand ---------------------------------------------------------------------- */

static const struct st_unit_desc units[1] = { { .name = "u", .elems = 4096 } };
static const struct st_stage_desc stages[2] = { { .name = "s", .n_units = 1 },
						{ .name = "t", .n_units = 1 } };
static const struct st_model model = {
	.units = units, .n_units = 1, .stages = stages, .n_stages = 2
};

/* Round rates: 100 GFLOP/s, 2 GB/s read, 1 GB/s written, no latency. */
static struct st_hardware round_rates(void)
{
	struct st_hardware hw;

	st_hardware_default(&hw);
	hw.product_flops[ST_F32] = 1e11;
	hw.device_latency_ns = hw.drive_latency_ns = hw.flush_ns = 0;
	hw.read_bytes_per_s = 2e9;
	hw.write_bytes_per_s = 1e9;
	return hw;
}

struct hand { /* one step: read into a buffer, compute with it; and write beside, 0: nothing */
	uint64_t read, write;
	double flops;
	bool depends; /* compute uses what was read */
	unsigned buffers;
};

static struct st_program *by_hand(const struct hand *h)
{
	struct st_pool_place places[ST_POOL_N] = { { 0 } };
	struct st_builder *b;
	struct st_program *p;
	enum st_pool failed;
	uint32_t gate, claim = ST_NO_CLAIM;

	places[ST_POOL_PARAM].bytes = h->buffers * (uint64_t)4096;
	CK(st_builder_create(&b, "by hand", 4));
	gate = st_builder_op(b, ST_OP_GATE, ST_NONE, ST_NONE, ST_NONE, ST_NONE);
	if (h->read) {
		st_builder_op(b, ST_OP_READ_PARAM, 0, ST_NONE, ST_NONE, ST_NONE);
		st_builder_last(b)->bytes = h->read;
		st_builder_touch(b, 0, 0, 0, !h->depends);
		if (h->depends) {
			claim = st_builder_claim(b, ST_POOL_PARAM, 4096);
			st_builder_use(b, ST_ROLE_PARAM0, claim, 0, 4096, true);
		} else {
			st_builder_after(b, gate);
		}
	}
	if (h->write) {
		st_builder_op(b, ST_OP_WRITE_PARAM, 0, ST_NONE, ST_NONE, ST_NONE);
		st_builder_last(b)->bytes = h->write;
		st_builder_touch(b, 1, 0, 0, true);
		st_builder_after(b, gate);
	}
	st_builder_op(b, ST_OP_FORWARD, ST_NONE, ST_NONE, 0, 0);
	st_builder_last(b)->flops = h->flops;
	st_builder_touch(b, 2, 0, 0, true);
	st_builder_after(b, gate);
	if (claim != ST_NO_CLAIM)
		st_builder_use(b, ST_ROLE_PARAM0, claim, 0, 4096, false);
	st_builder_op(b, ST_OP_NORM, ST_NONE, ST_NONE, ST_NONE, ST_NONE);
	for (uint32_t r = h->depends; r < 3; r++)
		st_builder_touch(b, r, 0, 0, true);
	st_builder_after(b, gate);
	CK(st_builder_seal(b, places, &p, &failed));
	st_builder_destroy(b);
	return p;
}

static struct st_prediction predict(const struct hand *h, const struct st_hardware *hw)
{
	struct st_program *p = by_hand(h);
	const struct st_predict_cfg cfg = {
		.hw = hw, .model = &model, .dtype = ST_F32, .first = p, .steady = p
	};
	struct st_prediction out;

	CK(st_predict(&out, &cfg));
	ck_assert_msg(out.bound_s <= out.step_s * (1 + 1e-6), "bound %g above the step's %g",
		      out.bound_s, out.step_s);
	ck_assert_double_ge(out.bound_by_phase_s, out.bound_s);
	for (unsigned l = 0; l < ST_LANE_N; l++)
		ck_assert_double_eq_tol(out.lane[l].busy_s + out.lane[l].wait_s, out.step_s, 1e-9);
	st_program_destroy(p);
	return out;
}

START_TEST(reads_run_ahead_as_far_as_there_are_buffers)
{
	struct st_hardware hw = round_rates();
	struct hand h = { .read = GB, .flops = 1e11, .depends = true, .buffers = 1 };
	struct st_prediction one = predict(&h, &hw), two;

	ck_assert_double_eq_tol(one.step_s, 1.5, 1e-6); /* 0.5 s of reading, then 1 s */
	ck_assert_double_eq_tol(one.bound_s, 1, 1e-6);
	ck_assert_int_eq(one.limiting, ST_LANE_COMPUTE);
	ck_assert_double_eq_tol(one.lane[ST_LANE_READ].busy_s, 0.5, 1e-6);
	ck_assert_double_eq_tol(one.lane[ST_LANE_COMPUTE].wait_s, 0.5, 1e-6);
	ck_assert_uint_eq(one.lane[ST_LANE_READ].bytes, GB);

	h.buffers = 2;
	h.read = 3 * GB; /* 1.5 s, the whole of it beside compute */
	two = predict(&h, &hw);
	ck_assert_double_eq_tol(two.step_s, 2.5, 1e-6);
	ck_assert_int_eq(two.limiting, ST_LANE_READ);
}
END_TEST

START_TEST(directions_share_a_drive_or_do_not)
{
	struct st_hardware hw = round_rates();
	const struct hand h = { .read = 2 * GB, .write = GB };
	struct st_prediction p;

	hw.is_shared = false;
	p = predict(&h, &hw);
	ck_assert_double_eq_tol(p.step_s, 1, 1e-6);
	ck_assert_double_eq_tol(p.bound_s, 1, 1e-6);
	hw.is_shared = true; /* each has half of the time */
	p = predict(&h, &hw);
	ck_assert_double_eq_tol(p.step_s, 2, 1e-6);
	ck_assert_double_eq_tol(p.bound_s, 2, 1e-6);
	hw.mixed_bytes_per_s = 1.6e9; /* 0.8 each: 1.25 s together, then 1 GB of reads alone */
	p = predict(&h, &hw);
	ck_assert_double_eq_tol(p.step_s, 1.25 + 0.5, 1e-6);
	ck_assert_double_eq_tol(p.bound_s, 1.75, 1e-6);
	hw.mixed_read_share = 0.75; /* 1.2 and 0.4: reads end after 5/3 s, 1/3 GB is left */
	p = predict(&h, &hw);
	ck_assert_double_eq_tol(p.step_s, 2.0, 1e-6);
	ck_assert_double_eq_tol(p.bound_s, 2.0, 1e-6);
	/* Slower than one after the other, which would take 2 s: 0.6 each until the write is done.
	 */
	hw.mixed_bytes_per_s = 1.2e9;
	hw.mixed_read_share = 0.5;
	p = predict(&h, &hw);
	ck_assert_double_eq_tol(p.step_s, 1 / 0.6 + 0.5, 1e-6);
	ck_assert_double_eq_tol(p.bound_s, 1 / 0.6 + 0.5, 1e-6);
	ck_assert_int_eq(p.limiting, ST_LANE_READ);
}
END_TEST

/* At the proportion at which the mixed rate was taken the drives' part is bytes over that rate. */
START_TEST(reads_and_writes_share_one_rate)
{
	const struct st_drive_rates d = {
		.read = 2e9, .write = 1e9, .mixed_read = 0.9e9, .mixed_write = 0.3e9
	};
	struct st_work w = { .read_bytes = 3 * GB, .write_bytes = GB };
	struct st_bound b;

	w.io_s = st_bound_io_s(&d, 3e9 / d.read, 1e9 / d.write);
	ck_assert_double_eq_tol(w.io_s, 4e9 / 1.2e9, 1e-9);
	/* One direction alone has its own rate. */
	ck_assert_double_eq_tol(st_bound_io_s(&d, 0, 2), 2, 1e-9);
	ck_assert_double_eq_tol(st_bound_io_s(&d, 3, 0), 3, 1e-9);
	/* The longest resource limits. */
	w.lane_s[ST_LANE_COMPUTE] = 3;
	w.lane_s[ST_LANE_READ] = w.lane_s[ST_LANE_COMMIT] = 99; /* stand in io_s, and beside it */
	b = st_bound(&w);
	ck_assert_double_eq_tol(b.s, w.io_s, 1e-9);
	ck_assert_str_eq(b.limiting, "nvme-read");
	w.lane_s[ST_LANE_H2D] = 4;
	b = st_bound(&w);
	ck_assert_double_eq_tol(b.s, 4, 1e-9);
	ck_assert_int_eq(b.lane, ST_LANE_H2D);
	w.checksum_s = 5;
	ck_assert_str_eq(st_bound(&w).limiting, "checksum");
	/* What was in flight for 2 s needed no longer. */
	w.io_most_s = 2;
	w.lane_s[ST_LANE_H2D] = w.checksum_s = 0;
	b = st_bound(&w);
	ck_assert_double_eq_tol(b.io_s, 2, 1e-9);
	ck_assert_double_eq_tol(b.s, 3, 1e-9);
	ck_assert_str_eq(b.limiting, "compute");
}
END_TEST

START_TEST(compute_and_io_slow_each_other)
{
	struct st_hardware hw = round_rates();
	const struct hand h = { .read = 2 * GB, .flops = 1e11 };
	struct st_prediction p;

	p = predict(&h, &hw);
	ck_assert_double_eq_tol(p.step_s, 1, 1e-6);
	hw.compute_beside_io = 0.5; /* half of it beside the read, half of it alone */
	p = predict(&h, &hw);
	ck_assert_double_eq_tol(p.step_s, 1.5, 1e-6);
	ck_assert_double_eq_tol(p.bound_s, 1.5, 1e-6);
	hw.compute_beside_io = 1;
	hw.io_beside_compute = 0.25;
	p = predict(&h, &hw);
	ck_assert_double_eq_tol(p.step_s, 1.75, 1e-6);
	ck_assert_double_eq_tol(p.bound_s, 1.75, 1e-6);
	ck_assert_int_eq(p.limiting, ST_LANE_READ);
}
END_TEST

/* ---- ranks --------------------------------------------------------------------------------- */

struct shape {
	struct st_gpt2_cfg gpt2;
	size_t batch;
	struct st_rank_cfg rank;
};

struct described {
	struct st_device *dev;
	struct st_model *model;
	struct st_rank *rank;
};

static struct st_prediction predict_rank(const struct shape *s, struct described *d)
{
	const struct st_device_cfg dev = { .type = "host", .dtype = ST_BF16, .threads = 1 };
	struct st_rank_cfg cfg = s->rank;
	struct st_predict_cfg pred = { .hw = cfg.hw, .dtype = ST_BF16 };
	struct st_prediction out;

	CK(st_device_open(&d->dev, &dev));
	CK(st_gpt2_create(&d->model, &s->gpt2, s->batch, s->gpt2.n_positions, d->dev, ST_BF16));
	cfg.model = pred.model = d->model;
	cfg.dtype = ST_BF16;
	cfg.n_mb = cfg.n_mb ? cfg.n_mb : 1;
	cfg.recompute = true;
	CK(st_rank_create(&d->rank, &cfg));
	CK(st_program_verify(d->rank->steady));
	CK(st_program_verify(d->rank->first));
	pred.first = d->rank->first;
	pred.steady = d->rank->steady;
	CK(st_predict(&out, &pred));
	ck_assert_double_le(out.bound_s, out.step_s * (1 + 1e-6));
	return out;
}

static void forget(struct described *d)
{
	st_rank_destroy(d->rank);
	st_gpt2_destroy(d->model);
	st_device_close(d->dev);
}

static double predict_s(const struct shape *s)
{
	struct described d;
	double step_s = predict_rank(s, &d).step_s;

	forget(&d);
	return step_s;
}

static struct st_hardware dgx2(void)
{
	struct st_hardware hw;

	CK(st_hardware_load(&hw, STRATA_SOURCE_DIR "/examples/hardware/dgx2-v100.json"));
	return hw;
}

static const struct st_gpt2_cfg small = { 4, 1024, 16, 1024, 4096 };

START_TEST(no_step_gets_slower_on_a_faster_machine)
{
	struct st_hardware hw = dgx2();
	double *rates[] = { &hw.read_bytes_per_s,   &hw.write_bytes_per_s,    &hw.h2d_bytes_per_s,
			    &hw.d2h_bytes_per_s,    &hw.network_bytes_per_s,  &hw.host_bytes_per_s,
			    &hw.device_bytes_per_s, &hw.product_flops[ST_F16] };

	for (unsigned style = ST_RANK_STRATA; style <= ST_RANK_SERIAL; style++) {
		const struct shape s = { small,
					 2,
					 { .hw = &hw,
					   .param_home = ST_HOME_NVME,
					   .state_home = ST_HOME_NVME,
					   .update = ST_UPDATE_DEFERRED,
					   .acts_on_host = true,
					   .style = style } };
		double before = predict_s(&s);

		for (size_t i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
			double kept = *rates[i], after;

			*rates[i] *= 2;
			after = predict_s(&s);
			/* The order of what runs ahead may change, so not to the last bit. */
			ck_assert_msg(after <= before * 1.01, "style %u, rate %zu: %g s, then %g",
				      style, i, before, after);
			*rates[i] = kept;
		}
	}
}
END_TEST

/* Bytes per parameter of the drives, from the programs. */
START_TEST(a_rank_moves_the_bytes_of_its_style)
{
	static const struct {
		enum st_rank_style style;
		enum st_update update;
		bool spills;
		double read, write;
	} cases[] = {
		{ ST_RANK_STRATA, ST_UPDATE_DEFERRED, false, 14, 12 },
		{ ST_RANK_STRATA, ST_UPDATE_DEFERRED, true, 16, 14 },
		{ ST_RANK_STRATA, ST_UPDATE_IMMEDIATE, false, 14, 12 },
		{ ST_RANK_DEEPSPEED, ST_UPDATE_DEFERRED, false, 20, 18 },
	};
	struct st_hardware hw = dgx2();

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const struct shape s = { { 24, 1024, 16, 1024, 512 },
					 1,
					 { .hw = &hw,
					   .param_home = ST_HOME_NVME,
					   .state_home = ST_HOME_NVME,
					   .update = cases[i].update,
					   .spills_grads = cases[i].spills,
					   .style = cases[i].style } };
		struct described d;
		struct st_prediction p = predict_rank(&s, &d);
		double n = (double)d.rank->n_elems;

		/* The embeddings take part in two stages, or in none of backward. */
		ck_assert_double_eq_tol((double)p.lane[ST_LANE_READ].bytes / n, cases[i].read,
					0.05);
		ck_assert_double_eq_tol((double)p.lane[ST_LANE_WRITE].bytes / n, cases[i].write,
					0.05);
		ck_assert_double_eq_tol((double)p.lane[ST_LANE_NETWORK].bytes / n, 6 * 15.0, 1.5);
		forget(&d);
	}
}
END_TEST

/* ---- published figures --------------------------------------------------------------------- */

static void ck_within(const char *what, double got, double published, double share)
{
	fprintf(stderr, "%-52s %8.3g, published %8.3g: %+.0f %%\n", what, got, published,
		100 * (got / published - 1));
	ck_assert_msg(got > published * (1 - share) && got < published * (1 + share),
		      "%s: %g, published %g", what, got, published);
}

/* ZeRO-Infinity, section 4: one bandwidth is the only limit, and nothing is overlapped. */
static struct st_hardware all_but_free(void)
{
	struct st_hardware hw;

	st_hardware_default(&hw);
	hw.device_type = ST_HW_GPU;
	memset(hw.product_flops, 0, sizeof(hw.product_flops));
	hw.product_flops[ST_F16] = 70e12;
	hw.attention_flops = 0;
	hw.device_bytes_per_s = hw.host_bytes_per_s = 1e18;
	hw.read_bytes_per_s = hw.write_bytes_per_s = 1e18;
	hw.h2d_bytes_per_s = hw.d2h_bytes_per_s = 1e18;
	hw.drive_latency_ns = hw.device_latency_ns = hw.flush_ns = 0;
	hw.is_shared = false;
	return hw;
}

static double efficiency(const struct shape *s)
{
	struct described d;
	struct st_prediction p = predict_rank(s, &d);

	forget(&d);
	return p.lane[ST_LANE_COMPUTE].work_s / p.step_s;
}

START_TEST(zero_infinity_efficiency_by_bandwidth)
{
	static const double gbps[] = { 1, 4, 16, 70, 300, 1500 };
	static const size_t batches[] = { 1, 2, 16 };
	char what[96];

	for (size_t i = 0; i < 6; i++) {
		double bw = gbps[i] * 1e9;

		for (size_t k = 0; k < 3; k++) {
			struct st_hardware hw = all_but_free();
			struct shape s = { { 6, 8192, 64, 1024, 256 },
					   batches[k],
					   { .hw = &hw,
					     .param_home = ST_HOME_HOST,
					     .state_home = ST_HOME_HOST,
					     .style = ST_RANK_SERIAL } };
			double ait = 1024.0 * (double)batches[k];

			hw.h2d_bytes_per_s = hw.d2h_bytes_per_s = bw;
			snprintf(what, sizeof(what), "parameters, %g GB/s, batch %zu", gbps[i],
				 batches[k]);
			ck_within(what, efficiency(&s), ait * bw / (ait * bw + 70e12), 0.2);

			hw = all_but_free();
			hw.read_bytes_per_s = hw.write_bytes_per_s = bw;
			s.rank.state_home = ST_HOME_NVME;
			snprintf(what, sizeof(what), "optimizer states, %g GB/s, batch %zu",
				 gbps[i], batches[k]);
			ck_within(what, efficiency(&s), ait / 4 * bw / (ait / 4 * bw + 70e12), 0.2);
		}
	}
	/* States and parameters on the device: nothing is copied but activations. */
	for (size_t hd = 2048; hd <= 32768; hd *= 4) {
		for (size_t i = 0; i < 3; i++) {
			double bw = gbps[i] * 1e9, ait = 24.0 * (double)hd;
			struct st_hardware hw = all_but_free();
			const struct shape s = { { 6, hd, hd / 128, 1024, 256 },
						 2,
						 { .hw = &hw,
						   .param_home = ST_HOME_DEVICE,
						   .state_home = ST_HOME_DEVICE,
						   .acts_on_host = true,
						   .style = ST_RANK_SERIAL } };

			hw.h2d_bytes_per_s = hw.d2h_bytes_per_s = bw;
			snprintf(what, sizeof(what), "activations, %g GB/s, hidden %zu", gbps[i],
				 hd);
			ck_within(what, efficiency(&s), ait * bw / (ait * bw + 70e12), 0.2);
		}
	}
}
END_TEST

struct published {
	const char *hardware; /* in examples/hardware, or a path */
	const char *model, *offload, *more;
	unsigned batch;
	enum strata_plan_schedule schedule;
	const char *set; /* or NULL */
};

static struct strata_plan *plan_of(const struct published *c)
{
	char path[] = "/tmp/strata-test-predict.XXXXXX", hardware[512];
	struct strata_options opt = STRATA_OPTIONS_DEFAULT;
	struct strata_plan_options how = STRATA_PLAN_OPTIONS_DEFAULT;
	struct strata_plan *p;
	int fd = mkstemp(path);
	const char *message;
	FILE *f = fd < 0 ? NULL : fdopen(fd, "w");

	ck_assert_ptr_nonnull(f);
	fprintf(f,
		"{\"train_micro_batch_size_per_gpu\": %u, \"gradient_accumulation_steps\": 1,"
		"\"gradient_clipping\": 1, \"bf16\": {\"enabled\": true},"
		"\"optimizer\": {\"type\": \"AdamW\", \"params\": {\"lr\": 1e-4}}, %s"
		"\"zero_optimization\": {\"stage\": 3, %s},"
		"\"strata\": {\"model\": {\"family\": \"gpt2\", %s, \"n_positions\": 1024},"
		"\"steps\": 1, \"output\": \"nowhere\"}}",
		c->batch, c->more, c->offload, c->model);
	ck_assert_int_eq(fclose(f), 0);
	snprintf(hardware, sizeof(hardware), STRATA_SOURCE_DIR "/examples/hardware/%s.json",
		 c->hardware);
	how.hardware = strchr(c->hardware, '/') ? c->hardware : hardware;
	how.schedule = c->schedule;
	opt.sets = &c->set;
	opt.n_sets = c->set != NULL;
	CK(strata_plan_open(&p, path, &opt, &how));
	unlink(path);
	ck_assert_msg(strata_plan_fits(p, &message), "%s", message);
	ck_assert_double_le(strata_plan_time(p)->bound_s, strata_plan_time(p)->step_s * (1 + 1e-6));
	return p;
}

#define GPT_50B "\"n_layer\": 62, \"n_embd\": 8192, \"n_head\": 64, \"vocab_size\": 50257"
#define GPT_8B  "\"n_layer\": 37, \"n_embd\": 4096, \"n_head\": 32, \"vocab_size\": 128256"
#define STATES_NVME                                                                                \
	"\"offload_param\": {\"device\": \"cpu\"},"                                                \
	"\"offload_optimizer\": {\"device\": \"nvme\", \"nvme_path\": \"/nonexistent\"}"
#define ALL_CPU                                                                                    \
	"\"offload_param\": {\"device\": \"cpu\"}, \"offload_optimizer\": {\"device\": \"cpu\"}"
#define ACTS_CPU "\"activation_checkpointing\": {\"cpu_checkpointing\": true},"

START_TEST(fifty_billion_on_a_dgx2)
{
	struct published c = { "dgx2-v100", GPT_50B, STATES_NVME,
			       ACTS_CPU,    26,      STRATA_SCHEDULE_DEEPSPEED,
			       NULL };
	struct strata_plan *p = plan_of(&c);
	const struct strata_plan_time *t = strata_plan_time(p);
	double step_s = t->step_s, both_s = t->forward_s + t->backward_s;

	ck_assert_double_eq_tol((double)strata_plan_info(p)->n_params, 50.36e9, 0.02e9);
	ck_within("50 B on a DGX-2: forward", t->forward_s, 53.6, 0.2);
	ck_within("50 B on a DGX-2: backward", t->backward_s, 152.7, 0.2);
	ck_within("50 B on a DGX-2: optimizer", t->rest_s, 92.6, 0.2);
	ck_within("50 B on a DGX-2: step", t->step_s, 298.9, 0.2);
	strata_plan_close(p);

	/* With the optimizer beside compute: what is left is forward and backward. */
	c.schedule = STRATA_SCHEDULE_STRATA;
	p = plan_of(&c);
	t = strata_plan_time(p);
	ck_within("the same, optimizer overlapped (206 s is perfect)", t->step_s, 206.3, 0.2);
	ck_assert_double_lt(t->step_s, 0.85 * step_s);
	ck_assert_double_lt(t->step_s, 1.15 * both_s);
	strata_plan_close(p);
}
END_TEST

START_TEST(eight_billion_on_a_4090)
{
	static const struct {
		unsigned batch;
		double published_s;
	} cases[] = { { 32, 18.3 }, { 8, 8.97 } };

	for (size_t i = 0; i < 2; i++) {
		const struct published c = {
			"4090-256gb", GPT_8B,         ALL_CPU,
			"",           cases[i].batch, STRATA_SCHEDULE_DEEPSPEED,
			NULL
		};
		struct strata_plan *p = plan_of(&c);
		char what[64];

		ck_assert_double_eq_tol((double)strata_plan_info(p)->n_params, 8.03e9, 0.08e9);
		snprintf(what, sizeof(what), "8 B on a 4090, batch %u: step", cases[i].batch);
		ck_within(what, strata_plan_time(p)->step_s, cases[i].published_s, 0.2);
		strata_plan_close(p);
	}
}
END_TEST

START_TEST(what_does_not_fit_says_what_would)
{
	struct strata_plan_options how = STRATA_PLAN_OPTIONS_DEFAULT;
	struct strata_options opt = STRATA_OPTIONS_DEFAULT;
	const char *sets[] = { "strata.device.memory=1400MiB", "train_micro_batch_size_per_gpu=8" };
	char path[] = "/tmp/strata-test-predict.XXXXXX";
	const struct strata_plan_remedy *r;
	struct strata_plan *p;
	const char *message;
	size_t n;
	int fd = mkstemp(path);
	FILE *f = fd < 0 ? NULL : fdopen(fd, "w");

	ck_assert_ptr_nonnull(f);
	fputs("{\"gradient_accumulation_steps\": 1, \"bf16\": {\"enabled\": true}, \"optimizer\": "
	      "{\"type\": \"AdamW\"}, \"zero_optimization\": {\"stage\": 3, " ALL_CPU "},"
	      "\"strata\": {\"model\": \"gpt2-large\", \"steps\": 1, \"output\": \"nowhere\"}}",
	      f);
	ck_assert_int_eq(fclose(f), 0);
	how.hardware = STRATA_SOURCE_DIR "/examples/hardware/4090-256gb.json";
	opt.sets = sets;
	opt.n_sets = 2;
	CK(strata_plan_open(&p, path, &opt, &how));
	ck_assert(!strata_plan_fits(p, &message));
	ck_assert_msg(strstr(message, "strata.device.memory") != NULL, "%s", message);
	ck_assert_ptr_null(strata_plan_time(p));
	r = strata_plan_remedies(p, &n);
	ck_assert_uint_eq(n, 2);
	for (size_t i = 0; i < n; i++) { /* and it does */
		const char *all[8] = { sets[0], sets[1] };
		struct strata_options with = opt;
		struct strata_plan *q;

		for (size_t k = 0; k < r[i].n_sets; k++)
			all[2 + k] = r[i].sets[k];
		with.sets = all;
		with.n_sets = 2 + r[i].n_sets;
		CK(strata_plan_open(&q, path, &with, &how));
		ck_assert_msg(strata_plan_fits(q, &message), "%s: %s", r[i].what, message);
		ck_assert_uint_eq(strata_plan_info(q)->train_batch, 8);
		strata_plan_close(q);
	}
	strata_plan_close(p);
	unlink(path);
}
END_TEST

/* ---- one GPU, planned by storage tiles ----------------------------------------------------- */

#define SMALL_GPT "\"n_layer\": 6, \"n_embd\": 768, \"n_head\": 12, \"vocab_size\": 8192"
#define ON_DEVICE                                                                                  \
	"\"offload_param\": {\"device\": \"none\"}, \"offload_optimizer\": {\"device\": \"none\"}"

static const struct strata_plan_lane *lane_named(const struct strata_plan *p, const char *name)
{
	size_t n;
	const struct strata_plan_lane *lane = strata_plan_lanes(p, &n);

	for (size_t i = 0; i < n; i++)
		if (!strcmp(lane[i].name, name))
			return &lane[i];
	return NULL;
}

static double bytes_of(const struct strata_plan *p, const char *name)
{
	const struct strata_plan_lane *lane = lane_named(p, name);

	ck_assert_msg(lane != NULL, "no lane %s", name);
	ck_assert_double_ge(lane->busy_s, lane->work_s * (1 - 1e-6) - 1e-6); /* whole ns */
	return (double)lane->bytes;
}

static const struct strata_plan_unit *unit_named(const struct strata_plan *p, const char *name)
{
	size_t n;
	const struct strata_plan_unit *u = strata_plan_units(p, &n);

	for (size_t i = 0; i < n; i++)
		if (!strcmp(u[i].name, name))
			return &u[i];
	ck_abort_msg("no unit %s", name);
	return NULL;
}

static void ck_updated(const struct strata_plan *p, const char *where, const char *why)
{
	size_t n;
	const struct strata_plan_unit *u = strata_plan_units(p, &n);

	ck_assert_uint_gt(n, 6);
	for (size_t i = 0; i < n; i++) {
		ck_assert_msg(!strcmp(u[i].updated_on, where), "%s: on %s, not %s", u[i].name,
			      u[i].updated_on, where);
		ck_assert_msg(strstr(u[i].updated_why, why) != NULL, "%s: %s", u[i].name,
			      u[i].updated_why);
	}
}

/* Parameters and states in host memory: what a step moves, and what its lanes have to do. */
START_TEST(a_gpu_computes_with_copies)
{
	const struct published c = { "4090-256gb",           SMALL_GPT, ALL_CPU, ACTS_CPU, 8,
				     STRATA_SCHEDULE_STRATA, NULL };
	struct strata_plan *p = plan_of(&c);
	double n = (double)strata_plan_info(p)->n_params, act = 8.0 * 1024 * 768 * 2, step_s;
	double in = bytes_of(p, "h2d"), out = bytes_of(p, "d2h");
	struct st_hardware hw;
	struct shape s = { { 6, 768, 12, 1024, 8192 },
			   8,
			   { .hw = &hw,
			     .param_home = ST_HOME_HOST,
			     .state_home = ST_HOME_HOST,
			     .update = ST_UPDATE_DEFERRED,
			     .acts_on_host = true } };

	ck_assert(!strata_plan_time(p)->is_coarse);
	ck_updated(p, "host", "its states live in host memory");
	/* Parameters for forward and for backward, gradients, and what goes into six stages. */
	ck_assert_double_eq_tol(in, 4 * n + 6 * act, 0.1 * in);
	ck_assert_double_eq_tol(out, 2 * n + 6 * act, 0.1 * out);
	ck_assert_double_eq_tol(lane_named(p, "h2d")->work_s, in / 25e9, 1e-6);
	ck_assert_double_eq_tol(lane_named(p, "d2h")->work_s, out / 25e9, 1e-6);
	ck_assert_double_eq_tol(lane_named(p, "optimizer")->work_s, n * 26 / 67e9,
				0.02 * n * 26 / 67e9);
	step_s = strata_plan_time(p)->step_s;
	strata_plan_close(p);

	/* By whole units it is about the same. */
	CK(st_hardware_load(&hw, STRATA_SOURCE_DIR "/examples/hardware/4090-256gb.json"));
	ck_within("by whole units, not by tiles", predict_s(&s), step_s, 0.2);
}
END_TEST

/* All of it on the GPU: batches come in, losses and sums of squares go out. */
START_TEST(a_gpu_updates_what_it_holds)
{
	struct published c = { "4090-256gb",           SMALL_GPT, ON_DEVICE, "", 8,
			       STRATA_SCHEDULE_STRATA, NULL };
	struct strata_plan *p = plan_of(&c);
	double n = (double)strata_plan_info(p)->n_params, here_s, saved_s;

	ck_updated(p, "device", "live there");
	ck_assert_ptr_null(lane_named(p, "optimizer"));
	ck_assert_double_lt(bytes_of(p, "h2d"), 1e6);
	ck_assert_double_lt(bytes_of(p, "d2h"), 1e6);
	here_s = lane_named(p, "compute")->work_s;
	strata_plan_close(p);

	/* It has no kernel for 8-bit moments, which matrices have: their states and parameters go
	 * to the host and back. */
	c.set = "strata.optimizer.moments=int8";
	p = plan_of(&c);
	ck_assert_str_eq(unit_named(p, "wte")->updated_on, "host");
	ck_assert_str_eq(unit_named(p, "h.0")->updated_on, "device and host");
	ck_assert_ptr_nonnull(strstr(unit_named(p, "h.0")->updated_why, "no kernel"));
	ck_assert_str_eq(unit_named(p, "ln_f")->updated_on, "device");
	ck_assert_ptr_nonnull(lane_named(p, "optimizer"));
	ck_assert_double_gt(bytes_of(p, "h2d"), 5 * n);
	ck_assert_double_gt(bytes_of(p, "d2h"), 7 * n);
	/* What compute no longer does is the update: 26 bytes a parameter of the GPU's memory, and
	 * the latency of an operation for each tile. */
	saved_s = here_s - lane_named(p, "compute")->work_s;
	ck_assert_double_gt(saved_s, 0.95 * n * 26 / 860e9);
	ck_assert_double_lt(saved_s, n * 26 / 860e9 + 1.5 * n / ST_STORAGE_TILE * 10e-6);
	strata_plan_close(p);
}
END_TEST

static const struct strata_tier *device_tier(const struct strata_plan *p)
{
	size_t n;

	return &strata_plan_tiers(p, &n)[0];
}

/* Where no budget is configured, the described memory is one. */
START_TEST(a_plan_fits_the_memory_that_is_described)
{
	char path[] = "/tmp/strata-test-predict.XXXXXX";
	struct published c = {
		"4090-256gb", SMALL_GPT, ALL_CPU, "", 8, STRATA_SCHEDULE_STRATA, NULL
	};
	struct strata_plan *p = plan_of(&c);
	uint64_t peak = device_tier(p)->peak_bytes, least = device_tier(p)->smallest_bytes;
	uint64_t between = (peak + least) / 2;
	int fd = mkstemp(path);
	FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
	struct st_hardware hw;

	ck_assert_ptr_nonnull(f);
	ck_assert_uint_eq(device_tier(p)->budget_bytes, 24000000000);
	ck_assert_uint_gt(peak, least + (1 << 20));
	strata_plan_close(p);
	CK(st_hardware_load(&hw, STRATA_SOURCE_DIR "/examples/hardware/4090-256gb.json"));
	hw.device_memory_bytes = (double)between;
	st_hardware_write(&hw, f);
	ck_assert_int_eq(fclose(f), 0);
	c.hardware = path;
	p = plan_of(&c);
	ck_assert_uint_eq(device_tier(p)->budget_bytes, between);
	ck_assert_uint_le(device_tier(p)->peak_bytes, between);
	ck_assert_uint_eq(device_tier(p)->smallest_bytes, least);
	strata_plan_close(p);
	unlink(path);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("predict");
	TCase *tc = tcase_create("all");
	SRunner *sr;
	int failed;

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, reads_run_ahead_as_far_as_there_are_buffers);
	tcase_add_test(tc, directions_share_a_drive_or_do_not);
	tcase_add_test(tc, reads_and_writes_share_one_rate);
	tcase_add_test(tc, compute_and_io_slow_each_other);
	tcase_add_test(tc, no_step_gets_slower_on_a_faster_machine);
	tcase_add_test(tc, a_rank_moves_the_bytes_of_its_style);
	tcase_add_test(tc, zero_infinity_efficiency_by_bandwidth);
	tcase_add_test(tc, fifty_billion_on_a_dgx2);
	tcase_add_test(tc, eight_billion_on_a_4090);
	tcase_add_test(tc, what_does_not_fit_says_what_would);
	tcase_add_test(tc, a_gpu_computes_with_copies);
	tcase_add_test(tc, a_gpu_updates_what_it_holds);
	tcase_add_test(tc, a_plan_fits_the_memory_that_is_described);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? 1 : 0;
}
