/* A plan on a GPU: its ops in steps, weights in the device's precision, one arena for all windows of a batch.
 */
#include "engine/cuda/cuda.h"

#include "engine/base/memory.h"

#include <stdlib.h>
#include <string.h>

struct noc_cuda_block {
    noc_cuda_block *next;
    void *data;
};

/* In half precision the fused ones take what they can. */
const noc_cuda_step_kind *const noc_cuda_step_kinds[] = {
    &noc_cuda_fused_attention_step,
    &noc_cuda_mixffn_step,
    &noc_cuda_decoder_step,
    &noc_cuda_conv_step,
    &noc_cuda_gemm_step,
    &noc_cuda_product_step,
    &noc_cuda_tokens_step,
    &noc_cuda_attention_step,
    &noc_cuda_depthwise_step,
    &noc_cuda_mix_step,
    NULL,
};

/* ---- values ---- */

static size_t element_bytes(const noc_network *network)
{
    return network->device->type == NOC_CUDA_F32 ? sizeof(float) : sizeof(uint16_t);
}

int64_t noc_cuda_tokens_of(const noc_value *value)
{
    return (int64_t)value->grid[0] * value->grid[1] * value->grid[2];
}

const noc_value *noc_cuda_value_of(const noc_network *network, int value)
{
    return &network->plan->values[value];
}

/* Of one window. */
static size_t elements_of(const noc_value *value)
{
    return (size_t)noc_cuda_tokens_of(value) * (size_t)value->channels;
}

/* With a batch a value's place is as many times larger and further on: no two values overlap that did not
 * before. */
void *noc_cuda_value(const noc_network *network, int value)
{
    if (value == 0)
        return network->input;
    if (network->logits && value == network->plan->logits)
        return network->logits;
    return network->arena + network->offsets[value] * (size_t)network->max_batch * element_bytes(network);
}

void *noc_cuda_residual(const noc_network *network, const noc_op *op)
{
    return op->residual >= 0 ? noc_cuda_value(network, op->residual) : NULL;
}

/* ---- what a network keeps ---- */

noc_status noc_cuda_keep(noc_network *network, size_t bytes, void **kept, noc_error *err)
{
    noc_cuda_block *block = noc_alloc_zeroed(1, sizeof *block, err);
    if (!block)
        return NOC_ENOMEMORY;
    noc_status status =
        noc_cuda_status(cudaMalloc(&block->data, bytes ? bytes : 1), "memory for the network", err);
    if (status != NOC_OK) {
        free(block);
        return status;
    }
    block->next = network->blocks;
    network->blocks = block;
    network->kept_bytes += bytes;
    *kept = block->data;
    return NOC_OK;
}

void noc_cuda_want(noc_network *network, size_t floats)
{
    network->scratch_floats = floats > network->scratch_floats ? floats : network->scratch_floats;
}

static float *floats_of(const noc_weights *weights, noc_error *err)
{
    float *floats = noc_alloc(weights->count, sizeof *floats, err);
    for (size_t i = 0; floats && i < weights->count; i++)
        floats[i] = (float)weights->data[i];
    return floats;
}

noc_status noc_cuda_copy_floats(noc_network *network, const noc_weights *weights, float **copy,
                                noc_error *err)
{
    void *kept = NULL;
    if (!weights->data)
        return NOC_OK;
    float *floats = floats_of(weights, err);
    if (!floats)
        return NOC_ENOMEMORY;
    noc_status status = noc_cuda_keep(network, weights->count * sizeof *floats, &kept, err);
    if (status == NOC_OK)
        status =
            noc_cuda_status(noc_cuda_upload(network->device, kept, floats, weights->count * sizeof *floats),
                            "uploading weights", err);
    free(floats);
    *copy = kept;
    return status;
}

noc_status noc_cuda_copy_op(noc_network *network, const noc_op *op, noc_cuda_weights *copy, noc_error *err)
{
    noc_status status = noc_cuda_copy_floats(network, &op->weight, (float **)&copy->weight, err);
    return status == NOC_OK ? noc_cuda_copy_floats(network, &op->bias, &copy->bias, err) : status;
}

noc_status noc_cuda_copy_weights(noc_network *network, noc_cuda_step *step, noc_error *err)
{
    return noc_cuda_copy_op(network, step->ops, step->weights, err);
}

/* The device rounds them itself. */
noc_status noc_cuda_copy_elements(noc_network *network, const noc_weights *weights, void **copy,
                                  noc_error *err)
{
    float *floats = NULL, *room = NULL;
    size_t count = weights->count;
    if (network->device->type == NOC_CUDA_F32) {
        noc_status status = noc_cuda_copy_floats(network, weights, &floats, err);
        *copy = floats;
        return status;
    }
    noc_status status = noc_cuda_keep(network, count * element_bytes(network), copy, err);
    if (status != NOC_OK)
        return status;
    floats = floats_of(weights, err);
    if (!floats)
        return NOC_ENOMEMORY;
    cudaError_t error = cudaMalloc((void **)&room, count * sizeof *room);
    if (error == cudaSuccess)
        error = noc_cuda_upload(network->device, room, floats, count * sizeof *room);
    if (error == cudaSuccess)
        error = noc_cuda_take_run(network->device->stream, network->device->type, room, false, *copy, 1,
                                  (int64_t)count, 1);
    if (error == cudaSuccess)
        error = cudaStreamSynchronize(network->device->stream);
    cudaFree(room);
    free(floats);
    return noc_cuda_status(error, "uploading weights", err);
}

noc_status noc_cuda_copy_product(noc_network *network, const noc_op *op, noc_cuda_weights *copy,
                                 noc_error *err)
{
    noc_status status = noc_cuda_copy_elements(network, &op->weight, &copy->weight, err);
    return status == NOC_OK ? noc_cuda_copy_floats(network, &op->bias, &copy->bias, err) : status;
}

/* ---- life ---- */

const noc_cuda_step_kind *noc_cuda_kind_at(const noc_network *network, int first, int *count)
{
    const noc_cuda_step_kind *const *kind = noc_cuda_step_kinds;
    while (*kind && (*count = (*kind)->match(network, first)) == 0)
        kind++;
    return *kind;
}

static noc_status add_step(noc_network *network, int first, int *count, noc_error *err)
{
    const noc_cuda_step_kind *kind = noc_cuda_kind_at(network, first, count);
    if (!kind)
        return noc_fail(err, NOC_EINTERNAL, "the CUDA device does not know op kind %d",
                        (int)network->plan->ops[first].kind);
    noc_cuda_step *step = &network->steps[network->step_count++];
    *step = (noc_cuda_step){.kind = kind, .ops = &network->plan->ops[first], .op_count = *count};
    return kind->prepare(network, step, err);
}

/* Logits of fewer bits would make ties of what is none: the product that ends a network writes them in f32.
 */
static bool ends_in_product(const noc_plan *plan)
{
    bool is_product = false;
    for (int i = 0; i < plan->op_count; i++) {
        const noc_op *op = &plan->ops[i];
        if (noc_op_reads(op, plan->logits))
            return false;
        is_product = is_product ||
                     (op->output == plan->logits && (op->kind == NOC_OP_LINEAR || op->kind == NOC_OP_CONV));
    }
    return is_product;
}

/* The arena, with the steps as groups. */
static noc_status place_values(noc_network *network, noc_error *err)
{
    const noc_plan *plan = network->plan;
    int *group = noc_alloc((size_t)plan->op_count, sizeof *group, err);
    network->offsets = noc_alloc_zeroed((size_t)plan->value_count, sizeof *network->offsets, err);
    noc_status status = group && network->offsets ? NOC_OK : NOC_ENOMEMORY;
    for (int s = 0; status == NOC_OK && s < network->step_count; s++)
        for (int i = 0; i < network->steps[s].op_count; i++)
            group[network->steps[s].ops + i - plan->ops] = s;
    if (status == NOC_OK)
        status = noc_plan_place(plan, group, network->offsets, &network->arena_elements, err);
    free(group);
    return status;
}

static size_t largest_value(const noc_plan *plan)
{
    size_t most = 0;
    for (int v = 0; v < plan->value_count; v++)
        most = elements_of(&plan->values[v]) > most ? elements_of(&plan->values[v]) : most;
    return most;
}

static void share(noc_network *network, const noc_network *lender)
{
    network->is_borrower = true;
    network->arena = lender->arena;
    network->input = lender->input;
    network->logits = lender->logits;
    network->upload = lender->upload;
    network->staging = lender->staging;
    network->planar = lender->planar;
    network->scratch = lender->scratch;
}

static noc_status reserve(noc_network *network, noc_error *err)
{
    const noc_plan *plan = network->plan;
    size_t batch = (size_t)network->max_batch, input = batch * elements_of(&plan->values[0]),
           logits = batch * elements_of(&plan->values[plan->logits]), read = largest_value(plan);
    size_t weights = network->kept_bytes;
    noc_status status = noc_cuda_keep(network, batch * network->arena_elements * element_bytes(network),
                                      (void **)&network->arena, err);
    if (status == NOC_OK)
        status = noc_cuda_keep(network, input * element_bytes(network), &network->input, err);
    if (status == NOC_OK && network->device->type != NOC_CUDA_F32 && ends_in_product(plan))
        status = noc_cuda_keep(network, logits * sizeof(float), (void **)&network->logits, err);
    network->arena_bytes = network->kept_bytes - weights;
    if (status == NOC_OK)
        status = noc_cuda_keep(network, input * sizeof(float), (void **)&network->upload, err);
    if (status == NOC_OK)
        status =
            noc_cuda_keep(network, network->scratch_floats * sizeof(float), (void **)&network->scratch, err);
    if (status == NOC_OK)
        status = noc_cuda_keep(network, read * sizeof(float), (void **)&network->planar, err);
    network->staging_bytes = (input > read ? input : read) * sizeof(float);
    if (status == NOC_OK)
        status = noc_cuda_status(cudaMallocHost((void **)&network->staging, network->staging_bytes),
                                 "pinned memory for windows", err);
    return status;
}

static noc_status make_tables(noc_network *network, noc_error *err)
{
    network->graphs = noc_alloc_zeroed((size_t)network->max_batch + 1, sizeof *network->graphs, err);
    return network->graphs ? noc_cuda_timing_create(network, err) : NOC_ENOMEMORY;
}

static noc_status fill_network(noc_network *network, const noc_network *lender, noc_error *err)
{
    const noc_plan *plan = network->plan;
    noc_status status = noc_cuda_enter(network->device, err);
    network->steps = noc_alloc_zeroed((size_t)plan->op_count, sizeof *network->steps, err);
    if (status == NOC_OK && !network->steps)
        status = NOC_ENOMEMORY;
    for (int i = 0, count = 0; status == NOC_OK && i < plan->op_count; i += count)
        status = add_step(network, i, &count, err);
    if (status == NOC_OK)
        status = place_values(network, err);
    if (status == NOC_OK && lender)
        share(network, lender);
    else if (status == NOC_OK)
        status = reserve(network, err);
    return status == NOC_OK ? make_tables(network, err) : status;
}

noc_status noc_cuda_network_create(noc_device *device, const noc_plan *plan, int max_batch,
                                   const noc_network *lender, noc_network **network, noc_error *err)
{
    noc_network *made = noc_alloc_zeroed(1, sizeof *made, err);
    if (!made)
        return NOC_ENOMEMORY;
    made->device = device;
    made->plan = plan;
    made->max_batch = max_batch;
    noc_status status = fill_network(made, lender, err);
    if (status == NOC_OK)
        *network = made;
    else
        noc_cuda_network_free(made);
    return status;
}

void noc_cuda_network_free(noc_network *network)
{
    if (!network)
        return;
    cudaSetDevice(network->device->index);
    noc_cuda_graphs_free(network);
    noc_cuda_timing_free(network);
    while (network->blocks) {
        noc_cuda_block *block = network->blocks;
        network->blocks = block->next;
        cudaFree(block->data);
        free(block);
    }
    if (!network->is_borrower)
        cudaFreeHost(network->staging);
    free(network->offsets);
    free(network->steps);
    free(network);
}

void noc_cuda_network_memory(const noc_network *network, noc_network_memory *memory)
{
    memory->arena = network->arena_bytes;
    memory->scratch = 0;
    if (!network->is_borrower)
        memory->scratch =
            network->staging_bytes + network->scratch_floats * sizeof(float) +
            (size_t)network->max_batch * elements_of(&network->plan->values[0]) * sizeof(float) +
            largest_value(network->plan) * sizeof(float);
    memory->weights = network->kept_bytes + network->staging_bytes - memory->arena - memory->scratch;
    memory->device = network->kept_bytes;
}

/* ---- running ---- */

/* Windows of the host as value 0. */
static cudaError_t take_host_windows(noc_network *network, int batch, const noc_window_input input[],
                                     bool is_planar)
{
    const noc_value *in = &network->plan->values[0];
    size_t floats = elements_of(in);
    for (int b = 0; b < batch; b++)
        if (!input[b].volume)
            memcpy(network->staging + (size_t)b * floats, input[b].host, floats * sizeof(float));
    cudaError_t error =
        cudaMemcpyAsync(network->upload, network->staging, (size_t)batch * floats * sizeof(float),
                        cudaMemcpyHostToDevice, network->device->stream);
    return error != cudaSuccess
               ? error
               : noc_cuda_take_run(network->device->stream, network->device->type, network->upload, is_planar,
                                   network->input, batch, noc_cuda_tokens_of(in), in->channels);
}

/* Windows as value 0. In a batch of both kinds those of volumes are written over whatever the host's left in
 * their places. */
static cudaError_t take_input(noc_network *network, int batch, const noc_window_input input[], bool is_planar)
{
    const noc_value *in = &network->plan->values[0];
    noc_cuda_cut cuts[NOC_CUDA_CUTS_MOST];
    cudaError_t error = cudaSuccess;
    int count = 0;
    bool has_host = false;
    for (int b = 0; b < batch; b++)
        has_host = has_host || !input[b].volume;
    if (has_host)
        error = take_host_windows(network, batch, input, is_planar);
    for (int b = 0; error == cudaSuccess && b < batch; b++) {
        if (input[b].volume)
            cuts[count++] = noc_cuda_cut_of(&input[b], b);
        if (count == NOC_CUDA_CUTS_MOST || (b + 1 == batch && count > 0)) {
            error = noc_cuda_cut_run(network->device->stream, cuts, count,
                                     in->channels * (int)element_bytes(network), in->grid, network->input);
            count = 0;
        }
    }
    return error;
}

/* Window b of a value as planar f32 on the device, as that window wants it. */
static cudaError_t give(noc_network *network, int value, int b, const noc_window_input *window, float *out)
{
    const noc_value *v = &network->plan->values[value];
    bool is_f32 =
        network->device->type == NOC_CUDA_F32 || (network->logits && value == network->plan->logits);
    size_t bytes = elements_of(v) * (is_f32 ? sizeof(float) : element_bytes(network));
    noc_cuda_giving g = {.type = is_f32 ? NOC_CUDA_F32 : network->device->type,
                         .in = (unsigned char *)noc_cuda_value(network, value) + (size_t)b * bytes,
                         .out = out,
                         .channels = v->channels,
                         .flips = window->flips,
                         .is_added = window->is_added,
                         .mean_of = window->mean_of};
    memcpy(g.grid, v->grid, sizeof g.grid);
    return noc_cuda_give_run(network->device->stream, &g);
}

static noc_status check_room(const noc_network *network, int batch, noc_buffer *const output[],
                             const size_t offset[], noc_error *err)
{
    size_t floats = elements_of(&network->plan->values[network->plan->logits]);
    if (batch > network->max_batch)
        return noc_fail(err, NOC_EINTERNAL, "a batch of %d for a network made for %d", batch,
                        network->max_batch);
    for (int b = 0; b < batch; b++)
        if (offset[b] > output[b]->bytes / sizeof(float) ||
            floats > output[b]->bytes / sizeof(float) - offset[b])
            return noc_fail(err, NOC_EINTERNAL, "logits of %zu floats do not fit into their buffer", floats);
    return NOC_OK;
}

noc_status noc_cuda_network_run(noc_network *network, int batch, const noc_window_input input[],
                                bool is_planar, noc_buffer *const output[], const size_t offset[],
                                noc_error *err)
{
    noc_status status = check_room(network, batch, output, offset, err);
    if (status == NOC_OK)
        status = noc_cuda_enter(network->device, err);
    if (status != NOC_OK)
        return status;
    cudaError_t error = take_input(network, batch, input, is_planar);
    if (error == cudaSuccess)
        error = noc_cuda_run_steps(network, batch);
    for (int b = 0; error == cudaSuccess && b < batch; b++)
        error = give(network, network->plan->logits, b, &input[b], output[b]->data + offset[b]);
    if (error == cudaSuccess)
        error = cudaStreamSynchronize(network->device->stream);
    if (error == cudaSuccess)
        error = noc_cuda_count_seconds(network);
    return noc_cuda_status(error, "running the network", err);
}

noc_status noc_cuda_network_read(noc_network *network, int value, float *out, noc_error *err)
{
    if (value <= 0 || value >= network->plan->value_count || network->offsets[value] == SIZE_MAX)
        return noc_fail(err, NOC_EINTERNAL, "value %d was not kept", value);
    size_t bytes = elements_of(&network->plan->values[value]) * sizeof(float);
    noc_status status = noc_cuda_enter(network->device, err);
    if (status != NOC_OK)
        return status;
    cudaError_t error = give(network, value, 0, &(noc_window_input){.host = NULL}, network->planar);
    if (error == cudaSuccess)
        error = cudaMemcpyAsync(network->staging, network->planar, bytes, cudaMemcpyDeviceToHost,
                                network->device->stream);
    if (error == cudaSuccess)
        error = cudaStreamSynchronize(network->device->stream);
    if (error == cudaSuccess)
        memcpy(out, network->staging, bytes);
    return noc_cuda_status(error, "reading a value", err);
}
