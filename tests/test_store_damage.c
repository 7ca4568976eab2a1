/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_store_damage.c - what a disk may give back: flipped, swapped, stale, cut and foreign
 * bytes, in extents, tables, roots, superblocks and names. Each is noticed, or does no harm.
 */
#include "store_util.h"

static char file[2][300], keep[2][310];

static void note_files(unsigned n)
{
	for (unsigned p = 0; p < n; p++) {
		data_path(p, file[p], sizeof(file[p]));
		snprintf(keep[p], sizeof(keep[p]), "%s/keep%u", base, p);
	}
}

static void back_up(unsigned n)
{
	for (unsigned p = 0; p < n; p++)
		copy_file(file[p], keep[p]);
}

static void put_back(unsigned n)
{
	for (unsigned p = 0; p < n; p++)
		copy_file(keep[p], file[p]);
}

static void move_bytes(const char *path, void *bytes, size_t n, uint64_t off, bool is_write)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(is_write ? pwrite(fd, bytes, n, (off_t)off)
				  : pread(fd, bytes, n, (off_t)off),
			 (ssize_t)n);
	close(fd);
}

/* A store of n generations, closed. */
static void make(unsigned n_paths, unsigned n)
{
	struct st_store *s = create(n_paths, NULL);

	note_files(n_paths);
	for (unsigned v = 1; v <= n; v++) {
		write_all(s, v);
		commit(s, v);
	}
	st_store_close(s, false);
}

static int try_verifying_open(struct st_store **s)
{
	struct st_store_cfg cfg = make_cfg(0);
	int rc;

	cfg.verifies_on_open = true;
	warning[0] = '\0';
	st_log_set(keep_warning, NULL, ST_LOG_WARN);
	rc = st_store_open(s, &cfg, json);
	st_log_set(NULL, NULL, ST_LOG_WARN);
	return rc;
}

/* Both ways of noticing that extent e, and no other, is not what was written. */
static void expect_only_bad(uint32_t e)
{
	struct st_store *s = open_readonly(json);
	struct seen_bad seen = { 0 };
	struct st_store_verified v;

	for (uint32_t i = 0; i < N_EXTENTS; i++)
		ck_assert_int_eq(read_extent(s, i), i == e ? STRATA_E_CORRUPT : 0);
	ck_assert_int_eq(verify(s, &seen, &v), STRATA_E_CORRUPT);
	ck_assert_uint_eq(seen.n, 1);
	ck_assert_uint_eq(seen.last.extent, e);
	ck_assert_ptr_nonnull(strstr(seen.text, names[e]));
	ck_assert_ptr_nonnull(strstr(seen.text, seen.last.path));
	st_store_close(s, false);
}

START_TEST(swapped_and_stale_extents_are_noticed)
{
	struct st_store *s = create(1, NULL);
	char a[4096], b[4096];
	uint64_t at[2];

	note_files(1);
	write_all(s, 1);
	commit(s, 1);
	move_bytes(file[0], a, sizeof(a), st_store_where(s, 0, 0), false); /* version 1 */
	for (unsigned v = 2; v <= 3; v++) {
		write_all(s, v);
		commit(s, v);
	}
	at[0] = st_store_where(s, 0, 0); /* live again since generation 3 */
	at[1] = st_store_where(s, 6, 0);
	st_store_close(s, false);
	ck_assert_uint_eq(sizes[0], sizes[6]);
	back_up(1);
	/* What the same place held two generations ago, as after a write that never arrived. */
	move_bytes(file[0], a, sizeof(a), at[0], true);
	expect_only_bad(0);
	/* Two extents that have changed places. */
	put_back(1);
	move_bytes(file[0], a, sizeof(a), at[0], false);
	move_bytes(file[0], b, sizeof(b), at[1], false);
	move_bytes(file[0], b, sizeof(b), at[0], true);
	expect_only_bad(0);
	move_bytes(file[0], a, sizeof(a), at[1], true);
	move_bytes(file[0], a, sizeof(a), at[0], true);
	expect_only_bad(6);
	/* Half of a write. */
	put_back(1);
	memset(b, 0, sizeof(b));
	move_bytes(file[0], b, 512, at[0] + 2048, true);
	expect_only_bad(0);
	ck_assert_int_eq(st_store_remove(json), 0);
}
END_TEST

/* One flipped bit in each tile of a larger extent map, on two paths, in turn. */
START_TEST(every_block_of_every_extent_counts)
{
	struct st_store *s;
	struct seen_bad seen = { 0 };
	struct st_store_verified v;

	make(2, 1);
	s = open_readonly(json);
	for (uint32_t e = 0; e < N_EXTENTS; e++) {
		const char *path = s->files[s->extents[e].path].path;

		/* a bit in every 4 KiB block of the small ones, in some of the large */
		for (uint64_t at = 0; at<sizes[e]; at += sizes[e]> 65536 ? 409600 : 4096) {
			uint64_t off = st_store_where(s, e, 0) + at + (at / 7 + e) % 4096;

			flip(path, off, (int)(at / 4096 % 8));
			ck_assert_int_eq(read_extent(s, e), STRATA_E_CORRUPT);
			flip(path, off, (int)(at / 4096 % 8));
			ck_assert_int_eq(read_extent(s, e), 0);
		}
	}
	ck_assert_int_eq(verify(s, &seen, &v), 0);
	st_store_close(s, false);
	ck_assert_int_eq(st_store_remove(json), 0);
}
END_TEST

START_TEST(no_bit_of_a_root_or_superblock_may_change)
{
	struct st_store *s = create(2, NULL);
	struct st_store_root *r = aligned_alloc(4096, sizeof(*r));
	struct st_store_super *b = aligned_alloc(4096, sizeof(*b));

	ck_assert(r && b);
	note_files(2);
	commit(s, 1);
	st_store_close(s, false);
	move_bytes(file[0], r, sizeof(*r), ST_STORE_ROOT_B, false);
	move_bytes(file[0], b, sizeof(*b), ST_STORE_SUPER_B, false);
	ck_assert(st_store_root_is_valid(r) && st_store_super_is_valid(b));
	for (size_t i = 0; i < 8 * sizeof(*r); i++) {
		((unsigned char *)r)[i / 8] ^= (unsigned char)(1u << i % 8);
		((unsigned char *)b)[i / 8] ^= (unsigned char)(1u << i % 8);
		ck_assert_msg(!st_store_root_is_valid(r), "bit %zu of a root", i);
		ck_assert_msg(!st_store_super_is_valid(b), "bit %zu of a superblock", i);
		((unsigned char *)r)[i / 8] ^= (unsigned char)(1u << i % 8);
		((unsigned char *)b)[i / 8] ^= (unsigned char)(1u << i % 8);
	}
	/* Right checksum, wrong content: nothing outside its bounds is believed. */
	r->area[1] = 2;
	r->self_hash = st_store_root_hash(r);
	ck_assert(!st_store_root_is_valid(r));
	r->area[1] = 0;
	r->n_paths = ST_STORE_PATHS_MAX + 1;
	r->self_hash = st_store_root_hash(r);
	ck_assert(!st_store_root_is_valid(r));
	r->n_paths = 2;
	r->snapshot_bytes = ST_STORE_SNAPSHOT_MAX + 1;
	r->self_hash = st_store_root_hash(r);
	ck_assert(!st_store_root_is_valid(r));
	free(r);
	free(b);
	ck_assert_int_eq(st_store_remove(json), 0);
}
END_TEST

/* The newest root lost on all paths, wherever it is hit: back to the one before, and said. */
START_TEST(a_lost_root_costs_one_step)
{
	static const unsigned at[] = { 0, 9, 20, 40, 70, 120, 400, 2100, 4095 };

	make(2, 2);
	back_up(2);
	for (size_t i = 0; i < ST_ARRAY_LEN(at); i++) {
		struct st_store *s = NULL;

		put_back(2);
		for (unsigned p = 0; p < 2; p++) /* generation 2 lies in slot A */
			flip(file[p], ST_STORE_ROOT_A + at[i], (int)(i % 8));
		warning[0] = '\0';
		st_log_set(keep_warning, NULL, ST_LOG_WARN);
		s = reopen();
		st_log_set(NULL, NULL, ST_LOG_WARN);
		ck_assert_msg(strstr(warning, "going on from generation 1") != NULL, "%s", warning);
		expect_all(s, 1);
		st_store_close(s, false);
		s = reopen(); /* said once, and settled */
		expect_all(s, 1);
		write_all(s, 3);
		commit(s, 3);
		st_store_close(s, false);
		s = reopen();
		ck_assert_uint_eq(st_store_generation(s), 2);
		expect_all(s, 3);
		st_store_close(s, false);
	}
	ck_assert_int_eq(st_store_remove(json), 0);
}
END_TEST

/* The step after the lost one had begun to write over the data of the one before: no way back. */
START_TEST(an_older_root_without_its_data_is_not_adopted)
{
	struct st_store *s = create(2, NULL), *none = NULL;

	note_files(2);
	for (unsigned v = 1; v <= 2; v++) {
		write_all(s, v);
		commit(s, v);
	}
	write_extent(s, 3, 3); /* over version 1 */
	st_store_close(s, false);
	for (unsigned p = 0; p < 2; p++)
		flip(file[p], ST_STORE_ROOT_A, 0);
	ck_assert_int_eq(try_open(&none), STRATA_E_CORRUPT);
	ck_assert_msg(strstr(st_last_error(), "h.2") != NULL, "%s", st_last_error());
	for (unsigned p = 0; p < 2; p++)
		flip(file[p], ST_STORE_ROOT_A, 0);
	s = reopen(); /* a failed open wrote nothing */
	expect_all(s, 2);
	st_store_close(s, true);
}
END_TEST

/* Roots of other generations and stores where the newest one should be. */
START_TEST(older_and_foreign_roots_are_never_mixed)
{
	char old[2][4096], foreign[4096], first[4096];
	struct st_store *s;

	make(1, 1); /* another store */
	move_bytes(file[0], foreign, 4096, ST_STORE_ROOT_B, false);
	ck_assert_int_eq(st_store_remove(json), 0);
	s = create(2, NULL);
	note_files(2);
	snprintf(first, sizeof(first), "%s", json);
	for (unsigned v = 1; v <= 4; v++) {
		write_all(s, v);
		commit(s, v);
		if (v <= 2)
			move_bytes(file[0], old[v % 2], 4096,
				   v % 2 ? ST_STORE_ROOT_B : ST_STORE_ROOT_A, false);
	}
	st_store_close(s, false);
	back_up(2);
	/* An older root on one path: the other path knows better. */
	move_bytes(file[0], old[0], 4096, ST_STORE_ROOT_A, true);
	s = reopen();
	ck_assert_uint_eq(st_store_generation(s), 4);
	expect_all(s, 4);
	st_store_close(s, false);
	/* On both: generation 3 is the newest there is, and it is whole. */
	put_back(2);
	for (unsigned p = 0; p < 2; p++)
		move_bytes(file[p], old[0], 4096, ST_STORE_ROOT_A, true);
	s = reopen();
	ck_assert_uint_eq(st_store_generation(s), 3);
	expect_all(s, 3);
	st_store_close(s, false);
	/* Nothing but roots of long ago: their tables are gone, and that is noticed. */
	put_back(2);
	for (unsigned p = 0; p < 2; p++) {
		move_bytes(file[p], old[0], 4096, ST_STORE_ROOT_A, true);
		move_bytes(file[p], old[1], 4096, ST_STORE_ROOT_B, true);
	}
	expect_open_fails(STRATA_E_CORRUPT, "tables");
	/* A foreign one counts as damage. */
	put_back(2);
	for (unsigned p = 0; p < 2; p++)
		move_bytes(file[p], foreign, 4096, ST_STORE_ROOT_A, true);
	s = reopen();
	ck_assert_uint_eq(st_store_generation(s), 3);
	expect_all(s, 3);
	st_store_close(s, true);
}
END_TEST

/* All paths from one older backup: a whole state, and the store goes on from there. */
START_TEST(an_older_backup_of_all_paths_is_a_state)
{
	struct st_store *s = NULL;

	make(2, 2);
	back_up(2);
	s = reopen();
	for (unsigned v = 3; v <= 5; v++) {
		write_all(s, v);
		commit(s, v);
	}
	st_store_close(s, false);
	put_back(2);
	s = reopen();
	ck_assert_uint_eq(st_store_generation(s), 2);
	expect_all(s, 2);
	write_all(s, 3);
	commit(s, 3);
	st_store_close(s, false);
	s = reopen();
	expect_all(s, 3);
	st_store_close(s, true);
}
END_TEST

/* A table whose checksum is right, made by somebody: slots that do not exist are not followed. */
START_TEST(forged_tables_are_refused)
{
	struct st_store_root *r = aligned_alloc(4096, sizeof(*r));
	struct st_store *s = create(1, NULL);
	struct st_store_entry *t = aligned_alloc(4096, 4096);
	uint64_t table_off, table_bytes;

	ck_assert(r && t);
	note_files(1);
	write_all(s, 1);
	commit(s, 1);
	table_off = st_store_table_off(s, s->files[0].area);
	table_bytes = s->files[0].table_bytes;
	ck_assert_uint_eq(table_bytes, 4096);
	memcpy(r, s->root, sizeof(*r));
	move_bytes(file[0], t, 4096, table_off, false);
	t[3].slot = 77;
	r->table_hash[0] = st_store_table_hash(s, 0, t);
	r->self_hash = st_store_root_hash(r);
	st_store_close(s, false);
	move_bytes(file[0], t, 4096, table_off, true);
	move_bytes(file[0], r, 4096, ST_STORE_ROOT_B, true);
	s = reopen(); /* generation 0 is left: nothing is live */
	ck_assert_uint_eq(st_store_generation(s), 0);
	st_store_close(s, true);
	free(r);
	free(t);
}
END_TEST

START_TEST(a_file_cut_anywhere_is_refused)
{
	struct st_store *s = NULL;
	struct stat st;

	make(1, 1);
	ck_assert_int_eq(stat(file[0], &st), 0);
	for (off_t size = st.st_size - 4096; size >= 0; size -= 4096) {
		ck_assert_int_eq(truncate(file[0], size), 0);
		ck_assert_int_eq(st_store_open_readonly(&s, json), STRATA_E_CORRUPT);
		ck_assert_ptr_nonnull(strstr(st_last_error(), file[0]));
		ck_assert_msg(strstr(st_last_error(), size ? "truncated" : "superblock") != NULL,
			      "%lld: %s", (long long)size, st_last_error());
	}
	expect_open_fails(STRATA_E_CORRUPT, "superblock");
	ck_assert_int_eq(st_store_remove(json), 0);
}
END_TEST

START_TEST(names_are_repaired_from_another_path)
{
	struct st_store *s;
	uint64_t off = st_store_names_off(N_EXTENTS);

	make(2, 1);
	for (unsigned p = 0; p < 2; p++) {
		flip(file[p], off + 20, 1);
		s = open_readonly(json); /* the other path's serve */
		ck_assert_str_eq(st_store_extent_name(s, 1), names[1]);
		st_store_close(s, false);
		st_store_close(reopen(), false); /* repairs */
	}
	flip(file[0], off + 20, 1);
	flip(file[1], off + 20, 1);
	ck_assert_int_eq(st_store_open_readonly(&s, json), STRATA_E_CORRUPT);
	ck_assert_ptr_nonnull(strstr(st_last_error(), "--resume"));
	st_store_close(reopen(), false); /* whoever knows the model makes them anew */
	s = open_readonly(json);
	ck_assert_str_eq(st_store_extent_name(s, 1), names[1]);
	expect_all(s, 1);
	st_store_close(s, false);
	ck_assert_int_eq(st_store_remove(json), 0);
}
END_TEST

START_TEST(open_verifies_all_when_asked)
{
	struct st_store *s = create(2, NULL);
	uint64_t at[2];
	unsigned p, other;

	note_files(2);
	write_all(s, 1);
	commit(s, 1);
	write_extent(s, 1, 2); /* of generation 2, the rest of generation 1 */
	commit(s, 2);
	at[0] = st_store_where(s, 1, 1);
	at[1] = st_store_where(s, 5, 0);
	p = s->extents[1].path;
	other = s->extents[5].path;
	st_store_close(s, false);
	ck_assert_int_eq(try_verifying_open(&s), 0);
	st_store_close(s, false);
	back_up(2);
	/* What generation 2 wrote is damaged: generation 1 is whole, and is said. */
	flip(file[p], at[0] + 17, 2);
	ck_assert_int_eq(try_open(&s), 0); /* only a read would see it */
	ck_assert_int_eq(read_extent(s, 1), STRATA_E_CORRUPT);
	st_store_close(s, false);
	ck_assert_int_eq(try_verifying_open(&s), 0);
	ck_assert_uint_eq(st_store_generation(s), 1);
	expect_all(s, 1);
	ck_assert_msg(strstr(warning, "generation 2 is damaged, going on from generation 1") !=
			      NULL,
		      "%s", warning);
	st_store_close(s, false);
	st_store_close(reopen(), false);
	/* What both name is damaged: no way. */
	put_back(2);
	flip(file[other], at[1] + 17, 2);
	ck_assert_int_eq(try_verifying_open(&s), STRATA_E_CORRUPT);
	ck_assert_msg(strstr(st_last_error(), "ln_f") != NULL, "%s", st_last_error());
	flip(file[other], at[1] + 17, 2);
	s = reopen();
	ck_assert_uint_eq(st_store_generation(s), 2);
	st_store_close(s, true);
}
END_TEST

/* A copy is as suspicious as its store; and what is damaged is not copied. */
START_TEST(copies_notice_damage_as_well)
{
	struct st_store *s = create(2, NULL), *r;
	struct kept k;

	note_files(2);
	write_all(s, 1);
	commit(s, 1);
	ck_assert_int_eq(st_store_keep(s, NULL, 0), 0);
	list_kept(&k);
	ck_assert_uint_eq(k.n, 1);
	/* Damage in the copy: restore names it, and leaves the store where it was. */
	r = open_readonly(k.json[0]);
	flip(r->files[r->extents[4].path].path, st_store_where(r, 4, 0) + 5, 0);
	ck_assert_int_eq(read_extent(r, 4), STRATA_E_CORRUPT);
	st_store_close(r, false);
	write_all(s, 2);
	commit(s, 2);
	ck_assert_int_eq(st_store_restore(s, k.json[0]), STRATA_E_CORRUPT);
	ck_assert_ptr_nonnull(strstr(st_last_error(), "h.3"));
	ck_assert_int_eq(st_store_commit(s, q, NULL, 0), STRATA_E_CORRUPT); /* half restored */
	st_store_close(s, false);
	s = reopen();
	expect_all(s, 2);
	/* Damage in the store: no copy of it, and none is left behind. */
	flip(s->files[s->extents[2].path].path, st_store_where(s, 2, 1), 0);
	ck_assert_int_eq(st_store_keep(s, NULL, 0), STRATA_E_CORRUPT);
	ck_assert_ptr_nonnull(strstr(st_last_error(), "h.1"));
	for (unsigned p = 0; p < 2; p++)
		ck_assert_uint_eq(count_entries(dirs[p]), 2);
	/* A copy without its root on any path, and one that lacks a path, are told as such. */
	st_store_close(s, false);
	s = create(2, NULL);
	ck_assert_int_eq(st_store_restore(s, k.json[0]), STRATA_E_STALE); /* of another store */
	st_store_close(s, true);
	ck_assert_int_eq(st_store_remove(k.json[0]), 0);
}
END_TEST

START_TEST(a_copy_in_part_is_listed_as_such)
{
	struct st_store *s = create(2, NULL), *r;
	struct kept k;
	char path[300];

	write_all(s, 1);
	commit(s, 1);
	ck_assert_int_eq(st_store_keep(s, NULL, 0), 0);
	list_kept(&k);
	r = open_readonly(k.json[0]);
	snprintf(path, sizeof(path), "%s", r->files[1].path);
	st_store_close(r, false);
	ck_assert_int_eq(truncate(path, 3 << 20), 0);
	list_kept(&k);
	ck_assert_uint_eq(k.n, 1);
	ck_assert_int_eq(k.info[0].rc, STRATA_E_INPUT); /* that part is not one any more */
	ck_assert_int_eq(st_store_open_readonly(&r, k.json[0]), STRATA_E_CORRUPT);
	ck_assert_int_eq(st_store_remove(k.json[0]), 0);
	ck_assert_uint_eq(count_entries(dirs[0]), 1);
	ck_assert_uint_eq(count_entries(dirs[1]), 2); /* what nobody can tell is left alone */
	st_store_close(s, true);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("store_damage");
	TCase *t = tcase_create("store_damage");
	SRunner *r;
	int failed;

	store_in_memory = true;
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 60);
	tcase_add_test(t, swapped_and_stale_extents_are_noticed);
	tcase_add_test(t, every_block_of_every_extent_counts);
	tcase_add_test(t, no_bit_of_a_root_or_superblock_may_change);
	tcase_add_test(t, a_lost_root_costs_one_step);
	tcase_add_test(t, an_older_root_without_its_data_is_not_adopted);
	tcase_add_test(t, older_and_foreign_roots_are_never_mixed);
	tcase_add_test(t, an_older_backup_of_all_paths_is_a_state);
	tcase_add_test(t, forged_tables_are_refused);
	tcase_add_test(t, a_file_cut_anywhere_is_refused);
	tcase_add_test(t, names_are_repaired_from_another_path);
	tcase_add_test(t, open_verifies_all_when_asked);
	tcase_add_test(t, copies_notice_damage_as_well);
	tcase_add_test(t, a_copy_in_part_is_listed_as_such);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
