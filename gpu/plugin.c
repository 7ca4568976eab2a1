/* SPDX-License-Identifier: Apache-2.0 */
/* gpu/plugin.c - find, check and ask the CUDA plugin, once in a process. */
#include "gpu/plugin.h"

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int plugin_fail(int rc, const char *file, int line, const char *text)
{
	return st__fail(rc, file, line, "%s", text);
}

static void plugin_log(enum st_log_level level, const char *line)
{
	st_log(level, "%s", line);
}

static const struct st_plugin_core plugin_core = { .fail = plugin_fail,
						   .last_error = st_last_error,
						   .device_fail = st_device_fail,
						   .log = plugin_log };

const struct st_plugin *st_plugin_load(const char *path, char *line)
{
	void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	const struct st_plugin *p;
	st_plugin_entry *entry = NULL;
	void *at;

	if (!lib) {
		snprintf(line, ST_PLUGIN_LINE, "%s", dlerror());
		return NULL;
	}
	/* POSIX lets a data pointer of dlsym() become a function's; ISO C has no cast for it. */
	at = dlsym(lib, ST_PLUGIN_ENTRY);
	memcpy(&entry, &at, sizeof(at));
	p = entry ? entry(&plugin_core) : NULL;
	if (!p)
		snprintf(line, ST_PLUGIN_LINE, "%s has no %s(): it is no plugin of Strata", path,
			 ST_PLUGIN_ENTRY);
	else if (strncmp(p->build_id, STRATA_BUILD_ID, sizeof(p->build_id)))
		snprintf(line, ST_PLUGIN_LINE,
			 "%s is of build %.*s, this program of %s; rebuild both together", path,
			 (int)sizeof(p->build_id), p->build_id, STRATA_BUILD_ID);
	else
		return p;
	dlclose(lib);
	return NULL;
}

/* The directory of a file, with its last slash; false unless the path is absolute. */
static bool directory_of(const char *file, char *dir, size_t bytes)
{
	const char *slash = strrchr(file, '/');
	size_t len = slash ? (size_t)(slash - file) + 1 : 0;

	if (file[0] != '/' || len + 1 > bytes)
		return false;
	memcpy(dir, file, len);
	dir[len] = '\0';
	return true;
}

static bool is_there(char *path, size_t bytes, const char *dir, const char *below)
{
	int n = snprintf(path, bytes, "%s%s" ST_PLUGIN_FILE, dir, below);

	return n > 0 && (size_t)n < bytes && access(path, F_OK) == 0;
}

/* Beside libstrata.so if that is what this code is in, else beside the program; then where it is
 * installed. `dir` becomes where it should have been. */
static bool find_plugin(char *path, size_t bytes, char *dir, size_t dir_bytes)
{
	char program[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", program, sizeof(program) - 1);
	Dl_info info;

	snprintf(dir, dir_bytes, "the program");
	if (dladdr(&plugin_core, &info) && info.dli_fname &&
	    directory_of(info.dli_fname, dir, dir_bytes) && is_there(path, bytes, dir, ""))
		return true;
	if (n < 0)
		return false;
	program[n] = '\0';
	return directory_of(program, dir, dir_bytes) &&
	       (is_there(path, bytes, dir, "") || is_there(path, bytes, dir, STRATA_PLUGIN_BELOW));
}

static struct {
	pthread_once_t once;
	const struct st_device_ops *ops;
	char line[ST_PLUGIN_LINE];
} cuda = { .once = PTHREAD_ONCE_INIT };

static void open_cuda(void)
{
	char path[PATH_MAX], dir[PATH_MAX];
	const struct st_plugin *p;

	if (!find_plugin(path, sizeof(path), dir, sizeof(dir))) {
		snprintf(cuda.line, sizeof(cuda.line),
			 "this build has no CUDA device: no " ST_PLUGIN_FILE " in %.160s", dir);
		return;
	}
	p = st_plugin_load(path, cuda.line);
	if (p && p->probe(cuda.line, sizeof(cuda.line)) == 0)
		cuda.ops = p->ops;
}

int st_plugin_cuda(const struct st_device_ops **ops)
{
	pthread_once(&cuda.once, open_cuda);
	if (!cuda.ops)
		return STRATA_E_UNSUPPORTED;
	*ops = cuda.ops;
	return 0;
}

const char *st_plugin_cuda_line(void)
{
	pthread_once(&cuda.once, open_cuda);
	return cuda.line;
}
