/* model.yaml, format nocturne-model/1. All triples are in the order z, y, x (D, H, W). */
#ifndef NOC_MANIFEST_H
#define NOC_MANIFEST_H

#include "engine/base/error.h"
#include "engine/base/yaml.h"

#include <stdint.h>

enum {
    NOC_STAGES = 4,
    NOC_MAX_REGIONS = 32,
    NOC_MAX_CHANNELS = 16,
    NOC_MAX_STEPS = 16,
    NOC_MAX_FOLDS = 32,
    NOC_MAX_TRUTH_LABELS = 64
};

typedef enum noc_attention_scale { NOC_SCALE_HEAD_DIM, NOC_SCALE_NUM_HEADS } noc_attention_scale;
typedef enum noc_blend { NOC_BLEND_CONSTANT, NOC_BLEND_GAUSSIAN } noc_blend;
typedef enum noc_output_kind { NOC_OUTPUT_LABELS, NOC_OUTPUT_REGIONS } noc_output_kind;

typedef struct noc_network_config {
    int in_channels, num_classes;
    int embed_dims[NOC_STAGES], num_heads[NOC_STAGES], depths[NOC_STAGES], sr_ratios[NOC_STAGES],
        mlp_ratios[NOC_STAGES];
    int decoder_dim;
    int patch_kernel[NOC_STAGES][3], patch_stride[NOC_STAGES][3], patch_padding[NOC_STAGES][3];
    noc_attention_scale attention_scale;
} noc_network_config;

typedef enum noc_step_kind {
    NOC_STEP_MINMAX_SLICES,
    NOC_STEP_ZSCORE,
    NOC_STEP_CLIP_ZSCORE,
    NOC_STEP_CROP,
    NOC_STEP_PERCENTILE_ZSCORE,
    NOC_STEP_FOREGROUND_CROP,
    NOC_STEP_RESAMPLE
} noc_step_kind;
typedef enum noc_zscore_mask { NOC_ZSCORE_ALL, NOC_ZSCORE_NONZERO, NOC_ZSCORE_FILLED } noc_zscore_mask;

typedef struct noc_step {
    noc_step_kind kind;
    noc_zscore_mask mask;        /* zscore */
    double low, high, mean, std; /* clip_zscore; percentile_zscore: low, high in percent */
    int64_t start[3], size[3];   /* crop: D, H, W */
    double spacing_mm[3];        /* resample, and what follows; D, H, W */
    int order;                   /* 1 or 3 */
    bool may_separate_axis, is_back_nearest;
} noc_step;

typedef struct noc_label {
    int index; /* 1 or more */
    char *name;
} noc_label;

typedef struct noc_region {
    char *name;
    int truth_labels[NOC_MAX_TRUTH_LABELS];
    int truth_label_count;
} noc_region;

typedef struct noc_paint {
    int region; /* index into regions */
    int label;
} noc_paint;

typedef enum noc_presence { NOC_PRESENCE_ANY, NOC_PRESENCE_YES, NOC_PRESENCE_NO } noc_presence;

/* What a plausible mask holds of a class; a study that breaks a rule is suspect, its mask stays as it is. */
typedef struct noc_rule {
    int class;             /* index into labels or regions */
    double volume_ml[2];   /* from, to: 0, DBL_MAX when any */
    bool has_components;   /* false: any number */
    int components[2];     /* from, to */
    noc_presence presence; /* of a voxel at all */
} noc_rule;

typedef struct noc_manifest {
    char *path; /* of model.yaml */
    char *name;
    char *description, *license, *reference; /* NULL when absent */
    int fold_count;                          /* networks whose logits are averaged: files of weights */
    char *weights[NOC_MAX_FOLDS];            /* paths, resolved against the manifest's folder */
    char weights_sha256[NOC_MAX_FOLDS][65];  /* "" when not given */
    noc_network_config network;
    char *channels[NOC_MAX_CHANNELS]; /* in_channels names */
    char orientation[4];
    noc_step steps[NOC_MAX_STEPS];
    int step_count;
    int64_t window[3];
    double overlap;
    noc_blend blend;
    double pad_value;
    unsigned mirror; /* axes over whose flips logits are averaged: bits 1, 2, 4 are z, y, x */
    noc_output_kind output;
    noc_label *labels; /* output labels */
    int label_count;
    double threshold; /* regions: probability */
    noc_region regions[NOC_MAX_REGIONS];
    int region_count;
    noc_paint paints[NOC_MAX_REGIONS];
    int paint_count;
    int *keep_largest; /* indexes of labels or regions with one component; those around others first */
    int keep_count;
    noc_rule *rules; /* `plausible` */
    int rule_count;
} noc_manifest;

/* path: model.yaml or the folder that holds it. A missing folder or file is NOC_ENOINPUT; everything else
 * NOC_ECONFIG with file, line, key. */
noc_status noc_manifest_load(const char *path, noc_manifest **manifest, noc_error *err);
void noc_manifest_free(noc_manifest *manifest);

/* The bit of mirror of the axis "z", "y" or "x"; 0: there is no such axis. */
unsigned noc_manifest_axis(const char *name);
/* A list of those, each once. Complaints name file, line and `key`. */
noc_status noc_manifest_axes(const noc_yaml *doc, const noc_yaml_node *list, const char *key, unsigned *axes,
                             noc_error *err);

#endif
