// Gathering: a thread makes a voxel. Its sums run over the windows in their order, a few classes at a time,
// each window resized where it is read; so no full-size logits exist and nothing is added atomically.
#include "engine/cuda/element.cuh"

enum { CLASSES = 4 /* at a time */ };

// What a voxel becomes of its logits, class after class.
struct decision {
    uint32_t value;
    float best;
};

static __device__ __forceinline__ void decide(const noc_cuda_gathering &g, int c, float logit, int64_t at,
                                              decision *made)
{
    if (g.kind == NOC_CUDA_LOGITS) {
        ((float *)g.out)[(int64_t)c * g.rows * g.width + at] = logit;
    } else if (g.kind == NOC_CUDA_REGIONS) {
        made->value |= (uint32_t)(logit >= g.threshold) << c;
    } else if (c == 0 || logit > made->best) {
        made->value = (uint32_t)c;
        made->best = logit;
    }
}

// Adds a window's share to the sums of classes [first, first + CLASSES), and its weight.
static __device__ __forceinline__ void add_window(const noc_cuda_gathering &g,
                                                  const noc_cuda_gather_window &window, const int voxel[3],
                                                  int first, float sums[CLASSES], float *weights)
{
    int at[3];
    between b[3];
    for (int a = 0; a < 3; a++) {
        at[a] = voxel[a] - window.start[a];
        if (at[a] < 0 || at[a] >= g.window[a])
            return;
        b[a] = source_of(at[a], g.grid[a], g.grid[a] * g.upsample[a]);
    }
    float weight =
        g.importance ? g.importance[((int64_t)at[0] * g.window[1] + at[1]) * g.window[2] + at[2]] : 1;
    int line = g.grid[2], plane = line * g.grid[1], volume = plane * g.grid[0];
    const float *corner[4] = {window.logits + b[0].low * plane + b[1].low * line,
                              window.logits + b[0].low * plane + b[1].high * line,
                              window.logits + b[0].high * plane + b[1].low * line,
                              window.logits + b[0].high * plane + b[1].high * line};
    for (int c = 0; c < CLASSES && first + c < g.classes; c++) {
        float along_w[4];
        for (int i = 0; i < 4; i++) {
            const float *from = corner[i] + (int64_t)(first + c) * volume;
            along_w[i] = mixed(from[b[2].low], from[b[2].high], b[2].share);
        }
        sums[c] += weight * mixed(mixed(along_w[0], along_w[1], b[1].share),
                                  mixed(along_w[2], along_w[3], b[1].share), b[0].share);
    }
    *weights += weight;
}

__global__ void __launch_bounds__(THREADS_OF_A_LINE, BLOCKS_OF_A_LINE) gather_kernel(noc_cuda_gathering g)
{
    int64_t at = line_index(), row = g.first_row + at / g.width;
    if (at >= (int64_t)g.rows * g.width)
        return;
    int voxel[3] = {g.from[0] + (int)(row / g.height), g.from[1] + (int)(row % g.height),
                    g.from[2] + (int)(at % g.width)};
    decision made = {0, 0};
    for (int first = 0; first < g.classes; first += CLASSES) {
        float sums[CLASSES] = {}, weights = 0;
        for (int i = 0; i < g.window_count; i++)
            add_window(g, g.windows[i], voxel, first, sums, &weights);
        for (int c = 0; c < CLASSES && first + c < g.classes; c++)
            decide(g, first + c, sums[c] / weights, at, &made);
    }
    if (g.kind == NOC_CUDA_LOGITS)
        return;
    if (g.element_bytes == 1)
        ((uint8_t *)g.out)[at] = (uint8_t)made.value;
    else if (g.element_bytes == 2)
        ((uint16_t *)g.out)[at] = (uint16_t)made.value;
    else
        ((uint32_t *)g.out)[at] = made.value;
}

extern "C" cudaError_t noc_cuda_gather_run(cudaStream_t stream, const noc_cuda_gathering *g)
{
    cudaLaunchConfig_t config = line_config(stream, (int64_t)g->rows * g->width);
    return cudaLaunchKernelEx(&config, gather_kernel, *g);
}
