/* SPDX-License-Identifier: Apache-2.0 */
/* bench/compare.c - slices of ours and of fio's in turn. */
#include "bench/compare.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "nvme/store.h"

#define SLICE_S 2.0

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double st_median(double *v, size_t n)
{
	qsort(v, n, sizeof(*v), by_value);
	return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

struct st_slices st_slices_plan(double seconds, unsigned n_min, bool with_fio)
{
	double n = round(seconds / SLICE_S);

	if (n < n_min)
		n = n_min;
	if (n > ST_SLICES_MAX)
		n = ST_SLICES_MAX;
	return (struct st_slices){
		.n = (unsigned)n,
		.duration_ns = (int64_t)(seconds / n * 1e9),
		.with_fio = with_fio,
	};
}

static void widen(double *lo, double *hi, double x)
{
	if (!(x >= *lo))
		*lo = x;
	if (!(x <= *hi))
		*hi = x;
}

static int run_fio(struct st_area *a, const struct st_load *load, size_t block_bytes,
		   struct st_fio_result *r)
{
	const struct st_area_cfg *cfg = st_area_config(a);
	struct st_area_file files[ST_STORE_PATHS_MAX];
	struct st_fio_job job = {
		.files = files,
		.n_files = cfg->n_paths,
		.op = load->op,
		.is_random = load->is_random,
		.block_bytes = block_bytes,
		.depth = load->depth,
		.duration_ns = load->duration_ns,
		.stop = cfg->stop,
	};
	int rc = st_area_files(a, files);

	return rc ? rc : st_fio_run(&job, r);
}

int st_compare_prepare(struct st_area *a, const struct st_aio_cfg *aio, unsigned depth,
		       bool with_fio)
{
	struct st_load load = { .op = ST_LOAD_WRITE, .depth = depth, .aio = *aio };
	struct st_load_result *r = calloc(1, sizeof(*r));
	struct st_fio_result fio;
	int rc;

	if (!r)
		return st_fail(-ENOMEM, "bench");
	rc = st_area_run(a, &load, r);
	if (!rc && with_fio) /* as our own passes: see bench/load.c */
		rc = run_fio(a, &load, st_area_config(a)->block_bytes * st_area_pass_span(a), &fio);
	free(r);
	return rc;
}

/* ---- slices -------------------------------------------------------------------------------- */

struct comparing {
	struct st_area *a;
	struct st_load load;
	struct st_load_result *slice;
	struct st_compared *out;
	double ratios[ST_SLICES_MAX];
};

static int our_slice(struct comparing *c, double *gbps)
{
	int rc = st_area_run(c->a, &c->load, c->slice);

	st_load_add(&c->out->sum, c->slice);
	*gbps = st_load_gbps(c->slice);
	if (!rc)
		widen(&c->out->gbps_min, &c->out->gbps_max, *gbps);
	return rc;
}

static int fio_slice(struct comparing *c, double *gbps)
{
	struct st_fio_result *sum = &c->out->fio, r;
	int rc = run_fio(c->a, &c->load, st_area_config(c->a)->block_bytes, &r);

	if (rc)
		return rc;
	sum->n_ios += r.n_ios;
	sum->n_bytes += r.n_bytes;
	sum->seconds += r.seconds;
	sum->cpu_seconds += r.cpu_seconds;
	sum->is_huge = r.is_huge;
	*gbps = st_fio_gbps(&r);
	widen(&c->out->fio_gbps_min, &c->out->fio_gbps_max, *gbps);
	return 0;
}

/* Every second pair begins with fio, so that what the first leaves behind favours neither. */
static int run_pair(struct comparing *c, unsigned i, bool with_fio)
{
	double ours = NAN, fios = NAN;
	int rc;

	if (i % 2 && with_fio) {
		rc = fio_slice(c, &fios);
		if (!rc)
			rc = our_slice(c, &ours);
	} else {
		rc = our_slice(c, &ours);
		if (!rc && with_fio)
			rc = fio_slice(c, &fios);
	}
	if (rc)
		return rc;
	if (with_fio && !(fios > 0))
		return st_fail(STRATA_E_IO,
			       "fio moved nothing in a slice of %.2f s: give more "
			       "--seconds.",
			       (double)c->load.duration_ns / 1e9);
	c->ratios[c->out->n++] = ours / fios;
	return 0;
}

static int check_all(struct comparing *c)
{
	int rc;

	c->load.op = ST_LOAD_READ;
	c->load.is_random = false;
	c->load.is_thorough = true;
	c->load.duration_ns = 0;
	rc = st_area_run(c->a, &c->load, c->slice);
	if (!c->out->sum.n_wrong)
		memcpy(c->out->sum.first_wrong, c->slice->first_wrong,
		       sizeof(c->out->sum.first_wrong));
	c->out->sum.n_wrong += c->slice->n_wrong;
	return rc;
}

int st_compare(struct st_area *a, const struct st_load *load, const struct st_slices *slices,
	       void (*tell)(void *user, unsigned i, unsigned n), void *user,
	       struct st_compared *out)
{
	struct comparing *c = calloc(1, sizeof(*c));
	int rc = 0;

	if (!c)
		return st_fail(-ENOMEM, "bench");
	*out = (struct st_compared){
		.gbps_min = NAN,
		.gbps_max = NAN,
		.fio_gbps_min = NAN,
		.fio_gbps_max = NAN,
		.ratio = NAN,
		.ratio_min = NAN,
		.ratio_max = NAN,
	};
	c->a = a;
	c->load = *load;
	c->load.duration_ns = slices->duration_ns;
	c->out = out;
	c->slice = calloc(1, sizeof(*c->slice));
	if (!c->slice)
		rc = st_fail(-ENOMEM, "bench");
	for (unsigned i = 0; !rc && i < slices->n; i++) {
		if (tell)
			tell(user, i, slices->n);
		rc = run_pair(c, i, slices->with_fio);
	}
	if (!rc)
		rc = check_all(c);
	if (out->n && slices->with_fio) {
		out->ratio = st_median(c->ratios, out->n);
		out->ratio_min = c->ratios[0];
		out->ratio_max = c->ratios[out->n - 1];
	}
	free(c->slice);
	free(c);
	return rc;
}
