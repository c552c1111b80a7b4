// A block owns 64 tokens and all their columns: the product, 128 columns at a time, leaves its sums in shared
// memory; then a warp takes runs of tokens along W, twice four columns a lane, adds what the coarser stages
// have there, axis by axis, and makes the classes of what that leaves.
#include "engine/cuda/fused_decoder.h"

#include "engine/cuda/element.cuh"
#include "engine/cuda/tile.cuh"

enum { THREADS = 256, WARPS = 8, ROWS = 64, TILE = 128, COLUMNS_MOST = 256, DEPTH_MOST = 256 };
enum { RUN = ROWS / WARPS, OWN = COLUMNS_MOST / 32 /* columns of a lane */, TERMS = NOC_CUDA_DECODER_TERMS };
enum { PITCH = COLUMNS_MOST + NOC_STAGE_SLACK, A = ROWS * NOC_ROW_BYTES, W = TILE * NOC_ROW_BYTES };
enum { STAGE = ROWS * PITCH * 4, FIXED = STAGE + 2 * W };
static_assert(RUN * TERMS + 2 * TERMS <= 32, "a lane finds one place");

// What a term makes at two samples of W, of which `last` is the second, on a line of tokens.
struct line {
    int last;
    float low[OWN], high[OWN];
};

// Of a run of tokens in window `window`. Lane RUN * t + i: where token i lies in term t along W; the lanes
// behind them: where all lie along D and H.
struct run {
    int window, columns[OWN / 4];
    between place;
};

static __device__ __forceinline__ between place_of(const noc_cuda_decoder &p, const int at[3])
{
    int lane = threadIdx.x % 32, other = lane - RUN * TERMS;
    int term = other < 0 ? lane / RUN : min(other / 2, TERMS - 1), axis = other < 0 ? 2 : other % 2;
    int w = min(at[2] + lane % RUN, p.grid[2] - 1), token = axis == 0 ? at[0] : axis == 1 ? at[1] : w;
    return source_of(token, p.term_grids[term][axis], p.grid[axis]);
}

static __device__ __forceinline__ between from_lane(const between &b, int lane)
{
    between of = {__shfl_sync(ALL_LANES, b.low, lane), __shfl_sync(ALL_LANES, b.high, lane),
                  __shfl_sync(ALL_LANES, b.share, lane)};
    return of;
}

// The next sample of W: four of the term's lines around the tokens, by their shares.
template <class T>
static __device__ __forceinline__ void advance(line &l, const noc_cuda_decoder &p, int term, const run &r)
{
    const int *grid = p.term_grids[term];
    int at = min(++l.last, grid[2] - 1);
    const T *in = (const T *)p.terms[term];
    between d = from_lane(r.place, RUN * TERMS + 2 * term),
            h = from_lane(r.place, RUN * TERMS + 2 * term + 1);
#pragma unroll
    for (int i = 0; i < OWN; i++)
        l.low[i] = l.high[i], l.high[i] = 0;
#pragma unroll
    for (int c = 0; c < 4; c++) {
        int plane = r.window * grid[0] + (c / 2 ? d.high : d.low);
        int token = (plane * grid[1] + (c % 2 ? h.high : h.low)) * grid[2] + at;
        float v[OWN], share = (c / 2 ? d.share : 1 - d.share) * (c % 2 ? h.share : 1 - h.share);
#pragma unroll
        for (int g = 0; g < OWN / 4; g++) {
            uint2 four = get<uint2>(in + (size_t)token * p.columns + r.columns[g]);
            float2 low = element<T>::unpack(four.x), high = element<T>::unpack(four.y);
            v[4 * g] = low.x, v[4 * g + 1] = low.y, v[4 * g + 2] = high.x, v[4 * g + 3] = high.y;
        }
#pragma unroll
        for (int i = 0; i < OWN; i++)
            l.high[i] += share * v[i];
    }
}

// Adds the term at token i of the run.
template <class T>
static __device__ __forceinline__ void add_term(float v[OWN], line &l, const noc_cuda_decoder &p, int term,
                                                const run &r, int i)
{
    int low = __shfl_sync(ALL_LANES, r.place.low, RUN * term + i);
    float share = __shfl_sync(ALL_LANES, r.place.share, RUN * term + i);
    l.last = max(l.last, low - 1);
#pragma unroll 1
    while (l.last <= low)
        advance<T>(l, p, term, r);
#pragma unroll
    for (int k = 0; k < OWN; k++)
        v[k] += (1 - share) * l.low[k] + share * l.high[k];
}

// The columns of `count` tokens of one line, in place of their staged sums. A lane without columns resizes
// the first of the row, for nothing.
template <class T>
static __device__ __forceinline__ void finish_run(const noc_cuda_decoder &p, float *sums,
                                                  const float *squares, int row, int count)
{
    int at[3] = {row / p.grid[2] / p.grid[1] % p.grid[0], row / p.grid[2] % p.grid[1], row % p.grid[2]};
    run r = {row / (p.grid[0] * p.grid[1] * p.grid[2]), {}, place_of(p, at)};
    bool is_there[OWN / 4];
#pragma unroll
    for (int g = 0; g < OWN / 4; g++) {
        int column = g * TILE + (int)threadIdx.x % 32 * 4;
        is_there[g] = column < p.columns;
        r.columns[g] = is_there[g] ? column : 0;
    }
    line lines[TERMS];
#pragma unroll
    for (int t = 0; t < TERMS; t++)
        lines[t].last = -2;
#pragma unroll 1
    for (int i = 0; i < count; i++, sums += PITCH, squares++) {
        float v[OWN], factor = 1;
        if (p.tail > 0)
            factor =
                rsqrtf(p.tail_constant + squares[0] + squares[ROWS] + squares[2 * ROWS] + squares[3 * ROWS]);
#pragma unroll
        for (int g = 0; g < OWN / 4; g++) {
            float4 a = make_float4(0, 0, 0, 0), b = a;
            if (is_there[g])
                a = get<float4>(sums + r.columns[g]);
            if (p.sum_bias)
                b = get<float4>(p.sum_bias + r.columns[g]);
            v[4 * g] = a.x * factor + b.x, v[4 * g + 1] = a.y * factor + b.y;
            v[4 * g + 2] = a.z * factor + b.z, v[4 * g + 3] = a.w * factor + b.w;
        }
#pragma unroll
        for (int t = 0; t < TERMS; t++)
            if (t < p.term_count)
                add_term<T>(v, lines[t], p, t, r, i);
#pragma unroll
        for (int k = 0; k < OWN; k++)
            v[k] = activate(v[k], p.activation);
#pragma unroll
        for (int g = 0; g < OWN / 4; g++)
            if (is_there[g])
                put(sums + r.columns[g], make_float4(v[4 * g], v[4 * g + 1], v[4 * g + 2], v[4 * g + 3]));
    }
}

// The logits of the RUN tokens of a warp, of which `count` are there: four lanes a token, each every fourth
// four of columns; eight tokens at one four touch all banks, as the last half of them reads the next one.
static __device__ __forceinline__ void classify(const noc_cuda_decoder &p, const float *columns, int row,
                                                int count)
{
    int lane = threadIdx.x % 32, token = lane % RUN, part = lane / RUN;
    columns += token * PITCH;
#pragma unroll 1
    for (int first = 0; first < p.classes; first += 32 / RUN) {
        float own = 0;
#pragma unroll 1
        for (int k = first; k < p.classes && k < first + 32 / RUN; k++) {
            const float *weight = p.class_weight + (size_t)k * p.columns;
            float sum = 0;
#pragma unroll 4
            for (int c = part; c < p.columns / 4; c += 32 / RUN) {
                int column = (c ^ (token >> 2 & 1)) * 4;
                float4 v = get<float4>(columns + column), w = get<float4>(weight + column);
                sum += v.x * w.x + v.y * w.y + v.z * w.z + v.w * w.w;
            }
            sum += __shfl_xor_sync(ALL_LANES, sum, RUN);
            sum += __shfl_xor_sync(ALL_LANES, sum, 2 * RUN);
            if (part == k - first)
                own = sum + (p.class_bias ? p.class_bias[k] : 0);
        }
        if (token < count && first + part < p.classes)
            p.out[(size_t)(row + token) * p.classes + first + part] = own;
    }
}

// Of a warp's 32 columns.
static __device__ __forceinline__ void add_bias(float d[2][4][4], const float *bias, int columns_left)
{
#pragma unroll
    for (int j = 0; j < 4; j++) {
        int column = 8 * j + threadIdx.x % 4 * 2;
        if (column >= columns_left)
            continue;
        float2 b = get<float2>(bias + column);
#pragma unroll
        for (int i = 0; i < 4; i++)
            d[i / 2][j][i % 2 * 2] += b.x, d[i / 2][j][i % 2 * 2 + 1] += b.y;
    }
}

template <class T> __global__ void __launch_bounds__(THREADS, 2) decoder_kernel(noc_cuda_decoder p)
{
    __shared__ float tail_squares[4][ROWS];
    const T *weight = (const T *)p.weight;
    int rows = p.batch * p.grid[0] * p.grid[1] * p.grid[2], row0 = blockIdx.x * ROWS;
    int steps = parts(p.depth, NOC_TILE_DEPTH), tail_tiles = parts(p.tail, TILE);
    int all = (tail_tiles + parts(p.columns, TILE)) * steps;
    int warp = threadIdx.x / 32, wm = warp / 4 * 32, wn = warp % 4 * 32;
    float *stage = (float *)shared_bytes;
    unsigned char *ws = shared_bytes + STAGE, *xs = ws + 2 * W;
    float d[2][4][4] = {}, squares[2][2] = {};

    auto fetch = [&](int step) {
        int tile = step / steps, k = step % steps * NOC_TILE_DEPTH;
        bool is_tail = tile < tail_tiles;
        fetch_tile<T, THREADS>(ws + (step & 1) * W, TILE, weight,
                               is_tail ? p.columns + tile * TILE : (tile - tail_tiles) * TILE,
                               is_tail ? p.columns + p.tail : p.columns, k, p.depth);
        copy_commit();
    };
    for (int step = 0; step < steps; step++)
        fetch_tile<T, THREADS>(xs + step * A, ROWS, (const T *)p.in, row0, rows, step * NOC_TILE_DEPTH,
                               p.depth);
    fetch(0);
#pragma unroll 1
    for (int step = 0; step < all; step++) {
        copy_wait<0>();
        __syncthreads();
        if (step + 1 < all)
            fetch(step + 1);
        multiply<T, 4>(d, xs + step % steps * A, wm, ws + (step & 1) * W, wn);
        if (step % steps < steps - 1)
            continue;
        int tile = step / steps, first = tile * TILE + wn;
        if (tile < tail_tiles)
            square_tail(d, squares, p.bias ? p.bias + p.columns + first : nullptr, p.tail - first);
        else {
            int column = (tile - tail_tiles) * TILE + wn;
            if (p.bias)
                add_bias(d, p.bias + column, p.columns - column);
            stage_sums<4>(stage, PITCH, d, wm, column);
        }
#pragma unroll
        for (int i = 0; i < 32; i++)
            d[i / 16][i / 4 % 4][i % 4] = 0;
    }
    share_squares(&tail_squares[warp % 4][wm], squares);
    __syncthreads();
    int first = warp * RUN, there = min((int)RUN, rows - row0 - first);
#pragma unroll 1
    for (int i = 0, count; i < there; i += count) {
        int row = row0 + first + i;
        count = min(there - i, p.grid[2] - row % p.grid[2]);
        finish_run<T>(p, stage + (first + i) * PITCH, tail_squares[0] + first + i, row, count);
    }
    __syncwarp();
    classify(p, stage + first * PITCH, row0 + first, there);
}

extern "C" bool noc_cuda_decoder_fits(const noc_cuda_decoder *p)
{
    return p->batch > 0 && p->depth > 0 && p->depth % 8 == 0 && p->depth <= DEPTH_MOST && p->columns > 0 &&
           p->columns % 8 == 0 && p->columns <= COLUMNS_MOST && p->classes > 0 && p->term_count >= 0 &&
           p->term_count <= NOC_CUDA_DECODER_TERMS;
}

template <class T> static cudaError_t launch_decoder(const noc_cuda_decoder &p, cudaStream_t stream)
{
    int rows = p.batch * p.grid[0] * p.grid[1] * p.grid[2];
    return launch(decoder_kernel<T>, dim3(parts(rows, ROWS)), THREADS,
                  FIXED + parts(p.depth, NOC_TILE_DEPTH) * A, stream, p);
}

extern "C" cudaError_t noc_cuda_decoder_launch(const noc_cuda_decoder *decoder, noc_cuda_type type,
                                               cudaStream_t stream)
{
    if (!noc_cuda_decoder_fits(decoder))
        return cudaErrorInvalidValue;
    return type == NOC_CUDA_F16 ? launch_decoder<__half>(*decoder, stream)
                                : launch_decoder<__nv_bfloat16>(*decoder, stream);
}
