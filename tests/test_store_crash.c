/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_store_crash.c - the store's own commit and recovery over a disk that crashes.
 * Timeout: 120
 *
 * Each seed is a run on two paths: steps that write some extents or none, every step or every third
 * committed, cut at a random write or flush by a kill or a power loss, then recovery, which may be
 * cut as well, and so on. After each recovery the store must stand at the last generation that was
 * reported durable, or at the one whose commit was going on, with exactly its data and snapshot.
 * A power loss drops, tears and reorders what was not flushed (tests/aio_fakedisk.h).
 *
 * The same must fail when recovery does not write the adopted root again, and when flushes lie.
 * tests/test_store_crash_long.c runs 20,000 seeds.
 */
#include <check.h>
#include <stdio.h>

#include "aio_fakedisk.h"
#include "nvme/store_priv.h"
#include "sanitizer.h"

#define N_FEW  6u
#define N_MANY 400u /* tables of two blocks, of which a commit writes what it must */
#ifndef N_SEEDS
#define N_SEEDS (SANITIZER_HAS_MALLOC ? 300u : 1000u)
#endif
#define N_CONTROL (N_SEEDS > 1000 ? N_SEEDS / 2 : 500u) /* of what must be seen to fail */
#define CRASHES   6
#define MAX_BYTES ((size_t)12288)

/* What came to pass, over all seeds. */
static struct {
	unsigned on_reported, on_tried; /* where recoveries landed */
	unsigned cut_short;             /* recoveries that were cut themselves */
	unsigned kills, losses;         /* of the power */
	unsigned losses_after_kill;     /* with nothing durable in between */
	unsigned in_a_row;              /* crashes without a commit in between */
	unsigned root_only;             /* commits of steps that wrote nothing */
	unsigned verified_on_open;
} seen;

static uint64_t sizes[N_MANY] = { 4096, 8192, 4096, 12288, 4096, 8192 }; /* then 4096 each */

/* What one generation holds: the version of each extent, 0 = never written. */
struct truth {
	uint64_t attempt; /* unique; it is the snapshot */
	uint64_t version[N_MANY];
};

struct sim {
	struct fake_disk disk;
	struct st_store_runner run;
	uint32_t n_extents;
	struct st_store *s;
	uint8_t id[ST_STORE_ID_BYTES];
	uint32_t weights[2];
	bool skips_rewrite, verifies;
	unsigned commit_every;
	bool was_kill, has_committed; /* since the last crash */
	uint64_t next_version, generation;
	struct truth durable, tried; /* of generation, and of the commit that may have happened */
	bool has_tried;
	char text[600]; /* what went wrong */
	char *buf;
};

static void content(char *buf, uint32_t e, uint64_t version)
{
	uint64_t x = version * 0x9e3779b97f4a7c15u + e;

	for (size_t i = 0; i < sizes[e]; i += 8) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		memcpy(buf + i, &x, 8);
	}
}

static void layout(struct sim *m)
{
	struct st_store_cfg cfg = { .extent_bytes = sizes,
				    .n_extents = m->n_extents,
				    .checksum = true,
				    .verifies_on_open = m->verifies };

	ST_ASSERT(st_store_layout(&m->s, &cfg, 2, m->weights, m->id, NULL) == 0);
	for (int p = 0; p < 2; p++) {
		m->s->files[p].fd = p;
		m->s->files[p].path = strdup(p ? "path1" : "path0");
		ST_ASSERT(m->s->files[p].path != NULL);
	}
	m->s->skips_root_rewrite = m->skips_rewrite;
}

/* Some extents, some of them twice. 0, or <0 when the process died. */
static int write_some(struct sim *m, struct truth *t)
{
	unsigned n = (unsigned)fake_draw(&m->disk, N_FEW + 3);

	for (unsigned i = 0; i < n; i++) {
		uint32_t e = (uint32_t)fake_draw(&m->disk, m->n_extents);
		struct st_aio_req r;
		int rc = st_store_prep_write(m->s, e, m->buf, &r);

		ST_ASSERT(rc == 0);
		content(m->buf, e, ++m->next_version);
		rc = fake_run(&m->disk, &r, 1);
		if (rc)
			return rc;
		st_store_write_done(m->s, e, st_store_checksum(m->s, e, m->buf));
		t->version[e] = m->next_version;
	}
	return 0;
}

static int step(struct sim *m)
{
	struct st_aio_req reqs[4];
	struct truth t = m->durable;
	uint64_t before = m->next_version;
	int rc = 0, n;

	for (unsigned i = 0; !rc && i < m->commit_every; i++)
		rc = write_some(m, &t);
	if (rc)
		return rc;
	seen.root_only += m->next_version == before;
	t.attempt = ++m->next_version;
	m->tried = t;
	m->has_tried = true;
	ST_ASSERT(st_store_commit_begin(m->s, &t.attempt, sizeof(t.attempt)) == 0);
	while ((n = st_store_commit_next(m->s, reqs, 4)) > 0) {
		rc = fake_run(&m->disk, reqs, (unsigned)n);
		if (rc)
			return rc;
	}
	ST_ASSERT(n == 0);
	m->durable = t;
	m->generation++;
	m->has_tried = false;
	m->has_committed = true;
	return 0;
}

/* Does the recovered store hold exactly t? */
static bool holds(struct sim *m, const struct truth *t)
{
	uint64_t attempt = 0;

	st_store_snapshot(m->s, &attempt, sizeof(attempt));
	if (attempt != t->attempt) {
		snprintf(m->text, sizeof(m->text), "snapshot is of attempt %llu",
			 (unsigned long long)attempt);
		return false;
	}
	for (uint32_t e = 0; e < m->n_extents; e++) {
		struct st_aio_req r;
		char want[MAX_BYTES];

		if (st_store_is_written(m->s, e) != (t->version[e] != 0)) {
			snprintf(m->text, sizeof(m->text), "extent %u: written or not", e);
			return false;
		}
		if (!t->version[e])
			continue;
		ST_ASSERT(st_store_prep_read(m->s, e, m->buf, &r) == 0);
		ST_ASSERT(fake_run(&m->disk, &r, 1) == 0);
		if (st_store_read_done(m->s, e, m->buf)) {
			snprintf(m->text, sizeof(m->text), "%s", st_last_error());
			return false;
		}
		content(want, e, t->version[e]);
		if (memcmp(want, m->buf, sizes[e])) {
			snprintf(m->text, sizeof(m->text), "extent %u: wrong data, right checksum",
				 e);
			return false;
		}
	}
	return true;
}

/* 1 recovered, 0 died on the way, <0 wrong (text says what). */
static int recover(struct sim *m)
{
	int rc;

	layout(m);
	rc = st_store_recover(m->s, &m->run);
	if (m->disk.is_dead) {
		seen.cut_short++;
		return 0;
	}
	if (rc) {
		snprintf(m->text, sizeof(m->text), "%s", st_last_error());
		return rc;
	}
	m->disk.budget = -1;
	seen.verified_on_open += m->verifies;
	if (st_store_generation(m->s) == m->generation)
		rc = holds(m, &m->durable) ? 1 : -1;
	else if (m->has_tried && st_store_generation(m->s) == m->generation + 1)
		rc = holds(m, &m->tried) ? 1 : -1;
	else
		rc = -1;
	if (rc < 0)
		return rc;
	if (st_store_generation(m->s) > m->generation) {
		m->generation++;
		m->durable = m->tried;
		seen.on_tried++;
	} else {
		seen.on_reported++;
	}
	m->has_tried = false;
	return 1;
}

static void crash(struct sim *m)
{
	st_store_free(m->s);
	m->s = NULL;
	if (fake_draw(&m->disk, 2)) {
		fake_lose_power(&m->disk);
		seen.losses++;
		seen.losses_after_kill += m->was_kill && !m->has_committed;
		m->was_kill = false;
	} else {
		seen.kills++;
		m->was_kill = true;
	}
	seen.in_a_row += !m->has_committed;
	m->has_committed = false;
	m->disk.is_dead = false;
}

/* Whether the seed's run was right; text tells what was not. */
static bool simulate(uint64_t seed, uint32_t n_extents, bool skips_rewrite, bool is_lying,
		     char *text, size_t text_bytes)
{
	struct sim *m = calloc(1, sizeof(*m));
	int rc = 1;

	ST_ASSERT(m != NULL);
	m->buf = aligned_alloc(4096, MAX_BYTES);
	ST_ASSERT(m->buf != NULL);
	m->n_extents = n_extents;
	m->disk.state = seed;
	m->disk.is_lying = is_lying;
	m->disk.budget = -1;
	m->run = (struct st_store_runner){ .run = fake_run, .user = &m->disk };
	m->skips_rewrite = skips_rewrite;
	m->commit_every = seed % 4 ? 1 : 3;
	m->verifies = seed % 3 == 0;
	m->weights[0] = 1 + (uint32_t)(seed % 3);
	m->weights[1] = 1;
	memcpy(m->id, &seed, sizeof(seed));
	layout(m);
	rc = st_store_format(m->s, 0, NULL, 0, &m->run) ? -1 : 1;
	for (int i = 0; i < CRASHES && rc >= 0; i++) {
		if (rc > 0) {
			m->disk.budget = (long)fake_draw(&m->disk, 40);
			while (!step(m))
				;
		}
		crash(m);
		/* One recovery in three is cut itself. */
		m->disk.budget = fake_draw(&m->disk, 3) ? -1 : (long)fake_draw(&m->disk, 5);
		rc = recover(m);
	}
	snprintf(text, text_bytes, "seed %llu, generation %llu: %s", (unsigned long long)seed,
		 (unsigned long long)m->generation, m->text);
	st_store_free(m->s);
	fake_free(&m->disk);
	free(m->buf);
	free(m);
	return rc >= 0;
}

START_TEST(every_crash_lands_on_a_committed_generation)
{
	char text[700];

	for (uint64_t seed = 1; seed <= N_SEEDS; seed++)
		ck_assert_msg(simulate(seed, N_FEW, false, false, text, sizeof(text)), "%s", text);
	fprintf(stderr,
		"%u seeds: %u kills, %u power losses (%u after a kill with no commit between), %u "
		"crashes in a row, %u recoveries cut, %u commits of a root only; %u recoveries on "
		"the reported step, %u on the one in progress, %u verified all extents\n",
		N_SEEDS, seen.kills, seen.losses, seen.losses_after_kill, seen.in_a_row,
		seen.cut_short, seen.root_only, seen.on_reported, seen.on_tried,
		seen.verified_on_open);
	ck_assert_uint_gt(seen.on_reported, N_SEEDS);
	ck_assert_uint_gt(seen.on_tried, N_SEEDS / 10);
	ck_assert_uint_gt(seen.cut_short, N_SEEDS / 10);
	ck_assert_uint_gt(seen.losses_after_kill, N_SEEDS / 10);
	ck_assert_uint_gt(seen.in_a_row, N_SEEDS / 10);
	ck_assert_uint_gt(seen.root_only, N_SEEDS / 10);
	ck_assert_uint_gt(seen.verified_on_open, N_SEEDS / 10);
}
END_TEST

START_TEST(tables_of_several_blocks_survive_as_well)
{
	char text[700];

	for (uint64_t seed = 1; seed <= N_SEEDS / 10; seed++)
		ck_assert_msg(simulate(seed, N_MANY, false, false, text, sizeof(text)), "%s", text);
}
END_TEST

/*
 * A copy, or a new store: data and tables first, its root last. Cut anywhere it is there as a
 * whole, or it has no root.
 */
static bool simulate_format(uint64_t seed, unsigned *n_whole)
{
	struct sim *m = calloc(1, sizeof(*m));
	uint64_t attempt = seed;
	bool is_right = true;
	int rc = 0;

	ST_ASSERT(m != NULL);
	m->buf = aligned_alloc(4096, MAX_BYTES);
	ST_ASSERT(m->buf != NULL);
	m->n_extents = N_FEW;
	m->disk.state = seed;
	m->disk.budget = (long)fake_draw(&m->disk, 25);
	m->run = (struct st_store_runner){ .run = fake_run, .user = &m->disk };
	m->weights[0] = m->weights[1] = m->commit_every = 1;
	memcpy(m->id, &seed, sizeof(seed));
	layout(m);
	m->durable.attempt = attempt;
	for (uint32_t e = 0; !rc && e < N_FEW; e++) {
		struct st_store_extent *x = &m->s->extents[e];
		struct st_aio_req r = st_store_request(m->s, x->path, ST_AIO_WRITE, m->buf,
						       x->bytes, st_store_where(m->s, e, e % 2));

		content(m->buf, e, seed + e);
		m->durable.version[e] = seed + e;
		m->s->files[x->path].table[x->index] = (struct st_store_entry){
			.generation = 7,
			.checksum = st_store_checksum(m->s, e, m->buf),
			.slot = e % 2,
			.has_checksum = 1,
		};
		rc = fake_run(&m->disk, &r, 1);
	}
	if (!rc)
		rc = st_store_format(m->s, 7, &attempt, sizeof(attempt), &m->run);
	crash(m);
	m->disk.budget = -1;
	layout(m);
	if (!st_store_recover(m->s, &m->run)) {
		(*n_whole)++;
		is_right = st_store_generation(m->s) == 7 && holds(m, &m->durable);
	} else {
		is_right = rc != 0; /* what was reported done must be there */
	}
	st_store_free(m->s);
	fake_free(&m->disk);
	free(m->buf);
	free(m);
	return is_right;
}

START_TEST(a_copy_is_whole_or_has_no_root)
{
	unsigned n_whole = 0;

	for (uint64_t seed = 1; seed <= N_SEEDS / 10; seed++)
		ck_assert_msg(simulate_format(seed, &n_whole), "seed %llu",
			      (unsigned long long)seed);
	ck_assert_uint_gt(n_whole, N_SEEDS / 100);
	ck_assert_uint_lt(n_whole, N_SEEDS / 11);
}
END_TEST

static unsigned count_failures(bool skips_rewrite, bool is_lying)
{
	char text[700];
	unsigned n = 0;

	for (uint64_t seed = 1; seed <= N_CONTROL; seed++)
		n += !simulate(seed, N_FEW, skips_rewrite, is_lying, text, sizeof(text));
	return n;
}

START_TEST(leaving_out_the_rewrite_is_seen)
{
	unsigned n = count_failures(true, false);

	fprintf(stderr, "without the rewrite of the adopted root: %u of %u seeds lose data\n", n,
		N_CONTROL);
	ck_assert_uint_gt(n, 0);
}
END_TEST

START_TEST(lying_flushes_are_seen)
{
	unsigned n = count_failures(false, true);

	fprintf(stderr, "with flushes that do nothing: %u of %u seeds lose data\n", n, N_CONTROL);
	ck_assert_uint_gt(n, 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("store_crash");
	TCase *t = tcase_create("store_crash");
	SRunner *r;
	int failed;

	for (uint32_t e = N_FEW; e < N_MANY; e++)
		sizes[e] = 4096;
	tcase_set_timeout(t, 300);
	tcase_add_test(t, every_crash_lands_on_a_committed_generation);
	tcase_add_test(t, tables_of_several_blocks_survive_as_well);
	tcase_add_test(t, a_copy_is_whole_or_has_no_root);
	tcase_add_test(t, leaving_out_the_rewrite_is_seen);
	tcase_add_test(t, lying_flushes_are_seen);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
