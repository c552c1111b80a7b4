/* The engine: a model on a device. What a model says of a window is the mean of the logits of all its
 * networks, of the window flipped in every way that window.mirror asks for. Studies are segmentations in
 * flight; a batch may hold windows of several of them.
 *
 *   noc_engine_open(&options, model, &engine, err);
 *   noc_segmentation_create(engine, prepared, memory, &segmentation, err);      any number of them
 *   while (noc_segmentation_next(segmentation, &task)) tasks[n++] = task;       up to
 * noc_engine_batch(engine) noc_engine_run(engine, tasks, n, err);
 *   ... until noc_segmentation_is_done: the mask is noc_segmentation_take's.
 *
 * Logits of a window stay on the decoder's grid; as soon as no later window can touch rows of the volume they
 * are gathered into labels, straight into the input file's voxel order. Masks do not depend on batch,
 * threads, tiles or neighbours in a batch. One thread calls the engine, but for noc_engine_upload. */
#ifndef NOC_ENGINE_H
#define NOC_ENGINE_H

#include "engine/device.h"
#include "engine/model.h"
#include "engine/prepare.h"
#include "engine/window.h"

typedef struct noc_engine noc_engine;
typedef struct noc_segmentation noc_segmentation;

typedef struct noc_engine_options {
    const char *device;      /* "cpu", "cuda:1", "auto" */
    noc_device_options host; /* threads, precision, isa, process; index is taken from `device` */
    int batch;               /* 0: the device's default; fewer where its memory is not enough */
    int64_t window[3];       /* 0: the manifest's */
    double overlap;          /* negative: the manifest's */
    int blend;               /* negative: the manifest's, else noc_blend */
    unsigned rewrites;       /* NOC_REWRITE_ALL outside tests */
    bool with_probabilities; /* of segmentations, beside their masks */
} noc_engine_options;

#define NOC_ENGINE_DEFAULTS                                                                                  \
    {                                                                                                        \
        .device = "auto", .overlap = -1, .blend = -1, .rewrites = NOC_REWRITE_ALL                            \
    }

/* What an engine opened with these options computes in. */
noc_status noc_engine_precision(const noc_engine_options *options, noc_precision *precision, noc_error *err);
/* The model must outlive the engine. */
noc_status noc_engine_open(const noc_engine_options *options, const noc_model *model, noc_engine **engine,
                           noc_error *err);
void noc_engine_close(noc_engine *engine);

const noc_model *noc_engine_model(const noc_engine *engine);
void noc_engine_describe(const noc_engine *engine, noc_device_info *info);
int noc_engine_batch(const noc_engine *engine);
/* Classes (background included) or regions whose probabilities its segmentations make; 0: none. */
int noc_engine_probabilities(const noc_engine *engine);
/* Of host memory: staging, importance, and what the network has there. */
size_t noc_engine_bytes(const noc_engine *engine);
/* What is in force after defaults. */
void noc_engine_window(const noc_engine *engine, int64_t window[3], double *overlap, noc_blend *blend);
/* Of one network; all have its shape. */
const noc_plan *noc_engine_plan(const noc_engine *engine);

/* Up to noc_engine_batch windows in host memory, behind each other: input [C][D][H][W] f32 of the engine's
 * window size -> logits [K][D'][H'][W'] of the network's own output size (grid * upsample), both full size.
 */
noc_status noc_engine_forward(noc_engine *engine, int count, const float *input, float *logits,
                              noc_error *err);

/* As noc_engine_open, with c1..c4 kept, to be read after noc_engine_forward. NOC_EUSAGE for a model of
 * several networks or flips, each of which has its own. */
noc_status noc_engine_open_stages(const noc_engine_options *options, const noc_model *model,
                                  noc_engine **engine, noc_error *err);
/* What the network holds, of host memory and the device's. */
void noc_engine_network_memory(const noc_engine *engine, noc_network_memory *memory);
/* What the device can do at most: takes about half a second. */
noc_status noc_engine_limits(const noc_engine *engine, noc_device_limits *limits, noc_error *err);
/* Seconds of each op of the plan in all networks so far, as noc_device_ops.network_seconds says; the numbers
 * are the engine's, made anew by each call. */
const double *noc_engine_seconds(noc_engine *engine);
/* Seconds of the last batch on the device, all networks and flips, as noc_device_ops.batch_seconds says. */
double noc_engine_batch_seconds(const noc_engine *engine);
noc_status noc_engine_read_stage(noc_engine *engine, int stage, float *out, noc_error *err); /* stage 0..3 */

/* What a segmentation makes. */
typedef struct noc_segmentation_result {
    noc_gather_kind kind;
    int element_bytes; /* LABELS: 1 (2 above 255 labels); REGIONS: 1, 2 or 4 */
    void *voxels;      /* input file's voxel order, i fastest; owned by the caller */
    size_t bytes;
    /* f16 of the logits that made the mask, noc_engine_probabilities planes of the voxels' order behind each
     * other: LABELS: softmax, outside a crop 1 of class 0; REGIONS: a sigmoid each, there 0. Owned by the
     * caller; NULL: not asked for. */
    uint16_t *probabilities;
} noc_segmentation_result;

/* Puts the volume on the engine's device, if it is one that cuts windows itself; without that, and whenever
 * it fails, windows are cut by the host, with the same bits. Any thread may call it ahead of the study's
 * turn. The copy is freed with `prepared`, which is freed before the engine is closed. */
noc_status noc_engine_upload(const noc_engine *engine, noc_prepared *prepared, noc_error *err);

/* Bytes of host memory that a segmentation of a volume of that size needs besides the prepared image: pending
 * logits (unless the device keeps them) and the output (grid_voxels elements, and as many probabilities a
 * class). Where that does not fit into
 * `memory` (0: no limit), its output is cut in tiles so that the fewest windows are computed again.
 * NOC_ETOOLARGE when it cannot be cut to fit. */
noc_status noc_segmentation_bytes(const noc_engine *engine, const int64_t size[3], size_t grid_voxels,
                                  size_t memory, size_t *bytes, noc_error *err);

/* The prepared volume must outlive the segmentation. memory: as above. The output's background (outside a
 * crop) is 0. */
noc_status noc_segmentation_create(noc_engine *engine, const noc_prepared *prepared, size_t memory,
                                   noc_segmentation **segmentation, noc_error *err);
/* The same with blended logits [K][D][H][W] f32 of the prepared volume as result. */
noc_status noc_segmentation_create_logits(noc_engine *engine, const noc_prepared *prepared,
                                          noc_segmentation **segmentation, noc_error *err);
void noc_segmentation_free(noc_segmentation *segmentation);

typedef struct noc_window_task {
    noc_segmentation *segmentation;
    int64_t number; /* counts from 0 in the order the segmentation asks for them */
} noc_window_task;

int64_t noc_segmentation_windows(
    const noc_segmentation *segmentation); /* tasks in all, repeats at tile borders included */
int64_t noc_segmentation_windows_done(const noc_segmentation *segmentation);
/* False when every window was handed out. */
bool noc_segmentation_next(noc_segmentation *segmentation, noc_window_task *task);
/* Computes up to noc_engine_batch tasks and gathers what became complete. On failure none of the tasks counts
 * as done and they may be run again. Windows are run in the order in which they were handed out; the room for
 * them is made with the segmentation, and running allocates nothing. */
noc_status noc_engine_run(noc_engine *engine, const noc_window_task *tasks, int count, noc_error *err);
bool noc_segmentation_is_done(const noc_segmentation *segmentation);
/* Moves the result out; only when done. */
void noc_segmentation_take(noc_segmentation *segmentation, noc_segmentation_result *result);

/* A scan of its own from images to result (infer, forward --sliding, tests). */
noc_status noc_engine_segment(noc_engine *engine, const noc_prepared *prepared, size_t memory,
                              noc_segmentation_result *result, noc_error *err);

/* Region bits -> label map: paints of the manifest in order. bits: element_bytes each; labels: u8. */
void noc_regions_paint(const noc_manifest *manifest, const void *bits, int element_bytes, size_t count,
                       unsigned char *labels);

#endif
