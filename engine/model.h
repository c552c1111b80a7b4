/* A loaded model: manifest, checked weights, and plans for its windows. */
#ifndef NOC_MODEL_H
#define NOC_MODEL_H

#include "engine/manifest.h"
#include "engine/plan.h"
#include "engine/safetensors.h"

typedef struct noc_model {
    noc_manifest *manifest;
    noc_safetensors *weights;
    char sha256[65]; /* identity: over the network's configuration, preparation, outputs and weights */
    uint64_t parameters;
} noc_model;

/* NOC_ENOINPUT: no such model; NOC_ECONFIG: manifest, or weights_sha256 differs; NOC_EDATA: weights that do
 * not fit (every missing, unexpected or misshapen tensor is named, as many as the sentence holds). */
noc_status noc_model_load(const char *path, noc_model **model, noc_error *err);
void noc_model_free(noc_model *model);

/* A plan for one window of that size (D,H,W), built, rewritten and arranged. A size that the network cannot
 * take is NOC_ECONFIG with the smallest it can. */
noc_status noc_model_plan(const noc_model *model, const int64_t window[3], unsigned rewrites,
                          bool keep_stages, noc_plan **plan, noc_error *err);

#endif
