/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model/data.h - training text as tokens: plain bytes, llm.c and nanoGPT token files.
 *
 * Layer:   model (uses core)
 * Threads: one thread at a time
 *
 * The file is checked whole before use (size, header, every token id below the vocabulary). Its
 * tokens are cut into windows of seq + 1 (the last token of one is the first of the next), the
 * windows are visited in an order that is a function of seed and epoch only (a keyed permutation),
 * so a cursor (windows taken so far) is all there is to resume.
 *
 *   tokens   |0 . . . seq|. . . 2seq|. . . 3seq|. .   window w: tokens w*seq .. w*seq + seq
 *   windows  |<---- 0 --->|
 *                       |<--- 1 --->|                  its targets: the same, one token later
 *   held out: the last windows of the file; none of their targets is a target in training
 *
 * Memory is bounded by a fixed buffer and one window, whatever the size of the file; reads are
 * preads, and ids are checked again as they are read, so a file that changes under a run ends it
 * with an error, never with an id beyond the vocabulary.
 */
#ifndef MODEL_DATA_H
#define MODEL_DATA_H

#include "core/status.h"

struct st_data;

struct st_data_cfg {
	const char *train;  /* path */
	const char *val;    /* path, or NULL: the last `held_out` of train's windows */
	double held_out;    /* 0..0.5, share of the windows, rounded down; at least one window */
	const char *format; /* "bytes"; "bin": llm.c (20240520 v1 uint16; 20240801 v7 uint32), else
			       nanoGPT raw uint16 */
	size_t seq, vocab;  /* seq >= 1; vocab 1 .. 2^31 - 1, for "bytes" at least 256 */
	uint64_t seed;
	bool *blames_val; /* out, or NULL: what failed is val's fault, not train's */
};

#define ST_DATA_HELD_OUT_DEFAULT 0.05

/**
 * st_data_open() - check the files whole, in one streaming pass.
 * @param cfg  in, borrowed for the call
 * @return 0; STRATA_E_CONFIG (format, seq, vocab, held_out); STRATA_E_INPUT (missing, empty,
 *         truncated, too short for seq, token id beyond the vocabulary: which, where); -errno
 */
ST_MUST_CHECK int st_data_open(struct st_data **out, const struct st_data_cfg *cfg);
/** st_data_close() - NULL is accepted. */
void st_data_close(struct st_data *d);

/** st_data_train_windows() / st_data_val_windows() - how many there are, each at least 1. */
uint64_t st_data_train_windows(const struct st_data *d);
uint64_t st_data_val_windows(const struct st_data *d);
/** st_data_fingerprint() - XXH3 of size and content of both files: resume refuses another text. */
uint64_t st_data_fingerprint(const struct st_data *d);

/**
 * st_data_train() - windows cursor .. cursor + n - 1 of the endless training order.
 * Windows e * train_windows .. (e + 1) * train_windows - 1 of the order are epoch e: each window
 * once.
 * @param tokens, targets  out [n, seq]; undefined after an error
 * @return 0; STRATA_E_INPUT (the file was cut or changed since it was opened); -EINVAL (the cursor
 *         overflows); -errno
 */
ST_MUST_CHECK int st_data_train(struct st_data *d, uint64_t cursor, size_t n, int32_t *tokens,
				int32_t *targets);
/**
 * st_data_val() - validation windows first .. first + n - 1, in file order, no wrap.
 * @param tokens, targets  out [n, seq]; undefined after an error
 * @return as st_data_train(); -EINVAL when the range ends beyond st_data_val_windows()
 */
ST_MUST_CHECK int st_data_val(struct st_data *d, uint64_t first, size_t n, int32_t *tokens,
			      int32_t *targets);

#endif
