/* The engine's inside, shared by engine.c (a model on a device) and segmentation.c (studies in flight). */
#ifndef NOC_ENGINE_STATE_H
#define NOC_ENGINE_STATE_H

#include "engine/engine.h"

struct noc_engine {
    const noc_model *model;
    const noc_device_ops *ops;
    noc_device *device;
    noc_plan *plan;
    noc_network *network;
    int batch;
    int64_t window[3];
    double overlap;
    noc_blend blend;
    float *importance;         /* NULL: constant */
    float **inputs;            /* staging, one a window of the batch, [D][H][W][C] */
    noc_window_input *windows; /* of the batch that runs */
    size_t input_floats;       /* of one window */
    size_t logits_floats;      /* of one window on the decoder's grid */
    noc_buffer *logits;        /* of noc_engine_forward */
    /* Of the batch that runs: windows not computed before, and where the logits of each go. */
    const noc_window_task **left;
    noc_buffer **outputs;
    size_t *offsets; /* in floats */
};

/* What every gather of this engine shares. */
void engine_fill_gather(const noc_engine *engine, noc_gather *gather);

#endif
