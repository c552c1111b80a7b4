/* All metrics of one class of a mask against a truth on the same grid. */
#ifndef NOC_EVALUATION_H
#define NOC_EVALUATION_H

#include "catalog/study.h"
#include "worker/label_map.h"
#include "worker/lesions.h"
#include "worker/surface.h"

enum { NOC_CLASS_LABELS = 64 };

/* A label, or the union of several. */
typedef struct noc_class {
    char label[NOC_METRIC_TEXT]; /* "1", "1+2" */
    char name[NOC_METRIC_TEXT];  /* "" when it has none */
    uint16_t labels[NOC_CLASS_LABELS];
    int label_count;
    int bit; /* in predictions: the voxels with this bit set; -1: those of the labels */
} noc_class;

typedef struct noc_tolerances {
    double mm[NOC_TOLERANCES];
    int count;
} noc_tolerances;

typedef struct noc_evaluation {
    noc_metric metric; /* nnU-Net's conventions for empty masks */
    noc_surface surface;
    noc_lesion_scores lesions; /* 0 unless asked for */
} noc_evaluation;

/* lesions: NULL: no scores of lesions. NOC_ENOMEMORY, NOC_ETOOLARGE. */
noc_status noc_class_evaluate(const noc_class *class, const noc_label_map *prediction,
                              const noc_label_map *truth, const double spacing_mm[3],
                              const noc_tolerances *tolerances, const noc_lesion_rules *lesions,
                              noc_evaluation *out, noc_error *err);

/* The distance that BraTS counts: deepmind's, 0 where both masks are empty, the penalty where one is. */
double noc_brats_distance(const noc_evaluation *evaluation, double distance_mm, double penalty_mm);
/* The ratio where not both masks are empty, 1 where they are: nothing was to be found, and nothing was. */
double noc_brats_ratio(const noc_evaluation *evaluation, double ratio);

#endif
