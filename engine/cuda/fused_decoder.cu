// A block owns 4 x 4 x 4 tokens and all their columns, whose sums stay in registers from the product to the
// classes. What the coarser stages have at the tokens is a product too: of each token's shares of the samples
// around the block, with those samples. Shares that do not fit into an element are two, a rounded one and
// what that leaves.
#include "engine/cuda/fused_decoder.h"

#include "engine/cuda/element.cuh"
#include "engine/cuda/tile.cuh"

enum { THREADS = 256, SIDE = 4, ROWS = SIDE * SIDE * SIDE, COLUMNS_MOST = 256, DEPTH_MOST = 256 };
enum {
    TERMS = NOC_CUDA_DECODER_TERMS,
    TAIL_TILE = 128,
    RUN = 4 /* samples along W */,
    RUNS = NOC_TILE_DEPTH / RUN, /* of a slice: samples that are multiplied at once */
    CLASSES = 4,                 /* at once */
    SAMPLES = 12                 /* of an axis around a block: 2 SIDE + 1 at most, in whole runs */
};
enum { TILE = NOC_TILE_DEPTH * COLUMNS_MOST * 2, A = ROWS * NOC_ROW_BYTES, FIXED = 2 * TILE + 4 * A };

// The samples of a term around any block: how many along each axis, and how many runs they come to.
struct around {
    int count[3], across /* runs along W */, runs;
};

struct arounds {
    around of[TERMS];
    int slices, exact; // of the runs of all terms, behind each other; the first whose shares are exact
};

// Without an index that the device would need an array in memory for.
static __device__ __forceinline__ around around_term(const arounds &all, int term)
{
    static_assert(TERMS == 3, "each is named");
    return term == 0 ? all.of[0] : term == 1 ? all.of[1] : all.of[2];
}

// Around one block: the first samples of each axis, and what share each line of tokens has of them and those
// behind.
struct samples {
    int first[TERMS][3];
    __align__(16) float shares[TERMS][3][SIDE][SAMPLES];
};

// Of a term's samples around one block: where they begin, how many of them there are (0 beyond the grid), and
// where among all shares those of its first token lines begin.
struct __align__(16) run
{
    const void *from;
    int16_t left;
    uint16_t shares[3];
};

struct corner {
    int at[3], window;
};

// Quads of lanes have an axis of a term each, all lanes of the warps up to the last one.
static __device__ __forceinline__ void place_samples(samples &all, const noc_cuda_decoder &p, const corner &c)
{
    int line = threadIdx.x % SIDE, axis = threadIdx.x / SIDE % 3, term = threadIdx.x / (3 * SIDE);
    if (threadIdx.x / 32 > (TERMS * 3 * SIDE - 1) / 32)
        return;
    int used = min(term, TERMS - 1), at = axis == 0 ? c.at[0] : axis == 1 ? c.at[1] : c.at[2];
    between b = {};
    if (used < p.term_count)
        b = source_of(min(at + line, p.grid[axis] - 1), p.term_grids[used][axis], p.grid[axis]);
    int first = __shfl_sync(ALL_LANES, b.low, (int)threadIdx.x % 32 / SIDE * SIDE);
    if (term >= TERMS)
        return;
    for (int i = 0; i < SAMPLES; i++)
        all.shares[term][axis][line][i] = first + i == b.low       ? 1 - b.share
                                          : first + i == b.low + 1 ? b.share
                                                                   : 0;
    if (line == 0)
        all.first[term][axis] = first;
}

// A warp has the runs of a term; the one behind them fills the last slice.
template <class T>
static __device__ __forceinline__ void place_runs(run *runs, const samples &s, const noc_cuda_decoder &p,
                                                  const arounds &terms, int window)
{
    int term = threadIdx.x / 32, before = 0;
    for (int t = 0; t < TERMS; t++)
        before += t < term ? terms.of[t].runs : 0;
    if (term == TERMS)
        for (int i = before + threadIdx.x % 32; i < terms.slices * RUNS; i += 32)
            runs[i] = {p.in, 0, {0, SIDE * SAMPLES + SAMPLES - 1, 0}}; // no line has a share of it
    if (term >= p.term_count)
        return;
    const around a = around_term(terms, term);
    const int *grid = p.term_grids[term];
    for (int i = threadIdx.x % 32; i < a.runs; i += 32) {
        int line = i / a.across, at[3] = {line / a.count[1], line % a.count[1], i % a.across * RUN};
        int d = s.first[term][0] + at[0], h = s.first[term][1] + at[1], w = s.first[term][2] + at[2];
        int left = d < grid[0] && h < grid[1] ? min(max(grid[2] - w, 0), (int)RUN) : 0;
        ptrdiff_t sample = ((ptrdiff_t)(window * grid[0] + d) * grid[1] + h) * grid[2] + w;
        run r = {(const T *)p.terms[term] + sample * p.columns, (int16_t)left, {}};
#pragma unroll
        for (int axis = 0; axis < 3; axis++)
            r.shares[axis] = (uint16_t)((term * 3 + axis) * SIDE * SAMPLES + at[axis]);
        runs[before + i] = r;
    }
}

// The samples of a slice, a run a warp.
template <class T>
static __device__ __forceinline__ void fetch_samples(unsigned char *tile, const run *slice, int columns)
{
    int warp = threadIdx.x / 32, chunk = threadIdx.x % 32;
    int to = warp * RUN * COLUMNS_MOST * 2 + (chunk ^ warp % 2 * RUN) * 16; // in the swizzle of row % 8
    const T *from = (const T *)slice[warp].from + chunk * 8;
    int left = chunk * 8 < columns ? slice[warp].left : 0;
#pragma unroll
    for (int i = 0; i < RUN; i++, from += columns)
        copy16_async(tile + (to ^ i * 16) + i * COLUMNS_MOST * 2, from, i < left);
}

// The shares that the tokens have of a slice's samples: a thread has a run of them and two tokens.
template <class T>
static __device__ __forceinline__ void put_shares(unsigned char *tile, const run *slice, const samples &s,
                                                  bool is_split)
{
    int own = threadIdx.x % RUNS, row = threadIdx.x / RUNS;
    const run r = slice[own];
    const float *all = &s.shares[0][0][0][0];
    const float *share_d = all + r.shares[0] + row / SIDE / SIDE * SAMPLES;
    float share_h = all[r.shares[1] + row / SIDE % SIDE * SAMPLES];
    float4 share_w = get<float4>(all + r.shares[2] + row % SIDE * SAMPLES);
    share_w.x *= share_h, share_w.y *= share_h, share_w.z *= share_h, share_w.w *= share_h;
#pragma unroll
    for (int i = 0; i < 2; i++, row += THREADS / RUNS, share_d += THREADS / RUNS / SIDE / SIDE * SAMPLES) {
        const float v[RUN] = {*share_d * share_w.x, *share_d * share_w.y, *share_d * share_w.z,
                              *share_d * share_w.w};
        uint2 whole = make_uint2(element<T>::pack(v[0], v[1]), element<T>::pack(v[2], v[3]));
        unsigned char *to = chunk_at(tile, row, own / 2) + own % 2 * 8;
        put(to, whole);
        if (is_split) {
            float2 low = element<T>::unpack(whole.x), high = element<T>::unpack(whole.y);
            put(to + A, make_uint2(element<T>::pack(v[0] - low.x, v[1] - low.y),
                                   element<T>::pack(v[2] - high.x, v[3] - high.y)));
        }
    }
}

// d += the shares of rows [row, row + 32) times columns [column, column + 64) of the samples.
template <class T, bool IS_SPLIT>
static __device__ __forceinline__ void add_samples(float d[2][8][4], unsigned char *shares, int row,
                                                   unsigned char *tile, int column)
{
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int c = 0; c < 4; c += 2) {
        uint32_t a[2][4], rest[2][4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            unsigned char *from = chunk_at(shares, row + 16 * i + lane % 16, c + lane / 16);
            load_matrix4(a[i], from);
            if (IS_SPLIT)
                load_matrix4(rest[i], from + A);
        }
#pragma unroll
        for (int j = 0; j < 8; j += 2) {
            uint32_t b[4];
            int k = 8 * c + lane % 16, chunk = column / 8 + j + lane / 16;
            load_matrix4_trans(b, tile + (k * (COLUMNS_MOST / 8) + (chunk ^ (k & 7))) * 16);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                element<T>::mma(d[i][j], a[i], b[0], b[1]);
                element<T>::mma(d[i][j + 1], a[i], b[2], b[3]);
                if (IS_SPLIT) {
                    element<T>::mma(d[i][j], rest[i], b[0], b[1]);
                    element<T>::mma(d[i][j + 1], rest[i], b[2], b[3]);
                }
            }
        }
    }
}

// Two floats of a row: beyond its end the last ones, for sums that nobody reads.
static __device__ __forceinline__ float2 two_of(const float *row, int at, int columns)
{
    return row ? get<float2>(row + min(at, columns - 2)) : make_float2(0, 0);
}

// Of a warp's 32 rows and 64 columns.
static __device__ __forceinline__ void finish_product(float d[2][8][4], const noc_cuda_decoder &p,
                                                      const float squares[4][ROWS], int row, int column)
{
    int lane = threadIdx.x % 32, own = column + lane % 4 * 2;
    float factor[4] = {1, 1, 1, 1};
    if (p.tail > 0)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int at = row + 8 * i + lane / 4;
            factor[i] =
                rsqrtf(p.tail_constant + squares[0][at] + squares[1][at] + squares[2][at] + squares[3][at]);
        }
#pragma unroll
    for (int j = 0; j < 8; j++) {
        float2 b = two_of(p.bias, own + 8 * j, p.columns);
        float2 s = two_of(p.sum_bias, own + 8 * j, p.columns);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float *v = &d[i / 2][j][i % 2 * 2];
            v[0] = (v[0] + b.x) * factor[i] + s.x;
            v[1] = (v[1] + b.y) * factor[i] + s.y;
        }
    }
}

// The part of some classes' sums that a warp's columns have. IS_WHOLE: it has all 64.
template <bool IS_WHOLE>
static __device__ __forceinline__ void sum_classes(float (*sums)[CLASSES], const float d[2][8][4],
                                                   const noc_cuda_decoder &p, int first, int column)
{
    int lane = threadIdx.x % 32, own = column + lane % 4 * 2, left = p.columns - own;
#pragma unroll
    for (int k = 0; k < CLASSES; k++) {
        const float *weight = p.class_weight + (size_t)(first + k) * p.columns + own;
        float sum[4] = {};
        if (first + k >= p.classes)
            break;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            float2 w = IS_WHOLE || 8 * j < left ? get<float2>(weight + 8 * j) : make_float2(0, 0);
#pragma unroll
            for (int i = 0; i < 4; i++)
                sum[i] += d[i / 2][j][i % 2 * 2] * w.x, sum[i] += d[i / 2][j][i % 2 * 2 + 1] * w.y;
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            sum[i] = sum_of_quad(sum[i]);
            if (lane % 4 == 0)
                sums[8 * i + lane / 4][k] = sum[i];
        }
    }
}

// The token of a row in all windows, -1 for none.
static __device__ __forceinline__ int token_of(const noc_cuda_decoder &p, const corner &c, int row)
{
    int d = c.at[0] + row / SIDE / SIDE, h = c.at[1] + row / SIDE % SIDE, w = c.at[2] + row % SIDE;
    bool is_there = d < p.grid[0] && h < p.grid[1] && w < p.grid[2];
    return is_there ? ((c.window * p.grid[0] + d) * p.grid[1] + h) * p.grid[2] + w : -1;
}

// grid: boxes of tokens along W, H, D of all windows
template <class T>
__global__ void __launch_bounds__(THREADS, 2) decoder_kernel(noc_cuda_decoder p, arounds terms)
{
    __shared__ float squares_of[4][ROWS], sums[4][ROWS][CLASSES];
    __shared__ samples of_terms;
    int along_d = parts(p.grid[0], SIDE), window = blockIdx.z / along_d;
    const corner c = {
        {((int)blockIdx.z - window * along_d) * SIDE, (int)blockIdx.y * SIDE, (int)blockIdx.x * SIDE},
        window};
    int steps = parts(p.depth, NOC_TILE_DEPTH), tail_steps = parts(p.tail, TAIL_TILE) * steps;
    int warp = threadIdx.x / 32, wm = warp / 4 * 32, wn = warp % 4, own = threadIdx.x / 4;
    int token = token_of(p, c, own);
    unsigned char *shares = shared_bytes + 2 * TILE, *xs = shared_bytes + FIXED;
    run *runs = (run *)(xs + steps * A);
    float squares[2][2] = {};

    for (int step = 0; step < steps; step++) {
        int k = step * NOC_TILE_DEPTH + threadIdx.x % 4 * 8;
        bool valid = token >= 0 && k < p.depth;
        copy16_async(chunk_at(xs + step * A, own, threadIdx.x % 4),
                     (const T *)p.in + (ptrdiff_t)token * p.depth + k, valid);
    }
    auto fetch = [&](int step) {
        unsigned char *tile = shared_bytes + (step & 1) * TILE;
        if (step < tail_steps)
            fetch_tile<T, THREADS>(tile, TAIL_TILE, (const T *)p.weight, p.columns + step / steps * TAIL_TILE,
                                   p.columns + p.tail, step % steps * NOC_TILE_DEPTH, p.depth);
        else
            fetch_tile<T, THREADS>(tile, COLUMNS_MOST, (const T *)p.weight, 0, p.columns,
                                   (step - tail_steps) * NOC_TILE_DEPTH, p.depth);
        copy_commit();
    };
    auto fetch_slice = [&](int slice, int step) {
        const run *own = runs + slice * RUNS;
        fetch_samples<T>(shared_bytes + (step & 1) * TILE, own, p.columns);
        copy_commit();
        put_shares<T>(shares + (step & 1) * 2 * A, own, of_terms, slice >= terms.exact);
    };
    fetch(0);
    place_samples(of_terms, p, c);
    __syncthreads();
    place_runs<T>(runs, of_terms, p, terms, c.window);
    int step = 0;
    {
        float d[2][4][4] = {};
#pragma unroll 1
        for (; step < tail_steps; step++) {
            copy_wait<0>();
            __syncthreads();
            fetch(step + 1);
            int left = p.tail - step / steps * TAIL_TILE - wn * 32;
            if (left <= 0)
                continue;
            multiply<T, 4>(d, xs + step % steps * A, wm, shared_bytes + (step & 1) * TILE, wn * 32);
            if (step % steps == steps - 1)
                square_tail(d, squares, p.bias ? p.bias + p.columns + p.tail - left : nullptr, left);
        }
        share_squares(&squares_of[wn][wm], squares);
    }
    float d[2][8][4] = {};
#pragma unroll 1
    for (int last = step + steps; step < last; step++) {
        copy_wait<0>();
        __syncthreads();
        if (step + 1 < last)
            fetch(step + 1);
        else if (terms.slices > 0)
            fetch_slice(0, step + 1);
        multiply<T, 8>(d, xs + (step - tail_steps) * A, wm, shared_bytes + (step & 1) * TILE, wn * 64);
    }
    finish_product(d, p, squares_of, wm, wn * 64);
#pragma unroll 1
    for (int slice = 0; slice < terms.slices; slice++, step++) {
        copy_wait<0>();
        __syncthreads();
        if (slice + 1 < terms.slices)
            fetch_slice(slice + 1, step + 1);
        unsigned char *of_tokens = shares + (step & 1) * 2 * A, *tile = shared_bytes + (step & 1) * TILE;
        if (slice < terms.exact)
            add_samples<T, false>(d, of_tokens, wm, tile, wn * 64);
        else
            add_samples<T, true>(d, of_tokens, wm, tile, wn * 64);
    }
    float floor = p.activation == NOC_CUDA_RELU ? 0 : -INFINITY;
#pragma unroll
    for (int i = 0; i < 64; i++)
        d[i / 32][i / 4 % 8][i % 4] = fmaxf(d[i / 32][i / 4 % 8][i % 4], floor);
    int k = threadIdx.x % CLASSES;
#pragma unroll 1
    for (int first = 0; first < p.classes; first += CLASSES) {
        __syncthreads();
        if (wn * 64 + 64 <= p.columns)
            sum_classes<true>(&sums[wn][wm], d, p, first, wn * 64);
        else
            sum_classes<false>(&sums[wn][wm], d, p, first, wn * 64);
        __syncthreads();
        if (token >= 0 && first + k < p.classes)
            p.out[(size_t)token * p.classes + first + k] = sums[0][own][k] + sums[1][own][k] +
                                                           sums[2][own][k] + sums[3][own][k] +
                                                           (p.class_bias ? p.class_bias[first + k] : 0);
    }
}

extern "C" bool noc_cuda_decoder_fits(const noc_cuda_decoder *p)
{
    bool fits = p->batch > 0 && p->batch <= 65535 / parts(p->grid[0], SIDE) && p->grid[1] <= 65535 &&
                p->depth > 0 && p->depth % 8 == 0 && p->depth <= DEPTH_MOST && p->columns > 0 &&
                p->columns % 8 == 0 && p->columns <= COLUMNS_MOST && p->classes > 0 &&
                p->activation != NOC_CUDA_GELU && p->term_count >= 0 && p->term_count <= TERMS;
    for (int t = 0; fits && t < p->term_count; t++)
        for (int a = 0; a < 3; a++)
            fits = fits && p->term_grids[t][a] <= 2 * p->grid[a];
    return fits;
}

// Whether shares are multiples of a power of two, and few enough of it for the significant bits of an
// element.
static bool is_exact(const int in[3], const int out[3], int most)
{
    int shares = 1;
    for (int a = 0; a < 3; a++) {
        int times = out[a] / in[a];
        if (out[a] % in[a] != 0 || (times & (times - 1)) != 0 || times > most)
            return false;
        shares *= 2 * times - 1;
    }
    return shares <= most;
}

static around around_of(const int in[3], const int out[3])
{
    around a = {{1, 1, 1}, 0, 0};
    for (int axis = 0; axis < 3; axis++)
        for (int at = 0; at < out[axis]; at += SIDE) {
            int last = at + SIDE < out[axis] ? at + SIDE - 1 : out[axis] - 1;
            int count =
                source_of(last, in[axis], out[axis]).high - source_of(at, in[axis], out[axis]).low + 1;
            a.count[axis] = count > a.count[axis] ? count : a.count[axis];
        }
    a.across = parts(a.count[2], RUN);
    a.runs = a.count[0] * a.count[1] * a.across;
    return a;
}

template <class T>
static cudaError_t launch_decoder(const noc_cuda_decoder &p, int exact_most, cudaStream_t stream)
{
    arounds terms = {};
    int runs = 0, exact = 0;
    for (int t = 0; t < p.term_count; t++) {
        bool is_first = exact == runs;
        terms.of[t] = around_of(p.term_grids[t], p.grid);
        runs += terms.of[t].runs;
        if (is_first && is_exact(p.term_grids[t], p.grid, exact_most))
            exact = runs;
    }
    terms.slices = parts(runs, RUNS), terms.exact = exact == runs ? terms.slices : exact / RUNS;
    dim3 grid(parts(p.grid[2], SIDE), parts(p.grid[1], SIDE), parts(p.grid[0], SIDE) * p.batch);
    int shared = FIXED + parts(p.depth, NOC_TILE_DEPTH) * A + terms.slices * RUNS * (int)sizeof(run);
    return launch(decoder_kernel<T>, grid, THREADS, shared, stream, p, terms);
}

extern "C" cudaError_t noc_cuda_decoder_launch(const noc_cuda_decoder *decoder, noc_cuda_type type,
                                               cudaStream_t stream)
{
    if (!noc_cuda_decoder_fits(decoder))
        return cudaErrorInvalidValue;
    return type == NOC_CUDA_F16 ? launch_decoder<__half>(*decoder, 1 << 11, stream)
                                : launch_decoder<__nv_bfloat16>(*decoder, 1 << 8, stream);
}
