/* Arithmetic alone, in registers: what the product kernels of an instruction set would do if nothing had to
 * be loaded or stored. */
#if defined(NOC_ISA_AMX)
#include "engine/cpu/amx.h"
#else
#include "engine/cpu/vector.h"
#endif

/* As many sums at once as hide the latency of an FMA; both factors find room in 16 registers too. */
enum { SUMS = 12 };

double KERNEL(peak_vectors)(int rounds, float *sink)
{
    vec sum[SUMS], factor = splat(sink[0]);
#pragma GCC unroll 12
    for (int i = 0; i < SUMS; i++)
        sum[i] = factor * (float)i;
    for (int r = 0; r < rounds; r++)
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++)
            sum[i] = sum[i] * factor + factor;
#pragma GCC unroll 12
    for (int i = 1; i < SUMS; i++)
        sum[0] += sum[i];
    sink[0] = sum[0][0];
    return 2.0 * SUMS * LANES;
}

#if defined(NOC_ISA_AMX)
/* Four tiles of sums from four tiles of factors, as in AMX_MULTIPLY. */
double KERNEL(peak_products)(int rounds, float *sink)
{
    bf16 factors[TILE * STEP] __attribute__((aligned(64)));
    float sums[TILE * TILE] __attribute__((aligned(64)));
    for (int i = 0; i < TILE * STEP; i++)
        factors[i] = round_bf16(sink[0]);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_loadd(4, factors, 64);
    _tile_loadd(5, factors, 64);
    _tile_loadd(6, factors, 64);
    _tile_loadd(7, factors, 64);
    for (int r = 0; r < rounds; r++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, 64);
    sink[0] = sums[0];
    return 4.0 * 2 * TILE * TILE * STEP;
}
#endif
