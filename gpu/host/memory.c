/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu/host/memory.c - arena, copies and events of the host device.
 *
 * Everything has run when its call returns. So a copy is memcpy(), a stream's order is the
 * caller's, and every event is done.
 */
#include "gpu/host/host.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int st_host_arena(struct st_device *dev, size_t bytes, void **base)
{
	struct st_host *h = st_host(dev);
	int rc = st_arena_init(&h->arena, bytes, "device");

	if (!rc)
		*base = h->arena.base;
	return rc;
}

int st_host_register(struct st_device *dev, void *host, size_t bytes)
{
	return 0; /* any memory can be copied at once */
}

void st_host_release(struct st_device *dev)
{
	st_arena_fini(&st_host(dev)->arena);
}

int st_host_copy(struct st_device *dev, enum st_stream stream, void *dst, const void *src,
		 size_t bytes)
{
	memcpy(dst, src, bytes);
	return 0;
}

int st_host_event_create(struct st_device *dev, struct st_event **out)
{
	struct st_event *ev = calloc(1, sizeof(*ev));

	if (!ev)
		return st_fail(-ENOMEM, "device \"host\": event");
	ev->dev = dev;
	*out = ev;
	return 0;
}

void st_host_event_destroy(struct st_event *ev)
{
	free(ev);
}

int st_host_record(struct st_device *dev, enum st_stream stream, struct st_event *ev)
{
	return 0;
}

int st_host_wait(struct st_device *dev, enum st_stream stream, const struct st_event *ev)
{
	return 0;
}

int st_host_event_query(struct st_device *dev, struct st_event *ev)
{
	return 1;
}

int st_host_event_join(struct st_device *dev, struct st_event *ev)
{
	return 0;
}
