// Arithmetic in registers alone: what the device can do at most. Fused multiply-adds in f32; in half
// precision the matrix instructions of the kernels that compute products.
#include "engine/cuda/element.cuh"
#include "engine/cuda/tile.cuh"

enum { CHAINS = 8, FLOP_OF_MMA = 2 * 16 * 8 * 16 };

__global__ void __launch_bounds__(THREADS_OF_A_LINE, BLOCKS_OF_A_LINE)
    vector_peak_kernel(int rounds, float *sink)
{
    float x[CHAINS], factor = sink[0], sum = 0;
    for (int i = 0; i < CHAINS; i++)
        x[i] = (float)(threadIdx.x + i);
    for (int round = 0; round < rounds; round++)
#pragma unroll
        for (int i = 0; i < CHAINS; i++)
            x[i] = x[i] * factor + factor;
    for (int i = 0; i < CHAINS; i++)
        sum += x[i];
    if (sum == -1) // never: so that the sums are needed
        sink[1] = sum;
}

template <class T>
__global__ void __launch_bounds__(THREADS_OF_A_LINE, BLOCKS_OF_A_LINE)
    product_peak_kernel(int rounds, float *sink)
{
    const uint32_t factor = element<T>::pack(sink[0], sink[0]), a[4] = {factor, factor, factor, factor};
    float d[CHAINS][4], sum = 0;
    for (int i = 0; i < CHAINS; i++)
        for (int j = 0; j < 4; j++)
            d[i][j] = (float)(threadIdx.x + i);
    for (int round = 0; round < rounds; round++)
#pragma unroll
        for (int i = 0; i < CHAINS; i++)
            element<T>::mma(d[i], a, factor, factor);
    for (int i = 0; i < CHAINS; i++)
        for (int j = 0; j < 4; j++)
            sum += d[i][j];
    if (sum == -1) // never
        sink[1] = sum;
}

extern "C" cudaError_t noc_cuda_peak_run(cudaStream_t stream, noc_cuda_type type, int blocks, int rounds,
                                         float *sink, double *flop)
{
    cudaLaunchConfig_t config = launch_config(stream, dim3((unsigned)blocks), THREADS_OF_A_LINE);
    double chains = (double)CHAINS * rounds * THREADS_OF_A_LINE * blocks;
    *flop = type == NOC_CUDA_F32 ? 2 * chains : FLOP_OF_MMA * chains / 32;
    return cudaLaunchKernelEx(&config,
                              type == NOC_CUDA_F32   ? vector_peak_kernel
                              : type == NOC_CUDA_F16 ? product_peak_kernel<__half>
                                                     : product_peak_kernel<__nv_bfloat16>,
                              rounds, sink);
}
