// Stands in for the toolkit's cuda_runtime.h when a kernel source is compiled
// for the host: g++ -x c++ -I emulation -I $CUDA/include. Types, enums and
// prototypes come from the toolkit's own C headers, so signatures are checked;
// emulate.cpp defines the functions. Threads of a block are fibers.
#pragma once
#define NOC_EMULATED 1
// At block scope thread_local implies static: one copy an OS thread, and an OS
// thread runs one block at a time, so this is exactly "one copy a block".
#undef __shared__
#define __shared__ thread_local
#undef __launch_bounds__
#define __launch_bounds__(...)
#include <cuda_runtime_api.h>
#include <vector_functions.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <tuple>
#include <typeinfo>
#include <utility>

using std::max;
using std::min;

// Variables, not macros: cudaLaunchConfig_t has members of the same names.
// threadIdx is set at every switch of fibers, the others at every block.
extern __thread uint3 threadIdx, blockIdx;
extern __thread dim3 blockDim, gridDim;
extern __thread unsigned emu_lane;
constexpr int warpSize = 32;

// A call site, filled in by the compiler at the kernel's own line.
struct emu_site {
    const char *file;
    int line;
    emu_site(const char *f = __builtin_FILE(), int l = __builtin_LINE()) : file(f), line(l)
    {
    }
};

union emu_slot {
    uint32_t u[12];
    float f[12];
    const void *p[6];
};

// All lanes of mask meet; the last to come runs work on the lanes' slots; each
// gets the 32 slots back, valid until its second next meeting.
emu_slot *emu_warp_meet(unsigned mask, const void *give, size_t size, void (*work)(emu_slot *),
                        bool orders_memory, emu_site at);
void emu_block_meet(emu_site at);
cudaError_t emu_launch(const cudaLaunchConfig_t *config, const void *kernel, const char *type,
                       std::function<void()> call);
/* With EMU_RECORD set, launches are not run but printed: kernel, grid, block, dynamic shared memory,
 * arguments. */
bool emu_is_recording();
cudaError_t emu_record(const cudaLaunchConfig_t *config, const void *kernel, const std::string &arguments);
bool emu_is_device(const void *p);
bool emu_in_kernel(void);
void emu_count_ldmatrix(emu_slot *rows, int matrices, emu_site at); /* counters.cpp, where it is linked */
void emu_count_access(const void *at, int size, bool write, const void *code);
void emu_async_copy(void *to, const void *from, size_t size, size_t valid);
void emu_async_commit(void);
void emu_async_wait(int groups_left);
cudaError_t emu_submit(cudaStream_t stream, std::function<void()> work); /* now, or with the graph */
cudaError_t emu_failed(cudaError_t e);     /* remembers it for cudaGetLastError */
cudaError_t emu_planned(const char *call); /* the failure that EMU_FAIL plans for this call, else success */

static inline void __syncthreads(emu_site at = {})
{
    emu_block_meet(at);
}

static inline void __syncwarp(unsigned mask = 0xffffffffu, emu_site at = {})
{
    emu_warp_meet(mask, nullptr, 0, nullptr, true, at);
}

template <class T> static inline T emu_shuffle(unsigned mask, T v, unsigned source, emu_site at)
{
    T r;
    emu_slot *s = emu_warp_meet(mask, &v, sizeof v, nullptr, false, at);
    memcpy(&r, &s[source & 31], sizeof r);
    return r;
}

template <class T>
static inline T __shfl_sync(unsigned mask, T v, int source, int width = 32, emu_site at = {})
{
    unsigned lane = emu_lane, base = lane & ~(width - 1u);
    return emu_shuffle(mask, v, base + (source & (width - 1)), at);
}

template <class T>
static inline T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32, emu_site at = {})
{
    unsigned lane = emu_lane, from = lane ^ bits;
    unsigned end = (lane & ~(width - 1u)) + width;
    return emu_shuffle(mask, v, from < end ? from : lane, at);
}

template <class T>
static inline T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32, emu_site at = {})
{
    unsigned lane = emu_lane;
    return emu_shuffle(mask, v, (lane & (width - 1u)) >= by ? lane - by : lane, at);
}

template <class T>
static inline T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32, emu_site at = {})
{
    unsigned lane = emu_lane;
    bool inside = (lane & (width - 1u)) + by < (unsigned)width;
    return emu_shuffle(mask, v, inside ? lane + by : lane, at);
}

static inline unsigned __ballot_sync(unsigned mask, int predicate, emu_site at = {})
{
    unsigned bits = 0;
    uint32_t vote = predicate != 0;
    emu_slot *s = emu_warp_meet(mask, &vote, sizeof vote, nullptr, false, at);
    for (int lane = 0; lane < 32; lane++)
        if (mask >> lane & 1)
            bits |= s[lane].u[0] << lane;
    return bits;
}

static inline int __any_sync(unsigned mask, int predicate, emu_site at = {})
{
    return __ballot_sync(mask, predicate, at) != 0;
}

static inline int __all_sync(unsigned mask, int predicate, emu_site at = {})
{
    return __ballot_sync(mask, predicate, at) == mask;
}

template <class T> static inline T atomicAdd(T *p, T v)
{
    T old, sum;
    __atomic_load(p, &old, __ATOMIC_RELAXED);
    do
        sum = old + v;
    while (!__atomic_compare_exchange(p, &old, &sum, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}

template <class T> static inline T atomicMax(T *p, T v)
{
    T old;
    __atomic_load(p, &old, __ATOMIC_RELAXED);
    while (old < v && !__atomic_compare_exchange(p, &old, &v, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
    return old;
}

template <class T> static inline T __ldg(const T *p)
{
    return *p;
}

static inline float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}
#define __expf(x) expf(x) /* glibc has a function of this name */
static inline float __fdividef(float x, float y)
{
    return x / y;
}
static inline float __frcp_rn(float x)
{
    return 1.0f / x;
}
static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}
// Rounded one by one, whatever the compiler may join elsewhere.
static inline double __dadd_rn(double a, double b)
{
    volatile double r = a + b;
    return r;
}
static inline double __dsub_rn(double a, double b)
{
    volatile double r = a - b;
    return r;
}
static inline double __dmul_rn(double a, double b)
{
    volatile double r = a * b;
    return r;
}
static inline double __ddiv_rn(double a, double b)
{
    volatile double r = a / b;
    return r;
}
static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}
static inline unsigned __float_as_uint(float x)
{
    unsigned u;
    memcpy(&u, &x, 4);
    return u;
}
static inline float __uint_as_float(unsigned u)
{
    float x;
    memcpy(&x, &u, 4);
    return x;
}

/* As a device has them: each at a multiple of its alignment. */
template <class T> static inline void emu_pack(std::string &arguments, const T &argument)
{
    arguments.resize((arguments.size() + alignof(T) - 1) / alignof(T) * alignof(T));
    arguments.append((const char *)&argument, sizeof argument);
}

template <typename... P, typename... A>
static inline cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(P...),
                                             A &&...args)
{
    std::tuple<P...> copy(std::forward<A>(args)...);
    if (emu_is_recording()) {
        std::string arguments;
        std::apply([&arguments](const P &...p) { (emu_pack(arguments, p), ...); }, copy);
        return emu_record(config, (const void *)kernel, arguments);
    }
    return emu_launch(config, (const void *)kernel, typeid(kernel).name(),
                      [kernel, copy] { std::apply(kernel, copy); });
}

template <class T> static inline cudaError_t cudaFuncSetAttribute(T *kernel, cudaFuncAttribute a, int v)
{
    return cudaFuncSetAttribute((const void *)kernel, a, v);
}
