// LINEAR and CONV: one product of tiles in shared memory, where a convolution fetches its rows from the
// input's grid (no im2col). Every output is summed over its depth in order, by one thread, whatever else is
// in the tile; so a window has the same bits in every batch.
#include "engine/cuda/element.cuh"

enum { TILE = 64, DEPTH = 16, THREADS = 256, EACH = 4, ACROSS = TILE / EACH, PADDED = TILE + 4 };

struct product_tile {
    float in[DEPTH][PADDED], weight[DEPTH][PADDED];
};

// Of one row: its window's input, and the first sample of its box.
struct place {
    int64_t window;
    int at[3];
};

static __device__ __forceinline__ int rows_of(const noc_cuda_product &p)
{
    return p.batch * p.out_grid[0] * p.out_grid[1] * p.out_grid[2];
}

static __device__ __forceinline__ place place_of(const noc_cuda_product &p, int row)
{
    place where;
    int left = row;
    for (int a = 2; a >= 0; a--) {
        where.at[a] = left % p.out_grid[a] * p.stride[a] - p.padding[a];
        left /= p.out_grid[a];
    }
    where.window = (int64_t)left * p.in_grid[0] * p.in_grid[1] * p.in_grid[2];
    return where;
}

// Depths [first, first + DEPTH) of 64 rows, and of 64 of `columns` rows of weights.
template <class T>
static __device__ __forceinline__ void fetch(const noc_cuda_product &p, const T *weights,
                                             const place where[EACH], int first_row, int first_column,
                                             int columns, int first, product_tile *t)
{
    int lane = threadIdx.x % DEPTH, k = first + lane, tap = k / p.in_channels, channel = k % p.in_channels;
    int kw = tap % p.kernel[2], kh = tap / p.kernel[2] % p.kernel[1], kd = tap / p.kernel[2] / p.kernel[1];
    for (int i = 0; i < EACH; i++) {
        int line = threadIdx.x / DEPTH + i * (THREADS / DEPTH);
        int d = where[i].at[0] + kd, h = where[i].at[1] + kh, w = where[i].at[2] + kw;
        bool is_inside = k < p.depth && first_row + line < rows_of(p) && d >= 0 && h >= 0 && w >= 0 &&
                         d < p.in_grid[0] && h < p.in_grid[1] && w < p.in_grid[2];
        float in = 0, weight = 0;
        if (is_inside)
            in = number_of(
                ((const T *)p.in)[(where[i].window + ((int64_t)d * p.in_grid[1] + h) * p.in_grid[2] + w) *
                                      p.in_channels +
                                  channel]);
        if (k < p.depth && first_column + line < columns)
            weight = number_of(weights[(int64_t)(first_column + line) * p.depth + k]);
        t->in[lane][line] = in;
        t->weight[lane][line] = weight;
    }
}

// sums[i][j]: of row 4 y + i and column x + 16 j of the tile, x and y this thread's.
template <class T>
static __device__ __forceinline__ void multiply(const noc_cuda_product &p, const T *weights, int first_row,
                                                int first_column, int columns, product_tile *t,
                                                float sums[EACH][EACH])
{
    int x = threadIdx.x % ACROSS, y = threadIdx.x / ACROSS;
    place where[EACH];
    for (int i = 0; i < EACH; i++)
        where[i] =
            place_of(p, min(first_row + (int)threadIdx.x / DEPTH + i * (THREADS / DEPTH), rows_of(p) - 1));
    for (int first = 0; first < p.depth; first += DEPTH) {
        fetch(p, weights, where, first_row, first_column, columns, first, t);
        __syncthreads();
#pragma unroll
        for (int k = 0; k < DEPTH; k++) {
            float4 in = *(const float4 *)&t->in[k][y * EACH];
            const float rows[EACH] = {in.x, in.y, in.z, in.w};
#pragma unroll
            for (int j = 0; j < EACH; j++) {
                float weight = t->weight[k][x + ACROSS * j];
#pragma unroll
                for (int i = 0; i < EACH; i++)
                    sums[i][j] += rows[i] * weight;
            }
        }
        __syncthreads();
    }
}

template <class T, class OUT> __global__ void __launch_bounds__(THREADS, 2) product_kernel(noc_cuda_product p)
{
    __shared__ __align__(16) product_tile tile;
    int first_row = blockIdx.x * TILE, first_column = blockIdx.y * TILE;
    float sums[EACH][EACH] = {};
    multiply(p, (const T *)p.weight, first_row, first_column, p.columns, &tile, sums);
    for (int i = 0; i < EACH; i++) {
        int row = first_row + (int)threadIdx.x / ACROSS * EACH + i;
        for (int j = 0; j < EACH; j++) {
            int column = first_column + (int)threadIdx.x % ACROSS + ACROSS * j;
            if (row >= rows_of(p) || column >= p.columns)
                continue;
            int64_t at = (int64_t)row * p.columns + column;
            float value = sums[i][j] + (p.bias ? p.bias[column] : 0);
            value *= p.scale ? p.scale[row] : 1;
            value += p.residual ? number_of(((const T *)p.residual)[at]) : 0;
            store((OUT *)p.out + at, activate(p.activation, value));
        }
    }
}

template <class T> __global__ void __launch_bounds__(THREADS, 2) tail_kernel(noc_cuda_product p)
{
    __shared__ __align__(16) product_tile tile;
    const T *weights = (const T *)p.weight + (int64_t)p.columns * p.depth;
    int first_row = blockIdx.x * TILE;
    float squares[EACH] = {};
    for (int first_column = 0; first_column < p.tail; first_column += TILE) {
        float sums[EACH][EACH] = {};
        multiply(p, weights, first_row, first_column, p.tail, &tile, sums);
        for (int j = 0; j < EACH; j++) {
            int column = first_column + (int)threadIdx.x % ACROSS + ACROSS * j;
            float bias = p.bias && column < p.tail ? p.bias[p.columns + column] : 0;
            for (int i = 0; i < EACH; i++)
                squares[i] += (sums[i][j] + bias) * (sums[i][j] + bias);
        }
    }
    for (int i = 0; i < EACH; i++) {
        for (int bits = ACROSS / 2; bits > 0; bits /= 2)
            squares[i] += __shfl_xor_sync(0xffffffffu, squares[i], bits);
        int row = first_row + (int)threadIdx.x / ACROSS * EACH + i;
        if (threadIdx.x % ACROSS == 0 && row < rows_of(p))
            p.scale[row] = 1 / sqrtf(p.tail_constant + squares[i]);
    }
}

extern "C" cudaError_t noc_cuda_product_run(cudaStream_t stream, const noc_cuda_product *p)
{
    unsigned rows =
        (unsigned)((p->batch * p->out_grid[0] * p->out_grid[1] * p->out_grid[2] + TILE - 1) / TILE);
    return with_type(p->type, [&](auto element) {
        typedef decltype(element) T;
        cudaLaunchConfig_t config = launch_config(stream, dim3(rows), THREADS);
        cudaError_t error = p->tail > 0 ? cudaLaunchKernelEx(&config, tail_kernel<T>, *p) : cudaSuccess;
        if (error != cudaSuccess)
            return error;
        config.gridDim.y = (unsigned)((p->columns + TILE - 1) / TILE);
        return p->out_is_f32 ? cudaLaunchKernelEx(&config, product_kernel<T, float>, *p)
                             : cudaLaunchKernelEx(&config, product_kernel<T, T>, *p);
    });
}
