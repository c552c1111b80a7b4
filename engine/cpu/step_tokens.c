/* LAYER_NORM, AFFINE and ACTIVATION that no other step took along: runs of tokens. */
#include "engine/cpu/cpu.h"

enum { PIECE_FLOATS = 16384 };

typedef struct token_job {
    const noc_cpu_kernels *kernels;
    const noc_cpu_step *step;
    const float *in;
    float *out;
    int64_t tokens;
    int channels, tokens_per_piece;
} token_job;

static void token_piece(void *argument, int i, int thread)
{
    const token_job *job = argument;
    const noc_cpu_step *step = job->step;
    (void)thread;
    int64_t from = (int64_t)i * job->tokens_per_piece;
    int rows = (int)(job->tokens - from < job->tokens_per_piece ? job->tokens - from : job->tokens_per_piece);
    const float *in = job->in + from * job->channels;
    float *out = job->out + from * job->channels;
    if (step->ops->kind == NOC_OP_LAYER_NORM)
        job->kernels->layer_norm(in, out, rows, job->channels, step->weight, step->bias,
                                 (float)step->ops->eps);
    else if (step->ops->kind == NOC_OP_AFFINE)
        job->kernels->affine(in, out, rows, job->channels, step->weight, step->bias);
    else
        job->kernels->activate(in, out, (size_t)rows * (size_t)job->channels, step->ops->activation);
}

static int match(const noc_network *network, int first)
{
    noc_op_kind kind = network->plan->ops[first].kind;
    return kind == NOC_OP_LAYER_NORM || kind == NOC_OP_AFFINE || kind == NOC_OP_ACTIVATION;
}

static noc_status prepare(noc_network *network, noc_cpu_step *step, noc_error *err)
{
    noc_status status = noc_cpu_copy(network, &step->ops->weight, &step->weight, err);
    return status == NOC_OK ? noc_cpu_copy(network, &step->ops->bias, &step->bias, err) : status;
}

static void run(noc_network *network, const noc_cpu_step *step)
{
    const noc_value *out = noc_cpu_value_of(network, step->ops->output);
    token_job job = {.kernels = network->device->kernels,
                     .step = step,
                     .in = noc_cpu_value(network, step->ops->input[0]),
                     .out = noc_cpu_value(network, step->ops->output),
                     .tokens = noc_cpu_tokens(out),
                     .channels = out->channels};
    job.tokens_per_piece = out->channels < PIECE_FLOATS ? PIECE_FLOATS / out->channels : 1;
    noc_cpu_run(network->device, noc_cpu_parts(job.tokens, job.tokens_per_piece), token_piece, &job);
}

const noc_cpu_step_kind noc_cpu_tokens_step = {match, prepare, run};
