/* SPDX-License-Identifier: Apache-2.0 */
/* cli/checkpoint.c - `strata checkpoint ls|verify|export|gc`: the states of a run on NVMe. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cli/bar.h"
#include "cli/print.h"
#include "cli/verbs.h"
#include "core/clock.h"
#include "core/log.h"
#include "model/checkpoint.h"
#include "model/file.h"
#include "model/output.h"

static const char *const dtype_words[] = { "fp32", "bf16", NULL };
static const enum st_dtype dtypes[] = { ST_F32, ST_BF16 };

struct checkpoint_args {
	const char *dir, *output;
	struct st_opt_list steps; /* gc */
	struct st_opt_list paths; /* where to look for a state that has moved */
	uint64_t step;            /* verify, export; 0: the current state */
	int dtype;
	bool as_json, all, stale, is_dry, force;
};

/* ---- what all share ------------------------------------------------------------------------ */

/* Warnings of the store (a root that did not verify, ...) are for people, on stderr. A store that
 * is opened twice, to be listed and to be read, says them twice. */
static void say(void *user, enum st_log_level level, const char *line)
{
	static char last[512];

	if (strncmp(line, last, sizeof(last) - 1) != 0)
		fprintf(stderr, "%s%s\n", level == ST_LOG_WARN ? "warning: " : "", line);
	snprintf(last, sizeof(last), "%s", line);
}

static bool exists(const char *dir, const char *name)
{
	char path[4096];

	return !st_output_path(path, sizeof(path), dir, name) && !access(path, F_OK);
}

/*
 * Where the state is now, when it is not where the text says: in a directory that --path names, or
 * in the output that holds it. One that is nowhere is left to whoever opens it.
 */
static int follow_move(const struct checkpoint_args *a, char **text)
{
	const char **places = calloc(a->paths.n + 1, sizeof(*places));
	char *now = NULL;
	int rc;

	if (!places)
		return st_fail(-ENOMEM, "paths");
	for (size_t i = 0; i < a->paths.n; i++)
		places[i] = a->paths.v[i];
	places[a->paths.n] = a->dir;
	rc = st_engine_find_store(*text, places, a->paths.n + 1, &now);
	if (rc && !a->paths.n)
		rc = 0;
	if (!rc && now) {
		free(*text);
		*text = now;
	}
	free(places);
	return rc;
}

/* The text of the run's run.json. @param out  out, owned by the caller; NULL after a failure */
static int open_run(const struct checkpoint_args *a, char **out)
{
	const char *dir = a->dir;
	struct stat st;
	char *text;
	int rc;

	*out = NULL;
	if (stat(dir, &st) || !S_ISDIR(st.st_mode))
		return st_fail(STRATA_E_INPUT, "%s: no such directory; name the output of a run",
			       dir);
	if (!exists(dir, ST_OUTPUT_RUN) && exists(dir, ST_OUTPUT_REMOVED))
		return st_fail(STRATA_E_INPUT,
			       "%s: the run's state is removed, or was to be (%s): finish it with "
			       "\"strata checkpoint gc %s --all\"",
			       dir, ST_OUTPUT_REMOVED, dir);
	if (!exists(dir, ST_OUTPUT_RUN))
		return st_fail(
			STRATA_E_INPUT,
			"%s holds no run (no run.json); name the output of a run whose state "
			"was kept",
			dir);
	text = calloc(1, ST_RUN_JSON_BYTES);
	if (!text)
		return st_fail(-ENOMEM, "run.json");
	rc = st_output_read_run(dir, ST_OUTPUT_RUN, text);
	if (!rc)
		rc = follow_move(a, &text);
	if (rc)
		free(text);
	else
		*out = text;
	return rc;
}

static int list(const char *dir, const char *run_json, st_checkpoint_fn *fn, void *user)
{
	char shown[4096];
	int rc = st_output_path(shown, sizeof(shown), dir, ST_OUTPUT_RUN);

	return rc ? rc : st_checkpoint_list(run_json, shown, fn, user);
}

static int begin_output(int rc)
{
	st_log_set(say, NULL, ST_LOG_WARN);
	return rc;
}

/* @return the program's exit code */
static int end_output(int rc)
{
	int flushed = st_flush_stdout();

	rc = rc ? rc : flushed;
	return rc ? st_report(rc) : 0;
}

/* ---- ls ------------------------------------------------------------------------------------ */

static const char *const kind_words[] = { "current", "superseded", "lost", "kept" };

/* A step, once: a copy that was kept of the current one stands in its row. */
struct row {
	enum st_checkpoint_kind kind;
	bool is_kept, has_state;
	int rc;
	char text[480], in_use[80]; /* "" */
	uint64_t step, generation, live_bytes, disk_bytes;
	int64_t written_s;
	char **dirs; /* [n_dirs] */
	size_t n_dirs;
};

struct lister {
	const struct checkpoint_args *args;
	struct row *rows;
	size_t n;
};

static void format_time(int64_t seconds, char *out, size_t bytes, const char *format)
{
	time_t t = (time_t)seconds;
	struct tm tm;

	if (!seconds || !gmtime_r(&t, &tm) || !strftime(out, bytes, format, &tm))
		snprintf(out, bytes, "-");
}

static struct row *row_of(const struct lister *l, uint64_t step)
{
	for (size_t k = 0; k < l->n; k++)
		if (l->rows[k].has_state && !l->rows[k].rc && l->rows[k].step == step)
			return &l->rows[k];
	return NULL;
}

static int add_dirs(struct row *r, const struct st_checkpoint_info *i)
{
	char **more = reallocarray(r->dirs, r->n_dirs + i->n_dirs + 1, sizeof(*more));

	if (!more)
		return st_fail(-ENOMEM, "checkpoints");
	r->dirs = more;
	for (unsigned k = 0; k < i->n_dirs; k++) {
		more[r->n_dirs] = strdup(i->dirs[k]);
		if (!more[r->n_dirs])
			return st_fail(-ENOMEM, "checkpoints");
		r->n_dirs++;
	}
	return 0;
}

static int add_row(struct lister *l, const struct st_checkpoint_info *i)
{
	struct row *r = reallocarray(l->rows, l->n + 1, sizeof(*r));

	if (!r)
		return st_fail(-ENOMEM, "checkpoints");
	l->rows = r;
	r += l->n++;
	*r = (struct row){
		.kind = i->kind,
		.is_kept = i->kind == ST_CHECKPOINT_KEPT,
		.has_state = i->has_state,
		.rc = i->rc,
		.step = i->has_state ? i->state.step : 0,
		.generation = i->generation,
		.live_bytes = i->live_bytes,
		.disk_bytes = i->disk_bytes,
		.written_s = i->written_s,
	};
	snprintf(r->text, sizeof(r->text), "%s", i->rc ? i->text : "");
	snprintf(r->in_use, sizeof(r->in_use), "%s", i->in_use ? i->in_use : "");
	return i->disk_bytes ? add_dirs(r, i) : 0;
}

/* The commit before is of the same step where saving committed once more: no other state. */
static int list_one(void *user, const struct st_checkpoint_info *i)
{
	struct lister *l = user;
	struct row *same = i->has_state && !i->rc ? row_of(l, i->state.step) : NULL;

	if (!same)
		return add_row(l, i);
	if (i->kind != ST_CHECKPOINT_KEPT)
		return 0;
	if (same->kind == ST_CHECKPOINT_SUPERSEDED) { /* the copy is whole */
		same->kind = ST_CHECKPOINT_KEPT;
		same->generation = i->generation;
		same->live_bytes = i->live_bytes;
		same->written_s = i->written_s;
	}
	same->is_kept = true;
	same->disk_bytes += i->disk_bytes;
	return add_dirs(same, i);
}

static bool is_complete(const struct row *r)
{
	return !r->rc && r->has_state && r->kind != ST_CHECKPOINT_SUPERSEDED;
}

static void print_row(const struct row *r)
{
	char step[24] = "-", when[32];

	if (r->has_state)
		snprintf(step, sizeof(step), "%" PRIu64, r->step);
	format_time(r->written_s, when, sizeof(when), "%Y-%m-%d %H:%M:%S");
	printf("%10s %10" PRIu64 "  %-19s %11s %11s  ", step, r->generation, when,
	       r->live_bytes ? st_bytes_text(r->live_bytes).s : "-",
	       r->disk_bytes ? st_bytes_text(r->disk_bytes).s : "-");
	printf("%s%s%s", kind_words[r->kind],
	       r->is_kept && r->kind != ST_CHECKPOINT_KEPT ? ", kept" : "",
	       r->rc == -EACCES || r->rc == -EPERM ? ", not for this user"
	       : r->rc                             ? ", DAMAGED"
						   : "");
	if (!r->rc && r->kind == ST_CHECKPOINT_CURRENT && !r->has_state)
		printf(", nothing saved yet");
	if (!r->rc && r->kind == ST_CHECKPOINT_SUPERSEDED)
		printf(", overwritten in part");
	if (*r->in_use && r->kind == ST_CHECKPOINT_CURRENT)
		printf(", in use by %s", r->in_use);
	for (size_t k = 0; k < r->n_dirs; k++)
		printf("%s%s", k ? ", " : "  ", r->dirs[k]);
	putchar('\n');
	if (r->rc)
		printf("%12s%s\n", "", r->text);
}

static void put_text_or_null(const char *key, const char *text)
{
	if (*text)
		st_member_text(key, text);
	else
		printf(",\"%s\":null", key);
}

static void json_row(const struct row *r)
{
	char when[32];

	printf("{\"state\":\"%s\",\"step\":", kind_words[r->kind]);
	if (r->has_state)
		printf("%" PRIu64, r->step);
	else
		printf("null");
	st_member_uint("generation", r->generation);
	st_member_bool("complete", is_complete(r));
	st_member_bool("kept", r->is_kept);
	st_member_uint("live_bytes", r->live_bytes);
	st_member_uint("disk_bytes", r->disk_bytes);
	format_time(r->written_s, when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ");
	put_text_or_null("written", *when == '-' ? "" : when);
	put_text_or_null("in_use", r->in_use);
	put_text_or_null("error", r->text);
	printf(",\"where\":[");
	for (size_t k = 0; k < r->n_dirs; k++) {
		if (k)
			putchar(',');
		st_put_json_string(r->dirs[k], stdout);
	}
	printf("]}");
}

static void print_list(const struct lister *l)
{
	if (!l->args->as_json)
		printf("%10s %10s  %-19s %11s %11s  %s\n", "step", "generation", "written (UTC)",
		       "state", "on disk", "what and where");
	for (size_t k = 0; !l->args->as_json && k < l->n; k++)
		print_row(&l->rows[k]);
	if (!l->args->as_json)
		return;
	printf("{\"output\":");
	st_put_json_string(l->args->dir, stdout);
	printf(",\"checkpoints\":[");
	for (size_t k = 0; k < l->n; k++) {
		if (k)
			putchar(',');
		json_row(&l->rows[k]);
	}
	puts("]}");
}

static int ls_run(const void *args, char **argv)
{
	const struct checkpoint_args *a = args;
	struct lister l = { .args = a };
	char *run_json = NULL;
	int rc = begin_output(open_run(a, &run_json));

	(void)argv;
	if (!rc)
		rc = list(a->dir, run_json, list_one, &l);
	if (!rc)
		print_list(&l);
	for (size_t k = 0; k < l.n; k++) {
		if (!rc && l.rows[k].rc)
			rc = st_fail(l.rows[k].rc, "%.460s", l.rows[k].text);
		for (size_t d = 0; d < l.rows[k].n_dirs; d++)
			free(l.rows[k].dirs[d]);
		free(l.rows[k].dirs);
	}
	free(l.rows);
	free(run_json);
	return end_output(rc);
}

/* ---- one state of several ------------------------------------------------------------------ */

struct chosen {
	uint64_t step; /* wanted; 0: the current one */
	char *run_json;
	uint64_t found_step;
	bool is_found, is_current;
	char others[256]; /* those that there are, for the message, each once */
};

/* Is the number among those of the list "4, 2"? */
static bool is_listed(const char *list, const char *step)
{
	size_t len = strlen(step);

	for (const char *at = list; (at = strstr(at, step)); at += len)
		if ((at == list || at[-1] == ' ') && (at[len] == ',' || !at[len]))
			return true;
	return false;
}

static int choose_one(void *user, const struct st_checkpoint_info *i)
{
	struct chosen *c = user;
	size_t len = strlen(c->others);
	char step[24];

	if (i->kind == ST_CHECKPOINT_SUPERSEDED || i->kind == ST_CHECKPOINT_LOST)
		return 0;
	if (i->kind == ST_CHECKPOINT_CURRENT && !c->step)
		c->is_found = true; /* damaged or not: who reads it will say */
	else if (c->step && i->has_state && i->state.step == c->step)
		c->is_found = true;
	if (i->has_state)
		snprintf(step, sizeof(step), "%" PRIu64, i->state.step);
	if (i->has_state && len < sizeof(c->others) && !is_listed(c->others, step))
		snprintf(c->others + len, sizeof(c->others) - len, "%s%s", len ? ", " : "", step);
	if (!c->is_found)
		return 0;
	c->is_current = i->kind == ST_CHECKPOINT_CURRENT;
	c->found_step = i->has_state ? i->state.step : 0;
	c->run_json = strdup(i->run_json);
	return c->run_json ? 1 : st_fail(-ENOMEM, "run.json");
}

/* @param c  out, c->run_json is owned by the caller */
static int choose(const struct checkpoint_args *a, const char *run_json, uint64_t step,
		  struct chosen *c)
{
	int rc;

	*c = (struct chosen){ .step = step };
	rc = list(a->dir, run_json, choose_one, c);
	if (rc < 0)
		return rc;
	if (!c->is_found)
		return st_fail(STRATA_E_INPUT, "%s: no state of step %" PRIu64 " is there%s%s",
			       a->dir, step, *c->others ? "; those that are: " : "", c->others);
	return 0;
}

/* ---- verify -------------------------------------------------------------------------------- */

struct verifier {
	const struct checkpoint_args *args;
	struct st_bar bar;
	unsigned n_states, n_lost; /* looked at; of them not to be read at all */
	uint64_t n_bad, n_bad_blocks, n_extents;
	bool has_item; /* of the JSON list that is being written */
};

static void verify_bad(void *user, const struct st_checkpoint_bad *b)
{
	struct verifier *v = user;

	st_bar_wipe(&v->bar);
	if (!v->args->as_json) {
		printf("BAD %s\n", b->text);
		fflush(stdout);
		return;
	}
	printf("%s{\"tile\":", v->has_item ? "," : "");
	st_put_json_string(b->name, stdout);
	printf(",\"file\":");
	st_put_json_string(b->path, stdout);
	printf(",\"offset\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"message\":", b->off_bytes,
	       b->len_bytes);
	st_put_json_string(b->text, stdout);
	putchar('}');
	v->has_item = true;
}

static bool verify_progress(void *user, const struct st_checkpoint_seen *s)
{
	struct verifier *v = user;

	st_bar_bytes(&v->bar, s->bytes, s->total_bytes);
	return true;
}

static void verify_head(const struct verifier *v, const struct st_checkpoint_info *i)
{
	if (!v->n_states) {
		printf("{\"output\":");
		st_put_json_string(v->args->dir, stdout);
		printf(",\"checkpoints\":[");
	}
	printf("%s{\"state\":\"%s\",\"step\":", v->n_states ? "," : "", kind_words[i->kind]);
	if (i->has_state)
		printf("%" PRIu64, i->state.step);
	else
		printf("null");
	printf(",\"generation\":%" PRIu64 ",\"bad\":[", i->generation);
}

static void verify_json(const struct st_checkpoint_seen *s, const struct st_error *e,
			double seconds)
{
	printf("],\"ok\":%s,\"error\":", e->rc ? "false" : "true");
	if (e->rc)
		st_put_json_string(e->text, stdout);
	else
		printf("null");
	printf(",\"tiles\":%u,\"bytes\":%" PRIu64
	       ",\"bad_tiles\":%u,\"bad_blocks\":%u,\"unchecked\":%u,\"seconds\":",
	       s->n_extents, s->bytes, s->n_bad, s->n_bad_blocks, s->n_unchecked);
	st_put_json_real(seconds, stdout);
	putchar('}');
}

static void verify_text(const struct st_checkpoint_info *i, const struct st_checkpoint_seen *s,
			const struct st_error *e, double seconds)
{
	char step[40] = "";

	if (i->has_state)
		snprintf(step, sizeof(step), "step %" PRIu64 ", ", i->state.step);
	if (!s->n_extents) {
		printf("BAD %s%s: %s\n", step, kind_words[i->kind], e->text);
		return;
	}
	printf("%s%s: %u tiles, %s, %.2f GB/s: %s", step, kind_words[i->kind], s->n_extents,
	       st_bytes_text(s->bytes).s, seconds > 0 ? (double)s->bytes / seconds * 1e-9 : 0,
	       e->rc ? "DAMAGED" : "all whole");
	if (s->n_unchecked)
		printf("; %u were written without checksums, and only read", s->n_unchecked);
	putchar('\n');
}

static bool is_to_verify(const struct checkpoint_args *a, const struct st_checkpoint_info *i)
{
	if (i->kind == ST_CHECKPOINT_SUPERSEDED)
		return false;
	if (a->step)
		return i->has_state && i->state.step == a->step;
	return i->kind != ST_CHECKPOINT_KEPT || a->all;
}

/* One state. Damage is counted and the next one follows; other failures end it. */
static int verify_one(void *user, const struct st_checkpoint_info *i)
{
	struct verifier *v = user;
	const struct checkpoint_args *a = v->args;
	const struct st_checkpoint_watch w = { verify_bad, verify_progress, v };
	struct st_checkpoint_seen seen = { 0 };
	struct st_error e = { 0 };
	int64_t begin_ns = st_now_ns();
	double seconds;
	int rc;

	if (!is_to_verify(a, i))
		return 0;
	if (a->as_json)
		verify_head(v, i);
	v->has_item = false;
	st_bar_begin(&v->bar);
	if (i->rc)
		rc = st_fail(i->rc, "%.460s", i->text);
	else if (!i->has_state && !i->in_use)
		rc = st_fail(STRATA_E_INPUT,
			     "%s: nothing was saved yet: there is nothing to verify", a->dir);
	else
		rc = st_checkpoint_verify(i->run_json, &w, &seen);
	if (rc)
		st_error_take(&e, rc);
	st_bar_wipe(&v->bar);
	seconds = (double)(st_now_ns() - begin_ns) * 1e-9;
	v->n_states++;
	v->n_lost += rc == STRATA_E_CORRUPT && !seen.n_bad && !seen.n_bad_blocks;
	v->n_bad += seen.n_bad;
	v->n_bad_blocks += seen.n_bad_blocks;
	v->n_extents += seen.n_extents;
	if (a->as_json)
		verify_json(&seen, &e, seconds);
	else if (!rc || rc == STRATA_E_CORRUPT)
		verify_text(i, &seen, &e, seconds);
	return !rc || rc == STRATA_E_CORRUPT ? 0 : st_error_raise(&e);
}

static int verify_result(const struct verifier *v)
{
	const char *dir = v->args->dir;

	if (v->n_lost)
		return st_fail(
			STRATA_E_CORRUPT,
			"%s: %u of %u states cannot be read; go on from what is whole (train "
			"--resume, --resume-step), or start anew",
			dir, v->n_lost, v->n_states);
	if (v->n_bad)
		return st_fail(STRATA_E_CORRUPT,
			       "%s: %" PRIu64 " of %" PRIu64
			       " tiles are damaged; go back to a kept "
			       "state (train --resume-step), or start anew",
			       dir, v->n_bad, v->n_extents);
	if (v->n_bad_blocks)
		return st_fail(STRATA_E_CORRUPT,
			       "%s: all tiles are whole, %" PRIu64
			       " superblocks, roots or names are "
			       "damaged; train --resume repairs them",
			       dir, v->n_bad_blocks);
	return 0;
}

static int verify_run(const void *args, char **argv)
{
	const struct checkpoint_args *a = args;
	struct verifier v = { .args = a };
	char *run_json = NULL;
	struct chosen c = { 0 };
	int rc = begin_output(open_run(a, &run_json));

	(void)argv;
	if (!rc && a->step && a->all)
		rc = st_fail(-EINVAL, "checkpoint verify: --step and --all exclude each other.");
	if (!rc && a->step)
		rc = choose(a, run_json, a->step, &c);
	free(c.run_json);
	if (!rc)
		rc = list(a->dir, run_json, verify_one, &v);
	if (!rc)
		rc = verify_result(&v);
	if (v.n_states && a->as_json)
		printf("],\"ok\":%s}\n", rc ? "false" : "true");
	free(run_json);
	return end_output(rc);
}

/* ---- export -------------------------------------------------------------------------------- */

static bool export_progress(void *user, const struct st_checkpoint_seen *s)
{
	st_bar_bytes(user, s->bytes, s->total_bytes);
	return true;
}

/* Can a file be made there? Tried before gigabytes are read; nothing is left. */
static int try_target(const struct checkpoint_args *a)
{
	struct st_outfile o;
	char path[4096];
	int rc = st_output_path(path, sizeof(path), a->output, "model.safetensors");

	if (rc)
		return rc;
	rc = st_outfile_open(&o, path, 0);
	if (rc)
		return st_fail(STRATA_E_INPUT, "--output %s: cannot be written to (%s)", a->output,
			       strata_strerror(rc));
	st_outfile_abort(&o);
	return 0;
}

/* @param is_made  out, the directory is new */
static int take_target(const struct checkpoint_args *a, bool *is_made)
{
	static const char *const files[] = { "model.safetensors", "config.json" };
	struct stat st;

	*is_made = !mkdir(a->output, 0777);
	if (!*is_made && errno != EEXIST)
		return st_fail(STRATA_E_INPUT, "--output %s: cannot make the directory (%s)",
			       a->output, strata_strerror(-errno));
	if (stat(a->output, &st) || !S_ISDIR(st.st_mode))
		return st_fail(STRATA_E_INPUT,
			       "--output %s: is no directory; name one, or one that can be made",
			       a->output);
	for (size_t i = 0; !a->force && i < ST_ARRAY_LEN(files); i++)
		if (exists(a->output, files[i]))
			return st_fail(STRATA_E_INPUT,
				       "--output %s: %s is there already; --force replaces it",
				       a->output, files[i]);
	return try_target(a);
}

static int export_run(const void *args, char **argv)
{
	const struct checkpoint_args *a = args;
	struct st_bar bar = { 0 };
	const struct st_checkpoint_watch w = { NULL, export_progress, &bar };
	struct chosen c = { 0 };
	char *run_json = NULL;
	bool is_made = false;
	struct st_error e;
	int rc;

	(void)argv;
	if (!a->output)
		return st_report(st_fail(-EINVAL,
					 "checkpoint export: --output DIR is missing: where "
					 "to write the model."));
	rc = begin_output(open_run(a, &run_json));
	if (!rc)
		rc = choose(a, run_json, a->step, &c);
	if (!rc)
		rc = take_target(a, &is_made);
	if (!rc) {
		st_bar_begin(&bar);
		rc = st_checkpoint_write(a->dir, c.run_json, a->output, dtypes[a->dtype], &w);
		st_bar_wipe(&bar);
	}
	st_error_take(&e, rc);
	if (!rc)
		printf("step %" PRIu64 " of %s: %s (model.safetensors in %s, config.json)\n",
		       c.found_step, a->dir, a->output, st_dtype_name(dtypes[a->dtype]));
	else if (is_made)
		rmdir(a->output);
	free(c.run_json);
	free(run_json);
	return end_output(rc ? st_error_raise(&e) : 0);
}

/* ---- gc ------------------------------------------------------------------------------------ */

struct collector {
	const struct checkpoint_args *args;
	const uint64_t *steps; /* [n_steps] */
	size_t n_steps;
	bool *is_done; /* [n_steps] */
};

static void say_removed(const struct checkpoint_args *a, const struct st_checkpoint_info *i)
{
	char step[40] = "a state in part";

	if (i->has_state)
		snprintf(step, sizeof(step), "step %" PRIu64, i->state.step);
	printf("%s %s (%s), %s on disk:", a->is_dry ? "would remove" : "removed", step,
	       i->rc ? "damaged" : kind_words[i->kind], st_bytes_text(i->disk_bytes).s);
	for (unsigned k = 0; k < i->n_dirs; k++)
		printf(" %s", i->dirs[k]);
	putchar('\n');
}

static int remove_one(const struct checkpoint_args *a, const struct st_checkpoint_info *i)
{
	int rc = a->is_dry ? 0 : st_engine_remove_store(i->run_json);

	if (!rc)
		say_removed(a, i);
	return rc;
}

/* The kept copies that were asked for by step, or with --all every one. */
static int collect_one(void *user, const struct st_checkpoint_info *i)
{
	struct collector *c = user;

	if (i->kind == ST_CHECKPOINT_CURRENT && i->in_use)
		return st_fail(STRATA_E_BUSY, "%s is in use by %s: let it end, or stop it first",
			       c->args->dir, i->in_use);
	if (i->kind != ST_CHECKPOINT_KEPT)
		return 0;
	if (c->args->all)
		return remove_one(c->args, i);
	for (size_t k = 0; k < c->n_steps; k++)
		if (i->has_state && c->steps[k] == i->state.step) {
			c->is_done[k] = true;
			return remove_one(c->args, i);
		}
	return 0;
}

/* The run's own store: the first that is listed. */
static int collect_store(void *user, const struct st_checkpoint_info *i)
{
	const struct checkpoint_args *a = user;
	struct st_error e;
	int rc = a->is_dry ? 0 : st_output_condemn(a->dir);

	if (rc)
		return rc;
	rc = remove_one(a, i);
	if (rc ==
	    STRATA_E_BUSY) { /* nothing was removed: a reader, an export for example, has it */
		st_error_take(&e, rc);
		rc = st_output_pardon(a->dir);
		return rc ? rc : st_error_raise(&e);
	}
	if (!rc && !a->is_dry)
		rc = st_output_forget(a->dir);
	return rc ? rc : 1;
}

/* A removal that was begun and cut off: nothing is left to be looked at. */
static int finish_removal(const struct checkpoint_args *a)
{
	char *text = calloc(1, ST_RUN_JSON_BYTES);
	int rc = text ? st_output_read_run(a->dir, ST_OUTPUT_REMOVED, text)
		      : st_fail(-ENOMEM, "run.json");

	if (!rc)
		rc = follow_move(a, &text);
	if (!rc && !a->is_dry)
		rc = st_engine_remove_store(text);
	if (!rc && !a->is_dry)
		rc = st_output_forget(a->dir);
	if (!rc)
		printf("%s what a removal that was cut off had left\n",
		       a->is_dry ? "would remove" : "removed");
	free(text);
	return rc;
}

static int collect_all(const struct checkpoint_args *a)
{
	struct collector c = { .args = a };
	char *run_json = NULL;
	int rc;

	if (!exists(a->dir, ST_OUTPUT_RUN) && exists(a->dir, ST_OUTPUT_REMOVED))
		return finish_removal(a);
	rc = open_run(a, &run_json);
	if (!rc)
		rc = list(a->dir, run_json, collect_one, &c);
	if (!rc)
		rc = list(a->dir, run_json, collect_store, (void *)(uintptr_t)a);
	free(run_json);
	return rc < 0 ? rc : 0;
}

static int parse_steps(const struct checkpoint_args *a, uint64_t *steps)
{
	for (size_t k = 0; k < a->steps.n; k++) {
		const char *text = a->steps.v[k];
		char *end;

		errno = 0;
		steps[k] = strtoull(text, &end, 10);
		if (*text < '0' || *text > '9' || *end || errno)
			return st_fail(-EINVAL,
				       "checkpoint gc: --step needs a whole number, not \"%.64s\".",
				       text);
		if (!steps[k])
			return st_fail(-EINVAL,
				       "checkpoint gc: --step: 0 is out of range; the least is 1.");
	}
	return 0;
}

/* A step that is not kept: said before anything is removed. */
static int check_steps(const struct checkpoint_args *a, const char *run_json, const uint64_t *steps)
{
	for (size_t k = 0; k < a->steps.n; k++) {
		struct chosen c;
		int rc = choose(a, run_json, steps[k], &c);

		free(c.run_json);
		if (rc)
			return rc;
	}
	return 0;
}

static int collect_steps(const struct checkpoint_args *a)
{
	uint64_t *steps = calloc(a->steps.n, sizeof(*steps));
	bool *is_done = calloc(a->steps.n, sizeof(*is_done));
	struct collector c = { a, steps, a->steps.n, is_done };
	char *run_json = NULL;
	int rc = steps && is_done ? parse_steps(a, steps) : st_fail(-ENOMEM, "steps");

	if (!rc)
		rc = open_run(a, &run_json);
	if (!rc)
		rc = check_steps(a, run_json, steps);
	if (!rc)
		rc = list(a->dir, run_json, collect_one, &c);
	for (size_t k = 0; !rc && k < a->steps.n; k++)
		if (!is_done[k])
			rc = st_fail(STRATA_E_INPUT,
				     "%s: step %" PRIu64 " is the run's own state, no copy: only "
				     "--all removes it, and the run cannot go on then",
				     a->dir, steps[k]);
	free(run_json);
	free(is_done);
	free(steps);
	return rc;
}

static void say_stale(void *user, const char *name)
{
	printf("would remove %s/%s\n", (const char *)user, name);
}

static int collect_stale_in(const struct checkpoint_args *a, const char *path)
{
	int n = st_checkpoint_reclaim(path, a->is_dry, say_stale, (void *)(uintptr_t)path);

	if (n >= 0)
		printf("%s: %s %d director%s without a committed state\n", path,
		       a->is_dry ? "would remove" : "removed", n, n == 1 ? "y" : "ies");
	return n < 0 ? n : 0;
}

/* The directories above those of the run's store. */
static int collect_stale_of(void *user, const struct st_checkpoint_info *i)
{
	const struct checkpoint_args *a = user;

	for (unsigned k = 0; k < i->n_dirs; k++) {
		const char *slash = strrchr(i->dirs[k], '/');
		char path[4096];
		int rc;

		if (!slash || slash - i->dirs[k] >= (ptrdiff_t)sizeof(path))
			continue;
		snprintf(path, sizeof(path), "%.*s", (int)(slash - i->dirs[k]), i->dirs[k]);
		rc = collect_stale_in(a, *path ? path : "/");
		if (rc)
			return rc;
	}
	return 1;
}

static int collect_stale(const struct checkpoint_args *a)
{
	char *run_json = NULL;
	int rc;

	if (!exists(a->dir, ST_OUTPUT_RUN))
		return collect_stale_in(a, a->dir);
	rc = open_run(a, &run_json);
	if (!rc)
		rc = list(a->dir, run_json, collect_stale_of, (void *)(uintptr_t)a);
	free(run_json);
	return rc < 0 ? rc : 0;
}

static int gc_run(const void *args, char **argv)
{
	const struct checkpoint_args *a = args;
	unsigned n_choices = a->all + a->stale + (a->steps.n > 0);
	int lock_fd = -1, rc = 0;
	struct stat st;

	(void)argv;
	if (n_choices != 1)
		rc = st_fail(-EINVAL,
			     "checkpoint gc: say what to remove: %s--all, --step N or --stale (see "
			     "\"strata help checkpoint gc\").",
			     n_choices ? "one of " : "");
	else if (stat(a->dir, &st) || !S_ISDIR(st.st_mode))
		rc = st_fail(STRATA_E_INPUT, "%s: no such directory; name the output of a run",
			     a->dir);
	rc = begin_output(rc);
	if (!rc && !a->stale)
		rc = st_output_lock(&lock_fd, a->dir, false);
	if (!rc)
		rc = a->all ? collect_all(a) : a->stale ? collect_stale(a) : collect_steps(a);
	if (lock_fd >= 0)
		close(lock_fd);
	return end_output(rc);
}

/* ---- the verbs ----------------------------------------------------------------------------- */

#define OFF(field) .offset = offsetof(struct checkpoint_args, field)
#define DIR_OPERAND                                                                                \
	{                                                                                          \
		"DIR", ST_OPT_OPERAND, true, OFF(dir),                                             \
			.help = "a run's output: run.json names its state"                         \
	}

#define PATH_OPTION                                                                                \
	{                                                                                          \
		"path", ST_OPT_LIST, .metavar = "PATH", OFF(paths),                                \
				     .help = "a directory to look in for a state that is no "      \
					     "longer where it was; may "                           \
					     "be\ngiven many times"                                \
	}

static const struct st_opt ls_options[] = {
	DIR_OPERAND,
	PATH_OPTION,
	{ "json", ST_OPT_FLAG, OFF(as_json), .help = "one object, for programs" },
};

static const struct st_opt verify_options[] = {
	DIR_OPERAND,
	PATH_OPTION,
	{ "step", ST_OPT_UINT, .metavar = "N", .min = 1, OFF(step),
	  .help = "the state of that step (the current one)" },
	{ "all", ST_OPT_FLAG, OFF(all), .help = "the current state and every kept one" },
	{ "json", ST_OPT_FLAG, OFF(as_json), .help = "one object, for programs" },
};

static const struct st_opt export_options[] = {
	DIR_OPERAND,
	PATH_OPTION,
	{ "output", ST_OPT_TEXT, .metavar = "DIR", OFF(output),
	  .help = "where model.safetensors and config.json go; needed" },
	{ "step", ST_OPT_UINT, .metavar = "N", .min = 1, OFF(step),
	  .help = "the state of that step (the current one)" },
	{ "dtype", ST_OPT_WORD, .metavar = "TYPE", .words = dtype_words, OFF(dtype),
	  .help = "fp32: the exact master weights; bf16: rounded (fp32)" },
	{ "force", ST_OPT_FLAG, OFF(force), .help = "replace files that are there" },
};

static const struct st_opt gc_options[] = {
	{ "DIR", ST_OPT_OPERAND, true, OFF(dir),
	  .help = "a run's output; for --stale also an nvme_path" },
	PATH_OPTION,
	{ "all", ST_OPT_FLAG, OFF(all),
	  .help = "the run's state and all kept ones: the run cannot go on then" },
	{ "step", ST_OPT_LIST, .metavar = "N", OFF(steps),
	  .help = "the kept state of that step; may be given many times" },
	{ "stale", ST_OPT_FLAG, OFF(stale),
	  .help = "what killed starts left: private directories without a committed state" },
	{ "dry-run", ST_OPT_FLAG, OFF(is_dry), .help = "say what would be removed" },
};

const struct st_verb st_verb_checkpoint_ls = {
	.name = "checkpoint ls",
	.summary = "the states of a run on NVMe: step, time, size, whether complete, in use",
	.opts = ls_options,
	.n_opts = ST_ARRAY_LEN(ls_options),
	.args_bytes = sizeof(struct checkpoint_args),
	.run = ls_run,
};

const struct st_verb st_verb_checkpoint_verify = {
	.name = "checkpoint verify",
	.summary = "read a state and check every checksum; damage is named",
	.more = "exit code: 0 all whole; 4 damaged: each bad tile is named by tensor, file and "
		"offset;\n2 no such state, or in use by a run\n",
	.opts = verify_options,
	.n_opts = ST_ARRAY_LEN(verify_options),
	.args_bytes = sizeof(struct checkpoint_args),
	.run = verify_run,
};

const struct st_verb st_verb_checkpoint_export = {
	.name = "checkpoint export",
	.summary = "write a state as model.safetensors and config.json",
	.more = "Needs DIR/strata.json, which says which model the run trains.\n"
		"exit code: 0 written; 2 no such state, in use by a run, or --output cannot be "
		"used;\n"
		"4 the state is damaged, or writing failed: nothing is left\n",
	.opts = export_options,
	.n_opts = ST_ARRAY_LEN(export_options),
	.args_bytes = sizeof(struct checkpoint_args),
	.run = export_run,
};

const struct st_verb st_verb_checkpoint_gc = {
	.name = "checkpoint gc",
	.summary = "remove states that are asked for",
	.more = "Results (model.safetensors and the like) are never touched, and nothing that a "
		"run "
		"uses.\n",
	.opts = gc_options,
	.n_opts = ST_ARRAY_LEN(gc_options),
	.args_bytes = sizeof(struct checkpoint_args),
	.run = gc_run,
};
