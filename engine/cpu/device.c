/* The CPU device: a pool of threads and the kernels of one instruction set, chosen when it opens. */
#include "engine/cpu/cpu.h"

#include "engine/base/cpus.h"
#include "engine/base/memory.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

static const noc_cpu_kernels *const instruction_sets[] = {
/* best first */
#if defined(__x86_64__)
    &noc_cpu_amx_kernels,
    &noc_cpu_avx512_kernels,
    &noc_cpu_avx2_kernels,
#endif
    &noc_cpu_portable_kernels,
};
enum { INSTRUCTION_SETS = sizeof instruction_sets / sizeof instruction_sets[0], THREADS_MAX = 1024 };

/* CPUID leaf 7: bit 22 of EDX is AMX-BF16, bit 24 AMX-TILE. */
static bool has_tiles(void)
{
#if defined(__x86_64__)
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && d >> 22 & 1 && d >> 24 & 1;
#else
    return false;
#endif
}

#if defined(__x86_64__)
static bool tiles_are_granted;

static void ask_for_tiles(void)
{
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    tiles_are_granted = has_tiles() && syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

/* The system gives tiles to a process that asks, and it may refuse, or not know them. One answer holds for
 * the process, so that all its devices choose alike. */
static bool may_use_tiles(void)
{
    static pthread_once_t is_asked = PTHREAD_ONCE_INIT;
    pthread_once(&is_asked, ask_for_tiles);
    return tiles_are_granted;
}

/* AVX512-FP16, which every CPU with AMX has: bit 23 of EDX. */
static bool has_f16(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 23 & 1);
}
#else
static bool may_use_tiles(void)
{
    return false;
}
#endif

static bool cpu_has(const noc_cpu_kernels *kernels)
{
#if defined(__x86_64__)
    if (kernels == &noc_cpu_amx_kernels)
        return cpu_has(&noc_cpu_avx512_kernels) && __builtin_cpu_supports("avx512bf16") &&
               __builtin_cpu_supports("avx512vbmi") && has_f16() && may_use_tiles();
    if (kernels == &noc_cpu_avx512_kernels)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (kernels == &noc_cpu_avx2_kernels)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return kernels == &noc_cpu_portable_kernels;
}

static bool is_named(const char *isa)
{
    return isa && isa[0];
}

/* A set that computes in bf16 is for those who want bf16, or the best choice; others that name it get what it
 * stands on. */
static bool fits(const noc_cpu_kernels *kernels, const char *isa, noc_precision precision)
{
    bool is_bf16 = precision == NOC_PRECISION_BF16 || precision == NOC_PRECISION_AUTO;
    if (kernels->precision == NOC_PRECISION_BF16 && !is_bf16)
        return false;
    if (!is_named(isa))
        return true;
    bool is_base = strcmp(isa, "amx") == 0 && strcmp(kernels->name, "avx512") == 0 && !is_bf16;
    return is_base || strcmp(isa, kernels->name) == 0;
}

static noc_status refuse(const char *isa, noc_error *err)
{
    static const char *const known[][2] = {{"amx", "AMX with bf16 and AVX-512 with f16"},
                                           {"avx512", "AVX-512 (F, BW, VL and DQ)"},
                                           {"avx2", "AVX2 with FMA"}};
    if (strcmp(isa, "amx") == 0 && has_tiles() && !may_use_tiles())
        return noc_fail(err, NOC_EUNAVAILABLE, "the system does not let this process use AMX");
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(isa, known[i][0]) == 0)
            return noc_fail(err, NOC_EUNAVAILABLE, "this CPU has no %s", known[i][1]);
    return noc_fail(err, NOC_EUSAGE,
                    "unknown instruction set \"%s\": amx, avx512, avx2 and portable are known", isa);
}

static noc_status choose_kernels(const char *isa, noc_precision precision, const noc_cpu_kernels **kernels,
                                 noc_error *err)
{
    if (!is_named(isa))
        isa = getenv("NOC_CPU_ISA");
    for (int i = 0; i < INSTRUCTION_SETS; i++)
        if (fits(instruction_sets[i], isa, precision) && cpu_has(instruction_sets[i])) {
            *kernels = instruction_sets[i];
            return NOC_OK;
        }
    return refuse(isa, err);
}

static noc_precision cpu_precision(const noc_device_options *options)
{
    const noc_cpu_kernels *kernels = NULL;
    return choose_kernels(options->isa, options->precision, &kernels, NULL) == NOC_OK ? kernels->precision
                                                                                      : NOC_PRECISION_F32;
}

static void read_name(char *name, size_t size)
{
    char line[256];
    struct utsname system;
    snprintf(name, size, "%s", uname(&system) == 0 ? system.machine : "CPU");
    FILE *file = fopen("/proc/cpuinfo", "r");
    if (!file)
        return;
    while (fgets(line, sizeof line, file)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon)
            continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(name, size, "%s", colon + 1 + strspn(colon + 1, " \t"));
        break;
    }
    fclose(file);
}

static void cpu_close(noc_device *device)
{
    if (!device)
        return;
    noc_pool_free(device->pool);
    free(device->gather_room);
    free(device);
}

static noc_status cpu_open(const noc_device_options *options, noc_device **device, noc_error *err)
{
    if (options->index != 0)
        return noc_fail(err, NOC_EUNAVAILABLE, "there is one CPU device, not a number %d", options->index);
    if (options->threads < 0 || options->threads > THREADS_MAX)
        return noc_fail(err, NOC_EUSAGE, "%d threads: 1 to %d can be had", options->threads, THREADS_MAX);
    const noc_cpu_kernels *kernels = NULL;
    noc_status status = choose_kernels(options->isa, options->precision, &kernels, err);
    if (status != NOC_OK)
        return status;
    noc_device *made = noc_alloc_zeroed(1, sizeof *made, err);
    if (!made)
        return NOC_ENOMEMORY;
    made->kernels = kernels;
    read_name(made->name, sizeof made->name);
    int threads = options->threads > 0 ? options->threads : noc_cpus_usable();
    status = noc_pool_create(threads < THREADS_MAX ? threads : THREADS_MAX, &made->pool, err);
    if (status != NOC_OK) {
        cpu_close(made);
        return status;
    }
    *device = made;
    return NOC_OK;
}

static void cpu_describe(const noc_device *device, noc_device_info *info)
{
    memset(info, 0, sizeof *info);
    snprintf(info->kind, sizeof info->kind, "cpu");
    snprintf(info->name, sizeof info->name, "%s", device->name);
    snprintf(info->isa, sizeof info->isa, "%s", device->kernels->name);
    snprintf(info->precision, sizeof info->precision, "%s", noc_precision_name(device->kernels->precision));
    snprintf(info->library, sizeof info->library, "nocturne kernels 1");
    info->threads = noc_pool_threads(device->pool);
}

typedef struct flushed {
    const noc_cpu_kernels *kernels;
    void (*piece)(void *argument, int i, int thread);
    void *argument;
} flushed;

/* Denormals cost a hundred times a normal product. Bits must not depend on the thread: within a piece all of
 * MXCSR is set (exceptions masked, rounding to nearest, FTZ, DAZ), and the thread's own mode comes back
 * afterwards. */
static void flushed_piece(void *argument, int i, int thread)
{
    const flushed *f = argument;
#if defined(__x86_64__)
    unsigned mode = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(0x9fc0);
    if (f->kernels->enter)
        f->kernels->enter();
    f->piece(f->argument, i, thread);
    if (f->kernels->leave)
        f->kernels->leave();
    __builtin_ia32_ldmxcsr(mode);
#else
    f->piece(f->argument, i, thread);
#endif
}

void noc_cpu_run(noc_device *device, int count, void (*piece)(void *argument, int i, int thread),
                 void *argument)
{
    flushed f = {device->kernels, piece, argument};
    noc_pool_run(device->pool, count, flushed_piece, &f);
}

/* Not flushed: this is preparation, which promises the reference's bits. It computes in double, where nothing
 * that a scan holds is denormal; only the rounding to f32 of values under 1e-38 could be. */
static void cpu_host_loop(noc_device *device, int count, void (*piece)(void *argument, int i, int thread),
                          void *argument)
{
    noc_pool_run(device->pool, count, piece, argument);
}

static int cpu_count(void)
{
    return 1;
}

/* Windows run one after the other: more of them only take memory. */
static int cpu_default_batch(noc_device *device, const noc_plan *plan)
{
    (void)device;
    (void)plan;
    return 1;
}

static noc_status cpu_buffer_create(noc_device *device, size_t bytes, noc_buffer **buffer, noc_error *err)
{
    (void)device;
    noc_buffer *made = noc_alloc_zeroed(1, sizeof *made, err);
    if (!made)
        return NOC_ENOMEMORY;
    made->bytes = bytes;
    made->data = noc_alloc(bytes, 1, err);
    if (!made->data) {
        free(made);
        return NOC_ENOMEMORY;
    }
    *buffer = made;
    return NOC_OK;
}

static void cpu_buffer_free(noc_buffer *buffer)
{
    if (!buffer)
        return;
    free(buffer->data);
    free(buffer);
}

const noc_device_ops noc_cpu_ops = {
    .kind = "cpu",
    .build = "own kernels: avx512, avx2, portable",
    .count = cpu_count,
    .open = cpu_open,
    .precision = cpu_precision,
    .close = cpu_close,
    .describe = cpu_describe,
    .default_batch = cpu_default_batch,
    .network_create = noc_cpu_network_create,
    .network_free = noc_cpu_network_free,
    .network_memory = noc_cpu_network_memory,
    .network_run = noc_cpu_network_run,
    .network_read = noc_cpu_network_read,
    .network_seconds = noc_cpu_network_seconds,
    .batch_seconds = noc_cpu_batch_seconds,
    .limits = noc_cpu_limits,
    .host_loop = cpu_host_loop,
    .buffer_create = cpu_buffer_create,
    .buffer_free = cpu_buffer_free,
    .gather = noc_cpu_gather,
    .gather_reserve = noc_cpu_gather_reserve,
};
