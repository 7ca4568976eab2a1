/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_bench.c - what `strata bench nvme` and `strata tune nvme` stand on: a wrong block is
 * counted, a histogram's quantiles are right, and a configuration is edited without loss.
 */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/compare.h"
#include "bench/config_edit.h"
#include "bench/hist.h"
#include "bench/load.h"
#include "bench/pattern.h"
#include "bench/plot.h"
#include "core/config.h"
#include "nvme/store.h"

#define BLOCK ((size_t)64 << 10)

static char dir[] = "/tmp/strata-bench-XXXXXX";
static volatile sig_atomic_t no_stop;

/* ---- the pattern --------------------------------------------------------------------------- */

START_TEST(pattern_counts_wrong_sectors)
{
	struct st_pattern p;
	char *b = malloc(BLOCK);

	ck_assert_ptr_nonnull(b);
	ck_assert_int_eq(st_pattern_init(&p, BLOCK, 7), 0);
	st_pattern_body(&p, b);
	st_pattern_stamp(&p, b, 3, 9);
	ck_assert_uint_eq(st_pattern_wrong(&p, b, 3, 9), 0);
	ck_assert_uint_eq(st_pattern_wrong_all(&p, b, 3, 9), 0);
	/* another block's, an older write's */
	ck_assert_uint_eq(st_pattern_wrong(&p, b, 4, 9), BLOCK / ST_PATTERN_SECTOR);
	ck_assert_uint_eq(st_pattern_wrong(&p, b, 3, 8), BLOCK / ST_PATTERN_SECTOR);
	/* torn: the second half is of the write before */
	st_pattern_stamp(&p, b, 3, 8);
	{
		char *half = malloc(BLOCK);

		ck_assert_ptr_nonnull(half);
		st_pattern_body(&p, half);
		st_pattern_stamp(&p, half, 3, 9);
		memcpy(b, half, BLOCK / 2);
		free(half);
	}
	ck_assert_uint_eq(st_pattern_wrong(&p, b, 3, 9), BLOCK / ST_PATTERN_SECTOR / 2);
	/* each single bit of a sector is seen by the thorough check, in stamp and body */
	st_pattern_stamp(&p, b, 3, 9);
	for (size_t bit = 0; bit < 8 * ST_PATTERN_SECTOR; bit++) {
		b[5 * ST_PATTERN_SECTOR + bit / 8] ^= (char)(1 << bit % 8);
		ck_assert_uint_eq(st_pattern_wrong_all(&p, b, 3, 9), 1);
		ck_assert_uint_eq(st_pattern_wrong(&p, b, 3, 9), bit < 64);
		b[5 * ST_PATTERN_SECTOR + bit / 8] ^= (char)(1 << bit % 8);
	}
	/* two sectors in each other's place, and one of zeroes */
	memset(b, 0, ST_PATTERN_SECTOR);
	ck_assert_uint_eq(st_pattern_wrong(&p, b, 3, 9), 1);
	memcpy(b, b + ST_PATTERN_SECTOR, ST_PATTERN_SECTOR);
	ck_assert_uint_eq(st_pattern_wrong(&p, b, 3, 9), 1);
	st_pattern_fini(&p);
	ck_assert_int_eq(st_pattern_init(&p, 100, 7), -EINVAL);
	free(b);
}
END_TEST

/* ---- loads --------------------------------------------------------------------------------- */

static struct st_area_cfg area_cfg(bool is_raw, bool checksum)
{
	static const char *const paths[] = { dir, dir };

	return (struct st_area_cfg){
		.paths = paths,
		.n_paths = 2,
		.size_bytes = 64 * BLOCK,
		.block_bytes = is_raw ? 4096 : BLOCK,
		.is_raw = is_raw,
		.checksum = checksum,
		.depth_max = 8,
		.stop = &no_stop,
	};
}

static struct st_load load_of(enum st_load_op op, bool is_thorough, int64_t duration_ns)
{
	struct st_load l = {
		.op = op,
		.is_thorough = is_thorough,
		.depth = 8,
		.duration_ns = duration_ns,
		.aio = ST_AIO_CFG_DEFAULT,
	};

	l.aio.backend = "threads";
	return l;
}

static void run(struct st_area *a, struct st_load l, struct st_load_result *r)
{
	int rc = st_area_run(a, &l, r);

	ck_assert_msg(rc == 0, "%s", strata_last_error());
}

static void flip(const struct st_area_file *f, uint64_t at)
{
	char *block = aligned_alloc(4096, 4096);

	ck_assert_ptr_nonnull(block);
	ck_assert_int_eq(pread(f->fd, block, 4096, (off_t)(at / 4096 * 4096)), 4096);
	block[at % 4096] ^= 0x10;
	ck_assert_int_eq(pwrite(f->fd, block, 4096, (off_t)(at / 4096 * 4096)), 4096);
	free(block);
}

static int entries_of(const char *path)
{
	DIR *d = opendir(path);
	int n = 0;

	ck_assert_ptr_nonnull(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2; /* "." and ".." */
}

/* _i: 0 store with checksums, 1 store without, 2 raw */
START_TEST(loads_count_wrong_blocks)
{
	struct st_area_cfg cfg = area_cfg(_i == 2, _i == 0);
	struct st_load_result *r = calloc(1, sizeof(*r));
	struct st_area_file files[2];
	struct st_area *a;

	ck_assert_ptr_nonnull(r);
	ck_assert_int_eq(st_area_open(&a, &cfg), 0);
	run(a, load_of(ST_LOAD_WRITE, false, 0), r);
	ck_assert_uint_eq(r->n_bytes, cfg.size_bytes);
	for (int op = 0; op < ST_LOAD_OPS; op++) {
		struct st_load l = load_of(op, false, 20000000);

		l.is_random = op == ST_LOAD_MIXED;
		run(a, l, r);
		ck_assert_uint_gt(r->n_ios, 0);
		ck_assert_uint_eq(r->n_wrong, 0);
		ck_assert(isfinite(st_hist_quantile(&r->latency, 0.5)));
		ck_assert_uint_eq(r->latency.n, r->n_ios);
	}
	run(a, load_of(ST_LOAD_READ, true, 0), r);
	ck_assert_uint_eq(r->n_wrong, 0);
	ck_assert_uint_eq(r->n_bytes, cfg.size_bytes);
	ck_assert_int_eq(st_area_files(a, files), 0);
	ck_assert_uint_eq(files[0].len_bytes, cfg.size_bytes / 2);
	ck_assert_uint_eq(files[1].len_bytes, cfg.size_bytes / 2);
	/* what another program does to the spare half is no concern of ours */
	flip(&files[0], files[0].spare_off_bytes);
	flip(&files[1], files[1].spare_off_bytes + files[1].len_bytes - 1);
	run(a, load_of(ST_LOAD_READ, true, 0), r);
	ck_assert_uint_eq(r->n_wrong, 0);
	/* a body's bit in the first block of one file, a stamp's in the last of the other */
	flip(&files[0], files[0].off_bytes + 100);
	flip(&files[1], files[1].off_bytes + files[1].len_bytes - 512);
	run(a, load_of(ST_LOAD_READ, true, 0), r);
	ck_assert_uint_eq(r->n_wrong, 2);
	ck_assert_ptr_nonnull(strstr(r->first_wrong, dir));
	/* a timed load sees the stamp always, the body where there are checksums */
	run(a, load_of(ST_LOAD_READ, false, 0), r);
	ck_assert_uint_eq(r->n_wrong, _i == 0 ? 2 : 1);
	/* and writing mends both */
	run(a, load_of(ST_LOAD_WRITE, false, 0), r);
	run(a, load_of(ST_LOAD_READ, true, 0), r);
	ck_assert_uint_eq(r->n_wrong, 0);
	st_area_close(a);
	ck_assert_int_eq(entries_of(dir), 0);
	free(r);
}
END_TEST

START_TEST(loads_refuse_and_stop)
{
	struct st_area_cfg cfg = area_cfg(true, false);
	struct st_load l = load_of(ST_LOAD_WRITE, false, 0);
	struct st_load_result *r = calloc(1, sizeof(*r));
	static const char *const nowhere[] = { STRATA_BUILD_DIR "/"
								"missing" };
	volatile sig_atomic_t stop = 1;
	struct st_area *a = NULL;

	ck_assert_ptr_nonnull(r);
	cfg.block_bytes = 1000;
	ck_assert_int_eq(st_area_open(&a, &cfg), -EINVAL);
	cfg = area_cfg(true, false);
	cfg.size_bytes = 1000;
	ck_assert_int_eq(st_area_open(&a, &cfg), -EINVAL);
	for (int raw = 0; raw < 2; raw++) {
		cfg = area_cfg(raw, false);
		cfg.paths = nowhere;
		cfg.n_paths = 1;
		ck_assert_int_eq(st_area_open(&a, &cfg), STRATA_E_INPUT);
		cfg = area_cfg(raw, false);
		cfg.size_bytes = (uint64_t)1 << 46;
		cfg.block_bytes = (size_t)64 << 20;
		cfg.depth_max = 1;
		ck_assert_int_eq(st_area_open(&a, &cfg), STRATA_E_NO_FIT);
	}
	ck_assert_ptr_null(a);
	cfg = area_cfg(true, false);
	cfg.stop = &stop;
	ck_assert_int_eq(st_area_open(&a, &cfg), 0);
	ck_assert_int_eq(st_area_run(a, &l, r), -EINTR);
	ck_assert_uint_eq(r->n_bytes, 0);
	l.depth = 9;
	ck_assert_int_eq(st_area_run(a, &l, r), -EINVAL);
	st_area_close(a);
	ck_assert_int_eq(entries_of(dir), 0);
	free(r);
}
END_TEST

/* ---- figures ------------------------------------------------------------------------------- */

START_TEST(quantiles)
{
	static struct st_hist h, sum;
	double odd[] = { 3, 1, 2 }, even[] = { 4, 1, 3, 2 };

	ck_assert(isnan(st_hist_quantile(&h, 0.5)));
	for (int64_t i = 1; i <= 100000; i++)
		st_hist_add(&h, i * 1000);
	st_hist_merge(&sum, &h);
	st_hist_merge(&sum, &h);
	ck_assert_uint_eq(sum.n, 200000);
	for (double q = 0.01; q <= 1; q += 0.01)
		ck_assert_double_eq_tol(st_hist_quantile(&sum, q) / (q * 1e8), 1, 0.032);
	st_hist_add(&sum, INT64_MAX);
	st_hist_add(&sum, -5);
	ck_assert_double_eq(st_hist_quantile(&sum, 0), 0);
	ck_assert_double_eq(st_median(odd, 3), 2);
	ck_assert_double_eq(st_median(even, 4), 2.5);
	ck_assert_uint_eq(st_slices_plan(40, 1, true).n, 20);
	ck_assert_int_eq(st_slices_plan(40, 1, true).duration_ns, 2000000000);
	ck_assert_uint_eq(st_slices_plan(0.5, 1, true).n, 1);
	ck_assert_uint_eq(st_slices_plan(3, 3, true).n, 3);
}
END_TEST

static char *slurp(const char *path)
{
	char *text = calloc(1, 65536);
	FILE *f = fopen(path, "r");

	ck_assert(text && f);
	ck_assert_uint_lt(fread(text, 1, 65535, f), 65535);
	fclose(f);
	return text;
}

static size_t count(const char *text, const char *what)
{
	size_t n = 0;

	for (; (text = strstr(text, what)); text += strlen(what))
		n++;
	return n;
}

START_TEST(plots)
{
	static const char *const names[] = { "read <1 MiB>", "write" };
	static const double x[] = { 1, 10 }, y[] = { 1.5, 2 }, none[] = { NAN, INFINITY };
	const struct st_plot_series series[] = { { .name = "a & b", .y = y, .lo = y, .hi = y },
						 { .name = "c", .y = none } };
	struct st_plot p = { .kind = ST_PLOT_BARS,
			     .title = "t",
			     .x_names = names,
			     .n_x = 2,
			     .series = series,
			     .n_series = 2 };
	struct rlimit whole, part;
	char path[64], *text;

	snprintf(path, sizeof(path), "%s/plot.svg", dir);
	ck_assert_int_eq(st_plot_write(&p, path), 0);
	text = slurp(path);
	ck_assert_uint_eq(count(text, "rx=\"1.5\""), 2); /* bars: those with a value */
	ck_assert_uint_eq(count(text, "class=\"w\""), 2);
	ck_assert_uint_eq(count(text, "read &lt;1 MiB&gt;, "), 0);
	ck_assert_uint_eq(count(text, "a &amp; b, read &lt;1 MiB&gt;: 1.5"), 1);
	ck_assert_uint_eq(count(text, "nan"), 0);
	ck_assert_uint_eq(count(text, "inf"), 0);
	free(text);
	p.kind = ST_PLOT_LINES;
	p.x = x;
	ck_assert_int_eq(st_plot_write(&p, path), 0);
	text = slurp(path);
	ck_assert_uint_eq(count(text, "<circle"), 2);
	ck_assert_uint_eq(count(text, "nan"), 0);
	free(text);
	unlink(path);
	p.n_x = 0;
	ck_assert_int_eq(st_plot_write(&p, path), -EINVAL);
	p.n_x = 2;
	ck_assert_int_eq(st_plot_write(&p, STRATA_BUILD_DIR "/"
							    "missing/plot.svg"),
			 -ENOENT);
	ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &whole), 0);
	part = (struct rlimit){ 100, whole.rlim_max };
	signal(SIGXFSZ, SIG_IGN);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &part), 0);
	ck_assert_int_eq(st_plot_write(&p, path), -EFBIG);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &whole), 0);
	signal(SIGXFSZ, SIG_DFL);
	ck_assert_int_ne(access(path, F_OK), 0); /* half a figure does not stay */
}
END_TEST

/* ---- configurations ------------------------------------------------------------------------ */

static const struct edit_case {
	const char *text, *path, *value, *want; /* want NULL: refused */
} edit_cases[] = {
	{ "{\"aio\": {\"block_size\": \"1MiB\" /* why */, \"x\": 1}}", "aio.block_size", "4096",
	  "{\"aio\": {\"block_size\": 4096 /* why */, \"x\": 1}}" },
	{ "{\n\t\"a\": 1, // one\n\t\"b\": 2 // two\n}\n", "c", "3",
	  "{\n\t\"a\": 1, // one\n\t\"b\": 2, // two\n\t\"c\": 3\n}\n" },
	{ "{\n  \"a\": 1,\n  # end\n}\n", "c", "3", "{\n  \"a\": 1,\n  # end\n  \"c\": 3\n}\n" },
	{ "{ \"a\": 1 }", "b.c.d", "[1, 2]", "{ \"a\": 1, \"b\": { \"c\": { \"d\": [1, 2] } } }" },
	{ "{}", "a", "1", "{\n\t\"a\": 1\n}" },
	{ "{\n\t\"aio\": {}\n}", "aio.x", "true", "{\n\t\"aio\": {\n\t\t\"x\": true\n\t}\n}" },
	{ "{\r\n\t\"a\": 1 // one\r\n}\r\n", "b", "2",
	  "{\r\n\t\"a\": 1, // one\n\t\"b\": 2\r\n}\r\n" },
	{ "{ \"a\": \"} // no end \\\" { \", \"b\": {\"c\": [1, {\"d\": 2}]} }", "b.c", "0",
	  "{ \"a\": \"} // no end \\\" { \", \"b\": {\"c\": 0} }" },
	{ "{ \"a\": 1 /* x */ , /* y */ }", "b", "2", "{ \"a\": 1 /* x */ , /* y */ \"b\": 2 }" },
	{ "\xef\xbb\xbf{ \"\xc3\xa4\": 1, \"a\": 2 }", "a", "3",
	  "\xef\xbb\xbf{ \"\xc3\xa4\": 1, \"a\": 3 }" },
	{ "{ \"a\": 1 }", "a.b", "2", NULL },
	{ "{ \"a\": 1", "a", "2", NULL },
	{ "[1]", "a", "2", NULL },
	{ "{ \"a\": 1 }", "a", "2, \"b\": 3", NULL },
};

START_TEST(edits_keep_the_rest)
{
	const struct edit_case *c = &edit_cases[_i];
	const struct st_config_set set = { c->path, c->value };
	char *out = NULL;
	int rc = st_config_edit(c->text, strlen(c->text), "test", &set, 1, &out);

	if (!c->want) {
		ck_assert_int_eq(rc, STRATA_E_CONFIG);
		ck_assert_ptr_null(out);
		return;
	}
	ck_assert_msg(rc == 0, "%s", strata_last_error());
	ck_assert_str_eq(out, c->want);
	free(out);
}
END_TEST

/* Each example gets the whole section, keeps each of its lines' text, and loads as before. */
START_TEST(edits_examples)
{
	static const char *const files[] = { "gpt2-finetune-cpu.json", "gpt2-xl-nvme.json",
					     "huggingface-zero3.json", "train.json" };
	static const struct st_config_set sets[] = {
		{ "aio.block_size", "524288" },        { "aio.queue_depth", "17" },
		{ "aio.single_submit", "false" },      { "aio.overlap_events", "true" },
		{ "strata.nvme.backend", "\"auto\"" }, { "strata.nvme.weights", "[3, 2]" },
	};
	char path[512], *old, *new;
	struct st_config *cfg;

	snprintf(path, sizeof(path), STRATA_SOURCE_DIR "/examples/%s", files[_i]);
	old = slurp(path);
	ck_assert_int_eq(
		st_config_edit(old, strlen(old), path, sets, ST_ARRAY_LEN(sets) - (_i != 1), &new),
		0);
	ck_assert_msg(!st_config_parse(&cfg, new, strlen(new), path, NULL, 0), "%s",
		      strata_last_error());
	ck_assert_uint_eq(cfg->aio.block_bytes, 524288);
	ck_assert_uint_eq(cfg->aio.queue_depth, 17);
	ck_assert_uint_eq(cfg->nvme.weights.n, _i == 1 ? 2 : 0);
	ck_assert_uint_eq(count(new, "//"), count(old, "//"));
	st_config_destroy(cfg);
	free(new);
	free(old);
}
END_TEST

START_TEST(replaces_whole_files)
{
	char path[128], link[128], *text;
	struct stat st;

	snprintf(path, sizeof(path), "%s/c.json", dir);
	snprintf(link, sizeof(link), "%s/l.json", dir);
	ck_assert_int_eq(st_config_replace(path, "one", 3), 0);
	ck_assert_int_eq(chmod(path, 0640), 0);
	ck_assert_int_eq(symlink("c.json", link), 0);
	ck_assert_int_eq(st_config_replace(link, "two\n", 4), 0);
	text = slurp(path);
	ck_assert_str_eq(text, "two\n");
	free(text);
	ck_assert_int_eq(lstat(link, &st), 0);
	ck_assert(S_ISLNK(st.st_mode));
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_int_eq(st.st_mode & 07777, 0640);
	unlink(link);
	unlink(path);
	ck_assert_int_eq(st_config_replace(dir, "x", 1), STRATA_E_INPUT);
	ck_assert_int_eq(st_config_replace(STRATA_BUILD_DIR "/"
							    "missing/c.json",
					   "x", 1),
			 -ENOENT);
	ck_assert_int_eq(rmdir(dir), 0); /* no temporary file is left */
	ck_assert_int_eq(mkdir(dir, 0700), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("bench");
	TCase *t = tcase_create("bench");
	SRunner *r;
	int failed;

	if (!mkdtemp(dir))
		return 1;
	tcase_set_timeout(t, 60);
	tcase_add_test(t, pattern_counts_wrong_sectors);
	tcase_add_loop_test(t, loads_count_wrong_blocks, 0, 3);
	tcase_add_test(t, loads_refuse_and_stop);
	tcase_add_test(t, quantiles);
	tcase_add_test(t, plots);
	tcase_add_loop_test(t, edits_keep_the_rest, 0, ST_ARRAY_LEN(edit_cases));
	tcase_add_loop_test(t, edits_examples, 0, 4);
	tcase_add_test(t, replaces_whole_files);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	(void)rmdir(dir);
	return failed ? 1 : 0;
}
