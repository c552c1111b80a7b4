/* A model on a device: the plan of one window size, the network, staging and importance map. */
#include "engine/engine_state.h"

#include "engine/base/log.h"
#include "engine/base/memory.h"

#include <stdlib.h>
#include <string.h>

static noc_status open_device(noc_engine *e, const noc_engine_options *options, noc_error *err)
{
    noc_device_options host = options->host;
    noc_status status = noc_device_find(options->device, &e->ops, &host.index, err);
    return status == NOC_OK ? e->ops->open(&host, &e->device, err) : status;
}

static void choose_window(noc_engine *e, const noc_engine_options *options)
{
    const noc_manifest *m = e->model->manifest;
    for (int a = 0; a < 3; a++)
        e->window[a] = options->window[a] > 0 ? options->window[a] : m->window[a];
    e->overlap = options->overlap >= 0 ? options->overlap : m->overlap;
    e->blend = options->blend >= 0 ? (noc_blend)options->blend : m->blend;
}

static size_t grid_floats(const noc_value *value)
{
    return (size_t)value->grid[0] * (size_t)value->grid[1] * (size_t)value->grid[2] * (size_t)value->channels;
}

static noc_status make_staging(noc_engine *e, noc_error *err)
{
    e->input_floats = grid_floats(&e->plan->values[0]);
    e->logits_floats = grid_floats(&e->plan->values[e->plan->logits]);
    e->inputs = noc_alloc_zeroed((size_t)e->batch, sizeof *e->inputs, err);
    e->windows = noc_alloc((size_t)e->batch, sizeof *e->windows, err);
    e->left = noc_alloc((size_t)e->batch, sizeof *e->left, err);
    e->outputs = noc_alloc((size_t)e->batch, sizeof *e->outputs, err);
    e->offsets = noc_alloc((size_t)e->batch, sizeof *e->offsets, err);
    if (!e->inputs || !e->windows || !e->left || !e->outputs || !e->offsets)
        return NOC_ENOMEMORY;
    for (int b = 0; b < e->batch; b++)
        if (!(e->inputs[b] = noc_alloc(e->input_floats, sizeof(float), err)))
            return NOC_ENOMEMORY;
    return noc_importance_create(e->window, e->blend, &e->importance, err);
}

/* The batch is halved until the device has memory for it. */
static noc_status make_network(noc_engine *e, int batch, noc_error *err)
{
    int wanted = batch > 0 ? batch : e->ops->default_batch(e->device, e->plan);
    e->batch = wanted;
    noc_status status = e->ops->network_create(e->device, e->plan, e->batch, &e->network, err);
    while (status == NOC_ENOMEMORY && e->batch > 1) {
        e->batch /= 2;
        status = e->ops->network_create(e->device, e->plan, e->batch, &e->network, err);
    }
    if (status == NOC_OK && e->batch < wanted)
        noc_log(NOC_LOG_WARN, "the device has memory for %d windows at once, not for %d", e->batch, wanted);
    return status;
}

/* Overlap and window are checked before a study has to. */
static noc_status check_windows(const noc_engine *e, noc_error *err)
{
    noc_windows windows;
    return noc_windows_plan(e->window, e->window, e->overlap, &windows, err);
}

static noc_status open_engine(const noc_engine_options *options, const noc_model *model, bool keep_stages,
                              noc_engine **engine, noc_error *err)
{
    noc_engine *e = noc_alloc_zeroed(1, sizeof *e, err);
    if (!e)
        return NOC_ENOMEMORY;
    e->model = model;
    choose_window(e, options);
    noc_status status = check_windows(e, err);
    if (status == NOC_OK)
        status = open_device(e, options, err);
    if (status == NOC_OK)
        status = noc_model_plan(model, e->window, options->rewrites, keep_stages, &e->plan, err);
    if (status == NOC_OK)
        status = make_network(e, options->batch, err);
    if (status == NOC_OK)
        status = make_staging(e, err);
    if (status != NOC_OK) {
        noc_engine_close(e);
        return status;
    }
    *engine = e;
    return NOC_OK;
}

noc_status noc_engine_precision(const noc_engine_options *options, noc_precision *precision, noc_error *err)
{
    const noc_device_ops *ops;
    noc_device_options host = options->host;
    noc_status status = noc_device_find(options->device, &ops, &host.index, err);
    if (status == NOC_OK)
        *precision = ops->precision ? ops->precision(&host) : NOC_PRECISION_F32;
    return status;
}

noc_status noc_engine_open(const noc_engine_options *options, const noc_model *model, noc_engine **engine,
                           noc_error *err)
{
    return open_engine(options, model, false, engine, err);
}

noc_status noc_engine_open_stages(const noc_engine_options *options, const noc_model *model,
                                  noc_engine **engine, noc_error *err)
{
    return open_engine(options, model, true, engine, err);
}

void noc_engine_close(noc_engine *engine)
{
    if (!engine)
        return;
    if (engine->logits)
        engine->ops->buffer_free(engine->logits);
    if (engine->network)
        engine->ops->network_free(engine->network);
    if (engine->device)
        engine->ops->close(engine->device);
    for (int b = 0; engine->inputs && b < engine->batch; b++)
        free(engine->inputs[b]);
    free(engine->inputs);
    free(engine->windows);
    free(engine->left);
    free(engine->outputs);
    free(engine->offsets);
    free(engine->importance);
    noc_plan_free(engine->plan);
    free(engine);
}

const noc_model *noc_engine_model(const noc_engine *engine)
{
    return engine->model;
}

void noc_engine_describe(const noc_engine *engine, noc_device_info *info)
{
    engine->ops->describe(engine->device, info);
}

int noc_engine_batch(const noc_engine *engine)
{
    return engine->batch;
}

size_t noc_engine_bytes(const noc_engine *engine)
{
    size_t voxels = (size_t)(engine->window[0] * engine->window[1] * engine->window[2]);
    noc_network_memory m;
    engine->ops->network_memory(engine->network, &m);
    return m.weights + m.arena + m.scratch - m.device + (engine->importance ? voxels * sizeof(float) : 0) +
           (size_t)engine->batch * engine->input_floats * sizeof(float);
}

void noc_engine_window(const noc_engine *engine, int64_t window[3], double *overlap, noc_blend *blend)
{
    memcpy(window, engine->window, sizeof engine->window);
    *overlap = engine->overlap;
    *blend = engine->blend;
}

const noc_plan *noc_engine_plan(const noc_engine *engine)
{
    return engine->plan;
}

void engine_fill_gather(const noc_engine *engine, noc_gather *gather)
{
    const noc_value *logits = &engine->plan->values[engine->plan->logits];
    gather->classes = logits->channels;
    memcpy(gather->grid, logits->grid, sizeof gather->grid);
    memcpy(gather->upsample, engine->plan->upsample, sizeof gather->upsample);
    memcpy(gather->window, engine->window, sizeof gather->window);
    gather->importance = engine->importance;
}

noc_status noc_engine_upload(const noc_engine *engine, noc_prepared *prepared, noc_error *err)
{
    noc_volume_source source;
    noc_volume *volume;
    if (!engine->ops->volume_create)
        return NOC_OK;
    noc_prepared_describe(prepared, &source);
    source.pad_value = (float)engine->model->manifest->pad_value;
    noc_status status = engine->ops->volume_create(engine->device, &source, &volume, err);
    if (status == NOC_OK)
        noc_prepared_attach(prepared, engine->device, volume, engine->ops->volume_free);
    return status;
}

/* ---- windows of the host ---- */

/* The network's own output: every voxel of grid x upsample, from window b of that size. *logits moves past
 * it. */
static noc_status gather_all(noc_engine *engine, int b, float **logits, noc_error *err)
{
    noc_gather_window window = {.logits = engine->logits, .offset = engine->offsets[b]};
    noc_gather gather = {
        .kind = NOC_GATHER_LOGITS, .windows = &window, .window_count = 1, .element_bytes = 4, .out = *logits};
    engine_fill_gather(engine, &gather);
    gather.importance = NULL;
    for (int a = 0; a < 3; a++)
        gather.to[a] = gather.window[a] = (int64_t)gather.grid[a] * gather.upsample[a];
    gather.out_step[2] = 1;
    gather.out_step[1] = gather.to[2];
    gather.out_step[0] = gather.to[1] * gather.to[2];
    gather.out_class_step = gather.to[0] * gather.out_step[0];
    *logits += gather.classes * gather.out_class_step;
    return engine->ops->gather(engine->device, &gather, err);
}

noc_status noc_engine_forward(noc_engine *engine, int count, const float *input, float *logits,
                              noc_error *err)
{
    noc_status status = NOC_OK;
    if (!engine->logits)
        status = engine->ops->buffer_create(engine->device,
                                            (size_t)engine->batch * engine->logits_floats * sizeof(float),
                                            &engine->logits, err);
    for (int b = 0; status == NOC_OK && b < count; b++) {
        engine->windows[b] = (noc_window_input){.host = input + (size_t)b * engine->input_floats};
        engine->outputs[b] = engine->logits;
        engine->offsets[b] = (size_t)b * engine->logits_floats;
    }
    if (status == NOC_OK)
        status = engine->ops->network_run(engine->network, count, engine->windows, true, engine->outputs,
                                          engine->offsets, err);
    for (int b = 0; status == NOC_OK && b < count; b++)
        status = gather_all(engine, b, &logits, err);
    return status;
}

void noc_engine_network_memory(const noc_engine *engine, noc_network_memory *memory)
{
    engine->ops->network_memory(engine->network, memory);
}

noc_status noc_engine_limits(const noc_engine *engine, noc_device_limits *limits, noc_error *err)
{
    return engine->ops->limits(engine->device, limits, err);
}

const double *noc_engine_seconds(noc_engine *engine)
{
    return engine->ops->network_seconds(engine->network);
}

double noc_engine_batch_seconds(const noc_engine *engine)
{
    return engine->ops->batch_seconds(engine->network);
}

noc_status noc_engine_read_stage(noc_engine *engine, int stage, float *out, noc_error *err)
{
    int value = stage >= 0 && stage < NOC_STAGES ? engine->plan->stages[stage] : -1;
    if (value < 0)
        return noc_fail(err, NOC_EINTERNAL, "stage %d was not kept", stage + 1);
    return engine->ops->network_read(engine->network, value, out, err);
}
