/* Logits to probabilities in f16, of up to a block of voxels at a time: first every class is added, then
 * every class is put, so that logits of all classes need not lie in memory together. */
#ifndef NOC_PROBABILITY_H
#define NOC_PROBABILITY_H

#include "engine/device.h"

enum { NOC_PROBABILITY_BLOCK = 128 };

typedef struct noc_probability {
    bool is_softmax; /* over the classes; else a sigmoid each, since regions overlap */
    int count;
    float largest[NOC_PROBABILITY_BLOCK], sum[NOC_PROBABILITY_BLOCK];
} noc_probability;

/* kind: LABELS or REGIONS; count: of voxels. */
void noc_probability_begin(noc_probability *p, noc_gather_kind kind, int count);
/* logits: `count` of a class. */
void noc_probability_add(noc_probability *p, const float *logits);
/* The same once more; out: a class's probabilities, `step` elements from a voxel to the next. */
void noc_probability_put(const noc_probability *p, const float *logits, uint16_t *out, int64_t step);

#endif
