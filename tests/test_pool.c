/* The pool: every piece once, by at most that many threads, loop after loop; and it sleeps when there is
 * nothing to do. */
#include "engine/base/clock.h"
#include "engine/base/pool.h"

#include <check.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 8, PIECES = 1000 };

static noc_pool *create(int threads)
{
    noc_pool *pool = NULL;

    ck_assert_int_eq(noc_pool_create(threads, &pool, NULL), NOC_OK);
    ck_assert_int_eq(noc_pool_threads(pool), threads);
    return pool;
}

typedef struct tally {
    atomic_int calls[PIECES];
    atomic_bool is_inside[THREADS];
    atomic_int wrong;
    int threads;
    int plain[PIECES]; /* not atomic: the sanitizer sees when a loop returns too early */
} tally;

static void count_piece(void *argument, int i, int thread)
{
    tally *t = argument;

    if (thread < 0 || thread >= t->threads || atomic_exchange(&t->is_inside[thread], true)) {
        atomic_fetch_add(&t->wrong, 1);
        return;
    }
    atomic_fetch_add(&t->calls[i], 1);
    t->plain[i]++;
    atomic_store(&t->is_inside[thread], false);
}

START_TEST(every_piece_once)
{
    const int counts[] = {0, 1, 2, 3, 7, 8, 9, 64, PIECES};
    noc_pool *pool = create(_i);
    tally *t = calloc(1, sizeof *t);

    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        memset(t, 0, sizeof *t);
        t->threads = _i;
        noc_pool_run(pool, counts[c], count_piece, t);
        ck_assert_int_eq(t->wrong, 0);
        for (int i = 0; i < PIECES; i++) {
            ck_assert_int_eq(t->calls[i], i < counts[c]);
            ck_assert_int_eq(t->plain[i], i < counts[c]);
        }
    }
    free(t);
    noc_pool_free(pool);
}
END_TEST

/* Short loops in close succession, where a thread that wakes late meets a later loop than the one that woke
 * it. */
START_TEST(loop_after_loop)
{
    enum { LOOPS = 3000 };
    noc_pool *pool = create(_i);
    tally *t = calloc(1, sizeof *t);

    t->threads = _i;
    for (int loop = 0; loop < LOOPS; loop++) {
        int count = loop % 5;
        noc_pool_run(pool, count, count_piece, t);
        if (loop % 1000 == 0)
            noc_clock_sleep(0.002);
    }
    ck_assert_int_eq(t->wrong, 0);
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(t->plain[i], LOOPS / 5 * (4 - i));
    free(t);
    noc_pool_free(pool);
}
END_TEST

static void wait_for_other(void *argument, int i, int thread)
{
    atomic_int *arrived = argument;
    double start = noc_clock_monotonic();

    (void)i;
    (void)thread;
    atomic_fetch_add(arrived, 1);
    while (atomic_load(arrived) < 2 && noc_clock_monotonic() - start < 60)
        noc_clock_sleep(0.001);
}

START_TEST(pieces_run_at_the_same_time)
{
    noc_pool *pool = create(2);
    atomic_int arrived = 0;
    double start = noc_clock_monotonic();

    noc_pool_run(pool, 2, wait_for_other, &arrived);
    ck_assert_int_eq(arrived, 2);
    ck_assert_double_lt(noc_clock_monotonic() - start, 60);
    noc_pool_free(pool);
}
END_TEST

START_TEST(idle_threads_sleep)
{
    noc_pool *pool = create(4);
    tally *t = calloc(1, sizeof *t);
    struct timespec before, after;

    t->threads = 4;
    noc_pool_run(pool, 100, count_piece, t);
    noc_clock_sleep(0.05);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    noc_clock_sleep(0.5);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    double used = (double)(after.tv_sec - before.tv_sec) + 1e-9 * (double)(after.tv_nsec - before.tv_nsec);
    ck_assert_double_lt(used, 0.02 * 0.5 + 0.005);
    free(t);
    noc_pool_free(pool);
}
END_TEST

static pthread_t own_thread;
static atomic_int strangers;

static void on_signal(int number)
{
    (void)number;
    if (!pthread_equal(pthread_self(), own_thread))
        atomic_fetch_add(&strangers, 1);
}

START_TEST(signals_stay_with_the_caller)
{
    struct sigaction action = {.sa_handler = on_signal};
    noc_pool *pool = create(4);
    sigset_t mask;

    own_thread = pthread_self();
    sigaction(SIGUSR1, &action, NULL);
    for (int i = 0; i < 50; i++)
        kill(getpid(), SIGUSR1);
    ck_assert_int_eq(strangers, 0);
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    ck_assert(!sigismember(&mask, SIGUSR1));
    noc_pool_free(pool);
}
END_TEST

/* Sanitizers need more addresses than the limit leaves. */
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define HAS_ADDRESS_LIMIT
START_TEST(threads_that_cannot_be_started)
{
    noc_pool *pool = NULL;
    noc_error err;
    struct rlimit before, small;

    getrlimit(RLIMIT_AS, &before);
    small = before;
    small.rlim_cur = (rlim_t)1 << 30;
    if (setrlimit(RLIMIT_AS, &small) != 0)
        return;
    noc_status status = noc_pool_create(2000, &pool, &err);
    setrlimit(RLIMIT_AS, &before);
    ck_assert_int_eq(status, NOC_ENOMEMORY);
    ck_assert_ptr_null(pool);
    noc_pool_free(NULL);
}
END_TEST
#endif

int main(void)
{
    Suite *suite = suite_create("pool");
    TCase *cases = tcase_create("pool");

    tcase_set_timeout(cases, 300);
    tcase_add_loop_test(cases, every_piece_once, 1, THREADS + 1);
    tcase_add_loop_test(cases, loop_after_loop, 1, THREADS + 1);
    tcase_add_test(cases, pieces_run_at_the_same_time);
    tcase_add_test(cases, idle_threads_sleep);
    tcase_add_test(cases, signals_stay_with_the_caller);
#ifdef HAS_ADDRESS_LIMIT
    tcase_add_test(cases, threads_that_cannot_be_started);
#endif
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
