/* The steps of a batch between two events: as one graph, or one by one, where each is timed with an event
 * behind each.
 *
 * A graph is captured once a batch size. It holds the steps alone, which know no memory but the network's:
 * the kernels before and behind it (taking windows, giving logits) have other pointers with every batch, and
 * cost little outside, since those behind are launched while the graph runs. The first batch of a size goes
 * without one: kernels are loaded when they are first launched, which a stream that is being captured may
 * refuse, and a size that does not come again needs none. */
#include "engine/cuda/cuda.h"

#include "engine/base/memory.h"

#include <stdlib.h>

static cudaError_t run_one_by_one(noc_network *network, int batch)
{
    cudaError_t error = cudaSuccess;
    for (int i = 0; error == cudaSuccess && i < network->step_count; i++) {
        if (network->is_timed && i > 0)
            error = cudaEventRecord(network->events[i], network->device->stream);
        if (error == cudaSuccess)
            error = network->steps[i].kind->run(network, &network->steps[i], batch);
    }
    return error;
}

/* ---- graphs ---- */

static cudaError_t capture(noc_network *network, int batch, cudaGraphExec_t *made)
{
    cudaStream_t stream = network->device->stream;
    cudaGraph_t graph = NULL;
    cudaError_t error = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    if (error != cudaSuccess)
        return error;
    error = run_one_by_one(network, batch);
    cudaError_t ended = cudaStreamEndCapture(stream, &graph); /* after a failure too: the stream is used on */
    if (error == cudaSuccess)
        error = ended;
    if (error == cudaSuccess)
        error = cudaGraphInstantiateWithFlags(made, graph, 0);
    if (graph)
        cudaGraphDestroy(graph);
    return error;
}

static cudaError_t launch_graph(noc_network *network, int batch)
{
    cudaGraphExec_t *graph = &network->graphs[batch].exec;
    cudaError_t error = *graph ? cudaSuccess : capture(network, batch, graph);
    return error == cudaSuccess ? cudaGraphLaunch(*graph, network->device->stream) : error;
}

/* Whatever a graph fails for, the steps are launched as they are: the same bits, and a device that is broken
 * fails there too. */
static cudaError_t run_batch(noc_network *network, int batch)
{
    bool has_run = network->graphs[batch].has_run;
    network->graphs[batch].has_run = true;
    if (has_run && !network->is_timed && !network->has_no_graphs) {
        if (launch_graph(network, batch) == cudaSuccess)
            return cudaSuccess;
        network->has_no_graphs = true;
        cudaGetLastError();
    }
    return run_one_by_one(network, batch);
}

cudaError_t noc_cuda_run_steps(noc_network *network, int batch)
{
    cudaStream_t stream = network->device->stream;
    cudaError_t error = cudaEventRecord(network->events[0], stream);
    if (error == cudaSuccess)
        error = run_batch(network, batch);
    return error == cudaSuccess ? cudaEventRecord(network->events[network->step_count], stream) : error;
}

void noc_cuda_graphs_free(noc_network *network)
{
    for (int b = 0; network->graphs && b <= network->max_batch; b++)
        if (network->graphs[b].exec)
            cudaGraphExecDestroy(network->graphs[b].exec);
    free(network->graphs);
}

/* ---- time ---- */

void noc_cuda_timing_free(noc_network *network)
{
    for (int i = 0; network->events && i <= network->step_count; i++)
        if (network->events[i])
            cudaEventDestroy(network->events[i]);
    free(network->events);
    free(network->seconds);
}

noc_status noc_cuda_timing_create(noc_network *network, noc_error *err)
{
    cudaError_t error = cudaSuccess;
    network->seconds = noc_alloc_zeroed((size_t)network->plan->op_count, sizeof *network->seconds, err);
    network->events = noc_alloc_zeroed((size_t)network->step_count + 1, sizeof *network->events, err);
    if (!network->seconds || !network->events)
        return NOC_ENOMEMORY;
    for (int i = 0; error == cudaSuccess && i <= network->step_count; i++)
        error = cudaEventCreateWithFlags(&network->events[i], cudaEventDefault);
    return noc_cuda_status(error, "events of the network", err);
}

static cudaError_t add_seconds(const noc_network *network, int from, int to, double *seconds)
{
    float ms = 0;
    cudaError_t error = cudaEventElapsedTime(&ms, network->events[from], network->events[to]);
    *seconds += (double)ms * 1e-3;
    return error;
}

/* A step's time is its last op's. */
cudaError_t noc_cuda_count_seconds(noc_network *network)
{
    network->batch_seconds = 0;
    cudaError_t error = add_seconds(network, 0, network->step_count, &network->batch_seconds);
    for (int i = 0; error == cudaSuccess && network->is_timed && i < network->step_count; i++) {
        const noc_cuda_step *step = &network->steps[i];
        error = add_seconds(network, i, i + 1,
                            &network->seconds[step->ops + step->op_count - 1 - network->plan->ops]);
    }
    return error;
}

const double *noc_cuda_network_seconds(noc_network *network)
{
    network->is_timed = true;
    return network->seconds;
}

double noc_cuda_batch_seconds(const noc_network *network)
{
    return network->batch_seconds;
}
