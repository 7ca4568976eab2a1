/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offload/search.h - of the plans that a configuration allows, one whose step is short.
 *
 * Layer:   offload
 * Threads: one thread; the plan is not in use yet
 *
 * st_plan_create() knows sizes, not rates: it defers so many units' updates that forward moves
 * bytes in proportion to its operations. Where the rates of the machine are known, the objective is
 * the predicted time of a step itself: plans that defer more and less are made and simulated, on in
 * the direction in which steps get shorter. What is gained must be worth a plan that nobody else
 * has: below ST_SEARCH_GAIN the first one stays.
 */
#ifndef OFFLOAD_SEARCH_H
#define OFFLOAD_SEARCH_H

#include "core/hardware.h"
#include "offload/plan.h"

#define ST_SEARCH_GAIN 0.01 /* of a step's time */

/**
 * st_plan_search() - replace a plan by a better one for a machine of these rates.
 * @param plan  in/out, of st_plan_create(), owned; cfg.modes of it were NULL, or nothing is done
 * @return 0, also where nothing better was found; -ENOMEM. *plan is a plan in any case
 */
ST_MUST_CHECK int st_plan_search(struct st_plan **plan, const struct st_hardware *hw);

#endif
