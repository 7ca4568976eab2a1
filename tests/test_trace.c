/* SPDX-License-Identifier: Apache-2.0 */
/* tests/test_trace.c - traces are what viewers read: whole or cut off, of events or of an engine.
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "core/clock.h"
#include "core/trace.h"
#include "tests/engine_util.h"

static char dir[64], path[96];

static void set_up(void)
{
	snprintf(dir, sizeof(dir), "%s/trace-XXXXXX", STRATA_BUILD_DIR);
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/t.json", dir);
}

static void tear_down(void)
{
	unlink(path);
	ck_assert_int_eq(rmdir(dir), 0);
}

/* ---- the format's rules -------------------------------------------------------------------- */

static char *read_file(size_t *n)
{
	FILE *f = fopen(path, "r");
	char *text = calloc(1, (size_t)32 << 20);

	ck_assert(f && text);
	*n = fread(text, 1, ((size_t)32 << 20) - 8, f);
	fclose(f);
	return text;
}

/* @param is_cut  in, the end is missing, which readers tolerate: SIGKILL may cut a write anywhere
 */
static json_t *parse(bool is_cut)
{
	size_t n;
	char *text = read_file(&n);
	json_error_t error;
	json_t *a;

	ck_assert_int_eq(text[0], '[');
	ck_assert_int_eq(memcmp(text + n - 2, "]\n", 2) != 0, is_cut);
	if (is_cut) {
		char *end = text + n;

		while (end > text && memcmp(end, ",\n", 2) != 0)
			end--;
		memcpy(end, "]", 2);
	}
	a = json_loads(text, 0, &error);
	ck_assert_msg(a != NULL, "line %d: %s", error.line, error.text);
	free(text);
	ck_assert(json_is_array(a));
	return a;
}

static double number(const json_t *e, const char *key)
{
	const json_t *v = json_object_get(e, key);

	ck_assert_msg(json_is_number(v), "%s is no number", key);
	return json_number_value(v);
}

static const char *text_of(const json_t *e, const char *key)
{
	const char *s = json_string_value(json_object_get(e, key));

	ck_assert_msg(s != NULL, "%s is no text", key);
	return s;
}

struct span {
	double begin, end;
	int tid;
};

static int by_begin(const void *a, const void *b)
{
	const struct span *x = a, *y = b;

	return x->tid != y->tid ? (x->tid > y->tid) - (x->tid < y->tid)
				: (x->begin > y->begin) - (x->begin < y->begin);
}

/* Each event has what its phase needs; slices of a row follow one another. */
static void check_rules(json_t *a)
{
	struct span *spans = calloc(json_array_size(a), sizeof(*spans));
	size_t i, n = 0;
	json_t *e;

	ck_assert_ptr_nonnull(spans);
	json_array_foreach(a, i, e)
	{
		char ph = text_of(e, "ph")[0];

		ck_assert_ptr_nonnull(strchr("MXCsf", ph));
		ck_assert_double_eq(number(e, "pid"), 1);
		(void)text_of(e, "name");
		(void)number(e, "tid");
		if (ph == 'M') {
			ck_assert(json_is_object(json_object_get(e, "args")));
			continue;
		}
		(void)text_of(e, "cat");
		(void)number(e, "ts");
		if (ph == 'X')
			spans[n++] =
				(struct span){ number(e, "ts"), number(e, "ts") + number(e, "dur"),
					       (int)number(e, "tid") };
		if (ph == 's' || ph == 'f')
			ck_assert_int_eq(strncmp(text_of(e, "id"), "0x", 2), 0);
		if (ph == 'f')
			ck_assert_str_eq(text_of(e, "bp"), "e");
		if (ph == 'C') {
			const char *key;
			json_t *v;

			json_object_foreach(json_object_get(e, "args"), key, v)
				ck_assert_msg(json_number_value(v) >= 0, "%s is below 0", key);
		}
	}
	qsort(spans, n, sizeof(*spans), by_begin);
	for (i = 0; i < n; i++) {
		ck_assert_double_gt(spans[i].end, spans[i].begin);
		if (i && spans[i].tid == spans[i - 1].tid)
			ck_assert_double_ge(spans[i].begin, spans[i - 1].end - 1e-4);
	}
	free(spans);
}

static bool is_text(const json_t *e, const char *key, const char *value)
{
	const char *s = json_string_value(json_object_get(e, key));

	return s && !strcmp(s, value);
}

static size_t count(json_t *a, const char *key, const char *value)
{
	size_t i, n = 0;
	json_t *e;

	json_array_foreach(a, i, e) n += is_text(e, key, value);
	return n;
}

/* ---- events -------------------------------------------------------------------------------- */

static struct st_trace_event slice(unsigned row, int64_t begin_ns, int64_t end_ns)
{
	return (struct st_trace_event){
		.kind = ST_TRACE_SLICE,
		.row = row,
		.name = "a \"name\"\n\\ \xff",
		.category = "test",
		.begin_ns = begin_ns,
		.end_ns = end_ns,
	};
}

struct putter {
	struct st_trace *t;
	unsigned row;
	uint32_t n;
};

static void *put_many(void *arg)
{
	const struct putter *p = arg;

	for (uint32_t i = 0; i < p->n; i++) {
		int64_t now = st_now_ns();
		struct st_trace_event e = slice(p->row, now - 1000, now), c = slice(0, now, now);

		st_trace_uint(&e, "i", (uint64_t)INT64_MAX - i);
		st_trace_real(&e, "x", i ? 1.0 / i : INFINITY);
		st_trace_text(&e, "t", "</script>");
		st_trace_put(p->t, &e);
		c.kind = ST_TRACE_COUNTER;
		st_trace_uint(&c, "n", i);
		st_trace_put(p->t, &c);
	}
	return NULL;
}

START_TEST(events_of_several_threads)
{
	struct putter p[3];
	pthread_t thread[3];
	struct st_trace *t;
	json_t *a;

	CK(st_trace_open(&t, path, "test"));
	for (unsigned i = 0; i < 3; i++) {
		st_trace_row(t, i, "row");
		p[i] = (struct putter){ t, i, 500 };
		ck_assert_int_eq(pthread_create(&thread[i], NULL, put_many, &p[i]), 0);
	}
	for (unsigned i = 0; i < 3; i++)
		pthread_join(thread[i], NULL);
	CK(st_trace_close(t, false));
	a = parse(false);
	check_rules(a);
	ck_assert_uint_eq(count(a, "ph", "X"), 1500);
	ck_assert_uint_eq(count(a, "ph", "C"), 1500);
	ck_assert_uint_eq(count(a, "name", "thread_name"), 3);
	ck_assert_uint_eq(count(a, "name", "a \"name\"?\\ ?"), 3000);
	json_decref(a);
}
END_TEST

/* Killed at any time: what was written is whole events. */
START_TEST(a_killed_process_leaves_a_trace)
{
	json_t *a;
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (!pid) {
		struct st_trace *t;

		if (st_trace_open(&t, path, "test"))
			_exit(1);
		for (uint64_t i = 0;; i++) {
			int64_t now = st_now_ns();
			struct st_trace_event e = slice(0, now - 1, now);

			st_trace_put(t, &e);
			if (i % 50 == 0)
				usleep(1000);
		}
	}
	usleep(450000);
	ck_assert_int_eq(kill(pid, SIGKILL), 0);
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
	a = parse(true);
	check_rules(a);
	ck_assert_uint_gt(count(a, "ph", "X"), 100);
	json_decref(a);
}
END_TEST

static void *drain(void *arg)
{
	char buf[4096];
	size_t total = 0;
	ssize_t n;

	while ((n = read(*(int *)arg, buf, sizeof(buf))) > 0)
		total += (size_t)n;
	return (void *)total;
}

/* Nobody reads: memory is bounded, what does not fit is counted, and nobody waits. */
START_TEST(events_that_nobody_takes_are_dropped)
{
	int fd, flags;
	struct st_trace *t;
	pthread_t reader;
	int64_t begin_ns;
	void *total;

	ck_assert_int_eq(mkfifo(path, 0600), 0);
	fd = open(path, O_RDONLY | O_NONBLOCK);
	ck_assert_int_ge(fd, 0);
	flags = fcntl(fd, F_GETFL);
	ck_assert_int_eq(fcntl(fd, F_SETFL, flags & ~O_NONBLOCK), 0);
	CK(st_trace_open(&t, path, "test"));
	begin_ns = st_now_ns();
	for (unsigned i = 0; i < 60000; i++) {
		struct st_trace_event e = slice(0, st_now_ns(), st_now_ns());

		st_trace_put(t, &e);
	}
	ck_assert_int_lt(st_now_ns() - begin_ns, 20000000000);
	ck_assert_int_eq(pthread_create(&reader, NULL, drain, &fd), 0);
	CK(st_trace_close(t, false));
	pthread_join(reader, &total);
	close(fd);
	ck_assert_uint_gt((size_t)total, 1 << 20);
	ck_assert_uint_lt((size_t)total, (size_t)60000 * 100); /* each takes more than 100 bytes */
}
END_TEST

START_TEST(a_full_disk_ends_the_trace_only)
{
	const struct rlimit small = { 65536, RLIM_INFINITY };
	struct rlimit old;
	struct st_trace *t;

	ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
	signal(SIGXFSZ, SIG_IGN);
	CK(st_trace_open(&t, path, "test"));
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
	put_many(&(struct putter){ t, 0, 3000 });
	ck_assert_int_eq(st_trace_close(t, false), -EFBIG);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &old), 0);
	ck_assert_ptr_nonnull(strstr(st_last_error(), path));
}
END_TEST

START_TEST(nobodys_file_is_written_over)
{
	static const char theirs[] = "[1, 2, 3, \"a list of somebody, longer than the head of a "
				     "trace is, which is about eighty bytes or so\"]\n";
	struct st_trace *t = NULL;
	FILE *f = fopen(path, "w");
	size_t n;
	char *text;

	ck_assert_ptr_nonnull(f);
	fputs(theirs, f);
	fclose(f);
	ck_assert_int_eq(st_trace_open(&t, path, "test"), STRATA_E_INPUT);
	ck_assert_ptr_nonnull(strstr(st_last_error(), "is no trace"));
	text = read_file(&n);
	ck_assert_str_eq(text, theirs);
	free(text);
	ck_assert_int_eq(truncate(path, 0), 0);
	CK(st_trace_open(&t, path, "test")); /* empty: nobody's */
	CK(st_trace_close(t, true));         /* was there before: stays */
	CK(st_trace_open(&t, path, "test")); /* a trace: replaced */
	CK(st_trace_close(t, false));
	ck_assert_int_eq(unlink(path), 0);
	CK(st_trace_open(&t, path, "test"));
	CK(st_trace_close(t, true));
	ck_assert_int_ne(access(path, F_OK), 0);
	ck_assert_int_eq(st_trace_open(&t, dir, "test"), STRATA_E_INPUT);
}
END_TEST

/* ---- an engine ----------------------------------------------------------------------------- */

static size_t ops_on(const struct st_program *p, enum st_lane lane)
{
	size_t n = 0;

	for (uint32_t i = 0; i < p->n_ops; i++)
		n += p->ops[i].lane == lane;
	return n;
}

static size_t slices_of(json_t *a, uint64_t step, const char *lane)
{
	size_t i, n = 0;
	json_t *e;

	json_array_foreach(a, i, e)
	{
		json_t *s = json_object_get(json_object_get(e, "args"), "step");

		n += is_text(e, "ph", "X") && is_text(e, "cat", lane) &&
		     (uint64_t)json_integer_value(s) == step;
	}
	return n;
}

struct flow {
	unsigned long long id;
	double out, in;
};

static int by_id(const void *a, const void *b)
{
	const struct flow *x = a, *y = b;

	return (x->id > y->id) - (x->id < y->id);
}

/* Each arrow that ends has begun, once, before it ends. @return how many there are */
static size_t check_flows(json_t *a)
{
	struct flow *flows = calloc(json_array_size(a) + 1, sizeof(*flows));
	size_t i, n = 0, n_in = 0;
	json_t *e;

	ck_assert_ptr_nonnull(flows);
	json_array_foreach(a, i, e) if (text_of(e, "ph")[0] == 's') flows[n++] =
		(struct flow){ strtoull(text_of(e, "id"), NULL, 16), number(e, "ts"), NAN };
	qsort(flows, n, sizeof(*flows), by_id);
	for (i = 1; i < n; i++)
		ck_assert(flows[i].id != flows[i - 1].id);
	json_array_foreach(a, i, e)
	{
		struct flow key, *f;

		if (text_of(e, "ph")[0] != 'f')
			continue;
		key.id = strtoull(text_of(e, "id"), NULL, 16);
		f = bsearch(&key, flows, n, sizeof(*flows), by_id);
		ck_assert_ptr_nonnull(f);
		ck_assert(isnan(f->in));
		f->in = number(e, "ts");
		/* The read ended on one thread, its user began on another: in the trace the row of
		 * reads may be a little late, as its slices follow one another. */
		ck_assert_double_gt(f->in + 5000, f->out);
		n_in++;
	}
	free(flows);
	return n_in;
}

START_TEST(an_engine_shows_each_operation)
{
	struct tiny t = { .dtype = ST_BF16,
			  .update = ST_UPDATE_DEFERRED,
			  .param_home = ST_HOME_NVME,
			  .state_home = ST_HOME_NVME,
			  .spills = true,
			  .commits = true,
			  .clip = 1,
			  .n_mb = 2 };
	static const enum st_lane lanes[] = { ST_LANE_READ, ST_LANE_WRITE, ST_LANE_COMPUTE };
	size_t n_ops[ST_ARRAY_LEN(lanes)];
	struct st_step_out out;
	struct tiny_run r;
	json_t *a;

	CK(st_trace_open(&t.trace, path, "test"));
	tiny_in_memory = true;
	tiny_open(&r, &t);
	for (uint64_t s = 1; s <= 3; s++) {
		const struct st_step_lanes *l = &out.lanes;

		tiny_step(&r, s, &out);
		ck_assert_int_gt(l->bound_ns, 0);
		ck_assert_int_ge(l->bound_ns, l->compute_ns);
		ck_assert_int_ge(l->bound_ns, l->nvme_ns);
		ck_assert_int_ge(l->bound_ns, l->checksum_ns);
		ck_assert_int_le(l->nvme_ns, out.wall_ns + out.wall_ns / 50 + 1000000);
		ck_assert_int_le(l->compute_ns, out.wall_ns + out.wall_ns / 50 + 20000000);
		ck_assert_int_le(l->forward_ns + l->backward_ns + l->reduce_ns + l->update_ns,
				 l->compute_ns);
		ck_assert(!strcmp(l->limiting, "compute") || !strcmp(l->limiting, "checksum") ||
			  !strncmp(l->limiting, "nvme-", 5));
		ck_assert_double_gt(l->loaded_bytes_per_s, 0);
	}
	CK(st_engine_save(r.engine));
	for (unsigned l = 0; l < ST_ARRAY_LEN(lanes); l++)
		n_ops[l] = ops_on(st_plan_steady(r.plan), lanes[l]);
	tiny_close(&r);
	CK(st_trace_close(t.trace, false));
	a = parse(false);
	check_rules(a);
	for (unsigned l = 0; l < ST_ARRAY_LEN(lanes); l++)
		ck_assert_uint_eq(slices_of(a, 2, st_lane_name(lanes[l])), n_ops[l]);
	ck_assert_uint_eq(slices_of(a, 2, "step"), 1);
	ck_assert_uint_ge(slices_of(a, 2, "commit"), 1);
	ck_assert_uint_gt(count(a, "cat", "checksum"), 10);
	ck_assert_uint_gt(count(a, "name", "host bytes"), 10);
	ck_assert_uint_gt(count(a, "name", "GB/s"), 0);
	ck_assert_uint_gt(check_flows(a), 20);
	json_decref(a);
}
END_TEST

/* What a step's slice says of itself; NaN: nothing. */
static double step_arg(json_t *a, double step, const char *key)
{
	size_t i;
	json_t *e;

	json_array_foreach(a, i, e)
	{
		json_t *args = json_object_get(e, "args");
		json_t *v = json_object_get(args, key);

		if (is_text(e, "cat", "step") &&
		    json_number_value(json_object_get(args, "step")) == step)
			return json_is_number(v) ? json_number_value(v) : NAN;
	}
	return NAN;
}

/* A device with memory of its own has three lanes more, and a step reports them. */
START_TEST(a_separate_device_shows_its_lanes)
{
	struct tiny t = { .dtype = ST_BF16,
			  .update = ST_UPDATE_IMMEDIATE,
			  .param_home = ST_HOME_HOST,
			  .state_home = ST_HOME_HOST,
			  .is_separate = true };
	static const enum st_lane lanes[] = { ST_LANE_H2D, ST_LANE_D2H, ST_LANE_OPTIMIZER };
	static const char *const keys[] = { "h2d_s", "d2h_s", "optimizer_s" };
	size_t n_ops[ST_ARRAY_LEN(lanes)];
	int64_t busy_ns[ST_ARRAY_LEN(lanes)];
	struct st_step_out out;
	struct tiny_run r;
	json_t *a;

	CK(st_trace_open(&t.trace, path, "test"));
	tiny_open(&r, &t);
	tiny_step(&r, 1, NULL);
	tiny_step(&r, 2, &out);
	busy_ns[0] = out.lanes.h2d_ns;
	busy_ns[1] = out.lanes.d2h_ns;
	busy_ns[2] = out.lanes.optimizer_ns;
	for (unsigned l = 0; l < ST_ARRAY_LEN(lanes); l++) {
		n_ops[l] = ops_on(st_plan_steady(r.plan), lanes[l]);
		ck_assert_uint_gt(n_ops[l], 0);
		ck_assert_int_gt(busy_ns[l], 0);
		ck_assert_int_ge(out.lanes.bound_ns, busy_ns[l]);
	}
	ck_assert_int_le(out.lanes.update_ns, out.lanes.compute_ns + out.lanes.optimizer_ns);
	tiny_close(&r);
	CK(st_trace_close(t.trace, false));
	a = parse(false);
	check_rules(a);
	for (unsigned l = 0; l < ST_ARRAY_LEN(lanes); l++) {
		ck_assert_uint_eq(slices_of(a, 2, st_lane_name(lanes[l])), n_ops[l]);
		ck_assert_double_eq_tol(step_arg(a, 2, keys[l]), (double)busy_ns[l] * 1e-9,
					(double)busy_ns[l] * 1e-14);
	}
	ck_assert_double_gt(step_arg(a, 2, "compute_s"), 0);
	json_decref(a);
}
END_TEST

/* Off, an engine computes the same; on, it does too. */
START_TEST(a_trace_changes_no_bit)
{
	struct tiny t = { .dtype = ST_BF16,
			  .update = ST_UPDATE_IMMEDIATE,
			  .param_home = ST_HOME_NVME,
			  .state_home = ST_HOME_NVME,
			  .n_mb = 1 };
	uint64_t hash[2];

	for (unsigned i = 0; i < 2; i++) {
		struct tiny_run r;

		if (i)
			CK(st_trace_open(&t.trace, path, "test"));
		tiny_open(&r, &t);
		tiny_step(&r, 1, NULL);
		tiny_step(&r, 2, NULL);
		hash[i] = tiny_hash(&r);
		tiny_close(&r);
	}
	CK(st_trace_close(t.trace, false));
	ck_assert_uint_eq(hash[0], hash[1]);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("trace");
	TCase *t = tcase_create("trace");
	SRunner *r;
	int failed;

	tcase_add_checked_fixture(t, set_up, tear_down);
	tcase_add_test(t, events_of_several_threads);
	tcase_add_test(t, a_killed_process_leaves_a_trace);
	tcase_add_test(t, events_that_nobody_takes_are_dropped);
	tcase_add_test(t, a_full_disk_ends_the_trace_only);
	tcase_add_test(t, nobodys_file_is_written_over);
	tcase_add_test(t, an_engine_shows_each_operation);
	tcase_add_test(t, a_separate_device_shows_its_lanes);
	tcase_add_test(t, a_trace_changes_no_bit);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
