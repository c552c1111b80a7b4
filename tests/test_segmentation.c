/* Segmentations of the tiny network: blended logits against a plain loop over windows, and masks whose bits
 * do not depend on batch, threads, neighbours in a batch or the tiles that memory demands; probabilities
 * likewise. The same of an ensemble: two networks, the window flipped in every way. */
#include "engine/base/half.h"
#include "engine/base/memory.h"
#include "engine/engine_state.h"
#include "engine/resample.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CLASSES = 3, CHANNELS = 2 };

static noc_error err;
static noc_model *model; /* argmax of three classes */

static void load_model(void)
{
    ck_assert_msg(noc_model_load("tests/data/models/tiny", &model, &err) == NOC_OK, "%s", err.text);
}

static void free_model(void)
{
    noc_model_free(model);
    model = NULL;
}

/* The tiny model's manifest with other lines, in a folder of its own. weights: the value of that key. */
static void load_changed(const char *weights, const char *output)
{
    char folder[] = "/tmp/nocturne-segmentation-XXXXXX", path[128], line[512];
    FILE *from = fopen("tests/data/models/tiny/model.yaml", "r");

    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/model.yaml", folder);
    FILE *to = fopen(path, "w");
    ck_assert(from && to);
    while (fgets(line, sizeof line, from) && (!output || strncmp(line, "output:", 7) != 0))
        if (strncmp(line, "weights:", 8) == 0)
            fprintf(to, "weights: %s\n", weights);
        else
            fputs(line, to);
    fputs(output ? output : "", to);
    fclose(from);
    ck_assert_int_eq(fclose(to), 0);
    noc_model_free(model);
    ck_assert_msg(noc_model_load(folder, &model, &err) == NOC_OK, "%s", err.text);
    unlink(path);
    rmdir(folder);
}

static char tiny_weights[300], other_weights[] = "/tmp/nocturne-fold-XXXXXX";

/* The tiny network's weights, and others that are up to a third away from them. */
static void make_folds(void)
{
    enum { MOST = 400 };
    static noc_tensor tensors[MOST];
    size_t count;
    uint32_t u = 1;

    load_model();
    count = noc_safetensors_count(model->weights[0]);
    ck_assert_uint_le(count, MOST);
    for (size_t i = 0; i < count; i++) {
        tensors[i] = *noc_safetensors_item(model->weights[0], i);
        if (tensors[i].dtype != NOC_DTYPE_F32)
            continue;
        float *changed = malloc(tensors[i].bytes);
        memcpy(changed, tensors[i].data, tensors[i].bytes);
        for (size_t n = 0; n < noc_tensor_count(&tensors[i]); n++) {
            u = u * 1664525u + 1013904223u;
            changed[n] *= 1 + ((float)(u >> 8) / 8388608.0F - 1) / 3;
        }
        tensors[i].data = changed;
    }
    ck_assert_ptr_nonnull(realpath("tests/data/golden/tiny_weights.safetensors", tiny_weights));
    close(mkstemp(other_weights));
    ck_assert_int_eq(noc_safetensors_write(other_weights, tensors, count, NULL, &err), NOC_OK);
    for (size_t i = 0; i < count; i++)
        if (tensors[i].dtype == NOC_DTYPE_F32)
            free((void *)(uintptr_t)tensors[i].data);
}

static void remove_folds(void)
{
    free_model();
    unlink(other_weights);
}

static void load_folds(bool has_tiny, bool has_other, unsigned mirror, const char *output)
{
    char list[700];

    snprintf(list, sizeof list, "[%s%s%s]", has_tiny ? tiny_weights : "", has_tiny && has_other ? ", " : "",
             has_other ? other_weights : "");
    load_changed(list, output);
    ck_assert_int_eq(noc_model_mirror(model, mirror, &err), NOC_OK);
}

static bool is_ensemble(void)
{
    return noc_model_views(model) > 1;
}

/* Both, flipped along all axes. */
static void load_ensemble(void)
{
    make_folds();
    load_folds(true, true, 7, NULL);
}

static void load_small_ensemble(void)
{
    make_folds();
    load_folds(true, true, 1, NULL);
}

static noc_engine_options options_of(int64_t d, int64_t h, int64_t w)
{
    noc_engine_options options = NOC_ENGINE_DEFAULTS;

    options.device = "cpu";
    options.host.threads = 1;
    options.batch = 3;
    options.window[0] = d;
    options.window[1] = h;
    options.window[2] = w;
    return options;
}

/* NULL where this machine lacks the instruction set. */
static noc_engine *open_engine(const noc_engine_options *options)
{
    noc_engine *engine = NULL;
    noc_status status = noc_engine_open(options, model, &engine, &err);

    ck_assert_msg(status == NOC_OK || (options->host.isa && status == NOC_EUNAVAILABLE), "%s", err.text);
    return engine;
}

/* [C][D][H][W] of smooth blobs and noise, so that windows see different things. */
static float *values_of(const int64_t size[3], unsigned seed)
{
    size_t voxels = (size_t)(size[0] * size[1] * size[2]);
    float *values = calloc(voxels * CHANNELS, sizeof *values);

    for (size_t i = 0; i < voxels * CHANNELS; i++) {
        uint32_t u = ((uint32_t)i + seed * 1000003u) * 2654435761u;
        u ^= u >> 15;
        u *= 2246822519u;
        u ^= u >> 13;
        values[i] = (float)(u >> 8) / 8388608.0f - 1 + 2 * sinf((float)(i % voxels) * 0.01f);
    }
    return values;
}

/* The volume as a scan stored R A S (i = W), or L I P: flipped and permuted. */
static noc_prepared *prepared_of(const int64_t size[3], const float *values, bool is_permuted,
                                 const noc_step *crop)
{
    noc_manifest m = *model->manifest;
    noc_image image = {.channels = CHANNELS, .type = NOC_VOXEL_F32, .slope = 1};
    noc_prepared *p = NULL;
    size_t voxels = (size_t)(size[0] * size[1] * size[2]), n = 0;

    image.bytes = voxels * CHANNELS * sizeof(float);
    float *stored = malloc(image.bytes);
    image.voxels = stored;
    image.grid.affine[3][3] = 1;
    for (int a = 0; a < 3; a++) { /* L I P: i to the left, j down (D), k backwards (H) */
        static const int plain[3] = {2, 1, 0}, permuted[3] = {2, 0, 1};
        int axis = (is_permuted ? permuted : plain)[a];
        image.grid.size[a] = size[axis];
        image.grid.spacing_mm[a] = 1;
        image.grid.affine[2 - axis][a] = is_permuted ? -1 : 1;
    }
    for (int c = 0; c < CHANNELS; c++)
        for (int64_t d = 0; d < size[0]; d++)
            for (int64_t h = 0; h < size[1]; h++)
                for (int64_t w = 0; w < size[2]; w++, n++) {
                    int64_t i = size[2] - 1 - w, j = size[0] - 1 - d, k = size[1] - 1 - h;
                    size_t to =
                        is_permuted ? (size_t)((k * size[0] + j) * size[2] + i) + (size_t)c * voxels : n;
                    stored[to] = values[n];
                }
    m.step_count = crop ? 1 : 0;
    if (crop)
        m.steps[0] = *crop;
    ck_assert_msg(noc_prepare(&m, &image, 1, &p, &err) == NOC_OK, "%s", err.text);
    return p;
}

/* Tasks of several segmentations in turn, batch by batch, until all are done. */
static void run_all(noc_engine *engine, noc_segmentation *const *segmentations, int count)
{
    noc_window_task tasks[16];
    int batch = noc_engine_batch(engine), n, turn = 0;

    do {
        int refused = 0;
        for (n = 0; n < batch && refused < count; turn++) {
            if (noc_segmentation_next(segmentations[turn % count], &tasks[n])) {
                n++;
                refused = 0;
            } else {
                refused++;
            }
        }
        ck_assert_msg(noc_engine_run(engine, tasks, n, &err) == NOC_OK, "%s", err.text);
    } while (n > 0);
    for (int i = 0; i < count; i++) {
        ck_assert(noc_segmentation_is_done(segmentations[i]));
        ck_assert_int_eq(noc_segmentation_windows_done(segmentations[i]),
                         noc_segmentation_windows(segmentations[i]));
    }
}

static noc_segmentation_result segment(noc_engine *engine, const noc_prepared *prepared, size_t memory,
                                       int64_t *windows)
{
    noc_segmentation *s = NULL;
    noc_segmentation_result result;

    ck_assert_msg(noc_segmentation_create(engine, prepared, memory, &s, &err) == NOC_OK, "%s", err.text);
    run_all(engine, &s, 1);
    noc_segmentation_take(s, &result);
    if (windows)
        *windows = noc_segmentation_windows(s);
    noc_segmentation_free(s);
    return result;
}

static void free_result(noc_segmentation_result *result)
{
    free(result->voxels);
    free(result->probabilities);
}

static float *blended(noc_engine *engine, const noc_prepared *prepared)
{
    noc_segmentation *s = NULL;
    noc_segmentation_result result;

    ck_assert_int_eq(noc_segmentation_create_logits(engine, prepared, &s, &err), NOC_OK);
    run_all(engine, &s, 1);
    noc_segmentation_take(s, &result);
    ck_assert_int_eq(result.kind, NOC_GATHER_LOGITS);
    noc_segmentation_free(s);
    return result.voxels;
}

/* ---- against a plain loop ---- */

static double weight_of(const int64_t window[3], const int64_t at[3], noc_blend blend)
{
    double weight = 1;

    for (int a = 0; a < 3 && blend == NOC_BLEND_GAUSSIAN; a++) {
        double x = (double)at[a] - (double)(window[a] - 1) / 2, s = 0.125 * (double)window[a];
        weight *= exp(-x * x / (2 * s * s));
    }
    return fmax(weight, 1e-3);
}

/* Starts along an axis: the interval again and again, the last one moved back. */
static int starts_of(int64_t padded, int64_t window, double overlap, int64_t starts[64])
{
    int64_t interval = padded == window ? window : (int64_t)((double)window * (1 - overlap));
    int count = 0;

    for (int64_t at = 0; count == 0 || starts[count - 1] + window<padded; at += interval> 0 ? interval : 1)
        starts[count++] = at + window > padded ? padded - window : at;
    return count;
}

typedef struct loop {
    noc_engine *engine;
    const float *values; /* [C][D][H][W] */
    int64_t size[3], window[3], low[3];
    noc_blend blend;
    double *sums, *weights;
} loop;

static void add_window(const loop *l, const int64_t start[3])
{
    const noc_plan *plan = noc_engine_plan(l->engine);
    const noc_value *v = &plan->values[plan->logits];
    int64_t out_size[3], voxels = l->window[0] * l->window[1] * l->window[2];
    float *input = calloc((size_t)(voxels * CHANNELS), sizeof *input), *next = input;

    for (int a = 0; a < 3; a++)
        out_size[a] = (int64_t)v->grid[a] * plan->upsample[a];
    float *logits = malloc((size_t)(out_size[0] * out_size[1] * out_size[2]) * CLASSES * sizeof *logits);
    for (int c = 0; c < CHANNELS; c++)
        for (int64_t d = start[0] - l->low[0]; d < start[0] - l->low[0] + l->window[0]; d++)
            for (int64_t h = start[1] - l->low[1]; h < start[1] - l->low[1] + l->window[1]; h++)
                for (int64_t w = start[2] - l->low[2]; w < start[2] - l->low[2] + l->window[2]; w++, next++)
                    if (d >= 0 && h >= 0 && w >= 0 && d < l->size[0] && h < l->size[1] && w < l->size[2])
                        *next = l->values[((c * l->size[0] + d) * l->size[1] + h) * l->size[2] + w];
    ck_assert_int_eq(noc_engine_forward(l->engine, 1, input, logits, &err), NOC_OK);
    for (int64_t n = 0; n < voxels; n++) {
        const int64_t at[3] = {n / l->window[2] / l->window[1], n / l->window[2] % l->window[1],
                               n % l->window[2]};
        int64_t to[3];
        bool is_inside = true;
        for (int a = 0; a < 3; a++) {
            to[a] = start[a] - l->low[a] + at[a];
            is_inside = is_inside && to[a] >= 0 && to[a] < l->size[a];
        }
        if (!is_inside)
            continue;
        int64_t voxel = (to[0] * l->size[1] + to[1]) * l->size[2] + to[2];
        double weight = weight_of(l->window, at, l->blend);
        l->weights[voxel] += weight;
        for (int c = 0; c < CLASSES; c++)
            l->sums[c * l->size[0] * l->size[1] * l->size[2] + voxel] +=
                weight *
                (double)logits[((c * out_size[0] + at[0]) * out_size[1] + at[1]) * out_size[2] + at[2]];
    }
    free(input);
    free(logits);
}

/* Blended logits [K][D][H][W] in double, newly allocated. */
static double *blend_plainly(noc_engine *engine, const float *values, const int64_t size[3])
{
    loop l = {.engine = engine, .values = values};
    double overlap;
    int64_t starts[3][64], voxels = size[0] * size[1] * size[2];
    int count[3];

    noc_engine_window(engine, l.window, &overlap, &l.blend);
    l.sums = calloc((size_t)voxels * CLASSES, sizeof *l.sums);
    l.weights = calloc((size_t)voxels, sizeof *l.weights);
    for (int a = 0; a < 3; a++) {
        int64_t padded = size[a] > l.window[a] ? size[a] : l.window[a];
        l.size[a] = size[a];
        l.low[a] = (padded - size[a]) / 2;
        count[a] = starts_of(padded, l.window[a], overlap, starts[a]);
    }
    for (int d = 0; d < count[0]; d++)
        for (int h = 0; h < count[1]; h++)
            for (int w = 0; w < count[2]; w++)
                add_window(&l, (const int64_t[]){starts[0][d], starts[1][h], starts[2][w]});
    for (int64_t n = 0; n < voxels * CLASSES; n++)
        l.sums[n] /= l.weights[n % voxels];
    free(l.weights);
    return l.sums;
}

/* Sizes and windows that are odd, padded, cropped (a window that is no multiple of the stride), alone. */
static const struct {
    int64_t size[3], window[3];
    double overlap;
    noc_blend blend;
} loops[] = {
    {{40, 50, 37}, {32, 32, 32}, 0.5, NOC_BLEND_GAUSSIAN},
    {{40, 50, 37}, {32, 32, 32}, 0.5, NOC_BLEND_CONSTANT},
    {{20, 33, 65}, {32, 32, 32}, 0.25, NOC_BLEND_GAUSSIAN},
    {{41, 39, 47}, {30, 34, 39}, 0.6, NOC_BLEND_CONSTANT},
    {{41, 39, 47}, {30, 34, 39}, 0.6, NOC_BLEND_GAUSSIAN},
    {{11, 9, 5}, {32, 24, 40}, 0.5, NOC_BLEND_GAUSSIAN},
    {{33, 32, 32}, {32, 32, 32}, 0, NOC_BLEND_GAUSSIAN},
    {{62, 40, 39}, {25, 25, 25}, 0.5, NOC_BLEND_CONSTANT}, /* every other window overlaps by one voxel */
};
enum { LOOPS = sizeof loops / sizeof loops[0] };

START_TEST(logits_of_a_plain_loop)
{
    const int64_t *size = loops[_i].size, *window = loops[_i].window, voxels = size[0] * size[1] * size[2];
    noc_engine_options options = options_of(window[0], window[1], window[2]);
    double largest = 0;
    int64_t unequal = 0;

    options.overlap = loops[_i].overlap;
    options.blend = (int)loops[_i].blend;
    noc_engine *engine = open_engine(&options);
    float *values = values_of(size, 5);
    double *wanted = blend_plainly(engine, values, size);
    noc_prepared *plain = prepared_of(size, values, false, NULL),
                 *turned = prepared_of(size, values, true, NULL);
    float *logits = blended(engine, plain), *again = blended(engine, turned);
    ck_assert_mem_eq(logits, again, (size_t)voxels * CLASSES * sizeof *logits);
    for (int64_t n = 0; n < voxels * CLASSES; n++)
        largest = fmax(largest, fabs(wanted[n]));
    for (int64_t n = 0; n < voxels * CLASSES; n++) /* two orders of summing in f32 */
        ck_assert_msg(fabs((double)logits[n] - wanted[n]) <= 3e-6 * largest, "[%lld] is %g, wanted %g",
                      (long long)n, (double)logits[n], wanted[n]);
    /* the mask is the largest of these very logits, the lowest index at a tie */
    noc_segmentation_result mask = segment(engine, plain, 0, NULL), stored = segment(engine, turned, 0, NULL);
    ck_assert_int_eq(mask.kind, NOC_GATHER_LABELS);
    ck_assert_uint_eq(mask.bytes, (size_t)voxels);
    for (int64_t d = 0, n = 0; d < size[0]; d++)
        for (int64_t h = 0; h < size[1]; h++)
            for (int64_t w = 0; w < size[2]; w++, n++) {
                int best = 0;
                for (int c = 1; c < CLASSES; c++)
                    best = logits[c * voxels + n] > logits[best * voxels + n] ? c : best;
                int64_t i = size[2] - 1 - w, j = size[0] - 1 - d, k = size[1] - 1 - h;
                unequal += best != ((uint8_t *)mask.voxels)[n];
                unequal += best != ((uint8_t *)stored.voxels)[(k * size[0] + j) * size[2] + i];
            }
    ck_assert_int_eq(unequal, 0);
    free(mask.voxels);
    free(stored.voxels);
    free(logits);
    free(again);
    free(wanted);
    free(values);
    noc_prepared_free(plain);
    noc_prepared_free(turned);
    noc_engine_close(engine);
}
END_TEST

/* ---- the same bits ---- */

static const int64_t study[3] = {45, 50, 58};

static bool has_labels(const noc_segmentation_result *mask, int labels)
{
    size_t count[256] = {0};

    for (size_t i = 0; i < mask->bytes; i++)
        count[((uint8_t *)mask->voxels)[i]]++;
    for (int n = 0; n < labels; n++)
        if (count[n] == 0)
            return false;
    return true;
}

/* The model's manifest with that step alone. */
static void set_step(const noc_step *step)
{
    noc_manifest *m = (noc_manifest *)(uintptr_t)model->manifest;

    m->steps[0] = *step;
    m->step_count = 1;
}

/* amx computes in bf16. */
static const char *const sets[] = {"amx", "avx512", "avx2", "portable"};
enum { SETS = sizeof sets / sizeof sets[0] };

/* As it is and resampled; batches 1, 3 and 7, one thread and two, for every instruction set of this machine;
 * those in f32 differ in a few voxels at most, where two classes are next to equal. */
START_TEST(batches_and_threads)
{
    noc_segmentation_result of_set[SETS] = {{0}};
    float *values = values_of(study, 1);
    const noc_step resample = {NOC_STEP_RESAMPLE, .order = 3, .spacing_mm = {1.2, 0.9, 1}};
    noc_segmentation_result *first_set = NULL;

    if (_i == 1)
        set_step(&resample);
    noc_prepared *prepared = prepared_of(study, values, true, _i == 1 ? &resample : NULL);

    for (int set = 0; set < SETS; set++) {
        for (int n = 0; n < 6; n++) {
            noc_engine_options options = options_of(24, 32, 24);
            options.host.isa = sets[set];
            options.host.precision = set == 0 ? NOC_PRECISION_BF16 : NOC_PRECISION_F32;
            options.host.threads = n % 2 + 1;
            options.batch = (const int[]){1, 3, 7}[n / 2];
            options.with_probabilities = true;
            noc_engine *engine = open_engine(&options);
            if (!engine)
                break;
            ck_assert_int_eq(noc_engine_batch(engine), options.batch);
            noc_segmentation_result mask = segment(engine, prepared, 0, NULL);
            noc_engine_close(engine);
            if (n == 0) {
                ck_assert(has_labels(&mask, is_ensemble() ? 2 : CLASSES)); /* a mean is smoother */
                of_set[set] = mask;
                continue;
            }
            ck_assert_uint_eq(mask.bytes, of_set[set].bytes);
            ck_assert_mem_eq(mask.voxels, of_set[set].voxels, mask.bytes);
            ck_assert(memcmp(mask.probabilities, of_set[set].probabilities, 2 * CLASSES * mask.bytes) == 0);
            free_result(&mask);
        }
        if (set == 0)
            continue;
        size_t unequal = 0;
        for (size_t i = 0; first_set && i < of_set[set].bytes; i++)
            unequal += ((uint8_t *)of_set[set].voxels)[i] != ((uint8_t *)first_set->voxels)[i];
        ck_assert_uint_lt(unequal, 20);
        first_set = of_set[set].voxels ? &of_set[set] : first_set;
    }
    ck_assert_ptr_nonnull(first_set);
    for (int set = 0; set < SETS; set++)
        free_result(&of_set[set]);
    noc_prepared_free(prepared);
    free(values);
}
END_TEST

START_TEST(windows_of_the_host_in_a_batch)
{
    enum { WINDOWS = 3 };
    const int64_t size[3] = {32 * WINDOWS, 36, 40}; /* windows of all channels behind each other */
    noc_engine_options options = options_of(32, 36, 40);
    options.batch = WINDOWS;
    noc_engine *engine = open_engine(&options);
    size_t in = (size_t)(32 * 36 * 40) * CHANNELS, out = (size_t)(32 * 36 * 40) * CLASSES;
    float *input = values_of(size, 5), *together = malloc(WINDOWS * out * sizeof *together),
          *alone = malloc(out * sizeof *alone);
    ck_assert_int_eq(noc_engine_forward(engine, WINDOWS, input, together, &err), NOC_OK);
    for (size_t i = 0; i < WINDOWS; i++) {
        ck_assert_int_eq(noc_engine_forward(engine, 1, input + i * in, alone, &err), NOC_OK);
        ck_assert(memcmp(alone, together + i * out, out * sizeof *alone) == 0);
    }
    free(alone);
    free(together);
    free(input);
    noc_engine_close(engine);
}
END_TEST

/* Two and three studies whose windows share batches: each is what it is alone. */
START_TEST(studies_share_batches)
{
    static const int64_t sizes[3][3] = {{45, 50, 58}, {24, 33, 40}, {50, 20, 31}};
    noc_segmentation_result alone[3];
    noc_prepared *prepared[3];

    for (int batch = 2; batch <= 7; batch += 5) {
        noc_engine_options options = options_of(24, 32, 24);
        noc_segmentation *together[3];
        options.batch = batch;
        noc_engine *engine = open_engine(&options);
        for (int i = 0; i < 3; i++) {
            float *values = values_of(sizes[i], (unsigned)i);
            prepared[i] = prepared_of(sizes[i], values, i == 1, NULL);
            free(values);
            alone[i] = segment(engine, prepared[i], 0, NULL);
            ck_assert_int_eq(noc_segmentation_create(engine, prepared[i], 0, &together[i], &err), NOC_OK);
        }
        run_all(engine, together, 3);
        for (int i = 0; i < 3; i++) {
            noc_segmentation_result mask;
            noc_segmentation_take(together[i], &mask);
            ck_assert_uint_eq(mask.bytes, alone[i].bytes);
            ck_assert_mem_eq(mask.voxels, alone[i].voxels, mask.bytes);
            free(mask.voxels);
            free(alone[i].voxels);
            noc_segmentation_free(together[i]);
            noc_prepared_free(prepared[i]);
        }
        noc_engine_close(engine);
    }
}
END_TEST

static const struct {
    int64_t size[3], window[3];
    bool is_permuted;
    noc_step resample; /* where its order is not 0 */
    int64_t seen[3];   /* the size after it */
} cuts[] = {
    {{45, 50, 58}, {24, 24, 24}, false, {.order = 0}, {45, 50, 58}},
    {{45, 50, 58}, {24, 24, 24}, true, {.order = 0}, {45, 50, 58}},
    {{17, 83, 70}, {17, 17, 17}, false, {.order = 0}, {17, 83, 70}},
    {{33, 71, 43},
     {24, 24, 24},
     true,
     {NOC_STEP_RESAMPLE, .order = 3, .spacing_mm = {0.7, 1.4, 0.75}},
     {47, 51, 57}},
    {{33, 71, 43},
     {24, 24, 24},
     false,
     {NOC_STEP_RESAMPLE, .order = 1, .spacing_mm = {0.7, 1.4, 0.75}, .is_back_nearest = true},
     {47, 51, 57}},
};
enum { CUTS = sizeof cuts / sizeof cuts[0] };

/* Bytes of the last buffer. */
static size_t buffer_bytes;

static noc_status noting_buffer_create(noc_device *device, size_t bytes, noc_buffer **buffer, noc_error *why)
{
    buffer_bytes = bytes;
    return noc_cpu_ops.buffer_create(device, bytes, buffer, why);
}

/* Ever less memory: more and more tiles along H and W, more windows, the same bits; at last a refusal. Logits
 * and mask take no more than was estimated. */
START_TEST(cut_by_memory)
{
    enum { STEPS = 60 };
    const int n = _i % CUTS;
    const int64_t *size = cuts[n].size, *seen = cuts[n].seen;
    const noc_step *step_of = cuts[n].resample.order ? &cuts[n].resample : NULL;
    noc_engine_options options = options_of(cuts[n].window[0], cuts[n].window[1], cuts[n].window[2]);
    float *values = values_of(size, 2);
    if (step_of)
        set_step(step_of);
    noc_prepared *prepared = prepared_of(size, values, cuts[n].is_permuted, step_of);
    const size_t voxels = (size_t)(size[0] * size[1] * size[2]), planes = _i < CUTS ? 0 : CLASSES,
                 output = voxels * (1 + 2 * planes);
    int64_t got[3];
    size_t whole, bytes, last_bytes = SIZE_MAX;
    int64_t windows, least_windows, last;
    int different = 0;

    noc_prepared_size(prepared, got);
    ck_assert_mem_eq(got, seen, sizeof got);
    options.batch = 2;
    options.with_probabilities = planes > 0;
    noc_engine *engine = open_engine(&options);
    ck_assert_int_eq(noc_engine_probabilities(engine), (int)planes);
    noc_device_ops ops = *engine->ops;
    ops.buffer_create = noting_buffer_create;
    engine->ops = &ops;
    ck_assert_int_eq(noc_segmentation_bytes(engine, seen, voxels, 0, &whole, &err), NOC_OK);
    noc_segmentation_result wanted = segment(engine, prepared, 0, &least_windows);
    if (planes > 0) /* with a slab of eight rows of logits */
        ck_assert_uint_ge(whole,
                          buffer_bytes + output + 8 * planes * (size_t)(seen[1] * seen[2]) * sizeof(float));
    ck_assert(has_labels(&wanted, CLASSES));
    last = least_windows;
    for (int step = STEPS; step > 0; step--) {
        const size_t memory = output + (whole - output) * (size_t)step / STEPS;
        if (noc_segmentation_bytes(engine, seen, voxels, memory, &bytes, &err) != NOC_OK)
            break;
        ck_assert_uint_le(bytes, memory);
        if (bytes == last_bytes) /* the same tiles */
            continue;
        noc_segmentation_result mask = segment(engine, prepared, memory, &windows);
        ck_assert_uint_le(buffer_bytes + output, bytes);
        ck_assert_mem_eq(mask.voxels, wanted.voxels, mask.bytes);
        if (planes > 0)
            ck_assert(memcmp(mask.probabilities, wanted.probabilities, output - voxels) == 0);
        else
            ck_assert_ptr_null(mask.probabilities);
        free_result(&mask);
        ck_assert_int_ge(windows, last);
        different += windows > last;
        last = windows;
        last_bytes = bytes;
    }
    ck_assert_int_ge(different, 2);
    ck_assert_int_gt(last, least_windows * 2); /* cut along both axes: along H alone windows at most double */
    noc_segmentation *s = NULL;
    ck_assert_int_eq(noc_segmentation_create(engine, prepared, output + 1, &s, &err), NOC_ETOOLARGE);
    ck_assert_ptr_nonnull(strstr(err.text, "even when cut into tiles"));
    ck_assert_int_eq(noc_segmentation_bytes(engine, seen, voxels, output + 1, &bytes, &err), NOC_ETOOLARGE);
    free_result(&wanted);
    free(values);
    noc_prepared_free(prepared);
    engine->ops = &noc_cpu_ops;
    noc_engine_close(engine);
}
END_TEST

/* A device that fails now and then, and counts what it computed. */
static int computed, gathers, runs;

static noc_status failing_gather(noc_device *device, const noc_gather *gather, noc_error *why)
{
    return ++gathers % 2 ? noc_fail(why, NOC_EDEVICE, "a planned failure")
                         : noc_cpu_ops.gather(device, gather, why);
}

static noc_status failing_run(noc_network *network, int batch, const noc_window_input input[], bool is_planar,
                              noc_buffer *const output[], const size_t offset[], noc_error *why)
{
    if (++runs % (is_ensemble() ? 7 : 3) == 0)
        return noc_fail(why, NOC_EDEVICE, "a planned failure");
    computed += batch;
    return noc_cpu_ops.network_run(network, batch, input, is_planar, output, offset, why);
}

/* A batch that failed, computing or gathering, counts for nothing and may be run again: no window is computed
 * or counted twice, no bit changes. */
START_TEST(a_failed_batch_run_again)
{
    noc_engine_options options = options_of(24, 32, 24);
    float *values = values_of(study, 3);
    noc_prepared *prepared = prepared_of(study, values, false, NULL);
    noc_engine *engine = open_engine(&options);
    noc_segmentation_result wanted = segment(engine, prepared, 0, NULL), mask;
    noc_device_ops ops = *engine->ops;
    noc_segmentation *s = NULL;
    noc_window_task tasks[3];
    int count, failures = 0;

    ops.gather = failing_gather;
    ops.network_run = failing_run;
    engine->ops = &ops;
    computed = gathers = runs = 0;
    ck_assert_int_eq(noc_segmentation_create(engine, prepared, 0, &s, &err), NOC_OK);
    do {
        const int64_t before = noc_segmentation_windows_done(s);
        for (count = 0; count < 3 && noc_segmentation_next(s, &tasks[count]); count++)
            ;
        while (noc_engine_run(engine, tasks, count, &err) != NOC_OK) {
            ck_assert_int_eq(err.status, NOC_EDEVICE);
            ck_assert_int_eq(noc_segmentation_windows_done(s), before);
            ck_assert_int_lt(++failures, 100);
        }
        ck_assert_int_eq(noc_segmentation_windows_done(s), before + count);
    } while (count > 0);
    ck_assert(noc_segmentation_is_done(s));
    ck_assert_int_ge(failures, 6);
    if (is_ensemble()) /* the views of a batch before the one that failed are computed again */
        ck_assert_int_gt(computed, noc_segmentation_windows(s) * noc_model_views(model));
    else
        ck_assert_int_eq(computed, noc_segmentation_windows(s));
    noc_segmentation_take(s, &mask);
    ck_assert_mem_eq(mask.voxels, wanted.voxels, wanted.bytes);
    ck_assert_int_eq(noc_engine_run(engine, tasks, 4, &err), NOC_EINTERNAL); /* more than a batch */
    free(mask.voxels);
    free(wanted.voxels);
    free(values);
    noc_segmentation_free(s);
    noc_prepared_free(prepared);
    engine->ops = &noc_cpu_ops;
    noc_engine_close(engine);
}
END_TEST

/* Inside a crop the mask is that of the cropped scan, outside it is background. */
START_TEST(a_crop)
{
    const noc_step crop = {.kind = NOC_STEP_CROP, .start = {5, 0, 11}, .size = {33, 40, 36}};
    noc_engine_options options = options_of(24, 32, 24);
    noc_engine *engine = open_engine(&options);
    float *values = values_of(study, 4), *inner = malloc((size_t)(33 * 40 * 36) * CHANNELS * sizeof *inner);
    size_t n = 0, unequal = 0;

    for (int64_t c = 0; c < CHANNELS; c++)
        for (int64_t d = 5; d < 38; d++)
            for (int64_t h = 0; h < 40; h++)
                for (int64_t w = 11; w < 47; w++)
                    inner[n++] = values[((c * study[0] + d) * study[1] + h) * study[2] + w];
    noc_prepared *whole = prepared_of(study, values, false, &crop);
    noc_prepared *part = prepared_of(crop.size, inner, false, NULL);
    noc_segmentation_result mask = segment(engine, whole, 0, NULL), wanted = segment(engine, part, 0, NULL);
    ck_assert_uint_eq(mask.bytes, (size_t)(study[0] * study[1] * study[2]));
    ck_assert(has_labels(&wanted, CLASSES));
    for (int64_t d = 0; d < study[0]; d++)
        for (int64_t h = 0; h < study[1]; h++)
            for (int64_t w = 0; w < study[2]; w++) {
                bool is_inside = d >= 5 && d < 38 && h < 40 && w >= 11 && w < 47;
                int label = is_inside ? ((uint8_t *)wanted.voxels)[((d - 5) * 40 + h) * 36 + w - 11] : 0;
                unequal += label != ((uint8_t *)mask.voxels)[(d * study[1] + h) * study[2] + w];
            }
    ck_assert_uint_eq(unequal, 0);
    free(mask.voxels);
    free(wanted.voxels);
    free(values);
    free(inner);
    noc_prepared_free(whole);
    noc_prepared_free(part);
    noc_engine_close(engine);
}
END_TEST

/* ---- regions ---- */

static const struct {
    const char *threshold;
    double logit; /* log(p / (1 - p)) */
} thresholds[] = {{"0.5", 0}, {"0.55", 0.2006706954621511}, {"0.4", -0.40546510810816444}};

/* Bit c where the blended logit reaches the threshold; tiles and batches change nothing. */
START_TEST(regions)
{
    char output[512];
    const int64_t voxels = study[0] * study[1] * study[2];
    const float threshold = (float)thresholds[_i].logit;
    size_t whole, unequal = 0, all_bits = 0;
    int64_t windows, more;

    snprintf(
        output, sizeof output,
        "output:\n  kind: regions\n  threshold: %s\n  regions:\n    - {name: A, truth_labels: [1]}\n"
        "    - {name: B, truth_labels: [1, 2]}\n    - {name: C, truth_labels: [3]}\n"
        "  paint:\n    - {region: B, label: 7}\n    - {region: A, label: 4}\n    - {region: C, label: 9}\n",
        thresholds[_i].threshold);
    load_folds(true, is_ensemble(), is_ensemble() ? 2 : 0, output);
    noc_engine_options options = options_of(24, 32, 24);
    noc_engine *engine = open_engine(&options);
    float *values = values_of(study, 6);
    noc_prepared *prepared = prepared_of(study, values, false, NULL);
    float *logits = blended(engine, prepared);
    noc_segmentation_result bits = segment(engine, prepared, 0, &windows);
    uint8_t *b = bits.voxels, *labels = malloc((size_t)voxels);
    ck_assert_int_eq(bits.kind, NOC_GATHER_REGIONS);
    ck_assert_int_eq(bits.element_bytes, 1);
    noc_regions_paint(model->manifest, b, 1, (size_t)voxels, labels);
    for (int64_t n = 0; n < voxels; n++) {
        int wanted = 0;
        for (int c = 0; c < CLASSES; c++)
            wanted |= (logits[c * voxels + n] >= threshold) << c;
        unequal += wanted != b[n];
        all_bits |= b[n];
        int label = b[n] & 4 ? 9 : b[n] & 1 ? 4 : b[n] & 2 ? 7 : 0;
        unequal += label != labels[n];
    }
    ck_assert_uint_eq(unequal, 0);
    ck_assert_uint_eq(all_bits, 7);
    ck_assert_int_eq(noc_segmentation_bytes(engine, study, (size_t)voxels, 0, &whole, &err), NOC_OK);
    noc_segmentation_result cut = segment(engine, prepared, whole - 1, &more);
    ck_assert_int_gt(more, windows);
    ck_assert_mem_eq(cut.voxels, b, (size_t)voxels);
    free(cut.voxels);
    free(bits.voxels);
    free(labels);
    free(logits);
    free(values);
    noc_prepared_free(prepared);
    noc_engine_close(engine);
}
END_TEST

/* ---- probabilities ---- */

static const char three_regions[] =
    "output:\n  kind: regions\n  threshold: 0.5\n  regions:\n    - {name: A, truth_labels: [1]}\n"
    "    - {name: B, truth_labels: [1, 2]}\n    - {name: C, truth_labels: [3]}\n  paint: []\n";

/* What the logits of a voxel, `step` apart, say of class c. */
static double probability_of(const double *logits, int64_t step, int c, bool has_regions)
{
    double sum = 0;
    for (int k = 0; k < CLASSES; k++)
        sum += exp(logits[k * step] - logits[c * step]);
    return has_regions ? 1 / (1 + exp(-logits[c * step])) : 1 / sum;
}

/* A plane is in the mask's own order; the nearest f16 of a number below 1 is within 2^-12 of it, what is left
 * is f32. The largest is the mask's class, where it is clear. logits: [K][voxels] of the scan. */
static void check_probabilities(const noc_segmentation_result *got, const double *logits, int64_t voxels,
                                const int64_t *place, bool has_regions)
{
    for (int64_t n = 0; n < voxels; n++) {
        double p[CLASSES];
        int largest = 0;
        for (int c = 0; c < CLASSES; c++) {
            p[c] = noc_half_value(got->probabilities[c * (int64_t)got->bytes + place[n]]);
            double wanted = probability_of(logits + n, voxels, c, has_regions);
            ck_assert_msg(fabs(p[c] - wanted) <= 0.000245 + 1e-5, "%g, wanted %g", p[c], wanted);
            largest = p[c] > p[largest] ? c : largest;
        }
        int mask = ((uint8_t *)got->voxels)[place[n]];
        for (int c = 0; has_regions && c < CLASSES; c++)
            ck_assert(fabs(p[c] - 0.5) < 1e-3 || (mask >> c & 1) == (p[c] > 0.5));
        ck_assert(has_regions || p[largest] - p[mask] < 1e-3);
    }
}

/* Where voxel n of [D][H][W] lies in a scan stored R A S, or L I P as prepared_of has it. */
static int64_t *places_of(const int64_t size[3], bool is_permuted)
{
    int64_t *place = malloc((size_t)(size[0] * size[1] * size[2]) * sizeof *place), n = 0;
    for (int64_t d = 0; d < size[0]; d++)
        for (int64_t h = 0; h < size[1]; h++)
            for (int64_t w = 0; w < size[2]; w++, n++) {
                int64_t i = size[2] - 1 - w, j = size[0] - 1 - d, k = size[1] - 1 - h;
                place[n] = is_permuted ? (k * size[0] + j) * size[2] + i : n;
            }
    return place;
}

static double *doubles_of(float *values, int64_t count)
{
    double *made = malloc((size_t)count * sizeof *made);
    for (int64_t n = 0; n < count; n++)
        made[n] = (double)values[n];
    free(values);
    return made;
}

/* Of labels and of regions, stored as they are and turned; the mask's bits are those without. */
START_TEST(probabilities_of_the_logits)
{
    const bool has_regions = _i >= LOOPS;
    const int64_t *size = loops[_i % LOOPS].size, *window = loops[_i % LOOPS].window,
                  voxels = size[0] * size[1] * size[2];
    noc_engine_options options = options_of(window[0], window[1], window[2]);

    if (has_regions)
        load_folds(true, false, 0, three_regions);
    options.overlap = loops[_i % LOOPS].overlap;
    noc_engine *plain = open_engine(&options);
    options.with_probabilities = true;
    noc_engine *engine = open_engine(&options);
    float *values = values_of(size, 5);
    for (int is_permuted = 0; is_permuted < 2; is_permuted++) {
        noc_prepared *prepared = prepared_of(size, values, is_permuted, NULL);
        double *logits = doubles_of(blended(engine, prepared), voxels * CLASSES);
        int64_t *place = places_of(size, is_permuted);
        noc_segmentation_result mask = segment(plain, prepared, 0, NULL),
                                got = segment(engine, prepared, 0, NULL);
        ck_assert_ptr_null(mask.probabilities);
        ck_assert_mem_eq(mask.voxels, got.voxels, mask.bytes);
        check_probabilities(&got, logits, voxels, place, has_regions);
        free_result(&mask);
        free_result(&got);
        free(place);
        free(logits);
        noc_prepared_free(prepared);
    }
    free(values);
    noc_engine_close(engine);
    noc_engine_close(plain);
}
END_TEST

/* Logits [K] of a resampled volume at voxel `at` of the scan, by a plain trilinear. */
static void logits_at(const noc_place *place, const float *logits, const int64_t at[3], double *out,
                      int64_t out_step)
{
    const int64_t *size = place->resampled;
    int64_t low[3], high[3];
    double f[3];
    for (int a = 0; a < 3; a++) {
        double x = noc_resample_place(size[a], place->size[a], at[a]);
        low[a] = x < 0 ? 0 : (int64_t)x;
        high[a] = low[a] + 1 < size[a] ? low[a] + 1 : size[a] - 1;
        f[a] = x < 0 || low[a] + 1 >= size[a] ? 0 : x - (double)low[a];
    }
    for (int c = 0; c < CLASSES; c++) {
        double sum = 0;
        for (int corner = 0; corner < 8; corner++) {
            double weight = 1;
            int64_t to = c;
            for (int a = 0; a < 3; a++) {
                bool is_high = corner >> a & 1;
                weight *= is_high ? f[a] : 1 - f[a];
                to = to * size[a] + (is_high ? high[a] : low[a]);
            }
            sum += weight * (double)logits[to];
        }
        out[c * out_step] = sum;
    }
}

/* Those of the logits that have come back to the scan's grid. */
START_TEST(probabilities_of_a_resampled_volume)
{
    const int64_t size[3] = {33, 71, 43}, voxels = size[0] * size[1] * size[2];
    const noc_step resample = {NOC_STEP_RESAMPLE, .order = 3, .spacing_mm = {0.7, 1.4, 0.75}};
    noc_engine_options options = options_of(24, 24, 24);
    float *values = values_of(size, 2);

    set_step(&resample);
    options.with_probabilities = true;
    noc_engine *engine = open_engine(&options);
    noc_prepared *prepared = prepared_of(size, values, _i, &resample);
    float *seen = blended(engine, prepared);
    double *logits = malloc((size_t)(voxels * CLASSES) * sizeof *logits), *next = logits;
    for (int64_t d = 0; d < size[0]; d++)
        for (int64_t h = 0; h < size[1]; h++)
            for (int64_t w = 0; w < size[2]; w++)
                logits_at(noc_prepared_place(prepared), seen, (int64_t[]){d, h, w}, next++, voxels);
    int64_t *place = places_of(size, _i);
    noc_segmentation_result got = segment(engine, prepared, 0, NULL);
    check_probabilities(&got, logits, voxels, place, false);
    free_result(&got);
    free(place);
    free(logits);
    free(seen);
    free(values);
    noc_prepared_free(prepared);
    noc_engine_close(engine);
}
END_TEST

/* Outside a crop all is class 0, or no region. */
START_TEST(probabilities_outside_a_crop)
{
    const noc_step crop = {.kind = NOC_STEP_CROP, .start = {5, 0, 11}, .size = {33, 40, 36}};
    noc_engine_options options = options_of(24, 32, 24);
    float *values = values_of(study, 4);

    options.with_probabilities = true;
    if (_i == 1)
        load_folds(true, false, 0, three_regions);
    noc_engine *engine = open_engine(&options);
    noc_prepared *prepared = prepared_of(study, values, false, &crop);
    noc_segmentation_result got = segment(engine, prepared, 0, NULL);
    const uint16_t *p = got.probabilities;
    for (size_t d = 0, n = 0; d < (size_t)study[0]; d++)
        for (int64_t h = 0; h < study[1]; h++)
            for (int64_t w = 0; w < study[2]; w++, n++) {
                bool is_inside = d >= 5 && d < 38 && h < 40 && w >= 11 && w < 47;
                uint16_t one = _i == 0 ? 0x3c00 : 0, rest = p[got.bytes + n] | p[2 * got.bytes + n];
                ck_assert(is_inside ? rest != 0 : p[n] == one && rest == 0);
            }
    free_result(&got);
    free(values);
    noc_prepared_free(prepared);
    noc_engine_close(engine);
}
END_TEST

/* Bits of any width are painted alike. */
START_TEST(painting)
{
    noc_manifest m = {.paints = {{0, 3}, {20, 5}, {9, 1}, {31, 8}}, .paint_count = 4};
    const uint32_t bits[] = {0, 1, 1u << 20, 1u << 20 | 1, 1u << 9 | 1u << 20, 1u << 31, 1u << 2};
    const uint16_t narrow[] = {0, 1, 1 << 9, 1 << 9 | 1, 1 << 15};
    unsigned char labels[7];

    noc_regions_paint(&m, bits, 4, 7, labels);
    ck_assert_mem_eq(labels, "\0\3\5\5\1\10\0", 7);
    noc_regions_paint(&m, narrow, 2, 5, labels);
    ck_assert_mem_eq(labels, "\0\3\1\1\0", 5);
}
END_TEST

/* ---- ensembles ---- */

/* A copy of [channels][D][H][W], the axes of `flips` reversed. */
static float *flipped(const float *in, int channels, const int64_t size[3], unsigned flips)
{
    float *out = malloc((size_t)(channels * size[0] * size[1] * size[2]) * sizeof *out), *next = out;

    for (int c = 0; c < channels; c++)
        for (int64_t d = 0; d < size[0]; d++)
            for (int64_t h = 0; h < size[1]; h++)
                for (int64_t w = 0; w < size[2]; w++) {
                    int64_t from_d = flips & 1 ? size[0] - 1 - d : d,
                            from_h = flips & 2 ? size[1] - 1 - h : h,
                            from_w = flips & 4 ? size[2] - 1 - w : w;
                    *next++ = in[((c * size[0] + from_d) * size[1] + from_h) * size[2] + from_w];
                }
    return out;
}

static float *forward(const int64_t window[3], const float *input)
{
    noc_engine_options options = options_of(window[0], window[1], window[2]);
    noc_engine *engine = open_engine(&options);
    float *logits = malloc((size_t)(window[0] * (window[1] + 3) * window[2]) * CLASSES * sizeof *logits);

    ck_assert_msg(noc_engine_forward(engine, 1, input, logits, &err) == NOC_OK, "%s", err.text);
    noc_engine_close(engine);
    return logits;
}

static const struct {
    bool has_tiny, has_other;
    unsigned mirror;
    int64_t window[3];
} ensembles[] = {
    {true, false, 1, {32, 32, 32}}, {true, false, 2, {24, 32, 40}}, {false, true, 4, {24, 32, 40}},
    {true, false, 7, {24, 32, 40}}, {true, true, 0, {24, 32, 40}},  {true, true, 6, {24, 32, 40}},
    {true, true, 7, {40, 24, 32}},  {true, true, 5, {24, 30, 40}}, /* no multiple along y, which stays */
};
enum { ENSEMBLES = sizeof ensembles / sizeof ensembles[0] };

/* Each network by itself, on inputs that are flipped here, its logits flipped back and averaged in double. */
START_TEST(mean_of_networks_and_flips)
{
    const int64_t *window = ensembles[_i].window, full[3] = {window[0], (window[1] + 3) / 4 * 4, window[2]};
    size_t count = (size_t)(full[0] * full[1] * full[2]) * CLASSES;
    double *sum = calloc(count, sizeof *sum), largest = 0, views = 0, away = 0;
    float *values = values_of(window, 8), *plain = NULL;

    for (int fold = 0; fold < 2; fold++) {
        if (!(fold == 0 ? ensembles[_i].has_tiny : ensembles[_i].has_other))
            continue;
        load_folds(fold == 0, fold == 1, 0, NULL);
        ck_assert_int_eq(noc_model_views(model), 1);
        for (unsigned flips = 0; flips < 8; flips++) {
            if (flips & ~ensembles[_i].mirror)
                continue;
            float *input = flipped(values, CHANNELS, window, flips), *logits = forward(window, input),
                  *back = flipped(logits, CLASSES, full, flips);
            for (size_t n = 0; n < count; n++)
                sum[n] += (double)back[n];
            views++;
            free(input);
            free(logits);
            free(plain);
            plain = back;
        }
    }
    ck_assert_ptr_nonnull(plain);
    load_folds(ensembles[_i].has_tiny, ensembles[_i].has_other, ensembles[_i].mirror, NULL);
    ck_assert_int_eq(noc_model_views(model), (int)views);
    float *mean = forward(window, values);
    for (size_t n = 0; n < count; n++)
        largest = fmax(largest, fabs(sum[n] / views));
    for (size_t n = 0; n < count; n++) {
        ck_assert_msg(fabs((double)mean[n] - sum[n] / views) <= 1e-6 * largest, "[%zu] is %g, wanted %g", n,
                      (double)mean[n], sum[n] / views);
        away = fmax(away, fabs((double)plain[n] - sum[n] / views));
    }
    ck_assert(away > 0.01 * largest); /* a single view is something else */
    free(sum);
    free(values);
    free(plain);
    free(mean);
}
END_TEST

/* What the networks hold while they run they share; another fold costs its weights alone. */
START_TEST(memory_of_an_ensemble)
{
    noc_engine_options options = options_of(32, 32, 32);
    noc_network_memory memory[2];
    size_t bytes[2];

    for (int i = 0; i < 2; i++) {
        load_folds(true, i == 1, i == 1 ? 7 : 0, NULL);
        noc_engine *engine = open_engine(&options);
        noc_engine_network_memory(engine, &memory[i]);
        bytes[i] = noc_engine_bytes(engine);
        noc_engine_close(engine);
    }
    ck_assert_uint_eq(memory[1].arena, memory[0].arena);
    ck_assert_uint_eq(memory[1].scratch, memory[0].scratch);
    ck_assert_uint_eq(memory[1].weights, 2 * memory[0].weights);
    ck_assert_uint_eq(bytes[1] - bytes[0], memory[0].weights);
}
END_TEST

START_TEST(windows_that_cannot_be_mirrored)
{
    noc_engine_options options = options_of(32, 30, 32);
    noc_engine *engine = NULL;

    load_folds(true, false, 7, NULL);
    ck_assert_int_eq(noc_engine_open(&options, model, &engine, &err), NOC_ECONFIG);
    ck_assert_ptr_nonnull(
        strstr(err.text, "mirroring along y: the network makes 32 voxels of a window of 30"));
    ck_assert_ptr_nonnull(strstr(err.text, "multiple of 4"));
    load_folds(true, true, 0, NULL);
    ck_assert_int_eq(noc_engine_open_stages(&options, model, &engine, &err), NOC_EUSAGE);
    ck_assert_ptr_nonnull(strstr(err.text, "2 networks and 1 flips"));
    ck_assert_ptr_null(engine);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("segmentation");
    TCase *tests = tcase_create("segmentation");
    tcase_add_checked_fixture(tests, make_folds, remove_folds);
    tcase_set_timeout(tests, 300);
    tcase_add_loop_test(tests, logits_of_a_plain_loop, 0, LOOPS);
    tcase_add_loop_test(tests, batches_and_threads, 0, 2);
    tcase_add_test(tests, windows_of_the_host_in_a_batch);
    tcase_add_test(tests, studies_share_batches);
    tcase_add_loop_test(tests, cut_by_memory, 0, 2 * CUTS);
    tcase_add_test(tests, a_failed_batch_run_again);
    tcase_add_test(tests, a_crop);
    tcase_add_loop_test(tests, regions, 0, 3);
    tcase_add_loop_test(tests, probabilities_of_the_logits, 0, 2 * LOOPS);
    tcase_add_loop_test(tests, probabilities_of_a_resampled_volume, 0, 2);
    tcase_add_loop_test(tests, probabilities_outside_a_crop, 0, 2);
    tcase_add_test(tests, painting);
    suite_add_tcase(suite, tests);
    TCase *alone = tcase_create("networks and flips");
    tcase_add_checked_fixture(alone, make_folds, remove_folds);
    tcase_set_timeout(alone, 300);
    tcase_add_loop_test(alone, mean_of_networks_and_flips, 0, ENSEMBLES);
    tcase_add_test(alone, memory_of_an_ensemble);
    tcase_add_test(alone, windows_that_cannot_be_mirrored);
    suite_add_tcase(suite, alone);
    TCase *ensemble = tcase_create("ensemble");
    tcase_add_checked_fixture(ensemble, load_ensemble, remove_folds);
    tcase_set_timeout(ensemble, 300);
    tcase_add_loop_test(ensemble, logits_of_a_plain_loop, 0, 3);
    tcase_add_loop_test(ensemble, logits_of_a_plain_loop, 5, 6);
    suite_add_tcase(suite, ensemble);
    TCase *small = tcase_create("small ensemble");
    tcase_add_checked_fixture(small, load_small_ensemble, remove_folds);
    tcase_set_timeout(small, 300);
    tcase_add_loop_test(small, batches_and_threads, 0, 2);
    tcase_add_test(small, windows_of_the_host_in_a_batch);
    tcase_add_test(small, studies_share_batches);
    tcase_add_loop_test(small, cut_by_memory, 4, CUTS);
    tcase_add_test(small, a_failed_batch_run_again);
    tcase_add_loop_test(small, regions, 1, 2);
    suite_add_tcase(suite, small);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
