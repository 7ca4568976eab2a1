/* SPDX-License-Identifier: Apache-2.0 */
/* cli/sample.c - `strata sample`: text from a result. */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>
#include <wctype.h>

#include "cli/print.h"
#include "cli/verbs.h"
#include "core/config.h"
#include "strata/train.h"

#define GPT2_VOCAB       50257 /* from here on tokens are taken for those of a tokenizer */
#define GPT2_END_OF_TEXT 50256

enum tokens_as { AS_AUTO, AS_BYTES, AS_IDS };
static const char *const as_words[] = { "auto", "bytes", "ids", NULL };

struct sample_args {
	const char *dir, *prompt;
	uint64_t tokens, top_k, seed, threads;
	double temperature;
	int as;
};
static const struct sample_args defaults = { .tokens = 256, .seed = 1, .temperature = 0.8 };

struct sample {
	const struct sample_args *args;
	struct strata_sampler *sampler;
	uint64_t vocab;
	bool as_bytes, is_terminal;
	int32_t *tokens; /* [n], room for prompt and all that is made */
	size_t n;
	char pending[MB_LEN_MAX]; /* of a character that is not complete yet */
	size_t n_pending;
	mbstate_t state;
	char last; /* character printed */
};

/* A run of our own says in DIR/strata.json how its text became tokens. */
static int decide_as_bytes(const struct sample_args *a, uint64_t vocab, bool *as_bytes)
{
	struct st_config *cfg = NULL;
	struct st_error e;
	char path[4096];
	int len = snprintf(path, sizeof(path), "%s/strata.json", a->dir), rc;

	*as_bytes = a->as == AS_AUTO ? vocab >= 256 && vocab < GPT2_VOCAB : a->as == AS_BYTES;
	if (a->as != AS_AUTO || len < 0 || (size_t)len >= sizeof(path) || access(path, F_OK))
		return 0;
	rc = st_config_load(&cfg, path, NULL, 0);
	if (rc) {
		st_error_take(&e, rc);
		return st_fail(rc, "%.360s (it says what a token is; say --as bytes or --as ids)",
			       e.text);
	}
	if (cfg->data.train)
		*as_bytes = !strcmp(cfg->data.format, "bytes");
	st_config_destroy(cfg);
	return 0;
}

/* ---- prompt -------------------------------------------------------------------------------- */

static int parse_ids(struct sample *s, const char *text)
{
	for (;;) {
		unsigned long long id;
		char *end;

		text += strspn(text, " \t\n");
		if (!*text)
			return 0;
		errno = 0;
		id = strtoull(text, &end, 10);
		if (*text < '0' || *text > '9' || errno || (*end && !strchr(" \t\n", *end)))
			return st_fail(STRATA_E_INPUT,
				       "--prompt: this model's tokens are ids, whole numbers"
				       " with spaces between them, not \"%.32s\"",
				       text);
		if (id >= s->vocab)
			return st_fail(STRATA_E_INPUT,
				       "--prompt: token %llu is beyond the vocabulary of %" PRIu64,
				       id, s->vocab);
		s->tokens[s->n++] = (int32_t)id;
		text = end;
	}
}

static int take_prompt(struct sample *s)
{
	const char *prompt = s->args->prompt ? s->args->prompt : "";
	size_t len = strlen(prompt);

	if (s->args->tokens > (SIZE_MAX / sizeof(*s->tokens) - len - 1))
		return st_fail(-EINVAL, "--tokens: too many.");
	s->tokens = calloc(len + 1 + s->args->tokens, sizeof(*s->tokens));
	if (!s->tokens)
		return st_fail(-ENOMEM, "room for %" PRIu64 " tokens; ask for fewer with --tokens.",
			       s->args->tokens);
	if (s->as_bytes && s->vocab < 256)
		return st_fail(STRATA_E_INPUT,
			       "%s: a vocabulary of %" PRIu64 " does not hold all bytes; use"
			       " --as ids",
			       s->args->dir, s->vocab);
	for (size_t i = 0; s->as_bytes && i < len; i++)
		s->tokens[s->n++] = (unsigned char)prompt[i];
	if (!s->as_bytes) {
		int rc = parse_ids(s, prompt);

		if (rc)
			return rc;
	}
	if (!s->n) /* something to begin after: a new line, or the end of another text */
		s->tokens[s->n++] = s->as_bytes                   ? '\n'
				    : s->vocab > GPT2_END_OF_TEXT ? GPT2_END_OF_TEXT
								  : 0;
	return 0;
}

/* ---- output -------------------------------------------------------------------------------- */

static void put_escaped(const char *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		printf("\\x%02x", (unsigned char)bytes[i]);
}

/* A terminal gets characters that it can show, and the rest spelt out; a file gets the bytes. */
static void put_byte(struct sample *s, char byte)
{
	wchar_t wide;
	size_t rc;

	s->last = byte;
	if (!s->is_terminal) {
		putchar(byte);
		return;
	}
	s->pending[s->n_pending++] = byte;
	rc = mbrtowc(&wide, &byte, 1, &s->state);
	if (rc == (size_t)-2 && s->n_pending < sizeof(s->pending))
		return;
	if (rc <= 1 && (iswprint((wint_t)wide) || wide == L'\n' || wide == L'\t')) {
		fwrite(s->pending, 1, s->n_pending, stdout);
	} else if (rc > 1 && s->n_pending > 1) { /* cut short: what came last may begin another */
		put_escaped(s->pending, s->n_pending - 1);
		memset(&s->state, 0, sizeof(s->state));
		s->n_pending = 0;
		put_byte(s, byte);
		return;
	} else {
		put_escaped(s->pending, s->n_pending);
	}
	memset(&s->state, 0, sizeof(s->state));
	s->n_pending = 0;
}

static void put_token(struct sample *s, int32_t token)
{
	if (!s->as_bytes)
		printf("%s%" PRId32, s->last ? " " : "", token);
	else if (token < 256)
		put_byte(s, (char)token);
	else /* in a vocabulary larger than 256 no text ever had this token */
		printf("<%" PRId32 ">", token);
	if (!s->as_bytes)
		s->last = ' ';
}

static int generate(struct sample *s)
{
	uint64_t seed = s->args->seed;

	for (size_t i = 0; s->args->prompt && i < s->n; i++)
		put_token(s, s->tokens[i]);
	for (uint64_t i = 0; i < s->args->tokens; i++) {
		int rc = strata_sampler_next(s->sampler, s->tokens, s->n, s->args->temperature,
					     (unsigned)s->args->top_k, &seed, &s->tokens[s->n]);

		if (rc)
			return rc;
		put_token(s, s->tokens[s->n++]);
		if (s->is_terminal || i % 64 == 0) {
			rc = st_flush_stdout();
			if (rc)
				return rc;
		}
	}
	put_escaped(s->pending, s->n_pending);
	if (s->last != '\n')
		putchar('\n');
	return st_flush_stdout();
}

static int sample_run(const void *args, char **argv)
{
	const struct sample_args *a = args;
	struct sample s = { .args = a, .is_terminal = isatty(STDOUT_FILENO) };
	int rc = strata_sampler_open(&s.sampler, a->dir, (unsigned)a->threads);

	(void)argv;
	if (!rc) {
		s.vocab = strata_sampler_vocab(s.sampler);
		rc = decide_as_bytes(a, s.vocab, &s.as_bytes);
	}
	if (!rc)
		rc = take_prompt(&s);
	if (!rc)
		rc = generate(&s);
	rc = rc ? st_report(rc) : 0;
	strata_sampler_close(s.sampler);
	free(s.tokens);
	return rc;
}

#define OFF(field) .offset = offsetof(struct sample_args, field)
static const struct st_opt options[] = {
	{ "DIR", ST_OPT_OPERAND, true, OFF(dir),
	  .help = "a result: model.safetensors and config.json" },
	{ "prompt", ST_OPT_ANY, .metavar = "TEXT", OFF(prompt),
	  .help = "what comes before; it is printed too" },
	{ "tokens", ST_OPT_UINT, .metavar = "N", .min = 1, .max = 1000000000, OFF(tokens),
	  .help = "how many to make (256)" },
	{ "temperature", ST_OPT_REAL, .metavar = "X", .max = 1000, OFF(temperature),
	  .help = "below 1 more of the likely, 0 always the likeliest (0.8)" },
	{ "top-k", ST_OPT_UINT, .metavar = "K", .max = 1000000000, OFF(top_k),
	  .help = "choose among the K likeliest, 0 among all (0)" },
	{ "seed", ST_OPT_UINT, .metavar = "N", OFF(seed),
	  .help = "the same seed gives the same text (1)" },
	{ "threads", ST_OPT_UINT, .metavar = "N", .max = 1024, OFF(threads),
	  .help = "threads that compute, 0 all cores (0)" },
	{ "as", ST_OPT_WORD, .metavar = "HOW", .words = as_words, OFF(as),
	  .help = "auto, bytes, ids: what a token is (auto)" },
};

const struct st_verb st_verb_sample = {
	.name = "sample",
	.summary = "generate text from a result",
	.more = "A model that was trained on bytes takes the prompt's bytes and prints bytes; on a "
		"terminal\n"
		"those that cannot be shown are spelt \\xNN. Other models (a vocabulary of 50257 "
		"or more, or\n"
		"trained on token files) need a tokenizer, which is not part of this program: for "
		"them\n"
		"--prompt takes token ids with spaces between them, and ids are printed.\n",
	.opts = options,
	.n_opts = ST_ARRAY_LEN(options),
	.args_bytes = sizeof(struct sample_args),
	.defaults = &defaults,
	.run = sample_run,
};
