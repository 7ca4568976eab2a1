/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench/doctor.h - facts with a mark, one a line, for people and for programs.
 *
 * Layer:   bench; used by bench/doctor*.c only
 * Threads: main
 *
 * A fact is printed as soon as it is known, for measuring takes seconds. As text: sections, and in
 * them "mark  name  text", with one line of advice below where something should be done. As JSON:
 * one object on one line,
 *
 *	{"version":..,"facts":[{"section":"memory","name":"memlock","mark":"ok","text":..,
 *	"advice":null or text, ...figures...}, ..],"can_train":true,"warnings":0,"failures":0}
 *
 * Marks: ok; warn: training runs, but slower or less safely than it could; FAIL: it cannot run.
 */
#ifndef BENCH_DOCTOR_H
#define BENCH_DOCTOR_H

#include "core/machine.h"
#include "core/status.h"

enum st_mark { ST_MARK_OK, ST_MARK_WARN, ST_MARK_FAIL };

struct st_doctor {
	bool as_json, has_colour;
	bool measures;
	char section[512]; /* "memory"; "path /mnt/nvme0" */
	bool has_fact;     /* one is open, whose figures follow */
	unsigned n_facts, n_warn, n_fail;
};

/** st_doctor_section() - what the next facts are about. */
void st_doctor_section(struct st_doctor *d, const char *fmt, ...) ST_PRINTF(2, 3);
/**
 * st_doctor_fact() - one fact. Foreign text in it is made fit to be shown.
 * @param advice  in, one line: what to do; NULL with ST_MARK_OK
 */
void st_doctor_fact(struct st_doctor *d, const char *name, enum st_mark mark, const char *advice,
		    const char *fmt, ...) ST_PRINTF(5, 6);
/** st_doctor_uint(), _real(), _bool(), _text() - figures of the latest fact, for programs; a real
 *  that is not finite and a NULL text are null. */
void st_doctor_uint(struct st_doctor *d, const char *name, uint64_t x);
void st_doctor_real(struct st_doctor *d, const char *name, double x);
void st_doctor_bool(struct st_doctor *d, const char *name, bool x);
void st_doctor_text(struct st_doctor *d, const char *name, const char *s);

/** st_doctor_machine() - kernel, processor, memory, limits, I/O interface, GPU. */
void st_doctor_machine(struct st_doctor *d);
/** st_doctor_path() - file system, space, direct I/O, drive and rates of a directory. */
void st_doctor_path(struct st_doctor *d, const char *path);
/** st_doctor_config() - does what a configuration needs exist here? @param sets in [n_sets] */
void st_doctor_config(struct st_doctor *d, const char *config, const char *const *sets,
		      size_t n_sets);

#endif
