/* Resampling, an axis at a time: padding, B-spline filter and interpolation are linear and separable. Planes
 * are resized along W and H in double, kept in f32, and resized along D by columns. What always holds: one
 * thread, one order of sums, all lanes alike. */
#include "engine/resample.h"

#include "engine/base/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    CUBIC_PAD = 12, /* edge samples that scipy adds before its spline filter */
    TAPS = 4,
    COLUMNS = 64,   /* at a time along D */
    POLE_REACH = 40 /* terms of a sum whose next one is below 1e-22 */
};
#define THICK_RATIO 3

int64_t noc_resample_size(int64_t size, double old_spacing, double new_spacing)
{
    double wanted = rint(old_spacing / new_spacing * (double)size);
    return wanted >= INT32_MAX ? INT32_MAX : wanted > 1 ? (int64_t)wanted : 1;
}

static bool is_thick(const double spacing[3])
{
    double most = fmax(spacing[0], fmax(spacing[1], spacing[2]));
    return most / fmin(spacing[0], fmin(spacing[1], spacing[2])) > THICK_RATIO;
}

int noc_resample_thick_axis(const double old_spacing[3], const double new_spacing[3])
{
    const double *s = is_thick(old_spacing) ? old_spacing : new_spacing;
    int axis = -1;
    if (!is_thick(s))
        return -1;
    for (int a = 0; a < 3; a++)
        if (s[a] >= s[(a + 1) % 3] && s[a] >= s[(a + 2) % 3]) {
            if (axis >= 0)
                return -1;
            axis = a;
        }
    return axis;
}

double noc_resample_place(int64_t from, int64_t to, int64_t i)
{
    return (double)from / (double)to * ((double)i + 0.5) - 0.5;
}

int64_t noc_resample_nearest(int64_t from, int64_t to, int64_t i)
{
    int64_t at = (int64_t)floor(noc_resample_place(from, to, i) + 0.5);
    return at < 0 ? 0 : at >= from ? from - 1 : at;
}

/* ---- an axis ---- */

/* Output i is the sum of weight[i][t] * line[first[i] + t], line being the input between `pad` edge values.
 */
typedef struct axis {
    int64_t from, to;
    int pad, taps;
    int64_t *first;
    double (*weight)[TAPS];
} axis;

static void place_nearest(axis *a)
{
    a->taps = 1;
    for (int64_t i = 0; i < a->to; i++) {
        a->first[i] = noc_resample_nearest(a->from, a->to, i);
        a->weight[i][0] = 1;
    }
}

static void place_linear(axis *a)
{
    a->taps = 2;
    a->pad = 1;
    for (int64_t i = 0; i < a->to; i++) {
        double x = noc_resample_place(a->from, a->to, i) + a->pad, t = x - floor(x);
        a->first[i] = (int64_t)floor(x);
        a->weight[i][0] = 1 - t;
        a->weight[i][1] = t;
    }
}

static void place_cubic(axis *a)
{
    a->taps = 4;
    a->pad = CUBIC_PAD;
    for (int64_t i = 0; i < a->to; i++) {
        double x = noc_resample_place(a->from, a->to, i) + a->pad, t = x - floor(x), u = 1 - t;
        a->first[i] = (int64_t)floor(x) - 1;
        a->weight[i][0] = u * u * u / 6;
        a->weight[i][1] = (4 - 6 * t * t + 3 * t * t * t) / 6;
        a->weight[i][2] = (4 - 6 * u * u + 3 * u * u * u) / 6;
        a->weight[i][3] = t * t * t / 6;
    }
}

static noc_status make_axis(const noc_resampling *r, int number, axis *a, noc_error *err)
{
    *a = (axis){.from = r->from[number], .to = r->to[number]};
    a->first = noc_alloc((size_t)a->to, sizeof *a->first, err);
    a->weight = noc_alloc((size_t)a->to, sizeof *a->weight, err);
    if (!a->first || !a->weight)
        return NOC_ENOMEMORY;
    if (number == r->thick_axis || a->from == a->to)
        place_nearest(a);
    else if (r->order == 1)
        place_linear(a);
    else
        place_cubic(a);
    return NOC_OK;
}

/* Values to coefficients of cubic B-splines, mirrored at both ends; line: [count][lanes], count > 2. */
static void filter(double *line, int64_t count, int64_t lanes)
{
    const double pole = sqrt(3) - 2;
    double *last = line + (count - 1) * lanes, power = pole;
    for (int64_t i = 0; i < count * lanes; i++)
        line[i] *= 6;
    for (int64_t i = 1; i < count && i < POLE_REACH; i++, power *= pole)
        for (int64_t l = 0; l < lanes; l++)
            line[l] += power * line[i * lanes + l];
    for (int64_t i = 1; i < count; i++)
        for (int64_t l = 0; l < lanes; l++)
            line[i * lanes + l] += pole * line[(i - 1) * lanes + l];
    for (int64_t l = 0; l < lanes; l++)
        last[l] = (pole * last[l - lanes] + last[l]) * pole / (pole * pole - 1);
    for (int64_t i = count - 2; i >= 0; i--)
        for (int64_t l = 0; l < lanes; l++)
            line[i * lanes + l] = pole * (line[(i + 1) * lanes + l] - line[i * lanes + l]);
}

/* in: [from][lanes]; out: [to][lanes]; line: room for [from + 2 pad][lanes]. */
static void resize(const axis *a, int64_t lanes, const double *in, double *line, double *out)
{
    const size_t row = (size_t)lanes * sizeof *line;
    int64_t count = a->from + 2 * a->pad;
    for (int64_t i = 0; i < a->pad; i++) {
        memcpy(line + i * lanes, in, row);
        memcpy(line + (count - 1 - i) * lanes, in + (a->from - 1) * lanes, row);
    }
    memcpy(line + a->pad * lanes, in, (size_t)a->from * row);
    if (a->taps == 4)
        filter(line, count, lanes);
    for (int64_t i = 0; i < a->to; i++) {
        const double *w = a->weight[i], *v = line + a->first[i] * lanes;
        double *to = out + i * lanes;
        if (a->taps == 1)
            memcpy(to, v, row);
        else if (a->taps == 2)
            for (int64_t l = 0; l < lanes; l++)
                to[l] = w[0] * v[l] + w[1] * v[lanes + l];
        else
            for (int64_t l = 0; l < lanes; l++)
                to[l] = w[0] * v[l] + w[1] * v[lanes + l] + w[2] * v[2 * lanes + l] + w[3] * v[3 * lanes + l];
    }
}

/* ---- a volume ---- */

typedef struct buffers {
    axis axes[3];
    double *plane, *other, *line;
    double *low, *high; /* of the volume, or of each plane across the thick axis */
    float *middle;      /* [D][H'][W'] */
} buffers;

typedef struct room_sizes {
    size_t plane, line, bounds, middle;
} room_sizes;

static size_t larger_of(size_t a, size_t b)
{
    return a > b ? a : b;
}

static room_sizes sizes_of(const noc_resampling *r)
{
    const size_t from[3] = {(size_t)r->from[0], (size_t)r->from[1], (size_t)r->from[2]};
    const size_t to[3] = {(size_t)r->to[0], (size_t)r->to[1], (size_t)r->to[2]};
    room_sizes s = {.bounds = r->thick_axis < 0 ? 1 : from[r->thick_axis]};
    s.plane = larger_of(larger_of(noc_size_product(from[1], from[2]), noc_size_product(from[1], to[2])),
                        larger_of(noc_size_product(to[1], to[2]), noc_size_product(to[0], COLUMNS)));
    s.plane = larger_of(s.plane, noc_size_product(from[0], COLUMNS));
    s.line = larger_of(larger_of(noc_size_product(from[2] + 2 * CUBIC_PAD, from[1]),
                                 noc_size_product(from[1] + 2 * CUBIC_PAD, to[2])),
                       noc_size_product(from[0] + 2 * CUBIC_PAD, COLUMNS));
    s.middle = noc_size_product(noc_size_product(to[1], to[2]), from[0]);
    return s;
}

size_t noc_resample_bytes(const noc_resampling *resampling)
{
    room_sizes s = sizes_of(resampling);
    size_t doubles = noc_size_sum(noc_size_sum(noc_size_product(s.plane, 2), s.line), 2 * s.bounds);
    return noc_size_sum(noc_size_product(doubles, sizeof(double)), noc_size_product(s.middle, sizeof(float)));
}

static noc_status make_room(const noc_resampling *r, buffers *room, noc_error *err)
{
    room_sizes s = sizes_of(r);
    for (int a = 0; a < 3; a++)
        if (make_axis(r, a, &room->axes[a], err) != NOC_OK)
            return NOC_ENOMEMORY;
    room->plane = noc_alloc(s.plane, sizeof(double), err);
    room->other = noc_alloc(s.plane, sizeof(double), err);
    room->line = noc_alloc(s.line, sizeof(double), err);
    room->low = noc_alloc(s.bounds, sizeof(double), err);
    room->high = noc_alloc(s.bounds, sizeof(double), err);
    room->middle = noc_alloc(s.middle, sizeof(float), err);
    if (!room->plane || !room->other || !room->line || !room->low || !room->high || !room->middle)
        return NOC_ENOMEMORY;
    for (size_t i = 0; i < s.bounds; i++) {
        room->low[i] = INFINITY;
        room->high[i] = -INFINITY;
    }
    return NOC_OK;
}

static void free_room(buffers *room)
{
    for (int a = 0; a < 3; a++) {
        free(room->axes[a].first);
        free(room->axes[a].weight);
    }
    free(room->plane);
    free(room->other);
    free(room->line);
    free(room->low);
    free(room->high);
    free(room->middle);
}

/* Which of the bounds are those of a voxel. */
static int64_t bound_of(int thick_axis, int64_t d, int64_t h, int64_t w)
{
    return thick_axis < 0 ? 0 : thick_axis == 0 ? d : thick_axis == 1 ? h : w;
}

static void widen_bounds(const noc_resampling *r, buffers *room, int64_t d)
{
    const double *v = room->plane;
    for (int64_t h = 0; h < r->from[1]; h++)
        for (int64_t w = 0; w < r->from[2]; w++, v++) {
            int64_t b = bound_of(r->thick_axis, d, h, w);
            room->low[b] = *v < room->low[b] ? *v : room->low[b];
            room->high[b] = *v > room->high[b] ? *v : room->high[b];
        }
}

static void transpose(const double *in, int64_t rows, int64_t columns, double *out)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++)
            out[c * rows + r] = in[r * columns + c];
}

/* room->plane, [H][W], to [H'][W'] of the middle. Lanes lie along the axis that is left alone. */
static void resize_plane(const noc_resampling *r, buffers *room, float *middle)
{
    transpose(room->plane, r->from[1], r->from[2], room->other);
    resize(&room->axes[2], r->from[1], room->other, room->line, room->plane);
    transpose(room->plane, r->to[2], r->from[1], room->other);
    resize(&room->axes[1], r->to[2], room->other, room->line, room->plane);
    for (int64_t i = 0; i < r->to[1] * r->to[2]; i++)
        middle[i] = (float)room->plane[i];
}

/* The source's plane or voxel of bounds that output (d,h,w) is made of, and the value between them. */
static float clipped(const noc_resampling *r, const buffers *room, int64_t d, int64_t h, int64_t w, double v)
{
    int64_t b = 0;
    if (r->thick_axis >= 0)
        b = room->axes[r->thick_axis].first[bound_of(r->thick_axis, d, h, w)];
    return (float)(v < room->low[b] ? room->low[b] : v > room->high[b] ? room->high[b] : v);
}

/* Columns [w, w + lanes) of row h of the middle, along D. */
static void resize_columns(const noc_resampling *r, buffers *room, int64_t h, int64_t w, int64_t lanes,
                           float *out)
{
    int64_t plane = r->to[1] * r->to[2], at = h * r->to[2] + w;
    for (int64_t d = 0; d < r->from[0]; d++)
        for (int64_t l = 0; l < lanes; l++)
            room->plane[d * lanes + l] = (double)room->middle[d * plane + at + l];
    resize(&room->axes[0], lanes, room->plane, room->line, room->other);
    for (int64_t d = 0; d < r->to[0]; d++)
        for (int64_t l = 0; l < lanes; l++)
            out[d * plane + at + l] = clipped(r, room, d, h, w + l, room->other[d * lanes + l]);
}

noc_status noc_resample(const noc_resampling *resampling,
                        void (*plane)(const void *source, int64_t d, double *out), const void *source,
                        float *out, noc_error *err)
{
    const noc_resampling *r = resampling;
    buffers room = {.plane = NULL};
    noc_status status = make_room(r, &room, err);
    for (int64_t d = 0; status == NOC_OK && d < r->from[0]; d++) {
        plane(source, d, room.plane);
        widen_bounds(r, &room, d);
        resize_plane(r, &room, room.middle + d * r->to[1] * r->to[2]);
    }
    for (int64_t h = 0; status == NOC_OK && h < r->to[1]; h++)
        for (int64_t w = 0; w < r->to[2]; w += COLUMNS)
            resize_columns(r, &room, h, w, r->to[2] - w < COLUMNS ? r->to[2] - w : COLUMNS, out);
    free_room(&room);
    return status;
}
