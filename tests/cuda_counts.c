/* The fused kernels, and the general ones that stream, at usual shapes, once each, for the counters of the
 * emulated device. */
#include "engine/cuda/fused_attention.h"
#include "engine/cuda/fused_conv.h"
#include "engine/cuda/fused_decoder.h"
#include "engine/cuda/fused_gemm.h"
#include "engine/cuda/fused_mixffn.h"

#include "tests/fused_sample.h"

/* Memory of numbers that are all small, in f16 as in f32. */
static void *filled(size_t bytes)
{
    void *device = device_copy(NULL, bytes);
    ck_assert_int_eq(cudaMemsetAsync(device, 0x11, bytes, NULL), cudaSuccess);
    return device;
}

START_TEST(usual_shapes)
{
    enum { MANY = 1 << 22 };
    void *in = filled(MANY), *weight = filled(MANY), *floats = filled(MANY), *out = filled(MANY),
         *sums = filled(MANY);
    const noc_cuda_gemm gemm = {
        .in = in, .weight = weight, .bias = floats, .out = out, .rows = 256, .columns = 128, .depth = 64};
    ck_assert_int_eq(noc_cuda_gemm_launch(&gemm, NOC_CUDA_F16, NULL), cudaSuccess);
    noc_cuda_gemm normed = gemm;
    normed.is_normed = true;
    normed.depth = 32;
    normed.tail = 32;
    ck_assert_int_eq(noc_cuda_gemm_launch(&normed, NOC_CUDA_F16, NULL), cudaSuccess);
    for (int dim = 16; dim <= 64; dim += 16) {
        const noc_cuda_fused_attention a = {.queries = in,
                                            .kv = weight,
                                            .residual = in,
                                            .score = floats,
                                            .out = out,
                                            .batch = 1,
                                            .heads = 1,
                                            .dim = dim,
                                            .rows = 256,
                                            .keys = 64,
                                            .scale = 1};
        ck_assert_int_eq(noc_cuda_fused_attention_launch(&a, NOC_CUDA_F16, NULL), cudaSuccess);
    }
    for (int columns = 32; columns <= 128; columns *= 2) {
        const noc_cuda_mixffn m = {.in = in,
                                   .taps = weight,
                                   .taps_bias = floats,
                                   .weight = weight,
                                   .bias = floats,
                                   .residual = in,
                                   .out = out,
                                   .batch = 1,
                                   .grid = {4, 16, 16},
                                   .hidden = 64,
                                   .columns = columns};
        ck_assert_int_eq(noc_cuda_mixffn_launch(&m, NOC_CUDA_F16, NULL), cudaSuccess);
    }
    for (int columns = 32; columns <= 256; columns *= 2) {
        const noc_cuda_conv c = {.in = in,
                                 .weight = weight,
                                 .bias = floats,
                                 .scale = floats,
                                 .shift = floats,
                                 .out = out,
                                 .sums = sums,
                                 .batch = 1,
                                 .grid = {8, 8, 8},
                                 .out_grid = {4, 4, 4},
                                 .channels = 32,
                                 .columns = columns,
                                 .kernel = {3, 3, 3},
                                 .stride = {2, 2, 2},
                                 .padding = {1, 1, 1},
                                 .is_normed = true};
        ck_assert_int_eq(noc_cuda_conv_launch(&c, NOC_CUDA_F16, NULL), cudaSuccess);
    }
    for (int columns = 32; columns <= 64; columns *= 2) {
        const noc_cuda_conv c = {.in = in,
                                 .weight = weight,
                                 .bias = floats,
                                 .out = out,
                                 .sums = sums,
                                 .batch = 1,
                                 .grid = {16, 8, 8},
                                 .out_grid = {8, 4, 4},
                                 .channels = columns,
                                 .columns = columns,
                                 .kernel = {2, 2, 2},
                                 .stride = {2, 2, 2},
                                 .is_normed = true,
                                 .is_in_normed = true};
        ck_assert_int_eq(noc_cuda_conv_launch(&c, NOC_CUDA_F16, NULL), cudaSuccess);
    }
    /* four classes: of fewer, a box's rows of four tokens are not whole sectors of the smallest of all
     * outputs */
    const noc_cuda_decoder decoder = {.in = in,
                                      .weight = weight,
                                      .bias = floats,
                                      .sum_bias = floats,
                                      .terms = {in, in, in},
                                      .term_grids = {{4, 4, 4}, {2, 2, 2}, {1, 1, 1}},
                                      .class_weight = floats,
                                      .out = out,
                                      .batch = 1,
                                      .grid = {8, 8, 8},
                                      .depth = 32,
                                      .columns = 256,
                                      .tail = 32,
                                      .classes = 4,
                                      .term_count = 3};
    ck_assert_int_eq(noc_cuda_decoder_launch(&decoder, NOC_CUDA_F16, NULL), cudaSuccess);
    const noc_cuda_conv stem = {.in = in,
                                .weight = weight,
                                .bias = floats,
                                .scale = floats,
                                .shift = floats,
                                .out = out,
                                .batch = 1,
                                .grid = {16, 32, 64},
                                .out_grid = {4, 8, 16},
                                .channels = 4,
                                .columns = 32,
                                .kernel = {7, 7, 7},
                                .stride = {4, 4, 4},
                                .padding = {3, 3, 3},
                                .is_normed = true};
    ck_assert_int_eq(noc_cuda_stem_launch(&stem, NOC_CUDA_F16, NULL), cudaSuccess);
}
END_TEST

START_TEST(streams)
{
    enum { ROWS = 512, CHANNELS = 64, FLOATS = ROWS * CHANNELS };
    float *floats = filled(FLOATS * sizeof *floats);
    for (int t = 0; t < 2; t++) {
        const noc_cuda_type type = t ? NOC_CUDA_F16 : NOC_CUDA_F32;
        void *in = filled(FLOATS * sizeof(float)), *out = filled(FLOATS * sizeof(float));
        const noc_cuda_tokens tokens = {.type = type,
                                        .in = in,
                                        .weight = floats,
                                        .bias = floats,
                                        .out = out,
                                        .rows = ROWS,
                                        .channels = CHANNELS,
                                        .eps = 1e-5F};
        const noc_cuda_depthwise depthwise = {.type = type,
                                              .in = in,
                                              .weight = floats,
                                              .bias = floats,
                                              .out = out,
                                              .batch = 1,
                                              .grid = {8, 8, 8},
                                              .channels = CHANNELS};
        const noc_cuda_conversion conversion = {.type = type,
                                                .in = in,
                                                .kind = NOC_CUDA_SIGNED,
                                                .bytes = 2,
                                                .count = FLOATS,
                                                .slope = 1,
                                                .out = out,
                                                .channels = 1,
                                                .stored_size = {64, 32, 16},
                                                .size = {16, 32, 64},
                                                .axis = {2, 1, 0},
                                                .direction = {1, 1, 1}};
        const noc_cuda_cut cut = {.voxels = in, .pad = floats, .size = {16, 16, 32}, .start = {0, -4, 0}};
        const int window[3] = {16, 16, 32};
        ck_assert_int_eq(noc_cuda_convert_run(NULL, &conversion), cudaSuccess);
        ck_assert_int_eq(noc_cuda_cut_run(NULL, &cut, 1, t ? 8 : 16, window, out), cudaSuccess);
        ck_assert_int_eq(noc_cuda_layer_norm_run(NULL, &tokens), cudaSuccess);
        ck_assert_int_eq(noc_cuda_pointwise_run(NULL, &tokens), cudaSuccess);
        ck_assert_int_eq(noc_cuda_depthwise_run(NULL, &depthwise), cudaSuccess);
        ck_assert_int_eq(noc_cuda_take_run(NULL, type, floats, 1, out, 1, FLOATS / 4, 4), cudaSuccess);
        const noc_cuda_giving giving = {.type = type,
                                        .in = in,
                                        .out = floats,
                                        .grid = {8, 16, FLOATS / 4 / 128},
                                        .channels = 4,
                                        .flips = 7 * (unsigned)t};
        ck_assert_int_eq(noc_cuda_give_run(NULL, &giving), cudaSuccess);
    }
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {usual_shapes, streams};
    return run_suite("cuda_counts", tests, 2);
}
