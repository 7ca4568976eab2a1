/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/cli_json.c - reads JSON lines the strict way, for the tests of the program.
 *
 *	cli_json EVENT KEY <FILE
 *
 * Each line must be one JSON object (jansson: no duplicate keys, only finite numbers); then the
 * values of KEY in the objects whose "event" is EVENT ("-": in all) are printed, one a line, as
 * JSON. Exit code 1 with a message if a line is none, or such an object has no KEY.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int one_line(const char *line, unsigned nr, const char *event, const char *key)
{
	json_error_t err;
	json_t *obj = json_loads(line, JSON_REJECT_DUPLICATES, &err);
	const json_t *value;
	const char *name;
	int rc = 1;

	if (!json_is_object(obj)) {
		fprintf(stderr, "cli_json: line %u is no JSON object: %s\n", nr,
			obj ? line : err.text);
		goto out;
	}
	name = json_string_value(json_object_get(obj, "event"));
	rc = 0;
	if (strcmp(event, "-") != 0 && (!name || strcmp(event, name) != 0))
		goto out;
	value = json_object_get(obj, key);
	if (value) {
		json_dumpf(value, stdout, JSON_ENCODE_ANY | JSON_COMPACT);
		putchar('\n');
	} else {
		fprintf(stderr, "cli_json: line %u has no key \"%s\": %s", nr, key, line);
		rc = 1;
	}
out:
	json_decref(obj);
	return rc;
}

int main(int argc, char **argv)
{
	char *line = NULL;
	size_t room = 0;
	unsigned nr = 0;
	int rc = 0;

	if (argc != 3) {
		fprintf(stderr, "usage: cli_json EVENT KEY\n");
		return 2;
	}
	while (!rc && getline(&line, &room, stdin) > 0)
		rc = one_line(line, ++nr, argv[1], argv[2]);
	if (!rc && !nr) {
		fprintf(stderr, "cli_json: no line at all\n");
		rc = 1;
	}
	free(line);
	return rc;
}
