/* Tiles of products: rows of f32 times a panel of packed weights, COLUMNS = 2 LANES wide, the sums in
 * registers. */
#ifndef NOC_CPU_TILE_H
#define NOC_CPU_TILE_H

#include "engine/cpu/vector.h"

/* out = bias + in * panel + residual for `rows` rows and `halves` vectors of columns, both constants at every
 * call. */
INLINE void tile(int rows, int halves, const float *in, size_t in_step, int depth, const float *panel,
                 const float *bias, const float *residual, float *out, size_t out_step)
{
    vec sum[ROWS][2];
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < halves; i++)
            sum[r][i] = bias ? load(bias + i * LANES) : (vec){0};
    for (int k = 0; k < depth; k++) {
        vec b[2];
        for (int i = 0; i < halves; i++)
            b[i] = load(panel + (size_t)k * COLUMNS + i * LANES);
#pragma GCC unroll 14
        for (int r = 0; r < rows; r++) {
            float x = in[(size_t)r * in_step + (size_t)k];
            for (int i = 0; i < halves; i++)
                sum[r][i] += x * b[i];
        }
    }
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < halves; i++) {
            if (residual)
                sum[r][i] += load(residual + (size_t)r * out_step + i * LANES);
            store(out + (size_t)r * out_step + i * LANES, sum[r][i]);
        }
}

/* Any number of rows up to ROWS, a run of at most DEPTH_RUN products each. */
INLINE void short_tiles(int rows, int halves, const float *in, size_t in_step, int depth, const float *panel,
                        const float *bias, const float *residual, float *out, size_t out_step)
{
    if (rows == ROWS) {
        tile(ROWS, halves, in, in_step, depth, panel, bias, residual, out, out_step);
        return;
    }
    while (rows > 0) {
        int n = rows >= 8 && ROWS > 8 ? 8 : rows >= 4 && ROWS > 4 ? 4 : rows >= 2 ? 2 : 1;
        if (n == 8)
            tile(least(8, ROWS), halves, in, in_step, depth, panel, bias, residual, out, out_step);
        else if (n == 4)
            tile(4, halves, in, in_step, depth, panel, bias, residual, out, out_step);
        else if (n == 2)
            tile(2, halves, in, in_step, depth, panel, bias, residual, out, out_step);
        else
            tile(1, halves, in, in_step, depth, panel, bias, residual, out, out_step);
        in += (size_t)n * in_step;
        residual = residual ? residual + (size_t)n * out_step : NULL;
        out += (size_t)n * out_step;
        rows -= n;
    }
}

/* Long sums are sums of shorter ones, so that rounding does not grow with the depth: each run starts from
 * zero and is added to what stands in `out`. Where at most LANES columns are wanted, only those are computed.
 */
static void tiles(int rows, int columns, const float *in, size_t in_step, int depth, const float *panel,
                  const float *bias, const float *residual, float *out, size_t out_step)
{
    for (int k = 0; k < depth; k += DEPTH_RUN) {
        int run = least(DEPTH_RUN, depth - k);
        const float *b = k == 0 ? bias : NULL, *r = k == 0 ? residual : out;
        if (columns > LANES)
            short_tiles(rows, 2, in + k, in_step, run, panel + (size_t)k * COLUMNS, b, r, out, out_step);
        else
            short_tiles(rows, 1, in + k, in_step, run, panel + (size_t)k * COLUMNS, b, r, out, out_step);
    }
}

#endif
