// LAYER_NORM, AFFINE and ACTIVATION, and what enters and leaves the network.
#include "engine/cuda/element.cuh"

enum { WARPS = 8 };

static __device__ __forceinline__ float warp_sum(float x)
{
    for (int bits = 16; bits > 0; bits /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, bits);
    return x;
}

// A warp a row: mean, then variance (never the difference of two large sums), then the row again from the
// cache.
template <class T>
__global__ void __launch_bounds__(WARPS * 32, BLOCKS_OF_A_LINE) layer_norm_kernel(noc_cuda_tokens t)
{
    int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    int lane = threadIdx.x % 32;
    if (row >= t.rows)
        return; // the whole warp
    const T *in = (const T *)t.in + row * t.channels;
    T *out = (T *)t.out + row * t.channels;
    float sum = 0, squares = 0;
    for (int c = lane; c < t.channels; c += 32)
        sum += number_of(in[c]);
    float mean = warp_sum(sum) / t.channels;
    for (int c = lane; c < t.channels; c += 32)
        squares += (number_of(in[c]) - mean) * (number_of(in[c]) - mean);
    float scale = 1 / sqrtf(warp_sum(squares) / t.channels + t.eps);
    for (int c = lane; c < t.channels; c += 32) {
        float x = (number_of(in[c]) - mean) * scale;
        store(out + c, x * (t.weight ? t.weight[c] : 1) + (t.bias ? t.bias[c] : 0));
    }
}

template <class T>
__global__ void __launch_bounds__(THREADS_OF_A_LINE, BLOCKS_OF_A_LINE) pointwise_kernel(noc_cuda_tokens t)
{
    int64_t i = line_index();
    if (i >= t.rows * t.channels)
        return;
    int c = (int)(i % t.channels);
    float x = number_of(((const T *)t.in)[i]) * (t.weight ? t.weight[c] : 1) + (t.bias ? t.bias[c] : 0);
    store((T *)t.out + i, activate(t.activation, x));
}

template <class T>
__global__ void __launch_bounds__(THREADS_OF_A_LINE, BLOCKS_OF_A_LINE)
    take_kernel(const float *in, int is_planar, T *out, int64_t count, int64_t rows, int channels)
{
    int64_t i = line_index(), row = i / channels % rows, window = i / channels / rows;
    if (i < count)
        store(out + i, in[is_planar ? (window * channels + i % channels) * rows + row : i]);
}

template <class T>
__global__ void __launch_bounds__(THREADS_OF_A_LINE, BLOCKS_OF_A_LINE)
    give_kernel(const T *in, float *out, int64_t count, int64_t rows, int channels)
{
    int64_t i = line_index();
    if (i < count)
        out[i % channels * rows + i / channels] = number_of(in[i]); // of a few channels: whole sectors
}

extern "C" cudaError_t noc_cuda_layer_norm_run(cudaStream_t stream, const noc_cuda_tokens *t)
{
    return with_type(t->type, [&](auto element) {
        cudaLaunchConfig_t config =
            launch_config(stream, dim3((unsigned)((t->rows + WARPS - 1) / WARPS)), WARPS * 32);
        return cudaLaunchKernelEx(&config, layer_norm_kernel<decltype(element)>, *t);
    });
}

extern "C" cudaError_t noc_cuda_pointwise_run(cudaStream_t stream, const noc_cuda_tokens *t)
{
    return with_type(t->type, [&](auto element) {
        cudaLaunchConfig_t config = line_config(stream, t->rows * t->channels);
        return cudaLaunchKernelEx(&config, pointwise_kernel<decltype(element)>, *t);
    });
}

extern "C" cudaError_t noc_cuda_take_run(cudaStream_t stream, noc_cuda_type type, const float *in,
                                         int is_planar, void *out, int batch, int64_t rows, int channels)
{
    return with_type(type, [&](auto element) {
        typedef decltype(element) T;
        int64_t count = batch * rows * channels;
        cudaLaunchConfig_t config = line_config(stream, count);
        return cudaLaunchKernelEx(&config, take_kernel<T>, in, is_planar, (T *)out, count, rows, channels);
    });
}

extern "C" cudaError_t noc_cuda_give_run(cudaStream_t stream, noc_cuda_type type, const void *in, float *out,
                                         int64_t rows, int channels)
{
    return with_type(type, [&](auto element) {
        typedef decltype(element) T;
        int64_t count = rows * channels;
        cudaLaunchConfig_t config = line_config(stream, count);
        return cudaLaunchKernelEx(&config, give_kernel<T>, (const T *)in, out, count, rows, channels);
    });
}
