/* SPDX-License-Identifier: Apache-2.0 */
/* offload/search.c - plans that defer more, or less, simulated. */
#include "offload/search.h"

#include <math.h>

#include "offload/predict.h"

#define STRIDE    0.125 /* of what is interleaved, or one unit of it */
#define TRIES_MAX 4u    /* in one direction */

static int step_s(const struct st_plan *p, const struct st_hardware *hw, double *out)
{
	const struct st_predict_cfg cfg = {
		.hw = hw,
		.model = p->cfg.model,
		.layout = p->layout,
		.dtype = p->layout->dtype,
		.first = st_plan_first(p),
		.steady = st_plan_steady(p),
	};
	struct st_prediction prediction;
	int rc = st_predict(&prediction, &cfg);

	if (!rc)
		*out = prediction.step_s;
	return rc;
}

/* The time of a step that defers so much; infinite where that does not fit the budgets. */
static int try_share(const struct st_plan *p, const struct st_hardware *hw, double share,
		     double *out)
{
	struct st_plan_cfg cfg = p->cfg;
	struct st_plan *trial;
	int rc;

	cfg.has_deferred_share = cfg.is_trial = true;
	cfg.deferred_share = share;
	rc = st_plan_create(&trial, &cfg);
	if (rc == STRATA_E_NO_FIT) {
		*out = INFINITY;
		return 0;
	}
	if (rc)
		return rc;
	rc = step_s(trial, hw, out);
	st_plan_destroy(trial);
	return rc;
}

int st_plan_search(struct st_plan **plan, const struct st_hardware *hw)
{
	double first = (*plan)->deferred_share, best = first, best_s, s;
	double stride = fmax(STRIDE, 1.0 / (*plan)->layout->n_units);
	struct st_plan_cfg cfg = (*plan)->cfg;
	struct st_plan *better;
	int rc;

	if (!isfinite(first)) /* nothing can be chosen */
		return 0;
	rc = step_s(*plan, hw, &best_s);
	for (int sign = 1; !rc && best == first && sign >= -1; sign -= 2) {
		for (unsigned i = 1; i <= TRIES_MAX; i++) {
			double share = fmin(fmax(first + sign * stride * i, 0), 1);

			if (share == best)
				break;
			rc = try_share(*plan, hw, share, &s);
			if (rc || !(s < best_s * (1 - ST_SEARCH_GAIN)))
				break;
			best = share;
			best_s = s;
		}
	}
	if (rc || best == first)
		return rc;
	cfg.has_deferred_share = true;
	cfg.deferred_share = best;
	rc = st_plan_create(&better, &cfg);
	if (rc)
		return rc;
	st_plan_destroy(*plan);
	*plan = better;
	return 0;
}
