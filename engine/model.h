/* A loaded model: manifest, checked weights, and plans for its windows. */
#ifndef NOC_MODEL_H
#define NOC_MODEL_H

#include "engine/manifest.h"
#include "engine/plan.h"
#include "engine/safetensors.h"

typedef struct noc_model {
    noc_manifest *manifest; /* weights_sha256 as they are */
    noc_safetensors *weights[NOC_MAX_FOLDS];
    char
        sha256[65]; /* identity: over the network's configuration, preparation, mirror, outputs and weights */
    uint64_t parameters; /* of one network */
} noc_model;

/* NOC_ENOINPUT: no such model; NOC_ECONFIG: manifest, or weights_sha256 differs; NOC_EDATA: weights that do
 * not fit (every missing, unexpected or misshapen tensor is named, as many as the sentence holds). */
noc_status noc_model_load(const char *path, noc_model **model, noc_error *err);
void noc_model_free(noc_model *model);

/* Makes it the model whose manifest has this window.mirror. */
noc_status noc_model_mirror(noc_model *model, unsigned axes, noc_error *err);
/* Times that a window goes through a network: every file of weights, every flip. */
int noc_model_views(const noc_model *model);

/* A plan of one of its networks for one window of that size (D,H,W), built, rewritten and arranged: those of
 * the others differ in their weights alone. A size that the network cannot take is NOC_ECONFIG with the
 * smallest it can. */
noc_status noc_model_plan(const noc_model *model, int fold, const int64_t window[3], unsigned rewrites,
                          bool keep_stages, noc_plan **plan, noc_error *err);

#endif
