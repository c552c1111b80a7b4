// Implicit product: the rows of its left side are gathered from the map by asynchronous copies, eight
// channels each, three steps in flight. Eight warps share rows, columns and the depth of a step; what the
// warps of one output have summed meets at the end, in the order of the depth, where a warp normalises a
// token. Tokens of an input that is normed are whole within a step, and normalised there by those that have
// fetched them. Where outputs are few and deep, blocks share the depth too: their sums go through memory to a
// second kernel, which also normalises tokens wider than a block.
#include "engine/cuda/fused_conv.cuh"

// What a thread fetches: eight channels of the window of one output, one step after the other.
template <class T> struct walk {
    const T *map; // of the window's batch
    int at[3];    // where the output's window begins
    bool is_there;
    int tap[3], channel; // of the next chunk
};

template <class T>
static __device__ __forceinline__ walk<T> walk_of(const noc_cuda_conv &p, int row, int rows, int k)
{
    int w = row % p.out_grid[2], h = row / p.out_grid[2] % p.out_grid[1];
    int d = row / p.out_grid[2] / p.out_grid[1] % p.out_grid[0];
    size_t batch = row / p.out_grid[2] / p.out_grid[1] / p.out_grid[0];
    int tap = k / p.channels;
    return {(const T *)p.in + batch * p.grid[0] * p.grid[1] * p.grid[2] * p.channels,
            {d * p.stride[0] - p.padding[0], h * p.stride[1] - p.padding[1], w * p.stride[2] - p.padding[2]},
            row < rows,
            {tap / p.kernel[2] / p.kernel[1], tap / p.kernel[2] % p.kernel[1], tap % p.kernel[2]},
            k % p.channels};
}

// The next chunk, and on by a tile of the depth; behind the last tap are zeros.
template <class T>
static __device__ __forceinline__ void fetch_next(unsigned char *to, const noc_cuda_conv &p, walk<T> &o)
{
    int d = o.at[0] + o.tap[0], h = o.at[1] + o.tap[1], w = o.at[2] + o.tap[2];
    bool valid = o.is_there && o.tap[0] < p.kernel[0] && (unsigned)d < (unsigned)p.grid[0] &&
                 (unsigned)h < (unsigned)p.grid[1] && (unsigned)w < (unsigned)p.grid[2];
    int token = (d * p.grid[1] + h) * p.grid[2] + w;
    copy16_async(to, o.map + (ptrdiff_t)token * p.channels + o.channel, valid);
    for (o.channel += NOC_TILE_DEPTH; o.channel >= p.channels; o.channel -= p.channels) {
        if (++o.tap[2] < p.kernel[2])
            continue;
        o.tap[2] = 0;
        if (++o.tap[1] < p.kernel[1])
            continue;
        o.tap[1] = 0;
        o.tap[0]++;
    }
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

// The sums of a block to memory, of each part of the depth for itself.
template <class B, int WK>
static __device__ __forceinline__ void keep_sums(const noc_cuda_conv &p, const float *sums, int row0,
                                                 int rows, int column0)
{
    enum { FOURS = B::COLUMNS / 4 };
    int column = threadIdx.x % FOURS * 4;
    float *to = p.sums + (size_t)blockIdx.z * rows * p.columns + column0 + column;
#pragma unroll 1
    for (int row = threadIdx.x / FOURS; row < B::ROWS; row += THREADS / FOURS)
        if (row0 + row < rows && column0 + column < p.columns)
            put(to + (size_t)(row0 + row) * p.columns, sum_of_block<B, WK>(sums, row, column));
}

// grid: runs of rows, blocks of columns (one where tokens are normed here), parts of the depth (SPLIT: their
// sums go to memory)
template <class T, int WM, int WN, int WK, bool NORMED, bool SPLIT>
__global__ void __launch_bounds__(THREADS, 2) conv_kernel(noc_cuda_conv p)
{
    typedef block<WM, WN, WK> B;
    static_assert(B::ROWS * 4 <= THREADS, "each row is fetched by threads of its own");
    int warp = threadIdx.x / 32, wn = warp % WN * 32, wm = warp / WN % WM * 32, wk = warp / WN / WM;
    int rows = p.batch * p.out_grid[0] * p.out_grid[1] * p.out_grid[2], row0 = blockIdx.x * B::ROWS;
    int column0 = blockIdx.y * B::COLUMNS, depth = p.kernel[0] * p.kernel[1] * p.kernel[2] * p.channels;
    int all = parts(depth, B::DEPTH), first = SPLIT ? all * blockIdx.z / gridDim.z : 0;
    int steps = SPLIT ? all * (blockIdx.z + 1) / gridDim.z : all, own = threadIdx.x / 4,
        chunk = threadIdx.x % 4;
    static_assert(B::ROWS * 4 == THREADS, "each thread has a chunk of a tile");
    walk<T> o = walk_of<T>(p, row0 + own, rows, first * B::DEPTH + chunk * 8);
    float d[2][4][4] = {};

    auto fetch = [&](int step) {
        unsigned char *stage = shared_bytes + step % STAGES * B::STAGE;
        for (int s = 0; step < steps && s < WK; s++) {
            fetch_next<T>(chunk_at(stage + s * B::A, own, chunk), p, o);
            fetch_tile<T, THREADS>(stage + WK * B::A + s * B::B, B::COLUMNS, (const T *)p.weight, column0,
                                   p.columns, step * B::DEPTH + s * NOC_TILE_DEPTH, depth);
        }
        copy_commit();
    };
    for (int step = first; step < first + STAGES - 1; step++)
        fetch(step);
#pragma unroll 1
    for (int step = first; step < steps; step++) {
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
    if (SPLIT)
        keep_sums<B, WK>(p, sums, row0, rows, column0);
    else
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

// In how many parts the depth is taken, 0: whole, with the end in the same kernel. As many as fill a large
// GPU twice with a batch of 8 windows, though of four steps at least; the batch itself must not count, since
// sums would differ.
static int split_of(const noc_cuda_conv *p)
{
    enum { BATCH = 8, FULL = 2 * 2 * 132, LEAST = 4, MOST = 8 };
    typedef block<2, 1, 4> narrow;
    typedef block<2, 2, 2> wide;
    bool is_narrow = p->columns <= 32;
    int columns = is_narrow ? (int)narrow::COLUMNS : (int)wide::COLUMNS;
    int steps = parts(p->kernel[0] * p->kernel[1] * p->kernel[2] * p->channels,
                      is_narrow ? (int)narrow::DEPTH : (int)wide::DEPTH);
    int rows = parts(BATCH * p->out_grid[0] * p->out_grid[1] * p->out_grid[2], wide::ROWS);
    int split = FULL / (rows * parts(p->columns, columns));
    split = split < steps / LEAST ? split : steps / LEAST;
    split = split < MOST ? split : MOST;
    return split > 1 ? split : p->is_normed && p->columns > columns;
}

extern "C" size_t noc_cuda_conv_sums(const noc_cuda_conv *p)
{
    return (size_t)split_of(p) * p->batch * p->out_grid[0] * p->out_grid[1] * p->out_grid[2] * p->columns;
}

template <class T, int WM, int WN, int WK, bool NORMED>
static cudaError_t launch_block(const noc_cuda_conv &p, cudaStream_t stream)
{
    typedef block<WM, WN, WK> B;
    int rows = p.batch * p.out_grid[0] * p.out_grid[1] * p.out_grid[2], split = split_of(&p);
    dim3 grid(parts(rows, B::ROWS), parts(p.columns, B::COLUMNS), split > 0 ? split : 1);
    if (split == 0)
        return launch(conv_kernel<T, WM, WN, WK, NORMED, false>, grid, THREADS, B::SHARED, stream, p);
    cudaError_t e = launch(conv_kernel<T, WM, WN, WK, NORMED, true>, grid, THREADS, B::SHARED, stream, p);
    const noc_cuda_end end = end_of(p);
    return e != cudaSuccess ? e : noc_cuda_end_launch(&end, p.sums, rows, split, type_of<T>, stream);
}

template <class T, bool NORMED> static cudaError_t launch_conv(const noc_cuda_conv &p, cudaStream_t stream)
{
    return p.columns <= 32 ? launch_block<T, 2, 1, 4, NORMED>(p, stream)
                           : launch_block<T, 2, 2, 2, NORMED>(p, stream);
}

template <class T> static cudaError_t launch_of(const noc_cuda_conv &p, cudaStream_t stream)
{
    return p.is_in_normed ? launch_conv<T, true>(p, stream) : launch_conv<T, false>(p, stream);
}

extern "C" cudaError_t noc_cuda_conv_launch(const noc_cuda_conv *conv, noc_cuda_type type,
                                            cudaStream_t stream)
{
    if (!noc_cuda_conv_fits(conv))
        return cudaErrorInvalidValue;
    return type == NOC_CUDA_F16 ? launch_of<__half>(*conv, stream) : launch_of<__nv_bfloat16>(*conv, stream);
}
