/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cli/bar.h - bars on a terminal: what training's has in common with others, and one that counts
 * bytes.
 *
 * Layer:   cli
 * Threads: a bar belongs to one thread
 *
 * Only where stderr is a terminal that understands "\r" and the erasure of a line's rest; nothing
 * is written elsewhere. The cursor is never hidden.
 */
#ifndef CLI_BAR_H
#define CLI_BAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ST_COLUMNS_MAX ((size_t)256)

/** st_terminal_is_capable() - stderr is a terminal that a bar can be drawn on. */
bool st_terminal_is_capable(void);
/** st_terminal_columns() - its width, at most ST_COLUMNS_MAX; 80 unknown. */
size_t st_terminal_columns(void);
/** st_terminal_is_utf8() - whether the locale's characters are. */
bool st_terminal_is_utf8(void);

/** st_bar_blocks() - `share` (0..1) of so many columns filled, to stderr. */
void st_bar_blocks(double share, size_t columns, bool is_utf8);

/** st_bar_line() - " 37%|###...|TEXT" in the place of the terminal's line, one column short of its
 *  width, so that none wraps; what does not fit of the text is left out as a whole. Nothing where
 *  there is no room for a bar. */
void st_bar_line(double share, const char *text, bool is_utf8);

struct st_bar { /* {0} before begin: nothing is drawn */
	bool is_shown, is_utf8, is_drawn;
	int64_t begun_ns, drawn_ns;
};

void st_bar_begin(struct st_bar *b);
/** st_bar_bytes() - " 37%|###...| 3.1 GiB of 8.2 GiB 1.52 GB/s 0:02<0:05", ten times a second. */
void st_bar_bytes(struct st_bar *b, uint64_t done, uint64_t total);
/** st_bar_wipe() - off the screen, so that a line can stand in its place. */
void st_bar_wipe(struct st_bar *b);

#endif
