/* SPDX-License-Identifier: Apache-2.0 */
/* bench/doctor_config.c - does what a configuration needs exist on this machine? */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "bench/doctor.h"
#include "cli/print.h"
#include "model/setup.h"

#define PROCESS_BYTES ((uint64_t)160 << 20) /* the program, its libraries, batches, tables */

/* Everything else a run keeps in memory is in the arenas. */
static void memory_need(struct st_doctor *d, const struct strata_info *i)
{
	uint64_t need = i->device_bytes + i->host_bytes + PROCESS_BYTES, left;
	enum st_mark mark = ST_MARK_OK;
	const char *advice = NULL;
	struct st_machine_memory m;
	struct st_machine_cgroup g;

	st_machine_memory("", &m);
	st_machine_cgroup("", &g);
	left = m.available_bytes;
	if (g.limit_bytes != ST_MACHINE_UNLIMITED) {
		uint64_t rest = g.limit_bytes > g.used_bytes ? g.limit_bytes - g.used_bytes : 0;

		left = rest < left ? rest : left;
	}
	if (m.total_bytes && need > m.total_bytes) {
		mark = ST_MARK_FAIL;
		advice = "more than the machine has: lower strata.device.memory and "
			 "strata.host.memory (strata plan names the smallest)";
	} else if (need > g.limit_bytes) {
		mark = ST_MARK_FAIL;
		advice = "more than the cgroup allows: raise its limit, or lower "
			 "strata.device.memory and strata.host.memory";
	} else if (m.total_bytes && need > left) {
		mark = ST_MARK_WARN;
		advice = "not free at the moment: end other programs, or lower the budgets";
	}
	st_doctor_fact(d, "memory", mark, advice, "%s needed (device %s, host %s), %s left",
		       st_bytes_text(need).s, st_bytes_text(i->device_bytes).s,
		       st_bytes_text(i->host_bytes).s, st_bytes_text(left).s);
	st_doctor_uint(d, "need_bytes", need);
	st_doctor_uint(d, "left_bytes", left);
}

static void memlock_need(struct st_doctor *d, const struct strata_info *i)
{
	uint64_t need = i->device_bytes + i->host_bytes;
	struct st_machine_memlock l;
	bool is_met;

	st_machine_memlock("", &l);
	is_met = l.is_exempt || l.limit_bytes >= need;
	st_doctor_fact(d, "memlock", is_met ? ST_MARK_OK : ST_MARK_WARN,
		       is_met ? NULL
			      : "without it buffers are not registered, and I/O costs more CPU "
				"time: ulimit -l unlimited, LimitMEMLOCK=infinity",
		       "%s needed, %s allowed", st_bytes_text(need).s,
		       l.is_exempt || l.limit_bytes == ST_MACHINE_UNLIMITED
			       ? "any amount"
			       : st_bytes_text(l.limit_bytes).s);
	st_doctor_uint(d, "need_bytes", need);
}

/* The part of the run's disk space that path k gets: by weight, or equal. */
static uint64_t share(const struct st_setup *s, size_t k)
{
	const struct st_numbers *w = &s->cfg->nvme.weights;
	double sum = 0;

	for (size_t i = 0; i < s->n_store_paths; i++)
		sum += w->n ? (double)w->v[i] : 1;
	return (uint64_t)((double)s->info.nvme_disk_bytes * (w->n ? (double)w->v[k] : 1) / sum);
}

/* Paths on one file system share its space; each file system is spoken of once. */
static void disk_need(struct st_doctor *d, const struct st_setup *s)
{
	for (size_t k = 0; k < s->n_store_paths; k++) {
		uint64_t need = 0, free_bytes;
		bool is_first = true;
		struct statvfs v;
		struct stat here, other;

		if (stat(s->store_paths[k], &here) || statvfs(s->store_paths[k], &v))
			continue; /* said where the path is looked at */
		for (size_t i = 0; i < s->n_store_paths; i++)
			if (!stat(s->store_paths[i], &other) && other.st_dev == here.st_dev) {
				need += share(s, i);
				is_first = is_first && i >= k;
			}
		if (!is_first)
			continue;
		free_bytes = (uint64_t)v.f_bavail * v.f_frsize;
		st_doctor_fact(d, "disk",
			       v.f_blocks && need > free_bytes ? ST_MARK_FAIL : ST_MARK_OK,
			       v.f_blocks && need > free_bytes
				       ? "free some space, add a path, or choose a smaller model"
				       : NULL,
			       "%s needed on %s, %s free", st_bytes_text(need).s, s->store_paths[k],
			       st_bytes_text(free_bytes).s);
		st_doctor_uint(d, "need_bytes", need);
		st_doctor_uint(d, "free_bytes", free_bytes);
	}
}

/* @return whether the output holds a run: then its store is there already */
static bool output_fact(struct st_doctor *d, const char *output)
{
	char path[4096];
	struct stat st;
	int n = snprintf(path, sizeof(path), "%s/run.json", output);

	if (n < 0 || (size_t)n >= sizeof(path) || lstat(path, &st)) {
		st_doctor_fact(d, "output", ST_MARK_OK, NULL, "%s", output);
		return false;
	}
	st_doctor_fact(d, "output", ST_MARK_WARN,
		       "go on with --resume, or choose another --output for a new run",
		       "%s holds a run already", output);
	return true;
}

void st_doctor_config(struct st_doctor *d, const char *config, const char *const *sets,
		      size_t n_sets)
{
	const struct strata_options opt = { .struct_bytes = sizeof(opt),
					    .sets = sets,
					    .n_sets = n_sets };
	struct st_setup s;
	int rc;

	st_doctor_section(d, "config %s", config);
	rc = st_setup_open(&s, config, &opt, true);
	if (rc) {
		st_doctor_fact(d, rc == STRATA_E_NO_FIT ? "budgets" : "valid", ST_MARK_FAIL,
			       rc == STRATA_E_NO_FIT ? "strata plan shows what fits"
						     : "correct it: strata config check, strata "
						       "config help",
			       "%s", strata_last_error());
		return;
	}
	st_doctor_fact(d, "valid", ST_MARK_OK, NULL, "%s parameters, %llu tokens a step",
		       st_count_text((double)s.info.n_params).s,
		       (unsigned long long)s.info.tokens_per_step);
	memory_need(d, &s.info);
	memlock_need(d, &s.info);
	if (!output_fact(d, s.cfg->output))
		disk_need(d, &s);
	st_setup_close(&s);
}
