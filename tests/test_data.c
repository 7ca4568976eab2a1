/* SPDX-License-Identifier: Apache-2.0 */
/* tests/test_data.c - token files: formats, refusals, order, resume, held-out part. */
#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <sys/stat.h>

#include "tests/fuzz_data.c"

#define SEEDS STRATA_SOURCE_DIR "/tests/corpus/data"

static char dir[64];
static unsigned fds_before;

static unsigned count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	ck_assert_ptr_nonnull(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static const char *at(const char *name)
{
	static char paths[4][256];
	static unsigned turn;
	char *p = paths[turn++ % 4];

	snprintf(p, sizeof(paths[0]), "%s/%s", dir, name);
	return p;
}

static void put(const char *name, const void *data, size_t size)
{
	int fd = open(at(name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, data, size), (ssize_t)size);
	close(fd);
}

/* llm.c v7 file in which token i is i + base: a window tells by its first token which one it is. */
static void put_counting(const char *name, uint32_t n, uint32_t base)
{
	size_t size = 1024 + (size_t)n * 4;
	uint32_t *buf = calloc(1, size);

	ck_assert_ptr_nonnull(buf);
	buf[0] = 20240801;
	buf[1] = 7;
	buf[2] = n;
	for (uint32_t i = 0; i < n; i++)
		buf[256 + i] = i + base;
	put(name, buf, size);
	free(buf);
}

static void setup(void)
{
	snprintf(dir, sizeof(dir), "/tmp/test-data-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	fds_before = count_fds();
}

static void teardown(void)
{
	DIR *d = opendir(dir);

	ck_assert_ptr_nonnull(d);
	for (const struct dirent *e; (e = readdir(d));)
		if (e->d_name[0] != '.')
			ck_assert_int_eq(unlinkat(dirfd(d), e->d_name, 0), 0);
	closedir(d);
	ck_assert_int_eq(rmdir(dir), 0);
	ck_assert_uint_eq(count_fds(), fds_before);
}

static struct st_data_cfg cfg_of(const char *train, const char *format, size_t seq, size_t vocab)
{
	return (struct st_data_cfg){ .train = train,
				     .held_out = ST_DATA_HELD_OUT_DEFAULT,
				     .format = format,
				     .seq = seq,
				     .vocab = vocab,
				     .seed = 1 };
}

static struct st_data *opened(const struct st_data_cfg *cfg)
{
	struct st_data *d = NULL;
	int rc = st_data_open(&d, cfg);

	ck_assert_msg(rc == 0, "%d: %s", rc, st_last_error());
	return d;
}

static void refused(const struct st_data_cfg *cfg, int rc, const char *part)
{
	struct st_data *d = (void *)&dir;
	int got = st_data_open(&d, cfg);

	ck_assert_msg(got == rc, "code %d, not %d: %s", got, rc, st_last_error());
	ck_assert_msg(strstr(st_last_error(), part), "\"%s\" is not in: %s", part, st_last_error());
	ck_assert_ptr_eq(d, &dir);
}

START_TEST(bytes_are_tokens)
{
	struct st_data_cfg cfg = cfg_of(at("t.txt"), "bytes", 3, 256);
	struct st_data *d;
	int32_t x[3], y[3];

	put("t.txt", "abcdefghi\xff", 10); /* windows abcd, defg, ghi\xff */
	d = opened(&cfg);
	ck_assert_uint_eq(st_data_train_windows(d), 2);
	ck_assert_uint_eq(st_data_val_windows(d), 1);
	ck_assert_int_eq(st_data_val(d, 0, 1, x, y), 0);
	ck_assert(x[0] == 'g' && x[1] == 'h' && x[2] == 'i');
	ck_assert(y[0] == 'h' && y[1] == 'i' && y[2] == 255);
	ck_assert_int_eq(st_data_val(d, 1, 1, x, y), -EINVAL);
	ck_assert_int_eq(st_data_val(d, 1, 0, x, y), 0);
	st_data_close(d);
	cfg.vocab = 255;
	refused(&cfg, STRATA_E_CONFIG,
		"vocab_size 255 is too small: format \"bytes\" needs at least 256");
}
END_TEST

START_TEST(token_formats_are_told_apart)
{
	struct st_data_cfg cfg = cfg_of(at("t.bin"), "bin", 2, 50257);
	static uint16_t v1[512 + 5] = { (uint16_t)20240520u, 20240520u >> 16, 1, 0, 5 };
	static const uint16_t raw[] = { 1, 2, 3, 4, 50256 };
	struct st_data *d;
	int32_t x[2], y[2];

	memcpy(v1 + 512, raw, sizeof(raw));
	for (int way = 0; way < 3; way++) {
		if (way == 0)
			put("t.bin", raw, sizeof(raw));
		else if (way == 1)
			put("t.bin", v1, sizeof(v1));
		else
			put_counting("t.bin", 5, 50252);
		d = opened(&cfg);
		ck_assert_uint_eq(st_data_train_windows(d), 1);
		ck_assert_uint_eq(st_data_val_windows(d), 1);
		ck_assert_int_eq(st_data_val(d, 0, 1, x, y), 0);
		ck_assert_int_eq(y[1], 50256);
		ck_assert_int_eq(x[0], way == 2 ? 50254 : 3);
		ck_assert_int_eq(st_data_train(d, 0, 1, x, y), 0);
		ck_assert_int_eq(x[0], way == 2 ? 50252 : 1);
		st_data_close(d);
		cfg.vocab = 50256;
		refused(&cfg, STRATA_E_INPUT,
			way == 0   ? "token 4 (byte 8) is 50256, beyond the vocabulary of 50256"
			: way == 1 ? "token 4 (byte 1032) is 50256"
				   : "token 4 (byte 1040) is 50256");
		cfg.vocab = 50257;
	}
}
END_TEST

static void refused_bin(const struct st_data_cfg *cfg, const uint32_t *header, size_t size,
			const char *part)
{
	put("t.bin", header, size);
	refused(cfg, STRATA_E_INPUT, part);
	ck_assert_ptr_nonnull(strstr(st_last_error(), "t.bin"));
}

START_TEST(bad_files_are_refused)
{
	struct st_data_cfg cfg = cfg_of(at("t.bin"), "bin", 2, 50257);
	static uint32_t h[300] = { 20240520, 1, 20 };

	refused(&cfg, STRATA_E_INPUT, "t.bin: cannot open: No such file or directory");
	refused_bin(&cfg, h, 0, "the file is empty");
	refused_bin(&cfg, h, 1063, "the file is cut");
	refused_bin(&cfg, h, 1024, "the file is cut");
	refused_bin(&cfg, h, 1023, "end within the header");
	refused_bin(&cfg, h, 4, "end within the header");
	refused_bin(&cfg, h, 1065, "the file is too long");
	refused_bin(&cfg, h + 1, 17, "odd number");
	h[1] = 7;
	refused_bin(&cfg, h, 1064, "byte 4: version 7 of token file 20240520; 1 is known");
	h[0] = 20240801;
	h[1] = 1;
	refused_bin(&cfg, h, 1104, "version 1 of token file 20240801; 7 is known");
	h[1] = 7;
	h[2] = UINT32_MAX;
	refused_bin(&cfg, h, 1104, "number of tokens is negative");
	h[2] = 0;
	refused_bin(&cfg, h, 1024, "holds no tokens");
	h[2] = 20;
	h[256 + 7] = 0x80000001;
	refused_bin(&cfg, h, 1104, "token 7 (byte 1052) is 2147483649");
	h[0] = 20240522;
	refused_bin(&cfg, h, 1104, "an evaluation set");
	cfg.format = "bytes";
	refused_bin(&cfg, h, 0, "the file is empty");
	ck_assert_int_eq(unlink(at("t.bin")), 0);
	ck_assert_int_eq(mkfifo(at("t.bin"), 0644), 0);
	refused(&cfg, STRATA_E_INPUT, "is a pipe");
	cfg.train = dir;
	refused(&cfg, STRATA_E_INPUT, "is a directory");
}
END_TEST

START_TEST(bad_configurations_are_refused)
{
	struct st_data_cfg good = cfg_of(at("t.txt"), "bytes", 3, 256), cfg;
	static const double shares[] = { -0.1, 0.51, NAN, INFINITY };

	put("t.txt", "abcdefghijk", 11);
	for (size_t i = 0; i < ST_ARRAY_LEN(shares); i++) {
		cfg = good;
		cfg.held_out = shares[i];
		refused(&cfg, STRATA_E_CONFIG, "is not in 0 .. 0.5");
	}
	cfg = good;
	cfg.format = "parquet";
	refused(&cfg, STRATA_E_CONFIG, "\"parquet\" is not \"bytes\" or \"bin\"");
	cfg.format = NULL;
	refused(&cfg, STRATA_E_CONFIG, "is not \"bytes\"");
	cfg = good;
	cfg.seq = 0;
	refused(&cfg, STRATA_E_CONFIG, "seq_len");
	cfg = good;
	cfg.vocab = (size_t)INT32_MAX + 1;
	refused(&cfg, STRATA_E_CONFIG, "vocab_size");
	cfg.vocab = 0;
	refused(&cfg, STRATA_E_CONFIG, "vocab_size");
	cfg = good;
	cfg.train = NULL;
	refused(&cfg, STRATA_E_CONFIG, "no training file");
}
END_TEST

START_TEST(too_little_data_says_how_much_is_needed)
{
	struct st_data_cfg cfg = cfg_of(at("t.txt"), "bytes", 5, 256);
	struct st_data *d;

	put("t.txt", "0123456789", 10);
	put("v.txt", "01234", 5);
	refused(&cfg, STRATA_E_INPUT,
		"t.txt: 10 tokens; at least 11 are needed for one training and one "
		"validation window of seq_len 5");
	cfg.val = at("v.txt");
	refused(&cfg, STRATA_E_INPUT,
		"v.txt: 5 tokens; at least 6 are needed for one validation window");
	cfg.seq = 4;
	d = opened(&cfg);
	ck_assert_uint_eq(st_data_train_windows(d), 2);
	ck_assert_uint_eq(st_data_val_windows(d), 1);
	st_data_close(d);
	cfg.seq = 10;
	refused(&cfg, STRATA_E_INPUT,
		"t.txt: 10 tokens; at least 11 are needed for one training window");
	cfg.val = NULL;
	cfg.seq = 5;
	put("t.txt", "0123456789a", 11);
	d = opened(&cfg);
	st_data_close(d);
}
END_TEST

/* Windows of `epoch`, in order; each is checked to be whole. */
static void order_of(struct st_data *d, size_t seq, uint64_t epoch, uint64_t *order)
{
	uint64_t n = st_data_train_windows(d);
	int32_t x[16], y[16];

	for (uint64_t i = 0; i < n; i++) {
		ck_assert_int_eq(st_data_train(d, epoch * n + i, 1, x, y), 0);
		ck_assert_int_eq(x[0] % (int)seq, 0);
		for (size_t k = 0; k < seq; k++)
			ck_assert(x[k] == x[0] + (int)k && y[k] == x[k] + 1);
		order[i] = (uint64_t)x[0] / seq;
		ck_assert_uint_lt(order[i], n);
	}
}

static void each_once(const uint64_t *order, uint64_t n)
{
	bool *seen = calloc(n, sizeof(*seen));

	ck_assert_ptr_nonnull(seen);
	for (uint64_t i = 0; i < n; i++) {
		ck_assert_msg(!seen[order[i]], "window %" PRIu64 " comes twice", order[i]);
		seen[order[i]] = true;
	}
	free(seen);
}

START_TEST(an_epoch_visits_each_window_once)
{
	static const uint32_t counts[] = { 2,  3,  4,  5,  6,   16,   17,  18,
					   63, 64, 65, 66, 257, 1025, 4097 };
	static uint64_t order[5000];

	for (size_t i = 0; i < ST_ARRAY_LEN(counts); i++) {
		struct st_data_cfg cfg = cfg_of(at("t.bin"), "bin", 3, 1 << 20);
		struct st_data *d;

		put_counting("t.bin", counts[i] * 3 + 3, 0); /* 2 tokens more than windows need */
		cfg.held_out = 0;
		d = opened(&cfg);
		ck_assert_uint_eq(st_data_train_windows(d), counts[i] - 1);
		ck_assert_uint_eq(st_data_val_windows(d), 1);
		for (uint64_t epoch = 0; epoch < 3; epoch++) {
			order_of(d, 3, epoch, order);
			each_once(order, counts[i] - 1);
		}
		st_data_close(d);
	}
}
END_TEST

START_TEST(order_depends_on_seed_and_epoch_and_looks_random)
{
	struct st_data_cfg cfg = cfg_of(at("t.bin"), "bin", 1, 1 << 20);
	static uint64_t a[3][1000], count[1000];
	uint64_t same[3] = { 0 }, ascents = 0, n;
	double chi2 = 0;
	int32_t x, y;
	struct st_data *d;

	put_counting("t.bin", 1002, 0);
	cfg.held_out = 0;
	d = opened(&cfg);
	n = st_data_train_windows(d);
	ck_assert_uint_eq(n, 1000);
	order_of(d, 1, 0, a[0]);
	order_of(d, 1, 1, a[1]);
	/* Where window 0 of the order lies over many epochs: each window about as often. */
	for (uint64_t epoch = 0; epoch < 20000; epoch++) {
		ck_assert_int_eq(st_data_train(d, epoch * n, 1, &x, &y), 0);
		count[x]++;
	}
	st_data_close(d);
	cfg.seed = 2;
	d = opened(&cfg);
	order_of(d, 1, 0, a[2]);
	st_data_close(d);
	for (size_t i = 0; i < n; i++) {
		same[0] += a[0][i] == a[1][i];
		same[1] += a[0][i] == a[2][i];
		same[2] += a[0][i] == i;
		ascents += i && a[0][i] > a[0][i - 1];
		chi2 += ((double)count[i] - 20) * ((double)count[i] - 20) / 20;
	}
	for (size_t k = 0; k < 3; k++) /* expected: 1 each */
		ck_assert_uint_lt(same[k], 10);
	ck_assert_msg(ascents > 440 && ascents < 560, "%" PRIu64 " ascents of 999", ascents);
	ck_assert_msg(chi2 > 750 && chi2 < 1250, "chi2 %g for 999 degrees of freedom", chi2);
}
END_TEST

/* The order is what a resumed run relies on: these places were computed by another program. */
START_TEST(order_never_changes)
{
	static const uint64_t want[2][10] = {
		{ 28, 53, 88, 65, 51, 32, 47, 21, 98, 87 },
		{ 86, 65, 77, 11, 83, 97, 85, 46, 39, 20 },
	};
	struct st_data_cfg cfg = cfg_of(at("t.bin"), "bin", 1, 1 << 20);
	static uint64_t got[100];
	struct st_data *d;

	put_counting("t.bin", 102, 0);
	cfg.held_out = 0;
	cfg.seed = 42;
	d = opened(&cfg);
	for (uint64_t epoch = 0; epoch < 2; epoch++) {
		order_of(d, 1, epoch, got);
		for (size_t i = 0; i < 10; i++)
			ck_assert_msg(got[i] == want[epoch][i],
				      "epoch %" PRIu64 " place %zu: %" PRIu64, epoch, i, got[i]);
	}
	st_data_close(d);
}
END_TEST

START_TEST(a_cursor_resumes_exactly)
{
	struct st_data_cfg cfg = cfg_of(at("t.bin"), "bin", 4, 1 << 20);
	static int32_t x[60 * 4], y[60 * 4], p[7 * 4], q[7 * 4];
	struct st_data *d;
	uint64_t n;

	put_counting("t.bin", 90, 0);
	d = opened(&cfg);
	n = st_data_train_windows(d);
	ck_assert_uint_eq(n, 21);
	ck_assert_int_eq(st_data_train(d, 0, 60, x, y), 0); /* almost three epochs at once */
	st_data_close(d);
	for (size_t cursor = 0; cursor + 7 <= 60; cursor++) {
		d = opened(&cfg);
		ck_assert_int_eq(st_data_train(d, cursor, 7, p, q), 0);
		ck_assert(!memcmp(p, x + cursor * 4, sizeof(p)));
		ck_assert(!memcmp(q, y + cursor * 4, sizeof(q)));
		st_data_close(d);
	}
	d = opened(&cfg);
	ck_assert_int_eq(st_data_train(d, UINT64_MAX - 1, 1, p, q), 0);
	ck_assert_int_eq(st_data_train(d, UINT64_MAX, 1, p, q), -EINVAL);
	st_data_close(d);
}
END_TEST

START_TEST(held_out_windows_are_never_trained_on)
{
	struct st_data_cfg cfg = cfg_of(at("t.bin"), "bin", 4, 1 << 20);
	static const struct {
		double share;
		uint64_t n_val;
	} cases[] = { { 0, 1 }, { 0.05, 5 }, { 0.005, 1 }, { 0.255, 25 }, { 0.5, 50 } };
	int32_t x[4], y[4], last = 0;

	put_counting("t.bin", 403, 0); /* 100 windows */
	for (size_t i = 0; i < ST_ARRAY_LEN(cases); i++) {
		struct st_data *d;
		uint64_t n;

		cfg.held_out = cases[i].share;
		d = opened(&cfg);
		n = st_data_train_windows(d);
		ck_assert_uint_eq(st_data_val_windows(d), cases[i].n_val);
		ck_assert_uint_eq(n + cases[i].n_val, 100);
		for (uint64_t k = 0; k < 2 * n; k++) {
			ck_assert_int_eq(st_data_train(d, k, 1, x, y), 0);
			last = y[3] > last || k == 0 ? y[3] : last;
		}
		for (uint64_t k = 0; k < cases[i].n_val; k++) {
			ck_assert_int_eq(st_data_val(d, k, 1, x, y), 0);
			ck_assert_int_eq(x[0], (int)(n + k) * 4);
			ck_assert_int_gt(y[0], last);
		}
		st_data_close(d);
	}
}
END_TEST

START_TEST(a_validation_file_stands_alone)
{
	struct st_data_cfg cfg = cfg_of(at("t.bin"), "bin", 4, 1 << 20);
	struct st_data *d;
	int32_t x[8], y[8];

	put_counting("t.bin", 41, 0);
	put("v.bin", (const uint16_t[]){ 900, 901, 902, 903, 904, 905, 906, 907, 908 }, 18);
	cfg.val = at("v.bin"); /* another width than train's */
	d = opened(&cfg);
	ck_assert_uint_eq(st_data_train_windows(d), 10);
	ck_assert_uint_eq(st_data_val_windows(d), 2);
	ck_assert_int_eq(st_data_val(d, 0, 2, x, y), 0);
	for (int k = 0; k < 8; k++)
		ck_assert(x[k] == 900 + k && y[k] == 901 + k);
	ck_assert_int_eq(st_data_val(d, 1, 2, x, y), -EINVAL);
	st_data_close(d);
	cfg.vocab = 908;
	refused(&cfg, STRATA_E_INPUT, "v.bin: token 8 (byte 16) is 908");
}
END_TEST

START_TEST(fingerprint_is_of_size_and_content)
{
	struct st_data_cfg cfg = cfg_of(at("t.txt"), "bytes", 2, 256);
	static const char *const texts[][2] = {
		{ "abcdefgh", NULL },     { "abcdefgi", NULL },     { "abcdefgh\n", NULL },
		{ "abcdefgh", "abcdef" }, { "abcdefgh", "abcdeg" }, { "abcdefgha", "bcdef" },
		{ "abcdefg", "habcdef" },
	};
	uint64_t seen[ST_ARRAY_LEN(texts)];

	for (size_t i = 0; i < ST_ARRAY_LEN(texts); i++) {
		struct st_data *d;

		put("t.txt", texts[i][0], strlen(texts[i][0]));
		if (texts[i][1])
			put("v.txt", texts[i][1], strlen(texts[i][1]));
		cfg.val = texts[i][1] ? at("v.txt") : NULL;
		d = opened(&cfg);
		seen[i] = st_data_fingerprint(d);
		st_data_close(d);
		for (size_t k = 0; k < i; k++)
			ck_assert_msg(seen[i] != seen[k], "texts %zu and %zu", k, i);
	}
	put("t.txt", texts[0][0], strlen(texts[0][0]));
	cfg.val = NULL;
	cfg.seq = 1;
	cfg.seed = 99; /* of the text alone */
	struct st_data *d = opened(&cfg);

	ck_assert_uint_eq(st_data_fingerprint(d), seen[0]);
	st_data_close(d);
}
END_TEST

START_TEST(a_file_that_changes_under_the_run_is_an_error)
{
	struct st_data_cfg cfg = cfg_of(at("t.bin"), "bin", 4, 1000);
	struct st_data *d;
	int32_t x[4], y[4];
	uint32_t beyond = 1000;
	int fd, failed = 0;

	put_counting("t.bin", 41, 0);
	d = opened(&cfg);
	fd = open(at("t.bin"), O_WRONLY | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pwrite(fd, &beyond, 4, 1024 + 4 * 38), 4); /* in the held-out window */
	ck_assert_int_eq(st_data_val(d, 0, 1, x, y), STRATA_E_INPUT);
	ck_assert_ptr_nonnull(strstr(st_last_error(), "token 38 (byte 1176) is 1000"));
	ck_assert_int_eq(ftruncate(fd, 1024 + 4 * 20), 0);
	close(fd);
	for (uint64_t i = 0; i < 9; i++) {
		int rc = st_data_train(d, i, 1, x, y);

		ck_assert(rc == 0 || rc == STRATA_E_INPUT);
		failed += rc != 0;
	}
	ck_assert_int_eq(failed, 5); /* windows 4 .. 8 need tokens from 20 on */
	ck_assert_ptr_nonnull(strstr(st_last_error(), "became shorter while in use"));
	st_data_close(d);
	/* Replaced by another file: the run goes on with what it opened. */
	put_counting("t.bin", 41, 0);
	d = opened(&cfg);
	put_counting("n.bin", 2, 0);
	ck_assert_int_eq(rename(at("n.bin"), at("t.bin")), 0);
	ck_assert_int_eq(st_data_val(d, 0, 1, x, y), 0);
	st_data_close(d);
}
END_TEST

/* More than one chunk, and larger than what may stay cached: same tokens, same checks at the end.
 */
START_TEST(a_large_file_is_checked_to_the_last_token)
{
	struct st_data_cfg cfg = cfg_of(at("t.bin"), "bin", 1024, 1 << 20);
	const size_t n = (size_t)9 << 20;
	uint16_t *buf = malloc(n * 2);
	static int32_t x[1024], y[1024];
	struct st_data *d;

	ck_assert_ptr_nonnull(buf);
	for (size_t i = 0; i < n; i++)
		buf[i] = (uint16_t)(i * 7 % 50000);
	put("t.bin", buf, n * 2);
	d = opened(&cfg);
	ck_assert_uint_eq(st_data_train_windows(d) + st_data_val_windows(d), (n - 1) / 1024);
	ck_assert_int_eq(st_data_val(d, st_data_val_windows(d) - 1, 1, x, y), 0);
	for (size_t i = 0; i < 1024; i++)
		ck_assert_int_eq(y[i], buf[((n - 1) / 1024 - 1) * 1024 + i + 1]);
	st_data_close(d);
	cfg.vocab = 50001;
	buf[n - 1] = 50001;
	put("t.bin", buf, n * 2);
	refused(&cfg, STRATA_E_INPUT, "token 9437183 (byte 18874366) is 50001");
	free(buf);
}
END_TEST

START_TEST(seeds_are_replayed)
{
	DIR *d = opendir(SEEDS);
	unsigned n = 0;

	ck_assert_ptr_nonnull(d);
	for (const struct dirent *e; (e = readdir(d));) {
		static uint8_t buf[65536];
		char path[512];
		ssize_t got;
		int fd;

		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s", SEEDS, e->d_name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		ck_assert_int_ge(fd, 0);
		got = read(fd, buf, sizeof(buf));
		ck_assert_int_ge(got, 0);
		close(fd);
		ck_assert_int_eq(LLVMFuzzerTestOneInput(buf, (size_t)got), 0);
		n++;
	}
	closedir(d);
	ck_assert_uint_ge(n, 10);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("data");
	TCase *t = tcase_create("data");
	SRunner *r;
	int failed;

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, bytes_are_tokens);
	tcase_add_test(t, token_formats_are_told_apart);
	tcase_add_test(t, bad_files_are_refused);
	tcase_add_test(t, bad_configurations_are_refused);
	tcase_add_test(t, too_little_data_says_how_much_is_needed);
	tcase_add_test(t, an_epoch_visits_each_window_once);
	tcase_add_test(t, order_depends_on_seed_and_epoch_and_looks_random);
	tcase_add_test(t, order_never_changes);
	tcase_add_test(t, a_cursor_resumes_exactly);
	tcase_add_test(t, held_out_windows_are_never_trained_on);
	tcase_add_test(t, a_validation_file_stands_alone);
	tcase_add_test(t, fingerprint_is_of_size_and_content);
	tcase_add_test(t, a_file_that_changes_under_the_run_is_an_error);
	tcase_add_test(t, a_large_file_is_checked_to_the_last_token);
	tcase_add_test(t, seeds_are_replayed);
	suite_add_tcase(suite, t);
	r = srunner_create(suite);
	srunner_set_fork_status(r, CK_NOFORK);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
