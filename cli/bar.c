/* SPDX-License-Identifier: Apache-2.0 */
/* cli/bar.c - a bar of blocks, and one that counts bytes. */
#include "cli/bar.h"

#include <langinfo.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/print.h"
#include "core/clock.h"

#define REDRAW_NS  100000000
#define FRAME      6u /* " 37%|" and "|" */
#define BLOCKS_MAX 40u
#define BLOCKS_MIN 3u

bool st_terminal_is_capable(void)
{
	const char *term = getenv("TERM");

	return isatty(STDERR_FILENO) && term && *term && strcmp(term, "dumb") != 0;
}

size_t st_terminal_columns(void)
{
	struct winsize size;

	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) || size.ws_col == 0)
		return 80;
	return size.ws_col < ST_COLUMNS_MAX ? size.ws_col : ST_COLUMNS_MAX;
}

bool st_terminal_is_utf8(void)
{
	return !strcmp(nl_langinfo(CODESET), "UTF-8");
}

void st_bar_blocks(double share, size_t columns, bool is_utf8)
{
	static const char *const eighth[] = { " ", "▏", "▎", "▍", "▌", "▋", "▊", "▉" };
	size_t filled = (size_t)(share * (double)columns * 8);

	for (size_t i = 0; i < columns; i++) {
		size_t here = filled > i * 8 ? filled - i * 8 : 0;

		if (!is_utf8)
			fputc(here >= 8 ? '#' : '.', stderr);
		else
			fputs(here >= 8 ? "█" : eighth[here], stderr);
	}
}

void st_bar_begin(struct st_bar *b)
{
	*b = (struct st_bar){ .is_shown = st_terminal_is_capable(),
			      .is_utf8 = st_terminal_is_utf8(),
			      .begun_ns = st_now_ns() };
}

void st_bar_line(double share, const char *text, bool is_utf8)
{
	size_t columns = st_terminal_columns() - 1, used = strlen(text), blocks;

	if (columns < FRAME + BLOCKS_MIN)
		return;
	if (used + FRAME + BLOCKS_MIN > columns) {
		text = "";
		used = 0;
	}
	blocks = columns - FRAME - used;
	share = share > 0 ? share < 1 ? share : 1 : 0;
	fprintf(stderr, "\r%3d%%|", (int)(share * 100));
	st_bar_blocks(share, blocks < BLOCKS_MAX ? blocks : BLOCKS_MAX, is_utf8);
	fprintf(stderr, "|%s\033[K", text);
	fflush(stderr);
}

void st_bar_bytes(struct st_bar *b, uint64_t done, uint64_t total)
{
	int64_t now_ns = st_now_ns();
	double ns = (double)(now_ns - b->begun_ns), share;
	char text[160];

	if (!b->is_shown || !total || (b->is_drawn && now_ns - b->drawn_ns < REDRAW_NS))
		return;
	share = done < total ? (double)done / (double)total : 1;
	snprintf(
		text, sizeof(text), " %s of %s  %.2f GB/s  %s<%s", st_bytes_text(done).s,
		st_bytes_text(total).s, ns > 0 ? (double)done / ns : 0,
		st_duration_text(ns * 1e-9).s,
		st_duration_text(done ? (double)(total - done) / (double)done * ns * 1e-9 : NAN).s);
	st_bar_line(share, text, b->is_utf8);
	b->is_drawn = true;
	b->drawn_ns = now_ns;
}

void st_bar_wipe(struct st_bar *b)
{
	if (b->is_drawn)
		fputs("\r\033[K", stderr);
	b->is_drawn = false;
}
