#include "engine/base/queue.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

struct noc_queue {
    pthread_mutex_t lock;
    pthread_cond_t has_item, has_room;
    size_t capacity, size, first;
    bool is_closed;
    void *items[];
};

noc_status noc_queue_create(size_t capacity, noc_queue **queue, noc_error *err)
{
    pthread_condattr_t monotonic;
    noc_queue *q = calloc(1, sizeof *q + capacity * sizeof(void *));
    if (!q)
        return noc_fail(err, NOC_ENOMEMORY, "no memory for a queue of %zu", capacity);
    q->capacity = capacity;
    pthread_mutex_init(&q->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&q->has_item, &monotonic);
    pthread_cond_init(&q->has_room, &monotonic);
    pthread_condattr_destroy(&monotonic);
    *queue = q;
    return NOC_OK;
}

void noc_queue_free(noc_queue *queue)
{
    if (!queue)
        return;
    pthread_cond_destroy(&queue->has_room);
    pthread_cond_destroy(&queue->has_item);
    pthread_mutex_destroy(&queue->lock);
    free(queue);
}

/* With the lock held and room there. */
static void add(noc_queue *queue, void *item)
{
    queue->items[(queue->first + queue->size++) % queue->capacity] = item;
    pthread_cond_signal(&queue->has_item);
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
    bool is_open = !queue->is_closed;
    if (is_open)
        add(queue, item);
    pthread_mutex_unlock(&queue->lock);
    return is_open;
}

bool noc_queue_try_put(noc_queue *queue, void *item)
{
    pthread_mutex_lock(&queue->lock);
    bool fits = queue->size < queue->capacity && !queue->is_closed;
    if (fits)
        add(queue, item);
    pthread_mutex_unlock(&queue->lock);
    return fits;
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

void *noc_queue_take_within(noc_queue *queue, double seconds)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    long ns = until.tv_nsec + (long)((seconds - (double)(time_t)seconds) * 1e9);
    until.tv_sec += (time_t)seconds + ns / 1000000000;
    until.tv_nsec = ns % 1000000000;
    pthread_mutex_lock(&queue->lock);
    while (queue->size == 0 && !queue->is_closed)
        if (pthread_cond_timedwait(&queue->has_item, &queue->lock, &until) == ETIMEDOUT)
            break;
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
