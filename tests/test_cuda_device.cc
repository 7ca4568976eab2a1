/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_cuda_device.cc - the CUDA device's host side, on the emulation: what opens and what is
 * refused, copies and events, products and their choices, every operation's wiring against the host
 * device, and that nothing inside a step allocates, frees, creates or synchronises.
 */
#include "tests/cuda_emu/emu.h"
#include "tests/cuda_emu/rig.h"

#include <check.h>
#include <math.h>
#include <memory>
#include <string>

#include "tests/ref_device.h"

#define MIB ((size_t)1 << 20)

static uint64_t seed;

static double uniform(void) /* [-1, 1), repeatable */
{
	uint64_t z = seed += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return (double)((z ^ z >> 31) >> 11) / (double)(1ull << 52) - 1;
}

static bool says(const char *what)
{
	return strstr(st_last_error(), what) != nullptr;
}

#define OK(call) ck_assert_msg((call) == 0, "%s: %s", #call, st_last_error())

/* Nothing was reported and nothing is left behind. */
static void clean(void)
{
	int left = emuLeaks();

	for (int i = 0; i < emuReports(); i++)
		ck_abort_msg("reported: %s", emuReportText(i));
	ck_assert_int_eq(left, 0);
}

/* ---- opening -------------------------------------------------------------------------------- */

START_TEST(opens_and_tells_what_it_is)
{
	emuMachine m = EMU_MACHINE;
	struct st_device_cfg cfg = { "cuda", ST_BF16, 3 };
	struct st_device *dev = nullptr, *other = nullptr;

	emuStart(1, m);
	OK(st_cuda_ops.open(&dev, &cfg));
	ck_assert_str_eq(st_device_caps(dev)->name, "cuda (Emulated GPU, sm_80, cuBLASLt 130000)");
	ck_assert(!st_device_caps(dev)->host_visible);
	ck_assert_uint_eq(st_device_caps(dev)->threads, 3);
	cfg.dtype = ST_F32;
	OK(st_cuda_ops.open(&other, &cfg));
	ck_assert_uint_ne(st_device_numeric_id(dev), st_device_numeric_id(other));
	st_device_close(dev);
	st_device_close(other);
	clean();
}
END_TEST

START_TEST(refuses_a_machine_with_a_reason)
{
	static const struct {
		int driver, gpus, major, minor;
		bool has_lt;
		const char *why;
	} bad[] = {
		{ 0, 1, 8, 0, true, "no CUDA driver" },
		{ 12080, 1, 8, 0, true, "driver older than CUDA 13: it is for 12.8" },
		{ 13000, 0, 8, 0, true, "no GPU" },
		{ 13000, 1, 7, 5, true, "GPU too old: Emulated GPU is sm_75, sm_80 is needed" },
		{ 13000, 1, 8, 0, false, "libcublasLt not found" },
	};

	for (const auto &b : bad) {
		emuMachine m = EMU_MACHINE;
		struct st_device_cfg cfg = { "cuda", ST_F32, 1 };
		struct st_device *dev = nullptr;

		m.driver = b.driver;
		m.gpus = b.gpus;
		m.major = b.major;
		m.minor = b.minor;
		m.has_lt = b.has_lt;
		emuStart(1, m);
		ck_assert_int_eq(st_cuda_ops.open(&dev, &cfg), STRATA_E_UNSUPPORTED);
		ck_assert_ptr_null(dev);
		ck_assert_msg(says(b.why), "%s", st_last_error());
		clean();
	}
}
END_TEST

/* ---- memory and copies ---------------------------------------------------------------------- */

START_TEST(arena_is_one_allocation_with_a_hard_budget)
{
	emuMachine m = EMU_MACHINE;
	struct st_device_cfg cfg = { "cuda", ST_F32, 1 };
	struct st_device *dev = nullptr;
	void *base = nullptr;
	uint64_t before;

	m.memory_bytes = 64 * MIB;
	emuStart(1, m);
	OK(st_cuda_ops.open(&dev, &cfg));
	ck_assert_int_eq(st_device_arena(dev, 65 * MIB, &base), -ENOMEM);
	ck_assert_msg(says("65 MiB asked, 64 MiB free of 64 MiB") && says("cudaMalloc (") &&
			      says("device.cc:") && says("cudaErrorMemoryAllocation") &&
			      says("lower the budgets"),
		      "%s", st_last_error());
	ck_assert_ptr_null(base);
	before = emuCount().allocates;
	OK(st_device_arena(dev, 63 * MIB, &base));
	ck_assert_uint_eq(emuCount().allocates, before + 1);
	ck_assert_uint_eq((uintptr_t)base % ST_DEVICE_ARENA_ALIGN, 0);
	ck_assert_int_eq(st_device_arena(dev, MIB, &base), -EINVAL);
	OK(st_device_status(dev));
	st_device_close(dev);
	clean();
}
END_TEST

/* What is still to run when it is released runs first; then there is room for another run. */
START_TEST(release_gives_back_what_a_run_had)
{
	static char host[2][8192];

	for (uint64_t s = 0; s < 8; s++) {
		struct st_device_cfg cfg = { "cuda", ST_F32, 1 };
		struct st_device *dev = nullptr;
		emuMachine m = EMU_MACHINE;
		void *base = nullptr;
		emuCounts n;

		m.memory_bytes = 64 * MIB;
		emuStart(s, m);
		OK(st_cuda_ops.open(&dev, &cfg));
		ck_assert_uint_ge(st_device_caps(dev)->memory_bytes, 60 * MIB);
		ck_assert_uint_le(st_device_caps(dev)->memory_bytes, 64 * MIB);
		for (int run = 0; run < 2; run++) {
			const size_t bytes = run ? 60 * MIB : 40 * MIB;

			OK(st_device_arena(dev, bytes, &base));
			OK(st_device_register(dev, host[0], sizeof(host[0])));
			OK(st_device_register(dev, host[1], sizeof(host[1])));
			memset(host[0], 'a' + run, sizeof(host[0]));
			OK(st_device_copy(dev, ST_STREAM_COMPUTE, base, host[0], sizeof(host[0])));
			OK(st_device_copy(dev, ST_STREAM_COMPUTE, host[1], base, sizeof(host[1])));
			n = emuCount();
			st_device_release(dev);
			ck_assert_int_eq(memcmp(host[0], host[1], sizeof(host[0])), 0);
			ck_assert_uint_eq(emuCount().frees, n.frees + 3);
			ck_assert_int_eq(st_device_copy(dev, ST_STREAM_H2D, base, host[0], 64),
					 -EINVAL);
		}
		st_device_release(dev); /* nothing is held: nothing is given back */
		ck_assert_uint_eq(emuCount().frees, n.frees + 3);
		OK(st_device_status(dev));
		st_device_close(dev);
		clean();
	}
}
END_TEST

START_TEST(copies_go_both_ways_whatever_the_order)
{
	for (uint64_t s = 0; s < 8; s++) {
		Rig rig;
		struct st_event *up = nullptr, *down = nullptr;
		std::vector<char> data(100000);
		char *out;

		emuStart(s, EMU_MACHINE);
		OK(rig.open(ST_F32, MIB));
		OK(st_event_create(rig.dev, &up));
		OK(st_event_create(rig.dev, &down));
		ck_assert_int_eq(st_event_query(rig.dev, up), 1); /* never recorded */
		for (size_t i = 0; i < data.size(); i++)
			rig.host[i] = data[i] = (char)(i * 7 + s);
		out = rig.host + 200000;
		OK(st_device_copy(rig.dev, ST_STREAM_H2D, rig.base, rig.host, data.size()));
		OK(st_device_record(rig.dev, ST_STREAM_H2D, up));
		OK(st_device_wait(rig.dev, ST_STREAM_COMPUTE, up));
		OK(st_device_copy(rig.dev, ST_STREAM_COMPUTE, rig.base + 300000, rig.base,
				  data.size()));
		OK(st_device_record(rig.dev, ST_STREAM_COMPUTE, up));
		OK(st_device_wait(rig.dev, ST_STREAM_D2H, up));
		OK(st_device_copy(rig.dev, ST_STREAM_D2H, out, rig.base + 300000, data.size()));
		OK(st_device_record(rig.dev, ST_STREAM_D2H, down));
		for (int rc = 0; rc != 1;) {
			rc = st_event_query(rig.dev, down);
			ck_assert_int_ge(rc, 0);
		}
		emuHostRead(out, data.size(), "the test");
		ck_assert_mem_eq(out, data.data(), data.size());
		st_event_destroy(up);
		st_event_destroy(down);
		rig.shut();
		clean();
	}
}
END_TEST

START_TEST(copies_that_cannot_be_asynchronous_are_refused)
{
	static char elsewhere[4096];
	Rig rig;

	emuStart(2, EMU_MACHINE);
	OK(rig.open(ST_F32, MIB));
#define REFUSED(stream, dst, src, n, why)                                                          \
	do {                                                                                       \
		ck_assert_int_eq(st_device_copy(rig.dev, stream, dst, src, n), -EINVAL);           \
		ck_assert_msg(says(why), "%s", st_last_error());                                   \
	} while (0)
	REFUSED(ST_STREAM_H2D, rig.base, elsewhere, 64, "not registered");
	REFUSED(ST_STREAM_D2H, elsewhere, rig.base, 64, "not registered");
	REFUSED(ST_STREAM_H2D, rig.base, rig.host + MIB - 32, 64, "not registered");
	REFUSED(ST_STREAM_H2D, rig.base + MIB - 32, rig.host, 64, "neither end");
	REFUSED(ST_STREAM_COMPUTE, rig.host, rig.host + 64, 64, "neither end");
	REFUSED(ST_STREAM_H2D, rig.host, rig.base, 64, "direction");
	REFUSED(ST_STREAM_D2H, rig.base, rig.host, 64, "direction");
	REFUSED(ST_STREAM_D2H, rig.base, rig.base + 64, 64, "direction");
#undef REFUSED
	ck_assert_int_eq(st_device_register(rig.dev, rig.host + 4096, 4096), -EINVAL);
	ck_assert_msg(says("registered already"), "%s", st_last_error());
	ck_assert_uint_eq(emuCount().copies, 0);
	rig.shut();
	clean();
}
END_TEST

START_TEST(many_ranges_can_be_registered_until_none)
{
	static char memory[300 * 64];
	Rig rig;
	int rc = 0, n = 0;

	emuStart(0, EMU_MACHINE);
	OK(rig.open(ST_F32, MIB));
	/* From the last to the first, every other: each is put in its place. */
	for (int i = 298; i >= 0 && !rc; i -= 2, n++)
		rc = st_device_register(rig.dev, memory + i * 64, 64);
	ck_assert_int_eq(rc, 0);
	for (int i = 0; i < 300; i += 2)
		OK(st_device_copy(rig.dev, ST_STREAM_H2D, rig.base, memory + i * 64, 64));
	ck_assert_int_eq(st_device_copy(rig.dev, ST_STREAM_H2D, rig.base, memory + 64, 64),
			 -EINVAL);
	ck_assert_int_eq(st_device_register(rig.dev, memory, sizeof(memory)), -EINVAL);
	for (int i = 1; i < 300 && !rc; i += 2, n++)
		rc = st_device_register(rig.dev, memory + i * 64, 64);
	ck_assert_int_eq(rc, -ENOSPC);
	ck_assert_int_eq(n, 256); /* with the rig's own; the last one was refused */
	rig.shut();
	clean();
}
END_TEST

/* ---- products ------------------------------------------------------------------------------- */

struct Product {
	size_t m, n, k, pad;
	enum st_dtype in, out;
	bool ta, tb, bias, accumulate;
};

/* Run it on the device, into c (with what c holds before). */
static void product(Rig *rig, const Product &p, const std::vector<double> &a,
		    const std::vector<double> &b, const std::vector<double> &bias,
		    std::vector<double> *c)
{
	struct st_matmul mm;
	auto bytes_of = [](enum st_dtype t, size_t n) { return n * st_dtype_bytes(t); };
	auto pack = [&](enum st_dtype t, const std::vector<double> &v) {
		std::vector<char> x(bytes_of(t, v.size()));

		for (size_t i = 0; i < v.size(); i++)
			st_elem_set(t, x.data(), i, (float)v[i]);
		return x;
	};
	auto send = [&](enum st_dtype t, const std::vector<double> &v) {
		std::vector<char> x = pack(t, v);
		void *at = rig->take(x.size());

		OK(rig->put(at, x.data(), x.size()));
		return at;
	};
	std::vector<char> result(bytes_of(p.out, c->size()));

	memset(&mm, 0, sizeof(mm));
	rig->used = 0;
	mm.m = p.m;
	mm.n = p.n;
	mm.k = p.k;
	mm.trans_a = p.ta;
	mm.trans_b = p.tb;
	mm.lda = (p.ta ? p.m : p.k) + p.pad;
	mm.ldb = (p.tb ? p.k : p.n) + p.pad;
	mm.ldc = p.n + p.pad;
	mm.a_dtype = mm.b_dtype = p.in;
	mm.c_dtype = p.out;
	mm.accumulate = p.accumulate;
	mm.a = send(p.in, a);
	mm.b = send(p.in, b);
	mm.c = send(p.out, *c);
	mm.bias = p.bias ? send(rig->dev->dtype, bias) : nullptr;
	mm.work_bytes = st_matmul_work_bytes(rig->dev, &mm);
	mm.work = rig->take(mm.work_bytes + 64);
	mm.work = (char *)mm.work + 64; /* no more aligned than it must be */
	st_matmul(rig->dev, &mm);
	OK(rig->get(result.data(), mm.c, result.size()));
	OK(st_device_status(rig->dev));
	for (size_t i = 0; i < c->size(); i++)
		(*c)[i] = st_elem_f32(p.out, result.data(), i);
}

static std::vector<double> values(size_t n, enum st_dtype dtype, double size)
{
	std::vector<double> v(n);
	char x[4];

	for (double &d : v) {
		st_elem_set(dtype, x, 0, (float)(size * uniform()));
		d = st_elem_f32(dtype, x, 0);
	}
	return v;
}

static void product_check(Rig *rig, const Product &p)
{
	const size_t lda = (p.ta ? p.m : p.k) + p.pad, ldb = (p.tb ? p.k : p.n) + p.pad;
	const size_t ldc = p.n + p.pad;
	std::vector<double> a = values((p.ta ? p.k : p.m) * lda, p.in, 1);
	std::vector<double> b = values((p.tb ? p.n : p.k) * ldb, p.in, 1);
	std::vector<double> bias = values(p.n, rig->dev->dtype, 1);
	std::vector<double> c = values(p.m * ldc, p.out, 3), ref = c, again = c;
	const double rtol = p.out == ST_F32 ? 2e-5 : p.out == ST_BF16 ? 1.0 / 256 : 1.0 / 1024;

	product(rig, p, a, b, bias, &c);
	product(rig, p, a, b, bias, &again);
	ck_assert_msg(!memcmp(c.data(), again.data(), c.size() * sizeof(double)),
		      "the bits change from run to run");
	ref_matmul(p.m, p.n, p.k, p.ta, p.tb, lda, ldb, ldc, a.data(), b.data(),
		   p.bias ? bias.data() : nullptr, p.accumulate, ref.data());
	for (size_t i = 0; i < p.m; i++)
		for (size_t j = 0; j < ldc; j++) {
			double x = c[i * ldc + j], r = ref[i * ldc + j];
			double atol = j < p.n ? 1e-6 * (double)p.k + 1e-6 : 0;

			if (!(fabs(x - r) <= atol + (j < p.n ? rtol * fabs(r) : 0)))
				ck_abort_msg("%zu x %zu x %zu %d%d %d->%d: [%zu,%zu] is %g, not %g",
					     p.m, p.n, p.k, p.ta, p.tb, p.in, p.out, i, j, x, r);
		}
}

/* @return how many of the products were cuBLASLt's */
static uint64_t products_of(emuMachine machine, enum st_dtype dtype)
{
	static const size_t sizes[][4] = { { 1, 1, 1, 0 },
					   { 3, 5, 7, 0 },
					   { 17, 33, 65, 3 },
					   { 32, 64, 48, 8 },
					   { 40, 24, 130, 0 } };
	Rig rig;
	uint64_t n;

	seed = 17;
	emuStart(seed + dtype, machine);
	OK(rig.open(dtype, 4 * MIB));
	for (const auto &s : sizes)
		for (int v = 0; v < 4; v++)
			for (int form = 0; form < 3; form++) { /* with bias; plain; added to fp32 */
				enum st_dtype out = form == 2 ? ST_F32 : dtype;
				Product p = {
					s[0], s[1],         s[2],         s[3],      dtype,
					out,  (v & 1) != 0, (v & 2) != 0, form == 0, form == 2
				};

				product_check(&rig, p);
			}
	n = emuCount().products;
	rig.shut();
	clean();
	return n;
}

START_TEST(products_of_every_form)
{
	emuMachine none = EMU_MACHINE;

	none.has_heuristics = false;
	for (enum st_dtype t : { ST_F32, ST_BF16, ST_F16 }) {
		ck_assert_uint_eq(products_of(EMU_MACHINE, t), 2 * 5 * 4 * 3);
		ck_assert_uint_eq(products_of(none, t), 0); /* own kernels, as right */
	}
}
END_TEST

START_TEST(products_of_mixed_types_are_made_by_own_kernels)
{
	Rig rig;
	uint64_t n;

	emuStart(3, EMU_MACHINE);
	OK(rig.open(ST_BF16, 4 * MIB));
	product_check(&rig, Product{ 9, 10, 11, 0, ST_F32, ST_BF16, false, false, false, false });
	product_check(&rig, Product{ 9, 10, 40, 0, ST_BF16, ST_F32, true, false, true, true });
	product_check(&rig, Product{ 33, 65, 40, 1, ST_F16, ST_BF16, false, true, true, false });
	n = emuCount().products;
	ck_assert_uint_eq(n, 0);
	rig.shut();
	clean();
}
END_TEST

/* A NaN, or an infinity as after an overflow, is in every element it is part of, and in no other.
 */
START_TEST(products_spread_nan_and_inf)
{
	for (bool has_heuristics : { true, false }) /* cuBLASLt's product, and the own one */
		for (enum st_dtype t : { ST_F32, ST_BF16, ST_F16 })
			for (double odd : { (double)NAN, (double)INFINITY }) {
				const Product p = { 20, 24, 40, 0, t, t, false, true, true, false };
				emuMachine m = EMU_MACHINE;
				std::vector<double> a, b, bias, c(20 * 24);
				Rig rig;

				m.has_heuristics = has_heuristics;
				emuStart(3, m);
				OK(rig.open(t, 4 * MIB));
				a = values(20 * 40, t, 1);
				b = values(24 * 40, t, 1);
				bias = values(24, t, 1);
				a[7 * 40 + 3] = odd;
				bias[5] = odd;
				product(&rig, p, a, b, bias, &c);
				for (size_t i = 0; i < c.size(); i++)
					ck_assert_msg(
						!isfinite(c[i]) == (i / 24 == 7 || i % 24 == 5),
						"%d: [%zu,%zu] is %g", t, i / 24, i % 24, c[i]);
				rig.shut();
				clean();
			}
}
END_TEST

START_TEST(choices_are_kept_and_given_back)
{
	const Product p = { 32, 64, 48, 0, ST_BF16, ST_BF16, false, true, true, false };
	std::vector<double> a = values(32 * 48, ST_BF16, 1), b = values(64 * 48, ST_BF16, 1),
			    bias = values(64, ST_BF16, 1), c1(32 * 64), c2(32 * 64), c3(32 * 64);
	std::string text, tampered;
	char buf[4096], small[10];
	Rig rig;
	size_t len;

	emuStart(5, EMU_MACHINE);
	OK(rig.open(ST_BF16, MIB));
	OK(st_device_choose(rig.dev, ""));
	product(&rig, p, a, b, bias, &c1);
	len = st_device_choices(rig.dev, buf, sizeof(buf));
	ck_assert_uint_eq(len, strlen(buf));
	ck_assert_uint_eq(st_device_choices(rig.dev, small, sizeof(small)), len);
	ck_assert_str_eq(small, "cuBLASLt ");
	ck_assert_int_eq(st_device_choose(rig.dev, buf), -EINVAL); /* too late */
	text = buf;
	rig.shut();
	clean();

	/* Given back, it is used, and told again; its rows allow tensor cores: the first algorithm.
	 */
	ck_assert_msg(text.find(" 0000000000007e01 ") != std::string::npos, "%s", text.c_str());
	emuStart(6, EMU_MACHINE);
	OK(rig.open(ST_BF16, MIB));
	OK(st_device_choose(rig.dev, text.c_str()));
	ck_assert_uint_eq(st_device_choices(rig.dev, buf, sizeof(buf)), text.size());
	product(&rig, p, a, b, bias, &c2);
	st_device_choices(rig.dev, buf, sizeof(buf));
	ck_assert_str_eq(buf, text.c_str());
	ck_assert(c1 == c2);
	rig.shut();
	clean();

	/* The other algorithm, which the library would not have proposed first: it is obeyed. */
	tampered = text;
	tampered.replace(tampered.find("0000000000007e01"), 16, "0000000000007e02");
	emuStart(7, EMU_MACHINE);
	OK(rig.open(ST_BF16, MIB));
	OK(st_device_choose(rig.dev, tampered.c_str()));
	product(&rig, p, a, b, bias, &c3);
	st_device_choices(rig.dev, buf, sizeof(buf));
	ck_assert_str_eq(buf, tampered.c_str());
	rig.shut();
	clean();
}
END_TEST

START_TEST(choices_of_another_machine_or_broken_ones_are_refused)
{
	static const struct {
		const char *text;
		int rc;
		const char *why;
	} bad[] = {
		{ "cuBLASLt 120000 sm_80\n", STRATA_E_STALE,
		  "was made with \"cuBLASLt 120000 sm_80\"" },
		{ "cuBLASLt 130000 sm_90\n", STRATA_E_STALE, "resume it there" },
		{ "cuBLASLt 130000 sm_80\n1 2 3\n", STRATA_E_INPUT, "line 2" },
		{ "cuBLASLt 130000 sm_80\n1 1 1 0 0 1 1 1 0 0 0 0 0 own", STRATA_E_INPUT,
		  "line 2" },
		{ "cuBLASLt 130000 sm_80\n1 1 1 0 0 1 1 1 0 0 9 0 0 own\n", STRATA_E_INPUT,
		  "line 2" },
		{ "cuBLASLt 130000 sm_80\n1 1 1 0 0 1 1 1 0 0 0 0 0 own \n", STRATA_E_INPUT,
		  "line 2" },
		{ "cuBLASLt 130000 sm_80\n1 1 1 0 0 1 1 1 0 0 0 0 0 own\n1 1 1 0 0 1 1 1 0 0 0 0 0 "
		  "0000000000007e01\n",
		  STRATA_E_INPUT, "line 3" },
	};
	static const char foreign[] = "cuBLASLt 130000 sm_80\n8 8 8 0 0 8 8 8 0 0 0 0 0"
				      " 0000000000007e01 0000000000000001 0000000000000000"
				      " 0000000000000000 0000000000000000 0000000000000000"
				      " 0000000000000000 0000000000000000\n";
	struct st_matmul mm;
	char buf[200];
	Rig rig;

	emuStart(5, EMU_MACHINE);
	OK(rig.open(ST_F32, MIB));
	for (const auto &b : bad) {
		ck_assert_int_eq(st_device_choose(rig.dev, b.text), b.rc);
		ck_assert_msg(says(b.why), "%s", st_last_error());
	}
	st_device_choices(rig.dev, buf, sizeof(buf));
	ck_assert_str_eq(buf, "cuBLASLt 130000 sm_80\n"); /* as it was before */
	OK(st_device_choose(rig.dev, foreign));
	memset(&mm, 0, sizeof(mm));
	mm.m = mm.n = mm.k = 8;
	mm.a = rig.base;
	mm.b = rig.base + 1024;
	mm.c = rig.base + 2048;
	st_matmul(rig.dev, &mm);
	ck_assert_int_eq(st_device_status(rig.dev), STRATA_E_STALE);
	ck_assert_msg(says("the run's algorithm cannot be used here"), "%s", st_last_error());
	rig.shut();
	clean();
}
END_TEST

START_TEST(shapes_without_end_are_refused)
{
	struct st_matmul mm;
	Rig rig;

	emuStart(5, EMU_MACHINE);
	OK(rig.open(ST_F32, MIB));
	memset(&mm, 0, sizeof(mm));
	mm.a = rig.base;
	mm.b = rig.base + 65536;
	mm.c = rig.base + 131072;
	mm.n = mm.k = 1;
	for (mm.m = 1; mm.m <= 512; mm.m++)
		(void)st_matmul_work_bytes(rig.dev, &mm);
	OK(st_device_status(rig.dev));
	st_matmul(rig.dev, &mm);
	ck_assert_int_eq(st_device_status(rig.dev), -ENOSPC);
	mm.m = 512;
	st_matmul(rig.dev, &mm);
	OK(st_device_status(rig.dev));
	OK(rig.wait(ST_STREAM_COMPUTE));
	rig.shut();
	clean();
}
END_TEST

/* ---- operations ------------------------------------------------------------------------------ */

/* The same array on the host device and on this one. That each kernel is right is the business of
 * tests/test_cuda_kernels.cc; here each operation must reach it with its operands in their places.
 */
struct Array {
	enum st_dtype dt;
	size_t n;
	std::vector<char> raw;
	char *host;
	void *device;
};

struct Two {
	struct st_device *host = nullptr, *device = nullptr;
	Rig rig;
	std::vector<std::unique_ptr<Array>> arrays;

	explicit Two(enum st_dtype dt)
	{
		struct st_device_cfg cfg = { "host", dt, 1 };

		OK(st_device_open(&host, &cfg));
		OK(rig.open(dt, 2 * MIB));
		device = rig.dev;
	}
	~Two()
	{
		rig.shut();
		st_device_close(host);
	}
	Array *make(enum st_dtype dt, size_t n, double size)
	{
		const size_t bytes = n * st_dtype_bytes(dt);
		auto a = std::make_unique<Array>();

		a->dt = dt;
		a->n = n;
		a->raw.resize(bytes + 64);
		a->host = (char *)(((uintptr_t)a->raw.data() + 63) / 64 * 64);
		for (size_t i = 0; i < n; i++)
			st_elem_set(dt, a->host, i, (float)(size * uniform()));
		a->device = rig.take(bytes);
		OK(rig.put(a->device, a->host, bytes));
		arrays.push_back(std::move(a));
		return arrays.back().get();
	}
	Array *tokens(size_t n, int32_t below)
	{
		Array *a = make(ST_F32, n, 1);
		int32_t *t = (int32_t *)(void *)a->host;

		for (size_t i = 0; i < n; i++)
			t[i] = (int32_t)((uniform() + 1) / 2 * below);
		OK(rig.put(a->device, a->host, n * 4));
		return a;
	}
	/* Everything, what is only read as well: within 2e-4 in fp32, a few roundings in 16 bits.
	 */
	void check(const char *what)
	{
		OK(st_device_status(host));
		for (auto &a : arrays) {
			std::vector<char> got(a->n * st_dtype_bytes(a->dt));

			OK(rig.get(got.data(), a->device, got.size()));
			for (size_t i = 0; i < a->n; i++) {
				double ref = st_elem_f32(a->dt, a->host, i);
				double x = st_elem_f32(a->dt, got.data(), i);
				double tol =
					a->dt == ST_F32 && device->dtype == ST_F32 ? 2e-4 : 0.03;

				if (!(fabs(x - ref) <= tol + tol * fabs(ref)))
					ck_abort_msg("%s: an array of %zu: [%zu] is %g, not %g",
						     what, a->n, i, x, ref);
			}
		}
		OK(st_device_status(device));
		arrays.clear();
		rig.used = 0;
	}
};

#define F(a, where) ((float *)(void *)(a)->where)
#define I(a, where) ((int32_t *)(void *)(a)->where)
#define BOTH(call_host, call_device)                                                               \
	do {                                                                                       \
		call_host;                                                                         \
		call_device;                                                                       \
	} while (0)

/* Scratch of each, as large as it says. */
struct Scratch {
	std::vector<char> raw;
	void *host, *device;

	Scratch(Two *t, size_t host_bytes, size_t device_bytes) : raw(host_bytes + 64)
	{
		host = (void *)(((uintptr_t)raw.data() + 63) / 64 * 64);
		device = t->rig.take(device_bytes + 64);
	}
};

static void rows_are_wired(Two *t, enum st_dtype dt)
{
	const size_t rows = 5, cols = 48, n = rows * cols;
	Array *x = t->make(dt, n, 1), *gamma = t->make(dt, cols, 1), *beta = t->make(dt, cols, 2);
	Array *y = t->make(dt, n, 1), *mean = t->make(ST_F32, rows, 1),
	      *rstd = t->make(ST_F32, rows, 1);

	BOTH(st_layernorm_fwd(t->host, rows, cols, x->host, gamma->host, beta->host, y->host,
			      F(mean, host), F(rstd, host)),
	     st_layernorm_fwd(t->device, rows, cols, x->device, gamma->device, beta->device,
			      y->device, F(mean, device), F(rstd, device)));
	Array *dy = t->make(dt, n, 1), *add = t->make(dt, n, 1), *dx = t->make(dt, n, 1);
	Array *dgamma = t->make(ST_F32, cols, 1), *dbeta = t->make(ST_F32, cols, 1);
	Scratch w(t, st_layernorm_bwd_work_bytes(t->host, rows, cols),
		  st_layernorm_bwd_work_bytes(t->device, rows, cols));

	BOTH(st_layernorm_bwd(t->host, rows, cols, dy->host, x->host, gamma->host, F(mean, host),
			      F(rstd, host), add->host, dx->host, F(dgamma, host), F(dbeta, host),
			      w.host),
	     st_layernorm_bwd(t->device, rows, cols, dy->device, x->device, gamma->device,
			      F(mean, device), F(rstd, device), add->device, dx->device,
			      F(dgamma, device), F(dbeta, device), w.device));
	Array *sums = t->make(ST_F32, cols, 1);
	Scratch v(t, st_bias_bwd_work_bytes(t->host, rows, cols),
		  st_bias_bwd_work_bytes(t->device, rows, cols));

	BOTH(st_bias_bwd(t->host, rows, cols, dy->host, F(sums, host), v.host),
	     st_bias_bwd(t->device, rows, cols, dy->device, F(sums, device), v.device));
	t->check("rows");
}

static void elements_are_wired(Two *t, enum st_dtype dt)
{
	const size_t n = 333;
	Array *x = t->make(dt, n, 3), *dy = t->make(dt, n, 1), *y = t->make(dt, n, 1);
	Array *dx = t->make(dt, n, 1), *sum = t->make(dt, n, 1), *zero = t->make(dt, n, 1);

	BOTH(st_gelu_fwd(t->host, n, x->host, y->host),
	     st_gelu_fwd(t->device, n, x->device, y->device));
	BOTH(st_gelu_bwd(t->host, n, x->host, dy->host, dx->host),
	     st_gelu_bwd(t->device, n, x->device, dy->device, dx->device));
	BOTH(st_add(t->host, n, x->host, dy->host, sum->host),
	     st_add(t->device, n, x->device, dy->device, sum->device));
	BOTH(st_fill_zero(t->host, zero->host, 100), st_fill_zero(t->device, zero->device, 100));
	t->check("elements");
}

static void attention_is_wired(Two *t, enum st_dtype dt)
{
	const size_t b = 2, s = 17, h = 2, d = 64, n = b * s * h * d;
	Array *qkv = t->make(dt, 3 * n, 1), *out = t->make(dt, n, 1), *dout = t->make(dt, n, 1);
	Array *dqkv = t->make(dt, 3 * n, 1), *lse = t->make(ST_F32, b * h * s, 1);
	struct st_attention on[2];

	for (int i = 0; i < 2; i++) {
		auto at = [&](Array *a) { return i ? a->device : (void *)a->host; };

		memset(&on[i], 0, sizeof(on[i]));
		on[i].batch = b;
		on[i].seq = s;
		on[i].heads = h;
		on[i].head_dim = d;
		on[i].qkv = at(qkv);
		on[i].out = at(out);
		on[i].lse = (float *)at(lse);
		on[i].dout = at(dout);
		on[i].dqkv = at(dqkv);
	}
	for (bool is_backward : { false, true }) {
		Scratch w(t, st_attention_work_bytes(t->host, b, s, h, d, is_backward),
			  st_attention_work_bytes(t->device, b, s, h, d, is_backward));

		on[0].work = w.host;
		on[1].work = w.device;
		if (is_backward)
			BOTH(st_attention_bwd(t->host, &on[0]),
			     st_attention_bwd(t->device, &on[1]));
		else
			BOTH(st_attention_fwd(t->host, &on[0]),
			     st_attention_fwd(t->device, &on[1]));
	}
	t->check("attention");
}

static void tokens_are_wired(Two *t, enum st_dtype dt)
{
	const size_t b = 2, s = 9, c = 40, vocab = 13, ld = 16;
	Array *tok = t->tokens(b * s, (int32_t)vocab), *wte = t->make(dt, vocab * c, 1);
	Array *wpe = t->make(dt, s * c, 1), *y = t->make(dt, b * s * c, 1);
	Array *dwte = t->make(ST_F32, vocab * c, 1), *dwpe = t->make(ST_F32, s * c, 1);
	Array *logits = t->make(dt, b * s * ld, 2), *loss = t->make(ST_F32, b * s, 1);

	BOTH(st_embedding_fwd(t->host, b, s, c, vocab, I(tok, host), wte->host, wpe->host, y->host),
	     st_embedding_fwd(t->device, b, s, c, vocab, I(tok, device), wte->device, wpe->device,
			      y->device));
	BOTH(st_embedding_bwd(t->host, b, s, c, vocab, I(tok, host), y->host, F(dwte, host),
			      F(dwpe, host)),
	     st_embedding_bwd(t->device, b, s, c, vocab, I(tok, device), y->device, F(dwte, device),
			      F(dwpe, device)));
	BOTH(st_cross_entropy(t->host, b * s, vocab, ld, logits->host, I(tok, host), F(loss, host),
			      0.5f),
	     st_cross_entropy(t->device, b * s, vocab, ld, logits->device, I(tok, device),
			      F(loss, device), 0.5f));
	t->check("tokens");
}

START_TEST(every_operation_reaches_its_kernel)
{
	for (enum st_dtype dt : { ST_F32, ST_BF16, ST_F16 }) {
		seed = 5;
		emuStart(10 + dt, EMU_MACHINE);
		{
			Two t(dt);

			rows_are_wired(&t, dt);
			elements_are_wired(&t, dt);
			attention_is_wired(&t, dt);
			tokens_are_wired(&t, dt);
		}
		clean();
	}
}
END_TEST

/* Bits, not tolerances. */
START_TEST(gradients_and_updates_are_the_cpus)
{
	enum { N = 4096 + 77 };
	static float acc[N], m[N], v[N], got_f[N];
	static uint16_t grad[N], hi[N], lo[N], got[N];
	const struct strata_optim_format f = { STRATA_PARAMS_SPLIT, STRATA_MOMENTS_F32,
					       STRATA_GRADS_BF16 };
	struct strata_optim_cfg cfg = STRATA_OPTIM_CFG_DEFAULT;
	struct strata_optim_step step;
	struct strata_optim_range r, d;
	double leaf[2], got_leaf[2];
	void *on[6], *leaf_at;
	Rig rig;

	emuStart(6, EMU_MACHINE);
	OK(rig.open(ST_BF16, MIB));
	for (size_t i = 0; i < N; i++) {
		acc[i] = (float)uniform();
		m[i] = (float)uniform() * 0.01f;
		v[i] = (float)fabs(uniform()) * 1e-4f;
		hi[i] = st_f32_bf16((float)uniform());
		lo[i] = (uint16_t)(i * 977);
	}
	for (void *&p : on)
		p = rig.take(sizeof(acc));
	leaf_at = rig.take(sizeof(leaf));
	OK(rig.put(on[0], hi, sizeof(hi)));
	OK(rig.put(on[1], lo, sizeof(lo)));
	OK(rig.put(on[2], m, sizeof(m)));
	OK(rig.put(on[3], v, sizeof(v)));
	OK(rig.put(on[4], acc, sizeof(acc)));
	OK(strata_optim_reduce(N, acc, grad, STRATA_GRADS_BF16, leaf));
	st_device_reduce(rig.dev, N, (const float *)on[4], on[5], STRATA_GRADS_BF16,
			 (double *)leaf_at);
	OK(rig.get(got, on[5], sizeof(got)));
	OK(rig.get(got_leaf, leaf_at, sizeof(got_leaf)));
	ck_assert_mem_eq(got, grad, sizeof(grad));
	ck_assert_mem_eq(got_leaf, leaf, sizeof(leaf));

	OK(strata_optim_prepare(&step, &cfg, 3, 1e-3, 0.1, 0.5));
	ck_assert(st_device_can_update(rig.dev, &cfg, &f));
	memset(&r, 0, sizeof(r));
	r.n = N;
	r.array[STRATA_ARRAY_PARAM] = hi;
	r.array[STRATA_ARRAY_LOW] = lo;
	r.array[STRATA_ARRAY_M] = m;
	r.array[STRATA_ARRAY_V] = v;
	r.array[STRATA_ARRAY_GRAD] = grad;
	d = r;
	for (int i = 0; i < 4; i++)
		d.array[i] = on[i];
	d.array[STRATA_ARRAY_GRAD] = on[5];
	st_device_update(rig.dev, &step, &f, &d);
	OK(strata_optim_update(&step, &f, &r));
	OK(rig.get(got, on[0], sizeof(hi)));
	ck_assert_mem_eq(got, hi, sizeof(hi));
	OK(rig.get(got, on[1], sizeof(lo)));
	ck_assert_mem_eq(got, lo, sizeof(lo));
	OK(rig.get(got_f, on[2], sizeof(m)));
	ck_assert_mem_eq(got_f, m, sizeof(m));
	OK(rig.get(got_f, on[3], sizeof(v)));
	ck_assert_mem_eq(got_f, v, sizeof(v));
	OK(st_device_status(rig.dev));

	/* What it has not, it says. */
	st_device_reduce(rig.dev, 8, (const float *)on[4], on[5], STRATA_GRADS_BF16,
			 (double *)((char *)leaf_at + 4));
	ck_assert_int_eq(st_device_status(rig.dev), -EINVAL);
	d.array[STRATA_ARRAY_LOW] = nullptr;
	st_device_update(rig.dev, &step, &f, &d);
	ck_assert_int_eq(st_device_status(rig.dev), -EINVAL);
	cfg.kind = STRATA_OPTIM_LION;
	ck_assert(!st_device_can_update(rig.dev, &cfg, &f));
	OK(strata_optim_prepare(&step, &cfg, 3, 1e-3, 0.1, 0.5));
	d.array[STRATA_ARRAY_LOW] = on[1];
	st_device_update(rig.dev, &step, &f, &d);
	ck_assert_int_eq(st_device_status(rig.dev), STRATA_E_UNSUPPORTED);
	rig.shut();
	clean();
}
END_TEST

/* 512 threads can have 128 registers each, and none more than 255. */
START_TEST(launches_that_need_too_many_registers_are_refused)
{
	static const struct {
		const char *kernel;
		int registers;
		bool is_fine;
	} cases[] = { { "cross_entropy<float, 4>", 128, true },
		      { "cross_entropy<float, 4>", 129, false },
		      { "cross_entropy<float, 1>", 250, true }, /* another one */
		      { "zero16", 255, true },
		      { "zero16", 256, false } };

	for (const auto &k : cases) {
		Rig rig;
		float *x, *loss;
		int32_t *target;

		emuStart(1, EMU_MACHINE);
		OK(rig.open(ST_F32, MIB));
		x = (float *)rig.take(8 * 4);
		loss = (float *)rig.take(4);
		target = (int32_t *)rig.take(4);
		emuRegisters(k.kernel, k.registers);
		st_fill_zero(rig.dev, x, 8 * 4);
		st_fill_zero(rig.dev, target, 4);
		st_cross_entropy(rig.dev, 1, 8, 8, x, target, loss, 0);
		ck_assert_msg((st_device_status(rig.dev) == 0) == k.is_fine, "%s: %d: %s", k.kernel,
			      k.registers, st_last_error());
		ck_assert(k.is_fine || says("cudaErrorLaunchOutOfResources"));
		OK(rig.wait(ST_STREAM_COMPUTE));
		rig.shut();
		clean();
	}
	/* What ptxas said, where it did, is about these kernels. */
	if (emuRegisters("zero16", -1) >= 0)
		for (const char *kernel : { "cross_entropy<float, 4>", "attention_fwd<st_bf16, 64>",
					    "layernorm_bwd<st_f16, 8>", "product_any" })
			ck_assert_msg(emuRegisters(kernel, -1) > 8, "%s has no registers", kernel);
}
END_TEST

START_TEST(tokens_outside_the_vocabulary_are_refused)
{
	for (uint64_t s = 0; s < 4; s++) {
		int32_t tokens[4] = { 0, 3, 7, 1 };
		Rig rig;
		char *w, *y;
		void *t;

		emuStart(s, EMU_MACHINE);
		OK(rig.open(ST_F32, MIB));
		t = rig.take(sizeof(tokens));
		w = (char *)rig.take(4096);
		y = (char *)rig.take(4096);
		memset(rig.mirror(w), 0, 4096);
		OK(st_device_copy(rig.dev, ST_STREAM_COMPUTE, w, rig.mirror(w), 4096));
		OK(rig.put(t, tokens, sizeof(tokens)));
		st_embedding_fwd(rig.dev, 1, 4, 8, 7, (const int32_t *)t, w, w, y);
		OK(rig.wait(ST_STREAM_COMPUTE));
		ck_assert_int_eq(st_device_status(rig.dev), -EINVAL);
		ck_assert_msg(says("token 2 is"), "%s", st_last_error());
		OK(st_device_status(rig.dev));
		tokens[2] = 6;
		OK(rig.put(t, tokens, sizeof(tokens)));
		st_embedding_fwd(rig.dev, 1, 4, 8, 7, (const int32_t *)t, w, w, y);
		OK(rig.wait(ST_STREAM_COMPUTE));
		OK(st_device_status(rig.dev));
		rig.shut();
		clean();
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("cuda_device");
	TCase *t = tcase_create("device");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_set_timeout(t, 120);
	tcase_add_test(t, opens_and_tells_what_it_is);
	tcase_add_test(t, refuses_a_machine_with_a_reason);
	tcase_add_test(t, arena_is_one_allocation_with_a_hard_budget);
	tcase_add_test(t, release_gives_back_what_a_run_had);
	tcase_add_test(t, copies_go_both_ways_whatever_the_order);
	tcase_add_test(t, copies_that_cannot_be_asynchronous_are_refused);
	tcase_add_test(t, many_ranges_can_be_registered_until_none);
	tcase_add_test(t, products_of_every_form);
	tcase_add_test(t, products_of_mixed_types_are_made_by_own_kernels);
	tcase_add_test(t, products_spread_nan_and_inf);
	tcase_add_test(t, choices_are_kept_and_given_back);
	tcase_add_test(t, choices_of_another_machine_or_broken_ones_are_refused);
	tcase_add_test(t, shapes_without_end_are_refused);
	tcase_add_test(t, every_operation_reaches_its_kernel);
	tcase_add_test(t, gradients_and_updates_are_the_cpus);
	tcase_add_test(t, launches_that_need_too_many_registers_are_refused);
	tcase_add_test(t, tokens_outside_the_vocabulary_are_refused);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_ENV);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
