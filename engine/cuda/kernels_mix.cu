// SUM and CONCAT: inputs on their own grids, resized where they are read.
#include "engine/cuda/element.cuh"

// Channel c of the place at (d, h, w) of `grid` in an input.
template <class T>
static __device__ __forceinline__ float resized(const T *in, const int in_grid[3], int channels,
                                                const int grid[3], const int at[3], int c)
{
    between b[3];
    for (int a = 0; a < 3; a++)
        b[a] = source_of(at[a], in_grid[a], grid[a]);
    float along_d[2];
    for (int i = 0; i < 2; i++) {
        float along_h[2];
        for (int j = 0; j < 2; j++) {
            const T *line =
                in + ((int64_t)(i ? b[0].high : b[0].low) * in_grid[1] + (j ? b[1].high : b[1].low)) *
                         in_grid[2] * channels;
            along_h[j] = mixed(number_of(line[(int64_t)b[2].low * channels + c]),
                               number_of(line[(int64_t)b[2].high * channels + c]), b[2].share);
        }
        along_d[i] = mixed(along_h[0], along_h[1], b[1].share);
    }
    return mixed(along_d[0], along_d[1], b[0].share);
}

template <class T>
__global__ void __launch_bounds__(THREADS_OF_A_LINE, BLOCKS_OF_A_LINE) mix_kernel(noc_cuda_mix m)
{
    int64_t i = line_index(), left = i / m.channels;
    int c = (int)(i % m.channels), at[3];
    for (int a = 2; a >= 0; a--) {
        at[a] = (int)(left % m.grid[a]);
        left /= m.grid[a];
    }
    if (left >= m.batch)
        return;
    float sum = !m.is_concat && m.bias ? m.bias[c] : 0;
    for (int k = 0, column = c; k < m.inputs; k++) {
        if (!m.is_concat || (column >= 0 && column < m.in_channels[k]))
            sum += resized((const T *)m.in[k] +
                               left * m.in_grid[k][0] * m.in_grid[k][1] * m.in_grid[k][2] * m.in_channels[k],
                           m.in_grid[k], m.in_channels[k], m.grid, at, column);
        column -= m.is_concat ? m.in_channels[k] : 0;
    }
    store((T *)m.out + i, activate(m.activation, sum));
}

extern "C" cudaError_t noc_cuda_mix_run(cudaStream_t stream, const noc_cuda_mix *m)
{
    return with_type(m->type, [&](auto element) {
        cudaLaunchConfig_t config =
            line_config(stream, (int64_t)m->batch * m->grid[0] * m->grid[1] * m->grid[2] * m->channels);
        return cudaLaunchKernelEx(&config, mix_kernel<decltype(element)>, *m);
    });
}
