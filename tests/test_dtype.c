/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_dtype.c - the conversions of core/dtype.h, bit by bit.
 *
 * fp16 against its definition in double and, where the processor has it, against F16C: all patterns
 * up; down all values, all midpoints between two, their neighbours, and random patterns.
 */
#include <check.h>
#include <fenv.h>
#include <math.h>

#include "core/dtype.h"
#include "core/status.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

static bool has_f16c(void)
{
	static int known = -1; /* CPUID is slow in a virtual machine */
	unsigned a, b, c = 0, d;

	if (known < 0) {
		__builtin_cpu_init();
		known = __builtin_cpu_supports("avx2") && __get_cpuid(1, &a, &b, &c, &d) &&
			(c & bit_F16C);
	}
	return known;
}

__attribute__((target("avx,f16c"))) static float f16c_up(uint16_t h)
{
	return _mm_cvtss_f32(_mm_cvtph_ps(_mm_set1_epi16((short)h)));
}

__attribute__((target("avx,f16c"))) static uint16_t f16c_down(float f)
{
	return (uint16_t)_mm_extract_epi16(_mm_cvtps_ph(_mm_set1_ps(f), 0), 0);
}
#else
static bool has_f16c(void)
{
	return false;
}

static float f16c_up(uint16_t h)
{
	return st_f16_f32(h);
}

static uint16_t f16c_down(float f)
{
	return st_f32_f16(f);
}
#endif

/* ck_assert marks its place with a system call each time: too slow for every pattern. */
#define EXPECT(cond, ...)                                                                          \
	do {                                                                                       \
		if (!(cond))                                                                       \
			ck_abort_msg(__VA_ARGS__);                                                 \
	} while (0)

static bool is_nan16(uint16_t h)
{
	return (h & 0x7fffu) > 0x7c00u;
}

/* What a pattern means, without any bit of fp32. */
static double value16(uint16_t h)
{
	int exp = h >> 10 & 31, mant = h & 1023;
	double v = exp == 31 ? INFINITY : exp ? ldexp(1024 + mant, exp - 25) : ldexp(mant, -24);

	return h & 0x8000 ? -v : v;
}

/* The fp16 nearest to f by the definition: a multiple of the unit of f's binade, at least 2^-24. */
static uint16_t nearest16(float f)
{
	double a = fabs((double)f), unit;
	uint16_t sign = signbit(f) ? 0x8000 : 0;
	int exp;

	if (isnan(f))
		return sign | 0x7e00 | (uint16_t)(st_f32_bits(f) >> 13 & 0x3ff);
	if (a >= 65520)
		return sign | 0x7c00;
	frexp(a, &exp); /* a in [2^(exp-1), 2^exp) */
	exp = a == 0 || exp < -13 ? -13 : exp;
	unit = ldexp(1, exp - 11);
	/* patterns are counted in units: 1024 for each binade above the first two */
	return (uint16_t)(sign | ((exp + 13) * 1024 + (int)nearbyint(a / unit)));
}

static void check_down(float f)
{
	uint16_t got = st_f32_f16(f), want = nearest16(f);

	EXPECT(got == want, "%08x: %04x, not %04x", st_f32_bits(f), got, want);
	if (has_f16c())
		EXPECT(got == f16c_down(f), "%08x: %04x, F16C %04x", st_f32_bits(f), got,
		       f16c_down(f));
}

START_TEST(fp16_up_all_patterns)
{
	for (unsigned i = 0; i < 65536; i++) {
		uint16_t h = (uint16_t)i;
		float f = st_f16_f32(h);

		if (is_nan16(h))
			EXPECT(st_f32_bits(f) ==
				       ((i & 0x8000u) << 16 | 0x7fc00000u | (i & 0x3ffu) << 13),
			       "%04x", i);
		else
			EXPECT((double)f == value16(h) && !signbit(f) == !(h & 0x8000), "%04x", i);
		if (has_f16c())
			EXPECT(st_f32_bits(f) == st_f32_bits(f16c_up(h)), "%04x: F16C", i);
		EXPECT(st_f32_f16(f) == (is_nan16(h) ? (h | 0x200) : h), "%04x: not back", i);
	}
}
END_TEST

START_TEST(fp16_down_all_boundaries)
{
	for (unsigned i = 0; i < 0x8000; i++) { /* up to the largest NaN; also above Inf */
		uint32_t lo = st_f32_bits(st_f16_f32((uint16_t)i));
		uint32_t hi = st_f32_bits(st_f16_f32((uint16_t)(i + 1))) & 0x7fffffffu;
		double mid = ((double)st_bits_f32(lo) + (double)st_bits_f32(hi)) / 2;
		uint32_t at[3] = { lo, hi, isfinite(mid) ? st_f32_bits((float)mid) : 0x477ff000u };

		for (size_t k = 0; k < ST_ARRAY_LEN(at); k++)
			for (uint32_t d = 0; d < 5; d++) {
				check_down(st_bits_f32(at[k] + d - 2));
				check_down(st_bits_f32((at[k] + d - 2) ^ 0x80000000u));
			}
	}
}
END_TEST

START_TEST(fp16_down_random_patterns)
{
	uint64_t z = 1;

	for (int i = 0; i < 2000000; i++) {
		z = z * 6364136223846793005u + 1442695040888963407u;
		check_down(st_bits_f32((uint32_t)(z >> 32)));
		/* and with an exponent that matters */
		check_down(st_bits_f32((uint32_t)(z >> 32 & 0x807fffffu) |
				       (uint32_t)(100 + (z >> 20 & 63)) << 23));
	}
}
END_TEST

START_TEST(fp16_known_values)
{
	static const struct {
		uint32_t f;
		uint16_t h;
	} known[] = {
		{ 0x3f800000, 0x3c00 }, { 0xc0000000, 0xc000 }, /* 1, -2 */
		{ 0x477fe000, 0x7bff }, { 0x477fefff, 0x7bff }, /* 65504, just below 65520 */
		{ 0x477ff000, 0x7c00 }, { 0xff7fffff, 0xfc00 }, /* 65520, -FLT_MAX */
		{ 0x38800000, 0x0400 }, { 0x387fe000, 0x0400 }, /* 2^-14; 2^-14 - 2^-26: even */
		{ 0x33800000, 0x0001 }, { 0x33000000, 0x0000 }, /* 2^-24, 2^-25: a tie */
		{ 0x33000001, 0x0001 }, { 0xb3c00000, 0x8002 }, /* above it; -1.5 2^-24: even */
		{ 0x7f800001, 0x7e00 }, { 0xffffffff, 0xffff }, /* NaN: quiet, payload kept */
		{ 0x00000001, 0x0000 }, { 0x80000000, 0x8000 },
	};

	for (size_t i = 0; i < ST_ARRAY_LEN(known); i++)
		ck_assert_uint_eq(st_f32_f16(st_bits_f32(known[i].f)), known[i].h);
}
END_TEST

/* Integer arithmetic: neither the rounding mode nor FTZ and DAZ change a bit. */
START_TEST(fp16_whatever_the_mode)
{
	static const uint32_t f[] = { 0x3f801000, 0x3f803000, 0x3f800fff, 0x477fefff, 0x33000000,
				      0x33000001, 0x37ffffff, 0x00000001, 0x38000000 };

	for (size_t i = 0; i < ST_ARRAY_LEN(f); i++) {
		volatile uint32_t u = f[i];
		uint16_t near = st_f32_f16(st_bits_f32(u)), near2;
		uint32_t up = st_f32_bits(st_f16_f32(near)), up2;
#if defined(__x86_64__)
		unsigned csr = _mm_getcsr();

		_mm_setcsr(csr | 0x8040); /* FTZ, DAZ */
		near2 = st_f32_f16(st_bits_f32(u));
		up2 = st_f32_bits(st_f16_f32(near));
		_mm_setcsr(csr);
		ck_assert_uint_eq(near2, near);
		ck_assert_uint_eq(up2, up);
#endif
		ck_assert_int_eq(fesetround(FE_UPWARD), 0);
		near2 = st_f32_f16(st_bits_f32(u));
		up2 = st_f32_bits(st_f16_f32(near));
		ck_assert_int_eq(fesetround(FE_TONEAREST), 0);
		ck_assert_uint_eq(near2, near);
		ck_assert_uint_eq(up2, up);
	}
}
END_TEST

START_TEST(elements_of_every_dtype)
{
	unsigned char raw[3 * 4 + 1];

	for (enum st_dtype t = ST_F32; t < ST_DTYPE_COUNT; t++) {
		st_elem_set(t, raw + 1, 0, 1.0f); /* not aligned */
		st_elem_set(t, raw + 1, 1, -1.00390625f);
		st_elem_set(t, raw + 1, 2, 1e9f);
		ck_assert(st_elem_f32(t, raw + 1, 0) == 1.0f);
		ck_assert(st_elem_f32(t, raw + 1, 1) == (t == ST_BF16 ? -1.0f : -1.00390625f));
		ck_assert(t == ST_F16 ? isinf(st_elem_f32(t, raw + 1, 2))
				      : fabsf(st_elem_f32(t, raw + 1, 2) / 1e9f - 1) < 4e-3f);
		ck_assert_uint_eq(st_dtype_bytes(t), t == ST_F32 ? 4 : 2);
	}
	ck_assert_str_eq(st_dtype_name(ST_F16), "fp16");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("dtype");
	TCase *t = tcase_create("dtype");
	SRunner *r;
	int failed;

	tcase_set_timeout(t, 50);
	tcase_add_test(t, fp16_up_all_patterns);
	tcase_add_test(t, fp16_down_all_boundaries);
	tcase_add_test(t, fp16_down_random_patterns);
	tcase_add_test(t, fp16_known_values);
	tcase_add_test(t, fp16_whatever_the_mode);
	tcase_add_test(t, elements_of_every_dtype);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
