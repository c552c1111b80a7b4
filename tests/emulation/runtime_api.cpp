// The part of the runtime API that the engine uses, for a make-believe device.
// Work runs at once, in the calling thread; while a stream is captured it is
// kept for the graph. Prototypes are the toolkit's own.
//   EMU_DEVICES  how many there are (1); CUDA_VISIBLE_DEVICES is obeyed
//   EMU_DRIVER   version of CUDA that the driver knows (as the toolkit); 0: none
//   EMU_MEMORY   KiB of its memory that can be had (4 GiB)
//   EMU_COPIED   file that gets a line with the bytes copied to it when it is reset
//   EMU_FAIL     NAME:N:ERROR  the N-th call of that name, counted from 1, fails
//                with that number; with :sticky behind it everything does from
//                then on, as after an error of the hardware
//   EMU_FAIL_DEVICE  only while this device is the calling thread's
#include "faults.h"
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <map>
#include <mutex>
#include <string>
#include <time.h>
#include <vector>

typedef std::vector<std::function<void()>> work_list;
struct CUstream_st {
    bool is_captured, is_refused; /* by a call that no capture bears */
    work_list work;
};
struct CUevent_st {
    double at_ms;
};
struct CUgraph_st {
    work_list work;
};
struct CUgraphExec_st {
    work_list work;
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
static thread_local int device; /* the calling thread's, of all there are */
static thread_local cudaStream_t captured;
static std::atomic<int> objects(0); /* streams, events, graphs, blocks of pinned memory */
static std::mutex memory_lock;
static std::map<const char *, size_t> memory; /* device allocations */
static size_t memory_used;
static std::atomic<size_t> copied; /* bytes, to the device */

cudaError_t emu_failed(cudaError_t e)
{
    return last_error = e;
}

static int setting(const char *name, int otherwise)
{
    const char *s = getenv(name);
    return s && *s ? atoi(s) : otherwise;
}

static std::string fail_plan = getenv("EMU_FAIL") ? getenv("EMU_FAIL") : "";
static std::atomic<int> calls(0), stuck(0), failures(0);

void emu_fail(const char *plan)
{
    fail_plan = plan ? plan : "";
    calls = stuck = failures = 0;
}

int emu_failures(void)
{
    return failures;
}

cudaError_t emu_planned(const char *call)
{
    const char *plan = fail_plan.c_str();
    char name[64];
    int number, error, read = 0;
    if (setting("EMU_FAIL_DEVICE", device) != device)
        return cudaSuccess;
    if (stuck)
        return emu_failed((cudaError_t)stuck.load());
    if (sscanf(plan, "%63[^:]:%d:%d%n", name, &number, &error, &read) < 3 || strcmp(name, call) ||
        ++calls != number)
        return cudaSuccess;
    failures++;
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

cudaError_t emu_submit(cudaStream_t stream, std::function<void()> work)
{
    if (stream && stream->is_captured)
        stream->work.push_back(work);
    else
        work();
    return cudaSuccess;
}

/* What allocates or waits ends a capture of its thread. */
static cudaError_t planned_outside(const char *call)
{
    if (!captured)
        return emu_planned(call);
    captured->is_refused = true;
    return emu_failed(cudaErrorStreamCaptureUnsupported);
}

/* The devices that CUDA_VISIBLE_DEVICES shows, up to the first that does not exist. */
static std::vector<int> visible_devices(void)
{
    std::vector<int> shown;
    int count = setting("EMU_DEVICES", 1);
    const char *list = getenv("CUDA_VISIBLE_DEVICES");
    for (int i = 0; !list && i < count; i++)
        shown.push_back(i);
    for (const char *at = list; at && *at; at += *at == ',') {
        char uuid[48], *end = nullptr;
        size_t length = strcspn(at, ",");
        int found = count;
        for (int i = 0; i < count; i++) {
            snprintf(uuid, sizeof uuid, "GPU-00000000-0000-0000-0000-%012x", i);
            if (length > 4 && length < sizeof uuid && !strncmp(at, uuid, length) && found == count)
                found = i;
        }
        if (*at >= '0' && *at <= '9')
            found = (int)strtol(at, &end, 10);
        if (found >= count || (end && end != at + length))
            break;
        shown.push_back(found);
        at += length;
    }
    return shown;
}

template <class T> static cudaError_t make(T **made, T value, const char *call)
{
    *made = nullptr;
    if (cudaError_t planned = emu_planned(call))
        return planned;
    *made = new T(std::move(value));
    objects++;
    return cudaSuccess;
}

template <class T> static cudaError_t destroy(T *made)
{
    delete made;
    objects--;
    return cudaSuccess;
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
    *n = (int)visible_devices().size();
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
    std::vector<int> shown = visible_devices();
    if (d < 0 || d >= (int)shown.size())
        return emu_failed(cudaErrorInvalidDevice);
    device = shown[d];
    return emu_planned("cudaSetDevice");
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int d)
{
    std::vector<int> shown = visible_devices();
    if (d < 0 || d >= (int)shown.size())
        return emu_failed(cudaErrorInvalidDevice);
    *p = cudaDeviceProp();
    strcpy(p->name, "emulated on the host");
    p->major = 9;
    p->multiProcessorCount = 2;
    p->totalGlobalMem = (size_t)setting("EMU_MEMORY", 4 << 20) << 10;
    p->sharedMemPerBlockOptin = 227 << 10;
    p->sharedMemPerMultiprocessor = 228 << 10;
    p->warpSize = 32;
    p->uuid.bytes[15] = (char)shown[d];
    return emu_planned("cudaGetDeviceProperties");
}

// Whatever is left on the device was forgotten by somebody.
cudaError_t cudaDeviceReset(void)
{
    std::lock_guard<std::mutex> hold(memory_lock);
    if (!memory.empty() || objects) {
        fprintf(stderr, "emulated GPU: %zu allocations and %d objects are left at its reset\n", memory.size(),
                objects.load());
        abort();
    }
    FILE *f = getenv("EMU_COPIED") ? fopen(getenv("EMU_COPIED"), "a") : nullptr;
    if (f) {
        fprintf(f, "%zu\n", copied.load());
        fclose(f);
    }
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *left, size_t *total)
{
    if (cudaError_t planned = emu_planned("cudaMemGetInfo"))
        return planned;
    std::lock_guard<std::mutex> hold(memory_lock);
    *total = (size_t)setting("EMU_MEMORY", 4 << 20) << 10;
    *left = memory_used < *total ? *total - memory_used : 0;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **p, size_t size)
{
    *p = nullptr;
    if (cudaError_t planned = planned_outside("cudaMalloc"))
        return planned;
    *p = aligned_alloc(256, (size + 255) / 256 * 256);
    if (!*p)
        return emu_failed(cudaErrorMemoryAllocation);
    memset(*p, 0xff, size); /* never zeros by luck */
    std::lock_guard<std::mutex> hold(memory_lock);
    memory[(const char *)*p] = size;
    memory_used += size;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    std::lock_guard<std::mutex> hold(memory_lock);
    auto at = memory.find((const char *)p);
    if (p && at == memory.end())
        return emu_failed(cudaErrorInvalidValue);
    if (p) {
        memory_used -= at->second;
        memory.erase(at);
    }
    free(p);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **p, size_t size)
{
    *p = nullptr;
    if (cudaError_t planned = planned_outside("cudaMallocHost"))
        return planned;
    *p = malloc(size);
    if (!*p)
        return emu_failed(cudaErrorMemoryAllocation);
    objects++;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p)
{
    objects -= p != nullptr;
    free(p);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, cudaMemcpyKind kind, cudaStream_t s)
{
    if (cudaError_t planned = emu_planned("cudaMemcpyAsync"))
        return planned;
    bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (on_device(to, size) != to_device || on_device(from, size) != from_device)
        return emu_failed(cudaErrorInvalidValue);
    copied += to_device && !from_device ? size : 0;
    return emu_submit(s, [=] { memcpy(to, from, size); });
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t size, cudaStream_t s)
{
    if (!on_device(p, size))
        return emu_failed(cudaErrorInvalidValue);
    return emu_submit(s, [=] { memset(p, value, size); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned)
{
    return make(s, CUstream_st(), "cudaStreamCreateWithFlags");
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    return destroy(s);
}

cudaError_t cudaStreamSynchronize(cudaStream_t)
{
    return planned_outside("cudaStreamSynchronize");
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode)
{
    if (cudaError_t planned = emu_planned("cudaStreamBeginCapture"))
        return planned;
    s->is_captured = true;
    captured = s;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g)
{
    work_list work;
    work.swap(s->work);
    bool is_refused = s->is_refused;
    s->is_captured = s->is_refused = false;
    captured = nullptr;
    *g = nullptr;
    return is_refused ? emu_failed(cudaErrorStreamCaptureInvalidated)
                      : make(g, CUgraph_st{std::move(work)}, "cudaStreamEndCapture");
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long)
{
    return make(x, CUgraphExec_st{g->work}, "cudaGraphInstantiateWithFlags");
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t)
{
    if (cudaError_t planned = emu_planned("cudaGraphLaunch"))
        return planned;
    for (std::function<void()> &work : x->work)
        work();
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    return destroy(g);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x)
{
    return destroy(x);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned)
{
    return make(e, CUevent_st(), "cudaEventCreateWithFlags");
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t)
{
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    e->at_ms = t.tv_sec * 1e3 + t.tv_nsec * 1e-6;
    return emu_planned("cudaEventRecord");
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
    return destroy(e);
}
}
