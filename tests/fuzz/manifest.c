/* model.yaml. What loads keeps what the header promises of it. */
#include "engine/manifest.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

static void check(const noc_manifest *m)
{
    MUST(m->name && strlen(m->orientation) == 3 && m->mirror <= 7);
    MUST(m->fold_count >= 1 && m->fold_count <= NOC_MAX_FOLDS);
    for (int i = 0; i < m->fold_count; i++)
        MUST(m->weights[i]);
    MUST(m->network.in_channels >= 1 && m->network.in_channels <= NOC_MAX_CHANNELS);
    for (int i = 0; i < m->network.in_channels; i++)
        MUST(m->channels[i]);
    for (int s = 0; s < NOC_STAGES; s++)
        MUST(m->network.embed_dims[s] > 0 && m->network.num_heads[s] > 0 && m->network.depths[s] > 0);
    MUST(m->step_count <= NOC_MAX_STEPS && m->region_count <= NOC_MAX_REGIONS);
    MUST(m->overlap >= 0 && m->overlap < 1);
    for (int axis = 0; axis < 3; axis++)
        MUST(m->window[axis] > 0);
    for (int i = 0; i < m->label_count; i++)
        MUST(m->labels[i].index >= 1 && m->labels[i].name);
    for (int i = 0; i < m->paint_count; i++)
        MUST(m->paints[i].region >= 0 && m->paints[i].region < m->region_count);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    noc_manifest *manifest = NULL;
    noc_error err = {0};
    if (noc_manifest_load(fuzz_file("model.yaml", data, size), &manifest, &err) == NOC_OK)
        check(manifest);
    else
        MUST(err.text[0] && !manifest);
    noc_manifest_free(manifest);
    return 0;
}
