/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/test_store_crash_long.c - tests/test_store_crash.c with 20,000 seeds.
 * Label: slow
 * Timeout: 300
 */
#define N_SEEDS 20000u
#include "test_store_crash.c"
