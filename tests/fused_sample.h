/* Tensors of both half precision types for the tests of the CUDA kernels: the same numbers on the host, in
 * double, and on the device. */
#ifndef NOC_TESTS_FUSED_SAMPLE_H
#define NOC_TESTS_FUSED_SAMPLE_H

#include "engine/cuda/fused.h"

#include <check.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static const noc_cuda_type both_types[] = {NOC_CUDA_F16, NOC_CUDA_BF16};

static inline double element_value(noc_cuda_type type, uint16_t bits)
{
    if (type == NOC_CUDA_F16) {
        int exponent = bits >> 10 & 31, fraction = bits & 1023;
        double v = exponent == 31  ? (fraction ? NAN : INFINITY)
                   : exponent == 0 ? ldexp(fraction, -24)
                                   : ldexp(fraction + 1024, exponent - 25);
        return bits >> 15 ? -v : v;
    }
    uint32_t wide = (uint32_t)bits << 16;
    float f;
    memcpy(&f, &wide, 4);
    return (double)f;
}

/* The nearest element; v is within the type's range. */
static inline uint16_t element_bits(noc_cuda_type type, float v)
{
    if (type == NOC_CUDA_F16) {
        double size = fabs((double)v);
        int exponent = size < ldexp(1, -14) ? -14 : ilogb(size);
        return (uint16_t)((v < 0 ? 0x8000 : 0) + ((exponent + 14) << 10) +
                          (int)nearbyint(ldexp(size, 10 - exponent)));
    }
    uint32_t wide;
    memcpy(&wide, &v, 4);
    return (uint16_t)((wide + 0x7fff + (wide >> 16 & 1)) >> 16);
}

/* A number in (-spread, spread); always the same ones in one test. */
static inline float next_random(uint32_t *seed, double spread)
{
    *seed = *seed * 1664525 + 1013904223;
    return (float)(((*seed >> 8) / 8388608.0 - 1) * spread);
}

typedef struct tensor {
    size_t count;
    double *values; /* of the host */
    void *device;   /* elements, or f32 */
} tensor;

/* Done when it returns. */
static inline void copy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
    ck_assert_int_eq(cudaMemcpyAsync(to, from, bytes, kind, NULL), cudaSuccess);
    ck_assert_int_eq(cudaStreamSynchronize(NULL), cudaSuccess);
}

static inline void *device_copy(const void *from, size_t bytes)
{
    void *to = NULL;
    ck_assert_int_eq(cudaMalloc(&to, bytes), cudaSuccess);
    if (from)
        copy(to, from, bytes, cudaMemcpyHostToDevice);
    return to;
}

static inline tensor tensor_random(noc_cuda_type type, size_t count, double spread, uint32_t seed)
{
    tensor t = {count, malloc(count * sizeof(double)), NULL};
    uint16_t *bits = malloc(count * sizeof *bits);
    for (size_t i = 0; i < count; i++) {
        bits[i] = element_bits(type, next_random(&seed, spread));
        t.values[i] = element_value(type, bits[i]);
    }
    t.device = device_copy(bits, count * sizeof *bits);
    free(bits);
    return t;
}

static inline tensor tensor_random_f32(size_t count, double spread, uint32_t seed)
{
    tensor t = {count, malloc(count * sizeof(double)), NULL};
    float *f = malloc(count * sizeof *f);
    for (size_t i = 0; i < count; i++)
        t.values[i] = (double)(f[i] = next_random(&seed, spread));
    t.device = device_copy(f, count * sizeof *f);
    free(f);
    return t;
}

/* Room for `count` results of element_bytes each, and what they must become. */
static inline tensor tensor_result(size_t count, size_t element_bytes)
{
    return (tensor){count, calloc(count, sizeof(double)), device_copy(NULL, count * element_bytes)};
}

static inline void tensor_free(tensor *t)
{
    ck_assert_int_eq(cudaFree(t->device), cudaSuccess);
    free(t->values);
}

/* The largest difference, in units of the type's spacing at the expected value, or at `floor` if larger. */
static inline double worst_ulp(noc_cuda_type type, const tensor *t, double floor)
{
    uint16_t *bits = malloc(t->count * sizeof *bits);
    double worst = 0, unit = type == NOC_CUDA_F16 ? 1.0 / 1024 : 1.0 / 128;
    ck_assert_int_eq(cudaStreamSynchronize(NULL), cudaSuccess);
    copy(bits, t->device, t->count * sizeof *bits, cudaMemcpyDeviceToHost);
    for (size_t i = 0; i < t->count; i++) {
        double e =
            fabs(element_value(type, bits[i]) - t->values[i]) / (unit * fmax(fabs(t->values[i]), floor));
        worst = e <= worst ? worst : e; /* keeps a NaN */
    }
    free(bits);
    return worst;
}

static inline double worst_f32(const tensor *t)
{
    float *f = malloc(t->count * sizeof *f);
    double worst = 0;
    ck_assert_int_eq(cudaStreamSynchronize(NULL), cudaSuccess);
    copy(f, t->device, t->count * sizeof *f, cudaMemcpyDeviceToHost);
    for (size_t i = 0; i < t->count; i++) {
        double e = fabs((double)f[i] - t->values[i]);
        worst = e <= worst ? worst : e;
    }
    free(f);
    return worst;
}

/* Whether the first `count` elements of both are the same bits. */
static inline bool is_same(const void *a, const void *b, size_t bytes)
{
    void *x = malloc(bytes), *y = malloc(bytes);
    ck_assert_int_eq(cudaStreamSynchronize(NULL), cudaSuccess);
    copy(x, a, bytes, cudaMemcpyDeviceToHost);
    copy(y, b, bytes, cudaMemcpyDeviceToHost);
    bool same = memcmp(x, y, bytes) == 0;
    free(x);
    free(y);
    return same;
}

static inline double expected_activation(double v, noc_cuda_activation activation)
{
    if (activation == NOC_CUDA_GELU)
        return 0.5 * v * (1 + erf(v * sqrt(0.5)));
    return activation == NOC_CUDA_RELU ? fmax(v, 0) : v;
}

/* A row of `count` values, normalised. */
static inline void expect_normed(const double *in, double *out, int count, double eps)
{
    double mean = 0, variance = 0;
    for (int i = 0; i < count; i++)
        mean += in[i] / count;
    for (int i = 0; i < count; i++)
        variance += (in[i] - mean) * (in[i] - mean) / count;
    for (int i = 0; i < count; i++)
        out[i] = (in[i] - mean) / sqrt(variance + eps);
}

static inline int run_suite(const char *name, const TTest *const tests[], int count)
{
    Suite *suite = suite_create(name);
    TCase *all = tcase_create(name);
    tcase_set_timeout(all, 600);
    for (int i = 0; i < count; i++)
        tcase_add_test(all, tests[i]);
    suite_add_tcase(suite, all);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#endif
