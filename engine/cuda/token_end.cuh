// A token's end in half precision, by lanes that have four columns each, or several fours.
#pragma once
#include "engine/cuda/fused_end.h"
#include "engine/cuda/tile.cuh"

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

// Four sums from their parts, so many floats apart, in the order of the depth.
static __device__ __forceinline__ float4 sum_of_parts(const float *part, size_t apart, int count)
{
    float4 v = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int k = 0; k < count; k++, part += apart) {
        float4 s = get<float4>(part);
        v.x += s.x, v.y += s.y, v.z += s.z, v.w += s.w;
    }
    return v;
}

// A token's end. sum_of(column): four sums of it; token: -1 for none, while all lanes meet.
template <class T, int COLUMNS, class F>
static __device__ __forceinline__ void finish_token(const noc_cuda_end &p, int token, int column0, F sum_of)
{
    enum { LANES = LANES_OF<COLUMNS>, FOURS = COLUMNS / 4 / LANES };
    const int own = threadIdx.x % LANES * 4;
    const size_t first = (size_t)(unsigned)token * (unsigned)p.columns + column0 + own; // in 32 by 32 bits
    float4 v[FOURS];
    float sum = 0, square = 0;
#pragma unroll
    for (int j = 0; j < FOURS; j++) {
        int column = column0 + own + j * LANES * 4;
        bool is_there = column < p.columns;
        v[j] = p.bias && is_there ? get<float4>(p.bias + column) : make_float4(0, 0, 0, 0);
        float4 s = sum_of(own + j * LANES * 4);
        v[j].x += s.x, v[j].y += s.y, v[j].z += s.z, v[j].w += s.w;
        if (p.residual && is_there && token >= 0) {
            uint2 r = get<uint2>((const T *)p.residual + first + j * LANES * 4);
            float2 low = element<T>::unpack(r.x), high = element<T>::unpack(r.y);
            v[j].x += low.x, v[j].y += low.y, v[j].z += high.x, v[j].w += high.y;
        }
        sum += is_there ? v[j].x + v[j].y + v[j].z + v[j].w : 0;
    }
    if (p.is_normed) {
        float mean = sum_of_lanes<LANES>(sum) / p.columns;
#pragma unroll
        for (int j = 0; j < FOURS; j++) {
            v[j].x -= mean, v[j].y -= mean, v[j].z -= mean, v[j].w -= mean;
            square += column0 + own + j * LANES * 4 < p.columns
                          ? v[j].x * v[j].x + v[j].y * v[j].y + v[j].z * v[j].z + v[j].w * v[j].w
                          : 0;
        }
        float norm = rsqrtf(sum_of_lanes<LANES>(square) / p.columns + p.eps);
#pragma unroll
        for (int j = 0; j < FOURS; j++) {
            int column = min(column0 + own + j * LANES * 4, p.columns - 4);
            float4 scale = p.scale ? get<float4>(p.scale + column) : make_float4(1, 1, 1, 1);
            float4 shift = p.scale ? get<float4>(p.shift + column) : make_float4(0, 0, 0, 0);
            v[j].x = v[j].x * norm * scale.x + shift.x, v[j].y = v[j].y * norm * scale.y + shift.y;
            v[j].z = v[j].z * norm * scale.z + shift.z, v[j].w = v[j].w * norm * scale.w + shift.w;
        }
    }
#pragma unroll
    for (int j = 0; j < FOURS; j++) {
        int column = column0 + own + j * LANES * 4;
        if (token >= 0 && column < p.columns)
            put((T *)p.out + first + j * LANES * 4,
                make_uint2(pack_finite<T>(v[j].x, v[j].y), pack_finite<T>(v[j].z, v[j].w)));
    }
}
