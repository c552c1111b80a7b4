/* The attention kernel against plain loops in double on the same elements. */
#include "engine/cuda/fused_attention.h"

#include "tests/fused_sample.h"

typedef struct attention_case {
    int batch, heads, dim, rows, keys;
    bool has_score, has_residual, is_normed;
    double spread;
} attention_case;

typedef struct sample {
    attention_case shape;
    tensor queries, kv, score, residual, out;
    noc_cuda_fused_attention op;
} sample;

static const double scale = 0.3;

static void make(sample *s, noc_cuda_type type)
{
    const attention_case *c = &s->shape;
    size_t width = (size_t)(c->heads * c->dim), rows = (size_t)(c->batch * c->rows),
           keys = (size_t)(c->batch * c->keys);
    s->queries = tensor_random(type, rows * width, c->spread, 1);
    s->kv = tensor_random(type, keys * 2 * width, c->spread, 2);
    s->score = tensor_random_f32(keys, 3, 3);
    s->residual = tensor_random(type, rows * width, 1, 4);
    s->out = tensor_result(rows * width, 2);
    s->op = (noc_cuda_fused_attention){.queries = s->queries.device,
                                       .kv = s->kv.device,
                                       .score = c->has_score ? s->score.device : NULL,
                                       .residual = c->has_residual ? s->residual.device : NULL,
                                       .out = s->out.device,
                                       .batch = c->batch,
                                       .heads = c->heads,
                                       .dim = c->dim,
                                       .rows = c->rows,
                                       .keys = c->keys,
                                       .scale = (float)scale,
                                       .eps = 1e-5F,
                                       .is_normed = c->is_normed};
}

static void unmake(sample *s)
{
    tensor *all[] = {&s->queries, &s->kv, &s->score, &s->residual, &s->out};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        tensor_free(all[i]);
}

/* Head h of query `row` of all of the batch. */
static void expect_query(sample *s, int row, int h)
{
    const attention_case *c = &s->shape;
    const int width = c->heads * c->dim, first = row / c->rows * c->keys;
    const size_t at = (size_t)row * (size_t)width + (size_t)(h * c->dim);
    double q[64], *p = malloc((size_t)c->keys * sizeof *p), top = -INFINITY, sum = 0;
    ck_assert_ptr_nonnull(s->queries.values);
    memcpy(q, s->queries.values + at, (size_t)c->dim * sizeof *q);
    if (c->is_normed)
        expect_normed(q, q, c->dim, 1e-5);
    for (int k = 0; k < c->keys; k++) {
        const double *key = s->kv.values + (size_t)(first + k) * (size_t)(2 * width) + h * c->dim;
        double dot = 0;
        for (int d = 0; d < c->dim; d++)
            dot += q[d] * key[d];
        p[k] = scale * dot + (c->has_score ? s->score.values[first + k] : 0);
        top = fmax(top, p[k]);
    }
    for (int k = 0; k < c->keys; k++)
        sum += p[k] = exp(p[k] - top);
    for (int d = 0; d < c->dim; d++) {
        double y = c->has_residual ? s->residual.values[at + (size_t)d] : 0;
        for (int k = 0; k < c->keys; k++)
            y += p[k] / sum *
                 s->kv.values[(size_t)(first + k) * (size_t)(2 * width) + (size_t)(width + h * c->dim + d)];
        s->out.values[at + (size_t)d] = y;
    }
    free(p);
}

/* Weights of the softmax are rounded to elements: an error relative to |v|, not to the output; normed queries
 * are rounded before they are multiplied. */
static void check_attention(attention_case shape)
{
    for (int t = 0; t < 2; t++) {
        sample s = {.shape = shape};
        make(&s, both_types[t]);
        for (int row = 0; row < shape.batch * shape.rows; row++)
            for (int h = 0; h < shape.heads; h++)
                expect_query(&s, row, h);
        ck_assert_int_eq(noc_cuda_fused_attention_launch(&s.op, both_types[t], NULL), cudaSuccess);
        ck_assert_double_le(worst_ulp(both_types[t], &s.out, 1),
                            shape.is_normed ? 2 : fmax(1, shape.spread / 2));
        unmake(&s);
    }
}

START_TEST(keys_that_fit)
{
    check_attention((attention_case){.batch = 1, .heads = 1, .dim = 32, .rows = 1, .keys = 1, .spread = 2});
    check_attention((attention_case){.batch = 2, .heads = 2, .dim = 32, .rows = 77, .keys = 65, .spread = 2});
    check_attention(
        (attention_case){.batch = 1, .heads = 1, .dim = 32, .rows = 150, .keys = 512, .spread = 2});
    check_attention(
        (attention_case){.batch = 1, .heads = 5, .dim = 32, .rows = 40, .keys = 216, .spread = 1});
}
END_TEST

START_TEST(heads_of_every_width)
{
    for (int dim = 8; dim <= 64; dim += 8)
        check_attention(
            (attention_case){.batch = 1, .heads = 3, .dim = dim, .rows = 19, .keys = 33, .spread = 1});
}
END_TEST

START_TEST(more_keys_than_fit)
{
    check_attention((attention_case){
        .batch = 1, .heads = 1, .dim = 32, .rows = 17, .keys = 513, .has_score = true, .spread = 2});
    check_attention(
        (attention_case){.batch = 2, .heads = 1, .dim = 64, .rows = 18, .keys = 700, .spread = 1});
    check_attention(
        (attention_case){.batch = 1, .heads = 1, .dim = 48, .rows = 129, .keys = 257, .spread = 1});
    check_attention(
        (attention_case){.batch = 1, .heads = 2, .dim = 16, .rows = 5, .keys = 1100, .spread = 2});
}
END_TEST

START_TEST(single_heads_with_score_norm_and_residual)
{
    attention_case c = {
        .batch = 2, .heads = 1, .dim = 32, .rows = 131, .keys = 64, .has_score = true, .has_residual = true};
    c.is_normed = true;
    c.spread = 1;
    check_attention(c);
    c.dim = 40;
    c.keys = 27;
    check_attention(c);
    c.dim = 8;
    c.has_score = false;
    check_attention(c);
}
END_TEST

/* Later keys weigh more than 2^8 times as much as the earlier ones, in some rows and not in others. */
START_TEST(scores_far_apart)
{
    check_attention(
        (attention_case){.batch = 1, .heads = 1, .dim = 32, .rows = 70, .keys = 200, .spread = 6});
    check_attention((attention_case){
        .batch = 1, .heads = 2, .dim = 64, .rows = 33, .keys = 300, .has_score = true, .spread = 5});
}
END_TEST

/* Enough windows that a block takes several runs of queries. */
START_TEST(windows_do_not_depend_on_others)
{
    sample few = {.shape = {.batch = 1, .heads = 4, .dim = 8, .rows = 257, .keys = 9, .spread = 1}},
           many = few;
    many.shape.batch = 34;
    make(&few, NOC_CUDA_F16);
    make(&many, NOC_CUDA_F16);
    ck_assert_int_eq(noc_cuda_fused_attention_launch(&few.op, NOC_CUDA_F16, NULL), cudaSuccess);
    ck_assert_int_eq(noc_cuda_fused_attention_launch(&many.op, NOC_CUDA_F16, NULL), cudaSuccess);
    ck_assert(is_same(few.out.device, many.out.device, few.out.count * 2));
    for (int row = 0; row < many.shape.batch * many.shape.rows; row++)
        for (int h = 0; h < many.shape.heads; h++)
            expect_query(&many, row, h);
    ck_assert_double_le(worst_ulp(NOC_CUDA_F16, &many.out, 1), 1);
    unmake(&few);
    unmake(&many);
}
END_TEST

START_TEST(other_shapes_are_refused)
{
    noc_cuda_fused_attention a = {.batch = 1, .heads = 1, .dim = 72, .rows = 1, .keys = 1};
    ck_assert(!noc_cuda_fused_attention_fits(&a));
    ck_assert_int_eq(noc_cuda_fused_attention_launch(&a, NOC_CUDA_F16, NULL), cudaErrorInvalidValue);
    a.dim = 12;
    ck_assert(!noc_cuda_fused_attention_fits(&a));
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {keys_that_fit,           heads_of_every_width,
                                  more_keys_than_fit,      single_heads_with_score_norm_and_residual,
                                  scores_far_apart,        windows_do_not_depend_on_others,
                                  other_shapes_are_refused};
    return run_suite("cuda_attention", tests, sizeof tests / sizeof tests[0]);
}
