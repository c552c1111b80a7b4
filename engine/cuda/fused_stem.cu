// A convolution of few channels without im2col: a block holds all that TD x 4 x 8 outputs read. Along W, the
// window of an output is one run of memory, and those of neighbours overlap: the rows of the product's left
// side are read straight from there. The runs of weights pass by, two steps in flight: for four planes of
// outputs, where two such blocks fit into a multiprocessor, they are read half as often as for two.
#include "engine/cuda/fused_conv.cuh"

enum { TH = 4, TW = 8, CHUNK = 8 /* elements */, PATCH_MOST = 128 << 10, DEEP_PATCH_MOST = 104 << 10 };

// The lines of the input that a block reads.
struct patch {
    int high, lines, chunks, bytes; // lines of a plane, of all; chunks of a line, an even number
    int step, lead;                 // chunks from output to output; taps of zeros before the first
    int abreast;                    // lines that all threads fetch at once, each a chunk
    int by_chunks, by_high;         // 65536 / chunks, / high, rounded up: for quotients of threads
};

// Of a block with `deep` planes of outputs.
static __host__ __device__ __forceinline__ patch patch_of(const noc_cuda_conv &p, int deep)
{
    patch s;
    s.high = (TH - 1) * p.stride[1] + p.kernel[1];
    s.lines = ((deep - 1) * p.stride[0] + p.kernel[0]) * s.high;
    s.step = p.stride[2] * p.channels / CHUNK;
    s.chunks = ((TW - 1) * s.step + NOC_TILE_DEPTH / CHUNK + 1) / 2 * 2;
    s.bytes = s.lines * s.chunks * 16;
    int taps = CHUNK / p.channels; // of a chunk
    s.lead = (taps - p.padding[2] % taps) % taps;
    s.abreast = THREADS / s.chunks;
    s.by_chunks = parts(65536, s.chunks), s.by_high = parts(65536, s.high);
    return s;
}

// Chunk q of a line: those of eight outputs, one or two chunks apart, touch all banks.
static __device__ __forceinline__ int chunk_place(int q)
{
    return (q ^ (q >> 3 & 1)) * 16;
}

// Each thread has the same chunk of one line in `abreast`.
template <class T>
static __device__ __forceinline__ void fetch_patch(const noc_cuda_conv &p, const patch &s, int window, int d,
                                                   int h, int w)
{
    const T *in = (const T *)p.in + (size_t)window * p.grid[0] * p.grid[1] * p.grid[2] * p.channels;
    int across = p.grid[2] * p.channels / CHUNK, abreast = s.abreast, h_end = h + s.high;
    int line = threadIdx.x * s.by_chunks >> 16, q = threadIdx.x - line * s.chunks;
    int at = (w - s.lead) * p.channels / CHUNK + q, plane = line * s.by_high >> 16;
    int d_step = abreast * s.by_high >> 16, h_step = abreast - d_step * s.high;
    int lines = line < abreast ? s.lines : 0;
    unsigned planes = at >= 0 && at < across ? p.grid[0] : 0;
    unsigned char *to = shared_bytes + line * s.chunks * 16 + chunk_place(q);
    d += plane, h += line - plane * s.high;
    int from = (d * p.grid[1] + h) * across + at, step = (d_step * p.grid[1] + h_step) * across,
        next_plane = (p.grid[1] - s.high) * across; // in chunks
    for (; line < lines; line += abreast, to += abreast * s.chunks * 16) {
        copy16_async(to, in + (ptrdiff_t)from * CHUNK,
                     (unsigned)d < planes && (unsigned)h < (unsigned)p.grid[1]);
        d += d_step, h += h_step, from += step;
        if (h >= h_end)
            h -= s.high, d++, from += next_plane;
    }
}

// grid: boxes of outputs along W, H, D of all windows
template <class T, int WM, int WN, int WK>
__global__ void __launch_bounds__(THREADS, 2) stem_kernel(noc_cuda_conv p, patch s)
{
    typedef block<WM, WN, WK> B;
    enum { COLUMN_STEP = THREADS / (4 * WK) /* columns that a step of all threads takes */ };
    static_assert(COLUMN_STEP % 8 == 0, "the swizzle repeats");
    enum { TD = WM }; // a warp's 32 rows are a plane
    int along_d = parts(p.out_grid[0], TD), window = blockIdx.z / along_d, lane = threadIdx.x % 32;
    int w0 = blockIdx.x * TW, h0 = blockIdx.y * TH, d0 = (blockIdx.z - window * along_d) * TD;
    int warp = threadIdx.x / 32, wn = warp % WN * 32, wm = warp / WN % WM * 32, wk = warp / WN / WM;
    int runs = p.kernel[0] * p.kernel[1], steps = parts(runs, WK), line_bytes = s.chunks * 16;
    unsigned char *weights = shared_bytes + s.bytes;
    float d[2][4][4] = {};

    // Where this lane's rows of the left side begin in the patch, in either half of a run.
    unsigned char *line = shared_bytes + ((wm / 32 * p.stride[0] + wk / p.kernel[1]) * s.high +
                                          lane % 16 / TW * p.stride[1] + wk % p.kernel[1]) *
                                             line_bytes;
    int half[2] = {chunk_place(lane % TW * s.step + lane / 16),
                   chunk_place(lane % TW * s.step + 2 + lane / 16)};
    int h = wk % p.kernel[1], h_step = WK % p.kernel[1],
        line_step = (WK / p.kernel[1] * s.high + h_step) * line_bytes;
    // A thread fetches one chunk of one run of a step, of each COLUMN_STEPth column. Neighbours have two
    // columns.
    int chunk = threadIdx.x % 4, own_run = threadIdx.x / 8 % WK;
    int column0 = threadIdx.x / (8 * WK) * 2 + threadIdx.x / 4 % 2;
    const T *own = (const T *)p.weight + ((size_t)column0 * runs + own_run) * NOC_TILE_DEPTH + chunk * CHUNK;
    unsigned char *own_tile = chunk_at(weights + own_run * B::B, column0, chunk);

    auto fetch = [&](int step) {
        int columns_left = step * WK + own_run < runs ? p.columns - column0 : 0;
        const T *from = own + step * WK * NOC_TILE_DEPTH;
#pragma unroll
        for (int i = 0; i < B::COLUMNS; i += COLUMN_STEP, from += (size_t)COLUMN_STEP * runs * NOC_TILE_DEPTH)
            copy16_async(own_tile + (step & 1) * B::WEIGHTS + i * NOC_ROW_BYTES, from, i < columns_left);
        copy_commit();
    };
    fetch_patch<T>(p, s, window, d0 * p.stride[0] - p.padding[0], h0 * p.stride[1] - p.padding[1],
                   w0 * p.stride[2] - p.padding[2]);
    fetch(0);
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
        copy_wait<0>();
        __syncthreads();
        if (step + 1 < steps)
            fetch(step + 1);
        auto left = [&](int i, int c) { return line + i / TW * p.stride[1] * line_bytes + half[c / 2]; };
        if (step * WK + wk < runs)
            multiply_rows<T, 4>(d, left, weights + ((step & 1) * WK + wk) * B::B, wn);
        h += h_step, line += line_step;
        if (h >= p.kernel[1])
            h -= p.kernel[1], line += (s.high - p.kernel[1]) * line_bytes;
    }
    __syncthreads();
    float *sums = (float *)shared_bytes;
    stage_sums<4>(sums + wk * B::ROWS * B::PITCH, B::PITCH, d, wm, wn);
    __syncthreads();
    finish_rows<T, B, WK>(p, sums, 0, [&](int row) {
        int od = d0 + row / TW / TH, oh = h0 + row / TW % TH, ow = w0 + row % TW;
        bool is_there = od < p.out_grid[0] && oh < p.out_grid[1] && ow < p.out_grid[2];
        return is_there ? ((window * p.out_grid[0] + od) * p.out_grid[1] + oh) * p.out_grid[2] + ow : -1;
    });
}

template <class B> static int shared_of(const patch &s)
{
    int product = s.bytes + 2 * B::WEIGHTS, sums = B::STAGED;
    return product > sums ? product : sums;
}

extern "C" int noc_cuda_stem_lead(const noc_cuda_conv *conv)
{
    return patch_of(*conv, 1).lead;
}

extern "C" bool noc_cuda_stem_fits(const noc_cuda_conv *p)
{
    if (p->is_in_normed || p->channels < 1 || p->channels > 8 || CHUNK % p->channels != 0 ||
        p->stride[2] * p->channels % CHUNK != 0 || p->grid[2] * p->channels % CHUNK != 0 || p->columns < 8 ||
        p->columns % 8 != 0 || p->columns > 64 || p->batch < 1 ||
        p->batch > 65535 / parts(p->out_grid[0], 2) || p->out_grid[1] > 65535)
        return false;
    const patch s = patch_of(*p, 2);
    return (s.lead + p->kernel[2]) * p->channels <= NOC_TILE_DEPTH && s.bytes <= PATCH_MOST &&
           s.chunks <= THREADS;
}

template <class T, int WM, int WN, int WK>
static cudaError_t launch_block(const noc_cuda_conv &p, cudaStream_t stream)
{
    dim3 grid(parts(p.out_grid[2], TW), parts(p.out_grid[1], TH), parts(p.out_grid[0], WM) * p.batch);
    const patch s = patch_of(p, WM);
    return launch(stem_kernel<T, WM, WN, WK>, grid, THREADS, shared_of<block<WM, WN, WK>>(s), stream, p, s);
}

template <class T> static cudaError_t launch_stem(const noc_cuda_conv &p, cudaStream_t stream)
{
    bool is_deep = patch_of(p, 4).bytes <= DEEP_PATCH_MOST && p.out_grid[0] > 2;
    return p.columns > 32 ? launch_block<T, 2, 2, 2>(p, stream)
           : is_deep      ? launch_block<T, 4, 1, 2>(p, stream)
                          : launch_block<T, 2, 1, 4>(p, stream);
}

extern "C" cudaError_t noc_cuda_stem_launch(const noc_cuda_conv *conv, noc_cuda_type type,
                                            cudaStream_t stream)
{
    if (!noc_cuda_stem_fits(conv))
        return cudaErrorInvalidValue;
    return type == NOC_CUDA_F16 ? launch_stem<__half>(*conv, stream)
                                : launch_stem<__nv_bfloat16>(*conv, stream);
}
