/* Volumes on the emulated GPU: windows that it cuts have the bits of noc_prepared_cut's, whatever is stored,
 * however it lies and is prepared; in batches with windows of other volumes and of the host; from several
 * threads at once; and without them, where there is no room, masks stay the same. */
#include "engine/engine.h"
#include "tests/emulation/faults.h"
#include "tests/graph_sample.h"
#include "tests/reference_weights.h"

#include <check.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CHANNELS = 2, WINDOWS = 4, WINDOW_D = 6, WINDOW_H = 9, WINDOW_W = 11 };
enum { FLOATS = WINDOW_D * WINDOW_H * WINDOW_W * CHANNELS };

static const noc_device_ops *const ops = &noc_cuda_ops;
static const noc_precision precisions[] = {NOC_PRECISION_F32, NOC_PRECISION_F16, NOC_PRECISION_BF16};
enum { PRECISIONS = sizeof precisions / sizeof precisions[0] };
static const float pad_value = -77.3F;
static noc_error err;

/* ---- scans ---- */

/* Numbers of every size; whole ones, some of them 0, where the type has no others. */
static void fill(void *voxels, noc_voxel_type type, size_t count)
{
    seed_uniform(count + (size_t)type);
    for (size_t i = 0; i < count; i++) {
        double x = uniform(), scale = exp2(8.0 * (double)noc_voxel_size(type) - 1);
        bool is_zero = i % 5 == 0;
        if (type == NOC_VOXEL_F32)
            ((float *)voxels)[i] = is_zero ? 0 : (float)(x * 1e3);
        else if (type == NOC_VOXEL_F64)
            ((double *)voxels)[i] = is_zero ? 0 : x * 1e3;
        else if (noc_voxel_size(type) == 1)
            ((uint8_t *)voxels)[i] = is_zero ? 0 : (uint8_t)(int)(x * scale);
        else if (noc_voxel_size(type) == 2)
            ((uint16_t *)voxels)[i] = is_zero ? 0 : (uint16_t)(int)(x * scale);
        else if (noc_voxel_size(type) == 4)
            ((uint32_t *)voxels)[i] = is_zero ? 0 : (uint32_t)(int64_t)(x * scale);
        else
            ((uint64_t *)voxels)[i] = is_zero ? 0 : (uint64_t)(int64_t)(x * scale);
    }
}

/* File axis j lies along world axis order[j], to the negative side where signs has bit j. */
static noc_image image_of(noc_voxel_type type, int channels, const int64_t size[3], const int order[3],
                          int signs)
{
    noc_image image = {.channels = channels, .type = type, .slope = 0.37, .inter = -12.7};
    size_t count = (size_t)(size[0] * size[1] * size[2]) * (size_t)channels;
    for (int j = 0; j < 3; j++) {
        image.grid.size[j] = size[j];
        image.grid.affine[order[j]][j] = signs >> j & 1 ? -1 : 1;
    }
    image.grid.affine[3][3] = 1;
    image.bytes = count * noc_voxel_size(type);
    image.voxels = malloc(image.bytes);
    fill(image.voxels, type, count);
    return image;
}

static const int64_t small[3] = {23, 17, 13}; /* files of several types, in pieces or less than one */
static const int plain_order[3] = {0, 1, 2};

static noc_prepared *prepared_of(noc_image *images, int count, const noc_step *steps, int step_count)
{
    noc_manifest m = {.name = (char *)"test", .orientation = "RAS", .step_count = step_count};
    noc_prepared *p = NULL;
    m.network.in_channels = CHANNELS;
    for (int i = 0; i < step_count; i++)
        m.steps[i] = steps[i];
    ck_assert_msg(noc_prepare(&m, images, count, &p, &err) == NOC_OK, "%s", err.text);
    return p;
}

/* ---- windows ---- */

/* A network that passes its input on. */
typedef struct rig {
    noc_device *device;
    noc_network *network;
    noc_buffer *buffer;
    graph graph;
} rig;

static void open_rig(rig *r, noc_precision precision)
{
    noc_status status =
        ops->open(&(noc_device_options){.threads = 1, .precision = precision}, &r->device, &err);
    ck_assert_msg(status == NOC_OK, "%s", err.text);
    start_graph(&r->graph, WINDOW_D, WINDOW_H, WINDOW_W, CHANNELS);
    add_like(&r->graph, NOC_OP_ACTIVATION, 0);
    status = ops->network_create(r->device, &r->graph.plan, WINDOWS, NULL, &r->network, &err);
    ck_assert_msg(status == NOC_OK, "%s", err.text);
    ck_assert_int_eq(
        ops->buffer_create(r->device, (size_t)WINDOWS * FLOATS * sizeof(float), &r->buffer, &err), NOC_OK);
}

static void close_rig(rig *r)
{
    ops->buffer_free(r->buffer);
    ops->network_free(r->network);
    ops->close(r->device);
    free_weights(&r->graph);
}

/* What the network got, planar; the windows' values of a channel lie behind each other. */
static void run_windows(const rig *r, const noc_window_input input[], int count, float *out)
{
    noc_buffer *const buffers[WINDOWS] = {r->buffer, r->buffer, r->buffer, r->buffer};
    const size_t offsets[WINDOWS] = {0, FLOATS, (size_t)2 * FLOATS, (size_t)3 * FLOATS};
    ck_assert_msg(ops->network_run(r->network, count, input, false, buffers, offsets, &err) == NOC_OK, "%s",
                  err.text);
    noc_gather_window windows[WINDOWS];
    for (int b = 0; b < count; b++)
        windows[b] = (noc_gather_window){
            .logits = r->buffer, .offset = offsets[b], .start = {(int64_t)b * WINDOW_D, 0, 0}};
    noc_gather g = {.kind = NOC_GATHER_LOGITS, /* one behind the other */
                    .classes = CHANNELS,
                    .grid = {WINDOW_D, WINDOW_H, WINDOW_W},
                    .upsample = {1, 1, 1},
                    .window = {WINDOW_D, WINDOW_H, WINDOW_W},
                    .to = {(int64_t)count * WINDOW_D, WINDOW_H, WINDOW_W},
                    .windows = windows,
                    .window_count = count,
                    .element_bytes = 4,
                    .out = out,
                    .out_step = {WINDOW_H * WINDOW_W, WINDOW_W, 1},
                    .out_class_step = (int64_t)count * WINDOW_D * WINDOW_H * WINDOW_W};
    ck_assert_int_eq(ops->gather(r->device, &g, NULL), NOC_OK);
}

static noc_status upload(const rig *r, const noc_prepared *p, noc_volume **volume)
{
    noc_volume_source source;
    noc_prepared_describe(p, &source);
    source.pad_value = pad_value;
    return ops->volume_create(r->device, &source, volume, &err);
}

/* Windows before, in, across the end of and beyond a volume. */
static void window_start(const noc_prepared *p, int b, int64_t start[3])
{
    int64_t size[3];
    noc_prepared_size(p, size);
    for (int a = 0; a < 3; a++)
        start[a] = b == 0 ? -2 - a : b == 1 ? a : b == 2 ? size[a] - 4 - a : size[a] + 1;
}

/* Window b of the volume, as the host cuts it; newly allocated. */
static float *host_window(const noc_prepared *p, int b)
{
    const int64_t size[3] = {WINDOW_D, WINDOW_H, WINDOW_W};
    int64_t start[3];
    float *window = malloc(FLOATS * sizeof *window);
    window_start(p, b, start);
    noc_prepared_cut(p, start, size, pad_value, window);
    return window;
}

/* In f32 what comes out is what the host cut, bit for bit; in fewer bits the same as of the host's windows.
 */
static void compare(const rig *r, const noc_prepared *p, const noc_volume *volume, const char *what)
{
    float *device = malloc((size_t)WINDOWS * FLOATS * sizeof *device),
          *host = malloc((size_t)WINDOWS * FLOATS * sizeof *host), *cut[WINDOWS];
    noc_window_input here[WINDOWS] = {0}, there[WINDOWS] = {0};
    for (int b = 0; b < WINDOWS; b++) {
        here[b].host = cut[b] = host_window(p, b);
        there[b].volume = volume;
        window_start(p, b, there[b].start);
    }
    run_windows(r, here, WINDOWS, host);
    run_windows(r, there, WINDOWS, device);
    for (size_t i = 0; i < (size_t)WINDOWS * FLOATS; i++)
        ck_assert_msg(memcmp(&device[i], &host[i], sizeof(float)) == 0, "%s: [%zu]: %.9g, host %.9g", what, i,
                      (double)device[i], (double)host[i]);
    for (int b = 0; b < WINDOWS; b++)
        free(cut[b]);
    free(device);
    free(host);
}

/* Takes p. */
static void check_prepared(const rig *r, noc_prepared *p, const char *what)
{
    noc_volume *volume = NULL;
    ck_assert_msg(upload(r, p, &volume) == NOC_OK, "%s", err.text);
    compare(r, p, volume, what);
    ops->volume_free(volume);
    noc_prepared_free(p);
}

static const struct {
    const char *name;
    noc_step steps[3];
    int count;
} preparations[] = {
    {"nothing", {{0}}, 0},
    {"minmax_slices", {{.kind = NOC_STEP_MINMAX_SLICES}}, 1},
    {"zscore", {{.kind = NOC_STEP_ZSCORE}}, 1},
    {"zscore of what is not 0", {{.kind = NOC_STEP_ZSCORE, .mask = NOC_ZSCORE_NONZERO}}, 1},
    {"clip_zscore", {{.kind = NOC_STEP_CLIP_ZSCORE, .low = -40, .high = 60.5, .mean = 3.3, .std = 7.7}}, 1},
    {"crop", {{.kind = NOC_STEP_CROP, .start = {3, 0, 5}, .size = {7, 9, 8}}}, 1},
    {"three",
     {{.kind = NOC_STEP_MINMAX_SLICES},
      {.kind = NOC_STEP_CROP, .start = {2, 1, 3}, .size = {8, 11, 7}},
      {.kind = NOC_STEP_ZSCORE, .mask = NOC_ZSCORE_NONZERO}},
     3},
};
enum { PREPARATIONS = sizeof preparations / sizeof preparations[0] };

static noc_prepared *nth_preparation(noc_image *images, int count, int n)
{
    return prepared_of(images, count, preparations[n].steps, preparations[n].count);
}

START_TEST(types_and_steps)
{
    rig r;
    char what[128];
    open_rig(&r, precisions[_i]);
    for (int type = NOC_VOXEL_U8; type <= NOC_VOXEL_F64; type++)
        for (int i = 0; i < 2; i++) {
            noc_image image = image_of((noc_voxel_type)type, CHANNELS, small, plain_order, 0);
            int n = i == 0 ? type % (PREPARATIONS - 1) : PREPARATIONS - 1;
            if (i == 0)
                image.slope = 1, image.inter = 0; /* what is stored as 0 is 0 */
            snprintf(what, sizeof what, "%s, %s", noc_voxel_name((noc_voxel_type)type), preparations[n].name);
            check_prepared(&r, nth_preparation(&image, 1, n), what);
        }
    close_rig(&r);
}
END_TEST

START_TEST(orientations)
{
    static const int orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    static const int64_t size[3] = {13, 14, 15};
    rig r;
    char what[64];
    open_rig(&r, NOC_PRECISION_F32);
    for (int o = 0; o < 6; o++)
        for (int i = 0; i < 2; i++) {
            int signs = i == 0 ? o : 7 - o; /* each axis either way with each order */
            noc_image image = image_of(NOC_VOXEL_I16, CHANNELS, size, orders[o], signs);
            snprintf(what, sizeof what, "order %d, signs %d", o, signs);
            check_prepared(&r, nth_preparation(&image, 1, PREPARATIONS - 1), what);
        }
    close_rig(&r);
}
END_TEST

/* A file for each channel, of its own type and scale; and many pieces, the last one odd. */
START_TEST(files_and_pieces)
{
    static const int64_t large[3] = {61, 43, 29};
    rig r;
    open_rig(&r, NOC_PRECISION_F16);
    noc_image images[CHANNELS] = {image_of(NOC_VOXEL_U8, 1, large, plain_order, 5),
                                  image_of(NOC_VOXEL_F64, 1, large, plain_order, 5)};
    images[1].slope = 3;
    check_prepared(&r, nth_preparation(images, CHANNELS, PREPARATIONS - 1), "two files");
    close_rig(&r);
}
END_TEST

/* A window of the host, [D][H][W][C], reversed along axes. */
static float *flipped(const float *window, unsigned flips)
{
    float *out = malloc(FLOATS * sizeof *out), *next = out;
    for (int d = 0; d < WINDOW_D; d++)
        for (int h = 0; h < WINDOW_H; h++)
            for (int w = 0; w < WINDOW_W; w++, next += CHANNELS) {
                int from_d = flips & 1 ? WINDOW_D - 1 - d : d, from_h = flips & 2 ? WINDOW_H - 1 - h : h,
                    from_w = flips & 4 ? WINDOW_W - 1 - w : w;
                memcpy(next, window + ((from_d * WINDOW_H + from_h) * WINDOW_W + from_w) * CHANNELS,
                       CHANNELS * sizeof *next);
            }
    return out;
}

/* The network passes on what it sees, so that turned back it is the window: of one flipped here, and of one
 * that the device flips. Then sums of three, and their mean. */
START_TEST(flips)
{
    rig r;
    noc_volume *volume = NULL;
    float *cut[WINDOWS], *turned[WINDOWS], *plain = malloc((size_t)WINDOWS * FLOATS * sizeof *plain),
                                           *out = malloc((size_t)WINDOWS * FLOATS * sizeof *out);
    open_rig(&r, precisions[_i]);
    noc_image image = image_of(NOC_VOXEL_I16, CHANNELS, small, plain_order, 3);
    noc_prepared *p = nth_preparation(&image, 1, 2);
    ck_assert_int_eq(upload(&r, p, &volume), NOC_OK);
    for (unsigned half = 0; half < 2; half++) {
        noc_window_input as_it_is[WINDOWS] = {0}, here[WINDOWS] = {0}, there[WINDOWS] = {0};
        for (int b = 0; b < WINDOWS; b++) {
            const unsigned bits = 4 * half + (unsigned)b;
            cut[b] = host_window(p, b);
            turned[b] = flipped(cut[b], bits);
            as_it_is[b].host = cut[b];
            here[b] = (noc_window_input){.host = turned[b], .flips = bits};
            there[b] = (noc_window_input){.volume = volume, .flips = bits};
            window_start(p, b, there[b].start);
        }
        run_windows(&r, as_it_is, WINDOWS, plain);
        run_windows(&r, here, WINDOWS, out);
        ck_assert_mem_eq(out, plain, (size_t)WINDOWS * FLOATS * sizeof *out);
        run_windows(&r, there, WINDOWS, out);
        ck_assert_mem_eq(out, plain, (size_t)WINDOWS * FLOATS * sizeof *out);
        for (int b = 0; b < WINDOWS; b++)
            here[b].is_added = there[b].is_added = true, there[b].mean_of = 3;
        run_windows(&r, here, WINDOWS, out);
        run_windows(&r, there, WINDOWS, out);
        for (size_t i = 0; i < (size_t)WINDOWS * FLOATS; i++) {
            const float two = plain[i] + plain[i], three = two + plain[i];
            ck_assert_msg(out[i] == three / 3, "[%zu]: %.9g of %.9g", i, (double)out[i], (double)plain[i]);
        }
        for (int b = 0; b < WINDOWS; b++) {
            free(cut[b]);
            free(turned[b]);
        }
    }
    free(plain);
    free(out);
    ops->volume_free(volume);
    noc_prepared_free(p);
    close_rig(&r);
}
END_TEST

/* Windows of two volumes and of the host in a batch, each in the place of another before. */
START_TEST(several_volumes)
{
    static const int64_t other[3] = {9, 30, 12};
    rig r;
    noc_volume *volumes[2];
    float *cut[2], *host = malloc((size_t)WINDOWS * FLOATS * sizeof *host),
                   *mixed = malloc((size_t)WINDOWS * FLOATS * sizeof *mixed);
    open_rig(&r, NOC_PRECISION_BF16);
    noc_image images[2] = {image_of(NOC_VOXEL_I16, CHANNELS, small, plain_order, 1),
                           image_of(NOC_VOXEL_U8, CHANNELS, other, plain_order, 0)};
    noc_prepared *prepared[2] = {nth_preparation(&images[0], 1, 2), nth_preparation(&images[1], 1, 1)};
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(upload(&r, prepared[i], &volumes[i]), NOC_OK);
        cut[i] = host_window(prepared[i], 1 + i);
    }
    noc_window_input plain[WINDOWS] = {
        {.host = cut[0]}, {.host = cut[1]}, {.host = cut[1]}, {.host = cut[0]}};
    noc_window_input input[WINDOWS] = {
        {.volume = volumes[0]}, {.volume = volumes[1]}, {.host = cut[1]}, {.volume = volumes[0]}};
    for (int b = 0; b < WINDOWS; b++)
        window_start(prepared[b == 1], 1 + (b == 1), input[b].start);
    run_windows(&r, plain, WINDOWS, host);
    run_windows(&r, input, WINDOWS, mixed);
    ck_assert_mem_eq(mixed, host, (size_t)WINDOWS * FLOATS * sizeof *host);
    for (int i = 0; i < 2; i++) {
        ops->volume_free(volumes[i]);
        noc_prepared_free(prepared[i]);
        free(cut[i]);
    }
    free(host);
    free(mixed);
    close_rig(&r);
}
END_TEST

/* ---- threads ---- */

typedef struct reader {
    const rig *rig;
    int number;
} reader;

static void *read_and_drop(void *argument)
{
    const reader *here = argument;
    for (int i = 0; i < 4; i++) {
        noc_volume *volume = NULL;
        noc_image image = image_of(NOC_VOXEL_I16, CHANNELS, small, plain_order, here->number);
        noc_prepared *p = nth_preparation(&image, 1, 1);
        if (upload(here->rig, p, &volume) == NOC_OK)
            noc_prepared_attach(p, here->rig->device, volume, ops->volume_free);
        ck_assert(noc_prepared_volume(p, here->rig->device) == volume && volume);
        ck_assert_ptr_null(noc_prepared_volume(p, NULL)); /* of another device */
        noc_prepared_free(p);
    }
    return NULL;
}

/* Two readers ahead of the thread that computes. */
START_TEST(threads)
{
    enum { READERS = 2 };
    rig r;
    pthread_t thread[READERS];
    reader readers[READERS];
    noc_volume *volume;
    open_rig(&r, NOC_PRECISION_F32);
    noc_image image = image_of(NOC_VOXEL_U16, CHANNELS, small, plain_order, 0);
    noc_prepared *p = nth_preparation(&image, 1, 4);
    ck_assert_int_eq(upload(&r, p, &volume), NOC_OK);
    for (int i = 0; i < READERS; i++) {
        readers[i] = (reader){&r, i};
        ck_assert_int_eq(pthread_create(&thread[i], NULL, read_and_drop, &readers[i]), 0);
    }
    for (int i = 0; i < 3; i++)
        compare(&r, p, volume, "beside readers");
    for (int i = 0; i < READERS; i++)
        pthread_join(thread[i], NULL);
    ops->volume_free(volume);
    noc_prepared_free(p);
    close_rig(&r);
}
END_TEST

/* ---- want of memory, and failures ---- */

START_TEST(no_room)
{
    rig r;
    noc_volume *volume = NULL;
    open_rig(&r, NOC_PRECISION_F32);
    noc_image image = image_of(NOC_VOXEL_U8, CHANNELS, (const int64_t[3]){64, 64, 120}, plain_order, 0);
    noc_prepared *p = nth_preparation(&image, 1, 0); /* 3.75 MiB on the device */
    setenv("EMU_MEMORY", "4096", 1);
    ck_assert_int_eq(upload(&r, p, &volume), NOC_ENOMEMORY); /* an eighth would not be left */
    setenv("EMU_MEMORY", "6144", 1);
    ck_assert_msg(upload(&r, p, &volume) == NOC_OK, "%s", err.text);
    unsetenv("EMU_MEMORY");
    ops->volume_free(volume);
    noc_prepared_free(p);
    close_rig(&r);
}
END_TEST

/* While the emulated runtime fails once as planned: the volume is refused, the next one is all right. */
static void survive(void)
{
    rig r;
    noc_volume *volume = NULL;
    open_rig(&r, NOC_PRECISION_F16);
    noc_image image = image_of(NOC_VOXEL_I32, CHANNELS, small, plain_order, 0);
    noc_prepared *p = nth_preparation(&image, 1, 1);
    ck_assert_int_ne(upload(&r, p, &volume), NOC_OK);
    ck_assert_ptr_null(volume);
    check_prepared(&r, p, "after a failure");
    close_rig(&r);
}

/* The block of a study that is gone serves a smaller one; the next has none and cannot get one. */
static void reuse(void)
{
    rig r;
    noc_volume *volume, *second = NULL;
    open_rig(&r, NOC_PRECISION_F16);
    noc_image images[2] = {image_of(NOC_VOXEL_I32, CHANNELS, small, plain_order, 0),
                           image_of(NOC_VOXEL_U8, CHANNELS, (const int64_t[3]){5, 6, 7}, plain_order, 0)};
    noc_prepared *p = nth_preparation(&images[0], 1, 0), *q = nth_preparation(&images[1], 1, 3);
    ck_assert_int_eq(upload(&r, p, &volume), NOC_OK);
    compare(&r, p, volume, "first");
    ops->volume_free(volume);
    ck_assert_int_eq(upload(&r, q, &volume), NOC_OK);
    ck_assert_int_eq(upload(&r, p, &second), NOC_ENOMEMORY);
    compare(&r, q, volume, "second");
    ops->volume_free(volume);
    noc_prepared_free(p);
    noc_prepared_free(q);
    close_rig(&r);
}

/* In a process of its own, which a failure may leave anyhow. */
static void check_plan(void (*test)(void), const char *call, int number, int error)
{
    char plan[64];
    int how = 0;
    snprintf(plan, sizeof plan, "%s:%d:%d", call, number, error);
    fflush(NULL);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        emu_fail(plan);
        test();
        _exit(0);
    }
    ck_assert_int_eq(waitpid(child, &how, 0), child);
    ck_assert_msg(WIFEXITED(how) && WEXITSTATUS(how) == 0, "%s: %d", plan, how);
}

/* Calls of the device and network before those of the first volume, by name. */
START_TEST(failures)
{
    enum { NO_MEMORY = 2, LAUNCH = 719, OF_RIG = 6 /* calls of cudaMalloc */ };
    check_plan(survive, "cudaMemGetInfo", 1, LAUNCH);
    for (int i = 1; i <= 2; i++) /* the block, the piece */
        check_plan(survive, "cudaMalloc", OF_RIG + i, NO_MEMORY);
    for (int i = 2; i <= 3; i++)
        check_plan(survive, "cudaMallocHost", i, NO_MEMORY);
    for (int i = 1; i <= 5; i++) /* padding, two tables, pieces */
        check_plan(survive, "cudaMemcpyAsync", i, LAUNCH);
    for (int i = 1; i <= 3; i++)
        check_plan(survive, "cudaLaunchKernelEx", i, LAUNCH);
    check_plan(survive, "cudaStreamSynchronize", 1, LAUNCH);
    check_plan(reuse, "cudaMalloc", OF_RIG + 5, NO_MEMORY); /* after block, piece and two of gathers */
}
END_TEST

/* ---- masks ---- */

/* Two studies in shared batches. */
static void segment(noc_engine *engine, noc_prepared *const prepared[2], noc_segmentation_result result[2])
{
    noc_segmentation *s[2];
    noc_window_task tasks[3];
    int count;
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(noc_segmentation_create(engine, prepared[i], 0, &s[i], &err), NOC_OK);
    do {
        count = 0;
        for (int turn = 0; turn < 6 && count < 3; turn++)
            count += noc_segmentation_next(s[turn % 2], &tasks[count]);
        ck_assert_msg(noc_engine_run(engine, tasks, count, &err) == NOC_OK, "%s", err.text);
    } while (count > 0);
    for (int i = 0; i < 2; i++) {
        ck_assert(noc_segmentation_is_done(s[i]));
        noc_segmentation_take(s[i], &result[i]);
        noc_segmentation_free(s[i]);
    }
}

/* A model of the tiny network and of one with random weights, in a folder of its own. */
static noc_model *load_pair(unsigned mirror)
{
    char folder[] = "/tmp/nocturne-pair-XXXXXX", path[64], other[64], line[512], first[300];
    noc_model *model = NULL;
    FILE *from = fopen("tests/data/models/tiny/model.yaml", "r");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/model.yaml", folder);
    snprintf(other, sizeof other, "%s/w.safetensors", folder);
    FILE *to = fopen(path, "w");
    ck_assert(from && to && realpath("tests/data/golden/tiny_weights.safetensors", first));
    while (fgets(line, sizeof line, from))
        if (strncmp(line, "weights:", 8) == 0)
            fprintf(to, "weights: [%s, w.safetensors]\n", first);
        else
            fputs(line, to);
    fclose(from);
    ck_assert_int_eq(fclose(to), 0);
    ck_assert_int_eq(noc_model_load("tests/data/models/tiny", &model, &err), NOC_OK);
    ck_assert_int_eq(reference_weights_write(other, &model->manifest->network, 0, "", 3, &err), NOC_OK);
    noc_model_free(model);
    ck_assert_msg(noc_model_load(folder, &model, &err) == NOC_OK, "%s", err.text);
    ck_assert_int_eq(noc_model_mirror(model, mirror, &err), NOC_OK);
    unlink(other);
    unlink(path);
    rmdir(folder);
    return model;
}

static const noc_precision of_masks[] = {NOC_PRECISION_F16, NOC_PRECISION_F16, NOC_PRECISION_F32};

/* Uploaded, one of the two uploaded, and none: the same masks. Of one network, and of two with flips. */
START_TEST(masks)
{
    static const int64_t sizes[2][3] = {{36, 20, 33}, {21, 40, 18}};
    noc_model *model = NULL;
    noc_engine *engine = NULL;
    noc_engine_options options = NOC_ENGINE_DEFAULTS;
    noc_prepared *prepared[2];
    noc_segmentation_result result[3][2];
    if (_i > 0)
        model = load_pair(_i == 1 ? 4 : 1);
    else
        ck_assert_msg(noc_model_load("tests/data/models/tiny", &model, &err) == NOC_OK, "%s", err.text);
    options.device = "cuda";
    options.host.threads = 1;
    options.host.precision = of_masks[_i];
    options.batch = 3;
    for (int a = 0; a < 3; a++)
        options.window[a] = 24;
    ck_assert_msg(noc_engine_open(&options, model, &engine, &err) == NOC_OK, "%s", err.text);
    for (int i = 0; i < 2; i++) {
        noc_image image = image_of(NOC_VOXEL_I16, CHANNELS, sizes[i], plain_order, i);
        prepared[i] = nth_preparation(&image, 1, 2);
    }
    for (int uploaded = 0; uploaded <= 2; uploaded++) {
        if (uploaded > 0)
            ck_assert_int_eq(noc_engine_upload(engine, prepared[uploaded - 1], &err), NOC_OK);
        segment(engine, prepared, result[uploaded]);
        for (int i = 0; i < 2; i++)
            ck_assert_mem_eq(result[uploaded][i].voxels, result[0][i].voxels, result[0][i].bytes);
    }
    for (int i = 0; i < 2; i++) {
        ck_assert_ptr_nonnull(memchr(result[0][i].voxels, 1, result[0][i].bytes));
        for (int uploaded = 0; uploaded <= 2; uploaded++)
            free(result[uploaded][i].voxels);
        noc_prepared_free(prepared[i]);
    }
    noc_engine_close(engine);
    noc_model_free(model);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda_volume");
    TCase *tests = tcase_create("cuda_volume");
    tcase_set_timeout(tests, 300);
    tcase_add_test(tests, failures); /* first: before the emulated runtime has read that nothing is planned */
    tcase_add_loop_test(tests, types_and_steps, 0, PRECISIONS);
    tcase_add_test(tests, orientations);
    tcase_add_test(tests, files_and_pieces);
    tcase_add_test(tests, several_volumes);
    tcase_add_test(tests, threads);
    tcase_add_test(tests, no_room);
    tcase_add_loop_test(tests, masks, 0, 3);
    suite_add_tcase(suite, tests);
    TCase *turned = tcase_create("cuda_volume flips");
    tcase_set_timeout(turned, 300);
    tcase_add_loop_test(turned, flips, 0, PRECISIONS);
    suite_add_tcase(suite, turned);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
