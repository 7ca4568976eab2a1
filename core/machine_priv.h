/* SPDX-License-Identifier: Apache-2.0 */
/*
 * core/machine_priv.h - what core/machine.c and core/machine_drive.c share: files of /proc and
 * /sys.
 *
 * Layer: core; used by core/machine*.c only
 */
#ifndef CORE_MACHINE_PRIV_H
#define CORE_MACHINE_PRIV_H

#include "core/machine.h"

#define ST_MACHINE_PATH 1024

/** st_machine_read() - a whole small file, with a NUL behind it. @return bytes, or -errno */
long st_machine_read(const char *root, const char *path, char *buf, size_t bytes);
/** st_machine_text() - its first line. @return false: missing or empty */
bool st_machine_text(const char *root, const char *path, char *out, size_t bytes);
/** st_machine_number() - a file that holds one decimal number and nothing else. */
bool st_machine_number(const char *root, const char *path, uint64_t *out);
/** st_machine_copy() - len bytes of a foreign text, cut to fit, without control bytes. */
void st_machine_copy(char *out, size_t bytes, const char *s, size_t len);
void st_machine_clean(char *s);

struct st_machine_mountinfo { /* a line of /proc/self/mountinfo, unescaped */
	char root[ST_MACHINE_PATH], at[ST_MACHINE_PATH];
	char type[32], source[256], options[256], super[256];
};
/** st_machine_mounts() - calls fn for each mount in order, until it says false. */
void st_machine_mounts(const char *root, bool (*fn)(void *, const struct st_machine_mountinfo *),
		       void *user);

void st_machine_cpu_quota(const char *root, struct st_machine_cpu *out);

#endif
