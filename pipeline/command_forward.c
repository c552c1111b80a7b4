/* nocturne forward: a tensor through the network, as one window of its own size or (--sliding) in the
 * model's windows. */
#include "engine/base/memory.h"
#include "engine/engine.h"
#include "engine/safetensors.h"
#include "engine/segformer3d.h"
#include "pipeline/command.h"
#include "pipeline/opening.h"

#include <stdlib.h>
#include <string.h>

enum { OUTPUTS = 1 + NOC_STAGES };

typedef struct forward {
    const noc_settings *settings;
    noc_model *model;
    noc_engine *engine;
    float *input; /* [C][D][H][W] */
    int64_t size[3];
    noc_tensor outputs[OUTPUTS]; /* their data is owned */
    size_t output_count;
} forward;

static noc_status check_input(const forward *f, const noc_tensor *tensor, noc_error *err)
{
    int channels = f->model->manifest->network.in_channels;

    if (!tensor)
        return noc_fail(err, NOC_EDATA, "%s: no tensor named input", f->settings->input);
    if (tensor->axes != 4)
        return noc_fail(err, NOC_EDATA, "%s: input has %d axes, expected (C, D, H, W)", f->settings->input,
                        tensor->axes);
    if (tensor->shape[0] != channels)
        return noc_fail(err, NOC_EDATA, "%s: input has %lld channels, the model takes %d", f->settings->input,
                        (long long)tensor->shape[0], channels);
    for (int a = 1; a < 4; a++)
        if (tensor->shape[a] < 1)
            return noc_fail(err, NOC_EDATA, "%s: input has an empty axis", f->settings->input);
    return NOC_OK;
}

/* As one window. What is wrong is the tensor, not the model's configuration. */
static noc_status check_size(const forward *f, noc_error *err)
{
    noc_error why;
    noc_status status = noc_segformer3d_check_window(&f->model->manifest->network, f->size, &why);

    return status == NOC_OK ? NOC_OK
                            : noc_fail(err, NOC_EDATA, "%s: input: %s", f->settings->input, why.text);
}

static noc_status read_input(forward *f, noc_error *err)
{
    noc_safetensors *file;
    noc_status status = noc_safetensors_open(f->settings->input, &file, err);

    if (status != NOC_OK)
        return status;
    const noc_tensor *tensor = noc_safetensors_find(file, "input");
    status = check_input(f, tensor, err);
    if (status == NOC_OK)
        memcpy(f->size, tensor->shape + 1, sizeof f->size);
    if (status == NOC_OK && !f->settings->sliding)
        status = check_size(f, err);
    if (status == NOC_OK) {
        f->input = noc_alloc(noc_tensor_count(tensor), sizeof *f->input, err);
        status =
            f->input ? noc_tensor_floats(tensor, 0, noc_tensor_count(tensor), f->input, err) : NOC_ENOMEMORY;
    }
    noc_safetensors_close(file);
    return status;
}

/* A place for the next output; NULL with NOC_ENOMEMORY in err. */
static float *add_output(forward *f, const char *name, int64_t channels, const int64_t size[3],
                         noc_error *err)
{
    size_t count = (size_t)channels * (size_t)size[0] * (size_t)size[1] * (size_t)size[2];
    float *data = noc_alloc(count, sizeof *data, err);

    if (!data)
        return NULL;
    f->outputs[f->output_count++] = (noc_tensor){.name = name,
                                                 .dtype = NOC_DTYPE_F32,
                                                 .axes = 4,
                                                 .shape = {channels, size[0], size[1], size[2]},
                                                 .data = data,
                                                 .bytes = count * sizeof *data};
    return data;
}

static noc_status read_stages(forward *f, noc_error *err)
{
    static const char *const names[NOC_STAGES] = {"c1", "c2", "c3", "c4"};
    const noc_plan *plan = noc_engine_plan(f->engine);
    noc_status status = NOC_OK;

    for (int s = 0; s < NOC_STAGES && status == NOC_OK; s++) {
        const noc_value *value = &plan->values[plan->stages[s]];
        const int64_t size[3] = {value->grid[0], value->grid[1], value->grid[2]};
        float *data = add_output(f, names[s], value->channels, size, err);
        status = data ? noc_engine_read_stage(f->engine, s, data, err) : NOC_ENOMEMORY;
    }
    return status;
}

static noc_status run_whole(forward *f, noc_error *err)
{
    noc_engine_options options = NOC_ENGINE_DEFAULTS;
    noc_device_info info;

    noc_settings_engine(f->settings, &options);
    memcpy(options.window, f->size, sizeof options.window);
    options.batch = 1;
    noc_status status = f->settings->stages ? noc_engine_open_stages(&options, f->model, &f->engine, err)
                                            : noc_engine_open(&options, f->model, &f->engine, err);
    if (status != NOC_OK)
        return status;
    noc_engine_describe(f->engine, &info);
    noc_opening_say_precision(f->settings, &info);
    const noc_plan *plan = noc_engine_plan(f->engine);
    const noc_value *logits = &plan->values[plan->logits];
    int64_t size[3];
    for (int a = 0; a < 3; a++)
        size[a] = (int64_t)logits->grid[a] * plan->upsample[a];
    float *data = add_output(f, "logits", logits->channels, size, err);
    status = data ? noc_engine_forward(f->engine, 1, f->input, data, err) : NOC_ENOMEMORY;
    return status == NOC_OK && f->settings->stages ? read_stages(f, err) : status;
}

/* The tensor as a scan whose stored order is the model's: i = W, j = H, k = D, with the identity as its
 * affine; no step of the manifest is left to do. Takes the input. */
static noc_status prepare_tensor(forward *f, noc_prepared **prepared, noc_error *err)
{
    noc_manifest plain = *f->model->manifest;
    int channels = plain.network.in_channels;
    noc_image image = {.channels = channels, .type = NOC_VOXEL_F32, .slope = 1, .voxels = f->input};

    plain.step_count = 0;
    memcpy(plain.orientation, "RAS", sizeof plain.orientation);
    image.bytes = (size_t)channels * sizeof(float);
    for (int a = 0; a < 3; a++) {
        image.grid.size[a] = f->size[2 - a];
        image.grid.spacing_mm[a] = 1;
        image.grid.affine[a][a] = 1;
        image.bytes *= (size_t)f->size[a];
    }
    image.grid.affine[3][3] = 1;
    f->input = NULL;
    noc_status status = noc_prepare(&plain, &image, 1, prepared, err);
    noc_image_clear(&image);
    return status;
}

static noc_status run_windows(noc_engine *engine, noc_segmentation *segmentation, noc_error *err)
{
    int batch = noc_engine_batch(engine), count;
    noc_status status = NOC_OK;
    noc_window_task *tasks = noc_alloc((size_t)batch, sizeof *tasks, err);

    if (!tasks)
        return NOC_ENOMEMORY;
    do {
        for (count = 0; count < batch && noc_segmentation_next(segmentation, &tasks[count]); count++)
            ;
        if (count > 0)
            status = noc_engine_run(engine, tasks, count, err);
    } while (count > 0 && status == NOC_OK);
    free(tasks);
    return status;
}

static noc_status run_sliding(forward *f, noc_error *err)
{
    noc_prepared *prepared = NULL;
    noc_segmentation *segmentation = NULL;
    noc_segmentation_result result = {0};
    noc_status status = noc_opening_engine(f->settings, f->model, &f->engine, err);

    if (status == NOC_OK)
        status = prepare_tensor(f, &prepared, err);
    if (status == NOC_OK) {
        noc_engine_upload(f->engine, prepared, NULL); /* without it the host cuts */
        status = noc_segmentation_create_logits(f->engine, prepared, &segmentation, err);
    }
    if (status == NOC_OK)
        status = run_windows(f->engine, segmentation, err);
    if (status == NOC_OK) {
        int64_t classes = f->model->manifest->network.num_classes;
        noc_segmentation_take(segmentation, &result);
        f->outputs[f->output_count++] = (noc_tensor){.name = "logits",
                                                     .dtype = NOC_DTYPE_F32,
                                                     .axes = 4,
                                                     .shape = {classes, f->size[0], f->size[1], f->size[2]},
                                                     .data = result.voxels,
                                                     .bytes = result.bytes};
    }
    noc_segmentation_free(segmentation);
    noc_prepared_free(prepared);
    return status;
}

static noc_status check_arguments(const noc_settings *settings, noc_error *err)
{
    noc_status status = noc_opening_paths(settings, true, err);

    if (status == NOC_OK && settings->stages && settings->sliding)
        return noc_fail(err, NOC_EUSAGE, "--stages belong to one window, --sliding has several");
    return status;
}

static noc_status run_forward(forward *f, noc_error *err)
{
    noc_status status = check_arguments(f->settings, err);

    if (status == NOC_OK)
        status = noc_opening_model(f->settings, &f->model, err);
    if (status == NOC_OK)
        status = read_input(f, err);
    if (status == NOC_OK)
        status = f->settings->sliding ? run_sliding(f, err) : run_whole(f, err);
    if (status == NOC_OK)
        status = noc_safetensors_write(f->settings->output, f->outputs, f->output_count, NULL, err);
    return status;
}

int noc_command_forward(const noc_settings *settings)
{
    noc_error err;
    forward f = {.settings = settings};
    noc_status status = run_forward(&f, &err);

    for (size_t i = 0; i < f.output_count; i++)
        free((void *)f.outputs[i].data);
    free(f.input);
    noc_engine_close(f.engine);
    noc_model_free(f.model);
    return status == NOC_OK ? 0 : noc_command_fail(&err);
}
