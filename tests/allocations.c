/* The program's own allocator goes before the library's for all that is linked to it; sanitizers bring one of
 * theirs, which tells of its calls. */
#include "tests/allocations.h"

#include <stdatomic.h>

static atomic_long calls;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#include <stddef.h>

/* sanitizer/allocator_interface.h, which not every compiler's package brings. */
int __sanitizer_install_malloc_and_free_hooks(void (*malloc_hook)(const volatile void *, size_t),
                                              void (*free_hook)(const volatile void *));

static void taken(const volatile void *block, size_t size)
{
    (void)block;
    (void)size;
    atomic_fetch_add(&calls, 1);
}

static void given(const volatile void *block)
{
    (void)block;
    atomic_fetch_add(&calls, 1);
}

long allocations_count(void)
{
    static atomic_flag is_installed = ATOMIC_FLAG_INIT;

    if (!atomic_flag_test_and_set(&is_installed))
        __sanitizer_install_malloc_and_free_hooks(taken, given);
    return atomic_load(&calls);
}
#else
#include <errno.h>
#include <malloc.h>
#include <stdlib.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *block, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *block);

void *malloc(size_t size)
{
    atomic_fetch_add(&calls, 1);
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    atomic_fetch_add(&calls, 1);
    return __libc_calloc(count, size);
}

void *realloc(void *block, size_t size)
{
    atomic_fetch_add(&calls, 1);
    return __libc_realloc(block, size);
}

void *memalign(size_t alignment, size_t size)
{
    atomic_fetch_add(&calls, 1);
    return __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return memalign(alignment, size);
}

int posix_memalign(void **block, size_t alignment, size_t size)
{
    *block = memalign(alignment, size);
    return *block ? 0 : ENOMEM;
}

void free(void *block)
{
    atomic_fetch_add(&calls, block != NULL);
    __libc_free(block);
}

long allocations_count(void)
{
    return atomic_load(&calls);
}
#endif
