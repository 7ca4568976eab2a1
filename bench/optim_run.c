/* SPDX-License-Identifier: Apache-2.0 */
/* bench/optim_run.c - arrays, the three passes that are timed, and the comparison of bits. */
#include "bench/optim_run.h"

#include <errno.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/compare.h"
#include "bench/four_pass.h"
#include "bench/rmw.h"
#include "core/arena.h"
#include "core/clock.h"
#include "core/dtype.h"
#include "core/machine.h"

#define TILE_ELEMS   ((size_t)1 << 18)
#define SHIFT_BYTES  ((size_t)1344) /* 21 cache lines */
#define ALIGN_BYTES  ((size_t)65536)
#define FOUR_BYTES   18u /* p, m, v, g and the cast copy: resident, a parameter */
#define CACHED_MAX   ((size_t)4096)
#define CACHED_MIN   ((size_t)1024)
#define CACHED_BYTES ((size_t)256 << 10) /* for one thread's arrays, both sides' */
#define MIDDLE_BYTES ((double)(64u << 20))
#define SAMPLE_ELEMS 4e6 /* of one thread */
#define ROUNDS_MAX   400u
#define SPOTS        8u
#define SPOT_ELEMS   ((size_t)16384)
#define LR           1e-4
#define WEIGHT_DECAY 0.1

struct place { /* arrays of n elements, of both sides */
	void *array[STRATA_ARRAY_N];
	struct st_four_pass four;
	size_t n;
};

enum subject { OURS, RMW, FOUR, SUBJECTS };

struct samples { /* [rounds]: 1e9 elements a second */
	double rate[SUBJECTS][ROUNDS_MAX], alone[ROUNDS_MAX];
};

struct st_optim_bench {
	struct st_optim_bench_cfg cfg;
	struct strata_optim_format format;
	enum strata_isa best; /* the opponents' */
	struct st_arena memory;
	struct place large;
	struct place *cached; /* [cfg.threads] */
	uint64_t t;           /* the last step */
	unsigned team;        /* threads that the last pass had */
	unsigned reps[ST_OPTIM_SIZES];
	volatile uint64_t sink;
	struct samples samples[ST_OPTIM_SIZES];
};

/* ---- sizes --------------------------------------------------------------------------------- */

/* Exact for multiples of STRATA_MOMENTS_BLOCK; the configuration and the format were checked. */
static void array_bytes(const struct st_optim_bench *b, size_t n, size_t bytes[STRATA_ARRAY_N])
{
	ST_ASSERT(!strata_optim_array_bytes(&b->cfg.optim, &b->format, n, bytes));
}

static double per_param(const struct strata_optim_cfg *cfg, const struct strata_optim_format *f,
			bool is_moved)
{
	const size_t n = STRATA_MOMENTS_BLOCK;
	size_t bytes[STRATA_ARRAY_N];
	double sum = 0;

	if (strata_optim_array_bytes(cfg, f, n, bytes))
		return NAN;
	for (int a = 0; a < STRATA_ARRAY_N; a++) {
		bool is_low = a == STRATA_ARRAY_LOW && f->params != STRATA_PARAMS_SPLIT;
		bool once = a == STRATA_ARRAY_GRAD || is_low || !is_moved;

		sum += (double)bytes[a] * (once ? 1 : 2);
	}
	return sum / (double)n;
}

double st_optim_resident_bytes(const struct strata_optim_cfg *cfg,
			       const struct strata_optim_format *f)
{
	return per_param(cfg, f, false);
}

double st_optim_moved_bytes(const struct strata_optim_cfg *cfg, const struct strata_optim_format *f)
{
	return per_param(cfg, f, true);
}

static size_t elems_of(const struct st_optim_bench *b, enum st_optim_size size)
{
	double middle = MIDDLE_BYTES / st_optim_resident_bytes(&b->cfg.optim, &b->format);

	switch (size) {
	case ST_OPTIM_CACHED:
		return b->cached[0].n;
	case ST_OPTIM_64MIB:
		if (middle >= (double)b->large.n)
			return 0;
		return (size_t)middle / STRATA_NUMERIC_TILE * STRATA_NUMERIC_TILE;
	default:
		return b->large.n;
	}
}

/* The largest power of two whose arrays leave a quarter of the L1 cache free. */
static size_t cached_elems(const struct st_optim_bench *b)
{
	double each = st_optim_resident_bytes(&b->cfg.optim, &b->format);
	long l1 = sysconf(_SC_LEVEL1_DCACHE_SIZE);
	size_t n = CACHED_MAX;

	while (n > CACHED_MIN && (double)n * each > 0.75 * (double)(l1 > 0 ? l1 : 32768))
		n /= 2;
	return n;
}

/* ---- memory -------------------------------------------------------------------------------- */

static size_t up(size_t x, size_t to)
{
	return (x + to - 1) / to * to;
}

static size_t large_bytes(const struct st_optim_bench_cfg *cfg)
{
	size_t arrays = STRATA_ARRAY_N + 5;

	return cfg->params * (cfg->elem_bytes + FOUR_BYTES) + arrays * (2 * ALIGN_BYTES);
}

/* Each array at another shift; what does not exist takes no room. */
static char *put(char **at, size_t bytes, size_t align, unsigned *n_put)
{
	char *start = *at;

	if (!bytes)
		return NULL;
	start += align - 1 - ((uintptr_t)start + align - 1) % align;
	start += *n_put * (align > 64 ? SHIFT_BYTES : 64);
	*n_put += 1;
	*at = start + bytes;
	return start;
}

static void lay_out(const struct st_optim_bench *b, struct place *p, size_t n, char *at,
		    size_t align)
{
	const struct strata_optim_cfg *o = &b->cfg.optim;
	size_t bytes[STRATA_ARRAY_N];
	unsigned n_put = 0;

	p->n = n;
	array_bytes(b, up(n, STRATA_MOMENTS_BLOCK), bytes);
	for (int a = 0; a < STRATA_ARRAY_N; a++)
		p->array[a] = put(&at, bytes[a], align, &n_put);
	n_put = 0;
	p->four.n = n;
	p->four.p = (float *)put(&at, 4 * n, align, &n_put);
	p->four.m = (float *)put(&at, o->kind == STRATA_OPTIM_ADAGRAD ? 0 : 4 * n, align, &n_put);
	p->four.v = (float *)put(&at, bytes[STRATA_ARRAY_V] ? 4 * n : 0, align, &n_put);
	p->four.g = (float *)put(&at, 4 * n, align, &n_put);
	p->four.low = (uint16_t *)put(&at, 2 * n, align, &n_put);
}

static int check_room(const struct st_optim_bench_cfg *cfg, size_t bytes)
{
	struct st_machine_memory m;
	struct st_machine_cgroup g;
	uint64_t left;

	st_machine_memory("", &m);
	st_machine_cgroup("", &g);
	left = m.available_bytes;
	if (g.limit_bytes != ST_MACHINE_UNLIMITED) {
		uint64_t room = g.limit_bytes > g.used_bytes ? g.limit_bytes - g.used_bytes : 0;

		left = room < left ? room : left;
	}
	if (!m.total_bytes || bytes <= left / 10 * 9)
		return 0;
	return st_fail(STRATA_E_NO_FIT,
		       "bench optim: %zu parameters need %zu MiB, and %llu MiB are free: give "
		       "--params %llu or less.",
		       cfg->params, bytes >> 20, (unsigned long long)(left >> 20),
		       (unsigned long long)(left / 10 * 9 / (cfg->elem_bytes + FOUR_BYTES) /
					    1000000 * 1000000));
}

int st_optim_bench_create(struct st_optim_bench **out, const struct st_optim_bench_cfg *cfg)
{
	struct st_optim_bench *b = NULL;
	size_t bytes;
	int rc;

	if (!cfg->params || !cfg->threads ||
	    cfg->params > SIZE_MAX / 2 / (cfg->elem_bytes + FOUR_BYTES))
		return st_fail(-EINVAL, "bench optim: %zu parameters, %u threads: out of range.",
			       cfg->params, cfg->threads);
	bytes = large_bytes(cfg) + cfg->threads * CACHED_BYTES;
	rc = check_room(cfg, bytes);
	if (rc)
		return rc;
	b = calloc(1, sizeof(*b));
	if (!b)
		return st_fail(-ENOMEM, "bench optim");
	b->cfg = *cfg;
	b->best = strata_isa_best();
	b->cached = calloc(cfg->threads, sizeof(*b->cached));
	rc = b->cached ? st_arena_init(&b->memory, bytes, "host") : st_fail(-ENOMEM, "bench optim");
	if (rc) {
		st_optim_bench_destroy(b);
		return rc;
	}
	*out = b;
	return 0;
}

void st_optim_bench_destroy(struct st_optim_bench *b)
{
	if (!b)
		return;
	st_arena_fini(&b->memory);
	free(b->cached);
	free(b);
}

/* ---- contents ------------------------------------------------------------------------------ */

/* Of both signs, between 2^-5 and 2^-3: no step makes a denormal number of them or their squares.
 */
static float value(uint64_t i)
{
	uint64_t h = (i + 1) * 0x9e3779b97f4a7c15u;

	h ^= h >> 29;
	h *= 0xbf58476d1ce4e5b9u;
	h ^= h >> 32;
	return st_bits_f32(((uint32_t)h & 0x80ffffffu) + 0x3d000000u);
}

/* Elements [first, first + n) of one numeric tile: moments 0, as before the first step. */
static void fill_tile(const struct st_optim_bench *b, const struct place *p, size_t first, size_t n)
{
	static const enum st_dtype grads[] = { [STRATA_GRADS_F32] = ST_F32,
					       [STRATA_GRADS_BF16] = ST_BF16,
					       [STRATA_GRADS_F16] = ST_F16 };
	float x[STRATA_NUMERIC_TILE];
	size_t at[STRATA_ARRAY_N], end[STRATA_ARRAY_N];

	array_bytes(b, first, at);
	array_bytes(b, first + n, end);
	for (size_t i = 0; i < n; i++)
		x[i] = value(first + i);
	if (b->format.params == STRATA_PARAMS_SPLIT)
		strata_optim_split(n, x, (uint16_t *)p->array[STRATA_ARRAY_PARAM] + first,
				   (int16_t *)p->array[STRATA_ARRAY_LOW] + first);
	else
		memcpy((float *)p->array[STRATA_ARRAY_PARAM] + first, x, n * sizeof(float));
	memcpy(p->four.p + first, x, n * sizeof(float));
	for (size_t i = 0; i < n; i++) {
		p->four.g[first + i] = value(~(first + i));
		st_elem_set(grads[b->format.grads], p->array[STRATA_ARRAY_GRAD], first + i,
			    p->four.g[first + i]);
	}
	for (int a = STRATA_ARRAY_M; a <= STRATA_ARRAY_V_SCALE; a++)
		if (p->array[a])
			memset((char *)p->array[a] + at[a], 0, end[a] - at[a]);
	if (p->four.m)
		memset(p->four.m + first, 0, n * sizeof(float));
	if (p->four.v)
		memset(p->four.v + first, 0, n * sizeof(float));
}

static void fill(const struct st_optim_bench *b, const struct place *p)
{
#pragma omp parallel for num_threads(b->cfg.threads) schedule(static)
	for (size_t i = 0; i < p->n; i += STRATA_NUMERIC_TILE)
		fill_tile(b, p, i, p->n - i < STRATA_NUMERIC_TILE ? p->n - i : STRATA_NUMERIC_TILE);
}

int st_optim_bench_use(struct st_optim_bench *b, const struct strata_optim_format *f)
{
	size_t bytes[STRATA_ARRAY_N];
	char *cached = b->memory.base + up(large_bytes(&b->cfg), 4096);
	int rc = strata_optim_array_bytes(&b->cfg.optim, f, 1, bytes);

	if (rc)
		return rc;
	if (st_optim_resident_bytes(&b->cfg.optim, f) > (double)b->cfg.elem_bytes)
		return st_fail(-EINVAL, "bench optim: the format needs more than %zu bytes.",
			       b->cfg.elem_bytes);
	b->format = *f;
	b->t = 0;
	lay_out(b, &b->large, b->cfg.params, b->memory.base, ALIGN_BYTES);
	fill(b, &b->large);
	for (unsigned k = 0; k < b->cfg.threads; k++) {
		lay_out(b, &b->cached[k], cached_elems(b), cached + k * CACHED_BYTES, 64);
		fill(b, &b->cached[k]);
	}
	return 0;
}

/* ---- passes -------------------------------------------------------------------------------- */

/* What thread k of a team works on. */
struct part {
	const struct place *p;
	size_t first, end;
};

static struct part part_of(const struct st_optim_bench *b, enum st_optim_size size)
{
	const unsigned k = (unsigned)omp_get_thread_num(), team = (unsigned)omp_get_num_threads();
	const size_t n = elems_of(b, size), tile = STRATA_NUMERIC_TILE;
	const size_t tiles = up(n, tile) / tile, end = tiles * (k + 1) / team * tile;

	if (size == ST_OPTIM_CACHED)
		return (struct part){ &b->cached[k], 0, n };
	return (struct part){ &b->large, tiles * k / team * tile, end < n ? end : n };
}

static struct strata_optim_range range_of(const struct st_optim_bench *b, const struct place *p,
					  size_t first, size_t n)
{
	struct strata_optim_range r = { .n = n, .first = first, .stream = 1 };
	size_t at[STRATA_ARRAY_N];

	array_bytes(b, first, at);
	for (int a = 0; a < STRATA_ARRAY_N; a++)
		if (p->array[a])
			r.array[a] = (char *)p->array[a] + at[a];
	return r;
}

static void pass_ours(const struct st_optim_bench *b, const struct part *w, unsigned reps,
		      const struct strata_optim_step *s)
{
	for (size_t at = w->first; at < w->end; at += TILE_ELEMS) {
		size_t n = w->end - at < TILE_ELEMS ? w->end - at : TILE_ELEMS;
		const struct strata_optim_range r = range_of(b, w->p, at, n);

		for (unsigned i = 0; i < reps; i++)
			ST_ASSERT(!strata_optim_update(s, &b->format, &r));
	}
}

/* A last block that is not whole is left out. */
static uint64_t pass_rmw(const struct st_optim_bench *b, const struct part *w)
{
	struct st_rmw_stream streams[ST_RMW_STREAMS_MAX];
	const size_t block = STRATA_MOMENTS_BLOCK;
	size_t bytes[STRATA_ARRAY_N], n = 0;

	array_bytes(b, block, bytes);
	for (int a = 0; a < STRATA_ARRAY_N; a++) {
		bool is_low = a == STRATA_ARRAY_LOW && b->format.params != STRATA_PARAMS_SPLIT;

		if (w->p->array[a])
			streams[n++] = (struct st_rmw_stream){
				.base = w->p->array[a],
				.block_bytes = bytes[a],
				.is_read = !is_low,
				.is_written = a != STRATA_ARRAY_GRAD,
			};
	}
	return st_rmw(b->best, streams, n, w->first / block, (w->end - w->first) / block);
}

/* All of a team walk one set of arrays, with a barrier after each pass; in cache each thread has
 * its own, and none waits. @return the time of the third pass; 0 in cache */
static int64_t pass_four(const struct st_optim_bench *b, const struct part *w, bool is_shared,
			 double *sum, const struct st_four_factors *f)
{
	const enum strata_optim_kind kind = b->cfg.optim.kind;
	const struct st_four_pass *all = &w->p->four;
	const struct st_four_pass a = {
		.isa = b->best,
		.n = w->end - w->first,
		.p = all->p + w->first,
		.m = all->m ? all->m + w->first : NULL,
		.v = all->v ? all->v + w->first : NULL,
		.g = all->g + w->first,
		.low = all->low + w->first,
	};
	double mine = st_four_norm(&a);
	int64_t start_ns;

	if (is_shared) {
#pragma omp atomic
		*sum += mine;
#pragma omp barrier
		mine = *sum;
	}
	st_four_unscale(&a, isfinite(mine) ? 1.0f : 0.0f);
	if (is_shared) {
#pragma omp barrier
	}
	start_ns = is_shared ? st_now_ns() : 0;
	st_four_update(&a, kind, f);
	if (is_shared) {
#pragma omp barrier
	}
	if (is_shared)
		start_ns = st_now_ns() - start_ns;
	st_four_cast(&a);
	return start_ns;
}

/* ---- timing -------------------------------------------------------------------------------- */

/* One pass, reps times. @param alone_ns  out, of the four passes' third; 0 in cache
 *  @return its time, of one repetition */
static double timed(struct st_optim_bench *b, enum st_optim_size size, enum subject who,
		    unsigned threads, unsigned reps, double *alone_ns)
{
	const struct strata_optim_cfg *o = &b->cfg.optim;
	const struct st_four_factors four = st_four_factors(o, b->t + 1, LR, WEIGHT_DECAY);
	const unsigned outer = size == ST_OPTIM_CACHED ? 1 : reps;
	struct strata_optim_step step;
	int64_t start_ns, alone = 0;
	uint64_t seen = 0;
	double sum = 0;

	ST_ASSERT(!strata_optim_prepare(&step, o, ++b->t, LR, WEIGHT_DECAY, 1));
	start_ns = st_now_ns();
#pragma omp parallel num_threads(threads) reduction(| : seen)
	{
		const struct part w = part_of(b, size);

		for (unsigned i = 0; who == OURS && i < outer; i++)
			pass_ours(b, &w, reps / outer, &step);
		for (unsigned i = 0; who == RMW && i < reps; i++)
			seen |= pass_rmw(b, &w);
		for (unsigned i = 0; who == FOUR && i < reps; i++) {
			int64_t ns = pass_four(b, &w, size != ST_OPTIM_CACHED, &sum, &four);

#pragma omp master
			alone += ns;
		}
#pragma omp master
		b->team = (unsigned)omp_get_num_threads();
	}
	b->sink = seen;
	*alone_ns = (double)alone / reps;
	return (double)(st_now_ns() - start_ns) / reps;
}

static double elems_per_pass(const struct st_optim_bench *b, enum st_optim_size size)
{
	return (double)elems_of(b, size) * (size == ST_OPTIM_CACHED ? b->team : 1);
}

/* Warms up, and says how often a pass is repeated: a sample is some milliseconds of work. Not found
 * by timing, for on a busy machine a first, interrupted pass would seem long enough. */
static void warm_up(struct st_optim_bench *b, enum st_optim_size size, unsigned threads)
{
	const double team = size == ST_OPTIM_CACHED ? 1 : threads;
	double alone_ns;

	b->reps[size] = 1 + (unsigned)(SAMPLE_ELEMS * team / (double)elems_of(b, size));
	for (int who = 0; who < SUBJECTS; who++)
		if (size != ST_OPTIM_CACHED || who != RMW)
			timed(b, size, (enum subject)who, threads, 1, &alone_ns);
}

static void sample(struct st_optim_bench *b, enum st_optim_size size, unsigned threads,
		   unsigned round)
{
	for (unsigned i = 0; i < SUBJECTS; i++) {
		const enum subject who = (enum subject)((i + round) % SUBJECTS);
		double alone_ns, ns;

		if (size == ST_OPTIM_CACHED && who == RMW)
			continue;
		ns = timed(b, size, who, threads, b->reps[size], &alone_ns);
		b->samples[size].rate[who][round] = elems_per_pass(b, size) / ns;
		if (who == FOUR)
			b->samples[size].alone[round] = elems_per_pass(b, size) / alone_ns;
	}
}

/* ---- results ------------------------------------------------------------------------------- */

static double median_ratio(const double *x, const double *y, unsigned n)
{
	double v[ROUNDS_MAX];

	for (unsigned i = 0; i < n; i++)
		v[i] = y ? x[i] / y[i] : x[i];
	return st_median(v, n);
}

static struct st_optim_rates rates(const struct st_optim_bench *b, enum st_optim_size size,
				   unsigned rounds)
{
	const struct samples *s = &b->samples[size];
	const double moved = st_optim_moved_bytes(&b->cfg.optim, &b->format);
	const double resident = st_optim_resident_bytes(&b->cfg.optim, &b->format);
	const bool is_cached = size == ST_OPTIM_CACHED;
	const double *ours = s->rate[OURS];
	struct st_optim_rates r = {
		.is_there = true,
		.elems = (size_t)elems_per_pass(b, size),
		.resident_bytes = (size_t)(elems_per_pass(b, size) * resident),
		.threads = b->team,
		.rounds = rounds,
		.gparams = median_ratio(ours, NULL, rounds),
		.gparams_min = INFINITY,
		.rmw_gbps = is_cached ? NAN : median_ratio(s->rate[RMW], NULL, rounds) * moved,
		.rmw_share = is_cached ? NAN : median_ratio(ours, s->rate[RMW], rounds),
		.four_gparams = median_ratio(s->rate[FOUR], NULL, rounds),
		.ratio_to_four = median_ratio(ours, s->rate[FOUR], rounds),
		.ratio_to_alone = is_cached ? NAN : median_ratio(ours, s->alone, rounds),
		.cached_gparams =
			median_ratio(b->samples[ST_OPTIM_CACHED].rate[OURS], NULL, rounds),
		.cached_share = median_ratio(ours, b->samples[ST_OPTIM_CACHED].rate[OURS], rounds),
	};

	r.gbps = is_cached ? NAN : r.gparams * moved;
	for (unsigned i = 0; i < rounds; i++) {
		r.gparams_min = fmin(r.gparams_min, ours[i]);
		r.gparams_max = fmax(r.gparams_max, ours[i]);
	}
	return r;
}

/* ---- the same bits? ------------------------------------------------------------------------ */

struct spot {
	const struct place *p;
	size_t first, n;
	char *copy[STRATA_ARRAY_N];
};

static unsigned choose_spots(const struct st_optim_bench *b, enum st_optim_size size,
			     struct spot spots[SPOTS])
{
	const size_t n = elems_of(b, size), len = n < SPOT_ELEMS ? n : SPOT_ELEMS;
	const bool is_cached = size == ST_OPTIM_CACHED;
	const size_t places = is_cached ? b->team : n == len ? 1 : SPOTS;
	const size_t last = is_cached ? 0 : (n - len) / STRATA_NUMERIC_TILE * STRATA_NUMERIC_TILE;
	unsigned n_spots = 0;

	/* The last one ends where the arrays end. */
	for (size_t i = 0; i < places && i < SPOTS; i++) {
		size_t first = places > 1 ? up(last / (places - 1) * i, STRATA_NUMERIC_TILE) : 0;
		bool is_last = is_cached || i + 1 == places;

		first = is_last || first > last ? last : first;
		spots[n_spots++] = (struct spot){
			.p = is_cached ? &b->cached[i] : &b->large,
			.first = first,
			.n = is_last ? n - first : len,
		};
	}
	return n_spots;
}

static int copy_spot(const struct st_optim_bench *b, struct spot *s)
{
	const struct strata_optim_range r = range_of(b, s->p, s->first, s->n);
	size_t bytes[STRATA_ARRAY_N];

	array_bytes(b, s->n, bytes);
	for (int a = 0; a < STRATA_ARRAY_N; a++) {
		if (!bytes[a])
			continue;
		s->copy[a] = malloc(bytes[a]);
		if (!s->copy[a])
			return st_fail(-ENOMEM, "bench optim: %zu bytes to compare", bytes[a]);
		memcpy(s->copy[a], r.array[a], bytes[a]);
	}
	return 0;
}

/* Takes the scalar step on the copy. @return elements, and scales, that differ from the place */
static uint64_t compare_spot(const struct st_optim_bench *b, const struct spot *s,
			     const struct strata_optim_step *step)
{
	struct strata_optim_range now = range_of(b, s->p, s->first, s->n), was = now;
	size_t bytes[STRATA_ARRAY_N], one[STRATA_ARRAY_N];
	uint64_t wrong = 0;

	for (int a = 0; a < STRATA_ARRAY_N; a++)
		was.array[a] = s->copy[a];
	ST_ASSERT(!strata_optim_update(step, &b->format, &was));
	array_bytes(b, s->n, bytes);
	array_bytes(b, 1, one);
	for (int a = 0; a < STRATA_ARRAY_N; a++)
		for (size_t i = 0; i < bytes[a]; i += one[a])
			wrong += memcmp(s->copy[a] + i, (char *)now.array[a] + i, one[a]) != 0;
	return wrong;
}

/* One more pass, of which some tiles are taken by the scalar reference too. */
static int check(struct st_optim_bench *b, enum st_optim_size size, unsigned threads,
		 uint64_t *wrong)
{
	const enum strata_isa isa = strata_isa_in_use();
	struct spot spots[SPOTS] = { 0 };
	const unsigned n = choose_spots(b, size, spots);
	struct strata_optim_step step;
	double alone_ns;
	int rc = 0;

	for (unsigned i = 0; !rc && i < n; i++)
		rc = copy_spot(b, &spots[i]);
	if (rc)
		goto out;
	timed(b, size, OURS, threads, 1, &alone_ns);
	rc = strata_optim_prepare(&step, &b->cfg.optim, b->t, LR, WEIGHT_DECAY, 1);
	if (!rc)
		rc = strata_isa_force(STRATA_ISA_SCALAR);
	if (rc)
		goto out;
	*wrong = 0;
	for (unsigned i = 0; i < n; i++)
		*wrong += compare_spot(b, &spots[i], &step);
	rc = strata_isa_force(isa);
out:
	for (unsigned i = 0; i < n; i++)
		for (int a = 0; a < STRATA_ARRAY_N; a++)
			free(spots[i].copy[a]);
	return rc;
}

int st_optim_bench_run(struct st_optim_bench *b, unsigned threads, int64_t until_ns,
		       bool (*stops)(void), struct st_optim_rates out[ST_OPTIM_SIZES])
{
	struct st_optim_rates r[ST_OPTIM_SIZES] = { 0 };
	unsigned rounds = 0;
	int rc = 0;

	for (int size = 0; size < ST_OPTIM_SIZES; size++)
		if (elems_of(b, (enum st_optim_size)size))
			warm_up(b, (enum st_optim_size)size, threads);
	while (rounds < ROUNDS_MAX && (!rounds || st_now_ns() < until_ns)) {
		if (stops && stops())
			return -EINTR;
		for (int size = 0; size < ST_OPTIM_SIZES; size++)
			if (elems_of(b, (enum st_optim_size)size))
				sample(b, (enum st_optim_size)size, threads, rounds);
		rounds++;
	}
	for (int i = 0; !rc && i < ST_OPTIM_SIZES; i++) {
		enum st_optim_size size = (enum st_optim_size)i;

		if (!elems_of(b, size))
			continue;
		r[i] = rates(b, size, rounds);
		rc = check(b, size, threads, &r[i].wrong);
	}
	if (!rc)
		memcpy(out, r, sizeof(r));
	return rc;
}
