// Counts what a GPU's memory system would do with the kernels' accesses. Build
// the kernels with -fsanitize=thread but link THIS instead of the sanitizer's
// runtime: the compiler then calls us at every load and store of the source.
// The k-th access of the lanes of a warp at one place in the code is a request.
//   shared: wavefronts against the least possible (bank conflicts)
//   global: 32-byte sectors against the least possible (coalescing)
// At its end the program prints a line a place and fails where ldmatrix or an
// asynchronous copy has bank conflicts, or more than 1.1 of the least sectors.
// EMU_THREADS must be 1. Addresses are the host compiler's view: -O1 without
// vectorising, so what nvcc would merge or keep in registers may differ.
#include "cuda_runtime.h"
#include <algorithm>
#include <cstdio>
#include <map>
#include <set>
#include <unistd.h>
#include <vector>

extern __shared__ unsigned char shared_bytes[];

struct request {
    unsigned lanes; // bits
    uintptr_t at[32];
};

struct place {
    bool shared, write;
    int size;
    long requests, cost, least;
    std::vector<request> open; /* by occurrence, of the present warp */
    unsigned seen[32];
};

static std::map<std::pair<const void *, int>, place> places; /* by code address, warp */
static std::map<const void *, place> totals;
static uint3 present_block;

// Wavefronts of one request: 4 bytes a lane go together, 8 in halves, 16 in
// quarters of a warp; the same word twice in one wavefront is free.
static int wavefronts(const request &r, int size)
{
    int group = size <= 4 ? 32 : size == 8 ? 16 : 8, total = 0;
    for (int first = 0; first < 32; first += group) {
        std::set<uintptr_t> words;
        int load[32] = {}, worst = 0;
        for (int i = first; i < first + group; i++)
            for (uintptr_t w = r.at[i] / 4; r.lanes >> i & 1 && w <= (r.at[i] + size - 1) / 4; w++)
                if (words.insert(w).second)
                    worst = std::max(worst, ++load[w % 32]);
        total += worst;
    }
    return total;
}

static void close_request(place &p, const request &r)
{
    p.requests++;
    if (p.shared) {
        p.cost += wavefronts(r, p.size);
        p.least += p.size <= 4 ? 1 : (__builtin_popcount(r.lanes) * p.size + 127) / 128;
        return;
    }
    std::set<uintptr_t> sectors, words;
    for (int i = 0; i < 32; i++) {
        if (!(r.lanes >> i & 1))
            continue;
        sectors.insert(r.at[i] / 32);
        sectors.insert((r.at[i] + p.size - 1) / 32);
        /* whole words: a __half2 may come as two accesses of 2 bytes */
        for (uintptr_t w = r.at[i] / 4; w <= (r.at[i] + p.size - 1) / 4; w++)
            words.insert(w);
    }
    p.cost += sectors.size();
    p.least += (words.size() * 4 + 31) / 32;
}

static void flush_block()
{
    for (auto &item : places) {
        place &p = item.second, &t = totals[item.first.first];
        for (request &r : p.open)
            close_request(p, r);
        t.shared = p.shared, t.write = p.write, t.size = p.size;
        t.requests += p.requests, t.cost += p.cost, t.least += p.least;
    }
    places.clear();
}

void emu_count_access(const void *at, int size, bool write, const void *code)
{
    if (!emu_in_kernel())
        return;
    bool shared = (size_t)((const unsigned char *)at - shared_bytes) < (227 << 10);
    if (!shared && !emu_is_device(at))
        return;
    if (memcmp(&present_block, &blockIdx, sizeof blockIdx)) {
        flush_block();
        present_block = blockIdx;
    }
    unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    place &p = places[{code, (int)(thread / 32)}];
    p.shared = shared, p.write = write, p.size = size;
    unsigned k = p.seen[emu_lane]++;
    if (p.open.size() <= k)
        p.open.resize(k + 1);
    p.open[k].lanes |= 1u << emu_lane;
    p.open[k].at[emu_lane] = (uintptr_t)at;
}

// ldmatrix: eight 16-byte rows of a matrix are one wavefront at best.
void emu_count_ldmatrix(emu_slot *rows, int matrices, emu_site at)
{
    static std::map<std::pair<const char *, int>, place *> by_line;
    if (emu_lane)
        return;
    place *&p = by_line[{at.file, at.line}];
    if (!p)
        p = &totals[(const void *)(intptr_t)-at.line];
    p->shared = true, p->size = 16, p->requests++;
    for (int m = 0; m < matrices; m++) {
        request r = {0xff, {}};
        for (int i = 0; i < 8; i++)
            r.at[i] = (uintptr_t)rows[8 * m + i].p[0];
        p->cost += wavefronts(r, 16);
        p->least++;
    }
}

static struct report { /* after the maps, so destroyed before them */
    ~report();
} at_end;

// 16 bytes of shared memory are ldmatrix, copies and staged sums.
static bool exceeds(const place &p)
{
    return p.shared ? p.size == 16 && p.cost > p.least : p.cost > p.least * 1.1;
}

report::~report()
{
    bool failed = false;
    flush_block();
    printf("%-10s %-6s %-5s %4s %10s %9s %9s\n", "where", "memory", "", "size", "requests", "a request",
           "least");
    for (auto &item : totals) {
        place &t = item.second;
        intptr_t code = (intptr_t)item.first;
        char where[32];
        snprintf(where, sizeof where, code < 0 ? "line %ld" : "0x%lx", code < 0 ? -code : code);
        printf("%-10s %-6s %-5s %4d %10ld %9.2f %9.2f%s\n", where, t.shared ? "shared" : "global",
               t.write ? "write" : "read", t.size, t.requests, (double)t.cost / t.requests,
               (double)t.least / t.requests, exceeds(t) ? "  <--" : "");
        failed = failed || exceeds(t);
    }
    fflush(stdout);
    if (failed)
        _exit(1);
}

extern "C" {
void __tsan_init(void)
{
}
void __tsan_func_entry(void *)
{
}
void __tsan_func_exit(void)
{
}
#define ACCESS(name, size, write)                                                                            \
    void name(void *at)                                                                                      \
    {                                                                                                        \
        emu_count_access(at, size, write, (char *)__builtin_return_address(0) - 1);                          \
    }
#define ACCESSES(size)                                                                                       \
    ACCESS(__tsan_read##size, size, false)                                                                   \
    ACCESS(__tsan_write##size, size, true)                                                                   \
    ACCESS(__tsan_unaligned_read##size, size, false)                                                         \
    ACCESS(__tsan_unaligned_write##size, size, true)
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
/* structs: uint4, float2, __half2 */
void __tsan_read_range(void *at, unsigned long size)
{
    emu_count_access(at, size, false, (char *)__builtin_return_address(0) - 1);
}
void __tsan_write_range(void *at, unsigned long size)
{
    emu_count_access(at, size, true, (char *)__builtin_return_address(0) - 1);
}
}
