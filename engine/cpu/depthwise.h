/* Depthwise taps on the ring of a MixFFN block ([slot][group][line][token][LANES], see noc_cpu_mixffn). The
 * six lines of three planes that a strip of four needs are 36 KiB a group (32 tokens, 16 lanes): they stay in
 * L1. Each loaded vector is used for three taps along W. */
#ifndef NOC_CPU_DEPTHWISE_H
#define NOC_CPU_DEPTHWISE_H

#include "engine/cpu/vector.h"

/* `count` (a constant at every call) outputs along W from one line of one plane. */
INLINE void line_taps(vec sum[8], int count, const float *line, const float *weight, int is_first,
                      int is_last)
{
    vec k0 = load(weight), k1 = load(weight + LANES), k2 = load(weight + 2 * LANES);
#pragma GCC unroll 10
    for (int i = -1; i <= count; i++) {
        if ((i < 0 && is_first) || (i == count && is_last))
            continue;
        vec x = load(line + i * LANES);
        IN_REGISTER(x);
        if (i + 1 < count)
            sum[i + 1] += x * k0;
        if (i >= 0 && i < count)
            sum[i] += x * k1;
        if (i >= 1)
            sum[i - 1] += x * k2;
    }
}

/* Sums of `count` outputs of group g from token w of a line of the strip on. */
INLINE void strip_sums(const noc_cpu_mixffn *m, const noc_cpu_strip *s, int count, int g, int line, int w,
                       vec sum[8])
{
    vec bias = load(m->dw_bias + g * LANES);
#pragma GCC unroll 8
    for (int i = 0; i < count; i++)
        sum[i] = bias;
    for (int a = 0; a < 3; a++)
        for (int b = 0; s->slot[a] >= 0 && b < 3; b++) {
            int at = line + b - 1;
            if (at < 0 || at >= s->filled)
                continue;
            const float *in =
                (const float *)m->ring +
                ((size_t)((s->slot[a] * m->groups + g) * m->lines + at) * (size_t)m->width + (size_t)w) *
                    LANES;
            line_taps(sum, count, in, m->dw + (size_t)(g * 27 + a * 9 + b * 3) * LANES, w == 0,
                      w + count == m->width);
        }
}

#endif
