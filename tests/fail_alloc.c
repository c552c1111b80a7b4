/* The process's allocator with a counter before it. */
#include "tests/fail_alloc.h"

#include <check.h>
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { WHOLE = 64 }; /* a whole run so often; every next try goes beyond the last failure anyway */

/* Called while a sanitizer still prepares itself, and by it. */
#define UNCHECKED __attribute__((no_sanitize("address", "undefined", "thread")))

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define COUNTS_LIVE 0 /* the sanitizer's own strdup and the like pass by; it finds leaks itself */
#else
#define COUNTS_LIVE 1
#endif

static atomic_long countdown, live; /* countdown 0: nothing is to fail; 1: the next one */
static atomic_size_t limit;
static atomic_bool stays_out, happened;
static _Thread_local bool is_spared;

void fail_alloc(long n, bool is_for_good)
{
    stays_out = is_for_good;
    happened = false;
    countdown = n;
}

bool fail_alloc_happened(void)
{
    return happened;
}

void fail_alloc_above(size_t bytes)
{
    happened = false;
    limit = bytes;
}

static void *(*real_malloc)(size_t);
static void *(*real_calloc)(size_t, size_t);
static void *(*real_realloc)(void *, size_t);
static void *(*real_aligned_alloc)(size_t, size_t);
static int (*real_posix_memalign)(void **, size_t, size_t);
static void (*real_free)(void *);
static int (*real_getattr)(pthread_t, pthread_attr_t *);

/* The allocator's own functions: at the first allocation, before there are threads. */
UNCHECKED static void find_real(void)
{
    if (real_free)
        return;
    *(void **)&real_malloc = dlsym(RTLD_NEXT, "malloc");
    *(void **)&real_calloc = dlsym(RTLD_NEXT, "calloc");
    *(void **)&real_realloc = dlsym(RTLD_NEXT, "realloc");
    *(void **)&real_aligned_alloc = dlsym(RTLD_NEXT, "aligned_alloc");
    *(void **)&real_posix_memalign = dlsym(RTLD_NEXT, "posix_memalign");
    *(void **)&real_getattr = dlsym(RTLD_NEXT, "pthread_getattr_np");
    *(void **)&real_free = dlsym(RTLD_NEXT, "free");
}

UNCHECKED static bool must_fail(size_t bytes)
{
    find_real();
    if (is_spared)
        return false;
    bool must = limit > 0 && bytes >= limit;
    long left = countdown;
    while (left > 0 && !(left == 1 && stays_out) &&
           !atomic_compare_exchange_weak(&countdown, &left, left - 1))
        continue;
    must |= left == 1;
    if (must) {
        happened = true;
        errno = ENOMEM;
    }
    return must;
}

UNCHECKED static void *counted(void *block)
{
    live += block != NULL;
    return block;
}

UNCHECKED void *malloc(size_t size)
{
    return must_fail(size) ? NULL : counted(real_malloc(size));
}

UNCHECKED void *calloc(size_t count, size_t size)
{
    return must_fail(count * size) ? NULL : counted(real_calloc(count, size));
}

UNCHECKED void *realloc(void *block, size_t size)
{
    if (must_fail(size))
        return NULL;
    void *grown = real_realloc(block, size);
    live += !block && grown;
    live -= block && size == 0;
    return grown;
}

UNCHECKED void *aligned_alloc(size_t alignment, size_t size)
{
    return must_fail(size) ? NULL : counted(real_aligned_alloc(alignment, size));
}

UNCHECKED int posix_memalign(void **block, size_t alignment, size_t size)
{
    if (must_fail(size))
        return ENOMEM;
    int code = real_posix_memalign(block, alignment, size);
    live += code == 0;
    return code;
}

UNCHECKED void free(void *block)
{
    find_real();
    live -= block != NULL;
    real_free(block);
}

/* What a sanitizer asks about each new thread's stack, and cannot do without. */
UNCHECKED int pthread_getattr_np(pthread_t thread, pthread_attr_t *attributes)
{
    find_real();
    is_spared = true;
    int code = real_getattr(thread, attributes);
    is_spared = false;
    return code;
}

void fail_alloc_claim(const char *file, int line, const char *claim)
{
    fail_alloc(0, false);
    ck_abort_msg("%s:%d: does not hold: %s", file, line, claim);
}

/* One try. Blocks left behind. */
static long try_one(fail_alloc_run run, void *argument, long n, bool is_for_good)
{
    noc_error err = {.status = NOC_OK};
    long before = live;
    fail_alloc(n, is_for_good);
    noc_status status = run(argument, &err);
    bool has_failed = happened;
    fail_alloc(0, false);
    happened = has_failed;
    if (has_failed && status != NOC_OK) {
        ck_assert_msg(err.status == status && err.text[0], "allocation %ld: %s without a sentence", n,
                      noc_status_name(status));
        ck_assert_msg(status == NOC_ENOMEMORY, "allocation %ld: %s: %s", n, noc_status_name(status),
                      err.text);
    } else {
        ck_assert_msg(status == NOC_OK, "allocation %ld: %s", n, err.text);
    }
    return COUNTS_LIVE ? live - before : 0;
}

long fail_alloc_each(fail_alloc_run run, void *argument, bool is_for_good)
{
    long n = 0;
    do {
        n++;
        /* the first time for what libraries set up once, which libcrypto does not survive without memory */
        if (n % WHOLE == 1)
            try_one(run, argument, 0, false);
        /* what a library keeps for the next time it keeps once */
        ck_assert_msg(try_one(run, argument, n, is_for_good) <= 0 ||
                          try_one(run, argument, n, is_for_good) <= 0,
                      "allocation %ld leaks", n);
    } while (happened);
    return n - 1;
}
