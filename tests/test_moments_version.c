/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_moments_version.c - a run with bf16 or int8 moments that a program of another rounding
 * version made (STRATA_MOMENTS_VERSION) is not gone on with: the program says which version it has
 * and which it would need, ends with exit code 2, and changes no byte; the state can be exported.
 *
 * A state of another version is made from one of ours, for only its root tells: the numeric plan in
 * the snapshots is replaced by that of the other version.
 */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "model/setup.h"
#include "nvme/store_priv.h"
#include "offload/engine.h"

static char work[] = STRATA_BUILD_DIR "/moments-XXXXXX";

static const char config[] =
	"{ \"train_batch_size\": 2, \"train_micro_batch_size_per_gpu\": 2,\n"
	"  \"bf16\": { \"enabled\": true },\n"
	"  \"optimizer\": { \"type\": \"AdamW\", \"params\": { \"lr\": 1e-3 } },\n"
	"  \"zero_optimization\": { \"stage\": 3,\n"
	"    \"offload_param\": { \"device\": \"nvme\", \"nvme_path\": \"nvme\" },\n"
	"    \"offload_optimizer\": { \"device\": \"nvme\", \"nvme_path\": \"nvme\" } },\n"
	"  \"strata\": {\n"
	"    \"model\": { \"family\": \"gpt2\", \"n_layer\": 1, \"n_embd\": 64, \"n_head\": 2,\n"
	"      \"n_positions\": 16, \"vocab_size\": 256 },\n"
	"    \"data\": { \"train\": \"text.txt\", \"format\": \"bytes\", \"eval_windows\": 2 },\n"
	"    \"threads\": 1, \"steps\": 2, \"seed\": 1, \"output\": \"out\" } }\n";

static const struct {
	const char *name, *set;
} moments[] = { { "bf16", "strata.optimizer.moments=bf16" },
		{ "int8", "strata.optimizer.moments=int8" },
		{ "fp32", "strata.optimizer.moments=fp32" } };

/* ---- files ----------------------------------------------------------------------------------- */

static char *read_file(const char *path, size_t *n)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	char *text;

	ck_assert_msg(fd >= 0 && !fstat(fd, &st), "%s: %s", path, strerror(errno));
	*n = (size_t)st.st_size;
	text = calloc(1, *n + 1);
	ck_assert_ptr_nonnull(text);
	ck_assert_int_eq(read(fd, text, *n), (ssize_t)*n);
	close(fd);
	return text;
}

static void write_file(const char *path, const void *text, size_t n)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	ck_assert_msg(fd >= 0, "%s: %s", path, strerror(errno));
	ck_assert_int_eq(write(fd, text, n), (ssize_t)n);
	ck_assert_int_eq(close(fd), 0);
}

/* The file of the state, by run.json: {"id": .., "paths": ["DIR"]}. */
static void find_data(char *path, size_t size)
{
	size_t n;
	char *json = read_file("out/run.json", &n), *from = strstr(json, "\"paths\""), *to;

	ck_assert_ptr_nonnull(from);
	from = strchr(from, '[');
	ck_assert_ptr_nonnull(from);
	from = strchr(from, '"');
	ck_assert_ptr_nonnull(from);
	to = strchr(++from, '"');
	ck_assert_ptr_nonnull(to);
	snprintf(path, size, "%.*s/data", (int)(to - from), from);
	free(json);
}

/* All that a resume could have changed. */
struct kept {
	char *bytes[4];
	size_t n[4];
};

static void keep(struct kept *k, const char *data)
{
	const char *const paths[4] = { data, "out/run.json", "out/strata.json", "out/log.jsonl" };

	for (unsigned i = 0; i < 4; i++)
		k->bytes[i] = read_file(paths[i], &k->n[i]);
}

static void expect_unchanged(struct kept *k, const char *data)
{
	struct kept now;

	keep(&now, data);
	for (unsigned i = 0; i < 4; i++) {
		ck_assert_msg(now.n[i] == k->n[i] && !memcmp(now.bytes[i], k->bytes[i], k->n[i]),
			      "file %u was changed", i);
		free(now.bytes[i]);
		free(k->bytes[i]);
	}
}

/* In every root, the plan `from` becomes `to`. @return the roots that had it */
static unsigned change_plan(const char *data, uint64_t from, uint64_t to)
{
	static const off_t slots[2] = { ST_STORE_ROOT_A, ST_STORE_ROOT_B };
	struct st_store_root *r = aligned_alloc(4096, sizeof(*r));
	int fd = open(data, O_RDWR | O_CLOEXEC);
	unsigned n = 0;

	ck_assert_msg(r && fd >= 0, "%s: %s", data, strerror(errno));
	for (unsigned i = 0; i < 2; i++) {
		struct st_snapshot snap;

		ck_assert_int_eq(pread(fd, r, sizeof(*r), slots[i]), (ssize_t)sizeof(*r));
		if (!st_store_root_is_valid(r) ||
		    !st_snapshot_parse(r->snapshot, r->snapshot_bytes, &snap) ||
		    snap.numeric_plan != from)
			continue;
		snap.numeric_plan = to;
		memcpy(r->snapshot, &snap, sizeof(snap));
		r->self_hash = st_store_root_hash(r);
		ck_assert_int_eq(pwrite(fd, r, sizeof(*r), slots[i]), (ssize_t)sizeof(*r));
		n++;
	}
	close(fd);
	free(r);
	return n;
}

/* ---- the program ----------------------------------------------------------------------------- */

/* @return its exit code; what it printed is in out.txt and err.txt */
static int run(const char *const *argv)
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (!pid) {
		int out = open("out.txt", O_WRONLY | O_CREAT | O_TRUNC, 0600);
		int err = open("err.txt", O_WRONLY | O_CREAT | O_TRUNC, 0600);

		if (out < 0 || err < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0)
			_exit(126);
		execv(argv[0], (char *const *)(uintptr_t)argv);
		_exit(127);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_msg(WIFEXITED(status), "status %#x", (unsigned)status);
	return WEXITSTATUS(status);
}

static int train(const char *set, const char *output, const char *steps, bool resumes)
{
	const char *const argv[] = { STRATA_BUILD_DIR "/strata",
				     "train",
				     "c.json",
				     "--progress",
				     "json",
				     "--set",
				     set,
				     "--output",
				     output,
				     "--steps",
				     steps,
				     resumes ? "--resume" : NULL,
				     NULL };

	return run(argv);
}

static void expect(int got, int want)
{
	size_t n;
	char *err;

	if (got == want)
		return;
	err = read_file("err.txt", &n);
	ck_abort_msg("exit code %d, not %d: %s", got, want, err);
}

/* The state hash that the last run printed. */
static void take_hash(char hash[17])
{
	size_t n;
	char *out = read_file("out.txt", &n), *at = strstr(out, "\"state_hash\":\"");

	ck_assert_ptr_nonnull(at);
	snprintf(hash, 17, "%.16s", at + strlen("\"state_hash\":\""));
	free(out);
}

static uint64_t plan_of(const char *set, unsigned version)
{
	const struct strata_options opt = { .struct_bytes = sizeof(opt),
					    .sets = &set,
					    .n_sets = 1 };
	struct st_setup s;
	uint64_t plan;

	ck_assert_msg(!st_setup_model(&s, "c.json", &opt, true), "%s", st_last_error());
	plan = st_setup_numeric_plan(&s, version);
	ck_assert(version != STRATA_MOMENTS_VERSION || plan == s.numeric_plan);
	st_setup_close(&s);
	return plan;
}

/* ---- */

static void expect_refused(unsigned which, unsigned version)
{
	char version_text[32];
	size_t n;
	char *err;

	expect(train(moments[which].set, "out", "4", true), 2);
	err = read_file("err.txt", &n);
	snprintf(version_text, sizeof(version_text), "version %u of", version);
	ck_assert_msg(strstr(err, moments[which].name) && strstr(err, version_text) &&
			      strstr(err, "this program has version") && strstr(err, "--output"),
		      "%s", err);
	ck_assert_msg(!strstr(strstr(err, "strata: ") + 1, "strata: "), "not one line: %s", err);
	free(err);
}

/* _i: which moments; an earlier version, and one of a program to come. */
START_TEST(another_rounding_is_refused_by_name)
{
	static const unsigned versions[] = { 1, STRATA_MOMENTS_VERSION + 1 };
	const char *const set = moments[_i].set;
	const uint64_t ours = plan_of(set, STRATA_MOMENTS_VERSION);
	const char *const export[] = { STRATA_BUILD_DIR "/strata",
				       "checkpoint",
				       "export",
				       "out",
				       "--output",
				       "exported",
				       NULL };
	char data[4096], want[17], got[17];
	struct kept before;

	expect(train(set, "whole", "4", false), 0);
	take_hash(want);
	expect(train(set, "out", "2", false), 0);
	find_data(data, sizeof(data));
	for (size_t v = 0; v < ST_ARRAY_LEN(versions); v++) {
		const uint64_t theirs = plan_of(set, versions[v]);

		ck_assert_uint_ne(theirs, ours);
		ck_assert_uint_gt(change_plan(data, ours, theirs), 0);
		keep(&before, data);
		expect_refused((unsigned)_i, versions[v]);
		expect_unchanged(&before, data);
		if (v == 0)
			expect(run(export), 0);
		ck_assert_uint_gt(change_plan(data, theirs, ours), 0);
	}
	expect(train(set, "out", "4", true), 0); /* nothing was lost */
	take_hash(got);
	ck_assert_str_eq(got, want);
}
END_TEST

/* What is not rounded has no version; and another difference is told as such. */
START_TEST(only_the_version_is_called_so)
{
	const uint64_t plan = plan_of(moments[2].set, STRATA_MOMENTS_VERSION);
	char data[4096];
	size_t n;
	char *err;

	ck_assert_uint_eq(plan, plan_of(moments[2].set, 1));
	expect(train(moments[2].set, "out", "2", false), 0);
	find_data(data, sizeof(data));
	ck_assert_uint_gt(change_plan(data, plan, plan + 1), 0);
	expect(train(moments[2].set, "out", "4", true), 2);
	err = read_file("err.txt", &n);
	ck_assert_msg(strstr(err, "another numeric plan") && !strstr(err, "rounded by"), "%s", err);
	free(err);
}
END_TEST

static void remove_tree(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	char path[4096];

	while (d && (e = readdir(d))) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		if (unlink(path))
			remove_tree(path);
	}
	if (d)
		closedir(d);
	rmdir(dir);
}

static void make_files(void)
{
	static const char line[] = "the quick brown fox jumps over the lazy dog near the river\n";
	char text[40 * (sizeof(line) - 1)];

	for (size_t i = 0; i < 40; i++)
		memcpy(text + i * (sizeof(line) - 1), line, sizeof(line) - 1);
	write_file("text.txt", text, sizeof(text));
	write_file("c.json", config, sizeof(config) - 1);
	ck_assert_int_eq(mkdir("nvme", 0700), 0);
}

static void remove_runs(void)
{
	remove_tree("whole");
	remove_tree("out");
	remove_tree("exported");
	remove_tree("nvme");
	ck_assert_int_eq(mkdir("nvme", 0700), 0);
}

int main(void)
{
	Suite *s = suite_create("moments_version");
	TCase *t = tcase_create("moments_version");
	SRunner *r;
	int failed;

	if (access(STRATA_BUILD_DIR "/strata", X_OK)) {
		printf("the program is not there: skipped\n");
		return 77;
	}
	if (!mkdtemp(work) || chdir(work)) {
		perror(work);
		return 1;
	}
	setenv("OMP_WAIT_POLICY", "passive", 1);
	tcase_set_timeout(t, 60);
	tcase_add_unchecked_fixture(t, make_files, NULL);
	tcase_add_checked_fixture(t, NULL, remove_runs);
	tcase_add_loop_test(t, another_rounding_is_refused_by_name, 0, 2);
	tcase_add_test(t, only_the_version_is_called_so);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	if (!failed)
		remove_tree(work);
	return failed ? 1 : 0;
}
