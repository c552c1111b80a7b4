/* Rewrite e: what costs nothing when it is in a matrix already.
 *
 * - LAYER_NORM's scale and shift move into the LINEARs and unpadded CONVs that read it, when those are all
 * its readers and it is no result (with zero padding the shift would differ at the border);
 * - ATTENTION's scale moves into the query's weights;
 * - the keys' bias shifts all scores of a query alike, which the softmax ignores, so it drops;
 * - the values' bias passes the attention unchanged (its weights sum to 1) and joins the bias after it. */
#include "engine/plan_edit.h"

static bool is_unpadded(const noc_op *conv)
{
    return conv->padding[0] == 0 && conv->padding[1] == 0 && conv->padding[2] == 0;
}

static bool takes_affine_of(const noc_op *op, int value)
{
    if (op->residual == value)
        return false;
    return op->kind == NOC_OP_LINEAR || (op->kind == NOC_OP_CONV && is_unpadded(op));
}

static bool all_readers_take(const noc_plan *plan, int value)
{
    if (noc_plan_is_result(plan, value))
        return false;
    for (int i = 0; i < plan->op_count; i++)
        if (noc_op_reads(&plan->ops[i], value) && !takes_affine_of(&plan->ops[i], value))
            return false;
    return true;
}

static noc_status ensure_bias(const noc_plan *plan, noc_op *op, noc_error *err)
{
    if (op->bias.data)
        return NOC_OK;
    return noc_weights_create((size_t)noc_op_rows(plan, op), &op->bias, err);
}

/* op's input was x*scale + shift and is x from now on. */
static void absorb(noc_op *op, const noc_op *norm)
{
    size_t channels = norm->weight.count, columns = op->weight.count / op->bias.count;
    for (size_t i = 0; i < op->weight.count; i++) {
        op->bias.data[i / columns] += op->weight.data[i] * norm->bias.data[i % channels];
        op->weight.data[i] *= norm->weight.data[i % channels];
    }
}

static noc_status fold_layer_norm(noc_plan *plan, int at, noc_error *err)
{
    noc_op *norm = &plan->ops[at];
    if (!norm->weight.data || !norm->bias.data || !all_readers_take(plan, norm->output))
        return NOC_OK;
    /* All memory first: a reader either has room for the shift or nothing has changed yet. */
    for (int i = 0; i < plan->op_count; i++) {
        if (!noc_op_reads(&plan->ops[i], norm->output))
            continue;
        noc_status status = ensure_bias(plan, &plan->ops[i], err);
        if (status != NOC_OK)
            return status;
    }
    for (int i = 0; i < plan->op_count; i++)
        if (noc_op_reads(&plan->ops[i], norm->output))
            absorb(&plan->ops[i], norm);
    noc_weights_free(&norm->weight);
    noc_weights_free(&norm->bias);
    return NOC_OK;
}

static void fold_scale(noc_plan *plan, noc_op *attention)
{
    noc_op *query = noc_plan_own_linear(plan, attention->input[0]);
    if (!query)
        return;
    for (size_t i = 0; i < query->weight.count; i++)
        query->weight.data[i] *= attention->scale;
    for (size_t i = 0; i < query->bias.count; i++)
        query->bias.data[i] *= attention->scale;
    attention->scale = 1;
}

static noc_status fold_key_value_bias(noc_plan *plan, const noc_op *attention, noc_error *err)
{
    noc_op *key_value = noc_plan_own_linear(plan, attention->input[1]);
    int reader = noc_plan_only_reader(plan, attention->output);
    if (!key_value || !key_value->bias.data || reader < 0 || plan->ops[reader].kind != NOC_OP_LINEAR ||
        plan->ops[reader].residual == attention->output)
        return NOC_OK;
    noc_op *projection = &plan->ops[reader];
    noc_status status = ensure_bias(plan, projection, err);
    if (status != NOC_OK)
        return status;
    size_t channels = (size_t)plan->values[attention->output].channels;
    const double *value_bias = key_value->bias.data + channels;
    for (size_t i = 0; i < projection->weight.count; i++)
        projection->bias.data[i / channels] += projection->weight.data[i] * value_bias[i % channels];
    noc_weights_free(&key_value->bias);
    return NOC_OK;
}

noc_status noc_rewrite_fold_affines(noc_plan *plan, noc_error *err)
{
    noc_status status = NOC_OK;
    for (int i = 0; i < plan->op_count && status == NOC_OK; i++)
        if (plan->ops[i].kind == NOC_OP_LAYER_NORM)
            status = fold_layer_norm(plan, i, err);
    /* After the norms: their shifts are in the biases now. */
    for (int i = 0; i < plan->op_count && status == NOC_OK; i++) {
        if (plan->ops[i].kind != NOC_OP_ATTENTION)
            continue;
        fold_scale(plan, &plan->ops[i]);
        status = fold_key_value_bias(plan, &plan->ops[i], err);
    }
    return status;
}
