/* A bounded first-in first-out queue of pointers between threads. */
#ifndef NOC_BASE_QUEUE_H
#define NOC_BASE_QUEUE_H

#include "engine/base/error.h"

#include <stddef.h>

typedef struct noc_queue noc_queue;

noc_status noc_queue_create(size_t capacity, noc_queue **queue, noc_error *err);
/* The items still in it are the caller's to free before. */
void noc_queue_free(noc_queue *queue);

/* Waits while full. False when the queue was closed: the item stays the caller's. */
bool noc_queue_put(noc_queue *queue, void *item);
bool noc_queue_try_put(noc_queue *queue, void *item);
/* Waits while empty. NULL when closed and empty. */
void *noc_queue_take(noc_queue *queue);
/* NULL at once when empty. */
void *noc_queue_try_take(noc_queue *queue);
/* As take, at most that long. */
void *noc_queue_take_within(noc_queue *queue, double seconds);
/* Wakes all; nothing more can be put, what is inside can still be taken. */
void noc_queue_close(noc_queue *queue);
size_t noc_queue_size(noc_queue *queue);

#endif
