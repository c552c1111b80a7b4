// A block keeps keys and values of one head in shared memory, all of them where they fit and else a run at a
// time, and streams its queries past them, 16 a warp. Scores never leave registers: softmax in f32 with a
// running maximum, 32 keys a step. Queries, residuals and outputs pass through 16 rows of shared memory of
// the warp's own, so that global memory sees whole rows.
#include "engine/cuda/fused_attention.h"
#include "engine/cuda/tile.cuh"

enum { STEP = 32, WARPS = 8, THREADS = WARPS * 32, SPAN = 16 * WARPS, RUN_BYTES = 32 << 10 };
static constexpr float LOG2_E = 1.44269504f;
static constexpr int RESIDENT_BLOCKS =
    3 * 132; // of the largest device: only the cut of the work depends on it

// Heads of up to D columns, a multiple of 16; rows of keys in shared memory are that long, filled with zeros.
template <int D> struct head {
    enum {
        CHUNKS = D / 8,
        ROW = D * 2,
        RUN = D <= 32 ? 512 : 256, // keys
        BLOCKS = D <= 32 ? 3 : 2,
        SHARED = 2 * RUN * ROW + WARPS * 16 * ROW + RUN * 4
    };
    // Eight rows at one chunk touch all banks.
    static __device__ __forceinline__ unsigned char *at(unsigned char *tile, int row, int c)
    {
        const int turn = D == 16 ? row >> 2 & 1 : D == 32 ? row >> 1 & 3 : D == 48 ? row >> 2 & 1 : row & 7;
        return tile + row * ROW + (c ^ turn) * 16;
    }
};

static __device__ __forceinline__ float max_of_quad(float v)
{
    v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, 1));
    return fmaxf(v, __shfl_xor_sync(ALL_LANES, v, 2));
}

// Of 16 queries: their fragments, outputs so far, and of this lane's two rows the maximum and the sum.
template <int D> struct queries {
    uint32_t a[D / 16][4];
    float out[D / 8][4], top[2], sum[2];
};

// Scores of 16 queries with 32 keys, in powers of two. A bias is what a key adds: -inf behind the last key.
template <class T, int D>
static __device__ __forceinline__ void score_keys(float s[4][4], const uint32_t a[D / 16][4],
                                                  unsigned char *keys, const float *bias, float scale)
{
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < 4; n++) {
#pragma unroll
        for (int c = 0; c < D / 16; c += 2) {
            uint32_t b[4];
            // an odd last pair of chunks is read twice, and once used
            int chunk = c + 1 < D / 16 ? 2 * c + lane / 8 : 2 * c + lane / 8 % 2;
            load_matrix4(b, head<D>::at(keys, 8 * n + lane % 8, chunk));
            element<T>::mma(s[n], a[c], b[0], b[1]);
            if (c + 1 < D / 16)
                element<T>::mma(s[n], a[c + 1], b[2], b[3]);
        }
        int key = 8 * n + lane % 4 * 2;
        float2 add = get<float2>(bias + key);
#pragma unroll
        for (int i = 0; i < 4; i++)
            s[n][i] = s[n][i] * scale + (i % 2 ? add.y : add.x);
    }
}

template <class T, int D>
static __device__ __forceinline__ void attend(queries<D> &q, unsigned char *keys, unsigned char *values,
                                              const float *bias, float scale)
{
    int lane = threadIdx.x % 32;
    float s[4][4] = {};
    score_keys<T, D>(s, q.a, keys, bias, scale);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float top = fmaxf(s[0][2 * h], s[0][2 * h + 1]), sum = 0;
#pragma unroll
        for (int n = 1; n < 4; n++)
            top = fmaxf(top, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
        top = fmaxf(q.top[h], max_of_quad(top));
        float shrink = exp2_fast(q.top[h] - top);
        q.top[h] = top;
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int i = 2 * h; i < 2 * h + 2; i++) {
                s[n][i] = exp2_fast(s[n][i] - top);
                sum += s[n][i];
            }
        q.sum[h] = q.sum[h] * shrink + sum;
#pragma unroll
        for (int d = 0; d < D / 8; d++)
            q.out[d][2 * h] *= shrink, q.out[d][2 * h + 1] *= shrink;
    }
#pragma unroll
    for (int n = 0; n < 4; n += 2) {
        uint32_t p[4] = {element<T>::pack(s[n][0], s[n][1]), element<T>::pack(s[n][2], s[n][3]),
                         element<T>::pack(s[n + 1][0], s[n + 1][1]),
                         element<T>::pack(s[n + 1][2], s[n + 1][3])};
#pragma unroll
        for (int d = 0; d < D / 8; d += 2) {
            uint32_t b[4];
            load_matrix4_trans(b, head<D>::at(values, 8 * n + lane % 16, d + lane / 16));
            element<T>::mma(q.out[d], p, b[0], b[1]);
            element<T>::mma(q.out[d + 1], p, b[2], b[3]);
        }
    }
}

// `tall` rows of a head's columns, `step` elements apart, by threads [thread, ...) of `threads`.
template <int D, class T>
static __device__ __forceinline__ void fetch_rows(unsigned char *tile, int tall, const T *from, int rows,
                                                  size_t step, int dim, int thread, int threads)
{
#pragma unroll 1
    for (int i = thread; i < tall * head<D>::CHUNKS; i += threads) {
        int row = i / head<D>::CHUNKS, c = i % head<D>::CHUNKS;
        bool valid = row < rows && c * 8 < dim;
        copy16_async(head<D>::at(tile, row, c), valid ? from + row * step + c * 8 : from, valid);
    }
}

// The norm of the fragments' rows; columns from dim on stay zeros.
template <class T, int D>
static __device__ __forceinline__ void normalise(uint32_t a[D / 16][4], int dim, float eps)
{
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float sum = 0, square = 0;
#pragma unroll
        for (int i = h; i < D / 4; i += 2) {
            float2 v = element<T>::unpack(a[i / 4][i % 4]);
            sum += v.x + v.y;
        }
        float mean = sum_of_quad(sum) / dim;
#pragma unroll
        for (int i = h; i < D / 4; i += 2) {
            float2 v = element<T>::unpack(a[i / 4][i % 4]);
            if (i / 2 * 8 + lane % 4 * 2 < dim)
                square += (v.x - mean) * (v.x - mean) + (v.y - mean) * (v.y - mean);
        }
        float norm = rsqrtf(sum_of_quad(square) / dim + eps);
#pragma unroll
        for (int i = h; i < D / 4; i += 2) {
            float2 v = element<T>::unpack(a[i / 4][i % 4]);
            if (i / 2 * 8 + lane % 4 * 2 < dim)
                a[i / 4][i % 4] = element<T>::pack((v.x - mean) * norm, (v.y - mean) * norm);
        }
    }
}

template <class T, int D>
static __device__ __forceinline__ void begin(queries<D> &q, unsigned char *own,
                                             const noc_cuda_fused_attention &p)
{
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int c = 0; c < D / 16; c++)
        load_matrix4(q.a[c], head<D>::at(own, lane % 16, 2 * c + lane / 16));
    if (p.is_normed)
        normalise<T, D>(q.a, p.dim, p.eps);
#pragma unroll
    for (int d = 0; d < D / 8; d++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            q.out[d][i] = 0;
#pragma unroll
    for (int h = 0; h < 2; h++)
        q.top[h] = -INFINITY, q.sum[h] = 0;
}

// Outputs in place of the residuals that lie there, or of anything.
template <class T, int D>
static __device__ __forceinline__ void finish(const queries<D> &q, unsigned char *own, bool has_residual)
{
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float norm = 1 / sum_of_quad(q.sum[h]);
#pragma unroll
        for (int d = 0; d < D / 8; d++) {
            uint32_t *pair = (uint32_t *)head<D>::at(own, lane / 4 + 8 * h, d) + lane % 4;
            float2 add = has_residual ? element<T>::unpack(*pair) : make_float2(0, 0);
            *pair = pack_finite<T>(q.out[d][2 * h] * norm + add.x, q.out[d][2 * h + 1] * norm + add.y);
        }
    }
}

// p.scale: of powers of two.
// grid: spans of `passes` times SPAN queries, heads, batch
template <class T, int D>
__global__ void __launch_bounds__(THREADS, head<D>::BLOCKS)
    attention_kernel(noc_cuda_fused_attention p, int passes)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int width = p.heads * p.dim;
    unsigned char *keys = shared_bytes, *values = keys + head<D>::RUN * head<D>::ROW,
                  *own = values + head<D>::RUN * head<D>::ROW + warp * 16 * head<D>::ROW;
    float *bias = (float *)(shared_bytes + 2 * head<D>::RUN * head<D>::ROW + WARPS * 16 * head<D>::ROW);

#pragma unroll 1
    for (int pass = 0; pass < passes; pass++) {
        int row = (blockIdx.x * passes + pass) * SPAN + threadIdx.x / 32 * 16, rows = min(p.rows - row, 16);
        size_t at = ((size_t)blockIdx.z * p.rows + row) * width + blockIdx.y * p.dim;
        queries<D> q;
        if (rows > 0)
            fetch_rows<D>(own, 16, (const T *)p.queries + at, rows, width, p.dim, lane, 32);
        copy_commit();
#pragma unroll 1
        for (int first = 0; first < p.keys; first += head<D>::RUN) {
            int run = min(p.keys - first, (int)head<D>::RUN), padded = (run + STEP - 1) / STEP * STEP;
            if (pass == 0 || p.keys > head<D>::RUN) {
                __syncthreads();
                const T *from =
                    (const T *)p.kv + ((size_t)blockIdx.z * p.keys + first) * 2 * width + blockIdx.y * p.dim;
                fetch_rows<D>(keys, padded, from, run, 2 * width, p.dim, threadIdx.x, THREADS);
                fetch_rows<D>(values, padded, from + width, run, 2 * width, p.dim, threadIdx.x, THREADS);
                copy_commit();
#pragma unroll 1
                for (int i = threadIdx.x; i < padded; i += THREADS)
                    bias[i] = i >= run  ? -INFINITY
                              : p.score ? p.score[(size_t)blockIdx.z * p.keys + first + i] * LOG2_E
                                        : 0;
                copy_wait<0>();
                __syncthreads();
            }
            if (row >= p.rows)
                continue;
            if (first == 0) {
                copy_wait<0>();
                __syncwarp();
                begin<T, D>(q, own, p);
                __syncwarp();
                if (p.residual)
                    fetch_rows<D>(own, 16, (const T *)p.residual + at, rows, width, p.dim, lane, 32);
                copy_commit();
            }
#pragma unroll 1
            for (int step = 0; step < padded; step += STEP)
                attend<T, D>(q, keys + step * head<D>::ROW, values + step * head<D>::ROW, bias + step,
                             p.scale);
        }
        if (rows <= 0)
            continue;
        copy_wait<0>();
        __syncwarp();
        finish<T, D>(q, own, p.residual);
        __syncwarp();
#pragma unroll 1
        for (int i = lane; i < rows * head<D>::CHUNKS; i += 32) {
            int r = i / head<D>::CHUNKS, c = i % head<D>::CHUNKS;
            if (c * 8 < p.dim)
                put((T *)p.out + at + (size_t)r * width + c * 8, get<uint4>(head<D>::at(own, r, c)));
        }
        __syncwarp();
    }
}

extern "C" bool noc_cuda_fused_attention_fits(const noc_cuda_fused_attention *p)
{
    return p->dim > 0 && p->dim % 8 == 0 && p->dim <= 64 && p->rows > 0 && p->keys > 0 && p->heads > 0 &&
           p->heads <= 65535 && p->batch > 0 && p->batch <= 65535;
}

template <class T, int D> static cudaError_t launch_attention(noc_cuda_fused_attention p, cudaStream_t stream)
{
    p.scale *= LOG2_E;
    int spans = (p.rows + SPAN - 1) / SPAN;
    int passes = (int)(((long)spans * p.heads * p.batch + RESIDENT_BLOCKS - 1) / RESIDENT_BLOCKS);
    passes = passes < spans ? passes : spans;
    dim3 grid((spans + passes - 1) / passes, p.heads, p.batch);
    return launch(attention_kernel<T, D>, grid, THREADS, head<D>::SHARED, stream, p, passes);
}

template <class T> static cudaError_t launch_dim(const noc_cuda_fused_attention &p, cudaStream_t stream)
{
    return p.dim <= 16   ? launch_attention<T, 16>(p, stream)
           : p.dim <= 32 ? launch_attention<T, 32>(p, stream)
           : p.dim <= 48 ? launch_attention<T, 48>(p, stream)
                         : launch_attention<T, 64>(p, stream);
}

extern "C" cudaError_t noc_cuda_fused_attention_launch(const noc_cuda_fused_attention *attention,
                                                       noc_cuda_type type, cudaStream_t stream)
{
    if (!noc_cuda_fused_attention_fits(attention))
        return cudaErrorInvalidValue;
    return type == NOC_CUDA_F16 ? launch_dim<__half>(*attention, stream)
                                : launch_dim<__nv_bfloat16>(*attention, stream);
}
