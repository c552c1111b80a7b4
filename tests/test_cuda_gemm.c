/* The product kernel against plain loops in double on the same elements. */
#include "engine/cuda/fused_gemm.h"

#include "tests/fused_sample.h"

typedef struct product_case {
    int rows, columns, depth, tail;
    bool is_normed, has_residual, has_score;
    noc_cuda_activation activation;
} product_case;

/* Normed values are rounded to elements before they are multiplied: that much more may differ. */
static double limit_of(const product_case *c)
{
    return c->is_normed ? 3 : 0.6;
}

typedef struct product {
    product_case shape;
    tensor in, weight, bias, residual, out, score;
    noc_cuda_gemm gemm;
} product;

static void make(product *p, noc_cuda_type type)
{
    const product_case *c = &p->shape;
    int all = c->columns + c->has_score + c->tail;
    size_t size = (size_t)c->rows * (size_t)c->columns;
    p->in = tensor_random(type, (size_t)c->rows * (size_t)c->depth, 1, 1);
    p->weight = tensor_random(type, (size_t)all * (size_t)c->depth, 1 / sqrt(c->depth), 2);
    p->bias = tensor_random_f32((size_t)all, 1, 3);
    p->residual = tensor_random(type, size, 1, 6);
    p->out = tensor_result(size, 2);
    p->score = tensor_result((size_t)c->rows, 4);
    p->gemm = (noc_cuda_gemm){.in = p->in.device,
                              .weight = p->weight.device,
                              .bias = p->bias.device,
                              .residual = c->has_residual ? p->residual.device : NULL,
                              .out = p->out.device,
                              .score = c->has_score ? p->score.device : NULL,
                              .eps = 1e-5F,
                              .tail_constant = 0.5F,
                              .rows = c->rows,
                              .columns = c->columns,
                              .depth = c->depth,
                              .tail = c->tail,
                              .is_normed = c->is_normed,
                              .activation = c->activation};
}

static void unmake(product *p)
{
    tensor *all[] = {&p->in, &p->weight, &p->bias, &p->residual, &p->out, &p->score};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        tensor_free(all[i]);
}

static void expect_row(product *p, int row)
{
    const product_case *c = &p->shape;
    int all = c->columns + c->has_score + c->tail;
    double *x = malloc((size_t)c->depth * sizeof *x), *y = malloc((size_t)all * sizeof *y), factor = 1;
    memcpy(x, p->in.values + (size_t)row * (size_t)c->depth, (size_t)c->depth * sizeof *x);
    if (c->is_normed)
        expect_normed(x, x, c->depth, 1e-5);
    for (int n = 0; n < all; n++) {
        y[n] = p->bias.values[n];
        for (int k = 0; k < c->depth; k++)
            y[n] += x[k] * p->weight.values[(size_t)n * (size_t)c->depth + (size_t)k];
    }
    if (c->tail > 0) {
        double sum = 0.5;
        for (int n = all - c->tail; n < all; n++)
            sum += y[n] * y[n];
        factor = 1 / sqrt(sum);
    }
    p->score.values[row] = c->has_score ? y[c->columns] : 0;
    for (int n = 0; n < c->columns; n++) {
        size_t at = (size_t)row * (size_t)c->columns + (size_t)n;
        p->out.values[at] = expected_activation(
            y[n] * factor + (c->has_residual ? p->residual.values[at] : 0), c->activation);
    }
    free(x);
    free(y);
}

static void check_product(product_case shape)
{
    for (int t = 0; t < 2; t++) {
        product p = {.shape = shape};
        make(&p, both_types[t]);
        for (int row = 0; row < shape.rows; row++)
            expect_row(&p, row);
        ck_assert_int_eq(noc_cuda_gemm_launch(&p.gemm, both_types[t], NULL), cudaSuccess);
        ck_assert_double_le(worst_ulp(both_types[t], &p.out, 0.25), limit_of(&shape));
        if (shape.has_score)
            ck_assert_double_le(worst_f32(&p.score), shape.is_normed ? 2e-2 : 1e-5);
        unmake(&p);
    }
}

START_TEST(plain_products)
{
    check_product((product_case){.rows = 1, .columns = 8, .depth = 8});
    check_product((product_case){.rows = 64, .columns = 64, .depth = 32});
    check_product((product_case){.rows = 65, .columns = 72, .depth = 40, .has_residual = true});
    check_product((product_case){.rows = 129, .columns = 136, .depth = 200, .activation = NOC_CUDA_GELU});
    check_product((product_case){.rows = 33, .columns = 32, .depth = 1024, .has_residual = true});
    check_product((product_case){
        .rows = 7, .columns = 64, .depth = 96, .has_score = true, .activation = NOC_CUDA_RELU});
}
END_TEST

/* Both results are those of launches of their own, bit for bit. */
static void check_pair(product_case first, product_case second)
{
    for (int t = 0; t < 2; t++) {
        product alone[2] = {{.shape = first}, {.shape = second}},
                pair[2] = {{.shape = first}, {.shape = second}};
        for (int i = 0; i < 2; i++) {
            make(&alone[i], both_types[t]);
            make(&pair[i], both_types[t]);
            ck_assert_int_eq(noc_cuda_gemm_launch(&alone[i].gemm, both_types[t], NULL), cudaSuccess);
        }
        ck_assert_int_eq(noc_cuda_gemm_launch_pair(&pair[0].gemm, &pair[1].gemm, both_types[t], NULL),
                         cudaSuccess);
        for (int i = 0; i < 2; i++) {
            ck_assert(is_same(alone[i].out.device, pair[i].out.device, alone[i].out.count * 2));
            unmake(&alone[i]);
            unmake(&pair[i]);
        }
    }
}

START_TEST(pairs_of_products)
{
    check_pair((product_case){.rows = 33, .columns = 72, .depth = 80, .is_normed = true},
               (product_case){.rows = 33, .columns = 136, .depth = 80, .is_normed = true});
    check_pair((product_case){.rows = 5, .columns = 256, .depth = 256, .tail = 256},
               (product_case){.rows = 70, .columns = 256, .depth = 72, .tail = 72, .has_residual = true});
    noc_cuda_gemm a = {.rows = 1, .columns = 8, .depth = 8}, b = a;
    ck_assert(noc_cuda_gemm_pairs(&a, &b));
    b.is_normed = true;
    ck_assert(!noc_cuda_gemm_pairs(&a, &b));
    b.is_normed = false, b.columns = 72;
    ck_assert(!noc_cuda_gemm_pairs(&a, &b));
    ck_assert_int_eq(noc_cuda_gemm_launch_pair(&a, &b, NOC_CUDA_F16, NULL), cudaErrorInvalidValue);
}
END_TEST

START_TEST(normed_products)
{
    check_product((product_case){.rows = 1, .columns = 8, .depth = 8, .is_normed = true});
    check_product((product_case){
        .rows = 130, .columns = 128, .depth = 32, .is_normed = true, .activation = NOC_CUDA_GELU});
    check_product((product_case){.rows = 61, .columns = 72, .depth = 168, .is_normed = true});
    check_product((product_case){
        .rows = 20, .columns = 40, .depth = 512, .is_normed = true, .has_residual = true, .has_score = true});
}
END_TEST

START_TEST(tails_give_the_norm)
{
    check_product((product_case){.rows = 65, .columns = 256, .depth = 32, .tail = 32});
    check_product((product_case){.rows = 9, .columns = 72, .depth = 160, .tail = 160, .is_normed = true});
    check_product((product_case){.rows = 3, .columns = 8, .depth = 8, .tail = 1});
}
END_TEST

START_TEST(rows_do_not_depend_on_others)
{
    product few = {.shape = {.rows = 40, .columns = 72, .depth = 104, .tail = 9, .is_normed = true}},
            many = few;
    many.shape.rows = 150;
    make(&few, NOC_CUDA_F16);
    make(&many, NOC_CUDA_F16);
    ck_assert_int_eq(noc_cuda_gemm_launch(&few.gemm, NOC_CUDA_F16, NULL), cudaSuccess);
    ck_assert_int_eq(noc_cuda_gemm_launch(&many.gemm, NOC_CUDA_F16, NULL), cudaSuccess);
    ck_assert(is_same(few.out.device, many.out.device, few.out.count * 2));
    unmake(&few);
    unmake(&many);
}
END_TEST

START_TEST(residual_may_be_the_output)
{
    product p = {.shape = {.rows = 70, .columns = 40, .depth = 48, .has_residual = true}};
    make(&p, NOC_CUDA_BF16);
    for (int row = 0; row < p.shape.rows; row++)
        expect_row(&p, row);
    p.gemm.out = p.residual.device;
    ck_assert_int_eq(noc_cuda_gemm_launch(&p.gemm, NOC_CUDA_BF16, NULL), cudaSuccess);
    copy(p.out.device, p.residual.device, p.out.count * 2, cudaMemcpyDeviceToDevice);
    ck_assert_double_le(worst_ulp(NOC_CUDA_BF16, &p.out, 0.25), 0.6);
    unmake(&p);
}
END_TEST

/* Beyond the end of f16 comes its end. */
START_TEST(large_values_stay_numbers)
{
    product p = {.shape = {.rows = 5, .columns = 8, .depth = 8}};
    make(&p, NOC_CUDA_F16);
    float bias[8];
    for (int i = 0; i < 8; i++)
        bias[i] = i % 2 ? 1e6F : -1e6F;
    copy(p.bias.device, bias, sizeof bias, cudaMemcpyHostToDevice);
    for (size_t i = 0; i < p.out.count; i++)
        p.out.values[i] = i % 2 ? 65504 : -65504;
    ck_assert_int_eq(noc_cuda_gemm_launch(&p.gemm, NOC_CUDA_F16, NULL), cudaSuccess);
    ck_assert_double_eq(worst_ulp(NOC_CUDA_F16, &p.out, 1), 0);
    unmake(&p);
}
END_TEST

START_TEST(other_shapes_are_refused)
{
    noc_cuda_gemm g = {.rows = 4, .columns = 12, .depth = 8};
    ck_assert(!noc_cuda_gemm_fits(&g));
    ck_assert_int_eq(noc_cuda_gemm_launch(&g, NOC_CUDA_F16, NULL), cudaErrorInvalidValue);
    g = (noc_cuda_gemm){.rows = 4, .columns = 8, .depth = 520};
    ck_assert(noc_cuda_gemm_fits(&g));
    g.is_normed = true;
    ck_assert(!noc_cuda_gemm_fits(&g));
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {plain_products,
                                  normed_products,
                                  pairs_of_products,
                                  tails_give_the_norm,
                                  rows_do_not_depend_on_others,
                                  residual_may_be_the_output,
                                  large_values_stay_numbers,
                                  other_shapes_are_refused};
    return run_suite("cuda_gemm", tests, sizeof tests / sizeof tests[0]);
}
