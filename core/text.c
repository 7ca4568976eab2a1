/* SPDX-License-Identifier: Apache-2.0 */
/* core/text.c - how far apart two names are; sizes as people write them. */
#include "core/text.h"

#include <stdlib.h>
#include <string.h>

#include "core/status.h"

static unsigned min3(unsigned a, unsigned b, unsigned c)
{
	a = a < b ? a : b;
	return a < c ? a : c;
}

static unsigned char fold(char c)
{
	return (unsigned char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
}

unsigned st_edit_distance(const char *a, const char *b)
{
	size_t na = strnlen(a, 64), nb = strnlen(b, 64);
	unsigned row[65];

	for (size_t j = 0; j <= nb; j++)
		row[j] = (unsigned)j;
	for (size_t i = 1; i <= na; i++) {
		unsigned diagonal = row[0];

		row[0] = (unsigned)i;
		for (size_t j = 1; j <= nb; j++) {
			unsigned above = row[j];

			row[j] = min3(above + 1, row[j - 1] + 1,
				      diagonal + (fold(a[i - 1]) != fold(b[j - 1])));
			diagonal = above;
		}
	}
	return row[nb];
}

bool st_parse_size(const char *text, double *out)
{
	static const struct {
		const char *unit;
		double bytes;
	} units[] = {
		{ "B", 1 },        { "KiB", 1024 }, { "MiB", 1048576 }, { "GiB", 0x1p30 },
		{ "TiB", 0x1p40 }, { "kB", 1e3 },   { "KB", 1e3 },      { "MB", 1e6 },
		{ "GB", 1e9 },     { "TB", 1e12 },
	};
	size_t n = strspn(text, "0123456789."), spaces = strspn(text + n, " ");
	char *end;
	double x;

	if (!n || text[0] == '.' || text[n - 1] == '.')
		return false;
	x = strtod(text, &end);
	if (end != text + n)
		return false;
	for (size_t i = 0; i < ST_ARRAY_LEN(units); i++) {
		if (strcmp(text + n + spaces, units[i].unit))
			continue;
		*out = x * units[i].bytes;
		return true;
	}
	return false;
}
