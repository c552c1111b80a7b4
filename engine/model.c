/* A model: manifest and weights that belong together, known by one hash. */
#include "engine/model.h"

#include "engine/base/file.h"
#include "engine/base/memory.h"
#include "engine/base/sha256.h"
#include "engine/base/text.h"
#include "engine/segformer3d.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void add_ints(noc_text *text, const char *key, const int *values, int count)
{
    noc_text_add(text, "%s", key);
    for (int i = 0; i < count; i++)
        noc_text_add(text, " %d", values[i]);
    noc_text_add(text, "\n");
}

static void add_network(noc_text *text, const noc_network_config *network)
{
    add_ints(text, "in_channels", &network->in_channels, 1);
    add_ints(text, "num_classes", &network->num_classes, 1);
    add_ints(text, "embed_dims", network->embed_dims, NOC_STAGES);
    add_ints(text, "num_heads", network->num_heads, NOC_STAGES);
    add_ints(text, "depths", network->depths, NOC_STAGES);
    add_ints(text, "sr_ratios", network->sr_ratios, NOC_STAGES);
    add_ints(text, "mlp_ratios", network->mlp_ratios, NOC_STAGES);
    add_ints(text, "decoder_dim", &network->decoder_dim, 1);
    for (int s = 0; s < NOC_STAGES; s++) {
        add_ints(text, "patch_kernel", network->patch_kernel[s], 3);
        add_ints(text, "patch_stride", network->patch_stride[s], 3);
        add_ints(text, "patch_padding", network->patch_padding[s], 3);
    }
    noc_text_add(text, "attention_scale %d\n", network->attention_scale == NOC_SCALE_NUM_HEADS);
}

static void add_preparation(noc_text *text, const noc_manifest *manifest)
{
    for (int i = 0; i < manifest->network.in_channels; i++) {
        noc_text_add(text, "channel ");
        noc_text_add_json(text, manifest->channels[i]);
        noc_text_add(text, "\n");
    }
    noc_text_add(text, "orientation %s\npad_value %.17g\n", manifest->orientation, manifest->pad_value);
    for (int i = 0; i < manifest->step_count; i++) {
        const noc_step *step = &manifest->steps[i];
        noc_text_add(text, "step %d %d %.17g %.17g %.17g %.17g", (int)step->kind, (int)step->mask, step->low,
                     step->high, step->mean, step->std);
        for (int axis = 0; axis < 3; axis++)
            noc_text_add(text, " %" PRId64 " %" PRId64, step->start[axis], step->size[axis]);
        for (int axis = 0; step->kind == NOC_STEP_RESAMPLE && axis < 3; axis++)
            noc_text_add(text, " %.17g", step->spacing_mm[axis]);
        if (step->kind == NOC_STEP_RESAMPLE)
            noc_text_add(text, " %d %d %d", step->order, step->may_separate_axis, step->is_back_nearest);
        noc_text_add(text, "\n");
    }
}

static void add_output(noc_text *text, const noc_manifest *manifest)
{
    noc_text_add(text, "output %d threshold %.17g\n", (int)manifest->output, manifest->threshold);
    for (int i = 0; i < manifest->label_count; i++) {
        noc_text_add(text, "label %d ", manifest->labels[i].index);
        noc_text_add_json(text, manifest->labels[i].name);
        noc_text_add(text, "\n");
    }
    for (int i = 0; i < manifest->region_count; i++) {
        noc_text_add(text, "region ");
        noc_text_add_json(text, manifest->regions[i].name);
        add_ints(text, "", manifest->regions[i].truth_labels, manifest->regions[i].truth_label_count);
    }
    for (int i = 0; i < manifest->paint_count; i++)
        noc_text_add(text, "paint %d %d\n", manifest->paints[i].region, manifest->paints[i].label);
}

/* One text for one meaning, whatever the manifest's layout and its name; it ends with the weights' bytes by
 * their hash. */
static noc_status identify(noc_model *model, const char *weights_sha256, noc_error *err)
{
    noc_text text = {0};
    noc_text_add(&text, "nocturne-model/1\nsegformer3d\n");
    add_network(&text, &model->manifest->network);
    add_preparation(&text, model->manifest);
    add_output(&text, model->manifest);
    noc_text_add(&text, "weights %s\n", weights_sha256);
    noc_status status = text.failed ? noc_fail(err, NOC_ENOMEMORY, "no memory for a model's identity")
                                    : noc_sha256_of(text.data, text.size, model->sha256, err);
    noc_text_free(&text);
    return status;
}

static noc_status check_sha256(const noc_manifest *manifest, char sha256[NOC_SHA256_HEX], noc_error *err)
{
    noc_mapping mapping = {0};
    noc_status status = noc_file_map(manifest->weights, &mapping, err);
    if (status == NOC_OK)
        status = noc_sha256_of(mapping.data, mapping.size, sha256, err);
    noc_file_unmap(&mapping);
    if (status == NOC_OK && manifest->weights_sha256[0] && strcmp(sha256, manifest->weights_sha256) != 0)
        status = noc_fail(err, NOC_ECONFIG, "%s: its SHA-256 is %s, weights_sha256 of %s says %s",
                          manifest->weights, sha256, manifest->path, manifest->weights_sha256);
    return status;
}

static noc_status load_weights(noc_model *model, noc_error *err)
{
    const noc_manifest *manifest = model->manifest;
    char sha256[NOC_SHA256_HEX];
    noc_status status = check_sha256(manifest, sha256, err);
    if (status == NOC_OK)
        status = noc_safetensors_open(manifest->weights, &model->weights, err);
    if (status == NOC_OK)
        status = noc_segformer3d_check(&manifest->network, model->weights, manifest->weights,
                                       &model->parameters, err);
    if (status == NOC_OK)
        status = identify(model, sha256, err);
    return status;
}

noc_status noc_model_load(const char *path, noc_model **model, noc_error *err)
{
    noc_model *loaded = noc_alloc_zeroed(1, sizeof(*loaded), err);
    if (!loaded)
        return NOC_ENOMEMORY;
    noc_status status = noc_manifest_load(path, &loaded->manifest, err);
    if (status == NOC_OK)
        status = load_weights(loaded, err);
    if (status == NOC_OK)
        *model = loaded;
    else
        noc_model_free(loaded);
    return status;
}

void noc_model_free(noc_model *model)
{
    if (!model)
        return;
    noc_safetensors_close(model->weights);
    noc_manifest_free(model->manifest);
    free(model);
}

noc_status noc_model_plan(const noc_model *model, const int64_t window[3], unsigned rewrites,
                          bool keep_stages, noc_plan **plan, noc_error *err)
{
    const noc_network_config *network = &model->manifest->network;
    noc_plan *built = NULL;
    noc_status status = noc_segformer3d_check_window(network, window, err);
    if (status == NOC_OK)
        status = noc_segformer3d_build(network, model->weights, window, &built, err);
    if (status == NOC_OK)
        status = noc_plan_rewrite(built, rewrites, err);
    if (status == NOC_OK)
        status = noc_plan_arrange(built, keep_stages, err);
    if (status == NOC_OK)
        *plan = built;
    else
        noc_plan_free(built);
    return status;
}
