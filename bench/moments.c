/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench/moments.c - `strata bench moments`: does it harm training to keep moments in fewer bits?
 * One configuration is trained with each format, several times, and the runs of a seed are
 * compared.
 */
#include <errno.h>
#include <ftw.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/plot.h"
#include "bench/report.h"
#include "bench/signals.h"
#include "bench/verbs.h"
#include "cli/print.h"
#include "core/clock.h"
#include "strata/optim.h"
#include "strata/train.h"

#define SEEDS_MAX  100u
#define POINTS_MAX 200u
#define SETS_MAX   64u
#define LIMIT_NATS 0.02 /* smaller differences are none, however well they are known */
#define N_FORMATS  3u

struct moments_args {
	const char *config;
	struct st_opt_list sets;
	uint64_t seeds, steps;
	bool as_json;
	const char *svg;
};

static const struct moments_args defaults = { .seeds = 5 };

static const struct st_opt options[] = {
	{ "CONFIG", ST_OPT_OPERAND, true, .offset = offsetof(struct moments_args, config),
	  .help = "of strata train, with validation data (examples/moments.json)" },
	{ "set", ST_OPT_LIST, .metavar = "KEY=VALUE", .offset = offsetof(struct moments_args, sets),
	  .help = "over the file; may be given many times" },
	{ "seeds", ST_OPT_UINT, .metavar = "N", .min = 2, .max = SEEDS_MAX,
	  .offset = offsetof(struct moments_args, seeds), .help = "runs of each format (5)" },
	{ "steps", ST_OPT_UINT, .metavar = "N", .min = 1, .max = 1ull << 32,
	  .offset = offsetof(struct moments_args, steps), .help = "of each run (strata.steps)" },
	{ "json", ST_OPT_FLAG, .offset = offsetof(struct moments_args, as_json),
	  .help = "an object: runs, and what they come to" },
	{ "svg", ST_OPT_TEXT, .metavar = "FILE", .offset = offsetof(struct moments_args, svg),
	  .help = "draw the validation losses as well" },
};

static int moments_run(const void *args, char **argv);

const struct st_verb st_verb_bench_moments = {
	.name = "bench moments",
	.summary = "does training lose anything by moments in fewer bits",
	.more = "Trains a configuration with moments in fp32, bf16 and int8, each with several "
		"seeds (initial\nvalues, order of the data, stochastic rounding), and compares the "
		"runs "
		"of a seed. Nothing\nof them is kept.\n\n"
		"difference  of the final validation loss from that with fp32 and the same seed, "
		"mean\n"
		"2 SE        two standard errors of that mean\n"
		"harmless    the difference is within the larger of 0.02 nats and 2 SE\n",
	.opts = options,
	.n_opts = ST_ARRAY_LEN(options),
	.args_bytes = sizeof(struct moments_args),
	.defaults = &defaults,
	.run = moments_run,
};

static const char *const moments_names[N_FORMATS] = {
	[STRATA_MOMENTS_F32] = "fp32",
	[STRATA_MOMENTS_BF16] = "bf16",
	[STRATA_MOMENTS_INT8] = "int8",
};

/* ---- tables -------------------------------------------------------------------------------- */

enum { RUN_MOMENTS, RUN_SEED, RUN_LOSS, RUN_DIFF, RUN_SECONDS, RUN_COLS };

static const struct st_col run_columns[RUN_COLS] = {
	[RUN_MOMENTS] = { "moments", "moments", NULL, ST_CELL_TEXT, 7, 0 },
	[RUN_SEED] = { "seed", "seed", NULL, ST_CELL_UINT, 4, 0 },
	[RUN_LOSS] = { "val_loss", "val loss", "nats", ST_CELL_REAL, 8, 4 },
	[RUN_DIFF] = { "difference", "difference", "nats", ST_CELL_REAL, 10, 4 },
	[RUN_SECONDS] = { "seconds", "time", "s", ST_CELL_REAL, 6, 1 },
};

enum { SUM_MOMENTS, SUM_SEEDS, SUM_LOSS, SUM_DIFF, SUM_2SE, SUM_LIMIT, SUM_HARMLESS, SUM_COLS };

static const struct st_col sum_columns[SUM_COLS] = {
	[SUM_MOMENTS] = { "moments", "moments", NULL, ST_CELL_TEXT, 7, 0 },
	[SUM_SEEDS] = { "seeds", "seeds", NULL, ST_CELL_UINT, 5, 0 },
	[SUM_LOSS] = { "val_loss", "val loss", "nats", ST_CELL_REAL, 8, 4 },
	[SUM_DIFF] = { "difference", "difference", "nats", ST_CELL_REAL, 10, 4 },
	[SUM_2SE] = { "two_standard_errors", "2 SE", "nats", ST_CELL_REAL, 7, 4 },
	[SUM_LIMIT] = { "limit", "limit", "nats", ST_CELL_REAL, 7, 4 },
	[SUM_HARMLESS] = { "harmless", "harmless", NULL, ST_CELL_TEXT, 8, 0 },
};

struct run {
	double final, seconds;
	double loss[POINTS_MAX]; /* at the bench's points */
};

struct bench {
	const struct moments_args *a;
	struct st_report report;
	struct st_table table;
	char work[4096]; /* the outputs' directory; "" when there is none */
	uint64_t steps, n_params;
	double steps_at[POINTS_MAX]; /* where runs were evaluated: the same for all */
	size_t n_points;
	unsigned n_runs;
	struct run runs[SEEDS_MAX][N_FORMATS]; /* in the order of running */
};

static double difference(const struct bench *b, unsigned seed, unsigned format)
{
	return b->runs[seed][format].final - b->runs[seed][STRATA_MOMENTS_F32].final;
}

static void put_run(struct bench *b, unsigned seed, unsigned format)
{
	const struct run *r = &b->runs[seed][format];
	struct st_cell cells[RUN_COLS] = {
		[RUN_MOMENTS] = ST_TEXT(moments_names[format]),
		[RUN_SEED] = ST_UINT(seed + 1),
		[RUN_LOSS] = ST_REAL(r->final),
		[RUN_DIFF] = format ? ST_REAL(difference(b, seed, format)) : ST_NO_CELL,
		[RUN_SECONDS] = ST_REAL(r->seconds),
	};

	st_report_wipe(&b->report);
	st_table_row(&b->table, cells);
}

static void put_sum(struct bench *b, unsigned format)
{
	const double n = (double)b->a->seeds;
	double loss = 0, diff = 0, square = 0, two_se, limit;

	for (unsigned s = 0; s < b->a->seeds; s++) {
		loss += b->runs[s][format].final / n;
		diff += difference(b, s, format) / n;
	}
	for (unsigned s = 0; s < b->a->seeds; s++)
		square += pow(difference(b, s, format) - diff, 2);
	two_se = 2 * sqrt(square / (n - 1) / n);
	limit = fmax(LIMIT_NATS, two_se);
	st_table_row(&b->table,
		     (struct st_cell[SUM_COLS]){
			     [SUM_MOMENTS] = ST_TEXT(moments_names[format]),
			     [SUM_SEEDS] = ST_UINT(b->a->seeds),
			     [SUM_LOSS] = ST_REAL(loss),
			     [SUM_DIFF] = format ? ST_REAL(diff) : ST_NO_CELL,
			     [SUM_2SE] = format ? ST_REAL(two_se) : ST_NO_CELL,
			     [SUM_LIMIT] = format ? ST_REAL(limit) : ST_NO_CELL,
			     [SUM_HARMLESS] = format ? ST_TEXT(fabs(diff) <= limit ? "yes" : "no")
						     : ST_NO_CELL,
		     });
}

/* What the runs come to; only when all were made. */
static void put_sums(struct bench *b)
{
	if (b->a->as_json)
		printf(",\"moments\":");
	else
		putchar('\n');
	st_table_begin(&b->table, stdout, b->report.form, sum_columns, SUM_COLS);
	for (unsigned f = 0; f < N_FORMATS; f++)
		put_sum(b, f);
	st_table_end(&b->table);
}

/* ---- one run ------------------------------------------------------------------------------- */

static bool is_stopped(void *user)
{
	(void)user;
	return st_signal != 0;
}

/* The notes on the configuration, once. */
static void on_log(void *user, enum strata_log_level level, const char *line)
{
	struct bench *b = user;

	if (!b->n_runs)
		st_report_note(&b->report, "%s%s", level <= STRATA_LOG_WARN ? "warning: " : "",
			       line);
}

static int open_run(struct bench *b, struct strata_trainer **t, unsigned seed, unsigned format,
		    const char *output)
{
	const char *sets[SETS_MAX + 4];
	char seed_set[40], moments_set[48];
	struct strata_options opt = STRATA_OPTIONS_DEFAULT;
	size_t n = 0;

	for (; n < b->a->sets.n; n++)
		sets[n] = b->a->sets.v[n];
	snprintf(seed_set, sizeof(seed_set), "strata.seed=%u", seed + 1);
	snprintf(moments_set, sizeof(moments_set), "strata.optimizer.moments=\"%s\"",
		 moments_names[format]);
	sets[n++] = seed_set;
	sets[n++] = moments_set;
	sets[n++] = "strata.nvme.keep=\"never\"";
	sets[n++] = "strata.nvme.durability=\"none\"";
	opt.sets = sets;
	opt.n_sets = n;
	opt.steps = b->a->steps;
	opt.output = output;
	opt.stops = is_stopped;
	opt.log = on_log;
	opt.log_user = b;
	return strata_trainer_open(t, b->a->config, &opt);
}

/* A loss that was measured after `step`; the first run says where. */
static void add_point(struct bench *b, struct run *r, size_t *n, uint64_t step, double loss)
{
	if (*n == POINTS_MAX)
		return; /* a finer curve shows no more */
	if (!b->n_runs) {
		b->steps_at[*n] = (double)step;
		b->n_points = *n + 1;
	}
	r->loss[(*n)++] = loss;
}

static int steps(struct bench *b, struct strata_trainer *t, struct run *r, unsigned seed,
		 unsigned format)
{
	struct strata_metrics m = { 0 };
	struct strata_result result;
	size_t n = 0;
	int rc = 0;

	while (!rc && m.step < b->steps) {
		if (st_signal)
			return -EINTR;
		rc = strata_trainer_step(t, NULL, NULL, &m);
		if (!rc && isfinite(m.val_loss) && m.step < b->steps)
			add_point(b, r, &n, m.step, m.val_loss);
		if (!rc && m.step % 10 == 0)
			st_report_status(&b->report, "seed %u, %s: step %llu of %llu, loss %.3f",
					 seed + 1, moments_names[format],
					 (unsigned long long)m.step, (unsigned long long)b->steps,
					 m.loss);
	}
	if (!rc)
		rc = strata_trainer_finish(t, &result);
	if (rc)
		return rc;
	if (!isfinite(result.val_loss))
		return st_fail(STRATA_E_NUMERIC,
			       "bench moments: seed %u with %s moments: the validation loss is not "
			       "finite: lower the learning rate.",
			       seed + 1, moments_names[format]);
	r->final = result.val_loss;
	add_point(b, r, &n, b->steps, result.val_loss);
	return 0;
}

static int train(struct bench *b, unsigned seed, unsigned format)
{
	struct run *r = &b->runs[seed][format];
	struct strata_trainer *t = NULL;
	int64_t start_ns = st_now_ns();
	char output[sizeof(b->work) + 32];
	int rc;

	snprintf(output, sizeof(output), "%s/%s-%u", b->work, moments_names[format], seed + 1);
	rc = open_run(b, &t, seed, format, output);
	if (rc)
		return rc;
	b->steps = strata_trainer_info(t)->total_steps;
	b->n_params = strata_trainer_info(t)->n_params;
	rc = steps(b, t, r, seed, format);
	strata_trainer_close(t);
	if (rc)
		return rc;
	r->seconds = (double)(st_now_ns() - start_ns) / 1e9;
	if (!b->n_runs) { /* what is refused before leaves stdout empty */
		st_report_note(&b->report,
			       "strata bench moments: %s, %s parameters, %llu steps, %llu seeds",
			       b->a->config, st_count_text((double)b->n_params).s,
			       (unsigned long long)b->steps, (unsigned long long)b->a->seeds);
		if (b->a->as_json)
			printf("{\"runs\":");
		st_table_begin(&b->table, stdout, b->report.form, run_columns, RUN_COLS);
	}
	b->n_runs++;
	put_run(b, seed, format);
	return 0;
}

/* ---- the verb ------------------------------------------------------------------------------ */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st;
	(void)type;
	(void)at;
	(void)remove(path); /* what cannot be removed is left to whoever cleans the directory */
	return 0;
}

static int make_work(struct bench *b)
{
	const char *tmp = getenv("TMPDIR");

	if (snprintf(b->work, sizeof(b->work), "%s/strata-moments.XXXXXX",
		     tmp && *tmp ? tmp : "/tmp") >= (int)sizeof(b->work) ||
	    !mkdtemp(b->work)) {
		b->work[0] = '\0';
		return st_fail(STRATA_E_INPUT,
			       "bench moments: no directory can be made in %.200s: set TMPDIR.",
			       tmp && *tmp ? tmp : "/tmp");
	}
	return 0;
}

static int draw(const struct bench *b)
{
	double mean[N_FORMATS][POINTS_MAX] = { 0 };
	char subtitle[160];
	struct st_plot_series series[N_FORMATS];
	struct st_plot p = {
		.kind = ST_PLOT_LINES,
		.title = "Moments in 32, 16 and 8 bits: validation loss",
		.subtitle = subtitle,
		.x_label = "step",
		.y_label = "nats",
		.x = b->steps_at,
		.n_x = b->n_points,
		.series = series,
		.n_series = N_FORMATS,
	};

	for (unsigned f = 0; f < N_FORMATS; f++) {
		for (unsigned s = 0; s < b->a->seeds; s++)
			for (size_t i = 0; i < b->n_points; i++)
				mean[f][i] += b->runs[s][f].loss[i] / (double)b->a->seeds;
		series[f] = (struct st_plot_series){ .name = moments_names[f], .y = mean[f] };
	}
	snprintf(subtitle, sizeof(subtitle), "%s parameters, %llu steps, means of %llu seeds",
		 st_count_text((double)b->n_params).s, (unsigned long long)b->steps,
		 (unsigned long long)b->a->seeds);
	return st_plot_write(&p, b->a->svg);
}

static int run(struct bench *b)
{
	int rc = 0, flushed;

	if (b->a->sets.n > SETS_MAX)
		rc = st_fail(-EINVAL, "bench moments: --set: at most %u.", SETS_MAX);
	if (!rc && b->a->svg)
		rc = st_report_check_file(b->a->svg);
	if (!rc)
		rc = make_work(b);
	if (rc)
		return st_report(rc);
	st_signals_catch();
	st_report_begin(&b->report, b->a->as_json ? ST_TABLE_JSON : ST_TABLE_TEXT);
	for (unsigned s = 0; !rc && s < b->a->seeds; s++)
		for (unsigned f = 0; !rc && f < N_FORMATS; f++)
			rc = train(b, s, f);
	if (b->n_runs)
		st_table_end(&b->table);
	if (!rc)
		put_sums(b);
	if (b->n_runs && b->a->as_json)
		printf("}\n");
	if (!rc && b->a->svg)
		rc = draw(b);
	st_report_end(&b->report);
	nftw(b->work, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	if (st_signal)
		return st_signals_report();
	flushed = st_flush_stdout();
	return rc || flushed ? st_report(rc ? rc : flushed) : 0;
}

static int moments_run(const void *args, char **argv)
{
	struct bench *b = calloc(1, sizeof(*b));
	int code;

	(void)argv;
	if (!b)
		return st_report(st_fail(-ENOMEM, "bench moments"));
	b->a = args;
	code = run(b);
	free(b);
	return code;
}
