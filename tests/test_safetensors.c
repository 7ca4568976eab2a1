/* SPDX-License-Identifier: Apache-2.0 */
/* tests/test_safetensors.c - safetensors read, written, refused; config.json of GPT-2. */
#include <check.h>
#include <dirent.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "model/file.h"
#include "model/hf.h"
#include "tests/fuzz_safetensors.c"
#include "tests/sanitizer.h"

#define SEEDS STRATA_SOURCE_DIR "/tests/corpus/safetensors"

static char dir[64];
static unsigned fds_before;

static const char *at(const char *name)
{
	static char paths[4][256];
	static unsigned turn;
	char *p = paths[turn++ % 4];

	snprintf(p, sizeof(paths[0]), "%s/%s", dir, name);
	return p;
}

static void put(const char *name, const void *data, size_t size)
{
	int fd = open(at(name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, data, size), (ssize_t)size);
	close(fd);
}

/* A whole safetensors file: length, header, data_bytes bytes of data (0, 1, 2, ...). */
static void put_st(const char *name, const char *header, size_t data_bytes)
{
	static unsigned char buf[4096];
	uint64_t len = strlen(header);

	ck_assert_uint_le(8 + len + data_bytes, sizeof(buf));
	memcpy(buf, &len, 8);
	memcpy(buf + 8, header, len);
	for (size_t i = 0; i < data_bytes; i++)
		buf[8 + len + i] = (unsigned char)i;
	put(name, buf, 8 + len + data_bytes);
}

static unsigned count_files(const char *path)
{
	DIR *d = opendir(path);
	unsigned n = 0;

	ck_assert_ptr_nonnull(d);
	for (const struct dirent *e; (e = readdir(d));)
		n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
	closedir(d);
	return n;
}

static void remove_dir(const char *path)
{
	DIR *d = opendir(path);

	ck_assert_ptr_nonnull(d);
	for (const struct dirent *e; (e = readdir(d));)
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
			ck_assert_int_eq(unlinkat(dirfd(d), e->d_name, 0), 0);
	closedir(d);
	ck_assert_int_eq(rmdir(path), 0);
}

static void setup(void)
{
	snprintf(dir, sizeof(dir), "/tmp/test-st-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	fds_before = count_files("/proc/self/fd");
}

static void teardown(void)
{
	remove_dir(dir);
	ck_assert_uint_eq(count_files("/proc/self/fd"), fds_before);
}

/* Opening must fail with rc and one line that holds the file's name and `part`. */
static void refused(const char *name, int rc, const char *part)
{
	struct st_safetensors *s = (void *)&dir;
	int got = st_safetensors_open(&s, at(name));

	ck_assert_msg(got == rc, "%s: code %d, not %d: %s", name, got, rc, st_last_error());
	ck_assert_msg(strstr(st_last_error(), part), "\"%s\" is not in: %s", part, st_last_error());
	ck_assert_msg(strstr(st_last_error(), name), "\"%s\" is not in: %s", name, st_last_error());
	for (const char *p = st_last_error(); *p; p++)
		ck_assert_msg((unsigned char)*p >= 0x20, "control byte in: %s", st_last_error());
	ck_assert_uint_lt(strlen(st_last_error()), 470);
	ck_assert_ptr_eq(s, &dir);
}

#define F32_2(name, b, e)                                                                          \
	"\"" name "\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[" b "," e "]}"

static const struct {
	const char *header;
	size_t data_bytes;
	const char *part;
} corrupt[] = {
	{ "{" F32_2("a", "0", "8"), 8, "',' or '}' expected" },
	{ "{" F32_2("a", "0", "8") ",}", 8, "a name in quotes expected" },
	{ "{" F32_2("a", "0", "8") "} x", 8, "text after the end" },
	{ " {" F32_2("a", "0", "8") "}", 8, "byte 8: '{' expected" },
	{ "[]", 0, "'{' expected" },
	{ "", 0, "'{' expected" },
	{ "{\"a", 0, "byte 9: this string does not end" },
	{ "{\"a\":{\"dtype\":", 0, "this value does not end" },
	{ "{\"a\":}", 0, "a value expected" },
	{ "{\"a\" 1}", 0, "':' expected" },
	{ "{\"a\":{\"dtype\" \"F32\"}}", 0, "not valid JSON" },
	{ "{\"a\":{\"dtype\":\"F32\"]}", 0, "not valid JSON" },
	{ "{\"\xff\":{}}", 0, "not valid JSON" },
	{ "{\"a\\u0000\":{}}", 0, "not valid JSON" },
	{ "{\"a\":[[[[]]]]}", 0, "nested too deeply" },
	{ "{\"a\":[]}", 0, "\"a\": its description is not an object" },
	{ "{\"a\":{}}", 0, "\"dtype\" is missing" },
	{ "{\"a\":{\"dtype\":\"F33\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
	  "unknown dtype \"F33\"" },
	{ "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, "\"shape\" is missing" },
	{ "{\"a\":{\"dtype\":\"F32\",\"shape\":2,\"data_offsets\":[0,8]}}", 8,
	  "\"shape\" is missing" },
	{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8,
	  "a dimension is not" },
	{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-0,8]}}", 8, "-0 is not" },
	{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]}}", 8,
	  "a dimension is not" },
	{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,2],\"data_offsets\":[0,8]}}", 8,
	  "9 dimensions" },
	{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,8]}}", 8,
	  "product of the dimensions overflows" },
	{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[9223372036854775807],\"data_offsets\":[0,8]}}", 8,
	  "its size overflows" },
	{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[9223372036854775808],\"data_offsets\":[0,8]}}", 8,
	  "not valid JSON" },
	{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "\"data_offsets\" is not two" },
	{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,8]}}", 8,
	  "\"data_offsets\" is not two" },
	{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}}", 8,
	  "\"data_offsets\" is not two" },
	{ "{" F32_2("a", "8", "0") "}", 8, "not within the 8 bytes" },
	{ "{" F32_2("a", "0", "8") "}", 7, "not within the 7 bytes of data; the file is cut" },
	{ "{" F32_2("a", "0", "4") "}", 8, "hold 4 bytes, shape and dtype F32 need 8" },
	{ "{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}}", 1,
	  "whole number of bytes" },
	{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"x\":1}}", 8,
	  "unknown field" },
	{ "{" F32_2("a", "4", "12") "}", 12,
	  "\"a\": starts at data byte 4; there is a hole from byte 0" },
	{ "{" F32_2("a", "0", "8") "," F32_2("b", "12", "20") "}", 20,
	  "there is a hole from byte 8" },
	{ "{" F32_2("a", "0", "8") "," F32_2("b", "4", "12") "}", 12, "it overlaps" },
	{ "{" F32_2("a", "0", "8") "," F32_2("b", "0", "8") "}", 8, "it overlaps" },
	{ "{" F32_2("a", "0", "8") "}", 9, "9 bytes of data, of which tensors describe 8" },
	{ "{}", 1, "1 bytes of data, of which tensors describe 0" },
	{ "{" F32_2("a", "0", "8") "," F32_2("a", "0", "8") "}", 8, "\"a\" is described twice" },
	{ "{" F32_2("a", "0", "8") "," F32_2("\\u0061", "8", "16") "}", 16, "is described twice" },
	{ "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4],\"dtype\":\"F32\"}}", 4,
	  "duplicate object key" },
	{ "{\"__metadata__\":{\"a\":1}}", 0, "__metadata__: \"a\" is not a string" },
	{ "{\"__metadata__\":[]}", 0, "__metadata__ is not an object" },
	{ "{\"__metadata__\":{},\"__metadata__\":{}}", 0, "__metadata__ stands twice" },
	{ "{\"__metadata__\":{\"a\":\"\",\"a\":\"\"}}", 0, "duplicate object key" },
	{ "{\"a\\n\\u001b[31m\\u009b\":{}}", 0, "\"a\\x0a\\x1b[31m\\xc2\\x9b\"" },
};

START_TEST(corrupt_headers_are_refused)
{
	for (size_t i = 0; i < ST_ARRAY_LEN(corrupt); i++) {
		put_st("bad.safetensors", corrupt[i].header, corrupt[i].data_bytes);
		refused("bad.safetensors", STRATA_E_INPUT, corrupt[i].part);
	}
}
END_TEST

START_TEST(corrupt_lengths_are_refused)
{
	static const char nul[] =
		"\x38\0\0\0\0\0\0\0"
		"{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0\0,0]}}  ";

	put("nul.safetensors", nul, sizeof(nul) - 1);
	refused("nul.safetensors", STRATA_E_INPUT, "a NUL byte");
	put("len.safetensors", "", 0);
	refused("len.safetensors", STRATA_E_INPUT, "0 bytes are too few");
	put("len.safetensors", "\2\0\0\0\0\0\0", 7);
	refused("len.safetensors", STRATA_E_INPUT, "7 bytes are too few");
	put("len.safetensors", "\3\0\0\0\0\0\0\0{}", 10);
	refused("len.safetensors", STRATA_E_INPUT, "header of 3 bytes in a file of 10");
	put("len.safetensors", "\x01\xe1\xf5\x05\0\0\0\0{}", 10);
	refused("len.safetensors", STRATA_E_INPUT, "over the limit of 100000000");
	put("len.safetensors", "\xff\xff\xff\xff\xff\xff\xff\xff{}", 10);
	refused("len.safetensors", STRATA_E_INPUT, "18446744073709551615");
	put("len.safetensors", "PK\3\4\0\0\0\0\0\0\0\0", 12); /* a pickle in its ZIP */
	refused("len.safetensors", STRATA_E_INPUT, "safetensors");
}
END_TEST

/* Every cut of a good file is refused, and so is every longer one. */
START_TEST(every_truncation_is_refused)
{
	struct st_safetensors *s = NULL;
	static const char header[] = "{" F32_2("a", "0", "8") "," F32_2("b", "8", "16") "}";
	char whole[8 + sizeof(header) - 1 + 17] = { sizeof(header) - 1 };
	size_t size = 8 + sizeof(header) - 1 + 16;

	memcpy(whole + 8, header, sizeof(header) - 1);
	put("cut.safetensors", whole, size);
	ck_assert_int_eq(st_safetensors_open(&s, at("cut.safetensors")), 0);
	st_safetensors_close(s);
	for (size_t n = 0; n <= size + 1; n++) {
		if (n == size)
			continue;
		put("cut.safetensors", whole, n);
		refused("cut.safetensors", STRATA_E_INPUT, "");
	}
}
END_TEST

START_TEST(deep_nesting_does_not_exhaust_the_stack)
{
	size_t n = 200000, size = 8 + 5 + n;
	char *buf = malloc(size);
	uint64_t len = size - 8;

	ck_assert_ptr_nonnull(buf);
	memcpy(buf, &len, 8);
	memcpy(buf + 8, "{\"a\":", 5);
	for (int closed = 0; closed < 2; closed++) {
		memset(buf + 13, '[', n);
		if (closed)
			memset(buf + 13 + n / 2, ']', n / 2);
		put("deep.safetensors", buf, size);
		refused("deep.safetensors", STRATA_E_INPUT, closed ? "" : "does not end");
	}
	free(buf);
}
END_TEST

START_TEST(no_regular_file_is_refused)
{
	refused("none.safetensors", STRATA_E_INPUT, "No such file or directory");
	ck_assert_int_eq(mkfifo(at("fifo.safetensors"), 0644), 0);
	refused("fifo.safetensors", STRATA_E_INPUT, "is a pipe; a regular file is needed");
	ck_assert_int_eq(symlink("/dev/zero", at("dev.safetensors")), 0);
	refused("dev.safetensors", STRATA_E_INPUT, "is a device");
	refused("", STRATA_E_INPUT, "holds neither model.safetensors nor");
}
END_TEST

START_TEST(a_link_given_by_the_user_is_followed)
{
	struct st_safetensors *s = NULL;

	put_st("blob", "{" F32_2("a", "0", "8") "}", 8);
	ck_assert_int_eq(symlink("blob", at("model.safetensors")), 0);
	ck_assert_int_eq(st_safetensors_open(&s, at("model.safetensors")), 0);
	st_safetensors_close(s);
	ck_assert_int_eq(st_safetensors_open(&s, dir), 0);
	ck_assert_uint_eq(st_safetensors_count(s), 1);
	st_safetensors_close(s);
}
END_TEST

START_TEST(all_dtypes_are_measured)
{
	struct st_safetensors *s = NULL;
	struct st_safetensors_info info;
	float x[4];

	put_st("all.safetensors",
	       "{\"__metadata__\":{\"format\":\"pt\",\"\":\"\"},"
	       "\"h.0.attn.bias\":{\"dtype\":\"BOOL\",\"shape\":[1,1,2,2],\"data_offsets\":[8,12]},"
	       "\"f4\":{\"dtype\":\"F4\",\"shape\":[4],\"data_offsets\":[12,14]},"
	       "\"f6\":{\"dtype\":\"F6_E2M3\",\"shape\":[4],\"data_offsets\":[14,17]},"
	       "\"none\":{\"shape\":[0,3],\"data_offsets\":[17,17],\"dtype\":\"F32\"},"
	       "\"d\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[17,25]},"
	       "\"transformer.wte\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
	       "\"scalar\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[25,27]}}\n\t   ",
	       27);
	ck_assert_int_eq(st_safetensors_open(&s, at("all.safetensors")), 0);
	ck_assert_uint_eq(st_safetensors_count(s), 7);
	ck_assert_int_eq(st_safetensors_find(s, "wte"), 0);
	ck_assert_int_eq(st_safetensors_find(s, "transformer.wte"), 0);
	ck_assert_int_eq(st_safetensors_find(s, "transformer.scalar"), 6);
	ck_assert_int_eq(st_safetensors_find(s, "transformer.transformer.wte"), 0);
	ck_assert_int_eq(st_safetensors_find(s, "wt"), -1);
	ck_assert_int_eq(st_safetensors_find(s, ""), -1);
	st_safetensors_info(s, 1, &info);
	ck_assert_str_eq(info.name, "h.0.attn.bias");
	ck_assert_str_eq(info.dtype_text, "BOOL");
	ck_assert(!info.is_float);
	ck_assert_uint_eq(info.n_dims, 4);
	ck_assert_uint_eq(info.dims[3], 2);
	ck_assert_int_eq(st_safetensors_read(s, 1, 0, 1, x), STRATA_E_UNSUPPORTED);
	ck_assert_ptr_nonnull(strstr(st_last_error(), "dtype BOOL"));
	ck_assert_int_eq(st_safetensors_read(s, 6, 0, 1, x), 0);
	ck_assert_uint_eq(st_f32_bits(x[0]), 0x1a190000);
	ck_assert_int_eq(st_safetensors_read(s, 6, 1, 1, x), -EINVAL);
	ck_assert_int_eq(st_safetensors_read(s, 7, 0, 0, x), -EINVAL);
	ck_assert_int_eq(st_safetensors_read(s, 0, UINT64_MAX, 2, x), -EINVAL);
	st_safetensors_close(s);
}
END_TEST

static float half_by_formula(unsigned h)
{
	unsigned exp = h >> 10 & 31, mant = h & 1023;
	double v = exp ? ldexp(1024 + mant, (int)exp - 25) : ldexp(mant, -24);

	return (float)(h & 0x8000 ? -v : v);
}

START_TEST(f16_is_exact_for_all_patterns)
{
	static unsigned char buf[8 + 72 + 131072];
	static float x[65536];
	char header[80];
	struct st_safetensors *s = NULL;
	int n = snprintf(
		header, sizeof(header),
		"{\"a\":{\"dtype\":\"F16\",\"shape\":[65536],\"data_offsets\":[0,131072]}}");

	buf[0] = 72;
	memset(buf + 8, ' ', 72);
	memcpy(buf + 8, header, (size_t)n);
	for (unsigned h = 0; h < 65536; h++) {
		uint16_t half = (uint16_t)h;

		memcpy(buf + 80 + 2 * h, &half, 2);
	}
	put("half.safetensors", buf, sizeof(buf));
	ck_assert_int_eq(st_safetensors_open(&s, at("half.safetensors")), 0);
	ck_assert_int_eq(st_safetensors_read(s, 0, 0, 65536, x), 0);
	for (unsigned h = 0; h < 65536; h++) {
		if ((h & 0x7c00) == 0x7c00 && (h & 0x3ff))
			ck_assert(isnan(x[h]) && !signbit(x[h]) == !(h & 0x8000));
		else if ((h & 0x7c00) == 0x7c00)
			ck_assert(x[h] == (h & 0x8000 ? -INFINITY : INFINITY));
		else
			ck_assert_uint_eq(st_f32_bits(x[h]), st_f32_bits(half_by_formula(h)));
	}
	st_safetensors_close(s);
}
END_TEST

START_TEST(a_file_cut_while_open_is_an_error)
{
	struct st_safetensors *s = NULL;
	float x[2];

	put_st("live.safetensors", "{" F32_2("a", "0", "8") "}", 8);
	ck_assert_int_eq(st_safetensors_open(&s, at("live.safetensors")), 0);
	ck_assert_int_eq(truncate(at("live.safetensors"), 66), 0);
	ck_assert_int_eq(st_safetensors_read(s, 0, 0, 2, x), STRATA_E_INPUT);
	ck_assert_ptr_nonnull(strstr(st_last_error(), "became shorter while in use"));
	st_safetensors_close(s);
}
END_TEST

/* --- an index ----------------------------------------------------------------------------- */

#define INDEX "model.safetensors.index.json"

static void put_index(const char *json)
{
	put(INDEX, json, strlen(json));
}

static void put_shards(void)
{
	put_st("m-1.safetensors", "{" F32_2("b", "0", "8") "," F32_2("c", "8", "16") "}", 16);
	put_st("m-2.safetensors", "{" F32_2("transformer.a", "0", "8") "}", 8);
}

#define MAP_OK                                                                                     \
	"{\"metadata\":{\"total_size\":24},\"weight_map\":{\"transformer.a\":\"m-2.safetensors\"," \
	"\"c\":\"m-1.safetensors\",\"b\":\"m-1.safetensors\"}}\n"

START_TEST(an_index_joins_its_shards)
{
	struct st_safetensors *s = NULL;
	struct st_safetensors_info info;
	char old[256];
	float x[2];

	put_shards();
	put_index(MAP_OK);
	for (int way = 0; way < 3; way++) {
		if (way == 2) { /* a relative path without a directory */
			ck_assert_ptr_nonnull(getcwd(old, sizeof(old)));
			ck_assert_int_eq(chdir(dir), 0);
		}
		ck_assert_int_eq(st_safetensors_open(&s, way == 0   ? dir
							 : way == 1 ? at(INDEX)
								    : INDEX),
				 0);
		ck_assert_uint_eq(st_safetensors_count(s), 3);
		ck_assert_int_eq(st_safetensors_find(s, "b"), 0);
		ck_assert_int_eq(st_safetensors_find(s, "c"), 1);
		ck_assert_int_eq(st_safetensors_find(s, "a"), 2);
		st_safetensors_info(s, 2, &info);
		ck_assert_str_eq(info.name, "transformer.a");
		ck_assert_int_eq(st_safetensors_read(s, 1, 1, 1, x), 0);
		ck_assert_uint_eq(st_f32_bits(x[0]), 0x0f0e0d0c);
		st_safetensors_close(s);
	}
	ck_assert_int_eq(chdir(old), 0);
}
END_TEST

START_TEST(a_bad_index_is_refused)
{
	static const char *const bad[][2] = {
		{ "{\"weight_map\":{\"a\":\"../x\"}}", "\"../x\" is not the plain name" },
		{ "{\"weight_map\":{\"a\":\"..\"}}", "is not the plain name" },
		{ "{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "is not the plain name" },
		{ "{\"weight_map\":{\"a\":\"\"}}", "is not the plain name" },
		{ "{\"weight_map\":{\"a\":\"x\\ny\"}}", "\"x\\x0ay\" is not the plain name" },
		{ "{\"weight_map\":{\"a\":3}}", "its value is not the plain name" },
		{ "{\"weight_map\":{\"a\":\"m-3.safetensors\"}}", "m-3.safetensors: cannot open" },
		{ "{\"weight_map\":{}}", "no weight_map with tensors" },
		{ "{\"metadata\":{}}", "no weight_map with tensors" },
		{ "{\"weight_map\":[]}", "'{' expected" },
		{ "{\"weight_map\":{\"b\":\"m-1.safetensors\"},\"weight_map\":{}}",
		  "stands twice" },
		{ "{\"weight_map\":{\"b\":\"m-1.safetensors\",\"b\":\"m-2.safetensors\"}}",
		  "tensor \"b\" stands twice" },
		{ "{\"weight_map\":{\"z\":\"m-1.safetensors\"}}",
		  "\"z\" is not in m-1.safetensors" },
		{ "{\"weight_map\":{\"c\":\"m-2.safetensors\",\"b\":\"m-1.safetensors\"}}",
		  "holds tensor \"c\", which the index gives to m-2.safetensors" },
		{ "{\"weight_map\":{\"b\":\"m-1.safetensors\"}}{", "text after the end" },
		{ "{\"metadata\":[[[[[[[[[[]]]]]]]]]],\"weight_map\":{\"b\":\"m-1.safetensors\"}}",
		  "nested too deeply" },
		{ "{\"metadata\":nul,\"weight_map\":{\"b\":\"m-1.safetensors\"}}",
		  "not valid JSON" },
		{ "{\"weight_map\":{\"b\":\"" INDEX "\"}}", "header of" },
		{ "", "'{' expected" },
	};

	put_shards();
	for (size_t i = 0; i < ST_ARRAY_LEN(bad); i++) {
		put_index(bad[i][0]);
		refused("", STRATA_E_INPUT, bad[i][1]);
	}
}
END_TEST

static void shard_links(bool has_openat2)
{
	struct st_safetensors *s = NULL;

	ck_assert_int_eq(unlink(at("m-2.safetensors")), 0);
	ck_assert_int_eq(symlink("inside", at("m-2.safetensors")), 0);
	if (has_openat2) {
		ck_assert_int_eq(st_safetensors_open(&s, dir), 0);
		st_safetensors_close(s);
	} else {
		refused("", STRATA_E_INPUT, "symbolic link that leaves");
	}
	for (int way = 0; way < 3; way++) {
		ck_assert_int_eq(unlink(at("m-2.safetensors")), 0);
		ck_assert_int_eq(symlink(way == 0   ? at("inside")
					 : way == 1 ? "../outside"
						    : "/proc/self/fd/0",
					 at("m-2.safetensors")),
				 0);
		refused("", STRATA_E_INPUT, "symbolic link that leaves");
	}
	ck_assert_int_eq(unlink(at("m-2.safetensors")), 0);
	ck_assert_int_eq(mkfifo(at("m-2.safetensors"), 0644), 0);
	refused("", STRATA_E_INPUT, "m-2.safetensors: is a pipe");
}

START_TEST(a_shard_does_not_leave_the_directory)
{
	put_shards();
	put_index(MAP_OK);
	put_st("inside", "{" F32_2("transformer.a", "0", "8") "}", 8);
	shard_links(true);
}
END_TEST

/* As on a kernel without openat2(): in a child, because a filter cannot be taken back. */
START_TEST(without_openat2_no_shard_link_is_followed)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat2, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { ST_ARRAY_LEN(code), code };
	struct st_safetensors *s = NULL;
	int status;
	pid_t pid;

	put_shards();
	put_index(MAP_OK);
	put_st("inside", "{" F32_2("transformer.a", "0", "8") "}", 8);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
		    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog))
			_exit(77);
		ck_assert_int_eq(st_safetensors_open(&s, dir), 0);
		st_safetensors_close(s);
		shard_links(false);
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(unlink(at("m-2.safetensors")), 0);
	ck_assert(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		printf("skipped: no seccomp filter, fallback of openat2() not tested\n");
	else
		ck_assert_int_eq(WEXITSTATUS(status), 0);
}
END_TEST

/* --- writing ------------------------------------------------------------------------------ */

static const size_t dims_a[] = { 3, 700000 }, dims_b[] = { 5 };
static const struct st_safetensors_out outs[] = {
	{ "wte.weight", 2, dims_a },
	{ "odd \"name\"\n\xc3\xa9", 1, dims_b },
	{ "scalar", 0, NULL },
};
#define OUT_ELEMS ((size_t)2100006)

static float value(size_t i)
{
	return st_bits_f32((uint32_t)(0x3f000000u + i * 37u));
}

static void write_all(struct st_safetensors_writer *w)
{
	static float part[100003];

	for (size_t at_elem = 0; at_elem < OUT_ELEMS;) {
		size_t n = OUT_ELEMS - at_elem < ST_ARRAY_LEN(part) ? OUT_ELEMS - at_elem
								    : ST_ARRAY_LEN(part);

		for (size_t i = 0; i < n; i++)
			part[i] = value(at_elem + i);
		ck_assert_int_eq(st_safetensors_write(w, part, n), 0);
		at_elem += n;
	}
}

static void round_trip(enum st_dtype dtype)
{
	struct st_safetensors_writer *w = NULL;
	struct st_safetensors *s = NULL;
	struct st_safetensors_info info;
	struct stat st;
	size_t k = 0;
	float *x = malloc(2100000 * sizeof(*x));
	mode_t mask = umask(027);

	ck_assert_ptr_nonnull(x);
	put("out.safetensors", "old", 3);
	ck_assert_int_eq(st_safetensors_create(&w, at("out.safetensors"), dtype, outs, 3), 0);
	write_all(w);
	ck_assert_int_eq(stat(at("out.safetensors"), &st), 0);
	ck_assert_int_eq(st.st_size, 3); /* untouched until finish() */
	ck_assert_int_eq(st_safetensors_finish(w), 0);
	umask(mask);
	ck_assert_int_eq(stat(at("out.safetensors"), &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0640);
	ck_assert_uint_eq(count_files(dir), 1);
	ck_assert_int_eq(st_safetensors_open(&s, at("out.safetensors")), 0);
	ck_assert_uint_eq(st_safetensors_count(s), 3);
	for (size_t t = 0; t < 3; t++) {
		st_safetensors_info(s, t, &info);
		ck_assert_str_eq(info.name, outs[t].name);
		ck_assert_uint_eq(info.n_dims, outs[t].n_dims);
		for (unsigned d = 0; d < info.n_dims; d++)
			ck_assert_uint_eq(info.dims[d], outs[t].dims[d]);
		ck_assert_int_eq(info.dtype, dtype);
		ck_assert_int_eq(st_safetensors_read(s, t, 0, info.elems, x), 0);
		for (size_t i = 0; i < info.elems; i++, k++) {
			float want = value(k);

			if (dtype == ST_BF16)
				want = st_bf16_f32(st_f32_bf16(want));
			if (dtype == ST_F16)
				want = st_f16_f32(st_f32_f16(want));
			if (st_f32_bits(x[i]) != st_f32_bits(want))
				ck_abort_msg("tensor %zu element %zu", t, i);
		}
	}
	ck_assert_uint_eq(k, OUT_ELEMS);
	st_safetensors_close(s);
	free(x);
}

START_TEST(what_is_written_is_read)
{
	round_trip(ST_F32);
	round_trip(ST_BF16);
	round_trip(ST_F16);
}
END_TEST

START_TEST(data_starts_aligned_and_metadata_is_there)
{
	struct st_safetensors_writer *w = NULL;
	char buf[1024];
	uint64_t len;
	int fd;

	ck_assert_int_eq(st_safetensors_create(&w, at("e.safetensors"), ST_BF16, NULL, 0), 0);
	ck_assert_int_eq(st_safetensors_finish(w), 0);
	fd = open(at("e.safetensors"), O_RDONLY | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_ge(read(fd, buf, sizeof(buf)), 8);
	close(fd);
	memcpy(&len, buf, 8);
	ck_assert_uint_eq(len % 8, 0);
	ck_assert_uint_eq(len, 32);
	ck_assert(!memcmp(buf + 8, "{\"__metadata__\":{\"format\":\"pt\"}}", 32));
}
END_TEST

START_TEST(wrong_use_of_the_writer_leaves_nothing)
{
	static const size_t huge[] = { SIZE_MAX / 2, 3 }, big[] = { (size_t)1 << 61 };
	static const struct st_safetensors_out bad[][2] = {
		{ { "a", 1, dims_b }, { "a", 1, dims_b } },
		{ { "a", 2, huge }, { "b", 1, dims_b } },
		{ { "a", 1, big }, { "b", 1, big } },
		{ { "a", 1, dims_b }, { "__metadata__", 1, dims_b } },
		{ { "a", 9, dims_b }, { "b", 1, dims_b } },
		{ { "a\xff", 1, dims_b }, { "b", 1, dims_b } },
		{ { NULL, 1, dims_b }, { "b", 1, dims_b } },
	};
	struct st_safetensors_writer *w = NULL;
	float x[6] = { 0 };

	for (size_t i = 0; i < ST_ARRAY_LEN(bad); i++)
		ck_assert_int_eq(st_safetensors_create(&w, at("w"), ST_F32, bad[i], 2), -EINVAL);
	ck_assert_int_eq(
		st_safetensors_create(&w, at("w"), (enum st_dtype)ST_DTYPE_COUNT, bad[0], 1),
		-EINVAL);
	ck_assert_ptr_null(w);
	ck_assert_int_eq(st_safetensors_create(&w, at("w"), ST_F32, bad[0], 1), 0);
	ck_assert_int_eq(st_safetensors_write(w, x, 4), 0);
	ck_assert_int_eq(st_safetensors_finish(w), -EINVAL);
	ck_assert_str_eq(st_last_error(), "safetensors: 1 elements were not given.");
	ck_assert_int_eq(st_safetensors_create(&w, at("w"), ST_F32, bad[0], 1), 0);
	ck_assert_int_eq(st_safetensors_write(w, x, 6), -EINVAL);
	ck_assert_int_eq(st_safetensors_write(w, x, 5), -EINVAL);
	ck_assert_int_eq(st_safetensors_finish(w), -EINVAL);
	ck_assert_int_eq(st_safetensors_create(&w, at("w"), ST_F32, bad[0], 1), 0);
	st_safetensors_abort(w);
	st_safetensors_abort(NULL);
	ck_assert_uint_eq(count_files(dir), 0);
	ck_assert_int_eq(st_safetensors_create(&w, at("none/w"), ST_F32, bad[0], 1), -ENOENT);
	ck_assert_int_eq(st_safetensors_create(&w, dir, ST_F32, bad[0], 1), -EEXIST);
	ck_assert_int_eq(st_safetensors_create(&w, at(""), ST_F32, bad[0], 1), -EISDIR);
	ck_assert_uint_eq(count_files(dir), 0);
}
END_TEST

/* A write that fails (file size limit): the error is reported, the old file stays, nothing else. */
START_TEST(a_failed_write_leaves_the_old_file)
{
	struct st_safetensors_writer *w = NULL;
	struct rlimit old, small;
	struct stat st;
	static float x[1 << 18];
	int rc;

	put("keep.safetensors", "old", 3);
	ck_assert_int_eq(st_safetensors_create(&w, at("keep.safetensors"), ST_F32, outs, 3), 0);
	ck_assert_ptr_ne(signal(SIGXFSZ, SIG_IGN), SIG_ERR);
	ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
	small = old;
	small.rlim_cur = 1500000;
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
	rc = st_safetensors_write(w, x, 1 << 18);
	if (rc == 0)
		rc = st_safetensors_write(w, x, 1 << 18);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &old), 0);
	ck_assert_int_eq(rc, -EFBIG);
	ck_assert_ptr_nonnull(strstr(st_last_error(), "keep.safetensors: write at byte 1500000"));
	ck_assert_int_eq(st_safetensors_write(w, x, 1), -EFBIG);
	ck_assert_int_eq(st_safetensors_finish(w), -EFBIG);
	ck_assert_ptr_nonnull(strstr(st_last_error(), "write at byte"));
	ck_assert_int_eq(stat(at("keep.safetensors"), &st), 0);
	ck_assert_int_eq(st.st_size, 3);
	ck_assert_uint_eq(count_files(dir), 1);
}
END_TEST

/* A full disk: a small tmpfs in a mount namespace of its own. Exit 77: not permitted here. */
static void on_a_full_disk(void)
{
	struct st_safetensors_writer *w = NULL;
	struct st_outfile f;
	static char buf[65536];
	int rc;

	if (unshare(CLONE_NEWNS) && unshare(CLONE_NEWUSER | CLONE_NEWNS))
		_exit(77);
	if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("tmpfs", dir, "tmpfs", 0, "size=1m"))
		_exit(77);
	ck_assert_int_eq(st_safetensors_create(&w, at("full"), ST_F32, outs, 3), -ENOSPC);
	ck_assert_ptr_nonnull(strstr(st_last_error(), "reserve"));
	ck_assert_ptr_nonnull(strstr(st_last_error(), "No space left on device"));
	ck_assert_int_eq(st_outfile_open(&f, at("full"), 0),
			 0); /* nothing reserved: in the middle */
	do
		rc = st_outfile_write(&f, buf, sizeof(buf));
	while (rc == 0);
	ck_assert_int_eq(rc, -ENOSPC);
	ck_assert_int_eq(st_outfile_commit(&f), -EIO);
	ck_assert_uint_eq(count_files(dir), 0);
	_exit(0);
}

START_TEST(a_full_disk_is_reported)
{
	int status;
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0)
		on_a_full_disk();
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		printf("skipped: no mount namespace, full disk not tested\n");
	else
		ck_assert_int_eq(WEXITSTATUS(status), 0);
}
END_TEST

/* --- config.json -------------------------------------------------------------------------- */

START_TEST(config_round_trip)
{
	const struct st_gpt2_cfg big = { 48, 1600, 25, 1024, 50257 },
				 tiny = { 4, 256, 4, 128, 256 };
	struct st_gpt2_cfg c;
	char buf[2048];
	ssize_t n;
	int fd;

	ck_assert_int_eq(st_hf_config_write(dir, &big, ST_BF16), 0);
	ck_assert_int_eq(st_hf_config_read(dir, &c), 0);
	ck_assert(c.n_layer == 48 && c.n_embd == 1600 && c.n_head == 25 && c.n_positions == 1024 &&
		  c.vocab_size == 50257);
	ck_assert_int_eq(st_hf_config_write(dir, &tiny, ST_F32), 0);
	ck_assert_int_eq(st_hf_config_read(dir, &c), 0);
	ck_assert(c.n_layer == 4 && c.n_embd == 256 && c.n_head == 4 && c.n_positions == 128 &&
		  c.vocab_size == 256);
	ck_assert_uint_eq(count_files(dir), 1);
	fd = open(at("config.json"), O_RDONLY | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	n = read(fd, buf, sizeof(buf) - 1);
	ck_assert_int_gt(n, 0);
	buf[n] = '\0';
	close(fd);
	ck_assert_ptr_nonnull(strstr(buf, "\"architectures\": [\n    \"GPT2LMHeadModel\"\n  ]"));
	ck_assert_ptr_nonnull(strstr(buf, "\"torch_dtype\": \"float32\""));
	ck_assert_ptr_nonnull(strstr(buf, "\"eos_token_id\": null"));
	ck_assert_ptr_nonnull(strstr(buf, "\"layer_norm_epsilon\": 1e-5"));
	ck_assert_int_eq(st_hf_config_write(at("none"), &tiny, ST_F32), -ENOENT);
	ck_assert_int_eq(st_hf_config_write(dir, &tiny, (enum st_dtype)ST_DTYPE_COUNT), -EINVAL);
}
END_TEST

#define CONFIG(extra)                                                                              \
	"{\"model_type\":\"gpt2\",\"n_layer\":2,\"n_embd\":8,\"n_head\":2,\"n_positions\":16,"     \
	"\"vocab_size\":300" extra "}"

START_TEST(config_of_another_model_is_refused)
{
	static const struct {
		const char *json;
		int rc;
		const char *part;
	} bad[] = {
		{ "{\"model_type\":\"llama\"}", STRATA_E_UNSUPPORTED,
		  "\"model_type\" is \"llama\"" },
		{ "{}", STRATA_E_INPUT, "\"model_type\" is missing" },
		{ "{\"model_type\":\"gpt2\"}", STRATA_E_INPUT, "\"n_layer\" is missing" },
		{ "[]", STRATA_E_INPUT, "not a JSON object" },
		{ "{", STRATA_E_INPUT, "not valid JSON" },
		{ "", STRATA_E_INPUT, "not valid JSON" },
		{ CONFIG(",\"activation_function\":\"relu\""), STRATA_E_UNSUPPORTED, "\"relu\"" },
		{ CONFIG(",\"activation_function\":1"), STRATA_E_INPUT, "not a string" },
		{ CONFIG(",\"layer_norm_epsilon\":1e-6"), STRATA_E_UNSUPPORTED, "1e-5" },
		{ CONFIG(",\"layer_norm_epsilon\":\"x\""), STRATA_E_UNSUPPORTED, "1e-5" },
		{ CONFIG(",\"scale_attn_by_inverse_layer_idx\":true"), STRATA_E_UNSUPPORTED,
		  "scale_attn_by_inverse_layer_idx" },
		{ CONFIG(",\"scale_attn_weights\":false"), STRATA_E_UNSUPPORTED,
		  "scale_attn_weights" },
		{ CONFIG(",\"scale_attn_weights\":0"), STRATA_E_INPUT, "not true or false" },
		{ CONFIG(",\"add_cross_attention\":true"), STRATA_E_UNSUPPORTED,
		  "cross attention" },
		{ CONFIG(",\"tie_word_embeddings\":false"), STRATA_E_UNSUPPORTED, "tie_word" },
		{ CONFIG(",\"n_inner\":31"), STRATA_E_UNSUPPORTED, "4 n_embd" },
		{ CONFIG(",\"quantization_config\":{}"), STRATA_E_UNSUPPORTED, "quantized" },
		{ CONFIG(",\"pruned_heads\":{\"0\":[1]}"), STRATA_E_UNSUPPORTED, "left out" },
		{ CONFIG(",\"n_layer\":3"), STRATA_E_INPUT, "duplicate object key" },
		{ "{\"model_type\":\"gpt2\",\"n_layer\":0}", STRATA_E_INPUT,
		  "\"n_layer\" is not a whole" },
		{ "{\"model_type\":\"gpt2\",\"n_layer\":2.0}", STRATA_E_INPUT,
		  "\"n_layer\" is not" },
		{ "{\"model_type\":\"gpt2\",\"n_layer\":2147483648}", STRATA_E_INPUT,
		  "2147483647" },
		{ "{\"model_type\":\"gpt2\",\"n_layer\":2,\"n_embd\":9,\"n_head\":2,\"n_"
		  "positions\":1,"
		  "\"vocab_size\":1}",
		  STRATA_E_INPUT, "\"n_embd\" 9 is not a multiple" },
	};
	struct st_gpt2_cfg c = { .n_layer = 77 };

	ck_assert_int_eq(st_hf_config_read(dir, &c), STRATA_E_INPUT);
	ck_assert_ptr_nonnull(strstr(st_last_error(), "config.json: cannot open: No such file"));
	for (size_t i = 0; i < ST_ARRAY_LEN(bad); i++) {
		int rc;

		put("config.json", bad[i].json, strlen(bad[i].json));
		rc = st_hf_config_read(dir, &c);
		ck_assert_msg(rc == bad[i].rc, "%s: %d: %s", bad[i].json, rc, st_last_error());
		ck_assert_msg(strstr(st_last_error(), bad[i].part), "%s", st_last_error());
		ck_assert_msg(strstr(st_last_error(), "config.json: "), "%s", st_last_error());
	}
	ck_assert_uint_eq(c.n_layer, 77);
	put("config.json", CONFIG(",\"x\":{\"y\":[1]},\"n_inner\":32,\"attn_pdrop\":0.1"),
	    strlen(CONFIG(",\"x\":{\"y\":[1]},\"n_inner\":32,\"attn_pdrop\":0.1")));
	ck_assert_int_eq(st_hf_config_read(dir, &c), 0);
	ck_assert_uint_eq(c.n_layer, 2);
}
END_TEST

/* --- the fuzzer's seeds ------------------------------------------------------------------- */

START_TEST(seeds_are_replayed)
{
	DIR *d = opendir(SEEDS);
	unsigned n = 0;

	ck_assert_ptr_nonnull(d);
	for (const struct dirent *e; (e = readdir(d));) {
		static uint8_t buf[65536];
		char path[512];
		ssize_t got;
		int fd;

		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s", SEEDS, e->d_name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		ck_assert_int_ge(fd, 0);
		got = read(fd, buf, sizeof(buf));
		ck_assert_int_ge(got, 0);
		close(fd);
		ck_assert_int_eq(LLVMFuzzerTestOneInput(buf, (size_t)got), 0);
		n++;
	}
	closedir(d);
	ck_assert_uint_ge(n, 12);
}
END_TEST

/* --- failing allocations ------------------------------------------------------------------ */

#if !SANITIZER_HAS_MALLOC
#define SEEN_BY_LIBRARIES __attribute__((visibility("default")))

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t n, size_t bytes);
void *__libc_realloc(void *p, size_t bytes);
void __libc_free(void *p);

static long allocs_left = -1; /* < 0: never fails; 0: every one from here fails */
static unsigned long allocs_failed;
static long allocs_live;

static bool alloc_fails(void)
{
	if (allocs_left < 0)
		return false;
	if (allocs_left > 0) {
		allocs_left--;
		return false;
	}
	allocs_failed++;
	errno = ENOMEM;
	return true;
}

static void *counted(void *p)
{
	allocs_live += p != NULL;
	return p;
}

SEEN_BY_LIBRARIES void *malloc(size_t bytes)
{
	return alloc_fails() ? NULL : counted(__libc_malloc(bytes));
}

SEEN_BY_LIBRARIES void *calloc(size_t n, size_t bytes)
{
	return alloc_fails() ? NULL : counted(__libc_calloc(n, bytes));
}

SEEN_BY_LIBRARIES void *realloc(void *p, size_t bytes)
{
	if (alloc_fails())
		return NULL;
	return p ? __libc_realloc(p, bytes) : counted(__libc_realloc(p, bytes));
}

SEEN_BY_LIBRARIES void free(void *p)
{
	allocs_live -= p != NULL;
	__libc_free(p);
}

static int open_and_close(void)
{
	struct st_safetensors *s = NULL;
	int rc = st_safetensors_open(&s, dir);

	st_safetensors_close(s);
	return rc;
}

static int create_and_abort(void)
{
	struct st_safetensors_writer *w = NULL;
	int rc = st_safetensors_create(&w, at("w"), ST_F32, outs, 3);

	st_safetensors_abort(w);
	return rc;
}

static int config_there_and_back(void)
{
	struct st_gpt2_cfg c = { 4, 256, 4, 128, 256 };
	int rc = st_hf_config_write(dir, &c, ST_F32);

	return rc ? rc : st_hf_config_read(dir, &c);
}

/* From the n-th on all fail, for every n until it passes: -ENOMEM each time, no crash, no leak. */
START_TEST(failed_allocations_are_reported)
{
	int (*const doing[])(void) = { open_and_close, create_and_abort, config_there_and_back };

	put_shards();
	put_index(MAP_OK);
	for (size_t k = 0; k < ST_ARRAY_LEN(doing); k++) {
		int rc = -ENOMEM;
		long n = 0;

		for (; rc < 0 && n < 5000; n++) {
			unsigned long before = allocs_failed;
			long live = allocs_live;

			allocs_left = n;
			rc = doing[k]();
			allocs_left = -1;
			ck_assert_msg(allocs_live == live, "allocation %ld: %ld leaked", n,
				      allocs_live - live);
			if (rc == 0)
				continue;
			ck_assert_uint_gt(allocs_failed, before);
			ck_assert_msg(rc == -ENOMEM, "allocation %ld: %d %s", n, rc,
				      st_last_error());
		}
		ck_assert_int_eq(rc, 0);
		ck_assert_int_gt(n, 5);
	}
}
END_TEST
#endif

int main(void)
{
	Suite *suite = suite_create("safetensors");
	TCase *t = tcase_create("safetensors");
	SRunner *r;
	int failed;

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, corrupt_headers_are_refused);
	tcase_add_test(t, corrupt_lengths_are_refused);
	tcase_add_test(t, every_truncation_is_refused);
	tcase_add_test(t, deep_nesting_does_not_exhaust_the_stack);
	tcase_add_test(t, no_regular_file_is_refused);
	tcase_add_test(t, a_link_given_by_the_user_is_followed);
	tcase_add_test(t, all_dtypes_are_measured);
	tcase_add_test(t, f16_is_exact_for_all_patterns);
	tcase_add_test(t, a_file_cut_while_open_is_an_error);
	tcase_add_test(t, an_index_joins_its_shards);
	tcase_add_test(t, a_bad_index_is_refused);
	tcase_add_test(t, a_shard_does_not_leave_the_directory);
	tcase_add_test(t, without_openat2_no_shard_link_is_followed);
	tcase_add_test(t, what_is_written_is_read);
	tcase_add_test(t, data_starts_aligned_and_metadata_is_there);
	tcase_add_test(t, wrong_use_of_the_writer_leaves_nothing);
	tcase_add_test(t, a_failed_write_leaves_the_old_file);
	tcase_add_test(t, a_full_disk_is_reported);
	tcase_add_test(t, config_round_trip);
	tcase_add_test(t, config_of_another_model_is_refused);
	tcase_add_test(t, seeds_are_replayed);
#if !SANITIZER_HAS_MALLOC
	tcase_add_test(t, failed_allocations_are_reported);
#endif
	suite_add_tcase(suite, t);
	r = srunner_create(suite);
	srunner_set_fork_status(r, CK_NOFORK);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
