/* What steps in half precision share: which ops they may take, and LAYER_NORMs that are never in memory, as
 * all who read one compute it for themselves. */
#include "engine/cuda/cuda.h"

static int number_of(const noc_network *network, const noc_op *op)
{
    return (int)(op - network->plan->ops);
}

bool noc_cuda_is_fusible(const noc_network *network, int at, noc_op_kind kind)
{
    return network->device->type != NOC_CUDA_F32 && at < network->plan->op_count &&
           network->plan->ops[at].kind == kind;
}

bool noc_cuda_is_followed(const noc_network *network, const noc_op *op)
{
    return noc_plan_only_reader(network->plan, op->output) == number_of(network, op) + 1 &&
           op[1].input[0] == op->output && op[1].residual != op->output;
}

static bool takes(const noc_network *network, const noc_op *reader, const noc_op *norm)
{
    bool is_first = reader->input[0] == norm->output && reader->residual != norm->output;
    for (int i = 1; i < reader->input_count; i++)
        is_first = is_first && reader->input[i] != norm->output;
    for (const noc_cuda_step_kind *const *kind = noc_cuda_step_kinds; is_first && *kind; kind++)
        if ((*kind)->takes_norm && (*kind)->takes_norm(network, reader, norm))
            return true;
    return false;
}

/* The last op that reads a value; op_count when it stays to the end. */
static int last_reader(const noc_plan *plan, int value)
{
    int last = -1;
    for (int i = 0; i < plan->op_count; i++)
        last = noc_op_reads(&plan->ops[i], value) ? i : last;
    return value == 0 || noc_plan_is_result(plan, value) ? plan->op_count : last;
}

/* A norm with an affine part is rare: the plan folds it into the ops behind. */
static bool is_absorbed(const noc_network *network, const noc_op *norm)
{
    const noc_plan *plan = network->plan;
    const int at = number_of(network, norm), last = last_reader(plan, norm->output);
    if (!noc_cuda_is_fusible(network, at, NOC_OP_LAYER_NORM) || norm->weight.data || norm->bias.data ||
        last == plan->op_count || last <= at || !noc_op_reads(&norm[1], norm->output) ||
        (last > at + 1 && last_reader(plan, norm->input[0]) < last) ||
        (at > 0 &&
         (noc_cuda_conv_takes_next(network, &norm[-1]) || noc_cuda_mixffn_takes_next(network, &norm[-1]))))
        return false;
    for (int i = at + 1; i <= last; i++)
        if (noc_op_reads(&plan->ops[i], norm->output) && !takes(network, &plan->ops[i], norm))
            return false;
    return true;
}

const noc_op *noc_cuda_norm_before(const noc_network *network, const noc_op *op)
{
    for (const noc_op *norm = network->plan->ops; norm < op; norm++)
        if (norm->output == op->input[0])
            return is_absorbed(network, norm) ? norm : NULL;
    return NULL;
}

int noc_cuda_skip_norm(const noc_network *network, int first)
{
    return is_absorbed(network, &network->plan->ops[first]) ? first + 1 : first;
}

const noc_op *noc_cuda_own_ops(const noc_cuda_step *step)
{
    return step->norm == step->ops ? &step->ops[1] : step->ops;
}

void *noc_cuda_input(const noc_network *network, const noc_op *op, const noc_op *norm)
{
    return noc_cuda_value(network, norm ? norm->input[0] : op->input[0]);
}
