/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench/tune.c - `strata tune nvme`: which block size, depth and backend are the best here, and
 * how extents are best shared among paths; written into a configuration.
 *
 * What is measured is what the engine does: transfers of a storage tile, queue_depth of them in
 * each direction, each cut into I/Os of block_size.
 *
 * Three parts. Several paths: each alone, in turn, from which follow the weights. Then a sweep:
 * each setting twice, the second time in the opposite order, for the drive may wander meanwhile.
 * Then the best of them beside what is in force now, in rounds of read, write and mixed load. A
 * setting is taken only if it wins clearly: by more than 3 %, and in four rounds of five.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/compare.h"
#include "bench/config_edit.h"
#include "bench/plot.h"
#include "bench/report.h"
#include "bench/signals.h"
#include "bench/verbs.h"
#include "cli/print.h"
#include "core/clock.h"
#include "core/config.h"
#include "core/config_json.h"
#include "core/log.h"
#include "nvme/store.h"

#define EXTENT      ((size_t)(10 << 18) + 4096) /* a state's storage tile: offload/layout.h */
#define COMMIT_IOS  64u /* what the engine adds for commits: offload/engine.c */
#define DEPTH_MAX   64u
#define PATH_MIN    ((uint64_t)64 << 20)
#define POINTS_MAX  48u
#define FINAL_MAX   4u
#define SWEEPS      2u
#define ROUNDS      5u
#define ALONE       3u /* rounds of each path alone */
#define GAIN        1.03
#define WINS        4u /* of ROUNDS */
#define SLICE_MIN_S 0.02
#define EQUAL       0.05 /* paths that differ by less share alike */

struct tune_args {
	struct st_opt_list paths;
	const char *write, *svg;
	uint64_t size_bytes;
	double seconds;
	bool as_json;
};

static const struct tune_args defaults = { .size_bytes = (uint64_t)1 << 30, .seconds = 50 };

static const struct st_opt options[] = {
	{ "path", ST_OPT_LIST, .metavar = "DIR", .offset = offsetof(struct tune_args, paths),
	  .help = "a directory on the drive; again for each further drive. Without it, the\n"
		  "nvme_path of --write's CONFIG" },
	{ "write", ST_OPT_TEXT, .metavar = "CONFIG", .offset = offsetof(struct tune_args, write),
	  .help = "set what was found in this configuration; its comments and other keys stay" },
	{ "seconds", ST_OPT_REAL, .metavar = "S", .min = 1, .max = 36000,
	  .offset = offsetof(struct tune_args, seconds),
	  .help = "of measuring in all (50); files are made and filled besides" },
	{ "size", ST_OPT_SIZE, .metavar = "BYTES", .min = 1, .max = 1ull << 60,
	  .offset = offsetof(struct tune_args, size_bytes),
	  .help = "of the data, on all paths together (1GiB); twice as much must be free" },
	{ "json", ST_OPT_FLAG, .offset = offsetof(struct tune_args, as_json),
	  .help = "an object: measurements, aio, nvme, why" },
	{ "svg", ST_OPT_TEXT, .metavar = "FILE", .offset = offsetof(struct tune_args, svg),
	  .help = "draw the rates of the sweep as well" },
};

static int tune_run(const void *args, char **argv);

const struct st_verb st_verb_tune_nvme = {
	.name = "tune nvme",
	.summary = "the best I/O settings for a drive, into a configuration",
	.more = "Takes about a minute. Sets aio.block_size, queue_depth, intra_op_parallelism,\n"
		"single_submit and overlap_events, strata.nvme.backend and sqpoll and, of several\n"
		"paths, strata.nvme.weights: keys that `strata train` and DeepSpeed both accept. "
		"What is\n"
		"in force stays unless something is faster by more than 3 %.\n",
	.opts = options,
	.n_opts = ST_ARRAY_LEN(options),
	.args_bytes = sizeof(struct tune_args),
	.defaults = &defaults,
	.run = tune_run,
};

/* ---- what is measured ------------------------------------------------------------------------ */

struct point {
	const char *backend; /* "io_uring", "threads", or "sqpoll": io_uring with that */
	size_t block_bytes;
	unsigned depth, threads;
	double gbps[SWEEPS]; /* mixed */
	double mean;         /* of them */
	double cpu_s_per_gb;
};

struct final {
	const struct point *p;
	double gbps[ST_LOAD_OPS][ROUNDS];
	double median[ST_LOAD_OPS];
	double cpu[ST_LOAD_OPS]; /* seconds per GB, of all rounds */
	double gain[ROUNDS];     /* of each round: geometric mean of rates / the present one's */
	double gain_median;
	unsigned wins;
};

struct tune {
	const struct tune_args *a;
	const char *const *paths; /* [n_paths] --path, or the configuration's */
	size_t n_paths;
	struct st_config *config; /* what is in force now */
	bool has_file;            /* of --write, before */
	struct st_report report;
	struct st_table table;
	struct st_area *area; /* on all paths */
	uint64_t weights64[ST_STORE_PATHS_MAX];
	struct point points[POINTS_MAX];
	unsigned n_points; /* points[0] is what is in force */
	struct final finals[FINAL_MAX];
	unsigned n_finals;
	const struct point *chosen;
	char why[512];
	struct st_load_result *r; /* of the latest slice */
};

enum {
	COL_PART,
	COL_PATH,
	COL_BACKEND,
	COL_BLOCK,
	COL_DEPTH,
	COL_THREADS,
	COL_OP,
	COL_GBPS,
	COL_CPU,
	COL_RATIO,
	COL_WRONG,
	COL_ALL
};

static const struct st_col columns[COL_ALL] = {
	[COL_PART] = { "part", "part", NULL, ST_CELL_TEXT, 5, 0 },
	[COL_PATH] = { "path", "path", NULL, ST_CELL_TEXT, 16, 0 },
	[COL_BACKEND] = { "backend", "backend", NULL, ST_CELL_TEXT, 8, 0 },
	[COL_BLOCK] = { "block", "block", NULL, ST_CELL_BYTES, 7, 0 },
	[COL_DEPTH] = { "depth", "depth", NULL, ST_CELL_UINT, 5, 0 },
	[COL_THREADS] = { "threads", "threads", NULL, ST_CELL_UINT, 7, 0 },
	[COL_OP] = { "op", "op", NULL, ST_CELL_TEXT, 5, 0 },
	[COL_GBPS] = { "gbps", "rate", "GB/s", ST_CELL_REAL, 6, 3 },
	[COL_CPU] = { "cpu_s_per_gb", "CPU", "s/GB", ST_CELL_REAL, 6, 3 },
	[COL_RATIO] = { "ratio_to_present", "ratio", "x now", ST_CELL_REAL, 6, 3 },
	[COL_WRONG] = { "wrong", "#wrong", "blocks", ST_CELL_UINT, 6, 0 },
};

static void put_row(struct tune *t, const char *part, const char *path, const struct point *p,
		    enum st_load_op op, double gbps, double cpu, double ratio)
{
	struct st_cell cells[COL_ALL] = {
		[COL_PART] = ST_TEXT(part),
		[COL_PATH] = ST_TEXT(path),
		[COL_BACKEND] = ST_TEXT(p->backend),
		[COL_BLOCK] = ST_UINT(p->block_bytes),
		[COL_DEPTH] = ST_UINT(p->depth),
		[COL_THREADS] = p->threads ? ST_UINT(p->threads) : ST_NO_CELL,
		[COL_OP] = ST_TEXT(st_load_op_names[op]),
		[COL_GBPS] = ST_REAL(gbps),
		[COL_CPU] = ST_REAL(cpu),
		[COL_RATIO] = ST_REAL(ratio),
		[COL_WRONG] = ST_UINT(0), /* any other number has ended the verb */
	};

	st_report_wipe(&t->report);
	st_table_row(&t->table, cells);
}

static unsigned transfers_of(const struct point *p, enum st_load_op op)
{
	return op == ST_LOAD_MIXED ? 2 * p->depth : p->depth;
}

static struct st_load load_of(const struct point *p, enum st_load_op op, double seconds)
{
	struct st_load load = {
		.op = op,
		.depth = transfers_of(p, op),
		.aio_depth = 2 * p->depth + COMMIT_IOS,
		.duration_ns = (int64_t)(seconds * 1e9),
		.aio = ST_AIO_CFG_DEFAULT,
	};

	load.aio.sqpoll = !strcmp(p->backend, "sqpoll");
	load.aio.backend = load.aio.sqpoll ? "io_uring" : p->backend;
	load.aio.block_bytes = p->block_bytes;
	if (p->threads)
		load.aio.threads = p->threads;
	return load;
}

/* One slice into t->r; a wrong block is a failure. */
static int slice(struct tune *t, struct st_area *area, const struct point *p, enum st_load_op op,
		 double seconds)
{
	struct st_load load = load_of(p, op, seconds > SLICE_MIN_S ? seconds : SLICE_MIN_S);
	int rc = st_area_run(area, &load, t->r);

	if (!rc && t->r->n_wrong)
		rc = st_fail(STRATA_E_CORRUPT, "%s: the drive is not to be trusted.",
			     t->r->first_wrong);
	return rc;
}

static double cpu_of(const struct st_load_result *r)
{
	return r->n_bytes ? (double)r->cpu_ns / (double)r->n_bytes : NAN;
}

/* Once there is something to measure: what is refused before leaves stdout empty. */
static void begin_table(struct tune *t)
{
	if (t->table.f)
		return;
	if (t->a->as_json)
		fputs("{\"measurements\":", stdout);
	st_table_begin(&t->table, stdout, t->report.form, columns, COL_ALL);
}

static int open_filled(struct tune *t, struct st_area **area, const char *const *paths, unsigned n,
		       const uint32_t *weights)
{
	struct st_area_cfg cfg = {
		.paths = paths,
		.n_paths = n,
		.weights = weights,
		.size_bytes = t->a->size_bytes / t->n_paths * n,
		.block_bytes = EXTENT,
		.depth_max = 8,
		.stop = &st_signal,
	};
	struct st_load pass = { .op = ST_LOAD_WRITE, .aio = ST_AIO_CFG_DEFAULT };
	uint64_t half = cfg.size_bytes / EXTENT / 2;
	int rc;

	for (unsigned i = 0; i < t->n_points; i++)
		if (transfers_of(&t->points[i], ST_LOAD_MIXED) > cfg.depth_max)
			cfg.depth_max = transfers_of(&t->points[i], ST_LOAD_MIXED);
	rc = st_area_open(area, &cfg);
	if (rc)
		return rc;
	begin_table(t);
	pass.depth = half < 8 ? (unsigned)half : 8;
	st_report_status(&t->report, "%s%s: the first pass of writing", paths[0],
			 n > 1 ? ", ..." : "");
	return st_area_run(*area, &pass, t->r);
}

/* ---- each path alone --------------------------------------------------------------------------
 */

/* Small whole numbers in about the ratio of the rates. */
static void set_weights(uint64_t *weights, const double *gbps, size_t n)
{
	double top = 0, low = INFINITY;
	uint64_t gcd = 0;

	for (size_t i = 0; i < n; i++) {
		top = gbps[i] > top ? gbps[i] : top;
		low = gbps[i] < low ? gbps[i] : low;
	}
	for (size_t i = 0; i < n; i++) {
		uint64_t a, b;

		weights[i] = low >= top * (1 - EQUAL) ? 1 : (uint64_t)(16 * gbps[i] / top + 0.5);
		if (!weights[i])
			weights[i] = 1;
		for (a = weights[i], b = gcd; b;) {
			uint64_t rest = a % b;

			a = b;
			b = rest;
		}
		gcd = a;
	}
	for (size_t i = 0; i < n; i++)
		weights[i] /= gcd;
}

static int measure_alone(struct tune *t, const struct point *p, double seconds)
{
	struct st_area *areas[ST_STORE_PATHS_MAX] = { NULL };
	double gbps[ST_STORE_PATHS_MAX][ALONE], median[ST_STORE_PATHS_MAX];
	double cpu[ST_STORE_PATHS_MAX] = { 0 };
	size_t n = t->n_paths;
	int rc = 0;

	for (size_t i = 0; !rc && i < n; i++)
		rc = open_filled(t, &areas[i], &t->paths[i], 1, NULL);
	for (unsigned k = 0; !rc && k < ALONE; k++)
		for (size_t i = 0; !rc && i < n; i++) {
			st_report_status(&t->report, "%s alone", t->paths[i]);
			rc = slice(t, areas[i], p, ST_LOAD_MIXED, seconds / ((double)n * ALONE));
			gbps[i][k] = st_load_gbps(t->r);
			cpu[i] += cpu_of(t->r) / ALONE;
		}
	for (size_t i = 0; !rc && i < n; i++) {
		median[i] = st_median(gbps[i], ALONE);
		put_row(t, "alone", t->paths[i], p, ST_LOAD_MIXED, median[i], cpu[i], NAN);
	}
	if (!rc)
		set_weights(t->weights64, median, n);
	for (size_t i = 0; i < n; i++)
		st_area_close(areas[i]);
	return rc;
}

/* ---- the sweep ------------------------------------------------------------------------------- */

/* On each path alone, too. */
static bool fits(const struct tune *t, const struct point *p)
{
	return p->depth <= DEPTH_MAX &&
	       transfers_of(p, ST_LOAD_MIXED) <= t->a->size_bytes / t->n_paths / EXTENT / 2;
}

static void add_point(struct tune *t, const char *backend, size_t block_bytes, unsigned depth,
		      unsigned threads)
{
	struct point p = {
		.backend = backend, .block_bytes = block_bytes, .depth = depth, .threads = threads
	};

	for (unsigned i = 0; i < t->n_points; i++) {
		const struct point *q = &t->points[i];

		if (!strcmp(q->backend, backend) && q->block_bytes == block_bytes &&
		    q->depth == depth && q->threads == threads)
			return;
	}
	if (t->n_points < POINTS_MAX && fits(t, &p))
		t->points[t->n_points++] = p;
}

/* The backend that "auto" becomes here. */
static int probe_backend(const char **name)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_aio_queue *q;
	int rc = st_aio_open(&q, &cfg);

	if (rc)
		return rc;
	*name = st_aio_name(q);
	return st_aio_close(q);
}

static void count_line(void *user, enum st_log_level level, const char *line)
{
	(void)level;
	(void)line;
	++*(unsigned *)user;
}

/* Where it does not work the queue says so, once, and goes on without. */
static bool has_sqpoll(struct tune *t)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	struct st_aio_queue *q;
	unsigned n_lines = 0;
	int rc;

	cfg.backend = "io_uring";
	cfg.sqpoll = true;
	st_log_set(count_line, &n_lines, ST_LOG_WARN);
	rc = st_aio_open(&q, &cfg);
	st_report_take_log(&t->report);
	if (rc)
		return false;
	return !st_aio_close(q) && !n_lines;
}

static int choose_points(struct tune *t)
{
	static const unsigned depths[] = { 2, 4, 8, 16, 32 };
	const struct st_config *c = t->config;
	const char *best;
	int rc = probe_backend(&best);
	bool has_ring, polls;

	if (rc)
		return rc;
	has_ring = !strcmp(best, "io_uring");
	polls = has_ring && has_sqpoll(t); /* asked once: it would not say so again */
	if (strcmp(c->nvme.backend, "auto") && strcmp(c->nvme.backend, best))
		best = c->nvme.backend; /* only "threads" can differ */
	else if (c->nvme.sqpoll && polls)
		best = "sqpoll";
	t->points[t->n_points++] = (struct point){
		.backend = best,
		.block_bytes = c->aio.block_bytes,
		.depth = (unsigned)c->aio.queue_depth,
		.threads = strcmp(best, "threads") ? 0 : (unsigned)c->aio.threads,
	};
	for (size_t block = (size_t)256 << 10; block <= (size_t)4 << 20; block *= 2)
		for (size_t i = 0; has_ring && i < ST_ARRAY_LEN(depths); i++)
			add_point(t, "io_uring", block, depths[i], 0);
	if (polls)
		for (unsigned depth = 8; depth <= 32; depth *= 4)
			add_point(t, "sqpoll", (size_t)1 << 20, depth, 0);
	for (size_t block = (size_t)1 << 20; block <= (size_t)4 << 20; block *= 4)
		for (unsigned threads = 2; threads <= 32; threads *= has_ring ? 4 : 2)
			add_point(t, "threads", block, 16, threads);
	return 0;
}

static int sweep(struct tune *t, double seconds)
{
	double each = seconds / (SWEEPS * t->n_points);
	int rc = 0;

	for (unsigned k = 0; !rc && k < SWEEPS; k++)
		for (unsigned j = 0; !rc && j < t->n_points; j++) {
			struct point *p = &t->points[k % 2 ? t->n_points - 1 - j : j];

			st_report_status(&t->report, "sweep: %u of %u", k * t->n_points + j + 1,
					 SWEEPS * t->n_points);
			rc = slice(t, t->area, p, ST_LOAD_MIXED, each);
			p->gbps[k] = st_load_gbps(t->r);
			p->mean += p->gbps[k] / SWEEPS;
			p->cpu_s_per_gb += cpu_of(t->r) / SWEEPS;
		}
	for (unsigned j = 0; !rc && j < t->n_points; j++) {
		const struct point *p = &t->points[j];

		put_row(t, "sweep", t->n_paths > 1 ? "all" : t->paths[0], p, ST_LOAD_MIXED, p->mean,
			p->cpu_s_per_gb, p->mean / t->points[0].mean);
	}
	return rc;
}

/* ---- the last round -------------------------------------------------------------------------- */

/* The same rate with fewer buffers. */
static bool is_cheaper(const struct point *p, const struct point *q)
{
	return p->depth < q->depth;
}

static void add_final(struct tune *t, const struct point *p)
{
	for (unsigned i = 0; i < t->n_finals; i++)
		if (t->finals[i].p == p)
			return;
	if (p && t->n_finals < FINAL_MAX)
		t->finals[t->n_finals++].p = p;
}

/* The present one, the two fastest, and the cheapest among the almost best. */
static void choose_finals(struct tune *t)
{
	const struct point *first = NULL, *second = NULL, *small = NULL;

	for (unsigned i = 0; i < t->n_points; i++) {
		const struct point *p = &t->points[i];

		if (!first || p->mean > first->mean) {
			second = first;
			first = p;
		} else if (!second || p->mean > second->mean) {
			second = p;
		}
	}
	for (unsigned i = 0; i < t->n_points; i++) {
		const struct point *p = &t->points[i];

		if (p->mean * GAIN >= first->mean && (!small || is_cheaper(p, small)))
			small = p;
	}
	add_final(t, &t->points[0]);
	add_final(t, first);
	add_final(t, small);
	add_final(t, second);
}

static void sum_up(struct tune *t)
{
	const struct final *now = &t->finals[0];

	for (unsigned i = 0; i < t->n_finals; i++) {
		struct final *f = &t->finals[i];
		double sorted[ROUNDS];

		for (unsigned k = 0; k < ROUNDS; k++) {
			double log_gain = 0;

			for (int op = 0; op < ST_LOAD_OPS; op++)
				log_gain += log(f->gbps[op][k] / now->gbps[op][k]) / ST_LOAD_OPS;
			f->gain[k] = exp(log_gain);
			f->wins += f->gain[k] > 1;
		}
		for (int op = 0; op < ST_LOAD_OPS; op++) {
			memcpy(sorted, f->gbps[op], sizeof(sorted));
			f->median[op] = st_median(sorted, ROUNDS);
		}
		memcpy(sorted, f->gain, sizeof(sorted));
		f->gain_median = st_median(sorted, ROUNDS);
	}
}

static int run_finals(struct tune *t, double seconds)
{
	double each = seconds / (ROUNDS * ST_LOAD_OPS * t->n_finals);
	int rc = 0;

	for (unsigned k = 0; !rc && k < ROUNDS; k++)
		for (int op = 0; !rc && op < ST_LOAD_OPS; op++)
			for (unsigned j = 0; !rc && j < t->n_finals; j++) {
				struct final *f = &t->finals[(j + k) % t->n_finals];

				st_report_status(&t->report, "the best: round %u of %u", k + 1,
						 ROUNDS);
				rc = slice(t, t->area, f->p, op, each);
				f->gbps[op][k] = st_load_gbps(t->r);
				f->cpu[op] += cpu_of(t->r) / ROUNDS;
			}
	if (rc)
		return rc;
	sum_up(t);
	for (unsigned j = 0; j < t->n_finals; j++)
		for (int op = 0; op < ST_LOAD_OPS; op++) {
			const struct final *f = &t->finals[j];

			put_row(t, j ? "final" : "now", t->n_paths > 1 ? "all" : t->paths[0], f->p,
				op, f->median[op], f->cpu[op],
				f->median[op] / t->finals[0].median[op]);
		}
	return 0;
}

struct words {
	char s[48];
};

static struct words words_of(const struct point *p)
{
	struct words s;

	/* block sizes of the sweep are powers of two: "4 MiB" */
	if (p->block_bytes % ((size_t)1 << 20) == 0)
		snprintf(s.s, sizeof(s.s), "%zu MiB at depth %u", p->block_bytes >> 20, p->depth);
	else
		snprintf(s.s, sizeof(s.s), "%zu KiB at depth %u", p->block_bytes >> 10, p->depth);
	return s;
}

/*
 * The fastest that wins clearly; and in its place a cheaper one that is within 3 % of it and wins
 * clearly itself.
 */
static void choose(struct tune *t)
{
	const struct final *best = &t->finals[0], *any = NULL;

	for (unsigned i = 1; i < t->n_finals; i++) {
		const struct final *f = &t->finals[i];

		if (!any || f->gain_median > any->gain_median)
			any = f;
		if (f->gain_median > GAIN && f->wins >= WINS && f->gain_median > best->gain_median)
			best = f;
	}
	for (unsigned i = 1; i < t->n_finals; i++) {
		const struct final *f = &t->finals[i];

		if (f->gain_median > GAIN && f->wins >= WINS &&
		    f->gain_median * GAIN >= best->gain_median && is_cheaper(f->p, best->p))
			best = f;
	}
	t->chosen = best->p;
	if (best != &t->finals[0])
		snprintf(
			t->why, sizeof(t->why),
			"%s (%s) reads, writes and mixes %.0f %% faster than %s (%s), which was %s:"
			" faster in %u rounds of %u.",
			words_of(best->p).s, best->p->backend, (best->gain_median - 1) * 100,
			words_of(t->finals[0].p).s, t->finals[0].p->backend,
			t->has_file ? "in force" : "the default", best->wins, ROUNDS);
	else if (any)
		snprintf(t->why, sizeof(t->why),
			 "%s (%s) stays as it is: the best of the others, %s (%s), is %.1f %% %s "
			 "and ahead in %u rounds of %u, which is within noise.",
			 words_of(best->p).s, best->p->backend, words_of(any->p).s, any->p->backend,
			 fabs(any->gain_median - 1) * 100,
			 any->gain_median >= 1 ? "faster" : "slower", any->wins, ROUNDS);
	else
		snprintf(t->why, sizeof(t->why), "%s (%s) stays as it is: nothing was faster.",
			 words_of(best->p).s, best->p->backend);
}

/* ---- what is written --------------------------------------------------------------------------
 */

struct values {
	char block[24], depth[16], threads[16], backend[16], weights[16 * 24];
	struct st_config_set sets[8];
	size_t n;
};

static void add_set(struct values *v, const char *path, const char *value)
{
	v->sets[v->n++] = (struct st_config_set){ path, value };
}

/* The threads of the pool where it won, else those in force: io_uring needs none. */
static void make_values(const struct tune *t, const char *threads_key, struct values *v)
{
	const struct point *p = t->chosen;
	size_t len = 0;

	*v = (struct values){ .n = 0 };
	snprintf(v->block, sizeof(v->block), "%zu", p->block_bytes);
	snprintf(v->depth, sizeof(v->depth), "%u", p->depth);
	snprintf(v->threads, sizeof(v->threads), "%u",
		 p->threads ? p->threads : (unsigned)t->config->aio.threads);
	snprintf(v->backend, sizeof(v->backend), "\"%s\"", p->threads ? "threads" : "auto");
	add_set(v, "aio.block_size", v->block);
	add_set(v, "aio.queue_depth", v->depth);
	add_set(v, threads_key, v->threads);
	add_set(v, "aio.single_submit", "false");
	add_set(v, "aio.overlap_events", "true");
	add_set(v, "strata.nvme.backend", v->backend);
	add_set(v, "strata.nvme.sqpoll", strcmp(p->backend, "sqpoll") ? "false" : "true");
	if (t->n_paths < 2)
		return;
	for (size_t i = 0; i < t->n_paths; i++)
		len += (size_t)snprintf(v->weights + len, sizeof(v->weights) - len, "%s%llu",
					i ? ", " : "[", (unsigned long long)t->weights64[i]);
	snprintf(v->weights + len, sizeof(v->weights) - len, "]");
	add_set(v, "strata.nvme.weights", v->weights);
}

/* A whole configuration's text of these alone. */
static int fresh_text(const struct values *v, char **out)
{
	static const char empty[] = "{\n\t\"aio\": {\n\t},\n\t\"strata\": {\n\t\t\"nvme\": {\n"
				    "\t\t}\n\t}\n}\n";

	return st_config_edit(empty, sizeof(empty) - 1, "tune", v->sets, v->n, out);
}

/* Where the file cannot be edited in place, what was found goes beside it. */
static int write_beside(struct tune *t, const struct values *v)
{
	struct st_error why;
	char *text = NULL, *path = NULL;
	int rc;

	st_error_take(&why, STRATA_E_CONFIG);
	if (asprintf(&path, "%s.tuned", t->a->write) < 0)
		return st_fail(-ENOMEM, "tune nvme");
	rc = fresh_text(v, &text);
	if (!rc)
		rc = st_config_replace(path, text, strlen(text));
	if (!rc)
		st_report_note(&t->report,
			       "%s was left as it is (%s); what belongs into it is in %s",
			       t->a->write, why.text, path);
	free(text);
	free(path);
	return rc;
}

static int write_config(struct tune *t)
{
	char *old = NULL, *new = NULL;
	struct st_config *check = NULL;
	size_t len_bytes = 0;
	struct values v;
	int rc;

	make_values(t, "aio.intra_op_parallelism", &v);
	if (!t->has_file) {
		rc = fresh_text(&v, &new);
		if (!rc)
			rc = st_config_replace(t->a->write, new, strlen(new));
		if (!rc)
			st_report_note(&t->report, "%s: made with these settings alone",
				       t->a->write);
		free(new);
		return rc;
	}
	old = malloc(ST_CONFIG_MAX_BYTES + 1);
	if (!old)
		return st_fail(-ENOMEM, "%s: reading it", t->a->write);
	rc = st_json_read(t->a->write, "the configuration file", old, &len_bytes);
	if (rc)
		goto out;
	rc = st_config_edit(old, len_bytes, t->a->write, v.sets, v.n, &new);
	if (!rc)
		rc = st_config_parse(&check, new, strlen(new), t->a->write, NULL, 0);
	if (rc == STRATA_E_CONFIG && !check) { /* its old name is there: use that */
		free(new);
		new = NULL;
		make_values(t, "aio.thread_count", &v);
		rc = st_config_edit(old, len_bytes, t->a->write, v.sets, v.n, &new);
		if (!rc)
			rc = st_config_parse(&check, new, strlen(new), t->a->write, NULL, 0);
	}
	if (rc == STRATA_E_CONFIG) {
		make_values(t, "aio.intra_op_parallelism", &v);
		rc = write_beside(t, &v);
	} else if (!rc && strlen(new) == len_bytes && !memcmp(new, old, len_bytes)) {
		st_report_note(&t->report, "%s says so already", t->a->write);
	} else if (!rc) {
		rc = st_config_replace(t->a->write, new, strlen(new));
		if (!rc)
			st_report_note(&t->report, "%s: written", t->a->write);
	}
out:
	st_config_destroy(check);
	free(new);
	free(old);
	return rc;
}

static void put_json_end(const struct tune *t)
{
	struct values v;

	make_values(t, "aio.intra_op_parallelism", &v);
	fputs(",\n\"aio\":{", stdout);
	for (size_t i = 0, n = 0; i < v.n; i++)
		if (!strncmp(v.sets[i].path, "aio.", 4))
			printf("%s\"%s\":%s", n++ ? "," : "", v.sets[i].path + 4, v.sets[i].value);
	fputs("},\n\"nvme\":{", stdout);
	for (size_t i = 0, n = 0; i < v.n; i++)
		if (!strncmp(v.sets[i].path, "strata.nvme.", 12))
			printf("%s\"%s\":%s", n++ ? "," : "", v.sets[i].path + 12, v.sets[i].value);
	fputs("},\n\"why\":", stdout);
	st_put_json_string(t->why, stdout);
}

static int put_result(struct tune *t)
{
	struct values v;
	char *text;
	int rc;

	if (t->a->as_json)
		put_json_end(t);
	st_report_note(&t->report, "%s", t->why);
	if (t->n_paths > 1)
		st_report_note(&t->report, "Extents are shared among the paths as their rates "
					   "alone are.");
	if (t->a->write)
		return write_config(t);
	make_values(t, "aio.intra_op_parallelism", &v);
	rc = fresh_text(&v, &text);
	if (rc)
		return rc;
	if (!t->a->as_json)
		printf("%s", text);
	free(text);
	return 0;
}

/* ---- the verb ------------------------------------------------------------------------------ */

static int draw(const struct tune *t)
{
	static const size_t blocks[] = { 256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20 };
	static const char *const names[] = { "256 KiB", "512 KiB", "1 MiB", "2 MiB", "4 MiB" };
	static const char *const depth_names[] = { "2", "4", "8", "16", "32" };
	double y[ST_ARRAY_LEN(blocks)][ST_ARRAY_LEN(depth_names)];
	struct st_plot_series series[ST_ARRAY_LEN(blocks)];
	char subtitle[96];
	struct st_plot p = {
		.kind = ST_PLOT_LINES,
		.title = "NVMe: mixed load by block size and depth",
		.subtitle = subtitle,
		.x_label = "queue_depth: transfers in flight in each direction",
		.y_label = "GB/s",
		.x_names = depth_names,
		.n_x = ST_ARRAY_LEN(depth_names),
		.series = series,
		.n_series = ST_ARRAY_LEN(blocks),
		.ref = t->points[0].mean,
		.ref_name = t->has_file ? "as configured now" : "default",
	};

	snprintf(subtitle, sizeof(subtitle), "io_uring, %zu path%s; chosen: %s (%s)", t->n_paths,
		 t->n_paths > 1 ? "s" : "", words_of(t->chosen).s, t->chosen->backend);
	for (size_t b = 0; b < ST_ARRAY_LEN(blocks); b++) {
		series[b] = (struct st_plot_series){ .name = names[b], .y = y[b] };
		for (size_t d = 0; d < ST_ARRAY_LEN(depth_names); d++) {
			y[b][d] = NAN;
			for (unsigned i = 0; i < t->n_points; i++)
				if (!strcmp(t->points[i].backend, "io_uring") &&
				    t->points[i].block_bytes == blocks[b] &&
				    t->points[i].depth == 2u << d)
					y[b][d] = t->points[i].mean;
		}
	}
	return st_plot_write(&p, t->a->svg);
}

static int measure(struct tune *t)
{
	uint32_t weights[ST_STORE_PATHS_MAX];
	double s = t->a->seconds;
	size_t n = t->n_paths;
	int rc = choose_points(t);

	for (size_t i = 0; i < n; i++)
		t->weights64[i] = 1;
	if (!rc && n > 1) {
		rc = measure_alone(t, &t->points[0], s * 0.15);
		s *= 0.85;
	}
	for (size_t i = 0; i < n; i++)
		weights[i] = (uint32_t)t->weights64[i];
	if (!rc)
		rc = open_filled(t, &t->area, t->paths, (unsigned)n, weights);
	if (!rc)
		rc = sweep(t, s * 0.5);
	if (rc)
		return rc;
	choose_finals(t);
	rc = run_finals(t, s * 0.5);
	if (!rc)
		choose(t);
	return rc;
}

static int load_config(struct tune *t)
{
	static const char plain[] = "{\"train_batch_size\": 1}"; /* whatever: aio's defaults */
	int rc;

	t->has_file = t->a->write && access(t->a->write, F_OK) == 0;
	if (t->has_file)
		return st_config_load(&t->config, t->a->write, NULL, 0);
	rc = t->a->write ? st_report_check_file(t->a->write) : 0;
	if (rc)
		return rc;
	return st_config_parse(&t->config, plain, sizeof(plain) - 1, "defaults", NULL, 0);
}

/* Weights belong to the paths of the configuration, one by one. */
static int choose_paths(struct tune *t)
{
	const struct st_strings *own = &t->config->nvme_paths;

	t->paths = t->a->paths.n ? t->a->paths.v : own->v;
	t->n_paths = t->a->paths.n ? t->a->paths.n : own->n;
	if (!t->n_paths)
		return st_fail(-EINVAL, "tune nvme: --path is missing: name a directory on the "
					"drive.");
	if (t->n_paths > ST_STORE_PATHS_MAX)
		return st_fail(-EINVAL, "tune nvme: %zu paths: at most %u.", t->n_paths,
			       ST_STORE_PATHS_MAX);
	if (t->has_file && t->n_paths > 1 && t->n_paths != own->n)
		return st_fail(-EINVAL,
			       "tune nvme: %zu times --path, and %zu directories in the nvme_path "
			       "of %s: name the same, or leave --path away.",
			       t->n_paths, own->n, t->a->write);
	return 0;
}

static int check_args(struct tune *t)
{
	uint64_t least;
	int rc = t->a->svg ? st_report_check_file(t->a->svg) : 0;

	if (!rc)
		rc = load_config(t);
	if (!rc)
		rc = choose_paths(t);
	if (rc)
		return rc;
	if (t->config->aio.queue_depth > DEPTH_MAX)
		return st_fail(
			-EINVAL,
			"tune nvme: %s has a queue_depth of %llu; at most %u can be measured: "
			"lower it first.",
			t->a->write, (unsigned long long)t->config->aio.queue_depth, DEPTH_MAX);
	least = 4 * t->config->aio.queue_depth * EXTENT;
	least = t->n_paths * (least > PATH_MIN ? least : PATH_MIN);
	return t->a->size_bytes >= least
		       ? 0
		       : st_fail(-EINVAL,
				 "tune nvme: --size: %s are too little for %zu path%s at a "
				 "queue_depth of %llu: give at least %s.",
				 st_bytes_text(t->a->size_bytes).s, t->n_paths,
				 t->n_paths > 1 ? "s" : "",
				 (unsigned long long)t->config->aio.queue_depth,
				 st_bytes_text(least).s);
}

static int finish(struct tune *t, int rc)
{
	struct st_error e;
	int more;

	st_area_close(t->area);
	if (t->table.f)
		st_table_end(&t->table);
	if (!rc)
		rc = put_result(t);
	if (!rc && t->a->svg)
		rc = draw(t);
	if (t->a->as_json && t->table.f)
		fputs("}\n", stdout);
	st_error_take(&e, rc);
	st_report_end(&t->report);
	if (st_signal)
		return st_signals_report();
	more = st_flush_stdout();
	if (rc)
		more = st_error_raise(&e);
	return more ? st_report(more) : 0;
}

static int tune_run(const void *args, char **argv)
{
	struct tune *t = calloc(1, sizeof(*t));
	int rc, code;

	(void)argv;
	if (!t)
		return st_report(st_fail(-ENOMEM, "tune nvme"));
	t->a = args;
	t->r = calloc(1, sizeof(*t->r));
	rc = t->r ? check_args(t) : st_fail(-ENOMEM, "tune nvme");
	if (rc) {
		code = st_report(rc);
	} else {
		st_signals_catch();
		st_report_begin(&t->report, t->a->as_json ? ST_TABLE_JSON : ST_TABLE_TEXT);
		code = finish(t, measure(t));
	}
	st_config_destroy(t->config);
	free(t->r);
	free(t);
	return code;
}
