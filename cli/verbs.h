/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cli/verbs.h - the verbs of the program; each has its table of options beside its code.
 *
 * Layer: cli
 */
#ifndef CLI_VERBS_H
#define CLI_VERBS_H

#include "cli/args.h"

extern const struct st_verb st_verb_train, st_verb_plan, st_verb_sample, st_verb_report;
extern const struct st_verb st_verb_checkpoint_ls, st_verb_checkpoint_verify;
extern const struct st_verb st_verb_checkpoint_export, st_verb_checkpoint_gc;
extern const struct st_verb st_verb_config_check, st_verb_config_explain, st_verb_config_dump;
extern const struct st_verb st_verb_config_schema, st_verb_config_help;

#endif
