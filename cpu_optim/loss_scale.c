/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_optim/loss_scale.c - the loss scale as a state machine. */
#include "strata/loss_scale.h"

#include <errno.h>
#include <math.h>

#include "core/status.h"

#define FACTOR 2.0

int strata_loss_scale_init(struct strata_loss_scale *s, const struct strata_loss_scale_cfg *cfg)
{
	bool is_fixed;

	if (!s || !cfg || cfg->struct_bytes != sizeof(*cfg))
		return st_fail(-EINVAL, "loss scale: start from STRATA_LOSS_SCALE_CFG_DEFAULT.");
	is_fixed = cfg->fixed != 0;
	if (is_fixed ? !(cfg->fixed > 0) || !isfinite(cfg->fixed)
		     : cfg->initial_power > 32 || !cfg->window || !cfg->hysteresis ||
			       !(cfg->min_scale > 0) || !isfinite(cfg->min_scale))
		return st_fail(
			-EINVAL,
			"loss scale: %g, 2^%u, window %llu, hysteresis %llu, minimum %g: all "
			"must be > 0 and finite, the power at most 32.",
			cfg->fixed, cfg->initial_power, (unsigned long long)cfg->window,
			(unsigned long long)cfg->hysteresis, cfg->min_scale);
	*s = (struct strata_loss_scale){
		.scale = is_fixed ? cfg->fixed : ldexp(1.0, (int)cfg->initial_power),
		.min_scale = cfg->min_scale,
		.window = is_fixed ? 0 : cfg->window,
		.hysteresis = cfg->hysteresis,
		.left = cfg->hysteresis,
		.overflow = -1,
		.is_consecutive = cfg->is_consecutive,
	};
	return 0;
}

static int fall(struct strata_loss_scale *s)
{
	if (s->left > 1) {
		s->left--;
		return 0;
	}
	if (s->scale == s->min_scale)
		return st_fail(STRATA_E_NUMERIC,
			       "gradients overflow at the smallest loss scale, %g; lower the "
			       "learning rate, or train in bf16",
			       s->scale);
	s->scale = s->scale / FACTOR > s->min_scale ? s->scale / FACTOR : s->min_scale;
	return 0;
}

int strata_loss_scale_update(struct strata_loss_scale *s, bool has_overflow)
{
	int rc = 0;

	if (!s->window)
		return 0;
	if (has_overflow) {
		rc = fall(s);
		s->overflow = (int64_t)s->step;
	} else {
		bool is_window = ((int64_t)s->step - s->overflow) % (int64_t)s->window == 0;

		if (s->is_consecutive || is_window)
			s->left = s->hysteresis;
		if (is_window)
			s->scale *= FACTOR;
	}
	s->step++;
	return rc;
}
