/* nocturne prepare: what the network sees of a scan, as a tensor. */
#include "engine/base/memory.h"
#include "engine/prepare.h"
#include "engine/safetensors.h"
#include "engine/volume/nifti.h"
#include "pipeline/command.h"
#include "pipeline/opening.h"

#include <stdlib.h>

static noc_status read_scan(const noc_settings *settings, const noc_manifest *manifest,
                            noc_prepared **prepared, noc_error *err)
{
    noc_image images[NOC_MAX_CHANNELS] = {0};
    noc_nifti_options options = {.max_bytes = noc_opening_memory(settings),
                                 .assume_ras = settings->assume_ras};
    int count = settings->argument_count;
    noc_status status = NOC_OK;

    if (count < 1)
        return noc_fail(err, NOC_EUSAGE, "which scan? give its file, or one file a channel");
    if (count > NOC_MAX_CHANNELS)
        return noc_fail(err, NOC_EUSAGE, "%d files, a scan has at most %d channels", count,
                        (int)NOC_MAX_CHANNELS);
    for (int i = 0; i < count && status == NOC_OK; i++)
        status = noc_nifti_read(settings->arguments[i], &options, &images[i], err);
    if (status == NOC_OK)
        status = noc_prepare(manifest, images, count, prepared, err);
    for (int i = 0; i < count; i++)
        noc_image_clear(&images[i]);
    return status;
}

/* Plane by plane, from voxels of all channels to planes of one. */
static noc_status copy_out(const noc_prepared *prepared, const int64_t size[3], int channels, float *out,
                           noc_error *err)
{
    const int64_t plane_size[3] = {1, size[1], size[2]};
    size_t plane = (size_t)(size[1] * size[2]), c = (size_t)channels;
    float *cut = noc_alloc(plane * c, sizeof *cut, err);

    if (!cut)
        return NOC_ENOMEMORY;
    for (int64_t d = 0; d < size[0]; d++) {
        const int64_t start[3] = {d, 0, 0};
        noc_prepared_cut(prepared, start, plane_size, 0, cut);
        for (size_t channel = 0; channel < c; channel++) {
            float *to = out + (channel * (size_t)size[0] + (size_t)d) * plane;
            for (size_t i = 0; i < plane; i++)
                to[i] = cut[i * c + channel];
        }
    }
    free(cut);
    return NOC_OK;
}

static noc_status write_tensor(const noc_settings *settings, const noc_prepared *prepared, noc_error *err)
{
    int64_t size[3];
    int channels = noc_prepared_channels(prepared);

    noc_prepared_size(prepared, size);
    size_t count = (size_t)channels * (size_t)size[0] * (size_t)size[1] * (size_t)size[2];
    float *data = noc_alloc(count, sizeof *data, err);
    if (!data)
        return NOC_ENOMEMORY;
    noc_status status = copy_out(prepared, size, channels, data, err);
    noc_tensor tensor = {.name = "input",
                         .dtype = NOC_DTYPE_F32,
                         .axes = 4,
                         .shape = {channels, size[0], size[1], size[2]},
                         .data = data,
                         .bytes = count * sizeof *data};
    if (status == NOC_OK)
        status = noc_safetensors_write(settings->output, &tensor, 1, NULL, err);
    free(data);
    return status;
}

static noc_status prepare(const noc_settings *settings, noc_error *err)
{
    noc_manifest *manifest = NULL;
    noc_prepared *prepared = NULL;
    noc_status status = noc_opening_paths(settings, false, err);

    if (status == NOC_OK && !settings->model)
        status = noc_fail(err, NOC_EUSAGE, "which model? give its folder with -m");
    if (status == NOC_OK)
        status = noc_manifest_load(settings->model, &manifest, err);
    if (status == NOC_OK)
        status = noc_opening_files(settings, err);
    if (status == NOC_OK)
        status = read_scan(settings, manifest, &prepared, err);
    if (status == NOC_OK)
        status = write_tensor(settings, prepared, err);
    noc_prepared_free(prepared);
    noc_manifest_free(manifest);
    return status;
}

int noc_command_prepare(const noc_settings *settings)
{
    noc_error err;

    return prepare(settings, &err) == NOC_OK ? 0 : noc_command_fail(&err);
}
