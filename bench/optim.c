/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench/optim.c - `strata bench optim`: how fast the optimizers are, beside what memory allows and
 * beside the same step in four passes; and whether every instruction set computes the same.
 */
#include <errno.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "bench/compare.h"
#include "bench/four_pass.h"
#include "bench/optim_run.h"
#include "bench/plot.h"
#include "bench/report.h"
#include "bench/signals.h"
#include "bench/verbs.h"
#include "cli/print.h"
#include "core/clock.h"
#include "core/machine.h"

#define THREADS_MAX 4096u
#define TEAMS_MAX   14u /* 1, 2, 4, ... */
#define SECONDS     34.0

struct optim_args {
	int optimizer;
	uint64_t params, threads;
	double seconds;
	bool as_json, as_csv;
	const char *svg;
};

static const struct optim_args defaults = { .params = 64000000, .seconds = SECONDS };

static const char *const optimizer_words[] = { "AdamW", "Adam", "Adagrad", "Lion", "SGD", NULL };

static const struct st_opt options[] = {
	{ "optimizer", ST_OPT_WORD, .metavar = "NAME",
	  .offset = offsetof(struct optim_args, optimizer), .words = optimizer_words,
	  .help = "AdamW, Adam, Adagrad, Lion, SGD (with momentum)" },
	{ "params", ST_OPT_UINT, .metavar = "N", .min = 1, .max = 1ull << 40,
	  .offset = offsetof(struct optim_args, params),
	  .help = "parameters of the largest size (64000000); 34 bytes of memory each" },
	{ "threads", ST_OPT_UINT, .metavar = "N", .min = 1, .max = THREADS_MAX,
	  .offset = offsetof(struct optim_args, threads),
	  .help = "measure 1, 2, 4, ... up to N threads (all processors)" },
	{ "seconds", ST_OPT_REAL, .metavar = "S", .max = 100000,
	  .offset = offsetof(struct optim_args, seconds),
	  .help = "of measuring (34), or what one round of each takes" },
	{ "json", ST_OPT_FLAG, .offset = offsetof(struct optim_args, as_json),
	  .help = "an object with one object for each format, and one for each further row" },
	{ "csv", ST_OPT_FLAG, .offset = offsetof(struct optim_args, as_csv),
	  .help = "comma-separated values" },
	{ "svg", ST_OPT_TEXT, .metavar = "FILE", .offset = offsetof(struct optim_args, svg),
	  .help = "draw the formats' rates as well" },
};

static int optim_run(const void *args, char **argv);

const struct st_verb st_verb_bench_optim = {
	.name = "bench optim",
	.summary = "rate of the optimizers beside memory's, and whether their bits are right",
	.more = "Every format of parameters, moments and gradients that training uses, at three "
		"sizes: arrays\nthat fit each core's L1 cache, 64 MiB, and --params. Passes are "
		"timed "
		"in turn with their\nopponents; figures are medians.\n\n"
		"rate      parameters updated, and bytes moved: what is read plus what is written\n"
		"memory    the same arrays loaded and stored by the same threads, with nothing in "
		"between\n"
		"share     of that rate\n"
		"#wrong    elements of some tiles that differ from the scalar reference\n"
		"4 passes  norm, unscale, update and cast over fp32, as DeepSpeed does it\n"
		"ratio     to these, and to the update alone\n"
		"cached    share of the rate in cache, which is the same loop without memory\n",
	.opts = options,
	.n_opts = ST_ARRAY_LEN(options),
	.args_bytes = sizeof(struct optim_args),
	.defaults = &defaults,
	.run = optim_run,
};

/* What is measured. "+" names the copy that the pass writes for the computation. */
static const struct strata_optim_format formats[] = {
	{ STRATA_PARAMS_SPLIT, STRATA_MOMENTS_F32, STRATA_GRADS_BF16 },
	{ STRATA_PARAMS_SPLIT, STRATA_MOMENTS_BF16, STRATA_GRADS_BF16 },
	{ STRATA_PARAMS_SPLIT, STRATA_MOMENTS_INT8, STRATA_GRADS_BF16 },
	{ STRATA_PARAMS_F32_BF16, STRATA_MOMENTS_F32, STRATA_GRADS_BF16 },
	{ STRATA_PARAMS_F32_F16, STRATA_MOMENTS_F32, STRATA_GRADS_F16 },
	{ STRATA_PARAMS_F32, STRATA_MOMENTS_F32, STRATA_GRADS_F32 },
	{ STRATA_PARAMS_F32, STRATA_MOMENTS_BF16, STRATA_GRADS_F32 },
	{ STRATA_PARAMS_F32, STRATA_MOMENTS_INT8, STRATA_GRADS_F32 },
};
#define N_FORMATS ST_ARRAY_LEN(formats)
#define ROWS_MAX  (N_FORMATS * TEAMS_MAX * ST_OPTIM_SIZES)

static const char *const params_names[] = { "split", "fp32", "fp32+bf16", "fp32+fp16" };
static const char *const moments_names[] = { "fp32", "bf16", "int8" };
static const char *const grads_names[] = { "fp32", "bf16", "fp16" };

/* ---- the table ----------------------------------------------------------------------------- */

enum {
	COL_PARAMS,
	COL_MOMENTS,
	COL_GRADS,
	COL_BYTES,
	COL_SIZE,
	COL_ELEMS,
	COL_THREADS,
	COL_GPARAMS,
	COL_GBPS,
	COL_RMW,
	COL_SHARE,
	COL_WRONG,
	COL_FOUR,
	COL_RATIO,
	COL_ALONE,
	COL_CACHED,
	COL_CACHED_SHARE,
	COL_MIN,
	COL_MAX,
	COL_ROUNDS,
	COL_OPTIMIZER,
	COL_ISA,
	COL_ALL
};

static const struct st_col columns[COL_ALL] = {
	[COL_PARAMS] = { "params", "params", NULL, ST_CELL_TEXT, 9, 0 },
	[COL_MOMENTS] = { "moments", "moments", NULL, ST_CELL_TEXT, 7, 0 },
	[COL_GRADS] = { "grads", "grads", NULL, ST_CELL_TEXT, 5, 0 },
	[COL_BYTES] = { "bytes_per_param", "moved", "B/param", ST_CELL_REAL, 6, 2 },
	[COL_SIZE] = { "size", "size", NULL, ST_CELL_TEXT, 8, 0 },
	[COL_ELEMS] = { "elems", NULL, NULL, ST_CELL_UINT, 0, 0 },
	[COL_THREADS] = { "threads", "threads", NULL, ST_CELL_UINT, 7, 0 },
	[COL_GPARAMS] = { "gparams_per_s", "rate", "Gparam/s", ST_CELL_REAL, 8, 3 },
	[COL_GBPS] = { "gbps", "rate", "GB/s", ST_CELL_REAL, 6, 2 },
	[COL_RMW] = { "rmw_gbps", "memory", "GB/s", ST_CELL_REAL, 6, 2 },
	[COL_SHARE] = { "rmw_share", "share", NULL, ST_CELL_REAL, 5, 3 },
	[COL_WRONG] = { "wrong", "#wrong", NULL, ST_CELL_UINT, 6, 0 },
	[COL_FOUR] = { "four_pass_gparams_per_s", "4 passes", "Gparam/s", ST_CELL_REAL, 8, 3 },
	[COL_RATIO] = { "ratio_to_four_pass", "ratio", "x", ST_CELL_REAL, 5, 2 },
	[COL_ALONE] = { "ratio_to_update_alone", "alone", "x", ST_CELL_REAL, 5, 2 },
	[COL_CACHED] = { "cached_gparams_per_s", NULL, NULL, ST_CELL_REAL, 0, 0 },
	[COL_CACHED_SHARE] = { "cached_share", "cached", NULL, ST_CELL_REAL, 6, 3 },
	[COL_MIN] = { "gparams_per_s_min", NULL, NULL, ST_CELL_REAL, 0, 0 },
	[COL_MAX] = { "gparams_per_s_max", NULL, NULL, ST_CELL_REAL, 0, 0 },
	[COL_ROUNDS] = { "rounds", NULL, NULL, ST_CELL_UINT, 0, 0 },
	[COL_OPTIMIZER] = { "optimizer", NULL, NULL, ST_CELL_TEXT, 0, 0 },
	[COL_ISA] = { "isa", NULL, NULL, ST_CELL_TEXT, 0, 0 },
};

struct row {
	const struct strata_optim_format *format;
	enum st_optim_size size;
	struct st_optim_rates rates;
};

struct bench {
	const struct optim_args *a;
	struct strata_optim_cfg cfg;
	struct st_report report;
	struct st_table table;
	struct st_optim_bench *run;
	unsigned teams[TEAMS_MAX], n_teams, n_rows;
	struct row rows[ROWS_MAX];
	int64_t start_ns, measure_ns; /* before and after memory was had */
	uint64_t n_wrong;
};

static const char *size_name(enum st_optim_size size)
{
	return size == ST_OPTIM_CACHED ? "in cache" : size == ST_OPTIM_64MIB ? "64 MiB" : "params";
}

/* One of those that count: the largest size, all threads. */
static bool is_main(const struct bench *b, const struct row *r)
{
	return r->size == ST_OPTIM_PARAMS && r->rates.threads == b->teams[b->n_teams - 1];
}

static void put_row(struct bench *b, const struct row *r)
{
	const struct st_optim_rates *x = &r->rates;
	struct st_cell cells[COL_ALL] = {
		[COL_PARAMS] = ST_TEXT(params_names[r->format->params]),
		[COL_MOMENTS] = ST_TEXT(moments_names[r->format->moments]),
		[COL_GRADS] = ST_TEXT(grads_names[r->format->grads]),
		[COL_BYTES] = ST_REAL(st_optim_moved_bytes(&b->cfg, r->format)),
		[COL_SIZE] = ST_TEXT(size_name(r->size)),
		[COL_ELEMS] = ST_UINT(x->elems),
		[COL_THREADS] = ST_UINT(x->threads),
		[COL_GPARAMS] = ST_REAL(x->gparams),
		[COL_GBPS] = ST_REAL(x->gbps),
		[COL_RMW] = ST_REAL(x->rmw_gbps),
		[COL_SHARE] = ST_REAL(x->rmw_share),
		[COL_WRONG] = ST_UINT(x->wrong),
		[COL_FOUR] = ST_REAL(x->four_gparams),
		[COL_RATIO] = ST_REAL(x->ratio_to_four),
		[COL_ALONE] = ST_REAL(x->ratio_to_alone),
		[COL_CACHED] = ST_REAL(x->cached_gparams),
		[COL_CACHED_SHARE] = ST_REAL(x->cached_share),
		[COL_MIN] = ST_REAL(x->gparams_min),
		[COL_MAX] = ST_REAL(x->gparams_max),
		[COL_ROUNDS] = ST_UINT(x->rounds),
		[COL_OPTIMIZER] = ST_TEXT(optimizer_words[b->a->optimizer]),
		[COL_ISA] = ST_TEXT(strata_isa_name(strata_isa_in_use())),
	};

	st_report_wipe(&b->report);
	st_table_row(&b->table, cells);
}

static void put_rows(struct bench *b, bool main_ones)
{
	st_table_begin(&b->table, stdout, ST_TABLE_JSON, columns, COL_ALL);
	for (unsigned i = 0; i < b->n_rows; i++)
		if (is_main(b, &b->rows[i]) == main_ones)
			put_row(b, &b->rows[i]);
	st_table_end(&b->table);
}

/* Of memory, at the largest size, by all threads: the median over the formats. NaN: none yet. */
static double machine_rmw(const struct bench *b)
{
	double v[N_FORMATS];
	size_t n = 0;

	for (unsigned i = 0; i < b->n_rows && n < N_FORMATS; i++)
		if (is_main(b, &b->rows[i]))
			v[n++] = b->rows[i].rates.rmw_gbps;
	return n ? st_median(v, n) : NAN;
}

/* When all is measured: the formats come before the rest. */
static void put_json(struct bench *b)
{
	printf("{\"optimizer\":");
	st_put_json_string(optimizer_words[b->a->optimizer], stdout);
	printf(",\"isa\":");
	st_put_json_string(strata_isa_name(strata_isa_in_use()), stdout);
	printf(",\"elems\":%llu,\"threads\":%u,\"rmw_gbps\":", (unsigned long long)b->a->params,
	       b->teams[b->n_teams - 1]);
	st_put_json_real(machine_rmw(b), stdout);
	printf(",\n\"formats\":");
	put_rows(b, true);
	printf(",\"others\":");
	put_rows(b, false);
	printf("}\n");
}

/* ---- measuring ------------------------------------------------------------------------------ */

static bool is_stopped(void)
{
	return st_signal != 0;
}

/* Shares of the time. A team of half the threads needs about twice as much for as many rounds; the
 * largest gives the figures that count. */
static double weight(const struct bench *b, unsigned team)
{
	return team + 1 == b->n_teams ? 1.5 : 1.0 / b->teams[team];
}

static int measure_format(struct bench *b, const struct strata_optim_format *f, double *done,
			  double all)
{
	struct st_optim_rates rates[ST_OPTIM_SIZES];
	int rc;

	st_report_status(&b->report, "%s parameters, %s moments, %s gradients",
			 params_names[f->params], moments_names[f->moments], grads_names[f->grads]);
	rc = st_optim_bench_use(b->run, f);
	for (unsigned i = 0; !rc && i < b->n_teams; i++) {
		*done += weight(b, i) / all;
		rc = st_optim_bench_run(b->run, b->teams[i],
					b->measure_ns + (int64_t)(*done * b->a->seconds * 1e9),
					is_stopped, rates);
		for (int size = 0; !rc && size < ST_OPTIM_SIZES; size++) {
			struct row *r = &b->rows[b->n_rows];

			if (!rates[size].is_there)
				continue;
			*r = (struct row){ f, (enum st_optim_size)size, rates[size] };
			b->n_wrong += r->rates.wrong;
			b->n_rows++;
			if (!b->a->as_json)
				put_row(b, r);
		}
	}
	return rc;
}

static int measure(struct bench *b)
{
	double done = 0, all = 0;
	int rc = 0;

	b->measure_ns = st_now_ns();
	for (unsigned i = 0; i < b->n_teams; i++)
		all += weight(b, i) * N_FORMATS;
	for (size_t i = 0; !rc && i < N_FORMATS; i++)
		rc = measure_format(b, &formats[i], &done, all);
	return rc;
}

/* ---- the verb ------------------------------------------------------------------------------ */

static int check_args(struct bench *b)
{
	const struct optim_args *a = b->a;
	unsigned threads = a->threads ? (unsigned)a->threads : (unsigned)omp_get_num_procs();
	int rc;

	if (a->as_json && a->as_csv)
		return st_fail(-EINVAL, "bench optim: --json and --csv: choose one.");
	rc = strata_isa_from_env();
	if (!rc && a->svg)
		rc = st_report_check_file(a->svg);
	if (rc)
		return rc;
	if (threads > THREADS_MAX)
		threads = THREADS_MAX;
	if (threads > (unsigned)omp_get_thread_limit())
		return st_fail(-EINVAL, "bench optim: --threads %u: OMP_THREAD_LIMIT allows %d.",
			       threads, omp_get_thread_limit());
	for (unsigned n = 1; n < threads; n *= 2)
		b->teams[b->n_teams++] = n;
	b->teams[b->n_teams++] = threads;
	b->cfg.kind = (enum strata_optim_kind)a->optimizer;
	b->cfg.momentum = b->cfg.kind == STRATA_OPTIM_SGD ? 0.9 : 0;
	return 0;
}

static int create(struct bench *b)
{
	struct st_optim_bench_cfg cfg = {
		.optim = b->cfg,
		.params = b->a->params,
		.threads = b->teams[b->n_teams - 1],
	};

	for (size_t i = 0; i < N_FORMATS; i++) {
		double bytes = st_optim_resident_bytes(&b->cfg, &formats[i]);

		if (!(bytes <= (double)cfg.elem_bytes))
			cfg.elem_bytes = (size_t)ceil(bytes);
	}
	return st_optim_bench_create(&b->run, &cfg);
}

static int draw(const struct bench *b)
{
	double ours[N_FORMATS], lo[N_FORMATS], hi[N_FORMATS], four[N_FORMATS], bound[N_FORMATS];
	char texts[N_FORMATS][48], title[64], subtitle[256];
	const char *names[N_FORMATS];
	struct st_plot_series series[] = {
		{ .name = "Strata", .y = ours, .lo = lo, .hi = hi },
		{ .name = "four passes", .y = four },
		{ .name = "what memory allows", .y = bound },
	};
	struct st_plot p = {
		.kind = ST_PLOT_BARS,
		.title = title,
		.subtitle = subtitle,
		.x_label = "moments, parameters",
		.y_label = "Gparam/s",
		.x_names = names,
		.series = series,
		.n_series = ST_ARRAY_LEN(series),
	};
	struct st_machine_cpu cpu;

	for (unsigned i = 0; i < b->n_rows; i++) {
		const struct row *r = &b->rows[i];
		size_t k = p.n_x;

		if (!is_main(b, r))
			continue;
		ours[k] = r->rates.gparams;
		lo[k] = r->rates.gparams_min;
		hi[k] = r->rates.gparams_max;
		four[k] = r->rates.four_gparams;
		bound[k] = r->rates.rmw_gbps / st_optim_moved_bytes(&b->cfg, r->format);
		snprintf(texts[k], sizeof(texts[k]), "%s, %s", moments_names[r->format->moments],
			 params_names[r->format->params]);
		names[k] = texts[k];
		p.n_x++;
	}
	st_machine_cpu("", &cpu);
	snprintf(title, sizeof(title), "%s: parameters updated in a second",
		 optimizer_words[b->a->optimizer]);
	snprintf(subtitle, sizeof(subtitle),
		 "%s parameters in memory, %u threads, %s, %.100s; whiskers: slowest and fastest",
		 st_count_text((double)b->a->params).s, b->teams[b->n_teams - 1],
		 strata_isa_name(strata_isa_in_use()),
		 *cpu.model ? cpu.model : "processor unknown");
	return st_plot_write(&p, b->a->svg);
}

static int finish(struct bench *b, int rc)
{
	int flushed;

	if (b->a->as_json && b->n_rows)
		put_json(b);
	else if (b->table.f)
		st_table_end(&b->table);
	if (!rc && b->a->svg)
		rc = draw(b);
	if (!rc && b->n_wrong)
		rc = st_fail(
			STRATA_E_CORRUPT,
			"%llu elements differ from the scalar reference: a fault of this build, "
			"of the processor or of the memory; STRATA_ISA names another "
			"instruction set.",
			(unsigned long long)b->n_wrong);
	else if (!rc)
		st_report_note(
			&b->report,
			"wrong elements: 0; memory %.2f GB/s, read and written; %.0f s in all",
			machine_rmw(b), (double)(st_now_ns() - b->start_ns) / 1e9);
	st_report_end(&b->report);
	if (st_signal)
		return st_signals_report();
	flushed = st_flush_stdout();
	if (rc || flushed)
		return st_report(rc ? rc : flushed);
	return 0;
}

static int run(struct bench *b)
{
	const struct optim_args *a = b->a;
	int rc, code;

	rc = check_args(b);
	if (!rc)
		rc = create(b);
	if (rc)
		return st_report(rc);
	st_signals_catch();
	st_report_begin(&b->report, a->as_json  ? ST_TABLE_JSON
				    : a->as_csv ? ST_TABLE_CSV
						: ST_TABLE_TEXT);
	st_report_note(&b->report, "strata bench optim: %s, %s parameters, %s, up to %u threads",
		       optimizer_words[a->optimizer], st_count_text((double)a->params).s,
		       strata_isa_name(strata_isa_in_use()), b->teams[b->n_teams - 1]);
	if (!a->as_json)
		st_table_begin(&b->table, stdout, b->report.form, columns, COL_ALL);
	rc = measure(b);
	code = finish(b, rc);
	st_optim_bench_destroy(b->run);
	return code;
}

static int optim_run(const void *args, char **argv)
{
	struct bench *b = calloc(1, sizeof(*b));
	int code;

	(void)argv;
	if (!b)
		return st_report(st_fail(-ENOMEM, "bench optim"));
	b->a = args;
	b->cfg = (struct strata_optim_cfg)STRATA_OPTIM_CFG_DEFAULT;
	b->start_ns = st_now_ns();
	code = run(b);
	free(b);
	return code;
}
