// What the two convolution kernels share: how eight warps divide a block, and a token's end.
#pragma once
#include "engine/cuda/fused_conv.h"
#include "engine/cuda/tile.cuh"

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
    static_assert(WM * WN * WK * 32 == THREADS && STAGED <= SHARED && ROWS * 4 <= THREADS, "a block");
};

// One token's columns, of which a lane has WN.
template <class T, class B, int WN, int WK>
static __device__ __forceinline__ void finish_row(const noc_cuda_conv &p, const float *sums, int column0,
                                                  size_t row)
{
    int lane = threadIdx.x % 32;
    float v[WN], sum = 0, square = 0, mean = 0, norm = 1;
#pragma unroll
    for (int j = 0; j < WN; j++) {
        int column = column0 + lane + 32 * j;
        v[j] = 0;
        for (int k = 0; k < WK; k++)
            v[j] += sums[k * B::ROWS * B::PITCH + lane + 32 * j];
        if (p.bias && column < p.columns)
            v[j] += p.bias[column];
        sum += column < p.columns ? v[j] : 0;
    }
    if (p.is_normed) {
        mean = sum_of_warp(sum) / p.columns;
#pragma unroll
        for (int j = 0; j < WN; j++)
            square += column0 + lane + 32 * j < p.columns ? (v[j] - mean) * (v[j] - mean) : 0;
        norm = rsqrtf(sum_of_warp(square) / p.columns + p.eps);
    }
#pragma unroll
    for (int j = 0; j < WN; j++) {
        int column = column0 + lane + 32 * j;
        if (column >= p.columns)
            continue;
        float y = (v[j] - mean) * norm;
        if (p.scale)
            y = y * p.scale[column] + p.shift[column];
        ((T *)p.out)[row * p.columns + column] = element<T>::round(y);
    }
}
