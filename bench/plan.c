/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench/plan.c - `strata bench plan`: what the planner predicts, and what the machine then does.
 *
 * Each configuration is planned and trained as `strata plan` and `strata train` do it, on tokens
 * that are made up. Rates change from minute to minute, so they are measured in slices between
 * stretches of steps, and each stretch is compared with the prediction from the slices before and
 * after it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/report.h"
#include "bench/signals.h"
#include "bench/verbs.h"
#include "cli/print.h"
#include "core/text.h"
#include "model/setup.h"
#include "offload/engine.h"
#include "strata/train.h"

#define CONFIGS_MAX  64u
#define STRETCHES    3u
#define STEPS_LEAST  3u   /* of a stretch; a median of fewer says little */
#define STEPS_MAX    100u /* the same, at most */
#define WARM_UP_MAX  12u  /* until the plan's usual step runs */
#define SETS_MAX     8u
#define SHIPPED      "examples/plan"
#define STEP_MEDIAN  0.10 /* what a true plan may be off by */
#define STEP_WORST   0.20
#define MEMORY_WORST 0.03

struct plan_args {
	struct st_opt_list configs, paths, sets;
	double seconds;
	bool as_json, as_markdown;
};

static const struct plan_args defaults = { .seconds = 9 };

#define OFF(field) .offset = offsetof(struct plan_args, field)
static const struct st_opt options[] = {
	{ "configs", ST_OPT_LIST, .metavar = "DIR|FILE", OFF(configs),
	  .help = "configurations to train, or a directory of them (" SHIPPED "); may be given\n"
		  "many times" },
	{ "path", ST_OPT_LIST, .metavar = "DIR", OFF(paths),
	  .help = "where the states go, in place of what the configurations name (.); again for\n"
		  "each further drive. What is written there is removed" },
	{ "set", ST_OPT_LIST, .metavar = "KEY=VALUE", OFF(sets),
	  .help = "over every file; may be given many times" },
	{ "seconds", ST_OPT_REAL, .metavar = "S", .max = 100000, OFF(seconds),
	  .help = "of counted steps for each configuration (9), at least three times three" },
	{ "json", ST_OPT_FLAG, OFF(as_json), .help = "one object" },
	{ "markdown", ST_OPT_FLAG, OFF(as_markdown), .help = "a table for docs/planner.md" },
};

static int plan_run(const void *args, char **argv);

const struct st_verb st_verb_bench_plan = {
	.name = "bench plan",
	.summary = "predictions of the planner beside measurements: time of a step, memory, drives",
	.more = "step      median of steps that do not clip; predicted from rates measured before "
		"and after\n          each stretch of them; off: measured over predicted, the "
		"median "
		"of the stretches\n"
		"bound     what `strata plan` and the log call so, in the same steps\n"
		"device    peak memory of the tier, measured by the kernel's count of pages\n"
		"nvme      size of the files\n"
		"process   growth of the whole process while it trains, over device and host "
		"together\n\n"
		"Tokens are uniform, so that as many rows are looked up as a batch can name.\n"
		"exit code: 0, also where the plan is wrong; 2 bad input; 3 does not fit; 4 I/O "
		"error\n",
	.opts = options,
	.n_opts = ST_ARRAY_LEN(options),
	.args_bytes = sizeof(struct plan_args),
	.defaults = &defaults,
	.run = plan_run,
};

enum { DEVICE, HOST, NVME, TIERS };

struct pair {
	double predicted, measured;
};

struct row { /* of a configuration */
	char name[48], lane[16];
	double params, tokens;
	struct pair step_s, bound_s, traffic; /* bytes a step */
	double ratio;                         /* of the steps: the median of the stretches */
	struct pair tier[TIERS], process;
	unsigned n_steps, n_clipped;
	int rc; /* it failed: the rest means nothing */
	char error[200];
};

struct bench {
	const struct plan_args *a;
	const char *here[1];
	const char *const *paths;
	size_t n_paths;
	char *files[CONFIGS_MAX];
	size_t n_files;
	struct row rows[CONFIGS_MAX];
	size_t n_rows;
	struct st_report report;
};

/* ---- files --------------------------------------------------------------------------------- */

static int add_file(struct bench *b, const char *path)
{
	if (b->n_files == CONFIGS_MAX)
		return st_fail(-EINVAL, "bench plan: more than %u configurations.", CONFIGS_MAX);
	b->files[b->n_files] = strdup(path);
	if (!b->files[b->n_files])
		return st_fail(-ENOMEM, "bench plan");
	b->n_files++;
	return 0;
}

static int is_config(const struct dirent *d)
{
	size_t n = strlen(d->d_name);

	return d->d_name[0] != '.' && n > 5 && !strcmp(d->d_name + n - 5, ".json");
}

static int add_directory(struct bench *b, const char *dir)
{
	struct dirent **list = NULL;
	int n = scandir(dir, &list, is_config, alphasort), rc = 0;

	if (n < 0)
		return st_fail(-errno, "bench plan: %s", dir);
	if (!n)
		rc = st_fail(-EINVAL, "bench plan: %s: no .json is there.", dir);
	for (int i = 0; i < n; i++) {
		char *path = NULL;

		if (!rc && asprintf(&path, "%s/%s", dir, list[i]->d_name) < 0) {
			path = NULL;
			rc = st_fail(-ENOMEM, "bench plan");
		}
		rc = rc ? rc : add_file(b, path);
		free(path);
		free(list[i]);
	}
	free(list);
	return rc;
}

static int find_configs(struct bench *b)
{
	static const char *const shipped[] = { SHIPPED };
	const char *const *v = b->a->configs.n ? b->a->configs.v : shipped;
	size_t n = b->a->configs.n ? b->a->configs.n : 1;
	int rc = 0;

	for (size_t i = 0; !rc && i < n; i++) {
		struct stat st;

		if (stat(v[i], &st))
			rc = st_fail(STRATA_E_INPUT, "bench plan: %s: %s%s", v[i], strerror(errno),
				     b->a->configs.n ? "" : "; name others with --configs");
		else
			rc = S_ISDIR(st.st_mode) ? add_directory(b, v[i]) : add_file(b, v[i]);
	}
	return rc;
}

/* ---- a place to train in ------------------------------------------------------------------- */

struct place { /* a directory of ours in each path */
	char *dir[ST_CONFIG_PATHS_MAX];
	size_t n;
};

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
	(void)st;
	(void)kind;
	(void)at;
	return remove(path);
}

static void leave(struct place *p)
{
	for (size_t i = 0; i < p->n; i++) {
		nftw(p->dir[i], remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
		free(p->dir[i]);
	}
	p->n = 0;
}

/* So many directories as the configuration has paths, in those given, in turn. */
static int settle_in(struct place *p, const struct bench *b, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		const char *path = b->paths[i % b->n_paths];

		if (asprintf(&p->dir[i], "%s/.strata-bench-plan.XXXXXX", path) < 0) {
			leave(p);
			return st_fail(-ENOMEM, "bench plan");
		}
		if (!mkdtemp(p->dir[i])) {
			int rc = -errno;

			free(p->dir[i]);
			leave(p);
			return st_fail(rc, "bench plan: %s: no directory can be made there", path);
		}
		p->n = i + 1;
	}
	return 0;
}

struct sets {
	char *text[SETS_MAX];
	const char *all[SETS_MAX + 64];
	size_t n_text, n;
};

static void ST_PRINTF(3, 4) add_set(struct sets *s, int *rc, const char *fmt, ...)
{
	va_list ap;

	if (*rc)
		return;
	va_start(ap, fmt);
	if (vasprintf(&s->text[s->n_text], fmt, ap) < 0)
		*rc = st_fail(-ENOMEM, "bench plan");
	else
		s->n_text++;
	va_end(ap);
}

static void free_sets(struct sets *s)
{
	for (size_t i = 0; i < s->n_text; i++)
		free(s->text[i]);
	s->n_text = 0;
}

/* ["a","b"] */
static char *list_text(const struct place *p)
{
	char *text = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);

	if (!f)
		return NULL;
	for (size_t i = 0; i < p->n; i++) {
		fputs(i ? "," : "[", f);
		st_put_json_string(p->dir[i], f);
	}
	fputc(']', f);
	if (fclose(f)) {
		free(text);
		text = NULL;
	}
	return text;
}

static int make_sets(struct sets *s, const struct bench *b, const struct st_config *c,
		     const struct place *p)
{
	char *paths = list_text(p);
	int rc = paths ? 0 : st_fail(-ENOMEM, "bench plan");

	*s = (struct sets){ 0 };
	if (c->offload_param == ST_OFFLOAD_NVME)
		add_set(s, &rc, "zero_optimization.offload_param.nvme_path=%s", paths);
	if (c->offload_optimizer == ST_OFFLOAD_NVME)
		add_set(s, &rc, "zero_optimization.offload_optimizer.nvme_path=%s", paths);
	if (!rc && b->a->sets.n > ST_ARRAY_LEN(s->all) - SETS_MAX)
		rc = st_fail(-EINVAL, "bench plan: more than %zu times --set.",
			     ST_ARRAY_LEN(s->all) - SETS_MAX);
	for (size_t i = 0; !rc && i < b->a->sets.n; i++)
		s->all[s->n++] = b->a->sets.v[i];
	for (size_t i = 0; !rc && i < s->n_text; i++)
		s->all[s->n++] = s->text[i];
	if (rc)
		free_sets(s);
	free(paths);
	return rc;
}

/* ---- what is there ------------------------------------------------------------------------- */

static double counted_bytes; /* nftw() hands nothing through */

static int count_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
	(void)path;
	(void)at;
	if (kind == FTW_F)
		counted_bytes += (double)st->st_blocks * 512;
	return 0;
}

static double disk_bytes(const struct place *p)
{
	counted_bytes = 0;
	for (size_t i = 0; i < p->n; i++)
		nftw(p->dir[i], count_one, 16, FTW_PHYS | FTW_MOUNT);
	return counted_bytes;
}

/* A figure of /proc/self/status in bytes; NaN: not told. */
static double status_bytes(const char *key)
{
	FILE *f = fopen("/proc/self/status", "re");
	char line[256];
	double kib = NAN;
	size_t n = strlen(key);

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, n) && line[n] == ':')
			kib = strtod(line + n + 1, NULL);
	if (f)
		fclose(f);
	return 1024 * kib;
}

/* From now on the peak is counted anew. @return false: the kernel does not do that */
static bool forget_peak(void)
{
	int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
	bool is_done = fd >= 0 && write(fd, "5", 1) == 1;

	if (fd >= 0)
		close(fd);
	return is_done;
}

/* ---- one configuration --------------------------------------------------------------------- */

struct stretch {                         /* of steps */
	double step_s, bound_s, traffic; /* medians; bytes */
	double peak_bytes;               /* of the process */
};

struct
try {
	struct bench *b;
	struct row *row;
	struct strata_plan *plan;
	struct strata_trainer *trainer;
	int32_t *tokens, *targets;
	size_t n_tokens;
	uint64_t vocab, seed;
	double rss_bytes; /* before the trainer was there */
	bool has_peak;
	struct st_hardware rates[STRETCHES + 1]; /* before, between and after */
	struct stretch stretches[STRETCHES];
};

static int compare(const void *x, const void *y)
{
	double a = *(const double *)x, b = *(const double *)y;

	return (a > b) - (a < b);
}

static double median(const double *v, size_t n)
{
	double sorted[STEPS_MAX];

	if (!n)
		return NAN;
	n = n < STEPS_MAX ? n : STEPS_MAX;
	memcpy(sorted, v, n * sizeof(*v));
	qsort(sorted, n, sizeof(*sorted), compare);
	return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

static int step(struct try *t, struct strata_metrics *m)
{
	for (size_t i = 0; i < t->n_tokens; i++) {
		t->seed = t->seed * 6364136223846793005u + 1442695040888963407u;
		t->tokens[i] = (int32_t)((t->seed >> 33) % t->vocab);
		t->targets[i] = (int32_t)((t->seed >> 20) % t->vocab);
	}
	if (st_signal)
		return st_fail(STRATA_E_CANCELLED, "stopped");
	return strata_trainer_step(t->trainer, t->tokens, t->targets, m);
}

/* Until the plan's usual step runs: speculation begins when some steps did not clip. */
static int warm_up(struct try *t)
{
	const struct st_plan *plan = st_planner_setup(t->plan)->plan;
	struct strata_metrics m = { 0 };
	int rc = step(t, &m);

	for (unsigned i = 1; !rc && i < WARM_UP_MAX && (i < 2 || m.speculated < plan->speculates);
	     i++)
		rc = step(t, &m);
	return rc;
}

static int run_stretch(struct try *t, struct stretch *out)
{
	double step_s[STEPS_MAX], bound_s[STEPS_MAX], traffic[STEPS_MAX], sum = 0;
	struct strata_metrics m;
	unsigned n = 0, n_run = 0;
	int rc;

	t->has_peak = forget_peak();
	rc = step(t, &m); /* nothing is due in it, and nothing was read ahead */
	while (!rc && n_run < STEPS_MAX &&
	       (n_run < STEPS_LEAST || sum < t->b->a->seconds / STRETCHES)) {
		rc = step(t, &m);
		n_run++;
		sum += rc ? 0 : m.step_s;
		if (rc || m.clipped || m.skipped) {
			t->row->n_clipped += !rc;
			continue;
		}
		step_s[n] = m.step_s;
		bound_s[n] = m.bound_s;
		traffic[n++] = (double)(m.nvme_read_bytes + m.nvme_write_bytes);
		st_report_status(&t->b->report, "%s: step %llu: %.3f s", t->row->name,
				 (unsigned long long)m.step, m.step_s);
	}
	t->row->n_steps += n;
	*out = (struct stretch){
		.step_s = median(step_s, n),
		.bound_s = median(bound_s, n),
		.traffic = median(traffic, n),
		.peak_bytes = t->has_peak ? status_bytes("VmHWM") : NAN,
	};
	return rc;
}

/* The engine has nothing to do when its state is saved: what is measured then is the machine. */
static int measure(struct try *t, unsigned i)
{
	int rc = i ? strata_trainer_save(t->trainer) : 0;

	st_report_status(&t->b->report, "%s: measuring the machine", t->row->name);
	return rc ? rc : st_planner_measure(t->plan, &t->rates[i]);
}

static int open_run(struct try *t, const struct strata_options *opt, const char *config)
{
	const struct st_setup *s = st_planner_setup(t->plan);
	int rc;

	t->n_tokens = s->cfg->train_batch * s->model->seq;
	t->vocab = s->model->vocab;
	t->seed = 1;
	t->tokens = calloc(t->n_tokens, sizeof(*t->tokens));
	t->targets = calloc(t->n_tokens, sizeof(*t->targets));
	if (!t->tokens || !t->targets)
		return st_fail(-ENOMEM, "bench plan");
	rc = measure(t, 0);
	if (rc)
		return rc;
	t->rss_bytes = status_bytes("VmRSS");
	st_report_status(&t->b->report, "%s: writing first values", t->row->name);
	rc = strata_trainer_open(&t->trainer, config, opt);
	st_report_take_log(&t->b->report);
	return rc ? rc : warm_up(t);
}

/* The mean of two measurements: what the machine was between them. */
static struct st_hardware between(const struct st_hardware *a, const struct st_hardware *b)
{
	struct st_hardware m = *a;
	double *to[] = { &m.product_flops[ST_F32],
			 &m.product_flops[ST_BF16],
			 &m.product_flops[ST_F16],
			 &m.backward_ratio,
			 &m.attention_flops,
			 &m.attention_backward_ratio,
			 &m.device_bytes_per_s,
			 &m.host_bytes_per_s,
			 &m.updates_per_s,
			 &m.reduces_per_s,
			 &m.read_bytes_per_s,
			 &m.write_bytes_per_s,
			 &m.mixed_bytes_per_s,
			 &m.drive_latency_ns,
			 &m.read_iops,
			 &m.flush_ns,
			 &m.compute_beside_io,
			 &m.io_beside_compute };

	for (size_t i = 0; i < ST_ARRAY_LEN(to); i++) {
		size_t at = (size_t)((char *)to[i] - (char *)&m);
		double other;

		memcpy(&other, (const char *)b + at, sizeof(other));
		*to[i] = (*to[i] + other) / 2;
	}
	return m;
}

/* Each stretch beside its prediction; of all of them the medians. */
static int compare_times(struct try *t)
{
	double step[STRETCHES], took[STRETCHES], ratio[STRETCHES], bound[STRETCHES],
		bound_took[STRETCHES];
	struct row *r = t->row;

	for (unsigned i = 0; i < STRETCHES; i++) {
		struct st_hardware hw = between(&t->rates[i], &t->rates[i + 1]);
		int rc = st_planner_predict(t->plan, &hw);

		if (rc)
			return rc;
		step[i] = strata_plan_time(t->plan)->step_s;
		bound[i] = strata_plan_time(t->plan)->bound_s;
		took[i] = t->stretches[i].step_s;
		bound_took[i] = t->stretches[i].bound_s;
		ratio[i] = took[i] / step[i];
		snprintf(r->lane, sizeof(r->lane), "%s", strata_plan_time(t->plan)->limiting_lane);
	}
	r->step_s = (struct pair){ median(step, STRETCHES), median(took, STRETCHES) };
	r->bound_s = (struct pair){ median(bound, STRETCHES), median(bound_took, STRETCHES) };
	r->ratio = median(ratio, STRETCHES);
	return 0;
}

static void compare_memory(struct try *t, const struct place *place)
{
	size_t n;
	const struct strata_tier *tier = strata_plan_tiers(t->plan, &n);
	struct row *r = t->row;
	uint64_t resident[ST_ARENA_N], read, write;
	double peak = 0;

	st_engine_resident(st_trainer_engine(t->trainer), resident);
	for (unsigned i = 0; i < TIERS; i++)
		r->tier[i] = (struct pair){ (double)tier[i].peak_bytes,
					    i < NVME ? (double)resident[i] : disk_bytes(place) };
	for (unsigned i = 0; i < STRETCHES; i++)
		peak = fmax(peak, t->stretches[i].peak_bytes);
	r->process = (struct pair){ r->tier[DEVICE].predicted + r->tier[HOST].predicted,
				    t->has_peak ? peak - t->rss_bytes : NAN };
	strata_plan_bytes_per_step(t->plan, &read, &write);
	r->traffic = (struct pair){ (double)(read + write), t->stretches[STRETCHES - 1].traffic };
}

static int run_in(struct try *t, const char *config, const struct sets *sets,
		  const struct place *place)
{
	char *output = NULL;
	struct strata_options opt = STRATA_OPTIONS_DEFAULT;
	int rc;

	if (asprintf(&output, "%s/out", place->dir[0]) < 0)
		return st_fail(-ENOMEM, "bench plan");
	opt.sets = sets->all;
	opt.n_sets = sets->n;
	opt.output = output;
	opt.steps = UINT32_MAX;
	opt.brings_batches = true;
	rc = open_run(t, &opt, config);
	for (unsigned i = 0; !rc && i < STRETCHES; i++) {
		rc = run_stretch(t, &t->stretches[i]);
		if (!rc)
			rc = measure(t, i + 1);
	}
	if (!rc)
		rc = compare_times(t);
	if (!rc)
		compare_memory(t, place);
	strata_trainer_close(t->trainer);
	st_report_take_log(&t->b->report);
	free(output);
	return rc;
}

static int open_plan(struct strata_plan **out, const char *config, const char *const *sets,
		     size_t n_sets)
{
	struct strata_options opt = STRATA_OPTIONS_DEFAULT;
	struct strata_plan_options how = STRATA_PLAN_OPTIONS_DEFAULT;
	struct strata_plan *p;
	const char *why;
	int rc;

	opt.sets = sets;
	opt.n_sets = n_sets;
	how.skips_time = true;
	rc = strata_plan_open(&p, config, &opt, &how);
	if (!rc && !strata_plan_fits(p, &why))
		rc = st_fail(STRATA_E_NO_FIT, "%s: %s", config, why);
	else if (!rc && !st_planner_setup(p)->plan)
		rc = st_fail(-EINVAL, "%s: is too large to train here.", config);
	if (rc)
		strata_plan_close(rc ? p : NULL);
	else
		*out = p;
	return rc;
}

/* What the file says decides how many directories it needs; planned again, it is in them. */
static int run_config(struct bench *b, const char *config, struct row *row)
{
	struct try *t = calloc(1, sizeof(*t));
	struct place place = { .n = 0 };
	struct sets sets = { 0 };
	struct strata_plan *p = NULL;
	int rc = t ? 0 : st_fail(-ENOMEM, "bench plan");

	if (!rc)
		rc = open_plan(&p, config, b->a->sets.v, b->a->sets.n);
	if (!rc) {
		const struct st_config *c = st_planner_setup(p)->cfg;

		rc = settle_in(&place, b, c->nvme_paths.n ? c->nvme_paths.n : 1);
		if (!rc)
			rc = make_sets(&sets, b, c, &place);
		row->params = (double)strata_plan_info(p)->n_params;
		row->tokens = (double)strata_plan_info(p)->tokens_per_step;
	}
	strata_plan_close(p);
	if (!rc)
		rc = open_plan(&t->plan, config, sets.all, sets.n);
	if (!rc) {
		t->b = b;
		t->row = row;
		rc = run_in(t, config, &sets, &place);
	}
	if (t) {
		strata_plan_close(t->plan);
		free(t->tokens);
		free(t->targets);
	}
	free(t);
	free_sets(&sets);
	leave(&place);
	return rc;
}

/* ---- results ------------------------------------------------------------------------------- */

static double off(double ratio)
{
	return fabs(ratio - 1);
}

static double ratio_of(const struct pair *p)
{
	return p->predicted > 0 ? p->measured / p->predicted : NAN;
}

/* How far figures are off, over the configurations that ran. */
struct summary {
	double median, worst;
};

static struct summary sum_up(const struct bench *b, double (*ratio)(const struct row *))
{
	double v[CONFIGS_MAX];
	struct summary s = { NAN, NAN };
	size_t n = 0;

	for (size_t i = 0; i < b->n_rows; i++) {
		double x = b->rows[i].rc ? NAN : off(ratio(&b->rows[i]));

		if (isfinite(x)) {
			s.worst = n && s.worst > x ? s.worst : x;
			v[n++] = x;
		}
	}
	s.median = median(v, n);
	return s;
}

static double step_ratio(const struct row *r)
{
	return r->ratio;
}

static double bound_ratio(const struct row *r)
{
	return ratio_of(&r->bound_s);
}

static double traffic_ratio(const struct row *r)
{
	return ratio_of(&r->traffic);
}

static double device_ratio(const struct row *r)
{
	return ratio_of(&r->tier[DEVICE]);
}

static double host_ratio(const struct row *r)
{
	return ratio_of(&r->tier[HOST]);
}

static double nvme_ratio(const struct row *r)
{
	return ratio_of(&r->tier[NVME]);
}

static double process_ratio(const struct row *r)
{
	return ratio_of(&r->process);
}

static const struct figure {
	const char *key, *name;
	double (*ratio)(const struct row *);
	double median, worst; /* what it may be off by; 0: nothing is promised */
} figures[] = {
	{ "step", "time of a step", step_ratio, STEP_MEDIAN, STEP_WORST },
	{ "bound", "bound", bound_ratio, 0, 0 },
	{ "traffic", "NVMe traffic", traffic_ratio, 0, 0 },
	{ "device", "device memory", device_ratio, 0, MEMORY_WORST },
	{ "host", "host memory", host_ratio, 0, MEMORY_WORST },
	{ "nvme", "files", nvme_ratio, 0, MEMORY_WORST },
	{ "process", "process", process_ratio, 0, 0 },
};

static const char *verdict(const struct figure *f, const struct summary *s)
{
	bool is_worse = (f->median > 0 && !(s->median <= f->median)) ||
			(f->worst > 0 && !(s->worst <= f->worst));

	if (!isfinite(s->worst))
		return "not measured";
	return !(f->worst > 0) ? "" : is_worse ? "WRONG" : "true";
}

static void put_real(const char *key, double x)
{
	printf(",\"%s\":", key);
	st_put_json_real(x, stdout);
}

static void put_pair(const char *key, const struct pair *p)
{
	printf(",\"%s\":{\"predicted\":", key);
	st_put_json_real(p->predicted, stdout);
	printf(",\"measured\":");
	st_put_json_real(p->measured, stdout);
	putchar('}');
}

static void json_row(const struct row *r, bool is_first)
{
	printf("%s\n{\"config\":", is_first ? "" : ",");
	st_put_json_string(r->name, stdout);
	if (r->rc) {
		printf(",\"error\":");
		st_put_json_string(r->error, stdout);
		putchar('}');
		return;
	}
	put_real("params", r->params);
	put_real("tokens_per_step", r->tokens);
	printf(",\"limiting_lane\":\"%s\",\"steps\":%u,\"clipped\":%u", r->lane, r->n_steps,
	       r->n_clipped);
	put_pair("step_s", &r->step_s);
	put_real("step_ratio", r->ratio);
	put_pair("bound_s", &r->bound_s);
	put_pair("nvme_bytes_per_step", &r->traffic);
	put_pair("device_bytes", &r->tier[DEVICE]);
	put_pair("host_bytes", &r->tier[HOST]);
	put_pair("nvme_bytes", &r->tier[NVME]);
	put_pair("process_bytes", &r->process);
	putchar('}');
}

static void print_json(const struct bench *b)
{
	printf("{\"configs\":[");
	for (size_t i = 0; i < b->n_rows; i++)
		json_row(&b->rows[i], !i);
	printf("\n],\"off\":{");
	for (size_t i = 0; i < ST_ARRAY_LEN(figures); i++) {
		struct summary s = sum_up(b, figures[i].ratio);

		printf("%s\"%s\":{\"median\":", i ? "," : "", figures[i].key);
		st_put_json_real(s.median, stdout);
		printf(",\"worst\":");
		st_put_json_real(s.worst, stdout);
		putchar('}');
	}
	puts("}}");
}

static const struct st_col cols[] = {
	{ "config", "config", NULL, ST_CELL_TEXT, 18, 0 },
	{ "lane", "limits", NULL, ST_CELL_TEXT, 10, 0 },
	{ "step_s", "step", "s", ST_CELL_REAL, 6, 3 },
	{ "took_s", "took", "s", ST_CELL_REAL, 6, 3 },
	{ "off", "off", "%", ST_CELL_REAL, 6, 1 },
	{ "bound_s", "bound", "s", ST_CELL_REAL, 6, 3 },
	{ "bound_took_s", "measd", "s", ST_CELL_REAL, 6, 3 },
	{ "device", "device", "MiB", ST_CELL_REAL, 7, 1 },
	{ "device_took", "measd", "MiB", ST_CELL_REAL, 7, 1 },
	{ "host", "host", "MiB", ST_CELL_REAL, 7, 1 },
	{ "host_took", "measd", "MiB", ST_CELL_REAL, 7, 1 },
	{ "nvme", "nvme", "MiB", ST_CELL_REAL, 8, 1 },
	{ "nvme_took", "measd", "MiB", ST_CELL_REAL, 8, 1 },
	{ "process", "process", "%", ST_CELL_REAL, 7, 1 },
};

#define MIB 1048576.0

static void text_row(struct st_table *t, const struct row *r)
{
	const struct st_cell cells[] = {
		ST_TEXT(r->name),
		ST_TEXT(r->lane),
		ST_REAL(r->step_s.predicted),
		ST_REAL(r->step_s.measured),
		ST_REAL(100 * (r->ratio - 1)),
		ST_REAL(r->bound_s.predicted),
		ST_REAL(r->bound_s.measured),
		ST_REAL(r->tier[DEVICE].predicted / MIB),
		ST_REAL(r->tier[DEVICE].measured / MIB),
		ST_REAL(r->tier[HOST].predicted / MIB),
		ST_REAL(r->tier[HOST].measured / MIB),
		ST_REAL(r->tier[NVME].predicted / MIB),
		ST_REAL(r->tier[NVME].measured / MIB),
		ST_REAL(100 * (ratio_of(&r->process) - 1)),
	};

	st_table_row(t, cells);
}

static void note_summary(struct bench *b)
{
	for (size_t i = 0; i < ST_ARRAY_LEN(figures); i++) {
		struct summary s = sum_up(b, figures[i].ratio);
		const char *word = verdict(&figures[i], &s);

		st_report_note(&b->report, "%s: off by %.1f %% in the median, %.1f %% at worst%s%s",
			       figures[i].name, 100 * s.median, 100 * s.worst, *word ? ": " : "",
			       word);
	}
	for (size_t i = 0; i < b->n_rows; i++)
		if (!b->rows[i].rc && b->rows[i].n_clipped)
			st_report_note(&b->report, "%s: %u steps clipped and were not counted",
				       b->rows[i].name, b->rows[i].n_clipped);
}

static void markdown_pair(const struct pair *p, double unit, int decimals)
{
	printf(" | %.*f | %.*f", decimals, p->predicted / unit, decimals, p->measured / unit);
}

static void print_markdown(const struct bench *b)
{
	puts("| config | limits | step, s | took | off | bound, s | measured | device, MiB | "
	     "measured "
	     "| host, MiB | measured | nvme, MiB | measured | process |");
	puts("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
	for (size_t i = 0; i < b->n_rows; i++) {
		const struct row *r = &b->rows[i];

		if (r->rc) {
			printf("| %s | failed: %s |\n", r->name, r->error);
			continue;
		}
		printf("| %s | %s", r->name, r->lane);
		markdown_pair(&r->step_s, 1, 3);
		printf(" | %+.1f %%", 100 * (r->ratio - 1));
		markdown_pair(&r->bound_s, 1, 3);
		for (unsigned k = 0; k < TIERS; k++)
			markdown_pair(&r->tier[k], MIB, 1);
		printf(" | %+.1f %% |\n", 100 * (ratio_of(&r->process) - 1));
	}
	putchar('\n');
	for (size_t i = 0; i < ST_ARRAY_LEN(figures); i++) {
		struct summary s = sum_up(b, figures[i].ratio);

		printf("%s %s: %.1f %% off in the median, %.1f %% at worst %s\n", "-",
		       figures[i].name, 100 * s.median, 100 * s.worst, verdict(&figures[i], &s));
	}
}

/* ---- all of them --------------------------------------------------------------------------- */

static void name_row(struct row *r, const char *path)
{
	const char *base = strrchr(path, '/');
	size_t n;

	snprintf(r->name, sizeof(r->name), "%s", base ? base + 1 : path);
	n = strlen(r->name);
	if (n > 5 && !strcmp(r->name + n - 5, ".json"))
		r->name[n - 5] = '\0';
}

/* One that fails does not hide the others; its exit code is the program's. */
static int run_all(struct bench *b, bool is_text)
{
	const struct row *first = NULL;
	struct st_table table;

	if (is_text)
		st_table_begin(&table, stdout, ST_TABLE_TEXT, cols, ST_ARRAY_LEN(cols));
	for (size_t i = 0; i < b->n_files && !st_signal; i++) {
		struct row *r = &b->rows[b->n_rows];

		name_row(r, b->files[i]);
		r->rc = run_config(b, b->files[i], r);
		st_report_wipe(&b->report);
		if (st_signal)
			break;
		b->n_rows++;
		if (!r->rc && is_text)
			text_row(&table, r);
		if (!r->rc)
			continue;
		snprintf(r->error, sizeof(r->error), "%s", st_last_error());
		st_report_note(&b->report, "%s: %s", r->name, r->error);
		first = first ? first : r;
	}
	if (is_text)
		st_table_end(&table);
	return first ? st_fail(first->rc, "%s: %s", first->name, first->error) : 0;
}

static int plan_run(const void *args, char **argv)
{
	struct bench *b = calloc(1, sizeof(*b));
	const struct plan_args *a = args;
	bool is_text = !a->as_json && !a->as_markdown;
	int rc = b ? 0 : st_fail(-ENOMEM, "bench plan"), code = 0;

	(void)argv;
	if (!rc && a->as_json && a->as_markdown)
		rc = st_fail(-EINVAL, "bench plan: --json or --markdown, not both.");
	if (!rc) {
		b->a = a;
		b->here[0] = ".";
		b->paths = a->paths.n ? a->paths.v : b->here;
		b->n_paths = a->paths.n ? a->paths.n : 1;
		rc = find_configs(b);
	}
	if (rc) {
		code = st_report(rc);
		goto out;
	}
	st_signals_catch();
	st_report_begin(&b->report, is_text ? ST_TABLE_TEXT : ST_TABLE_JSON);
	rc = run_all(b, is_text);
	if (st_signal) {
		code = st_signals_report();
	} else {
		if (a->as_json)
			print_json(b);
		else if (a->as_markdown)
			print_markdown(b);
		else
			note_summary(b);
		if (rc)
			code = st_report(rc);
		rc = st_flush_stdout();
		if (rc)
			code = st_report(rc);
	}
	st_report_end(&b->report);
out:
	for (size_t i = 0; b && i < b->n_files; i++)
		free(b->files[i]);
	free(b);
	return code;
}
