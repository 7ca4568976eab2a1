/* SPDX-License-Identifier: Apache-2.0 */
/* model/data.c - token files: checked whole, read window by window in a keyed order. */
#include "model/data.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "model/file.h"

#define CHUNK_BYTES       ((size_t)256 << 10)
#define KEEP_CACHED_BYTES ((uint64_t)16 << 20) /* a smaller file may stay in the page cache */
#define HEADER_BYTES      1024u                /* llm.c: 256 x int32 */
#define LLMC_U16          20240520u
#define LLMC_U32          20240801u
#define LLMC_EVAL         20240522u
#define ROUNDS            6u

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "token files are read as they lie");

struct token_file {
	char *path;
	int fd;
	unsigned width; /* bytes per token: 1, 2, 4 */
	uint64_t size_bytes;
	uint64_t first_off; /* byte of token 0 */
	uint64_t n_tokens;
};

struct st_data {
	struct token_file train, val; /* val.fd < 0: held out of train */
	size_t seq, vocab;
	uint64_t seed, fingerprint;
	uint64_t n_train, n_val;
	uint64_t val_first; /* window of the validation file */
	unsigned char *buf; /* [(seq + 1) * widest] */
	bool blames_val;    /* what failed is val's fault */
};

/* --- opening: size and header ------------------------------------------------------------- */

static int take_bytes(struct token_file *f, const char *shown)
{
	f->width = 1;
	f->n_tokens = f->size_bytes;
	return f->n_tokens ? 0 : st_fail(STRATA_E_INPUT, "%s: the file is empty", shown);
}

/* Header of llm.c: magic, version, number of tokens; the size must agree to the byte. */
static int take_llmc(struct token_file *f, const char *shown, const uint32_t header[3])
{
	const uint32_t version = header[0] == LLMC_U16 ? 1 : 7;
	uint64_t need;

	f->width = header[0] == LLMC_U16 ? 2 : 4;
	if (f->size_bytes < HEADER_BYTES)
		return st_fail(STRATA_E_INPUT, "%s: %" PRIu64 " bytes end within the header of %u",
			       shown, f->size_bytes, HEADER_BYTES);
	if (header[1] != version)
		return st_fail(STRATA_E_INPUT,
			       "%s: byte 4: version %" PRIu32 " of token file %" PRIu32 "; %" PRIu32
			       " is known",
			       shown, header[1], header[0], version);
	if (header[2] > INT32_MAX)
		return st_fail(STRATA_E_INPUT, "%s: byte 8: number of tokens is negative", shown);
	need = HEADER_BYTES + (uint64_t)header[2] * f->width;
	if (f->size_bytes != need)
		return st_fail(STRATA_E_INPUT,
			       "%s: %" PRIu64 " bytes; a header and %" PRIu32 " tokens are %" PRIu64
			       ": the file is %s",
			       shown, f->size_bytes, header[2], need,
			       f->size_bytes < need ? "cut" : "too long");
	f->first_off = HEADER_BYTES;
	f->n_tokens = header[2];
	return f->n_tokens ? 0 : st_fail(STRATA_E_INPUT, "%s: the file holds no tokens", shown);
}

static int take_bin(struct token_file *f, const char *shown)
{
	uint32_t header[3] = { 0 };
	size_t got = f->size_bytes < sizeof(header) ? (size_t)f->size_bytes : sizeof(header);
	int rc = st_file_read(f->fd, header, got, 0, f->path);

	if (rc < 0)
		return rc;
	if (!f->size_bytes)
		return st_fail(STRATA_E_INPUT, "%s: the file is empty", shown);
	if (got >= 4 && header[0] == LLMC_EVAL)
		return st_fail(STRATA_E_INPUT,
			       "%s: byte 0: an evaluation set (%u), not a text of tokens", shown,
			       LLMC_EVAL);
	if (got >= 4 && (header[0] == LLMC_U16 || header[0] == LLMC_U32))
		return take_llmc(f, shown, header);
	f->width = 2;
	if (f->size_bytes % 2)
		return st_fail(STRATA_E_INPUT,
			       "%s: %" PRIu64
			       " bytes are an odd number; raw tokens have 2 bytes each: "
			       "the file is cut, or not a token file (format \"bytes\" reads text)",
			       shown, f->size_bytes);
	f->n_tokens = f->size_bytes / 2;
	return 0;
}

static int open_file(struct token_file *f, const char *path, bool is_bytes)
{
	struct st_show shown;
	int fd;

	f->path = strdup(path);
	if (!f->path)
		return st_fail(-ENOMEM, "%s", st_show(&shown, path));
	fd = st_file_open(AT_FDCWD, path, false, path, &f->size_bytes);
	if (fd < 0)
		return fd;
	f->fd = fd;
	st_show(&shown, path);
	return is_bytes ? take_bytes(f, shown.text) : take_bin(f, shown.text);
}

/* --- the streaming pass ------------------------------------------------------------------- */

static uint32_t token_at(const unsigned char *buf, size_t i, unsigned width)
{
	uint16_t half;
	uint32_t whole;

	switch (width) {
	case 1:
		return buf[i];
	case 2:
		memcpy(&half, buf + 2 * i, sizeof(half));
		return half;
	default:
		memcpy(&whole, buf + 4 * i, sizeof(whole));
		return whole;
	}
}

/* Largest of n tokens; one loop for each width, so that the compiler can use vectors. */
static uint32_t max_token(const unsigned char *buf, size_t n, unsigned width)
{
	uint32_t max = 0;

	if (width == 2) {
		uint16_t m = 0;

		for (size_t i = 0; i < n; i++) {
			uint16_t t;

			memcpy(&t, buf + 2 * i, sizeof(t));
			m = t > m ? t : m;
		}
		return m;
	}
	for (size_t i = 0; i < n; i++) {
		uint32_t t = token_at(buf, i, width);

		max = t > max ? t : max;
	}
	return max;
}

static int check_tokens(const struct token_file *f, const unsigned char *buf, size_t n,
			uint64_t first, size_t vocab)
{
	struct st_show shown;
	size_t i = 0;
	uint32_t t;

	if (max_token(buf, n, f->width) < vocab)
		return 0;
	while (token_at(buf, i, f->width) < vocab)
		i++;
	t = token_at(buf, i, f->width);
	return st_fail(STRATA_E_INPUT,
		       "%s: token %" PRIu64 " (byte %" PRIu64 ") is %" PRIu32
		       ", beyond the vocabulary of %zu: raise vocab_size or prepare the file again",
		       st_show(&shown, f->path), first + i, f->first_off + (first + i) * f->width,
		       t, vocab);
}

/* Reads every byte once: content into the hash, tokens against the vocabulary. */
static int check_file(const struct token_file *f, size_t vocab, unsigned char *buf,
		      XXH3_state_t *hash)
{
	uint64_t size_le = htole64(f->size_bytes), off = 0;
	int rc;

	if (XXH3_64bits_update(hash, &size_le, sizeof(size_le)) != XXH_OK)
		return st_fail(STRATA_E_IO, "the hash of the data failed");
	(void)posix_fadvise(f->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	while (off < f->size_bytes) {
		uint64_t left = f->size_bytes - off;
		size_t len = left < CHUNK_BYTES ? (size_t)left : CHUNK_BYTES;
		size_t skip = off < f->first_off ? (size_t)(f->first_off - off) : 0;

		rc = st_file_read(f->fd, buf, len, off, f->path);
		if (rc < 0)
			return rc;
		if (XXH3_64bits_update(hash, buf, len) != XXH_OK)
			return st_fail(STRATA_E_IO, "the hash of the data failed");
		/* A header is shorter than a chunk, and chunks are whole tokens. */
		rc = check_tokens(f, buf + skip, (len - skip) / f->width,
				  (off + skip - f->first_off) / f->width, vocab);
		if (rc < 0)
			return rc;
		if (f->size_bytes > KEEP_CACHED_BYTES)
			st_file_drop(f->fd, off, len);
		off += len;
	}
	(void)posix_fadvise(f->fd, 0, 0, POSIX_FADV_RANDOM); /* windows: no read-ahead */
	return 0;
}

static int check_content(struct st_data *d)
{
	unsigned char *buf = malloc(CHUNK_BYTES);
	XXH3_state_t *hash = XXH3_createState();
	int rc;

	if (!buf || !hash) {
		rc = st_fail(-ENOMEM, "%zu bytes to check the data", CHUNK_BYTES);
		goto out;
	}
	rc = XXH3_64bits_reset(hash) == XXH_OK
		     ? 0
		     : st_fail(STRATA_E_IO, "the hash of the data failed");
	if (rc == 0)
		rc = check_file(&d->train, d->vocab, buf, hash);
	if (rc == 0 && d->val.fd >= 0) {
		rc = check_file(&d->val, d->vocab, buf, hash);
		d->blames_val = rc < 0;
	}
	if (rc == 0)
		d->fingerprint = XXH3_64bits_digest(hash);
out:
	XXH3_freeState(hash);
	free(buf);
	return rc;
}

/* --- windows ------------------------------------------------------------------------------ */

static uint64_t windows_of(const struct token_file *f, size_t seq)
{
	return (f->n_tokens - 1) / seq; /* a file holds at least one token */
}

static int too_short(const struct token_file *f, size_t seq, unsigned windows, const char *what)
{
	struct st_show shown;
	uint64_t need;

	if (__builtin_mul_overflow((uint64_t)seq, (uint64_t)windows, &need) ||
	    __builtin_add_overflow(need, (uint64_t)1, &need))
		need = UINT64_MAX;
	return st_fail(STRATA_E_INPUT,
		       "%s: %" PRIu64 " tokens; at least %" PRIu64
		       " are needed for %s of seq_len %zu",
		       st_show(&shown, f->path), f->n_tokens, need, what, seq);
}

static int cut_windows(struct st_data *d, double held_out)
{
	uint64_t n = windows_of(&d->train, d->seq);

	if (d->val.fd >= 0) {
		if (n < 1)
			return too_short(&d->train, d->seq, 1, "one training window");
		d->n_train = n;
		d->n_val = windows_of(&d->val, d->seq);
		d->blames_val = !d->n_val;
		return d->n_val ? 0 : too_short(&d->val, d->seq, 1, "one validation window");
	}
	if (n < 2)
		return too_short(&d->train, d->seq, 2, "one training and one validation window");
	d->n_val = (uint64_t)((double)n * held_out);
	if (d->n_val < 1)
		d->n_val = 1;
	if (d->n_val > n / 2) /* half of more than 2^53 windows may round up */
		d->n_val = n / 2;
	d->n_train = n - d->n_val;
	d->val_first = d->n_train;
	return 0;
}

static uint64_t mix64(uint64_t x)
{
	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9u;
	x ^= x >> 27;
	x *= 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

/*
 * Place i of epoch's order: a bijection of [0, n). A Feistel network over the smallest even number
 * of bits that holds n, walked again while it leads out of the range; that range is below 4 n, so
 * the walk is short, and it ends because the network is a bijection itself. The order is part of
 * what resume promises: a change here changes every run.
 */
static uint64_t permute(uint64_t i, uint64_t n, uint64_t seed, uint64_t epoch)
{
	const uint64_t key = mix64(mix64(seed + 0x9e3779b97f4a7c15u) ^ epoch);
	unsigned half = 1;
	uint64_t mask;

	while (half < 32 && (uint64_t)1 << 2 * half < n)
		half++;
	mask = ((uint64_t)1 << half) - 1;
	do {
		uint64_t left = i >> half, right = i & mask;

		for (unsigned r = 0; r < ROUNDS; r++) {
			uint64_t f = mix64(right + key + (r + 1) * 0x9e3779b97f4a7c15u);
			uint64_t next = left ^ (f & mask);

			left = right;
			right = next;
		}
		i = left << half | right;
	} while (i >= n);
	return i;
}

static int read_window(struct st_data *d, const struct token_file *f, uint64_t window,
		       int32_t *tokens, int32_t *targets)
{
	uint64_t first = window * d->seq; /* within the file: cannot overflow */
	int rc;

	rc = st_file_read(f->fd, d->buf, (d->seq + 1) * f->width, f->first_off + first * f->width,
			  f->path);
	if (rc == 0)
		rc = check_tokens(f, d->buf, d->seq + 1, first, d->vocab);
	if (rc < 0)
		return rc;
	for (size_t i = 0; i < d->seq; i++) {
		tokens[i] = (int32_t)token_at(d->buf, i, f->width);
		targets[i] = (int32_t)token_at(d->buf, i + 1, f->width);
	}
	return 0;
}

int st_data_train(struct st_data *d, uint64_t cursor, size_t n, int32_t *tokens, int32_t *targets)
{
	uint64_t end;
	int rc;

	if (__builtin_add_overflow(cursor, (uint64_t)n, &end))
		return st_fail(-EINVAL, "data: cursor %" PRIu64, cursor);
	for (size_t i = 0; i < n; i++) {
		uint64_t at = cursor + i;

		rc = read_window(d, &d->train,
				 permute(at % d->n_train, d->n_train, d->seed, at / d->n_train),
				 tokens + i * d->seq, targets + i * d->seq);
		if (rc < 0)
			return rc;
	}
	return 0;
}

int st_data_val(struct st_data *d, uint64_t first, size_t n, int32_t *tokens, int32_t *targets)
{
	int rc;

	if (first > d->n_val || n > d->n_val - first)
		return st_fail(-EINVAL,
			       "data: validation windows %" PRIu64 " and %zu on of %" PRIu64, first,
			       n, d->n_val);
	for (size_t i = 0; i < n; i++) {
		rc = read_window(d, d->val.fd >= 0 ? &d->val : &d->train, d->val_first + first + i,
				 tokens + i * d->seq, targets + i * d->seq);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* --- open and close ----------------------------------------------------------------------- */

static int check_cfg(const struct st_data_cfg *cfg, bool *is_bytes)
{
	struct st_show s;

	if (!cfg->train || !cfg->train[0])
		return st_fail(STRATA_E_CONFIG, "data: no training file is named");
	if (!cfg->format || (strcmp(cfg->format, "bytes") && strcmp(cfg->format, "bin")))
		return st_fail(STRATA_E_CONFIG, "data: format \"%s\" is not \"bytes\" or \"bin\"",
			       st_show(&s, cfg->format ? cfg->format : ""));
	*is_bytes = !strcmp(cfg->format, "bytes");
	if (cfg->seq < 1)
		return st_fail(STRATA_E_CONFIG, "data: seq_len must be at least 1");
	if (cfg->vocab < 1 || cfg->vocab > INT32_MAX)
		return st_fail(STRATA_E_CONFIG, "data: vocab_size %zu is not in 1 .. %d",
			       cfg->vocab, INT32_MAX);
	if (*is_bytes && cfg->vocab < 256)
		return st_fail(
			STRATA_E_CONFIG,
			"data: vocab_size %zu is too small: format \"bytes\" needs at least 256",
			cfg->vocab);
	if (!(cfg->held_out >= 0.0 && cfg->held_out <= 0.5))
		return st_fail(STRATA_E_CONFIG, "data: the held-out share %g is not in 0 .. 0.5",
			       cfg->held_out);
	return 0;
}

int st_data_open(struct st_data **out, const struct st_data_cfg *cfg)
{
	struct st_data *d;
	bool is_bytes = false;
	unsigned widest;
	int rc;

	if (!out || !cfg)
		return st_fail(-EINVAL, "data: no configuration");
	rc = check_cfg(cfg, &is_bytes);
	if (rc < 0)
		return rc;
	d = calloc(1, sizeof(*d));
	if (!d)
		return st_fail(-ENOMEM, "data");
	d->train.fd = d->val.fd = -1;
	d->seq = cfg->seq;
	d->vocab = cfg->vocab;
	d->seed = cfg->seed;
	rc = open_file(&d->train, cfg->train, is_bytes);
	if (rc == 0 && cfg->val) {
		rc = open_file(&d->val, cfg->val, is_bytes);
		d->blames_val = rc < 0;
	}
	if (rc == 0)
		rc = cut_windows(d, cfg->held_out);
	if (rc == 0)
		rc = check_content(d);
	if (rc < 0)
		goto fail;
	widest = d->val.width > d->train.width ? d->val.width : d->train.width;
	d->buf = malloc((d->seq + 1) * widest); /* seq + 1 tokens are in a file: no overflow */
	if (!d->buf) {
		rc = st_fail(-ENOMEM, "data: a window of %zu tokens", d->seq + 1);
		goto fail;
	}
	*out = d;
	return 0;

fail:
	if (cfg->blames_val)
		*cfg->blames_val = d->blames_val;
	st_data_close(d);
	return rc;
}

void st_data_close(struct st_data *d)
{
	if (!d)
		return;
	if (d->train.fd >= 0)
		close(d->train.fd);
	if (d->val.fd >= 0)
		close(d->val.fd);
	free(d->train.path);
	free(d->val.path);
	free(d->buf);
	free(d);
}

uint64_t st_data_train_windows(const struct st_data *d)
{
	return d->n_train;
}

uint64_t st_data_val_windows(const struct st_data *d)
{
	return d->n_val;
}

uint64_t st_data_fingerprint(const struct st_data *d)
{
	return d->fingerprint;
}
