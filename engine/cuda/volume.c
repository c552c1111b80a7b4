/* Volumes on the GPU: stored voxels go there once, in pieces through two pinned buffers, and are converted at
 * once to elements in the model's order; windows that overlap are cut from those. All of it is on a stream of
 * its own and in the calling thread, so that it overlaps the kernels of other studies. Blocks of studies that
 * are gone are kept for others: freeing one would wait for all kernels. */
#include "engine/cuda/cuda.h"

#include "engine/base/memory.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 256, SPARED = 8 /* part of the memory that volumes leave to other work */ };
#ifdef NOC_CUDA_EMULATED
enum { PIECE_BYTES = 16 << 10 };
#else
enum { PIECE_BYTES = 4 << 20 };
#endif

_Static_assert((int)NOC_CUDA_UNSIGNED == NOC_NUMBER_UNSIGNED && (int)NOC_CUDA_SIGNED == NOC_NUMBER_SIGNED &&
                   (int)NOC_CUDA_FLOAT == NOC_NUMBER_FLOAT,
               "kinds of numbers have the device's numbers");
_Static_assert((int)NOC_CUDA_SLICES == NOC_POINTWISE_SLICES &&
                   (int)NOC_CUDA_SHIFT_DIVIDE == NOC_POINTWISE_SHIFT_DIVIDE &&
                   (int)NOC_CUDA_SHIFT_DIVIDE_NONZERO == NOC_POINTWISE_SHIFT_DIVIDE_NONZERO &&
                   (int)NOC_CUDA_CLIP == NOC_POINTWISE_CLIP,
               "pointwise steps have the device's numbers");
_Static_assert((int)PIECE_BYTES >= NOC_MAX_CHANNELS * (int)sizeof(float), "a voxel of padding is a piece");

/* ---- room ---- */

void noc_cuda_volumes_init(noc_device *device)
{
    pthread_mutex_init(&device->volumes.sending, NULL);
    pthread_mutex_init(&device->volumes.keeping, NULL);
}

static void free_blocks(noc_volume *volumes)
{
    while (volumes) {
        noc_volume *next = volumes->next;
        cudaFree(volumes->block);
        free(volumes);
        volumes = next;
    }
}

void noc_cuda_volumes_free(noc_device *device)
{
    noc_cuda_volume_room *room = &device->volumes;
    free_blocks(room->idle);
    for (int i = 0; i < 2; i++) {
        cudaFreeHost(room->staging[i]);
        if (room->copied[i])
            cudaEventDestroy(room->copied[i]);
    }
    cudaFree(room->piece);
    if (room->stream)
        cudaStreamDestroy(room->stream);
    pthread_mutex_destroy(&room->sending);
    pthread_mutex_destroy(&room->keeping);
}

/* What the first volume finds missing. */
static cudaError_t make_room(noc_cuda_volume_room *room)
{
    cudaError_t error = cudaSuccess;
    if (!room->stream)
        error = cudaStreamCreateWithFlags(&room->stream, cudaStreamNonBlocking);
    for (int i = 0; i < 2; i++) {
        if (error == cudaSuccess && !room->staging[i])
            error = cudaMallocHost(&room->staging[i], PIECE_BYTES);
        if (error == cudaSuccess && !room->copied[i])
            error = cudaEventCreateWithFlags(&room->copied[i], cudaEventDisableTiming);
    }
    if (error == cudaSuccess && !room->piece)
        error = cudaMalloc(&room->piece, PIECE_BYTES);
    return error;
}

/* The smallest idle one that is large enough; else *others are all idle ones, no longer the room's. */
static noc_volume *take_idle(noc_cuda_volume_room *room, size_t bytes, noc_volume **others)
{
    noc_volume **best = NULL, *taken = NULL;
    pthread_mutex_lock(&room->keeping);
    for (noc_volume **at = &room->idle; *at; at = &(*at)->next)
        if ((*at)->block_bytes >= bytes && (!best || (*at)->block_bytes < (*best)->block_bytes))
            best = at;
    if (best) {
        taken = *best;
        *best = taken->next;
    } else {
        *others = room->idle;
        room->idle = NULL;
    }
    pthread_mutex_unlock(&room->keeping);
    return taken;
}

static cudaError_t allocate(size_t bytes, unsigned char **block)
{
    size_t left, total;
    cudaError_t error = cudaMemGetInfo(&left, &total);
    if (error == cudaSuccess && (left < bytes || left - bytes < total / SPARED))
        error = cudaErrorMemoryAllocation;
    return error == cudaSuccess ? cudaMalloc((void **)block, bytes) : error;
}

static noc_status take_block(noc_device *device, size_t bytes, noc_volume **volume, noc_error *err)
{
    noc_volume *others = NULL, *made = take_idle(&device->volumes, bytes, &others);
    if (made) {
        *volume = made;
        return NOC_OK;
    }
    free_blocks(others);
    made = noc_alloc_zeroed(1, sizeof *made, err);
    if (!made)
        return NOC_ENOMEMORY;
    made->device = device;
    made->block_bytes = bytes;
    noc_status status = noc_cuda_status(allocate(bytes, &made->block), "memory for a volume", err);
    if (status == NOC_OK)
        *volume = made;
    else
        free(made);
    return status;
}

void noc_cuda_volume_free(noc_volume *volume)
{
    if (!volume)
        return;
    noc_cuda_volume_room *room = &volume->device->volumes;
    pthread_mutex_lock(&room->keeping);
    volume->next = room->idle;
    room->idle = volume;
    pthread_mutex_unlock(&room->keeping);
}

/* ---- sending ---- */

/* A block: the voxel of padding, the tables of steps over slices, the voxels. */
typedef struct layout {
    size_t tables, voxels, bytes;
} layout;

static size_t table_numbers(const noc_volume_source *s)
{
    return (size_t)s->channels * (size_t)s->stored_size[2];
}

static noc_status lay_out(const noc_device *device, const noc_volume_source *s, layout *l, noc_error *err)
{
    size_t element = device->type == NOC_CUDA_F32 ? sizeof(float) : sizeof(uint16_t);
    size_t bytes = (size_t)s->channels * element;
    bool fits = s->step_count <= NOC_CUDA_POINTWISE_MOST;
    l->tables = l->voxels = ALIGNMENT;
    for (int a = 0; a < 3; a++)
        fits = fits && s->stored_size[a] <= INT32_MAX && noc_size_mul(bytes, (size_t)s->size[a], &bytes);
    for (int i = 0; i < s->step_count; i++)
        if (s->steps[i].kind == NOC_POINTWISE_SLICES)
            l->voxels += 2 * table_numbers(s) * sizeof(double);
    l->voxels = (l->voxels + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (!fits || !noc_size_add(bytes, l->voxels, &l->bytes))
        return noc_fail(err, NOC_ETOOLARGE, "a volume of more voxels or steps than the GPU's kernels count");
    return NOC_OK;
}

/* At most PIECE_BYTES, while the piece before it may still be on its way. */
static cudaError_t send_piece(noc_cuda_volume_room *room, const void *from, size_t bytes, void *to)
{
    int turn = room->turn;
    room->turn = !turn;
    cudaError_t error = cudaEventSynchronize(room->copied[turn]);
    if (error != cudaSuccess)
        return error;
    memcpy(room->staging[turn], from, bytes);
    error = cudaMemcpyAsync(to, room->staging[turn], bytes, cudaMemcpyHostToDevice, room->stream);
    return error == cudaSuccess ? cudaEventRecord(room->copied[turn], room->stream) : error;
}

static cudaError_t send_table(noc_cuda_volume_room *room, const double *from, size_t count, double *to)
{
    const size_t most = PIECE_BYTES / sizeof *from;
    cudaError_t error = cudaSuccess;
    for (size_t at = 0, n; error == cudaSuccess && at < count; at += n) {
        n = count - at < most ? count - at : most;
        error = send_piece(room, from + at, n * sizeof *from, to + at);
    }
    return error;
}

static cudaError_t send_tables(noc_cuda_volume_room *room, const noc_volume_source *s, double *to)
{
    cudaError_t error = cudaSuccess;
    for (int i = 0; error == cudaSuccess && i < s->step_count; i++) {
        if (s->steps[i].kind != NOC_POINTWISE_SLICES)
            continue;
        error = send_table(room, s->steps[i].factor, table_numbers(s), to);
        if (error == cudaSuccess)
            error = send_table(room, s->steps[i].addend, table_numbers(s), to + table_numbers(s));
        to += 2 * table_numbers(s);
    }
    return error;
}

static cudaError_t send_padding(noc_device *device, const noc_volume_source *s, void *to)
{
    noc_cuda_volume_room *room = &device->volumes;
    float pad[NOC_MAX_CHANNELS];
    for (int c = 0; c < s->channels; c++)
        pad[c] = s->pad_value;
    cudaError_t error = send_piece(room, pad, (size_t)s->channels * sizeof *pad, room->piece);
    return error == cudaSuccess
               ? noc_cuda_take_run(room->stream, device->type, room->piece, false, to, 1, 1, s->channels)
               : error;
}

/* The steps as they are for one channel. */
static void take_steps(const noc_volume_source *s, int channel, const double *tables, noc_cuda_conversion *k)
{
    k->step_count = s->step_count;
    for (int i = 0; i < s->step_count; i++) {
        const noc_pointwise *step = &s->steps[i];
        k->steps[i] = (noc_cuda_pointwise){.kind = (noc_cuda_pointwise_kind)step->kind,
                                           .shift = step->shift[channel],
                                           .divisor = step->divisor[channel],
                                           .low = step->low[channel],
                                           .high = step->high[channel]};
        if (step->kind != NOC_POINTWISE_SLICES)
            continue;
        k->steps[i].factor = tables + channel * s->stored_size[2];
        k->steps[i].addend = k->steps[i].factor + table_numbers(s);
        tables += 2 * table_numbers(s);
    }
}

static noc_cuda_conversion conversion_of(noc_device *device, const noc_volume_source *s, int channel,
                                         const noc_volume *v, const layout *l)
{
    const noc_stored_channel *stored = &s->channel[channel];
    noc_cuda_conversion k = {.type = device->type,
                             .in = device->volumes.piece,
                             .kind = (noc_cuda_number_kind)stored->kind,
                             .bytes = stored->bytes,
                             .slope = stored->slope,
                             .inter = stored->inter,
                             .out = v->block + l->voxels,
                             .channels = s->channels,
                             .channel = channel};
    for (int a = 0; a < 3; a++) {
        k.stored_size[a] = (int)s->stored_size[a];
        k.size[a] = (int)s->size[a];
        k.axis[a] = s->axis[a];
        k.direction[a] = s->direction[a];
        k.first[a] = (int)s->first[a];
    }
    take_steps(s, channel, (const double *)(const void *)(v->block + l->tables), &k);
    return k;
}

static cudaError_t send_channel(noc_device *device, const noc_volume_source *s, int channel,
                                const noc_volume *v, const layout *l)
{
    noc_cuda_conversion k = conversion_of(device, s, channel, v, l);
    const int64_t count = s->stored_size[0] * s->stored_size[1] * s->stored_size[2],
                  most = PIECE_BYTES / k.bytes;
    cudaError_t error = cudaSuccess;
    for (k.from = 0; error == cudaSuccess && k.from < count; k.from += k.count) {
        k.count = count - k.from < most ? count - k.from : most;
        error = send_piece(&device->volumes, (const char *)s->channel[channel].voxels + k.from * k.bytes,
                           (size_t)(k.count * k.bytes), device->volumes.piece);
        if (error == cudaSuccess)
            error = noc_cuda_convert_run(device->volumes.stream, &k);
    }
    return error;
}

/* Whatever fails, nothing is under way to the block on return. */
static cudaError_t send(noc_device *device, const noc_volume_source *s, const noc_volume *v, const layout *l)
{
    noc_cuda_volume_room *room = &device->volumes;
    cudaError_t error = make_room(room);
    if (error != cudaSuccess)
        return error;
    error = send_padding(device, s, v->block);
    if (error == cudaSuccess)
        error = send_tables(room, s, (double *)(void *)(v->block + l->tables));
    for (int c = 0; error == cudaSuccess && c < s->channels; c++)
        error = send_channel(device, s, c, v, l);
    cudaError_t last = cudaStreamSynchronize(room->stream);
    return error == cudaSuccess ? last : error;
}

noc_status noc_cuda_volume_create(noc_device *device, const noc_volume_source *source, noc_volume **volume,
                                  noc_error *err)
{
    layout l;
    noc_volume *made;
    noc_status status = noc_cuda_enter(device, err);
    if (status == NOC_OK)
        status = lay_out(device, source, &l, err);
    if (status == NOC_OK)
        status = take_block(device, l.bytes, &made, err);
    if (status != NOC_OK)
        return status;
    made->voxels = made->block + l.voxels;
    for (int a = 0; a < 3; a++)
        made->size[a] = (int)source->size[a];
    pthread_mutex_lock(&device->volumes.sending);
    status = noc_cuda_status(send(device, source, made, &l), "sending a volume", err);
    pthread_mutex_unlock(&device->volumes.sending);
    if (status == NOC_OK)
        *volume = made;
    else
        noc_cuda_volume_free(made);
    return status;
}

/* ---- cutting ---- */

noc_cuda_cut noc_cuda_cut_of(const noc_window_input *input, int window)
{
    const noc_volume *v = input->volume;
    noc_cuda_cut cut = {.voxels = v->voxels, .pad = v->block, .flips = input->flips, .window = window};
    for (int a = 0; a < 3; a++) {
        cut.size[a] = v->size[a];
        cut.start[a] = (int)input->start[a];
    }
    return cut;
}
