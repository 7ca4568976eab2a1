/* SPDX-License-Identifier: Apache-2.0 */
/*
 * core/schedule.h - learning rate and momentum as a function of the step.
 *
 * Layer:   core
 * Threads: re-entrant; a schedule is constant after it was filled
 *
 * The five schedules of DeepSpeed (runtime/lr_schedules.py), with its parameter names and its
 * values, bit for bit where libm agrees. They are functions of the step alone, so nothing has to
 * be saved to resume one.
 *
 * Which iteration index a step uses. DeepSpeed counts i = last_batch_iteration, -1 at construction
 * (where it already sets the optimizer's rate), and calls scheduler.step(), i += 1, *after* each
 * optimizer step. So optimizer step t, counted from 0, runs with the value of i = t - 1:
 *	t = 0	what the constructor set: warmup_min_lr (WarmupLR, WarmupDecayLR), 0
 *		(WarmupCosineLR, whatever warmup_min_ratio says), lr_range_test_min_lr,
 *		cycle_min_lr and cycle_min_mom (OneCycle)
 *	t > 0	the formula at i = t - 1
 * Hence a logarithmic warm-up from 0 spends its first two steps at 0: i = -1, and log(0 + 1).
 */
#ifndef CORE_SCHEDULE_H
#define CORE_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

enum st_schedule_type {
	ST_SCHEDULE_NONE, /* the optimizer's own rate, for ever */
	ST_SCHEDULE_LR_RANGE_TEST,
	ST_SCHEDULE_ONE_CYCLE,
	ST_SCHEDULE_WARMUP,
	ST_SCHEDULE_WARMUP_DECAY,
	ST_SCHEDULE_WARMUP_COSINE,
};

enum st_warmup_type { ST_WARMUP_LOG, ST_WARMUP_LINEAR };

/* Only the fields of the chosen type are read. Steps are optimizer steps; rates are absolute. */
struct st_schedule {
	enum st_schedule_type type;

	/* LRRangeTest: lr = min * (1 + rate * (i + 1) / step_size), floored with staircase */
	double range_min_lr;      /* lr_range_test_min_lr */
	uint64_t range_step_size; /* > 0 */
	double range_step_rate;
	bool range_staircase;

	/*
	 * OneCycle: a triangle min, max, min over first + second steps, momentum (beta1) the other
	 * way round; then lr = min / (1 + rate * k / decay_step_size) and
	 * beta1 = max_mom * (1 + mom_rate * k / decay_step_size), k = 1 at i = first + second.
	 * decay_step_size 0, or a rate of 0: no decay (of the rate, of the momentum). A stair count
	 * of n > 0 holds the values flat on n stairs of its half.
	 */
	double cycle_min_lr, cycle_max_lr, decay_lr_rate;
	uint64_t cycle_first_step_size, cycle_second_step_size; /* > 0 */
	uint64_t cycle_first_stair_count, cycle_second_stair_count;
	uint64_t decay_step_size;
	bool cycle_momentum;
	double cycle_min_mom, cycle_max_mom, decay_mom_rate;

	/*
	 * Warmup*: W = max(2, warmup_num_steps), gamma = log(i + 1) / log(W) or i / W for i < W.
	 * WarmupLR, WarmupDecayLR: lr = min + (max - min) * gamma; from W on gamma is 1, or
	 * max(0, (T - i) / max(1, T - W)).
	 * WarmupCosineLR: lr = base * (min_ratio + (1 - min_ratio) * gamma); from W on base *
	 * max(0, cos_min + (1 - cos_min) * (1 + cos(pi * min(1, (i - W + 1) / max(1, T - W)))) / 2)
	 */
	double warmup_min_lr, warmup_max_lr;
	uint64_t warmup_num_steps; /* > 0 */
	enum st_warmup_type warmup_type;
	uint64_t total_num_steps; /* T */
	double warmup_min_ratio, cos_min_ratio;
};

/**
 * st_schedule_lr() - learning rate of an optimizer step.
 * @param base_lr  in, the optimizer's own rate; used by ST_SCHEDULE_NONE and WarmupCosineLR only
 * @param step     in, 0-based optimizer step (see above)
 * Tested: against values computed by hand, tests/test_schedule.c
 */
double st_schedule_lr(const struct st_schedule *s, double base_lr, uint64_t step);

/**
 * st_schedule_betas() - Adam's betas of an optimizer step, where the schedule sets them.
 * OneCycle with cycle_momentum does, as DeepSpeed: beta1 cycles, and beta2 becomes 0.99 whatever
 * the optimizer's betas say. With decay_mom_rate > 0 beta1 grows without bound: the configuration
 * refuses one that reaches 1 within the run.
 * @param beta1, beta2  in/out, untouched when false is returned
 * @return whether they were set
 */
bool st_schedule_betas(const struct st_schedule *s, uint64_t step, double *beta1, double *beta2);

#endif
