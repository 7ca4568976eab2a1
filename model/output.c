/* SPDX-License-Identifier: Apache-2.0 */
/* model/output.c - lock, run.json and result of a run's output directory. */
#include "model/output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/file.h"
#include "model/hf.h"
#include "model/safetensors.h"

int st_output_path(char *out, size_t bytes, const char *dir, const char *name)
{
	int len = snprintf(out, bytes, "%s/%s", dir, name);

	return len > 0 && (size_t)len < bytes
		       ? 0
		       : st_fail(STRATA_E_INPUT, "output %s: the path is too long", dir);
}

int st_output_lock(int *fd, const char *dir, bool creates)
{
	struct stat locked, named;
	char path[4096];
	int rc = st_output_path(path, sizeof(path), dir, ".lock");

	*fd = -1;
	if (rc)
		return rc;
	*fd = open(path, (creates ? O_CREAT : 0) | O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK,
		   0600);
	if (*fd < 0 && errno == ENOENT && !creates)
		return 0;
	if (*fd < 0)
		return st_fail(STRATA_E_INPUT, "output %s: not writable (%s)", dir,
			       strata_strerror(-errno));
	/* A run that never began removes its lock file: then another one has the name now. */
	if (flock(*fd, LOCK_EX | LOCK_NB) || fstat(*fd, &locked) || stat(path, &named) ||
	    locked.st_ino != named.st_ino) {
		close(*fd);
		*fd = -1;
		return st_fail(STRATA_E_BUSY,
			       "output %s is in use by another run; let it end, or choose another"
			       " output",
			       dir);
	}
	return 0;
}

int st_output_read_run(const char *dir, const char *name, char *out)
{
	char path[4096];
	uint64_t size;
	int rc = st_output_path(path, sizeof(path), dir, name), fd;

	if (rc)
		return rc;
	fd = st_file_open(AT_FDCWD, path, false, path, &size);
	if (fd < 0)
		return fd;
	rc = size < ST_RUN_JSON_BYTES
		     ? st_file_read(fd, out, size, 0, path)
		     : st_fail(STRATA_E_INPUT, "%s: larger than any run.json", path);
	out[rc ? 0 : size] = '\0';
	close(fd);
	return rc;
}

static int sync_dir(const char *dir)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;

	if (fd < 0 || (fsync(fd) && errno != EINVAL)) /* EINVAL: not a thing on this file system */
		rc = st_fail(-errno, "output %s: fsync", dir);
	if (fd >= 0)
		close(fd);
	return rc;
}

static int rename_run(const char *dir, const char *old, const char *new)
{
	char from[4096], to[4096];
	int rc = st_output_path(from, sizeof(from), dir, old);

	if (!rc)
		rc = st_output_path(to, sizeof(to), dir, new);
	if (rc)
		return rc;
	if (rename(from, to))
		return st_fail(-errno, "%s: rename to %s", from, new);
	return sync_dir(dir);
}

int st_output_condemn(const char *dir)
{
	return rename_run(dir, ST_OUTPUT_RUN, ST_OUTPUT_REMOVED);
}

int st_output_pardon(const char *dir)
{
	return rename_run(dir, ST_OUTPUT_REMOVED, ST_OUTPUT_RUN);
}

int st_output_forget(const char *dir)
{
	char path[4096];
	int rc = st_output_path(path, sizeof(path), dir, ST_OUTPUT_REMOVED);

	if (!rc && unlink(path))
		rc = st_fail(-errno, "%s: remove", path);
	return rc;
}

static int write_run(void *user, const struct st_tensor_desc *d, size_t first, size_t n,
		     const float *master, void *const moments[STRATA_ARRAY_N],
		     const size_t bytes[STRATA_ARRAY_N])
{
	return st_safetensors_write(user, master, n);
}

int st_output_write_model(const char *dir, const struct st_model *m, const struct st_gpt2_cfg *gpt2,
			  enum st_dtype dtype, st_output_source *source, void *user)
{
	struct st_safetensors_writer *w = NULL;
	struct st_safetensors_out *list;
	char path[4096];
	size_t n = 0;
	int rc = st_output_path(path, sizeof(path), dir, "model.safetensors");

	for (unsigned u = 0; u < m->n_units; u++)
		n += m->units[u].n_tensors;
	list = calloc(n, sizeof(*list));
	if (!list)
		return st_fail(-ENOMEM, "%s", path);
	n = 0;
	for (unsigned u = 0; u < m->n_units; u++)
		for (unsigned i = 0; i < m->units[u].n_tensors; i++, n++)
			list[n] = (struct st_safetensors_out){ m->units[u].tensors[i].name,
							       m->units[u].tensors[i].n_dims,
							       m->units[u].tensors[i].dims };
	if (!rc)
		rc = st_safetensors_create(&w, path, dtype, list, n);
	if (!rc) {
		rc = source(user, write_run, w);
		if (rc)
			st_safetensors_abort(w);
		else
			rc = st_safetensors_finish(w);
	}
	free(list);
	return rc ? rc : st_hf_config_write(dir, gpt2, dtype);
}
