/* Preparation without a copy, as long as steps are pointwise. A prepared volume is the stored image plus:
 * orientation and crops as an origin and three steps, and a chain of pointwise steps with the coefficients
 * that its statistics gave. A step that is more than that (a filled mask, resampling) puts an f32 image in
 * the model's order in the place of all this. What always holds: values are computed in double in the order
 * of the manifest's steps, and rounded to f32 last; sums run in one fixed order. */
#include "engine/prepare.h"

#include "engine/base/memory.h"
#include "engine/resample.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ZSCORE_LEAST_STD 1e-8
#define AFFINE_TOLERANCE 1e-3
enum { ROW = 512 }; /* values at a time */

struct noc_prepared {
    noc_grid grid; /* the input's */
    noc_place placement;
    noc_image images[NOC_MAX_CHANNELS];
    int image_count;
    bool is_replaced; /* the images, by one of its own */
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

static void clear_images(noc_prepared *p)
{
    for (int i = 0; i < p->image_count; i++)
        noc_image_clear(&p->images[i]);
}

static void clear_links(noc_prepared *p)
{
    for (int i = 0; i < p->link_count; i++) {
        free(p->links[i].factor);
        free(p->links[i].addend);
    }
    p->link_count = 0;
}

void noc_prepared_free(noc_prepared *prepared)
{
    if (!prepared)
        return;
    if (prepared->volume)
        prepared->volume_free(prepared->volume);
    clear_images(prepared);
    clear_links(prepared);
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
    return &prepared->grid;
}

size_t noc_prepared_bytes(const noc_prepared *prepared)
{
    size_t bytes = sizeof *prepared;
    for (int i = 0; i < prepared->image_count; i++)
        bytes += prepared->images[i].bytes;
    return bytes;
}

const noc_place *noc_prepared_place(const noc_prepared *prepared)
{
    return &prepared->placement;
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
    double low = link->low[channel], high = link->high[channel];
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
            v[i] = v[i] < low ? low : v[i] > high ? high : v[i];
        break;
    }
}

/* Within a stored channel, of a voxel of the present volume. */
static int64_t index_of(const noc_prepared *p, int64_t d, int64_t h, int64_t w)
{
    return p->origin + d * p->step[0] + h * p->step[1] + w * p->step[2];
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
                chain_values(p, p->link_count, channel, index_of(p, d, h, w), p->step[2], count, v);
                row(sum, v, count);
            }
}

/* ---- steps ---- */

enum { BACKGROUND, FOREGROUND, OUTSIDE };

/* Which values count: all; those that are not 0; or those whose mask, in model order, is not OUTSIDE. */
typedef struct moments {
    bool is_nonzero_only;
    const unsigned char *mask;
    double mean, sum;
    double count;
} moments;

/* Whether value i of a row counts; rows come in the mask's order, and next_row follows each. */
static bool counts(const moments *m, const double *v, int i)
{
    return m->mask ? m->mask[i] != OUTSIDE : !m->is_nonzero_only || v[i] != 0;
}

static void next_row(moments *m, double sum, int count)
{
    m->sum += sum;
    if (m->mask)
        m->mask += count;
}

static void add_values(void *argument, const double *v, int count)
{
    moments *m = argument;
    double sum = 0;
    int counted = 0;
    for (int i = 0; i < count; i++)
        if (counts(m, v, i)) {
            sum += v[i];
            counted++;
        }
    m->count += counted;
    next_row(m, sum, count);
}

static void add_squares(void *argument, const double *v, int count)
{
    moments *m = argument;
    double sum = 0;
    for (int i = 0; i < count; i++)
        if (counts(m, v, i))
            sum += (v[i] - m->mean) * (v[i] - m->mean);
    next_row(m, sum, count);
}

/* Mean and population standard deviation of a channel in two passes; where no value counts nothing changes.
 */
static noc_status take_moments(const noc_prepared *p, int channel, bool is_nonzero_only,
                               const unsigned char *mask, double *shift, double *divisor, noc_error *err)
{
    moments m = {.is_nonzero_only = is_nonzero_only, .mask = mask};
    each_row(p, channel, add_values, &m);
    m.mean = m.count > 0 ? m.sum / m.count : 0;
    m.sum = 0;
    m.mask = mask;
    each_row(p, channel, add_squares, &m);
    *shift = m.mean;
    *divisor = m.count > 0 ? fmax(sqrt(m.sum / m.count), ZSCORE_LEAST_STD) : 1;
    if (isfinite(m.mean) && isfinite(m.sum))
        return NOC_OK;
    return noc_fail(err, NOC_ENONFINITE, "the values of channel %d are too large for a mean", channel + 1);
}

static noc_status add_zscore(noc_prepared *p, bool is_nonzero_only, noc_error *err)
{
    noc_pointwise link = {.kind = is_nonzero_only ? NOC_POINTWISE_SHIFT_DIVIDE_NONZERO
                                                  : NOC_POINTWISE_SHIFT_DIVIDE};
    for (int c = 0; c < p->channels; c++) {
        noc_status status = take_moments(p, c, is_nonzero_only, NULL, &link.shift[c], &link.divisor[c], err);
        if (status != NOC_OK)
            return status;
    }
    p->links[p->link_count++] = link;
    return NOC_OK;
}

static void add_clip_zscore(noc_prepared *p, const noc_step *step)
{
    noc_pointwise clip = {.kind = NOC_POINTWISE_CLIP}, link = {.kind = NOC_POINTWISE_SHIFT_DIVIDE};
    for (int c = 0; c < p->channels; c++) {
        clip.low[c] = step->low;
        clip.high[c] = step->high;
        link.shift[c] = step->mean;
        link.divisor[c] = fmax(step->std, ZSCORE_LEAST_STD);
    }
    p->links[p->link_count++] = clip;
    p->links[p->link_count++] = link;
}

/* ---- percentiles ---- */

enum { RANKS = 4, DIGIT_BITS = 16, DIGITS = 1 << DIGIT_BITS, KEY_BITS = 64 };

/* Values of given ranks, found digit by digit from the highest, so that no copy of the values is sorted. */
typedef struct selection {
    int shift;                 /* of the digit that is counted */
    uint64_t prefix[RANKS];    /* digits known so far */
    uint64_t rank[RANKS];      /* among values with that prefix */
    int same[RANKS];           /* the first rank with that prefix, which counts for it */
    uint64_t (*count)[DIGITS]; /* a rank */
} selection;

/* Unsigned numbers in the order of the doubles. */
static uint64_t key_of(double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits >> 63 ? ~bits : bits | (uint64_t)1 << 63;
}

static double value_of(uint64_t key)
{
    double v;
    key = key >> 63 ? key ^ (uint64_t)1 << 63 : ~key;
    memcpy(&v, &key, sizeof v);
    return v;
}

static void count_digits(void *argument, const double *v, int count)
{
    selection *s = argument;
    for (int i = 0; i < count; i++) {
        uint64_t key = key_of(v[i]) >> s->shift, above = key >> DIGIT_BITS;
        for (int r = 0; r < RANKS; r++)
            if (s->same[r] == r && above == s->prefix[r])
                s->count[r][key % DIGITS]++;
    }
}

static void find_same(selection *s)
{
    for (int r = 0; r < RANKS; r++) {
        s->same[r] = r;
        while (s->same[r] > 0 && s->prefix[s->same[r] - 1] == s->prefix[r])
            s->same[r]--;
    }
}

static void select_ranks(const noc_prepared *p, int channel, selection *s)
{
    memset(s->prefix, 0, sizeof s->prefix);
    for (s->shift = KEY_BITS - DIGIT_BITS; s->shift >= 0; s->shift -= DIGIT_BITS) {
        memset(s->count, 0, RANKS * sizeof *s->count);
        find_same(s);
        each_row(p, channel, count_digits, s);
        for (int r = 0; r < RANKS; r++) {
            const uint64_t *count = s->count[s->same[r]];
            uint64_t digit = 0;
            while (s->rank[r] >= count[digit])
                s->rank[r] -= count[digit++];
            s->prefix[r] = s->prefix[r] << DIGIT_BITS | digit;
        }
    }
}

/* numpy's: between the neighbours of place q * (n - 1), from the nearer one. */
static double between(double a, double b, double t)
{
    return t < 0.5 ? a + (b - a) * t : b - (b - a) * (1 - t);
}

static noc_status add_percentile_zscore(noc_prepared *p, const noc_step *step, noc_error *err)
{
    noc_pointwise clip = {.kind = NOC_POINTWISE_CLIP};
    uint64_t last = (uint64_t)(p->size[0] * p->size[1] * p->size[2]) - 1;
    double low = step->low / 100 * (double)last, high = step->high / 100 * (double)last;
    selection s = {.count = noc_alloc(RANKS, sizeof *s.count, err)};
    if (!s.count)
        return NOC_ENOMEMORY;
    for (int c = 0; c < p->channels; c++) {
        s.rank[0] = (uint64_t)low;
        s.rank[2] = (uint64_t)high;
        for (int r = 0; r < RANKS; r += 2)
            s.rank[r + 1] = s.rank[r] < last ? s.rank[r] + 1 : last;
        select_ranks(p, c, &s);
        clip.low[c] = between(value_of(s.prefix[0]), value_of(s.prefix[1]), low - floor(low));
        clip.high[c] = between(value_of(s.prefix[2]), value_of(s.prefix[3]), high - floor(high));
    }
    free(s.count);
    p->links[p->link_count++] = clip;
    return add_zscore(p, false, err);
}

/* ---- slices ---- */

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

/* ---- crops ---- */

static void keep_box(noc_prepared *p, const int64_t start[3], const int64_t size[3])
{
    noc_place *place = &p->placement;
    for (int a = 0; a < 3; a++) {
        p->start[a] += start[a];
        p->origin += start[a] * p->step[a];
        p->size[a] = size[a];
        if (place->is_resampled) {
            place->start[a] += start[a];
        } else {
            place->origin += start[a] * place->step[a];
            place->size[a] = size[a];
        }
    }
}

static noc_status add_crop(noc_prepared *p, const noc_step *step, noc_error *err)
{
    for (int a = 0; a < 3; a++)
        if (step->start[a] < 0 || step->size[a] > p->size[a] || step->start[a] > p->size[a] - step->size[a])
            return noc_fail(
                err, NOC_EGEOMETRY,
                "the model's crop of %lld voxels from %lld lies beyond axis %c of the scan, which has %lld",
                (long long)step->size[a], (long long)step->start[a], "zyx"[a], (long long)p -> size[a]);
    keep_box(p, step->start, step->size);
    return NOC_OK;
}

typedef struct bounds {
    const int64_t *size;
    int64_t next; /* voxel of the next row */
    int64_t from[3], to[3];
} bounds;

/* By the first and the last of a row's values that are not 0. */
static void widen_bounds(void *argument, const double *v, int count)
{
    bounds *b = argument;
    int64_t row = b->next / b->size[2], w = b->next % b->size[2];
    int first = 0, last = count - 1;
    b->next += count;
    while (first < count && v[first] == 0)
        first++;
    if (first == count)
        return;
    while (v[last] == 0)
        last--;
    const int64_t low[3] = {row / b->size[1], row % b->size[1], w + first};
    const int64_t high[3] = {low[0], low[1], w + last};
    for (int a = 0; a < 3; a++) {
        b->from[a] = low[a] < b->from[a] ? low[a] : b->from[a];
        b->to[a] = high[a] >= b->to[a] ? high[a] + 1 : b->to[a];
    }
}

/* A scan without a voxel that is not 0 is left as it is. */
static void add_foreground_crop(noc_prepared *p)
{
    bounds b = {.size = p->size, .from = {INT64_MAX, INT64_MAX, INT64_MAX}};
    for (int c = 0; c < p->channels; c++) {
        b.next = 0;
        each_row(p, c, widen_bounds, &b);
    }
    if (b.to[0] == 0)
        return;
    for (int a = 0; a < 3; a++)
        b.to[a] -= b.from[a];
    keep_box(p, b.from, b.to);
}

/* ---- an image of its own ---- */

static size_t image_bytes(const int64_t size[3], size_t voxel_bytes)
{
    for (int a = 0; a < 3; a++)
        voxel_bytes = noc_size_product(voxel_bytes, (size_t)size[a]);
    return voxel_bytes;
}

/* Of f32, in the model's order. */
static noc_status make_image(const int64_t size[3], int channels, noc_image *image, noc_error *err)
{
    size_t bytes = image_bytes(size, (size_t)channels * sizeof(float));
    *image = (noc_image){
        .grid.size = {size[2], size[1], size[0]}, .channels = channels, .type = NOC_VOXEL_F32, .slope = 1};
    if (bytes > PTRDIFF_MAX)
        return noc_fail(err, NOC_ETOOLARGE, "%lld x %lld x %lld voxels are beyond this machine's sizes",
                        (long long)size[0], (long long)size[1], (long long)size[2]);
    image->bytes = bytes;
    image->voxels = noc_alloc(bytes, 1, err);
    return image->voxels ? NOC_OK : NOC_ENOMEMORY;
}

/* It takes the place of the stored images, of orientation, crops and links, all of which it has gone through.
 */
static noc_status replace_images(noc_prepared *p, noc_image *image, noc_error *err)
{
    if (noc_image_check_finite(image, NULL) != NOC_OK) {
        noc_image_clear(image);
        return noc_fail(err, NOC_ENONFINITE, "the values are too large for single precision");
    }
    clear_images(p);
    clear_links(p);
    p->images[0] = *image;
    p->image_count = 1;
    p->is_replaced = true;
    p->orientation = (noc_orientation){.axis = {2, 1, 0}};
    memset(p->start, 0, sizeof p->start);
    noc_orientation_size(&p->orientation, image->grid.size, p->size);
    noc_orientation_steps(&p->orientation, image->grid.size, &p->origin, p->step);
    return NOC_OK;
}

/* ---- filled masks ---- */

static void mark_values(void *argument, const double *v, int count)
{
    unsigned char **mask = argument;
    for (int i = 0; i < count; i++)
        if (v[i] != 0)
            (*mask)[i] = FOREGROUND;
    *mask += count;
}

typedef struct flood {
    unsigned char *mask;
    uint32_t *stack; /* each voxel is put there at most once */
    size_t count;
} flood;

static void reach(flood *f, uint32_t voxel)
{
    if (f->mask[voxel] != BACKGROUND)
        return;
    f->mask[voxel] = OUTSIDE;
    f->stack[f->count++] = voxel;
}

/* Background that is connected over faces with the volume's border becomes OUTSIDE; what is left of it is
 * holes. */
static void mark_outside(const int64_t size[3], flood *f)
{
    const uint32_t width = (uint32_t)size[2], height = (uint32_t)size[1], depth = (uint32_t)size[0];
    const uint32_t plane = width * height;
    uint32_t voxel = 0;
    for (uint32_t d = 0; d < depth; d++)
        for (uint32_t h = 0; h < height; h++) {
            bool is_border = d == 0 || d == depth - 1 || h == 0 || h == height - 1;
            for (uint32_t w = 0; w < width; w++, voxel++)
                if (is_border || w == 0 || w == width - 1)
                    reach(f, voxel);
        }
    while (f->count > 0) {
        uint32_t v = f->stack[--f->count], w = v % width, h = v / width % height, d = v / plane;
        if (w > 0)
            reach(f, v - 1);
        if (w < width - 1)
            reach(f, v + 1);
        if (h > 0)
            reach(f, v - width);
        if (h < height - 1)
            reach(f, v + width);
        if (d > 0)
            reach(f, v - plane);
        if (d < depth - 1)
            reach(f, v + plane);
    }
}

typedef struct masked_copy {
    const unsigned char *mask;
    double shift, divisor;
    float *out;
} masked_copy;

static void copy_masked(void *argument, const double *v, int count)
{
    masked_copy *c = argument;
    for (int i = 0; i < count; i++)
        c->out[i] = (float)(c->mask[i] != OUTSIDE ? (v[i] - c->shift) / c->divisor : v[i]);
    c->mask += count;
    c->out += count;
}

/* Voxels that are not 0 in any channel, with their holes. `room` is of 4 bytes a voxel. */
static noc_status make_mask(const noc_prepared *p, size_t voxels, void *room, unsigned char **mask,
                            noc_error *err)
{
    if (voxels > UINT32_MAX)
        return noc_fail(err, NOC_ETOOLARGE, "a filled mask of %zu voxels, it may have %u", voxels,
                        UINT32_MAX);
    flood f = {.mask = noc_alloc_zeroed(voxels, 1, err), .stack = room};
    if (!f.mask)
        return NOC_ENOMEMORY;
    for (int c = 0; c < p->channels; c++) {
        unsigned char *next = f.mask;
        each_row(p, c, mark_values, &next);
    }
    mark_outside(p->size, &f);
    *mask = f.mask;
    return NOC_OK;
}

/* nnU-Net's: what lies outside the mask stays as it is. */
static noc_status add_zscore_filled(noc_prepared *p, noc_error *err)
{
    noc_image image;
    unsigned char *mask = NULL;
    noc_status status = make_image(p->size, p->channels, &image, err);
    if (status != NOC_OK)
        return status;
    size_t voxels = noc_grid_voxels(&image.grid);
    status = make_mask(p, voxels, image.voxels, &mask, err);
    for (int c = 0; status == NOC_OK && c < p->channels; c++) {
        masked_copy copy = {.mask = mask, .out = (float *)image.voxels + (size_t)c * voxels};
        status = take_moments(p, c, false, mask, &copy.shift, &copy.divisor, err);
        if (status == NOC_OK)
            each_row(p, c, copy_masked, &copy);
    }
    free(mask);
    if (status == NOC_OK)
        return replace_images(p, &image, err);
    noc_image_clear(&image);
    return status;
}

/* ---- resampling ---- */

typedef struct channel_source {
    const noc_prepared *prepared;
    int channel;
} channel_source;

static void read_plane(const void *argument, int64_t d, double *out)
{
    const channel_source *source = argument;
    const noc_prepared *p = source->prepared;
    for (int64_t h = 0; h < p->size[1]; h++)
        for (int64_t w = 0; w < p->size[2]; w += ROW) {
            int count = p->size[2] - w < ROW ? (int)(p->size[2] - w) : ROW;
            chain_values(p, p->link_count, source->channel, index_of(p, d, h, w), p->step[2], count,
                         out + h * p->size[2] + w);
        }
}

static noc_resampling resampling_of(const noc_step *step, const int64_t size[3], const double spacing[3])
{
    noc_resampling r = {.order = step->order, .thick_axis = -1};
    for (int a = 0; a < 3; a++) {
        r.from[a] = size[a];
        r.to[a] = noc_resample_size(size[a], spacing[a], step->spacing_mm[a]);
    }
    if (step->may_separate_axis)
        r.thick_axis = noc_resample_thick_axis(spacing, step->spacing_mm);
    return r;
}

/* How the mask comes back: by order 1, or by the nearest voxel along the thick axis and where nearest is
 * asked for. */
static void place_resampled(noc_prepared *p, const noc_step *step, const noc_resampling *r,
                            const double spacing[3])
{
    noc_place *place = &p->placement;
    int thick = step->may_separate_axis ? noc_resample_thick_axis(step->spacing_mm, spacing) : -1;
    place->is_resampled = true;
    for (int a = 0; a < 3; a++) {
        place->resampled[a] = r->to[a];
        place->is_nearest[a] = step->is_back_nearest || a == thick;
    }
}

static noc_status add_resample(noc_prepared *p, const noc_step *step, noc_error *err)
{
    noc_image image;
    double spacing[3];
    noc_orientation_spacing(&p->placement.orientation, p->grid.spacing_mm, spacing);
    noc_resampling r = resampling_of(step, p->size, spacing);
    noc_status status = make_image(r.to, p->channels, &image, err);
    for (int c = 0; status == NOC_OK && c < p->channels; c++) {
        channel_source source = {.prepared = p, .channel = c};
        status = noc_resample(&r, read_plane, &source,
                              (float *)image.voxels + (size_t)c * noc_grid_voxels(&image.grid), err);
    }
    if (status != NOC_OK) {
        noc_image_clear(&image);
        return status;
    }
    place_resampled(p, step, &r, spacing);
    return replace_images(p, &image, err);
}

static noc_status apply_step(noc_prepared *p, const noc_step *step, noc_error *err)
{
    switch (step->kind) {
    case NOC_STEP_MINMAX_SLICES:
        return add_minmax_slices(p, err);
    case NOC_STEP_ZSCORE:
        return step->mask == NOC_ZSCORE_FILLED ? add_zscore_filled(p, err)
                                               : add_zscore(p, step->mask == NOC_ZSCORE_NONZERO, err);
    case NOC_STEP_CLIP_ZSCORE:
        add_clip_zscore(p, step);
        return NOC_OK;
    case NOC_STEP_PERCENTILE_ZSCORE:
        return add_percentile_zscore(p, step, err);
    case NOC_STEP_CROP:
        return add_crop(p, step, err);
    case NOC_STEP_FOREGROUND_CROP:
        add_foreground_crop(p);
        return NOC_OK;
    case NOC_STEP_RESAMPLE:
        return add_resample(p, step, err);
    }
    return noc_fail(err, NOC_EINTERNAL, "there is no step %d", (int)step->kind);
}

static noc_status apply_steps(noc_prepared *p, const noc_manifest *manifest, noc_error *err)
{
    noc_status status = NOC_OK;
    for (int i = 0; status == NOC_OK && i < manifest->step_count; i++)
        status = apply_step(p, &manifest->steps[i], err);
    return status;
}

/* ---- needs ---- */

void noc_prepare_estimate(const noc_manifest *manifest, const int64_t size[3], const double spacing_mm[3],
                          size_t stored_bytes, noc_prepare_needs *needs)
{
    noc_prepare_needs n = {.kept = stored_bytes, .most = stored_bytes};
    size_t voxel = (size_t)manifest->network.in_channels * sizeof(float);
    memcpy(n.size, size, sizeof n.size);
    for (int i = 0; i < manifest->step_count; i++) {
        const noc_step *step = &manifest->steps[i];
        size_t before = n.kept, beside = 0;
        if (step->kind == NOC_STEP_CROP)
            memcpy(n.size, step->size, sizeof n.size);
        if (step->kind == NOC_STEP_PERCENTILE_ZSCORE)
            beside = RANKS * sizeof(uint64_t[DIGITS]);
        if (step->kind == NOC_STEP_ZSCORE && step->mask == NOC_ZSCORE_FILLED) {
            n.kept = image_bytes(n.size, voxel);
            beside = noc_size_sum(n.kept, image_bytes(n.size, 1));
        }
        if (step->kind == NOC_STEP_RESAMPLE) {
            noc_resampling r = resampling_of(step, n.size, spacing_mm);
            memcpy(n.size, r.to, sizeof n.size);
            n.kept = image_bytes(n.size, voxel);
            beside = noc_size_sum(n.kept, noc_resample_bytes(&r));
        }
        size_t now = noc_size_sum(before, beside);
        n.most = now > n.most ? now : n.most;
    }
    *needs = n;
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
    p->placement = (noc_place){.orientation = p->orientation, .origin = p->origin};
    memcpy(p->placement.step, p->step, sizeof p->step);
    memcpy(p->placement.size, p->size, sizeof p->size);
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
    p->grid = images[0].grid;
    memcpy(p->images, images, (size_t)image_count * sizeof *images);
    status = orient(p, manifest, err);
    if (status == NOC_OK)
        status = apply_steps(p, manifest, err);
    if (status == NOC_OK || p->is_replaced)
        memset(images, 0, (size_t)image_count * sizeof *images);
    else
        memset(p->images, 0, sizeof p->images); /* they stay the caller's */
    if (status != NOC_OK) {
        noc_prepared_free(p);
        return status;
    }
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
        chain_values(p, p->link_count, channel, index_of(p, d, h, w), p->step[2], count, v);
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
