/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench/fio.h - the same load by fio, to compare with.
 *
 * Layer:   bench
 * Threads: one fio at a time
 *
 * fio runs with what makes it quick and cheap: io_uring, registered files and buffers, O_DIRECT,
 * non-vectored requests, one process, no scrambling of its buffers, and buffers on huge pages where
 * enough are reserved (vm.nr_hugepages). It opens the very files that we hold open, through
 * /proc/PID/fd, so that none needs a name, and dies with us.
 */
#ifndef BENCH_FIO_H
#define BENCH_FIO_H

#include "bench/load.h"
#include "core/status.h"

struct st_fio_job {
	const struct st_area_file *files; /* [n_files], all of the same offsets and length */
	unsigned n_files;
	enum st_load_op op; /* what writes goes to the files' second half */
	bool is_random;
	size_t block_bytes;
	unsigned depth;
	int64_t duration_ns; /* 0: one pass */
	const volatile sig_atomic_t *stop;
};

struct st_fio_result {
	uint64_t n_ios, n_bytes;
	double seconds;
	double cpu_seconds; /* user and system, of fio's working process */
	bool is_huge;       /* its buffers lay on huge pages, as ours do */
};

/** st_fio_find() - @return 0; STRATA_E_UNSUPPORTED (fio is not installed: what to do) */
ST_MUST_CHECK int st_fio_find(void);

/**
 * st_fio_run() - run one job and read its figures.
 * @return 0; -EINTR (stop); STRATA_E_IO (fio failed: its own words); -errno
 */
ST_MUST_CHECK int st_fio_run(const struct st_fio_job *job, struct st_fio_result *r);

double st_fio_gbps(const struct st_fio_result *r);

#endif
