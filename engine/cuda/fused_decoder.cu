// A block owns 64 tokens and all their columns: the product, 128 columns at a time, leaves its sums in shared
// memory; then a warp takes a token, eight columns a lane, adds what the coarser stages have there, and the
// classes are sums over the warp. Neighbouring tokens read the same corners, which stay in L1.
#include "engine/cuda/fused_decoder.h"

#include "engine/cuda/element.cuh"
#include "engine/cuda/tile.cuh"

enum { THREADS = 256, WARPS = 8, ROWS = 64, TILE = 128, COLUMNS_MOST = 256, DEPTH_MOST = 256, GROUPS = 2 };
enum { PITCH = COLUMNS_MOST + NOC_STAGE_SLACK, A = ROWS * NOC_ROW_BYTES, W = TILE * NOC_ROW_BYTES };
enum { STAGE = ROWS * PITCH * 4, FIXED = STAGE + 2 * W };

// A corner of a term, and its share.
struct corner {
    size_t token;
    float share;
};

static __device__ __forceinline__ corner corner_of(const between at[3], const int grid[3], int number)
{
    int place[3];
    float share = 1;
#pragma unroll
    for (int a = 0; a < 3; a++) {
        bool high = number >> (2 - a) & 1;
        place[a] = high ? at[a].high : at[a].low;
        share *= high ? at[a].share : 1 - at[a].share;
    }
    return {((size_t)place[0] * grid[1] + place[1]) * grid[2] + place[2], share};
}

// Adds the term at token `at` of a window; lane's columns are 4 * lane, and those 128 further on.
template <class T>
static __device__ __forceinline__ void add_term(float v[GROUPS][4], const noc_cuda_decoder &p, int term,
                                                int window, const int at[3])
{
    const int *grid = p.term_grids[term];
    const T *in = (const T *)p.terms[term] + (size_t)window * grid[0] * grid[1] * grid[2] * p.columns;
    between b[3];
#pragma unroll
    for (int a = 0; a < 3; a++)
        b[a] = source_of(at[a], grid[a], p.grid[a]);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        corner c = corner_of(b, grid, i);
#pragma unroll
        for (int g = 0; g < GROUPS; g++) {
            int column = g * TILE + threadIdx.x % 32 * 4;
            if (column >= p.columns)
                continue;
            uint2 r = get<uint2>(in + c.token * p.columns + column);
            float2 low = element<T>::unpack(r.x), high = element<T>::unpack(r.y);
            v[g][0] += c.share * low.x, v[g][1] += c.share * low.y;
            v[g][2] += c.share * high.x, v[g][3] += c.share * high.y;
        }
    }
}

// The logits of one token, from its staged sums.
template <class T>
static __device__ __forceinline__ void finish_token(const noc_cuda_decoder &p, const float *sums,
                                                    float factor, int row)
{
    int lane = threadIdx.x % 32;
    int at[3] = {row / p.grid[2] / p.grid[1] % p.grid[0], row / p.grid[2] % p.grid[1], row % p.grid[2]};
    float v[GROUPS][4];
#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
        int column = g * TILE + lane * 4;
        bool is_there = column < p.columns;
        float4 s = is_there ? get<float4>(sums + column) : make_float4(0, 0, 0, 0);
        float4 b = is_there && p.bias ? get<float4>(p.bias + column) : make_float4(0, 0, 0, 0);
        float4 c = is_there && p.sum_bias ? get<float4>(p.sum_bias + column) : make_float4(0, 0, 0, 0);
        v[g][0] = (s.x + b.x) * factor + c.x, v[g][1] = (s.y + b.y) * factor + c.y;
        v[g][2] = (s.z + b.z) * factor + c.z, v[g][3] = (s.w + b.w) * factor + c.w;
    }
#pragma unroll 1
    for (int t = 0; t < p.term_count; t++)
        add_term<T>(v, p, t, row / (p.grid[0] * p.grid[1] * p.grid[2]), at);
#pragma unroll
    for (int g = 0; g < GROUPS; g++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            v[g][i] = activate(v[g][i], p.activation);
#pragma unroll 1
    for (int k = 0; k < p.classes; k++) {
        float sum = 0;
#pragma unroll
        for (int g = 0; g < GROUPS; g++) {
            int column = g * TILE + lane * 4;
            if (column >= p.columns)
                continue;
            float4 w = get<float4>(p.class_weight + (size_t)k * p.columns + column);
            sum += v[g][0] * w.x + v[g][1] * w.y + v[g][2] * w.z + v[g][3] * w.w;
        }
        sum = sum_of_warp(sum);
        if (lane == 0)
            p.out[(size_t)row * p.classes + k] = sum + (p.class_bias ? p.class_bias[k] : 0);
    }
}

template <class T> __global__ void __launch_bounds__(THREADS, 2) decoder_kernel(noc_cuda_decoder p)
{
    __shared__ float tail_squares[4][ROWS];
    const T *weight = (const T *)p.weight;
    int rows = p.batch * p.grid[0] * p.grid[1] * p.grid[2], row0 = blockIdx.x * ROWS;
    int steps = parts(p.depth, NOC_TILE_DEPTH), tail_tiles = parts(p.tail, TILE);
    int all = (tail_tiles + parts(p.columns, TILE)) * steps;
    int warp = threadIdx.x / 32, wm = warp / 4 * 32, wn = warp % 4 * 32;
    float *stage = (float *)shared_bytes;
    unsigned char *ws = shared_bytes + STAGE, *xs = ws + 2 * W;
    float d[2][4][4] = {}, squares[2][2] = {};

    auto fetch = [&](int step) {
        int tile = step / steps, k = step % steps * NOC_TILE_DEPTH;
        bool is_tail = tile < tail_tiles;
        fetch_tile<T, THREADS>(ws + (step & 1) * W, TILE, weight,
                               is_tail ? p.columns + tile * TILE : (tile - tail_tiles) * TILE,
                               is_tail ? p.columns + p.tail : p.columns, k, p.depth);
        copy_commit();
    };
    for (int step = 0; step < steps; step++)
        fetch_tile<T, THREADS>(xs + step * A, ROWS, (const T *)p.in, row0, rows, step * NOC_TILE_DEPTH,
                               p.depth);
    fetch(0);
#pragma unroll 1
    for (int step = 0; step < all; step++) {
        copy_wait<0>();
        __syncthreads();
        if (step + 1 < all)
            fetch(step + 1);
        multiply<T, 4>(d, xs + step % steps * A, wm, ws + (step & 1) * W, wn);
        if (step % steps < steps - 1)
            continue;
        int tile = step / steps, first = tile * TILE + wn;
        if (tile < tail_tiles)
            square_tail(d, squares, p.bias ? p.bias + p.columns + first : nullptr, p.tail - first);
        else
            stage_sums<4>(stage, PITCH, d, wm, (tile - tail_tiles) * TILE + wn);
#pragma unroll
        for (int i = 0; i < 32; i++)
            d[i / 16][i / 4 % 4][i % 4] = 0;
    }
    share_squares(&tail_squares[warp % 4][wm], squares);
    __syncthreads();
#pragma unroll 1
    for (int row = warp; row < ROWS && row0 + row < rows; row += WARPS) {
        float factor = 1;
        if (p.tail > 0)
            factor = rsqrtf(p.tail_constant + tail_squares[0][row] + tail_squares[1][row] +
                            tail_squares[2][row] + tail_squares[3][row]);
        finish_token<T>(p, stage + row * PITCH, factor, row0 + row);
    }
}

extern "C" bool noc_cuda_decoder_fits(const noc_cuda_decoder *p)
{
    return p->batch > 0 && p->depth > 0 && p->depth % 8 == 0 && p->depth <= DEPTH_MOST && p->columns > 0 &&
           p->columns % 8 == 0 && p->columns <= COLUMNS_MOST && p->classes > 0 && p->term_count >= 0 &&
           p->term_count <= NOC_CUDA_DECODER_TERMS;
}

template <class T> static cudaError_t launch_decoder(const noc_cuda_decoder &p, cudaStream_t stream)
{
    int rows = p.batch * p.grid[0] * p.grid[1] * p.grid[2];
    return launch(decoder_kernel<T>, dim3(parts(rows, ROWS)), THREADS,
                  FIXED + parts(p.depth, NOC_TILE_DEPTH) * A, stream, p);
}

extern "C" cudaError_t noc_cuda_decoder_launch(const noc_cuda_decoder *decoder, noc_cuda_type type,
                                               cudaStream_t stream)
{
    if (!noc_cuda_decoder_fits(decoder))
        return cudaErrorInvalidValue;
    return type == NOC_CUDA_F16 ? launch_decoder<__half>(*decoder, stream)
                                : launch_decoder<__nv_bfloat16>(*decoder, stream);
}
