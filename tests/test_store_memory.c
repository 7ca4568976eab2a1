/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_store_memory.c - every allocation of the store's life fails once, and from then on.
 * Label: slow
 * Wrap: malloc calloc realloc aligned_alloc strdup strndup asprintf
 *
 * The life: create, write, commit, copy, list, verify, close, open, restore, read only, remove.
 * Whatever fails says so with a code; the last commit is whole, nothing is left on disk or in
 * memory (the sanitizers look for that).
 */
#include "store_util.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdatomic.h>

static atomic_long n_calls, fail_at; /* fail_at: 0 = never */
static atomic_bool fails_on;         /* all from there */

/* The calls of the store and of what lies below it come here (linked with --wrap). */
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t align, size_t n);
char *__real_strdup(const char *s);
char *__real_strndup(const char *s, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t align, size_t n);
char *__wrap_strdup(const char *s);
char *__wrap_strndup(const char *s, size_t n);
int __wrap_asprintf(char **out, const char *fmt, ...) ST_PRINTF(2, 3);

static bool is_refused(void)
{
	long n = atomic_fetch_add(&n_calls, 1) + 1, at = atomic_load(&fail_at);

	if (!at || (n != at && !(atomic_load(&fails_on) && n > at)))
		return false;
	errno = ENOMEM;
	return true;
}

void *__wrap_malloc(size_t n)
{
	return is_refused() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return is_refused() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
	return is_refused() ? NULL : __real_realloc(p, n);
}

void *__wrap_aligned_alloc(size_t align, size_t n)
{
	return is_refused() ? NULL : __real_aligned_alloc(align, n);
}

char *__wrap_strdup(const char *s)
{
	return is_refused() ? NULL : __real_strdup(s);
}

char *__wrap_strndup(const char *s, size_t n)
{
	return is_refused() ? NULL : __real_strndup(s, n);
}

int __wrap_asprintf(char **out, const char *fmt, ...)
{
	va_list args;
	int n;

	if (is_refused()) {
		*out = NULL;
		return -1;
	}
	va_start(args, fmt);
	n = vasprintf(out, fmt, args);
	va_end(args);
	return n;
}

/* ---- the life of a store --------------------------------------------------------------------- */

#define N_SMALL 3u

static const uint64_t small[N_SMALL] = { 4096, 8192, 4096 };
static char dir[2][64];
static struct st_aio_queue *io; /* opened once: aio has tests of its own */

static struct st_store_cfg small_cfg(void)
{
	static const char *const two[2] = { dir[0], dir[1] };

	return (struct st_store_cfg){ .paths = two,
				      .n_paths = 2,
				      .extent_bytes = small,
				      .n_extents = N_SMALL,
				      .extent_names = names,
				      .checksum = true };
}

static int write_version(struct st_store *s, unsigned version)
{
	for (uint32_t e = 0; e < N_SMALL; e++) {
		struct st_aio_req r;
		int rc;

		memset(buf, (int)(version * 16 + e), small[e]);
		rc = st_store_prep_write(s, e, buf, &r);
		if (!rc)
			rc = st_aio_run(io, &r, 1);
		if (rc)
			return rc;
		st_store_write_done(s, e, st_store_checksum(s, e, buf));
	}
	return st_store_commit(s, io, &version, sizeof(version));
}

static int note_json(void *user, const struct st_store_kept_info *info)
{
	snprintf(user, sizeof(json), "%s", info->run_json);
	return info->rc;
}

static int use(struct st_store *s, char *kept)
{
	const struct st_store_verify_cfg verify_cfg = { .queue = io };
	int rc = write_version(s, 1);

	if (!rc)
		rc = st_store_keep(s, NULL, 0);
	if (!rc)
		rc = st_store_kept(json, note_json, kept);
	if (!rc)
		rc = write_version(s, 2);
	return rc ? rc : st_store_verify(s, &verify_cfg, NULL);
}

/* The first path is not where run_json says. No assertion of check's: it allocates. */
static int find_moved(void)
{
	const char *const places[] = { dir[1], dir[0] };
	char gone[sizeof(json)], *at, *now = NULL;
	bool is_right;
	int rc;

	memcpy(gone, json, sizeof(gone));
	at = strstr(gone, "/0/strata-");
	if (!at)
		return 1; /* which is no result of a life */
	at[1] = '9';
	rc = st_store_find(gone, places, ST_ARRAY_LEN(places), &now);
	if (rc)
		return rc;
	is_right = now && !strcmp(now, json);
	free(now);
	rc = st_store_find(json, places, ST_ARRAY_LEN(places), &now);
	return rc ? rc : !is_right || now;
}

static int live(char *kept)
{
	struct st_store_cfg cfg = small_cfg();
	struct st_store *s = NULL;
	int rc = st_store_create(&s, &cfg, json, sizeof(json));

	if (!rc)
		rc = use(s, kept);
	st_store_close(s, false);
	s = NULL;
	if (!rc)
		rc = find_moved();
	if (!rc)
		rc = st_store_open(&s, &cfg, json);
	if (!rc)
		rc = st_store_restore(s, kept);
	st_store_close(s, false);
	s = NULL;
	if (!rc)
		rc = st_store_open_readonly(&s, json);
	st_store_close(s, false);
	if (!rc)
		rc = st_store_remove(kept);
	return rc ? rc : st_store_remove(json);
}

static int remove_kept(void *user, const struct st_store_kept_info *info)
{
	ck_assert_msg(info->rc == 0, "%s", info->text);
	return st_store_remove(info->run_json);
}

/* After a failure: what is there is whole, and can be removed. */
static void expect_whole(int rc)
{
	struct st_store_cfg cfg = small_cfg();
	struct st_store *s = NULL;
	unsigned version = 0;

	if (json[0] && !st_store_open(&s, &cfg, json)) {
		st_store_snapshot(s, &version, sizeof(version));
		ck_assert_uint_le(version, 2);
		for (uint32_t e = 0; version && e < N_SMALL; e++) {
			struct st_aio_req r;

			ck_assert_int_eq(st_store_prep_read(s, e, buf, &r), 0);
			ck_assert_int_eq(st_aio_run(io, &r, 1), 0);
			ck_assert_int_eq(st_store_read_done(s, e, buf), 0);
			ck_assert_int_eq(buf[small[e] - 1], (int)(version * 16 + e));
		}
		st_store_close(s, false);
	} else if (json[0]) {
		/* Only a removal that was half done may have left a store that does not open. */
		ck_assert_int_eq(rc, -ENOMEM);
	}
	if (json[0]) {
		ck_assert_msg(st_store_kept(json, remove_kept, NULL) == 0, "%s", st_last_error());
		ck_assert_msg(st_store_remove(json) == 0, "%s", st_last_error());
	}
	for (unsigned p = 0; p < 2; p++)
		ck_assert_uint_eq(count_entries(dir[p]), 0);
}

struct tally {
	long failed, overcome;
};

static struct tally fail_each(bool is_lasting)
{
	char kept[sizeof(json)];
	struct tally t = { 0 };

	for (long n = 1;; n++) {
		int rc;

		ck_assert_int_lt(n, 2000);
		json[0] = kept[0] = '\0';
		atomic_store(&n_calls, 0);
		atomic_store(&fails_on, is_lasting);
		atomic_store(&fail_at, n);
		rc = live(kept);
		atomic_store(&fail_at, 0);
		ck_assert_msg(rc <= 0, "call %ld: %d", n, rc);
		if (rc) {
			ck_assert_msg(st_last_error()[0] != '\0', "call %ld: no text", n);
			expect_whole(rc);
			t.failed++;
			continue;
		}
		for (unsigned p = 0; p < 2; p++)
			ck_assert_uint_eq(count_entries(dir[p]), 0);
		if (atomic_load(&n_calls) < n)
			return t; /* the life ended before its allocation N */
		t.overcome++;
	}
}

START_TEST(every_allocation_may_fail)
{
	struct tally lasting = fail_each(true), once = fail_each(false);

	fprintf(stderr,
		"%ld allocations fail from then on, %ld once; without the memory of %ld it goes "
		"on\n",
		lasting.failed, once.failed, once.overcome);
	ck_assert_int_gt(once.failed, 100);
	/* What is only looked at to tidy up (an old start's root) or to say, it can do without. */
	ck_assert_int_lt(once.overcome, once.failed / 4);
}
END_TEST

static char top[] = "/dev/shm/strata-test.XXXXXX"; /* no disk to wait for */

static void begin(void)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;

	cfg.backend = "threads";
	for (unsigned p = 0; p < 2; p++) {
		snprintf(dir[p], sizeof(dir[p]), "%s/%u", top, p);
		ck_assert_int_eq(mkdir(dir[p], 0700), 0);
	}
	buf = aligned_alloc(4096, 8192);
	ck_assert_ptr_nonnull(buf);
	ck_assert_int_eq(st_aio_open(&io, &cfg), 0);
}

static void end(void)
{
	st_aio_close(io);
	free(buf);
}

int main(void)
{
	Suite *s = suite_create("store_memory");
	TCase *t = tcase_create("store_memory");
	SRunner *r;
	int failed;

	if (!mkdtemp(top)) {
		fprintf(stderr, "skipped: no directory in /dev/shm\n");
		return 77;
	}
	json_set_alloc_funcs(__wrap_malloc, free);
	tcase_add_checked_fixture(t, begin, end);
	tcase_set_timeout(t, 120);
	tcase_add_test(t, every_allocation_may_fail);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	remove_tree(top);
	return failed ? 1 : 0;
}
