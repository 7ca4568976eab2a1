/* SPDX-License-Identifier: Apache-2.0 */
/* offload/lanes_sim.c - virtual clock, lane models, and the shadow that checks them. */
#include "offload/lanes_sim.h"

#include "offload/shadow.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- shadow: which version lies where ---------------------------------------------------- */

/*
 * A version names who made it: the operation of a program, or the claim whose memory nobody has
 * written yet. 0 is what was there before the first program.
 */
#define VERSION_UNWRITTEN ((uint64_t)1 << 63) /* low half: a claim */
#define VERSION_IN_CLAIM  ((uint64_t)1 << 62) /* low half: an operation */

struct shadow { /* the arenas, then the resources */
	struct st_shadow *maps;
	uint32_t n_maps;
};

static int shadow_grow(struct shadow *sh, uint32_t n_maps)
{
	struct st_shadow *maps;

	if (n_maps <= sh->n_maps)
		return 0;
	maps = reallocarray(sh->maps, n_maps, sizeof(*maps));
	if (!maps)
		return -ENOMEM;
	sh->maps = maps;
	for (; sh->n_maps < n_maps; sh->n_maps++)
		if (st_shadow_init(&sh->maps[sh->n_maps]))
			return -ENOMEM;
	return 0;
}

static int shadow_copy(struct shadow *to, const struct shadow *from)
{
	int rc = shadow_grow(to, from->n_maps);

	for (uint32_t i = 0; !rc && i < from->n_maps; i++)
		rc = st_shadow_copy(&to->maps[i], &from->maps[i]);
	return rc;
}

static void shadow_fini(struct shadow *sh)
{
	for (uint32_t i = 0; i < sh->n_maps; i++)
		st_shadow_fini(&sh->maps[i]);
	free(sh->maps);
}

/* ---- the simulation's own records -------------------------------------------------------- */

enum op_state { OP_NONE, OP_TAKEN, OP_DONE, OP_FAILED };
enum claim_state { CLAIM_NONE, CLAIM_LIVE, CLAIM_ENDED };

struct instance { /* a program that was begun */
	const struct st_program *p;
	void *ctx;
	uint32_t seq; /* place in serial order */
	bool is_cancelled;
	uint32_t in_flight, n_left; /* n_left: operations that have not come back */
	uint8_t *op_state;          /* [n_ops] */
	uint8_t *claim_state;       /* [n_claims] */
	uint32_t *users_left;       /* [n_claims] */
	uint32_t *first_touch;      /* [n_ops + 1] in p->touch_list */
	uint64_t *use_expect;       /* [n uses] digest that serial execution meets */
	uint64_t *touch_expect;     /* [n_touches] */
};

struct live {
	const struct instance *in;
	uint32_t claim;
};

enum job_state { JOB_QUEUED, JOB_RUNNING, JOB_ENDED };

struct job {
	struct instance *in;
	uint32_t op;
	uint8_t lane, state;
	uint32_t paths; /* bit i: it needs path i of its lane */
	int rc;
	uint64_t token;
	int64_t served_ns, end_ns; /* it leaves the pipe; it ends, a latency later */
};

struct lane {
	uint32_t n_jobs, n_running;
	int64_t pipe_free_ns[ST_SIM_PATHS_MAX];
	double speed; /* of what is in the pipe now */
};

struct st_lanes_sim {
	struct st_lanes_sim_cfg cfg;
	uint64_t rng;
	int rc;               /* out of memory while checking: told by the next wait() */
	bool has_failed;      /* a failure was handed out */
	uint64_t n_exposed;   /* operations that started in a lane that may fail */
	struct instance **in; /* in serial order */
	uint32_t n_in, cap_in, next_seq;
	struct live *live;
	uint32_t n_live, cap_live;
	struct job *jobs; /* in order of submission */
	uint32_t n_jobs;
	struct lane lane[ST_LANE_N];
	struct shadow expect, before, actual; /* before: expect without the program begun last */
	struct st_sim_stats stats;
	uint64_t faults[ST_SIM_FAULT_N + 1];
	char fault_text[320];
};

static void ST_PRINTF(3, 4)
	fault(struct st_lanes_sim *s, enum st_sim_fault kind, const char *fmt, ...)
{
	static const char *const texts[] = {
#define ST_X(name, text) text,
		ST_SIM_FAULTS(ST_X)
#undef ST_X
	};
	va_list ap;
	int n;

	s->faults[kind]++;
	if (s->faults[ST_SIM_FAULT_N]++)
		return;
	n = snprintf(s->fault_text, sizeof(s->fault_text), "%s: ", texts[kind]);
	va_start(ap, fmt);
	vsnprintf(s->fault_text + n, sizeof(s->fault_text) - (size_t)n, fmt, ap);
	va_end(ap);
}

static double random_unit(struct st_lanes_sim *s)
{
	uint64_t z = s->rng += 0x9e3779b97f4a7c15u; /* splitmix64 */

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

/* ---- creation ---------------------------------------------------------------------------- */

static const struct st_lanes_ops sim_ops;

struct st_lanes st_lanes_sim_lanes(struct st_lanes_sim *s)
{
	return (struct st_lanes){ &sim_ops, s };
}

const struct st_sim_stats *st_lanes_sim_stats(const struct st_lanes_sim *s)
{
	return &s->stats;
}

uint64_t st_lanes_sim_faults(const struct st_lanes_sim *s, enum st_sim_fault kind)
{
	return s->faults[kind];
}

const char *st_lanes_sim_fault_text(const struct st_lanes_sim *s)
{
	return s->fault_text;
}

int st_lanes_sim_create(struct st_lanes_sim **out, const struct st_lanes_sim_cfg *cfg)
{
	struct st_lanes_sim *s = NULL;
	size_t n_jobs = 0;

	for (unsigned l = 0; l < ST_LANE_N; l++) {
		const struct st_sim_lane *c = &cfg->lane[l];

		if (!(c->bytes_per_s >= 0) || !(c->flops_per_s >= 0) || c->latency_ns < 0)
			return st_fail(-EINVAL,
				       "simulated lane %s: rates and latency must not be negative",
				       st_lane_name(l));
		n_jobs += c->depth ? c->depth : 1;
	}
	if (cfg->random_decades > 12)
		return st_fail(-EINVAL, "simulated lanes: at most 12 decades of random durations");
	s = calloc(1, sizeof(*s));
	if (s)
		s->jobs = calloc(n_jobs, sizeof(*s->jobs));
	if (!s || !s->jobs) {
		free(s);
		return st_fail(-ENOMEM, "simulated lanes");
	}
	s->cfg = *cfg;
	s->rng = cfg->seed;
	for (unsigned l = 0; l < ST_LANE_N; l++) {
		s->lane[l].speed = 1;
		if (!s->cfg.lane[l].depth)
			s->cfg.lane[l].depth = 1;
	}
	*out = s;
	return 0;
}

static void instance_destroy(struct instance *in)
{
	if (!in)
		return;
	free(in->op_state);
	free(in->claim_state);
	free(in->users_left);
	free(in->first_touch);
	free(in->use_expect);
	free(in->touch_expect);
	free(in);
}

void st_lanes_sim_destroy(struct st_lanes_sim *s)
{
	if (!s)
		return;
	for (uint32_t i = 0; i < s->n_in; i++)
		instance_destroy(s->in[i]);
	free(s->in);
	free(s->live);
	free(s->jobs);
	shadow_fini(&s->expect);
	shadow_fini(&s->before);
	shadow_fini(&s->actual);
	free(s);
}

/* ---- serial execution: what every access must meet --------------------------------------- */

static bool is_served(const struct st_program *p, uint32_t op)
{
	return p->ops[op].lane != ST_LANE_GATE;
}

static uint64_t version_of(const struct instance *in, uint32_t item)
{
	return (uint64_t)(in->seq + 1) << 32 | item;
}

static struct st_shadow *use_map(struct shadow *sh, const struct st_use *u)
{
	return &sh->maps[u->addr.arena];
}

static struct st_shadow *touch_map(struct shadow *sh, const struct st_touch *t)
{
	return &sh->maps[ST_ARENA_N + t->resource];
}

/* A claim begins: its memory holds nothing. */
static int paint_claim(struct shadow *sh, const struct instance *in, uint32_t claim)
{
	const struct st_claim *c = &in->p->claims[claim];
	const struct st_pool_place *place = &in->p->place[c->pool];
	uint64_t lo = place->base_bytes + c->off_bytes;

	return st_shadow_paint(&sh->maps[place->arena], lo, lo + c->bytes,
			       VERSION_UNWRITTEN | version_of(in, claim));
}

/* What an operation leaves behind when it completes. */
static int paint_op(struct shadow *sh, const struct instance *in, uint32_t op)
{
	const struct st_op *o = &in->p->ops[op];
	int rc = 0;

	for (uint32_t k = 0; !rc && k < o->n_uses; k++) {
		const struct st_use *u = &in->p->uses[o->first_use + k];

		if (u->is_write)
			rc = st_shadow_paint(
				use_map(sh, u), u->addr.off_bytes, u->addr.off_bytes + u->bytes,
				version_of(in, op) |
					(u->claim == ST_NO_CLAIM ? 0 : VERSION_IN_CLAIM));
	}
	for (uint32_t k = in->first_touch[op]; !rc && k < in->first_touch[op + 1]; k++) {
		const struct st_touch *t = &in->p->touch_list[k];

		if (t->is_exclusive)
			rc = st_shadow_paint(touch_map(sh, t), t->lo, t->hi, version_of(in, op));
	}
	return rc;
}

static uint64_t use_digest(struct shadow *sh, const struct st_use *u)
{
	return st_shadow_digest(use_map(sh, u), u->addr.off_bytes, u->addr.off_bytes + u->bytes);
}

static uint64_t touch_digest(struct shadow *sh, const struct st_touch *t)
{
	return st_shadow_digest(touch_map(sh, t), t->lo, t->hi);
}

static int expect_serial(struct st_lanes_sim *s, struct instance *in)
{
	const struct st_program *p = in->p;
	int rc = 0;

	for (uint32_t i = 0; !rc && i < p->n_ops; i++) {
		const struct st_op *o = &p->ops[i];

		if (!is_served(p, i))
			continue;
		for (uint32_t k = o->first_use; !rc && k < o->first_use + o->n_uses; k++) {
			uint32_t claim = p->uses[k].claim;

			if (claim != ST_NO_CLAIM && in->claim_state[claim] == CLAIM_NONE) {
				in->claim_state[claim] = CLAIM_LIVE;
				rc = paint_claim(&s->expect, in, claim);
			}
		}
		for (uint32_t k = o->first_use; k < o->first_use + o->n_uses; k++)
			in->use_expect[k] = use_digest(&s->expect, &p->uses[k]);
		for (uint32_t k = in->first_touch[i]; k < in->first_touch[i + 1]; k++)
			in->touch_expect[k] = touch_digest(&s->expect, &p->touch_list[k]);
		if (!rc)
			rc = paint_op(&s->expect, in, i);
	}
	memset(in->claim_state, CLAIM_NONE, p->n_claims);
	return rc;
}

/* ---- programs ---------------------------------------------------------------------------- */

static struct instance *instance_create(const struct st_program *p, void *ctx)
{
	struct instance *in = calloc(1, sizeof(*in));
	uint32_t n_uses = 0, t = 0;

	if (!in)
		return NULL;
	for (uint32_t i = 0; i < p->n_ops; i++) {
		n_uses += p->ops[i].n_uses;
		in->n_left += is_served(p, i);
	}
	in->p = p;
	in->ctx = ctx;
	in->op_state = calloc((size_t)p->n_ops + 1, 1);
	in->claim_state = calloc((size_t)p->n_claims + 1, 1);
	in->users_left = calloc((size_t)p->n_claims + 1, sizeof(*in->users_left));
	in->first_touch = calloc((size_t)p->n_ops + 1, sizeof(*in->first_touch));
	in->use_expect = calloc((size_t)n_uses + 1, sizeof(*in->use_expect));
	in->touch_expect = calloc((size_t)p->n_touches + 1, sizeof(*in->touch_expect));
	if (!in->op_state || !in->claim_state || !in->users_left || !in->first_touch ||
	    !in->use_expect || !in->touch_expect) {
		instance_destroy(in);
		return NULL;
	}
	for (uint32_t i = 0; i < p->n_ops; i++) {
		in->first_touch[i] = t;
		while (t < p->n_touches && p->touch_list[t].op == i)
			t++;
		for (uint32_t k = 0; is_served(p, i) && k < p->ops[i].n_uses; k++)
			if (p->uses[p->ops[i].first_use + k].claim != ST_NO_CLAIM)
				in->users_left[p->uses[p->ops[i].first_use + k].claim]++;
	}
	in->first_touch[p->n_ops] = t;
	return in;
}

/* Forget programs of which nothing is left. */
static void sweep(struct st_lanes_sim *s)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < s->n_in; i++) {
		struct instance *in = s->in[i];

		if (in->in_flight == 0 && (in->is_cancelled || in->n_left == 0))
			instance_destroy(in);
		else
			s->in[kept++] = in;
	}
	s->n_in = kept;
}

static int make_room(struct st_lanes_sim *s, const struct st_program *p)
{
	uint32_t n_live = p->n_claims;

	if (s->n_in == s->cap_in) {
		struct instance **in =
			reallocarray(s->in, (size_t)s->cap_in + 4, sizeof(struct instance *));

		if (!in)
			return -ENOMEM;
		s->in = in;
		s->cap_in += 4;
	}
	for (uint32_t i = 0; i < s->n_in; i++)
		n_live += s->in[i]->p->n_claims;
	if (n_live > s->cap_live) {
		struct live *live = reallocarray(s->live, n_live, sizeof(*live));

		if (!live)
			return -ENOMEM;
		s->live = live;
		s->cap_live = n_live;
	}
	if (!s->cfg.is_checked)
		return 0;
	if (shadow_grow(&s->expect, ST_ARENA_N + p->n_resources) ||
	    shadow_grow(&s->actual, ST_ARENA_N + p->n_resources))
		return -ENOMEM;
	return shadow_copy(&s->before, &s->expect);
}

int st_lanes_sim_begin(struct st_lanes_sim *s, const struct st_program *p, void *ctx)
{
	struct instance *in = NULL;
	int rc;

	sweep(s);
	rc = make_room(s, p);
	if (!rc) {
		in = instance_create(p, ctx);
		rc = in ? 0 : -ENOMEM;
	}
	if (!rc) {
		in->seq = s->next_seq;
		rc = s->cfg.is_checked ? expect_serial(s, in) : 0;
	}
	if (rc) {
		instance_destroy(in);
		return st_fail(rc, "simulated lanes: program %s", p->name);
	}
	s->next_seq++;
	s->in[s->n_in++] = in;
	return 0;
}

/* A cancelled program's claims end when nothing of it is in flight. */
static void drop_claims(struct st_lanes_sim *s, const struct instance *in)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < s->n_live; i++)
		if (s->live[i].in != in)
			s->live[kept++] = s->live[i];
	s->n_live = kept;
}

void st_lanes_sim_cancel(struct st_lanes_sim *s)
{
	struct shadow without = s->before;

	ST_ASSERT(s->n_in && !s->in[s->n_in - 1]->is_cancelled);
	s->in[s->n_in - 1]->is_cancelled = true;
	if (!s->in[s->n_in - 1]->in_flight)
		drop_claims(s, s->in[s->n_in - 1]);
	s->before = s->expect;
	s->expect = without;
}

/* ---- checks of a running operation ------------------------------------------------------- */

static bool ranges_meet(uint64_t a_lo, uint64_t a_hi, uint64_t b_lo, uint64_t b_hi)
{
	return a_lo < b_hi && b_lo < a_hi;
}

static bool uses_clash(const struct st_use *a, const struct st_use *b)
{
	return (a->is_write || b->is_write) && a->addr.arena == b->addr.arena &&
	       ranges_meet(a->addr.off_bytes, a->addr.off_bytes + a->bytes, b->addr.off_bytes,
			   b->addr.off_bytes + b->bytes);
}

static bool ops_clash(const struct job *a, const struct job *b)
{
	const struct st_program *p = a->in->p, *q = b->in->p;
	const struct st_op *x = &p->ops[a->op], *y = &q->ops[b->op];

	for (uint32_t i = x->first_use; i < x->first_use + x->n_uses; i++)
		for (uint32_t j = y->first_use; j < y->first_use + y->n_uses; j++)
			if (uses_clash(&p->uses[i], &q->uses[j]))
				return true;
	for (uint32_t i = a->in->first_touch[a->op]; i < a->in->first_touch[a->op + 1]; i++) {
		for (uint32_t j = b->in->first_touch[b->op]; j < b->in->first_touch[b->op + 1];
		     j++) {
			const struct st_touch *t = &p->touch_list[i], *u = &q->touch_list[j];

			if (t->resource == u->resource && (t->is_exclusive || u->is_exclusive) &&
			    ranges_meet(t->lo, t->hi, u->lo, u->hi))
				return true;
		}
	}
	return false;
}

static const char *job_name(const struct job *j)
{
	return st_op_name(j->in->p->ops[j->op].kind);
}

static void check_start(struct st_lanes_sim *s, const struct job *j)
{
	const struct instance *in = j->in;
	const struct st_program *p = in->p;
	const struct st_op *o = &p->ops[j->op];

	for (uint32_t i = 0; i < s->n_jobs; i++) {
		const struct job *other = &s->jobs[i];

		if (other != j && other->state == JOB_RUNNING && ops_clash(j, other))
			fault(s, ST_SIM_CONFLICT,
			      "program %u operation %u (%s) starts while %u:%u (%s) uses the same",
			      in->seq, j->op, job_name(j), other->in->seq, other->op,
			      job_name(other));
	}
	for (uint32_t k = o->first_use; k < o->first_use + o->n_uses; k++) {
		const struct st_use *u = &p->uses[k];
		const struct st_shadow *m = use_map(&s->actual, u);

		if (u->bytes && use_digest(&s->actual, u) != in->use_expect[k])
			fault(s, ST_SIM_STALE,
			      "program %u operation %u (%s) meets in arena %u [%llu+%llu) another "
			      "version"
			      " than in serial order; it begins with %#llx",
			      in->seq, j->op, job_name(j), u->addr.arena,
			      (unsigned long long)u->addr.off_bytes, (unsigned long long)u->bytes,
			      (unsigned long long)m->seg[st_shadow_find(m, u->addr.off_bytes)]
				      .value);
	}
	for (uint32_t k = in->first_touch[j->op]; k < in->first_touch[j->op + 1]; k++) {
		const struct st_touch *t = &p->touch_list[k];

		if (touch_digest(&s->actual, t) != in->touch_expect[k])
			fault(s, ST_SIM_STALE,
			      "program %u operation %u (%s) meets another version of resource %u "
			      "than in"
			      " serial order",
			      in->seq, j->op, job_name(j), t->resource);
	}
}

static void begin_claim(struct st_lanes_sim *s, struct instance *in, uint32_t claim)
{
	const struct st_claim *c = &in->p->claims[claim];
	uint64_t end = c->off_bytes + c->bytes, sum = c->bytes, size = in->p->place[c->pool].bytes;

	for (uint32_t i = 0; i < s->n_live; i++) {
		const struct st_claim *o = &s->live[i].in->p->claims[s->live[i].claim];

		if (o->pool != c->pool)
			continue;
		sum += o->bytes;
		if (ranges_meet(c->off_bytes, end, o->off_bytes, o->off_bytes + o->bytes))
			fault(s, ST_SIM_CLAIM,
			      "program %u claim %u of %s begins where %u:%u still lives", in->seq,
			      claim, st_pool_name(c->pool), s->live[i].in->seq, s->live[i].claim);
	}
	if (end > size || sum > size)
		fault(s, ST_SIM_CLAIM,
		      "program %u claim %u: %s holds %llu bytes, up to %llu; it has %llu", in->seq,
		      claim, st_pool_name(c->pool), (unsigned long long)sum,
		      (unsigned long long)end, (unsigned long long)size);
	if (end > s->stats.pool_high[c->pool])
		s->stats.pool_high[c->pool] = end;
	s->live[s->n_live++] = (struct live){ in, claim };
	in->claim_state[claim] = CLAIM_LIVE;
	if (paint_claim(&s->actual, in, claim))
		s->rc = -ENOMEM;
}

static void begin_claims(struct st_lanes_sim *s, struct instance *in, uint32_t op)
{
	const struct st_op *o = &in->p->ops[op];

	for (uint32_t k = o->first_use; k < o->first_use + o->n_uses; k++) {
		uint32_t claim = in->p->uses[k].claim;

		if (claim == ST_NO_CLAIM)
			continue;
		if (in->claim_state[claim] == CLAIM_NONE)
			begin_claim(s, in, claim);
		else if (in->claim_state[claim] == CLAIM_ENDED)
			fault(s, ST_SIM_CLAIM,
			      "program %u operation %u uses claim %u after its end", in->seq, op,
			      claim);
	}
}

static void end_claims(struct st_lanes_sim *s, struct instance *in, uint32_t op)
{
	const struct st_op *o = &in->p->ops[op];

	for (uint32_t k = o->first_use; k < o->first_use + o->n_uses; k++) {
		uint32_t claim = in->p->uses[k].claim;

		if (claim == ST_NO_CLAIM || --in->users_left[claim])
			continue;
		in->claim_state[claim] = CLAIM_ENDED;
		for (uint32_t i = 0; i < s->n_live; i++) {
			if (s->live[i].in == in && s->live[i].claim == claim) {
				s->live[i] = s->live[--s->n_live];
				break;
			}
		}
	}
}

/* ---- the clock --------------------------------------------------------------------------- */

/* What an operation takes of a path of its lane for itself; in *latency_ns what it waits beside
 * that. It moves an equal share through each of its paths. */
static int64_t cost_of(struct st_lanes_sim *s, const struct job *j, int64_t *latency_ns)
{
	const struct st_sim_lane *c = &s->cfg.lane[j->lane];
	const struct st_op *o = &j->in->p->ops[j->op];
	double cost = 0;

	*latency_ns = c->latency_ns;
	if (s->cfg.random_decades) {
		cost = pow(10, random_unit(s) * s->cfg.random_decades);
		if (c->is_fifo)
			return (int64_t)cost;
		*latency_ns += (int64_t)cost; /* at once, in any order */
		return 0;
	}
	if (c->bytes_per_s > 0)
		cost += (double)o->bytes / c->bytes_per_s;
	if (c->flops_per_s > 0)
		cost += o->flops / c->flops_per_s;
	cost *= 1e9;
	if (s->cfg.cost_ns)
		cost = (double)s->cfg.cost_ns(s->cfg.user, j->in->p, j->op);
	return (int64_t)(cost / __builtin_popcount(j->paths));
}

/* What a lane has in its pipe goes on at another speed: all of it ends sooner or later. */
static void change_speed(struct st_lanes_sim *s, unsigned l, double speed)
{
	struct lane *lane = &s->lane[l];
	int64_t now_ns = s->stats.now_ns;
	double stretch = lane->speed / speed;

	for (uint32_t i = 0; i < s->n_jobs; i++) {
		struct job *j = &s->jobs[i];
		int64_t left_ns = j->served_ns - now_ns, later_ns;

		if (j->lane != l || j->state != JOB_RUNNING || left_ns <= 0)
			continue;
		later_ns = (int64_t)((double)left_ns * stretch) - left_ns;
		j->served_ns += later_ns;
		j->end_ns += later_ns;
	}
	for (unsigned k = 0; k < ST_SIM_PATHS_MAX; k++)
		if (lane->pipe_free_ns[k] > now_ns)
			lane->pipe_free_ns[k] =
				now_ns +
				(int64_t)((double)(lane->pipe_free_ns[k] - now_ns) * stretch);
	lane->speed = speed;
}

/* When a lane has served all that it took. */
static int64_t pipe_free(const struct lane *lane)
{
	int64_t at_ns = lane->pipe_free_ns[0];

	for (unsigned k = 1; k < ST_SIM_PATHS_MAX; k++)
		if (lane->pipe_free_ns[k] > at_ns)
			at_ns = lane->pipe_free_ns[k];
	return at_ns;
}

/* Which lanes serve now, and so how fast each is. */
static void set_speeds(struct st_lanes_sim *s)
{
	uint32_t serving = 0;

	if (!s->cfg.speed)
		return;
	for (unsigned l = 0; l < ST_LANE_N; l++)
		serving |= (uint32_t)(pipe_free(&s->lane[l]) > s->stats.now_ns) << l;
	for (unsigned l = 0; l < ST_LANE_N; l++) {
		double speed = s->cfg.speed(s->cfg.user, l, serving | 1u << l);

		ST_ASSERT(speed > 0 && speed <= 1);
		if (speed != s->lane[l].speed)
			change_speed(s, l, speed);
	}
}

/* A share of an operation passes through one path of its lane. */
static void serve_share(struct st_lanes_sim *s, struct job *j, unsigned path)
{
	struct lane *lane = &s->lane[j->lane];
	int64_t latency_ns, cost_ns, now_ns = s->stats.now_ns;

	cost_ns = cost_of(s, j, &latency_ns);
	if (s->cfg.lane[j->lane].is_fifo) {
		cost_ns += latency_ns;
		latency_ns = 0;
	}
	s->stats.cost_ns[j->lane] += cost_ns;
	if (lane->pipe_free_ns[path] < now_ns)
		lane->pipe_free_ns[path] = now_ns;
	lane->pipe_free_ns[path] += (int64_t)((double)cost_ns / lane->speed);
	if (lane->pipe_free_ns[path] > j->served_ns)
		j->served_ns = lane->pipe_free_ns[path];
	if (lane->pipe_free_ns[path] + latency_ns > j->end_ns)
		j->end_ns = lane->pipe_free_ns[path] + latency_ns;
}

static bool fails(struct st_lanes_sim *s, const struct job *j)
{
	const struct st_lanes_sim_cfg *c = &s->cfg;

	s->stats.n_started++;
	if (c->fail_lanes && !(c->fail_lanes >> j->lane & 1))
		return false;
	s->n_exposed++;
	if (c->lost_paths & j->paths && c->lost_at && s->n_exposed >= c->lost_at)
		return true;
	return s->n_exposed == c->fail_nth ||
	       (c->fail_per_million && random_unit(s) * 1e6 < c->fail_per_million);
}

static void start(struct st_lanes_sim *s, struct job *j)
{
	if (s->cfg.is_checked)
		check_start(s, j);
	for (unsigned k = 0; k < ST_SIM_PATHS_MAX; k++)
		if (j->paths >> k & 1)
			serve_share(s, j, k);
	j->state = JOB_RUNNING;
	j->rc = 0;
	if (fails(s, j)) {
		j->rc = s->cfg.fail_rc ? s->cfg.fail_rc : STRATA_E_IO;
		s->stats.n_failed++;
	}
	s->lane[j->lane].n_running++;
	s->stats.n_ops[j->lane]++;
	if (s->cfg.begin)
		s->cfg.begin(s->cfg.user, j->in->p, j->op, j->in->ctx);
}

/* OP_DONE: it can start; OP_FAILED: it never will; OP_TAKEN: its lane waits. */
static enum op_state edges_of(const struct st_lanes_sim *s, const struct job *j)
{
	const struct st_program *p = j->in->p;
	const struct st_op *o = &p->ops[j->op];
	enum op_state all = OP_DONE;

	for (uint32_t d = 0; d < o->n_deps; d++) {
		uint32_t dep = p->deps[o->first_dep + d];

		if (!(s->cfg.lane[j->lane].waits_on >> p->ops[dep].lane & 1))
			continue;
		if (j->in->op_state[dep] == OP_FAILED)
			return OP_FAILED;
		if (j->in->op_state[dep] == OP_TAKEN)
			all = OP_TAKEN;
	}
	return all;
}

/* Start whatever can start now. */
static void start_ready(struct st_lanes_sim *s)
{
	bool is_changed = true;

	while (is_changed) {
		uint32_t blocked[ST_LANE_N] = { 0 }; /* paths of FIFOs that serve or wait */

		is_changed = false;
		for (uint32_t i = 0; i < s->n_jobs; i++) {
			struct job *j = &s->jobs[i];
			enum op_state edges;

			if (j->state == JOB_QUEUED && !(blocked[j->lane] & j->paths)) {
				edges = edges_of(s, j);
				if (edges == OP_DONE) {
					start(s, j);
				} else if (edges == OP_FAILED) {
					j->in->op_state[j->op] = OP_FAILED;
					j->state = JOB_ENDED;
					j->rc = STRATA_E_CANCELLED;
					j->end_ns = s->stats.now_ns;
					is_changed = true;
				}
			}
			if (s->cfg.lane[j->lane].is_fifo && j->state != JOB_ENDED)
				blocked[j->lane] |= j->paths;
		}
	}
	set_speeds(s);
}

static void end_job(struct st_lanes_sim *s, struct job *j)
{
	struct instance *in = j->in;
	struct lane *lane = &s->lane[j->lane];

	if (j->state == JOB_RUNNING) {
		lane->n_running--;
		if (s->cfg.end)
			j->rc = s->cfg.end(s->cfg.user, in->p, j->op, in->ctx, j->rc);
	}
	lane->n_jobs--;
	in->in_flight--;
	in->n_left--;
	in->op_state[j->op] = j->rc ? OP_FAILED : OP_DONE;
	if (j->rc)
		s->has_failed = true;
	if (s->cfg.is_checked) {
		if (!j->rc && paint_op(&s->actual, in, j->op))
			s->rc = -ENOMEM;
		end_claims(s, in, j->op);
	}
	if (in->is_cancelled && !in->in_flight)
		drop_claims(s, in);
}

/* ---- struct st_lanes_ops ----------------------------------------------------------------- */

static uint32_t sim_waits_on(void *priv, enum st_lane lane)
{
	const struct st_lanes_sim *s = priv;

	return s->cfg.lane[lane].waits_on;
}

static struct instance *find_instance(struct st_lanes_sim *s, const struct st_program *p,
				      const void *ctx)
{
	for (uint32_t i = s->n_in; i-- > 0;)
		if (s->in[i]->p == p && s->in[i]->ctx == ctx)
			return s->in[i];
	return NULL;
}

static void check_order(struct st_lanes_sim *s, const struct instance *in, uint32_t op)
{
	const struct st_program *p = in->p;
	const struct st_op *o = &p->ops[op];
	bool is_early = false;

	for (uint32_t d = 0; d < o->n_deps; d++) {
		uint32_t dep = p->deps[o->first_dep + d];
		uint8_t state = in->op_state[dep];

		if (!is_served(p, dep) || state == OP_DONE)
			continue;
		is_early = true;
		if (state == OP_NONE || !(s->cfg.lane[o->lane].waits_on >> p->ops[dep].lane & 1))
			fault(s, ST_SIM_ORDER,
			      "program %u operation %u is submitted before %u is done", in->seq, op,
			      dep);
	}
	s->stats.n_early += is_early;
	if (in->is_cancelled)
		fault(s, ST_SIM_ORDER,
		      "program %u operation %u is submitted after the program was cancelled",
		      in->seq, op);
	if (s->has_failed)
		fault(s, ST_SIM_AFTER_ERROR, "program %u operation %u", in->seq, op);
}

static uint32_t paths_of(const struct st_lanes_sim *s, const struct st_program *p, uint32_t op)
{
	uint32_t paths = s->cfg.paths ? s->cfg.paths(s->cfg.user, p, op) : 1;

	ST_ASSERT(!(paths >> ST_SIM_PATHS_MAX));
	return paths ? paths : 1;
}

static int sim_submit(void *priv, const struct st_program *p, uint32_t op, void *ctx,
		      uint64_t token)
{
	struct st_lanes_sim *s = priv;
	struct instance *in = find_instance(s, p, ctx);
	uint8_t lane = p->ops[op].lane;

	if (s->lane[lane].n_jobs == s->cfg.lane[lane].depth)
		return -EAGAIN;
	if (!in || in->op_state[op] != OP_NONE || lane == ST_LANE_GATE) {
		fault(s, ST_SIM_TWICE,
		      "operation %u (%s) of program %s: again, or not begun, or a gate", op,
		      st_op_name(p->ops[op].kind), p->name);
		return st_fail(-EINVAL, "simulated lanes: operation %u", op);
	}
	if (++s->stats.n_submits == s->cfg.refuse_nth) {
		s->has_failed = true;
		s->stats.n_failed++;
		return st_fail(s->cfg.fail_rc ? s->cfg.fail_rc : STRATA_E_IO,
			       "simulated lanes: operation %u (%s) refused", op,
			       st_op_name(p->ops[op].kind));
	}
	if (s->cfg.is_checked) {
		check_order(s, in, op);
		begin_claims(s, in, op);
	}
	in->op_state[op] = OP_TAKEN;
	in->in_flight++;
	s->lane[lane].n_jobs++;
	s->jobs[s->n_jobs++] = (struct job){ .in = in, .op = op, .lane = lane, .token = token };
	s->jobs[s->n_jobs - 1].paths = paths_of(s, p, op);
	start_ready(s);
	return 0;
}

static void advance(struct st_lanes_sim *s, int64_t to_ns)
{
	for (unsigned l = 0; l < ST_LANE_N; l++)
		if (s->lane[l].n_running)
			s->stats.busy_ns[l] += to_ns - s->stats.now_ns;
	s->stats.now_ns = to_ns;
}

/* The next instant at which a pipe runs empty; INT64_MAX if nobody is slowed down by that. */
static int64_t next_pause(const struct st_lanes_sim *s)
{
	int64_t at_ns = INT64_MAX;

	for (unsigned l = 0; s->cfg.speed && l < ST_LANE_N; l++)
		if (pipe_free(&s->lane[l]) > s->stats.now_ns && pipe_free(&s->lane[l]) < at_ns)
			at_ns = pipe_free(&s->lane[l]);
	return at_ns;
}

static int64_t next_end(const struct st_lanes_sim *s)
{
	int64_t end_ns = INT64_MAX;

	for (uint32_t i = 0; i < s->n_jobs; i++)
		if (s->jobs[i].state != JOB_QUEUED && s->jobs[i].end_ns < end_ns)
			end_ns = s->jobs[i].end_ns;
	return end_ns;
}

static int sim_wait(void *priv, struct st_lane_done *done, unsigned max, int64_t timeout_ns)
{
	struct st_lanes_sim *s = priv;
	int64_t end_ns = next_end(s);
	uint32_t kept = 0;
	int n = 0;

	if (s->rc)
		return st_fail(s->rc, "simulated lanes");
	if (s->cfg.wake_permille && random_unit(s) * 1e3 < s->cfg.wake_permille)
		return 0;
	for (int64_t at_ns; timeout_ns < 0 && (at_ns = next_pause(s)) < end_ns;
	     end_ns = next_end(s)) {
		advance(s, at_ns);
		set_speeds(s);
	}
	if (end_ns == INT64_MAX || (timeout_ns >= 0 && end_ns - s->stats.now_ns > timeout_ns)) {
		advance(s, s->stats.now_ns + (timeout_ns > 0 ? timeout_ns : 0));
		return 0;
	}
	advance(s, end_ns);
	for (uint32_t i = 0; i < s->n_jobs; i++) {
		struct job *j = &s->jobs[i];

		if (j->state != JOB_QUEUED && j->end_ns <= end_ns && (unsigned)n < max) {
			end_job(s, j);
			done[n++] = (struct st_lane_done){ j->token, j->rc };
		} else {
			s->jobs[kept++] = *j;
		}
	}
	s->n_jobs = kept;
	start_ready(s);
	return n;
}

static const struct st_lanes_ops sim_ops = {
	.waits_on = sim_waits_on,
	.submit = sim_submit,
	.wait = sim_wait,
};

/* ---- the end ----------------------------------------------------------------------------- */

/* Memory that claims left differs when look-ahead was cancelled, and nobody reads it. */
static bool is_lost(uint64_t expect, uint64_t actual)
{
	const uint64_t claims = VERSION_UNWRITTEN | VERSION_IN_CLAIM;

	return expect != actual && !(expect & claims) && !(expect == 0 && (actual & claims));
}

static void check_final(struct st_lanes_sim *s, uint32_t map)
{
	const struct st_shadow *e = &s->expect.maps[map], *a = &s->actual.maps[map];

	for (uint32_t i = 0, j = 0; i < e->n && j < a->n;) {
		uint64_t e_hi = i + 1 < e->n ? e->seg[i + 1].lo : UINT64_MAX;
		uint64_t a_hi = j + 1 < a->n ? a->seg[j + 1].lo : UINT64_MAX;

		if (is_lost(e->seg[i].value, a->seg[j].value)) {
			fault(s, ST_SIM_LOST,
			      "%s %u ends with version %#llx, in serial order with %#llx",
			      map < ST_ARENA_N ? "arena" : "resource",
			      map < ST_ARENA_N ? map : map - ST_ARENA_N,
			      (unsigned long long)a->seg[j].value,
			      (unsigned long long)e->seg[i].value);
			return;
		}
		i += e_hi <= a_hi;
		j += a_hi <= e_hi;
	}
}

void st_lanes_sim_finish(struct st_lanes_sim *s)
{
	if (s->has_failed)
		return;
	for (uint32_t i = 0; i < s->n_in; i++)
		if (s->in[i]->in_flight || (!s->in[i]->is_cancelled && s->in[i]->n_left))
			fault(s, ST_SIM_LOST, "program %u: %u operations did not run",
			      s->in[i]->seq, s->in[i]->n_left);
	for (uint32_t m = 0; s->cfg.is_checked && m < s->expect.n_maps; m++)
		check_final(s, m);
}
