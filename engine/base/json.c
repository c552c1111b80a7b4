/* jansson calls text that it had no memory for wrong text; its allocator knows better. */
#include "engine/base/json.h"

#include <pthread.h>
#include <stdlib.h>

static _Thread_local bool has_failed;

static void *allocate(size_t size)
{
    void *block = malloc(size);
    has_failed |= !block;
    return block;
}

static void watch_allocator(void)
{
    json_set_alloc_funcs(allocate, free);
}

json_t *noc_json_load(const char *text, size_t size, size_t flags, json_error_t *at, bool *is_memory)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_allocator);
    has_failed = false;
    json_t *root = json_loadb(text, size, flags, at);
    *is_memory = has_failed;
    if (has_failed) { /* it may have gone on without a letter */
        json_decref(root);
        root = NULL;
    }
    return root;
}
