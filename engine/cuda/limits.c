/* What the GPU can do at most: arithmetic in registers and a copy of more than its caches hold, timed by
 * events; the best of some passes counts. Products are of the tensor cores in half precision; in f32 one
 * figure holds for both kinds of arithmetic. */
#include "engine/cuda/cuda.h"

enum { PASSES = 5, BLOCKS_A_PROCESSOR = 8 };

#ifdef NOC_CUDA_EMULATED
enum { ROUNDS = 50, COPY_BYTES = 4 << 20 };
#else
enum { ROUNDS = 20000, COPY_BYTES = 256 << 20 };
#endif

typedef struct measuring {
    noc_device *device;
    cudaEvent_t begin, end;
    unsigned char *from, *to;
    noc_cuda_type type; /* of the arithmetic */
    double flop;
} measuring;

static cudaError_t compute(measuring *m)
{
    return noc_cuda_peak_run(m->device->stream, m->type,
                             BLOCKS_A_PROCESSOR * m->device->properties.multiProcessorCount, ROUNDS,
                             (float *)(void *)m->from, &m->flop);
}

static cudaError_t copy(measuring *m)
{
    return cudaMemcpyAsync(m->to, m->from, COPY_BYTES, cudaMemcpyDeviceToDevice, m->device->stream);
}

/* Fewest seconds of one pass; the first is not counted. */
static cudaError_t best_pass(measuring *m, cudaError_t (*pass)(measuring *m), double *seconds)
{
    cudaError_t error = pass(m);
    *seconds = 0;
    for (int i = 0; error == cudaSuccess && i < PASSES; i++) {
        float ms = 0;
        error = cudaEventRecord(m->begin, m->device->stream);
        if (error == cudaSuccess)
            error = pass(m);
        if (error == cudaSuccess)
            error = cudaEventRecord(m->end, m->device->stream);
        if (error == cudaSuccess)
            error = cudaEventSynchronize(m->end);
        if (error == cudaSuccess)
            error = cudaEventElapsedTime(&ms, m->begin, m->end);
        *seconds = *seconds == 0 || (double)ms * 1e-3 < *seconds ? (double)ms * 1e-3 : *seconds;
    }
    return error;
}

static cudaError_t measure_flops(measuring *m, noc_cuda_type type, double *flops)
{
    double seconds = 0;
    m->type = type;
    cudaError_t error = best_pass(m, compute, &seconds);
    *flops = m->flop / seconds;
    return error;
}

static cudaError_t measure(measuring *m, noc_device_limits *limits)
{
    noc_device_limits l = {0};
    double copying = 0;
    cudaError_t error = cudaMemsetAsync(m->from, 0, COPY_BYTES, m->device->stream);
    if (error == cudaSuccess)
        error = measure_flops(m, NOC_CUDA_F32, &l.vector_flops);
    l.product_flops = l.vector_flops;
    if (error == cudaSuccess && m->device->type != NOC_CUDA_F32)
        error = measure_flops(m, m->device->type, &l.product_flops);
    if (error == cudaSuccess)
        error = best_pass(m, copy, &copying);
    l.bytes_per_second = 2.0 * COPY_BYTES / copying;
    if (error == cudaSuccess)
        *limits = l;
    return error;
}

noc_status noc_cuda_limits(noc_device *device, noc_device_limits *limits, noc_error *err)
{
    measuring m = {.device = device};
    noc_status status = noc_cuda_enter(device, err);
    if (status != NOC_OK)
        return status;
    cudaError_t error = cudaMalloc((void **)&m.from, COPY_BYTES);
    if (error == cudaSuccess)
        error = cudaMalloc((void **)&m.to, COPY_BYTES);
    if (error == cudaSuccess)
        error = cudaEventCreateWithFlags(&m.begin, cudaEventDefault);
    if (error == cudaSuccess)
        error = cudaEventCreateWithFlags(&m.end, cudaEventDefault);
    if (error == cudaSuccess)
        error = measure(&m, limits);
    if (m.end)
        cudaEventDestroy(m.end);
    if (m.begin)
        cudaEventDestroy(m.begin);
    cudaFree(m.to);
    cudaFree(m.from);
    return noc_cuda_status(error, "measuring", err);
}
