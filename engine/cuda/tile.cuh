// What the half precision kernels share: the two element types, swizzled tiles of 64-byte rows, a warp's
// 32 x 32 part of a product, and the way of its sums through shared memory to coalesced stores.
#pragma once
#include "engine/cuda/fused.h"
#include "engine/cuda/mma.cuh"
#include "engine/cuda/vector.cuh"

enum { NOC_TILE_DEPTH = 32, NOC_ROW_BYTES = NOC_TILE_DEPTH * 2, NOC_STAGE_SLACK = 8 };
static constexpr unsigned ALL_LANES = 0xffffffffu;

template <class T> struct element;
template <class T> static constexpr noc_cuda_type type_of = NOC_CUDA_F16;
template <> constexpr noc_cuda_type type_of<__nv_bfloat16> = NOC_CUDA_BF16;

template <> struct element<__half> {
    static constexpr uint32_t ONES = 0x3c003c00; // two of them
    static __device__ __forceinline__ uint32_t pack(float low, float high)
    {
        return pack_half2(low, high);
    }
    static __device__ __forceinline__ float2 unpack(uint32_t v)
    {
        return unpack_half2(v);
    }
    // What is beyond the end becomes the end, not an infinity that later turns into no number.
    static __device__ __forceinline__ uint32_t pack_finite(float low, float high)
    {
        return pack_finite_half2(low, high);
    }
    static __device__ __forceinline__ __half round(float v)
    {
        return __float2half_rn(v > 65504 ? 65504 : v < -65504 ? -65504 : v);
    }
    static __device__ __forceinline__ void mma(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
    {
        mma_f16(d, a, b0, b1);
    }
};

template <> struct element<__nv_bfloat16> {
    static constexpr uint32_t ONES = 0x3f803f80;
    static __device__ __forceinline__ uint32_t pack(float low, float high)
    {
        __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
        return *reinterpret_cast<uint32_t *>(&v);
    }
    static __device__ __forceinline__ uint32_t pack_finite(float low, float high)
    {
        return pack(low, high);
    }
    static __device__ __forceinline__ __nv_bfloat16 round(float v)
    {
        return __float2bfloat16_rn(v);
    }
    static __device__ __forceinline__ float2 unpack(uint32_t v)
    {
        return make_float2(__uint_as_float(v << 16), __uint_as_float(v & 0xffff0000u));
    }
    static __device__ __forceinline__ void mma(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
    {
        mma_bf16(d, a, b0, b1);
    }
};

template <class T> static __device__ __forceinline__ uint32_t pack_finite(float low, float high)
{
    return element<T>::pack_finite(low, high);
}

// Eight elements of a 16-byte chunk.
template <class T> static __device__ __forceinline__ void unpack8(const uint4 &chunk, float v[8])
{
    const uint32_t pairs[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float2 p = element<T>::unpack(pairs[i]);
        v[2 * i] = p.x, v[2 * i + 1] = p.y;
    }
}

template <class T> static __device__ __forceinline__ uint4 pack8(const float v[8])
{
    return make_uint4(element<T>::pack(v[0], v[1]), element<T>::pack(v[2], v[3]),
                      element<T>::pack(v[4], v[5]), element<T>::pack(v[6], v[7]));
}

// Chunk c (of 4) of a row: eight rows at one chunk touch all 32 banks, so neither copies nor ldmatrix wait.
static __device__ __forceinline__ unsigned char *chunk_at(unsigned char *tile, int row, int c)
{
    return tile + row * NOC_ROW_BYTES + (c ^ (row >> 1 & 3)) * 16;
}

// `tall` rows and 32 columns of a matrix [rows][depth], from (row, k) on; zeros outside of it. A thread's
// rows are STEP apart, so it has one place in the swizzle.
template <class T, int THREADS>
static __device__ __forceinline__ void fetch_tile(unsigned char *tile, int tall, const T *from, int row,
                                                  int rows, int k, int depth)
{
    enum { STEP = THREADS / 4 };
    static_assert(STEP % 8 == 0, "the swizzle repeats");
    int own = threadIdx.x / 4, at = k + threadIdx.x % 4 * 8, left = at < depth ? rows - row : 0;
    unsigned char *to = chunk_at(tile, own, threadIdx.x % 4);
    const T *source = from + ((size_t)row + own) * depth + at;
#pragma unroll
    for (int r = 0; r < tall; r += STEP, to += STEP * NOC_ROW_BYTES, source += (size_t)STEP * depth)
        if (tall % STEP == 0 || own + r < tall)
            copy16_async(to, source, own + r < left);
}

// d += 32 rows times rows [column, column + 8 * NJ) of ws, both 32 deep. left(i, c): where this lane's row
// i (of 0, 16) + lane % 16 has its chunk c. NJ is even.
template <class T, int NJ, class F>
static __device__ __forceinline__ void multiply_rows(float d[2][NJ][4], F left, unsigned char *ws, int column)
{
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int c = 0; c < 4; c += 2) {
        uint32_t a[2][4];
        for (int i = 0; i < 2; i++)
            load_matrix4(a[i], left(16 * i, c + lane / 16));
#pragma unroll
        for (int j = 0; j < NJ; j += 2) {
            uint32_t b[4];
            load_matrix4(b, chunk_at(ws, column + 8 * j + lane % 8 + lane / 16 * 8, c + lane / 8 % 2));
#pragma unroll
            for (int i = 0; i < 2; i++) {
                element<T>::mma(d[i][j], a[i], b[0], b[1]);
                element<T>::mma(d[i][j + 1], a[i], b[2], b[3]);
            }
        }
    }
}

// The same with rows [row, row + 32) of the tile xs.
template <class T, int NJ>
static __device__ __forceinline__ void multiply(float d[2][NJ][4], unsigned char *xs, int row,
                                                unsigned char *ws, int column)
{
    multiply_rows<T, NJ>(
        d, [&](int i, int c) { return chunk_at(xs, row + i + (int)threadIdx.x % 16, c); }, ws, column);
}

// Sums into rows of `pitch` floats, a multiple of 8 but not of 16: then no two lanes meet in a bank.
template <int NJ>
static __device__ __forceinline__ void stage_sums(float *stage, int pitch, const float d[2][NJ][4], int row,
                                                  int column)
{
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < NJ; j++)
#pragma unroll
            for (int h = 0; h < 2; h++)
                put(stage + (row + 16 * i + lane / 4 + 8 * h) * pitch + column + 8 * j + lane % 4 * 2,
                    make_float2(d[i][j][2 * h], d[i][j][2 * h + 1]));
}

static __host__ __device__ __forceinline__ int parts(int n, int size)
{
    return (n + size - 1) / size;
}

// With erfc(|v| / sqrt 2) as 2 to a polynomial, fitted over [0, 6] for this; behind it, it falls on. The
// error is at most 6e-7 and, of results below zero, 1 % of the distance of two f16. erff takes twice the
// instructions.
static __device__ __forceinline__ float gelu(float v)
{
    const float fit[] = {-1.5218664e-06f, 5.620184e-05f, -0.0008944845f, 0.008389574f,
                         -0.05376052f,    -0.4586283f,   -1.1511959f};
    float x = fabsf(v), power = fit[0];
#pragma unroll
    for (int i = 1; i < 7; i++)
        power = power * x + fit[i];
    return fmaxf(v, 0) - x * exp2_fast(power * x - 1);
}

static __device__ __forceinline__ float activate(float v, noc_cuda_activation activation)
{
    if (activation == NOC_CUDA_GELU)
        return gelu(v);
    return activation == NOC_CUDA_RELU ? fmaxf(v, 0) : v;
}

static __device__ __forceinline__ float sum_of_quad(float v)
{
    v += __shfl_xor_sync(ALL_LANES, v, 1);
    return v + __shfl_xor_sync(ALL_LANES, v, 2);
}

// Adds the squares of a finished tile of the tail and clears it.
template <int NJ>
static __device__ __forceinline__ void square_tail(float d[2][NJ][4], float squares[2][2], const float *bias,
                                                   int columns_left)
{
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < NJ; j++) {
        int column = 8 * j + lane % 4 * 2;
        const float add[2] = {bias && column < columns_left ? bias[column] : 0,
                              bias && column + 1 < columns_left ? bias[column + 1] : 0};
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int v = 0; v < 4; v++) {
                float y = d[i][j][v] + add[v % 2];
                squares[i][v / 2] += y * y;
                d[i][j][v] = 0;
            }
    }
}

// The squares of a warp's 32 rows, summed over its columns, to `rows`.
static __device__ __forceinline__ void share_squares(float *rows, const float squares[2][2])
{
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float sum = sum_of_quad(squares[i / 2][i % 2]);
        if (lane % 4 == 0)
            rows[i / 2 * 16 + i % 2 * 8 + lane / 4] = sum;
    }
}

// A launch with its dynamic shared memory allowed. 48 KiB are without asking, for static memory too.
template <class... P, class... A>
static cudaError_t launch(void (*kernel)(P...), dim3 grid, int threads, int shared, cudaStream_t stream,
                          const A &...arguments)
{
    cudaError_t e = cudaSuccess;
    if (shared > 32 << 10)
        e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
    if (e != cudaSuccess)
        return e;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    return cudaLaunchKernelEx(&config, kernel, arguments...);
}
