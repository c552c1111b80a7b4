/* Gatherings made by hand; see gather_sample.h. */
#include "tests/gather_sample.h"

#include "tests/graph_sample.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void start_scene(scene *s, const int grid[3], const int upsample[3], const int64_t window[3],
                 const int64_t volume[3], int classes, bool is_weighted)
{
    memset(s, 0, sizeof *s);
    noc_gather *g = &s->gather;
    g->classes = classes;
    s->floats = (size_t)(grid[0] * grid[1] * grid[2] * classes);
    seed_uniform(s->floats);
    for (int a = 0; a < 3; a++) {
        g->grid[a] = grid[a];
        g->upsample[a] = upsample[a];
        g->window[a] = window[a];
        s->volume[a] = volume[a];
    }
    size_t voxels = (size_t)(window[0] * window[1] * window[2]);
    s->importance = malloc(voxels * sizeof *s->importance);
    for (size_t i = 0; i < voxels; i++)
        s->importance[i] = 0.01f + (float)fabs(uniform());
    g->importance = is_weighted ? s->importance : NULL;
    g->windows = s->windows;
    int64_t start[3];
    for (start[0] = 0;; start[0] += (window[0] + 1) / 2) {
        for (start[1] = 0;; start[1] += (window[1] + 1) / 2) {
            for (start[2] = 0;; start[2] += (window[2] + 1) / 2) {
                ck_assert_int_lt(g->window_count, 64);
                noc_gather_window *w = &s->windows[g->window_count++];
                for (int a = 0; a < 3; a++)
                    w->start[a] = start[a] < volume[a] - window[a] ? start[a] : volume[a] - window[a];
                if (start[2] >= volume[2] - window[2])
                    break;
            }
            if (start[1] >= volume[1] - window[1])
                break;
        }
        if (start[0] >= volume[0] - window[0])
            break;
    }
    s->logits = malloc((size_t)g->window_count * s->floats * sizeof *s->logits);
    for (size_t i = 0; i < (size_t)g->window_count * s->floats; i++)
        s->logits[i] = (float)(int)(uniform() * 8) * 0.5f; /* few values, so that ties occur */
}

noc_buffer *fill_buffer(const noc_device_ops *ops, noc_device *device, const scene *s)
{
    const noc_gather *g = &s->gather;
    graph pass;
    noc_network *network = NULL;
    noc_buffer *buffer = NULL;
    memset(&pass, 0, sizeof pass);
    pass.plan.values = pass.values;
    pass.plan.ops = pass.ops;
    add_value(&pass, g->grid[0], g->grid[1], g->grid[2], g->classes);
    add_like(&pass, NOC_OP_ACTIVATION, 0);
    ck_assert_int_eq(ops->network_create(device, &pass.plan, 1, NULL, &network, NULL), NOC_OK);
    size_t bytes = (size_t)g->window_count * s->floats * sizeof(float),
           tokens = s->floats / (size_t)g->classes;
    ck_assert_int_eq(ops->buffer_create(device, bytes, &buffer, NULL), NOC_OK);
    float *rows = malloc(s->floats * sizeof *rows);
    const noc_window_input input = {.host = rows};
    for (int i = 0; i < g->window_count; i++) {
        size_t offset = (size_t)i * s->floats;
        for (size_t t = 0; t < s->floats; t++)
            rows[t % tokens * (size_t)g->classes + t / tokens] = s->logits[offset + t];
        ck_assert_int_eq(ops->network_run(network, 1, &input, false, &buffer, &offset, NULL), NOC_OK);
    }
    free(rows);
    ops->network_free(network);
    return buffer;
}

static double sample(const float *plane, const int grid[3], const int upsample[3], const int64_t at[3])
{
    int low[3], high[3];
    double share[3], sum = 0;
    for (int a = 0; a < 3; a++) {
        double x = fmax(0, (at[a] + 0.5) / upsample[a] - 0.5);
        low[a] = (int)fmin(x, grid[a] - 1);
        high[a] = low[a] + 1 < grid[a] ? low[a] + 1 : low[a];
        share[a] = x - low[a];
    }
    for (int corner = 0; corner < 8; corner++) {
        double factor = 1;
        int at_corner[3];
        for (int a = 0; a < 3; a++) {
            bool is_high = corner >> a & 1;
            factor *= is_high ? share[a] : 1 - share[a];
            at_corner[a] = is_high ? high[a] : low[a];
        }
        sum +=
            factor * plane[((size_t)at_corner[0] * (size_t)grid[1] + (size_t)at_corner[1]) * (size_t)grid[2] +
                           (size_t)at_corner[2]];
    }
    return sum;
}

/* The blended logit of a voxel of the volume. */
static double blended(const scene *s, int class, const int64_t at[3])
{
    const noc_gather *g = &s->gather;
    double sum = 0, weights = 0;
    for (int i = 0; i < g->window_count; i++) {
        int64_t local[3];
        bool is_inside = true;
        for (int a = 0; a < 3; a++) {
            local[a] = at[a] - s->windows[i].start[a];
            is_inside = is_inside && local[a] >= 0 && local[a] < g->window[a];
        }
        if (!is_inside)
            continue;
        double weight =
            g->importance ? g->importance[(local[0] * g->window[1] + local[1]) * g->window[2] + local[2]] : 1;
        const float *plane =
            s->logits + (size_t)i * s->floats + (size_t) class * (s->floats / (size_t)g->classes);
        sum += weight * sample(plane, g->grid, g->upsample, local);
        weights += weight;
    }
    return sum / weights;
}

enum { NEAR_NANO = 4000 }; /* 4e-6: closer than that, f32 may decide otherwise */

void check_voxel(const scene *s, const int64_t at[3], uint32_t value, const float *logits)
{
    const noc_gather *g = &s->gather;
    double near = NEAR_NANO * 1e-9, best = -INFINITY, chosen = 0;
    for (int c = 0; c < g->classes; c++) {
        double logit = blended(s, c, at);
        best = fmax(best, logit);
        chosen = g->kind == NOC_GATHER_LABELS && (uint32_t)c == value ? logit : chosen;
        if (g->kind == NOC_GATHER_LOGITS)
            ck_assert_double_le(fabs(logit - (double)logits[c * g->out_class_step]), near);
        else if (g->kind == NOC_GATHER_REGIONS && fabs(logit - (double)g->threshold) > near)
            ck_assert_int_eq((int)(value >> c & 1), logit >= (double)g->threshold);
    }
    if (g->kind == NOC_GATHER_LABELS) {
        ck_assert_uint_lt(value, (unsigned)g->classes);
        ck_assert_double_le(best - chosen, near);
    }
}

uint32_t element(const void *data, int bytes, int64_t at)
{
    if (bytes == 1)
        return ((const uint8_t *)data)[at];
    return bytes == 2 ? ((const uint16_t *)data)[at] : ((const uint32_t *)data)[at];
}

void *gather_into(const noc_device_ops *ops, noc_device *device, scene *s, const int order[3], int flips,
                  int64_t *origin, size_t *bytes)
{
    noc_gather *g = &s->gather;
    int64_t step = 1, planes = g->kind == NOC_GATHER_LOGITS ? g->classes : 1;
    *origin = 0;
    for (int i = 2; i >= 0; i--) {
        int a = order[i];
        int64_t size = g->to[a] - g->from[a];
        g->out_step[a] = flips >> a & 1 ? -step : step;
        *origin += flips >> a & 1 ? (size - 1) * step : 0;
        step *= size;
    }
    g->out_class_step = step;
    *bytes = (size_t)(step * planes * g->element_bytes);
    char *out = malloc(*bytes);
    memset(out, 0xA5, *bytes);
    g->out = out + *origin * g->element_bytes;
    ck_assert_int_eq(ops->gather(device, g, NULL), NOC_OK);
    return out;
}

void set_box(scene *s, int shrink)
{
    for (int a = 0; a < 3; a++) {
        s->gather.from[a] = shrink * (a + 1);
        s->gather.to[a] = s->volume[a] - shrink * (3 - a);
    }
}
