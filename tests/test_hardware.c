/* SPDX-License-Identifier: Apache-2.0 */
/* tests/test_hardware.c - descriptions of machines: what is read, refused, written and kept. */
#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/hardware.h"

static const char least[] =
	"{\"name\": \"least\",\n"
	" \"device\": {\"type\": \"host\", \"fp32_tflops\": 0.5, \"memory_gbps\": 10},\n"
	" \"host\": {\"memory_gbps\": 20},\n"
	" \"drives\": {\"read_gbps\": 2, \"write_gbps\": 1}}";

static int parse(struct st_hardware *hw, const char *text)
{
	return st_hardware_parse(hw, text, strlen(text), "hw.json");
}

START_TEST(what_is_left_out_has_a_value)
{
	struct st_hardware hw;
	struct st_drive_rates d;

	ck_assert_msg(parse(&hw, least) == 0, "%s", st_last_error());
	ck_assert_str_eq(hw.name, "least");
	ck_assert_double_eq(st_hardware_ranks(&hw), 1);
	ck_assert_double_eq(hw.backward_ratio, 1);
	ck_assert_double_eq(hw.compute_beside_io, 1);
	ck_assert_double_eq(st_hardware_product_flops(&hw, ST_F32), 0.5e12);
	/* widened: the rate of fp32 */
	ck_assert_double_eq(st_hardware_product_flops(&hw, ST_BF16), 0.5e12);
	d = st_hardware_drives(&hw);
	ck_assert_double_eq(d.read, 2e9);
	ck_assert_double_eq(d.mixed_read, 1e9); /* half of the time each */
	ck_assert_double_eq(d.mixed_write, 0.5e9);
}
END_TEST

START_TEST(rates_of_drives_are_a_ranks_share)
{
	struct st_hardware hw;
	struct st_drive_rates d;

	ck_assert_msg(
		parse(&hw, "{\"name\": \"n\", \"ranks_per_node\": 4, \"nodes\": 2,"
			   "\"device\": {\"type\": \"gpu\", \"bf16_tflops\": 300, \"memory\": "
			   "\"80GB\", \"memory_gbps\": 1500},"
			   "\"host\": {\"memory_gbps\": 200, \"memory\": \"1TiB\"},"
			   "\"links\": {\"h2d_gbps\": 25, \"d2h_gbps\": 20, \"network_gbps\": 100},"
			   "\"drives\": {\"read_gbps\": 24, \"write_gbps\": 12, \"mixed_gbps\": 20,"
			   "\"mixed_read_share\": 0.6, \"capacity\": \"30TB\"}}") == 0,
		"%s", st_last_error());
	ck_assert_double_eq(st_hardware_ranks(&hw), 8);
	ck_assert_double_eq(hw.device_memory_bytes, 80e9);
	ck_assert_double_eq(hw.host_memory_bytes, 0x1p40);
	ck_assert_double_eq(st_hardware_product_flops(&hw, ST_F16), 300e12);
	ck_assert_double_eq(st_hardware_product_flops(&hw, ST_F32), 150e12);
	d = st_hardware_drives(&hw);
	ck_assert_double_eq_tol(d.read, 6e9, 1);
	ck_assert_double_eq_tol(d.mixed_read, 3e9, 1);
	ck_assert_double_eq_tol(d.mixed_write, 2e9, 1);
	hw.mixed_bytes_per_s = 0;
	hw.is_shared = false;
	d = st_hardware_drives(&hw);
	ck_assert_double_eq_tol(d.mixed_read, 6e9, 1);
	ck_assert_double_eq_tol(d.mixed_write, 3e9, 1);
}
END_TEST

/* One thing in a good description, replaced; what is said begins so. */
static const struct {
	const char *from, *to, *says;
} bad[] = {
	{ "{\"name\"", "[\"name\"", "hw.json:1:" },
	{ "\"name\"", "\"measured\": \"yesterday\", \"name\"",
	  "hw.json:1:14: measured: must be a date such as" },
	{ "\"least\"", "7", "hw.json:1:10: name: must be a text" },
	{ "\"least\"", "\"\"", "hw.json:1:10: name: is empty" },
	{ "\"name\": \"least\",\n", "\n", "hw.json: \"name\" is missing" },
	{ "\"name\"", "\"nmae\": 1, \"name\"",
	  "hw.json:1:2: unknown key \"nmae\"; the nearest known key is \"name\"" },
	{ "\"host\": {", "\"host\": 3, \"hots\": {", "hw.json:3:10: host: must be an object" },
	{ "\"host\": {\"memory_gbps\"", "\"host\": {\"memory_gps\"",
	  "hw.json:3:11: unknown key \"memory_gps\" in host; the nearest known key is "
	  "\"memory_gbps\"" },
	{ "\"type\": \"host\"", "\"type\": \"tpu\"", "hw.json:2:21: device.type: must be" },
	{ "\"type\": \"host\"", "\"type\": \"gpu\"",
	  "hw.json: \"links.h2d_gbps\" is missing, which a gpu" },
	{ "\"fp32_tflops\": 0.5", "\"fp32_tflops\": 0",
	  "hw.json:2:44: device.fp32_tflops: 0 is out of range" },
	{ "\"fp32_tflops\": 0.5", "\"fp32_tflops\": -1",
	  "hw.json:2:44: device.fp32_tflops: -1 is out of" },
	{ "\"fp32_tflops\": 0.5", "\"fp32_tflops\": \"fast\"",
	  "hw.json:2:44: device.fp32_tflops: must be a number" },
	{ "\"fp32_tflops\": 0.5, ", "", "hw.json: no rate of matrix products is given" },
	{ "{\"read_gbps\": 2", "{\"shared\": 1, \"read_gbps\": 2",
	  "hw.json:4:23: drives.shared: must be true" },
	{ "{\"read_gbps\": 2", "{\"capacity\": \"2 cows\", \"read_gbps\": 2",
	  "hw.json:4:25: drives.capacity: is no size" },
	{ "{\"read_gbps\": 2", "{\"mixed_read_share\": 1, \"read_gbps\": 2",
	  "hw.json:4:33: drives.mixed_read_share: 1 is out of range" },
	{ "{\"read_gbps\": 2", "{\"read_gbps\": 1, \"read_gbps\": 2", "hw.json:4:" },
	{ "\"least\",\n", "\"least\", \"nodes\": 1.5,\n", "nodes: must be a whole number" },
	{ "\"least\",\n", "\"least\", \"nodes\": 0,\n", "nodes: 0 is out of range" },
	{ "\"least\",\n", "\"least\", \"nodes\": 2,\n",
	  "\"links.network_gbps\" is missing, which several ranks need" },
	{ "\"least\",\n", "\"least\", \"source\": [\"a\", 2],\n",
	  "source: must be a text or a list" },
};

START_TEST(bad_input_is_named_with_its_place)
{
	const char *at = strstr(least, bad[_i].from);
	struct st_hardware hw, before;
	char text[1024];

	memset(&hw, 0x5a, sizeof(hw));
	before = hw;
	ck_assert_ptr_nonnull(at);
	snprintf(text, sizeof(text), "%.*s%s%s", (int)(at - least), least, bad[_i].to,
		 at + strlen(bad[_i].from));
	ck_assert_int_eq(parse(&hw, text), STRATA_E_CONFIG);
	ck_assert_msg(strstr(st_last_error(), bad[_i].says) != NULL, "\"%s\" has no \"%s\"",
		      st_last_error(), bad[_i].says);
	ck_assert_int_eq(memcmp(&hw, &before, sizeof(hw)), 0);
}
END_TEST

START_TEST(a_truncated_text_is_refused)
{
	struct st_hardware hw;

	for (size_t n = 0; n < strlen(least); n++)
		ck_assert_int_eq(st_hardware_parse(&hw, least, n, "hw.json"), STRATA_E_CONFIG);
}
END_TEST

static void write_text(const struct st_hardware *hw, char *text, size_t bytes)
{
	FILE *f = fmemopen(text, bytes, "w");

	ck_assert_ptr_nonnull(f);
	st_hardware_write(hw, f);
	ck_assert_int_eq(fclose(f), 0);
}

/* Every description that is shipped loads; what is written of it reads back to the same. */
START_TEST(shipped_files_load_and_survive_a_round_trip)
{
	DIR *dir = opendir(STRATA_SOURCE_DIR "/examples/hardware");
	unsigned n = 0;

	ck_assert_ptr_nonnull(dir);
	for (const struct dirent *e; (e = readdir(dir));) {
		struct st_hardware hw, again;
		char path[512], text[4096] = "", other[4096] = "";

		if (!strstr(e->d_name, ".json"))
			continue;
		snprintf(path, sizeof(path), STRATA_SOURCE_DIR "/examples/hardware/%s", e->d_name);
		ck_assert_msg(st_hardware_load(&hw, path) == 0, "%s", st_last_error());
		ck_assert_msg(hw.source[0] != '\0', "%s names no source", path);
		write_text(&hw, text, sizeof(text));
		ck_assert_msg(parse(&again, text) == 0, "%s: %s", path, st_last_error());
		write_text(&again, other, sizeof(other));
		ck_assert_str_eq(text, other);
		ck_assert_double_eq_tol(hw.read_bytes_per_s, again.read_bytes_per_s, 1);
		n++;
	}
	closedir(dir);
	ck_assert_uint_ge(n, 5);
}
END_TEST

START_TEST(the_nominal_machine_is_a_valid_one)
{
	struct st_hardware hw, again;
	char text[4096] = "";

	st_hardware_default(&hw);
	write_text(&hw, text, sizeof(text));
	ck_assert_msg(parse(&again, text) == 0, "%s", st_last_error());
	ck_assert_str_eq(again.name, "nominal");
}
END_TEST

START_TEST(descriptions_are_kept_under_their_keys)
{
	char dir[] = "/tmp/strata-test-hw.XXXXXX", path[256], key[32];
	struct st_hardware hw, got;
	struct stat st;
	FILE *f;

	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/a/b/hardware.json", dir);
	ck_assert(!st_hardware_recall(&got, path, "k"));
	ck_assert_int_eq(parse(&hw, least), 0);
	for (unsigned i = 0; i < 40; i++) {
		snprintf(key, sizeof(key), "key-%u", i);
		hw.read_iops = 1 + i;
		ck_assert_msg(st_hardware_keep(&hw, path, key) == 0, "%s", st_last_error());
	}
	ck_assert(st_hardware_recall(&got, path, "key-39") && got.read_iops == 40);
	ck_assert(st_hardware_recall(&got, path, "key-20") && got.read_iops == 21);
	ck_assert(!st_hardware_recall(&got, path, "key-0")); /* the oldest make room */
	ck_assert(!st_hardware_recall(&got, path, "key-40"));
	ck_assert_int_eq(st_hardware_keep(&hw, path, "key-39"), 0);
	ck_assert(st_hardware_recall(&got, path, "key-38"));

	/* Something else in its place is not read, and replaced. */
	f = fopen(path, "w");
	ck_assert_ptr_nonnull(f);
	fputs("{\"key-1\": {\"name\": 3}, \"broken\"", f);
	ck_assert_int_eq(fclose(f), 0);
	ck_assert(!st_hardware_recall(&got, path, "key-1"));
	ck_assert_int_eq(st_hardware_keep(&hw, path, "key-1"), 0);
	ck_assert(st_hardware_recall(&got, path, "key-1"));
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 0777, 0600);

	ck_assert_int_eq(unlink(path), 0);
	snprintf(path, sizeof(path), "%s/a/b", dir);
	ck_assert_int_eq(rmdir(path), 0); /* no temporary file is left */
	snprintf(path, sizeof(path), "%s/a", dir);
	ck_assert_int_eq(rmdir(path), 0);
	ck_assert_int_eq(rmdir(dir), 0);
}
END_TEST

START_TEST(old_and_busy_measurements_are_doubted)
{
	static const double day = 86400, now = 1.79e9; /* September 2026 */
	char when[64], *text = NULL;
	struct st_hardware hw, back;
	size_t n = 0;
	FILE *f;

	st_hardware_default(&hw);
	ck_assert_str_eq(st_hardware_doubt(&hw, now), "when it was made is not known");
	ck_assert_str_eq(st_hardware_when(&hw, when), "");
	hw.measured_s = now - 29 * day;
	ck_assert_ptr_null(st_hardware_doubt(&hw, now));
	ck_assert_str_eq(st_hardware_doubt(&hw, now + 2 * day), "it is older than 30 days");
	ck_assert_str_eq(st_hardware_doubt(&hw, now - 31 * day), "it is dated in the future");
	hw.busy = 1.5;
	ck_assert_ptr_null(st_hardware_doubt(&hw, now));
	hw.busy = 1.6;
	ck_assert_str_eq(st_hardware_doubt(&hw, now), "the machine was busy then");
	snprintf(hw.nominal, sizeof(hw.nominal), "no \"drive\"");
	ck_assert_str_eq(st_hardware_when(&hw, when), "2026-08-23 14:13 UTC, load 1.6 a processor");

	/* It survives being written down. */
	f = open_memstream(&text, &n);
	ck_assert_ptr_nonnull(f);
	st_hardware_write(&hw, f);
	fclose(f);
	ck_assert_ptr_nonnull(strstr(text, "\"measured\": \"2026-08-23T14:13:20Z\""));
	ck_assert_msg(st_hardware_parse(&back, text, n, "hw.json") == 0, "%s", st_last_error());
	ck_assert_double_eq(back.measured_s, hw.measured_s);
	ck_assert_double_eq(back.busy, 1.6);
	ck_assert_str_eq(back.nominal, "no \"drive\"");
	free(text);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("hardware");
	TCase *tc = tcase_create("all");
	SRunner *sr;
	int failed;

	tcase_add_test(tc, what_is_left_out_has_a_value);
	tcase_add_test(tc, rates_of_drives_are_a_ranks_share);
	tcase_add_loop_test(tc, bad_input_is_named_with_its_place, 0, sizeof(bad) / sizeof(bad[0]));
	tcase_add_test(tc, a_truncated_text_is_refused);
	tcase_add_test(tc, shipped_files_load_and_survive_a_round_trip);
	tcase_add_test(tc, the_nominal_machine_is_a_valid_one);
	tcase_add_test(tc, descriptions_are_kept_under_their_keys);
	tcase_add_test(tc, old_and_busy_measurements_are_doubted);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? 1 : 0;
}
