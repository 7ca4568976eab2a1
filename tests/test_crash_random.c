/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_crash_random.c - the program, killed at random instants and resumed.
 *
 * Label: slow
 * Timeout: 1200
 *
 *     test_crash_random [--kills N] [--seed S] [--program PATH]
 *
 * Each chain is one training run of four layers (a tensor of two storage tiles, three
 * micro-batches, everything on NVMe): started, killed by SIGKILL, resumed, killed, ..., until it is
 * done. A third of the kills come soon after the start, during recovery; after some of these the
 * next one does too. Then the state hash and the exported file are those of a run that nobody
 * killed, the log has every step once with the same numbers, at most the last reported step and the
 * one in progress were executed again, and on disk nothing is left. The kills of all configurations
 * together are N.
 */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/status.h"

#define STEPS   20
#define OPTIONS 4
#define NO_KILL INT64_MAX

static const char *program = STRATA_BUILD_DIR "/strata";
static uint64_t n_kills = 200, seed = 1;

static const struct config {
	const char *name;
	unsigned commit_every;
	const char *sets[OPTIONS]; /* --set */
} configs[] = {
	{ "deferred, clipped", 1, { NULL } },
	{ "immediate", 1, { "gradient_clipping=0" } },
	{ "a commit every 3 steps", 3, { "strata.nvme.commit_every=3" } },
	{ "two paths",
	  1,
	  { "zero_optimization.offload_param.nvme_path=[\"p0\",\"p1\"]",
	    "zero_optimization.offload_optimizer.nvme_path=[\"p0\",\"p1\"]",
	    "strata.nvme.weights=[1,3]" } },
	{ "thread pool, small host memory",
	  1,
	  { "strata.nvme.backend=threads", "strata.host.memory=4MiB" } },
};

static const char config_json[] =
	"{ \"train_batch_size\": 6, \"train_micro_batch_size_per_gpu\": 2,\n"
	"  \"gradient_clipping\": 0.5, \"bf16\": { \"enabled\": true },\n"
	"  \"optimizer\": { \"type\": \"AdamW\", \"params\": { \"lr\": 1e-3 } },\n"
	"  \"zero_optimization\": { \"stage\": 3,\n"
	"    \"offload_param\": { \"device\": \"nvme\", \"nvme_path\": \"p0\" },\n"
	"    \"offload_optimizer\": { \"device\": \"nvme\", \"nvme_path\": \"p0\" } },\n"
	"  \"strata\": {\n"
	"    \"model\": { \"family\": \"gpt2\", \"n_layer\": 4, \"n_embd\": 72, \"n_head\": 3,\n"
	"      \"n_positions\": 32, \"vocab_size\": 4111 },\n"
	"    \"data\": { \"train\": \"text.txt\", \"format\": \"bytes\", \"eval_windows\": 2 },\n"
	"    \"nvme\": { \"keep\": \"never\" },\n"
	"    \"threads\": 2, \"steps\": 20, \"seed\": 1, \"output\": \"out\" } }\n";

struct run { /* one process */
	pid_t pid;
	int out;         /* its stdout */
	char line[4096]; /* what came of the next line */
	size_t len;
	uint64_t first, last; /* steps it reported; 0: none */
	uint64_t durable;     /* of its last step line */
	char hash[17];        /* of its "done" */
	uint64_t kill_at;     /* step that it does not survive; 0: none */
	int64_t begun_ns, first_ns;
	int status;
};

/* ---- small things --------------------------------------------------------------------------- */

static uint64_t draw(void)
{
	static uint64_t state;
	uint64_t z = (state += 0x9e3779b97f4a7c15u) + seed * 0xd1342543de82ef95u; /* splitmix64 */

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static int64_t draw_below(int64_t n)
{
	return n > 0 ? (int64_t)(draw() % (uint64_t)n) : 0;
}

static void write_file(const char *path, const char *text, size_t n)
{
	FILE *f = fopen(path, "w");

	ck_assert_ptr_nonnull(f);
	ck_assert_uint_eq(fwrite(text, 1, n, f), n);
	ck_assert_int_eq(fclose(f), 0);
}

static char *read_file(const char *path, size_t *n)
{
	FILE *f = fopen(path, "r");
	char *text = NULL;
	long size;

	ck_assert_msg(f != NULL, "%s: %s", path, strerror(errno));
	ck_assert_int_eq(fseek(f, 0, SEEK_END), 0);
	size = ftell(f);
	ck_assert_int_ge(size, 0);
	rewind(f);
	text = calloc(1, (size_t)size + 1);
	ck_assert_ptr_nonnull(text);
	*n = fread(text, 1, (size_t)size, f);
	ck_assert_uint_eq(*n, size);
	fclose(f);
	return text;
}

static const char *in(const char *dir, const char *name)
{
	static char path[4][4096];
	static unsigned at;
	char *p = path[at++ % 4];

	snprintf(p, sizeof(path[0]), "%s/%s", dir, name);
	return p;
}

static bool exists(const char *dir, const char *name)
{
	return !access(in(dir, name), F_OK);
}

/* Entries of a directory, save those in `known`. */
static unsigned count_others(const char *dir, const char *const *known, char *example, size_t n)
{
	DIR *d = opendir(dir);
	unsigned others = 0;
	struct dirent *e;

	ck_assert_msg(d != NULL, "%s: %s", dir, strerror(errno));
	while ((e = readdir(d))) {
		bool is_known = !strcmp(e->d_name, ".") || !strcmp(e->d_name, "..");

		for (unsigned i = 0; known && known[i]; i++)
			is_known |= !strcmp(e->d_name, known[i]);
		if (!is_known && !others++)
			snprintf(example, n, "%s/%s", dir, e->d_name);
	}
	closedir(d);
	return others;
}

static void remove_tree(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	char path[4096];

	if (!d)
		return;
	while ((e = readdir(d))) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		if (unlink(path))
			remove_tree(path);
	}
	closedir(d);
	rmdir(dir);
}

/* ---- a process ------------------------------------------------------------------------------- */

static void exec_program(const struct config *c, const char *output, bool resumes, int out)
{
	const char *argv[16] = { program, "train",    "c.json", "--progress",
				 "json",  "--output", output };
	int n = 7, err = open("err.txt", O_WRONLY | O_CREAT | O_APPEND, 0644);

	if (resumes)
		argv[n++] = "--resume";
	for (unsigned i = 0; i < OPTIONS && c->sets[i]; i++) {
		argv[n++] = "--set";
		argv[n++] = c->sets[i];
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* a check that fails leaves it running */
	if (err >= 0)
		dup2(err, 2);
	dup2(out, 1);
	execv(program, (char *const *)(uintptr_t)argv);
	_exit(127);
}

static void start(struct run *r, const struct config *c, const char *output, bool resumes)
{
	int fd[2];

	memset(r, 0, sizeof(*r));
	ck_assert_int_eq(pipe2(fd, O_CLOEXEC), 0);
	r->begun_ns = st_now_ns();
	r->pid = fork();
	ck_assert_int_ge(r->pid, 0);
	if (!r->pid)
		exec_program(c, output, resumes, fd[1]);
	close(fd[1]);
	r->out = fd[0];
}

static uint64_t number_after(const char *line, const char *key)
{
	const char *at = strstr(line, key);

	ck_assert_msg(at != NULL, "no %s in: %s", key, line);
	return strtoull(at + strlen(key), NULL, 10);
}

static void take_line(struct run *r)
{
	const char *hash = strstr(r->line, "\"state_hash\":\"");

	if (strstr(r->line, "\"event\":\"step\"")) {
		r->last = number_after(r->line, "\"step\":");
		r->durable = number_after(r->line, "\"durable_step\":");
		if (!r->first) {
			r->first = r->last;
			r->first_ns = st_now_ns();
		}
	} else if (hash) {
		snprintf(r->hash, sizeof(r->hash), "%.16s", hash + strlen("\"state_hash\":\""));
	}
}

/* What stands in the pipe. @return false: it was closed */
static bool take_output(struct run *r)
{
	char part[4096];
	ssize_t n = read(r->out, part, sizeof(part));

	for (ssize_t i = 0; i < n; i++) {
		if (part[i] == '\n') {
			r->line[r->len] = '\0';
			take_line(r);
			r->len = 0;
		} else if (r->len + 1 < sizeof(r->line)) {
			r->line[r->len++] = part[i];
		}
	}
	return n > 0;
}

/* Let it run, to its end or for so long. @return it was killed */
static bool finish(struct run *r, int64_t kill_after_ns)
{
	struct pollfd p = { .fd = r->out, .events = POLLIN };
	bool is_killed = false;

	for (;;) {
		int64_t left = kill_after_ns - (st_now_ns() - r->begun_ns);
		struct timespec ts = { left / 1000000000, left % 1000000000 };

		if (left > 0 && ppoll(&p, 1, kill_after_ns == NO_KILL ? NULL : &ts, NULL) > 0) {
			if (!take_output(r))
				break;
			if (r->kill_at && r->last >= r->kill_at)
				kill_after_ns = 0;
		} else if (left <= 0) {
			kill(r->pid, SIGKILL);
			is_killed = true;
			while (take_output(r))
				;
			break;
		}
	}
	close(r->out);
	ck_assert_int_eq(waitpid(r->pid, &r->status, 0), r->pid);
	is_killed = is_killed && WIFSIGNALED(r->status); /* it may have ended by itself just then */
	ck_assert_msg(is_killed || (WIFEXITED(r->status) && !WEXITSTATUS(r->status)),
		      "the program ended with status %#x: see err.txt", (unsigned)r->status);
	return is_killed;
}

/* ---- what must hold ---------------------------------------------------------------------------
 */

struct truth { /* of a run that nobody killed */
	char hash[17];
	char *model, *log;
	size_t model_bytes, log_bytes;
	int64_t whole_ns, start_ns; /* how long it took; to its first step */
};

/* "step":N,"loss":x,"grad_norm":y of line N: what does not depend on time. */
static void numbers_of(const char *log, uint64_t step, char *out, size_t n)
{
	char key[64];
	const char *at, *end;

	snprintf(key, sizeof(key), "{\"event\":\"step\",\"step\":%llu,", (unsigned long long)step);
	at = strstr(log, key);
	ck_assert_msg(at != NULL, "the log has no step %llu", (unsigned long long)step);
	ck_assert_msg(!strstr(at + 1, key), "the log has step %llu twice",
		      (unsigned long long)step);
	end = strstr(at, ",\"tokens_per_s\"");
	ck_assert_ptr_nonnull(end);
	snprintf(out, n, "%.*s", (int)(end - at), at);
}

static void check_output(const char *output, const struct truth *want)
{
	static const char *const files[] = { "model.safetensors", "config.json", "log.jsonl",
					     "strata.json",       ".lock",       NULL };
	char example[4200], mine[512], theirs[512];
	size_t n;
	char *text = read_file(in(output, "model.safetensors"), &n);

	ck_assert_msg(n == want->model_bytes && !memcmp(text, want->model, n),
		      "%s: another model.safetensors", output);
	free(text);
	text = read_file(in(output, "log.jsonl"), &n);
	for (uint64_t s = 1; s <= STEPS; s++) {
		numbers_of(text, s, mine, sizeof(mine));
		numbers_of(want->log, s, theirs, sizeof(theirs));
		ck_assert_str_eq(mine, theirs);
	}
	free(text);
	ck_assert_msg(!count_others(output, files, example, sizeof(example)), "left: %s", example);
}

static void check_paths_empty(void)
{
	char example[4200];

	for (unsigned p = 0; p < 2; p++)
		ck_assert_msg(!count_others(p ? "p1" : "p0", NULL, example, sizeof(example)),
			      "left on NVMe: %s", example);
}

static void learn_truth(struct truth *t, const struct config *c)
{
	struct run r;

	start(&r, c, "out", false);
	ck_assert(!finish(&r, NO_KILL));
	ck_assert_uint_eq(r.last, STEPS);
	ck_assert_uint_eq(strlen(r.hash), 16);
	t->whole_ns = st_now_ns() - r.begun_ns;
	t->start_ns = r.first_ns - r.begun_ns;
	memcpy(t->hash, r.hash, sizeof(t->hash));
	t->model = read_file("out/model.safetensors", &t->model_bytes);
	t->log = read_file("out/log.jsonl", &t->log_bytes);
	check_output("out", t);
	check_paths_empty();
	remove_tree("out");
}

static void forget_truth(struct truth *t)
{
	free(t->model);
	free(t->log);
}

/* ---- chains -----------------------------------------------------------------------------------
 */

struct chain {
	const struct config *config;
	const struct truth *want;
	uint64_t reported, durable;   /* by all its processes */
	bool was_early;               /* the last kill came during a start */
	unsigned kills, early, again; /* again: steps executed twice */
};

/* A resumed process goes on where the promises say. */
static void check_resumed(struct chain *k, const struct run *r)
{
	uint64_t every = k->config->commit_every, least = 0;

	if (!r->first)
		return;
	if (k->reported)
		least = (k->reported - 1) / every * every;
	ck_assert_msg(r->first > least && r->first > k->durable && r->first <= k->reported + 2,
		      "%s: %llu steps reported, %llu durable, resumed at %llu", k->config->name,
		      (unsigned long long)k->reported, (unsigned long long)k->durable,
		      (unsigned long long)r->first);
	k->again += k->reported >= r->first ? (unsigned)(k->reported - r->first + 1) : 0;
}

static int64_t choose_instant(struct chain *k)
{
	uint64_t dice = draw() % 6;
	double left = 1 - (double)k->reported / STEPS;

	k->was_early = dice < 2 || (dice == 2 && k->was_early);
	if (k->was_early)
		return draw_below(k->want->start_ns);
	return draw_below(k->want->start_ns +
			  (int64_t)((double)(k->want->whole_ns - k->want->start_ns) * left));
}

/* One process of a chain. @return it was killed */
static bool next_process(struct chain *k, const char *output, int64_t kill_after_ns)
{
	/* Without run.json there is nothing yet, or all is done and removed. */
	bool resumes = exists(output, "run.json") || k->reported > 0;
	struct run r;
	bool is_killed;

	start(&r, k->config, output, resumes);
	is_killed = finish(&r, kill_after_ns);
	check_resumed(k, &r);
	if (r.last > k->reported)
		k->reported = r.last;
	if (r.durable > k->durable)
		k->durable = r.durable;
	if (is_killed) {
		k->kills++;
		k->early += !r.first;
		return true;
	}
	if (r.hash[0])
		ck_assert_msg(!strcmp(r.hash, k->want->hash), "%s: state %s, uninterrupted %s",
			      k->config->name, r.hash, k->want->hash);
	else /* killed after the result was written: what is left is checked by the caller */
		ck_assert_uint_eq(k->reported, STEPS);
	return false;
}

static void run_config(const struct config *c, uint64_t kills)
{
	struct chain sum = { 0 };
	struct truth want = { 0 };
	unsigned chains = 0;

	learn_truth(&want, c);
	while (sum.kills < kills) {
		struct chain k = { .config = c, .want = &want };

		while (next_process(&k, "out",
				    sum.kills + k.kills < kills ? choose_instant(&k) : NO_KILL))
			;
		check_output("out", &want);
		check_paths_empty();
		remove_tree("out");
		sum.kills += k.kills;
		sum.early += k.early;
		sum.again += k.again;
		chains++;
	}
	printf("%s: %u kills (%u before the process's first step) in %u runs of %d steps, %u steps "
	       "executed again; state %s each time\n",
	       c->name, sum.kills, sum.early, chains, STEPS, sum.again, want.hash);
	fflush(stdout);
	forget_truth(&want);
}

START_TEST(killed_runs_end_where_others_end)
{
	for (size_t i = 0; i < ST_ARRAY_LEN(configs); i++)
		run_config(&configs[i],
			   n_kills / ST_ARRAY_LEN(configs) + (i < n_kills % ST_ARRAY_LEN(configs)));
}
END_TEST

/* A crashed run's directory survives what others do on its path. */
START_TEST(a_new_run_beside_a_crashed_one)
{
	struct truth want = { 0 };
	struct chain crashed = { .config = &configs[0], .want = &want };
	struct chain other = crashed;
	char example[4200];
	struct run r;

	learn_truth(&want, &configs[0]);
	start(&r, &configs[0], "crashed", false);
	r.kill_at = STEPS / 3;
	ck_assert_msg(finish(&r, NO_KILL), "it was faster than its killer");
	crashed.reported = r.last;
	crashed.durable = r.durable;
	ck_assert(!next_process(&other, "out", NO_KILL));
	check_output("out", &want);
	remove_tree("out");
	ck_assert_uint_eq(count_others("p0", NULL, example, sizeof(example)), 1);
	ck_assert(!next_process(&crashed, "crashed", NO_KILL));
	check_output("crashed", &want);
	check_paths_empty();
	remove_tree("crashed");
	forget_truth(&want);
}
END_TEST

START_TEST(eight_runs_on_one_path)
{
	struct truth want = { 0 };
	struct run r[8];
	char name[8][16];

	learn_truth(&want, &configs[0]);
	for (unsigned i = 0; i < 8; i++) {
		snprintf(name[i], sizeof(name[i]), "out%u", i);
		start(&r[i], &configs[0], name[i], false);
	}
	for (unsigned i = 0; i < 8; i++) {
		ck_assert(!finish(&r[i], NO_KILL));
		ck_assert_str_eq(r[i].hash, want.hash);
		check_output(name[i], &want);
		remove_tree(name[i]);
	}
	check_paths_empty();
	forget_truth(&want);
}
END_TEST

/* ---- */

static void make_files(void)
{
	static const char *const words[] = { "the ", "a ",    "quick ",  "slow ", "fox ",
					     "dog ", "runs ", "sleeps ", "near ", "river\n" };
	char *text = calloc(1, 65536);
	uint64_t z = 7;
	size_t n = 0;

	ck_assert_ptr_nonnull(text);
	while (n < 60000) {
		const char *w;

		z = z * 6364136223846793005u + 1442695040888963407u;
		w = words[(z >> 33) % ST_ARRAY_LEN(words)];
		memcpy(text + n, w, strlen(w));
		n += strlen(w);
	}
	write_file("text.txt", text, n);
	write_file("c.json", config_json, sizeof(config_json) - 1);
	free(text);
	ck_assert_int_eq(mkdir("p0", 0700) | mkdir("p1", 0700), 0);
}

static bool read_number(const char *text, uint64_t *out)
{
	char *end;

	errno = 0;
	*out = text ? strtoull(text, &end, 10) : 0;
	return text && *text && !*end && !errno;
}

static bool read_options(int argc, char **argv)
{
	for (int i = 1; i < argc; i += 2) {
		bool is_good = false;

		if (!strcmp(argv[i], "--kills"))
			is_good = read_number(argv[i + 1], &n_kills);
		else if (!strcmp(argv[i], "--seed"))
			is_good = read_number(argv[i + 1], &seed);
		else if (!strcmp(argv[i], "--program"))
			is_good = (program = argv[i + 1]) != NULL;
		if (!is_good)
			return false;
	}
	return true;
}

int main(int argc, char **argv)
{
	char dir[] = STRATA_BUILD_DIR "/crash-XXXXXX";
	Suite *s = suite_create("crash_random");
	TCase *t = tcase_create("crash_random");
	SRunner *r;
	int failed;

	if (!read_options(argc, argv)) {
		fprintf(stderr, "usage: %s [--kills N] [--seed S] [--program PATH]\n", argv[0]);
		return 2;
	}
	if (access(program, X_OK)) {
		printf("%s is not there: skipped\n", program);
		return 77;
	}
	printf("--kills %llu --seed %llu\n", (unsigned long long)n_kills, (unsigned long long)seed);
	if (!mkdtemp(dir) || chdir(dir)) {
		perror(dir);
		return 1;
	}
	setenv("OMP_WAIT_POLICY", "passive", 1);
	tcase_set_timeout(t, 1200);
	tcase_add_unchecked_fixture(t, make_files, NULL);
	tcase_add_test(t, killed_runs_end_where_others_end);
	tcase_add_test(t, a_new_run_beside_a_crashed_one);
	tcase_add_test(t, eight_runs_on_one_path);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	if (failed)
		printf("what is left is in %s\n", dir);
	else
		remove_tree(dir);
	return failed ? 1 : 0;
}
