// DWCONV: a thread makes a strip along W of one channel, with the columns of its three neighbours in
// registers, so that an input is loaded nine times and not 27. Threads next to each other have channels next
// to each other.
#include "engine/cuda/element.cuh"

enum { STRIP = 4 };

template <class T>
__global__ void __launch_bounds__(THREADS_OF_A_LINE, BLOCKS_OF_A_LINE) depthwise_kernel(noc_cuda_depthwise p)
{
    int strips = (p.grid[2] + STRIP - 1) / STRIP, c = (int)(line_index() % p.channels);
    int64_t left = line_index() / p.channels;
    int first = (int)(left % strips) * STRIP, h = (int)(left / strips % p.grid[1]);
    int d = (int)(left / strips / p.grid[1] % p.grid[0]);
    int64_t window = left / strips / p.grid[1] / p.grid[0];
    if (window >= p.batch)
        return;
    float sums[STRIP];
    for (int i = 0; i < STRIP; i++)
        sums[i] = p.bias ? p.bias[c] : 0;
    for (int row = 0; row < 9; row++) {
        int from_d = d + row / 3 - 1, from_h = h + row % 3 - 1;
        if (from_d < 0 || from_h < 0 || from_d >= p.grid[0] || from_h >= p.grid[1])
            continue;
        const T *in = (const T *)p.in +
                      ((window * p.grid[0] + from_d) * p.grid[1] + from_h) * p.grid[2] * p.channels + c;
        float taps[3], line[STRIP + 2];
        for (int i = 0; i < 3; i++)
            taps[i] = p.weight[(row * 3 + i) * p.channels + c];
#pragma unroll
        for (int i = 0; i < STRIP + 2; i++) {
            int w = first + i - 1;
            line[i] = w >= 0 && w < p.grid[2] ? number_of(in[(int64_t)w * p.channels]) : 0;
        }
#pragma unroll
        for (int i = 0; i < STRIP; i++)
            sums[i] += taps[0] * line[i] + taps[1] * line[i + 1] + taps[2] * line[i + 2];
    }
    T *out = (T *)p.out + (((window * p.grid[0] + d) * p.grid[1] + h) * p.grid[2] + first) * p.channels + c;
    for (int i = 0; i < STRIP && first + i < p.grid[2]; i++)
        store(out + (int64_t)i * p.channels, activate(p.activation, sums[i]));
}

extern "C" cudaError_t noc_cuda_depthwise_run(cudaStream_t stream, const noc_cuda_depthwise *d)
{
    return with_type(d->type, [&](auto element) {
        int64_t strips = (d->grid[2] + STRIP - 1) / STRIP;
        cudaLaunchConfig_t config =
            line_config(stream, (int64_t)d->batch * d->grid[0] * d->grid[1] * strips * d->channels);
        return cudaLaunchKernelEx(&config, depthwise_kernel<decltype(element)>, *d);
    });
}
