/* The pool. A loop is announced under the lock by a new generation number; pieces are taken by an atomic counter; the caller waits until every thread has left the loop, so that the next
 * one finds all of them idle. Waiting threads spin for a moment, since loops follow each other within microseconds, and then sleep. */
#include "engine/base/pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { SPINS = 2000 };

typedef struct member {
    noc_pool *pool;
    pthread_t thread;
    int number;
} member;

struct noc_pool {
    int threads;
    int started;          /* threads besides the caller */
    member *members;
    pthread_mutex_t lock;
    pthread_cond_t has_work, is_idle;
    atomic_uint generation;
    atomic_int busy;      /* members still in the loop */
    atomic_int next;      /* piece */
    atomic_bool must_end;
    int count;
    void (*piece)(void *argument, int i, int thread);
    void *argument;
};

static void take_pieces(noc_pool *pool, int thread)
{
    for (int i = atomic_fetch_add(&pool->next, 1); i < pool->count; i = atomic_fetch_add(&pool->next, 1))
        pool->piece(pool->argument, i, thread);
}

static void pause_cpu(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* Waits for a generation other than `seen`; returns it. */
static unsigned wait_for_work(noc_pool *pool, unsigned seen)
{
    unsigned now = seen;
    for (int i = 0; i < SPINS && now == seen && !atomic_load(&pool->must_end); i++) {
        pause_cpu();
        now = atomic_load(&pool->generation);
    }
    if (now != seen)
        return now;
    pthread_mutex_lock(&pool->lock);
    while ((now = atomic_load(&pool->generation)) == seen && !atomic_load(&pool->must_end))
        pthread_cond_wait(&pool->has_work, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
    return now;
}

static void *serve(void *argument)
{
    member *m = argument;
    noc_pool *pool = m->pool;
    unsigned seen = 0;
    for (;;) {
        seen = wait_for_work(pool, seen);
        if (atomic_load(&pool->must_end))
            return NULL;
        take_pieces(pool, m->number);
        if (atomic_fetch_sub(&pool->busy, 1) == 1) {
            pthread_mutex_lock(&pool->lock);
            pthread_cond_signal(&pool->is_idle);
            pthread_mutex_unlock(&pool->lock);
        }
    }
}

static bool start_members(noc_pool *pool)
{
    for (int i = 1; i < pool->threads; i++) {
        member *m = &pool->members[i - 1];
        *m = (member){.pool = pool, .number = i};
        if (pthread_create(&m->thread, NULL, serve, m) != 0)
            return false;
        pool->started++;
    }
    return true;
}

noc_status noc_pool_create(int threads, noc_pool **pool, noc_error *err)
{
    noc_pool *p = calloc(1, sizeof *p);
    if (!p || !(p->members = calloc((size_t)threads, sizeof *p->members))) {
        free(p);
        return noc_fail(err, NOC_ENOMEMORY, "no memory for a pool of %d threads", threads);
    }
    p->threads = threads;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->has_work, NULL);
    pthread_cond_init(&p->is_idle, NULL);
    if (!start_members(p)) {
        noc_pool_free(p);
        return noc_fail(err, NOC_ENOMEMORY, "only some of %d threads could be started", threads);
    }
    *pool = p;
    return NOC_OK;
}

void noc_pool_free(noc_pool *pool)
{
    if (!pool)
        return;
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->must_end, true);
    pthread_cond_broadcast(&pool->has_work);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < pool->started; i++)
        pthread_join(pool->members[i].thread, NULL);
    pthread_cond_destroy(&pool->is_idle);
    pthread_cond_destroy(&pool->has_work);
    pthread_mutex_destroy(&pool->lock);
    free(pool->members);
    free(pool);
}

int noc_pool_threads(const noc_pool *pool)
{
    return pool->threads;
}

static void wait_for_members(noc_pool *pool)
{
    for (int i = 0; i < SPINS && atomic_load(&pool->busy) > 0; i++)
        pause_cpu();
    if (atomic_load(&pool->busy) == 0)
        return;
    pthread_mutex_lock(&pool->lock);
    while (atomic_load(&pool->busy) > 0)
        pthread_cond_wait(&pool->is_idle, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

void noc_pool_run(noc_pool *pool, int count, void (*piece)(void *argument, int i, int thread), void *argument)
{
    pool->piece = piece;
    pool->argument = argument;
    pool->count = count;
    atomic_store(&pool->next, 0);
    bool is_parallel = pool->started > 0 && count > 1;
    if (is_parallel) {
        atomic_store(&pool->busy, pool->started);
        pthread_mutex_lock(&pool->lock);
        atomic_fetch_add(&pool->generation, 1);
        pthread_cond_broadcast(&pool->has_work);
        pthread_mutex_unlock(&pool->lock);
    }
    take_pieces(pool, 0);
    if (is_parallel)
        wait_for_members(pool);
}
