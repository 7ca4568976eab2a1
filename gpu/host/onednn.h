/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu/host/onednn.h - matrix products by oneDNN; the only place that knows its API.
 *
 * Layer:   gpu/host (uses core)
 * Threads: st_onednn_matmul() from the device's one thread; st_onednn_work_bytes() from any
 *
 * A product is prepared once per shape (sizes, strides, transposes, dtypes, bias, accumulation)
 * and kept until close. oneDNN runs on the OpenMP team of `threads`, the one all other operations
 * use. What it needs as scratch comes from the caller.
 */
#ifndef GPU_HOST_ONEDNN_H
#define GPU_HOST_ONEDNN_H

#include "gpu/device.h"

struct st_onednn;

/** st_onednn_open() - @return 0; -ENOMEM; STRATA_E_UNSUPPORTED (oneDNN has no CPU engine here) */
ST_MUST_CHECK int st_onednn_open(struct st_onednn **out, unsigned threads);
void st_onednn_close(struct st_onednn *d);

/** st_onednn_version() - of the library that runs, and its instruction set: "2.6.3". */
void st_onednn_version(char *text, size_t text_bytes, int *isa);

/** st_onednn_has_bf16() - bf16 products run on AVX512_BF16 or AMX; with less they are emulated. */
bool st_onednn_has_bf16(void);

/**
 * st_onednn_work_bytes() - prepare a product, if that has not been done.
 * @param mm          in, with row strides filled in; pointers are not read but for bias != NULL
 * @param bias_dtype  in
 * @return 0 and *bytes of scratch; STRATA_E_UNSUPPORTED where oneDNN does not do this product (no
 *         text is recorded: the caller has another way); -ENOMEM
 */
ST_MUST_CHECK int st_onednn_work_bytes(struct st_onednn *d, const struct st_matmul *mm,
				       enum st_dtype bias_dtype, size_t *bytes);

/** st_onednn_matmul() - compute it. @return 0; negative with st_fail() text, C is then undefined */
ST_MUST_CHECK int st_onednn_matmul(struct st_onednn *d, const struct st_matmul *mm,
				   enum st_dtype bias_dtype);

#endif
