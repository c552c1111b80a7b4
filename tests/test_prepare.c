/* Preparation against golden values and plain loops: every step, before and after others, in any orientation,
 * and what is refused. */
#include "engine/base/memory.h"
#include "engine/prepare.h"
#include "engine/safetensors.h"

#include <check.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static noc_error err;

static noc_manifest manifest_of(int channels, const noc_step *steps, int count)
{
    noc_manifest m = {.name = (char *)"test", .orientation = "RAS", .step_count = count};

    m.network.in_channels = channels;
    if (count > 0)
        memcpy(m.steps, steps, (size_t)count * sizeof *steps);
    return m;
}

/* An image whose stored order is the model's: i = W, j = H, k = D, of floats that are copied. */
static noc_image image_of(const float *values, int channels, int64_t d, int64_t h, int64_t w)
{
    noc_image image = {.grid.size = {w, h, d}, .channels = channels, .type = NOC_VOXEL_F32, .slope = 1};

    image.bytes = (size_t)(d * h * w) * (size_t)channels * sizeof(float);
    image.voxels = malloc(image.bytes);
    memcpy(image.voxels, values, image.bytes);
    for (int a = 0; a < 4; a++)
        image.grid.affine[a][a] = 1;
    return image;
}

static noc_prepared *prepare(const noc_manifest *m, noc_image *images, int count)
{
    noc_prepared *p = NULL;

    ck_assert_msg(noc_prepare(m, images, count, &p, &err) == NOC_OK, "%s", err.text);
    for (int i = 0; i < count; i++)
        ck_assert_ptr_null(images[i].voxels); /* they belong to p now */
    return p;
}

/* All of it as [D][H][W][C]. */
static float *cut_all(const noc_prepared *p, size_t *count)
{
    static const int64_t origin[3] = {0, 0, 0};
    int64_t size[3];

    noc_prepared_size(p, size);
    *count = (size_t)(size[0] * size[1] * size[2]) * (size_t)noc_prepared_channels(p);
    float *out = malloc(*count * sizeof *out);
    noc_prepared_cut(p, origin, size, 0, out);
    return out;
}

/* ---- golden values ---- */

static const struct {
    const char *from, *to;
    noc_step step;
} normalisations[] = {
    {"mr", "mr_z_all", {.kind = NOC_STEP_ZSCORE, .mask = NOC_ZSCORE_ALL}},
    {"mr", "mr_z_nonzero", {.kind = NOC_STEP_ZSCORE, .mask = NOC_ZSCORE_NONZERO}},
    {"ct",
     "ct_given",
     {.kind = NOC_STEP_CLIP_ZSCORE, .low = -958, .high = 327, .mean = 82.92, .std = 136.97}},
    {"mr", "mr_z_filled", {.kind = NOC_STEP_ZSCORE, .mask = NOC_ZSCORE_FILLED}},
    {"ct", "ct_own", {.kind = NOC_STEP_PERCENTILE_ZSCORE, .low = 0.5, .high = 99.5}},
};

START_TEST(golden_normalisation)
{
    const char *reference = getenv("NOC_REFERENCE_DIR");
    char path[512];
    noc_safetensors *file = NULL;

    snprintf(path, sizeof path, "%s/golden/prepare/normalise.safetensors",
             reference ? reference : "tests/data");
    ck_assert_int_eq(noc_safetensors_open(path, &file, &err), NOC_OK);
    const noc_tensor *from = noc_safetensors_find(file, normalisations[_i].from);
    const noc_tensor *to = noc_safetensors_find(file, normalisations[_i].to);
    size_t count = noc_tensor_count(from), got;
    float *input = malloc(count * sizeof *input), *wanted = malloc(count * sizeof *wanted);
    ck_assert_int_eq(noc_tensor_floats(from, 0, count, input, &err), NOC_OK);
    ck_assert_int_eq(noc_tensor_floats(to, 0, count, wanted, &err), NOC_OK);
    noc_manifest m = manifest_of(1, &normalisations[_i].step, 1);
    noc_image image = image_of(input, 1, from->shape[0], from->shape[1], from->shape[2]);
    noc_prepared *p = prepare(&m, &image, 1);
    float *out = cut_all(p, &got);
    ck_assert_uint_eq(got, count);
    for (size_t i = 0; i < count; i++)
        ck_assert_msg(fabsf(out[i] - wanted[i]) <= 2e-6f, "[%zu] is %g, wanted %g", i, (double)out[i],
                      (double)wanted[i]);
    free(out);
    free(input);
    free(wanted);
    noc_prepared_free(p);
    noc_safetensors_close(file);
}
END_TEST

/* ---- golden resampling ---- */

static const struct {
    const char *name;
    double spacing[3], wanted[3];
    bool is_committed; /* else in NOC_REFERENCE_DIR alone */
} resamplings[] = {
    {"half", {1, 1, 1}, {2, 2, 2}, true},
    {"thick_last", {0.7, 0.7, 5}, {1, 1, 5}, true},
    {"plain", {1, 1, 1.5}, {1.3, 0.8, 1}, false},
    {"thick_first", {4, 0.9, 0.9}, {1.5, 1.1, 0.7}, false},
};
enum { RESAMPLINGS = sizeof resamplings / sizeof resamplings[0] };

static float *floats_of(const noc_safetensors *file, const char *name, size_t *count,
                        const noc_tensor **tensor)
{
    *tensor = noc_safetensors_find(file, name);
    if (!*tensor)
        return NULL;
    *count = noc_tensor_count(*tensor);
    float *v = malloc(*count * sizeof *v);
    ck_assert_int_eq(noc_tensor_floats(*tensor, 0, *count, v, &err), NOC_OK);
    return v;
}

/* Within 1e-6 of the largest value. */
static void check_resampling(const noc_safetensors *file, const char *name, int order, bool may_separate,
                             int number)
{
    const noc_tensor *from, *to;
    size_t count, wanted_count, got;
    float *input = floats_of(file, "image", &count, &from),
          *wanted = floats_of(file, name, &wanted_count, &to);
    float largest = 0;
    noc_step step = {.kind = NOC_STEP_RESAMPLE, .order = order, .may_separate_axis = may_separate};

    if (!wanted) { /* only those with a thick axis have values without its rule */
        free(input);
        return;
    }
    memcpy(step.spacing_mm, resamplings[number].wanted, sizeof step.spacing_mm);
    noc_manifest m = manifest_of(1, &step, 1);
    noc_image image = image_of(input, 1, from->shape[0], from->shape[1], from->shape[2]);
    for (int a = 0; a < 3; a++)
        image.grid.spacing_mm[2 - a] = resamplings[number].spacing[a];
    noc_prepared *p = prepare(&m, &image, 1);
    float *out = cut_all(p, &got);
    ck_assert_uint_eq(got, wanted_count);
    for (size_t i = 0; i < got; i++)
        largest = fmaxf(largest, fabsf(wanted[i]));
    for (size_t i = 0; i < got; i++)
        ck_assert_msg(fabsf(out[i] - wanted[i]) <= 1e-6f * largest, "%s %s [%zu] is %.9g, wanted %.9g",
                      resamplings[number].name, name, i, (double)out[i], (double)wanted[i]);
    free(out);
    free(input);
    free(wanted);
    noc_prepared_free(p);
}

START_TEST(golden_resampling)
{
    const char *reference = getenv("NOC_REFERENCE_DIR");
    char path[512];
    noc_safetensors *file = NULL;

    if (!reference && !resamplings[_i].is_committed)
        return;
    snprintf(path, sizeof path, "%s/golden/prepare/resample_%s.safetensors",
             reference ? reference : "tests/data", resamplings[_i].name);
    ck_assert_int_eq(noc_safetensors_open(path, &file, &err), NOC_OK);
    check_resampling(file, "linear", 1, true, _i);
    check_resampling(file, "cubic", 3, true, _i);
    check_resampling(file, "linear_no_separate_axis", 1, false, _i);
    noc_safetensors_close(file);
}
END_TEST

/* ---- plain loops ---- */

enum { NI = 5, NJ = 7, NK = 6, CHANNELS = 2, VOXELS = NI * NJ * NK };
static const int64_t file_size[3] = {NI, NJ, NK};

/* A stored volume of two channels with zeros, a constant slice and, for slices that must not be mixed up,
 * values that grow along k. */
static int16_t stored[CHANNELS * VOXELS];

static void fill_stored(void)
{
    for (int c = 0; c < CHANNELS; c++)
        for (int k = 0; k < NK; k++)
            for (int n = 0; n < NI * NJ; n++) {
                uint32_t u = (uint32_t)((c * NK + k) * NI * NJ + n) * 2654435761u >> 16;
                stored[(c * NK + k) * NI * NJ + n] = (int16_t)(k == 2       ? 40
                                                               : u % 5 == 0 ? 0
                                                                            : u % 900 + 50u * k);
            }
}

/* Affine with file axis j along world axis order[j], to the negative side where signs has bit j. */
static noc_image stored_image(const int order[3], int signs, int first, int channels)
{
    noc_image image = {.grid.size = {NI, NJ, NK}, .channels = channels, .type = NOC_VOXEL_I16, .slope = 0.5};

    image.inter = -12;
    for (int j = 0; j < 3; j++)
        image.grid.affine[order[j]][j] = signs >> j & 1 ? -1.5 : 1.5;
    image.grid.affine[3][3] = 1;
    image.bytes = (size_t)channels * VOXELS * sizeof(int16_t);
    image.voxels = malloc(image.bytes);
    memcpy(image.voxels, stored + first * VOXELS, image.bytes);
    return image;
}

/* A volume as a plain array [C][D][H][W] of doubles. */
typedef struct plain {
    int64_t size[3];
    double *v;
} plain;

static double *at(const plain *p, int c, int64_t d, int64_t h, int64_t w)
{
    return &p->v[((c * p->size[0] + d) * p->size[1] + h) * p->size[2] + w];
}

static int64_t voxels_of(const plain *p)
{
    return p->size[0] * p->size[1] * p->size[2];
}

/* Each stored slice to [0, 1], before anything else; `values` are in file order. */
static void plain_slices(double *values)
{
    for (int slice = 0; slice < CHANNELS * NK; slice++) {
        double *v = values + slice * NI * NJ, low = INFINITY, high = -INFINITY;
        for (int n = 0; n < NI * NJ; n++) {
            low = fmin(low, v[n]);
            high = fmax(high, v[n]);
        }
        for (int n = 0; n < NI * NJ; n++)
            v[n] = high - low < 10 * DBL_EPSILON ? v[n] - low : (v[n] - low) / (high - low);
    }
}

static plain plain_orient(const double *values, const int order[3], int signs)
{
    plain p = {.v = malloc(CHANNELS * VOXELS * sizeof(double))};
    int axis[3]; /* file axis of D, H, W: the one along z, y, x */

    for (int j = 0; j < 3; j++)
        axis[2 - order[j]] = j;
    for (int m = 0; m < 3; m++)
        p.size[m] = file_size[axis[m]];
    for (int c = 0; c < CHANNELS; c++)
        for (int64_t k = 0; k < NK; k++)
            for (int64_t j = 0; j < NJ; j++)
                for (int64_t i = 0; i < NI; i++) {
                    const int64_t ijk[3] = {i, j, k};
                    int64_t to[3];
                    for (int m = 0; m < 3; m++)
                        to[m] = signs >> axis[m] & 1 ? p.size[m] - 1 - ijk[axis[m]] : ijk[axis[m]];
                    *at(&p, c, to[0], to[1], to[2]) = values[((c * NK + k) * NJ + j) * NI + i];
                }
    return p;
}

static void plain_crop(plain *p, const noc_step *step)
{
    plain q = {.v = malloc(CHANNELS * VOXELS * sizeof(double))};

    memcpy(q.size, step->size, sizeof q.size);
    for (int c = 0; c < CHANNELS; c++)
        for (int64_t d = 0; d < q.size[0]; d++)
            for (int64_t h = 0; h < q.size[1]; h++)
                for (int64_t w = 0; w < q.size[2]; w++)
                    *at(&q, c, d, h, w) =
                        *at(p, c, d + step->start[0], h + step->start[1], w + step->start[2]);
    free(p->v);
    *p = q;
}

static void plain_zscore(plain *p, bool is_nonzero)
{
    for (int c = 0; c < CHANNELS; c++) {
        double *v = at(p, c, 0, 0, 0), sum = 0, squares = 0, count = 0;
        for (int64_t n = 0; n < voxels_of(p); n++)
            if (!is_nonzero || v[n] != 0) {
                sum += v[n];
                count++;
            }
        const double mean = sum / count;
        for (int64_t n = 0; n < voxels_of(p); n++)
            if (!is_nonzero || v[n] != 0)
                squares += (v[n] - mean) * (v[n] - mean);
        for (int64_t n = 0; n < voxels_of(p); n++)
            if (!is_nonzero || v[n] != 0)
                v[n] = (v[n] - mean) / fmax(sqrt(squares / count), 1e-8);
    }
}

static void plain_clip(plain *p, const noc_step *step)
{
    for (int64_t n = 0; n < CHANNELS * voxels_of(p); n++)
        p->v[n] = (fmin(fmax(p->v[n], step->low), step->high) - step->mean) / step->std;
}

/* Whether a voxel is not 0 in any channel, or lies in a hole: background that no way over faces leads out of.
 */
static bool *plain_mask(const plain *p)
{
    bool *outside = calloc((size_t)voxels_of(p), sizeof *outside), changed = true;
    const int64_t *size = p->size;

    while (changed) {
        changed = false;
        for (int64_t n = 0; n < voxels_of(p); n++) {
            const int64_t step[3] = {size[1] * size[2], size[2], 1};
            bool reached = false, is_zero = true;
            for (int c = 0; c < CHANNELS; c++)
                is_zero = is_zero && p->v[c * voxels_of(p) + n] == 0;
            for (int a = 0; a < 3; a++) {
                int64_t at = n / step[a] % size[a];
                reached =
                    reached || at == 0 || at == size[a] - 1 || outside[n - step[a]] || outside[n + step[a]];
            }
            if (is_zero && reached && !outside[n])
                changed = outside[n] = true;
        }
    }
    for (int64_t n = 0; n < voxels_of(p); n++)
        outside[n] = !outside[n];
    return outside;
}

static void plain_zscore_filled(plain *p)
{
    bool *mask = plain_mask(p);

    for (int c = 0; c < CHANNELS; c++) {
        double *v = at(p, c, 0, 0, 0), sum = 0, squares = 0, count = 0;
        for (int64_t n = 0; n < voxels_of(p); n++) {
            sum += mask[n] ? v[n] : 0;
            count += mask[n];
        }
        for (int64_t n = 0; n < voxels_of(p); n++)
            squares += mask[n] ? (v[n] - sum / count) * (v[n] - sum / count) : 0;
        for (int64_t n = 0; n < voxels_of(p); n++)
            if (mask[n])
                v[n] = (v[n] - sum / count) / fmax(sqrt(squares / count), 1e-8);
    }
    free(mask);
}

static int compare_doubles(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static double plain_percentile(const double *sorted, int64_t count, double percent)
{
    double place = percent / 100 * (double)(count - 1);
    int64_t low = (int64_t)place, high = low + 1 < count ? low + 1 : low;

    return sorted[low] + (sorted[high] - sorted[low]) * (place - (double)low);
}

static void plain_percentile_zscore(plain *p, const noc_step *step)
{
    const int64_t count = voxels_of(p);
    double sorted[VOXELS];

    for (int c = 0; c < CHANNELS; c++) {
        double *v = at(p, c, 0, 0, 0);
        memcpy(sorted, v, (size_t)count * sizeof *v);
        qsort(sorted, (size_t)count, sizeof *sorted, compare_doubles);
        for (int64_t n = 0; n < count; n++)
            v[n] = fmin(fmax(v[n], plain_percentile(sorted, count, step->low)),
                        plain_percentile(sorted, count, step->high));
    }
    plain_zscore(p, false);
}

static plain plain_prepare(const noc_manifest *m, const int order[3], int signs)
{
    double values[CHANNELS * VOXELS];

    for (int n = 0; n < CHANNELS * VOXELS; n++)
        values[n] = stored[n] * 0.5 - 12;
    if (m->step_count > 0 && m->steps[0].kind == NOC_STEP_MINMAX_SLICES)
        plain_slices(values);
    plain p = plain_orient(values, order, signs);
    for (int i = 0; i < m->step_count; i++) {
        const noc_step *step = &m->steps[i];
        if (step->kind == NOC_STEP_CROP)
            plain_crop(&p, step);
        else if (step->kind == NOC_STEP_PERCENTILE_ZSCORE)
            plain_percentile_zscore(&p, step);
        else if (step->kind == NOC_STEP_ZSCORE && step->mask == NOC_ZSCORE_FILLED)
            plain_zscore_filled(&p);
        else if (step->kind == NOC_STEP_ZSCORE)
            plain_zscore(&p, step->mask == NOC_ZSCORE_NONZERO);
        else if (step->kind == NOC_STEP_CLIP_ZSCORE)
            plain_clip(&p, step);
    }
    return p;
}

#define MINMAX                                                                                               \
    {                                                                                                        \
        .kind = NOC_STEP_MINMAX_SLICES                                                                       \
    }
#define ZSCORE(which)                                                                                        \
    {                                                                                                        \
        .kind = NOC_STEP_ZSCORE, .mask = which                                                               \
    }
#define CROP                                                                                                 \
    {                                                                                                        \
        .kind = NOC_STEP_CROP, .start = {1, 2, 0}, .size = { 3, 2, 4 }                                       \
    }
#define CLIP                                                                                                 \
    {                                                                                                        \
        .kind = NOC_STEP_CLIP_ZSCORE, .low = 0.25, .high = 310, .mean = 100, .std = 60                       \
    }

#define OWN(from, to)                                                                                        \
    {                                                                                                        \
        .kind = NOC_STEP_PERCENTILE_ZSCORE, .low = from, .high = to                                          \
    }

/* The order of steps matters: statistics are of what is there when a step comes. */
static const struct {
    int count;
    noc_step steps[4];
} chains[] = {
    {0, {MINMAX}},
    {1, {MINMAX}},
    {1, {ZSCORE(NOC_ZSCORE_ALL)}},
    {1, {ZSCORE(NOC_ZSCORE_NONZERO)}},
    {1, {CLIP}},
    {1, {CROP}},
    {2, {MINMAX, CROP}},
    {2, {CROP, ZSCORE(NOC_ZSCORE_ALL)}},
    {2, {ZSCORE(NOC_ZSCORE_ALL), CROP}},
    {3, {MINMAX, CROP, ZSCORE(NOC_ZSCORE_NONZERO)}},
    {3, {CLIP, ZSCORE(NOC_ZSCORE_ALL), CROP}},
    {4, {MINMAX, ZSCORE(NOC_ZSCORE_NONZERO), CROP, ZSCORE(NOC_ZSCORE_ALL)}},
    {1, {ZSCORE(NOC_ZSCORE_FILLED)}},
    {2, {MINMAX, ZSCORE(NOC_ZSCORE_FILLED)}},
    {4, {MINMAX, ZSCORE(NOC_ZSCORE_FILLED), CROP, ZSCORE(NOC_ZSCORE_ALL)}},
    {4, {MINMAX, CROP, ZSCORE(NOC_ZSCORE_FILLED), CLIP}},
    {1, {OWN(0, 100)}},
    {1, {OWN(33, 34)}},
    {3, {MINMAX, OWN(20, 99.5), CROP}},
    {3, {CROP, ZSCORE(NOC_ZSCORE_ALL), OWN(10, 75)}},
};
enum { CHAINS = sizeof chains / sizeof chains[0] };

static const int orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};

static void compare(const noc_prepared *p, const plain *wanted)
{
    size_t count;
    float *out = cut_all(p, &count), *next = out;
    int64_t size[3];

    noc_prepared_size(p, size);
    ck_assert_mem_eq(size, wanted->size, sizeof size);
    for (int64_t d = 0; d < size[0]; d++)
        for (int64_t h = 0; h < size[1]; h++)
            for (int64_t w = 0; w < size[2]; w++)
                for (int c = 0; c < CHANNELS; c++, next++)
                    ck_assert_double_eq_tol((double)*next, *at(wanted, c, d, h, w),
                                            1e-6 * fmax(1, fabs((double)*next)));
    free(out);
}

/* Where the mask's voxel of a model voxel lies: a step along an axis is a step in the file. */
static void compare_steps(const noc_prepared *p, const int order[3], int signs, const noc_manifest *m)
{
    int64_t origin, step[3], size[3], start[3] = {0};
    plain index = {0};
    double values[CHANNELS * VOXELS];

    for (int n = 0; n < CHANNELS * VOXELS; n++)
        values[n] = n % VOXELS;
    for (int i = 0; i < m->step_count; i++)
        if (m->steps[i].kind == NOC_STEP_CROP)
            memcpy(start, m->steps[i].start, sizeof start);
    index = plain_orient(values, order, signs);
    origin = noc_prepared_place(p)->origin;
    memcpy(step, noc_prepared_place(p)->step, sizeof step);
    noc_prepared_size(p, size);
    for (int64_t d = 0; d < size[0]; d++)
        for (int64_t h = 0; h < size[1]; h++)
            for (int64_t w = 0; w < size[2]; w++)
                ck_assert_int_eq(origin + d * step[0] + h * step[1] + w * step[2],
                                 (int64_t)*at(&index, 0, d + start[0], h + start[1], w + start[2]));
    free(index.v);
}

START_TEST(steps_in_every_orientation)
{
    noc_manifest m = manifest_of(CHANNELS, chains[_i].steps, chains[_i].count);

    fill_stored();
    for (int o = 0; o < 6; o++)
        for (int signs = 0; signs < 8; signs++) {
            noc_image one = stored_image(orders[o], signs, 0, CHANNELS);
            noc_image files[CHANNELS] = {stored_image(orders[o], signs, 0, 1),
                                         stored_image(orders[o], signs, 1, 1)};
            plain wanted = plain_prepare(&m, orders[o], signs);
            noc_prepared *p = prepare(&m, &one, 1), *q = prepare(&m, files, CHANNELS);
            compare(p, &wanted);
            compare(q, &wanted); /* a file a channel is the same scan */
            compare_steps(p, orders[o], signs, &m);
            for (int a = 0; a < 3; a++)
                ck_assert_int_eq(noc_prepared_grid(p)->size[a], file_size[a]);
            ck_assert_uint_ge(noc_prepared_bytes(p), sizeof stored);
            noc_prepared_free(p);
            noc_prepared_free(q);
            free(wanted.v);
        }
}
END_TEST

/* Boxes that begin before the volume and end behind it: the same values, and the pad value around them. */
START_TEST(boxes_beyond_the_volume)
{
    static const int64_t boxes[][6] = {{-2, -3, -4, 12, 14, 15}, {2, 1, 3, 2, 3, 1}, {-5, 0, 0, 5, 7, 5},
                                       {0, 0, 5, 6, 7, 3},       {9, 9, 9, 2, 2, 2}, {0, 0, -9, 1, 1, 3}};
    noc_manifest m = manifest_of(CHANNELS, NULL, 0);

    fill_stored();
    noc_image image = stored_image(orders[0], 2, 0, CHANNELS);
    plain wanted = plain_prepare(&m, orders[0], 2);
    noc_prepared *p = prepare(&m, &image, 1);
    for (size_t b = 0; b < sizeof boxes / sizeof boxes[0]; b++) {
        const int64_t *start = boxes[b], *size = boxes[b] + 3;
        float *out = malloc((size_t)(size[0] * size[1] * size[2]) * CHANNELS * sizeof *out), *next = out;
        noc_prepared_cut(p, start, size, -77, out);
        for (int64_t d = start[0]; d < start[0] + size[0]; d++)
            for (int64_t h = start[1]; h < start[1] + size[1]; h++)
                for (int64_t w = start[2]; w < start[2] + size[2]; w++)
                    for (int c = 0; c < CHANNELS; c++, next++) {
                        bool is_inside = d >= 0 && h >= 0 && w >= 0 && d < wanted.size[0] &&
                                         h < wanted.size[1] && w < wanted.size[2];
                        ck_assert((double)*next == (is_inside ? *at(&wanted, c, d, h, w) : -77));
                    }
        free(out);
    }
    noc_prepared_free(p);
    free(wanted.v);
}
END_TEST

/* The box of what is not 0 in any channel, in any orientation, and where a crop within it lies. */
START_TEST(foreground)
{
    static const int64_t corner[2][2][3] = {{{1, 2, 2}, {3, 4, 4}}, {{2, 1, 3}, {3, 5, 3}}}; /* i, j, k */
    static const int64_t low[3] = {1, 1, 2}, high[3] = {3, 5, 4};
    const noc_step steps[] = {{.kind = NOC_STEP_FOREGROUND_CROP},
                              {.kind = NOC_STEP_CROP, .start = {1, 0, 1}, .size = {1, 2, 1}}};
    noc_manifest m = manifest_of(CHANNELS, steps, 2);

    memset(stored, 0, sizeof stored);
    for (int c = 0; c < CHANNELS; c++)
        for (int n = 0; n < 2; n++)
            stored[((c * NK + corner[c][n][2]) * NJ + corner[c][n][1]) * NI + corner[c][n][0]] = 7;
    for (int o = 0; o < 6; o++)
        for (int signs = 0; signs < 8; signs++) {
            noc_image image = stored_image(orders[o], signs, 0, CHANNELS), again;
            int64_t size[3], wanted = 0, stride[3] = {1, NI, NI * NJ};
            image.inter = 0;
            again = image;
            again.voxels = malloc(image.bytes);
            memcpy(again.voxels, image.voxels, image.bytes);
            m.step_count = 1;
            noc_prepared *p = prepare(&m, &image, 1);
            noc_prepared_size(p, size);
            for (int j = 0; j < 3; j++) {
                int axis = 2 - orders[o][j];
                bool is_flipped = signs >> j & 1;
                ck_assert_int_eq(size[axis], high[j] - low[j] + 1);
                wanted +=
                    (is_flipped ? high[j] - steps[1].start[axis] : low[j] + steps[1].start[axis]) * stride[j];
            }
            noc_prepared_free(p);
            m.step_count = 2;
            p = prepare(&m, &again, 1);
            ck_assert_int_eq(noc_prepared_place(p)->origin, wanted);
            noc_prepared_free(p);
        }
}
END_TEST

/* One voxel along an axis, grids of one voxel, and the same number of them: a constant stays itself. */
START_TEST(resampling_of_little)
{
    static const struct {
        int64_t size[3], wanted[3];
        double spacing[3];
    } cases[] = {{{1, 1, 1}, {1, 1, 1}, {1, 1, 1}},       {{1, 1, 1}, {3, 2, 5}, {0.3, 0.5, 0.2}},
                 {{1, 5, 4}, {1, 2, 4}, {9, 2, 1}},       {{2, 3, 4}, {1, 1, 1}, {100, 100, 100}},
                 {{3, 5, 1}, {2, 2, 1}, {1.5, 2.5, 1.6}}, {{5, 1, 2}, {2, 1, 5}, {2, 1, 0.4}}};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int order = 1; order <= 3; order += 2) {
            noc_step step = {.kind = NOC_STEP_RESAMPLE, .order = order, .may_separate_axis = i % 2};
            const int64_t *n = cases[i].size;
            float values[64];
            int64_t size[3];
            size_t count;
            memcpy(step.spacing_mm, cases[i].spacing, sizeof step.spacing_mm);
            noc_manifest m = manifest_of(1, &step, 1);
            for (int k = 0; k < 64; k++)
                values[k] = -3.25f;
            noc_image image = image_of(values, 1, n[0], n[1], n[2]);
            for (int a = 0; a < 3; a++)
                image.grid.spacing_mm[a] = 1;
            noc_prepared *p = prepare(&m, &image, 1);
            noc_prepared_size(p, size);
            ck_assert_mem_eq(size, cases[i].wanted, sizeof size);
            float *out = cut_all(p, &count);
            for (size_t k = 0; k < count; k++)
                ck_assert(out[k] == -3.25f);
            free(out);
            noc_prepared_free(p);
        }
}
END_TEST

/* What preparation is expected to take is what it comes to. */
START_TEST(estimates)
{
    static const noc_step steps[] = {{.kind = NOC_STEP_ZSCORE, .mask = NOC_ZSCORE_FILLED},
                                     {.kind = NOC_STEP_RESAMPLE, .order = 3, .spacing_mm = {0.7, 2, 1.2}},
                                     {.kind = NOC_STEP_CROP, .start = {1, 0, 2}, .size = {5, 2, 3}}};
    const int64_t size[3] = {NK, NJ, NI};
    const double spacing[3] = {1.5, 1.5, 1.5};
    noc_prepare_needs needs;
    size_t own = 0; /* beside the voxels */

    fill_stored();
    for (int count = 0; count <= 3; count++) {
        noc_manifest m = manifest_of(CHANNELS, steps, count);
        noc_image image = stored_image(orders[0], 0, 0, CHANNELS);
        int64_t got[3];
        for (int a = 0; a < 3; a++)
            image.grid.spacing_mm[a] = 1.5;
        noc_prepare_estimate(&m, size, spacing, image.bytes, &needs);
        noc_prepared *p = prepare(&m, &image, 1);
        noc_prepared_size(p, got);
        ck_assert_mem_eq(got, needs.size, sizeof got);
        if (count == 0)
            own = noc_prepared_bytes(p) - needs.kept;
        ck_assert_uint_eq(noc_prepared_bytes(p), needs.kept + own);
        ck_assert_uint_ge(needs.most, needs.kept + (count > 0 ? sizeof stored : 0));
        noc_prepared_free(p);
    }
}
END_TEST

/* Rows longer than what is computed at a time. */
START_TEST(long_rows)
{
    enum { LONG = 1300 };
    static float values[LONG];
    const noc_step steps[] = {{.kind = NOC_STEP_CROP, .start = {0, 0, 3}, .size = {1, 1, 1290}},
                              ZSCORE(NOC_ZSCORE_ALL)};
    noc_manifest m = manifest_of(1, steps, 2);
    double sum = 0, squares = 0;
    size_t count;

    for (int i = 0; i < LONG; i++)
        values[i] = (float)(i * i % 1009);
    for (int i = 3; i < 1293; i++)
        sum += (double)values[i] / 1290;
    for (int i = 3; i < 1293; i++)
        squares += ((double)values[i] - sum) * ((double)values[i] - sum) / 1290;
    noc_image image = image_of(values, 1, 1, 1, LONG);
    noc_prepared *p = prepare(&m, &image, 1);
    float *out = cut_all(p, &count);
    ck_assert_uint_eq(count, 1290);
    for (int i = 0; i < 1290; i++)
        ck_assert_double_eq_tol((double)out[i], ((double)values[i + 3] - sum) / sqrt(squares), 1e-6);
    free(out);
    noc_prepared_free(p);
}
END_TEST

/* What is not 0 begins and ends in different stretches of a row, some of which have nothing. */
START_TEST(foreground_of_long_rows)
{
    enum { LONG = 1300 };
    static const int ends[][2] = {{5, 1207}, {5, 5}, {511, 512}, {600, 700}, {0, LONG - 1}};
    noc_manifest m = manifest_of(1, (const noc_step[]){{.kind = NOC_STEP_FOREGROUND_CROP}}, 1);

    for (size_t n = 0; n < sizeof ends / sizeof ends[0]; n++) {
        float values[2][LONG] = {{0}};
        int64_t size[3];
        values[1][ends[n][0]] = values[1][ends[n][1]] = 1;
        noc_image image = image_of(values[0], 1, 1, 2, LONG);
        noc_prepared *p = prepare(&m, &image, 1);
        noc_prepared_size(p, size);
        ck_assert_int_eq(size[0], 1);
        ck_assert_int_eq(size[1], 1);
        ck_assert_int_eq(size[2], ends[n][1] - ends[n][0] + 1);
        ck_assert_int_eq(noc_prepared_place(p)->origin, LONG + ends[n][0]);
        noc_prepared_free(p);
    }
}
END_TEST

/* A constant image has no spread, one of zeros nothing that counts: finite all the same. */
START_TEST(constant_images)
{
    static const struct {
        noc_step step;
        float value, wanted;
    } cases[] = {
        {ZSCORE(NOC_ZSCORE_ALL), 5, 0},
        {ZSCORE(NOC_ZSCORE_ALL), 0, 0},
        {ZSCORE(NOC_ZSCORE_NONZERO), 5, 0},
        {ZSCORE(NOC_ZSCORE_NONZERO), 0, 0},
        {ZSCORE(NOC_ZSCORE_FILLED), 5, 0},
        {ZSCORE(NOC_ZSCORE_FILLED), 0, 0},
        {OWN(0.5, 99.5), 5, 0},
        {OWN(0.5, 99.5), 0, 0},
        {{.kind = NOC_STEP_FOREGROUND_CROP}, 5, 5},
        {{.kind = NOC_STEP_FOREGROUND_CROP}, 0, 0},
        {MINMAX, 5, 0},
        {MINMAX, 0, 0},
        {CLIP, 160, 1},
    };
    float values[24];
    size_t count;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        noc_manifest m = manifest_of(1, &cases[i].step, 1);
        for (int n = 0; n < 24; n++)
            values[n] = cases[i].value;
        noc_image image = image_of(values, 1, 2, 3, 4);
        noc_prepared *p = prepare(&m, &image, 1);
        float *out = cut_all(p, &count);
        for (size_t n = 0; n < count; n++)
            ck_assert(out[n] == cases[i].wanted);
        free(out);
        noc_prepared_free(p);
    }
}
END_TEST

START_TEST(one_voxel)
{
    static const float value = 3;
    noc_manifest m = manifest_of(1, (const noc_step[]){MINMAX, ZSCORE(NOC_ZSCORE_ALL)}, 2);
    noc_image image = image_of(&value, 1, 1, 1, 1);
    size_t count;
    noc_prepared *p = prepare(&m, &image, 1);
    float *out = cut_all(p, &count);

    ck_assert_uint_eq(count, 1);
    ck_assert(out[0] == 0);
    free(out);
    noc_prepared_free(p);
}
END_TEST

/* ---- what is refused ---- */

/* On failure the images stay the caller's. */
static void expect_refused(const noc_manifest *m, noc_image *images, int count, noc_status wanted,
                           const char *text)
{
    noc_prepared *p = NULL;
    noc_status status = noc_prepare(m, images, count, &p, &err);

    ck_assert_msg(status == wanted, "%s", noc_status_name(status));
    ck_assert_msg(strstr(err.text, text) != NULL, "\"%s\" does not say \"%s\"", err.text, text);
    ck_assert_ptr_null(p);
    for (int i = 0; i < count; i++) {
        ck_assert_ptr_nonnull(images[i].voxels);
        noc_image_clear(&images[i]);
    }
}

START_TEST(wrong_channels)
{
    static const float values[48] = {1};
    noc_manifest one = manifest_of(1, NULL, 0), two = manifest_of(2, NULL, 0),
                 three = manifest_of(3, NULL, 0);
    noc_image images[3] = {image_of(values, 2, 2, 3, 4)};

    expect_refused(&one, images, 1, NOC_ECHANNELS, "the scan has 2 channels, the model test wants 1");
    images[0] = image_of(values, 1, 2, 3, 4);
    expect_refused(&two, images, 1, NOC_ECHANNELS, "the scan has 1 channel, the model test wants 2");
    images[0] = image_of(values, 1, 2, 3, 4);
    images[1] = image_of(values, 1, 2, 3, 4);
    expect_refused(&three, images, 2, NOC_ECHANNELS, "the scan has 2 channels");
    images[0] = image_of(values, 1, 2, 3, 4);
    images[1] = image_of(values, 2, 2, 3, 4);
    expect_refused(&two, images, 2, NOC_ECHANNELS, "file 2 of 2 has 2 channels itself");
    images[0] = image_of(values, 1, 2, 3, 4);
    images[1] = image_of(values, 1, 2, 4, 3);
    expect_refused(&two, images, 2, NOC_ECHANNELS, "channel 2 lies on another grid");
    images[0] = image_of(values, 1, 2, 3, 4);
    images[1] = image_of(values, 1, 2, 3, 4);
    images[1].grid.affine[0][3] = 0.002;
    expect_refused(&two, images, 2, NOC_ECHANNELS, "channel 2 lies on another grid");
}
END_TEST

START_TEST(a_crop_beyond_the_volume)
{
    static const float values[24] = {1};
    static const int64_t crops[][6] = {{0, 0, 0, 3, 3, 4},
                                       {0, 1, 0, 2, 3, 4},
                                       {0, 0, 5, 1, 1, 1},
                                       {-1, 0, 0, 1, 1, 1},
                                       {0, 0, INT64_MAX, 1, 1, 1}};
    noc_step step = {.kind = NOC_STEP_CROP, .size = {2, 3, 4}};
    noc_manifest m = manifest_of(1, &step, 1);
    noc_image image = image_of(values, 1, 2, 3, 4);

    noc_prepared_free(prepare(&m, &image, 1)); /* all of it is fine */
    for (size_t i = 0; i < sizeof crops / sizeof crops[0]; i++) {
        memcpy(m.steps[0].start, crops[i], sizeof step.start);
        memcpy(m.steps[0].size, crops[i] + 3, sizeof step.size);
        image = image_of(values, 1, 2, 3, 4);
        expect_refused(&m, &image, 1, NOC_EGEOMETRY, "the model's crop of");
    }
}
END_TEST

/* What takes the place of the stored scans may come to lie where the first of them was: they are gone all the
 * same. Two scans of f64 are as many bytes each as one copy of both in f32. */
START_TEST(a_refusal_after_the_scans_were_replaced)
{
    const noc_step steps[] = {ZSCORE(NOC_ZSCORE_FILLED),
                              ZSCORE(NOC_ZSCORE_FILLED),
                              {.kind = NOC_STEP_CROP, .size = {INT32_MAX, 1, 1}}};
    noc_manifest m = manifest_of(2, steps, 3);
    noc_prepared *p = NULL;

    for (int64_t n = 1; n <= 32; n++) {
        noc_image images[2];
        for (int i = 0; i < 2; i++) {
            images[i] = (noc_image){.grid.size = {n, n, n}, .channels = 1, .type = NOC_VOXEL_F64, .slope = 1};
            images[i].bytes = (size_t)(n * n * n) * sizeof(double);
            images[i].voxels = noc_alloc_zeroed(images[i].bytes, 1, &err);
            for (int a = 0; a < 4; a++)
                images[i].grid.affine[a][a] = 1;
        }
        ck_assert_int_eq(noc_prepare(&m, images, 2, &p, &err), NOC_EGEOMETRY);
        for (int i = 0; i < 2; i++)
            ck_assert_ptr_null(images[i].voxels);
    }
}
END_TEST

START_TEST(values_that_are_no_numbers)
{
    float values[48] = {0}; /* as many bytes as huge */
    double huge[24];
    noc_manifest m = manifest_of(1, (const noc_step[]){ZSCORE(NOC_ZSCORE_ALL)}, 1);

    values[23] = NAN;
    noc_image image = image_of(values, 1, 2, 3, 4);
    expect_refused(&m, &image, 1, NOC_ENONFINITE, "voxel (3, 2, 1) of channel 1 is NaN");
    for (int i = 0; i < 24; i++)
        huge[i] = i % 2 ? 1e300 : -1e300; /* whose squares are not */
    image = image_of(values, 2, 2, 3, 4);
    image.channels = 1;
    image.type = NOC_VOXEL_F64;
    memcpy(image.voxels, huge, sizeof huge);
    expect_refused(&m, &image, 1, NOC_ENONFINITE, "too large");
}
END_TEST

START_TEST(singular_affine)
{
    static const float values[24] = {1};
    noc_manifest m = manifest_of(1, NULL, 0);
    noc_image image = image_of(values, 1, 2, 3, 4);

    image.grid.affine[1][1] = 0;
    expect_refused(&m, &image, 1, NOC_EGEOMETRY, "singular");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("prepare");
    TCase *tests = tcase_create("prepare");
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, golden_normalisation, 0, 5);
    tcase_add_loop_test(tests, golden_resampling, 0, RESAMPLINGS);
    tcase_add_loop_test(tests, steps_in_every_orientation, 0, CHAINS);
    tcase_add_test(tests, boxes_beyond_the_volume);
    tcase_add_test(tests, foreground);
    tcase_add_test(tests, resampling_of_little);
    tcase_add_test(tests, estimates);
    tcase_add_test(tests, long_rows);
    tcase_add_test(tests, foreground_of_long_rows);
    tcase_add_test(tests, constant_images);
    tcase_add_test(tests, one_voxel);
    tcase_add_test(tests, wrong_channels);
    tcase_add_test(tests, a_crop_beyond_the_volume);
    tcase_add_test(tests, a_refusal_after_the_scans_were_replaced);
    tcase_add_test(tests, values_that_are_no_numbers);
    tcase_add_test(tests, singular_affine);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
