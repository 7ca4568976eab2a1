/* SPDX-License-Identifier: Apache-2.0 */
/* cli/train.c - `strata train`: the loop, what is said before and after it, and stopping. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "cli/print.h"
#include "cli/progress.h"
#include "cli/verbs.h"
#include "cli/watch.h"
#include "core/config.h"

struct train_args {
	const char *config, *output, *trace;
	struct st_opt_list sets;
	uint64_t steps, resume_step;
	bool resume;
	int progress;
};

struct train {
	const struct train_args *args;
	char **argv; /* the whole command line, for the hints */
	struct st_progress *progress;
	struct st_watch *watch;
	struct strata_trainer *trainer;
	struct st_config *cfg; /* what was asked for, to say it; the trainer has its own */
};

/* ---- what people read ---------------------------------------------------------------------- */

static const char *home_text(enum st_offload home)
{
	return home == ST_OFFLOAD_NVME ? "NVMe" : home == ST_OFFLOAD_CPU ? "host" : "device";
}

static void say_nvme(const struct train *t, const struct strata_info *info)
{
	char dirs[1024] = "";

	for (size_t i = 0; i < t->cfg->nvme_paths.n; i++) {
		size_t len = strlen(dirs);

		snprintf(dirs + len, sizeof(dirs) - len, "%s%s", i ? ", " : "",
			 t->cfg->nvme_paths.v[i]);
	}
	if (info->resumed_step) /* where it began; the store says if that differs */
		dirs[0] = '\0';
	st_progress_say(t->progress, false, "  NVMe     %s%s%s, by %s",
			st_bytes_text(info->nvme_disk_bytes).s, *dirs ? " in " : "", dirs,
			info->io ? info->io : "no I/O");
}

static void say_head(const struct train *t)
{
	const struct strata_info *i = strata_trainer_info(t->trainer);
	struct st_progress *p = t->progress;

	st_progress_say(p, false, "  model    %s parameters, %" PRIu64 " tokens in the vocabulary",
			st_count_text((double)i->n_params).s, i->vocab_size);
	st_progress_say(p, false,
			"  batch    %" PRIu64 " sequences of %" PRIu64
			" tokens (micro-batch %" PRIu64 " x %" PRIu64 " steps of accumulation)",
			i->train_batch, i->seq_len, i->micro_batch, i->accum_steps);
	st_progress_say(p, false, "  device   %s", i->device);
	st_progress_say(p, false, "  memory   device %s, host %s; parameters: %s, states: %s",
			st_bytes_text(i->device_bytes).s, st_bytes_text(i->host_bytes).s,
			home_text(t->cfg->offload_param), home_text(t->cfg->offload_optimizer));
	if (i->uses_nvme)
		say_nvme(t, i);
	st_progress_say(p, false, "  output   %s", i->output);
	if (i->resumed_step)
		st_progress_say(p, false,
				"  steps    %" PRIu64 " of %" PRIu64 " are done: resuming",
				i->resumed_step, i->total_steps);
	else
		st_progress_say(p, false, "  steps    %" PRIu64, i->total_steps);
}

/*
 * The command line as it was given, with --resume.
 * @param more  in, "--steps N" in the place of what was given, or NULL
 * @return owned by the caller, or NULL
 */
static char *resume_command(const struct train *t, const char *more)
{
	char *text = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);

	if (!f)
		return NULL;
	for (char **word = t->argv; *word; word++) {
		if (!strcmp(*word, "--resume") || !strncmp(*word, "--resume-step=", 14) ||
		    (more && !strncmp(*word, "--steps=", 8)))
			continue;
		if (((more && !strcmp(*word, "--steps")) || !strcmp(*word, "--resume-step")) &&
		    word[1]) {
			word++;
			continue;
		}
		if (word != t->argv)
			fputc(' ', f);
		st_put_shell_word(*word, f);
	}
	fprintf(f, " --resume%s%s", more ? " " : "", more ? more : "");
	if (fclose(f)) {
		free(text);
		return NULL;
	}
	return text;
}

static void say_resume(const struct train *t, const char *label, const char *more)
{
	char *command = resume_command(t, more);

	if (command)
		st_progress_say(t->progress, false, "%s%s", label, command);
	free(command);
}

static void say_result(const struct train *t, const struct strata_result *r)
{
	const struct strata_info *i = strata_trainer_info(t->trainer);
	struct st_progress *p = t->progress;

	if (isfinite(r->val_loss))
		st_progress_say(p, false, "validation loss %.4f after %" PRIu64 " steps",
				r->val_loss, r->steps);
	else
		st_progress_say(p, false, "%" PRIu64 " steps done", r->steps);
	if (i->scales_loss)
		st_progress_say(p, false,
				"  skipped  %" PRIu64 " of %" PRIu64
				" steps: a gradient overflowed in fp16",
				r->skipped_steps, r->steps);
	st_progress_say(p, false, "  memory   %s resident at the peak; arenas: device %s, host %s",
			st_bytes_text(r->peak_rss_bytes).s, st_bytes_text(r->device_peak_bytes).s,
			st_bytes_text(r->host_peak_bytes).s);
	if (i->uses_nvme && isfinite(r->nvme_bytes_per_param_step))
		st_progress_say(p, false, "  traffic  %.2f bytes of NVMe per parameter and step",
				r->nvme_bytes_per_param_step);
	st_progress_say(p, false, "  result   %s (model.safetensors, config.json)", i->output);
	st_progress_say(p, false, "  sample   %s sample %s", t->argv[0], i->output);
	if (t->cfg->nvme.keep == ST_KEEP_ALWAYS)
		say_resume(t, "  go on    ", "--steps N");
}

/* ---- the run ------------------------------------------------------------------------------- */

static bool has_signal(void *user)
{
	return st_watch_signal(user) != 0;
}

static int load_and_open(struct train *t)
{
	const struct strata_options opt = {
		.struct_bytes = sizeof(opt),
		.sets = t->args->sets.v,
		.n_sets = t->args->sets.n,
		.steps = t->args->steps,
		.output = t->args->output,
		.resume = t->args->resume || t->args->resume_step,
		.resume_step = t->args->resume_step,
		.log = st_progress_log,
		.log_user = t->progress,
		.stops = has_signal,
		.stops_user = t->watch,
		.trace = t->args->trace,
		.progress = st_progress_part,
		.progress_user = t->progress,
	};
	int rc = strata_trainer_open(&t->trainer, t->args->config, &opt);

	if (!rc)
		rc = st_config_load(&t->cfg, t->args->config, t->args->sets.v, t->args->sets.n);
	return rc;
}

static void say_stopped(const struct train *t, uint64_t step)
{
	st_progress_say(t->progress, false, "stopped after step %" PRIu64 ", which is saved%s",
			step,
			step == strata_trainer_info(t->trainer)->total_steps
				? "; the result is not written yet"
				: "");
	say_resume(t, "  go on    ", NULL);
}

/* Nobody reads stdout any more, or its disk is full: what was trained is kept. */
static int stop_unread(struct train *t, int rc, uint64_t step)
{
	struct st_error unread;

	st_error_take(&unread, rc);
	rc = strata_trainer_save(t->trainer);
	if (rc)
		return rc;
	st_progress_end(t->progress);
	if (unread.rc == -EPIPE) {
		say_stopped(t, step);
		return st_error_raise(&unread);
	}
	return st_fail(unread.rc,
		       "%s; stopped after step %" PRIu64 ", which is saved: go on with --resume.",
		       unread.text, step);
}

/* Steps until the total, a signal or an error. @param step  out, the last one done */
static int loop(struct train *t, uint64_t *step)
{
	const struct strata_info *info = strata_trainer_info(t->trainer);
	int rc = 0;

	*step = info->resumed_step;
	while (!rc && *step < info->total_steps && !strata_trainer_stopped(t->trainer)) {
		struct strata_metrics m;

		rc = strata_trainer_step(t->trainer, NULL, NULL, &m);
		if (rc)
			break;
		*step = m.step;
		rc = st_progress_step(t->progress, &m);
		if (rc)
			rc = stop_unread(t, rc, *step);
	}
	return rc;
}

static int stop(struct train *t, uint64_t step)
{
	/* After the last step finish() has saved, and what it was doing then was cut off. */
	bool saves = step && step < strata_trainer_info(t->trainer)->total_steps;
	int rc = saves ? strata_trainer_save(t->trainer) : 0;

	st_progress_end(t->progress);
	if (!rc)
		rc = st_progress_stopped(t->progress, step);
	if (rc && rc != -EPIPE) /* whoever read stdout may have been stopped as well */
		return rc;
	if (!step && !t->args->resume) {
		st_progress_say(t->progress, false,
				"stopped before the first step: nothing is left");
		return 0;
	}
	say_stopped(t, step);
	return 0;
}

/* @param is_stopped  out, a signal came before the result was there */
static int finish(struct train *t, bool *is_stopped)
{
	struct strata_result r;
	int rc;

	st_progress_end(t->progress);
	st_watch_finishes(t->watch);
	st_progress_say(t->progress, false, "all steps done: evaluating, writing the result");
	*is_stopped = strata_trainer_stopped(t->trainer);
	rc = *is_stopped ? strata_trainer_save(t->trainer) : strata_trainer_finish(t->trainer, &r);
	if (rc == STRATA_E_CANCELLED && st_watch_signal(t->watch)) {
		*is_stopped = true;
		rc = 0;
	}
	st_progress_end(t->progress);
	if (rc || *is_stopped)
		return rc;
	say_result(t, &r);
	return st_progress_done(t->progress, &r);
}

/* @return the exit code */
static int run_to_end(struct train *t)
{
	bool is_stopped = false;
	uint64_t step;
	int rc = loop(t, &step);

	if (!rc) {
		is_stopped = step < strata_trainer_info(t->trainer)->total_steps;
		if (!is_stopped)
			rc = finish(t, &is_stopped);
	}
	if (!rc && is_stopped)
		rc = stop(t, step);
	st_progress_end(t->progress);
	return rc ? st_report(rc) : is_stopped ? 128 + st_watch_signal(t->watch) : 0;
}

static int train_run(const void *args, char **argv)
{
	struct train t = { .args = args, .argv = argv };
	int code = 0, rc;

	signal(SIGXFSZ, SIG_IGN); /* a file-size limit is an error of the write, with a message */
	rc = st_progress_create(&t.progress, (enum st_progress_mode)t.args->progress);
	if (!rc)
		rc = st_watch_start(&t.watch, t.progress, t.args->resume);
	if (!rc)
		rc = load_and_open(&t);
	if (rc == STRATA_E_CANCELLED && st_watch_signal(t.watch)) {
		st_progress_say(t.progress, false,
				"stopped before the first step: nothing is left");
		code = 128 + st_watch_signal(t.watch);
	} else if (rc == -EALREADY) {
		st_progress_say(t.progress, false, "%s", strata_last_error());
	} else if (rc) {
		code = st_report(rc);
	} else {
		st_watch_attach(t.watch, t.trainer);
		say_head(&t);
		st_progress_begin(t.progress, strata_trainer_info(t.trainer));
		code = run_to_end(&t);
		st_watch_attach(t.watch, NULL);
	}
	strata_trainer_close(t.trainer);
	st_config_destroy(t.cfg);
	st_watch_stop(t.watch);
	st_progress_destroy(t.progress);
	return code;
}

#define OFF(field) .offset = offsetof(struct train_args, field)
static const struct st_opt options[] = {
	{ "CONFIG", ST_OPT_OPERAND, true, OFF(config),
	  .help = "a DeepSpeed JSON plus one object \"strata\"" },
	{ "set", ST_OPT_LIST, .metavar = "KEY=VALUE", OFF(sets),
	  .help = "over the file, e.g. strata.steps=100; may be given many times" },
	{ "steps", ST_OPT_UINT, .metavar = "N", .min = 1, OFF(steps),
	  .help = "optimizer steps in total, also after --resume (strata.steps)" },
	{ "output", ST_OPT_TEXT, .metavar = "DIR", OFF(output),
	  .help = "directory of the result (strata.output)" },
	{ "resume", ST_OPT_FLAG, OFF(resume),
	  .help = "go on from the state that the output names" },
	{ "resume-step", ST_OPT_UINT, .metavar = "N", .min = 1, OFF(resume_step),
	  .help = "go back to the copy of that step and on from there (strata.nvme.keep_every)" },
	{ "trace", ST_OPT_TEXT, .metavar = "FILE", OFF(trace),
	  .help = "what each lane does when, for Perfetto (ui.perfetto.dev) or chrome://tracing" },
	{ "progress", ST_OPT_WORD, .metavar = "HOW", .words = st_progress_names, OFF(progress),
	  .help = "auto: a bar where stderr is a terminal, else lines\n"
		  "bar, line: on stderr, for people\n"
		  "json: an object a line on stdout, for programs\n"
		  "none: errors only" },
};

const struct st_verb st_verb_train = {
	.name = "train",
	.summary = "train a model; what is needed beyond memory lives on NVMe",
	.more = "SIGINT and SIGTERM stop after the current step and save: go on with --resume. "
		"Before\n"
		"the first step nothing is left.\n"
		"A second one, a second later or more, stops at once.\n\n"
		"exit code: 0 done; 2 bad input or usage; 3 does not fit the memory budgets;\n"
		"4 I/O error; 5 numbers no longer finite; 130, 143 stopped by SIGINT, SIGTERM;\n"
		"141 stopped because nobody reads stdout (--progress json | head), state saved\n",
	.opts = options,
	.n_opts = ST_ARRAY_LEN(options),
	.args_bytes = sizeof(struct train_args),
	.run = train_run,
};
