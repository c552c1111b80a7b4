/* The queue: order, bounds, closing, and many threads at once. */
#include "engine/base/clock.h"
#include "engine/base/queue.h"

#include <check.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

static int items[100];

static noc_queue *create(size_t capacity)
{
    noc_queue *queue = NULL;

    ck_assert_int_eq(noc_queue_create(capacity, &queue, NULL), NOC_OK);
    return queue;
}

START_TEST(first_in_first_out)
{
    noc_queue *queue = create(3);

    for (int i = 0; i < 90; i += 3) {
        for (int j = 0; j < 3; j++)
            ck_assert(noc_queue_put(queue, &items[i + j]));
        ck_assert(!noc_queue_try_put(queue, &items[99]));
        ck_assert_uint_eq(noc_queue_size(queue), 3);
        ck_assert_ptr_eq(noc_queue_take(queue), &items[i]);
        ck_assert_ptr_eq(noc_queue_try_take(queue), &items[i + 1]);
        ck_assert_ptr_eq(noc_queue_take_within(queue, 1), &items[i + 2]);
        ck_assert_ptr_null(noc_queue_try_take(queue));
    }
    noc_queue_free(queue);
    noc_queue_free(NULL);
}
END_TEST

START_TEST(closed)
{
    noc_queue *queue = create(2);

    ck_assert(noc_queue_try_put(queue, &items[0]));
    noc_queue_close(queue);
    noc_queue_close(queue);
    ck_assert(!noc_queue_put(queue, &items[1]));
    ck_assert(!noc_queue_try_put(queue, &items[1]));
    ck_assert_ptr_eq(noc_queue_take(queue), &items[0]);
    ck_assert_ptr_null(noc_queue_take(queue));
    ck_assert_ptr_null(noc_queue_take_within(queue, 100));
    noc_queue_free(queue);
}
END_TEST

START_TEST(waiting_ends)
{
    const double waits[] = {0.05, 0, -1};
    noc_queue *queue = create(1);

    for (int i = 0; i < 3; i++) {
        double start = noc_clock_monotonic();
        ck_assert_ptr_null(noc_queue_take_within(queue, waits[i]));
        ck_assert_double_ge(noc_clock_monotonic() - start, waits[i]);
    }
    noc_queue_free(queue);
}
END_TEST

START_TEST(no_memory_for_it)
{
    noc_queue *queue = NULL;
    noc_error err;

    ck_assert_int_eq(noc_queue_create(SIZE_MAX / 4, &queue, &err), NOC_ENOMEMORY);
    ck_assert_ptr_null(queue);
}
END_TEST

static void *put_into_full(void *queue)
{
    return noc_queue_put(queue, &items[1]) ? &items[1] : NULL;
}

static void *take_from_empty(void *queue)
{
    return noc_queue_take(queue);
}

static void *take_for_long(void *queue)
{
    return noc_queue_take_within(queue, 1e300);
}

START_TEST(closing_wakes_all)
{
    noc_queue *full = create(1), *empty = create(1);
    pthread_t threads[6];
    void *result;

    noc_queue_put(full, &items[0]);
    for (int i = 0; i < 6; i++)
        pthread_create(&threads[i], NULL,
                       i < 2   ? put_into_full
                       : i < 4 ? take_from_empty
                               : take_for_long,
                       i < 2 ? full : empty);
    noc_clock_sleep(0.02);
    noc_queue_close(full);
    noc_queue_close(empty);
    for (int i = 0; i < 6; i++) {
        pthread_join(threads[i], &result);
        ck_assert_ptr_null(result);
    }
    ck_assert_uint_eq(noc_queue_size(full), 1);
    noc_queue_free(full);
    noc_queue_free(empty);
}
END_TEST

enum { PUTTERS = 3, TAKERS = 3, EACH = 2000 };

static void *put_numbers(void *queue)
{
    for (uintptr_t i = 1; i <= EACH; i++)
        if (!noc_queue_put(queue, (void *)i))
            return (void *)1;
    return NULL;
}

static void *sum_numbers(void *queue)
{
    uintptr_t sum = 0, item;

    while ((item = (uintptr_t)noc_queue_take(queue)) != 0)
        sum += item;
    return (void *)sum;
}

START_TEST(every_item_arrives_once)
{
    noc_queue *queue = create(4);
    pthread_t putters[PUTTERS], takers[TAKERS];
    uintptr_t sum = 0;
    void *result;

    for (int i = 0; i < TAKERS; i++)
        pthread_create(&takers[i], NULL, sum_numbers, queue);
    for (int i = 0; i < PUTTERS; i++)
        pthread_create(&putters[i], NULL, put_numbers, queue);
    for (int i = 0; i < PUTTERS; i++) {
        pthread_join(putters[i], &result);
        ck_assert_ptr_null(result);
    }
    noc_queue_close(queue);
    for (int i = 0; i < TAKERS; i++) {
        pthread_join(takers[i], &result);
        sum += (uintptr_t)result;
    }
    ck_assert_uint_eq(sum, (uintptr_t)PUTTERS * EACH * (EACH + 1) / 2);
    noc_queue_free(queue);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("queue");
    TCase *cases = tcase_create("queue");

    tcase_add_test(cases, first_in_first_out);
    tcase_add_test(cases, closed);
    tcase_add_test(cases, waiting_ends);
    tcase_add_test(cases, no_memory_for_it);
    tcase_add_test(cases, closing_wakes_all);
    tcase_add_test(cases, every_item_arrives_once);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
