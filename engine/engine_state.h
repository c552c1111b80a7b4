/* The engine's inside, shared by engine.c (a model on a device) and segmentation.c (studies in flight). */
#ifndef NOC_ENGINE_STATE_H
#define NOC_ENGINE_STATE_H

#include "engine/engine.h"

enum { FLIPS_MOST = 8 };

struct noc_engine {
    const noc_model *model;
    const noc_device_ops *ops;
    noc_device *device;
    /* One a file of the model's weights. The plans have one shape: `plan` is the first. */
    noc_plan *plans[NOC_MAX_FOLDS];
    noc_network *networks[NOC_MAX_FOLDS];
    const noc_plan *plan;
    /* What a window's logits are the mean of: every network's, of the window flipped in every way. */
    unsigned flips[FLIPS_MOST]; /* as noc_window_input's; the first is none */
    int flip_count;
    int batch;
    int64_t window[3];
    double overlap;
    noc_blend blend;
    bool with_probabilities;
    float *importance;         /* NULL: constant */
    float **inputs;            /* staging, one a window of the batch, [D][H][W][C] */
    noc_window_input *windows; /* of the batch that runs */
    size_t input_floats;       /* of one window */
    size_t logits_floats;      /* of one window on the decoder's grid */
    noc_buffer *logits;        /* of noc_engine_forward */
    double *op_seconds;        /* of all networks */
    double batch_seconds;
    /* Of the batch that runs: windows not computed before, and where the logits of each go. */
    const noc_window_task **left;
    noc_buffer **outputs;
    size_t *offsets; /* in floats */
};

/* What every gather of this engine shares. */
void engine_fill_gather(const noc_engine *engine, noc_gather *gather);

/* Computes the first `count` of e->windows, whose input is there for flip number `flip`, by all networks, and
 * adds the logits to e->outputs; after the last flip they are the mean. Flips come in their order, for as
 * many windows each: a sum runs over flips and networks in one order, whatever the batch. */
noc_status engine_run_networks(noc_engine *engine, int count, int flip, bool is_planar, noc_error *err);
/* Turns window b of the staging from flip number `flip` - 1 to that one. */
void engine_turn_input(noc_engine *engine, int b, int flip, bool is_planar);

#endif
