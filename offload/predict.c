/* SPDX-License-Identifier: Apache-2.0 */
/* offload/predict.c - rates of operations, the simulated run, the bound. */
#include "offload/predict.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "offload/bound.h"
#include "offload/executor.h"
#include "offload/lanes_sim.h"

#define STEPS_MIN   4u
#define STEPS_MAX   12u
#define STEADY      0.002  /* two steps that differ by less take the same time */
#define QUEUE_DEPTH 64u    /* of the NVMe lanes; what is in flight hides their latency */
#define ROW_IO      8192.0 /* bytes of one window of rows, about */

/* ---- rates --------------------------------------------------------------------------------- */

/* Bytes of memory that the fused update of a parameter moves: all of it in, all but g out. */
static double update_bytes(enum st_dtype dtype)
{
	return dtype == ST_F32 ? 28 : 26;
}

static double host_share(const struct st_hardware *hw)
{
	return hw->host_bytes_per_s / hw->ranks_per_node;
}

static double updates_per_s(const struct st_predict_cfg *c)
{
	return c->hw->updates_per_s > 0 ? c->hw->updates_per_s / c->hw->ranks_per_node
					: host_share(c->hw) / update_bytes(c->dtype);
}

static double reduces_per_s(const struct st_predict_cfg *c)
{
	size_t grad = c->layout ? st_dtype_bytes(c->layout->grad_dtype) : 2;

	return c->hw->reduces_per_s > 0 ? c->hw->reduces_per_s / c->hw->ranks_per_node
					: host_share(c->hw) / (double)(4 + grad);
}

/* Products and attention, of which `backward` is a share, and the traffic of the rest. */
static double compute_s(const struct st_predict_cfg *c, double flops, double attention,
			double kernel_bytes, double backward)
{
	double product = st_hardware_product_flops(c->hw, c->dtype);
	double attend = c->hw->attention_flops > 0 ? c->hw->attention_flops : product;
	double slow = 1 - backward + backward / c->hw->backward_ratio;
	double slow_attend = 1 - backward + backward / c->hw->attention_backward_ratio;

	return (flops - attention) / product * slow + attention / attend * slow_attend +
	       kernel_bytes / c->hw->device_bytes_per_s;
}

static double forward_s(const struct st_predict_cfg *c, const struct st_op *o)
{
	const struct st_stage_desc *s = &c->model->stages[o->stage];

	return compute_s(c, o->flops, s->fwd_attention_flops, s->fwd_kernel_bytes, 0);
}

static double backward_s(const struct st_predict_cfg *c, const struct st_op *o)
{
	const struct st_stage_desc *s = &c->model->stages[o->stage];
	double zeroed = 0, share = 1;

	if (o->stage + 1 == c->model->n_stages) /* its forward is inside */
		share = o->flops > 0 ? 1 - s->fwd_flops / o->flops : 1;
	for (unsigned k = 0; k < s->n_units; k++)
		if (o->zeroes[k])
			zeroed += (double)c->model->units[s->units[k]].elems * sizeof(float);
	return compute_s(c, o->flops, s->bwd_attention_flops, s->bwd_kernel_bytes + zeroed, share);
}

static double tile_elems(const struct st_predict_cfg *c, const struct st_op *o)
{
	return c->layout && o->tile != ST_NONE ? (double)c->layout->tiles[o->tile].elems : 0;
}

/* Rows that were looked up: as many parameters as the copy of them holds. */
static double row_elems(const struct st_predict_cfg *c, const struct st_program *p,
			const struct st_op *o)
{
	for (uint32_t k = o->first_use; k < o->first_use + o->n_uses; k++)
		if (p->uses[k].role == ST_ROLE_PARAM0)
			return (double)p->uses[k].bytes / (double)st_dtype_bytes(c->dtype);
	return 0;
}

/* The device does it, with memory of its own. */
static bool is_on_gpu(const struct st_predict_cfg *c, const struct st_op *o)
{
	return o->lane == ST_LANE_COMPUTE && c->hw->device_type == ST_HW_GPU;
}

static double reduce_s(const struct st_predict_cfg *c, const struct st_op *o)
{
	double bytes = (double)o->bytes;

	if (!is_on_gpu(c, o))
		return tile_elems(c, o) / reduces_per_s(c) + bytes / c->hw->device_bytes_per_s;
	if (c->layout)
		bytes += tile_elems(c, o) * (double)(4 + st_dtype_bytes(c->layout->grad_dtype));
	return bytes / c->hw->device_bytes_per_s;
}

static double update_s(const struct st_predict_cfg *c, const struct st_op *o)
{
	if (is_on_gpu(c, o))
		return ((double)o->bytes + tile_elems(c, o) * update_bytes(c->dtype)) /
		       c->hw->device_bytes_per_s;
	if (o->tile != ST_NONE)
		return tile_elems(c, o) / updates_per_s(c);
	if (c->hw->updates_per_s > 0)
		return (double)o->bytes / (updates_per_s(c) * update_bytes(c->dtype));
	return (double)o->bytes / host_share(c->hw);
}

static double read_s(const struct st_predict_cfg *c, const struct st_op *o)
{
	double s = (double)o->bytes / st_hardware_drives(c->hw).read, ios;

	if (o->kind != ST_OP_READ_ROWS || !(c->hw->read_iops > 0))
		return s;
	ios = (double)o->bytes / ROW_IO / (c->hw->read_iops / c->hw->ranks_per_node);
	return s > ios ? s : ios;
}

static double kind_s(const struct st_predict_cfg *c, const struct st_program *p,
		     const struct st_op *o)
{
	switch ((enum st_op_kind)o->kind) {
	case ST_OP_FORWARD:
		return forward_s(c, o);
	case ST_OP_BACKWARD:
		return backward_s(c, o);
	case ST_OP_REDUCE:
		return reduce_s(c, o);
	case ST_OP_UPDATE:
		return update_s(c, o);
	case ST_OP_UPDATE_ROWS:
		return row_elems(c, p, o) / updates_per_s(c);
	case ST_OP_FILL:
	case ST_OP_EMIT:
		return tile_elems(c, o) * update_bytes(c->dtype) / host_share(c->hw);
	default:
		return 0;
	}
}

static double link_s(const struct st_op *o, double bytes_per_s)
{
	return bytes_per_s > 0 ? (double)o->bytes / bytes_per_s : 0;
}

double st_predict_op_s(const struct st_predict_cfg *c, const struct st_program *p, uint32_t i)
{
	const struct st_op *o = &p->ops[i];

	switch ((enum st_lane)o->lane) {
	case ST_LANE_READ:
		return read_s(c, o);
	case ST_LANE_WRITE:
		return (double)o->bytes / st_hardware_drives(c->hw).write;
	case ST_LANE_COMMIT:
		return c->hw->flush_ns * 1e-9;
	case ST_LANE_H2D:
		return link_s(o, c->hw->h2d_bytes_per_s);
	case ST_LANE_D2H:
		return link_s(o, c->hw->d2h_bytes_per_s);
	case ST_LANE_NETWORK:
		return link_s(o, c->hw->network_bytes_per_s);
	case ST_LANE_COMPUTE:
		return kind_s(c, p, o) + c->hw->device_latency_ns * 1e-9;
	case ST_LANE_OPTIMIZER:
		return kind_s(c, p, o);
	default:
		return 0;
	}
}

static int64_t op_ns(void *user, const struct st_program *p, uint32_t op)
{
	return (int64_t)llround(st_predict_op_s(user, p, op) * 1e9);
}

/* Speeds of reads and of writes beside each other, over those alone. */
static double beside(double mixed, double alone)
{
	return mixed < alone ? mixed / alone : 1;
}

static double lane_speed(void *user, enum st_lane lane, uint32_t serving)
{
	const struct st_predict_cfg *c = user;
	const uint32_t io = 1u << ST_LANE_READ | 1u << ST_LANE_WRITE;
	struct st_drive_rates d = st_hardware_drives(c->hw);
	double speed = 1;

	if (lane == ST_LANE_COMPUTE)
		return serving & io ? c->hw->compute_beside_io : 1;
	if (lane != ST_LANE_READ && lane != ST_LANE_WRITE)
		return 1;
	if ((serving & io) == io)
		speed = lane == ST_LANE_READ ? beside(d.mixed_read, d.read)
					     : beside(d.mixed_write, d.write);
	return serving >> ST_LANE_COMPUTE & 1 ? speed * c->hw->io_beside_compute : speed;
}

/* ---- the bound ----------------------------------------------------------------------------- */

/* What the operations of a phase take of each lane, in seconds, and the bytes they move. */
struct amount {
	double lane_s[ST_LANE_N];
	uint64_t bytes[ST_LANE_N];
};

/* The bound of so much work; what a lane loses beside another counts for as long as that other has
 * to do at all. */
static struct st_bound bound_of(const struct st_predict_cfg *c, const struct amount *a,
				double most_s)
{
	struct st_drive_rates d = st_hardware_drives(c->hw);
	double io_s = st_bound_io_s(&d, a->lane_s[ST_LANE_READ], a->lane_s[ST_LANE_WRITE]);
	double compute_s = a->lane_s[ST_LANE_COMPUTE];
	struct st_work w = {
		.io_s = io_s + (io_s > 0 ? (1 - c->hw->io_beside_compute) * compute_s : 0),
		.io_most_s = most_s,
		.read_bytes = a->bytes[ST_LANE_READ],
		.write_bytes = a->bytes[ST_LANE_WRITE],
	};

	memcpy(w.lane_s, a->lane_s, sizeof(w.lane_s));
	w.lane_s[ST_LANE_COMPUTE] += (1 - c->hw->compute_beside_io) *
				     fmin(io_s, a->lane_s[ST_LANE_READ] + a->lane_s[ST_LANE_WRITE]);
	return st_bound(&w);
}

/* out->step_s is there. */
static void add_bounds(struct st_prediction *out, const struct st_predict_cfg *c)
{
	const struct st_program *p = c->steady;
	struct amount phase[2] = { 0 }, all;
	struct st_bound bound;
	double shift, by_phase = 0;
	enum st_pool params; /* where what is read of them arrives */
	unsigned at = 0;

	for (uint32_t i = 0; i < p->n_ops; i++) {
		at |= p->ops[i].kind == ST_OP_BACKWARD;
		phase[at].lane_s[p->ops[i].lane] += st_predict_op_s(c, p, i);
		phase[at].bytes[p->ops[i].lane] += p->ops[i].bytes;
	}
	for (unsigned l = 0; l < ST_LANE_N; l++) {
		out->lane[l].work_s = all.lane_s[l] = phase[0].lane_s[l] + phase[1].lane_s[l];
		out->lane[l].bytes = all.bytes[l] = p->lane_bytes[l];
	}
	bound = bound_of(c, &all, out->step_s);
	out->bound_s = bound.s;
	out->limiting = bound.lane;
	/* Reads may run ahead into the phase before, writes behind into the next, by the pools. */
	params = p->place[ST_POOL_STAGE].bytes ? ST_POOL_STAGE : ST_POOL_PARAM;
	shift = 2.0 *
		(double)(p->place[params].bytes + p->place[ST_POOL_STATE].bytes +
			 p->place[ST_POOL_REST].bytes) /
		fmin(st_hardware_drives(c->hw).mixed_read, st_hardware_drives(c->hw).mixed_write);
	for (unsigned i = 0; i < 2; i++)
		by_phase += bound_of(c, &phase[i], 0).s;
	by_phase = fmin(by_phase - shift, out->step_s);
	out->bound_by_phase_s = fmax(by_phase, out->bound_s);
}

/* ---- the run ------------------------------------------------------------------------------- */

struct marks { /* the last operations of their kind */
	uint32_t forward, backward, report;
};

struct run { /* one step */
	const struct st_program *p;
	const struct marks *marks;
	int64_t forward_ns, backward_ns, report_ns; /* 0: not yet */
	int64_t busy_ns[ST_LANE_N];                 /* of each lane so far, when it was reported */
};

struct sim {
	struct st_predict_cfg cfg;
	struct st_lanes_sim *lanes;
	struct st_executor *x;
	struct marks first, steady;
	struct run runs[STEPS_MAX + 1];
	unsigned n_appended, n_reported;
};

static void find_marks(struct marks *m, const struct st_program *p)
{
	*m = (struct marks){ ST_NONE, ST_NONE, p->n_ops - 1 };
	for (uint32_t i = 0; i < p->n_ops; i++) {
		const struct st_op *o = &p->ops[i];

		if (o->kind == ST_OP_FORWARD && !o->is_recompute)
			m->forward = i;
		if (o->kind == ST_OP_BACKWARD || o->kind == ST_OP_REDUCE ||
		    o->kind == ST_OP_SCATTER)
			m->backward = i;
		if (o->kind == ST_OP_NORM)
			m->report = i;
	}
}

static void completed(void *user, void *ctx, const struct st_program *p, uint32_t op, int rc)
{
	struct sim *s = user;
	struct run *run = ctx;
	const struct st_sim_stats *stats = st_lanes_sim_stats(s->lanes);

	if (rc)
		return;
	if (op == run->marks->forward)
		run->forward_ns = stats->now_ns;
	if (op == run->marks->backward)
		run->backward_ns = stats->now_ns;
	if (op == run->marks->report) {
		run->report_ns = stats->now_ns;
		memcpy(run->busy_ns, stats->busy_ns, sizeof(run->busy_ns));
		s->n_reported++;
	}
}

static int append(struct sim *s)
{
	struct run *run = &s->runs[s->n_appended];
	int rc;

	run->p = s->n_appended ? s->cfg.steady : s->cfg.first;
	run->marks = s->n_appended ? &s->steady : &s->first;
	rc = st_lanes_sim_begin(s->lanes, run->p, run);
	if (!rc)
		rc = st_executor_append(s->x, run->p, run);
	s->n_appended++;
	return rc;
}

static double length_s(const struct sim *s, unsigned i)
{
	return (double)(s->runs[i].report_ns - s->runs[i - 1].report_ns) * 1e-9;
}

static bool is_steady(const struct sim *s)
{
	unsigned n = s->n_reported;

	return n == STEPS_MAX + 1 ||
	       (n > STEPS_MIN &&
		fabs(length_s(s, n - 1) - length_s(s, n - 2)) <= STEADY * length_s(s, n - 1));
}

static int run_steps(struct sim *s)
{
	unsigned n_open = 0;
	int rc = 0;

	while (rc >= 0 && !is_steady(s)) {
		while (s->n_appended <= STEPS_MAX && st_executor_has_room(s->x)) {
			rc = append(s);
			if (rc)
				return rc;
		}
		/* The caller brings the next batch when it has the loss of this one. */
		if (n_open < s->n_appended && n_open <= s->n_reported)
			st_executor_open(s->x, &s->runs[n_open++]);
		rc = st_executor_turn(s->x, -1);
		if (rc == 0 && st_executor_is_idle(s->x) && s->n_appended > STEPS_MAX)
			break;
	}
	return rc < 0 ? rc : 0;
}

static int open_sim(struct sim *s)
{
	struct st_lanes_sim_cfg lanes = {
		.cost_ns = op_ns,
		.speed = lane_speed,
		.user = &s->cfg,
	};
	struct st_executor_cfg x = { .completed = completed, .user = s };
	const uint32_t streams = 1u << ST_LANE_COMPUTE | 1u << ST_LANE_H2D | 1u << ST_LANE_D2H |
				 1u << ST_LANE_NETWORK;
	int rc;

	for (unsigned l = 0; l < ST_LANE_N; l++) {
		lanes.lane[l] = (struct st_sim_lane){ .depth = 8, .is_fifo = true };
		if (streams >> l & 1)
			lanes.lane[l].waits_on = streams;
	}
	lanes.lane[ST_LANE_READ] = lanes.lane[ST_LANE_WRITE] = (struct st_sim_lane){
		.latency_ns = (int64_t)s->cfg.hw->drive_latency_ns,
		.depth = QUEUE_DEPTH,
	};
	rc = st_lanes_sim_create(&s->lanes, &lanes);
	if (rc)
		return rc;
	x.lanes = st_lanes_sim_lanes(s->lanes);
	rc = st_executor_create(&s->x, &x);
	if (!rc)
		rc = st_executor_admit(s->x, s->cfg.first);
	if (!rc)
		rc = st_executor_admit(s->x, s->cfg.steady);
	return rc;
}

static void read_off(struct st_prediction *out, const struct sim *s)
{
	const struct run *last = &s->runs[s->n_reported - 1], *before = last - 1;

	out->n_steps = s->n_reported;
	out->step_s = length_s(s, s->n_reported - 1);
	out->forward_s = (double)(last->forward_ns - before->report_ns) * 1e-9;
	out->backward_s = (double)(last->backward_ns - last->forward_ns) * 1e-9;
	out->rest_s = (double)(last->report_ns - last->backward_ns) * 1e-9;
	for (unsigned l = 0; l < ST_LANE_N; l++) {
		out->lane[l].busy_s = (double)(last->busy_ns[l] - before->busy_ns[l]) * 1e-9;
		out->lane[l].wait_s = out->step_s - out->lane[l].busy_s;
	}
}

int st_predict(struct st_prediction *out, const struct st_predict_cfg *cfg)
{
	struct sim *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return st_fail(-ENOMEM, "prediction");
	s->cfg = *cfg;
	find_marks(&s->first, cfg->first);
	find_marks(&s->steady, cfg->steady);
	rc = open_sim(s);
	if (!rc)
		rc = run_steps(s);
	if (!rc && s->n_reported < 2)
		rc = st_fail(-EDEADLK, "prediction: the simulated steps came to no end");
	if (!rc) {
		struct st_prediction p = { 0 };

		read_off(&p, s);
		add_bounds(&p, cfg);
		*out = p;
	}
	st_executor_destroy(s->x);
	st_lanes_sim_destroy(s->lanes);
	free(s);
	return rc;
}
