/* Exact rewrites of a plan: in exact arithmetic the network stays the same function, and c1..c4 keep their
 * meaning. This file holds the order of the passes and the two that need no algebra of their own:
 *
 *   a  CONCAT -> LINEAR becomes a LINEAR slice per input on the input's own grid, and one SUM that resizes
 *      (a product and an interpolation over tokens commute);
 *   b  AFFINE folds into the DWCONV, LINEAR or SUM before it, and an ACTIVATION that then follows one
 * directly becomes its attribute. Without b both stay ops of their own.
 *
 * A pass that finds nothing to do changes nothing, so c without a has no effect. d comes after e, which has
 * moved norms, scale and biases into the matrices that d multiplies. */
#include "engine/plan_edit.h"

#include <stdio.h>
#include <string.h>

/* The columns of a LINEAR that read one input of the concatenation, as a LINEAR without bias behind that
 * input's writer. */
static noc_status insert_slice(noc_plan *plan, int fuse, int input, int first_column, int number, int *value,
                               noc_error *err)
{
    const noc_op *linear = &plan->ops[fuse];
    int columns = plan->values[input].channels, all = plan->values[linear->input[0]].channels;
    int rows = plan->values[linear->output].channels;
    noc_op slice = noc_op_make(NOC_OP_LINEAR, input);
    noc_status status = noc_weights_create((size_t)rows * (size_t)columns, &slice.weight, err);
    if (status != NOC_OK)
        return status;
    for (int row = 0; row < rows; row++)
        memcpy(slice.weight.data + (size_t)row * (size_t)columns,
               linear->weight.data + (size_t)row * (size_t)all + (size_t)first_column,
               (size_t)columns * sizeof(double));
    char name[NOC_VALUE_NAME];
    snprintf(name, sizeof(name), "%.30s.slice%d", plan->values[linear->output].name, number);
    int grid[3];
    memcpy(grid, plan->values[input].grid, sizeof(grid));
    return noc_plan_insert(plan, noc_plan_writer(plan, input) + 1, &slice, name, grid, rows, value, err);
}

static noc_status split_concat(noc_plan *plan, int concat_value, noc_error *err)
{
    noc_op concat = plan->ops[noc_plan_writer(plan, concat_value)];
    int slices[NOC_OP_INPUTS], column = 0;
    for (int k = 0; k < concat.input_count; k++) {
        int fuse = noc_plan_only_reader(plan, concat_value);
        noc_status status = insert_slice(plan, fuse, concat.input[k], column, k + 1, &slices[k], err);
        if (status != NOC_OK)
            return status;
        column += plan->values[concat.input[k]].channels;
    }
    noc_op *sum = &plan->ops[noc_plan_only_reader(plan, concat_value)];
    noc_weights_free(&sum->weight);
    sum->kind = NOC_OP_SUM;
    sum->input_count = concat.input_count;
    memcpy(sum->input, slices, sizeof(slices[0]) * (size_t)concat.input_count);
    noc_plan_remove(plan, noc_plan_writer(plan, concat_value));
    return NOC_OK;
}

noc_status noc_rewrite_fuse_before_upsampling(noc_plan *plan, noc_error *err)
{
    for (int i = 0; i < plan->op_count; i++) {
        const noc_op *op = &plan->ops[i];
        if (op->kind != NOC_OP_CONCAT)
            continue;
        int reader = noc_plan_only_reader(plan, op->output);
        if (reader < 0 || !noc_op_is_product(&plan->ops[reader]))
            continue;
        noc_status status = split_concat(plan, op->output, err);
        if (status != NOC_OK)
            return status;
        i = -1; /* positions moved */
    }
    return NOC_OK;
}

/* True when every input of a SUM comes from a LINEAR of its own that does nothing after its product. */
static bool is_sum_of_linears(const noc_plan *plan, const noc_op *sum)
{
    for (int k = 0; k < sum->input_count; k++) {
        int writer = noc_plan_writer(plan, sum->input[k]);
        if (writer < 0 || noc_plan_only_reader(plan, sum->input[k]) < 0)
            return false;
        const noc_op *op = &plan->ops[writer];
        if (op->kind != NOC_OP_LINEAR || op->residual >= 0 || op->activation != NOC_ACTIVATION_NONE)
            return false;
    }
    return true;
}

static bool can_take_affine(const noc_plan *plan, const noc_op *op)
{
    if (op->kind == NOC_OP_SUM)
        return op->activation == NOC_ACTIVATION_NONE && is_sum_of_linears(plan, op);
    return noc_op_is_product(op) || (op->kind == NOC_OP_DWCONV && op->activation == NOC_ACTIVATION_NONE);
}

/* Scales the rows of a LINEAR that are stored; those of the tail keep measuring the norm of what they
 * measured. */
static void scale_rows(const noc_plan *plan, noc_op *linear, const double *scale)
{
    size_t rows = (size_t)plan->values[linear->output].channels;
    size_t columns = (size_t)plan->values[linear->input[0]].channels;
    for (size_t i = 0; i < rows * columns; i++)
        linear->weight.data[i] *= scale[i / columns];
    for (size_t row = 0; row < rows && linear->bias.data; row++)
        linear->bias.data[row] *= scale[row];
}

static void scale_producer(noc_plan *plan, noc_op *op, const noc_op *affine)
{
    size_t channels = affine->weight.count;
    if (op->kind == NOC_OP_DWCONV)
        for (size_t i = 0; i < op->weight.count; i++)
            op->weight.data[i] *= affine->weight.data[i % channels];
    else if (op->kind == NOC_OP_LINEAR)
        scale_rows(plan, op, affine->weight.data);
    for (int k = 0; op->kind == NOC_OP_SUM && k < op->input_count; k++)
        scale_rows(plan, &plan->ops[noc_plan_writer(plan, op->input[k])], affine->weight.data);
}

/* Folds the affine into the op before it, which takes over the affine's output. */
static void fold_affine(noc_plan *plan, int affine_at, int before)
{
    noc_op *affine = &plan->ops[affine_at], *op = &plan->ops[before];
    scale_producer(plan, op, affine);
    if (op->bias.data) {
        /* The rows of a LINEAR's bias were scaled with it. */
        for (size_t c = 0; c < affine->bias.count; c++) {
            double scale = op->kind == NOC_OP_LINEAR ? 1 : affine->weight.data[c];
            op->bias.data[c] = op->bias.data[c] * scale + affine->bias.data[c];
        }
    } else {
        op->bias = affine->bias;
        affine->bias = (noc_weights){0};
    }
    op->output = affine->output;
    noc_plan_remove(plan, affine_at);
}

static bool can_take_activation(const noc_op *op)
{
    return noc_op_is_product(op) ||
           ((op->kind == NOC_OP_DWCONV || op->kind == NOC_OP_SUM) && op->activation == NOC_ACTIVATION_NONE);
}

void noc_rewrite_fold_batch_norm(noc_plan *plan)
{
    for (int i = 0; i < plan->op_count; i++) {
        noc_op *op = &plan->ops[i];
        if (op->kind != NOC_OP_AFFINE && op->kind != NOC_OP_ACTIVATION)
            continue;
        int before = noc_plan_writer(plan, op->input[0]);
        if (before < 0 || noc_plan_only_reader(plan, op->input[0]) < 0)
            continue;
        if (op->kind == NOC_OP_AFFINE && can_take_affine(plan, &plan->ops[before])) {
            fold_affine(plan, i--, before);
        } else if (op->kind == NOC_OP_ACTIVATION && can_take_activation(&plan->ops[before])) {
            plan->ops[before].activation = op->activation;
            plan->ops[before].output = op->output;
            noc_plan_remove(plan, i--);
        }
    }
}

noc_status noc_plan_rewrite(noc_plan *plan, unsigned rewrites, noc_error *err)
{
    noc_status status = NOC_OK;
    if (rewrites & NOC_REWRITE_FUSE_BEFORE_UPSAMPLING)
        status = noc_rewrite_fuse_before_upsampling(plan, err);
    if (status == NOC_OK && rewrites & NOC_REWRITE_FOLD_BATCH_NORM)
        noc_rewrite_fold_batch_norm(plan);
    if (status == NOC_OK && rewrites & NOC_REWRITE_FOLD_DECODER_NORM)
        status = noc_rewrite_fold_decoder_norm(plan, err);
    if (status == NOC_OK && rewrites & NOC_REWRITE_FOLD_AFFINES)
        status = noc_rewrite_fold_affines(plan, err);
    if (status == NOC_OK && rewrites & NOC_REWRITE_ABSORB_SINGLE_HEADS)
        status = noc_rewrite_absorb_single_heads(plan, err);
    if (status == NOC_OK)
        status = noc_plan_drop_values(plan, err);
    return status;
}
