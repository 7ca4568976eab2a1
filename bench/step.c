/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench/step.c - `strata bench step`: training steps of blocks of any size, through the planner and
 * the engine that train, against the bound.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/report.h"
#include "bench/signals.h"
#include "bench/step_model.h"
#include "bench/verbs.h"
#include "cli/print.h"
#include "core/clock.h"
#include "core/text.h"
#include "model/gpt2.h"
#include "offload/engine.h"
#include "strata/train.h"

#define RUN_JSON_BYTES ((size_t)64 << 10)
#define WARM_UP        2u /* steps that are not counted */
#define STEPS_MIN      3u
#define STEPS_MAX      10000u

struct step_args {
	struct st_opt_list paths;
	uint64_t n_params, n_layers, batch, seq, accum, threads, depth;
	uint64_t device_bytes, host_bytes;
	const char *compute;
	double seconds;
	int update, durability, backend;
	bool pins, no_checksum, as_json;
};

static const struct step_args defaults = {
	.n_params = 20000000,
	.n_layers = 8,
	.batch = 1,
	.seq = 256,
	.accum = 1,
	.depth = 8,
	.compute = "real",
	.seconds = 5,
};

static const char *const update_words[] = { "auto", "immediate", "deferred", "speculative", NULL };
static const char *const durability_words[] = { "step", "none", NULL };
static const char *const backend_words[] = { "auto", "io_uring", "threads", NULL };

#define OFF(field) .offset = offsetof(struct step_args, field)
static const struct st_opt options[] = {
	{ "path", ST_OPT_LIST, .metavar = "DIR", OFF(paths),
	  .help = "a directory on the drive (.); again for each further drive. 24 bytes a\n"
		  "parameter are written there, and removed" },
	{ "params", ST_OPT_UINT, .metavar = "N", .min = 100000, .max = 1000000000000, OFF(n_params),
	  .help = "parameters, about (20000000)" },
	{ "layers", ST_OPT_UINT, .metavar = "L", .min = 2, .max = 1000, OFF(n_layers),
	  .help = "blocks that they are in (8)" },
	{ "batch", ST_OPT_UINT, .metavar = "B", .min = 1, .max = 65536, OFF(batch),
	  .help = "sequences of a micro-batch (1)" },
	{ "seq", ST_OPT_UINT, .metavar = "T", .min = 1, .max = 1 << 20, OFF(seq),
	  .help = "tokens of a sequence (256)" },
	{ "accum", ST_OPT_UINT, .metavar = "N", .min = 1, .max = 4096, OFF(accum),
	  .help = "micro-batches of a step (1)" },
	{ "compute", ST_OPT_TEXT, .metavar = "HOW", OFF(compute),
	  .help = "real: the products are run; a number: seconds for 1e9 operations that the\n"
		  "lane sleeps instead, as a device of that speed would take (0.001: 1 TFLOP/s)" },
	{ "seconds", ST_OPT_REAL, .metavar = "S", .max = 100000, OFF(seconds),
	  .help = "of counted steps (5), at least three of them, after two to warm up" },
	{ "device", ST_OPT_SIZE, .metavar = "BYTES", .max = 1ull << 60, OFF(device_bytes),
	  .help = "budget of device memory (0: as much as is useful)" },
	{ "host", ST_OPT_SIZE, .metavar = "BYTES", .max = 1ull << 60, OFF(host_bytes),
	  .help = "the same of host memory" },
	{ "pin", ST_OPT_FLAG, OFF(pins),
	  .help = "what the budgets leave room for stays in memory" },
	{ "update", ST_OPT_WORD, .metavar = "MODE", .words = update_words, OFF(update),
	  .help = "auto, immediate, deferred, speculative (no step clips)" },
	{ "durability", ST_OPT_WORD, .metavar = "WORD", .words = durability_words, OFF(durability),
	  .help = "step: each step is committed; none" },
	{ "depth", ST_OPT_UINT, .metavar = "N", .min = 1, .max = 4096, OFF(depth),
	  .help = "transfers in flight in each direction (8)" },
	{ "backend", ST_OPT_WORD, .metavar = "NAME", .words = backend_words, OFF(backend),
	  .help = "auto, io_uring, threads" },
	{ "threads", ST_OPT_UINT, .metavar = "N", .max = 4096, OFF(threads),
	  .help = "that compute (0: all cores)" },
	{ "no-checksum", ST_OPT_FLAG, OFF(no_checksum), .help = "none are made or checked" },
	{ "json", ST_OPT_FLAG, OFF(as_json), .help = "one object" },
};

static int step_run(const void *args, char **argv);

const struct st_verb st_verb_bench_step = {
	.name = "bench step",
	.summary = "training steps of made-up blocks of any size: how well work overlaps",
	.more = "Parameters and AdamW's states live on the drive and move as in training, through "
		"the\nsame planner and engine; optimizer and checksums are always real.\n\n"
		"bound     what no order of the same operations could beat, at the rates at which "
		"they"
		"\n          ran: the busiest lane's work\n"
		"share     bound / step\n"
		"busy      of a step, a lane had something in service; waits: the rest\n\n"
		"exit code: 0; 2 bad input; 3 does not fit the budgets or the drive; 4 I/O error\n",
	.opts = options,
	.n_opts = ST_ARRAY_LEN(options),
	.args_bytes = sizeof(struct step_args),
	.defaults = &defaults,
	.run = step_run,
};

struct bench {
	const struct step_args *a;
	double s_per_gflop; /* 0: real */
	const char *here[1];
	const char *const *paths;
	unsigned n_paths;
	struct st_device *device;
	struct st_step_model *blocks;
	const struct st_model *model;
	struct st_plan *plan;
	struct st_engine *engine;
	char *run_json;
	int32_t *tokens;
	struct st_report report;
	/* of the counted steps */
	unsigned n;
	double *step_s; /* [STEPS_MAX] */
	double compute_s, read_s, write_s, commit_s, checksum_s, nvme_s, bound_s, all_s, optim_s;
	double read_bytes, write_bytes, loaded_bytes_per_s;
	unsigned speculated, limited[4];
};

static const char *const limits[] = { "compute", "nvme-read", "nvme-write", "checksum" };

/* ---- set up -------------------------------------------------------------------------------- */

static int check_args(struct bench *b)
{
	const struct step_args *a = b->a;
	char *end;

	b->here[0] = ".";
	b->paths = a->paths.n ? a->paths.v : b->here;
	b->n_paths = a->paths.n ? (unsigned)a->paths.n : 1;
	if (a->paths.n > ST_CONFIG_PATHS_MAX)
		return st_fail(-EINVAL, "bench step: %zu paths, at most %u.", a->paths.n,
			       ST_CONFIG_PATHS_MAX);
	if (a->update == ST_UPDATE_SPECULATIVE && a->durability)
		return st_fail(-EINVAL, "bench step: speculation needs a way back: --durability "
					"step.");
	if (!strcmp(a->compute, "real"))
		return 0;
	b->s_per_gflop = strtod(a->compute, &end);
	if (strspn(a->compute, "0123456789.eE+-") != strlen(a->compute) || *end ||
	    end == a->compute || !(b->s_per_gflop > 0) || b->s_per_gflop > 1000)
		return st_fail(-EINVAL,
			       "bench step: --compute: \"%.64s\" is neither real nor seconds for "
			       "1e9 operations (above 0, at most 1000).",
			       a->compute);
	return 0;
}

static int make_plan(struct bench *b)
{
	const struct step_args *a = b->a;
	const enum st_update update = (enum st_update)a->update;
	const struct strata_optim_cfg adamw = STRATA_OPTIM_CFG_DEFAULT;
	const struct st_plan_cfg plan = {
		.model = b->model,
		.formats = { .dtype = ST_BF16, .grad_dtype = ST_BF16, .optim = adamw },
		.n_mb = (unsigned)a->accum,
		.param_home = ST_HOME_NVME,
		.state_home = ST_HOME_NVME,
		.pins = a->pins,
		.needs_norm = update == ST_UPDATE_DEFERRED || update == ST_UPDATE_SPECULATIVE,
		.may_speculate = !a->durability,
		.update = update,
		.order = ST_ORDER_VERTICAL,
		.recompute = true,
		.rest = a->host_bytes ? ST_REST_FIT : ST_REST_MEMORY,
		.commits = !a->durability,
		.device_bytes = a->device_bytes,
		.host_bytes = a->host_bytes,
	};

	return st_plan_create(&b->plan, &plan);
}

static int fill(void *user, const struct st_tensor_desc *t, size_t first, size_t n, float *out)
{
	(void)user;
	if (st_signal)
		return st_fail(STRATA_E_CANCELLED, "stopped");
	st_init_fill(t, 1, first, n, out);
	return 0;
}

static int start_engine(struct bench *b)
{
	const struct step_args *a = b->a;
	struct st_engine_cfg cfg = {
		.plan = b->plan,
		.device = b->device,
		.aio = ST_AIO_CFG_DEFAULT,
		.store_paths = b->paths,
		.n_store_paths = b->n_paths,
		.checksum = !a->no_checksum,
		.commit_every = 1,
		.clip = b->plan->cfg.needs_norm ? 1e30 : 0,
		.always_speculates = true,
		.fill = fill,
	};
	const struct strata_loss_scale_cfg scale = { .struct_bytes = sizeof(scale), .fixed = 1 };
	int rc = strata_loss_scale_init(&cfg.loss_scale, &scale);

	cfg.aio.backend = backend_words[a->backend];
	cfg.aio.depth = (unsigned)a->depth;
	return rc ? rc : st_engine_create(&b->engine, &cfg, b->run_json, RUN_JSON_BYTES);
}

static int set_up(struct bench *b)
{
	const struct step_args *a = b->a;
	const struct st_device_cfg device = { .type = "host",
					      .dtype = ST_BF16,
					      .threads = (unsigned)a->threads };
	const struct st_step_model_cfg blocks = {
		.n_params = a->n_params,
		.n_layers = (unsigned)a->n_layers,
		.batch = a->batch,
		.seq = a->seq,
		.s_per_gflop = b->s_per_gflop,
	};
	size_t n = a->batch * a->seq * a->accum;
	int rc = st_device_open(&b->device, &device);

	if (!rc)
		rc = st_step_model_create(&b->blocks, &blocks, b->device);
	if (rc)
		return rc;
	b->model = st_step_model_get(b->blocks);
	b->tokens = calloc(n, sizeof(*b->tokens));
	b->run_json = calloc(1, RUN_JSON_BYTES);
	b->step_s = calloc(STEPS_MAX, sizeof(*b->step_s));
	if (!b->tokens || !b->run_json || !b->step_s)
		return st_fail(-ENOMEM, "bench step");
	for (size_t i = 0; i < n; i++)
		b->tokens[i] = (int32_t)(i * 167 % b->model->vocab);
	rc = make_plan(b);
	if (rc)
		return rc;
	st_report_status(&b->report, "writing first values: %s on the drive",
			 st_bytes_text(st_plan_disk_bytes(b->plan, b->n_paths)).s);
	return start_engine(b);
}

static void tear_down(struct bench *b)
{
	st_engine_close(b->engine, true);
	st_plan_destroy(b->plan);
	st_step_model_destroy(b->blocks);
	st_device_close(b->device);
	free(b->tokens);
	free(b->run_json);
	free(b->step_s);
}

/* ---- steps --------------------------------------------------------------------------------- */

static void count(struct bench *b, const struct st_step_out *out)
{
	const struct st_step_lanes *l = &out->lanes;

	b->step_s[b->n++] = (double)out->wall_ns * 1e-9;
	b->all_s += (double)out->wall_ns * 1e-9;
	b->bound_s += (double)l->bound_ns * 1e-9;
	b->compute_s += (double)l->compute_ns * 1e-9;
	b->optim_s += (double)(l->reduce_ns + l->update_ns) * 1e-9;
	b->read_s += (double)l->read_ns * 1e-9;
	b->write_s += (double)l->write_ns * 1e-9;
	b->commit_s += (double)l->commit_ns * 1e-9;
	b->checksum_s += (double)l->checksum_ns * 1e-9;
	b->nvme_s += (double)l->nvme_ns * 1e-9;
	b->read_bytes += (double)out->read_bytes;
	b->write_bytes += (double)out->write_bytes;
	b->loaded_bytes_per_s = l->loaded_bytes_per_s;
	b->speculated += out->speculated;
	for (unsigned i = 0; i < ST_ARRAY_LEN(limits); i++)
		b->limited[i] += !strcmp(l->limiting, limits[i]);
}

static int run_steps(struct bench *b)
{
	struct st_step_in in = {
		.tokens = b->tokens,
		.targets = b->tokens,
		.lr = 1e-6,
		.beta1 = -1,
		.beta2 = -1,
	};
	struct st_step_out out;
	int rc = 0;

	for (unsigned i = 0; !rc && !st_signal; i++) {
		if (b->n == STEPS_MAX || (b->n >= STEPS_MIN && b->all_s >= b->a->seconds))
			break;
		in.cursor_after = i + 1;
		rc = st_engine_step(b->engine, &in, &out);
		if (!rc && i >= WARM_UP)
			count(b, &out);
		st_report_status(&b->report, "step %u: %.3f s", i + 1, (double)out.wall_ns * 1e-9);
	}
	return rc;
}

/* ---- results ------------------------------------------------------------------------------- */

static int compare(const void *x, const void *y)
{
	double a = *(const double *)x, b = *(const double *)y;

	return (a > b) - (a < b);
}

static double median(struct bench *b)
{
	qsort(b->step_s, b->n, sizeof(*b->step_s), compare);
	return b->n % 2 ? b->step_s[b->n / 2] : (b->step_s[b->n / 2 - 1] + b->step_s[b->n / 2]) / 2;
}

static const char *limiting(const struct bench *b)
{
	unsigned most = 0;

	for (unsigned i = 0; i < ST_ARRAY_LEN(limits); i++)
		if (b->limited[i] > b->limited[most])
			most = i;
	return limits[most];
}

struct lane {
	const char *name;
	double busy_s, bytes;
};

#define LANES 5u

static void lanes_of(const struct bench *b, struct lane out[LANES])
{
	const struct lane all[LANES] = {
		{ "compute", b->compute_s, 0 },
		{ "nvme-read", b->read_s, b->read_bytes },
		{ "nvme-write", b->write_s, b->write_bytes },
		{ "checksum", b->checksum_s, 0 },
		{ "commit", b->commit_s, 0 },
	};

	for (unsigned i = 0; i < LANES; i++) {
		out[i] = all[i];
		out[i].busy_s /= b->n;
		out[i].bytes /= b->n;
	}
}

static double flops_per_step(const struct bench *b)
{
	const struct st_program *p = st_plan_steady(b->plan);

	return p->flops;
}

static const char *update_name(const struct bench *b)
{
	unsigned count[ST_UPDATE_SPECULATIVE + 1] = { 0 }, n = 0;
	enum st_update which = ST_UPDATE_AUTO;

	for (unsigned u = 0; u < b->model->n_units; u++)
		count[b->plan->mode[u]]++;
	for (unsigned m = 0; m <= ST_UPDATE_SPECULATIVE; m++)
		if (count[m]) {
			which = (enum st_update)m;
			n++;
		}
	return n == 1 ? update_words[which] : "mixed";
}

static void print_json(struct bench *b)
{
	double step = median(b), mean = b->all_s / b->n, bound = b->bound_s / b->n;
	struct lane lane[LANES];

	lanes_of(b, lane);
	printf("{\"params\":%zu,\"layers\":%u,\"hidden\":%zu,\"tokens_per_step\":%zu,"
	       "\"compute\":\"%s\"",
	       b->model->n_params, b->model->n_units, st_step_model_hidden(b->blocks),
	       b->model->batch * b->model->seq * b->a->accum,
	       b->s_per_gflop > 0 ? "simulated" : "real");
	st_member_real("s_per_gflop", b->s_per_gflop > 0 ? b->s_per_gflop : NAN);
	printf(",\"update\":\"%s\",\"io\":\"%s\",\"steps\":%u", update_name(b),
	       st_engine_io(b->engine), b->n);
	st_member_real("step_s", step);
	st_member_real("step_mean_s", mean);
	st_member_real("step_min_s", b->step_s[0]);
	st_member_real("step_max_s", b->step_s[b->n - 1]);
	st_member_real("bound_s", bound);
	st_member_real("share", bound / mean);
	printf(",\"limiting_lane\":\"%s\",\"lanes\":[", limiting(b));
	for (unsigned i = 0; i < LANES; i++) {
		printf("%s{\"name\":\"%s\"", i ? "," : "", lane[i].name);
		st_member_real("busy_s", lane[i].busy_s);
		st_member_real("wait_s", fmax(0, mean - lane[i].busy_s));
		st_member_real("bytes", lane[i].bytes);
		putchar('}');
	}
	putchar(']');
	st_member_real("nvme_s", b->nvme_s / b->n);
	st_member_real("optimizer_s", b->optim_s / b->n);
	st_member_real("nvme_read_bytes_per_step", b->read_bytes / b->n);
	st_member_real("nvme_write_bytes_per_step", b->write_bytes / b->n);
	st_member_real("nvme_gbps", (b->read_bytes + b->write_bytes) / b->all_s * 1e-9);
	st_member_real("nvme_loaded_gbps",
		       b->loaded_bytes_per_s > 0 ? b->loaded_bytes_per_s * 1e-9 : NAN);
	st_member_real("gflop_per_step", flops_per_step(b) * 1e-9);
	printf(",\"device_bytes\":%llu,\"host_bytes\":%llu}\n",
	       (unsigned long long)b->plan->arena_bytes[ST_ARENA_DEVICE],
	       (unsigned long long)b->plan->arena_bytes[ST_ARENA_HOST]);
}

static void print_text(struct bench *b)
{
	static const struct st_col cols[] = {
		{ "name", "lane", NULL, ST_CELL_TEXT, 10, 0 },
		{ "busy_s", "busy", "s", ST_CELL_REAL, 8, 3 },
		{ "wait_s", "waits", "s", ST_CELL_REAL, 8, 3 },
		{ "share", "busy", "%", ST_CELL_REAL, 6, 1 },
		{ "gbps", "rate", "GB/s", ST_CELL_REAL, 7, 3 },
	};
	double step = median(b), mean = b->all_s / b->n, bound = b->bound_s / b->n;
	struct lane lane[LANES];
	struct st_table t;

	lanes_of(b, lane);
	st_report_note(&b->report,
		       "%s parameters, %u blocks of hidden size %zu, %zu tokens a step, "
		       "updates %s, compute %s, by %s",
		       st_count_text((double)b->model->n_params).s, b->model->n_units,
		       st_step_model_hidden(b->blocks),
		       b->model->batch * b->model->seq * b->a->accum, update_name(b),
		       b->s_per_gflop > 0 ? "simulated" : "real", st_engine_io(b->engine));
	st_report_note(&b->report, "memory: device %s, host %s",
		       st_bytes_text(b->plan->arena_bytes[ST_ARENA_DEVICE]).s,
		       st_bytes_text(b->plan->arena_bytes[ST_ARENA_HOST]).s);
	st_table_begin(&t, stdout, ST_TABLE_TEXT, cols, ST_ARRAY_LEN(cols));
	for (unsigned i = 0; i < LANES; i++) {
		const struct st_cell cells[] = {
			ST_TEXT(lane[i].name),
			ST_REAL(lane[i].busy_s),
			ST_REAL(fmax(0, mean - lane[i].busy_s)),
			ST_REAL(100 * lane[i].busy_s / mean),
			lane[i].bytes > 0 ? ST_REAL(lane[i].bytes / mean * 1e-9) : ST_NO_CELL,
		};

		st_table_row(&t, cells);
	}
	st_table_end(&t);
	st_report_note(&b->report,
		       "step %.3f s in the median of %u (%.3f to %.3f), %.3f in the mean", step,
		       b->n, b->step_s[0], b->step_s[b->n - 1], mean);
	st_report_note(&b->report, "bound %.3f s by %s: a share of %.1f %%", bound, limiting(b),
		       100 * bound / mean);
	if (b->loaded_bytes_per_s > 0)
		st_report_note(&b->report,
			       "drives under load: %.3f GB/s, reads and writes together",
			       b->loaded_bytes_per_s * 1e-9);
}

static int step_run(const void *args, char **argv)
{
	struct bench b = { .a = args };
	int rc = check_args(&b), code = 0;

	(void)argv;
	if (rc)
		return st_report(rc);
	st_signals_catch();
	st_report_begin(&b.report, b.a->as_json ? ST_TABLE_JSON : ST_TABLE_TEXT);
	rc = set_up(&b);
	if (!rc)
		rc = run_steps(&b);
	st_report_wipe(&b.report);
	if (st_signal) {
		code = st_signals_report();
	} else if (rc) {
		code = st_report(rc);
	} else {
		if (b.a->as_json)
			print_json(&b);
		else
			print_text(&b);
		rc = st_flush_stdout();
		code = rc ? st_report(rc) : 0;
	}
	tear_down(&b);
	st_report_end(&b.report);
	return code;
}
