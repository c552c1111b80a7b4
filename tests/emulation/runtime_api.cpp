// The part of the runtime API that the engine uses, for a make-believe device.
// Work runs at once, in the calling thread. Prototypes are the toolkit's own.
//   EMU_DEVICES  how many there are (1)
//   EMU_DRIVER   version of CUDA that the driver knows (as the toolkit); 0: none
//   EMU_FAIL     NAME:N:ERROR  the N-th call of that name, counted from 1, fails
//                with that number; with :sticky behind it everything does from
//                then on, as after an error of the hardware
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <map>
#include <mutex>
#include <time.h>
#include <vector>

struct CUstream_st {
};
struct CUevent_st {
    double at_ms;
};

/* Of the host's products of matrices (mma.cuh). */
float emu_half_value(uint16_t bits)
{
    static const std::vector<float> table = [] {
        std::vector<float> t(65536);
        for (unsigned i = 0; i < 65536; i++) {
            __half_raw raw;
            raw.x = (uint16_t)i;
            t[i] = __half2float(__half(raw));
        }
        return t;
    }();
    return table[bits];
}

static thread_local cudaError_t last_error;
static std::mutex memory_lock;
static std::map<const char *, size_t> memory; /* device allocations */

cudaError_t emu_failed(cudaError_t e)
{
    return last_error = e;
}

static int setting(const char *name, int otherwise)
{
    const char *s = getenv(name);
    return s && *s ? atoi(s) : otherwise;
}

cudaError_t emu_planned(const char *call)
{
    static const char *const plan = getenv("EMU_FAIL");
    static std::atomic<int> calls(0), stuck(0);
    char name[64];
    int number, error, read = 0;
    if (stuck)
        return emu_failed((cudaError_t)stuck.load());
    if (!plan || sscanf(plan, "%63[^:]:%d:%d%n", name, &number, &error, &read) < 3 || strcmp(name, call) ||
        ++calls != number)
        return cudaSuccess;
    if (!strcmp(plan + read, ":sticky"))
        stuck = error;
    return emu_failed((cudaError_t)error);
}

static bool on_device(const void *p, size_t size)
{
    std::lock_guard<std::mutex> hold(memory_lock);
    auto next = memory.upper_bound((const char *)p);
    if (next == memory.begin())
        return false;
    auto at = std::prev(next);
    return (const char *)p + size <= at->first + at->second;
}

bool emu_is_device(const void *p)
{
    return on_device(p, 1);
}

extern "C" {

cudaError_t cudaGetLastError(void)
{
    cudaError_t e = last_error;
    last_error = cudaSuccess;
    return e;
}

const char *cudaGetErrorString(cudaError_t e)
{
    return e == cudaErrorMemoryAllocation   ? "out of memory"
           : e == cudaErrorECCUncorrectable ? "uncorrectable ECC error encountered"
           : e                              ? "emulated failure"
                                            : "no error";
}
cudaError_t cudaGetDeviceCount(int *n)
{
    *n = setting("EMU_DEVICES", 1);
    int driver = setting("EMU_DRIVER", CUDART_VERSION);
    return driver < CUDART_VERSION ? emu_failed(cudaErrorInsufficientDriver)
           : *n == 0               ? emu_failed(cudaErrorNoDevice)
                                   : emu_planned("cudaGetDeviceCount");
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = setting("EMU_DRIVER", CUDART_VERSION);
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int d)
{
    return d >= setting("EMU_DEVICES", 1) ? emu_failed(cudaErrorInvalidDevice) : emu_planned("cudaSetDevice");
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device)
{
    *p = cudaDeviceProp();
    strcpy(p->name, "emulated on the host");
    p->major = 9;
    p->multiProcessorCount = 2;
    p->totalGlobalMem = (size_t)4 << 30;
    p->sharedMemPerBlockOptin = 227 << 10;
    p->sharedMemPerMultiprocessor = 228 << 10;
    p->warpSize = 32;
    p->uuid.bytes[15] = (char)device;
    return cudaSuccess;
}

// Whatever is left on the device was forgotten by somebody.
cudaError_t cudaDeviceReset(void)
{
    std::lock_guard<std::mutex> hold(memory_lock);
    if (!memory.empty()) {
        fprintf(stderr, "emulated GPU: %zu allocations are left at its reset\n", memory.size());
        abort();
    }
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **p, size_t size)
{
    *p = nullptr;
    if (cudaError_t planned = emu_planned("cudaMalloc"))
        return planned;
    *p = aligned_alloc(256, (size + 255) / 256 * 256);
    if (!*p)
        return emu_failed(cudaErrorMemoryAllocation);
    memset(*p, 0xff, size); /* never zeros by luck */
    std::lock_guard<std::mutex> hold(memory_lock);
    memory[(const char *)*p] = size;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    std::lock_guard<std::mutex> hold(memory_lock);
    if (p && !memory.erase((const char *)p))
        return emu_failed(cudaErrorInvalidValue);
    free(p);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **p, size_t size)
{
    *p = nullptr;
    if (cudaError_t planned = emu_planned("cudaMallocHost"))
        return planned;
    *p = malloc(size);
    return *p ? cudaSuccess : emu_failed(cudaErrorMemoryAllocation);
}

cudaError_t cudaFreeHost(void *p)
{
    free(p);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, cudaMemcpyKind kind, cudaStream_t)
{
    if (cudaError_t planned = emu_planned("cudaMemcpyAsync"))
        return planned;
    bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (on_device(to, size) != to_device || on_device(from, size) != from_device)
        return emu_failed(cudaErrorInvalidValue);
    memcpy(to, from, size);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t size, cudaStream_t)
{
    if (!on_device(p, size))
        return emu_failed(cudaErrorInvalidValue);
    memset(p, value, size);
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned)
{
    *s = new CUstream_st();
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    delete s;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t)
{
    return emu_planned("cudaStreamSynchronize");
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned)
{
    *e = new CUevent_st();
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t)
{
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    e->at_ms = t.tv_sec * 1e3 + t.tv_nsec * 1e-6;
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t)
{
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    *ms = (float)(to->at_ms - from->at_ms);
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    delete e;
    return cudaSuccess;
}
}
