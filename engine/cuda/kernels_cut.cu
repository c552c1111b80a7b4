// Volumes: stored voxels become elements in the model's order, once a study; windows are cut from those.
#include "engine/cuda/element.cuh"

// Sums and products that the compiler may not join: the host's are rounded one by one.
static __device__ __forceinline__ double scaled(double v, double factor, double addend)
{
    return __dadd_rn(__dmul_rn(v, factor), addend);
}

static __device__ __forceinline__ double stored_number(const noc_cuda_conversion &c, int64_t i)
{
    if (c.kind == NOC_CUDA_FLOAT)
        return c.bytes == 4 ? ((const float *)c.in)[i] : ((const double *)c.in)[i];
    if (c.kind == NOC_CUDA_SIGNED)
        return c.bytes == 1   ? ((const int8_t *)c.in)[i]
               : c.bytes == 2 ? ((const int16_t *)c.in)[i]
               : c.bytes == 4 ? ((const int32_t *)c.in)[i]
                              : (double)((const int64_t *)c.in)[i];
    return c.bytes == 1   ? ((const uint8_t *)c.in)[i]
           : c.bytes == 2 ? ((const uint16_t *)c.in)[i]
           : c.bytes == 4 ? ((const uint32_t *)c.in)[i]
                          : (double)((const uint64_t *)c.in)[i];
}

static __device__ __forceinline__ double stepped(const noc_cuda_pointwise &s, int slice, double v)
{
    if (s.kind == NOC_CUDA_SLICES)
        return scaled(v, s.factor[slice], s.addend[slice]);
    if (s.kind == NOC_CUDA_CLIP)
        return v < s.low ? s.low : v > s.high ? s.high : v;
    if (s.kind == NOC_CUDA_SHIFT_DIVIDE_NONZERO && v == 0)
        return v;
    return __ddiv_rn(__dsub_rn(v, s.shift), s.divisor);
}

template <class T>
__global__ void __launch_bounds__(THREADS_OF_A_LINE, BLOCKS_OF_A_LINE) convert_kernel(noc_cuda_conversion c)
{
    int64_t i = line_index(), index = c.from + i, plane = (int64_t)c.stored_size[0] * c.stored_size[1];
    if (i >= c.count)
        return;
    int along[3] = {(int)(index % c.stored_size[0]), (int)(index % plane / c.stored_size[0]),
                    (int)(index / plane)};
    int64_t place = 0;
    for (int a = 0; a < 3; a++) {
        int at = c.axis[a] == 0 ? along[0] : c.axis[a] == 1 ? along[1] : along[2];
        int x = (at - c.first[a]) * c.direction[a];
        if (x < 0 || x >= c.size[a])
            return; // cropped away
        place = place * c.size[a] + x;
    }
    double v = scaled(stored_number(c, i), c.slope, c.inter);
    for (int s = 0; s < c.step_count; s++)
        v = stepped(c.steps[s], along[2], v);
    store((T *)c.out + place * c.channels + c.channel, (float)v);
}

struct cut_list {
    noc_cuda_cut cut[NOC_CUDA_CUTS_MOST];
};

struct cut_shape {
    int window[3];
    int units; // a voxel
};

// In the volume, of a place of the window.
static __device__ __forceinline__ int place_of(const noc_cuda_cut &cut, const cut_shape &shape, int a, int at)
{
    return cut.start[a] + (cut.flips >> a & 1 ? shape.window[a] - 1 - at : at);
}

// A thread copies a unit; windows are the grid's second axis.
template <class UNIT>
__global__ void __launch_bounds__(THREADS_OF_A_LINE, BLOCKS_OF_A_LINE)
    cut_kernel(cut_list list, cut_shape shape, UNIT *out)
{
    const noc_cuda_cut &cut = list.cut[blockIdx.y];
    int64_t i = line_index(), row = i / shape.units;
    int64_t count = (int64_t)shape.window[0] * shape.window[1] * shape.window[2] * shape.units;
    if (i >= count)
        return;
    int unit = (int)(i % shape.units), w = place_of(cut, shape, 2, (int)(row % shape.window[2]));
    row /= shape.window[2];
    int h = place_of(cut, shape, 1, (int)(row % shape.window[1])),
        d = place_of(cut, shape, 0, (int)(row / shape.window[1]));
    bool is_inside = d >= 0 && h >= 0 && w >= 0 && d < cut.size[0] && h < cut.size[1] && w < cut.size[2];
    int64_t voxel = ((int64_t)d * cut.size[1] + h) * cut.size[2] + w;
    out[cut.window * count + i] =
        is_inside ? ((const UNIT *)cut.voxels)[voxel * shape.units + unit] : ((const UNIT *)cut.pad)[unit];
}

extern "C" cudaError_t noc_cuda_convert_run(cudaStream_t stream, const noc_cuda_conversion *c)
{
    return with_type(c->type, [&](auto element) {
        cudaLaunchConfig_t config = line_config(stream, c->count);
        return cudaLaunchKernelEx(&config, convert_kernel<decltype(element)>, *c);
    });
}

template <class UNIT>
static cudaError_t cut_units(cudaStream_t stream, const cut_list &list, int count, int voxel_bytes,
                             const int window[3], void *out)
{
    cut_shape shape = {{window[0], window[1], window[2]}, voxel_bytes / (int)sizeof(UNIT)};
    cudaLaunchConfig_t config = line_config(stream, (int64_t)window[0] * window[1] * window[2] * shape.units);
    config.gridDim.y = (unsigned)count;
    return cudaLaunchKernelEx(&config, cut_kernel<UNIT>, list, shape, (UNIT *)out);
}

extern "C" cudaError_t noc_cuda_cut_run(cudaStream_t stream, const noc_cuda_cut *cuts, int count,
                                        int voxel_bytes, const int window[3], void *out)
{
    cut_list list = {};
    for (int i = 0; i < count; i++)
        list.cut[i] = cuts[i];
    return voxel_bytes % 16 == 0  ? cut_units<uint4>(stream, list, count, voxel_bytes, window, out)
           : voxel_bytes % 8 == 0 ? cut_units<uint2>(stream, list, count, voxel_bytes, window, out)
           : voxel_bytes % 4 == 0 ? cut_units<uint32_t>(stream, list, count, voxel_bytes, window, out)
                                  : cut_units<uint16_t>(stream, list, count, voxel_bytes, window, out);
}
