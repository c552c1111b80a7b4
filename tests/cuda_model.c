/* cuda_model: the launches of the published BraTS network, one batch of 4x128^3 windows in f16, with what
 * each op of the network has to do at the very least. Runs nothing: with EMU_RECORD=1 the emulated device
 * prints what it is asked for. Lines of tabs: "op", its name, how often it comes, and of one window the
 * multiply-adds of its products, the bytes of its tensors, its exponentials and its other f32 multiply-adds;
 * then "launch" lines of one time (tests/emulation/emulate.cpp). */
#include "engine/cuda/fused_attention.h"
#include "engine/cuda/fused_conv.h"
#include "engine/cuda/fused_decoder.h"
#include "engine/cuda/fused_gemm.h"
#include "engine/cuda/fused_mixffn.h"

#include <stdio.h>
#include <stdlib.h>

enum { BATCH = 8, CHANNELS = 4, WINDOW = 128, STAGES = 4, WIDE = 256, CLASSES = 3, BLOCKS = 2 };

/* The side of a stage's grid, its columns and heads, and by how much its keys are fewer along an axis. */
static const struct {
    int side, columns, heads, reduction;
} stages[STAGES] = {{32, 32, 1, 4}, {16, 64, 2, 2}, {8, 160, 5, 1}, {4, 256, 8, 1}};

/* Never read: different addresses, so that "may be NULL" and "may be the same" are answered as in a network.
 */
static void *const in = (void *)0x10000000, *const weight = (void *)0x20000000,
                   *const out = (void *)0x30000000, *const residual = (void *)0x40000000,
                   *const floats = (void *)0x50000000, *const sums = (void *)0x60000000;

static void check(cudaError_t error)
{
    if (error == cudaSuccess)
        return;
    fprintf(stderr, "cuda_model: a launch is refused\n");
    exit(1);
}

static void op(const char *name, int times, double macs, double bytes, double exponentials, double others)
{
    printf("op\t%s\t%d\t%.0f\t%.0f\t%.0f\t%.0f\n", name, times, macs, bytes, exponentials, others);
}

static noc_cuda_gemm gemm_of(int tokens, int depth, int columns, bool is_normed, const void *plus)
{
    return (noc_cuda_gemm){.in = in,
                           .weight = weight,
                           .bias = floats,
                           .residual = plus,
                           .out = out,
                           .rows = tokens * BATCH,
                           .columns = columns,
                           .depth = depth,
                           .is_normed = is_normed};
}

static void gemm(int tokens, int depth, int columns, bool is_normed, const void *plus)
{
    const noc_cuda_gemm g = gemm_of(tokens, depth, columns, is_normed, plus);
    check(noc_cuda_gemm_launch(&g, NOC_CUDA_F16, NULL));
}

static noc_cuda_conv conv_of(int side, int channels, int out_side, int columns, int kernel, int stride)
{
    noc_cuda_conv c = {.in = in,
                       .weight = weight,
                       .bias = floats,
                       .scale = floats,
                       .shift = floats,
                       .out = out,
                       .sums = sums,
                       .batch = BATCH,
                       .channels = channels,
                       .columns = columns,
                       .is_normed = true};
    for (int a = 0; a < 3; a++) {
        c.grid[a] = side, c.out_grid[a] = out_side;
        c.kernel[a] = kernel, c.stride[a] = stride;
        c.padding[a] = kernel > stride ? kernel / 2 : 0;
    }
    return c;
}

static void embed(int s)
{
    int side = stages[s].side, columns = stages[s].columns;
    double tokens = side * side * side;
    char name[64];
    if (s == 0) {
        double voxels = (double)WINDOW * WINDOW * WINDOW;
        op("stem conv 7^3 s4 + LN", 1, tokens * columns * CHANNELS * 343,
           2 * (voxels * CHANNELS + tokens * columns), 0, 0);
        noc_cuda_conv c = conv_of(WINDOW, CHANNELS, side, columns, 7, 4);
        check(noc_cuda_stem_launch(&c, NOC_CUDA_F16, NULL));
        return;
    }
    double taps = 27.0 * columns * stages[s - 1].columns;
    snprintf(name, sizeof name, "embed_%d conv 3^3 s2 + LN", s + 1);
    op(name, 1, tokens * taps, 2 * (tokens * 8 * stages[s - 1].columns + tokens * columns + taps / BATCH), 0,
       0);
    noc_cuda_conv c = conv_of(2 * side, stages[s - 1].columns, side, columns, 3, 2);
    check(noc_cuda_conv_launch(&c, NOC_CUDA_F16, NULL));
}

static void attention(int tokens, int keys, int columns, int heads, const void *plus, const void *score)
{
    const noc_cuda_fused_attention a = {.queries = in,
                                        .kv = weight,
                                        .score = score,
                                        .residual = plus,
                                        .out = out,
                                        .batch = BATCH,
                                        .heads = heads,
                                        .dim = columns / heads,
                                        .rows = tokens,
                                        .keys = keys,
                                        .scale = 1,
                                        .is_normed = heads == 1};
    check(noc_cuda_fused_attention_launch(&a, NOC_CUDA_F16, NULL));
}

/* With one head the projections of queries and outputs are in keys and values. */
static void attend(int s)
{
    int side = stages[s].side, columns = stages[s].columns, r = stages[s].reduction;
    int tokens = side * side * side, keys = tokens / r / r / r;
    double bytes = 2.0 * tokens * columns, of_keys = 2.0 * keys * columns, square = (double)columns * columns;
    char name[64];
    if (r > 1) {
        snprintf(name, sizeof name, "s%d LN + sr conv + LN", s + 1);
        op(name, BLOCKS, tokens * square, bytes + of_keys, 0, 0);
        noc_cuda_conv c = conv_of(side, columns, side / r, columns, r, r);
        check(noc_cuda_conv_launch(&c, NOC_CUDA_F16, NULL));
    }
    if (r == 1) {
        const noc_cuda_gemm q = gemm_of(tokens, columns, columns, true, NULL),
                            kv = gemm_of(tokens, columns, 2 * columns, true, NULL);
        snprintf(name, sizeof name, "s%d LN + Q, KV", s + 1);
        op(name, BLOCKS, 3 * tokens * square, 4 * bytes, 0, 0);
        check(noc_cuda_gemm_launch_pair(&q, &kv, NOC_CUDA_F16, NULL));
    } else {
        snprintf(name, sizeof name, "s%d KV", s + 1);
        op(name, BLOCKS, keys * 2 * square, 3 * of_keys, 0, 0);
        gemm(keys, columns, 2 * columns, false, NULL);
        if (s > 0) {
            snprintf(name, sizeof name, "s%d LN + Q", s + 1);
            op(name, BLOCKS, tokens * square, 2 * bytes, 0, 0);
            gemm(tokens, columns, columns, true, NULL);
        }
    }
    snprintf(name, sizeof name, s > 0 ? "s%d attention" : "s%d LN + attention + residual", s + 1);
    op(name, BLOCKS, 2.0 * tokens * keys * columns, 2 * bytes + 2 * of_keys,
       (double)tokens * keys * stages[s].heads, 0);
    attention(tokens, keys, columns, stages[s].heads, s > 0 ? NULL : in, s > 0 ? NULL : floats);
    if (s > 0) {
        snprintf(name, sizeof name, "s%d proj + residual", s + 1);
        op(name, BLOCKS, tokens * square, 3 * bytes, 0, 0);
        gemm(tokens, columns, columns, false, residual);
    }
}

static void mix(int s)
{
    int side = stages[s].side, columns = stages[s].columns, tokens = side * side * side, hidden = 4 * columns;
    double bytes = 2.0 * tokens * columns, macs = (double)tokens * columns * hidden;
    char name[64];
    snprintf(name, sizeof name, "s%d LN + fc1", s + 1);
    op(name, BLOCKS, macs, 5 * bytes, 0, 0);
    gemm(tokens, columns, hidden, true, NULL);
    noc_cuda_mixffn m = {.in = in,
                         .taps = weight,
                         .taps_bias = floats,
                         .weight = weight,
                         .bias = floats,
                         .residual = residual,
                         .scale = floats,
                         .shift = floats,
                         .out = out,
                         .sums = sums,
                         .batch = BATCH,
                         .grid = {side, side, side},
                         .hidden = hidden,
                         .columns = columns};
    for (int i = 0; i < 2; i++) { /* the stage's norm ends its last block */
        m.is_normed = i == 1;
        snprintf(name, sizeof name, "s%d dwconv + GELU + fc2 + residual%s", s + 1, i == 1 ? " + LN" : "");
        op(name, BLOCKS / 2, macs, 6 * bytes, (double)tokens * hidden, 27.0 * tokens * hidden);
        check(noc_cuda_mixffn_launch(&m, NOC_CUDA_F16, NULL));
    }
}

/* Of each stage, the decoder's norm is the root of a sum of squares of `columns` more outputs. */
static void decode(void)
{
    int side = stages[0].side, depth = stages[0].columns;
    double tokens = side * side * side, macs[STAGES], bytes[STAGES], coarser = 0;
    noc_cuda_gemm g[STAGES];
    for (int s = 1; s < STAGES; s++) {
        int n = stages[s].side * stages[s].side * stages[s].side, columns = stages[s].columns;
        g[s] = gemm_of(n, columns, WIDE, false, NULL);
        g[s].tail = columns;
        macs[s] = (double)n * columns * (WIDE + columns);
        bytes[s] = 2.0 * n * (columns + WIDE);
        coarser += 2.0 * n * WIDE;
    }
    op("decoder c4, c3: GEMM + norm", 1, macs[3] + macs[2], bytes[3] + bytes[2], 0, 0);
    check(noc_cuda_gemm_launch_pair(&g[3], &g[2], NOC_CUDA_F16, NULL));
    op("decoder c2: GEMM + norm", 1, macs[1], bytes[1], 0, 0);
    check(noc_cuda_gemm_launch(&g[1], NOC_CUDA_F16, NULL));
    op("c1 GEMM + resize + sum + ReLU + pred", 1, tokens * depth * (WIDE + depth) + tokens * WIDE * CLASSES,
       2 * tokens * depth + coarser + 4 * tokens * CLASSES, 0, 70.5e6);
    const noc_cuda_decoder d = {.in = in,
                                .weight = weight,
                                .bias = floats,
                                .sum_bias = floats,
                                .terms = {in, in, in},
                                .term_grids = {{16, 16, 16}, {8, 8, 8}, {4, 4, 4}},
                                .class_weight = floats,
                                .class_bias = floats,
                                .out = out,
                                .batch = BATCH,
                                .grid = {side, side, side},
                                .depth = depth,
                                .columns = WIDE,
                                .tail = depth,
                                .classes = CLASSES,
                                .term_count = 3,
                                .activation = NOC_CUDA_RELU};
    check(noc_cuda_decoder_launch(&d, NOC_CUDA_F16, NULL));
}

int main(void)
{
    printf("batch\t%d\n", BATCH);
    for (int s = 0; s < STAGES; s++) {
        embed(s);
        attend(s);
        mix(s);
    }
    decode();
    return 0;
}
