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

// Sums over the lanes of a token.
template <int LANES> static __device__ __forceinline__ float sum_of_lanes(float v)
{
#pragma unroll
    for (int bits = LANES / 2; bits; bits >>= 1)
        v += __shfl_xor_sync(ALL_LANES, v, bits);
    return v;
}

// The lanes that a token of a block has, each with fours of columns.
template <int COLUMNS> static constexpr int LANES_OF = COLUMNS < 128 ? COLUMNS / 4 : 32;

// A token's end. sum_of(column): four sums of it; token: -1 for none, while all lanes meet.
template <class T, int COLUMNS, class F>
static __device__ __forceinline__ void finish_token(const noc_cuda_conv &p, int token, int column0, F sum_of)
{
    enum { LANES = LANES_OF<COLUMNS>, FOURS = COLUMNS / 4 / LANES };
    const int own = threadIdx.x % LANES * 4;
    float4 v[FOURS];
    float sum = 0, square = 0, mean = 0, norm = 1;
#pragma unroll
    for (int j = 0; j < FOURS; j++) {
        int column = column0 + own + j * LANES * 4;
        bool is_there = column < p.columns;
        v[j] = p.bias && is_there ? get<float4>(p.bias + column) : make_float4(0, 0, 0, 0);
        float4 s = sum_of(own + j * LANES * 4);
        v[j].x += s.x, v[j].y += s.y, v[j].z += s.z, v[j].w += s.w;
        sum += is_there ? v[j].x + v[j].y + v[j].z + v[j].w : 0;
    }
    if (p.is_normed) {
        mean = sum_of_lanes<LANES>(sum) / p.columns;
#pragma unroll
        for (int j = 0; j < FOURS; j++) {
            float x = v[j].x - mean, y = v[j].y - mean, z = v[j].z - mean, w = v[j].w - mean;
            square += column0 + own + j * LANES * 4 < p.columns ? x * x + y * y + z * z + w * w : 0;
        }
        norm = rsqrtf(sum_of_lanes<LANES>(square) / p.columns + p.eps);
    }
#pragma unroll
    for (int j = 0; j < FOURS; j++) {
        int column = column0 + own + j * LANES * 4;
        if (token < 0 || column >= p.columns)
            continue;
        float4 scale = make_float4(1, 1, 1, 1), shift = make_float4(0, 0, 0, 0);
        if (p.scale)
            scale = get<float4>(p.scale + column), shift = get<float4>(p.shift + column);
        put((T *)p.out + (size_t)token * p.columns + column,
            make_uint2(pack_finite<T>((v[j].x - mean) * norm * scale.x + shift.x,
                                      (v[j].y - mean) * norm * scale.y + shift.y),
                       pack_finite<T>((v[j].z - mean) * norm * scale.z + shift.z,
                                      (v[j].w - mean) * norm * scale.w + shift.w)));
    }
}

// The same of a block, from shared memory.
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
        finish_token<T, B::COLUMNS>(p, place(row), column0,
                                    [&](int column) { return sum_of_block<B, WK>(sums, row, column); });
}
