/* SPDX-License-Identifier: Apache-2.0 */
/* core/machine.c - processor, memory, limits and kernel; drives are in core/machine_drive.c. */
#include "core/machine.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "core/machine_priv.h"

#define CAP_IPC_LOCK_BIT 14
#define V1_NO_LIMIT      (UINT64_C(1) << 60) /* v1 writes "no limit" as the largest page count */
#define TEXT_BYTES       ((size_t)64 << 10)

/* ---- small files --------------------------------------------------------------------------- */

long st_machine_read(const char *root, const char *path, char *buf, size_t bytes)
{
	char full[ST_MACHINE_PATH];
	int n = snprintf(full, sizeof(full), "%s%s", root, path), fd;
	size_t len = 0;
	ssize_t got = 1;

	buf[0] = '\0';
	if (n < 0 || (size_t)n >= sizeof(full))
		return -ENAMETOOLONG;
	fd = open(full, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return -errno;
	while (len + 1 < bytes && got > 0) {
		got = read(fd, buf + len, bytes - 1 - len);
		len += got > 0 ? (size_t)got : 0;
	}
	close(fd);
	buf[len] = '\0';
	return (long)len;
}

void st_machine_clean(char *s)
{
	size_t len;

	for (char *c = s; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 127)
			*c = c[1] ? '?' : '\0';
	len = strlen(s);
	while (len && s[len - 1] == ' ')
		s[--len] = '\0';
}

void st_machine_copy(char *out, size_t bytes, const char *s, size_t len)
{
	len = len < bytes ? len : bytes - 1;
	memcpy(out, s, len);
	out[len] = '\0';
	st_machine_clean(out);
}

bool st_machine_text(const char *root, const char *path, char *out, size_t bytes)
{
	if (st_machine_read(root, path, out, bytes) < 0)
		return false;
	out[strcspn(out, "\n")] = '\0';
	st_machine_clean(out);
	return *out != '\0';
}

bool st_machine_number(const char *root, const char *path, uint64_t *out)
{
	char text[64], *end;
	unsigned long long x;

	if (!st_machine_text(root, path, text, sizeof(text)) || !isdigit((unsigned char)text[0]))
		return false;
	errno = 0;
	x = strtoull(text, &end, 10);
	if (errno || *end)
		return false;
	*out = x;
	return true;
}

/* The rest of the first line that begins with `key`, white space and ':' skipped; NULL: none. */
static const char *value_of(const char *text, const char *key)
{
	size_t len = strlen(key);

	for (const char *line = text; line && *line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (!strncmp(line, key, len) && strchr(" \t:", line[len]) && line[len])
			return line + len + strspn(line + len, " \t:");
	}
	return NULL;
}

/* ---- processor ----------------------------------------------------------------------------- */

/* Distinct "physical id" (and "core id" in them); counted by a small set, for there are few. */
struct topology {
	unsigned seen[4096], n_seen, sockets[256], n_sockets;
};

static void add_once(unsigned *set, unsigned *n, unsigned room, unsigned x)
{
	for (unsigned i = 0; i < *n; i++)
		if (set[i] == x)
			return;
	if (*n < room)
		set[(*n)++] = x;
}

static void read_topology(const char *text, struct st_machine_cpu *out)
{
	struct topology *t = calloc(1, sizeof(*t));
	unsigned long socket = 0;

	if (!t)
		return;
	for (const char *line = text; line && *line; line = strchr(line, '\n')) {
		const char *colon;

		line += *line == '\n';
		colon = strchr(line, ':');
		if (!strncmp(line, "processor\t", 10)) {
			out->logical++;
			socket = 0;
		} else if (!strncmp(line, "physical id\t", 12) && colon) {
			socket = strtoul(colon + 1, NULL, 10);
			add_once(t->sockets, &t->n_sockets, ST_ARRAY_LEN(t->sockets),
				 (unsigned)socket);
		} else if (!strncmp(line, "core id\t", 8) && colon) {
			add_once(t->seen, &t->n_seen, ST_ARRAY_LEN(t->seen),
				 (unsigned)(socket << 16 | strtoul(colon + 1, NULL, 10)));
		}
	}
	out->sockets = t->n_sockets;
	out->cores = t->n_seen;
	free(t);
}

static bool has_word(const char *line, const char *word)
{
	size_t len = strlen(word), end = strcspn(line, "\n");
	const char *at = line;

	while ((at = strstr(at, word)) && (size_t)(at - line) < end) {
		if ((at == line || at[-1] == ' ') && (!at[len] || strchr(" \n", at[len])))
			return true;
		at += len;
	}
	return false;
}

static void read_isa(const char *flags, struct st_machine_cpu *out)
{
	static const char *const wanted[] = {
		"avx2",     "fma",         "f16c",        "avx512f",     "avx512bw", "avx512dq",
		"avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16",
		"amx_int8", "asimd",       "sve",         "bf16"
	};
	size_t len = 0;

	for (size_t i = 0; i < ST_ARRAY_LEN(wanted); i++)
		if (has_word(flags, wanted[i]) && len + 1 < sizeof(out->isa))
			len += (size_t)snprintf(out->isa + len, sizeof(out->isa) - len, "%s%s",
						len ? " " : "", wanted[i]);
	out->is_virtual = has_word(flags, "hypervisor");
}

static void count_usable(struct st_machine_cpu *out)
{
	size_t bytes = CPU_ALLOC_SIZE(8192);
	cpu_set_t *set = CPU_ALLOC(8192);

	if (set && !sched_getaffinity(0, bytes, set))
		out->usable = (unsigned)CPU_COUNT_S(bytes, set);
	else
		out->usable = out->logical;
	CPU_FREE(set);
}

void st_machine_cpu(const char *root, struct st_machine_cpu *out)
{
	size_t bytes = (size_t)4 << 20; /* some KiB for each of many CPUs */
	char *text = malloc(bytes);
	const char *v;

	*out = (struct st_machine_cpu){ 0 };
	if (text && st_machine_read(root, "/proc/cpuinfo", text, bytes) > 0) {
		v = value_of(text, "model name");
		if (v)
			st_machine_copy(out->model, sizeof(out->model), v, strcspn(v, "\n"));
		v = value_of(text, "flags");
		if (!v)
			v = value_of(text, "Features");
		if (v)
			read_isa(v, out);
		read_topology(text, out);
	}
	free(text);
	count_usable(out);
	st_machine_cpu_quota(root, out);
}

/* ---- memory -------------------------------------------------------------------------------- */

static uint64_t kib(const char *text, const char *key)
{
	const char *v = value_of(text, key);

	return v ? strtoull(v, NULL, 10) * 1024 : 0;
}

static uint64_t count(const char *text, const char *key)
{
	const char *v = value_of(text, key);

	return v ? strtoull(v, NULL, 10) : 0;
}

void st_machine_memory(const char *root, struct st_machine_memory *out)
{
	char text[8192], *chosen;

	*out = (struct st_machine_memory){ 0 };
	if (st_machine_read(root, "/proc/meminfo", text, sizeof(text)) > 0) {
		out->total_bytes = kib(text, "MemTotal");
		out->available_bytes = kib(text, "MemAvailable");
		out->swap_bytes = kib(text, "SwapTotal");
		out->huge_page_bytes = kib(text, "Hugepagesize");
		out->huge_pages = count(text, "HugePages_Total");
		out->huge_pages_free = count(text, "HugePages_Free");
	}
	if (st_machine_text(root, "/sys/kernel/mm/transparent_hugepage/enabled", text,
			    sizeof(text)) &&
	    (chosen = strchr(text, '[')))
		st_machine_copy(out->transparent, sizeof(out->transparent), chosen + 1,
				strcspn(chosen + 1, "]"));
}

void st_machine_memlock(const char *root, struct st_machine_memlock *out)
{
	char text[8192];
	const char *v;
	struct rlimit r;

	*out = (struct st_machine_memlock){ 0 };
	if (!getrlimit(RLIMIT_MEMLOCK, &r))
		out->limit_bytes =
			r.rlim_cur == RLIM_INFINITY ? ST_MACHINE_UNLIMITED : (uint64_t)r.rlim_cur;
	if (st_machine_read(root, "/proc/self/status", text, sizeof(text)) > 0 &&
	    (v = value_of(text, "CapEff")))
		out->is_exempt = strtoull(v, NULL, 16) >> CAP_IPC_LOCK_BIT & 1;
}

/* ---- control groups ------------------------------------------------------------------------ */

/* Where a hierarchy is mounted, and where in it this process stands. */
struct group {
	char mount[ST_MACHINE_PATH]; /* "/sys/fs/cgroup/memory" */
	char path[ST_MACHINE_PATH];  /* below it; "" at the top */
};

/* Is `name` one of the comma-separated words? */
static bool in_list(const char *list, size_t len, const char *name)
{
	size_t n = strlen(name);

	for (size_t i = 0; i < len; i += strcspn(list + i, ",:\n") + 1)
		if (len - i >= n && !strncmp(list + i, name, n) &&
		    (i + n == len || list[i + n] == ','))
			return true;
	return false;
}

/* /proc/self/cgroup: "ID:controllers:/path" of v1, "0::/path" of v2. */
static bool find_path(const char *text, const char *controller, char *out, size_t bytes)
{
	for (const char *line = text; line && *line; line = strchr(line, '\n')) {
		const char *list, *path;

		line += *line == '\n';
		list = line + strcspn(line, ":\n");
		if (*list != ':')
			continue;
		list++;
		path = list + strcspn(list, ":\n");
		if (*path != ':')
			continue;
		if (controller ? in_list(list, (size_t)(path - list), controller) : path == list) {
			st_machine_copy(out, bytes, path + 1, strcspn(path + 1, "\n"));
			return true;
		}
	}
	return false;
}

struct search {
	const char *controller; /* NULL: v2 */
	struct group *g;
	bool is_found;
};

static bool match_group(void *user, const struct st_machine_mountinfo *m)
{
	struct search *s = user;
	size_t len = strlen(m->root);

	if (s->controller ? strcmp(m->type, "cgroup") != 0 ||
				    !in_list(m->super, strlen(m->super), s->controller)
			  : strcmp(m->type, "cgroup2") != 0)
		return true;
	snprintf(s->g->mount, sizeof(s->g->mount), "%s", m->at);
	/* In a container the mount may show only a part of the tree. */
	if (len > 1 && !strncmp(s->g->path, m->root, len) &&
	    (s->g->path[len] == '/' || !s->g->path[len]))
		memmove(s->g->path, s->g->path + len, strlen(s->g->path + len) + 1);
	s->is_found = true;
	return false;
}

static bool find_group(const char *root, const char *controller, struct group *g)
{
	struct search s = { .controller = controller, .g = g };
	char *text = malloc(TEXT_BYTES);

	if (!text)
		return false;
	if (st_machine_read(root, "/proc/self/cgroup", text, TEXT_BYTES) > 0 &&
	    find_path(text, controller, g->path, sizeof(g->path)))
		st_machine_mounts(root, match_group, &s);
	free(text);
	if (!strcmp(g->path, "/"))
		g->path[0] = '\0';
	return s.is_found;
}

/* The file of the group itself, then of those above it; false when the top is passed. */
static bool next_up(struct group *g)
{
	char *slash = strrchr(g->path, '/');

	if (!slash)
		return false;
	*slash = '\0';
	return true;
}

static bool group_file(const struct group *g, const char *name, char *out, size_t bytes)
{
	int n = snprintf(out, bytes, "%s%s/%s", g->mount, g->path, name);

	return n > 0 && (size_t)n < bytes;
}

static void least_memory(const char *root, struct group g, const char *limit, const char *usage,
			 struct st_machine_cgroup *out)
{
	do {
		char path[2 * ST_MACHINE_PATH];
		uint64_t bytes, used = 0;

		if (!group_file(&g, limit, path, sizeof(path)) ||
		    !st_machine_number(root, path, &bytes) || bytes >= V1_NO_LIMIT ||
		    bytes >= out->limit_bytes)
			continue;
		out->limit_bytes = bytes;
		st_machine_copy(out->limit_by, sizeof(out->limit_by), path, strlen(path));
		if (group_file(&g, usage, path, sizeof(path)))
			(void)st_machine_number(root, path, &used);
		out->used_bytes = used;
	} while (next_up(&g));
}

void st_machine_cgroup(const char *root, struct st_machine_cgroup *out)
{
	struct group g;

	*out = (struct st_machine_cgroup){ .limit_bytes = ST_MACHINE_UNLIMITED };
	if (find_group(root, NULL, &g)) {
		least_memory(root, g, "memory.max", "memory.current", out);
		least_memory(root, g, "memory.high", "memory.current", out);
	}
	if (find_group(root, "memory", &g))
		least_memory(root, g, "memory.limit_in_bytes", "memory.usage_in_bytes", out);
}

static void take_quota(struct st_machine_cpu *out, double quota, double period, const char *path)
{
	if (!(quota > 0) || !(period > 0) || (out->quota > 0 && quota / period >= out->quota))
		return;
	out->quota = quota / period;
	st_machine_copy(out->quota_by, sizeof(out->quota_by), path, strlen(path));
}

void st_machine_cpu_quota(const char *root, struct st_machine_cpu *out)
{
	char path[2 * ST_MACHINE_PATH], text[64], *end;
	uint64_t quota, period;
	struct group g;

	if (find_group(root, NULL, &g))
		do { /* "200000 100000", or "max 100000" */
			if (group_file(&g, "cpu.max", path, sizeof(path)) &&
			    st_machine_text(root, path, text, sizeof(text)) &&
			    isdigit((unsigned char)text[0])) {
				quota = strtoull(text, &end, 10);
				take_quota(out, (double)quota, strtod(end, NULL), path);
			}
		} while (next_up(&g));
	if (find_group(root, "cpu", &g))
		do { /* -1: none */
			char other[2 * ST_MACHINE_PATH];

			if (group_file(&g, "cpu.cfs_period_us", other, sizeof(other)) &&
			    group_file(&g, "cpu.cfs_quota_us", path, sizeof(path)) &&
			    st_machine_number(root, path, &quota) &&
			    st_machine_number(root, other, &period))
				take_quota(out, (double)quota, (double)period, path);
		} while (next_up(&g));
}

/* ---- NUMA ---------------------------------------------------------------------------------- */

static int cmp_node(const void *a, const void *b)
{
	const struct st_machine_node *x = a, *y = b;

	return (x->id > y->id) - (x->id < y->id);
}

/* "Node 0 MemTotal: 1024 kB" */
static uint64_t node_kib(const char *text, const char *key)
{
	const char *at = strstr(text, key);

	return at ? strtoull(at + strlen(key), NULL, 10) * 1024 : 0;
}

unsigned st_machine_nodes(const char *root, struct st_machine_node out[ST_MACHINE_NODES_MAX])
{
	char path[ST_MACHINE_PATH], text[8192];
	struct dirent *d;
	unsigned n = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "%s/sys/devices/system/node", root);
	dir = opendir(path);
	if (!dir)
		return 0;
	while (n < ST_MACHINE_NODES_MAX && (d = readdir(dir))) {
		char *end;
		unsigned long id;

		if (strncmp(d->d_name, "node", 4) != 0 || !isdigit((unsigned char)d->d_name[4]))
			continue;
		id = strtoul(d->d_name + 4, &end, 10);
		if (*end || id > 1u << 16)
			continue;
		out[n] = (struct st_machine_node){ .id = (unsigned)id };
		snprintf(path, sizeof(path), "/sys/devices/system/node/node%lu/cpulist", id);
		(void)st_machine_text(root, path, out[n].cpus, sizeof(out[n].cpus));
		snprintf(path, sizeof(path), "/sys/devices/system/node/node%lu/meminfo", id);
		if (st_machine_read(root, path, text, sizeof(text)) > 0) {
			out[n].total_bytes = node_kib(text, "MemTotal:");
			out[n].free_bytes = node_kib(text, "MemFree:");
		}
		n++;
	}
	closedir(dir);
	qsort(out, n, sizeof(*out), cmp_node);
	return n;
}

/* ---- kernel -------------------------------------------------------------------------------- */

void st_machine_kernel(const char *root, struct st_machine_kernel *out)
{
	char text[8192], *end;
	struct utsname u;
	const char *v;
	uint64_t x;

	*out = (struct st_machine_kernel){ .io_uring_disabled = ST_MACHINE_UNKNOWN,
					   .seccomp = ST_MACHINE_UNKNOWN };
	if (!uname(&u)) {
		st_machine_copy(out->release, sizeof(out->release), u.release, strlen(u.release));
		st_machine_copy(out->machine, sizeof(out->machine), u.machine, strlen(u.machine));
		out->major = (unsigned)strtoul(u.release, &end, 10);
		if (*end == '.')
			out->minor = (unsigned)strtoul(end + 1, NULL, 10);
	}
	if (st_machine_number(root, "/proc/sys/kernel/io_uring_disabled", &x))
		out->io_uring_disabled = (int)x;
	if (st_machine_read(root, "/proc/self/status", text, sizeof(text)) > 0 &&
	    (v = value_of(text, "Seccomp")))
		out->seccomp = (int)strtol(v, NULL, 10);
	(void)st_machine_text(root,
			      "/sys/devices/system/clocksource/clocksource0/current_clocksource",
			      out->clock, sizeof(out->clock));
}
