/* SPDX-License-Identifier: Apache-2.0 */
/* tests/test_program.c - edges, imports, claims and their places, verification, text. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "offload/program.h"

#define PAGE ((uint64_t)4096)

/* ---- small programs by hand ----------------------------------------------------------------- */

static struct st_builder *begin(uint32_t n_resources)
{
	struct st_builder *b = NULL;

	ck_assert_int_eq(st_builder_create(&b, "test", n_resources), 0);
	return b;
}

static uint32_t op(struct st_builder *b, enum st_op_kind kind)
{
	return st_builder_op(b, kind, ST_NONE, ST_NONE, ST_NONE, ST_NONE);
}

/* All claims in one pool of the device arena, at base. */
static int seal_in(struct st_builder *b, uint64_t bytes, struct st_program **out)
{
	struct st_pool_place places[ST_POOL_N] = { 0 };
	enum st_pool failed = ST_POOL_N;
	int rc;

	places[ST_POOL_PARAM] = (struct st_pool_place){ ST_ARENA_HOST, 16 * PAGE, bytes };
	rc = st_builder_seal(b, bytes ? places : NULL, out, &failed);
	st_builder_destroy(b);
	if (rc)
		ck_assert_uint_eq(failed, ST_POOL_PARAM);
	return rc;
}

static struct st_program *seal(struct st_builder *b, uint64_t bytes)
{
	struct st_program *p = NULL;

	ck_assert_int_eq(seal_in(b, bytes, &p), 0);
	ck_assert_msg(st_program_verify(p) == 0, "%s", st_last_error());
	return p;
}

static void ck_list(const uint32_t *list, uint32_t n, const uint32_t *expect, uint32_t n_expect)
{
	ck_assert_uint_eq(n, n_expect);
	for (uint32_t i = 0; i < n; i++)
		ck_assert_uint_eq(list[i], expect[i]);
}

#define CK_DEPS(p, i, ...)                                                                         \
	do {                                                                                       \
		const uint32_t e_[] = { 0, ##__VA_ARGS__ };                                        \
		ck_list((p)->deps + (p)->ops[i].first_dep, (p)->ops[i].n_deps, e_ + 1,             \
			ST_ARRAY_LEN(e_) - 1);                                                     \
	} while (0)
#define CK_IMPORTS(p, i, ...)                                                                      \
	do {                                                                                       \
		const uint32_t e_[] = { 0, ##__VA_ARGS__ };                                        \
		ck_list((p)->imports + (p)->ops[i].first_import, (p)->ops[i].n_imports, e_ + 1,    \
			ST_ARRAY_LEN(e_) - 1);                                                     \
	} while (0)

/* ---- edges ---------------------------------------------------------------------------------- */

START_TEST(edges_follow_from_ranges_of_a_claim)
{
	struct st_builder *b = begin(0);
	uint32_t c = st_builder_claim(b, ST_POOL_PARAM, 4 * PAGE);
	struct st_program *p;

	op(b, ST_OP_READ_PARAM); /* 0 writes the first half */
	st_builder_use(b, ST_ROLE_PARAM0, c, 0, 2 * PAGE, true);
	op(b, ST_OP_READ_PARAM); /* 1 writes the second half: no edge */
	st_builder_use(b, ST_ROLE_PARAM0, c, 2 * PAGE, 2 * PAGE, true);
	op(b, ST_OP_FORWARD); /* 2 reads across: after both (read after write) */
	st_builder_use(b, ST_ROLE_PARAM0, c, PAGE, 2 * PAGE, false);
	op(b, ST_OP_FORWARD); /* 3 reads the first half beside 2 */
	st_builder_use(b, ST_ROLE_PARAM0, c, 0, 2 * PAGE, false);
	op(b, ST_OP_UPDATE); /* 4 writes [1, 2): after the readers, and after the writer (write
				after) */
	st_builder_use(b, ST_ROLE_PARAM0, c, PAGE, PAGE, true);
	op(b, ST_OP_UPDATE); /* 5 writes [0, 1): 2 and 4 lie beside it */
	st_builder_use(b, ST_ROLE_PARAM0, c, 0, PAGE, true);
	op(b, ST_OP_WRITE_PARAM); /* 6 reads all: 2 and 3 are readers too */
	st_builder_use(b, ST_ROLE_PARAM0, c, 0, 4 * PAGE, false);
	p = seal(b, 4 * PAGE);
	CK_DEPS(p, 0);
	CK_DEPS(p, 1);
	CK_DEPS(p, 2, 0, 1);
	CK_DEPS(p, 3, 0);
	CK_DEPS(p, 4, 0, 2, 3);
	CK_DEPS(p, 5, 0, 3);
	CK_DEPS(p, 6, 0, 1, 4, 5);
	ck_list(p->succs.items + p->succs.first[2], p->succs.first[3] - p->succs.first[2],
		(const uint32_t[]){ 4 }, 1);
	ck_assert_uint_eq(p->n_claims, 1);
	ck_assert_uint_eq(p->claims[0].first_op, 0);
	ck_assert_uint_eq(p->claims[0].last_op, 6);
	ck_assert_uint_eq(p->claims[0].n_users, 7);
	ck_assert_uint_eq(p->ops[0].n_claims, 1);
	ck_assert_uint_eq(p->ops[3].n_claims, 0);
	ck_assert_uint_eq(p->ops[3].n_claims_used, 1);
	ck_assert_uint_eq(p->claim_users.first[1], 7);
	st_program_destroy(p);
}
END_TEST

/* A write covers what it overwrites whole: later ones need only its edge. */
START_TEST(a_whole_write_stands_for_what_it_covers)
{
	struct st_builder *b = begin(0);
	uint32_t c = st_builder_claim(b, ST_POOL_PARAM, 2 * PAGE);
	struct st_program *p;

	for (int i = 0; i < 3; i++) {
		op(b, ST_OP_FORWARD);
		st_builder_use(b, ST_ROLE_X, c, 0, 2 * PAGE, i == 0);
	}
	op(b, ST_OP_BACKWARD); /* 3 */
	st_builder_use(b, ST_ROLE_X, c, 0, 2 * PAGE, true);
	op(b, ST_OP_BACKWARD); /* 4 */
	st_builder_use(b, ST_ROLE_X, c, 0, PAGE, false);
	st_builder_use(b, ST_ROLE_Y, c, PAGE, PAGE,
		       true); /* two uses of one operation: no edge to itself */
	st_builder_after(b, 0);
	p = seal(b, 2 * PAGE);
	CK_DEPS(p, 3, 0, 1, 2);
	CK_DEPS(p, 4, 0, 3);
	ck_assert_uint_eq(p->claims[0].n_users, 6);
	ck_assert_uint_eq(p->claim_users.first[1], 5);
	st_program_destroy(p);
}
END_TEST

START_TEST(resources_give_edges_and_imports)
{
	struct st_builder *b = begin(3);
	struct st_program *p;

	op(b, ST_OP_READ_PARAM); /* 0 shared */
	st_builder_touch(b, 0, 0, 0, false);
	op(b, ST_OP_READ_PARAM); /* 1 shared beside it: waits for the program before on its own */
	st_builder_touch(b, 0, 0, 0, false);
	op(b, ST_OP_WRITE_PARAM); /* 2 exclusive on a part: through 0 and 1 */
	st_builder_touch(b, 0, 0, 100, true);
	op(b, ST_OP_WRITE_PARAM); /* 3 another part: not behind 2 */
	st_builder_touch(b, 0, 100, 200, true);
	st_builder_touch(b, 2, 0, 0, false);
	st_builder_touch(b, 2, 0, 0, false);
	op(b, ST_OP_COMMIT); /* 4 all of it */
	st_builder_touch(b, 0, 0, 0, true);
	st_builder_touch(b, 2, 0, 0, true);
	op(b, ST_OP_READ_PARAM); /* 5 only behind 4 */
	st_builder_touch(b, 0, 150, 160, false);
	p = seal(b, 0);
	CK_DEPS(p, 1);
	CK_DEPS(p, 2, 0, 1);
	CK_DEPS(p, 3, 0, 1);
	CK_DEPS(p, 4, 0, 1, 2, 3);
	CK_DEPS(p, 5, 4);
	CK_IMPORTS(p, 0, 0);
	CK_IMPORTS(p, 1, 0);
	CK_IMPORTS(p, 2);
	CK_IMPORTS(p, 3, 2);
	CK_IMPORTS(p, 4);
	CK_IMPORTS(p, 5);
	ck_assert_uint_eq(p->touch_count[0], 6);
	ck_assert_uint_eq(p->touch_count[1], 0);
	ck_assert_uint_eq(p->touch_count[2], 2);
	ck_assert_uint_eq(p->n_touches, 9);
	ck_list(p->importers.items + p->importers.first[0], p->importers.first[1],
		(const uint32_t[]){ 0, 1 }, 2);
	st_program_destroy(p);
}
END_TEST

/* ---- claims --------------------------------------------------------------------------------- */

/* A claim of n pages that one operation uses. */
static uint32_t short_claim(struct st_builder *b, uint64_t pages)
{
	uint32_t c = st_builder_claim(b, ST_POOL_PARAM, pages * PAGE);

	op(b, ST_OP_FORWARD);
	st_builder_use(b, ST_ROLE_WORK, c, 0, pages * PAGE, true);
	return c;
}

START_TEST(the_range_used_longest_ago_is_taken)
{
	struct st_builder *b = begin(0);
	struct st_program *p;

	for (int i = 0; i < 7; i++)
		short_claim(b, 1);
	p = seal(b, 3 * PAGE);
	for (uint32_t c = 0; c < 7; c++) /* round and round, not always the lowest */
		ck_assert_uint_eq(p->claims[c].off_bytes, c % 3 * PAGE);
	ck_assert_uint_eq(p->pool_peak[ST_POOL_PARAM], PAGE);
	ck_assert_uint_eq(p->uses[1].addr.arena, ST_ARENA_HOST);
	ck_assert_uint_eq(p->uses[1].addr.off_bytes, 17 * PAGE);
	st_program_destroy(p);
}
END_TEST

START_TEST(live_claims_never_overlap)
{
	struct st_builder *b = begin(0);
	uint32_t a = st_builder_claim(b, ST_POOL_PARAM, 1),
		 c = st_builder_claim(b, ST_POOL_PARAM, 0);
	struct st_program *p;

	op(b, ST_OP_FORWARD);
	st_builder_use(b, ST_ROLE_X, a, 0, 1, true);
	st_builder_use(b, ST_ROLE_Y, c, 0, 0, true); /* empty, and yet a place of its own */
	short_claim(b, 2);
	op(b, ST_OP_BACKWARD);
	st_builder_use(b, ST_ROLE_X, a, 0, 1, false);
	short_claim(b, 3);
	p = seal(b, 4 * PAGE);
	ck_assert_uint_eq(p->claims[a].bytes, PAGE);
	ck_assert_uint_eq(p->claims[c].bytes, PAGE);
	ck_assert_uint_ne(p->claims[a].off_bytes, p->claims[c].off_bytes);
	ck_assert_uint_eq(p->pool_peak[ST_POOL_PARAM], 3 * PAGE);
	st_program_destroy(p);
}
END_TEST

START_TEST(below_the_serial_peak_nothing_fits)
{
	for (uint64_t pages = 1; pages <= 6; pages++) {
		struct st_builder *b = begin(0);
		uint32_t a = st_builder_claim(b, ST_POOL_PARAM, 2 * PAGE);
		struct st_program *p = NULL;
		int rc;

		op(b, ST_OP_FORWARD);
		st_builder_use(b, ST_ROLE_X, a, 0, 2 * PAGE, true);
		short_claim(b, 1);
		short_claim(b, 3);
		op(b, ST_OP_BACKWARD);
		st_builder_use(b, ST_ROLE_X, a, 0, 2 * PAGE, false);
		rc = seal_in(b, pages * PAGE, &p);
		ck_assert_int_eq(rc, pages < 5 ? STRATA_E_NO_FIT : 0);
		if (!rc) {
			ck_assert_uint_eq(p->pool_peak[ST_POOL_PARAM], 5 * PAGE);
			ck_assert_uint_eq(p->place[ST_POOL_PARAM].bytes, pages * PAGE);
		}
		st_program_destroy(p);
	}
}
END_TEST

/* Spread claims can leave no range long enough; then they are packed from the bottom. */
START_TEST(what_fits_a_pool_fits_a_larger_one)
{
	bool has_fit = false;

	for (uint64_t pages = 4; pages <= 16; pages++) {
		struct st_builder *b = begin(0);
		struct st_program *p = NULL;
		uint32_t held[2];
		int rc;

		for (unsigned i = 0; i < 2; i++) {
			held[i] = st_builder_claim(b, ST_POOL_PARAM, PAGE);
			op(b, ST_OP_FORWARD);
			st_builder_use(b, ST_ROLE_X, held[i], 0, PAGE, true);
			short_claim(b, 1);
		}
		short_claim(b, 2);
		op(b, ST_OP_BACKWARD);
		for (unsigned i = 0; i < 2; i++)
			st_builder_use(b, ST_ROLE_X, held[i], 0, PAGE, false);
		rc = seal_in(b, pages * PAGE, &p);
		ck_assert(!has_fit || rc == 0);
		has_fit |= rc == 0;
		if (!rc)
			ck_assert_int_eq(st_program_verify(p), 0);
		st_program_destroy(p);
	}
	ck_assert(has_fit);
}
END_TEST

/* ---- verification --------------------------------------------------------------------------- */

/* Read, compute, write back, twice; the second buffer takes the place of the first. */
static struct st_program *two_rounds(void)
{
	struct st_builder *b = begin(2);

	for (uint32_t i = 0; i < 2; i++) {
		uint32_t c = st_builder_claim(b, ST_POOL_PARAM, 2 * PAGE);

		op(b, ST_OP_READ_PARAM);
		st_builder_use(b, ST_ROLE_PARAM0, c, 0, 2 * PAGE, true);
		st_builder_touch(b, i, 0, 0, false);
		op(b, ST_OP_UPDATE);
		st_builder_use(b, ST_ROLE_PARAM0, c, 0, 2 * PAGE, true);
		st_builder_use_fixed(b, ST_ROLE_STATE, (struct st_addr){ ST_ARENA_DEVICE, 0 }, PAGE,
				     true);
		st_builder_touch(b, 1 - i, 0, 0, i == 0);
		op(b, ST_OP_WRITE_PARAM);
		st_builder_use(b, ST_ROLE_PARAM0, c, 0, 2 * PAGE, false);
		st_builder_touch(b, i, 0, 0, true);
	}
	return seal(b, 4 * PAGE);
}

static void ck_rejected(struct st_program *p, const char *text)
{
	ck_assert_int_eq(st_program_verify(p), -EPROTO);
	ck_assert_msg(strstr(st_last_error(), text), "\"%s\" does not say \"%s\"", st_last_error(),
		      text);
	st_program_destroy(p);
}

/* Forget one edge, in both tables. */
static void forget_edge(struct st_program *p, uint32_t from, uint32_t to)
{
	struct st_op *o = &p->ops[to];
	uint32_t kept = 0, moved = 0;

	for (uint32_t d = 0; d < o->n_deps; d++)
		if (p->deps[o->first_dep + d] != from)
			p->deps[o->first_dep + kept++] = p->deps[o->first_dep + d];
	ck_assert_uint_eq(kept + 1, o->n_deps);
	o->n_deps = kept;
	for (uint32_t i = 0, k = 0; i < p->n_ops; i++) {
		uint32_t end = p->succs.first[i + 1];

		for (; k < end; k++)
			if (i != from || p->succs.items[k] != to)
				p->succs.items[moved++] = p->succs.items[k];
		p->succs.first[i + 1] = moved;
	}
}

START_TEST(a_lost_edge_is_rejected)
{
	struct st_program *p = two_rounds();

	forget_edge(p, 0, 1);
	ck_rejected(p, "operations 0 and 1 use the same memory");
	p = two_rounds();
	forget_edge(p, 4, 5);
	ck_rejected(p, "operations 4 and 5 use the same memory");
	p = two_rounds();
	forget_edge(p, 2, 4); /* only the resource orders these two */
	ck_rejected(p, "use the same");
	p = two_rounds();
	p->ops[1].n_deps = 0; /* in one table only */
	ck_rejected(p, "edges back");
	p = two_rounds();
	p->deps[p->ops[1].first_dep] = 1;
	ck_rejected(p, "operation 1 has an edge to 1, which is not before it");
}
END_TEST

START_TEST(a_moved_claim_is_rejected)
{
	struct st_program *p = two_rounds();

	p->claims[1].off_bytes = PAGE;
	ck_rejected(p, "outside claim 1"); /* its uses no longer lie in it */
	p = two_rounds();
	p->claims[0].last_op = 3;
	p->claims[0].off_bytes = p->claims[1].off_bytes;
	for (uint32_t k = 0; k < 6; k++)
		for (uint32_t u = 0; u < p->ops[k].n_uses; u++)
			if (p->uses[p->ops[k].first_use + u].claim != ST_NO_CLAIM)
				p->uses[p->ops[k].first_use + u].addr.off_bytes =
					16 * PAGE + p->claims[1].off_bytes;
	ck_rejected(p, "claims 0 and 1 of parameters overlap");
	p = two_rounds();
	p->place[ST_POOL_PARAM].bytes = 3 * PAGE;
	ck_rejected(p, "lies outside parameters");
	p = two_rounds();
	p->claims[0].last_op = 1;
	ck_rejected(p, "operation 2 uses claim 0 outside its life");
	p = two_rounds();
	p->claims[1].n_users = 2;
	ck_rejected(p, "claim 1 has 3 users, not 2");
}
END_TEST

START_TEST(a_lost_import_is_rejected)
{
	struct st_program *p = two_rounds();

	CK_IMPORTS(p, 0, 0);
	p->ops[0].n_imports = 0;
	ck_rejected(p, "operation 0 is the first to touch resource 0");
}
END_TEST

/* ---- text ----------------------------------------------------------------------------------- */

START_TEST(a_line_says_what_an_operation_does)
{
	struct st_builder *b = begin(2);
	struct st_program *p;
	uint32_t c, gate;
	char line[256], small[12];

	gate = op(b, ST_OP_GATE);
	c = st_builder_claim(b, ST_POOL_PARAM, 3 * PAGE);
	st_builder_op(b, ST_OP_READ_PARAM, 5, 7, ST_NONE, ST_NONE);
	st_builder_last(b)->bytes = 12288;
	st_builder_use(b, ST_ROLE_PARAM0, c, 0, 3 * PAGE, true);
	st_builder_touch(b, 1, 0, 0, false);
	st_builder_op(b, ST_OP_FORWARD, ST_NONE, ST_NONE, 2, 3);
	st_builder_last(b)->flops = 1.5e9;
	st_builder_last(b)->is_recompute = true;
	st_builder_use(b, ST_ROLE_PARAM0, c, 0, PAGE, false);
	st_builder_after(b, gate);
	p = seal(b, 8 * PAGE);
	st_program_print(p, 1, line, sizeof(line));
	ck_assert_str_eq(line, "    1 nvme-read  read-param   unit 5 tile 7  12288 B"
			       "  claims parameters[0+12288]..2  imports 1");
	st_program_print(p, 2, line, sizeof(line));
	ck_assert_str_eq(line,
			 "    2 compute    forward      stage 2 micro-batch 3 again  1.5e+09 flop"
			 "  after 0,1");
	memset(small, 'x', sizeof(small));
	st_program_print(p, 2, small, sizeof(small) - 1);
	ck_assert_str_eq(small, "    2 comp"); /* cut, ended, and nothing behind it */
	ck_assert_int_eq(small[sizeof(small) - 1], 'x');
	ck_assert_uint_eq(p->lane_bytes[ST_LANE_READ], 12288);
	ck_assert(p->flops == 1.5e9);
	st_program_destroy(p);
}
END_TEST

START_TEST(an_empty_program_is_a_program)
{
	struct st_program *p = seal(begin(0), 0);

	ck_assert_uint_eq(p->n_ops, 0);
	st_program_destroy(p);
	st_program_destroy(NULL);
	st_builder_destroy(NULL);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("program");
	TCase *t = tcase_create("program");
	SRunner *r;
	int failed;

	tcase_add_test(t, edges_follow_from_ranges_of_a_claim);
	tcase_add_test(t, a_whole_write_stands_for_what_it_covers);
	tcase_add_test(t, resources_give_edges_and_imports);
	tcase_add_test(t, the_range_used_longest_ago_is_taken);
	tcase_add_test(t, live_claims_never_overlap);
	tcase_add_test(t, below_the_serial_peak_nothing_fits);
	tcase_add_test(t, what_fits_a_pool_fits_a_larger_one);
	tcase_add_test(t, a_lost_edge_is_rejected);
	tcase_add_test(t, a_moved_claim_is_rejected);
	tcase_add_test(t, a_lost_import_is_rejected);
	tcase_add_test(t, a_line_says_what_an_operation_does);
	tcase_add_test(t, an_empty_program_is_a_program);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
