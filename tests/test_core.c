/* SPDX-License-Identifier: Apache-2.0 */
/* tests/test_core.c - status texts, exit codes, dtypes, arenas. */
#include <check.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "core/arena.h"
#include "core/dtype.h"
#include "core/log.h"
#include "core/status.h"

START_TEST(fail_keeps_code_and_text)
{
	ck_assert_int_eq(st_fail(-ENOENT, "data file %s", "x.txt"), -ENOENT);
	ck_assert_str_eq(st_last_error(), "data file x.txt: No such file or directory");
	ck_assert_int_eq(st_fail(-ENOENT, "run: %s", "x.txt: No such file or directory"), -ENOENT);
	ck_assert_str_eq(strata_last_error(), "run: x.txt: No such file or directory");
	ck_assert_int_eq(st_fail(STRATA_E_NO_FIT, "needs %d", 3), STRATA_E_NO_FIT);
	ck_assert_str_eq(st_last_error(), "needs 3");
	ck_assert_int_eq(strata_exit_code(STRATA_E_NO_FIT), 3);
	ck_assert_int_eq(strata_exit_code(-EIO), 4);
	ck_assert_int_eq(strata_exit_code(0), 0);
}
END_TEST

START_TEST(bf16_rounds_to_nearest_even)
{
	ck_assert_uint_eq(st_f32_bf16(1.0f), 0x3f80);
	ck_assert_uint_eq(st_f32_bf16(st_bits_f32(0x3f808000)), 0x3f80);
	ck_assert_uint_eq(st_f32_bf16(st_bits_f32(0x3f818000)), 0x3f82);
	ck_assert_uint_eq(st_f32_bf16(st_bits_f32(0x3f808001)), 0x3f81);
	ck_assert_uint_eq(st_f32_bf16(st_bits_f32(0x7fffffff)), 0x7fc0);
	ck_assert_uint_eq(st_f32_bf16(st_bits_f32(0xff800001)), 0xffc0);
	ck_assert_uint_eq(st_f32_bf16(INFINITY), 0x7f80);
}
END_TEST

START_TEST(arena_is_zero_and_aligned)
{
	struct st_arena a;
	size_t n_set = 0;

	ck_assert_int_eq(st_arena_init(&a, 3000001, "test"), 0);
	ck_assert_uint_eq(a.bytes, 3002368);
	ck_assert_uint_eq((uintptr_t)a.base % ((size_t)2 << 20), 0);
	for (size_t i = 0; i < a.bytes; i++)
		n_set += a.base[i] != 0;
	ck_assert_uint_eq(n_set, 0);
	st_arena_fini(&a);
	ck_assert_int_eq(st_arena_init(&a, 0, "empty"), 0);
	st_arena_fini(&a);
	ck_assert_int_eq(st_arena_init(&a, SIZE_MAX - 5, "absurd"), -ENOMEM);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("core");
	TCase *t = tcase_create("core");
	SRunner *r;
	int failed;

	tcase_add_test(t, fail_keeps_code_and_text);
	tcase_add_test(t, bf16_rounds_to_nearest_even);
	tcase_add_test(t, arena_is_zero_and_aligned);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
