/* What this machine can do at most with the device's threads and kernels: arithmetic in registers, and a copy
 * of more than a core's own caches hold. The best of many short passes counts. */
#include "engine/cpu/cpu.h"

#include "engine/base/clock.h"
#include "engine/base/memory.h"

#include <stdlib.h>

#define MEASURE_S 0.15
enum {
    PIECES_A_THREAD = 4,
    ROUNDS = 20000,         /* of arithmetic, a piece: below a millisecond */
    COPY_FLOATS = 16 << 20, /* 64 MiB, about the arena of a large network */
    COPY_PIECES = 256,
    PIECE_FLOATS = COPY_FLOATS / COPY_PIECES,
};

/* Fewest seconds that one loop of `count` pieces takes. */
static double best_pass(noc_device *device, int count, void (*piece)(void *argument, int i, int thread),
                        void *argument)
{
    noc_cpu_run(device, count, piece, argument); /* threads and pages come to life */
    double begin = noc_clock_monotonic(), before = begin, now, best = 0;
    do {
        noc_cpu_run(device, count, piece, argument);
        now = noc_clock_monotonic();
        best = best == 0 || now - before < best ? now - before : best;
        before = now;
    } while (now - begin < MEASURE_S);
    return best;
}

typedef struct arithmetic {
    double (*kernel)(int rounds, float *sink);
    double flop; /* of a piece */
} arithmetic;

static void arithmetic_piece(void *argument, int i, int thread)
{
    arithmetic *a = argument;
    float sink = 0.5f;
    (void)thread;
    double flop = a->kernel(ROUNDS, &sink) * ROUNDS;
    if (i == 0)
        a->flop = flop;
}

static double flops_of(noc_device *device, double (*kernel)(int rounds, float *sink))
{
    arithmetic a = {.kernel = kernel};
    int pieces = PIECES_A_THREAD * noc_pool_threads(device->pool);
    double seconds = best_pass(device, pieces, arithmetic_piece, &a);
    return a.flop * pieces / seconds;
}

typedef struct copy {
    const noc_cpu_kernels *kernels;
    float *from, *to;
} copy;

static void copy_piece(void *argument, int i, int thread)
{
    const copy *c = argument;
    size_t at = (size_t)i * PIECE_FLOATS;
    (void)thread;
    c->kernels->activate(c->from + at, c->to + at, PIECE_FLOATS, NOC_ACTIVATION_NONE);
}

static noc_status measure_copy(noc_device *device, double *bytes_per_second, noc_error *err)
{
    copy c = {.kernels = device->kernels,
              .from = noc_alloc_zeroed(COPY_FLOATS, sizeof(float), err),
              .to = noc_alloc(COPY_FLOATS, sizeof(float), err)};
    noc_status status = c.from && c.to ? NOC_OK : NOC_ENOMEMORY;
    if (status == NOC_OK)
        *bytes_per_second =
            2.0 * COPY_FLOATS * sizeof(float) / best_pass(device, COPY_PIECES, copy_piece, &c);
    free(c.from);
    free(c.to);
    return status;
}

noc_status noc_cpu_limits(noc_device *device, noc_device_limits *limits, noc_error *err)
{
    const noc_cpu_kernels *kernels = device->kernels;
    noc_device_limits l;
    noc_status status = measure_copy(device, &l.bytes_per_second, err);
    if (status != NOC_OK)
        return status;
    l.vector_flops = flops_of(device, kernels->peak_vectors);
    l.product_flops = kernels->peak_products == kernels->peak_vectors
                          ? l.vector_flops
                          : flops_of(device, kernels->peak_products);
    *limits = l;
    return NOC_OK;
}
