/* SPDX-License-Identifier: Apache-2.0 */
/* tests/schedule_toy.c - small models that are made up: sizes, and who uses what. */
#include <stdio.h>
#include <string.h>

#include "tests/schedules.h"

/* Elements that make some storage tiles, the last of them cut anywhere. */
static size_t some_elems(struct rng *r)
{
	size_t tiles = below(r, 3);

	return tiles * ST_STORAGE_TILE + 1 + below(r, chance(r, 50) ? 6000 : ST_STORAGE_TILE);
}

static void add_tensor(struct toy *toy, unsigned unit, unsigned n_dims, size_t rows, size_t cols)
{
	struct st_unit_desc *u = &toy->units[unit];
	struct st_tensor_desc *t = &toy->tensors[unit][u->n_tensors];

	*t = (struct st_tensor_desc){ .n_dims = n_dims,
				      .dims = { rows, cols },
				      .elems = rows * cols,
				      .first_elem = u->elems,
				      .segment = u->n_tensors,
				      .init = ST_INIT_ZERO };
	snprintf(t->name, sizeof(t->name), "unit%u.%u", unit, u->n_tensors);
	u->tensors = toy->tensors[unit];
	u->n_tensors++;
	u->elems +=
		(t->elems + STRATA_NUMERIC_TILE - 1) / STRATA_NUMERIC_TILE * STRATA_NUMERIC_TILE;
}

static unsigned add_unit(struct toy *toy, const char *name)
{
	unsigned u = toy->model.n_units++;

	snprintf(toy->units[u].name, sizeof(toy->units[u].name), "%s%u", name, u);
	return u;
}

static struct st_stage_desc *add_stage(struct toy *toy, struct rng *r, unsigned unit)
{
	struct st_stage_desc *s = &toy->stages[toy->model.n_stages++];

	*s = (struct st_stage_desc){ .units = { unit },
				     .n_units = 1,
				     .bwd_needs_params = true,
				     .out_bytes = 1 + below(r, 60000),
				     .saved_bytes = chance(r, 80) ? 1 + below(r, 60000) : 0,
				     .fwd_work_bytes = chance(r, 50) ? below(r, 60000) : 0,
				     .bwd_work_bytes = chance(r, 50) ? below(r, 60000) : 0,
				     .fwd_flops = 1 + below(r, 1000),
				     .bwd_flops = 1 + below(r, 2000) };
	snprintf(s->name, sizeof(s->name), "stage%u", toy->model.n_stages);
	return s;
}

void toy_make(struct toy *toy, struct rng *r)
{
	static const size_t columns[] = { 24, 72, 300, 1024 };
	size_t cols = columns[below(r, ST_ARRAY_LEN(columns))];
	size_t rows = some_elems(r) / cols + 2;
	unsigned n_blocks = 1 + below(r, 4), table, u;
	struct st_stage_desc *s;

	memset(toy, 0, sizeof(*toy));
	toy->model = (struct st_model){ .family = "toy",
					.units = toy->units,
					.stages = toy->stages,
					.batch = 1 + below(r, 2),
					.seq = 1 + below(r, 40),
					.vocab = rows };
	table = add_unit(toy, "table");
	add_tensor(toy, table, 2, rows, cols);
	s = add_stage(toy, r, table);
	s->bwd_needs_params = false;
	s->looks_up = chance(r, 85);
	s->lookup_cols = cols;
	if (chance(r, 50)) {
		s->units[s->n_units++] = u = add_unit(toy, "positions");
		add_tensor(toy, u, 2, toy->model.seq, cols);
	}
	for (unsigned b = 0; b < n_blocks; b++) {
		u = add_unit(toy, "block");
		for (unsigned k = 1 + below(r, 2); k; k--)
			add_tensor(toy, u, 2, 2, some_elems(r) / 2 + 1);
		if (chance(r, 70))
			add_tensor(toy, u, 1, 1 + below(r, 9000), 1);
		add_stage(toy, r, u);
	}
	s = add_stage(toy, r, table);
	if (chance(r, 40)) { /* untied */
		s->units[0] = u = add_unit(toy, "head");
		add_tensor(toy, u, 2, rows, cols);
	}
	if (chance(r, 70)) {
		s->units[s->n_units++] = u = add_unit(toy, "last");
		add_tensor(toy, u, 1, 1 + below(r, 5000), 1);
	}
	s->out_bytes = s->saved_bytes = 0;
}
