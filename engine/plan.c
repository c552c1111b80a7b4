/* Plans: their memory, the op list and its editing, and what they cost. The plan owns every weight of its
 * ops. */
#include "engine/plan.h"

#include "engine/base/memory.h"
#include "engine/plan_edit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const op_names[] = {
    [NOC_OP_CONV] = "conv",
    [NOC_OP_LINEAR] = "linear",
    [NOC_OP_LAYER_NORM] = "layer_norm",
    [NOC_OP_AFFINE] = "affine",
    [NOC_OP_ACTIVATION] = "activation",
    [NOC_OP_ATTENTION] = "attention",
    [NOC_OP_DWCONV] = "dwconv",
    [NOC_OP_SUM] = "sum",
    [NOC_OP_CONCAT] = "concat",
};

const char *noc_op_name(noc_op_kind kind)
{
    return op_names[kind];
}

noc_status noc_weights_create(size_t count, noc_weights *weights, noc_error *err)
{
    double *data = noc_alloc_zeroed(count, sizeof(*data), err);
    if (!data)
        return NOC_ENOMEMORY;
    weights->data = data;
    weights->count = count;
    return NOC_OK;
}

void noc_weights_free(noc_weights *weights)
{
    free(weights->data);
    *weights = (noc_weights){0};
}

static void free_op(noc_op *op)
{
    noc_weights_free(&op->weight);
    noc_weights_free(&op->bias);
}

void noc_plan_free(noc_plan *plan)
{
    if (!plan)
        return;
    for (int i = 0; i < plan->op_count; i++)
        free_op(&plan->ops[i]);
    free(plan->ops);
    free(plan->values);
    free(plan);
}

static noc_status add_value(noc_plan *plan, const char *name, const int grid[3], int channels, int *value,
                            noc_error *err)
{
    noc_value *values = realloc(plan->values, ((size_t)plan->value_count + 1) * sizeof(*values));
    if (!values)
        return noc_fail(err, NOC_ENOMEMORY, "no memory for the values of a plan");
    plan->values = values;
    noc_value *added = &values[plan->value_count];
    *added = (noc_value){.grid = {grid[0], grid[1], grid[2]}, .channels = channels, .first = -1, .last = -1};
    snprintf(added->name, sizeof(added->name), "%s", name);
    *value = plan->value_count++;
    return NOC_OK;
}

noc_status noc_plan_create(const char *family, const int64_t window[3], int channels, noc_plan **plan,
                           noc_error *err)
{
    noc_plan *made = noc_alloc_zeroed(1, sizeof(*made), err);
    if (!made)
        return NOC_ENOMEMORY;
    snprintf(made->family, sizeof(made->family), "%s", family);
    made->logits = -1;
    for (int i = 0; i < NOC_STAGES; i++)
        made->stages[i] = -1;
    int grid[3] = {(int)window[0], (int)window[1], (int)window[2]}, input;
    noc_status status = add_value(made, "input", grid, channels, &input, err);
    if (status != NOC_OK)
        noc_plan_free(made);
    else
        *plan = made;
    return status;
}

noc_op noc_op_make(noc_op_kind kind, int input)
{
    return (noc_op){
        .kind = kind, .input = {input}, .input_count = 1, .residual = -1, .output = -1, .scale = 1};
}

noc_status noc_plan_insert(noc_plan *plan, int at, const noc_op *op, const char *name, const int grid[3],
                           int channels, int *value, noc_error *err)
{
    noc_op added = *op;
    noc_op *ops = realloc(plan->ops, ((size_t)plan->op_count + 1) * sizeof(*ops));
    noc_status status = NOC_OK;
    if (ops)
        plan->ops = ops;
    else
        status = noc_fail(err, NOC_ENOMEMORY, "no memory for the ops of a plan");
    if (status == NOC_OK)
        status = add_value(plan, name, grid, channels, &added.output, err);
    if (status != NOC_OK) {
        free_op(&added);
        return status;
    }
    memmove(&ops[at + 1], &ops[at], (size_t)(plan->op_count - at) * sizeof(*ops));
    ops[at] = added;
    plan->op_count++;
    *value = added.output;
    return NOC_OK;
}

noc_status noc_plan_append(noc_plan *plan, const noc_op *op, const char *name, const int grid[3],
                           int channels, int *value, noc_error *err)
{
    return noc_plan_insert(plan, plan->op_count, op, name, grid, channels, value, err);
}

void noc_plan_remove(noc_plan *plan, int at)
{
    free_op(&plan->ops[at]);
    plan->op_count--;
    memmove(&plan->ops[at], &plan->ops[at + 1], (size_t)(plan->op_count - at) * sizeof(*plan->ops));
}

int noc_plan_writer(const noc_plan *plan, int value)
{
    for (int i = 0; i < plan->op_count; i++)
        if (plan->ops[i].output == value)
            return i;
    return -1;
}

bool noc_op_reads(const noc_op *op, int value)
{
    for (int i = 0; i < op->input_count; i++)
        if (op->input[i] == value)
            return true;
    return op->residual == value;
}

bool noc_plan_is_result(const noc_plan *plan, int value)
{
    for (int i = 0; i < NOC_STAGES; i++)
        if (plan->stages[i] == value)
            return true;
    return plan->logits == value;
}

int noc_plan_only_reader(const noc_plan *plan, int value)
{
    int reader = -1;
    if (noc_plan_is_result(plan, value))
        return -1;
    for (int i = 0; i < plan->op_count; i++) {
        if (!noc_op_reads(&plan->ops[i], value))
            continue;
        if (reader >= 0)
            return -1;
        reader = i;
    }
    return reader;
}

bool noc_op_is_product(const noc_op *op)
{
    return op->kind == NOC_OP_LINEAR && op->residual < 0 && op->tail == 0 &&
           op->activation == NOC_ACTIVATION_NONE;
}

noc_op *noc_plan_own_linear(const noc_plan *plan, int value)
{
    int writer = noc_plan_writer(plan, value);
    if (writer < 0 || noc_plan_only_reader(plan, value) < 0)
        return NULL;
    noc_op *op = &plan->ops[writer];
    return noc_op_is_product(op) ? op : NULL;
}

int noc_op_rows(const noc_plan *plan, const noc_op *op)
{
    return plan->values[op->output].channels + op->tail;
}

static void renumber(int *value, const int *numbers)
{
    if (*value >= 0)
        *value = numbers[*value];
}

static void renumber_all(noc_plan *plan, const int *numbers)
{
    for (int i = 0; i < plan->op_count; i++) {
        noc_op *op = &plan->ops[i];
        for (int k = 0; k < op->input_count; k++)
            renumber(&op->input[k], numbers);
        renumber(&op->residual, numbers);
        renumber(&op->output, numbers);
    }
    for (int i = 0; i < NOC_STAGES; i++)
        renumber(&plan->stages[i], numbers);
    renumber(&plan->logits, numbers);
}

noc_status noc_plan_drop_values(noc_plan *plan, noc_error *err)
{
    int kept = 0, count = plan->value_count;
    int *numbers = noc_alloc((size_t)count, sizeof(*numbers), err);
    if (!numbers)
        return NOC_ENOMEMORY;
    for (int i = 0; i < count; i++) {
        numbers[i] = -1;
        if (i > 0 && noc_plan_writer(plan, i) < 0)
            continue;
        numbers[i] = kept;
        plan->values[kept++] = plan->values[i];
    }
    plan->value_count = kept;
    renumber_all(plan, numbers);
    free(numbers);
    return NOC_OK;
}

static uint64_t tokens_of(const noc_plan *plan, int value)
{
    const int *grid = plan->values[value].grid;
    return (uint64_t)grid[0] * (uint64_t)grid[1] * (uint64_t)grid[2];
}

uint64_t noc_op_macs(const noc_plan *plan, const noc_op *op)
{
    uint64_t tokens = tokens_of(plan, op->output);
    uint64_t channels = (uint64_t)plan->values[op->output].channels;
    switch (op->kind) {
    case NOC_OP_CONV:
    case NOC_OP_LINEAR:
    case NOC_OP_DWCONV:
        return tokens * op->weight.count;
    case NOC_OP_ATTENTION:
        return 2 * tokens * tokens_of(plan, op->input[1]) * channels;
    default:
        return 0;
    }
}

void noc_plan_stats_of(const noc_plan *plan, noc_plan_stats *stats)
{
    noc_plan_stats sum = {.arena_bytes = plan->arena_floats * sizeof(float)};
    for (int i = 0; i < plan->op_count; i++) {
        const noc_op *op = &plan->ops[i];
        sum.macs += noc_op_macs(plan, op);
        sum.weight_bytes += (op->weight.count + op->bias.count) * sizeof(float);
    }
    *stats = sum;
}
