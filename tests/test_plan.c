/* Plans of SegFormer3D: what they cost, that every set of rewrites computes the same, the published values of
 * the reference files, and that the arena never holds two living values in one place. With NOC_REFERENCE_DIR
 * the other tiny reference files are compared too. */
#include "engine/base/memory.h"
#include "engine/model.h"
#include "engine/segformer3d.h"
#include "tests/reference_plan.h"
#include "tests/reference_weights.h"

#include <check.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NETWORK_PUBLISHED                                                                                    \
    {                                                                                                        \
        .in_channels = 4, .num_classes = 3, .embed_dims = {32, 64, 160, 256}, .num_heads = {1, 2, 5, 8},     \
        .depths = {2, 2, 2, 2}, .sr_ratios = {4, 2, 1, 1}, .mlp_ratios = {4, 4, 4, 4}, .decoder_dim = 256,   \
        .patch_kernel = {{7, 7, 7}, {3, 3, 3}, {3, 3, 3}, {3, 3, 3}},                                        \
        .patch_stride = {{4, 4, 4}, {2, 2, 2}, {2, 2, 2}, {2, 2, 2}},                                        \
        .patch_padding = {{3, 3, 3}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}},                                       \
    }

/* Small networks of uneven widths. The first has stages wider than the decoder and as wide as it, kernels
 * that differ by axis, an sr ratio that leaves a tail; the second is narrow; the third has no sr at all. */
static const struct {
    noc_network_config network;
    int64_t window[3];
} small[] = {
    {{.in_channels = 2,
      .num_classes = 3,
      .embed_dims = {6, 10, 12, 9},
      .num_heads = {1, 2, 3, 3},
      .depths = {1, 2, 1, 1},
      .sr_ratios = {2, 3, 1, 1},
      .mlp_ratios = {2, 3, 1, 4},
      .decoder_dim = 9,
      .patch_kernel = {{3, 7, 7}, {3, 3, 3}, {1, 3, 3}, {3, 2, 3}},
      .patch_stride = {{2, 4, 4}, {2, 1, 2}, {1, 2, 2}, {2, 2, 1}},
      .patch_padding = {{1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}}},
     {15, 21, 25}},
    {{.in_channels = 1,
      .num_classes = 2,
      .embed_dims = {4, 6, 8, 10},
      .num_heads = {2, 1, 4, 5},
      .depths = {1, 1, 1, 1},
      .sr_ratios = {2, 2, 1, 1},
      .mlp_ratios = {2, 2, 2, 2},
      .decoder_dim = 20,
      .patch_kernel = {{3, 3, 3}, {3, 3, 3}, {3, 3, 3}, {3, 3, 3}},
      .patch_stride = {{2, 2, 2}, {2, 2, 2}, {2, 2, 2}, {2, 2, 2}},
      .patch_padding = {{1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}}},
     {13, 9, 11}},
    {{.in_channels = 3,
      .num_classes = 5,
      .embed_dims = {5, 7, 3, 11},
      .num_heads = {1, 7, 1, 1},
      .depths = {1, 1, 2, 1},
      .sr_ratios = {1, 1, 1, 1},
      .mlp_ratios = {1, 2, 3, 1},
      .decoder_dim = 6,
      .patch_kernel = {{5, 5, 5}, {2, 2, 2}, {3, 3, 3}, {1, 1, 1}},
      .patch_stride = {{3, 3, 3}, {2, 2, 2}, {1, 2, 1}, {1, 1, 1}},
      .patch_padding = {{2, 2, 2}, {0, 0, 0}, {1, 1, 1}, {0, 0, 0}}},
     {14, 17, 10}},
};

static char folder[256];

static void make_folder(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof(folder), "%s/test_plan.XXXXXX", base ? base : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static void remove_folder(void)
{
    ck_assert_int_eq(rmdir(folder), 0);
}

static noc_safetensors *random_weights(const noc_network_config *network, unsigned absent, const char *prefix)
{
    char path[300];
    noc_error err;
    noc_safetensors *weights = NULL;
    uint64_t parameters;
    unsigned groups;
    snprintf(path, sizeof(path), "%s/w.safetensors", folder);
    ck_assert_msg(reference_weights_write(path, network, absent, prefix, 7, &err) == NOC_OK, "%s", err.text);
    ck_assert_msg(noc_safetensors_open(path, &weights, &err) == NOC_OK, "%s", err.text);
    ck_assert_msg(noc_segformer3d_check(network, weights, path, &parameters, &groups, &err) == NOC_OK, "%s",
                  err.text);
    ck_assert_uint_eq(groups, ((1U << NOC_GROUP_COUNT) - 1) & ~absent);
    ck_assert_int_eq(unlink(path), 0);
    return weights;
}

static noc_plan *build(const noc_network_config *network, const noc_safetensors *weights,
                       const int64_t window[3], unsigned rewrites)
{
    noc_error err;
    noc_plan *plan = NULL;
    ck_assert_msg(noc_segformer3d_check_window(network, window, &err) == NOC_OK, "%s", err.text);
    ck_assert_msg(noc_segformer3d_build(network, weights, window, &plan, &err) == NOC_OK, "%s", err.text);
    ck_assert_msg(noc_plan_rewrite(plan, rewrites, &err) == NOC_OK, "%s", err.text);
    ck_assert_msg(noc_plan_arrange(plan, true, &err) == NOC_OK, "%s", err.text);
    return plan;
}

static int count_ops(const noc_plan *plan, noc_op_kind kind)
{
    int count = 0;
    for (int i = 0; i < plan->op_count; i++)
        count += plan->ops[i].kind == kind;
    return count;
}

START_TEST(costs_of_the_published_network)
{
    static const struct {
        unsigned rewrites;
        uint64_t macs;
    } cases[] = {
        {0, 15546974208},
        {NOC_REWRITE_FUSE_BEFORE_UPSAMPLING, 9410707456},
        {NOC_REWRITE_FUSE_BEFORE_UPSAMPLING | NOC_REWRITE_FOLD_BATCH_NORM | NOC_REWRITE_FOLD_DECODER_NORM,
         7024672768},
        {NOC_REWRITE_ALL & ~NOC_REWRITE_ABSORB_SINGLE_HEADS, 7024672768},
        /* two blocks of 512 keys with a score of their own from 32 channels */
        {NOC_REWRITE_ALL, 6890455040 + 2 * 512 * 32},
    };
    const noc_network_config network = NETWORK_PUBLISHED;
    const int64_t window[3] = {128, 128, 128};
    noc_safetensors *weights = random_weights(&network, 0, "");
    ck_assert_uint_eq(noc_safetensors_count(weights), 205 + 18);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        noc_plan *plan = build(&network, weights, window, cases[i].rewrites);
        noc_plan_stats stats;
        noc_plan_stats_of(plan, &stats);
        ck_assert_uint_eq(stats.macs, cases[i].macs);
        ck_assert_uint_eq(stats.arena_bytes, plan->arena_floats * 4);
        ck_assert_int_eq(plan->upsample[0], 4);
        noc_plan_free(plan);
    }
    noc_safetensors_close(weights);
}
END_TEST

START_TEST(ops_after_all_rewrites)
{
    const noc_network_config network = NETWORK_PUBLISHED;
    const int64_t window[3] = {64, 64, 64};
    noc_safetensors *weights = random_weights(&network, 0, "");
    noc_plan *plan = build(&network, weights, window, NOC_REWRITE_ALL);
    ck_assert_int_eq(count_ops(plan, NOC_OP_AFFINE), 0);
    ck_assert_int_eq(count_ops(plan, NOC_OP_ACTIVATION), 0);
    ck_assert_int_eq(count_ops(plan, NOC_OP_CONCAT), 0);
    ck_assert_int_eq(count_ops(plan, NOC_OP_SUM), 1);
    /* Four embeddings, sixteen in front of the blocks' halves, four sr_norms, four stages. */
    ck_assert_int_eq(count_ops(plan, NOC_OP_LAYER_NORM), 4 + 16 + 4 + 4);
    int tails = 0;
    for (int i = 0; i < plan->op_count; i++) {
        const noc_op *op = &plan->ops[i];
        tails += op->tail > 0;
        ck_assert(op->kind != NOC_OP_DWCONV || op->activation == NOC_ACTIVATION_GELU);
        ck_assert(op->kind != NOC_OP_ATTENTION || op->scale == 1);
    }
    ck_assert_int_eq(tails, 4);
    for (int s = 0; s < NOC_STAGES; s++) {
        char name[16];
        snprintf(name, sizeof(name), "c%d", s + 1);
        ck_assert_str_eq(plan->values[plan->stages[s]].name, name);
    }
    noc_plan_free(plan);
    noc_safetensors_close(weights);
}
END_TEST

static double largest_difference(const double *a, const double *b, size_t count, double *largest)
{
    double difference = 0;
    *largest = 0;
    for (size_t i = 0; i < count; i++) {
        difference = fmax(difference, fabs(a[i] - b[i]));
        *largest = fmax(*largest, fabs(a[i]));
        if (isnan(a[i]) || isnan(b[i]))
            return INFINITY;
    }
    return difference;
}

static void check_equal(const noc_plan *plain, double *const *expected, int a, const noc_plan *plan,
                        double *const *values, int b, const char *what)
{
    size_t count = reference_tokens(plain, a) * (size_t)plain->values[a].channels;
    ck_assert_uint_eq(count, reference_tokens(plan, b) * (size_t)plan->values[b].channels);
    double largest, difference = largest_difference(expected[a], values[b], count, &largest);
    ck_assert_msg(difference <= 1e-9 * largest && largest > 0, "%s: difference %g of %g", what, difference,
                  largest);
}

static double *random_input(const noc_network_config *network, const int64_t window[3])
{
    double *input =
        malloc((size_t)(window[0] * window[1] * window[2]) * (size_t)network->in_channels * sizeof(*input));
    ck_assert_ptr_nonnull(input);
    reference_input(window, network->in_channels, 3, input);
    return input;
}

static void check_rewrites(const noc_network_config *network, const int64_t window[3], unsigned absent)
{
    noc_safetensors *weights = random_weights(network, absent, "");
    double *input = random_input(network, window), **expected = NULL;
    noc_plan *plain = build(network, weights, window, 0);
    ck_assert_int_eq(reference_plan_run(plain, input, &expected, NULL), NOC_OK);
    for (unsigned rewrites = 1; rewrites <= NOC_REWRITE_ALL; rewrites++) {
        noc_plan *plan = build(network, weights, window, rewrites);
        double **values = NULL;
        char what[64];
        ck_assert_int_eq(reference_plan_run(plan, input, &values, NULL), NOC_OK);
        snprintf(what, sizeof(what), "rewrites %u, absent %u, logits", rewrites, absent);
        check_equal(plain, expected, plain->logits, plan, values, plan->logits, what);
        for (int s = 0; s < NOC_STAGES; s++) {
            snprintf(what, sizeof(what), "rewrites %u, absent %u, c%d", rewrites, absent, s + 1);
            check_equal(plain, expected, plain->stages[s], plan, values, plan->stages[s], what);
        }
        reference_plan_free(plan, values);
        noc_plan_free(plan);
    }
    reference_plan_free(plain, expected);
    noc_plan_free(plain);
    free(input);
    noc_safetensors_close(weights);
}

START_TEST(rewrites_compute_the_same)
{
    noc_network_config network = small[_i].network;
    network.attention_scale = NOC_SCALE_HEAD_DIM;
    check_rewrites(&network, small[_i].window, 0);
    network.attention_scale = NOC_SCALE_NUM_HEADS;
    check_rewrites(&network, small[_i].window, 0);
}
END_TEST

START_TEST(rewrites_without_optional_parts)
{
    for (unsigned absent = 2; absent < 1u << NOC_GROUP_COUNT; absent += 2)
        check_rewrites(&small[1].network, small[1].window, absent);
}
END_TEST

START_TEST(rewrites_may_come_one_after_another)
{
    const noc_network_config *network = &small[0].network;
    const int64_t *window = small[0].window;
    noc_safetensors *weights = random_weights(network, 0, "module.");
    double *input = random_input(network, window), **expected = NULL, **values = NULL;
    noc_plan *plain = build(network, weights, window, 0), *plan = build(network, weights, window, 0);
    static const unsigned order[] = {NOC_REWRITE_FOLD_AFFINES, NOC_REWRITE_FUSE_BEFORE_UPSAMPLING,
                                     NOC_REWRITE_FOLD_DECODER_NORM, NOC_REWRITE_FOLD_BATCH_NORM,
                                     NOC_REWRITE_ABSORB_SINGLE_HEADS};
    for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++)
        ck_assert_int_eq(noc_plan_rewrite(plan, order[i], NULL), NOC_OK);
    ck_assert_int_eq(reference_plan_run(plain, input, &expected, NULL), NOC_OK);
    ck_assert_int_eq(reference_plan_run(plan, input, &values, NULL), NOC_OK);
    check_equal(plain, expected, plain->logits, plan, values, plan->logits, "logits");
    ck_assert_int_eq(count_ops(plan, NOC_OP_AFFINE), 0);
    reference_plan_free(plain, expected);
    reference_plan_free(plan, values);
    noc_plan_free(plain);
    noc_plan_free(plan);
    free(input);
    noc_safetensors_close(weights);
}
END_TEST

/* A stored [channels][voxels] tensor as [voxels][channels]. */
static double *stored(const noc_safetensors *file, const char *name, size_t *count)
{
    const noc_tensor *tensor = noc_safetensors_find(file, name);
    ck_assert_msg(tensor != NULL, "no tensor %s", name);
    size_t all = noc_tensor_count(tensor), channels = (size_t)tensor->shape[0], voxels = all / channels;
    double *planes = malloc(all * sizeof(*planes)), *tokens = malloc(all * sizeof(*tokens));
    ck_assert(planes && tokens);
    ck_assert_int_eq(noc_tensor_doubles(tensor, 0, all, planes, NULL), NOC_OK);
    for (size_t i = 0; i < all; i++)
        tokens[i % voxels * channels + i / voxels] = planes[i];
    free(planes);
    *count = all;
    return tokens;
}

static void check_stored(const noc_safetensors *file, const char *name, const double *got, double tolerance)
{
    size_t count;
    double *expected = stored(file, name, &count), largest;
    double difference = largest_difference(expected, got, count, &largest);
    ck_assert_msg(difference <= tolerance * largest, "%s: difference %g of %g", name, difference, largest);
    free(expected);
}

/* The logits as the network gives them: full size, [voxels][classes]. */
static double *full_logits(const noc_plan *plan, double *const *values, int to[3])
{
    const noc_value *logits = &plan->values[plan->logits];
    for (int axis = 0; axis < 3; axis++)
        to[axis] = logits->grid[axis] * plan->upsample[axis];
    double *out = malloc((size_t)(to[0] * to[1] * to[2] * logits->channels) * sizeof(*out));
    ck_assert_ptr_nonnull(out);
    reference_resize(values[plan->logits], logits->grid, out, to, logits->channels);
    return out;
}

static noc_model *load_model(const char *path)
{
    noc_error err;
    noc_model *model = NULL;
    ck_assert_msg(noc_model_load(path, &model, &err) == NOC_OK, "%s", err.text);
    return model;
}

static noc_safetensors *open_file(const char *path)
{
    noc_error err;
    noc_safetensors *file = NULL;
    ck_assert_msg(noc_safetensors_open(path, &file, &err) == NOC_OK, "%s", err.text);
    return file;
}

static void check_golden(const char *model_path, const char *file_path, const int64_t window[3],
                         unsigned rewrites)
{
    noc_model *model = load_model(model_path);
    noc_safetensors *file = open_file(file_path);
    noc_plan *plan = NULL;
    noc_error err;
    ck_assert_msg(noc_model_plan(model, 0, window, rewrites, true, &plan, &err) == NOC_OK, "%s", err.text);
    double *input = malloc((size_t)(window[0] * window[1] * window[2] * 2) * sizeof(*input)), **values = NULL;
    ck_assert_ptr_nonnull(input);
    reference_input(window, 2, 0, input);
    check_stored(file, "input", input, 0);
    ck_assert_int_eq(reference_plan_run(plan, input, &values, NULL), NOC_OK);
    int to[3];
    double *logits = full_logits(plan, values, to);
    check_stored(file, "logits", logits, 2e-6);
    for (int s = 0; s < NOC_STAGES; s++)
        check_stored(file, plan->values[plan->stages[s]].name, values[plan->stages[s]], 2e-6);
    free(logits);
    free(input);
    reference_plan_free(plan, values);
    noc_plan_free(plan);
    noc_safetensors_close(file);
    noc_model_free(model);
}

START_TEST(published_values)
{
    const int64_t window[3] = {37, 45, 29};
    check_golden("tests/data/models/tiny", "tests/data/golden/tiny_37x45x29.safetensors", window,
                 _i ? NOC_REWRITE_ALL : 0);
}
END_TEST

START_TEST(published_values_of_the_older_scale)
{
    const int64_t window[3] = {48, 40, 56};
    noc_model *model = load_model("tests/data/models/tiny-legacy");
    noc_safetensors *file = open_file("tests/data/golden/tiny_legacy_48x40x56_strided.safetensors");
    const noc_tensor *strided = noc_safetensors_find(file, "logits_strided");
    noc_plan *plan = NULL;
    double *input = malloc(48 * 40 * 56 * 2 * sizeof(*input)), **values = NULL;
    ck_assert_ptr_nonnull(input);
    ck_assert_int_eq(noc_model_plan(model, 0, window, NOC_REWRITE_ALL, true, &plan, NULL), NOC_OK);
    reference_input(window, 2, 0, input);
    ck_assert_int_eq(reference_plan_run(plan, input, &values, NULL), NOC_OK);
    int to[3];
    double *logits = full_logits(plan, values, to),
           largest = atof(noc_safetensors_metadata(file, "largest_abs_logit"));
    const int64_t *shape = strided->shape;
    for (size_t i = 0; i < noc_tensor_count(strided); i++) {
        size_t w = i % (size_t)shape[3], h = i / (size_t)shape[3] % (size_t)shape[2];
        size_t d = i / (size_t)(shape[3] * shape[2]) % (size_t)shape[1],
               c = i / (size_t)(shape[3] * shape[2] * shape[1]);
        double expected, got = logits[((d * 4 * (size_t)to[1] + h * 4) * (size_t)to[2] + w * 4) * 3 + c];
        ck_assert_int_eq(noc_tensor_doubles(strided, i, 1, &expected, NULL), NOC_OK);
        ck_assert_double_le(fabs(expected - got), 2e-6 * largest);
    }
    free(logits);
    free(input);
    reference_plan_free(plan, values);
    noc_plan_free(plan);
    noc_safetensors_close(file);
    noc_model_free(model);
}
END_TEST

START_TEST(published_values_of_the_full_set)
{
    static const struct {
        const char *model, *file;
        int64_t window[3];
    } cases[] = {{"tiny-untrained", "tiny_32x32x32", {32, 32, 32}},
                 {"tiny-untrained", "tiny_48x40x56", {48, 40, 56}},
                 {"tiny-untrained-legacy", "tiny_legacy_48x40x56", {48, 40, 56}}};
    const char *reference = getenv("NOC_REFERENCE_DIR");
    char model[512], file[512];
    snprintf(model, sizeof(model), "%s/models/%s", reference, cases[_i].model);
    snprintf(file, sizeof(file), "%s/golden/%s.safetensors", reference, cases[_i].file);
    check_golden(model, file, cases[_i].window, NOC_REWRITE_ALL);
}
END_TEST

static void check_arena(const noc_plan *plan)
{
    size_t sum = 0;
    for (int a = 1; a < plan->value_count; a++) {
        const noc_value *va = &plan->values[a];
        size_t size = reference_tokens(plan, a) * (size_t)va->channels;
        ck_assert_uint_eq(va->offset % 16, 0);
        ck_assert_uint_le(va->offset + size, plan->arena_floats);
        ck_assert_int_ge(va->first, 0);
        sum += size;
        for (int b = a + 1; b < plan->value_count; b++) {
            const noc_value *vb = &plan->values[b];
            size_t other = reference_tokens(plan, b) * (size_t)vb->channels;
            bool live_together = va->first <= vb->last && vb->first <= va->last;
            bool overlap = va->offset < vb->offset + other && vb->offset < va->offset + size;
            ck_assert_msg(!live_together || !overlap, "%s and %s share memory", va->name, vb->name);
        }
    }
    ck_assert_uint_lt(plan->arena_floats, sum / 2);
}

START_TEST(arena_has_room_for_all_that_lives)
{
    noc_safetensors *weights = random_weights(&small[0].network, 0, "");
    noc_plan *kept = build(&small[0].network, weights, small[0].window, NOC_REWRITE_ALL);
    check_arena(kept);
    for (int s = 0; s < NOC_STAGES; s++)
        ck_assert_int_eq(kept->values[kept->stages[s]].last, kept->op_count);
    noc_plan *dropped = build(&small[0].network, weights, small[0].window, 0);
    ck_assert_int_eq(noc_plan_arrange(dropped, false, NULL), NOC_OK);
    check_arena(dropped);
    ck_assert_int_eq(dropped->stages[0], -1);
    ck_assert_int_eq(dropped->values[dropped->logits].last, dropped->op_count);
    for (int i = 0; i < dropped->op_count; i++)
        ck_assert_int_eq(dropped->values[dropped->ops[i].output].first, i);
    noc_plan_free(kept);
    noc_plan_free(dropped);
    noc_safetensors_close(weights);
}
END_TEST

START_TEST(windows_that_do_not_fit)
{
    const noc_network_config published = NETWORK_PUBLISHED;
    noc_network_config uncovered = published;
    const int64_t smallest[3] = {13, 13, 13}, small_window[3] = {64, 12, 64}, none[3] = {64, 0, 64};
    const int64_t huge[3] = {1 << 20, 1 << 20, 1 << 20}, usual[3] = {64, 63, 62};
    noc_error err;
    ck_assert_int_eq(noc_segformer3d_check_window(&published, smallest, &err), NOC_OK);
    ck_assert_int_eq(noc_segformer3d_check_window(&published, small_window, &err), NOC_ECONFIG);
    ck_assert_ptr_nonnull(strstr(err.text, "64 x 12 x 64"));
    ck_assert_ptr_nonnull(strstr(err.text, "13 x 13 x 13"));
    ck_assert_int_eq(noc_segformer3d_check_window(&published, none, &err), NOC_ECONFIG);
    ck_assert_int_eq(noc_segformer3d_check_window(&published, huge, &err), NOC_ECONFIG);
    /* Without padding the logits of stage 1 would not reach the window's end. */
    uncovered.patch_padding[0][1] = 0;
    ck_assert_int_eq(noc_segformer3d_check_window(&uncovered, usual, &err), NOC_ECONFIG);
}
END_TEST

static Suite *plan_suite(void)
{
    Suite *suite = suite_create("plan");
    TCase *plans = tcase_create("plans");
    tcase_set_timeout(plans, 120);
    tcase_add_checked_fixture(plans, make_folder, remove_folder);
    tcase_add_test(plans, costs_of_the_published_network);
    tcase_add_test(plans, ops_after_all_rewrites);
    tcase_add_loop_test(plans, rewrites_compute_the_same, 0, (int)(sizeof(small) / sizeof(small[0])));
    tcase_add_test(plans, rewrites_without_optional_parts);
    tcase_add_test(plans, rewrites_may_come_one_after_another);
    tcase_add_loop_test(plans, published_values, 0, 2);
    tcase_add_test(plans, published_values_of_the_older_scale);
    if (getenv("NOC_REFERENCE_DIR"))
        tcase_add_loop_test(plans, published_values_of_the_full_set, 0, 3);
    tcase_add_test(plans, arena_has_room_for_all_that_lives);
    tcase_add_test(plans, windows_that_do_not_fit);
    suite_add_tcase(suite, plans);
    return suite;
}

int main(void)
{
    SRunner *runner = srunner_create(plan_suite());
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
