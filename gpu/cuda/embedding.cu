/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu/cuda/embedding.cu - tokens: are they in the vocabulary, their rows, and the rows' gradients.
 *
 * The gradient of a token's row is the sum over its places in the order of the places, as on the
 * CPU. The block of a token's first place does all of them; the blocks of the others find that they
 * are not the first, and leave. That reads the tokens once for each place, from the L2 cache.
 */
#include "gpu/cuda/elements.h"
#include "gpu/cuda/kernels.h"

#define THREADS 256
#define WARPS   (THREADS / ST_WARP)

/* ---- tokens -------------------------------------------------------------------------------- */

/* One block: the first place outside of the vocabulary. */
ST_KERNEL(THREADS) check_tokens(size_t n, const int32_t *tokens, size_t vocab, uint64_t *bad)
{
	uint64_t *const room = (uint64_t *)shared_memory();
	uint64_t first = UINT64_MAX;

	for (size_t i = threadIdx.x; i < n && first == UINT64_MAX; i += THREADS) {
		const int32_t t = load(tokens + i);

		if (t < 0 || (size_t)t >= vocab)
			first = i;
	}
	room[threadIdx.x] = first;
	barrier();
	if (threadIdx.x == 0 && load(bad) == 0) {
		for (int t = 0; t < THREADS; t++)
			first = room[t] < first ? room[t] : first;
		if (first != UINT64_MAX)
			store(bad, first + 1);
	}
}

cudaError_t st_cuda_check_tokens(cudaStream_t s, size_t n, const int32_t *tokens, size_t vocab,
				 uint64_t *bad)
{
	return ST_LAUNCH(
		"check_tokens", check_tokens, 1, THREADS, THREADS * sizeof(uint64_t), s,
		ST_SPANS({ tokens, n * sizeof(*tokens), false }, { bad, sizeof(*bad), true }), n,
		tokens, vocab, bad);
}

/* ---- forward ------------------------------------------------------------------------------- */

/* A thread for each vector of y. */
template <typename T, int N>
ST_KERNEL(THREADS)
embedding_fwd(size_t rows, size_t seq, size_t cols, const int32_t *tokens, const T *wte,
	      const T *wpe, T *y, const uint64_t *bad)
{
	const size_t i = ((size_t)blockIdx.x * THREADS + threadIdx.x) * N;
	const size_t row = i / cols, c = i % cols;

	if (row >= rows || load(bad))
		return;
	const elements<T, N> e = load_elements<T, N>(wte + (size_t)load(tokens + row) * cols + c);
	elements<T, N> p = load_elements<T, N>(wpe + row % seq * cols + c);

	ST_UNROLL
	for (int j = 0; j < N; j++)
		p.x[j] += e.x[j];
	store_elements<T, N>(y + i, p);
}

template <typename T>
static cudaError_t launch_embedding_fwd(cudaStream_t s, size_t batch, size_t seq, size_t cols,
					size_t vocab, const int32_t *tokens, const T *wte,
					const T *wpe, T *y, const uint64_t *bad)
{
	constexpr int lanes = st_lanes<T>();
	const bool is_wide = cols % lanes == 0 && st_is_wide({ wte, wpe, y });
	const size_t rows = batch * seq, vectors = rows * cols / (is_wide ? lanes : 1);
	auto *fn = is_wide ? embedding_fwd<T, lanes> : embedding_fwd<T, 1>;

	return ST_LAUNCH(
		"embedding_fwd", fn, dim3((unsigned)st_ceil_div(vectors, THREADS)), THREADS, 0, s,
		ST_SPANS({ tokens, rows * sizeof(*tokens), false },
			 { wte, vocab * cols * sizeof(T), false },
			 { wpe, seq * cols * sizeof(T), false },
			 { y, rows * cols * sizeof(T), true }, { bad, sizeof(*bad), false }),
		rows, seq, cols, tokens, wte, wpe, y, bad);
}

cudaError_t st_cuda_embedding_fwd(cudaStream_t s, enum st_dtype dt, size_t batch, size_t seq,
				  size_t cols, size_t vocab, const int32_t *tokens, const void *wte,
				  const void *wpe, void *y, const uint64_t *bad)
{
	auto go = [=](auto t) {
		using T = decltype(t);

		return launch_embedding_fwd(s, batch, seq, cols, vocab, tokens, (const T *)wte,
					    (const T *)wpe, (T *)y, bad);
	};

	return ST_EACH_DTYPE(dt, go);
}

/* ---- backward ------------------------------------------------------------------------------ */

/* The places in [from, from + THREADS) that have this token, in order, into `list`; returns how
 * many. Two barriers: before `list` is written again everybody has read it. */
ST_DEVICE unsigned places_of(int32_t token, size_t from, size_t rows, const int32_t *tokens,
			     uint32_t *list, uint32_t *counts)
{
	const size_t i = from + threadIdx.x;
	const bool is_one = i < rows && load(tokens + i) == token;
	const uint32_t votes = vote(is_one);
	const unsigned lane = threadIdx.x % ST_WARP, warp = threadIdx.x / ST_WARP;
	unsigned before = 0, all = 0;

	barrier();
	if (lane == 0)
		counts[warp] = (uint32_t)count_ones(votes);
	barrier();
	for (unsigned w = 0; w < WARPS; w++) {
		before += w < warp ? counts[w] : 0;
		all += counts[w];
	}
	if (is_one)
		list[before + (unsigned)count_ones(votes & ((1u << lane) - 1))] =
			(uint32_t)threadIdx.x;
	barrier();
	return all;
}

template <typename T, int N>
ST_KERNEL(THREADS)
embedding_bwd_wte(size_t rows, size_t cols, const int32_t *tokens, const T *dy, float *dwte,
		  const uint64_t *bad)
{
	uint32_t *const list = (uint32_t *)shared_memory(), *const counts = list + THREADS;
	const size_t place = blockIdx.x;
	bool is_earlier = load(bad) != 0;
	int32_t token = 0;

	if (!is_earlier)
		token = load(tokens + place);
	for (size_t from = 0; !is_earlier && from < place; from += THREADS) {
		const size_t i = from + threadIdx.x;

		is_earlier = barrier_or(i < place && load(tokens + i) == token);
	}
	if (is_earlier)
		return; /* the whole block */
	dwte += (size_t)token * cols;
	for (size_t from = place / THREADS * THREADS; from < rows; from += THREADS) {
		const unsigned n = places_of(token, from, rows, tokens, list, counts);

		for (size_t c = (size_t)threadIdx.x * N; n && c < cols; c += THREADS * N)
			for (unsigned k = 0; k < n; k++)
				add_elements<T, N>(
					dwte + c,
					load_elements<T, N>(dy + (from + list[k]) * cols + c));
	}
}

/* A thread for each vector of a row of wpe: the sum over the batch. */
template <typename T, int N>
ST_KERNEL(THREADS)
embedding_bwd_wpe(size_t batch, size_t seq, size_t cols, const T *dy, float *dwpe,
		  const uint64_t *bad)
{
	const size_t i = ((size_t)blockIdx.x * THREADS + threadIdx.x) * N;

	if (i >= seq * cols || load(bad))
		return;
	for (size_t b = 0; b < batch; b++)
		add_elements<T, N>(dwpe + i, load_elements<T, N>(dy + b * seq * cols + i));
}

template <typename T>
static cudaError_t launch_embedding_bwd(cudaStream_t s, size_t batch, size_t seq, size_t cols,
					size_t vocab, const int32_t *tokens, const T *dy,
					float *dwte, float *dwpe, const uint64_t *bad)
{
	constexpr int lanes = st_lanes<T>();
	const bool is_wide = cols % lanes == 0 && st_is_wide({ dy, dwte, dwpe });
	const size_t rows = batch * seq, vectors = seq * cols / (is_wide ? lanes : 1);
	auto *wte = is_wide ? embedding_bwd_wte<T, lanes> : embedding_bwd_wte<T, 1>;
	auto *wpe = is_wide ? embedding_bwd_wpe<T, lanes> : embedding_bwd_wpe<T, 1>;
	cudaError_t rc;

	rc = ST_LAUNCH("embedding_bwd_wte", wte, dim3((unsigned)rows), THREADS,
		       (THREADS + WARPS) * sizeof(uint32_t), s,
		       ST_SPANS({ tokens, rows * sizeof(*tokens), false },
				{ dy, rows * cols * sizeof(T), false },
				{ dwte, vocab * cols * sizeof(float), true },
				{ bad, sizeof(*bad), false }),
		       rows, cols, tokens, dy, dwte, bad);
	return rc ? rc
		  : ST_LAUNCH("embedding_bwd_wpe", wpe,
			      dim3((unsigned)st_ceil_div(vectors, THREADS)), THREADS, 0, s,
			      ST_SPANS({ dy, rows * cols * sizeof(T), false },
				       { dwpe, seq * cols * sizeof(float), true },
				       { bad, sizeof(*bad), false }),
			      batch, seq, cols, dy, dwpe, bad);
}

cudaError_t st_cuda_embedding_bwd(cudaStream_t s, enum st_dtype dt, size_t batch, size_t seq,
				  size_t cols, size_t vocab, const int32_t *tokens, const void *dy,
				  float *dwte, float *dwpe, const uint64_t *bad)
{
	auto go = [=](auto t) {
		using T = decltype(t);

		return launch_embedding_bwd(s, batch, seq, cols, vocab, tokens, (const T *)dy, dwte,
					    dwpe, bad);
	};

	return ST_EACH_DTYPE(dt, go);
}
