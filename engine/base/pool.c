/* The pool. A loop has a number; the ticket holds the number of the loop in its upper half and the next piece
 * in its lower half, so that a thread which wakes late can never take a piece of a loop that it has not read.
 * What always holds: the fields of a loop change only under the lock and only while no piece of the former
 * loop is running; the caller leaves when all pieces have ended, and waits for no thread that took none.
 * Waiting threads spin for a moment, since the loops of a network follow each other within microseconds, and
 * then sleep. */
#include "engine/base/pool.h"

#include "engine/base/cpus.h"
#include "engine/base/memory.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Some 100 microseconds, so that threads stay awake between the loops of a window; not at all when there are
 * more threads than processors. */
enum { SPINS = 3000 };

typedef struct loop {
    uint32_t number;
    int count;
    void (*piece)(void *argument, int i, int thread);
    void *argument;
} loop;

typedef struct member {
    noc_pool *pool;
    pthread_t thread;
    int index;
} member;

struct noc_pool {
    int threads, started; /* started: members, without the caller */
    int spins;
    member *members;
    pthread_mutex_t lock;
    pthread_cond_t has_work, is_done;
    loop current;          /* under the lock */
    bool must_end;         /* under the lock */
    atomic_uint announced; /* number of the current loop, what spinning threads watch */
    _Atomic uint64_t ticket;
    atomic_int ended; /* pieces of the current loop */
};

static void pause_processor(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* The next piece of that loop, -1 when there is none or another loop is going on. */
static int take_piece(noc_pool *pool, const loop *l)
{
    uint64_t ticket = atomic_load(&pool->ticket);

    do {
        if ((uint32_t)(ticket >> 32) != l->number || (uint32_t)ticket >= (uint32_t)l->count)
            return -1;
    } while (!atomic_compare_exchange_weak(&pool->ticket, &ticket, ticket + 1));
    return (int)(uint32_t)ticket;
}

static void work(noc_pool *pool, const loop *l, int thread)
{
    for (int i = take_piece(pool, l); i >= 0; i = take_piece(pool, l)) {
        l->piece(l->argument, i, thread);
        if (atomic_fetch_add(&pool->ended, 1) + 1 == l->count && thread > 0) {
            pthread_mutex_lock(&pool->lock);
            pthread_cond_signal(&pool->is_done);
            pthread_mutex_unlock(&pool->lock);
        }
    }
}

/* Waits for a loop other than `seen`; false when the pool ends. */
static bool wait_for_loop(noc_pool *pool, uint32_t seen, loop *next)
{
    for (int i = 0; i < pool->spins && atomic_load(&pool->announced) == seen; i++)
        pause_processor();
    pthread_mutex_lock(&pool->lock);
    while (pool->current.number == seen && !pool->must_end)
        pthread_cond_wait(&pool->has_work, &pool->lock);
    bool goes_on = !pool->must_end;
    *next = pool->current;
    pthread_mutex_unlock(&pool->lock);
    return goes_on;
}

static void *serve(void *argument)
{
    member *m = argument;
    loop l = {0};

    while (wait_for_loop(m->pool, l.number, &l))
        work(m->pool, &l, m->index);
    return NULL;
}

/* Signals stay with the threads that existed before. */
static bool start_members(noc_pool *pool)
{
    sigset_t all, before;
    bool is_complete = true;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int i = 1; i < pool->threads && is_complete; i++) {
        member *m = &pool->members[pool->started];
        *m = (member){.pool = pool, .index = i};
        is_complete = pthread_create(&m->thread, NULL, serve, m) == 0;
        pool->started += is_complete;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return is_complete;
}

noc_status noc_pool_create(int threads, noc_pool **pool, noc_error *err)
{
    assert(threads >= 1);
    noc_pool *made = noc_alloc_zeroed(1, sizeof *made, err);
    member *members = noc_alloc_zeroed((size_t)threads, sizeof *members, err);
    if (!made || !members) {
        free(made);
        free(members);
        return NOC_ENOMEMORY;
    }
    made->members = members;
    made->threads = threads;
    made->spins = threads <= noc_cpus_count() ? SPINS : 0;
    pthread_mutex_init(&made->lock, NULL);
    pthread_cond_init(&made->has_work, NULL);
    pthread_cond_init(&made->is_done, NULL);
    if (!start_members(made)) {
        int started = made->started;
        noc_pool_free(made);
        return noc_fail(err, NOC_ENOMEMORY, "only %d of %d threads could be started", started + 1, threads);
    }
    *pool = made;
    return NOC_OK;
}

void noc_pool_free(noc_pool *pool)
{
    if (!pool)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->must_end = true;
    pthread_cond_broadcast(&pool->has_work);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < pool->started; i++)
        pthread_join(pool->members[i].thread, NULL);
    pthread_cond_destroy(&pool->is_done);
    pthread_cond_destroy(&pool->has_work);
    pthread_mutex_destroy(&pool->lock);
    free(pool->members);
    free(pool);
}

int noc_pool_threads(const noc_pool *pool)
{
    return pool->threads;
}

static void wait_for_pieces(noc_pool *pool, int count)
{
    for (int i = 0; i < pool->spins && atomic_load(&pool->ended) < count; i++)
        pause_processor();
    if (atomic_load(&pool->ended) == count)
        return;
    pthread_mutex_lock(&pool->lock);
    while (atomic_load(&pool->ended) < count)
        pthread_cond_wait(&pool->is_done, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

void noc_pool_run(noc_pool *pool, int count, void (*piece)(void *argument, int i, int thread), void *argument)
{
    if (pool->started == 0 || count <= 1) {
        for (int i = 0; i < count; i++)
            piece(argument, i, 0);
        return;
    }

    loop l = {.count = count, .piece = piece, .argument = argument};
    pthread_mutex_lock(&pool->lock);
    l.number = pool->current.number + 1;
    pool->current = l;
    atomic_store(&pool->ended, 0);
    atomic_store(&pool->ticket, (uint64_t)l.number << 32);
    atomic_store(&pool->announced, l.number);
    pthread_cond_broadcast(&pool->has_work);
    pthread_mutex_unlock(&pool->lock);
    work(pool, &l, 0);
    wait_for_pieces(pool, count);
}
