/* Slabs of logits to native voxels. The row before a slab is kept, since voxels between it and the slab's
 * first row need both. */
#include "engine/native.h"

#include "engine/base/memory.h"
#include "engine/probability.h"
#include "engine/resample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = NOC_PROBABILITY_BLOCK /* voxels at a time */, BACKGROUND = -1 };

/* Where native voxels lie along an axis of the prepared volume. */
typedef struct axis {
    int64_t count;
    int64_t *low, *high; /* neighbours; BACKGROUND where its nearest voxel is none of the volume's */
    double *fraction;    /* of the higher one */
} axis;

struct noc_native {
    noc_native_options options;
    axis axes[3];
    float *rows;                    /* [classes][1 + NOC_NATIVE_ROWS][height][width], the first one kept */
    int64_t from[2], height, width; /* of the tile's slabs */
    int64_t first[2], last[2];      /* the tile's native voxels along H and W, half-open */
    int64_t next;                   /* native row along D */
    int64_t slab_from;              /* row of D that rows[1] is */
};

static size_t room_floats(int classes, const int64_t widest[2])
{
    size_t floats = (size_t)classes * (1 + NOC_NATIVE_ROWS);
    for (int a = 0; a < 2; a++)
        floats = noc_size_product(floats, (size_t)widest[a]);
    return floats;
}

size_t noc_native_bytes(int classes, const int64_t widest[2])
{
    return noc_size_product(room_floats(classes, widest), sizeof(float));
}

static int64_t between(int64_t low, int64_t v, int64_t high)
{
    return v < low ? low : v > high ? high : v;
}

static noc_status make_axis(const noc_native_options *o, int number, axis *a, noc_error *err)
{
    const noc_place *p = o->placement;
    int64_t whole = p->resampled[number], start = p->start[number], last = o->size[number] - 1;
    a->count = p->size[number];
    a->low = noc_alloc((size_t)a->count, sizeof *a->low, err);
    a->high = noc_alloc((size_t)a->count, sizeof *a->high, err);
    a->fraction = noc_alloc_zeroed((size_t)a->count, sizeof *a->fraction, err);
    if (!a->low || !a->high || !a->fraction)
        return NOC_ENOMEMORY;
    for (int64_t i = 0; i < a->count; i++) {
        double x = noc_resample_place(whole, a->count, i);
        int64_t nearest = noc_resample_nearest(whole, a->count, i) - start, low = (int64_t)floor(x) - start;
        bool is_inside = nearest >= 0 && nearest <= last;
        a->low[i] = is_inside ? between(0, p->is_nearest[number] ? nearest : low, last) : BACKGROUND;
        a->high[i] = is_inside ? between(0, p->is_nearest[number] ? nearest : low + 1, last) : BACKGROUND;
        if (a->high[i] > a->low[i])
            a->fraction[i] = x - floor(x);
    }
    return NOC_OK;
}

noc_status noc_native_create(const noc_native_options *options, const int64_t widest[2], noc_native **native,
                             noc_error *err)
{
    noc_native *n = noc_alloc_zeroed(1, sizeof *n, err);
    if (!n)
        return NOC_ENOMEMORY;
    n->options = *options;
    noc_status status = NOC_OK;
    for (int a = 0; status == NOC_OK && a < 3; a++)
        status = make_axis(options, a, &n->axes[a], err);
    n->rows = status == NOC_OK ? noc_alloc(room_floats(options->classes, widest), sizeof(float), err) : NULL;
    if (!n->rows) {
        noc_native_free(n);
        return NOC_ENOMEMORY;
    }
    *native = n;
    return NOC_OK;
}

void noc_native_free(noc_native *native)
{
    if (!native)
        return;
    for (int a = 0; a < 3; a++) {
        free(native->axes[a].low);
        free(native->axes[a].high);
        free(native->axes[a].fraction);
    }
    free(native->rows);
    free(native);
}

void noc_native_begin(noc_native *native, const int64_t from[2], const int64_t to[2], const int64_t reach[2])
{
    native->height = reach[0] - from[0];
    native->width = reach[1] - from[1];
    native->next = 0;
    for (int a = 0; a < 2; a++) {
        const axis *of = &native->axes[a + 1];
        int64_t *first = &native->first[a], *last = &native->last[a];
        native->from[a] = from[a];
        for (*first = 0; *first < of->count && of->low[*first] < from[a];)
            ++*first;
        for (*last = *first; *last < of->count && of->low[*last] >= from[a] && of->low[*last] < to[a];)
            ++*last;
    }
}

float *noc_native_slab(const noc_native *native, int64_t step[2], int64_t *class_step)
{
    step[0] = native->height * native->width;
    step[1] = native->width;
    *class_step = (1 + NOC_NATIVE_ROWS) * step[0];
    return native->rows + step[0];
}

/* The logits around a native row, of one class. */
typedef struct corners {
    const float *row[4]; /* low and high D, of each low and high H */
    double weight[4];
} corners;

static corners corners_of(const noc_native *n, int64_t d, int64_t h, int class_index)
{
    int64_t step[2], class_step;
    const float *slab = noc_native_slab(n, step, &class_step) + class_index * class_step;
    const axis *a = n->axes;
    corners c;
    for (int i = 0; i < 4; i++) {
        int64_t at_d = (i / 2 ? a[0].high[d] : a[0].low[d]) - n->slab_from,
                at_h = (i % 2 ? a[1].high[h] : a[1].low[h]) - n->from[0];
        c.row[i] = slab + at_d * step[0] + at_h * step[1] - n->from[1];
        c.weight[i] = (i / 2 ? a[0].fraction[d] : 1 - a[0].fraction[d]) *
                      (i % 2 ? a[1].fraction[h] : 1 - a[1].fraction[h]);
    }
    return c;
}

static double along(const corners *c, int64_t w)
{
    return c->weight[0] * (double)c->row[0][w] + c->weight[1] * (double)c->row[1][w] +
           c->weight[2] * (double)c->row[2][w] + c->weight[3] * (double)c->row[3][w];
}

/* Logits of a class, from voxel w of a native row on. */
static void blend_block(const noc_native *n, int64_t d, int64_t h, int64_t w, int count, int class_index,
                        double *values)
{
    const axis *a = &n->axes[2];
    corners around = corners_of(n, d, h, class_index);
    for (int i = 0; i < count; i++) {
        double f = a->fraction[w + i];
        values[i] = (1 - f) * along(&around, a->low[w + i]) + f * along(&around, a->high[w + i]);
    }
}

static void label_block(const noc_native *n, int64_t d, int64_t h, int64_t w, int count, uint32_t *labels)
{
    double best[BLOCK], values[BLOCK];
    memset(labels, 0, (size_t)count * sizeof *labels);
    for (int c = 0; c < n->options.classes; c++) {
        blend_block(n, d, h, w, count, c, values);
        for (int i = 0; i < count; i++)
            if (n->options.kind == NOC_GATHER_REGIONS) {
                labels[i] |= (uint32_t)(values[i] >= n->options.threshold) << c;
            } else if (c == 0 || values[i] > best[i]) {
                best[i] = values[i];
                labels[i] = (uint32_t)c;
            }
    }
}

/* Logits are blended again rather than kept: there may be many classes. at: of voxel w in a plane. */
static void probability_block(const noc_native *n, int64_t d, int64_t h, int64_t w, int count, int64_t at)
{
    const noc_native_options *o = &n->options;
    noc_probability p;
    double values[BLOCK];
    float logits[BLOCK];
    noc_probability_begin(&p, o->kind, count);
    for (int turn = 0; turn < 2 * o->classes; turn++) {
        int c = turn % o->classes;
        blend_block(n, d, h, w, count, c, values);
        for (int i = 0; i < count; i++)
            logits[i] = (float)values[i];
        if (turn < o->classes)
            noc_probability_add(&p, logits);
        else
            noc_probability_put(&p, logits, o->probabilities + c * o->class_step + at, o->placement->step[2]);
    }
}

static void put(const noc_native *n, int64_t at, uint32_t label)
{
    if (n->options.element_bytes == 1)
        ((uint8_t *)n->options.voxels)[at] = (uint8_t)label;
    else if (n->options.element_bytes == 2)
        ((uint16_t *)n->options.voxels)[at] = (uint16_t)label;
    else
        ((uint32_t *)n->options.voxels)[at] = label;
}

/* A native row of the tile; rows are counted along H, then D. */
static void write_piece(void *argument, int i, int thread)
{
    const noc_native *n = argument;
    const noc_place *p = n->options.placement;
    int64_t rows = n->last[0] - n->first[0], d = n->next + i / rows, h = n->first[0] + i % rows;
    uint32_t labels[BLOCK];
    (void)thread;
    for (int64_t w = n->first[1]; w < n->last[1]; w += BLOCK) {
        int count = n->last[1] - w < BLOCK ? (int)(n->last[1] - w) : BLOCK;
        int64_t at = p->origin + d * p->step[0] + h * p->step[1] + w * p->step[2];
        label_block(n, d, h, w, count, labels);
        for (int k = 0; k < count; k++)
            put(n, at + k * p->step[2], labels[k]);
        if (n->options.probabilities)
            probability_block(n, d, h, w, count, at);
    }
}

static void keep_last_row(noc_native *n, int64_t count)
{
    int64_t step[2], class_step;
    float *slab = noc_native_slab(n, step, &class_step);
    for (int c = 0; c < n->options.classes; c++)
        memmove(slab + c * class_step - step[0], slab + c * class_step + (count - 1) * step[0],
                (size_t)step[0] * sizeof *slab);
}

void noc_native_write(noc_native *native, int64_t from, int64_t to, noc_device *device,
                      void (*host_loop)(noc_device *device, int count,
                                        void (*piece)(void *argument, int i, int thread), void *argument))
{
    const axis *a = &native->axes[0];
    int64_t rows = native->last[0] - native->first[0], end;
    native->slab_from = from;
    while (native->next < a->count && a->low[native->next] == BACKGROUND)
        native->next++;
    for (end = native->next; end < a->count && a->low[end] != BACKGROUND && a->high[end] < to;)
        end++;
    if (rows > 0 && native->last[1] > native->first[1])
        host_loop(device, (int)((end - native->next) * rows), write_piece, native);
    native->next = end;
    keep_last_row(native, to - from);
}
