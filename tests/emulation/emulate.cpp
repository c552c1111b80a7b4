// The emulated GPU: fibers, rendezvous, asynchronous copies, launches.
// Link it and runtime_api.cpp instead of libcudart.
// Compile it WITHOUT -fsanitize=thread (define EMU_TSAN for such a build): what
// it touches on behalf of a thread must not look like that thread's accesses.
//   EMU_ORDER    0 lanes and warps in order, 1 reversed, n > 1 seed of a random
//                order (also of blocks)
//   EMU_ASYNC    late (default): a copy lands at its wait; early: when issued
//   EMU_RECORD   not 0: launches are printed, not run
//   EMU_THREADS  operating system threads that share the blocks (default 1)
//   EMU_RUN      0: kernels are counted (tests/launches.h), not run
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cuda_runtime.h>
#include <deque>
#include <dlfcn.h>
#include <map>
#include <mutex>
#include <pthread.h>
#include <string>
#include <sys/mman.h>
#include <thread>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(EMU_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
enum { ASAN = 1 };
#else
enum { ASAN = 0 };
#endif
enum { STACK = 128 << 10, GUARD = 4096, CANARY = 1024 };
enum { SHARED_MAX = 227 << 10, SHARED_DEFAULT = 48 << 10 };

alignas(1024) __shared__ unsigned char shared_bytes[SHARED_MAX + CANARY];
__thread uint3 threadIdx, blockIdx;
__thread dim3 blockDim, gridDim;
__thread unsigned emu_lane;

struct async_copy {
    void *to;
    const void *from;
    size_t size, valid;
    int group;
};

static __thread struct fiber *self;

enum state { READY, AT_WARP, AT_BLOCK, EXITED };

struct emu_warp;
struct emu_block;

struct fiber {
    uint3 thread_index;
    unsigned lane;
    emu_warp *warp;
    emu_block *block;
    void *sp;
    char *stack;
    size_t stack_size;
    state now;
    unsigned mask;
    emu_site at;
    int group;
    std::vector<async_copy> copies;
    void *fake_stack, *tsan;
};

// Two sets of slots in turn: whoever is at meeting n + 2 of a mask has been at
// n + 1, where all who had to read the slots of n have arrived.
struct meeting {
    unsigned mask;
    unsigned char turn[32];
    emu_slot slot[2][32];
};

struct emu_warp {
    std::deque<meeting> meetings; /* one a mask in use, the full one first */
    unsigned ready, arrived;
    fiber *thread;
};

struct emu_block {
    std::vector<fiber> thread;
    std::vector<emu_warp> warp;
    unsigned ready_warps, arrived, exited, count;
    fiber outside; /* the scheduler: where the last fiber to end returns to */
    std::function<void()> *call;
    uint32_t random;
    char *stacks;
};

__attribute__((weak)) void emu_count_ldmatrix(emu_slot *, int, emu_site)
{
}
__attribute__((weak)) void emu_count_access(const void *, int, bool, const void *)
{
}

static unsigned setting(const char *name, unsigned otherwise)
{
    const char *s = getenv(name);
    return s ? strtoul(s, nullptr, 10) : otherwise;
}

static const unsigned order = setting("EMU_ORDER", 0);
static const bool copies_land_early = getenv("EMU_ASYNC") && !strcmp(getenv("EMU_ASYNC"), "early");

/* ---- switching stacks: 10 ns; swapcontext takes 180 (a system call) ---- */

extern "C" void emu_switch(void **save, void *to);
#if defined(__x86_64__)
asm(".pushsection .text\n.globl emu_switch\n.type emu_switch,@function\nemu_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n"
    ".size emu_switch,.-emu_switch\n.popsection\n");
enum { FRAME = 6, ENTRY = 6, SKEW = 2 }; /* words saved; where the entry point goes */
#elif defined(__aarch64__)
asm(".pushsection .text\n.globl emu_switch\n.type emu_switch,@function\nemu_switch:\n"
    "stp x19,x20,[sp,#-160]!\nstp x21,x22,[sp,#16]\nstp x23,x24,[sp,#32]\n"
    "stp x25,x26,[sp,#48]\nstp x27,x28,[sp,#64]\nstp x29,x30,[sp,#80]\n"
    "stp d8,d9,[sp,#96]\nstp d10,d11,[sp,#112]\nstp d12,d13,[sp,#128]\n"
    "stp d14,d15,[sp,#144]\nmov x9,sp\nstr x9,[x0]\nmov sp,x1\n"
    "ldp x21,x22,[sp,#16]\nldp x23,x24,[sp,#32]\nldp x25,x26,[sp,#48]\n"
    "ldp x27,x28,[sp,#64]\nldp x29,x30,[sp,#80]\nldp d8,d9,[sp,#96]\n"
    "ldp d10,d11,[sp,#112]\nldp d12,d13,[sp,#128]\nldp d14,d15,[sp,#144]\n"
    "ldp x19,x20,[sp],#160\nret\n.size emu_switch,.-emu_switch\n.popsection\n");
enum { FRAME = 20, ENTRY = 11, SKEW = 0 };
#else
#error "write emu_switch for this processor"
#endif

static void landed(fiber *f)
{
    self = f;
    threadIdx = f->thread_index;
    emu_lane = f->lane;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(f->fake_stack, nullptr, nullptr);
#endif
}

static void go(fiber *from, fiber *to)
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(from->now == EXITED ? nullptr : &from->fake_stack, to->stack,
                                   to->stack_size);
#endif
#if defined(EMU_TSAN)
    __tsan_switch_to_fiber(to->tsan, 1 /* orders nothing */);
#endif
    self = to; /* a fiber that starts finds itself here */
    emu_switch(&from->sp, to->sp);
    landed(from);
}

static unsigned choose(emu_block *b, unsigned bits)
{
    if (order == 0)
        return __builtin_ctz(bits);
    if (order == 1)
        return 31 - __builtin_clz(bits);
    b->random ^= b->random << 13, b->random ^= b->random >> 17, b->random ^= b->random << 5;
    unsigned by = b->random >> 27;
    unsigned turned = bits >> by | bits << ((32 - by) & 31);
    return (__builtin_ctz(turned) + by) & 31;
}

static void set_ready(emu_warp *w, emu_block *b, unsigned lanes)
{
    w->ready |= lanes;
    b->ready_warps |= 1u << (w - b->warp.data());
}

static void clear_ready(fiber *f)
{
    f->warp->ready &= ~(1u << f->lane);
    if (!f->warp->ready)
        f->block->ready_warps &= ~(1u << (f->warp - f->block->warp.data()));
}

[[noreturn]] static void report(emu_block *b, const char *what)
{
    static const char *const words[] = {"ready", "in a warp operation", "at __syncthreads", "exited"};
    fflush(stdout);
    fprintf(stderr, "emulated kernel: %s, block (%u,%u,%u)\n", what, blockIdx.x, blockIdx.y, blockIdx.z);
    for (size_t i = 0, first = 0; i < b->thread.size(); i++) {
        fiber &f = b->thread[first], *next = i + 1 < b->thread.size() ? &b->thread[i + 1] : nullptr;
        if (next && next->now == f.now && next->at.line == f.at.line)
            continue;
        fprintf(stderr, "  threads %zu..%zu %s", first, i, words[f.now]);
        f.now == EXITED ? fputc('\n', stderr) : fprintf(stderr, " %s:%d\n", f.at.file, f.at.line);
        first = i + 1;
    }
    abort();
}

static void leave(fiber *f)
{
    emu_block *b = f->block;
    clear_ready(f);
    if (b->ready_warps) {
        emu_warp *w = f->warp->ready && order < 2 ? f->warp : &b->warp[choose(b, b->ready_warps)];
        go(f, &w->thread[choose(b, w->ready)]);
    } else if (b->exited == b->count) {
        go(f, &b->outside);
    } else {
        report(b, "threads wait for each other for ever (divergent barrier?)");
    }
}

static void enter()
{
    fiber *f = self;
    landed(f);
#if defined(EMU_TSAN)
    __tsan_acquire(f->block);
#endif
    (*f->block->call)();
    if (f->group || !f->copies.empty())
        emu_async_wait(0);
    f->now = EXITED;
    f->block->exited++;
#if defined(EMU_TSAN)
    __tsan_release(f->block);
#endif
    leave(f);
    abort();
}

/* ---- rendezvous ---- */

static bool same(emu_site a, emu_site b)
{
    return a.line == b.line && (a.file == b.file || !strcmp(a.file, b.file));
}

static meeting *meeting_of(emu_warp *w, unsigned mask)
{
    for (meeting &m : w->meetings)
        if (m.mask == mask)
            return &m;
    w->meetings.push_back({mask, {}, {}});
    return &w->meetings.back();
}

emu_slot *emu_warp_meet(unsigned mask, const void *give, size_t size, void (*work)(emu_slot *),
                        [[maybe_unused]] bool orders_memory, emu_site at)
{
    fiber *f = self;
    emu_warp *w = f->warp;
    meeting *m = meeting_of(w, mask);
    unsigned turn = m->turn[f->lane] ^= 1;
    emu_slot *slot = m->slot[turn];
    emu_slot mine;
    if (size)
        memcpy(&mine, give, size);
    slot[f->lane] = mine;
    f->mask = mask;
    f->at = at;
    f->now = AT_WARP;
    w->arrived |= 1u << f->lane;
#if defined(EMU_TSAN)
    if (orders_memory)
        __tsan_release(w);
#endif
    if (!(mask >> f->lane & 1))
        report(f->block, "a lane outside its own mask");
    if ((w->arrived & mask) == mask) {
        for (int i = 0; i < 32; i++) {
            fiber *other = &w->thread[i];
            if (!(mask >> i & 1))
                continue;
            if (other->mask != mask || !same(other->at, at) || m->turn[i] != turn)
                report(f->block, "lanes of a warp in different operations");
            other->now = READY;
        }
        w->arrived &= ~mask;
        if (work)
            work(slot);
        set_ready(w, f->block, mask);
    } else {
        leave(f);
    }
#if defined(EMU_TSAN)
    if (orders_memory)
        __tsan_acquire(w);
#endif
    return slot;
}

void emu_block_meet(emu_site at)
{
    fiber *f = self;
    emu_block *b = f->block;
    f->at = at;
    f->now = AT_BLOCK;
#if defined(EMU_TSAN)
    __tsan_release(b);
#endif
    if (++b->arrived == b->count) {
        b->arrived = 0;
        for (fiber &other : b->thread)
            if (!same(other.at, at))
                report(b, "threads at different __syncthreads");
        for (fiber &other : b->thread) {
            other.now = READY;
            set_ready(other.warp, b, 1u << other.lane);
        }
    } else {
        leave(f);
    }
#if defined(EMU_TSAN)
    __tsan_acquire(b);
#endif
}

/* ---- asynchronous copies ---- */

static void land(const async_copy &c)
{
    /* Library calls, not inlined, so the race detector sees them as this lane's. */
    memcpy(c.to, c.from, c.valid);
    memset((char *)c.to + c.valid, 0, c.size - c.valid);
}

bool emu_in_kernel(void)
{
    return self && self->block;
}

void emu_async_copy(void *to, const void *from, size_t size, size_t valid)
{
    fiber *f = self;
    if ((uintptr_t)to % size || (uintptr_t)from % size)
        report(f->block, "asynchronous copy not aligned to its size");
    const char *code = (const char *)__builtin_return_address(0);
    emu_count_access(to, (int)size, true, code);
    if (valid)
        emu_count_access(from, (int)valid, false, code - 1);
    async_copy c = {to, from, size, valid, f->group};
    if (copies_land_early)
        land(c);
    else
        f->copies.push_back(c);
}

void emu_async_commit(void)
{
    self->group++;
}

void emu_async_wait(int groups_left)
{
    fiber *f = self;
    size_t n = 0;
    while (n < f->copies.size() && f->copies[n].group < f->group - groups_left)
        land(f->copies[n++]);
    f->copies.erase(f->copies.begin(), f->copies.begin() + n);
}

/* ---- blocks ---- */

static emu_block *block_create(unsigned count)
{
    emu_block *b = new emu_block();
    b->thread = std::vector<fiber>(count);
    b->warp = std::vector<emu_warp>(count / 32);
    b->count = count;
    size_t each = STACK + GUARD;
    b->stacks = (char *)mmap(nullptr, each * count, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (unsigned i = 0; i < count; i++) {
        fiber *f = &b->thread[i];
        f->lane = i % 32;
        f->warp = &b->warp[i / 32];
        f->block = b;
        f->stack = b->stacks + each * i + GUARD;
        f->stack_size = STACK;
        mprotect(f->stack - GUARD, GUARD, PROT_NONE);
        if (i % 32 == 0)
            f->warp->thread = f;
#if defined(EMU_TSAN)
        f->tsan = __tsan_create_fiber(0);
#endif
    }
#if defined(EMU_TSAN)
    b->outside.tsan = __tsan_get_current_fiber();
#endif
#if defined(__SANITIZE_ADDRESS__)
    pthread_attr_t a;
    pthread_getattr_np(pthread_self(), &a);
    pthread_attr_getstack(&a, (void **)&b->outside.stack, &b->outside.stack_size);
    pthread_attr_destroy(&a);
#endif
    return b;
}

static void block_free(emu_block *b)
{
#if defined(EMU_TSAN)
    for (fiber &f : b->thread)
        __tsan_destroy_fiber(f.tsan);
#endif
    munmap(b->stacks, (STACK + GUARD) * (size_t)b->count);
    delete b;
}

// Kept from launch to launch: making fibers is slow, above all for the race detector.
struct kept_blocks {
    std::map<unsigned, emu_block *> by_threads;
    ~kept_blocks()
    {
        for (auto &item : by_threads)
            block_free(item.second);
    }
};

static emu_block *block_of(dim3 s, std::function<void()> *call)
{
    static thread_local kept_blocks kept;
    unsigned count = s.x * s.y * s.z;
    emu_block *&b = kept.by_threads[count];
    if (!b)
        b = block_create(count);
    b->call = call;
    b->random = order * 2654435761u + 1;
    for (unsigned i = 0; i < count; i++)
        b->thread[i].thread_index = {i % s.x, i / s.x % s.y, i / s.x / s.y};
    return b;
}

static void block_run(emu_block *b, uint3 index, size_t shared_size)
{
    /* Not a number in every format: reading shared memory before writing shows. */
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(shared_bytes, sizeof shared_bytes);
#endif
    size_t end = min(shared_size + CANARY, sizeof shared_bytes);
    memset(shared_bytes, 0xff, end);
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(shared_bytes + shared_size, sizeof shared_bytes - shared_size);
#endif
    blockIdx = index;
    b->arrived = b->exited = 0;
    for (fiber &f : b->thread) {
        f.group = 0;
        f.now = READY;
        f.at = emu_site(nullptr, 0);
        f.fake_stack = nullptr;
        f.warp->arrived = 0;
        f.warp->meetings.resize(1);
        f.warp->meetings[0].mask = ~0u;
        f.warp->meetings[0].turn[f.lane] = 0;
        void **top = (void **)(f.stack + STACK - 256 - f.lane * 128); /* other cache sets */
        f.sp = top - FRAME - SKEW;
        ((void **)f.sp)[ENTRY] = (void *)enter;
        set_ready(f.warp, b, 1u << f.lane);
    }
#if defined(EMU_TSAN)
    __tsan_release(b);
#endif
    fiber *first = &b->warp[choose(b, b->ready_warps)].thread[choose(b, ~0u)];
    b->outside.now = READY;
    go(&b->outside, first);
#if defined(EMU_TSAN)
    __tsan_acquire(b);
#endif
    for (size_t i = shared_size; !ASAN && i < end; i++)
        if (shared_bytes[i] != 0xff)
            report(b, "a write beyond the dynamic shared memory of the launch");
}

static void run_blocks(cudaLaunchConfig_t c, std::function<void()> call, std::atomic<unsigned> *next,
                       unsigned count)
{
    emu_block *b = block_of(c.blockDim, &call);
    blockDim = c.blockDim;
    gridDim = c.gridDim;
    unsigned step = 1; /* coprime to count: a shuffled order of the blocks */
    for (unsigned p : {7919u, 104729u, 1299709u})
        if (order > 0 && count % p)
            step = p;
    unsigned i;
    while ((i = (*next)++) < count) {
        unsigned n = (uint64_t)i * step % count, x = c.gridDim.x, y = c.gridDim.y;
        block_run(b, {n % x, n / x % y, n / x / y}, c.dynamicSmemBytes);
    }
}

static void run_grid(cudaLaunchConfig_t c, std::function<void()> call)
{
    unsigned count = c.gridDim.x * c.gridDim.y * c.gridDim.z;
    unsigned workers = min(setting("EMU_THREADS", 1), count);
    std::atomic<unsigned> next(0);
    std::vector<std::thread> others;
    for (unsigned i = 1; i < workers; i++)
        others.emplace_back(run_blocks, c, call, &next, count);
    run_blocks(c, call, &next, count);
    for (std::thread &t : others)
        t.join();
}

static std::mutex shared_lock;
static std::map<const void *, size_t> shared_allowed;

cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute a, int v)
{
    if (a == cudaFuncAttributeMaxDynamicSharedMemorySize) {
        if (v > SHARED_MAX)
            return emu_failed(cudaErrorInvalidValue);
        std::lock_guard<std::mutex> hold(shared_lock);
        shared_allowed[kernel] = v;
    }
    return cudaSuccess;
}

// Of each type of kernel.
static std::map<std::string, int> launches;
static std::mutex launches_lock;

extern "C" int emu_launches(const char *parameter)
{
    std::lock_guard<std::mutex> hold(launches_lock);
    int count = 0;
    for (const auto &of : launches)
        count += of.first.find(parameter) != std::string::npos ? of.second : 0;
    return count;
}

static void count_launch(const char *type)
{
    std::lock_guard<std::mutex> hold(launches_lock);
    launches[type]++;
}

cudaError_t emu_launch(const cudaLaunchConfig_t *config, const void *kernel, const char *type,
                       std::function<void()> call)
{
    if (cudaError_t planned = emu_planned("cudaLaunchKernelEx"))
        return planned;
    cudaLaunchConfig_t c = *config;
    dim3 g = c.gridDim, s = c.blockDim;
    size_t allowed = SHARED_DEFAULT;
    {
        std::lock_guard<std::mutex> hold(shared_lock);
        auto set = shared_allowed.find(kernel);
        allowed = set == shared_allowed.end() ? allowed : set->second;
    }
    unsigned threads = s.x * s.y * s.z;
    if (!g.x || !g.y || !g.z || g.y > 65535 || g.z > 65535 || !threads || threads > 1024 || threads % 32 ||
        c.dynamicSmemBytes > allowed)
        return emu_failed(cudaErrorInvalidConfiguration);
    return emu_submit(c.stream, [c, call, type] {
        count_launch(type);
        if (setting("EMU_RUN", 1))
            run_grid(c, call);
    });
}

bool emu_is_recording()
{
    static const unsigned is_recording = setting("EMU_RECORD", 0);
    return is_recording;
}

cudaError_t emu_record(const cudaLaunchConfig_t *c, const void *kernel, const std::string &arguments)
{
    Dl_info known = {};
    dladdr(kernel, &known);
    printf("launch\t%s\t%u\t%u\t%u\t%u\t%zu\t", known.dli_sname ? known.dli_sname : "?", c->gridDim.x,
           c->gridDim.y, c->gridDim.z, c->blockDim.x, c->dynamicSmemBytes);
    for (unsigned char byte : arguments)
        printf("%02x", byte);
    printf("\n");
    return cudaSuccess;
}
