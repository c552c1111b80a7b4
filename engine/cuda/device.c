/* The CUDA device: one GPU, one stream, and threads of the host for what the host does. The runtime is linked
 * statically and looks for the driver when it is first called, so one build serves machines with and without
 * a GPU. */
#include "engine/cuda/cuda.h"

#include "engine/base/cpus.h"
#include "engine/base/memory.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef NOC_CUDA_TARGETS
#define NOC_CUDA_TARGETS "emulated"
#endif

enum { THREADS_MAX = 1024, BATCH_MOST = 8 };

/* Devices of this process that are open. With the last the driver's own memory on the GPU is given back:
 * whoever only looks which device there is would otherwise hold it to its end. */
static atomic_int open_devices;

_Static_assert((int)NOC_CUDA_F32 == NOC_PRECISION_F32 && (int)NOC_CUDA_BF16 == NOC_PRECISION_BF16 &&
                   (int)NOC_CUDA_F16 == NOC_PRECISION_F16,
               "types of elements are precisions");

noc_status noc_cuda_status(cudaError_t error, const char *what, noc_error *err)
{
    if (error == cudaSuccess)
        return NOC_OK;
    cudaGetLastError(); /* one that does not stick is told once */
    return noc_fail(err, error == cudaErrorMemoryAllocation ? NOC_ENOMEMORY : NOC_EDEVICE, "CUDA, %s: %s",
                    what, cudaGetErrorString(error));
}

cudaError_t noc_cuda_upload(const noc_device *device, void *to, const void *from, size_t bytes)
{
    cudaError_t error = cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, device->stream);
    return error == cudaSuccess ? cudaStreamSynchronize(device->stream) : error;
}

noc_status noc_cuda_enter(const noc_device *device, noc_error *err)
{
    return noc_cuda_status(cudaSetDevice(device->index), "choosing the device", err);
}

/* ---- opening ---- */

static noc_status refuse(cudaError_t error, noc_error *err)
{
    int driver = 0;
    cudaGetLastError();
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
        return noc_fail(err, NOC_EUNAVAILABLE, "no CUDA device: this machine has no NVIDIA driver");
    if (error == cudaErrorInsufficientDriver)
        return noc_fail(err, NOC_EUNAVAILABLE,
                        "the NVIDIA driver is too old: it knows CUDA %d.%d, this program needs %d.%d",
                        driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    if (error != cudaSuccess && error != cudaErrorNoDevice)
        return noc_fail(err, NOC_EUNAVAILABLE, "no CUDA device: %s", cudaGetErrorString(error));
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    return noc_fail(err, NOC_EUNAVAILABLE, "no CUDA device%s%.100s",
                    visible ? ": CUDA_VISIBLE_DEVICES is " : "",
                    !visible     ? ""
                    : visible[0] ? visible
                                 : "empty");
}

static int cuda_count(void)
{
    int count = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess)
        return count;
    cudaGetLastError();
    return 0;
}

/* By turns process p has device p % count. */
static void choose_gpu(const noc_device_options *options, int count, noc_device *device)
{
    int processes = options->processes > 0 ? options->processes : 1;
    bool is_by_turns = options->index < 0;
    device->index = is_by_turns ? options->process % count : options->index;
    device->sharers = is_by_turns ? (processes - device->index + count - 1) / count : processes;
}

static noc_status find_gpu(const noc_device_options *options, noc_device *device, noc_error *err)
{
    int count = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || count == 0)
        return refuse(error, err);
    if (options->index >= count)
        return noc_fail(err, NOC_EUNAVAILABLE, "there is no CUDA device %d: %d can be seen, counted from 0",
                        options->index, count);
    choose_gpu(options, count, device);
    error = cudaGetDeviceProperties(&device->properties, device->index);
    if (error != cudaSuccess)
        return noc_cuda_status(error, "looking at the device", err);
    atomic_fetch_add(&open_devices, 1);
    device->is_counted = true;
    noc_cuda_volumes_init(device);
    error = cudaSetDevice(device->index);
    if (error == cudaSuccess)
        error = cudaStreamCreateWithFlags(&device->stream, cudaStreamNonBlocking);
    return noc_cuda_status(error, "opening the device", err);
}

static noc_precision cuda_precision(const noc_device_options *options)
{
    return options->precision == NOC_PRECISION_AUTO ? NOC_PRECISION_F16 : options->precision;
}

static void cuda_close(noc_device *device)
{
    if (!device)
        return;
    if (device->is_counted) {
        cudaSetDevice(device->index);
        if (device->stream)
            cudaStreamDestroy(device->stream);
        noc_cuda_gather_room_free(&device->room);
        noc_cuda_volumes_free(device);
        if (atomic_fetch_sub(&open_devices, 1) == 1)
            cudaDeviceReset();
    }
    noc_pool_free(device->pool);
    free(device);
}

static noc_status cuda_open(const noc_device_options *options, noc_device **device, noc_error *err)
{
    if (options->threads < 0 || options->threads > THREADS_MAX)
        return noc_fail(err, NOC_EUSAGE, "%d threads: 1 to %d can be had", options->threads, THREADS_MAX);
    noc_device *made = noc_alloc_zeroed(1, sizeof *made, err);
    if (!made)
        return NOC_ENOMEMORY;
    made->type = (noc_cuda_type)cuda_precision(options);
    noc_status status = find_gpu(options, made, err);
    int threads = options->threads > 0 ? options->threads : noc_cpus_usable();
    if (status == NOC_OK)
        status = noc_pool_create(threads < THREADS_MAX ? threads : THREADS_MAX, &made->pool, err);
    if (status == NOC_OK)
        *device = made;
    else
        cuda_close(made);
    return status;
}

static void cuda_describe(const noc_device *device, noc_device_info *info)
{
    int driver = 0;
    memset(info, 0, sizeof *info);
    cudaDriverGetVersion(&driver);
    snprintf(info->kind, sizeof info->kind, "cuda");
    snprintf(info->name, sizeof info->name, "%.95s", device->properties.name);
    snprintf(info->isa, sizeof info->isa, "sm_%d%d", device->properties.major, device->properties.minor);
    snprintf(info->precision, sizeof info->precision, "%s", noc_precision_name((noc_precision)device->type));
    snprintf(info->library, sizeof info->library, "nocturne kernels 1, CUDA %d.%d, driver %d.%d",
             CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10, driver / 1000, driver % 1000 / 10);
    char *to = info->uuid + snprintf(info->uuid, sizeof info->uuid, "GPU-");
    for (int i = 0; i < 16; i++)
        to += snprintf(to, (size_t)(info->uuid + sizeof info->uuid - to), "%s%02x",
                       i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
                       (unsigned)(unsigned char)device->properties.uuid.bytes[i]);
    info->threads = noc_pool_threads(device->pool);
}

static void cuda_host_loop(noc_device *device, int count, void (*piece)(void *argument, int i, int thread),
                           void *argument)
{
    noc_pool_run(device->pool, count, piece, argument);
}

/* ---- buffers ---- */

static void cuda_buffer_free(noc_buffer *buffer)
{
    if (!buffer)
        return;
    cudaSetDevice(buffer->device->index);
    cudaFree(buffer->data);
    free(buffer);
}

static noc_status cuda_buffer_create(noc_device *device, size_t bytes, noc_buffer **buffer, noc_error *err)
{
    noc_status status = noc_cuda_enter(device, err);
    noc_buffer *made = status == NOC_OK ? noc_alloc_zeroed(1, sizeof *made, err) : NULL;
    if (!made)
        return status == NOC_OK ? NOC_ENOMEMORY : status;
    made->device = device;
    made->bytes = bytes;
    status = noc_cuda_status(cudaMalloc((void **)&made->data, bytes ? bytes : 1), "memory for logits", err);
    if (status == NOC_OK)
        *buffer = made;
    else
        free(made);
    return status;
}

/* Beyond some windows a batch gains nothing; half of what is free stays for volumes, gathers and others. */
static int cuda_default_batch(noc_device *device, const noc_plan *plan)
{
    size_t unused = 0, all = 0;
    noc_plan_stats stats;
    noc_plan_stats_of(plan, &stats);
    if (noc_cuda_enter(device, NULL) != NOC_OK || cudaMemGetInfo(&unused, &all) != cudaSuccess)
        return 1; /* the network will say why */
    size_t fit = unused / 2 / (size_t)device->sharers / (stats.arena_bytes + 1);
    return fit < 1 ? 1 : fit < BATCH_MOST ? (int)fit : BATCH_MOST;
}

const noc_device_ops noc_cuda_ops = {
    .kind = "cuda",
    .build = "CUDA runtime, kernels for " NOC_CUDA_TARGETS,
    .has_memory = true,
    .count = cuda_count,
    .open = cuda_open,
    .precision = cuda_precision,
    .close = cuda_close,
    .describe = cuda_describe,
    .default_batch = cuda_default_batch,
    .network_create = noc_cuda_network_create,
    .network_free = noc_cuda_network_free,
    .network_memory = noc_cuda_network_memory,
    .network_run = noc_cuda_network_run,
    .network_read = noc_cuda_network_read,
    .network_seconds = noc_cuda_network_seconds,
    .batch_seconds = noc_cuda_batch_seconds,
    .limits = noc_cuda_limits,
    .host_loop = cuda_host_loop,
    .volume_create = noc_cuda_volume_create,
    .volume_free = noc_cuda_volume_free,
    .buffer_create = cuda_buffer_create,
    .buffer_free = cuda_buffer_free,
    .gather = noc_cuda_gather,
    .gather_reserve = noc_cuda_gather_reserve,
};
