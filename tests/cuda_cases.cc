/* SPDX-License-Identifier: Apache-2.0 */
/* tests/cuda_cases.cc - operands on the device, and the cases of each operation. */
#include "tests/cuda_cases.h"

#include <algorithm>
#include <math.h>
#include <memory>
#include <stdarg.h>
#include <stdexcept>
#include <stdio.h>
#include <string.h>
#include <vector>

#include "gpu/cuda/kernels.h"
#include "tests/ref_device.h"

extern "C" {
#include "gpu/device.h"
#include "strata/optim.h"
}

#define GUARD     256
#define GUARD_IS  0xa5
#define RTOL_F32  2e-5
#define RTOL_BF16 (1.0 / 256)
#define RTOL_F16  (1.0 / 1024)
#define UNIT_F16  (1.0 / (1 << 24))

static uint64_t seed;

static double uniform(void) /* [-1, 1), repeatable */
{
	uint64_t z = seed += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return (double)((z ^ z >> 31) >> 11) / (double)(1ull << 52) - 1;
}

__attribute__((format(printf, 1, 2))) static std::string text(const char *fmt, ...)
{
	char s[300];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(s, sizeof(s), fmt, ap);
	va_end(ap);
	return s;
}

static void must(cudaError_t rc, const char *what)
{
	if (rc)
		throw std::runtime_error(text("%s: %s", what, cudaGetErrorString(rc)));
}

/* ---- operands ------------------------------------------------------------------------------ */

/* Bytes on the device, twice, between guards; `shift` bytes off an address of 256. */
struct bytes {
	size_t n;
	char *base[2] = { nullptr, nullptr };
	char *p[2];

	bytes(size_t n_, size_t shift) : n(n_)
	{
		for (int c = 0; c < 2; c++) {
			size_t at = GUARD + shift + (c ? 64 * 13 : 0);

			must(cudaMalloc((void **)&base[c], at + n + GUARD), "cudaMalloc");
			p[c] = base[c] + at;
		}
	}
	bytes(const bytes &) = delete;
	bytes &operator=(const bytes &) = delete;
	~bytes()
	{
		for (char *b : base)
			(void)cudaFree(b);
	}
	void put(const void *from)
	{
		std::vector<char> all(n + 2 * GUARD, (char)GUARD_IS);

		if (n)
			memcpy(all.data() + GUARD, from, n);
		for (int c = 0; c < 2; c++)
			must(cudaMemcpy(p[c] - GUARD, all.data(), all.size(),
					cudaMemcpyHostToDevice),
			     "cudaMemcpy");
	}
	/* Both copies: the same bits between whole guards. */
	bool get(std::vector<char> *out, const std::string &what, std::string *why) const
	{
		std::vector<char> all[2];

		for (int c = 0; c < 2; c++) {
			all[c].resize(n + 2 * GUARD);
			must(cudaMemcpy(all[c].data(), p[c] - GUARD, all[c].size(),
					cudaMemcpyDeviceToHost),
			     "cudaMemcpy");
			for (size_t i = 0; i < GUARD; i++)
				if ((unsigned char)all[c][i] != GUARD_IS ||
				    (unsigned char)all[c][GUARD + n + i] != GUARD_IS) {
					*why = what + ": written outside";
					return false;
				}
		}
		out->assign(all[0].begin() + GUARD, all[0].begin() + GUARD + (ptrdiff_t)n);
		if (memcmp(all[0].data(), all[1].data(), all[0].size()) == 0)
			return true;
		*why = what + ": bits depend on the place";
		return false;
	}
};

/* n elements: the values as doubles, exact in the dtype; on the device; and for the host device. */
struct operand {
	enum st_dtype dt;
	size_t n;
	std::vector<double> ref;
	std::vector<char> host; /* as the device has it at first; the host device writes here */
	bytes dev;

	operand(enum st_dtype dt_, size_t n_, double size, size_t shift = 0)
	    : dt(dt_), n(n_), ref(n_), host(n_ * st_dtype_bytes(dt_)),
	      dev(n_ * st_dtype_bytes(dt_), shift)
	{
		for (double &x : ref)
			x = size * uniform();
		sync();
	}
	void sync()
	{
		for (size_t i = 0; i < n; i++)
			st_elem_set(dt, host.data(), i, (float)ref[i]);
		for (size_t i = 0; i < n; i++)
			ref[i] = st_elem_f32(dt, host.data(), i);
		dev.put(host.data());
	}
	void *at(int set) const
	{
		return dev.p[set];
	}
	float *f32(int set) const
	{
		return (float *)dev.p[set];
	}
	double rtol() const
	{
		return dt == ST_F32 ? RTOL_F32 : dt == ST_BF16 ? RTOL_BF16 : RTOL_F16;
	}
	/* Against ref, and against what a host device made of `host`. Where the reference is NaN or
	 * infinite, so must be the element; only what is made to have such may have. */
	bool is_odd = false;

	size_t check(const char *what, double atol, bool has_host, std::string *why) const
	{
		std::vector<char> got;
		size_t wrong = 0;

		atol += dt == ST_F16 ? UNIT_F16 : 0;
		if (!dev.get(&got, what, why))
			return n;
		for (size_t i = 0; i < n; i++) {
			const double a = st_elem_f32(dt, got.data(), i), r = ref[i];
			const double h = has_host ? st_elem_f32(dt, host.data(), i) : r;
			const double tol = atol + rtol() * fabs(r);

			if (isfinite(r) ? fabs(a - r) <= tol && fabs(a - h) <= 2 * tol
					: is_odd && !isfinite(a))
				continue;
			if (wrong++ == 0)
				*why = text(
					"%s[%zu] = %.9g, reference %.9g, host %.9g, within %.2g",
					what, i, a, r, h, tol);
		}
		return wrong;
	}
	/* The same bits as `host`, which whoever calls has computed; of a NaN any. */
	size_t check_bits(const char *what, std::string *why) const
	{
		std::vector<char> got;
		const size_t each = st_dtype_bytes(dt);
		size_t wrong = 0;

		if (!dev.get(&got, what, why))
			return n;
		for (size_t i = 0; i < n; i++) {
			if (memcmp(&got[i * each], &host[i * each], each) == 0)
				continue;
			const double a = st_elem_f32(dt, got.data(), i);
			const double r = st_elem_f32(dt, host.data(), i);

			if ((!is_odd || a == a || r == r) && wrong++ == 0)
				*why = text("%s[%zu] = %.9g, not the CPU's bits: %.9g", what, i, a,
					    r);
		}
		return wrong;
	}
	/* Put something in before anything is computed from it. */
	void set(size_t i, double x)
	{
		ref[i] = x;
		sync();
	}
};

/* Scratch: random bits at first, so that what is read unwritten shows. */
static std::shared_ptr<bytes> scratch(size_t n)
{
	auto s = std::make_shared<bytes>(n, 0);
	std::vector<char> junk(n);

	for (char &c : junk)
		c = (char)(int)(128 * uniform());
	s->put(junk.data());
	return s;
}

static bool is_scratch_whole(const bytes &s, std::string *why)
{
	std::vector<char> all;
	std::string other;

	if (s.get(&all, "scratch", &other) || other.find("outside") == std::string::npos)
		return true;
	*why = other;
	return false;
}

/* ---- running ------------------------------------------------------------------------------- */

struct runner {
	const cuda_cases &c;
	size_t n = 0;

	bool is_wanted(const char *op) const
	{
		return c.only.empty() || std::string(op).compare(0, c.only.size(), c.only) == 0;
	}
	st_device *host(enum st_dtype dt) const
	{
		return c.host ? c.host(dt) : nullptr;
	}
	void run(const char *op, enum st_dtype dt, const std::string &shape, double n_bytes,
		 double flops, std::function<cudaError_t(cudaStream_t, int)> launch,
		 std::function<size_t(std::string *)> check)
	{
		cuda_case k = { op,
				std::string(op) + " " + st_dtype_name(dt) + " " + shape,
				dt,
				n_bytes,
				flops,
				std::move(launch),
				std::move(check) };

		n++;
		c.each(k);
	}
};

static const enum st_dtype all_dtypes[] = { ST_F32, ST_BF16, ST_F16 };

typedef std::shared_ptr<operand> held;

static held make(enum st_dtype dt, size_t n, double size, size_t shift = 0)
{
	return std::make_shared<operand>(dt, n, size, shift);
}

/* ---- the header ---------------------------------------------------------------------------- */

static void mma_case(runner *r, enum st_dtype dt, bool is_trans, int hot)
{
	held a = make(dt, 256, 2), b = make(dt, 128, 2), d = make(ST_F32, 128, 1);

	if (hot >= 0) { /* one 1 in A: the product is a row of B, in that row */
		std::fill(a->ref.begin(), a->ref.end(), 0.0);
		a->ref[(size_t)hot] = 1;
		a->sync();
	}
	for (size_t i = 0; i < 16; i++)
		for (size_t j = 0; j < 8; j++) {
			double s = 0;

			for (size_t k = 0; k < 16; k++)
				s += a->ref[i * 16 + k] * b->ref[is_trans ? j * 16 + k : k * 8 + j];
			d->ref[i * 8 + j] = s;
		}
	r->run(
		"header_mma", dt, text("%s %d", is_trans ? "transposed" : "straight", hot), 0, 0,
		[=](cudaStream_t s, int set) {
			return cuda_header_mma(s, dt, a->at(set), b->at(set), is_trans,
					       d->f32(set));
		},
		[=](std::string *why) { return d->check("d", hot < 0 ? 1e-5 : 0, false, why); });
}

static void header_cases(runner *r)
{
	if (!r->is_wanted("header"))
		return;
	for (enum st_dtype dt : { ST_BF16, ST_F16 })
		for (int trans = 0; trans < 2; trans++)
			for (int hot = -2; hot < 256; hot += hot < 0 ? 1 : 5)
				mma_case(r, dt, trans != 0, hot);
	{
		held x = make(ST_F32, 4096, 130), y = make(ST_F32, 4096, 1);

		x->ref[0] = -INFINITY;
		x->ref[1] = 0;
		x->sync();
		for (size_t i = 0; i < x->n; i++)
			y->ref[i] = exp2(x->ref[i]) < 0x1p-126 ? 0 : exp2(x->ref[i]);
		for (size_t i = 0; i < x->n; i++)
			if (!isfinite((float)y->ref[i])) {
				x->ref[i] = y->ref[i] = 1;
				y->ref[i] = 2;
			}
		x->sync();
		r->run(
			"header_exp2", ST_F32, "4096", 0, 0,
			[=](cudaStream_t s, int set) {
				return cuda_header_exp2(s, x->n, x->f32(set), y->f32(set));
			},
			[=](std::string *why) {
				std::vector<char> got;
				size_t wrong = 0;

				if (!y->dev.get(&got, "exp2", why))
					return y->n;
				for (size_t i = 0; i < y->n; i++) {
					double a = st_elem_f32(ST_F32, got.data(), i),
					       e = y->ref[i];

					/* 2^-22, and half a unit where it is rounded */
					if (fabs(a - e) <= (0x1p-22 + 0x1p-24) * e)
						continue;
					if (wrong++ == 0)
						*why = text("exp2(%.9g) = %.9g", x->ref[i], a);
				}
				return wrong;
			});
	}
	for (int mask = 1; mask < 32; mask += mask < 4 ? 1 : 9) {
		held x = make(ST_F32, 32, 1), y = make(ST_F32, 32, 1);
		held words = make(ST_F32, 2, 1);
		uint32_t votes = 0;

		for (size_t i = 0; i < 32; i++) {
			y->ref[i] = x->ref[i ^ (size_t)mask];
			votes |= (uint32_t)(x->ref[i] > 0) << i;
		}
		r->run(
			"header_warp", ST_F32, text("%d", mask), 0, 0,
			[=](cudaStream_t s, int set) {
				uint32_t *w = (uint32_t *)words->at(set);

				return cuda_header_warp(s, x->f32(set), mask, y->f32(set), w,
							w + 1);
			},
			[=](std::string *why) {
				std::vector<char> got;
				uint32_t w[2];

				if (!words->dev.get(&got, "votes", why))
					return (size_t)1;
				memcpy(w, got.data(), sizeof(w));
				if (w[0] != votes || w[1] != 1) {
					*why = text("votes %08x, not %08x; any %u", w[0], votes,
						    w[1]);
					return (size_t)1;
				}
				return y->check("shfl_xor", 0, false, why);
			});
	}
}

/* ---- element-wise -------------------------------------------------------------------------- */

static void elementwise_case(runner *r, enum st_dtype dt, size_t n, size_t shift, bool is_odd)
{
	const double size = (double)n * (double)st_dtype_bytes(dt);
	const std::string shape =
		text("%zu%s%s", n, shift ? " unaligned" : "", is_odd ? ", NaN and Inf" : "");
	held x = make(dt, n, 6, shift), y = make(dt, n, 2, shift);
	held f = make(dt, n, 1, shift), g = make(dt, n, 1, shift), a = make(dt, n, 1, shift);
	st_device *host = r->host(dt);

	if (n > 3) {
		x->ref[0] = 0;
		x->ref[1] = dt == ST_F32 ? -60 : -30;
		x->ref[2] = 40;
		x->sync();
	}
	if (is_odd) { /* in whole vectors, and in what is left behind them */
		for (size_t i : { (size_t)100, n - 7 }) {
			x->set(i, NAN);
			x->set(i + 1, INFINITY);
			x->set(i + 2, -INFINITY);
			y->set(i + 3, NAN);
			y->set(i + 4, INFINITY);
			a->set(i + 4, -INFINITY);
			a->set(i + 5, INFINITY);
		}
		f->is_odd = g->is_odd = a->is_odd = true;
	}
	if (host) {
		st_gelu_fwd(host, n, x->host.data(), f->host.data());
		st_gelu_bwd(host, n, x->host.data(), y->host.data(), g->host.data());
		st_add(host, n, a->host.data(), y->host.data(), a->host.data());
	}
	for (size_t i = 0; i < n; i++) {
		f->ref[i] = ref_gelu(x->ref[i]);
		g->ref[i] = ref_gelu_slope(x->ref[i]) * y->ref[i];
		a->ref[i] += y->ref[i];
	}
	if (r->is_wanted("gelu_fwd"))
		r->run(
			"gelu_fwd", dt, shape, 2 * size, 0,
			[=](cudaStream_t s, int set) {
				return st_cuda_gelu_fwd(s, dt, n, x->at(set), f->at(set));
			},
			[=](std::string *why) { return f->check("gelu", 1e-6, host, why); });
	if (r->is_wanted("gelu_bwd"))
		r->run(
			"gelu_bwd", dt, shape, 3 * size, 0,
			[=](cudaStream_t s, int set) {
				return st_cuda_gelu_bwd(s, dt, n, x->at(set), y->at(set),
							g->at(set));
			},
			[=](std::string *why) { return g->check("gelu slope", 2e-6, host, why); });
	if (r->is_wanted("add")) /* in place */
		r->run(
			"add", dt, shape, 3 * size, 0,
			[=](cudaStream_t s, int set) {
				return st_cuda_add(s, dt, n, a->at(set), y->at(set), a->at(set));
			},
			[=](std::string *why) { return a->check("sum", 0, host, why); });
}

static void zero_case(runner *r, size_t n, size_t shift)
{
	held x = make(ST_F32, n, 1, shift);
	const size_t cut = n > 2 ? 3 : 0; /* an odd number of bytes */

	memset(x->host.data(), 0, n * 4 - cut);
	r->run(
		"fill_zero", ST_F32, text("%zu bytes%s", n * 4 - cut, shift ? " unaligned" : ""),
		(double)n * 4, 0,
		[=](cudaStream_t s, int set) {
			return st_cuda_fill_zero(s, x->at(set), n * 4 - cut);
		},
		[=](std::string *why) { return x->check_bits("zeros", why); });
}

static void cast_case(runner *r, size_t n, enum st_dtype from, enum st_dtype to, size_t shift)
{
	held x = make(from, n, 70000, shift), y = make(to, n, 1, shift);

	for (size_t i = 0; i < n; i += 3) /* of every size, down to what becomes zero */
		x->ref[i] = ldexp(x->ref[i], -(int)(i % 60));
	if (n > 3) {
		x->ref[n - 1] = NAN;
		x->ref[n - 2] = -INFINITY;
		x->ref[1] = INFINITY;
		y->is_odd = true;
	}
	x->sync();
	for (size_t i = 0; i < n; i++)
		st_elem_set(to, y->host.data(), i, st_elem_f32(from, x->host.data(), i));
	r->run(
		"cast", to,
		text("%zu from %s%s", n, st_dtype_name(from), shift ? " unaligned" : ""),
		(double)n * (double)(st_dtype_bytes(from) + st_dtype_bytes(to)), 0,
		[=](cudaStream_t s, int set) {
			return st_cuda_cast(s, n, from, x->at(set), to, y->at(set));
		},
		[=](std::string *why) { return y->check_bits("cast", why); });
}

static void elementwise_cases(runner *r)
{
	static const size_t sizes[] = { 1, 7, 31, 1024, 20011 };

	if (r->is_wanted("gelu_fwd") || r->is_wanted("gelu_bwd") || r->is_wanted("add"))
		for (enum st_dtype dt : all_dtypes) {
			for (size_t n : sizes)
				elementwise_case(r, dt, n, 0, false);
			elementwise_case(r, dt, 1000, 4, false);
			elementwise_case(r, dt, 1003, 0, true);
		}
	if (r->is_wanted("fill_zero")) {
		for (size_t n : sizes)
			zero_case(r, n, 0);
		zero_case(r, 1000, 4);
	}
	if (r->is_wanted("cast"))
		for (enum st_dtype from : all_dtypes)
			for (enum st_dtype to : all_dtypes) {
				for (size_t n : { 1, 8, 3001 })
					cast_case(r, n, from, to, 0);
				cast_case(r, 100, from, to, 4);
			}
}

/* ---- rows ---------------------------------------------------------------------------------- */

struct shape2 {
	size_t rows, cols, shift;
};

static const shape2 row_shapes[] = { { 1, 1, 0 },     { 1, 8, 0 },    { 3, 33, 0 },
				     { 17, 768, 0 },  { 300, 64, 0 }, { 5, 999, 0 },
				     { 2, 12808, 0 }, { 8300, 8, 0 }, { 9, 256, 4 } };

static std::string shape_text(const shape2 &s)
{
	return text("%zu x %zu%s", s.rows, s.cols, s.shift ? " unaligned" : "");
}

/* What is odd in the rows: nothing, an input, or what flows back. */
enum odd_rows { NOTHING_ODD, ODD_X, ODD_DY };

static void layernorm_case(runner *r, enum st_dtype dt, const shape2 &sh, bool has_add,
			   odd_rows odd)
{
	const size_t rows = sh.rows, cols = sh.cols, n = rows * cols;
	const double size = (double)n * (double)st_dtype_bytes(dt);
	held x = make(dt, n, 3, sh.shift), gamma = make(dt, cols, 1, sh.shift);
	held beta = make(dt, cols, 1, sh.shift), y = make(dt, n, 1, sh.shift);
	held mean = make(ST_F32, rows, 1), rstd = make(ST_F32, rows, 1);
	held dy = make(dt, n, 1, sh.shift), dx = make(dt, n, 1, sh.shift);
	held dgamma = make(ST_F32, cols, 1, sh.shift), dbeta = make(ST_F32, cols, 1, sh.shift);
	held m2 = make(ST_F32, rows, 1), k2 = make(ST_F32, rows, 1); /* what backward is given */
	auto work = scratch(st_cuda_layernorm_bwd_work_bytes(rows, cols));
	st_device *host = r->host(dt);

	if (odd == ODD_X) {
		x->set(cols + cols / 2, NAN);
		x->set(3 * cols, INFINITY);
	} else if (odd == ODD_DY) {
		dy->set(cols + cols / 2, NAN);
		dy->set(3 * cols, -INFINITY);
	}
	for (const held &h : { mean, rstd, y, dx, dgamma, dbeta })
		h->is_odd = odd != NOTHING_ODD;
	ref_layernorm(rows, cols, x->ref.data(), gamma->ref.data(), beta->ref.data(), y->ref.data(),
		      mean->ref.data(), rstd->ref.data());
	m2->ref = mean->ref;
	k2->ref = rstd->ref;
	m2->sync();
	k2->sync();
	if (host) {
		std::vector<float> hwork(st_layernorm_bwd_work_bytes(host, rows, cols) / 4 + 16);
		char *w = (char *)hwork.data() + (64 - (uintptr_t)hwork.data() % 64) % 64;

		st_layernorm_fwd(host, rows, cols, x->host.data(), gamma->host.data(),
				 beta->host.data(), y->host.data(), (float *)mean->host.data(),
				 (float *)rstd->host.data());
		st_layernorm_bwd(host, rows, cols, dy->host.data(), x->host.data(),
				 gamma->host.data(), (const float *)m2->host.data(),
				 (const float *)k2->host.data(), has_add ? dx->host.data() : NULL,
				 dx->host.data(), (float *)dgamma->host.data(),
				 (float *)dbeta->host.data(), w);
	}
	ref_layernorm_bwd(rows, cols, dy->ref.data(), x->ref.data(), gamma->ref.data(),
			  m2->ref.data(), k2->ref.data(), has_add ? dx->ref.data() : NULL,
			  dx->ref.data(), dgamma->ref.data(), dbeta->ref.data());
	if (!has_add && r->is_wanted("layernorm_fwd"))
		r->run(
			"layernorm_fwd", dt, shape_text(sh) + (odd ? ", NaN and Inf" : ""),
			2 * size, 0,
			[=](cudaStream_t s, int set) {
				return st_cuda_layernorm_fwd(
					s, dt, rows, cols, x->at(set), gamma->at(set),
					beta->at(set), y->at(set), mean->f32(set), rstd->f32(set));
			},
			[=](std::string *why) {
				return mean->check("mean", 1e-6, host, why) +
				       rstd->check("rstd", 0, host, why) +
				       y->check("y", 1e-5, host, why);
			});
	if (r->is_wanted("layernorm_bwd"))
		r->run(
			"layernorm_bwd", dt,
			shape_text(sh) + (has_add ? " in place" : "") +
				(odd ? ", NaN and Inf" : ""),
			3 * size, 0,
			[=](cudaStream_t s, int set) {
				return st_cuda_layernorm_bwd(
					s, dt, rows, cols, dy->at(set), x->at(set), gamma->at(set),
					m2->f32(set), k2->f32(set), has_add ? dx->at(set) : NULL,
					dx->at(set), dgamma->f32(set), dbeta->f32(set),
					work->p[set]);
			},
			[=](std::string *why) {
				/* rstd is up to 316 for a row without variance */
				double atol = cols < 4 ? 1e-3 : 2e-5,
				       many = sqrt((double)rows / 300);

				return dx->check("dx", atol, host, why) +
				       dgamma->check("dgamma", 1e-4 * std::max(many, 1.0), host,
						     why) +
				       dbeta->check("dbeta", 2e-5 * std::max(many, 1.0), host,
						    why) +
				       !is_scratch_whole(*work, why);
			});
}

static void bias_case(runner *r, enum st_dtype dt, const shape2 &sh, bool is_odd)
{
	const size_t rows = sh.rows, n = sh.cols;
	held dy = make(dt, rows * n, 1, sh.shift), out = make(ST_F32, n, 1, sh.shift);
	auto work = scratch(st_cuda_bias_bwd_work_bytes(rows, n));
	st_device *host = r->host(dt);

	if (is_odd) {
		dy->set(2 * n + 3, NAN);
		dy->set(n + n / 2, INFINITY);
		dy->set(n - 1, -INFINITY);
		out->is_odd = true;
	}
	if (host) {
		std::vector<float> hwork(st_bias_bwd_work_bytes(host, rows, n) / 4 + 16);
		char *w = (char *)hwork.data() + (64 - (uintptr_t)hwork.data() % 64) % 64;

		st_bias_bwd(host, rows, n, dy->host.data(), (float *)out->host.data(), w);
	}
	for (size_t i = 0; i < rows * n; i++)
		out->ref[i % n] += dy->ref[i];
	r->run(
		"bias_bwd", dt, shape_text(sh) + (is_odd ? ", NaN and Inf" : ""),
		(double)(rows * n * st_dtype_bytes(dt)), 0,
		[=](cudaStream_t s, int set) {
			return st_cuda_bias_bwd(s, dt, rows, n, dy->at(set), out->f32(set),
						work->p[set]);
		},
		[=](std::string *why) {
			return out->check("bias", rows > 1000 ? 1e-4 : 2e-5, host, why) +
			       !is_scratch_whole(*work, why);
		});
}

static void row_cases(runner *r)
{
	const bool has_norm = r->is_wanted("layernorm_fwd") || r->is_wanted("layernorm_bwd");
	const shape2 odd = { 17, 264, 0 };

	for (enum st_dtype dt : all_dtypes) {
		for (const shape2 &sh : row_shapes) {
			if (has_norm) {
				layernorm_case(r, dt, sh, false, NOTHING_ODD);
				layernorm_case(r, dt, sh, true, NOTHING_ODD);
			}
			if (r->is_wanted("bias_bwd"))
				bias_case(r, dt, sh, false);
		}
		if (has_norm) {
			layernorm_case(r, dt, odd, false, ODD_X);
			layernorm_case(r, dt, odd, true, ODD_DY);
		}
		if (r->is_wanted("bias_bwd"))
			bias_case(r, dt, odd, true);
	}
}

/* ---- tokens -------------------------------------------------------------------------------- */

struct tokens_of { /* on the device twice, and *bad beside them */
	std::vector<int32_t> host;
	bytes dev, bad;

	tokens_of(size_t n, size_t vocab) : host(n), dev(n * sizeof(int32_t), 0), bad(8, 0)
	{
		const uint64_t none = 0;

		for (int32_t &t : host)
			t = (int32_t)((uniform() + 1) / 2 * (double)vocab);
		put();
		bad.put(&none);
	}
	void put()
	{
		dev.put(host.data());
	}
	const int32_t *at(int set) const
	{
		return (const int32_t *)dev.p[set];
	}
	uint64_t *bad_at(int set) const
	{
		return (uint64_t *)bad.p[set];
	}
	bool is_bad(uint64_t expected, std::string *why) const
	{
		std::vector<char> got;
		uint64_t x;

		if (!bad.get(&got, "bad", why))
			return false;
		memcpy(&x, got.data(), sizeof(x));
		if (x != expected)
			*why = text("bad = %llu, not %llu", (unsigned long long)x,
				    (unsigned long long)expected);
		return x == expected;
	}
};

struct embedding_shape {
	size_t batch, seq, cols, vocab, shift;
};

/* wrong_at: the place of a token outside of the vocabulary; nothing must happen then. */
static void embedding_case(runner *r, enum st_dtype dt, const embedding_shape &e,
			   ptrdiff_t wrong_at, bool is_odd)
{
	const size_t rows = e.batch * e.seq, n = e.cols;
	const double size = (double)(rows * n * st_dtype_bytes(dt));
	const std::string shape =
		text("%zu x %zu x %zu, %zu tokens%s%s%s", e.batch, e.seq, n, e.vocab,
		     e.shift ? " unaligned" : "", wrong_at >= 0 ? ", one wrong" : "",
		     is_odd ? ", NaN and Inf" : "");
	held wte = make(dt, e.vocab * n, 1, e.shift), wpe = make(dt, e.seq * n, 1, e.shift);
	held y = make(dt, rows * n, 1, e.shift), dy = make(dt, rows * n, 1, e.shift);
	held dwte = make(ST_F32, e.vocab * n, 1, e.shift),
	     dwpe = make(ST_F32, e.seq * n, 1, e.shift);
	auto tok = std::make_shared<tokens_of>(rows, e.vocab);

	if (wrong_at >= 0) {
		tok->host[(size_t)wrong_at] = wrong_at % 2 ? -1 : (int32_t)e.vocab;
		tok->host[rows - 1] = -7; /* not the first */
		tok->put();
	}
	if (is_odd) {
		wte->set((size_t)tok->host[1] * n + 1, NAN);
		wpe->set(2 * n + 2, INFINITY);
		dy->set(n + 3, NAN);
		dy->set(3 * n + 4, -INFINITY);
		y->is_odd = dwte->is_odd = dwpe->is_odd = true;
	}
	for (size_t i = 0; i < rows * n && wrong_at < 0;
	     i++) { /* in fp32, in the order of the CPU */
		const size_t from = (size_t)tok->host[i / n] * n + i % n,
			     pos = i / n % e.seq * n + i % n;
		const float d = st_elem_f32(dt, dy->host.data(), i);
		float *to = (float *)dwte->host.data() + from,
		      *at = (float *)dwpe->host.data() + pos;

		st_elem_set(dt, y->host.data(), i,
			    st_elem_f32(dt, wte->host.data(), from) +
				    st_elem_f32(dt, wpe->host.data(), pos));
		*to += d;
		*at += d;
	}
	r->run(
		"embedding", dt, shape, 3 * size, 0,
		[=](cudaStream_t s, int set) {
			cudaError_t rc = st_cuda_check_tokens(s, rows, tok->at(set), e.vocab,
							      tok->bad_at(set));

			rc = rc ? rc
				: st_cuda_embedding_fwd(s, dt, e.batch, e.seq, n, e.vocab,
							tok->at(set), wte->at(set), wpe->at(set),
							y->at(set), tok->bad_at(set));
			return rc ? rc
				  : st_cuda_embedding_bwd(s, dt, e.batch, e.seq, n, e.vocab,
							  tok->at(set), dy->at(set), dwte->f32(set),
							  dwpe->f32(set), tok->bad_at(set));
		},
		[=](std::string *why) {
			const size_t wrong = y->check_bits("embedding", why) +
					     dwte->check_bits("dwte", why) +
					     dwpe->check_bits("dwpe", why);

			return wrong + !tok->is_bad(wrong_at < 0 ? 0 : (uint64_t)wrong_at + 1, why);
		});
}

struct loss_shape {
	size_t rows, vocab, ld, shift;
};

/* Row i of odd logits has, with i % 4: nothing odd; -inf, which counts as nothing; NaN; +inf. */
static void make_odd(operand *x, operand *loss, const loss_shape &l)
{
	static const double odd[] = { 0, -INFINITY, NAN, INFINITY };

	for (size_t i = 0; i < l.rows; i++)
		for (size_t c = 0; c < l.vocab; c += i % 4 == 1 ? 2 : 50)
			x->ref[i * l.ld + c] = odd[i % 4];
	x->sync();
	x->is_odd = loss->is_odd = true;
}

static void loss_case(runner *r, enum st_dtype dt, const loss_shape &l, double scale, bool is_wrong,
		      bool is_odd)
{
	const size_t rows = l.rows, vocab = l.vocab, ld = l.ld;
	held x = make(dt, rows * ld, 10, l.shift), loss = make(ST_F32, rows, 1);
	auto target = std::make_shared<tokens_of>(rows, vocab);
	st_device *host = is_odd ? nullptr : r->host(dt);

	if (is_odd) {
		make_odd(x.get(), loss.get(), l);
		for (int32_t &t : target->host)
			t |= 1; /* not what is -inf: that loss is infinite */
		target->put();
	}
	if (is_wrong) {
		target->host[rows / 2] = (int32_t)vocab;
		target->put();
	} else if (host) {
		st_cross_entropy(host, rows, vocab, ld, x->host.data(), target->host.data(),
				 (float *)loss->host.data(), (float)scale);
	}
	for (size_t i = 0; i < rows && !is_wrong; i++) {
		std::vector<double> g(vocab);

		loss->ref[i] = ref_cross_entropy(vocab, &x->ref[i * ld], (size_t)target->host[i],
						 scale, g.data());
		for (size_t c = 0; c < vocab && scale != 0; c++)
			x->ref[i * ld + c] = g[c];
	}
	r->run(
		"cross_entropy", dt,
		text("%zu x %zu in %zu, scale %g%s%s", rows, vocab, ld, scale,
		     l.shift ? " unaligned" : "",
		     is_wrong ? ", a wrong target"
		     : is_odd ? ", odd logits"
			      : ""),
		(scale != 0 ? 3.0 : 1.0) * (double)(rows * vocab * st_dtype_bytes(dt)), 0,
		[=](cudaStream_t s, int set) {
			cudaError_t rc = st_cuda_check_tokens(s, rows, target->at(set), vocab,
							      target->bad_at(set));

			return rc ? rc
				  : st_cuda_cross_entropy(s, dt, rows, vocab, ld, x->at(set),
							  target->at(set), loss->f32(set),
							  (float)scale, target->bad_at(set));
		},
		[=](std::string *why) {
			if (is_wrong)
				return x->check_bits("logits", why) +
				       loss->check_bits("loss", why) +
				       !target->is_bad(rows / 2 + 1, why);
			return loss->check("loss", 2e-6, host, why) +
			       x->check("logits", 1e-9 * fmax(1, scale), host, why) +
			       !target->is_bad(0, why);
		});
}

static void token_cases(runner *r)
{
	static const embedding_shape embeddings[] = { { 1, 1, 1, 1, 0 },      { 2, 17, 33, 11, 0 },
						      { 3, 100, 200, 40, 0 }, { 2, 300, 8, 3, 0 },
						      { 1, 20, 2056, 5, 0 },  { 2, 9, 64, 4, 4 } };
	static const loss_shape losses[] = { { 1, 1, 1, 0 },       { 3, 7, 8, 0 },
					     { 33, 100, 100, 0 },  { 2, 50257, 50304, 0 },
					     { 5, 1000, 1001, 0 }, { 5, 1000, 1008, 4 } };

	for (enum st_dtype dt : all_dtypes) {
		if (r->is_wanted("embedding")) {
			for (const embedding_shape &e : embeddings)
				embedding_case(r, dt, e, -1, false);
			embedding_case(r, dt, embeddings[1], 4, false);
			embedding_case(r, dt, embeddings[3], 301, false);
			embedding_case(r, dt, embeddings[2], -1, true);
		}
		if (r->is_wanted("cross_entropy"))
			for (const loss_shape &l : losses) {
				loss_case(r, dt, l, 0.125, false, false);
				if (l.vocab > 5000)
					continue;
				loss_case(r, dt, l, 0, false, false);
				loss_case(r, dt, l, 0.125, true, false);
			}
	}
	for (enum st_dtype dt : all_dtypes)
		if (r->is_wanted("cross_entropy"))
			loss_case(r, dt, { 8, 1500, 1504, 0 }, 0.125, false, true);
	if (r->is_wanted("cross_entropy")) /* what fp16 would lose without the scale */
		loss_case(r, ST_F16, { 4, 1000, 1000, 0 }, 4096, false, false);
}

/* ---- attention ----------------------------------------------------------------------------- */

struct attn_shape {
	size_t batch, seq, heads, dim, shift;
};

/* On tensor cores the probabilities (at most 1) and the score gradients are rounded: 2^-9 of each
 * in bf16 and 2^-11 in fp16, so that the sums over them, with values up to 2 and gradients up to 1,
 * are off by at most 2^-8 and 2^-10; backward sees `out` rounded as well, as on the host. */
static double attn_atol(enum st_dtype dt, bool is_backward)
{
	if (dt == ST_F32)
		return is_backward ? 1e-4 : 1e-5;
	return is_backward ? (dt == ST_BF16 ? 2.5e-2 : 5e-3)
			   : (dt == ST_BF16 ? 1.0 / 256 : 1.0 / 1024);
}

/*
 * One odd element, of q, k, v or dout of the last head. A masked probability is 0, and 0 times NaN
 * is NaN: within a tile of 64 what is odd also reaches rows that do not see it. Where these
 * positions lie, there are no such rows.
 */
enum odd_attn { NO_ODD_ATTN, ODD_Q, ODD_K, ODD_V, ODD_DOUT };

static void make_odd(odd_attn odd, const attn_shape &sh, operand *qkv, operand *dout)
{
	const size_t width = sh.heads * sh.dim, last = width - sh.dim + 5;

	if (odd == ODD_Q)
		qkv->set((sh.seq - 1) * 3 * width + last, NAN);
	else if (odd == ODD_K)
		qkv->set(64 * 3 * width + width + last, NAN);
	else if (odd == ODD_V)
		qkv->set(64 * 3 * width + 2 * width + last, INFINITY);
	else if (odd == ODD_DOUT)
		dout->set(63 * width + last, INFINITY);
}

static void attn_case(runner *r, enum st_dtype dt, const attn_shape &sh, odd_attn odd = NO_ODD_ATTN)
{
	static const char *const names[] = { "", ", odd q", ", odd k", ", odd v", ", odd dout" };

	const size_t rows = sh.batch * sh.seq, width = sh.heads * sh.dim, stats = rows * sh.heads;
	const double pairs = (double)stats * (double)(sh.seq + 1) / 2, d = (double)sh.dim;
	const double size = (double)(rows * width * st_dtype_bytes(dt));
	const std::string shape = text("%zu x %zu, %zu heads of %zu%s%s", sh.batch, sh.seq,
				       sh.heads, sh.dim, sh.shift ? " unaligned" : "", names[odd]);
	held qkv = make(dt, rows * 3 * width, 2, sh.shift),
	     out = make(dt, rows * width, 1, sh.shift);
	held lse = make(ST_F32, stats, 1), dout = make(dt, rows * width, 1, sh.shift);
	held dqkv = make(dt, rows * 3 * width, 1, sh.shift);
	held out2 = make(dt, rows * width, 1, sh.shift), lse2 = make(ST_F32, stats, 1);
	auto work = scratch(st_cuda_attention_work_bytes(sh.batch, sh.seq, sh.heads, sh.dim, true));
	const struct ref_attn ref = { sh.batch, sh.seq, sh.heads, sh.dim, qkv->ref.data() };
	st_device *host = r->host(dt);

	make_odd(odd, sh, qkv.get(), dout.get());
	for (const held &h : { out, lse, dqkv })
		h->is_odd = odd != NO_ODD_ATTN;
	ref_attention(&ref, out->ref.data(), lse->ref.data());
	out2->ref = out->ref; /* what backward is given, whatever forward does */
	lse2->ref = lse->ref;
	out2->sync();
	lse2->sync();
	ref_attention_bwd(&ref, lse->ref.data(), dout->ref.data(), dqkv->ref.data());
	if (host) {
		const size_t need = std::max(
			st_attention_work_bytes(host, sh.batch, sh.seq, sh.heads, sh.dim, true),
			st_attention_work_bytes(host, sh.batch, sh.seq, sh.heads, sh.dim, false));
		std::vector<float> hwork(need / 4 + 16);
		struct st_attention at = {};

		at.batch = sh.batch;
		at.seq = sh.seq;
		at.heads = sh.heads;
		at.head_dim = sh.dim;
		at.qkv = qkv->host.data();
		at.out = out->host.data();
		at.lse = (float *)lse->host.data();
		at.work = (char *)hwork.data() + (64 - (uintptr_t)hwork.data() % 64) % 64;
		st_attention_fwd(host, &at);
		at.out = out2->host.data();
		at.lse = (float *)lse2->host.data();
		at.dout = dout->host.data();
		at.dqkv = dqkv->host.data();
		st_attention_bwd(host, &at);
	}
	auto args = [=](int set, const held &o, const held &l) {
		return st_cuda_attention{ sh.batch,      sh.seq,      sh.heads,    sh.dim,
					  qkv->at(set),  o->at(set),  l->f32(set), dout->at(set),
					  dqkv->at(set), work->p[set] };
	};
	if (r->is_wanted("attention_fwd"))
		r->run(
			"attention_fwd", dt, shape, 4 * size, pairs * d * 4,
			[=](cudaStream_t s, int set) {
				const st_cuda_attention at = args(set, out, lse);

				return st_cuda_attention_fwd(s, dt, &at);
			},
			[=](std::string *why) {
				return lse->check("lse", 1e-5, host, why) +
				       out->check("out", attn_atol(dt, false), host, why);
			});
	if (r->is_wanted("attention_bwd"))
		r->run(
			"attention_bwd", dt, shape, 8 * size, pairs * d * 10,
			[=](cudaStream_t s, int set) {
				const st_cuda_attention at = args(set, out2, lse2);

				return st_cuda_attention_bwd(s, dt, &at);
			},
			[=](std::string *why) {
				return dqkv->check("dqkv", attn_atol(dt, true), host, why) +
				       !is_scratch_whole(*work, why);
			});
}

static void attention_cases(runner *r)
{
	static const attn_shape shapes[] = {
		{ 1, 1, 1, 8, 0 },     { 2, 17, 3, 16, 0 },  { 1, 64, 2, 64, 0 },
		{ 2, 65, 1, 24, 0 },   { 1, 17, 2, 128, 0 }, { 1, 200, 2, 40, 0 },
		{ 1, 130, 1, 128, 0 }, { 1, 1, 1, 64, 0 },   { 1, 1, 1, 128, 0 },
		{ 1, 70, 1, 136, 0 },  { 1, 5, 1, 512, 0 },  { 1, 33, 2, 64, 4 },
		{ 1, 17, 1, 64, 0 },
	};

	if (!r->is_wanted("attention_fwd") && !r->is_wanted("attention_bwd"))
		return;
	for (enum st_dtype dt : all_dtypes) {
		for (const attn_shape &sh : shapes)
			attn_case(r, dt, sh);
		for (size_t dim : { 64, 128 })
			for (int odd = ODD_Q; odd <= ODD_DOUT; odd++)
				attn_case(r, dt, { 1, 70, 2, dim, 0 }, (odd_attn)odd);
	}
	attn_case(r, ST_F32, { 1, 1024, 1, 64, 0 });
	attn_case(r, ST_BF16, { 1, 1024, 1, 64, 0 });
	attn_case(r, ST_F16, { 1, 1024, 1, 128, 0 });
}

/* ---- gradients and the optimizer ----------------------------------------------------------- */

static const enum st_dtype dtype_of_grads[] = { ST_F32, ST_BF16, ST_F16 };

/* Values of every size, ties between two results of rounding, and, where asked, NaN and Inf. */
static void odd_values(std::vector<char> *v, size_t n, bool has_nan)
{
	float *x = (float *)v->data();

	for (size_t i = 0; i < n; i++) {
		if (i % 5 == 0)
			x[i] = (float)ldexp(uniform(), (int)(i % 120) - 80);
		if (i % 11 == 0)
			x[i] = st_bits_f32(st_f32_bits(x[i]) & 0xffff8000u); /* a tie in bf16 */
		if (i % 13 == 0)
			x[i] = st_bits_f32(st_f32_bits(x[i]) & 0xfffff000u); /* in fp16 */
		if (has_nan && i % 4096 == 4000)
			x[i] = i % 8192 > 4096 ? INFINITY : st_bits_f32(0xffa01234u);
	}
}

static void reduce_case(runner *r, size_t n, int grads, bool has_nan, size_t shift)
{
	const size_t leaves = (n + STRATA_NUMERIC_TILE - 1) / STRATA_NUMERIC_TILE;
	const enum strata_optim_grads g = (enum strata_optim_grads)grads;
	held acc = make(ST_F32, n, 1, shift), out = make(dtype_of_grads[grads], n, 1, shift);
	held leaf = make(ST_F32, 2 * leaves, 1); /* of doubles, compared as bits */

	odd_values(&acc->host, n, has_nan);
	acc->dev.put(acc->host.data());
	if (strata_optim_reduce(n, (const float *)acc->host.data(), out->host.data(), g,
				(double *)leaf->host.data()))
		throw std::runtime_error(st_last_error());
	r->run(
		"reduce", out->dt,
		text("%zu%s%s", n, has_nan ? " with NaN and Inf" : "", shift ? " unaligned" : ""),
		(double)(n * (4 + st_dtype_bytes(out->dt))), 0,
		[=](cudaStream_t s, int set) {
			return st_cuda_reduce(s, n, acc->f32(set), out->at(set), g,
					      (double *)leaf->at(set));
		},
		[=](std::string *why) {
			return out->check_bits("gradient", why) + leaf->check_bits("leaf", why);
		});
}

/* Any bits at all as 16-bit gradients, so that every decoding is met. */
static void update_case(runner *r, const strata_optim_format &f, enum strata_optim_kind kind,
			size_t n, bool has_nan, size_t shift)
{
	const bool is_split = f.params == STRATA_PARAMS_SPLIT;
	held p = make(is_split ? ST_BF16 : ST_F32, n, 1, shift);
	held low = make(ST_BF16, n, 1, shift), m = make(ST_F32, n, 0.1, shift);
	held v = make(ST_F32, n, 0.1, shift), g = make(dtype_of_grads[f.grads], n, 1, shift);
	struct strata_optim_cfg cfg = {};
	struct strata_optim_step step;
	auto factors = std::make_shared<st_factors>();
	struct strata_optim_range range = {};

	cfg.struct_bytes = sizeof(cfg);
	cfg.kind = kind;
	cfg.beta1 = 0.9;
	cfg.beta2 = 0.999;
	cfg.eps = 1e-8;
	cfg.has_bias_correction = true;
	if (strata_optim_prepare(&step, &cfg, 3, 1e-3, n % 2 ? 0.0 : 0.1, 0.75))
		throw std::runtime_error(st_last_error());
	memcpy(factors.get(), &step, sizeof(*factors));
	for (double &x : v->ref)
		x = fabs(x) * fabs(x);
	v->sync();
	for (size_t i = 0; i < n; i++) { /* the correction is any 16 bits; padding is zeros */
		uint16_t bits = (uint16_t)(int)(32767 * uniform());

		/* Where nothing moves and nothing decays, a master weight half-way between two. */
		bits = i % 7 == 1 ? 0x8000 : bits;
		memcpy(&low->host[2 * i], &bits, 2);
		for (const held &h : { m, v, g, p, low }) {
			const size_t each = st_dtype_bytes(h->dt);

			if (i % 7 == 0 || (i % 7 == 1 && h != p && h != low))
				memset(&h->host[i * each], 0, each);
		}
	}
	if (f.grads == STRATA_GRADS_F32 && n % 2 == 0) {
		odd_values(&g->host, n, has_nan);
	} else if (has_nan) {
		for (size_t i = 3; i < n; i += 7) {
			uint16_t bits = (uint16_t)(int)(32767 * uniform());

			memcpy(&g->host[2 * i], &bits, 2);
		}
	}
	for (const held &h : { p, low, m, v, g })
		h->dev.put(h->host.data());
	range.n = n;
	range.array[STRATA_ARRAY_PARAM] = p->host.data();
	range.array[STRATA_ARRAY_LOW] = f.params == STRATA_PARAMS_F32 ? NULL : low->host.data();
	range.array[STRATA_ARRAY_M] = m->host.data();
	range.array[STRATA_ARRAY_V] = v->host.data();
	range.array[STRATA_ARRAY_GRAD] = g->host.data();
	if (strata_optim_update(&step, &f, &range))
		throw std::runtime_error(st_last_error());
	r->run(
		"adam_update", g->dt,
		text("%zu, parameters %d, kind %d%s%s", n, (int)f.params, (int)kind,
		     has_nan ? ", NaN and Inf" : "", shift ? " unaligned" : ""),
		(double)n * (double)((is_split ? 8 : 12) + 16 + st_dtype_bytes(g->dt)), 0,
		[=](cudaStream_t s, int set) {
			struct strata_optim_range d = {};

			d.n = n;
			d.array[STRATA_ARRAY_PARAM] = p->at(set);
			d.array[STRATA_ARRAY_LOW] =
				f.params == STRATA_PARAMS_F32 ? NULL : low->at(set);
			d.array[STRATA_ARRAY_M] = m->at(set);
			d.array[STRATA_ARRAY_V] = v->at(set);
			d.array[STRATA_ARRAY_GRAD] = g->at(set);
			return st_cuda_update(s, factors.get(), &f, &d);
		},
		[=](std::string *why) {
			return p->check_bits("parameter", why) + low->check_bits("low", why) +
			       m->check_bits("m", why) + v->check_bits("v", why) +
			       g->check_bits("gradient", why);
		});
}

static void optim_cases(runner *r)
{
	if (r->is_wanted("reduce"))
		for (int grads = STRATA_GRADS_F32; grads <= STRATA_GRADS_F16; grads++) {
			for (size_t n : { 1, 77, 4096, 4097, 3 * 4096 + 8 })
				reduce_case(r, n, grads, false, 0);
			reduce_case(r, 4 * 4096 + 100, grads, true, 0);
			reduce_case(r, 5000, grads, false, 4);
		}
	if (!r->is_wanted("adam_update"))
		return;
	for (int params = STRATA_PARAMS_SPLIT; params <= STRATA_PARAMS_F32_F16; params++)
		for (int grads = STRATA_GRADS_F32; grads <= STRATA_GRADS_F16; grads++) {
			const strata_optim_format f = { (enum strata_optim_params)params,
							STRATA_MOMENTS_F32,
							(enum strata_optim_grads)grads };

			for (size_t n : { 1, 15, 4096, 5003 })
				update_case(r, f, STRATA_OPTIM_ADAMW, n, false, 0);
			update_case(r, f, STRATA_OPTIM_ADAMW, 9000, true, 0);
			update_case(r, f, STRATA_OPTIM_ADAM, 4104, false, 0);
			update_case(r, f, STRATA_OPTIM_ADAMW, 1000, false, 4);
		}
}

size_t cuda_cases_run(const cuda_cases &c)
{
	runner r = { c };

	seed = 0;
	header_cases(&r);
	elementwise_cases(&r);
	row_cases(&r);
	token_cases(&r);
	attention_cases(&r);
	optim_cases(&r);
	return r.n;
}
