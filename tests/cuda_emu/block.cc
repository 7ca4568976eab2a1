/* SPDX-License-Identifier: Apache-2.0 */
/* tests/cuda_emu/block.cc - threads of a block as user-level contexts, and what they do together.
 */
#include "tests/cuda_emu/block.h"

#include "core/dtype.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <vector>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#define STACK_BYTES  ((size_t)256 << 10) /* address space; touched as far as used */
#define GUARD_BYTES  1024u               /* on both sides of shared memory */
#define GUARD        0x5a
#define POISON       0xff /* NaN in fp32, bf16 and fp16 */
#define COPY_BYTES   16u
#define ALL_LANES    0xffffffffu
#define MOST_THREADS 1024u

/* ---- contexts ------------------------------------------------------------------------------ */

struct context {
#if defined(__x86_64__)
	void *sp;
#else
	ucontext_t uc;
#endif
	void *fake_stack; /* AddressSanitizer's */
};

#if defined(__x86_64__)
/* Saves what a call must keep on the one stack, takes it from the other. */
extern "C" void emu_switch(void **save, void *load);
asm(".text\n"
    ".p2align 4\n"
    ".globl emu_switch\n"
    ".type emu_switch,@function\n"
    "emu_switch:\n"
    "	pushq %rbp\n"
    "	pushq %rbx\n"
    "	pushq %r12\n"
    "	pushq %r13\n"
    "	pushq %r14\n"
    "	pushq %r15\n"
    "	movq %rsp, (%rdi)\n"
    "	movq %rsi, %rsp\n"
    "	popq %r15\n"
    "	popq %r14\n"
    "	popq %r13\n"
    "	popq %r12\n"
    "	popq %rbx\n"
    "	popq %rbp\n"
    "	ret\n"
    ".size emu_switch, .-emu_switch\n");
#endif

static void context_start(context *c, char *stack, void (*entry)(void))
{
#if defined(__x86_64__)
	void **top = (void **)(stack + STACK_BYTES);

	*--top = NULL; /* the entry function "returns" here: it never does */
	memcpy(--top, &entry, sizeof(entry));
	for (int i = 0; i < 6; i++)
		*--top = NULL;
	c->sp = top;
#else
	getcontext(&c->uc);
	c->uc.uc_stack.ss_sp = stack;
	c->uc.uc_stack.ss_size = STACK_BYTES;
	c->uc.uc_link = NULL;
	makecontext(&c->uc, entry, 0);
#endif
	c->fake_stack = NULL;
}

/* stack: of `to`, and NULL if that is where the grid was started from. */
static void context_switch(context *from, context *to, const void *stack, size_t stack_bytes,
			   bool is_last)
{
#if defined(__SANITIZE_ADDRESS__)
	__sanitizer_start_switch_fiber(is_last ? NULL : &from->fake_stack, stack, stack_bytes);
#else
	(void)stack;
	(void)stack_bytes;
	(void)is_last;
#endif
#if defined(__x86_64__)
	emu_switch(&from->sp, to->sp);
#else
	swapcontext(&from->uc, &to->uc);
#endif
#if defined(__SANITIZE_ADDRESS__)
	__sanitizer_finish_switch_fiber(from->fake_stack, NULL, NULL);
#endif
}

/* ---- state of the grid that runs ----------------------------------------------------------- */

enum state { READY, AT_BARRIER, IN_WARP, DONE };
enum warp_op { SHUFFLE, BALLOT, LDMATRIX, MMA };

struct copy {
	unsigned char *to;
	const unsigned char *from; /* NULL: zeros, or already in `bytes` */
	unsigned char bytes[COPY_BYTES];
};

struct fiber {
	emuThread here;
	context c;
	char *stack;
	state st;
	int line;   /* where it waits */
	void *args; /* of what the warp does: struct warp_args on its stack */
	bool barrier_x;
	std::vector<copy> copies;   /* under way, oldest first */
	std::vector<size_t> groups; /* committed: how many of `copies` each has */
	size_t n_open;              /* issued since the last commit */
};

struct warp_args {
	float x;
	int lane_mask;
	uint32_t vote;
	bool is_bf16, is_trans;
	float *d;
	const uint32_t *a, *b;
	uint32_t *r;
	const void *p;
};

struct warp {
	warp_op op;
	int line;
	uint32_t arrived;
};

struct grid {
	const emuKernel *k;
	const emuSpan *spans;
	int n_spans, last_span;
	const std::function<void()> *body;
	unsigned char *shared; /* between guards */
	size_t shared_bytes;
	unsigned n_threads, n_done;
	bool is_failed, barrier_or;
	uint64_t rng;
	context main;
	const void *main_stack;
	size_t main_stack_bytes;
	fiber *now;
	warp warps[MOST_THREADS / EMU_WARP];
};

static grid *g;
static std::vector<fiber> *fibers; /* kept from grid to grid, whichever OS thread runs it */

static uint64_t draw(uint64_t *rng)
{
	uint64_t z = *rng += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static void shuffle_order(uint64_t *rng, unsigned *order, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		order[i] = i;
	for (unsigned i = n; i > 1; i--) {
		unsigned j = (unsigned)(draw(rng) % i), t = order[i - 1];

		order[i - 1] = order[j];
		order[j] = t;
	}
}

/* Back to whoever runs the block, for good. */
static void leave(void)
{
	fiber *f = g->now;

	context_switch(&f->c, &g->main, g->main_stack, g->main_stack_bytes, f->st == DONE);
}

__attribute__((format(printf, 3, 4))) static void complain(const fiber *f, int line,
							   const char *fmt, ...)
{
	const dim3 &b = f->here.block, &t = f->here.thread;
	char text[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	emuReport("kernel %s (%s:%d), block (%u,%u,%u), thread (%u,%u,%u), line %d: %s", g->k->name,
		  g->k->file, g->k->line, b.x, b.y, b.z, t.x, t.y, t.z, line, text);
	g->is_failed = true;
}

#define FAIL(line, ...)                                                                            \
	do {                                                                                       \
		complain(g->now, line, __VA_ARGS__);                                               \
		leave();                                                                           \
	} while (0)

/* ---- memory -------------------------------------------------------------------------------- */

static bool is_inside(const void *p, size_t bytes, const void *base, size_t base_bytes)
{
	uintptr_t a = (uintptr_t)p, b = (uintptr_t)base;

	return a >= b && bytes <= base_bytes && a - b <= base_bytes - bytes;
}

static bool is_shared(const void *p, size_t bytes)
{
	return is_inside(p, bytes, g->shared, g->shared_bytes);
}

static const emuSpan *span_of(const void *p, size_t bytes, bool is_write)
{
	const emuSpan *s = &g->spans[g->last_span];

	if (g->n_spans && is_inside(p, bytes, s->p, s->bytes) && (!is_write || s->is_write))
		return s;
	for (int i = 0; i < g->n_spans; i++) {
		s = &g->spans[i];
		if (is_inside(p, bytes, s->p, s->bytes) && (!is_write || s->is_write)) {
			g->last_span = i;
			return s;
		}
	}
	return NULL;
}

void emuAccess(const void *p, size_t bytes, size_t align, bool is_write, int line)
{
	const char *what = is_write ? "store" : "load";

	if ((uintptr_t)p % align)
		FAIL(line, "%s of %zu bytes at %p is misaligned", what, bytes, p);
	if (!span_of(p, bytes, is_write) && !is_shared(p, bytes)) {
		if (is_write && span_of(p, bytes, false))
			FAIL(line, "store to %p, in a span that the launch only reads", p);
		FAIL(line,
		     "%s of %zu bytes at %p, in no span of the launch and not in shared memory",
		     what, bytes, p);
	}
}

const emuThread *emuHere(void)
{
	return &g->now->here;
}

void *emuShared(void)
{
	return g->shared;
}

/* ---- what a warp does together ------------------------------------------------------------- */

static fiber *lane(const fiber *f, unsigned l)
{
	size_t first = (size_t)(f - fibers->data()) / EMU_WARP * EMU_WARP;

	return &(*fibers)[first + l];
}

static warp_args *lane_args(const fiber *f, unsigned l)
{
	return (warp_args *)lane(f, l)->args;
}

static void do_shuffle(const fiber *f)
{
	float x[EMU_WARP];

	for (unsigned l = 0; l < EMU_WARP; l++)
		x[l] = lane_args(f, l)->x;
	for (unsigned l = 0; l < EMU_WARP; l++)
		lane_args(f, l)->x = x[(l ^ (unsigned)lane_args(f, l)->lane_mask) % EMU_WARP];
}

static void do_ballot(const fiber *f)
{
	uint32_t all = 0;

	for (unsigned l = 0; l < EMU_WARP; l++)
		all |= (lane_args(f, l)->vote & 1u) << l;
	for (unsigned l = 0; l < EMU_WARP; l++)
		lane_args(f, l)->vote = all;
}

/* Lane l: of matrix i the elements (l / 4, 2 (l % 4)) and the next; transposed: (2 (l % 4), l / 4)
 * and the one below. */
static void do_ldmatrix(const fiber *f)
{
	uint16_t m[4][8][8];

	for (unsigned l = 0; l < EMU_WARP; l++)
		memcpy(m[l / 8][l % 8], lane_args(f, l)->p, COPY_BYTES);
	for (unsigned l = 0; l < EMU_WARP; l++) {
		warp_args *w = lane_args(f, l);
		unsigned g8 = l / 4, t2 = l % 4 * 2;

		for (unsigned i = 0; i < 4; i++) {
			uint16_t lo = w->is_trans ? m[i][t2][g8] : m[i][g8][t2];
			uint16_t hi = w->is_trans ? m[i][t2 + 1][g8] : m[i][g8][t2 + 1];

			w->r[i] = (uint32_t)hi << 16 | lo;
		}
	}
}

static float half_of(bool is_bf16, uint32_t pair, unsigned i)
{
	uint16_t h = (uint16_t)(i ? pair >> 16 : pair);

	return is_bf16 ? st_bf16_f32(h) : emuHalfToFloat(h);
}

/* PTX, mma.m16n8k16 with 16-bit floats: with row = l / 4 and col = 2 (l % 4),
 *	A: a0 (row, col), a1 (row + 8, col), a2 (row, col + 8), a3 (row + 8, col + 8), and col + 1
 *	B: b0 (col, row), b1 (col + 8, row), and the k below
 *	D: d0, d1 (row, col), d2, d3 (row + 8, col) */
static void do_mma(const fiber *f)
{
	const bool is_bf16 = lane_args(f, 0)->is_bf16;
	float a[16][16], b[16][8], d[16][8];

	for (unsigned l = 0; l < EMU_WARP; l++) {
		const warp_args *w = lane_args(f, l);
		unsigned row = l / 4, col = l % 4 * 2;

		for (unsigned i = 0; i < 2; i++) {
			a[row][col + i] = half_of(is_bf16, w->a[0], i);
			a[row + 8][col + i] = half_of(is_bf16, w->a[1], i);
			a[row][col + 8 + i] = half_of(is_bf16, w->a[2], i);
			a[row + 8][col + 8 + i] = half_of(is_bf16, w->a[3], i);
			b[col + i][row] = half_of(is_bf16, w->b[0], i);
			b[col + 8 + i][row] = half_of(is_bf16, w->b[1], i);
			d[row][col + i] = w->d[i];
			d[row + 8][col + i] = w->d[2 + i];
		}
	}
	for (unsigned r = 0; r < 16; r++)
		for (unsigned k = 0; k < 16; k++)
			for (unsigned n = 0; n < 8; n++)
				d[r][n] += a[r][k] * b[k][n];
	for (unsigned l = 0; l < EMU_WARP; l++) {
		const warp_args *w = lane_args(f, l);

		for (unsigned i = 0; i < 4; i++)
			w->d[i] = d[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2];
	}
}

/* The last lane to come does it for all. */
static void together(warp_op op, warp_args *args, int line)
{
	static const char *const names[] = { "shuffle", "vote", "ldmatrix", "mma" };
	static void (*const run[])(const fiber *) = { do_shuffle, do_ballot, do_ldmatrix, do_mma };
	fiber *f = g->now;
	size_t i = (size_t)(f - fibers->data());
	warp *w = &g->warps[i / EMU_WARP];

	if (w->arrived && (w->op != op || w->line != line))
		FAIL(line, "%s while other lanes of the warp are at the %s of line %d", names[op],
		     names[w->op], w->line);
	w->op = op;
	w->line = line;
	w->arrived |= 1u << i % EMU_WARP;
	f->args = args;
	f->line = line;
	if (w->arrived != ALL_LANES) {
		f->st = IN_WARP;
		leave();
		return;
	}
	run[op](f);
	w->arrived = 0;
	for (unsigned l = 0; l < EMU_WARP; l++)
		lane(f, l)->st = READY;
}

float emuShuffleXor(float x, int lane_mask, int line)
{
	warp_args w = {};

	w.x = x;
	w.lane_mask = lane_mask;
	together(SHUFFLE, &w, line);
	return w.x;
}

uint32_t emuBallot(bool x, int line)
{
	warp_args w = {};

	w.vote = x;
	together(BALLOT, &w, line);
	return w.vote;
}

void emuMma(bool is_bf16, float d[4], const uint32_t a[4], const uint32_t b[2], int line)
{
	warp_args w = {};

	w.is_bf16 = is_bf16;
	w.d = d;
	w.a = a;
	w.b = b;
	together(MMA, &w, line);
}

void emuLdmatrix(uint32_t r[4], const void *shared, bool is_trans, int line)
{
	warp_args w = {};

	if ((uintptr_t)shared % COPY_BYTES || !is_shared(shared, COPY_BYTES))
		FAIL(line, "ldmatrix of %p: not a row of 16 aligned bytes in shared memory",
		     shared);
	w.r = r;
	w.p = shared;
	w.is_trans = is_trans;
	together(LDMATRIX, &w, line);
}

/* ---- what a block does together ------------------------------------------------------------ */

bool emuBarrier(bool x, int line)
{
	fiber *f = g->now;

	f->st = AT_BARRIER;
	f->line = line;
	f->barrier_x = x;
	leave();
	return g->barrier_or;
}

/* ---- asynchronous copies ------------------------------------------------------------------- */

void emuCopyAsync(void *shared, const void *global, bool is_there, int line)
{
	fiber *f = g->now;
	copy c = { (unsigned char *)shared, NULL, { 0 } };

	if ((uintptr_t)shared % COPY_BYTES || !is_shared(shared, COPY_BYTES))
		FAIL(line, "copy to %p: not 16 aligned bytes in shared memory", shared);
	if (is_there) {
		if ((uintptr_t)global % COPY_BYTES || !span_of(global, COPY_BYTES, false))
			FAIL(line, "copy from %p: misaligned, or in no span of the launch", global);
		if (draw(&g->rng) & 1)
			c.from = (const unsigned char *)global;
		else
			memcpy(c.bytes, global, COPY_BYTES);
	}
	memset(shared, POISON, COPY_BYTES);
	f->copies.push_back(c);
	f->n_open++;
}

void emuCopyCommit(void)
{
	fiber *f = g->now;

	f->groups.push_back(f->n_open);
	f->n_open = 0;
}

void emuCopyWait(int most_left)
{
	fiber *f = g->now;
	size_t n_groups = 0, n = 0;

	while (f->groups.size() - n_groups > (size_t)most_left)
		n += f->groups[n_groups++];
	for (size_t i = 0; i < n; i++) {
		const copy *c = &f->copies[i];

		memcpy(c->to, c->from ? c->from : c->bytes, COPY_BYTES);
	}
	f->copies.erase(f->copies.begin(), f->copies.begin() + (ptrdiff_t)n);
	f->groups.erase(f->groups.begin(), f->groups.begin() + (ptrdiff_t)n_groups);
}

/* ---- running ------------------------------------------------------------------------------- */

static void fiber_main(void)
{
#if defined(__SANITIZE_ADDRESS__)
	__sanitizer_finish_switch_fiber(NULL, &g->main_stack, &g->main_stack_bytes);
#endif
	(*g->body)();
	if (!g->now->copies.empty())
		complain(g->now, 0, "ends with %zu asynchronous copies that it never waited for",
			 g->now->copies.size());
	g->now->st = DONE;
	g->n_done++;
	leave();
}

static void run_fiber(fiber *f)
{
	g->now = f;
	context_switch(&g->main, &f->c, f->stack, STACK_BYTES, false);
}

static const char *doing(const fiber *f)
{
	return f->st == DONE         ? "gone"
	       : f->st == AT_BARRIER ? "at a barrier"
				     : "at what a warp does together";
}

/* Until each lane waits for others, or is done. */
static void run_warp(unsigned w, const unsigned *order)
{
	unsigned first = w * EMU_WARP;
	unsigned n = g->n_threads - first < EMU_WARP ? g->n_threads - first : EMU_WARP;
	bool did_run;

	do {
		did_run = false;
		for (unsigned i = 0; i < EMU_WARP; i++) {
			fiber *f = &(*fibers)[first + order[i] % EMU_WARP];

			if (order[i] >= n || f->st != READY)
				continue;
			run_fiber(f);
			if (g->is_failed)
				return;
			did_run = true;
		}
	} while (did_run);
	if (!g->warps[w].arrived)
		return;
	for (unsigned i = 0; i < n; i++) {
		const fiber *f = &(*fibers)[first + i];

		if (f->st == IN_WARP)
			continue;
		complain(f, f->line, "%s, while other lanes of its warp wait for it at line %d",
			 doing(f), g->warps[w].line);
		return;
	}
	complain(&(*fibers)[first], g->warps[w].line, "the warp has %u threads, not 32", n);
}

/* All threads that are left wait: for the same barrier, all of them, or something is wrong. */
static bool pass_barrier(void)
{
	const fiber *first = NULL;

	g->barrier_or = false;
	for (unsigned t = 0; t < g->n_threads; t++) {
		const fiber *f = &(*fibers)[t];

		if (f->st == AT_BARRIER && !first)
			first = f;
		g->barrier_or |= f->st == AT_BARRIER && f->barrier_x;
	}
	for (unsigned t = 0; first && t < g->n_threads; t++) {
		const fiber *f = &(*fibers)[t];

		if (f->st == AT_BARRIER && f->line == first->line)
			continue;
		complain(f, f->line, "%s, while thread %u is at the barrier of line %d", doing(f),
			 first->here.thread.x, first->line);
		return false;
	}
	for (unsigned t = 0; t < g->n_threads; t++)
		(*fibers)[t].st = READY;
	return true;
}

static void start_threads(dim3 at, dim3 grid_dim, dim3 block_dim)
{
	for (unsigned t = 0; t < g->n_threads; t++) {
		fiber *f = &(*fibers)[t];

		f->here.thread = dim3(t % block_dim.x, t / block_dim.x % block_dim.y,
				      t / block_dim.x / block_dim.y);
		f->here.block = at;
		f->here.block_dim = block_dim;
		f->here.grid_dim = grid_dim;
		f->st = READY;
		f->line = 0;
		f->copies.clear();
		f->groups.clear();
		f->n_open = 0;
#if defined(__SANITIZE_ADDRESS__)
		__asan_unpoison_memory_region(f->stack, STACK_BYTES);
#endif
		context_start(&f->c, f->stack, fiber_main);
	}
	g->n_done = 0;
	memset(g->warps, 0, sizeof(g->warps));
}

static bool are_guards_whole(void)
{
	for (size_t i = 0; i < GUARD_BYTES; i++)
		if (g->shared[(ptrdiff_t)i - (ptrdiff_t)GUARD_BYTES] != GUARD ||
		    g->shared[g->shared_bytes + i] != GUARD)
			return false;
	return true;
}

static void run_block(dim3 at, dim3 grid_dim, dim3 block_dim)
{
	unsigned n_warps = (g->n_threads + EMU_WARP - 1) / EMU_WARP;
	unsigned warps[MOST_THREADS / EMU_WARP], lanes[EMU_WARP];

	start_threads(at, grid_dim, block_dim);
	memset(g->shared - GUARD_BYTES, GUARD, GUARD_BYTES);
	memset(g->shared, POISON, g->shared_bytes);
	memset(g->shared + g->shared_bytes, GUARD, GUARD_BYTES);
	for (;;) {
		shuffle_order(&g->rng, warps, n_warps);
		shuffle_order(&g->rng, lanes, EMU_WARP);
		for (unsigned i = 0; i < n_warps; i++) {
			run_warp(warps[i], lanes);
			if (g->is_failed)
				return;
		}
		if (g->n_done == g->n_threads)
			break;
		if (!pass_barrier())
			return;
	}
	if (!are_guards_whole())
		complain(&(*fibers)[0], 0, "the block wrote beyond its %zu bytes of shared memory",
			 g->shared_bytes);
}

static bool make_stacks(size_t n)
{
	if (!fibers)
		fibers = new std::vector<fiber>(); /* for good */
	if (fibers->size() < n)
		fibers->resize(n);
	for (size_t i = 0; i < n; i++) {
		fiber *f = &(*fibers)[i];
		void *p;

		if (f->stack)
			continue;
		p = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (p == MAP_FAILED)
			return false;
		f->stack = (char *)p;
	}
	return true;
}

cudaError_t emuCheckGrid(dim3 grid, dim3 block, size_t smem, size_t allowed)
{
	uint64_t threads = (uint64_t)block.x * block.y * block.z;

	if (!grid.x || !grid.y || !grid.z || !threads || grid.x > 0x7fffffffu || grid.y > 65535 ||
	    grid.z > 65535 || block.x > 1024 || block.y > 1024 || block.z > 64 ||
	    threads > MOST_THREADS)
		return cudaErrorInvalidConfiguration;
	if (smem > EMU_SHARED_MOST || smem > (allowed ? allowed : EMU_SHARED_DEFAULT))
		return cudaErrorInvalidValue;
	return cudaSuccess;
}

bool emuRunGrid(const emuKernel *k, dim3 grid_dim, dim3 block_dim, size_t smem,
		const emuSpan *spans, int n_spans, uint64_t seed, const std::function<void()> &body)
{
	uint64_t n_blocks = (uint64_t)grid_dim.x * grid_dim.y * grid_dim.z;
	uint64_t step, at;
	void *memory = NULL;
	grid now = {};

	now.k = k;
	now.spans = spans;
	now.n_spans = n_spans;
	now.body = &body;
	now.n_threads = block_dim.x * block_dim.y * block_dim.z;
	now.rng = seed;
	/* Aligned as on the card, and to the byte: AddressSanitizer watches both ends. */
	if (posix_memalign(&memory, 1024, smem + 2 * GUARD_BYTES) || !make_stacks(now.n_threads)) {
		emuReport("kernel %s: no memory for a block of %u threads", k->name, now.n_threads);
		free(memory);
		return false;
	}
	now.shared = (unsigned char *)memory + GUARD_BYTES;
	now.shared_bytes = smem;
	g = &now;
	/* All blocks, from any one on, with a stride that has no factor in common: some order. */
	at = draw(&now.rng) % n_blocks;
	step = n_blocks > 2 && draw(&now.rng) & 1 ? n_blocks - 1 : 1;
	for (uint64_t i = 0; i < n_blocks && !now.is_failed; i++, at = (at + step) % n_blocks)
		run_block(dim3((unsigned)(at % grid_dim.x),
			       (unsigned)(at / grid_dim.x % grid_dim.y),
			       (unsigned)(at / grid_dim.x / grid_dim.y)),
			  grid_dim, block_dim);
	g = NULL;
	free(memory);
	return !now.is_failed;
}

/* ---- arithmetic ---------------------------------------------------------------------------- */

float emuExp2(float x)
{
	uint64_t seed = emuBits(x);
	/* any number within the stated error, the same for the same x */
	double off = (double)(int64_t)draw(&seed) * 0x1p-63, y = exp2((double)x);

	if (x != x)
		return x;
	if (y < 0x1p-126)
		return 0.0f;
	return (float)(y * (1 + off * 0x1p-22));
}

static std::vector<float> make_halves(void)
{
	std::vector<float> t(65536);

	for (uint32_t h = 0; h < 65536; h++)
		t[h] = st_f16_f32((uint16_t)h);
	return t;
}

float emuHalfToFloat(uint16_t h)
{
	static const std::vector<float> table = make_halves();

	return table[h];
}

uint16_t emuFloatToHalf(float x)
{
	return x != x ? 0x7fff : st_f32_f16(x);
}

uint16_t emuFloatToBfloat(float x)
{
	return x != x ? 0x7fff : st_f32_bf16(x);
}
