/* The scheduler by scripted events, without time or ranks, and by thousands of random event orders with the
 * invariants checked. */
#include "pipeline/schedule.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static const noc_schedule_options usual = {.attempts = 3, .lease_s = 15, .backoff_s = 1, .depth = 2};
static const noc_error fine = {.status = NOC_OK};

static noc_schedule *make(const noc_schedule_options *options, int studies)
{
    noc_schedule *s;
    ck_assert_int_eq(noc_schedule_create(options, &s, NULL), NOC_OK);
    for (int i = 1; i <= studies; i++) /* study i costs i */
        ck_assert_int_eq(noc_schedule_add_study(s, i, i, 0, false, 0, NULL), NOC_OK);
    return s;
}

static noc_decision next(noc_schedule *s, double now)
{
    noc_decision d;
    noc_schedule_next(s, now, &d);
    return d;
}

static noc_error failure_of(noc_status status)
{
    noc_error err;
    noc_fail(&err, status, "a sentence");
    return err;
}

START_TEST(longest_first_spread_over_workers)
{
    noc_schedule *s = make(&usual, 9);
    noc_schedule_add_worker(s, 1, 0, NULL);
    noc_schedule_add_worker(s, 2, 0, NULL);
    noc_decision a = next(s, 0), b = next(s, 0), c = next(s, 0), d = next(s, 0), e = next(s, 0);
    ck_assert_int_eq(a.kind, NOC_DECIDE_GRANT);
    ck_assert_int_eq(a.study, 9);
    ck_assert_int_eq(b.study, 8);
    ck_assert_int_ne(a.worker, b.worker);
    ck_assert_int_eq(c.study, 7);
    ck_assert_int_eq(c.worker, b.worker);
    ck_assert_int_eq(d.study, 6);
    ck_assert_int_eq(e.kind, NOC_DECIDE_NOTHING); /* both hold two */
    noc_schedule_free(s);
}
END_TEST

/* Whoever has a long one gets no other before the rest is spread; one worker alone gets all it can hold. */
START_TEST(nobody_waits_behind_a_long_one)
{
    noc_schedule *s = make(&usual, 2);
    noc_schedule_add_study(s, 3, 10, 0, false, 0, NULL);
    for (int w = 1; w <= 1 + _i; w++)
        noc_schedule_add_worker(s, w, 0, NULL);
    noc_decision a = next(s, 0), b = next(s, 0), c = next(s, 0);
    ck_assert_int_eq(a.study, 3);
    ck_assert_int_eq(b.study, 2);
    ck_assert_int_eq(b.worker == a.worker, _i == 0);
    ck_assert_int_eq(c.kind,
                     _i == 0 ? NOC_DECIDE_NOTHING : NOC_DECIDE_GRANT); /* of depth 2, or to the second */
    if (_i == 1)
        ck_assert_int_eq(c.worker, b.worker);
    noc_schedule_free(s);
}
END_TEST

START_TEST(a_mask_is_secured_once)
{
    int64_t study;
    noc_schedule *s = make(&usual, 1);
    noc_schedule_add_worker(s, 1, 0, NULL);
    noc_decision d = next(s, 0);
    ck_assert(noc_schedule_finish(s, d.lease, &fine, 1));
    ck_assert(noc_schedule_is_current(s, d.lease, &study));
    ck_assert_int_eq(study, 1);
    ck_assert(noc_schedule_secure(s, d.lease));
    ck_assert(!noc_schedule_secure(s, d.lease));
    ck_assert(!noc_schedule_is_current(s, d.lease, NULL));
    noc_schedule_done(s, 1);
    noc_schedule_counts counts;
    noc_schedule_counts_of(s, &counts);
    ck_assert_int_eq(counts.over, 1);
    noc_schedule_free(s);
}
END_TEST

START_TEST(what_comes_late_is_refused)
{
    noc_schedule *s = make(&usual, 1);
    noc_schedule_add_worker(s, 1, 0, NULL);
    noc_decision d = next(s, 0);
    noc_schedule_tick(s, 15.5); /* silent for longer than a lease */
    ck_assert(!noc_schedule_has_worker(s, 1));
    ck_assert(!noc_schedule_finish(s, d.lease, &fine, 16));
    ck_assert(!noc_schedule_secure(s, d.lease));
    ck_assert_int_eq(next(s, 16).kind, NOC_DECIDE_SUSPECT);
    ck_assert_int_eq(next(s, 16).kind, NOC_DECIDE_NOTHING); /* nobody is there */
    noc_schedule_add_worker(s, 1, 17, NULL);                /* it woke up */
    noc_decision again = next(s, 17);
    ck_assert_int_eq(again.kind, NOC_DECIDE_GRANT);
    ck_assert(again.lease != d.lease);
    ck_assert(again.is_alone);
    noc_schedule_free(s);
}
END_TEST

START_TEST(heartbeats_renew_a_lease)
{
    noc_schedule *s = make(&usual, 1);
    noc_schedule_add_worker(s, 1, 0, NULL);
    noc_decision d = next(s, 0);
    for (int now = 1; now < 1000; now += 10) {
        noc_schedule_heard(s, 1, now);
        noc_schedule_tick(s, now);
    }
    ck_assert(noc_schedule_finish(s, d.lease, &fine, 1000));
    noc_schedule_free(s);
}
END_TEST

START_TEST(suspects_run_alone_and_last)
{
    noc_schedule *s = make(&usual, 4);
    noc_decision held[4];
    for (int i = 0; i < 4; i++) {
        if (i % 2 == 0)
            noc_schedule_add_worker(s, 1 + i / 2, 0, NULL);
        held[i] = next(s, 0);
    }
    noc_schedule_lose_worker(s, 1);
    ck_assert_int_eq(next(s, 1).kind, NOC_DECIDE_SUSPECT);
    ck_assert_int_eq(next(s, 1).kind, NOC_DECIDE_SUSPECT);
    ck_assert_int_eq(next(s, 1).kind, NOC_DECIDE_NOTHING); /* worker 2 still holds two */
    for (int i = 0; i < 4; i++)
        if (held[i].worker == 2)
            ck_assert(noc_schedule_secure(s, held[i].lease));
    noc_decision alone = next(s, 2);
    ck_assert_int_eq(alone.kind, NOC_DECIDE_GRANT);
    ck_assert(alone.is_alone);
    ck_assert_int_eq(next(s, 2).kind, NOC_DECIDE_NOTHING); /* nothing beside it */
    noc_schedule_free(s);
}
END_TEST

START_TEST(two_deaths_alone_are_a_quarantine)
{
    noc_schedule *s = make(&usual, 1);
    for (int death = 0; death < 3; death++) {
        noc_schedule_add_worker(s, 1, 0, NULL);
        noc_decision d = next(s, 0);
        ck_assert_int_eq(d.kind, NOC_DECIDE_GRANT);
        ck_assert_int_eq(d.is_alone, death > 0);
        noc_schedule_lose_worker(s, 1);
        d = next(s, 0);
        ck_assert_int_eq(d.kind, death < 2 ? NOC_DECIDE_SUSPECT : NOC_DECIDE_QUARANTINE);
        if (death == 2)
            ck_assert_int_eq(d.failure.status, NOC_ECRASH);
    }
    noc_schedule_free(s);
}
END_TEST

START_TEST(only_machine_faults_are_tried_again)
{
    noc_schedule *s = make(&usual, 2);
    noc_schedule_add_worker(s, 1, 0, NULL);
    noc_decision a = next(s, 0), b = next(s, 0);
    noc_error bad = failure_of(NOC_EGEOMETRY), device = failure_of(NOC_ETIMEOUT);
    ck_assert(noc_schedule_finish(s, a.lease, &bad, 0));
    ck_assert_int_eq(next(s, 0).kind, NOC_DECIDE_FAIL);
    double now = 0;
    for (int attempt = 1; attempt <= 3; attempt++) {
        ck_assert(noc_schedule_finish(s, b.lease, &device, now));
        noc_decision d = next(s, now);
        ck_assert_int_eq(d.kind, attempt < 3 ? NOC_DECIDE_PUT_BACK : NOC_DECIDE_FAIL);
        if (attempt == 3)
            break;
        ck_assert(d.is_charged);
        ck_assert_int_eq(next(s, now).kind, NOC_DECIDE_NOTHING); /* backs off */
        now += 1 << (attempt - 1);
        b = next(s, now);
        ck_assert_int_eq(b.kind, NOC_DECIDE_GRANT);
    }
    noc_schedule_free(s);
}
END_TEST

START_TEST(a_retired_worker_charges_nobody)
{
    noc_schedule *s = make(&usual, 1);
    noc_schedule_add_worker(s, 1, 0, NULL);
    next(s, 0);
    noc_schedule_retire_worker(s, 1);
    noc_decision d = next(s, 0);
    ck_assert_int_eq(d.kind, NOC_DECIDE_PUT_BACK);
    ck_assert(!d.is_charged);
    noc_schedule_add_worker(s, 2, 0, NULL);
    d = next(s, 0);
    ck_assert_int_eq(d.kind, NOC_DECIDE_GRANT);
    ck_assert(!d.is_alone);
    noc_schedule_free(s);
}
END_TEST

START_TEST(the_brake_stops_a_night_that_only_fails)
{
    noc_schedule *s = make(&usual, 200);
    noc_error bad = failure_of(NOC_EUNREADABLE);
    int ended = 0;
    bool has_braked = false;
    noc_schedule_add_worker(s, 1, 0, NULL);
    for (noc_decision d = next(s, 0); d.kind != NOC_DECIDE_NOTHING; d = next(s, 0)) {
        if (d.kind == NOC_DECIDE_GRANT)
            ended += noc_schedule_finish(s, d.lease, &bad, 0);
        if (d.kind == NOC_DECIDE_BRAKE) {
            has_braked = true;
            ck_assert_int_eq(d.failure.status, NOC_EUNAVAILABLE);
        }
    }
    ck_assert(has_braked);
    ck_assert_int_eq(ended, NOC_BRAKE_WINDOW);
    noc_schedule_free(s);
}
END_TEST

START_TEST(bad_scans_do_not_brake)
{
    noc_schedule *s = make(&usual, 200);
    noc_error bad = failure_of(NOC_EGEOMETRY);
    int ended = 0;
    noc_schedule_add_worker(s, 1, 0, NULL);
    for (noc_decision d = next(s, 0); d.kind != NOC_DECIDE_NOTHING; d = next(s, 0)) {
        ck_assert_int_ne(d.kind, NOC_DECIDE_BRAKE);
        if (d.kind == NOC_DECIDE_GRANT)
            ended += noc_schedule_finish(s, d.lease, &bad, 0);
    }
    ck_assert_int_eq(ended, 200);
    noc_schedule_free(s);
}
END_TEST

START_TEST(drain_grants_nothing_more)
{
    noc_schedule *s = make(&usual, 3);
    noc_schedule_add_worker(s, 1, 0, NULL);
    noc_decision d = next(s, 0);
    noc_schedule_drain(s);
    ck_assert_int_eq(next(s, 0).kind, NOC_DECIDE_NOTHING);
    noc_schedule_return(s, d.lease);
    d = next(s, 0);
    ck_assert_int_eq(d.kind, NOC_DECIDE_PUT_BACK);
    ck_assert(!d.is_charged);
    ck_assert_int_eq(next(s, 0).kind, NOC_DECIDE_NOTHING);
    noc_schedule_free(s);
}
END_TEST

/* ---- random orders ---- */

enum { STUDIES = 12, WORKERS = 3 };

typedef struct world {
    noc_schedule *s;
    unsigned seed;
    uint64_t lease[STUDIES + 1]; /* current, 0: none */
    int holder[STUDIES + 1];
    bool is_alone[STUDIES + 1], is_secured[STUDIES + 1], is_over[STUDIES + 1];
    bool is_alive[WORKERS];
    double now;
} world;

static int dice(world *w, int sides)
{
    w->seed = w->seed * 1664525u + 1013904223u;
    return (int)((w->seed >> 16) % (unsigned)sides);
}

static int held_by(const world *w, int worker)
{
    int held = 0;
    for (int i = 1; i <= STUDIES; i++)
        held += w->lease[i] != 0 && w->holder[i] == worker;
    return held;
}

static void obey(world *w)
{
    for (noc_decision d = next(w->s, w->now); d.kind != NOC_DECIDE_NOTHING; d = next(w->s, w->now)) {
        int64_t i = d.study;
        if (d.kind == NOC_DECIDE_BRAKE)
            continue;
        ck_assert(!w->is_over[i]);
        if (d.kind == NOC_DECIDE_GRANT) {
            ck_assert_msg(w->lease[i] == 0 && !w->is_secured[i], "study %d is granted twice", (int)i);
            ck_assert(w->is_alive[d.worker]);
            ck_assert_int_lt(held_by(w, d.worker), usual.depth);
            if (d.is_alone)
                ck_assert_int_eq(held_by(w, d.worker), 0);
            for (int k = 1; k <= STUDIES; k++)
                ck_assert(!(w->lease[k] && w->holder[k] == d.worker && w->is_alone[k]));
            w->lease[i] = d.lease;
            w->holder[i] = d.worker;
            w->is_alone[i] = d.is_alone;
        } else {
            w->lease[i] = 0;
            w->is_secured[i] = false;
            w->is_over[i] = d.kind == NOC_DECIDE_FAIL || d.kind == NOC_DECIDE_QUARANTINE;
        }
    }
}

static void kill_worker(world *w, int worker)
{
    noc_schedule_lose_worker(w->s, worker);
    w->is_alive[worker] = false;
}

static void random_event(world *w)
{
    int i = 1 + dice(w, STUDIES), worker = dice(w, WORKERS);
    noc_error failure = failure_of(dice(w, 2) ? NOC_ETIMEOUT : NOC_EGEOMETRY);
    w->now += dice(w, 3);
    for (int k = 0; k < WORKERS; k++)
        noc_schedule_heard(w->s, k, w->now);
    switch (dice(w, 8)) {
    case 0:
        kill_worker(w, worker);
        break;
    case 1:
        noc_schedule_add_worker(w->s, worker, w->now, NULL);
        w->is_alive[worker] = true;
        break;
    case 2:
        if (w->lease[i])
            ck_assert(noc_schedule_finish(w->s, w->lease[i], &failure, w->now));
        break;
    case 3:
        ck_assert(!noc_schedule_finish(w->s, 1000000 + (uint64_t)i, &fine, w->now));
        break;
    case 4:
        if (w->is_secured[i])
            noc_schedule_lose_mask(w->s, i);
        break;
    case 5:
        if (w->is_secured[i]) {
            noc_schedule_done(w->s, i);
            w->is_secured[i] = false;
            w->is_over[i] = true;
        }
        break;
    default:
        if (w->lease[i]) {
            ck_assert(noc_schedule_finish(w->s, w->lease[i], &fine, w->now));
            ck_assert(noc_schedule_secure(w->s, w->lease[i]));
            w->lease[i] = 0;
            w->is_secured[i] = true;
        }
    }
    obey(w);
}

/* Whatever happened, once nothing dies any more every study ends. */
static void finish_world(world *w)
{
    noc_schedule_counts counts;
    for (int round = 0; round < 1000; round++) {
        w->now += 100;
        for (int k = 0; k < WORKERS; k++) {
            noc_schedule_add_worker(w->s, k, w->now, NULL);
            w->is_alive[k] = true;
        }
        obey(w);
        for (int i = 1; i <= STUDIES; i++) {
            if (w->lease[i]) {
                ck_assert(noc_schedule_secure(w->s, w->lease[i]));
                w->lease[i] = 0;
                w->is_secured[i] = true;
            }
            if (w->is_secured[i]) {
                noc_schedule_done(w->s, i);
                w->is_secured[i] = false;
                w->is_over[i] = true;
            }
        }
        noc_schedule_counts_of(w->s, &counts);
        if (counts.over == STUDIES)
            return;
    }
    ck_abort_msg("seed %u: %d studies never end", w->seed, (int)(STUDIES - counts.over));
}

START_TEST(random_orders_keep_the_invariants)
{
    for (unsigned seed = 1; seed <= 3000; seed++) {
        world w = {.seed = seed};
        w.s = make(&usual, STUDIES);
        for (int event = 0; event < 120; event++)
            random_event(&w);
        finish_world(&w);
        noc_schedule_free(w.s);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("schedule");
    TCase *cases = tcase_create("schedule");
    tcase_set_timeout(cases, 120);
    tcase_add_test(cases, longest_first_spread_over_workers);
    tcase_add_loop_test(cases, nobody_waits_behind_a_long_one, 0, 2);
    tcase_add_test(cases, a_mask_is_secured_once);
    tcase_add_test(cases, what_comes_late_is_refused);
    tcase_add_test(cases, heartbeats_renew_a_lease);
    tcase_add_test(cases, suspects_run_alone_and_last);
    tcase_add_test(cases, two_deaths_alone_are_a_quarantine);
    tcase_add_test(cases, only_machine_faults_are_tried_again);
    tcase_add_test(cases, a_retired_worker_charges_nobody);
    tcase_add_test(cases, the_brake_stops_a_night_that_only_fails);
    tcase_add_test(cases, bad_scans_do_not_brake);
    tcase_add_test(cases, drain_grants_nothing_more);
    tcase_add_test(cases, random_orders_keep_the_invariants);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
