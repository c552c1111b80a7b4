/* The state dict of SegFormer3D: which tensors a configuration has, and whether a file holds them. */
#include "engine/base/memory.h"
#include "engine/segformer3d.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A list that grows; after a failure nothing is added. */
typedef struct list {
    noc_expected_tensor *items;
    size_t count, capacity;
    noc_status status;
    noc_error *err;
} list;

static noc_expected_tensor *grow(list *l)
{
    if (l->status != NOC_OK)
        return NULL;
    if (l->count == l->capacity) {
        size_t capacity = l->capacity ? 2 * l->capacity : 256;
        noc_expected_tensor *items = realloc(l->items, capacity * sizeof(*items));
        if (!items) {
            l->status = noc_fail(l->err, NOC_ENOMEMORY, "no memory for the list of tensors");
            return NULL;
        }
        l->items = items;
        l->capacity = capacity;
    }
    return &l->items[l->count++];
}

/* shape ends at its first 0. */
__attribute__((format(printf, 4, 5))) static void add(list *l, noc_tensor_group group, const int shape[5],
                                                      const char *format, ...)
{
    noc_expected_tensor *tensor = grow(l);
    if (!tensor)
        return;
    *tensor = (noc_expected_tensor){.group = group};
    for (; tensor->axes < 5 && shape[tensor->axes] > 0; tensor->axes++)
        tensor->shape[tensor->axes] = shape[tensor->axes];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(tensor->name, sizeof(tensor->name), format, arguments);
    va_end(arguments);
}

#define SHAPE(...) ((const int[5]){__VA_ARGS__})

static void add_pair(list *l, noc_tensor_group group, int channels, const char *prefix, const char *name)
{
    add(l, group, SHAPE(channels), "%s.%s.weight", prefix, name);
    add(l, group, SHAPE(channels), "%s.%s.bias", prefix, name);
}

static void add_batch_norm(list *l, noc_tensor_group group, int channels, const char *prefix,
                           const char *name)
{
    add_pair(l, group, channels, prefix, name);
    add(l, group, SHAPE(channels), "%s.%s.running_mean", prefix, name);
    add(l, group, SHAPE(channels), "%s.%s.running_var", prefix, name);
}

static void add_linear(list *l, noc_tensor_group bias_group, int out, int in, const char *prefix,
                       const char *name)
{
    add(l, NOC_GROUP_REQUIRED, SHAPE(out, in), "%s.%s.weight", prefix, name);
    add(l, bias_group, SHAPE(out), "%s.%s.bias", prefix, name);
}

static void add_block(list *l, const noc_network_config *network, int stage, const char *prefix)
{
    int channels = network->embed_dims[stage], hidden = channels * network->mlp_ratios[stage];
    int ratio = network->sr_ratios[stage];
    add_pair(l, NOC_GROUP_REQUIRED, channels, prefix, "norm1");
    add_linear(l, NOC_GROUP_QKV_BIAS, channels, channels, prefix, "attention.query");
    add_linear(l, NOC_GROUP_QKV_BIAS, 2 * channels, channels, prefix, "attention.key_value");
    add_linear(l, NOC_GROUP_REQUIRED, channels, channels, prefix, "attention.proj");
    if (ratio > 1) {
        add(l, NOC_GROUP_REQUIRED, SHAPE(channels, channels, ratio, ratio, ratio), "%s.attention.sr.weight",
            prefix);
        add(l, NOC_GROUP_REQUIRED, SHAPE(channels), "%s.attention.sr.bias", prefix);
        add_pair(l, NOC_GROUP_REQUIRED, channels, prefix, "attention.sr_norm");
    }
    add_pair(l, NOC_GROUP_REQUIRED, channels, prefix, "norm2");
    add_linear(l, NOC_GROUP_REQUIRED, hidden, channels, prefix, "mlp.fc1");
    add(l, NOC_GROUP_REQUIRED, SHAPE(hidden, 1, 3, 3, 3), "%s.mlp.dwconv.dwconv.weight", prefix);
    add(l, NOC_GROUP_REQUIRED, SHAPE(hidden), "%s.mlp.dwconv.dwconv.bias", prefix);
    add_batch_norm(l, NOC_GROUP_DWCONV_NORM, hidden, prefix, "mlp.dwconv.bn");
    add_linear(l, NOC_GROUP_REQUIRED, channels, hidden, prefix, "mlp.fc2");
}

static void add_embedding(list *l, const noc_network_config *network, int stage)
{
    const int *k = network->patch_kernel[stage];
    int in = stage == 0 ? network->in_channels : network->embed_dims[stage - 1],
        out = network->embed_dims[stage];
    char prefix[64];
    snprintf(prefix, sizeof(prefix), "segformer_encoder.embed_%d", stage + 1);
    add(l, NOC_GROUP_REQUIRED, SHAPE(out, in, k[0], k[1], k[2]), "%s.patch_embeddings.weight", prefix);
    add(l, NOC_GROUP_REQUIRED, SHAPE(out), "%s.patch_embeddings.bias", prefix);
    add_pair(l, NOC_GROUP_REQUIRED, out, prefix, "norm");
}

static void add_encoder(list *l, const noc_network_config *network)
{
    for (int s = 0; s < NOC_STAGES; s++)
        add_embedding(l, network, s);
    for (int s = 0; s < NOC_STAGES; s++) {
        char prefix[64];
        for (int i = 0; i < network->depths[s]; i++) {
            snprintf(prefix, sizeof(prefix), "segformer_encoder.tf_block%d.%d", s + 1, i);
            add_block(l, network, s, prefix);
        }
        snprintf(prefix, sizeof(prefix), "norm%d", s + 1);
        add_pair(l, NOC_GROUP_REQUIRED, network->embed_dims[s], "segformer_encoder", prefix);
    }
}

static void add_decoder(list *l, const noc_network_config *network)
{
    static const char decoder[] = "segformer_decoder";
    int width = network->decoder_dim, classes = network->num_classes;
    for (int s = NOC_STAGES - 1; s >= 0; s--) {
        char prefix[64];
        snprintf(prefix, sizeof(prefix), "%s.linear_c%d", decoder, s + 1);
        add_linear(l, NOC_GROUP_REQUIRED, width, network->embed_dims[s], prefix, "proj");
        add_pair(l, NOC_GROUP_DECODER_NORM, width, prefix, "bn");
    }
    add(l, NOC_GROUP_REQUIRED, SHAPE(width, NOC_STAGES * width, 1, 1, 1), "%s.linear_fuse.0.weight", decoder);
    add_batch_norm(l, NOC_GROUP_REQUIRED, width, decoder, "linear_fuse.1");
    add(l, NOC_GROUP_REQUIRED, SHAPE(classes, width, 1, 1, 1), "%s.linear_pred.weight", decoder);
    add(l, NOC_GROUP_REQUIRED, SHAPE(classes), "%s.linear_pred.bias", decoder);
}

noc_status noc_segformer3d_tensors(const noc_network_config *network, noc_expected_tensor **tensors,
                                   size_t *count, noc_error *err)
{
    list l = {.err = err};
    add_encoder(&l, network);
    add_decoder(&l, network);
    if (l.status != NOC_OK) {
        free(l.items);
        return l.status;
    }
    *tensors = l.items;
    *count = l.count;
    return NOC_OK;
}

const char *noc_segformer3d_prefix(const noc_safetensors *weights)
{
    static const char module[] = "module.";
    if (noc_safetensors_count(weights) == 0)
        return "";
    return strncmp(noc_safetensors_item(weights, 0)->name, module, sizeof(module) - 1) == 0 ? module : "";
}

/* One sentence about everything that is wrong, as far as it goes. */
typedef struct complaint {
    char text[360];
    size_t length;
    int left_out;
} complaint;

__attribute__((format(printf, 2, 3))) static void complain(complaint *about, const char *format, ...)
{
    char part[240];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(part, sizeof(part), format, arguments);
    va_end(arguments);
    size_t length = strlen(part) + 2;
    if (about->left_out > 0 || about->length + length >= sizeof(about->text)) {
        about->left_out++;
        return;
    }
    about->length += (size_t)snprintf(about->text + about->length, sizeof(about->text) - about->length,
                                      "%s%s", about->length ? ", " : "", part);
}

static noc_status conclude(const complaint *about, const char *path, noc_error *err)
{
    if (about->length == 0 && about->left_out == 0)
        return NOC_OK;
    if (about->left_out == 0)
        return noc_fail(err, NOC_EDATA, "%s: does not fit the network: %s", path, about->text);
    return noc_fail(err, NOC_EDATA, "%s: does not fit the network: %s and %d more", path, about->text,
                    about->left_out);
}

static void write_shape(char *text, size_t size, const int64_t *shape, int axes)
{
    size_t length = (size_t)snprintf(text, size, "[");
    for (int i = 0; i < axes && length < size; i++)
        length += (size_t)snprintf(text + length, size - length, "%s%" PRId64, i ? "," : "", shape[i]);
    if (length < size)
        snprintf(text + length, size - length, "]");
}

static void check_shape(const noc_tensor *tensor, const noc_expected_tensor *expected, complaint *about)
{
    if (tensor->axes == expected->axes &&
        memcmp(tensor->shape, expected->shape, (size_t)tensor->axes * sizeof(tensor->shape[0])) == 0)
        return;
    char got[60], wanted[60];
    write_shape(got, sizeof(got), tensor->shape, tensor->axes);
    write_shape(wanted, sizeof(wanted), expected->shape, expected->axes);
    complain(about, "%s is %s instead of %s", expected->name, got, wanted);
}

/* NULL when the name does not begin with the prefix. */
static const char *without_prefix(const char *name, const char *prefix)
{
    return strncmp(name, prefix, strlen(prefix)) == 0 ? name + strlen(prefix) : NULL;
}

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), tail = strlen(end);
    return length >= tail && strcmp(text + length - tail, end) == 0;
}

static bool is_expected(const noc_expected_tensor *expected, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(expected[i].name, name) == 0)
            return true;
    return false;
}

static void check_unexpected(const noc_safetensors *weights, const char *prefix,
                             const noc_expected_tensor *expected, size_t count, complaint *about)
{
    for (size_t i = 0; i < noc_safetensors_count(weights); i++) {
        const char *full = noc_safetensors_item(weights, i)->name, *name = without_prefix(full, prefix);
        if (ends_with(full, ".num_batches_tracked") || (name && is_expected(expected, count, name)))
            continue;
        complain(about, "unexpected %s", full);
    }
}

static const noc_tensor *find_expected(const noc_safetensors *weights, const char *prefix,
                                       const noc_expected_tensor *expected)
{
    char name[sizeof(expected->name) + 16];
    snprintf(name, sizeof(name), "%s%s", prefix, expected->name);
    return noc_safetensors_find(weights, name);
}

/* A group of which nothing is there is absent as a whole, which is allowed for all but the required. */
static void check_present(const noc_safetensors *weights, const char *prefix,
                          const noc_expected_tensor *expected, size_t count, unsigned *groups,
                          complaint *about)
{
    *groups = 1U << NOC_GROUP_REQUIRED;
    for (size_t i = 0; i < count; i++)
        if (find_expected(weights, prefix, &expected[i]))
            *groups |= 1U << expected[i].group;
    for (size_t i = 0; i < count; i++) {
        const noc_tensor *tensor = find_expected(weights, prefix, &expected[i]);
        if (tensor)
            check_shape(tensor, &expected[i], about);
        else if (*groups >> expected[i].group & 1)
            complain(about, "missing %s", expected[i].name);
    }
}

static noc_status check_numbers(const noc_tensor *tensor, const char *path, noc_error *err)
{
    double numbers[512];
    const size_t all = noc_tensor_count(tensor), step = sizeof(numbers) / sizeof(numbers[0]);
    bool is_variance = ends_with(tensor->name, ".running_var");
    for (size_t first = 0; first < all; first += step) {
        size_t count = all - first < step ? all - first : step;
        noc_status status = noc_tensor_doubles(tensor, first, count, numbers, err);
        if (status != NOC_OK)
            return noc_within(err, status, "%s", path);
        for (size_t i = 0; i < count; i++) {
            if (!isfinite(numbers[i]))
                return noc_fail(err, NOC_EDATA, "%s: tensor %s holds a number that is not finite", path,
                                tensor->name);
            if (is_variance && numbers[i] < 0)
                return noc_fail(err, NOC_EDATA, "%s: tensor %s holds a negative variance", path,
                                tensor->name);
        }
    }
    return NOC_OK;
}

static noc_status check_all_numbers(const noc_safetensors *weights, const char *prefix,
                                    const noc_expected_tensor *expected, size_t count, const char *path,
                                    uint64_t *parameters, noc_error *err)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        const noc_tensor *tensor = find_expected(weights, prefix, &expected[i]);
        if (!tensor)
            continue;
        noc_status status = check_numbers(tensor, path, err);
        if (status != NOC_OK)
            return status;
        if (!ends_with(tensor->name, ".running_mean") && !ends_with(tensor->name, ".running_var"))
            sum += noc_tensor_count(tensor);
    }
    *parameters = sum;
    return NOC_OK;
}

/* The port of the network to another library has the same name and other layers. */
static noc_status check_variant(const noc_safetensors *weights, const char *prefix, const char *path,
                                noc_error *err)
{
    for (size_t i = 0; i < noc_safetensors_count(weights); i++) {
        const char *name = without_prefix(noc_safetensors_item(weights, i)->name, prefix);
        if (name && (strncmp(name, "encoders.", 9) == 0 || strncmp(name, "transformer_blocks.", 19) == 0))
            return noc_fail(err, NOC_EDATA,
                            "%s: tensor %s belongs to another network that is called SegFormer3D too (no "
                            "BatchNorm in its "
                            "feed-forward layers); its weights do not fit this one",
                            path, name);
    }
    return NOC_OK;
}

noc_status noc_segformer3d_check(const noc_network_config *network, const noc_safetensors *weights,
                                 const char *path, uint64_t *parameters, unsigned *groups, noc_error *err)
{
    const char *prefix = noc_segformer3d_prefix(weights);
    noc_expected_tensor *expected = NULL;
    size_t count;
    complaint about = {0};
    noc_status status = check_variant(weights, prefix, path, err);
    if (status == NOC_OK)
        status = noc_segformer3d_tensors(network, &expected, &count, err);
    if (status != NOC_OK)
        return status;
    check_present(weights, prefix, expected, count, groups, &about);
    check_unexpected(weights, prefix, expected, count, &about);
    status = conclude(&about, path, err);
    if (status == NOC_OK)
        status = check_all_numbers(weights, prefix, expected, count, path, parameters, err);
    free(expected);
    return status;
}
