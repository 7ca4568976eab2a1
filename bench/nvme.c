/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench/nvme.c - `strata bench nvme`: how fast the store reads and writes, at what cost, and
 * whether what it reads is what it wrote; beside fio on the same files.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "bench/compare.h"
#include "bench/plot.h"
#include "bench/report.h"
#include "bench/signals.h"
#include "bench/verbs.h"
#include "cli/print.h"
#include "core/clock.h"
#include "core/text.h"
#include "nvme/store.h"

#define BLOCKS_MAX  16u
#define ROWS_MAX    (BLOCKS_MAX * ST_LOAD_OPS)
#define BLOCK_MAX   ((size_t)64 << 20)
#define EXTENT_MIN  ((size_t)64 << 10) /* smaller blocks are no extents: see bench/load.h */
#define AUTO_NS     42000000000        /* what a run without --seconds takes, ... */
#define FIO_EXTRA_S 0.4                /* ... with what each fio takes to start and end */
#define AUTO_MIN_S  0.5
#define AUTO_SLICES 3u

struct nvme_args {
	struct st_opt_list paths;
	uint64_t size_bytes, depth, threads;
	const char *block;
	double seconds;
	int backend, op, pattern;
	bool no_checksum, sqpoll, iopoll, with_fio, as_json, as_csv;
	const char *svg;
};

static const struct nvme_args defaults = {
	.size_bytes = (uint64_t)1 << 30,
	.depth = 32,
	.threads = 4,
	.block = "1MiB",
};

static const char *const backend_words[] = { "auto", "io_uring", "threads", NULL };
static const char *const op_words[] = { "all", "read", "write", "mixed", NULL };
static const char *const pattern_words[] = { "seq", "random", NULL };

static const struct st_opt options[] = {
	{ "path", ST_OPT_LIST, .metavar = "DIR", .offset = offsetof(struct nvme_args, paths),
	  .help = "a directory on the drive to measure; again for each further drive" },
	{ "size", ST_OPT_SIZE, .metavar = "BYTES", .min = 1, .max = 1ull << 60,
	  .offset = offsetof(struct nvme_args, size_bytes),
	  .help = "of the data, on all paths together (1GiB); twice as much must be free" },
	{ "block", ST_OPT_TEXT, .metavar = "BYTES[,..]",
	  .offset = offsetof(struct nvme_args, block),
	  .help = "of one request (1MiB); several: one after the other" },
	{ "depth", ST_OPT_UINT, .metavar = "N", .min = 1, .max = 4096,
	  .offset = offsetof(struct nvme_args, depth), .help = "requests in flight (32)" },
	{ "seconds", ST_OPT_REAL, .metavar = "S", .max = 2000,
	  .offset = offsetof(struct nvme_args, seconds),
	  .help = "measured of each row, and as much of fio, in slices of 2 s (0: what makes\n"
		  "50 s in all)" },
	{ "op", ST_OPT_WORD, .metavar = "OP", .offset = offsetof(struct nvme_args, op),
	  .words = op_words, .help = "all, read, write, or mixed: 55 % of the bytes are reads" },
	{ "pattern", ST_OPT_WORD, .metavar = "WORD", .offset = offsetof(struct nvme_args, pattern),
	  .words = pattern_words, .help = "order of the blocks: seq, random" },
	{ "backend", ST_OPT_WORD, .metavar = "NAME", .offset = offsetof(struct nvme_args, backend),
	  .words = backend_words, .help = "auto, io_uring, threads" },
	{ "threads", ST_OPT_UINT, .metavar = "N", .min = 1, .max = 64,
	  .offset = offsetof(struct nvme_args, threads), .help = "of the threads backend (4)" },
	{ "sqpoll", ST_OPT_FLAG, .offset = offsetof(struct nvme_args, sqpoll),
	  .help = "io_uring: a thread of the kernel submits" },
	{ "iopoll", ST_OPT_FLAG, .offset = offsetof(struct nvme_args, iopoll),
	  .help = "io_uring: completions are polled for" },
	{ "no-checksum", ST_OPT_FLAG, .offset = offsetof(struct nvme_args, no_checksum),
	  .help = "the store makes and checks none" },
	{ "with-fio", ST_OPT_FLAG, .offset = offsetof(struct nvme_args, with_fio),
	  .help = "run fio on the same files, slice by slice in turn, and compare" },
	{ "json", ST_OPT_FLAG, .offset = offsetof(struct nvme_args, as_json),
	  .help = "an array with one object a row" },
	{ "csv", ST_OPT_FLAG, .offset = offsetof(struct nvme_args, as_csv),
	  .help = "comma-separated values" },
	{ "svg", ST_OPT_TEXT, .metavar = "FILE", .offset = offsetof(struct nvme_args, svg),
	  .help = "draw the rates as well" },
};

static int nvme_run(const void *args, char **argv);

const struct st_verb st_verb_bench_nvme = {
	.name = "bench nvme",
	.summary = "rate, latency and cost of reading and writing on a drive",
	.more = "Blocks of 64 KiB and more are extents of a store, as in training, with a checksum"
		" each;\nsmaller ones are pieces of plain files. Everything is written before it is"
		" read, every\nblock that is read is checked, and nothing stays on the drive.\n\n"
		"#wrong    blocks that came back other than they were written\n"
		"p50, p99  from submission to completion of a block\n"
		"CPU       seconds of processor time (user and system) for 1e9 bytes, all "
		"included\n"
		"          but the making and checking of the test's own pattern\n"
		"XXH3      the part of it that the store's checksums take\n"
		"ratio     median over the slices of our rate / fio's\n",
	.opts = options,
	.n_opts = ST_ARRAY_LEN(options),
	.args_bytes = sizeof(struct nvme_args),
	.defaults = &defaults,
	.run = nvme_run,
};

/* ---- the table ----------------------------------------------------------------------------- */

enum {
	COL_OP,
	COL_BLOCK,
	COL_DEPTH,
	COL_PATTERN,
	COL_BACKEND,
	COL_VIA,
	COL_PATHS,
	COL_N_PATHS,
	COL_SIZE,
	COL_GBPS,
	COL_IOPS,
	COL_P50,
	COL_P99,
	COL_CPU,
	COL_XXH3,
	COL_WRONG,
	COL_SECONDS,
	COL_SLICES,
	COL_MIN,
	COL_MAX,
	COL_PLAIN, /* so many without fio */
	COL_FIO_GBPS = COL_PLAIN,
	COL_RATIO,
	COL_FIO_CPU,
	COL_CPU_RATIO,
	COL_FIO_IOPS,
	COL_FIO_HUGE,
	COL_RATIO_MIN,
	COL_RATIO_MAX,
	COL_ALL
};

static const struct st_col columns[COL_ALL] = {
	[COL_OP] = { "op", "op", NULL, ST_CELL_TEXT, 5, 0 },
	[COL_BLOCK] = { "block", "block", NULL, ST_CELL_BYTES, 7, 0 },
	[COL_DEPTH] = { "depth", "depth", NULL, ST_CELL_UINT, 5, 0 },
	[COL_PATTERN] = { "pattern", "order", NULL, ST_CELL_TEXT, 6, 0 },
	[COL_BACKEND] = { "backend", "backend", NULL, ST_CELL_TEXT, 8, 0 },
	[COL_VIA] = { "via", "via", NULL, ST_CELL_TEXT, 5, 0 },
	[COL_PATHS] = { "paths", NULL, NULL, ST_CELL_TEXTS, 0, 0 },
	[COL_N_PATHS] = { NULL, "paths", NULL, ST_CELL_UINT, 0, 0 },
	[COL_SIZE] = { "size", NULL, NULL, ST_CELL_BYTES, 0, 0 },
	[COL_GBPS] = { "gbps", "rate", "GB/s", ST_CELL_REAL, 6, 3 },
	[COL_IOPS] = { "iops", "IOPS", "1/s", ST_CELL_REAL, 7, 0 },
	[COL_P50] = { "p50_us", "p50", "us", ST_CELL_REAL, 7, 0 },
	[COL_P99] = { "p99_us", "p99", "us", ST_CELL_REAL, 7, 0 },
	[COL_CPU] = { "cpu_s_per_gb", "CPU", "s/GB", ST_CELL_REAL, 6, 3 },
	[COL_XXH3] = { "checksum_s_per_gb", "XXH3", "s/GB", ST_CELL_REAL, 6, 3 },
	[COL_WRONG] = { "wrong", "#wrong", "blocks", ST_CELL_UINT, 6, 0 },
	[COL_SECONDS] = { "seconds", NULL, NULL, ST_CELL_REAL, 0, 0 },
	[COL_SLICES] = { "slices", NULL, NULL, ST_CELL_UINT, 0, 0 },
	[COL_MIN] = { "gbps_min", NULL, NULL, ST_CELL_REAL, 0, 0 },
	[COL_MAX] = { "gbps_max", NULL, NULL, ST_CELL_REAL, 0, 0 },
	[COL_FIO_GBPS] = { "fio_gbps", "fio", "GB/s", ST_CELL_REAL, 6, 3 },
	[COL_RATIO] = { "ratio_to_fio", "ratio", "x fio", ST_CELL_REAL, 6, 3 },
	[COL_FIO_CPU] = { "fio_cpu_s_per_gb", "fio CPU", "s/GB", ST_CELL_REAL, 7, 3 },
	[COL_CPU_RATIO] = { "cpu_ratio_to_fio", NULL, NULL, ST_CELL_REAL, 0, 0 },
	[COL_FIO_HUGE] = { "fio_huge_pages", NULL, NULL, ST_CELL_UINT, 0, 0 },
	[COL_FIO_IOPS] = { "fio_iops", NULL, NULL, ST_CELL_REAL, 0, 0 },
	[COL_RATIO_MIN] = { "ratio_min", NULL, NULL, ST_CELL_REAL, 0, 0 },
	[COL_RATIO_MAX] = { "ratio_max", NULL, NULL, ST_CELL_REAL, 0, 0 },
};

/* ---- one measurement of the verb ------------------------------------------------------------ */

struct row {
	enum st_load_op op;
	size_t block_bytes;
	struct st_compared c;
};

struct bench {
	const struct nvme_args *a;
	struct st_report report;
	struct st_table table;
	size_t blocks[BLOCKS_MAX];
	unsigned n_blocks, n_ops, n_rows;
	int64_t start_ns;
	const char **path_texts; /* ends with NULL */
	struct row *rows;        /* [ROWS_MAX] */
	struct st_area *area;
	const struct row *now; /* being measured */
	uint64_t n_wrong;
	char first_wrong[256];
};

static double per_gb(double seconds, uint64_t bytes)
{
	return bytes ? seconds / ((double)bytes / 1e9) : NAN;
}

static void put_row(struct bench *b, const struct row *r)
{
	const struct st_compared *c = &r->c;
	const struct st_load_result *s = &c->sum;
	double seconds = (double)s->elapsed_ns / 1e9;
	double cpu = per_gb((double)s->cpu_ns / 1e9, s->n_bytes);
	double fio_cpu = per_gb(c->fio.cpu_seconds, c->fio.n_bytes);
	bool is_raw = r->block_bytes < EXTENT_MIN;
	bool has_sums = !is_raw && !b->a->no_checksum;
	struct st_cell cells[COL_ALL] = {
		[COL_OP] = ST_TEXT(st_load_op_names[r->op]),
		[COL_BLOCK] = ST_UINT(r->block_bytes),
		[COL_DEPTH] = ST_UINT(b->a->depth),
		[COL_PATTERN] = ST_TEXT(pattern_words[b->a->pattern]),
		[COL_BACKEND] = ST_TEXT(s->backend),
		[COL_VIA] = ST_TEXT(is_raw ? "aio" : "store"),
		[COL_PATHS] = ST_TEXTS(b->path_texts),
		[COL_N_PATHS] = ST_UINT(b->a->paths.n),
		[COL_SIZE] = ST_UINT(st_area_blocks(b->area) * r->block_bytes),
		[COL_GBPS] = ST_REAL(st_load_gbps(s)),
		[COL_IOPS] = ST_REAL((double)s->n_ios / seconds),
		[COL_P50] = ST_REAL(st_hist_quantile(&s->latency, 0.50) / 1e3),
		[COL_P99] = ST_REAL(st_hist_quantile(&s->latency, 0.99) / 1e3),
		[COL_CPU] = ST_REAL(cpu),
		[COL_XXH3] = has_sums ? ST_REAL(per_gb((double)s->checksum_ns / 1e9, s->n_bytes))
				      : ST_NO_CELL,
		[COL_WRONG] = ST_UINT(s->n_wrong),
		[COL_SECONDS] = ST_REAL(seconds),
		[COL_SLICES] = ST_UINT(c->n),
		[COL_MIN] = ST_REAL(c->gbps_min),
		[COL_MAX] = ST_REAL(c->gbps_max),
		[COL_FIO_GBPS] = ST_REAL(st_fio_gbps(&c->fio)),
		[COL_RATIO] = ST_REAL(c->ratio),
		[COL_FIO_CPU] = ST_REAL(fio_cpu),
		[COL_CPU_RATIO] = ST_REAL(cpu / fio_cpu),
		[COL_FIO_HUGE] = ST_UINT(c->fio.is_huge),
		[COL_FIO_IOPS] = ST_REAL((double)c->fio.n_ios / c->fio.seconds),
		[COL_RATIO_MIN] = ST_REAL(c->ratio_min),
		[COL_RATIO_MAX] = ST_REAL(c->ratio_max),
	};

	st_report_wipe(&b->report);
	st_table_row(&b->table, cells);
}

static void tell(void *user, unsigned i, unsigned n)
{
	struct bench *b = user;

	st_report_status(&b->report, "%s, blocks of %s: slice %u of %u",
			 st_load_op_names[b->now->op], st_bytes_text(b->now->block_bytes).s, i + 1,
			 n);
}

/* Without --seconds: what is left of AUTO_NS, shared among the rows that are left. */
static double seconds_of(const struct bench *b, int64_t pass_ns)
{
	unsigned rows_left = b->n_blocks * b->n_ops - b->n_rows;
	unsigned fills_left = (rows_left - 1) / b->n_ops;
	double per_pass = (double)pass_ns / 1e9, left, s;

	if (b->a->seconds > 0)
		return b->a->seconds;
	left = (double)(b->start_ns + AUTO_NS - st_now_ns()) / 1e9;
	left -= per_pass * (rows_left + fills_left * (b->a->with_fio ? 2.5 : 1.25));
	s = left / rows_left;
	if (b->a->with_fio)
		s = s / 2 - FIO_EXTRA_S * AUTO_SLICES / 2;
	return s > AUTO_MIN_S ? s : AUTO_MIN_S;
}

static struct st_aio_cfg aio_of(const struct bench *b, size_t block_bytes)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;

	cfg.backend = backend_words[b->a->backend];
	cfg.threads = (unsigned)b->a->threads;
	cfg.sqpoll = b->a->sqpoll;
	cfg.iopoll = b->a->iopoll;
	cfg.block_bytes = block_bytes;
	return cfg;
}

static int measure(struct bench *b, enum st_load_op op, size_t block_bytes, int64_t pass_ns)
{
	struct row *r = &b->rows[b->n_rows];
	struct st_load load = {
		.op = op,
		.is_random = b->a->pattern == 1,
		.depth = (unsigned)b->a->depth,
		.aio = aio_of(b, block_bytes),
	};
	struct st_slices slices = st_slices_plan(
		seconds_of(b, pass_ns), b->a->seconds > 0 ? 1 : AUTO_SLICES, b->a->with_fio);
	int rc;

	r->op = op;
	r->block_bytes = block_bytes;
	b->now = r;
	rc = st_compare(b->area, &load, &slices, tell, b, &r->c);
	if (rc)
		return rc;
	if (r->c.sum.n_wrong && !b->n_wrong)
		memcpy(b->first_wrong, r->c.sum.first_wrong, sizeof(b->first_wrong));
	b->n_wrong += r->c.sum.n_wrong;
	b->n_rows++;
	put_row(b, r);
	return 0;
}

/* Once there is something to measure: what is refused before leaves stdout empty. */
static void begin_table(struct bench *b)
{
	struct utsname un;

	if (b->table.f)
		return;
	st_report_note(&b->report, "strata bench nvme: %s on %zu path%s (%s%s), Linux %s",
		       st_bytes_text(b->a->size_bytes).s, b->a->paths.n,
		       b->a->paths.n > 1 ? "s" : "", b->a->paths.v[0],
		       b->a->paths.n > 1 ? ", ..." : "", uname(&un) ? "?" : un.release);
	st_table_begin(&b->table, stdout, b->report.form, columns,
		       b->a->with_fio ? COL_ALL : COL_PLAIN);
}

static int measure_block(struct bench *b, size_t block_bytes)
{
	struct st_area_cfg cfg = {
		.paths = b->a->paths.v,
		.n_paths = (unsigned)b->a->paths.n,
		.size_bytes = b->a->size_bytes,
		.block_bytes = block_bytes,
		.is_raw = block_bytes < EXTENT_MIN,
		.checksum = !b->a->no_checksum,
		.depth_max = (unsigned)b->a->depth,
		.stop = &st_signal,
	};
	struct st_aio_cfg aio = aio_of(b, block_bytes);
	int64_t start_ns = st_now_ns(), pass_ns;
	int rc;

	st_report_status(&b->report, "blocks of %s: the first pass of writing",
			 st_bytes_text(block_bytes).s);
	rc = st_area_open(&b->area, &cfg);
	if (!rc)
		begin_table(b);
	if (!rc)
		rc = st_compare_prepare(b->area, &aio, cfg.depth_max, b->a->with_fio);
	pass_ns = (st_now_ns() - start_ns) / (b->a->with_fio ? 2 : 1);
	for (int op = 0; !rc && op < ST_LOAD_OPS; op++)
		if (!b->a->op || b->a->op == op + 1)
			rc = measure(b, op, block_bytes, pass_ns);
	st_area_close(b->area);
	b->area = NULL;
	return rc;
}

/* ---- arguments ----------------------------------------------------------------------------- */

static int parse_block(const char *text, size_t len, size_t *out)
{
	char word[32];
	uint64_t bytes = 0;
	double x;

	if (len && len < sizeof(word)) {
		snprintf(word, sizeof(word), "%.*s", (int)len, text);
		if (st_parse_size(word, &x) && x < 0x1p62)
			bytes = (uint64_t)x;
		else if (strspn(word, "0123456789") == len)
			bytes = strtoull(word, NULL, 10);
	}
	if (!bytes || bytes % ST_AIO_ALIGN || bytes > BLOCK_MAX)
		return st_fail(-EINVAL,
			       "bench nvme: --block: \"%.*s\": must be a multiple of 4096 up to "
			       "64MiB, such as 4KiB or 1MiB.",
			       (int)(len < 32 ? len : 32), text);
	*out = bytes;
	return 0;
}

static int parse_blocks(struct bench *b)
{
	const char *at = b->a->block;

	for (;;) {
		size_t len = strcspn(at, ",");
		int rc;

		if (b->n_blocks == BLOCKS_MAX)
			return st_fail(-EINVAL, "bench nvme: --block: more than %u sizes.",
				       BLOCKS_MAX);
		rc = parse_block(at, len, &b->blocks[b->n_blocks]);
		if (rc)
			return rc;
		b->n_blocks++;
		if (!at[len])
			return 0;
		at += len + 1;
	}
}

static int check_args(struct bench *b)
{
	const struct nvme_args *a = b->a;
	int rc;

	if (!a->paths.n)
		return st_fail(-EINVAL, "bench nvme: --path is missing: name a directory on the "
					"drive to measure.");
	if (a->paths.n > ST_STORE_PATHS_MAX)
		return st_fail(-EINVAL, "bench nvme: %zu paths: at most %u.", a->paths.n,
			       ST_STORE_PATHS_MAX);
	if (a->as_json && a->as_csv)
		return st_fail(-EINVAL, "bench nvme: --json and --csv: choose one.");
	rc = parse_blocks(b);
	for (unsigned i = 0; !rc && i < b->n_blocks; i++) {
		uint64_t least = 2 * b->blocks[i] * (a->depth > a->paths.n ? a->depth : a->paths.n);

		if (a->size_bytes < least)
			rc = st_fail(-EINVAL,
				     "bench nvme: --size %llu is too small for blocks of %s at "
				     "depth %llu: give at least %s, or less depth.",
				     (unsigned long long)a->size_bytes,
				     st_bytes_text(b->blocks[i]).s, (unsigned long long)a->depth,
				     st_bytes_text(least).s);
	}
	if (!rc && a->svg)
		rc = st_report_check_file(a->svg);
	if (!rc && a->with_fio)
		rc = st_fio_find();
	return rc;
}

/* ---- the verb ------------------------------------------------------------------------------ */

static int draw(const struct bench *b)
{
	double ours[ROWS_MAX], lo[ROWS_MAX], hi[ROWS_MAX];
	double fios[ROWS_MAX], fio_lo[ROWS_MAX], fio_hi[ROWS_MAX];
	char texts[ROWS_MAX][48], subtitle[256];
	const char *names[ROWS_MAX];
	struct st_plot_series series[2] = {
		{ .name = "Strata", .y = ours, .lo = lo, .hi = hi },
		{ .name = "fio", .y = fios, .lo = fio_lo, .hi = fio_hi },
	};
	struct st_plot p = {
		.kind = ST_PLOT_BARS,
		.title = "NVMe: rate of reading and writing",
		.subtitle = subtitle,
		.y_label = "GB/s",
		.x_names = names,
		.n_x = b->n_rows,
		.series = series,
		.n_series = b->a->with_fio ? 2 : 1,
	};
	struct utsname un;

	for (unsigned i = 0; i < b->n_rows; i++) {
		const struct row *r = &b->rows[i];

		ours[i] = st_load_gbps(&r->c.sum);
		lo[i] = r->c.gbps_min;
		hi[i] = r->c.gbps_max;
		fios[i] = st_fio_gbps(&r->c.fio);
		fio_lo[i] = r->c.fio_gbps_min;
		fio_hi[i] = r->c.fio_gbps_max;
		snprintf(texts[i], sizeof(texts[i]), "%s, %s", st_load_op_names[r->op],
			 st_bytes_text(r->block_bytes).s);
		names[i] = texts[i];
	}
	snprintf(subtitle, sizeof(subtitle),
		 "%s, %zu path%s, %s, depth %llu, %s, Linux %s; whiskers: slowest and fastest of "
		 "%u slices",
		 st_bytes_text(b->a->size_bytes).s, b->a->paths.n, b->a->paths.n > 1 ? "s" : "",
		 b->rows[0].c.sum.backend, (unsigned long long)b->a->depth,
		 b->a->pattern ? "random order" : "in sequence", uname(&un) ? "" : un.release,
		 b->rows[0].c.n);
	return st_plot_write(&p, b->a->svg);
}

static int finish(struct bench *b, int rc)
{
	int flushed;

	if (b->table.f)
		st_table_end(&b->table);
	if (!rc && b->n_wrong)
		rc = st_fail(STRATA_E_CORRUPT,
			     "%llu blocks came back wrong: the drive, its cable or the memory is "
			     "not to be trusted; the first: %s.",
			     (unsigned long long)b->n_wrong, b->first_wrong);
	else if (!rc)
		st_report_note(&b->report, "wrong blocks: 0; %.0f s in all",
			       (double)(st_now_ns() - b->start_ns) / 1e9);
	if (b->n_rows && b->a->svg && (!rc || rc == STRATA_E_CORRUPT)) {
		struct st_error e;

		st_error_take(&e, rc);
		flushed = draw(b);
		rc = flushed ? flushed : rc ? st_error_raise(&e) : 0;
	}
	st_report_end(&b->report);
	if (st_signal)
		return st_signals_report();
	flushed = st_flush_stdout();
	if (rc || flushed)
		return st_report(rc ? rc : flushed);
	return 0;
}

static int nvme_run(const void *args, char **argv)
{
	struct bench b = { .a = args, .start_ns = st_now_ns() };
	const struct nvme_args *a = args;
	int rc = check_args(&b), code;

	(void)argv;
	if (rc)
		return st_report(rc);
	b.rows = calloc(ROWS_MAX, sizeof(*b.rows));
	b.path_texts = calloc(a->paths.n + 1, sizeof(*b.path_texts));
	if (!b.rows || !b.path_texts) {
		free(b.rows);
		free(b.path_texts);
		return st_report(st_fail(-ENOMEM, "bench nvme"));
	}
	memcpy(b.path_texts, a->paths.v, a->paths.n * sizeof(*b.path_texts));
	b.n_ops = a->op ? 1 : ST_LOAD_OPS;
	st_signals_catch();
	st_report_begin(&b.report, a->as_json  ? ST_TABLE_JSON
				   : a->as_csv ? ST_TABLE_CSV
					       : ST_TABLE_TEXT);
	for (unsigned i = 0; !rc && i < b.n_blocks; i++)
		rc = measure_block(&b, b.blocks[i]);
	code = finish(&b, rc);
	free(b.rows);
	free(b.path_texts);
	return code;
}
