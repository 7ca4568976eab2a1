/* SPDX-License-Identifier: Apache-2.0 */
/* offload/sequence.c - verdicts, the history of steps, and the executor's window. */
#include "offload/sequence.h"

#include <math.h>

/* ---- a step -------------------------------------------------------------------------------- */

struct st_verdict st_judge(double norm, double clip, bool scales_loss)
{
	struct st_verdict v = { .is_skipped = scales_loss && !isfinite(norm), .clip_factor = 1 };

	if (!v.is_skipped && clip > 0 && norm + 1e-6 > clip)
		v.clip_factor = clip / (norm + 1e-6);
	v.is_vain = v.is_skipped || v.clip_factor != 1;
	return v;
}

bool st_will_clip(double square_sum, double clip, double loss_scale)
{
	double limit = clip * loss_scale * (1 + 1e-6);

	return !isfinite(square_sum) || (clip > 0 && square_sum > limit * limit);
}

bool st_wants_commit(enum st_variant v, uint64_t step, uint64_t committed, uint64_t every)
{
	return !st_variant_desc(v)->is_step || (step % every == 0 && step != committed);
}

/* ---- steps --------------------------------------------------------------------------------- */

/* What a step of this kind leaves behind, if it was not in vain. */
static enum st_due due_after(const struct st_plan *p, bool speculates)
{
	return !p->has_pending                ? ST_DUE_NONE
	       : p->speculates && !speculates ? ST_DUE_ALL
					      : ST_DUE_DEFERRED;
}

enum st_variant st_history_step(const struct st_history *h, const struct st_plan *p,
				bool always_speculates)
{
	bool is_rare = h->n_steps >= 4 && !(h->vain & 15) && !(h->vain & (h->vain - 1));
	bool speculates = p->speculates && (always_speculates || is_rare);

	return (speculates ? ST_VARIANT_SPECULATE : ST_VARIANT_STEP) + h->due;
}

void st_history_add(struct st_history *h, const struct st_plan *p, const struct st_verdict *v,
		    bool speculated)
{
	h->due = v->is_skipped ? ST_DUE_NONE : due_after(p, speculated && !v->is_vain);
	h->vain = h->vain << 1 | v->is_vain;
	h->n_steps += h->n_steps < 64;
}

/* ---- the window ---------------------------------------------------------------------------- */

void st_sequence_init(struct st_sequence *q, const struct st_sequence_cfg *cfg)
{
	*q = (struct st_sequence){ .cfg = *cfg,
				   .ahead_variant = ST_VARIANT_N,
				   .latest = ST_VARIANT_N };
}

static int append(struct st_sequence *q, enum st_variant v, void **run)
{
	const struct st_program *p = q->cfg.plan->program[v];
	void *taken;
	int rc = 0;

	ST_ASSERT(p);
	while (!rc && !st_executor_has_room(q->cfg.executor))
		rc = q->cfg.turn(q->cfg.user, -1);
	if (!rc)
		rc = q->cfg.take_run(q->cfg.user, v, &taken);
	if (!rc)
		rc = st_executor_append(q->cfg.executor, p, taken);
	if (!rc)
		*run = taken;
	return rc;
}

static void drop_ahead(struct st_sequence *q)
{
	if (!q->ahead)
		return;
	st_executor_cancel(q->cfg.executor);
	if (q->cfg.dropped)
		q->cfg.dropped(q->cfg.user, q->ahead);
	q->ahead = NULL;
}

int st_sequence_step(struct st_sequence *q, enum st_variant v, void **run)
{
	q->latest = v;
	if (q->ahead && q->ahead_variant != v)
		drop_ahead(q);
	if (!q->ahead)
		return append(q, v, run);
	*run = q->ahead;
	q->ahead = NULL;
	return 0;
}

int st_sequence_finish(struct st_sequence *q)
{
	int rc = 0;

	while (!rc && !st_executor_is_idle(q->cfg.executor))
		rc = q->cfg.turn(q->cfg.user, -1);
	return rc;
}

int st_sequence_settle(struct st_sequence *q)
{
	q->latest = ST_VARIANT_N;
	drop_ahead(q);
	return st_sequence_finish(q);
}

int st_sequence_other(struct st_sequence *q, enum st_variant v, void **run)
{
	int rc = st_sequence_settle(q);

	return rc ? rc : append(q, v, run);
}

int st_sequence_roll_back(struct st_sequence *q)
{
	int rc;

	if (!q->rolls_back)
		return 0;
	q->rolls_back = false;
	rc = st_sequence_settle(q); /* what follows depends on how often that happens */
	if (!rc)
		rc = q->cfg.forget(q->cfg.user);
	return rc ? rc : 1;
}

int st_sequence_look_ahead(struct st_sequence *q, void **run)
{
	bool speculates = q->latest != ST_VARIANT_N && st_variant_desc(q->latest)->speculates;
	int rc;

	*run = NULL;
	if (q->latest == ST_VARIANT_N || q->ahead || !st_executor_has_room(q->cfg.executor))
		return 0;
	q->ahead_variant = (speculates ? ST_VARIANT_SPECULATE : ST_VARIANT_STEP) +
			   due_after(q->cfg.plan, speculates);
	rc = append(q, q->ahead_variant, &q->ahead);
	*run = q->ahead;
	return rc;
}
