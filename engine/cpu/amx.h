/* Products of bf16 on AMX tiles with sums in f32. A tile has 16 rows of 64 bytes: 16 rows of 32 bf16 of the
 * left factor, or 32 rows of 16 columns of the right one with neighbouring rows in pairs, or 16 x 16 sums.
 *
 * Weights of a panel of 32 columns: [step of 32 deep][half of the columns][16 pairs][16 columns][2]. The bits
 * of a row depend on its values and the weights alone, not on the rows beside it. */
#ifndef NOC_CPU_AMX_H
#define NOC_CPU_AMX_H

#include "engine/cpu/vector.h"

typedef uint16_t bf16 __attribute__((may_alias));

enum { TILE = 16, STEP = 32, PANEL_STEP = 2 * TILE * STEP /* bf16 of a panel a step */ };

/* What was written before is in memory then: compilers do not know that tile loads read it. */
#define TILES_READ() __asm__ volatile("" ::: "memory")

INLINE int steps_of(int depth)
{
    return (depth + STEP - 1) / STEP;
}

/* To the nearest, ties to even. */
INLINE bf16 round_bf16(float x)
{
    union {
        float f;
        uint32_t u;
    } v = {.f = x};
    return (bf16)((v.u + 0x7fff + (v.u >> 16 & 1)) >> 16);
}

INLINE void store_bf16(bf16 *out, vec low, vec high)
{
    _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low));
}

/* n values, zeros behind them up to a whole step. */
INLINE void to_bf16(const float *in, int n, bf16 *out)
{
    int i = 0;
    for (; i + STEP <= n; i += STEP)
        store_bf16(out + i, load(in + i), load(in + i + LANES));
    if (i < n)
        store_bf16(out + i, load_part(in + i, least(LANES, n - i)),
                   n - i > LANES ? load_part(in + i + LANES, n - i - LANES) : (vec){0});
}

/* n values and nothing behind them. */
INLINE void to_bf16_exactly(const float *in, int n, bf16 *out)
{
    int i = n / STEP * STEP, rest = n - i;
    bf16 end[STEP];
    to_bf16(in, i, out);
    if (rest == 0)
        return;
    to_bf16(in + i, rest, end);
    memcpy(out + i, end, (size_t)rest * sizeof *out);
}

/* Tiles 0 to 3 = sums of two tiles of rows (0, 1 and 2, 3) times both halves of a panel; tiles 4 to 7 are
 * used. `two` is a constant at every call: without it only 0 and 1. */
#define AMX_MULTIPLY(two, a, a_bytes, b, steps)                                                              \
    do {                                                                                                     \
        const bf16 *a_ = (a), *b_ = (b);                                                                     \
        TILES_READ();                                                                                        \
        for (int s_ = 0; s_ < (steps); s_++, a_ += STEP, b_ += PANEL_STEP) {                                 \
            _tile_loadd(4, a_, (a_bytes));                                                                   \
            _tile_loadd(6, b_, 64);                                                                          \
            _tile_dpbf16ps(0, 4, 6);                                                                         \
            _tile_loadd(7, b_ + PANEL_STEP / 2, 64);                                                         \
            _tile_dpbf16ps(1, 4, 7);                                                                         \
            if (two) {                                                                                       \
                _tile_loadd(5, (const char *)a_ + TILE * (a_bytes), (a_bytes));                              \
                _tile_dpbf16ps(2, 5, 6);                                                                     \
                _tile_dpbf16ps(3, 5, 7);                                                                     \
            }                                                                                                \
        }                                                                                                    \
    } while (0)

/* Tiles 0 to 3 begin as a panel's bias in every row. */
#define AMX_BEGIN(bias)                                                                                      \
    do {                                                                                                     \
        _tile_loadd(0, (bias), 0);                                                                           \
        _tile_loadd(1, (bias) + TILE, 0);                                                                    \
        _tile_loadd(2, (bias), 0);                                                                           \
        _tile_loadd(3, (bias) + TILE, 0);                                                                    \
    } while (0)

/* y: 32 rows of 32 sums. */
#define AMX_END(two, y)                                                                                      \
    do {                                                                                                     \
        _tile_stored(0, (y)[0], 4 * COLUMNS);                                                                \
        _tile_stored(1, (y)[0] + TILE, 4 * COLUMNS);                                                         \
        if (two) {                                                                                           \
            _tile_stored(2, (y)[TILE], 4 * COLUMNS);                                                         \
            _tile_stored(3, (y)[TILE] + TILE, 4 * COLUMNS);                                                  \
        }                                                                                                    \
    } while (0)

#endif
