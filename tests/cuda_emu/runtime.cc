/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/cuda_emu/runtime.cc - streams, events, memory and failures of the emulated CUDA.
 *
 * One lock around everything. A stream is a queue of operations; step() runs the head of one whose
 * head may run. Clocks are worked out when an operation is put into its stream, for what happens
 * before what depends on the calls alone; so a race is found in whatever order the seed plays.
 */
#include "tests/cuda_emu/emu.h"
#include "tests/cuda_emu/block.h"

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

#define HOST        0 /* actor */
#define POISON      0xff
#define COPY_CUT    256 /* a copy of more bytes may stop half-way */
#define REPORTS_MAX 200

/* ---- state ---------------------------------------------------------------------------------- */

typedef std::vector<uint64_t> Clock; /* of each actor, what is known to have happened; grows */

struct Record { /* what one cudaEventRecord() stands for */
	bool is_done = false;
	CUstream_st *stream;
	Clock clock;
};

struct Op {
	const char *name;
	uint64_t id;
	std::vector<emuSpan> spans;
	std::function<void()> run;
	std::shared_ptr<Record> record; /* it is that */
	std::shared_ptr<Record> wait;   /* it waits for that */
	/* of a copy */
	char *dst = nullptr;
	const char *src = nullptr;
	size_t bytes = 0, done = 0;
	bool is_watched = false; /* a host source that nothing pending writes: it may not change */
	uint64_t sum = 0;
};

struct CUstream_st {
	int actor;
	Clock clock;
	std::deque<Op> ops;
};

struct CUevent_st {
	std::shared_ptr<Record> record; /* the latest; none: never recorded */
};

enum Memory { DEVICE, PINNED, REGISTERED };

struct Block {
	size_t bytes;
	Memory kind;
	size_t map_bytes; /* DEVICE: with a page before and behind it that nobody may touch */
	char *map;
};

struct Access {
	int actor;
	uint64_t epoch;
	std::string what;
};

struct Cell { /* of bytes that were accessed alike */
	uintptr_t end;
	Access write; /* actor -1: none */
	std::vector<Access> reads;
};

struct Failure {
	uint64_t nth;
	const void *at;
	uint64_t op;
	cudaError_t rc;
	bool is_sticky;
	bool has_happened;
};

static std::recursive_mutex lock;
static emuMachine machine = EMU_MACHINE;
static uint64_t rng, seed_now, op_count, call_count, trace;
static emuPace pace;
static emuCounts counts;
static Failure failure;
static cudaError_t sticky; /* of the context: every call fails from then on */
static bool is_started, is_in_step, is_open;
static int held;
static std::vector<CUstream_st *> streams;
static std::vector<CUevent_st *> events;
static std::map<uintptr_t, Block> blocks;
static std::map<uintptr_t, Cell> cells;
static std::map<const void *, size_t> shared_most; /* of kernels that were allowed more */
static std::map<const void *, emuSite> sites;
static Clock host_clock;
/* never destroyed: at_end.cc reads them when everything else is gone */
static std::vector<std::string> &reports = *new std::vector<std::string>;
static thread_local cudaError_t last_error;

#define LOCK std::lock_guard<std::recursive_mutex> st_guard(lock)

static uint64_t random_below(uint64_t n)
{
	uint64_t z = rng += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return (z ^ z >> 31) % n;
}

/* ---- reports -------------------------------------------------------------------------------- */

void emuReport(const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	LOCK;
	if (reports.size() < REPORTS_MAX)
		reports.push_back(text);
}

int emuReports(void)
{
	LOCK;
	return (int)reports.size();
}

const char *emuReportText(int i)
{
	LOCK;
	return i >= 0 && (size_t)i < reports.size() ? reports[(size_t)i].c_str() : "";
}

void emuClearReports(void)
{
	LOCK;
	reports.clear();
}

/* ---- clocks and accesses -------------------------------------------------------------------- */

static uint64_t at(const Clock &c, int actor)
{
	return (size_t)actor < c.size() ? c[(size_t)actor] : 0;
}

static uint64_t advance(Clock &c, int actor)
{
	if ((size_t)actor >= c.size())
		c.resize((size_t)actor + 1);
	return ++c[(size_t)actor];
}

static void join(Clock &c, const Clock &other)
{
	if (other.size() > c.size())
		c.resize(other.size());
	for (size_t i = 0; i < other.size(); i++)
		c[i] = c[i] > other[i] ? c[i] : other[i];
}

/* Make p a border between cells. */
static void split(uintptr_t p)
{
	auto it = cells.upper_bound(p);

	if (it == cells.begin())
		return;
	--it;
	if (it->first < p && it->second.end > p) {
		Cell right = it->second;

		it->second.end = p;
		cells[p] = right;
	}
}

static void race(const Access &before, const char *kind, const char *what, const char *now,
		 uintptr_t p)
{
	emuReport("race: %s %s %p, which %s %s before without an event between them", what, now,
		  (void *)p, before.what.c_str(), kind);
}

static void touch(const void *ptr, size_t bytes, const Clock &clock, int actor, uint64_t epoch,
		  bool is_write, const char *what)
{
	const uintptr_t p = (uintptr_t)ptr, end = p + bytes;
	const Access me = { actor, epoch, what };
	uintptr_t next = p;
	bool is_told = false;

	if (!bytes)
		return;
	split(p);
	split(end);
	for (auto it = cells.lower_bound(p); it != cells.end() && it->first < end; ++it) {
		Cell &c = it->second;

		if (!is_told && c.write.actor >= 0 && at(clock, c.write.actor) < c.write.epoch) {
			race(c.write, "wrote", what, is_write ? "writes" : "reads", it->first);
			is_told = true;
		}
		for (const Access &r : c.reads)
			if (!is_told && is_write && at(clock, r.actor) < r.epoch) {
				race(r, "read", what, "writes", it->first);
				is_told = true;
			}
	}
	if (is_write) {
		cells.erase(cells.lower_bound(p), cells.lower_bound(end));
		cells[p] = Cell{ end, me, {} };
		return;
	}
	for (auto it = cells.lower_bound(p); next < end;) {
		if (it == cells.end() || it->first > next) { /* a gap */
			uintptr_t to = it == cells.end() || it->first > end ? end : it->first;

			it = cells.insert({ next, Cell{ to, { -1, 0, "" }, {} } }).first;
		}
		auto &reads = it->second.reads;
		size_t i = 0;

		while (i < reads.size() && reads[i].actor != actor)
			i++;
		if (i == reads.size())
			reads.push_back(me);
		else
			reads[i] = me;
		next = it->second.end;
		++it;
	}
}

static void forget(const void *p, size_t bytes)
{
	split((uintptr_t)p);
	split((uintptr_t)p + bytes);
	cells.erase(cells.lower_bound((uintptr_t)p), cells.lower_bound((uintptr_t)p + bytes));
}

void emuHostRead(const void *p, size_t bytes, const char *what)
{
	LOCK;
	touch(p, bytes, host_clock, HOST, advance(host_clock, HOST), false, what);
}

void emuHostWrite(const void *p, size_t bytes, const char *what)
{
	LOCK;
	touch(p, bytes, host_clock, HOST, advance(host_clock, HOST), true, what);
}

/* ---- memory --------------------------------------------------------------------------------- */

/* The block that holds all of [p, p + bytes). */
static const Block *find(const void *p, size_t bytes)
{
	auto it = blocks.upper_bound((uintptr_t)p);

	if (it == blocks.begin())
		return nullptr;
	--it;
	if ((uintptr_t)p + bytes > it->first + it->second.bytes)
		return nullptr;
	return &it->second;
}

/* Does any block share a byte with it? */
static const Block *overlap(const void *p, size_t bytes)
{
	for (auto &b : blocks)
		if ((uintptr_t)p < b.first + b.second.bytes && b.first < (uintptr_t)p + bytes)
			return &b.second;
	return nullptr;
}

static void protect(bool is_reachable)
{
	if (!machine.is_protected || is_open == is_reachable)
		return;
	is_open = is_reachable;
	for (auto &b : blocks)
		if (b.second.kind == DEVICE)
			mprotect((void *)b.first, b.second.map_bytes - 2 * 4096,
				 is_reachable ? PROT_READ | PROT_WRITE : PROT_NONE);
}

static bool is_device(const void *p)
{
	const Block *b = find(p, 1);

	return b && b->kind == DEVICE;
}

/* ---- running -------------------------------------------------------------------------------- */

static uint64_t sum_of(const char *p, size_t n)
{
	uint64_t h = 0xcbf29ce484222325u;

	for (size_t i = 0; i < n; i++)
		h = (h ^ (unsigned char)p[i]) * 0x100000001b3u;
	return h;
}

static bool is_overlap(const char *a, size_t n, const void *b, size_t m)
{
	return a < (const char *)b + m && (const char *)b < a + n;
}

static bool can_run(const CUstream_st *s)
{
	return !s->ops.empty() && (!s->ops.front().wait || s->ops.front().wait->is_done);
}

/* What an operation writes may be the source of a copy that is watched. */
static void unwatch(const Op &op)
{
	for (CUstream_st *s : streams)
		for (Op &other : s->ops)
			for (const emuSpan &w : op.spans)
				if (other.is_watched && w.is_write &&
				    is_overlap(other.src, other.bytes, w.p, w.bytes))
					other.is_watched = false;
}

static bool run_copy(Op &op)
{
	size_t n = op.bytes - op.done;

	if (op.is_watched && sum_of(op.src, op.bytes) != op.sum) {
		emuReport("%s: its source %p was changed by the host before it had run", op.name,
			  (const void *)op.src);
		op.is_watched = false;
	}
	if (pace != EMU_PACE_EAGER && n > COPY_CUT && random_below(3) == 0)
		n = 1 + (size_t)random_below(n - 1);
	memcpy(op.dst + op.done, op.src + op.done, n);
	op.done += n;
	return op.done == op.bytes;
}

/* Run the head of a stream, or a part of it. */
static void step(CUstream_st *s)
{
	Op &op = s->ops.front();

	trace = (trace ^ op.id) * 0x100000001b3u;
	if (!sticky && failure.op && op.id == failure.op) {
		failure.has_happened = true;
		sticky = failure.rc;
	}
	if (!sticky) {
		protect(true);
		unwatch(op);
		if (op.dst && !run_copy(op)) {
			protect(false);
			return;
		}
		if (op.run)
			op.run();
		protect(false);
	}
	if (op.record)
		op.record->is_done = true;
	s->ops.pop_front();
}

static bool step_any(void)
{
	std::vector<CUstream_st *> ready;

	for (CUstream_st *s : streams)
		if (can_run(s))
			ready.push_back(s);
	if (ready.empty())
		return false;
	step(ready[random_below(ready.size())]);
	return true;
}

/* A step towards the end of what `s` holds: of what it waits for, if it does. */
static void step_towards(CUstream_st *s)
{
	if (pace != EMU_PACE_LAZY && random_below(2) && step_any())
		return;
	while (!can_run(s))
		s = s->ops.front().wait->stream;
	step(s);
}

static void finish(CUstream_st *s)
{
	while (!s->ops.empty())
		step_towards(s);
}

static void run_some(void)
{
	uint64_t n = pace == EMU_PACE_EAGER ? ~0ull : pace == EMU_PACE_LAZY ? 0 : random_below(4);

	if (pace == EMU_PACE_MIXED && random_below(8) == 0)
		n = 50;
	while (n-- > 0 && step_any())
		;
}

/* ---- calls ---------------------------------------------------------------------------------- */

static bool is_failing(const void *from)
{
	if (failure.has_happened && !failure.is_sticky)
		return false;
	if (failure.nth && call_count >= failure.nth)
		return true;
	return failure.at && failure.at == from;
}

static void start_from_env(void);

cudaError_t emuEnter(const char *name, const void *from, emuKind kind)
{
	LOCK;
	if (!is_started)
		start_from_env();
	emuSite &site = sites[from];

	site.at = from;
	site.name = name;
	site.calls++;
	call_count++;
	counts.calls++;
	counts.allocates += kind == EMU_ALLOCATE;
	counts.frees += kind == EMU_FREE;
	counts.synchronises += kind == EMU_SYNC;
	counts.creates += kind == EMU_CREATE;
	advance(host_clock, HOST);
	if (is_in_step && kind != EMU_CALL)
		emuReport("%s inside a step: it %s", name,
			  kind == EMU_ALLOCATE ? "allocates"
			  : kind == EMU_FREE   ? "frees"
			  : kind == EMU_SYNC   ? "synchronises"
					       : "creates or destroys");
	run_some();
	if (is_failing(from)) {
		failure.has_happened = true;
		if (failure.is_sticky)
			sticky = failure.rc;
		return failure.rc;
	}
	return sticky;
}

#define FROM __builtin_extract_return_addr(__builtin_return_address(0))
#define ENTER(kind)                                                                                \
	LOCK;                                                                                      \
	cudaError_t st_rc = emuEnter(__func__, FROM, kind);                                        \
	if (st_rc)                                                                                 \
	return say(st_rc)

static cudaError_t say(cudaError_t rc)
{
	if (rc)
		last_error = rc;
	return rc;
}

static CUstream_st *known(cudaStream_t s, const char *name)
{
	for (CUstream_st *k : streams)
		if (k == s)
			return k;
	if (!s || s == cudaStreamLegacy || s == cudaStreamPerThread)
		emuReport("%s: on the legacy stream, which every other stream waits for", name);
	else
		emuReport("%s: on a stream that is not there", name);
	return nullptr;
}

static cudaError_t enqueue(CUstream_st *s, Op &&op)
{
	char what[96];
	uint64_t epoch;

	join(s->clock, host_clock);
	epoch = advance(s->clock, s->actor);
	op.id = ++op_count;
	snprintf(what, sizeof(what), "%s (operation %llu, stream %d)", op.name,
		 (unsigned long long)op.id, s->actor);
	for (const emuSpan &x : op.spans) {
		if (!x.bytes)
			continue;
		if (!find(x.p, x.bytes)) {
			emuReport("%s: %zu bytes at %p are not in memory of the device", what,
				  x.bytes, x.p);
			return cudaErrorIllegalAddress;
		}
		touch(x.p, x.bytes, s->clock, s->actor, epoch, x.is_write, what);
	}
	s->ops.push_back(std::move(op));
	if (pace == EMU_PACE_EAGER)
		run_some();
	return cudaSuccess;
}

cudaError_t emuQueue(const char *name, cudaStream_t stream, const emuSpan *spans, int n_spans,
		     std::function<void()> run)
{
	LOCK;
	CUstream_st *s = known(stream, name);
	Op op;

	if (!s)
		return cudaErrorInvalidResourceHandle;
	op.name = name;
	op.spans.assign(spans, spans + n_spans);
	op.run = run;
	return enqueue(s, std::move(op));
}

cudaError_t emuLaunch(const emuKernel *kernel, dim3 grid, dim3 block, size_t smem, cudaStream_t s,
		      const emuSpan *spans, int n_spans, std::function<void()> body)
{
	LOCK;
	cudaError_t rc = emuEnter(kernel->name, FROM, EMU_CALL);
	auto allowed = shared_most.find(kernel->func);
	const emuKernel k = *kernel;
	const std::vector<emuSpan> list(spans, spans + n_spans);
	const uint64_t seed = seed_now ^ (op_count + 1) * 0x9e3779b97f4a7c15u;

	if (!rc)
		rc = emuCheckGrid(grid, block, smem,
				  allowed == shared_most.end() ? EMU_SHARED_DEFAULT
							       : allowed->second);
	if (!rc)
		rc = emuCheckRegisters(kernel->func, (uint64_t)block.x * block.y * block.z);
	if (rc)
		return say(rc);
	counts.launches++;
	return say(emuQueue(k.name, s, spans, n_spans, [=]() {
		if (!emuRunGrid(&k, grid, block, smem, list.data(), (int)list.size(), seed, body))
			sticky = cudaErrorLaunchFailure;
	}));
}

/* ---- control -------------------------------------------------------------------------------- */

static void release(uintptr_t p, const Block &b)
{
	if (b.kind == DEVICE)
		munmap(b.map, b.map_bytes);
	else if (b.kind == PINNED)
		free((void *)p);
}

void emuStart(uint64_t seed, const emuMachine &m)
{
	LOCK;
	for (auto &b : blocks)
		release(b.first, b.second);
	for (CUstream_st *s : streams)
		delete s;
	for (CUevent_st *e : events)
		delete e;
	blocks.clear();
	streams.clear();
	events.clear();
	cells.clear();
	shared_most.clear();
	sites.clear();
	reports.clear();
	machine = m;
	seed_now = rng = seed;
	pace = (emuPace)(seed % 4);
	op_count = call_count = trace = 0;
	counts = emuCounts();
	failure = Failure();
	sticky = last_error = cudaSuccess;
	is_started = true;
	is_in_step = is_open = false;
	held = 0;
	host_clock.clear();
	emuLtStart();
	emuRegistersStart();
}

int emuLeaks(void)
{
	LOCK;
	int n = held;

	for (auto &b : blocks) {
		emuReport("left behind: %zu bytes of %s memory", b.second.bytes,
			  b.second.kind == DEVICE   ? "device"
			  : b.second.kind == PINNED ? "pinned"
						    : "registered");
		n++;
	}
	if (!streams.empty() || !events.empty() || held)
		emuReport("left behind: %zu streams, %zu events, %d handles", streams.size(),
			  events.size(), held);
	return n + (int)streams.size() + (int)events.size();
}

std::vector<emuSite> emuSites(void)
{
	LOCK;
	std::vector<emuSite> v;

	for (auto &s : sites)
		v.push_back(s.second);
	return v;
}

uint64_t emuTrace(void)
{
	LOCK;
	return trace;
}

uint64_t emuCallCount(void)
{
	LOCK;
	return call_count;
}

void emuFailNth(uint64_t nth, cudaError_t rc, bool is_sticky)
{
	LOCK;
	failure = Failure{ nth, nullptr, 0, rc, is_sticky, false };
}

void emuFailSite(const void *from, cudaError_t rc)
{
	LOCK;
	failure = Failure{ 0, from, 0, rc, false, false };
}

void emuFailOp(uint64_t nth, cudaError_t rc)
{
	LOCK;
	failure = Failure{ 0, nullptr, nth, rc, false, false };
}

bool emuFailed(void)
{
	LOCK;
	return failure.has_happened;
}

emuCounts emuCount(void)
{
	LOCK;
	return counts;
}

void emuStep(bool is_inside)
{
	LOCK;
	is_in_step = is_inside;
}

void emuHold(int n)
{
	LOCK;
	held += n;
}

void emuCountProduct(void)
{
	LOCK;
	counts.products++;
}

const emuMachine &emuIs(void)
{
	return machine;
}

/* A program that knows nothing of the emulation is steered by its environment. */
static long from_env(const char *name, long otherwise)
{
	const char *text = getenv(name);

	return text && *text ? strtol(text, nullptr, 10) : otherwise;
}

static void start_from_env(void)
{
	emuMachine m = EMU_MACHINE;

	m.driver = (int)from_env("STRATA_EMU_DRIVER", m.driver);
	m.gpus = (int)from_env("STRATA_EMU_GPUS", m.gpus);
	m.major = (int)from_env("STRATA_EMU_SM", 80) / 10;
	m.minor = (int)from_env("STRATA_EMU_SM", 80) % 10;
	m.has_lt = from_env("STRATA_EMU_LT", 1) != 0;
	m.is_protected = from_env("STRATA_EMU_PROTECT", 1) != 0;
	m.memory_bytes = (size_t)from_env("STRATA_EMU_MIB", 4096) << 20;
	emuStart((uint64_t)from_env("STRATA_EMU_SEED", 0), m);
}

/* ---- the machine ---------------------------------------------------------------------------- */

cudaError_t cudaDriverGetVersion(int *version)
{
	ENTER(EMU_CALL);
	*version = machine.driver;
	return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
	ENTER(EMU_CALL);
	*version = CUDART_VERSION;
	return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *n)
{
	ENTER(EMU_CALL);
	if (machine.driver < 13000)
		return say(cudaErrorInsufficientDriver);
	if (!machine.gpus)
		return say(cudaErrorNoDevice);
	*n = machine.gpus;
	return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
	ENTER(EMU_CALL);
	return say(device < 0 || device >= machine.gpus ? cudaErrorInvalidDevice : cudaSuccess);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int device)
{
	ENTER(EMU_CALL);
	if (device < 0 || device >= machine.gpus)
		return say(cudaErrorInvalidDevice);
	memset(prop, 0, sizeof(*prop));
	snprintf(prop->name, sizeof(prop->name), "%s", machine.name);
	prop->totalGlobalMem = machine.memory_bytes;
	prop->major = machine.major;
	prop->minor = machine.minor;
	prop->multiProcessorCount = machine.sms;
	return cudaSuccess;
}

static size_t allocated(void)
{
	size_t bytes = 0;

	for (auto &b : blocks)
		if (b.second.kind == DEVICE)
			bytes += b.second.bytes;
	return bytes;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
	ENTER(EMU_CALL);
	*total_bytes = machine.memory_bytes;
	*free_bytes = machine.memory_bytes - allocated();
	return cudaSuccess;
}

cudaError_t cudaMalloc(void **p, size_t bytes)
{
	ENTER(EMU_ALLOCATE);
	size_t inside = (bytes + 4095) & ~(size_t)4095;
	char *map;

	if (!bytes || bytes > machine.memory_bytes - allocated())
		return say(cudaErrorMemoryAllocation);
	map = (char *)mmap(nullptr, inside + 2 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			   0);
	if (map == MAP_FAILED)
		return say(cudaErrorMemoryAllocation);
	mprotect(map + 4096, inside, PROT_READ | PROT_WRITE);
	memset(map + 4096, POISON, inside);
	if (machine.is_protected)
		mprotect(map + 4096, inside, PROT_NONE);
	blocks[(uintptr_t)map + 4096] = Block{ bytes, DEVICE, inside + 2 * 4096, map };
	*p = map + 4096;
	return cudaSuccess;
}

static void finish_all(void)
{
	for (CUstream_st *s : streams)
		finish(s);
	for (CUstream_st *s : streams)
		join(host_clock, s->clock);
}

static bool is_pending(const void *p, size_t bytes)
{
	for (CUstream_st *s : streams)
		for (const Op &op : s->ops)
			for (const emuSpan &x : op.spans)
				if (is_overlap((const char *)p, bytes, x.p, x.bytes))
					return true;
	return false;
}

static cudaError_t drop(void *p, Memory kind, const char *name)
{
	auto it = blocks.find((uintptr_t)p);

	if (!p && kind == DEVICE)
		return cudaSuccess;
	if (it == blocks.end() || it->second.kind != kind) {
		emuReport("%s: %p was never given out by its counterpart", name, p);
		return kind == REGISTERED ? cudaErrorHostMemoryNotRegistered
					  : cudaErrorInvalidValue;
	}
	if (is_pending(p, it->second.bytes))
		emuReport("%s: operations that are still to run use this memory", name);
	finish_all();
	forget(p, it->second.bytes);
	release(it->first, it->second);
	blocks.erase(it);
	return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
	ENTER(EMU_FREE);
	return say(drop(p, DEVICE, __func__));
}

cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags)
{
	ENTER(EMU_ALLOCATE);
	void *at = nullptr;

	if (!bytes || posix_memalign(&at, 4096, (bytes + 4095) & ~(size_t)4095))
		return say(cudaErrorMemoryAllocation);
	memset(at, POISON, bytes);
	blocks[(uintptr_t)at] = Block{ bytes, PINNED, 0, nullptr };
	*p = at;
	return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p)
{
	ENTER(EMU_FREE);
	return say(drop(p, PINNED, __func__));
}

cudaError_t cudaHostRegister(void *p, size_t bytes, unsigned flags)
{
	ENTER(EMU_ALLOCATE);
	if (!p || !bytes)
		return say(cudaErrorInvalidValue);
	if (overlap(p, bytes)) {
		emuReport("%s: %zu bytes at %p are registered already, or partly", __func__, bytes,
			  p);
		return say(cudaErrorHostMemoryAlreadyRegistered);
	}
	blocks[(uintptr_t)p] = Block{ bytes, REGISTERED, 0, nullptr };
	return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *p)
{
	ENTER(EMU_FREE);
	return say(drop(p, REGISTERED, __func__));
}

/* ---- streams and events --------------------------------------------------------------------- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags)
{
	ENTER(EMU_CREATE);
	CUstream_st *n;

	if (flags != cudaStreamNonBlocking)
		emuReport("%s: a stream that waits for the legacy stream", __func__);
	n = new CUstream_st();
	n->actor = (int)streams.size() + 1;
	for (CUstream_st *k : streams) /* an actor's number is never used again */
		n->actor = k->actor >= n->actor ? k->actor + 1 : n->actor;
	streams.push_back(n);
	*s = n;
	return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
	ENTER(EMU_CREATE);
	CUstream_st *s = known(stream, __func__);

	if (!s)
		return say(cudaErrorInvalidResourceHandle);
	finish(s); /* what it holds still runs; nobody may wait for that here */
	for (size_t i = 0; i < streams.size(); i++)
		if (streams[i] == s)
			streams.erase(streams.begin() + (ptrdiff_t)i);
	delete s;
	return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
	ENTER(EMU_SYNC);
	CUstream_st *s = known(stream, __func__);

	if (!s)
		return say(cudaErrorInvalidResourceHandle);
	finish(s);
	join(host_clock, s->clock);
	return say(sticky);
}

cudaError_t cudaDeviceSynchronize(void)
{
	ENTER(EMU_SYNC);
	finish_all();
	return say(sticky);
}

static bool is_event(cudaEvent_t ev, const char *name)
{
	for (CUevent_st *e : events)
		if (e == ev)
			return true;
	emuReport("%s: an event that is not there", name);
	return false;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *ev, unsigned flags)
{
	ENTER(EMU_CREATE);
	if (!(flags & cudaEventDisableTiming))
		emuReport("%s: an event that takes the time, which costs", __func__);
	*ev = new CUevent_st();
	events.push_back(*ev);
	return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t ev)
{
	ENTER(EMU_CREATE);
	if (!is_event(ev, __func__))
		return say(cudaErrorInvalidResourceHandle);
	for (size_t i = 0; i < events.size(); i++)
		if (events[i] == ev)
			events.erase(events.begin() + (ptrdiff_t)i);
	delete ev;
	return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t ev, cudaStream_t stream)
{
	ENTER(EMU_CALL);
	CUstream_st *s = known(stream, __func__);
	cudaError_t rc;
	Op op;

	if (!s || !is_event(ev, __func__))
		return say(cudaErrorInvalidResourceHandle);
	op.name = "record";
	op.record = std::make_shared<Record>();
	op.record->stream = s;
	ev->record = op.record;
	join(s->clock, host_clock);
	op.record->clock = s->clock;
	rc = enqueue(s, std::move(op));
	return say(rc);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t ev, unsigned flags)
{
	ENTER(EMU_CALL);
	CUstream_st *s = known(stream, __func__);
	Op op;

	if (!s || !is_event(ev, __func__))
		return say(cudaErrorInvalidResourceHandle);
	if (!ev->record) /* never recorded: there is nothing to wait for */
		return cudaSuccess;
	op.name = "wait";
	op.wait = ev->record;
	join(s->clock, ev->record->clock);
	return say(enqueue(s, std::move(op)));
}

cudaError_t cudaEventQuery(cudaEvent_t ev)
{
	ENTER(EMU_CALL);
	if (!is_event(ev, __func__))
		return say(cudaErrorInvalidResourceHandle);
	if (ev->record && !ev->record->is_done) {
		step_towards(ev->record->stream); /* who asks again and again gets there */
		if (!ev->record->is_done)
			return say(cudaErrorNotReady);
	}
	if (ev->record && !sticky)
		join(host_clock, ev->record->clock);
	return say(sticky);
}

/* A GPU ends something, and some time later a thread of the host wakes up. */
static void be_late(void)
{
	static std::atomic<uint64_t> n;
	uint64_t z = ++n * 0x9e3779b97f4a7c15u;

	if (machine.late_us)
		usleep((useconds_t)((z >> 32) % machine.late_us));
}

cudaError_t cudaEventSynchronize(cudaEvent_t ev)
{
	be_late();
	ENTER(EMU_CALL);
	if (!is_event(ev, __func__))
		return say(cudaErrorInvalidResourceHandle);
	while (ev->record && !ev->record->is_done)
		step_towards(ev->record->stream);
	if (ev->record && !sticky)
		join(host_clock, ev->record->clock);
	return say(sticky);
}

/* ---- copies --------------------------------------------------------------------------------- */

static bool is_kind(cudaMemcpyKind kind, const void *dst, const void *src)
{
	bool to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
	bool from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;

	return is_device(dst) == to && is_device(src) == from;
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind,
			    cudaStream_t stream)
{
	ENTER(EMU_CALL);
	CUstream_st *s = known(stream, __func__);
	bool is_unregistered = !find(dst, bytes) || !find(src, bytes);
	cudaError_t rc;
	Op op;

	if (!s)
		return say(cudaErrorInvalidResourceHandle);
	if (!bytes)
		return cudaSuccess;
	if (!is_kind(kind, dst, src)) {
		emuReport("%s: its direction %d is not that of its pointers", __func__, kind);
		return say(cudaErrorInvalidValue);
	}
	if ((is_device(dst) && !find(dst, bytes)) || (is_device(src) && !find(src, bytes))) {
		emuReport("%s: %zu bytes go beyond the end of device memory", __func__, bytes);
		return say(cudaErrorInvalidValue);
	}
	counts.copies++;
	op.name = kind == cudaMemcpyHostToDevice   ? "copy to the device"
		  : kind == cudaMemcpyDeviceToHost ? "copy to the host"
						   : "copy on the device";
	op.dst = (char *)dst;
	op.src = (const char *)src;
	op.bytes = bytes;
	if (find(src, bytes))
		op.spans.push_back(emuSpan{ src, bytes, false });
	if (find(dst, bytes))
		op.spans.push_back(emuSpan{ dst, bytes, true });
	if (is_unregistered)
		emuReport("%s: host memory that is not registered: the host has to wait for it",
			  op.name);
	if (!is_device(src)) {
		op.is_watched = true;
		op.sum = sum_of(op.src, bytes);
		for (CUstream_st *k : streams)
			for (const Op &other : k->ops)
				for (const emuSpan &w : other.spans)
					if (w.is_write && is_overlap(op.src, bytes, w.p, w.bytes))
						op.is_watched = false;
	}
	rc = enqueue(s, std::move(op));
	if (!rc && is_unregistered)
		finish(s);
	return say(rc);
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind)
{
	ENTER(EMU_SYNC);
	finish_all();
	if (!is_kind(kind, dst, src)) {
		emuReport("%s: its direction %d is not that of its pointers", __func__, kind);
		return say(cudaErrorInvalidValue);
	}
	if ((is_device(dst) && !find(dst, bytes)) || (is_device(src) && !find(src, bytes)))
		return say(cudaErrorInvalidValue);
	protect(true);
	memcpy(dst, src, bytes);
	protect(false);
	return say(sticky);
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t s)
{
	LOCK;
	cudaError_t rc = emuEnter(__func__, FROM, EMU_CALL);
	const emuSpan span = { p, bytes, true };

	if (!rc)
		rc = emuQueue("set", s, &span, 1, [=]() { memset(p, value, bytes); });
	return say(rc);
}

/* ---- kernels' attributes, errors, ranges ---------------------------------------------------- */

cudaError_t cudaFuncSetAttribute(const void *func, cudaFuncAttribute attr, int value)
{
	ENTER(EMU_CALL);
	if (attr != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
	    (size_t)value > EMU_SHARED_MOST)
		return say(cudaErrorInvalidValue);
	shared_most[func] = (size_t)value;
	return cudaSuccess;
}

cudaError_t cudaGetLastError(void)
{
	cudaError_t rc = last_error;

	LOCK;
	last_error = sticky;
	return rc ? rc : sticky;
}

cudaError_t cudaPeekAtLastError(void)
{
	LOCK;
	return last_error ? last_error : sticky;
}

static const struct {
	cudaError_t rc;
	const char *name, *text;
} texts[] = {
	{ cudaSuccess, "cudaSuccess", "no error" },
	{ cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument" },
	{ cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory" },
	{ cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error" },
	{ cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
	  "invalid configuration argument" },
	{ cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
	  "CUDA driver version is insufficient for CUDA runtime version" },
	{ cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected" },
	{ cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal" },
	{ cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice",
	  "no kernel image is available for execution on the device" },
	{ cudaErrorECCUncorrectable, "cudaErrorECCUncorrectable",
	  "uncorrectable ECC error encountered" },
	{ cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle",
	  "invalid resource handle" },
	{ cudaErrorNotReady, "cudaErrorNotReady", "device not ready" },
	{ cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
	  "an illegal memory access was encountered" },
	{ cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources",
	  "too many resources requested for launch" },
	{ cudaErrorHostMemoryAlreadyRegistered, "cudaErrorHostMemoryAlreadyRegistered",
	  "part or all of the requested memory range is already mapped" },
	{ cudaErrorHostMemoryNotRegistered, "cudaErrorHostMemoryNotRegistered",
	  "pointer does not correspond to a registered memory region" },
	{ cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure" },
};

const char *cudaGetErrorName(cudaError_t rc)
{
	for (const auto &t : texts)
		if (t.rc == rc)
			return t.name;
	return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t rc)
{
	for (const auto &t : texts)
		if (t.rc == rc)
			return t.text;
	return "unrecognized error code";
}

static thread_local int depth;

int nvtxRangePushA(const char *name)
{
	if (!name || !*name)
		emuReport("a range without a name");
	return depth++;
}

int nvtxRangePop(void)
{
	if (depth == 0)
		emuReport("a range is closed that was never opened");
	return depth ? --depth : 0;
}
