/* Preparation without a copy. A prepared volume is the stored image plus: orientation and crop as an origin
 * and three steps, and a chain of pointwise steps with the coefficients that its statistics gave. What always
 * holds: values are computed in double in the order of the manifest's steps, and rounded to f32 last; sums
 * run in one fixed order. */
#include "engine/prepare.h"

#include "engine/base/memory.h"
#include "engine/volume/orientation.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ZSCORE_LEAST_STD 1e-8
#define AFFINE_TOLERANCE 1e-3
enum { ROW = 512 }; /* values at a time */

struct noc_prepared {
    noc_image images[NOC_MAX_CHANNELS];
    int image_count;
    int channels;
    noc_orientation orientation;
    int64_t size[3];         /* D, H, W after crop */
    int64_t start[3];        /* of the crop, in the oriented volume */
    int64_t step[3], origin; /* into one stored channel, of the cropped volume */
    noc_pointwise links[NOC_MAX_STEPS * 2];
    int link_count;
    const noc_device *device; /* that has a copy, or NULL */
    noc_volume *volume;
    void (*volume_free)(noc_volume *volume);
};

void noc_prepared_free(noc_prepared *prepared)
{
    if (!prepared)
        return;
    if (prepared->volume)
        prepared->volume_free(prepared->volume);
    for (int i = 0; i < prepared->image_count; i++)
        noc_image_clear(&prepared->images[i]);
    for (int i = 0; i < prepared->link_count; i++) {
        free(prepared->links[i].factor);
        free(prepared->links[i].addend);
    }
    free(prepared);
}

void noc_prepared_size(const noc_prepared *prepared, int64_t size[3])
{
    memcpy(size, prepared->size, sizeof prepared->size);
}

int noc_prepared_channels(const noc_prepared *prepared)
{
    return prepared->channels;
}

const noc_grid *noc_prepared_grid(const noc_prepared *prepared)
{
    return &prepared->images[0].grid;
}

size_t noc_prepared_bytes(const noc_prepared *prepared)
{
    size_t bytes = sizeof *prepared;
    for (int i = 0; i < prepared->image_count; i++)
        bytes += prepared->images[i].bytes;
    return bytes;
}

void noc_prepared_steps(const noc_prepared *prepared, int64_t *origin, int64_t step[3])
{
    *origin = prepared->origin;
    memcpy(step, prepared->step, sizeof prepared->step);
}

/* ---- values ---- */

/* The image that holds a channel, and the channel's first voxel in it. */
static const noc_image *image_of(const noc_prepared *p, int channel, size_t *first)
{
    if (p->image_count > 1) {
        *first = 0;
        return &p->images[channel];
    }
    *first = (size_t)channel * noc_grid_voxels(&p->images[0].grid);
    return &p->images[0];
}

/* A row runs along one stored axis: within a slice, or from slice to slice. */
static void apply_slices(const noc_prepared *p, const noc_pointwise *link, int channel, int64_t index,
                         int64_t step, int count, double *v)
{
    int64_t plane = p->images[0].grid.size[0] * p->images[0].grid.size[1], slices = p->images[0].grid.size[2];
    int64_t first = channel * slices + index / plane, slice_step = step % plane == 0 ? step / plane : 0;
    const double *factor = link->factor + first, *addend = link->addend + first;
    for (int i = 0; i < count; i++)
        v[i] = v[i] * factor[i * slice_step] + addend[i * slice_step];
}

static void apply_link(const noc_prepared *p, const noc_pointwise *link, int channel, int64_t index,
                       int64_t step, int count, double *v)
{
    double shift = link->shift[channel], divisor = link->divisor[channel];
    switch (link->kind) {
    case NOC_POINTWISE_SLICES:
        apply_slices(p, link, channel, index, step, count, v);
        break;
    case NOC_POINTWISE_SHIFT_DIVIDE:
        for (int i = 0; i < count; i++)
            v[i] = (v[i] - shift) / divisor;
        break;
    case NOC_POINTWISE_SHIFT_DIVIDE_NONZERO:
        for (int i = 0; i < count; i++)
            v[i] = v[i] != 0 ? (v[i] - shift) / divisor : v[i];
        break;
    case NOC_POINTWISE_CLIP:
        for (int i = 0; i < count; i++)
            v[i] = v[i] < link->low ? link->low : v[i] > link->high ? link->high : v[i];
        break;
    }
}

/* `count` values (at most ROW) of a channel from stored index `index` (within the channel), `step` apart,
 * after the first `links` steps. */
static void chain_values(const noc_prepared *p, int links, int channel, int64_t index, int64_t step,
                         int count, double *v)
{
    size_t first;
    const noc_image *image = image_of(p, channel, &first);
    noc_image_values(image, first + (size_t)index, step, (size_t)count, v);
    for (int i = 0; i < links; i++)
        apply_link(p, &p->links[i], channel, index, step, count, v);
}

/* Calls row() for all values of a channel of the present (cropped) volume, after all present links, in model
 * order. */
static void each_row(const noc_prepared *p, int channel, void (*row)(void *sum, const double *v, int count),
                     void *sum)
{
    double v[ROW];
    for (int64_t d = 0; d < p->size[0]; d++)
        for (int64_t h = 0; h < p->size[1]; h++)
            for (int64_t w = 0; w < p->size[2]; w += ROW) {
                int count = p->size[2] - w < ROW ? (int)(p->size[2] - w) : ROW;
                int64_t index = p->origin + d * p->step[0] + h * p->step[1] + w * p->step[2];
                chain_values(p, p->link_count, channel, index, p->step[2], count, v);
                row(sum, v, count);
            }
}

/* ---- steps ---- */

typedef struct moments {
    bool is_nonzero_only;
    double mean, sum;
    double count;
} moments;

static void add_values(void *argument, const double *v, int count)
{
    moments *m = argument;
    double sum = 0;
    int counted = 0;
    for (int i = 0; i < count; i++)
        if (!m->is_nonzero_only || v[i] != 0) {
            sum += v[i];
            counted++;
        }
    m->sum += sum;
    m->count += counted;
}

static void add_squares(void *argument, const double *v, int count)
{
    moments *m = argument;
    double sum = 0;
    for (int i = 0; i < count; i++)
        if (!m->is_nonzero_only || v[i] != 0)
            sum += (v[i] - m->mean) * (v[i] - m->mean);
    m->sum += sum;
}

/* Mean and population standard deviation in two passes; a volume without a value that counts is left as it
 * is. */
static noc_status add_zscore(noc_prepared *p, const noc_step *step, noc_error *err)
{
    noc_pointwise link = {.kind = step->mask == NOC_ZSCORE_NONZERO ? NOC_POINTWISE_SHIFT_DIVIDE_NONZERO
                                                                   : NOC_POINTWISE_SHIFT_DIVIDE};
    for (int c = 0; c < p->channels; c++) {
        moments m = {.is_nonzero_only = step->mask == NOC_ZSCORE_NONZERO};
        each_row(p, c, add_values, &m);
        m.mean = m.count > 0 ? m.sum / m.count : 0;
        m.sum = 0;
        each_row(p, c, add_squares, &m);
        link.shift[c] = m.mean;
        link.divisor[c] = m.count > 0 ? fmax(sqrt(m.sum / m.count), ZSCORE_LEAST_STD) : 1;
        if (!isfinite(m.mean) || !isfinite(m.sum))
            return noc_fail(err, NOC_ENONFINITE, "the values of channel %d are too large for a mean", c + 1);
    }
    p->links[p->link_count++] = link;
    return NOC_OK;
}

static void add_clip_zscore(noc_prepared *p, const noc_step *step)
{
    noc_pointwise link = {.kind = NOC_POINTWISE_SHIFT_DIVIDE};
    p->links[p->link_count++] =
        (noc_pointwise){.kind = NOC_POINTWISE_CLIP, .low = step->low, .high = step->high};
    for (int c = 0; c < p->channels; c++) {
        link.shift[c] = step->mean;
        link.divisor[c] = fmax(step->std, ZSCORE_LEAST_STD);
    }
    p->links[p->link_count++] = link;
}

/* Smallest and largest value of a stored slice. */
static void slice_range(const noc_prepared *p, int channel, int64_t slice, double *low, double *high)
{
    double v[ROW];
    int64_t plane = p->images[0].grid.size[0] * p->images[0].grid.size[1];
    *low = INFINITY;
    *high = -INFINITY;
    for (int64_t at = 0; at < plane; at += ROW) {
        int count = plane - at < ROW ? (int)(plane - at) : ROW;
        chain_values(p, 0, channel, slice * plane + at, 1, count, v);
        for (int i = 0; i < count; i++) {
            *low = v[i] < *low ? v[i] : *low;
            *high = v[i] > *high ? v[i] : *high;
        }
    }
}

/* sklearn's MinMaxScaler on (pixels, slices): y = v*k + (0 - min*k), k = 1/(max - min), 1 for a constant
 * slice. */
static noc_status add_minmax_slices(noc_prepared *p, noc_error *err)
{
    int64_t slices = p->images[0].grid.size[2];
    size_t count = (size_t)slices * (size_t)p->channels;
    noc_pointwise *link = &p->links[p->link_count];
    *link = (noc_pointwise){.kind = NOC_POINTWISE_SLICES,
                            .factor = noc_alloc(count, sizeof(double), err),
                            .addend = noc_alloc(count, sizeof(double), err)};
    p->link_count++;
    if (!link->factor || !link->addend)
        return NOC_ENOMEMORY;
    p->link_count--; /* not yet applied while its own ranges are taken */
    for (int c = 0; c < p->channels; c++)
        for (int64_t k = 0; k < slices; k++) {
            double low, high;
            slice_range(p, c, k, &low, &high);
            double range = high - low, factor = range < 10 * DBL_EPSILON ? 1 : 1 / range;
            link->factor[c * slices + k] = factor;
            link->addend[c * slices + k] = 0 - low * factor;
        }
    p->link_count++;
    return NOC_OK;
}

static noc_status add_crop(noc_prepared *p, const noc_step *step, noc_error *err)
{
    for (int a = 0; a < 3; a++) {
        if (step->start[a] < 0 || step->size[a] > p->size[a] || step->start[a] > p->size[a] - step->size[a])
            return noc_fail(
                err, NOC_EGEOMETRY,
                "the model's crop of %lld voxels from %lld lies beyond axis %c of the scan, which has %lld",
                (long long)step->size[a], (long long)step->start[a], "zyx"[a], (long long)p -> size[a]);
        p->start[a] += step->start[a];
        p->origin += step->start[a] * p->step[a];
        p->size[a] = step->size[a];
    }
    return NOC_OK;
}

static noc_status apply_steps(noc_prepared *p, const noc_manifest *manifest, noc_error *err)
{
    noc_status status = NOC_OK;
    for (int i = 0; status == NOC_OK && i < manifest->step_count; i++) {
        const noc_step *step = &manifest->steps[i];
        if (step->kind == NOC_STEP_MINMAX_SLICES)
            status = add_minmax_slices(p, err);
        else if (step->kind == NOC_STEP_ZSCORE)
            status = add_zscore(p, step, err);
        else if (step->kind == NOC_STEP_CLIP_ZSCORE)
            add_clip_zscore(p, step);
        else
            status = add_crop(p, step, err);
    }
    return status;
}

/* ---- putting it together ---- */

static noc_status check_images(const noc_manifest *manifest, const noc_image *images, int count,
                               noc_error *err)
{
    int wanted = manifest->network.in_channels;
    int have = count == 1 ? images[0].channels : count;
    if (have != wanted)
        return noc_fail(err, NOC_ECHANNELS, "the scan has %d channel%s, the model %s wants %d", have,
                        have == 1 ? "" : "s", manifest->name, wanted);
    for (int i = 0; i < count; i++) {
        if (count > 1 && images[i].channels != 1)
            return noc_fail(err, NOC_ECHANNELS, "file %d of %d has %d channels itself", i + 1, count,
                            images[i].channels);
        if (!noc_grid_is_same(&images[0].grid, &images[i].grid, AFFINE_TOLERANCE))
            return noc_fail(err, NOC_ECHANNELS, "channel %d lies on another grid than channel 1", i + 1);
    }
    for (int i = 0; i < count; i++) {
        noc_status status = noc_image_check_finite(&images[i], err);
        if (status != NOC_OK)
            return count > 1 ? noc_within(err, status, "file %d of %d", i + 1, count) : status;
    }
    return NOC_OK;
}

static noc_status orient(noc_prepared *p, const noc_manifest *manifest, noc_error *err)
{
    const noc_grid *grid = &p->images[0].grid;
    noc_status status = noc_orientation_find(grid->affine, manifest->orientation, &p->orientation, err);
    if (status != NOC_OK)
        return status;
    noc_orientation_size(&p->orientation, grid->size, p->size);
    noc_orientation_steps(&p->orientation, grid->size, &p->origin, p->step);
    return NOC_OK;
}

noc_status noc_prepare(const noc_manifest *manifest, noc_image *images, int image_count,
                       noc_prepared **prepared, noc_error *err)
{
    noc_status status = check_images(manifest, images, image_count, err);
    if (status != NOC_OK)
        return status;
    noc_prepared *p = noc_alloc_zeroed(1, sizeof *p, err);
    if (!p)
        return NOC_ENOMEMORY;
    p->image_count = image_count;
    p->channels = manifest->network.in_channels;
    memcpy(p->images, images, (size_t)image_count * sizeof *images);
    status = orient(p, manifest, err);
    if (status == NOC_OK)
        status = apply_steps(p, manifest, err);
    if (status != NOC_OK) {
        memset(p->images, 0, sizeof p->images); /* they stay the caller's */
        noc_prepared_free(p);
        return status;
    }
    memset(images, 0, (size_t)image_count * sizeof *images);
    *prepared = p;
    return NOC_OK;
}

/* One row of one channel of a box: padding, values, padding. out: element of the row's first voxel, channels
 * apart. */
static void cut_row(const noc_prepared *p, int channel, int64_t d, int64_t h, int64_t start, int64_t size,
                    float pad_value, float *out)
{
    double v[ROW];
    int64_t from = start < 0 ? 0 : start, to = start + size < p->size[2] ? start + size : p->size[2];
    bool is_outside = d < 0 || h < 0 || d >= p->size[0] || h >= p->size[1] || from >= to;
    if (is_outside)
        from = to = start + size;
    for (int64_t w = start; w < from; w++)
        out[(w - start) * p->channels] = pad_value;
    for (int64_t w = from; w < to; w += ROW) {
        int count = to - w < ROW ? (int)(to - w) : ROW;
        int64_t index = p->origin + d * p->step[0] + h * p->step[1] + w * p->step[2];
        chain_values(p, p->link_count, channel, index, p->step[2], count, v);
        for (int i = 0; i < count; i++)
            out[(w + i - start) * p->channels] = (float)v[i];
    }
    for (int64_t w = to; w < start + size; w++)
        out[(w - start) * p->channels] = pad_value;
}

void noc_prepared_cut(const noc_prepared *prepared, const int64_t start[3], const int64_t size[3],
                      float pad_value, float *out)
{
    for (int64_t d = 0; d < size[0]; d++)
        for (int64_t h = 0; h < size[1]; h++) {
            float *row = out + (d * size[1] + h) * size[2] * prepared->channels;
            for (int c = 0; c < prepared->channels; c++)
                cut_row(prepared, c, start[0] + d, start[1] + h, start[2], size[2], pad_value, row + c);
        }
}

/* ---- devices ---- */

static noc_stored_channel stored_channel(const noc_prepared *p, int channel)
{
    size_t first;
    const noc_image *image = image_of(p, channel, &first);
    noc_stored_channel stored = {
        .bytes = (int)noc_voxel_size(image->type), .slope = image->slope, .inter = image->inter};
    stored.voxels = (const char *)image->voxels + first * (size_t)stored.bytes;
    if (image->type == NOC_VOXEL_F32 || image->type == NOC_VOXEL_F64)
        stored.kind = NOC_NUMBER_FLOAT;
    else if (image->type == NOC_VOXEL_I8 || image->type == NOC_VOXEL_I16 || image->type == NOC_VOXEL_I32 ||
             image->type == NOC_VOXEL_I64)
        stored.kind = NOC_NUMBER_SIGNED;
    return stored;
}

void noc_prepared_describe(const noc_prepared *prepared, noc_volume_source *source)
{
    *source = (noc_volume_source){
        .channels = prepared->channels, .steps = prepared->links, .step_count = prepared->link_count};
    for (int c = 0; c < prepared->channels; c++)
        source->channel[c] = stored_channel(prepared, c);
    for (int a = 0; a < 3; a++) {
        int axis = prepared->orientation.axis[a];
        bool is_flipped = prepared->orientation.is_flipped[a];
        source->stored_size[a] = prepared->images[0].grid.size[a];
        source->size[a] = prepared->size[a];
        source->axis[a] = axis;
        source->direction[a] = is_flipped ? -1 : 1;
        source->first[a] =
            is_flipped ? prepared->images[0].grid.size[axis] - 1 - prepared->start[a] : prepared->start[a];
    }
}

void noc_prepared_attach(noc_prepared *prepared, const noc_device *device, noc_volume *volume,
                         void (*volume_free)(noc_volume *volume))
{
    prepared->device = device;
    prepared->volume = volume;
    prepared->volume_free = volume_free;
}

const noc_volume *noc_prepared_volume(const noc_prepared *prepared, const noc_device *device)
{
    return device == prepared->device ? prepared->volume : NULL;
}
