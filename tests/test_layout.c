/* Roles of ranks, and the line between supervisor and rank 0. */
#include "engine/base/clock.h"
#include "pipeline/control.h"
#include "pipeline/layout.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

START_TEST(one_rank_does_everything)
{
    noc_layout l;
    ck_assert_int_eq(noc_layout_make(1, 0, 0, &l, NULL), NOC_OK);
    ck_assert_int_eq(l.workers, 1);
    ck_assert_int_eq(l.writers, 1);
    ck_assert(noc_layout_is_worker(&l, 0));
    ck_assert_int_eq(noc_layout_group_of(&l, 0), 0);
}
END_TEST

START_TEST(two_ranks_share_writer_and_coordinator)
{
    noc_layout l;
    ck_assert_int_eq(noc_layout_make(2, 0, 0, &l, NULL), NOC_OK);
    ck_assert_int_eq(noc_layout_group_of(&l, 0), 0);
    ck_assert_int_eq(noc_layout_group_of(&l, 1), -1);
    ck_assert(!noc_layout_is_worker(&l, 0));
    ck_assert(noc_layout_is_worker(&l, 1));
}
END_TEST

/* Every rank but 0 has exactly one role, and every writer one group. */
START_TEST(larger_layouts_cover_every_rank_once)
{
    for (int writers = 1; writers <= 9; writers++)
        for (int share = 0; share <= 5; share++)
            for (int ranks = writers + 2; ranks < writers + 6; ranks++) {
                noc_layout l;
                ck_assert_int_eq(noc_layout_make(ranks, writers, share, &l, NULL), NOC_OK);
                ck_assert_int_eq(1 + l.writers + l.workers, ranks);
                for (int rank = 1; rank < ranks; rank++)
                    ck_assert_int_eq((noc_layout_group_of(&l, rank) >= 0) + noc_layout_is_worker(&l, rank),
                                     1);
                int covered = 0, first, count;
                for (int g = 0; g < noc_layout_groups(&l); g++) {
                    noc_layout_group(&l, g, &first, &count);
                    ck_assert_int_ge(count, 1);
                    ck_assert_int_le(count, share > 0 ? share : 4);
                    for (int i = 0; i < count; i++)
                        ck_assert_int_eq(noc_layout_group_of(&l, first + i), g);
                    covered += count;
                }
                ck_assert_int_eq(covered, writers);
            }
}
END_TEST

START_TEST(too_many_writers_are_refused)
{
    noc_layout l;
    noc_error err;
    ck_assert_int_eq(noc_layout_make(3, 2, 0, &l, &err), NOC_EUSAGE);
    ck_assert_ptr_nonnull(strstr(err.text, "4 ranks"));
}
END_TEST

/* A line may take a moment to arrive. */
static const char *hear(noc_control *c)
{
    const char *line = NULL;
    for (int i = 0; i < 2000 && !line && !noc_control_is_cut(c); i++) {
        line = noc_control_hear(c);
        if (!line)
            noc_clock_sleep(0.001);
    }
    return line;
}

START_TEST(lines_cross_and_the_end_is_noticed)
{
    noc_control *supervisor, *rank;
    ck_assert_int_eq(noc_control_listen(&supervisor, NULL), NOC_OK);
    ck_assert_int_eq(noc_control_connect(noc_control_name(supervisor), &rank, NULL), NOC_OK);
    noc_control_say(rank, "progress %d of %d", 3, 4);
    noc_control_say(rank, "verdict 1 0");
    ck_assert_str_eq(hear(supervisor), "progress 3 of 4");
    ck_assert_str_eq(hear(supervisor), "verdict 1 0");
    noc_control_say(supervisor, "drain");
    ck_assert_str_eq(hear(rank), "drain");
    noc_control_close(rank);
    ck_assert_ptr_null(hear(supervisor));
    ck_assert(noc_control_is_cut(supervisor));
    noc_control_reset(supervisor); /* the next start connects anew */
    ck_assert_int_eq(noc_control_connect(noc_control_name(supervisor), &rank, NULL), NOC_OK);
    noc_control_say(rank, "progress again");
    ck_assert_str_eq(hear(supervisor), "progress again");
    noc_control_close(rank);
    noc_control_close(supervisor);
}
END_TEST

/* A supervisor that is stopped reads nothing: lines are dropped, but none in the middle. */
START_TEST(who_does_not_read_stops_nobody)
{
    enum { WIDTH = 3000, LINES = 400 };
    static char text[WIDTH + 1];
    noc_control *supervisor, *rank;
    int number, last = -1;
    memset(text, 'x', WIDTH);
    ck_assert_int_eq(noc_control_listen(&supervisor, NULL), NOC_OK);
    ck_assert_int_eq(noc_control_connect(noc_control_name(supervisor), &rank, NULL), NOC_OK);
    for (int i = 0, full = 0; i < LINES && full < 3; i++) {
        double begin = noc_clock_monotonic();
        noc_control_say(rank, "%d %s", i, text);
        full += noc_clock_monotonic() - begin > 0.1; /* it found no room */
    }
    noc_control_close(rank);
    for (const char *line; (line = hear(supervisor)); last = number) {
        ck_assert_int_eq(sscanf(line, "%d ", &number), 1);
        ck_assert_int_eq(number, last + 1);
        ck_assert_uint_ge(strlen(line), WIDTH);
    }
    ck_assert_int_ge(last, 0);
    noc_control_close(supervisor);
}
END_TEST

START_TEST(nobody_listens)
{
    noc_control *rank;
    ck_assert_int_eq(noc_control_connect("nocturne-no-such-name", &rank, NULL), NOC_EUNAVAILABLE);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("layout");
    TCase *cases = tcase_create("layout");
    tcase_add_test(cases, one_rank_does_everything);
    tcase_add_test(cases, two_ranks_share_writer_and_coordinator);
    tcase_add_test(cases, larger_layouts_cover_every_rank_once);
    tcase_add_test(cases, too_many_writers_are_refused);
    tcase_add_test(cases, lines_cross_and_the_end_is_noticed);
    tcase_add_test(cases, who_does_not_read_stops_nobody);
    tcase_add_test(cases, nobody_listens);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
