/* Editing of a plan's op list, for the passes that rewrite it. Positions are indices into plan->ops and move
 * when ops are inserted or removed; values keep their numbers until noc_plan_drop_values. */
#ifndef NOC_PLAN_EDIT_H
#define NOC_PLAN_EDIT_H

#include "engine/plan.h"

/* As noc_plan_append, at a position. */
noc_status noc_plan_insert(noc_plan *plan, int at, const noc_op *op, const char *name, const int grid[3],
                           int channels, int *value, noc_error *err);
void noc_plan_remove(noc_plan *plan, int at);

/* The op that writes a value; -1 for the input. */
int noc_plan_writer(const noc_plan *plan, int value);
/* Output channels that a LINEAR or CONV computes: rows of its weight, the tail's included. */
int noc_op_rows(const noc_plan *plan, const noc_op *op);
/* Drops the values that no op writes, and renumbers the rest. */
noc_status noc_plan_drop_values(noc_plan *plan, noc_error *err);

/* The passes of noc_plan_rewrite, one a letter. */
noc_status noc_rewrite_fuse_before_upsampling(noc_plan *plan, noc_error *err);
void noc_rewrite_fold_batch_norm(noc_plan *plan);
noc_status noc_rewrite_fold_decoder_norm(noc_plan *plan, noc_error *err);
noc_status noc_rewrite_absorb_single_heads(noc_plan *plan, noc_error *err);
noc_status noc_rewrite_fold_affines(noc_plan *plan, noc_error *err);

#endif
