/* SPDX-License-Identifier: Apache-2.0 */
/* tests/test_lanes.c - checksums on threads of their own, and what the lanes count. */
#include "offload/hasher.h"
#include "tests/engine_util.h"

#define JOBS  64u
#define BYTES ((size_t)64 << 10)

static struct st_aio_queue *queue;
static struct st_scratch *scratch;
static char *data; /* [JOBS][BYTES] */
static char dir[64];

static void set_up(void)
{
	struct st_aio_cfg cfg = ST_AIO_CFG_DEFAULT;
	const char *paths[1] = { dir };
	uint64_t bytes[JOBS], z = 1;

	snprintf(dir, sizeof(dir), "%s/lanes-XXXXXX", STRATA_BUILD_DIR);
	ck_assert_ptr_nonnull(mkdtemp(dir));
	for (unsigned i = 0; i < JOBS; i++)
		bytes[i] = BYTES;
	cfg.backend = "null";
	CK(st_aio_open(&queue, &cfg));
	CK(st_scratch_create(&scratch, paths, 1, NULL, bytes, JOBS));
	data = calloc(JOBS, BYTES);
	ck_assert_ptr_nonnull(data);
	for (size_t i = 0; i < JOBS * BYTES; i++) {
		z = z * 6364136223846793005u + 1442695040888963407u;
		data[i] = (char)(z >> 56);
	}
}

static void tear_down(void)
{
	st_scratch_destroy(scratch);
	ck_assert_int_eq(st_aio_close(queue), 0);
	free(data);
	ck_assert_int_eq(rmdir(dir), 0);
}

/* As the engine thread does it: hand over, sleep until woken, collect. */
static void hash_all(unsigned n_threads)
{
	static struct st_hash_job jobs[JOBS];
	bool is_done[JOBS] = { false };
	unsigned n_done = 0, last = 0;
	struct st_hasher *h = NULL;

	CK(st_hasher_create(&h, queue, NULL, scratch, n_threads));
	for (unsigned i = 0; i < JOBS; i++) {
		jobs[i] = (struct st_hash_job){ .buf = data + i * BYTES,
						.extent = i,
						.is_scratch = true };
		st_hasher_submit(h, &jobs[i]);
	}
	while (n_done < JOBS) {
		struct st_aio_req *none[1];
		struct st_hash_job *job = st_hasher_collect(h);

		if (!job)
			ck_assert_int_eq(st_aio_reap(queue, none, 1, -1), 0);
		for (; job; job = job->next) {
			unsigned i = job->extent;

			ck_assert(!is_done[i]);
			ck_assert(n_threads > 1 || i == last);
			ck_assert_uint_eq(job->checksum,
					  st_scratch_checksum(scratch, i, data + i * BYTES));
			is_done[i] = true;
			last = i + 1;
			n_done++;
		}
	}
	ck_assert_ptr_null(st_hasher_collect(h));
	ck_assert_int_gt(st_hasher_busy_ns(h), 0);
	st_hasher_destroy(h);
}

START_TEST(each_job_once_and_by_one_thread_in_order)
{
	hash_all(1);
	hash_all(3);
}
END_TEST

START_TEST(jobs_that_were_not_begun_are_dropped)
{
	static struct st_hash_job jobs[JOBS];
	struct st_hasher *h = NULL;

	for (unsigned round = 0; round < 20; round++) {
		CK(st_hasher_create(&h, queue, NULL, scratch, 1 + round % 2));
		for (unsigned i = 0; i < JOBS; i++) {
			jobs[i] = (struct st_hash_job){ .buf = data + i * BYTES,
							.extent = i,
							.is_scratch = true };
			st_hasher_submit(h, &jobs[i]);
		}
		st_hasher_destroy(h);
	}
	st_hasher_destroy(NULL);
}
END_TEST

/* Reads of the step to come are in flight when an engine is closed: they come back before what they
 * are made of goes. */
START_TEST(closed_with_reads_in_flight)
{
	struct st_aio_cfg aio = ST_AIO_CFG_DEFAULT;
	const struct tiny t = { .dtype = ST_BF16,
				.update = ST_UPDATE_IMMEDIATE,
				.param_home = ST_HOME_NVME,
				.state_home = ST_HOME_NVME,
				.n_mb = 1,
				.aio = &aio };
	struct tiny_run r;

	aio.backend = "faulty";
	aio.faulty_delay_rate = 1;
	aio.faulty_delay_ns = 20000000;
	for (unsigned i = 0; i < 3; i++) {
		tiny_open(&r, &t);
		tiny_step(&r, 1, NULL);
		tiny_close(&r);
	}
}
END_TEST

/* Between a report and the one before: no more than a step writes, and most of what it reads. */
START_TEST(bytes_are_counted_once)
{
	const struct tiny t = { .dtype = ST_BF16,
				.update = ST_UPDATE_IMMEDIATE,
				.param_home = ST_HOME_NVME,
				.state_home = ST_HOME_NVME,
				.n_mb = 1 };
	struct st_step_out out;
	struct tiny_run r;
	uint64_t written;

	tiny_open(&r, &t);
	for (uint64_t s = 1; s <= 3; s++)
		tiny_step(&r, s, &out);
	CK(st_engine_save(r.engine)); /* what was under way is over */
	st_engine_rebase(r.engine);
	tiny_step(&r, 4, &out);
	CK(st_engine_save(r.engine));
	written = out.write_bytes;
	ck_assert_uint_le(written, st_plan_write_bytes(r.plan));
	ck_assert_uint_ge(out.read_bytes, st_plan_read_bytes(r.plan) / 2);
	tiny_close(&r);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("lanes");
	TCase *t = tcase_create("lanes");
	SRunner *r;
	int failed;

	tcase_add_unchecked_fixture(t, set_up, tear_down);
	tcase_add_test(t, each_job_once_and_by_one_thread_in_order);
	tcase_add_test(t, jobs_that_were_not_begun_are_dropped);
	tcase_add_test(t, closed_with_reads_in_flight);
	tcase_add_test(t, bytes_are_counted_once);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
