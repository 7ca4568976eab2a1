/* SPDX-License-Identifier: Apache-2.0 */
/* offload/bound.c - the busiest resource. */
#include "offload/bound.h"

double st_bound_io_s(const struct st_drive_rates *d, double read_s, double write_s)
{
	double read_speed = d->mixed_read / d->read, write_speed = d->mixed_write / d->write;
	double reads_mixed = read_s / read_speed, writes_mixed = write_s / write_speed;

	/* Both at once until one has nothing left, the other then alone. */
	return reads_mixed < writes_mixed ? reads_mixed + write_s - reads_mixed * write_speed
					  : writes_mixed + read_s - writes_mixed * read_speed;
}

struct st_bound st_bound(const struct st_work *w)
{
	struct st_bound b = { .s = w->lane_s[ST_LANE_COMPUTE],
			      .io_s = w->io_s,
			      .lane = ST_LANE_COMPUTE };

	for (unsigned l = 0; l < ST_LANE_N; l++) {
		if (l == ST_LANE_READ || l == ST_LANE_WRITE || l == ST_LANE_COMMIT ||
		    !(w->lane_s[l] > b.s))
			continue;
		b.s = w->lane_s[l];
		b.lane = l;
	}
	if (w->io_most_s > 0 && b.io_s > w->io_most_s)
		b.io_s = w->io_most_s;
	if (b.io_s > b.s) {
		b.s = b.io_s;
		b.lane = w->read_bytes < w->write_bytes ? ST_LANE_WRITE : ST_LANE_READ;
	}
	b.limiting = st_lane_name(b.lane);
	if (w->checksum_s > b.s) {
		b.s = w->checksum_s;
		b.lane = ST_LANE_N;
		b.limiting = "checksum";
	}
	return b;
}
