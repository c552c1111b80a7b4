// ATTENTION of any head: a block keeps 32 keys and values at a time in shared memory and streams them past
// its 16 queries, four a warp. While scores are computed a lane is a key, while values are added it is every
// 32nd dimension; softmax runs along (largest score and sum so far). The order of all sums is that of the
// keys.
#include "engine/cuda/element.cuh"

enum { WARPS = 4, QUERIES = 4 /* of a warp */, KEYS = 32 };

// Shared memory, in floats: keys [KEYS][dim + 1], values [KEYS][dim], queries [WARPS][dim][QUERIES],
// weights [WARPS][KEYS][QUERIES]. The two last are read as float4.
struct attention_shared {
    float *keys, *values, *queries, *weights;
};

static __host__ __device__ __forceinline__ int aligned_keys(int dim)
{
    return (KEYS * (dim + 1) + 3) / 4 * 4;
}

static __host__ __device__ __forceinline__ int shared_floats(int dim)
{
    return aligned_keys(dim) + KEYS * dim + WARPS * QUERIES * (dim + KEYS);
}

static __device__ __forceinline__ attention_shared carve(int dim, int warp)
{
    attention_shared s;
    s.keys = (float *)shared_bytes;
    s.values = s.keys + aligned_keys(dim);
    s.queries = s.values + KEYS * dim + warp * dim * QUERIES;
    s.weights = s.values + KEYS * dim + WARPS * dim * QUERIES + warp * KEYS * QUERIES;
    return s;
}

static __device__ __forceinline__ float warp_max(float x)
{
    for (int bits = 16; bits > 0; bits /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, bits));
    return x;
}

static __device__ __forceinline__ float warp_sum(float x)
{
    for (int bits = 16; bits > 0; bits /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, bits);
    return x;
}

// Keys [first, first + KEYS), zeros behind the last.
template <class T>
static __device__ __forceinline__ void load_keys(const noc_cuda_attention &a, const T *kv, int first,
                                                 const attention_shared &s)
{
    int width = a.heads * a.dim, row = 2 * width + a.has_scores;
    for (int i = threadIdx.x; i < KEYS * a.dim; i += WARPS * 32) {
        int key = i / a.dim, d = i % a.dim;
        bool is_inside = first + key < a.keys;
        const T *from = kv + (int64_t)(first + key) * row + d;
        s.keys[key * (a.dim + 1) + d] = is_inside ? number_of(from[0]) : 0;
        s.values[key * a.dim + d] = is_inside ? number_of(from[width]) : 0;
    }
}

// Weights of this lane's key for the warp's queries; largest and sum are brought up to date, shrink is what
// the outputs so far have to be multiplied with.
static __device__ __forceinline__ void weigh(const noc_cuda_attention &a, const attention_shared &s,
                                             bool is_inside, float own, float largest[QUERIES],
                                             float sum[QUERIES], float shrink[QUERIES])
{
    int lane = threadIdx.x % 32;
    float scores[QUERIES] = {};
    for (int d = 0; d < a.dim; d++) {
        float key = s.keys[lane * (a.dim + 1) + d];
        float4 q = *(const float4 *)(s.queries + d * QUERIES);
        scores[0] += q.x * key;
        scores[1] += q.y * key;
        scores[2] += q.z * key;
        scores[3] += q.w * key;
    }
    for (int i = 0; i < QUERIES; i++) {
        float score = is_inside ? a.scale * scores[i] + own : -INFINITY;
        shrink[i] = 1;
        if (__any_sync(0xffffffffu, score > largest[i])) {
            float top = fmaxf(largest[i], warp_max(score));
            shrink[i] = expf(largest[i] - top);
            largest[i] = top;
        }
        float weight = expf(score - largest[i]);
        sum[i] = sum[i] * shrink[i] + weight;
        s.weights[lane * QUERIES + i] = weight;
    }
}

// PARTS: dimensions of a lane.
template <class T, int PARTS>
__global__ void __launch_bounds__(WARPS * 32, PARTS <= 2   ? 6
                                              : PARTS <= 4 ? 3
                                                           : 1) attention_kernel(noc_cuda_attention a)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, width = a.heads * a.dim;
    int row = 2 * width + a.has_scores, first_query = (blockIdx.x * WARPS + warp) * QUERIES;
    attention_shared s = carve(a.dim, warp);
    int64_t at = (int64_t)blockIdx.z * a.queries * width + blockIdx.y * a.dim;
    const T *q = (const T *)a.q + at,
            *kv = (const T *)a.kv + (int64_t)blockIdx.z * a.keys * row + blockIdx.y * a.dim;
    const T *own = (const T *)a.kv + (int64_t)blockIdx.z * a.keys * row + row - 1;
    float out[QUERIES][PARTS] = {}, largest[QUERIES], sum[QUERIES] = {}, shrink[QUERIES];
    for (int i = 0; i < QUERIES; i++) {
        largest[i] = -INFINITY;
        for (int d = lane; d < a.dim; d += 32)
            s.queries[d * QUERIES + i] =
                first_query + i < a.queries ? number_of(q[(int64_t)(first_query + i) * width + d]) : 0;
    }
    for (int first = 0; first < a.keys; first += KEYS) {
        bool is_inside = first + lane < a.keys;
        __syncthreads();
        load_keys(a, kv, first, s);
        __syncthreads();
        weigh(a, s, is_inside, a.has_scores && is_inside ? number_of(own[(int64_t)(first + lane) * row]) : 0,
              largest, sum, shrink);
        __syncwarp();
#pragma unroll
        for (int part = 0; part < PARTS; part++)
            for (int i = 0; i < QUERIES; i++)
                out[i][part] *= shrink[i];
        for (int key = 0; key < KEYS; key++) {
            float4 weight = *(const float4 *)(s.weights + key * QUERIES);
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
                int d = lane + 32 * part;
                float value = d < a.dim ? s.values[key * a.dim + d] : 0;
                out[0][part] += weight.x * value;
                out[1][part] += weight.y * value;
                out[2][part] += weight.z * value;
                out[3][part] += weight.w * value;
            }
        }
    }
    for (int i = 0; i < QUERIES; i++)
        sum[i] = warp_sum(sum[i]);
#pragma unroll
    for (int part = 0; part < PARTS; part++)
        for (int i = 0; i < QUERIES; i++) {
            int64_t to = at + (int64_t)(first_query + i) * width + lane + 32 * part;
            if (first_query + i >= a.queries || lane + 32 * part >= a.dim)
                continue;
            float value = out[i][part] / sum[i];
            store((T *)a.out + to, a.residual ? value + number_of(((const T *)a.residual)[to]) : value);
        }
}

template <class T, int PARTS> static cudaError_t launch(cudaStream_t stream, const noc_cuda_attention *a)
{
    const unsigned queries = WARPS * QUERIES;
    cudaLaunchConfig_t config = launch_config(
        stream, dim3(((unsigned)a->queries + queries - 1) / queries, (unsigned)a->heads, (unsigned)a->batch),
        WARPS * 32);
    config.dynamicSmemBytes = (size_t)shared_floats(a->dim) * sizeof(float);
    cudaError_t error =
        cudaFuncSetAttribute(attention_kernel<T, PARTS>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             shared_floats(a->dim) * (int)sizeof(float));
    return error == cudaSuccess ? cudaLaunchKernelEx(&config, attention_kernel<T, PARTS>, *a) : error;
}

extern "C" cudaError_t noc_cuda_attention_run(cudaStream_t stream, const noc_cuda_attention *a)
{
    return with_type(a->type, [&](auto element) {
        typedef decltype(element) T;
        return a->dim <= 32    ? launch<T, 1>(stream, a)
               : a->dim <= 64  ? launch<T, 2>(stream, a)
               : a->dim <= 128 ? launch<T, 4>(stream, a)
                               : launch<T, NOC_CUDA_HEAD_DIM_MOST / 32>(stream, a);
    });
}
