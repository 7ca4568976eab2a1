/* SPDX-License-Identifier: Apache-2.0 */
/* model/trainer.c - a run: from a configuration to a result (include/strata/train.h). */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/log.h"
#include "core/trace.h"
#include "model/file.h"
#include "model/output.h"
#include "model/safetensors.h"
#include "model/setup.h"
#include "offload/checkpoint.h"
#include "offload/engine.h"
#include "strata/train.h"

#define VERSIONS_TRIED (STRATA_MOMENTS_VERSION + 8u) /* of the rounding: ours, earlier, later */

struct strata_trainer {
	struct st_setup setup;
	struct st_engine *engine;
	struct st_trace *trace;      /* or NULL */
	struct st_safetensors *init; /* weights to start from, or NULL */
	char *run_json;              /* [ST_RUN_JSON_BYTES] */
	struct strata_options opt;   /* of those given to open, flags and callbacks */
	int lock_fd;
	size_t made_from; /* output's path from here on was made by us; 0: it was there */
	bool owns_output, has_store;
	FILE *log;
	int32_t *tokens, *targets; /* [max(n_mb, n_eval_mb) * micro_batch, seq] */
	uint64_t step, cursor;
	uint64_t updates;                      /* steps applied */
	uint64_t counted_steps, counted_bytes; /* for bytes per parameter and step */
	uint64_t first_step;                   /* first step of this process */
	atomic_bool stopped;
	strata_log_fn *log_fn;
	void *log_user;
};

/* ---- output directory ---------------------------------------------------------------------- */

static int make_dir(struct strata_trainer *t, const char *path)
{
	if (mkdir(path, 0777) == 0) {
		if (!t->made_from)
			t->made_from = strlen(path);
		return 0;
	}
	if (errno == EEXIST)
		return 0;
	return st_fail(STRATA_E_INPUT, "output %s: cannot make directory %s (%s)",
		       t->setup.cfg->output, path, strata_strerror(-errno));
}

static int make_dirs(struct strata_trainer *t, const char *dir)
{
	char path[4096];
	size_t n = strlen(dir);
	int rc = 0;

	if (n >= sizeof(path))
		return st_fail(STRATA_E_INPUT, "output: the path is too long");
	memcpy(path, dir, n + 1);
	for (size_t i = 1; !rc && i < n; i++) {
		if (path[i] != '/')
			continue;
		path[i] = '\0';
		rc = make_dir(t, path);
		path[i] = '/';
	}
	return rc ? rc : make_dir(t, path);
}

/* What a run writes, run.json apart. */
static const char *const products[] = { "model.safetensors", "config.json", "log.jsonl",
					"strata.json", ST_OUTPUT_DEVICE };

/* Nobody's file is written over: it may be the very configuration or text of this run. */
static int refuse_to_replace(const char *dir)
{
	char path[4096];
	struct stat st;

	for (size_t i = 0; i < ST_ARRAY_LEN(products); i++) {
		int rc = st_output_path(path, sizeof(path), dir, products[i]);

		if (rc)
			return rc;
		if (!lstat(path, &st))
			return st_fail(
				STRATA_E_INPUT,
				"output %s: %s is there already and would be replaced; move it"
				" away, or choose another --output",
				dir, products[i]);
	}
	return 0;
}

/* The last step in OUTPUT/log.jsonl, 0 if there is none. */
static uint64_t logged_steps(const char *dir)
{
	char path[4096], line[2048];
	uint64_t step = 0;
	FILE *f;
	int fd;

	if (st_output_path(path, sizeof(path), dir, "log.jsonl"))
		return 0;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	f = fd >= 0 ? fdopen(fd, "r") : NULL;
	if (!f && fd >= 0)
		close(fd);
	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f)) {
		const char *at = strstr(line, "\"step\":");

		step = at ? strtoull(at + 7, NULL, 10) : step;
	}
	fclose(f);
	return step;
}

/* There is no run.json: because the run is complete, or because there never was one? */
static int cannot_resume(const struct strata_trainer *t, const char *dir)
{
	uint64_t done = logged_steps(dir);
	char path[4096];
	int rc = st_output_path(path, sizeof(path), dir, "model.safetensors");

	if (rc)
		return rc;
	if (!done || access(path, F_OK))
		return st_fail(STRATA_E_INPUT, "output %s holds no run to resume (no run.json)",
			       dir);
	if (done == t->setup.cfg->steps)
		return st_fail(
			-EALREADY,
			"all %llu steps are done: the result is in %s, nothing is left to do.",
			(unsigned long long)done, dir);
	return st_fail(STRATA_E_INPUT,
		       "output %s: the run ended after %llu steps, and its state was removed then"
		       " (strata.nvme.keep), so it cannot go on; start anew with another --output",
		       dir, (unsigned long long)done);
}

/* The last run ended between its result and the end of its removal. */
static int finish_removal(struct strata_trainer *t, const char *dir)
{
	char path[4096], *now = NULL;
	int rc = st_output_path(path, sizeof(path), dir, ST_OUTPUT_REMOVED);

	if (rc || access(path, F_OK))
		return rc;
	rc = st_output_lock(&t->lock_fd, dir, true);
	if (!rc)
		st_outfile_sweep(dir);
	if (!rc)
		rc = st_output_read_run(dir, ST_OUTPUT_REMOVED, t->run_json);
	if (!rc &&
	    st_engine_find_store(t->run_json, t->setup.store_paths, t->setup.n_store_paths, &now))
		now = NULL; /* a part is gone already: the others are where they were */
	if (!rc)
		rc = st_engine_remove_store(now ? now : t->run_json);
	free(now);
	return rc ? rc : st_output_forget(dir);
}

/* Make the output directory ours. */
static int take_output(struct strata_trainer *t, bool resumes)
{
	const char *dir = t->setup.cfg->output;
	char path[4096];
	int rc = st_output_path(path, sizeof(path), dir, "run.json");

	if (rc)
		return rc;
	if (resumes && access(path, F_OK)) {
		rc = finish_removal(t, dir);
		return rc ? rc : cannot_resume(t, dir);
	}
	if (!resumes && access(path, F_OK))
		rc = refuse_to_replace(dir);
	if (!rc && !resumes)
		rc = make_dirs(t, dir);
	if (!rc)
		rc = st_output_lock(&t->lock_fd, dir, true);
	if (!rc)
		st_outfile_sweep(dir);
	if (rc || resumes)
		return rc;
	if (access(path, F_OK) == 0)
		return st_fail(STRATA_E_INPUT,
			       "output %s holds a run already; go on with --resume, or choose"
			       " another --output",
			       dir);
	t->owns_output = true;
	return 0;
}

static int write_text(const struct strata_trainer *t, const char *name, const char *text)
{
	struct st_outfile f;
	char path[4096];
	int rc = st_output_path(path, sizeof(path), t->setup.cfg->output, name);

	if (!rc)
		rc = st_outfile_open(&f, path, 0);
	if (rc)
		return rc;
	rc = st_outfile_write(&f, text, strlen(text));
	if (rc) {
		st_outfile_abort(&f);
		return rc;
	}
	return st_outfile_commit(&f);
}

/* ---- log ----------------------------------------------------------------------------------- */

/* A resumed run's log must not show steps twice: what lies behind the resumed step is cut off. */
static int cut_log(FILE *f, const char *path, uint64_t last_step)
{
	char line[2048];
	off_t keep = 0;

	while (fgets(line, sizeof(line), f)) {
		const char *at = strstr(line, "\"step\":");

		if (!strchr(line, '\n') || (at && strtoull(at + 7, NULL, 10) > last_step))
			break;
		keep = ftello(f);
	}
	if (fflush(f) || ftruncate(fileno(f), keep) || fseeko(f, keep, SEEK_SET))
		return st_fail(-errno, "%s", path);
	return 0;
}

static int open_log(struct strata_trainer *t)
{
	char path[4096];
	struct stat st;
	int rc = st_output_path(path, sizeof(path), t->setup.cfg->output, "log.jsonl"), fd;

	if (rc)
		return rc;
	/* O_NONBLOCK: whatever was put in its place must not hang the run. */
	fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, 0666);
	if (fd < 0)
		return st_fail(-errno, "%s", path);
	if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
		close(fd);
		return st_fail(STRATA_E_INPUT, "%s: is no regular file; remove it", path);
	}
	t->log = fdopen(fd, "a+");
	if (!t->log) {
		close(fd);
		return st_fail(-ENOMEM, "%s", path);
	}
	rewind(t->log);
	return cut_log(t->log, path, t->step);
}

static void put_number(FILE *f, const char *name, double v)
{
	if (isfinite(v))
		fprintf(f, ",\"%s\":%.9g", name, v);
	else
		fprintf(f, ",\"%s\":null", name);
}

static int flush_log(const struct strata_trainer *t)
{
	if (fflush(t->log) || ferror(t->log))
		return st_fail(-errno, "%s/log.jsonl", t->setup.cfg->output);
	return 0;
}

static void log_lanes(FILE *f, const struct strata_metrics *m)
{
	put_number(f, "step_s", m->step_s);
	put_number(f, "bound_s", m->bound_s);
	fprintf(f, ",\"limiting_lane\":\"%s\"", m->limiting_lane);
	put_number(f, "compute_s", m->compute_s);
	put_number(f, "forward_s", m->forward_s);
	put_number(f, "backward_s", m->backward_s);
	put_number(f, "reduce_s", m->reduce_s);
	put_number(f, "update_s", m->update_s);
	put_number(f, "nvme_s", m->nvme_s);
	put_number(f, "checksum_s", m->checksum_s);
	put_number(f, "read_s", m->read_s);
	put_number(f, "write_s", m->write_s);
	put_number(f, "commit_s", m->commit_s);
	put_number(f, "nvme_loaded_bytes_per_s", m->nvme_loaded_bytes_per_s);
	if (isnan(m->h2d_s))
		return;
	put_number(f, "h2d_s", m->h2d_s);
	put_number(f, "d2h_s", m->d2h_s);
	put_number(f, "optimizer_s", m->optimizer_s);
}

static int log_step(struct strata_trainer *t, const struct strata_metrics *m)
{
	fprintf(t->log, "{\"event\":\"step\",\"step\":%llu", (unsigned long long)m->step);
	put_number(t->log, "loss", m->loss);
	put_number(t->log, "grad_norm", m->grad_norm);
	put_number(t->log, "clip_factor", m->clip_factor);
	put_number(t->log, "lr", m->lr);
	put_number(t->log, "tokens_per_s", m->tokens_per_s);
	put_number(t->log, "loss_scale", m->loss_scale);
	fprintf(t->log, ",\"skipped\":%s", m->skipped ? "true" : "false");
	fprintf(t->log,
		",\"step_ns\":%lld,\"compute_wait_ns\":%lld,\"nvme_read_bytes\":%llu,"
		"\"nvme_write_bytes\":%llu,\"durable_step\":%llu",
		(long long)m->step_ns, (long long)m->compute_wait_ns,
		(unsigned long long)m->nvme_read_bytes, (unsigned long long)m->nvme_write_bytes,
		(unsigned long long)m->durable_step);
	log_lanes(t->log, m);
	fprintf(t->log, ",\"clipped\":%s,\"speculated\":%s,\"rolled_back\":%s}\n",
		m->clipped ? "true" : "false", m->speculated ? "true" : "false",
		m->rolled_back ? "true" : "false");
	return flush_log(t);
}

static int log_eval(struct strata_trainer *t, const struct strata_metrics *m)
{
	fprintf(t->log, "{\"event\":\"eval\",\"step\":%llu", (unsigned long long)m->step);
	put_number(t->log, "val_loss", m->val_loss);
	fputs("}\n", t->log);
	return flush_log(t);
}

static int log_done(struct strata_trainer *t, const struct strata_result *r)
{
	fprintf(t->log, "{\"event\":\"done\",\"steps\":%llu", (unsigned long long)r->steps);
	put_number(t->log, "val_loss", r->val_loss);
	fprintf(t->log, ",\"skipped_steps\":%llu,\"peak_rss_bytes\":%llu}\n",
		(unsigned long long)r->skipped_steps, (unsigned long long)r->peak_rss_bytes);
	return flush_log(t);
}

/* ---- first values -------------------------------------------------------------------------- */

static int open_init(struct strata_trainer *t)
{
	const char *dir = t->setup.cfg->model.init_from;
	const struct st_model *m = t->setup.model;
	int rc;

	if (!dir)
		return 0;
	rc = st_safetensors_open(&t->init, dir);
	for (unsigned u = 0; !rc && u < m->n_units; u++) {
		for (unsigned i = 0; !rc && i < m->units[u].n_tensors; i++) {
			const struct st_tensor_desc *d = &m->units[u].tensors[i];
			int64_t at = st_safetensors_find(t->init, d->name);
			struct st_safetensors_info info;

			if (at < 0) {
				rc = st_fail(STRATA_E_INPUT, "%s: tensor %s is missing", dir,
					     d->name);
				break;
			}
			st_safetensors_info(t->init, (size_t)at, &info);
			if (!info.is_float || info.n_dims != d->n_dims ||
			    info.dims[0] != d->dims[0] ||
			    (d->n_dims == 2 && info.dims[1] != d->dims[1]))
				rc = st_fail(STRATA_E_INPUT,
					     "%s: tensor %s has not the shape and dtype that"
					     " config.json asks for",
					     dir, d->name);
		}
	}
	return rc;
}

static int fill(void *user, const struct st_tensor_desc *d, size_t first, size_t n, float *out)
{
	struct strata_trainer *t = user;
	int rc = st_setup_stops(&t->opt);
	int64_t at;

	if (rc)
		return rc;
	if (!t->init) {
		st_init_fill(d, t->setup.cfg->seed, first, n, out);
		return 0;
	}
	at = st_safetensors_find(t->init, d->name);
	if (at < 0)
		return st_fail(STRATA_E_INPUT, "tensor %s is missing", d->name);
	return st_safetensors_read(t->init, (size_t)at, first, n, out);
}

/* ---- open and close ------------------------------------------------------------------------ */

/* What the device chose, so that the run is resumed with it. */
static int write_choices(const struct strata_trainer *t)
{
	size_t n = st_device_choices(t->setup.device, NULL, 0);
	char *text;
	int rc;

	if (!n)
		return 0;
	text = calloc(1, n + 1);
	if (!text)
		return st_fail(-ENOMEM, "%s", ST_OUTPUT_DEVICE);
	(void)st_device_choices(t->setup.device, text, n + 1);
	rc = write_text(t, ST_OUTPUT_DEVICE, text);
	free(text);
	return rc;
}

static int write_run_json(void *user)
{
	const struct strata_trainer *t = user;
	int rc = write_choices(t);

	return rc ? rc : write_text(t, "run.json", t->run_json);
}

static int start_engine(struct strata_trainer *t, bool resumes)
{
	const struct st_config *c = t->setup.cfg;
	uint32_t weights[ST_CONFIG_PATHS_MAX];
	struct st_engine_cfg cfg = {
		.plan = t->setup.plan,
		.device = t->setup.device,
		.aio = { .backend = c->nvme.backend,
			 .depth = (unsigned)c->aio.queue_depth,
			 .threads = (unsigned)c->aio.threads,
			 .block_bytes = c->aio.block_bytes,
			 .single_submit = c->aio.single_submit,
			 .awaits_batches = !c->aio.overlap_events,
			 .sqpoll = c->nvme.sqpoll,
			 .iopoll = c->nvme.iopoll },
		.store_paths = t->setup.store_paths,
		.n_store_paths = (unsigned)t->setup.n_store_paths,
		.store_weights = c->nvme.weights.n ? weights : NULL,
		.checksum = c->nvme.checksum,
		.commit_every = c->nvme.commit_every,
		.keep_every = c->nvme.keep_every,
		.verifies_on_open = c->nvme.verify == ST_VERIFY_OPEN,
		.resume = resumes ? t->run_json : NULL,
		.resume_step = t->opt.resume_step,
		.weight_decay = c->optimizer.weight_decay,
		.decays_vectors = c->optimizer.decay == ST_DECAY_ALL,
		.clip = c->gradient_clipping,
		.always_speculates = c->optimizer.update == ST_UPDATE_SPECULATIVE,
		.scales_loss = c->fp16.enabled,
		.numeric_plan = t->setup.numeric_plan,
		.data_id = t->setup.data_id,
		.fill = fill,
		.fill_user = t,
		.store_made = write_run_json,
		.store_made_user = t,
		.trace = t->trace,
	};

	const struct strata_loss_scale_cfg scale = {
		.struct_bytes = sizeof(scale),
		.fixed = c->fp16.enabled ? c->fp16.loss_scale : 1,
		.initial_power = (unsigned)c->fp16.initial_scale_power,
		.window = c->fp16.loss_scale_window,
		.hysteresis = c->fp16.hysteresis,
		.is_consecutive = c->fp16.consecutive_hysteresis,
		.min_scale = c->fp16.min_loss_scale,
	};
	int rc = strata_loss_scale_init(&cfg.loss_scale, &scale);

	if (rc)
		return rc;
	for (size_t i = 0; i < c->nvme.weights.n; i++)
		weights[i] = (uint32_t)c->nvme.weights.v[i];
	return st_engine_create(&t->engine, &cfg, t->run_json, ST_RUN_JSON_BYTES);
}

static int alloc_batches(struct strata_trainer *t)
{
	size_t n_mb = t->setup.cfg->accum_steps > t->setup.n_eval_mb ? t->setup.cfg->accum_steps
								     : t->setup.n_eval_mb;
	size_t n = n_mb * t->setup.cfg->micro_batch * t->setup.model->seq;

	t->tokens = calloc(n, sizeof(*t->tokens));
	t->targets = calloc(n, sizeof(*t->targets));
	t->run_json = calloc(1, ST_RUN_JSON_BYTES);
	return t->tokens && t->targets && t->run_json ? 0 : st_fail(-ENOMEM, "batches");
}

static int dump_config(const struct strata_trainer *t)
{
	char *text = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);
	int rc;

	if (!f)
		return st_fail(-ENOMEM, "strata.json");
	st_config_dump(t->setup.cfg, f);
	rc = fclose(f) ? st_fail(-ENOMEM, "strata.json") : write_text(t, "strata.json", text);
	free(text);
	return rc;
}

static void forward_log(void *user, enum st_log_level level, const char *line)
{
	struct strata_trainer *t = user;

	t->log_fn(t->log_user, (enum strata_log_level)level, line);
}

/* ---- going on ------------------------------------------------------------------------------ */

/* The state's drive may be mounted elsewhere now: run_json then says where. */
static int find_store(struct strata_trainer *t, bool *has_moved)
{
	char *now = NULL;
	int rc = st_engine_find_store(t->run_json, t->setup.store_paths, t->setup.n_store_paths,
				      &now);

	*has_moved = !rc && now;
	if (*has_moved && strlen(now) >= ST_RUN_JSON_BYTES)
		rc = st_fail(STRATA_E_INPUT, "run.json: the paths are too long");
	if (*has_moved && !rc) {
		memcpy(t->run_json, now, strlen(now) + 1);
		st_log(ST_LOG_INFO, "the run's state has moved: it is found, and goes on, in %s%s",
		       t->setup.store_paths[0], t->setup.n_store_paths > 1 ? ", ..." : "");
	}
	free(now);
	return rc;
}

static int note_plan(void *user, const struct st_checkpoint_info *info)
{
	uint64_t *plan = user;

	if (info->kind == ST_CHECKPOINT_CURRENT && info->has_state)
		*plan = info->state.numeric_plan;
	return 0;
}

/* The version of the rounding of moments that made the state, where nothing else in its numeric
 * plan differs from ours; else 0. */
static unsigned version_of_state(const struct strata_trainer *t)
{
	uint64_t plan = t->setup.numeric_plan;

	if (st_checkpoint_list(t->run_json, "run.json", note_plan, &plan))
		return 0;
	for (unsigned v = 1; plan != t->setup.numeric_plan && v < VERSIONS_TRIED; v++)
		if (plan == st_setup_numeric_plan(&t->setup, v))
			return v;
	return 0;
}

/* The state is of another numeric plan: which keys differ from those that it was trained with? Or
 * is it the version of this program? */
static int explain_stale(const struct strata_trainer *t)
{
	const char *dir = t->setup.cfg->output;
	char path[4096], keys[360];
	struct st_config *was = NULL;
	struct st_error e;
	unsigned version;
	size_t n;
	int rc;

	st_error_take(&e, STRATA_E_STALE);
	version = version_of_state(t);
	if (version)
		return st_fail(
			STRATA_E_STALE,
			"output %.60s: its %s moments were rounded by version %u of the rule, and "
			"this program has version %u, which would train on with other bits; resume "
			"with the program that made it, or start anew with another --output "
			"(\"strata checkpoint export\" still writes the model)",
			dir,
			t->setup.cfg->optimizer.moments == STRATA_MOMENTS_INT8 ? "int8" : "bf16",
			version, STRATA_MOMENTS_VERSION);
	rc = st_output_path(path, sizeof(path), dir, "strata.json");
	if (!rc)
		rc = st_config_load(&was, path, NULL, 0);
	if (rc) /* nothing to compare with */
		return st_error_raise(&e);
	n = st_config_differences(was, t->setup.cfg, keys, sizeof(keys));
	st_config_destroy(was);
	if (!n)
		return st_fail(
			STRATA_E_STALE,
			"%.300s. No key differs from %.80s: the text itself, the processor's "
			"instruction set or a library does",
			e.text, path);
	return st_fail(STRATA_E_STALE,
		       "output %.60s cannot go on with other values: %s; restore them, or start "
		       "anew with another --output",
		       dir, keys);
}

/* A store cannot be made: where a directory of nvme_path is to blame, its key is named. */
static int blame_path(const struct strata_trainer *t, int rc)
{
	const struct st_config *c = t->setup.cfg;

	for (size_t i = 0; i < c->nvme_paths.n; i++)
		if (access(c->nvme_paths.v[i], W_OK | X_OK))
			return st_config_fail(
				c, rc,
				c->offload_param == ST_OFFLOAD_NVME
					? "zero_optimization.offload_param.nvme_path"
					: "zero_optimization.offload_optimizer.nvme_path",
				"%.380s", strata_last_error());
	return rc;
}

static int begin(struct strata_trainer *t, const struct strata_options *opt)
{
	struct st_snapshot snap;
	size_t n_notes;
	const char *const *notes = st_config_notes(t->setup.cfg, &n_notes);
	bool has_moved = false;
	int rc;

	for (size_t i = 0; i < n_notes; i++)
		st_log_once(ST_LOG_INFO, "%s", notes[i]);
	rc = alloc_batches(t);
	if (!rc)
		rc = take_output(t, opt->resume);
	if (!rc && opt->trace)
		rc = st_trace_open(&t->trace, opt->trace, "strata train");
	if (!rc && opt->resume)
		rc = st_output_read_run(t->setup.cfg->output, ST_OUTPUT_RUN, t->run_json);
	if (!rc && opt->resume)
		rc = find_store(t, &has_moved);
	if (!rc)
		rc = open_init(t);
	if (!rc)
		rc = start_engine(t, opt->resume);
	if (rc == STRATA_E_STALE && opt->resume)
		rc = explain_stale(t);
	else if (rc == STRATA_E_INPUT && !opt->resume)
		rc = blame_path(t, rc);
	if (!rc && has_moved) /* it opened there, so it is the one */
		rc = write_run_json(t);
	if (rc)
		return rc;
	if (st_engine_resumed(t->engine, &snap)) {
		t->step = snap.step;
		t->updates = snap.updates;
		t->cursor = snap.cursor;
		t->setup.info.resumed_step = snap.step;
	}
	t->first_step = t->step + 1;
	t->setup.info.io = st_engine_io(t->engine);
	if (t->step > t->setup.cfg->steps && !opt->brings_batches)
		return st_fail(STRATA_E_INPUT,
			       "output %s: %llu steps are done, more than the %llu asked for: steps"
			       " count in total, give more to go on",
			       t->setup.cfg->output, (unsigned long long)t->step,
			       (unsigned long long)t->setup.cfg->steps);
	rc = open_log(t);
	if (!rc)
		rc = dump_config(t);
	t->has_store = !rc;
	return rc;
}

int strata_trainer_open(struct strata_trainer **out, const char *config_path,
			const struct strata_options *opt)
{
	static const struct strata_options none = STRATA_OPTIONS_DEFAULT;
	struct strata_trainer *t = calloc(1, sizeof(*t));
	int rc;

	if (!t)
		return st_fail(-ENOMEM, "trainer");
	if (!opt)
		opt = &none;
	t->lock_fd = -1;
	t->opt = *opt;
	t->opt.sets = NULL;
	t->opt.output = NULL;
	t->opt.trace = NULL;
	if (opt->log) {
		t->log_fn = opt->log;
		t->log_user = opt->log_user;
		st_log_set(forward_log, t, ST_LOG_INFO);
	}
	rc = st_setup_open(&t->setup, config_path, opt, true);
	if (!rc)
		rc = begin(t, opt);
	if (rc) {
		strata_trainer_close(t);
		return rc;
	}
	t->opt.stops = NULL; /* from now on strata_trainer_stop() is asked */
	*out = t;
	return 0;
}

/* A run that never began leaves nothing. */
static void remove_traces(struct strata_trainer *t)
{
	char path[4096];

	for (size_t i = 0; t->owns_output && i < ST_ARRAY_LEN(products); i++)
		if (st_output_path(path, sizeof(path), t->setup.cfg->output, products[i]) == 0)
			unlink(path);
	if (t->owns_output &&
	    st_output_path(path, sizeof(path), t->setup.cfg->output, "run.json") == 0)
		unlink(path);
	if (t->owns_output &&
	    st_output_path(path, sizeof(path), t->setup.cfg->output, ".lock") == 0)
		unlink(path);
	if (!t->made_from || st_output_path(path, sizeof(path), t->setup.cfg->output, "") != 0)
		return;
	for (size_t n = strlen(path) - 1; n >= t->made_from; n--) {
		if (path[n] == '/' || path[n] == '\0') {
			path[n] = '\0';
			rmdir(path);
		}
	}
}

void strata_trainer_close(struct strata_trainer *t)
{
	struct st_error last;
	bool began;

	if (!t)
		return;
	st_error_save(&last);
	began = t->opt.resume || (t->has_store && (t->step || !strata_trainer_stopped(t)));
	if (t->engine)
		st_engine_close(t->engine, !began);
	if (st_trace_close(t->trace, !began)) /* said when it happened, as a warning */
		st_log(ST_LOG_DEBUG, "%s", st_last_error());
	if (t->log)
		fclose(t->log);
	if (!began)
		remove_traces(t);
	if (t->lock_fd >= 0)
		close(t->lock_fd);
	st_safetensors_close(t->init);
	st_setup_close(&t->setup);
	free(t->tokens);
	free(t->targets);
	free(t->run_json);
	if (t->log_fn)
		st_log_set(NULL, NULL, ST_LOG_ERROR);
	free(t);
	(void)st_error_raise(&last);
}

const struct strata_info *strata_trainer_info(const struct strata_trainer *t)
{
	return &t->setup.info;
}

const struct st_engine *st_trainer_engine(const struct strata_trainer *t)
{
	return t->engine;
}

void strata_trainer_stop(struct strata_trainer *t)
{
	atomic_store(&t->stopped, true);
}

bool strata_trainer_stopped(const struct strata_trainer *t)
{
	return atomic_load(&((struct strata_trainer *)(uintptr_t)t)->stopped);
}

/* ---- steps --------------------------------------------------------------------------------- */

static int check_tokens(const struct strata_trainer *t, const int32_t *tokens, size_t n,
			const char *what)
{
	for (size_t i = 0; i < n; i++)
		if (tokens[i] < 0 || (size_t)tokens[i] >= t->setup.model->vocab)
			return st_fail(STRATA_E_INPUT,
				       "%s %zu of the batch is %d, beyond the vocabulary of %zu",
				       what, i, tokens[i], t->setup.model->vocab);
	return 0;
}

static int next_batch(struct strata_trainer *t, const int32_t **tokens, const int32_t **targets)
{
	size_t n = t->setup.cfg->train_batch * t->setup.model->seq;
	int rc;

	if (*tokens && *targets) {
		rc = check_tokens(t, *tokens, n, "token");
		return rc ? rc : check_tokens(t, *targets, n, "target");
	}
	if (*tokens || *targets)
		return st_fail(-EINVAL, "a batch needs both tokens and targets.");
	if (!t->setup.data)
		return st_fail(STRATA_E_INPUT,
			       "no batch was given, and strata.data.train is not configured");
	*tokens = t->tokens;
	*targets = t->targets;
	return st_data_train(t->setup.data, t->cursor, t->setup.cfg->train_batch, t->tokens,
			     t->targets);
}

static void take_lanes(struct strata_metrics *m, const struct st_step_out *out, bool copies)
{
	const struct st_step_lanes *l = &out->lanes;

	m->step_s = (double)out->wall_ns * 1e-9;
	m->bound_s = (double)l->bound_ns * 1e-9;
	m->limiting_lane = l->limiting;
	m->compute_s = (double)l->compute_ns * 1e-9;
	m->forward_s = (double)l->forward_ns * 1e-9;
	m->backward_s = (double)l->backward_ns * 1e-9;
	m->reduce_s = (double)l->reduce_ns * 1e-9;
	m->update_s = (double)l->update_ns * 1e-9;
	m->nvme_s = (double)l->nvme_ns * 1e-9;
	m->checksum_s = (double)l->checksum_ns * 1e-9;
	m->read_s = (double)l->read_ns * 1e-9;
	m->write_s = (double)l->write_ns * 1e-9;
	m->commit_s = (double)l->commit_ns * 1e-9;
	m->nvme_loaded_bytes_per_s = l->loaded_bytes_per_s;
	m->h2d_s = copies ? (double)l->h2d_ns * 1e-9 : NAN;
	m->d2h_s = copies ? (double)l->d2h_ns * 1e-9 : NAN;
	m->optimizer_s = copies ? (double)l->optimizer_ns * 1e-9 : NAN;
}

/* ---- evaluation, and what cuts it short ---------------------------------------------------- */

/* What a stop that was asked for after `begun` cuts short: a caller that stops, and then evaluates
 * or finishes, wants just that. */
struct begun {
	struct strata_trainer *t;
	bool was_stopped;
	st_emit_fn *emit; /* of an export */
	void *emit_user;
	uint64_t done, total;
};

static struct begun begin_call(struct strata_trainer *t)
{
	return (struct begun){ .t = t, .was_stopped = strata_trainer_stopped(t) };
}

/* So much is done. @return 0, or STRATA_E_CANCELLED */
static int go_on(const struct begun *b, const char *what, uint64_t done, uint64_t total)
{
	const struct strata_options *opt = &b->t->opt;

	if (!b->was_stopped && strata_trainer_stopped(b->t))
		return st_fail(STRATA_E_CANCELLED, "%s: stopped.", what);
	if (opt->progress)
		opt->progress(opt->progress_user, what, done, total);
	return 0;
}

static int evaluate(const struct begun *b, double *loss)
{
	struct strata_trainer *t = b->t;
	const struct st_setup *s = &t->setup;
	size_t per_run = s->n_eval_mb * s->cfg->micro_batch;
	double sum = 0;

	if (!s->data)
		return st_fail(STRATA_E_INPUT, "there is no validation data");
	for (unsigned r = 0; r < s->n_eval_runs; r++) {
		int rc = go_on(b, "evaluating", r * per_run, s->n_eval_runs * per_run);
		double mean;

		/* Fewer windows than a micro-batch holds: they are taken again. */
		for (size_t i = 0; !rc && i < per_run; i++)
			rc = st_data_val(s->data, (r * per_run + i) % st_data_val_windows(s->data),
					 1, t->tokens + i * s->model->seq,
					 t->targets + i * s->model->seq);
		if (!rc)
			rc = st_engine_eval(t->engine, t->tokens, t->targets, &mean);
		if (rc)
			return rc;
		sum += mean;
	}
	*loss = sum / s->n_eval_runs;
	st_engine_rebase(t->engine);
	return go_on(b, "evaluating", s->n_eval_runs * per_run, s->n_eval_runs * per_run);
}

int strata_trainer_eval(struct strata_trainer *t, double *loss)
{
	const struct begun b = begin_call(t);

	return evaluate(&b, loss);
}

/* ---- a step -------------------------------------------------------------------------------- */

/* The one that strata.eval_every asks for. What a signal cut short is no part of the step. */
static int eval_if_due(const struct begun *b, struct strata_metrics *m)
{
	struct strata_trainer *t = b->t;
	const struct st_config *c = t->setup.cfg;
	int rc;

	if (!c->eval_every || !t->setup.data || t->step % c->eval_every != 0 || t->step >= c->steps)
		return 0;
	rc = evaluate(b, &m->val_loss);
	if (rc == STRATA_E_CANCELLED) {
		m->val_loss = NAN;
		return 0;
	}
	return rc ? rc : log_eval(t, m);
}

int strata_trainer_step(struct strata_trainer *t, const int32_t *tokens, const int32_t *targets,
			struct strata_metrics *m)
{
	const struct st_config *c = t->setup.cfg;
	const struct begun begun = begin_call(t);
	double beta1 = -1, beta2 = -1;
	struct st_step_out out;
	struct st_step_in in;
	int rc = next_batch(t, &tokens, &targets);

	if (rc)
		return rc;
	/* The schedule counts steps that were applied, as DeepSpeed's does. */
	if (!st_schedule_betas(&c->schedule, t->updates, &beta1, &beta2))
		beta1 = beta2 = -1;
	in = (struct st_step_in){
		.tokens = tokens,
		.targets = targets,
		.lr = st_schedule_lr(&c->schedule, c->optimizer.lr, t->updates),
		.beta1 = beta1,
		.beta2 = beta2,
		.cursor_after = t->cursor + c->train_batch,
	};
	rc = st_engine_step(t->engine, &in, &out);
	if (rc)
		return rc;
	t->step = out.step;
	t->updates = out.updates;
	t->cursor = in.cursor_after;
	if (t->step >= t->first_step + 2) {
		t->counted_steps++;
		t->counted_bytes += out.read_bytes + out.write_bytes;
	}
	*m = (struct strata_metrics){
		.step = out.step,
		.total_steps = c->steps,
		.loss = out.loss,
		.grad_norm = out.grad_norm,
		.clip_factor = out.clip_factor,
		.loss_scale = out.loss_scale,
		.skipped = out.skipped,
		.rolled_back = out.rolled_back,
		.lr = in.lr,
		.tokens_per_s =
			(double)t->setup.info.tokens_per_step / ((double)out.wall_ns * 1e-9),
		.step_ns = out.wall_ns,
		.compute_wait_ns = out.wall_ns > out.compute_ns ? out.wall_ns - out.compute_ns : 0,
		.nvme_read_bytes = out.read_bytes,
		.nvme_write_bytes = out.write_bytes,
		.durable_step = out.durable_step,
		.val_loss = NAN,
		.clipped = !out.skipped && out.clip_factor != 1.0,
		.speculated = out.speculated,
	};
	take_lanes(m, &out, t->setup.plan->cfg.copies);
	/* Logged first: the evaluation commits the step, and may not live to see its end. */
	rc = log_step(t, m);
	return rc ? rc : eval_if_due(&begun, m);
}

int strata_trainer_save(struct strata_trainer *t)
{
	int rc = st_engine_save(t->engine);

	st_engine_rebase(t->engine);
	return rc;
}

/* ---- result -------------------------------------------------------------------------------- */

static int emit_part(void *user, const struct st_tensor_desc *d, size_t first, size_t n,
		     const float *master, void *const moments[STRATA_ARRAY_N],
		     const size_t bytes[STRATA_ARRAY_N])
{
	struct begun *b = user;
	int rc = go_on(b, "writing the model", b->done, b->total);

	b->done += n;
	return rc ? rc : b->emit(b->emit_user, d, first, n, master, moments, bytes);
}

static int export_state(void *user, st_emit_fn *emit, void *emit_user)
{
	struct begun *b = user;

	b->emit = emit;
	b->emit_user = emit_user;
	b->total = b->t->setup.model->n_params;
	return st_engine_export(b->t->engine, emit_part, b);
}

/* From the first call on, whatever ends the process, the run is complete and only this is left. */
static int remove_store(struct strata_trainer *t)
{
	int rc = st_output_condemn(t->setup.cfg->output);

	if (rc)
		return rc;
	st_engine_close(t->engine, true);
	t->engine = NULL;
	return st_output_forget(t->setup.cfg->output);
}

int strata_trainer_finish(struct strata_trainer *t, struct strata_result *result)
{
	struct strata_result r = { .val_loss = NAN,
				   .nvme_bytes_per_param_step = NAN,
				   .steps = t->step,
				   .skipped_steps = t->step - t->updates };
	struct begun begun = begin_call(t);
	struct rusage usage;
	uint64_t hash = 0;
	int rc = st_engine_save(t->engine);

	if (!rc && t->setup.data)
		rc = evaluate(&begun, &r.val_loss);
	if (!rc)
		rc = st_output_write_model(t->setup.cfg->output, t->setup.model, &t->setup.gpt2,
					   t->setup.cfg->save_dtype, export_state, &begun);
	if (!rc)
		rc = st_engine_state_hash(t->engine, &hash);
	if (rc)
		return rc;
	snprintf(r.state_hash, sizeof(r.state_hash), "%016llx", (unsigned long long)hash);
	getrusage(RUSAGE_SELF, &usage);
	r.peak_rss_bytes = (uint64_t)usage.ru_maxrss * 1024;
	r.device_peak_bytes = t->setup.plan->arena_bytes[ST_ARENA_DEVICE];
	r.host_peak_bytes = t->setup.plan->arena_bytes[ST_ARENA_HOST];
	if (t->counted_steps)
		r.nvme_bytes_per_param_step = (double)t->counted_bytes / (double)t->counted_steps /
					      (double)t->setup.model->n_params;
	if (t->setup.cfg->nvme.keep == ST_KEEP_NEVER)
		rc = remove_store(t);
	if (!rc)
		rc = log_done(t, &r);
	if (result)
		*result = r;
	return rc;
}
