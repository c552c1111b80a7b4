#include "worker/evaluation.h"

#include "engine/base/memory.h"
#include "worker/score.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Which stored values belong to the class. */
static void mark_members(const noc_class *class, bool by_bit, bool members[NOC_LABEL_COUNT])
{
    if (by_bit)
        for (int value = 0; value < NOC_LABEL_COUNT; value++)
            members[value] = value >> class->bit & 1;
    else
        for (int l = 0; l < class->label_count; l++)
            members[class->labels[l]] = true;
}

static void add_boxes(const noc_label_map *map, const bool members[NOC_LABEL_COUNT], noc_label_box *all)
{
    for (int b = 0; b < map->box_count; b++)
        for (int axis = 0; members[map->boxes[b].label] && axis < 3; axis++) {
            const noc_label_box *box = &map->boxes[b];
            all->low[axis] = box->low[axis] < all->low[axis] ? box->low[axis] : all->low[axis];
            all->high[axis] = box->high[axis] > all->high[axis] ? box->high[axis] : all->high[axis];
        }
}

/* Of 8 bytes; most often they are alike. */
static uint64_t take_eight(const uint8_t *voxels, const bool members[NOC_LABEL_COUNT])
{
    uint64_t bytes, bits = 0;

    memcpy(&bytes, voxels, sizeof bytes);
    if (bytes == 0x0101010101010101 * (uint64_t)voxels[0])
        return members[voxels[0]] ? 0xff : 0;
    for (int b = 0; b < 8; b++)
        bits |= (uint64_t)members[voxels[b]] << b;
    return bits;
}

/* 64 voxels from place i on, of which `count` are there. */
static uint64_t take_word(const noc_label_map *map, const bool members[NOC_LABEL_COUNT], int64_t first,
                          int64_t count)
{
    const uint8_t *bytes = (const uint8_t *)map->voxels + first;
    uint64_t word = 0;
    int64_t b = 0;

    if (map->voxel_bytes == 2)
        for (; b < count; b++)
            word |= (uint64_t)members[((const uint16_t *)map->voxels)[first + b]] << b;
    for (; b + 8 <= count; b += 8)
        word |= take_eight(bytes + b, members) << b;
    for (; b < count; b++)
        word |= (uint64_t)members[bytes[b]] << b;
    return word;
}

static void fill_bits(const noc_label_map *map, const bool members[NOC_LABEL_COUNT], const noc_label_box *box,
                      noc_bits *bits)
{
    for (int64_t k = 0; k < bits->size[2]; k++)
        for (int64_t j = 0; j < bits->size[1]; j++) {
            int64_t first = ((box->low[2] + k) * map->size[1] + box->low[1] + j) * map->size[0] + box->low[0];
            uint64_t *row = noc_bits_row(bits, j, k), carry = 0;
            for (int64_t w = 0; w < bits->words; w++) { /* voxel i is bit i + 1 */
                int64_t left = bits->size[0] - 64 * w;
                uint64_t word = take_word(map, members, first + 64 * w, left < 64 ? left : 64);
                row[w] = word << 1 | carry;
                carry = word >> 63;
            }
        }
}

/* A class of one map in the box of both. */
static noc_status cut_out(const noc_label_map *map, const bool members[NOC_LABEL_COUNT],
                          const noc_label_box *box, noc_bits *bits, noc_error *err)
{
    int64_t size[3];

    for (int axis = 0; axis < 3; axis++)
        size[axis] = box->high[axis] < box->low[axis] ? 0 : box->high[axis] - box->low[axis] + 1;
    noc_status status = noc_bits_create(size, bits, err);
    if (status == NOC_OK)
        fill_bits(map, members, box, bits);
    return status;
}

static void count_voxels(const noc_bits *prediction, const noc_bits *truth, uint64_t voxels, noc_metric *m)
{
    uint64_t in_truth = 0, in_prediction = 0;
    size_t words =
        (size_t)(truth->words * (truth->size[1] + 2) * (truth->size[2] + 2)); /* margins are empty */

    for (size_t w = 0; w < words; w++) {
        in_truth += (uint64_t)__builtin_popcountll(truth->rows[w]);
        in_prediction += (uint64_t)__builtin_popcountll(prediction->rows[w]);
        m->tp += (uint64_t)__builtin_popcountll(truth->rows[w] & prediction->rows[w]);
    }
    m->fp = in_prediction - m->tp;
    m->fn = in_truth - m->tp;
    m->tn = voxels - in_truth - m->fp;
}

noc_status noc_class_evaluate(const noc_class *class, const noc_label_map *prediction,
                              const noc_label_map *truth, const double spacing_mm[3],
                              const noc_tolerances *tolerances, const noc_lesion_rules *lesions,
                              noc_evaluation *out, noc_error *err)
{
    noc_bits of_prediction = {.rows = NULL}, of_truth = {.rows = NULL};
    noc_label_box box = {.low = {INT64_MAX, INT64_MAX, INT64_MAX}, .high = {-1, -1, -1}};
    noc_status status = NOC_ENOMEMORY;
    bool *members = noc_alloc_zeroed(2 * NOC_LABEL_COUNT, sizeof *members, err);

    memset(out, 0, sizeof *out);
    if (members) {
        bool *in_truth = members, *in_prediction = members + NOC_LABEL_COUNT;
        mark_members(class, false, in_truth);
        mark_members(class, class->bit >= 0, in_prediction);
        add_boxes(truth, in_truth, &box);
        add_boxes(prediction, in_prediction, &box);
        status = cut_out(truth, in_truth, &box, &of_truth, err);
        if (status == NOC_OK)
            status = cut_out(prediction, in_prediction, &box, &of_prediction, err);
    }
    if (status == NOC_OK)
        status = noc_surface_measure(&of_truth, &of_prediction, spacing_mm, tolerances->mm, tolerances->count,
                                     &out->surface, err);
    if (status == NOC_OK && lesions)
        status = noc_lesions_score(&of_truth, &of_prediction, spacing_mm, lesions, &out->lesions, err);
    if (status == NOC_OK) {
        noc_metric *m = &out->metric;
        memcpy(m->label, class->label, sizeof m->label);
        memcpy(m->name, class->name, sizeof m->name);
        m->has_truth = true;
        count_voxels(&of_prediction, &of_truth, (uint64_t)(truth->size[0] * truth->size[1] * truth->size[2]),
                     m);
        noc_metric_derive(m, spacing_mm[0] * spacing_mm[1] * spacing_mm[2] / 1000);
    }
    noc_bits_clear(&of_truth);
    noc_bits_clear(&of_prediction);
    free(members);
    return status;
}

static bool is_empty(const noc_metric *m)
{
    return m->tp + m->fp + m->fn == 0;
}

double noc_brats_distance(const noc_evaluation *evaluation, double distance_mm, double penalty_mm)
{
    if (is_empty(&evaluation->metric))
        return 0;
    return isinf(distance_mm) ? penalty_mm : distance_mm;
}

double noc_brats_ratio(const noc_evaluation *evaluation, double ratio)
{
    return is_empty(&evaluation->metric) ? 1 : ratio;
}
