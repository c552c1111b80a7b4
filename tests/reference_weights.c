/* Random weights for tests; see reference_weights.h. */
#include "tests/reference_weights.h"

#include "engine/base/memory.h"
#include "engine/safetensors.h"
#include "engine/segformer3d.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

double reference_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(*state >> 11) / 4503599627370496.0 - 1;
}

static void fill(const noc_expected_tensor *expected, uint64_t *state, double *out, size_t count)
{
    size_t length = strlen(expected->name);
    bool is_variance = length > 12 && strcmp(expected->name + length - 12, ".running_var") == 0;
    bool is_norm = expected->axes == 1 && length > 7 && strcmp(expected->name + length - 7, ".weight") == 0;
    double fan_in = expected->axes > 1 ? (double)count / (double)expected->shape[0] : 4;
    for (size_t i = 0; i < count; i++) {
        double x = reference_random(state);
        out[i] = is_variance || is_norm ? 1 + x / 2 : x * sqrt(3 / fan_in);
    }
}

static size_t count_of(const noc_expected_tensor *expected)
{
    size_t count = 1;
    for (int i = 0; i < expected->axes; i++)
        count *= (size_t)expected->shape[i];
    return count;
}

/* Fills tensors[] for those that are kept; their data lie one after another in *data. */
static size_t describe(const noc_expected_tensor *expected, size_t all, unsigned absent, uint64_t seed,
                       double *data, noc_tensor *tensors)
{
    size_t kept = 0;
    uint64_t state = seed;
    for (size_t i = 0; i < all; i++) {
        size_t count = count_of(&expected[i]);
        if (absent >> expected[i].group & 1)
            continue;
        fill(&expected[i], &state, data, count);
        tensors[kept] = (noc_tensor){.name = expected[i].name,
                                     .dtype = NOC_DTYPE_F64,
                                     .axes = expected[i].axes,
                                     .data = data,
                                     .bytes = count * sizeof(double)};
        memcpy(tensors[kept].shape, expected[i].shape, sizeof(expected[i].shape));
        kept++;
        data += count;
    }
    return kept;
}

noc_status reference_weights_write(const char *path, const noc_network_config *network, unsigned absent,
                                   const char *prefix, uint64_t seed, noc_error *err)
{
    noc_expected_tensor *expected = NULL;
    size_t all = 0, numbers = 0;
    noc_status status = noc_segformer3d_tensors(network, &expected, &all, err);
    if (status != NOC_OK)
        return status;
    for (size_t i = 0; i < all; i++) {
        char name[sizeof(expected[i].name)];
        snprintf(name, sizeof(name), "%s%.70s", prefix, expected[i].name);
        memcpy(expected[i].name, name, sizeof(name));
        numbers += count_of(&expected[i]);
    }
    double *data = noc_alloc(numbers, sizeof(*data), err);
    noc_tensor *tensors = noc_alloc(all, sizeof(*tensors), err);
    status = NOC_ENOMEMORY;
    if (data && tensors) {
        size_t kept = describe(expected, all, absent, seed, data, tensors);
        status = noc_safetensors_write(path, tensors, kept, NULL, err);
    }
    free(tensors);
    free(data);
    free(expected);
    return status;
}

noc_status reference_network_plan(const noc_network_config *network, const int64_t window[3],
                                  bool keep_stages, uint64_t seed, noc_plan **plan, noc_error *err)
{
    const char *base = getenv("TMPDIR");
    char path[512];
    noc_safetensors *weights = NULL;
    snprintf(path, sizeof path, "%s/reference_weights.XXXXXX", base ? base : "/tmp");
    int fd = mkstemp(path);
    if (fd < 0)
        return noc_fail(err, NOC_EIO, "no file can be made in %s", base ? base : "/tmp");
    close(fd);
    noc_status status = reference_weights_write(path, network, 0, "", seed, err);
    if (status == NOC_OK)
        status = noc_safetensors_open(path, &weights, err);
    unlink(path);
    if (status == NOC_OK)
        status = noc_segformer3d_build(network, weights, window, plan, err);
    if (status == NOC_OK)
        status = noc_plan_rewrite(*plan, NOC_REWRITE_ALL, err);
    if (status == NOC_OK)
        status = noc_plan_arrange(*plan, keep_stages, err);
    noc_safetensors_close(weights);
    return status;
}
