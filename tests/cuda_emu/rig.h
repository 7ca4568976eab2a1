/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/cuda_emu/rig.h - an opened CUDA device with an arena, and host memory to copy from and to.
 *
 * Threads: one
 */
#ifndef TESTS_CUDA_EMU_RIG_H
#define TESTS_CUDA_EMU_RIG_H

#include "gpu/cuda/c_headers.h"

#include <vector>

extern "C" const struct st_device_ops st_cuda_ops;

struct Rig {
	struct st_device *dev = nullptr;
	struct st_event *event = nullptr;
	char *base = nullptr, *host = nullptr; /* arena; registered, as large */
	size_t bytes = 0, used = 0;

	/* @return 0, or the first failure; what was opened then is closed again by shut() */
	int open(enum st_dtype dtype, size_t arena_bytes)
	{
		struct st_device_cfg cfg = { "cuda", dtype, 1 };
		int rc = st_cuda_ops.open(&dev, &cfg);

		bytes = arena_bytes;
		if (!rc)
			rc = st_device_arena(dev, bytes, (void **)&base);
		if (!rc && posix_memalign((void **)&host, 4096, bytes))
			rc = -ENOMEM;
		if (!rc)
			memset(host, 0, bytes);
		if (!rc)
			rc = st_device_register(dev, host, bytes);
		if (!rc)
			rc = st_event_create(dev, &event);
		return rc;
	}

	void shut(void)
	{
		st_event_destroy(event);
		st_device_close(dev);
		free(host);
		*this = Rig();
	}

	/* The next n bytes of the arena, 256-byte aligned, with a gap behind them. */
	void *take(size_t n)
	{
		void *p = base + used;

		used += (n + 255) / 256 * 256 + 256;
		return used <= bytes ? p : nullptr;
	}

	/* Where in the host's memory a device address is copied from and to. */
	char *mirror(const void *device) const
	{
		return host + ((const char *)device - base);
	}

	/* Copy and wait. */
	int put(void *device, const void *from, size_t n)
	{
		int rc;

		memcpy(mirror(device), from, n);
		rc = st_device_copy(dev, ST_STREAM_COMPUTE, device, mirror(device), n);
		return rc ? rc : wait(ST_STREAM_COMPUTE);
	}

	int get(void *to, const void *device, size_t n)
	{
		int rc = st_device_copy(dev, ST_STREAM_COMPUTE, mirror(device), device, n);

		if (!rc)
			rc = wait(ST_STREAM_COMPUTE);
		if (!rc)
			memcpy(to, mirror(device), n);
		return rc;
	}

	int wait(enum st_stream stream)
	{
		int rc = st_device_record(dev, stream, event);

		return rc ? rc : st_event_join(dev, event);
	}
};

#endif
