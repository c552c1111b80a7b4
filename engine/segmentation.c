/* Studies in flight. The volume's output is cut in tiles of H x W (one, unless memory demands more); a tile's
 * windows are computed in window order, D slowest, and as soon as a layer of windows along D is complete the
 * rows that no later layer touches are gathered. What always holds: every voxel's sum runs over all its
 * windows in window order, so neither tiles nor batches change a bit. Where preparation has resampled, the
 * volume's rows are gathered as slabs of logits, of which the scan's voxels are made (native.c); a tile then
 * reaches a voxel beyond its end. */
#include "engine/engine_state.h"

#include "engine/base/half.h"
#include "engine/base/memory.h"
#include "engine/native.h"
#include "engine/probability.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct tile {
    int64_t from[2], to[2]; /* H, W voxels of the volume */
    int64_t reach[2];       /* the end of what is gathered */
    int first[2], count[2]; /* windows along H and W that touch it */
    int64_t first_task;     /* number of its first window */
} tile;

struct noc_segmentation {
    noc_engine *engine;
    const noc_prepared *prepared;
    const noc_volume *volume; /* the same on the device, or NULL */
    noc_windows windows;
    noc_gather_kind kind;
    int element_bytes;
    int cuts[2]; /* tiles along H and W */
    tile *tiles;
    int tile_count;
    int64_t task_count, next_task, done_count;
    noc_buffer *logits;  /* room for the windows that are kept at once, in slots */
    int64_t *slot;       /* of each task: where its logits lie; NOT_COMPUTED, NOT_NEEDED */
    int64_t *free_slots; /* a stack */
    int64_t free_count;
    noc_gather_window *reaching;   /* of the rows that are gathered */
    int gather_tile, gather_layer; /* what is gathered next */
    noc_native *native;            /* where the volume was resampled, else NULL */
    void *voxels;
    size_t bytes;
    uint16_t *probabilities; /* NULL: none */
    float *slab;             /* logits that become probabilities; NULL: none do, or those of `native` */
    int64_t origin, step[3]; /* of the output, in elements */
    int64_t class_step;      /* LOGITS, probabilities */
};

enum { NOT_COMPUTED = -1, NOT_NEEDED = -2 /* any more */ };

/* ---- tiles and memory ---- */

/* Windows along an axis (1 = H, 2 = W) that touch voxels [from, to) of the volume. */
static void windows_touching(const noc_windows *w, int axis, int64_t from, int64_t to, int *first, int *count)
{
    int64_t low = from + w->pad_low[axis], high = to + w->pad_low[axis];
    int begin = 0, end = w->count[axis];
    while (begin < end && noc_windows_start(w, axis, begin) + w->window[axis] <= low)
        begin++;
    while (end > begin && noc_windows_start(w, axis, end - 1) >= high)
        end--;
    *first = begin;
    *count = end - begin;
}

/* Voxels behind a tile's end that it needs. */
static int halo_of(const noc_manifest *m)
{
    for (int i = 0; i < m->step_count; i++)
        if (m->steps[i].kind == NOC_STEP_RESAMPLE)
            return 1;
    return 0;
}

static void cut_axis(const noc_windows *w, int axis, int cuts, int i, int halo, int64_t *from, int64_t *to,
                     int64_t *reach)
{
    *from = w->size[axis] * i / cuts;
    *to = w->size[axis] * (i + 1) / cuts;
    *reach = *to + halo < w->size[axis] ? *to + halo : w->size[axis];
}

/* What so many cuts of an axis come to: most windows and voxels that one part touches, and windows of all
 * parts. */
typedef struct axis_cuts {
    int cuts;
    int64_t widest, voxels, total;
} axis_cuts;

static axis_cuts measure_cuts(const noc_windows *w, int axis, int cuts, int halo)
{
    axis_cuts measured = {.cuts = cuts};
    int64_t from, to, reach;
    int first, count;
    for (int i = 0; i < cuts; i++) {
        cut_axis(w, axis, cuts, i, halo, &from, &to, &reach);
        windows_touching(w, axis, from, reach, &first, &count);
        measured.voxels = reach - from > measured.voxels ? reach - from : measured.voxels;
        measured.widest = count > measured.widest ? count : measured.widest;
        measured.total += count;
    }
    return measured;
}

enum { CUTS_MOST = 64 };

/* The cuts of an axis that are thought of: few, and one voxel a part. */
static int measure_axis(const noc_windows *w, int axis, int halo, axis_cuts measured[CUTS_MOST + 1])
{
    int count = 0;
    for (int cuts = 1; cuts <= CUTS_MOST && cuts <= w->size[axis]; cuts++)
        measured[count++] = measure_cuts(w, axis, cuts, halo);
    if (w->size[axis] > CUTS_MOST)
        measured[count++] = measure_cuts(w, axis, (int)w->size[axis], halo);
    return count;
}

/* Most layers along D whose logits are kept at once. */
static int64_t layers_kept(const noc_windows *w)
{
    int64_t most = 0;
    for (int i = 0; i < w->count[0]; i++) {
        int64_t kept = 0;
        for (int j = i; j >= 0 && noc_windows_start(w, 0, j) + w->window[0] > noc_windows_start(w, 0, i); j--)
            kept++;
        most = kept > most ? kept : most;
    }
    return most;
}

/* Of the host's memory. */
static size_t bytes_with(const noc_engine *e, int64_t layers, const axis_cuts *h, const axis_cuts *w,
                         size_t output_bytes)
{
    const int64_t widest[2] = {h->voxels, w->voxels};
    if (halo_of(e->model->manifest) || noc_engine_probabilities(e) > 0)
        output_bytes =
            noc_size_sum(output_bytes, noc_native_bytes(e->plan->values[e->plan->logits].channels, widest));
    if (e->ops->has_memory)
        return output_bytes;
    size_t windows = (size_t)(layers * h->widest * w->widest + e->batch);
    return noc_size_sum(noc_size_product(windows, e->logits_floats * sizeof(float)), output_bytes);
}

/* Of the cuts that fit into memory (0: no limit) those that compute the fewest windows, then the fewest
 * tiles. */
static noc_status choose_cuts(const noc_engine *e, const noc_windows *w, size_t output_bytes, size_t memory,
                              int cuts[2], size_t *bytes, noc_error *err)
{
    int halo = halo_of(e->model->manifest);
    axis_cuts h[CUTS_MOST + 1] = {measure_cuts(w, 1, 1, halo)},
                            v[CUTS_MOST + 1] = {measure_cuts(w, 2, 1, halo)};
    int64_t layers = layers_kept(w), best = INT64_MAX;
    size_t least = SIZE_MAX;
    *bytes = bytes_with(e, layers, h, v, output_bytes);
    cuts[0] = cuts[1] = 1;
    if (memory == 0 || *bytes <= memory)
        return NOC_OK;
    int hs = measure_axis(w, 1, halo, h), vs = measure_axis(w, 2, halo, v);
    for (int i = 0; i < hs; i++)
        for (int j = 0; j < vs; j++) {
            size_t need = bytes_with(e, layers, &h[i], &v[j], output_bytes);
            int64_t cost = h[i].total * v[j].total;
            bool has_fewer_tiles = (int64_t)h[i].cuts * v[j].cuts < (int64_t)cuts[0] * cuts[1];
            least = need < least ? need : least;
            if (need > memory || cost > best || (cost == best && !has_fewer_tiles))
                continue;
            best = cost;
            *bytes = need;
            cuts[0] = h[i].cuts;
            cuts[1] = v[j].cuts;
        }
    if (best < INT64_MAX)
        return NOC_OK;
    return noc_fail(err, NOC_ETOOLARGE,
                    "needs %zu MiB beside the scan even when cut into tiles, %zu MiB are left",
                    (least >> 20) + 1, memory >> 20);
}

static int element_bytes_of(const noc_manifest *m)
{
    int largest = 0;
    if (m->output == NOC_OUTPUT_REGIONS)
        return m->region_count <= 8 ? 1 : m->region_count <= 16 ? 2 : 4;
    for (int i = 0; i < m->label_count; i++)
        largest = m->labels[i].index > largest ? m->labels[i].index : largest;
    return largest > 255 ? 2 : 1;
}

static size_t probability_bytes(const noc_engine *e, size_t grid_voxels)
{
    return noc_size_product(grid_voxels, (size_t)noc_engine_probabilities(e) * sizeof(uint16_t));
}

noc_status noc_segmentation_bytes(const noc_engine *engine, const int64_t size[3], size_t grid_voxels,
                                  size_t memory, size_t *bytes, noc_error *err)
{
    noc_windows windows;
    int cuts[2];
    size_t output;
    noc_status status = noc_windows_plan(size, engine->window, engine->overlap, &windows, err);
    if (status != NOC_OK)
        return status;
    if (!noc_size_mul(grid_voxels, (size_t)element_bytes_of(engine->model->manifest), &output))
        return noc_fail(err, NOC_ETOOLARGE, "%zu voxels are beyond this machine's sizes", grid_voxels);
    output = noc_size_sum(output, probability_bytes(engine, grid_voxels));
    return choose_cuts(engine, &windows, output, memory, cuts, bytes, err);
}

static noc_status make_tiles(noc_segmentation *s, noc_error *err)
{
    s->tile_count = s->cuts[0] * s->cuts[1];
    s->tiles = noc_alloc_zeroed((size_t)s->tile_count, sizeof *s->tiles, err);
    if (!s->tiles)
        return NOC_ENOMEMORY;
    for (int i = 0; i < s->tile_count; i++) {
        tile *t = &s->tiles[i];
        for (int a = 0; a < 2; a++) {
            int at = a == 0 ? i / s->cuts[1] : i % s->cuts[1];
            cut_axis(&s->windows, a + 1, s->cuts[a], at, halo_of(s->engine->model->manifest), &t->from[a],
                     &t->to[a], &t->reach[a]);
            windows_touching(&s->windows, a + 1, t->from[a], t->reach[a], &t->first[a], &t->count[a]);
        }
        t->first_task = s->task_count;
        s->task_count += (int64_t)s->windows.count[0] * t->count[0] * t->count[1];
    }
    return NOC_OK;
}

static noc_status make_slots(noc_segmentation *s, int64_t count, noc_error *err)
{
    const noc_engine *e = s->engine;
    s->slot = noc_alloc((size_t)s->task_count, sizeof *s->slot, err);
    s->free_slots = noc_alloc((size_t)count, sizeof *s->free_slots, err);
    if (!s->slot || !s->free_slots)
        return NOC_ENOMEMORY;
    for (int64_t i = 0; i < s->task_count; i++)
        s->slot[i] = NOT_COMPUTED;
    while (s->free_count < count) { /* the lowest is taken first: pages of the others may never be touched */
        s->free_slots[s->free_count] = count - 1 - s->free_count;
        s->free_count++;
    }
    return e->ops->buffer_create(e->device, (size_t)count * e->logits_floats * sizeof(float), &s->logits,
                                 err);
}

/* What is gathered for the way to the scan's grid, or to probabilities: logits, not labels. */
static void slab_gather(noc_gather *gather)
{
    gather->kind = NOC_GATHER_LOGITS;
    gather->element_bytes = (int)sizeof(float);
}

/* The logit from which on sigmoid(logit) is the manifest's threshold or more. */
static double threshold_of(const noc_segmentation *s)
{
    double p = s->engine->model->manifest->threshold;
    return log(p / (1 - p));
}

/* widest: H and W of what the largest tile gathers. */
static noc_status make_native(noc_segmentation *s, const int64_t widest[2], noc_error *err)
{
    const noc_place *place = noc_prepared_place(s->prepared);
    if (s->kind == NOC_GATHER_LOGITS || !place->is_resampled)
        return NOC_OK;
    noc_native_options options = {.placement = place,
                                  .classes = s->engine->plan->values[s->engine->plan->logits].channels,
                                  .kind = s->kind,
                                  .threshold = threshold_of(s),
                                  .element_bytes = s->element_bytes,
                                  .voxels = s->voxels,
                                  .probabilities = s->probabilities,
                                  .class_step = s->class_step};
    memcpy(options.size, s->windows.size, sizeof options.size);
    return noc_native_create(&options, widest, &s->native, err);
}

/* All that running windows needs beside the engine's own, so that nothing is allocated from window to window:
 * logits of as many windows as are kept at once (bytes_with), the list of those that a gather reaches, the
 * device's room for the widest box, and slabs of logits. */
static noc_status make_room(noc_segmentation *s, noc_error *err)
{
    const noc_engine *e = s->engine;
    noc_gather widest = {.kind = s->kind, .element_bytes = s->element_bytes, .to = {1, 1, 0}};
    int64_t most[2] = {0, 0}, voxels[2] = {0, 0};
    for (int i = 0; i < s->tile_count; i++) {
        const tile *t = &s->tiles[i];
        for (int a = 0; a < 2; a++) {
            most[a] = t->count[a] > most[a] ? t->count[a] : most[a];
            voxels[a] = t->reach[a] - t->from[a] > voxels[a] ? t->reach[a] - t->from[a] : voxels[a];
        }
    }
    widest.to[2] = voxels[1];
    int64_t kept = layers_kept(&s->windows) * most[0] * most[1];
    widest.window_count = (int)kept;
    s->reaching = noc_alloc((size_t)kept, sizeof *s->reaching, err);
    if (!s->reaching)
        return NOC_ENOMEMORY;
    engine_fill_gather(e, &widest);
    noc_status status = make_native(s, voxels, err);
    if (status == NOC_OK && s->probabilities && !s->native &&
        !(s->slab = noc_alloc(noc_native_bytes(widest.classes, voxels), 1, err)))
        return NOC_ENOMEMORY;
    if (s->native || s->slab)
        slab_gather(&widest);
    if (status == NOC_OK)
        status = e->ops->gather_reserve(e->device, &widest, err);
    if (status != NOC_OK)
        return status;
    return make_slots(s, kept + e->batch < s->task_count ? kept + e->batch : s->task_count, err);
}

/* ---- life ---- */

/* Outside a crop all is background. */
static noc_status make_probabilities(noc_segmentation *s, size_t voxels, noc_error *err)
{
    const uint16_t one = noc_half_from(1);
    if (!s->engine->with_probabilities)
        return NOC_OK;
    s->class_step = (int64_t)voxels;
    s->probabilities = noc_alloc_zeroed(probability_bytes(s->engine, voxels), 1, err);
    if (!s->probabilities)
        return NOC_ENOMEMORY;
    for (size_t i = 0; s->kind == NOC_GATHER_LABELS && i < voxels; i++)
        s->probabilities[i] = one;
    return NOC_OK;
}

static noc_status make_output(noc_segmentation *s, noc_error *err)
{
    size_t voxels = noc_grid_voxels(noc_prepared_grid(s->prepared));
    noc_status status = NOC_OK;
    if (s->kind == NOC_GATHER_LOGITS) {
        voxels = (size_t)(s->windows.size[0] * s->windows.size[1] * s->windows.size[2]);
        s->step[2] = 1;
        s->step[1] = s->windows.size[2];
        s->step[0] = s->windows.size[1] * s->windows.size[2];
        s->class_step = (int64_t)voxels;
        voxels *= (size_t)s->engine->plan->values[s->engine->plan->logits].channels;
    } else {
        const noc_place *place = noc_prepared_place(s->prepared);
        s->origin = place->origin;
        memcpy(s->step, place->step, sizeof s->step);
        status = make_probabilities(s, voxels, err);
    }
    if (status != NOC_OK)
        return status;
    s->bytes = voxels * (size_t)s->element_bytes;
    s->voxels = calloc(voxels ? voxels : 1, (size_t)s->element_bytes); /* untouched pages cost nothing yet */
    return s->voxels ? NOC_OK
                     : noc_fail(err, NOC_ENOMEMORY, "no memory for an output of %zu MiB", s->bytes >> 20);
}

static noc_status create(noc_engine *engine, const noc_prepared *prepared, noc_gather_kind kind,
                         size_t memory, noc_segmentation **segmentation, noc_error *err)
{
    size_t bytes;
    int64_t size[3];
    noc_segmentation *s = noc_alloc_zeroed(1, sizeof *s, err);
    if (!s)
        return NOC_ENOMEMORY;
    s->engine = engine;
    s->prepared = prepared;
    s->volume = noc_prepared_volume(prepared, engine->device);
    s->kind = kind;
    s->element_bytes =
        kind == NOC_GATHER_LOGITS ? (int)sizeof(float) : element_bytes_of(engine->model->manifest);
    noc_prepared_size(prepared, size);
    noc_status status = noc_windows_plan(size, engine->window, engine->overlap, &s->windows, err);
    if (status == NOC_OK)
        status = make_output(s, err);
    if (status == NOC_OK) {
        bytes = s->bytes + (s->probabilities ? probability_bytes(engine, (size_t)s->class_step) : 0);
        status = choose_cuts(engine, &s->windows, bytes, memory, s->cuts, &bytes, err);
    }
    if (status == NOC_OK)
        status = make_tiles(s, err);
    if (status == NOC_OK)
        status = make_room(s, err);
    if (status != NOC_OK) {
        noc_segmentation_free(s);
        return status;
    }
    *segmentation = s;
    return NOC_OK;
}

noc_status noc_segmentation_create(noc_engine *engine, const noc_prepared *prepared, size_t memory,
                                   noc_segmentation **segmentation, noc_error *err)
{
    noc_gather_kind kind =
        engine->model->manifest->output == NOC_OUTPUT_REGIONS ? NOC_GATHER_REGIONS : NOC_GATHER_LABELS;
    return create(engine, prepared, kind, memory, segmentation, err);
}

noc_status noc_segmentation_create_logits(noc_engine *engine, const noc_prepared *prepared,
                                          noc_segmentation **segmentation, noc_error *err)
{
    return create(engine, prepared, NOC_GATHER_LOGITS, 0, segmentation, err);
}

void noc_segmentation_free(noc_segmentation *segmentation)
{
    if (!segmentation)
        return;
    segmentation->engine->ops->buffer_free(segmentation->logits);
    free(segmentation->slot);
    free(segmentation->free_slots);
    free(segmentation->reaching);
    noc_native_free(segmentation->native);
    free(segmentation->slab);
    free(segmentation->tiles);
    free(segmentation->voxels);
    free(segmentation->probabilities);
    free(segmentation);
}

int64_t noc_segmentation_windows(const noc_segmentation *segmentation)
{
    return segmentation->task_count;
}

int64_t noc_segmentation_windows_done(const noc_segmentation *segmentation)
{
    return segmentation->done_count;
}

bool noc_segmentation_next(noc_segmentation *segmentation, noc_window_task *task)
{
    if (segmentation->next_task == segmentation->task_count)
        return false;
    *task = (noc_window_task){.segmentation = segmentation, .number = segmentation->next_task++};
    return true;
}

bool noc_segmentation_is_done(const noc_segmentation *segmentation)
{
    return segmentation->gather_tile == segmentation->tile_count;
}

void noc_segmentation_take(noc_segmentation *segmentation, noc_segmentation_result *result)
{
    *result = (noc_segmentation_result){.kind = segmentation->kind,
                                        .element_bytes = segmentation->element_bytes,
                                        .voxels = segmentation->voxels,
                                        .bytes = segmentation->bytes,
                                        .probabilities = segmentation->probabilities};
    segmentation->voxels = NULL;
    segmentation->probabilities = NULL;
}

/* ---- gathering ---- */

static int64_t per_layer(const tile *t)
{
    return (int64_t)t->count[0] * t->count[1];
}

/* Start of a task's window in the padded volume. */
static void task_start(const noc_segmentation *s, const tile *t, int64_t number, int64_t start[3])
{
    int64_t at = number - t->first_task, in_layer = at % per_layer(t);
    start[0] = noc_windows_start(&s->windows, 0, (int)(at / per_layer(t)));
    start[1] = noc_windows_start(&s->windows, 1, t->first[0] + (int)(in_layer / t->count[1]));
    start[2] = noc_windows_start(&s->windows, 2, t->first[1] + (int)(in_layer % t->count[1]));
}

static const tile *tile_of(const noc_segmentation *s, int64_t number)
{
    int i = s->tile_count - 1;
    while (s->tiles[i].first_task > number)
        i--;
    return &s->tiles[i];
}

static bool layer_is_complete(const noc_segmentation *s, const tile *t, int layer)
{
    int64_t first = t->first_task + layer * per_layer(t);
    for (int64_t n = first; n < first + per_layer(t); n++)
        if (s->slot[n] < 0)
            return false;
    return true;
}

/* Rows of D (in the padded volume) that become final with a layer: from its start (the first: from 0) to the
 * next layer's. */
static void rows_of_layer(const noc_segmentation *s, int layer, int64_t *from, int64_t *to)
{
    const noc_windows *w = &s->windows;
    *from = noc_windows_start(w, 0, layer);
    *to = layer + 1 < w->count[0] ? noc_windows_start(w, 0, layer + 1) : w->padded[0];
    int64_t low = w->pad_low[0], high = low + w->size[0]; /* padding is no part of the output */
    *from = *from < low ? low : *from;
    *to = *to > high ? high : *to;
}

static int first_layer_reaching(const noc_windows *w, int64_t row, int layer)
{
    while (layer > 0 && noc_windows_start(w, 0, layer - 1) + w->window[0] > row)
        layer--;
    return layer;
}

/* The windows of a tile that reach row `from` or later, up to those of a layer, as s->reaching; their number.
 */
static int find_reaching(noc_segmentation *s, const tile *t, int layer, int64_t from)
{
    int first = first_layer_reaching(&s->windows, from, layer);
    int64_t begin = t->first_task + first * per_layer(t), count = (layer - first + 1) * per_layer(t);
    for (int64_t i = 0; i < count; i++) {
        s->reaching[i] = (noc_gather_window){.logits = s->logits,
                                             .offset = (size_t)s->slot[begin + i] * s->engine->logits_floats};
        task_start(s, t, begin + i, s->reaching[i].start);
    }
    return (int)count;
}

typedef struct slab_job {
    const noc_segmentation *segmentation;
    const noc_gather *gather; /* of the slab */
} slab_job;

/* Place of the output's voxel where a gather's box begins. */
static int64_t place_of(const noc_segmentation *s, const noc_gather *gather)
{
    int64_t at = s->origin;
    for (int a = 0; a < 3; a++)
        at += (gather->from[a] - s->windows.pad_low[a]) * s->step[a];
    return at;
}

/* A row of the slab; rows are counted along H, then D. */
static void probability_piece(void *argument, int row, int thread)
{
    const slab_job *job = argument;
    const noc_segmentation *s = job->segmentation;
    const noc_gather *g = job->gather;
    int64_t height = g->to[1] - g->from[1], width = g->to[2] - g->from[2], d = row / height, h = row % height;
    (void)thread;
    for (int64_t w = 0; w < width; w += NOC_PROBABILITY_BLOCK) {
        const float *logits = (const float *)g->out + d * g->out_step[0] + h * g->out_step[1] + w;
        uint16_t *out = s->probabilities + place_of(s, g) + d * s->step[0] + h * s->step[1] + w * s->step[2];
        noc_probability p;
        noc_probability_begin(&p, s->kind,
                              width - w < NOC_PROBABILITY_BLOCK ? (int)(width - w) : NOC_PROBABILITY_BLOCK);
        for (int c = 0; c < g->classes; c++)
            noc_probability_add(&p, logits + c * g->out_class_step);
        for (int c = 0; c < g->classes; c++)
            noc_probability_put(&p, logits + c * g->out_class_step, out + c * s->class_step, s->step[2]);
    }
}

static void write_slab(noc_segmentation *s, const noc_gather *gather)
{
    const noc_engine *e = s->engine;
    const int64_t low = s->windows.pad_low[0];
    slab_job job = {s, gather};
    if (s->native)
        noc_native_write(s->native, gather->from[0] - low, gather->to[0] - low, e->device, e->ops->host_loop);
    else
        e->ops->host_loop(e->device,
                          (int)((gather->to[0] - gather->from[0]) * (gather->to[1] - gather->from[1])),
                          probability_piece, &job);
}

/* Logits of rows, by slabs: of a resampled volume to the scan's voxels, else to probabilities. */
static noc_status gather_slabs(noc_segmentation *s, const tile *t, noc_gather *gather, noc_error *err)
{
    const noc_engine *e = s->engine;
    const int64_t last = gather->to[0];
    noc_status status = NOC_OK;
    slab_gather(gather);
    if (s->native) {
        if (gather->from[0] == s->windows.pad_low[0])
            noc_native_begin(s->native, t->from, t->to, t->reach);
        gather->out = noc_native_slab(s->native, gather->out_step, &gather->out_class_step);
    } else {
        gather->out = s->slab;
        gather->out_step[1] = gather->to[2] - gather->from[2];
        gather->out_step[0] = gather->out_step[1] * (gather->to[1] - gather->from[1]);
        gather->out_class_step = NOC_NATIVE_ROWS * gather->out_step[0];
    }
    gather->out_step[2] = 1;
    while (status == NOC_OK && gather->from[0] < last) {
        gather->to[0] = gather->from[0] + NOC_NATIVE_ROWS < last ? gather->from[0] + NOC_NATIVE_ROWS : last;
        status = e->ops->gather(e->device, gather, err);
        if (status == NOC_OK)
            write_slab(s, gather);
        gather->from[0] = gather->to[0];
    }
    return status;
}

static noc_status gather_rows(noc_segmentation *s, const tile *t, int layer, int64_t from, int64_t to,
                              noc_error *err)
{
    const noc_windows *w = &s->windows;
    noc_gather gather = {.kind = s->kind,
                         .windows = s->reaching,
                         .window_count = find_reaching(s, t, layer, from),
                         .threshold = (float)threshold_of(s),
                         .element_bytes = s->element_bytes,
                         .from = {from, t->from[0] + w->pad_low[1], t->from[1] + w->pad_low[2]},
                         .to = {to, t->reach[0] + w->pad_low[1], t->reach[1] + w->pad_low[2]},
                         .out_class_step = s->class_step};
    engine_fill_gather(s->engine, &gather);
    if (s->native)
        return gather_slabs(s, t, &gather, err);
    memcpy(gather.out_step, s->step, sizeof gather.out_step);
    gather.out = (char *)s->voxels + place_of(s, &gather) * s->element_bytes;
    noc_status status = s->engine->ops->gather(s->engine->device, &gather, err);
    return status == NOC_OK && s->slab ? gather_slabs(s, t, &gather, err) : status;
}

/* Logits of layers that end before the rows of the next one are not needed any more. */
static void release_layers(noc_segmentation *s, const tile *t, int layer)
{
    const noc_windows *w = &s->windows;
    bool is_last = layer + 1 == w->count[0];
    int keep = is_last ? w->count[0] : first_layer_reaching(w, noc_windows_start(w, 0, layer + 1), layer + 1);
    for (int64_t n = t->first_task; n < t->first_task + keep * per_layer(t); n++)
        if (s->slot[n] >= 0) {
            s->free_slots[s->free_count++] = s->slot[n];
            s->slot[n] = NOT_NEEDED;
        }
}

/* Gathers every layer that has become complete. */
static noc_status gather_ready(noc_segmentation *s, noc_error *err)
{
    while (s->gather_tile < s->tile_count) {
        const tile *t = &s->tiles[s->gather_tile];
        int64_t from, to;
        if (!layer_is_complete(s, t, s->gather_layer))
            return NOC_OK;
        rows_of_layer(s, s->gather_layer, &from, &to);
        noc_status status = from < to ? gather_rows(s, t, s->gather_layer, from, to, err) : NOC_OK;
        if (status != NOC_OK)
            return status;
        release_layers(s, t, s->gather_layer);
        if (++s->gather_layer == s->windows.count[0]) {
            s->gather_layer = 0;
            s->gather_tile++;
        }
    }
    return NOC_OK;
}

/* ---- running ---- */

typedef struct cut_job {
    const noc_engine *engine;
    const noc_prepared *prepared;
    int64_t start[3];
    float *out;
} cut_job;

/* One plane of a window. */
static void cut_piece(void *argument, int d, int thread)
{
    const cut_job *job = argument;
    const int64_t *window = job->engine->window, start[3] = {job->start[0] + d, job->start[1], job->start[2]},
                  size[3] = {1, window[1], window[2]};
    size_t plane = (size_t)(window[1] * window[2]) * (size_t)noc_prepared_channels(job->prepared);
    (void)thread;
    noc_prepared_cut(job->prepared, start, size, (float)job->engine->model->manifest->pad_value,
                     job->out + (size_t)d * plane);
}

/* Window b of the batch: where the device finds it, or what it is, cut here. */
static void make_input(noc_engine *engine, const noc_window_task *task, int b)
{
    noc_segmentation *s = task->segmentation;
    noc_window_input *input = &engine->windows[b];
    *input = (noc_window_input){.host = s->volume ? NULL : engine->inputs[b], .volume = s->volume};
    task_start(s, tile_of(s, task->number), task->number, input->start);
    for (int a = 0; a < 3; a++)
        input->start[a] -= s->windows.pad_low[a];
    if (s->volume)
        return;
    cut_job job = {.engine = engine, .prepared = s->prepared, .out = engine->inputs[b]};
    memcpy(job.start, input->start, sizeof job.start);
    engine->ops->host_loop(engine->device, (int)engine->window[0], cut_piece, &job);
}

/* The last taken first, so that the stacks are as they were. */
static void give_slots(const noc_engine *e, const noc_window_task *const tasks[], int count)
{
    while (count-- > 0) {
        noc_segmentation *s = tasks[count]->segmentation;
        s->free_slots[s->free_count++] = (int64_t)(e->offsets[count] / e->logits_floats);
    }
}

/* Slots for the logits of `count` windows; their segmentations know of them only when those are there. */
static noc_status take_slots(noc_engine *e, const noc_window_task *const tasks[], int count, noc_error *err)
{
    for (int i = 0; i < count; i++) {
        noc_segmentation *s = tasks[i]->segmentation;
        if (s->free_count == 0) {
            give_slots(e, tasks, i);
            return noc_fail(err, NOC_EINTERNAL, "windows are run in another order than they were handed out");
        }
        e->outputs[i] = s->logits;
        e->offsets[i] = (size_t)s->free_slots[--s->free_count] * e->logits_floats;
    }
    return NOC_OK;
}

/* Computes `count` windows, whose logits go to their segmentations only when all of them are there. */
static noc_status compute(noc_engine *e, const noc_window_task *const tasks[], int count, noc_error *err)
{
    noc_status status = take_slots(e, tasks, count, err);
    if (status != NOC_OK)
        return status;
    for (int i = 0; i < count; i++)
        make_input(e, tasks[i], i);
    for (int f = 0; status == NOC_OK && f < e->flip_count; f++) {
        for (int i = 0; f > 0 && i < count; i++)
            if (e->windows[i].host)
                engine_turn_input(e, i, f, false);
        status = engine_run_networks(e, count, f, false, err);
    }
    if (status != NOC_OK) {
        give_slots(e, tasks, count);
        return status;
    }
    for (int i = 0; i < count; i++)
        tasks[i]->segmentation->slot[tasks[i]->number] = (int64_t)(e->offsets[i] / e->logits_floats);
    return NOC_OK;
}

/* A batch that failed while gathering may be run again, and in parts: what is computed then stays. */
noc_status noc_engine_run(noc_engine *engine, const noc_window_task *tasks, int count, noc_error *err)
{
    if (count < 0 || count > engine->batch)
        return noc_fail(err, NOC_EINTERNAL, "%d windows for a batch of %d", count, engine->batch);
    int left = 0;
    for (int i = 0; i < count; i++)
        if (tasks[i].segmentation->slot[tasks[i].number] == NOT_COMPUTED)
            engine->left[left++] = &tasks[i];
    noc_status status = left > 0 ? compute(engine, engine->left, left, err) : NOC_OK;
    for (int i = 0; status == NOC_OK && i < count; i++)
        status = gather_ready(tasks[i].segmentation, err);
    for (int i = 0; status == NOC_OK && i < count; i++)
        tasks[i].segmentation->done_count++;
    return status;
}

noc_status noc_engine_segment(noc_engine *engine, const noc_prepared *prepared, size_t memory,
                              noc_segmentation_result *result, noc_error *err)
{
    noc_segmentation *s;
    noc_status status = noc_segmentation_create(engine, prepared, memory, &s, err);
    if (status != NOC_OK)
        return status;
    noc_window_task *tasks = noc_alloc((size_t)engine->batch, sizeof *tasks, err);
    status = tasks ? NOC_OK : NOC_ENOMEMORY;
    while (status == NOC_OK && !noc_segmentation_is_done(s)) {
        int count = 0;
        while (count < engine->batch && noc_segmentation_next(s, &tasks[count]))
            count++;
        status = noc_engine_run(engine, tasks, count, err);
    }
    if (status == NOC_OK)
        noc_segmentation_take(s, result);
    free(tasks);
    noc_segmentation_free(s);
    return status;
}

/* ---- regions ---- */

static uint32_t bits_at(const void *bits, int element_bytes, size_t i)
{
    return element_bytes == 1   ? ((const uint8_t *)bits)[i]
           : element_bytes == 2 ? ((const uint16_t *)bits)[i]
                                : ((const uint32_t *)bits)[i];
}

void noc_regions_paint(const noc_manifest *manifest, const void *bits, int element_bytes, size_t count,
                       unsigned char *labels)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t here = bits_at(bits, element_bytes, i);
        unsigned char label = 0;
        for (int p = 0; here && p < manifest->paint_count; p++)
            if (here >> manifest->paints[p].region & 1)
                label = (unsigned char)manifest->paints[p].label;
        labels[i] = label;
    }
}
