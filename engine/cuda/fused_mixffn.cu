// A block owns a box of tokens and walks the hidden channels, some at a time. The depthwise convolution is a
// product too: of 16 tokens, each with eight channels of two of its neighbours, and the two neighbours' taps
// as diagonals below each other. A warp owns eight channels, whose 27 taps it keeps in registers, and slides
// along W with three columns of the box and its halo in registers, so that each value is loaded at most three
// times. The activated values are the left side of the second product, whose sums stay in registers to the
// end. The next channels arrive meanwhile. Where there are few boxes, blocks share a box's hidden channels,
// and a second kernel adds their sums.
#include "engine/cuda/fused_mixffn.h"
#include "engine/cuda/token_end.cuh"

enum { WARPS = 8, THREADS = WARPS * 32, TAPS = 27, OCTET_BYTES = 16 };

// A box of TD x TH x TW tokens, TH of 8 or 4, and DEPTH hidden channels a step. The warps share its octets of
// channels and, with TH = 8, its pairs of planes, then the 32-token rows and the WN * NJ * 8 columns.
template <int TD, int TH, int TW, int DEPTH, int WN, int NJ> struct box {
    enum {
        TILES = DEPTH / NOC_TILE_DEPTH,
        TOKENS = TD * TH * TW,
        PLANES = 16 / TH, // of a product of 16 tokens; the first and the second eight tokens are these apart:
        APART = 8 / TH,
        WIDE = TW + 2,
        HIGH = TH + 2,
        LINES = (TD + 2) * HIGH,
        OCTETS = DEPTH / 8,
        PARTS = (LINES * OCTETS + THREADS - 1) / THREADS, // of lines, that a thread fetches
        COLUMNS = WN * NJ * 8,
        PITCH = COLUMNS + NOC_STAGE_SLACK,
        HALO_TILE = LINES * WIDE * NOC_ROW_BYTES,
        HALO = TILES * HALO_TILE,
        WEIGHT_TILE = COLUMNS * NOC_ROW_BYTES,
        WEIGHTS = TILES * WEIGHT_TILE,
        BUFFER = HALO + WEIGHTS + TAPS * DEPTH * 2,
        ROW_TILE = TOKENS * NOC_ROW_BYTES,
        SHARED = 2 * BUFFER + TILES * ROW_TILE
    };
    static_assert(TD / PLANES * OCTETS == WARPS && TOKENS / 32 * WN == WARPS, "a part for each warp");
    static_assert(LINES % 2 == 0 && TOKENS * PITCH * 4 <= SHARED, "the swizzle and the staged sums");
};

struct corner {
    int d, h, w;
};

template <int TD, int TH, int TW>
static __device__ __forceinline__ corner corner_of(const noc_cuda_mixffn &p, int block)
{
    int along_w = parts(p.grid[2], TW), along_h = parts(p.grid[1], TH);
    return {block / along_w / along_h * TD, block / along_w % along_h * TH, block % along_w * TW};
}

// Chunk c (of 4) of the halo's token (d, x, h). Eight tokens that are one load, of a plane or of two, touch
// all banks, wherever their x is.
template <class B> static __device__ __forceinline__ int halo_offset(int d, int x, int h, int c)
{
    int turn = h / 2 + (B::APART == 2 ? 2 * d : 0);
    return ((d * B::WIDE + x) * B::HIGH + h) * NOC_ROW_BYTES + (c ^ (turn & 3)) * 16;
}

// What a thread copies of a line of the box and its halo: a chunk of each token from x = 0 on.
template <class T> struct line_part {
    const T *from; // of the box's first token, x = 1
    int to, left;  // tokens of the grid from there on
};

template <class T, class B>
static __device__ __forceinline__ void find_lines(line_part<T> lines[B::PARTS], const noc_cuda_mixffn &p,
                                                  const corner &at)
{
    const T *in = (const T *)p.in + (size_t)blockIdx.z * p.grid[0] * p.grid[1] * p.grid[2] * p.hidden;
#pragma unroll
    for (int i = 0; i < B::PARTS; i++) {
        int own = threadIdx.x + i * THREADS, c = own % 4, line = own / 4 % B::LINES,
            tile = own / 4 / B::LINES;
        int d = at.d + line / B::HIGH - 1, h = at.h + line % B::HIGH - 1;
        bool inside = d >= 0 && d < p.grid[0] && h >= 0 && h < p.grid[1];
        line_part<T> &part = lines[i];
        part.from = in + (inside ? (((size_t)d * p.grid[1] + h) * p.grid[2] + at.w) * p.hidden : 0);
        part.to = tile * B::HALO_TILE + halo_offset<B>(line / B::HIGH, 0, line % B::HIGH, c);
        part.left = inside ? p.grid[2] - at.w : 0;
    }
}

// The box and its halo; zeros outside of the grid. Of channels beyond the last one come those before it:
// their taps and weights are zeros.
template <class T, class B>
static __device__ __forceinline__ void fetch_halo(unsigned char *halo, const noc_cuda_mixffn &p,
                                                  const line_part<T> lines[B::PARTS], bool has_before,
                                                  int channel)
{
#pragma unroll
    for (int i = 0; i < B::PARTS; i++) {
        int own = threadIdx.x + i * THREADS, tile = own >= 4 * B::LINES;
        if (own >= B::LINES * B::OCTETS)
            break;
        const T *from = lines[i].from + min(channel + tile * NOC_TILE_DEPTH + own % 4 * 8, p.hidden - 8);
#pragma unroll
        for (int x = 0; x < B::WIDE; x++) {
            bool valid = x == 0 ? has_before && lines[i].left > 0 : lines[i].left >= x;
            copy16_async(halo + lines[i].to + x * B::HIGH * NOC_ROW_BYTES,
                         from + (valid ? (x - 1) * p.hidden : 0), valid); // a register less than without
        }
    }
}

// A thread copies a chunk of every 64th row of the weights. Rows beyond the last column stay what they are:
// no other column has anything of them.
template <class T, class B>
static __device__ __forceinline__ void fetch_weights(unsigned char *weights, const noc_cuda_mixffn &p,
                                                     int column0, int channel)
{
    enum { STEP = THREADS / 4 };
    int thread = thread_again(), row = thread / 4, k = channel + thread % 4 * 8, left = p.columns - column0;
    const T *from = (const T *)p.weight + (size_t)(column0 + row) * p.hidden + k;
    unsigned char *to = chunk_at(weights, row, thread % 4);
#pragma unroll
    for (int r = 0; r < B::COLUMNS; r += STEP) {
        if (row + r >= min(left, (int)B::COLUMNS))
            break;
#pragma unroll
        for (int tile = 0; tile < B::TILES; tile++) {
            bool valid = k + tile * NOC_TILE_DEPTH < p.hidden;
            copy16_async(to + tile * B::WEIGHT_TILE + r * NOC_ROW_BYTES,
                         valid ? from + r * p.hidden + tile * NOC_TILE_DEPTH : (const T *)p.weight, valid);
        }
    }
}

template <class T, class B>
static __device__ __forceinline__ void fetch(unsigned char *buffer, const noc_cuda_mixffn &p,
                                             const line_part<T> lines[B::PARTS], bool has_before, int channel,
                                             int column0)
{
    fetch_halo<T, B>(buffer, p, lines, has_before, channel);
    fetch_weights<T, B>(buffer + B::HALO, p, column0, channel);
    int thread = thread_again(), tap = thread / B::OCTETS, k = channel + thread % B::OCTETS * 8;
    if (tap < TAPS)
        copy16_async(buffer + B::HALO + B::WEIGHTS + thread * OCTET_BYTES,
                     (const T *)p.taps + (k < p.hidden ? tap * p.hidden + k : 0), k < p.hidden);
    copy_commit();
}

// The right side of a product: two diagonals, of which a lane has at most one number each.
typedef uint32_t diagonals[2];

// The taps of an octet. A product has two planes of taps at one (kh, kw), or two kh of the middle plane; what
// is left of it, the line kh = 2, goes by kw and kw + 1 from -1 to 2, with zeros beyond the line.
struct taps_of_octet {
    diagonals outer[3][3], middle[3], rest[4];
};

// Where a lane finds its values in a buffer.
struct places {
    int outer[3], middle, rest;
};

template <class B, int TH> static __device__ __forceinline__ places find_places()
{
    int lane = threadIdx.x % 32, octet = threadIdx.x / 32 % B::OCTETS, c = octet % 4, tile = octet / 4;
    int plane = threadIdx.x / 32 / B::OCTETS * B::PLANES, halo = tile * B::HALO_TILE;
    // Of a load's four matrices of eight tokens, the second and the fourth are the product's other eight
    // tokens.
    int second = lane / 16, h = lane % TH, d = plane + lane % 8 / TH + lane / 8 % 2 * B::APART;
    places at;
#pragma unroll
    for (int kh = 0; kh < 3; kh++)
        at.outer[kh] = halo + halo_offset<B>(d + 2 * second, 0, h + kh, c);
    at.middle = halo + halo_offset<B>(d + 1, 0, h + second, c);
    at.rest = halo + halo_offset<B>(d + 1, second, h + 2, c);
    return at;
}

template <class B>
static __device__ __forceinline__ void spread_taps(taps_of_octet &t, const unsigned char *taps)
{
    unsigned lane = threadIdx.x % 32, pair = lane / 8;
    uint32_t mine = lane % 4 != pair ? 0 : lane / 4 % 2 ? 0xffff0000u : 0xffffu;
    auto tap = [&](int kd, int kh, int kw) {
        return *(const uint32_t *)(taps + (kd * 9 + kh * 3 + kw) * B::OCTETS * OCTET_BYTES + pair * 4) & mine;
    };
#pragma unroll
    for (int kw = 0; kw < 3; kw++) {
#pragma unroll
        for (int kh = 0; kh < 3; kh++)
            t.outer[kh][kw][0] = tap(0, kh, kw), t.outer[kh][kw][1] = tap(2, kh, kw);
        t.middle[kw][0] = tap(1, 0, kw), t.middle[kw][1] = tap(1, 1, kw);
        t.rest[kw + 1][0] = t.rest[kw][1] = tap(1, 2, kw);
    }
    t.rest[0][0] = t.rest[3][1] = 0;
}

// Adds what the values of column x (and, if it is even, of x + 1, for the rest) give to the sums that need
// them.
template <class T, class B, int TW>
static __device__ __forceinline__ void convolve(float sum[TW][4], const unsigned char *halo, const places &at,
                                                int x, const taps_of_octet &t)
{
    halo += x * B::HIGH * NOC_ROW_BYTES;
    uint32_t a[4];
#pragma unroll
    for (int kh = 0; kh < 4; kh++) {
        load_matrix4(a, halo + (kh < 3 ? at.outer[kh] : at.middle));
#pragma unroll
        for (int kw = 0; kw < 3; kw++)
            if (x - kw >= 0 && x - kw < TW) {
                const diagonals &b = kh < 3 ? t.outer[kh][kw] : t.middle[kw];
                element<T>::mma(sum[x - kw], a, b[0], b[1]);
            }
    }
    if (x % 2)
        return;
    load_matrix4(a, halo + at.rest);
#pragma unroll
    for (int kw = -1; kw < 3; kw++)
        if (x - kw >= 0 && x - kw < TW)
            element<T>::mma(sum[x - kw], a, t.rest[kw + 1][0], t.rest[kw + 1][1]);
}

// The activated hidden values of the box as tiles of rows: token (d, h, w) is row (w * TD + d) * TH + h.
template <class T, class B, int TD, int TH, int TW>
static __device__ __forceinline__ void fill_rows(unsigned char *rows, const unsigned char *buffer,
                                                 const noc_cuda_mixffn &p, const places &at, int channel)
{
    int thread = thread_again(), lane = thread % 32, octet = thread / 32 % B::OCTETS;
    int k = channel + octet * 8 + lane % 4 * 2;
    float2 bias = p.taps_bias && k < p.hidden ? get<float2>(p.taps_bias + k) : make_float2(0, 0);
    taps_of_octet t;
    spread_taps<B>(t, buffer + B::HALO + B::WEIGHTS + octet * OCTET_BYTES);
    int row = thread / 32 / B::OCTETS * B::PLANES * TH + lane / 4;
    unsigned char *to = chunk_at(rows + octet / 4 * B::ROW_TILE, row, octet % 4) + lane % 4 * 4;
    float sum[TW][4];
#pragma unroll
    for (int w = 0; w < TW; w++)
        sum[w][0] = sum[w][2] = bias.x, sum[w][1] = sum[w][3] = bias.y;
#pragma unroll
    for (int x = 0; x < B::WIDE; x++) {
        convolve<T, B, TW>(sum, buffer, at, x, t);
        if (x < 2)
            continue;
        const float *done = sum[x - 2];
#pragma unroll
        for (int i = 0; i < 2; i++)
            *(uint32_t *)(to + ((x - 2) * TD * TH + 8 * i) * NOC_ROW_BYTES) =
                pack_finite<T>(gelu(done[2 * i]), gelu(done[2 * i + 1]));
    }
}

static __host__ __device__ __forceinline__ noc_cuda_end end_of(const noc_cuda_mixffn &p)
{
    return {p.bias, p.residual, p.scale, p.shift, p.out, p.columns, p.eps, p.is_normed};
}

static __host__ __device__ __forceinline__ int tokens_of(const noc_cuda_mixffn &p)
{
    return p.batch * p.grid[0] * p.grid[1] * p.grid[2];
}

// The tokens of the staged sums, several a warp, or (IS_PART) the sums themselves.
template <class T, class B, int TD, int TH, bool IS_PART>
static __device__ __forceinline__ void finish(const float *stage, const noc_cuda_mixffn &p, const corner &at,
                                              int column0, int part)
{
    enum { LANES = IS_PART ? B::COLUMNS / 4 : LANES_OF<B::COLUMNS> };
#pragma unroll 1
    for (int row = threadIdx.x / LANES; row < B::TOKENS; row += THREADS / LANES) {
        int d = at.d + row / TH % TD, h = at.h + row % TH, w = at.w + row / TH / TD;
        bool is_there = d < p.grid[0] && h < p.grid[1] && w < p.grid[2];
        int token = is_there ? ((blockIdx.z * p.grid[0] + d) * p.grid[1] + h) * p.grid[2] + w : -1;
        if (IS_PART) {
            int column = threadIdx.x % LANES * 4;
            if (is_there && column0 + column < p.columns)
                put(p.sums + ((size_t)part * tokens_of(p) + token) * p.columns + column0 + column,
                    get<float4>(stage + row * B::PITCH + column));
        } else {
            finish_token<T, B::COLUMNS>(end_of(p), token, column0, [&](int column) {
                return get<float4>(stage + row * B::PITCH + column);
            });
        }
    }
}

// grid: boxes along W and H and D, blocks of columns (IS_PART: of each part of the hidden channels), batch
template <class T, int TD, int TH, int TW, int DEPTH, int WN, int NJ, bool IS_PART>
__global__ void __launch_bounds__(THREADS, DEPTH > 32 ? 1 : 2) mixffn_kernel(noc_cuda_mixffn p)
{
    typedef box<TD, TH, TW, DEPTH, WN, NJ> B;
    const corner at = corner_of<TD, TH, TW>(p, blockIdx.x);
    const int across = IS_PART ? parts(p.columns, B::COLUMNS) : gridDim.y, split = gridDim.y / across;
    const int part = IS_PART ? blockIdx.y / across : 0, column0 = (blockIdx.y - part * across) * B::COLUMNS;
    const int end = IS_PART ? parts(p.hidden, DEPTH) * (part + 1) / split * DEPTH : p.hidden;
    int wm = threadIdx.x / 32 / WN * 32, wn = threadIdx.x / 32 % WN * NJ * 8;
    unsigned char *rows = shared_bytes + 2 * B::BUFFER;
    float d[2][NJ][4] = {};

    line_part<T> lines[B::PARTS];
    find_lines<T, B>(lines, p, at);
    const places mine = find_places<B, TH>();
    int channel = IS_PART ? parts(p.hidden, DEPTH) * part / split * DEPTH : 0;
    fetch<T, B>(shared_bytes + (channel / DEPTH & 1) * B::BUFFER, p, lines, at.w > 0, channel, column0);
    for (; channel < end; channel += DEPTH) {
        int now = channel / DEPTH & 1;
        unsigned char *buffer = shared_bytes + now * B::BUFFER;
        copy_wait<0>();
        __syncthreads();
        if (channel + DEPTH < end)
            fetch<T, B>(shared_bytes + (now ^ 1) * B::BUFFER, p, lines, at.w > 0, channel + DEPTH, column0);
        fill_rows<T, B, TD, TH, TW>(rows, buffer, p, mine, channel);
        __syncthreads();
        if (column0 + wn < p.columns)
#pragma unroll
            for (int tile = 0; tile < B::TILES; tile++)
                multiply<T, NJ>(d, rows + tile * B::ROW_TILE, wm, buffer + B::HALO + tile * B::WEIGHT_TILE,
                                wn);
    }
    __syncthreads();
    float *stage = (float *)shared_bytes;
    stage_sums<NJ>(stage, B::PITCH, d, wm, wn);
    __syncthreads();
    // Where the box lies is computed again: until here, no register is left for it.
    finish<T, B, TD, TH, IS_PART>(stage, p, corner_of<TD, TH, TW>(p, block_again()), column0, part);
}

extern "C" bool noc_cuda_mixffn_fits(const noc_cuda_mixffn *p)
{
    return p->hidden > 0 && p->hidden % 8 == 0 && p->columns > 0 && (!p->is_normed || p->columns <= 256) &&
           p->columns % 8 == 0 && p->batch > 0 && p->batch <= 65535 && p->grid[0] > 0 && p->grid[1] > 0 &&
           p->grid[2] > 0;
}

// Boxes of a window, with all its columns.
template <class B, int TD, int TH, int TW> static int boxes_of(const noc_cuda_mixffn &p)
{
    return parts(p.grid[0], TD) * parts(p.grid[1], TH) * parts(p.grid[2], TW) * parts(p.columns, B::COLUMNS);
}

// For few boxes: of eight and of four lines, with one block a multiprocessor.
typedef box<2, 8, 2, 64, 8, 4> high_box;
typedef box<4, 4, 2, 64, 8, 4> low_box;

// Into how many parts the hidden channels are split: as many as fill a large GPU with a batch of 8 windows,
// of two steps at least; the batch itself must not count, since sums would differ.
static int split_of(const noc_cuda_mixffn &p)
{
    enum { BATCH = 8, FULL = 132, LEAST = 2 };
    if (p.columns <= 64)
        return 1;
    int boxes = p.grid[1] > 4 ? boxes_of<high_box, 2, 8, 2>(p) : boxes_of<low_box, 4, 4, 2>(p);
    return max(1, min(FULL / (BATCH * boxes), parts(p.hidden, 2 * NOC_TILE_DEPTH) / LEAST));
}

extern "C" size_t noc_cuda_mixffn_sums(const noc_cuda_mixffn *p)
{
    int split = split_of(*p);
    return split > 1 ? (size_t)split * tokens_of(*p) * p->columns : 0;
}

template <class T, int TD, int TH, int TW, int DEPTH, int WN, int NJ, bool IS_PART>
static cudaError_t launch_box(const noc_cuda_mixffn &p, int split, cudaStream_t stream)
{
    typedef box<TD, TH, TW, DEPTH, WN, NJ> B;
    dim3 grid(parts(p.grid[0], TD) * parts(p.grid[1], TH) * parts(p.grid[2], TW),
              parts(p.columns, B::COLUMNS) * split, p.batch);
    return launch(mixffn_kernel<T, TD, TH, TW, DEPTH, WN, NJ, IS_PART>, grid, THREADS, B::SHARED, stream, p);
}

template <class T> static cudaError_t launch_parts(const noc_cuda_mixffn &p, int split, cudaStream_t stream)
{
    cudaError_t e = p.grid[1] > 4 ? launch_box<T, 2, 8, 2, 64, 8, 4, true>(p, split, stream)
                                  : launch_box<T, 4, 4, 2, 64, 8, 4, true>(p, split, stream);
    const noc_cuda_end end = end_of(p);
    return e != cudaSuccess ? e : noc_cuda_end_launch(&end, p.sums, tokens_of(p), split, type_of<T>, stream);
}

template <class T> static cudaError_t launch_mixffn(const noc_cuda_mixffn &p, cudaStream_t stream)
{
    int split = split_of(p);
    return split > 1         ? launch_parts<T>(p, split, stream)
           : p.columns <= 32 ? launch_box<T, 4, 8, 8, 32, 1, 4, false>(p, 1, stream)
           : p.columns <= 64 ? launch_box<T, 4, 8, 4, 32, 2, 4, false>(p, 1, stream)
           : p.grid[1] > 4   ? launch_box<T, 2, 8, 2, 64, 8, 4, false>(p, 1, stream)
                             : launch_box<T, 4, 4, 2, 64, 8, 4, false>(p, 1, stream);
}

extern "C" cudaError_t noc_cuda_mixffn_launch(const noc_cuda_mixffn *mixffn, noc_cuda_type type,
                                              cudaStream_t stream)
{
    if (!noc_cuda_mixffn_fits(mixffn))
        return cudaErrorInvalidValue;
    return type == NOC_CUDA_F16 ? launch_mixffn<__half>(*mixffn, stream)
                                : launch_mixffn<__nv_bfloat16>(*mixffn, stream);
}
