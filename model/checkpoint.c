/* SPDX-License-Identifier: Apache-2.0 */
/* model/checkpoint.c - from a store and strata.json to safetensors. */
#include "model/checkpoint.h"

#include "model/output.h"
#include "model/setup.h"

struct source {
	const char *run_json;
	const struct st_layout *layout;
	const struct st_checkpoint_watch *watch;
};

static int hand_out(void *user, st_emit_fn *emit, void *emit_user)
{
	const struct source *s = user;

	return st_checkpoint_export(s->run_json, s->layout, emit, emit_user, s->watch);
}

/* The model on the CPU: its units are the same on every device. */
static int open_model(struct st_setup *setup, const char *from)
{
	static const char *const sets[] = { "strata.device.type=host" };
	const struct strata_options opt = { .struct_bytes = sizeof(opt),
					    .sets = sets,
					    .n_sets = ST_ARRAY_LEN(sets) };
	struct st_error e;
	char path[4096];
	int rc = st_output_path(path, sizeof(path), from, "strata.json");

	if (!rc)
		rc = st_setup_model(setup, path, &opt, false);
	if (rc != STRATA_E_CONFIG)
		return rc;
	st_error_take(&e, rc);
	return st_fail(rc, "%.400s (it says which model the run trains)", e.text);
}

int st_checkpoint_write(const char *from, const char *run_json, const char *to, enum st_dtype dtype,
			const struct st_checkpoint_watch *w)
{
	struct source s = { .run_json = run_json, .watch = w };
	struct st_layout *layout = NULL;
	struct st_formats formats;
	struct st_setup setup;
	int rc = open_model(&setup, from);

	if (rc)
		return rc;
	formats = st_setup_plan_cfg(&setup).formats;
	rc = st_layout_create(&layout, setup.model, &formats);
	s.layout = layout;
	if (!rc)
		rc = st_output_write_model(to, setup.model, &setup.gpt2, dtype, hand_out, &s);
	st_layout_destroy(layout);
	st_setup_close(&setup);
	return rc;
}
