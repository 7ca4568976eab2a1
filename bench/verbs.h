/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench/verbs.h - the verbs of measuring and tuning, for the program's list of verbs.
 *
 * Layer: bench
 */
#ifndef BENCH_VERBS_H
#define BENCH_VERBS_H

#include "cli/args.h"

extern const struct st_verb st_verb_bench_nvme, st_verb_bench_optim, st_verb_bench_moments;
extern const struct st_verb st_verb_tune_nvme;
extern const struct st_verb st_verb_bench_step, st_verb_bench_plan, st_verb_doctor;

#endif
