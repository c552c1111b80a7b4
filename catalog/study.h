/* Records that travel: a study as the catalog knows it, and the metrics of one label. No database here. */
#ifndef NOC_STUDY_H
#define NOC_STUDY_H

#include "engine/base/error.h"

#include <stdint.h>

enum { NOC_STUDY_KEY = 121, NOC_STUDY_CHANNELS = 16, NOC_METRIC_TEXT = 64, NOC_SUSPECT_TEXT = 512 };

typedef struct noc_study {
    int64_t id;              /* the catalog's row */
    char key[NOC_STUDY_KEY]; /* [A-Za-z0-9._-]{1,120} */
    char layout[16];         /* "msd", "nnunet", "brats", "bids", "list", "folder", "file" */
    int channel_count;
    char *channels[NOC_STUDY_CHANNELS]; /* absolute paths, owned */
    char *truth;                        /* absolute path, owned; NULL: none */
    bool has_shape;                     /* the header could be read at scan */
    int64_t size[3];                    /* i, j, k */
    double spacing_mm[3];
    int64_t voxel_bytes; /* of the stored voxels, all channels; 0 when unknown */
    char *fingerprint; /* "size:mtime_ns" of each channel and the truth, joined by ';' ("missing" for one that
                          is not there); owned */
} noc_study;

void noc_study_clear(noc_study *study);

/* One label or region of one study. Without a truth only prediction_ml is meant; the counts are 0 and the
 * ratios NaN. Ratios follow nnU-Net's conventions for empty masks (0/0 is NaN). */
typedef struct noc_metric {
    char label[NOC_METRIC_TEXT]; /* "1"; for a region its truth labels joined by '+': "2+3" */
    char name[NOC_METRIC_TEXT];
    bool has_truth;
    uint64_t tp, fp, fn, tn;
    double dice, iou, precision, recall, truth_ml, prediction_ml, volume_similarity;
} noc_metric;

#endif
