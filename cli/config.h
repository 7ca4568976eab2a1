/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cli/config.h - the verb `strata config`.
 *
 * Layer: cli (uses core)
 */
#ifndef CLI_CONFIG_H
#define CLI_CONFIG_H

/**
 * st_cli_config() - run `strata config check|explain|dump|schema|help ...`.
 * Results go to stdout; notes and errors, one line each, to stderr.
 * @param argc, argv  in, from the verb on: argv[0] is "config"
 * @return the program's exit code: 0, 2 (bad input or usage), 4 (stdout cannot be written)
 */
int st_cli_config(int argc, char **argv);

#endif
