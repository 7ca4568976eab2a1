/* SPDX-License-Identifier: Apache-2.0 */
/* core/schedule.c - DeepSpeed's five schedules. Operations are ordered as there: same roundings. */
#include "core/schedule.h"

#include <math.h>

static double cycle_total(const struct st_schedule *s)
{
	return (double)s->cycle_first_step_size + (double)s->cycle_second_step_size;
}

/* 0 at the ends of the cycle, 1 at its peak; `step` is i + 1. */
static double cycle_scale(const struct st_schedule *s, double step)
{
	double total = cycle_total(s);
	double ratio = (double)s->cycle_first_step_size / total;
	double x = 1.0 + step / total - floor(1.0 + step / total);
	bool is_first = x <= ratio;
	uint64_t stairs = is_first ? s->cycle_first_stair_count : s->cycle_second_stair_count;
	double at, stair;

	if (!stairs)
		return is_first ? x / ratio : (x - 1.0) / (ratio - 1.0);
	at = fmod(step, total);
	if (at <= (double)s->cycle_first_step_size)
		stair = at * (double)stairs / (double)s->cycle_first_step_size;
	else
		stair = (total - at) * (double)stairs / (double)s->cycle_second_step_size;
	return floor(stair) / (double)stairs;
}

static double one_cycle_lr(const struct st_schedule *s, uint64_t step)
{
	double total = cycle_total(s), k = (double)step - total;

	if (k < 1.0)
		return s->cycle_min_lr +
		       (s->cycle_max_lr - s->cycle_min_lr) * cycle_scale(s, (double)step);
	if (!s->decay_step_size || s->decay_lr_rate == 0.0)
		return s->cycle_min_lr;
	return s->cycle_min_lr / (1.0 + s->decay_lr_rate * (k / (double)s->decay_step_size));
}

/* i is last_batch_iteration, below the warm-up's length w. */
static double warmup_gamma(const struct st_schedule *s, double i, double w)
{
	if (s->warmup_type == ST_WARMUP_LINEAR)
		return i / w;
	return 1.0 / log(w) * log(i + 1.0);
}

static double warmup_lr(const struct st_schedule *s, double i, double w)
{
	double gamma = 1.0, total = (double)s->total_num_steps;

	if (i < w)
		gamma = warmup_gamma(s, i, w);
	else if (s->type == ST_SCHEDULE_WARMUP_DECAY)
		gamma = fmax(0.0, (total - i) / fmax(1.0, total - w));
	return s->warmup_min_lr + (s->warmup_max_lr - s->warmup_min_lr) * gamma;
}

static double cosine_ratio(const struct st_schedule *s, double i, double w)
{
	double progress, half;

	if (i < w)
		return s->warmup_min_ratio + warmup_gamma(s, i, w) * (1.0 - s->warmup_min_ratio);
	progress = fmin(1.0, (i - w + 1.0) / fmax(1.0, (double)s->total_num_steps - w));
	half = (1.0 + cos(M_PI * progress)) / 2.0;
	return fmax(0.0, s->cos_min_ratio + (1.0 - s->cos_min_ratio) * half);
}

double st_schedule_lr(const struct st_schedule *s, double base_lr, uint64_t step)
{
	double w = s->warmup_num_steps > 2 ? (double)s->warmup_num_steps : 2.0;
	double i = (double)step - 1.0, interval;

	switch (s->type) {
	case ST_SCHEDULE_LR_RANGE_TEST:
		interval = (double)step / (double)s->range_step_size;
		if (s->range_staircase)
			interval = floor(interval);
		return s->range_min_lr * (1.0 + s->range_step_rate * interval);
	case ST_SCHEDULE_ONE_CYCLE:
		return one_cycle_lr(s, step);
	case ST_SCHEDULE_WARMUP:
	case ST_SCHEDULE_WARMUP_DECAY:
		return step ? warmup_lr(s, i, w) : s->warmup_min_lr;
	case ST_SCHEDULE_WARMUP_COSINE:
		return step ? base_lr * cosine_ratio(s, i, w) : 0.0;
	case ST_SCHEDULE_NONE:
		break;
	}
	return base_lr;
}

bool st_schedule_betas(const struct st_schedule *s, uint64_t step, double *beta1, double *beta2)
{
	double k = (double)step - cycle_total(s);

	if (s->type != ST_SCHEDULE_ONE_CYCLE || !s->cycle_momentum)
		return false;
	*beta2 = 0.99;
	if (!step)
		*beta1 = s->cycle_min_mom; /* the constructor's, before the cycle starts from max */
	else if (k < 1.0)
		*beta1 = s->cycle_max_mom -
			 (s->cycle_max_mom - s->cycle_min_mom) * cycle_scale(s, (double)step);
	else if (!s->decay_step_size || s->decay_mom_rate == 0.0)
		*beta1 = s->cycle_max_mom;
	else
		*beta1 = s->cycle_max_mom *
			 (1.0 + s->decay_mom_rate * (k / (double)s->decay_step_size));
	return true;
}
