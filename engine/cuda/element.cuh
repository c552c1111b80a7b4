// What all kernels share: elements in memory and numbers in registers, activations, places between samples,
// launches. Kernels are compiled twice, by nvcc and, for tests, by the host's compiler against
// tests/emulation; so launches go through cudaLaunchKernelEx only, and dynamic shared memory has this one
// name.
#pragma once
#include "engine/cuda/kernels.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

extern __shared__ __align__(128) unsigned char shared_bytes[];

static __device__ __forceinline__ float number_of(float x)
{
    return x;
}

static __device__ __forceinline__ float number_of(__half x)
{
    return __half2float(x);
}

static __device__ __forceinline__ float number_of(__nv_bfloat16 x)
{
    return __bfloat162float(x);
}

static __device__ __forceinline__ void store(float *to, float x)
{
    *to = x;
}

// What is beyond the end of f16 becomes its end, not an infinity that later turns into no number.
static __device__ __forceinline__ void store(__half *to, float x)
{
    *to = __float2half_rn(x > 65504 ? 65504 : x < -65504 ? -65504 : x);
}

static __device__ __forceinline__ void store(__nv_bfloat16 *to, float x)
{
    *to = __float2bfloat16_rn(x);
}

static __device__ __forceinline__ float activate(noc_cuda_activation activation, float x)
{
    if (activation == NOC_CUDA_GELU)
        return 0.5f * x * (1 + erff(x * 0.70710678f));
    return activation == NOC_CUDA_RELU && x < 0 ? 0 : x;
}

// Two samples of an axis and the share of the second.
struct between {
    int low, high;
    float share;
};

// Where sample `at` of `out` lies between the `in` samples of its source (trilinear, align_corners false):
// the place is (at + 1/2) in / out - 1/2, in whole numbers, so that no rounding moves it. Both are below
// 2^15.
static __host__ __device__ __forceinline__ between source_of(int at, int in, int out)
{
    int place = (2 * at + 1) * in - out, whole = 2 * out;
    between b;
    place = place < 0 ? 0 : place;
    b.low = place / whole;
    b.share = (float)(place % whole) / (float)whole;
    if (b.low >= in - 1) {
        b.low = in - 1;
        b.share = 0;
    }
    b.high = b.share > 0 ? b.low + 1 : b.low;
    return b;
}

static __device__ __forceinline__ float mixed(float a, float b, float share)
{
    return a + share * (b - a);
}

static inline cudaLaunchConfig_t launch_config(cudaStream_t stream, dim3 blocks, int threads)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = blocks;
    config.blockDim = dim3(threads);
    config.stream = stream;
    return config;
}

// Blocks: that a multiprocessor holds at least.
enum { THREADS_OF_A_LINE = 256, BLOCKS_OF_A_LINE = 4 };

// A kernel whose thread i makes element i of `count`.
static inline cudaLaunchConfig_t line_config(cudaStream_t stream, int64_t count)
{
    return launch_config(stream, dim3((unsigned)((count + THREADS_OF_A_LINE - 1) / THREADS_OF_A_LINE)),
                         THREADS_OF_A_LINE);
}

static __device__ __forceinline__ int64_t line_index()
{
    return (int64_t)blockIdx.x * THREADS_OF_A_LINE + threadIdx.x;
}

// call(T()) with the type of the elements.
template <class CALL> static inline cudaError_t with_type(noc_cuda_type type, CALL call)
{
    return type == NOC_CUDA_F16    ? call(__half())
           : type == NOC_CUDA_BF16 ? call(__nv_bfloat16())
                                   : call(float());
}
