/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_durability.c - what it costs to commit every step.
 *
 * Timeout: 60
 * Without arguments: on a virtual clock, so that nothing depends on what else the machine does. The
 * programs of a step with and without commits, run by the executor over a described machine whose
 * flushes take no time, and then half a second each.
 *
 *     test_durability --measure [--delay S] [--pairs N] [--steps N] [--micro-batches N] [--path
 * DIR]
 *
 * measures: the engine on this machine over the faulty backend, which tells of each flush S seconds
 * late (0.5), runs with and without commits in turn. Prints each pair and the medians of the
 * ratios. tests/measure_durability.sh does that, and the same with the program.
 */
#include <errno.h>
#include <math.h>

#include "aio/faulty.h"
#include "core/hardware.h"
#include "offload/predict.h"
#include "tests/engine_util.h"

#define FLUSHES   2 /* one after another in a commit */
#define FLUSH_NS  5e8
#define PAIRS_MAX 64

/* ---- on a virtual clock
 * --------------------------------------------------------------------------- */

struct cost {
	double step_s;
	uint64_t write_bytes;
};

/* A machine that computes so much faster than the nominal one, with the same drive. */
static void describe(struct st_hardware *hw, double speed, double flush_ns)
{
	st_hardware_default(hw);
	hw->flush_ns = flush_ns;
	for (unsigned t = 0; t < ST_DTYPE_COUNT; t++)
		hw->product_flops[t] *= speed;
	hw->attention_flops *= speed;
	hw->device_bytes_per_s *= speed;
	hw->host_bytes_per_s *= speed;
	hw->updates_per_s *= speed;
	hw->reduces_per_s *= speed;
}

static struct cost predict(const struct st_model *m, enum st_update update, double speed,
			   bool commits, double flush_ns)
{
	struct st_plan_cfg cfg = { .model = m,
				   .formats = { .dtype = ST_BF16,
						.grad_dtype = ST_BF16,
						.optim = STRATA_OPTIM_CFG_DEFAULT },
				   .n_mb = 1,
				   .param_home = ST_HOME_NVME,
				   .state_home = ST_HOME_NVME,
				   .update = update,
				   .recompute = true,
				   .commits = commits };
	struct st_plan *plan = NULL;
	struct st_prediction out;
	struct st_hardware hw;
	struct st_predict_cfg p = { .hw = &hw, .model = m, .dtype = ST_BF16 };
	struct cost c;

	CK(st_plan_create(&plan, &cfg));
	describe(&hw, speed, flush_ns);
	p.layout = plan->layout;
	p.first = plan->program[ST_VARIANT_STEP];
	p.steady = st_plan_steady(plan);
	CK(st_predict(&out, &p));
	c = (struct cost){ out.step_s, st_plan_write_bytes(plan) };
	st_plan_destroy(plan);
	return c;
}

/*
 * GPT-2 of twelve layers.
 * While a commit is on its way nothing may be written over the version before it, so what a late
 * flush costs is the time for which the drive has nothing else to do than write. A drive that is
 * busy all the time, over a step that is hardly longer than the flushes, cannot hide them.
 * @param slower  in, at most so much of the step
 */
static void check_cost(size_t batch, enum st_update update, double speed, double slower)
{
	const struct st_gpt2_cfg gpt = {
		.n_layer = 12, .n_embd = 768, .n_head = 12, .n_positions = 1024, .vocab_size = 50257
	};
	const struct st_device_cfg dev = { .type = "host", .dtype = ST_BF16, .threads = 1 };
	struct st_device *d = NULL;
	struct st_model *m = NULL;
	struct cost none, step, late;

	CK(st_device_open(&d, &dev));
	CK(st_gpt2_create(&m, &gpt, batch, 1024, d, ST_BF16));
	none = predict(m, update, speed, false, 0);
	step = predict(m, update, speed, true, 1e6);
	late = predict(m, update, speed, true, FLUSHES * FLUSH_NS);
	printf("%s, %zu tokens, %g x compute: step %.2f s, committed %.2f s (%+.1f %%), with "
	       "flushes of %.1f s "
	       "%.2f s (%+.1f %%); written %+.2f %%\n",
	       update == ST_UPDATE_DEFERRED ? "deferred" : "immediate", batch * 1024, speed,
	       none.step_s, step.step_s, 100 * (step.step_s / none.step_s - 1), FLUSH_NS * 1e-9,
	       late.step_s, 100 * (late.step_s / none.step_s - 1),
	       100 * ((double)step.write_bytes / (double)none.write_bytes - 1));
	ck_assert_double_gt(none.step_s, 1);
	ck_assert_double_le(late.step_s, none.step_s + FLUSHES * FLUSH_NS * 1e-9);
	ck_assert_double_le(step.step_s, 1.01 * none.step_s);
	ck_assert_double_le(late.step_s, (1 + slower) * none.step_s);
	ck_assert_double_le((double)step.write_bytes, 1.01 * (double)none.write_bytes);
	st_gpt2_destroy(m);
	st_device_close(d);
}

START_TEST(commits_run_beside_compute)
{
	check_cost(1, ST_UPDATE_DEFERRED, 1, 0.03);
	check_cost(1, ST_UPDATE_IMMEDIATE, 1, 0.03);
	check_cost(4, ST_UPDATE_DEFERRED, 20, 0.03); /* the drive is what limits */
	check_cost(4, ST_UPDATE_IMMEDIATE, 20, 0.03);
	check_cost(1, ST_UPDATE_DEFERRED, 20, 0.5); /* a step of two seconds, one of it flushes */
	check_cost(1, ST_UPDATE_IMMEDIATE, 20, 0.5);
}
END_TEST

/* ---- on this machine
 * --------------------------------------------------------------------------------- */

static struct {
	bool measures;
	double delay_s;
	uint64_t pairs, steps, n_mb;
	const char *path;
} args = { .delay_s = 0.5, .pairs = 5, .steps = 6, .n_mb = 24, .path = STRATA_BUILD_DIR };

/* Mean time and bytes of the steps after the first two. */
static struct cost train(bool commits)
{
	const struct st_aio_fault late = { .kind = ST_AIO_FAULT_DELAY,
					   .ops = 1u << ST_AIO_FLUSH,
					   .nth = -1,
					   .delay_ns = (int64_t)(args.delay_s * 1e9) };
	struct st_aio_cfg aio = ST_AIO_CFG_DEFAULT;
	const struct tiny t = { .dtype = ST_BF16,
				.clip = 0.5,
				.update = ST_UPDATE_DEFERRED,
				.param_home = ST_HOME_NVME,
				.state_home = ST_HOME_NVME,
				.commits = commits,
				.is_wide = true,
				.n_mb = (unsigned)args.n_mb,
				.aio = &aio };
	struct st_step_out out;
	struct cost c = { 0 };
	struct tiny_run r = { 0 };

	aio.backend = "faulty";
	aio.faulty_inner = "threads";
	aio.faulty_at = &late;
	aio.n_faulty_at = args.delay_s > 0;
	snprintf(r.dir[0], sizeof(r.dir[0]), "%s/durability-XXXXXX", args.path);
	ck_assert_ptr_nonnull(mkdtemp(r.dir[0]));
	r.paths[0] = r.dir[0];
	tiny_plan(&r, &t);
	tiny_engine(&r, &t, NULL);
	for (uint64_t s = 1; s <= args.steps + 2; s++) {
		tiny_step(&r, s, &out);
		c.step_s += s > 2 ? (double)out.wall_ns * 1e-9 / (double)args.steps : 0;
		c.write_bytes += s > 2 ? out.write_bytes / args.steps : 0;
	}
	st_engine_close(r.engine, true);
	tiny_unplan(&r);
	ck_assert_int_eq(rmdir(r.dir[0]), 0);
	return c;
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *v, size_t n)
{
	qsort(v, n, sizeof(*v), by_size);
	return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

START_TEST(measure)
{
	double time[PAIRS_MAX], bytes[PAIRS_MAX];

	for (uint64_t i = 0; i < args.pairs; i++) { /* who goes first takes turns too */
		struct cost a = train(i % 2), b = train(!(i % 2));
		struct cost none = i % 2 ? b : a, step = i % 2 ? a : b;

		time[i] = step.step_s / none.step_s;
		bytes[i] = (double)step.write_bytes / (double)none.write_bytes;
		printf("none %.3f s, step %.3f s a step, ratio %.3f; written %.4f\n", none.step_s,
		       step.step_s, time[i], bytes[i]);
		fflush(stdout);
	}
	printf("flush delay %.2f s: median of %llu ratios, step to none: time %.3f, bytes written "
	       "%.4f\n",
	       args.delay_s, (unsigned long long)args.pairs, median(time, args.pairs),
	       median(bytes, args.pairs));
}
END_TEST

static bool read_number(const char *text, uint64_t max, uint64_t *out)
{
	char *end;

	errno = 0;
	*out = text ? strtoull(text, &end, 10) : 0;
	return text && *text && !*end && !errno && *out >= 1 && *out <= max;
}

static bool read_args(int argc, char **argv)
{
	args.measures = argc > 1 && !strcmp(argv[1], "--measure");
	for (int i = 2; i < argc; i += 2) {
		const char *value = argv[i + 1];
		bool is_good = false;
		char *end;

		if (!value)
			return false;
		if (!strcmp(argv[i], "--delay")) {
			args.delay_s = strtod(value, &end);
			is_good = *value && !*end && args.delay_s >= 0 && args.delay_s <= 60;
		} else if (!strcmp(argv[i], "--pairs")) {
			is_good = read_number(value, PAIRS_MAX, &args.pairs);
		} else if (!strcmp(argv[i], "--steps")) {
			is_good = read_number(value, 1000000, &args.steps);
		} else if (!strcmp(argv[i], "--micro-batches")) {
			is_good = read_number(value, 100000, &args.n_mb);
		} else if (!strcmp(argv[i], "--path")) {
			args.path = value;
			is_good = strlen(value) < 40;
		}
		if (!is_good)
			return false;
	}
	return argc == 1 || args.measures;
}

int main(int argc, char **argv)
{
	Suite *s = suite_create("durability");
	TCase *t = tcase_create("durability");
	SRunner *r;
	int failed;

	if (!read_args(argc, argv)) {
		fprintf(stderr,
			"usage: %s [--measure [--delay S] [--pairs N] [--steps N]"
			" [--micro-batches N] [--path DIR]]\n",
			argv[0]);
		return 2;
	}
	tcase_set_timeout(t, args.measures ? 0 : 60);
	tcase_add_test(t, args.measures ? measure : commits_run_beside_compute);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
