/* A model on a device: the plans of one window size, the networks, staging and importance map. */
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
    for (unsigned flips = 0; flips < FLIPS_MOST; flips++)
        if ((flips & ~m->mirror) == 0)
            e->flips[e->flip_count++] = flips;
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
    e->op_seconds = noc_alloc((size_t)e->plan->op_count, sizeof *e->op_seconds, err);
    if (!e->inputs || !e->windows || !e->left || !e->outputs || !e->offsets || !e->op_seconds)
        return NOC_ENOMEMORY;
    for (int b = 0; b < e->batch; b++)
        if (!(e->inputs[b] = noc_alloc(e->input_floats, sizeof(float), err)))
            return NOC_ENOMEMORY;
    return noc_importance_create(e->window, e->blend, &e->importance, err);
}

static int fold_count(const noc_engine *e)
{
    return e->model->manifest->fold_count;
}

/* The first last: what it holds while it runs serves all. */
static void free_networks(noc_engine *e)
{
    for (int i = fold_count(e) - 1; i >= 0; i--) {
        if (e->networks[i])
            e->ops->network_free(e->networks[i]);
        e->networks[i] = NULL;
    }
}

static noc_status make_networks(noc_engine *e, noc_error *err)
{
    noc_status status = NOC_OK;
    for (int i = 0; status == NOC_OK && i < fold_count(e); i++)
        status = e->ops->network_create(e->device, e->plans[i], e->batch, i > 0 ? e->networks[0] : NULL,
                                        &e->networks[i], err);
    if (status != NOC_OK)
        free_networks(e);
    return status;
}

/* The batch is halved until the device has memory for it. */
static noc_status choose_batch(noc_engine *e, int batch, noc_error *err)
{
    int wanted = batch > 0 ? batch : e->ops->default_batch(e->device, e->plan);
    e->batch = wanted;
    noc_status status = make_networks(e, err);
    while (status == NOC_ENOMEMORY && e->batch > 1) {
        e->batch /= 2;
        status = make_networks(e, err);
    }
    if (status == NOC_OK && e->batch < wanted)
        noc_log(NOC_LOG_WARN, "the device has memory for %d windows at once, not for %d", e->batch, wanted);
    return status;
}

static noc_status make_plans(noc_engine *e, unsigned rewrites, bool keep_stages, noc_error *err)
{
    noc_status status = NOC_OK;
    for (int i = 0; status == NOC_OK && i < fold_count(e); i++)
        status = noc_model_plan(e->model, i, e->window, rewrites, keep_stages, &e->plans[i], err);
    e->plan = e->plans[0];
    return status;
}

/* Logits are turned back on their own grid, which is exact only where that covers the window and no more. */
static noc_status check_mirror(const noc_engine *e, noc_error *err)
{
    const int *grid = e->plan->values[e->plan->logits].grid, *upsample = e->plan->upsample;
    for (int a = 0; a < 3; a++) {
        int window = (int)e->window[a], made = grid[a] * upsample[a];
        if ((e->model->manifest->mirror >> a & 1) && made != window)
            return noc_fail(err, NOC_ECONFIG,
                            "mirroring along %c: the network makes %d voxels of a window of %d; make it a "
                            "multiple of %d there (window.size, --window) or mirror other axes only "
                            "(window.mirror, --mirror)",
                            "zyx"[a], made, window, upsample[a]);
    }
    return NOC_OK;
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
    e->with_probabilities = options->with_probabilities;
    choose_window(e, options);
    noc_status status = check_windows(e, err);
    if (status == NOC_OK && keep_stages && noc_model_views(model) > 1)
        status = noc_fail(err, NOC_EUSAGE,
                          "the stages are those of one network and one flip, this model has %d networks and "
                          "%d flips (--mirror none, one file of weights)",
                          fold_count(e), e->flip_count);
    if (status == NOC_OK)
        status = open_device(e, options, err);
    if (status == NOC_OK)
        status = make_plans(e, options->rewrites, keep_stages, err);
    if (status == NOC_OK)
        status = check_mirror(e, err);
    if (status == NOC_OK)
        status = choose_batch(e, options->batch, err);
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
    free_networks(engine);
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
    free(engine->op_seconds);
    for (int i = 0; i < fold_count(engine); i++)
        noc_plan_free(engine->plans[i]);
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

int noc_engine_probabilities(const noc_engine *engine)
{
    return engine->with_probabilities ? engine->plan->values[engine->plan->logits].channels : 0;
}

size_t noc_engine_bytes(const noc_engine *engine)
{
    size_t voxels = (size_t)(engine->window[0] * engine->window[1] * engine->window[2]);
    noc_network_memory m;
    noc_engine_network_memory(engine, &m);
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

/* ---- flips and networks ---- */

static void swap(float *a, float *b, size_t floats)
{
    for (size_t i = 0; i < floats; i++) {
        float kept = a[i];
        a[i] = b[i];
        b[i] = kept;
    }
}

static void reverse(float *items, int64_t count, size_t floats)
{
    for (int64_t i = 0; i < count / 2; i++)
        swap(items + (size_t)i * floats, items + (size_t)(count - 1 - i) * floats, floats);
}

typedef struct turn {
    float *values; /* [volumes][D][H][W][floats] */
    const int64_t *window;
    size_t floats;
    unsigned flips;
} turn;

static void turn_plane(const turn *t, float *plane)
{
    const int64_t height = t->window[1], width = t->window[2];
    size_t row = (size_t)width * t->floats;
    if ((t->flips & 6) == 6)
        reverse(plane, height * width, t->floats);
    else if (t->flips & 2)
        reverse(plane, height, row);
    else if (t->flips & 4)
        for (int64_t h = 0; h < height; h++)
            reverse(plane + (size_t)h * row, width, t->floats);
}

static int pairs_of(const turn *t)
{
    return (int)(t->window[0] + 1) / 2;
}

/* Two planes that are each other's images along D. */
static void turn_piece(void *argument, int i, int thread)
{
    const turn *t = argument;
    size_t plane = (size_t)(t->window[1] * t->window[2]) * t->floats;
    int64_t volume = i / pairs_of(t), d = i % pairs_of(t), image = t->window[0] - 1 - d;
    float *a = t->values + (size_t)(volume * t->window[0] + d) * plane, *b = a + (size_t)(image - d) * plane;
    (void)thread;
    turn_plane(t, a);
    if (a == b)
        return;
    turn_plane(t, b);
    if (t->flips & 1)
        swap(a, b, plane);
}

void engine_turn_input(noc_engine *e, int b, int flip, bool is_planar)
{
    const int channels = e->plan->values[0].channels;
    turn t = {.values = e->inputs[b],
              .window = e->window,
              .floats = is_planar ? 1 : (size_t)channels,
              .flips = e->flips[flip] ^ e->flips[flip - 1]};
    e->ops->host_loop(e->device, (is_planar ? channels : 1) * pairs_of(&t), turn_piece, &t);
}

noc_status engine_run_networks(noc_engine *e, int count, int flip, bool is_planar, noc_error *err)
{
    const int views = noc_model_views(e->model);
    noc_status status = NOC_OK;
    e->batch_seconds = flip > 0 ? e->batch_seconds : 0;
    for (int i = 0; status == NOC_OK && i < fold_count(e); i++) {
        const int view = flip * fold_count(e) + i;
        for (int b = 0; b < count; b++) {
            e->windows[b].flips = e->flips[flip];
            e->windows[b].is_added = view > 0;
            e->windows[b].mean_of = view == views - 1 ? views : 1;
        }
        status =
            e->ops->network_run(e->networks[i], count, e->windows, is_planar, e->outputs, e->offsets, err);
        e->batch_seconds += e->ops->batch_seconds(e->networks[i]);
    }
    return status;
}

/* ---- windows of the host ---- */

/* Planar windows as they are, or copies of them that are turned. */
static void give_inputs(noc_engine *e, int count, const float *input, int flip)
{
    for (int b = 0; b < count; b++) {
        const float *plain = input + (size_t)b * e->input_floats;
        if (flip == 1)
            memcpy(e->inputs[b], plain, e->input_floats * sizeof *plain);
        if (flip > 0)
            engine_turn_input(e, b, flip, true);
        e->windows[b] = (noc_window_input){.host = flip > 0 ? e->inputs[b] : plain};
    }
}

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
        engine->outputs[b] = engine->logits;
        engine->offsets[b] = (size_t)b * engine->logits_floats;
    }
    for (int f = 0; status == NOC_OK && f < engine->flip_count; f++) {
        give_inputs(engine, count, input, f);
        status = engine_run_networks(engine, count, f, true, err);
    }
    for (int b = 0; status == NOC_OK && b < count; b++)
        status = gather_all(engine, b, &logits, err);
    return status;
}

void noc_engine_network_memory(const noc_engine *engine, noc_network_memory *memory)
{
    memset(memory, 0, sizeof *memory);
    for (int i = 0; i < fold_count(engine); i++) {
        noc_network_memory m;
        engine->ops->network_memory(engine->networks[i], &m);
        memory->weights += m.weights;
        memory->arena += m.arena;
        memory->scratch += m.scratch;
        memory->device += m.device;
    }
}

noc_status noc_engine_limits(const noc_engine *engine, noc_device_limits *limits, noc_error *err)
{
    return engine->ops->limits(engine->device, limits, err);
}

const double *noc_engine_seconds(noc_engine *engine)
{
    memset(engine->op_seconds, 0, (size_t)engine->plan->op_count * sizeof *engine->op_seconds);
    for (int i = 0; i < fold_count(engine); i++) {
        const double *seconds = engine->ops->network_seconds(engine->networks[i]);
        for (int op = 0; op < engine->plan->op_count; op++)
            engine->op_seconds[op] += seconds[op];
    }
    return engine->op_seconds;
}

double noc_engine_batch_seconds(const noc_engine *engine)
{
    return engine->batch_seconds;
}

noc_status noc_engine_read_stage(noc_engine *engine, int stage, float *out, noc_error *err)
{
    int value = stage >= 0 && stage < NOC_STAGES ? engine->plan->stages[stage] : -1;
    if (value < 0)
        return noc_fail(err, NOC_EINTERNAL, "stage %d was not kept", stage + 1);
    return engine->ops->network_read(engine->networks[0], value, out, err);
}
