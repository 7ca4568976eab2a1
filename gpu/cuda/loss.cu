/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu/cuda/loss.cu - cross-entropy and its gradient: a block for each row, which it reads twice.
 *
 * The first pass keeps, in each thread, the largest logit so far and the sum of exponentials
 * relative to it; the block then brings all of them to the one largest logit and adds them by a
 * fixed tree. A thread that has met none has the sum 0, which nothing else has.
 */
#include "gpu/cuda/elements.h"
#include "gpu/cuda/kernels.h"

#define THREADS 512
#define WARPS   (THREADS / ST_WARP)

struct softmax { /* the sum of exp(x - max) */
	float max, sum;
};

ST_DEVICE struct softmax softmax_add(struct softmax a, float x)
{
	if (x > a.max) {
		a.sum = a.sum * expf(a.max - x) + (x - x + 1.0f); /* of +inf: NaN */
		a.max = x;
	} else if (x != -INFINITY) {
		a.sum += expf(x - a.max); /* also of a NaN */
	}
	return a;
}

ST_DEVICE struct softmax softmax_join(struct softmax a, struct softmax b)
{
	const float max = a.max > b.max ? a.max : b.max;
	const float x = a.sum != 0.0f ? a.sum * expf(a.max - max) : 0.0f;
	const float y = b.sum != 0.0f ? b.sum * expf(b.max - max) : 0.0f;

	return { max, x + y };
}

ST_DEVICE struct softmax softmax_block(struct softmax a, struct softmax *room)
{
	ST_UNROLL
	for (int m = ST_WARP / 2; m > 0; m /= 2)
		a = softmax_join(a, { shfl_xor(a.max, m), shfl_xor(a.sum, m) });
	if (threadIdx.x % ST_WARP == 0)
		room[threadIdx.x / ST_WARP] = a;
	barrier();
	a = room[0];
	for (int w = 1; w < WARPS; w++)
		a = softmax_join(a, room[w]);
	return a;
}

/* Elements [0, whole) by vectors of N, the rest one by one: the vocabulary is no multiple. */
template <typename T, int N>
ST_KERNEL(THREADS)
cross_entropy(size_t vocab, size_t ld, T *logits, const int32_t *targets, float *loss,
	      float grad_scale, const uint64_t *bad)
{
	const size_t row = blockIdx.x, whole = vocab / N * N, first = threadIdx.x;
	T *const x = logits + row * ld;
	struct softmax a = { -INFINITY, 0.0f };
	float target, k, of_target;

	if (load(bad))
		return; /* every block */
	for (size_t c = first * N; c < whole; c += THREADS * N) {
		const elements<T, N> v = load_elements<T, N>(x + c);

		ST_UNROLL
		for (int j = 0; j < N; j++)
			a = softmax_add(a, v.x[j]);
	}
	for (size_t c = whole + first; c < vocab; c += THREADS)
		a = softmax_add(a, to_f32(load(x + c)));
	const size_t at = (size_t)load(targets + row);

	target = to_f32(load(x + at));
	a = softmax_block(a, (struct softmax *)shared_memory()); /* all have read their target */
	if (first == 0)
		store(loss + row, (a.max - target) + logf(a.sum));
	if (grad_scale == 0.0f)
		return;
	k = grad_scale / a.sum;
	of_target = grad_scale * (expf(target - a.max) / a.sum - 1.0f); /* before it is rounded */
	for (size_t c = first * N; c < whole; c += THREADS * N) {
		elements<T, N> v = load_elements<T, N>(x + c);

		ST_UNROLL
		for (int j = 0; j < N; j++)
			v.x[j] = c + j == at ? of_target : expf(v.x[j] - a.max) * k;
		store_elements<T, N>(x + c, v);
	}
	for (size_t c = whole + first; c < vocab; c += THREADS)
		store(x + c,
		      from_f32<T>(c == at ? of_target : expf(to_f32(load(x + c)) - a.max) * k));
}

template <typename T>
static cudaError_t launch_cross_entropy(cudaStream_t s, size_t rows, size_t vocab, size_t ld,
					T *logits, const int32_t *targets, float *loss,
					float grad_scale, const uint64_t *bad)
{
	constexpr int lanes = st_lanes<T>();
	const bool is_wide = ld % lanes == 0 && st_is_wide({ logits });
	auto *fn = is_wide ? cross_entropy<T, lanes> : cross_entropy<T, 1>;

	return ST_LAUNCH("cross_entropy", fn, dim3((unsigned)rows), THREADS,
			 WARPS * sizeof(struct softmax), s,
			 ST_SPANS({ logits, ((rows - 1) * ld + vocab) * sizeof(T), true },
				  { targets, rows * sizeof(*targets), false },
				  { loss, rows * sizeof(*loss), true },
				  { bad, sizeof(*bad), false }),
			 vocab, ld, logits, targets, loss, grad_scale, bad);
}

cudaError_t st_cuda_cross_entropy(cudaStream_t s, enum st_dtype dt, size_t rows, size_t vocab,
				  size_t ld, void *logits, const int32_t *targets, float *loss,
				  float grad_scale, const uint64_t *bad)
{
	auto go = [=](auto t) {
		using T = decltype(t);

		return launch_cross_entropy(s, rows, vocab, ld, (T *)logits, targets, loss,
					    grad_scale, bad);
	};

	return ST_EACH_DTYPE(dt, go);
}
