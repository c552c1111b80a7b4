// Adds parts of tokens' sums and ends the tokens: memory alone decides, so lanes of a token have neighbouring
// columns.
#include "engine/cuda/token_end.cuh"

enum { THREADS = 256, COLUMNS_MOST = 256 };

// grid: runs of tokens, blocks of columns
template <class T, int COLUMNS>
__global__ void __launch_bounds__(THREADS, 4)
    end_kernel(noc_cuda_end p, const float *sums, int tokens, int split)
{
    enum { LANES = LANES_OF<COLUMNS> };
    int token = blockIdx.x * (THREADS / LANES) + threadIdx.x / LANES, column0 = blockIdx.y * COLUMNS;
    finish_token<T, COLUMNS>(p, token < tokens ? token : -1, column0, [&](int column) {
        bool is_there = token < tokens && column0 + column < p.columns;
        return sum_of_parts(sums + (size_t)token * p.columns + column0 + column, (size_t)tokens * p.columns,
                            is_there ? split : 0);
    });
}

template <class T, int COLUMNS>
static cudaError_t launch_end(const noc_cuda_end &p, const float *sums, int tokens, int split,
                              cudaStream_t stream)
{
    dim3 grid(parts(tokens, THREADS / LANES_OF<COLUMNS>), parts(p.columns, COLUMNS));
    return launch(end_kernel<T, COLUMNS>, grid, THREADS, 0, stream, p, sums, tokens, split);
}

template <class T>
static cudaError_t launch_of(const noc_cuda_end &p, const float *sums, int tokens, int split,
                             cudaStream_t stream)
{
    return p.columns <= 32    ? launch_end<T, 32>(p, sums, tokens, split, stream)
           : p.columns <= 64  ? launch_end<T, 64>(p, sums, tokens, split, stream)
           : p.columns <= 128 ? launch_end<T, 128>(p, sums, tokens, split, stream)
                              : launch_end<T, COLUMNS_MOST>(p, sums, tokens, split, stream);
}

extern "C" cudaError_t noc_cuda_end_launch(const noc_cuda_end *end, const float *sums, int tokens, int parts,
                                           noc_cuda_type type, cudaStream_t stream)
{
    if (tokens <= 0 || parts <= 0 || end->columns <= 0 || end->columns % 8 != 0 ||
        (end->is_normed && end->columns > COLUMNS_MOST))
        return cudaErrorInvalidValue;
    return type == NOC_CUDA_F16 ? launch_of<__half>(*end, sums, tokens, parts, stream)
                                : launch_of<__nv_bfloat16>(*end, sums, tokens, parts, stream);
}
