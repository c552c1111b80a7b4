/* Gathering on the GPU: a box in pieces of whole rows, each by one kernel, copied to pinned memory and laid
 * by the host's threads into the order of the output. */
#include "engine/cuda/cuda.h"

#include <string.h>

enum { PIECE_BYTES = 4 << 20, WINDOWS_LEAST = 256, ROWS_A_TASK = 64 };

_Static_assert((int)NOC_CUDA_LABELS == NOC_GATHER_LABELS && (int)NOC_CUDA_REGIONS == NOC_GATHER_REGIONS &&
                   (int)NOC_CUDA_LOGITS == NOC_GATHER_LOGITS,
               "kinds of gathering have the device's numbers");

/* ---- room ---- */

void noc_cuda_gather_room_free(noc_cuda_gather_room *room)
{
    cudaFree(room->out);
    cudaFree(room->windows);
    cudaFree(room->importance);
    cudaFreeHost(room->staging);
    cudaFreeHost(room->window_staging);
    memset(room, 0, sizeof *room);
}

static int planes_of(const noc_gather *g)
{
    return g->kind == NOC_GATHER_LOGITS ? g->classes : 1;
}

static size_t row_bytes(const noc_gather *g)
{
    return (size_t)(g->to[2] - g->from[2]) * (size_t)planes_of(g) * (size_t)g->element_bytes;
}

static size_t window_floats(const noc_gather *g)
{
    return (size_t)g->window[0] * (size_t)g->window[1] * (size_t)g->window[2];
}

static cudaError_t take_output_room(noc_cuda_gather_room *room, size_t bytes)
{
    if (bytes <= room->bytes)
        return cudaSuccess;
    cudaFree(room->out);
    cudaFreeHost(room->staging);
    room->out = room->staging = NULL;
    room->bytes = 0;
    cudaError_t error = cudaMalloc(&room->out, bytes);
    if (error == cudaSuccess)
        error = cudaMallocHost(&room->staging, bytes);
    if (error == cudaSuccess)
        room->bytes = bytes;
    return error;
}

static cudaError_t take_window_room(noc_cuda_gather_room *room, int count)
{
    if (count <= room->window_count)
        return cudaSuccess;
    int windows = count > WINDOWS_LEAST ? count : WINDOWS_LEAST;
    size_t bytes = (size_t)windows * sizeof *room->windows;
    cudaFree(room->windows);
    cudaFreeHost(room->window_staging);
    room->windows = room->window_staging = NULL;
    room->window_count = 0;
    cudaError_t error = cudaMalloc((void **)&room->windows, bytes);
    if (error == cudaSuccess)
        error = cudaMallocHost((void **)&room->window_staging, bytes);
    if (error == cudaSuccess)
        room->window_count = windows;
    return error;
}

static cudaError_t copy_importance(noc_device *device, const noc_gather *g)
{
    noc_cuda_gather_room *room = &device->room;
    size_t floats = window_floats(g);
    room->importance_of = NULL;
    if (floats > room->importance_floats) {
        cudaFree(room->importance);
        room->importance = NULL;
        room->importance_floats = 0;
        cudaError_t error = cudaMalloc((void **)&room->importance, floats * sizeof(float));
        if (error != cudaSuccess)
            return error;
        room->importance_floats = floats;
    }
    return noc_cuda_upload(device, room->importance, g->importance, floats * sizeof(float));
}

/* A map that no gather was announced with may change: it is sent each time. */
static cudaError_t take_room(noc_device *device, const noc_gather *g)
{
    noc_cuda_gather_room *room = &device->room;
    cudaError_t error =
        take_output_room(room, row_bytes(g) > PIECE_BYTES ? row_bytes(g) : (size_t)PIECE_BYTES);
    if (error == cudaSuccess)
        error = take_window_room(room, g->window_count);
    if (error == cudaSuccess && g->importance && g->importance != room->importance_of)
        error = copy_importance(device, g);
    return error;
}

noc_status noc_cuda_gather_reserve(noc_device *device, const noc_gather *widest, noc_error *err)
{
    noc_status status = noc_cuda_enter(device, err);
    if (status != NOC_OK)
        return status;
    cudaError_t error = take_room(device, widest);
    if (error == cudaSuccess && widest->importance)
        device->room.importance_of = widest->importance;
    return noc_cuda_status(error, "memory for gathering", err);
}

/* ---- pieces ---- */

typedef struct spread_job {
    const noc_gather *gather;
    const unsigned char *from; /* [planes][rows][width] */
    int64_t first_row;
    int rows, width;
} spread_job;

static void spread_row(const spread_job *job, int plane, int64_t row, const unsigned char *from)
{
    const noc_gather *g = job->gather;
    int64_t height = g->to[1] - g->from[1], step = g->out_step[2];
    int64_t at = row / height * g->out_step[0] + row % height * g->out_step[1] + plane * g->out_class_step;
    if (step == 1)
        memcpy((unsigned char *)g->out + at * g->element_bytes, from,
               (size_t)job->width * (size_t)g->element_bytes);
    else if (g->element_bytes == 1)
        for (int i = 0; i < job->width; i++)
            ((uint8_t *)g->out)[at + i * step] = from[i];
    else if (g->element_bytes == 2)
        for (int i = 0; i < job->width; i++)
            ((uint16_t *)g->out)[at + i * step] = ((const uint16_t *)(const void *)from)[i];
    else
        for (int i = 0; i < job->width; i++)
            ((uint32_t *)g->out)[at + i * step] = ((const uint32_t *)(const void *)from)[i];
}

static void spread_piece(void *argument, int i, int thread)
{
    const spread_job *job = argument;
    size_t line = (size_t)job->width * (size_t)job->gather->element_bytes;
    int from = i * ROWS_A_TASK, to = from + ROWS_A_TASK < job->rows ? from + ROWS_A_TASK : job->rows;
    (void)thread;
    for (int plane = 0; plane < planes_of(job->gather); plane++)
        for (int row = from; row < to; row++)
            spread_row(job, plane, job->first_row + row,
                       job->from + ((size_t)plane * (size_t)job->rows + (size_t)row) * line);
}

static noc_cuda_gathering gathering_of(const noc_device *device, const noc_gather *g)
{
    noc_cuda_gathering k = {.kind = (noc_cuda_gather_kind)g->kind,
                            .windows = device->room.windows,
                            .importance = g->importance ? device->room.importance : NULL,
                            .out = device->room.out,
                            .window_count = g->window_count,
                            .classes = g->classes,
                            .height = (int)(g->to[1] - g->from[1]),
                            .width = (int)(g->to[2] - g->from[2]),
                            .element_bytes = g->element_bytes,
                            .threshold = g->threshold};
    for (int a = 0; a < 3; a++) {
        k.grid[a] = g->grid[a];
        k.upsample[a] = g->upsample[a];
        k.window[a] = (int)g->window[a];
        k.from[a] = (int)g->from[a];
    }
    return k;
}

static cudaError_t send_windows(noc_device *device, const noc_gather *g)
{
    for (int i = 0; i < g->window_count; i++) {
        noc_cuda_gather_window *to = &device->room.window_staging[i];
        to->logits = g->windows[i].logits->data + g->windows[i].offset;
        for (int a = 0; a < 3; a++)
            to->start[a] = (int)g->windows[i].start[a];
    }
    return cudaMemcpyAsync(device->room.windows, device->room.window_staging,
                           (size_t)g->window_count * sizeof *device->room.windows, cudaMemcpyHostToDevice,
                           device->stream);
}

static cudaError_t gather_pieces(noc_device *device, const noc_gather *g)
{
    noc_cuda_gathering k = gathering_of(device, g);
    int64_t rows = (g->to[0] - g->from[0]) * k.height, most = (int64_t)(device->room.bytes / row_bytes(g));
    cudaError_t error = cudaSuccess;
    for (int64_t row = 0; error == cudaSuccess && row < rows; row += k.rows) {
        k.first_row = row;
        k.rows = (int)(rows - row < most ? rows - row : most);
        error = noc_cuda_gather_run(device->stream, &k);
        if (error == cudaSuccess)
            error = cudaMemcpyAsync(device->room.staging, device->room.out, (size_t)k.rows * row_bytes(g),
                                    cudaMemcpyDeviceToHost, device->stream);
        if (error == cudaSuccess)
            error = cudaStreamSynchronize(device->stream);
        if (error != cudaSuccess)
            break;
        spread_job job = {g, device->room.staging, row, k.rows, k.width};
        noc_pool_run(device->pool, (k.rows + ROWS_A_TASK - 1) / ROWS_A_TASK, spread_piece, &job);
    }
    return error;
}

/* Places on the device are int. */
static noc_status check(const noc_gather *g, noc_error *err)
{
    noc_status status = noc_gather_check(g, err);
    for (int a = 0; status == NOC_OK && a < 3; a++)
        if (g->to[a] > INT32_MAX)
            status = noc_fail(err, NOC_EINTERNAL, "a box that ends at voxel %lld", (long long)g->to[a]);
    return status;
}

noc_status noc_cuda_gather(noc_device *device, const noc_gather *gather, noc_error *err)
{
    noc_status status = check(gather, err);
    if (status == NOC_OK)
        status = noc_cuda_enter(device, err);
    if (status != NOC_OK)
        return status;
    for (int a = 0; a < 3; a++)
        if (gather->from[a] >= gather->to[a])
            return NOC_OK;
    cudaError_t error = take_room(device, gather);
    if (error == cudaSuccess)
        error = send_windows(device, gather);
    if (error == cudaSuccess)
        error = gather_pieces(device, gather);
    return noc_cuda_status(error, "gathering", err);
}
