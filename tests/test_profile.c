/* The profile of a plan of three ops on a device that computes the first two together: what a step is charged
 * with, and its share of an invented machine's limits. */
#include "pipeline/profile.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS = 1000, WIDTH = 8, HIDDEN = 32 };

static noc_op linear(int in, int out, int residual, size_t weights)
{
    noc_op op = noc_op_make(NOC_OP_LINEAR, in);
    op.output = out;
    op.residual = residual;
    op.weight.count = weights;
    op.bias.count = 0;
    return op;
}

/* 0 -> LINEAR 1 -> LINEAR 2 (+ 0), 2 -> DWCONV 3 */
typedef struct sample {
    noc_value values[4];
    noc_op ops[3];
    noc_plan plan;
} sample;

static void make_sample(sample *s)
{
    static const int channels[] = {WIDTH, HIDDEN, WIDTH, WIDTH}, last[] = {1, 1, 2, 3};
    memset(s, 0, sizeof *s);
    for (int v = 0; v < 4; v++)
        s->values[v] = (noc_value){
            .grid = {10, 10, 10}, .channels = channels[v], .first = v > 0 ? v - 1 : 0, .last = last[v]};
    s->ops[0] = linear(0, 1, -1, WIDTH * HIDDEN);
    s->ops[1] = linear(1, 2, 0, WIDTH * HIDDEN);
    s->ops[2] = noc_op_make(NOC_OP_DWCONV, 2);
    s->ops[2].output = 3;
    s->ops[2].weight.count = 27 * WIDTH;
    s->ops[2].bias.count = WIDTH;
    s->plan = (noc_plan){.ops = s->ops, .op_count = 3, .values = s->values, .value_count = 4, .logits = 3};
    for (int i = 0; i < NOC_STAGES; i++)
        s->plan.stages[i] = -1;
}

static const noc_device_limits machine = {.product_flops = 1e9, .vector_flops = 1e8, .bytes_per_second = 1e9};

static noc_profile *profile_of(const sample *s, int factor_bytes)
{
    const double seconds[3] = {0, 2e-3, 1e-2};
    noc_profile *p = NULL;
    ck_assert_int_eq(noc_profile_make(&s->plan, factor_bytes, &machine, seconds, 0.02, &p, NULL), NOC_OK);
    return p;
}

START_TEST(ops_of_a_step_are_summed)
{
    sample s;
    make_sample(&s);
    noc_profile *p = profile_of(&s, 4);
    ck_assert_int_eq(p->step_count, 2);
    ck_assert_int_eq(p->steps[0].first, 0);
    ck_assert_int_eq(p->steps[0].last, 1);
    ck_assert_uint_eq(p->steps[0].macs, 2 * TOKENS * WIDTH * HIDDEN);
    ck_assert_double_eq(p->steps[0].flop, 4.0 * TOKENS * WIDTH * HIDDEN);
    ck_assert_int_eq(p->steps[1].first, 2);
    ck_assert_double_eq_tol(p->seconds, 0.012, 1e-12);
    ck_assert_double_eq_tol(p->rest_s, 0.008, 1e-12);
    noc_profile_free(p);
}
END_TEST

/* The input is read by both ops, and the hidden value never leaves the step. */
START_TEST(bytes_are_what_comes_in_or_goes_out)
{
    sample s;
    make_sample(&s);
    noc_profile *f32 = profile_of(&s, 4), *bf16 = profile_of(&s, 2);
    ck_assert_double_eq(f32->steps[0].bytes, 4 * (2 * TOKENS * WIDTH + 2 * WIDTH * HIDDEN));
    ck_assert_double_eq(f32->steps[1].bytes, 4 * (2 * TOKENS * WIDTH + 28 * WIDTH));
    ck_assert_double_eq(bf16->steps[0].bytes, 4 * 2 * TOKENS * WIDTH + 2 * 2 * WIDTH * HIDDEN);
    ck_assert_double_eq(bf16->steps[1].bytes, f32->steps[1].bytes);
    s.values[1].last = 2; /* somebody else reads it */
    noc_profile *kept = profile_of(&s, 4);
    ck_assert_double_eq(kept->steps[0].bytes, f32->steps[0].bytes + 4 * TOKENS * HIDDEN);
    noc_profile_free(f32);
    noc_profile_free(bf16);
    noc_profile_free(kept);
}
END_TEST

/* 1.024 MFLOP at 1 GFLOP/s in 2 ms; 432 kFLOP that are no product at 100 MFLOP/s in 10 ms. */
START_TEST(shares_of_the_limit)
{
    sample s;
    make_sample(&s);
    noc_profile *p = profile_of(&s, 4);
    ck_assert_double_eq_tol(p->steps[0].share, 1.024e-3 / 2e-3, 1e-9);
    ck_assert_double_eq_tol(p->steps[1].share, 4.32e-3 / 1e-2, 1e-9);
    noc_profile_free(p);
    s.ops[2].kind = NOC_OP_LAYER_NORM; /* no FLOP are counted for it: its bytes decide */
    p = profile_of(&s, 4);
    ck_assert_double_eq(p->steps[1].flop, 0);
    ck_assert_double_eq_tol(p->steps[1].share, p->steps[1].bytes / 1e9 / 1e-2, 1e-9);
    noc_profile_free(p);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("profile");
    TCase *tests = tcase_create("profile");
    tcase_add_test(tests, ops_of_a_step_are_summed);
    tcase_add_test(tests, bytes_are_what_comes_in_or_goes_out);
    tcase_add_test(tests, shares_of_the_limit);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
