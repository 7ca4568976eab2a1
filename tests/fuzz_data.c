/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/fuzz_data.c - any bytes as a text and as a token file.
 *
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -D_GNU_SOURCE -I. -Iinclude tests/fuzz_data.c
 * \
 *       model/data.c model/file.c core/status.c -lxxhash -o fuzz_data && \
 *       ./fuzz_data DIR tests/corpus/data
 *
 * tests/test_data.c includes this file and replays the seeds. What is accepted must give ids below
 * the vocabulary in every window, each window once an epoch.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "model/data.h"

#define FUZZ_SEQ_MAX 64u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_windows(struct st_data *d, const struct st_data_cfg *cfg)
{
	int32_t tokens[FUZZ_SEQ_MAX], targets[FUZZ_SEQ_MAX];
	uint64_t n = st_data_train_windows(d), v = st_data_val_windows(d);
	uint64_t most = n < 200 ? n : 200;

	ST_ASSERT(n >= 1 && v >= 1);
	for (uint64_t i = 0; i < most + 2; i++) {
		ST_ASSERT(st_data_train(d, i, 1, tokens, targets) == 0);
		for (size_t k = 0; k < cfg->seq; k++) {
			ST_ASSERT((uint32_t)tokens[k] < cfg->vocab);
			ST_ASSERT((uint32_t)targets[k] < cfg->vocab);
			ST_ASSERT(k + 1 == cfg->seq || targets[k] == tokens[k + 1]);
		}
	}
	ST_ASSERT(st_data_val(d, v - 1, 1, tokens, targets) == 0);
	ST_ASSERT(st_data_val(d, v, 1, tokens, targets) == -EINVAL);
	ST_ASSERT(st_data_val(d, 1, UINT64_MAX, tokens, targets) == -EINVAL);
	ST_ASSERT(st_data_train(d, UINT64_MAX, 2, tokens, targets) == -EINVAL);
}

static void fuzz_one(const char *path, const char *val, const char *format, size_t seq,
		     size_t vocab)
{
	struct st_data_cfg cfg = { .train = path,
				   .val = val,
				   .held_out = 0.1,
				   .format = format,
				   .seq = seq,
				   .vocab = vocab,
				   .seed = seq + vocab };
	struct st_data *d = NULL;

	if (st_data_open(&d, &cfg) < 0) {
		ST_ASSERT(st_last_error()[0] && !strchr(st_last_error(), '\n') && !d);
		return;
	}
	fuzz_windows(d, &cfg);
	st_data_close(d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char path[40];
	int fd = memfd_create("fuzz", MFD_CLOEXEC);

	ST_ASSERT(fd >= 0 && write(fd, data, size) == (ssize_t)size);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	fuzz_one(path, NULL, "bytes", 3, 256);
	fuzz_one(path, path, "bytes", FUZZ_SEQ_MAX, 300);
	fuzz_one(path, NULL, "bin", 1, 50257);
	fuzz_one(path, NULL, "bin", 7, INT32_MAX);
	fuzz_one(path, path, "bin", 5, 65536);
	fuzz_one(path, NULL, "bin", SIZE_MAX, 65536);
	close(fd);
	return 0;
}
