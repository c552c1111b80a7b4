/* The kernel of a MixFFN block's second half against plain loops in double on the same elements. */
#include "engine/cuda/fused_mixffn.h"

#include "tests/fused_sample.h"

typedef struct sample {
    int batch, grid[3], hidden, columns, tokens;
    bool has_residual, is_normed;
    tensor in, taps, taps_bias, weight, bias, residual, scale, shift, out;
    noc_cuda_mixffn op;
} sample;

static void make(sample *s, noc_cuda_type type)
{
    s->tokens = s->grid[0] * s->grid[1] * s->grid[2];
    size_t hidden = (size_t)s->hidden, columns = (size_t)s->columns, rows = (size_t)(s->batch * s->tokens);
    s->in = tensor_random(type, rows * hidden, 1, 1);
    s->taps = tensor_random(type, 27 * hidden, 0.5, 2);
    s->taps_bias = tensor_random_f32(hidden, 1, 3);
    s->weight = tensor_random(type, columns * hidden, 1 / sqrt(s->hidden), 4);
    s->bias = tensor_random_f32(columns, 1, 5);
    s->residual = tensor_random(type, rows * columns, 1, 6);
    s->scale = tensor_random_f32(columns, 1, 7);
    s->shift = tensor_random_f32(columns, 1, 8);
    s->out = tensor_result(rows * columns, 2);
    s->op = (noc_cuda_mixffn){.in = s->in.device,
                              .taps = s->taps.device,
                              .taps_bias = s->taps_bias.device,
                              .weight = s->weight.device,
                              .bias = s->bias.device,
                              .residual = s->has_residual ? s->residual.device : NULL,
                              .scale = s->is_normed ? s->scale.device : NULL,
                              .shift = s->is_normed ? s->shift.device : NULL,
                              .is_normed = s->is_normed,
                              .eps = 1e-5F,
                              .out = s->out.device,
                              .batch = s->batch,
                              .grid = {s->grid[0], s->grid[1], s->grid[2]},
                              .hidden = s->hidden,
                              .columns = s->columns};
    s->op.sums = device_copy(NULL, (1 + noc_cuda_mixffn_sums(&s->op)) * sizeof *s->op.sums);
}

static void unmake(sample *s)
{
    tensor *all[] = {&s->in,       &s->taps,  &s->taps_bias, &s->weight, &s->bias,
                     &s->residual, &s->scale, &s->shift,     &s->out};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        tensor_free(all[i]);
    ck_assert_int_eq(cudaFree(s->op.sums), cudaSuccess);
}

/* The activated hidden values of one token. */
static void expect_hidden(const sample *s, int window, const int at[3], double *hidden)
{
    for (int c = 0; c < s->hidden; c++)
        hidden[c] = s->taps_bias.values[c];
    for (int tap = 0; tap < 27; tap++) {
        const int d = at[0] + tap / 9 - 1, h = at[1] + tap / 3 % 3 - 1, w = at[2] + tap % 3 - 1;
        if (d < 0 || h < 0 || w < 0 || d >= s->grid[0] || h >= s->grid[1] || w >= s->grid[2])
            continue;
        size_t token = (size_t)(window * s->tokens + (d * s->grid[1] + h) * s->grid[2] + w);
        for (int c = 0; c < s->hidden; c++)
            hidden[c] +=
                s->taps.values[tap * s->hidden + c] * s->in.values[token * (size_t)s->hidden + (size_t)c];
    }
    for (int c = 0; c < s->hidden; c++)
        hidden[c] = expected_activation(hidden[c], NOC_CUDA_GELU);
}

static void expect(sample *s)
{
    double *hidden = malloc((size_t)s->hidden * sizeof *hidden);
    for (int row = 0; row < s->batch * s->tokens; row++) {
        const int t = row % s->tokens,
                  at[3] = {t / s->grid[2] / s->grid[1], t / s->grid[2] % s->grid[1], t % s->grid[2]};
        expect_hidden(s, row / s->tokens, at, hidden);
        for (int n = 0; n < s->columns; n++) {
            size_t i = (size_t)row * (size_t)s->columns + (size_t)n;
            double y = s->bias.values[n] + (s->has_residual ? s->residual.values[i] : 0);
            for (int c = 0; c < s->hidden; c++)
                y += hidden[c] * s->weight.values[n * s->hidden + c];
            s->out.values[i] = y;
        }
        double *out = s->out.values + (size_t)row * (size_t)s->columns;
        if (s->is_normed)
            expect_normed(out, out, s->columns, 1e-5);
        for (int n = 0; s->is_normed && n < s->columns; n++)
            out[n] = out[n] * s->scale.values[n] + s->shift.values[n];
    }
    free(hidden);
}

/* Hidden values are rounded to elements before they are multiplied. */
static void check_mixffn(sample shape)
{
    for (int t = 0; t < 2; t++) {
        sample s = shape;
        make(&s, both_types[t]);
        expect(&s);
        ck_assert_int_eq(noc_cuda_mixffn_launch(&s.op, both_types[t], NULL), cudaSuccess);
        ck_assert_double_le(worst_ulp(both_types[t], &s.out, 1), 1.5);
        unmake(&s);
    }
}

START_TEST(few_columns)
{
    check_mixffn((sample){.batch = 1, .grid = {1, 1, 1}, .hidden = 8, .columns = 8});
    check_mixffn((sample){.batch = 1, .grid = {4, 8, 8}, .hidden = 128, .columns = 32, .has_residual = true});
    check_mixffn((sample){.batch = 2, .grid = {5, 9, 3}, .hidden = 40, .columns = 24, .has_residual = true});
}
END_TEST

START_TEST(more_columns)
{
    check_mixffn((sample){.batch = 1, .grid = {3, 7, 10}, .hidden = 72, .columns = 64, .has_residual = true});
    check_mixffn((sample){.batch = 2, .grid = {2, 1, 9}, .hidden = 48, .columns = 40});
}
END_TEST

START_TEST(columns_in_blocks)
{
    check_mixffn((sample){.batch = 1, .grid = {4, 4, 4}, .hidden = 64, .columns = 160, .has_residual = true});
    check_mixffn((sample){.batch = 2, .grid = {3, 5, 6}, .hidden = 104, .columns = 72, .has_residual = true});
    check_mixffn((sample){.batch = 1, .grid = {1, 2, 5}, .hidden = 1024, .columns = 256});
}
END_TEST

/* The last: whole, in parts, and in a box of eight lines. */
START_TEST(normed_tokens)
{
    check_mixffn((sample){.batch = 1, .grid = {1, 1, 9}, .hidden = 24, .columns = 24, .is_normed = true});
    check_mixffn((sample){
        .batch = 1, .grid = {2, 7, 5}, .hidden = 64, .columns = 64, .has_residual = true, .is_normed = true});
    check_mixffn((sample){.batch = 2, .grid = {3, 4, 3}, .hidden = 128, .columns = 160, .is_normed = true});
    check_mixffn((sample){.batch = 1,
                          .grid = {4, 3, 2},
                          .hidden = 520,
                          .columns = 256,
                          .has_residual = true,
                          .is_normed = true});
    check_mixffn((sample){.batch = 1, .grid = {3, 9, 5}, .hidden = 72, .columns = 136, .is_normed = true});
    noc_cuda_mixffn m = {.batch = 1, .grid = {1, 1, 1}, .hidden = 8, .columns = 264};
    ck_assert(noc_cuda_mixffn_fits(&m));
    m.is_normed = true;
    ck_assert(!noc_cuda_mixffn_fits(&m));
}
END_TEST

START_TEST(windows_do_not_depend_on_others)
{
    sample few = {.batch = 1, .grid = {3, 6, 5}, .hidden = 40, .columns = 24, .has_residual = true},
           many = few;
    many.batch = 3;
    make(&few, NOC_CUDA_F16);
    make(&many, NOC_CUDA_F16);
    ck_assert_int_eq(noc_cuda_mixffn_launch(&few.op, NOC_CUDA_F16, NULL), cudaSuccess);
    ck_assert_int_eq(noc_cuda_mixffn_launch(&many.op, NOC_CUDA_F16, NULL), cudaSuccess);
    ck_assert(is_same(few.out.device, many.out.device, few.out.count * 2));
    unmake(&few);
    unmake(&many);
}
END_TEST

START_TEST(other_shapes_are_refused)
{
    noc_cuda_mixffn m = {.batch = 1, .grid = {1, 1, 1}, .hidden = 12, .columns = 8};
    ck_assert(!noc_cuda_mixffn_fits(&m));
    ck_assert_int_eq(noc_cuda_mixffn_launch(&m, NOC_CUDA_F16, NULL), cudaErrorInvalidValue);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {few_columns,
                                  more_columns,
                                  columns_in_blocks,
                                  normed_tokens,
                                  windows_do_not_depend_on_others,
                                  other_shapes_are_refused};
    return run_suite("cuda_mixffn", tests, sizeof tests / sizeof tests[0]);
}
