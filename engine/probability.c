#include "engine/probability.h"

#include "engine/base/half.h"

#include <math.h>

void noc_probability_begin(noc_probability *p, noc_gather_kind kind, int count)
{
    p->is_softmax = kind == NOC_GATHER_LABELS;
    p->count = count;
    for (int i = 0; i < count; i++) {
        p->largest[i] = -INFINITY;
        p->sum[i] = 0;
    }
}

/* The sum is kept relative to the largest so far, so that no exponential overflows. */
void noc_probability_add(noc_probability *p, const float *logits)
{
    for (int i = 0; p->is_softmax && i < p->count; i++)
        if (logits[i] > p->largest[i]) {
            p->sum[i] = p->sum[i] * expf(p->largest[i] - logits[i]) + 1;
            p->largest[i] = logits[i];
        } else {
            p->sum[i] += expf(logits[i] - p->largest[i]);
        }
}

void noc_probability_put(const noc_probability *p, const float *logits, uint16_t *out, int64_t step)
{
    for (int i = 0; i < p->count; i++)
        out[i * step] = noc_half_from(p->is_softmax ? expf(logits[i] - p->largest[i]) / p->sum[i]
                                                    : 1 / (1 + expf(-logits[i])));
}
