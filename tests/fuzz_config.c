/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/fuzz_config.c - libFuzzer target of the configuration.
 *
 * Any bytes: no crash, and either one printable error line, or a configuration whose dump loads
 * again to the same dump. A first line "#!set KEY=VALUE" is also given as an override.
 * Build: clang -fsanitize=fuzzer,address,undefined tests/fuzz_config.c core/config*.c
 *        core/schedule.c core/status.c; seeds: tests/corpus/config. tests/test_config.c replays
 * them.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_require(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "fuzz_config: %s\n", what);
	abort();
}

static char *fuzz_dump(const struct st_config *cfg, size_t *len)
{
	char *text = NULL;
	FILE *f = open_memstream(&text, len);

	fuzz_require(f, "open_memstream");
	st_config_dump(cfg, f);
	fuzz_require(!fclose(f), "dump");
	return text;
}

static void fuzz_round_trip(const struct st_config *cfg)
{
	struct st_config *again = NULL;
	size_t n1, n2;
	char *one = fuzz_dump(cfg, &n1), *two;
	int rc = st_config_parse(&again, one, n1, "dump", NULL, 0);

	if (rc)
		fprintf(stderr, "%s\n%s\n", one, st_last_error());
	fuzz_require(!rc, "the dump does not load");
	two = fuzz_dump(again, &n2);
	fuzz_require(n1 == n2 && !memcmp(one, two, n1), "the dump changed");
	free(one);
	free(two);
	st_config_destroy(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char tag[] = "#!set ";
	const uint8_t *line_end = memchr(data, '\n', size);
	struct st_config *cfg = NULL;
	const char *sets[1];
	size_t n_sets = 0;
	char set[256];
	int rc;

	if (line_end && size > sizeof(tag) && !memcmp(data, tag, sizeof(tag) - 1)) {
		snprintf(set, sizeof(set), "%.*s", (int)(line_end - data - (int)sizeof(tag) + 1),
			 (const char *)data + sizeof(tag) - 1);
		sets[n_sets++] = set;
	}
	rc = st_config_parse(&cfg, (const char *)data, size, "fuzz", sets, n_sets);
	if (!rc) {
		fuzz_round_trip(cfg);
		st_config_destroy(cfg);
		return 0;
	}
	fuzz_require(rc == STRATA_E_CONFIG && *st_last_error(), "an error without a line");
	for (const char *p = st_last_error(); *p; p++)
		fuzz_require((unsigned char)*p >= 0x20, "an error of several lines");
	return 0;
}
