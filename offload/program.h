/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offload/program.h - a step as a program: a flat, printable list of operations.
 *
 * Layer:   offload
 * Threads: a program is constant once it is sealed
 *
 * The compiler (offload/compile.h) emits operations in serial order. Each declares what memory it
 * uses and which lasting things it touches; edges follow from that and point to smaller indices.
 *
 *  1. A *use* is a range of memory with a role (parameters of the stage, its input, ...).
 *  2. A *claim* is a buffer that lives inside one program: a range of a pool, from the operation
 *     that first uses it to the completion of all that use it. Its address was chosen when the
 *     program was sealed; in serial order no two live claims of a pool overlap. So a serial
 *     execution always fits.
 *  3. A *resource* outlives a program: the home of a unit's parameters, of a tile's state, of a
 *     tile's resting gradient (on disk or in memory), the pending update, the commit round. Touches
 *     are shared or exclusive. An operation that is the first in its program to touch a resource
 *     imports it: it waits until the program before has done with it.
 */
#ifndef OFFLOAD_PROGRAM_H
#define OFFLOAD_PROGRAM_H

#include "offload/layout.h"

/* What an operation does; the lane that does it; what a line of the printed program calls it. */
#define ST_OPS(X)                                                                                  \
	X(GATE, GATE, "gate")             /* the step begins: batch and learning rate are there */ \
	X(READ_PARAM, READ, "read-param") /* parameters of a unit, store to memory */              \
	X(READ_STATE, READ, "read-state") /* state of a tile, store to memory */                   \
	X(READ_GRAD, READ, "read-grad")   /* resting gradient of a tile, scratch to memory */      \
	X(READ_ROWS, READ, "read-rows")   /* a chunk of the rows that the batch names */           \
	X(WRITE_PARAM, WRITE, "write-param") /* parameters of a tile, memory to store */           \
	X(WRITE_STATE, WRITE, "write-state")                                                       \
	X(WRITE_GRAD, WRITE, "write-grad")                                                         \
	X(COMMIT, COMMIT, "commit")    /* what was written becomes the durable version */          \
	X(FORWARD, COMPUTE, "forward") /* a stage on a micro-batch */                              \
	X(BACKWARD, COMPUTE, "backward")                                                           \
	X(REDUCE, COMPUTE, "reduce") /* round a tile's gradient once, sum its squares */           \
	X(NORM, COMPUTE, "norm")     /* loss, global norm, clip factor: the pending update */      \
	X(UPDATE, COMPUTE, "update") /* optimizer on a tile */                                     \
	X(UPDATE_ROWS, COMPUTE, "update-rows") /* the same on copies of a chunk of rows */         \
	X(FILL, COMPUTE, "fill")               /* first values of a tile */                        \
	X(EMIT, COMPUTE, "emit")     /* a tile's master weights and moments, to export or hash */  \
	X(COPY_IN, H2D, "copy-in")   /* host to device */                                          \
	X(COPY_OUT, D2H, "copy-out") /* device to host */                                          \
	X(GATHER, NETWORK, "gather") /* a unit's parameters, from the shards; these two:           \
					offload/rank.h */                                          \
	X(SCATTER, NETWORK, "reduce-scatter") /* a unit's gradient, to the shards */

enum st_op_kind {
#define ST_X(name, lane, text) ST_OP_##name,
	ST_OPS(ST_X)
#undef ST_X
		ST_OP_KINDS
};

/*
 * Resources that work. Where the device's memory is the host's, nothing is copied, and compute and
 * optimizer share one thread team, so one lane. The network works in programs of machines with
 * several ranks (offload/rank.h).
 */
#define ST_LANES(X)                                                                                \
	X(GATE, "gate")                                                                            \
	X(READ, "nvme-read")                                                                       \
	X(WRITE, "nvme-write")                                                                     \
	X(COMMIT, "commit")                                                                        \
	X(COMPUTE, "compute")                                                                      \
	X(H2D, "h2d")                                                                              \
	X(D2H, "d2h")                                                                              \
	X(NETWORK, "network")                                                                      \
	X(OPTIMIZER, "optimizer")

enum st_lane {
#define ST_X(name, text) ST_LANE_##name,
	ST_LANES(ST_X)
#undef ST_X
		ST_LANE_N
};

/* Classes of memory: each has its own budget and its own cursor in program order. */
#define ST_POOLS(X)                                                                                \
	X(PARAM, "parameters")   /* units that were read */                                        \
	X(ACCUM, "accumulators") /* fp32 gradients of the units in backward */                     \
	X(ACT, "activations")    /* stage inputs and their gradients */                            \
	X(SAVED, "saved")        /* what forward leaves for backward */                            \
	X(WORK, "workspace")     /* scratch of one call */                                         \
	X(STATE, "states")       /* optimizer states in, updated, out */                           \
	X(REST, "gradients")     /* rounded gradients until their update */                        \
	/* Only where the device's memory is not the host's: */                                    \
	X(STAGE, "staging")   /* host: parameters on their way to or from the device */            \
	X(ROUNDED, "rounded") /* device: a tile's gradient on its way to the host */               \
	X(ACT_REST, "activations at rest") /* host: stage inputs between forward and backward */

enum st_pool {
#define ST_X(name, text) ST_POOL_##name,
	ST_POOLS(ST_X)
#undef ST_X
		ST_POOL_N
};

enum st_arena_id { ST_ARENA_DEVICE, ST_ARENA_HOST, ST_ARENA_N };

/* An address is an arena and an offset; the same on every machine that runs the plan. */
struct st_addr {
	uint32_t arena;
	uint64_t off_bytes;
};

enum st_role {
	ST_ROLE_PARAM0,
	ST_ROLE_PARAM1,
	ST_ROLE_PARAM2,
	ST_ROLE_PARAM3, /* the stage's units */
	ST_ROLE_ACCUM0,
	ST_ROLE_ACCUM1,
	ST_ROLE_ACCUM2,
	ST_ROLE_ACCUM3,
	ST_ROLE_X,
	ST_ROLE_Y,
	ST_ROLE_SAVED,
	ST_ROLE_WORK,
	ST_ROLE_DY,
	ST_ROLE_DX,
	ST_ROLE_STATE,
	ST_ROLE_GRAD,
	ST_ROLE_ROWS, /* what was read of a chunk of rows */
	/* Of copies. What lies in memory of a run or of the engine has no address here: tokens,
	 * targets, numbers of rows; losses; leaves. */
	ST_ROLE_FROM, /* each is followed by the ... */
	ST_ROLE_TO,   /* ... of the same length */
	ST_ROLE_TOKENS,
	ST_ROLE_TARGETS,
	ST_ROLE_ROW_NUMBERS,
	ST_ROLE_LOSS,   /* [batch * seq] fp32 */
	ST_ROLE_LEAVES, /* sums of squares of a tile's gradient, double */
};

#define ST_NO_CLAIM UINT32_MAX
#define ST_NONE     UINT32_MAX

struct st_use {
	uint8_t role;
	bool is_write;
	uint32_t claim; /* or ST_NO_CLAIM: at home, or memory that stays */
	struct st_addr addr;
	uint64_t bytes;
};

struct st_claim {
	uint8_t pool;
	uint32_t first_op, last_op; /* by program order */
	uint32_t n_users;           /* it ends when so many operations have completed */
	uint64_t bytes;
	uint64_t off_bytes; /* in the pool */
};

struct st_op {
	uint8_t kind, lane;
	bool zeroes[ST_STAGE_UNITS_MAX]; /* BACKWARD: this unit's accumulator starts here */
	bool is_recompute;               /* FORWARD inside backward */
	bool is_pending;                 /* UPDATE of the step before this one */
	bool is_speculative;             /* READ, UPDATE, WRITE: void once the step will clip */
	bool is_lookup;                  /* FORWARD: unit 0 is the table of the batch's rows */
	uint32_t unit, tile, stage, mb;  /* ST_NONE where it has none */
	uint32_t chunk;                  /* READ_ROWS, UPDATE_ROWS */
	uint32_t first_use, n_uses;
	uint32_t first_dep, n_deps; /* edges to smaller indices */
	uint32_t first_import, n_imports;
	uint32_t n_claims;      /* claims that begin here */
	uint32_t n_claims_used; /* claims it uses, each once */
	uint64_t bytes;         /* moved by the lane; READ_ROWS: at the most */
	double flops;
};

struct st_touch { /* as declared; [lo, hi) of the resource */
	uint32_t op, resource;
	bool is_exclusive;
	uint64_t lo, hi;
};

struct st_pool_place {
	uint32_t arena;
	uint64_t base_bytes; /* of the pool in its arena */
	uint64_t bytes;      /* size */
};

struct st_csr {          /* item -> list */
	uint32_t *first; /* [n + 1] */
	uint32_t *items;
};

struct st_program {
	char name[48];
	struct st_op *ops;
	uint32_t n_ops;
	struct st_use *uses;
	uint32_t *deps, *imports;
	struct st_claim *claims; /* in the order of their creation */
	uint32_t n_claims;
	struct st_touch *touch_list; /* ascending by op; as declared, for checks */
	uint32_t n_touches;
	struct st_csr succs;     /* op -> operations that depend on it */
	struct st_csr importers; /* resource -> operations that import it */
	struct st_csr touches;   /* op -> resources it touches */
	uint32_t *touch_count;   /* [n_resources] operations here that touch it */
	uint32_t n_resources;
	struct st_csr pool_claims;     /* pool -> claims, in program order */
	struct st_csr claim_users;     /* claim -> operations that use it, ascending, each once */
	uint64_t pool_peak[ST_POOL_N]; /* bytes claimed at once in serial order */
	struct st_pool_place
		place[ST_POOL_N]; /* where its claims were placed; all 0: measured only */
	uint64_t lane_bytes[ST_LANE_N];
	double flops;
};

/* ---- building ------------------------------------------------------------------------------ */

struct st_builder;

ST_MUST_CHECK int st_builder_create(struct st_builder **out, const char *name,
				    uint32_t n_resources);
void st_builder_destroy(struct st_builder *b);

/**
 * st_builder_sketch() - to be called first: of what is emitted only the claims are kept, when they
 * live, and the bytes of each lane. Sealed it has pool_peak and lane_bytes, and can be tried in
 * pools (st_place_try()); it can not be run. A tenth of the work.
 */
void st_builder_sketch(struct st_builder *b);

/** st_builder_op() - append an operation; the calls below then speak of it. @return its index */
uint32_t st_builder_op(struct st_builder *b, enum st_op_kind kind, uint32_t unit, uint32_t tile,
		       uint32_t stage, uint32_t mb);
struct st_op *st_builder_last(struct st_builder *b);
/** st_builder_claim() - a new buffer, which begins at the latest operation's first use of it. */
uint32_t st_builder_claim(struct st_builder *b, enum st_pool pool, uint64_t bytes);
/** st_builder_use() - the latest operation uses [off, off + bytes) of a claim. */
void st_builder_use(struct st_builder *b, enum st_role role, uint32_t claim, uint64_t off_bytes,
		    uint64_t bytes, bool is_write);
/** st_builder_use_fixed() - it uses memory that stays; order comes from the resource it touches. */
void st_builder_use_fixed(struct st_builder *b, enum st_role role, struct st_addr addr,
			  uint64_t bytes, bool is_write);
/** st_builder_touch() - it touches [lo, hi) of a resource (hi 0: all of it), shared or exclusive.
 */
void st_builder_touch(struct st_builder *b, uint32_t resource, uint64_t lo, uint64_t hi,
		      bool is_exclusive);
/** st_builder_after() - an edge that no memory explains. */
void st_builder_after(struct st_builder *b, uint32_t op);

/**
 * st_builder_seal() - choose addresses, build the tables. What was emitted is used up, also when it
 * fails: build again to place again. (st_program_verify() checks the result, apart from this.)
 * Each claim gets, among the ranges that are free in serial order, the one whose last use lies
 * furthest back, so that reservations can run ahead of execution as far as the pool allows.
 * @param places  in [ST_POOL_N]; NULL: do not place, only measure pool_peak
 * @param failed_pool  out, on STRATA_E_NO_FIT
 * @return 0; STRATA_E_NO_FIT; -ENOMEM
 */
ST_MUST_CHECK int st_builder_seal(struct st_builder *b, const struct st_pool_place *places,
				  struct st_program **out, enum st_pool *failed_pool);

void st_program_destroy(struct st_program *p);

/**
 * st_place_pool() - place the claims of one pool; what sealing does for each.
 * @return 0; STRATA_E_NO_FIT; -ENOMEM
 */
ST_MUST_CHECK int st_place_pool(struct st_program *p, enum st_pool pool, uint64_t bytes);
/** st_place_try() - would that do? The claims lie anywhere afterwards. @return as above */
ST_MUST_CHECK int st_place_try(struct st_program *p, enum st_pool pool, uint64_t bytes);

/**
 * st_program_verify() - check a sealed program without trusting the builder: edges point back;
 * live claims of a pool do not overlap in serial order and lie inside it, and their uses inside
 * them; any two operations whose uses conflict in memory are ordered by a path, or by the end of a
 * claim; any two that conflict on a resource by a path, and the first to touch one imports it.
 * @return 0; -EPROTO with the pair that is wrong; -ENOMEM
 */
ST_MUST_CHECK int st_program_verify(const struct st_program *p);

/** st_program_print() - text of operation i, one line without newline, for people and tests. */
void st_program_print(const struct st_program *p, uint32_t i, char *line, size_t line_bytes);

const char *st_op_name(enum st_op_kind k);
enum st_lane st_op_lane(enum st_op_kind k);
const char *st_lane_name(enum st_lane l);
const char *st_pool_name(enum st_pool p);

#endif
