/* SPDX-License-Identifier: Apache-2.0 */
/* core/machine_drive.c - mounts, and the drives behind them. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "core/machine_priv.h"

#define MAPS_MAX 8 /* a map over a map over ... */

/* ---- mounts -------------------------------------------------------------------------------- */

/* The next word of a line of mountinfo; white space in it is written as \040 and the like. */
static const char *take_word(const char *at, char *out, size_t bytes)
{
	size_t n = 0;

	while (*at && *at != ' ' && *at != '\n') {
		char c = *at++;

		if (c == '\\' && at[0] >= '0' && at[0] <= '3' && at[1] >= '0' && at[1] <= '7' &&
		    at[2] >= '0' && at[2] <= '7') {
			c = (char)((at[0] - '0') << 6 | (at[1] - '0') << 3 | (at[2] - '0'));
			at += 3;
		}
		if (n + 1 < bytes)
			out[n++] = c;
	}
	out[n] = '\0';
	while (*at == ' ')
		at++;
	return at;
}

/* "36 35 98:0 ROOT AT OPTIONS [OPTIONAL]... - TYPE SOURCE SUPER" */
static bool parse_mount(const char *line, struct st_machine_mountinfo *m)
{
	char word[64];

	for (int i = 0; i < 3; i++)
		line = take_word(line, word, sizeof(word));
	line = take_word(line, m->root, sizeof(m->root));
	line = take_word(line, m->at, sizeof(m->at));
	line = take_word(line, m->options, sizeof(m->options));
	do {
		if (!*line || *line == '\n')
			return false;
		line = take_word(line, word, sizeof(word));
	} while (strcmp(word, "-") != 0);
	line = take_word(line, m->type, sizeof(m->type));
	line = take_word(line, m->source, sizeof(m->source));
	take_word(line, m->super, sizeof(m->super));
	return m->type[0] != '\0';
}

void st_machine_mounts(const char *root, bool (*fn)(void *, const struct st_machine_mountinfo *),
		       void *user)
{
	size_t bytes = (size_t)1 << 20;
	char *text = malloc(bytes);
	struct st_machine_mountinfo *m = malloc(sizeof(*m));
	bool goes_on = text && m && st_machine_read(root, "/proc/self/mountinfo", text, bytes) > 0;

	for (const char *line = text; goes_on && line && *line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (*line && parse_mount(line, m))
			goes_on = fn(user, m);
	}
	free(m);
	free(text);
}

struct covering {
	const char *path;
	size_t best;
	bool is_found;
	struct st_machine_mount *out;
};

/* The longest mount point above the path; of several at one point the last lies on top. */
static bool match_covering(void *user, const struct st_machine_mountinfo *m)
{
	struct covering *c = user;
	size_t len = strlen(m->at);

	if (len == 1)
		len = 0; /* "/" */
	if (len < c->best || strncmp(c->path, m->at, len) != 0 ||
	    (c->path[len] && c->path[len] != '/'))
		return true;
	c->best = len;
	c->is_found = true;
	st_machine_copy(c->out->type, sizeof(c->out->type), m->type, strlen(m->type));
	st_machine_copy(c->out->source, sizeof(c->out->source), m->source, strlen(m->source));
	st_machine_copy(c->out->at, sizeof(c->out->at), m->at, strlen(m->at));
	snprintf(c->out->options, sizeof(c->out->options), "%.120s%s%.130s", m->options,
		 *m->super ? "," : "", m->super);
	st_machine_clean(c->out->options);
	return true;
}

bool st_machine_mount(const char *root, const char *path, struct st_machine_mount *out)
{
	struct covering c = { .out = out };
	char *real = realpath(path, NULL);

	*out = (struct st_machine_mount){ 0 };
	if (!real)
		return false;
	c.path = real;
	st_machine_mounts(root, match_covering, &c);
	free(real);
	out->is_read_only = c.is_found && st_machine_mount_has(out, "ro");
	return c.is_found;
}

bool st_machine_mount_has(const struct st_machine_mount *m, const char *option)
{
	size_t len = strlen(option);

	for (const char *at = m->options; at && *at; at = strchr(at, ',')) {
		at += *at == ',';
		if (!strncmp(at, option, len) && (!at[len] || strchr(",=", at[len])))
			return true;
	}
	return false;
}

/* ---- drives -------------------------------------------------------------------------------- */

struct place { /* a directory below /sys, without the test's root */
	char dir[ST_MACHINE_PATH];
};

static bool join(char *out, size_t bytes, const struct place *p, const char *name)
{
	int n = snprintf(out, bytes, "%s/%s", p->dir, name);

	return n > 0 && (size_t)n < bytes;
}

static bool text_in(const char *root, const struct place *p, const char *name, char *out,
		    size_t bytes)
{
	char path[ST_MACHINE_PATH];

	out[0] = '\0';
	return join(path, sizeof(path), p, name) && st_machine_text(root, path, out, bytes);
}

static bool number_in(const char *root, const struct place *p, const char *name, uint64_t *out)
{
	char path[ST_MACHINE_PATH];

	return join(path, sizeof(path), p, name) && st_machine_number(root, path, out);
}

/* A link's real place, without the root again. */
static bool resolve(const char *root, const char *path, struct place *out)
{
	char full[ST_MACHINE_PATH], *real, *base = *root ? realpath(root, NULL) : NULL;
	size_t skip = base ? strlen(base) : 0;
	bool ok = false;
	int n = snprintf(full, sizeof(full), "%s%s", root, path);

	real = n > 0 && (size_t)n < sizeof(full) ? realpath(full, NULL) : NULL;
	if (real && strlen(real) - skip < sizeof(out->dir) &&
	    (!base || !strncmp(real, base, skip))) {
		snprintf(out->dir, sizeof(out->dir), "%s", real + skip);
		ok = true;
	}
	free(real);
	free(base);
	return ok;
}

static bool exists_in(const char *root, const struct place *p, const char *name)
{
	char full[2 * ST_MACHINE_PATH];
	int n = snprintf(full, sizeof(full), "%s%s/%s", root, p->dir, name);

	return n > 0 && (size_t)n < sizeof(full) && !access(full, F_OK);
}

/* From a partition to its drive. */
static void leave_partition(const char *root, struct place *p)
{
	char *slash = strrchr(p->dir, '/');

	if (slash && exists_in(root, p, "partition"))
		*slash = '\0';
}

static const char *base_name(const struct place *p)
{
	const char *slash = strrchr(p->dir, '/');

	return slash ? slash + 1 : p->dir;
}

/*
 * What a map (device-mapper, md) is made of, as "a, b". @param only  out, the one, when it is one
 * @return how many
 */
static unsigned list_slaves(const char *root, const struct place *p, char *out, size_t bytes,
			    struct place *only)
{
	char full[2 * ST_MACHINE_PATH], path[ST_MACHINE_PATH];
	struct dirent *d;
	size_t len = 0;
	unsigned n = 0;
	DIR *dir;

	out[0] = '\0';
	snprintf(full, sizeof(full), "%s%s/slaves", root, p->dir);
	dir = opendir(full);
	if (!dir)
		return 0;
	while ((d = readdir(dir))) {
		if (d->d_name[0] == '.')
			continue;
		if (len + 1 < bytes) {
			int k = snprintf(out + len, bytes - len, "%s%s", n ? ", " : "", d->d_name);

			len += k > 0 ? (size_t)k : 0;
		}
		n++;
		if (snprintf(path, sizeof(path), "%.700s/slaves/%.255s", p->dir, d->d_name) < 0 ||
		    !resolve(root, path, only))
			only->dir[0] = '\0';
	}
	closedir(dir);
	st_machine_clean(out);
	return n;
}

static void read_queue(const char *root, const struct place *p, struct st_machine_drive *out)
{
	char text[128], *chosen;
	uint64_t x;

	if (number_in(root, p, "size", &x))
		out->size_bytes = x * 512;
	(void)number_in(root, p, "queue/logical_block_size", &out->logical_bytes);
	(void)number_in(root, p, "queue/physical_block_size", &out->physical_bytes);
	(void)number_in(root, p, "queue/discard_max_bytes", &out->discard_max_bytes);
	if (number_in(root, p, "queue/rotational", &x))
		out->is_rotational = x != 0;
	if (text_in(root, p, "queue/write_cache", text, sizeof(text)))
		out->has_volatile_cache = !strcmp(text, "write back")      ? 1
					  : !strcmp(text, "write through") ? 0
									   : ST_MACHINE_UNKNOWN;
	if (text_in(root, p, "queue/scheduler", text, sizeof(text))) {
		chosen = strchr(text, '[');
		chosen = chosen ? chosen + 1 : text;
		st_machine_copy(out->scheduler, sizeof(out->scheduler), chosen,
				strcspn(chosen, "]"));
	}
}

/* Model, driver and link of what the drive hangs on. */
static void read_device(const char *root, const struct place *p, struct st_machine_drive *out)
{
	char vendor[32], path[ST_MACHINE_PATH], speed[40], width[16];
	struct place driver;
	uint64_t x;

	(void)text_in(root, p, "device/model", out->model, sizeof(out->model));
	if (!strncmp(out->name, "sd", 2) &&
	    text_in(root, p, "device/vendor", vendor, sizeof(vendor)) &&
	    strcmp(vendor, "ATA") != 0 && *out->model) {
		char model[96];

		snprintf(model, sizeof(model), "%s %.60s", vendor, out->model);
		memcpy(out->model, model, sizeof(model));
	}
	if (!out->driver[0] && join(path, sizeof(path), p, "device/driver") &&
	    resolve(root, path, &driver))
		st_machine_copy(out->driver, sizeof(out->driver), base_name(&driver),
				strlen(base_name(&driver)));
	/* An NVMe drive's controller, and behind it the PCI function. */
	if (text_in(root, p, "device/device/current_link_speed", speed, sizeof(speed)) &&
	    text_in(root, p, "device/device/current_link_width", width, sizeof(width)))
		snprintf(out->link, sizeof(out->link), "%s, %s lanes", speed, width);
	if (number_in(root, p, "device/device/numa_node", &x) ||
	    number_in(root, p, "device/numa_node", &x))
		out->node = (int)x;
}

static bool is_virtual_drive(const struct st_machine_drive *d)
{
	static const char *const names[] = { "vd",   "xvd", "loop", "ram",
					     "zram", "nbd", "ublk", "rbd" };

	for (size_t i = 0; i < ST_ARRAY_LEN(names); i++)
		if (!strncmp(d->name, names[i], strlen(names[i])))
			return true;
	return strstr(d->model, "QEMU") || strstr(d->model, "Virtual") ||
	       strstr(d->model, "Amazon Elastic") || strstr(d->model, "PersistentDisk");
}

bool st_machine_drive(const char *root, dev_t dev, struct st_machine_drive *out)
{
	char path[ST_MACHINE_PATH];
	struct place p, below;

	*out = (struct st_machine_drive){ .is_rotational = ST_MACHINE_UNKNOWN,
					  .has_volatile_cache = ST_MACHINE_UNKNOWN,
					  .node = ST_MACHINE_UNKNOWN };
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u", major(dev), minor(dev));
	if (!resolve(root, path, &p))
		return false;
	leave_partition(root, &p);
	for (int i = 0; i < MAPS_MAX; i++) {
		char over[sizeof(out->over)];
		unsigned n = list_slaves(root, &p, over, sizeof(over), &below);

		memcpy(out->over, over, sizeof(over));
		if (n == 0)
			break;
		if (!text_in(root, &p, "dm/name", out->driver, sizeof(out->driver)) &&
		    !text_in(root, &p, "md/level", out->driver, sizeof(out->driver)))
			st_machine_copy(out->driver, sizeof(out->driver), base_name(&p),
					strlen(base_name(&p)));
		if (n > 1 || !below.dir[0])
			break;
		p = below;
		out->over[0] = '\0';
		leave_partition(root, &p);
	}
	st_machine_copy(out->name, sizeof(out->name), base_name(&p), strlen(base_name(&p)));
	if (!out->over[0])
		(void)text_in(root, &p, "loop/backing_file", out->over, sizeof(out->over));
	read_queue(root, &p, out);
	read_device(root, &p, out);
	out->is_virtual = is_virtual_drive(out);
	return true;
}
