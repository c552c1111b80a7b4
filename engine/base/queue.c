/* The queue: a ring under one lock. Its times are those of the clock that never goes back. */
#include "engine/base/queue.h"

#include "engine/base/memory.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

struct noc_queue {
    pthread_mutex_t lock;
    pthread_cond_t has_item, has_room;
    size_t capacity, size, first;
    bool is_closed;
    void **items;
};

noc_status noc_queue_create(size_t capacity, noc_queue **queue, noc_error *err)
{
    assert(capacity >= 1);
    noc_queue *made = noc_alloc_zeroed(1, sizeof *made, err);
    void **items = noc_alloc_zeroed(capacity, sizeof *items, err);
    if (!made || !items) {
        free(made);
        free(items);
        return NOC_ENOMEMORY;
    }
    made->items = items;
    made->capacity = capacity;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&made->lock, NULL);
    pthread_cond_init(&made->has_item, &monotonic);
    pthread_cond_init(&made->has_room, &monotonic);
    pthread_condattr_destroy(&monotonic);
    *queue = made;
    return NOC_OK;
}

void noc_queue_free(noc_queue *queue)
{
    if (!queue)
        return;
    pthread_cond_destroy(&queue->has_room);
    pthread_cond_destroy(&queue->has_item);
    pthread_mutex_destroy(&queue->lock);
    free(queue->items);
    free(queue);
}

/* With the lock held; false when closed or full. */
static bool add(noc_queue *queue, void *item)
{
    if (queue->is_closed || queue->size == queue->capacity)
        return false;
    queue->items[(queue->first + queue->size) % queue->capacity] = item;
    queue->size++;
    pthread_cond_signal(&queue->has_item);
    return true;
}

/* With the lock held; NULL when empty. */
static void *remove_first(noc_queue *queue)
{
    if (queue->size == 0)
        return NULL;
    void *item = queue->items[queue->first];
    queue->first = (queue->first + 1) % queue->capacity;
    queue->size--;
    pthread_cond_signal(&queue->has_room);
    return item;
}

bool noc_queue_put(noc_queue *queue, void *item)
{
    pthread_mutex_lock(&queue->lock);
    while (queue->size == queue->capacity && !queue->is_closed)
        pthread_cond_wait(&queue->has_room, &queue->lock);
    bool is_in = add(queue, item);
    pthread_mutex_unlock(&queue->lock);
    return is_in;
}

bool noc_queue_try_put(noc_queue *queue, void *item)
{
    pthread_mutex_lock(&queue->lock);
    bool is_in = add(queue, item);
    pthread_mutex_unlock(&queue->lock);
    return is_in;
}

void *noc_queue_take(noc_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    while (queue->size == 0 && !queue->is_closed)
        pthread_cond_wait(&queue->has_item, &queue->lock);
    void *item = remove_first(queue);
    pthread_mutex_unlock(&queue->lock);
    return item;
}

void *noc_queue_try_take(noc_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    void *item = remove_first(queue);
    pthread_mutex_unlock(&queue->lock);
    return item;
}

/* The moment that many seconds from now; a time beyond ten years counts as that. */
static struct timespec moment_after(double seconds)
{
    const double longest = 10 * 365.25 * 86400;
    double wait = seconds > 0 ? (seconds < longest ? seconds : longest) : 0;
    struct timespec moment;

    clock_gettime(CLOCK_MONOTONIC, &moment);
    time_t whole = (time_t)wait;
    long ns = moment.tv_nsec + (long)((wait - (double)whole) * 1e9);
    moment.tv_sec += whole + ns / 1000000000;
    moment.tv_nsec = ns % 1000000000;
    return moment;
}

void *noc_queue_take_within(noc_queue *queue, double seconds)
{
    struct timespec until = moment_after(seconds);
    int waited = 0;

    pthread_mutex_lock(&queue->lock);
    while (queue->size == 0 && !queue->is_closed && waited != ETIMEDOUT)
        waited = pthread_cond_timedwait(&queue->has_item, &queue->lock, &until);
    void *item = remove_first(queue);
    pthread_mutex_unlock(&queue->lock);
    return item;
}

void noc_queue_close(noc_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    queue->is_closed = true;
    pthread_cond_broadcast(&queue->has_item);
    pthread_cond_broadcast(&queue->has_room);
    pthread_mutex_unlock(&queue->lock);
}

size_t noc_queue_size(noc_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    size_t size = queue->size;
    pthread_mutex_unlock(&queue->lock);
    return size;
}
