/* Dilated voxels beyond the box are not needed: what touches there touches in the box as well, since a step
 * that is shortened on an axis is one too. */
#include "worker/lesions.h"

#include "engine/base/memory.h"
#include "worker/components.h"
#include "worker/label_map.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* The components of a mask, or what is made of them: lesions. */
typedef struct parts {
    int64_t size[3];
    uint32_t *part_of;    /* [voxel] from 1 on, 0 elsewhere; owned */
    noc_label_box *boxes; /* [part], that of 0 unused; owned */
    int64_t *voxels;      /* [part] how many; owned */
    size_t count;
} parts;

static void parts_clear(parts *p)
{
    free(p->part_of);
    free(p->boxes);
    free(p->voxels);
}

static bool is_set(const noc_bits *bits, const int64_t at[3])
{
    return noc_bits_row(bits, at[1], at[2])[(at[0] + 1) / 64] >> ((at[0] + 1) % 64) & 1;
}

/* The next voxel of a box in voxel order; false behind the last. */
static bool step(int64_t at[3], const noc_label_box *box)
{
    for (int axis = 0; axis < 3; axis++) {
        if (++at[axis] <= box->high[axis])
            return true;
        at[axis] = box->low[axis];
    }
    return false;
}

static void widen(noc_label_box *box, const noc_label_box *by)
{
    for (int axis = 0; axis < 3; axis++) {
        box->low[axis] = by->low[axis] < box->low[axis] ? by->low[axis] : box->low[axis];
        box->high[axis] = by->high[axis] > box->high[axis] ? by->high[axis] : box->high[axis];
    }
}

static size_t place(const parts *p, const int64_t at[3])
{
    return (size_t)((at[2] * p->size[1] + at[1]) * p->size[0] + at[0]);
}

static noc_status unpack(const noc_bits *bits, uint8_t **bytes, noc_error *err)
{
    const int64_t *size = bits->size;
    uint8_t *to = *bytes = noc_alloc((size_t)(size[0] * size[1] * size[2]), 1, err);

    if (!to)
        return NOC_ENOMEMORY;
    for (int64_t k = 0; k < size[2]; k++)
        for (int64_t j = 0; j < size[1]; j++) {
            const uint64_t *row = noc_bits_row(bits, j, k);
            for (int64_t i = 1; i <= size[0]; i++)
                *to++ = row[i / 64] >> (i % 64) & 1;
        }
    return NOC_OK;
}

/* Boxes and sizes, of the voxels that are in `in`; the others leave their parts. */
static void measure_parts(parts *p, const noc_bits *in)
{
    const int64_t *size = p->size, voxels = size[0] * size[1] * size[2];

    for (size_t n = 0; n <= p->count; n++)
        p->boxes[n] = (noc_label_box){.low = {INT64_MAX, INT64_MAX, INT64_MAX}, .high = {-1, -1, -1}};
    for (int64_t v = 0; v < voxels; v++) {
        if (p->part_of[v] == 0)
            continue;
        const int64_t i = v % size[0], j = v / size[0] % size[1], k = v / size[0] / size[1];
        const noc_label_box here = {.low = {i, j, k}, .high = {i, j, k}};
        if (!is_set(in, here.low)) {
            p->part_of[v] = 0;
            continue;
        }
        widen(&p->boxes[p->part_of[v]], &here);
        p->voxels[p->part_of[v]]++;
    }
}

/* The components of `mask`, without the voxels that are not in `in`. */
static noc_status find_parts(const noc_bits *mask, const noc_bits *in, parts *p, noc_error *err)
{
    const size_t voxels = (size_t)(mask->size[0] * mask->size[1] * mask->size[2]);
    uint8_t *bytes = NULL;

    memcpy(p->size, mask->size, sizeof p->size);
    p->part_of = noc_alloc_zeroed(voxels, sizeof *p->part_of, err);
    noc_status status = p->part_of ? unpack(mask, &bytes, err) : NOC_ENOMEMORY;
    if (status == NOC_OK)
        status = noc_components_number(bytes, 1, p->size, UINT32_MAX, 1, p->part_of, &p->count, err);
    free(bytes);
    if (status != NOC_OK)
        return status;
    p->boxes = noc_alloc(p->count + 1, sizeof *p->boxes, err);
    p->voxels = noc_alloc_zeroed(p->count + 1, sizeof *p->voxels, err);
    if (!p->boxes || !p->voxels)
        return NOC_ENOMEMORY;
    measure_parts(p, in);
    return NOC_OK;
}

/* The voxels of a box whose part, or what `means` makes of it, is `wanted`. */
static noc_status cut(const parts *p, const uint32_t *means, uint32_t wanted, const noc_label_box *box,
                      noc_bits *bits, noc_error *err)
{
    int64_t size[3], at[3];

    for (int axis = 0; axis < 3; axis++)
        size[axis] = box->high[axis] - box->low[axis] + 1;
    noc_status status = noc_bits_create(size, bits, err);
    memcpy(at, box->low, sizeof at);
    for (bool is_there = status == NOC_OK; is_there; is_there = step(at, box)) {
        uint32_t part = p->part_of[place(p, at)];
        int64_t i = at[0] - box->low[0] + 1;
        if ((means ? means[part] : part) == wanted)
            noc_bits_row(bits, at[1] - box->low[1], at[2] - box->low[2])[i / 64] |= (uint64_t)1 << (i % 64);
    }
    return status;
}

/* Marks the parts of the prediction that touch the dilated lesion as its own; *box grows to hold them. */
static noc_status match(const parts *truth, const parts *prediction, uint32_t lesion, int dilation,
                        uint32_t *lesion_of, noc_label_box *box, size_t *count, noc_error *err)
{
    noc_label_box grown = *box;
    noc_bits near = {.rows = NULL};
    int64_t at[3];

    for (int axis = 0; axis < 3; axis++) {
        grown.low[axis] = grown.low[axis] > dilation ? grown.low[axis] - dilation : 0;
        grown.high[axis] += dilation;
        if (grown.high[axis] >= truth->size[axis])
            grown.high[axis] = truth->size[axis] - 1;
    }
    noc_status status = cut(truth, NULL, lesion, &grown, &near, err);
    if (status == NOC_OK)
        status = noc_bits_dilate(&near, dilation, err);
    memcpy(at, grown.low, sizeof at);
    *count = 0;
    for (bool is_there = status == NOC_OK; is_there; is_there = step(at, &grown)) {
        uint32_t part = prediction->part_of[place(prediction, at)];
        const int64_t here[3] = {at[0] - grown.low[0], at[1] - grown.low[1], at[2] - grown.low[2]};
        if (part == 0 || lesion_of[part] == lesion || !is_set(&near, here))
            continue;
        lesion_of[part] = lesion;
        widen(box, &prediction->boxes[part]);
        ++*count;
    }
    noc_bits_clear(&near);
    return status;
}

/* Adds the scores of a lesion that was found. */
static noc_status compare(const parts *truth, const parts *prediction, uint32_t lesion,
                          const uint32_t *lesion_of, const noc_label_box *box, const double spacing_mm[3],
                          noc_lesion_scores *sum, noc_error *err)
{
    noc_bits of_truth = {.rows = NULL}, of_prediction = {.rows = NULL};
    noc_surface surface;
    noc_status status = cut(truth, NULL, lesion, box, &of_truth, err);

    if (status == NOC_OK)
        status = cut(prediction, lesion_of, lesion, box, &of_prediction, err);
    if (status == NOC_OK)
        status = noc_surface_measure(&of_truth, &of_prediction, spacing_mm, NULL, 0, &surface, err);
    if (status == NOC_OK) {
        uint64_t both = 0, in_each = 0;
        size_t words = (size_t)(of_truth.words * (of_truth.size[1] + 2) * (of_truth.size[2] + 2));
        for (size_t w = 0; w < words; w++) {
            both += (uint64_t)__builtin_popcountll(of_truth.rows[w] & of_prediction.rows[w]);
            in_each += (uint64_t)__builtin_popcountll(of_truth.rows[w]) +
                       (uint64_t)__builtin_popcountll(of_prediction.rows[w]);
        }
        sum->dice += 2 * (double)both / (double)in_each;
        sum->hd95 += surface.deepmind.hd95;
    }
    noc_bits_clear(&of_truth);
    noc_bits_clear(&of_prediction);
    return status;
}

static noc_status score_lesions(const parts *truth, const parts *prediction, const double spacing_mm[3],
                                const noc_lesion_rules *rules, noc_lesion_scores *sum, noc_error *err)
{
    noc_status status = NOC_OK;
    const double voxel_mm3 = spacing_mm[0] * spacing_mm[1] * spacing_mm[2];
    /* [part of the prediction] the lesion whose it was last, 0: none */
    uint32_t *lesion_of = noc_alloc_zeroed(prediction->count + 1, sizeof *lesion_of, err);

    if (!lesion_of)
        return NOC_ENOMEMORY;
    for (uint32_t lesion = 1; status == NOC_OK && lesion <= truth->count; lesion++) {
        noc_label_box box = truth->boxes[lesion];
        size_t found = 0;
        status = match(truth, prediction, lesion, rules->dilation, lesion_of, &box, &found, err);
        if (status != NOC_OK || (double)truth->voxels[lesion] * voxel_mm3 <= rules->volume_mm3)
            continue;
        if (found > 0)
            status = compare(truth, prediction, lesion, lesion_of, &box, spacing_mm, sum, err);
        sum->tp += found > 0;
        sum->fn += found == 0;
    }
    for (size_t n = 1; n <= prediction->count; n++)
        sum->fp += lesion_of[n] == 0;
    free(lesion_of);
    return status;
}

noc_status noc_lesions_score(const noc_bits *truth, const noc_bits *prediction, const double spacing_mm[3],
                             const noc_lesion_rules *rules, noc_lesion_scores *scores, noc_error *err)
{
    parts lesions = {.count = 0}, predicted = {.count = 0};
    noc_bits dilated = {.rows = NULL};
    noc_lesion_scores sum = {.dice = 0};
    noc_status status = noc_bits_copy(truth, &dilated, err);

    if (status == NOC_OK)
        status = noc_bits_dilate(&dilated, rules->dilation, err);
    if (status == NOC_OK)
        status = find_parts(&dilated, truth, &lesions, err);
    noc_bits_clear(&dilated);
    if (status == NOC_OK)
        status = find_parts(prediction, prediction, &predicted, err);
    if (status == NOC_OK)
        status = score_lesions(&lesions, &predicted, spacing_mm, rules, &sum, err);
    if (status == NOC_OK) {
        double all = (double)(sum.tp + sum.fp + sum.fn);
        *scores = sum;
        scores->dice = all > 0 ? sum.dice / all : 1;
        scores->hd95 = all > 0 ? (sum.hd95 + (double)(sum.fp + sum.fn) * rules->penalty_mm) / all : 0;
    }
    parts_clear(&lesions);
    parts_clear(&predicted);
    return status;
}
