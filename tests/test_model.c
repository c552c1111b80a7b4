/* Models: weights that fit or do not, and what makes two models the same. */
#include "engine/base/file.h"
#include "engine/base/sha256.h"
#include "engine/model.h"
#include "engine/segformer3d.h"
#include "tests/reference_weights.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const noc_network_config network = {
    .in_channels = 1,
    .num_classes = 2,
    .embed_dims = {4, 6, 8, 10},
    .num_heads = {2, 1, 4, 5},
    .depths = {1, 2, 1, 1},
    .sr_ratios = {2, 2, 1, 1},
    .mlp_ratios = {2, 2, 2, 2},
    .decoder_dim = 12,
    .patch_kernel = {{3, 3, 3}, {3, 3, 3}, {3, 3, 3}, {3, 3, 3}},
    .patch_stride = {{2, 2, 2}, {2, 2, 2}, {2, 2, 2}, {2, 2, 2}},
    .patch_padding = {{1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}},
};

/* %s: name, files of weights, further lines of the root, scale, step, mirror, label. */
static const char manifest_format[] = "format: nocturne-model/1\n"
                                      "name: %s\n"
                                      "family: segformer3d\n"
                                      "weights: %s\n"
                                      "%s\n"
                                      "network:\n"
                                      "  in_channels: 1\n"
                                      "  num_classes: 2\n"
                                      "  embed_dims: [4, 6, 8, 10]\n"
                                      "  num_heads: [2, 1, 4, 5]\n"
                                      "  depths: [1, 2, 1, 1]\n"
                                      "  sr_ratios: [2, 2, 1, 1]\n"
                                      "  mlp_ratios: [2, 2, 2, 2]\n"
                                      "  patch_kernel: [3, 3, 3, 3]\n"
                                      "  patch_stride: [2, 2, 2, 2]\n"
                                      "  patch_padding: [1, 1, 1, 1]\n"
                                      "  decoder_dim: 12\n"
                                      "  attention_scale: %s\n"
                                      "input: {channels: [x], prepare: [%s]}\n"
                                      "window: {size: [16, 16, 16]%s}\n"
                                      "output:\n"
                                      "  kind: labels\n"
                                      "  labels:\n"
                                      "  - index: 1\n"
                                      "    name: %s\n";

static char folder[256], manifest_path[300], weights_path[300], second_path[300];
static const char *files = "w.safetensors", *mirror = "";

static void write_manifest(const char *name, const char *more, const char *scale, const char *step,
                           const char *label)
{
    FILE *file = fopen(manifest_path, "w");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_gt(fprintf(file, manifest_format, name, files, more, scale, step, mirror, label), 0);
    ck_assert_int_eq(fclose(file), 0);
}

static void write_weights(unsigned absent, const char *prefix)
{
    noc_error err;
    ck_assert_msg(reference_weights_write(weights_path, &network, absent, prefix, 1, &err) == NOC_OK, "%s",
                  err.text);
}

static void make_folder(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof(folder), "%s/test_model.XXXXXX", base ? base : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(manifest_path, sizeof(manifest_path), "%s/model.yaml", folder);
    snprintf(weights_path, sizeof(weights_path), "%s/w.safetensors", folder);
    snprintf(second_path, sizeof(second_path), "%s/v.safetensors", folder);
    write_manifest("m", "", "head_dim", "", "one");
    write_weights(0, "");
}

static void remove_folder(void)
{
    unlink(manifest_path);
    unlink(weights_path);
    unlink(second_path);
    ck_assert_int_eq(rmdir(folder), 0);
}

static noc_model *load(void)
{
    noc_model *model = NULL;
    noc_error err;
    ck_assert_msg(noc_model_load(folder, &model, &err) == NOC_OK, "%s", err.text);
    return model;
}

static void refuse(noc_status expected, const char *const parts[])
{
    noc_model *model = NULL;
    noc_error err = {0};
    noc_status status = noc_model_load(folder, &model, &err);
    ck_assert_msg(status == expected && err.status == expected, "status %s: %s", noc_status_name(status),
                  err.text);
    ck_assert_ptr_null(model);
    for (int i = 0; parts[i]; i++)
        ck_assert_msg(strstr(err.text, parts[i]) != NULL, "\"%s\" does not say \"%s\"", err.text, parts[i]);
}

#define REFUSE(status, ...) refuse((status), (const char *const[]){__VA_ARGS__, NULL})

/* Rewrites the file of weights with each tensor as `change` makes it; false leaves it out. */
static void change_weights(bool (*change)(noc_tensor *tensor))
{
    noc_safetensors *file = NULL;
    noc_tensor kept[400];
    size_t count = 0;
    ck_assert_int_eq(noc_safetensors_open(weights_path, &file, NULL), NOC_OK);
    for (size_t i = 0; i < noc_safetensors_count(file); i++) {
        kept[count] = *noc_safetensors_item(file, i);
        count += change(&kept[count]);
    }
    ck_assert_int_eq(noc_safetensors_write(weights_path, kept, count, NULL, NULL), NOC_OK);
    noc_safetensors_close(file);
}

START_TEST(published_network)
{
    noc_model *model = NULL;
    noc_error err;
    ck_assert_msg(noc_model_load("tests/data/models/tiny", &model, &err) == NOC_OK, "%s", err.text);
    uint64_t sum = 0;
    for (size_t i = 0; i < noc_safetensors_count(model->weights[0]); i++) {
        const noc_tensor *tensor = noc_safetensors_item(model->weights[0], i);
        if (!strstr(tensor->name, "running_") && !strstr(tensor->name, "num_batches"))
            sum += noc_tensor_count(tensor);
    }
    ck_assert_uint_eq(noc_safetensors_count(model->weights[0]), 232);
    ck_assert_uint_eq(model->parameters, sum);
    noc_model_free(model);
}
END_TEST

START_TEST(parameters_of_the_published_network)
{
    noc_network_config published = network;
    const int dims[] = {32, 64, 160, 256}, heads[] = {1, 2, 5, 8}, ratios[] = {4, 2, 1, 1};
    for (int s = 0; s < NOC_STAGES; s++) {
        published.embed_dims[s] = dims[s];
        published.num_heads[s] = heads[s];
        published.sr_ratios[s] = ratios[s];
        published.depths[s] = 2;
        published.mlp_ratios[s] = 4;
        for (int axis = 0; axis < 3; axis++)
            published.patch_kernel[s][axis] = s == 0 ? 7 : 3;
    }
    published.in_channels = 4;
    published.num_classes = 3;
    published.decoder_dim = 256;
    noc_expected_tensor *tensors = NULL;
    size_t count = 0;
    uint64_t parameters = 0, optional = 0;
    ck_assert_int_eq(noc_segformer3d_tensors(&published, &tensors, &count, NULL), NOC_OK);
    for (size_t i = 0; i < count; i++) {
        uint64_t product = 1;
        for (int axis = 0; axis < tensors[i].axes; axis++)
            product *= (uint64_t)tensors[i].shape[axis];
        if (strstr(tensors[i].name, "running_"))
            continue;
        parameters += product;
        if (tensors[i].group != NOC_GROUP_REQUIRED)
            optional += product;
    }
    ck_assert_uint_eq(count, 232 - 9);
    ck_assert_uint_eq(parameters, 4525251);
    ck_assert_uint_eq(parameters - optional, 4511939);
    free(tensors);
}
END_TEST

START_TEST(optional_parts)
{
    for (unsigned absent = 0; absent < 1u << NOC_GROUP_COUNT; absent += 2) {
        write_weights(absent, absent & 4 ? "module." : "");
        noc_model *model = load();
        const int64_t window[3] = {16, 17, 18};
        noc_plan *plan = NULL;
        ck_assert_int_eq(noc_model_plan(model, 0, window, NOC_REWRITE_ALL, false, &plan, NULL), NOC_OK);
        ck_assert_uint_gt(plan->arena_floats, 0);
        ck_assert_int_eq(plan->stages[2], -1);
        noc_plan_free(plan);
        noc_model_free(model);
    }
}
END_TEST

static bool without_one(noc_tensor *tensor)
{
    return strcmp(tensor->name, "segformer_encoder.tf_block2.1.attention.query.bias") != 0 &&
           strcmp(tensor->name, "segformer_decoder.linear_pred.bias") != 0;
}

START_TEST(missing)
{
    change_weights(without_one);
    REFUSE(NOC_EDATA, weights_path, "missing segformer_encoder.tf_block2.1.attention.query.bias",
           "missing segformer_decoder.linear_pred.bias");
}
END_TEST

static bool renamed(noc_tensor *tensor)
{
    if (strcmp(tensor->name, "segformer_encoder.norm3.weight") == 0)
        tensor->name = "segformer_encoder.norm9.weight";
    if (strcmp(tensor->name, "segformer_encoder.norm3.bias") == 0)
        tensor->name = "segformer_encoder.norm3.num_batches_tracked";
    return true;
}

START_TEST(unexpected)
{
    change_weights(renamed);
    REFUSE(NOC_EDATA, "missing segformer_encoder.norm3.weight", "missing segformer_encoder.norm3.bias",
           "unexpected segformer_encoder.norm9.weight");
}
END_TEST

static bool reshaped(noc_tensor *tensor)
{
    if (strcmp(tensor->name, "segformer_encoder.tf_block1.0.mlp.fc1.weight") == 0) {
        tensor->shape[0] = 4;
        tensor->shape[1] = 8;
    }
    return true;
}

START_TEST(misshapen)
{
    change_weights(reshaped);
    REFUSE(NOC_EDATA, "segformer_encoder.tf_block1.0.mlp.fc1.weight is [4,8] instead of [8,4]");
}
END_TEST

static bool mostly_gone(noc_tensor *tensor)
{
    return strncmp(tensor->name, "segformer_decoder", 17) == 0;
}

START_TEST(more_than_a_sentence_holds)
{
    noc_model *model = NULL;
    noc_error err;
    change_weights(mostly_gone);
    ck_assert_int_eq(noc_model_load(folder, &model, &err), NOC_EDATA);
    int more = 0;
    const char *end = strstr(err.text, " and ");
    ck_assert_msg(end && sscanf(end, " and %d more", &more) == 1, "%s", err.text);
    /* All that is missing is either named or counted. */
    int named = 0;
    for (const char *at = err.text; (at = strstr(at, "missing ")); at++)
        named++;
    noc_expected_tensor *tensors = NULL;
    size_t count = 0;
    int expected = 0;
    ck_assert_int_eq(noc_segformer3d_tensors(&network, &tensors, &count, NULL), NOC_OK);
    for (size_t i = 0; i < count; i++)
        expected +=
            strncmp(tensors[i].name, "segformer_encoder", 17) == 0 && tensors[i].group == NOC_GROUP_REQUIRED;
    ck_assert_int_eq(named + more, expected);
    free(tensors);
}
END_TEST

static bool of_another_network(noc_tensor *tensor)
{
    if (strcmp(tensor->name, "segformer_encoder.norm1.weight") == 0)
        tensor->name = "encoders.0.norm.weight";
    return true;
}

START_TEST(another_network)
{
    change_weights(of_another_network);
    REFUSE(NOC_EDATA, "encoders.0.norm.weight", "another network");
}
END_TEST

static const double not_finite[4] = {1, 2, NAN, 4};

static bool with_nan(noc_tensor *tensor)
{
    if (strcmp(tensor->name, "segformer_encoder.norm1.weight") == 0)
        tensor->data = not_finite;
    return true;
}

START_TEST(numbers_that_are_none)
{
    change_weights(with_nan);
    REFUSE(NOC_EDATA, "segformer_encoder.norm1.weight", "not finite");
}
END_TEST

static bool with_integers(noc_tensor *tensor)
{
    if (strcmp(tensor->name, "segformer_encoder.norm1.weight") == 0)
        tensor->dtype = NOC_DTYPE_I64;
    return true;
}

START_TEST(integers)
{
    change_weights(with_integers);
    REFUSE(NOC_EDATA, weights_path, "segformer_encoder.norm1.weight is I64");
}
END_TEST

static const double negative[12] = {1, 1, 1, -0.5, 1, 1, 1, 1, 1, 1, 1, 1};

static bool with_negative_variance(noc_tensor *tensor)
{
    if (strcmp(tensor->name, "segformer_decoder.linear_fuse.1.running_var") == 0)
        tensor->data = negative;
    return true;
}

START_TEST(negative_variance)
{
    change_weights(with_negative_variance);
    REFUSE(NOC_EDATA, "linear_fuse.1.running_var", "negative");
}
END_TEST

START_TEST(files_that_are_missing_or_broken)
{
    FILE *file = fopen(weights_path, "w");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_gt(fprintf(file, "{}"), 0);
    ck_assert_int_eq(fclose(file), 0);
    REFUSE(NOC_EDATA, weights_path, "safetensors");
    ck_assert_int_eq(unlink(weights_path), 0);
    REFUSE(NOC_ENOINPUT, weights_path);
    ck_assert_int_eq(unlink(manifest_path), 0);
    REFUSE(NOC_ENOINPUT, manifest_path);
}
END_TEST

START_TEST(the_hash_of_the_weights)
{
    char more[100], hex[NOC_SHA256_HEX], *data = NULL;
    size_t size;
    ck_assert_int_eq(noc_file_read(weights_path, 1 << 24, &data, &size, NULL), NOC_OK);
    ck_assert_int_eq(noc_sha256_of(data, size, hex, NULL), NOC_OK);
    free(data);
    snprintf(more, sizeof(more), "weights_sha256: %s", hex);
    write_manifest("m", more, "head_dim", "", "one");
    noc_model_free(load());
    hex[0] = hex[0] == '0' ? '1' : '0';
    snprintf(more, sizeof(more), "weights_sha256: %s", hex);
    write_manifest("m", more, "head_dim", "", "one");
    REFUSE(NOC_ECONFIG, weights_path, "weights_sha256", hex);
}
END_TEST

static void identity(char hex[65])
{
    noc_model *model = load();
    memcpy(hex, model->sha256, 65);
    ck_assert_uint_eq(strlen(hex), 64);
    noc_model_free(model);
}

static bool changed_by_little(noc_tensor *tensor)
{
    static double copy[2];
    if (strcmp(tensor->name, "segformer_decoder.linear_pred.bias") == 0) {
        memcpy(copy, tensor->data, sizeof(copy));
        copy[1] = nextafter(copy[1], 2);
        tensor->data = copy;
    }
    return true;
}

START_TEST(identity_is_what_decides_the_masks)
{
    char first[65], other[65];
    identity(first);
    write_manifest("another-name", "description: text", "head_dim", "", "one");
    identity(other);
    ck_assert_str_eq(first, other);
    write_manifest("m", "", "num_heads", "", "one");
    identity(other);
    ck_assert_str_ne(first, other);
    write_manifest("m", "", "head_dim", "{step: zscore}", "one");
    identity(other);
    ck_assert_str_ne(first, other);
    write_manifest("m", "", "head_dim", "", "two");
    identity(other);
    ck_assert_str_ne(first, other);
    write_manifest("m", "", "head_dim", "", "one\n  keep_largest: [one]");
    identity(other);
    ck_assert_str_ne(first, other);
    write_manifest("m", "", "head_dim", "", "one");
    change_weights(changed_by_little);
    identity(other);
    ck_assert_str_ne(first, other);
}
END_TEST

/* What catalogs hold. */
START_TEST(an_identity_that_stays)
{
    noc_model *model = NULL;
    ck_assert_int_eq(noc_model_load("tests/data/models/tiny", &model, NULL), NOC_OK);
    ck_assert_str_eq(model->sha256, "ac4f24460f08a5327f961db35f43fc5c81230ad61d7e53b27c5ef30b192f859a");
    noc_model_free(model);
}
END_TEST

static void write_second(const noc_network_config *config, unsigned absent)
{
    noc_error err;
    ck_assert_msg(reference_weights_write(second_path, config, absent, "", 2, &err) == NOC_OK, "%s",
                  err.text);
}

/* Every file counts, in its order, and every axis of flips. */
START_TEST(identity_of_an_ensemble)
{
    char seen[8][65], of_mirror[65];
    const char *const lists[] = {"w.safetensors", "v.safetensors", "[w.safetensors, v.safetensors]",
                                 "[v.safetensors, w.safetensors]"};
    noc_model *model;
    write_second(&network, 0);
    for (int i = 0; i < 8; i++) {
        files = lists[i % 4];
        write_manifest("m", "", "head_dim", "", "one");
        model = load();
        ck_assert_int_eq(noc_model_views(model), i % 4 < 2 ? 1 : 2);
        if (i >= 4) {
            const int views[] = {2, 4, 2 * 4, 2 * 8};
            ck_assert_int_eq(noc_model_mirror(model, (unsigned)i, NULL), NOC_OK);
            ck_assert_int_eq(noc_model_views(model), views[i % 4]);
        }
        memcpy(seen[i], model->sha256, sizeof(seen[i]));
        for (int k = 0; k < i; k++)
            ck_assert_str_ne(seen[k], seen[i]);
        if (i == 4) /* and back */
            ck_assert_int_eq(noc_model_mirror(model, 0, NULL), NOC_OK);
        if (i == 4)
            ck_assert_str_eq(model->sha256, seen[0]);
        noc_model_free(model);
    }
    /* an axis of the manifest is the same as one that is set */
    files = "w.safetensors";
    mirror = ", mirror: [x]";
    write_manifest("m", "", "head_dim", "", "one");
    identity(of_mirror);
    ck_assert_str_eq(of_mirror, seen[4]);
}
END_TEST

START_TEST(folds_that_do_not_fit)
{
    noc_network_config wider = network;
    char more[300];
    files = "[w.safetensors, v.safetensors]";
    write_manifest("m", "", "head_dim", "", "one");
    REFUSE(NOC_ENOINPUT, second_path);
    wider.decoder_dim++;
    write_second(&wider, 0);
    REFUSE(NOC_EDATA, second_path, "is [13,");
    write_second(&network, 1U << NOC_GROUP_QKV_BIAS);
    REFUSE(NOC_EDATA, second_path, weights_path, "not the same parts");
    write_second(&network, 0);
    noc_model *model = load();
    snprintf(more, sizeof(more), "weights_sha256: [%s, %s]", model->manifest->weights_sha256[1],
             model->manifest->weights_sha256[0]);
    noc_model_free(model);
    write_manifest("m", more, "head_dim", "", "one");
    REFUSE(NOC_ECONFIG, weights_path, "weights_sha256");
}
END_TEST

START_TEST(windows_it_cannot_take)
{
    noc_model *model = load();
    noc_plan *plan = NULL;
    noc_error err;
    /* Stage 2 must leave its sr ratio of 2 something to reduce: 5 -> 3 -> 2. */
    const int64_t smallest[3] = {5, 5, 5}, below[3] = {4, 5, 5};
    ck_assert_int_eq(noc_model_plan(model, 0, below, NOC_REWRITE_ALL, false, &plan, &err), NOC_ECONFIG);
    ck_assert_ptr_nonnull(strstr(err.text, "5 x 5 x 5"));
    ck_assert_ptr_null(plan);
    ck_assert_msg(noc_model_plan(model, 0, smallest, NOC_REWRITE_ALL, false, &plan, &err) == NOC_OK, "%s",
                  err.text);
    noc_plan_free(plan);
    noc_model_free(model);
}
END_TEST

START_TEST(reference_models)
{
    static const char *const names[] = {"hippocampus", "brats-untrained", "synapse-untrained"};
    static const uint64_t parameters[] = {0, 4525251, 4495150};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char path[512];
        noc_model *model = NULL;
        noc_error err;
        snprintf(path, sizeof(path), "%s/models/%s", getenv("NOC_REFERENCE_DIR"), names[i]);
        ck_assert_msg(noc_model_load(path, &model, &err) == NOC_OK, "%s", err.text);
        ck_assert(parameters[i] == 0 || parameters[i] == model->parameters);
        noc_model_free(model);
    }
}
END_TEST

static Suite *model_suite(void)
{
    Suite *suite = suite_create("model");
    TCase *models = tcase_create("models");
    tcase_set_timeout(models, 60);
    tcase_add_checked_fixture(models, make_folder, remove_folder);
    tcase_add_test(models, published_network);
    tcase_add_test(models, parameters_of_the_published_network);
    tcase_add_test(models, optional_parts);
    tcase_add_test(models, missing);
    tcase_add_test(models, unexpected);
    tcase_add_test(models, misshapen);
    tcase_add_test(models, more_than_a_sentence_holds);
    tcase_add_test(models, another_network);
    tcase_add_test(models, numbers_that_are_none);
    tcase_add_test(models, integers);
    tcase_add_test(models, negative_variance);
    tcase_add_test(models, files_that_are_missing_or_broken);
    tcase_add_test(models, the_hash_of_the_weights);
    tcase_add_test(models, identity_is_what_decides_the_masks);
    tcase_add_test(models, an_identity_that_stays);
    tcase_add_test(models, identity_of_an_ensemble);
    tcase_add_test(models, folds_that_do_not_fit);
    tcase_add_test(models, windows_it_cannot_take);
    if (getenv("NOC_REFERENCE_DIR"))
        tcase_add_test(models, reference_models);
    suite_add_tcase(suite, models);
    return suite;
}

int main(void)
{
    SRunner *runner = srunner_create(model_suite());
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
