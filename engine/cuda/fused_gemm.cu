// Tiles of 64 x 64 outputs, 32 of the depth at a time, two shared buffers filled by asynchronous copies. A
// block first walks the columns of the tail, of which only the squares' sums stay, then its own. Normed rows
// are in shared memory whole, and normalised there once.
#include "engine/cuda/fused_gemm.h"
#include "engine/cuda/tile.cuh"

enum { TILE = 64, THREADS = 128, BUFFER = TILE * NOC_ROW_BYTES, PITCH = TILE + NOC_STAGE_SLACK };
enum { NORMED_DEPTH = 512, STAGE = TILE * PITCH * 4, BLOCKS = 5 };

// Rows in xs, whole: two lanes a row, each every other chunk; eight rows at one chunk have no conflicts.
template <class T> static __device__ __forceinline__ void normalise(unsigned char *xs, const noc_cuda_gemm &g)
{
    int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane % 16, chunks = g.depth / 8;
    float v[8], sum = 0, square = 0;
    for (int c = lane / 16; c < chunks; c += 2) {
        unpack8<T>(get<uint4>(chunk_at(xs + c / 4 * BUFFER, row, c % 4)), v);
        for (int i = 0; i < 8; i++)
            sum += v[i];
    }
    float mean = (sum + __shfl_xor_sync(ALL_LANES, sum, 16)) / g.depth;
    for (int c = lane / 16; c < chunks; c += 2) {
        unpack8<T>(get<uint4>(chunk_at(xs + c / 4 * BUFFER, row, c % 4)), v);
        for (int i = 0; i < 8; i++)
            square += (v[i] - mean) * (v[i] - mean);
    }
    float norm = rsqrtf((square + __shfl_xor_sync(ALL_LANES, square, 16)) / g.depth + g.eps);
    for (int c = lane / 16; c < chunks; c += 2) {
        unsigned char *chunk = chunk_at(xs + c / 4 * BUFFER, row, c % 4);
        unpack8<T>(get<uint4>(chunk), v);
        for (int i = 0; i < 8; i++) {
            v[i] = (v[i] - mean) * norm;
            if (g.scale)
                v[i] = v[i] * g.scale[8 * c + i] + g.shift[8 * c + i];
        }
        put(chunk, pack8<T>(v));
    }
}

// Four columns of one staged row.
template <class T>
static __device__ __forceinline__ void finish(const noc_cuda_gemm &g, const float *sums, float factor,
                                              int row, int column)
{
    if (column < g.columns)
        finish4<T>(sums, factor, g.bias ? g.bias + column : nullptr, g.residual, g.out,
                   (size_t)row * g.columns + column, g.activation);
    else if (g.score && column == g.columns)
        g.score[row] = sums[0] + (g.bias ? g.bias[column] : 0);
}

template <class T, bool NORMED>
__global__ void __launch_bounds__(THREADS, BLOCKS) gemm_kernel(noc_cuda_gemm g)
{
    __shared__ float tail_squares[2][TILE];
    const T *in = (const T *)g.in, *weight = (const T *)g.weight;
    int steps = parts(g.depth, NOC_TILE_DEPTH), own = g.columns + (g.score != nullptr);
    int tiles = parts(own, TILE), row0 = blockIdx.x / tiles * TILE, column0 = blockIdx.x % tiles * TILE;
    unsigned char *xs = shared_bytes, *ws = xs + (NORMED ? steps : 2) * BUFFER;
    int warp = threadIdx.x / 32, wm = warp / 2 * 32, wn = warp % 2 * 32;
    int tail_tiles = parts(g.tail, TILE), all = (tail_tiles + 1) * steps;
    float d[2][4][4] = {}, squares[2][2] = {};

    auto fetch = [&](int step) {
        int tile = step / steps, k = step % steps * NOC_TILE_DEPTH;
        bool is_tail = tile < tail_tiles;
        if (!NORMED)
            fetch_tile<T, THREADS>(xs + (step & 1) * BUFFER, TILE, in, row0, g.rows, k, g.depth);
        fetch_tile<T, THREADS>(ws + (step & 1) * BUFFER, TILE, weight, is_tail ? own + tile * TILE : column0,
                               is_tail ? own + g.tail : own, k, g.depth);
    };
    if (NORMED)
        for (int step = 0; step < steps; step++)
            fetch_tile<T, THREADS>(xs + step * BUFFER, TILE, in, row0, g.rows, step * NOC_TILE_DEPTH,
                                   g.depth);
    fetch(0);
    copy_commit();
    if (NORMED) {
        copy_wait<0>();
        __syncthreads();
        normalise<T>(xs, g);
    }
    for (int step = 0; step < all; step++) {
        copy_wait<0>();
        __syncthreads();
        if (step + 1 < all)
            fetch(step + 1);
        copy_commit();
        multiply<T, 4>(d, xs + (NORMED ? step % steps : step & 1) * BUFFER, wm, ws + (step & 1) * BUFFER, wn);
        int tile = step / steps, first = tile * TILE + wn;
        if (tile < tail_tiles && step % steps == steps - 1)
            square_tail(d, squares, g.bias ? g.bias + own + first : nullptr, g.tail - first);
    }
    __syncthreads();
    float *stage = (float *)shared_bytes;
    stage_sums<4>(stage, PITCH, d, wm, wn);
    share_squares(&tail_squares[warp % 2][wm], squares);
    __syncthreads();
    for (int i = threadIdx.x; i < TILE * TILE / 4; i += THREADS) {
        int row = i / (TILE / 4), column = i % (TILE / 4) * 4;
        if (row0 + row >= g.rows)
            break;
        float factor = 1;
        if (g.tail > 0)
            factor = rsqrtf(g.tail_constant + tail_squares[0][row] + tail_squares[1][row]);
        finish<T>(g, stage + row * PITCH + column, factor, row0 + row, column0 + column);
    }
}

extern "C" bool noc_cuda_gemm_fits(const noc_cuda_gemm *gemm)
{
    return gemm->rows > 0 && gemm->columns > 0 && gemm->depth > 0 && gemm->columns % 8 == 0 &&
           gemm->depth % 8 == 0 && (!gemm->is_normed || gemm->depth <= NORMED_DEPTH);
}

template <class T> static cudaError_t launch_gemm(const noc_cuda_gemm &g, cudaStream_t stream)
{
    int steps = parts(g.depth, NOC_TILE_DEPTH), shared = ((g.is_normed ? steps : 2) + 2) * BUFFER;
    dim3 grid(parts(g.rows, TILE) * parts(g.columns + (g.score != nullptr), TILE));
    return launch(g.is_normed ? gemm_kernel<T, true> : gemm_kernel<T, false>, grid, THREADS,
                  shared < STAGE ? STAGE : shared, stream, g);
}

extern "C" cudaError_t noc_cuda_gemm_launch(const noc_cuda_gemm *gemm, noc_cuda_type type,
                                            cudaStream_t stream)
{
    if (!noc_cuda_gemm_fits(gemm))
        return cudaErrorInvalidValue;
    return type == NOC_CUDA_F16 ? launch_gemm<__half>(*gemm, stream)
                                : launch_gemm<__nv_bfloat16>(*gemm, stream);
}
