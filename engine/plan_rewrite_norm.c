/* Rewrite c: LINEAR (x -> P x + b) -> LAYER_NORM (scale g, shift beta) -> LINEAR slice W becomes one LINEAR.
 *
 * Subtracting the mean is linear: Pc = P - column means, bc = b - mean(b). So W f = [A x + a] / sd + W beta
 * with A = W diag(g) Pc, a = W diag(g) bc. The variance is ||Pc x + bc||^2 / D = ||R [x; 1]||^2 with R of the
 * QR factorisation of [Pc | bc] / sqrt(D): its C upper rows are the op's tail, the last one, constant in x,
 * goes into tail_constant. W beta is the same at every token, which an interpolation keeps, so it joins the
 * bias of the SUM that follows. */
#include "engine/base/memory.h"
#include "engine/plan_edit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The ops of the pattern, by position, and the SUM that reads the slice. */
typedef struct chain {
    int projection, norm, slice, sum;
} chain;

/* The op that writes op's first input when nothing else reads it, else -1. */
static int sole_producer(const noc_plan *plan, const noc_op *op)
{
    int value = op->input[0];
    return noc_plan_only_reader(plan, value) < 0 ? -1 : noc_plan_writer(plan, value);
}

static bool find_chain(const noc_plan *plan, int slice, chain *found)
{
    const noc_op *op = &plan->ops[slice];
    if (!noc_op_is_product(op))
        return false;
    int sum = noc_plan_only_reader(plan, op->output), norm = sole_producer(plan, op);
    if (sum < 0 || norm < 0 || plan->ops[sum].kind != NOC_OP_SUM || plan->ops[norm].kind != NOC_OP_LAYER_NORM)
        return false;
    int projection = sole_producer(plan, &plan->ops[norm]);
    if (projection < 0 || !noc_op_is_product(&plan->ops[projection]))
        return false;
    /* The one product costs (D + C) C a token, the two cost D C + D D: with C above D the plain ops are
     * cheaper. */
    const noc_op *first = &plan->ops[projection];
    if (plan->values[first->input[0]].channels > plan->values[first->output].channels)
        return false;
    *found = (chain){projection, norm, slice, sum};
    return true;
}

/* m [rows][columns] with the mean over its rows taken from each column. */
static void centre_columns(double *m, size_t rows, size_t columns)
{
    for (size_t j = 0; j < columns; j++) {
        double mean = 0;
        for (size_t i = 0; i < rows; i++)
            mean += m[i * columns + j];
        mean /= (double)rows;
        for (size_t i = 0; i < rows; i++)
            m[i * columns + j] -= mean;
    }
}

/* [P | b] centred: [width][columns], columns = C + 1. */
static void centred_projection(const noc_plan *plan, const noc_op *projection, double *m)
{
    size_t width = (size_t)plan->values[projection->output].channels;
    size_t inputs = (size_t)plan->values[projection->input[0]].channels, columns = inputs + 1;
    for (size_t i = 0; i < width; i++) {
        memcpy(m + i * columns, projection->weight.data + i * inputs, inputs * sizeof(double));
        m[i * columns + inputs] = projection->bias.data ? projection->bias.data[i] : 0;
    }
    centre_columns(m, width, columns);
}

/* One Householder reflection: clears column k of m [rows][columns] below its diagonal. */
static void reflect(double *m, size_t rows, size_t columns, size_t k, double *v)
{
    double norm = 0;
    for (size_t i = k; i < rows; i++) {
        v[i] = m[i * columns + k];
        norm = hypot(norm, v[i]);
    }
    if (norm == 0)
        return;
    v[k] += v[k] < 0 ? -norm : norm;
    double length = 0;
    for (size_t i = k; i < rows; i++)
        length += v[i] * v[i];
    for (size_t j = k; j < columns; j++) {
        double dot = 0;
        for (size_t i = k; i < rows; i++)
            dot += v[i] * m[i * columns + j];
        for (size_t i = k; i < rows; i++)
            m[i * columns + j] -= 2 * dot / length * v[i];
    }
    for (size_t i = k + 1; i < rows; i++)
        m[i * columns + k] = 0;
}

/* m [rows][columns] -> R of its QR factorisation, in its upper rows. */
static noc_status triangulate(double *m, size_t rows, size_t columns, noc_error *err)
{
    double *v = noc_alloc(rows, sizeof(*v), err);
    if (!v)
        return NOC_ENOMEMORY;
    for (size_t k = 0; k < columns && k < rows; k++)
        reflect(m, rows, columns, k, v);
    free(v);
    return NOC_OK;
}

/* Row `row` of W diag(g) [Pc | bc] into out, columns - 1 numbers, and its last into *bias. */
static void folded_row(const double *slice_row, const noc_op *norm, const double *m, size_t width,
                       size_t columns, double *out, double *bias)
{
    for (size_t i = 0; i < width; i++) {
        double factor = slice_row[i] * (norm->weight.data ? norm->weight.data[i] : 1);
        for (size_t j = 0; j + 1 < columns; j++)
            out[j] += factor * m[i * columns + j];
        *bias += factor * m[i * columns + columns - 1];
    }
}

/* Fills op's weight, bias, tail and tail_constant. m: [Pc | bc] on entry, spent afterwards. */
static noc_status fill_op(const noc_plan *plan, const chain *c, double *m, noc_op *op, noc_error *err)
{
    const noc_op *norm = &plan->ops[c->norm], *slice = &plan->ops[c->slice];
    size_t width = (size_t)plan->values[norm->output].channels,
           rows = (size_t)plan->values[slice->output].channels;
    size_t inputs = (size_t)plan->values[op->input[0]].channels, columns = inputs + 1;
    noc_status status = noc_weights_create((rows + inputs) * inputs, &op->weight, err);
    if (status == NOC_OK)
        status = noc_weights_create(rows + inputs, &op->bias, err);
    if (status != NOC_OK)
        return status;
    for (size_t row = 0; row < rows; row++)
        folded_row(slice->weight.data + row * width, norm, m, width, columns, op->weight.data + row * inputs,
                   &op->bias.data[row]);
    for (size_t i = 0; i < width * columns; i++)
        m[i] /= sqrt((double)width);
    status = triangulate(m, width, columns, err);
    if (status != NOC_OK)
        return status;
    for (size_t i = 0; i < inputs; i++) {
        memcpy(op->weight.data + (rows + i) * inputs, m + i * columns, inputs * sizeof(double));
        op->bias.data[rows + i] = m[i * columns + inputs];
    }
    /* With as many inputs as the norm is wide, R has no row for the constant. */
    double end = width > inputs ? m[inputs * columns + inputs] : 0;
    op->tail = (int)inputs;
    op->tail_constant = norm->eps + end * end;
    return NOC_OK;
}

/* What the chain adds at every token alike, into the sum's bias. */
static noc_status add_constants(noc_plan *plan, const chain *c, noc_error *err)
{
    noc_op *sum = &plan->ops[c->sum];
    const noc_op *norm = &plan->ops[c->norm], *slice = &plan->ops[c->slice];
    size_t width = (size_t)plan->values[norm->output].channels,
           rows = (size_t)plan->values[slice->output].channels;
    if (!sum->bias.data) {
        noc_status status = noc_weights_create(rows, &sum->bias, err);
        if (status != NOC_OK)
            return status;
    }
    for (size_t row = 0; row < rows; row++) {
        sum->bias.data[row] += slice->bias.data ? slice->bias.data[row] : 0;
        for (size_t i = 0; i < width && norm->bias.data; i++)
            sum->bias.data[row] += slice->weight.data[row * width + i] * norm->bias.data[i];
    }
    return NOC_OK;
}

static noc_status fold_chain(noc_plan *plan, const chain *c, noc_error *err)
{
    const noc_op *projection = &plan->ops[c->projection];
    noc_op op = noc_op_make(NOC_OP_LINEAR, projection->input[0]);
    size_t width = (size_t)plan->values[projection->output].channels;
    size_t columns = (size_t)plan->values[projection->input[0]].channels + 1;
    double *m = noc_alloc(width * columns, sizeof(*m), err);
    if (!m)
        return NOC_ENOMEMORY;
    centred_projection(plan, projection, m);
    noc_status status = fill_op(plan, c, m, &op, err);
    free(m);
    if (status == NOC_OK)
        status = add_constants(plan, c, err);
    if (status != NOC_OK) {
        noc_weights_free(&op.weight);
        noc_weights_free(&op.bias);
        return status;
    }
    noc_op *slice = &plan->ops[c->slice];
    op.output = slice->output;
    noc_weights_free(&slice->weight);
    noc_weights_free(&slice->bias);
    *slice = op;
    /* From the back, so that the positions before stay. */
    noc_plan_remove(plan, c->norm);
    noc_plan_remove(plan, c->projection);
    return NOC_OK;
}

noc_status noc_rewrite_fold_decoder_norm(noc_plan *plan, noc_error *err)
{
    for (int i = 0; i < plan->op_count; i++) {
        chain found;
        if (!find_chain(plan, i, &found))
            continue;
        noc_status status = fold_chain(plan, &found, err);
        if (status != NOC_OK)
            return status;
        i = -1; /* positions moved */
    }
    return NOC_OK;
}
