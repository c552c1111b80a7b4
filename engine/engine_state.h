/* The engine's inside, shared by engine.c (a model on a device) and segmentation.c (studies in flight). */
#ifndef NOC_ENGINE_STATE_H
#define NOC_ENGINE_STATE_H

#include "engine/engine.h"

typedef struct spare_buffer {
    struct spare_buffer *next;
    noc_buffer *buffer;
} spare_buffer;

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
    float *importance;    /* NULL: constant */
    float **inputs;       /* staging, one a window of the batch, [D][H][W][C] */
    size_t input_floats;  /* of one window */
    size_t logits_floats; /* of one window on the decoder's grid */
    noc_buffer *logits;   /* of noc_engine_forward */
    spare_buffer *spare;  /* logits buffers for reuse */
    int spare_count;
};

/* A buffer for one window's logits; give it back after use. */
noc_status engine_take_buffer(noc_engine *engine, noc_buffer **buffer, noc_error *err);
void engine_give_buffer(noc_engine *engine, noc_buffer *buffer);

/* What every gather of this engine shares. */
void engine_fill_gather(const noc_engine *engine, noc_gather *gather);

#endif
