// What the two convolution kernels share: how eight warps divide a block, and its end.
#pragma once
#include "engine/cuda/fused_conv.h"
#include "engine/cuda/token_end.cuh"

enum { THREADS = 256, STAGES = 3 };

// Warps along rows, columns and depth, each with 32 x 32 outputs and 32 of the depth of a step.
template <int WM, int WN, int WK> struct block {
    enum {
        ROWS = WM * 32,
        COLUMNS = WN * 32,
        DEPTH = WK * NOC_TILE_DEPTH,
        PITCH = COLUMNS + NOC_STAGE_SLACK,
        A = ROWS * NOC_ROW_BYTES, // of 32 of the depth
        B = COLUMNS * NOC_ROW_BYTES,
        WEIGHTS = WK * B,
        STAGE = WK * A + WEIGHTS,
        SHARED = STAGES * STAGE,
        STAGED = WK * ROWS * PITCH * 4 // the sums at the end
    };
    static_assert(WM * WN * WK * 32 == THREADS && STAGED <= SHARED, "a block");
};

static __host__ __device__ __forceinline__ noc_cuda_end end_of(const noc_cuda_conv &p)
{
    return {p.bias, nullptr, p.scale, p.shift, p.out, p.columns, p.eps, p.is_normed};
}

// Four sums of a block's warps, from shared memory.
template <class B, int WK>
static __device__ __forceinline__ float4 sum_of_block(const float *sums, int row, int column)
{
    return sum_of_parts(sums + row * B::PITCH + column, B::ROWS * B::PITCH, WK);
}

// All tokens of a block, several a warp. place(row): the token that a row of `sums` is, -1 for none.
template <class T, class B, int WK, class F>
static __device__ __forceinline__ void finish_rows(const noc_cuda_conv &p, const float *sums, int column0,
                                                   F place)
{
    enum { LANES = LANES_OF<B::COLUMNS> };
    static_assert(B::ROWS * LANES % THREADS == 0, "all lanes meet");
#pragma unroll 1
    for (int row = threadIdx.x / LANES; row < B::ROWS; row += THREADS / LANES)
        finish_token<T, B::COLUMNS>(end_of(p), place(row), column0,
                                    [&](int column) { return sum_of_block<B, WK>(sums, row, column); });
}
