/* The kernel of a decoder's end against plain loops in double on the same elements. */
#include "engine/cuda/fused_decoder.h"

#include "tests/fused_sample.h"

typedef struct sample {
    int batch, grid[3], depth, columns, tail, classes, term_count, term_grids[3][3], tokens;
    tensor in, weight, bias, sum_bias, terms[3], class_weight, class_bias, out;
    noc_cuda_decoder op;
} sample;

static void make(sample *s, noc_cuda_type type)
{
    s->tokens = s->grid[0] * s->grid[1] * s->grid[2];
    size_t rows = (size_t)(s->batch * s->tokens), columns = (size_t)s->columns,
           all = (size_t)(s->columns + s->tail), depth = (size_t)s->depth;
    s->in = tensor_random(type, rows * depth, 1, 1);
    s->weight = tensor_random(type, all * depth, 1 / sqrt(s->depth), 2);
    s->bias = tensor_random_f32(all, 1, 3);
    s->sum_bias = tensor_random_f32(columns, 1, 4);
    s->class_weight = tensor_random_f32((size_t)s->classes * columns, 1 / sqrt(s->columns), 5);
    s->class_bias = tensor_random_f32((size_t)s->classes, 1, 6);
    s->out = tensor_result(rows * (size_t)s->classes, 4);
    s->op = (noc_cuda_decoder){.in = s->in.device,
                               .weight = s->weight.device,
                               .bias = s->bias.device,
                               .sum_bias = s->sum_bias.device,
                               .class_weight = s->class_weight.device,
                               .class_bias = s->class_bias.device,
                               .out = s->out.device,
                               .batch = s->batch,
                               .grid = {s->grid[0], s->grid[1], s->grid[2]},
                               .depth = s->depth,
                               .columns = s->columns,
                               .tail = s->tail,
                               .classes = s->classes,
                               .term_count = s->term_count,
                               .tail_constant = 0.5F,
                               .activation = NOC_CUDA_RELU};
    for (int t = 0; t < 3; t++) {
        const int *g = s->term_grids[t];
        size_t count = t < s->term_count ? (size_t)(s->batch * g[0] * g[1] * g[2]) * columns : 1;
        s->terms[t] = tensor_random(type, count, 1, (uint32_t)(7 + t));
        s->op.terms[t] = s->terms[t].device;
        memcpy(s->op.term_grids[t], g, sizeof s->op.term_grids[t]);
    }
}

static void unmake(sample *s)
{
    tensor *all[] = {&s->in,       &s->weight,   &s->bias,         &s->sum_bias,   &s->terms[0],
                     &s->terms[1], &s->terms[2], &s->class_weight, &s->class_bias, &s->out};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        tensor_free(all[i]);
}

/* Column n of a term at a token. */
static double resized(const sample *s, int t, int window, const int at[3], int n)
{
    const int *g = s->term_grids[t];
    double sum = 0;
    for (int corner = 0; corner < 8; corner++) {
        double share = 1;
        int token = window;
        for (int a = 0; a < 3; a++) {
            double place = fmax(0, (at[a] + 0.5) * g[a] / s->grid[a] - 0.5);
            int low = (int)place, high = low + 1 < g[a] ? low + 1 : g[a] - 1, is_high = corner >> a & 1;
            low = low < g[a] ? low : g[a] - 1;
            share *= is_high ? place - low : 1 - (place - low);
            token = token * g[a] + (is_high ? high : low);
        }
        sum += share * s->terms[t].values[token * s->columns + n];
    }
    return sum;
}

static void expect_token(sample *s, int row)
{
    const int all = s->columns + s->tail, t = row % s->tokens,
              at[3] = {t / s->grid[2] / s->grid[1], t / s->grid[2] % s->grid[1], t % s->grid[2]};
    double *y = malloc((size_t)all * sizeof *y), norm = 0.5;
    for (int n = 0; n < all; n++) {
        y[n] = s->bias.values[n];
        for (int k = 0; k < s->depth; k++)
            y[n] += s->in.values[row * s->depth + k] * s->weight.values[n * s->depth + k];
        norm += n >= s->columns ? y[n] * y[n] : 0;
    }
    for (int k = 0; k < s->classes; k++) {
        double logit = s->class_bias.values[k];
        for (int n = 0; n < s->columns; n++) {
            double v = (s->tail > 0 ? y[n] / sqrt(norm) : y[n]) + s->sum_bias.values[n];
            for (int term = 0; term < s->term_count; term++)
                v += resized(s, term, row / s->tokens, at, n);
            logit += fmax(v, 0) * s->class_weight.values[k * s->columns + n];
        }
        s->out.values[row * s->classes + k] = logit;
    }
    free(y);
}

/* Nothing is rounded to elements on the way. */
static void check_decoder(sample shape)
{
    for (int t = 0; t < 2; t++) {
        sample s = shape;
        make(&s, both_types[t]);
        for (int row = 0; row < s.batch * s.tokens; row++)
            expect_token(&s, row);
        ck_assert_int_eq(noc_cuda_decoder_launch(&s.op, both_types[t], NULL), cudaSuccess);
        ck_assert_double_le(worst_f32(&s.out), 2e-5);
        unmake(&s);
    }
}

START_TEST(usual_decoders)
{
    check_decoder((sample){.batch = 1,
                           .grid = {4, 4, 8},
                           .depth = 32,
                           .columns = 256,
                           .tail = 32,
                           .classes = 3,
                           .term_count = 3,
                           .term_grids = {{2, 2, 4}, {1, 1, 2}, {1, 1, 1}}});
}
END_TEST

START_TEST(awkward_decoders)
{
    check_decoder((sample){.batch = 1, .grid = {1, 1, 1}, .depth = 8, .columns = 8, .classes = 1});
    check_decoder((sample){.batch = 2,
                           .grid = {3, 5, 7},
                           .depth = 40,
                           .columns = 136,
                           .tail = 130,
                           .classes = 14,
                           .term_count = 2,
                           .term_grids = {{2, 3, 4}, {5, 5, 9}}});
    /* a row more than a block has, and the most depth and columns that it takes */
    check_decoder(
        (sample){.batch = 1, .grid = {1, 5, 13}, .depth = 256, .columns = 256, .tail = 256, .classes = 3});
}
END_TEST

START_TEST(windows_do_not_depend_on_others)
{
    sample few = {.batch = 1, .grid = {3, 3, 5}, .depth = 16, .columns = 64, .tail = 16, .classes = 2},
           many = few;
    many.batch = 4;
    make(&few, NOC_CUDA_F16);
    make(&many, NOC_CUDA_F16);
    ck_assert_int_eq(noc_cuda_decoder_launch(&few.op, NOC_CUDA_F16, NULL), cudaSuccess);
    ck_assert_int_eq(noc_cuda_decoder_launch(&many.op, NOC_CUDA_F16, NULL), cudaSuccess);
    ck_assert(is_same(few.out.device, many.out.device, few.out.count * 4));
    unmake(&few);
    unmake(&many);
}
END_TEST

START_TEST(other_shapes_are_refused)
{
    noc_cuda_decoder d = {.batch = 1, .grid = {1, 1, 1}, .depth = 8, .columns = 264, .classes = 1};
    ck_assert(!noc_cuda_decoder_fits(&d));
    ck_assert_int_eq(noc_cuda_decoder_launch(&d, NOC_CUDA_F16, NULL), cudaErrorInvalidValue);
    d = (noc_cuda_decoder){.batch = 1, .grid = {1, 2, 1}, .depth = 8, .columns = 8, .classes = 1};
    d.activation = NOC_CUDA_GELU;
    ck_assert(!noc_cuda_decoder_fits(&d));
    d.activation = NOC_CUDA_RELU;
    d.term_count = 1;
    memcpy(d.term_grids[0], (int[]){2, 4, 2}, sizeof d.term_grids[0]);
    ck_assert(noc_cuda_decoder_fits(&d));
    d.term_grids[0][1]++;
    ck_assert(!noc_cuda_decoder_fits(&d));
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {usual_decoders, awkward_decoders, windows_do_not_depend_on_others,
                                  other_shapes_are_refused};
    return run_suite("cuda_decoder", tests, sizeof tests / sizeof tests[0]);
}
