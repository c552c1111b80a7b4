/* Rewrite d: an attention of one head needs neither query nor projection.
 *
 *   scores  q k^T = (Wq x + bq) (Wk y + bk)^T = x (Wq^T Wk y) + bq^T Wk y + what is the same for all keys
 *   output  Wp (sum p (Wv y + bv)) + bp = sum p (Wp Wv y + Wp bv + bp)            as the sum of the p is 1
 *
 * So x meets keys K = Wq^T Wk y, each with a score of its own, bq^T Wk y, and weighs values that are
 * projected already. With several heads every head would need keys as wide as all of them: no gain. */
#include "engine/plan_edit.h"

#include <string.h>

/* The LINEARs around an attention. */
typedef struct single_head {
    const noc_op *query, *key_value, *projection;
    size_t channels, depth; /* of the tokens; of what keys and values are made from */
} single_head;

static bool find_single_head(const noc_plan *plan, const noc_op *attention, single_head *h)
{
    int reader = noc_plan_only_reader(plan, attention->output);
    if (attention->heads != 1 || reader < 0)
        return false;
    h->query = noc_plan_own_linear(plan, attention->input[0]);
    h->key_value = noc_plan_own_linear(plan, attention->input[1]);
    h->projection = &plan->ops[reader];
    if (!h->query || !h->key_value || h->projection->kind != NOC_OP_LINEAR || h->projection->tail > 0 ||
        h->projection->activation != NOC_ACTIVATION_NONE || h->projection->residual == attention->output)
        return false;
    h->channels = (size_t)plan->values[attention->output].channels;
    h->depth = (size_t)plan->values[h->key_value->input[0]].channels;
    return (size_t)plan->values[h->query->input[0]].channels == h->channels &&
           (size_t)plan->values[h->projection->output].channels == h->channels;
}

/* out = left * right (+ what is there); left [rows][channels], or its transpose [channels][rows] is stored.
 */
static void add_product(const double *left, bool is_transposed, const double *right, size_t rows,
                        size_t channels, size_t columns, double *out)
{
    for (size_t i = 0; i < rows; i++)
        for (size_t k = 0; k < channels; k++) {
            double l = is_transposed ? left[k * rows + i] : left[i * channels + k];
            for (size_t j = 0; j < columns; j++)
                out[i * columns + j] += l * right[k * columns + j];
        }
}

/* Rows of weight: keys, values, the score of a key. Only the values have a bias. */
static void fill_absorbed(const single_head *h, double scale, noc_weights *weight, noc_weights *bias)
{
    const size_t c = h->channels, depth = h->depth;
    const double *keys = h->key_value->weight.data, *values = keys + c * depth;
    double *score = weight->data + 2 * c * depth;
    add_product(h->query->weight.data, true, keys, c, c, depth, weight->data);
    add_product(h->projection->weight.data, false, values, c, c, depth, weight->data + c * depth);
    if (h->query->bias.data)
        add_product(h->query->bias.data, false, keys, 1, c, depth, score);
    for (size_t i = 0; i < depth; i++)
        score[i] *= scale;
    if (h->key_value->bias.data)
        add_product(h->projection->weight.data, false, h->key_value->bias.data + c, c, c, 1, bias->data + c);
    for (size_t i = 0; i < h->projection->bias.count; i++)
        bias->data[c + i] += h->projection->bias.data[i];
}

static noc_status absorb_single_head(noc_plan *plan, int at, const single_head *h, noc_error *err)
{
    noc_op key_value = noc_op_make(NOC_OP_LINEAR, h->key_value->input[0]);
    const size_t rows = 2 * h->channels + 1;
    noc_status status = noc_weights_create(rows * h->depth, &key_value.weight, err);
    if (status == NOC_OK)
        status = noc_weights_create(rows, &key_value.bias, err);
    if (status != NOC_OK) {
        noc_weights_free(&key_value.weight);
        return status;
    }
    noc_op *attention = &plan->ops[at],
           *projection = &plan->ops[noc_plan_only_reader(plan, attention->output)];
    fill_absorbed(h, attention->scale, &key_value.weight, &key_value.bias);
    const int query = noc_plan_writer(plan, attention->input[0]),
              key_value_at = noc_plan_writer(plan, attention->input[1]), old_query = attention->input[0];
    attention->input[0] = plan->ops[query].input[0];
    attention->residual = projection->residual;
    attention->output = projection->output;
    key_value.output = attention->input[1];
    noc_weights_free(&plan->ops[key_value_at].weight);
    noc_weights_free(&plan->ops[key_value_at].bias);
    plan->ops[key_value_at] = key_value;
    plan->values[key_value.output].channels = (int)rows;
    noc_plan_remove(plan, (int)(projection - plan->ops));
    noc_plan_remove(plan, noc_plan_writer(plan, old_query));
    return NOC_OK;
}

noc_status noc_rewrite_absorb_single_heads(noc_plan *plan, noc_error *err)
{
    for (int i = 0; i < plan->op_count; i++) {
        single_head h;
        if (plan->ops[i].kind != NOC_OP_ATTENTION || !find_single_head(plan, &plan->ops[i], &h))
            continue;
        noc_status status = absorb_single_head(plan, i, &h, err);
        if (status != NOC_OK)
            return status;
        i = -1; /* positions moved */
    }
    return NOC_OK;
}
