// Implicit product: the rows of its left side are gathered from the map by asynchronous copies, eight
// channels each, three steps in flight. Eight warps share rows, columns and the depth of a step; what the
// warps of one output have summed meets at the end, in the order of the depth, where a warp normalises a
// token. Tokens of an input that is normed are whole within a step, and normalised there by those that have
// fetched them.
#include "engine/cuda/fused_conv.cuh"

// Where the window of an output begins in the map.
struct origin {
    const void *map;
    int at[3];
    bool is_there;
};

template <class T>
static __device__ __forceinline__ origin origin_of(const noc_cuda_conv &p, int row, int rows)
{
    int w = row % p.out_grid[2], h = row / p.out_grid[2] % p.out_grid[1];
    int d = row / p.out_grid[2] / p.out_grid[1] % p.out_grid[0];
    size_t batch = row / p.out_grid[2] / p.out_grid[1] / p.out_grid[0];
    return {(const T *)p.in + batch * p.grid[0] * p.grid[1] * p.grid[2] * p.channels,
            {d * p.stride[0] - p.padding[0], h * p.stride[1] - p.padding[1], w * p.stride[2] - p.padding[2]},
            row < rows};
}

// Eight channels of an output's window, from number k of its depth on.
template <class T>
static __device__ __forceinline__ void fetch_chunk(unsigned char *to, const noc_cuda_conv &p, const origin &o,
                                                   int k, int depth)
{
    int tap = k / p.channels;
    int d = o.at[0] + tap / p.kernel[2] / p.kernel[1], h = o.at[1] + tap / p.kernel[2] % p.kernel[1];
    int w = o.at[2] + tap % p.kernel[2];
    bool valid = o.is_there && k < depth && d >= 0 && d < p.grid[0] && h >= 0 && h < p.grid[1] && w >= 0 &&
                 w < p.grid[2];
    size_t token = ((size_t)d * p.grid[1] + h) * p.grid[2] + w;
    copy16_async(to, valid ? (const T *)o.map + token * p.channels + k % p.channels : (const T *)p.in, valid);
}

// Sums over tokens: of the lanes of a row of a tile that share one, or of all of them and of all tiles.
template <int WK> static __device__ __forceinline__ void sum_tokens(float sum[WK], int channels)
{
#pragma unroll
    for (int s = 0; s < WK; s++) {
        if (channels > 8)
            sum[s] += __shfl_xor_sync(ALL_LANES, sum[s], 1);
        if (channels > 16)
            sum[s] += __shfl_xor_sync(ALL_LANES, sum[s], 2);
    }
    float all = 0;
#pragma unroll
    for (int s = 0; s < WK; s++)
        all += sum[s];
#pragma unroll
    for (int s = 0; s < WK; s++)
        sum[s] = channels > NOC_TILE_DEPTH ? all : sum[s];
}

// Normalises tokens in the chunks of a stage that this thread has fetched itself.
template <class T, class B, int WK>
static __device__ __forceinline__ void normalise(unsigned char *stage, int own, int chunk, int channels,
                                                 float eps)
{
    float v[WK][8], sum[WK] = {}, square[WK] = {};
#pragma unroll
    for (int s = 0; s < WK; s++) {
        unpack8<T>(get<uint4>(chunk_at(stage + s * B::A, own, chunk)), v[s]);
        for (int i = 0; i < 8; i++)
            sum[s] += v[s][i];
    }
    sum_tokens<WK>(sum, channels);
#pragma unroll
    for (int s = 0; s < WK; s++)
        for (int i = 0; i < 8; i++) {
            v[s][i] -= sum[s] / channels;
            square[s] += v[s][i] * v[s][i];
        }
    sum_tokens<WK>(square, channels);
#pragma unroll
    for (int s = 0; s < WK; s++) {
        float norm = rsqrtf(square[s] / channels + eps);
        for (int i = 0; i < 8; i++)
            v[s][i] *= norm;
        put(chunk_at(stage + s * B::A, own, chunk), pack8<T>(v[s]));
    }
}

// grid: runs of rows, blocks of columns (normed: one)
template <class T, int WM, int WN, int WK, bool NORMED>
__global__ void __launch_bounds__(THREADS, 2) conv_kernel(noc_cuda_conv p)
{
    typedef block<WM, WN, WK> B;
    int warp = threadIdx.x / 32, wn = warp % WN * 32, wm = warp / WN % WM * 32, wk = warp / WN / WM;
    int rows = p.batch * p.out_grid[0] * p.out_grid[1] * p.out_grid[2], row0 = blockIdx.x * B::ROWS;
    int column0 = blockIdx.y * B::COLUMNS, depth = p.kernel[0] * p.kernel[1] * p.kernel[2] * p.channels;
    int steps = parts(depth, B::DEPTH), own = threadIdx.x / 4, chunk = threadIdx.x % 4;
    static_assert(!NORMED || B::ROWS * 4 == THREADS, "each thread has a chunk of a tile");
    const origin o = origin_of<T>(p, row0 + own, rows);
    float d[2][4][4] = {};

    auto fetch = [&](int step) {
        unsigned char *stage = shared_bytes + step % STAGES * B::STAGE;
        for (int s = 0; step < steps && s < WK; s++) {
            int k = step * B::DEPTH + s * NOC_TILE_DEPTH;
            if (own < B::ROWS)
                fetch_chunk<T>(chunk_at(stage + s * B::A, own, chunk), p, o, k + chunk * 8, depth);
            fetch_tile<T, THREADS>(stage + WK * B::A + s * B::B, B::COLUMNS, (const T *)p.weight, column0,
                                   p.columns, k, depth);
        }
        copy_commit();
    };
    for (int step = 0; step < STAGES - 1; step++)
        fetch(step);
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
        unsigned char *stage = shared_bytes + step % STAGES * B::STAGE;
        copy_wait<STAGES - 2>();
        if (NORMED)
            normalise<T, B, WK>(stage, own, chunk, p.channels, p.in_eps);
        __syncthreads();
        fetch(step + STAGES - 1);
        multiply<T, 4>(d, stage + wk * B::A, wm, stage + WK * B::A + wk * B::B, wn);
    }
    copy_wait<0>();
    __syncthreads();
    float *sums = (float *)shared_bytes;
    stage_sums<4>(sums + wk * B::ROWS * B::PITCH, B::PITCH, d, wm, wn);
    __syncthreads();
    finish_rows<T, B, WK>(p, sums, column0, [&](int row) { return row0 + row < rows ? row0 + row : -1; });
}

static bool in_norm_fits(const noc_cuda_conv *p)
{
    bool is_wide = p->channels == 2 * NOC_TILE_DEPTH && p->columns > 32;
    return p->columns <= 64 && (p->channels == 8 || p->channels == 16 || p->channels == 32 || is_wide) &&
           p->padding[0] == 0 && p->padding[1] == 0 && p->padding[2] == 0;
}

extern "C" bool noc_cuda_conv_fits(const noc_cuda_conv *p)
{
    return p->channels > 0 && p->channels % 8 == 0 && p->columns > 0 && p->columns % 8 == 0 && p->batch > 0 &&
           (!p->is_normed || p->columns <= 256) && (!p->is_in_normed || in_norm_fits(p));
}

template <class T, int WM, int WN, int WK, bool NORMED = false>
static cudaError_t launch_block(const noc_cuda_conv &p, cudaStream_t stream)
{
    typedef block<WM, WN, WK> B;
    int rows = p.batch * p.out_grid[0] * p.out_grid[1] * p.out_grid[2];
    return launch(conv_kernel<T, WM, WN, WK, NORMED>,
                  dim3(parts(rows, B::ROWS), parts(p.columns, B::COLUMNS)), THREADS, B::SHARED, stream, p);
}

template <class T> static cudaError_t launch_conv(const noc_cuda_conv &p, cudaStream_t stream)
{
    if (p.is_in_normed)
        return p.columns <= 32 ? launch_block<T, 2, 1, 4, true>(p, stream)
                               : launch_block<T, 2, 2, 2, true>(p, stream);
    if (p.columns <= 32)
        return launch_block<T, 2, 1, 4>(p, stream);
    if (p.columns <= 64 || !p.is_normed)
        return launch_block<T, 2, 2, 2>(p, stream);
    return p.columns <= 128 ? launch_block<T, 2, 4, 1>(p, stream) : launch_block<T, 1, 8, 1>(p, stream);
}

extern "C" cudaError_t noc_cuda_conv_launch(const noc_cuda_conv *conv, noc_cuda_type type,
                                            cudaStream_t stream)
{
    if (!noc_cuda_conv_fits(conv))
        return cudaErrorInvalidValue;
    return type == NOC_CUDA_F16 ? launch_conv<__half>(*conv, stream)
                                : launch_conv<__nv_bfloat16>(*conv, stream);
}
