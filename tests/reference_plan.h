/* A plan in plain loops over doubles: what every device must compute, op by op, written for reading.
 *
 *     double **values = NULL;
 *     if (reference_plan_run(plan, input, &values, err) == NOC_OK)
 *         ... values[plan->logits][token * classes + class], or any other value of the plan ...
 *     reference_plan_free(plan, values);
 *
 * input: NDHWC of one window, [D*H*W][in_channels]. (*values)[v] is [tokens][channels] of value v, all of
 * them kept, whether the plan is arranged or not. Free it with the plan unchanged since. */
#ifndef NOC_TESTS_REFERENCE_PLAN_H
#define NOC_TESTS_REFERENCE_PLAN_H

#include "engine/plan.h"

noc_status reference_plan_run(const noc_plan *plan, const double *input, double ***values, noc_error *err);
void reference_plan_free(const noc_plan *plan, double **values);

/* One op: reads the values of its inputs, writes values[op->output], which must have room. */
void reference_op_run(const noc_plan *plan, const noc_op *op, double *const *values);

size_t reference_tokens(const noc_plan *plan, int value);

/* in [grid][channels] resized trilinearly (align_corners false) to out [to][channels]:
 * source = (target + 0.5) * in / out - 0.5, clamped. */
void reference_resize(const double *in, const int grid[3], double *out, const int to[3], int channels);

/* The input of the golden files: channel c of voxel (d,h,w) by their formula over
 * i = ((c*D + d)*H + h)*W + w + 1000003*seed. out: [D][H][W][channels]. */
void reference_input(const int64_t size[3], int channels, unsigned seed, double *out);

#endif
