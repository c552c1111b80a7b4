/* [C][step] -> [count][C]. */
#ifndef NOC_CPU_INTERLEAVE_H
#define NOC_CPU_INTERLEAVE_H

#include "engine/cpu/vector.h"

/* Single lanes, or pairs of them, of two vectors in turn: of their low halves, and of their high halves. */
#if defined(NOC_ISA_AVX512)
#define ONE_LOW                                                                                              \
    (bits)                                                                                                   \
    {                                                                                                        \
        0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23                                               \
    }
#define ONE_HIGH                                                                                             \
    (bits)                                                                                                   \
    {                                                                                                        \
        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31                                         \
    }
#define TWO_LOW                                                                                              \
    (bits)                                                                                                   \
    {                                                                                                        \
        0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23                                               \
    }
#define TWO_HIGH                                                                                             \
    (bits)                                                                                                   \
    {                                                                                                        \
        8, 9, 24, 25, 10, 11, 26, 27, 12, 13, 28, 29, 14, 15, 30, 31                                         \
    }
#elif defined(NOC_ISA_AVX2)
#define ONE_LOW                                                                                              \
    (bits)                                                                                                   \
    {                                                                                                        \
        0, 8, 1, 9, 2, 10, 3, 11                                                                             \
    }
#define ONE_HIGH                                                                                             \
    (bits)                                                                                                   \
    {                                                                                                        \
        4, 12, 5, 13, 6, 14, 7, 15                                                                           \
    }
#define TWO_LOW                                                                                              \
    (bits)                                                                                                   \
    {                                                                                                        \
        0, 1, 8, 9, 2, 3, 10, 11                                                                             \
    }
#define TWO_HIGH                                                                                             \
    (bits)                                                                                                   \
    {                                                                                                        \
        4, 5, 12, 13, 6, 7, 14, 15                                                                           \
    }
#else
#define ONE_LOW                                                                                              \
    (bits)                                                                                                   \
    {                                                                                                        \
        0, 4, 1, 5                                                                                           \
    }
#define ONE_HIGH                                                                                             \
    (bits)                                                                                                   \
    {                                                                                                        \
        2, 6, 3, 7                                                                                           \
    }
#define TWO_LOW                                                                                              \
    (bits)                                                                                                   \
    {                                                                                                        \
        0, 1, 4, 5                                                                                           \
    }
#define TWO_HIGH                                                                                             \
    (bits)                                                                                                   \
    {                                                                                                        \
        2, 3, 6, 7                                                                                           \
    }
#endif

/* Four channels, the number of the published network. */
static void interleave_four(const float *in, size_t step, int count, float *out)
{
    int v = 0;
    for (; v + LANES <= count; v += LANES, out += 4 * LANES) {
        vec a = load(in + v), b = load(in + step + v), c = load(in + 2 * step + v),
            d = load(in + 3 * step + v);
        vec low0 = __builtin_shuffle(a, b, ONE_LOW), high0 = __builtin_shuffle(a, b, ONE_HIGH);
        vec low1 = __builtin_shuffle(c, d, ONE_LOW), high1 = __builtin_shuffle(c, d, ONE_HIGH);
        store(out, __builtin_shuffle(low0, low1, TWO_LOW));
        store(out + LANES, __builtin_shuffle(low0, low1, TWO_HIGH));
        store(out + 2 * LANES, __builtin_shuffle(high0, high1, TWO_LOW));
        store(out + 3 * LANES, __builtin_shuffle(high0, high1, TWO_HIGH));
    }
    for (; v < count; v++)
        for (int c = 0; c < 4; c++)
            *out++ = in[(size_t)c * step + (size_t)v];
}

INLINE void interleave_values(const float *in, int channels, size_t step, int count, float *out)
{
    if (channels == 4)
        interleave_four(in, step, count, out);
    else if (channels == 1)
        memcpy(out, in, (size_t)count * sizeof *out);
    else
        for (int v = 0; v < count; v++)
            for (int c = 0; c < channels; c++)
                out[v * channels + c] = in[(size_t)c * step + (size_t)v];
}

#endif
