// A block keeps keys and values of one head in shared memory, all of them where they fit and else a run at a
// time, and streams its queries past them, 16 or 32 a warp. Scores never leave registers: softmax in f32, 32
// keys a step, relative to a running maximum that is raised only where scores exceed it by far. Queries,
// residuals and outputs pass through shared memory of the warp's own, so that global memory sees whole rows.
#include "engine/cuda/fused_attention.h"
#include "engine/cuda/tile.cuh"

enum { STEP = 32, WARPS = 8, THREADS = WARPS * 32, RUN_BYTES = 32 << 10 };
static constexpr float LOG2_E = 1.44269504f;
static constexpr float SLACK = 8; // weights are up to 2^8, in f16 as exact as those up to 1
static constexpr int RESIDENT_BLOCKS =
    2 * 132; // of the largest device: only the cut of the work depends on it

// Heads of up to D columns, a multiple of 16; rows of keys in shared memory are that long, filled with zeros.
template <int D> struct head {
    enum {
        CHUNKS = D / 8,
        ROW = D * 2,
        RUN = D <= 32 ? 512 : 256, // keys
        BLOCKS = 2,
        TILES = D <= 32 ? 2 : 1, // of 16 queries, a warp
        ROWS = 16 * TILES,
        SPAN = ROWS * WARPS,
        OWN = 2 * RUN * ROW, // where the warps' rows are
        BIAS = OWN + SPAN * ROW,
        SHARED = BIAS + RUN * 8
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

// Of a warp's tiles of 16 queries: their fragments, outputs so far and the sums of their weights, each in two
// columns; and of this lane's two rows of a tile what their exponents add.
template <int D> struct queries {
    uint32_t a[head<D>::TILES][D / 16][4];
    float out[head<D>::TILES][D / 8][4], sum[head<D>::TILES][4];
    float shift[head<D>::TILES][2];
};

// Scores of the queries with 32 keys. A bias is what a key adds: -inf behind the last key; each pair of keys
// has it twice, for the two rows of a lane.
template <class T, int D>
static __device__ __forceinline__ void score_keys(float s[head<D>::TILES][4][4], const queries<D> &q,
                                                  unsigned char *keys, const float4 *bias)
{
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < 4; n++) {
        float4 add = get<float4>(bias + 4 * n + lane % 4);
#pragma unroll
        for (int t = 0; t < head<D>::TILES; t++)
            s[t][n][0] = add.x, s[t][n][1] = add.y, s[t][n][2] = add.z, s[t][n][3] = add.w;
#pragma unroll
        for (int c = 0; c < D / 16; c += 2) {
            uint32_t b[4];
            // an odd last pair of chunks is read twice, and once used
            int chunk = c + 1 < D / 16 ? 2 * c + lane / 8 : 2 * c + lane / 8 % 2;
            load_matrix4(b, head<D>::at(keys, 8 * n + lane % 8, chunk));
#pragma unroll
            for (int t = 0; t < head<D>::TILES; t++) {
                element<T>::mma(s[t][n], q.a[t][c], b[0], b[1]);
                if (c + 1 < D / 16)
                    element<T>::mma(s[t][n], q.a[t][c + 1], b[2], b[3]);
            }
        }
    }
}

// Makes the largest score of a row what its exponents are relative to, if its weight is beyond 2^SLACK. Each
// row looks at its own scores alone.
template <int D>
static __device__ __forceinline__ void raise(queries<D> &q, const float s[head<D>::TILES][4][4], float scale)
{
    float most[head<D>::TILES][2];
    bool is_beyond = false;
#pragma unroll
    for (int t = 0; t < head<D>::TILES; t++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float top = fmaxf(s[t][0][2 * h], s[t][0][2 * h + 1]);
#pragma unroll
            for (int n = 1; n < 4; n++)
                top = fmaxf(top, fmaxf(s[t][n][2 * h], s[t][n][2 * h + 1]));
            most[t][h] = top;
            is_beyond |= top * scale + q.shift[t][h] > SLACK;
        }
    if (!__any_sync(ALL_LANES, is_beyond))
        return;
#pragma unroll
    for (int t = 0; t < head<D>::TILES; t++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float top = max_of_quad(most[t][h]), shift = q.shift[t][h];
            if (top * scale + shift > SLACK)
                shift = -top * scale;
            float shrink = exp2_fast(shift - q.shift[t][h]);
            q.shift[t][h] = shift;
#pragma unroll
            for (int i = 2 * h; i < 2 * h + 2; i++) {
                q.sum[t][i] *= shrink;
#pragma unroll
                for (int d = 0; d < D / 8; d++)
                    q.out[t][d][i] *= shrink;
            }
        }
}

// Weights of 16 queries and 16 keys, the left side of a product.
template <class T>
static __device__ __forceinline__ void weigh(uint32_t p[4], const float s[2][4], const float shift[2],
                                             float scale)
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float *pair = s[i / 2] + i % 2 * 2;
        p[i] = element<T>::pack(exp2_fast(pair[0] * scale + shift[i % 2]),
                                exp2_fast(pair[1] * scale + shift[i % 2]));
    }
}

template <class T, int D>
static __device__ __forceinline__ void attend(queries<D> &q, unsigned char *keys, unsigned char *values,
                                              const float4 *bias, float scale)
{
    int lane = threadIdx.x % 32;
    float s[head<D>::TILES][4][4];
    score_keys<T, D>(s, q, keys, bias);
    raise<D>(q, s, scale);
#pragma unroll
    for (int n = 0; n < 4; n += 2) {
        uint32_t p[head<D>::TILES][4];
#pragma unroll
        for (int t = 0; t < head<D>::TILES; t++) {
            weigh<T>(p[t], s[t] + n, q.shift[t], scale);
            element<T>::mma(q.sum[t], p[t], element<T>::ONES, element<T>::ONES);
        }
#pragma unroll
        for (int d = 0; d < D / 8; d += 2) {
            uint32_t b[4];
            load_matrix4_trans(b, head<D>::at(values, 8 * n + lane % 16, d + lane / 16));
#pragma unroll
            for (int t = 0; t < head<D>::TILES; t++) {
                element<T>::mma(q.out[t][d], p[t], b[0], b[1]);
                element<T>::mma(q.out[t][d + 1], p[t], b[2], b[3]);
            }
        }
    }
}

// `tall` rows of a head's columns, `step` elements apart, by threads [thread, ...) of `threads`.
template <int D, class T>
static __device__ __forceinline__ void fetch_rows(unsigned char *tile, int tall, const T *from, int rows,
                                                  size_t step, int dim, int thread, int threads)
{
    const int c = thread % head<D>::CHUNKS, apart = threads / head<D>::CHUNKS;
    int row = thread / head<D>::CHUNKS, left = c * 8 < dim ? rows : 0;
    const T *source = from + row * step + c * 8;
    if (row >= apart)
        return;
#pragma unroll 4
    for (; row < tall; row += apart, source += apart * step)
        copy16_async(head<D>::at(tile, row, c), row < left ? source : from,
                     row < left); // a register less than without the choice
}

// Biases of pairs of keys, of `count` keys and no others.
static __device__ __forceinline__ void fill_bias(float4 *bias, int padded, int count, const float *score,
                                                 float factor)
{
#pragma unroll 1
    for (int i = threadIdx.x; i < padded; i += THREADS) {
        float own = i >= count ? -INFINITY : score ? score[i] * factor : 0;
        float *pair = (float *)(bias + i / 2) + i % 2;
        pair[0] = pair[2] = own;
    }
}

// The norm of the fragments' rows; columns from dim on stay zeros.
template <class T, int D>
static __device__ __forceinline__ void normalise(uint32_t a[D / 16][4], int dim, float eps)
{
    const int lane = threadIdx.x % 32;
    const float share = 1.0f / (float)dim;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float sum = 0, square = 0;
#pragma unroll
        for (int i = h; i < D / 4; i += 2) {
            float2 v = element<T>::unpack(a[i / 4][i % 4]);
            sum += v.x + v.y;
        }
        float mean = sum_of_quad(sum) * share;
#pragma unroll
        for (int i = h; i < D / 4; i += 2) {
            float2 v = element<T>::unpack(a[i / 4][i % 4]);
            if (i / 2 * 8 + lane % 4 * 2 < dim)
                square += (v.x - mean) * (v.x - mean) + (v.y - mean) * (v.y - mean);
        }
        float norm = rsqrtf(sum_of_quad(square) * share + eps);
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
    q = {};
#pragma unroll
    for (int t = 0; t < head<D>::TILES; t++) {
#pragma unroll
        for (int c = 0; c < D / 16; c++)
            load_matrix4(q.a[t][c], head<D>::at(own, 16 * t + lane % 16, 2 * c + lane / 16));
        if (p.is_normed)
            normalise<T, D>(q.a[t], p.dim, p.eps);
#pragma unroll
        for (int h = 0; h < 2; h++)
            q.shift[t][h] = INFINITY;
    }
}

// Outputs in place of the residuals that lie there, or of anything.
template <class T, int D>
static __device__ __forceinline__ void finish(const queries<D> &q, unsigned char *own, bool has_residual)
{
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int row = 0; row < head<D>::ROWS; row += 8) {
        const int t = row / 16, i = row % 16 / 8 * 2;
        float norm = 1 / q.sum[t][i];
#pragma unroll
        for (int d = 0; d < D / 8; d++) {
            uint32_t *pair = (uint32_t *)head<D>::at(own, row + lane / 4, d) + lane % 4;
            float2 add = has_residual ? element<T>::unpack(*pair) : make_float2(0, 0);
            *pair = pack_finite<T>(q.out[t][d][i] * norm + add.x, q.out[t][d][i + 1] * norm + add.y);
        }
    }
}

// p.scale: of powers of two.
// grid: spans of `passes` times SPAN queries, heads, batch
template <class T, int D>
__global__ void __launch_bounds__(THREADS, head<D>::BLOCKS)
    attention_kernel(noc_cuda_fused_attention p, int passes)
{
    typedef head<D> H;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int width = p.heads * p.dim;
    unsigned char *keys = shared_bytes, *values = keys + H::RUN * H::ROW,
                  *own = keys + H::OWN + warp * H::ROWS * H::ROW;
    float4 *bias = (float4 *)(shared_bytes + H::BIAS);

#pragma unroll 1
    for (int pass = 0; pass < passes; pass++) {
        int row = (blockIdx.x * passes + pass) * H::SPAN + warp * H::ROWS;
        int rows = min(p.rows - row, (int)H::ROWS);
        size_t at = ((size_t)blockIdx.z * p.rows + row) * width + blockIdx.y * p.dim;
        queries<D> q;
        if (rows > 0)
            fetch_rows<D>(own, H::ROWS, (const T *)p.queries + at, rows, width, p.dim, lane, 32);
        copy_commit();
#pragma unroll 1
        for (int first = 0; first < p.keys; first += H::RUN) {
            int run = min(p.keys - first, (int)H::RUN), padded = (run + STEP - 1) / STEP * STEP;
            if (pass == 0 || p.keys > H::RUN) {
                __syncthreads();
                const T *from =
                    (const T *)p.kv + ((size_t)blockIdx.z * p.keys + first) * 2 * width + blockIdx.y * p.dim;
                fetch_rows<D>(keys, padded, from, run, 2 * width, p.dim, threadIdx.x, THREADS);
                fetch_rows<D>(values, padded, from + width, run, 2 * width, p.dim, threadIdx.x, THREADS);
                copy_commit();
                fill_bias(bias, padded, run,
                          p.score ? p.score + (size_t)blockIdx.z * p.keys + first : nullptr,
                          LOG2_E / p.scale);
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
                    fetch_rows<D>(own, H::ROWS, (const T *)p.residual + at, rows, width, p.dim, lane, 32);
                copy_commit();
            }
#pragma unroll 1
            for (int step = 0; step < padded; step += STEP)
                attend<T, D>(q, keys + step * H::ROW, values + step * H::ROW, bias + step / 2, p.scale);
        }
        if (rows <= 0)
            continue;
        copy_wait<0>();
        __syncwarp();
        finish<T, D>(q, own, p.residual);
        __syncwarp();
#pragma unroll 1
        for (int i = lane; i < rows * H::CHUNKS; i += 32) {
            int r = i / H::CHUNKS, c = i % H::CHUNKS;
            if (c * 8 < p.dim)
                put((T *)p.out + at + (size_t)r * width + c * 8, get<uint4>(H::at(own, r, c)));
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
    int spans = parts(p.rows, head<D>::SPAN);
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
