/* Scoring: a case a piece of work, read and measured by one thread. HDF5 is asked by one thread at a time. */
#include "pipeline/evaluate.h"

#include "engine/base/memory.h"
#include "engine/volume/nifti.h"
#include "pipeline/opening.h"
#include "pipeline/results.h"
#include "worker/score.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Bytes a voxel of a case holds at most, its images aside: two maps, bits, nearest rows; and for lesions the
 * parts of two masks, of which every eighth voxel may be one. */
enum { VOXEL_BYTES = 8, LESION_BYTES = 28 };

typedef struct scoring {
    noc_evaluate *all;
    noc_nifti_options options;
    size_t memory;        /* of one thread */
    bool *found;          /* [NOC_LABEL_COUNT] owned; labels of any file */
    pthread_mutex_t lock; /* of HDF5 and found */
} scoring;

/* A mask or a truth as it was read. */
typedef struct side {
    noc_grid grid;
    noc_label_map map;
    bool has_bits; /* of regions instead of labels */
} side;

static void note_labels(scoring *s, const noc_label_map *map)
{
    pthread_mutex_lock(&s->lock);
    for (int b = 0; b < map->box_count; b++)
        s->found[map->boxes[b].label] = true;
    pthread_mutex_unlock(&s->lock);
}

static noc_status read_file(scoring *s, const char *path, side *out, noc_error *err)
{
    noc_image image = {.voxels = NULL};
    noc_status status = noc_nifti_read(path, &s->options, &image, err);

    if (status != NOC_OK)
        return status;
    out->grid = image.grid;
    if (noc_grid_voxels(&image.grid) > s->memory / (VOXEL_BYTES + (s->all->lesions ? LESION_BYTES : 0)))
        status = noc_fail(err, NOC_ETOOLARGE,
                          "%zu voxels are too many for %zu bytes a thread: fewer --threads, "
                          "more --memory",
                          noc_grid_voxels(&image.grid), s->memory);
    else
        status = noc_label_map_make(&image, &out->map, err);
    if (status == NOC_OK)
        note_labels(s, &out->map);
    noc_image_clear(&image);
    return status;
}

/* The regions of a model of regions, as bits, otherwise the labels. */
static noc_status make_stored_map(noc_outcome *o, side *out, noc_error *err)
{
    void **voxels = o->region_bytes > 0 ? &o->regions : &o->mask;
    int bytes = o->region_bytes > 0 ? o->region_bytes : o->mask_bytes;
    noc_image image = {.grid = o->grid,
                       .channels = 1,
                       .type = bytes == 1 ? NOC_VOXEL_U8 : NOC_VOXEL_U16,
                       .slope = 1,
                       .voxels = *voxels};

    if (bytes > 2)
        return noc_fail(err, NOC_EUNSUPPORTED, "its model has more than 16 regions");
    out->grid = o->grid;
    out->has_bits = o->region_bytes > 0;
    noc_status status = noc_label_map_make(&image, &out->map, err);
    *voxels = image.voxels; /* NULL once they are the map's */
    return status;
}

static noc_status read_stored(scoring *s, const noc_done *done, side *out, noc_error *err)
{
    noc_outcome *outcome = NULL;
    char *path = noc_part_path(s->all->folder.path, done->part, false, err);

    if (!path)
        return NOC_ENOMEMORY;
    pthread_mutex_lock(&s->lock);
    noc_status status = noc_part_read_study(path, done->key, false, &outcome, err);
    pthread_mutex_unlock(&s->lock);
    if (status == NOC_OK)
        status = make_stored_map(outcome, out, err);
    noc_outcome_free(outcome);
    free(path);
    return status;
}

static noc_status score_class(scoring *s, noc_case *c, const noc_class *class, const side *prediction,
                              const side *truth, noc_error *err)
{
    noc_evaluation *grown = reallocarray(c->scores, (size_t)c->score_count + 1, sizeof *grown);

    if (!grown)
        return noc_fail(err, NOC_ENOMEMORY, "no memory for its metrics");
    c->scores = grown;
    noc_class scored = *class;
    if (!prediction->has_bits)
        scored.bit = -1;
    return noc_class_evaluate(&scored, &prediction->map, &truth->map, truth->grid.spacing_mm,
                              &s->all->tolerances, s->all->lesions, &grown[c->score_count++], err);
}

static noc_class class_of_label(int label)
{
    noc_class class = {.labels = {(uint16_t)label}, .label_count = 1, .bit = -1};

    snprintf(class.label, sizeof class.label, "%d", label);
    return class;
}

/* Both lists of labels are ascending: what is in either, once. */
static noc_status score_found_labels(scoring *s, noc_case *c, const side *prediction, const side *truth,
                                     noc_error *err)
{
    const noc_label_map *a = &prediction->map, *b = &truth->map;
    noc_status status = NOC_OK;

    for (int i = 0, j = 0; status == NOC_OK && (i < a->box_count || j < b->box_count);) {
        int in_a = i < a->box_count ? a->boxes[i].label : NOC_LABEL_COUNT;
        int in_b = j < b->box_count ? b->boxes[j].label : NOC_LABEL_COUNT;
        const noc_class class = class_of_label(in_a < in_b ? in_a : in_b);
        i += in_a <= in_b;
        j += in_b <= in_a;
        status = score_class(s, c, &class, prediction, truth, err);
    }
    return status;
}

static noc_status score_classes(scoring *s, noc_case *c, const noc_class *classes, int count,
                                const side *prediction, const side *truth, noc_error *err)
{
    noc_status status = NOC_OK;

    for (int i = 0; status == NOC_OK && i < count; i++)
        status = score_class(s, c, &classes[i], prediction, truth, err);
    return status;
}

static noc_status score_sides(scoring *s, noc_case *c, const side *prediction, const side *truth,
                              noc_error *err)
{
    const noc_evaluate *all = s->all;
    noc_status status = noc_truth_check_grid(&prediction->grid, &truth->grid, "mask", err);

    if (status != NOC_OK)
        return status;
    memcpy(c->size, truth->map.size, sizeof c->size);
    memcpy(c->spacing_mm, truth->grid.spacing_mm, sizeof c->spacing_mm);
    status = all->has_labels ? score_classes(s, c, all->labels, all->label_count, prediction, truth, err)
                             : score_found_labels(s, c, prediction, truth, err);
    if (status == NOC_OK)
        status = score_classes(s, c, all->regions, all->region_count, prediction, truth, err);
    return status;
}

/* Also what cannot be scored is read as far as it can be, for its labels. */
static noc_status score_case(scoring *s, noc_case *c, noc_error *err)
{
    side prediction = {.map.voxels = NULL}, truth = {.map.voxels = NULL};
    noc_error why;
    noc_status status = c->failure.status, second = NOC_OK;

    if (c->done)
        status = read_stored(s, c->done, &prediction, err);
    else if (c->prediction) {
        noc_status first = read_file(s, c->prediction, &prediction, &why);
        if (status == NOC_OK && first != NOC_OK)
            status = noc_fail(err, first, "its mask: %s", why.text);
    }
    if (c->truth)
        second = read_file(s, c->truth, &truth, &why);
    if (status == NOC_OK && second != NOC_OK)
        status = noc_fail(err, second == NOC_EDATA || second == NOC_ECHANNELS ? NOC_ETRUTH : second,
                          "its truth: %s", why.text);
    if (status == NOC_OK)
        status = score_sides(s, c, &prediction, &truth, err);
    noc_label_map_clear(&prediction.map);
    noc_label_map_clear(&truth.map);
    return status;
}

static void score_piece(void *argument, int i, int thread)
{
    scoring *s = argument;
    noc_case *c = &s->all->list.cases[i];

    (void)thread;
    c->failure.status = score_case(s, c, &c->failure);
}

/* ---- every case has every class ---- */

static noc_status list_found_labels(noc_evaluate *all, const bool *found, noc_error *err)
{
    int count = 0;

    for (int label = 1; label < NOC_LABEL_COUNT; label++)
        count += found[label];
    all->labels = noc_alloc((size_t)count, sizeof *all->labels, err);
    if (!all->labels)
        return NOC_ENOMEMORY;
    for (int label = 1; label < NOC_LABEL_COUNT; label++)
        if (found[label])
            all->labels[all->label_count++] = class_of_label(label);
    return NOC_OK;
}

int noc_evaluate_class_count(const noc_evaluate *all)
{
    return all->label_count + all->region_count;
}

const noc_class *noc_evaluate_class(const noc_evaluate *all, int index)
{
    return index < all->label_count ? &all->labels[index] : &all->regions[index - all->label_count];
}

/* What it has comes in the order of the classes; what it lacks is empty in both, which is the same for every
 * class. */
static noc_status complete_case(const noc_evaluate *all, noc_case *c, noc_error *err)
{
    const noc_label_map nothing = {.size = {c->size[0], c->size[1], c->size[2]}};
    const noc_class any = {.bit = -1};
    int classes = noc_evaluate_class_count(all), used = 0;
    noc_evaluation empty;

    if (c->score_count == classes)
        return NOC_OK;
    noc_status status = noc_class_evaluate(&any, &nothing, &nothing, c->spacing_mm, &all->tolerances,
                                           all->lesions, &empty, err);
    if (status != NOC_OK)
        return status;
    noc_evaluation *complete = noc_alloc((size_t)classes, sizeof *complete, err);
    if (!complete)
        return NOC_ENOMEMORY;
    for (int i = 0; i < classes; i++) {
        bool has_it = used < c->score_count &&
                      strcmp(c->scores[used].metric.label, noc_evaluate_class(all, i)->label) == 0;
        complete[i] = has_it ? c->scores[used++] : empty;
    }
    free(c->scores);
    c->scores = complete;
    c->score_count = classes;
    return NOC_OK;
}

noc_status noc_evaluate_score(noc_evaluate *all, noc_pool *pool, noc_error *err)
{
    scoring s = {.all = all, .memory = noc_opening_memory(all->settings) / (size_t)noc_pool_threads(pool)};
    noc_status status = NOC_OK;

    s.options = (noc_nifti_options){.max_bytes = s.memory / 2, .assume_ras = all->settings->assume_ras};
    s.found = noc_alloc_zeroed(NOC_LABEL_COUNT, sizeof *s.found, err);
    if (!s.found)
        return NOC_ENOMEMORY;
    pthread_mutex_init(&s.lock, NULL);
    noc_pool_run(pool, (int)all->list.count, score_piece, &s);
    pthread_mutex_destroy(&s.lock);
    if (!all->has_labels)
        status = list_found_labels(all, s.found, err);
    free(s.found);
    for (size_t i = 0; status == NOC_OK && i < all->list.count; i++)
        if (all->list.cases[i].failure.status == NOC_OK)
            status = complete_case(all, &all->list.cases[i], err);
    return status;
}
