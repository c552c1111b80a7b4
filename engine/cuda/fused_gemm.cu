// Tiles of 32 or 64 rows by 64 or 128 columns, up to 128 of the depth at a time, two shared buffers filled by
// asynchronous copies. A block first walks the columns of the tail, of which only the squares' sums stay,
// then its own. Normed rows are in shared memory whole, and normalised there once. Which tile: of columns and
// depth alone, so that a row's sums do not depend on how many there are.
#include "engine/cuda/fused_gemm.h"
#include "engine/cuda/tile.cuh"

enum { WARPS = 4, THREADS = WARPS * 32, DEEP = 4, NORMED_DEPTH = 512, WIDE_DEPTH = 64 };

// WM warps above each other, each with 32 rows and 8 * NJ columns.
template <int WM, int NJ> struct tile {
    enum {
        ROWS = 32 * WM,
        SIDE = WARPS / WM,
        COLUMNS = 8 * NJ * SIDE,
        X = ROWS * NOC_ROW_BYTES,
        W = COLUMNS * NOC_ROW_BYTES,
        RESULT = 32 * NJ * 16, // of a warp
        BLOCKS = 4
    };
    static __host__ __device__ __forceinline__ int shared(int steps, bool is_normed, bool is_walk)
    {
        int deep = min(steps, (int)DEEP), buffers = is_walk ? 2 : 1;
        return WARPS * RESULT + (is_normed ? steps : buffers * deep) * X + buffers * deep * W;
    }
    // Chunk c of a row of a warp's results: eight rows at one chunk touch all banks, or nearly.
    static __device__ __forceinline__ unsigned char *at(unsigned char *result, int row, int c)
    {
        return result + (row * NJ + (c ^ (NJ == 8 ? row & 7 : row >> 2 & 1))) * 16;
    }
};

// Rows in xs, whole: four lanes a row, each a chunk of each tile of the depth.
template <class T, int ROWS>
static __device__ __forceinline__ void normalise(unsigned char *xs, const noc_cuda_gemm &g)
{
    const float share = 1.0f / (float)g.depth;
    const int own = threadIdx.x % 4 * 8;
#pragma unroll 1
    for (int row = threadIdx.x / 4; row < ROWS; row += THREADS / 4) {
        unsigned char *chunks = chunk_at(xs, row, threadIdx.x % 4), *chunk = chunks;
        float v[8], sum = 0, square = 0;
        for (int k = own; k < g.depth; k += NOC_TILE_DEPTH, chunk += ROWS * NOC_ROW_BYTES) {
            unpack8<T>(get<uint4>(chunk), v);
            for (int i = 0; i < 8; i++)
                sum += v[i];
        }
        float mean = sum_of_quad(sum) * share;
        chunk = chunks;
        for (int k = own; k < g.depth; k += NOC_TILE_DEPTH, chunk += ROWS * NOC_ROW_BYTES) {
            unpack8<T>(get<uint4>(chunk), v);
            for (int i = 0; i < 8; i++)
                square += (v[i] - mean) * (v[i] - mean);
        }
        float norm = rsqrtf(sum_of_quad(square) * share + g.eps);
        chunk = chunks;
        for (int k = own; k < g.depth; k += NOC_TILE_DEPTH, chunk += ROWS * NOC_ROW_BYTES) {
            unpack8<T>(get<uint4>(chunk), v);
            for (int i = 0; i < 8; i++)
                v[i] = (v[i] - mean) * norm;
            put(chunk, pack8<T>(v));
        }
    }
}

// call(row, pair of columns, two sums) for this lane's sums of a warp, of 32 rows and 8 * NJ columns.
template <int NJ, class F> static __device__ __forceinline__ void for_pairs(float d[2][NJ][4], F call)
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < NJ; j++)
#pragma unroll
        for (int r = 0; r < 4; r++)
            call(8 * r + lane / 4, 8 * j + lane % 4 * 2, d[r / 2][j] + r % 2 * 2);
}

// Sums to results at (row0, column0) of out, by way of `result`, where the residuals are.
template <class T, class TILE, int NJ>
static __device__ __forceinline__ void finish(const noc_cuda_gemm &g, float d[2][NJ][4],
                                              unsigned char *result, const float *squares, int row0,
                                              int column0)
{
    const int lane = threadIdx.x % 32;
    auto pair_at = [&](int row, int column) {
        return (uint32_t *)(TILE::at(result, row, column / 8) + column % 8 * 2);
    };
    if (g.bias)
#pragma unroll
        for (int j = 0; j < NJ; j++) {
            int column = column0 + 8 * j + lane % 4 * 2;
            float2 add = column < g.columns ? get<float2>(g.bias + column) : make_float2(0, 0);
            if (g.score && column == g.columns)
                add.x = g.bias[column];
#pragma unroll
            for (int i = 0; i < 4; i++)
                d[i / 2][j][i % 2 * 2] += add.x, d[i / 2][j][i % 2 * 2 + 1] += add.y;
        }
    if (g.score && column0 + 8 * NJ > g.columns)
        for_pairs<NJ>(d, [&](int row, int column, float *v) {
            if (column0 + column == g.columns && row0 + row < g.rows)
                g.score[row0 + row] = v[0];
        });
    if (g.tail > 0)
        for_pairs<NJ>(d, [&](int row, int, float *v) {
            float sum = g.tail_constant;
#pragma unroll
            for (int w = 0; w < TILE::SIDE; w++)
                sum += squares[w * TILE::ROWS + row];
            float factor = rsqrtf(sum);
            v[0] *= factor, v[1] *= factor;
        });
    if (g.residual)
        for_pairs<NJ>(d, [&](int row, int column, float *v) {
            float2 add = element<T>::unpack(*pair_at(row, column));
            v[0] += add.x, v[1] += add.y;
        });
    if (g.activation != NOC_CUDA_IDENTITY)
        for_pairs<NJ>(d, [&](int, int, float *v) {
            v[0] = activate(v[0], g.activation), v[1] = activate(v[1], g.activation);
        });
    for_pairs<NJ>(d,
                  [&](int row, int column, float *v) { *pair_at(row, column) = pack_finite<T>(v[0], v[1]); });
    __syncwarp();
    const int c = lane % NJ, row = lane / NJ;
    if (column0 + 8 * c >= g.columns)
        return;
    T *to = (T *)g.out + (size_t)(row0 + row) * g.columns + column0 + 8 * c;
#pragma unroll
    for (int r = 0; r < 32; r += 32 / NJ)
        if (row0 + row + r < g.rows)
            put(to + (size_t)r * g.columns, get<uint4>(TILE::at(result, row + r, c)));
}

// Residuals of a warp's results.
template <class T, class TILE, int NJ>
static __device__ __forceinline__ void fetch_residual(const noc_cuda_gemm &g, unsigned char *result, int row0,
                                                      int column0)
{
    const int lane = threadIdx.x % 32, c = lane % NJ;
    const T *from = (const T *)g.residual;
#pragma unroll 1
    for (int row = lane / NJ; row < 32; row += 32 / NJ) {
        bool valid = row0 + row < g.rows && column0 + 8 * c < g.columns;
        size_t at = (size_t)(row0 + row) * g.columns + column0 + 8 * c;
        copy16_async(TILE::at(result, row, c), from + at, valid);
    }
}

template <class T, bool NORMED, int WM, int NJ>
static __device__ __forceinline__ void run_block(const noc_cuda_gemm &g, int block, float *tail_squares)
{
    typedef tile<WM, NJ> TILE;
    const T *in = (const T *)g.in, *weight = (const T *)g.weight;
    const int steps = parts(g.depth, NOC_TILE_DEPTH), deep = min(steps, (int)DEEP);
    const int own = g.columns + (g.score != nullptr), tail_tiles = parts(g.tail, TILE::COLUMNS);
    const int tiles = parts(own, TILE::COLUMNS), row0 = block / tiles * TILE::ROWS,
              column0 = block % tiles * TILE::COLUMNS;
    const int warp = threadIdx.x / 32, wm = warp / TILE::SIDE * 32, wn = warp % TILE::SIDE * 8 * NJ;
    unsigned char *result = shared_bytes + warp * TILE::RESULT, *xs = shared_bytes + WARPS * TILE::RESULT;
    const int is_walk = steps > DEEP || tail_tiles > 0;
    unsigned char *ws = xs + (NORMED ? steps : (is_walk + 1) * deep) * TILE::X;
    float d[2][NJ][4] = {}, squares[2][2] = {};

    auto fetch_rows = [&](int first, int count, int buffer) {
#pragma unroll 1
        for (int s = 0; s < count; s++)
            fetch_tile<T, THREADS>(xs + (buffer * deep + s) * TILE::X, TILE::ROWS, in, row0, g.rows,
                                   (first + s) * NOC_TILE_DEPTH, g.depth);
    };
    auto fetch = [&](int tile, int first, int buffer) {
        int count = min(steps - first, (int)DEEP);
        bool is_tail = tile < tail_tiles;
        if (!NORMED)
            fetch_rows(first, count, buffer);
#pragma unroll 1
        for (int s = 0; s < count; s++)
            fetch_tile<T, THREADS>(ws + (buffer * deep + s) * TILE::W, TILE::COLUMNS, weight,
                                   is_tail ? own + tile * TILE::COLUMNS : column0,
                                   is_tail ? own + g.tail : own, (first + s) * NOC_TILE_DEPTH, g.depth);
    };
    if (NORMED) {
        fetch_rows(0, steps, 0);
        copy_commit();
    }
    fetch(0, 0, 0);
    if (g.residual)
        fetch_residual<T, TILE, NJ>(g, result, row0 + wm, column0 + wn);
    copy_commit();
    if (NORMED) {
        copy_wait<1>();
        __syncthreads();
        normalise<T, TILE::ROWS>(xs, g);
    }
    int buffer = 0, first = 0;
#pragma unroll 1
    for (int tile = 0; tile <= tail_tiles; buffer ^= 1) {
        int next = first + DEEP < steps ? first + DEEP : 0, count = min(steps - first, (int)DEEP);
        copy_wait<0>();
        __syncthreads();
        if (tile + !next <= tail_tiles)
            fetch(tile + !next, next, buffer ^ 1);
        copy_commit();
#pragma unroll 1
        for (int s = 0; s < count; s++)
            multiply<T, NJ>(d, xs + (NORMED ? first + s : buffer * deep + s) * TILE::X, wm,
                            ws + (buffer * deep + s) * TILE::W, wn);
        if (tile < tail_tiles && next == 0) {
            int column = tile * TILE::COLUMNS + wn;
            square_tail(d, squares, g.bias ? g.bias + own + column : nullptr, g.tail - column);
        }
        tile += !next, first = next;
    }
    if (g.tail > 0) {
        share_squares(&tail_squares[warp % TILE::SIDE * TILE::ROWS + wm], squares);
        __syncthreads();
    }
    finish<T, TILE, NJ>(g, d, result, tail_squares + wm, row0 + wm, column0 + wn);
}

template <class T, bool NORMED, int WM, int NJ>
__global__ void __launch_bounds__(THREADS, (tile<WM, NJ>::BLOCKS)) gemm_kernel(noc_cuda_gemm g)
{
    __shared__ float tail_squares[tile<WM, NJ>::SIDE * tile<WM, NJ>::ROWS];
    run_block<T, NORMED, WM, NJ>(g, blockIdx.x, tail_squares);
}

// The blocks of a, then those of b.
template <class T, bool NORMED, int WM, int NJ>
__global__ void __launch_bounds__(THREADS, (tile<WM, NJ>::BLOCKS))
    gemm_pair_kernel(noc_cuda_gemm a, noc_cuda_gemm b, int blocks_of_a)
{
    __shared__ float tail_squares[tile<WM, NJ>::SIDE * tile<WM, NJ>::ROWS];
    if ((int)blockIdx.x < blocks_of_a)
        run_block<T, NORMED, WM, NJ>(a, blockIdx.x, tail_squares);
    else
        run_block<T, NORMED, WM, NJ>(b, blockIdx.x - blocks_of_a, tail_squares);
}

extern "C" bool noc_cuda_gemm_fits(const noc_cuda_gemm *gemm)
{
    return gemm->rows > 0 && gemm->columns > 0 && gemm->depth > 0 && gemm->columns % 8 == 0 &&
           gemm->depth % 8 == 0 && (!gemm->is_normed || gemm->depth <= NORMED_DEPTH);
}

template <class TILE> static int blocks_of(const noc_cuda_gemm &g)
{
    return parts(g.rows, TILE::ROWS) * parts(g.columns + (g.score != nullptr), TILE::COLUMNS);
}

template <class TILE> static int shared_of(const noc_cuda_gemm &g)
{
    const int steps = parts(g.depth, NOC_TILE_DEPTH);
    return TILE::shared(steps, g.is_normed, steps > DEEP || g.tail > 0);
}

template <class T, int WM, int NJ> static cudaError_t launch_tile(const noc_cuda_gemm &g, cudaStream_t stream)
{
    typedef tile<WM, NJ> TILE;
    return launch(g.is_normed ? gemm_kernel<T, true, WM, NJ> : gemm_kernel<T, false, WM, NJ>,
                  dim3(blocks_of<TILE>(g)), THREADS, shared_of<TILE>(g), stream, g);
}

static bool is_wide(const noc_cuda_gemm &g)
{
    return g.depth <= WIDE_DEPTH && g.columns > 64;
}

template <class T> static cudaError_t launch_gemm(const noc_cuda_gemm &g, cudaStream_t stream)
{
    return is_wide(g) ? launch_tile<T, 2, 8>(g, stream) : launch_tile<T, 1, 2>(g, stream);
}

template <class T>
static cudaError_t launch_pair(const noc_cuda_gemm &a, const noc_cuda_gemm &b, cudaStream_t stream)
{
    typedef tile<1, 2> TILE;
    int first = blocks_of<TILE>(a), shared = max(shared_of<TILE>(a), shared_of<TILE>(b));
    return launch(a.is_normed ? gemm_pair_kernel<T, true, 1, 2> : gemm_pair_kernel<T, false, 1, 2>,
                  dim3(first + blocks_of<TILE>(b)), THREADS, shared, stream, a, b, first);
}

extern "C" cudaError_t noc_cuda_gemm_launch(const noc_cuda_gemm *gemm, noc_cuda_type type,
                                            cudaStream_t stream)
{
    if (!noc_cuda_gemm_fits(gemm))
        return cudaErrorInvalidValue;
    return type == NOC_CUDA_F16 ? launch_gemm<__half>(*gemm, stream)
                                : launch_gemm<__nv_bfloat16>(*gemm, stream);
}

extern "C" bool noc_cuda_gemm_pairs(const noc_cuda_gemm *a, const noc_cuda_gemm *b)
{
    return noc_cuda_gemm_fits(a) && noc_cuda_gemm_fits(b) && a->is_normed == b->is_normed && !is_wide(*a) &&
           !is_wide(*b);
}

extern "C" cudaError_t noc_cuda_gemm_launch_pair(const noc_cuda_gemm *a, const noc_cuda_gemm *b,
                                                 noc_cuda_type type, cudaStream_t stream)
{
    if (!noc_cuda_gemm_pairs(a, b))
        return cudaErrorInvalidValue;
    return type == NOC_CUDA_F16 ? launch_pair<__half>(*a, *b, stream)
                                : launch_pair<__nv_bfloat16>(*a, *b, stream);
}
