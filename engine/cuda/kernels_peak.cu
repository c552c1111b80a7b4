// Arithmetic in registers alone: what the device can do at most.
#include "engine/cuda/element.cuh"

enum { CHAINS = 8 };

__global__ void __launch_bounds__(THREADS_OF_A_LINE, BLOCKS_OF_A_LINE) peak_kernel(int rounds, float *sink)
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

extern "C" cudaError_t noc_cuda_peak_run(cudaStream_t stream, int blocks, int rounds, float *sink,
                                         double *flop)
{
    cudaLaunchConfig_t config = launch_config(stream, dim3((unsigned)blocks), THREADS_OF_A_LINE);
    *flop = 2.0 * CHAINS * rounds * THREADS_OF_A_LINE * blocks;
    return cudaLaunchKernelEx(&config, peak_kernel, rounds, sink);
}
