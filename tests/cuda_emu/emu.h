/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/cuda_emu/emu.h - steer the emulated CUDA runtime, and ask what it saw.
 *
 * Threads: any; the whole host counts as one actor, whose calls come one after the other: what one
 *          thread has waited for is known to all
 *
 * Device memory is host memory that only what runs on a stream may touch: outside of that it is
 * protected, and poisoned when it is allocated (0xff: NaN in every float, -1 in every token). A
 * call only puts an operation into its stream. When the operation runs is the seed's choice,
 * anywhere between the call and the first thing that has to wait for it; a copy may stop half-way.
 * The same seed and the same calls give the same order; threads make calls in an order of their
 * own.
 *
 * Races are found by vector clocks, whatever order was played: each launch and copy states what it
 * reads and writes; two accesses of one byte, one of them a write, must be ordered by a stream, an
 * event or the host. The host's own accesses are told (host.h); besides, the source of a copy must
 * not change between its call and its run. What is wrong is reported
 * (emuReport() in launch.h), and the program goes on as a real one would, where it can.
 */
#ifndef TESTS_CUDA_EMU_EMU_H
#define TESTS_CUDA_EMU_EMU_H

#include "tests/cuda_emu/host.h"

#include <cuda_runtime.h>
#include <launch.h>
#include <vector>

enum emuPace {                  /* how soon an operation runs: of a seed, seed % 4 */
	       EMU_PACE_EAGER,  /* as soon as it may */
	       EMU_PACE_LAZY,   /* when it must */
	       EMU_PACE_RANDOM, /* or anything between */
	       EMU_PACE_MIXED,
};

struct emuMachine {
	int driver; /* 13000; 0: none */
	int gpus;
	int major, minor, sms;
	const char *name;
	size_t memory_bytes;
	bool has_lt;         /* is libcublasLt there? */
	bool has_heuristics; /* false: its lists are empty */
	bool is_protected;   /* device memory is out of the host's reach */
	unsigned late_us; /* so long at most the host waits beyond what it waits for; meanwhile its
			     other threads go on */
};
#define EMU_MACHINE                                                                                \
	{                                                                                          \
		13000, 1, 8, 0, 108, "Emulated GPU", (size_t)1 << 30, true, true, true, 0          \
	}

/** emuStart() - a new machine: no memory, streams, reports, counts or failures to come. */
void emuStart(uint64_t seed, const emuMachine &machine);
/** emuLeaks() - report every allocation, registration, stream, event and handle that is left.
 * @return how many */
int emuLeaks(void);

/** emuTrace() - a hash of the order in which operations have run. */
uint64_t emuTrace(void);

/* ---- failures ------------------------------------------------------------------------------- */

struct emuSite {          /* a place that calls CUDA or cuBLASLt */
	const void *at;   /* where the call returns to */
	const char *name; /* what it calls */
	uint64_t calls;
};
/** emuSites() - every place that has called since emuStart(). */
std::vector<emuSite> emuSites(void);
uint64_t emuCallCount(void);
/** emuFailNth() - the nth call from emuStart() on (1-based) fails. @param sticky all after it, too
 */
void emuFailNth(uint64_t nth, cudaError_t rc, bool sticky);
/** emuFailSite() - the first call from that place fails. */
void emuFailSite(const void *at, cudaError_t rc);
/** emuFailOp() - the nth operation of a stream fails when it runs: later calls say so, for good. */
void emuFailOp(uint64_t nth, cudaError_t rc);
/** emuFailed() - has the failure that was asked for happened? */
bool emuFailed(void);

/* ---- steps ---------------------------------------------------------------------------------- */

struct emuCounts {
	uint64_t calls, launches, copies, products;
	uint64_t allocates, frees, synchronises; /* also (un)registering; of stream or device */
	uint64_t creates;                        /* streams, events, handles: made or destroyed */
};
emuCounts emuCount(void); /* since emuStart() */
/** emuStep() - from here to emuStep(false), what allocates, frees, creates or synchronises is
 * reported. */
void emuStep(bool is_inside);

/**
 * emuRegisters() - claim that a thread of a kernel takes n registers, whatever ptxas said.
 * @param kernel  in, "layernorm_fwd<st_bf16, 8>"
 * @param n       in, until emuStart(); < 0: nothing is claimed
 * @return what ptxas said, -1: nothing, for there is no nvcc here, or no such kernel
 */
int emuRegisters(const char *kernel, int n);

/* ---- between the parts of the emulation ----------------------------------------------------- */

/* One call: counts it, runs some of what is pending, and says what it must return, 0 to go on. */
enum emuKind { EMU_CALL, EMU_ALLOCATE, EMU_FREE, EMU_SYNC, EMU_CREATE };
cudaError_t emuEnter(const char *name, const void *at, emuKind kind);
/** emuQueue() - an operation that is no grid; `run` is called with device memory in reach. */
cudaError_t emuQueue(const char *name, cudaStream_t s, const emuSpan *spans, int n_spans,
		     std::function<void()> run);
void emuHold(int n); /* handles made (+) or destroyed (-), for emuLeaks() */
void emuCountProduct(void);
void emuLtStart(void); /* their parts of emuStart() */
void emuRegistersStart(void);
/** emuCheckRegisters() - what a card says to so many threads a block. */
cudaError_t emuCheckRegisters(const void *func, uint64_t threads);
const emuMachine &emuIs(void);

#endif
