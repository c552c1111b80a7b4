#include "worker/label_map.h"

#include "engine/base/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What one call works with. */
typedef struct reading {
    const noc_image *image;
    noc_label_map *map;
    double *values;   /* of a row */
    uint32_t *box_of; /* [NOC_LABEL_COUNT] place in boxes + 1, 0: not seen yet */
} reading;

bool noc_is_label(double value)
{
    return value >= 0 && value < NOC_LABEL_COUNT && value == floor(value);
}

/* NULL only when memory ends. */
static noc_label_box *find_box(reading *r, uint16_t label, noc_error *err)
{
    noc_label_map *map = r->map;

    if (r->box_of[label] == 0) {
        noc_label_box *grown = reallocarray(map->boxes, (size_t)map->box_count + 1, sizeof *grown);
        if (!grown) {
            noc_fail(err, NOC_ENOMEMORY, "no memory for %d labels", map->box_count + 1);
            return NULL;
        }
        map->boxes = grown;
        grown[map->box_count] = (noc_label_box){.label = label, .low = {INT64_MAX, INT64_MAX, INT64_MAX}};
        r->box_of[label] = (uint32_t)++map->box_count;
    }
    return &map->boxes[r->box_of[label] - 1];
}

static void widen(noc_label_box *box, const int64_t at[3])
{
    for (int axis = 0; axis < 3; axis++) {
        box->low[axis] = at[axis] < box->low[axis] ? at[axis] : box->low[axis];
        box->high[axis] = at[axis] > box->high[axis] ? at[axis] : box->high[axis];
    }
}

static uint16_t label_at(const noc_label_map *map, const void *row, int64_t i)
{
    return map->voxel_bytes == 1 ? ((const uint8_t *)row)[i] : ((const uint16_t *)row)[i];
}

/* Bytes are compared by eight as long as they are alike. */
static int64_t run_end(const noc_label_map *map, const void *row, int64_t i)
{
    const uint16_t label = label_at(map, row, i);
    const uint64_t alike = 0x0101010101010101 * (uint64_t)label;
    uint64_t eight;

    for (; map->voxel_bytes == 1 && i + 8 <= map->size[0]; i += 8) {
        memcpy(&eight, (const uint8_t *)row + i, sizeof eight);
        if (eight != alike)
            break;
    }
    while (i < map->size[0] && label_at(map, row, i) == label)
        i++;
    return i;
}

/* Run by run. */
static noc_status note_row(reading *r, const void *row, int64_t j, int64_t k, noc_error *err)
{
    for (int64_t i = 0, end; i < r->map->size[0]; i = end) {
        const uint16_t label = label_at(r->map, row, i);
        end = run_end(r->map, row, i);
        if (label == 0)
            continue;
        noc_label_box *box = find_box(r, label, err);
        if (!box)
            return NOC_ENOMEMORY;
        widen(box, (const int64_t[3]){i, j, k});
        widen(box, (const int64_t[3]){end - 1, j, k});
    }
    return NOC_OK;
}

static noc_status take_values(reading *r, size_t first, uint16_t *row, noc_error *err)
{
    size_t ni = (size_t)r->map->size[0], nj = (size_t)r->map->size[1];

    noc_image_values(r->image, first, 1, ni, r->values);
    for (size_t i = 0; i < ni; i++) {
        double value = r->values[i];
        if (!noc_is_label(value))
            return noc_fail(err, NOC_EDATA,
                            "it is %g at voxel (%zu, %zu, %zu), not a label (0, 1, ... 65535)", value, i,
                            first / ni % nj, first / ni / nj);
        row[i] = (uint16_t)value;
    }
    return NOC_OK;
}

static bool is_empty(const uint8_t *row, size_t bytes)
{
    return row[0] == 0 && memcmp(row, row + 1, bytes - 1) == 0;
}

/* Most rows of most masks are empty. */
static noc_status read_rows(reading *r, noc_error *err)
{
    const int64_t *size = r->map->size;
    noc_status status = NOC_OK;
    size_t first = 0, ni = (size_t)size[0];

    for (int64_t k = 0; k < size[2]; k++)
        for (int64_t j = 0; status == NOC_OK && j < size[1]; j++, first += ni) {
            void *row = (uint8_t *)r->map->voxels + first * (size_t)r->map->voxel_bytes;
            if (r->map->voxel_bytes == 2)
                status = take_values(r, first, row, err);
            else if (is_empty(row, ni))
                continue;
            if (status == NOC_OK)
                status = note_row(r, row, j, k, err);
        }
    return status;
}

static int compare_boxes(const void *a, const void *b)
{
    return (int)((const noc_label_box *)a)->label - (int)((const noc_label_box *)b)->label;
}

noc_status noc_label_map_make(noc_image *image, noc_label_map *map, noc_error *err)
{
    noc_status status = NOC_ENOMEMORY;
    reading r = {.image = image, .map = map};

    memset(map, 0, sizeof *map);
    if (image->channels != 1)
        return noc_fail(err, NOC_ECHANNELS, "it has %d channels, expected 1", image->channels);
    memcpy(map->size, image->grid.size, sizeof map->size);
    if (noc_image_is_plain_bytes(image)) {
        map->voxel_bytes = 1;
        map->voxels = image->voxels;
        image->voxels = NULL;
    } else {
        map->voxel_bytes = 2;
        map->voxels = noc_alloc(noc_grid_voxels(&image->grid), sizeof(uint16_t), err);
    }
    r.values = map->voxels ? noc_alloc((size_t)map->size[0], sizeof *r.values, err) : NULL;
    r.box_of = r.values ? noc_alloc_zeroed(NOC_LABEL_COUNT, sizeof *r.box_of, err) : NULL;
    if (r.box_of)
        status = read_rows(&r, err);
    free(r.values);
    free(r.box_of);
    if (status != NOC_OK)
        noc_label_map_clear(map);
    else if (map->box_count > 0)
        qsort(map->boxes, (size_t)map->box_count, sizeof *map->boxes, compare_boxes);
    return status;
}

void noc_label_map_clear(noc_label_map *map)
{
    free(map->voxels);
    free(map->boxes);
    memset(map, 0, sizeof *map);
}
