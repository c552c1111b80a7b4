/* Gathering on the CPU, a row of voxels at a time: the decoder rows around it are blended along D and H,
 * spread along W and added to the row's sums window by window, so no full-size logits of a window ever exist.
 */
#include "engine/cpu/cpu.h"

#include "engine/base/memory.h"

#include <stdlib.h>
#include <string.h>

enum { ROWS_PER_PIECE = 8 };

typedef struct gather_job {
    const noc_cpu_kernels *kernels;
    const noc_gather *gather;
    noc_cpu_axis axes[3]; /* of a window's voxels; W: from the base of each block of lanes */
    int *base, blocks;    /* of lanes along W */
    float *scratch;       /* of each thread: lines, sums, weights, best, labels */
    size_t table_ints, scratch_floats, line_step, sum_step;
    int width;    /* of the box */
    bool is_only; /* logits of one window with constant weights: they are written as they are */
} gather_job;

static int64_t smaller_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* A window's part of the row (d, h) of the padded volume. sums and weights begin at the box's first column.
 */
static void add_window(const gather_job *job, const noc_gather_window *window, int64_t d, int64_t h,
                       float *lines, float *sums, size_t sum_step, float *weights)
{
    const noc_gather *g = job->gather;
    int64_t local[2] = {d - window->start[0], h - window->start[1]}, lanes = job->kernels->lanes;
    int64_t from = g->from[2] - window->start[2], to = smaller_of(g->window[2], g->to[2] - window->start[2]);
    if (local[0] < 0 || local[0] >= g->window[0] || local[1] < 0 || local[1] >= g->window[1] || from >= to ||
        to <= 0)
        return;
    from = from > 0 ? from / lanes * lanes : 0;
    size_t line = (size_t)g->grid[2], plane = line * (size_t)g->grid[1], volume = plane * (size_t)g->grid[0];
    size_t d0 = (size_t)job->axes[0].low[local[0]] * plane, d1 = (size_t)job->axes[0].high[local[0]] * plane;
    size_t h0 = (size_t)job->axes[1].low[local[1]] * line, h1 = (size_t)job->axes[1].high[local[1]] * line;
    float fd = job->axes[0].fraction[local[0]], fh = job->axes[1].fraction[local[1]];
    const float factor[4] = {(1 - fd) * (1 - fh), (1 - fd) * fh, fd * (1 - fh), fd * fh};
    for (int c = 0; c < g->classes; c++) {
        const float *logits = window->logits->data + window->offset + (size_t)c * volume;
        const float *const rows[4] = {logits + d0 + h0, logits + d0 + h1, logits + d1 + h0, logits + d1 + h1};
        job->kernels->blend(rows, factor, line, lines + (size_t)c * job->line_step);
    }
    int64_t column = window->start[2] + from - g->from[2]; /* sums have room for a block before the box */
    noc_cpu_spread s = {
        .lines = lines,
        .line_step = job->line_step,
        .classes = g->classes,
        .base = job->base,
        .low = job->axes[2].low,
        .high = job->axes[2].high,
        .fraction = job->axes[2].fraction,
        .from = (int)from,
        .to = (int)to,
        .weight = g->importance ? g->importance + (local[0] * g->window[1] + local[1]) * g->window[2] : NULL,
        .sums = sums + column,
        .sum_step = sum_step,
        .weights = weights ? weights + column : NULL};
    job->kernels->spread(&s);
}

static void write_elements(void *out, int64_t step, int element_bytes, const uint32_t *values, int count)
{
    if (element_bytes == 1)
        for (int i = 0; i < count; i++)
            ((uint8_t *)out)[i * step] = (uint8_t)values[i];
    else if (element_bytes == 2)
        for (int i = 0; i < count; i++)
            ((uint16_t *)out)[i * step] = (uint16_t)values[i];
    else
        for (int i = 0; i < count; i++)
            ((uint32_t *)out)[i * step] = values[i];
}

static void write_row(const gather_job *job, int64_t at, const float *sums, float *best, uint32_t *values)
{
    const noc_gather *g = job->gather;
    if (g->kind == NOC_GATHER_LOGITS) {
        float *out = (float *)g->out + at;
        for (int c = 0; c < g->classes; c++)
            for (int i = 0; i < job->width; i++)
                out[c * g->out_class_step + i * g->out_step[2]] = sums[(size_t)c * job->sum_step + (size_t)i];
        return;
    }
    if (g->kind == NOC_GATHER_LABELS)
        job->kernels->argmax(sums, job->sum_step, g->classes, job->width, values, best);
    else
        job->kernels->threshold(sums, job->sum_step, g->classes, job->width, g->threshold, values);
    write_elements((char *)g->out + at * g->element_bytes, g->out_step[2], g->element_bytes, values,
                   job->width);
}

static void gather_piece(void *argument, int piece, int thread)
{
    const gather_job *job = argument;
    const noc_gather *g = job->gather;
    size_t classes = (size_t)g->classes;
    int lanes = job->kernels->lanes;
    float *lines = job->scratch + (size_t)thread * job->scratch_floats,
          *sums = lines + classes * job->line_step;
    float *weights = sums + classes * job->sum_step, *best = weights + job->sum_step;
    int64_t height = g->to[1] - g->from[1], rows = (g->to[0] - g->from[0]) * height;
    int64_t first = (int64_t)piece * ROWS_PER_PIECE, last = smaller_of(first + ROWS_PER_PIECE, rows);
    memset(lines, 0, classes * job->line_step * sizeof *lines);
    for (int64_t row = first; row < last; row++) {
        int64_t d = row / height, h = row % height;
        if (job->is_only) {
            add_window(job, &g->windows[0], g->from[0] + d, g->from[1] + h, lines,
                       (float *)g->out + d * g->out_step[0] + h * g->out_step[1], (size_t)g->out_class_step,
                       NULL);
            continue;
        }
        memset(sums, 0, (classes + 1) * job->sum_step * sizeof *sums);
        for (int i = 0; i < g->window_count; i++)
            add_window(job, &g->windows[i], g->from[0] + d, g->from[1] + h, lines, sums + lanes,
                       job->sum_step, weights + lanes);
        job->kernels->divide(sums + lanes, job->sum_step, weights + lanes, g->classes, job->width);
        write_row(job, d * g->out_step[0] + h * g->out_step[1], sums + lanes, best,
                  (uint32_t *)(best + job->sum_step));
    }
}

/* What a gather needs, by its shape: sizes, but no memory yet. */
static gather_job job_of(const noc_device *device, const noc_gather *g)
{
    gather_job job = {.kernels = device->kernels, .gather = g, .width = (int)(g->to[2] - g->from[2])};
    size_t lanes = (size_t)job.kernels->lanes, classes = (size_t)g->classes;
    int size[3];
    for (int a = 0; a < 3; a++)
        size[a] = g->grid[a] * g->upsample[a];
    job.blocks = noc_cpu_parts(size[2], job.kernels->lanes);
    job.table_ints =
        3 * ((size_t)size[0] + (size_t)size[1] + (size_t)job.blocks * lanes) + (size_t)job.blocks;
    job.table_ints = (job.table_ints + 15) / 16 * 16;
    job.line_step = (size_t)g->grid[2] + lanes;
    job.sum_step = (size_t)job.width + 2 * lanes;
    job.scratch_floats = (classes * (job.line_step + job.sum_step) + 3 * job.sum_step + 31) / 16 * 16;
    return job;
}

/* The tables, and behind them the scratch of each thread. */
static noc_status take_room(noc_device *device, gather_job *job, noc_error *err)
{
    size_t floats = job->table_ints + (size_t)noc_pool_threads(device->pool) * job->scratch_floats;
    if (floats > device->gather_floats) {
        free(device->gather_room);
        device->gather_floats = 0;
        device->gather_room = noc_alloc(floats, sizeof(float), err);
        if (!device->gather_room)
            return NOC_ENOMEMORY;
        device->gather_floats = floats;
    }
    job->scratch = device->gather_room + job->table_ints;
    return NOC_OK;
}

/* Positions within a window; those along W are kept from the first sample of each block of lanes, a vector's
 * reach. */
static void fill_tables(gather_job *job, void *room)
{
    const noc_gather *g = job->gather;
    int *table = memset(room, 0, job->table_ints * sizeof *table), lanes = job->kernels->lanes;
    for (int a = 0; a < 3; a++) {
        int size = g->grid[a] * g->upsample[a], n = a == 2 ? job->blocks * lanes : size;
        job->axes[a] = (noc_cpu_axis){.low = table, .high = table + n, .fraction = (float *)(table + 2 * n)};
        noc_cpu_axis_fill(g->grid[a], size, &job->axes[a]);
        table += 3 * n;
    }
    job->base = table;
    for (int i = 0; i < g->grid[2] * g->upsample[2]; i++) {
        if (i % lanes == 0)
            job->base[i / lanes] = job->axes[2].low[i];
        job->axes[2].low[i] -= job->base[i / lanes];
        job->axes[2].high[i] -= job->base[i / lanes];
    }
}

noc_status noc_cpu_gather_reserve(noc_device *device, const noc_gather *widest, noc_error *err)
{
    gather_job job = job_of(device, widest);
    return take_room(device, &job, err);
}

noc_status noc_cpu_gather(noc_device *device, const noc_gather *gather, noc_error *err)
{
    noc_status status = noc_gather_check(gather, err);
    if (status != NOC_OK)
        return status;
    for (int a = 0; a < 3; a++)
        if (gather->from[a] >= gather->to[a])
            return NOC_OK;
    gather_job job = job_of(device, gather);
    job.is_only = gather->kind == NOC_GATHER_LOGITS && gather->window_count == 1 && !gather->importance &&
                  gather->out_step[2] == 1 && gather->from[2] == gather->windows[0].start[2];
    status = take_room(device, &job, err);
    if (status != NOC_OK)
        return status;
    fill_tables(&job, device->gather_room);
    int64_t rows = (gather->to[0] - gather->from[0]) * (gather->to[1] - gather->from[1]);
    noc_cpu_run(device, noc_cpu_parts(rows, ROWS_PER_PIECE), gather_piece, &job);
    return NOC_OK;
}
