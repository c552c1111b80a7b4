/* The convolution kernels against plain loops in double on the same elements. */
#include "engine/cuda/fused_conv.h"

#include "tests/fused_sample.h"

typedef struct sample {
    int batch, grid[3], channels, columns, kernel[3], stride[3], padding[3];
    bool is_normed, has_scale, is_in_normed;
    tensor in, weight, bias, scale, shift, out;
    double *tokens; /* in, normalised; NULL: not */
    noc_cuda_conv op;
} sample;

static void make(sample *s, noc_cuda_type type)
{
    noc_cuda_conv *op = &s->op;
    int tokens = s->batch, rows = s->batch, depth = s->channels;
    for (int a = 0; a < 3; a++) {
        op->grid[a] = s->grid[a];
        op->kernel[a] = s->kernel[a];
        op->stride[a] = s->stride[a];
        op->padding[a] = s->padding[a];
        op->out_grid[a] = (s->grid[a] + 2 * s->padding[a] - s->kernel[a]) / s->stride[a] + 1;
        tokens *= s->grid[a];
        rows *= op->out_grid[a];
        depth *= s->kernel[a];
    }
    size_t columns = (size_t)s->columns;
    s->in = tensor_random(type, (size_t)(tokens * s->channels), 1, 1);
    s->weight = tensor_random(type, columns * (size_t)depth, 1 / sqrt(depth), 2);
    s->bias = tensor_random_f32(columns, 1, 3);
    s->scale = tensor_random_f32(columns, 1, 4);
    s->shift = tensor_random_f32(columns, 1, 5);
    s->out = tensor_result((size_t)rows * columns, 2);
    op->in = s->in.device;
    op->weight = s->weight.device;
    op->bias = s->bias.device;
    op->scale = s->has_scale ? s->scale.device : NULL;
    op->shift = s->has_scale ? s->shift.device : NULL;
    op->out = s->out.device;
    op->batch = s->batch;
    op->channels = s->channels;
    op->columns = s->columns;
    op->is_normed = s->is_normed;
    op->eps = 1e-5F;
    op->is_in_normed = s->is_in_normed;
    op->in_eps = 1e-4F;
    op->sums = device_copy(NULL, (1 + noc_cuda_conv_sums(op)) * sizeof *op->sums);
    s->tokens = s->is_in_normed ? malloc(s->in.count * sizeof *s->tokens) : NULL;
    for (size_t i = 0; s->tokens && i < s->in.count; i += (size_t)s->channels) {
        expect_normed(s->in.values + i, s->tokens + i, s->channels, 1e-4);
        for (size_t c = i; c < i + (size_t)s->channels; c++) /* as the products take them */
            s->tokens[c] = element_value(type, element_bits(type, (float)s->tokens[c]));
    }
}

static void unmake(sample *s)
{
    tensor *all[] = {&s->in, &s->weight, &s->bias, &s->scale, &s->shift, &s->out};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        tensor_free(all[i]);
    ck_assert_int_eq(cudaFree(s->op.sums), cudaSuccess);
    free(s->tokens);
}

/* Adds tap (a, b, c) of output `at` of a window to all columns. */
static void expect_tap(const sample *s, int window, const int at[3], const int tap[3], double *y)
{
    int token = window;
    for (int a = 0; a < 3; a++) {
        int i = at[a] * s->stride[a] - s->padding[a] + tap[a];
        if (i < 0 || i >= s->grid[a])
            return;
        token = token * s->grid[a] + i;
    }
    const int taps = s->kernel[0] * s->kernel[1] * s->kernel[2],
              t = (tap[0] * s->kernel[1] + tap[1]) * s->kernel[2] + tap[2];
    for (int n = 0; n < s->columns; n++)
        for (int c = 0; c < s->channels; c++)
            y[n] +=
                (s->tokens ? s->tokens : s->in.values)[token * s->channels + c] *
                s->weight.values[((size_t)n * (size_t)taps + (size_t)t) * (size_t)s->channels + (size_t)c];
}

static void expect_row(sample *s, int row)
{
    const int *g = s->op.out_grid;
    const int at[3] = {row / g[2] / g[1] % g[0], row / g[2] % g[1], row % g[2]};
    double *y = s->out.values + (size_t)row * (size_t)s->columns;
    memcpy(y, s->bias.values, (size_t)s->columns * sizeof *y);
    for (int a = 0; a < s->kernel[0]; a++)
        for (int b = 0; b < s->kernel[1]; b++)
            for (int c = 0; c < s->kernel[2]; c++)
                expect_tap(s, row / (g[0] * g[1] * g[2]), at, (const int[]){a, b, c}, y);
    if (s->is_normed)
        expect_normed(y, y, s->columns, 1e-5);
    for (int n = 0; s->has_scale && n < s->columns; n++)
        y[n] = y[n] * s->scale.values[n] + s->shift.values[n];
}

static void check_conv(sample shape)
{
    for (int t = 0; t < 2; t++) {
        sample s = shape;
        make(&s, both_types[t]);
        for (int row = 0; row < (int)s.out.count / s.columns; row++)
            expect_row(&s, row);
        ck_assert_int_eq(noc_cuda_conv_launch(&s.op, both_types[t], NULL), cudaSuccess);
        /* a normed token near the middle of two elements may become the other one */
        ck_assert_double_le(worst_ulp(both_types[t], &s.out, 0.25), s.is_in_normed ? 1.2 : 0.6);
        unmake(&s);
    }
}

START_TEST(embeddings)
{
    sample s = {.batch = 2, .grid = {5, 6, 7}, .channels = 8, .columns = 64, .kernel = {3, 3, 3}};
    s.stride[0] = s.stride[1] = s.stride[2] = 2;
    s.padding[0] = s.padding[1] = s.padding[2] = 1;
    s.is_normed = s.has_scale = true;
    check_conv(s);
    s.columns = 160;
    s.channels = 40;
    s.batch = 1;
    check_conv(s);
    s.columns = 72;
    check_conv(s);
    s.columns = 256;
    s.grid[0] = 1;
    check_conv(s);
}
END_TEST

START_TEST(reductions)
{
    sample s = {.batch = 1, .grid = {9, 8, 10}, .channels = 32, .columns = 32, .kernel = {4, 4, 4}};
    s.stride[0] = s.stride[1] = s.stride[2] = 4;
    s.is_normed = true;
    check_conv(s);
    s.columns = 24;
    s.has_scale = true;
    s.batch = 3;
    check_conv(s);
}
END_TEST

/* Tokens of a part of a row of a tile, of all of it and of two; a grid that leaves a tail. */
START_TEST(reductions_of_normed_tokens)
{
    static const int widths[][2] = {{8, 8}, {16, 24}, {32, 32}, {16, 64}, {32, 40}, {64, 64}, {64, 40}};
    for (int i = 0; i < 7; i++)
        for (int ratio = 2; ratio <= 4; ratio++) {
            sample s = {.batch = 2, .grid = {9, 4, 10}, .channels = widths[i][0], .columns = widths[i][1]};
            for (int a = 0; a < 3; a++)
                s.kernel[a] = s.stride[a] = a == 1 ? 2 : ratio;
            s.is_in_normed = true;
            s.is_normed = ratio != 3;
            s.has_scale = ratio == 4;
            check_conv(s);
        }
}
END_TEST

START_TEST(uneven_kernels_without_norm)
{
    sample s = {.batch = 1, .grid = {4, 9, 11}, .channels = 8, .columns = 8, .kernel = {1, 7, 3}};
    s.stride[0] = 1, s.stride[1] = 4, s.stride[2] = 2;
    s.padding[1] = 3, s.padding[2] = 1;
    check_conv(s);
    s.columns = 320;
    s.grid[1] = 1;
    check_conv(s);
    s = (sample){.batch = 1, .grid = {1, 1, 1}, .channels = 8, .columns = 8};
    for (int a = 0; a < 3; a++)
        s.kernel[a] = s.stride[a] = 1;
    check_conv(s);
}
END_TEST

/* The weights as a stem takes them. */
static void *stem_weights(const sample *s, noc_cuda_type type)
{
    const int runs = s->kernel[0] * s->kernel[1], run = s->kernel[2] * s->channels,
              first = noc_cuda_stem_lead(&s->op) * s->channels;
    const size_t count = (size_t)(s->columns * runs * 32);
    uint16_t *packed = calloc(count, sizeof *packed);
    for (int r = 0; r < s->columns * runs; r++)
        for (int i = 0; i < run; i++)
            packed[r * 32 + first + i] = element_bits(type, (float)s->weight.values[r * run + i]);
    void *device = device_copy(packed, count * sizeof *packed);
    free(packed);
    return device;
}

static void check_stem(sample shape)
{
    for (int t = 0; t < 2; t++) {
        sample s = shape;
        make(&s, both_types[t]);
        for (int row = 0; row < (int)s.out.count / s.columns; row++)
            expect_row(&s, row);
        void *weights = stem_weights(&s, both_types[t]);
        s.op.weight = weights;
        ck_assert_int_eq(noc_cuda_stem_launch(&s.op, both_types[t], NULL), cudaSuccess);
        ck_assert_double_le(worst_ulp(both_types[t], &s.out, 0.25), 0.6);
        ck_assert_int_eq(cudaFree(weights), cudaSuccess);
        unmake(&s);
    }
}

START_TEST(stems)
{
    sample s = {.batch = 2, .grid = {13, 17, 36}, .channels = 4, .columns = 32, .kernel = {7, 7, 7}};
    for (int a = 0; a < 3; a++)
        s.stride[a] = 4, s.padding[a] = 3;
    s.is_normed = s.has_scale = true;
    check_stem(s);
    s.grid[0] = 5; /* two planes of outputs */
    check_stem(s);
    s.batch = 1;
    s.columns = 40;
    s.grid[2] = 2;
    check_stem(s);
    s = (sample){.batch = 1, .grid = {6, 20, 48}, .channels = 2, .columns = 8, .kernel = {3, 7, 7}};
    s.stride[0] = 2, s.stride[1] = s.stride[2] = 4;
    s.padding[0] = 1, s.padding[1] = s.padding[2] = 3;
    check_stem(s);
    s = (sample){.batch = 1, .grid = {1, 5, 9}, .channels = 8, .columns = 64, .kernel = {1, 1, 3}};
    s.stride[0] = s.stride[1] = s.stride[2] = 1;
    s.padding[2] = 1;
    s.is_normed = true;
    check_stem(s);
}
END_TEST

START_TEST(windows_do_not_depend_on_others)
{
    sample few = {.batch = 1, .grid = {5, 5, 5}, .channels = 16, .columns = 40, .kernel = {3, 3, 3}};
    few.stride[0] = few.stride[1] = few.stride[2] = 1;
    few.is_normed = true;
    sample many = few;
    many.batch = 4;
    make(&few, NOC_CUDA_F16);
    make(&many, NOC_CUDA_F16);
    ck_assert_int_eq(noc_cuda_conv_launch(&few.op, NOC_CUDA_F16, NULL), cudaSuccess);
    ck_assert_int_eq(noc_cuda_conv_launch(&many.op, NOC_CUDA_F16, NULL), cudaSuccess);
    ck_assert(is_same(few.out.device, many.out.device, few.out.count * 2));
    unmake(&few);
    unmake(&many);
}
END_TEST

START_TEST(other_shapes_are_refused)
{
    noc_cuda_conv c = {.batch = 1, .channels = 4, .columns = 8};
    ck_assert(!noc_cuda_conv_fits(&c));
    ck_assert_int_eq(noc_cuda_conv_launch(&c, NOC_CUDA_F16, NULL), cudaErrorInvalidValue);
    c = (noc_cuda_conv){.batch = 1, .channels = 8, .columns = 264, .is_normed = true};
    ck_assert(!noc_cuda_conv_fits(&c));
    static const int widths[][2] = {{24, 32}, {40, 40}, {64, 32}, {32, 72}, {128, 64}};
    for (int i = 0; i < 5; i++) {
        c = (noc_cuda_conv){.batch = 1, .channels = widths[i][0], .columns = widths[i][1]};
        ck_assert(noc_cuda_conv_fits(&c));
        c.is_in_normed = true;
        ck_assert(!noc_cuda_conv_fits(&c));
    }
    c = (noc_cuda_conv){.batch = 1, .channels = 8, .columns = 8, .padding = {0, 1, 0}, .is_in_normed = true};
    ck_assert(!noc_cuda_conv_fits(&c));
    c = (noc_cuda_conv){.batch = 1, .grid = {8, 8, 7}, .channels = 4, .columns = 8, .kernel = {1, 1, 1}};
    c.stride[2] = 2;
    ck_assert(!noc_cuda_stem_fits(&c));
    ck_assert_int_eq(noc_cuda_stem_launch(&c, NOC_CUDA_F16, NULL), cudaErrorInvalidValue);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {embeddings,
                                  reductions,
                                  reductions_of_normed_tokens,
                                  uneven_kernels_without_norm,
                                  stems,
                                  windows_do_not_depend_on_others,
                                  other_shapes_are_refused};
    return run_suite("cuda_conv", tests, sizeof tests / sizeof tests[0]);
}
