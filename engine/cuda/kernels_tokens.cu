// LAYER_NORM, AFFINE and ACTIVATION, and what enters and leaves the network.
#include "engine/cuda/element.cuh"
#include "engine/cuda/vector.cuh"

// Four elements in one access.
template <class T> struct four;
template <> struct four<float> {
    typedef uint4 type;
};
template <> struct four<__half> {
    typedef uint2 type;
};
template <> struct four<__nv_bfloat16> {
    typedef uint2 type;
};

// V elements, of 1 or 4, from and to memory.
template <class T, int V> static __device__ __forceinline__ void load_elements(const T *from, float v[V])
{
    typedef typename four<T>::type vector;
    T elements[V];
    if (V == 1) {
        elements[0] = *from;
    } else {
        vector all = get<vector>(from);
        memcpy((void *)elements, &all, sizeof elements);
    }
    for (int i = 0; i < V; i++)
        v[i] = number_of(elements[i]);
}

template <class T, int V> static __device__ __forceinline__ void store_elements(T *to, const float v[V])
{
    typedef typename four<T>::type vector;
    T elements[V];
    for (int i = 0; i < V; i++)
        store(elements + i, v[i]);
    if (V == 1) {
        *to = elements[0];
    } else {
        vector all;
        memcpy(&all, elements, sizeof elements);
        put(to, all);
    }
}

static __device__ __forceinline__ float sum_of_lanes(float x, int lanes)
{
    for (int bits = lanes / 2; bits > 0; bits /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, bits);
    return x;
}

// So many lanes a row, a power of two, V channels each at a time: mean, then variance (never the difference
// of two large sums), then the row again from the cache.
template <class T, int V>
__global__ void __launch_bounds__(THREADS_OF_A_LINE, BLOCKS_OF_A_LINE)
    layer_norm_kernel(noc_cuda_tokens t, int lanes)
{
    int64_t row = line_index() / lanes;
    bool is_there = row < t.rows; // all lanes meet
    int64_t at = (is_there ? row : 0) * t.channels;
    int own = threadIdx.x % lanes * V;
    const T *in = (const T *)t.in + at;
    T *out = (T *)t.out + at;
    float v[V], factor[V], add[V], sum = 0, squares = 0;
    for (int c = own; c < t.channels; c += lanes * V) {
        load_elements<T, V>(in + c, v);
        for (int i = 0; i < V; i++)
            sum += v[i];
    }
    float mean = sum_of_lanes(sum, lanes) / t.channels;
    for (int c = own; c < t.channels; c += lanes * V) {
        load_elements<T, V>(in + c, v);
        for (int i = 0; i < V; i++)
            squares += (v[i] - mean) * (v[i] - mean);
    }
    float scale = 1 / sqrtf(sum_of_lanes(squares, lanes) / t.channels + t.eps);
    for (int c = own; c < t.channels && is_there; c += lanes * V) {
        load_elements<T, V>(in + c, v);
        if (t.weight)
            load_elements<float, V>(t.weight + c, factor);
        if (t.bias)
            load_elements<float, V>(t.bias + c, add);
        for (int i = 0; i < V; i++)
            v[i] = (v[i] - mean) * scale * (t.weight ? factor[i] : 1) + (t.bias ? add[i] : 0);
        store_elements<T, V>(out + c, v);
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

static __device__ __forceinline__ int turned(const noc_cuda_giving &g, int a, int at)
{
    return g.flips >> a & 1 ? g.grid[a] - 1 - at : at;
}

template <class T>
__global__ void __launch_bounds__(THREADS_OF_A_LINE, BLOCKS_OF_A_LINE) give_kernel(noc_cuda_giving g)
{
    int64_t i = line_index(), plane = (int64_t)g.grid[1] * g.grid[2], row = i / g.channels;
    if (row >= g.grid[0] * plane)
        return;
    int64_t place = turned(g, 0, (int)(row / plane)) * plane +
                    turned(g, 1, (int)(row % plane / g.grid[2])) * g.grid[2] +
                    turned(g, 2, (int)(row % g.grid[2]));
    float *out = g.out + i % g.channels * g.grid[0] * plane + place; // of a few channels: whole sectors
    float v = number_of(((const T *)g.in)[i]), sum = g.is_added ? *out + v : v;
    *out = g.mean_of > 1 ? sum / (float)g.mean_of : sum;
}

template <class T, int V> static cudaError_t run_layer_norm(cudaStream_t stream, const noc_cuda_tokens *t)
{
    int lanes = 1;
    while (lanes < 32 && lanes * V < t->channels)
        lanes *= 2;
    cudaLaunchConfig_t config = line_config(stream, t->rows * lanes);
    return cudaLaunchKernelEx(&config, layer_norm_kernel<T, V>, *t, lanes);
}

extern "C" cudaError_t noc_cuda_layer_norm_run(cudaStream_t stream, const noc_cuda_tokens *t)
{
    return with_type(t->type, [&](auto element) {
        typedef decltype(element) T;
        return t->channels % 4 == 0 ? run_layer_norm<T, 4>(stream, t) : run_layer_norm<T, 1>(stream, t);
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

extern "C" cudaError_t noc_cuda_give_run(cudaStream_t stream, const noc_cuda_giving *g)
{
    return with_type(g->type, [&](auto element) {
        cudaLaunchConfig_t config =
            line_config(stream, (int64_t)g->grid[0] * g->grid[1] * g->grid[2] * g->channels);
        return cudaLaunchKernelEx(&config, give_kernel<decltype(element)>, *g);
    });
}
