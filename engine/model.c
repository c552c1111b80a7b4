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
    if (manifest->keep_count > 0)
        add_ints(text, "keep_largest", manifest->keep_largest, manifest->keep_count);
}

/* One text for one meaning, whatever the manifest's layout and its name; it ends with the weights' bytes by
 * their hashes, and the axes of flips where there are some. */
static noc_status identify(noc_model *model, noc_error *err)
{
    const noc_manifest *manifest = model->manifest;
    noc_text text = {0};
    noc_text_add(&text, "nocturne-model/1\nsegformer3d\n");
    add_network(&text, &manifest->network);
    add_preparation(&text, manifest);
    add_output(&text, manifest);
    for (int i = 0; i < manifest->fold_count; i++)
        noc_text_add(&text, "weights %s\n", manifest->weights_sha256[i]);
    if (manifest->mirror)
        noc_text_add(&text, "mirror %u\n", manifest->mirror);
    noc_status status = text.failed ? noc_fail(err, NOC_ENOMEMORY, "no memory for a model's identity")
                                    : noc_sha256_of(text.data, text.size, model->sha256, err);
    noc_text_free(&text);
    return status;
}

/* Puts the hash of the file where the manifest has none. */
static noc_status check_sha256(noc_manifest *manifest, int fold, noc_error *err)
{
    noc_mapping mapping = {0};
    char sha256[NOC_SHA256_HEX], *wanted = manifest->weights_sha256[fold];
    noc_status status = noc_file_map(manifest->weights[fold], &mapping, err);
    if (status == NOC_OK)
        status = noc_sha256_of(mapping.data, mapping.size, sha256, err);
    noc_file_unmap(&mapping);
    if (status == NOC_OK && wanted[0] && strcmp(sha256, wanted) != 0)
        return noc_fail(err, NOC_ECONFIG, "%s: its SHA-256 is %s, weights_sha256 of %s says %s",
                        manifest->weights[fold], sha256, manifest->path, wanted);
    if (status == NOC_OK)
        memcpy(wanted, sha256, sizeof sha256);
    return status;
}

/* groups: which parts the network has, as noc_segformer3d_check says. */
static noc_status load_fold(noc_model *model, int fold, unsigned *groups, noc_error *err)
{
    noc_manifest *manifest = model->manifest;
    noc_status status = check_sha256(manifest, fold, err);
    if (status == NOC_OK)
        status = noc_safetensors_open(manifest->weights[fold], &model->weights[fold], err);
    if (status == NOC_OK)
        status = noc_segformer3d_check(&manifest->network, model->weights[fold], manifest->weights[fold],
                                       &model->parameters, groups, err);
    return status;
}

static noc_status load_weights(noc_model *model, noc_error *err)
{
    const noc_manifest *manifest = model->manifest;
    unsigned first = 0, groups;
    noc_status status = load_fold(model, 0, &first, err);
    for (int i = 1; status == NOC_OK && i < manifest->fold_count; i++) {
        status = load_fold(model, i, &groups, err);
        if (status == NOC_OK && groups != first)
            status = noc_fail(err, NOC_EDATA,
                              "%s has not the same parts (norms, biases) as %s: the files of a model are "
                              "trainings of one network",
                              manifest->weights[i], manifest->weights[0]);
    }
    return status == NOC_OK ? identify(model, err) : status;
}

noc_status noc_model_mirror(noc_model *model, unsigned axes, noc_error *err)
{
    model->manifest->mirror = axes;
    return identify(model, err);
}

int noc_model_views(const noc_model *model)
{
    return model->manifest->fold_count << __builtin_popcount(model->manifest->mirror);
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
    for (int i = 0; i < NOC_MAX_FOLDS; i++)
        noc_safetensors_close(model->weights[i]);
    noc_manifest_free(model->manifest);
    free(model);
}

noc_status noc_model_plan(const noc_model *model, int fold, const int64_t window[3], unsigned rewrites,
                          bool keep_stages, noc_plan **plan, noc_error *err)
{
    const noc_network_config *network = &model->manifest->network;
    noc_plan *built = NULL;
    noc_status status = noc_segformer3d_check_window(network, window, err);
    if (status == NOC_OK)
        status = noc_segformer3d_build(network, model->weights[fold], window, &built, err);
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
