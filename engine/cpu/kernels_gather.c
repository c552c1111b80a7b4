/* From logits to labels, a row of voxels at a time. */
#include "engine/cpu/vector.h"

/* Columns [at, at + n) of one block: each samples a vector of the line that holds all that the block needs.
 */
INLINE void spread_block(const noc_cpu_spread *s, int at, int n)
{
    bits low = *(const bits_memory *)(s->low + at), high = *(const bits_memory *)(s->high + at);
    vec f = load(s->fraction + at), e = 1.0f - f, weight = splat(1);
    if (s->weight)
        weight = load_part(s->weight + at, n);
    for (int c = 0; c < s->classes; c++) {
        vec line = load(s->lines + (size_t)c * s->line_step + s->base[at / LANES]);
        vec value = e * __builtin_shuffle(line, low) + f * __builtin_shuffle(line, high);
        float *sum = s->sums + (size_t)c * s->sum_step + (at - s->from);
        if (s->weights)
            value = load_part(sum, n) + weight * value;
        store_part(sum, value, n);
    }
    if (!s->weights)
        return;
    float *weights = s->weights + (at - s->from);
    store_part(weights, load_part(weights, n) + weight, n);
}

void KERNEL(spread)(const noc_cpu_spread *s)
{
    int at = s->from;
    for (; at + LANES <= s->to; at += LANES)
        spread_block(s, at, LANES);
    if (at < s->to)
        spread_block(s, at, s->to - at);
}

void KERNEL(divide)(float *sums, size_t step, const float *weights, int classes, int count)
{
    for (int c = 0; c < classes; c++, sums += step)
        for (int i = 0; i < count; i++)
            sums[i] /= weights[i];
}

void KERNEL(argmax)(const float *sums, size_t step, int classes, int count, uint32_t *restrict labels,
                    float *restrict best)
{
    for (int i = 0; i < count; i++) {
        labels[i] = 0;
        best[i] = sums[i];
    }
    for (int c = 1; c < classes; c++) {
        const float *sum = sums + (size_t)c * step;
        for (int i = 0; i < count; i++) {
            labels[i] = sum[i] > best[i] ? (uint32_t)c : labels[i];
            best[i] = sum[i] > best[i] ? sum[i] : best[i];
        }
    }
}

void KERNEL(threshold)(const float *sums, size_t step, int classes, int count, float limit,
                       uint32_t *restrict bit_sets)
{
    memset(bit_sets, 0, (size_t)count * sizeof *bit_sets);
    for (int c = 0; c < classes; c++) {
        const float *sum = sums + (size_t)c * step;
        for (int i = 0; i < count; i++)
            bit_sets[i] |= (uint32_t)(sum[i] >= limit) << c;
    }
}
