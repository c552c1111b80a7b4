// A block owns a box of tokens and walks the hidden channels, 32 at a time: the depthwise convolution reads a
// box with its halo from shared memory, slides along W with a column of the three lines in registers, and
// leaves the activated values as the left side of the product, whose sums stay in registers to the end. The
// next channels arrive meanwhile.
#include "engine/cuda/fused_mixffn.h"
#include "engine/cuda/tile.cuh"

enum { WARPS = 8, THREADS = WARPS * 32, PAIRS = NOC_TILE_DEPTH / 2, TAPS = 27 };

// Of a large box. The shared memory of compute capability 8.0 holds one.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
enum { LARGE_BOXES = 1 };
#else
enum { LARGE_BOXES = 2 };
#endif

// A box of TD x TH x TW tokens; the eight warps share its 32-token rows and the WN * NJ * 8 columns.
template <int TD, int TH, int TW, int WN, int NJ> struct box {
    enum {
        LINES = TD * TH,
        TOKENS = LINES * TW,
        WIDE = TW + 2,
        HIGH = TH + 2,
        COLUMNS = WN * NJ * 8,
        PITCH = COLUMNS + NOC_STAGE_SLACK,
        HALO = (TD + 2) * HIGH * WIDE * NOC_ROW_BYTES,
        WEIGHTS = COLUMNS * NOC_ROW_BYTES,
        TAP_BYTES = TAPS * NOC_TILE_DEPTH * 4,
        BUFFER = HALO + WEIGHTS + TAP_BYTES,
        ROWS = TOKENS * NOC_ROW_BYTES,
        SHARED = 2 * BUFFER + ROWS + HALO / NOC_ROW_BYTES * 4
    };
    static_assert(TOKENS / 32 * WN == WARPS && TOKENS * PITCH * 4 <= SHARED, "the warps and the staged sums");
};

struct corner {
    int d, h, w;
};

// The tokens of the box and its halo, -1 outside of the grid, as they lie in shared memory: odd lines have
// neighbouring tokens exchanged; then two lines that one warp reads never meet in a bank.
template <class B>
static __device__ __forceinline__ void find_halo(int *tokens, const noc_cuda_mixffn &p, const corner &at)
{
#pragma unroll 1
    for (int i = threadIdx.x; i < B::HALO / NOC_ROW_BYTES; i += THREADS) {
        int line = i / B::WIDE, x = i % B::WIDE ^ (line % B::HIGH & 1);
        int d = at.d + line / B::HIGH - 1, h = at.h + line % B::HIGH - 1, w = at.w + x - 1;
        bool valid = d >= 0 && d < p.grid[0] && h >= 0 && h < p.grid[1] && w >= 0 && w < p.grid[2];
        tokens[i] = valid ? (d * p.grid[1] + h) * p.grid[2] + w : -1;
    }
}

// 32 channels of the box and its halo.
template <class T, class B>
static __device__ __forceinline__ void fetch_halo(unsigned char *halo, const noc_cuda_mixffn &p,
                                                  const int *tokens, int channel)
{
    int k = channel + threadIdx.x % 4 * 8;
    const T *in = (const T *)p.in + (size_t)blockIdx.z * p.grid[0] * p.grid[1] * p.grid[2] * p.hidden;
#pragma unroll 2
    for (int i = threadIdx.x; i < B::HALO / 16; i += THREADS) {
        int token = tokens[i / 4];
        bool valid = token >= 0 && k < p.hidden;
        copy16_async(halo + i * 16, valid ? in + (size_t)token * p.hidden + k : in, valid);
    }
}

template <class T, class B>
static __device__ __forceinline__ void fetch(unsigned char *buffer, const noc_cuda_mixffn &p,
                                             const int *tokens, int channel, int column)
{
    fetch_halo<T, B>(buffer, p, tokens, channel);
    fetch_tile<T, THREADS>(buffer + B::HALO, B::COLUMNS, (const T *)p.weight, column, p.columns, channel,
                           p.hidden);
    if (threadIdx.x < B::TAP_BYTES / 16) {
        int tap = threadIdx.x / 8, k = channel + threadIdx.x % 8 * 4;
        copy16_async(buffer + B::HALO + B::WEIGHTS + threadIdx.x * 16,
                     k < p.hidden ? p.taps + (size_t)tap * p.hidden + k : p.taps, k < p.hidden);
    }
    copy_commit();
}

// Two channels of a line of TW outputs, from three planes of three lines.
template <class T, class B, int TW>
static __device__ __forceinline__ void convolve(float2 sum[TW], const unsigned char *halo, const float2 *taps,
                                                int d, int h)
{
#pragma unroll 1
    for (int kd = 0; kd < 3; kd++) {
        float2 tap[3][3];
        const unsigned char *even[3], *odd[3];
#pragma unroll
        for (int kh = 0; kh < 3; kh++) {
            const unsigned char *line = halo + ((d + kd) * B::HIGH + h + kh) * B::WIDE * NOC_ROW_BYTES;
            int turn = ((h + kh) & 1) * NOC_ROW_BYTES;
            even[kh] = line + turn, odd[kh] = line - turn;
#pragma unroll
            for (int kw = 0; kw < 3; kw++)
                tap[kh][kw] = get<float2>(taps + (kd * 9 + kh * 3 + kw) * PAIRS);
        }
#pragma unroll
        for (int x = 0; x < TW + 2; x++)
#pragma unroll
            for (int kh = 0; kh < 3; kh++) {
                const unsigned char *at = (x % 2 ? odd[kh] : even[kh]) + x * NOC_ROW_BYTES;
                float2 v = element<T>::unpack(*(const uint32_t *)at);
#pragma unroll
                for (int kw = 0; kw < 3; kw++)
                    if (x - kw >= 0 && x - kw < TW) {
                        sum[x - kw].x += tap[kh][kw].x * v.x;
                        sum[x - kw].y += tap[kh][kw].y * v.y;
                    }
            }
    }
}

// The activated hidden values of the box as a tile of rows: token w of line l is row w * LINES + l.
template <class T, class B, int TH, int TW>
static __device__ __forceinline__ void fill_rows(unsigned char *rows, unsigned char *buffer,
                                                 const noc_cuda_mixffn &p, int channel)
{
    int pair = threadIdx.x % PAIRS, k = channel + 2 * pair;
    const float2 *taps = (const float2 *)(buffer + B::HALO + B::WEIGHTS) + pair;
    float2 bias = make_float2(0, 0);
    if (p.taps_bias && k < p.hidden)
        bias = get<float2>(p.taps_bias + k);
#pragma unroll 1
    for (int line = threadIdx.x / PAIRS; line < B::LINES; line += THREADS / PAIRS) {
        float2 sum[TW];
#pragma unroll
        for (int w = 0; w < TW; w++)
            sum[w] = bias;
        convolve<T, B, TW>(sum, buffer + pair * 4, taps, line / TH, line % TH);
#pragma unroll
        for (int w = 0; w < TW; w++)
            *(uint32_t *)(chunk_at(rows, w * B::LINES + line, pair / 4) + pair % 4 * 4) =
                pack_finite<T>(activate(sum[w].x, p.activation), activate(sum[w].y, p.activation));
    }
}

// grid: boxes along W and H and D, blocks of columns, batch
template <class T, int TD, int TH, int TW, int WN, int NJ>
__global__ void __launch_bounds__(THREADS, TD *TH *TW > 64 ? LARGE_BOXES : 2) mixffn_kernel(noc_cuda_mixffn p)
{
    typedef box<TD, TH, TW, WN, NJ> B;
    int along_w = parts(p.grid[2], TW), along_h = parts(p.grid[1], TH), column0 = blockIdx.y * B::COLUMNS;
    corner at = {(int)blockIdx.x / along_w / along_h * TD, (int)blockIdx.x / along_w % along_h * TH,
                 (int)blockIdx.x % along_w * TW};
    int wm = threadIdx.x / 32 / WN * 32, wn = threadIdx.x / 32 % WN * NJ * 8;
    unsigned char *rows = shared_bytes + 2 * B::BUFFER;
    float d[2][NJ][4] = {};

    int *tokens = (int *)(rows + B::ROWS);
    find_halo<B>(tokens, p, at);
    __syncthreads();
    fetch<T, B>(shared_bytes, p, tokens, 0, column0);
    for (int channel = 0, now = 0; channel < p.hidden; channel += NOC_TILE_DEPTH, now ^= 1) {
        unsigned char *buffer = shared_bytes + now * B::BUFFER;
        copy_wait<0>();
        __syncthreads();
        if (channel + NOC_TILE_DEPTH < p.hidden)
            fetch<T, B>(shared_bytes + (now ^ 1) * B::BUFFER, p, tokens, channel + NOC_TILE_DEPTH, column0);
        fill_rows<T, B, TH, TW>(rows, buffer, p, channel);
        __syncthreads();
        multiply<T, NJ>(d, rows, wm, buffer + B::HALO, wn);
    }
    __syncthreads();
    float *stage = (float *)shared_bytes;
    stage_sums<NJ>(stage, B::PITCH, d, wm, wn);
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < B::TOKENS * B::COLUMNS / 4; i += THREADS) {
        int row = i / (B::COLUMNS / 4), column = i % (B::COLUMNS / 4) * 4, line = row % B::LINES;
        int td = at.d + line / TH, th = at.h + line % TH, tw = at.w + row / B::LINES;
        if (td >= p.grid[0] || th >= p.grid[1] || tw >= p.grid[2] || column0 + column >= p.columns)
            continue;
        size_t token = (((size_t)blockIdx.z * p.grid[0] + td) * p.grid[1] + th) * p.grid[2] + tw;
        finish4<T>(stage + row * B::PITCH + column, 1, p.bias ? p.bias + column0 + column : nullptr,
                   p.residual, p.out, token * p.columns + column0 + column, NOC_CUDA_IDENTITY);
    }
}

extern "C" bool noc_cuda_mixffn_fits(const noc_cuda_mixffn *p)
{
    return p->hidden > 0 && p->hidden % 8 == 0 && p->columns > 0 && p->columns % 8 == 0 && p->batch > 0 &&
           p->batch <= 65535 && p->grid[0] > 0 && p->grid[1] > 0 && p->grid[2] > 0;
}

template <class T, int TD, int TH, int TW, int WN, int NJ>
static cudaError_t launch_box(const noc_cuda_mixffn &p, cudaStream_t stream)
{
    typedef box<TD, TH, TW, WN, NJ> B;
    dim3 grid(parts(p.grid[0], TD) * parts(p.grid[1], TH) * parts(p.grid[2], TW),
              parts(p.columns, B::COLUMNS), p.batch);
    return launch(mixffn_kernel<T, TD, TH, TW, WN, NJ>, grid, THREADS, B::SHARED, stream, p);
}

template <class T> static cudaError_t launch_mixffn(const noc_cuda_mixffn &p, cudaStream_t stream)
{
    return p.columns <= 32   ? launch_box<T, 4, 8, 8, 1, 4>(p, stream)
           : p.columns <= 64 ? launch_box<T, 4, 8, 8, 1, 8>(p, stream)
                             : launch_box<T, 4, 4, 4, 4, 2>(p, stream);
}

extern "C" cudaError_t noc_cuda_mixffn_launch(const noc_cuda_mixffn *mixffn, noc_cuda_type type,
                                              cudaStream_t stream)
{
    if (!noc_cuda_mixffn_fits(mixffn))
        return cudaErrorInvalidValue;
    return type == NOC_CUDA_F16 ? launch_mixffn<__half>(*mixffn, stream)
                                : launch_mixffn<__nv_bfloat16>(*mixffn, stream);
}
